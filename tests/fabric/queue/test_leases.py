"""Leases, and what is said after them."""

from __future__ import annotations

import pytest

from peerfabric.queue import delivery as leases
from peerfabric.queue.delivery import Delivery, Verdict
from peerfabric.queue.incoming import IncomingQueue
from tests.fabric.helpers import HUGE, STREAM, claim, consumer, receive, results, take


def test_the_lease_ends() -> None:
    """It starts when the message was handed out, and an extension holds it."""
    end = consumer(lease=10.0)
    receive(end, 1, 2)
    delivery = take(end)
    claim(delivery, 2)
    end.progress(0.0)
    leases.extend(delivery, 1, 15.0)
    end.expire(10.0)
    assert end.lapsed == [(STREAM, 1)]
    [result] = results(end)
    assert [(nack.start, nack.stop, nack.reason) for nack in result.nacks] == [(1, 2, 2)]
    end.expire(15.0)
    assert end.lapsed == [(STREAM, 1), (STREAM, 2)]
    delivery.ack(0, 2)
    assert end.account().processed == 0


def overdue() -> tuple[IncomingQueue, Delivery]:
    """An end whose three messages were handed out and have lapsed."""
    end = consumer(lease=10.0)
    receive(end, 1, 3)
    delivery = take(end)
    claim(delivery, 3)
    end.progress(0.0)
    end.expire(10.0)
    return end, delivery


@pytest.mark.parametrize("again", ["not yet", "buffered", "started", "settled"])
def test_an_ack_after_the_lease(again: str) -> None:
    """It is done: the producer hears so, and it does not run again here, wherever its next copy is by then."""
    end, delivery = overdue()
    [result] = results(end)
    assert [(nack.start, nack.stop) for nack in result.nacks] == [(1, 2), (2, 3), (3, 4)]
    copy = None
    if again in ("buffered", "started"):
        receive(end, 2, 1, sent=4, attempt=2)
    if again == "started":
        copy = take(end)
        assert claim(copy) == [b"0002"]
    if again == "settled":
        end.raise_floor(STREAM, 3)
    delivery.ack(1, 2)
    if again == "settled":
        assert [r.done for r in results(end, 2)] == [[2, 3]]
        return
    assert [r.done for r in results(end, 2)] == [[2, 3]]
    assert end.available(0.0) is False
    if copy is not None:
        copy.verdicts.append((Verdict.NACK, 0, 1, 0.0, "in vain"))
    receive(end, 2, 1, sent=5, attempt=3)
    assert end.available(0.0) is False
    assert [(r.done, r.nacks) for r in results(end, 3)] == [([2, 3], [])]


def test_an_ack_after_the_lease_of_what_came_again_as_one() -> None:
    """Each message of the new copy ends once, whether it has been started there or was taken back."""
    end, delivery = overdue()
    results(end)
    receive(end, 1, 3, sent=6, attempt=2)
    copy = take(end)
    assert claim(copy) == [b"0001"]
    delivery.ack(0, 3)
    assert [r.done for r in results(end, 2)] == [[1, 4]]
    assert end._sources["p:1"].credit.freed_messages == 6
    copy.ack(0, 1)
    results(end, 3)
    assert end.idle


def test_what_is_not_acked_after_its_lease_runs_again() -> None:
    """A late nack says nothing new."""
    end = consumer(lease=10.0)
    receive(end, 1, 1)
    delivery = take(end)
    claim(delivery)
    end.progress(0.0)
    end.expire(10.0)
    results(end)
    delivery.verdicts.append((Verdict.NACK, 0, 1, 0.0, "late"))
    assert results(end, 2) == []
    receive(end, 1, 1, sent=2, attempt=2)
    assert claim(take(end)) == [b"0001"]


