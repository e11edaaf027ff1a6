"""Peers on other hosts: which endpoint leads to them, and what can be believed of them."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from peerfabric.link.commands import Command, Dial, HangUp, Outcome, Probe
from peerfabric.link.endpoints import Door
from peerfabric.link.link import HUNG_FAR_MAX, REFUSED_FAR_AFTER, CameUp, Change, Gone, LifeEnded
from peerfabric.link.links import Links
from peerfabric.wire.frames import MAGIC, NOT_ME, SUPERSEDED, UNWELCOME, Address, Bye, Hello, decode_frame

US = Address("us", 5 << 20, "us", "net1-a", ["tcp://10.0.0.1:1", "tcp://172.17.0.1:1"], [])
FAR = Address("far", 5 << 20, "far", "net2-a", ["tcp://172.17.0.1:1", "tcp://10.0.0.2:1"], [])
DOCKER, LAN = "tcp://172.17.0.1:1", "tcp://10.0.0.2:1"
AT_LAN = replace(FAR, inbox=[LAN])


def node() -> Links:
    return Links(US, "f", 1000, 10, Random(1))


def hello(mine: int, yours: int, address: Address = FAR, *, to: str = "us") -> Hello:
    return Hello(MAGIC, 1, "f", to, address, mine, yours, False, 1000)


def dials(peers: Links) -> list[tuple[int, str]]:
    """Where wires are dialled by the commands that are due; others are dropped."""
    return [(command.wire, command.endpoint) for command in peers.poll_commands() if isinstance(command, Dial)]


def said(peers: Links, now: float) -> list[Hello]:
    """The hellos that leave now."""
    frames = [decode_frame(header) for _, [header] in peers.hello_frames(now)]
    return [frame for frame in frames if isinstance(frame, Hello)]


def up(peers: Links, address: Address = AT_LAN) -> None:
    """A link with FAR over wire 1, at its one endpoint."""
    peers.discovered(address, 0.0)
    peers.connected(1, 0.0)
    said(peers, 0.0)
    changes = peers.receive_hello(hello(7, peers.by_wire[1].mine, address), 0.0)
    assert [type(change) for change in changes] == [CameUp]
    peers.poll_commands()


def suspect(peers: Links, at: float) -> None:
    """What left at `at` is not echoed: the peer is probed two seconds later."""
    link = peers.by_wire[1]
    link.next_number()
    link.pinged(at)
    peers.look(link, link.silent_at)
    peers.handle_timeout(at + 2.0, 0.0)
    assert peers.poll_commands() == [Probe(1, LAN, "far", 5 << 20)]


def turns(peers: Links, now: float, until: float, outcome: Outcome) -> list[tuple[float, Change]]:
    """Let time pass while each probe finds the same; return what came of it, and when."""
    seen: list[tuple[float, Change]] = []
    while now < until:
        now += 0.05
        seen += [(now, change) for change in peers.handle_timeout(now, 0.0)]
        for command in peers.poll_commands():
            if isinstance(command, Probe):
                seen += [(now, change) for change in peers.probed(command.wire, outcome, now)]
            elif isinstance(command, Dial):
                peers.connected(command.wire, now)
    return seen


# Which endpoint leads to the peer


def test_an_endpoint_that_does_not_answer_is_left_after_a_second() -> None:
    """In a circle, with more time in each round; a larger half each time, so that an answer proves something."""
    peers = node()
    peers.discovered(FAR, 0.0)
    now, seen, halves = 0.0, [], []
    for _ in range(6):
        [(wire, endpoint)] = dials(peers)
        peers.connected(wire, now)
        halves += [frame.mine for frame in said(peers, now)]
        began = now
        while not peers.commands and now < began + 20.0:
            now += 0.05
            peers.handle_timeout(now, 0.0)
        seen.append((endpoint, round(now - began)))
    assert seen == [(DOCKER, 1), (LAN, 1), (DOCKER, 2), (LAN, 2), (DOCKER, 4), (LAN, 4)]
    assert halves == sorted(set(halves))


def test_an_answer_to_an_earlier_half_does_not_prove_this_endpoint() -> None:
    """The one before led to the peer, which was slow: back to it; this one may be anybody."""
    peers = node()
    peers.discovered(FAR, 0.0)
    peers.connected(1, 0.0)
    [first] = said(peers, 0.0)
    peers.handle_timeout(1.1, 0.0)
    assert dials(peers) == [(1, DOCKER), (1, LAN)]
    peers.connected(1, 1.1)
    assert peers.receive_hello(hello(7, first.mine), 1.2) == []
    assert not peers.by_wire[1].up
    assert dials(peers) == [(1, DOCKER)]
    peers.connected(1, 1.2)
    peers.receive_hello(hello(7, first.mine), 1.3)
    assert dials(peers) == [], "once"
    assert [type(change) for change in peers.receive_hello(hello(7, peers.by_wire[1].mine), 1.4)] == [CameUp]
    peers.check()


def test_the_only_endpoint_is_not_left() -> None:
    """Nor the one at which the peer was met: it may be slow, or stopped."""
    for address in (AT_LAN, FAR):
        peers = node()
        up(peers, address)
        peers.disconnected(1, 1.0)
        peers.connected(1, 1.1)
        peers.handle_timeout(2.9, 0.0)
        assert dials(peers) == []


def test_who_was_never_up_is_not_judged() -> None:
    """It is heard, and not reached: nothing of ours is with it, so there is nothing to give up."""
    peers = node()
    peers.discovered(AT_LAN, 0.0)
    now = 0.0
    while now < 20.0:
        now += 0.5
        for command in peers.poll_commands():
            assert not isinstance(command, Probe)
            if isinstance(command, Dial):
                peers.unreachable(command.wire, now)
        peers.receive_hello(hello(7, 0, AT_LAN), now)
        assert peers.handle_timeout(now, 0.0) == []
    assert [(view.state, view.reason) for view in peers.view()] == [("one-way", "one-way")]


def test_a_hello_for_another_node_is_answered_and_changes_nothing() -> None:
    """Over the link with its sender, or over a wire for that; it names the half that came here."""
    peers = node()
    assert peers.receive_hello(hello(7, 0, to="else"), 0.0) == []
    assert (peers.by_wire, peers.view()) == ({}, [])
    assert dials(peers) == [(1, DOCKER)]
    [(wire, [header])] = peers.rejections.frames()
    bye = decode_frame(header)
    assert bye == Bye(bytes(4) + (7).to_bytes(4, "big"), 0, 0, "us", NOT_ME)
    peers.receive_hello(hello(8, 0, to="else"), 0.5)
    assert dials(peers) == [], "not told again so soon"
    peers = node()
    up(peers)
    peers.receive_hello(hello(9, 0, to="else"), 1.0)
    [(wire, [header])] = peers.answers
    assert (wire, decode_frame(header)) == (1, Bye(bytes(4) + (9).to_bytes(4, "big"), 0, 0, "us", NOT_ME))
    assert peers.by_wire[1].theirs == 7


def test_not_me_leads_to_the_next_endpoint_at_once() -> None:
    """If it is about the half that is told now; and `peers()` says so."""
    peers = node()
    peers.discovered(FAR, 0.0)
    peers.connected(1, 0.0)
    [first] = said(peers, 0.0)
    peers.poll_commands()
    not_me = Bye(bytes(4) + first.mine.to_bytes(4, "big"), 0, 0, "other", NOT_ME)
    assert peers.rejected_by(not_me, 0.1) == []
    assert dials(peers) == [(1, LAN)]
    assert [view.reason for view in peers.view()] == ["not-me"]
    peers.connected(1, 0.2)
    peers.rejected_by(not_me, 0.3)
    assert dials(peers) == [], "that was about the endpoint before"
    peers.receive_hello(hello(7, peers.by_wire[1].mine), 0.4)
    assert [(view.state, view.reason) for view in peers.view()] == [("up", "")]


def test_our_own_hello_to_another_means_the_same() -> None:
    """172.17.0.1 is this very machine, too."""
    peers = node()
    peers.discovered(FAR, 0.0)
    peers.connected(1, 0.0)
    [own] = said(peers, 0.0)
    peers.poll_commands()
    peers.receive_hello(own, 0.1)
    assert dials(peers) == [(1, LAN)]


def test_a_stranger_at_the_place_of_a_peer_is_asked_who_it_is() -> None:
    """On the same network its hello proves that the peer is gone; elsewhere it proves nothing."""
    for host, gone in (("net2-b", True), ("net3-a", False)):
        peers = node()
        up(peers)
        peers.disconnected(1, 1.0)
        peers.connected(1, 1.1)
        [frame] = said(peers, 1.1)
        peers.poll_commands()
        peers.rejected_by(Bye(bytes(4) + frame.mine.to_bytes(4, "big"), 0, 0, "other", NOT_ME), 1.2)
        assert dials(peers) == [(2, LAN)]
        peers.connected(2, 1.3)
        [asked] = said(peers, 1.3)
        assert asked.to == ""
        other = replace(FAR, node_id="other", host=host, inbox=[LAN])
        changes = peers.receive_hello(hello(3, asked.mine, other), 1.4)
        parted = [change for change in changes if isinstance(change, Gone)]
        assert [(change.link.node_id, change.proven) for change in parted] == ([("far", True)] if gone else [])
        peers.check()


def test_what_accepts_where_a_stranger_was_met_is_not_the_peer() -> None:
    """It is not taken for hung, but for silent: given up in time."""
    peers = node()
    up(peers)
    peers.disconnected(1, 1.0)
    peers.connected(1, 1.1)
    [frame] = said(peers, 1.1)
    peers.rejected_by(Bye(bytes(4) + frame.mine.to_bytes(4, "big"), 0, 0, "other", NOT_ME), 1.2)
    seen = turns(peers, 1.2, 6.0, Outcome.ACCEPTED)
    [(at, change)] = [(at, change) for at, change in seen if isinstance(change, Gone)]
    assert (change.proven, change.died) == (False, False)
    assert at <= 5.1


def test_whoever_lists_an_endpoint_does_not_own_it() -> None:
    """A candidate's wire belongs to the node whose hello has its half."""
    peers = node()
    peers.candidate(LAN, 0.0)
    peers.handle_timeout(0.0, 0.0)
    peers.connected(1, 0.0)
    [frame] = said(peers, 0.0)
    thief = replace(FAR, node_id="thief", inbox=[LAN])
    peers.receive_hello(hello(3, 0, thief), 0.1)
    assert peers.by_wire[1].address is None
    peers.receive_hello(hello(7, frame.mine), 0.2)
    assert peers.by_wire[1].node_id == "far"


