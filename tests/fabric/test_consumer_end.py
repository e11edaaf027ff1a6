"""The consumer's end of a queue."""

from __future__ import annotations

import msgspec
import pytest

from peerfabric.consumer_end import ConsumerEnd
from peerfabric.delivery import Delivery, Verdict
from peerfabric.envelope import SUSPECT, Backlog, Data, Nack, Result, StreamRanges
from peerfabric.errors import BadFrame
from peerfabric.ranges import Ranges
from peerfabric.streams import FORGET_AFTER
from peerfabric.suspects import SETTLE_PATIENCE, Suspects
from tests.fabric.helpers import HUGE, STREAM, body_of, claim, consumer, data


def receive(end: ConsumerEnd, first: int, count: int, sent: int | None = None, **more: int) -> None:
    """A frame arrives that credit allowed."""
    total = sent if sent is not None else first + count - 1
    source = end._sources["p:1"]
    source.credit.granted_messages = max(source.credit.granted_messages, total)
    source.credit.granted_bytes = max(source.credit.granted_bytes, 68 * total)
    end.receive("p:1", "shop", data(first, count, total, **more), body_of(first, count), 0.0)
    end.check()


def take(end: ConsumerEnd, now: float = 0.0) -> Delivery:
    delivery = end.take(now)
    assert delivery is not None
    return delivery


def results(end: ConsumerEnd, ack: int = 1) -> list[Result]:
    end.progress(0.0)
    end.check()
    return end.take_results("p:1", ack)


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


def test_the_lease_ends() -> None:
    """It starts when the message was handed out, and an extension holds it."""
    end = consumer(lease=10.0)
    receive(end, 1, 2)
    delivery = take(end)
    claim(delivery, 2)
    end.progress(0.0)
    end.extend(delivery, 1, 15.0)
    end.expire(10.0)
    assert end.lapsed == [(STREAM, 1)]
    [result] = results(end)
    assert [(nack.start, nack.stop, nack.reason) for nack in result.nacks] == [(1, 2, 2)]
    end.expire(15.0)
    assert end.lapsed == [(STREAM, 1), (STREAM, 2)]
    delivery.ack(0, 2)
    assert end.account().processed == 0


@pytest.mark.parametrize("again", ["not yet", "buffered", "started", "settled"])
def test_an_ack_after_the_lease(again: str) -> None:
    """It is done: the producer hears so, and it does not run again here, wherever its next copy is by then."""
    end = consumer(lease=10.0)
    receive(end, 1, 3)
    delivery = take(end)
    claim(delivery, 3)
    end.progress(0.0)
    end.expire(10.0)
    [result] = results(end)
    assert [(nack.start, nack.stop) for nack in result.nacks] == [(1, 2), (2, 3), (3, 4)]
    copy = None
    if again in ("buffered", "started"):
        receive(end, 2, 1, sent=4, attempt=2)
    if again == "started":
        copy = take(end)
        assert claim(copy) == [b"0002"]
    if again == "settled":
        end.raise_floor(STREAM, 3)
    delivery.ack(1, 2)
    if again == "settled":
        assert [r.done for r in results(end, 2)] == [[2, 3]]
        return
    assert [r.done for r in results(end, 2)] == [[2, 3]]
    assert end.available(0.0) is False
    if copy is not None:
        copy.verdicts.append((Verdict.NACK, 0, 1, 0.0, "in vain"))
    receive(end, 2, 1, sent=5, attempt=3)
    assert end.available(0.0) is False
    assert [(r.done, r.nacks) for r in results(end, 3)] == [([2, 3], [])]


def test_an_ack_after_the_lease_of_what_came_again_as_one() -> None:
    """Each message of the new copy ends once, whether it has been started there or was taken back."""
    end = consumer(lease=10.0)
    receive(end, 1, 3)
    delivery = take(end)
    claim(delivery, 3)
    end.progress(0.0)
    end.expire(10.0)
    results(end)
    receive(end, 1, 3, sent=6, attempt=2)
    copy = take(end)
    assert claim(copy) == [b"0001"]
    delivery.ack(0, 3)
    assert [r.done for r in results(end, 2)] == [[1, 4]]
    assert end._sources["p:1"].credit.freed_messages == 6
    copy.ack(0, 1)
    results(end, 3)
    assert end.idle


