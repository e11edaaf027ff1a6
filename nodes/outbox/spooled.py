"""Spooled outbox of one producer: what is sent is stored first, by its own thread or by the disk's.

With `on_full="spool"` it is kept in memory only, as long as that has room.

`writing` is taken before the lock of the outbox, so that messages are handed over in the order of storing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from peerfabric.discovery.locks import Lock, Rank
from peerfabric.discovery.log import log as _log
from peerfabric.errors import FabricError, NodeClosed, NotConfirmed, QueueFull, SpoolError, SpoolFull, TimedOut
from peerfabric.nodes.handler_context import Patience
from peerfabric.nodes.headers import checked_headers
from peerfabric.nodes.io.waiting import Gate, clock, refuse_to_wait, wait_until
from peerfabric.nodes.outbox.deposits import SYNC_PATIENCE, Deposit, Deposits
from peerfabric.nodes.outbox.outbox import HANDOVER_BYTES_MAX, Bodies, Outbox, Progress
from peerfabric.queue.runs import MESSAGE_OVERHEAD, Kind, cost
from peerfabric.ranges import Ranges
from peerfabric.receipt import Receipt
from peerfabric.reports import DeadLetter
from peerfabric.spool.format import RECORD_BYTES
from peerfabric.wire.bodies import cuts
from peerfabric.wire.frames import Extra

if TYPE_CHECKING:
    from peerfabric.nodes.storage.disk_thread import Disk
    from peerfabric.nodes.storage.store import Store

R = TypeVar("R")

MESSAGES_MAX: Final = HANDOVER_BYTES_MAX // MESSAGE_OVERHEAD
"""More than that are never in one deposit."""
STREAM: Final = 8
"""So many messages that come before the pump has taken the first of them are a stream, which the pump is not woken for:
each time it wakes it takes the interpreter's lock from the sender, who lets go of it for each write."""
STREAM_ENDS_MS: Final = 10
"""A stream is over if nothing came for so long."""

_Underway = tuple[list[bytes], Extra | None, int, Progress | None, Kind | None]
"""Messages that a thread is storing, what the first has besides a body, what they cost, what then counts them, and of
what kind they are."""


