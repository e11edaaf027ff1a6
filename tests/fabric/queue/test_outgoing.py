"""Outgoing queue: its messages from acceptance until they are settled."""

from __future__ import annotations

from random import Random

import pytest

from peerfabric.log_records import LogRecords
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import MESSAGE_OVERHEAD
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import BATCH_FAILED, FAILED, LEASE, NO_INTEREST, RAW, REFUSED, REJECTED, Extra, Nack
from tests.fabric.helpers import HUGE, STREAM, bodies, dispatch, producer

EACH = 4 + MESSAGE_OVERHEAD


def test_accepted_to_acked() -> None:
    """One message from acceptance to its ack, as its state and the accounting see it."""
    end = producer()
    end.accept(bodies(1), 0)
    assert end.state(1) == "waiting"
    assert dispatch(end) == (1, 2)
    assert end.state(1) == "in flight"
    end.delivered(1, 2)
    assert end.state(1) == "delivered"
    end.acked("a:1", 1, 2)
    assert (end.state(1), end.floor, end.unsettled_count, end.released_cost) == ("processed", 2, 0, EACH)
    assert end.account().closes
    end.check()


def test_a_frame_holds_what_credit_allows() -> None:
    """Messages and bytes are both limits; the rest waits in order."""
    end = producer()
    end.accept(bodies(10), 0)
    assert dispatch(end, messages=3) == (1, 4)
    assert dispatch(end, size=2 * EACH) == (4, 6)
    assert dispatch(end) == (6, 11)


def test_the_byte_limit_never_forbids_the_only_message() -> None:
    """A message larger than the credit goes if the consumer has nothing else, and waits if it has."""
    end = producer()
    end.accept([b"x" * 1000, b"y" * 1000], 0)
    assert dispatch(end, size=10) == (1, 2)
    assert dispatch(end, size=10) is None
    end.acked("a:1", 1, 2)
    assert dispatch(end, size=10) == (2, 3)


def test_what_is_too_large_for_all_is_a_dead_letter() -> None:
    """Not before the last of them has been asked; the next message goes on."""
    end = producer(consumers=2)
    end.accept([b"x" * 1000, b"y"], 0)
    run = end.pick("a:1", 10, HUGE, 100)
    assert run is not None
    end.sent("a:1", run)
    assert (run.first, end.state(1)) == (2, "waiting")
    assert end.pick("b:1", 10, HUGE, 100) is None
    assert [letter.reason for letter in end.letters()] == ["refused"]
    end.check()


def test_a_nack_waits_and_goes_to_another() -> None:
    """After its delay, with one attempt more; the one that failed it may have it when the preference has ended."""
    end = producer(consumers=2)
    end.accept(bodies(1), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, FAILED, 500, "no"), 10.0)
    end.check()
    assert (end.waiting_count, end.deadline()) == (0, 10.5)
    end.expire(10.5)
    assert dispatch(end, "a:1") is None
    end.expire(11.5)
    assert dispatch(end, "a:1") == (1, 2)


def test_the_only_consumer_gets_its_failure_again() -> None:
    """There is nobody to prefer."""
    end = producer()
    end.accept(bodies(1), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, FAILED, 0), 0.0)
    assert dispatch(end) == (1, 2)


def test_nacks_of_an_earlier_attempt_say_nothing() -> None:
    """Only the present peer with the present attempt may give a message back."""
    end = producer()
    end.accept(bodies(1), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 7, REJECTED), 0.0)
    end.nacked("b:1", Nack(1, 2, 1, REJECTED), 0.0)
    assert end.state(1) == "in flight"


def test_attempts_are_used_up() -> None:
    """The last failure makes a dead letter that tells what happened."""
    end = producer(max_attempts=2)
    end.accept(bodies(1), 0)
    for attempt in (1, 2):
        dispatch(end)
        end.nacked("a:1", Nack(1, 2, attempt, FAILED, 0, f"error {attempt}"), 0.0)
    [letter] = end.letters()
    assert (letter.reason, letter.error, letter.attempts, letter.data) == ("attempts", "error 2", 2, b"0001")
    assert (end.state(1), end.why_dead(1)) == ("dead", "attempts: error 2")
    end.check()


@pytest.mark.parametrize(("reason", "text"), [(REJECTED, "rejected"), (REFUSED, "refused")])
def test_given_up_at_once(reason: int, text: str) -> None:
    """A rejected message, and one that its only consumer cannot read, is not tried again."""
    end = producer()
    end.accept(bodies(1), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, reason), 0.0)
    assert [letter.reason for letter in end.letters()] == [text]


