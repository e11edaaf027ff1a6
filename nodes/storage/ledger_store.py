"""Ledger store: many threads write in it what they acked, before anybody is told.

While one of them writes, and perhaps syncs, the others put what they have down; the next one writes it for all of them.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from peerfabric.discovery.locks import Lock
from peerfabric.discovery.remarks import remark
from peerfabric.errors import ForkedNode, NodeClosed, SpoolError
from peerfabric.nodes.io.descriptors import PER_LEDGER, check
from peerfabric.nodes.io.sparing import SparingFiles
from peerfabric.queue.delivery import Delivery
from peerfabric.ranges import Ranges
from peerfabric.spool.ledger import COMPACT_BYTES, Entry, Ledger

_log = logging.getLogger("peerfabric")


class _Ack:
    """What one call of `record` has to write."""

    __slots__ = ("done", "entries")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.done = False


def entries(parts: Iterable[tuple[Delivery, int, int]]) -> list[Entry]:
    """The indexes `[low, high)` of deliveries as sequences of their streams."""
    return [Entry(d.stream, d.first + low, d.first + high) for d, low, high in parts if low < high]


class LedgerStore:
    """The ledger at `path`, closed at first. Thread-safe; `forget`, which the pump calls, never waits for the disk."""

    def __init__(self, path: str, queue: str, *, fsync: bool) -> None:
        self.path, self.queue, self.fsync = path, queue, fsync
        self._ledger: Ledger | None = None
        self._lock = Lock()
        self._coming: deque[_Ack] = deque()
        self._forgotten: deque[dict[str, Ranges]] = deque()
        self._compact_at = COMPACT_BYTES
        self._looked = 0
        """When it was last looked whether the file is in its place."""
        self._complaint: SpoolError | None = None
        """Why the ledger is larger than it need be, until the log has it."""
        self._pid = 0

    def open(self) -> None:
        """Read and lock the ledger.

        Raises:
            SpoolError, ConfigError: As `Ledger` says, or for lack of descriptors; it stays closed.
        """
        if self._ledger is None:
            check(PER_LEDGER, f"the ledger of queue {self.queue!r}")
            self._ledger = Ledger(SparingFiles(), self.path, self.queue, fsync=self.fsync)
            self._pid = os.getpid()
            for problem in self._ledger.problems:
                remark(logging.WARNING, "queue %r: %s", self.queue, problem)

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
        self.record_entries(entries(parts))

    def record_entries(self, entries: list[Entry]) -> None:
        """As `record`, of sequences."""
        self._record(entries)
        if self._complaint is not None:
            error, self._complaint = self._complaint, None
            _log.warning("queue %r: the ledger was not compacted: %s", self.queue, error)

    def _record(self, entries: list[Entry]) -> None:
        lock = self._lock
        if lock.is_ours():
            raise lock.refusal()
        try:
            if lock.acquire(False):
                self._add(self._opened(), entries)
                return
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken
        ours = _Ack(entries)
        self._coming.append(ours)
        try:
            with self._lock:
                if not ours.done:  # else somebody who had the lock before us wrote it with theirs
                    self._write(self._opened(), ours)
        except BaseException:
            with suppress(ValueError):  # somebody has it in hand
                self._coming.remove(ours)
            raise

    def _opened(self) -> Ledger:
        if self._ledger is None:
            self._coming.clear()
            raise ForkedNode if self._pid not in (0, os.getpid()) else NodeClosed
        return self._ledger

    def _write(self, ledger: Ledger, ours: _Ack) -> None:
        """Write what has come, with one write if that succeeds; what failed is tried again by its own thread."""
        acks = []
        while self._coming:
            acks.append(self._coming.popleft())
        if len(acks) > 1:
            try:
                self._add(ledger, [entry for ack in acks for entry in ack.entries])
            except SpoolError:
                pass  # each learns for itself why, or that without the others there is room
            else:
                for ack in acks:
                    ack.done = True
        if not ours.done:
            self._add(ledger, ours.entries)

    def _add(self, ledger: Ledger, entries: list[Entry]) -> None:
        while self._forgotten:
            for stream, ranges in self._forgotten.popleft().items():
                for start, stop in ranges:
                    ledger.forget(stream, start, stop)
        if entries:
            now = time.monotonic_ns() >> 20
            if now != self._looked:  # about once a millisecond, as a look costs as much as an entry
                ledger.check_place()
                self._looked = now
            ledger.add_all(entries)
        if ledger.size > self._compact_at:
            self._compact(ledger)

    def _compact(self, ledger: Ledger) -> None:
        self._compact_at = COMPACT_BYTES
        try:
            ledger.compact()
        except SpoolError as error:
            # What is in the old file is as good; it only is larger than it need be.
            self._complaint = error
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
        self._lock = Lock()
        self._coming.clear()
        self.close()
