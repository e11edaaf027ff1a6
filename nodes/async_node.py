"""AsyncNode: a process's membership in the fabric, for asyncio programs. `Node` is made of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import re
import secrets
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from msgspec.structs import replace

from peerfabric.codec import Codec
from peerfabric.discovery.backends import build_backends, check_choice
from peerfabric.discovery.host import host_id
from peerfabric.engine import Engine
from peerfabric.envelope import HEADER_BYTES_MAX, Address
from peerfabric.errors import (
    ConfigError,
    ForkedNode,
    NodeClosed,
    SpoolError,
    TimedOut,
    Undelivered,
    WouldDeadlock,
    WrongLoop,
)
from peerfabric.names import check_name, check_pattern
from peerfabric.nodes import process
from peerfabric.nodes.async_consumer import AsyncConsumer
from peerfabric.nodes.async_producer import AsyncProducer, OnFull
from peerfabric.nodes.async_topics import AsyncPublisher, AsyncSubscriber
from peerfabric.nodes.beside import Errand, beside
from peerfabric.nodes.disk import Disk
from peerfabric.nodes.fronts import ASYNC_WITH, refusing
from peerfabric.nodes.handlers import Handler
from peerfabric.nodes.in_hand import in_hand
from peerfabric.nodes.keeper import Keeper
from peerfabric.nodes.listening import endpoints
from peerfabric.nodes.membership import Membership
from peerfabric.nodes.message import DeadMessage, Message, Update
from peerfabric.nodes.opened import BUFFER_BYTES, MAX_ATTEMPTS, Opened, epoch_counter, open_store
from peerfabric.nodes.pump import Pump
from peerfabric.nodes.sockets import Sockets
from peerfabric.nodes.waiting import Blocking, Gate, Suspending, Waiting, clock, complete, in_event_loop, wait_until
from peerfabric.options import MiB, Options
from peerfabric.stats import DeadLetter, PeerView, QueueAccount, Statistics

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

FABRIC_VARIABLE: Final = "PEERFABRIC_FABRIC"
PARTING_MAX: Final = 1.5
DISCOVERY_TIME: Final = 1.0
"""Seconds after the start in which consumers may still turn up; a spool that nobody reads is not waited for longer."""

_log = logging.getLogger("peerfabric")
_ANYTHING: Final[Codec[Any]] = Codec(Any, 2**31)
"""For letters of an earlier life whose type nobody has named in this one."""


class Life(Enum):
    """Where a node stands between construction and close."""

    NEW = "new"
    RUNNING = "running"
    CLOSING = "closing"
    CLOSED = "closed"
    FORKED = "forked"


class AsyncNode:
    """A node of the fabric, embedded in this process.

    Construction opens nothing; `async with`, `run()` or the first call that is awaited starts it, and from then on it
    belongs to that event loop. Handles are the one of their name; they and the node may be used from any task of the
    loop, which is never kept waiting for a disk.

    Args:
        name: A label for people; need not be unique.
        fabric: Only nodes of one fabric find each other. None: `PEERFABRIC_FABRIC`, or "default".
        listen: "auto", or an endpoint on this machine such as "tcp://127.0.0.1:7700" or "tcp://127.0.0.1:*".
        peers: Endpoints of nodes to talk to, for when discovery cannot find them.
        discovery: "auto", or the backends to use out of "registry", "static", "mdns" and "exchange".
        options: Limits and periods.
        spool: A folder of this node alone, where producers keep their messages until a consumer acked them.
        fsync: What is in the spool survives a loss of power, too, and not only the death of this process.

    Raises:
        ConfigError: One of these cannot work. A port in use, and a spool that cannot be opened, are found when the
            node starts.
    """

    waiting: Waiting = Suspending()

    def __init__(
        self,
        name: str | None = None,
        *,
        fabric: str | None = None,
        listen: str = "auto",
        peers: Sequence[str] = (),
        discovery: str | Sequence[str] = "auto",
        options: Options | None = None,
        spool: str | os.PathLike[str] | None = None,
        fsync: bool = False,
    ) -> None:
        if isinstance(peers, str):
            raise ConfigError(f"peers={peers!r} is one string; give a list of endpoints")
        self.name = check_name("node", name) if name is not None else _default_name()
        self.fabric = check_name("fabric", fabric or os.environ.get(FABRIC_VARIABLE) or "default")
        self.options = options if options is not None else Options()
        if fsync and spool is None:
            raise ConfigError("fsync=True needs a spool to sync; give spool=PATH, a folder of this node alone")
        if spool is not None and not os.fspath(spool):
            raise ConfigError("spool='' is no folder; give a path, or None for no spool")
        self.spool = os.path.abspath(spool) if spool is not None else None
        self.fsync = fsync
        self.disk: Disk | None = None
        self._started_at = 0.0
        self._listen = listen
        self._peers = tuple(peers)
        self._discovery = discovery
        check_choice(discovery, self._peers)
        if listen != "auto":
            endpoints(listen, self.fabric, "", tcp_too=False)
        self.pump: Pump = None  # type: ignore[assignment]  # until it starts
        self.engine: Engine = None  # type: ignore[assignment]
        self._life = Life.NEW
        self._life_lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._wanted = 0
        """Calls that wait for that start."""
        self._producers: dict[str, AsyncProducer[Any]] = {}
        self._consumers: dict[str, AsyncConsumer[Any]] = {}
        self._publishers: dict[str, AsyncPublisher[Any]] = {}
        self._subscribers: dict[str, AsyncSubscriber[Any]] = {}
        self._handlers: list[tuple[Handler, Callable[..., Awaitable[Any]]]] = []
        self._membership: Membership | None = None
        self._stopped = Gate()
        self._final: Statistics | None = None

    # Life

    @property
    def is_running(self) -> bool:
        """Whether the pump is there; also while closing."""
        return self._life in (Life.RUNNING, Life.CLOSING)

    @property
    def handing_out(self) -> bool:
        """Whether consumers and subscribers may take."""
        return self._life in (Life.RUNNING, Life.CLOSING, Life.NEW)

    @property
    def is_closed(self) -> bool:
        return self._life is Life.CLOSED

    def ensure(self, *, closing: bool = False) -> None:
        """Start the node if it is new, and refuse what cannot be.

        Raises:
            NodeClosed, ForkedNode, WrongLoop: As they say; with `closing`, and for handlers that finish, a node
                that is closing will do.
        """
        life = self._life
        if life is not Life.RUNNING:
            if life is Life.NEW:
                self.start()
            elif life is Life.FORKED:
                raise ForkedNode
            elif life is Life.CLOSED or not (closing or self._in_handler()):
                raise NodeClosed
        if self._loop is not None and _running_loop() not in (self._loop, None):
            raise WrongLoop

    async def started(self, *, closing: bool = False) -> None:
        """As `ensure`; the part of a start that waits for the disk is done beside the event loop.

        Cancelled, the start is undone, unless another call waits for it, too.
        """
        while self._life is Life.NEW and self._starts_beside():
            if self._starting is None or self._starting.done():
                self._check_loop()
                self._starting = asyncio.get_running_loop().create_task(self._start_beside())
                self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._wanted += 1
            try:
                await asyncio.shield(self._starting)
            finally:
                self._wanted -= 1
        self.ensure(closing=closing)

    def _starts_beside(self) -> bool:
        """Whether starting would keep the event loop waiting for a disk."""
        if not isinstance(self.waiting, Suspending) or not in_event_loop():
            return False
        return self.spool is not None or any(consumer.keeper is not None for consumer in self._consumers.values())

    def _check_loop(self) -> None:
        loop = _running_loop()
        if loop is None:
            raise WrongLoop("an AsyncNode starts in a running event loop; use it in a coroutine, or use Node")
        if self._loop not in (None, loop):
            raise WrongLoop
        self._loop = loop

    async def _start_beside(self) -> None:
        opened = self._to_open()
        name = f"{self.name}-start"

        def read() -> None:
            opened.read(self._producers, self._consumers)

        reading = False
        try:
            while not reading:
                reading = True
                await beside(self.waiting, read, lambda _: opened.close(), name)
                with self._life_lock:
                    if self._life is not Life.NEW:
                        raise NodeClosed
                    if not self._wanted:
                        break  # all calls that wanted it were cancelled
                    reading = opened.has_all(self._producers, self._consumers)  # or handles were made meanwhile
                    if reading:
                        self._open(opened)
                        _log.info("%s started in fabric %s", self.name, self.fabric)
                        return
        except asyncio.CancelledError:
            self._loop = None  # the loop ends, and `beside` closes what it opened
            raise
        except BaseException:
            self._loop = None
            await beside(self.waiting, opened.close, None, name)
            raise
        self._loop = None
        await beside(self.waiting, opened.close, None, name)

    def start(self) -> None:
        """Open sockets, start the I/O thread, tell the world. Does nothing if the node runs.

        Raises:
            EndpointInUse, ConfigError: It cannot listen there; the node stays new.
        """
        with self._life_lock:
            if self._life is not Life.NEW:
                return
            if isinstance(self.waiting, Suspending):
                self._check_loop()
            opened = self._to_open()
            try:
                opened.read(self._producers, self._consumers)
                self._open(opened)
            except BaseException:
                self._loop = None
                opened.close()
                raise
        _log.info("%s started in fabric %s", self.name, self.fabric)

    def _to_open(self) -> Opened:
        return Opened(self.spool, self.fsync, self.options.spool_bytes)

    def _open(self, opened: Opened) -> None:
        node_id = secrets.token_hex(8)
        epoch = (epoch_counter() << 20) | secrets.randbits(20)
        if opened.spool is not None:
            node_id, epoch = opened.spool.node_id, opened.spool.epoch
        try:
            self._open_with(node_id, epoch, opened)
        except BaseException:
            self.disk = None
            raise

    def _open_with(self, node_id: str, epoch: int, opened: Opened) -> None:
        frame_bytes_max = max(self.options.message_bytes_max + 1024, HEADER_BYTES_MAX)
        sockets = Sockets(frame_bytes_max=frame_bytes_max, peers_max=self.options.peers_max)
        try:
            tcp_too = self._discovery != "auto" and "mdns" in self._discovery
            inbox, outbox = sockets.bind(*endpoints(self._listen, self.fabric, node_id, tcp_too=tcp_too))
            rng = random.Random()
            address = Address(node_id, epoch, self.name, host_id(), inbox, outbox)
            now = self._started_at = clock()
            self.engine = Engine(address, self.fabric, self.options, rng, now)
            if opened.spool is not None:
                self.disk = Disk(opened.spool, self.engine.producers, self.name)
                opened.resume(self.disk, self.engine, self._producers, now)
            backends = build_backends(
                fabric=self.fabric, discovery=self._discovery, peers=self._peers, rng=random.Random()
            )
        except BaseException:
            sockets.close()
            raise
        self.pump = Pump(self.engine, sockets, self.name)
        if self.disk is not None:
            self.disk.pump, self.pump.disk = self.pump, self.disk
        self._life = Life.RUNNING
        process.remember(self)
        with self.pump.lock:
            for handle in self._handles():
                handle.start(self.engine, now)
                self.pump.attach(handle)
        self.pump.start()
        if self.disk is not None:
            self.disk.start()
        self._membership = Membership(address, self.fabric, self.options.peers_max, self.engine, self.pump, backends)
        self._membership.join()
        for handler, take in self._handlers:
            handler.start(self, take)

    async def open_late(self, handle: Any, gate: Gate, waiting: Waiting | None = None) -> None:
        """Open the file of a handle that was made while the node ran, and then the handle; `gate` is its own.

        Raises:
            SpoolError: It cannot be opened; the next call tries again.
        """
        if handle.late is None:
            with self._life_lock:
                if handle.late is None and not handle.opened:
                    handle.late = self._opening(handle, gate)
        late: Errand | None = handle.late
        if late is None:
            return

        def attempt() -> bool | None:
            self.ensure(closing=True)
            return late.is_over or None

        await wait_until(
            waiting or self.waiting, gate, attempt, None, lambda: f"opening what {handle.queue!r} keeps on disk"
        )
        with self._life_lock:
            if handle.late is late and late is not None:
                handle.late = None
                if late.error is not None:
                    raise late.error
                self._start_handle(handle)

    def _opening(self, handle: Any, gate: Gate) -> Errand:
        """Begin to open a handle's file, by the disk's thread, or by one of its own."""
        if isinstance(handle, AsyncProducer):
            assert self.disk is not None
            disk = self.disk
            errand = Errand(lambda: self._add_store(disk, handle), lambda _: gate.open())
            disk.store(errand)
            return errand
        keeper: Keeper = handle.keeper
        errand = Errand(keeper.open, lambda _: gate.open())
        handle.opening = threading.Thread(target=errand.store, name=f"peerfabric-{self.name}-ledger")
        handle.opening.start()
        return errand

    def _add_store(self, disk: Disk, handle: AsyncProducer[Any]) -> None:
        """Open the store of a new producer of a node that runs."""
        store = open_store(disk.spool, handle.queue, handle.fsync)
        with self.pump.lock:
            self.engine.producers.durable = True
            store.end = self.engine.open_producer(
                handle.queue,
                handle.codec.number,
                handle.max_attempts,
                handle.buffer_bytes,
                clock(),
                store.recovered(),
            )
            disk.stores[handle.queue] = store

    def _handles(self) -> Iterator[Any]:
        return itertools.chain(
            list(self._producers.values()),
            list(self._consumers.values()),
            list(self._publishers.values()),
            list(self._subscribers.values()),
        )

    # Handles

    def producer(
        self,
        queue: str,
        body_type: TypeForm[T],
        *,
        on_full: OnFull = "block",
        buffer_bytes: int = BUFFER_BYTES,
        max_attempts: int = MAX_ATTEMPTS,
        spool: bool | None = None,
        fsync: bool | None = None,
    ) -> AsyncProducer[T]:
        """The handle for sending bodies of `body_type` to `queue`.

        Args:
            on_full: When `buffer_bytes` are accepted and not settled: "block", "error", "drop_oldest" (of those that
                wait) or "drop_newest" (the one being sent). With a spool, all messages are stored, and it says what
                to do when that is full: "block" or "error"; or "spool": what memory has room for while somebody
                consumes is not stored.
            buffer_bytes: Bodies and 64 bytes each; what is in flight counts.
            max_attempts: Deliveries that may fail before a message is a dead letter.
            spool: Whether its messages are kept in the node's spool; None: if the node has one.
            fsync: Whether they survive a loss of power there; None: as the node says.

        Raises:
            ConfigError: Something is wrong with the options, or the queue has a handle with others.
        """
        check_name("queue", queue)
        spooled = self.spool is not None if spool is None else spool
        synced = spooled and (self.fsync if fsync is None else fsync)
        if spooled and self.spool is None:
            raise ConfigError("spool=True needs the node's spool; give Node(spool=PATH)")
        if fsync and not spooled:
            raise ConfigError("fsync=True needs a spool to sync; give Node(spool=PATH)")
        if synced and not self.fsync:
            raise ConfigError("fsync=True of a producer needs a spool that syncs; give Node(spool=PATH, fsync=True)")
        if spooled and self.fsync and not synced:
            raise ConfigError("a spool syncs for all its producers or for none; give this one a node of its own")
        if on_full not in ("block", "error", "drop_oldest", "drop_newest", "spool"):
            raise ConfigError(f"on_full={on_full!r}; use 'block', 'error', 'drop_oldest', 'drop_newest' or 'spool'")
        if on_full == "spool" and not spooled:
            raise ConfigError("on_full='spool' needs a spool; give Node(spool=PATH)")
        if spooled and on_full.startswith("drop"):
            raise ConfigError(
                f"on_full={on_full!r} drops what a spool shall keep; use 'block' or 'error', or spool=False"
            )
        if buffer_bytes < 1 or max_attempts < 1:
            raise ConfigError("buffer_bytes and max_attempts must be positive; the defaults are 64 MiB and 5")
        with self._life_lock:
            self._refuse_if_over()
            found = self._producers.get(queue)
            if found is not None:
                asked = {
                    "body_type": body_type,
                    "on_full": on_full,
                    "buffer_bytes": buffer_bytes,
                    "max_attempts": max_attempts,
                    "spool": spooled,
                    "fsync": synced,
                }
                have = (
                    found.codec.body_type,
                    found.on_full,
                    found.buffer_bytes,
                    found.max_attempts,
                    found.spooled,
                    found.fsync,
                )
                _same("producer", queue, asked, have)
                return found
            codec: Codec[T] = Codec(body_type, self.options.message_bytes_max)
            handle = AsyncProducer(self, queue, codec, on_full, buffer_bytes, max_attempts, spooled, synced)
            late = False
            if self.is_running and self.disk is not None:
                if spooled and queue not in self.disk.stores:
                    late = self._must_not_block()
                    if not late:
                        self._add_store(self.disk, handle)
                elif not spooled and queue in self.disk.stores:
                    raise ConfigError(f"the spool keeps queue {queue!r}; do not give spool=False for it")
            self._producers[queue] = handle
            if not late:
                self._start_handle(handle)
            return handle

    def _must_not_block(self) -> bool:
        """Whether the caller's thread runs our event loop."""
        return isinstance(self.waiting, Suspending) and in_event_loop()

    def consumer(
        self,
        queue: str,
        body_type: TypeForm[T],
        *,
        lease: float = 300.0,
        ledger: str | os.PathLike[str] | None = None,
    ) -> AsyncConsumer[T]:
        """The handle for taking bodies of `body_type` from `queue`.

        Args:
            lease: Seconds that code may keep a message before it goes to another consumer; for code that hangs.
            ledger: A file of this consumer alone, in which it remembers over its own restart what it has processed,
                so that it does not process it again. Made if it is not there; its folder has to be there.

        Raises:
            ConfigError: Something is wrong with the options, or the queue has a handle with others.
            SpoolError: The ledger cannot be used; in a node that runs not yet, its start raises this. In a node that
                runs, the first call that is awaited.
        """
        check_name("queue", queue)
        if not 0 < lease < 2**31:
            raise ConfigError(f"lease={lease!r} is not a positive number of seconds; the default is 300")
        path = os.path.abspath(ledger) if ledger is not None else None
        with self._life_lock:
            self._refuse_if_over()
            found = self._consumers.get(queue)
            if found is not None:
                have = found.keeper.path if found.keeper is not None else None
                asked = {"body_type": body_type, "lease": lease, "ledger": path}
                _same("consumer", queue, asked, (found.codec.body_type, found.lease, have))
                found.reopen()
                return found
            keeper = self._keeper(queue, path) if path is not None else None
            codec: Codec[T] = Codec(body_type, self.options.message_bytes_max)
            handle = AsyncConsumer(self, queue, codec, lease, keeper)
            self._consumers[queue] = handle
            if keeper is None or not self.is_running or keeper.is_open:
                self._start_handle(handle)
            return handle

    def _keeper(self, queue: str, path: str) -> Keeper:
        """The keeper of a new consumer's ledger, which is open if the node runs."""
        for other in self._consumers.values():
            if other.keeper is not None and other.keeper.path == path:
                raise ConfigError(f"{path} is the ledger of queue {other.queue!r}; give each queue a ledger of its own")
        keeper = Keeper(path, queue, fsync=self.fsync)
        if self.is_running and not self._must_not_block():
            keeper.open()
        return keeper

    def publisher(self, topic: str, body_type: TypeForm[T]) -> AsyncPublisher[T]:
        """The handle for publishing bodies of `body_type` on `topic`.

        Raises:
            ConfigError: The name is wrong, or the topic has a handle with another type.
        """
        check_name("topic", topic)
        with self._life_lock:
            self._refuse_if_over()
            found = self._publishers.get(topic)
            if found is not None:
                _same("publisher", topic, {"body_type": body_type}, (found.codec.body_type,))
                return found
            handle = AsyncPublisher(self, topic, Codec[T](body_type, self.options.message_bytes_max))
            self._publishers[topic] = handle
            self._start_handle(handle)
            return handle

    def subscriber(self, pattern: str, body_type: TypeForm[T], *, buffer_bytes: int = 16 * MiB) -> AsyncSubscriber[T]:
        """The handle for what is published on the topics that `pattern` selects (`*` one part, `>` the rest).

        Args:
            buffer_bytes: What may wait for this program; when it is full the oldest go, and count as missed.

        Raises:
            ConfigError: The pattern is wrong, or it has a handle with other options.
        """
        check_pattern(pattern)
        if buffer_bytes < 1:
            raise ConfigError("buffer_bytes must be positive; the default is 16 MiB")
        with self._life_lock:
            self._refuse_if_over()
            found = self._subscribers.get(pattern)
            if found is not None:
                asked = {"body_type": body_type, "buffer_bytes": buffer_bytes}
                _same("subscriber", pattern, asked, (found.codec.body_type, found.buffer_bytes))
                return found
            handle = AsyncSubscriber(self, pattern, Codec[T](body_type, self.options.message_bytes_max), buffer_bytes)
            self._subscribers[pattern] = handle
            self._start_handle(handle)
            return handle

    def forget_subscriber(self, handle: AsyncSubscriber[Any]) -> None:
        """A subscriber was closed."""
        with self._life_lock:
            if self._subscribers.get(handle.pattern) is handle:
                del self._subscribers[handle.pattern]
                if self.is_running:
                    with self.pump.lock:
                        self.engine.close_subscriber(handle.pattern, clock())
                        self.pump.detach(handle)
                    self.pump.wake()

    def _start_handle(self, handle: Any) -> None:
        if self.is_running:
            with self.pump.lock:
                handle.start(self.engine, clock())
                self.pump.attach(handle)
            self.pump.wake()

    def _refuse_if_over(self) -> None:
        if self._life is Life.CLOSED or (self._life is Life.CLOSING and not self._in_handler()):
            raise NodeClosed
        if self._life is Life.FORKED:
            raise ForkedNode

    # Handlers

    def on_message(
        self,
        queue: str,
        *,
        concurrency: int = 1,
        lease: float = 300.0,
        ledger: str | os.PathLike[str] | None = None,
    ) -> Callable[[F], F]:
        """Call the decorated function with each body from `queue`; its first parameter's annotation is the type.

        Returning acks, `raise Retry(delay=…)` asks for another attempt, `raise Reject("why")` gives up, another
        exception nacks. A second parameter annotated `Message` receives the message. A `def` runs in threads of
        its own, an `async def` as tasks, `concurrency` of them. `lease` and `ledger` as of `consumer`.
        """

        def decorate(function: F) -> F:
            names = sys._getframe(1).f_locals
            may_await = isinstance(self.waiting, Suspending)
            handler = Handler(function, concurrency, may_await=may_await, kind=Message, names=names)
            consumer = self.consumer(queue, handler.body_type, lease=lease, ledger=ledger)
            consumer.declare_takers(concurrency)
            self._add_handler(handler, consumer.next_message)
            return function

        return decorate

    def on_topic(self, pattern: str) -> Callable[[F], F]:
        """Call the decorated function with each body published on what `pattern` selects, one at a time.

        A second parameter annotated `Update` receives the update. An exception is logged.
        """

        def decorate(function: F) -> F:
            names = sys._getframe(1).f_locals
            may_await = isinstance(self.waiting, Suspending)
            handler = Handler(function, 1, may_await=may_await, kind=Update, names=names)
            subscriber = self.subscriber(pattern, handler.body_type)
            self._add_handler(handler, subscriber.next_update)
            return function

        return decorate

    def _in_handler(self) -> bool:
        return any(handler.is_current() for handler, _ in self._handlers)

    def _add_handler(self, handler: Handler, take: Callable[..., Awaitable[Any]]) -> None:
        with self._life_lock:
            self._handlers.append((handler, take))
            if self._life is Life.RUNNING:
                handler.start(self, take)

    async def run(self) -> None:
        """Start, work until SIGINT or SIGTERM comes or the node is closed, drain, and close."""
        await self.started()
        await process.until_signal(
            self.waiting, self._stopped, lambda: not self.is_running, f"{self.name} runs until SIGINT or SIGTERM"
        )
        await self.close(self.options.drain_timeout)

    # Reports

    def peers(self) -> list[PeerView]:
        """Every node that this one knows of.

        An `AsyncNode` with a spool or a ledger is not started by this.
        """
        if self._life is Life.NEW and self._starts_beside():
            return []
        self.ensure(closing=True)
        with self.pump.lock:
            return self.engine.view()

    def statistics(self) -> Statistics:
        """Counters and depths, in which every producer's accounting closes; of a closed node, its last ones."""
        if self._final is not None:
            return self._final
        if self._life is Life.NEW and self._starts_beside():
            return Statistics(node_id="", name=self.name)  # this does not start it
        self.ensure(closing=True)
        producers = [producer for producer in list(self._producers.values()) if producer.opened]
        handed_over = {producer.queue: producer.last for producer in producers}
        with self.pump.lock:
            found = self.engine.statistics()
            behind = {queue: last + 1 - self._producers[queue].end.next for queue, last in handed_over.items()}
        accounts = tuple(_with_handed_over(account, behind.get(account.queue, 0)) for account in found.producers)
        counters = {**found.counters, "foreign messages": self.pump.foreign} if self.pump.foreign else found.counters
        return replace(found, producers=accounts, counters=counters)

    async def dead_letters(self, queue: str) -> list[DeadMessage[Any]]:
        """The messages of `queue` that this node produced and that were given up, oldest first."""
        await self.started(closing=True)
        producer = self._producers.get(check_name("queue", queue))
        with self.pump.lock:
            end = self.engine.producers.by_queue.get(queue)
            letters = end.letters() if end is not None else []
        return [self._dead(producer, letter) for letter in letters]

    def _dead(self, producer: AsyncProducer[Any] | None, letter: DeadLetter) -> DeadMessage[Any]:
        codec = producer.codec if producer is not None else _ANYTHING

        def with_producer(call: Callable[[AsyncProducer[Any]], bool]) -> bool:
            self.ensure(closing=True)
            found = self._producers.get(letter.queue)
            if found is None:
                raise ConfigError(
                    f"this letter is of an earlier life; make node.producer({letter.queue!r}, TYPE) first"
                )
            return call(found)

        return DeadMessage(
            id=letter.id,
            queue=letter.queue,
            reason=letter.reason,
            error=letter.error,
            attempts=letter.attempts,
            headers=letter.headers or {},
            sent_at=letter.sent_ms / 1000,
            body=codec.decode_stored(letter.data, letter.codec),
            retry=lambda: with_producer(lambda found: found.retry_letter(letter.id)),
            drop=lambda: with_producer(lambda found: found.drop_letter(letter.id)),
        )

    # Closing

    async def close(self, timeout: float | None = 5.0) -> None:
        """Refuse new work, settle what was accepted, say goodbye, and close; a second call does nothing.

        Handlers that run finish; what was not started goes back to its producers.

        Raises:
            Undelivered: After `timeout` seconds accepted messages were not settled; the node is closed all the same.
        """
        if self._life is Life.FORKED:
            return
        if self._in_handler():
            raise WouldDeadlock(
                "close() was called by a handler, which it would wait for; call it from another thread or task"
            )
        with self._life_lock:
            if self._life is Life.NEW:
                self._life = Life.CLOSED
            if self._life is Life.RUNNING:
                self._life = Life.CLOSING
                begun = True
            else:
                begun = False
        if not begun:
            if self._starting is not None and not self._starting.done():
                await asyncio.wait([self._starting])  # it gives up, and gives back what it opened
            return
        left = (0, 0)
        try:
            left = await self._drain(timeout)
            await self._part()
        finally:
            await self._shut()
        if any(left):
            raise Undelivered(*left)

    async def _drain(self, timeout: float | None) -> tuple[int, int]:
        ends_at = None if timeout is None else clock() + timeout
        await self._await_turns(self._recorded, ends_at)
        with self.pump.lock:
            self._give_back_own()
            self.engine.drain(clock())
        self.pump.wake()
        # Handlers that run may still send what they have made of their message, or it would fail for our sake.
        await self._await_turns(lambda: not any(handler.busy for handler, _ in self._handlers), ends_at)
        await self._await_turns(self._recorded, ends_at)
        for handle in self._handles():
            handle.stop()
        await self._await_turns(self._handed_over, ends_at)
        with self.pump.lock:
            self.engine.topics.finish(clock())
        self.pump.wake()
        await self._await_turns(self._settled, ends_at)
        with self.pump.lock:
            return self.engine.producers.unsettled()

    def _recorded(self) -> bool:
        """Whether what was acked is in the ledgers, and known to its deliveries."""
        return not any(consumer.recording for consumer in self._consumers.values())

    def _handed_over(self) -> bool:
        """Whether the engine has all that was accepted and published."""
        if self.disk is not None and self.disk.has_errands:
            return False
        if any(producer.storing for producer in self._producers.values()):
            return False
        return not any(handle.alerted for handle in self._handles()) and self.pump.has_taken

    def _settled(self) -> bool:
        """Whether what was accepted has become of something; also what is on its way to the engine."""
        if not self._handed_over():
            return False
        with self.pump.lock:
            return self.engine.settled(waits_for_consumers=clock() - self._started_at < DISCOVERY_TIME)

    async def _await_turns(self, condition: Callable[[], bool], ends_at: float | None) -> None:
        """Return when `condition` holds, tried after each turn of the pump, or at `ends_at`."""

        def what() -> str:
            with self.pump.lock:
                waiting, in_flight = self.engine.producers.unsettled()
            return f"closing, with {waiting:,} messages waiting and {in_flight:,} in flight; start a consumer for them"

        left = None if ends_at is None else max(0.0, ends_at - clock())
        try:
            await wait_until(self.waiting, self.pump.turned, lambda: condition() or None, left, what)
        except TimedOut:
            pass

    def _give_back_own(self) -> None:
        """What the closing thread or task took and did not settle, nobody will settle any more."""
        for end, delivery in in_hand():
            given = end.give_back_started(delivery)
            if given:
                _log.warning(
                    "queue %r: %d messages were taken and not settled; they go back. Use `with message as body:`",
                    delivery.queue,
                    given,
                )

    async def _part(self) -> None:
        with self.pump.lock:
            self.engine.say_bye(clock())
        self.pump.wake()
        try:
            await wait_until(
                self.waiting, self.pump.turned, self._parted, PARTING_MAX, lambda: "waiting for peers to say goodbye"
            )
        except TimedOut:
            pass

    def _parted(self) -> bool | None:
        with self.pump.lock:
            return True if self.engine.finished(clock()) else None

    async def _shut(self) -> None:
        with self.pump.lock:
            kept = self.engine.producers.kept_on_disk()
            self.engine.producers.leave()
            self._final = self.engine.statistics()
        if kept:
            _log.info("%s: the spool keeps %d messages for the next start", self.name, kept)
        self._life = Life.CLOSED
        for handle in self._handles():
            handle.stop()
        self._stopped.open()
        try:
            if isinstance(self.waiting, Suspending):
                for handler, _ in self._handlers:
                    await handler.finish()
        finally:
            # Cancelled while this runs beside the loop, it goes on to its end.
            await beside(self.waiting, self._let_go, None, f"{self.name}-close")
        _log.info("%s closed", self.name)

    def _let_go(self) -> None:
        """End all threads and close all files."""
        with ExitStack() as last:  # in reverse order, each also if one before it fails
            for consumer in self._consumers.values():
                last.callback(consumer.close_ledger)
            for handler, _ in self._handlers:
                last.callback(handler.join, 1.0)
            last.callback(process.forget, self)
            last.callback(self.pump.stop)
            last.callback(self._end_disk)
            if self._membership is not None:
                last.callback(self._membership.leave)

    def _end_disk(self) -> None:
        try:
            if self.disk is not None:
                self.disk.stop()
        except SpoolError as error:
            _log.error("%s: the spool was not closed in order: %s", self.name, error)
        finally:
            for producer in self._producers.values():
                producer.disk_ended()

    def drain_at_exit(self) -> None:
        """The program is over, and its event loop if it had one: closing blocks the thread."""
        self.waiting = Blocking()
        self._loop = None
        try:
            complete(self.close(self.options.drain_timeout))
        except Undelivered as undelivered:
            _log.error("%s", undelivered)

    def forked(self) -> None:
        """In a child process: this node belongs to the parent."""
        self._life = Life.FORKED
        self._life_lock = threading.RLock()
        for handle in self._handles():
            handle.forked()
        self.pump.abandon()
        if self.disk is not None:
            self.disk.abandon()

    if not TYPE_CHECKING:
        __enter__ = __exit__ = refusing(ASYNC_WITH)

    async def __aenter__(self) -> Self:
        await self.started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close(self.options.drain_timeout)
        except Undelivered as undelivered:
            if error is None:
                raise
            _log.error("%s", undelivered)

    def __reduce__(self) -> Any:
        raise TypeError("a node cannot be pickled; make one in each process")

    def __repr__(self) -> str:
        return f"<{type(self).__name__.removeprefix('_Blocking')} {self.name} in {self.fabric}: {self._life.value}>"


