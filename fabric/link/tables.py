"""Tables of the links of one node, by wire, peer, endpoint and id, and the moves that keep them in agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from random import Random
from typing import Final

from peerfabric.deadlines import Deadlines
from peerfabric.link.addresses import Addresses
from peerfabric.link.commands import Command, Dial, HangUp
from peerfabric.link.endpoints import LOOPBACK, Door, doors, network_of
from peerfabric.link.link import Change, Gone, Link
from peerfabric.link.pace import Pace
from peerfabric.link.rejections import Rejections
from peerfabric.wire.frames import Address, Hello

OURSELVES: Final = 0
"""The wire that leads back to this node."""
CANDIDATE_PATIENCE: Final = 5.0
"""An endpoint that takes our HELLO for so long and does not answer is asked again later."""


class Tables:
    """The links of one node, by wire, by peer and by link id."""

    def __init__(self, address: Address, fabric: str, frame_bytes_max: int, peers_max: int, random: Random) -> None:
        self.address, self.fabric = address, fabric
        self.frame_bytes_max, self.peers_max = frame_bytes_max, peers_max
        self.by_wire: dict[int, Link] = {}
        self.by_peer: dict[str, Link] = {}
        self.counters: dict[str, int] = {}
        self.wanted: Callable[[Address], bool] = lambda address: True
        """Whether a link with the node may be of use: asked before it is dialled, never when its hello has come."""
        self.news_for: Callable[[Link], list[Address]] = lambda link: []
        """Addresses that the next hello on the link tells; taken by that."""
        self.asks: Callable[[Link], bool] = lambda link: False
        """Whether a hello on the link asks for news of other nodes."""
        self.heard: Callable[[Link, Hello, bool, float], None] = lambda link, hello, news, now: None
        """A hello came on the link; whether the address in it is newer than what was known."""
        self.admits: Callable[[str], bool] = lambda node_id: True
        """Whether a node is let in: whoever is not is neither dialled nor listened to."""
        self.near: Callable[[str], bool] = lambda host: False
        """Whether a numeric address is in a subnet of this node, put here by the driver."""
        self.gates: list[str] = [""]
        """Under which keys peers may let us in, best first; one without a name in the clear."""
        self.superseded = ""
        """Where a later life of this very node is, if there is one."""
        self.answers: list[tuple[int, list[bytes]]] = []
        """Frames without a number for wires that are up: each leaves now, or not at all."""
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
        self.ended: dict[bytes, Link] = {}
        """Links by that of the last life in which they were up, if it has ended and the peer is not given up."""
        self._addresses = Addresses(peers_max, random)
        self._pace = Pace()
        self._whys: dict[str, str] = {}
        """Node, or endpoint of a candidate -> why it was not reached, when that was tried last."""
        self.rejections = Rejections(address.node_id, peers_max)
        self._halves: dict[int, Link] = {}
        self._shut_out: dict[str, Address] = {}
        """Where those are who are not let in."""
        self._copies: dict[int, str] = {}
        """Other epochs of this very node -> where they were dialled."""
        self._half = random.randrange(1, 2**30)
        self._next_wire = OURSELVES + 1
        self._wake_at(-inf)

    # Nodes

    def known(self) -> Iterator[Address]:
        """Every node of which an address is known."""
        return iter(self._addresses)

    def known_address(self, node_id: str) -> Address | None:
        """What is known of the node."""
        return self._addresses.get(node_id)

    def is_useless(self, address: Address) -> bool:
        """Whether a link with the node has shown that there is nothing in common, and nothing is new since."""
        return self._addresses.is_useless(address)

    def seeds(self) -> list[str]:
        """The nodes that were met at endpoints given by hand, and have a link."""
        return [node_id for node_id in self._addresses.seeds() if node_id in self._by_node]

    def link_with(self, node_id: str) -> Link | None:
        """The link with the node, in whatever state."""
        return self._by_node.get(node_id)

    def is_up(self, node_id: str) -> bool:
        """Whether a link with the node is up."""
        link = self._by_node.get(node_id)
        return link is not None and link.up

    # Links

    def _new_link(self, now: float, address: Address | None) -> Link:
        self._half += 1
        link = Link(self._next_wire, self._half, now, address, self.due)
        self._next_wire += 1
        self.by_wire[link.wire] = link
        self._unmet[link] = None
        self.look(link, now + CANDIDATE_PATIENCE)
        self._halves[link.mine] = link
        return link

    def _dial(self, link: Link, door: Door, now: float) -> None:
        """Dial `link` there; to other hosts when its turn comes."""
        self._leave_endpoint(link)
        self._by_endpoint.setdefault(door.endpoint, {})[link] = None
        link.dials(door)
        if not door.endpoint.startswith(("ipc://", *LOOPBACK)):
            self._pace.put(link)
            self._dial_next(now)
            if link in self._pace:
                self.commands.append(HangUp(link.wire))  # what it was before
        else:
            self._pace.over(link)
            self.commands.append(Dial(link.wire, *door))

    def _dial_next(self, now: float) -> None:
        """Dial those whose turn has come."""
        for link in self._pace.take(now):
            self.commands.append(Dial(link.wire, *link.door))
        self._wake_at(self._pace.free_at())

    def _doors(self, address: Address) -> list[Door]:
        """Where to dial a node, best first."""
        observed = self._addresses.observed(address.node_id, address.epoch)
        return doors(address, self.address.host, self.gates, self.near, observed)

    def _is_far(self, address: Address | None) -> bool:
        """Whether a node is on another host, where endpoints may mean something else."""
        return address is None or not self._share_network(address, self.address)

    @staticmethod
    def _share_network(a: Address, b: Address) -> bool:
        """Whether the same TCP endpoint means the same to both."""
        return network_of(a.host) == network_of(b.host)

    def _note_why(self, link: Link, why: str) -> None:
        """Remember why the peer, or the candidate, was not reached."""
        if why:
            if len(self._whys) > 4 * self.peers_max:
                self._whys.clear()
            self._whys[link.node_id or link.endpoint] = why

    def _leave_endpoint(self, link: Link) -> None:
        there = self._by_endpoint.get(link.endpoint, {})
        there.pop(link, None)
        if not there:
            self._by_endpoint.pop(link.endpoint, None)

    def _at(self, address: Address) -> list[Link]:
        """The links that are dialled to where a node says that it listens."""
        return [link for endpoint in address.inbox for link in self._by_endpoint.get(endpoint, ())]

    def _life_over(self, link: Link, in_id: bytes) -> None:
        """Frames with that link id belong to no life any more."""
        if self.by_id.pop(in_id, None) is not None:
            self.ended.pop(link.ended_id, None)
            self.ended[in_id] = link
            link.ended_id = in_id

    def _restart(self, link: Link, now: float) -> None:
        self._life_over(link, link.in_id)
        self._half = max(self._half + 1, link.mine + 1)
        link.restart(self._half, now)
        self._halves[link.mine] = link
        self.look(link, now)
        if len(self._halves) > 4 * self.peers_max:
            self._halves = {k.mine: k for k in self.by_wire.values()}

    def _part(self, link: Link, now: float, *, proven: bool, died: bool) -> list[Change]:
        changes = self._forget(link, now, proven=proven, died=died)
        self._drop(link)
        self._wake_at(self._addresses.given_up(link.node_id, now))
        return changes

    def _forget(self, link: Link, now: float, *, proven: bool, died: bool, idle: bool = False) -> list[Change]:
        """Take the link out of the tables by peer; its wire may still carry a last frame."""
        if self._by_node.get(link.node_id) is link:
            del self._by_node[link.node_id]
        if self.by_peer.get(link.peer) is link:
            del self.by_peer[link.peer]
        self.by_id.pop(link.in_id, None)
        self.ended.pop(link.ended_id, None)
        link.end()
        self._wake_at(now)  # a candidate that led to it may be dialled again
        return [Gone(link, proven, died, idle)]

    def _drop(self, link: Link) -> None:
        """Close the wire and forget the link altogether."""
        if self.by_wire.pop(link.wire, None) is None:
            return
        if self._by_node.get(link.node_id) is link:
            del self._by_node[link.node_id]
        if self.by_peer.get(link.peer) is link:
            del self.by_peer[link.peer]
        self.by_id.pop(link.in_id, None)
        self.ended.pop(link.ended_id, None)
        self._leave_endpoint(link)
        self._pace.forget(link)
        self._wake_at(self._pace.free_at())
        self.hello_due.pop(link, None)
        self.due.pop(link, None)
        self.deadlines.move(link, inf)
        for half in [h for h, k in self._halves.items() if k is link]:
            del self._halves[half]
        if link.wire != OURSELVES:
            self.commands.append(HangUp(link.wire))

    def _end_rejection(self, wire: int) -> None:
        if self.rejections.end(wire):
            self.commands.append(HangUp(wire))

    # Time and output

    def look(self, link: Link, at: float) -> None:
        """Look at `link` no later than `at`."""
        if link.wire in self.by_wire:
            self.deadlines.put(link, at)

    def look_anew(self, link: Link, now: float) -> None:
        """Look at `link` now, and then again when that says, not when an earlier look did."""
        self.deadlines.move(link, now)

    def _wake_at(self, at: float) -> None:
        """Look at addresses, newcomers and rejected nodes no later than `at`."""
        self.deadlines.put(None, at)

    def poll_commands(self) -> list[Command]:
        """What the driver shall do with its sockets, in order."""
        taken, self.commands = self.commands, []
        return taken

    def count(self, what: str) -> None:
        """One more of something that `statistics()` shows."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def check(self) -> None:
        """Assert that the tables agree and every link holds its invariants."""
        for link in self.by_wire.values():
            link.check()
            assert not link.ended_id or self.ended.get(link.ended_id) in (link, None), "an ended life of another link"
            assert not link.up or self.by_id.get(link.in_id) is link, "an up link cannot be found by its id"
        dialled = {link for links in self._by_endpoint.values() for link in links}
        assert dialled == {link for link in self.by_wire.values() if link.endpoint}, "links by their endpoints"
        for node_id, link in self._by_node.items():
            assert link.wire in self.by_wire, "a peer without a wire"
            assert link.node_id == node_id, "a peer under another name"
