"""Received messages: what a consumer remembers of each stream, so that nothing runs twice, and for how long.

A stream is forgotten a minute after its producer has died, as nobody can send anything of it again. One whose producer
keeps it on disk may come back at any time, and is remembered until a great many others have come after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from typing import Final

from peerfabric.ranges import Ranges


class Dedup:
    """Sequences of one stream, sorted into held, done and settled."""

    __slots__ = ("_reported", "_unreported", "done", "first_reported", "floor", "held")

    def __init__(self) -> None:
        self.held = Ranges()
        self.done = Ranges()
        self.floor = 1
        self.first_reported: float = inf
        """The earliest ACK whose results are kept; inf if none is awaited."""
        self._unreported: list[tuple[int, int]] = []
        self._reported: deque[tuple[int, list[tuple[int, int]]]] = deque()

    def receive(self, start: int, stop: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Take note of an arriving `[start, stop)`.

        Returns:
            What is new and now held, and what was finished before and only has to be acked again.
            What is in neither is held already.
        """
        finished: list[tuple[int, int]] = []
        if start < self.floor:
            finished.append((start, min(stop, self.floor)))
            start = min(stop, self.floor)
        if start == stop:
            return [], finished
        if self.done.total:
            finished += self.done.common(start, stop)
        if not finished and not (self.held.total and self.held.common(start, stop)):
            self.held.add(start, stop)
            return [(start, stop)], finished
        new = [gap for a, b in self.done.missing(start, stop) for gap in self.held.missing(a, b)]
        for a, b in new:
            self.held.add(a, b)
        return new, finished

    def finish(self, start: int, stop: int) -> None:
        """`[start, stop)` has been processed; the next ACK says so."""
        self.held.remove(start, stop)
        if self.done.add(start if start > self.floor else self.floor, stop):
            self._unreported.append((start, stop))

    def let_go(self, start: int, stop: int) -> None:
        """`[start, stop)` is no longer ours, unprocessed: returned, nacked or released."""
        self.held.remove(start, stop)

    def reported(self, ack: int) -> None:
        """ACK number `ack` carries everything finished so far."""
        if self._unreported:
            self._reported.append((ack, self._unreported))
            self.first_reported = self._reported[0][0]
            self._unreported = []

    def reported_again(self, ack: int) -> None:
        """A new life of the link begins with everything in `done`, as its ACK number `ack`; earlier numbers end."""
        self._unreported = []
        self._reported = deque([(ack, list(self.done))])
        self.first_reported = ack

    def settle(self, ack: int) -> list[tuple[int, int]]:
        """The producer cannot forget the results of ACKs up to `ack` any more, so we may; return what they were."""
        settled: list[tuple[int, int]] = []
        while self._reported and self._reported[0][0] <= ack:
            settled += self._reported.popleft()[1]
        self.first_reported = self._reported[0][0] if self._reported else inf
        if self.done.total:  # else they lie below the floor
            for start, stop in settled:
                self.done.remove(start, stop)
        return settled

    def raise_floor(self, floor: int) -> None:
        """Everything below `floor` is settled at the producer."""
        if floor > self.floor:
            self.floor = floor
            if self.done.total:
                self.done.remove(0, floor)

    @property
    def idle(self) -> bool:
        """Nothing is held and nothing has to be remembered."""
        return not self.held and not self.done

    def check(self) -> None:
        """Assert held ∩ done = ∅, and that all of `done` awaits an ACK or its settling."""
        self.held.check()
        self.done.check()
        assert not any(self.done.common(a, b) for a, b in self.held), "a sequence is both held and done"
        lowest = self.done.lowest
        assert lowest is None or lowest >= self.floor, "done reaches below the floor"
        awaited = Ranges(r for _, ranges in self._reported for r in ranges)
        for start, stop in self._unreported:
            awaited.add(start, stop)
        assert not any(awaited.missing(a, b) for a, b in self.done), "done keeps what was settled"


FORGET_AFTER: Final = 60.0
"""How long the numbers of a producer that is gone are remembered after its last message was finished."""
DURABLE_MAX: Final = 100_000
"""Streams that may return: each life of a producer with a spool makes one a queue. Some 500 bytes each, so 50 MB."""
_EVERYTHING: Final = 2**53


