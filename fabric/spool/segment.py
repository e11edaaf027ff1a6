"""Segments of a log: its files, which messages are in which, and which of them are settled."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from peerfabric.errors import NewerFormat
from peerfabric.ranges import Ranges
from peerfabric.spool.cursor import Cursor, CursorFiles
from peerfabric.spool.files import Files, discard, refusal, write
from peerfabric.spool.format import (
    PREALLOCATED,
    SEGMENT_HEADER_BYTES_MAX,
    SegmentHeader,
    decode_segment,
    encode_segment,
    parse_name,
    segment_name,
)
from peerfabric.spool.scan import reader_of


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


@dataclass(eq=False, slots=True)
class Segment:
    """A file of records.

    start <= synced <= end <= size of the file
    0 <= unsettled <= messages = the sum of the extents
    """

    path: str
    serial: int
    salt: int
    start: int
    """Where the first record is."""
    end: int
    """Where the next one would be."""
    through: int = 0
    revision: int = 0
    synced: int = 0
    """Up to here it is durable."""
    descriptor: int = -1
    """Open while something may still be written or synced."""
    sealed: bool = True
    """Takes no more appends."""
    fresh: bool = False
    """Its name in the folder is not durable yet."""
    doubtful: bool = False
    """A sync failed, and what was not durable then never will be said to be."""
    damaged: bool = False
    """Something in it is no record, or could not be read: nothing of it is rewritten."""
    preallocated: bool = False
    syncs: int = 0
    """How many syncs are under way; the descriptor stays open for them."""
    messages: int = 0
    unsettled: int = 0
    tight: int = 0
    """With so many unsettled messages it cannot be made smaller."""
    extents: list[tuple[int, int, int]] = field(default_factory=list)
    """(epoch, first, stop) of its messages in the order of the file, merged where they are contiguous."""
    skip: set[int] = field(default_factory=set)
    """Offsets of records that are in another segment too."""

    @property
    def dirty(self) -> bool:
        """Whether something in it is written and not durable."""
        return self.synced < self.end

    def extend(self, epoch: int, first: int, stop: int) -> None:
        """A record with these messages is at the end."""
        if self.extents and self.extents[-1][0] == epoch and self.extents[-1][2] == first:
            self.extents[-1] = (epoch, self.extents[-1][1], stop)
        else:
            self.extents.append((epoch, first, stop))
        self.messages += stop - first

    def cut(self, epoch: int, first: int, stop: int) -> None:
        """The last record, with these messages, is not in it after all."""
        last = self.extents.pop()
        assert last == (epoch, min(last[1], first), stop), "only the last record can be cut off"
        if last[1] < first:
            self.extents.append((epoch, last[1], first))
        self.messages -= stop - first


def create(files: Files, folder: str, header: SegmentHeader, name: str = "", descriptor: int = -1) -> Segment:
    """A new segment with its header written, open for appends; after an error there is no file left.

    With a `descriptor` the file is there already: the spare, under its new name.
    """
    data = encode_segment(header)
    path = f"{folder}/{name or segment_name(header.serial, header.salt)}"
    if descriptor < 0:
        descriptor = files.open(path, create=True)
    try:
        written, error = write(files, descriptor, 0, [data], len(data))
        if error is not None:
            raise error
    except BaseException:
        discard(files, path, descriptor)
        raise
    return Segment(
        path,
        header.serial,
        header.salt,
        len(data),
        written,
        header.through,
        header.revision,
        descriptor=descriptor,
        sealed=False,
        fresh=True,
        preallocated=bool(header.flags),
    )


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


class Identity(NamedTuple):
    """Whose log it is; every segment says so too."""

    node_id: str
    queue: str
    kind: int


T = TypeVar("T")


class Found:
    """What lies in the folder of a log: its names, its cursor, and the size and header of each segment.

    Args:
        fresh: The folder was just made, so nothing is in it.
        strict: Raise what keeps it from being read; else something is missing then, and it is not `whole`.

    Raises:
        NewerFormat: A later version wrote in it.
        SpoolError: Something of it cannot be read now.
    """

    def __init__(self, files: Files, folder: str, *, fresh: bool = False, strict: bool = True) -> None:
        self.whole = True
        self._strict = strict
        self.names: list[str] = [] if fresh else self._tried(partial(files.names, folder)) or []
        self.cursor_files = CursorFiles(files, folder)
        self.cursor: Cursor | None = self._tried(self.cursor_files.read) if self.names else None
        self.headers: dict[str, tuple[int, SegmentHeader | None]] = {}
        for name in self.names:
            if name.endswith(".seg"):
                found = self._tried(partial(read_header, files, f"{folder}/{name}"))
                if found is not None:
                    self.headers[name] = found

    def _tried(self, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except OSError as error:
            if self._strict or isinstance(error, NewerFormat):
                raise
            self.whole = False
            return None

    @property
    def segments_bytes(self) -> int:
        return sum(size for size, _ in self.headers.values())


def open_file(files: Files, path: str, *, write: bool = False) -> int:
    """A descriptor for a file that is there.

    Raises:
        SpoolUnsafe: It is a symbolic link.
        SpoolError: It cannot be opened. To go on without it would be to lose it.
    """
    try:
        return files.open(path, write=write)
    except OSError as error:
        raise refusal(error, path) from error


def find_segments(found: Found, folder: str, identity: Identity, problems: list[str]) -> tuple[list[Segment], int]:
    """The segments of `identity` in the order of the log, and the highest serial that any file has.

    What is not ours is left alone and told of in `problems`.
    """
    segments: list[Segment] = []
    highest = 0
    for name, (size, header) in found.headers.items():
        path = f"{folder}/{name}"
        named = parse_name(name)
        highest = max(highest, header.through if header else named[0] if named else 0)
        if header is not None and Identity(header.node_id, header.queue, header.kind) != identity:
            problems.append(f"{path}: is of queue {header.queue!r} of node {header.node_id}; left alone")
        elif header is not None:
            segments.append(_segment(path, header, size))
        elif named is None:
            problems.append(f"{path}: no segment by its name or header; left alone")
        else:
            if size:
                problems.append(f"{path}: the header at offset 0 is damaged; the name is believed")
            segments.append(_segment(path, _by_name(named, identity), size))
    segments.sort(key=lambda segment: (segment.serial, segment.revision, segment.salt))
    return segments, highest


def read_header(files: Files, path: str) -> tuple[int, SegmentHeader | None]:
    """The size of the file, and its header if that is intact."""
    descriptor = open_file(files, path)
    try:
        size = files.size(descriptor)
        data = reader_of(files, descriptor, path)(0, min(size, SEGMENT_HEADER_BYTES_MAX))
    finally:
        files.close(descriptor)
    return size, decode_segment(data, path)


def _segment(path: str, header: SegmentHeader, size: int) -> Segment:
    return Segment(
        path,
        header.serial,
        header.salt,
        min(header.length, size),
        size,
        header.through,
        header.revision,
        preallocated=bool(header.flags & PREALLOCATED),
    )


def _by_name(named: tuple[int, int], identity: Identity) -> SegmentHeader:
    """The header as it must have been, as far as it matters; its length follows from whose it is."""
    serial, salt = named
    header = SegmentHeader(serial, serial, salt, 0, 0, 0, identity.kind, 0, identity.node_id, identity.queue)
    return header._replace(length=len(encode_segment(header)))
