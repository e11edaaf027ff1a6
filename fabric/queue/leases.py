"""Leases: how long user code may keep a message."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Final

from peerfabric.queue.delivery import Delivery, Verdict
from peerfabric.ranges import Ranges

OBSERVE_EVERY: Final = 1.0
"""How exactly the start of a lease is known, in seconds; it errs on the long side."""
OVERDUE_MAX: Final = 100
"""Deliveries whose handlers are waited for beyond their leases, in case that they ack after all."""


def observe(delivery: Delivery, now: float) -> None:
    """Note how much of `delivery` has been handed out by now."""
    observed = delivery.observed
    if observed and now - observed[-1][1] < OBSERVE_EVERY:
        observed[-1] = (delivery.next, now)
    else:
        observed.append((delivery.next, now))


def extend(delivery: Delivery, index: int, until: float) -> None:
    """The lease of one message does not end before `until`."""
    delivery.extended[index] = until


def pause(delivery: Delivery, now: float) -> None:
    """A handler of `delivery` waits inside a call of ours: its lease stands still."""
    delivery.pauses += 1
    if delivery.paused_at is None:
        delivery.paused_at = now


def resume(delivery: Delivery, now: float) -> None:
    """A handler goes on; the lease with the last of them."""
    delivery.pauses -= 1
    if delivery.pauses == 0 and delivery.paused_at is not None:
        waited = now - delivery.paused_at
        delivery.observed = [(index, at + waited) for index, at in delivery.observed]
        delivery.paused_at = None


def lapsed(delivery: Delivery, lease: float, now: float) -> Iterator[int]:
    """The indexes of `delivery` whose lease of so many seconds is over.

    The caller takes each from `delivery` before it asks for the next.
    """
    if delivery.paused_at is not None:
        return
    while delivery.observed and delivery.observed[0][1] + lease <= now:
        kept = False
        for low, high in delivery.unsettled(0, min(delivery.observed[0][0], delivery.limit)):
            for index in range(low, high):
                if delivery.extended.get(index, now) > now:
                    kept = True
                else:
                    yield index
        if kept:
            return
        delivery.observed.pop(0)
    # The front marks are spent once everything below them is settled.
    while len(delivery.observed) > 1 and delivery.observed[0][0] <= delivery.reported:
        delivery.observed.pop(0)


def look_at(delivery: Delivery, lease: float, now: float) -> float:
    """When `observe` or `lapsed` has something to find in `delivery`."""
    observed = delivery.observed
    if not observed or delivery.paused_at is not None or observed[-1][0] < delivery.limit:
        return now + OBSERVE_EVERY
    ends_at = observed[0][1] + lease
    return ends_at if ends_at > now else now + OBSERVE_EVERY


def in_hand_since(delivery: Delivery, now: float) -> float:
    """When the oldest was handed out of what user code has of `delivery`.

    inf: it has nothing, waits inside a call of ours, or has extended a lease, and so knows how long it takes.
    """
    if delivery.paused_at is not None or any(until > now for until in delivery.extended.values()):
        return inf
    for index, at in delivery.observed:
        if delivery.unsettled(0, min(index, delivery.limit)):
            return at
    return inf


def mark_overdue(delivery: Delivery, index: int) -> None:
    """The lease of one message has ended while user code has it."""
    if delivery.overdue is None:
        delivery.overdue = Ranges()
    delivery.overdue.add(index, index + 1)


class Overdue:
    """Acks of user code for messages whose lease had ended, also for deliveries of which nothing is ours any more.

    Once acked they are processed all the same: the ledger says so, and so must we, or they would run again here.

    Args:
        bytes_max: So many bytes of deliveries are waited for, the latest.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._closed: dict[Delivery, None] = {}
        self._acked: list[tuple[Delivery, int, int]] = []

    def __bool__(self) -> bool:
        return bool(self._closed) or bool(self._acked)

    def add(self, delivery: Delivery) -> None:
        """Nothing of `delivery` is ours any more, and user code still has messages of it."""
        self._closed[delivery] = None
        size = sum(memoryview(each.body).nbytes for each in self._closed)
        while len(self._closed) > OVERDUE_MAX or (self._closed and size > self._bytes_max):
            oldest = next(iter(self._closed))
            size -= memoryview(oldest.body).nbytes
            del self._closed[oldest]

    def acked(self, delivery: Delivery, low: int, high: int) -> None:
        """User code acked `[low, high)` of `delivery`, some of which is overdue."""
        self._acked.append((delivery, low, high))

    def take_acked(self) -> list[tuple[Delivery, int, int]]:
        """The index ranges that were acked after their leases, since the last call."""
        for delivery in self._closed:
            if delivery.acked > delivery.reported:
                self._acked.append((delivery, delivery.reported, delivery.acked))
                delivery.reported = delivery.acked
            while delivery.verdicts:
                verdict, low, high, _, _ = delivery.verdicts.popleft()
                if verdict is Verdict.ACK:
                    self._acked.append((delivery, low, high))
        acked, self._acked = self._acked, []
        late = []
        for delivery, low, high in acked:
            if delivery.overdue:
                late += [(delivery, a, b) for a, b in delivery.overdue.common(low, high)]
                delivery.overdue.remove(low, high)
                if not delivery.overdue:
                    self._closed.pop(delivery, None)
        return late
