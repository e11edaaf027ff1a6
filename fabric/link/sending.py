"""Sending side of one life of a link: what is not echoed yet, and what the peer allows for each queue."""

from __future__ import annotations

from collections.abc import Container
from math import inf
from typing import Final

RESTS_FOR: Final = 5.0
"""Seconds after which a consumer that gave messages back unstarted is sent some again on the credit that it has left,
though it has not said since that it takes; twice as many each time that they come back,"""
RESTS_FOR_MAX: Final = 60.0
"""and so many at most."""


class Sent:
    """A DATA frame that the peer has not echoed yet."""

    __slots__ = ("number", "queue", "size", "start", "stop")

    def __init__(self, number: int, size: int, queue: str, start: int, stop: int) -> None:
        self.number, self.size, self.queue, self.start, self.stop = number, size, queue, start, stop


class Sending:
    """Written by the producer side only; each life of a link begins with a new one."""

    __slots__ = ("acks_applied", "acks_settled", "closed", "credits", "leases", "live_due", "releases", "told")

    def __init__(self) -> None:
        self.credits: dict[str, ProducerCredit] = {}
        self.closed: dict[str, int] = {}
        """Queue -> number of the INTEREST that named it no more. Totals began anew with it, on both sides, and grants
        that left before the peer had read it are of the old ones."""
        self.acks_applied = 0
        self.acks_settled = 0
        """The highest of its ACKs whose results cannot be forgotten here any more; without a spool, all applied."""
        self.releases: dict[str, list[int]] = {}
        """Stream -> ranges of what the peer need not run."""
        self.live_due = False
        """The peer is to be told which of our streams go on."""
        self.leases: dict[str, float] = {}
        """Queue -> seconds that the peer, as its consumer, may keep a message."""
        self.told = 0
        """Up to which change of our queues the peer was told what waits: see `Sender.ping_contents`."""

    def close(self, queues: Container[str], number: int) -> None:
        """The INTEREST of that number names just these queues of ours: with it ends our credit for others."""
        for queue in [queue for queue in self.credits if queue not in queues]:
            del self.credits[queue]
            self.closed[queue] = number

    def is_old(self, queue: str, echo: int) -> bool:
        """Whether a grant for `queue` is of before it was closed; its frame echoes ours up to number `echo`."""
        for name in [name for name, number in self.closed.items() if number <= echo]:
            del self.closed[name]
        return queue in self.closed

    def credit(self, queue: str) -> ProducerCredit:
        """Our credit for `queue` at this peer."""
        credit = self.credits.get(queue)
        if credit is None:
            credit = self.credits[queue] = ProducerCredit()
        return credit


class ProducerCredit:
    """What the consumer at one link allows for one queue, seen from the producer.

    sent_messages <= limit_messages; sent_bytes <= limit_bytes, or one message outstanding; limits never fall.
    """

    __slots__ = ("limit_bytes", "limit_messages", "rests_for", "rests_until", "sent_bytes", "sent_messages")

    def __init__(self) -> None:
        self.limit_messages = self.limit_bytes = 0
        self.sent_messages = self.sent_bytes = 0
        self.rests_until, self.rests_for = -inf, RESTS_FOR
        """Until then, or the next grant, nothing is sent there: it gave back what it had not started."""

    def grant(self, messages: int, size: int) -> None:
        """Adopt the totals that the consumer granted, perhaps once more: it takes."""
        self.rests_until, self.rests_for = -inf, RESTS_FOR
        self.limit_messages = max(self.limit_messages, messages)
        self.limit_bytes = max(self.limit_bytes, size)

    def rest(self, now: float) -> float:
        """Messages came back, and no grant with them; return until when nothing is sent there."""
        self.rests_until = now + self.rests_for
        self.rests_for = min(2 * self.rests_for, RESTS_FOR_MAX)
        return self.rests_until

    def available(self) -> tuple[int, int]:
        """Messages and bytes that may be sent now; (0, 0) if none."""
        messages, size = self.limit_messages - self.sent_messages, self.limit_bytes - self.sent_bytes
        return (messages, size if size > 0 else 0) if messages > 0 else (0, 0)

    def spend(self, messages: int, size: int, *, outstanding: int) -> None:
        """Count what is sent while `outstanding` messages are unsettled there."""
        self.sent_messages += messages
        self.sent_bytes += size
        assert self.sent_messages <= self.limit_messages, "more messages than were granted"
        alone = messages == 1 and not outstanding
        assert self.sent_bytes <= self.limit_bytes or alone, "more bytes than were granted"
