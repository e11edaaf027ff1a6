"""Complaints that are repeated while their cause lasts, less and less often."""

from __future__ import annotations

from typing import Final

FIRST: Final = 10.0
"""Seconds from the first complaint to the second; doubled each time."""


class Doubling:
    """Says when to complain: at once, then at doubling intervals, for as long as it is asked."""

    def __init__(self) -> None:
        self._at, self._wait = 0.0, FIRST

    def is_due(self, now: float) -> bool:
        if now < self._at:
            return False
        self._at, self._wait = now + self._wait, self._wait * 2
        return True
