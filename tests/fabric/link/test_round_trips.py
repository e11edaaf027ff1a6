"""Round trips: a PING's stamp comes back to the clock that it came from, and nothing else does."""

from __future__ import annotations

import math

from peerfabric.link.link import Link
from peerfabric.wire.frames import Pong, decode_frame, encode_frame
from tests.fabric.helpers import Pair


def linked() -> tuple[Pair, Link]:
    pair = Pair()
    pair.meet()
    [link] = pair.a.links.by_peer.values()
    return pair, link


def test_a_question_is_answered() -> None:
    """By the time on the way there and back, and the link stays for the next one."""
    pair, link = linked()
    [found] = pair.a.round_trips.find(link.node_id)
    assert found is link
    assert pair.a.round_trips.find(link.name) == pair.a.round_trips.find(link.endpoint) == [link]
    trip = pair.a.round_trips.ask(link, pair.now)
    asked_at = pair.now
    pair.b.pings.unix_ms = lambda: 1_764_403_200_000
    pair.settle(0.01)
    assert trip.seconds is not None
    assert trip.their_unix_ms == 1_764_403_200_000
    assert 0.0 <= trip.seconds <= pair.now - asked_at
    assert pair.a.round_trips.needs(link)
    pair.pass_time(11.0)
    assert not pair.a.round_trips.needs(link)


def test_an_answer_that_cannot_be_is_none() -> None:
    """A stamp of before the question, of the future, or no number: a peer may send anything."""
    pair, link = linked()
    pair.filter = lambda sender, frames: not isinstance(decode_frame(frames[0]), Pong)
    trip = pair.a.round_trips.ask(link, pair.now)
    for stamp in (trip.asked_at - 1, 1e300, math.inf, -math.inf, math.nan):
        pair.a.handle_frames([encode_frame(Pong(link.in_id, link.in_number + 1, 0, stamp))], pair.now)
        assert trip.seconds is None
    pair.a.handle_frames([encode_frame(Pong(link.in_id, link.in_number + 1, 0, trip.asked_at))], pair.now + 0.5)
    assert trip.seconds == 0.5


def test_a_question_is_lost_with_the_life_of_its_link() -> None:
    """Whoever waits asks anew; one that nobody waits for is forgotten."""
    pair, link = linked()
    pair.filter = lambda sender, frames: not isinstance(decode_frame(frames[0]), Pong)
    trip, other = (pair.a.round_trips.ask(link, pair.now) for _ in range(2))
    pair.a.round_trips.forget(other)
    pair.a.handle_disconnected(link.wire, pair.now)
    assert trip.lost
    assert not other.lost
