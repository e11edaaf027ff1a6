"""Trace of one message: where it is now, at its producer and at a consumer.

Nothing is kept for it: what became of a message that is settled and forgotten, nobody knows any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from math import inf
from typing import Any, Final

from peerfabric.link.link import Link
from peerfabric.queue.delivery import Delivery
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import Run

PLACES: Final = {"waiting": "waiting", "returned": "waiting", "delayed": "delayed"}


def trace_sent(end: OutgoingQueue, stream: str, sequence: int, links: Mapping[str, Link], now: float) -> dict[str, Any]:
    """What the producer knows; empty: it is no message of its own, or not handed over yet.

    state   "waiting", "delayed", "on disk", "in flight" (at `consumer`), "delivered" (in that one's memory),
            "handed on" (has run there, and waits for what was sent because of it), "processed", "dead", "expired",
            "dropped" or "damaged"
    """
    number = next((low for low, _ in end.numbers(stream, [sequence, sequence + 1])), None)
    if number is None or not 1 <= number < end.next:
        return {}
    letter = end.dead.find(f"{stream}/{sequence}")
    if letter is not None:
        told = {"reason": letter.reason, "error": letter.error, "attempt": letter.attempts, "deaths": letter.deaths}
        return {"state": "dead", **told}
    arrived = end.settled.of(number)
    if arrived and arrived != "delivered":
        return {"state": arrived} if arrived != "dead" else {"state": "dead", "error": end.why_dead(number)}
    for place, runs in end.pending.places():
        for run in runs:
            if run.first <= number < run.stop:
                return {"state": PLACES[place], **_of_run(run, now)}
    for peer, runs in end.in_flight.places():
        for run in runs:
            if run.first <= number < run.stop:
                state = "handed on" if run.ran else arrived or "in flight"
                consumer = links[peer].name if peer in links else peer
                return {"state": state, "consumer": consumer, **_of_run(run, now)}
    return {"state": "on disk"}


def _of_run(run: Run, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {"attempt": run.attempt, "deaths": run.deaths, "sent_at": run.sent_ms / 1000}
    if run.error:
        found["error"] = run.error
    if run.kind is not None and run.kind[0] < inf:
        found["expires_in"] = run.kind[0] - now
    return found


def trace_received(end: IncomingQueue, stream: str, sequence: int, now: float) -> dict[str, Any]:
    """What a consumer knows; empty: it has not got it, or has forgotten it.

    state   "buffered", "in hand" (for `age` seconds), "handed on" (has run, and waits for what was sent because of it)
            or "processed"
    """
    dedup = end.producers.streams.get(stream)
    if dedup is None:
        return {}
    if sequence in dedup.done:
        return {"state": "processed"}
    if sequence not in dedup.held:
        return {}
    buffers = (source.buffer for source in end.producers.by_peer.values())
    for delivery in chain(end.in_hand, *buffers):
        if delivery.stream == stream and delivery.first <= sequence < delivery.first + delivery.limit:
            return _of_delivery(delivery, sequence - delivery.first, now)
    return {"state": "handed on"}


def _of_delivery(delivery: Delivery, index: int, now: float) -> dict[str, Any]:
    found: dict[str, Any] = {"attempt": delivery.attempt, "producer": delivery.sender}
    if index >= delivery.next:
        return {"state": "buffered", **found}
    at = next((at for stop, at in delivery.observed if index < stop), now)
    return {"state": "in hand", "age": max(0.0, now - at), **found}