def test_a_refused_message_goes_to_the_others() -> None:
    """And is given up once those who did not refuse it have left."""
    end = producer(consumers=2)
    end.accept(bodies(1), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, REFUSED), 0.0)
    assert (end.waiting_for("a:1"), end.waiting_for("b:1")) == (0, 1)
    assert dispatch(end, "a:1") is None
    end.expire(0.0)
    end.gone("b:1", 0.0, died=True)
    end.expire(5.0)
    assert end.state(1) == "waiting", "b may come back"
    end.expire(10.0)
    assert end.state(1) == "dead"
    end.check()


def test_a_refused_message_does_not_wait_for_ever() -> None:
    """Nobody is left who may have it after the one that ran it for longer than a comparison died."""
    end = producer(consumers=2)
    end.accept(bodies(1), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, REFUSED), 0.0)
    end.expire(0.0)
    assert dispatch(end, "b:1") == (1, 2)
    end.expire(5.0)
    end.gone("b:1", 0.0, died=True)
    assert end.waiting_for("a:1") == 0
    end.expire(5.0)
    assert end.state(1) == "waiting", "somebody may come who takes it"
    end.expire(10.0)
    assert end.state(1) == "dead"


def test_a_refusal_of_the_last_to_leave() -> None:
    """It takes no new messages, so there is nobody who could have refused this one: somebody will come."""
    end = producer()
    end.accept(bodies(1), 0)
    dispatch(end)
    end.set_consumer("a:1", "a", consumes=False)
    end.nacked("a:1", Nack(1, 2, 1, REFUSED), 0.0)
    assert end.state(1) == "waiting"


def test_the_first_dead_letter_of_each_reason_is_told() -> None:
    """A person must look at them; a thousand of a kind are one line."""
    records = LogRecords()
    end = OutgoingQueue("jobs", STREAM, RAW, 2**20, 5, Random(1), records=records)
    end.set_consumer("a:1", "a", consumes=True)
    end.accept(bodies(4), 0)
    for number, reason in ((1, REJECTED), (2, REJECTED), (3, REFUSED), (4, REFUSED)):
        assert dispatch(end, messages=1) == (number, number + 1)
        end.nacked("a:1", Nack(number, number + 1, 1, reason, -1, f"not {number}"), 0.0)
    assert [line.text.partition(";")[0] for line in records.take()] == [
        f"queue 'jobs': message {STREAM}/1 is a dead letter, rejected: not 1",
        f"queue 'jobs': message {STREAM}/3 is a dead letter, refused: not 3",
    ]


def test_without_interest_nothing_counts() -> None:
    """A consumer that closed just now returns messages as they were."""
    end = producer()
    end.accept(bodies(2), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 3, 1, NO_INTEREST), 0.0)
    run = end.pick("a:1", 10, HUGE, HUGE)
    assert run is not None
    assert (run.first, run.stop, run.attempt) == (1, 3, 1)


def test_a_failed_batch_comes_again_one_by_one() -> None:
    """Without an attempt; only alone does a failure count."""
    end = producer()
    end.accept(bodies(3), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 4, 1, BATCH_FAILED, 0), 0.0)
    assert [dispatch(end), dispatch(end), dispatch(end)] == [(1, 2), (2, 3), (3, 4)]
    end.nacked("a:1", Nack(2, 3, 1, BATCH_FAILED, 0), 0.0)
    run = end.pick("a:1", 10, HUGE, HUGE)
    assert run is not None
    assert (run.first, run.attempt, run.alone) == (2, 2, True)
    end.sent("a:1", run)


def test_redelivered_messages_go_first() -> None:
    """In their order, with their attempt; a death counts, a cut does not."""
    end = producer(consumers=2)
    end.accept(bodies(6), 0)
    dispatch(end, "a:1", messages=2)
    dispatch(end, "b:1", messages=2)
    end.gone("a:1", 0.0, died=False)
    assert dispatch(end, "b:1", messages=10) == (1, 3)
    assert dispatch(end, "b:1", messages=10) == (5, 7)
    end.check()


def test_the_ack_of_an_earlier_peer_settles() -> None:
    """Whoever has a copy now is told to let it go."""
    end = producer(consumers=2)
    end.accept(bodies(2), 0)
    dispatch(end, "a:1")
    end.gone("a:1", 0.0, died=False)
    dispatch(end, "b:1")
    end.acked("a:1", 1, 2)
    assert end.state(1) == "processed"
    assert end.releases == [("b:1", 1, 2)]
    end.check()


