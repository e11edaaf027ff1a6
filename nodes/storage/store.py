"""Store of one queue in the spool: its messages, its dead letters, and where reading them has come to.

A store has a lock of its own, since users' threads append while the disk's thread reads, settles and trims. It is the
last to be taken: nothing else is locked under it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from peerfabric.discovery.locks import Lock
from peerfabric.discovery.log import log as _log
from peerfabric.discovery.remarks import remark
from peerfabric.errors import BadFrame, SpoolError, SpoolFull, SpoolLocked, counted
from peerfabric.queue.durable import DurableQueue, Recovered
from peerfabric.queue.marks import Marks, News, marks_from, pack_marks
from peerfabric.queue.pending import FRAME_BYTES_AIM
from peerfabric.queue.runs import MESSAGE_OVERHEAD
from peerfabric.ranges import pairs
from peerfabric.reports import DeadLetter
from peerfabric.spool import Log, Reader, Record, Spool
from peerfabric.wire.bodies import cuts, join, join_one, split
from peerfabric.wire.frames import MSGPACK, Extra

READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""Read at a time, so that a store is not locked for long."""
FULL_MARKS_BYTES: Final = 32 * 1024
"""Of the marks in a cursor on a full disk: half of the space that it has, which settled ranges seldom take."""
TOLD_MAX: Final = 20
"""Ranges of lost messages that one line of the log names."""
BUSY_MAX: Final = 1.0
"""Seconds after which a node that closes does not wait for a disk that hangs, to look what is there."""
COMPACT_BYTES: Final = 4 * 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode
_letter = msgspec.msgpack.Decoder(DeadLetter)
_marks = msgspec.msgpack.Decoder(Marks)


class StoredExtra(msgspec.Struct, array_like=True):
    """What one message of a record has besides its body. FORMAT.md, "Records"."""

    index: int
    headers: dict[str, str] | None = None
    origin: str | None = None
    expires_ms: int = 0
    """Of the one with index 0: when all messages of the record expire, in Unix time; 0: never."""


class Loaded(msgspec.Struct):
    """A record as the producer's end takes it; `bodies` is empty if none of the `count` can be decoded."""

    stream: str
    sequence: int
    count: int
    bodies: list[bytes]
    sent_ms: int
    extras: dict[int, Extra]
    expires_ms: int = 0

    def expires_at(self, now: float, unix_ms: float) -> float | None:
        """When its messages expire, by the clock of `now`, which is `unix_ms` in Unix time; None: never.

        A Unix clock that was set back gives them no more than the time that they had when they were sent.
        """
        if not self.expires_ms:
            return None
        return now + min(self.expires_ms - unix_ms, self.expires_ms - self.sent_ms) / 1000


_extras = msgspec.msgpack.Decoder(list[StoredExtra])


class Part(NamedTuple):
    """What one `Store.read` has found.

    records   what the end is given, in order; a gap between them is damaged
    ended     nothing follows, so what the end still waits for is damaged
    damages   what was passed over, for people
    """

    records: list[Loaded]
    ended: bool
    damages: list[str]


