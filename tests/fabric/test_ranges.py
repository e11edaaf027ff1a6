"""Sets of ranges."""

from __future__ import annotations

from random import Random

import pytest

from peerfabric.ranges import Ranges, pairs


def test_neighbours_become_one_range() -> None:
    """What touches is one range, in whatever order it came."""
    ranges = Ranges([(1, 3), (5, 7)])
    assert ranges.add(3, 5) == 2
    assert list(ranges) == [(1, 7)]
    assert ranges.total == 6


def test_removal_splits() -> None:
    """Taking the middle out leaves both sides."""
    ranges = Ranges([(1, 10)])
    assert ranges.remove(4, 6) == 2
    assert list(ranges) == [(1, 4), (6, 10)]


def test_lookups() -> None:
    """Common and missing parts, and the first gap."""
    ranges = Ranges([(1, 4), (6, 10)])
    assert ranges.common(3, 8) == [(3, 4), (6, 8)]
    assert ranges.missing(0, 12) == [(0, 1), (4, 6), (10, 12)]
    assert (ranges.first_missing(1), ranges.first_missing(4), ranges.lowest) == (4, 4, 1)
    assert ranges.flat() == [1, 4, 6, 10]


def test_wire_form_drops_nonsense() -> None:
    """A peer's odd tail and its empty and backward ranges are not ranges."""
    assert pairs([1, 3, 3, 3, 9, 5, 7]) == [(1, 3)]


@pytest.mark.parametrize("seed", range(20))
def test_agrees_with_a_set(seed: int) -> None:
    """Every operation does what it does to a set of integers."""
    random, ranges, plain = Random(seed), Ranges(), set[int]()
    for _ in range(200):
        start = random.randrange(40)
        stop = start + random.randrange(8)
        span = set(range(start, stop))
        if random.random() < 0.5:
            assert ranges.add(start, stop) == len(span - plain)
            plain |= span
        else:
            assert ranges.remove(start, stop) == len(span & plain)
            plain -= span
        ranges.check()
        low, high = sorted((random.randrange(50), random.randrange(50)))
        assert {n for a, b in ranges.common(low, high) for n in range(a, b)} == plain & set(range(low, high))
        assert {n for a, b in ranges.missing(low, high) for n in range(a, b)} == set(range(low, high)) - plain
        assert ranges.first_missing(low) == next(n for n in range(low, 100) if n not in plain)
        assert (low in ranges) == (low in plain)
        assert ranges.total == len(plain)
