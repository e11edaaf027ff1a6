"""Meeting: the first update on a topic waits a moment for those who subscribe it already.

A node links only with those with whom it has something in common, so what it publishes first on a topic would be lost
to all others. A program waits by `AsyncPublisher.ready`; over HTTP nobody can, and behind one address the first update
may come to each of several processes in turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from peerfabric.link.links import OURSELVES
from peerfabric.names import matches

if TYPE_CHECKING:
    from peerfabric.nodes.aio.node import AsyncNode
    from peerfabric.nodes.aio.topic import AsyncPublisher

MEET_WITHIN: Final = 1.0
"""Seconds that the first update waits at most."""
LOOK_EVERY: Final = 0.01


class Meeting:
    """Who subscribes the topics of a node's new publishers, and does not hear it yet."""

    def __init__(self, node: AsyncNode) -> None:
        self._node = node
        self._new: set[AsyncPublisher[Any]] = set()
        self._silent: set[str] = set()
        """Nodes that were waited for in vain, such as one that is stopped: they delay one update only."""

    def begin(self, publisher: AsyncPublisher[Any]) -> None:
        """It was opened just now."""
        self._new.add(publisher)

    async def wait(self, publisher: AsyncPublisher[Any]) -> None:
        """Return when those who subscribe its topic would get an update, or it has waited for long enough."""
        if publisher not in self._new:
            return
        await publisher.ready(0)  # it has started
        loop = asyncio.get_running_loop()
        end = loop.time() + MEET_WITHIN
        while publisher in self._new:
            missing = self._missing(publisher)
            self._silent &= missing
            if missing == self._silent or loop.time() >= end:
                self._silent |= missing
                self._new.discard(publisher)
            else:
                await asyncio.sleep(LOOK_EVERY)

    def _missing(self, publisher: AsyncPublisher[Any]) -> set[str]:
        """The ids of nodes that subscribe its topic, or may do so, and have not confirmed that they hear it."""
        context, topic = self._node._context, publisher.topic
        with context.pump.lock:
            engine = context.engine
            if not engine.roster.own.uses("publishes", topic):
                return {""}  # who may is looked for in a moment
            found = set()
            for link in engine.links.by_wire.values():
                if link.wire == OURSELVES:
                    continue
                theirs = link.their_interest if link.up else None
                if theirs is None or any(
                    matches(each.pattern, topic) and f"{link.node_id} {each.pattern}" not in publisher.end.confirmed
                    for each in theirs.subscribes
                ):
                    found.add(link.node_id)
            return found


__all__ = ["MEET_WITHIN", "Meeting"]
