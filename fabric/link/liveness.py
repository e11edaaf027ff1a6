"""Liveness timers of a link: when to PING, until when the fence stands, when silence counts.

A link is *busy* while either side holds, or has in flight, messages of the other. *Evidence* that both directions work
is when we sent the newest frame that the peer has echoed. Silence counts only against a peer that owes an echo.
"""

from __future__ import annotations

from typing import Final

FENCE: Final = 2.5
"""A consumer starts messages only within this time after the evidence."""
PING_BUSY: Final = 0.5
"""A busy link whose evidence is older than this is due for a PING."""
PING_IDLE: Final = 5.0
"""An idle link on which nothing was heard for so long, give or take a fifth, is due for one."""
PING_UNTIL: Final = 1.5
"""No further PING leaves while one has not been echoed for so long: a pipe keeps their order, so it would tell no more,
and a peer that hears us but is not heard takes us for alive as long as we talk."""
SILENCE: Final = 2.0
"""A peer that owes an echo for so long is suspect."""
VANISHED_AFTER: Final = 4.0
"""And for so long is given up, as is one that is suspect for another reason for so long. But not within FENCE after the
last frame of it: what we have echoed may be its evidence, and let it start messages."""
FENCE_STEP: Final = 0.25
"""The fence follows the evidence in steps of this, since to move it costs a look at all that is held."""


def ping_due(*, busy: bool, evidence: float, pinged_at: float, heard_at: float, jitter: float) -> float:
    """When the next PING is due; `jitter` is in [0, 1).

    On a busy link as soon as the evidence is too old, and then as often as that until there is an echo.
    """
    if busy:
        return max(evidence, pinged_at) + PING_BUSY
    heard_at = heard_at if heard_at > pinged_at + SILENCE else pinged_at  # later than the answer to that PING
    return heard_at + PING_IDLE * (0.8 + 0.4 * jitter)


def silent_since(asked_at: float, excused_at: float) -> float:
    """From when on the silence of a peer counts that owes an echo since `asked_at`; we were late at `excused_at`."""
    return max(asked_at, excused_at)
