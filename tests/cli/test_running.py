"""The commands beside real nodes in processes of their own: what they show, and how soon; what they change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Node
from peerfabric.nodes.cli.common import Settings
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.look import Looking
from peerfabric.nodes.cli.host.rows import QueueRow
from peerfabric.nodes.cli.host.screen import Seen, View, chosen_queues
from peerfabric.nodes.cli.host.top import Watch
from peerfabric.nodes.cli.output import Form
from tests.cli.conftest import DEADLINE, Start, ended
from tests.cli.processes import run

CONSUMER = """
import sys
from peerfabric import Node
with Node(sys.argv[1]) as node:
    consumer = node.consumer("orders", dict)
    print("ready", flush=True)
    for message in consumer:
        with message:
            if message.body.get("dies"):
                message.reject("burnt")
            elif message.body.get("hangs"):
                sys.stdin.readline()
"""


class Kitchens:
    """Consumers of queue `orders` in processes."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[str]] = {}

    def open(self, name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", CONSUMER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.running[name] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()


@pytest.fixture
def kitchens() -> Iterator[Kitchens]:
    kitchens = Kitchens()
    yield kitchens
    kitchens.close()


def rows(*arguments: str) -> list[dict[str, Any]]:
    code, out, err = run(*arguments, "-o", "json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def until(look: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + DEADLINE
    while time.monotonic() < give_up:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("not seen in time")


class Seconds:
    """How long the screen of `top` took to show something."""

    def __init__(self) -> None:
        settings = Settings(fabric="cli", peers=(), name=None, output=Form.TABLE)
        self._watch = Watch(Looking(settings), 1.0)

    def until(self, shown: Callable[[Seen], Any]) -> float:
        began = time.monotonic()

        def look() -> bool:
            self._watch.tick()
            return bool(shown(self._watch.seen()))

        until(look)
        return time.monotonic() - began


def orders(seen: Seen) -> QueueRow | None:
    return next((row for row in chosen_queues(seen, View()) if row.queue == "orders"), None)


def test_what_happens_is_seen_in_time(kitchens: Kitchens) -> None:
    """A queue that grows, a consumer that is stopped, and goes on, and is killed: each on the screen of `top`, whose
    looks are a second apart. (The times are wide: of a machine that does much else.)"""
    with Node("desk") as node:
        producer = node.producer("orders", dict)
        top = Seconds()
        producer.send({"n": 1})
        assert top.until(lambda seen: (row := orders(seen)) is not None and row.waiting == 1) < 20
        producer.send_many({"n": n} for n in range(50))
        assert top.until(lambda seen: (row := orders(seen)) is not None and row.waiting == 51) < 20
        kitchen = kitchens.open("kitchen")
        top.until(lambda seen: (row := orders(seen)) is not None and row.consumers == 1 and not row.waiting)
        os.kill(kitchen.pid, signal.SIGSTOP)
        assert top.until(lambda seen: [each.pid for each in seen.look.silent] == [kitchen.pid]) < 10
        producer.send_many({"n": n} for n in range(3))

        def grows(seen: Seen) -> bool:
            row = orders(seen)
            return row is not None and row.waiting + row.in_flight >= 3

        assert top.until(grows) < 20  # the other process is shown, while this one says nothing
        os.kill(kitchen.pid, signal.SIGCONT)
        top.until(lambda seen: not seen.look.silent)
        producer.flush(DEADLINE)
        kitchen.kill()
        assert top.until(lambda seen: (row := orders(seen)) is not None and row.consumers == 0) < 30
        producer.close()


def test_pause_resume_and_purge(kitchens: Kitchens) -> None:
    """A paused consumer takes nothing; what waits can be purged, and is counted."""
    kitchens.open("kitchen")
    with Node("desk") as node:
        producer = node.producer("orders", dict)
        producer.ready(1, DEADLINE)
        assert run("pause", "orders") == (0, "orders: paused at 1 consumer: kitchen\n", "")
        assert until(lambda: rows("queues", "orders", "--interval", "0")[0]["paused"]) == 1
        producer.send_many({"n": n} for n in range(20))
        until(lambda: rows("queues", "orders", "--interval", "0")[0]["waiting"] == 20)
        code, out, _ = run("purge", "orders", "--yes")
        assert (code, out) == (0, "orders: 20 messages dropped at 1 producer\n")
        [row] = rows("queues", "orders", "--interval", "0")
        assert (row["waiting"], row["dropped"]) == (0, 20)
        assert run("resume", "orders")[0] == 0
        producer.send({"n": 21})
        producer.flush(DEADLINE)


def test_a_message_in_hand_is_traced_and_its_line_is_shown(kitchens: Kitchens) -> None:
    """At the producer at whom it is, at the consumer since when; `stacks` shows the call."""
    kitchen = kitchens.open("kitchen")
    with Node("desk") as node:
        producer = node.producer("orders", dict)
        identity = producer.send({"hangs": True}).id

        def found() -> list[dict[str, Any]]:
            code, out, _ = run("trace", identity, "-o", "json")
            sides = [json.loads(line) for line in out.splitlines()] if code == 0 else []
            # Each is asked at another moment: the producer may still have had it when the consumer has it.
            states = {each["state"] for each in sides}
            return sides if "in hand" in states and any("consumer" in each for each in sides) else []

        sides = {each["side"]: each for each in until(found)}
        assert (sides["producer"]["consumer"], sides["consumer"]["node"]) == ("kitchen", "kitchen")
        [hand] = json.loads(run("top", "--interval", "0", "-o", "json")[1])["running"]
        assert (hand["message"]["id"], hand["queue"], hand["pid"]) == (identity, "orders", kitchen.pid)
        assert f"{hand['message']['line']} <module>" in run("stacks", str(kitchen.pid))[1]
        assert kitchen.stdin is not None
        kitchen.stdin.write("\n")
        kitchen.stdin.flush()
        producer.flush(DEADLINE)


def test_dead_letters_of_a_running_node(kitchens: Kitchens, tmp_path: Path) -> None:
    """Listed, shown, retried and dropped by queue, id and folder, while the node runs; afterwards in its spool."""
    folder = str(tmp_path / "spool")
    kitchens.open("kitchen")
    with Node("desk", spool=folder) as node:
        producer = node.producer("orders", dict)
        sent = [producer.send({"n": n, "dies": True}).id for n in range(4)]
        until(lambda: len(rows("dead", "ls")) == 4)
        for where in ((), ("orders",), (folder,), (folder, "orders"), ("orders", folder, "--slot", "0")):
            assert [row["id"] for row in rows("dead", "ls", *where)] == sent
        assert rows("dead", "ls", folder, "--slot", "0")[0]["reason"] == "rejected"
        assert json.loads(run("dead", "show", sent[2])[1])["body"] == {"n": 2, "dies": True}
        [slot] = rows("spool", "ls", folder)
        assert (slot["state"], slot["messages"], slot["dead"]) == (f"running {os.getpid()}", 0, 4)
        assert run("dead", "retry", sent[0], folder)[:2] == (0, "1 dead letter queued again\n")
        until(lambda: sent[0] not in [row["id"] for row in rows("dead", "ls")] and len(rows("dead", "ls")) == 4)
        code, _, err = run("dead", "drop", sent[1], sent[0], "--yes")
        assert (code, "has dead letter" in err, len(rows("dead", "ls"))) == (1, True, 4)
        assert run("dead", "drop", sent[1], "--yes")[:2] == (0, "1 dead letter deleted\n")
        assert run("dead", "drop", "orders", "--yes")[:2] == (0, "3 dead letters deleted\n")
        assert rows("dead", "ls") == []
        code, _, err = run("dead", "retry", "orders")
        assert (code, "no running node has dead letters of queue orders" in err) == (1, True)
        last = producer.send({"dies": True}).id
        until(lambda: rows("dead", "ls"))
    assert [row["id"] for row in rows("dead", "ls", folder)] == [last]
    assert run("dead", "drop", folder, "orders", "--yes")[:2] == (0, "1 dead letter deleted\n")


def test_taps_of_real_nodes(kitchens: Kitchens) -> None:
    """Copies of a queue's messages and of a topic's updates, which nobody misses."""
    kitchens.open("kitchen")
    with Node("desk") as node:
        producer, publisher = node.producer("orders", dict), node.publisher("prices.eur", float)
        for name, sends in (("orders", lambda: producer.send({"n": 1})), ("prices.>", lambda: publisher.publish(2.5))):
            tap = subprocess.Popen(
                [sys.executable, "-P", "-m", "peerfabric.nodes.cli.main", "tap", name, "-n", "1"],
                stdout=subprocess.PIPE,
                text=True,
            )
            give_up = time.monotonic() + DEADLINE
            while tap.poll() is None and time.monotonic() < give_up:
                sends()
                time.sleep(0.05)
            out, _ = tap.communicate(timeout=DEADLINE)
            assert (tap.returncode, out) == (0, {"orders": 'orders  {"n":1}\n'}.get(name, "prices.eur  2.5\n"))
        producer.flush(DEADLINE)


def test_nodes_that_only_the_fabric_tells_of(kitchens: Kitchens, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of other hosts, here with another runtime folder: with --lan they are seen, and the command's own node
    is not."""
    with tempfile.TemporaryDirectory(prefix="pf-", dir="/tmp") as folder, monkeypatch.context() as elsewhere:
        elsewhere.setenv("PEERFABRIC_RUNTIME", folder)
        elsewhere.setenv("PEERFABRIC_LISTEN", "tcp://127.0.0.1:*")
        kitchens.open("kitchen")
        elsewhere.undo()
        [heard] = door.answers(DEADLINE, folder=folder)
        assert heard.status is not None
        [endpoint] = [each for each in heard.status.nodes[0].endpoints if each.startswith("tcp:")][:1]
        code, _, err = run("queues", "--interval", "0")
        assert (code, "no node of this user answers" in err) == (3, True)

        def seen() -> dict[str, Any] | None:
            code, out, _ = ended(start("top", "--lan", "--peer", endpoint, "--interval", "0", "-o", "json"))
            return json.loads(out) if code == 0 else None

        found = until(seen)
        assert [row["name"] for row in found["nodes"]] == ["kitchen"]
        assert [(row["queue"], row["consumers"]) for row in found["queues"]] == [("orders", 1)]
