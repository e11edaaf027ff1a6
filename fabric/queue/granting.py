"""How a consumer shares out what it has room for among the producers of a queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from peerfabric.queue.source import Source

QUANTUM: Final = 256 * 1024
"""Bytes that each producer may hand out in its turn, and may have on the way besides."""
DONE_RANGES_MAX: Final = 100_000
"""Ranges of results that a producer has yet to settle. Beyond that it gets no credit, as they could grow for ever."""


STALLED_AFTER: Final = 1.0
"""Granted credit that was not spent for so long, though messages wait, is lent to others: who says that it waits and
sends nothing (it hangs, or nothing that it has may come here) does not keep them from their share."""


def grant(sources: Iterable[Source], window: int, budget: int, now: float) -> list[Source]:
    """Raise the totals of `sources` as far as `window` messages and `budget` bytes over all of them allow.

    Those that wait share what is free, in the order given; the others get one message each, to begin with. What counts
    against the window is what is here, and what those that wait will send.

    Returns:
        Those whose totals were raised.
    """
    free, free_bytes = window, budget
    attached: list[Source] = []
    waiting = 0
    for source in sources:
        source.sends = False
        if not source.attached:
            continue
        attached.append(source)
        credit = source.credit
        if credit.seen_messages != credit.seen_before:
            credit.seen_before, credit.moved_at = credit.seen_messages, now
        unused = credit.granted_messages - credit.seen_messages
        source.sends = credit.waiting > 0 and (unused <= 0 or now - credit.moved_at < STALLED_AFTER)
        waiting += source.sends
        free -= (credit.granted_messages if source.sends else credit.seen_messages) - credit.freed_messages
        seen = credit.seen_bytes
        free_bytes -= (credit.granted_bytes if credit.granted_bytes > seen else seen) - credit.freed_bytes
    raised: list[Source] = []
    share_bytes = budget // len(attached) if attached else 0
    for source in attached:
        credit = source.credit
        before = credit.granted_messages
        if free > 0 and (source.sends or before <= credit.seen_messages) and not _remembers_too_much(source):
            share = 1
            if source.sends:
                share = max(1, free // waiting)
                waiting -= 1
                free -= share
            credit.granted_messages += share
            credit.moved_at = now
        size = 0
        if credit.granted_messages != credit.seen_messages:
            size = _bytes_wanted(source, window, share_bytes)
            size = min(size, free_bytes)
            if size > 0:
                credit.granted_bytes += size
                free_bytes -= size
        if size > 0 or credit.granted_messages != before:
            raised.append(source)
    return raised


def _remembers_too_much(source: Source) -> bool:
    messages = 0
    for dedup in source.streams.values():
        messages += dedup.done.total
    return messages >= DONE_RANGES_MAX and sum(len(d.done) for d in source.streams.values()) >= DONE_RANGES_MAX


def _bytes_wanted(source: Source, window: int, share: int) -> int:
    """What `source` lacks for the messages that it is granted, at the sizes seen so far.

    Also if the window has no room for more messages: a producer that has those and no bytes would send one message a
    round trip, which looks like slow handlers and keeps the window small. And at most for a window, as more would lie
    unused with those who have less to do.
    """
    credit = source.credit
    each = credit.seen_bytes // credit.seen_messages if credit.seen_messages else 0
    outstanding = credit.granted_messages - credit.freed_messages
    enough = QUANTUM + 2 * each * (outstanding if outstanding < window else window)
    granted, seen = credit.granted_bytes, credit.seen_bytes
    return (enough if enough < share else share) - (granted if granted > seen else seen) + credit.freed_bytes
