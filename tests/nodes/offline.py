"""One node's queue with its store and its disk, without thread, sockets or clock: a consumer is a line of code."""

from __future__ import annotations

import threading
from collections.abc import Collection
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import msgspec

from peerfabric.engine import Engine
from peerfabric.errors import SpoolError
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.outbox.deposits import Deposit, Deposits
from peerfabric.nodes.storage.disk_thread import Disk as DiskThread
from peerfabric.nodes.storage.store import Store
from peerfabric.options import Options
from peerfabric.queue.durable import DurableQueue
from peerfabric.reports import DeadLetter
from peerfabric.wire.frames import RAW, REJECTED, Address, Extra, Nack
from tests.fabric.helpers import HUGE
from tests.fabric.spool.disk import Disk
from tests.fabric.spool.helpers import QUEUE, open_spool

if TYPE_CHECKING:
    from peerfabric.nodes.outbox.spooled import SpooledOutbox

MEMORY = 2**20


class Offline:
    """A node that has `disk` and is driven by calls of `round`.

    confirmed    bodies whose senders were told that they are stored, by (stream, sequence)
    """

    def __init__(self, disk: Disk, *, fsync: bool = False, memory_bytes: int = MEMORY, now: float = 0.0) -> None:
        self.files, self.fsync, self.now = disk, fsync, now
        self.confirmed: dict[tuple[str, int], bytes] = {}
        self.writing = threading.RLock()
        self.deposits: list[Deposit] = []
        self._count = 0
        self.queue = QUEUE
        self.spool = open_spool(disk, fsync=fsync, spare=True, random_bits=7)
        try:
            self.store = Store(self.spool, QUEUE, fsync, 1)
            recovered, letters = self.store.recovered(), self.store.letters()
        except BaseException:
            self.spool.abandon()
            raise
        address = Address(self.spool.node_id, self.spool.epoch, "node", "host", [], [])
        self.engine = Engine(address, "tests", Options(), Random(1), now)
        self.disk = DiskThread(self.spool, self.engine.producers, "tests")
        self.disk.pump = cast("Pump", SimpleNamespace(lock=threading.RLock(), wake=lambda: None))
        self.end = cast("DurableQueue", self.engine.open_producer(QUEUE, RAW, 5, MEMORY, now, recovered))
        self.backlog = self.end.backlog
        self.backlog.memory_bytes = memory_bytes
        for letter in letters:
            self.end.restore_dead_letter(letter)
        self.store.end = self.end
        self.disk.stores[QUEUE] = self.store
        self._deposits = Deposits(cast("SpooledOutbox", self), self.store)
        self.end.set_consumer("a:1", "a", consumes=True)

    # As what a producer stores with

    def send(self, *bodies: bytes) -> Deposit:
        """Hand bodies over; they are stored by a later round."""
        return self._deposit(Deposit(list(bodies), None))

    def retry(self, letter: DeadLetter) -> Deposit:
        """Send a dead letter again."""
        assert self.end.take_dead_letter(letter.id) == letter
        extras = {0: Extra(0, letter.headers, letter.origin or letter.id)}
        return self._deposit(Deposit([letter.data], extras, letter))

    def drop(self, letter: DeadLetter) -> None:
        """Forget a dead letter."""
        assert self.end.take_dead_letter(letter.id) == letter
        self.store.drop_dead_letters(letter.id)

    def not_retried(self, letter: DeadLetter, _: Exception) -> None:
        self.end.restore_dead_letter(letter)

    def _deposit(self, deposit: Deposit) -> Deposit:
        self.deposits.append(deposit)
        self._deposits.add(deposit)
        self.disk.store(self._deposits)
        return deposit

    def keep_in_memory(self, deposit: Deposit) -> bool:
        return False

    def write(self, deposit: Deposit) -> None:
        codec = RAW if deposit.codec is None else deposit.codec
        deposit.first = self._count + 1
        unix_ms = int(self.now * 1000)
        deposit.count = self.store.append(deposit.first, deposit.bodies, deposit.extras, codec, unix_ms)
        self._count += deposit.count

    def deposited(self, deposit: Deposit) -> None:
        stored = deposit.bodies[: deposit.count]
        for at, body in enumerate(stored, deposit.first):
            self.confirmed[self.end.stream, at] = plain(body, deposit.codec)
        if deposit.letter is None:
            self.engine.producers.accept(self.end, stored, 0)
            return
        self.end.retry(deposit.letter)
        try:
            self.store.drop_dead_letters(deposit.letter.id)
        except SpoolError:
            pass  # it comes back at a restart

    def changed(self) -> None:
        """Nobody waits here."""

    # As the threads

    def round(self, after: float = 1.0) -> float | None:
        """A turn of the pump, which sends nothing, and one round of the disk's thread, `after` seconds later."""
        self.now += after
        self.end.expire(self.now)
        self.end.touched[self.end] = None
        assert list(self.engine.producers.frames(self.now)) == []
        timeout = self.disk.round(self.now)
        self.end.check()
        return timeout

    def close(self) -> None:
        """The node closes in order, as far as the disk lets it."""
        self.end.leave()
        try:
            self.disk.last_round(self.now)
        finally:
            self.spool.close()

    def die(self) -> None:
        """The process is killed."""
        self.spool.abandon()
        self.files.kill()

    # As a consumer

    def take(self) -> dict[tuple[str, int], bytes]:
        """What can be sent now, by (stream, sequence); it is in flight then."""
        found: dict[tuple[str, int], bytes] = {}
        while (run := self.end.pick("a:1", 1_000, HUGE, HUGE)) is not None:
            self.end.sent("a:1", run)
            for at, body in enumerate(run.bodies, run.first):
                stream, sequence = self.end.numbering.name(at)
                found[stream, sequence] = plain(body, run.codec)
        return found

    def ack(self, only: Collection[tuple[str, int]] | None = None) -> None:
        """The consumer has done everything that is in flight, or `only` some of it."""
        if only is None:
            self.end.acked("a:1", 1, self.backlog.load_at)
        for name in only or ():
            for start, stop in self.end.numbering.numbers(name[0], name[1], name[1] + 1):
                self.end.acked("a:1", start, stop)

    def reject(self, name: tuple[str, int]) -> None:
        """The consumer gives one of them up."""
        for start, stop in self.end.numbering.numbers(name[0], name[1], name[1] + 1):
            self.end.nacked("a:1", Nack(start, stop, 1, REJECTED), self.now)


def plain(body: bytes, codec: int | None) -> bytes:
    """What was sent, whether it comes from memory or from disk."""
    return body if codec in (None, RAW) else cast("bytes", msgspec.msgpack.decode(body))
