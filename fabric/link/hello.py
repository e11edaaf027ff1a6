"""Hellos: what this node says of itself on each link, and which link a hello belongs to."""

from __future__ import annotations

from collections.abc import Iterable

from peerfabric.link.addresses import newer, usable
from peerfabric.link.commands import Dial
from peerfabric.link.dialling import Dialling
from peerfabric.link.link import HELLO_FIRST, CameUp, Change, LifeEnded, Link, Moved
from peerfabric.link.tables import OURSELVES
from peerfabric.wire.frames import (
    MAGIC,
    OTHER_FABRIC,
    OTHER_VERSION,
    TOO_MANY_PEERS,
    VERSION,
    Address,
    Hello,
    encode_frame,
)


class Hellos(Dialling):
    """Who says hello to whom."""

    # Ours

    def tell_all(self) -> None:
        """Our address has changed in a way that all must know who are linked: say hello again."""
        self.hello_due |= {link: None for link in self.by_wire.values() if link.connected and link.wire != OURSELVES}

    def hello_frames(self, now: float) -> Iterable[tuple[Link, list[bytes]]]:
        """The HELLOs that are due; a socket that refuses one only delays it."""
        if not self.hello_due:
            return []
        due, self.hello_due = self.hello_due, {}
        frames = []
        for link in due:
            if link.wire not in self.by_wire or not link.connected or link.wire in self.rejections:
                continue
            if link.kept is not None:
                link.plan_hello(now + HELLO_FIRST)  # the one frame that is kept for this wire goes first
                self.look(link, link.hello_at)
                continue
            hello = Hello(
                MAGIC,
                VERSION,
                self.fabric,
                link.node_id,
                self.address,
                link.mine,
                link.theirs,
                link.up,
                self.frame_bytes_max,
                self.news_for(link),
                self.asks(link),
            )
            frames.append((link, [encode_frame(hello)]))
            link.hello_sent(now)
            self.look(link, link.hello_at)
        return frames

    # Theirs

    def receive_hello(self, hello: Hello, now: float) -> list[Change]:
        """Somebody said hello to this node, or to one that listened here before."""
        theirs = hello.address
        if hello.fabric != self.fabric:
            self.reject(theirs, OTHER_FABRIC, now)
            return []
        if theirs.node_id == self.address.node_id:
            return self._hello_from_ourselves(hello, now)
        changes: list[Change] = []
        link = self._by_node.get(theirs.node_id)
        if link is not None and link.address is not None and link.address.epoch != theirs.epoch:
            if not newer(theirs, link.address):
                self.count("hellos of an earlier epoch")
                return []
            changes += self._part(link, now, proven=True, died=True)
            link = None
        changes += self._replaced(theirs, now)
        same_host = theirs.host == self.address.host
        news = self._addresses.met(theirs, same_host=same_host)
        candidate = self._candidate_for(hello)
        if link is None and candidate is not None:
            link = self._bind(candidate, theirs)
        elif candidate is not None and candidate is not link and link is not None:
            self._addresses.candidate_leads_to(candidate.endpoint, theirs.node_id)
            self._addresses.candidate_useless(candidate.endpoint)
            self._drop(candidate)
        if link is None:
            if self.closing:
                return changes
            if len(self.by_wire) >= self.peers_max:
                self.reject(theirs, TOO_MANY_PEERS, now)
                return changes
            link = self._dial_peer(theirs, now)
            if link is None:
                return changes
        if same_host and self._readdress(link, theirs):
            changes.append(Moved(link))
        if link.mine < hello.yours <= self._half:
            # A half that we gave up, perhaps before it was known whose endpoint it led to; only a larger one counts.
            changes += [LifeEnded(link)] if link.up else []
            self._restart(link, now)
        old_id = link.in_id
        ended, came_up, wanted = link.receive_hello(hello, now)
        self.look(link, now)
        if link.in_id != old_id:
            self.by_id.pop(old_id, None)
        if ended:
            changes.append(LifeEnded(link))
        if came_up:
            self.by_id[link.in_id] = link
            self._addresses.stop_retrying(link.node_id)
            changes.append(CameUp(link))
        self.heard(link, hello, news, now)
        if wanted and link.connected:
            link.plan_hello(now)
            self.hello_due[link] = None
        elif not link.connected and not link.dialling:
            self._dial(link, link.endpoints[0])  # it lives: no need to wait for the next attempt
        return changes

    def _hello_from_ourselves(self, hello: Hello, now: float) -> list[Change]:
        link = self.by_wire.get(OURSELVES)
        if link is not None and hello.mine == link.mine:
            _, came_up, wanted = link.receive_hello(hello, now)
            if came_up:
                self.by_id[link.in_id] = link
                self.look(link, now)
            if wanted:
                self.hello_due[link] = None
            return [CameUp(link)] if came_up else []
        found = self._halves.get(hello.mine)
        if found is not None and found.address is None:
            self._addresses.candidate_is_ours(found.endpoint)
            self._drop(found)
        return []

    def _candidate_for(self, hello: Hello) -> Link | None:
        """The wire of a static peer that turns out to lead to the node of this hello."""
        by_half = self._halves.get(hello.yours) if hello.yours else None
        if by_half is not None and by_half.address is None and by_half.wire in self.by_wire:
            return by_half
        return next((link for link in self._at(hello.address) if link.address is None), None)

    def _bind(self, link: Link, address: Address) -> Link:
        link.meet(address)
        link.endpoints = [link.endpoint]
        self._addresses.candidate_leads_to(link.endpoint, address.node_id)
        self._addresses.dialled(address.node_id)
        self._by_node[address.node_id] = link
        self.by_peer[link.peer] = link
        return link

    def _replaced(self, theirs: Address, now: float) -> list[Change]:
        """Another node answers at the endpoint of a peer: that peer has gone from there."""
        changes: list[Change] = []
        for link in self._at(theirs):
            if link.address is not None and link.node_id != theirs.node_id and not link.up:
                changes += self._part(link, now, proven=True, died=True)
                self.lost(link.node_id, now)
        return changes

    def reject(self, address: Address, reason: int, now: float) -> None:
        """Tell a node why we will not talk to it, at most once in a while."""
        self.count(
            {OTHER_FABRIC: "hellos of another fabric", OTHER_VERSION: "hellos of another version"}.get(
                reason, "peers over the limit"
            )
        )
        endpoints = usable(address, self.address.host)
        if endpoints and self.rejections.begin(self._next_wire, address.node_id, reason, now):
            self.commands.append(Dial(self._next_wire, endpoints[0]))
            self._next_wire += 1
            self._wake_at(self.rejections.deadline())
