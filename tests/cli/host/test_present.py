"""Processes as the system shows them: their programs, their nodes, and those that are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.table import Table

from peerfabric import Node
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.present import _of_python, nodes_of, pids, program, shown
from peerfabric.nodes.cli.output import print_made
from peerfabric.nodes.cli.peers import _laid_out, _table, seen
from peerfabric.reports import PeerView
from tests.cli.conftest import DEADLINE
from tests.cli.processes import Processes, heard, run, taking
from tests.cli.processes import node as made

PROGRAM = """
import sys
from peerfabric import Node
node = Node("oven")
node.consumer("orders", dict)
node.peers()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["app.py", "--password", "x"], "app.py"),
        (["-u", "-X", "dev", "/srv/shop/app.py"], "app.py"),
        (["-m", "shop.worker", "-v"], "shop.worker"),
        (["-Im", "shop"], "shop"),
        (["-c", "password = 1"], "python -c"),
        ([], ""),
    ],
)
def test_the_script_or_module_is_named(words: list[str], name: str) -> None:
    """Never what is given to it, which may be secret."""
    assert _of_python(words) == name


def test_a_silent_process_has_a_name(fabric: Path, tmp_path: Path, processes: Processes) -> None:
    """Its node's and its script's, of open files; and no command waits for one that is stopped."""
    script = tmp_path / "bakery.py"
    script.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            ends_at = time.monotonic() + DEADLINE
            while not (nodes_of(process.pid) and pids()):
                assert time.monotonic() < ends_at, "it is announced, and has a socket, soon"
                time.sleep(0.01)
            [there] = nodes_of(process.pid)
            assert (there.name, there.fabric, pids()[there.node_id]) == ("oven", "cli", process.pid)
            assert str(shown(process.pid)) == "oven in bakery.py"
            os.kill(process.pid, signal.SIGSTOP)
            while not door.is_stopped(process.pid):
                pass
            peer = PeerView(node_id=there.node_id, name="oven", state="connecting")
            [found] = seen([peer])
            assert (found.pid, found.reason) == (process.pid, "stopped")
            silent = door.Heard(pid=process.pid, started=1, status=None, name=str(shown(process.pid)))
            processes.looks = [[silent, heard(7, made("k", takes=(taking(),)))]]
            processes.does = {"pause": lambda process, **_: {"nodes": []}}
            code, _, err = run("pause", "ordres")
            assert code == 3
            assert f"(oven in bakery.py): no answer: it is stopped; `kill -CONT {process.pid}`" in err
            assert "consumes 'ordres' (did you mean 'orders'?); a process that did not answer may" in err
            assert processes.asked == [], "it would pause whenever it goes on"
            assert f"`kill -CONT {process.pid}`" in run("stacks", str(process.pid))[2]
        finally:
            process.kill()
    assert program(process.pid) == ""


def test_silent_ones_are_given_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever did not answer the look is not waited for once more for as long as an act may take."""
    given: dict[int, float] = {}

    def ask(process: door.Heard, do: str, *, timeout: float, **_: object) -> dict[str, object]:
        given[process.pid] = timeout
        return {}

    monkeypatch.setattr(door, "ask", ask)
    silent = door.Heard(pid=2**22 + 1, started=1, status=None)
    door.ask_all([silent, heard(2**22 + 2, made("a"))], "pause")
    assert given == {2**22 + 1: 1.0, 2**22 + 2: 10.0}


def test_nodes_of_one_name_are_told_apart(node: Node) -> None:
    """By their processes, and where there are none by their ids; no name is split where a terminal is narrow."""
    names = tuple(f"queue-with-a-long-name.{n}" for n in range(5))
    views = [PeerView(node_id=c * 32, name="worker", state="up", consumes=names, endpoint="ipc:x") for c in "ab"]
    assert all(name in " ".join(_rows(_table(seen(views)))) for name in ("worker aaaaaaaa", "worker bbbbbbbb"))
    lines = _laid_out(seen(views), 80)
    assert isinstance(lines, list)
    assert max(map(len, lines)) <= 80
    assert all(name in "\n".join(lines).split() for name in names)
    assert isinstance(_laid_out(seen(views), 300), Table)


def _rows(table: Table) -> list[str]:
    return [str(cell) for column in table.columns for cell in column.cells]


def test_a_pipe_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    """However long: nothing is folded where nobody looks at a terminal."""
    names = tuple(f"queue-with-a-long-name.{n}" for n in range(20))
    print_made("", _table(seen([PeerView(node_id="a" * 32, name="worker", state="up", consumes=names)])))
    _, line = capsys.readouterr().out.splitlines()
    assert set(names) <= set(line.split())
