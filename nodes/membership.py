"""Membership: how a node makes itself known and gets to know others, through its backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec

from peerfabric.discovery.base import AnnounceKey, Announcement, Backend, Linked
from peerfabric.discovery.roster import Roster
from peerfabric.engine import Engine
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.io.waiting import clock
from peerfabric.wire.frames import Address

SIGHTING: Final = ("registry", "mdns")
JOINS_WITHIN_MDNS: Final = 3.0
"""Seconds after its start in which mDNS may not have shown a node all that are there."""
"""Backends that show nodes themselves, with what they announce."""
KNOWN_ELSEWHERE_MAX: Final = 512
"""Nodes known from elsewhere from which on mDNS does not browse: with so many, its traffic grows out of hand."""


@runtime_checkable
class LooksAtLinks(Protocol):
    """A backend that asks which peers are linked, in its own thread."""

    linked: Callable[[], list[Linked]]


@runtime_checkable
class Pausing(Protocol):
    """A backend that can browse or not."""

    name: str

    def pause(self, paused: bool) -> None: ...


class Membership:
    """Announces one node and reports others to its engine, from whatever thread they are found in."""

    def __init__(
        self,
        address: Address,
        fabric: str,
        peers_max: int,
        engine: Engine,
        pump: Pump,
        backends: Sequence[Backend],
    ) -> None:
        self._fabric = fabric
        self._engine, self._pump, self._backends = engine, pump, backends
        self._roster = Roster(
            node_id=address.node_id,
            epoch=address.epoch,
            fabric=fabric,
            host=address.host,
            on_peer=self._found,
            on_candidate=self._proposed,
            on_lost=self._lost,
            on_withdrawn=self._withdrawn,
            peers_max=peers_max,
        )
        self._pausing = next((b for b in backends if isinstance(b, Pausing)), None)

    def join(self) -> None:
        """Announce this node everywhere, then watch for others."""
        names = {backend.name for backend in self._backends}
        if "exchange" in names:
            with self._pump.lock:
                self._engine.exchange(sights=not names.isdisjoint(SIGHTING))
        if "mdns" in names:
            self._engine.joins_within = JOINS_WITHIN_MDNS
        for backend in self._backends:
            looks = getattr(backend, "resolver", backend)
            if isinstance(looks, LooksAtLinks):
                looks.linked = self._linked
        self._announce(self._engine.address)
        self._pump.on_announced = self._announce
        for backend in self._backends:
            backend.watch(self._roster.report)

    def _announce(self, address: Address) -> None:
        announcement = self._announcement(address)
        for backend in self._backends:
            backend.announce(announcement)

    def moved(self, address: Address) -> None:
        """The node listens at the endpoints of `address`: tell its peers, and soon all who look for it."""
        with self._pump.lock:
            now = self._engine.address  # may have changed in what is none of ours
            self._engine.readdress(msgspec.structs.replace(now, inbox=address.inbox, outbox=address.outbox), clock())
        self._pump.wake()

    def tell_again(self) -> None:
        """Report everybody who is announced, as if that were news."""
        for peer in self._roster.view():
            self._found(peer.announcement)

    def settle(self, subnets: Sequence[str]) -> None:
        """Addresses in these subnets are tried before others from now on."""
        from peerfabric.nodes.interfaces import Near  # with what only nodes of a LAN need

        with self._pump.lock:
            self._engine.links.near = Near(subnets)

    def rekey(self, keys: Sequence[AnnounceKey]) -> None:
        """The fabric has these secrets from now on; the node is announced to all who have one of them."""
        for backend in self._backends:
            rekey = getattr(backend, "rekey", None)
            if rekey is not None:
                rekey(keys)
        with self._pump.lock:
            self._engine.handle_digest_keys([each.key for each in keys], clock())
        self._pump.wake()

    def leave(self) -> None:
        """Withdraw what was announced, and watch no more."""
        for backend in self._backends:
            backend.close()

    def _linked(self) -> list[Linked]:
        """Who is linked over TCP, by what endpoint."""
        with self._pump.lock:
            return [
                Linked(link.endpoint, tuple(link.address.inbox))
                for link in self._engine.links.by_wire.values()
                if link.up and link.address is not None and link.endpoint.startswith("tcp://")
            ]

    def _found(self, announcement: Announcement) -> None:
        with self._pump.lock:
            self._engine.handle_discovered(_address(announcement), clock())
        self._pump.wake()
        self._look_at_numbers()

    def _proposed(self, endpoint: str) -> None:
        with self._pump.lock:
            self._engine.handle_candidate(endpoint, clock())
        self._pump.wake()

    def _withdrawn(self, endpoint: str) -> None:
        with self._pump.lock:
            self._engine.handle_withdrawn(endpoint)

    def _lost(self, node_id: str) -> None:
        with self._pump.lock:
            self._engine.handle_lost(node_id, clock())
        self._pump.wake()
        self._look_at_numbers()

    def _look_at_numbers(self) -> None:
        if self._pausing is None:
            return
        alone = self._roster.known_only_to(self._pausing.name)
        with self._pump.lock:
            elsewhere = self._engine.links.known_count - alone
        self._pausing.pause(elsewhere >= KNOWN_ELSEWHERE_MAX)

    def _announcement(self, address: Address) -> Announcement:
        return Announcement(
            node_id=address.node_id,
            epoch=address.epoch,
            name=address.name,
            fabric=self._fabric,
            host=address.host,
            inbox=tuple(address.inbox),
            outbox=tuple(address.outbox),
            outbox_key=address.outbox_key,
            version=address.version,
            digest=address.digest,
            passes_on=address.passes_on,
        )


def _address(announcement: Announcement) -> Address:
    return Address(
        announcement.node_id,
        announcement.epoch,
        announcement.name,
        announcement.host,
        list(announcement.inbox),
        list(announcement.outbox),
        announcement.outbox_key,
        announcement.version,
        announcement.digest,
        announcement.passes_on,
    )
