"""Hand-on: an input is acked when what was sent for it is safe, and costs nothing meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import pytest

from peerfabric.queue import handon
from peerfabric.queue.delivery import Delivery
from peerfabric.queue.handon import KINDS, HandOn, Outputs, Wait, Watch
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import DEPTH_MAX
from peerfabric.queue.sources import DEFERRED_MAX
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import DURABLE, FAILED, RAW, Nack
from tests.fabric.helpers import STREAM, Pair, bodies, claim, consumer, dispatch, producer, receive, take


def nothing() -> None:
    """Nobody has to be woken."""


def sent_out(watch: Watch, first: int, stop: int, depth: int = 1) -> Outputs:
    """Messages `[first, stop)` were sent for an input."""
    outputs = Outputs(depth)
    outputs.add(watch, first, stop)
    return outputs


@dataclass
class Stage:
    """A consumer of "jobs" whose handlers send to `out`, which "a:1" and "b:1" consume."""

    end: IncomingQueue = field(default_factory=lambda: consumer(lease=10.0))
    out: OutgoingQueue = field(default_factory=lambda: producer(2))
    now: float = 0.0

    def __post_init__(self) -> None:
        self.end.want(1, 100, 0.0)
        self.handon = self.end.open_handon(nothing)
        self.watch = self.out.open_watch(nothing)

    def sends(self, count: int, depth: int = 1) -> Outputs:
        """So many messages are sent, and lie with the consumer "a:1"."""
        first = self.out.accept(bodies(count), 0)
        dispatch(self.out)
        return sent_out(self.watch, first, first + count, depth)

    def look(self) -> None:
        """A turn of both machines."""
        self.end.progress(self.now)
        for each in self.watch.look(self.now):
            assert each is self.handon
        self.end.progress(self.now)
        self.end.grant(self.now)
        self.end.check()
        self.out.check()
        self.watch.check()

    def run(self, count: int, each: int = 1) -> Delivery:
        """So many messages come, and for each so many are sent."""
        before = self.end._account["received"]
        receive(self.end, before + 1, count)
        delivery = take(self.end)
        claim(delivery, count)
        for index in range(count):
            outputs = self.sends(each)
            if each == 1:
                self.handon.defer_one((delivery, index, self.watch, outputs.first))
            else:
                self.handon.defer(delivery, index, index + 1, outputs)
        return delivery

    @property
    def acked(self) -> list[tuple[int, int]]:
        """What the producer of the inputs is told to be done."""
        return list(self.end._sources["p:1"].done.get(STREAM, Ranges()))

    @property
    def ran(self) -> list[tuple[int, int]]:
        return list(self.handon.ran.get(STREAM, Ranges()))


def test_acked_when_its_output_is() -> None:
    """Until then it has run: it is in nobody's hands, its credit is free, its producer knows, and it is held."""
    stage = Stage()
    delivery = stage.run(1)
    stage.look()
    assert (stage.acked, stage.ran, stage.end._open) == ([], [(1, 2)], {})
    assert stage.end._sources["p:1"].credit.freed_messages == 1
    assert stage.end._streams[STREAM].held.total == 1
    account = stage.end.account()
    assert (account.started, account.handed_on, account.processed) == (0, 1, 0)
    [told], _ = stage.end.producers.take_told("p:1", 1)
    assert (told.ran, told.done) == ([1, 2], [])
    stage.end.expire(100.0)
    assert not stage.end.lapsed, "nobody has it, so no lease ends"
    stage.out.acked("a:1", 1, 2)
    stage.look()
    assert (stage.acked, stage.ran, stage.handon.count) == ([(1, 2)], [], 0)
    assert stage.end.account().processed == 1
    assert not stage.watch.waits
    assert delivery.left == 0


