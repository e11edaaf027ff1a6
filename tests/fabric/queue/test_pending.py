"""Pending messages, and which of them a consumer gets next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from math import inf
from random import Random

import pytest

from peerfabric.queue.numbering import Numbering
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.pending import (
    BACKOFF_BASE,
    BACKOFF_MAX,
    EXTRAS_MAX,
    FRAME_BYTES_AIM,
    PREFER_OTHERS_FOR,
    REFUSED_EVERY,
    Pending,
)
from peerfabric.queue.runs import MESSAGE_OVERHEAD, Run
from peerfabric.wire.frames import MSGPACK, Extra
from tests.fabric.helpers import HUGE, bodies, producer, run_of

EACH = 4 + MESSAGE_OVERHEAD
Spans = list[tuple[int, int]]


def empty(earlier: list[tuple[str, int, int]] | None = None) -> Pending:
    return Pending(Numbering("n:3:q", earlier), Random(1))


def fresh(count: int) -> Pending:
    """Messages from 1 on, sent together and never dispatched."""
    table = empty()
    table.append(1, bodies(count), 0, None)
    return table


def returned(*runs: Run) -> Pending:
    table = empty()
    for run in runs:
        table.give_back(run)
    return table


def pick(
    table: Pending,
    node_id: str = "a",
    messages: int = 1000,
    size: int = HUGE,
    size_max: float = inf,
    room: Callable[[int], int] = lambda deaths: HUGE,
    *,
    others: bool = True,
) -> Run | None:
    run = table.pick(node_id, messages, size, size_max, room, "abc" if others else node_id)
    table.check()
    return run


def picked(table: Pending, node_id: str = "a", messages: int = 1000, size: int = HUGE) -> Run:
    run = pick(table, node_id, messages, size)
    assert run is not None
    return run


def spans(runs: Iterable[Run | None]) -> Spans:
    return [(run.first, run.stop) for run in runs if run is not None]


def places(table: Pending) -> dict[str, Spans]:
    return {kind: spans(runs) for kind, runs in table.places() if runs}


# Coming


def test_small_sends_share_a_run() -> None:
    """As long as it fits into one frame, to the last byte."""
    table = empty()
    half = bytes(FRAME_BYTES_AIM // 2 - MESSAGE_OVERHEAD)
    for number in (1, 2):
        assert table.append(number, [half], 0, None) == FRAME_BYTES_AIM // 2
    table.append(3, [b""], 0, None)
    assert (places(table), table.count) == ({"waiting": [(1, 3), (3, 4)]}, 3)
    table.check()


def test_a_large_send_is_cut_into_frames() -> None:
    """What is too large for any frame stands alone; the cost is that of all."""
    table = empty()
    quarter, huge = bytes(FRAME_BYTES_AIM // 4), bytes(2 * FRAME_BYTES_AIM)
    sent = [quarter] * 7 + [huge, b"", b""]
    assert table.append(1, sent, 7, None) == sum(map(len, sent)) + 10 * MESSAGE_OVERHEAD
    assert (places(table), table.count) == ({"waiting": [(1, 4), (4, 7), (7, 8), (8, 9), (9, 11)]}, 10)
    assert [(run.bodies, run.sent_ms) for run in (picked(table, size=FRAME_BYTES_AIM), picked(table, messages=1))] == [
        ([quarter] * 3, 7),
        ([quarter], 7),
    ]
    assert table.clear() == sum(map(len, sent[4:])) + 6 * MESSAGE_OVERHEAD


@pytest.mark.parametrize("codec", [None, MSGPACK])
def test_extras_keep_a_run_apart(codec: int | None) -> None:
    """They are kept by number; who sends without them before and after shares neither its run nor its frame."""
    table = empty()
    table.append(1, bodies(2), 0, None)
    table.append(3, bodies(2), 0, {1: Extra(0, {"k": "v"})}, codec)
    table.append(5, bodies(1), 0, None)
    assert places(table) == {"waiting": [(1, 3), (3, 5), (5, 6)]}
    runs = [picked(table), picked(table), picked(table)]
    assert spans(runs) == [(1, 3), (3, 5), (5, 6)]
    assert [run.extras for run in runs] == [None, {4: Extra(0, {"k": "v"})}, None]
    assert [run.codec for run in runs] == [None, codec, None]


def test_what_was_read_and_what_is_new_are_encoded_differently() -> None:
    """They share neither a run nor a frame, though they are neighbours of one life."""
    table = empty()
    run = run_of(1, 2)
    run.codec = MSGPACK
    table.add_loaded(run)
    table.append(3, bodies(1), 0, None)
    assert places(table) == {"waiting": [(1, 3), (3, 4)]}
    assert spans([pick(table), pick(table)]) == [(1, 3), (3, 4)]


def test_no_run_reaches_into_another_life() -> None:
    """Neither as it waits nor in a frame: the two have streams of their own."""
    table = empty([("n:1:q", 1, 4), ("n:2:q", 1, 3)])
    for run in (run_of(1, 2), run_of(3, 1), run_of(4, 2)):
        table.add_loaded(run)
    table.append(6, bodies(1), 0, None)
    table.append(7, bodies(1), 0, None)
    assert places(table) == {"waiting": [(1, 3), (3, 4), (4, 6), (6, 8)]}
    assert spans([pick(table), pick(table), pick(table), pick(table)]) == [(1, 4), (4, 6), (6, 8)]


@pytest.mark.parametrize(("attempt", "deaths", "place"), [(1, 0, "waiting"), (2, 0, "returned"), (1, 1, "returned")])
def test_what_was_read_from_disk(attempt: int, deaths: int, place: str) -> None:
    """What a next life knows of no attempt and no death waits as if it were new, with its headers."""
    table = empty([("n:1:q", 1, 3)])
    run = run_of(1, 2)
    run.attempt, run.deaths, run.extras = attempt, deaths, {1: Extra(0, {"k": "v"})}
    table.add_loaded(run)
    assert (places(table), table.count) == ({place: [(1, 3)]}, 2)
    assert pick(table) is run


# Going


def test_what_was_given_back_goes_first() -> None:
    """In order of numbers, whoever came back last."""
    table = fresh(2)
    for first in (9, 5):
        table.give_back(run_of(first, 2))
    assert table.count == 6
    assert spans([pick(table), pick(table), pick(table), pick(table)]) == [(5, 7), (9, 11), (1, 3)]
    assert table.count == 0


@pytest.mark.parametrize("make", [lambda: fresh(10), lambda: returned(run_of(1, 10))], ids=["fresh", "returned"])
def test_a_frame_is_limited_in_messages_and_bytes(make: Callable[[], Pending]) -> None:
    """Overhead counts; at least one message goes however few bytes are allowed; the rest stays first in line."""
    table = make()
    assert spans([pick(table, messages=3), pick(table, size=2 * EACH), pick(table, size=2 * EACH - 1)]) == [
        (1, 4),
        (4, 6),
        (6, 7),
    ]
    assert spans([pick(table, messages=2, size=1)]) == [(7, 8)]
    assert table.count == 3
    assert spans([pick(table), pick(table)]) == [(8, 11)]


@pytest.mark.parametrize("make", [lambda: fresh(2), lambda: returned(run_of(1, 2))], ids=["fresh", "returned"])
def test_not_even_one_message_above_the_maximum(make: Callable[[], Pending]) -> None:
    """To a consumer that has something already, until its credit is enough."""
    table = make()
    assert pick(table, size=1, size_max=EACH - 1) is None
    assert table.count == 2
    assert spans([pick(table, size=1, size_max=EACH)]) == [(1, 2)]


def test_a_large_one_given_back_does_not_hold_up_others() -> None:
    """A consumer without room for it gets the next, those that are new included."""
    table = returned(run_of(1, 1, size=1000), run_of(2, 1))
    table.append(3, bodies(1), 0, None)
    assert spans([pick(table, size_max=EACH), pick(table, size_max=EACH), pick(table, size_max=EACH)]) == [
        (2, 3),
        (3, 4),
    ]


def test_small_sends_share_a_frame() -> None:
    """Whole runs join as long as both limits allow, and none that has extras or follows a gap."""
    table = empty()
    for first, count in ((1, 2), (3, 2), (5, 2), (7, 1), (9, 1)):
        table.add_loaded(run_of(first, count))
    assert spans([pick(table, messages=5), pick(table, size=3 * EACH)]) == [(1, 5), (5, 8)]
    table.append(10, bodies(1), 0, {0: Extra(0, {})})
    assert spans([pick(table), pick(table)]) == [(9, 10), (10, 11)]
    assert table.count == 0


def test_bodies_of_two_codecs_share_no_frame() -> None:
    """The header names one."""
    table = empty()
    for first, codec in ((1, MSGPACK), (2, MSGPACK), (3, None)):
        run = run_of(first, 1)
        run.codec = codec
        table.add_loaded(run)
    assert spans([pick(table), pick(table)]) == [(1, 3), (3, 4)]


def test_messages_of_two_kinds_share_no_run_and_no_frame() -> None:
    """A frame has one time to expire, of the first of its messages, and one depth."""
    kinds = [None, (inf, 1), (inf, 1), (5.0, 0), (5.005, 0), (5.02, 0)]
    sent, loaded = empty(), empty()
    for first, kind in enumerate(kinds, 1):
        sent.append(first, bodies(1), 0, None, None, kind)
        run = run_of(first, 1)
        run.kind = kind
        loaded.add_loaded(run)
    expected = [(1, 2), (2, 4), (4, 6), (6, 7)]
    assert places(sent) == {"waiting": expected}
    for table in (sent, loaded):
        runs = [picked(table) for _ in expected]
        assert (spans(runs), [run.kind for run in runs]) == (expected, [None, (inf, 1), (5.0, 0), (5.02, 0)])


def test_a_large_send_and_one_with_headers_keep_their_kind() -> None:
    """However many runs it is cut into."""
    table = empty()
    table.append(1, [bytes(FRAME_BYTES_AIM)] * 3, 0, None, None, (5.0, 0))
    table.append(4, bodies(1), 0, {0: Extra(0, {"k": "v"})}, None, (5.0, 0))
    assert [run.kind for _, runs in table.places() for run in runs] == [(5.0, 0)] * 4


def test_room_by_deaths() -> None:
    """Of those that were held at deaths only so many go as the consumer may have; the others pass them."""
    dying, healthy = run_of(1, 5), run_of(6, 2)
    dying.deaths = 2
    table = returned(dying, healthy)
    room = {0: HUGE, 2: 3}
    assert spans([pick(table, room=room.__getitem__)]) == [(1, 4)]
    room[2] = 0
    assert spans([pick(table, room=room.__getitem__), pick(table, room=room.__getitem__)]) == [(6, 8)]
    assert table.count == 2


def test_a_message_that_travels_alone() -> None:
    """One a frame, however many the consumer may have."""
    run = run_of(1, 3)
    run.alone = True
    table = returned(run)
    assert spans([pick(table), pick(table), pick(table)]) == [(1, 2), (2, 3), (3, 4)]


def test_who_refused_a_message_does_not_get_it() -> None:
    """Not even if nobody else is there; it is not counted as waiting for that one."""
    table = fresh(1)
    run = run_of(5, 2)
    run.refused_by = frozenset("a")
    table.give_back(run)
    assert (table.count, table.refused_count("a"), table.refused_count("b")) == (3, 2, 0)
    assert spans([pick(table, "a"), pick(table, "a", others=False)]) == [(1, 2)]
    assert spans([pick(table, "b")]) == [(5, 7)]
    assert table.refused_count("a") == 0


# Failures


def failed(table: Pending, number: int, now: float, delay: float, node_id: str = "a") -> None:
    """`number` failed at `node_id`."""
    run = run_of(number, 1)
    run.attempt, run.avoids = 2, frozenset((node_id,))
    table.again(run, now, delay)
    table.check()


def test_a_failure_waits_for_its_delay() -> None:
    """It is not among those that could be sent before, and is from that very instant on."""
    table = empty()
    failed(table, 1, 10.0, 0.5)
    assert (table.count, table.delayed_count, table.deadline(), places(table)) == (0, 1, 10.5, {"delayed": [(1, 2)]})
    table.expire(10.49, ["a", "b"])
    assert pick(table, "b") is None
    table.expire(10.5, ["a", "b"])
    assert (table.count, table.delayed_count) == (1, 0)
    assert spans([pick(table, "b")]) == [(1, 2)]


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_failure_goes_to_others_first(delay: float) -> None:
    """For a second from when it may be sent; to the one that failed it at once if there is nobody else."""
    table = empty()
    failed(table, 1, 10.0, delay)
    ready = 10.0 + delay
    table.expire(ready, ["a", "b"])
    assert (pick(table, "a"), table.deadline()) == (None, ready + PREFER_OTHERS_FOR)
    table.expire(ready + PREFER_OTHERS_FOR - 0.01, ["a", "b"])
    assert pick(table, "a") is None
    run = pick(table, "a", others=False)
    assert run is not None
    table.give_back(run)
    table.expire(ready + PREFER_OTHERS_FOR, ["a", "b"])
    assert spans([pick(table, "a")]) == [(1, 2)]


def test_each_failure_goes_to_others_first() -> None:
    """Who failed a message last does not get it before a second has passed, whenever somebody else failed it before."""
    table = empty()
    failed(table, 1, 10.0, 0.0, "a")
    picked(table, "b")
    failed(table, 1, 10.9, 0.0, "b")
    table.expire(11.0, ["a", "b"])
    assert pick(table, "b") is None


def test_a_batch_that_failed_as_a_whole_is_split() -> None:
    """Each message travels alone from there, at once, to others first, with the same attempt."""
    table = empty()
    run = run_of(1, 3)
    run.avoids = frozenset("a")
    table.split(run, 10.0)
    assert (places(table), pick(table, "a")) == ({"returned": [(1, 2), (2, 3), (3, 4)]}, None)
    run = picked(table, "b")
    assert (run.first, run.stop, run.attempt, run.alone) == (1, 2, 1, True)
    table.expire(10.0 + PREFER_OTHERS_FOR, ["a", "b"])
    assert spans([pick(table, "a"), pick(table, "a")]) == [(2, 3), (3, 4)]


def test_a_frame_that_got_lost_is_sent_as_it_was() -> None:
    """The first time it proves nothing. Only its messages are marked, and only those that wait again."""
    table = returned(run_of(1, 5))
    table.broke(2, 4, 10.0)
    table.check()
    assert [(run.first, run.stop, run.breaks, run.alone) for _, runs in table.places() for run in runs] == [
        (1, 2, 0, False),
        (2, 4, 1, False),
        (4, 6, 0, False),
    ]


def test_a_frame_that_breaks_links_is_taken_apart() -> None:
    """From the second time on its messages travel alone, each time after a longer pause."""
    table = returned(run_of(1, 2))
    table.broke(1, 3, 0.0)
    waits = []
    for times in range(2, 6):
        table.broke(1, 3, 100.0 * times)
        assert places(table) == {"delayed": [(1, 2), (2, 3)]}
        waits += [until - 100.0 * times for until, *_ in table.timers]
        table.expire(100.0 * times + BACKOFF_MAX, [])
    full = [BACKOFF_BASE * 2**doubled for doubled in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert all(most / 2 <= wait <= most + 1e-9 for wait, most in zip(waits, full, strict=True))
    runs = [picked(table), picked(table)]
    assert [(run.first, run.stop, run.alone, run.breaks) for run in runs] == [(1, 2, True, 5), (2, 3, True, 5)]


def test_backoff_doubles_up_to_a_limit() -> None:
    """Between half of it and all, so that what failed together does not come again together."""
    table = empty()
    for attempt, full in [(1, BACKOFF_BASE), (2, 0.2), (5, 1.6), (9, 25.6), (10, BACKOFF_MAX), (10_000, BACKOFF_MAX)]:
        waits = [table.backoff(attempt) for _ in range(200)]
        assert full / 2 <= min(waits) < 0.55 * full < 0.95 * full < max(waits) <= full


def test_what_all_have_refused_is_given_up() -> None:
    """Once those have left who might have taken it; compared every five seconds, in which others may come."""
    table = empty()
    for first, refusers in ((1, "a"), (3, "ab"), (5, "")):
        run = run_of(first, 2)
        run.refused_by = frozenset(refusers)
        table.give_back(run)
    assert spans(table.expire(10.0, ["a", "b"])) == []
    assert table.deadline() == 10.0 + REFUSED_EVERY
    assert spans(table.expire(10.0 + REFUSED_EVERY - 0.1, ["a", "b"])) == []
    assert spans(table.expire(10.0 + REFUSED_EVERY, ["a", "b"])) == [(3, 5)]
    table.check()
    assert spans(table.expire(30.0, [])) == [], "somebody may come who takes it"
    assert spans(table.expire(40.0, ["b"])) == []
    assert spans(table.expire(50.0, ["a"])) == [], "those who would take it may come back"
    assert spans(table.expire(50.0 + REFUSED_EVERY, ["a"])) == [(1, 3)]
    assert (places(table), table.expire(60.0, ["a"]), table.deadline()) == ({"returned": [(5, 7)]}, [], None)


def test_each_refused_message_has_its_time() -> None:
    """Another that has waited for longer does not take that from it; nor does one more that comes put it off."""
    table = empty()
    found = []
    for number, at in ((1, 0.0), (2, 4.0), (3, 8.0)):
        run = run_of(number, 1)
        run.refused_by = frozenset("a")
        table.give_back(run)
        found.append(spans(table.expire(at, ["a"])))
    assert found == [[], [], [(1, 2)]]
    assert spans(table.expire(8.0 + REFUSED_EVERY, ["a"])) == [(2, 3), (3, 4)]


@pytest.mark.parametrize("taker", ["took it and died", "came and left"])
def test_time_begins_anew_after_somebody_might_have_taken_it(taker: str) -> None:
    """He may come back, too."""
    table = empty()
    run = run_of(1, 1)
    run.refused_by = frozenset("a")
    table.give_back(run)
    assert table.expire(0.0, ["a"]) == []
    if taker == "took it and died":
        assert pick(table, "b") is run
        table.give_back(run)
        assert table.expire(4.9, ["a"]) == []
        assert table.expire(9.8, ["a"]) == []
    else:
        assert table.expire(5.0, ["a", "b"]) == []
        assert table.expire(10.0, ["a"]) == []
    assert table.expire(15.0, ["a"]) == [run]


def test_who_failed_a_message_twice_is_kept_from_it_for_the_whole_time() -> None:
    """Its first failure does not end the preference that its second began."""
    table = empty()
    failed(table, 1, 10.0, 0.0, "a")
    run = pick(table, "a", others=False)
    assert run is not None
    table.again(run, 10.9, 0.0)
    table.expire(11.0, ["a", "b"])
    assert pick(table, "a") is None
    table.expire(11.9, ["a", "b"])
    assert pick(table, "a") is run


def test_what_was_refused_and_given_back_is_given_up_likewise() -> None:
    """It is still refused by those who refused it, though it was at somebody else for a while."""
    table = empty()
    run = run_of(1, 1)
    run.refused_by = frozenset("a")
    table.give_back(run)
    table.expire(0.0, ["a", "b"])
    assert pick(table, "b") is run
    table.expire(REFUSED_EVERY, ["a", "b"])
    table.give_back(run)
    assert table.refused_count("a") == 1
    assert table.expire(6.0, ["a"]) == []
    assert table.expire(6.0 + REFUSED_EVERY, ["a"]) == [run]


def test_the_deadline_is_the_next_of_all() -> None:
    """Delay, preference, or comparison; None if nothing is being waited for."""
    table = fresh(1)
    assert table.deadline() is None
    failed(table, 5, 10.0, 3.0)
    assert table.deadline() == 13.0
    failed(table, 6, 10.0, 0.0)
    assert table.deadline() == 11.0
    run = run_of(7, 1)
    run.refused_by = frozenset("a")
    table.give_back(run)
    table.expire(10.5, ["b"])
    table.expire(11.0, ["b"])
    assert table.deadline() == 13.0
    table.expire(13.0, ["b"])
    assert table.deadline() == 14.0
    table.expire(14.0, ["b"])
    assert table.deadline() == 10.5 + REFUSED_EVERY


# Taking out


def test_the_oldest_to_be_dropped() -> None:
    """Those given back before those that are new, as many as fill the bytes, and one at least."""
    table = fresh(3)
    table.give_back(run_of(5, 3))
    failed(table, 9, 0.0, 1.0)
    taken = []
    for size in (2 * EACH, 2 * EACH, 2 * EACH - 1, 0, 5 * EACH):
        taken.append(table.take_oldest(size))
        table.check()
    assert spans(taken) == [(5, 7), (7, 8), (1, 2), (2, 3), (3, 4)]
    assert (table.count, table.delayed_count) == (0, 1)


def everywhere() -> Pending:
    """1 to 3 of an earlier life and 4 to 6 are new, 7 to 9 were given back, 10 to 12 are delayed."""
    table = empty([("n:1:q", 1, 4)])
    table.add_loaded(run_of(1, 3))
    table.append(4, bodies(3), 0, None)
    table.give_back(run_of(7, 3))
    table.again(run_of(10, 3), 0.0, 1.0)
    table.check()
    return table


def test_taking_what_was_settled_elsewhere() -> None:
    """Given back or delayed; what is new only of earlier lives, since nobody can have it from this one."""
    table = everywhere()
    assert (sorted(spans(table.take(8, 11))), spans(table.take(5, 6))) == ([(8, 10), (10, 11)], [])
    table.check()
    assert spans(table.take(2, 4)) == [(2, 4)]
    table.check()
    assert places(table) == {"waiting": [(1, 2), (4, 7)], "returned": [(7, 8)], "delayed": [(11, 13)]}
    assert (table.count, table.delayed_count) == (5, 2)


def test_taking_what_could_be_sent() -> None:
    """New or given back, but nothing whose delay has not ended."""
    table = everywhere()
    assert spans(table.take_undelayed(2, 9)) == [(2, 4), (4, 7), (7, 9)]
    assert spans(table.take_undelayed(9, 20)) == [(9, 10)]
    table.check()
    assert (places(table), table.count) == ({"waiting": [(1, 2)], "delayed": [(10, 13)]}, 1)


def test_taking_what_was_given_back_by_its_kind() -> None:
    """All of it, and nothing else."""
    table = returned(run_of(1, 2), run_of(3, 1), run_of(4, 2))
    assert spans(table.take_returned(lambda run: len(run.bodies) == 2)) == [(1, 3), (4, 6)]
    table.check()
    assert (places(table), table.count) == ({"returned": [(3, 4)]}, 1)


def test_is_something_of_it_given_back() -> None:
    """One message is enough; what is new or delayed is not meant."""
    table = everywhere()
    assert [table.is_returned(*span) for span in ((1, 7), (1, 8), (9, 10), (10, 13), (8, 9))] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_clearing_tells_what_it_cost() -> None:
    """Of all kinds; nothing comes later."""
    table = everywhere()
    assert table.clear() == 12 * EACH
    table.expire(100.0, [])
    table.check()
    assert (table.count, table.delayed_count, places(table), pick(table)) == (0, 0, {}, None)


# All of it together


class Message:
    """What the model knows of one message."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.refused_by: set[str] = set()
        self.deaths = self.breaks = 0
        self.alone = False
        self.from_at = self.until_at = 0.0
        """Between these instants its delay ends."""


