"""How a process goes on with what its disk has, where nothing may be missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from peerfabric.errors import SpoolError
from peerfabric.nodes.storage.disk_thread import Disk
from peerfabric.nodes.storage.ledger_store import LedgerStore
from peerfabric.nodes.storage.store import Store
from peerfabric.queue.durable import DurableQueue, Recovered
from peerfabric.ranges import Ranges
from peerfabric.reports import DeadLetter
from peerfabric.spool import Spool
from peerfabric.spool.ledger import Entry, Ledger
from tests.world.disks import BOOKS, Drive
from tests.world.producer import MAX_ATTEMPTS
from tests.world.record import PROCESSED

if TYPE_CHECKING:
    from tests.world.process import Process

LEDGER_BYTES = 600
"""A larger ledger is written anew, if half of it is forgotten."""


def open_stores(process: Process, spool: Spool) -> None:
    """Go on with what the spool has, as a node does."""
    role, engine, now = process.role, process.engine, process.clock()
    disk = Disk(spool, engine.producers, process.peer)
    disk.unix_ms = process.unix_ms
    disk.pump = Turnstile(process)  # type: ignore[assignment]
    for queue in dict.fromkeys([*spool.queues(), *(queue for queue, _ in role.produces)]):
        disk.stores[queue] = Store(spool, queue, role.fsync, 0)
    everything = {queue: store.recovered() for queue, store in disk.stores.items()}
    for queue, store in disk.stores.items():
        recovered, letters = everything[queue], store.letters()
        codec = dict(role.produces)[queue]
        _judge_recovered(process, queue, recovered, letters)
        store.end = cast("DurableQueue", engine.open_producer(queue, codec, MAX_ATTEMPTS, 2**20, now, recovered))
        store.end.backlog.memory_bytes = role.memory_bytes
        for letter in letters:
            store.end.restore_dead_letter(letter)
    engine.producers.durable = bool(disk.stores)
    process.disk = disk
    process.check_disk()


def _judge_recovered(process: Process, queue: str, recovered: Recovered, letters: list[DeadLetter]) -> None:
    """What was promised and is neither processed nor a dead letter must be there."""
    record, node_id = process.world.record, process.address.node_id
    stored = {letter.id for letter in letters}
    assert len(stored) == len(letters), f"{process.peer} has a dead letter twice"
    eras: dict[str, Ranges] = {}
    for stream, first, stop in recovered.eras:
        assert stream != f"{process.peer}:{queue}", f"{stream} is used again"
        assert eras.setdefault(stream, Ranges()).add(first, stop) == stop - first, f"{stream} is there twice"
    gone: dict[str, Ranges] = {}
    for stream, first, stop in recovered.settled:
        gone.setdefault(stream, Ranges()).add(first, stop)
    for stream, first, stop in recovered.damaged:
        gone.setdefault(stream, Ranges()).add(first, stop)
    for key, body in record.accepted.items():
        stream, sequence = key
        if stream.split(":")[0] != node_id or stream.split(":")[2] != queue or key in record.unsure:
            continue
        if sequence in eras.get(stream, ()) and sequence not in gone.get(stream, ()):
            continue
        done = any(run.outcome in PROCESSED for run in record.runs.get(key, ()))
        excused = key in record.tended or key in record.expired or key in record.purged
        fine = done or f"{stream}/{sequence}" in stored or excused
        assert fine, f"{stream}/{sequence} {body!r} is lost at the start of {process.peer}"
    wanted = process.role.marks.pop(queue, None)
    if wanted is not None:
        now, then = ({(m.stream, m.start): m for m in marks.marks} for marks in (recovered.marks, wanted))
        assert now == then, f"{process.peer} forgot what happened to its messages"


def open_ledger(process: Process, drive: Drive, queue: str) -> LedgerStore:
    """What this consumer has processed, and nothing else, is in its ledger."""
    ledger_store = LedgerStore(f"{BOOKS}/{queue}", queue, fsync=process.role.fsync)
    ledger_store._ledger = Book(drive, ledger_store.path, queue, fsync=ledger_store.fsync)
    record, ours = process.world.record, (process.role.disk, queue)
    for stream, ranges in ledger_store.remembered.items():
        for key in ((stream, sequence) for start, stop in ranges for sequence in range(start, stop)):
            processed = any(run.ledger == ours for run in record.runs.get(key, ()) if run.outcome in PROCESSED)
            assert processed, f"{process.peer} remembers {key}, which it never processed"
    return ledger_store


class Book(Ledger):
    """A ledger that is written anew while it is small."""

    def _is_due(self) -> bool:
        return self._end > LEDGER_BYTES and self._end > 2 * self._remembered

    def add_all(self, entries: Iterable[Entry]) -> None:
        super().add_all(entries)
        try:
            self.compact()
        except SpoolError:
            pass  # what is in the old file is as good


class Turnstile:
    """What the disk's thread needs of the pump; whoever waits for its lock lets time pass."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @property
    def lock(self) -> Turnstile:
        return self

    def __enter__(self) -> None:
        self.process.pass_time()

    def __exit__(self, *_: object) -> None:
        pass

    def wake(self) -> None:
        self.process.wake()
