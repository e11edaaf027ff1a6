"""Interest of this node, its version, when to tell it, and whether two nodes have anything in common."""

from __future__ import annotations

from peerfabric.names import matches
from peerfabric.wire.frames import Interest


class Interests:
    """What this node consumes, produces, subscribes to and publishes.

    `version` grows with every change; each link is told the whole, never a difference, so that a lost or
    repeated INTEREST changes nothing.
    """

    def __init__(self) -> None:
        self.version = 1
        self.consumes: set[str] = set()
        self.produces: set[str] = set()
        self.subscribes: dict[str, int] = {}
        self.publishes: set[str] = set()

    def changed(self) -> None:
        """Every link must be told again."""
        self.version += 1

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
        return bool(self.consumes & self.produces)