def test_what_is_settled_before_it_is_known_to_wait() -> None:
    """The output is processed while its handler still runs: the ack waits for nothing, and `ran` is not told."""
    stage = Stage()
    receive(stage.end, 1, 1)
    delivery = take(stage.end)
    claim(delivery)
    outputs = stage.sends(1)
    stage.out.acked("a:1", 1, 2)
    stage.watch.look(0.0)
    stage.handon.defer(delivery, 0, 1, outputs)
    stage.look()
    assert (stage.acked, stage.end._sources["p:1"].ran) == ([(1, 2)], {})


def test_neighbours_are_one_and_are_acked_one_by_one() -> None:
    """A hundred inputs with an output each are one range; each is acked when its own output is."""
    stage = Stage()
    stage.run(100)
    stage.look()
    assert len(stage.watch._lanes[0]) == 1
    stage.out.acked("a:1", 1, 11)
    stage.out.acked("a:1", 50, 51)
    stage.look()
    assert stage.acked == [(1, 11), (50, 51)]
    assert len(stage.watch._lanes[0]) == 2
    stage.out.acked("a:1", 11, 101)
    stage.look()
    assert stage.acked == [(1, 101)]


def test_neighbours_of_several_threads() -> None:
    """They defer in any order, now with one output, now with several: each input waits for its own."""
    stage = Stage()
    receive(stage.end, 1, 4)
    delivery = take(stage.end)
    claim(delivery, 4)
    for _ in range(6):
        stage.sends(1)
    stage.handon.defer_one((delivery, 2, stage.watch, 1))
    stage.handon.defer_one((delivery, 3, stage.watch, 2))
    stage.handon.defer(delivery, 0, 1, sent_out(stage.watch, 3, 5))
    stage.handon.defer_one((delivery, 1, stage.watch, 6))
    stage.look()
    assert stage.ran == [(1, 5)]
    for settled, acked in ((3, []), (1, [(3, 4)]), (4, [(1, 2), (3, 4)]), (2, [(1, 2), (3, 5)]), (6, [(1, 5)])):
        stage.out.acked("a:1", settled, settled + 1)
        stage.look()
        assert stage.acked == acked


def test_all_outputs_of_an_input() -> None:
    """Of ten outputs the last counts, in whatever order they are settled."""
    stage = Stage()
    stage.run(2, each=10)
    stage.look()
    stage.out.acked("a:1", 2, 21)
    stage.look()
    assert stage.acked == [(2, 3)]
    stage.out.acked("a:1", 1, 2)
    stage.look()
    assert stage.acked == [(1, 3)]


@pytest.mark.parametrize("how", ["rejected", "dropped", "attempts"])
def test_an_output_that_is_given_up_is_settled(how: str) -> None:
    """Dead-lettered, or dropped by a policy: nothing more can become of it."""
    stage = Stage()
    stage.run(1)
    stage.look()
    match how:
        case "rejected":
            stage.out.nacked("a:1", Nack(1, 2, 1, handon_rejected()), 0.0)
        case "dropped":
            stage.out.returned("a:1", 1, 2)
            stage.out.drop_oldest(1)
        case _:
            for attempt in range(1, 6):
                stage.out.nacked("a:1", Nack(1, 2, attempt, FAILED, 0), 0.0)
                stage.out.expire(100.0 * attempt)
                stage.look()
                assert bool(stage.acked) == (attempt == 5)
                dispatch(stage.out)
    stage.look()
    assert stage.acked == [(1, 2)]


def handon_rejected() -> int:
    """The reason of a nack that gives up."""
    return 4


def test_delivered_is_not_safe() -> None:
    """It lies in a consumer's memory: if that fails it, nobody could send it again without us."""
    stage = Stage()
    stage.run(1)
    stage.out.delivered(1, 2)
    stage.look()
    assert stage.acked == []


