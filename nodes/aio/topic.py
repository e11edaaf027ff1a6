"""AsyncPublisher and AsyncSubscriber: topics in asyncio programs; the blocking ones are made of these."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from peerfabric.arguments import check_count, checked_batches
from peerfabric.discovery.locks import Lock, Rank
from peerfabric.engine import Engine
from peerfabric.errors import DecodeError, TimedOut
from peerfabric.nodes.aio.iterators import AsyncItems
from peerfabric.nodes.aio.options import PublisherOptions, SubscriberOptions
from peerfabric.nodes.context import NodeContext
from peerfabric.nodes.fronts import ASYNC_FOR, HANDLE_COPIED, refusing
from peerfabric.nodes.handler_context import has_failed
from peerfabric.nodes.headers import checked_headers
from peerfabric.nodes.io.waiting import IDLE, Gate, Waiting, clock, wait_until
from peerfabric.nodes.message import Update
from peerfabric.nodes.outbox.outbox import HANDOVER_BYTES_MAX
from peerfabric.queue.runs import MESSAGE_OVERHEAD
from peerfabric.topic.publisher import OutgoingTopic
from peerfabric.topic.subscriber import IncomingTopic, UpdateBatch
from peerfabric.wire.bodies import Codec
from peerfabric.wire.frames import Extra

T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class AsyncPublisher(Generic[T_contra]):
    """The one handle of this node for publishing on a topic. Thread-safe: a thread's messages keep their order."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(
        self,
        node: NodeContext,
        options: PublisherOptions,
        publisher: Callable[[PublisherOptions], AsyncPublisher[Any]],
    ) -> None:
        self.options = options
        self.topic = options.name
        self.codec: Codec[T_contra] = Codec(options.body_type, node.settings.options.message_bytes_max)
        self.alerted = False
        self.end: OutgoingTopic = None  # type: ignore[assignment]  # until the node starts
        self.ending = node.ending
        self._node = node
        self._publisher = publisher
        self._encode = self.codec.encode
        self._lock = Lock()
        self._gate = Gate()
        self._open = False
        self._bodies: list[bytes] = []
        self._extras: dict[int, Extra] | None = None
        self._room = HANDOVER_BYTES_MAX
        self._taken = 0

    def start(self, engine: Engine, now: float) -> None:
        """The node starts: open the end. Called under the engine's lock."""
        self.end = engine.open_publisher(self.topic, self.codec.number, now)
        self._open = True

    def stop(self) -> None:
        """The node closes: nothing is accepted any more."""
        with self._lock:
            self._open = False
        self._gate.open()

    def forked(self) -> None:
        """In a child process, where another thread of the parent may hold the lock for ever."""
        self._lock = Lock()
        self.stop()

    def handed_over(self) -> None:
        if self._node.taps is not None:
            self._node.taps.flush()
        with self._lock:
            self._room += self._taken
            self._taken = 0
        self._gate.open()

    def hand_over(self, engine: Engine, now: float) -> None:
        with self._lock:
            bodies, extras = self._bodies, self._extras
            self._bodies, self._extras = [], None
            self._taken = HANDOVER_BYTES_MAX - self._room
        if bodies:
            sent_ms, first = time.time_ns() // 1_000_000, self.end.last + 1
            engine.topics.publish(self.end, bodies, sent_ms, extras)
            if self._node.taps is not None:

                def named(index: int) -> dict[str, int]:
                    return {"sequence": first + index}

                self._node.taps.accepted("topic", self.topic, bodies, extras, self.codec.number, sent_ms, named)

    def changed(self) -> None:
        self._gate.open()

    def try_publish(self, body: T_contra, headers: dict[str, str] | None) -> bool:
        """Hand `body` over if the pump keeps up; False: it does not, and nothing was accepted."""
        data = self._encode(body)
        size = len(data) + MESSAGE_OVERHEAD
        extra = Extra(0, checked_headers(headers)) if headers is not None else None
        lock = self._lock
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            if not self._open or (size > self._room and self._bodies):
                return False
            if extra is not None:
                if self._extras is None:
                    self._extras = {}
                self._extras[len(self._bodies)] = extra
            self._room -= size
            self._bodies.append(data)
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken
        if not self.alerted:
            self._node.pump.wake(self)
        return True

    async def publish(self, body: T_contra, *, topic: str | None = None, headers: dict[str, str] | None = None) -> None:
        """Send `body` to every subscriber of the topic, or of another `topic` for this one message.

        It is numbered, so a subscriber that misses it knows. Each other `topic` counts as a publisher of the node,
        which stays; there may be 4,096.

        Raises:
            ConfigError: There are, or the topic's publisher has another type. Nothing was sent.
            EncodeError: Not of the body type, or not encodable. Nothing was sent.
        """
        await self._node.started()
        self.ending.check_sending()
        if topic is not None and topic != self.topic:
            other = self._publisher(PublisherOptions(name=topic, body_type=self.codec.body_type))
            await other.publish(body, headers=headers)
        elif not self.try_publish(body, headers):
            await self._wait_for_pump(lambda: self.try_publish(body, headers))

    async def publish_many(self, bodies: Iterable[T_contra]) -> int:
        """Send `bodies` in order and return how many there were; much faster than one by one.

        Raises:
            EncodeError: The bodies before the one at fault are sent; `error.accepted` counts them.
        """
        await self._node.started()
        self.ending.check_sending()
        encoded, fault = self.codec.encode_many(bodies if isinstance(bodies, list) else list(bodies))
        step = 8192
        for start in range(0, len(encoded), step):
            part = encoded[start : start + step]
            await self._wait_for_pump(partial(self._extend, part))
        if fault is not None:
            fault.accepted = len(encoded)
            raise fault
        return len(encoded)

    def _extend(self, part: list[bytes]) -> bool:
        with self._lock:
            if not self._open or (self._room <= 0 and self._bodies):
                return False
            self._room -= sum(map(len, part)) + MESSAGE_OVERHEAD * len(part)
            self._bodies += part
        self._node.pump.wake(self)
        return True

    async def _wait_for_pump(self, attempt: Callable[[], bool]) -> None:
        def checked() -> bool | None:
            self._node.ensure()
            return attempt() or None

        if not checked():
            await wait_until(
                self._node.waiting, self._gate, checked, None, lambda: f"topic {self.topic!r}: the node is busy sending"
            )

    async def ready(self, subscribers: int = 1, timeout: float | None = None) -> None:
        """Wait until at least so many subscriptions to the topic are confirmed: they miss nothing from here on.

        Raises:
            TimedOut: There are fewer.
        """
        subscribers = check_count("subscribers", subscribers, "give how many there shall be", least=0)
        await self._node.started()

        def attempt() -> bool | None:
            self._node.ensure()
            if len(self.end.confirmed) >= subscribers:
                return True
            self.ending.check()
            return None

        def what() -> str:
            return (
                f"topic {self.topic!r} has {len(self.end.confirmed)} of {subscribers} subscribers; "
                f"start one in the same fabric, and look at node.peers()"
            )

        await wait_until(self._node.waiting, self._gate, attempt, timeout, what)


