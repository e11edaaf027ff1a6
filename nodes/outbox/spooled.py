"""A producer's way through the spool: what is sent is stored first, by its own thread or by the disk's, or kept in
memory if `on_full="spool"` says so.

`writing` is taken before the handover's lock, so that messages are handed over in the order of storing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from peerfabric.discovery.locks import Lock, Rank
from peerfabric.discovery.log import log as _log
from peerfabric.errors import FabricError, NodeClosed, NotConfirmed, QueueFull, SpoolError, SpoolFull, TimedOut
from peerfabric.nodes.handler_context import Patience
from peerfabric.nodes.headers import checked_headers
from peerfabric.nodes.io.waiting import Gate, refuse_to_wait, wait_until
from peerfabric.nodes.outbox.deposits import SYNC_PATIENCE, Deposit, Deposits
from peerfabric.nodes.outbox.outbox import HANDOVER_BYTES_MAX, Outbox, Progress
from peerfabric.queue.runs import MESSAGE_OVERHEAD, cost
from peerfabric.ranges import Ranges
from peerfabric.receipt import Receipt
from peerfabric.reports import DeadLetter
from peerfabric.wire.batch import cuts
from peerfabric.wire.frames import Extra

if TYPE_CHECKING:
    from peerfabric.nodes.context import NodeContext
    from peerfabric.nodes.outbox.space import Space
    from peerfabric.nodes.storage.disk_thread import Disk
    from peerfabric.nodes.storage.store import Store

MESSAGES_MAX: Final = HANDOVER_BYTES_MAX // MESSAGE_OVERHEAD
"""More than that are never in one deposit."""


class _Underway:
    """Messages that a thread is storing, and will have handed over when `progress` counts them."""

    __slots__ = ("bodies", "cost", "extra", "progress")

    def __init__(self, bodies: list[bytes], extra: Extra | None, cost: int, progress: Progress) -> None:
        self.bodies, self.extra, self.cost = bodies, extra, cost
        self.progress = progress


class SpooledOutbox:
    """Stores the messages of one producer, and hands them over then.

    Args:
        node: Whose calls wait.
        disk: Its thread stores what the calling one does not.
        store: Where they are stored.
        handover: Where they go.
        codec: How their bodies are encoded.
        volatile: Of `on_full="spool"`: they may stay in memory.
        buffer_bytes: For errors.
        space: How calls wait for space on disk.
        gate: Where calls wait for the disk.
        by_itself: The calling thread stores; otherwise the disk's thread does, for all who wait at once.
    """

    def __init__(
        self,
        node: NodeContext,
        disk: Disk,
        store: Store,
        handover: Outbox,
        codec: int,
        volatile: bool,
        buffer_bytes: int,
        space: Space,
        gate: Gate,
        by_itself: bool,
    ) -> None:
        self.queue = store.queue
        self.writing = Lock(Rank.WRITING)
        self.deposits = None if by_itself else Deposits(self, store)
        """Where sends wait for the disk's thread."""
        self._node, self._disk, self._store, self._handover = node, disk, store, handover
        self._codec, self._volatile, self._buffer_bytes = codec, volatile, buffer_bytes
        self._space, self._gate = space, gate
        self._stream = handover.end.stream
        self._underway: _Underway | None = None
        """What a thread is storing; it stays here if that is interrupted."""
        self._kept = Ranges()
        """The numbers of what stayed in memory."""

    def forked(self) -> None:
        """In a child process, where another thread of the parent may hold the lock for ever."""
        self.writing = Lock(Rank.WRITING)

    @property
    def idle(self) -> bool:
        """Whether no messages are on their way to the disk."""
        return self.deposits is None or self.deposits.idle

    def seal(self) -> None:
        """Nothing has room any more: hand over what a thread is just storing, or was interrupted at, and what is
        written and will not be synced: its senders learned that it is accepted."""
        with self.writing:
            self._finish_underway()
        if self.deposits is not None:
            self.deposits.give_up_sync()

    def disk_ended(self) -> None:
        """The node is closed, and its disk's thread has ended: nothing more is stored."""
        if self.deposits is not None:
            self.deposits.over = True

    def has(self, number: int) -> bool:
        """Whether the message of that number, which is not settled, is or will be on disk."""
        backlog = self._handover.end.backlog
        assert backlog is not None
        return number not in self._kept and number not in backlog.volatile and backlog.kept

    # By the caller's own thread

    def try_send(self, data: bytes, size: int, headers: dict[str, str] | None) -> Receipt | None:
        """Accept a message if that can be done at once; None: it cannot.

        Raises:
            SpoolError: The disk refused; it is not accepted.
        """
        if self.deposits is not None:
            return self._try_keep(data, size, headers) if self._volatile else None
        try:
            return self.try_store(data, size, headers)
        except SpoolFull as full:
            if self._space.is_waited_for(full, len(data)):
                return None
            raise

    def try_store(self, data: bytes, size: int, headers: dict[str, str] | None) -> Receipt | None:
        """Store a message in the caller's own thread; None: the pump must take the others first."""
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        lock = self.writing
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            if not self._handover.has_room(size):
                return None
            if self._volatile and self._fits_in_memory(size):
                sequence = self._keep([data], size, extra, Progress())
            else:
                sequence = self._store_now(_Underway([data], extra, size, Progress()))
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken
        self._handover.alert_for_one()
        return Receipt(self._stream, sequence)

    def extend(self, encoded: list[bytes], progress: Progress) -> None:
        """Store what there is room for of those that are not accepted yet.

        Raises:
            SpoolError: The disk refused; nothing more was accepted.
        """
        with self.writing:
            part, total = self._handover.what_fits(encoded, progress.accepted)
            if part and self._volatile and self._fits_in_memory(total):
                self._keep(part, total, None, progress)
            elif part:
                self._store_now(_Underway(part, None, total, progress))
        if part:
            self._handover.alert_if_urgent()

    def finish_interrupted(self, progress: Progress) -> None:
        """The call of `progress` was interrupted, perhaps as it stored something: that is accepted."""
        if self._underway is not None and self._underway.progress is progress:
            with self.writing:
                self._finish_underway()

    def _store_now(self, underway: _Underway) -> int:
        """Store messages and hand them over; return the sequence of the first. The caller holds `writing`.

        Raises:
            SpoolError: None of them is stored.
        """
        self._finish_underway()
        self._underway = underway
        try:
            extras = {0: underway.extra} if underway.extra is not None else None
            first, count = self._append(underway.bodies, extras, None)
        except SpoolError:
            self._underway = None
            raise
        self._hand_in(underway, count)
        return first

    def _hand_in(self, underway: _Underway, count: int) -> None:
        bodies, total = underway.bodies, underway.cost
        if count < len(bodies):
            bodies = bodies[:count]
            total = cost(bodies)
        self._handover.put_many(bodies, total, underway.extra, underway.progress)
        # If Ctrl-C comes before this, `_finish_underway` finds nothing stored beyond what is counted.
        self._underway = None

    def _finish_underway(self) -> None:
        """If Ctrl-C, or the like, came between storing and handing over: what is stored is accepted."""
        underway = self._underway
        if underway is not None:
            first = self._handover.count + 1
            self._hand_in(underway, self._store.stored(first, first + len(underway.bodies)))
            self._handover.alert()

    def _append(self, bodies: list[bytes], extras: dict[int, Extra] | None, codec: int | None) -> tuple[int, int]:
        """Write messages; return the sequence of the first and how many are stored. The caller holds `writing`."""
        self._handover.leave_memory()
        first = self._handover.count + 1
        number = self._codec if codec is None else codec
        return first, self._store.append(first, bodies, extras, number, time.time_ns() // 1_000_000)

    # In memory

    def _try_keep(self, data: bytes, size: int, headers: dict[str, str] | None) -> Receipt | None:
        """Keep a message in memory, without waiting for the disk; None: it must be stored, or the node is past it."""
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        lock = self.writing
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False) or not self._fits_in_memory(size):
                return None
            sequence = self._keep([data], size, extra, Progress())
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken
        self._handover.alert()
        return Receipt(self._stream, sequence)

    def _fits_in_memory(self, size: int) -> bool:
        """Of `on_full="spool"`: whether so much more needs no disk. The caller holds `writing`."""
        self._finish_underway()
        before = self._handover.volatile
        fits = self._handover.stays_in_memory(size)
        if fits != before:
            self._kept.remove(0, self._handover.end.floor)
        return fits

    def _keep(self, bodies: list[bytes], size: int, extra: Extra | None, progress: Progress) -> int:
        """Accept messages that fit in memory; return the sequence of the last. The caller holds `writing`."""
        self._note_kept(len(bodies))
        return self._handover.put_many(bodies, size, extra, progress)

    def _note_kept(self, count: int) -> None:
        """The next `count` messages stay in memory."""
        last = self._handover.last
        self._kept.add(last + 1, last + 1 + count)

    # By the disk's thread, for callers that wait

    async def deposit(self, bodies: list[bytes], headers: dict[str, str] | None, patience: Patience) -> Receipt:
        """Have `bodies` stored, which have `headers`, and wait for that.

        Raises:
            SpoolError, QueueFull, NodeClosed, NotConfirmed: As `_deposit`.
        """
        extras = {0: Extra(0, checked_headers(headers))} if headers is not None else None
        deposit = Deposit(bodies, extras)
        await self._deposit(deposit, patience)
        return Receipt(self._stream, deposit.first)

    async def deposit_part(self, encoded: list[bytes], progress: Progress, patience: Patience) -> None:
        """Have some more of `encoded` stored, as many as may be handed over at once, and wait for that.

        However it ends, `progress` is right then: also if this is cancelled while the disk has them in hand.

        Raises:
            SpoolError, QueueFull, NodeClosed, NotConfirmed: As `_deposit`.
        """
        part = encoded[progress.accepted : progress.accepted + MESSAGES_MAX]
        deposit = Deposit(part[: cuts(list(map(len, part)), HANDOVER_BYTES_MAX, MESSAGE_OVERHEAD)[1]], None)
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
        deposit.first, deposit.count = self._handover.count + 1, len(deposit.bodies)
        self._note_kept(deposit.count)
        self._handover.put_kept(deposit.bodies, total, deposit.extras)
        return True

    def write(self, deposit: Deposit) -> None:
        """Append `deposit` to the spool, and note what of it is stored. The caller holds `writing`.

        Raises:
            SpoolError: Nothing of it is.
        """
        self._finish_underway()
        deposit.first, deposit.count = self._append(deposit.bodies, deposit.extras, deposit.codec)
        self._handover.counted(deposit.first - 1 + deposit.count)

    def deposited(self, deposit: Deposit) -> None:
        """What a send of ours handed over is stored."""
        self.hand_in(deposit)
        if deposit.letter is not None:
            self._unbury(deposit.letter.id)

    def hand_in(self, deposit: Deposit) -> None:
        """What a send of ours handed over is written, and counts as accepted."""
        if deposit.letter is not None:
            self._handover.put_letter(deposit.letter, counted=True)
        else:
            self._handover.put_stored(deposit.bodies[: deposit.count], deposit.extras)

    def changed(self) -> None:
        """Something became of a deposit."""
        self._handover.changed()

    # Dead letters

    def retry(self, letter: DeadLetter) -> None:
        """Send a dead letter that was taken again, in order with the other sends.

        Raises:
            SpoolError, NodeClosed: The disk did not take it, or the node closes; the letter is back in its place.
        """
        deposit = Deposit([letter.data], {0: Extra(0, letter.headers, letter.origin or letter.id)}, letter)
        if self.deposits is not None:
            self.deposits.add(deposit)
            self._disk.store(self.deposits)
            return
        with self.writing:
            if not self._handover.is_open:
                self._restore(letter)
                raise NodeClosed
            try:
                self.write(deposit)
            except SpoolError:
                self._restore(letter)
                raise
            self._handover.put_letter(letter, counted=True)
        self._unbury(letter.id)

    def not_retried(self, letter: DeadLetter, error: Exception) -> None:
        """The disk's thread could not store a letter that should be sent again; nobody waits for it."""
        _log.warning("queue %r: the dead letter %s is not sent again: %s", self.queue, letter.id, error)
        self._restore(letter)

    def drop(self, identity: str) -> None:
        """A dead letter was dropped: take it off the disk.

        Raises:
            SpoolError: It is there still, and comes back at a restart.
        """
        if self.deposits is not None:
            self._disk.run(lambda: self._unbury(identity))
        else:
            self._store.unbury(identity)
            self._node.pump.wake()  # there may be room again

    def _restore(self, letter: DeadLetter) -> None:
        with self._node.pump.lock:
            self._handover.end.restore_letter(letter)

    def _unbury(self, identity: str) -> None:
        """Take a letter that is sent again, or dropped, off the disk; if that fails it only comes back at a restart."""
        try:
            self._store.unbury(identity)
        except SpoolError as error:
            _log.warning("queue %r: the dead letter %s stays on disk: %s", self.queue, identity, error)
        self._node.pump.wake()  # there may be room again
