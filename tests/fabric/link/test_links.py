"""All links of one node: dialling, hello, belief, parting."""

from __future__ import annotations

from collections.abc import Sized
from random import Random

import msgspec

from peerfabric.link.commands import Dial, HangUp, Outcome, Probe
from peerfabric.link.endpoints import Door
from peerfabric.link.link import CameUp, Change, Gone, LifeEnded
from peerfabric.link.links import SILENT_MAX, Links
from peerfabric.wire.frames import IDLE, LEAVING, MAGIC, NOT_ME, Address, Bye, Hello, decode_frame

US = Address("us", 5 << 20, "us", "h1", ["tcp://us:1"], [])
THEM = Address("them", 5 << 20, "them", "h1", ["ipc:///them", "tcp://them:1"], [])


def node(peers_max: int = 10) -> Links:
    return Links(US, "f", 1000, peers_max, Random(1))


def hello(mine: int, yours: int, address: Address = THEM, *, fabric: str = "f") -> Hello:
    return Hello(MAGIC, 1, fabric, "us", address, mine, yours, False, 1000)


def up(peers: Links) -> int:
    """A link with THEM; returns our half of it."""
    peers.discovered(THEM, 0.0)
    assert peers.poll_commands() == [Dial(1, "ipc:///them")]
    peers.connected(1, 0.0)
    link = peers.by_wire[1]
    [change] = peers.receive_hello(hello(7, link.mine), 0.0)
    assert isinstance(change, CameUp)
    peers.check()
    return link.mine


def ask(peers: Links) -> None:
    """A PING leaves at 0.0."""
    link = peers.by_wire[1]
    link.next_number()
    link.pinged(0.0)
    peers.look(link, link.silent_at)


def test_a_discovered_node_is_dialled_by_ipc_first() -> None:
    """On one host; from another it is tcp. Ourselves we do not dial."""
    peers = node()
    peers.discovered(THEM, 0.0)
    peers.discovered(US, 0.0)
    assert peers.poll_commands() == [Dial(1, "ipc:///them")]
    peers = node()
    peers.discovered(msgspec.structs.replace(THEM, host="h2"), 0.0)
    assert peers.poll_commands() == [Dial(1, "tcp://them:1")]


def test_the_next_endpoint_is_tried() -> None:
    """And after the last one the node again, later."""
    peers = node()
    peers.discovered(THEM, 0.0)
    peers.poll_commands()
    peers.unreachable(1, 0.0)
    assert peers.poll_commands() == [Dial(1, "tcp://them:1")]
    peers.unreachable(1, 0.0)
    assert peers.poll_commands() == [HangUp(1)]
    peers.handle_timeout(0.7, 0.0)
    assert peers.poll_commands() == [Dial(2, "ipc:///them")]


def test_attempts_slow_down() -> None:
    """A dead endpoint costs ever less, up to five seconds apart."""
    peers = node()
    peers.discovered(msgspec.structs.replace(THEM, inbox=["tcp://them:1"]), 0.0)
    dials, now = [], 0.0
    while now < 60.0:
        for command in peers.poll_commands():
            if isinstance(command, Dial):
                dials.append(now)
                peers.unreachable(command.wire, now)
        now += 0.05
        peers.handle_timeout(now, 0.0)
    assert 12 <= len(dials) <= 25


def test_a_proven_death() -> None:
    """Disconnected, then refused twice 50 ms apart: gone at once, and dialled again in case that it lied."""
    peers = node()
    up(peers)
    assert [type(change) for change in peers.disconnected(1, 1.0)] == [LifeEnded]
    peers.handle_timeout(1.0, 0.0)
    assert peers.poll_commands() == [Probe(1, "ipc:///them", "them", 5 << 20)]
    assert peers.probed(1, Outcome.REFUSED, 1.0) == []
    peers.handle_timeout(1.06, 0.0)
    assert peers.poll_commands() == [Probe(1, "ipc:///them", "them", 5 << 20)]
    [change] = peers.probed(1, Outcome.REFUSED, 1.06)
    assert isinstance(change, Gone)
    assert (change.proven, change.died) == (True, True)
    assert peers.by_peer == {}
    peers.handle_timeout(5.0, 0.0)
    assert peers.poll_commands() == [HangUp(1), Dial(2, "ipc:///them")]


def test_hung_is_not_gone() -> None:
    """Its inbox accepts: it stays, and is told again who we are."""
    peers = node()
    up(peers)
    ask(peers)
    peers.handle_timeout(2.0, 0.0)
    assert peers.poll_commands() == [Probe(1, "ipc:///them", "them", 5 << 20)]
    peers.probed(1, Outcome.ACCEPTED, 2.0)
    now = 2.0
    while now < 60.0:
        now += 0.25
        assert peers.handle_timeout(now, 0.0) == []
        if any(isinstance(command, Probe) for command in peers.poll_commands()):
            peers.probed(1, Outcome.ACCEPTED, now)
    assert peers.by_wire[1].belief.value == "hung"
    assert len(list(peers.hello_frames(now))) == 1


