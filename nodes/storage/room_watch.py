"""Watch over the room of a spool: every few seconds the disk's thread measures it, for the node's early warnings."""

from __future__ import annotations

import os
from typing import Final

from peerfabric.engine import Engine
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.storage.disk_thread import Disk
from peerfabric.spool.room import findings

MEASURE_EVERY: Final = 5.0
"""Seconds between two looks, as at everything else that is warned of."""


class RoomWatch:
    """The room that is left for one spool, measured where nobody waits for it.

    Args:
        limit: Bytes that the spool may have; None: as many as there are.
    """

    def __init__(self, disk: Disk, engine: Engine, limit: int | None) -> None:
        self._disk, self._engine, self._limit = disk, engine, limit
        self._measuring = False
        self._next_at = clock()

    def look(self) -> None:
        """Have it measured if that is due. In the pump's thread, outside of its lock."""
        now = clock()
        if now >= self._next_at and not self._measuring:  # a disk that hangs is asked once
            self._next_at = now + MEASURE_EVERY
            self._measuring = True
            self._disk.run(self.measure)

    def measure(self) -> None:
        """Tell the engine. In the disk's thread."""
        spool = self._disk.spool
        try:
            system = os.statvfs(spool.folder)
        except OSError:
            free = size = 0  # that the folder is gone is told by who stores
        else:
            free, size = system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
        found = tuple(findings(spool.folder, spool.used_bytes, self._limit, free, size))
        with self._disk.pump.lock:
            self._engine.health.disk = found
        self._measuring = False
