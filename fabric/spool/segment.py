"""One file of a log: what is in it, how far it is written, and how far it is durable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from errno import ENOSPC

from peerfabric.spool.files import Buffer, Files
from peerfabric.spool.format import SegmentHeader, encode_segment, segment_name


@dataclass(eq=False, slots=True)
class Segment:
    """A file of records.

    start <= synced <= end <= size of the file
    0 <= unsettled <= messages = the sum of the extents
    """

    path: str
    serial: int
    salt: int
    start: int
    """Where the first record is."""
    end: int
    """Where the next one would be."""
    through: int = 0
    revision: int = 0
    synced: int = 0
    """Up to here it is durable."""
    descriptor: int = -1
    """Open while something may still be written or synced."""
    sealed: bool = True
    """Takes no more appends."""
    fresh: bool = False
    """Its name in the folder is not durable yet."""
    doubtful: bool = False
    """A sync failed, and what was not durable then never will be said to be."""
    damaged: bool = False
    """Something in it is no record, or could not be read: nothing of it is rewritten."""
    preallocated: bool = False
    syncs: int = 0
    """How many syncs are under way; the descriptor stays open for them."""
    messages: int = 0
    unsettled: int = 0
    tight: int = 0
    """With so many unsettled messages it cannot be made smaller."""
    extents: list[tuple[int, int, int]] = field(default_factory=list)
    """(epoch, first, stop) of its messages in the order of the file, merged where they are contiguous."""
    skip: set[int] = field(default_factory=set)
    """Offsets of records that are in another segment too."""

    @property
    def dirty(self) -> bool:
        """Whether something in it is written and not durable."""
        return self.synced < self.end

    def extend(self, epoch: int, first: int, stop: int) -> None:
        """A record with these messages is at the end."""
        if self.extents and self.extents[-1][0] == epoch and self.extents[-1][2] == first:
            self.extents[-1] = (epoch, self.extents[-1][1], stop)
        else:
            self.extents.append((epoch, first, stop))
        self.messages += stop - first

    def cut(self, epoch: int, first: int, stop: int) -> None:
        """The last record, with these messages, is not in it after all."""
        last = self.extents.pop()
        assert last == (epoch, min(last[1], first), stop), "only the last record can be cut off"
        if last[1] < first:
            self.extents.append((epoch, last[1], first))
        self.messages -= stop - first


def create(files: Files, folder: str, header: SegmentHeader, name: str = "", descriptor: int = -1) -> Segment:
    """A new segment with its header written, open for appends; after an error there is no file left.

    With a `descriptor` the file is there already: the spare, under its new name.
    """
    data = encode_segment(header)
    path = f"{folder}/{name or segment_name(header.serial, header.salt)}"
    if descriptor < 0:
        descriptor = files.open(path, create=True)
    try:
        written, error = write(files, descriptor, 0, [data], len(data))
        if error is not None:
            raise error
    except BaseException:
        discard(files, path, descriptor)
        raise
    return Segment(
        path,
        header.serial,
        header.salt,
        len(data),
        written,
        header.through,
        header.revision,
        descriptor=descriptor,
        sealed=False,
        fresh=True,
        preallocated=bool(header.flags),
    )


def write(
    files: Files, descriptor: int, offset: int, parts: Sequence[Buffer], total: int
) -> tuple[int, OSError | None]:
    """Write all `total` bytes of `parts`; how many were written, and why not all."""
    done = 0
    try:
        done = files.write(descriptor, offset, parts)
        while done < total:
            # Short writes are rare, and mostly mean that the next one says why.
            more = files.write(descriptor, offset + done, [b"".join(parts)[done:]])
            if not more:
                raise OSError(ENOSPC, "nothing more was written")
            done += more
    except OSError as error:
        return done, error
    return done, None


def discard(files: Files, path: str, descriptor: int) -> None:
    """Close and remove a file of which nothing is wanted, as far as that works."""
    try:
        files.close(descriptor)
    finally:
        try:
            files.unlink(path)
        except OSError:
            # What stays behind has no record that counts; the next start removes it.
            pass
