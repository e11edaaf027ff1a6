"""Spools of small segments, with messages whose bodies say who they are."""

from __future__ import annotations

from peerfabric.spool import Files, Log, Record, Spool
from peerfabric.wire.bodies import join, split
from peerfabric.wire.frames import RAW
from tests.fabric.spool.disk import Disk

QUEUE = "orders"
FOLDER = "/spool"
SEGMENT_BYTES = 1024


def open_spool(
    files: Files | None = None, *, folder: str = FOLDER, fsync: bool = False, spare: bool = False, **options: object
) -> Spool:
    """A spool in which everything is small."""
    options = {"random_bits": 7, "node_id": "node", "segment_bytes": SEGMENT_BYTES, "unix_ms": 1, **options}
    return Spool.open(folder, files=files or Disk(), fsync=fsync, spare=spare, **options)  # type: ignore[arg-type]


def open_log(files: Files, **options: object) -> Log:
    return open_spool(files, **options).queue(QUEUE, unix_ms=1)  # type: ignore[arg-type]


def text(epoch: int, sequence: int, size: int = 0) -> bytes:
    """The body of that message."""
    return f"{epoch}/{sequence}".encode().ljust(size, b".")


def batch(epoch: int, first: int, count: int, size: int = 0) -> tuple[bytes, int]:
    """A frame body of those messages, and its codec."""
    return join([text(epoch, sequence, size) for sequence in range(first, first + count)], RAW)


def append(log: Log, epoch: int, first: int, count: int = 1, size: int = 0, extras: bytes = b"") -> None:
    body, codec = batch(epoch, first, count, size)
    log.append(epoch, first, count, codec, body, extras, unix_ms=first)


def fill(log: Log, epoch: int, first: int, records: int, count: int = 2, size: int = 0) -> int:
    """Append that many records, and return the next sequence."""
    for _ in range(records):
        append(log, epoch, first, count, size)
        first += count
    return first


def records(log: Log, *, bytes_max: int = 1 << 20) -> list[Record]:
    """Everything that a new reader reads."""
    reader, found = log.reader(), list[Record]()
    while some := reader.read(bytes_max):
        found += some
    reader.close()
    return found


def messages(log: Log, size: int = 0) -> list[tuple[int, int]]:
    """(epoch, sequence) of every message that is read; each body is what was appended."""
    found = []
    for record in records(log):
        assert record.body == batch(record.epoch, record.first, record.count, size)[0]
        assert len(split(record.body, record.codec)) == record.count
        found += [(record.epoch, sequence) for sequence in range(record.first, record.stop)]
    return found


def numbers(ranges: list[tuple[int, int, int]]) -> set[tuple[int, int]]:
    """(epoch, sequence) of every message in `(epoch, first, stop)`."""
    return {(epoch, sequence) for epoch, first, stop in ranges for sequence in range(first, stop)}
