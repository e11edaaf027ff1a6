"""Health: conditions that need a person, told while they last.

A machine says what holds now; here it is found out for how long, and when that is worth a line in the log: once when it
has lasted, again at doubling intervals, and once when it is over. What comes and goes is told no more often.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from peerfabric.log_records import LogRecords
from peerfabric.status import Warned

CODES: Final = (
    "dialled-in-vain",
    "no-consumer",
    "not-taking",
    "slow-handler",
    "old",
    "looping",
    "disk",
    "late",
    "stranded",
)
"""Kinds of conditions, for programs; docs/operations.md says what each means."""

LOOK_EVERY: Final = 5.0
"""Seconds between two looks: each reads a few numbers of every queue."""

NO_CONSUMER_AFTER: Final = 10.0
"""Seconds until messages that nobody consumes are told."""
DIALLED_AFTER: Final = 10.0
"""Seconds until an endpoint that does not answer is told."""
NEVER_TAKEN_AFTER: Final = 10.0
"""Seconds until a consumer that nobody ever took from, though messages wait for it, is told."""
NOT_TAKEN_AFTER: Final = 60.0
"""The same for one that somebody took from: programs that come back once in a while are as they should be."""
HANDED_ON_AFTER: Final = 30.0
"""Seconds without progress until it is told that inputs wait for outputs that nobody settles."""
SLOW_AFTER: Final = 30.0
"""Seconds until a message in the hands of user code is told; see `slow_after`."""


class Finding(NamedTuple):
    """One condition that holds now.

    what    names it, and whom it concerns; the same at each look
    after   how long it must last until it is told, in seconds
    step    what a person can do about it
    since   when it began; None: at the first look that found it
    code    its kind, for programs: a word of the table in docs/operations.md
    queue   that it concerns, if it concerns one
    """

    what: str
    after: float
    step: str
    since: float | None = None
    code: str = ""
    queue: str = ""


class _Lasting:
    """A condition that was found, and perhaps ended."""

    __slots__ = ("finding", "holds", "pause", "since", "tell_at", "told")

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self.holds = self.told = False
        self.since = self.tell_at = 0.0
        self.pause = finding.after


class Health:
    """The conditions of one node. They concern its own queues, consumers and peers, so there are no more than of those.

    Args:
        records: Where they are told.
        now: The driver's clock, in seconds.
    """

    def __init__(self, records: LogRecords, now: float) -> None:
        self.look_at = now + LOOK_EVERY
        self._records = records
        self._lasting: dict[str, _Lasting] = {}

    def excuse(self, late: float) -> None:
        """Seconds in which this node did not run do not count."""
        for lasting in self._lasting.values():
            lasting.since += late

    def look(self, found: Iterable[Finding], now: float) -> None:
        """These conditions hold now, and no others."""
        self.look_at = now + LOOK_EVERY
        held = {finding.what for finding in found if self._holds(finding, now)}
        for what, lasting in list(self._lasting.items()):
            if what in held:
                continue
            if lasting.told:
                self._records.add("info", f"{what}: over after {now - lasting.since:.0f} s")
            lasting.holds = lasting.told = False
            if now >= lasting.tell_at + lasting.pause:
                del self._lasting[what]

    def warnings(self, now: float) -> tuple[Warned, ...]:
        """What was told and is not over, longest first."""
        told = [lasting for lasting in self._lasting.values() if lasting.told]
        told.sort(key=lambda lasting: lasting.since)
        return tuple(
            Warned(
                code=lasting.finding.code,
                text=f"{lasting.finding.what} for {now - lasting.since:.0f} s; {lasting.finding.step}",
                queue=lasting.finding.queue,
                since=now - lasting.since,
            )
            for lasting in told
        )

    def _holds(self, finding: Finding, now: float) -> bool:
        lasting = self._lasting.get(finding.what)
        if lasting is None:
            lasting = self._lasting[finding.what] = _Lasting(finding)
        lasting.finding = finding
        if finding.since is not None or not lasting.holds:
            lasting.since = now if finding.since is None else finding.since
        lasting.holds = True
        lasted = now - lasting.since
        if lasted >= finding.after and now >= lasting.tell_at:
            lasting.told = True
            lasting.tell_at = now + lasting.pause
            lasting.pause *= 2
            self._records.add("warning", f"{finding.what} for {lasted:.0f} s; {finding.step}")
        return True


def slow_after(lease: float, usual: float) -> float:
    """How long user code may have a message until that is told, if it usually has one for `usual` seconds."""
    return max(SLOW_AFTER, lease / 10, 10 * usual)