def test_vanished_after_four_seconds() -> None:
    """Nothing answers: given up, without an accusation."""
    peers = node()
    up(peers)
    ask(peers)
    peers.handle_timeout(2.0, 0.0)
    peers.poll_commands()
    assert peers.handle_timeout(3.9, 0.0) == []
    [change] = peers.handle_timeout(4.0, 0.0)
    assert isinstance(change, Gone)
    assert (change.proven, change.died) == (False, False)


def test_one_way_is_given_up_too() -> None:
    """We hear its hellos, it never hears ours: others can do the work."""
    peers = node()
    up(peers)
    peers.disconnected(1, 1.0)
    changes: list[Change] = []
    now = 1.0
    while not changes and now < 20.0:
        peers.receive_hello(hello(8, 0), now)
        changes = peers.handle_timeout(now, 0.0)
        now += 0.5
    assert [type(change) for change in changes] == [Gone]
    assert 5.0 <= now <= 6.0


def test_our_own_delay_accuses_nobody() -> None:
    """We were away for ten seconds, so we could not hear."""
    peers = node()
    up(peers)
    ask(peers)
    assert peers.handle_timeout(10.0, 9.5) == []
    assert peers.poll_commands() == []


def test_a_later_life_replaces_an_earlier_one() -> None:
    """And an earlier one is not believed again."""
    peers = node()
    up(peers)
    later = msgspec.structs.replace(THEM, epoch=6 << 20)
    changes = peers.receive_hello(hello(3, 0, later), 1.0)
    assert [type(change) for change in changes] == [Gone]
    assert list(peers.by_peer) == [f"them:{6 << 20}"]
    assert peers.receive_hello(hello(9, 0), 1.0) == []
    assert peers.counters == {"hellos of an earlier epoch": 1}
    peers.check()


def test_somebody_else_at_the_endpoint() -> None:
    """The wanted one has gone from there, once a hello to whoever is there was answered."""
    peers = node()
    mine = up(peers)
    peers.disconnected(1, 1.0)
    peers.connected(1, 1.0)
    not_me = Bye(bytes(4) + (mine + 1).to_bytes(4, "big"), 0, 0, "other", NOT_ME)
    assert peers.rejected_by(not_me, 1.0) == []
    [asked] = [link for link in peers.by_wire.values() if link.address is None]
    other = msgspec.structs.replace(THEM, node_id="other")
    change, came_up = peers.receive_hello(hello(4, asked.mine, other), 1.0)
    assert isinstance(change, Gone)
    assert isinstance(came_up, CameUp)
    assert (change.link.node_id, change.proven) == ("them", True)
    assert list(peers.by_peer) == [f"other:{5 << 20}"]


def test_a_half_of_ours_that_was_given_up() -> None:
    """The peer took it for the newest: only a larger one ends the misunderstanding."""
    peers = node()
    mine = up(peers)
    peers.candidate("tcp://their.other.name:1", 1.0)
    peers.handle_timeout(1.0, 0.0)
    peers.poll_commands()
    [change] = peers.receive_hello(hello(7, mine + 1), 1.0)
    assert isinstance(change, LifeEnded)
    assert peers.by_peer[f"them:{5 << 20}"].mine > mine + 1
    peers.check()


def test_another_fabric_is_told_so_once() -> None:
    """By a BYE on a wire of its own; and it takes no memory."""
    peers = node()
    for _ in range(3):
        assert peers.receive_hello(hello(1, 0, fabric="else"), 0.0) == []
    assert peers.poll_commands() == [Dial(1, "ipc:///them")]
    assert len(list(peers.rejections.frames())) == 1
    assert (peers.counters, peers.by_wire) == ({"hellos of another fabric": 3}, {})


def test_tables_that_strangers_fill_are_bounded() -> None:
    """Ten thousand of them cost no more than ten."""
    peers = node(peers_max=10)
    for number in range(10_000):
        stranger = Address(f"n{number}", 1 << 20, "", "h1", [f"tcp://h:{number}"], [])
        peers.receive_hello(hello(1, 0, stranger), 0.0)
        peers.receive_hello(hello(1, 0, stranger, fabric="else"), 0.0)
        peers.discovered(stranger, 0.0)
    addresses, rejections = peers._addresses, peers.rejections
    sizes: list[Sized] = [peers.by_wire, peers._by_node, peers._halves]
    sizes += [addresses._known, addresses._retry, addresses._idle]
    assert max(map(len, sizes)) <= 40
    assert (len(rejections._rejected_until) <= 40, len(rejections.wires) <= 64) == (True, True)


