"""Membership: how a node makes itself known and gets to know others, through its backends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from peerfabric.discovery.base import Announcement, Backend
from peerfabric.discovery.exchange import ExchangeBackend
from peerfabric.discovery.roster import Roster
from peerfabric.engine import Engine
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.io.waiting import clock
from peerfabric.wire.frames import Address


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
        self._address, self._fabric = address, fabric
        self._engine, self._pump, self._backends = engine, pump, backends
        self._roster = Roster(
            node_id=address.node_id,
            fabric=fabric,
            host=address.host,
            on_peer=self._found,
            on_candidate=self._proposed,
            on_lost=self._lost,
            peers_max=peers_max,
        )
        self._exchange = next((b for b in backends if isinstance(b, ExchangeBackend)), None)

    def join(self) -> None:
        """Announce this node everywhere, then watch for others."""
        exchange = self._exchange
        if exchange is not None:
            self._pump.on_learned = lambda addresses: exchange.learned(map(self._announcement, addresses))
            self._pump.on_met = lambda met: self._pass_on(exchange, met)
        announcement = self._announcement(self._address)
        for backend in self._backends:
            backend.announce(announcement)
        for backend in self._backends:
            backend.watch(self._roster.report)

    def moved(self, address: Address) -> None:
        """The node listens at the endpoints of `address`: tell its peers, and all who look for it."""
        with self._pump.lock:
            now = self._engine.address  # may have changed in what is none of ours
            self._engine.readdress(msgspec.structs.replace(now, inbox=address.inbox, outbox=address.outbox), clock())
            self._address = address = self._engine.address
        announcement = self._announcement(address)
        for backend in self._backends:
            backend.announce(announcement)
        self._pump.wake()

    def leave(self) -> None:
        """Withdraw what was announced, and watch no more."""
        for backend in self._backends:
            backend.close()

    def _pass_on(self, exchange: ExchangeBackend, met: Iterable[tuple[Address, bool]]) -> None:
        """Tell peers of those who came, and no longer of those who went."""
        newcomers = False
        for address, present in met:
            if present:
                exchange.met(self._announcement(address))
                newcomers = True
            else:
                exchange.gone(address.node_id)
        sample = [_address(a) for a in exchange.sample(exclude=(self._address.node_id,))]
        with self._pump.lock:
            if newcomers:
                self._engine.links.introduce(sample, clock())
            else:
                self._engine.links.sample = sample

    def _found(self, announcement: Announcement) -> None:
        with self._pump.lock:
            self._engine.handle_discovered(_address(announcement), clock())
        self._pump.wake()

    def _proposed(self, endpoint: str) -> None:
        with self._pump.lock:
            self._engine.handle_candidate(endpoint, clock())
        self._pump.wake()

    def _lost(self, node_id: str) -> None:
        with self._pump.lock:
            self._engine.handle_lost(node_id, clock())

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
