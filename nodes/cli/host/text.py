"""Numbers and ages in few characters, for tables that fit a terminal of 80 columns."""

from __future__ import annotations

_STEPS = ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"))


def short_age(seconds: float | None) -> str:
    """At most six characters; None: an empty text."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.0f} h"
    return f"{min(seconds / 86400, 9999):.0f} d"


def short_number(number: float) -> str:
    """At most five characters: 12345, 123k, 1.2M."""
    if number < 99_999.5:
        return f"{number:.0f}"
    for size, letter in _STEPS:
        if number >= size * 0.9995:
            parts = number / size
            return f"{parts:.1f}{letter}" if parts < 9.95 else f"{parts:.0f}{letter}"
    raise AssertionError(number)


def short_rate(rate: float | None) -> str:
    """A number a second; what is too slow for a whole one has a decimal; None: not known yet."""
    if rate is None:
        return ""
    return f"{rate:.1f}" if 0 < rate < 9.95 else short_number(rate)


def short_bytes(count: int) -> str:
    """Bytes in units of 1024: 512, 1.5K, 3.2G."""
    number = float(count)
    for letter in ("", "K", "M", "G", "T"):
        if number < 999.5 or letter == "T":
            return f"{number:.1f}{letter}" if letter and number < 9.95 else f"{number:.0f}{letter}"
        number /= 1024
    raise AssertionError(count)


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` columns, without its middle: names of one family differ at their ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def clipped(text: str, width: int) -> str:
    """`text` in at most `width` columns."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
