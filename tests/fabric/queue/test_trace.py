"""Trace of one message, at its producer and at a consumer."""

from __future__ import annotations

from typing import Any

from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.trace import trace_received, trace_sent
from peerfabric.wire.frames import FAILED, REJECTED, Nack
from tests.fabric.helpers import STREAM, bodies, claim, consumer, dispatch, producer, receive, take
from tests.fabric.queue.test_durable import OLD, load, spooled


def sent(end: OutgoingQueue, sequence: int, now: float = 0.0, stream: str = STREAM) -> dict[str, Any]:
    return trace_sent(end, stream, sequence, {}, now)


def test_each_state_at_the_producer() -> None:
    """From what waits to what is settled."""
    end = producer()
    end.accept(bodies(2), 5_000)
    waiting = {"state": "waiting", "attempt": 1, "deaths": 0, "sent_at": 5.0}
    assert [sent(end, 1), sent(end, 3), sent(end, 0)] == [waiting, {}, {}]
    dispatch(end, messages=1)
    assert sent(end, 1) == {**waiting, "state": "in flight", "consumer": "a:1"}
    end.delivered(1, 2)
    assert sent(end, 1)["state"] == "delivered"
    end.nacked("a:1", Nack(1, 2, 1, FAILED, 60_000, "why"), 0.0)
    assert sent(end, 1) == {**waiting, "state": "delayed", "attempt": 2, "error": "why"}
    end.expire(60.0)
    assert sent(end, 1)["state"] == "waiting"
    dispatch(end)
    end.ran("a:1", 1, 2)
    assert sent(end, 1)["state"] == "handed on"
    end.acked("a:1", 1, 2)
    assert sent(end, 1) == {"state": "processed"}
    assert sent(end, 1, stream="x:1:jobs") == {}


def test_how_others_end() -> None:
    """Dead letters with their reason, as long as they are there; those that expire with the time that they have."""
    end = producer()
    end.accept(bodies(1), 0)
    end.accept(bodies(1), 0, kind=(10.0, 0))
    assert sent(end, 2, now=4.0)["expires_in"] == 6.0
    dispatch(end, messages=1)
    end.nacked("a:1", Nack(1, 2, 1, REJECTED, -1, "no"), 0.0)
    assert sent(end, 1) == {"state": "dead", "reason": "rejected", "error": "no", "attempt": 1, "deaths": 0}
    end.take_dead_letter(f"{STREAM}/1")
    assert sent(end, 1) == {"state": "dead", "error": "its dead letter was retried or dropped"}
    end.purge()
    assert sent(end, 2) == {"state": "dropped"}


def test_of_an_earlier_life_on_disk() -> None:
    """Under its old name, before and after it is read."""
    end = spooled(eras=[(OLD, 3, 7)])
    assert sent(end, 3, stream=OLD) == {"state": "on disk"}
    load(end, OLD, 3, 4)
    assert sent(end, 3, stream=OLD)["state"] == "waiting"
    assert sent(end, 2, stream=OLD) == {}


def test_each_state_at_the_consumer() -> None:
    """From the buffer to the ack, and until it is forgotten."""
    end = consumer()
    receive(end, 1, 2)

    def received(sequence: int, now: float = 3.0) -> dict[str, Any]:
        return trace_received(end, STREAM, sequence, now)

    there = {"attempt": 1, "producer": "shop"}
    assert [received(1), received(3)] == [{"state": "buffered", **there}, {}]
    delivery = take(end)
    claim(delivery)
    end.progress(1.0)
    assert received(1) == {"state": "in hand", "age": 2.0, **there}
    assert received(2) == {"state": "buffered", **there}
    delivery.ack(0, 1)
    end.progress(2.0)
    assert received(1) == {"state": "processed"}
    assert trace_received(end, "x:1:jobs", 1, 0.0) == {}


def test_what_has_run_and_waits() -> None:
    """In nobody's hands, and not processed."""
    end = consumer()
    receive(end, 1, 1)
    claim(take(end))
    delivery = end.in_hand[0]
    delivery.mark_gone(0, 1)
    delivery.let_go(1)
    end._close_if_finished(delivery)
    assert trace_received(end, STREAM, 1, 0.0) == {"state": "handed on"}
