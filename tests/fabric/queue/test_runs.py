"""Runs, tables of them, and those in flight by peer instance."""

from __future__ import annotations

from math import inf
from random import Random

import pytest

from peerfabric.queue.runs import (
    DEATHS_TO_ISOLATE,
    EXPIRIES_JOIN,
    ISOLATION,
    MESSAGE_OVERHEAD,
    InFlight,
    Kind,
    Run,
    Runs,
    joins,
)
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import Extra
from tests.fabric.helpers import run_of

EACH = 4 + MESSAGE_OVERHEAD


def test_a_cut_keeps_history_and_bytes() -> None:
    """Both parts remember what happened, and their costs add up."""
    run = run_of(10, 4)
    run.attempt, run.deaths, run.error, run.kind = 3, 2, "why", (9.5, 1)
    run.extras = {10: Extra(0, {"a": "b"}), 12: Extra(0, {"c": "d"})}
    before = run.cost
    rest = run.cut(12)
    assert (run.first, run.stop, rest.first, rest.stop) == (10, 12, 12, 14)
    assert (rest.attempt, rest.deaths, rest.error, rest.kind) == (3, 2, "why", (9.5, 1))
    assert run.like(10, run.bodies).kind == (9.5, 1)
    assert run.cost + rest.cost == before
    assert (list(run.extras or ()), list(rest.extras or ())) == ([10], [12])


@pytest.mark.parametrize(
    ("kind", "following", "together"),
    [
        (None, None, True),
        (None, (inf, 1), False),
        ((inf, 1), None, False),
        ((inf, 1), (inf, 1), True),
        ((inf, 1), (inf, 2), False),
        ((5.0, 0), (5.0, 0), True),
        ((5.0, 0), (5.0 + EXPIRIES_JOIN, 0), True),
        ((5.0, 0), (5.001 + EXPIRIES_JOIN, 0), False),
        ((5.0, 0), (4.999, 0), False),
        ((5.0, 0), (5.0, 1), False),
        ((5.0, 0), (inf, 0), False),
    ],
)
def test_what_may_share_a_run(kind: Kind | None, following: Kind | None, *, together: bool) -> None:
    """What is equally deep, and expires at the same time or a little later: so nothing expires too late."""
    assert joins(kind, following) is together


def test_take_cuts_at_the_edges() -> None:
    """Only what was asked for leaves; the counts follow."""
    table = Runs([run_of(1, 4), run_of(5, 4), run_of(20, 2)])
    taken = table.take(3, 7)
    assert [(run.first, run.stop) for run in taken] == [(3, 5), (5, 7)]
    assert [(run.first, run.stop) for run in table] == [(1, 3), (7, 9), (20, 22)]
    assert (table.count, table.cost) == (6, 6 * (4 + MESSAGE_OVERHEAD))
    table.check()


def test_order_is_by_sequence() -> None:
    """What comes back takes its old place."""
    table = Runs([run_of(5, 1), run_of(1, 1), run_of(3, 1)])
    assert [run.first for run in table] == [1, 3, 5]
    assert table.take(2, 3) == []
    assert [run.first for run in table.take_all()] == [1, 3, 5]
    assert (table.count, table.cost) == (0, 0)


def test_overlap_is_a_bug() -> None:
    """One sequence in two runs of a table is found by `check`."""
    table = Runs([run_of(1, 4), run_of(3, 4)])
    with pytest.raises(AssertionError):
        table.check()


# In flight


def died(run: Run, deaths: int) -> Run:
    run.deaths = deaths
    return run


def spans(runs: list[Run]) -> list[tuple[int, int]]:
    return [(run.first, run.stop) for run in runs]


def two_peers() -> InFlight:
    """`a` has 1 to 4 and 9 to 10, `b` has 5 to 8."""
    in_flight = InFlight()
    for peer, run in (("a", run_of(1, 4)), ("b", run_of(5, 4)), ("a", run_of(9, 2))):
        in_flight.add(peer, run)
        in_flight.check()
    return in_flight


def test_who_has_what() -> None:
    """Counted for each and for all; each number is at one of them, or at nobody."""
    in_flight = two_peers()
    assert (in_flight.count, in_flight.counts()) == (10, [("a", 6), ("b", 4)])
    assert (in_flight.ranges("a"), in_flight.ranges("b")) == (Ranges([(1, 5), (9, 11)]), Ranges([(5, 9)]))
    assert [(name, spans(list(runs))) for name, runs in in_flight.places()] == [
        ("a", [(1, 5), (9, 11)]),
        ("b", [(5, 9)]),
    ]
    assert [number for number in range(13) if in_flight.have(number)] == list(range(1, 11))


def test_a_stranger_has_nothing() -> None:
    """To ask for it, or to take from it, is no error and gives it no table."""
    in_flight = two_peers()
    assert ("c" in in_flight, list(in_flight.runs("c")), in_flight.ranges("c")) == (False, [], Ranges())
    assert (in_flight.take("c", 1, 11), in_flight.take_all("c"), in_flight.take_missing("c", Ranges())) == ([], [], [])
    assert [name for name, _ in in_flight.counts()] == ["a", "b"]
    in_flight.check()


