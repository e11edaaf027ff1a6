"""`peerfabric tap`, `trace` and `stacks`, of processes that a test makes up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peerfabric.nodes.cli.host import door
from tests.cli.processes import Processes, heard, node, run, sending, silent
from tests.cli.spools import opened, put, store_dead_letters

COPY = {"kind": "queue", "name": "orders", "id": "a:1:orders/1", "sent_at": 1.0, "headers": None, "body": {"n": 1}}
TEA = b"\xa3tea"


def test_copies_of_all_processes(processes: Processes) -> None:
    """Each once, with its process; what was skipped is said beside them."""
    processes.looks = [[heard(7, node("a")), heard(8, node("b")), silent(9)]]
    processes.streams = {
        7: [COPY, {"kind": "skipped", "name": "orders", "skipped": 3}],
        8: [{**COPY, "body": "\x1b[2J"}],
    }
    code, out, err = run("tap", "orders", "-n", "2", "-o", "json", "--timeout", "30")
    assert code == 0
    assert sorted((line["pid"], line["name"]) for line in map(json.loads, out.splitlines())) == [
        (7, "orders"),
        (8, "orders"),
    ]
    code, out, err = run("tap", "orders", "--timeout", "0.3")
    assert (code, "\x1b" in out) == (0, False)
    assert sorted(out.splitlines()) == ['orders  "\\u001b[2J"', 'orders  {"n":1}']
    assert "3 copies of orders skipped by process 7" in err
    assert all(asked[1:] == ("tap", {"name": "orders", "fabric": "cli"}) for asked in processes.asked)


def test_a_process_that_starts_later_is_tapped(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at a queue need not start again."""
    monkeypatch.setattr("peerfabric.nodes.cli.host.tap.LOOK_EVERY", 0.05)
    processes.looks = [[heard(7, node("a"))], [heard(7, node("a")), heard(8, node("b"))]]
    processes.streams = {8: [COPY]}
    assert run("tap", "orders", "-n", "1", "--timeout", "30") == (0, 'orders  {"n":1}\n', "")


def test_nothing_comes(processes: Processes) -> None:
    """3 if nobody is there, and if nothing came in time."""
    assert run("tap", "orders")[0] == 3
    processes.looks = [[heard(7, node("a"))]]
    code, _, err = run("tap", "orders", "--timeout", "0")
    assert (code, "0 copies came" in err) == (3, True)


def test_trace_asks_all_and_looks_at_disks(processes: Processes, tmp_path: Path) -> None:
    """Whoever knows the message is a line; so is the slot of its node, if nobody has that."""
    folder = tmp_path / "spool"
    spool = opened(folder)
    put(spool, "q", 1, [TEA, TEA])
    store_dead_letters(spool, "q", [3], TEA)
    spool.queue("q", unix_ms=1).settle(spool.epoch, 1, 2)
    spool.queue("q", unix_ms=1).write_cursor()
    epoch = spool.epoch
    spool.close()
    processes.looks = [[heard(7, node("k", sends=(sending(),)))]]
    known = {
        "node": "k",
        "fabric": "cli",
        "side": "consumer",
        "state": "running",
        "age": 3.25,
        "sent_at": 0,
        "error": "it is hot",
    }
    processes.does = {"trace": lambda process, id, **_: {"found": [known] if id.endswith("/2") else []}}

    def trace(sequence: int, *options: str) -> tuple[int, str, str]:
        return run("trace", f"desk:{epoch}:q/{sequence}", str(folder), *options)

    code, out, err = trace(2)
    assert (code, err) == (0, "")
    running, disk = out.splitlines()
    assert running == "consumer k (7): running  age=3.2  sent_at=1970-01-01 00:00:00  error='it is hot'"
    assert disk.startswith("disk ")
    assert disk.endswith(f"slot 0 of {folder}: waiting: whoever has the slot next sends it")
    states = [json.loads(trace(n, "-o", "json")[1])["state"] for n in (1, 3, 4)]
    assert run("trace", f"other:{epoch}:q/1", str(folder))[0] == 3
    assert states == ["settled", "a dead letter", "not there: settled long ago, or never stored"]


def test_a_message_that_nobody_knows(processes: Processes) -> None:
    """3; and 2 for what is no id."""
    processes.looks = [[heard(7, node("k"))]]
    processes.does = {"trace": lambda process, **_: {"found": []}}
    code, _, err = run("trace", "a:1:orders/1")
    assert (code, "nobody who answers" in err) == (3, True)
    assert run("trace", "orders")[0] == 2


def test_stacks(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thread by thread; of a process that is not there, or stopped, what to do."""
    stack: dict[str, Any] = {
        "name": "MainThread",
        "native": 7,
        "kind": "thread",
        "lines": ["app.py:3 main: wait()\x1b[2J"],
    }
    processes.looks = [[heard(7, node("k")), silent(8)]]
    processes.does = {"stacks": lambda process: {"stacks": [stack]}}
    assert run("stacks", "7") == (0, "thread MainThread (7)\n    app.py:3 main: wait()\\x1b[2J\n", "")
    assert json.loads(run("stacks", "7", "-o", "json")[1]) == stack
    code, _, err = run("stacks", "9")
    assert (code, "process 9 has no admin socket here" in err) == (3, True)
    monkeypatch.setattr(door, "is_stopped", lambda pid: True)
    code, _, err = run("stacks", "8")
    assert (code, "kill -CONT 8" in err) == (1, True)
