"""Marks in a cursor: attempts and deaths."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from peerfabric.queue.marks import (
    MARKS_BYTES_MAX,
    Mark,
    Marks,
    News,
    marks_from,
    marks_of,
    pack_marks,
    state_of,
    states_of,
)
from peerfabric.queue.numbering import Numbering
from tests.fabric.helpers import run_of

OLD, NOW = "n:1:q", "n:2:q"
NUMBERING = Numbering(NOW, [(OLD, 11, 14)])
"""1 to 3 are sequences 11 to 13 of the last life, 4 is the first of this one."""


def unpacked(packed: bytes) -> list[Mark]:
    return msgspec.msgpack.decode(packed, type=list[Mark])


def test_what_a_run_says() -> None:
    """Its numbers, then attempt and deaths."""
    run = run_of(4, 3)
    run.attempt, run.deaths = 2, 3
    assert state_of(run) == (4, 7, 2, 3)


def test_only_those_to_which_something_has_happened() -> None:
    """Either is enough; the others need no mark, since a next life begins with that."""
    runs = [run_of(first, 1) for first in (1, 2, 3)]
    runs[1].attempt, runs[2].deaths = 2, 1
    assert states_of(runs) == [(2, 3, 2, 0), (3, 4, 1, 1)]


def test_neighbours_share_a_mark() -> None:
    """In whatever order they come, if the same is known of both and nothing lies between."""
    states = [(8, 9, 2, 0), (4, 6, 2, 0), (6, 7, 2, 0), (9, 10, 3, 0), (10, 11, 3, 1)]
    assert marks_of(states, NUMBERING) == [
        Mark(NOW, 1, 4, 2, 0),
        Mark(NOW, 5, 6, 2, 0),
        Mark(NOW, 6, 7, 3, 0),
        Mark(NOW, 7, 8, 3, 1),
    ]


def test_a_mark_names_one_stream() -> None:
    """Neighbours of two lives have two marks, by the names that they had when they were sent first."""
    assert marks_of([(2, 6, 1, 1)], NUMBERING) == [Mark(OLD, 12, 14, 1, 1), Mark(NOW, 1, 3, 1, 1)]


def test_news_by_their_names() -> None:
    """Everything is taken over, numbers as names."""
    news = News([(1, 2, 2, 0)], True, (5, 6, 1, 3), 7)
    running = Mark(NOW, 2, 3, 1, 3)
    assert marks_from(news, NUMBERING) == Marks([Mark(OLD, 11, 12, 2, 0)], True, running, 7)


def test_news_of_nothing() -> None:
    """Without states there are no marks: it is the caller who then keeps those of the last time."""
    assert marks_from(News(), NUMBERING) == Marks() == marks_from(News([]), NUMBERING)


def test_cursors_of_earlier_and_of_later_releases() -> None:
    """Fields that were not written have their defaults, those that are not known are passed over."""
    mark = Mark(NOW, 1, 2, 2, 0)
    for written in ([[mark]], [[mark], False, None, 0, "later"]):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(written), type=Marks) == Marks([mark])


def test_marks_survive() -> None:
    """What is packed and read again is the same, in the order in which it was."""
    marks = [Mark(NOW, 5, 6, 2, 0), Mark(NOW, 1, 2, 9, 4), Mark(OLD, 1, 2, 1, 1)]
    assert unpacked(pack_marks(marks)) == marks
    assert unpacked(pack_marks([])) == []


def test_marks_that_just_fit() -> None:
    """All stay, as they were given; with one byte less something is left out."""
    marks = [Mark(NOW, n, n + 1, 2 + n, 0) for n in range(1, 20)]
    size = len(msgspec.msgpack.encode(marks))
    assert unpacked(pack_marks(marks, size)) == marks
    assert len(unpacked(pack_marks(marks, size - 1))) < len(marks)


def test_what_says_least_is_left_out_first() -> None:
    """Deaths weigh most, then attempts, then age."""
    ranked = [
        Mark(NOW, 8, 9, 1, 3),
        Mark(NOW, 6, 7, 9, 2),
        Mark(NOW, 7, 8, 4, 2),
        Mark(NOW, 1, 2, 4, 0),
        Mark(NOW, 4, 5, 4, 0),
        Mark(NOW, 2, 3, 3, 0),
    ]
    given = sorted(ranked, key=lambda mark: mark.start)
    each = len(msgspec.msgpack.encode(ranked[0]))
    for kept in range(len(ranked)):
        assert unpacked(pack_marks(given, 5 + kept * each)) == ranked[:kept]


@pytest.mark.parametrize("seed", range(10))
def test_the_most_telling_ones_that_fit(seed: int) -> None:
    """Never more bytes than allowed, and no mark stays for which a more telling one was left out."""
    random = Random(seed)
    marks = [
        Mark(random.choice((OLD, NOW * 20)), n, n + 1, random.randrange(1, 300), random.randrange(4))
        for n in sorted(random.sample(range(2**40), 60))
    ]
    ranked = sorted(marks, key=lambda mark: (mark.deaths, mark.attempt, -mark.start), reverse=True)
    size = len(msgspec.msgpack.encode(marks))
    for bytes_max in random.sample(range(1, size), 40):
        packed = pack_marks(marks, bytes_max)
        kept = unpacked(packed)
        assert len(packed) <= bytes_max
        assert kept == ranked[: len(kept)]
        assert len(msgspec.msgpack.encode(ranked[: len(kept) + 1])) > bytes_max - 5, "one more had fitted"


def test_a_cursor_stays_small() -> None:
    """It is written many times a second, however many messages have failed."""
    marks = [Mark(NOW, n, n + 1, 2, 0) for n in range(0, 200_000, 2)]
    assert MARKS_BYTES_MAX - 50 < len(pack_marks(marks)) <= MARKS_BYTES_MAX
