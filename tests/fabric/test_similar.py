"""Names that may have been meant to be another: a slip apart, and no further."""

from __future__ import annotations

import pytest

from peerfabric.similar import are_similar


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("order", "orders"),
        ("orders", "orderss"),
        ("orders", "odrers"),
        ("orders", "orddrs"),
        ("orders", "Orders"),
        ("a.b", "a-b"),
        ("mail.out", "mail_out"),
        ("mail.out", "MAIL-outs"),
        ("kitchen.orders", "kichen.orders"),
        ("orders", "xorders"),
        ("AB", "ab"),
    ],
)
def test_a_slip_makes_similar_names(a: str, b: str) -> None:
    """A letter more, less or another, two swapped, case, separators; either way round."""
    assert are_similar(a, b)
    assert are_similar(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("orders", "orders"),
        ("orders", "ordrs1"),
        ("orders", "mails"),
        ("orders", "offers"),
        ("orders", "orders-eu"),
        ("in", "on"),
        ("abc", "abd"),
        ("orders-1", "orders-2"),
        ("orders", "orders1"),
        ("shard12", "shard21"),
        ("orders", "redors"),
        ("orders", "orderings"),
        ("abcd", "badc"),
        ("", "abcd"),
    ],
)
def test_other_names_are_not(a: str, b: str) -> None:
    """The same, short ones, members of one family, and whatever is further apart."""
    assert not are_similar(a, b)
    assert not are_similar(b, a)
