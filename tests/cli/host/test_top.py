"""`peerfabric top`: its screen, its keys, and its looks, which nobody who is silent delays."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from rich.console import Console

from peerfabric.nodes.cli.common import Settings
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.door import Heard, stopped
from peerfabric.nodes.cli.host.look import Look, Looking
from peerfabric.nodes.cli.host.screen import ORDERS, Seen, View, chosen_queues, screen
from peerfabric.nodes.cli.host.top import Watch, pressed
from peerfabric.nodes.cli.output import Form
from peerfabric.status import InHand, Warned
from tests.cli.conftest import DEADLINE
from tests.cli.processes import Processes, heard, node, run, sending, silent, taking


def drawn(seen: Seen, view: View, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(screen(seen, view, width, height))
    return capture.get().splitlines()


def look(*processes: Heard) -> Seen:
    return Seen(Look(None, processes), None, ())


def many(nodes: int, queues: int) -> Seen:
    """Nodes that send to queues of their own, each with more that waits, and with something in hand."""
    hand = InHand(id="x", age=5.0, handler="cook_with_a_very_long_name", line="/srv/app/with/a/long/path/kitchen.py:31")
    return look(
        silent(1),
        *(
            heard(
                7 + n,
                node(
                    f"node-with-a-long-name-{n}",
                    sends=tuple(sending(f"queue-with-a-long-name-{n}-{q}", waiting=q) for q in range(queues)),
                    takes=(taking("orders", hand),),
                    warnings=(Warned(code="old", text="the oldest waits, and so on and so on; " * 3, since=n),),
                ),
            )
            for n in range(nodes)
        ),
    )


@pytest.mark.parametrize("height", [16, 24, 60])
@pytest.mark.parametrize("width", [80, 132])
@pytest.mark.parametrize(("nodes", "queues"), [(0, 0), (1, 1), (1, 100), (30, 1), (50, 20)])
def test_it_fits(nodes: int, queues: int, width: int, height: int) -> None:
    """Whatever there is to be shown; what is left out is counted."""
    seen = many(nodes, queues)
    lines = drawn(seen, View(), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any("process 1 (worker): no answer" in line for line in lines)
    if nodes > 20:
        assert any("more nodes" in line for line in lines)
    if queues > 50:
        assert any("more queues" in line for line in lines)


def test_what_is_wrong_comes_first() -> None:
    """Silent processes, then warnings, before queues; then what is in hand, and where, and the nodes."""
    text = "\n".join(drawn(many(1, 2), View(), 132))
    places = [
        text.index(part) for part in ("process 1", "the oldest waits", "queue-with", "kitchen.py:31", "node      ")
    ]
    assert places == sorted(places)


def test_queues_are_sorted_and_filtered() -> None:
    """By what waits, by age, by name; by a part of a name."""
    sends = sending("a", waiting=1, oldest=9.0), sending("b", waiting=5, oldest=1.0), sending("c")
    seen = look(heard(7, node("n", sends=sends)))
    names = {order.name: number for number, order in enumerate(ORDERS)}
    for order, expected in (("waiting", "bac"), ("oldest", "abc"), ("name", "abc")):
        assert "".join(row.queue for row in chosen_queues(seen, View(order=names[order]))) == expected
    assert [row.queue for row in chosen_queues(seen, View(filter="b"))] == ["b"]


def test_keys() -> None:
    """Each changes the view; while a filter is typed they are letters of it."""
    view = View()
    assert not pressed(view, "s")
    assert view.order == 1
    assert not pressed(view, "SS")
    assert view.order == len(ORDERS) - 1
    assert not pressed(view, "/qs\x7fx\r")
    assert (view.filter, view.typing) == ("qx", False)
    assert not pressed(view, "\x1b[A")
    assert view.filter == "qx"
    assert not pressed(view, "f")
    assert (view.filter, view.typing) == ("", True)
    assert not pressed(view, "ab")
    assert not pressed(view, "\x1b")
    assert (view.filter, view.typing) == ("", False)
    assert pressed(view, "xq")


def test_one_look_without_a_terminal(processes: Processes) -> None:
    """Tables, or one JSON object with all there is."""
    hand = InHand(id="x", age=5.0, handler="cook", line="kitchen.py:31", attempt=2)
    warned = Warned(code="old", text="the oldest waits", queue="orders", since=3.0)
    processes.looks = [
        [heard(7, node("k", takes=(taking("orders", hand),), sends=(sending("jobs"),), warnings=(warned,))), silent(8)]
    ]
    code, out, err = run("top", "--interval", "0")
    assert code == 0
    assert "5.0 s  orders at k: cook kitchen.py:31, attempt 2" in out
    assert "k: the oldest waits" in err
    assert "process 8 (worker)" in err
    code, out, _ = run("top", "--interval", "0", "-o", "json")
    found = msgspec.json.decode(out)
    assert [row["queue"] for row in found["queues"]] == ["jobs", "orders"]
    assert (found["silent"], found["running"][0]["message"]["id"]) == ([{"pid": 8, "problem": silent(8).problem}], "x")
    assert found["warnings"][0]["warning"]["code"] == "old"
    assert run("top", "--interval", "0", "--fabric", "other")[0] == 3


# Looks that go on


class Paced:
    """Processes of which one answers nothing for as long as a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let_go = threading.Event()
        self.accepted = 0
        self.is_there = True
        monkeypatch.setattr(door, "answers", self.answers)

    def answers(self, timeout: float = 1.0, *, queues: int = 500, folder: str | None = None) -> Iterator[Heard]:
        self.accepted += 10
        at = self.accepted / 10
        yield heard(7, node("a", sends=(sending(accepted=self.accepted, waiting=self.accepted),)), at=at)
        if self.is_there:
            yield heard(9, node("c"), at=at)
        self.let_go.wait(DEADLINE)
        yield silent(8)


