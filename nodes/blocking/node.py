"""Node: a process's membership in the fabric, for programs that block."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from weakref import WeakValueDictionary

from peerfabric.nodes.aio.node import AsyncNode
from peerfabric.nodes.aio.options import BUFFER_BYTES, LEASE, MAX_ATTEMPTS, UPDATE_BYTES, AckAfter, OnFull
from peerfabric.nodes.blocking.consumer import Consumer
from peerfabric.nodes.blocking.producer import Producer
from peerfabric.nodes.blocking.service import Client, Parts
from peerfabric.nodes.blocking.topic import Publisher, Subscriber
from peerfabric.nodes.fronts import BLOCKING_WITH, refusing
from peerfabric.nodes.io.waiting import Blocking, complete
from peerfabric.nodes.message import DeadMessage
from peerfabric.nodes.service.gathered import Gathered
from peerfabric.nodes.service.service import Service
from peerfabric.nodes.settings import Hidden, Reach
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
W = TypeVar("W")


class _BlockingNode(AsyncNode):
    """The same node, whose waits block the thread: it belongs to no event loop."""

    _waiting = Blocking()


class Node:
    """A node of the fabric, embedded in this process.

    Construction opens nothing; `with`, `run()` or the first use starts it. Handles are the one of their name; they
    and the node may be used from any thread, in a notebook, and inside a running event loop, which they block.

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
            after the body that runs; calls that take, send or wait raise `SystemExit`; and when `with` has closed the
            node the process exits with 128 + the signal's number. A second signal does what it does without this.
            Only in a node that starts in the main thread, and only what the program does not handle itself.

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
        hidden: Any = Hidden(secret)
        secret = None  # it may be the secret itself by mistake, and tracebacks show what is in a frame
        self._async = _BlockingNode(
            name,
            fabric=fabric,
            listen=listen,
            peers=peers,
            discovery=discovery,
            options=options,
            spool=spool,
            fsync=fsync,
            signals=signals,
            reach=reach,
            secret=hidden,
            identity=identity,
            allow=allow,
            revoked=revoked,
            interfaces=interfaces,
            advertise=advertise,
            config=config,
        )
        self._wrapped: WeakValueDictionary[Any, Any] = WeakValueDictionary()

    @property
    def name(self) -> str:
        return self._async.name

    @property
    def fabric(self) -> str:
        return self._async.fabric

    def _wrap(self, kind: Callable[[Any], W], handle: Any) -> W:
        found = self._wrapped.get(handle)
        if found is None:
            # Two threads may make one each; `setdefault` lets them agree.
            found = self._wrapped.setdefault(handle, kind(handle))
        return found  # type: ignore[no-any-return]

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
    ) -> Producer[T]:
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
        handle = self._async.producer(
            queue,
            body_type,
            on_full=on_full,
            buffer_bytes=buffer_bytes,
            max_attempts=max_attempts,
            spool=spool,
            fsync=fsync,
        )
        return self._wrap(Producer, handle)

    def consumer(
        self,
        queue: str,
        body_type: TypeForm[T],
        *,
        lease: float = LEASE,
        ledger: str | os.PathLike[str] | None = None,
        fsync: bool | None = None,
        ack_after: AckAfter = "outputs",
    ) -> Consumer[T]:
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
            SpoolError: The ledger cannot be used; in a node that runs not yet, its start raises this.
        """
        consumer = self._async.consumer(queue, body_type, lease=lease, ledger=ledger, fsync=fsync, ack_after=ack_after)
        return self._wrap(Consumer, consumer)

    def publisher(self, topic: str, body_type: TypeForm[T]) -> Publisher[T]:
        """The handle for publishing bodies of `body_type` on `topic`.

        Raises:
            ConfigError: The name is wrong, the topic has a handle with another type, or 4,096 topics have one.
        """
        return self._wrap(Publisher, self._async.publisher(topic, body_type))

    def subscriber(self, pattern: str, body_type: TypeForm[T], *, buffer_bytes: int = UPDATE_BYTES) -> Subscriber[T]:
        """The handle for what is published on the topics that `pattern` selects (`*` one part, `>` the rest).

        Args:
            buffer_bytes: What may wait for this program; when it is full the oldest go, and count as missed.

        Raises:
            ConfigError: The pattern is wrong, it has a handle with other options, or a handler, or 4,096 have one.
        """
        return self._wrap(Subscriber, self._async.subscriber(pattern, body_type, buffer_bytes=buffer_bytes))

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
        nacks. Each call has a context of its own. A second parameter annotated `Message` receives the message. It runs
        in `concurrency` threads of its own. `lease`, `ledger`, `fsync` and `ack_after` as of `consumer`.

        Raises:
            ConfigError: As of `consumer`; or the queue has another taker in this node: a handler, or a consumer that is
                open.
        """
        return self._async.on_message(
            queue, concurrency=concurrency, lease=lease, ledger=ledger, fsync=fsync, ack_after=ack_after
        )

    def on_topic(self, pattern: str) -> Callable[[F], F]:
        """Call the decorated function with each body published on what `pattern` selects, one at a time.

        A second parameter annotated `Update` receives the update. Whatever it raises is logged.

        Raises:
            ConfigError: The pattern has another taker in this node: a handler, or a subscriber that is open.
        """
        return self._async.on_topic(pattern)

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
        `raise Busy(retry=…)` sends the call to another server. Each call runs in a thread and in a context of its
        own. One that waits in a call of ours does not count as running. When its caller gives up `call.cancelled` is
        true, and calls of ours raise `Cancelled`.

        Args:
            concurrency: Calls that run at once; None: 16.
            waiting: Calls that wait besides; to others this server is busy. None: four times as many.
            stall: Seconds for which a stream waits for its reader until it is ended.

        Raises:
            ConfigError: Something is wrong with the service or the options, or the service has a handler in this node.
            TypeError: The function does not say its types, or is called or answers in another way.
            NodeClosed: The node closes.
        """
        return self._async.serve(service, concurrency=concurrency, waiting=waiting, stall=stall)

    @overload
    def request(
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
    def request(
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
    def request(
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
        lifecycle = self._async._lifecycle
        calls = lifecycle.calls or lifecycle.open_calls()
        return complete(calls.request(service, body, reply_type, timeout, idempotent, server, headers))

    def client(self, service: Service[Q, R]) -> Client[Q, R]:
        """The service as a function, `client(body, timeout=…)`, which asks as `request` does.

        Of a service that is answered in parts it is there for `ready()`: ask that with `stream`.
        """
        return Client(self._async.client(service))

    @overload
    def stream(
        self,
        service: Service[Q, R],
        body: Q,
        *,
        timeout: float | None = 10.0,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Parts[R]: ...
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
    ) -> Parts[R]: ...
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

        lifecycle = self._async._lifecycle
        calls = lifecycle.calls or lifecycle.open_calls()
        return Parts(Reading(calls, service, body, reply_type, timeout, server, headers))

    @overload
    def gather(
        self,
        service: Service[Q, R],
        body: Q,
        *,
        timeout: float | None = 10.0,
        require: int = 0,
        headers: dict[str, str] | None = None,
    ) -> Gathered[R]: ...
    @overload
    def gather(
        self,
        service: str,
        body: Any,
        *,
        reply_type: TypeForm[R],
        timeout: float | None = 10.0,
        require: int = 0,
        headers: dict[str, str] | None = None,
    ) -> Gathered[R]: ...
    def gather(
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

        lifecycle = self._async._lifecycle
        calls = lifecycle.calls or lifecycle.open_calls()
        return complete(gather(calls, service, body, reply_type, timeout, require, headers))

    def services(self) -> list[ServiceView]:
        """The services that this node knows of, and who answers them.

        Those are of the nodes with which it has a link; `look_at_all` makes that all of them.
        """
        return self._async.services()

    def run(self) -> None:
        """Start, work until SIGINT or SIGTERM comes or the node is closed, drain, and close.

        Under systemd, a service of `Type=notify` is told when the node has started, and when it stops.

        Raises:
            IdentityInUse: Another copy of this node runs, and this one has stopped. A command should exit with 78 then,
                which tells its supervisor not to start it again.
        """
        complete(self._async.run())

    def reload(self) -> None:
        """Read the secrets and the lists of who may come in again, and return when they are in use.

        Files are looked at every two seconds anyway; what cannot be used then is logged, and the old stays.

        Raises:
            ConfigError: One of them cannot be used; everything stays as it was.
        """
        complete(self._async.reload())

    def dead_letters(self, queue: str) -> list[DeadMessage[Any]]:
        """The messages of `queue` that this node produced and that were given up, oldest first.

        Of a folder that processes share, those in slots that it has adopted, or that nobody has, follow.
        """
        return complete(self._async.dead_letters(queue))

    def peers(self) -> list[PeerView]:
        """Every node that this one knows of: those with a link, and as "idle" those with nothing in common."""
        return self._async.peers()

    def look_at_all(self, on: bool = True) -> None:
        """Link with every node of the fabric from now on, so that `peers()` shows what each of them uses.

        A node links by itself only with those with whom it has something in common. With `on=False` it does so again.
        """
        self._async.look_at_all(on)

    def ping(self, peer: str, timeout: float | None = 5.0) -> float:
        """Ask a peer over the link with it, and return the seconds until the answer was here.

        Args:
            peer: A node's id or name, or an endpoint at which it listens, such as "tcp://10.0.0.5:7700".

        Raises:
            TimedOut: After `timeout` seconds there is no such peer, no link with it, or no answer.
            ConfigError: Several nodes have that name, or it is this node.
        """
        return complete(self._async.ping(peer, timeout))

    def statistics(self) -> Statistics:
        """Counters and depths, in which every producer's accounting closes; of a closed node, its last ones."""
        return self._async.statistics()

    def close(self, timeout: float | None = 5.0) -> None:
        """Refuse new work, settle what was accepted, say goodbye, and close; a second call does nothing.

        Handlers that run finish; what was not started goes back to its producers.

        Raises:
            Undelivered: After `timeout` seconds accepted messages were not settled; the node is closed all the same.
        """
        complete(self._async.close(timeout))

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = refusing(BLOCKING_WITH)

    def __enter__(self) -> Self:
        complete(self._async.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete(self._async.__aexit__(kind, error, trace))

    def __reduce__(self) -> Any:
        raise TypeError("a node cannot be pickled; make one in each process")

    def __repr__(self) -> str:
        return str(getattr(self, "_async", "<Node: not made>"))
