"""Numbering: numbers of this life, and the streams and sequences that they stand for."""

from __future__ import annotations

from peerfabric.queue.numbering import Numbering

OLD = [("n:1:q", 5, 8), ("n:2:q", 1, 3), ("n:2:q", 10, 12)]
"""Three messages of the first life, two and two of the second with a gap between."""


def test_without_earlier_lives_numbers_are_sequences() -> None:
    """As it is without a spool."""
    numbering = Numbering("n:3:q")
    assert (numbering.base, numbering.name(7), list(numbering.numbers("n:3:q", 4, 9))) == (0, ("n:3:q", 7), [(4, 9)])
    assert (numbering.floor("n:3:q", 4), numbering.streams) == (4, ["n:3:q"])


def test_earlier_lives_come_first() -> None:
    """In one row, oldest first; each number has one name and each name at most one number."""
    numbering = Numbering("n:3:q", OLD)
    names = [numbering.name(number) for number in range(1, 10)]
    assert names == [
        ("n:1:q", 5), ("n:1:q", 6), ("n:1:q", 7),
        ("n:2:q", 1), ("n:2:q", 2), ("n:2:q", 10), ("n:2:q", 11),
        ("n:3:q", 1), ("n:3:q", 2),
    ]  # fmt: skip
    for number, (stream, sequence) in enumerate(names, 1):
        assert list(numbering.numbers(stream, sequence, sequence + 1)) == [(number, number + 1)]
    assert [number for number in range(1, 9) if numbering.begins_era(number)] == [1, 4, 6, 8]


def test_ranges_are_cut_at_eras() -> None:
    """In both directions; what is in no era has no number."""
    numbering = Numbering("n:3:q", OLD)
    assert list(numbering.names(2, 10)) == [("n:1:q", 6, 8), ("n:2:q", 1, 3), ("n:2:q", 10, 12), ("n:3:q", 1, 3)]
    assert list(numbering.numbers("n:2:q", 1, 100)) == [(4, 6), (6, 8)]
    assert list(numbering.numbers("n:2:q", 3, 10)) == []
    assert list(numbering.numbers("n:9:q", 1, 10)) == []


def test_floors() -> None:
    """Below it everything of its stream is settled, also what no number stands for."""
    numbering = Numbering("n:3:q", OLD)
    assert [numbering.floor("n:1:q", n) for n in (1, 3, 4, 9)] == [5, 7, 8, 8]
    assert [numbering.floor("n:2:q", n) for n in (1, 4, 5, 6, 7, 8)] == [1, 1, 2, 10, 11, 12]
    assert [numbering.floor("n:3:q", n) for n in (1, 8, 9, 20)] == [1, 1, 2, 13]