def test_what_is_not_acked_after_its_lease_runs_again() -> None:
    """A late nack says nothing new."""
    end = consumer(lease=10.0)
    receive(end, 1, 1)
    delivery = take(end)
    claim(delivery)
    end.progress(0.0)
    end.expire(10.0)
    results(end)
    delivery.verdicts.append((Verdict.NACK, 0, 1, 0.0, "late"))
    assert results(end, 2) == []
    receive(end, 1, 1, sent=2, attempt=2)
    assert claim(take(end)) == [b"0001"]


def test_the_lease_stands_still_while_our_own_call_waits() -> None:
    """A handler that is held up by back-pressure of ours does not pay for it."""
    end = consumer(lease=10.0)
    receive(end, 1, 1)
    delivery = take(end)
    claim(delivery)
    end.progress(0.0)
    end.pause(delivery, 1.0)
    end.expire(50.0)
    end.resume(delivery, 50.0)
    end.expire(58.0)
    assert end.lapsed == []
    end.expire(59.5)
    assert end.lapsed == [(STREAM, 1)]


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
    before = end.take_grant("p:1")
    end.grant(10.0)
    assert end.take_grant("p:1") is None, before


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
    assert end.possession("p:1")[1][0].ranges == [1, 3]


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


def test_a_new_life_tells_what_is_held_and_done() -> None:
    """And the credit of what is held is charged again."""
    end = consumer()
    receive(end, 1, 3)
    delivery = take(end)
    claim(delivery)
    delivery.ack(0, 1)
    end.progress(0.0)
    end.attach("p:1")
    held, done = end.possession("p:1")
    assert ([item.ranges for item in held], [item.ranges for item in done]) == ([[2, 4]], [[1, 2]])
    assert end._sources["p:1"].credit.outstanding() == 2
    assert end.take_results("p:1", 1) == []


def test_the_first_grant_is_one_message() -> None:
    """Everybody may send one, so that news travels at once; only once."""
    end = consumer()
    end.meet("q:1")
    end.want(1, 1, 0.0)
    end.grant(0.0)
    grants = [end.take_grant("p:1"), end.take_grant("q:1")]
    assert [grant.messages for grant in grants if grant is not None] == [1, 1]
    end.grant(0.1)
    assert [end.take_grant("p:1"), end.take_grant("q:1")] == [None, None]
    end.check()


def test_who_needs_credit_at_once() -> None:
    """A producer that has messages and no credit that it knows of; not one that has some left, or nothing to send."""
    end = consumer()
    end.want(1, 2, 0.0)
    assert not end.starves
    end.backlog("p:1", Backlog("jobs", STREAM, 5, 0, 0, 1))
    assert end.starves
    end.grant(0.0)
    assert end.starves  # until it is told
    assert end.take_grant("p:1") is not None
    assert not end.starves
    receive(end, 1, 1, waiting=4)
    assert not end.starves
    receive(end, 2, 1, waiting=3)
    assert end.starves
    end.backlog("p:1", Backlog("jobs", STREAM, 0, 2, 136, 1))
    assert not end.starves


def test_a_stalled_producer_does_not_keep_the_credit() -> None:
    """It says that it waits and sends nothing: after a second the others get theirs."""
    end = consumer()
    end.want(1, 1, 0.0)
    end.backlog("p:1", Backlog("jobs", STREAM, 5, 0, 0, 1))
    end.grant(0.0)
    first = end.take_grant("p:1")
    assert first is not None
    end.meet("q:1")
    end.backlog("q:1", Backlog("jobs", "q:1:jobs", 5, 0, 0, 1))
    end.grant(0.5)
    assert end.take_grant("q:1") is None
    end.grant(1.0)
    second = end.take_grant("q:1")
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
    end.receive("p:1", "shop", header, body_of(1, 3), 0.0)
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
    assert end.misled == 1
    end.want(1, 1, 1.0)
    end.grant(1.0)
    assert end.take_grant("p:1") is None or end._sources["p:1"].credit.unused() == 0
    end.want(1, 1, 6.5)
    end.grant(6.5)
    assert end._sources["p:1"].credit.unused() > 0


