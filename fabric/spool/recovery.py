"""What is in a log's folder after anything may have happened to it. FORMAT.md, sections 6 and 7."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf

from peerfabric.ranges import Ranges
from peerfabric.spool.files import Files
from peerfabric.spool.format import DEAD, RECORD_BYTES
from peerfabric.spool.inventory import Found, Identity, find_segments, open_file
from peerfabric.spool.losses import Known, lost, settled
from peerfabric.spool.quarantine import Quarantine
from peerfabric.spool.scan import Damage, Read, reader_of, scan
from peerfabric.spool.segment import Segment


@dataclass
class Recovery:
    """What was found. Ranges of sequences are half-open."""

    extents: list[tuple[int, int, int]] = field(default_factory=list)
    """(epoch, first, stop) of intact records, in order, merged where they are contiguous."""
    damaged: list[tuple[int, int, int]] = field(default_factory=list)
    """(epoch, first, stop) of messages that are lost; one for all of them where their number is unknown."""
    torn: list[str] = field(default_factory=list)
    """Unfinished last writes, for people."""
    torn_at: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, next expected sequence) for each of `torn`."""
    problems: list[str] = field(default_factory=list)
    """Damage elsewhere, with file and offset, for people."""
    settled: dict[int, Ranges] = field(default_factory=dict)
    """What the cursor says."""
    marks: bytes = b""


