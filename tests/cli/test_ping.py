"""`peerfabric ping` and `peerfabric peers --watch`, with a node that is there, and without."""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path

import pytest

from peerfabric import Node
from peerfabric.nodes.cli.output import Form
from peerfabric.nodes.cli.peers import Seen, _row, watched
from peerfabric.nodes.cli.ping import summary
from tests.cli.conftest import Start, ended

SLOW_RESOLVER = """
import socket, sys, time
_getaddrinfo = socket.getaddrinfo
def getaddrinfo(host, *arguments, **more):
    if str(host).endswith(".example"):
        print("looking up", file=sys.stderr, flush=True)
        time.sleep(30)
    return _getaddrinfo(host, *arguments, **more)
socket.getaddrinfo = getaddrinfo
"""
"""A module that Python loads when it starts."""


def test_a_peer_answers(start: Start, node: Node) -> None:
    """Lines for people with figures at the end, or one object for programs."""
    node.peers()
    code, out, err = ended(start("ping", "test", "-n", "3", "--interval", "0"))
    assert (code, err) == (0, "")
    *lines, last = out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("test: ") and line.endswith(" ms") for line in lines)
    assert last.startswith("3 answers, 0 lost; p50 ")
    code, out, err = ended(start("ping", "test", "-n", "3", "--interval", "0", "-o", "json"))
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["peer"], found["answers"], found["lost"]) == ("test", 3, 0)
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_a_host_and_a_port(start: Start) -> None:
    """A name is resolved before; discovery need not find the peer."""
    with Node("test", listen="tcp://127.0.0.1:*", discovery=["exchange"]) as node:
        with Node("other", peers=[], discovery="auto") as other:
            other.peers()
        [endpoint] = node._async._context.engine.address.inbox
        port = endpoint.rpartition(":")[2]
        code, out, err = ended(start("ping", f"localhost:{port}", "-n", "1", "-o", "json"))
        assert (code, err) == (0, "")
        assert json.loads(out)["answers"] == 1


def test_nobody_answers(start: Start) -> None:
    """Exit code 3, with where to look; 1 for a host that no resolver knows."""
    code, out, err = ended(start("ping", "nobody", "--timeout", "0.1"))
    assert (code, out) == (3, "")
    assert "no link with 'nobody'" in err
    code, out, err = ended(start("ping", "nobody.invalid:7700", "--timeout", "0.1"))
    assert (code, out) == (1, "")
    assert "cannot be resolved" in err


def test_a_port_is_missing(start: Start) -> None:
    """An address is no name of a node."""
    for peer in ("10.77.0.1", "tcp://10.77.0.1", "fd00::1", "host:none"):
        code, out, err = ended(start("ping", peer))
        assert (code, out) == (2, "")
        assert f"'{peer}' has no port" in err
        assert "give HOST:PORT" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("ping", "slow.example:7700"),
        ("peers", "--wait", "60", "--peer", "slow.example:7700"),
        ("doctor", "s.example:7700"),
    ],
)
def test_an_end_while_a_name_is_looked_up(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """It is at once, and says nothing, however long the resolver takes."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_RESOLVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PEERFABRIC_REACH", "lan")
    monkeypatch.setenv("PEERFABRIC_SECRET", "insecure")
    monkeypatch.setenv("PEERFABRIC_DISCOVERY", "static,exchange")
    process = start(*arguments)
    assert process.stderr is not None
    assert process.stderr.readline() == "looking up\n"
    process.terminate()
    started_at = time.monotonic()
    code, _, err = ended(process)
    assert time.monotonic() - started_at < 5.0
    assert (code, err) == (143, "")


def test_figures() -> None:
    """Of one, and of a hundred."""
    one = summary("p", [2.0], 0)
    assert (one.p50_ms, one.p99_ms, one.max_ms) == (2.0, 2.0, 2.0)
    many = summary("p", [float(n) for n in range(101)], 1)
    assert (many.p50_ms, many.p99_ms, many.max_ms, many.answers, many.lost) == (50.0, 99.0, 100.0, 101, 1)


def test_changes_between_two_looks() -> None:
    """Who came, who changed, who went; what a peer calls itself cannot talk to the terminal."""
    a = Seen(node_id="1", name="a", state="connecting", endpoint="tcp://a:1")
    b = Seen(node_id="2", name="b\x1b[2J", state="up")
    up = Seen(node_id="1", name="a", state="up", endpoint="tcp://a:1")
    looks = [[a], [a], [b, a], [b, up], [up]]
    lines = list(islice(watched(lambda: looks.pop(0), Form.TABLE), 4))
    assert lines == [
        "came  a  connecting  tcp://a:1",
        "came  b\\x1b[2J  up",
        "changed  a  up  tcp://a:1",
        "went  b\\x1b[2J  up",
    ]
    [line] = islice(watched(lambda: [a], Form.JSON), 1)
    assert json.loads(line)["event"] == "came"
    assert json.loads(line)["peer"]["node_id"] == "1"


def test_endpoints_that_do_not_answer_are_told_apart() -> None:
    """They have no id yet."""
    silent = [Seen(node_id="", name=e, state="connecting", endpoint=e) for e in ("tcp://a:1", "tcp://b:1")]
    looks = [silent, silent, silent[1:]]
    lines = list(islice(watched(lambda: looks.pop(0), Form.TABLE), 3))
    assert [line.split()[:2] for line in lines] == [["came", "tcp://a:1"], ["came", "tcp://b:1"], ["went", "tcp://a:1"]]


def test_a_node_that_only_reaches_us() -> None:
    """The reason is in words, and not the state once more."""
    view = Seen(node_id="1", name="a", state="one-way", endpoint="tcp://a:1", reason="one-way")
    assert _row(view)[:4] == ["a", "", "one-way", "cannot reach tcp://a:1"]


def test_watching(start: Start, node: Node) -> None:
    """A line when a node is seen, with what it is, until it is told to end."""
    node.consumer("orders", int)
    watching = start("peers", "--watch", "-o", "json")
    assert watching.stdout is not None
    for line in watching.stdout:
        found = json.loads(line)
        if found["peer"]["consumes"] == ["orders"]:
            break
    watching.terminate()
    assert watching.wait(30) == 143
