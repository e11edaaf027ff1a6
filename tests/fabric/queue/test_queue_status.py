"""Status of one queue, at its producer and at its consumer."""

from __future__ import annotations

from math import inf

import pytest

from peerfabric.queue.delivery import extend
from peerfabric.queue.in_hand import RUNNING_MAX, in_hand
from peerfabric.queue.queue_status import sending, taking
from peerfabric.status import InHand, Letters
from peerfabric.wire.frames import FAILED, REJECTED, Nack
from tests.fabric.helpers import STREAM, Pair, bodies, claim, consumer, dispatch, producer, receive, take


def test_ages_are_of_what_is_first() -> None:
    """What waits in the order of sending; what is not settled with what a consumer has; a delayed one waits not yet."""
    end = producer()
    assert sending(end, {}, 9_000).oldest_unsettled is None
    end.accept(bodies(1), 1_000)
    dispatch(end)
    shown = sending(end, {}, 9_000)
    assert (shown.oldest_waiting, shown.oldest_unsettled) == (None, 8.0)
    end.accept(bodies(1), 4_000)
    shown = sending(end, {}, 9_000)
    assert (shown.oldest_waiting, shown.oldest_unsettled) == (5.0, 8.0)
    end.nacked("a:1", Nack(1, 2, 1, FAILED, 60_000), 0.0)
    shown = sending(end, {}, 9_000)
    assert (shown.oldest_waiting, shown.oldest_unsettled) == (5.0, 8.0)
    end.expire(60.0)
    assert sending(end, {}, 9_000).oldest_waiting == 8.0
    assert sending(end, {}, 0).oldest_waiting == 0.0, "the clock was set back"


def test_letters_by_reason() -> None:
    """Counted as they come and go; full when nothing is sent any more."""
    end = producer(max_attempts=1)
    end.accept(bodies(3), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 3, 1, REJECTED), 0.0)
    end.nacked("a:1", Nack(3, 4, 1, FAILED), 0.0)
    shown = sending(end, {}, 0).letters
    assert shown == Letters(count=3, bytes=end.dead.bytes, by_reason={"rejected": 2, "attempts": 1})
    end.take_dead_letter(f"{STREAM}/3")
    assert sending(end, {}, 0).letters.by_reason == {"rejected": 2}
    end.dead.bytes_max = 1
    assert sending(end, {}, 0).letters.full
    end.check()


def test_who_consumes_and_what_they_would_take() -> None:
    """By name, and the credit of all of them."""
    pair = Pair()
    end = pair.a.open_producer("jobs", 0, 5, 2**20, pair.now)
    at = pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.meet()
    at.want(1, 1, pair.now)
    pair.b.consumers.progress(at, pair.now)
    pair.settle(0.1)
    shown = sending(end, pair.a.links.by_peer, 0)
    assert (shown.consumers, shown.credit_free, shown.spooled) == (("b",), 1, False)
    assert taking(at, pair.b.links.by_peer, pair.now).producers == ("a",)


def test_what_is_in_hand() -> None:
    """The oldest first, each with its lease; neither what was acked nor what was not handed out."""
    end = consumer(lease=10.0)
    receive(end, 1, 4)
    delivery = take(end, now=1.0)
    claim(delivery, 2)
    end.progress(1.0)
    claim(delivery)
    end.progress(3.0)
    delivery.ack(0, 1)
    first = InHand(id=f"{STREAM}/2", age=3.0, lease_left=7.0)
    second = InHand(id=f"{STREAM}/3", age=1.0, lease_left=9.0)
    assert in_hand(end, 4.0) == [first, second]
    extend(delivery, 1, 104.0)
    shown = taking(end, {}, 4.0)
    assert [each.lease_left for each in shown.running] == [100.0, 9.0]
    assert (shown.longest_running, shown.last_taken) == (3.0, 1.0)


def test_nothing_was_ever_taken() -> None:
    """Somebody who waits has taken nothing."""
    end = consumer()
    end.want(1, 1, 5.0)
    assert taking(end, {}, 6.0).last_taken is None


@pytest.mark.parametrize("count", [RUNNING_MAX, 5000])
def test_few_of_many_are_shown(count: int) -> None:
    """However many one batch has."""
    end = consumer()
    receive(end, 1, count)
    claim(take(end), count)
    end.progress(0.0)
    assert [each.id for each in in_hand(end, 1.0)] == [f"{STREAM}/{n}" for n in range(1, RUNNING_MAX + 1)]


def test_a_paused_consumer_is_shown() -> None:
    """Also one from which nothing was taken."""
    end = consumer()
    end.paused = True
    shown = taking(end, {}, inf)
    assert (shown.paused, shown.running, shown.longest_running) == (True, (), 0.0)
