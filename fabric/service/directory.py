"""Directory: which services are called here, and who serves each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Final

from peerfabric.link.interest import Interests
from peerfabric.link.link import Belief, Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.peer_names import PeerNames
from peerfabric.reports import ServerView
from peerfabric.service.call import OpenCall
from peerfabric.service.choice import Server
from peerfabric.wire.frames import NAMES_MAX, Interest

NAME_KEPT: Final = 60.0
"""Seconds after its last call for which others are told that a service is called here."""
DIALLED_FOR: Final = 4.0
"""Seconds after which a peer that was dialled, and is neither up nor refused, is not waited for."""


class Service:
    """One service, as it is called here: what waits, and who serves it."""

    __slots__ = ("fresh", "held", "name", "odd", "servers", "used_at")

    def __init__(self, name: str) -> None:
        self.name = name
        self.servers: dict[str, Server] = {}
        """By peer, whoever has told that it serves this, and is not gone; who was chosen last comes last."""
        self.fresh: deque[OpenCall] = deque()
        """Calls for whichever server, the longest first; among them some that have ended."""
        self.odd: dict[OpenCall, None] = {}
        """Calls for which not every server will do; some of them were sent, and are to be sent to another one, too."""
        self.held = 0
        """Users that mean to call it again."""
        self.used_at = -inf


class Directory:
    """The services that are called here or served by anybody. All of its orders are those of arrival.

    Args:
        links: The links of this node.
        interests: Told which services are called.
        joined_at: From when on this node knows who is there.
    """

    def __init__(self, links: Links, interests: Interests, joined_at: float) -> None:
        self.by_name: dict[str, Service] = {}
        self._links, self._interests, self._joined_at = links, interests, joined_at
        self._serve = PeerNames()
        self._reserved: dict[str, None] = {}
        """Names that nobody tells of, as everybody serves them."""

    def of(self, name: str) -> Service:
        """The service of that name, whether anybody serves it or not."""
        service = self.by_name.get(name)
        if service is None:
            service = self.by_name[name] = Service(name)
        return service

    # What is called here

    def called(self, name: str, now: float, open_calls: Iterable[OpenCall]) -> Service:
        """The service is called here: others hear of it, and those who may serve it are dialled."""
        service, called = self.of(name), self._interests.calls
        service.used_at = now
        if name not in called and len(called) >= NAMES_MAX:
            self.forget(now, open_calls, used_before=inf)
        if name not in called and len(called) < NAMES_MAX:
            called.add(name)
            self._interests.changed(now)
        return service

    def reserve(self, name: str, links: Iterable[Link]) -> None:
        """Call it at the peers of these links, which serve it and do not tell. Nobody hears that it is called."""
        service = self.of(name)
        self._reserved[name] = None
        service.used_at = inf
        for link in links:
            service.servers.setdefault(link.peer, Server(link, 1))

    def forget(self, now: float, open_calls: Iterable[OpenCall], used_before: float) -> bool:
        """Services that nobody has called since then or waits for are not ours any more; whether some still are."""
        called, waited_for = self._interests.calls, {call.service for call in open_calls}
        idle = [
            service
            for service in map(self.of, sorted(called))
            if service.used_at <= used_before and not service.held and service.name not in waited_for
        ]
        for service in idle:
            called.discard(service.name)
            service.used_at = -inf
            self._forget_one(service)
        if idle:
            self._interests.changed(now)
        return bool(called)

    def _forget_one(self, service: Service) -> None:
        busy = service.servers or service.fresh or service.odd or service.held
        if not busy and service.name not in self._interests.calls and service.name not in self._reserved:
            self.by_name.pop(service.name, None)

    # Who serves it

    def told(self, link: Link, interest: Interest) -> list[Service]:
        """The peer tells anew what it serves; the services for which that has changed."""
        capacities = {each.service: each.capacity for each in interest.serves}
        added, removed = self._serve.tell(link.peer, capacities)
        for name in added:
            self.of(name).servers[link.peer] = Server(link, capacities[name])
        for name, capacity in capacities.items():
            self.by_name[name].servers[link.peer].capacity = max(1, capacity)
        return [*map(self.of, added), *self._not_served(removed, link.peer)]

    def gone(self, peer: str) -> list[Service]:
        """The peer will not answer any more; the services for which that has changed."""
        reserved = [name for name in self._reserved if peer in self.by_name[name].servers]
        return self._not_served((*self._serve.tell(peer, ())[1], *reserved), peer)

    def _not_served(self, names: Iterable[str], peer: str) -> list[Service]:
        services = [self.by_name[name] for name in names]
        for service in services:
            service.servers.pop(peer, None)
            self._forget_one(service)
        return services

    def may_come(self, now: float) -> bool:
        """Whether somebody may yet be found who is there already: this node is young, or is linking with somebody."""
        if now < self._joined_at or not self._interests.is_told:
            return True
        return any(
            now < link.opened_at + DIALLED_FOR and not (link.up and link.their_interest is not None)
            for link in self._links.by_wire.values()
            if link.close_at == inf and (link.endpoint or link.wire == OURSELVES)
        )

    # Reports

    def names(self) -> list[str]:
        """What somebody serves, this node among them if it calls it."""
        return [name for name, service in self.by_name.items() if service.servers and name not in self._reserved]

    def servers(self, name: str) -> list[ServerView]:
        """Who serves it, and is not gone."""
        service = self.by_name.get(name)
        return [
            ServerView(
                node_id=each.link.node_id,
                name=each.link.name,
                capacity=each.capacity,
                load=each.outstanding + each.others,
                ready=each.link.up and each.link.belief is Belief.ALIVE and not each.link.draining,
            )
            for each in (service.servers.values() if service is not None else ())
        ]


__all__ = ["Directory", "Service"]