class SpooledOutbox(Outbox):
    """The outbox of a producer that stores its messages before it hands them over.

    Until `attach` it has no room.
    """

    spooled = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.writing = Lock(Rank.WRITING)
        self._underway: _Underway | None = None
        """What a thread is storing; it stays here if that is interrupted."""
        self.deposits: Deposits | None = None
        """Where sends wait for the disk's thread."""

    def attach(self, disk: Disk, store: Store, codec: int, *, by_itself: bool) -> None:
        """The node has started.

        Args:
            disk: Its thread stores what the calling one does not.
            store: Where messages are stored.
            codec: How their bodies are encoded.
            by_itself: The calling thread stores; otherwise the disk's thread does, for all who wait at once.
        """
        self._disk, self._store, self._codec = disk, store, codec
        self._volatile = self._on_full == "spool"
        """They may stay in memory."""
        self._kept = Ranges()
        """The numbers of what stayed in memory."""
        self._alerted_at = self._alerted_ms = 0
        """The newest message when the pump was last told of one, and when that was."""
        self.deposits = None if by_itself else Deposits(self, store)

    def forked(self) -> None:
        self.writing = Lock(Rank.WRITING)
        super().forked()

    @property
    def idle(self) -> bool:
        return self.deposits is None or self.deposits.idle

    def seal(self) -> None:
        """Nothing has room any more: hand over what a thread is just storing, or was interrupted at, and what is
        written and will not be synced: its senders learned that it is accepted."""
        with self.writing:
            self._finish_underway()
        if self.deposits is not None:
            self.deposits.give_up_sync()

    def finish_underway(self) -> None:
        with self.writing:
            self._finish_underway()

    def disk_ended(self) -> None:
        if self.deposits is not None:
            self.deposits.over = True

    def is_stored(self, number: int) -> bool:
        backlog = self.end.backlog
        assert backlog is not None
        for in_memory in (self._kept, backlog.volatile):
            if in_memory.total and number in in_memory:
                return False
        return backlog.kept

    # By the caller's own thread

    def try_send(self, body: Any, headers: dict[str, str] | None, kind: Kind | None = None) -> Receipt | None:
        """Accept `body` if that can be done at once; None: it cannot, and nothing was accepted.

        Raises:
            EncodeError: It cannot be sent.
            SpoolError: The disk refused; it is not accepted.
        """
        data = self._encode(body)
        if not self._open:
            return None
        if self.deposits is not None:
            return self._try_keep(data, headers, kind) if self._volatile else None
        try:
            return self._try_store(data, headers, kind)
        except SpoolFull as full:
            if self._is_waited_for(full, len(data)):
                return None
            raise

    def _try_store(self, data: bytes, headers: dict[str, str] | None, kind: Kind | None) -> Receipt | None:
        """Store a message in the caller's own thread; None: the pump must take the others first.

        Raises:
            SpoolError: The disk refused; it is not accepted.
        """
        # All small messages go this way, so it has few calls.
        size = len(data) + MESSAGE_OVERHEAD
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        unix_ms = time.time_ns() // 1_000_000
        lock, inner = self.writing, self._lock
        if lock.is_ours() or inner.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            if size > self._room and not self.has_room(size):
                return None
            if self._underway is not None:
                self._finish_underway()
            if self._volatile and self._fits_in_memory(size):
                sequence = self._keep([data], size, extra, Progress(), kind)
            else:
                if self.volatile:
                    self._leave_memory()
                sequence = self.count + 1
                expires_ms = 0
                if kind is not None:
                    kind, expires_ms = _stored(kind, unix_ms)
                self._underway = [data], extra, size, None, kind
                try:
                    self._store.append_one(sequence, data, extra, self._codec, unix_ms, expires_ms)
                except SpoolError:
                    self._underway = None
                    raise
                try:
                    if not inner.acquire(False):
                        inner.wait()
                    if kind is not self._kind:
                        self._turn_to(kind)
                    if extra is not None:
                        self._add_extra(extra)
                    # No call in these: Ctrl-C comes before or after.
                    self._room -= size
                    self.count = sequence
                    self._bodies.append(data)
                finally:
                    try:
                        inner.release()
                    except RuntimeError:
                        pass  # it was not taken
                # If Ctrl-C comes before this, `_finish_underway` finds nothing stored beyond what is counted.
                self._underway = None
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken
        if not self.alerted or self._room < HANDOVER_BYTES_MAX // 2:
            if self.count - self._alerted_at < STREAM or unix_ms - self._alerted_ms > STREAM_ENDS_MS:
                self.alert_if_urgent()
            else:
                self._node.pump.wake_soon(self)
            self._alerted_at, self._alerted_ms = self.count, unix_ms
        return Receipt(self._stream, sequence)

    def try_extend(self, encoded: list[bytes], progress: Progress, kind: Kind | None = None) -> None:
        try:
            self.extend(encoded, progress, kind)
        except SpoolFull as full:
            if not self._is_waited_for(full, len(encoded[progress.accepted])):
                raise

    def extend(self, encoded: list[bytes], progress: Progress, kind: Kind | None = None) -> None:
        """Store what there is room for of those that are not accepted yet.

        Raises:
            SpoolError: The disk refused; nothing more was accepted.
        """
        if self.deposits is not None:
            return
        with self.writing:
            part, total = self.what_fits(encoded, progress.accepted)
            if part:
                self._finish_underway()
                if self._volatile and self._fits_in_memory(total):
                    self._keep(part, total, None, progress, kind)
                else:
                    self._store_now(part, total, progress, kind)
        if part:
            self.alert_if_urgent()

    def finish_interrupted(self, progress: Progress) -> None:
        if self._underway is not None and self._underway[3] is progress:
            with self.writing:
                self._finish_underway()

    def _store_now(self, bodies: list[bytes], total: int, progress: Progress, kind: Kind | None) -> None:
        """Store messages and hand them over. The caller holds `writing`.

        Raises:
            SpoolError: None of them is stored.
        """
        unix_ms, expires_ms = time.time_ns() // 1_000_000, 0
        if kind is not None:
            kind, expires_ms = _stored(kind, unix_ms)
        self._underway = bodies, None, total, progress, kind
        try:
            _, count = self._append(bodies, None, None, unix_ms, expires_ms)
        except SpoolError:
            self._underway = None
            raise
        self._hand_in(self._underway, count)

    def _hand_in(self, underway: _Underway, count: int) -> None:
        bodies, extra, total, progress, kind = underway
        if count < len(bodies):
            bodies = bodies[:count]
            total = cost(bodies)
        self.put_many(bodies, total, extra, progress or Progress(), kind)
        # If Ctrl-C comes before this, `_finish_underway` finds nothing stored beyond what is counted.
        self._underway = None

    def _finish_underway(self) -> None:
        """If Ctrl-C, or the like, came between storing and handing over: what is stored is accepted."""
        underway = self._underway
        if underway is not None:
            first = self.count + 1
            self._hand_in(underway, self._store.stored(first, first + len(underway[0])))
            self.alert()

    def _append(
        self, bodies: list[bytes], extras: dict[int, Extra] | None, codec: int | None, unix_ms: int, expires_ms: int
    ) -> tuple[int, int]:
        """Write messages; return the sequence of the first and how many are stored. The caller holds `writing`."""
        self._leave_memory()
        first = self.count + 1
        number = self._codec if codec is None else codec
        return first, self._store.append(first, bodies, extras, number, unix_ms, expires_ms)

    # In memory

    def _try_keep(self, data: bytes, headers: dict[str, str] | None, kind: Kind | None) -> Receipt | None:
        """Keep a message in memory, without waiting for the disk; None: it must be stored, or the node is past it."""
        size = len(data) + MESSAGE_OVERHEAD
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        lock = self.writing
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False) or not self._fits_in_memory(size):
                return None
            sequence = self._keep([data], size, extra, Progress(), kind)
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken
        self.alert()
        return Receipt(self._stream, sequence)

    def _fits_in_memory(self, size: int) -> bool:
        """Whether so much more needs no disk; what is put in next is of that kind. The caller holds `writing`.

        Memory is left when it is full or nobody consumes; it is used again when nothing is on disk only.
        """
        self._finish_underway()
        end = self.end
        backlog = end.backlog
        assert backlog is not None
        with self._lock:
            self._recount()
            fits = (
                self._open and bool(end.consumers) and end.held_bytes + self._pending_cost + size <= self._buffer_bytes
            )
        if fits and not self.volatile:
            # The engine's lock comes before ours. Nobody puts anything in meanwhile: the caller keeps others from it.
            with self._node.pump.lock:
                fits = end.next - 1 == self.last and not backlog.behind(end.next)
        if fits != self.volatile:
            with self._lock:
                self._close_segment()
                self.volatile = fits
            self._kept.remove(0, end.floor)
        return fits

    def _leave_memory(self) -> None:
        """What is put in next is on disk."""
        if self.volatile:
            with self._lock:
                self._close_segment()
                self.volatile = False

    def _keep(self, bodies: list[bytes], size: int, extra: Extra | None, progress: Progress, kind: Kind | None) -> int:
        """Accept messages that fit in memory; return the sequence of the last. The caller holds `writing`."""
        self._note_kept(len(bodies))
        return self.put_many(bodies, size, extra, progress, kind)

    def _note_kept(self, count: int) -> None:
        """The next `count` messages stay in memory."""
        last = self.last
        self._kept.add(last + 1, last + 1 + count)

    def _put(self, bodies: list[bytes], extras: dict[int, Extra] | None, kind: Kind | None, *, volatile: bool) -> None:
        """Hand over messages that are counted. The caller holds the lock."""
        self._close_segment()
        self._segments.append(Bodies(bodies, extras, kind, volatile=volatile))

    # Space on disk

    def _is_waited_for(self, full: SpoolFull, size: int) -> bool:
        """Whether a send that was refused for `full` waits until the spool has drained, as `on_full` says.

        A disk that is full has other causes than our messages, and is nothing to wait for.
        """
        return self._on_full == "block" and full.limit is not None and size + RECORD_BYTES <= full.limit

    async def _when_free(self, size: int, patience: Patience, call: Callable[[], Awaitable[R]]) -> R:
        """What `call` returns; as long as the spool is at its limit it is made again when there may be space.

        Raises:
            SpoolFull: There is none, and `on_full` or `patience` says to wait no more.
        """
        refused: SpoolFull | None = None
        while True:
            used = self._disk.spool.used_bytes
            try:
                return await call()
            except SpoolFull as full:
                if not self._is_waited_for(full, size):
                    raise
                refused = full
            except QueueFull:
                if refused is not None:  # what this call has waited for
                    raise refused from None
                raise
            await self._wait_for_space(refused, size, used, patience)

    async def _wait_for_space(self, full: SpoolFull, size: int, used: int, patience: Patience) -> None:
        limit, spool = full.limit or 0, self._disk.spool

        def attempt() -> bool | None:
            nonlocal used
            self._node.ensure()
            self._node.ending.check()
            # The first look wants less to be used than before the attempt that failed. A later one, after a turn of the
            # pump, is content with what may be enough: what a record costs besides is known only when it is written.
            before, used = used, limit + 1
            return True if spool.used_bytes + size <= limit and spool.used_bytes < before else None

        def what() -> str:
            return (
                f"queue {self.queue!r}: the spool is at its limit of {limit:,} bytes; "
                f"start consumers so that it drains, or raise Options(spool_bytes=)"
            )

        # The space may be freed by other queues. After writing cursors the disk's thread lets the pump make a turn.
        turned, relay = self._node.pump.turned, _Relay(self._gate)
        turned.enter(relay)
        try:
            self.blocked.add(attempt)
            await wait_until(self._node.waiting, self._gate, attempt, patience.left, what)
        except TimedOut:
            raise full from None
        finally:
            self.blocked.discard(attempt)
            turned.leave(relay)

    # By callers that wait, perhaps for the disk's thread

    async def send_when_room(
        self, body: Any, headers: dict[str, str] | None, patience: Patience, kind: Kind | None = None
    ) -> Receipt:
        data = self._encode(body)

        def attempt() -> Receipt | None:
            self.ensure()
            return self._try_store(data, headers, kind)

        async def call() -> Receipt:
            if self.deposits is not None:
                return await self._send_deposit(data, headers, patience, kind)
            return await self._wait_for_room(attempt, patience)

        return await self._when_free(len(data), patience, call)

    async def extend_when_room(
        self, encoded: list[bytes], progress: Progress, patience: Patience, kind: Kind | None = None
    ) -> None:
        def attempt() -> bool | None:
            self.ensure()
            before = progress.accepted
            self.extend(encoded, progress, kind)
            return True if progress.accepted > before else None

        async def call() -> None:
            if self.deposits is not None:
                await self._deposit_part(encoded, progress, patience, kind)
            else:
                await self._wait_for_room(attempt, patience)

        await self._when_free(len(encoded[progress.accepted]), patience, call)

    async def _send_deposit(
        self, data: bytes, headers: dict[str, str] | None, patience: Patience, kind: Kind | None
    ) -> Receipt:
        """Have `data` stored, with `headers`, and wait for that.

        Raises:
            SpoolError, QueueFull, NodeClosed, NotConfirmed: As `_deposit`.
        """
        extras = {0: Extra(0, checked_headers(headers))} if headers is not None else None
        deposit = Deposit([data], extras, kind=kind)
        await self._deposit(deposit, patience)
        return Receipt(self._stream, deposit.first)

    async def _deposit_part(
        self, encoded: list[bytes], progress: Progress, patience: Patience, kind: Kind | None
    ) -> None:
        """Have some more of `encoded` stored, as many as may be handed over at once, and wait for that.

        However it ends, `progress` is right then: also if this is cancelled while the disk has them in hand.

        Raises:
            SpoolError, QueueFull, NodeClosed, NotConfirmed: As `_deposit`.
        """
        part = encoded[progress.accepted : progress.accepted + MESSAGES_MAX]
        deposit = Deposit(part[: cuts(list(map(len, part)), HANDOVER_BYTES_MAX, MESSAGE_OVERHEAD)[1]], None, kind=kind)
        try:
            await self._deposit(deposit, patience)
        except BaseException:
            assert self.deposits is not None
            if self.deposits.in_hand(deposit) and not deposit.count:
                with suppress(FabricError):
                    await self._until_stored(lambda: deposit.tried_at > 0, deposit, None)
            raise
        finally:
            progress.accepted += deposit.count
            if progress.ranges is not None:
                progress.ranges.append((deposit.first, deposit.first + deposit.count))

    async def _deposit(self, deposit: Deposit, patience: Patience) -> None:
        """Hand `deposit` to the disk's thread and wait until it is stored.

        Cancelled, it is taken back, or, if the disk's thread has it in hand, stored all the same.

        Raises:
            SpoolError, QueueFull, NodeClosed: It is not, and will not be.
            NotConfirmed: It is written, but not yet safe from a loss of power.
        """
        refuse_to_wait(self._node.waiting)
        deposits = self.deposits
        assert deposits is not None
        deposits.add(deposit)
        self._disk.store(deposits)
        try:
            await self._until_stored(lambda: deposit.done, deposit, patience.left)
        except TimedOut:
            if deposits.take_back(deposit):
                raise QueueFull(self.queue, self._buffer_bytes, waited=patience.limit) from None
            # The disk has it in hand, and nobody knows yet whether it is accepted.
            await self._until_stored(lambda: deposit.tried_at > 0, deposit, None)
            if not deposit.done:
                raise NotConfirmed(Receipt(self._stream, deposit.first), "stored", patience.limit or 0.0) from None
        except BaseException:
            deposits.take_back(deposit)
            raise

    async def _until_stored(self, enough: Callable[[], bool], deposit: Deposit, timeout: float | None) -> None:
        deposits = self.deposits
        assert deposits is not None

        def attempt() -> bool | None:
            if deposit.error is not None and deposit.count:
                raise NotConfirmed(Receipt(self._stream, deposit.first), "stored", SYNC_PATIENCE) from deposit.error
            if deposit.error is not None:
                raise deposit.error
            if enough():
                return True
            if self._node.is_closed and (deposits.take_back(deposit) or not deposits.in_hand(deposit)):
                if deposit.count:  # written, and not synced before the node closed
                    raise NotConfirmed(Receipt(self._stream, deposit.first), "stored", SYNC_PATIENCE)
                self._node.ensure(closing=True)
            return None  # what the disk's thread has in hand when the node closes it still stores

        await wait_until(self._node.waiting, self._gate, attempt, timeout, lambda: f"queue {self.queue!r}: the disk")

    # Called by the disk's thread

    def keep_in_memory(self, deposit: Deposit) -> bool:
        """Of `on_full="spool"`: accept `deposit` without the disk if memory has room. The caller holds `writing`."""
        total = cost(deposit.bodies)
        if not self._volatile or deposit.letter is not None or not self._fits_in_memory(total):
            return False
        deposit.first, deposit.count = self.count + 1, len(deposit.bodies)
        self._note_kept(deposit.count)
        with self._lock:
            self._put(deposit.bodies, deposit.extras, deposit.kind, volatile=True)
            self._room -= total
            self.count += deposit.count
        self.alert()
        return True

    def write(self, deposit: Deposit) -> None:
        """Append `deposit` to the spool, and note what of it is stored. The caller holds `writing`.

        Raises:
            SpoolError: Nothing of it is.
        """
        self._finish_underway()
        unix_ms, expires_ms = time.time_ns() // 1_000_000, 0
        if deposit.kind is not None:
            deposit.kind, expires_ms = _stored(deposit.kind, unix_ms)
        deposit.first, deposit.count = self._append(deposit.bodies, deposit.extras, deposit.codec, unix_ms, expires_ms)
        self.count = deposit.first - 1 + deposit.count

    def deposited(self, deposit: Deposit) -> None:
        """What a send of ours handed over is stored."""
        self.hand_in(deposit)
        if deposit.letter is not None:
            self._drop_dead_letter(deposit.letter.id)

    def hand_in(self, deposit: Deposit) -> None:
        """What a send of ours handed over is written, and counts as accepted."""
        if deposit.letter is not None:
            self._put_letter(deposit.letter, counted=True)
            return
        with self._lock:
            self._put(deposit.bodies[: deposit.count], deposit.extras, deposit.kind, volatile=False)
        self.alert()

    # Dead letters

    def retry(self, letter: DeadLetter) -> None:
        deposit = Deposit([letter.data], {0: Extra(0, letter.headers, letter.origin or letter.id)}, letter)
        if self.deposits is not None:
            self.deposits.add(deposit)
            self._disk.store(self.deposits)
            return
        with self.writing:
            if not self._open:
                self._restore(letter)
                raise NodeClosed
            try:
                self.write(deposit)
            except SpoolError:
                self._restore(letter)
                raise
            self._put_letter(letter, counted=True)
        self._drop_dead_letter(letter.id)

    def not_retried(self, letter: DeadLetter, error: Exception) -> None:
        """The disk's thread could not store a letter that should be sent again; nobody waits for it."""
        _log.warning("queue %r: the dead letter %s is not sent again: %s", self.queue, letter.id, error)
        self._restore(letter)

    def drop(self, identity: str) -> None:
        if self.deposits is not None:
            self._disk.run(lambda: self._drop_dead_letter(identity))
        else:
            self._store.drop_dead_letters(identity)
            self._node.pump.wake()  # there may be room again

    def _drop_dead_letter(self, identity: str) -> None:
        """Take a letter that is sent again, or dropped, off the disk; if that fails it only comes back at a restart."""
        try:
            self._store.drop_dead_letters(identity)
        except SpoolError as error:
            _log.warning("queue %r: the dead letter %s stays on disk: %s", self.queue, identity, error)
        self._node.pump.wake()  # there may be room again


def _stored(kind: Kind, unix_ms: int) -> tuple[Kind | None, int]:
    """The kind of messages on disk, for which nothing before them waits; and when they expire, in Unix time."""
    expires = kind[0]
    if expires == inf:
        return None, 0
    return (expires, 0), unix_ms + max(0, int((expires - clock()) * 1000))


class _Relay:
    """Opens a gate each time another one opens."""

    def __init__(self, gate: Gate) -> None:
        self.wake = gate.open