def test_goodbyes() -> None:
    """Who leaves is forgotten; who has nothing in common stays known, and its wire closes after the last frame."""
    for reason, known in ((LEAVING, False), (IDLE, True)):
        peers = node()
        up(peers)
        [change] = peers.said_bye(peers.by_wire[1], reason, 1.0)
        assert isinstance(change, Gone)
        assert (change.proven, change.died) == (reason == LEAVING, False)
        peers.handle_timeout(1.6, 0.0)
        assert peers.poll_commands() == [HangUp(1)]
        peers.redial("them", 2.0)
        assert (peers.poll_commands() == [Dial(2, "ipc:///them")]) is known


def test_an_idle_static_peer_is_left_alone() -> None:
    """Its endpoint is not dialled again before something changes; that of a dead one is."""
    peers = node()
    peers.candidate("tcp://them:1", 0.0)
    peers.handle_timeout(0.0, 0.0)
    assert peers.poll_commands() == [Dial(1, "tcp://them:1")]
    peers.connected(1, 0.0)
    peers.receive_hello(hello(7, peers.by_wire[1].mine), 0.0)
    peers.said_bye(peers.by_wire[1], IDLE, 1.0)
    for now in (2.0, 20.0, 60.0):
        peers.handle_timeout(now, 0.0)
    assert peers.poll_commands() == [HangUp(1)]


def test_a_refused_static_peer_is_dialled_again() -> None:
    """Nobody has to wake us for that."""
    peers = node()
    peers.candidate("tcp://them:1", 0.0)
    peers.handle_timeout(0.0, 0.0)
    peers.unreachable(1, 0.0)
    peers.poll_commands()
    assert peers.deadlines.first < 1.0
    peers.handle_timeout(1.0, 0.0)
    assert peers.poll_commands() == [Dial(2, "tcp://them:1")]


def test_a_static_peer_that_came_first_is_not_dialled_again() -> None:
    """The first dial was refused; meanwhile the peer said hello, and a second connection would renew that link."""
    peers = node()
    peers.candidate("tcp://them:1", 0.0)
    peers.handle_timeout(0.0, 0.0)
    peers.unreachable(1, 0.0)
    peers.receive_hello(hello(7, 0), 0.1)
    assert peers.poll_commands() == [Dial(1, "tcp://them:1"), HangUp(1), Dial(2, "ipc:///them")]
    peers.connected(2, 0.1)
    [change] = peers.receive_hello(hello(7, peers.by_wire[2].mine), 0.1)
    assert isinstance(change, CameUp)
    peers.handle_timeout(5.0, 5.0)
    assert peers.poll_commands() == []
    peers.said_bye(peers.by_wire[2], LEAVING, 6.0)
    peers.handle_timeout(7.0, 0.0)
    assert peers.poll_commands() == [HangUp(2), Dial(3, "tcp://them:1")]


MOVED = msgspec.structs.replace(THEM, inbox=["ipc:///there", "tcp://them:1"])


def test_a_peer_that_moved_is_dialled_there_when_it_must_be() -> None:
    """Its hello says so; the connection that stands is left alone, and the next one goes to the new place."""
    peers = node()
    up(peers)
    assert peers.receive_hello(hello(7, peers.by_wire[1].mine, MOVED), 1.0) == []
    assert peers.by_wire[1].address == MOVED
    assert peers.receive_hello(hello(7, peers.by_wire[1].mine, MOVED), 1.1) == []
    assert peers.poll_commands() == []
    assert peers.by_wire[1].up
    peers.disconnected(1, 2.0)
    peers.unreachable(1, 2.0)
    assert peers.poll_commands() == [Dial(1, "ipc:///there")]
    peers.check()


def test_a_peer_that_was_sought_in_vain_says_where_it_is() -> None:
    """It is dialled there at once, and nobody concludes anything from what was refused before."""
    peers = node()
    mine = up(peers)
    peers.disconnected(1, 1.0)
    peers.unreachable(1, 1.0)
    peers.unreachable(1, 1.0)
    peers.poll_commands()
    peers.probed(1, Outcome.SILENT, 1.0)
    changes = peers.receive_hello(hello(7, mine, MOVED), 1.5)
    assert changes == []
    assert peers.poll_commands() == [Dial(1, "ipc:///there")]
    assert peers.by_wire[1].belief.value == "alive"


