"""Scan for records in the bytes of a segment, whatever else is between them. FORMAT.md, section 6."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from crc32c import crc32c

from peerfabric.errors import SpoolError
from peerfabric.spool.files import Files
from peerfabric.spool.format import RECORD, RECORD_BYTES, RECORD_MAGIC

Read = Callable[[int, int], bytes]
"""The bytes of a segment: `read(offset, size)`."""

WINDOW_BYTES: Final = 1024 * 1024
"""Read at once: a copy that stays in the cache is faster than one that does not."""

_STEP: Final = (
    "try again; if it stays so, copy the folder with a tool that leaves zeros for what it cannot read, use the copy"
)


class Damage(NamedTuple):
    """Bytes `[offset, stop)` are no record, or one whose body is wrong: then its numbers are known, and count > 0."""

    offset: int
    stop: int
    epoch: int = 0
    first: int = 0
    count: int = 0  # type: ignore[assignment]  # tuple.count, which nobody needs here


Found = tuple[int, int, bytes, tuple[Any, ...]]
"""A record: its offset in the segment; where it stands in these bytes; these bytes; its fields (`format.RECORD`)."""


def scan(read: Read, start: int, stop: int, salt: int, window: int = WINDOW_BYTES) -> Iterator[Found | Damage]:
    """Every record whose crcs are right in `[start, stop)`, and what is damaged, in the order in which they lie there.

    What has a wrong crc is read once more before it is called damaged. Work is in proportion to the bytes, whatever
    they are; memory to `window` or the largest record. What `read` raises ends it, and says nothing of what is there.
    """
    offset, base, data = start, start, b""
    view = memoryview(data)
    gap = doubted = -1
    unpack = RECORD.unpack_from
    while offset + RECORD_BYTES <= stop:
        at = offset - base
        if at + RECORD_BYTES > len(data):
            data, base, at = read(offset, min(window, stop - offset)), offset, 0
            view = memoryview(data)
            if len(data) < RECORD_BYTES:
                break
        fields = unpack(data, at)
        if fields[0] != RECORD_MAGIC or fields[1] != crc32c(
            view[at + 8 : at + RECORD_BYTES], (salt ^ offset) & 0xFFFFFFFF
        ):
            if gap < 0 and offset != doubted:
                doubted = offset
                if read(offset, RECORD_BYTES) != data[at : at + RECORD_BYTES]:
                    data, base, view = b"", offset, memoryview(b"")
                    continue
            if gap < 0:
                gap = offset
            following = data.find(RECORD_MAGIC, at + 1)
            # Without one, the last three bytes may still be the beginning of one.
            offset = base + (following if following >= 0 else max(at + 1, len(data) - 3))
            continue
        if gap >= 0:
            yield Damage(gap, offset)
            gap = -1
        total = RECORD_BYTES + fields[2] + fields[3]
        if offset + total > stop:
            # Its end is cut off. Nothing can lie behind it, but looking costs little.
            yield Damage(offset, offset + RECORD_BYTES, fields[6], fields[7], fields[5])
            offset += RECORD_BYTES
            continue
        if at + total > len(data):
            data, base, at = read(offset, min(max(window, total), stop - offset)), offset, 0
            view = memoryview(data)
        if crc32c(view[at + RECORD_BYTES : at + total]) == fields[4]:
            yield offset, at, data, fields
        elif offset != doubted and read(offset, total) != data[at : at + total]:
            doubted, data, base, view = offset, b"", offset, memoryview(b"")
            continue
        else:
            yield Damage(offset, offset + total, fields[6], fields[7], fields[5])
        offset += total
    gap = gap if gap >= 0 else offset
    if gap < stop:
        yield Damage(gap, stop)


def reader_of(files: Files, descriptor: int, path: str) -> Read:
    """The bytes of the open file at `path`.

    Raises:
        SpoolError: They cannot be read now. That says nothing about them: they count neither as damaged nor as zeros.
    """

    def read(offset: int, size: int) -> bytes:
        try:
            return files.read(descriptor, offset, size)
        except OSError as error:
            problem = f"cannot be read at offset {offset:,}: {error.strerror or error}"
            raise SpoolError(path, problem, errno=error.errno, step=_STEP) from error

    return read
