"""`peerfabric top`: queues and nodes, as they are now and now."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.live import Live

from peerfabric.errors import FabricError
from peerfabric.nodes.cli.daemons import beside
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.door import Heard
from peerfabric.nodes.cli.host.look import Look, Looking, looks_around
from peerfabric.nodes.cli.host.queues import COLUMNS, interval_option, queue_cells, two_looks
from peerfabric.nodes.cli.host.rows import hand_rows
from peerfabric.nodes.cli.host.screen import (
    HANDS_AFTER,
    NODE_COLUMNS,
    ORDERS,
    Seen,
    View,
    chosen_nodes,
    chosen_queues,
    hand_line,
    node_cells,
    screen,
)
from peerfabric.nodes.cli.offline import warn
from peerfabric.nodes.cli.output import Form, number_table, print_line, print_made, printable, to_json
from peerfabric.nodes.io.waiting import clock
from peerfabric.status import Status

LOOKS_MAX: Final = 3
"""Looks that may wait for silent processes at a time."""
LAN_EVERY: Final = 2.0
"""Seconds between two looks at other hosts."""
TICK: Final = 0.1
"""Seconds until the terminal's size, and what the system says of processes, are looked at again."""

Key = tuple[int, int]
"""Pid and start of a process."""


class Watch:
    """Looks that go on and on, in threads: each process is shown as it answers, whatever the others do.

    Args:
        interval: Seconds between two looks.
    """

    def __init__(self, looking: Looking, interval: float) -> None:
        self.version = 0
        """Grows with each answer."""
        self._looking, self._interval = looking, max(interval, 0.1)
        self._guard = threading.Lock()
        self._latest: dict[Key, Heard] = {}
        self._before: dict[Key, Heard] = {}
        self._others: list[tuple[Status, float]] = []
        self._others_before: list[tuple[Status, float]] = []
        self._next = self._next_others = 0.0
        self._running = 0
        self._asks_others = False
        self._number = 0
        self._seen_in: dict[Key, int] = {}
        self._problem = ""

    def tick(self) -> None:
        """Start what is due."""
        now = clock()
        with self._guard:
            starts = now >= self._next and self._running < LOOKS_MAX
            if starts:
                self._next, self._running, self._number = now + self._interval, self._running + 1, self._number + 1
            asks = self._looking.lan and now >= self._next_others and not self._asks_others
            if asks:
                self._next_others, self._asks_others = now + LAN_EVERY, True
            number = self._number
        if starts:
            beside(lambda: self._look(number))
        if asks:
            beside(self._look_around)

    def _look(self, number: int) -> None:
        problem = ""
        try:
            for heard in door.answers():
                self._note(heard, number)
        except (FabricError, OSError) as error:
            problem = str(error)
        with self._guard:
            self._running -= 1
            self._problem = problem
            if not problem:
                # Whom this look has not met is gone, unless a later one has met it.
                for key in [key for key, seen in self._seen_in.items() if seen < number]:
                    for kept in (self._latest, self._before, self._seen_in):
                        kept.pop(key, None)
            self.version += 1

    def _note(self, heard: Heard, number: int) -> None:
        key = (heard.pid, heard.started)
        with self._guard:
            latest = self._latest.get(key)
            if heard.status is None and latest is not None and self._seen_in.get(key, 0) > number:
                return  # silent in a look that began before the one that it has answered
            if heard.status is None and latest is not None:
                heard = msgspec.structs.replace(heard, name=latest.name)
            self._seen_in[key] = max(number, self._seen_in.get(key, 0))
            if latest is not None and latest.status is not None and heard.at - latest.at > self._interval / 2:
                self._before[key] = latest
            self._latest[key] = heard
            self.version += 1

    def _look_around(self) -> None:
        try:
            found = self._looking.others()
        except (FabricError, OSError) as error:
            found = []
            with self._guard:
                self._problem = str(error)
        with self._guard:
            self._others_before, self._others = self._others, found
            self._asks_others = False
            self.version += 1

    def seen(self) -> Seen:
        """What is known now."""
        with self._guard:
            latest, before = list(self._latest.values()), list(self._before.values())
            others, others_before = self._others, self._others_before
            problems = [self._problem] if self._problem else []
        # The system says at once that a process is stopped, and after its answer is out of date.
        heard = [
            msgspec.structs.replace(each, status=None, problem=door.stopped(each.pid))
            if door.is_stopped(each.pid)
            else each
            for each in latest
        ]
        return Seen(self._put_together(heard, others), self._put_together(before, others_before).places, problems)

    def _put_together(self, heard: list[Heard], others: list[tuple[Status, float]]) -> Look:
        return Look(self._looking.fabric, heard, others, self._looking.own_id)

    def stopped(self) -> frozenset[int]:
        """The processes that the system says are stopped."""
        with self._guard:
            pids = [heard.pid for heard in self._latest.values()]
        return frozenset(pid for pid in pids if door.is_stopped(pid))