class Model:
    """Each message noted by itself; `table` must agree after each step."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.table = Pending(Numbering("n:3:q", [("n:1:q", 1, 4), ("n:2:q", 1, 5)]), Random(seed))
        self.messages: dict[int, Message] = {}
        self.out: list[Run] = []
        self.now = 0.0

    def load(self) -> None:
        for first, count in ((1, 3), (4, 2), (6, 2)):
            self.table.add_loaded(run_of(first, count))
            self.messages |= {number: Message("waiting") for number in range(first, first + count)}

    def append(self) -> None:
        first, count = max(self.messages) + 1, self.random.randrange(1, 7)
        extras = {0: Extra(0, {})} if self.random.random() < 0.2 else None
        assert self.table.append(first, bodies(count), 0, extras) == count * EACH
        self.messages |= {number: Message("waiting") for number in range(first, first + count)}

    def of(self, run: Run) -> list[Message]:
        return [self.messages[number] for number in range(run.first, run.stop)]

    def moved(self, runs: Iterable[Run], place: str, *, sources: tuple[str, ...]) -> set[int]:
        numbers = set[int]()
        for run in runs:
            for message in self.of(run):
                assert message.place in sources
                message.place = place
            numbers.update(range(run.first, run.stop))
        return numbers

    def numbers(self, *kinds: str) -> set[int]:
        return {number for number, message in self.messages.items() if message.place in kinds}

    def pick(self, node_id: str = "", messages: int = 0, size: int = 0, room: int = 0) -> bool:
        """To somebody, as much as he may have; it is the first that he may have, or there is none."""
        node_id = node_id or self.random.choice("abc")
        messages, size = messages or self.random.randrange(1, 9), size or self.random.randrange(1, 9 * EACH)
        room = room or self.random.randrange(4)
        may = [
            number
            for number in sorted(self.numbers("returned"))
            if node_id not in self.messages[number].refused_by and (room or not self.messages[number].deaths)
        ]
        may += sorted(self.numbers("waiting"))
        run = pick(self.table, node_id, messages, size, room=lambda deaths: room if deaths else HUGE)
        if run is None:
            assert not may
            return False
        found = self.of(run)
        assert run.first == may[0]
        assert set(range(run.first, run.stop)) <= set(may)
        assert len(found) <= messages
        assert len(found) * EACH <= max(size, EACH)
        assert len(found) == 1 or not any(message.alone for message in found)
        assert len(found) <= room or not any(message.deaths for message in found)
        assert len({*map(self.life, range(run.first, run.stop))}) == 1
        self.moved([run], "out", sources=("waiting", "returned"))
        self.out.append(run)
        return True

    @staticmethod
    def life(number: int) -> int:
        return 1 if number < 4 else 2 if number < 8 else 3

    def come_back(self) -> None:
        if not self.out:
            return
        run = self.out.pop(self.random.randrange(len(self.out)))
        found = self.of(run)
        match self.random.choice(("settled", "given back", "died", "refused", "failed", "batch", "broke")):
            case "settled":
                self.moved([run], "gone", sources=("out",))
                return
            case "given back":
                self.table.give_back(run)
            case "died":
                run.deaths += 1
                for message in found:
                    message.deaths += 1
                self.table.give_back(run)
            case "refused":
                run.refused_by |= {"a"}
                for message in found:
                    message.refused_by.add("a")
                self.table.give_back(run)
            case "failed":
                delay = self.random.choice((0.0, 0.5, 3.0))
                self.table.again(run, self.now, delay)
                if delay:
                    self.moved([run], "delayed", sources=("out",))
                    for message in found:
                        message.from_at = message.until_at = self.now + delay
                    return
            case "batch":
                start, stop = run.first, run.stop
                self.table.split(run, self.now)
                for number in range(start, stop):
                    self.messages[number].place, self.messages[number].alone = "returned", True
                return
            case _:
                start, stop = run.first, run.stop
                self.table.give_back(run)
                self.moved([run], "returned", sources=("out",))
                self.broke(start, stop)
                return
        self.moved([run], "returned", sources=("out",))

    def broke(self, start: int, stop: int) -> None:
        self.table.broke(start, stop, self.now)
        for number in self.numbers("returned") & {*range(start, stop)}:
            message = self.messages[number]
            message.breaks += 1
            message.alone = message.breaks > 1
            if message.alone:
                message.place = "delayed"
                full = min(BACKOFF_MAX, BACKOFF_BASE * 2 ** (message.breaks - 2))
                message.from_at, message.until_at = self.now + full / 2, self.now + full

    def expire(self) -> None:
        self.now += self.random.choice((0.05, 0.4, 2.0))
        known = self.random.choice((["a"], ["a", "b"], []))
        lost = self.table.expire(self.now, known)
        assert all(known == ["a"] and message.refused_by for run in lost for message in self.of(run))
        self.ripen()
        self.moved(lost, "gone", sources=("returned",))

    def ripen(self) -> None:
        """What is delayed is so until its time, and no longer."""
        delayed = {number for kind, runs in self.table.places() for run in runs if kind == "delayed"
                   for number in range(run.first, run.stop)}  # fmt: skip
        for number in self.numbers("delayed"):
            message = self.messages[number]
            if number in delayed:
                assert self.now < message.until_at
            else:
                assert self.now >= message.from_at
                message.place = "returned"

    def take(self) -> None:
        start = self.random.randrange(1, max(self.messages) + 2)
        stop = start + self.random.randrange(1, 9)
        kinds: tuple[str, ...]
        if self.random.random() < 0.5:
            kinds = ("returned", "delayed", *(["waiting"] if start <= 7 else []))
            runs = self.table.take(start, stop)
        else:
            kinds = ("returned", "waiting")
            runs = self.table.take_undelayed(start, stop)
        expected = self.numbers(*kinds) & {*range(start, stop)}
        assert self.moved(runs, "gone", sources=kinds) == expected

    def take_oldest(self) -> None:
        oldest = [*sorted(self.numbers("returned")), *sorted(self.numbers("waiting"))]
        if oldest:
            run = self.table.take_oldest(self.random.randrange(5 * EACH))
            assert run.first == oldest[0]
            self.moved([run], "gone", sources=("returned", "waiting"))

    def agree(self) -> None:
        self.table.check()
        for kind, runs in self.table.places():
            assert [n for run in runs for n in range(run.first, run.stop)] == sorted(self.numbers(kind)), kind
        assert self.table.count == len(self.numbers("waiting", "returned"))
        assert self.table.delayed_count == len(self.numbers("delayed"))


@pytest.mark.parametrize("seed", range(30))
def test_agrees_with_a_table(seed: int) -> None:
    """Whatever happens to messages, each is in one place, comes when it may, and in the end has come out."""
    model = Model(seed)
    model.load()
    steps: list[Callable[[], object]] = [model.append, model.pick, model.pick]
    steps += [model.come_back, model.come_back, model.expire]
    for _ in range(150):
        step = model.random.choice(steps if model.random.random() < 0.9 else [model.take, model.take_oldest])
        step()
        model.agree()
    model.now += 100.0
    model.table.expire(model.now, [])
    model.ripen()
    while model.pick("nobody has refused", 1000, HUGE, HUGE):
        model.agree()
    assert not model.numbers("waiting", "returned", "delayed")
    assert model.table.clear() == 0


def test_headers_are_limited_too() -> None:
    """However small the bodies are, a frame has no more headers than its own header may be long."""
    table = empty()
    extras = {at: Extra(0, {"k": str(at)}) for at in range(100, 1000)}
    assert table.append(1, bodies(1000), 0, extras) == 1000 * EACH
    frames = []
    while (run := table.pick("b", 1000, HUGE, HUGE, lambda deaths: HUGE, "b")) is not None:
        frames.append((run.first, run.stop, run.cost, {n: e.headers for n, e in (run.extras or {}).items()}))
    edges = [1, 101 + EXTRAS_MAX, *range(101 + 2 * EXTRAS_MAX, 1001, EXTRAS_MAX), 1001]
    assert [(first, stop) for first, stop, _, _ in frames] == list(pairwise(edges))
    assert [cost for _, _, cost, _ in frames] == [(stop - first) * EACH for first, stop in pairwise(edges)]
    assert {n: h for *_, had in frames for n, h in had.items()} == {at + 1: {"k": str(at)} for at in extras}
    table.check()


def times_of(end: OutgoingQueue) -> list[tuple[int, int]]:
    """(first sequence, time) of each frame that leaves."""
    found = []
    while (run := end.pick("a:1", 1000, HUGE, HUGE)) is not None:
        end.sent("a:1", run)
        found.append((run.first, run.sent_ms))
    return found


@pytest.mark.parametrize("picked", [False, True], ids=["while they wait", "as they leave"])
def test_messages_travel_together_that_were_sent_together(picked: bool) -> None:
    """Of those in a frame none was accepted more than 100 ms from the first, also if the clock is set back."""
    end = producer()
    for at in (0, 60, 100, 101, 150, 201, 202, 90, 89, 5000):
        # With an era before it nothing joins as it comes; it does as it leaves.
        end.numbering.base = 10**6 if picked else 0
        end.accept(bodies(1), at)
    end.numbering.base = 0
    assert times_of(end) == [(1, 0), (4, 101), (7, 202), (8, 90), (10, 5000)]
