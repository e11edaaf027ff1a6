"""User code that sends messages to a queue, with a spool or without, and tends its dead letters."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from peerfabric.errors import SpoolError
from peerfabric.nodes.outbox.deposits import Deposit, Deposits
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import Kind, cost
from peerfabric.reports import DeadLetter
from peerfabric.wire.frames import RAW, Extra
from tests.world.disks import Killed

if TYPE_CHECKING:
    from tests.world.process import Process

MAX_ATTEMPTS = 5


class Producer:
    """User code that sends to one queue."""

    def __init__(self, process: Process, queue: str, codec: int) -> None:
        self.process, self.queue, self.codec = process, queue, codec
        store = process.stores.get(queue)
        if store is not None and store.end is not None:
            self.end: OutgoingQueue = store.end
        else:
            self.end = process.engine.open_producer(queue, codec, MAX_ATTEMPTS, 2**20, process.clock())
        self.store = store
        self.writing = nullcontext()
        """Deposits are written under it; here there is one thread."""
        self.deposits = Deposits(self, store) if store is not None and store.fsync else None  # type: ignore[arg-type]
        self.waiting: list[Deposit] = []
        """Deposits of which nothing is known yet."""
        self.overflow = process.role.overflow and store is not None
        self.volatile = False
        """With `overflow`: what is being handed over stays in memory."""
        self.closed = False
        self.stored_count = 0
        self.storing = False
        """A thread of user code is between storing and handing over."""
        self.handed: list[tuple[list[bytes], bool, Kind | None] | DeadLetter] = []
        """With a spool: what is stored, or shall stay in memory only, and is not yet the engine's."""

    def burst(self, kinds: list[str]) -> None:
        """Send a message of each of these kinds."""
        if self.store is None:
            self.process.post(partial(self._send, kinds))
        else:
            self._send_stored(kinds)

    def close(self, now: float) -> None:
        """Leave if nothing is unsettled, and come back."""
        world, queue = self.process.world, self.queue
        if self.closed or self.end.unsettled_count or self.end.letters() or self.store is not None:
            return
        world.judge.judge_closed(self)
        world.log(f"{self.end.stream} is closed")
        self.closed = True
        self.process.engine.close_producer(queue, now)
        world.after(world.random.choice((0.0, 0.005, 0.1, 1.0)), partial(self.process.post, self._reopen))

    def _reopen(self, now: float) -> None:
        if self.process.leaving:
            return
        self.process.world.log(f"{self.end.stream} is opened again")
        following = self.end.next
        self.end = self.process.engine.open_producer(self.queue, self.codec, MAX_ATTEMPTS, 2**20, now)
        assert self.end.next == following, "a number is used twice"
        self.closed = False

    def _bodies(self, kinds: list[str]) -> list[bytes]:
        world = self.process.world
        bodies = []
        for kind in kinds:
            text = f"{next(world.serial)}|{kind}|".encode()
            if world.theme.tight and world.random.random() < 0.1:
                text += b"x" * min(world.random.choice((3000, 70_000)), self.process.options.message_bytes_max - 100)
            bodies.append(text if self.codec == RAW else msgspec.msgpack.encode(text))
        return bodies

    def _kind(self) -> Kind | None:
        """Of what is sent now: when it expires, if it does."""
        world = self.process.world
        if not world.theme.expiring or world.random.random() >= world.theme.expiring:
            return None
        return self.process.clock() + world.random.choice((0.02, 0.1, 0.5, 1.0, 2.0, 5.0)), 0

    def _accepted(self, sequence: int, body: bytes, kind: Kind | None, codec: int | None = None) -> None:
        """The message of that sequence is accepted, or will be."""
        record, key = self.process.world.record, (self.end.stream, sequence)
        plain = body if (self.codec if codec is None else codec) == RAW else msgspec.msgpack.decode(body)
        record.accepted[key] = plain
        if kind is not None:
            record.expires[key] = kind[0] - self.process.offset

    def _send(self, kinds: list[str], now: float) -> None:
        if self.closed:
            return
        world = self.process.world
        bodies, kind = self._bodies(kinds), self._kind()
        first = self.end.next
        self.process.engine.producers.accept(self.end, bodies, 0, kind=kind)
        for sequence, text in enumerate(bodies, first):
            self._accepted(sequence, text, kind)
        if world.theme.tight and world.random.random() < 0.1:
            self.end.drop_oldest(world.random.randrange(1, 2000))

    # With a spool

    def _send_stored(self, kinds: list[str]) -> None:
        """In a thread of user code: store the messages, or have them stored, and hand them over."""
        world = self.process.world
        bodies, kind = self._bodies(kinds), self._kind()
        if self.deposits is not None:
            if self.overflow and not self.storing and not self.closed and self._fits_in_memory(bodies):
                self._keep(bodies, kind)
                self._hand((bodies, True, kind), 0.0)
            else:
                self._deposit(Deposit(bodies, None, kind=kind))
        elif world.random.random() < 0.5:
            self._store(bodies, kind)
        else:  # one by one
            later = 0.0
            for body in bodies:
                world.after(later, partial(self._store, [body], kind))
                later += world.random.choice((0.0, 0.0, 0.001, 0.02))

    def _store(self, bodies: list[bytes], kind: Kind | None) -> None:
        """Between storing and handing over other threads may run, and the process may die; no other send, though."""
        world = self.process.world
        if self.storing and self.process.alive:
            world.after(0.001, partial(self._store, bodies, kind))
            return
        if self.closed or not self.process.alive:
            return
        volatile = self.overflow and self._fits_in_memory(bodies)
        try:
            count = self._keep(bodies, kind) if volatile else self._append(bodies, None, kind=kind)[1]
        except (SpoolError, Killed) as error:
            world.log(f"{self.process.peer} does not accept: {error}")
            return
        self.storing = True
        after = world.random.choice((0.0, 0.0, 0.0005, 0.003, 0.03))
        world.after(after, partial(self._hand, (bodies[:count], volatile, kind), after))

    def _fits_in_memory(self, bodies: list[bytes]) -> bool:
        """As a send with `on_full="spool"` decides."""
        end, backlog = self.end, self.end.backlog
        assert backlog is not None
        pending = sum(cost(what[0]) for what in self.handed if isinstance(what, tuple))
        fits = bool(end.consumers) and end.held_bytes + pending + cost(bodies) <= backlog.memory_bytes
        if fits and not self.volatile:
            fits = end.next - 1 == end.numbering.base + self.stored_count and not backlog.behind(end.next)
        self.volatile = fits
        return fits

    def _keep(self, bodies: list[bytes], kind: Kind | None) -> int:
        """Accept messages that stay in memory; return how many."""
        world, stream = self.process.world, self.end.stream
        for at, body in enumerate(bodies, self.stored_count + 1):
            self._accepted(at, body, kind)
            world.record.volatile.add((stream, at))
        self.stored_count += len(bodies)
        return len(bodies)

    def volatile_unsettled(self) -> list[tuple[str, int]]:
        """What ends with this process."""
        base, stream = self.end.numbering.base, self.end.stream
        kept = [key for key in self.process.world.record.volatile if key[0] == stream]
        return [key for key in sorted(kept) if self.end.state(base + key[1]) in ("waiting", "in flight", "delivered")]

    def _hand(self, what: tuple[list[bytes], bool, Kind | None] | DeadLetter, delay: float) -> None:
        self.storing = False
        self.handed.append(what)
        self.process.wake(delay)

    def _deposit(self, deposit: Deposit) -> None:
        assert self.deposits is not None
        assert self.process.disk is not None
        self.waiting.append(deposit)
        self.deposits.add(deposit)
        self.process.disk.store(self.deposits)
        self.process.look()

    def _append(
        self,
        bodies: list[bytes],
        extras: dict[int, Extra] | None,
        codec: int | None = None,
        kind: Kind | None = None,
    ) -> tuple[int, int]:
        """Append messages; return the sequence of the first and how many are stored."""
        world, stream = self.process.world, self.end.stream
        assert self.store is not None
        self.volatile = False
        first = self.stored_count + 1
        for at, body in enumerate(bodies, first):
            # Should this process die in the middle of it, they may turn up, or not.
            self._accepted(at, body, kind, codec)
            world.record.unsure.add((stream, at))
        count = expires_ms = 0
        unix_ms = int(self.process.unix_ms())
        if kind is not None:
            expires_ms = unix_ms + max(0, int((kind[0] - self.process.clock()) * 1000))
        try:
            number = self.codec if codec is None else codec
            count = self.store.append(first, bodies, extras, number, unix_ms, expires_ms)
        except Killed:
            count = len(bodies)
            raise
        finally:
            for at in range(first + count, first + len(bodies)):
                del world.record.accepted[stream, at]
                world.record.unsure.discard((stream, at))
        self.stored_count += count
        if self.deposits is None:
            world.record.unsure.difference_update((stream, at) for at in range(first, first + count))
        self.process.check_disk()
        return first, count

    # What deposits ask of their handle, in the disk's thread

    def keep_in_memory(self, deposit: Deposit) -> bool:
        """Accept it without the disk, if that is wanted and there is room."""
        if not self.overflow or deposit.letter is not None or not self._fits_in_memory(deposit.bodies):
            return False
        deposit.first, deposit.count = self.stored_count + 1, self._keep(deposit.bodies, deposit.kind)
        self._hand((deposit.bodies, True, deposit.kind), 0.0)
        return True

    def write(self, deposit: Deposit) -> None:
        """Append it."""
        deposit.first, deposit.count = self._append(deposit.bodies, deposit.extras, deposit.codec, deposit.kind)

    def not_retried(self, letter: DeadLetter, error: Exception) -> None:
        """It could not be stored."""
        self.end.restore_dead_letter(letter)

    def changed(self) -> None:
        """Whoever waits for the disk looks what became of it; only the disk may have refused it."""
        for deposit in self.waiting:
            if deposit.error is not None and not isinstance(deposit.error, SpoolError):
                raise deposit.error
        self.waiting = [deposit for deposit in self.waiting if not deposit.done and deposit.error is None]

    def deposited(self, deposit: Deposit) -> None:
        """It is stored and synced."""
        self.process.world.record.unsure.difference_update(
            (self.end.stream, at) for at in range(deposit.first, deposit.first + deposit.count)
        )
        bodies = deposit.bodies[: deposit.count]
        self.handed.append(deposit.letter if deposit.letter is not None else (bodies, False, deposit.kind))
        self.process.wake(self.process.world.random.choice((0.0, 0.002)))
        if deposit.letter is not None:
            self._drop_dead_letter(deposit.letter.id)

    def _drop_dead_letter(self, identity: str) -> None:
        """If that fails the letter comes back at a restart."""
        assert self.store is not None
        try:
            self.store.drop_dead_letters(identity)
        except SpoolError as error:
            self.process.world.log(f"the dead letter {identity} stays on disk: {error}")

    @property
    def all_stored(self) -> bool:
        """Nothing is on its way to the disk, or from there to the engine."""
        return not self.handed and not self.storing and (self.deposits is None or self.deposits.idle)

    def hand_over(self) -> None:
        """The engine takes what is stored. In the I/O thread."""
        handed, self.handed = self.handed, []
        for what in handed:
            if isinstance(what, DeadLetter):
                self.end.retry(what)
            else:
                self.process.engine.producers.accept(self.end, what[0], 0, volatile=what[1], kind=what[2])

    def _tend_stored(self) -> None:
        """As `tend_letters`, with letters that are on disk."""
        world = self.process.world
        for letter in self.end.letters():
            if b"poison" in letter.data or world.random.random() < 0.5 or self.storing:
                continue
            stream, _, sequence = letter.id.rpartition("/")
            assert self.end.take_dead_letter(letter.id) == letter
            world.record.tended.add((stream, int(sequence)))
            try:
                if world.random.random() < 0.5:
                    self._retry_stored(letter)
                else:
                    self._drop_dead_letter(letter.id)
            except (SpoolError, Killed) as error:
                world.log(f"{letter.id} is neither retried nor dropped: {error}")
                return

    def _retry_stored(self, letter: DeadLetter) -> None:
        extras = {0: Extra(0, letter.headers, letter.origin or letter.id)}
        assert self.store is not None
        if self.deposits is not None:
            self._deposit(Deposit([letter.data], extras, letter))
            return
        try:
            self._append([letter.data], extras, letter.codec)
        except SpoolError:
            self.end.restore_dead_letter(letter)
            raise
        self._hand(letter, 0.001)
        self._drop_dead_letter(letter.id)

    def tend_letters(self, now: float) -> None:
        """A person looks at the dead letters: retries some, drops some."""
        world = self.process.world
        if self.store is not None:
            self._tend_stored()
            return
        for letter in self.end.letters():
            sequence = int(letter.id.rpartition("/")[2])
            if b"poison" in letter.data or world.random.random() < 0.5:
                continue
            first = self.end.next
            assert self.end.take_dead_letter(letter.id) == letter
            assert self.end.take_dead_letter(letter.id) is None
            if world.random.random() < 0.5:
                body = world.record.accepted[(self.end.stream, sequence)]
                self.end.retry(letter)
                world.record.accepted[(self.end.stream, first)] = body
