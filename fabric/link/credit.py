"""Credit: what a consumer still allows each producer to send, as totals since the link began.

The window follows the handlers: enough messages for `horizon` seconds of work at the measured pace, so
that slow jobs spread one by one and fast ones travel in large batches. It starts at one message and
doubles at most once per window processed (slow start, as TCP does), and falls at once when handlers slow
down.
"""

from __future__ import annotations

from math import inf
from typing import Final

PACE_WEIGHT: Final = 0.3
"""Share of the newest sample in the pace, unless it is more than twice or less than half of what it was."""
WINDOW_MAX: Final = 4_194_304


class Window:
    """How many messages a consumer wants in hand, from the pace of its handlers.

    `size` is in messages over all links together. Times are in seconds.
    """

    __slots__ = ("_done_in_round", "_horizon", "_sample_busy", "_sample_count", "_service", "at_least", "size")

    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._service: float | None = None
        self._sample_count, self._sample_busy = 0, 0.0
        self._done_in_round = 0
        self.size = 1
        self.at_least = 1
        """One message for each thread or task that processes, or the batch that a caller of `batches` wants."""

    @property
    def pace(self) -> float:
        """Seconds that a message takes, as measured; 0 before the first."""
        return self._service or 0.0

    def want(self, at_least: int) -> None:
        """The takers together want `at_least` messages, however slow they are."""
        self.at_least = max(1, min(at_least, WINDOW_MAX))
        self.size = max(self.size, self.at_least)

    def processed(self, count: int, busy: float) -> None:
        """`count` messages were finished in `busy` seconds during which there was always work in hand."""
        if count < 1:
            return
        self._sample_count += count
        self._sample_busy += busy
        if self._service is None or self._sample_busy >= self._horizon / 4:
            self._measure(max(self._sample_busy, 1e-9) / self._sample_count)
            self._sample_count, self._sample_busy = 0, 0.0
        self._done_in_round += count
        if self._done_in_round >= self.size:
            self.size = max(self.size, min(self._target(), self.size * 2))
            self._done_in_round = 0

    def _measure(self, service: float) -> None:
        """One message took `service` seconds, over a sample long enough that a hiccup does not count."""
        before = self._service
        if before is None or not 0.5 < service / before < 2:
            self._service = service
        else:
            self._service = before + PACE_WEIGHT * (service - before)
        if self._target() < self.size:
            self.size = max(self._target(), self.size // 2)
            self._done_in_round = 0

    def _target(self) -> int:
        assert self._service is not None
        return max(self.at_least, min(WINDOW_MAX, int(self._horizon / self._service)))


class ProducerCredit:
    """What the consumer at one link allows for one queue, seen from the producer.

    sent_messages <= limit_messages; sent_bytes <= limit_bytes, or one message outstanding; limits never fall.
    """

    __slots__ = ("limit_bytes", "limit_messages", "sent_bytes", "sent_messages")

    def __init__(self) -> None:
        self.limit_messages = self.limit_bytes = 0
        self.sent_messages = self.sent_bytes = 0

    def grant(self, messages: int, size: int) -> None:
        """Adopt the totals that the consumer granted."""
        self.limit_messages = max(self.limit_messages, messages)
        self.limit_bytes = max(self.limit_bytes, size)

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


class ConsumerCredit:
    """What this consumer granted to the producer at one link, and what has come of it."""

    __slots__ = (
        "freed_bytes",
        "freed_messages",
        "granted_bytes",
        "granted_messages",
        "moved_at",
        "seen_before",
        "seen_bytes",
        "seen_messages",
        "told",
        "waiting",
    )

    def __init__(self) -> None:
        self.granted_messages = self.granted_bytes = 0
        self.seen_messages = self.seen_bytes = 0
        self.freed_messages = self.freed_bytes = 0
        self.waiting = 0
        self.seen_before = 0
        self.moved_at = -inf
        """When credit was last granted, or messages came."""
        self.told = (0, 0)
        """The totals of the last grant that left in an ACK."""

    def outstanding(self) -> int:
        """Messages granted and not yet finished here, whether they have arrived or not."""
        return self.granted_messages - self.freed_messages

    def outstanding_bytes(self) -> int:
        """Bytes granted, or taken by a message that was larger than the grant, and not yet free."""
        return max(self.granted_bytes, self.seen_bytes) - self.freed_bytes

    def unused(self) -> int:
        """Messages granted that have not arrived."""
        return self.granted_messages - self.seen_messages

    def adopt(self, sent_messages: int, sent_bytes: int, waiting: int) -> None:
        """The producer's own totals replace ours, so a lost frame never shrinks the window for ever."""
        self.seen_messages = max(self.seen_messages, sent_messages)
        self.seen_bytes = max(self.seen_bytes, sent_bytes)
        self.waiting = waiting
