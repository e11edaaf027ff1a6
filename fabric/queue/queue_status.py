"""Status of one queue, at its producer and at its consumer.

Nothing is counted for it: it is read from what is there, in time that does not grow with the messages of the queue.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from itertools import islice
from math import inf
from typing import Final

from peerfabric.link.link import Link
from peerfabric.queue.delivery import Delivery
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.status import InHand, Letters, Sending, Taking

RUNNING_MAX: Final = 20
"""Messages in hand that are shown of one queue, the oldest."""


def sending(end: OutgoingQueue, links: Mapping[str, Link], unix_ms: int) -> Sending:
    """The producer's side; `unix_ms` is now, by the clock that `sent_ms` is of."""
    found = [links[peer] for peer in end.consumers if peer in links]
    credits = [link.sending.credits.get(end.queue) for link in found]
    dead = end.dead
    return Sending(
        queue=end.queue,
        account=end.account(),
        oldest_waiting=_age(end.oldest_waiting_ms, unix_ms),
        oldest_unsettled=_age(end.oldest_ms, unix_ms),
        consumers=tuple(link.name for link in found),
        credit_free=sum(credit.available()[0] for credit in credits if credit is not None),
        letters=Letters(count=len(dead), bytes=dead.bytes, full=end.dead_letters_full, by_reason=dict(dead.by_reason)),
        spooled=end.backlog is not None,
    )


def _age(sent_ms: int | None, unix_ms: int) -> float | None:
    """Seconds since then; no less than none, whatever became of the clock."""
    return None if sent_ms is None else max(0.0, (unix_ms - sent_ms) / 1000)


def taking(end: IncomingQueue, links: Mapping[str, Link], now: float) -> Taking:
    """The consumer's side; what only its user knows is left out."""
    running = tuple(in_hand(end, now))
    return Taking(
        queue=end.queue,
        account=end.account(),
        producers=tuple(links[peer].name for peer in end.producers.by_peer if peer in links),
        last_taken=now - end.handed_at if end.handed_at > -inf else None,
        running=running,
        longest_running=running[0].age if running else 0.0,
        lease=end.lease,
        paused=end.paused,
    )


def in_hand(end: IncomingQueue, now: float) -> list[InHand]:
    """The oldest of what user code has, the very oldest first; ages are exact within a second, and not too high."""
    found = (each for delivery in end.in_hand for each in islice(_handed_out(delivery, now), RUNNING_MAX))
    oldest = heapq.nlargest(RUNNING_MAX, found, key=lambda each: each[0])
    return [
        InHand(
            id=f"{delivery.stream}/{delivery.first + index}",
            age=age,
            attempt=delivery.attempt,
            lease_left=max(0.0, end.lease - age, delivery.extended.get(index, now) - now),
        )
        for age, delivery, index in oldest
    ]


def _handed_out(delivery: Delivery, now: float) -> Iterator[tuple[float, Delivery, int]]:
    """Age and index of what was handed out of `delivery` and is not decided, the oldest first."""
    below = max(delivery.acked, delivery.reported)
    for stop, at in (*delivery.observed, (delivery.next, now)):
        for low, high in delivery.unsettled(below, min(stop, delivery.limit)):
            for index in range(low, high):
                yield max(0.0, now - at), delivery, index
        below = max(below, stop)