def test_reconciling_a_new_link() -> None:
    """What got lost waits again; what was settled or moved meanwhile is to be released."""
    end = producer(consumers=2)
    end.accept(bodies(6), 0)
    dispatch(end, "a:1", messages=4)
    dispatch(end, "b:1", messages=2)
    release = end.reconcile("a:1", Ranges([(2, 3), (5, 6)]))
    assert list(release) == [(5, 6)]
    assert [end.state(n) for n in range(1, 7)] == [
        "waiting",
        "in flight",
        "waiting",
        "waiting",
        "in flight",
        "in flight",
    ]
    end.check()


def test_a_hung_peer_loses_what_it_has() -> None:
    """It counts as an attempt, and RELEASE is ready for when it wakes up."""
    end = producer(consumers=2)
    end.accept(bodies(1), 0)
    dispatch(end)
    end.lapse("a:1", "its consumer hangs", 0.0)
    assert end.releases == [("a:1", 1, 2)]
    run = end.pick("b:1", 1, HUGE, HUGE)
    assert run is not None
    assert run.attempt == 2
    end.sent("b:1", run)


def test_an_isolated_message_goes_to_others_first() -> None:
    """Than those that died with it, each known by its node; after a second, or if nobody else is there, to any."""
    end = producer(consumers=3)
    end.accept(bodies(1), 0)
    for node in ("a", "a", "a", "b"):
        assert dispatch(end, f"{node}:1") == (1, 2)
        end.gone(f"{node}:1", 10.0, died=True)
        end.set_consumer(f"{node}:1", node, consumes=True)
    assert (dispatch(end, "a:1"), dispatch(end, "b:1"), end.deadline()) == (None, None, 11.0)
    assert dispatch(end, "c:1") == (1, 2)
    end.gone("c:1", 10.5, died=True)
    assert dispatch(end, "b:1") == (1, 2), "nobody is left with whom it has not died"
    end.gone("b:1", 10.6, died=True)
    end.set_consumer("b:1", "b", consumes=True)
    end.set_consumer("d:1", "d", consumes=True)
    assert (dispatch(end, "a:1"), dispatch(end, "d:1")) == (None, (1, 2))
    end.gone("d:1", 12.0, died=True)
    end.set_consumer("e:1", "e", consumes=True)
    end.expire(13.0)
    assert dispatch(end, "a:1") == (1, 2)
    run = end.in_flight.runs("a:1")[0]
    assert (run.attempt, run.deaths) == (5, 7)
    end.reconcile("a:1", Ranges())
    assert dispatch(end, "b:1") == (1, 2), "it was lost on the way, long after that second"


def test_an_isolated_message_does_not_wait_for_a_pause() -> None:
    """Under a steady load one consumer is drained for it, and no other."""
    end = producer(consumers=3)
    end.accept(bodies(20), 0)
    assert [dispatch(end, f"{node}:1", messages=1) for node in "ab"] == [(1, 2), (2, 3)]
    for _ in range(3):
        assert dispatch(end, "c:1", messages=1) == (3, 4)
        end.gone("c:1", 0.0, died=True)
        end.set_consumer("c:1", "c", consumes=True)
    for number in (4, 5):
        assert (dispatch(end, "a:1", messages=1), dispatch(end, "b:1", messages=1)) == (None, (number, number + 1))
    end.acked("a:1", 1, 2)
    assert dispatch(end, "a:1", messages=10) == (3, 4)
    assert (dispatch(end, "a:1", messages=1), dispatch(end, "b:1", messages=1)) == (None, (6, 7))
    end.gone("a:1", 5.0, died=False)
    assert (dispatch(end, "b:1", messages=1), end.in_flight.count) == (None, 4), "another is drained now"


def test_poison_is_isolated_and_found() -> None:
    """Of ten messages that die together only the one that was started alone five times is given up."""
    end = producer()
    end.accept(bodies(10), 0)
    for deaths in range(3):
        dispatch(end)
        end.gone("a:1", 0.0, died=True)
        end.set_consumer("a:1", "a", consumes=True)
        assert end.letters() == [], deaths
    for _ in range(5):
        assert dispatch(end) == (1, 2)
        assert dispatch(end) is None
        end.gone("a:1", 0.0, died=True)
        end.set_consumer("a:1", "a", consumes=True)
    assert [(letter.id, letter.reason) for letter in end.letters()] == [("p:1:jobs/1", "died with it")]
    assert dispatch(end) == (2, 3)


