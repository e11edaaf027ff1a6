"""Interest of this node, its version, when to tell it, and whether two nodes have anything in common."""

from __future__ import annotations

from math import inf
from typing import Final

from peerfabric.names import matches
from peerfabric.wire.frames import Interest

PAUSE_FIRST: Final = 0.01
PAUSE_MAX: Final = 0.2
"""Seconds, doubled each time, between two rounds of INTEREST: what is opened meanwhile is told together."""
PAUSE_OVER: Final = 1.0
"""After so long without a round the next one comes at once."""


class Interests:
    """What this node consumes, produces, subscribes to and publishes.

    `version` grows with every change; each link is told the whole, never a difference, so that a lost or
    repeated INTEREST changes nothing. Changes are gathered: a round at `due_at` tells all that there are.
    """

    def __init__(self) -> None:
        self.version = self.told_version = 1
        """Of now, and of the last round."""
        self.due_at = inf
        self._told_at, self._pause = -inf, 0.0
        self.consumes: set[str] = set()
        self.produces: set[str] = set()
        self.subscribes: dict[str, int] = {}
        self.publishes: set[str] = set()

    def changed(self, now: float) -> None:
        """Every link must be told again."""
        self.version += 1
        self.gather(now)

    def gather(self, now: float) -> None:
        """Some link must be told again, in the next round."""
        if self.due_at == inf:
            if now - self._told_at >= PAUSE_OVER:
                self._pause = 0.0
            self.due_at = max(now, self._told_at + self._pause)

    def told(self, now: float) -> None:
        """A round begins."""
        self.told_version, self.due_at, self._told_at = self.version, inf, now
        self._pause = min(PAUSE_MAX, max(PAUSE_FIRST, 2 * self._pause))

    def in_common(self, theirs: Interest) -> bool:
        """Whether anything could ever flow between us and a peer with that interest."""
        return bool(
            self.consumes.intersection(theirs.produces)
            or any(c.queue in self.produces for c in theirs.consumes)
            or any(matches(p, topic) for p in self.subscribes for topic in theirs.publishes)
            or any(matches(s.pattern, topic) for s in theirs.subscribes for topic in self.publishes)
        )

    @property
    def with_ourselves(self) -> bool:
        """Whether we consume from a queue that we produce."""
        return not self.consumes.isdisjoint(self.produces)
