"""The segments in a folder, by their headers and names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from peerfabric.errors import NewerFormat
from peerfabric.spool.cursor import Cursor, Slots
from peerfabric.spool.files import Files, refusal
from peerfabric.spool.format import (
    PREALLOCATED,
    SEGMENT_HEADER_BYTES_MAX,
    SegmentHeader,
    decode_segment,
    encode_segment,
    parse_name,
)
from peerfabric.spool.scan import reader_of
from peerfabric.spool.segment import Segment


class Identity(NamedTuple):
    """Whose log it is; every segment says so too."""

    node_id: str
    queue: str
    kind: int


T = TypeVar("T")


class Found:
    """What lies in the folder of a log: its names, its cursor, and the size and header of each segment.

    Args:
        fresh: The folder was just made, so nothing is in it.
        strict: Raise what keeps it from being read; else something is missing then, and it is not `whole`.

    Raises:
        NewerFormat: A later version wrote in it.
        SpoolError: Something of it cannot be read now.
    """

    def __init__(self, files: Files, folder: str, *, fresh: bool = False, strict: bool = True) -> None:
        self.whole = True
        self._strict = strict
        self.names: list[str] = [] if fresh else self._tried(partial(files.names, folder)) or []
        self.slots = Slots(files, folder)
        self.cursor: Cursor | None = self._tried(self.slots.read) if self.names else None
        self.headers: dict[str, tuple[int, SegmentHeader | None]] = {}
        for name in self.names:
            if name.endswith(".seg"):
                found = self._tried(partial(read_header, files, f"{folder}/{name}"))
                if found is not None:
                    self.headers[name] = found

    def _tried(self, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except OSError as error:
            if self._strict or isinstance(error, NewerFormat):
                raise
            self.whole = False
            return None

    @property
    def segments_bytes(self) -> int:
        return sum(size for size, _ in self.headers.values())


def open_file(files: Files, path: str, *, write: bool = False) -> int:
    """A descriptor for a file that is there.

    Raises:
        SpoolUnsafe: It is a symbolic link.
        SpoolError: It cannot be opened. To go on without it would be to lose it.
    """
    try:
        return files.open(path, write=write)
    except OSError as error:
        raise refusal(error, path) from error


def find_segments(found: Found, folder: str, identity: Identity, problems: list[str]) -> tuple[list[Segment], int]:
    """The segments of `identity` in the order of the log, and the highest serial that any file has.

    What is not ours is left alone and told of in `problems`.
    """
    segments: list[Segment] = []
    highest = 0
    for name, (size, header) in found.headers.items():
        path = f"{folder}/{name}"
        named = parse_name(name)
        highest = max(highest, header.through if header else named[0] if named else 0)
        if header is not None and Identity(header.node_id, header.queue, header.kind) != identity:
            problems.append(f"{path}: is of queue {header.queue!r} of node {header.node_id}; left alone")
        elif header is not None:
            segments.append(_segment(path, header, size))
        elif named is None:
            problems.append(f"{path}: no segment by its name or header; left alone")
        else:
            if size:
                problems.append(f"{path}: the header at offset 0 is damaged; the name is believed")
            segments.append(_segment(path, _by_name(named, identity), size))
    segments.sort(key=lambda segment: (segment.serial, segment.revision, segment.salt))
    return segments, highest


def read_header(files: Files, path: str) -> tuple[int, SegmentHeader | None]:
    """The size of the file, and its header if that is intact."""
    descriptor = open_file(files, path)
    try:
        size = files.size(descriptor)
        data = reader_of(files, descriptor, path)(0, min(size, SEGMENT_HEADER_BYTES_MAX))
    finally:
        files.close(descriptor)
    return size, decode_segment(data, path)


def _segment(path: str, header: SegmentHeader, size: int) -> Segment:
    return Segment(
        path,
        header.serial,
        header.salt,
        min(header.length, size),
        size,
        header.through,
        header.revision,
        preallocated=bool(header.flags & PREALLOCATED),
    )


def _by_name(named: tuple[int, int], identity: Identity) -> SegmentHeader:
    """The header as it must have been, as far as it matters; its length follows from whose it is."""
    serial, salt = named
    header = SegmentHeader(serial, serial, salt, 0, 0, 0, identity.kind, 0, identity.node_id, identity.queue)
    return header._replace(length=len(encode_segment(header)))