class Streams:
    """The `Dedup` of each stream.

    Args:
        remembered: What was processed in an earlier life, by stream, as a ledger has it; None: there is no ledger.
    """

    def __init__(self, remembered: Mapping[str, Ranges] | None) -> None:
        self._dedup: dict[str, Dedup] = {}
        self.forgetting: dict[str, float] = {}
        """Streams of which nothing comes any more, and when they are forgotten."""
        self._durable: dict[str, None] = {}
        """Streams whose producers keep them on disk and may return, oldest first."""
        self._forgotten: dict[str, Ranges] | None = None if remembered is None else {}
        """What cannot come again, since the ledger was told."""
        for stream, ranges in remembered.items() if remembered is not None else ():
            self._durable[stream] = None  # whether its producer is there, or returns, we do not know
            dedup = self._dedup[stream] = Dedup()
            for start, stop in ranges:
                dedup.finish(start, stop)

    def __iter__(self) -> Iterator[str]:
        return iter(self._dedup)

    def __contains__(self, stream: str) -> bool:
        return stream in self._dedup

    def __getitem__(self, stream: str) -> Dedup:
        return self._dedup[stream]

    def get(self, stream: str) -> Dedup | None:
        """Its numbers, if any are remembered."""
        return self._dedup.get(stream)

    def items(self) -> Iterable[tuple[str, Dedup]]:
        """Each stream with its numbers."""
        return self._dedup.items()

    def came(self, stream: str, *, durable: bool) -> Dedup:
        """A message of `stream` is here; its producer keeps it on disk if `durable`."""
        dedup = self._dedup.get(stream)
        if dedup is None:
            dedup = self._dedup[stream] = Dedup()
        if self.forgetting:
            self.forgetting.pop(stream, None)
        if durable:
            self._durable[stream] = None
        elif self._forgotten is not None:
            self._durable.pop(stream, None)
        return dedup

    def is_durable(self, stream: str) -> bool:
        """Whether its producer keeps it on disk."""
        return stream in self._durable

    def settle(self, stream: str, ack: int) -> None:
        """The producer cannot forget the results of our ACKs up to `ack`."""
        dedup = self._dedup[stream]
        if dedup.first_reported <= ack:
            for start, stop in dedup.settle(ack):
                if self._forgotten is not None:
                    self._note_forgotten(stream, start, stop)

    def raise_floor(self, stream: str, floor: int) -> Dedup | None:
        """Everything of `stream` below `floor` is settled; its numbers, if that was not known."""
        dedup = self._dedup.get(stream)
        if dedup is None or floor <= dedup.floor:
            return None
        dedup.raise_floor(floor)
        if self._forgotten is not None:
            self._note_forgotten(stream, 0, floor)
        return dedup

    # Forgetting

    def keep(self, streams: Iterable[str]) -> None:
        """Their producer is there again."""
        for stream in streams:
            self.forgetting.pop(stream, None)

    def over(self, streams: Iterable[str], now: float) -> None:
        """Their producer sends nothing of them any more."""
        for stream in streams:
            self.forgetting.setdefault(stream, now)

    def producer_died(self, streams: Iterable[str], now: float) -> None:
        """It will not send anything of `streams` again, unless it keeps them on disk."""
        for stream in streams:
            if stream not in self._durable:
                self.forgetting[stream] = now + FORGET_AFTER

    def limit_durable(self, is_needed: Callable[[str], bool]) -> None:
        """Of streams that outlive their producers so many are remembered; then the oldest go that nobody needs."""
        for stream in list(self._durable)[: max(0, len(self._durable) - DURABLE_MAX)]:
            dedup = self._dedup.get(stream)
            if dedup is None or not (dedup.held or is_needed(stream)):
                self._durable.pop(stream)
                if dedup is not None:
                    self.forgetting[stream] = -inf

    def drop(self, stream: str) -> None:
        """Nothing of `stream` is recognised any more."""
        del self._dedup[stream]
        self.forgetting.pop(stream, None)
        self._durable.pop(stream, None)
        self._note_forgotten(stream, 0, _EVERYTHING)

    def drop_due(self, now: float) -> list[str]:
        """Drop those whose time is over and of which nothing is here; return which those were."""
        due = [s for s, at in self.forgetting.items() if at <= now and self._dedup[s].held.total == 0]
        for stream in due:
            self.drop(stream)
        return due

    def deadline(self) -> float:
        """When `drop_due` drops the next; inf if never. What is still held is looked at with its messages."""
        return min((at for stream, at in self.forgetting.items() if not self._dedup[stream].held), default=inf)

    def _note_forgotten(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` cannot come again, or is not recognised any more if it does."""
        if self._forgotten is not None:
            ranges = self._forgotten.get(stream)
            if ranges is None:
                ranges = self._forgotten[stream] = Ranges()
            ranges.add(start, stop)

    def check(self) -> None:
        """Assert what holds of each stream, and that only those have a time that are there."""
        for dedup in self._dedup.values():
            dedup.check()
        assert self.forgetting.keys() <= self._dedup.keys(), "a stream that is not there is to be forgotten"

    def take_forgotten(self) -> dict[str, Ranges]:
        """What the ledger may forget, since the last call."""
        if not self._forgotten:
            return {}
        forgotten, self._forgotten = self._forgotten, {}
        return forgotten
