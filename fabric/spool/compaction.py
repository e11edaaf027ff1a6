"""Compaction of neighbouring segments of which little is still wanted. FORMAT.md, section 8."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from peerfabric.errors import BadFrame, SpoolError
from peerfabric.spool.files import Files, discard, refusal, write
from peerfabric.spool.format import RECORD_BYTES, SegmentHeader, record_header, segment_name
from peerfabric.spool.reader import Reader
from peerfabric.spool.scan import Damage, reader_of, scan
from peerfabric.spool.segment import Contents, Segment, create, open_file
from peerfabric.spool.writer import Entry, Shelf
from peerfabric.wire.bodies import rejoin, split

SPARSE: Final = 0.1
"""A segment is compacted if less than that part of a whole one is unsettled."""
SOURCES_MAX: Final = 16
"""Segments read in one call: an upper bound for the time it takes."""


class Compactor:
    """Makes few and full segments of many and sparse ones, in the order in which they are."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._contents = shelf, shelf.contents
        self._made = 0

    def run(self, readers: Collection[Reader], bytes_max: int) -> list[Segment]:
        """Replace some neighbours by one new segment, and return what was replaced.

        What is settled must be in the cursor on disk. No reader misses anything, nor gets it twice.

        Raises:
            SpoolError: Nothing has changed. A segment that could not be read is not chosen again.
        """
        group = self._choose(readers, bytes_max)
        if not group:
            return []
        try:
            new = self._rewrite(group)
        except OSError as error:
            raise refusal(error, self._shelf.folder) from error
        if new is None:
            return []
        for segment in group:
            try:
                self._shelf.files.unlink(segment.path)
            except OSError:
                # The next start removes it, since the new one has all of it that is wanted.
                pass
        self._contents.replace(group, new)
        self._shelf.share.bytes += new.end - sum(segment.end for segment in group)
        return group

    def _choose(self, readers: Collection[Reader], bytes_max: int) -> list[Segment]:
        group: list[Segment] = []
        room_max = room = min(bytes_max, self._shelf.segment_bytes)
        busy = {reader.segment for reader in readers}
        for segment in self._contents.segments:
            if group and any(group[0].serial <= reader.serial < segment.serial for reader in readers):
                # The segment that a reader is in may be removed already. What is behind it must not come before it.
                if _worthwhile(group):
                    break
                group, room = [], room_max
            live = _live_bytes(segment)
            able = segment.sealed and not (segment.syncs or segment.damaged or segment.skip or segment in busy)
            sparse = segment.unsettled > 0 and live < SPARSE * self._shelf.segment_bytes
            if able and sparse and live <= room and not (self._shelf.fsync and segment.dirty):
                group.append(segment)
                room -= live
                if len(group) == SOURCES_MAX:
                    break
            elif _worthwhile(group):
                break
            else:
                group, room = [], room_max
        return group if _worthwhile(group) else []

    def _rewrite(self, group: list[Segment]) -> Segment | None:
        """A durable segment with what is unsettled in `group`, under a name by which recovery prefers it.

        None: something in it is damaged, or no byte would be freed, so it stays. After an error nothing has changed.
        """
        files, header = self._shelf.files, self._header(group)
        name = segment_name(header.serial, header.salt)
        new = create(files, self._shelf.folder, header, name=f"{name}.tmp")
        path = new.path
        try:
            for segment in group:
                if not _copy(files, self._contents, segment, new):
                    discard(files, path, new.descriptor)
                    return None
            if len(group) == 1 and new.end >= group[0].end:
                # Records with extras stay whole. It is tried again when more of them is settled.
                group[0].tight = group[0].unsettled
                discard(files, path, new.descriptor)
                return None
            files.sync(new.descriptor)
            files.rename(path, f"{self._shelf.folder}/{name}")
            path = f"{self._shelf.folder}/{name}"
            files.sync_folder(self._shelf.folder)
        except OSError:
            discard(files, path, new.descriptor)
            raise
        files.close(new.descriptor)
        new.path, new.descriptor, new.sealed, new.fresh, new.synced = path, -1, True, False, new.end
        return new

    def _header(self, group: list[Segment]) -> SegmentHeader:
        self._made += 1
        revision = 1 + max(segment.revision for segment in group)
        # Counted down from above, so that no new segment of this life has the same salt.
        return self._shelf.header(group[0].serial, group[-1].through, revision, 0xFFFFFFFFFFFFFFFF - self._made, 0)


def _worthwhile(group: list[Segment]) -> bool:
    """Whether it frees half of what it reads, or makes one file of several."""
    if len(group) != 1:
        return bool(group)
    [alone] = group
    return alone.unsettled != alone.tight and 2 * _live_bytes(alone) < alone.end - alone.start


def _live_bytes(segment: Segment) -> int:
    """About how many bytes unsettled messages need."""
    return (segment.end - segment.start) * segment.unsettled // max(1, segment.messages)


def _copy(files: Files, contents: Contents, old: Segment, new: Segment) -> bool:
    descriptor = open_file(files, old.path)
    parts: list[bytes] = []
    start = new.end
    try:
        for item in scan(reader_of(files, descriptor, old.path), old.start, old.end, old.salt):
            if isinstance(item, Damage):
                old.damaged = True
                return False
            _, at, data, (_, _, body_bytes, extras_bytes, _, count, epoch, first, unix_ms, codec, _, _) = item
            at += RECORD_BYTES
            end = at + body_bytes
            entry = (first, count, codec, data[at:end], data[end : end + extras_bytes])
            for wanted in _wanted(contents, epoch, entry):
                first, count, codec, body, extras = wanted
                header = record_header(new.salt, new.end, body, extras, epoch, first, count, codec, unix_ms)
                parts += (header, bytes(body), bytes(extras))
                new.end += len(header) + len(body) + len(extras)
                new.extend(epoch, first, first + count)
    except SpoolError:
        old.damaged = True
        raise
    finally:
        files.close(descriptor)
    data = b"".join(parts)
    if data:
        _, error = write(files, new.descriptor, start, [data], len(data))
        if error is not None:
            raise error
    return True


def _wanted(contents: Contents, epoch: int, entry: Entry) -> Iterator[Entry]:
    """The parts of a record that are not settled, or all of it if it cannot be cut."""
    first, count, codec, body, extras = entry
    ranges = contents.settled.get(epoch)
    parts = ranges.missing(first, first + count) if ranges else [(first, first + count)]
    if not parts:
        return
    if parts == [(first, first + count)] or extras:
        yield entry
        return
    try:
        elements = split(body, codec)
    except BadFrame:
        elements = []
    if len(elements) != count:
        yield entry
        return
    for low, high in parts:
        yield low, high - low, codec, rejoin(elements[low - first : high - first]), b""
