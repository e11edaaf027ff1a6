"""What became of messages, and the number below which all are settled."""

from __future__ import annotations

from random import Random
from typing import get_args

import pytest

from peerfabric.queue.durable import Backlog, Recovered
from peerfabric.queue.marks import Marks
from peerfabric.queue.settled import Fate, Settled
from peerfabric.ranges import Ranges
from peerfabric.reports import DeadLetter

FATES: tuple[Fate, ...] = get_args(Fate)
OLD, NOW = "n:1:jobs", "n:2:jobs"


def spool(
    *, settled: list[tuple[str, int, int]] | None = None, damaged: list[tuple[str, int, int]] | None = None
) -> Backlog:
    """The disk of a queue whose last life left ten messages."""
    return Recovered([(OLD, 1, 11)], settled or [], damaged or [], Marks(), died=False).begin(NOW, 2**20, 0.0)[1]


def dead(number: int) -> DeadLetter:
    return DeadLetter(
        id=f"{OLD}/{number}",
        queue="jobs",
        reason="lease",
        error="",
        attempts=1,
        deaths=0,
        data=b"",
        codec=0,
        sent_ms=0,
    )


@pytest.mark.parametrize("fate", FATES)
def test_each_fate_is_counted(fate: Fate) -> None:
    """By messages; whatever it is, they are settled and no others."""
    settled_messages = Settled(None)
    settled_messages.settle(fate, 2, 4)
    assert settled_messages.counts == {name: 2 * (name == fate) for name in FATES}
    assert settled_messages.settled == Ranges([(2, 4)])
    assert [bool(settled_messages.of(number)) for number in range(1, 5)] == [False, True, True, False]
    settled_messages.check()


@pytest.mark.parametrize(("fate", "text"), [("acked", "processed"), ("dead_lettered", "dead"), ("dropped", "dropped")])
def test_each_fate_has_a_name(fate: Fate, text: str) -> None:
    """Which receipts tell: of those messages and no others."""
    settled_messages = Settled(None)
    settled_messages.settle(fate, 2, 4)
    assert [settled_messages.of(number) for number in range(1, 5)] == ["", text, text, ""]


@pytest.mark.parametrize(("fate", "word"), [("dead_lettered", "dead"), ("dropped", "dropped"), ("damaged", "damaged")])
def test_what_nobody_processed_is_not_called_so(fate: Fate, word: str) -> None:
    """Else a call that waits for "processed" would return for a message that the disk has lost."""
    settled_messages = Settled(None)
    settled_messages.settle(fate, 1, 2)
    assert settled_messages.of(1) == word


def test_what_is_left_at_close_has_no_fate() -> None:
    """Whoever waits for it must not take it for done; and the floor stays where it is."""
    settled_messages = Settled(None)
    settled_messages.settle("acked", 1, 2)
    settled_messages.settle("acked", 4, 5)
    settled_messages.delivered(2, 3)
    settled_messages.leave(7)
    assert settled_messages.left == Ranges([(2, 4), (5, 7)])
    assert [settled_messages.of(number) for number in (1, 2, 3, 4)] == ["processed", "delivered", "", "processed"]
    assert settled_messages.floor == 2
    settled_messages.check()


def test_what_died_in_an_earlier_life_is_dead() -> None:
    """Its cursor had settled it, which alone would look like processed."""
    settled_messages = Settled(spool(settled=[(OLD, 1, 3)]))
    settled_messages.dead_before(2, 3)
    assert [settled_messages.of(number) for number in (1, 2)] == ["processed", "dead"]
    assert settled_messages.counts["dead_lettered"] == 0


def test_delivered_until_it_is_settled() -> None:
    """A message that lies in a consumer's memory has no fate yet; an echo that comes late changes none."""
    settled_messages = Settled(None)
    settled_messages.delivered(1, 3)
    assert [settled_messages.of(number) for number in (1, 2, 3)] == ["delivered", "delivered", ""]
    settled_messages.settle("acked", 1, 2)
    settled_messages.delivered(1, 2)
    assert ([settled_messages.of(number) for number in (1, 2)], settled_messages.settled) == (
        ["processed", "delivered"],
        Ranges([(1, 2)]),
    )
    assert settled_messages.counts["acked"] == 1
    settled_messages.check()


def test_what_is_settled_is_not_remembered_as_delivered() -> None:
    """Else each message of a long life that is acked out of order would leave a range behind."""
    settled_messages = Settled(None)
    settled_messages.delivered(1, 10)
    settled_messages.settle("acked", 3, 5)
    assert settled_messages._delivered == Ranges([(1, 3), (5, 10)])


def test_the_floor_is_the_lowest_that_is_not_settled() -> None:
    """It waits at a gap, and passes over all that was settled above once the gap is closed."""
    settled_messages = Settled(None)
    assert settled_messages.floor == 1
    settled_messages.settle("acked", 3, 5)
    assert settled_messages.floor == 1
    settled_messages.settle("dropped", 1, 2)
    assert settled_messages.floor == 2
    settled_messages.settle("dead_lettered", 2, 3)
    assert settled_messages.floor == 5
    settled_messages.check()


