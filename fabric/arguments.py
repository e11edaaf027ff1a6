"""Arguments of users: refused at the call if they cannot be, or made such that they can be sent."""

from __future__ import annotations

import operator
from math import inf, isfinite
from typing import Any, Final

from peerfabric.errors import ConfigError

TEXT_BYTES_MAX: Final = 1000
"""Of a reason or an error. It travels in a header, and headers are limited and read before anything else."""
DELAY_MAX: Final = 366 * 86400.0
"""A year, in seconds. What is longer is a mistake, such as milliseconds or a point in time."""
LEASE_MAX: Final = 2.0**31


# Texts


def plain(text: str) -> str:
    """`text` without what a subclass of `str` adds to it: such cannot be encoded, and an enum's f-string is another."""
    return text if type(text) is str else str.__str__(text)


def sendable(text: str) -> str:
    """`text` as a frame can carry it: what is no Unicode is replaced, what is too long is cut."""
    data = str.encode(text[:TEXT_BYTES_MAX], "utf-8", "backslashreplace")
    return data[:TEXT_BYTES_MAX].decode("utf-8", "ignore")


def text_of(error: object) -> str:
    """What an exception, or a text, says, sendable; also if its class cannot say it."""
    try:
        return sendable(str(error))
    except BaseException as fault:  # whatever is raised here, its message has to be settled
        return _unsaid(error, fault)


def described(error: BaseException) -> str:
    """The class of `error` and what it says, sendable; also if its class cannot say it."""
    try:
        return sendable(f"{type(error).__name__}: {error!s}")
    except BaseException as fault:
        return _unsaid(error, fault)


def _unsaid(error: object, fault: BaseException) -> str:
    return sendable(f"{type(error).__name__} (its text cannot be made: {type(fault).__name__})")


def shown(value: object) -> str:
    """A value as it was written, for the text of an error; also if its class cannot say it."""
    try:
        text = repr(value)
    except Exception:  # also an int of more digits than Python writes
        return f"<{type(value).__name__}>"
    return text if len(text) <= 60 else f"{text[:60]}…"


# Numbers


def check_seconds(name: str, value: Any, step: str, *, least: float = -inf, most: float = inf) -> float:
    """The argument `name`, if it is a finite number of seconds in that range; `step` says what to give instead.

    Raises:
        TypeError: It is no number.
        ValueError: It is not finite, or out of range.
    """
    try:
        seconds = float(value) if isfinite(value) else inf
        if isinstance(value, bool):
            raise TypeError
    except TypeError:
        raise TypeError(f"{name}={shown(value)} is not a number of seconds; {step}") from None
    except (OverflowError, ValueError):  # an int beyond all floats, a signalling Decimal
        seconds = inf
    if seconds == inf or not least <= seconds <= most:
        raise ValueError(f"{name}={shown(value)} is not a possible number of seconds; {step}")
    return seconds


def check_timeout(timeout: Any) -> float | None:
    """How long a call may wait, in seconds; None: for ever.

    Raises:
        TypeError, ValueError: It is not a finite number.
    """
    if timeout is None:
        return None
    return check_seconds("timeout", timeout, "give a finite number, or None to wait for ever")


def check_count(name: str, value: Any, step: str, *, least: int = 1, most: float = inf) -> int:
    """The argument `name`, if it is a whole number in that range; `step` says what to give instead.

    Raises:
        TypeError: It is not an int.
        ValueError: It is out of range.
    """
    try:
        count = int(operator.index(value))
        if isinstance(value, bool):
            raise TypeError
    except TypeError:
        raise TypeError(f"{name}={shown(value)} is not a whole number; {step}") from None
    if not least <= count <= most:
        raise ValueError(f"{name}={shown(value)} is out of range; {step}")
    return count


def checked_batches(max_size: Any, max_wait: Any) -> tuple[int, float]:
    """How large batches may be, and how many seconds one that is not full waits.

    Raises:
        ConfigError: There are no such batches.
    """
    size = option_count("max_size", max_size, "batches need max_size >= 1")
    return size, option_seconds("max_wait", max_wait, "batches need a finite max_wait >= 0", least=0.0)


def option_seconds(name: str, value: Any, step: str, *, least: float, most: float = inf) -> float:
    """As `check_seconds`, of what is an option.

    Raises:
        ConfigError: It is not such a number.
    """
    try:
        return check_seconds(name, value, step, least=least, most=most)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None


def option_count(name: str, value: Any, step: str, *, least: int = 1, most: float = inf) -> int:
    """As `check_count`, of what is an option.

    Raises:
        ConfigError: It is not such a number.
    """
    try:
        return check_count(name, value, step, least=least, most=most)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None