class Store:
    """The spool's part of one queue.

    Raises:
        SpoolError: It cannot be opened; nothing was changed.
    """

    def __init__(self, spool: Spool, queue: str, fsync: bool, unix_ms: int) -> None:
        self.queue, self.fsync = queue, fsync
        self.lock = Lock()
        self.end: DurableQueue | None = None
        self.retiring: Callable[[], None] | None = None
        """Its producer was closed: once nothing of it is wanted this tells the engine, and its files are removed."""
        self._spool = spool
        self._log: Log = spool.queue(queue, unix_ms=unix_ms)
        self._append, self._epoch = self._log.append, spool.epoch
        self._dead: Log | None = spool.dead(queue, unix_ms=unix_ms) if spool.has_dead(queue) else None
        """Made with the first dead letter: most queues never have one."""
        self._unstored: set[str] = set()
        """DeadLetters that were retried or dropped before they were stored, which need not be any more."""
        self._letters_unsynced = False
        self._gathering: int | None = None
        """The thread in whose `gather` we are."""
        self._gathered = False
        self._reader: Reader | None = None
        self._read_to = 0
        self._marks = Marks()
        self._packed = pack_marks([])
        self.forgetful = False
        """The cursor on disk is without some of what is known of attempts and deaths: the disk was full."""
        self.complete = True
        """The cursor on disk has all that is settled: it has a limit, and forgets the highest ranges above it."""
        self._compacting = True
        """The last compaction did not fail."""

    def stream(self, epoch: int) -> str:
        return f"{self._spool.node_id}:{epoch}:{self.queue}"

    # At the start

    def recovered(self) -> Recovered:
        """What earlier lives left."""
        found = self._log.recovery
        eras: list[tuple[str, int, int]] = []
        damaged = [(epoch, start, stop) for epoch, start, stop in found.damaged if stop > start]
        for epoch, start, stop in sorted([*found.extents, *damaged]):
            stream = self.stream(epoch)
            if eras and eras[-1][0] == stream and start <= eras[-1][2]:
                eras[-1] = (stream, eras[-1][1], max(stop, eras[-1][2]))
            else:
                eras.append((stream, start, stop))
        settled = [
            (self.stream(epoch), start, stop)
            for epoch, ranges in self._log.settled_ranges().items()
            for start, stop in ranges
        ]
        try:
            marks = _marks.decode(found.marks) if found.marks else Marks()
        except msgspec.DecodeError:
            marks = Marks()  # of a later version: attempts begin again at 1
        return Recovered(eras, settled, self.lost(), marks, died=self._spool.died)

    def lost(self) -> list[tuple[str, int, int]]:
        """The (stream, start, stop) that should be there and are not, or are damaged; told at one start only."""
        damaged = self._log.recovery.damaged
        return [(self.stream(epoch), start, stop) for epoch, start, stop in damaged if stop > start]

    def letters(self) -> list[DeadLetter]:
        """The dead letters that were neither retried nor dropped."""
        return list(_read_letters(self._dead)) if self._dead is not None else []

    @property
    def findings(self) -> list[str]:
        """What was wrong with the files, for the log."""
        logs = [self._log] if self._dead is None else [self._log, self._dead]
        return [line for log in logs for line in (*log.recovery.torn, *log.recovery.problems)]

    # Messages

    def append(
        self,
        first: int,
        bodies: Sequence[bytes],
        extras: dict[int, Extra] | None,
        codec: int,
        unix_ms: int,
        expires_ms: int = 0,
    ) -> int:
        """Write messages from sequence `first` on; return how many of them are stored, the first ones.

        `expires_ms` is when they expire, in Unix time; 0: never.
        They survive this process from here on, and a loss of power after `sync`.

        Raises:
            SpoolFull, SpoolError: None of them is stored.
        """
        if len(bodies) == 1:
            self.append_one(first, bodies[0], extras[0] if extras else None, codec, unix_ms, expires_ms)
            return 1
        records = []
        sizes = list(map(len, bodies))
        edges = cuts(sizes, FRAME_BYTES_AIM, MESSAGE_OVERHEAD)
        for low, high in pairwise(edges):
            body, as_codec = join(bodies[low:high], codec)
            own = [Extra(n - low, e.headers, e.origin) for n, e in extras.items() if low <= n < high] if extras else []
            packed = _expiring(own, expires_ms) if expires_ms else _encode(own) if own else b""
            records.append((first + low, high - low, as_codec, body, packed))
        with self.lock:
            return edges[self._log.append_many(records, self._epoch, unix_ms=unix_ms)]

    def append_one(
        self, sequence: int, data: bytes, extra: Extra | None, codec: int, unix_ms: int, expires_ms: int = 0
    ) -> None:
        """As `append`, for one message."""
        body, as_codec = join_one(data, codec)
        packed = _encode([extra]) if extra is not None else b""
        if expires_ms:
            packed = _expiring([extra] if extra is not None else [], expires_ms)
        lock = self.lock
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            self._append(self._epoch, sequence, 1, as_codec, body, packed, unix_ms=unix_ms)
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken

    def stored(self, first: int, stop: int) -> int:
        """How many of the messages `[first, stop)` of this life are stored, the first ones."""
        with self.lock:
            at = first
            while at < stop and self._log.has(self._spool.epoch, at):
                at += 1
        return at - first

    def sync(self) -> None:
        """What was appended before survives a loss of power.

        Raises:
            SpoolError: It may not; call again, nothing of it counts as stored until this returns.
        """
        with self.lock:
            token = self._log.sync_begin()
        error: OSError | None = None
        try:
            self._log.sync_run(token)
        except OSError as failed:
            error = failed
        with self.lock:
            self._log.sync_end(token, error)

    def read(self, bytes_max: int) -> Part:
        """The next records that are only on disk.

        Raises:
            SpoolError: The disk cannot be read now. Nothing is known of what is there; the next call tries again.
        """
        end = self.end
        assert end is not None
        assert end.backlog is not None
        at = end.backlog.load_at
        damages: list[str] = []
        loaded: list[Loaded] = []
        with self.lock:
            reader, fresh = self._reader, False
            if reader is None or at != self._read_to:
                reader, fresh = self._reader_from(end, at), True
            records = reader.read(min(bytes_max, READ_BYTES_MAX))
            if not records and not fresh:
                # Before what should be there is given up, it is looked for once more, with other eyes.
                reader = self._reader_from(end, at)
                records = reader.read(min(bytes_max, READ_BYTES_MAX))
            damages += reader.damages
            reader.damages.clear()
        for record in records:
            try:
                loaded.append(self._loaded(record))
            except (BadFrame, msgspec.DecodeError) as error:
                what = f"sequences {record.first} to {record.stop - 1} of epoch {record.epoch}"
                damages.append(f"{self._log.folder}: {what} are stored and cannot be decoded: {error}")
                loaded.append(Loaded(self.stream(record.epoch), record.first, record.count, [], record.unix_ms, {}))
        return Part(loaded, not records, damages)

    def missing(self) -> list[tuple[str, int, int]]:
        """Forget what somebody has removed, and return what that was, as (stream, first, stop).

        Raises:
            SpoolError: It cannot be seen; the spool is not in its place, though it was not deleted.
        """
        if not self.lock.acquire(timeout=BUSY_MAX):
            return []
        try:
            found = self._log.take_missing()
        finally:
            self.lock.release()
        return [(self.stream(epoch), first, stop) for epoch, first, stop in found]

    def _reader_from(self, end: DurableQueue, number: int) -> Reader:
        stream, sequence = end.numbering.name(number)
        if self._reader is not None:
            self._reader.close()
        self._reader = self._log.reader(int(stream.split(":")[1]), sequence)
        return self._reader

    def read_to(self, number: int) -> None:
        """The end has taken what `read` returned, and wants what follows from `number` on."""
        self._read_to = number

    def _loaded(self, record: Record) -> Loaded:
        bodies = split(record.body, record.codec)
        if len(bodies) != record.count:
            raise BadFrame(f"{len(bodies)} bodies for {record.count} messages")
        extras = _extras.decode(record.extras) if record.extras else []
        by_index = {e.index: Extra(e.index, e.headers, e.origin) for e in extras}
        expires_ms = extras[0].expires_ms if extras and extras[0].index == 0 else 0
        if expires_ms and by_index[0] == Extra(0):
            del by_index[0]
        stream = self.stream(record.epoch)
        return Loaded(stream, record.first, record.count, bodies, record.unix_ms, by_index, expires_ms)

    # What became of them

    def store_dead_letters(self, letters: Iterable[tuple[int, DeadLetter]], unix_ms: int) -> list[int]:
        """Store dead letters; return the numbers of those that are stored, the first ones.

        If the spool was deleted all of them count as stored: they are in memory only, as without a spool.

        Raises:
            SpoolError: None is, as far as we know. Those that are there all the same are not written again.
        """
        if self._spool.hold.is_deleted():
            return [number for number, _ in letters]
        numbers: list[int] = []
        with self.lock:
            if self._dead is None:
                self._dead = self._spool.dead(self.queue, unix_ms=unix_ms)
            dead = self._dead
            if self._letters_unsynced:
                self._sync_letters(dead)
            for number, letter in letters:
                epoch, sequence = _place(letter.id)
                if letter.id in self._unstored:
                    self._unstored.remove(letter.id)
                    dead.settle(epoch, sequence, sequence + 1)  # one whose sync failed may be there after all
                elif not dead.has(epoch, sequence):
                    body, codec = join([letter.data], letter.codec)
                    bare = msgspec.structs.replace(letter, data=b"")
                    try:
                        dead.append(epoch, sequence, 1, codec, body, _encode(bare), unix_ms=unix_ms)
                    except SpoolError:
                        if not numbers:
                            raise
                        break
                numbers.append(number)
            if self.fsync:
                self._sync_letters(dead)
        return numbers

    def _sync_letters(self, dead: Log) -> None:
        self._letters_unsynced = True
        dead.sync()
        self._letters_unsynced = False

    def drop_dead_letters(self, *identities: str) -> None:
        """Dead letters were retried or dropped, perhaps before they were stored. They do not come back.

        Raises:
            SpoolError: They may come back at the next start.
        """
        with self.lock:
            for identity in identities:
                epoch, sequence = _place(identity)
                if self._dead is None or not self._dead.has(epoch, sequence):
                    self._unstored.add(identity)
                else:
                    self._dead.settle(epoch, sequence, sequence + 1)
                    self._gathered = True
            if self._gathering != threading.get_ident():
                self._write_dropped()

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Dead letters that are dropped by this thread until the end of the block is made last by one cursor.

        Raises:
            SpoolError: As `drop_dead_letters`, at the end.
        """
        self._gathering = threading.get_ident()
        try:
            yield
        finally:
            with self.lock:
                self._gathering = None
                self._write_dropped()

    def _write_dropped(self) -> None:
        if not self._gathered or self._dead is None or self._spool.hold.is_deleted():
            return
        self._dead.write_cursor()
        self._gathered = False
        if not self._dead.cursor_complete:
            step = "retry or drop the older letters first"
            raise SpoolError(self._dead.folder, "too many dead letters with gaps between them", step=step)

    def settle(self, ranges: Iterable[tuple[str, int, int]]) -> None:
        """These messages need not be sent again; the next cursor says so."""
        with self.lock:
            for stream, start, stop in ranges:
                self._log.settle(int(stream.split(":")[1]), start, stop)

    def remember(self, news: News) -> None:
        """What the next cursors say besides what is settled."""
        assert self.end is not None
        known = self._marks.marks
        self._marks = marks_from(news, self.end.numbering)
        if news.states is None:
            self._marks.marks = known
        else:
            self._packed = pack_marks(self._marks.marks)

    def _encoded(self, packed: bytes) -> bytes:
        marks = self._marks
        return _encode((msgspec.Raw(packed), marks.taking, marks.running, marks.max_attempts))

    def write_cursor(self) -> None:
        """Make what is settled last, and give back the space of what nobody wants.

        If the spool was deleted that is done: there is nothing of which a later life would have to be told.

        Raises:
            SpoolError: It is tried again with the next.
        """
        with self.lock:
            if self._spool.hold.is_deleted():
                return
            try:
                self._log.write_cursor(self._encoded(self._packed))
                self.forgetful = False
            except SpoolFull:
                self._write_what_fits()
                self.forgetful = True
            self.complete = self._log.cursor_complete
            complained, failed = not self._compacting, None
            try:
                self._log.compact(COMPACT_BYTES)
            except SpoolError as error:
                # The cursor is written, and what it says holds. Only some space is not given back yet.
                failed = error
            self._compacting = failed is None
        if failed is not None and not complained:
            _log.warning("queue %r: what is settled was not cleared away: %s", self.queue, failed)

    def skip(self, following: int) -> None:
        """The numbers of this life go on from `following` on: those below were given out, and their log is removed.

        Raises:
            SpoolError: They may be reported as lost at the next start.
        """
        with self.lock:
            self._log.begin(self._epoch, following)
            self._log.write_cursor(self._encoded(self._packed))

    def remove(self) -> None:
        """Remove all files of a queue of which nothing is wanted. Nothing else uses this store any more.

        Raises:
            SpoolError, OSError: Some of them are still there, and the next start finds it settled.
        """
        with self.lock:
            if not self._spool.hold.is_deleted():
                self._spool.remove(self.queue)

    def check(self) -> None:
        """Assert the invariants of its logs."""
        for log in (self._log, self._dead):
            if log is not None:
                log.check()

    def _write_what_fits(self) -> None:
        """A cursor has its space on a full disk. What it settles makes room for the rest, which may wait."""
        try:
            self._log.write_cursor(self._encoded(pack_marks(self._marks.marks, FULL_MARKS_BYTES)))
        except SpoolFull:
            self._log.write_cursor(self._encoded(pack_marks([])))


def _place(identity: str) -> tuple[int, int]:
    """Epoch and sequence of the message with that id."""
    stream, _, sequence = identity.rpartition("/")
    return int(stream.split(":")[1]), int(sequence)


def letters_in(folder: str, queue: str) -> list[DeadLetter]:
    """The dead letters of a queue in a spool that no node has; none of one that somebody has by now.

    Raises:
        SpoolError: It cannot be read.
    """
    try:
        spool = Spool.inspect(folder)
    except SpoolLocked:
        return []
    try:
        has_dead = spool.has_dead(queue)
        return list(_read_letters(spool.dead(queue, unix_ms=0))) if has_dead else []
    finally:
        spool.abandon()


def _expiring(extras: list[Extra], expires_ms: int) -> bytes:
    """The extras of a record whose messages expire."""
    first, others = StoredExtra(0, expires_ms=expires_ms), extras
    if extras and extras[0].index == 0:
        first, others = StoredExtra(0, extras[0].headers, extras[0].origin, expires_ms), extras[1:]
    return _encode([first, *others])


def _read_letters(log: Log) -> Iterable[DeadLetter]:
    """The letters in a log of dead letters, oldest first."""
    settled, unread = log.settled_ranges(), 0
    reader = log.reader()
    while records := reader.read(READ_BYTES_MAX):
        for record in records:
            if record.epoch in settled and record.first in settled[record.epoch]:
                continue
            try:
                bare = _letter.decode(record.extras)
                [data] = letter_bodies(record)
            except (msgspec.DecodeError, BadFrame, ValueError):
                unread += 1
                continue
            yield msgspec.structs.replace(bare, data=data, codec=MSGPACK)
    if unread:
        letters = counted(unread, "dead letter")
        remark(logging.WARNING, "%s: %s cannot be read by this version: left there", log.folder, letters)


def told_lost(names: list[tuple[str, int, int]]) -> str:
    """What is lost, by number, for people."""
    count = sum(stop - first for _, first, stop in names)
    parts = [f"{stream}/{first}" + (f" to {stop - 1}" if stop - first > 1 else "") for stream, first, stop in names]
    rest = f" and {len(parts) - TOLD_MAX} more ranges" if len(parts) > TOLD_MAX else ""
    lost = counted(count, "message on disk is", "messages on disk are")
    return f"{lost} damaged and lost: {', '.join(parts[:TOLD_MAX])}{rest}"


def letter_bodies(record: Record) -> list[bytes]:
    """The bodies of a record as documents of msgpack, whatever its codec."""
    return [bytes(body) for body in split(record.body, record.codec)]


__all__ = ["Loaded", "Store", "letter_bodies", "letters_in", "pairs", "told_lost"]
