"""Publisher and subscriber of topics, for programs that block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from peerfabric.nodes.async_topics import AsyncPublisher, AsyncSubscriber
from peerfabric.nodes.message import Update
from peerfabric.nodes.waiting import complete

T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class Publisher(Generic[T_contra]):
    """The one handle of this node for publishing on a topic. Thread-safe: a thread's messages keep their order."""

    def __init__(self, publisher: AsyncPublisher[T_contra]) -> None:
        self._async = publisher
        self._try_publish = publisher.try_publish
        self.topic = publisher.topic

    def publish(self, body: T_contra, *, topic: str | None = None, headers: dict[str, str] | None = None) -> None:
        """Send `body` to every subscriber of the topic, or of another `topic` for this one message.

        It is numbered, so a subscriber that misses it knows.

        Raises:
            EncodeError: Not of the body type, or not encodable. Nothing was sent.
        """
        if topic is not None or not self._try_publish(body, headers):
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

    def __iter__(self) -> UpdateIterator[T_co]:
        return UpdateIterator(self._async)

    def batches(self, max_size: int = 1000, max_wait: float = 0.0) -> UpdateBatchIterator[T_co]:
        """Iterate over lists of what is here, at most `max_size` updates each."""
        self._async.batches(max_size, max_wait)
        return UpdateBatchIterator(self._async, max_size, max_wait)

    def close(self) -> None:
        """Receive no more; what is buffered is dropped. `node.subscriber(pattern)` opens a new one."""
        self._async.close()


class UpdateIterator(Generic[T_co]):
    """Yields updates until the subscriber or its node is closed."""

    def __init__(self, subscriber: AsyncSubscriber[T_co]) -> None:
        self._subscriber = subscriber

    def __iter__(self) -> Iterator[Update[T_co]]:
        return self

    def __next__(self) -> Update[T_co]:
        update = complete(self._subscriber.next_update(self._subscriber.waiting))
        if update is None:
            raise StopIteration
        return update


class UpdateBatchIterator(Generic[T_co]):
    """Yields lists of updates until the subscriber or its node is closed."""

    def __init__(self, subscriber: AsyncSubscriber[T_co], max_size: int, max_wait: float) -> None:
        self._subscriber = subscriber
        self._max_size, self._max_wait = max_size, max_wait

    def __iter__(self) -> Iterator[list[Update[T_co]]]:
        return self

    def __next__(self) -> list[Update[T_co]]:
        updates = complete(self._subscriber.next_batch(self._max_size, self._max_wait))
        if updates is None:
            raise StopIteration
        return updates
