"""Dialling: which nodes and endpoints are dialled, and when, of all that discovery, hellos and people propose."""

from __future__ import annotations

from peerfabric.link.addresses import elsewhere, newer, usable
from peerfabric.link.link import Change, Link
from peerfabric.link.tables import OURSELVES, Tables
from peerfabric.wire.frames import Address


class Dialling(Tables):
    """Whom this node dials. What is proposed here is a hint: who is there, a hello tells."""

    def discovered(self, address: Address, now: float) -> list[Change]:
        """A node may be reached at `address`."""
        if address.node_id == self.address.node_id:
            return []
        link = self._by_node.get(address.node_id)
        if self._addresses.is_stale(address):
            return []
        if not self._addresses.has_room(address.node_id):
            self.count("peers over the limit")
            return []
        self._addresses.put(address)
        if link is not None and link.address is not None:
            if not newer(address, link.address):
                if not link.up and address.epoch == link.address.epoch:
                    self._readdress(link, address)
                return []
            changes = self._part(link, now, proven=True, died=True)
            self._dial_peer(address, now)
            return changes
        if not self.closing and self.wanted(address) and not self.rejections.is_rejected(address.node_id, now):
            self._dial_peer(address, now)
        return []

    def _readdress(self, link: Link, address: Address) -> bool:
        """There is news of where the peer listens: dial it there next, and now if nothing is under way.

        What is connected stays. Returns whether it was news.
        """
        endpoints = usable(address, self.address.host)
        if link.address is None or not endpoints or not elsewhere(address, link.address):
            return False
        link.meet(address)
        link.endpoints = endpoints
        if not link.connected and not link.dialling and not self.closing:
            self._dial(link, endpoints[0])
        return True

    def candidate(self, endpoint: str, now: float) -> None:
        """Somebody may listen at `endpoint`; who, its hello will tell."""
        if endpoint not in self.address.inbox and self._addresses.add_candidate(endpoint, now):
            self._wake_at(now)

    def lost(self, node_id: str, now: float) -> None:
        """Discovery does not see the node any more; only its link decides whether it lives."""
        self._addresses.forget(node_id)
        self._wake_at(now)  # a candidate that led to it may be dialled again

    def redial(self, node_id: str, now: float) -> None:
        """A link with the node may be of use now, whatever came of the last one."""
        address = self._addresses.get(node_id)
        if address is not None and node_id not in self._by_node and not self.closing:
            self._dial_peer(address, now)

    def _dial_peer(self, address: Address, now: float) -> Link | None:
        endpoints = usable(address, self.address.host)
        if not endpoints:
            self.count("addresses out of reach")
            return None
        if len(self.by_wire) >= self.peers_max:
            self.count("peers over the limit")
            return None
        link = self._new_link(now, address)
        link.endpoints = endpoints
        self._by_node[address.node_id] = link
        self.by_peer[link.peer] = link
        self._addresses.dialled(address.node_id)
        self._dial(link, endpoints[0])
        return link

    def _dial_due(self, now: float) -> None:
        for endpoint in self._addresses.take_due_candidates(now, self._by_node):
            known = self._linked_at(endpoint)
            if known is not None:
                # It came to us first; another connection would end the life of the one that works.
                self._addresses.candidate_leads_to(endpoint, known.node_id)
                continue
            link = self._new_link(now, None)
            link.endpoints = [endpoint]
            self._dial(link, endpoint)
        for node_id in self._addresses.take_due_nodes(now):
            peer, address = self._by_node.get(node_id), self._addresses.get(node_id)
            if peer is not None:
                if not peer.connected and not peer.dialling:
                    self._dial(peer, peer.endpoints[0])
            elif address is None or not self.wanted(address) or self._dial_peer(address, now) is None:
                self._addresses.stop_retrying(node_id)
        self._wake_at(self._addresses.deadline())

    def _linked_at(self, endpoint: str) -> Link | None:
        """The link with the node that says that it listens at `endpoint`, if it is up."""
        links = (k for k in self._by_node.values() if k.up and k.address is not None and k.wire != OURSELVES)
        return next((k for k in links if k.address is not None and endpoint in k.address.inbox), None)
