"""Nodes that find each other by multicast, by names and by memory, and what of that changes while they run."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.net.consoles import Console, lay
from tests.net.hosts import Host, Lan
from tests.net.pipeline import figure
from tests.net.test_secrets import keygen

OPEN = {"reach": "lan", "secret": "insecure"}
BY_MULTICAST: dict[str, Any] = OPEN | {"discovery": ["mdns"]}


def linked(*nodes: Console, since: float = 0.0) -> float:
    """Wait until each has a link with each other one; return how long after `since` that was."""
    names = [node.name for node in nodes]
    return max(node.wait_for_link(*(name for name in names if name != node.name)) for node in nodes) - since


def test_with_a_secret(three: tuple[Host, Host, Host]) -> None:
    """Nodes of one secret find each other; the one of another is met by nobody."""
    ours, other = keygen(three[0], "ours").read_text(), keygen(three[0], "other").read_text()
    nodes = []
    for host, text in zip(three, (other, ours, ours), strict=True):
        lay(host, "secret", text)
        nodes.append(Console(host, reach="lan", secret=f"file:{host.folder}/secret", discovery=["mdns"]))
    figure("mdns with a secret: linked after", linked(*nodes[1:], since=time.monotonic()), 3.0)
    assert nodes[0].peers() == {}


def test_ipv6_only(lan: Lan) -> None:
    """By multicast of IPv6."""
    hosts = [lan.host(name, f"fd00::{at}/64") for at, name in enumerate("abc", 1)]
    nodes = [Console(host, **BY_MULTICAST) for host in hosts]
    figure("mdns over IPv6: linked after", linked(*nodes, since=time.monotonic()), 3.0)


@pytest.mark.long
def test_addresses_come_and_go(lan: Lan) -> None:
    """A host that gets its first address after its node has started is found, and again when it gets another one."""
    a, b = lan.host("a", "10.77.0.1/24"), lan.host("b")
    b.plug()
    nodes = [Console(host, **BY_MULTICAST) for host in (a, b)]
    b.add_address("10.77.0.2/24")
    figure("mdns: first address: linked after", linked(*nodes, since=time.monotonic()), 10.0)
    b.delete_address("10.77.0.2/24")
    b.add_address("10.77.0.22/24")
    changed_at = time.monotonic()
    late = Console(lan.host("c", "10.77.0.3/24"), **BY_MULTICAST)
    figure("mdns: another address: all linked after", linked(*nodes, late, since=changed_at), 20.0)


@pytest.mark.long
def test_names_of_hosts(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """A name among the peers is looked up, and one of DNS leads to all of its addresses."""
    lan.filter_multicast()
    a, b, c = three
    for host in three:
        host.replace_file("/etc/hosts", "127.0.0.1 localhost\n10.77.0.1 kitchen\n10.77.0.9 cooks\n10.77.0.2 cooks\n")
    nodes = [
        Console(a, **OPEN, listen="tcp://*:7700"),
        Console(b, **OPEN, listen="tcp://*:7700", peers=["kitchen:7700"]),
        Console(c, **OPEN, peers=["dns:cooks:7700"]),
    ]
    figure("names: linked after", linked(*nodes, since=time.monotonic()), 10.0)


@pytest.mark.long
def test_memory(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Who was linked once finds the others again without a seed, and without multicast."""
    lan.filter_multicast()
    a, b, _ = three
    node_a = Console(a, **OPEN, listen="tcp://*:7700")
    memory = {**OPEN, "spool": str(b.folder / "spool"), "listen": "tcp://*:7700"}
    node_b = Console(b, **memory, peers=["10.77.0.1:7700"])
    linked(node_a, node_b)
    time.sleep(2.0)
    node_b.running.kill()
    began_at = time.monotonic()
    figure("remembered: linked after", Console(b, **memory).wait_for_link("a") - began_at, 10.0)
