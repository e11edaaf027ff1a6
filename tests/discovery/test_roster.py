"""The rules by which sightings become one view."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from peerfabric.discovery.base import Announcement, Candidate, Lost, Sighting, Withdrawn
from peerfabric.discovery.roster import CANDIDATES_MAX, Peer, Roster
from tests.discovery.conftest import announcement_for

OURS = "n1-m1"


class Node:
    """Owns a roster and keeps its changes."""

    def __init__(self, peers_max: int = 2048) -> None:
        self.changes: list[tuple[str, Any]] = []
        self.roster = Roster(
            node_id="us",
            epoch=5 << 20,
            fabric="tests",
            host=OURS,
            on_peer=lambda announcement: self.changes.append(("peer", announcement)),
            on_candidate=lambda endpoint: self.changes.append(("candidate", endpoint)),
            on_lost=lambda node_id: self.changes.append(("lost", node_id)),
            on_withdrawn=lambda endpoint: self.changes.append(("withdrawn", endpoint)),
            peers_max=peers_max,
        )

    def see(self, announcement: Announcement, source: str = "registry") -> None:
        self.roster.report(Sighting(seen=announcement, source=source))
        self.roster.check()

    def lose(self, node_id: str, source: str = "registry") -> None:
        self.roster.report(Lost(node_id=node_id, source=source))
        self.roster.check()


def peer(**changes: Any) -> Announcement:
    return announcement_for(**{"node_id": "them", "host": OURS, **changes})


def test_sighting_is_told_once() -> None:
    """Seeing the same again changes nothing."""
    node = Node()
    node.see(peer())
    node.see(peer())
    assert node.changes == [("peer", peer())]
    assert node.roster.view() == [Peer(peer(), ("registry",))]


def test_sources_are_joined() -> None:
    """Endpoints of all sources, ipc before tcp before others, each once; the longest name."""
    node = Node()
    node.see(peer(name="kit", inbox=("ws://a", "tcp://127.0.0.1:1"), outbox=()), "mdns")
    node.see(peer(inbox=("tcp://127.0.0.1:1", "tcp://192.0.2.1:1", "ipc:///a")), "registry")
    merged = peer(inbox=("ipc:///a", "tcp://127.0.0.1:1", "tcp://192.0.2.1:1", "ws://a"))
    assert node.changes[-1] == ("peer", merged)
    assert node.roster.view() == [Peer(merged, ("mdns", "registry"))]


def test_endpoints_of_other_hosts_are_left_out() -> None:
    """An ipc path or a loopback address of another machine means somebody else here."""
    node = Node()
    endpoints = ("ipc:///a", "tcp://127.0.0.1:1", "tcp://192.0.2.1:1")
    node.see(peer(host="n2-m1", inbox=endpoints, outbox=()))
    assert node.changes == [("peer", peer(host="n2-m1", inbox=("tcp://192.0.2.1:1",), outbox=()))]


def test_lost_only_when_all_sources_lost_it() -> None:
    """One source that still sees the node is enough."""
    node = Node()
    node.see(peer(inbox=("ipc:///a",)), "registry")
    node.see(peer(inbox=("tcp://127.0.0.1:1",)), "exchange")
    node.lose("them", "registry")
    assert node.changes[-1:] == [("peer", peer(inbox=("tcp://127.0.0.1:1",)))]
    node.lose("them", "registry")
    node.lose("them", "exchange")
    node.lose("them", "exchange")
    assert node.changes[-1:] == [("lost", "them")]
    assert [kind for kind, _ in node.changes].count("lost") == 1
    assert node.roster.view() == []


def test_larger_version_wins() -> None:
    """Endpoints are joined only of the same version; a source that is behind adds nothing, and takes nothing back."""
    node = Node()
    first = peer(inbox=("tcp://192.0.2.1:1",), outbox=(), version=3)
    node.see(first, "mdns")
    node.see(peer(inbox=("ipc:///a",), outbox=(), version=2), "exchange")
    assert node.changes == [("peer", first)]
    node.see(peer(inbox=("ipc:///a",), outbox=(), version=3, digest=b"d", outbox_key=b"k" * 32), "registry")
    joined = peer(inbox=("ipc:///a", "tcp://192.0.2.1:1"), outbox=(), version=3, digest=b"d", outbox_key=b"k" * 32)
    assert node.changes[1:] == [("peer", joined)]
    node.see(peer(inbox=("tcp://192.0.2.9:1",), outbox=(), version=2), "registry")
    assert (len(node.changes), node.roster.statistics().stale) == (2, 1)
    moved = peer(inbox=("tcp://192.0.2.2:1",), outbox=(), version=4)
    node.see(moved, "mdns")
    assert node.changes[2:] == [("peer", moved)]
    node.lose("them", "mdns")
    assert len(node.changes) == 3
    node.see(peer(epoch=8 << 20, version=1), "exchange")
    assert node.changes[3:] == [("peer", peer(epoch=8 << 20, version=1))]


def test_candidate_is_withdrawn_by_all_who_proposed_it() -> None:
    """And may come again; whoever did not propose it has no say."""
    node = Node()
    for source in ("static", "dns"):
        node.roster.report(Sighting(seen=Candidate("tcp://192.0.2.1:1"), source=source))
    for source in ("remembered", "dns", "dns"):
        node.roster.report(Withdrawn(endpoint="tcp://192.0.2.1:1", source=source))
    assert node.changes == [("candidate", "tcp://192.0.2.1:1")]
    node.roster.report(Withdrawn(endpoint="tcp://192.0.2.1:1", source="static"))
    node.roster.report(Sighting(seen=Candidate("tcp://192.0.2.1:1"), source="dns"))
    assert [kind for kind, _ in node.changes] == ["candidate", "withdrawn", "candidate"]
    assert node.roster.statistics().candidates == 1


def test_nodes_known_to_one_source() -> None:
    """And to no other."""
    node = Node()
    node.see(peer(node_id="a"), "mdns")
    node.see(peer(node_id="b"), "mdns")
    node.see(peer(node_id="b"), "exchange")
    node.see(peer(node_id="c"), "registry")
    assert (node.roster.known_only_to("mdns"), node.roster.known_only_to("exchange")) == (1, 0)


def test_newer_life_replaces_and_older_is_ignored() -> None:
    """The epoch's counter decides, and sources of an earlier life count no more."""
    node = Node()
    old, new = peer(epoch=7 << 20 | 99, inbox=("tcp://127.0.0.1:1",)), peer(epoch=8 << 20)
    node.see(old, "mdns")
    node.see(new, "registry")
    node.see(old, "exchange")
    assert node.changes == [("peer", old), ("peer", new)]
    assert node.roster.view() == [Peer(new, ("registry",))]
    assert node.roster.statistics().stale == 1
    node.lose("them", "mdns")
    assert len(node.changes) == 2
    node.lose("them", "registry")
    assert node.changes[-1] == ("lost", "them")


