"""Those whom a node will not talk to."""

from __future__ import annotations

from math import inf

from msgspec.structs import replace

from peerfabric.link.rejections import PATIENCE, REJECTED_FOR, REJECTIONS_MAX, REMNANT, Rejections
from peerfabric.wire.frames import OTHER_FABRIC, Address, Bye, decode_frame

THEM = Address("them", 1, "", "", [], [])


def test_a_farewell_is_said_until_it_has_left() -> None:
    """Then the wire stays open a moment longer."""
    rejections = Rejections("us", 10)
    assert rejections.begin(7, THEM, OTHER_FABRIC, 0.0)
    for _ in range(2):
        [(wire, [frame])] = rejections.frames()
        bye = decode_frame(frame)
        assert isinstance(bye, Bye)
        assert (wire, bye.node_id, bye.reason) == (7, "us", OTHER_FABRIC)
    rejections.sent(7, 0.5)
    assert rejections.frames() == []
    assert rejections.deadline() == 0.5 + REMNANT
    assert rejections.over(0.5 + REMNANT - 0.01) == []
    assert rejections.over(0.5 + REMNANT) == [7]
    assert (7 in rejections, rejections.end(7), rejections.end(7), 7 in rejections) == (True, True, False, False)
    assert (rejections.wires, rejections.deadline()) == ({}, inf)


def test_a_wire_that_takes_nothing_is_closed_in_the_end() -> None:
    """Whoever it leads to does not answer."""
    rejections = Rejections("us", 10)
    assert rejections.begin(7, THEM, OTHER_FABRIC, 0.0)
    assert (rejections.over(PATIENCE - 0.01), rejections.over(PATIENCE)) == ([], [7])


def test_who_was_refused_is_left_alone_for_a_while() -> None:
    """So many are remembered; if there is no room the earliest may be told once more."""
    rejections = Rejections("us", 2)
    rejections.reject("a", 0.0)
    assert rejections.is_rejected("a", REJECTED_FOR - 0.01)
    assert not rejections.is_rejected("a", REJECTED_FOR)
    assert not rejections.is_rejected("b", 0.0)
    rejections.reject("b", 10.0)
    rejections.reject("c", REJECTED_FOR)
    assert [rejections.is_rejected(name, REJECTED_FOR) for name in "abc"] == [False, True, True]
    rejections.reject("d", REJECTED_FOR)
    assert [rejections.is_rejected(name, REJECTED_FOR) for name in "bcd"] == [False, False, True]


def test_so_many_are_told_at_once() -> None:
    """A crowd of strangers does not cost a wire each."""
    rejections = Rejections("us", 100)
    for wire in range(REJECTIONS_MAX):
        assert rejections.begin(wire, replace(THEM, node_id=f"n{wire}"), OTHER_FABRIC, 0.0)
    assert not rejections.begin(1000, replace(THEM, node_id="one more"), OTHER_FABRIC, 0.0)
    rejections.end(0)
    assert rejections.begin(1000, replace(THEM, node_id="one more"), OTHER_FABRIC, 0.0)
    assert not rejections.begin(1001, replace(THEM, node_id="one more"), OTHER_FABRIC, 0.0)
