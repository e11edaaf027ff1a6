"""Messages in the hands of user code, as their queue knows them, within their leases and after."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from math import inf
from typing import Final

from peerfabric.queue.delivery import Delivery, in_hand_since
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.status import InHand

RUNNING_MAX: Final = 20
"""Messages in hand that are shown of one queue, the oldest."""

Found = tuple[float, Delivery, int]
"""Age, delivery and index of one."""


def in_hand(end: IncomingQueue, now: float) -> list[InHand]:
    """The oldest of what user code has, the very oldest first; ages are exact within a second, and not too high."""
    found = (each for delivery in end.in_hand for each in islice(_handed_out(delivery, now), RUNNING_MAX))
    return _oldest(
        found,
        lambda age, delivery, index: max(0.0, end.lease - age, delivery.extended.get(index, now) - now),
    )


def overdue(end: IncomingQueue, now: float) -> list[InHand]:
    """The oldest of what user code may have though its lease is over, as nobody has settled it; as `in_hand`.

    Whether a thread or task has it is known to the driver, and not here.
    """
    found = (
        (now - (delivery.overdue_since or {}).get(index, now), delivery, index)
        for delivery in end.overdue
        for low, high in delivery.overdue or ()
        for index in range(low, high)
    )
    return _oldest(found, lambda age, delivery, index: min(0.0, end.lease - age))


def _oldest(found: Iterable[Found], lease_left: Callable[[float, Delivery, int], float]) -> list[InHand]:
    return [
        InHand(
            id=f"{delivery.stream}/{delivery.first + index}",
            age=age,
            attempt=delivery.attempt,
            lease_left=lease_left(age, delivery, index),
        )
        for age, delivery, index in heapq.nlargest(RUNNING_MAX, found, key=lambda each: each[0])
    ]


def handed_since(end: IncomingQueue, now: float) -> float:
    """When user code was given the oldest of what it has within a lease; inf if nothing, or it extended the lease."""
    return min((in_hand_since(delivery, now) for delivery in end.in_hand), default=inf)


def _handed_out(delivery: Delivery, now: float) -> Iterator[Found]:
    """Age and index of what was handed out of `delivery` and is not decided, the oldest first."""
    below = max(delivery.acked, delivery.reported)
    for stop, at in (*delivery.observed, (delivery.next, now)):
        for low, high in delivery.unsettled(below, min(stop, delivery.limit)):
            for index in range(low, high):
                yield max(0.0, now - at), delivery, index
        below = max(below, stop)