def test_discovery_tells_where_a_lost_peer_is() -> None:
    """The same life of a node at other endpoints: if its link is not up, it is dialled there at once."""
    peers = node()
    up(peers)
    peers.disconnected(1, 1.0)
    peers.unreachable(1, 1.0)
    peers.unreachable(1, 1.0)
    peers.poll_commands()
    peers.discovered(MOVED, 1.5)
    assert peers.poll_commands() == [Dial(1, "ipc:///there")]
    assert [door.endpoint for door in peers.by_wire[1].doors] == ["ipc:///them", "ipc:///there", "tcp://them:1"]


def test_discovery_does_not_end_a_link() -> None:
    """A new address, or a later epoch, of a node whose link is up is one more endpoint to try; its hello decides."""
    peers = node()
    up(peers)
    peers.discovered(MOVED, 0.5)
    assert (peers.poll_commands(), peers.by_wire[1].up) == ([], True)
    later = msgspec.structs.replace(THEM, epoch=6 << 20, inbox=["tcp://later:1"])
    peers.discovered(later, 1.0)
    assert peers.poll_commands() == [Dial(2, "tcp://later:1")]
    assert peers.by_wire[1].up
    peers.discovered(later, 1.1)
    assert peers.poll_commands() == []
    peers.connected(2, 1.2)
    _, (_, [header]) = peers.hello_frames(1.2)
    said = decode_frame(header)
    assert isinstance(said, Hello)
    assert said.to == "", "whoever is there may answer"
    changes = peers.receive_hello(hello(3, peers.by_wire[2].mine, later), 1.3)
    assert [type(change) for change in changes] == [Gone, CameUp]
    peers.check()


def test_an_announced_life_that_does_not_show_up_changes_nothing() -> None:
    """Whoever is met is believed, and nobody is told that it is superseded because of what was only announced."""
    peers = node()
    peers.discovered(msgspec.structs.replace(THEM, epoch=9 << 20), 0.0)
    peers.receive_hello(hello(7, 0), 0.1)
    assert list(peers.by_peer) == [f"them:{5 << 20}"]
    assert peers.rejections.wires == {}


def test_a_loopback_of_another_host_is_not_dialled() -> None:
    """It would lead to this one; where discovery has seen the node is tried all the same."""
    peers, far = node(), msgspec.structs.replace(THEM, host="h2")
    peers.discovered(far, 0.0)
    peers.connected(1, 0.0)
    named = msgspec.structs.replace(far, inbox=["tcp://127.0.0.1:1"])
    changes = peers.receive_hello(hello(7, peers.by_wire[1].mine, named), 0.0)
    assert [type(change) for change in changes] == [CameUp]
    assert peers.by_wire[1].doors == [Door("tcp://them:1")]


def test_everybody_hears_that_we_moved() -> None:
    """By a hello with the new endpoints, which changes nothing on a link that is up; its version has grown."""
    peers = node()
    up(peers)
    assert list(peers.hello_frames(0.0)) != []
    assert peers.hello_frames(0.0) == []
    elsewhere = msgspec.structs.replace(US, inbox=["tcp://us:2"])
    assert peers.readdress(elsewhere, 0.5) == []
    [(link, [header])] = peers.hello_frames(1.0)
    frame = decode_frame(header)
    assert isinstance(frame, Hello)
    assert (link.wire, link.up) == (1, True)
    assert frame.address == peers.address == msgspec.structs.replace(elsewhere, version=1)


def test_only_who_is_wanted_is_dialled() -> None:
    """Not when it is found, nor when it was given up, nor with others; its own hello is always answered."""
    peers = node()
    wanted = False
    peers.wanted = lambda address: wanted
    peers.discovered(THEM, 0.0)
    assert peers.poll_commands() == []
    wanted = True
    peers.discovered(THEM, 1.0)
    assert peers.poll_commands() == [Dial(1, "ipc:///them")]
    peers.unreachable(1, 1.0)
    peers.unreachable(1, 1.0)
    wanted = False
    peers.handle_timeout(10.0, 0.0)
    assert peers.poll_commands() == [Dial(1, "tcp://them:1"), HangUp(1)]
    assert [view.state for view in peers.view()] == ["idle"]
    peers.receive_hello(hello(7, 0), 11.0)
    assert peers.poll_commands() == [Dial(2, "ipc:///them")]


def test_a_few_of_many_silent_nodes_are_named() -> None:
    """Somebody may announce any number that do not exist: the log is for people."""
    peers = node()
    for number in range(20):
        peers.discovered(
            msgspec.structs.replace(THEM, node_id=f"made-up-{number}", inbox=[f"tcp://127.0.0.1:{number + 1}"]), 0.0
        )
    assert len(list(peers.findings())) == SILENT_MAX
