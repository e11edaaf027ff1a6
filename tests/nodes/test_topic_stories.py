"""Topics over real nodes, each story told to both fronts."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from peerfabric import EncodeError, NodeClosed, TimedOut, Update
from tests.nodes.conftest import eventually


def next_body(subscriber: Any) -> Any:
    return subscriber.get(timeout=10).body


def subscribed(node: Any, pattern: str) -> Any:
    return next(a for a in node.statistics().subscribers if a.pattern == pattern)


def test_every_subscriber_gets_every_update(front: Any) -> None:
    """With all that an update says about itself."""
    with front.node("exchange") as a, front.node() as b, front.node() as c:
        subscribers = [node.subscriber("prices.*", float) for node in (b, c)]
        prices = a.publisher("prices.eur", float)
        prices.ready(subscribers=2, timeout=10)
        prices.publish(1.08, headers={"source": "desk"})
        prices.publish_many([1.0, 2.0, 3.0])
        for subscriber in subscribers:
            first = subscriber.get(timeout=10)
            got = (first.topic, first.body, first.headers, first.sender, first.sequence)
            assert got == ("prices.eur", 1.08, {"source": "desk"}, "exchange", 1)
            assert [next_body(subscriber) for _ in range(3)] == [1.0, 2.0, 3.0]
            assert subscriber.missed == 0


def test_wildcards_select_topics(front: Any) -> None:
    """`*` is one part, `>` the rest, and a name is itself."""
    with front.node() as a, front.node() as b:
        patterns = ["eu.*.price", "eu.>", "eu.de.price"]
        subscribers = {pattern: b.subscriber(pattern, str) for pattern in patterns}
        topics = ["eu.de.price", "eu.fr.price", "eu.de.volume", "us.ny.price", "eu.de.price.old"]
        publishers = {topic: a.publisher(topic, str) for topic in topics}
        publishers["eu.de.price"].ready(subscribers=3, timeout=10)
        for topic in topics:
            publishers[topic].publish(topic)
        assert next_body(subscribers["eu.de.price"]) == "eu.de.price"
        assert sorted(next_body(subscribers["eu.*.price"]) for _ in range(2)) == ["eu.de.price", "eu.fr.price"]
        assert sorted(next_body(subscribers["eu.>"]) for _ in range(4)) == sorted(set(topics) - {"us.ny.price"})
        for subscriber in subscribers.values():
            with pytest.raises(TimedOut, match=r"see node\.peers"):
                subscriber.get(timeout=0.1)
            assert subscriber.missed == 0


def test_one_message_may_go_to_another_topic(front: Any) -> None:
    """`topic=` sends through the publisher of that topic, with its own numbers."""
    with front.node() as a, front.node() as b:
        subscriber = b.subscriber("prices.>", int)
        publisher = a.publisher("prices.eur", int)
        publisher.ready(timeout=10)
        publisher.publish(1, topic="prices.usd")
        publisher.publish(2)
        got = {(u.topic, u.body, u.sequence) for u in (subscriber.get(timeout=10), subscriber.get(timeout=10))}
        assert got == {("prices.usd", 1, 1), ("prices.eur", 2, 1)}
        assert subscriber.missed == 0


def test_a_node_hears_itself(front: Any) -> None:
    """Publisher and subscriber in one node meet in memory."""
    with front.node() as node:
        subscriber, publisher = node.subscriber("prices.>", int), node.publisher("prices.eur", int)
        publisher.ready(timeout=10)
        publisher.publish_many(range(10))
        assert [next_body(subscriber) for _ in range(10)] == list(range(10))


def test_a_late_joiner_starts_where_it_joins(front: Any) -> None:
    """What was published before is not missed: it was never meant for it."""
    with front.node() as a, front.node() as b:
        publisher, early = a.publisher("prices", int), b.subscriber("prices", int)
        publisher.ready(timeout=10)
        publisher.publish_many(range(100))
        assert [next_body(early) for _ in range(100)] == list(range(100))
        with front.node() as c:
            late = c.subscriber("prices", int)
            publisher.ready(subscribers=2, timeout=10)
            publisher.publish(100)
            assert (next_body(late), late.missed) == (100, 0)


def test_a_full_buffer_drops_the_oldest_and_counts_exactly(front: Any) -> None:
    """What a slow program did not take in time is missed by number."""
    with front.node() as a, front.node() as b:
        subscriber = b.subscriber("prices", bytes, buffer_bytes=50_000)
        publisher = a.publisher("prices", bytes)
        publisher.ready(timeout=10)
        for n in range(1000):
            publisher.publish(n.to_bytes(2, "big") * 500)
        publisher.publish(b"last")
        seen: list[bytes] = []
        while not seen or seen[-1] != b"last":
            seen.append(next_body(subscriber))
        assert len(seen) + subscriber.missed == 1001
        assert 0 < len(seen) < 1001 or subscriber.missed == 0
        account = subscribed(b, "prices")
        assert (account.received, account.missed) == (len(seen), subscriber.missed)


def test_closing_waits_for_the_last_message(front: Any) -> None:
    """A publisher that ends at once does not take its last updates with it."""
    with front.node() as b:
        subscriber = b.subscriber("prices", int)
        with front.node() as a:
            publisher = a.publisher("prices", int)
            publisher.ready(timeout=10)
            publisher.publish_many(range(20_000))
        assert [next_body(subscriber) for _ in range(20_000)] == list(range(20_000))
        assert subscriber.missed == 0


def test_subscribers_iterate_and_batch(front: Any) -> None:
    """A `for` loop, and lists of at most `max_size`."""
    with front.node() as a, front.node() as b:
        subscriber, publisher = b.subscriber("prices", int), a.publisher("prices", int)
        publisher.ready(timeout=10)
        publisher.publish_many(range(100))
        seen = []
        for update in subscriber:
            seen.append(update.body)
            if len(seen) == 10:
                break
        while len(seen) < 100:
            for updates in subscriber.batches(max_size=20, max_wait=0.2):
                assert len(updates) <= 20
                seen += [update.body for update in updates]
                break
        assert seen == list(range(100))


def test_misfits_are_counted_and_the_rest_goes_on(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An update of another type is missed, with one error in the log that says where it does not fit."""
    with front.node() as a, front.node() as b:
        subscriber, publisher = b.subscriber("prices", int), a.publisher("prices", object)
        publisher.ready(timeout=10)
        publisher.publish_many([1, "two", 3, "four", 5])
        assert [next_body(subscriber) for _ in range(3)] == [1, 3, 5]
        assert subscriber.missed == 2
        eventually(lambda: "such updates are counted as missed" in caplog.text)
        assert caplog.text.count("such updates are counted as missed") == 1