def test_a_peer_is_dialled_where_its_hello_came_from() -> None:
    """With the port that it announces, instead of where it is being sought; not away from where it was met."""
    peers = node()
    peers.discovered(FAR, 0.0)
    assert dials(peers) == [(1, DOCKER)]
    peers.receive_hello(hello(7, 0), 0.1, observed="::ffff:10.0.0.9")
    assert dials(peers) == [(1, "tcp://10.0.0.9:1")]
    peers.connected(1, 0.2)
    peers.receive_hello(hello(7, peers.by_wire[1].mine), 0.3, observed="10.0.0.9")
    assert peers.by_wire[1].up
    peers.receive_hello(hello(7, peers.by_wire[1].mine), 0.4, observed="10.0.0.10")
    assert dials(peers) == []


def test_the_host_where_a_peer_was_met_comes_first() -> None:
    """There is a way to it."""
    peers = node()
    peers.discovered(FAR, 0.0)
    peers.unreachable(1, 0.0)
    peers.connected(1, 0.1)
    peers.receive_hello(hello(7, peers.by_wire[1].mine), 0.2)
    more = replace(FAR, version=1, inbox=[*FAR.inbox, "tcp://10.0.0.2:3"])
    peers.receive_hello(hello(7, peers.by_wire[1].mine, more), 0.3)
    assert [door.endpoint for door in peers.by_wire[1].doors] == [LAN, "tcp://10.0.0.2:3", DOCKER]