def until(watch: Watch, seen: Any) -> Seen:
    """What the watch sees as soon as `seen` says so."""
    give_up = time.monotonic() + DEADLINE
    while time.monotonic() < give_up:
        watch.tick()
        found = watch.seen()
        if seen(found):
            return found
        time.sleep(0.005)
    raise AssertionError("not seen in time")


def watch(interval: float = 0.1) -> Watch:
    return Watch(Looking(Settings(fabric="cli", peers=(), name=None, output=Form.TABLE)), interval)


def waiting(seen: Seen) -> int:
    return sum(row.waiting for row in chosen_queues(seen, View()))


def test_nobody_waits_for_a_silent_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are shown as they answer, again and again, while one says nothing; then that is told."""
    paced = Paced(monkeypatch)
    looks = watch()
    found = until(looks, lambda seen: waiting(seen) >= 30)
    assert not paced.let_go.is_set()
    assert found.look.silent == []
    [row] = chosen_queues(found, View())
    assert row.in_rate == 10.0
    paced.let_go.set()
    found = until(looks, lambda seen: seen.look.silent)
    assert [each.pid for each in found.look.silent] == [8]
    assert len(found.look.places) == 2


def test_a_process_that_has_ended_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a look without it is over."""
    paced = Paced(monkeypatch)
    paced.let_go.set()
    looks = watch()
    until(looks, lambda seen: len(seen.look.places) == 2)
    paced.is_there = False
    until(looks, lambda seen: len(seen.look.places) == 1)


def test_a_stopped_process_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says it before a look is over, and after its answer came."""
    paced = Paced(monkeypatch)
    looks = watch(interval=3600.0)
    until(looks, lambda seen: len(seen.look.places) == 2)
    monkeypatch.setattr(door, "is_stopped", lambda pid: pid == 9)
    found = looks.seen()
    assert [(each.pid, each.problem, each.name) for each in found.look.silent] == [(9, stopped(9), "c")]
    paced.let_go.set()


def test_a_runtime_folder_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said on the screen, and what was seen before stays."""

    def refuses(*_: object, **__: object) -> None:
        raise OSError("no such folder")

    monkeypatch.setattr(door, "answers", refuses)
    found = until(watch(), lambda seen: seen.warnings)
    assert any("no such folder" in line for line in drawn(found, View()))


# In a terminal

FAKE = """
import sys
from peerfabric.nodes.cli.host import door
from tests.cli.processes import heard, node, sending
door.answers = lambda *_, **__: iter([heard(7, node("a", sends=(sending("orders", waiting=3),)))])
from peerfabric.nodes.cli.main import main
sys.argv = ["peerfabric", "top"]
main()
"""


class Terminal:
    """The command in a terminal of 80 by 24."""

    def __init__(self) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environ["TERM"] = "xterm"
        self.process = subprocess.Popen(
            [sys.executable, "-c", FAKE],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            start_new_session=True,
        )
        os.close(theirs)
        self.ours, self.text = ours, ""

    def until(self, text: str) -> None:
        give_up = time.monotonic() + DEADLINE
        while text not in self.text and time.monotonic() < give_up:
            if select.select([self.ours], [], [], 0.1)[0]:
                self.text += os.read(self.ours, 65536).decode(errors="replace")
        assert text in self.text

    def press(self, keys: str) -> None:
        self.text = ""
        os.write(self.ours, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def test_in_a_terminal() -> None:
    """It draws, follows keys, leaves with q, and the terminal is as it was."""
    terminal = Terminal()
    try:
        terminal.until("orders")
        terminal.press("s")
        terminal.until("by oldest")
        terminal.press("/xyz\r")
        terminal.until("only 'xyz'")
        terminal.press("q")
        terminal.until("\x1b[?1049l")  # the screen of before
        assert terminal.process.wait(DEADLINE) == 0
    finally:
        terminal.close()


def test_nobody_is_there() -> None:
    """The screen says so, and what can be done."""
    assert "no node of this user answers on this host" in " ".join(drawn(look(), View()))
