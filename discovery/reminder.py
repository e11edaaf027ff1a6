"""Reminders: when to say again what is still wrong, ever less often."""

from __future__ import annotations

from typing import Final

REMIND_FIRST, REMIND_MAX = 10.0, 3600.0
"""Seconds until a thing is said again, doubled each time."""

_FORGET_AFTER: Final = 2.0
"""Times the last wait: what has not happened for so long is new when it comes again."""


class Reminders:
    """What was said, by subject, and when it is due again. Of one thread."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, float]] = {}
        """Subject -> (when it is due again, how long that was to wait)."""

    def due(self, subject: str, now: float) -> bool:
        """Whether to say it now; if so, the next time is later."""
        at, wait = self._said.get(subject, (now, 0.0))
        if now < at:
            return False
        forgotten = now > at + _FORGET_AFTER * wait
        wait = REMIND_FIRST if forgotten or not wait else min(REMIND_MAX, 2 * wait)
        self._said[subject] = (now + wait, wait)
        return True