# What is believed


def test_a_refusal_on_another_host_proves_nothing_so_soon() -> None:
    """A firewall may refuse in the name of the living. Once nothing was heard for 2.6 s, its fence has ended, too."""
    peers = node()
    up(peers)
    peers.disconnected(1, 1.0)
    [(at, change)] = turns(peers, 1.0, 5.0, Outcome.REFUSED)
    assert isinstance(change, Gone)
    assert (change.proven, change.died) == (True, True)
    assert REFUSED_FAR_AFTER <= at <= REFUSED_FAR_AFTER + 0.7


def test_who_is_heard_is_not_dead_whatever_refuses() -> None:
    """Its hellos come, ours are refused: in the end it is given up, and nobody says that it died."""
    peers = node()
    up(peers)
    peers.disconnected(1, 1.0)
    seen: list[Change] = []
    now = 1.0
    while now < 7.0 and not seen:
        seen += [change for _, change in turns(peers, now, now + 0.5, Outcome.REFUSED)]
        now += 0.5
        if not seen:
            peers.receive_hello(hello(8, 0, AT_LAN), now)
    [change] = seen
    assert isinstance(change, Gone)
    assert (change.proven, 5.0 <= now <= 5.5) == (False, True)


def test_hung_on_another_host_is_over_in_half_a_minute() -> None:
    """Something else may accept in its name. It is dialled afresh meanwhile: our connection may be the dead one."""
    peers = node()
    up(peers)
    suspect(peers, 1.0)
    changes = peers.probed(1, Outcome.ACCEPTED, 3.0)
    assert [type(change) for change in changes] == [LifeEnded]
    assert dials(peers) == [(1, LAN)]
    peers.connected(1, 3.0)
    [(at, change)] = turns(peers, 3.0, 60.0, Outcome.ACCEPTED)
    assert isinstance(change, Gone)
    assert change.proven is False
    assert HUNG_FAR_MAX <= at - 3.0 <= HUNG_FAR_MAX + 1.0


