"""Message filter: log records that say which message they are about."""

from __future__ import annotations

import logging

from peerfabric.nodes.handler_context import hand_here
from peerfabric.nodes.message import Batch, Message


class MessageFilter(logging.Filter):
    """Gives each record `message_id`, `queue` and `attempt` of what the thread or task that logs has in hand.

    Of several it is the newest; of a batch, the id of its first message. Without a message they are "", "" and 0, so a
    format may name them always: `handler.addFilter(MessageFilter())`, on a handler rather than a logger, to reach the
    records of all loggers. What a record has of these already stays: of `extra=`, or of the thread that logged it
    before a `QueueListener` handed it on.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        message_id, queue, attempt = "", "", 0
        hand = hand_here()
        held = hand.newest if hand is not None else None
        if isinstance(held, Message | Batch) and not held._settled:
            first = held._deliveries[0]
            message_id = held.id if isinstance(held, Message) else held.ids[0]
            queue, attempt = first.queue, first.attempt
        has = record.__dict__
        has.setdefault("message_id", message_id)
        has.setdefault("queue", queue)
        has.setdefault("attempt", attempt)
        return True