def test_outputs_that_overlap() -> None:
    """Two inputs in hand wait for the same output; so does a range that lies about others."""
    stage = Stage()
    receive(stage.end, 1, 3)
    delivery = take(stage.end)
    claim(delivery, 3)
    for _ in range(5):
        stage.sends(1)
    for index, (first, stop) in enumerate([(2, 3), (2, 3), (1, 6)]):
        stage.handon.defer(delivery, index, index + 1, sent_out(stage.watch, first, stop))
    stage.look()
    stage.out.acked("a:1", 2, 3)
    stage.look()
    assert stage.acked == [(1, 3)]
    stage.out.acked("a:1", 1, 6)
    stage.look()
    assert stage.acked == [(1, 4)]


def test_too_many_ranges_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then also what others sent in between is waited for."""
    monkeypatch.setattr(handon, "RANGES_MAX", 3)
    stage = Stage()
    other = producer().open_watch(nothing)
    outputs = Outputs()
    for first in range(5, 105, 2):
        outputs.add(stage.watch, first, first + 1)
        outputs.add(other, first, first + 1)
    assert len(outputs.ranges()) <= 5
    for watch in (stage.watch, other):
        waited = Ranges((first, stop) for each, first, stop in outputs.ranges() if each is watch)
        assert all(number in waited for number in range(5, 105, 2))
        assert waited.lowest == 5


def test_a_batch_waits_for_all_of_its_outputs() -> None:
    """Parts of two deliveries, and outputs to two queues."""
    stage, other = Stage(), producer()
    for first in (1, 3):
        receive(stage.end, first, 2)
    deliveries = [take(stage.end), take(stage.end)]
    for delivery in deliveries:
        claim(delivery, 2)
    outputs = stage.sends(2)
    other.accept(bodies(1), 0)
    dispatch(other)
    watch = other.open_watch(nothing)
    outputs.add(watch, 1, 2)
    stage.handon.defer(deliveries[0], 0, 2, outputs, parts=[(deliveries[1], 0, 1)])
    stage.look()
    assert (stage.ran, stage.end.account().started) == ([(1, 4)], 1)
    stage.out.acked("a:1", 1, 3)
    stage.look()
    assert stage.acked == []
    watch.look(0.0)
    other.acked("a:1", 1, 2)
    assert list(watch.look(0.0)) == [stage.handon]
    stage.look()
    assert stage.acked == [(1, 4)]


def test_a_lease_that_was_over_before() -> None:
    """The message went to somebody else; yet once its output is safe it is processed, and not before."""
    stage = Stage()
    receive(stage.end, 1, 1)
    delivery = take(stage.end)
    claim(delivery)
    stage.look()
    stage.end.expire(20.0)
    assert stage.end.lapsed
    stage.end.producers.take_told("p:1", 1)
    stage.handon.defer(delivery, 0, 1, stage.sends(1))
    stage.look()
    assert (stage.acked, stage.ran) == ([], [])
    stage.out.acked("a:1", 1, 2)
    stage.look()
    assert stage.acked == [(1, 2)]


def test_what_has_run_does_not_run_again() -> None:
    """Its frame comes once more, as the first ACK got lost."""
    stage = Stage()
    stage.run(3)
    stage.look()
    receive(stage.end, 1, 3, sent=6)
    assert stage.end.take(0.0) is None
    assert stage.end.account().duplicates == 3


def test_a_new_link_life_hears_it_again_and_is_not_charged() -> None:
    """What has run is in INTEREST as held, and in the next ACK as run; its credit was free before."""
    stage = Stage()
    stage.run(3)
    receive(stage.end, 4, 1)
    stage.look()
    stage.end.producers.take_told("p:1", 1)
    stage.end.attach("p:1")
    assert stage.end._sources["p:1"].credit.freed_messages == -1
    [held], [] = stage.end.producers.possession("p:1")
    assert held.ranges == [1, 5]
    [told], _ = stage.end.producers.take_told("p:1", 2)
    assert told.ran == [1, 4]
    assert ("p:1", True) not in stage.end.producers.news()


def test_a_producer_that_died_is_remembered_until_its_inputs_are_acked() -> None:
    """They are held; then it is forgotten as any other."""
    stage = Stage()
    stage.run(1)
    stage.look()
    stage.end.detach("p:1", 0.0, proven_gone=True)
    stage.look()
    assert stage.end.holds_from("p:1")
    stage.out.acked("a:1", 1, 2)
    stage.look()
    assert not stage.end.producers.by_peer


def test_the_next_life_of_a_producer_inherits_what_has_run() -> None:
    """It vanished, and is back in another life with the same stream."""
    stage = Stage()
    stage.run(1)
    stage.look()
    stage.end.detach("p:1", 0.0, proven_gone=False)
    stage.end.meet("p:2")
    stage.end.attach("p:2")
    [told], _ = stage.end.producers.take_told("p:2", 1)
    assert told.ran == [1, 2]
    stage.out.acked("a:1", 1, 2)
    stage.look()
    assert stage.end._sources["p:2"].done[STREAM] == Ranges([(1, 2)])


def test_the_ledger_comes_first() -> None:
    """With one an input is acked once it is written there; what cannot be written goes back."""
    stage = Stage()
    stage.handon.ledgered = True
    stage.run(2)
    stage.look()
    stage.out.acked("a:1", 1, 3)
    stage.look()
    assert (stage.acked, list(stage.handon.unrecorded)) == ([], [(STREAM, 1, 3)])
    stage.handon.recorded(STREAM, 1, 2)
    stage.handon.recorded(STREAM, 2, 3, written=False)
    stage.look()
    assert (stage.acked, stage.end._sources["p:1"].returned[STREAM]) == ([(1, 2)], Ranges([(2, 3)]))


# Circles


@pytest.mark.parametrize(("depth", "safe"), [(DEPTH_MAX - 1, False), (DEPTH_MAX, True)])
def test_deep_outputs_need_only_be_delivered(depth: int, *, safe: bool) -> None:
    """They lead back to their inputs, which would wait for each other for ever."""
    stage = Stage()
    receive(stage.end, 1, 1)
    delivery = take(stage.end)
    claim(delivery)
    stage.handon.defer(delivery, 0, 1, stage.sends(1, depth))
    stage.look()
    assert stage.acked == []
    stage.out.delivered(1, 2)
    stage.look()
    assert (bool(stage.acked), stage.watch.went_deep) == (safe, safe)


def test_delivered_is_enough_where_the_producer_of_the_input_consumes() -> None:
    """It may wait for its message to be processed before it reads the answer; also if it comes to consume late."""
    stage = Stage()
    stage.run(1)
    stage.out.delivered(1, 2)
    stage.look()
    assert stage.acked == []
    stage.out.set_consumer("p:1", "p", consumes=True)
    stage.look()
    assert stage.acked == [(1, 2)]


@pytest.mark.parametrize(("flags", "safe"), [(0, True), (DURABLE, False)])
def test_not_if_the_input_would_outlive_the_output(flags: int, *, safe: bool) -> None:
    """A node that feeds itself: what it has on disk is not settled by what is in its memory only."""
    stage = Stage()
    stage.out.set_consumer("p:1", "p", consumes=True)  # and the stream of `out` is of "p", too
    receive(stage.end, 1, 1, flags=flags)
    delivery = take(stage.end)
    claim(delivery)
    stage.handon.defer(delivery, 0, 1, stage.sends(1))
    stage.out.delivered(1, 2)
    stage.look()
    assert bool(stage.acked) == safe


def test_kinds_of_outputs() -> None:
    """One object for each depth; the first is that of plain messages."""
    assert KINDS[0] is None
    assert [kind[1] for kind in KINDS if kind is not None] == list(range(1, DEPTH_MAX + 1))


# Limits


def deferred(count: int) -> Stage:
    """A stage with so many that have run."""
    stage = Stage()
    stage.run(count)
    stage.look()
    stage.end.producers.take_told("p:1", 1)
    return stage


def test_with_enough_that_has_run_credit_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message of each producer at a time: none at all could be what the outputs wait for."""
    monkeypatch.setattr("peerfabric.queue.sources.DEFERRED_MAX", 100)
    monkeypatch.setattr("peerfabric.queue.handon.DEFERRED_MAX", 100)
    stage = deferred(90)
    credit = stage.end._sources["p:1"].credit
    credit.waiting, credit.moved_at = 1000, inf
    stage.end.window.size = 50
    stage.end.granting.changed = True
    stage.end.grant(0.0)
    assert credit.outstanding() == 10, "with what has run, 100"
    stage.run(10)
    stage.look()
    assert credit.outstanding() == 1
    for _ in range(3):
        stage.run(1)
        stage.look()
        assert credit.outstanding() == 1
    stage.out.acked("a:1", 1, 61)
    credit.waiting = 1000
    stage.look()
    assert credit.outstanding() > 1
    assert DEFERRED_MAX == 65_536


