"""Who keeps a ledger, and what many threads that write in it share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from errno import EIO
from pathlib import Path

import pytest

from peerfabric.errors import NodeClosed, SpoolError
from peerfabric.nodes.storage.ledger_store import LedgerStore, entries
from peerfabric.nodes.storage.offload import LedgerWriter
from peerfabric.queue.delivery import Delivery
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import RAW
from tests.nodes.conftest import eventually

STREAM = "n:1:orders"


def delivery() -> Delivery:
    return Delivery(
        peer="n:1",
        sender="n",
        stream=STREAM,
        queue="orders",
        first=1,
        count=100,
        attempt=1,
        body=b"",
        codec=RAW,
        sent_ms=0,
        cost=0,
    )


class Slow:
    """A ledger's file whose first sync lasts until somebody lets it go on; `fails` says which syncs fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.syncs = 0
        self._fails = fails
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, descriptor: int) -> None:
        self.syncs += 1
        number = self.syncs
        if number == 1:
            self.begun.set()
            assert self.go_on.wait(30)
        if self._fails(number):
            raise OSError(EIO, "refused")


def record_in_threads(ledger_store: LedgerStore, slow: Slow, count: int) -> list[int]:
    """One thread is in its sync while `count` others come; the indexes that were refused."""
    refused: list[int] = []

    def record(index: int) -> None:
        try:
            ledger_store.record([(shared, index, index + 1)])
        except SpoolError:
            refused.append(index)

    shared = delivery()
    threads = [threading.Thread(target=record, args=(index,)) for index in range(count + 1)]
    threads[0].start()
    assert slow.begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: len(ledger_store._coming) == count, "the other threads")
    slow.go_on.set()
    for thread in threads:
        thread.join()
    return sorted(refused)


def opened(folder: Path) -> LedgerStore:
    folder.chmod(0o700)
    ledger_store = LedgerStore(f"{folder}/ledger", "orders", fsync=True)
    ledger_store.open()
    return ledger_store


def test_threads_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes while another one syncs is written, and synced, together with all others that have come."""
    ledger_store = opened(tmp_path)
    slow = Slow(monkeypatch, lambda _: False)
    assert record_in_threads(ledger_store, slow, 20) == []
    assert slow.syncs == 2
    ledger_store.close()
    again = opened(tmp_path)
    assert again.remembered == {STREAM: Ranges([(1, 22)])}
    again.close()


def test_each_learns_for_itself_that_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the sync for all fails, each tries by itself: who succeeds then is recorded, and nobody else."""
    ledger_store = opened(tmp_path)
    slow = Slow(monkeypatch, lambda number: number in (2, 3))
    refused = record_in_threads(ledger_store, slow, 4)
    assert len(refused) == 1
    assert slow.syncs == 6
    kept = Ranges([(1, 6)])
    kept.remove(refused[0] + 1, refused[0] + 2)
    assert ledger_store.remembered == {STREAM: kept}
    ledger_store.close()
    with pytest.raises(NodeClosed):
        ledger_store.record([(delivery(), 50, 51)])
    again = opened(tmp_path)
    assert again.remembered == {STREAM: kept}
    again.close()


class Interrupted:
    """A lock that somebody has, and whose waiter is interrupted by Ctrl-C."""

    def is_ours(self) -> bool:
        return False

    def acquire(self, blocking: bool) -> bool:
        return False

    def release(self) -> None:
        raise RuntimeError

    def __enter__(self) -> None:
        raise KeyboardInterrupt

    def __exit__(self, *error: object) -> None:
        raise AssertionError("it never had the lock")


def test_an_interrupted_ack_is_not_written_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message is given back, so the ledger must not say that it is processed."""
    ledger_store = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_store, "_lock", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            ledger_store.record([(delivery(), 50, 51)])
    slow = Slow(monkeypatch, lambda _: False)
    assert record_in_threads(ledger_store, slow, 2) == []
    assert ledger_store.remembered == {STREAM: Ranges([(1, 4)])}
    assert len(ledger_store._coming) == 0
    ledger_store.close()


def test_an_ack_of_a_loop_after_the_end(tmp_path: Path) -> None:
    """Who acks when nobody writes any more is told."""
    ledger_store = opened(tmp_path)
    ledger_writer = LedgerWriter(ledger_store, "shop", lambda: None)
    told: list[object] = []
    ledger_writer.record(entries([(delivery(), 0, 1)]), lambda: told.append("acked"), told.append)
    ledger_writer.stop()
    assert told == ["acked"]
    ledger_writer.record(entries([(delivery(), 1, 2)]), lambda: told.append("acked"), told.append)
    assert [type(what) for what in told[1:]] == [NodeClosed]
    assert ledger_writer.idle
    assert ledger_store.remembered == {STREAM: Ranges([(1, 2)])}
    ledger_store.close()
