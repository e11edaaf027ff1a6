"""Offload: work that may wait for a disk, done beside the event loop.

An `AsyncNode` must not keep its loop waiting for a disk. What its calls can await is done in a thread of its own; what
they cannot, as an ack, is noted in order and done by the thread of a `Clerk`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from peerfabric.discovery.locks import Lock, OwnThread
from peerfabric.errors import NodeClosed
from peerfabric.nodes.io.waiting import Blocking, Gate, Waiting, wait_until
from peerfabric.queue.delivery import Delivery

if TYPE_CHECKING:
    from peerfabric.nodes.storage.ledger_store import LedgerStore
    from peerfabric.nodes.storage.store import Store

R = TypeVar("R")

Parts = list[tuple[Delivery, int, int]]

_log = logging.getLogger("peerfabric")


async def beside(waiting: Waiting, work: Callable[[], R], undo: Callable[[R], None] | None, what: str) -> R:
    """Return what `work` returns; a caller that must not block its thread awaits another one.

    Cancelled, `work` goes on to its end, and `undo` follows it with what it returned.
    """
    if isinstance(waiting, Blocking):
        return work()
    job = _Job(work, undo, what)
    try:
        await wait_until(waiting, job.ended, lambda: job.is_over or None, None, lambda: what)
    except BaseException:
        job.abandon()
        raise
    return job.result()


class _Job(Generic[R]):
    """A call in a thread of its own."""

    def __init__(self, work: Callable[[], R], undo: Callable[[R], None] | None, name: str) -> None:
        self.ended = Gate()
        self.is_over = False
        self._work, self._undo, self._name = work, undo, name
        self._results: list[R] = []
        self._error: BaseException | None = None
        self._abandoned = False
        self._lock = Lock()
        # No daemon: a program that ends lets the disk have what it should have.
        threading.Thread(target=self._run, name=f"peerfabric-{name}").start()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
        with self._lock:
            self.is_over = True
            abandoned = self._abandoned
        if abandoned:
            self._follow()
        self.ended.open()

    def result(self) -> R:
        if self._error is not None:
            raise self._error
        return self._results[0]

    def abandon(self) -> None:
        """Nobody wants the result."""
        with self._lock:
            self._abandoned = True
            over = self.is_over
        if over:
            threading.Thread(target=self._follow, name=f"peerfabric-{self._name}").start()

    def _follow(self) -> None:
        try:
            if self._results and self._undo is not None:
                self._undo(self._results[0])
        except Exception as error:
            _log.warning("%s: %s", self._name, error)


class Errand:
    """A call that the disk's thread makes for others, in order with what it stores."""

    kept_in: Store = None  # type: ignore[assignment]  # asked for only of what must be synced

    def __init__(self, work: Callable[[], None], done: Callable[[Errand], None]) -> None:
        self.is_over = False
        self.error: Exception | None = None
        self._work, self._done = work, done

    def store(self) -> bool:
        """Make the call. There is nothing to sync."""
        try:
            self._work()
        except Exception as error:
            self.error = error
        self.is_over = True
        self._done(self)
        return False

    def stored(self, error: Exception | None) -> None:
        return None


class Clerk:
    """Writes acks into a consumer's ledger for code that runs in an event loop; all that wait with one write."""

    def __init__(self, keeper: LedgerStore, name: str, wrote: Callable[[], None]) -> None:
        self._keeper, self._name, self._wrote = keeper, name, wrote
        self._lock = Lock()
        self._wanted = threading.Condition(self._lock)
        self._entries: deque[tuple[Parts, Callable[[], None], Callable[[Exception], None]]] = deque()
        self._writing = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def record(self, parts: Parts, acked: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Write down that `parts` are processed, then call `acked`, or, if that cannot be, `failed`. In its thread."""
        with self._lock:
            stopped = self._stopped
            if not stopped:
                if self._thread is None:
                    name = f"peerfabric-{self._name}-ledger"
                    thread = OwnThread(target=self._run, name=name, daemon=True)
                    thread.start()  # noted when it runs, as stop() waits for it
                    self._thread = thread
                self._entries.append((parts, acked, failed))
                self._wanted.notify()
        if stopped:
            failed(NodeClosed())

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be written."""
        with self._lock:
            return not self._entries and not self._writing

    def stop(self) -> None:
        """Write what waits, and end."""
        with self._lock:
            self._stopped = True
            self._wanted.notify()
        if self._thread is not None:
            self._thread.join()

    def abandon(self) -> None:
        """In a forked child, where the thread is not."""
        self._lock = Lock()
        self._wanted = threading.Condition(self._lock)
        self._entries.clear()
        self._thread, self._writing, self._stopped = None, False, True

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._entries and not self._stopped:
                    self._wanted.wait()
                if not self._entries:
                    return
                entries = list(self._entries)
                self._entries.clear()
                self._writing = True
            try:
                self._write(entries)
            finally:
                with self._lock:
                    self._writing = False
            self._wrote()

    def _write(self, entries: list[tuple[Parts, Callable[[], None], Callable[[Exception], None]]]) -> None:
        if not entries:
            return
        try:
            self._keeper.record([part for parts, _, _ in entries for part in parts])
        except Exception as error:
            for _, _, failed in entries:
                failed(error)
            return
        for _, acked, _ in entries:
            acked()


__all__ = ["Clerk", "Errand", "beside"]
