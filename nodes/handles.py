"""The handles of a node: each name of a queue or topic has one, made with the options that were asked for first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from peerfabric.arguments import LEASE_MAX, option_count, option_seconds
from peerfabric.discovery.remarks import later
from peerfabric.errors import ConfigError, ForkedNode, NodeClosed
from peerfabric.names import check_name, check_pattern
from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.aio.producer import AsyncProducer, OnFull
from peerfabric.nodes.aio.topic import AsyncPublisher, AsyncSubscriber
from peerfabric.nodes.io.waiting import Gate, Waiting, clock, wait_until
from peerfabric.nodes.judging import has_failed
from peerfabric.nodes.life import Life
from peerfabric.nodes.settings import Settings
from peerfabric.nodes.storage.offload import Errand
from peerfabric.nodes.storage.opened import open_store
from peerfabric.wire.body_types import type_name
from peerfabric.wire.codec import Codec
from peerfabric.wire.frames import NAMES_MAX

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from peerfabric.nodes.context import NodeContext
    from peerfabric.nodes.storage.disk_thread import Disk
    from peerfabric.nodes.storage.ledger_store import LedgerStore

T = TypeVar("T")
H = TypeVar("H")

LEASE_MIN: Final = 0.001


class Handles:
    """All handles of one node. Iterated over, it gives those that are there now.

    They are added under the life lock. Who goes through them without it goes through a copy: another thread may add one
    meanwhile, such as a handler that works while the node closes.
    """

    def __init__(self, node: NodeContext) -> None:
        self.producers: dict[str, AsyncProducer[Any]] = {}
        self.consumers: dict[str, AsyncConsumer[Any]] = {}
        self.publishers: dict[str, AsyncPublisher[Any]] = {}
        self.subscribers: dict[str, AsyncSubscriber[Any]] = {}
        self._node = node
        self._asked: dict[Any, dict[str, Any]] = {}
        """The options with which each was made."""

    def __iter__(self) -> Iterator[Any]:
        return iter(
            [
                *self.producers.values(),
                *self.consumers.values(),
                *self.publishers.values(),
                *self.subscribers.values(),
            ]
        )

    def have_ledger(self) -> bool:
        """Whether some consumer has one."""
        return any(consumer.keeper is not None for consumer in list(self.consumers.values()))

    # Making

    def producer(
        self,
        queue: str,
        body_type: TypeForm[T],
        on_full: OnFull,
        buffer_bytes: int,
        max_attempts: int,
        spool: bool | None,
        fsync: bool | None,
    ) -> AsyncProducer[T]:
        """As `AsyncNode.producer`."""
        node = self._node
        _check_order("producer", queue, body_type)
        queue = check_name("queue", queue)
        spooled, synced = _keeping(node.settings, spool, fsync)
        _check_on_full(on_full, spooled)
        buffer_bytes = option_count("buffer_bytes", buffer_bytes, "it must be positive; the default is 64 MiB")
        max_attempts = option_count("max_attempts", max_attempts, "it must be positive; the default is 5")
        asked = {
            "body_type": body_type,
            "on_full": on_full,
            "buffer_bytes": buffer_bytes,
            "max_attempts": max_attempts,
            "spool": spooled,
            "fsync": synced,
        }

        def make() -> AsyncProducer[T]:
            codec: Codec[T] = Codec(body_type, node.settings.options.message_bytes_max)
            handle = AsyncProducer(node, queue, codec, on_full, buffer_bytes, max_attempts, spooled, synced)
            disk = node.disk
            if node.is_running and disk is not None:
                if spooled and queue not in disk.stores and not node.spares_loop:
                    self._add_store(disk, handle)
                elif not spooled and queue in disk.stores:
                    raise ConfigError(f"the spool keeps queue {queue!r}; do not give spool=False for it")
            return handle

        return self._only("producer", self.producers, queue, asked, make)

    def consumer(
        self,
        queue: str,
        body_type: TypeForm[T],
        lease: float,
        ledger: str | os.PathLike[str] | None,
        fsync: bool | None,
        handler: str | None = None,
    ) -> AsyncConsumer[T]:
        """As `AsyncNode.consumer`; or for the handler of that name."""
        node = self._node
        _check_order("consumer", queue, body_type)
        queue = check_name("queue", queue)
        step = "give a positive number of seconds; the default is 300"
        lease = option_seconds("lease", lease, step, least=LEASE_MIN, most=LEASE_MAX)
        if ledger is not None and not (isinstance(ledger, str | os.PathLike) and os.fspath(ledger)):
            raise ConfigError(f"ledger={ledger!r} is no file; give a path, or None for no ledger")
        path = os.path.abspath(ledger) if ledger is not None else None
        if fsync and path is None:
            raise ConfigError("fsync=True needs a ledger to sync; give ledger=PATH, a file of this consumer alone")
        synced = path is not None and (node.settings.fsync if fsync is None else fsync)

        def make() -> AsyncConsumer[T]:
            codec: Codec[T] = Codec(body_type, node.settings.options.message_bytes_max, has_failed)
            keeper = self._keeper(queue, path, synced) if path is not None else None
            return AsyncConsumer(node, queue, codec, lease, keeper)

        asked = {"body_type": body_type, "lease": lease, "ledger": path, "fsync": synced}
        with later(), node.life_lock:
            handle = self._only_locked("consumer", self.consumers, queue, asked, make, handler)
            handle.reopen()
        return handle

    def publisher(self, topic: str, body_type: TypeForm[T]) -> AsyncPublisher[T]:
        """As `AsyncNode.publisher`."""
        node = self._node
        _check_order("publisher", topic, body_type)
        topic = check_name("topic", topic)

        def make() -> AsyncPublisher[T]:
            return AsyncPublisher(node, topic, Codec[T](body_type, node.settings.options.message_bytes_max))

        return self._only("publisher", self.publishers, topic, {"body_type": body_type}, make)

    def subscriber(
        self, pattern: str, body_type: TypeForm[T], buffer_bytes: int, handler: str | None = None
    ) -> AsyncSubscriber[T]:
        """As `AsyncNode.subscriber`; or for the handler of that name."""
        node = self._node
        _check_order("subscriber", pattern, body_type)
        pattern = check_pattern(pattern)
        buffer_bytes = option_count("buffer_bytes", buffer_bytes, "it must be positive; the default is 16 MiB")

        def make() -> AsyncSubscriber[T]:
            codec = Codec[T](body_type, node.settings.options.message_bytes_max, has_failed)
            return AsyncSubscriber(node, pattern, codec, buffer_bytes)

        asked = {"body_type": body_type, "buffer_bytes": buffer_bytes}
        return self._only("subscriber", self.subscribers, pattern, asked, make, handler)

    def _only(
        self,
        kind: str,
        handles: dict[str, Any],
        name: str,
        asked: dict[str, Any],
        make: Callable[[], H],
        handler: str | None = None,
    ) -> H:
        """The handle of that name; if there is none, what `make` returns, which starts if the node runs.

        Raises:
            NodeClosed, ForkedNode: There are no new ones any more.
            ConfigError: It was made with other options than `asked`, it is the `handler`'s of that name or shall be and
                has another taker, or there are too many.
        """
        with later(), self._node.life_lock:
            return self._only_locked(kind, handles, name, asked, make, handler)

    def _only_locked(
        self,
        kind: str,
        handles: dict[str, Any],
        name: str,
        asked: dict[str, Any],
        make: Callable[[], H],
        handler: str | None,
    ) -> H:
        self._refuse_if_over()
        found: Any = handles.get(name)
        if found is None:
            if len(handles) >= NAMES_MAX:  # peers would refuse the frame that names them all
                raise ConfigError(
                    f"this node has {NAMES_MAX:,} {kind}s, the most there may be; let several share a name, "
                    f"with what tells them apart in the body, or use another node"
                )
            found = make()
            self._asked[found], handles[name] = asked, found
            if not self._opens_late(found):
                self._start(found)
        else:
            before = self._node.handlers.of(found)
            if (before or handler) and found.is_open:
                raise _shared(kind, name, before, handler)
            _check_same(kind, name, asked, self._asked[found])
        return found  # type: ignore[no-any-return]

    def _refuse_if_over(self) -> None:
        life = self._node.life
        if life is Life.CLOSED or (life is Life.CLOSING and not self._node.handlers.is_current()):
            raise NodeClosed
        if life is Life.FORKED:
            raise ForkedNode

    def _start(self, handle: Any) -> None:
        node = self._node
        if node.is_running:
            with node.pump.lock:
                handle.start(node.engine, clock())
                node.pump.attach(handle)
            node.pump.wake()

    def forget_subscriber(self, handle: AsyncSubscriber[Any]) -> None:
        """A subscriber was closed."""
        node = self._node
        with node.life_lock:
            if self.subscribers.get(handle.pattern) is handle:
                del self.subscribers[handle.pattern], self._asked[handle]
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
            return self._node.is_running and handle.keeper is not None and not handle.keeper.is_open
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

    def _begin_to_open(self, handle: AsyncProducer[Any] | AsyncConsumer[Any], gate: Gate) -> Errand:
        """Have a handle's file opened, by the disk's thread, or by one of its own."""
        if isinstance(handle, AsyncProducer):
            disk, producer = self._node.disk, handle
            assert disk is not None
            errand = Errand(lambda: self._add_store(disk, producer), lambda _: gate.open())
            disk.store(errand)
            return errand
        assert handle.keeper is not None
        errand = Errand(handle.keeper.open, lambda _: gate.open())
        thread = threading.Thread(target=errand.store, name=f"peerfabric-{self._node.settings.name}-ledger")
        thread.start()  # noted when it runs, as close() waits for it
        handle.opening = thread
        return errand

    def _add_store(self, disk: Disk, handle: AsyncProducer[Any]) -> None:
        """Open the store of a new producer."""
        node = self._node
        store = open_store(disk.spool, handle.queue, handle.fsync)
        with node.pump.lock:
            node.engine.producers.durable = True
            store.end = node.engine.open_producer(
                handle.queue,
                handle.codec.number,
                handle.max_attempts,
                handle.buffer_bytes,
                clock(),
                store.recovered(),
            )
            disk.stores[handle.queue] = store

    def _keeper(self, queue: str, path: str, fsync: bool) -> LedgerStore:
        """The keeper of a new consumer's ledger, which is open if the node runs and spares no event loop."""
        for other in self.consumers.values():
            if other.keeper is not None and other.keeper.path == path:
                raise ConfigError(f"{path} is the ledger of queue {other.queue!r}; give each queue a ledger of its own")
        from peerfabric.nodes.storage.ledger_store import LedgerStore  # with a ledger only

        keeper = LedgerStore(path, queue, fsync=fsync)
        if self._node.is_running and not self._node.spares_loop:
            keeper.open()
        return keeper


