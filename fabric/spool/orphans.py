"""Orphans: which free slots of a spool's folder a node adopts, in which order, and when it lets go of them.

A slot is an orphan when nobody has it, its sheet says that its process died or has left something unsettled, and the
sheet is of our fabric. A node that adopts it runs it as the next life of the node that it belongs to, until nothing is
unsettled, or nobody consumes it. Whoever has a slot's lock has the slot; what is decided here is only who shall try.

    seen       orphans, and since when they have been just like that: oldest first
    held       slots that this node has adopted, at most `limit` besides those that a person asked for
    tried      of an orphan that was let go of: the consumers that did not take from it after all

Invariants, see `check()`: no slot is both seen and held; no more are held than allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING, Final

from peerfabric.errors import counted
from peerfabric.health import STRANDED, Finding

if TYPE_CHECKING:
    from peerfabric.spool.slots import SlotSight

GRACE: Final = 2.0
"""Seconds for which a slot is free before it is adopted: whoever starts a process again does so sooner, and it then
goes on in order."""
RUN_BEFORE: Final = 5.0
"""Seconds for which a node has run before it adopts: a script that lives for a moment takes over nobody's work."""
PATIENCE: Final = 60.0
"""Seconds without a consumer, or without an ack while others wait for a place, after which one is let go of; and for
which one is left to a process that only serves."""
FORGET_AFTER: Final = 600.0
"""Seconds after which a consumer that did not take before is tried again, though nothing is new of it."""
REFUSED_FOR: Final = 10.0
"""Seconds for which a slot is left alone that could not be opened."""
STRANDED_AFTER: Final = 60.0
"""Seconds until an orphan that is not adopted is told of: consumers that are started again have come back by then."""

_UNCONSUMED: Final = "that nobody consumes"
_IN_LINE: Final = "that wait for others to be sent"
_REFUSED: Final = "and cannot be opened, as the log says"
_ELSEWHERE: Final = "whose node runs elsewhere, too"
_STEPS: Final = {
    _UNCONSUMED: "start a consumer of them",
    _IN_LINE: "start more consumers, or raise Options(spool_adopt=)",
    _REFUSED: "mend what the log says; it is tried again and again",
    _ELSEWHERE: "stop the process that runs a copy of the folder, then start one with this one",
}
"""Why an orphan is not adopted, and what a person can do about it."""

_ANY: Final = -1
"""Stands for the counter of a sheet that we have written ourselves, and not read."""

Consumer = tuple[str, int, int]
"""A node that consumes a queue, by id, epoch and version of its address."""


class _Orphan:
    """A slot that nobody has, and that has something in it."""

    __slots__ = ("counter", "left", "not_before", "queues", "since", "tried", "tried_at", "why")

    def __init__(self, counter: int, since: float) -> None:
        self.counter, self.since = counter, since
        self.not_before = -inf
        self.left = 0
        self.queues: tuple[str, ...] = ()
        self.why = ""
        """Why it is not adopted."""
        self.tried: set[Consumer] = set()
        self.tried_at = -inf


class _Held:
    """A slot that this node has adopted."""

    __slots__ = ("acked", "acked_at", "consumed_at", "since", "tried", "wanted")

    def __init__(self, now: float, *, wanted: bool) -> None:
        self.since = self.acked_at = self.consumed_at = now
        self.acked = 0
        self.wanted = wanted
        """A person has asked for it."""
        self.tried: set[Consumer] = set()


