"""Hellos: what this node says of itself on each link, and which link a hello belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from peerfabric.link.addresses import elsewhere, later, newer
from peerfabric.link.commands import Dial
from peerfabric.link.dialling import Dialling
from peerfabric.link.link import HELLO_FIRST, CameUp, Change, LifeEnded, Link
from peerfabric.link.rejections import REMNANT
from peerfabric.link.tables import OURSELVES
from peerfabric.wire.frames import (
    MAGIC,
    NOT_ME,
    OTHER_FABRIC,
    OTHER_VERSION,
    SUPERSEDED,
    TOO_MANY_PEERS,
    VERSION,
    Address,
    Hello,
    encode_frame,
)

REJECTED: Final = {
    OTHER_FABRIC: "hellos of another fabric",
    OTHER_VERSION: "hellos of another version",
    TOO_MANY_PEERS: "peers over the limit",
}
"""What is counted when a node is rejected for a reason."""


class Hellos(Dialling):
    """Who says hello to whom."""

    # Ours

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

    def receive_hello(self, hello: Hello, now: float, sender: str = "", observed: str = "") -> list[Change]:
        """Somebody said hello to this node, or to one that listened here before.

        `sender`: the node id that its key has proven, if there is a key; `observed`: the address that it came from.
        """
        theirs = hello.address
        if hello.fabric != self.fabric:
            self.reject(theirs, OTHER_FABRIC, now)
            return []
        if hello.to not in ("", self.address.node_id):
            return self._not_for_us(hello, now)
        if theirs.node_id == self.address.node_id:
            return self._hello_from_ourselves(hello, now)
        if not self.admits(theirs.node_id):
            self.count("hellos of nodes that are not let in")
            self._shut_out_at(theirs)
            return []
        link = self._by_node.get(theirs.node_id)
        changes: list[Change] = []
        if link is not None and link.address is not None and link.address.epoch != theirs.epoch:
            if newer(theirs, link.address):
                changes += self._superseded(link, now)
            elif link.met:
                self.count("hellos of an earlier epoch")
                self.reject(theirs, SUPERSEDED, now, hello.mine)
                return []
            else:
                self._drop(link)  # a later life was announced, by whomever, and did not show up
            link = None
        changes += self._replaced(hello, now)
        known = self._addresses.get(theirs.node_id)
        news = known is None or later(theirs, known)
        seen = observed != "" and observed != self._addresses.observed(theirs.node_id, theirs.epoch)
        self._addresses.met(theirs, now, observed)
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
        changes += self._told_address(link, theirs, now)
        if seen:
            changes += self._seen_at(link, now)
        if link.mine < hello.yours <= self._half:
            # A half that we gave up, perhaps before it was known whose endpoint it led to; only a larger one counts.
            changes += self._end_life(link, now)
        changes += self._greeted(link, hello, now)
        if hello.mine == link.theirs:
            link.sender = sender
        self.heard(link, hello, news, now)
        return changes

    def _greeted(self, link: Link, hello: Hello, now: float) -> list[Change]:
        """The peer of `link` said hello."""
        changes: list[Change] = []
        old_id = link.in_id
        ended, came_up, wanted = link.receive_hello(hello, now)
        self.look(link, now)
        if link.in_id != old_id:
            self._life_over(link, old_id)
        if ended:
            changes.append(LifeEnded(link))
        if came_up:
            self.by_id[link.in_id] = link
            self._addresses.stop_retrying(link.node_id)
            self._whys.pop(link.node_id, None)
            self._whys.pop(link.endpoint, None)
            changes.append(CameUp(link))
        door = link.leads(hello)
        if door is not None and not self.closing:
            # Two that try each other's doors in turn may never both be at the right one, if neither says which it was.
            changes += self._end_life(link, now)
            self._pace.forget(link)
            self._dial(link, door, now)
        elif wanted and link.connected:
            link.plan_hello(now)
            self.hello_due[link] = None
        elif not link.connected and not link.dialling:
            self._dial(link, link.doors[0], now)  # it lives: no need to wait for the next attempt
        return changes

    def _told_address(self, link: Link, theirs: Address, now: float) -> list[Change]:
        """The peer says where it listens; an endpoint that it has left is left."""
        before = link.address
        if before is None or theirs == before or (link.met and theirs.version < before.version):
            return []  # before it was met, `before` is what others say of it
        link.meet(theirs)
        self._find_doors(link)
        if not elsewhere(theirs, before):
            return []
        left = link.met and link.endpoint in before.inbox and link.endpoint not in theirs.inbox
        if left and link.endpoint.startswith("tcp://") and not self.closing:
            return self._redial(link, now)
        if not link.connected and not link.dialling and not self.closing:
            self._dial(link, link.doors[0], now)
        return []

    def _seen_at(self, link: Link, now: float) -> list[Change]:
        """The peer is seen at another address than before: dialled there, unless it was met where it is dialled now."""
        self._find_doors(link)
        if link.up or link.confirmed == link.door or link.endpoint.startswith("ipc://") or self.closing:
            return []
        best = link.doors[0]
        return self._redial(link, now) if not best.endpoint.startswith("ipc://") and best != link.door else []

    def _hello_from_ourselves(self, hello: Hello, now: float) -> list[Change]:
        if hello.address.epoch != self.address.epoch:
            if newer(hello.address, self.address):
                self.superseded = next((door.endpoint for door in self._doors(hello.address)), hello.address.name)
            else:
                self.reject(hello.address, SUPERSEDED, now, hello.mine)
            return []
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
        """The wire to an endpoint that turns out to lead to the node of this hello: it has the half that went there."""
        link = self._halves.get(hello.yours) if hello.yours else None
        return link if link is not None and link.address is None and link.wire in self.by_wire else None

    def _bind(self, link: Link, address: Address) -> Link:
        link.meet(address)
        link.unlisted = None if link.endpoint in address.inbox else link.door
        self._find_doors(link)
        self._addresses.candidate_leads_to(link.endpoint, address.node_id)
        self._addresses.dialled(address.node_id)
        self._by_node[address.node_id] = link
        self.by_peer[link.peer] = link
        return link

    def _superseded(self, link: Link, now: float) -> list[Change]:
        """A later life of the peer said hello. Should the earlier one run all the same, it is told, and must stop."""
        if not link.up:
            return self._part(link, now, proven=True, died=True)
        self.answers.append((link.wire, [encode_frame(self.rejections.bye(SUPERSEDED, link.theirs))]))
        changes = self._forget(link, now, proven=True, died=True)
        link.close_at = now + REMNANT
        self.look(link, link.close_at)
        return changes

    def _replaced(self, hello: Hello, now: float) -> list[Change]:
        """Another node answers at the endpoint of a peer, where both mean the same by it: that peer has gone.

        Only where our half went and came back from: what a hello lists, and its host, may be another's.
        """
        theirs, asked = hello.address, self._halves.get(hello.yours) if hello.yours else None
        if asked is None or asked.mine != hello.yours or asked.node_id not in ("", theirs.node_id):
            return []  # to a hello for the peer itself another would have answered NOT_ME
        changes: list[Change] = []
        for link in list(self._by_node.values()):
            here = link.address is not None and asked.endpoint in link.address.inbox
            if link.address is None or not here or link.node_id == theirs.node_id or link.up:
                continue
            local = asked.endpoint.startswith("ipc://")
            same = link.address.host == theirs.host if local else self._share_network(link.address, theirs)
            if same:
                changes += self._part(link, now, proven=True, died=True)
                self._addresses.forget(link.node_id)
        return changes

    # Who is not let in, or meant

    def _not_for_us(self, hello: Hello, now: float) -> list[Change]:
        """A hello for another node came here: its sender is told so, and nothing else happens."""
        theirs = hello.address
        if theirs.node_id == self.address.node_id:
            ours = theirs.epoch == self.address.epoch
            return self.not_there(hello.mine, now) if ours else self._hello_from_ourselves(hello, now)
        self.count("hellos for another node")
        link = self._by_node.get(theirs.node_id)
        if link is not None and link.up:
            self.answers.append((link.wire, [encode_frame(self.rejections.bye(NOT_ME, hello.mine))]))
        else:
            self.reject(theirs, NOT_ME, now, hello.mine)
        return []

    def not_there(self, half: int, now: float) -> list[Change]:
        """Another node got the hello that we said with `half`: the endpoint does not lead to the peer."""
        link = self._halves.get(half)
        if link is None or link.mine != half or link.up or not link.connected or link.address is None:
            return []
        endpoint, address = link.endpoint, link.address
        changes = self._end_life(link, now)
        link.strangers.add(endpoint)
        self._hang_up(link)
        if link.was_up:
            link.suspect(now, now)
            self.look(link, now)
            # Somebody else is where the peer was. Its hello tells who, and whether the peer can still be there.
            self._ask_at(replace(address, inbox=[endpoint]), now)
        self._led_nowhere(link, "not-me", now)
        return changes

    def reject(self, address: Address, reason: int, now: float, half: int = 0) -> None:
        """Tell a node why we will not talk to it, at most once in a while."""
        if reason in REJECTED:
            self.count(REJECTED[reason])
        found = self._doors(address)
        if found and self.rejections.begin(self._next_wire, address, reason, now, half):
            self.commands.append(Dial(self._next_wire, *found[0]))
            self._next_wire += 1
            self._wake_at(self.rejections.deadline())
