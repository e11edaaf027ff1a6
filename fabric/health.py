"""Health: conditions that need a person, told while they last.

A machine says what holds now; here it is found out for how long, and when that is worth a line in the log: once when it
has lasted, again at doubling intervals, and once when it is over. What comes and goes is told no more often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from peerfabric.log_records import LogRecords
from peerfabric.status import Warned

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
LATE_AFTER: Final = 1.0
"""Seconds by which a turn must be late to be told."""
LATE_FOR: Final = 60.0
"""Seconds for which a late turn is shown to those who ask, as it is over when it is known."""
LIVE_MAX: Final = 10
"""Conditions of which the text is found out anew when somebody asks, those that have lasted longest."""
PAUSE_LEAST: Final = 10.0
"""Seconds between the first two lines about what is told at once."""

DIALLED_IN_VAIN: Final = "dialled-in-vain"
NO_CONSUMER: Final = "no-consumer"
NOT_TAKING: Final = "not-taking"
SLOW_HANDLER: Final = "slow-handler"
OLD: Final = "old"
LOOPING: Final = "looping"
DISK: Final = "disk"
LATE: Final = "late"
STRANDED: Final = "stranded"
NO_SERVER: Final = "no-server"
RUNS_ON: Final = "runs-on"
NOT_SETTLED: Final = "not-settled"
CODES: Final = (
    DIALLED_IN_VAIN,
    NO_CONSUMER,
    NOT_TAKING,
    SLOW_HANDLER,
    OLD,
    LOOPING,
    DISK,
    LATE,
    STRANDED,
    NO_SERVER,
    RUNS_ON,
    NOT_SETTLED,
)
"""All kinds of conditions. Programs compare them, so none is renamed; docs/operations.md says what each means."""


class Finding(NamedTuple):
    """One condition that holds now.

    what    names it, and whom it concerns; the same at each look
    after   how long it must last until it is told, in seconds
    step    what a person can do about it
    since   when it began; None: at the first look that found it
    code    its kind, for programs: one of `CODES`
    queue   that it concerns, if it concerns one
    service that it concerns, if it concerns one
    lasted  how many seconds it lasted, of what is over when it is found; None: it lasts
    closer  asked when it is told, for what takes a moment to find out: a better step; empty: `step` is all there is
    live    asked whenever somebody reads of it, with the time, as it changes: a better step, or empty
    """

    what: str
    after: float
    step: str
    since: float | None = None
    code: str = ""
    queue: str = ""
    service: str = ""
    lasted: float | None = None
    closer: Callable[[], str] | None = None
    live: Callable[[float], str] | None = None


class _Lasting:
    """A condition that was found, and perhaps ended."""

    __slots__ = ("closer", "finding", "holds", "pause", "since", "tell_at", "told")

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self.holds = self.told = False
        self.since = self.tell_at = 0.0
        self.pause = max(PAUSE_LEAST, finding.after)
        self.closer = ""
        """The better step as it was told last."""

    def lasted(self, now: float) -> float:
        """For how many seconds."""
        return now - self.since if self.finding.lasted is None else self.finding.lasted

    def text(self, now: float, *, live: bool = True) -> str:
        """What people read of it; without `live` the step may be as old as the last look."""
        finding, lasted = self.finding, self.lasted(now)
        how_long = f" for {lasted:.0f} s" if lasted >= 1.0 else ""
        step = finding.live(now) if live and finding.live is not None else ""
        return f"{finding.what}{how_long}; {step or self.closer or finding.step}"


class Health:
    """The conditions of one node. They concern its own queues, consumers and peers, so there are no more than of those.

    Args:
        records: Where they are told.
        now: The driver's clock, in seconds.
    """

    def __init__(self, records: LogRecords, now: float) -> None:
        self.look_at = now + LOOK_EVERY
        self.disk: tuple[Finding, ...] = ()
        """What the driver has found of the disk of its spool."""
        self._records = records
        self._lasting: dict[str, _Lasting] = {}
        self._late: Finding | None = None
        self._late_until = now

    def was_late(self, late: float, now: float) -> None:
        """A turn of this node came so many seconds after it was due."""
        if late <= LATE_AFTER:
            return
        self._late_until = now + LATE_FOR
        self._late = Finding(
            "the I/O thread of this node did not come though it was due",
            0.0,
            "its process was stopped or swapped out, its machine slept or has too little processor time, or a C call "
            "held the interpreter's lock: look at its state and load, and let long calculations run in other processes",
            code=LATE,
            lasted=late,
        )

    def excuse(self, late: float) -> None:
        """Seconds in which this node did not run do not count."""
        for lasting in self._lasting.values():
            lasting.since += late

    def look(self, found: Iterable[Finding], now: float) -> None:
        """These conditions hold now, and no others."""
        self.look_at = now + LOOK_EVERY
        if self._late is not None and now >= self._late_until:
            self._late = None
        late = () if self._late is None else (self._late,)
        held = {finding.what for finding in (*found, *self.disk, *late) if self._holds(finding, now)}
        for what, lasting in list(self._lasting.items()):
            if what in held:
                continue
            if lasting.told and lasting.finding.lasted is None:
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
                text=lasting.text(now, live=at < LIVE_MAX),
                queue=lasting.finding.queue,
                since=lasting.lasted(now),
            )
            for at, lasting in enumerate(told)
        )

    def _holds(self, finding: Finding, now: float) -> bool:
        lasting = self._lasting.get(finding.what)
        if lasting is None:
            lasting = self._lasting[finding.what] = _Lasting(finding)
        is_known = lasting.told and finding.lasted is not None and lasting.finding is finding
        lasting.finding = finding
        if finding.since is not None or not lasting.holds:
            lasting.since = now if finding.since is None else finding.since
        lasting.holds = True
        if now - lasting.since >= finding.after and now >= lasting.tell_at and not is_known:
            lasting.told = True
            lasting.tell_at = now + lasting.pause
            lasting.pause *= 2
            closer = finding.closer
            lasting.closer = closer() if closer is not None else ""
            self._records.add("warning", lasting.text(now))
        return True


def slow_after(lease: float, usual: float) -> float:
    """How long user code may have a message until that is told, if it usually has one for `usual` seconds.

    No longer than its lease: what happens then is not understood without it.
    """
    return min(lease, max(SLOW_AFTER, lease / 10, 10 * usual))
