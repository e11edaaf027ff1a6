"""When a suspect may start at its consumer: alone in its process, and once its producer knows of it.

A message that was held at three deaths is a suspect. Nothing else of any queue is in the hands of user code while it
runs, or the innocent would be accused with it; and its producer writes down first that it starts, so that it is the one
that a death accuses. Its result is waited for in the same way. PROTOCOL.md, section 10.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf
from typing import Final

from peerfabric.queue.delivery import Delivery
from peerfabric.queue.source import Source

SUSPECT_PATIENCE: Final = 1.0
"""A message that kills runs when nothing else does; after this long nothing else is started until it has run."""
SETTLE_PATIENCE: Final = 10.0
"""How long a producer is waited for that cannot settle a suspect's start or result, perhaps because its disk fails.
Then things go on: should that producer die as well, it may miss a death, or accuse the wrong message of one."""


class Suspects:
    """The suspects of one queue.

    In turn each is at the head of its source's buffer, announced, settled (`announced` is 0), handed out, told of, and
    settled again.

    Args:
        sources: The queue's producers, by holder.
        handed_out: Deliveries in the hands of user code.
        of_process: The suspects of all queues that this process consumes, these included.
    """

    def __init__(
        self, sources: Mapping[str, Source], handed_out: Collection[Delivery], of_process: Mapping[str, Suspects]
    ) -> None:
        self._sources, self._handed_out, self._of_process = sources, handed_out, of_process
        self._waits_since = inf
        """Since when one waits for the others of this process to finish."""
        self._last: Delivery | None = None
        """The one that was handed out last, until its producer has told that it knows the result."""
        self._patience_until = inf
        """Until then a producer is waited for that was told of a suspect's start or result; inf if none is."""

    # Starting

    def hold_up(self, now: float) -> bool:
        """Whether nothing may be started here: a suspect runs, is about to, or has waited for it long enough."""
        everyone = self._of_process.values()
        if any(suspects.may_be_accused(now) for suspects in everyone):
            return True
        if self.announced(now) is not None:
            return False  # it is our turn, however long others have waited for theirs
        return any(
            suspects.announced(now) is not None
            or (now - suspects._waits_since >= SUSPECT_PATIENCE and not (suspects is self and self._may_be_alone(now)))
            for suspects in everyone
        )

    def may_be_accused(self, now: float) -> bool:
        """Whether a death would now be taken for the fault of a suspect: it runs, or its result may get lost."""
        last = self._last
        if last is None:
            return False
        source = self._sources.get(last.holder)
        if last not in self._handed_out and (
            source is None or not source.attached or (last.announced == inf and not source.has_results)
        ):
            self._last = None  # nobody is left to be told, or nothing to tell
            return False
        return last in self._handed_out or (source is not None and source.fence > now and self._is_patient(now))

    def announced(self, now: float) -> Delivery | None:
        """The one whose start was announced, if its producer still counts on us."""
        for source in self._sources.values():
            head = source.buffer[0] if source.buffer else None
            if head is not None and head.announced is not None:
                if source.attached and source.fence > now:
                    return head
                head.announced = None
        return None

    def may_start(self, source: Source, now: float) -> bool:
        """Whether the one at the head of `source` may be handed out; its producer must know of it before."""
        head = source.buffer[0]
        if not self._may_be_alone(now) or self.announced(now) not in (None, head):
            return False
        if head.announced is None and not source.proven_gone:
            head.announced, self._patience_until = inf, inf
            source.add_starting(head)
            return False
        return source.proven_gone or head.announced == 0 or not self._is_patient(now)

    def _may_be_alone(self, now: float) -> bool:
        """Whether nothing is in the hands of user code in this process, and every result has left."""
        if all(suspects._is_quiet for suspects in self._of_process.values()):
            return True
        self._waits_since = min(self._waits_since, now)
        return False

    @property
    def _is_quiet(self) -> bool:
        return not self._handed_out and not any(s.attached and (s.done or s.nacks) for s in self._sources.values())

    def _is_patient(self, now: float) -> bool:
        """Whether to wait on: a producer that cannot write its cursor must not stop a whole process."""
        if self._patience_until == inf:
            self._patience_until = now + SETTLE_PATIENCE
        return now < self._patience_until

    def started(self, delivery: Delivery) -> None:
        """`delivery`, a suspect, is handed out."""
        self._waits_since = inf
        self._last, delivery.announced, self._patience_until = delivery, inf, inf

    def returned(self, delivery: Delivery) -> bool:
        """`delivery` goes back to its buffer unstarted; whether it is one of ours, which is announced again then."""
        if delivery is not self._last:
            return False
        self._last, delivery.announced = None, None
        return True

    # What producers know

    def told(self, holder: str, ack: int) -> None:
        """ACK number `ack` carries what there was to tell `holder`."""
        source = self._sources[holder]
        if source.starting and source.buffer and source.buffer[0].announced is not None:
            source.buffer[0].announced = ack
        if self._has_ended_at(holder):
            assert self._last is not None
            self._last.announced = min(self._last.announced or inf, ack)

    def told_all(self, holder: str, ack: int) -> None:
        """INTEREST told `holder` everything that is done; it counts as ACK number `ack`."""
        if self._has_ended_at(holder):
            assert self._last is not None
            self._last.announced = ack

    def _has_ended_at(self, holder: str) -> bool:
        """Whether the last one was of `holder` and is not in the hands of user code any more."""
        last = self._last
        return last is not None and last.holder == holder and last not in self._handed_out

    def settle(self, holder: str, ack: int) -> None:
        """`holder` cannot forget what our ACKs up to `ack` have told it."""
        source = self._sources.get(holder)
        if source is not None and source.buffer:
            head = source.buffer[0]
            if head.announced is not None and head.announced <= ack:
                head.announced = 0
        if self._last is not None and self._last.holder == holder and (self._last.announced or 0) <= ack:
            self._last = None

    def deadline(self, now: float) -> float:
        """When patience ends; inf if nobody is waited for."""
        return self._patience_until if now < self._patience_until else inf
