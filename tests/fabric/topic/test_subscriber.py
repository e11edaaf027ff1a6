"""The subscriber's end of a pattern."""

from __future__ import annotations

import msgspec

from peerfabric.topic.publisher import OutgoingTopic
from peerfabric.topic.subscriber import IncomingTopic
from peerfabric.wire.frames import RAW, Tail


class Paper:
    """A publisher and a subscriber to it, with the outbox between them in our hands."""

    def __init__(self, buffer_bytes: int = 2**20) -> None:
        self.out = OutgoingTopic("news.x", "p", 1, "paper", RAW)
        self.end = IncomingTopic("news.*", buffer_bytes, 1)

    def publish(self, *bodies: bytes, arrives: bool = True) -> None:
        for _, header, body in self.out.publish(list(bodies), 0):
            if arrives:
                self.end.receive("p:1", header, body)
        self.end.check()

    def taken(self) -> list[bytes]:
        found: list[bytes] = []
        while (batch := self.end.take()) is not None:
            found += msgspec.msgpack.decode(batch.body)
        return found


def test_updates_in_order_and_gaps_counted() -> None:
    """What did not come before something later came is missed."""
    paper = Paper()
    paper.publish(b"1")
    paper.publish(b"2", b"3", arrives=False)
    paper.publish(b"4")
    assert (paper.taken(), paper.end.missed) == ([b"1", b"4"], 2)


def test_before_the_first_nothing_was_missed() -> None:
    """Without a marker the topic begins with what comes first."""
    paper = Paper()
    paper.publish(b"1", arrives=False)
    paper.publish(b"2")
    assert (paper.taken(), paper.end.missed) == ([b"2"], 0)


def test_the_marker_is_the_baseline() -> None:
    """From there on nothing may be missing unnoticed, also of topics that begin later."""
    paper = Paper()
    paper.publish(b"1", arrives=False)
    paper.end.baseline("p:1", [paper.out.tail(), Tail("weather", 9)])
    paper.publish(b"2", arrives=False)
    paper.publish(b"3")
    later = OutgoingTopic("news.y", "p", 1, "paper", RAW)
    later.publish([b"lost"], 0)
    [(_, header, body)] = later.publish([b"came"], 0)
    paper.end.receive("p:1", header, body)
    assert (paper.taken(), paper.end.missed) == ([b"3", b"came"], 2)
    paper.end.check()


def test_late_and_overlapping_frames() -> None:
    """After a reconnect old frames come behind new ones: dropped, counted, never delivered twice."""
    paper = Paper()
    [(_, old, old_body)] = paper.out.publish([b"1", b"2"], 0)
    paper.end.receive("p:1", old, old_body)
    assert not paper.end.receive("p:1", old, old_body)
    whole = msgspec.structs.replace(old, first=2, count=2)
    paper.out.last = 3
    assert paper.end.receive("p:1", whole, msgspec.msgpack.encode([b"2", b"3"]))
    assert (paper.taken(), paper.end.account().late, paper.end.missed) == ([b"1", b"2", b"3"], 3, 0)
    paper.end.check()


def test_a_lost_tail_is_noticed() -> None:
    """By the beats that follow, once; tails of topics that are not ours say nothing."""
    paper = Paper()
    paper.publish(b"1")
    paper.publish(b"2", arrives=False)
    assert paper.end.tails("p:1", [paper.out.tail(), Tail("weather", 9)])
    assert not paper.end.tails("p:1", [paper.out.tail()])
    assert paper.end.missed == 1
    paper.end.check()


def test_a_full_buffer_drops_the_oldest() -> None:
    """Counted as missed, of the very topic that it was of."""
    paper = Paper(buffer_bytes=150)
    for body in (b"1", b"2", b"3"):
        paper.publish(body)
    assert (paper.taken(), paper.end.missed) == ([b"2", b"3"], 1)


def test_another_epoch_is_another_stream() -> None:
    """Its numbers begin again; those of a publisher that is gone are forgotten."""
    paper = Paper()
    paper.publish(b"1")
    again = OutgoingTopic("news.x", "p", 2, "paper", RAW)
    [(_, header, body)] = again.publish([b"new"], 0)
    assert paper.end.receive("p:2", header, body)
    paper.end.forget("p:1")
    assert (paper.taken(), paper.end.missed) == ([b"1", b"new"], 0)
    paper.end.check()
