"""Dialling: which nodes and endpoints are dialled, and when, of all that discovery, hellos and people propose."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from msgspec.structs import replace

from peerfabric.link.addresses import later, newer
from peerfabric.link.commands import HangUp
from peerfabric.link.endpoints import Door, after, host_of
from peerfabric.link.link import Belief, Change, LifeEnded, Link
from peerfabric.link.liveness import VANISHED_AFTER
from peerfabric.link.tables import OURSELVES, Tables
from peerfabric.wire.frames import Address


class Dialling(Tables):
    """Whom this node dials. What is proposed here is a hint: who is there, a hello tells."""

    # What discovery proposes

    def discovered(self, address: Address, now: float) -> None:
        """A node may be reached at `address`. That ends nothing: it is one more place to try."""
        if address.node_id == self.address.node_id:
            self._discovered_ourselves(address, now)
            return
        if not self.admits(address.node_id):
            self._shut_out_at(address)
            return
        if self._addresses.is_stale(address):
            return
        if not self._addresses.has_room(address.node_id):
            self.count("peers over the limit")
            return
        before = self._addresses.get(address.node_id)
        self._addresses.put(address)
        link = self._by_node.get(address.node_id)
        if link is None or link.address is None:
            if not self.closing and self.wanted(address) and not self.rejections.is_rejected(address.node_id, now):
                self._dial_peer(address, now)
        elif address.epoch == link.address.epoch:
            self._discovered_elsewhere(
                link, address, set(address.inbox).difference(before.inbox if before else ()), now
            )
        elif newer(address, link.address):
            if link.met:
                self._ask_at(address, now)
            elif not self.closing:
                self._drop(link)
                self._dial_peer(address, now)

    def _discovered_elsewhere(self, link: Link, address: Address, news: set[str], now: float) -> None:
        """The peer may listen at `news`, too: dialled there now if it is dialled nowhere."""
        if not link.met:
            link.meet(address)
        self._find_doors(link)
        door = next((door for door in link.doors if door.endpoint in news), None)
        if door is not None and not link.connected and not link.dialling and not self.closing:
            self._dial(link, door, now)

    def _discovered_ourselves(self, address: Address, now: float) -> None:
        """Another life of this very node: dialled once, for one of the two must stop."""
        doors = self._doors(address)
        new = address.epoch != self.address.epoch and address.epoch not in self._copies
        if new and doors and not self.closing:
            self._copies[address.epoch] = doors[0].endpoint
            if len(self._copies) > self.peers_max:
                del self._copies[next(iter(self._copies))]
            self._ask_at(address, now)

    def _ask_at(self, address: Address, now: float) -> None:
        """Say hello at `address` to whoever is there, beside any link that there is; once."""
        doors = self._doors(address)
        there = [link for door in doors for link in self._by_endpoint.get(door.endpoint, ())]
        asked = any(k.address is None or (k.up and k.node_id != address.node_id) for k in there)
        if doors and not asked and not self.closing and len(self.by_wire) < self.peers_max:
            link = self._new_link(now, None)
            link.doors = doors
            self._dial(link, doors[0], now)

    def candidate(self, endpoint: str, now: float) -> None:
        """Somebody may listen at `endpoint`; who, its hello will tell."""
        if endpoint not in self.address.inbox and self._addresses.add_candidate(endpoint, now):
            self._wake_at(now)

    def withdrawn(self, endpoint: str) -> None:
        """Nobody proposes the candidate any more."""
        self._addresses.withdraw_candidate(endpoint)

    def lost(self, node_id: str, now: float) -> None:
        """Discovery does not see the node any more; only its link decides whether it lives."""
        self._shut_out.pop(node_id, None)
        self._addresses.lost(node_id, now, patient=self._is_far(self._addresses.get(node_id)))

    def forget(self, node_id: str, now: float) -> None:
        """The node has ended; a candidate that led to it may lead to another one soon."""
        self._shut_out.pop(node_id, None)
        self._addresses.forget(node_id)
        self._wake_at(now)

    # Who may not come in

    def _shut_out_at(self, address: Address) -> None:
        """A node that is not let in is to be found at `address`."""
        known = self._shut_out.get(address.node_id)
        if (known is None and len(self._shut_out) < self.peers_max) or (known is not None and later(address, known)):
            self._shut_out[address.node_id] = address

    def let_in(self, now: float) -> None:
        """Dial those who may come in from now on: they ask seldom, and nobody may show them to us once more."""
        for node_id in [node_id for node_id in self._shut_out if self.admits(node_id)]:
            address = self._shut_out.pop(node_id)
            if self._addresses.has_room(node_id) and not self._addresses.is_stale(address):
                self._addresses.put(address)
            self.redial(node_id, now)

    # Whom to dial

    def redial(self, node_id: str, now: float) -> None:
        """A link with the node may be of use now, whatever came of the last one."""
        address = self._addresses.get(node_id)
        if address is not None and node_id not in self._by_node and not self.closing:
            self._dial_peer(address, now)

    def _dial_peer(self, address: Address, now: float) -> Link | None:
        if not self.admits(address.node_id):
            return None
        found = self._doors(address)
        if not found:
            self.count("addresses out of reach")
            return None
        if len(self.by_wire) >= self.peers_max:
            self.count("peers over the limit")
            return None
        link = self._new_link(now, address)
        link.doors = found
        self._by_node[address.node_id] = link
        self.by_peer[link.peer] = link
        self._addresses.dialled(address.node_id)
        self._dial(link, found[0], now)
        return link

    def _dial_due(self, now: float) -> None:
        for endpoint in self._addresses.take_due_candidates(now, self._by_node):
            known = self._linked_at(endpoint)
            if known is not None:
                # It came to us first; another connection would end the life of the one that works.
                self._addresses.candidate_leads_to(endpoint, known.node_id)
                continue
            link = self._new_link(now, None)
            link.doors = self._doors_at(endpoint)
            self._dial(link, link.doors[0], now)
        for node_id in self._addresses.take_due_nodes(now):
            peer, address = self._by_node.get(node_id), self._addresses.get(node_id)
            if peer is not None:
                if not peer.connected and not peer.dialling:
                    self._find_doors(peer)
                    self._dial(peer, peer.doors[0], now)
            elif address is None or not self.wanted(address) or self._dial_peer(address, now) is None:
                self._addresses.stop_retrying(node_id)
        self._wake_at(self._addresses.deadline())
        self._dial_next(now)

    def _linked_at(self, endpoint: str) -> Link | None:
        """The link with the node that says that it listens at `endpoint`, if it is up."""
        links = (k for k in self._by_node.values() if k.up and k.address is not None and k.wire != OURSELVES)
        return next((k for k in links if k.address is not None and endpoint in k.address.inbox), None)

    # Where to dial

    def _doors_at(self, endpoint: str) -> list[Door]:
        """An endpoint under each gate."""
        return [Door(endpoint)] if endpoint.startswith("ipc://") else [Door(endpoint, gate) for gate in self.gates]

    def _find_doors(self, link: Link) -> None:
        """Find anew where to dial the peer of `link`, after news of its address, or of what is near."""
        if link.address is None:
            link.doors = self._doors_at(link.endpoint)
            return
        known = self._addresses.get(link.node_id)
        found = self._doors(known if known is not None and known.epoch == link.address.epoch else link.address)
        if link.confirmed is not None:
            host = host_of(link.confirmed.endpoint)  # there is a way from here to there
            found.sort(key=lambda door: not door.endpoint.startswith("ipc://") and host_of(door.endpoint) != host)
        if link.unlisted is not None and link.unlisted not in found:
            found.insert(0, link.unlisted)
        link.doors = found or link.doors

    def _next_door(self, link: Link, why: str, now: float) -> bool:
        """Dial the next door of `link`, if there is one; the last one did not lead to the peer."""
        self._pace.refused(link)
        self._note_why(link, why)
        door = after(link.doors, link.door, why)
        if door is not None:
            self._dial(link, door, now)
        return door is not None

    def _unanswered(self, link: Link, now: float) -> list[Change]:
        """Something at its door accepts, and does not answer for the peer: try the next one, in a circle."""
        if self.closing or all(door.endpoint == link.endpoint for door in link.doors):
            link.answered_by_nobody()
            return []
        changes = self._end_life(link, now)
        if not self._next_door(link, "" if link.introduced else "silent", now):
            link.went_round()
            self._dial(link, link.doors[0], now)
        return changes

    def _led_nowhere(self, link: Link, why: str, now: float) -> None:
        """The door of `link` does not lead to its peer: try the next one, and after the last one later."""
        if self._next_door(link, why, now):
            return
        if link.address is None:
            self._drop(link)
            self._wake_at(self._addresses.candidate_unreachable(link.doors[0].endpoint, now))
        elif not link.was_up and now - link.hello_heard_at > VANISHED_AFTER:
            # Nothing is heard of it: an address of a process that has ended, or of one that is only starting.
            self._drop(link)
            self._wake_at(self._addresses.unreachable(link.node_id, now))
        else:
            link.plan_hello(inf)
            self._wake_at(self._addresses.unreachable(link.node_id, now))

    def _end_life(self, link: Link, now: float) -> list[Change]:
        """A larger half is ours from now on: what is said on the next connection proves that it leads to the peer."""
        changes: list[Change] = [LifeEnded(link)] if link.up else []
        self._restart(link, now)
        return changes

    def _redial(self, link: Link, now: float) -> list[Change]:
        """Dial the peer of `link` anew, at its best door, whatever it is connected to."""
        changes = self._end_life(link, now)
        if link.doors:
            self._dial(link, link.doors[0], now)
        return changes

    # News of this node

    def readdress(self, address: Address, now: float) -> list[Change]:
        """This node listens elsewhere from now on: tell everybody whom we reach, and dial anew whom we do not."""
        version = max(address.version, self.address.version + 1)
        self.address = replace(address, version=version)
        reached = [link for link in self.by_wire.values() if link.connected and link.wire != OURSELVES]
        self.hello_due |= dict.fromkeys(reached)
        return self._redial_where(lambda link: link.belief is not Belief.ALIVE or not link.connected, now)

    def change_gates(self, gates: list[str], now: float) -> list[Change]:
        """Peers let us in under these keys from now on, the first is the best; links under others are dialled anew."""
        self.gates = list(gates)
        return self._redial_where(lambda link: link.endpoint.startswith("tcp://") and link.door.gate not in gates, now)

    def _redial_where(self, is_lost: Callable[[Link], bool], now: float) -> list[Change]:
        changes: list[Change] = []
        for link in list(self.by_wire.values()):
            if link.wire == OURSELVES or link.close_at < inf:
                continue
            self._find_doors(link)
            if is_lost(link) and not self.closing:
                changes += self._redial(link, now)
        return changes

    def _hang_up(self, link: Link) -> None:
        """Close the connection of `link`, which leads to another node."""
        link.unplugged(again=False)
        self._pace.over(link)
        self.commands.append(HangUp(link.wire))
