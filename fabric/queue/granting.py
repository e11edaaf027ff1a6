"""Granting credit: how a consumer divides what it has room for among the producers of a queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from peerfabric.link.credit import ConsumerCredit
from peerfabric.queue.source import Source
from peerfabric.queue.streams import Streams

QUANTUM: Final = 256 * 1024
"""Bytes that each producer may hand out in its turn, and may have on the way besides."""
DONE_RANGES_MAX: Final = 100_000
"""Ranges of results that a producer has yet to settle. Beyond that it gets no credit, as they could grow for ever."""


def grant(sources: Iterable[Source], streams: Streams, window: int, budget: int, now: float) -> None:
    """Raise the totals of `sources` as far as `window` messages and `budget` bytes over all of them allow.

    Those that wait share what is free, in the order given; the others get one message each, to begin with.
    """
    free, free_bytes = window, budget
    attached, waiting = [], []
    for source in sources:
        if source.attached:
            credit = source.credit
            free -= credit.used(now)
            free_bytes -= credit.outstanding_bytes()
            attached.append(source)
            if credit.sends(now):
                waiting.append(source)
    for source in attached:
        credit = source.credit
        if free <= 0:
            break
        if source not in waiting and credit.unused():
            continue
        if sum(len(streams[stream].done) for stream in source.streams) >= DONE_RANGES_MAX:
            continue
        if source in waiting:
            share = max(1, free // len(waiting))
            waiting.remove(source)
            free -= share
        else:
            share = 1
        credit.granted_messages += share
        credit.moved_at = now
    _grant_bytes([source.credit for source in attached], window, budget, free_bytes)


def _grant_bytes(credits: Sequence[ConsumerCredit], window: int, budget: int, free: int) -> None:
    """Bytes for the messages that are granted, at the sizes seen so far.

    Also if the window has no room for more messages: a producer that has those and no bytes would send one
    message a round trip, which looks like slow handlers and keeps the window small. And at most for a window,
    as more would lie unused with those who have less to do.
    """
    share = budget // max(1, len(credits))
    for credit in credits:
        if not credit.unused():
            continue
        size = credit.seen_bytes // credit.seen_messages if credit.seen_messages else 0
        enough = min(share, QUANTUM + 2 * size * min(credit.outstanding(), window))
        room = min(enough - credit.outstanding_bytes(), free)
        if room > 0:
            credit.granted_bytes += room
            free -= room
