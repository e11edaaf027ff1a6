"""Ranges of sequences: half-open, sorted, never touching each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence


class Ranges:
    """A set of integers kept as ranges `[start, stop)`.

    Work is in proportion to the ranges touched, not to the integers in them; adding right behind the
    last range, the common case of acks in order, is constant.
    """

    __slots__ = ("_starts", "_stops", "total")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.total = 0
        """How many integers are in the set."""
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> int:
        """Add `[start, stop)` and return how many integers of it were new."""
        starts, stops = self._starts, self._stops
        if start >= stop:
            return 0
        if not starts or start > stops[-1]:
            starts.append(start)
            stops.append(stop)
            self.total += stop - start
            return stop - start
        if start == stops[-1]:
            stops[-1] = stop
            self.total += stop - start
            return stop - start
        low = bisect_left(stops, start)
        high = bisect_right(starts, stop)
        if low == high:
            starts.insert(low, start)
            stops.insert(low, stop)
            self.total += stop - start
            return stop - start
        before = sum(stops[low:high]) - sum(starts[low:high])
        merged_start, merged_stop = min(start, starts[low]), max(stop, stops[high - 1])
        starts[low:high] = [merged_start]
        stops[low:high] = [merged_stop]
        new = merged_stop - merged_start - before
        self.total += new
        return new

    def remove(self, start: int, stop: int) -> int:
        """Remove `[start, stop)` and return how many integers of it were in the set."""
        starts, stops = self._starts, self._stops
        if start >= stop or not starts:
            return 0
        if start <= starts[0] and stop >= stops[-1]:  # all of it, the common case of a set that is worked off
            removed, self.total = self.total, 0
            starts.clear()
            stops.clear()
            return removed
        low = bisect_right(stops, start)
        high = bisect_left(starts, stop)
        if low >= high:
            return 0
        removed = sum(min(stop, stops[at]) - max(start, starts[at]) for at in range(low, high))
        edges = [(starts[low], start), (stop, stops[high - 1])]
        kept = [(a, b) for a, b in edges if a < b]
        starts[low:high] = [a for a, _ in kept]
        stops[low:high] = [b for _, b in kept]
        self.total -= removed
        return removed

    def common(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of `[start, stop)` that are in the set, in order."""
        starts, stops = self._starts, self._stops
        if not starts or start >= stops[-1] or stop <= starts[0]:  # none, as mostly of what comes in order
            return []
        low = bisect_right(stops, start)
        high = bisect_left(starts, stop, low)
        return [(max(start, starts[at]), min(stop, stops[at])) for at in range(low, high)]

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of `[start, stop)` that are not in the set, in order."""
        gaps = []
        for a, b in self.common(start, stop) if self._starts else ():
            if start < a:
                gaps.append((start, a))
            start = b
        if start < stop:
            gaps.append((start, stop))
        return gaps

    def first_missing(self, start: int) -> int:
        """The lowest integer from `start` on that is not in the set."""
        at = bisect_right(self._starts, start) - 1
        return max(start, self._stops[at]) if at >= 0 else start

    @property
    def lowest(self) -> int | None:
        """The lowest integer of the set."""
        return self._starts[0] if self._starts else None

    def flat(self) -> list[int]:
        """The set as `[start, stop, start, stop, …]`, its form on the wire."""
        if len(self._starts) == 1:
            return [self._starts[0], self._stops[0]]
        return [edge for pair in zip(self._starts, self._stops, strict=True) for edge in pair]

    def clear(self) -> None:
        """Remove everything."""
        self._starts.clear()
        self._stops.clear()
        self.total = 0

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._stops[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __len__(self) -> int:
        """How many ranges the set needs; `total` counts its integers."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({list(self)!r})"

    def check(self) -> None:
        """Assert the invariant: starts and stops alternate and grow, and `total` is their sum."""
        edges = self.flat()
        assert edges == sorted(set(edges)), "ranges touch, overlap or are out of order"
        assert self.total == sum(edges[1::2]) - sum(edges[0::2]), "total is not the sum of the ranges"


def pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    """Read ranges from their form on the wire; a trailing odd number and empty ranges are dropped."""
    if not flat:  # what an ACK has none of: most sorts of ranges in most ACKs
        return []
    if len(flat) == 2:
        return [(flat[0], flat[1])] if 0 <= flat[0] < flat[1] else []
    return [(start, stop) for start, stop in zip(flat[0::2], flat[1::2], strict=False) if 0 <= start < stop]
