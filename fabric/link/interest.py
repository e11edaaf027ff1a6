"""Interest of this node: which queues, topics and services it uses, told to every peer.

Each link is told the whole, never a difference, so that a lost or repeated INTEREST changes nothing. Changes are
gathered and told in rounds; a link whose last INTEREST is not echoed yet takes part once it is. Peers that have nothing
in common with this node are parted from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final

from peerfabric.link.control import Control
from peerfabric.link.link import Link
from peerfabric.link.links import IDLE_CLOSE_AFTER, OURSELVES, Links
from peerfabric.link.machine import Handler, Machine
from peerfabric.names import is_wildcard, matches
from peerfabric.wire.frames import Interest, Serving

PAUSE_FIRST: Final = 0.01
PAUSE_MAX: Final = 0.2
"""Seconds, doubled each time, between two rounds of INTEREST: what is opened meanwhile is told together."""
PAUSE_OVER: Final = 1.0
"""After so long without a round the next one comes at once."""

ROUND: Final = "round"
"""Stands among the deadlines, beside the links that may be parted from."""


class Told:
    """What Interests knows of a link."""

    __slots__ = ("number", "useless_since")

    def __init__(self) -> None:
        self.number = 0
        """Of our last INTEREST: the next one waits until it is echoed."""
        self.useless_since = inf
        """Since when there has been nothing in common; inf: there is something."""


class Interests(Machine):
    """What this node wants, its version, which grows with every change, and what each peer knows of it.

    Args:
        links: Its links.
        control: Takes the frames.
        machines: All of the engine's, this one among them: they say what INTEREST holds, and hear what peers tell.
        part: Called with a link that has been of no use for long.
        tell_fabric: Called in each round, before the links are told: what changed is for those without one, too.
        keeps: Whether a link stays though nothing is in common.
    """

    def __init__(
        self,
        links: Links,
        control: Control,
        machines: Iterable[Machine],
        part: Callable[[Link, float], None] = lambda link, now: None,
        tell_fabric: Callable[[float], None] = lambda now: None,
        keeps: Callable[[Link], bool] = lambda link: False,
    ) -> None:
        super().__init__()
        self.version = 1
        self.consumes: set[str] = set()
        self.produces: set[str] = set()
        self.subscribes: dict[str, int] = {}
        """Pattern -> serial."""
        self.publishes: set[str] = set()
        self.serves: dict[str, int] = {}
        """Service -> how many of its calls run here at once."""
        self.calls: set[str] = set()
        self._links, self._control, self._machines, self._part = links, control, machines, part
        self._tell_fabric, self._keeps = tell_fabric, keeps
        self._told: dict[Link, Told] = {}
        self._again: dict[Link, None] = {}
        """Links for which the next round is meant even if nothing has changed."""
        self._round_version = 1
        self._round_at, self._pause = -inf, 0.0

    def handlers(self) -> Mapping[type, Handler]:
        return {Interest: self._handle}

    # What we want

    def changed(self, now: float) -> None:
        """Every link must be told again."""
        self.version += 1
        self._gather(now)
        if OURSELVES in self._links.by_wire:
            return
        if not (self.consumes.isdisjoint(self.produces) and self.calls.isdisjoint(self.serves)):
            self._links.ourselves(now)

    @property
    def is_told(self) -> bool:
        """Whether all who may have something to do with what this node uses now are dialled."""
        return self._round_version == self.version

    def tell_again(self, link: Link, now: float) -> None:
        """The peer must hear in the next round what has come of it."""
        if link in self._told:
            self._again[link] = None
            self._gather(now)

    def _gather(self, now: float) -> None:
        if now - self._round_at >= PAUSE_OVER:
            self._pause = 0.0
        self.deadlines.put(ROUND, max(now, self._round_at + self._pause))

    def handle_timeout(self, now: float) -> None:
        for thing in self.deadlines.take_due(now):
            if thing is ROUND:
                self._tell_all(now)
            else:
                self._look_at(thing, now)

    def _tell_all(self, now: float) -> None:
        """Begin a round."""
        concerned, self._again = list(self._again), {}
        self._round_at, self._pause = now, min(PAUSE_MAX, max(PAUSE_FIRST, 2 * self._pause))
        if self._round_version != self.version:
            self._round_version = self.version
            self._tell_fabric(now)
            concerned = list(self._told)
        for link in concerned:
            self.due[link] = None
            self._control.note(link)
            self._look_at(link, now)

    # What each link is told

    def link_up(self, link: Link, now: float) -> None:
        self._put(link, now, first=True)

    def poll_control(self, link: Link, now: float) -> None:
        if link.echoed >= self._told[link].number:  # else an echo lets it leave
            self._put(link, now, first=False)

    def _put(self, link: Link, now: float, *, first: bool) -> None:
        self.due.pop(link, None)
        interest = Interest(b"", 0, 0, self.version, [], [], sorted(self.produces), sorted(self.publishes))
        interest.serves = [Serving(service, self.serves[service]) for service in sorted(self.serves)]
        interest.calls = sorted(self.calls)
        for machine in self._machines:
            machine.fill_interest(link, interest, now, first=first)
        self._control.put(link, interest)
        self._told.setdefault(link, Told()).number = link.out_number

    # What peers want

    def _handle(self, link: Link, interest: Interest, body: object, now: float) -> None:
        before = link.their_interest
        if before is not None and interest.version < before.version:
            return
        link.told(interest)
        self._links.echo_soon(link, now)
        for machine in self._machines:
            machine.handle_interest(link, interest, now, first=before is None)
        self._control.note(link)
        self._look_at(link, now)

    def in_common(self, theirs: Interest) -> bool:
        """Whether anything could ever flow between us and a peer with that interest."""
        return (
            not self.consumes.isdisjoint(theirs.produces)
            or not self.produces.isdisjoint(each.queue for each in theirs.consumes)
            or _overlap(self.subscribes, theirs.publishes)
            or _overlap([each.pattern for each in theirs.subscribes], self.publishes)
            or not self.calls.isdisjoint(each.service for each in theirs.serves)
            or not self.serves.keys().isdisjoint(theirs.calls)
        )

    def is_useful(self, link: Link) -> bool:
        """Whether anything could ever flow on `link`, or one side still has something of the other."""
        theirs = link.their_interest
        return theirs is None or self.in_common(theirs) or any(machine.needs(link) for machine in self._machines)

    def _look_at(self, link: Link, now: float) -> None:
        """Part from a peer with whom there has been nothing in common for long."""
        told = self._told.get(link)
        if told is None or link.their_interest is None or link.wire == OURSELVES:
            return
        if self.in_common(link.their_interest):
            told.useless_since = inf  # until one of us changes its interest
            self.deadlines.move(link, inf)
            return
        needed = self._keeps(link) or any(machine.needs(link) for machine in self._machines)
        if needed or told.useless_since == inf:
            told.useless_since = now
        if now - told.useless_since >= IDLE_CLOSE_AFTER:
            self._part(link, now)
        else:
            self.deadlines.put(link, told.useless_since + IDLE_CLOSE_AFTER)

    # Changes of links

    def link_down(self, link: Link) -> None:
        for each in (self._told, self.due, self._again):
            each.pop(link, None)
        self.deadlines.move(link, inf)

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.link_down(link)


def _overlap(patterns: Iterable[str], topics: Iterable[str]) -> bool:
    """Whether one of `patterns` selects one of `topics`."""
    patterns, topics = set(patterns), set(topics)
    if not patterns or not topics:
        return False
    wild = [pattern for pattern in patterns if is_wildcard(pattern)]
    return not patterns.isdisjoint(topics) or any(matches(p, topic) for p in wild for topic in topics)


__all__ = ["Interests"]
