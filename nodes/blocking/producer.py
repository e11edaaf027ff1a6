"""Producer of a queue, for programs that block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from peerfabric.nodes.aio.producer import AsyncProducer, kind_for
from peerfabric.nodes.fronts import HANDLE_COPIED, refusing
from peerfabric.nodes.handler_context import Input, hand_here
from peerfabric.nodes.io.waiting import complete
from peerfabric.nodes.message import IN_HAND, Cause, Message
from peerfabric.queue.runs import DEPTH_MAX
from peerfabric.receipt import Receipt, State

T_contra = TypeVar("T_contra", contravariant=True)

_NONE: Final[Sequence[Input]] = ()
NOT_DEEP: Final = DEPTH_MAX - 1
"""An output of a message with a lower depth than that is not deep."""


class Producer(Generic[T_contra]):
    """The one handle of this node for sending to a queue. Thread-safe: a thread's sends keep their order."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(self, producer: AsyncProducer[T_contra]) -> None:
        self._async = producer
        self._ending = producer.ending
        self._try_send = producer.try_send
        self.queue = producer.queue

    def send(
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

        Interrupted by Ctrl-C, it is accepted and will be delivered, or it never is.

        Args:
            body: Encoded before this returns; later changes to it are not sent.
            headers: Text for the handler, at most 8 KiB.
            confirm: Also wait until it is "stored" (in the spool; with one, a plain `send` waits for that as well),
                "delivered" (in a consumer's memory) or "processed" (acked).
            ttl: Seconds from now after which it is not handed out any more, but ends as expired; None: never.
            timeout: Seconds to wait for room and for the confirmation together; None: for ever.
            cause: A message or batch that is acked only when this one is settled, or in a spool; None: none is. Left
                out, what this thread has in hand, such as the message of a handler.

        Raises:
            EncodeError: Not of the body type, or not encodable. Not accepted.
            ConfigError: "stored", and there is no spool that takes every message; or a ttl that is none. Not accepted.
            QueueFull, SpoolFull: No room, in memory or on disk, as `on_full` says. Not accepted.
            SpoolError: The disk refused. Not accepted.
            NodeClosed: The node closes. Not accepted.
            NotConfirmed: Accepted, and may still be processed: do not send it again.
            Rejected: Accepted and dead-lettered, or expired, while waiting for the confirmation.
            WouldDeadlock: A finaliser or a signal handler sends, and would wait for what it interrupts. Not accepted.
        """
        if confirm is None and not self._ending.signal:
            hand, inputs, single = hand_here(), _NONE, None
            kind = None if ttl is None else kind_for(ttl)
            outputs = self._async.outputs
            if cause is not IN_HAND or (hand is not None and hand.earlier):
                inputs, kind = self._async.inputs_of(cause, kind)
            elif hand is not None and (newest := hand.newest) is not None and not newest._settled:
                # Nearly all are the only output of one message, and cost no call more than if nothing waited for them.
                if self._async.is_safe or not newest._owner.waits_for_outputs:
                    pass
                elif (
                    outputs is not None
                    and kind is None
                    and isinstance(newest, Message)
                    and newest._outputs is None
                    and newest._owner.end.handon is not None
                    and newest._delivery.depth < NOT_DEEP
                ):
                    single, kind = newest, outputs.below[newest._delivery.depth]
                else:
                    inputs, kind = self._async.inputs_of(cause, kind)
            receipt = self._try_send(body, headers, kind)
            if receipt is not None:
                if single is not None and outputs is not None:
                    output = (single._delivery, single._index, outputs.watch, outputs.base + receipt.sequence)
                    # No call in these two lines: other threads add to it, too.
                    if single._outputs is None:
                        single._outputs = output
                        return receipt
                    inputs = (single,)
                if inputs:
                    self._async.add_outputs(inputs, receipt.sequence, receipt.sequence + 1)
                return receipt
        sending = self._async.send(body, headers=headers, confirm=confirm, ttl=ttl, timeout=timeout, cause=cause)
        return complete(sending)

    def send_many(
        self,
        bodies: Iterable[T_contra],
        *,
        ttl: float | None = None,
        timeout: float | None = None,
        cause: Cause = IN_HAND,
    ) -> int:
        """Hand over `bodies` in order and return how many there were; much faster than one by one.

        `ttl` and `cause` are of all of them, and as of `send`.

        Whatever this raises, Ctrl-C included, has an attribute `accepted`: so many of them, the first ones, are
        accepted and will be delivered, and the others never.

        Raises:
            ConfigError, EncodeError, QueueFull, SpoolFull, SpoolError, NodeClosed, NotConfirmed: As of `send`, for the
                first of the bodies that is not accepted, or, NotConfirmed, for the last that are.
        """
        return complete(self._async.send_many(bodies, ttl=ttl, timeout=timeout, cause=cause))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was accepted before is acked, dead-lettered, expired, dropped, or found damaged.

        Raises:
            TimedOut: Some of it is not; nothing is lost.
        """
        complete(self._async.flush(timeout))

    def ready(self, consumers: int = 1, timeout: float | None = None) -> None:
        """Wait until at least so many consumers of the queue are connected.

        Raises:
            TimedOut: There are fewer.
        """
        complete(self._async.ready(consumers, timeout))

    def close(self, timeout: float | None = None) -> None:
        """Take nothing more, wait until all that was accepted is settled or kept by the spool, and free the name.

        The 4,096 names of producers that a node has are those of open ones. What the spool keeps is still sent. Dead
        letters that no spool keeps end with the producer. `node.producer(queue)` opens it again, and goes on counting.

        Raises:
            TimedOut: Some of it is not settled. The producer takes nothing more, and has its name; close it again.
        """
        complete(self._async.close(timeout))

    def state(self, receipt: Receipt) -> str:
        """ "queued", "stored" (queued, and in the spool), "delivered", "processed", "dead", "expired", "dropped" or
        "damaged"."""
        return self._async.state(receipt)

    def wait(self, receipt: Receipt, state: State, timeout: float | None = None) -> None:
        """Wait until the message of `receipt` is "stored", "delivered" or "processed".

        Raises:
            NotConfirmed: It is not yet, and may still be: do not send it again.
            Rejected: It is dead-lettered, expired, dropped or damaged.
        """
        complete(self._async.wait(receipt, state, timeout))
