"""Status of one node, as its engine knows it."""

from __future__ import annotations

from peerfabric.node_status import choose, overview, sends_of, takes_of
from tests.fabric.helpers import Pair, bodies


def test_the_deepest_queues_come_first() -> None:
    """On each side as many as were asked for; how many are left out of all lists is told."""
    pair = Pair()
    for name, count in (("a", 1), ("b", 3), ("c", 3), ("d", 0)):
        end = pair.a.open_producer(name, 0, 5, 2**20, pair.now)
        pair.a.producers.accept(end, bodies(count), 0)
    pair.a.open_consumer("x", 1.0, pair.now)
    pair.a.open_consumer("w", 1.0, pair.now)
    pair.a.open_publisher("news", 0, pair.now)
    assert choose(pair.a, 2) == (["b", "c"], ["w", "x"], 2)
    assert choose(pair.a, 200) == (["b", "c", "a", "d"], ["w", "x"], 0)
    pair.a.close_consumer("w", pair.now)
    assert choose(pair.a, 1).takes == ["x"]


def test_queues_that_have_gone_meanwhile() -> None:
    """Between choosing and looking others may use the engine."""
    pair = Pair()
    pair.a.open_producer("jobs", 0, 5, 2**20, pair.now)
    assert [each.queue for each in sends_of(pair.a, ["jobs", "gone"], 0)] == ["jobs"]
    assert takes_of(pair.a, ["gone"], 0.0) == []


def test_overview() -> None:
    """Who it is, whom it knows, its topics; of the names that a peer uses as many as were asked for."""
    pair = Pair()
    for name in ("p", "q", "r"):
        pair.b.open_consumer(name, 1.0, pair.now)
    pair.a.open_producer("q", 0, 5, 2**20, pair.now)
    news = pair.a.open_publisher("news", 0, pair.now)
    inside = pair.b.open_subscriber("news", 2**20, pair.now)
    pair.meet()
    pair.settle(0.1)
    pair.a.topics.publish(news, bodies(2), 0)
    pair.pass_time(3.0)
    shown = overview(pair.a, 2, pair.now)
    assert (shown.node_id, shown.fabric, shown.host, shown.endpoints) == (
        "a",
        "test",
        "host",
        ("tcp://a:1", "tcp://a:2"),
    )
    [peer] = shown.peers
    assert (peer.name, peer.state, peer.consumes) == ("b", "up", ("p", "q"))
    assert peer.rtt is not None
    assert [(each.topic, each.published, each.subscribers) for each in shown.publishes] == [("news", 2, 1)]
    [subscribed] = overview(pair.b, 2, pair.now).subscribes
    assert (subscribed.received, subscribed.buffered, subscribed.behind) == (2, 2, inside.buffered_bytes)
    assert subscribed.behind > 0
