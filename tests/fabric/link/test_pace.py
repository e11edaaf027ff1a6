"""How many are dialled at a time."""

from __future__ import annotations

from math import inf

from peerfabric.link.link import Link
from peerfabric.link.pace import DIALS_AT_ONCE, DIALS_PER_SECOND, PEER_DIALS_PER_SECOND, Pace


def links(count: int) -> list[Link]:
    return [Link(wire, wire, 0.0) for wire in range(1, count + 1)]


def test_so_many_are_under_way() -> None:
    """The others wait until one of them has ended."""
    pace, all_links = Pace(), links(DIALS_AT_ONCE + 5)
    for link in all_links:
        pace.put(link)
    assert pace.take(0.0) == all_links[:DIALS_AT_ONCE]
    assert (pace.take(100.0), pace.free_at()) == ([], inf)
    pace.over(all_links[3])
    assert pace.take(100.0) == [all_links[DIALS_AT_ONCE]]
    assert all_links[DIALS_AT_ONCE] not in pace
    assert all_links[-1] in pace


def test_so_many_in_a_second() -> None:
    """After the first ones, which may go at once."""
    pace = Pace()
    now, dialled = 0.0, []
    for link in links(1000):
        pace.put(link)
    while now < 2.0:
        for link in pace.take(now):
            dialled.append(now)
            pace.over(link)
        now = max(now + 0.001, pace.free_at())
    assert len(dialled) <= DIALS_AT_ONCE + 2.0 * DIALS_PER_SECOND + 1
    assert len(dialled) >= 2.0 * DIALS_PER_SECOND


def test_a_peer_that_refused_is_dialled_twice_a_second() -> None:
    """Two may follow its first refusal at once; others need not wait for that."""
    pace, (one, other) = Pace(), links(2)
    now, dialled = 0.0, []
    while now < 3.0:
        pace.put(one)
        if one in pace.take(now):
            dialled.append(now)
            pace.refused(one)
            pace.over(one)
        now += 0.01
    assert dialled[:3] == [0.0, 0.01, 0.02]
    assert len(dialled) <= 3 + 3.0 * PEER_DIALS_PER_SECOND
    pace.put(one)
    pace.put(other)
    assert pace.take(dialled[-1] + 0.01) == [other]
    assert dialled[-1] < pace.free_at() <= dialled[-1] + 0.5


def test_who_was_met_goes_first() -> None:
    """A flood of newcomers must not keep us from those whom we know."""
    pace, all_links = Pace(), links(DIALS_AT_ONCE + 2)
    for link in all_links:
        pace.put(link)
    pace.take(0.0)
    known = Link(99, 99, 0.0)
    known.met = True
    pace.put(known)
    pace.over(all_links[0])
    assert pace.take(1.0) == [known]


def test_nothing_is_left_of_a_link_that_is_dropped() -> None:
    """Its place is free."""
    pace, (one,) = Pace(), links(1)
    pace.put(one)
    pace.take(0.0)
    pace.refused(one)
    pace.forget(one)
    assert (pace._waiting, pace._under_way, pace._peers) == ({}, {}, {})
