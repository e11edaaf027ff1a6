"""The bytes of FORMAT.md, and later versions of them."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c

from peerfabric.errors import NewerFormat
from peerfabric.spool.format import (
    CURSOR_MAGIC,
    RECORD,
    SegmentHeader,
    Sheet,
    decode_segment,
    decode_sheet,
    encode_segment,
    encode_sheet,
    make_salt,
    parse_name,
    record_header,
    segment_name,
)

HEADER = SegmentHeader(3, 3, 0xDEADBEEF, 0, (5 << 20) | 7, 1_700_000_000_000, 1, 0, "0123456789abcdef", "orders")

# The crcs in the tests below were checked with a bit by bit CRC-32C, apart from the library.
GOLDEN_SEGMENT = (
    "504641425345474d 0100 5200 {crc} 0300000000000000 0300000000000000 efbeadde 00000000 0700500000000000"
    "0068e5cf8b010000 01 00 10 30313233343536373839616263646566 06 6f7264657273"
)
GOLDEN_RECORD = (
    "e75046b1 {crc} 04000000 02000000 {body} 02000000 0700500000000000 0900000000000000 0068e5cf8b010000 00 00 0000"
)


def hexadecimal(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def test_segment_header() -> None:
    """Byte for byte, with the crc over everything but itself."""
    data = encode_segment(HEADER)
    crc = crc32c(data[:12] + data[16:])
    assert data == hexadecimal(GOLDEN_SEGMENT.format(crc=crc.to_bytes(4, "little").hex()))
    assert data[12:16].hex() == "efe98a76"
    assert decode_segment(data + b"what follows", "path") == HEADER._replace(length=len(data))


def test_record_header() -> None:
    """Byte for byte; the header's crc starts from salt and offset, the body's covers body and extras."""
    header = record_header(0xDEADBEEF, 82, b"\x92\x01\x02\x03", b"ex", (5 << 20) | 7, 9, 2, 0, 1_700_000_000_000)
    crc = crc32c(header[8:], 0xDEADBEEF ^ 82)
    body = crc32c(b"\x92\x01\x02\x03ex")
    assert header == hexadecimal(
        GOLDEN_RECORD.format(crc=crc.to_bytes(4, "little").hex(), body=body.to_bytes(4, "little").hex())
    )
    assert header[4:8].hex() == "a506c99e"
    assert len(header) == RECORD.size == 52


def test_sheet() -> None:
    """Byte for byte; what follows the payload means nothing."""
    data = encode_sheet(CURSOR_MAGIC, 258, b"payload")
    rest = "0201000000000000 07000000 00000000" + b"payload".hex()
    crc = crc32c(hexadecimal("5046414243555253 0100 2000" + rest))
    assert data == hexadecimal("5046414243555253 0100 2000" + crc.to_bytes(4, "little").hex() + rest)
    assert decode_sheet(CURSOR_MAGIC, data + bytes(100), "path") == Sheet(258, b"payload")
    assert decode_sheet(b"PFABNODE", data, "path") is None
    assert decode_sheet(CURSOR_MAGIC, data[:-1], "path") is None


def test_crc_is_castagnoli() -> None:
    """The check value of CRC-32C."""
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("data", [encode_segment(HEADER), encode_sheet(CURSOR_MAGIC, 1, b"payload")])
def test_every_bit_counts(data: bytes) -> None:
    """One wrong bit is never believed, and never taken for a later version."""
    for at in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[at // 8] ^= 1 << at % 8
        assert decode_segment(bytes(wrong), "path") is None
        assert decode_sheet(CURSOR_MAGIC, bytes(wrong), "path") is None


def test_newer_version() -> None:
    """A right crc with a higher version is another format, whatever else is in it."""
    for data, decode in (
        (encode_segment(HEADER), lambda d: decode_segment(d, "path")),
        (encode_sheet(CURSOR_MAGIC, 1, b"payload"), lambda d: decode_sheet(CURSOR_MAGIC, d, "path")),
    ):
        newer = data[:8] + struct.pack("<H", 2) + data[10:12]
        crc = crc32c(data[16:], crc32c(newer)).to_bytes(4, "little")
        with pytest.raises(NewerFormat, match=r"format 2.*upgrade"):
            decode(newer + crc + data[16:])


def test_names() -> None:
    """Serial and salt are in the name of a file, so a damaged header does not hide them."""
    assert segment_name(26, 0xABC) == "000000000000001a-00000abc.seg"
    assert parse_name("000000000000001a-00000abc.seg") == (26, 0xABC)
    for name in ("1a-abc.seg", "000000000000001a-00000abc.seg.tmp", "f" * 16 + "-00000abc.seg", "cursor.0"):
        assert parse_name(name) is None


def test_salts_differ() -> None:
    """Another life, queue, kind, serial or file has another salt."""
    known = [
        make_salt(e, q, k, s, m) for e in (1, 2) for q in ("a", "b") for k in (1, 2) for s in (1, 2) for m in (1, 2)
    ]
    assert len(set(known)) == len(known)
