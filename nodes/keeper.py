"""Who keeps the ledger of a consumer: many threads write in it what they acked, before anybody is told."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterable

from peerfabric.delivery import Delivery
from peerfabric.errors import ForkedNode, NodeClosed, SpoolError
from peerfabric.ranges import Ranges
from peerfabric.spool.files import RealFiles
from peerfabric.spool.ledger import COMPACT_BYTES, Entry, Ledger

_log = logging.getLogger("peerfabric")


class Keeper:
    """The ledger at `path`, closed at first. Thread-safe; `forget`, which the pump calls, never waits for the disk."""

    def __init__(self, path: str, queue: str, *, fsync: bool) -> None:
        self.path, self.queue, self.fsync = path, queue, fsync
        self._ledger: Ledger | None = None
        self._lock = threading.Lock()
        self._forgotten: deque[dict[str, Ranges]] = deque()
        self._compact_at = COMPACT_BYTES
        self._pid = 0

    def open(self) -> None:
        """Read and lock the ledger.

        Raises:
            SpoolError, ConfigError: As `Ledger` says; it stays closed.
        """
        if self._ledger is None:
            self._ledger = Ledger(RealFiles(), self.path, self.queue, fsync=self.fsync)
            self._pid = os.getpid()
            for problem in self._ledger.problems:
                _log.warning("queue %r: %s", self.queue, problem)

    @property
    def is_open(self) -> bool:
        return self._ledger is not None

    @property
    def remembered(self) -> dict[str, Ranges]:
        """What was processed before. Of an open ledger, before anything is recorded in it."""
        return self._ledger.entries() if self._ledger is not None else {}

    def record(self, parts: Iterable[tuple[Delivery, int, int]]) -> None:
        """Write down that the indexes `[low, high)` of these deliveries are processed, all of them or none.

        When this returns, the death of the process changes nothing about it.

        Raises:
            SpoolFull, SpoolError: It is not written.
            NodeClosed, ForkedNode: Nobody could be told of it any more.
        """
        entries = [Entry(d.stream, d.first + low, d.first + high) for d, low, high in parts if low < high]
        with self._lock:
            ledger = self._ledger
            if ledger is None:
                raise ForkedNode if self._pid not in (0, os.getpid()) else NodeClosed
            while self._forgotten:
                for stream, ranges in self._forgotten.popleft().items():
                    for start, stop in ranges:
                        ledger.forget(stream, start, stop)
            if entries:
                ledger.add_all(entries)
            if ledger.size > self._compact_at:
                self._compact(ledger)

    def _compact(self, ledger: Ledger) -> None:
        self._compact_at = COMPACT_BYTES
        try:
            ledger.compact()
        except SpoolError as error:
            # What is in the old file is as good; it only is larger than it need be.
            _log.warning("queue %r: the ledger was not compacted: %s", self.queue, error)
            self._compact_at = ledger.size + COMPACT_BYTES

    def forget(self, forgotten: dict[str, Ranges]) -> None:
        """This cannot come again; whoever records next takes note of it."""
        self._forgotten.append(forgotten)

    def close(self) -> None:
        """Give the ledger up to whoever wants it next."""
        with self._lock:
            if self._ledger is not None:
                self._ledger.close()
                self._ledger = None
            self._forgotten.clear()

    def abandon(self) -> None:
        """In a forked child: the ledger, and its lock, stay with the parent."""
        self._lock = threading.Lock()
        self.close()
