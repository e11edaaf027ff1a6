"""Costs of the machines: a turn, a frame and a timer cost what happens, not what is there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import inf
from types import FrameType
from typing import Any

from peerfabric.deadlines import Deadlines
from peerfabric.link.peer_names import PeerNames
from peerfabric.service.call import OpenCall, Outcome
from peerfabric.wire.frames import RAW
from tests.fabric.helpers import HUGE, Pair


def calls(action: Callable[[], object]) -> int:
    """How many Python functions `action` calls."""
    count = 0

    def hook(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(hook)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def confirmed_message(others: int) -> int:
    """Calls for one message from its acceptance to its ack, with so many other queues that both nodes share."""
    pair = Pair()
    pair.meet()
    a, b = pair.a, pair.b
    end = a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    taking = b.open_consumer("jobs", 30.0, pair.now)
    for n in range(others):
        a.open_producer(f"other.{n}", RAW, 5, 2**20, pair.now)
        b.open_consumer(f"other.{n}", 30.0, pair.now)
    pair.settle()

    def carry() -> None:
        while pair._step(a) + pair._step(b):
            pass

    def accept_and_carry() -> None:
        a.producers.accept(end, [b"body"], 0)
        carry()

    def ack_and_carry() -> None:
        b.consumers.progress(taking, pair.now)
        carry()

    def one() -> int:
        taking.want(1, 1, pair.now)
        b.consumers.progress(taking, pair.now)
        found = calls(accept_and_carry)
        delivery = taking.take(pair.now)
        assert delivery is not None
        delivery.next = delivery.acked = 1
        return found + calls(ack_and_carry)

    for _ in range(3):
        one()
    found = one()
    assert end.account().acked == 4
    return found


def test_other_queues_add_no_calls_to_a_message() -> None:
    """A message costs the same calls whether its nodes share one other queue or three hundred."""
    assert confirmed_message(others=300) == confirmed_message(others=1)


def published_update(others: int) -> int:
    """Calls for one update from its publication to its subscriber, and for one more topic, beside so many others."""
    pair = Pair()
    pair.meet()
    a, b = pair.a, pair.b
    for n in range(others):
        a.open_publisher(f"other.{n}", RAW, pair.now)
        b.open_subscriber(f"other.{n}", HUGE, pair.now)
    publisher = a.open_publisher("news", RAW, pair.now)
    subscriber = b.open_subscriber("news", HUGE, pair.now)
    pair.settle(1.0)
    pair.settle(1.0)
    assert subscriber.confirmed

    def publish() -> None:
        a.topics.publish(publisher, [b"body"], 0)
        while pair._step(a) + pair._step(b):
            pass

    found = calls(publish)
    assert subscriber.take() is not None
    return found + calls(lambda: a.topics.open_publisher("one more", RAW, pair.now))


def test_other_topics_add_no_calls_to_an_update() -> None:
    """An update costs the same calls whether its nodes share one other topic or three hundred, and so does a topic."""
    assert published_update(others=300) == published_update(others=1)


def answered_call(others: int, open_calls: int) -> int:
    """Calls of functions for one call, beside so many other services, and calls that are not answered."""
    pair = Pair()
    a, b = pair.a, pair.b
    served = b.open_service("sum", 1000, 0, HUGE, 60.0, pair.now)
    for n in range(others):
        b.open_service(f"other.{n}", 4, 4, HUGE, 60.0, pair.now)
        a.caller.use(f"other.{n}", pair.now)
    a.caller.use("sum", pair.now)
    pair.meet()
    pair.settle(1.0)
    for _ in range(open_calls):
        a.caller.start(OpenCall("sum", b"body", RAW, pair.now + 60.0), pair.now)
    pair.settle()
    served.started.clear()

    def one() -> None:
        call = OpenCall("sum", b"body", RAW, pair.now + 60.0)
        a.caller.start(call, pair.now)
        while pair._step(a) + pair._step(b):
            pass
        b.responder.answer(served.started.popleft(), pair.now, b"answer", RAW)
        while pair._step(a) + pair._step(b):
            pass
        assert call.outcome is Outcome.OK

    for _ in range(3):
        one()
    return calls(one)


def test_other_services_and_calls_add_no_calls_to_a_call() -> None:
    """A call costs the same whether its nodes share one other service or three hundred, and whatever else is open."""
    assert answered_call(others=300, open_calls=300) == answered_call(others=1, open_calls=1)


def test_a_ping_costs_what_happens() -> None:
    """Neither a PING of a busy link, nor its evidence, looks at queues of which nothing waits or is held."""

    def half_a_minute(others: int) -> int:
        pair = Pair()
        pair.meet()
        jobs = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
        taking = pair.b.open_consumer("jobs", 60.0, pair.now)
        for n in range(others):
            pair.a.open_producer(f"other.{n}", RAW, 5, 2**20, pair.now)
            pair.b.open_consumer(f"other.{n}", 60.0, pair.now)
        pair.pass_time(6.0)  # health has looked once at what is new
        taking.want(1, 1, pair.now)
        pair.b.consumers.progress(taking, pair.now)
        pair.a.producers.accept(jobs, [b"body"], 0)
        pair.settle()
        assert taking.take(pair.now) is not None
        link = next(iter(pair.a.links.by_wire.values()))
        before, found = link.evidence, 0
        for _ in range(300):
            pair.now += 0.1
            for engine in (pair.a, pair.b):
                found += calls(lambda engine=engine: engine.handle_timeout(pair.now))  # type: ignore[misc]
                found += calls(lambda engine=engine: pair._step(engine))  # type: ignore[misc]
        assert link.busy
        assert link.evidence > before + 25.0
        return found

    assert half_a_minute(others=300) == half_a_minute(others=1)


def test_deadlines_come_once_and_in_order() -> None:
    """Only the earliest instant of a thing counts, and what came due is not looked at again."""
    deadlines: Deadlines[str] = Deadlines()
    for thing, at in (("late", 5.0), ("soon", 2.0), ("late", 3.0), ("soon", 9.0)):
        deadlines.put(thing, at)
    assert (deadlines.first, deadlines.take_due(1.0), deadlines.take_due(4.0)) == (2.0, [], ["soon", "late"])
    assert deadlines.take_due(10.0) == []


def test_a_deadline_can_be_moved() -> None:
    """The first is always that of something that is waited for."""
    deadlines: Deadlines[str] = Deadlines()
    for thing, at in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        deadlines.put(thing, at)
    deadlines.move("b", 9.0)
    deadlines.move("a", inf)
    assert (deadlines.first, deadlines.take_due(5.0), deadlines.first) == (3.0, ["c"], 9.0)
    deadlines.move("b", 0.5)
    assert (deadlines.take_due(5.0), deadlines.first) == (["b"], inf)


def test_names_told_anew_are_compared_with_the_ones_before() -> None:
    """A peer that tells its names again says only what is new and what is over; one withdrawn is new again."""
    names = PeerNames()
    assert names.tell("a:1", ["x", "y"]) == (["x", "y"], [])
    assert names.tell("b:1", ["y"]) == (["y"], [])
    assert names.tell("a:1", ["y", "z"]) == (["z"], ["x"])
    assert (list(names.told_by("x")), list(names.told_by("y"))) == ([], ["a:1", "b:1"])
    names.withdraw("a:1", "y")
    assert list(names.told_by("y")) == ["b:1"]
    assert names.tell("a:1", ["y", "z"]) == (["y"], [])
