"""`peerfabric pub` and `peerfabric sub`, as processes."""

from __future__ import annotations

import json

from peerfabric import Node
from tests.cli.conftest import DEADLINE, Start, ended


def test_what_is_published_is_printed(start: Start) -> None:
    """A subscriber prints topic and body; the publisher waits for it before it publishes."""
    subscribing, publishing = start("sub", "prices.*", "-n", "1"), start("pub", "prices.eur", "1.08")
    assert ended(subscribing) == (0, "prices.eur  1.08\n", "")
    assert ended(publishing) == (0, "1 message published\n", "")


def test_lines_are_published_in_order(start: Start, node: Node) -> None:
    """Each line of standard input is one update, and the command ends when they have left."""
    updates = node.subscriber("a.>", int)
    assert ended(start("pub", "a.b", "-"), "1\n2\n3\n")[0] == 0
    assert [updates.get(DEADLINE).body for _ in range(3)] == [1, 2, 3]


def test_json_output(start: Start, node: Node) -> None:
    """One object a line, with what the update says about itself."""
    subscribing = start("sub", "a", "-n", "1", "-o", "json")
    publisher = node.publisher("a", int)
    publisher.ready(timeout=DEADLINE)
    publisher.publish(7, headers={"k": "v"})
    code, out, _ = ended(subscribing)
    update = json.loads(out)
    assert (code, update["topic"], update["body"], update["sender"]) == (0, "a", 7, "test")
    assert (update["sequence"], update["headers"]) == (1, {"k": "v"})


def test_nobody_subscribes(start: Start) -> None:
    """Exit code 3 and what to do; with --subscribers 0 nobody is waited for."""
    code, out, err = ended(start("pub", "a", "1", "--timeout", "0.2"))
    assert (code, out) == (3, "")
    assert "0 of 1 subscribers" in err
    assert ended(start("pub", "a", "1", "--subscribers", "0"))[:2] == (0, "1 message published\n")


def test_silence(start: Start) -> None:
    """A subscriber that hears nothing in time ends with exit code 3."""
    assert ended(start("sub", "a", "--timeout", "0.2"))[0] == 3
