"""Engines of several hosts: who may speak in whose name, who is let in, and links that work in one direction only."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from peerfabric.engine import Engine
from peerfabric.link.commands import Follow, Unfollow
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.wire.frames import RAW, SUPERSEDED, UNWELCOME, Ack, Address, Bye, Hello, decode_frame, encode_frame
from tests.fabric.helpers import Pair, bodies, claim


def flow(pair: Pair, count: int) -> OutgoingQueue:
    """`a` sends messages to `b`, whose one taker waits."""
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.meet()
    consumer = pair.b.consumers.by_queue["jobs"]
    consumer.want(1, 100, pair.now)
    pair.b.consumers.progress(consumer, pair.now)
    pair.a.producers.accept(end, bodies(count), 0)
    pair.settle()
    return end


def run_all(pair: Pair) -> None:
    """The taker of `b` runs and acks what it can get."""
    end = pair.b.consumers.by_queue["jobs"]
    while (delivery := end.take(pair.now)) is not None:
        low = delivery.next
        delivery.ack(low, low + len(claim(delivery, 100, pair.now)))
        pair.b.consumers.progress(end, pair.now)


class Keyed(Pair):
    """Each frame comes with the node id that the sender's key has proven."""

    def __init__(self) -> None:
        super().__init__()
        for engine, sender in ((self.a, "b"), (self.b, "a")):
            engine.handle_frames = self._with_sender(engine, sender)  # type: ignore[method-assign]

    def _with_sender(self, engine: Engine, sender: str) -> Callable[..., None]:
        plain = engine.handle_frames
        return lambda frames, now, who=sender: plain(frames, now, who)


def test_nobody_speaks_in_the_name_of_another() -> None:
    """No hello, no frame of a link between others, no goodbye; each is counted, and the member's log says it once."""
    pair = Keyed()
    flow(pair, 1)
    [link] = pair.b.links.by_peer.values()
    assert (link.up, link.sender) == (True, "a")
    false = Hello("peerfabric", 1, "test", "b", pair.a.address, 99, 0, False, 1000)
    frame = Ack(link.in_id, link.in_number + 1, 0, 1, [], [])
    goodbye = Bye(link.in_id, link.in_number + 1, 0, "a", 1)
    refusal = Bye(bytes(8), 0, 0, "a", SUPERSEDED)
    for each in (false, frame, goodbye, refusal):
        pair.b.handle_frames([encode_frame(each)], pair.now, "mallory")
    counters = pair.b.links.counters
    assert (counters["hellos under a false name"], counters["frames under a false name"]) == (1, 3)
    assert (link.up, pair.b.links.by_peer) == (True, {link.peer: link})
    events = pair.b.poll_events()
    assert events.superseded == ""
    assert sum("mallory" in record.text for record in events.records) == 1
    pair.b.handle_frames([encode_frame(frame)], pair.now, "")
    assert counters["frames under a false name"] == 4, "nor may one without a key"
    pair.a.producers.accept(pair.a.producers.by_queue["jobs"], [b"more"], 0)
    pair.settle()
    assert (link.up, counters.get("frames of another life", 0)) == (True, 0)


def test_a_copy_stops_this_node() -> None:
    """Whoever drives it learns where the other is, once."""
    pair = Pair()
    other = msgspec.structs.replace(pair.a.address, epoch=9 << 20, inbox=["tcp://10.0.0.9:1"])
    pair.a.handle_frames([encode_frame(Hello("peerfabric", 1, "test", "", other, 5, 0, False, 1000))], pair.now)
    assert pair.a.poll_events().superseded == "tcp://10.0.0.9:1"
    assert pair.a.poll_events().superseded == ""


