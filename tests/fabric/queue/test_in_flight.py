"""Who has which messages, and how many of those that were held at deaths."""

from __future__ import annotations

from random import Random

import pytest

from peerfabric.queue.runs import DEATHS_TO_ISOLATE, ISOLATION, MESSAGE_OVERHEAD, InFlight, Run
from peerfabric.ranges import Ranges
from tests.fabric.helpers import run_of

EACH = 4 + MESSAGE_OVERHEAD


def died(run: Run, deaths: int) -> Run:
    run.deaths = deaths
    return run


def spans(runs: list[Run]) -> list[tuple[int, int]]:
    return [(run.first, run.stop) for run in runs]


def two_holders() -> InFlight:
    """`a` has 1 to 4 and 9 to 10, `b` has 5 to 8."""
    holders = InFlight()
    for holder, run in (("a", run_of(1, 4)), ("b", run_of(5, 4)), ("a", run_of(9, 2))):
        holders.add(holder, run)
        holders.check()
    return holders


def test_who_has_what() -> None:
    """Counted for each and for all; each number is at one of them, or at nobody."""
    holders = two_holders()
    assert (holders.count, holders.counts()) == (10, [("a", 6), ("b", 4)])
    assert (holders.ranges("a"), holders.ranges("b")) == (Ranges([(1, 5), (9, 11)]), Ranges([(5, 9)]))
    assert [(name, spans(list(runs))) for name, runs in holders.places()] == [
        ("a", [(1, 5), (9, 11)]),
        ("b", [(5, 9)]),
    ]
    assert [number for number in range(13) if holders.have(number)] == list(range(1, 11))


def test_a_stranger_has_nothing() -> None:
    """To ask for it, or to take from it, is no error and makes it no holder."""
    holders = two_holders()
    assert ("c" in holders, list(holders.runs("c")), holders.ranges("c")) == (False, [], Ranges())
    assert (holders.take("c", 1, 11), holders.take_all("c"), holders.take_missing("c", Ranges())) == ([], [], [])
    assert [name for name, _ in holders.counts()] == ["a", "b"]
    holders.check()


def test_taking_cuts_at_the_edges() -> None:
    """Only from that holder, and only what was asked for."""
    holders = two_holders()
    assert spans(holders.take("a", 3, 10)) == [(3, 5), (9, 10)]
    assert (holders.ranges("a"), holders.ranges("b")) == (Ranges([(1, 3), (10, 11)]), Ranges([(5, 9)]))
    holders.check()


@pytest.mark.parametrize("how", ["take", "all", "missing"])
def test_whoever_has_nothing_left_is_no_holder(how: str) -> None:
    """The same as one who never had anything: the next message may be of any size, or an isolated one."""
    holders = two_holders()
    match how:
        case "take":
            taken = holders.take("b", 5, 9)
        case "all":
            taken = holders.take_all("b")
        case _:
            taken = holders.take_missing("b", Ranges())
    assert (spans(taken), "b" in holders, holders.counts()) == ([(5, 9)], False, [("a", 6)])
    holders.check()


def test_what_a_holder_does_not_name_is_missing() -> None:
    """The rest stays with it; what it names and we did not send it changes nothing."""
    holders = two_holders()
    assert spans(holders.take_missing("a", Ranges([(0, 2), (3, 7), (10, 20)]))) == [(2, 3), (9, 10)]
    assert (holders.ranges("a"), holders.ranges("b")) == (Ranges([(1, 2), (3, 5), (10, 11)]), Ranges([(5, 9)]))
    holders.check()


def test_clearing_tells_what_it_cost() -> None:
    """Of all holders."""
    holders = two_holders()
    assert (holders.clear(), holders.count, holders.counts()) == (10 * EACH, 0, [])
    holders.check()


def test_messages_without_deaths_have_room() -> None:
    """However many there are: credit limits these, not isolation."""
    holders = two_holders()
    assert holders.room("a", 0) > 2**50


@pytest.mark.parametrize(("deaths", "most"), [(1, 4096), (2, 64)])
def test_isolation(deaths: int, most: int) -> None:
    """So many of its kind one holder has at most; those of other deaths and at other holders do not count."""
    holders = InFlight()
    holders.add("a", died(run_of(1, 10), deaths))
    holders.add("a", died(run_of(11, 3), 3 - deaths))
    holders.add("a", run_of(20, 100))
    assert [holders.room(holder, deaths) for holder in ("a", "b")] == [most - 10, most]
    holders.add("a", died(run_of(1000, most - 10), deaths))
    assert holders.room("a", deaths) == 0
    assert [*ISOLATION] == [1, 2]


@pytest.mark.parametrize("deaths", [DEATHS_TO_ISOLATE, DEATHS_TO_ISOLATE + 4])
def test_an_isolated_message_has_room_only_at_who_has_nothing(deaths: int) -> None:
    """It must be alone there, so not even one without deaths may be in flight."""
    holders = InFlight()
    assert holders.room("a", deaths) == 1
    holders.add("a", run_of(1, 1))
    assert (holders.room("a", deaths), holders.room("b", deaths)) == (0, 1)


def test_an_isolated_message_in_company_is_a_bug() -> None:
    """Found by `check`: `room` should have kept it away."""
    holders = InFlight()
    holders.add("a", run_of(1, 1))
    holders.add("a", died(run_of(2, 1), DEATHS_TO_ISOLATE))
    with pytest.raises(AssertionError, match="not alone"):
        holders.check()


def test_a_message_that_a_holder_has_twice_is_a_bug() -> None:
    """Found by `check` in each holder's table."""
    holders = two_holders()
    holders.add("b", run_of(8, 1))
    with pytest.raises(AssertionError, match="overlap"):
        holders.check()


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_a_table(seed: int) -> None:
    """Whatever is sent, taken and missed: as if the holder of each message were noted by itself."""
    random, holders = Random(seed), InFlight()
    table: dict[int, str] = {}
    following = 1
    for _ in range(150):
        holder = random.choice("abc")
        start = random.randrange(max(1, following - 40), following + 5)
        stop = start + random.randrange(1, 12)
        match random.randrange(6):
            case 0 | 1 | 2:
                count = random.randrange(1, 6)
                holders.add(holder, run_of(following, count))
                table |= dict.fromkeys(range(following, following + count), holder)
                following += count + random.randrange(2)
                expected = None
            case 3:
                expected = [n for n in range(start, stop) if table.get(n) == holder]
                taken = holders.take(holder, start, stop)
            case 4:
                held = Ranges((a, a + random.randrange(9)) for a in range(0, following, 7))
                expected = [n for n in sorted(table) if table[n] == holder and n not in held]
                taken = holders.take_missing(holder, held)
            case _:
                expected = [n for n in sorted(table) if table[n] == holder]
                taken = holders.take_all(holder)
        if expected is not None:
            assert [n for run in taken for n in range(run.first, run.stop)] == expected
            for number in expected:
                del table[number]
        holders.check()
        assert holders.count == len(table)
        assert sorted(holders.counts()) == [(h, n) for h in "abc" if (n := [*table.values()].count(h))]
        assert all(holders.have(number) == (number in table) for number in range(following))
    assert holders.clear() == len(table) * EACH
