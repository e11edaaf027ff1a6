"""How much of the disk all logs of a spool may use, and the spare for when it is full."""

from __future__ import annotations

from errno import ENOENT

from peerfabric.errors import SpoolFull
from peerfabric.spool.files import Files
from peerfabric.spool.segment import discard


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
        self.used_bytes = 0
        self._files = files
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._spare_bytes = spare_bytes
        self._has_spare = False

    def check(self, more: int, *, dead: bool) -> None:
        """Raise `SpoolFull` if `more` bytes are over the limit."""
        limit = self.limit_bytes
        if limit is not None and self.used_bytes + more > limit + (self._segment_bytes if dead else 0):
            raise SpoolFull(self._folder, limit=limit)

    def make_spare(self) -> None:
        """Have a spare if there is space for one."""
        if self._has_spare or not self._spare_bytes:
            return
        path = f"{self._folder}/spare"
        try:
            descriptor = self._files.open(path, create=True)
        except FileExistsError:
            self._has_spare = True
            return
        except OSError:
            return
        try:
            self._files.allocate(descriptor, self._spare_bytes)
        except OSError:
            discard(self._files, path, descriptor)
            return
        self._files.close(descriptor)
        self._has_spare = True

    def take_spare(self, path: str) -> int:
        """The spare as a file at `path`, open; its blocks are there already.

        Raises:
            OSError: There is none.
        """
        if not self._has_spare:
            raise OSError(ENOENT, "there is no spare segment")
        self._files.rename(f"{self._folder}/spare", path)
        self._has_spare = False
        return self._files.open(path)
