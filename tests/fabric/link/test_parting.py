"""Those whom a node will not talk to."""

from __future__ import annotations

from math import inf

from peerfabric.link.parting import FAREWELLS_MAX, PATIENCE, REFUSED_FOR, REMNANT, Farewells
from peerfabric.wire.frames import OTHER_FABRIC, Bye, decode_frame


def test_a_farewell_is_said_until_it_has_left() -> None:
    """Then the wire stays open a moment longer."""
    farewells = Farewells("us", 10)
    farewells.begin(7, OTHER_FABRIC, 0.0)
    for _ in range(2):
        [(wire, [frame])] = farewells.frames()
        bye = decode_frame(frame)
        assert isinstance(bye, Bye)
        assert (wire, bye.node_id, bye.reason) == (7, "us", OTHER_FABRIC)
    farewells.sent(7, 0.5)
    assert farewells.frames() == []
    assert farewells.deadline() == 0.5 + REMNANT
    assert farewells.over(0.5 + REMNANT - 0.01) == []
    assert farewells.over(0.5 + REMNANT) == [7]
    assert (7 in farewells, farewells.end(7), farewells.end(7), 7 in farewells) == (True, True, False, False)
    assert (bool(farewells), farewells.deadline()) == (False, inf)


def test_a_wire_that_takes_nothing_is_closed_in_the_end() -> None:
    """Whoever it leads to does not answer."""
    farewells = Farewells("us", 10)
    farewells.begin(7, OTHER_FABRIC, 0.0)
    assert (farewells.over(PATIENCE - 0.01), farewells.over(PATIENCE)) == ([], [7])


def test_who_was_refused_is_left_alone_for_a_while() -> None:
    """So many are remembered; if there is no room the earliest may be told once more."""
    farewells = Farewells("us", 2)
    farewells.refuse("a", 0.0)
    assert farewells.is_refused("a", REFUSED_FOR - 0.01)
    assert not farewells.is_refused("a", REFUSED_FOR)
    assert not farewells.is_refused("b", 0.0)
    farewells.refuse("b", 10.0)
    farewells.refuse("c", REFUSED_FOR)
    assert [farewells.is_refused(name, REFUSED_FOR) for name in "abc"] == [False, True, True]
    farewells.refuse("d", REFUSED_FOR)
    assert [farewells.is_refused(name, REFUSED_FOR) for name in "bcd"] == [False, False, True]


def test_so_many_are_told_at_once() -> None:
    """A crowd of strangers does not cost a wire each."""
    farewells = Farewells("us", 10)
    for wire in range(FAREWELLS_MAX):
        assert farewells.has_room
        farewells.begin(wire, OTHER_FABRIC, 0.0)
    assert not farewells.has_room
    farewells.end(0)
    assert farewells.has_room
