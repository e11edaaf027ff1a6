"""Acts through the admin socket on nodes that run: what was asked for is done, and seen where it is looked for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from peerfabric import Node, Reject
from peerfabric.admin import ask, follow, processes
from peerfabric.status import NodeStatus
from tests.nodes.conftest import Front, eventually

ME = os.getpid


def node(name: str) -> NodeStatus:
    """How a node is now."""
    [found] = [each for answer in processes(30) if answer.status for each in answer.status.nodes if each.name == name]
    return found


def test_pause_resume_and_purge(front: Front) -> None:
    """Of a queue, at whoever it concerns."""
    with front.node("a") as a, front.node("b") as b:
        out, jobs = a.producer("jobs", int), b.consumer("jobs", int)
        out.ready(timeout=60)
        told = {each["node"]: each["done"] for each in ask(ME(), "pause", queue="jobs")["nodes"]}
        assert told == {"a": False, "b": True}
        assert node("b").takes[0].paused
        out.send_many([1, 2, 3])
        eventually(lambda: node("a").sends[0].account.waiting == 3, "what waits")
        purged = {each["node"]: each["purged"] for each in ask(ME(), "purge", queue="jobs", node="a")["nodes"]}
        assert purged == {"a": 3}
        assert node("a").sends[0].account.dropped == 3
        out.send(4)
        ask(ME(), "resume", queue="jobs", fabric=os.environ["PEERFABRIC_FABRIC"])
        with jobs.get(timeout=60) as body:
            assert body == 4
        out.flush(60)


def test_dead_letters(front: Front) -> None:
    """Listed, sent again, dropped."""
    fit = threading.Event()

    def handle(body: int) -> None:
        if not fit.is_set():
            raise Reject("not yet")

    async def handle_async(body: int) -> None:
        handle(body)

    b = front.node("b")
    b.on_message("jobs")(handle_async if front.is_async else handle)
    with front.node("a") as a, b:
        out = a.producer("jobs", int)
        out.send_many([1, 2])
        eventually(lambda: len(ask(ME(), "dead", queue="jobs")["letters"]) == 2, "both letters")
        first, second = ask(ME(), "dead")["letters"]
        assert (first["node"], first["queue"], first["body"], first["reason"]) == ("a", "jobs", 1, "rejected")
        fit.set()
        [retried] = ask(ME(), "retry", ids=[first["id"], "nobody/1"])["outcomes"]
        assert (retried["id"], retried["done"], retried["node"]) == (first["id"], True, "a")
        [dropped] = ask(ME(), "drop", ids=[second["id"]])["outcomes"]
        assert dropped["done"]
        eventually(lambda: node("a").sends[0].account.acked == 1, "the one that was sent again")
        assert ask(ME(), "dead")["letters"] == []


def test_tap_and_trace(runtime: Path) -> None:
    """Copies come as they are accepted; a message is where it is."""
    with Node("a") as a, Node("b") as b:
        out, jobs = a.producer("jobs", str), b.consumer("jobs", str)
        out.ready(timeout=60)
        with follow(ME(), "tap", name="jobs") as following:
            receipt = out.send("x" * 5000)
            seen = next(following)
        assert (seen["node"], len(seen["body"]), seen["cut"]) == ("a", 4096, 5000)
        with jobs.get(timeout=60):
            found = ask(ME(), "trace", id=receipt.id)["found"]
            assert {each["node"] for each in found} == {"a", "b"}
        out.flush(60)
