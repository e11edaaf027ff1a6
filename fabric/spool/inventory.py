"""The segments in a folder, by their headers and names."""

from __future__ import annotations

from typing import NamedTuple

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


def find_segments(files: Files, folder: str, identity: Identity, problems: list[str]) -> tuple[list[Segment], int]:
    """The segments of `identity` in the order of the log, and the highest serial that any file has.

    What is not ours is left alone and told of in `problems`. Nothing is changed.

    Raises:
        NewerFormat: A later version wrote one of them.
        SpoolError: A file cannot be opened or read.
    """
    segments: list[Segment] = []
    highest = 0
    for name in files.names(folder):
        if not name.endswith(".seg"):
            continue
        path = f"{folder}/{name}"
        size, header = read_header(files, path)
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
