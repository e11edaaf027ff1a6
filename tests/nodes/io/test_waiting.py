"""How long calls wait: a finite number of seconds, or for ever, on both fronts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from peerfabric import ConfigError, Once, TimedOut
from peerfabric.arguments import shown
from peerfabric.nodes.io.waiting import Blocking, Gate, ThreadWaiter, complete
from tests.nodes.conftest import DEADLINE, Front

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "get": lambda node, wait: node.consumer("empty", int).get(timeout=wait),
    "get of a topic": lambda node, wait: node.subscriber("empty", int).get(timeout=wait),
    "ready": lambda node, wait: node.producer("orders", int).ready(timeout=wait),
    "ready of a topic": lambda node, wait: node.publisher("news", int).ready(timeout=wait),
    "flush": lambda node, wait: node.producer("orders", int).flush(timeout=wait),
    "send when full": lambda node, wait: node.producer("orders", int, buffer_bytes=100).send(2, timeout=wait),
    "send_many": lambda node, wait: node.producer("orders", int, buffer_bytes=100).send_many([2], timeout=wait),
    "confirm": lambda node, wait: node.producer("new", int).send(1, confirm="processed", timeout=wait),
    "close": lambda node, wait: node.close(wait),
}


@pytest.mark.parametrize("wait", [nan, inf, -inf, "5", b"5", 10**400, Decimal("nan")], ids=shown)
@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_time_is_refused(front: Front, call: str, wait: Any) -> None:
    """The call says so instead of waiting, accepts nothing, and the node goes on."""
    with front.node() as node:
        options = {"buffer_bytes": 100} if "send" in call else {}
        producer = node.producer("orders", int, **options)
        receipt = producer.send(1)
        wrong = pytest.raises((TypeError, ValueError), match=r"timeout=.* number of seconds; .* None to wait for ever")
        with wrong:
            CALLS[call](node, wait)
        with wrong:
            producer.wait(receipt, "processed", wait)
        assert [(p.queue, p.accepted) for p in node.statistics().producers if p.accepted] == [("orders", 1)]
        with node.consumer("orders", int).get(timeout=Decimal(DEADLINE)) as body:
            assert body == 1
        producer.flush(timeout=DEADLINE)


def test_a_time_that_is_over(front: Front) -> None:
    """Reckoned from a point in time it may be below 0: nothing is waited for."""
    with front.node() as node, pytest.raises(TimedOut, match=r"after -1 s"):
        node.consumer("orders", int).get(timeout=-1)


@pytest.mark.parametrize("count", [nan, inf, 1.0, "1", None], ids=shown)
def test_numbers_that_count(front: Front, count: Any) -> None:
    """What is no whole number is refused where it is given, and nothing waits for it."""
    with front.node() as node:
        for handle in (node.producer("orders", int), node.publisher("news", int)):
            with pytest.raises((TypeError, ValueError), match="give how many there shall be"):
                handle.ready(count, timeout=DEADLINE)
        for taker in (node.consumer("orders", int), node.subscriber("news", int)):
            with pytest.raises(ConfigError, match="batches need max_size >= 1"):
                taker.batches(max_size=count)
            with pytest.raises(ConfigError, match="batches need a finite max_wait >= 0"):
                taker.batches(max_wait=count if count != 1.0 else -count)
        for options in ({"buffer_bytes": count}, {"max_attempts": count}):
            with pytest.raises(ConfigError, match="it must be positive"):
                node.producer("bills", int, **options)
        with pytest.raises(ConfigError, match="it must be positive"):
            node.subscriber("bills", int, buffer_bytes=count)
        with pytest.raises(ConfigError, match="how many calls may run at once"):
            node.on_message("bills", concurrency=count)(lambda order: None)


@pytest.mark.parametrize("lease", [nan, inf, 0, -1, "5", None, 2**40], ids=shown)
def test_leases(front: Front, lease: Any) -> None:
    """They are told to others in frames, so what is no number of seconds is refused, and the others are plain."""

    def cook(order: int) -> None:
        """Cooks."""

    with front.node() as a, front.node() as b:
        wrong = pytest.raises(ConfigError, match=r"lease=.*give a positive number of seconds")
        with wrong:
            b.consumer("orders", int, lease=lease)
        with wrong:
            b.on_message("orders", lease=lease)(cook)
        producer = a.producer("orders", int)
        producer.send(1)
        with b.consumer("orders", int, lease=Decimal(60)).get(timeout=DEADLINE):
            pass
        producer.flush(timeout=DEADLINE)
        assert a.statistics().counters == b.statistics().counters == {}


def test_what_once_forgets() -> None:
    """A point in time that never comes would delete nothing, or all."""
    once = Once(sqlite3.connect(":memory:"))
    once.create()
    for age in (nan, inf, "5"):
        with pytest.raises((TypeError, ValueError), match=r"older_than=.*give a finite number"):
            once.forget(age)  # type: ignore[arg-type]


class SoonReleased:
    """A lock that is released after 10 ms, and knows how often a thread went to sleep for that."""

    sleeps = 0

    def acquire(self, timeout: float) -> bool:
        self.sleeps += 1
        return timeout >= 0.01


def test_a_short_wait_is_one_sleep() -> None:
    """The thread is not woken only to be asked whether it may wait."""
    waiter, lock = ThreadWaiter(), SoonReleased()
    waiter.lock = lock  # type: ignore[assignment]
    complete(Blocking().park(waiter, DEADLINE))
    assert lock.sleeps == 1


def test_a_gate_that_opens_for_one() -> None:
    """The last that came is woken, as often as asked; an empty gate wakes nobody."""
    woken: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def wake(self) -> None:
            woken.append(self.name)

    gate, first, second = Gate(), Named("first"), Named("second")
    gate.open_one()
    gate.enter(first)
    gate.enter(second)
    gate.open_one()
    gate.open_one()
    gate.leave(second)
    gate.open_one()
    assert woken == ["second", "second", "first"]
