"""Ledger of one consumer: what it has processed, in a file that outlives it. FORMAT.md, section 11.

Unlike a spool it needs nothing but itself: an entry that is lost makes a duplicate, and no loss. So a damaged part is
passed over and reported, and nothing is kept of it.

    entries()  =  everything added or read, but what was forgotten
    file       ⊇  entries()
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from errno import EISDIR, ELOOP, ENOENT
from typing import Final, NamedTuple

from crc32c import crc32c

from peerfabric.errors import ConfigError, Corrupt, NewerFormat, SpoolError, SpoolFull, SpoolLocked, SpoolUnsafe
from peerfabric.ranges import Ranges
from peerfabric.spool.files import Files, refusal, write
from peerfabric.spool.folder import check_file

VERSION: Final = 1
MAGIC: Final = b"PFABLEDG"
RECORD_MAGIC: Final = b"\xe7PFL"
"""Not valid UTF-8, so no name of a stream contains it."""
SEQUENCE_MAX: Final = 2**53
STREAM_BYTES_MAX: Final = 2048
"""Names of streams have at most 512 characters on the wire."""
COMPACT_BYTES: Final = 1024 * 1024
COMPACT_RATIO: Final = 4
"""A file this many times as large as what is remembered is written anew: each byte is copied a third of a time."""
PROBLEMS_MAX: Final = 100

_PREFIX: Final = struct.Struct("<8sHHI")  # magic, version, header length, crc: in this place in every version
_FIELDS: Final = struct.Struct("<QQH")  # start, stop, length of the stream's name
_RECORD: Final = struct.Struct("<4sIQQH")
_RECORD_BYTES_MAX: Final = _RECORD.size + STREAM_BYTES_MAX
_HEADER_BYTES_MAX: Final = _PREFIX.size + 2 + 255
_CHUNK: Final = 256 * 1024


class Entry(NamedTuple):
    """Sequences `[start, stop)` of `stream` are processed."""

    stream: str
    start: int
    stop: int


class Ledger:
    """The ledger of one consumer, open and locked. One thread at a time.

    Args:
        files: The file system.
        path: The file; made if it is not there. Its folder has to be there, and to be ours alone.
        queue: What it is the ledger of; empty: any queue, and a new one of none.
        fsync: An entry also survives a loss of power, at the price of one sync for each `add`.

    Raises:
        SpoolLocked: Another consumer has it open.
        SpoolUnsafe: It, or its folder, could be changed by others.
        Corrupt: The file is no ledger.
        ConfigError: It is the ledger of another queue.
        NewerFormat: A later version wrote it.
        SpoolError: The folder is missing, or the disk refused.

    Nothing was changed if opening fails.
    """

    def __init__(self, files: Files, path: str, queue: str = "", *, fsync: bool = False) -> None:
        self.path, self.queue, self.fsync = path, queue, fsync
        self.problems: list[str] = []
        """What could not be read, for people: messages that may run a second time."""
        self._files = files
        self._folder = path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")
        self._entries: dict[str, Ranges] = {}
        self._remembered = 0
        """Bytes that a file of just what is remembered would have, without its header."""
        self._descriptor = -1
        self._end = 0
        self._lock = self._take_lock()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    # Opening

    def _take_lock(self) -> int:
        lock = f"{self.path}.lock"
        try:
            self._files.check_folder(self._folder)
            descriptor = self._files.lock(lock)
        except SpoolLocked as locked:
            step = "give each consumer a ledger of its own"
            raise SpoolLocked(self.path, locked.pid, what="ledger", step=step, ours=locked.ours) from None
        except FileNotFoundError as error:
            step = "make the folder first"
            raise SpoolError(self.path, "its folder does not exist", errno=ENOENT, step=step) from error
        except OSError as error:
            raise self._refusal(error) from error
        try:
            text = f"{self._files.process().pid}\n".encode()
            self._files.truncate(descriptor, 0)
            self._files.write(descriptor, 0, [text])
        except OSError:
            pass  # the number is for people only, and a full disk shall not keep us from reading
        return descriptor

    def _open(self) -> None:
        try:
            self._descriptor = self._files.open(self.path)
        except FileNotFoundError:
            self._rewrite()
            return
        except OSError as error:
            raise self._refusal(error) from error
        try:
            header = self._files.read(self._descriptor, 0, _HEADER_BYTES_MAX)
            start = self._read_header(header) if header else 0
            if start:
                self._read_records(start)
        except OSError as error:
            raise self._refusal(error) from error
        if not start:
            self._rewrite()  # empty, or too short to tell us anything
        elif self.problems or self._is_due():
            try:
                self._rewrite()
            except SpoolError as error:
                self.problems.append(str(error))  # what is remembered is all here; the file can wait

    def _read_header(self, header: bytes) -> int:
        """Where the records begin; 0: there are none."""
        if header[: len(MAGIC)] != MAGIC[: len(header)]:
            raise Corrupt(self.path, 0, "this is no ledger, but something else")
        length, right = 0, False
        if len(header) >= _PREFIX.size:
            _, version, length, crc = _PREFIX.unpack_from(header)
            right = _PREFIX.size < length <= len(header) and crc == _crc_of_header(header, length)
            if right and version > VERSION:
                raise NewerFormat(self.path, version)
        if right:
            size = header[_PREFIX.size]
            queue = header[_PREFIX.size + 1 : _PREFIX.size + 1 + size].decode("utf-8", "replace")
            if self.queue and queue and queue != self.queue:
                raise ConfigError(
                    f"{self.path} is the ledger of queue {queue!r}, not of {self.queue!r}; "
                    f"give each queue a ledger of its own"
                )
            self.queue = self.queue or queue
            return length
        self._report("the header is damaged")
        found = header.find(RECORD_MAGIC)
        return found if found > 0 else min(len(header), _PREFIX.size)

    def _read_records(self, start: int) -> None:
        """Take in every intact record; cut off what follows the last one."""
        good = start
        for offset, entry, stop in self._records(start):
            if offset > good:
                self._report(f"{offset - good} bytes at offset {good} are damaged")
            self._take_in(entry)
            good = stop
        self._end = good
        size = self._files.size(self._descriptor)
        if size > good:
            self._report(f"the last {size - good} bytes, from offset {good}, are torn or damaged")
            self._files.truncate(self._descriptor, good)

    def _records(self, offset: int) -> Iterator[tuple[int, Entry, int]]:
        """Intact records from `offset` on, as (where, entry, where it ends)."""
        data, at, ended = b"", 0, False
        while True:
            if not ended and len(data) - at < _RECORD_BYTES_MAX:
                offset += at
                data, at = data[at:], 0
                more = self._files.read(self._descriptor, offset + len(data), _CHUNK)
                data += more
                ended = len(more) < _CHUNK
            found = _decode(data, at)
            if found is not None:
                entry, size = found
                yield offset + at, entry, offset + at + size
                at += size
                continue
            following = data.find(RECORD_MAGIC, at + 1)
            if following >= 0:
                at = following
            elif ended:
                return
            else:
                at = max(at + 1, len(data) - len(RECORD_MAGIC) + 1)

    def _report(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(f"{self.path}: {problem}; messages that were processed may run once more")

    # What is remembered

    def entries(self) -> dict[str, Ranges]:
        """What is processed, as far as it is remembered, by stream. Not to be changed."""
        return self._entries

    def check_place(self) -> None:
        """See that the file, and its lock, are the ones that were opened.

        Raises:
            SpoolError: Somebody has removed, moved or replaced one of them; what is added would be found by nobody.
        """
        step = "nothing is acked any more: close this node and start again"
        try:
            check_file(self._files, self._lock, f"{self.path}.lock", step)
            if self._descriptor >= 0:
                check_file(self._files, self._descriptor, self.path, step)
        except OSError as error:
            raise self._refusal(error) from error

    def add(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` of `stream` is processed: write it down with one write, and remember it.

        Raises:
            SpoolFull, SpoolError: It is neither written nor remembered.
        """
        self.add_all([Entry(stream, start, stop)])

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Write down all of `entries`, or none; errors as in `add`."""
        entries = list(entries)
        data = b"".join(map(_encode, entries))
        if self._descriptor < 0:
            raise SpoolError(self.path, "this ledger is closed", step="open it again")
        done, error = write(self._files, self._descriptor, self._end, [data], len(data))
        if error is None and self.fsync:
            try:
                self._files.sync(self._descriptor)
            except OSError as failed:
                error = failed
        if error is not None:
            self._cut(done)
            raise self._refusal(error) from error
        self._end += len(data)
        for entry in entries:
            self._take_in(entry)

    def _cut(self, written: int) -> None:
        """Take back a write that failed."""
        if written:
            try:
                self._files.truncate(self._descriptor, self._end)
            except OSError:
                pass  # the next one is written over it, and what may stay is true: it was processed

    def forget(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` cannot come again. The file loses it with the next `compact`."""
        ranges = self._entries.get(stream)
        if ranges is None:
            return
        before = len(ranges)
        ranges.remove(start, stop)
        self._remembered += (len(ranges) - before) * _record_bytes(stream)
        if not ranges:
            del self._entries[stream]

    def _take_in(self, entry: Entry) -> None:
        ranges = self._entries.get(entry.stream)
        if ranges is None:
            ranges = self._entries[entry.stream] = Ranges()
        before = len(ranges)
        ranges.add(entry.start, entry.stop)
        self._remembered += (len(ranges) - before) * _record_bytes(entry.stream)

    # The file

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._end

    def _is_due(self) -> bool:
        return self._end > COMPACT_BYTES and self._end > COMPACT_RATIO * self._remembered

    def compact(self) -> bool:
        """Write the file anew if it is over 1 MiB and over four times what is remembered; whether it was.

        Raises:
            SpoolFull, SpoolError: It was not; the old file stays as it is.
        """
        if self._descriptor < 0 or not self._is_due():
            return False
        self.check_place()
        self._rewrite()
        return True

    def _rewrite(self) -> None:
        """Put a file with just what is remembered in the place of the old one, or of none."""
        temporary = f"{self.path}.tmp"
        descriptor = -1
        try:
            self._files.unlink(temporary)
        except OSError:
            pass  # mostly there is none; if it cannot go, making it anew says so
        try:
            descriptor = self._files.open(temporary, create=True)
            end = 0
            for part in self._parts():
                done, error = write(self._files, descriptor, end, [part], len(part))
                if error is not None:
                    raise error
                end += done
            self._files.sync(descriptor)
            self._files.rename(temporary, self.path)
        except OSError as error:
            if descriptor >= 0:
                self._files.close(descriptor)
                try:
                    self._files.unlink(temporary)
                except OSError:
                    pass  # removed at the next opening
            raise self._refusal(error) from error
        if self._descriptor >= 0:
            self._files.close(self._descriptor)
        self._descriptor, self._end = descriptor, end
        try:
            self._files.sync_folder(self._folder)
        except OSError:
            if self.fsync:
                self._report("the folder could not be synced")

    def _parts(self) -> Iterator[bytes]:
        """The bytes of a file with what is remembered."""
        parts, size = [_encode_header(self.queue)], 0
        for stream, ranges in self._entries.items():
            for start, stop in ranges:
                parts.append(_encode(Entry(stream, start, stop)))
                size += len(parts[-1])
                if size >= _CHUNK:
                    yield b"".join(parts)
                    parts, size = [], 0
        if parts:
            yield b"".join(parts)

    def close(self) -> None:
        """Close the file and give up the lock; a second call does nothing. In a forked child the parent keeps both."""
        for descriptor in (self._descriptor, self._lock):
            if descriptor >= 0:
                self._files.close(descriptor)
        self._descriptor = self._lock = -1

    def _refusal(self, error: OSError) -> SpoolError:
        if error.errno == ELOOP:
            return SpoolUnsafe(self.path, "is a symbolic link", step="give the file that it leads to")
        if error.errno == EISDIR:
            step = f"give a file in it, such as {self.path}/{self.queue or 'queue'}.ledger"
            return SpoolError(self.path, "is a folder, and a ledger is a file", errno=EISDIR, step=step)
        found = refusal(error, self.path)
        if isinstance(found, SpoolFull):
            step = "free some space; what was not acked comes again"
            return SpoolFull(self.path, errno=found.errno, step=step)
        return found

    def check(self) -> None:
        """Assert that what is counted is what is there."""
        for ranges in self._entries.values():
            ranges.check()
            assert ranges, "a stream without entries is remembered"
        size = sum(len(ranges) * _record_bytes(stream) for stream, ranges in self._entries.items())
        assert self._remembered == size, "remembered is not the sum"


