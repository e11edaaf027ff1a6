"""Queues that are paused at a consumer, and resumed."""

from __future__ import annotations

from peerfabric.link.liveness import FENCE
from peerfabric.queue.delivery import Delivery
from peerfabric.queue.incoming import IncomingQueue
from tests.fabric.helpers import Pair, bodies, claim


class Story:
    """`a` sends to "jobs", which `b` consumes; so may `a` itself."""

    def __init__(self) -> None:
        self.pair = Pair()
        a, b = self.pair.a, self.pair.b
        self.out = a.open_producer("jobs", 0, 5, 2**20, self.pair.now)
        self.at = b.open_consumer("jobs", 300.0, self.pair.now)
        self.pair.meet()
        self.takes()

    def takes(self, count: int = 10) -> None:
        self.at.want(1, count, self.pair.now)
        self.pair.b.consumers.progress(self.at, self.pair.now)
        self.pair.settle(0.1)

    def send(self, count: int) -> None:
        self.pair.a.producers.accept(self.out, bodies(count), 0)
        self.pair.settle(0.1)

    def take(self) -> Delivery | None:
        return self.at.take(self.pair.now)

    def pause(self) -> bool:
        done = self.pair.b.consumers.pause("jobs", self.pair.now)
        self.pair.settle(0.1)
        return done

    def resume(self) -> bool:
        done = self.pair.b.consumers.resume("jobs", self.pair.now)
        self.pair.settle(0.1)
        return done


def test_what_was_not_started_goes_back() -> None:
    """And what is in hand is finished; nothing more comes, for as long as it is paused."""
    story = Story()
    story.send(3)
    delivery = story.take()
    assert delivery is not None
    assert claim(delivery, now=story.pair.now) != []
    assert story.pause()
    assert (delivery.next, delivery.limit) == (1, 1)
    assert story.out.account().waiting == 2
    delivery.ack(0, 1)
    story.pair.b.consumers.progress(story.at, story.pair.now)
    story.pair.pass_time(5.0)
    account = story.out.account()
    assert (account.acked, account.waiting, account.in_flight, account.redelivered) == (1, 2, 0, 0)
    assert story.take() is None
    assert not story.at.available(story.pair.now)


def test_what_comes_on_credit_that_was_granted_goes_back() -> None:
    """It was sent before the producer knew, and is lost to nobody."""
    story = Story()
    story.pair.b.consumers.pause("jobs", story.pair.now)
    story.send(4)
    story.pair.pass_time(3.0)
    assert story.out.account().waiting == 4
    assert story.take() is None
    assert story.at.account().returned >= 1


def test_another_consumer_gets_it() -> None:
    """At once, and without a count of attempts."""
    story = Story()
    story.send(2)
    own = story.pair.a.open_consumer("jobs", 300.0, story.pair.now)
    own.want(1, 10, story.pair.now)
    story.pause()
    story.pair.settle(0.1)
    story.pair.pass_time(1.0)
    delivery = own.take(story.pair.now)
    assert delivery is not None
    assert delivery.attempt == 1
    assert story.out.held_by(f"a:{7 << 20}") == 2


def test_resumed() -> None:
    """It is granted again at once, and its users are told."""
    story = Story()
    story.send(2)
    story.pause()
    story.pair.b.changed.clear()
    assert story.resume()
    story.pair.settle(0.1)
    assert story.at in story.pair.b.changed
    delivery = story.take()
    assert delivery is not None
    assert claim(delivery, 5, now=story.pair.now) == bodies_of(delivery)


def bodies_of(delivery: Delivery) -> list[bytes]:
    return [b"%04d" % n for n in range(delivery.first, delivery.stop)]


def test_of_a_producer_that_is_gone() -> None:
    """Nobody else could be given these: they wait here, and go on when it is resumed."""
    story = Story()
    story.send(3)
    story.pair.a.drain(story.pair.now)
    [link] = [link for link in story.pair.b.links.by_peer.values() if link.name == "a"]
    story.pair.b._gone(link, story.pair.now, proven=True, died=True)
    now = story.pair.now
    assert story.pair.b.consumers.pause("jobs", now)
    assert story.take() is None
    assert story.at.account().buffered == 3
    story.pair.b.handle_timeout(now + FENCE)
    assert story.at.account().buffered == 3
    story.at.fence(link.peer, now + FENCE)  # it is back, and has echoed something
    assert story.take() is None
    story.pair.b.changed.clear()
    assert story.pair.b.consumers.resume("jobs", now)
    assert story.at in story.pair.b.changed
    assert [part.count for part in (story.take(), story.take()) if part is not None] == [1, 2]


def test_one_that_is_being_taken_of_a_producer_that_is_gone() -> None:
    """Whoever has begun with a frame of it stops there, and goes on with it later."""
    story = Story()
    story.send(3)
    story.take()
    delivery = story.take()
    assert delivery is not None
    [link] = [link for link in story.pair.b.links.by_peer.values() if link.name == "a"]
    story.pair.b._gone(link, story.pair.now, proven=True, died=True)
    claim(delivery, now=story.pair.now)
    story.pair.b.consumers.pause("jobs", story.pair.now)
    assert claim(delivery, now=story.pair.now) == []
    story.at.park(delivery)
    assert story.take() is None
    story.pair.b.consumers.resume("jobs", story.pair.now)
    assert story.take() is delivery
    assert len(claim(delivery, 5, now=story.pair.now)) == 1


def test_nobody_is_warned_of_it() -> None:
    """Messages wait for this consumer and nobody takes them: so it should be."""
    story = Story()
    story.at.want(0, 1, story.pair.now)
    story.pause()
    story.send(1)
    story.pair.pass_time(4.0)
    assert not story.at.is_neglected(story.pair.now + 100)


def test_a_queue_that_nobody_consumes() -> None:
    """Nothing is done, and that is said."""
    story = Story()
    assert not story.pair.b.consumers.pause("others", story.pair.now)
    assert not story.pair.b.consumers.resume("others", story.pair.now)
    story.pair.b.close_consumer("jobs", story.pair.now)
    assert not story.pause()
    assert not story.at.paused


def test_paused_twice_and_closed_meanwhile() -> None:
    """It stays so over a close and another opening, and nothing counts twice."""
    story = Story()
    story.send(2)
    assert story.pause()
    assert story.pause()
    story.pair.b.close_consumer("jobs", story.pair.now)
    story.pair.b.reopen_consumer("jobs", story.pair.now)
    story.takes()
    story.pair.pass_time(1.0)
    assert story.take() is None
    assert story.out.account().waiting == 2
    assert isinstance(story.at, IncomingQueue)