def test_the_lease_stands_still_while_our_own_call_waits() -> None:
    """A handler that is held up by back-pressure of ours does not pay for it."""
    end = consumer(lease=10.0)
    receive(end, 1, 1)
    delivery = take(end)
    claim(delivery)
    end.progress(0.0)
    leases.pause(delivery, 1.0)
    end.expire(50.0)
    leases.resume(delivery, 50.0)
    end.expire(58.0)
    assert end.lapsed == []
    end.expire(59.5)
    assert end.lapsed == [(STREAM, 1)]


def handed_out(*claims: tuple[int, float]) -> Delivery:
    """A delivery of ten messages, of which so many were handed out by those instants."""
    end = consumer()
    receive(end, 1, 10)
    delivery = take(end)
    for count, at in claims:
        delivery.next += count
        leases.observe(delivery, at)
    return delivery


def ended(delivery: Delivery, now: float) -> list[int]:
    """The indexes whose lease of ten seconds is over, each taken from `delivery`."""
    found = []
    for index in leases.lapsed(delivery, 10.0, now):
        delivery.mark_gone(index, index + 1)
        found.append(index)
    return found


def test_each_message_has_a_lease_of_its_own() -> None:
    """It begins when the message was handed out, give or take a second, and never ends too early."""
    delivery = handed_out((2, 0.0), (1, 0.9), (1, 5.0))
    assert ended(delivery, 10.8) == []
    assert ended(delivery, 10.9) == [0, 1, 2]
    assert ended(delivery, 14.9) == []
    assert ended(delivery, 15.0) == [3]
    assert ended(delivery, 1000.0) == []


def test_what_was_extended_is_looked_at_again() -> None:
    """Its neighbours end in time; what is acked meanwhile does not end."""
    delivery = handed_out((4, 0.0))
    delivery.extended[1] = delivery.extended[2] = 20.0
    assert ended(delivery, 10.0) == [0, 3]
    delivery.mark_gone(1, 2)
    assert ended(delivery, 19.0) == []
    assert ended(delivery, 20.0) == [2]


def test_two_handlers_of_one_batch_that_wait() -> None:
    """The lease goes on with the last of them."""
    delivery = handed_out((2, 0.0))
    leases.pause(delivery, 1.0)
    leases.pause(delivery, 2.0)
    leases.resume(delivery, 3.0)
    assert ended(delivery, 100.0) == []
    leases.resume(delivery, 101.0)
    assert ended(delivery, 109.9) == []
    assert ended(delivery, 110.0) == [0, 1]


@pytest.mark.parametrize(("count", "budget"), [(2, HUGE), (9, 2 * 3)])
def test_user_code_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch, count: int, budget: int) -> None:
    """Beyond so many deliveries, or bytes, the oldest ack of those that are overdue says nothing any more."""
    monkeypatch.setattr(leases, "OVERDUE_MAX", count)
    kept = leases.Overdue(budget)
    deliveries = [handed_out((1, 0.0)) for _ in range(3)]
    for delivery in deliveries:
        delivery.body = b"123"
        leases.mark_overdue(delivery, 0)
        kept.add(delivery)
        delivery.ack(0, 1)
    kept.read()
    assert kept.take_acked() == [(delivery, 0, 1) for delivery in deliveries[1:]]
    assert not kept.closed


def test_when_a_lease_has_to_be_looked_at() -> None:
    """As it ends; once a second while messages may be handed out that nobody tells of, or while it stands still."""
    delivery = handed_out((2, 0.0))
    assert leases.look_at(delivery, 10.0, 3.0) == 3.0 + leases.OBSERVE_EVERY
    delivery.next = 10
    leases.observe(delivery, 5.0)
    assert leases.look_at(delivery, 10.0, 5.0) == 10.0
    delivery.extended[0] = 50.0
    assert leases.look_at(delivery, 10.0, 11.0) == 11.0 + leases.OBSERVE_EVERY
    leases.pause(delivery, 5.0)
    assert leases.look_at(delivery, 10.0, 5.0) == 5.0 + leases.OBSERVE_EVERY