def test_producers_take_turns() -> None:
    """By bytes: neither of two waits for the other's backlog."""
    end = consumer()
    end.meet("q:1")
    end.fence("q:1", 1000.0)
    for holder, stream in (("p:1", STREAM), ("q:1", "q:1:jobs")):
        for first in (1, 2, 3):
            header = data(first, 1, first)
            header.stream, header.sent_bytes = stream, first * 300_000
            end._sources[holder].credit.granted_messages = HUGE
            end.receive(holder, "", header, body_of(first, 1), 0.0)
    assert [take(end).holder for _ in range(6)] == ["p:1", "q:1"] * 3


def suspect(end: ConsumerEnd, first: int) -> None:
    receive(end, first, 1, flags=SUSPECT)


def test_a_suspect_starts_alone_and_announced() -> None:
    """Its producer has to know before it runs, and nothing else runs until it knows the result, too."""
    end = consumer()
    receive(end, 1, 1)
    suspect(end, 2)
    other = take(end)
    claim(other)
    assert end.take(0.0) is None
    other.ack(0, 1)
    assert results(end, 1) == [Result(STREAM, "jobs", [1, 2])]
    assert end.take(0.0) is None
    assert results(end, 2) == [Result(STREAM, "jobs", starting=[2, 3])]
    assert end.take(0.0) is None
    end.settle("p:1", 2)
    receive(end, 3, 1)
    delivery = take(end)
    assert (delivery.first, end.take(0.0)) == (2, None)
    claim(delivery)
    delivery.ack(0, 1)
    results(end, 3)
    end.settle("p:1", 2)
    assert end.take(0.0) is None
    end.settle("p:1", 3)
    assert take(end).first == 3


def started(end: ConsumerEnd) -> Delivery:
    """A suspect that is handed out, once its producer knows of it."""
    suspect(end, 1)
    assert end.take(0.0) is None
    results(end, 1)
    end.settle("p:1", 1)
    return take(end)


@pytest.mark.parametrize("how", ["gone", "link renewed", "nothing to tell", "never settled"])
def test_a_suspect_whose_result_nobody_waits_for(how: str) -> None:
    """It keeps nobody from starting: its producer has gone, was told as the link began, took it back, or cannot say."""
    end = consumer()
    delivery = started(end)
    end.meet("o:1")
    end.fence("o:1", 1000.0)
    end._sources["o:1"].credit.granted_messages = end._sources["o:1"].credit.granted_bytes = 100
    end.receive("o:1", "other", msgspec.structs.replace(data(1, 1, 1), stream="o:1:jobs"), body_of(1, 1), 0.0)
    if how == "nothing to tell":
        end.release("p:1", STREAM, Ranges([(1, 2)]))
    else:
        claim(delivery)
        delivery.ack(0, 1)
        end.progress(0.0)
        assert end.take(0.0) is None
        if how == "gone":
            end.detach("p:1", 0.0, proven_gone=True)
        elif how == "link renewed":
            end.attach("p:1")
            end.told_all("p:1", 7)
            assert end.take(0.0) is None
            end.settle("p:1", 7)
        else:
            results(end, 2)
            assert end.take(0.0) is None
            assert take(end, SETTLE_PATIENCE).holder == "o:1"
            return
    assert take(end).holder == "o:1"


def test_a_suspect_whose_start_nobody_settles() -> None:
    """It starts after some time: its producer cannot write, and the rest of the process must go on."""
    end = consumer()
    suspect(end, 1)
    assert end.take(0.0) is None
    results(end, 1)
    assert end.take(0.0) is None
    assert take(end, SETTLE_PATIENCE).first == 1