def test_who_is_revoked_is_sent_away() -> None:
    """At once; the other side takes it for a peer that is not reached, and what it held goes back to wait."""
    pair = Pair()
    end = flow(pair, 3)
    goodbyes: list[Bye] = []

    def listen(sender: Engine, frames: list[bytes]) -> bool:
        frame = decode_frame(frames[0])
        if isinstance(frame, Bye) and sender is pair.a:
            goodbyes.append(frame)
        return True

    pair.filter = listen
    pair.a.handle_access(lambda node_id: node_id != "b", pair.now)
    pair.settle()
    assert [bye.reason for bye in goodbyes] == [UNWELCOME]
    assert (pair.a.links.by_peer, pair.b.links.by_peer) == ({}, {})
    assert (end.account().waiting, pair.b.view()[0].reason) == (3, "denied")
    pair.pass_time(60.0)
    assert not [link for link in pair.a.links.by_wire.values() if link.up]
    assert pair.a.links.counters["hellos of nodes that are not let in"] > 0
    pair.a.handle_access(lambda node_id: True, pair.now)
    pair.pass_time(1.0)
    assert [link.up for link in pair.a.links.by_peer.values()] == [True], "long before the other one asks again"


@pytest.mark.parametrize("hears", ["a", "b"])
def test_a_link_that_works_in_one_direction_is_given_up(hears: str) -> None:
    """By the producer 4.5 s after the cut, whichever direction that was, while it goes on sending as long as it may."""
    pair = Pair()
    end = flow(pair, 1)
    run_all(pair)
    pair.settle()
    cut_at = pair.now
    pair.filter = lambda sender, frames: (sender is pair.b) == (hears == "a")
    while any(link.was_up for link in pair.a.links.by_wire.values()):
        assert pair.now <= cut_at + 10.0
        pair.a.producers.accept(end, [b"more"], 0)
        run_all(pair)
        pair.pass_time(0.1)
    assert 3.5 <= pair.now - cut_at <= 4.8  # with the steps of this test
    assert end.held_by("b:7340032") == 0


def test_a_late_ack_of_the_last_life_counts() -> None:
    """What was processed was: the producer has not given it to anybody else yet, and need not."""
    pair = Pair()
    end = flow(pair, 3)
    held: list[list[bytes]] = []

    def hold_acks(sender: Engine, frames: list[bytes]) -> bool:
        if sender is pair.b and isinstance(decode_frame(frames[0]), Ack):
            held.append(frames)
            return False
        return sender is pair.a

    pair.filter = hold_acks
    run_all(pair)
    pair.settle()
    assert held
    [link] = pair.a.links.by_wire.values()
    pair.a._apply(pair.a.links.broken(link, pair.now), pair.now)
    for frames in held:
        pair.a.handle_frames(frames, pair.now)
    assert end.account().acked == 3
    pair.a.check()
    pair.a._apply(pair.a.links.said_bye(link, 99, pair.now), pair.now)
    assert pair.a.links.ended == {}


def test_an_address_that_changes_grows_its_version() -> None:
    """Others take only what is later than what they know."""
    pair = Pair()
    pair.meet()
    moved: Address = msgspec.structs.replace(pair.a.address, inbox=["tcp://a:7"])
    pair.a.readdress(moved, pair.now)
    pair.settle()
    [link] = pair.b.links.by_peer.values()
    assert link.address == pair.a.address == msgspec.structs.replace(moved, version=1)
    assert (link.up, link.endpoint) == (True, "tcp://a:7")


def test_outboxes_are_followed_anew_when_an_address_of_ours_is_gone() -> None:
    """Connections that were made from there are dead, and nothing tells; one more address changes nothing."""
    pair = Pair()
    pair.a.open_publisher("news", RAW, pair.now)
    pair.b.open_subscriber("news", 2**20, pair.now)
    pair.meet()
    pair.settle(1.0)

    def told() -> list[object]:
        return [command for who, command in pair.commands if who == "b" and isinstance(command, Follow | Unfollow)]

    assert told() == [Follow("tcp://a:2")]
    more = ["tcp://b:1", "tcp://more:1"]
    pair.b.readdress(msgspec.structs.replace(pair.b.address, inbox=more), pair.now)
    pair.settle()
    assert told() == [Follow("tcp://a:2")]
    pair.b.readdress(msgspec.structs.replace(pair.b.address, inbox=more[1:]), pair.now)
    pair.settle()
    assert told() == [Follow("tcp://a:2"), Unfollow("tcp://a:2"), Follow("tcp://a:2")]