class Orphans:
    """The orphans of one folder, as one node sees them.

    Args:
        fabric: The hash of our fabric, as sheets have it.
        limit: How many to adopt at a time.
        now: The driver's clock, in seconds.
        grace: Seconds for which one has been free before; None: GRACE.
        run_before: Seconds for which the node runs before it adopts; None: RUN_BEFORE.
    """

    def __init__(
        self, fabric: bytes, limit: int, now: float, *, grace: float | None = None, run_before: float | None = None
    ) -> None:
        self._fabric, self._limit = fabric, limit
        self._grace = GRACE if grace is None else grace
        self._from = now + (RUN_BEFORE if run_before is None else run_before)
        self._seen: dict[int, _Orphan] = {}
        self._held: dict[int, _Held] = {}
        self._wanted: set[int] = set()
        self._unknown: dict[int, tuple[float, SlotSight]] = {}
        """Those of which nobody can say whose they are and whether they are orphans, and since when that is so."""
        self._pressed = False
        """Some would be adopted if there were a place for them."""

    @property
    def held(self) -> tuple[int, ...]:
        """The numbers of the slots that this node has adopted."""
        return tuple(self._held)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing but slots that are as they should be."""
        return not (self._seen or self._held or self._wanted)

    def may_be_ours(self, sight: SlotSight) -> bool:
        """Whether what is in a slot is not known to be of another fabric."""
        return sight.sheet is None or sight.sheet.fabric in (b"", self._fabric)

    def want(self, number: int) -> None:
        """A person needs the slot: it is adopted as soon as nobody has it, whatever is in it."""
        if number not in self._held:
            self._wanted.add(number)

    def look(
        self,
        sights: Iterable[SlotSight],
        consumers_of: Callable[[str], Iterable[Consumer]],
        now: float,
        *,
        served: Callable[[], bool] = lambda: False,
    ) -> list[int]:
        """Take in how all slots are now, and return those to adopt, the first first.

        Args:
            consumers_of: Nodes that consume a queue, as far as this one knows.
            served: Whether some process does nothing but adopt here, so that it is left to that one. Asked if need be.
        """
        there = {sight.number: sight for sight in sights if sight.number not in self._held}
        self._unknown = {
            number: (self._unknown.get(number, (now, sight))[0], sight)
            for number, sight in there.items()
            if sight.sheet is None and sight.held is not True and (sight.problem or sight.queues)
        }
        for number in list(self._seen):
            sight = there.get(number)
            if sight is None or not (sight.is_orphan(self._fabric) or self._may_be_as_before(sight)):
                del self._seen[number]
        for sight in there.values():
            if sight.is_orphan(self._fabric):
                self._see(sight, now)
        chosen = sorted(self._wanted)
        places = self._limit - sum(not held.wanted for held in self._held.values())
        self._pressed = False
        for number in sorted(self._seen, key=lambda n: (self._seen[n].since, n)):
            orphan, sight = self._seen[number], there[number]
            if number in chosen or not sight.is_orphan(self._fabric):
                continue
            if now < max(self._from, orphan.since + self._grace, orphan.not_before):
                continue
            orphan.why = ""
            if now < orphan.since + PATIENCE and served():
                continue
            assert sight.sheet is not None
            if not self._has_consumer(orphan, sight.sheet.node_id, consumers_of, now):
                orphan.why = _UNCONSUMED
            elif places <= 0:
                orphan.why = _IN_LINE
                self._pressed = True
            else:
                places -= 1
                chosen.append(number)
        return chosen

    @staticmethod
    def _may_be_as_before(sight: SlotSight) -> bool:
        """Whether nobody could ask who has it, and it has something."""
        return sight.held is None and sight.sheet is not None and bool(sight.sheet.pid or sight.sheet.left)

    def _see(self, sight: SlotSight, now: float) -> None:
        sheet = sight.sheet
        assert sheet is not None
        orphan = self._seen.get(sight.number)
        if orphan is None:
            orphan = self._seen[sight.number] = _Orphan(sheet.counter, now)
        elif orphan.counter not in (sheet.counter, _ANY):
            orphan.since, orphan.not_before = now, -inf  # somebody had it meanwhile
        orphan.counter, orphan.left, orphan.queues = sheet.counter, sheet.left, sight.queues

    def _has_consumer(
        self, orphan: _Orphan, node_id: str, consumers_of: Callable[[str], Iterable[Consumer]], now: float
    ) -> bool:
        """Whether somebody else may take from it who was not tried in vain."""
        if now >= orphan.tried_at + FORGET_AFTER:
            orphan.tried.clear()
        found = (consumer for queue in orphan.queues for consumer in consumers_of(queue))
        return any(consumer[0] != node_id and consumer not in orphan.tried for consumer in found)

    # What came of it

    def adopted(self, number: int, now: float) -> None:
        """The slot is ours from now on."""
        self._held[number] = _Held(now, wanted=number in self._wanted)
        self._wanted.discard(number)
        self._seen.pop(number, None)

    def passed_by(self, number: int) -> None:
        """Somebody else has the slot, or was choosing one just then: the next look will say."""
        self._wanted.discard(number)

    def refused(self, number: int, now: float) -> None:
        """The slot could not be opened."""
        self._wanted.discard(number)
        if number in self._seen:
            orphan = self._seen[number]
            orphan.not_before, orphan.why = now + REFUSED_FOR, _REFUSED

    def keeps(self, number: int, *, unsettled: int, acked: int, consumed: bool, now: float) -> bool:
        """Whether an adopted slot stays with us.

        Args:
            unsettled: Its messages that are not settled.
            acked: How many have been since it was adopted.
            consumed: Somebody consumes one of its queues.
        """
        held = self._held[number]
        if acked != held.acked:
            held.acked, held.acked_at = acked, now
        if consumed:
            held.consumed_at = now
        if not unsettled:
            return False
        if now >= held.consumed_at + PATIENCE:
            return False
        return not (self._pressed and now >= held.acked_at + PATIENCE)

    def offered(self, number: int, consumers: Iterable[Consumer]) -> None:
        """These were told of the adopted slot: if it is let go of for want of a consumer, they are not tried again."""
        self._held[number].tried.update(consumers)

    def let_go(self, number: int, now: float, *, for_good: bool = False) -> None:
        """The slot is ours no more. What is left in it is last in line; or, `for_good`, waits until somebody else had
        it, as its node runs elsewhere, too."""
        held = self._held.pop(number)
        orphan = self._seen[number] = _Orphan(_ANY, now)
        if for_good:
            orphan.not_before, orphan.why = inf, _ELSEWHERE
        if now >= held.consumed_at + PATIENCE:
            orphan.tried, orphan.tried_at = held.tried, now

    # For people

    def findings(self, folder: str, now: float) -> Iterator[Finding]:
        """Orphans that are not adopted."""
        for number, orphan in sorted(self._seen.items()):
            if orphan.why and orphan.queues:
                has = f"has {counted(orphan.left, 'message')}" if orphan.left else "may have messages"
                yield Finding(
                    f"slot {number} of the spool {folder} {has} of {_named(orphan.queues)} {orphan.why}",
                    STRANDED_AFTER,
                    f"{_STEPS[orphan.why]}; `peerfabric spool ls` shows what is there",
                    orphan.since,
                    STRANDED,
                    orphan.queues[0] if len(orphan.queues) == 1 else "",
                )
        for number, (since, sight) in sorted(self._unknown.items()):
            problem = sight.problem or f"its `node` is damaged, and it may have messages of {_named(sight.queues)}"
            yield Finding(
                f"slot {number} of the spool {folder} cannot be adopted: {problem}",
                STRANDED_AFTER,
                "a process that starts and takes it goes on with it; `peerfabric spool ls` shows what is there",
                since,
                STRANDED,
            )

    def check(self) -> None:
        """Assert the invariants."""
        assert self._seen.keys().isdisjoint(self._held), "a slot that we hold is an orphan"
        assert sum(not held.wanted for held in self._held.values()) <= self._limit, "more slots than allowed"
        assert self._wanted.isdisjoint(self._held)


def _named(queues: tuple[str, ...]) -> str:
    shown = ", ".join(queues[:3])
    return f"{shown} and {len(queues) - 3} more queues" if len(queues) > 3 else shown
