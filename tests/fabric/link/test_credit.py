"""The window, and credit as totals."""

from __future__ import annotations

import pytest

from peerfabric.link.sending import ProducerCredit
from peerfabric.queue.sources import ConsumerCredit, Window


def test_the_window_doubles_once_per_round() -> None:
    """Fast handlers are given more, but not before a whole window was processed."""
    window = Window(horizon=0.1)
    sizes = []
    for _ in range(5):
        window.processed(window.size, window.size * 1e-6)
        sizes.append(window.size)
    assert sizes == [2, 4, 8, 16, 32]
    window.processed(1, 1e-6)
    assert window.size == 32


def test_the_window_stops_at_the_horizon() -> None:
    """10 ms a message and 100 ms of work in hand are ten messages."""
    window = Window(horizon=0.1)
    for _ in range(20):
        window.processed(window.size, window.size * 0.01)
    assert window.size in (9, 10)


def test_the_window_falls_at_once() -> None:
    """One slow message says more than the average of many fast ones."""
    window = Window(horizon=0.1)
    for _ in range(12):
        window.processed(window.size, window.size * 1e-5)
    before = window.size
    window.processed(1, 1.0)
    assert window.size == before // 2
    for _ in range(20):
        window.processed(1, 1.0)
    assert window.size == 1


def test_takers_set_the_least() -> None:
    """Eight threads are kept busy even by hour-long jobs."""
    window = Window(horizon=0.1)
    window.want(8)
    window.processed(8, 3600.0)
    assert window.size == 8


def test_limits_never_fall() -> None:
    """A grant that arrives late takes nothing back."""
    credit = ProducerCredit()
    credit.grant(10, 1000)
    credit.grant(5, 500)
    credit.spend(4, 400, outstanding=0)
    assert credit.available() == (6, 600)


def test_overspending_is_a_bug() -> None:
    """More than was granted is only ever one message, when nothing else is outstanding."""
    credit = ProducerCredit()
    credit.grant(3, 100)
    credit.spend(1, 500, outstanding=0)
    assert credit.available() == (2, 0)
    with pytest.raises(AssertionError, match="more bytes"):
        credit.spend(1, 1, outstanding=1)


def test_totals_of_the_producer_are_adopted() -> None:
    """What got lost on the way does not shrink the window for ever."""
    credit = ConsumerCredit()
    credit.granted_messages, credit.granted_bytes = 10, 1000
    credit.adopt(4, 1200, 7)
    assert (credit.unused(), credit.waiting, credit.outstanding_bytes()) == (6, 7, 1200)
    credit.adopt(3, 300, 0)
    assert (credit.unused(), credit.waiting) == (6, 0)
