"""`peerfabric doctor`, as installed, where something keeps two hosts apart: it names the cause and the step to take."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.net.consoles import Console, lay
from tests.net.hosts import Host, Lan
from tests.net.test_secrets import keygen

SEED = "10.77.0.1:7700"
WRONG_CLOCK = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + 3600
time.time_ns = lambda: _time_ns() + 3600 * 10**9
"""
"""A module that Python loads when it starts. Namespaces of Linux have clocks of their own, but none for wall time."""


class Finding(NamedTuple):
    """One line of what doctor says."""

    check: str
    level: str
    text: str
    step: str


class Pair(NamedTuple):
    """A host with a node, and one from which doctor looks at it."""

    a: Host
    b: Host
    secret: Path

    def node(self, **arguments: Any) -> Console:
        usual: dict[str, Any] = {"reach": "lan", "secret": f"file:{self.secret}", "listen": "tcp://*:7700"}
        return Console(self.a, **usual | arguments)

    def doctor(self, *arguments: str, secret: str | None = None, **environment: str) -> tuple[int, list[Finding]]:
        """Ask from b, which has the same secret or another one."""
        own = lay(self.b, "secret", secret if secret is not None else self.secret.read_text())
        usual = {"PEERFABRIC_REACH": "lan", "PEERFABRIC_SECRET_FILE": str(own)}
        code, lines = self.b.command("doctor", "-o", "json", *arguments, **usual | environment).end()
        found = [Finding(**{"step": ""} | json.loads(line)) for line in lines]
        for finding in found:
            if finding.level != "ok":
                print(f"{finding.level}  {finding.check}: {finding.text}\n      → {finding.step}")
        return code, found


@pytest.fixture
def pair(lan: Lan) -> Pair:
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b", "10.77.0.2/24")
    return Pair(a, b, keygen(a))


def problem(found: list[Finding], *words: str) -> Finding:
    """The one problem whose text or step has all of these words; there is no other."""
    problems = [finding for finding in found if finding.level == "problem"]
    for finding in problems:
        if all(word in f"{finding.text} {finding.step}" for word in words):
            assert finding.step
            return finding
    raise AssertionError(f"no problem with {words} among {problems}")


@pytest.mark.long
def test_nothing_is_wrong(pair: Pair) -> None:
    """With one secret and nothing in between, doctor finds the node by multicast, links, and has no problem."""
    pair.node()
    code, found = pair.doctor()
    assert [finding for finding in found if finding.level == "problem"] == []
    assert code == 0
    assert any(finding.check == "links" and finding.level == "ok" for finding in found)


def test_wrong_secret(pair: Pair) -> None:
    """Another secret is told by its key id, and by the handshake that the other node closes."""
    pair.node()
    other = keygen(pair.a, "other").read_text()
    code, found = pair.doctor(SEED, secret=other)
    assert code == 1
    problem(found, "another secret")


@pytest.mark.long
def test_wrong_secret_beside_a_node_of_this_host(pair: Pair) -> None:
    """The own node on this host, which has the same wrong secret, does not make it right."""
    pair.node()
    other = keygen(pair.b, "other")
    Console(pair.b, reach="lan", secret=f"file:{other}", listen="tcp://*:7700")
    code, found = pair.doctor(secret=other.read_text())
    assert code == 1
    problem(found, "another secret", "file:")


@pytest.mark.long
def test_ping_by_name(pair: Pair) -> None:
    """Multicast tells no names, and doctor and ping find the node by its own all the same."""
    pair.node()
    usual = {"PEERFABRIC_REACH": "lan", "PEERFABRIC_SECRET_FILE": str(pair.secret)}
    code, lines = pair.b.command("ping", "a", "-n", "2", "-o", "json", **usual).end()
    assert code == 0
    assert json.loads(lines[-1])["answers"] == 2
    code, found = pair.doctor("a")
    assert (code, [finding for finding in found if finding.level == "problem"]) == (0, [])
    code, found = pair.doctor("nobody")
    assert code == 1
    problem(found, "no node of that name", "known: a")


