"""Deduplication in one stream: a consumer recognises what it has processed.

    held     received, not finished          done     finished, and the producer may not know it yet
    floor    everything below is settled     settled  the last ACK whose results the producer keeps

Memory is exact and bounded: an entry of `done` is kept if and only if the number of
its ACK is above `settled`.
"""

from __future__ import annotations

from collections import deque
from math import inf

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