def test_who_closes_waits_for_it() -> None:
    """Something has run: the consumer is not idle, though nobody has anything in hand and nothing has to be told."""
    stage = deferred(3)
    before = stage.end.idle
    stage.out.acked("a:1", 1, 4)
    stage.look()
    stage.end.producers.take_told("p:1", 2)
    assert (before, stage.end.idle) == (False, True)


# At the producer of the inputs


def test_a_death_of_what_has_run_is_not_its_fault() -> None:
    """No death, no attempt; what was in hand counts one."""
    end = producer(2)
    end.accept(bodies(4), 0)
    dispatch(end)
    end.ran("a:1", 1, 4)
    end.check()
    assert (end.account().handed_on, end.in_flight.in_hand("a:1")) == (3, 1)
    end.gone("a:1", 0.0, died=True)
    end.check()
    assert sorted((run.first, run.deaths, run.attempt) for run in end._runs()) == [(1, 0, 1), (4, 1, 1)]
    assert end.account().handed_on == 0


def test_a_hung_consumer_has_not_failed_what_has_run() -> None:
    """Its lease is over: all goes elsewhere, and only what was in hand has failed."""
    end = producer(2)
    end.accept(bodies(2), 0)
    dispatch(end)
    end.ran("a:1", 1, 2)
    end.lapse("a:1", "hangs", 0.0)
    end.check()
    assert end.releases == [("a:1", 1, 2), ("a:1", 2, 3)]
    assert sorted((run.first, run.attempt) for run in end._runs()) == [(1, 1), (2, 2)]


