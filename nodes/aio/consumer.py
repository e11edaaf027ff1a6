"""AsyncConsumer: the consumer of a queue in asyncio programs; the blocking one is made of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from peerfabric.arguments import checked_batches, text_of
from peerfabric.discovery.locks import Lock, Rank
from peerfabric.engine import Engine
from peerfabric.errors import BadFrame, DecodeError, TimedOut
from peerfabric.nodes.aio.iterators import AsyncItems
from peerfabric.nodes.aio.options import ConsumerOptions
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.fronts import ASYNC_FOR, HANDLE_COPIED, refusing
from peerfabric.nodes.handler_context import hand_here, has_failed, take_in_hand
from peerfabric.nodes.io.pump import NAP
from peerfabric.nodes.io.waiting import IDLE, Blocking, Gate, Suspending, Waiting, clock, in_event_loop, wait_until
from peerfabric.nodes.message import Batch, Message
from peerfabric.nodes.platform import CLOCK
from peerfabric.nodes.storage.offload import LedgerWriter, Offloaded
from peerfabric.queue.delivery import Delivery, Verdict, extend
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.status import HANDLER_SECONDS
from peerfabric.wire.bodies import Codec

if TYPE_CHECKING:
    from peerfabric.nodes.storage.ledger_store import LedgerStore

T_co = TypeVar("T_co", covariant=True)

_log = logging.getLogger("peerfabric")

STALLED: Final = (1.0, logging.WARNING)

WATCH_MIN: Final = 0.5 * NAP
"""Seconds over which calls of a handler are looked at, at least."""
SHORT: Final = 50e-6
"""Seconds. Calls of a handler that take less are made by one thread: more would only contend for the interpreter."""
MANY: Final = 20
"""So many have to be short, as two looks may follow each other at once."""

_boottime: Final = CLOCK
_gettime: Final = time.clock_gettime


class AsyncConsumer(Generic[T_co]):
    """The one handle of this node for taking from a queue. Thread-safe: each message goes to one caller."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(
        self,
        node: NodeContext,
        options: ConsumerOptions,
        open_late: Callable[[AsyncConsumer[Any], Gate, Waiting], Coroutine[Any, Any, None]],
        ledger_store_of: Callable[[ConsumerOptions], LedgerStore | None],
    ) -> None:
        self.options = options
        self.queue = options.name
        self.codec: Codec[T_co] = Codec(options.body_type, node.settings.options.message_bytes_max, has_failed)
        # After the codec: not opened for a type that cannot be.
        self.ledger_store = ledger_store = ledger_store_of(options)
        self.alerted = False
        self.waits_for_outputs = options.ack_after == "outputs"
        self.in_tasks = isinstance(node.waiting, Suspending)
        self.end: IncomingQueue = None  # type: ignore[assignment]  # until the node starts
        self.opened = False
        self.forgotten = False
        """It was closed, and its name is free: whoever asks for it gets another."""
        self.late: Offloaded[None] | None = None
        """Opens the ledger, if the node was running when it was made; `opening` is its thread."""
        self.opening: threading.Thread | None = None
        self.ending = node.ending
        self._node = node
        self._open_late = open_late
        self._lock = Lock(Rank.TAKING)
        self._gate = Gate()
        self._open = True
        self._current: Delivery | None = None
        self._waits: set[object] = set()
        """Something of each call that waits for a message. A set, as that changes in one step of the interpreter."""
        self._told = 0
        """How many of them the machine knows of."""
        self._at_least = 1
        self._besides = 0
        # Of a handler: `takers` threads or tasks take for good, and go on with the next message when a call is over. Of
        # those that do not wait in a call that is suspended, `at_once` may take at one time. So short calls are made by
        # one of them, and a message that waits behind a long one is soon taken by another.
        self._takers = 0
        self._at_once = 0
        self._suspended = 0
        self._surplus = False
        """Whether more are at it than may be: the first that asks for a message has to wait."""
        self._taken = 0
        self._looked: tuple[float, int] | None = None
        """When the calls were last looked at, and what was taken until then, if messages were waiting."""
        self._wakes = False
        self._resting = False
        self._last: Message[T_co] | None = None
        self.seconds = [0] * (len(HANDLER_SECONDS) + 1)
        """How many messages were in hand for how long, by those bounds, and in all."""
        self.seconds_sum = 0.0
        self.times = True
        self._ledger_writer = LedgerWriter(ledger_store, self.queue, self.decided) if ledger_store is not None else None

    @property
    def is_open(self) -> bool:
        """Whether it was not closed, or is open again."""
        return self._open

    @property
    def waiting(self) -> Waiting:
        """How the front of this node waits."""
        return self._node.waiting

    @property
    def loop(self) -> Any:  # annotations of public classes are resolved where nothing has loaded asyncio
        """The event loop that its node belongs to; None: it belongs to none."""
        return self._node.loop

    @property
    def takers(self) -> int:
        """Threads or tasks that take from it now: those of a handler, or those that wait for a message."""
        return max(self._takers, len(self._waits))

    # Between the threads

    def start(self, engine: Engine, now: float) -> None:
        """The node starts: open the end. Called under the engine's lock."""
        remembered = self.ledger_store.remembered if self.ledger_store is not None else None
        self.end = engine.open_consumer(self.queue, self.options.lease, now, remembered)
        self.opened = True
        if not self._open:
            engine.close_consumer(self.queue, now)
        if self.codec.body_type is memoryview:
            self._node.pump.share_bodies()

    def stop(self) -> None:
        """The node closes: nothing is handed out any more."""
        self._gate.open()

    def forked(self) -> None:
        """In a child process: what is buffered here belongs to the parent."""
        self._lock = Lock(Rank.TAKING)
        self._current = None
        if self.ledger_store is not None:
            self.ledger_store.abandon()
        if self._ledger_writer is not None:
            self._ledger_writer.abandon()

    def ledger_writer(self) -> LedgerWriter | None:
        """Who writes into the ledger for the calling code; None: itself."""
        if self._ledger_writer is None or isinstance(self._node.waiting, Blocking) or not in_event_loop():
            return None
        return self._ledger_writer

    @property
    def recording(self) -> bool:
        """Whether acks are on their way to the ledger."""
        return self._ledger_writer is not None and not self._ledger_writer.idle

    @property
    def handing_on(self) -> bool:
        """Whether acks wait until what was sent because of their messages is safe."""
        handon = self.end.handon if self.opened else None
        return handon is not None and (handon.count > 0 or handon.has_fresh)

    def close_ledger(self) -> None:
        """Write what is acked, and give the ledger up."""
        if self.opening is not None:
            self.opening.join()
        if self._ledger_writer is not None:
            self._ledger_writer.stop()
        if self.ledger_store is not None:
            self.ledger_store.close()

    async def _started(self, waiting: Waiting) -> None:
        if not self.opened or not self._node.is_running:
            await self._node.started(closing=True)
            if not self.opened and not self._node.is_closed:
                await self._open_late(self, self._gate, waiting)

    def hand_over(self, engine: Engine, now: float) -> None:
        if self._told != len(self._waits):
            self._tell(now)
        engine.consumers.progress(self.end, now)
        if self._resting:
            self._resting = False
            if not self._waits:
                self.end.rest()
                engine.consumers.progress(self.end, now)
        if self._takers > 1:
            self._look_at_calls(now)
        if self.ledger_store is not None:
            forgotten = self.end.producers.take_forgotten()
            if forgotten:
                self.ledger_store.forget(forgotten)

    def _record_safe(self, ledger_writer: LedgerWriter) -> None:
        """Have written down what is processed and waited until what was sent because of it is safe."""
        handon = self.end.handon
        if handon is None or not handon.unrecorded:
            return
        from peerfabric.spool.ledger import Entry  # it is there, as there is a ledger

        entries = []
        while handon.unrecorded:
            entries.append(Entry(*handon.unrecorded.popleft()))

        def recorded(*, written: bool = True) -> None:
            for entry in entries:
                handon.recorded(entry.stream, entry.start, entry.stop, written=written)
            self.decided()

        def not_recorded(error: Exception) -> None:
            text = "messages of queue %r were processed and are not acked, as the ledger cannot be written: %s"
            _log.error(text, self.queue, error)
            recorded(written=False)

        ledger_writer.record(entries, recorded, not_recorded)

    def _look_at_calls(self, now: float) -> None:
        """Let more take at one time if messages wait and calls are long, or one if they are short."""
        at_it = self._takers - len(self._waits) - self._suspended
        taken, current = self._taken, self._current
        waits = (current is not None and current.next < current.limit) or self.end.available(now)
        at, before = self._looked or (now, taken)
        if taken - before > max(MANY, at_it * (now - at) / SHORT):
            self._at_once = 1
        elif waits and now - at >= WATCH_MIN:
            self._at_once = min(self._takers, 2 * self._at_once)
        if not waits:
            self._looked = None
        elif self._looked is None or now - at >= WATCH_MIN:
            self._looked = (now, taken)
        self._surplus = at_it > self._at_once
        self._wakes = waits and bool(self._waits)

    @property
    def _has_more(self) -> bool:
        """Whether messages are here, as far as can be seen without a lock."""
        current = self._current
        return bool(self.end.turns) or (current is not None and current.next < current.limit)

    @property
    def _may_begin(self) -> bool:
        """Whether another of the takers may take now."""
        return self._takers - len(self._waits) - self._suspended < self._at_once

    def handed_over(self) -> None:
        if self._ledger_writer is not None:
            self._record_safe(self._ledger_writer)
        if self._wakes:
            self._wakes = False
            if self._may_begin:
                self._gate.open_one()
            if self._at_once < self._takers:  # else each that leaves with a message wakes another
                self._node.pump.watch(self)

    def changed(self) -> None:
        if self._ledger_writer is not None:
            self._record_safe(self._ledger_writer)
        if self._takers <= 1:
            self._gate.open()
        elif self._may_begin:  # they are alike, and each that leaves with a message looks whether there is more
            self._gate.open_one()
        elif self._waits:
            if self._looked is None:
                self._looked = (clock(), self._taken)
            self._node.pump.watch(self)

    def suspend(self, change: int) -> None:
        """A call of a task begins, or ends, to be suspended: meanwhile another one may take."""
        self._suspended += change
        if change > 0:
            self._hand_on()

    def _hand_on(self) -> None:
        """Let another of the takers take what is left here, if it may."""
        if self._waits and self._has_more and self._may_begin:
            self._gate.open_one()

    def decided(self) -> None:
        """A decision was written into a delivery: let the machine read it."""
        if not self.alerted:
            self._node.pump.wake_soon(self)

    def open_handon(self) -> None:
        """Some of its messages are acked only when others are safe, from now on."""
        if self.end.handon is None:
            with self._node.pump.lock:
                wake = partial(self._node.pump.wake_soon, self)
                self.end.open_handon(wake, ledgered=self.ledger_store is not None)

    def extend(self, delivery: Delivery, index: int, seconds: float) -> None:
        with self._node.pump.lock:
            extend(delivery, index, clock() + seconds)

    # Taking

    def try_take(self) -> Message[T_co] | None:
        """The next message if one is here."""
        lock = self._lock
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            delivery = self._current
            while True:
                if delivery is not None:
                    index = delivery.next
                    if index < delivery.limit:
                        # Claim first, look at the fence second: see delivery.py.
                        delivery.next = index + 1
                        if (now := _gettime(_boottime)) < delivery.until:
                            body = delivery.bodies[index]  # type: ignore[index]
                            if body.__class__ is not DecodeError:
                                return Message(self, delivery, index, body, now)
                            self._refuse(delivery, index, body)
                            continue
                        self._unclaim(delivery, index)
                delivery = self._current = self._next_delivery()
                if delivery is None:
                    return None
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken

    def take_again(self) -> Message[T_co] | None:
        """The next message, if one was handed out before and another is here; None: ask `next_message`."""
        if self._surplus:
            return None
        lock = self._lock
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            delivery = self._current
            if delivery is not None and delivery.next >= delivery.limit:
                if not self.end.turns:
                    return None
                delivery = self._current = self._next_delivery()
            if delivery is None or self.ending.signal:
                return None
            index = delivery.next
            delivery.next = index + 1
            if (now := _gettime(_boottime)) >= delivery.until:
                self._unclaim(delivery, index)
                self._current = None
                return None
            body = delivery.bodies[index]  # type: ignore[index]
            if body.__class__ is DecodeError:
                self._refuse(delivery, index, body)
                return None
            self._last = message = Message(self, delivery, index, body, now)
            self._taken += 1
            hand = hand_here()
            if hand is None or self.in_tasks or hand.earlier or not ((held := hand.newest) is None or held._settled):
                take_in_hand(message)
            else:
                hand.newest = message
            return message
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken

    def _refuse(self, delivery: Delivery, index: int, error: DecodeError) -> None:
        delivery.verdicts.append((Verdict.REFUSE, index, index + 1, -1.0, text_of(error)))
        self.decided()

    def _unclaim(self, delivery: Delivery, index: int) -> None:
        """The fence has fallen between us and the producer: nothing from `index` on may be started now."""
        with self._node.pump.lock:
            if index < delivery.limit:
                delivery.next = index
            self.end.park(delivery)

    def _next_delivery(self) -> Delivery | None:
        pump = self._node.pump
        with pump.lock:
            delivery = self.end.take(clock()) if self._open and self._node.handing_out else None
        if delivery is None:
            return None
        if delivery.bodies is None:
            try:
                delivery.bodies = self._decode(delivery)
            except BaseException:  # interrupted: somebody else may take it
                with pump.lock:
                    self.end.park(delivery)
                raise
        return delivery

    def _decode(self, delivery: Delivery) -> list[Any]:
        try:
            return self.codec.decode_batch(delivery.body, delivery.codec)
        except DecodeError as whole:
            try:
                return self.codec.decode_each(delivery.body, delivery.codec, delivery.sender)
            except BadFrame:
                return [whole] * delivery.count

    def try_take_batch(self, max_size: int) -> Batch[T_co] | None:
        """Up to `max_size` messages if any are here."""
        parts: list[tuple[Delivery, int, int]] = []
        bodies: list[T_co] = []
        with self._lock:
            while len(bodies) < max_size:
                delivery = self._current
                if delivery is None or delivery.next >= delivery.limit:
                    delivery = self._current = self._next_delivery()
                    if delivery is None:
                        break
                if delivery.alone and bodies:
                    break
                low = delivery.next
                high = min(delivery.limit, low + max_size - len(bodies))
                delivery.next = high
                if clock() >= delivery.until:
                    self._unclaim(delivery, low)
                    self._current = None
                    continue
                self._add_part(parts, bodies, delivery, low, high)
                if delivery.alone and bodies:
                    break
        return Batch(self, parts, bodies) if bodies else None

    def _add_part(
        self, parts: list[tuple[Delivery, int, int]], bodies: list[T_co], delivery: Delivery, low: int, high: int
    ) -> None:
        """Add what of `[low, high)` could be decoded; refuse the rest."""
        chosen = delivery.bodies[low:high]  # type: ignore[index]
        if DecodeError not in set(map(type, chosen)):
            parts.append((delivery, low, high))
            bodies += chosen
            return
        for index, body in enumerate(chosen, low):
            if isinstance(body, DecodeError):
                self._refuse(delivery, index, body)
            else:
                parts.append((delivery, index, index + 1))
                bodies.append(body)

    async def get(self, timeout: float | None = None) -> Message[T_co]:
        """Take the next message.

        Raises:
            TimedOut: None came; nothing was taken.
            NodeClosed: The consumer or its node is closed.
        """
        message = await self.next_message(self._node.waiting, timeout)
        if message is None:
            self.ending.check()
            raise self._node.refusal("this consumer" if not self._open else "this node")
        return message

    async def next_message(self, waiting: Waiting, timeout: float | None = None) -> Message[T_co] | None:
        """Take the next message; None: closed. `waiting` says how the caller waits."""
        node = self._node
        if node.is_closed or (self.ending.signal and self.ending.ends_loop(self.end)):
            return None
        if not self.opened or not node.is_running:
            await self._started(waiting)
        if node.life is not Life.RUNNING or node.loop is not None:
            node.ensure(closing=True)
        delivery, at_it = self._current, self._takers - len(self._waits) - self._suspended
        is_here = self.end.turns or (delivery is not None and delivery.next < delivery.limit)
        message = self.try_take() if is_here and at_it <= self._at_once else None
        if message is None:
            found = await self._wait_for(waiting, self.try_take, 1, timeout)
            if found is None:
                return None
            message = found
        self._taken += 1
        self._last = message
        hand = hand_here()
        if hand is None or self.in_tasks or hand.earlier or not ((held := hand.newest) is None or held._settled):
            take_in_hand(message)
        else:
            hand.newest = message
        return message

    async def _wait_for(self, waiting: Waiting, take: Callable[[], Any], at_least: int, timeout: float | None) -> Any:
        """Wait until `take` returns something, and tell the producers that we want it; None: closed."""
        closed = object()

        def attempt() -> Any:
            if not self._open or not self._node.handing_out:
                return closed
            if self.ending.signal and self.ending.ends_loop(self.end):
                return closed
            if self._takers > 1 and not self._may_begin:
                return None
            delivery = self._current
            if not self.end.turns and (delivery is None or delivery.next >= delivery.limit):
                return None  # what comes opens the gate after it is there
            return take()

        hand = hand_here()
        if hand is not None and (held := hand.newest) is not None and held._settled:
            hand.newest = None  # whoever waits keeps no body
        # Another call of a handler that goes on is no message that was forgotten.
        idle = IDLE if self._takers or not self._is_stalled else STALLED
        try:
            self._waits.add(attempt)
            self._want(at_least)
            found = await wait_until(waiting, self._gate, attempt, timeout, self._what, idle)
        finally:
            self._waits.discard(attempt)
            self._surplus = self._takers - len(self._waits) - self._suspended > self._at_once
            if self._takers > 1:
                self._hand_on()
            if not self.alerted:
                self._node.pump.wake_soon(self)  # the machine learns of it, and whether this call is long
        return None if found is closed else found

    @property
    def _is_stalled(self) -> bool:
        """Whether a program has left its last message unsettled; a handler has not, it is at its call."""
        return not (self._takers or self._besides) and self._last is not None and not self._last._settled

    def _what(self) -> str:
        if self._is_stalled:
            return (
                f"queue {self.queue!r}: messages were taken and not settled, so producers send no more; "
                f"use `with message as body:`, or call message.ack()"
            )
        return f"queue {self.queue!r}: no message is here; see node.peers() for who produces it"

    def _want(self, at_least: int) -> None:
        """Another call waits, for so many messages at least: let their producers know."""
        pump = self._node.pump
        now = clock()
        with pump.lock:
            self._surplus = self._takers - len(self._waits) - self._suspended > self._at_once
            self._at_least = at_least
            self._tell(now)
            # What was decided is read by the pump, if it is to come anyway.
            if self.alerted or self._node.engine.consumers.progress(self.end, now):
                if self.end.producers.starves:
                    pump.wake()
                else:
                    pump.wake_unless_resting()  # for acks alone
        if self._takers > 1 and self._has_more and not self.alerted:
            pump.wake_soon(self)  # who is at it may be at a long call

    def _tell(self, now: float) -> None:
        """Let the machine know how many calls wait. Called under the engine's lock."""
        self._told = waiting = len(self._waits)
        self.end.want(waiting, max(waiting, self._takers, self._at_least) + self._besides, now)

    def declare_takers(self, count: int, at_once: int, *, tasks: bool) -> None:
        """`count` tasks or threads take from here for good; `at_once` of them to begin with."""
        self._takers, self._at_once, self.in_tasks, self.times = count, at_once, tasks, False

    def want_besides(self, count: int) -> None:
        """Want `count` messages more than calls wait for: others work on those, or are to get them, at the same time.

        For who takes on behalf of many: by itself a program that has settled nothing gets nothing more.
        """
        if count != self._besides:
            self._besides, self._told = count, -1
            if self._waits and not self.alerted:
                self._node.pump.wake_soon(self)

    if not TYPE_CHECKING:
        __iter__ = refusing(ASYNC_FOR)

    def __aiter__(self) -> AsyncItems[Message[T_co]]:
        self.ending.check()
        return AsyncItems(partial(self.next_message, self.waiting), self.rest, self.take_again)

    def batches(self, max_size: int = 1000, max_wait: float = 0.0) -> AsyncItems[Batch[T_co]]:
        """Iterate over batches of what is here, at most `max_size` messages each.

        A batch that is not full waits `max_wait` seconds for more.
        """
        return AsyncItems(self.taking(max_size, max_wait), self.rest)

    def taking(self, max_size: int, max_wait: float) -> Callable[[], Coroutine[Any, Any, Batch[T_co] | None]]:
        """What `batches` calls for each batch.

        Raises:
            ConfigError: There are no such batches.
        """
        max_size, max_wait = checked_batches(max_size, max_wait)
        self.ending.check()
        return partial(self.next_batch, max_size, max_wait)

    async def next_batch(self, max_size: int, max_wait: float) -> Batch[T_co] | None:
        """Take the next batch; None: closed."""
        if self._node.is_closed or (self.ending.signal and self.ending.ends_loop(self.end)):
            return None
        await self._started(self._node.waiting)
        self._node.ensure(closing=True)
        open_ = self._node.handing_out and self._open
        batch = self.try_take_batch(max_size) if open_ else None
        if batch is None:
            batch = await self._wait_for(self._node.waiting, lambda: self.try_take_batch(max_size), max_size, None)
            if batch is None:
                return None
        if max_wait > 0 and len(batch) < max_size:
            batch = await self._fill(batch, max_size, max_wait)
        take_in_hand(batch)
        return batch

    async def _fill(self, batch: Batch[T_co], max_size: int, max_wait: float) -> Batch[T_co]:
        ends_at = clock() + max_wait
        while len(batch) < max_size and clock() < ends_at:
            wanted = max_size - len(batch)
            try:
                more = await self._wait_for(
                    self._node.waiting, partial(self.try_take_batch, wanted), wanted, max(0.0, ends_at - clock())
                )
            except TimedOut:
                break
            except BaseException:
                batch.give_back()  # what was taken for nobody
                raise
            if more is None:
                break
            batch = batch.joined(more)
        return batch

    def rest(self) -> None:
        """Nobody iterates here any more: return what is buffered. Safe from a finaliser."""
        self._resting = True
        if self.end is not None:
            self._node.pump.wake(self)

    def close(self) -> None:
        """Stop taking: what was not started goes to other consumers. `node.consumer(queue)` opens it again.

        A node has at most 4,096 consumers that are open. Beyond that closed ones of which nothing is undecided make
        room, but for those with a ledger; then `node.consumer(queue)` is a new one.
        """
        self._open = False
        # `start` looks at whether it is open and opened the other way round.
        if self._node.handing_out and self.opened and not self.forgotten:
            with self._lock, self._node.pump.lock:
                self._node.engine.close_consumer(self.queue, clock())
                self._current = None
            self._node.pump.wake()
        self._gate.open()

    def reopen(self) -> None:
        """Take again after `close`."""
        if not self._open:
            self._open = True
            if self._node.is_running and self.opened:
                with self._node.pump.lock:
                    self._node.engine.reopen_consumer(self.queue, clock())
                    self._told = -1  # calls that have waited all the time are told anew
                self._node.pump.wake(self)
