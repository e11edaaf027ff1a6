"""The consumer's end of a queue."""

from __future__ import annotations

from math import inf, nan

import pytest

from peerfabric.arguments import DELAY_MAX, TEXT_BYTES_MAX
from peerfabric.queue.delivery import Verdict
from peerfabric.queue.incoming import UNREADABLE
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import FAILED, REFUSED, Backlog, Nack, Result
from tests.fabric.helpers import HUGE, STREAM, body_of, claim, consumer, data, receive, results, take


def test_received_handed_out_and_acked() -> None:
    """The plain life of three messages."""
    end = consumer()
    receive(end, 1, 3)
    delivery = take(end)
    assert [claim(delivery), claim(delivery, 5)] == [[b"0001"], [b"0002", b"0003"]]
    delivery.ack(0, 1)
    delivery.ack(2, 3)
    assert results(end) == [Result(STREAM, "jobs", [1, 2, 3, 4])]
    delivery.ack(1, 2)
    assert results(end) == [Result(STREAM, "jobs", [2, 3])]
    assert end.idle
    assert end.take(0.0) is None


def test_verdicts_become_nacks_and_returns() -> None:
    """Each with the attempt that it is about."""
    end = consumer()
    receive(end, 1, 3, attempt=2)
    delivery = take(end)
    claim(delivery, 3)
    delivery.verdicts.append((Verdict.NACK, 0, 1, 0.5, "why"))
    delivery.verdicts.append((Verdict.GIVE_BACK, 1, 2, -1.0, ""))
    delivery.verdicts.append((Verdict.REJECT, 2, 3, -1.0, "never"))
    nacks = [Nack(1, 2, 2, 1, 500, "why"), Nack(3, 4, 2, 4, -1, "never")]
    assert results(end) == [Result(STREAM, "jobs", [], [2, 3], nacks)]
    assert end.idle


def test_a_copy_of_what_is_done_is_acked_and_not_run() -> None:
    """Its result got lost; nobody sees the message again."""
    end = consumer()
    receive(end, 1, 2)
    delivery = take(end)
    claim(delivery, 2)
    delivery.ack(0, 2)
    results(end)
    receive(end, 1, 3, sent=5)
    assert results(end, 2) == [Result(STREAM, "jobs", [1, 3])]
    assert claim(take(end), 9) == [b"0003"]


def test_nothing_is_started_behind_the_fence() -> None:
    """The producer may have given it to somebody else; an echo later it goes on."""
    end = consumer()
    end.fence("p:1", 2.5)
    receive(end, 1, 2)
    delivery = take(end, now=1.0)
    assert claim(delivery, now=2.4) == [b"0001"]
    assert claim(delivery, now=2.5) == []
    end.park(delivery)
    assert (end.take(3.0), end.available(3.0)) == (None, False)
    end.fence("p:1", 5.0)
    assert claim(take(end, now=3.0), now=3.0) == [b"0002"]


def test_release_drops_only_what_was_not_started() -> None:
    """The started one is finished here; its ack settles it."""
    end = consumer()
    receive(end, 1, 4)
    delivery = take(end)
    claim(delivery)
    end.release("p:1", STREAM, Ranges([(1, 4)]))
    end.check()
    assert claim(delivery) == []
    end.park(delivery)
    assert claim(take(end), 9) == [b"0004"]
    delivery.ack(0, 1)
    assert results(end) == [Result(STREAM, "jobs", [1, 2])]


def test_a_claim_that_was_too_late() -> None:
    """The machine took the rest back between raising `next` and looking at `until`: nothing is started."""
    end = consumer()
    receive(end, 1, 2)
    delivery = take(end)
    end.give_back_unstarted()
    delivery.next = 1
    assert delivery.until < 0
    delivery.next = 0
    end.park(delivery)
    assert results(end) == [Result(STREAM, "jobs", [], [1, 3])]
    assert end.take(0.0) is None


def test_a_claim_that_was_in_time() -> None:
    """`next` was raised before the machine looked: that message stays, the rest goes back."""
    end = consumer()
    receive(end, 1, 3)
    delivery = take(end)
    assert claim(delivery) == [b"0001"]
    end.give_back_unstarted()
    delivery.ack(0, 1)
    assert results(end) == [Result(STREAM, "jobs", [1, 2], [2, 4])]


def test_below_the_floor_nothing_is_started() -> None:
    """Others have settled it meanwhile."""
    end = consumer()
    receive(end, 1, 3)
    end.backlog("p:1", Backlog("jobs", STREAM, 0, 3, 204, 3))
    end.check()
    assert claim(take(end), 9) == [b"0003"]