def test_a_frame_that_breaks_links_comes_alone_and_later() -> None:
    """The second time its messages travel one by one, after a while, so that the others get through."""
    end = producer()
    end.accept(bodies(2), 0)
    for _ in range(2):
        dispatch(end)
        end.reconcile("a:1", Ranges())
        end.pending.broke(1, 3, 0.0)
        end.check()
    assert end.waiting_count == 0
    end.expire(1.0)
    assert [dispatch(end), dispatch(end)] == [(1, 2), (2, 3)]


def test_drop_oldest_takes_only_what_waits() -> None:
    """Given back or never sent, but not in flight: then there is nothing to drop."""
    end = producer()
    end.accept(bodies(4), 0)
    dispatch(end, messages=2)
    assert end.drop_oldest(EACH) == EACH
    end.returned("a:1", 1, 2)
    assert end.drop_oldest(EACH) == EACH
    assert [end.state(n) for n in (1, 2, 3, 4)] == ["dropped", "in flight", "dropped", "waiting"]
    assert end.drop_oldest(10 * EACH) == EACH
    assert end.drop_oldest(EACH) == 0
    assert (end.account().dropped, end.account().closes) == (3, True)
    end.check()


def test_a_retried_letter_is_a_new_message() -> None:
    """With a new sequence, its headers, and its old id as origin."""
    end = producer()
    end.accept(bodies(1), 7, {0: Extra(0, {"k": "v"})})
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, REJECTED), 0.0)
    letter = end.take_dead_letter("p:1:jobs/1")
    assert letter is not None
    assert end.take_dead_letter("p:1:jobs/1") is None
    end.retry(letter)
    end.check()
    run = end.pick("a:1", 1, HUGE, HUGE)
    assert run is not None
    assert (run.first, run.sent_ms, run.extras) == (2, 7, {2: Extra(0, {"k": "v"}, "p:1:jobs/1")})
    end.sent("a:1", run)
    end.acked("a:1", 2, 3)
    account = end.account()
    assert (account.retried, account.dead_lettered, account.acked, account.closes) == (1, 1, 1, True)


def test_full_dead_letters_stop_dispatch() -> None:
    """Nothing is dropped for lack of room; dropping a dead letter opens the queue again."""
    end = producer()
    end.dead.bytes_max = EACH
    end.accept(bodies(2), 0)
    dispatch(end, messages=1)
    end.nacked("a:1", Nack(1, 2, 1, REJECTED), 0.0)
    assert end.dead_letters_full
    assert dispatch(end) is None
    end.take_dead_letter("p:1:jobs/1")
    assert dispatch(end) == (2, 3)


def test_leaving_counts_what_is_left() -> None:
    """Waiting, delayed and in flight alike; the accounting still closes."""
    end = producer()
    end.accept(bodies(3), 0)
    dispatch(end, messages=1)
    end.nacked("a:1", Nack(1, 2, 1, LEASE, 5000), 0.0)
    dispatch(end, messages=1)
    end.leave()
    account = end.account()
    assert (account.left_at_close, account.waiting, account.in_flight, account.closes) == (3, 0, 0, True)
    end.check()


def test_accepting_what_the_policy_drops() -> None:
    """Dropped at once is accepted and dropped: its number is spent."""
    end = producer()
    end.accept_dropped(2)
    assert end.accept(bodies(1), 0) == 3
    assert (end.state(1), end.account().dropped) == ("dropped", 2)
    end.check()


def test_purge() -> None:
    """What waits, what was given back and what is delayed is dropped; what is in flight goes on, and room is free."""
    end = producer()
    end.accept(bodies(6), 0)
    dispatch(end, messages=3)
    end.nacked("a:1", Nack(1, 2, 1, FAILED, 60_000), 0.0)
    end.returned("a:1", 2, 3)
    held = end.held_bytes
    assert end.purge() == 5
    end.check()
    account = end.account()
    assert (account.dropped, account.waiting, account.in_flight, account.closes) == (5, 0, 1, True)
    assert [end.state(n) for n in range(1, 7)] == ["dropped", "dropped", "in flight", "dropped", "dropped", "dropped"]
    assert end.held_bytes == held // 6
    end.expire(60.0)
    assert dispatch(end) is None
    end.acked("a:1", 3, 4)
    assert end.unsettled_count == 0
    assert end.purge() == 0
    end.accept(bodies(1), 0)
    assert dispatch(end) == (7, 8)
