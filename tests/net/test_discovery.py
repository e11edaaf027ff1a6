"""Nodes on three hosts that find each other."""

from __future__ import annotations

import time

import pytest

from tests.net.consoles import Console
from tests.net.hosts import Host, Lan, wait_for
from tests.net.pipeline import figure

OPEN = {"reach": "lan", "secret": "insecure"}
NAMES = {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}


def all_know_each_other(nodes: list[Console]) -> bool:
    return all(set(NAMES[node.name]) <= node.peers().keys() for node in nodes)


def test_multicast(three: tuple[Host, Host, Host]) -> None:
    """Without any address to begin with, all know each other within 3 s of the last start."""
    nodes = [Console(host, **OPEN) for host in three]
    began_at = time.monotonic()
    all_known_at = wait_for(lambda: all_know_each_other(nodes), "that all know each other", 30.0)
    figure("mdns: all know each other after", all_known_at - began_at, 3.0)


@pytest.mark.long
def test_one_seed(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Where no multicast comes through, one known address is enough."""
    lan.filter_multicast()
    seed = Console(three[0], **OPEN, listen="tcp://*:7700")
    others = [Console(host, **OPEN, peers=["tcp://10.77.0.1:7700"]) for host in three[1:]]
    began_at = time.monotonic()
    all_known_at = wait_for(lambda: all_know_each_other([seed, *others]), "that all know each other", 30.0)
    figure("one seed: all know each other after", all_known_at - began_at, 3.0)


@pytest.mark.long
def test_neither(lan: Lan, three: tuple[Host, Host, Host]) -> None:
    """Without multicast and without a seed nobody finds anybody."""
    lan.filter_multicast()
    nodes = [Console(host, **OPEN) for host in three]
    time.sleep(5.0)
    assert [node.peers() for node in nodes] == [{}, {}, {}]
