"""Granting credit: how a consumer divides what it has room for among the producers of a queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Final

from peerfabric.link.credit import Window
from peerfabric.queue.source import Source

QUANTUM: Final = 256 * 1024
"""Bytes that each producer may hand out in its turn, and may have on the way besides."""
DONE_RANGES_MAX: Final = 100_000
"""Ranges of results that a producer has yet to settle. Beyond that it gets no credit, as they could grow for ever."""


STALLED_AFTER: Final = 1.0
"""Granted credit that was not spent for so long, though messages wait, is lent to others: who says that it waits and
sends nothing (it hangs, or nothing that it has may come here) does not keep them from their share."""


REFUSALS_MAX: Final = 10
"""Refusals in a row after which a consumer gets no credit for a while: else the wrong one, being fastest, eats the
queue."""
REFUSAL_PAUSE: Final = 5.0


class Granting:
    """When a queue's producers get credit, and how much over all links.

    Args:
        budget: Bytes granted and not yet finished.
        horizon: Seconds of work to keep in hand.
    """

    def __init__(self, budget: int, horizon: float) -> None:
        self.budget = budget
        self.window = Window(horizon)
        self.changed = True
        """A total, a taker or the window has changed since the last grant."""
        self.misled = 0
        """How often refusals in a row stopped the credit, for the driver to report."""
        self._refusals = 0
        self._paused_until = -inf
        self._stalled_at = inf
        """When the credit of the next that sends nothing is lent to others."""
        self._turn = 0

    def refused(self, count: int) -> None:
        """So many messages did not fit the consumer's type."""
        self._refusals += count
        if self._refusals >= REFUSALS_MAX:
            self._refusals = 0
            self.misled += 1
            self._paused_until = inf  # `grant` puts the pause from its own now

    def processed(self, count: int, busy: float) -> None:
        """So many messages were processed in `busy` seconds during which there was always work in hand."""
        self.window.processed(count, busy)
        self._refusals = 0

    def grant(self, sources: Mapping[str, Source], now: float) -> list[Source]:
        """Raise the totals of `sources`, another one first each time; return those that were raised."""
        if self._paused_until == inf:
            self._paused_until = now + REFUSAL_PAUSE
        if now < self._paused_until or (not self.changed and now < self._stalled_at):
            return []
        self.changed, self._stalled_at = False, inf
        order = list(sources.values())
        if len(order) <= 1:
            return grant(order, self.window.size, self.budget, now)
        self._turn = (self._turn + 1) % len(order)
        raised = grant(order[self._turn :] + order[: self._turn], self.window.size, self.budget, now)
        self._stalled_at = min((s.credit.moved_at + STALLED_AFTER for s in order if s.sends), default=inf)
        return raised

    def deadline(self, now: float) -> float:
        """When `grant` may raise totals though nothing has changed; inf if never."""
        if now < self._paused_until < inf:
            return self._paused_until
        return self._stalled_at if self._stalled_at > now else inf


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
