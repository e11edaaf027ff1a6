"""AsyncNode: a process's membership in the fabric, for asyncio programs. `Node` is made of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from peerfabric.errors import IdentityInUse, Undelivered
from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.aio.lifecycle import Lifecycle
from peerfabric.nodes.aio.options import (
    BUFFER_BYTES,
    LEASE,
    MAX_ATTEMPTS,
    UPDATE_BYTES,
    AckAfter,
    ConsumerOptions,
    OnFull,
    ProducerOptions,
    PublisherOptions,
    SubscriberOptions,
)
from peerfabric.nodes.aio.ping import ping
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.nodes.aio.service import AsyncClient, AsyncParts
from peerfabric.nodes.aio.topic import AsyncPublisher, AsyncSubscriber
from peerfabric.nodes.config import configured
from peerfabric.nodes.fronts import ASYNC_WITH, refusing
from peerfabric.nodes.handler_threads import Again, Handler, Take
from peerfabric.nodes.io.waiting import Suspending, Waiting
from peerfabric.nodes.message import DeadMessage, Message, Update
from peerfabric.nodes.notify import READY, STOPPING, notify
from peerfabric.nodes.service.gathered import Gathered
from peerfabric.nodes.service.service import Service
from peerfabric.nodes.settings import Hidden, Reach
from peerfabric.nodes.signals import until_signal
from peerfabric.options import Options
from peerfabric.reports import PeerView, ServiceView, Statistics

if TYPE_CHECKING:
    from typing_extensions import TypeForm
else:
    TypeForm = type  # as near as it comes without that package, for who resolves annotations

T = TypeVar("T")
Q = TypeVar("Q")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("peerfabric")


class AsyncNode:
    """A node of the fabric, embedded in this process.

    Construction opens nothing; `async with`, `run()` or the first call that is awaited starts it, and from then on it
    belongs to that event loop. Handles are the one of their name; they and the node may be used from any task of the
    loop, which is never kept waiting for a disk.

    Args:
        name: A label for people; need not be unique.
        fabric: Only nodes of one fabric find each other. None: `PEERFABRIC_FABRIC`, or "default".
        listen: "auto", or an endpoint on this machine such as "tcp://127.0.0.1:7700" or "tcp://127.0.0.1:*". With
            reach="lan" also "tcp://*:7700", with 7701 for topics, or "tcp://*:7700-7719" for the first two that are
            free.
        peers: Endpoints of nodes to talk to, for when discovery cannot find them: `tcp://127.0.0.1:7700` or
            `ipc:///path`; with `reach="lan"` also `HOST:7700`, and `dns:NAME:7700` for each address of a name.
        discovery: "auto", or the backends to use out of "registry", "static", "dns", "remembered", "mdns", "exchange"
            and those of other packages.
        options: Limits and periods.
        spool: A folder of this user alone, where producers keep their messages until a consumer acked them. Any number
            of processes may have the same one: each has a slot of it, up to `Options(spool_slots=)`.
        fsync: What is in the spool survives a loss of power, too, and not only the death of this process.
        signals: The first SIGINT or SIGTERM ends the node in order. Iterations over its consumers and subscribers end
            after the body that runs; calls that take, send or wait raise `SystemExit`, in tasks that did not start
            the node `CancelledError`; and when `async with` has closed it the process exits with 128 + the signal's
            number. A second signal does what it does without this. Only in a node that starts in the main thread, and
            only what the program does not handle itself.

        reach: "host": no other machine can connect; "lan": others can, over TCP, and `secret` has to be given.
        secret: Where the fabric's secret is: "file:PATH" or "env:NAME", and two of them while it is changed. Only who
            has it can connect, and all that leaves this machine is encrypted. "insecure": everybody can, and may read.
        identity: A file for the key that makes this node the same one over its restarts; made if it is not there.
            None: in the spool's folder, or a new one at each start.
        allow: Node ids: no other node is let in. Empty: whoever has the secret.
        revoked: Node ids that are not let in.
        interfaces: Names or patterns of the interfaces whose addresses others are told; empty: all but bridges and
            tunnels.
        advertise: Addresses that others are told in place of them, such as "203.0.113.5:7700" of a forwarded port.
        config: A TOML file. None: `PEERFABRIC_CONFIG`, or none.

    What is None here is taken from `PEERFABRIC_…` variables, then from that file, then it is the first that is named
    here; `peers` are those of all three (docs/configuration.md).

    Raises:
        ConfigError: One of these cannot work. A port in use, and a spool or a secret that cannot be read, are found
            when the node starts.
    """

    _waiting: Waiting = Suspending()

    def __init__(
        self,
        name: str | None = None,
        *,
        fabric: str | None = None,
        listen: str | None = None,
        peers: Sequence[str] | None = None,
        discovery: str | Sequence[str] | None = None,
        options: Options | None = None,
        spool: str | os.PathLike[str] | None = None,
        fsync: bool | None = None,
        signals: bool = False,
        reach: Reach | None = None,
        secret: str | Sequence[str] | None = None,
        identity: str | os.PathLike[str] | None = None,
        allow: Sequence[str] | None = None,
        revoked: Sequence[str] | None = None,
        interfaces: Sequence[str] | None = None,
        advertise: Sequence[str] | None = None,
        config: str | os.PathLike[str] | None = None,
    ) -> None:
        hidden = secret if isinstance(secret, Hidden) else Hidden(secret)
        secret = None  # it may be the secret itself by mistake, and tracebacks show what is in a frame
        self._arguments = {
            "name": name,
            "fabric": fabric,
            "listen": listen,
            "peers": peers,
            "discovery": discovery,
            "options": options,
            "spool": spool,
            "fsync": fsync,
            "signals": signals,
            "reach": reach,
            "secret": hidden,
            "identity": identity,
            "allow": allow,
            "revoked": revoked,
            "interfaces": interfaces,
            "advertise": advertise,
            "config": config,
        }
        settings = configured(self._arguments)
        # They are read again later, when this process may be in another folder.
        self._arguments["config"] = settings.config
        if hidden.value is not None and settings.secrets:
            self._arguments["secret"] = Hidden(settings.secrets)
        self.name, self.fabric = settings.name, settings.fabric
        self._lifecycle = Lifecycle(
            settings, type(self).__name__.removeprefix("_Blocking"), self._waiting, partial(configured, self._arguments)
        )
        self._context = self._lifecycle.node

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
            ConfigError: Something is wrong with the options, the queue has a handle with others, or 4,096 have one.
        """
        return self._lifecycle.handles.producer(
            ProducerOptions(
                name=queue,
                body_type=body_type,
                on_full=on_full,
                buffer_bytes=buffer_bytes,
                max_attempts=max_attempts,
                spool=spool,
                fsync=fsync,
            )
        )

    def consumer(
        self,
        queue: str,
        body_type: TypeForm[T],
        *,
        lease: float = LEASE,
        ledger: str | os.PathLike[str] | None = None,
        fsync: bool | None = None,
        ack_after: AckAfter = "outputs",
    ) -> AsyncConsumer[T]:
        """The handle for taking bodies of `body_type` from `queue`.

        Args:
            lease: Seconds that code may keep a message before it goes to another consumer; for code that hangs.
            ledger: A file of this consumer alone, in which it remembers over its own restart what it has processed,
                so that it does not process it again. Made if it is not there; its folder has to be there.
            fsync: Whether what is in the ledger survives a loss of power, too, at the price of a sync for each ack;
                None: as the node says.
            ack_after: "outputs": what code sends to queues while it has a message in hand has to be safe, stored in a
                spool or settled, before the message is acked; the code does not wait for that. "return": `ack`, or the
                end of `with`, acks at once.

        Raises:
            ConfigError: Something is wrong with the options, the queue has a handle with others, or a handler, or 4,096
                have one.
            SpoolError: The ledger cannot be used; in a node that runs not yet, its start raises this. In a node that
                runs, the first call that is awaited.
        """
        return self._lifecycle.handles.consumer(
            ConsumerOptions(
                name=queue, body_type=body_type, lease=lease, ledger=ledger, fsync=fsync, ack_after=ack_after
            )
        )

    def publisher(self, topic: str, body_type: TypeForm[T]) -> AsyncPublisher[T]:
        """The handle for publishing bodies of `body_type` on `topic`.

        Raises:
            ConfigError: The name is wrong, the topic has a handle with another type, or 4,096 topics have one.
        """
        return self._lifecycle.handles.publisher(PublisherOptions(name=topic, body_type=body_type))

    def subscriber(
        self, pattern: str, body_type: TypeForm[T], *, buffer_bytes: int = UPDATE_BYTES
    ) -> AsyncSubscriber[T]:
        """The handle for what is published on the topics that `pattern` selects (`*` one part, `>` the rest).

        Args:
            buffer_bytes: What may wait for this program; when it is full the oldest go, and count as missed.

        Raises:
            ConfigError: The pattern is wrong, it has a handle with other options, or a handler, or 4,096 have one.
        """
        return self._lifecycle.handles.subscriber(
            SubscriberOptions(name=pattern, body_type=body_type, buffer_bytes=buffer_bytes)
        )

    # Handlers

    def on_message(
        self,
        queue: str,
        *,
        concurrency: int = 1,
        lease: float = LEASE,
        ledger: str | os.PathLike[str] | None = None,
        fsync: bool | None = None,
        ack_after: AckAfter = "outputs",
    ) -> Callable[[F], F]:
        """Call the decorated function with each body from `queue`; its first parameter's annotation is the type.

        Returning acks, as soon as what it sent is safe (`ack_after`). `raise Retry("why", delay=…)` asks for another
        attempt, `raise Reject("why")` gives up, and whatever else it raises, `sys.exit()` included, is logged and
        nacks. Each call has a context of its own. A second parameter annotated `Message` receives the message. A `def`
        runs in threads of its own, an `async def` as tasks, `concurrency` of them. `lease`, `ledger`, `fsync` and
        `ack_after` as of `consumer`.

        Raises:
            ConfigError: As of `consumer`; or the queue has another taker in this node: a handler, or a consumer that is
                open.
        """

        def messages(handler: Handler) -> tuple[Any, Take, Again]:
            options = ConsumerOptions(
                name=queue, body_type=handler.body_type, lease=lease, ledger=ledger, fsync=fsync, ack_after=ack_after
            )
            consumer = self._lifecycle.handles.consumer(options, handler.name)
            consumer.declare_takers(handler.concurrency, handler.at_once, tasks=handler.runs_in == "task")
            return consumer, consumer.next_message, consumer.take_again

        return self._lifecycle.handlers.decorator(queue, concurrency, Message, messages)

    def on_topic(self, pattern: str) -> Callable[[F], F]:
        """Call the decorated function with each body published on what `pattern` selects, one at a time.

        A second parameter annotated `Update` receives the update. Whatever it raises is logged.

        Raises:
            ConfigError: The pattern has another taker in this node: a handler, or a subscriber that is open.
        """

        def updates(handler: Handler) -> tuple[Any, Take, Again]:
            options = SubscriberOptions(name=pattern, body_type=handler.body_type)
            subscriber = self._lifecycle.handles.subscriber(options, handler.name)
            return subscriber, subscriber.next_update, subscriber.take_again

        return self._lifecycle.handlers.decorator(pattern, 1, Update, updates)

    async def run(self) -> None:
        """Start, work until SIGINT or SIGTERM comes or the node is closed, drain, and close.

        Under systemd, a service of `Type=notify` is told when the node has started, and when it stops.

        Raises:
            IdentityInUse: Another copy of this node runs, and this one has stopped. A command should exit with 78 then,
                which tells its supervisor not to start it again.
        """
        node = self._context
        await node.started()
        node.ending.stop()  # this call hears signals, and returns
        await until_signal(
            node.waiting,
            node.closed,
            lambda: not node.is_running or node.ending.signal != 0,
            f"{self.name} runs until SIGINT or SIGTERM",
            lambda: notify(READY),
        )
        notify(STOPPING)
        await self.close(node.settings.options.drain_timeout)

    async def reload(self) -> None:
        """Read the secrets and the lists of who may come in again, and return when they are in use.

        Files are looked at every two seconds anyway; what cannot be used then is logged, and the old stays.

        Raises:
            ConfigError: One of them cannot be used; everything stays as it was.
        """
        await self._lifecycle.reload()

    # Services

    def serve(
        self,
        service: Service[Any, Any] | str,
        *,
        concurrency: int | None = None,
        waiting: int | None = None,
        stall: float = 60.0,
    ) -> Callable[[F], F]:
        """Answer calls of `service` with what the decorated function returns; of a stream, with what it yields.

        Its first parameter is the request, and a second one annotated `Call` tells of the call. Of a name alone the
        annotations say the types. Whatever it raises its caller gets as a `RemoteError`, as text;
        `raise Busy(retry=…)` sends the call to another server. A `def` runs in threads, an `async def` as tasks, each
        call in a context of its own. One that waits in a call of ours does not count as running. When its caller gives
        up a task is cancelled, and in a thread `call.cancelled` is true and calls of ours raise `Cancelled`.

        Args:
            concurrency: Calls that run at once; None: 16 in threads, 256 as tasks.
            waiting: Calls that wait besides; to others this server is busy. None: four times as many.
            stall: Seconds for which a stream waits for its reader until it is ended.

        Raises:
            ConfigError: Something is wrong with the service or the options, or the service has a handler in this node.
            TypeError: The function does not say its types, or is called or answers in another way.
            NodeClosed: The node closes.
        """
        return self._lifecycle.serve(service, concurrency, waiting, stall)

    @overload
    async def request(
        self,
        service: Service[Q, R],
        body: Q,
        *,
        timeout: float | None = 10.0,
        idempotent: bool | None = None,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> R: ...
    @overload
    async def request(
        self,
        service: str,
        body: Any,
        *,
        reply_type: TypeForm[R],
        timeout: float | None = 10.0,
        idempotent: bool | None = None,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> R: ...
    async def request(
        self,
        service: Service[Any, Any] | str,
        body: Any,
        *,
        reply_type: Any = None,
        timeout: float | None = 10.0,
        idempotent: bool | None = None,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Ask one server of `service`, and return its reply.

        The call may have run if this raises `ServerLost` or `RemoteError`, or a `TimedOut` that says so; else it has
        not. Within a handler of a service it ends with the call that is handled, at the latest. Cancelled or
        interrupted, its server is told.

        Args:
            reply_type: What is replied, if `service` is a name.
            timeout: Seconds, at most a day; None: for as long as its server lives.
            idempotent: Whether it may run twice, so that it goes on at another server if its own is lost or silent;
                None: as the Service says.
            server: The id or the name of the node that is to answer; None: any.
            headers: Text for the handler, at most 8 KiB.

        Raises:
            NoServer: Nobody serves it. Not sent.
            ServiceBusy: No server took it. It has not run.
            ServerLost: Its server ended, or the link with it.
            TimedOut: There was no reply in time.
            RemoteError: The handler raised something.
            DecodeError: The body does not fit the server's type, or the reply does not fit ours.
            EncodeError, MessageTooLarge: The body cannot be sent. Not sent.
            ConfigError: There is no such service, or it is answered in parts.
            Cancelled: The caller of the handler that asks has given up.
            NodeClosed: The node closes.
        """
        calls = self._lifecycle.calls or self._lifecycle.open_calls()
        return await calls.request(service, body, reply_type, timeout, idempotent, server, headers)

    def client(self, service: Service[Q, R]) -> AsyncClient[Q, R]:
        """The service as a function, `client(body, timeout=…)`, which asks as `request` does.

        Of a service that is answered in parts it is there for `ready()`: ask that with `stream`.
        """
        return AsyncClient(self._lifecycle.calls or self._lifecycle.open_calls(), service)

    @overload
    def stream(
        self,
        service: Service[Q, R],
        body: Q,
        *,
        timeout: float | None = 10.0,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncParts[R]: ...
    @overload
    def stream(
        self,
        service: str,
        body: Any,
        *,
        reply_type: TypeForm[R],
        timeout: float | None = 10.0,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncParts[R]: ...
    def stream(
        self,
        service: Service[Any, Any] | str,
        body: Any,
        *,
        reply_type: Any = None,
        timeout: float | None = 10.0,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Ask one server of `service`, and iterate over the parts of its answer.

        It is asked when the first part is wanted. Breaking off, or dropping the iterator, stops the server; so does
        not reading for as long as its `stall=` says. What `request` raises comes out of the iteration, which then is
        over; it is never tried again after the first part.

        Args:
            timeout: Seconds until the next part; None: for as long as the server lives.

        Raises:
            ConfigError, EncodeError: As `request`.
        """
        from peerfabric.nodes.service.reading import Reading

        calls = self._lifecycle.calls or self._lifecycle.open_calls()
        return AsyncParts(Reading(calls, service, body, reply_type, timeout, server, headers))

    @overload
    async def gather(
        self,
        service: Service[Q, R],
        body: Q,
        *,
        timeout: float | None = 10.0,
        require: int = 0,
        headers: dict[str, str] | None = None,
    ) -> Gathered[R]: ...
    @overload
    async def gather(
        self,
        service: str,
        body: Any,
        *,
        reply_type: TypeForm[R],
        timeout: float | None = 10.0,
        require: int = 0,
        headers: dict[str, str] | None = None,
    ) -> Gathered[R]: ...
    async def gather(
        self,
        service: Service[Any, Any] | str,
        body: Any,
        *,
        reply_type: Any = None,
        timeout: float | None = 10.0,
        require: int = 0,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Ask every server of `service` that is there, and return what came of it, at the latest after `timeout`.

        It does not raise because some servers fail.

        Raises:
            Incomplete: Fewer than `require` have replied; `error.gathered` has what came.
            ConfigError, EncodeError, NodeClosed: As `request`.
        """
        from peerfabric.nodes.service.gathering import gather

        calls = self._lifecycle.calls or self._lifecycle.open_calls()
        return await gather(calls, service, body, reply_type, timeout, require, headers)

    def services(self) -> list[ServiceView]:
        """The services that this node knows of, and who answers them.

        Those are of the nodes with which it has a link; `look_at_all` makes that all of them. An `AsyncNode` with a
        spool or a ledger is not started by this.
        """
        return self._lifecycle.services()

    # Reports

    def peers(self) -> list[PeerView]:
        """Every node that this one knows of: those with a link, and as "idle" those with nothing in common.

        An `AsyncNode` with a spool or a ledger is not started by this.
        """
        return self._lifecycle.peers()

    def look_at_all(self, on: bool = True) -> None:
        """Link with every node of the fabric from now on, so that `peers()` shows what each of them uses.

        A node links by itself only with those with whom it has something in common. With `on=False` it does so again.

        An `AsyncNode` with a spool or a ledger is not started by this, and looks at nobody before it is.
        """
        self._lifecycle.look_at_all(on)

    async def ping(self, peer: str, timeout: float | None = 5.0) -> float:
        """Ask a peer over the link with it, and return the seconds until the answer was here.

        Args:
            peer: A node's id or name, or an endpoint at which it listens, such as "tcp://10.0.0.5:7700".

        Raises:
            TimedOut: After `timeout` seconds there is no such peer, no link with it, or no answer.
            ConfigError: Several nodes have that name, or it is this node.
        """
        return await ping(self._context, peer, timeout)

    def statistics(self) -> Statistics:
        """Counters and depths, in which every producer's accounting closes; of a closed node, its last ones."""
        return self._lifecycle.statistics()

    async def dead_letters(self, queue: str) -> list[DeadMessage[Any]]:
        """The messages of `queue` that this node produced and that were given up, oldest first.

        Of a folder that processes share, those in slots that it has adopted, or that nobody has, follow.
        """
        return await self._lifecycle.dead_letters(queue)

    # Closing

    async def close(self, timeout: float | None = 5.0) -> None:
        """Refuse new work, settle what was accepted, say goodbye, and close; a second call does nothing.

        Handlers that run finish; what was not started goes back to its producers.

        Raises:
            Undelivered: After `timeout` seconds accepted messages were not settled; the node is closed all the same.
        """
        await self._lifecycle.close(timeout)

    if not TYPE_CHECKING:
        __enter__ = __exit__ = refusing(ASYNC_WITH)

    async def __aenter__(self) -> Self:
        await self._context.started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self._context.ending
        try:
            await self.close(self._context.settings.options.drain_timeout)
        except (Undelivered, IdentityInUse) as failure:
            if error is None and not ending.signal:
                raise
            _log.error("%s", failure)
        except KeyboardInterrupt:
            if not ending.signal:
                raise
            left = self._lifecycle.undelivered
            if any(left):  # a second Ctrl-C has ended the wait for them
                _log.error("%s", Undelivered(*left))
        if ending.explains(error):
            raise ending.exit() from None

    def __reduce__(self) -> Any:
        raise TypeError("a node cannot be pickled; make one in each process")

    def __repr__(self) -> str:
        return str(getattr(self, "_lifecycle", "<AsyncNode: not made>"))
