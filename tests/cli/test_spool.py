"""`peerfabric spool` and `peerfabric dead` on the spools of nodes that ended, as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Node
from tests.cli.conftest import DEADLINE, Start, ended

DESK = """
import os, signal, sys
from peerfabric import Node
node = Node("desk", spool=sys.argv[1])
orders = node.producer("orders", dict)
for n in (1, 2, 3):
    orders.send({"number": n}, headers={"from": "desk"})
print("stored", flush=True)
if sys.argv[2] == "stays":
    sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def desk(folder: Path, how: str = "dies") -> subprocess.Popen[str]:
    """A process that stores three orders in a spool, and is killed or stays."""
    process = subprocess.Popen(
        [sys.executable, "-c", DESK, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stored\n"
    return process


@pytest.fixture
def left(tmp_path: Path) -> str:
    """The spool of a node that was killed with three orders in it."""
    desk(tmp_path / "spool").communicate(timeout=DEADLINE)
    return str(tmp_path / "spool")


@pytest.fixture
def given_up(tmp_path: Path) -> str:
    """A spool with two dead letters."""
    folder = str(tmp_path / "spool")
    with Node("desk", spool=folder) as node, Node("kitchen") as kitchen:
        orders = node.producer("orders", dict)
        for n in (1, 2):
            orders.send({"number": n})
        consumer = kitchen.consumer("orders", dict)
        for _ in (1, 2):
            consumer.get(timeout=DEADLINE).reject("burnt")
        orders.flush(timeout=DEADLINE)
    return folder


def lines(start: Start, *arguments: str) -> list[dict[str, Any]]:
    code, out, err = ended(start(*arguments))
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_what_a_killed_node_has_left(start: Start, left: str) -> None:
    """Counted, shown with ids and headers, exported so that `send` can read it, and all of it intact."""
    [row] = lines(start, "spool", "ls", left, "-o", "json")
    assert (row["queue"], row["messages"], row["dead"], row["damaged"]) == ("orders", 3, 0, 0)
    code, out, _ = ended(start("spool", "ls", left))
    assert (code, out.split()[:2], "orders" in out) == (0, ["queue", "messages"], True)
    shown = lines(start, "spool", "show", left, "orders", "-n", "2", "-o", "json")
    assert [(m["body"], m["headers"]) for m in shown] == [({"number": n}, {"from": "desk"}) for n in (1, 2)]
    exported = lines(start, "spool", "export", left, "orders")
    assert [m["body"] for m in exported] == [{"number": n} for n in (1, 2, 3)]
    assert len({m["id"] for m in exported}) == 3
    assert ended(start("spool", "verify", left))[0] == 0
    taking = start("take", "again", "-n", "3")
    sending = start("send", "again", "-")
    assert ended(sending, "".join(json.dumps(m["body"]) + "\n" for m in exported))[0] == 0
    assert [json.loads(line)["number"] for line in ended(taking)[1].splitlines()] == [1, 2, 3]


def test_dropped_messages_are_not_delivered(start: Start, left: str) -> None:
    """By id or all, and only if somebody says so."""
    first, *_ = lines(start, "spool", "export", left, "orders")
    code, _, err = ended(start("spool", "drop", left, "orders", first["id"]), "")
    assert (code, "--yes" in err) == (1, True)
    assert ended(start("spool", "drop", left, "orders", first["id"], "--yes"))[:2] == (0, "1 messages dropped\n")
    code, _, err = ended(start("spool", "drop", left, "orders", first["id"], "--yes"))
    assert (code, "not in the queue" in err) == (1, True)
    assert [m["body"]["number"] for m in lines(start, "spool", "export", left, "orders")] == [2, 3]
    assert ended(start("spool", "drop", left, "orders", "--all", "--yes"))[0] == 0
    assert lines(start, "spool", "export", left, "orders") == []


def test_damage_is_named(start: Start, left: str) -> None:
    """One flipped byte costs one message, which is reported by number; the others are there."""
    [segment] = Path(left, "queues", "orders").glob("*.seg")
    data = bytearray(segment.read_bytes())
    at = data.index(b"number") + 2
    data[at] ^= 0xFF
    segment.write_bytes(data)
    code, out, err = ended(start("spool", "verify", left))
    assert (code, "sequences 1-1" in out, "intact" in err) == (1, True, True)
    assert [m["body"]["number"] for m in lines(start, "spool", "export", left, "orders")] == [2, 3]


def test_a_running_node_is_left_alone(start: Start, tmp_path: Path) -> None:
    """Its process is named, with an exit code of its own."""
    node = desk(tmp_path / "spool", "stays")
    try:
        for command in (["spool", "ls"], ["spool", "verify"], ["dead", "ls"], ["dead", "drop", "--all", "--yes"]):
            code, out, err = ended(start(*command[:2], str(tmp_path / "spool"), *command[2:]))
            assert (code, out, str(node.pid) in err, len(err.splitlines())) == (4, "", True, 1)
    finally:
        node.send_signal(signal.SIGKILL)
        node.communicate()


def test_folders_that_are_no_spool(start: Start, tmp_path: Path, left: str) -> None:
    """One line that says so; nothing is made there."""
    code, out, err = ended(start("spool", "ls", str(tmp_path / "nothing")))
    assert (code, out, len(err.splitlines())) == (5, "", 1)
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "mine").mkdir()
    assert ended(start("spool", "verify", str(tmp_path / "mine")))[0] == 5
    assert list((tmp_path / "mine").iterdir()) == []
    code, _, err = ended(start("spool", "show", left, "others"))
    assert (code, "orders" in err) == (1, True)
    assert ended(start("dead", "show", left, "nonsense"))[0] == 2


def test_dead_letters(start: Start, given_up: str) -> None:
    """Listed with reason, error and attempts; retried they are sent at the next start; deleted they are gone."""
    found = lines(start, "dead", "ls", given_up, "-o", "json")
    assert [(x["body"], x["reason"], x["error"], x["attempts"]) for x in found] == [
        ({"number": n}, "rejected", "burnt", 1) for n in (1, 2)
    ]
    code, out, _ = ended(start("dead", "ls", given_up, "orders"))
    assert (code, out.count("burnt")) == (0, 2)
    assert lines(start, "dead", "show", given_up, found[0]["id"]) == [found[0]]
    assert ended(start("dead", "retry", given_up, found[1]["id"]))[:2] == (0, "1 dead letters queued again\n")
    code, _, err = ended(start("dead", "retry", given_up, found[1]["id"]))
    assert (code, "no dead letter" in err) == (1, True)
    assert ended(start("dead", "drop", given_up, "--all", "--yes"))[:2] == (0, "1 dead letters deleted\n")
    assert lines(start, "dead", "ls", given_up, "-o", "json") == []
    with Node("desk", spool=given_up) as node, Node("kitchen") as kitchen:
        message = kitchen.consumer("orders", dict).get(timeout=DEADLINE)
        with message as body:
            assert body == {"number": 2}
        node.producer("orders", dict).flush(timeout=DEADLINE)
        assert node.dead_letters("orders") == []
