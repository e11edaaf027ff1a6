"""Control frames on one link whose socket is full now and then."""

from __future__ import annotations

import pytest

from peerfabric.link.control import ACK_RANGES_MAX, Control
from peerfabric.link.link import Link
from peerfabric.wire.frames import HEADER_BYTES_MAX, Ack, Drain, Grant, Nack, Result, decode_frame


def up(wire: int = 1) -> Link:
    link = Link(wire, wire, 0.0)
    link.up = True
    return link


def left(control: Control, link: Link, most: int = 1000) -> list[tuple[int, list[bytes]]]:
    """What a socket was given that takes at most so many frames."""
    sent: list[tuple[int, list[bytes]]] = []

    def send(wire: int, frames: list[bytes]) -> bool:
        sent.append((wire, frames))
        return len(sent) <= most

    control.transmit(link, send)
    return sent


def test_numbered_as_they_are_queued() -> None:
    """So they leave in that order, whoever put them there."""
    control, link = Control(), up()
    control.put(link, Drain(b"", 0, 0))
    control.put(link, Ack(b"", 0, 0, 0))
    frames = [decode_frame(header) for _, [header] in left(control, link)]
    assert frames == [Drain(link.out_id, 1, 0), Ack(link.out_id, 2, 0, 0)]


def test_nothing_is_queued_on_a_link_that_is_not_up() -> None:
    """Its next life begins with INTEREST, which tells all."""
    control, link = Control(), Link(1, 1, 0.0)
    control.put(link, Drain(b"", 0, 0))
    assert (control.due, left(control, link)) == ({}, [])


def test_due_once_in_order() -> None:
    """Each link says what it has once, the one that was noted first before the others."""
    control, one, two = Control(), up(1), up(2)
    control.note(two)
    control.note(one)
    control.note(two)
    assert list(control.take_due()) == [two, one]
    assert not control.due


def test_a_refused_frame_goes_first() -> None:
    """While the socket takes no more, the others wait behind it, and the link stays due."""
    control, link = Control(), up()
    for _ in range(3):
        control.put(link, Drain(b"", 0, 0))
    control.take_due()
    sent = left(control, link, most=1)
    assert (len(sent), link.wire in control.blocked, list(control.due)) == (2, True, [link])
    assert left(control, link) == []
    control.unblock(link.wire)
    numbers = [decode_frame(header).number for _, [header] in left(control, link)]  # type: ignore[union-attr]
    assert numbers == [2, 3]


def test_a_large_ack_is_split() -> None:
    """Only the last part confirms it, since until then the results may be asked for again."""
    control, link = Control(), up()
    ranges = list(range(1, 4 * ACK_RANGES_MAX + 3))
    control.put_ack(link, [Result("p:1:jobs", "jobs", ranges)], [Grant("jobs", 1, 1)])
    parts = [decode_frame(header) for _, [header] in left(control, link)]
    acks = [part for part in parts if isinstance(part, Ack)]
    assert acks == parts
    assert [(p.ack, sum(len(r.done) for r in p.results), len(p.grants)) for p in acks] == [
        (0, 2 * ACK_RANGES_MAX, 0),
        (0, 2 * ACK_RANGES_MAX, 0),
        (1, 2, 1),
    ]
    control.put_ack(link, [Result("p:1:jobs", "jobs", ran=ranges)], [])
    again = [decode_frame(header) for _, [header] in left(control, link)]
    assert [number for ack in again if isinstance(ack, Ack) for r in ack.results for number in r.ran] == ranges


def test_a_large_ack_can_be_read() -> None:
    """Neither many long texts nor many ranges make a header that the peer refuses."""
    control, link = Control(), up()
    nacks = [Nack(n, n + 1, 1, 1, -1, "\U0001f600" * 250) for n in range(1, 3001)]
    returned = list(range(1, 4 * ACK_RANGES_MAX + 3))
    control.put_ack(link, [Result("p:1:jobs", "jobs", returned=returned, nacks=nacks)], [])
    headers = [header for _, [header] in left(control, link)]
    assert max(map(len, headers)) < HEADER_BYTES_MAX // 4
    results = [result for ack in map(decode_frame, headers) if isinstance(ack, Ack) for result in ack.results]
    assert [nack for result in results for nack in result.nacks] == nacks
    assert [number for result in results for number in result.returned] == returned


def test_what_cannot_be_encoded_takes_no_number() -> None:
    """The peer would miss it, and end the link."""
    control, link = Control(), up()
    with pytest.raises(OverflowError):
        control.put(link, Ack(b"", 0, 0, 2**70))
    control.put(link, Drain(b"", 0, 0))
    assert [decode_frame(header) for _, [header] in left(control, link)] == [Drain(link.out_id, 1, 0)]
