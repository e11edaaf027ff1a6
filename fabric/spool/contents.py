"""Which messages are in a log, in which segment, and which of them are settled."""

from __future__ import annotations

from bisect import bisect_right

from peerfabric.ranges import Ranges
from peerfabric.spool.index import Index
from peerfabric.spool.segment import Segment


class Contents:
    """The segments of one log and the accounts of their messages.

    unsettled of a segment = its messages without those in `settled`
    """

    def __init__(self, segments: list[Segment], settled: dict[int, Ranges]) -> None:
        self.segments = segments
        """Oldest first, by serial."""
        self.settled = {epoch: Ranges(ranges) for epoch, ranges in settled.items()}
        self.index = Index()
        self.unsettled = 0
        self.next: dict[int, int] = {}
        """By epoch of this life, the sequence after the last one appended."""
        self._settled_ahead = set(settled)
        """Epochs of which something may be settled before it is appended."""
        for segment in segments:
            for epoch, first, stop in segment.extents:
                self._count(segment, epoch, first, stop, 1)
                self.index.add(epoch, first, stop, segment)

    def append(self, segment: Segment, epoch: int, first: int, stop: int) -> None:
        """A record was written at the end of `segment`."""
        line, extents = self.index.lines.get(epoch), segment.extents
        if line is not None and extents and epoch not in self._settled_ahead:
            last_epoch, low, high = extents[-1]
            _, stops, segments = line
            there = self.next.get(epoch, first)
            if there <= first == high == stops[-1] and last_epoch == epoch and segments[-1] is segment:
                # As mostly, it follows the one before it.
                extents[-1] = (epoch, low, stop)
                stops[-1] = self.next[epoch] = stop
                segment.messages += stop - first
                segment.unsettled += stop - first
                self.unsettled += stop - first
                return
        segment.extend(epoch, first, stop)
        self._count(segment, epoch, first, stop, 1)
        self.index.add(epoch, first, stop, segment)
        if stop > self.next.get(epoch, 0):
            self.next[epoch] = stop

    def cut(self, segment: Segment, epoch: int, first: int, stop: int) -> None:
        """The last record of `segment` is not in it after all."""
        segment.cut(epoch, first, stop)
        self._count(segment, epoch, first, stop, -1)
        self.index.remove(epoch, first, stop, segment)

    def drop(self, segment: Segment) -> None:
        """`segment` is no more."""
        self.segments.remove(segment)
        self.unsettled -= segment.unsettled
        for epoch, first, stop in segment.extents:
            self.index.remove(epoch, first, stop, segment)

    def replace(self, old: list[Segment], new: Segment) -> None:
        """`new` has what is wanted of `old`, which are neighbours."""
        at = self.segments.index(old[0])
        for segment in old:
            self.drop(segment)
        self.segments.insert(at, new)
        for epoch, first, stop in new.extents:
            self._count(new, epoch, first, stop, 1)
            self.index.add(epoch, first, stop, new)

    def settle(self, epoch: int, start: int, stop: int) -> None:
        """Messages `[start, stop)` are wanted no more, whether they are here or not."""
        ranges = self.settled.get(epoch)
        if ranges is None:
            ranges = self.settled[epoch] = Ranges()
        for low, high in ranges.missing(start, stop):
            for segment, count in self.index.overlaps(epoch, low, high):
                segment.unsettled -= count
                self.unsettled -= count
        ranges.add(start, stop)
        if stop > self.next.get(epoch, 0):
            self._settled_ahead.add(epoch)

    def forget(self) -> None:
        """Drop from `settled` what is in no segment, and will not be."""
        for epoch in list(self.settled):
            span = self.index.span(epoch)
            if span is not None:
                self.settled[epoch].remove(0, span[0])
            elif epoch in self.next:
                self.settled[epoch].remove(0, self.next[epoch])
            else:
                del self.settled[epoch]

    def spans(self) -> list[tuple[int, int, int]]:
        """(epoch, oldest, next) of every epoch that is here or of this life."""
        found = []
        for epoch in sorted({*self.index.epochs(), *self.next}):
            oldest, following = self.index.span(epoch) or (self.next[epoch], 0)
            found.append((epoch, oldest, max(following, self.next.get(epoch, 0))))
        return found

    def after(self, serial: int) -> Segment | None:
        """The first segment behind `serial`."""
        at = bisect_right(self.segments, serial, key=lambda segment: segment.serial)
        return self.segments[at] if at < len(self.segments) else None

    def _count(self, segment: Segment, epoch: int, first: int, stop: int, sign: int) -> None:
        count = stop - first
        ranges = self.settled.get(epoch)
        if ranges:
            count -= sum(high - low for low, high in ranges.common(first, stop))
        segment.unsettled += sign * count
        self.unsettled += sign * count

    def check(self) -> None:
        """Assert the invariants: the accounts of each segment, and every unsettled message is in a live one."""
        self.index.check()
        serials = [segment.serial for segment in self.segments]
        assert serials == sorted(serials), "segments are out of order"
        total = 0
        for segment in self.segments:
            assert segment.messages == sum(stop - first for _, first, stop in segment.extents)
            settled = sum(
                high - low
                for epoch, first, stop in segment.extents
                if epoch in self.settled
                for low, high in self.settled[epoch].common(first, stop)
            )
            assert segment.unsettled == segment.messages - settled, f"{segment.path} counts wrong"
            assert 0 <= segment.synced <= segment.end
            total += segment.unsettled
        assert self.unsettled == total, "unsettled is not the sum over segments"
