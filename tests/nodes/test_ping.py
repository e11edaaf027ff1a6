"""Ping of a peer on both fronts: by id, by name, by endpoint, and what has no answer."""

from __future__ import annotations

import pytest

from peerfabric import ConfigError, Node, TimedOut
from tests.nodes.conftest import Front, eventually


def test_a_peer_answers(front: Front) -> None:
    """Whichever way it is named, with nothing in common."""
    with front.node("a") as a, front.node("b", listen="tcp://127.0.0.1:*") as b:
        node_id = b.statistics().node_id
        for peer in ("b", node_id):
            assert 0.0 < a.ping(peer, 10.0) < 10.0
        [seen] = a.peers()
        assert 0.0 < a.ping(seen.endpoint, 10.0) < 10.0


def test_a_name_that_discovery_does_not_tell(runtime: object) -> None:
    """Multicast shows nodes without their names: those that may be meant are called up, with nothing in common."""
    with (
        Node("a", discovery=["mdns"]) as a,
        Node("b", discovery=["mdns"]) as b,
        Node("c", discovery=["mdns"]) as c,
    ):
        known = {b.statistics().node_id, c.statistics().node_id}
        eventually(lambda: {peer.node_id for peer in a.peers()} == known)
        assert {peer.name for peer in a.peers()} == known
        assert a.ping("b", 10.0) > 0.0


def test_who_is_meant(front: Front) -> None:
    """A name of two nodes, and the node itself, are errors that say what to give."""
    with front.node("a") as a, front.node("b") as b, front.node("b") as other:
        for each in (b, other):
            a.ping(each.statistics().node_id, 10.0)
        with pytest.raises(ConfigError, match="2 nodes are called 'b'; give the id of one: "):
            a.ping("b", 1.0)
        with pytest.raises(ConfigError, match="is this node itself"):
            a.ping("a", 1.0)
        with pytest.raises(ConfigError, match="is no node"):
            a.ping(None)


def test_nobody_answers(front: Front) -> None:
    """Then the wait ends, and says where to look."""
    with front.node("a") as a, pytest.raises(TimedOut, match="no link with 'c'; look at peers"):
        a.ping("c", 0.05)


def test_a_peer_with_whom_the_link_was_closed(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes without anything in common part after a while; a ping calls the other up again."""
    monkeypatch.setattr("peerfabric.link.interest.IDLE_CLOSE_AFTER", 0.2)
    monkeypatch.setattr("peerfabric.link.round_trips.KEPT_FOR", 0.1)
    with front.node("a") as a, front.node("b") as b:
        a.ping("b", 10.0)
        eventually(lambda: [peer.state for peer in b.peers()] == ["idle"])
        assert a.ping("b", 10.0) > 0.0


def test_a_stopped_front_is_not_asked(runtime: object) -> None:
    """A closed node refuses, as all its calls do."""
    node = Node("a")
    node.close()
    with pytest.raises(RuntimeError, match="closed"):
        node.ping("b", 0.0)
