"""Numbers and ages in few characters."""

from __future__ import annotations

import pytest

from peerfabric.nodes.cli.host.text import clipped, short_age, short_bytes, short_number, short_rate


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1.0, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (5969, "99 min"),
        (5971, "2 h"),
        (2 * 86400 - 1, "48 h"),
        (2 * 86400, "2 d"),
        (1e12, "9999 d"),
    ],
)
def test_ages(seconds: float | None, text: str) -> None:
    """Six characters at most, whatever a clock says."""
    assert short_age(seconds) == text
    assert len(text) <= 6


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (99_999, "99999"),
        (99_999.5, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (12e6, "12M"),
        (3e12, "3000G"),
    ],
)
def test_numbers(number: float, text: str) -> None:
    """Five characters at most, and never a step down at a limit."""
    assert short_number(number) == text
    assert len(text) <= 5


def test_rates_and_bytes() -> None:
    """What is slow has a decimal; bytes are in units of 1024."""
    assert [short_rate(rate) for rate in (None, 0.0, 0.26, 9.96, 1234.0)] == ["", "0", "0.3", "10", "1234"]
    assert [short_bytes(n) for n in (0, 999, 1000, 1536, 20 << 20, 5 << 40)] == [
        "0",
        "999",
        "1.0K",
        "1.5K",
        "20M",
        "5.0T",
    ]


def test_texts_are_clipped() -> None:
    """To the columns there are, with an ellipsis."""
    assert (clipped("orders", 6), clipped("orders", 4)) == ("orders", "ord…")
