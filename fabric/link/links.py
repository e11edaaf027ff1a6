"""All links of one node: whom to dial, who said hello, whom to believe alive, how to part.

Discovery only proposes addresses. A peer exists once a link with it was up; it is

    gone      its process is proven dead (its inbox refuses), or it said goodbye
    hung      its inbox accepts and it does not answer: no new work, what it holds waits for its lease
    vanished  nothing answers for four seconds: given up, dialled again while discovery still names it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from random import Random
from typing import Final

from peerfabric.deadlines import Deadlines
from peerfabric.health import DIALLED_AFTER, Finding
from peerfabric.link.addresses import Addresses, elsewhere, newer, usable
from peerfabric.link.commands import Command, Dial, HangUp, Outcome, Probe
from peerfabric.link.link import (
    HELLO_FIRST,
    HELLO_MAX,
    Belief,
    CameUp,
    Change,
    Gone,
    LifeEnded,
    Link,
    Moved,
)
from peerfabric.link.liveness import VANISHED_AFTER
from peerfabric.link.rejections import REMNANT, Rejections
from peerfabric.reports import PeerView
from peerfabric.wire.frames import (
    IDLE,
    LEAVING,
    MAGIC,
    OTHER_FABRIC,
    OTHER_VERSION,
    TOO_MANY_PEERS,
    VERSION,
    Address,
    Hello,
    encode_frame,
)

OURSELVES: Final = 0
"""The wire that leads back to this node."""
INTRODUCE_AFTER: Final = 0.25
"""How long newcomers are collected before the peers hear of them."""
IDLE_CLOSE_AFTER: Final = 10.0
STRAY_EVERY: Final = 1.0
"""Frames of an unknown life are answered by one HELLO in this time."""
LEARNED_MAX: Final = 1024
"""Addresses kept for the driver to take, from hellos of up to 65 each."""
CANDIDATE_PATIENCE: Final = 5.0
"""An endpoint that takes our HELLO for so long and does not answer is asked again later."""


class Links:
    """The links of one node, by wire, by peer and by link id."""

    def __init__(self, address: Address, fabric: str, frame_bytes_max: int, peers_max: int, random: Random) -> None:
        self.address, self.fabric = address, fabric
        self.frame_bytes_max, self.peers_max = frame_bytes_max, peers_max
        self.by_wire: dict[int, Link] = {}
        self.by_peer: dict[str, Link] = {}
        self.counters: dict[str, int] = {}
        self.sample: list[Address] = []
        """Addresses worth telling others about, put here by the driver."""
        self.learned: list[Address] = []
        """Addresses that hellos told, for the driver to take."""
        self.closing = False
        self.due: dict[Link, None] = {}
        """Links that may have something to say: a set whose order is the same in each replay."""
        self.deadlines: Deadlines[Link | None] = Deadlines()
        """When to look at each link, and, under None, at addresses, newcomers and rejected nodes."""
        self.echoes: Deadlines[Link] = Deadlines()
        """When what has come on each link is echoed, if nothing takes the echo along."""
        self.looked_at: list[Link] = []
        """Those that `handle_timeout` has just looked at, for the engine to do the same."""
        self.commands: list[Command] = []
        """What the driver shall do with its sockets, in order."""
        self.hello_due: dict[Link, None] = {}
        """A set in the order of insertion, like all sets here whose order shows on the wire."""
        self._by_node: dict[str, Link] = {}
        self._by_endpoint: dict[str, dict[Link, None]] = {}
        """Links by the endpoint to which they are dialled."""
        self._unmet: dict[Link, None] = {}
        """Those that have not said hello yet, and some that have."""
        self.by_id: dict[bytes, Link] = {}
        """Up links, by the link id of the frames that they accept."""
        self._addresses = Addresses(peers_max, random)
        self.rejections = Rejections(address.node_id, peers_max)
        self._halves: dict[int, Link] = {}
        self._half = random.randrange(1, 2**30)
        self._next_wire = OURSELVES + 1
        self._introduce_at = inf
        self._wake_at(-inf)

    # What discovery proposes

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
        if not self.closing and not self.rejections.is_rejected(address.node_id, now):
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

    def moved(self, address: Address) -> None:
        """This node listens elsewhere from now on: tell everybody whom we reach."""
        self.address = address
        self.hello_due |= {link: None for link in self.by_wire.values() if link.connected and link.wire != OURSELVES}

    def candidate(self, endpoint: str, now: float) -> None:
        """Somebody may listen at `endpoint`; who, its hello will tell."""
        if endpoint not in self.address.inbox and self._addresses.add_candidate(endpoint, now):
            self._wake_at(now)

    def withdrawn(self, endpoint: str) -> None:
        """Nobody proposes the candidate any more."""
        self._addresses.withdraw_candidate(endpoint)

    def lost(self, node_id: str) -> None:
        """Discovery does not see the node any more; only its link decides whether it lives."""
        self._addresses.forget(node_id)

    def introduce(self, sample: list[Address], now: float) -> None:
        """Pass on `sample` from now on, and soon to those who are up: two that came together know only us.

        A hello on a link that is up changes nothing on it. At most one round of them in INTRODUCE_AFTER.
        """
        self.sample = sample
        if self._introduce_at == inf and not self.closing:
            self._introduce_at = now + INTRODUCE_AFTER
            self._wake_at(self._introduce_at)

    def redial_all(self, now: float) -> None:
        """Say hello again to everybody with whom there was nothing in common."""
        for address in self._addresses:
            self.redial(address.node_id, now)

    def redial(self, node_id: str, now: float) -> None:
        """Say hello again to a node with whom there was nothing in common."""
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

    def _new_link(self, now: float, address: Address | None) -> Link:
        self._half += 1
        link = Link(self._next_wire, self._half, now, address, self.due)
        self._next_wire += 1
        self.by_wire[link.wire] = link
        self._unmet[link] = None
        self.look(link, now + CANDIDATE_PATIENCE)
        self._halves[link.mine] = link
        return link

    def _dial(self, link: Link, endpoint: str) -> None:
        self._leave_endpoint(link)
        self._by_endpoint.setdefault(endpoint, {})[link] = None
        link.endpoint = endpoint
        link.connected, link.dialling = False, True
        self.commands.append(Dial(link.wire, endpoint))

    def _leave_endpoint(self, link: Link) -> None:
        there = self._by_endpoint.get(link.endpoint, {})
        there.pop(link, None)
        if not there:
            self._by_endpoint.pop(link.endpoint, None)

    def _at(self, address: Address) -> list[Link]:
        """The links that are dialled to where a node says that it listens."""
        return [link for endpoint in address.inbox for link in self._by_endpoint.get(endpoint, ())]

    def ourselves(self, now: float) -> None:
        """Open the link to this node itself; the driver's frames on its wire never leave the process."""
        if OURSELVES in self.by_wire:
            return
        self._half += 1
        link = Link(OURSELVES, self._half, now, self.address, self.due)
        link.connected = True
        link.plan_hello(now)
        self.by_wire[OURSELVES] = link
        self._by_node[self.address.node_id] = link
        self.by_peer[link.peer] = link
        self._halves[link.mine] = link
        self.hello_due[link] = None

    # What the wires report

    def connected(self, wire: int, now: float) -> None:
        """The PUSH of `wire` has a connection."""
        if wire in self.rejections:
            return
        link = self.by_wire.get(wire)
        if link is not None:
            link.connected, link.dialling = True, False
            link.plan_hello(now)
            self.hello_due[link] = None

    def disconnected(self, wire: int, now: float) -> list[Change]:
        """The PUSH of `wire` lost its connection; what it had accepted may be lost."""
        link = self.by_wire.get(wire)
        if link is None:
            return []
        was_up = link.up
        link.connected, link.dialling = False, True  # ZeroMQ tries once more by itself
        self._restart(link, now)
        if link.address is not None:
            link.suspect(now, now)
        return [LifeEnded(link)] if was_up else []

    def unreachable(self, wire: int, now: float) -> list[Change]:
        """Nobody listens at the endpoint of `wire`."""
        link = self.by_wire.get(wire)
        if link is None or wire in self.rejections:
            self._end_rejection(wire)
            return []
        changes: list[Change] = []
        if link.up:
            self._restart(link, now)
            changes.append(LifeEnded(link))
        link.connected = link.dialling = False
        if link.address is None:
            self._drop(link)
            self._wake_at(self._addresses.candidate_unreachable(link.endpoint, now))
            return changes
        if link.met:
            link.suspect(now, now)
        self.look(link, now)
        at = link.endpoints.index(link.endpoint) + 1 if link.endpoint in link.endpoints else 0
        if at < len(link.endpoints):
            self._dial(link, link.endpoints[at])
        elif link.belief is Belief.ALIVE:
            # Never met: an address of a process that has ended, or one that is only starting.
            self._drop(link)
            self._wake_at(self._addresses.unreachable(link.node_id, now))
        else:
            link.plan_hello(inf)
            self._wake_at(self._addresses.unreachable(link.node_id, now))
        return changes

    def probed(self, wire: int, outcome: Outcome, now: float) -> list[Change]:
        """A probe of the inbox behind `wire` has found something."""
        link = self.by_wire.get(wire)
        if link is None:
            return []
        verdict = link.probed(outcome, now)
        if verdict is not None:
            return self._part(link, now, proven=verdict, died=verdict)
        self.look(link, link.probe_at)
        return []

    # Hello

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
                [a for a in self.sample if a.node_id != link.node_id],
            )
            frames.append((link, [encode_frame(hello)]))
            link.hello_sent(now)
            self.look(link, link.hello_at)
        return frames

    def receive_hello(self, hello: Hello, now: float) -> list[Change]:
        """Somebody said hello to this node, or to one that listened here before."""
        theirs = hello.address
        if hello.fabric != self.fabric:
            self.reject(theirs, OTHER_FABRIC, now)
            return []
        if theirs.node_id == self.address.node_id:
            return self._hello_from_ourselves(hello, now)
        if len(self.learned) < LEARNED_MAX:
            self.learned.append(theirs)
            self.learned += hello.known
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
        self._addresses.met(theirs, same_host=same_host)
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
                self.lost(link.node_id)
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

    def rejection_sent(self, wire: int, now: float) -> None:
        """The BYE left."""
        self.rejections.sent(wire, now)
        self._wake_at(self.rejections.deadline())

    def _end_rejection(self, wire: int) -> None:
        if self.rejections.end(wire):
            self.commands.append(HangUp(wire))

    # Frames

    def stray(self, link_id: bytes, now: float) -> None:
        """A frame came that no up link accepts; if its half is known, a HELLO answers."""
        self.count("frames of another life")
        known = self._halves.get(int.from_bytes(link_id[4:], "big"))
        current = known is not None and self._by_node.get(known.node_id) is known
        if known is not None and current and known.connected and now >= known.stray_at:
            known.stray_at = now + STRAY_EVERY
            self.hello_due[known] = None

    def echo_soon(self, link: Link, now: float) -> None:
        """What has come, or a grant that nobody waits for, leaves in an echo if nothing takes it along."""
        link.echo_soon(now)
        self.echoes.put(link, link.echo_at)

    def broken(self, link: Link, now: float) -> list[Change]:
        """A frame is missing or cannot be read: both sides start a new life."""
        self.count("links renewed")
        was_up = link.up
        self._restart(link, now)
        if link.connected:
            self.hello_due[link] = None
        return [LifeEnded(link)] if was_up else []

    def _restart(self, link: Link, now: float) -> None:
        self.by_id.pop(link.in_id, None)
        self._half = max(self._half + 1, link.mine + 1)
        link.restart(self._half, now)
        self._halves[link.mine] = link
        self.look(link, now)
        if len(self._halves) > 4 * self.peers_max:
            self._halves = {k.mine: k for k in self.by_wire.values()}

    # Time

    def handle_timeout(self, now: float, late: float) -> list[Change]:
        """Act on what has come due; `late` seconds of our own delay are not held against others."""
        changes: list[Change] = []
        if late:
            for link in self.by_wire.values():
                link.excuse(late, now)
        due = self.deadlines.take_due(now)
        self.looked_at = [link for link in due if link is not None]
        for link in self.looked_at:
            changes += self._look_at(link, now)
        if None in due:
            self._tick(now)
        return changes

    def _tick(self, now: float) -> None:
        for wire in self.rejections.over(now):
            self._end_rejection(wire)
        self._wake_at(self.rejections.deadline())
        if self._introduce_at <= now:
            self._introduce_at = inf
            for link in self.by_wire.values():
                if link.up and link.wire != OURSELVES:
                    self.hello_due[link] = None
        self._wake_at(self._introduce_at)
        if not self.closing:
            self._dial_due(now)

    def look_anew(self, link: Link, now: float) -> None:
        """Look at `link` now, and then again when that says, not when an earlier look did."""
        self.deadlines.move(link, now)

    def look(self, link: Link, at: float) -> None:
        """Look at `link` no later than `at`."""
        if link.wire in self.by_wire:
            self.deadlines.put(link, at)

    def _look_at(self, link: Link, now: float) -> list[Change]:
        if link.close_at <= now:
            self._drop(link)
            return []
        if link.connected and link.hello_at <= now:
            self.hello_due[link] = None
        if link.wire == OURSELVES:
            return []
        watched = link.met and link.close_at == inf
        if watched and link.belief is Belief.ALIVE and link.silent_at <= now:
            link.suspect(now, link.asked_at)
        if watched and link.belief is not Belief.HUNG and not link.up and now - link.down_at >= VANISHED_AFTER:
            # We hear it, it does not hear us: its fence has ended by now, and others can do the work.
            return self._part(link, now, proven=False, died=False)
        if link.belief is not Belief.ALIVE:
            if link.vanishes_at <= now and link.belief is Belief.SUSPECT and not link.refusals:
                return self._part(link, now, proven=False, died=False)
            if link.address is not None and link.endpoint and link.takes_probe(now):
                self.commands.append(Probe(link.wire, link.endpoint, link.node_id, link.address.epoch))
            if link.connected and link.hello_at == inf:
                # It may have forgotten us, and nothing else that we send tells it who we are.
                link.plan_hello(now + HELLO_MAX)
        if link.address is None and now - link.opened_at >= CANDIDATE_PATIENCE and link.connected:
            # Somebody listens there who does not answer; ask again later.
            self._drop(link)
            self._addresses.candidate_silent(link.endpoint, now)
            self._wake_at(self._addresses.deadline())
            return []
        self.look(link, max(now + 0.001, link.due_at(now)))
        if link.address is None:
            self.look(link, max(link.opened_at + CANDIDATE_PATIENCE, now + 1.0))
        return []

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
            elif address is None or self._dial_peer(address, now) is None:
                self._addresses.stop_retrying(node_id)
        self._wake_at(self._addresses.deadline())

    def _linked_at(self, endpoint: str) -> Link | None:
        """The link with the node that says that it listens at `endpoint`, if it is up."""
        links = (k for k in self._by_node.values() if k.up and k.address is not None and k.wire != OURSELVES)
        return next((k for k in links if k.address is not None and endpoint in k.address.inbox), None)

    def _wake_at(self, at: float) -> None:
        """Look at addresses, newcomers and rejected nodes no later than `at`."""
        self.deadlines.put(None, at)

    # Parting

    def said_bye(self, link: Link, reason: int, now: float) -> list[Change]:
        """The peer says goodbye; ours goes back, then the wire closes."""
        if reason in (OTHER_FABRIC, OTHER_VERSION, TOO_MANY_PEERS):
            self.rejections.reject(link.node_id, now)
        changes = self._forget(link, now, proven=reason == LEAVING, died=False)
        if reason == LEAVING:
            self.lost(link.node_id)
        elif reason == IDLE:
            self._addresses.parted(link.node_id)
        link.close_at = now + REMNANT
        self.look(link, link.close_at)
        return changes

    def rejected_by(self, node_id: str, now: float) -> list[Change]:
        """A peer answered our hello with a refusal."""
        link = self._by_node.get(node_id)
        self.count("refused by peers")
        if link is None or link.up:
            return []
        self.rejections.reject(node_id, now)
        return self._part(link, now, proven=False, died=False)

    def part_idle(self, link: Link, now: float) -> list[Change]:
        """Nothing in common: the wire closes, the address stays known. The caller has sent BYE."""
        changes = self._forget(link, now, proven=False, died=False)
        self._addresses.parted(link.node_id)
        link.close_at = now + REMNANT
        self.look(link, link.close_at)
        return changes

    def _part(self, link: Link, now: float, *, proven: bool, died: bool) -> list[Change]:
        changes = self._forget(link, now, proven=proven, died=died)
        self._drop(link)
        self._wake_at(self._addresses.given_up(link.node_id, now))
        return changes

    def _forget(self, link: Link, now: float, *, proven: bool, died: bool) -> list[Change]:
        """Take the link out of the tables by peer; its wire may still carry a last frame."""
        if self._by_node.get(link.node_id) is link:
            del self._by_node[link.node_id]
        if self.by_peer.get(link.peer) is link:
            del self.by_peer[link.peer]
        self.by_id.pop(link.in_id, None)
        link.end()
        self._wake_at(now)  # a candidate that led to it may be dialled again
        return [Gone(link, proven, died)]

    def _drop(self, link: Link) -> None:
        """Close the wire and forget the link altogether."""
        if self.by_wire.pop(link.wire, None) is None:
            return
        if self._by_node.get(link.node_id) is link:
            del self._by_node[link.node_id]
        if self.by_peer.get(link.peer) is link:
            del self.by_peer[link.peer]
        self.by_id.pop(link.in_id, None)
        self._leave_endpoint(link)
        self.hello_due.pop(link, None)
        self.due.pop(link, None)
        self.deadlines.move(link, inf)
        for half in [h for h, k in self._halves.items() if k is link]:
            del self._halves[half]
        if link.wire != OURSELVES:
            self.commands.append(HangUp(link.wire))

    # Reports and output

    def poll_commands(self) -> list[Command]:
        """What the driver shall do with its sockets, in order."""
        taken, self.commands = self.commands, []
        return taken

    def findings(self) -> Iterator[Finding]:
        """Whoever is dialled and has not answered: what `peers=` names, and nodes that were found and never met."""
        if self.closing:
            return
        for endpoint in sorted(self._addresses.unanswered(self._by_node)):
            step = "start a node that listens there, or take it out of peers= and PEERFABRIC_PEERS"
            yield Finding(f"{endpoint} is dialled without an answer", DIALLED_AFTER, step)
        for link in list(self._unmet):
            if link.met or link.wire not in self.by_wire:
                del self._unmet[link]
            elif self._by_node.get(link.node_id) is link:
                yield Finding(
                    f"{link.name} was found and does not answer at {link.endpoint}",
                    DIALLED_AFTER,
                    "see whether its process is stopped, or something between the two closes this way",
                )

    def count(self, what: str) -> None:
        """One more of something that `statistics()` shows."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def view(self) -> list[PeerView]:
        """Every node that we know of."""
        views = {}
        for address in self._addresses:
            views[address.node_id] = PeerView(node_id=address.node_id, name=address.name, state="idle")
        views |= {link.node_id: link.view() for link in self._by_node.values() if link.wire != OURSELVES}
        return list(views.values())

    def check(self) -> None:
        """Assert that the tables agree and every link holds its invariants."""
        for link in self.by_wire.values():
            link.check()
            assert not link.up or self.by_id.get(link.in_id) is link, "an up link cannot be found by its id"
        dialled = {link for links in self._by_endpoint.values() for link in links}
        assert dialled == {link for link in self.by_wire.values() if link.endpoint}, "links by their endpoints"
        for node_id, link in self._by_node.items():
            assert link.wire in self.by_wire, "a peer without a wire"
            assert link.node_id == node_id, "a peer under another name"
