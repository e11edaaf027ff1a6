"""Consumer of a queue, for programs that block."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.blocking.iterators import Items
from peerfabric.nodes.fronts import BLOCKING_FOR, HANDLE_COPIED, refusing
from peerfabric.nodes.io.waiting import complete
from peerfabric.nodes.message import Batch, Message

T_co = TypeVar("T_co", covariant=True)


class Consumer(Generic[T_co]):
    """The one handle of this node for taking from a queue. Thread-safe: each message goes to one caller."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(self, consumer: AsyncConsumer[T_co]) -> None:
        self._async = consumer
        self.queue = consumer.queue

    def get(self, timeout: float | None = None) -> Message[T_co]:
        """Take the next message.

        Raises:
            TimedOut: None came; nothing was taken.
            NodeClosed: The consumer or its node is closed.
        """
        return complete(self._async.get(timeout))

    if not TYPE_CHECKING:
        __aiter__ = refusing(BLOCKING_FOR)

    def __iter__(self) -> Items[Message[T_co]]:
        ours = self._async
        ours.ending.check()
        return Items(partial(ours.next_message, ours.waiting), ours.rest, ours.take_again)

    def batches(self, max_size: int = 1000, max_wait: float = 0.0) -> Items[Batch[T_co]]:
        """Iterate over batches of what is here, at most `max_size` messages each.

        A batch that is not full waits `max_wait` seconds for more.
        """
        return Items(self._async.taking(max_size, max_wait), self._async.rest)

    def close(self) -> None:
        """Stop taking: what was not started goes to other consumers. `node.consumer(queue)` opens it again."""
        self._async.close()
