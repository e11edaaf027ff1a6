"""Records among other bytes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from peerfabric.spool.format import RECORD_BYTES, RECORD_MAGIC, record_header
from peerfabric.spool.scan import Damage, scan

SALT = 0x1234


def pieces(random: Random) -> tuple[bytes, list[tuple[int, int]], list[tuple[int, int]]]:
    """Bytes with records and noise, the offsets and sequences of the records, and the gaps between them."""
    data, records, gaps = bytearray(), [], []
    for sequence in range(1, random.randrange(2, 30)):
        if random.random() < 0.3:
            noise = random.choice((random.randbytes(random.randrange(1, 300)), RECORD_MAGIC * 7, bytes(60), b"\xe7"))
            gaps.append((len(data), len(data) + len(noise)))
            data += noise
        body = random.randbytes(random.randrange(200)) + random.choice((b"", RECORD_MAGIC))
        records.append((len(data), sequence))
        data += record_header(SALT, len(data), body, b"e", 1, sequence, 1, 0, 0) + body + b"e"
    return bytes(data), records, gaps


def reading(data: bytes) -> Callable[[int, int], bytes]:
    return lambda at, size: data[at : at + size]


@pytest.mark.parametrize("window", [RECORD_BYTES, 64, 100, 1000, 1 << 20])
def test_finds_everything_in_any_window(window: int) -> None:
    """Whole or cut into pieces: the same records, and the same gaps."""
    for seed in range(100):
        data, records, gaps = pieces(Random(seed))
        found, damaged = [], []
        for item in scan(reading(data), 0, len(data), SALT, window):
            if isinstance(item, Damage):
                damaged.append((item.offset, item.stop))
            else:
                found.append((item[0], item[3][7]))
        assert (found, damaged) == (records, gaps), f"seed {seed}"


def test_work_is_linear() -> None:
    """Bytes that look like records everywhere are read about once."""
    noise = (RECORD_MAGIC + bytes(48)) * 5_000
    reads = []

    def read(at: int, size: int) -> bytes:
        reads.append(size)
        return noise[at : at + size]

    assert list(scan(read, 0, len(noise), SALT, 4096)) == [Damage(0, len(noise))]
    assert sum(reads) < 1.2 * len(noise)


def test_any_bytes() -> None:
    """Nothing that is in a file makes it fail."""
    for seed in range(300):
        random = Random(seed)
        data = bytearray(pieces(random)[0])
        for _ in range(random.randrange(1, 20)):
            at = random.randrange(len(data))
            data[at : at + random.randrange(9)] = random.randbytes(random.randrange(9))
        stop = 0
        for item in scan(reading(bytes(data)), 0, len(data), SALT, 128):
            offset, end = (item.offset, item.stop) if isinstance(item, Damage) else (item[0], item[0] + 1)
            assert stop <= offset < end <= len(data)
            stop = end


@pytest.mark.parametrize("place", [0, 8, RECORD_BYTES, RECORD_BYTES + 10])
def test_bytes_that_were_wrong_once(place: int) -> None:
    """A crc that is right when the bytes are read again is right; one that is wrong again is damage."""
    data = b""
    for sequence in range(1, 6):
        data += record_header(SALT, len(data), b"x" * 20, b"", 1, sequence, 1, 0, 0) + b"x" * 20
    size = RECORD_BYTES + 20
    wrong = bytearray(data)
    wrong[2 * size + place] ^= 1
    for times, found in ((1, 5), (1000, 4)):
        reads = 0

        def read(at: int, length: int, times: int = times) -> bytes:
            nonlocal reads
            reads += 1
            return bytes(wrong if reads <= times else data)[at : at + length]

        items = list(scan(read, 0, len(data), SALT))
        assert len([item for item in items if not isinstance(item, Damage)]) == found
        assert [isinstance(item, Damage) for item in items].count(True) == 5 - found
