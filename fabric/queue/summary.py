"""Summary of outgoing queues: what they still have, and messages that get no further."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from peerfabric.errors import counted
from peerfabric.health import HANDED_ON_AFTER, NO_CONSUMER_AFTER, Finding
from peerfabric.queue.outgoing import OutgoingQueue


def unsettled(ends: Iterable[OutgoingQueue]) -> tuple[int, int]:
    """Messages waiting and in flight that no spool keeps."""
    waiting = in_flight = 0
    for end in ends:
        flying = min(end.in_flight.count, end.volatile_count)
        in_flight += flying
        waiting += end.volatile_count - flying
    return waiting, in_flight


def letters_in_memory(ends: Iterable[OutgoingQueue]) -> dict[str, int]:
    """How many dead letters no spool keeps, of each queue that has some."""
    counts = {end.queue: len(end.letters()) for end in ends if end.backlog is None or not end.backlog.kept}
    return {queue: count for queue, count in counts.items() if count}


def findings(end: OutgoingQueue) -> Iterator[Finding]:
    """What is the matter with a queue that has unsettled messages."""
    if end.watch is not None and end.watch.waits:
        yield Finding(
            f"queue {end.queue!r}: messages that were handled are not acked before what was sent here is "
            f"settled, and nothing is",
            HANDED_ON_AFTER,
            f"{counted(len(end.consumers), 'consumer is', 'consumers are')} known; start some, give this node a "
            f'spool=, or use ack_after="return" where that was sent',
            end.watch.moved_at,
        )
    if not end.consumers:
        yield Finding(
            f"queue {end.queue!r}: messages wait without a consumer",
            NO_CONSUMER_AFTER,
            "start one; node.peers() tells who consumes what",
        )
