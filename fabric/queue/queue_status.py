"""Status of one queue, at its producer and at its consumer.

Nothing is counted for it: it is read from what is there, in time that does not grow with the messages of the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from peerfabric.link.link import Link
from peerfabric.queue.in_hand import in_hand, overdue
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.status import Letters, Sending, Taking


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
    running = tuple(sorted([*overdue(end, now), *in_hand(end, now)], key=lambda each: -each.age))
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
