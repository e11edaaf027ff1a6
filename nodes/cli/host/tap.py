"""`peerfabric tap`: copies of what is sent to a queue or published on topics; nothing is taken."""

from __future__ import annotations

import queue as queues
from typing import Any, Final

import click

from peerfabric.errors import FabricError, counted
from peerfabric.nodes.cli.common import timeout_option
from peerfabric.nodes.cli.daemons import beside
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.completion import queues_and_topics_there, used
from peerfabric.nodes.cli.host.door import Heard
from peerfabric.nodes.cli.host.look import Looking, looks
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.offline import warn
from peerfabric.nodes.cli.output import Form, print_line, printable, to_json
from peerfabric.nodes.io.waiting import clock

LOOK_EVERY: Final = 1.0
"""Seconds between two looks for processes that have started since."""
LINES_MAX: Final = 1000
"""Copies that wait to be printed; processes wait with theirs, and say then how many they have skipped."""


class Taps:
    """The taps of one name at all processes, those that start later included.

    Each has a thread, which ends with its process, or with ours.
    """

    def __init__(self, name: str, fabric: str) -> None:
        self.lines: queues.Queue[dict[str, Any]] = queues.Queue(LINES_MAX)
        self.problems: list[str] = []
        self._name, self._fabric = name, fabric
        self._tapped: set[tuple[int, int]] = set()

    def look(self) -> int:
        """Tap the processes that are not tapped yet; how many are by now, or were."""
        for heard in door.answers(queues=1):
            key = (heard.pid, heard.started)
            if heard.status is not None and key not in self._tapped:
                self._tapped.add(key)
                beside(lambda each=heard: self._follow(each))  # type: ignore[misc]
        return len(self._tapped)

    def _follow(self, heard: Heard) -> None:
        try:
            for line in door.follow(heard, "tap", name=self._name, fabric=self._fabric):
                self.lines.put({**line, "pid": heard.pid})
        except (FabricError, OSError) as error:
            self.problems.append(f"{heard.title}: {error}")


@click.command()
@click.argument("name", metavar="QUEUE|PATTERN", shell_complete=queues_and_topics_there)
@click.option(
    "-n", "--count", type=click.IntRange(min=0), default=0, show_default=True, help="How many; 0: no end to it."
)
@timeout_option("none", "To wait for each; 'none': for ever.")
@looks
def tap(name: str, count: int, timeout: float | None, looking: Looking) -> None:
    """Print copies of what is sent to QUEUE, or published on the topics that PATTERN selects, by nodes of this host.

    They are made when a message is accepted, at most 100 a second of each process; how many were skipped is said on
    standard error. Nothing is taken: consumers and subscribers get what they get.
    """
    taps = Taps(name, looking.fabric or "")
    if not taps.look():
        looking.nobody(looking.look())
    printed = 0
    heard_at = looked_at = clock()
    while count == 0 or printed < count:
        now = clock()
        if now >= looked_at + LOOK_EVERY:
            looked_at = now
            beside(taps.look)  # a process that is stopped must not delay what others say
        while taps.problems:
            warn(taps.problems.pop())
        try:
            line = taps.lines.get(timeout=0.1)
        except queues.Empty:
            if timeout is not None and now >= heard_at + timeout:
                break
            continue
        if skipped := line.get("skipped"):
            warn(f"{counted(int(skipped), 'copy', 'copies')} of {name} skipped by process {line['pid']}")
            continue
        heard_at = now
        print_line(_line(line, looking.output))
        printed += 1
    else:
        return
    if count or not printed:
        near = "" if printed else did_you_mean(name, used(looking.look().places))
        raise Failure(
            f"{name!r}{near}: {counted(printed, 'copy', 'copies')} came, and then none for {timeout:g} s; "
            f"`peerfabric queues` and `peerfabric topics` show what is used",
            Exit.NOTHING,
        )


def _line(line: dict[str, Any], form: Form) -> str:
    if form is Form.JSON:
        return to_json(line)
    return f"{printable(str(line.get('name', '')))}  {to_json(line.get('body'))}"
