"""Pace of dialling: how many connects may begin, so that nobody can make this node dial the world."""

from __future__ import annotations

from math import inf
from typing import Final

from peerfabric.link.link import Link

DIALS_PER_SECOND: Final = 50
"""To other hosts, in all."""
DIALS_AT_ONCE: Final = 20
"""So many to other hosts may be under way."""
PEER_DIALS_PER_SECOND: Final = 2
"""To one peer at another host, after its first refusal; a second one may follow at once."""


class Rate:
    """So many a second, and as many at once after a rest."""

    __slots__ = ("_full_at", "_gap", "_rest")

    def __init__(self, per_second: int, at_once: int) -> None:
        self._gap = 1 / per_second
        self._rest = self._gap * (at_once - 1) + 1e-9
        self._full_at = -inf

    def free_at(self) -> float:
        """When the next one may go."""
        return self._full_at - self._rest

    def take(self, now: float) -> None:
        """One goes now."""
        self._full_at = max(self._full_at, now) + self._gap


class Pace:
    """Links that are to be dialled, in the order in which they are."""

    def __init__(self) -> None:
        self._waiting: dict[Link, None] = {}
        self._under_way: dict[Link, None] = {}
        self._rate = Rate(DIALS_PER_SECOND, DIALS_AT_ONCE)
        self._peers: dict[Link, Rate] = {}
        """Those that were refused once."""

    def __contains__(self, link: Link) -> bool:
        return link in self._waiting

    def put(self, link: Link) -> None:
        """`link` is to be dialled; one whose peer was met goes before the others."""
        self.over(link)
        if link.met:
            self._waiting = {link: None, **self._waiting}
        else:
            self._waiting[link] = None

    def take(self, now: float) -> list[Link]:
        """Those that are dialled now."""
        taken: list[Link] = []
        for link in self._waiting:
            if len(self._under_way) >= DIALS_AT_ONCE or self._rate.free_at() > now:
                break
            peer = self._peers.get(link)
            if peer is not None:
                if peer.free_at() > now:
                    continue
                peer.take(now)
            self._rate.take(now)
            self._under_way[link] = None
            taken.append(link)
        for link in taken:
            del self._waiting[link]
        return taken

    def free_at(self) -> float:
        """When `take` may have something, if no connect that is under way ends before; inf: not before that."""
        if not self._waiting or len(self._under_way) >= DIALS_AT_ONCE:
            return inf
        soonest = min(self._peers[link].free_at() if link in self._peers else -inf for link in self._waiting)
        return max(soonest, self._rate.free_at())

    def refused(self, link: Link) -> None:
        """A connect of `link` was refused, or led nowhere."""
        if link not in self._peers:
            self._peers[link] = Rate(PEER_DIALS_PER_SECOND, PEER_DIALS_PER_SECOND)

    def over(self, link: Link) -> None:
        """The connect of `link` has ended, or is not wanted any more."""
        self._waiting.pop(link, None)
        self._under_way.pop(link, None)

    def forget(self, link: Link) -> None:
        """`link` is dialled no more."""
        self.over(link)
        self._peers.pop(link, None)