def test_hung_on_this_host_may_last() -> None:
    """A stopped process wakes some time."""
    peers = node()
    near = replace(FAR, host="net1-b", inbox=[LAN])
    up(peers, near)
    suspect(peers, 1.0)
    assert peers.probed(1, Outcome.ACCEPTED, 3.0) == []
    assert turns(peers, 3.0, 60.0, Outcome.ACCEPTED) == []


def test_a_probe_of_an_endpoint_that_the_peer_has_left_proves_nothing() -> None:
    """It listens elsewhere by now."""
    peers = node()
    near = replace(FAR, host="net1-b", inbox=[LAN])
    up(peers, near)
    peers.disconnected(1, 1.0)
    peers.receive_hello(hello(7, 0, replace(near, version=1, inbox=["tcp://10.0.0.9:1"])), 1.1)
    peers.disconnected(1, 1.2)
    seen = turns(peers, 1.2, 4.0, Outcome.REFUSED)
    assert [change for _, change in seen if isinstance(change, Gone)] == []


def test_a_new_life_does_not_pay_what_the_last_one_owed() -> None:
    """We hear it, it begins a life after the other, and never hears us: given up as if it had said nothing."""
    peers = node()
    up(peers)
    link = peers.by_wire[1]
    link.next_number()
    link.pinged(1.0)
    peers.look(link, link.silent_at)
    assert peers.handle_timeout(3.0, 0.0) == []
    now, mine = 3.0, 7
    seen: list[Change] = []
    while not seen and now < 20.0:
        now += 0.5
        mine += 1
        changes = peers.receive_hello(hello(mine, 0, AT_LAN), now)
        changes += peers.handle_timeout(now, 0.0)
        seen += [change for change in changes if isinstance(change, Gone)]
    assert 5.0 <= now <= 5.5


