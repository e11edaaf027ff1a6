"""What users hand in, checked and made sendable."""

from __future__ import annotations

import enum
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import pytest

from peerfabric.arguments import (
    TEXT_BYTES_MAX,
    check_count,
    check_seconds,
    check_timeout,
    checked_batches,
    described,
    option_seconds,
    plain,
    sendable,
    shown,
    text_of,
)
from peerfabric.errors import ConfigError
from peerfabric.options import Options


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("not even this")

    __repr__ = __str__


class Name(str):
    __slots__ = ()


class Colour(str, enum.Enum):  # noqa: UP042  # those that were written before StrEnum
    RED = "red"


def test_texts_are_cut_and_replaced() -> None:
    """What a frame cannot carry is told in another way, and no character is cut in two."""
    assert sendable("cannot read \udcff.txt") == "cannot read \\udcff.txt"
    assert sendable("x" * 5_000_000) == "x" * TEXT_BYTES_MAX
    assert sendable("\U0001f600" * 1000) == "\U0001f600" * (TEXT_BYTES_MAX // 4)
    assert sendable("x" + "é" * 1000) == "x" + "é" * ((TEXT_BYTES_MAX - 1) // 2)
    assert type(sendable(Name("x"))) is str


def test_exceptions_that_cannot_say_what_they_are() -> None:
    """Their class and what went wrong with it stand for them."""
    assert text_of(ValueError("burnt")) == text_of("burnt") == "burnt"
    assert described(ValueError("burnt")) == "ValueError: burnt"
    assert text_of(Mute()) == described(Mute()) == "Mute (its text cannot be made: SystemExit)"
    assert described(SystemExit(3)) == "SystemExit: 3"


def test_names_of_subclasses_are_plain() -> None:
    """An enum's f-string, and what a subclass makes of it, are other texts than the name."""
    for name in (Name("red"), Colour.RED, "red"):
        assert (type(plain(name)), plain(name)) == (str, "red")


@pytest.mark.parametrize("value", [nan, inf, -inf, 10**400, Decimal("nan"), Decimal("sNaN"), Decimal("inf"), 1e301])
def test_no_number_of_seconds(value: Any) -> None:
    """It is shown, with what to give instead."""
    with pytest.raises(ValueError, match=r"delay=.* is not a possible number of seconds; give less") as raised:
        check_seconds("delay", value, "give less", most=1e300)
    assert len(str(raised.value)) < 150
    with pytest.raises(ConfigError):
        option_seconds("lease", value, "give less", least=0.1, most=1e300)


@pytest.mark.parametrize("value", ["5", b"5", [], object(), None, 1j])
def test_no_number_at_all(value: Any) -> None:
    with pytest.raises(TypeError, match=r"delay=.* is not a number of seconds; give some"):
        check_seconds("delay", value, "give some")
    with pytest.raises(ConfigError, match="is not a number of seconds"):
        option_seconds("lease", value, "give some", least=0)


def test_numbers_become_plain() -> None:
    """A frame cannot carry their subclasses, and sums with some of them fail."""
    for value in (5, 5.0, True * 5, Decimal(5), Fraction(5)):
        seconds = check_seconds("delay", value, "")
        assert (type(seconds), seconds) == (float, 5.0)
    assert type(check_count("n", enum.IntEnum("N", "one").one, "")) is int  # type: ignore[attr-defined]


def test_timeouts() -> None:
    """Finite, also those that are over, or None."""
    assert [check_timeout(value) for value in (None, 0, -1.5, 1e300)] == [None, 0.0, -1.5, 1e300]
    with pytest.raises(ValueError, match="None to wait for ever"):
        check_timeout(inf)


@pytest.mark.parametrize("value", [nan, 1.0, "1", None, 0, -1])
def test_counts(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"consumers=.*; give some"):
        check_count("consumers", value, "give some")
    with pytest.raises(ConfigError, match="batches need max_size >= 1"):
        checked_batches(value, 0.0)


@pytest.mark.parametrize("value", [nan, inf, -0.1, "1", None])
def test_waits_of_batches(value: Any) -> None:
    with pytest.raises(ConfigError, match="batches need a finite max_wait >= 0"):
        checked_batches(1, value)


@pytest.mark.parametrize("value", [nan, inf, -1, 0, 2.5, "1", 10**400])
@pytest.mark.parametrize("name", [field for field in Options.__struct_fields__ if field.endswith(("bytes", "max"))])
def test_options_that_count(name: str, value: Any) -> None:
    """Each is a whole number, as it goes into frames; the text says which are possible."""
    if value == 10**400 and name in ("consumer_bytes", "spool_bytes"):
        assert getattr(Options(**{name: value}), name) == value
        return
    with pytest.raises(ConfigError, match=f"{name}=.*; it must be"):
        Options(**{name: value})


@pytest.mark.parametrize("value", [nan, inf, -1, "1", None, 10**400])
@pytest.mark.parametrize("name", ["work_horizon", "drain_timeout"])
def test_options_in_seconds(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.*; it must be"):
        Options(**{name: value})


def test_options_are_plain_numbers() -> None:
    options = Options(drain_timeout=Decimal(2), peers_max=enum.IntEnum("N", "one").one)  # type: ignore[arg-type,attr-defined]
    assert (type(options.drain_timeout), type(options.peers_max)) == (float, int)


class Nameless:
    def __repr__(self) -> str:
        raise AttributeError("name")


def test_values_are_shown_whatever_they_are() -> None:
    """An error about an argument never fails for its sake, and stays short."""
    assert [shown(value) for value in (5, 10**5000, Nameless())] == ["5", "<int>", "<Nameless>"]
    assert shown("x" * 1000) == f"'{'x' * 59}…"