@click.command()
@interval_option
@looks_around
def top(interval: float, looking: Looking) -> None:
    """Show queues and nodes as they are, again each second: what is wrong, what waits, what user code is at.

    Keys: q quits, s and S sort by the next column or the one before, f or / filters by a part of a name. Where nobody
    looks at a terminal, and with -o json, it is one look.
    """
    with looking.joined():
        console = Console(highlight=False, markup=False, emoji=False)
        if looking.output is Form.JSON or not (console.is_terminal and sys.stdin.isatty()):
            _once(looking, interval)
        else:
            _live(Watch(looking, interval or 1.0), console)


def _once(looking: Looking, interval: float) -> None:
    before, look = two_looks(looking, interval)
    seen, view = Seen(look, before.places if before else None, ()), View()
    queues, nodes = chosen_queues(seen, view), chosen_nodes(seen, view)
    if looking.output is Form.JSON:
        warnings = [{"node": name, "warning": warned} for name, warned in look.warnings()]
        silent = [{"pid": each.pid, "problem": each.problem} for each in look.silent]
        found = {"queues": queues, "nodes": nodes, "running": hand_rows(look.places)}
        print_line(to_json({**found, "warnings": warnings, "silent": silent}))
    else:
        several = look.several_fabrics
        if queues:
            rows = [queue_cells(row, several_fabrics=several) for row in queues]
            print_made("", number_table(COLUMNS, rows))
        hands = [row for row in hand_rows(look.places) if row.message.age >= HANDS_AFTER]
        for line in map(hand_line, hands[:10]):
            print_line(line)
        if nodes:
            print_made("", number_table(NODE_COLUMNS, [node_cells(row, several_fabrics=several) for row in nodes], 2))
        for name, warned in look.warnings():
            warn(f"{name}: {printable(warned.text)}")
    if not look.places:
        looking.nobody(look)
    look.tell()


def _live(watch: Watch, console: Console) -> None:
    view = View()
    drawn: object = None
    with _keys() as terminal, Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            watch.tick()
            size = console.size
            draws = (watch.version, watch.stopped(), msgspec.structs.astuple(view), size, int(clock()))
            if draws != drawn:
                drawn = draws
                live.update(screen(watch.seen(), view, size.width, size.height), refresh=True)
            if select.select([terminal], [], [], TICK)[0]:
                keys = os.read(terminal, 1024).decode(errors="replace")
                if not keys or pressed(view, keys):
                    return  # the terminal has gone, or somebody wants to leave


def pressed(view: View, keys: str) -> bool:
    """Change the view as keys say; True: leave."""
    if keys.startswith("\x1b") and len(keys) > 1:
        return False  # an arrow, or the like
    for key in keys:
        if view.typing:
            _type(view, key)
        elif key in "qQ":
            return True
        elif key == "s":
            view.order = (view.order + 1) % len(ORDERS)
        elif key == "S":
            view.order = (view.order - 1) % len(ORDERS)
        elif key in "f/":
            view.typing, view.filter = True, ""
        elif key == "\x1b":
            view.filter = ""
    return False


def _type(view: View, key: str) -> None:
    if key in "\r\n":
        view.typing = False
    elif key == "\x1b":
        view.typing, view.filter = False, ""
    elif key in "\x7f\b":
        view.filter = view.filter[:-1]
    elif key.isprintable():
        view.filter += key


@contextmanager
def _keys() -> Iterator[int]:
    """The terminal, each key as it is pressed and without an echo; afterwards it is as it was. Ctrl-C still works."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield terminal
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
