"""Node: a process's membership in the fabric, for programs that block."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakKeyDictionary

from peerfabric.nodes.aio.node import AsyncNode
from peerfabric.nodes.aio.options import BUFFER_BYTES, LEASE, MAX_ATTEMPTS, UPDATE_BYTES, AckAfter, OnFull
from peerfabric.nodes.blocking.consumer import Consumer
from peerfabric.nodes.blocking.producer import Producer
from peerfabric.nodes.blocking.topic import Publisher, Subscriber
from peerfabric.nodes.fronts import BLOCKING_WITH, refusing
from peerfabric.nodes.io.waiting import Blocking, complete
from peerfabric.nodes.message import DeadMessage
from peerfabric.nodes.settings import Hidden, Reach
from peerfabric.options import Options
from peerfabric.reports import PeerView, Statistics

if TYPE_CHECKING:
    from typing_extensions import TypeForm
else:
    TypeForm = type  # as near as it comes without that package, for who resolves annotations

T = TypeVar("T")
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
        spool: A folder of this node alone, where producers keep their messages until a consumer acked them.
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
        self._wrapped: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

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
        """The messages of `queue` that this node produced and that were given up, oldest first."""
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
