"""Deadlines: a heap of the instants at which something is to be looked at, each thing at most once."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Things with an instant each; putting one costs the logarithm of their number."""

    def __init__(self) -> None:
        self.first = inf
        """The earliest instant; inf: nothing is waited for."""
        self._at: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        """With entries that do not count any more: those whose instant is not that of `_at`."""
        self._serial = 0

    def put(self, thing: T, at: float) -> None:
        """Look at `thing` no later than `at`; an earlier instant of it stays."""
        if at >= self._at.get(thing, inf):
            return
        self._at[thing] = at
        self._serial += 1
        heappush(self._heap, (at, self._serial, thing))
        self.first = min(self.first, at)

    def move(self, thing: T, at: float) -> None:
        """Look at `thing` at that instant, and not before; inf: not at all."""
        if self._at.pop(thing, None) is not None:
            if len(self._heap) > 2 * len(self._at) + 64:  # things that are gone may have had far instants
                self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
                heapify(self._heap)
            self._clear()
        self.put(thing, at)

    def take_due(self, now: float) -> list[T]:
        """The things whose instant has come, the earliest first; until they are put again they are not looked at."""
        due: list[T] = []
        while self.first <= now:
            thing = heappop(self._heap)[2]
            del self._at[thing]
            due.append(thing)
            self._clear()
        return due

    def _clear(self) -> None:
        """Take what does not count from the top of the heap."""
        heap, at = self._heap, self._at
        while heap and at.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        self.first = heap[0][0] if heap else inf


__all__ = ["Deadlines"]
