"""Which segment has which message: one sorted list of extents for each epoch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from peerfabric.spool.segment import Segment


class Index:
    """Extents of all segments by epoch and sequence, merged where one segment has contiguous ones."""

    def __init__(self) -> None:
        self.lines: dict[int, tuple[list[int], list[int], list[Segment]]] = {}

    def add(self, epoch: int, first: int, stop: int, segment: Segment) -> None:
        """`segment` has `[first, stop)` of `epoch`."""
        line = self.lines.get(epoch)
        if line is None:
            line = self.lines[epoch] = ([], [], [])
        firsts, stops, segments = line
        if firsts and first == stops[-1] and segments[-1] is segment:
            stops[-1] = stop
            return
        at = bisect_right(firsts, first) if firsts and firsts[-1] > first else len(firsts)
        firsts.insert(at, first)
        stops.insert(at, stop)
        segments.insert(at, segment)

    def remove(self, epoch: int, first: int, stop: int, segment: Segment) -> None:
        """`segment` has `[first, stop)` no more; it had all of that in one extent."""
        firsts, stops, segments = self.lines[epoch]
        at = bisect_right(firsts, first) - 1
        while segments[at] is not segment:
            at -= 1
        low, high = firsts[at], stops[at]
        kept = [(a, b) for a, b in ((low, first), (stop, high)) if a < b]
        firsts[at : at + 1] = [a for a, _ in kept]
        stops[at : at + 1] = [b for _, b in kept]
        segments[at : at + 1] = [segment] * len(kept)
        if not firsts:
            del self.lines[epoch]

    def overlaps(self, epoch: int, start: int, stop: int) -> list[tuple[Segment, int]]:
        """The segments that have messages of `[start, stop)`, and how many of them."""
        line = self.lines.get(epoch)
        if line is None:
            return []
        firsts, stops, segments = line
        low = max(0, bisect_right(firsts, start) - 1)
        high = bisect_left(firsts, stop, low)
        return [
            (segments[at], min(stop, stops[at]) - max(start, firsts[at]))
            for at in range(low, high)
            if stops[at] > start
        ]

    def span(self, epoch: int) -> tuple[int, int] | None:
        """The oldest sequence of `epoch` that is in a segment, and the one after the newest."""
        line = self.lines.get(epoch)
        return (line[0][0], line[1][-1]) if line else None

    def epochs(self) -> list[int]:
        return sorted(self.lines)

    def __contains__(self, epoch: int) -> bool:
        return epoch in self.lines

    def __len__(self) -> int:
        """How many extents there are."""
        return sum(len(line[0]) for line in self.lines.values())

    def check(self) -> None:
        """Assert the invariant: the extents of an epoch are in order and do not overlap."""
        for firsts, stops, segments in self.lines.values():
            assert len(firsts) == len(stops) == len(segments) > 0
            edges = [edge for pair in zip(firsts, stops, strict=True) for edge in pair]
            assert edges == sorted(edges), "extents overlap or are out of order"