# News


def test_a_hello_that_names_the_endpoint_no_more_moves_the_link() -> None:
    """Only news count: not an address of a version before."""
    peers = node()
    up(peers)
    moved = replace(FAR, version=2, inbox=["tcp://10.0.0.9:1"])
    changes = peers.receive_hello(hello(7, peers.by_wire[1].mine, moved), 1.0)
    assert [type(change) for change in changes] == [LifeEnded]
    assert dials(peers) == [(1, "tcp://10.0.0.9:1")]
    peers.receive_hello(hello(7, 0, replace(FAR, version=1)), 1.1)
    assert peers.by_wire[1].address == moved


def test_on_our_own_move_whoever_is_suspect_is_dialled_at_once() -> None:
    """The others are told."""
    peers = node()
    up(peers)
    peers.disconnected(1, 1.0)
    peers.unreachable(1, 1.0)
    peers.poll_commands()
    peers.readdress(replace(US, inbox=["tcp://10.0.0.7:1"]), 1.1)
    assert dials(peers) == [(1, LAN)]
    assert peers.address.version == 1


def test_links_under_a_gate_that_is_gone_are_dialled_anew() -> None:
    """Under the others, first the first; ipc has none."""
    peers = node()
    peers.change_gates(["old"], 0.0)
    up(peers)
    assert peers.by_wire[1].door == Door(LAN, "old")
    assert peers.change_gates(["new", "old"], 1.0) == []
    assert peers.poll_commands() == []
    assert [type(change) for change in peers.change_gates(["new"], 2.0)] == [LifeEnded]
    assert peers.poll_commands() == [Dial(1, LAN, "new")]
    peers.unreachable(1, 2.1, "secret")
    assert [view.reason for view in peers.view()] == ["secret"]


def test_why_an_endpoint_given_by_hand_does_not_answer() -> None:
    """`peers()` shows it, until somebody is met there."""
    peers = node()
    peers.candidate(LAN, 0.0)
    peers.handle_timeout(0.0, 0.0)
    assert [(view.endpoint, view.state, view.reason) for view in peers.view()] == [(LAN, "connecting", "")]
    peers.unreachable(1, 0.1, "mechanism")
    assert [(view.endpoint, view.reason) for view in peers.view()] == [(LAN, "mechanism")]
    peers.poll_commands()
    peers.handle_timeout(1.0, 0.0)
    [(wire, _)] = dials(peers)
    peers.connected(wire, 1.0)
    peers.receive_hello(hello(7, peers.by_wire[wire].mine), 1.1)
    assert [(view.node_id, view.state, view.reason) for view in peers.view()] == [("far", "up", "")]


def test_dials_to_other_hosts_wait_for_their_turn() -> None:
    """However many are announced at once; ipc and loopback do not wait."""
    peers = Links(US, "f", 1000, 500, Random(1))
    for number in range(200):
        peers.discovered(Address(f"n{number}", 1 << 20, "", "net9-a", [f"tcp://10.1.0.{number}:1"], []), 0.0)
    assert len(dials(peers)) == 20
    near = Address("near", 1 << 20, "", "net1-a", ["ipc:///near"], [])
    peers.discovered(near, 0.0)
    commands: list[Command] = peers.poll_commands()
    assert commands == [Dial(201, "ipc:///near")]
    now, dialled = 0.0, 20
    for wire in range(1, 21):
        peers.connected(wire, 0.0)
    while now < 1.0:
        now += 0.01
        peers.handle_timeout(now, 0.0)
        for wire, _ in dials(peers):
            peers.connected(wire, now)
            dialled += 1
    assert 60 <= dialled <= 72