def test_what_has_run_is_no_outstanding_work() -> None:
    """It does not keep a large message away, nor one that is to be alone."""
    end = producer(1)
    end.accept(bodies(1), 0)
    dispatch(end)
    end.accept([b"x" * 1000], 0)
    assert dispatch(end, size=10) is None
    end.ran("a:1", 1, 2)
    assert dispatch(end, size=10) == (2, 3)
    end.acked("a:1", 2, 3)
    for run in end.in_flight.take("a:1", 1, 2):
        run.ran, run.deaths = False, 3
        end.pending.give_back(run)
    end.accept(bodies(1), 0)
    assert dispatch(end) == (1, 2)
    assert dispatch(end) is None, "beside an isolated message nothing else"
    end.ran("a:1", 1, 2)
    assert dispatch(end) == (3, 4), "that has run, and cannot kill anybody any more"


def test_what_has_run_may_be_given_back() -> None:
    """It is in flight no more, and as if nothing had happened to it."""
    end = producer(1)
    end.accept(bodies(2), 0)
    dispatch(end)
    end.ran("a:1", 1, 3)
    end.returned("a:1", 1, 2)
    assert not end.reconcile("a:1", Ranges())
    end.check()
    assert [(run.ran, run.attempt) for run in end._runs()] == [(False, 1), (False, 1)]
    assert dispatch(end) == (1, 2)


