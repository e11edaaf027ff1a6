"""Those whom a node will not talk to."""

from __future__ import annotations

from math import inf

from peerfabric.link.parting import FAREWELLS_MAX, PATIENCE, REFUSED_FOR, REMNANT, Partings
from peerfabric.wire.frames import OTHER_FABRIC, Bye, decode_frame


def test_a_farewell_is_said_until_it_has_left() -> None:
    """Then the wire stays open a moment longer."""
    partings = Partings("us", 10)
    partings.begin(7, OTHER_FABRIC, 0.0)
    for _ in range(2):
        [(wire, [frame])] = partings.frames()
        bye = decode_frame(frame)
        assert isinstance(bye, Bye)
        assert (wire, bye.node_id, bye.reason) == (7, "us", OTHER_FABRIC)
    partings.sent(7, 0.5)
    assert partings.frames() == []
    assert partings.deadline() == 0.5 + REMNANT
    assert partings.over(0.5 + REMNANT - 0.01) == []
    assert partings.over(0.5 + REMNANT) == [7]
    assert (7 in partings, partings.end(7), partings.end(7), 7 in partings) == (True, True, False, False)
    assert (bool(partings), partings.deadline()) == (False, inf)


def test_a_wire_that_takes_nothing_is_closed_in_the_end() -> None:
    """Whoever it leads to does not answer."""
    partings = Partings("us", 10)
    partings.begin(7, OTHER_FABRIC, 0.0)
    assert (partings.over(PATIENCE - 0.01), partings.over(PATIENCE)) == ([], [7])


def test_who_was_refused_is_left_alone_for_a_while() -> None:
    """So many are remembered; if there is no room the earliest may be told once more."""
    partings = Partings("us", 2)
    partings.refuse("a", 0.0)
    assert partings.is_refused("a", REFUSED_FOR - 0.01)
    assert not partings.is_refused("a", REFUSED_FOR)
    assert not partings.is_refused("b", 0.0)
    partings.refuse("b", 10.0)
    partings.refuse("c", REFUSED_FOR)
    assert [partings.is_refused(name, REFUSED_FOR) for name in "abc"] == [False, True, True]
    partings.refuse("d", REFUSED_FOR)
    assert [partings.is_refused(name, REFUSED_FOR) for name in "bcd"] == [False, False, True]


def test_so_many_are_told_at_once() -> None:
    """A crowd of strangers does not cost a wire each."""
    partings = Partings("us", 10)
    for wire in range(FAREWELLS_MAX):
        assert partings.has_room
        partings.begin(wire, OTHER_FABRIC, 0.0)
    assert not partings.has_room
    partings.end(0)
    assert partings.has_room
