"""Log of one queue: append at its end, read from anywhere, and let go of what is settled."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EEXIST, ENOTEMPTY
from operator import itemgetter
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from peerfabric.errors import SpoolError, SpoolFull
from peerfabric.ranges import Ranges, pairs
from peerfabric.spool.budget import Budget
from peerfabric.spool.compaction import Compactor
from peerfabric.spool.cursor import LETTER_RANGES_BYTES_MAX, MARKS_BYTES_MAX, RANGES_BYTES_MAX, lines_of
from peerfabric.spool.files import Buffer, Files, refusal
from peerfabric.spool.folder import Hold
from peerfabric.spool.format import DEAD, MESSAGES
from peerfabric.spool.reader import Reader
from peerfabric.spool.recovery import Recoverer, Recovery
from peerfabric.spool.segment import Contents, Found, Identity, open_file
from peerfabric.spool.writer import Entry, Shelf, Sync, Writer

if TYPE_CHECKING:
    from peerfabric.spool.segment import Segment

COMPACTION_BYTES_MAX: Final = 4 * 1024 * 1024


class Log:
    """One queue's records on disk.

    It has no lock: its caller holds one in every call except `sync_run` and `Sync`'s own.

    confirmed <= durable <= written; cursor <= settled; every unsettled message is in a live segment

    Args:
        folder: Its folder, which exists.
        epoch: Of this life; appends have it, or a later one.
        repair: False changes nothing, and refuses every call that would.
        outer: The folders above in which names are perhaps not durable: the first sync sees to that.
        found: What is in its folder; None: look now.

    Raises:
        NewerFormat: A later version wrote something in it; nothing was changed.
        SpoolError: A file could not be opened or read; nothing was changed.
    """

    def __init__(
        self,
        files: Files,
        folder: str,
        identity: Identity,
        budget: Budget,
        hold: Hold,
        *,
        epoch: int,
        fsync: bool,
        segment_bytes: int,
        repair: bool = True,
        outer: Sequence[str] = (),
        found: Found | None = None,
    ) -> None:
        found = found or Found(files, folder)
        self.folder = folder
        self._files = files
        self._identity = identity
        self._budget = budget
        self._hold = hold
        self._epoch = epoch
        self._repair = repair
        self._closed = False
        self._readers: WeakSet[Reader] = WeakSet()
        self._cursor = found.cursor_files
        self._written: dict[int, Ranges] | None = None
        """What the cursor on disk says, if it had to forget something."""
        recoverer = Recoverer(files, folder, identity, found, repair=repair)
        recoverer.run()
        self.recovery: Recovery = recoverer.found
        self._marks = self.recovery.marks
        self._recovered = {epoch: stop for epoch, _, stop in sorted(self.recovery.extents, key=itemgetter(0, 2))}
        self._contents = Contents(recoverer.segments, self.recovery.settled)
        self.share = budget.share()
        self.share.bytes = self.used_bytes
        shelf = Shelf(
            files, folder, identity, self._contents, budget, self.share, hold, epoch, segment_bytes, fsync, [*outer]
        )
        self._writer, self._compactor = Writer(shelf, recoverer.serial), Compactor(shelf)
        for lost in self.recovery.damaged:
            # Told of once; nothing more can be done for them.
            self._contents.settle(*lost)
        self.cursor_due = False
        """Something was settled since the last `write_cursor`."""
        if repair:
            self._write_first_cursor(synced=fsync and bool(found.names))

    def _write_first_cursor(self, *, synced: bool) -> None:
        try:
            if synced:
                self._sync_recovered()
            self._budget.with_spare(self._cursor.prepare)
            # Of a new log it says nothing that would have to survive the loss of power before there is a message.
            self._write_cursor(self._marks, sync=synced)
            self._trim()
        except SpoolError as error:
            # Reading goes on with a full or failing disk.
            self.recovery.problems.append(str(error))
            self.cursor_due = True

    def _sync_recovered(self) -> None:
        """A killed process had perhaps not synced what was read now: from here on it counts as durable."""
        try:
            for segment in self._contents.segments:
                descriptor = open_file(self._files, segment.path, write=True)
                try:
                    self._files.sync(descriptor)
                finally:
                    self._files.close(descriptor)
            for folder in (self.folder, *self._writer.outer):
                self._files.sync_folder(folder)
            self._writer.outer.clear()
            self._cursor.named = True
        except OSError as error:
            raise refusal(error, self.folder) from error

    # Append

    def append(
        self, epoch: int, first: int, count: int, codec: int, body: Buffer, extras: Buffer = b"", *, unix_ms: int
    ) -> None:
        """Write one batch; it then survives the death of the process, and after `sync()` the loss of power.

        Args:
            epoch: Of this life.
            first: Sequence of its first message; the others follow it.
            body: A frame body of `count` messages, as `join` makes it.

        Raises:
            SpoolFull: No space, or the limit is reached; nothing is stored.
            SpoolError: The disk refused; nothing is stored.
        """
        if self._closed or epoch < self._epoch or not self._repair:
            self._check_append(epoch)
        self._writer.append(epoch, first, count, codec, body, extras, unix_ms)

    def append_many(self, records: Sequence[Entry], epoch: int, *, unix_ms: int) -> int:
        """Write batches `(first, count, codec, body, extras)`.

        Returns how many of them are stored, in order, and raises what `append` does only if that is none.
        """
        self._check_append(epoch)
        return self._writer.append_many(epoch, records, unix_ms)

    def _check_append(self, epoch: int) -> None:
        self._check_open()
        if epoch < self._epoch and self._identity.kind == MESSAGES:
            # A cursor says of older epochs without a line that all of them is settled.
            raise ValueError(f"epoch {epoch} is of an earlier life; this one is {self._epoch}")

    def _check_open(self) -> None:
        if self._closed or not self._repair:
            state = "is closed" if self._closed else "is open for reading only"
            raise SpoolError(self.folder, state, step="open the spool again, to write to it")

    @property
    def used_bytes(self) -> int:
        """Bytes of its segments."""
        return sum(segment.end for segment in self._contents.segments)

    # Sync

    def sync(self) -> None:
        """Make everything appended before durable, with one fdatasync for each segment that has something new.

        Raises:
            SpoolError: Something is not durable. With fsync=True it is kept in memory, and the next call writes it to
                another segment; without, it stays so.
        """
        token = self.sync_begin()
        error: OSError | None = None
        try:
            self.sync_run(token)
        except OSError as failure:
            error = failure
        self.sync_end(token, error)

    def sync_begin(self) -> Sync:
        """The first part of `sync`: what it covers. One sync of a log is under way at a time."""
        self._check_open()
        return self._writer.sync_begin()

    def sync_run(self, token: Sync) -> None:
        """The second part, which waits for the disk and needs no lock.

        Raises:
            OSError: To be given to `sync_end`.
        """
        token.run()

    def sync_end(self, token: Sync, error: BaseException | None) -> None:
        """The third part: what `token` covers is durable when it returns, even after an `error`.

        Raises:
            SpoolError: As `sync`.
        """
        self._writer.sync_end(token, error)

    # Read

    def reader(self, epoch: int = 0, sequence: int = 0) -> Reader:
        """A reader from the record with that message on, or the one after it; from the oldest by default."""
        reader = Reader(self._files, self._contents, self._writer.readable, epoch, sequence)
        self._readers.add(reader)
        return reader

    # Settle

    def settle(self, epoch: int, start: int, stop: int) -> None:
        """Messages `[start, stop)` are wanted no more. On disk that is known after `write_cursor`."""
        if epoch < self._epoch and epoch not in self._contents.index:
            return
        self._contents.settle(epoch, start, stop)
        self.cursor_due = True

    def begin(self, epoch: int, following: int) -> None:
        """The messages of `epoch`, of which none is here yet, go on from `following`. Known after `write_cursor`."""
        self._contents.next[epoch] = following
        self.cursor_due = True

    def has(self, epoch: int, sequence: int) -> bool:
        """Whether that message is in a segment."""
        return bool(self._contents.index.overlaps(epoch, sequence, sequence + 1))

    def settled_ranges(self) -> dict[int, Ranges]:
        """What is settled of the epochs that are here, as a copy."""
        return {epoch: Ranges(ranges) for epoch, ranges in self._contents.settled.items()}

    @property
    def unsettled_count(self) -> int:
        """Messages that are here and not settled."""
        return self._contents.unsettled

    def write_cursor(self, marks: bytes = b"") -> None:
        """Write what is settled, and `marks` with it; then remove segments of which nothing is wanted.

        Raises:
            SpoolFull, SpoolError: The disk refused. Nothing is lost: the cursor before it counts.
        """
        self._check_open()
        self._hold.check()
        self._write_cursor(marks, sync=self._writer.fsync)
        self._trim()
        self._budget.spare.fill()

    def _write_cursor(self, marks: bytes, *, sync: bool) -> None:
        if len(marks) > MARKS_BYTES_MAX:
            raise ValueError(f"marks of {len(marks):,} bytes are over {MARKS_BYTES_MAX:,}")
        self._contents.forget()
        spans = [self._durable_span(*span) for span in self._contents.spans()]
        bytes_max = LETTER_RANGES_BYTES_MAX if self._identity.kind == DEAD else RANGES_BYTES_MAX
        lines, forgot = lines_of(spans, self._contents.settled, bytes_max)
        self._budget.with_spare(lambda: self._cursor.write(self._epoch, lines, marks, sync=sync))
        self._written = {line.epoch: Ranges(pairs(line.ranges)) for line in lines} if forgot else None
        self._marks = marks
        self.cursor_due = False

    def _durable_span(self, epoch: int, oldest: int, following: int) -> tuple[int, int, int]:
        """The span without what may still be lost: nobody was told that it is stored."""
        pending = self._writer.pending
        if pending and pending[0].epoch == epoch:
            following = min(following, max(oldest, pending[0].entry[0]))
        return epoch, oldest, following

    # Trim

    def _trim(self) -> None:
        self._writer.relieve()
        for segment in list(self._contents.segments):
            if segment.sealed and not segment.unsettled and not segment.syncs and self._told(segment):
                self._remove(segment)

    def _told(self, segment: Segment) -> bool:
        """Whether what is in it is durable, or needs not be, and the cursor on disk says that it is settled."""
        if self._writer.fsync and segment.dirty:
            return False
        return self._written is None or all(
            epoch in self._written and not self._written[epoch].missing(first, stop)
            for epoch, first, stop in segment.extents
        )

    def _remove(self, segment: Segment) -> None:
        try:
            self._files.unlink(segment.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise refusal(error, segment.path) from error
        self._forget(segment)

    def _forget(self, segment: Segment) -> None:
        """There is no such file any more."""
        self.share.bytes -= segment.end
        self._writer.forget(segment)
        self._contents.drop(segment)
        for reader in list(self._readers):
            if reader.segment is segment:
                reader.close()  # a file that somebody has open keeps its space on the disk

    def take_missing(self) -> list[tuple[int, int, int]]:
        """Forget the segments that somebody has removed, and return what was in them, as (epoch, first, stop).

        Raises:
            SpoolError: The spool is not in its place, or cannot be read, so nothing is known of what is in there.
        """
        if not self._hold.is_deleted():
            self._hold.check()
        try:
            there = set(self._files.names(self.folder))
        except OSError as error:
            raise refusal(error, self.folder) from error
        missing: list[tuple[int, int, int]] = []
        for segment in list(self._contents.segments):
            unsynced = self._writer.fsync and segment.dirty  # whoever waits for that is told when it is
            if segment.path.rpartition("/")[2] not in there and not segment.syncs and not unsynced:
                missing += segment.extents
                self._writer.let_go(segment)
                self._forget(segment)
        return missing

    @property
    def cursor_complete(self) -> bool:
        """Whether the cursor on disk has all that was settled when it was written."""
        return self._written is None

    def compact(self, bytes_max: int = COMPACTION_BYTES_MAX) -> int:
        """Rewrite some segments of which little is wanted, at most `bytes_max` bytes, and return how many were freed.

        Does nothing while a cursor is due or a reader is in them, or if there is no space for it, even with the spare.

        Raises:
            SpoolError: The disk refused; nothing has changed.
        """
        self._check_open()
        segments = self._contents.segments
        if self.cursor_due or self._written is not None or not segments or not segments[0].sealed:
            return 0  # mostly there is one, in which nothing can be spared as it still grows
        self._hold.check()
        before = self.share.bytes
        readers = list(self._readers)
        try:
            replaced = self._budget.with_spare(lambda: self._compactor.run(readers, bytes_max))
        except SpoolFull:
            return 0
        for old in replaced:
            self._writer.forget(old)
        return before - self.share.bytes

    # The end

    def close(self) -> None:
        """Make everything durable that should be, write the cursor, and let go of all descriptors.

        Raises:
            SpoolError: One of that failed; it is closed all the same.
        """
        if self._closed:
            return
        try:
            if self._repair and self._writer.fsync:
                self.sync()
            if self._repair and self.cursor_due:
                self.write_cursor(self._marks)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of all descriptors and do nothing else: in a forked child the log is its parent's."""
        self._closed = True
        self._writer.close()
        for reader in list(self._readers):
            reader.close()

    def clear(self) -> None:
        """Remove all that is in a closed log of which nothing is wanted; what was quarantined stays, and its folder.

        The cursor that says so outlives the segments: without one, all of a segment would count as unsettled. Of its
        two files the older one goes first, which may say that something was stored and not yet settled.

        Raises:
            OSError: Some of it is still there, and the next start finds it settled.
        """
        assert self._closed, "still in use"
        assert not self._contents.unsettled, "something is still wanted"
        assert self.cursor_complete, "the cursor on disk does not say so"
        self._cursor.remove_older()
        for segment in list(self._contents.segments):
            self._remove(segment)
        self._files.sync_folder(self.folder)
        self._cursor.remove()
        try:
            self._files.remove_folder(self.folder)
        except OSError as error:
            if error.errno not in (ENOTEMPTY, EEXIST):
                raise

    def check(self) -> None:
        """Assert the invariants of the class."""
        self._contents.check()
        writer = self._writer
        assert writer.durable <= writer.appended
        assert not writer.fsync or len(writer.pending) == writer.appended - writer.durable
        assert self.used_bytes == self.share.bytes
        for epoch, first, stop in (extent for segment in self._contents.segments for extent in segment.extents):
            assert first < stop <= max(self._contents.next.get(epoch, 0), self._recovered.get(epoch, 0)), epoch