def test_a_suspect_that_was_handed_out_too_late() -> None:
    """It was not started; it is announced again, and keeps nothing else from starting."""
    end = consumer()
    delivery = started(end)
    end.fence("p:1", 0.5)
    assert claim(delivery, now=1.0) == []
    end.park(delivery)
    end.fence("p:1", 1000.0)
    assert end.take(1.0) is None
    assert results(end, 2) == [Result(STREAM, "jobs", starting=[1, 2])]
    end.settle("p:1", 2)
    assert take(end, 1.0).first == 1


def test_suspects_of_two_queues_do_not_wait_for_each_other() -> None:
    """The one that was announced goes first, however long the other has waited."""
    ends: dict[str, ConsumerEnd] = {}
    of_process: dict[str, Suspects] = {}
    for queue in ("jobs", "more"):
        ends[queue] = ConsumerEnd(queue, 10.0, HUGE, 0.1, of_process)
        ends[queue].meet("p:1")
        ends[queue].fence("p:1", 1000.0)
        suspect(ends[queue], 1)
    assert (ends["jobs"].take(0.0), ends["more"].take(0.0)) == (None, None)
    of_process["more"]._waits_since = 0.0
    ends["jobs"].take_results("p:1", 1)
    ends["jobs"].settle("p:1", 1)
    delivery = take(ends["jobs"], 50.0)
    assert ends["more"].take(50.0) is None
    claim(delivery)
    delivery.ack(0, 1)
    ends["jobs"].progress(50.0)
    ends["jobs"].take_results("p:1", 2)
    assert ends["more"].take(50.0) is None
    ends["jobs"].settle("p:1", 2)
    assert ends["more"].take(50.0) is None
    ends["more"].take_results("p:1", 3)
    ends["more"].settle("p:1", 3)
    assert take(ends["more"], 50.0).first == 1


def test_a_body_that_is_no_batch() -> None:
    """A part of it was here before, so it has to be cut, and cannot be."""
    end = consumer()
    receive(end, 1, 1)
    header: Data = data(1, 3, 4)
    with pytest.raises(BadFrame):
        end.receive("p:1", "", header, body_of(1, 2), 0.0)


def test_what_meets_a_closed_consumer_frees_its_credit() -> None:
    """Else the window would shrink with every close."""
    end = consumer()
    receive(end, 1, 1)
    end.close()
    end.decline("p:1", data(2, 1, 2))
    credit = end._sources["p:1"].credit
    assert (credit.seen_messages, credit.freed_messages) == (2, 2)


# With a ledger


def restarted(*done: tuple[int, int], stream: str = STREAM) -> ConsumerEnd:
    """A consumer's end whose earlier life processed `done`."""
    return ConsumerEnd("jobs", 10.0, HUGE, 0.1, remembered={stream: Ranges(done)})


def test_what_an_earlier_life_processed_is_told_first() -> None:
    """A link comes up: INTEREST names it, and it is forgotten once the producer keeps the result."""
    end = restarted((1, 4), (7, 8))
    end.check()
    end.attach("p:1")
    assert end.possession("p:1") == ([], [StreamRanges(STREAM, [1, 4, 7, 8])])
    end.told_all("p:1", 5)
    end.check()
    assert not end.has_news("p:1")
    end.settle("p:1", 4)
    assert end.take_forgotten() == {}
    end.settle("p:1", 5)
    end.check()
    assert end.take_forgotten() == {STREAM: Ranges([(1, 4), (7, 8)])}
    assert end.possession("p:1") == ([], [])


def test_what_an_earlier_life_processed_is_not_run() -> None:
    """It comes all the same, as the producer did not know: it is acked, and only the rest is handed out."""
    end = restarted((1, 3))
    end.attach("p:1")
    end.fence("p:1", 1000.0)
    end.told_all("p:1", 1)
    receive(end, 1, 3)
    assert claim(take(end), 9) == [b"0003"]
    assert results(end, 2) == [Result(STREAM, "jobs", [1, 3])]


