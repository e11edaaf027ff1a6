"""Endpoints of a peer, in the order in which they are tried."""

from __future__ import annotations

import pytest

from peerfabric.link.endpoints import Door, after, doors, observed_at
from peerfabric.wire.frames import Address

INBOX = ["tcp://172.17.0.1:1", "tcp://10.0.0.5:1", "tcp://127.0.0.1:1", "ipc:///x"]


def order(their_host: str, *, gates: tuple[str, ...] = ("",), near: str = "10.0.0.", observed: str = "") -> list[str]:
    them = Address("them", 1, "", their_host, INBOX, [])
    found = doors(them, "net-files", gates, lambda host: host.startswith(near), observed)
    return [door.endpoint for door in found]


@pytest.mark.parametrize(
    ("their_host", "expected"),
    [
        ("net-files", ["ipc:///x", "tcp://127.0.0.1:1", "tcp://10.0.0.5:1", "tcp://172.17.0.1:1"]),
        ("net-other", ["tcp://127.0.0.1:1", "tcp://10.0.0.5:1", "tcp://172.17.0.1:1"]),
        ("far-files", ["tcp://10.0.0.5:1", "tcp://172.17.0.1:1"]),
    ],
)
def test_what_is_near_comes_first(their_host: str, expected: list[str]) -> None:
    """ipc and loopback only from where they mean the same; then our subnets, then the rest."""
    assert order(their_host) == expected


def test_where_a_hello_came_from_comes_before_all_but_ipc() -> None:
    """It has the right route, whatever was announced; ZeroMQ writes IPv4 as a part of IPv6."""
    first = ["tcp://192.168.1.9:1", "tcp://10.0.0.5:1", "tcp://172.17.0.1:1"]
    assert order("far-files", observed="::ffff:192.168.1.9") == first
    assert order("net-files", observed="192.168.1.9")[:2] == ["ipc:///x", "tcp://192.168.1.9:1"]
    assert order("far-files", observed="172.17.0.1")[0] == "tcp://172.17.0.1:1"
    assert order("far-files", observed="fe80::1%eth0")[0] == "tcp://[fe80::1%eth0]:1"


def test_a_loopback_that_was_observed_must_have_been_announced() -> None:
    """Behind a forwarder on this machine nobody listens at that port."""
    assert observed_at(["tcp://10.0.0.5:1"], "127.0.0.1") == []
    assert observed_at(["tcp://127.0.0.1:1"], "127.0.0.1") == ["tcp://127.0.0.1:1"]


def test_each_endpoint_under_each_gate() -> None:
    """The first gate first; ipc has none."""
    them = Address("them", 1, "", "net-files", ["tcp://a:1", "ipc:///x"], [])
    found = doors(them, "net-files", ["new", "old"], lambda host: False)
    assert found == [Door("ipc:///x"), Door("tcp://a:1", "new"), Door("tcp://a:1", "old")]


def test_another_gate_is_tried_only_where_that_may_help() -> None:
    """Nobody listens there under any gate if the connect was refused."""
    tried = [Door("tcp://a:1", "new"), Door("tcp://a:1", "old"), Door("tcp://b:1", "new")]
    for why in ("secret", "denied", "mechanism"):
        assert after(tried, tried[0], why) == tried[1]
    assert after(tried, tried[0], "") == tried[2]
    assert after(tried, tried[2], "secret") is None
    assert after(tried, Door("tcp://left:1"), "") == tried[0]
    assert after([], Door("tcp://left:1"), "") is None