# Copies, and who is let in


def test_an_earlier_life_is_told_that_it_is_superseded() -> None:
    """By whoever has met the later one; once in a while."""
    peers = node()
    up(peers)
    earlier = replace(FAR, epoch=4 << 20, inbox=["tcp://10.0.0.8:1"])
    assert peers.receive_hello(hello(3, 0, earlier), 1.0) == []
    assert dials(peers) == [(2, "tcp://10.0.0.8:1")]
    [(_, [header])] = peers.rejections.frames()
    assert decode_frame(header) == Bye(bytes(4) + (3).to_bytes(4, "big"), 0, 0, "us", SUPERSEDED)
    peers.receive_hello(hello(3, 0, earlier), 1.5)
    assert dials(peers) == []
    assert not peers.rejections.is_rejected("far", 2.0)


@pytest.mark.parametrize(("epoch", "stops"), [(6 << 20, True), (4 << 20, False), ((5 << 20) + 1, True)])
def test_two_copies_of_this_node(epoch: int, stops: bool) -> None:
    """Its own id is announced: dialled once. The earlier one stops, whoever says hello first."""
    peers = node()
    copy = replace(US, epoch=epoch, host="net4-a", inbox=["tcp://10.0.0.4:1"])
    peers.discovered(copy, 0.0)
    peers.discovered(copy, 0.1)
    assert dials(peers) == [(1, "tcp://10.0.0.4:1")]
    peers.receive_hello(hello(3, 0, copy, to=""), 0.2)
    assert peers.superseded == ("tcp://10.0.0.4:1" if stops else "")
    assert bool(dials(peers)) is not stops


def superseded(half: int) -> Bye:
    """A BYE of another that answers our hello with this half."""
    return Bye(bytes(4) + half.to_bytes(4, "big"), 0, 0, "far", SUPERSEDED)


def test_to_be_told_by_a_copy_or_by_others_is_the_same() -> None:
    """The endpoint is known if the other copy was announced."""
    peers = node()
    peers.discovered(replace(US, epoch=6 << 20, host="net4-a", inbox=["tcp://10.0.0.4:1"]), 0.0)
    peers.rejected_by(superseded(next(iter(peers.by_wire.values())).mine), 1.0)
    assert peers.superseded == "tcp://10.0.0.4:1"
    peers = node()
    up(peers)
    mine = peers.by_wire[1].mine
    peers.rejected_by(superseded(mine), 1.0)
    assert LAN in peers.superseded


def test_what_another_life_is_told_is_not_for_this_one() -> None:
    """A BYE to the earlier copy may come to the later one, which was seen there last: it goes on."""
    peers = node()
    up(peers)
    mine = peers.by_wire[1].mine
    peers.rejected_by(superseded(mine + 1), 1.0)
    peers.rejected_by(Bye(bytes(8), 0, 0, "far", SUPERSEDED), 1.0)
    assert peers.superseded == ""


def test_a_copy_that_is_up_is_told_at_once() -> None:
    """By whoever meets the later one; its link ends."""
    peers = node()
    up(peers)
    theirs = peers.by_peer[f"far:{FAR.epoch}"].theirs
    later = replace(FAR, epoch=FAR.epoch + (1 << 20), inbox=["tcp://10.0.0.8:1"])
    [change] = peers.receive_hello(hello(3, 0, later), 1.0)
    assert isinstance(change, Gone)
    [(wire, [header])] = peers.answers
    assert (wire, decode_frame(header)) == (1, Bye(bytes(4) + theirs.to_bytes(4, "big"), 0, 0, "us", SUPERSEDED))
    peers.check()