def _with_handed_over(account: QueueAccount, behind: int) -> QueueAccount:
    """Count also the `behind` messages that were accepted and are on their way to the engine."""
    if behind <= 0:
        return account
    return replace(account, accepted=account.accepted + behind, waiting=account.waiting + behind)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread; None in other threads, where plain calls and `def` handlers come from."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _default_name() -> str:
    program = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(sys.argv[0] if sys.argv else "").removesuffix(".py"))
    return f"{program.strip('-')[:200] or 'node'}-{os.getpid()}"


def _same(kind: str, name: str, asked: dict[str, Any], have: tuple[Any, ...]) -> None:
    """Refuse a second handle of a name with other options than the first one has; `have` is in the order of `asked`."""
    differences = [
        f"{option}={_said(before)}, not {_said(now)}"
        for (option, now), before in zip(asked.items(), have, strict=True)
        if now != before
    ]
    if differences:
        raise ConfigError(
            f"{kind} {name!r} exists in this node with {'; with '.join(differences)}; "
            f"a name has one handle: ask for the same, or use a node of its own"
        )


def _said(value: object) -> str:
    """A value as it was written; of two types with one name the module tells them apart."""
    if not isinstance(value, type):
        return repr(value)
    return value.__qualname__ if value.__module__ == "builtins" else f"{value.__module__}.{value.__qualname__}"
