"""Texts of errors."""

from __future__ import annotations

from peerfabric.errors import Undelivered, counted


def test_one_is_not_several() -> None:
    """Only one of a kind has no s, and verbs agree."""
    assert [counted(n, "slot") for n in (0, 1, 2, 1000)] == ["0 slots", "1 slot", "2 slots", "1,000 slots"]
    assert [counted(n, "body is", "bodies are") for n in (1, 2)] == ["1 body is", "2 bodies are"]
    assert str(Undelivered(1, 0)).startswith("closed with 1 message waiting and 0 in flight; it is gone: ")
    assert str(Undelivered(1, 2)).startswith("closed with 1 message waiting and 2 in flight; they are gone: ")
