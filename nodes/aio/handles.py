"""Handles of one node: each name of a queue or topic has one, made with the options that were asked for first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from peerfabric.discovery.remarks import later
from peerfabric.errors import ConfigError, ForkedNode, counted
from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.aio.opened import open_store
from peerfabric.nodes.aio.options import (
    ConsumerOptions,
    HandleOptions,
    ProducerOptions,
    PublisherOptions,
    SubscriberOptions,
)
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.nodes.aio.topic import AsyncPublisher, AsyncSubscriber
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.io.waiting import Gate, Waiting, clock, wait_until
from peerfabric.nodes.storage.offload import Offloaded
from peerfabric.wire.frames import NAMES_MAX

if TYPE_CHECKING:
    from peerfabric.nodes.storage.disk_thread import Disk
    from peerfabric.nodes.storage.ledger_store import LedgerStore
    from peerfabric.nodes.storage.store import Store
    from peerfabric.queue.durable import DurableQueue

H = TypeVar("H")

_log = logging.getLogger("peerfabric")


class Handles:
    """All handles of one node. Iterated over, it gives those that are there now.

    They are added under the life lock. Who goes through them without it goes through a copy: another thread may add one
    meanwhile, such as a handler that works while the node closes.
    """

    def __init__(self, node: NodeContext, handler_of: Callable[[Any], str | None]) -> None:
        self.producers: dict[str, AsyncProducer[Any]] = {}
        self.consumers: dict[str, AsyncConsumer[Any]] = {}
        self.publishers: dict[str, AsyncPublisher[Any]] = {}
        self.subscribers: dict[str, AsyncSubscriber[Any]] = {}
        self._node = node
        self._handler_of = handler_of
        """The name of the handler that takes from a consumer or subscriber, if one does."""

    def __iter__(self) -> Iterator[Any]:
        return iter(
            [
                *self.producers.values(),
                *self.consumers.values(),
                *self.publishers.values(),
                *self.subscribers.values(),
            ]
        )

    def changed(self) -> None:
        """Wake all calls that wait at a handle."""
        for handle in self:
            handle.changed()

    def have_ledger(self) -> bool:
        """Whether some consumer has one."""
        return any(consumer.ledger_store is not None for consumer in list(self.consumers.values()))

    # Making

    def producer(self, asked: ProducerOptions) -> AsyncProducer[Any]:
        """As `AsyncNode.producer`."""
        node, options = self._node, asked.in_node(self._node.settings)

        def make() -> AsyncProducer[Any]:
            handle: AsyncProducer[Any] = AsyncProducer(node, options, self.open_late, self.leave)
            disk = node.disk
            if node.is_running and disk is not None:
                if handle.spooled and self._is_to_open(disk, handle) and not node.spares_loop:
                    self._add_store(disk, handle)
                elif not handle.spooled and handle.queue in disk.stores:
                    raise ConfigError(f"the spool keeps queue {handle.queue!r}; do not give spool=False for it")
            return handle

        with later(), node.life_lock:
            handle = self._only_locked(self.producers, options, make, None)
            if handle.closing:
                handle.reopen()
        return handle

    def _is_to_open(self, disk: Disk, handle: AsyncProducer[Any]) -> bool:
        """Whether the store of a new producer can be opened by this thread now; one that is there stays."""
        with self._node.pump.lock:
            store = disk.stores.get(handle.queue)
            if store is not None:
                store.retiring = None
            return store is None and handle.queue not in disk.removing

    async def leave(self, handle: AsyncProducer[Any], gate: Gate) -> bool:
        """A producer is closed, and nothing that it accepted is in memory only: its name is free.

        Returns False if there is something after all, as it was asked for, sent to and closed again meanwhile.
        """
        node, queue, letters = self._node, handle.queue, 0
        call: Offloaded[None] | None = None
        with later(), node.life_lock:
            if self.producers.get(queue) is not handle or not handle.closing:
                return True
            if node.is_running and handle.opened and not handle.is_done():
                return False
            del self.producers[queue]
            if not node.is_running or not handle.opened:
                return True
            with node.pump.lock:
                node.pump.detach(cast("Any", handle))
                disk, store = node.disk, node.disk.stores.get(queue) if node.disk is not None else None
                if disk is not None and store is not None:
                    call = self._to_retire(disk, store, gate)
                else:
                    letters = len(handle.end.letters())
                    node.engine.close_producer(queue, clock())
            node.pump.wake()
        if letters:
            left = counted(letters, "dead letter")
            _log.warning("queue %r: closed with %s, which no spool keeps", queue, left)
        if call is not None:
            ended = call
            await wait_until(
                node.waiting, gate, lambda: ended.is_over or node.is_closed or None, None, lambda: f"closing {queue!r}"
            )
        return True

    def _to_retire(self, disk: Disk, store: Store, gate: Gate) -> Offloaded[None]:
        node = self._node

        def forget() -> None:
            node.engine.close_producer(store.queue, clock())

        def over(call: Offloaded[None]) -> None:
            if call.error is not None:
                _log.warning("queue %r: what is settled stays in the spool: %s", store.queue, call.error)
            gate.open()
            node.pump.wake()

        store.retiring = forget
        call = Offloaded(lambda: disk.retire(store), over)
        disk.store(call)
        return call

    def consumer(self, asked: ConsumerOptions, handler: str | None = None) -> AsyncConsumer[Any]:
        """As `AsyncNode.consumer`; or for the handler of that name."""
        node, options = self._node, asked.in_node(self._node.settings)

        def make() -> AsyncConsumer[Any]:
            return AsyncConsumer(node, options, self.open_late, self._ledger_store)

        with later(), node.life_lock:
            handle = self._only_locked(self.consumers, options, make, handler)
            handle.reopen()
        return handle

    def publisher(self, options: PublisherOptions) -> AsyncPublisher[Any]:
        """As `AsyncNode.publisher`."""
        return self._only(self.publishers, options, lambda: AsyncPublisher(self._node, options, self.publisher))

    def subscriber(self, options: SubscriberOptions, handler: str | None = None) -> AsyncSubscriber[Any]:
        """As `AsyncNode.subscriber`; or for the handler of that name."""
        return self._only(
            self.subscribers, options, lambda: AsyncSubscriber(self._node, options, self.forget_subscriber), handler
        )

    def _only(
        self, handles: dict[str, H], options: HandleOptions, make: Callable[[], H], handler: str | None = None
    ) -> H:
        """The handle of that name; if there is none, what `make` returns, which starts if the node runs.

        Raises:
            NodeClosed, ForkedNode: There are no new ones any more.
            ConfigError: It was made with other options, it is the `handler`'s of that name or shall be and has another
                taker, or there are too many.
        """
        with later(), self._node.life_lock:
            return self._only_locked(handles, options, make, handler)

    def _only_locked(
        self, handles: dict[str, H], options: HandleOptions, make: Callable[[], H], handler: str | None
    ) -> H:
        self._refuse_if_over()
        kind, name = options.kind, options.name
        found: Any = handles.get(name)
        if found is None:
            if len(handles) >= NAMES_MAX and kind == "consumer":
                self._forget_closed()
            if len(handles) >= NAMES_MAX:  # peers would refuse the frame that names them all
                raise ConfigError(
                    f"this node has {NAMES_MAX:,} {kind}s, the most there may be; let several share a name, "
                    f"with what tells them apart in the body, or use another node"
                )
            found = handles[name] = make()
            if not self._opens_late(found):
                self._start(found)
        else:
            before = self._handler_of(found)
            if (before or handler) and found.is_open:
                raise _shared(kind, name, before, handler)
            _check_same(options, found.options)
        return found  # type: ignore[no-any-return]

    def _forget_closed(self) -> None:
        """Free the names of consumers that are closed, and of which nothing is here or can come again."""
        node = self._node
        for queue, handle in list(self.consumers.items()):
            if handle.is_open or handle.ledger_store is not None or self._handler_of(handle):
                continue
            if handle.opened:
                if not node.is_running:
                    continue
                with node.pump.lock:
                    if not node.engine.consumers.forget(queue, clock()):
                        continue
                    node.pump.detach(handle)
            del self.consumers[queue]
            handle.forgotten = True

    def _refuse_if_over(self) -> None:
        life = self._node.life
        if life is Life.CLOSED or (life is Life.CLOSING and not self._node.is_handler()):
            raise self._node.refusal()
        if life is Life.FORKED:
            raise ForkedNode

    def _start(self, handle: Any) -> None:
        node = self._node
        if node.is_running:
            with node.pump.lock:
                handle.start(node.engine, clock())
                node.pump.attach(handle)
            node.pump.wake_soon()

    def forget_subscriber(self, handle: AsyncSubscriber[Any]) -> None:
        """A subscriber was closed."""
        node = self._node
        with node.life_lock:
            if self.subscribers.get(handle.pattern) is handle:
                del self.subscribers[handle.pattern]
                if node.is_running:
                    with node.pump.lock:
                        node.engine.close_subscriber(handle.pattern, clock())
                        node.pump.detach(handle)
                    node.pump.wake()

    # Files of handles that are made while the node runs

    def _opens_late(self, handle: Any) -> bool:
        """Whether the node runs, and the file of the handle is not open."""
        disk = self._node.disk
        if isinstance(handle, AsyncProducer):
            return self._node.is_running and disk is not None and handle.spooled and handle.queue not in disk.stores
        if isinstance(handle, AsyncConsumer):
            return self._node.is_running and handle.ledger_store is not None and not handle.ledger_store.is_open
        return False

    async def open_late(
        self, handle: AsyncProducer[Any] | AsyncConsumer[Any], gate: Gate, waiting: Waiting | None = None
    ) -> None:
        """Open the file of a handle that was made while the node ran, and then the handle; `gate` is its own.

        Raises:
            SpoolError: It cannot be opened; the next call tries again.
            NodeClosed: The node is closed by now.
        """
        node = self._node
        if handle.late is None:
            with node.life_lock:
                node.ensure(closing=True)  # else nobody would close it again
                if handle.late is None and not handle.opened:
                    handle.late = self._begin_to_open(handle, gate)
        late = handle.late
        if late is None:
            return

        def attempt() -> bool | None:
            node.ensure(closing=True)
            return late.is_over or None

        await wait_until(
            waiting or node.waiting, gate, attempt, None, lambda: f"opening what {handle.queue!r} keeps on disk"
        )
        with node.life_lock:
            if handle.late is late:
                handle.late = None
                if late.error is not None:
                    raise late.error
                self._start(handle)

    def _begin_to_open(self, handle: AsyncProducer[Any] | AsyncConsumer[Any], gate: Gate) -> Offloaded[None]:
        """Have a handle's file opened, by the disk's thread, or by one of its own."""
        if isinstance(handle, AsyncProducer):
            disk, producer = self._node.disk, handle
            assert disk is not None
            call = Offloaded(lambda: self._add_store(disk, producer), lambda _: gate.open())
            disk.store(call)
            return call
        assert handle.ledger_store is not None
        call = Offloaded(handle.ledger_store.open, lambda _: gate.open())
        thread = threading.Thread(target=call.store, name=f"peerfabric-{self._node.settings.name}-ledger")
        thread.start()  # noted when it runs, as close() waits for it
        handle.opening = thread
        return call

    def _add_store(self, disk: Disk, handle: AsyncProducer[Any]) -> None:
        """Open the store of a new producer."""
        node = self._node
        store = open_store(disk.spool, handle.queue, bool(handle.options.fsync))
        with node.pump.lock:
            following = node.engine.producers.left_off.of(handle.queue)
        if following > 1:
            store.skip(following)
        with node.pump.lock:
            node.engine.producers.durable = True
            end = node.engine.open_producer(
                handle.queue,
                handle.codec.number,
                handle.options.max_attempts,
                handle.options.buffer_bytes,
                clock(),
                store.recovered(),
            )
            store.end = cast("DurableQueue", end)
            disk.stores[handle.queue] = store

    def _ledger_store(self, options: ConsumerOptions) -> LedgerStore | None:
        """The ledger of a new consumer, if it has one: open if the node runs and spares no event loop."""
        path = options.ledger
        if path is None:
            return None
        for other in self.consumers.values():
            if other.ledger_store is not None and other.ledger_store.path == path:
                raise ConfigError(f"{path} is the ledger of queue {other.queue!r}; give each queue a ledger of its own")
        from peerfabric.nodes.storage.ledger_store import LedgerStore  # with a ledger only

        ledger_store = LedgerStore(str(path), options.name, fsync=bool(options.fsync))
        if self._node.is_running and not self._node.spares_loop:
            ledger_store.open()
        return ledger_store


def _check_same(asked: HandleOptions, before: HandleOptions) -> None:
    """Refuse a second handle of a name with other options than the first one was asked for.

    Raises:
        ConfigError: It says which.
    """
    differences = [
        f"{field}={_said(was)}, not {_said(now)}"
        for field in asked.__struct_fields__
        if (now := getattr(asked, field)) != (was := getattr(before, field))
    ]
    if differences:
        raise ConfigError(
            f"{asked.kind} {asked.name!r} exists in this node with {'; with '.join(differences)}; "
            f"a name has one handle: ask for the same, or use a node of its own"
        )


def _shared(kind: str, name: str, before: str | None, handler: str | None) -> ConfigError:
    """Each message goes to one taker: a handler, and another one or the program, would each get some of them."""
    if before is not None:
        return ConfigError(
            f"{kind} {name!r} of this node is that of the handler {before}, and each message goes to one taker; "
            f"take in that handler, with concurrency= for more at once, or use a node of its own"
        )
    return ConfigError(
        f"{kind} {name!r} exists in this node, and each message goes to one taker; "
        f"close() it before the handler {handler} is made, or use a node of its own"
    )


def _said(value: object) -> str:
    """A value as it was written; of two types with one name the module tells them apart."""
    if not isinstance(value, type):
        return repr(value)
    return value.__qualname__ if value.__module__ == "builtins" else f"{value.__module__}.{value.__qualname__}"