def test_what_cannot_be_published_is_refused_at_the_caller(front: Any) -> None:
    """The bodies before the one at fault are sent, and counted in the error."""
    with front.node() as node:
        publisher = node.publisher("prices", int)
        with pytest.raises(EncodeError, match="send that type"):
            publisher.publish("x")
        with pytest.raises(EncodeError) as caught:
            publisher.publish_many([1, 2, "x"])
        assert caught.value.accepted == 2
        with pytest.raises(TimedOut, match="start one in the same fabric"):
            publisher.ready(timeout=0.02)


def test_close_ends_a_waiting_loop(front: Any) -> None:
    """A closed subscriber stops iterating, and may be opened again."""
    with front.node() as node:
        subscriber = node.subscriber("prices", int)
        thread = threading.Thread(target=lambda: list(subscriber))
        thread.start()
        subscriber.close()
        thread.join(20)
        assert not thread.is_alive()
        with pytest.raises(NodeClosed):
            subscriber.get(timeout=1)
        again = node.subscriber("prices", int)
        node.publisher("prices", int).publish(1)
        assert next_body(again) == 1


def test_on_topic_calls_a_function(front: Any) -> None:
    """With each body, or the update too."""
    with front.node() as a, front.node() as b:
        seen: list[Any] = []

        def simple(price: int) -> None:
            seen.append(price)
            if price == 1:
                raise ValueError("logged, and on it goes")

        def full(price: int, update: Update[int]) -> None:
            seen.append((update.topic, price))

        b.on_topic("prices")(simple)
        b.on_topic("prices.*")(full)
        first, second = a.publisher("prices", int), a.publisher("prices.eur", int)
        first.ready(timeout=10)
        second.ready(timeout=10)
        first.publish_many([1, 2])
        second.publish(3)
        while len(seen) < 3:
            threading.Event().wait(0.01)
        assert (sorted(x for x in seen if isinstance(x, int)), [x for x in seen if not isinstance(x, int)]) == (
            [1, 2],
            [("prices.eur", 3)],
        )
