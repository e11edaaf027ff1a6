"""Status of a fabric: every linked node tells of itself, once, and what nobody asks for costs nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Node
from peerfabric.admin import fabric_status
from peerfabric.status import NodeStatus, Process, Status
from tests.nodes.conftest import Child, Front, eventually

OTHER = """
    import sys
    from peerfabric import Node
    with Node("other") as node:
        consumer = node.consumer("jobs", int)
        node.statistics()
        print("ready", flush=True)
        sys.stdin.readline()
    """


def plain(node: Any) -> Any:
    """The node itself, which a test of both fronts drives from outside."""
    return getattr(node, "target", node)


def names(found: list[Status]) -> list[str]:
    return sorted(node.name for status in found for node in status.nodes)


def nodes(front: Front) -> tuple[Any, Any]:
    """Two that are linked, with a queue in common."""
    a, b = front.node("a"), front.node("b")
    b.consumer("jobs", int)
    b.statistics()
    a.producer("jobs", int).send(1)
    eventually(lambda: any(peer.state == "up" for peer in a.peers()), "the link")
    return a, b


def test_all_that_are_linked(front: Front) -> None:
    """And the one that asks; each process says who it is."""
    a, _ = nodes(front)
    eventually(lambda: names(fabric_status(plain(a), 30)) == ["a", "b"], "both")
    found = {node.name: node for status in fabric_status(plain(a), 30, queues=10) for node in status.nodes}
    assert [each.queue for each in found["a"].sends] == ["jobs"]
    assert [each.queue for each in found["b"].takes] == ["jobs"]
    assert all(node.engine == "" for node in found.values())
    assert all(status.process.pid and not status.stacks for status in fabric_status(plain(a), 30))
    assert a.services() == []
    eventually(lambda: not [t for t in threading.enumerate() if t.name.endswith("-status")], "the end of its threads")


def test_at_most_so_many_queues(runtime: Path) -> None:
    """Of each kind; how many are left out is said."""
    with Node("a") as a, Node("b") as b:
        for number in range(5):
            b.consumer(f"jobs.{number}", int)
        b.statistics()
        a.producer("jobs.1", int)
        a.statistics()
        eventually(lambda: len(fabric_status(a, 30)) == 2, "both")
        other = fabric_status(a, 30, queues=2)[1].nodes[0]
        assert (len(other.takes), other.more) == (2, 3)


def test_turned_off(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that shows nothing on its host shows nothing to others."""
    a, _ = nodes(front)
    eventually(lambda: names(fabric_status(plain(a), 30)) == ["a", "b"], "both")
    monkeypatch.setenv("PEERFABRIC_ADMIN", "off")
    assert names(fabric_status(plain(a), 30)) == ["a"]


def test_who_does_not_answer(runtime: Path, start: Callable[..., Child]) -> None:
    """Is left out when the time is over."""
    child = start(OTHER)
    child.line()
    with Node("a") as a:
        a.producer("jobs", int)
        a.statistics()
        eventually(lambda: names(fabric_status(a, 30)) == ["a", "other"], "both")
        child.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert names(fabric_status(a, 0.3)) == ["a"]
            assert time.monotonic() - began >= 0.3
        finally:
            child.signal(signal.SIGCONT)
        eventually(lambda: names(fabric_status(a, 30)) == ["a", "other"], "both again")
        child.write("")
        child.finish()


def test_each_life_of_a_node_once() -> None:
    """Who is told of in several answers stays in the first."""
    from peerfabric.admin.fabric import _each_once

    def told(pid: int, *of: tuple[str, int]) -> Status:
        nodes = tuple(NodeStatus(node_id=node_id, name=node_id, fabric="f", epoch=epoch) for node_id, epoch in of)
        return Status(process=Process(pid=pid, started=1), nodes=nodes)

    found = _each_once([told(1, ("a", 1), ("x", 1)), told(2, ("x", 1)), told(3, ("b", 1), ("x", 2), ("a", 1))])
    assert [(status.process.pid, names([status])) for status in found] == [(1, ["a", "x"]), (3, ["b", "x"])]


def test_many_at_a_time(runtime: Path) -> None:
    """All are answered in turn, or told that it is busy: nobody waits for nothing."""
    with Node("a") as a, Node("b") as b:
        b.consumer("jobs", int)
        b.statistics()
        a.producer("jobs", int)
        a.statistics()
        eventually(lambda: len(fabric_status(a, 30)) == 2, "both")
        found: list[list[Status]] = []
        threads = [threading.Thread(target=lambda: found.append(fabric_status(a, 30))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [names(each) for each in found] == [["a", "b"]] * 12


def test_a_folder_of_bytes_that_are_no_text(runtime: Path, tmp_path: Path) -> None:
    """It is shown, and nothing fails by it."""
    odd = os.fsdecode(b"l\xe9t")
    with Node("a", spool=tmp_path / odd) as a, Node("b") as b:
        b.consumer("jobs", int)
        a.producer("jobs", int).send(1)
        eventually(b.peers, "the other node")

        def folders() -> list[str]:
            statuses = fabric_status(b, 60.0)
            return [node.spool.folder for each in statuses for node in each.nodes if node.spool is not None]

        eventually(lambda: folders() == [f"{tmp_path}/l\\udce9t"], "the status of the other node")
