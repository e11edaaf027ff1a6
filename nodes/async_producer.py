"""The producer of a queue, as an asyncio program holds it; the blocking one is made of it."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

from peerfabric.batch import cuts
from peerfabric.codec import Codec
from peerfabric.engine import Engine
from peerfabric.envelope import Extra
from peerfabric.errors import (
    ConfigError,
    FabricError,
    NotConfirmed,
    QueueFull,
    Rejected,
    SpoolError,
    SpoolFull,
    TimedOut,
)
from peerfabric.inflight import MESSAGE_OVERHEAD
from peerfabric.nodes.beside import Errand
from peerfabric.nodes.deposits import SYNC_PATIENCE, Deposit, Deposits
from peerfabric.nodes.headers import checked_headers
from peerfabric.nodes.in_hand import Patience
from peerfabric.nodes.message import Receipt
from peerfabric.nodes.space import Space
from peerfabric.nodes.waiting import Blocking, Gate, clock, wait_until
from peerfabric.options import MiB
from peerfabric.producer_end import ProducerEnd
from peerfabric.ranges import Ranges
from peerfabric.stats import DeadLetter

if TYPE_CHECKING:
    from peerfabric.nodes.async_node import AsyncNode
    from peerfabric.nodes.stores import Store

T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")

OnFull = Literal["block", "error", "drop_oldest", "drop_newest", "spool"]
Handed = tuple[list[bytes], dict[int, Extra] | None, bool]
"""Bodies, what some have besides, and whether they are in memory only though the producer has a spool."""
State = Literal["queued", "stored", "delivered", "processed"]

HANDOVER_BYTES_MAX: Final = 1 * MiB
"""What may wait for the pump. A sender that is faster waits until its turn has ended. Otherwise the interpreter's lock,
which the pump needs back after each call of ZeroMQ, would come to it once in 5 ms only."""
LARGE_HANDOVER: Final = 16
"""Messages that may wait for the pump however large they are: what an ACK makes room for, in a stream of them."""
UNDERWAY_MUCH: Final = 8 * MiB
"""With so much handed over and not yet settled, what follows has to wait its turn anyway, and is not urgent."""

_log = logging.getLogger("peerfabric")


class Progress:
    """How many messages of one call are accepted."""

    __slots__ = ("accepted",)

    def __init__(self) -> None:
        self.accepted = 0


class _Underway:
    """Messages that a thread is storing, and will have handed over when `progress` counts them."""

    __slots__ = ("bodies", "cost", "extra", "progress")

    def __init__(self, bodies: list[bytes], extra: Extra | None, cost: int, progress: Progress | None) -> None:
        self.bodies, self.extra, self.cost = bodies, extra, cost
        self.progress = progress


class AsyncProducer(Generic[T_contra]):
    """The one handle of this node for sending to a queue. Thread-safe: a thread's sends keep their order."""

    def __init__(
        self,
        node: AsyncNode,
        queue: str,
        codec: Codec[T_contra],
        on_full: OnFull,
        buffer_bytes: int,
        max_attempts: int,
        spooled: bool = False,
        fsync: bool = False,
    ) -> None:
        self.queue = queue
        self.spooled, self.fsync = spooled, fsync
        self.codec = codec
        self.on_full = on_full
        self.buffer_bytes = buffer_bytes
        self.max_attempts = max_attempts
        self.alerted = False
        self.end: ProducerEnd = None  # type: ignore[assignment]  # until the node starts
        self.opened = False
        self.late: Errand | None = None
        """Opens what it keeps on disk, if the node was running when it was made."""
        self._node = node
        self._encode = codec.encode
        self._lock = threading.Lock()
        self.writing = threading.Lock()
        """With a spool: taken before `_lock`, so that messages are handed over in the order of storing."""
        self._gate = Gate()
        self._space = Space(node, queue, on_full, self._gate)
        self._open = False
        self._stream = ""
        self._base = 0
        """Messages of earlier lives: their numbers come before ours."""
        self._store: Store | None = None
        self._deposits: Deposits | None = None
        """Where sends wait for the disk's thread; None if they write themselves."""
        self._underway: _Underway | None = None
        """What a thread is storing; it stays here if that is interrupted."""
        self._volatile = False
        """Of `on_full="spool"`: what is being handed over stays in memory."""
        self._kept = Ranges()
        """The numbers of what stayed there."""
        self._count = 0
        self._bodies: list[bytes] = []
        self._extras: dict[int, Extra] | None = None
        self._segments: list[Handed | int | _Retry] = []
        # room = bytes that may be accepted without looking; it was room_at when accepted and handed were counted
        self._room = self._room_at = 0
        self._accepted_cost = self._pending_cost = self._taken_cost = 0
        self._lacking = 0
        """The smallest that found no room, or 0."""

    # Between the threads

    def start(self, engine: Engine, now: float) -> None:
        """The node starts: open the end. Called under the engine's lock."""
        store = self._store = self._node.store_of(self.queue) if self.spooled else None
        if store is not None and store.end is not None:
            self.end = store.end
            self.end.adopt_options(self.codec.number, self.max_attempts, self.buffer_bytes)
        else:
            self.end = engine.open_producer(self.queue, self.codec.number, self.max_attempts, self.buffer_bytes, now)
        if store is not None and (self.fsync or not isinstance(self._node.waiting, Blocking)):
            self._deposits = Deposits(self, store)
        self._stream, self._base = self.end.stream, self.end.numbering.base
        self._open = self.opened = True

    def stop(self) -> None:
        """The node closes: nothing is accepted any more."""
        with self._lock:
            self._open = False
            self._recount()
            self._room = self._room_at = 0  # so that the quick way, which looks at this only, is closed too
        self._gate.open()

    def forked(self) -> None:
        """In a child process, where another thread of the parent may hold the lock for ever."""
        self._lock, self.writing = threading.Lock(), threading.Lock()
        self.stop()

    def take_handed(self) -> list[Handed | int | _Retry]:
        with self._lock:
            segments, self._segments = self._segments, []
            if self._bodies:
                segments.append((self._bodies, self._extras, self._volatile))
                self._bodies, self._extras = [], None
            self._recount()
            self._taken_cost = self._pending_cost
        return segments

    def hand_over(self, engine: Engine, handed: list[Handed | int | _Retry], now: float) -> None:
        sent_ms = time.time_ns() // 1_000_000
        for segment in handed:
            match segment:
                case int():
                    self.end.accept_dropped(segment)
                case _Retry():
                    self.end.retry(segment.letter)
                case (bodies, extras, volatile):
                    engine.producers.accept(self.end, bodies, sent_ms, extras, volatile=volatile)

    def handed_over(self) -> None:
        with self._lock:
            self._recount()
            self._pending_cost -= self._taken_cost
            self._taken_cost = 0
            helps = self._store is not None or self.on_full != "block"
            if not helps and self._lacking:  # a sender that waits for acks, and not for us, is woken by those alone
                helps = self._has_room(self._lacking)
        if helps:
            self.changed()

    def changed(self) -> None:
        self._lacking = 0  # whoever still finds no room says so again
        self._gate.open()

    def _recount(self) -> None:
        spent = self._room_at - self._room
        self._accepted_cost += spent
        self._pending_cost += spent
        self._room_at = self._room

    def _make_room(self) -> None:
        """Work out how much may be accepted now. The caller holds the lock and has recounted."""
        room = HANDOVER_BYTES_MAX - self._pending_cost
        if self._store is None:  # with a spool the disk has room for what memory has not
            held = self._accepted_cost - self.end.released_cost
            room = min(self.buffer_bytes - held, room)
        self._room = self._room_at = max(0, room) if self._open else 0

    @property
    def last(self) -> int:
        """The number of the newest message that was accepted, retried letters included."""
        return self._base + self._count

    def disk_ended(self) -> None:
        """The node is closed, and its disk's thread has ended: nothing more is stored."""
        if self._deposits is not None:
            self._deposits.over = True
        self._gate.open()

    @property
    def storing(self) -> bool:
        """Whether messages are on their way to the disk."""
        return self._deposits is not None and not self._deposits.idle

    # To disk

    def write(self, deposit: Deposit) -> None:
        """Append `deposit` to the spool, and note what of it is stored. The caller holds `writing`.

        Raises:
            SpoolError: Nothing of it is.
        """
        if self._underway is not None:
            self._finish_underway()
        deposit.first, deposit.count = self._append(deposit.bodies, deposit.extras, deposit.codec)
        self._count = deposit.first - 1 + deposit.count

    def _append(self, bodies: list[bytes], extras: dict[int, Extra] | None, codec: int | None) -> tuple[int, int]:
        """Write messages; return the sequence of the first and how many are stored. The caller holds `writing`."""
        assert self._store is not None
        if self._volatile:
            with self._lock:
                self._close_segment()
                self._volatile = False
        first = self._count + 1
        number = self.codec.number if codec is None else codec
        return first, self._store.append(first, bodies, extras, number, time.time_ns() // 1_000_000)

    def deposited(self, deposit: Deposit) -> None:
        """The disk's thread has stored what a send of ours handed over."""
        assert self._store is not None
        with self._lock:
            if deposit.letter is not None:
                self._segments.append(_Retry(deposit.letter))
            else:
                self._close_segment()
                self._segments.append((deposit.bodies[: deposit.count], deposit.extras, False))
        self._node.pump.alert(self)
        if deposit.letter is not None:
            self._unbury(deposit.letter.id)

    def keep_in_memory(self, deposit: Deposit) -> bool:
        """Of `on_full="spool"`: accept `deposit` without the disk if memory has room. The caller holds `writing`."""
        total = sum(map(len, deposit.bodies)) + MESSAGE_OVERHEAD * len(deposit.bodies)
        if self.on_full != "spool" or deposit.letter is not None or not self._fits_in_memory(total):
            return False
        with self._lock:
            deposit.first, deposit.count = self._count + 1, len(deposit.bodies)
            self._keep(deposit.count)
            self._close_segment()
            self._segments.append((deposit.bodies, deposit.extras, True))
            self._room -= total
            self._count += deposit.count
        self._node.pump.alert(self)
        return True

    def _unbury(self, identity: str) -> None:
        """Take a letter that is sent again, or dropped, off the disk; if that fails it only comes back at a restart."""
        assert self._store is not None
        try:
            self._store.unbury(identity)
        except SpoolError as error:
            _log.warning("queue %r: the dead letter %s stays on disk: %s", self.queue, identity, error)
        self._node.pump.wake()  # there may be room again

    async def _deposit(self, deposit: Deposit, patience: Patience) -> None:
        """Hand `deposit` to the disk's thread and wait until it is stored.

        Cancelled, it is taken back, or, if the disk's thread has it in hand, stored all the same.

        Raises:
            SpoolError, QueueFull, NodeClosed: It is not, and will not be.
            NotConfirmed: It is written, but not yet safe from a loss of power.
        """
        deposits = self._deposits
        assert deposits is not None
        deposits.add(deposit)
        self._node.store(deposits)
        try:
            await self._until_stored(lambda: deposit.done, deposit, patience.left)
        except TimedOut:
            if deposits.take_back(deposit):
                raise QueueFull(self.queue, self.buffer_bytes, waited=patience.limit) from None
            # The disk has it in hand, and nobody knows yet whether it is accepted.
            await self._until_stored(lambda: deposit.tried_at > 0, deposit, None)
            if not deposit.done:
                raise NotConfirmed(Receipt(self._stream, deposit.first), "stored", patience.limit or 0.0) from None
        except BaseException:
            deposits.take_back(deposit)
            raise

    async def _until_stored(self, enough: Callable[[], bool], deposit: Deposit, timeout: float | None) -> None:
        deposits = self._deposits
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

    # Sending

    def try_send(self, body: T_contra, headers: dict[str, str] | None) -> Receipt | None:
        """Accept `body` if there is room; None: there is none, and nothing was accepted.

        Raises:
            EncodeError: `body` cannot be sent.
            NodeClosed: The node, or the program, is past sending.
        """
        data = self._encode(body)
        size = len(data) + MESSAGE_OVERHEAD
        if self._store is not None:
            return self._try_with_spool(data, size, headers)
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        with self._lock:
            if size > self._room and not self._has_room(size):
                return None
            if extra is not None:
                self._add_extra(extra)
            # Ctrl-C comes after calls only: with one at the end, either all of this has happened or nothing.
            self._room -= size
            self._count = sequence = self._count + 1
            self._bodies.append(data)
        if not self.alerted or self._room < HANDOVER_BYTES_MAX // 2:
            self._alert()
        return Receipt(self._stream, sequence)

    def _try_with_spool(self, data: bytes, size: int, headers: dict[str, str] | None) -> Receipt | None:
        if self._deposits is not None:
            return self._try_keep(data, size, headers) if self.on_full == "spool" else None
        try:
            return self._try_store(data, size, headers)
        except SpoolFull as full:
            if self._space.is_waited_for(full, len(data)):
                return None
            raise

    def _try_store(self, data: bytes, size: int, headers: dict[str, str] | None) -> Receipt | None:
        """Store a message in the caller's own thread; None: the pump must take the others first."""
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        with self.writing:
            with self._lock:
                if size > self._room and not self._has_room(size):
                    return None
            if self.on_full == "spool" and self._fits_in_memory(size):
                sequence = self._put_in_memory([data], size, extra, Progress())
            else:
                sequence = self._store_now(_Underway([data], extra, size, None))
        if not self.alerted or self._room < HANDOVER_BYTES_MAX // 2:
            self._alert()
        return Receipt(self._stream, sequence)

    def _try_keep(self, data: bytes, size: int, headers: dict[str, str] | None) -> Receipt | None:
        """Keep a message in memory, without waiting for the disk; None: it must be stored, or the node is past it."""
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        if not self.writing.acquire(blocking=False):
            return None
        try:
            if not self._fits_in_memory(size):
                return None
            sequence = self._put_in_memory([data], size, extra, Progress())
        finally:
            self.writing.release()
        self._node.pump.alert(self)
        return Receipt(self._stream, sequence)

    def _put_in_memory(self, bodies: list[bytes], cost: int, extra: Extra | None, progress: Progress) -> int:
        """Accept messages that fit in memory; return the sequence of the last. The caller holds `writing`."""
        with self._lock:
            count = len(bodies)
            self._keep(count)
            if extra is not None:
                self._add_extra(extra)
            # No call in these: Ctrl-C comes before or after.
            self._room -= cost
            self._count += count
            self._bodies += bodies
            progress.accepted += count
            return self._count

    def _fits_in_memory(self, size: int) -> bool:
        """Of `on_full="spool"`: whether so much more needs no disk. The caller holds `writing`.

        Memory is left when it is full or nobody consumes; it is used again when nothing is on disk only.
        """
        if self._underway is not None:
            self._finish_underway()
        end = self.end
        backlog = end.backlog
        assert backlog is not None
        with self._lock:
            self._recount()
            fits = (
                self._open and bool(end.consumers) and end.held_bytes + self._pending_cost + size <= self.buffer_bytes
            )
            if fits and not self._volatile:
                with self._node.pump.lock:
                    fits = end.next - 1 == self.last and not backlog.behind(end.next)
            if fits != self._volatile:
                self._close_segment()
                self._volatile = fits
                self._kept.remove(0, end.floor)
        return fits

    def _keep(self, count: int) -> None:
        """The next `count` messages stay in memory."""
        self._kept.add(self.last + 1, self.last + 1 + count)

    def _store_now(self, underway: _Underway) -> int:
        """Store messages and hand them over; return the sequence of the first. The caller holds `writing`.

        Raises:
            SpoolError: None of them is stored.
        """
        if self._underway is not None:
            self._finish_underway()
        self._underway = underway
        try:
            extras = {0: underway.extra} if underway.extra is not None else None
            first, count = self._append(underway.bodies, extras, None)
        except SpoolError:
            self._underway = None
            raise
        self._hand_in(underway, first, count)
        return first

    def _hand_in(self, underway: _Underway, first: int, count: int) -> None:
        bodies, total, progress = underway.bodies, underway.cost, underway.progress
        if count < len(bodies):
            bodies = bodies[:count]
            total = sum(map(len, bodies)) + MESSAGE_OVERHEAD * count
        stop = first - 1 + count
        with self._lock:
            if underway.extra is not None and count:
                self._add_extra(underway.extra)
            # No call in these: Ctrl-C comes before or after.
            self._room -= total
            self._count = stop
            self._bodies += bodies
            if progress is not None:
                progress.accepted += count
            self._underway = None

    def _finish_underway(self) -> None:
        """Ctrl-C, or the like, came between storing and handing over: what is stored is accepted."""
        underway = self._underway
        assert underway is not None
        assert self._store is not None
        first = self._count + 1
        count = self._store.stored(first, first + len(underway.bodies))
        self._hand_in(underway, first, count)
        self._node.pump.alert(self)

    def _has_room(self, size: int) -> bool:
        """Look again, closely. The caller holds the lock."""
        if not self._open:
            return False
        self._recount()
        self._make_room()
        if size > self._room:
            held = self._accepted_cost - self.end.released_cost
            # One message is always allowed: a limit below its size would mean never. A few large ones may wait for
            # the pump, so that it need not wait for them.
            fits = self._store is not None or held <= 0 or held + size <= self.buffer_bytes
            if fits and not self._is_handover_full(size):
                self._room = self._room_at = size
        if size > self._room:
            self._lacking = min(size, self._lacking or size)
            return False
        return True

    def _is_handover_full(self, size: int) -> bool:
        """Whether the pump must come before `size` bytes more may wait for it. The caller holds the lock."""
        return self._pending_cost + size > max(HANDOVER_BYTES_MAX, LARGE_HANDOVER * size)

    def _add_extra(self, extra: Extra | None) -> None:
        """What the message has that is put into `_bodies` next. One that is interrupted leaves it to be replaced."""
        at = len(self._bodies)
        if self._extras is None:
            self._extras = {}
        self._extras[at] = extra  # type: ignore[assignment]

    async def send(
        self,
        body: T_contra,
        *,
        headers: dict[str, str] | None = None,
        confirm: State | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Hand `body` to the node, which is responsible for it from here, and return its receipt.

        Cancelled while it waits for room, the message is not accepted, and never delivered. Cancelled while it waits
        for the disk, it is accepted and delivered if the disk had it in hand already, else never. Cancelled while it
        waits for what `confirm` asks for, it is accepted.

        Args:
            body: Encoded before this returns; later changes to it are not sent.
            headers: Text for the handler, at most 8 KiB.
            confirm: Also wait until it is "stored" (in the spool; with one, a plain `send` waits for that as well),
                "delivered" (in a consumer's memory) or "processed" (acked).
            timeout: Seconds to wait for room and for the confirmation together; None: for ever.

        Raises:
            EncodeError: Not of the body type, or not encodable. Not accepted.
            ConfigError: "stored", and there is no spool that takes every message. Not accepted.
            QueueFull, SpoolFull: No room, in memory or on disk, as `on_full` says. Not accepted.
            SpoolError: The disk refused. Not accepted.
            NodeClosed: The node closes. Not accepted.
            NotConfirmed: Accepted, and may still be processed: do not send it again.
            Rejected: Accepted and dead-lettered while waiting for the confirmation.
        """
        started_at = clock()
        await self._started()
        if confirm is not None:
            _check_state(confirm)
        if confirm == "stored":
            self._check_stored()
        receipt = self.try_send(body, headers)
        if receipt is None:
            receipt = await self._send_when_room(body, headers, timeout)
        if confirm not in (None, "queued", "stored"):
            left = None if timeout is None else max(0.0, timeout - (clock() - started_at))
            await self._confirm(receipt, confirm, left, timeout)
        return receipt

    async def _send_when_room(self, body: T_contra, headers: dict[str, str] | None, timeout: float | None) -> Receipt:
        data = self._encode(body)
        size = len(data) + MESSAGE_OVERHEAD
        patience = Patience(timeout)

        async def deposit() -> Receipt:
            extras = {0: Extra(0, checked_headers(headers))} if headers is not None else None
            deposit = Deposit([data], extras)
            await self._deposit(deposit, patience)
            return Receipt(self._stream, deposit.first)

        def attempt() -> Receipt | None:
            self._node.ensure()
            if self._store is not None:
                return self._try_store(data, size, headers)
            return self.try_send(body, headers) or self._overflow(size)

        with self._node.lease_paused():
            return await self._space.when_free(
                len(data),
                patience,
                deposit if self._deposits is not None else lambda: self._wait_for_room(attempt, patience),
            )

    async def _wait_for_room(self, attempt: Callable[[], R | None], patience: Patience) -> R:
        try:
            return await wait_until(self._node.waiting, self._gate, attempt, patience.left, self._what_room)
        except TimedOut:
            raise QueueFull(self.queue, self.buffer_bytes, waited=patience.limit) from None

    def _what_room(self) -> str:
        consumers = len(self.end.consumers)
        return (
            f"queue {self.queue!r}: its buffer of {self.buffer_bytes:,} bytes is full and {consumers} consumers are "
            f"known; start consumers, or raise buffer_bytes="
        )

    def _overflow(self, size: int) -> Receipt | None:
        """What `on_full` says to do when memory has no room; None: wait.

        Raises:
            QueueFull: `on_full="error"`, or nothing is waiting that could be dropped.
        """
        with self._lock:
            if self._has_room(size):  # since the caller looked
                self._gate.open()
                return None
            if self._pending_cost and (self.on_full != "block" or self._is_handover_full(size)):
                # Only the hand-over is full, or what could be dropped is still in it: the pump is about to come.
                self._node.pump.alert(self)
                return None
            match self.on_full:
                case "block":
                    return None
                case "drop_newest":
                    self._close_segment()
                    self._segments.append(1)
                    self._count += 1
                    receipt = Receipt(self._stream, self._count)
                case "drop_oldest":
                    with self._node.pump.lock:
                        freed = self.end.drop_oldest(size)
                    if freed < size and not self._has_room(size):
                        raise QueueFull(self.queue, self.buffer_bytes)
                    self._gate.open()  # for this very caller: there is room now
                    return None
                case _:
                    raise QueueFull(self.queue, self.buffer_bytes)
        self._node.pump.alert(self)
        return receipt

    def _close_segment(self) -> None:
        if self._bodies:
            self._segments.append((self._bodies, self._extras, self._volatile))
            self._bodies, self._extras = [], None

    async def send_many(self, bodies: Iterable[T_contra], *, timeout: float | None = None) -> int:
        """Hand over `bodies` in order and return how many there were; much faster than one by one.

        Whatever this raises, cancellation and Ctrl-C included, has an attribute `accepted`: so many of them, the first
        ones, are accepted and will be delivered, and the others never. Cancelled while the disk has some in hand, it
        waits until it is known what became of these.

        Raises:
            EncodeError, QueueFull, SpoolFull, SpoolError, NodeClosed, NotConfirmed: As of `send`, for the first of
                the bodies that is not accepted, or, NotConfirmed, for the last that are.
        """
        progress = Progress()
        try:
            await self._started()
            encoded, fault = self.codec.encode_many(bodies if isinstance(bodies, list) else list(bodies))
            await self._accept_many(encoded, progress, Patience(timeout))
            if fault is not None:
                raise fault
        except BaseException as error:
            if self._underway is not None and self._underway.progress is progress:
                with self.writing:
                    if self._underway is not None:
                        self._finish_underway()
            error.accepted = progress.accepted  # type: ignore[attr-defined]
            raise
        return progress.accepted

    async def _accept_many(self, encoded: list[bytes], progress: Progress, patience: Patience) -> None:
        if self._deposits is None:
            self._try_extend_or_wait(encoded, progress)
        if progress.accepted == len(encoded):
            return

        def attempt() -> bool | None:
            self._node.ensure()
            before = progress.accepted
            self._try_extend(encoded, progress)
            if progress.accepted > before:
                return True
            if self._store is None and self._overflow(len(encoded[before]) + MESSAGE_OVERHEAD) is not None:
                progress.accepted += 1
                return True
            return None

        with self._node.lease_paused():
            while progress.accepted < len(encoded):
                await self._space.when_free(
                    len(encoded[progress.accepted]),
                    patience,
                    (lambda: self._deposit_part(encoded, progress, patience))
                    if self._deposits is not None
                    else (lambda: self._wait_for_room(attempt, patience)),
                )

    def _try_extend_or_wait(self, encoded: list[bytes], progress: Progress) -> None:
        try:
            self._try_extend(encoded, progress)
        except SpoolFull as full:
            if not self._space.is_waited_for(full, len(encoded[progress.accepted])):
                raise

    async def _deposit_part(self, encoded: list[bytes], progress: Progress, patience: Patience) -> None:
        start = progress.accepted
        part = encoded[start : start + HANDOVER_BYTES_MAX // MESSAGE_OVERHEAD]
        deposit = Deposit(part[: cuts(list(map(len, part)), HANDOVER_BYTES_MAX, MESSAGE_OVERHEAD)[1]], None)
        try:
            await self._deposit(deposit, patience)
        except BaseException:
            assert self._deposits is not None
            if self._deposits.in_hand(deposit) and not deposit.count:
                with suppress(FabricError):
                    await self._until_stored(lambda: deposit.tried_at > 0, deposit, None)
            raise
        finally:
            progress.accepted += deposit.count

    def _try_extend(self, encoded: list[bytes], progress: Progress) -> None:
        """Accept what there is room for of those that are not accepted yet.

        Raises:
            SpoolError: The disk refused; nothing more was accepted.
        """
        if self._store is None:
            with self._lock:
                part, total = self._what_fits(encoded, progress.accepted)
                count = len(part)
                # No call in these: Ctrl-C comes before or after.
                self._room -= total
                self._count += count
                self._bodies += part
                progress.accepted += count
        else:
            with self.writing:
                with self._lock:
                    part, total = self._what_fits(encoded, progress.accepted)
                if part and self.on_full == "spool" and self._fits_in_memory(total):
                    self._put_in_memory(part, total, None, progress)
                elif part:
                    self._store_now(_Underway(part, None, total, progress))
        if part:
            self._alert()

    def _alert(self) -> None:
        """There is something to hand over.

        It is urgent if somebody consumes, or if little more has room, unless much is under way before it.
        """
        underway = self._accepted_cost - self._pending_cost - self.end.released_cost
        if underway < UNDERWAY_MUCH and (self.end.consumers or self._room < HANDOVER_BYTES_MAX // 2):
            self._node.pump.alert(self)
        else:
            self._node.pump.note(self)

    def _what_fits(self, encoded: list[bytes], start: int) -> tuple[list[bytes], int]:
        """What there is room for from `start` on, and what it costs. The caller holds the lock."""
        if not self._open:
            return [], 0
        self._recount()
        self._make_room()
        # As many as fit if all are like the next one; counted exactly below.
        likely = self._room // (len(encoded[start]) + MESSAGE_OVERHEAD) if start < len(encoded) else 0
        part = encoded[start : start + max(1, likely)]
        total = sum(map(len, part)) + MESSAGE_OVERHEAD * len(part)
        if total > self._room:
            costs = list(accumulate(len(data) + MESSAGE_OVERHEAD for data in part))
            count = bisect_right(costs, self._room)
            if count == 0 and part and self._has_room(costs[0]):
                count = 1
            part = part[:count]
            total = costs[count - 1] if count else 0
        return part, total

    # Afterwards

    async def _started(self) -> None:
        """Have the node running, and the end open."""
        if not self.opened or not self._node.is_running:
            await self._node.started()
            if not self.opened:
                await self._node.open_late(self, self._gate)
        self._node.ensure()

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was accepted before is acked, dead-lettered or dropped.

        Raises:
            TimedOut: Some of it is not; nothing is lost.
        """
        await self._started()
        last = self.last

        def attempt() -> bool | None:
            self._node.ensure(closing=True)
            return True if self.end.floor > last else None

        def what() -> str:
            left = last + 1 - self.end.floor
            return (
                f"queue {self.queue!r}: up to {left:,} messages are not settled and {len(self.end.consumers)} "
                f"consumers are known; see node.statistics() and node.peers()"
            )

        await wait_until(self._node.waiting, self._gate, attempt, timeout, what)

    async def ready(self, consumers: int = 1, timeout: float | None = None) -> None:
        """Wait until at least so many consumers of the queue are connected.

        Raises:
            TimedOut: There are fewer.
        """
        await self._started()

        def attempt() -> bool | None:
            self._node.ensure()
            return True if len(self.end.consumers) >= consumers else None

        def what() -> str:
            return (
                f"queue {self.queue!r} has {len(self.end.consumers)} of {consumers} consumers; "
                f"start one in the same fabric, and look at node.peers()"
            )

        await wait_until(self._node.waiting, self._gate, attempt, timeout, what)

    def state(self, receipt: Receipt) -> str:
        """ "queued", "stored" (queued, and in the spool), "delivered", "processed", "dead" or "dropped"."""
        self._node.ensure(closing=True)
        if (
            not self.opened
            or receipt.stream.rpartition(":")[2] != self.queue
            or receipt.stream.partition(":")[0] != self._node.node_id
        ):
            raise ConfigError(f"the receipt {receipt.id} is not of this producer; ask the one that sent it")
        with self._node.pump.lock:
            numbers = self.end.numbers(receipt.stream, [receipt.sequence, receipt.sequence + 1])
            if not numbers:
                return "processed"  # of an earlier life, and the spool does not have it any more
            number = numbers[0][0]
            found = self.end.state(number) if number < self.end.next else "queued"
            backlog = self.end.backlog
            kept = "queued" if backlog is None or number in self._kept else "stored"
        return kept if found in ("waiting", "in flight", "queued") else found

    async def wait(self, receipt: Receipt, state: State, timeout: float | None = None) -> None:
        """Wait until the message of `receipt` is "stored", "delivered" or "processed".

        Raises:
            NotConfirmed: It is not yet, and may still be: do not send it again.
            Rejected: It is dead-lettered or dropped.
        """
        await self._started()
        _check_state(state)
        await self._confirm(receipt, state, timeout, timeout)

    def _check_stored(self) -> None:
        """Refuse to wait for the spool where it does not take every message."""
        if self._store is not None and self.on_full != "spool":
            return
        if self._node.spool is None:
            problem = "needs a spool: give Node(spool=PATH)"
        elif self._store is None:
            problem = (
                "cannot be, as this producer was made with spool=False and keeps its messages in memory: leave out"
            )
            problem += " spool=False"
        else:
            problem = 'needs a spool that takes every message, and on_full="spool" keeps some in memory: '
            problem += 'use on_full="block" or "error"'
        raise ConfigError(f'confirm="stored" {problem}; or ask for "delivered" or "processed"')

    async def _confirm(self, receipt: Receipt, state: State, left: float | None, timeout: float | None) -> None:
        if state == "stored":
            self._check_stored()
        enough = STATES[STATES.index(state) :]

        def attempt() -> bool | None:
            self._node.ensure(closing=True)
            found = self.state(receipt)
            if found in enough:
                return True
            if found in ("dead", "dropped"):
                with self._node.pump.lock:
                    [(number, _)] = self.end.numbers(receipt.stream, [receipt.sequence, receipt.sequence + 1])
                    why = self.end.why_dead(number) if found == "dead" else f"dropped by on_full={self.on_full!r}"
                raise Rejected(receipt.id, why)
            return None

        def what() -> str:
            return (
                f"queue {self.queue!r}: message {receipt.id} is not {state}; {len(self.end.consumers)} consumers known"
            )

        with self._node.lease_paused():
            try:
                await wait_until(self._node.waiting, self._gate, attempt, left, what)
            except TimedOut:
                raise NotConfirmed(receipt, state, timeout or 0.0) from None

    def retry_letter(self, identity: str) -> bool:
        """Send a dead letter again, in order with the other sends.

        Raises:
            SpoolError: The disk did not take it; the letter stays.
        """
        self._node.ensure()
        with self._node.pump.lock:
            letter = self.end.take_letter(identity)
        if letter is None:
            return False
        extras = {0: Extra(0, letter.headers, letter.origin or letter.id)}
        if self._deposits is not None:
            self._deposits.add(Deposit([letter.data], extras, letter))
            self._node.store(self._deposits)
            return True
        with self.writing:
            if self._store is not None:
                try:
                    self.write(Deposit([letter.data], extras, letter))
                except SpoolError:
                    self.restore_letter(letter)
                    raise
            with self._lock:
                self._close_segment()
                self._segments.append(_Retry(letter))
                self._count += self._store is None
        self._node.pump.alert(self)
        if self._store is not None:
            self._unbury(identity)
        return True

    def not_retried(self, letter: DeadLetter, error: Exception) -> None:
        """The disk's thread could not store a letter that should be sent again; nobody waits for it."""
        _log.warning("queue %r: the dead letter %s is not sent again: %s", self.queue, letter.id, error)
        self.restore_letter(letter)

    def restore_letter(self, letter: DeadLetter) -> None:
        """A letter that was taken could not be sent again."""
        with self._node.pump.lock:
            self.end.restore_letter(letter)

    def drop_letter(self, identity: str) -> bool:
        """Forget a dead letter."""
        self._node.ensure(closing=True)
        with self._node.pump.lock:
            dropped = self.end.take_letter(identity) is not None
        if dropped and self._store is not None:
            if self._deposits is not None:
                self._node.run_errand(lambda: self._unbury(identity))
            else:
                self._store.unbury(identity)
                self._node.pump.wake()  # there may be room again
        return dropped


class _Retry:
    """A dead letter to be sent again, in its place among the sends."""

    __slots__ = ("letter",)

    def __init__(self, letter: DeadLetter) -> None:
        self.letter = letter


STATES: Final = ("queued", "stored", "delivered", "processed")


def _check_state(state: str) -> None:
    if state not in STATES:
        raise ConfigError(f'confirm={state!r} is not a state; use "queued", "stored", "delivered" or "processed"')
