"""Deficit round robin: the turns of producers whose messages are buffered at one consumer, by bytes."""

from __future__ import annotations

from collections import deque

from peerfabric.queue.delivery import Delivery
from peerfabric.queue.granting import QUANTUM
from peerfabric.queue.source import Source


class Turns(deque[Source]):
    """The sources with something buffered, whose turn it is first; each `queued` one is here once."""

    def join(self, source: Source) -> None:
        """Something of `source` is buffered."""
        if source.buffer and not source.queued:
            source.queued = True
            self.append(source)

    def available(self, now: float) -> bool:
        """Whether `take` would return something."""
        return any(source.buffer and source.fence > now for source in self)

    def take(self, now: float) -> Delivery | None:
        """Remove and return the next delivery; None if nothing may be handed out."""
        for _ in range(2 * len(self)):
            if not self:
                return None
            source = self[0]
            buffer = source.buffer
            if not buffer:
                self._leave(source)
                continue
            if source.fence <= now:
                source.deficit = 0
                self.rotate(-1)
                continue
            if source.deficit <= 0:
                source.deficit += max(QUANTUM, buffer[0].cost)
                if len(self) > 1 and source.deficit <= 0:
                    self.rotate(-1)
                    continue
            delivery = buffer.popleft()
            delivery.until = source.fence
            source.deficit -= max(1, delivery.cost)
            if not buffer:
                self._leave(source)
            elif source.deficit <= 0:
                self.rotate(-1)
            return delivery
        return None

    def _leave(self, source: Source) -> None:
        self.popleft()
        source.queued, source.deficit = False, min(0, source.deficit)

    def check(self) -> None:
        """Assert that each is here once and knows."""
        assert all(source.queued for source in self), "a producer has a turn and does not know"
        assert len(set(map(id, self))) == len(self), "a producer has two turns"