# Two nodes


def pipeline() -> tuple[Pair, OutgoingQueue, OutgoingQueue, IncomingQueue, IncomingQueue]:
    """`a` sends jobs to `b`, which sends a result for each, and takes it itself."""
    pair = Pair()
    source = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    out = pair.b.open_producer("out", RAW, 5, 2**20, pair.now)
    jobs = pair.b.open_consumer("jobs", 10.0, pair.now)
    sink = pair.b.open_consumer("out", 10.0, pair.now)
    pair.meet()
    for end in (jobs, sink):
        end.want(1, 100, pair.now)
        pair.b.consumers.progress(end, pair.now)
    pair.a.producers.accept(source, bodies(3), 0)
    pair.settle()
    return pair, source, out, jobs, sink


def hand_on(pair: Pair, out: OutgoingQueue, jobs: IncomingQueue, wake: Callable[[], None] = nothing) -> HandOn:
    """`b` handles what it has of its jobs, and sends one message for each."""
    handon, watch = jobs.open_handon(wake), out.open_watch(nothing)
    while (delivery := jobs.take(pair.now)) is not None:
        low = delivery.next
        count = len(claim(delivery, 100, pair.now))
        first = out.next
        pair.b.producers.accept(out, bodies(count), 0, kind=KINDS[delivery.depth + 1])
        for at in range(count):
            handon.defer(
                delivery, low + at, low + at + 1, sent_out(watch, first + at, first + at + 1, delivery.depth + 1)
            )
        pair.b.consumers.progress(jobs, pair.now)
        pair.settle(0.1)
        jobs.want(1, 100, pair.now)
    return handon


def drain(pair: Pair, end: IncomingQueue) -> list[Delivery]:
    """`b` acks all that it gets."""
    found = []
    while (delivery := end.take(pair.now)) is not None:
        count = len(claim(delivery, 100, pair.now))
        delivery.ack(0, count)
        found.append(delivery)
        pair.b.consumers.progress(end, pair.now)
        pair.settle(0.1)
        end.want(1, 100, pair.now)
    return found


def test_flush_at_the_source_waits_for_the_sink() -> None:
    """Its producer learns what has run, and the ack leaves in the turn in which the output is acked."""
    pair, source, out, jobs, sink = pipeline()
    hand_on(pair, out, jobs)
    assert (source.account().handed_on, source.unsettled_count, pair.b.settled()) == (3, 3, False)
    assert [delivery.depth for delivery in drain(pair, sink)] == [1] * 2
    assert (source.unsettled_count, out.unsettled_count, pair.b.settled()) == (0, 0, True)


def test_a_broken_link_is_told_anew() -> None:
    """After the next life has begun the producer knows what has run, and its death there is none of it."""
    pair, source, out, jobs, _ = pipeline()
    hand_on(pair, out, jobs)
    for run in list(source.in_flight.runs("b:7340032")):
        run.ran = False
    source.in_flight.tables["b:7340032"].ran = 0
    link = pair.a.links.by_peer["b:7340032"]
    pair.a._apply(pair.a.links.broken(link, pair.now), pair.now)
    pair.pass_time(1.0)
    assert source.account().handed_on == 3


def test_who_leaves_leaves_inputs_behind() -> None:
    """`b` says goodbye before its outputs are settled: the inputs wait for somebody else."""
    pair, source, out, jobs, _ = pipeline()
    hand_on(pair, out, jobs)
    pair.b.drain(pair.now)
    pair.settle()
    assert source.account().handed_on == 3
    pair.b.say_bye(pair.now)
    pair.settle(0.1)
    assert (source.account().waiting, source.account().handed_on) == (3, 0)


