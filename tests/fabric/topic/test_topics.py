"""The topics of two nodes over a perfect wire: who is known to listen, and when all has arrived."""

from __future__ import annotations

from math import inf

import msgspec

from peerfabric.link.commands import Follow, Subscribe, Unfollow, Unsubscribe
from peerfabric.wire.frames import RAW, Marker, Tail, Tails, encode_frame
from tests.fabric.helpers import HUGE, Pair


def test_topics_reach_who_subscribed() -> None:
    """A marker confirms the subscription; `confirmed` says that the slow joiner has joined."""
    pair = Pair()
    publisher = pair.a.open_publisher("news.x", RAW, pair.now)
    subscriber = pair.b.open_subscriber("news.*", 2**20, pair.now)
    pair.meet()
    pair.settle(0.1)
    assert publisher.confirmed == {"b news.*"}
    pair.a.topics.publish(publisher, [b"1", b"2"], 0)
    pair.settle()
    batch = subscriber.take()
    assert batch is not None
    assert (batch.first, msgspec.msgpack.decode(batch.body), subscriber.missed) == (1, [b"1", b"2"], 0)
    pair.b.close_subscriber("news.*", pair.now)
    pair.settle(0.3)
    assert publisher.confirmed == set()


def test_a_topic_ends_behind_its_last_update() -> None:
    """What is published while the node drains still counts: its subscribers are asked for the end after it."""
    pair = Pair()
    publisher = pair.a.open_publisher("news", RAW, pair.now)
    subscriber = pair.b.open_subscriber("news", HUGE, pair.now)
    pair.meet()
    pair.settle(1.0)
    assert len(publisher.confirmed) == 1
    pair.a.drain(pair.now)
    pair.settle(0.1)
    pair.a.topics.publish(publisher, [b"late"], 0)
    pair.a.topics.finish(pair.now)
    assert not pair.a.settled()
    pair.settle(0.1)
    assert pair.a.settled()
    batch = subscriber.take()
    assert batch is not None
    assert batch.count == 1


def test_a_topic_does_not_end_while_its_subscriber_renews_the_link() -> None:
    """For that moment nothing is known of the subscriber, which is no reason to close."""
    pair = Pair()
    pair.a.open_publisher("news", RAW, pair.now)
    pair.b.open_subscriber("news", HUGE, pair.now)
    pair.meet()
    pair.settle(1.0)
    [link] = pair.a.links.by_peer.values()
    pair.a.links.broken(link, pair.now)
    pair.a.drain(pair.now)
    pair.a.topics.finish(pair.now)
    assert not pair.a.settled()
    pair.settle(1.0)
    assert pair.a.settled()


def test_the_sockets_are_told() -> None:
    """One SUB filter for each pattern, and one connection to each outbox that has something for us."""
    pair = Pair()
    pair.a.open_publisher("news", RAW, pair.now)
    pair.b.open_subscriber("news", HUGE, pair.now)
    pair.meet()
    pair.b.close_subscriber("news", pair.now)
    pair.a.say_bye(pair.now)
    pair.settle()
    told = [c for who, c in pair.commands if who == "b" and isinstance(c, Subscribe | Unsubscribe | Follow | Unfollow)]
    assert told == [Subscribe(b"news\0"), Follow("tcp://a:2"), Unsubscribe(b"news\0"), Unfollow("tcp://a:2")]


def test_we_hear_ourselves() -> None:
    """Without a wire, and without the outbox of this node."""
    pair = Pair()
    publisher = pair.a.open_publisher("news", RAW, pair.now)
    subscriber = pair.a.open_subscriber("news", HUGE, pair.now)
    assert publisher.confirmed == {"a news"}
    pair.a.topics.publish(publisher, [b"1"], 0)
    assert set(pair.a.poll_events().changed) == {publisher, subscriber}
    batch = subscriber.take()
    assert batch is not None
    assert (batch.first, batch.count, subscriber.missed) == (1, 1, 0)


def test_tails_are_repeated_twice() -> None:
    """After half a second and after a whole one, counted from the next `handle_timeout`."""
    pair = Pair()
    topics = pair.a.topics
    topics.publish(pair.a.open_publisher("news", RAW, pair.now), [b"1"], 0)
    assert len(topics.outbox) == 1
    topics.outbox.clear()
    assert topics.deadlines.first < pair.now
    tails = [b"news\0", encode_frame(Tails("a", 7 << 20, [Tail("news", 1)]))]
    told = []
    for at in (100.0, 100.4, 100.5, 101.0, 101.5):
        topics.handle_timeout(at)
        told.append((list(topics.outbox), topics.deadlines.first))
        topics.outbox.clear()
    assert told == [([], 100.5), ([], 100.5), ([tails], 101.0), ([tails], 101.5), ([], inf)]


