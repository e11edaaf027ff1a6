"""Durable queue: recovering, reading back, telling the disk."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from peerfabric.queue.backlog import REUNION
from peerfabric.queue.durable import DurableQueue, Recovered
from peerfabric.queue.marks import Mark, Marks, News, pack_marks
from peerfabric.queue.runs import MESSAGE_OVERHEAD
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import LEASE, RAW, REFUSED, REJECTED, Extra, Nack
from tests.fabric.helpers import bodies, dispatch

EACH = 4 + MESSAGE_OVERHEAD
NOW = "n:3:jobs"
OLD = "n:1:jobs"


def spooled(
    *,
    memory: int = 2**20,
    eras: list[tuple[str, int, int]] | None = None,
    settled: list[tuple[str, int, int]] | None = None,
    damaged: list[tuple[str, int, int]] | None = None,
    marks: Marks | None = None,
    died: bool = False,
    waited: bool = True,
) -> DurableQueue:
    """A queue that goes on with what is on disk; it has `waited` for consumers to say what they have."""
    recovered = Recovered(eras or [], settled or [], damaged or [], marks or Marks(), died=died)
    numbering, backlog = recovered.begin(NOW, memory, 0.0)
    end = DurableQueue("jobs", NOW, RAW, 2**20, 5, Random(1), numbering, backlog)
    consume(end, "a:1", "a")
    if waited:
        end.expire(REUNION)
    end.check()
    return end


def consume(end: DurableQueue, peer: str, node_id: str) -> None:
    """`peer` consumes; if it is this node, the cursor says so."""
    end.set_consumer(peer, node_id, consumes=True)
    changed, states_changed = end.backlog.changed, end.backlog.states_changed
    end.backlog.cursor_stored(end.safe_floor, end.take_news())
    end.backlog.changed, end.backlog.states_changed = changed, states_changed


def documents(count: int) -> list[bytes]:
    return [msgspec.msgpack.encode(body) for body in bodies(count)]


def load(end: DurableQueue, stream: str, first: int, count: int) -> None:
    end.loaded(stream, first, documents(count), 7, {})
    end.check()


def settled_names(end: DurableQueue) -> list[tuple[str, int, int]]:
    return [name for a, b in end.backlog.take_settled() for name in end.numbering.names(a, b)]


def test_what_was_recovered_is_sent_first_under_its_old_name() -> None:
    """In order; what was acked before is not sent, and the accounting closes."""
    end = spooled(eras=[(OLD, 3, 7)], settled=[(OLD, 4, 5)])
    assert end.load_bytes() > 0
    end.accept(bodies(2), 0)
    account = end.account()
    assert (account.recovered, account.accepted, account.on_disk, account.closes) == (3, 2, 5, True)
    load(end, OLD, 3, 4)
    load(end, NOW, 1, 2)
    sent = []
    while (got := dispatch(end)) is not None:
        sent += list(end.numbering.names(*got))
    assert sent == [(OLD, 3, 4), (OLD, 5, 7), (NOW, 1, 3)]
    end.acked("a:1", 1, end.next)
    assert settled_names(end) == [(OLD, 3, 4), (OLD, 5, 7), (NOW, 1, 3)]
    assert (end.account().acked, end.account().closes, end.floor) == (5, True, end.next)


def test_memory_is_bounded() -> None:
    """What it has no room for stays on disk only, and what comes later queues behind it."""
    end = spooled(memory=3 * EACH)
    end.accept(bodies(3), 0)
    end.accept(bodies(2), 0)
    end.accept(bodies(1), 0)
    end.check()
    assert (end.account().waiting, end.account().on_disk, end.load_bytes()) == (3, 3, 0)
    dispatch(end)
    end.acked("a:1", 1, 4)
    assert end.load_bytes() == 3 * EACH
    load(end, NOW, 4, 2)
    load(end, NOW, 6, 1)
    end.accept(bodies(1), 0)
    end.check()
    assert (end.account().waiting, end.account().on_disk, end.account().closes) == (3, 1, True)


def test_what_cannot_be_read_is_damaged() -> None:
    """A gap between records, and an end that comes too early; it is counted and told, and nothing waits for it."""
    end = spooled(eras=[(OLD, 1, 10)])
    load(end, OLD, 1, 2)
    load(end, OLD, 5, 2)
    end.lose(end.next)
    end.check()
    assert (end.account().damaged, end.account().waiting, end.account().closes) == (5, 4, True)
    assert settled_names(end) == [(OLD, 3, 5), (OLD, 7, 10)]


def test_damage_that_was_found_at_the_start() -> None:
    """It counts as recovered and damaged."""
    end = spooled(eras=[(OLD, 1, 4)], damaged=[(OLD, 2, 3)])
    assert (end.account().recovered, end.account().damaged, end.account().on_disk) == (3, 1, 2)
    load(end, OLD, 1, 1)
    load(end, OLD, 3, 1)
    assert (end.account().damaged, end.account().closes) == (1, True)


def test_a_letter_is_stored_before_its_message_is_settled() -> None:
    """Until then the message itself is all that is left of it, and the floor stays below it."""
    end = spooled()
    end.accept(bodies(2), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, REJECTED), 0.0)
    end.acked("a:1", 2, 3)
    end.check()
    [(number, letter)] = end.backlog.take_dead_letters()
    assert (number, letter.id, settled_names(end), end.floor) == (1, f"{NOW}/1", [(NOW, 2, 3)], 1)
    end.dead_letters_stored([number])
    end.check()
    assert (settled_names(end), end.floor) == ([(NOW, 1, 2)], 3)


def test_attempts_and_deaths_are_kept() -> None:
    """A message that failed twice, and one that was there when a consumer died, do not begin again at 1."""
    end = spooled()
    consume(end, "b:1", "b")
    end.accept(bodies(3), 0)
    dispatch(end, "a:1", messages=1)
    end.nacked("a:1", Nack(1, 2, 1, LEASE, 0), 0.0)
    dispatch(end, "b:1", messages=2)
    dispatch(end, "b:1", messages=1)
    end.gone("b:1", 0.0, died=True)
    marks = msgspec.msgpack.decode(msgspec.msgpack.encode(end.marks()), type=Marks)
    assert sorted(marks.marks, key=lambda m: m.start) == [Mark(NOW, 1, 2, 2, 1), Mark(NOW, 2, 3, 1, 1)]
    later = spooled(eras=[(NOW.replace("3", "2"), 1, 4)], marks=Marks([Mark("n:2:jobs", 1, 2, 2, 1)]))
    load(later, "n:2:jobs", 1, 3)
    run = later.pick("a:1", 10, 2**30, 2**30)
    assert run is not None
    assert (run.first, run.stop, run.attempt, run.deaths) == (1, 2, 2, 1)


def test_recovered_messages_wait_for_those_who_may_have_them() -> None:
    """A consumer settles what it did and keeps what it has; the rest goes to somebody after 1 s."""
    end = spooled(eras=[(OLD, 1, 5)], waited=False)
    load(end, OLD, 1, 4)
    assert (dispatch(end), end.waiting_count, end.account().waiting, end.deadline()) == (None, 0, 4, REUNION)
    end.acked("a:1", 1, 2)
    assert not end.reconcile("a:1", Ranges([(2, 3)]))
    end.expire(REUNION - 0.01)
    assert dispatch(end) is None, "others may come"
    end.expire(REUNION)
    end.check()
    assert (end.account().acked, end.account().in_flight, dispatch(end)) == (1, 1, (3, 5))
    end.acked("a:1", 2, 3)
    assert end.account().closes


@pytest.mark.parametrize("damaged", [[], [(OLD, 1, 5)]])
def test_nothing_is_waited_for_without_recovered_messages(damaged: list[tuple[str, int, int]]) -> None:
    """What is sent in this life leaves at once."""
    end = spooled(eras=damaged, damaged=damaged, waited=False)
    assert end.deadline() is None


def test_a_refusal_while_others_are_waited_for() -> None:
    """It gives up nothing, as they may take the message; and fewer than none never wait."""
    end = spooled(eras=[(OLD, 1, 5)], waited=False)
    load(end, OLD, 1, 4)
    assert not end.reconcile("a:1", Ranges([(1, 3)]))
    end.nacked("a:1", Nack(1, 3, 1, REFUSED), 0.0)
    end.check()
    assert (end.waiting_for("a:1"), end.state(1)) == (0, "waiting")
    end.expire(1.0)
    assert (end.waiting_for("a:1"), dispatch(end)) == (2, (3, 5))
    end.expire(2.0)
    assert end.state(1) == "waiting"
    end.expire(10.0)
    end.expire(15.0)
    assert [end.state(number) for number in (1, 2)] == ["dead", "dead"]


def test_what_is_held_and_not_read_yet() -> None:
    """It is in flight at its peer once it is read; what was done there is never read into memory."""
    end = spooled(eras=[(OLD, 1, 7)])
    end.acked("a:1", 1, 3)
    assert not end.reconcile("a:1", Ranges([(3, 5)]))
    load(end, OLD, 1, 6)
    assert (end.held_by("a:1"), end.account().acked, end.account().waiting) == (2, 2, 2)
    assert end.account().closes


def test_what_is_held_no_more_when_it_is_read() -> None:
    """A second link says so: it waits, as there is nobody who would ever tell what became of it."""
    end = spooled(eras=[(OLD, 1, 5)])
    for held in (Ranges([(2, 4)]), Ranges()):
        assert not end.reconcile("a:1", held)
    load(end, OLD, 1, 4)
    assert (end.held_by("a:1"), dispatch(end)) == (0, (1, 5))


def test_what_is_settled_and_held_is_not_taken_for_held() -> None:
    """It is released; the isolated message that is there besides is alone."""
    mark = Mark(OLD, 2, 3, 1, 3)
    end = spooled(eras=[(OLD, 1, 4)], settled=[(OLD, 1, 2)], marks=Marks([mark]))
    load(end, OLD, 1, 3)
    assert list(end.reconcile("a:1", Ranges([(1, 3)]))) == [(1, 2)]
    end.check()
    assert end.marks().marks == [mark]


def test_a_retried_letter_of_an_earlier_life() -> None:
    """It has a new name of this life, and its old one as origin."""
    end = spooled()
    end.accept(bodies(1), 5, {0: Extra(0, {"k": "v"})})
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, REJECTED), 0.0)
    [letter] = end.letters()
    later = spooled()
    later.restore_dead_letter(letter)
    taken = later.take_dead_letter(letter.id)
    assert taken == letter
    later.retry(taken)
    later.check()
    run = later.pick("a:1", 1, 2**30, 2**30)
    assert run is not None
    assert (run.first, run.extras) == (1, {1: Extra(0, {"k": "v"}, f"{NOW}/1")})


def test_others_are_told_the_floor_of_the_cursor_on_disk() -> None:
    """What they forget below it must not come again, whatever happens to this process."""
    end = spooled(eras=[(OLD, 1, 4)], settled=[(OLD, 1, 2)])
    assert (end.floor, end.safe_floor) == (2, 2)
    end.acked("a:1", 2, 3)
    assert (end.floor, end.safe_floor) == (3, 2)
    end.backlog.floor = end.floor
    end.check()
    assert (end.safe_floor, end.numbering.floor(OLD, end.safe_floor)) == (3, 3)


def test_a_letter_that_was_stored_before_its_cursor() -> None:
    """Its message is dead already, and not sent again; what is stored twice counts once."""
    end = spooled()
    end.accept(bodies(1), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, REJECTED), 0.0)
    [letter] = end.letters()
    begun = Recovered([(NOW, 1, 2)], [], [], Marks()).begin("n:4:jobs", 2**20, 0.0)
    later = DurableQueue("jobs", "n:4:jobs", RAW, 2**20, 5, Random(1), *begun)
    later.restore_dead_letter(letter)
    later.restore_dead_letter(letter)
    later.check()
    assert (later.account().recovered, later.account().dead_lettered, later.account().on_disk) == (1, 1, 0)
    assert (later.letters(), later.account().closes) == ([letter], True)


def test_what_is_stored_and_not_accepted_yet() -> None:
    """The disk may show it before the engine has it: it is not taken, and read once more later."""
    end = spooled(memory=3 * EACH)
    end.accept(bodies(3), 0)
    end.accept(bodies(1), 0)
    dispatch(end)
    end.acked("a:1", 1, 4)
    assert end.loaded(NOW, 4, documents(1), 0, {})
    assert not end.loaded(NOW, 5, documents(1), 0, {})
    end.check()
    end.accept(bodies(1), 0)
    end.check()
    assert (end.account().waiting, end.account().on_disk, end.account().closes) == (2, 0, True)


def test_who_returns_after_the_reunion_keeps_what_it_holds() -> None:
    """Unless somebody else has it by now; and what it then says of attempts is news."""
    end = spooled(eras=[(OLD, 1, 4)])
    load(end, OLD, 1, 3)
    dispatch(end, messages=1)
    assert end.reconcile("b:1", Ranges([(1, 3)])) == Ranges([(1, 2)])
    end.check()
    assert (end.held_by("a:1"), end.held_by("b:1"), end.account().waiting) == (1, 1, 1)
    end.nacked("b:1", Nack(2, 3, 4, LEASE), 0.0)
    end.nacked("a:1", Nack(1, 2, 2**31, LEASE), 0.0)
    end.check()
    assert [letter.attempts for letter in end.letters()] == [5]
    assert [(mark.start, mark.stop, mark.attempt) for mark in end.marks().marks] == [(1, 3, 5)]


def test_a_letter_that_is_not_stored_yet_has_marks() -> None:
    """Should the process die now, its message is all there is, and does not begin again at 1."""
    end = spooled()
    end.accept(bodies(1), 0)
    dispatch(end)
    end.nacked("a:1", Nack(1, 2, 1, REJECTED), 0.0)
    assert end.marks().marks == [Mark(NOW, 1, 2, 1, 0)]
    end.dead_letters_stored([number for number, _ in end.backlog.take_dead_letters()])
    assert end.marks().marks == []


def test_what_is_nacked_before_it_was_read() -> None:
    """A consumer of the last life gives it back: it goes to somebody once it is here."""
    end = spooled(eras=[(OLD, 1, 3)])
    assert not end.reconcile("a:1", Ranges([(1, 3)]))
    end.nacked("a:1", Nack(1, 2, 1, REJECTED), 0.0)
    load(end, OLD, 1, 2)
    assert (end.held_by("a:1"), end.account().waiting) == (1, 1)


def test_neighbours_have_one_mark() -> None:
    """Runs that were cut apart and fared alike are one entry of the cursor again; an era ends it."""
    end = spooled(eras=[(OLD, 1, 3)])
    end.accept(bodies(4), 0)
    load(end, OLD, 1, 2)
    load(end, NOW, 1, 4)
    while dispatch(end, messages=1) is not None:
        pass
    for number in range(1, 7):
        end.nacked("a:1", Nack(number, number + 1, 1, LEASE, 0), 0.0)
    assert end.marks().marks == [Mark(OLD, 1, 3, 2, 0), Mark(NOW, 1, 5, 2, 0)]


def test_states_are_taken_only_when_they_have_changed() -> None:
    """An ack changes none; a nack, a dead letter and the end do."""
    end = spooled()
    end.accept(bodies(4), 0)
    dispatch(end)
    assert end.take_news() == News([], max_attempts=5)
    end.acked("a:1", 1, 2)
    assert end.take_news() == News(max_attempts=5)
    end.nacked("a:1", Nack(2, 3, 1, LEASE, 0), 0.0)
    assert end.take_news() == News([(2, 3, 2, 0)], max_attempts=5)
    end.nacked("a:1", Nack(3, 4, 1, REJECTED), 0.0)
    assert end.take_news() == News([(2, 3, 2, 0), (3, 4, 1, 0)], max_attempts=5)
    end.leave()
    assert end.take_news() == News([(2, 3, 2, 0), (3, 4, 1, 0)], max_attempts=5)


def test_marks_beyond_the_limit() -> None:
    """Those with most deaths and attempts stay, the oldest first; the others begin again at 1."""
    marks = [Mark(NOW, n, n + 1, 2 + n % 3, {70: 1, 90: 4}.get(n, 0)) for n in range(1, 100)]
    each = len(msgspec.msgpack.encode(marks[0]))
    packed = pack_marks(marks, 5 + 5 * each)
    assert len(packed) <= 5 + 5 * each
    kept = msgspec.msgpack.decode(packed, type=list[Mark])
    assert [mark.start for mark in kept] == [90, 70, 2, 5, 8]
    assert msgspec.msgpack.decode(pack_marks(marks), type=list[Mark]) == marks


OURSELVES = "n:3"


def takes_itself(end: DurableQueue) -> None:
    """The node consumes its own queue, and the cursor says so."""
    consume(end, OURSELVES, "n")
    end.reconcile(OURSELVES, Ranges())


def test_a_death_of_its_own_queue_counts_for_what_the_node_may_have_held() -> None:
    """The lowest ones, as many as a consumer may hold with so many deaths; isolated, settled and new ones not."""
    marks = [Mark(OLD, 1, 2, 2, 3), Mark(OLD, 2, 100, 1, 2), Mark(OLD, 101, 200, 3, 1)]
    end = spooled(eras=[(OLD, 1, 9001)], settled=[(OLD, 3, 5)], marks=Marks(marks, True), died=True)
    assert end.backlog.changed
    assert end.marks().marks == [
        Mark(OLD, 1, 2, 2, 3),
        Mark(OLD, 2, 3, 1, 3),
        Mark(OLD, 5, 68, 1, 3),
        Mark(OLD, 68, 100, 1, 2),
        Mark(OLD, 100, 101, 1, 1),
        Mark(OLD, 101, 200, 3, 2),
        Mark(OLD, 200, 4295, 1, 1),
    ]
    end.accept(bodies(2), 0)
    load(end, OLD, 1, 9000)
    load(end, NOW, 1, 2)
    takes_itself(end)
    assert dispatch(end, OURSELVES, 1) is None
    end.backlog.cursor_stored(1, end.take_news())
    assert dispatch(end, OURSELVES, 1) == (1, 2)


@pytest.mark.parametrize(("taking", "died"), [(False, True), (True, False)])
def test_a_death_that_is_not_of_its_own_queue(taking: bool, died: bool) -> None:
    """Nobody took, or it closed in order: no death is counted."""
    end = spooled(eras=[(OLD, 1, 10)], marks=Marks([], taking), died=died)
    assert not end.marks().marks


def test_its_own_node_is_given_something_once_the_cursor_says_so() -> None:
    """Each time that it begins to take: its next life must know what this one died of. Others never wait for that."""
    end = spooled()
    end.accept(bodies(4), 0)
    end.set_consumer(OURSELVES, "n", consumes=True)
    assert (dispatch(end, OURSELVES, 1), dispatch(end, "a:1", 1), end.awaits_cursor) == (None, (1, 2), True)
    end.backlog.cursor_stored(1, end.take_news())
    assert (dispatch(end, OURSELVES, 1), end.awaits_cursor) == ((2, 3), False)
    end.backlog.take_settled()
    end.set_consumer(OURSELVES, "n", consumes=False)
    assert end.backlog.changed
    assert not end.marks().taking
    before = end.take_news()
    end.set_consumer(OURSELVES, "n", consumes=True)
    end.backlog.cursor_stored(1, before)
    assert (dispatch(end, OURSELVES, 1), end.awaits_cursor) == (None, True)
    end.set_consumer("b:1", "b", consumes=True)
    assert (dispatch(end, "b:1", 1), end.backlog.changed) == ((3, 4), True)


@pytest.mark.parametrize("undo", ["nack", "return", "lost with its link", "leave", "ack", ""])
def test_an_isolated_message_of_its_own_is_on_disk_before_it_runs(undo: str) -> None:
    """Should the node die, that was with it in hand, and with nothing else of the queue: no other counts a death."""
    isolated = [Mark(OLD, 1, 3, 2, 3)]
    end = spooled(eras=[(OLD, 1, 9)], marks=Marks(isolated))
    load(end, OLD, 1, 8)
    takes_itself(end)
    assert (dispatch(end, OURSELVES), end.awaits_cursor) == (None, True)
    end.backlog.cursor_stored(1, end.take_news())
    assert (dispatch(end, OURSELVES), end.awaits_cursor) == ((1, 2), False)
    assert end.backlog.changed
    assert end.take_news().running == (1, 2, 2, 3)
    end.backlog.take_settled()
    match undo:
        case "nack":
            end.nacked(OURSELVES, Nack(1, 2, 2, LEASE, 0), 0.0)
        case "return":
            end.returned(OURSELVES, 1, 2)
        case "lost with its link":
            end.reconcile(OURSELVES, Ranges())
        case "leave":
            end.leave()
        case "ack":
            end.acked(OURSELVES, 1, 2)
    assert end.backlog.changed == bool(undo)
    marks = end.marks()
    assert (marks.running is None) == bool(undo)
    if not undo:
        later = Recovered([(OLD, 1, 9)], [], [], marks, died=True)
        _, backlog = later.begin("n:4:jobs", 2**20, 0.0)
        assert backlog.kept_states() == [(1, 2, 3, 4), (2, 3, 2, 3)]


def test_a_message_with_which_its_own_node_died_too_often_is_a_dead_letter_at_the_start() -> None:
    """With its letter to be stored, and without being run once more."""
    fatal = Mark(OLD, 1, 2, 5, 6)
    end = spooled(eras=[(OLD, 1, 3)], marks=Marks([fatal], True, fatal), died=True)
    load(end, OLD, 1, 2)
    [letter] = end.letters()
    assert (letter.id, letter.reason, letter.attempts, letter.deaths) == (f"{OLD}/1", "died with it", 5, 7)
    assert letter.error == "7 times a consumer died with it in hand, at last with no other message"
    account = end.account()
    assert (account.dead_lettered, account.waiting, account.closes) == (1, 1, True)
    assert [number for number, _ in end.backlog.take_dead_letters()] == [1]


def test_a_dead_letter_by_what_the_handle_asks_for() -> None:
    """Its options may come later than what was recovered."""
    end = spooled(eras=[(OLD, 1, 3)], marks=Marks([Mark(OLD, 1, 2, 4, 6)]))
    load(end, OLD, 1, 2)
    assert not end.letters()
    end.adopt_options(RAW, 3, 2**20)
    end.check()
    assert [letter.reason for letter in end.letters()] == ["died with it"]
    assert end.marks().max_attempts == 3


def test_what_a_living_consumer_holds_among_others_is_not_isolated() -> None:
    """The guess was wrong: it was not in our hands as we died. Alone it may be one."""
    marks = Marks([Mark(OLD, 1, 3, 1, 2), Mark(OLD, 3, 4, 1, 3)], True)
    end = spooled(eras=[(OLD, 1, 5)], marks=marks, died=True)
    load(end, OLD, 1, 4)
    end.reconcile("a:1", Ranges([(1, 3)]))
    end.reconcile("b:1", Ranges([(3, 4)]))
    end.check()
    assert end.marks().marks == [Mark(OLD, 1, 3, 1, 2), Mark(OLD, 3, 4, 1, 3), Mark(OLD, 4, 5, 1, 1)]


def test_what_has_run_in_the_last_life_is_known_once_it_is_read() -> None:
    """Its consumer says so before the disk has been read: should it die then, that is no fault of what has run."""
    end = spooled(eras=[(OLD, 1, 5)])
    assert not end.reconcile("a:1", Ranges([(1, 5)]))
    end.ran("a:1", 1, 3)
    end.ran("a:1", 4, 9)
    load(end, OLD, 1, 4)
    assert (end.account().in_flight, end.account().handed_on, end.backlog.ran) == (4, 3, {})
    end.gone("a:1", 1.0, died=True)
    assert sorted((run.first, run.stop, run.deaths) for run in end._runs()) == [(1, 3, 0), (3, 4, 1), (4, 5, 0)]
    end.check()


def test_purge_of_what_is_on_disk_only() -> None:
    """It is settled there, too, and nothing of it is read any more; what was accepted later is."""
    end = spooled(memory=2 * EACH, eras=[(OLD, 1, 5)])
    load(end, OLD, 1, 2)
    end.accept(bodies(3), 0)
    assert end.account().on_disk == 5
    assert end.purge() == 7
    end.check()
    account = end.account()
    assert (account.dropped, account.on_disk, account.waiting, account.closes) == (7, 0, 0, True)
    assert settled_names(end) == [(OLD, 1, 5), (NOW, 1, 4)]
    load(end, OLD, 3, 2)  # the disk's thread was just reading
    assert (end.account().damaged, end.account().waiting) == (0, 0)
    assert end.load_bytes() == 0
    end.accept(bodies(1), 0)
    assert dispatch(end) == (8, 9)


def test_purge_keeps_what_consumers_have() -> None:
    """Of an earlier life, and yet to be read: it is in flight there, and acked by them."""
    end = spooled(eras=[(OLD, 1, 7)])
    end.reconcile("a:1", Ranges([(3, 4), (5, 6)]))
    assert end.purge() == 4
    end.check()
    assert end.account().on_disk == 2
    load(end, OLD, 1, 6)
    assert [end.account().in_flight, end.account().waiting] == [2, 0]
    end.acked("a:1", 3, 4)
    end.acked("a:1", 5, 6)
    end.check()
    assert (end.unsettled_count, end.account().acked, end.account().dropped) == (0, 2, 4)


def test_purge_forgets_attempts() -> None:
    """The next cursor remembers nothing of what was dropped."""
    end = spooled(eras=[(OLD, 1, 4)], marks=Marks([Mark(OLD, 1, 4, 3, 0)]))
    end.take_news()
    end.purge()
    assert end.backlog.changed
    assert end.take_news().states == []
