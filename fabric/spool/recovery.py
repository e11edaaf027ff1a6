"""Recovery of a log, after anything may have happened to its folder. FORMAT.md, sections 6 and 7."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

from peerfabric.ranges import Ranges
from peerfabric.spool.cursor import Cursor
from peerfabric.spool.files import Files
from peerfabric.spool.format import DEAD, RECORD_BYTES
from peerfabric.spool.scan import Damage, Read, reader_of, scan
from peerfabric.spool.segment import Found, Identity, Segment, find_segments, open_file


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


Range = tuple[int, int, int]
"""(epoch, first, stop)"""


@dataclass
class Known:
    """What a scan has found of the messages of one log."""

    intact: dict[int, Ranges] = field(default_factory=dict)
    highest: dict[int, int] = field(default_factory=dict)
    """By epoch, the stop of the highest intact message."""
    damaged: dict[int, Ranges] = field(default_factory=dict)
    """Named by headers whose bodies are wrong."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, next expected sequence) where bytes began that are no record."""

    def take(self, epoch: int, first: int, stop: int) -> None:
        """These messages are intact."""
        self.intact.setdefault(epoch, Ranges()).add(first, stop)
        self.highest[epoch] = max(self.highest.get(epoch, 0), stop)

    def has_all(self, epoch: int, first: int, stop: int) -> bool:
        """Whether all of `[first, stop)` is known to be intact."""
        return not self.intact[epoch].missing(first, stop) if epoch in self.intact else False


def settled(known: Known, cursor: Cursor, *, dense: bool) -> dict[int, Ranges]:
    """What the cursor says of epochs that are still there.

    In a `dense` log sequences come in order, so what it says in few words holds too: below its oldest, and of epochs
    without a line, everything is settled.
    """
    found = {}
    for epoch in known.intact:
        ranges = found[epoch] = Ranges(cursor.settled.get(epoch, ()))
        if dense:
            oldest = known.highest[epoch] if cursor.forgotten(epoch) else cursor.spans.get(epoch, (1, 1))[0]
            ranges.add(1, oldest)
    return {epoch: ranges for epoch, ranges in found.items() if ranges}


def lost(known: Known, cursor: Cursor | None, *, dense: bool) -> list[Range]:
    """What was stored once, is neither intact nor settled, and what is at the end of an epoch: one for all of that."""
    found: list[Range] = []
    spans = cursor.spans if cursor is not None and dense else {}
    for epoch in sorted({*known.intact, *known.damaged, *spans}):
        intact, done = known.intact.get(epoch, Ranges()), Ranges(cursor.settled.get(epoch, ()) if cursor else ())
        suspects = _span(epoch, known, cursor) if dense else list(known.damaged.get(epoch, ()))
        gone = [gap for low, high in suspects for gap in intact.missing(low, high)]
        found += [(epoch, *part) for low, high in gone for part in done.missing(low, high)]
        tops = [following for of, following in known.ends if of == epoch and following >= _top(epoch, known, spans)]
        if dense and tops and tops[0] not in done:
            found.append((epoch, tops[0], tops[0] + 1))
    return found


def _span(epoch: int, known: Known, cursor: Cursor | None) -> list[tuple[int, int]]:
    """The range in which every number was stored once."""
    spans = cursor.spans if cursor is not None else {}
    if epoch in spans:
        low = spans[epoch][0]
    elif cursor is not None:
        # A cursor names what is left of each epoch, so nothing was removed of one that it does not name, or all.
        if cursor.forgotten(epoch):
            return []
        low = 1
    else:
        low = min(r.lowest or 1 for r in (known.intact.get(epoch), known.damaged.get(epoch)) if r)
    return [(low, _top(epoch, known, spans))]


def _top(epoch: int, known: Known, spans: dict[int, tuple[int, int]]) -> int:
    """The number after the highest that is known of."""
    damaged = max((stop for _, stop in known.damaged.get(epoch, ())), default=1)
    return max(known.highest.get(epoch, 1), damaged, spans.get(epoch, (1, 1))[1])


QUARANTINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one log. Damage beyond that is reported and not saved: a broken disk must not fill another one."""

_PART: Final = 1024 * 1024


class Quarantine:
    """The folder `quarantine/` of one log."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = f"{folder}/quarantine"

    def save(self, path: str, start: int, stop: int) -> str:
        """Copy bytes `[start, stop)` of the segment at `path`; why not, if not."""
        name = f"{path.rpartition('/')[2].removesuffix('.seg')}-{start:x}.bad"
        try:
            if name in self._files.names(self._folder):
                return ""
            if self._used() + stop - start > QUARANTINE_BYTES_MAX:
                return f"{self._folder}: is full; {stop - start:,} damaged bytes of {path} are not saved"
            self._files.make_folder(self._folder)
            self._copy(f"{self._folder}/{name}", path, start, stop)
        except OSError as error:
            return f"{self._folder}/{name}: not saved: {error}"
        return ""

    def take(self, path: str) -> None:
        """Move a whole segment here."""
        self._files.make_folder(self._folder)
        self._files.rename(path, f"{self._folder}/{path.rpartition('/')[2]}")

    def _copy(self, path: str, source: str, start: int, stop: int) -> None:
        original = open_file(self._files, source)
        try:
            descriptor = self._files.open(path, create=True)
            try:
                for at in range(start, stop, _PART):
                    data = self._files.read(original, at, min(_PART, stop - at))
                    if self._files.write(descriptor, at - start, [data]) < len(data):
                        raise OSError("short write")
                self._files.sync(descriptor)
            except OSError:
                self._files.unlink(path)
                raise
            finally:
                self._files.close(descriptor)
        finally:
            self._files.close(original)

    def _used(self) -> int:
        used = 0
        for name in self._files.names(self._folder):
            descriptor = self._files.open(f"{self._folder}/{name}", write=False)
            used += self._files.size(descriptor)
            self._files.close(descriptor)
        return used
