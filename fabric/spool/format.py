"""Format of the spool: the bytes of sheets, segment headers, record headers. FORMAT.md says what they mean."""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from crc32c import crc32c

from peerfabric.errors import NewerFormat

Buffer = bytes | bytearray | memoryview

VERSION: Final = 1
MESSAGES, DEAD = 1, 2
PREALLOCATED: Final = 1

NODE_MAGIC: Final = b"PFABNODE"
CURSOR_MAGIC: Final = b"PFABCURS"
SEGMENT_MAGIC: Final = b"PFABSEGM"
RECORD_MAGIC: Final = b"\xe7PF\xb1"
"""Not valid UTF-8, so text never contains it, and a search stops seldom in vain."""

SERIAL_MAX: Final = 1 << 62
"""No log gets there; a name that says more is somebody else's, and would leave no room for the next one."""

_PREFIX: Final = struct.Struct("<8sHHI")  # magic, version, header length, crc: in this place in every version
_SHEET: Final = struct.Struct("<QII")  # generation, payload length, zero
_SEGMENT: Final = struct.Struct("<QQIIQQBB")  # serial, through, salt, revision, epoch, unix ms, kind, flags
_FIELDS: Final = struct.Struct("<IIIIQQQBBH")  # what the header crc of a record covers
RECORD: Final = struct.Struct("<4sIIIIIQQQBBH")
"""magic, header crc, body length, extras length, body crc, count, epoch, first, unix ms, codec, flags, zero"""

RECORD_BYTES: Final = RECORD.size
SEGMENT_HEADER_BYTES_MAX: Final = _PREFIX.size + _SEGMENT.size + 2 * 256
SHEET_BYTES: Final = _PREFIX.size + _SHEET.size

_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{8})\.seg")


class SegmentHeader(NamedTuple):
    """What a segment says of itself; `length` is where its first record is."""

    serial: int
    through: int
    salt: int
    revision: int
    epoch: int
    unix_ms: int
    kind: int
    flags: int
    node_id: str
    queue: str
    length: int = 0


class Sheet(NamedTuple):
    """One generation of a small document."""

    generation: int
    payload: bytes


def encode_sheet(magic: bytes, generation: int, payload: bytes) -> bytes:
    """magic 8 · version 2 · length 2 · crc 4 · generation 8 · payload length 4 · zero 4 · payload"""
    return _sealed(magic, SHEET_BYTES, _SHEET.pack(generation, len(payload), 0) + payload)


def decode_sheet(magic: bytes, data: bytes, path: str) -> Sheet | None:
    """The sheet in `data`; None if it is damaged.

    Raises:
        NewerFormat: A later version wrote it.
    """
    if len(data) < SHEET_BYTES or data[:8] != magic:
        return None
    generation, size, _ = _SHEET.unpack_from(data, _PREFIX.size)
    if not _intact(data, SHEET_BYTES + size, path):
        return None
    return Sheet(generation, data[SHEET_BYTES : SHEET_BYTES + size])


def encode_segment(header: SegmentHeader) -> bytes:
    """magic 8 · version 2 · length 2 · crc 4 · serial 8 · through 8 · salt 4 · revision 4 · epoch 8 · ms 8 · kind 1 ·
    flags 1 · node id 1+n · queue 1+n"""
    texts = b"".join(bytes((len(text),)) + text for text in (header.node_id.encode(), header.queue.encode()))
    return _sealed(SEGMENT_MAGIC, _PREFIX.size + _SEGMENT.size + len(texts), _SEGMENT.pack(*header[:8]) + texts)


def decode_segment(data: bytes, path: str) -> SegmentHeader | None:
    """The header at the start of `data`; None if it is damaged.

    Raises:
        NewerFormat: A later version wrote it.
    """
    if len(data) < _PREFIX.size + _SEGMENT.size or data[:8] != SEGMENT_MAGIC:
        return None
    length = int.from_bytes(data[10:12], "little")
    if not _intact(data, length, path):
        return None
    fields = _SEGMENT.unpack_from(data, _PREFIX.size)
    at = _PREFIX.size + _SEGMENT.size
    node_id = data[at + 1 : at + 1 + data[at]]
    at += 1 + len(node_id)
    queue = data[at + 1 : at + 1 + data[at]]
    return SegmentHeader._make((*fields, node_id.decode(errors="replace"), queue.decode(errors="replace"), length))


def _sealed(magic: bytes, length: int, rest: bytes) -> bytes:
    head = _PREFIX.pack(magic, VERSION, length, 0)[:12]
    return head + crc32c(rest, crc32c(head)).to_bytes(4, "little") + rest


def _intact(data: bytes, size: int, path: str) -> bool:
    """Whether the crc of a sheet or segment header of `size` bytes is right; a newer one is looked at no further."""
    _, version, length, crc = _PREFIX.unpack_from(data)
    if version == VERSION:
        return size <= len(data) and crc32c(data[16:size], crc32c(data[:12])) == crc
    # What else is in it we do not know, but where its header ends, and that its crc covers what we have of that.
    sizes = (size, length)
    if version > VERSION and any(16 <= s <= len(data) and crc32c(data[16:s], crc32c(data[:12])) == crc for s in sizes):
        raise NewerFormat(path, version)
    return False


def record_header(
    salt: int,
    offset: int,
    body: Buffer,
    extras: Buffer,
    epoch: int,
    first: int,
    count: int,
    codec: int,
    unix_ms: int,
) -> bytes:
    """The header of a record at `offset` of the segment with `salt`.

    magic 4 · header crc 4 · body length 4 · extras length 4 · body crc 4 · count 4 · epoch 8 · first 8 · ms 8 · codec 1
    · flags 1 · zero 2
    """
    crc = crc32c(body)
    if extras:
        crc = crc32c(extras, crc)
    fields = _FIELDS.pack(len(body), len(extras), crc, count, epoch, first, unix_ms, codec, 0, 0)
    # The register starts elsewhere in another place or segment: another crc for the same bytes.
    return RECORD_MAGIC + crc32c(fields, (salt ^ offset) & 0xFFFFFFFF).to_bytes(4, "little") + fields


def segment_name(serial: int, salt: int) -> str:
    return f"{serial:016x}-{salt:08x}.seg"


def parse_name(name: str) -> tuple[int, int] | None:
    """Serial and salt in the name of a segment; None: it is not one."""
    found = _NAME.fullmatch(name)
    if found is None or int(found.group(1), 16) >= SERIAL_MAX:
        return None
    return int(found.group(1), 16), int(found.group(2), 16)


def make_salt(epoch: int, queue: str, kind: int, serial: int, made: int) -> int:
    """A salt that no other segment has: `made` counts those of this life."""
    return crc32c(queue.encode(), crc32c(struct.pack("<QBQQ", epoch, kind, serial, made)))