def test_a_copy_says_hello_to_another_node_here() -> None:
    """Its peer was at this endpoint before; it learns that it is the earlier one all the same."""
    peers = node()
    earlier = replace(US, epoch=4 << 20, inbox=["tcp://10.0.0.4:1"])
    assert peers.receive_hello(hello(3, 0, earlier, to="far"), 1.0) == []
    [(_, [header])] = peers.rejections.frames()
    assert decode_frame(header) == Bye(bytes(4) + (3).to_bytes(4, "big"), 0, 0, "us", SUPERSEDED)


def test_what_a_hello_lists_proves_no_death() -> None:
    """A member may name the endpoints and the host of another; only our half that went there and came back counts."""
    peers = node()
    up(peers)
    mine = peers.by_wire[1].mine
    peers.disconnected(1, 1.0)
    liar = replace(FAR, node_id="liar")
    for yours in (0, mine, mine + 1, mine + 2):
        assert not [change for change in peers.receive_hello(hello(4, yours, liar), 1.0) if isinstance(change, Gone)]
    assert f"far:{FAR.epoch}" in peers.by_peer


def test_who_does_not_let_us_in_is_asked_again_later() -> None:
    """The link ends, without a proof of anything."""
    peers = node()
    up(peers)
    [change] = peers.said_bye(peers.by_wire[1], UNWELCOME, 1.0)
    assert isinstance(change, Gone)
    assert (change.proven, change.died) == (False, False)
    assert [(view.state, view.reason) for view in peers.view()] == [("idle", "denied")]
    now = 1.0
    while not dials(peers) and now < 100.0:
        now += 0.5
        peers.handle_timeout(now, 0.0)
    assert 23.0 <= now <= 40.0


def test_who_is_not_let_in_is_neither_dialled_nor_heard() -> None:
    """Not from discovery, nor by its own hello, which is counted."""
    peers = node()
    peers.admits = lambda node_id: node_id != "far"
    peers.discovered(FAR, 0.0)
    assert peers.receive_hello(hello(7, 0), 0.1) == []
    assert (peers.poll_commands(), peers.view()) == ([], [])
    assert peers.counters == {"hellos of nodes that are not let in": 1}


def test_who_is_known_to_an_outbox() -> None:
    """Whoever has said hello, or has a link."""
    peers = node()
    assert not peers.is_known("far")
    peers.discovered(FAR, 0.0)
    assert peers.is_known("far")
    peers.unreachable(1, 0.0)
    peers.unreachable(1, 0.0)
    assert (peers.is_known("far"), HangUp(1) in peers.poll_commands()) == (False, True)
    peers.receive_hello(hello(7, 0), 1.0)
    assert peers.is_known("far")


# What others say of it


MONGER = replace(AT_LAN, name="other", host="net1-b", outbox=["tcp://10.0.0.66:2"], outbox_key=b"M" * 32, version=10**6)


def test_a_hello_counts_more_than_a_rumour_of_a_larger_version() -> None:
    """Or a member could have its own outbox followed in the name of the peer, and the peer judged as of this host."""
    genuine = replace(AT_LAN, outbox=["tcp://10.0.0.2:2"], outbox_key=b"X" * 32, version=3)
    peers = node()
    peers.discovered(MONGER, 0.0)
    peers.connected(1, 0.0)
    said(peers, 0.0)
    peers.receive_hello(hello(7, peers.by_wire[1].mine, genuine), 0.0, "far")
    assert peers.by_wire[1].up
    assert peers.by_wire[1].address == genuine
    peers.part_idle(peers.by_wire[1], 1.0)
    peers.redial("far", 2.0)
    wire = max(peers.by_wire)
    assert peers.by_wire[wire].address != genuine
    peers.connected(wire, 2.0)
    said(peers, 2.0)
    peers.receive_hello(hello(8, peers.by_wire[wire].mine, genuine), 2.0, "far")
    assert peers.by_wire[wire].up
    assert peers.by_wire[wire].address == genuine