def test_equal_counters_are_settled_alike_everywhere() -> None:
    """Two epochs with one counter: the higher wins whatever the order, and endpoints are not mixed."""
    low, high = peer(epoch=7 << 20, inbox=("tcp://127.0.0.1:1",)), peer(epoch=7 << 20 | 5)
    for first, second in ((low, high), (high, low)):
        node = Node()
        node.see(first, "registry")
        node.see(second, "exchange")
        assert [one.announcement for one in node.roster.view()] == [high]


def test_source_that_corrects_itself_is_followed() -> None:
    """A restart within one second may draw lower random bits."""
    node = Node()
    node.see(peer(epoch=7 << 20 | 5))
    node.see(peer(epoch=7 << 20 | 3))
    assert [one.announcement.epoch for one in node.roster.view()] == [7 << 20 | 3]


def test_ourselves_and_strangers_are_ignored() -> None:
    """Our own announcement says nothing; other fabrics are counted."""
    node = Node()
    node.see(peer(node_id="us", epoch=5 << 20))
    node.see(peer(fabric="others"))
    assert (node.changes, node.roster.statistics().foreign) == ([], 1)


def test_another_life_of_ours_is_told() -> None:
    """A copy of this node may run elsewhere. It is nobody whom people are shown."""
    node = Node()
    copy = peer(node_id="us", epoch=6 << 20)
    node.see(copy)
    assert (node.changes, node.roster.view()) == ([("peer", copy)], [])


def test_candidates_are_told_once() -> None:
    """Whichever source names an endpoint; their number is limited."""
    node = Node()
    for source in ("static", "dns"):
        node.roster.report(Sighting(seen=Candidate("tcp://a:1"), source=source))
    assert node.changes == [("candidate", "tcp://a:1")]
    for number in range(CANDIDATES_MAX + 4):
        node.roster.report(Sighting(seen=Candidate(f"tcp://b:{number}"), source="static"))
    statistics = node.roster.statistics()
    assert (statistics.candidates, statistics.refused) == (CANDIDATES_MAX, 5)


def test_full_roster_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """Further nodes are counted, with one warning; known ones go on; room is used again."""
    node = Node(peers_max=2)
    with caplog.at_level(logging.WARNING, "peerfabric"):
        for node_id in ("a", "b", "c", "d"):
            node.see(peer(node_id=node_id))
    assert (len(node.roster.view()), node.roster.statistics().refused, len(caplog.records)) == (2, 2, 1)
    node.see(peer(node_id="a", name="attic"))
    assert node.changes[-1] == ("peer", peer(node_id="a", name="attic"))
    node.lose("a")
    node.see(peer(node_id="c"))
    assert node.changes[-1] == ("peer", peer(node_id="c"))


def test_forgotten_node_returns_when_sighted() -> None:
    """Forgetting is not a loss."""
    node = Node()
    node.see(peer())
    node.roster.forget("them")
    assert node.roster.view() == []
    node.see(peer())
    assert node.changes == [("peer", peer()), ("peer", peer())]


def test_callbacks_may_use_the_roster_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """No lock is held while they run; the changes behind a failure are told all the same."""
    told: list[str] = []

    def on_peer(announcement: Announcement) -> None:
        told.append(announcement.node_id)
        assert len(roster.view()) == len(told)
        if announcement.node_id == "a":
            roster.report(Sighting(seen=peer(node_id="b"), source="registry"))
            raise RuntimeError("a mistake of the node")

    roster = Roster(
        node_id="us",
        epoch=5 << 20,
        fabric="tests",
        host=OURS,
        on_peer=on_peer,
        on_candidate=told.append,
        on_lost=told.append,
    )
    with caplog.at_level(logging.ERROR, "peerfabric"):
        roster.report(Sighting(seen=peer(node_id="a"), source="registry"))
    assert told == ["a", "b"]
    assert len(caplog.records) == 1


def test_threads_agree() -> None:
    """Eight threads report and lose at once: the changes told, replayed in order, give the view."""
    node = Node()

    def work(thread: int) -> None:
        for step in range(200):
            node_id = f"n{(thread + step) % 20}"
            node.see(peer(node_id=node_id, epoch=(step // 20) << 20), f"source{thread}")
            if step % 3 == 0:
                node.lose(node_id, f"source{thread}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    replayed: dict[str, Announcement] = {}
    for kind, what in node.changes:
        if kind == "lost":
            del replayed[str(what)]
        else:
            assert isinstance(what, Announcement)
            replayed[what.node_id] = what
    assert replayed == {one.announcement.node_id: one.announcement for one in node.roster.view()}
