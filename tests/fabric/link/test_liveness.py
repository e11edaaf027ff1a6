"""Timers of liveness, and a link that follows them."""

from __future__ import annotations

from math import inf

import pytest

from peerfabric.link.link import Belief
from peerfabric.link.liveness import ping_due, silent_since
from peerfabric.wire.frames import Ping, Pong, decode_frame, encode_frame
from tests.fabric.helpers import Pair, bodies, claim
from tests.fabric.link.test_link import up
from tests.fabric.test_engine import flow, run_all


@pytest.mark.parametrize(
    ("busy", "evidence", "pinged_at", "heard_at", "due"),
    [
        (True, 10.0, -inf, 10.0, 10.5),
        (True, 10.0, 10.5, 10.6, 11.0),
        (True, -inf, 3.0, 9.0, 3.5),
        (False, 10.0, -inf, 10.0, 15.0),
        (False, 10.0, 12.0, 10.0, 17.0),
        (False, 10.0, 12.0, 14.0, 17.0),
        (False, 10.0, 12.0, 15.0, 20.0),
    ],
)
def test_when_a_ping_is_due(busy: bool, evidence: float, pinged_at: float, heard_at: float, due: float) -> None:
    """Busy: by the evidence. Idle: by what was heard."""
    assert ping_due(busy=busy, evidence=evidence, pinged_at=pinged_at, heard_at=heard_at, jitter=0.5) == due


def test_idle_pings_vary_by_a_fifth() -> None:
    """So that many links do not keep in step."""
    times = [ping_due(busy=False, evidence=0.0, pinged_at=0.0, heard_at=0.0, jitter=j) for j in (0.0, 1.0)]
    assert times == pytest.approx([4.0, 6.0])


def test_silence_counts_from_the_question() -> None:
    """Or from when we were last late ourselves."""
    assert (silent_since(3.0, -inf), silent_since(3.0, 8.0)) == (3.0, 8.0)


def test_evidence_is_when_the_echoed_frame_left() -> None:
    """Not when its echo came, and not when something else was heard."""
    link = up()
    link.next_number()
    link.pinged(1.0)
    assert link.accept(1, 0, 10, 1.5)
    assert (link.take_echo(0, 1.5), link.evidence, link.asked_at) == ([], -inf, 1.0)
    assert link.accept(2, 1, 10, 2.0)
    link.take_echo(1, 2.0)
    assert (link.evidence, link.asked_at) == (1.0, inf)


def test_any_numbered_frame_is_evidence() -> None:
    """It left no earlier than the frame before it arrived."""
    link = up()
    for number in range(1, 9):
        assert link.accept(number, number - 1, 10, float(number))
        link.take_echo(number - 1, float(number))
        link.next_number()
    assert link.evidence == 7.0


def test_evidence_is_not_older_than_it_must_be() -> None:
    """After a long silence of ours the next frame counts from when it could leave."""
    link = up()
    for number, now in ((1, 1.0), (2, 50.0)):
        assert link.accept(number, 0, 10, now)
        link.take_echo(0, now)
    link.next_number()
    link.take_echo(1, 50.1)
    assert link.evidence == 50.0


def test_only_an_echo_ends_suspicion() -> None:
    """A peer that talks and does not echo may not hear us."""
    link = up()
    link.next_number()
    link.pinged(1.0)
    assert link.silent_at == 3.0
    link.suspect(3.0, link.asked_at)
    assert link.accept(1, 0, 10, 3.5)
    assert (link.belief, link.suspect_at, link.vanishes_at) == (Belief.SUSPECT, 3.0, 5.0)
    link.next_number()
    assert link.vanishes_at == 6.0, "what came at 3.5 may have been echoed, and be the peer's evidence"
    link.take_echo(1, 4.0)
    assert (link.belief, link.vanishes_at) == (Belief.ALIVE, inf)


def test_our_own_lateness_is_added() -> None:
    """To what is asked, and to what was asked before it when that is echoed."""
    link = up()
    for at in (1.0, 1.5):
        link.next_number()
        link.pinged(at)
    link.excuse(9.0, 11.0)
    assert link.silent_at == 12.0
    link.take_echo(1, 11.0)
    assert (link.silent_at, link.evidence) == (13.0, 1.0)


def pings(pair: Pair) -> list[tuple[str, float]]:
    """Whoever sends a PING, and when."""
    sent: list[tuple[str, float]] = []

    def note(sender: object, frames: list[bytes]) -> bool:
        if frames[0][1] == 6:
            assert isinstance(decode_frame(frames[0]), Ping)
            sent.append(("a" if sender is pair.a else "b", pair.now))
        return True

    pair.filter = note
    return sent


def test_a_minute_of_quiet_costs_little() -> None:
    """About one PING in five seconds, no probe, and nobody is suspected."""
    pair = Pair()
    flow(pair)
    run_all(pair)
    sent = pings(pair)
    before = len(pair.commands)
    pair.pass_time(60.0)
    assert 10 <= len(sent) <= 16
    assert pair.commands[before:] == []
    assert [view.state for engine in (pair.a, pair.b) for view in engine.view()] == ["up", "up"]


def test_a_message_after_quiet_needs_one_round_trip_more() -> None:
    """The PING of the consumer that its DATA makes busy is answered at once."""
    pair = Pair()
    end = flow(pair, 0)
    pair.pass_time(30.0)
    sent = pings(pair)
    pair.b.consumers.by_queue["jobs"].want(1, 1, pair.now)
    pair.a.producers.accept(end, bodies(1), 0)
    pair.settle()
    delivery = pair.b.consumers.by_queue["jobs"].take(pair.now)
    assert delivery is not None
    assert (claim(delivery, now=pair.now), sent) == (bodies(1), [("a", pair.now), ("b", pair.now)])


def test_pings_of_a_busy_link() -> None:
    """Twice a second from both sides while a handler works."""
    pair = Pair()
    flow(pair)
    delivery = pair.b.consumers.by_queue["jobs"].take(pair.now)
    assert delivery is not None
    claim(delivery, now=pair.now)
    sent = pings(pair)
    pair.pass_time(10.0)
    counts = [sum(1 for name, _ in sent if name == side) for side in "ab"]
    assert all(14 <= count <= 21 for count in counts), counts
    link = next(iter(pair.b.links.by_peer.values()))
    assert link.fence > pair.now + 1.5


@pytest.mark.parametrize("heard", [False, True], ids=["both ways", "one way"])
def test_a_busy_link_is_given_up_soon_after_a_cut(heard: bool) -> None:
    """Within four and a half seconds, also if the peer is still heard."""
    pair = Pair()
    flow(pair)
    delivery = pair.b.consumers.by_queue["jobs"].take(pair.now)
    assert delivery is not None
    claim(delivery, now=pair.now)
    pair.pass_time(3.0)
    cut = pair.now
    pair.filter = lambda sender, frames: heard and sender is pair.b
    while pair.a.links.by_peer and pair.now < cut + 10.0:
        pair.settle(0.02)
    assert 3.5 <= pair.now - cut <= 4.55


def test_what_a_pong_says_is_not_believed() -> None:
    """Its stamp may be of the future; its echo cannot."""
    pair = Pair()
    flow(pair)
    [link] = pair.b.links.by_wire.values()
    fence = link.fence
    pair.b.handle_frames([encode_frame(Pong(link.in_id, link.in_number + 1, 0, 1e300))], pair.now)
    assert link.fence == fence