def _check_order(call: str, name: object, body_type: object) -> None:
    """Refuse a call whose arguments are in the wrong order.

    Raises:
        ConfigError: With the call as it should be.
    """
    if isinstance(body_type, str) and not isinstance(name, str | bytes):
        raise ConfigError(f"the name comes before the type; write {call}({body_type!r}, {type_name(name)})")


def _keeping(settings: Settings, spool: bool | None, fsync: bool | None) -> tuple[bool, bool]:
    """Whether a producer keeps its messages in the node's spool, and whether they are synced there.

    Raises:
        ConfigError: The node's spool cannot do what is asked for.
    """
    for name, value in (("spool", spool), ("fsync", fsync)):
        if value not in (None, True, False):
            raise ConfigError(
                f"{name}={value!r} of a producer is None, True or False; paths are given as Node(spool=PATH)"
            )
    spooled = settings.spool is not None if spool is None else spool
    synced = spooled and (settings.fsync if fsync is None else fsync)
    if spooled and settings.spool is None:
        raise ConfigError("spool=True needs the node's spool; give Node(spool=PATH)")
    if fsync and not spooled:
        raise ConfigError("fsync=True needs a spool to sync; give Node(spool=PATH)")
    if synced and not settings.fsync:
        raise ConfigError("fsync=True of a producer needs a spool that syncs; give Node(spool=PATH, fsync=True)")
    if spooled and settings.fsync and not synced:
        raise ConfigError("a spool syncs for all its producers or for none; give this one a node of its own")
    return spooled, synced


def _check_on_full(on_full: str, spooled: bool) -> None:
    """Refuse what a producer cannot do when there is no room.

    Raises:
        ConfigError: As it says.
    """
    if on_full not in ("block", "error", "drop_oldest", "drop_newest", "spool"):
        raise ConfigError(f"on_full={on_full!r}; use 'block', 'error', 'drop_oldest', 'drop_newest' or 'spool'")
    if on_full == "spool" and not spooled:
        raise ConfigError("on_full='spool' needs a spool; give Node(spool=PATH)")
    if spooled and on_full.startswith("drop"):
        raise ConfigError(f"on_full={on_full!r} drops what a spool shall keep; use 'block' or 'error', or spool=False")


def _check_same(kind: str, name: str, asked: dict[str, Any], before: dict[str, Any]) -> None:
    """Refuse a second handle of a name with other options than the first one was asked for.

    Raises:
        ConfigError: It says which.
    """
    differences = [
        f"{option}={_said(before[option])}, not {_said(now)}" for option, now in asked.items() if now != before[option]
    ]
    if differences:
        raise ConfigError(
            f"{kind} {name!r} exists in this node with {'; with '.join(differences)}; "
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
