"""Messages that expire: never sent, and never handed out, once their time is over; and counted."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from peerfabric.queue.durable import DurableQueue
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.numbering import Numbering
from peerfabric.queue.outgoing import TTL_LEAST, OutgoingQueue
from peerfabric.queue.pending import LOOK_THROUGH, Pending
from peerfabric.queue.runs import DEATHS_TO_ISOLATE, Kind
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import EXPIRED, FAILED, LEASE, NO_INTEREST, RAW, REFUSED, REJECTED, Nack, Result
from tests.fabric.helpers import (
    HUGE,
    STREAM,
    Pair,
    bodies,
    body_of,
    claim,
    consumer,
    data,
    dispatch,
    producer,
    receive,
    results,
    take,
)
from tests.fabric.queue.test_durable import NOW, OLD, documents, settled_names, spooled

# At the producer


def sent(end: OutgoingQueue, peer: str = "a:1", now: float = 0.0) -> tuple[int, int] | None:
    """What `peer` gets at that instant."""
    run = end.pick(peer, 1000, HUGE, HUGE, now)
    if run is None:
        return None
    end.sent(peer, run)
    end.check()
    return run.first, run.stop


def expired(end: OutgoingQueue) -> int:
    """How many have, with the account closed and no dead letter among them."""
    end.check()
    assert end.letters() == []
    return end.account().expired


def test_what_expires_ends_at_its_time_though_nobody_is_there() -> None:
    """In whatever order the times come, and messages without one stay. Its bytes are free, its number is settled."""
    end = producer(consumers=0)
    kinds: list[Kind | None] = [(9.0, 0), None, (5.0, 0), (7.0, 0)]
    for kind in kinds:
        end.accept(bodies(1), 0, kind=kind)
    seen = []
    while (due := end.deadline()) is not None:
        before = end.held_bytes
        end.expire(due - 0.001)
        assert end.held_bytes == before
        end.expire(due)
        seen.append((due, expired(end), [end.state(n) for n in (1, 2, 3, 4)]))
    assert seen == [
        (5.0, 1, ["waiting", "waiting", "expired", "waiting"]),
        (7.0, 2, ["waiting", "waiting", "expired", "expired"]),
        (9.0, 3, ["expired", "waiting", "expired", "expired"]),
    ]
    assert (end.account().waiting, end.floor, end.held_bytes) == (1, 2, 68)


def test_what_has_expired_is_not_sent() -> None:
    """Also if nobody has looked for it since: the last millisecond is not enough for a frame."""
    end = producer()
    for kind in ((5.0 + TTL_LEAST / 2, 0), (5.02, 0), None):
        end.accept(bodies(1), 0, kind=kind)
    assert sent(end, now=5.0) == (2, 3)
    assert (expired(end), end.state(1)) == (1, "expired")
    assert sent(end, now=5.0) == (3, 4)


def test_one_of_a_run_expires_early_by_a_little_and_never_late() -> None:
    """Neighbours share a time: that of the first."""
    end = producer(consumers=0)
    for tenth in range(4):
        end.accept(bodies(1), 0, kind=(5.0 + tenth * 0.004, 0))
    end.expire(5.0)
    assert (expired(end), end.deadline()) == (3, 5.012)
    end.expire(5.012)
    assert expired(end) == 4


@pytest.mark.parametrize("reason", [FAILED, LEASE, REFUSED, NO_INTEREST, EXPIRED])
@pytest.mark.parametrize("attempts", [1, 5])
def test_what_comes_back_too_late_has_expired(reason: int, attempts: int) -> None:
    """For whatever reason, and also if that would have made a dead letter of it."""
    end = producer(max_attempts=attempts)
    end.accept(bodies(2), 0, kind=(5.0, 0))
    assert dispatch(end) == (1, 3)
    end.nacked("a:1", Nack(1, 2, 1, reason), 5.0)
    assert (expired(end), end.state(1), end.state(2)) == (1, "expired", "in flight")


def test_what_comes_back_in_time_is_sent_again_with_its_time() -> None:
    """And expires while it waits for its delay."""
    end = producer(consumers=2)
    end.accept(bodies(2), 0, kind=(5.0, 0))
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, FAILED, 500), 1.0)
    end.nacked("a:1", Nack(2, 3, 1, FAILED, 60_000), 1.0)
    end.expire(1.5)
    assert sent(end, "b:1", 1.5) == (1, 2)
    end.expire(5.0)
    assert (expired(end), end.state(1), end.state(2)) == (1, "in flight", "expired")


def test_a_consumer_finds_it_expired_a_little_before_us() -> None:
    """Its clock is another. Of messages that never expire that is a failure, as nobody else could say so."""
    end = producer()
    end.accept(bodies(1), 0, kind=(5.0, 0))
    end.accept(bodies(1), 0)
    end.accept(bodies(1), 0, kind=(inf, 3))
    while dispatch(end):
        pass
    for number in (1, 2, 3):
        end.nacked("a:1", Nack(number, number + 1, 1, EXPIRED), 4.999)
    assert (expired(end), [end.state(n) for n in (1, 2, 3)]) == (1, ["expired", "waiting", "waiting"])
    assert [run.attempt for run in end._runs()] == [2, 2]


def test_what_its_handler_rejected_is_a_dead_letter() -> None:
    """It had the message in time, and a person wants to see why."""
    end = producer()
    end.accept(bodies(1), 0, kind=(5.0, 0))
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, REJECTED, text="not ours"), 6.0)
    assert ([letter.why for letter in end.letters()], end.account().expired) == (["rejected: not ours"], 0)


@pytest.mark.parametrize("died", [False, True])
def test_what_a_consumer_leaves_behind_has_expired(*, died: bool) -> None:
    """Its death is none of the message any more, however many it has seen."""
    end = producer()
    end.accept(bodies(1), 0, kind=(5.0, 0))
    run = end.pick("a:1", 1, HUGE, HUGE)
    assert run is not None
    run.deaths, run.attempt = DEATHS_TO_ISOLATE, end.max_attempts
    end.sent("a:1", run)
    end.gone("a:1", 5.0, died=died)
    assert (expired(end), end.unsettled_count) == (1, 0)


def test_what_was_processed_has_not_expired() -> None:
    """However late the ack comes; but what has expired stays so."""
    end = producer()
    end.accept(bodies(2), 0, kind=(5.0, 0))
    dispatch(end)
    end.acked("a:1", 1, 2)
    end.nacked("a:1", Nack(2, 3, 1, EXPIRED), 6.0)
    end.acked("a:1", 2, 3)
    assert (end.state(1), end.state(2), expired(end)) == ("processed", "expired", 1)


def test_looking_through_a_long_queue_rests() -> None:
    """All is looked through seldom if there is much; what comes meanwhile does not change that."""
    table = Pending(Numbering("n:3:q"), Random(1))
    for number in range(1, 1001):
        table.append(number, bodies(1), 0, None, None, (number / 1000 if number % 2 else 500.0, 0))
    table.check()
    looks = found = 0
    while (due := table.deadline()) is not None and due < 500.0:
        found += sum(len(run.bodies) for run in table.take_expired(due))
        table.expire(due, ())
        if due < 1.0:
            table.append(2000 + looks, bodies(1), 0, None, None, (due + 1e-6, 0))
        table.check()
        looks += 1
    assert found >= 500
    assert looks <= 1.2 / (LOOK_THROUGH * 500)


def test_timers_do_not_pile_up() -> None:
    """A queue that is served at once keeps one for all that went through it, however far their times are."""
    end = producer()
    for number in range(1, 1000):
        end.accept(bodies(1), 0, kind=(1e6 + number, 0))
        assert sent(end, now=float(number)) == (number, number + 1)
        end.acked("a:1", number, number + 1)
    assert len(end.pending.timers) == 1


# With a spool


def load(end: DurableQueue, first: int, count: int, expires: float, now: float, stream: str = OLD) -> None:
    end.loaded(stream, first, documents(count), 7, {}, (expires, 0), now)
    end.check()


def test_what_expired_on_disk_is_settled_as_it_is_read() -> None:
    """It is never in memory, and the cursor is told."""
    end = spooled(eras=[(OLD, 1, 5)])
    load(end, 1, 2, 3.0, 4.0)
    load(end, 3, 2, 9.0, 4.0)
    assert (expired(end), settled_names(end), end.account().waiting) == (2, [(OLD, 1, 3)], 2)
    end.expire(9.0)
    assert (expired(end), settled_names(end), end.unsettled_count) == (4, [(OLD, 3, 5)], 0)


def test_what_is_on_disk_only_expires_once_it_is_read() -> None:
    """Until then it counts as there."""
    end = spooled(memory=68 * 2)
    end.accept(bodies(4), 0, kind=(5.0, 0))
    end.expire(5.0)
    assert (expired(end), end.account().on_disk) == (2, 2)
    end.loaded(NOW, 3, documents(2), 7, {}, (5.0, 0), 5.5)
    assert (expired(end), end.account().on_disk) == (4, 0)


# At the consumer


def arrive(end: IncomingQueue, first: int, count: int, expires: float, sent_in_all: int = 0) -> None:
    """A frame of messages that may be handed out until `expires`."""
    source = end._sources["p:1"]
    source.credit.granted_messages, source.credit.granted_bytes = 1000, 68_000
    header = data(first, count, sent_in_all or first + count - 1)
    end.receive("p:1", "shop", header, body_of(first, count), source.fence, expires)
    end.check()


def test_what_was_not_handed_out_in_time_goes_back() -> None:
    """By itself, though its handler is busy with the one before it, which it had in time and may finish."""
    end = consumer()
    arrive(end, 1, 3, 5.0)
    receive(end, 4, 1)
    delivery = take(end)
    assert claim(delivery) == [b"0001"]
    end.want(1, 1, 4.5)
    assert end.deadline(4.5) == 5.0
    end.expire(4.9)
    assert results(end) == []
    end.expire(5.0)
    assert results(end, 2) == [Result(STREAM, "jobs", [], [], [Nack(2, 4, 1, EXPIRED)])]
    assert claim(delivery, now=5.0) == []
    delivery.ack(0, 1)
    assert results(end, 3) == [Result(STREAM, "jobs", [1, 2])]
    assert claim(take(end, 5.0)) == [b"0004"]
    assert (end.account().expired, end.account().processed) == (2, 1)


def test_whoever_asks_first_finds_it_expired() -> None:
    """Nothing of it is handed out, and what lies behind it is."""
    end = consumer()
    arrive(end, 1, 2, 5.0)
    receive(end, 3, 1)
    assert claim(take(end, 5.0), now=5.0) == [b"0003"]
    assert results(end) == [Result(STREAM, "jobs", [], [], [Nack(1, 3, 1, EXPIRED)])]


def test_an_echo_does_not_give_it_more_time() -> None:
    """The fence is raised while it is handled, and taken back in part: its own time stays."""
    end = consumer()
    arrive(end, 1, 3, 5.0)
    delivery = take(end)
    assert claim(delivery) == [b"0001"]
    end.fence("p:1", 2000.0)
    assert delivery.until == 5.0
    end.release("p:1", STREAM, Ranges([(2, 3)]))
    rest = take(end, 4.0)
    assert (rest.first, rest.expires) == (3, 5.0)
    assert claim(rest, now=5.0) == []
    end.park(rest)
    assert end.take(5.0) is None
    assert results(end)[0].nacks == [Nack(3, 4, 1, EXPIRED)]


def test_one_that_a_thread_was_about_to_start_goes_back_as_well() -> None:
    """It had claimed the message, and sees that its time is over after all others went back."""
    end = consumer()
    arrive(end, 1, 2, 5.0)
    delivery = take(end)
    delivery.next = 1  # claimed
    end.expire(5.0)
    assert results(end)[0].nacks == [Nack(2, 3, 1, EXPIRED)]
    assert delivery.until <= 5.0
    delivery.next = 0  # and not started
    end.park(delivery)
    assert end.take(5.0) is None
    assert results(end, 2)[0].nacks == [Nack(1, 2, 1, EXPIRED)]
    assert end.idle


def test_a_part_of_a_frame_has_its_time() -> None:
    """The rest of it was here before."""
    end = consumer()
    receive(end, 1, 1)
    arrive(end, 1, 3, 5.0, sent_in_all=4)
    claim(take(end))
    assert claim(take(end, 4.0), 9, now=4.0) == [b"0002", b"0003"]
    assert end.take(5.0) is None


def test_the_expired_of_a_producer_that_died_are_not_run() -> None:
    """Nobody is told, and nobody runs them."""
    end = consumer()
    arrive(end, 1, 2, 5.0)
    end.detach("p:1", 1.0, proven_gone=True)
    assert end.take(5.0) is None
    end.expire(5.0)
    end.check()
    assert end.account().expired == 2


# Both


def test_the_time_goes_with_the_messages() -> None:
    """Whole milliseconds from their arrival on; what is not taken by then ends as expired, at both."""
    pair = Pair()
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.meet()
    incoming = pair.b.consumers.by_queue["jobs"]
    incoming.want(1, 100, pair.now)
    pair.b.consumers.progress(incoming, pair.now)
    pair.settle()
    pair.a.producers.accept(end, bodies(2), 0, kind=(pair.now + 1.5, 0))
    pair.a.producers.accept(end, bodies(1), 0)
    pair.settle()
    assert (incoming.account().buffered, end.account().in_flight) == (3, 3)
    pair.settle(1.0)
    incoming.want(1, 100, pair.now)
    pair.settle(0.6)
    assert (end.account().expired, incoming.account().expired, incoming.account().buffered) == (2, 2, 1)
    assert end in pair.a.changed


def test_whoever_waits_for_a_message_hears_that_it_expired_at_dispatch() -> None:
    """Credit comes when its time is over, before that was looked at."""
    pair = Pair()
    end = pair.a.open_producer("jobs", RAW, 5, 2**20, pair.now)
    pair.b.open_consumer("jobs", 10.0, pair.now)
    pair.meet()
    pair.a.producers.accept(end, bodies(1), 0, kind=(pair.now - 1.0, 0))
    pair.b.consumers.by_queue["jobs"].want(1, 100, pair.now)
    pair.b.consumers.progress(pair.b.consumers.by_queue["jobs"], pair.now)
    for link in pair.a.links.by_peer.values():
        link.sending.credit("jobs").grant(10, 10_000)
    pair.a.changed.clear()
    frames = [frame for _, frame in pair.a.producers.frames(pair.now)]
    assert (frames, end.state(1), end in pair.a.changed) == ([], "expired", True)


def test_a_frame_without_a_time_is_for_ever() -> None:
    """As of all that were sent by a node that knows of none."""
    assert data(1, 1, 1).ttl_ms == 0
    end = consumer()
    receive(end, 1, 1)
    assert (take(end, 500.0).expires, end.account().expired) == (inf, 0)
