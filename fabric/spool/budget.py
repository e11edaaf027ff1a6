"""Budget: how much of the disk all logs of a spool may use, and the spare for when it is full. FORMAT.md, section 9."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from errno import ENOENT
from typing import Final, TypeVar

from peerfabric.errors import SpoolFull
from peerfabric.spool.files import FULL, Files, discard

T = TypeVar("T")


class Share:
    """The bytes of one log's segments. Only who may change the log changes it, so that no update is lost."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Budget:
    """The bytes of all segments of one spool.

    Args:
        limit_bytes: Of all segments; dead letters may use one more segment. None: what the disk has.
        segment_bytes: How large a segment is, and so the spare. The spare is 0 bytes if not wanted.
    """

    def __init__(
        self, files: Files, folder: str, limit_bytes: int | None, segment_bytes: int, spare_bytes: int
    ) -> None:
        self.limit_bytes = limit_bytes
        self._shares: list[Share] = []
        self._counted, self._since = 0, limit_bytes or 0
        """The bytes of all logs when they were last asked, and what was allowed since; before, all of the limit."""
        self._folder = folder
        self._segment_bytes = segment_bytes
        self.spare = Spare(files, folder, spare_bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes of all logs."""
        return sum(share.bytes for share in self._shares)

    def release(self, share: Share) -> None:
        """Its log is removed. Others may be adding up meanwhile."""
        self._shares = [other for other in self._shares if other is not share]

    def share(self) -> Share:
        """The part of one log, 0 bytes at first."""
        share = Share()
        self._shares.append(share)
        return share

    def check(self, more: int, *, dead: bool) -> None:
        """Raise `SpoolFull` if `more` bytes are over the limit."""
        limit = self.limit_bytes
        if limit is None:
            return
        # Far from the limit the logs need not be asked, of which there may be thousands. Threads that come here at one
        # time may lose a part of what they add, so twice of it must fit.
        self._since += more
        if self._counted + 2 * self._since <= limit:
            return
        self._counted, self._since = self.used_bytes, more
        if self._counted + more > limit + (self._segment_bytes if dead else 0):
            raise SpoolFull(self._folder, limit=limit)

    def with_spare(self, act: Callable[[], T]) -> T:
        """Do what must work on a full disk, too: the spare gives piece after piece until there is space for it.

        Raises:
            OSError: Whatever `act` raised last; for lack of space only if nothing is left of the spare.
        """
        while True:
            try:
                return act()
            except OSError as error:
                if error.errno not in FULL or not self.spare.give():
                    raise


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

    @property
    def is_full(self) -> bool:
        """Whether nothing of it is lacking."""
        return self._bytes >= self._wanted

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

    def remove(self) -> None:
        """Give all of it back to the disk; there is none any more."""
        try:
            self._free.pop()
        except IndexError:
            return
        self._bytes = 0
        try:
            self._files.unlink(self.path)
        except FileNotFoundError:
            pass

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
