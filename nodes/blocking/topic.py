"""Publisher and Subscriber of topics, for programs that block."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from peerfabric.nodes.aio.topic import AsyncPublisher, AsyncSubscriber
from peerfabric.nodes.blocking.iterators import Items
from peerfabric.nodes.fronts import BLOCKING_FOR, HANDLE_COPIED, refusing
from peerfabric.nodes.io.waiting import complete
from peerfabric.nodes.message import Update

T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class Publisher(Generic[T_contra]):
    """The one handle of this node for publishing on a topic. Thread-safe: a thread's messages keep their order."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(self, publisher: AsyncPublisher[T_contra]) -> None:
        self._async = publisher
        self._ending = publisher.ending
        self._try_publish = publisher.try_publish
        self.topic = publisher.topic

    def publish(self, body: T_contra, *, topic: str | None = None, headers: dict[str, str] | None = None) -> None:
        """Send `body` to every subscriber of the topic, or of another `topic` for this one message.

        It is numbered, so a subscriber that misses it knows. Each other `topic` counts as a publisher of the node,
        which stays; there may be 4,096.

        Raises:
            ConfigError: There are, or the topic's publisher has another type. Nothing was sent.
            EncodeError: Not of the body type, or not encodable. Nothing was sent.
        """
        if topic is not None or self._ending.signal or not self._try_publish(body, headers):
            complete(self._async.publish(body, topic=topic, headers=headers))

    def publish_many(self, bodies: Iterable[T_contra]) -> int:
        """Send `bodies` in order and return how many there were; much faster than one by one.

        Raises:
            EncodeError: The bodies before the one at fault are sent; `error.accepted` counts them.
        """
        return complete(self._async.publish_many(bodies))

    def ready(self, subscribers: int = 1, timeout: float | None = None) -> None:
        """Wait until at least so many subscriptions to the topic are confirmed: they miss nothing from here on.

        Raises:
            TimedOut: There are fewer.
        """
        complete(self._async.ready(subscribers, timeout))


class Subscriber(Generic[T_co]):
    """The one handle of this node for a pattern of topics. Thread-safe: each update goes to one caller."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(self, subscriber: AsyncSubscriber[T_co]) -> None:
        self._async = subscriber
        self.pattern = subscriber.pattern

    @property
    def missed(self) -> int:
        """How many updates are known to have existed and did not reach this subscriber."""
        return self._async.missed

    def get(self, timeout: float | None = None) -> Update[T_co]:
        """Take the next update.

        Raises:
            TimedOut: None came; nothing was taken.
            NodeClosed: The subscriber or its node is closed.
        """
        return complete(self._async.get(timeout))

    if not TYPE_CHECKING:
        __aiter__ = refusing(BLOCKING_FOR)

    def __iter__(self) -> Items[Update[T_co]]:
        self._async.ending.check()
        return Items(partial(self._async.next_update, self._async.waiting))

    def batches(self, max_size: int = 1000, max_wait: float = 0.0) -> Items[list[Update[T_co]]]:
        """Iterate over lists of what is here, at most `max_size` updates each."""
        return Items(self._async.taking(max_size, max_wait))

    def close(self) -> None:
        """Receive no more; what is buffered is dropped. `node.subscriber(pattern)` opens a new one."""
        self._async.close()