def test_taking_cuts_at_the_edges() -> None:
    """Only from that peer, and only what was asked for."""
    in_flight = two_peers()
    assert spans(in_flight.take("a", 3, 10)) == [(3, 5), (9, 10)]
    assert (in_flight.ranges("a"), in_flight.ranges("b")) == (Ranges([(1, 3), (10, 11)]), Ranges([(5, 9)]))
    in_flight.check()


@pytest.mark.parametrize("how", ["take", "all", "missing"])
def test_whoever_has_nothing_left_is_no_peer(how: str) -> None:
    """The same as one who never had anything: the next message may be of any size, or an isolated one."""
    in_flight = two_peers()
    match how:
        case "take":
            taken = in_flight.take("b", 5, 9)
        case "all":
            taken = in_flight.take_all("b")
        case _:
            taken = in_flight.take_missing("b", Ranges())
    assert (spans(taken), "b" in in_flight, in_flight.counts()) == ([(5, 9)], False, [("a", 6)])
    in_flight.check()


def test_what_a_peer_does_not_name_is_missing() -> None:
    """The rest stays with it; what it names and we did not send it changes nothing."""
    in_flight = two_peers()
    assert spans(in_flight.take_missing("a", Ranges([(0, 2), (3, 7), (10, 20)]))) == [(2, 3), (9, 10)]
    assert (in_flight.ranges("a"), in_flight.ranges("b")) == (Ranges([(1, 2), (3, 5), (10, 11)]), Ranges([(5, 9)]))
    in_flight.check()


def test_clearing_tells_what_it_cost() -> None:
    """Of all peers."""
    in_flight = two_peers()
    assert (in_flight.clear(), in_flight.count, in_flight.counts()) == (10 * EACH, 0, [])
    in_flight.check()


def test_messages_without_deaths_have_room() -> None:
    """However many there are: credit limits these, not isolation."""
    in_flight = two_peers()
    assert in_flight.room("a", 0) > 2**50


@pytest.mark.parametrize(("deaths", "most"), [(1, 4096), (2, 64)])
def test_isolation(deaths: int, most: int) -> None:
    """So many of its kind one peer has at most; those of other deaths and at other peers do not count."""
    in_flight = InFlight()
    in_flight.add("a", died(run_of(1, 10), deaths))
    in_flight.add("a", died(run_of(11, 3), 3 - deaths))
    in_flight.add("a", run_of(20, 100))
    assert [in_flight.room(peer, deaths) for peer in ("a", "b")] == [most - 10, most]
    in_flight.add("a", died(run_of(1000, most - 10), deaths))
    assert in_flight.room("a", deaths) == 0
    assert [*ISOLATION] == [1, 2]


@pytest.mark.parametrize("deaths", [DEATHS_TO_ISOLATE, DEATHS_TO_ISOLATE + 4])
def test_an_isolated_message_has_room_only_at_who_has_nothing(deaths: int) -> None:
    """It must be alone there, so not even one without deaths may be in flight."""
    in_flight = InFlight()
    assert in_flight.room("a", deaths) == 1
    in_flight.add("a", run_of(1, 1))
    assert (in_flight.room("a", deaths), in_flight.room("b", deaths)) == (0, 1)


def test_an_isolated_message_in_company_is_a_bug() -> None:
    """Found by `check`: `room` should have kept it away."""
    in_flight = InFlight()
    in_flight.add("a", run_of(1, 1))
    in_flight.add("a", died(run_of(2, 1), DEATHS_TO_ISOLATE))
    with pytest.raises(AssertionError, match="not alone"):
        in_flight.check()


def test_a_message_that_a_peer_has_twice_is_a_bug() -> None:
    """Found by `check` in each peer's table."""
    in_flight = two_peers()
    in_flight.add("b", run_of(8, 1))
    with pytest.raises(AssertionError, match="overlap"):
        in_flight.check()


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_a_table(seed: int) -> None:
    """Whatever is sent, taken and missed: as if the peer of each message were noted by itself."""
    random, in_flight = Random(seed), InFlight()
    table: dict[int, str] = {}
    following = 1
    for _ in range(150):
        peer = random.choice("abc")
        start = random.randrange(max(1, following - 40), following + 5)
        stop = start + random.randrange(1, 12)
        match random.randrange(6):
            case 0 | 1 | 2:
                count = random.randrange(1, 6)
                in_flight.add(peer, run_of(following, count))
                table |= dict.fromkeys(range(following, following + count), peer)
                following += count + random.randrange(2)
                expected = None
            case 3:
                expected = [n for n in range(start, stop) if table.get(n) == peer]
                taken = in_flight.take(peer, start, stop)
            case 4:
                held = Ranges((a, a + random.randrange(9)) for a in range(0, following, 7))
                expected = [n for n in sorted(table) if table[n] == peer and n not in held]
                taken = in_flight.take_missing(peer, held)
            case _:
                expected = [n for n in sorted(table) if table[n] == peer]
                taken = in_flight.take_all(peer)
        if expected is not None:
            assert [n for run in taken for n in range(run.first, run.stop)] == expected
            for number in expected:
                del table[number]
        in_flight.check()
        assert in_flight.count == len(table)
        assert sorted(in_flight.counts()) == [(h, n) for h in "abc" if (n := [*table.values()].count(h))]
        assert all(in_flight.have(number) == (number in table) for number in range(following))
    assert in_flight.clear() == len(table) * EACH
