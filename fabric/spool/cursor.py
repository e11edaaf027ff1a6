"""Cursor of a log: what is settled, in two files of which the older one is written. FORMAT.md, section 2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from errno import ENOENT
from typing import Final

import msgspec

from peerfabric.errors import SpoolError
from peerfabric.ranges import Ranges, pairs
from peerfabric.spool.files import Files, refusal, write
from peerfabric.spool.format import CURSOR_MAGIC, SHEET_BYTES, Sheet, decode_sheet, encode_sheet

RANGES_BYTES_MAX: Final = 64 * 1024
"""Ranges beyond that are forgotten: acks so scattered are rare, and a cursor is written several times a second."""
LETTER_RANGES_BYTES_MAX: Final = 8 * 1024 * 1024
"""The same in a log of dead letters. People drop and retry some of them here and there, and want none of these back."""
MARKS_BYTES_MAX: Final = 16 * 1024 * 1024
CURSOR_BYTES: Final = SHEET_BYTES + RANGES_BYTES_MAX + 1024


class Line(msgspec.Struct, array_like=True):
    """What the cursor says of one epoch: settled ranges, and the span of what was stored."""

    epoch: int
    ranges: list[int] = []
    oldest: int = 1
    next: int = 1


class _Payload(msgspec.Struct):
    epoch: int = 0
    epochs: list[Line] = []
    marks: bytes = b""


@dataclass
class Cursor:
    """The content of a cursor.

    Everything below `oldest` of an epoch is settled, and everything of an epoch that is older than `epoch`, in which
    the cursor was written, and has no line.
    """

    epoch: int = 0
    settled: dict[int, Ranges] = field(default_factory=dict)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    marks: bytes = b""

    def forgotten(self, epoch: int) -> bool:
        """Whether all of `epoch` was settled and removed when this was written."""
        return epoch < self.epoch and epoch not in self.spans


class CursorFiles:
    """The two files of one cursor: generation g lies on side g mod 2."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = folder
        self.generation = 0
        self.named = False
        """The names of both are durable."""
        self._sizes = [0, 0]
        self._there: set[int] = set()
        """The sides that are on disk. One that somebody has removed is not made again: whoever removes the folder, file
        by file, would find it there."""
        self._encode = msgspec.msgpack.Encoder().encode

    def read(self) -> Cursor | None:
        """The newest content that is intact; None if there is none.

        Raises:
            NewerFormat: A later version wrote it.
            SpoolError: It cannot be read now. To go on with the older one would be to take for lost what was trimmed.
        """
        found = [sheet for side in (0, 1) if (sheet := self._read(side)) is not None]
        for sheet in sorted(found, reverse=True):
            self.generation = max(self.generation, sheet.generation)
            try:
                payload = msgspec.msgpack.decode(sheet.payload, type=_Payload)
            except (msgspec.DecodeError, RecursionError):
                continue
            return Cursor(
                payload.epoch,
                {line.epoch: Ranges(pairs(line.ranges)) for line in payload.epochs},
                {line.epoch: (line.oldest, line.next) for line in payload.epochs},
                payload.marks,
            )
        return None

    def _read(self, side: int) -> Sheet | None:
        path = self._path(side)
        try:
            descriptor = self._files.open(path, write=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(error, path) from error
        self._there.add(side)
        try:
            # More than it can be is somebody else's file.
            size = self._sizes[side] = min(self._files.size(descriptor), CURSOR_BYTES + MARKS_BYTES_MAX)
            data = self._files.read(descriptor, 0, size)
        except OSError as error:
            raise refusal(error, path) from error
        finally:
            self._files.close(descriptor)
        return decode_sheet(CURSOR_MAGIC, data, path)

    def prepare(self) -> None:
        """Make the sides that are missing, and have space on the disk for both."""
        for side in (0, 1):
            if self._sizes[side] >= CURSOR_BYTES:
                continue
            try:
                descriptor = self._opened(side)
                try:
                    self._files.allocate(descriptor, CURSOR_BYTES)
                finally:
                    self._files.close(descriptor)
            except OSError as error:
                raise refusal(error, self._path(side)) from error
            self._sizes[side] = CURSOR_BYTES

    def _opened(self, side: int) -> int:
        path = self._path(side)
        if side not in self._there:
            descriptor = self._files.open(path, create=True)
            self._there.add(side)
            self.named = False
            return descriptor
        try:
            return self._files.open(path)
        except FileNotFoundError:
            step = "close this node, and start again"
            raise SpoolError(path, "was removed while in use", errno=ENOENT, step=step) from None

    def write(self, epoch: int, lines: list[Line], marks: bytes, *, sync: bool) -> None:
        """Write the next generation into the older side; after an error the newer one still counts."""
        payload = self._encode(_Payload(epoch, lines, marks))
        generation = self.generation + 1
        side = generation & 1
        path = self._path(side)
        data = encode_sheet(CURSOR_MAGIC, generation, payload)
        try:
            descriptor = self._opened(side)
            try:
                _, problem = write(self._files, descriptor, 0, [data], len(data))
                if problem is not None:
                    raise problem
                if sync:
                    self._files.sync(descriptor)
            finally:
                self._files.close(descriptor)
            if sync and not self.named:
                self._files.sync_folder(self._folder)
                self.named = True
        except OSError as error:
            raise refusal(error, path) from error
        self.generation = generation

    def remove_older(self) -> None:
        """Remove the side that does not count, once the other one is durable."""
        descriptor = self._files.open(self._path(self.generation & 1))
        try:
            self._files.sync(descriptor)
        finally:
            self._files.close(descriptor)
        self._remove(self.generation & 1 ^ 1)

    def remove(self) -> None:
        """Remove what is left, when its log has no segment any more."""
        for side in (self.generation & 1 ^ 1, self.generation & 1):
            self._remove(side)

    def _remove(self, side: int) -> None:
        try:
            self._files.unlink(self._path(side))
        except FileNotFoundError:
            pass
        self._there.discard(side)

    def _path(self, side: int) -> str:
        return f"{self._folder}/cursor.{side}"


def lines_of(
    spans: Iterable[tuple[int, int, int]], settled: dict[int, Ranges], bytes_max: int
) -> tuple[list[Line], bool]:
    """Lines for spans `(epoch, oldest, next)`, and whether ranges over `bytes_max` had to be forgotten."""
    lines, room, forgot = [], bytes_max // 9, False
    for epoch, oldest, following in sorted(spans):
        flat = settled[epoch].flat() if epoch in settled else []
        # An integer takes at most nine bytes; the newest epochs and the highest ranges are forgotten first.
        kept = flat[: room - room % 2]
        forgot = forgot or len(kept) < len(flat)
        room -= len(kept)
        lines.append(Line(epoch, kept, oldest, following))
    return lines, forgot
