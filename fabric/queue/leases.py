"""Leases: how long user code may keep a message, and what it still says of one that it kept for too long."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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


class Overdue:
    """Deliveries with indexes whose lease ended while user code had them.

    Once it acks them they are processed all the same: the ledger says so, and so must we, or they would run again here.
    """

    def __init__(self) -> None:
        self._indexes: dict[Delivery, Ranges] = {}
        self._acked: list[tuple[Delivery, int, int]] = []

    def __bool__(self) -> bool:
        return bool(self._indexes)

    def add(self, delivery: Delivery, index: int) -> None:
        """The lease of one message has ended."""
        self._indexes.setdefault(delivery, Ranges()).add(index, index + 1)

    def limit(self, bytes_max: int) -> None:
        """Of so many bytes of messages in all user code is waited for, the latest."""
        while len(self._indexes) > OVERDUE_MAX or sum(d.cost for d in self._indexes) > bytes_max:
            del self._indexes[next(iter(self._indexes))]

    def forget(self, stream: str, floor: int | None = None) -> None:
        """Messages of `stream`, or those below `floor` of it, are settled whatever user code says."""
        for delivery in [d for d in self._indexes if d.stream == stream and (floor is None or d.stop <= floor)]:
            del self._indexes[delivery]

    def acked(self, delivery: Delivery, low: int, high: int) -> None:
        """User code acked `[low, high)` of `delivery`, some of which may have lapsed."""
        if delivery in self._indexes:
            self._acked.append((delivery, low, high))

    def take_acked(self, handed_out: Collection[Delivery]) -> Iterator[tuple[Delivery, int, int]]:
        """What was acked after its lease; deliveries that are still `handed_out` are read by their end."""
        for delivery in self._indexes:
            if delivery in handed_out:
                continue
            if delivery.acked > delivery.reported:
                self._acked.append((delivery, delivery.reported, delivery.acked))
                delivery.reported = delivery.acked
            while delivery.verdicts:
                verdict, low, high, _, _ = delivery.verdicts.popleft()
                if verdict is Verdict.ACK:
                    self._acked.append((delivery, low, high))
        acked, self._acked = self._acked, []
        for delivery, low, high in acked:
            ranges = self._indexes.get(delivery, Ranges())
            for a, b in ranges.common(low, high):
                yield delivery, a, b
            ranges.remove(low, high)
            if not ranges:
                self._indexes.pop(delivery, None)
