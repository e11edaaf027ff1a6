"""Round trips: how long a PING and its PONG take on a link, for who asks."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

from peerfabric.link.control import Control
from peerfabric.link.link import Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.machine import Handler, Machine
from peerfabric.wire.frames import Pong

KEPT_FOR: Final = 10.0
"""Seconds after a question for which its link is kept though it has no work: others are likely to follow."""
REDIAL_EVERY: Final = 1.0
"""A peer that is known and has no link is dialled so often for as long as somebody asks."""


class RoundTrip:
    """One question on a link, and the seconds that its answer took; None: it has not come yet."""

    def __init__(self, link: Link, asked_at: float) -> None:
        self.link, self.asked_at = link, asked_at
        self.seconds: float | None = None
        self.their_unix_ms = 0
        """Wall-clock time of the peer when it answered; 0: it did not say."""
        self.lost = False
        """The link's life ended before the answer came."""


class RoundTrips(Machine):
    """Questions that wait for a PONG.

    A PING carries our clock and its PONG brings that back, so no other clock is in it. Of several PINGs that a peer
    reads at once it answers the last; that answers all.
    """

    def __init__(self, links: Links, control: Control) -> None:
        super().__init__()
        self._links, self._control = links, control
        self._waiting: dict[Link, list[RoundTrip]] = {}
        self._kept: dict[Link, None] = {}
        self._redial_at: dict[str, float] = {}
        self.last: dict[Link, float] = {}
        """The seconds that the last answer took on each link, whoever asked."""

    def handlers(self) -> Mapping[type, Handler]:
        return {Pong: self._handle_pong}

    def find(self, peer: str) -> list[Link]:
        """The links with the node of that id, those of that name, or with who listens at that endpoint."""
        return [link for link in self._links.by_peer.values() if link.wire != OURSELVES and _is(link, peer)]

    def ask(self, link: Link, now: float) -> RoundTrip:
        """Send a PING on an up link in the next turn."""
        trip = RoundTrip(link, now)
        self._waiting.setdefault(link, []).append(trip)
        self._kept[link] = None
        self.deadlines.move(link, now + KEPT_FOR)
        link.ask()
        self._control.note(link)
        return trip

    def forget(self, trip: RoundTrip) -> None:
        """Nobody waits for that answer any more."""
        waiting = self._waiting.get(trip.link, [])
        if trip in waiting:
            waiting.remove(trip)

    def call_up(self, peer: str, now: float) -> None:
        """Dial the nodes of that id or name that are known, and with whom there is no link since there is no work.

        Those whose names are not known yet, as multicast does not tell them, may be the one that is meant.
        """
        if self._redial_at.get(peer, now) <= now:
            for view in self._links.view():
                if view.state == "idle" and (
                    peer in (view.node_id, view.endpoint) or view.name in (view.node_id, peer)
                ):
                    self._links.redial(view.node_id, now)
                    self._redial_at = {peer: now + REDIAL_EVERY}

    def needs(self, link: Link) -> bool:
        return link in self._kept

    def _handle_pong(self, link: Link, pong: Pong, body: object, now: float) -> None:
        if pong.stamp <= now:
            self.last[link] = now - pong.stamp
        waiting = self._waiting.get(link)
        if waiting:
            for trip in waiting:
                if trip.asked_at <= pong.stamp <= now:  # a stranger's stamp, or NaN, is no answer
                    trip.seconds, trip.their_unix_ms = now - pong.stamp, pong.sent_ms
            self._waiting[link] = [trip for trip in waiting if trip.seconds is None]

    def handle_timeout(self, now: float) -> None:
        for link in self.deadlines.take_due(now):
            self._kept.pop(link, None)

    def link_down(self, link: Link) -> None:
        self.last.pop(link, None)
        for trip in self._waiting.pop(link, ()):
            trip.lost = True

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.link_down(link)
        self._kept.pop(link, None)
        self.deadlines.move(link, inf)


def _is(link: Link, peer: str) -> bool:
    address = link.address
    return address is not None and peer in (address.node_id, address.name, link.endpoint, *address.inbox)


__all__ = ["RoundTrip", "RoundTrips"]