class AsyncSubscriber(Generic[T_co]):
    """The one handle of this node for a pattern of topics. Thread-safe: each update goes to one caller."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(
        self, node: NodeContext, options: SubscriberOptions, forget: Callable[[AsyncSubscriber[Any]], None]
    ) -> None:
        self.options = options
        self.pattern = options.name
        self.codec: Codec[T_co] = Codec(options.body_type, node.settings.options.message_bytes_max, has_failed)
        self.alerted = False
        self.end: IncomingTopic = None  # type: ignore[assignment]  # until the node starts
        self.ending = node.ending
        self._node = node
        self._forget = forget
        self._lock = Lock(Rank.TAKING)
        self._gate = Gate()
        self._open = True
        self._current: UpdateBatch | None = None
        self._complained = False

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return self._open

    @property
    def waiting(self) -> Waiting:
        """How the front of this node waits."""
        return self._node.waiting

    def start(self, engine: Engine, now: float) -> None:
        """The node starts: open the end. Called under the engine's lock."""
        self.end = engine.open_subscriber(self.pattern, self.options.buffer_bytes, now)
        if self.codec.body_type is memoryview:
            self._node.pump.share_bodies()

    def stop(self) -> None:
        """The node closes."""
        self._gate.open()

    def forked(self) -> None:
        """In a child process: what is buffered here belongs to the parent."""
        self._lock = Lock(Rank.TAKING)
        self._current = None

    def hand_over(self, engine: Engine, now: float) -> None:
        return None

    def handed_over(self) -> None:
        return None

    def changed(self) -> None:
        self._gate.open()

    @property
    def missed(self) -> int:
        """How many updates are known to have existed and did not reach this subscriber."""
        return self.end.missed if self.end is not None else 0

    def try_take(self) -> Update[T_co] | None:
        """The next update if one is here."""
        lock = self._lock
        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            batch = self._current
            while True:
                if batch is not None:
                    while batch.next < batch.count:
                        index = batch.next
                        batch.next = index + 1
                        body = batch.bodies[index]  # type: ignore[index]
                        if body.__class__ is not DecodeError:
                            return Update(batch, index, body)
                batch = self._current = self._next_batch()
                if batch is None:
                    return None
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken

    def take_again(self) -> Update[T_co] | None:
        """The next update, if one was handed out before and another is here; None: ask `next_update`."""
        if self._current is None or not self._open or self.ending.signal or not self._node.handing_out:
            return None
        return self.try_take()

    def try_take_many(self, max_size: int) -> list[Update[T_co]] | None:
        """Up to `max_size` updates if any are here."""
        updates: list[Update[T_co]] = []
        with self._lock:
            while len(updates) < max_size:
                batch = self._current
                if batch is None or batch.next >= batch.count:
                    batch = self._current = self._next_batch()
                    if batch is None:
                        break
                low = batch.next
                high = batch.next = min(batch.count, low + max_size - len(updates))
                bodies: list[Any] = batch.bodies[low:high]  # type: ignore[index]
                made = map(Update, repeat(batch), range(low, high), bodies)
                fit = DecodeError not in set(map(type, bodies))
                updates += made if fit else (update for update in made if update.body.__class__ is not DecodeError)
        return updates or None

    def _next_batch(self) -> UpdateBatch | None:
        with self._node.pump.lock:
            batch = self.end.take()
        if batch is None:
            return None
        try:
            batch.bodies = self.codec.decode_batch(batch.body, batch.codec)
        except DecodeError as error:
            batch.bodies = self.codec.decode_each(batch.body, batch.codec, batch.sender)
            misfits = sum(isinstance(body, DecodeError) for body in batch.bodies)
            with self._node.pump.lock:
                self.end.misfit(misfits)
                if not self._complained:
                    self._complained = True
                    text = f"subscriber {self.pattern!r}: {error}; such updates are counted as missed"
                    self._node.engine.records.add("error", text)
            self._node.pump.wake()
        return batch

    async def get(self, timeout: float | None = None) -> Update[T_co]:
        """Take the next update.

        Raises:
            TimedOut: None came; nothing was taken.
            NodeClosed: The subscriber or its node is closed.
        """
        update = await self.next_update(self._node.waiting, timeout)
        if update is None:
            self.ending.check()
            raise self._node.refusal("this subscriber" if not self._open else "this node")
        return update

    async def next_update(self, waiting: Waiting, timeout: float | None = None) -> Update[T_co] | None:
        """Take the next update; None: closed."""
        update: Update[T_co] | None = await self._take(waiting, self.try_take, timeout)
        return update

    async def next_batch(self, max_size: int, max_wait: float) -> list[Update[T_co]] | None:
        """Take the next updates; None: closed."""
        updates: list[Update[T_co]] | None = await self._take(
            self._node.waiting, lambda: self.try_take_many(max_size), None
        )
        if updates is None or max_wait <= 0:
            return updates
        ends_at = clock() + max_wait
        while len(updates) < max_size and (left := ends_at - clock()) > 0:
            wanted = max_size - len(updates)
            try:
                more = await self._take(self._node.waiting, partial(self.try_take_many, wanted), left)
            except TimedOut:
                break
            if more is None:
                break
            updates += more
        return updates

    async def _take(self, waiting: Waiting, take: Callable[[], Any], timeout: float | None) -> Any:
        if self._node.is_closed:
            return None
        closed, ending = object(), self.ending
        await self._node.started(closing=True)

        def attempt() -> Any:
            if not self._open or not self._node.handing_out or (ending.signal and ending.ends_loop(self.end)):
                return closed
            return take()

        found = attempt()
        if found is None:
            found = await wait_until(waiting, self._gate, attempt, timeout, self._what, IDLE)
        return None if found is closed else found

    def _what(self) -> str:
        return f"subscriber {self.pattern!r}: no update is here; see node.peers() for who publishes"

    if not TYPE_CHECKING:
        __iter__ = refusing(ASYNC_FOR)

    def __aiter__(self) -> AsyncItems[Update[T_co]]:
        self.ending.check()
        return AsyncItems(partial(self.next_update, self.waiting))

    def batches(self, max_size: int = 1000, max_wait: float = 0.0) -> AsyncItems[list[Update[T_co]]]:
        """Iterate over lists of what is here, at most `max_size` updates each."""
        return AsyncItems(self.taking(max_size, max_wait))

    def taking(self, max_size: int, max_wait: float) -> Callable[[], Coroutine[Any, Any, list[Update[T_co]] | None]]:
        """What `batches` calls for each list.

        Raises:
            ConfigError: There are no such lists.
        """
        max_size, max_wait = checked_batches(max_size, max_wait)
        self.ending.check()
        return partial(self.next_batch, max_size, max_wait)

    def close(self) -> None:
        """Receive no more; what is buffered is dropped. `node.subscriber(pattern)` opens a new one."""
        self._open = False
        self._forget(self)
        self._gate.open()
