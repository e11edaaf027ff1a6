"""Reader of a log from some message on, while it grows at one end and is trimmed at the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from peerfabric.errors import SpoolError
from peerfabric.spool.files import Files
from peerfabric.spool.format import RECORD_BYTES
from peerfabric.spool.scan import WINDOW_BYTES, Damage, Found, reader_of, scan
from peerfabric.spool.segment import Contents, Segment, open_file


class Record(NamedTuple):
    """One batch as it was appended."""

    epoch: int
    first: int
    count: int  # type: ignore[assignment]  # tuple.count, which nobody needs here
    codec: int
    unix_ms: int
    body: bytes | memoryview
    extras: bytes

    @property
    def stop(self) -> int:
        """The sequence after its last message."""
        return self.first + self.count


class Reader:
    """A place in a log. It holds one descriptor at most, and none after `close()`.

    Made by `Log.reader`; to be used under the same lock as the log.
    """

    def __init__(
        self, files: Files, contents: Contents, readable: Callable[[Segment], int], epoch: int, sequence: int
    ) -> None:
        self._files = files
        self._contents = contents
        self._readable = readable
        self._from: tuple[int, int] | None = (epoch, sequence)
        self.serial = 0
        """Segments up to this one are read, or are where it is."""
        self.segment: Segment | None = None
        """Where it is."""
        self.damages: list[str] = []
        """What was passed over, for people; whoever has told them empties it."""
        self._offset = 0
        self._limit = 0
        self._descriptor = -1
        self._items: Iterator[Found | Damage] = iter(())

    def read(self, bytes_max: int) -> list[Record]:
        """The next records, at least one and then up to `bytes_max` bytes of them; none at the end for now.

        Only what is stored is read: with fsync=True that is what a `sync()` has made durable. What is damaged, that
        is read twice with a wrong crc, is passed over and told of in `damages`. No record comes twice.

        Raises:
            SpoolError: A segment cannot be opened or read now; nothing is passed over, and the next call tries again.
        """
        records: list[Record] = []
        room = bytes_max
        while room > 0 or not records:
            try:
                item = next(self._items, None)
                if item is None:
                    if not self._go_on():
                        break
                    continue
            except SpoolError:
                self._items = iter(())
                if not records:
                    raise
                break  # the next call says why, if it still is so
            if isinstance(item, Damage):
                self._pass_over(item)
                continue
            offset, at, data, (_, _, body, extras, _, count, epoch, first, unix_ms, codec, _, _) = item
            size = RECORD_BYTES + body + extras
            self._offset = offset + size
            segment = self.segment
            assert segment is not None
            if offset in segment.skip or (self._from is not None and self._before(epoch, first + count)):
                continue
            room -= size
            at += RECORD_BYTES
            end = at + body
            records.append(
                Record(epoch, first, count, codec, unix_ms, data[at:end], data[end : end + extras] if extras else b"")
            )
        return records

    def _pass_over(self, damage: Damage) -> None:
        assert self.segment is not None
        self._offset = damage.stop
        if self._from is not None and (not damage.count or self._before(damage.epoch, damage.first + damage.count)):
            return  # what lies in front of where we begin is not our concern
        what = f"sequences {damage.first} to {damage.first + damage.count - 1} of epoch {damage.epoch} are damaged"
        self.damages.append(
            f"{self.segment.path}: offset {damage.offset:,} to {damage.stop:,}: {what if damage.count else 'no record'}"
        )

    def _before(self, epoch: int, stop: int) -> bool:
        """Whether a record ends before where we are to begin; once one does not, all others are wanted."""
        assert self._from is not None
        if epoch < self._from[0] or (epoch == self._from[0] and stop <= self._from[1]):
            return True
        self._from = None
        return False

    def _go_on(self) -> bool:
        """Make `_items` what there is more in this segment, or the next one; False if there is nothing."""
        segment = self.segment
        if segment is not None:
            limit = self._readable(segment)
            if self._offset < limit:
                self._scan(segment, limit)
                return True
            if not segment.sealed or limit < segment.end:
                return False
        following = self._contents.after(self.serial)
        while following is not None and self._from is not None and not self._wanted(following):
            self.serial = following.serial
            following = self._contents.after(self.serial)
        if following is None:
            return False
        self.close()
        self.segment, self.serial, self._offset = following, following.through, following.start
        return True

    def _wanted(self, segment: Segment) -> bool:
        assert self._from is not None
        # One that still grows may become it.
        return not segment.sealed or any((epoch, stop - 1) >= self._from for epoch, _, stop in segment.extents)

    def _scan(self, segment: Segment, limit: int) -> None:
        if self._descriptor < 0:
            try:
                self._descriptor = open_file(self._files, segment.path)
            except OSError:
                if segment in self._contents.segments:
                    raise
                # Removed before it was opened: all of it is settled.
                self._offset = segment.end
                return
        read = reader_of(self._files, self._descriptor, segment.path)
        self._items = scan(read, self._offset, limit, segment.salt, WINDOW_BYTES // 4)

    def close(self) -> None:
        """Let go of the descriptor; a later `read` opens it again."""
        descriptor, self._descriptor = self._descriptor, -1
        self._items = iter(())
        if descriptor >= 0:
            self._files.close(descriptor)

    def __del__(self) -> None:
        self.close()