def _encode_header(queue: str) -> bytes:
    """magic 8 · version 2 · header length 2 · crc 4 · length of the queue's name 1 · queue"""
    name = queue.encode()
    rest = bytes([len(name)]) + name
    head = _PREFIX.pack(MAGIC, VERSION, _PREFIX.size + len(rest), 0)[:12]
    return head + crc32c(rest, crc32c(head)).to_bytes(4, "little") + rest


def _crc_of_header(header: bytes, length: int) -> int:
    return crc32c(header[16:length], crc32c(header[:12]))


def _encode(entry: Entry) -> bytes:
    """magic 4 · crc of what follows 4 · start 8 · stop 8 · length of the stream's name 2 · stream"""
    name = entry.stream.encode()
    if not 1 <= entry.start < entry.stop <= SEQUENCE_MAX or not 1 <= len(name) <= STREAM_BYTES_MAX:
        raise ValueError(f"{entry!r} is not a range of a stream")
    fields = _FIELDS.pack(entry.start, entry.stop, len(name)) + name
    return RECORD_MAGIC + crc32c(fields).to_bytes(4, "little") + fields


def _decode(data: bytes, at: int) -> tuple[Entry, int] | None:
    """The entry of the record at `at` and the record's length; None: there is no intact record."""
    if len(data) - at < _RECORD.size:
        return None
    magic, crc, start, stop, size = _RECORD.unpack_from(data, at)
    end = at + _RECORD.size + size
    if magic != RECORD_MAGIC or not 1 <= size <= STREAM_BYTES_MAX or end > len(data):
        return None
    if crc32c(data[at + 8 : end]) != crc or not 1 <= start < stop <= SEQUENCE_MAX:
        return None
    try:
        stream = data[at + _RECORD.size : end].decode()
    except UnicodeDecodeError:
        return None
    return Entry(stream, start, stop), end - at


def _record_bytes(stream: str) -> int:
    return _RECORD.size + len(stream.encode())
