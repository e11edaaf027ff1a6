"""What a consumer lets its producers send."""

from __future__ import annotations

import pytest

from peerfabric.queue import sources as granting
from peerfabric.queue.delivery import Verdict
from peerfabric.queue.received import Dedup
from peerfabric.queue.sources import Source, grant
from peerfabric.wire.frames import Backlog
from tests.fabric.helpers import HUGE, STREAM, body_of, claim, consumer, data, receive, take


def test_the_first_grant_is_one_message() -> None:
    """Everybody may send one, so that news travels at once; only once."""
    end = consumer()
    end.meet("q:1")
    end.want(1, 1, 0.0)
    end.grant(0.0)
    grants = [end.producers.take_told("p:1", 1)[1], end.producers.take_told("q:1", 1)[1]]
    assert [grant.messages for grant in grants if grant is not None] == [1, 1]
    end.grant(0.1)
    assert [end.producers.take_told("p:1", 1)[1], end.producers.take_told("q:1", 1)[1]] == [None, None]
    end.check()


def test_who_needs_credit_at_once() -> None:
    """A producer that has messages and no credit that it knows of; not one that has some left, or nothing to send."""
    end = consumer()
    end.want(1, 2, 0.0)

    def starves() -> bool:
        return end.producers.starves

    assert not starves()
    end.backlog("p:1", Backlog("jobs", STREAM, 5, 0, 0, 1))
    assert starves()
    end.grant(0.0)
    assert starves()  # until it is told
    assert end.producers.take_told("p:1", 1)[1] is not None
    assert not starves()
    receive(end, 1, 1, waiting=4)
    assert not starves()
    receive(end, 2, 1, waiting=3)
    assert starves()
    end.backlog("p:1", Backlog("jobs", STREAM, 0, 2, 136, 1))
    assert not starves()


def test_a_stalled_producer_does_not_keep_the_credit() -> None:
    """It says that it waits and sends nothing: after a second the others get theirs."""
    end = consumer()
    end.want(1, 1, 0.0)
    end.backlog("p:1", Backlog("jobs", STREAM, 5, 0, 0, 1))
    end.grant(0.0)
    first = end.producers.take_told("p:1", 1)[1]
    assert first is not None
    end.meet("q:1")
    end.backlog("q:1", Backlog("jobs", "q:1:jobs", 5, 0, 0, 1))
    end.grant(0.5)
    assert end.producers.take_told("q:1", 1)[1] is None
    end.grant(1.0)
    second = end.producers.take_told("q:1", 1)[1]
    assert second is not None
    assert second.messages == 1


def test_the_budget_bounds_what_is_granted() -> None:
    """In bytes, over all links."""
    end = consumer(budget=1000)
    for n in range(9):
        end.meet(f"q:{n}")
    end.want(100, 100, 0.0)
    end.grant(0.0)
    assert sum(source.credit.granted_bytes for source in end._sources.values()) <= 1000
    end.check()


def test_messages_that_are_granted_get_their_bytes() -> None:
    """Also when the window has shrunk below them: without bytes they would come one a round trip, for ever."""
    end = consumer(budget=1 << 20)
    end.want(1, 1, 0.0)
    source = end._sources["p:1"]
    source.credit.granted_messages, source.credit.granted_bytes = 100_000, 3 * 68
    header = data(1, 3, 3)
    header.waiting = 50_000
    end.receive("p:1", "shop", header, body_of(1, 3), 1000.0)
    delivery = take(end)
    claim(delivery, 3)
    delivery.ack(0, 3)
    end.progress(0.0)
    end.grant(0.0)
    assert end.window.size < source.credit.unused()
    assert source.credit.granted_bytes - source.credit.seen_bytes >= 200 * 1024
    end.check()


def test_ten_refusals_in_a_row_stop_the_credit() -> None:
    """For five seconds, so that the wrong consumer, being fastest, does not eat the queue."""
    end = consumer()
    end.want(1, 1, 0.0)
    receive(end, 1, 10)
    delivery = take(end)
    claim(delivery, 10)
    delivery.verdicts.append((Verdict.REFUSE, 0, 10, -1.0, "misfit"))
    end.progress(0.0)
    assert end.granting.misled == 1
    end.want(1, 1, 1.0)
    end.grant(1.0)
    assert end.producers.take_told("p:1", 1)[1] is None or end._sources["p:1"].credit.unused() == 0
    end.want(1, 1, 6.5)
    end.grant(6.5)
    assert end._sources["p:1"].credit.unused() > 0


def test_credit_of_an_earlier_life_is_granted_anew() -> None:
    """Though nothing had come of it: totals are those of one link."""
    end = consumer()
    end.attach("p:1")
    end.want(1, 1, 0.0)
    end.grant(0.0)
    assert end.producers.take_told("p:1", 1)[1] is not None
    end.detach("p:1", 0.0, proven_gone=False)
    end.attach("p:2")
    end.meet("p:2")
    assert end.producers.take_told("p:2", 1)[1] is None
    end.grant(0.0)
    assert end.producers.take_told("p:2", 1)[1] is not None
    end.check()


def waiting_sources(*waiting: int) -> list[Source]:
    """Sender with so many messages that wait."""
    sources = [Source(f"{letter}:1") for letter, _ in zip("pqrstu", waiting, strict=False)]
    for source, count in zip(sources, waiting, strict=True):
        source.credit.adopt(0, 0, count)
    return sources


def test_those_that_wait_share_the_window() -> None:
    """In the order given; one with nothing to send gets a message to begin with, and no more."""
    sources = waiting_sources(500, 0, 500)
    grant(sources, 100, HUGE, 0.0)
    assert [source.credit.granted_messages for source in sources] == [50, 1, 50]
    grant(sources, 100, HUGE, 0.1)
    assert [source.credit.granted_messages for source in sources] == [50, 1, 50]


def test_who_is_gone_is_granted_nothing() -> None:
    """Nor counts what it was granted before."""
    sources = waiting_sources(500, 500)
    sources[0].credit.granted_messages = 90
    sources[0].credit.moved_at = 0.0
    sources[0].attached = False
    grant(sources, 100, HUGE, 0.0)
    assert [source.credit.granted_messages for source in sources] == [90, 100]


def test_who_acks_in_shreds_is_granted_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its producer has settled some: what is remembered is bounded."""
    monkeypatch.setattr(granting, "DONE_RANGES_MAX", 2)
    [source] = waiting_sources(500)
    dedup = source.streams["s"] = Dedup()
    for first in (1, 3):
        dedup.finish(first, first + 1)
    assert grant([source], 100, HUGE, 0.0) == []
    assert source.credit.granted_messages == 0
    dedup.raise_floor(3)
    assert grant([source], 100, HUGE, 0.0) == [source]
    assert source.credit.granted_messages == 100


def test_bytes_of_all_together_stay_below_the_budget() -> None:
    """What one has taken is not granted to another, nor the rest to two."""
    sources = waiting_sources(500, 500, 500)
    sources[0].credit.granted_messages, sources[0].credit.granted_bytes = 90, 900
    sources[0].credit.adopt(90, 900, 500)
    grant(sources, 1000, 1000, 0.0)
    assert [source.credit.granted_bytes for source in sources] == [900, 100, 0]
