"""What a consumer remembers of streams, also over its own restart."""

from __future__ import annotations

from math import inf

import pytest

from peerfabric.queue import received as streams
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.received import FORGET_AFTER, Streams
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import Result, StreamRanges
from tests.fabric.helpers import HUGE, STREAM, claim, consumer, receive, results, take


def restarted(*done: tuple[int, int], stream: str = STREAM) -> IncomingQueue:
    """A consumer's end whose earlier life processed `done`."""
    return IncomingQueue("jobs", 10.0, HUGE, 0.1, remembered={stream: Ranges(done)})


def test_memory_of_a_dead_producer_ends() -> None:
    """A minute after its last message."""
    end = consumer()
    receive(end, 1, 1)
    delivery = take(end)
    claim(delivery)
    end.detach("p:1", 0.0, proven_gone=True)
    end.expire(100.0)
    assert STREAM in end._streams
    delivery.ack(0, 1)
    end.expire(101.0)
    assert STREAM not in end._streams
    end.check()


def test_what_an_earlier_life_processed_is_told_first() -> None:
    """A link comes up: INTEREST names it, and it is forgotten once the producer keeps the result."""
    end = restarted((1, 4), (7, 8))
    end.check()
    end.attach("p:1")
    assert end.producers.possession("p:1") == ([], [StreamRanges(STREAM, [1, 4, 7, 8])])
    end.producers.told_all("p:1", 5)
    end.check()
    assert not end._sources["p:1"].has_results
    end.producers.settle("p:1", 4)
    assert end.producers.take_forgotten() == {}
    end.producers.settle("p:1", 5)
    end.check()
    assert end.producers.take_forgotten() == {STREAM: Ranges([(1, 4), (7, 8)])}
    assert end.producers.possession("p:1") == ([], [])


def test_what_an_earlier_life_processed_is_not_run() -> None:
    """It comes all the same, as the producer did not know: it is acked, and only the rest is handed out."""
    end = restarted((1, 3))
    end.attach("p:1")
    end.fence("p:1", 1000.0)
    end.producers.told_all("p:1", 1)
    receive(end, 1, 3)
    assert claim(take(end), 9) == [b"0003"]
    assert results(end, 2) == [Result(STREAM, "jobs", [1, 3])]


def test_an_open_link_is_told_with_the_next_ack() -> None:
    """The consumer was made in a node whose INTEREST had left before."""
    end = restarted((1, 3))
    end.meet("p:1")
    assert end._sources["p:1"].has_results
    assert results(end, 9) == [Result(STREAM, "jobs", [1, 3])]
    end.producers.settle("p:1", 8)
    end.check()
    assert end.producers.take_forgotten() == {}
    end.producers.settle("p:1", 9)
    assert end.producers.take_forgotten() == {STREAM: Ranges([(1, 3)])}


def test_a_producer_that_came_back_is_told_of_its_earlier_life() -> None:
    """Streams of one node id belong together, whatever its epoch is now; other nodes hear nothing."""
    end = restarted((1, 3))
    for peer, done in (("q:1", []), ("p:2", [StreamRanges(STREAM, [1, 3])])):
        end.attach(peer)
        end.meet(peer)
        assert end.producers.possession(peer) == ([], done)
    end.check()


def test_the_ledger_may_forget_what_lies_below_the_floor() -> None:
    """Whoever processed it."""
    end = restarted((5, 7))
    end.attach("p:1")
    end.producers.told_all("p:1", 1)
    receive(end, 9, 1, sent=9, floor=6)
    end.raise_floor(STREAM, 9)
    end.raise_floor(STREAM, 8)
    assert end.producers.take_forgotten() == {STREAM: Ranges([(0, 9)])}
    assert end.producers.take_forgotten() == {}


