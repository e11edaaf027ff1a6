"""Runs and the table of them."""

from __future__ import annotations

import pytest

from peerfabric.queue.runs import MESSAGE_OVERHEAD, Runs
from peerfabric.wire.frames import Extra
from tests.fabric.helpers import run_of


def test_a_cut_keeps_fate_and_bytes() -> None:
    """Both parts remember what happened, and their costs add up."""
    run = run_of(10, 4)
    run.attempt, run.deaths, run.error = 3, 2, "why"
    run.extras = {10: Extra(0, {"a": "b"}), 12: Extra(0, {"c": "d"})}
    before = run.cost
    rest = run.cut(12)
    assert (run.first, run.stop, rest.first, rest.stop) == (10, 12, 12, 14)
    assert (rest.attempt, rest.deaths, rest.error) == (3, 2, "why")
    assert run.cost + rest.cost == before
    assert (list(run.extras or ()), list(rest.extras or ())) == ([10], [12])


def test_take_cuts_at_the_edges() -> None:
    """Only what was asked for leaves; the counts follow."""
    table = Runs([run_of(1, 4), run_of(5, 4), run_of(20, 2)])
    taken = table.take(3, 7)
    assert [(run.first, run.stop) for run in taken] == [(3, 5), (5, 7)]
    assert [(run.first, run.stop) for run in table] == [(1, 3), (7, 9), (20, 22)]
    assert (table.count, table.cost) == (6, 6 * (4 + MESSAGE_OVERHEAD))
    table.check()


def test_order_is_by_sequence() -> None:
    """Whoever comes back takes its old place."""
    table = Runs([run_of(5, 1), run_of(1, 1), run_of(3, 1)])
    assert [run.first for run in table] == [1, 3, 5]
    assert table.take(2, 3) == []
    assert [run.first for run in table.take_all()] == [1, 3, 5]
    assert (table.count, table.cost) == (0, 0)


def test_overlap_is_a_bug() -> None:
    """One sequence in two runs of a table is found by `check`."""
    table = Runs([run_of(1, 4), run_of(3, 4)])
    with pytest.raises(AssertionError):
        table.check()