def test_only_our_own_marker_counts() -> None:
    """One for another node, or for a subscription that was closed since, confirms nothing."""
    pair = Pair()
    pair.meet()
    subscriber = pair.b.open_subscriber("news", HUGE, pair.now)
    [link] = pair.b.links.by_peer.values()
    pair.settle(1.0)
    for to, serial, answered in (("c", 1, False), ("b", 2, False), ("b", 1, True), ("b", 1, False)):
        marker = Marker("a", 7 << 20, to, "news", serial, [Tail("news", 5)])
        pair.b.topics.receive([b"news\0", encode_frame(marker)], pair.now)
        assert (link in pair.b.interests._again) is answered
        pair.settle(1.0)
    assert subscriber.confirmed == {link.peer, "b:7340032"}


def test_a_publisher_that_moved_is_followed_anew_with_the_next_life() -> None:
    """What is connected goes on bringing all; only when the link begins anew may that have ended, too."""
    pair = Pair()
    publisher = pair.a.open_publisher("news", RAW, pair.now)
    pair.b.open_subscriber("news", HUGE, pair.now)
    pair.meet()
    pair.settle(1.0)
    pair.a.readdress(msgspec.structs.replace(pair.a.address, outbox=["tcp://a:4"]), pair.now)
    pair.settle(1.0)
    assert [link.address for link in pair.b.links.by_peer.values()] == [pair.a.address]
    pair.a.topics.publish(publisher, [b"1"], 0)
    pair.settle(0.1)

    def told() -> list[object]:
        return [command for who, command in pair.commands if who == "b" and isinstance(command, Follow | Unfollow)]

    assert told() == [Follow("tcp://a:2")]
    [link] = pair.a.links.by_peer.values()
    pair.a.links.broken(link, pair.now)
    pair.settle(1.0)
    assert told() == [Follow("tcp://a:2"), Unfollow("tcp://a:2"), Follow("tcp://a:4")]


def test_a_publisher_is_followed_at_the_host_where_it_was_met() -> None:
    """With its key. Of several addresses only one may lead to it; one that it does not name is that of a forwarder."""
    for named, follows in (("tcp://a:9", "tcp://a:9"), ("tcp://other:9", "tcp://a:9")):
        pair = Pair()
        outbox = ["tcp://other:9", named] if named != "tcp://other:9" else [named]
        pair.a.readdress(msgspec.structs.replace(pair.a.address, outbox=outbox, outbox_key=b"k" * 32), pair.now)
        pair.a.open_publisher("news", RAW, pair.now)
        pair.b.open_subscriber("news", HUGE, pair.now)
        pair.meet()
        pair.b.handle_discovered(pair.a.address, pair.now)
        pair.settle(1.0)
        assert [c for who, c in pair.commands if who == "b" and isinstance(c, Follow)] == [Follow(follows, b"k" * 32)]


def test_an_outbox_that_brings_nothing_is_told() -> None:
    """Only the port of the inbox was opened: queues work, topics do not, and a person must hear why."""
    pair = Pair()
    pair.a.open_publisher("news", RAW, pair.now)
    pair.b.open_subscriber("news", HUGE, pair.now)
    held: list[object] = []
    pair.b.handle_published = lambda frames, now: held.append(frames)  # type: ignore[method-assign]
    pair.meet()
    pair.pass_time(30.0)
    told = [record.text for record in pair.b.poll_events().records if "outbox" in record.text]
    assert told
    assert "tcp://a:2 of a does not answer" in told[0]
    del pair.b.handle_published
    pair.pass_time(10.0)
    assert list(pair.b.topics.findings(pair.now)) == []


def test_a_subscription_that_is_renewed_is_confirmed() -> None:
    """A marker that was still due for the one before does not stand for the new one."""
    pair = Pair()
    publisher = pair.a.open_publisher("news", RAW, pair.now)
    pair.meet()
    pair.settle(0.5)
    held: list[object] = []
    pair.b.open_subscriber("news", HUGE, pair.now)
    pair.b.handle_published = lambda frames, now: held.append(frames)  # type: ignore[method-assign]
    pair.settle(0.3)
    assert held, "no marker was due"
    pair.b.close_subscriber("news", pair.now)
    pair.b.open_subscriber("news", HUGE, pair.now)
    pair.settle(0.3)
    del pair.b.handle_published
    pair.pass_time(2.0)
    assert publisher.confirmed == {"b news"}