def test_a_remembered_stream_outlives_the_absence_of_its_producer() -> None:
    """Its producer may be away for long; one that keeps nothing is forgotten as ever once it is gone."""
    end = restarted((1, 3))
    end.attach("p:1")
    end.producers.told_all("p:1", 1)
    end.detach("p:1", 0.0, proven_gone=True)
    end.expire(FORGET_AFTER + 1)
    assert end.producers.take_forgotten() == {}
    end.attach("p:1")
    end.fence("p:1", 1000.0)
    receive(end, 5, 1)
    delivery = take(end)
    claim(delivery)
    end.detach("p:1", 100.0, proven_gone=True)
    delivery.ack(0, 1)
    end.expire(100.0 + FORGET_AFTER)
    assert end.producers.take_forgotten() == {STREAM: Ranges([(0, 2**53)])}
    end.check()


def test_a_producer_that_names_its_streams_ends_the_others() -> None:
    """What it does not name, it has not any more."""
    end = restarted((1, 3))
    end.attach("p:2")
    end.producers.live_streams("p:2", ["p:2:jobs"], 5.0)
    end.expire(5.0)
    assert end.producers.take_forgotten() == {STREAM: Ranges([(0, 2**53)])}
    assert end.producers.possession("p:2") == ([], [])


def test_without_a_ledger_nothing_is_collected() -> None:
    """Nobody would take it."""
    end = consumer()
    receive(end, 1, 1)
    end.raise_floor(STREAM, 9)
    assert end.producers.take_forgotten() == {}
    assert end._streams._forgotten is None


def test_a_delivery_knows_the_floor_it_was_sent_with() -> None:
    """Also a part of it."""
    end = restarted((3, 4))
    end.attach("p:1")
    end.fence("p:1", 1000.0)
    receive(end, 3, 2, floor=3)
    delivery = take(end)
    assert (delivery.first, delivery.floor) == (4, 3)


def test_of_streams_that_may_return_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the oldest go, except what is here and what somebody who is there may still send."""
    monkeypatch.setattr(streams, "DURABLE_MAX", 1)
    kept = Streams({name: Ranges([(1, 3)]) for name in ("here", "old", "sent", "new")})
    kept.came("here", durable=True).receive(3, 4)
    kept.limit_durable(lambda stream: stream == "sent")
    assert kept.drop_due(0.0) == ["old"]
    kept["here"].finish(3, 4)
    assert kept.drop_due(0.0) == []
    assert list(kept) == ["here", "sent", "new"]
    assert kept.take_forgotten() == {"old": Ranges([(0, 2**53)])}


@pytest.mark.parametrize("durable", [False, True])
def test_a_stream_in_memory_ends_with_its_producer(durable: bool) -> None:
    """One on disk does not, as it may go on in the next life; nor one of which a message is still here."""
    kept = Streams({})
    dedup = kept.came("p:1:jobs", durable=durable)
    dedup.receive(1, 2)
    kept.producer_died(["p:1:jobs"], 100.0)
    assert (kept.deadline(), kept.drop_due(1000.0)) == (inf, []), "a message of it is here"
    dedup.finish(1, 2)
    assert kept.deadline() == (inf if durable else 100.0 + FORGET_AFTER)
    assert kept.drop_due(100.0 + FORGET_AFTER - 0.1) == []
    assert kept.drop_due(1000.0) == ([] if durable else ["p:1:jobs"])


def test_a_producer_that_is_there_again_keeps_its_streams() -> None:
    """Whether its link is up or a message has come; but what it names no more ends at once."""
    kept = Streams(None)
    for stream in ("a", "b", "c"):
        kept.came(stream, durable=False)
    kept.producer_died(["a", "b", "c"], 0.0)
    kept.keep(["a"])
    kept.came("b", durable=False)
    assert kept.drop_due(FORGET_AFTER) == ["c"]
    kept.over(["a"], 90.0)
    kept.over(["a"], 95.0)
    assert kept.drop_due(90.0) == ["a"]
    assert list(kept) == ["b"]