def test_only_what_is_missing_is_settled() -> None:
    """What had a fate keeps it and is not counted twice; returned is the rest."""
    settled_messages = Settled(None)
    settled_messages.settle("dead_lettered", 2, 3)
    settled_messages.settle("acked", 5, 9)
    assert settled_messages.settle_missing("damaged", 1, 7) == [(1, 2), (3, 5)]
    assert settled_messages.settle_missing("acked", 1, 9) == []
    assert (
        settled_messages.counts["damaged"],
        settled_messages.counts["acked"],
        settled_messages.of(2),
        settled_messages.floor,
    ) == (3, 4, "dead", 9)
    settled_messages.check()


def test_it_begins_with_what_the_disk_knows() -> None:
    """Settled before, or damaged, which is counted; the floor begins above them."""
    backlog = spool(settled=[(OLD, 1, 3)], damaged=[(OLD, 3, 4), (OLD, 6, 7)])
    settled_messages = Settled(backlog)
    assert (settled_messages.floor, settled_messages.counts["damaged"], settled_messages.counts["acked"]) == (4, 2, 0)
    assert (settled_messages.settled, settled_messages.of(2), settled_messages.of(3)) == (
        Ranges([(1, 4), (6, 7)]),
        "processed",
        "damaged",
    )
    settled_messages.check()


def test_the_disk_is_told_unless_it_shall_keep_the_messages() -> None:
    """What is dead, until its letter is stored; what is left at close is for the next life."""
    backlog = spool()
    settled_messages = Settled(backlog)
    settled_messages.settle("acked", 1, 3)
    settled_messages.settle("dead_lettered", 3, 4, stored=False)
    settled_messages.settle_missing("damaged", 3, 6)
    settled_messages.leave(8)
    assert backlog.take_settled() == [(1, 3), (4, 6)]
    assert settled_messages.floor == 6
    settled_messages.check()


def test_the_floor_stays_below_a_letter_that_is_not_stored() -> None:
    """Whoever takes what lies below the floor for processed would forget a message that has no letter either."""
    backlog = spool()
    settled_messages = Settled(backlog)
    backlog.bury(2, dead(2))
    settled_messages.settle("dead_lettered", 2, 3, stored=False)
    settled_messages.settle("acked", 1, 2)
    settled_messages.settle("acked", 3, 5)
    assert (settled_messages.floor, settled_messages.of(2)) == (2, "dead")
    settled_messages.check()
    backlog.buried([2])
    settled_messages.raise_floor()
    assert settled_messages.floor == 5
    settled_messages.check()


def test_a_floor_that_falls_is_a_bug() -> None:
    """Others have forgotten what lies below; `check` remembers how high it was."""
    backlog = spool()
    settled_messages = Settled(backlog)
    settled_messages.settle("acked", 1, 4)
    settled_messages.check()
    backlog.bury(2, dead(2))
    settled_messages.raise_floor()
    with pytest.raises(AssertionError, match="the floor fell"):
        settled_messages.check()


def test_a_cursor_above_the_floor_is_a_bug() -> None:
    """The disk cannot know more than we do."""
    backlog = spool()
    settled_messages = Settled(backlog)
    backlog.floor = 2
    with pytest.raises(AssertionError, match="could fall"):
        settled_messages.check()


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_a_table(seed: int) -> None:
    """Results that come in any order, letters that are stored late: as if each message were noted by itself."""
    random, backlog = Random(seed), spool(settled=[(OLD, 2, 3)])
    settled_messages = Settled(backlog)
    table: dict[int, Fate] = {2: "acked"}
    told, unstored, delivered = set[int](), set[int](), set[int]()
    for _ in range(60):
        start = random.randrange(1, 30)
        numbers = range(start, start + random.randrange(1, 5))
        fresh = [number for number in numbers if number not in table]
        match random.randrange(4):
            case 0:
                settled_messages.delivered(start, numbers.stop)
                delivered.update(numbers)
            case 1:
                for number in fresh:
                    backlog.bury(number, dead(number))
                    settled_messages.settle("dead_lettered", number, number + 1, stored=False)
                table |= dict.fromkeys(fresh, "dead_lettered")
                unstored.update(fresh)
            case 2:
                fate = random.choice(FATES)
                settled_messages.settle_missing(fate, start, numbers.stop)
                table |= dict.fromkeys(fresh, fate)
                told.update(fresh)
            case _ if unstored:
                stored = random.sample(sorted(unstored), random.randrange(1, len(unstored) + 1))
                backlog.buried(stored)
                settled_messages.raise_floor()
                unstored.difference_update(stored)
                told.update(stored)
        settled_messages.check()
        assert settled_messages.floor == min(n for n in range(1, 40) if n not in table or n in unstored)
        assert settled_messages.counts == {fate: [*table.values()].count(fate) - (fate == "acked") for fate in FATES}
        assert settled_messages.settled == Ranges((number, number + 1) for number in table)
        words = {"acked": "processed", "dead_lettered": "dead", "dropped": "dropped", "damaged": "damaged"}
        for number in range(1, 40):
            if number not in table:
                assert settled_messages.of(number) == ("delivered" if number in delivered else "")
            else:
                assert settled_messages.of(number) == words[table[number]]
    assert {n for a, b in backlog.take_settled() for n in range(a, b)} == told
