"""Writer of a log, at its end: append, roll, sync, and records whose sync failed. FORMAT.md, section 5."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from typing import Final, NamedTuple

from peerfabric.errors import SpoolError, SpoolFull
from peerfabric.spool.budget import Budget, Share
from peerfabric.spool.files import Buffer, Files, discard, refusal, write
from peerfabric.spool.folder import Hold, check_file
from peerfabric.spool.format import (
    DEAD,
    PREALLOCATED,
    RECORD_BYTES,
    SegmentHeader,
    encode_segment,
    make_salt,
    record_header,
    segment_name,
)
from peerfabric.spool.segment import Contents, Identity, Segment, create, open_file

_RELIEF: Final = 16
"""A segment is removed before it is full if that frees at least this part of one: a new file costs as much as a few
hundred appends."""


class Writer:
    """What is appended, in the order in which that happened.

    durable <= appended, in records of this life; pending = those in between, kept only with `fsync`
    """

    def __init__(self, shelf: Shelf, serial: int) -> None:
        self.fsync = shelf.fsync
        self.appended = self.durable = 0
        self.pressed = False
        """An append was refused for lack of space."""
        self.pending: deque[Pending] = deque()
        self.outer = shelf.outer
        self._shelf, self._contents, self._share = shelf, shelf.contents, shelf.share
        self._write, self._segment_bytes = shelf.files.write, shelf.segment_bytes
        self._limited = shelf.budget.limit_bytes is not None
        self._serial = serial
        self._made = 0
        self._dead = shelf.identity.kind == DEAD
        self._tail: Segment | None = None
        self._looked_ms = 0
        """When it was last looked whether the files are in their place."""
        self._dirty: list[Segment] = []
        self._header_bytes = len(encode_segment(self._header(0)))
        self._syncing = False
        self._unsaved = False
        """Pending records are only in memory, since a sync failed."""

    # Append

    def append(
        self, epoch: int, first: int, count: int, codec: int, body: Buffer, extras: Buffer, unix_ms: int
    ) -> None:
        # All small messages go this way, so it has few calls.
        total = RECORD_BYTES + len(body) + len(extras)
        segment = self._tail
        if (
            segment is None
            or unix_ms != self._looked_ms
            or segment.end + total > self._segment_bytes
            or self._limited
            or self._unsaved
        ):
            segment = self._room(total, unix_ms)
        while True:
            header = record_header(segment.salt, segment.end, body, extras, epoch, first, count, codec, unix_ms)
            parts = (header, body, extras) if extras else (header, body)
            try:
                if self._write(segment.descriptor, segment.end, parts) == total:
                    break
                _, error = write(self._shelf.files, segment.descriptor, segment.end, parts, total)  # which says why not
                if error is None:
                    break
            except OSError as refused:
                error = refused
            self._undo(segment)
            segment = self._onto_spare(error, unix_ms)
        if segment.synced == segment.end:
            self._dirty.append(segment)
        segment.end += total
        self._share.bytes += total
        self.appended += 1
        self._contents.append(segment, epoch, first, first + count)
        if self.fsync:
            self.pending.append(Pending(segment, epoch, (first, count, codec, bytes(body), bytes(extras)), unix_ms))

    def append_many(self, epoch: int, entries: Sequence[Entry], unix_ms: int) -> int:
        """Append as many as possible; raises only if that is none."""
        for stored, entry in enumerate(entries):
            try:
                self.append(epoch, *entry, unix_ms)
            except SpoolError:
                if not stored:
                    raise
                return stored
        return len(entries)

    def _room(self, total: int, unix_ms: int) -> Segment:
        """The segment for a record of `total` bytes."""
        if unix_ms != self._looked_ms:  # as two looks cost about as much as one append
            self._look(unix_ms)
        if self._unsaved:
            self._save_again()
        segment = self._tail
        fits = segment is not None and (segment.end + total <= self._shelf.segment_bytes or not segment.messages)
        if self._limited:
            try:
                self._shelf.budget.check(total if fits else total + self._header_bytes, dead=self._dead)
            except SpoolFull:
                self.pressed = True
                raise
        if segment is not None and fits:
            return segment
        try:
            return self._begin(create(self._shelf.files, self._shelf.folder, self._header(unix_ms)))
        except OSError as error:
            return self._onto_spare(error, unix_ms)

    def _look(self, unix_ms: int) -> None:
        """See that what is appended now is somewhere where the next life finds it.

        Raises:
            SpoolError: It is not.
        """
        self._shelf.hold.check()
        if self._tail is not None:
            step = "what is in it is lost, but for what is in memory: close this node and start again"
            try:
                check_file(self._shelf.files, self._tail.descriptor, self._tail.path, step)
            except OSError as error:
                raise refusal(error, self._tail.path) from error
        self._looked_ms = unix_ms

    def _onto_spare(self, error: OSError, unix_ms: int) -> Segment:
        """Where to go on after `error`: dead letters have a spare segment for a full disk, others have not."""
        self.pressed = self.pressed or error.errno in (ENOSPC, EDQUOT)
        if not self._dead or error.errno not in (ENOSPC, EDQUOT):
            raise refusal(error, self._shelf.folder) from error
        header = self._header(unix_ms)._replace(flags=PREALLOCATED)
        path = f"{self._shelf.folder}/{segment_name(header.serial, header.salt)}"
        try:
            segment = create(
                self._shelf.files, self._shelf.folder, header, descriptor=self._shelf.budget.spare.take(path)
            )
        except OSError:
            raise refusal(error, self._shelf.folder) from error
        return self._begin(segment)

    def _begin(self, segment: Segment) -> Segment:
        """The next appends go to `segment`."""
        self.seal()
        self._serial = segment.serial
        self._contents.segments.append(segment)
        self._dirty.append(segment)
        self._shelf.share.bytes += segment.end
        self._tail = segment
        return segment

    def _header(self, unix_ms: int) -> SegmentHeader:
        self._made += 1
        serial = self._serial + 1
        return self._shelf.header(serial, serial, 0, self._made, unix_ms)

    def _undo(self, segment: Segment) -> None:
        """Cut off what a failed write has left; if that fails too, nothing follows it."""
        try:
            self._shelf.files.truncate(segment.descriptor, segment.end)
        except OSError:
            self.seal()

    def seal(self) -> None:
        """Nothing more is appended to the present segment."""
        segment, self._tail = self._tail, None
        if segment is not None:
            segment.sealed = True
            self._release(segment)

    def _release(self, segment: Segment) -> None:
        """Close the descriptor if nothing needs it any more."""
        if segment.descriptor >= 0 and segment.sealed and not segment.syncs and not (self.fsync and segment.dirty):
            descriptor, segment.descriptor = segment.descriptor, -1
            self._shelf.files.close(descriptor)

    # Sync

    def sync_begin(self) -> Sync:
        assert not self._syncing, "one sync at a time: a second one may say yes to what the first one lost"
        for segment in self._dirty:
            if segment.descriptor < 0:
                segment.descriptor = open_file(self._shelf.files, segment.path, write=True)
        self._syncing = True
        parts = [(segment, segment.descriptor, segment.end) for segment in self._dirty]
        for segment in self._dirty:
            segment.syncs += 1
        fresh = any(segment.fresh for segment in self._dirty)
        folders = [*self.outer, self._shelf.folder] if fresh else []
        return Sync(self._shelf.files, parts, folders, self.appended)

    def sync_end(self, token: Sync, error: BaseException | None) -> None:
        self._syncing = False
        for segment, _, _ in token.parts:
            segment.syncs -= 1
        if error is not None:
            self._fail(token)
        else:
            if token.folders:
                self.outer.clear()
            for segment, _, end in token.parts:
                # One that was cut meanwhile ends before `end`: a sync after a failed one proves nothing.
                if end <= segment.end and not segment.doubtful:
                    segment.synced = max(segment.synced, end)
                    segment.fresh = False
        self._dirty = [segment for segment in self._dirty if segment.dirty and not segment.doubtful]
        for segment, _, _ in token.parts:
            self._release(segment)
        if self._unsaved:
            self._save_again()
        doubtful = next((segment for segment in self._contents.segments if segment.doubtful), None)
        if doubtful is not None:
            raise SpoolError(doubtful.path, "could not be synced once, so what is in it may not survive a power loss")
        while self.durable < token.mark:
            self.durable += 1
            if self.fsync:
                self.pending.popleft()

    def _fail(self, token: Sync) -> None:
        """A sync failed: what is not durable by now never will be where it lies."""
        if not self.fsync:
            for segment, _, _ in token.parts:
                segment.doubtful = True
                if segment is self._tail:
                    self.seal()
            return
        if self._unsaved:
            return
        self._unsaved = bool(self.pending)
        for segment, epoch, entry, _ in reversed(self.pending):
            self._contents.cut(segment, epoch, entry[0], entry[0] + entry[1])
        self._tail = None
        for segment in self._dirty:
            segment.sealed = True
            self._shelf.share.bytes -= segment.end - segment.synced
            segment.end = segment.synced
            try:
                self._shelf.files.truncate(segment.descriptor, segment.end)
                if segment.end:
                    # If the end came back after a loss of power, with a hole in it, what is behind the hole would lie
                    # before what is written again.
                    self._shelf.files.sync(segment.descriptor)
                else:
                    self._shelf.files.unlink(segment.path)
            except OSError:
                # What stays there has the numbers and the content of what is written again.
                pass
            if not segment.end:
                self._contents.drop(segment)
            self._release(segment)

    def _save_again(self) -> None:
        """Write what is only in memory to a new segment, and sync that.

        Raises:
            SpoolError: It is still only in memory; the next call tries again with another segment.
        """
        self._shelf.hold.check()
        shelf = self._shelf
        places = save(shelf.files, shelf.folder, self.outer, self.pending, self._next_header, shelf.segment_bytes)
        self.outer.clear()
        self._unsaved = False
        self.pending.clear()
        self.durable = self.appended
        for segment, records in places:
            self._contents.segments.append(segment)
            self._shelf.share.bytes += segment.end
            for record in records:
                first = record.entry[0]
                self._contents.append(segment, record.epoch, first, first + record.entry[1])
            self._tail = segment
            if segment is not places[-1][0]:
                self.seal()

    def _next_header(self, unix_ms: int) -> SegmentHeader:
        header = self._header(unix_ms)
        self._serial = header.serial
        return header

    def relieve(self) -> None:
        """Seal the present segment if that lets its space be used again."""
        segment = self._tail
        if segment is None or segment.unsettled == segment.messages:
            return
        if self.pressed or (not segment.unsettled and segment.end * _RELIEF >= self._shelf.segment_bytes):
            self.seal()
            self.pressed = False

    def let_go(self, segment: Segment) -> None:
        """Somebody has removed `segment`: nothing more is written to it."""
        if segment is self._tail:
            self._tail = None
        descriptor, segment.descriptor = segment.descriptor, -1
        if descriptor >= 0:
            self._shelf.files.close(descriptor)

    def forget(self, segment: Segment) -> None:
        """`segment` was removed."""
        if segment in self._dirty:
            self._dirty.remove(segment)

    # The end

    def close(self) -> None:
        """Close every descriptor; nothing is synced."""
        self.seal()
        for segment in self._contents.segments:
            descriptor, segment.descriptor = segment.descriptor, -1
            if descriptor >= 0:
                self._shelf.files.close(descriptor)

    def readable(self, segment: Segment) -> int:
        """Where that ends which is stored in `segment`."""
        return segment.synced if self.fsync else segment.end


Entry = tuple[int, int, int, Buffer, Buffer]
"""A record to append: first, count, codec, body, extras."""


@dataclass(eq=False, slots=True)
class Sync:
    """One sync under way: what it covers, as of its beginning."""

    files: Files
    parts: list[tuple[Segment, int, int]]
    """(segment, descriptor, end)"""
    folders: list[str]
    """Those in which a name is new."""
    mark: int
    """How many records were appended before."""

    def run(self) -> None:
        """Make it durable. Touches nothing but descriptors, so it needs no lock."""
        for _, descriptor, _ in self.parts:
            self.files.sync(descriptor)
        for folder in self.folders:
            self.files.sync_folder(folder)


class Pending(NamedTuple):
    """A record that is written and not durable."""

    segment: Segment
    epoch: int
    entry: Entry
    unix_ms: int


def save(
    files: Files,
    folder: str,
    outer: Iterable[str],
    pending: Iterable[Pending],
    header: Callable[[int], SegmentHeader],
    segment_bytes: int,
) -> list[tuple[Segment, list[Pending]]]:
    """Write `pending` to new segments, and return these with what is in each; all of it is durable then.

    Args:
        header: Gives one for the next new segment, for a time.

    Raises:
        SpoolError: Nothing was saved, and no file is left of it.
    """
    made: list[tuple[Segment, list[Pending]]] = []
    try:
        for record in pending:
            total = size_of(record.entry)
            if not made or made[-1][0].end + total > segment_bytes:
                made.append((create(files, folder, header(record.unix_ms)), []))
            segment, records = made[-1]
            first, count, codec, body, extras = record.entry
            head = record_header(
                segment.salt, segment.end, body, extras, record.epoch, first, count, codec, record.unix_ms
            )
            _, error = write(files, segment.descriptor, segment.end, (head, body, extras), total)
            if error is not None:
                raise error
            segment.end += total
            records.append(record)
        for segment, _ in made:
            files.sync(segment.descriptor)
        for path in (*outer, folder):
            files.sync_folder(path)
    except OSError as error:
        for segment, _ in made:
            discard(files, segment.path, segment.descriptor)
        raise refusal(error, folder) from error
    for segment, _ in made:
        segment.synced, segment.fresh = segment.end, False
    return made


def size_of(entry: Entry) -> int:
    """The bytes of its record."""
    return RECORD_BYTES + len(entry[3]) + len(entry[4])


@dataclass(frozen=True, slots=True)
class Shelf:
    """The place of one log's segments, which `Writer` makes and `Compactor` merges."""

    files: Files
    folder: str
    identity: Identity
    contents: Contents
    budget: Budget
    share: Share
    hold: Hold
    epoch: int
    """Of this life: new segments say so."""
    segment_bytes: int
    fsync: bool
    """Whether what is synced must survive the loss of power."""
    outer: list[str]
    """The folders above, as long as it is not sure that the names in them which lead here are durable."""

    def header(self, serial: int, through: int, revision: int, made: int, unix_ms: int) -> SegmentHeader:
        """The header of a new segment; `made` tells apart those that this life makes under one serial."""
        node_id, queue, kind = self.identity
        salt = make_salt(self.epoch, queue, kind, serial, made)
        return SegmentHeader(serial, through, salt, revision, self.epoch, unix_ms, kind, 0, node_id, queue)