def test_it_is_told_that_nothing_is_settled() -> None:
    """After half a minute, with the queue to which was sent."""
    pair, _, out, jobs, _ = pipeline()
    hand_on(pair, out, jobs)
    pair.b.poll_events()
    pair.pass_time(45.0)
    records = list(pair.b.poll_events().records)
    assert any("'out'" in record.text and "not acked" in record.text for record in records), records


def test_another_node_of_the_process() -> None:
    """Inputs of one node, outputs of another, which learn of each other by being woken."""
    pair, source, _, jobs, _ = pipeline()
    woken: list[str] = []
    other = Pair()
    out = other.a.open_producer("far", RAW, 5, 2**20, other.now)
    handon = jobs.open_handon(lambda: woken.append("consumer"))
    watch = out.open_watch(lambda: woken.append("producer"))
    delivery = jobs.take(pair.now)
    assert delivery is not None
    claim(delivery)
    other.a.producers.accept(out, bodies(1), 0)
    other.settle()
    handon.defer(delivery, 0, 1, sent_out(watch, 1, 2))
    pair.b.consumers.progress(jobs, pair.now)
    pair.settle()
    assert (woken, source.account().handed_on) == (["producer"], 0)
    other.a.producers.touched[out] = None  # as its driver does, woken
    other.settle()
    assert watch.waits
    out.drop_oldest(1)
    other.settle()
    assert woken == ["producer", "consumer"]
    pair.b.consumers.progress(jobs, pair.now)
    pair.settle(0.1)
    assert source.account().acked == 1


def test_a_queue_that_was_closed_before_its_input_is_acked() -> None:
    """As of a queue for each reply: nothing of it is unsettled, nor looked at again, and the input is acked."""
    pair, source, _, jobs, _ = pipeline()
    other = Pair()
    out = other.a.open_producer("reply", RAW, 5, 2**20, other.now)
    handon = jobs.open_handon(nothing)
    watch = out.open_watch(lambda: pytest.fail("nobody is there to be woken"))
    delivery = jobs.take(pair.now)
    assert delivery is not None
    claim(delivery)
    other.a.producers.accept(out, bodies(1), 0)
    other.settle()
    out.drop_oldest(1)
    other.settle()
    other.a.close_producer("reply", other.now)
    handon.defer(delivery, 0, 1, sent_out(watch, 1, 2))
    pair.b.consumers.progress(jobs, pair.now)
    pair.settle()
    pair.b.consumers.progress(jobs, pair.now)
    pair.settle(0.1)
    assert source.account().acked == 1
    assert not watch.fresh


def test_two_threads_lose_the_same_outputs() -> None:
    """A node closes, and a consumer of another one hears of it at the same time: each output is lost once."""

    class Shared(deque[Wait]):
        """Somebody else takes what is there, as soon as it was looked at."""

        def __bool__(self) -> bool:
            return True

    stage = Stage()
    stage.run(1)
    stage.end.progress(0.0)
    stage.watch.fresh = Shared(stage.watch.fresh)
    stage.watch.leave()
    assert list(stage.handon.written) == [(STREAM, 1, 2, False)]


def test_a_circle_is_told_once() -> None:
    """From depth 16 on delivering is enough, and one line says so."""
    pair, _, out, jobs, _ = pipeline()
    delivery = jobs.take(pair.now)
    assert delivery is not None
    claim(delivery)
    handon, watch = jobs.open_handon(nothing), out.open_watch(nothing)
    for _ in range(2):
        pair.b.producers.accept(out, bodies(1), 0, kind=KINDS[DEPTH_MAX])
    handon.defer(delivery, 0, 1, sent_out(watch, 1, 3, DEPTH_MAX))
    pair.b.consumers.progress(jobs, pair.now)
    pair.settle(0.1)
    pair.settle(0.1)
    texts = [record.text for record in pair.b.poll_events().records]
    assert len([text for text in texts if "leads back" in text]) == 1
    assert pair.a.producers.by_queue["jobs"].account().acked == 1
