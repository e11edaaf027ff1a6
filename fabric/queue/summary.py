"""Summary of outgoing queues: what they still have."""

from __future__ import annotations

from collections.abc import Iterable

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
