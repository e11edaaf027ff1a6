"""One sync, what it covers, and how records whose sync failed are saved. FORMAT.md, section 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from peerfabric.spool.files import Buffer, Files, refusal
from peerfabric.spool.format import RECORD_BYTES, SegmentHeader, record_header
from peerfabric.spool.segment import Segment, create, discard, write

Entry = tuple[int, int, int, Buffer, Buffer]
"""A record to append: first, count, codec, body, extras."""


@dataclass(eq=False, slots=True)
class Sync:
    """One sync under way: what it covers, as of its beginning."""

    files: Files
    parts: list[tuple[Segment, int, int]]
    """(segment, descriptor, end)"""
    folders: list[str]
    """Those in which a name is new."""
    mark: int
    """How many records were appended before."""

    def run(self) -> None:
        """Make it durable. Touches nothing but descriptors, so it needs no lock."""
        for _, descriptor, _ in self.parts:
            self.files.sync(descriptor)
        for folder in self.folders:
            self.files.sync_folder(folder)


class Pending(NamedTuple):
    """A record that is written and not durable."""

    segment: Segment
    epoch: int
    entry: Entry
    unix_ms: int


def save(
    files: Files,
    folder: str,
    outer: Iterable[str],
    pending: Iterable[Pending],
    header: Callable[[int], SegmentHeader],
    segment_bytes: int,
) -> list[tuple[Segment, list[Pending]]]:
    """Write `pending` to new segments, and return these with what is in each; all of it is durable then.

    Args:
        header: Gives one for the next new segment, for a time.

    Raises:
        SpoolError: Nothing was saved, and no file is left of it.
    """
    made: list[tuple[Segment, list[Pending]]] = []
    try:
        for record in pending:
            total = size_of(record.entry)
            if not made or made[-1][0].end + total > segment_bytes:
                made.append((create(files, folder, header(record.unix_ms)), []))
            segment, records = made[-1]
            first, count, codec, body, extras = record.entry
            head = record_header(
                segment.salt, segment.end, body, extras, record.epoch, first, count, codec, record.unix_ms
            )
            _, error = write(files, segment.descriptor, segment.end, (head, body, extras), total)
            if error is not None:
                raise error
            segment.end += total
            records.append(record)
        for segment, _ in made:
            files.sync(segment.descriptor)
        for path in (*outer, folder):
            files.sync_folder(path)
    except OSError as error:
        for segment, _ in made:
            discard(files, segment.path, segment.descriptor)
        raise refusal(error, folder) from error
    for segment, _ in made:
        segment.synced, segment.fresh = segment.end, False
    return made


def size_of(entry: Entry) -> int:
    """The bytes of its record."""
    return RECORD_BYTES + len(entry[3]) + len(entry[4])