@pytest.mark.long
def test_an_outbox_by_mistake(pair: Pair) -> None:
    """The inbox is named."""
    pair.node()
    code, found = pair.doctor("10.77.0.1:7701")
    assert code == 1
    problem(found, "looks like the outbox", SEED)


@pytest.mark.long
def test_a_revoked_node(pair: Pair) -> None:
    """Who is revoked here says no hello, which need not be a firewall."""
    node = pair.node(identity=str(pair.a.folder / "node.key"))
    code, found = pair.doctor(
        SEED, PEERFABRIC_CONFIG=str(lay(pair.b, "b.toml", f'[access]\nrevoked = ["{node.node_id}"]\n'))
    )
    assert code == 1
    problem(found, "revoked=")


@pytest.mark.long
def test_no_multicast(lan: Lan, pair: Pair) -> None:
    """Where neither multicast comes through nor an address is known, doctor says to name one."""
    lan.filter_multicast()
    pair.node()
    code, found = pair.doctor()
    assert code == 1
    problem(found, "multicast", "PEERFABRIC_PEERS")


@pytest.mark.long
@pytest.mark.parametrize("action", ["drop", "reject with tcp reset"])
def test_closed_port(pair: Pair, action: str) -> None:
    """A firewall at the other host, which drops or rejects: the port to open is named."""
    pair.node()
    pair.a.firewall(f"tcp dport 7700 {action}")
    code, found = pair.doctor(SEED)
    assert code == 1
    problem(found, "open TCP 7700", "10.77.0.1")


@pytest.mark.long
def test_closed_port_here(pair: Pair) -> None:
    """A firewall at one's own host: the other one cannot dial back, and the port to open here is named."""
    pair.node()
    pair.b.firewall("iifname != lo ct state new tcp dport != 22 drop")
    code, found = pair.doctor(SEED, PEERFABRIC_LISTEN="tcp://*:7710")
    assert code == 1
    problem(found, "7710", "firewall of this host")


@pytest.mark.long
def test_closed_outbox_port(pair: Pair) -> None:
    """Queues work and topics do not: the second port is named."""
    pair.node()
    pair.a.firewall("tcp dport 7701 drop")
    code, found = pair.doctor(SEED)
    assert code == 1
    problem(found, "outbox", "open TCP 7701")


@pytest.mark.long
def test_same_address_on_both_hosts(pair: Pair) -> None:
    """Two hosts with the same docker0, one of which tells others that address."""
    for host in (pair.a, pair.b):
        host.add_bridge("docker0", "172.17.0.1/16")
    pair.node(advertise=["172.17.0.1"])
    code, found = pair.doctor()
    assert code == 1
    problem(found, "172.17.0.1", "advertise=")


@pytest.mark.long
def test_wrong_clock(pair: Pair) -> None:
    """A clock that is an hour ahead is remarked, and keeps nobody apart."""
    lay(pair.a, "sitecustomize.py", WRONG_CLOCK)
    pair.a.environment["PYTHONPATH"] = str(pair.a.folder)
    pair.node()
    code, found = pair.doctor(SEED)
    assert code == 0
    (clock,) = [finding for finding in found if finding.check == "clocks"]
    assert re.search(r"3,(5|6)\d\d s ahead", clock.text), clock.text
    assert "time server" in clock.step


@pytest.mark.long
def test_no_secret(pair: Pair) -> None:
    """One in the clear and one with a secret."""
    pair.node(secret="insecure")
    code, found = pair.doctor(SEED)
    assert code == 1
    problem(found, "in the clear")


@pytest.mark.long
def test_name_that_nobody_resolves(pair: Pair) -> None:
    """A server for names that does not answer is named, with the file in which it stands."""
    pair.node()
    pair.b.replace_file("/etc/resolv.conf", "nameserver 10.77.0.99\noptions timeout:1 attempts:1\n")
    code, found = pair.doctor("nobody.example:7700")
    assert code == 1
    problem(found, "nobody.example", "/etc/resolv.conf")
