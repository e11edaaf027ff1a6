"""The file `spare`: space that is kept for a full disk. FORMAT.md, section 9."""

from __future__ import annotations

from collections import deque
from errno import ENOENT
from typing import Final

from peerfabric.spool.files import Files
from peerfabric.spool.segment import discard

PIECES: Final = 16
"""The spare gives its space back in so many pieces: 1 MiB of 16, for sheets and cursors of some kilobytes."""


class Spare:
    """A preallocated file, or as much of one as the disk has space for.

    Logs of one spool come here from several threads, each under a lock of its own. So whoever takes the one element out
    of `_free` has the file for himself: popping is atomic.

    Args:
        bytes_wanted: How large it is when there is space; 0: there is none.
    """

    # len(_free) <= 1; 0 <= _bytes <= bytes_wanted

    def __init__(self, files: Files, folder: str, bytes_wanted: int) -> None:
        self.path = f"{folder}/spare"
        self._files = files
        self._wanted = bytes_wanted
        self._bytes = 0
        self._free: deque[bool] = deque()

    def find(self) -> None:
        """Go on with the one that an earlier life has left.

        Raises:
            OSError: It cannot be opened.
        """
        if not self._wanted or "spare" not in self._files.names(self.path.rpartition("/")[0]):
            return
        descriptor = self._files.open(self.path)
        try:
            self._bytes = min(self._wanted, self._files.size(descriptor))
        finally:
            self._files.close(descriptor)
        self._free.append(True)

    def fill(self) -> None:
        """Have all of it again if there is space for that; if there is none at all, all or nothing."""
        if not self._wanted or (self._free and self._bytes == self._wanted):
            return
        try:
            self._free.pop()
        except IndexError:
            self._make()
            return
        try:
            descriptor = self._files.open(self.path)
        except OSError:
            return  # somebody took it away
        try:
            self._grow(descriptor)
        finally:
            self._files.close(descriptor)
            self._free.append(True)

    def _make(self) -> None:
        try:
            descriptor = self._files.open(self.path, create=True)
        except OSError:
            return  # another thread has it in hand, or the disk refuses
        try:
            self._files.allocate(descriptor, self._wanted)
        except OSError:
            discard(self._files, self.path, descriptor)
            return
        self._files.close(descriptor)
        self._bytes = self._wanted
        self._free.append(True)

    def _grow(self, descriptor: int) -> None:
        while self._bytes < self._wanted:
            more = min(self._wanted, self._bytes + self._piece)
            try:
                self._files.allocate(descriptor, more)
            except OSError:
                try:
                    self._files.truncate(descriptor, self._bytes)  # some file systems keep a part of what they refused
                except OSError:
                    pass
                return
            self._bytes = more

    @property
    def _piece(self) -> int:
        return max(1, self._wanted // PIECES)

    def give(self) -> bool:
        """Give one piece back to the disk; False if there is none."""
        try:
            self._free.pop()
        except IndexError:
            return False
        try:
            left = max(0, self._bytes - self._piece)
            if left == self._bytes:
                return False
            descriptor = self._files.open(self.path)
            try:
                self._files.truncate(descriptor, left)
            finally:
                self._files.close(descriptor)
            self._bytes = left
            return True
        except OSError:
            return False
        finally:
            self._free.append(True)

    def take(self, path: str) -> int:
        """The spare as a file at `path`, open; its blocks are there already.

        Raises:
            OSError: There is none.
        """
        try:
            self._free.pop()
        except IndexError:
            raise OSError(ENOENT, "there is no spare segment") from None
        before, self._bytes = self._bytes, 0
        try:
            self._files.rename(self.path, path)
        except OSError:
            self._bytes = before
            self._free.append(True)
            raise
        return self._files.open(path)
