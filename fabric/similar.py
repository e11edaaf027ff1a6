"""Similar names: two that one of them may have been meant to be, by a slip of who typed it."""

from __future__ import annotations

from typing import Final

LENGTH_LEAST: Final = 4
"""Of shorter names nearly all are a letter apart."""

_SEPARATORS: Final = str.maketrans("-_", "..")


def are_similar(a: str, b: str) -> bool:
    """Whether two different names differ by a letter, by two that are swapped, or by case and `.`, `-` and `_` only.

    Those that differ by a digit do not count: they are of one family, as shards are.
    """
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    short, long = sorted((_folded(a), _folded(b)), key=len)
    if short == long:
        return True
    if len(short) < LENGTH_LEAST:
        return False
    at = next((i for i, letter in enumerate(short) if letter != long[i]), len(short))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :] and not long[at].isdigit()
    if short[at].isdigit() or long[at].isdigit():
        return False
    swapped = short[at + 1 : at + 2] + short[at] + short[at + 2 :]
    return short[at + 1 :] == long[at + 1 :] or long[at:] == swapped


def _folded(name: str) -> str:
    return name.casefold().translate(_SEPARATORS)