class Recoverer:
    """One pass over the folder of a log; without `repair` it changes nothing.

    Everything is read before anything is changed. So a disk that cannot be read now is no reason to cut or set aside
    what is good, and a later start finds all of it.

    Raises:
        SpoolError: A file could not be opened or read; nothing was changed.
    """

    def __init__(self, files: Files, folder: str, identity: Identity, there: Found, *, repair: bool) -> None:
        self.found = Recovery()
        self.segments: list[Segment] = []
        self._files = files
        self._folder = folder
        self._repair = repair
        self._dense = identity.kind != DEAD
        self._quarantine = Quarantine(files, folder)
        self._known = Known()
        self._before = (0, 1)
        self._repairs: list[Callable[[], object]] = []
        self._there = there
        segments, self.serial = find_segments(there, folder, identity, self.found.problems)
        self._segments = segments

    def run(self) -> None:
        """Fill `found` and `segments`, and repair what can be repaired."""
        cursor = self._there.cursor
        superseded = self._superseded(self._segments)
        segments = [segment for segment in self._segments if segment not in superseded]
        # What a compaction copied counts only where the original is gone: so originals come first.
        for segment in sorted(segments, key=lambda s: s.revision):
            self._recover(segment, newest=segment is segments[-1])
        # All is read; from here on things may be changed.
        self._clear_temporary()
        for segment in superseded:
            self._try(segment.path, self._files.unlink)
        for repair in self._repairs:
            repair()
        self.segments = [segment for segment in segments if self._keep(segment)]
        found = self.found
        for segment in self.segments:
            for extent in segment.extents:
                _extend(found.extents, extent)
        found.damaged = lost(self._known, cursor, dense=self._dense)
        if cursor is not None:
            found.settled = settled(self._known, cursor, dense=self._dense)
            found.marks = cursor.marks

    # Record by record

    def _recover(self, segment: Segment, *, newest: bool) -> None:
        descriptor = open_file(self._files, segment.path)
        try:
            read = reader_of(self._files, descriptor, segment.path)
            damages, whole = self._records(segment, read)
            tail = next((at for at, (damage, _) in enumerate(damages) if damage.offset >= whole), len(damages))
            rest = damages[tail:]
            if rest and segment.preallocated and _blank(read, rest[0][0].offset, segment.end):
                self._cut(segment, rest[0][0].offset, blank=True)
            elif rest and newest:
                self._tear(segment, read, *rest[0])
            else:
                tail = len(damages)
            for damage, before in damages[:tail]:
                self._report(segment, damage, before)
        finally:
            self._files.close(descriptor)
        segment.synced = segment.end

    def _records(self, segment: Segment, read: Read) -> tuple[list[tuple[Damage, tuple[int, int]]], int]:
        """Take in what is intact; what is not, with what was expected there, and where the last intact record ends."""
        damages = []
        whole, known = segment.start, self._known
        epoch = low = high = 0
        barrier: float = 0
        for item in scan(read, segment.start, segment.end, segment.salt):
            if isinstance(item, Damage):
                self._take(segment, epoch, low, high)
                epoch = low = high = 0
                damages.append((item, self._before))
                if item.count:
                    self._before = (item.epoch, item.first + item.count)
                continue
            offset, _, _, (_, _, body, extras, _, count, its, first, *_) = item
            whole = offset + RECORD_BYTES + body + extras
            if first == high and its == epoch and first + count <= barrier:
                high += count
                continue
            self._take(segment, epoch, low, high)
            epoch, low, high = its, first, first + count
            # Behind everything that is known, what follows cannot be known.
            barrier = inf if first >= known.highest.get(epoch, 0) else high
            if barrier == high and known.has_all(epoch, low, high):
                segment.skip.add(offset)
                epoch = low = high = 0
        self._take(segment, epoch, low, high)
        return damages, whole

    def _take(self, segment: Segment, epoch: int, first: int, stop: int) -> None:
        """A run of records, `[first, stop)`, is intact and new."""
        if first < stop:
            segment.extend(epoch, first, stop)
            self._known.take(epoch, first, stop)
            self._before = (epoch, stop)

    # Damage

    def _tear(self, segment: Segment, read: Read, damage: Damage, before: tuple[int, int]) -> None:
        """Cut off the end of the newest segment, of which a copy is kept."""
        at, size = damage.offset, segment.end - damage.offset
        blank = _blank(read, at, segment.end)
        self.found.torn_at.append(before)
        self.found.torn.append(
            f"{segment.path}: torn at offset {at:,}: {size:,} bytes{' of zeros' if blank else ''}; "
            f"the next expected sequence is {before[1]} of epoch {before[0]}"
        )
        self._cut(segment, at, blank=blank)

    def _cut(self, segment: Segment, at: int, *, blank: bool) -> None:
        """`segment` ends at `at`; what is behind is cut off, once it is saved if there is anything in it."""
        end, segment.end = segment.end, at
        self._repairs.append(
            lambda: (blank or self._save(segment, at, end)) and self._try(segment.path, partial(self._truncate, at))
        )

    def _truncate(self, at: int, path: str) -> None:
        descriptor = open_file(self._files, path, write=True)
        try:
            self._files.truncate(descriptor, at)
        finally:
            self._files.close(descriptor)

    def _report(self, segment: Segment, damage: Damage, before: tuple[int, int]) -> None:
        segment.damaged = True
        what = "no record"
        if damage.count:
            stop = damage.first + damage.count
            self._known.damaged.setdefault(damage.epoch, Ranges()).add(damage.first, stop)
            what = f"sequences {damage.first} to {stop - 1} of epoch {damage.epoch} are damaged"
        else:
            self._known.ends.append(before)
        self.found.problems.append(f"{segment.path}: offset {damage.offset:,} to {damage.stop:,}: {what}")
        self._repairs.append(lambda: self._save(segment, damage.offset, damage.stop))

    def _save(self, segment: Segment, start: int, stop: int) -> bool:
        problem = self._quarantine.save(segment.path, start, stop) if self._repair else ""
        if problem:
            self.found.problems.append(problem)
        return not problem

    # Files

    def _superseded(self, segments: list[Segment]) -> list[Segment]:
        """Segments that an intact compaction has replaced, and that a crash has left behind."""
        found: list[Segment] = []
        for new in segments:
            old = [
                segment
                for segment in segments
                if new.serial <= segment.serial <= segment.through <= new.through and segment.revision < new.revision
            ]
            if old and self._intact(new):
                found += (segment for segment in old if segment not in found)
        return found

    def _intact(self, segment: Segment) -> bool:
        descriptor = open_file(self._files, segment.path)
        try:
            read = reader_of(self._files, descriptor, segment.path)
            return not any(isinstance(item, Damage) for item in scan(read, segment.start, segment.end, segment.salt))
        finally:
            self._files.close(descriptor)

    def _keep(self, segment: Segment) -> bool:
        """Whether `segment` has something to keep; if not, it is removed or set aside."""
        if segment.messages or segment.damaged:
            return True
        if segment.skip:
            self.found.problems.append(f"{segment.path}: has nothing but duplicates; set aside")
            return not self._try(segment.path, self._quarantine.take)
        return not self._try(segment.path, self._files.unlink)

    def _clear_temporary(self) -> None:
        for name in self._there.names:
            if name.endswith(".seg.tmp"):
                self._try(f"{self._folder}/{name}", self._files.unlink)

    def _try(self, path: str, act: Callable[[str], object]) -> bool:
        """Change something that the next start can change as well; whether that worked."""
        if not self._repair:
            return True
        try:
            act(path)
        except OSError as error:
            self.found.problems.append(f"{path}: {error}")
            return False
        return True


def _blank(read: Read, start: int, stop: int) -> bool:
    step = 1024 * 1024
    return all(not read(at, min(step, stop - at)).strip(b"\0") for at in range(start, stop, step))


def _extend(extents: list[tuple[int, int, int]], extent: tuple[int, int, int]) -> None:
    if extents and extents[-1][0] == extent[0] and extents[-1][2] == extent[1]:
        extents[-1] = (extent[0], extents[-1][1], extent[2])
    else:
        extents.append(extent)