def test_an_open_link_is_told_with_the_next_ack() -> None:
    """The consumer was made in a node whose INTEREST had left before."""
    end = restarted((1, 3))
    end.meet("p:1")
    assert end.has_news("p:1")
    assert results(end, 9) == [Result(STREAM, "jobs", [1, 3])]
    end.settle("p:1", 8)
    end.check()
    assert end.take_forgotten() == {}
    end.settle("p:1", 9)
    assert end.take_forgotten() == {STREAM: Ranges([(1, 3)])}


def test_a_producer_that_came_back_is_told_of_its_earlier_life() -> None:
    """Streams of one node id belong together, whatever its epoch is now; other nodes hear nothing."""
    end = restarted((1, 3))
    for holder, done in (("q:1", []), ("p:2", [StreamRanges(STREAM, [1, 3])])):
        end.attach(holder)
        end.meet(holder)
        assert end.possession(holder) == ([], done)
    end.check()


def test_the_ledger_may_forget_what_lies_below_the_floor() -> None:
    """Whoever processed it."""
    end = restarted((5, 7))
    end.attach("p:1")
    end.told_all("p:1", 1)
    receive(end, 9, 1, sent=9, floor=6)
    end.raise_floor(STREAM, 9)
    end.raise_floor(STREAM, 8)
    assert end.take_forgotten() == {STREAM: Ranges([(0, 9)])}
    assert end.take_forgotten() == {}


def test_a_remembered_stream_outlives_the_absence_of_its_producer() -> None:
    """Its producer may be away for long; one that keeps nothing is forgotten as ever once it is gone."""
    end = restarted((1, 3))
    end.attach("p:1")
    end.told_all("p:1", 1)
    end.detach("p:1", 0.0, proven_gone=True)
    end.expire(FORGET_AFTER + 1)
    assert end.take_forgotten() == {}
    end.attach("p:1")
    end.fence("p:1", 1000.0)
    receive(end, 5, 1)
    delivery = take(end)
    claim(delivery)
    end.detach("p:1", 100.0, proven_gone=True)
    delivery.ack(0, 1)
    end.expire(100.0 + FORGET_AFTER)
    assert end.take_forgotten() == {STREAM: Ranges([(0, 2**53)])}
    end.check()


def test_a_producer_that_names_its_streams_ends_the_others() -> None:
    """What it does not name, it has not any more."""
    end = restarted((1, 3))
    end.attach("p:2")
    end.live_streams("p:2", ["p:2:jobs"], 5.0)
    end.expire(5.0)
    assert end.take_forgotten() == {STREAM: Ranges([(0, 2**53)])}
    assert end.possession("p:2") == ([], [])


def test_without_a_ledger_nothing_is_collected() -> None:
    """Nobody would take it."""
    end = consumer()
    receive(end, 1, 1)
    end.raise_floor(STREAM, 9)
    assert end.take_forgotten() == {}
    assert end._streams._forgotten is None


def test_a_delivery_knows_the_floor_it_was_sent_with() -> None:
    """Also a part of it."""
    end = restarted((3, 4))
    end.attach("p:1")
    end.fence("p:1", 1000.0)
    receive(end, 3, 2, floor=3)
    delivery = take(end)
    assert (delivery.first, delivery.floor) == (4, 3)


def test_credit_of_an_earlier_life_is_granted_anew() -> None:
    """Though nothing had come of it: totals are those of one link."""
    end = consumer()
    end.attach("p:1")
    end.want(1, 1, 0.0)
    end.grant(0.0)
    assert end.take_grant("p:1") is not None
    end.detach("p:1", 0.0, proven_gone=False)
    end.attach("p:2")
    end.meet("p:2")
    assert end.take_grant("p:2") is None
    end.grant(0.0)
    assert end.take_grant("p:2") is not None
    end.check()
