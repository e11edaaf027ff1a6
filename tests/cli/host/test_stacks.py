"""`peerfabric stacks`: the program's own threads first, and calls in libraries counted."""

from __future__ import annotations

import sysconfig

from peerfabric import nodes
from peerfabric.nodes.cli.host import stacks
from tests.cli.processes import Processes, heard, node, run

LIBRARY = f"{sysconfig.get_path('stdlib')}/threading.py:331 Condition.wait: waiter.acquire()"
OURS = f"{nodes.__path__[0]}/io/pump.py:228 Pump._run: self._sockets.wait(timeout)"
PROGRAM = "/srv/shop/nodes/kitchen.py:9 cook: bake()"
OTHER = "/srv/shop/.venv/lib/python3.11/site-packages/requests/api.py:3 get"


def test_what_is_of_the_program() -> None:
    """Neither Python, nor this package, nor another that is installed."""
    assert [stacks.is_of_program(line) for line in (LIBRARY, OURS, OTHER, "<frozen runpy>:88 _run", PROGRAM)] == [
        *4 * [False],
        True,
    ]


def test_calls_in_libraries_are_folded() -> None:
    """Not the innermost one, which says what it is at."""
    assert stacks.folded([LIBRARY, OURS, PROGRAM, LIBRARY, OTHER]) == [
        "… 2 calls in libraries",
        PROGRAM,
        "… 1 call in libraries",
        OTHER,
    ]


def test_threads_of_the_program_come_first(processes: Processes) -> None:
    """With --whole and in JSON nothing is folded."""
    processes.looks = [[heard(7, node("a"))]]
    threads = [{"name": "pump", "lines": [LIBRARY, OURS]}, {"name": "cook", "lines": [OURS, LIBRARY, PROGRAM]}]
    processes.does = {"stacks": lambda process: {"stacks": threads}}
    _, out, _ = run("stacks", "7")
    assert [line.strip() for line in out.splitlines()] == [
        *("thread cook", "… 2 calls in libraries", PROGRAM),
        *("thread pump", "… 1 call in libraries", OURS),
    ]
    assert LIBRARY in run("stacks", "7", "--whole")[1]
    assert LIBRARY.split(maxsplit=1)[0] in run("stacks", "7", "-o", "json")[1]
