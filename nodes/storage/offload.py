"""Offload: work that may wait for a disk, done beside the event loop.

An `AsyncNode` must not keep its loop waiting for a disk. What its calls can await is done in a thread of its own; what
they cannot, as an ack, is noted in order and done by the thread of a `LedgerWriter`.
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

if TYPE_CHECKING:
    from peerfabric.nodes.storage.ledger_store import LedgerStore
    from peerfabric.nodes.storage.store import Store
    from peerfabric.spool.ledger import Entry

R = TypeVar("R")

_log = logging.getLogger("peerfabric")


async def beside(waiting: Waiting, work: Callable[[], R], undo: Callable[[R], None] | None, what: str) -> R:
    """Return what `work` returns; a caller that must not block its thread awaits another one.

    Cancelled, `work` goes on to its end, and `undo` follows it with what it returned.
    """
    if isinstance(waiting, Blocking):
        return work()
    gate = Gate()
    call = Offloaded(work, lambda _: gate.open())
    # No daemon: a program that ends lets the disk have what it should have.
    thread = threading.Thread(target=call.store, name=f"peerfabric-{what}")
    thread.start()
    try:
        await wait_until(waiting, gate, lambda: call.is_over or None, None, lambda: what)
    except BaseException:
        threading.Thread(target=_follow, args=(thread, call, undo, what), name=f"peerfabric-{what}").start()
        raise
    if call.error is not None:
        raise call.error
    return call.results[0]


def _follow(thread: threading.Thread, call: Offloaded[R], undo: Callable[[R], None] | None, what: str) -> None:
    """Nobody wants the result of `call`, which `thread` makes."""
    thread.join()
    try:
        if call.results and undo is not None:
            undo(call.results[0])
    except Exception as error:
        _log.warning("%s: %s", what, error)


class Offloaded(Generic[R]):
    """A call that another thread makes: one of its own, or the disk's, in order with what that stores."""

    kept_in: Store = None  # type: ignore[assignment]  # asked for only of what must be synced

    def __init__(self, work: Callable[[], R], done: Callable[[Offloaded[R]], None]) -> None:
        self.is_over = False
        self.results: list[R] = []
        self.error: BaseException | None = None
        self._work, self._done = work, done

    def store(self) -> bool:
        """Make the call. There is nothing to sync."""
        try:
            self.results.append(self._work())
        except BaseException as error:
            self.error = error
        self.is_over = True
        self._done(self)
        return False

    def stored(self, error: Exception | None) -> None:
        return None


class LedgerWriter:
    """Writes acks into a consumer's ledger for code that runs in an event loop, and those that had to wait.

    All that are there are written at once.
    """

    def __init__(self, ledger_store: LedgerStore, name: str, wrote: Callable[[], None]) -> None:
        self._ledger_store, self._name, self._wrote = ledger_store, name, wrote
        self._lock = Lock()
        self._wanted = threading.Condition(self._lock)
        self._entries: deque[tuple[list[Entry], Callable[[], None], Callable[[Exception], None]]] = deque()
        self._writing = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def record(self, entries: list[Entry], acked: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Write down what is processed, then call `acked`, or, if that cannot be, `failed`. In its thread."""
        with self._lock:
            stopped = self._stopped
            if not stopped:
                if self._thread is None:
                    name = f"peerfabric-{self._name}-ledger"
                    thread = OwnThread(target=self._run, name=name, daemon=True)
                    thread.start()  # noted when it runs, as stop() waits for it
                    self._thread = thread
                self._entries.append((entries, acked, failed))
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

    def _write(self, entries: list[tuple[list[Entry], Callable[[], None], Callable[[Exception], None]]]) -> None:
        if not entries:
            return
        try:
            self._ledger_store.record_entries([entry for some, _, _ in entries for entry in some])
        except Exception as error:
            for _, _, failed in entries:
                failed(error)
            return
        for _, acked, _ in entries:
            acked()


__all__ = ["LedgerWriter", "Offloaded", "beside"]
