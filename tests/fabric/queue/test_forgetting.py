"""Consumers that were closed and are forgotten, and whose queues are opened anew in the same life of a link."""

from __future__ import annotations

from peerfabric.queue.incoming import IDLE_AFTER
from tests.fabric.helpers import Pair, bodies, claim


class Story:
    """`a` sends to "jobs", which `b` consumes; and another queue keeps their link."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.out = self.pair.a.open_producer("jobs", 0, 5, 2**20, self.pair.now)
        self.pair.a.open_producer("others", 0, 5, 2**20, self.pair.now)
        self.pair.b.open_consumer("others", 300.0, self.pair.now)
        self.open()
        self.pair.meet()

    def open(self) -> None:
        self.at = self.pair.b.open_consumer("jobs", 300.0, self.pair.now)

    def works(self, count: int) -> None:
        """So many are sent, and processed as soon as they come."""
        self.pair.a.producers.accept(self.out, bodies(count), 0)
        acked = self.out.account().acked + count
        for _ in range(100):
            self.at.want(1, 10, self.pair.now)
            while (delivery := self.at.take(self.pair.now)) is not None:
                claimed = len(claim(delivery, delivery.left, now=self.pair.now))
                delivery.ack(0, claimed)
            self.pair.b.consumers.progress(self.at, self.pair.now)
            self.pair.settle(0.1)
            if self.out.account().acked >= acked:
                return
        raise AssertionError("it gets no further")

    def close(self) -> None:
        self.pair.b.close_consumer("jobs", self.pair.now)
        self.pair.settle(0.1)

    def forget(self) -> bool:
        return self.pair.b.consumers.forget("jobs", self.pair.now)

    def comes_to_be_forgotten(self) -> None:
        """Once a PING has said that the last results are known."""
        for _ in range(60):
            self.pair.pass_time(1.0)
            if self.forget():
                return
        raise AssertionError("it is never forgotten")


def test_totals_go_on() -> None:
    """Opened anew it is granted what it lacks, time and again, and nothing of it is there in between."""
    story = Story()
    for _ in range(3):
        story.works(200)
        story.close()
        story.comes_to_be_forgotten()
        assert "jobs" not in story.pair.b.consumers.by_queue
        story.pair.pass_time(3.0)
        story.open()
    story.works(200)
    assert story.out.account().redelivered == 0


def test_what_is_undecided_is_not_forgotten() -> None:
    """Not while it is open, not with a message in hand, and not before its ack cannot get lost any more."""
    story = Story()
    story.works(10)
    assert not story.forget()
    story.pair.a.producers.accept(story.out, bodies(1), 0)
    story.pair.settle(0.1)
    delivery = story.at.take(story.pair.now)
    assert delivery is not None
    assert claim(delivery, now=story.pair.now) != []
    story.close()
    story.pair.pass_time(IDLE_AFTER + 1.0)
    assert not story.forget()
    story.pair.filter = lambda sender, frames: sender is not story.pair.b
    delivery.ack(0, 1)
    story.pair.b.consumers.progress(story.at, story.pair.now)
    story.pair.settle(0.1)
    assert not story.forget()
    story.pair.filter = lambda sender, frames: True
    story.comes_to_be_forgotten()
    assert story.out.account().acked == 11


def test_what_is_on_its_way_frees_its_credit() -> None:
    """It comes to a queue that is forgotten, goes back, and is sent again when that is open."""
    story = Story()
    story.works(100)
    known = dict(story.out.consumers)
    story.close()
    story.comes_to_be_forgotten()
    story.out.consumers.update(known)  # as if it had not read yet that nobody takes there
    story.pair.a.producers.accept(story.out, bodies(1), 0)
    story.pair.settle(0.1)
    assert story.out.account().waiting == 1
    for by_queue in story.pair.b.consumers._left_off.values():
        assert by_queue["jobs"].freed_messages == by_queue["jobs"].seen_messages
    story.open()
    story.pair.pass_time(1.0)
    story.works(100)
