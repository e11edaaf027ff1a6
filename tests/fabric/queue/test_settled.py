"""Settled messages, and the number below which all are."""

from __future__ import annotations

from math import inf
from random import Random
from typing import get_args

import pytest

from peerfabric.queue.settled import End, Settled
from peerfabric.ranges import Ranges

ENDS: tuple[End, ...] = get_args(End)


@pytest.mark.parametrize("how", ENDS)
def test_each_end_is_counted(how: End) -> None:
    """By messages; whatever it is, they are settled and no others."""
    settled = Settled()
    settled.settle(how, 2, 4)
    assert settled.counts == {name: 2 * (name == how) for name in ENDS}
    assert settled.numbers == Ranges([(2, 4)])
    assert [bool(settled.of(number)) for number in range(1, 5)] == [False, True, True, False]
    settled.check()


@pytest.mark.parametrize(("how", "text"), [("acked", "processed"), ("dead_lettered", "dead"), ("dropped", "dropped")])
def test_each_end_has_a_name(how: End, text: str) -> None:
    """Which receipts tell: of those messages and no others."""
    settled = Settled()
    settled.settle(how, 2, 4)
    assert [settled.of(number) for number in range(1, 5)] == ["", text, text, ""]


@pytest.mark.parametrize(("how", "word"), [("dead_lettered", "dead"), ("dropped", "dropped"), ("damaged", "damaged")])
def test_what_nobody_processed_is_not_called_so(how: End, word: str) -> None:
    """Else a call that waits for "processed" would return for a message that the disk has lost."""
    settled = Settled()
    settled.settle(how, 1, 2)
    assert settled.of(1) == word


def test_what_is_left_at_close_has_no_end() -> None:
    """Whoever waits for it must not take it for done; and the floor stays where it is."""
    settled = Settled()
    settled.settle("acked", 1, 2)
    settled.settle("acked", 4, 5)
    settled.delivered(2, 3)
    settled.leave(7)
    assert settled.left == Ranges([(2, 4), (5, 7)])
    assert [settled.of(number) for number in (1, 2, 3, 4)] == ["processed", "delivered", "", "processed"]
    assert settled.floor == 2
    settled.check()


def test_what_died_in_an_earlier_life_is_dead() -> None:
    """Its cursor had settled it, which alone would look like processed."""
    settled = Settled(Ranges([(1, 3)]))
    settled.dead_before(2, 3)
    assert [settled.of(number) for number in (1, 2)] == ["processed", "dead"]
    assert settled.counts["dead_lettered"] == 0


def test_delivered_until_it_is_settled() -> None:
    """A message that lies in a consumer's memory has no end yet; an echo that comes late changes none."""
    settled = Settled()
    settled.delivered(1, 3)
    assert [settled.of(number) for number in (1, 2, 3)] == ["delivered", "delivered", ""]
    settled.settle("acked", 1, 2)
    settled.delivered(1, 2)
    assert ([settled.of(number) for number in (1, 2)], settled.numbers) == (
        ["processed", "delivered"],
        Ranges([(1, 2)]),
    )
    assert settled.counts["acked"] == 1
    settled.check()


def test_what_is_settled_is_not_remembered_as_delivered() -> None:
    """Else each message of a long life that is acked out of order would leave a range behind."""
    settled = Settled()
    settled.delivered(1, 10)
    settled.settle("acked", 3, 5)
    assert settled.arrived == Ranges([(1, 3), (5, 10)])


def test_the_floor_is_the_lowest_that_is_not_settled() -> None:
    """It waits at a gap, and passes over all that was settled above once the gap is closed."""
    settled = Settled()
    assert settled.floor == 1
    settled.settle("acked", 3, 5)
    assert settled.floor == 1
    settled.settle("dropped", 1, 2)
    assert settled.floor == 2
    settled.settle("dead_lettered", 2, 3)
    assert settled.floor == 5
    settled.check()


def test_it_begins_with_what_the_disk_knows() -> None:
    """Settled before, or damaged, which is counted; the floor begins above them."""
    settled = Settled(Ranges([(1, 4), (6, 7)]), Ranges([(3, 4), (6, 7)]))
    assert (settled.floor, settled.counts["damaged"], settled.counts["acked"]) == (4, 2, 0)
    assert (settled.of(2), settled.of(3)) == ("processed", "damaged")
    settled.check()


def test_the_floor_stays_below_a_letter_that_is_not_stored() -> None:
    """Whoever takes what lies below the floor for processed would forget a message that has no letter either."""
    settled = Settled()
    settled.floor_max = 2
    settled.settle("dead_lettered", 2, 3)
    settled.settle("acked", 1, 2)
    settled.settle("acked", 3, 5)
    assert (settled.floor, settled.of(2)) == (2, "dead")
    settled.check()
    settled.floor_max = inf
    settled.raise_floor()
    assert settled.floor == 5
    settled.check()


def test_a_floor_that_falls_is_a_bug() -> None:
    """Others have forgotten what lies below; `check` remembers how high it was."""
    settled = Settled()
    settled.settle("acked", 1, 4)
    settled.check()
    settled.floor_max = 2
    settled.raise_floor()
    with pytest.raises(AssertionError, match="the floor fell"):
        settled.check()


@pytest.mark.parametrize("seed", range(10))
def test_settled_agrees_with_a_table(seed: int) -> None:
    """Results that come in any order, letters that are stored late: as if each message were noted by itself."""
    random, settled = Random(seed), Settled(Ranges([(2, 3)]))
    table: dict[int, End] = {2: "acked"}
    unstored, delivered = set[int](), set[int]()
    for _ in range(60):
        start = random.randrange(1, 30)
        numbers = range(start, start + random.randrange(1, 5))
        fresh = [number for number in numbers if number not in table]
        match random.randrange(4):
            case 0:
                settled.delivered(start, numbers.stop)
                delivered.update(numbers)
            case 1:
                unstored.update(fresh)
                settled.floor_max = min(unstored, default=inf)
                for number in fresh:
                    settled.settle("dead_lettered", number, number + 1)
                table |= dict.fromkeys(fresh, "dead_lettered")
            case 2:
                how = random.choice(ENDS)
                for number in fresh:
                    settled.settle(how, number, number + 1)
                table |= dict.fromkeys(fresh, how)
            case _ if unstored:
                unstored.difference_update(random.sample(sorted(unstored), random.randrange(1, len(unstored) + 1)))
                settled.floor_max = min(unstored, default=inf)
                settled.raise_floor()
        settled.check()
        assert settled.floor == min(n for n in range(1, 40) if n not in table or n in unstored)
        assert settled.counts == {how: [*table.values()].count(how) - (how == "acked") for how in ENDS}
        assert settled.numbers == Ranges((number, number + 1) for number in table)
        words = {"acked": "processed", "dead_lettered": "dead"}
        for number in range(1, 40):
            if number not in table:
                assert settled.of(number) == ("delivered" if number in delivered else "")
            else:
                assert settled.of(number) == words.get(table[number], table[number])