def test_an_idle_consumer_returns_what_it_did_not_start() -> None:
    """After two seconds without a taker; then it grants nothing."""
    end = consumer()
    end.want(1, 1, 0.0)
    receive(end, 1, 2)
    end.want(0, 0, 0.0)
    end.take(0.0)
    end.expire(1.9)
    assert results(end) == []
    end.expire(2.0)
    assert results(end) == [Result(STREAM, "jobs", [], [1, 3])]
    before = end.producers.take_told("p:1", 1)[1]
    end.grant(10.0)
    assert end.producers.take_told("p:1", 1)[1] is None, before


def test_a_vanished_producer_and_one_that_died() -> None:
    """The first gives its messages to others, so ours are dropped; the other's can only be run here."""
    end = consumer()
    receive(end, 1, 2)
    end.detach("p:1", 0.0, proven_gone=False)
    assert end.take(0.0) is None
    end = consumer()
    receive(end, 1, 2)
    end.detach("p:1", 0.0, proven_gone=True)
    delivery = take(end, 1e6)
    assert claim(delivery, 2, now=1e6) == [b"0001", b"0002"]
    delivery.ack(0, 2)
    end.progress(0.0)
    end.check()
    end.attach("p:1")
    assert end.producers.possession("p:1")[1][0].ranges == [1, 3]


def test_a_new_life_tells_what_is_held_and_done() -> None:
    """And the credit of what is held is charged again."""
    end = consumer()
    receive(end, 1, 3)
    delivery = take(end)
    claim(delivery)
    delivery.ack(0, 1)
    end.progress(0.0)
    end.attach("p:1")
    held, done = end.producers.possession("p:1")
    assert ([item.ranges for item in held], [item.ranges for item in done]) == ([[2, 4]], [[1, 2]])
    assert end._sources["p:1"].credit.outstanding() == 2
    assert end.producers.take_told("p:1", 1)[0] == []


def test_producers_take_turns() -> None:
    """By bytes: neither of two waits for the other's backlog."""
    end = consumer()
    end.meet("q:1")
    end.fence("q:1", 1000.0)
    for peer, stream in (("p:1", STREAM), ("q:1", "q:1:jobs")):
        for first in (1, 2, 3):
            header = data(first, 1, first)
            header.stream, header.sent_bytes = stream, first * 300_000
            end._sources[peer].credit.granted_messages = HUGE
            end.receive(peer, "", header, body_of(first, 1), 1000.0)
    assert [take(end).peer for _ in range(6)] == ["p:1", "q:1"] * 3


def test_a_body_that_is_no_batch() -> None:
    """A part of it was here before, so it has to be cut, and cannot be: that part goes on, and the rest is refused."""
    end = consumer()
    receive(end, 1, 1)
    end._sources["p:1"].credit.granted_messages = 4
    end.receive("p:1", "", data(1, 3, 4), body_of(1, 2), 1000.0)
    assert results(end) == [Result(STREAM, "jobs", nacks=[Nack(2, 4, 1, REFUSED, -1, UNREADABLE)])]
    delivery = take(end)
    assert claim(delivery, 9) == [b"0001"]
    delivery.ack(0, 1)
    assert results(end, 2) == [Result(STREAM, "jobs", [1, 2])]
    assert end._sources["p:1"].credit.freed_messages == 4


def test_what_meets_a_closed_consumer_frees_its_credit() -> None:
    """Else the window would shrink with every close."""
    end = consumer()
    receive(end, 1, 1)
    end.close()
    end.decline("p:1", data(2, 1, 2))
    credit = end._sources["p:1"].credit
    assert (credit.seen_messages, credit.freed_messages) == (2, 2)


@pytest.mark.parametrize(("delay", "told"), [(inf, DELAY_MAX), (1e300, DELAY_MAX), (nan, -0.001), (-5.0, -0.001)])
def test_a_nack_is_what_a_frame_can_carry(delay: float, told: float) -> None:
    """Whatever the handling side has written into the delivery."""
    end = consumer()
    receive(end, 1, 1)
    delivery = take(end)
    claim(delivery)
    delivery.verdicts.append((Verdict.NACK, 0, 1, delay, "\udcff" + "x" * 5000))
    [result] = results(end)
    text = "\\udcff" + "x" * (TEXT_BYTES_MAX - 6)
    assert result.nacks == [Nack(1, 2, 1, FAILED, round(told * 1000), text)]
