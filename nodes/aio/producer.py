"""AsyncProducer: the producer of a queue in asyncio programs; the blocking one is made of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from peerfabric.arguments import DELAY_MAX, check_count, check_timeout, option_seconds
from peerfabric.discovery.locks import refuse_inside
from peerfabric.engine import Engine
from peerfabric.errors import FabricError, counted
from peerfabric.nodes import unstarted
from peerfabric.nodes.aio.options import ProducerOptions
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.fronts import HANDLE_COPIED, refusing
from peerfabric.nodes.handler_context import (
    Input,
    Patience,
    hand_here,
    inputs_in,
    lease_paused,
)
from peerfabric.nodes.io.waiting import Blocking, Gate, clock, refuse_to_wait, wait_until
from peerfabric.nodes.message import IN_HAND, Cause, hand_of
from peerfabric.nodes.outbox.confirmations import Confirmations, check_state, stranger
from peerfabric.nodes.outbox.outbox import Outbox, Progress
from peerfabric.nodes.storage.offload import Offloaded
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import Kind
from peerfabric.receipt import Receipt, State
from peerfabric.wire.bodies import Codec

if TYPE_CHECKING:
    from peerfabric.nodes.outbox.spooled import SpooledOutbox
    from peerfabric.nodes.outputs import OutputsTo

T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")

Accepted = tuple[list[tuple[int, int]], FabricError | None]
"""Sequences of messages, each part without its end, and why no more were accepted; None: all were."""

TTL_MIN: Final = 0.001
"""Seconds; a frame tells whole milliseconds."""


def kind_for(ttl: float) -> Kind:
    """The kind of messages that expire in `ttl` seconds.

    Raises:
        ConfigError: Nothing can.
    """
    step = "give a time from 0.001 s to a year, or None for messages that never expire"
    return clock() + option_seconds("ttl", ttl, step, least=TTL_MIN, most=DELAY_MAX), 0


class AsyncProducer(Generic[T_contra]):
    """The one handle of this node for sending to a queue. Thread-safe: a thread's sends keep their order."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(
        self,
        node: NodeContext,
        options: ProducerOptions,
        open_late: Callable[[AsyncProducer[Any], Gate], Coroutine[Any, Any, None]],
        leave: Callable[[AsyncProducer[Any], Gate], Coroutine[Any, Any, bool]],
    ) -> None:
        self.options = options
        self.queue = queue = options.name
        self.spooled = spooled = bool(options.spool)
        self.is_safe = spooled and options.on_full != "spool"
        """What is accepted is stored: no ack waits for it."""
        self.outputs: OutputsTo | None = None
        self.codec: Codec[T_contra] = Codec(options.body_type, node.settings.options.message_bytes_max)
        self.end: OutgoingQueue = None  # type: ignore[assignment]  # until the node starts
        self.opened = False
        self.late: Offloaded[None] | None = None
        """Opens what it keeps on disk, if the node was running when it was made."""
        self.ending = node.ending
        self._node = node
        self._open_late, self._leave = open_late, leave
        self._encode = self.codec.encode
        self._gate = Gate()
        make: type[Outbox] = Outbox
        if spooled:
            from peerfabric.nodes.outbox.spooled import (
                SpooledOutbox,  # with a spool only, as all that is about the disk
            )

            make = SpooledOutbox
        self._outbox = make(node, self._encode, queue, options.on_full, options.buffer_bytes, self._gate)
        self._outcomes: Confirmations = None  # type: ignore[assignment]  # until the node starts
        # The way into memory has no step too many: at its pace all small messages go.
        self.try_send: Callable[[T_contra, dict[str, str] | None, Kind | None], Receipt | None] = self._outbox.try_send
        """Accept a body, with headers or None, of a kind, if that can be done at once; None: it cannot, and nothing was
        accepted.

        Raises EncodeError if it cannot be sent, NodeClosed if the node, or the program, is past sending.
        """

    # In the life of the node

    def start(self, engine: Engine, now: float) -> None:
        """The node starts: open the end. Called under the engine's lock."""
        options = self.options
        outbox, disk = self._outbox, self._node.disk
        store = disk.stores[self.queue] if disk is not None and outbox.spooled else None
        if store is not None:
            store.retiring = None
        if store is not None and store.end is not None:
            self.end = store.end
            store.end.adopt_options(self.codec.number, options.max_attempts, options.buffer_bytes)
        else:
            self.end = engine.open_producer(
                self.queue, self.codec.number, options.max_attempts, options.buffer_bytes, now
            )
        outbox.end = self.end
        if outbox.spooled:
            assert disk is not None
            assert store is not None
            by_itself = not options.fsync and isinstance(self._node.waiting, Blocking)
            cast("SpooledOutbox", outbox).attach(disk, store, self.codec.number, by_itself=by_itself)
        self._outcomes = Confirmations(self._node, self.end, self._gate, options.on_full, outbox)
        outbox.open()
        self.opened = True

    def hand_over(self, engine: Engine, now: float) -> None:
        """Give the engine what was accepted since the last call. Called under the engine's lock."""
        self._outbox.hand_over(engine, now)

    def changed(self) -> None:
        """Something of the end has changed: wake those who wait for it."""
        self._outbox.changed()

    @property
    def closing(self) -> bool:
        """Whether it takes nothing more, as it was closed."""
        return self._outbox.retired

    def reopen(self) -> None:
        """It was asked for again before it was closed to the end."""
        self._outbox.reopen()
        self._gate.open()

    def stop(self) -> None:
        """The node closes: nothing is accepted any more."""
        self._outbox.close()

    def seal(self) -> None:
        """After `stop`: return when also what another thread was just storing is handed over."""
        self._outbox.seal()

    def forked(self) -> None:
        """In a child process, where another thread of the parent may hold a lock for ever."""
        self._outbox.forked()

    def disk_ended(self) -> None:
        """The node is closed, and its disk's thread has ended: nothing more is stored."""
        self._outbox.disk_ended()
        self._gate.open()

    @property
    def alerted(self) -> bool:
        """Whether the pump has yet to take something."""
        return self._outbox.alerted

    @property
    def blocked(self) -> int:
        """How many calls wait for room, in memory or on disk."""
        return len(self._outbox.blocked)

    @property
    def storing(self) -> bool:
        """Whether messages are on their way to the disk."""
        return not self._outbox.idle

    @property
    def last(self) -> int:
        """The number of the newest message that was accepted, retried letters included."""
        return self._outbox.last

    def so_far(self) -> tuple[int, int]:
        """`last`, and how many of all were retried letters, at one instant."""
        return self._outbox.so_far()

    async def _started(self) -> None:
        """Have the node running, and the end open."""
        if self._outbox.retired:
            self._outbox.ensure()
        if not self.opened or not self._node.is_running:
            await self._node.started()
            if not self.opened:
                await self._open_late(self, self._gate)
        self._node.ensure()

    # Sending

    async def send(
        self,
        body: T_contra,
        *,
        headers: dict[str, str] | None = None,
        confirm: State | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        cause: Cause = IN_HAND,
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
            ttl: Seconds from now after which it is not handed out any more, but ends as expired; None: never.
            timeout: Seconds to wait for room and for the confirmation together; None: for ever.
            cause: A message or batch that is acked only when this one is settled, or in a spool; None: none is. Left
                out, what this task or thread has in hand, such as the message of a handler.

        Raises:
            EncodeError: Not of the body type, or not encodable. Not accepted.
            ConfigError: "stored", and there is no spool that takes every message; or a ttl that is none. Not accepted.
            QueueFull, SpoolFull: No room, in memory or on disk, as `on_full` says. Not accepted.
            SpoolError: The disk refused. Not accepted.
            NodeClosed: The node closes. Not accepted.
            NotConfirmed: Accepted, and may still be processed: do not send it again.
            Rejected: Accepted and dead-lettered, or expired, while waiting for the confirmation.
        """
        node, kind = self._node, None
        if ttl is not None:
            kind = kind_for(ttl)
        inputs: Sequence[Input] = ()
        if hand_here() is not None or cause is not IN_HAND:
            inputs, kind = self.inputs_of(cause, kind)
        if confirm is None and not self.ending.signal and node.loop is not None and node.loop is node.current_loop():
            receipt = self.try_send(body, headers, kind)
            if receipt is not None:
                if inputs:
                    self.add_outputs(inputs, receipt.sequence, receipt.sequence + 1)
                return receipt
        ends_at = None
        if timeout is not None:
            timeout = check_timeout(timeout)
            ends_at = clock() + timeout  # type: ignore[operator]  # it was not None
        if not self.opened or node.life is not Life.RUNNING or node.loop is not None:
            await self._started()
        if self._outbox.retired:
            self._outbox.ensure()
        if self.ending.signal:
            self.ending.check_sending(cause)
        if confirm is not None and confirm != "queued":
            check_state(confirm)
            refuse_to_wait(node.waiting)
            if confirm == "stored":
                self._outcomes.check_stored()
        receipt = self.try_send(body, headers, kind)
        if receipt is None:
            receipt = await self._send_when_room(body, headers, timeout, kind)
        if inputs:
            self.add_outputs(inputs, receipt.sequence, receipt.sequence + 1)
        if confirm is not None and confirm not in ("queued", "stored"):
            left = None if ends_at is None else max(0.0, ends_at - clock())
            await self._outcomes.confirm(receipt, confirm, left, timeout)
        return receipt

    async def _send_when_room(
        self, body: T_contra, headers: dict[str, str] | None, timeout: float | None, kind: Kind | None
    ) -> Receipt:
        with lease_paused(self._node.pump):
            return await self._outbox.send_when_room(body, headers, Patience(timeout), kind)

    def inputs_of(self, cause: Cause, kind: Kind | None) -> tuple[Sequence[Input], Kind | None]:
        """What is acked only when that is safe which is sent because of `cause`; and of what kind that then is.

        Raises:
            TypeError: It is no cause.
        """
        hand = hand_here() if cause is IN_HAND else hand_of(cause)
        if hand is None or self.is_safe:
            return (), kind
        inputs = inputs_in(hand)
        if inputs:
            from peerfabric.nodes.outputs import output_kind  # with the first of them

            kind = output_kind(inputs, kind)
        return inputs, kind

    def add_outputs(self, inputs: Sequence[Input], first: int, stop: int) -> None:
        """What has the sequences `[first, stop)` was sent because of `inputs`."""
        outputs = self.outputs
        if outputs is None:
            from peerfabric.nodes.outputs import OutputsTo

            outputs = self.outputs = OutputsTo(self._outbox, self._node)
        outputs.add(inputs, first, stop)

    async def send_many(
        self,
        bodies: Iterable[T_contra],
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        cause: Cause = IN_HAND,
    ) -> int:
        """Hand over `bodies` in order and return how many there were; much faster than one by one.

        `ttl` and `cause` are of all of them, and as of `send`.

        Whatever this raises, cancellation and Ctrl-C included, has an attribute `accepted`: so many of them, the first
        ones, are accepted and will be delivered, and the others never. Cancelled while the disk has some in hand, it
        waits until it is known what became of these.

        Raises:
            ConfigError, EncodeError, QueueFull, SpoolFull, SpoolError, NodeClosed, NotConfirmed: As of `send`, for the
                first of the bodies that is not accepted, or, NotConfirmed, for the last that are.
        """
        progress, before = Progress(), self._outbox.count
        inputs: Sequence[Input] = ()
        try:
            kind = kind_for(ttl) if ttl is not None else None
            inputs, kind = self.inputs_of(cause, kind)
            if inputs:
                progress.ranges = []
            timeout = check_timeout(timeout)
            await self._started()
            self.ending.check_sending(cause)
            encoded, fault = self.codec.encode_many(bodies if isinstance(bodies, list) else list(bodies))
            await self._accept_many(encoded, progress, Patience(timeout), kind, cause)
            if fault is not None:
                raise fault
        except BaseException as error:
            self._outbox.finish_interrupted(progress)
            error.accepted = progress.accepted  # type: ignore[attr-defined]
            if inputs and progress.accepted:  # all since it began: Ctrl-C may have come before its last were noted
                progress.ranges = [(before + 1, self._outbox.count + 1)]
            raise
        finally:
            for first, stop in progress.ranges or ():
                self.add_outputs(inputs, first, stop)
        return progress.accepted

    async def _accept_many(
        self, encoded: list[bytes], progress: Progress, patience: Patience, kind: Kind | None, cause: Cause
    ) -> None:
        outbox = self._outbox
        outbox.try_extend(encoded, progress, kind)
        if progress.accepted == len(encoded):
            return
        with lease_paused(self._node.pump):
            while progress.accepted < len(encoded):
                self.ending.check_sending(cause)
                await outbox.extend_when_room(encoded, progress, patience, kind)

    async def accept_batch(self, bodies: list[T_contra], ttl: float | None, timeout: float | None) -> Accepted:
        """As `send_many`, because of nothing; what it would raise is told beside the messages that are accepted."""
        progress = Progress([])
        try:
            kind = kind_for(ttl) if ttl is not None else None
            await self._started()
            self.ending.check_sending(None)
            encoded, error = self.codec.encode_many(bodies)
            await self._accept_many(encoded, progress, Patience(timeout), kind, None)
        except FabricError as refused:
            self._outbox.finish_interrupted(progress)
            return progress.ranges or [], refused
        except BaseException:
            self._outbox.finish_interrupted(progress)
            raise
        return progress.ranges or [], error

    # Afterwards

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was accepted before is acked, dead-lettered, expired, dropped, or found damaged.

        Raises:
            TimedOut: Some of it is not; nothing is lost.
        """
        await self._started()
        await self._outcomes.all_settled(self.last, timeout)

    async def ready(self, consumers: int = 1, timeout: float | None = None) -> None:
        """Wait until at least so many consumers of the queue are connected.

        Raises:
            TimedOut: There are fewer.
        """
        consumers = check_count("consumers", consumers, "give how many there shall be", least=0)
        await self._started()

        def attempt() -> bool | None:
            self._node.ensure()
            if len(self.end.consumers) >= consumers:
                return True
            self.ending.check()
            return None

        def what() -> str:
            return (
                f"queue {self.queue!r} has {len(self.end.consumers)} of {consumers} consumers; "
                f"start one in the same fabric, and look at node.peers()"
                f"{unstarted.hint(self._node, queue=self.queue)}"
            )

        await wait_until(self._node.waiting, self._gate, attempt, timeout, what)

    def state(self, receipt: Receipt) -> str:
        """ "queued", "stored" (queued, and in the spool), "delivered", "processed", "dead", "expired", "dropped" or
        "damaged"."""
        self._node.ensure(closing=True)
        if not self.opened:
            raise stranger(receipt)
        return self._outcomes.state(receipt)

    async def wait(self, receipt: Receipt, state: State, timeout: float | None = None) -> None:
        """Wait until the message of `receipt` is "stored", "delivered" or "processed".

        Raises:
            NotConfirmed: It is not yet, and may still be: do not send it again.
            Rejected: It is dead-lettered, expired, dropped or damaged.
        """
        await self._started()
        check_state(state)
        timeout = check_timeout(timeout)
        await self._outcomes.confirm(receipt, state, timeout, timeout)

    async def close(self, timeout: float | None = None) -> None:
        """Take nothing more, wait until all that was accepted is settled or kept by the spool, and free the name.

        The 4,096 names of producers that a node has are those of open ones. What the spool keeps is still sent. Dead
        letters that no spool keeps end with the producer. `node.producer(queue)` opens it again, and goes on counting.

        Raises:
            TimedOut: Some of it is not settled. The producer takes nothing more, and has its name; close it again.
        """
        timeout, node, outbox = check_timeout(timeout), self._node, self._outbox
        if node.is_closed or node.life is Life.FORKED:
            return
        refuse_to_wait(node.waiting)
        late = not self.opened and node.is_running
        if late and self.late is not None:
            await self._open_late(self, self._gate)  # it is being opened: only then can it be closed
        outbox.retire()

        def attempt() -> bool | None:
            node.ensure(closing=True)
            if not outbox.retired or self.is_done():
                return True
            self.ending.check()
            return None

        def what() -> str:
            left, consumers = self.end.unsettled_count, len(self.end.consumers)
            return (
                f"queue {self.queue!r}: {counted(left, 'message is', 'messages are')} not settled and "
                f"{counted(consumers, 'consumer is', 'consumers are')} known; "
                f"start some, or close the producer later"
            )

        while True:
            if self.opened:
                with lease_paused(node.pump):
                    left = lambda: self.end.unsettled_count  # noqa: E731
                    await wait_until(node.waiting, self._gate, attempt, timeout, what, moved=left)
            if not outbox.retired or await self._leave(self, self._gate):
                return

    def is_done(self) -> bool:
        """Whether nothing that was accepted, before it was closed, ends with this process."""
        with self._node.pump.lock:
            return self._outbox.idle and self.end.next > self._outbox.last and not self.end.volatile_count

    # Dead letters

    def retry_letter(self, identity: str) -> bool:
        """Send a dead letter again, in order with the other sends.

        Raises:
            SpoolError: The disk did not take it; the letter stays.
            NodeClosed: The node closes; the letter stays.
        """
        refuse_inside()  # in the middle of this the letter would be nowhere
        self._node.ensure()
        with self._node.pump.lock:
            letter = self.end.take_dead_letter(identity)
        if letter is None:
            return False
        self._outbox.retry(letter)
        return True

    def drop_letter(self, identity: str) -> bool:
        """Forget a dead letter."""
        refuse_inside()
        self._node.ensure(closing=True)
        with self._node.pump.lock:
            dropped = self.end.take_dead_letter(identity) is not None
        if dropped:
            self._outbox.drop(identity)
        return dropped
