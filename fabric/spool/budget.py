"""How much of the disk all logs of a spool may use, and the spare for when it is full."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from peerfabric.errors import SpoolFull
from peerfabric.spool.files import FULL, Files
from peerfabric.spool.spare import Spare

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
        self._folder = folder
        self._segment_bytes = segment_bytes
        self.spare = Spare(files, folder, spare_bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes of all logs."""
        return sum(share.bytes for share in self._shares)

    def share(self) -> Share:
        """The part of one log, 0 bytes at first."""
        share = Share()
        self._shares.append(share)
        return share

    def check(self, more: int, *, dead: bool) -> None:
        """Raise `SpoolFull` if `more` bytes are over the limit."""
        limit = self.limit_bytes
        if limit is not None and self.used_bytes + more > limit + (self._segment_bytes if dead else 0):
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
