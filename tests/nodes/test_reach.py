"""Nodes that others than this machine can reach: where they listen, and what they announce."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peerfabric import ConfigError, EndpointInUse, Node
from peerfabric.nodes import interfaces
from peerfabric.nodes.interfaces import addresses, parse_advertised, subnets, survey
from peerfabric.nodes.io.ports import Announced, Ports, hold, parse_listen
from peerfabric.nodes.io.reachability import Reachability
from peerfabric.wire.frames import Address
from tests.nodes.conftest import Front, eventually


def adapter(name: str, index: int, *ips: tuple[str, int]) -> Any:
    found = [
        SimpleNamespace(ip=(ip, 0, 0) if ":" in ip else ip, network_prefix=prefix, nice_name=name) for ip, prefix in ips
    ]
    return SimpleNamespace(name=name, nice_name=name, ips=found, index=index)


LO = adapter("lo", 1, ("127.0.0.1", 8), ("::1", 128))
ETH = adapter("eth0", 2, ("10.0.0.5", 24), ("fd00::5", 64), ("fe80::1", 64))
DOCKER = adapter("docker0", 3, ("172.17.0.1", 16))
WG = adapter("wg0", 4, ("10.9.0.1", 24))
AUTOIP = adapter("eth1", 5, ("169.254.7.7", 16))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The adapters of this host, to be changed by the test."""
    adapters = [LO, DOCKER, WG, AUTOIP, ETH]
    monkeypatch.setattr("ifaddr.get_adapters", lambda: adapters)
    return adapters


# Addresses of this host


def test_what_is_announced(host: list[Any]) -> None:
    """IPv4 first, self-given addresses last; nothing of loopback, bridges and tunnels, nothing that needs a scope."""
    assert addresses() == ["10.0.0.5", "fd00::5", "169.254.7.7"]
    assert subnets() == ("10.0.0.0/24", "fd00::/64", "169.254.0.0/16")
    left_out = {found.address: found.why_not for found in survey() if found.why_not}
    assert left_out["172.17.0.1"] == "a bridge or tunnel; give interfaces=['docker0'] to announce it"
    assert left_out["fe80::1"].startswith("link-local")
    assert left_out["127.0.0.1"] == left_out["::1"] == "leads to this host only"


def test_interfaces_that_are_named(host: list[Any]) -> None:
    """Only they are announced, whatever they are called; patterns work, loopback does not."""
    assert addresses(["wg0"]) == ["10.9.0.1"]
    assert addresses(["eth*", "docker0"]) == ["10.0.0.5", "172.17.0.1", "fd00::5", "169.254.7.7"]
    assert addresses(["lo"]) == []
    assert "not named by interfaces=['wg0']" in {found.why_not for found in survey(["wg0"])}


def test_at_most_eight_addresses(host: list[Any]) -> None:
    """The others are named with what to do."""
    host[:] = [adapter("eth0", 1, *((f"10.0.{n}.1", 24) for n in range(12)))]
    assert len(addresses()) == 8
    assert sum("choose by interfaces=" in found.why_not for found in survey()) == 4


def test_real_addresses() -> None:
    """What the system says of this machine can be bound."""
    for address in addresses():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as here:
            here.bind((address, 0))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.5", "10.0.0.5", None),
        ("10.0.0.5:7700", "10.0.0.5", 7700),
        ("tcp://10.0.0.5:7700", "10.0.0.5", 7700),
        ("fd00::1", "fd00::1", None),
        ("[fd00::1]", "fd00::1", None),
        ("[fd00::1]:7700", "fd00::1", 7700),
    ],
)
def test_advertised(text: str, host: str, port: int | None) -> None:
    """Numbers with or without a port."""
    assert parse_advertised(text) == (host, port)


@pytest.mark.parametrize("text", ["router", "router:7700", "10.0.0.5:0", "10.0.0.5:70000", "::", "0.0.0.0:1", ":7700"])
def test_not_advertised(text: str) -> None:
    """Names are not resolved, and a wildcard leads others to themselves."""
    with pytest.raises(ConfigError, match="no address at which others reach this node"):
        parse_advertised(text)


# Ports


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def take(stack: ExitStack, listen: str, gates: list[str] | None = None) -> Ports:
    ports = hold(parse_listen(listen), gates or [""])
    stack.callback(ports.close)
    return ports


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for first in range(20_000, 60_000, 97):
        try:
            with ExitStack() as stack:
                for port in range(first, first + count):
                    bound = stack.enter_context(socket.socket(socket.AF_INET6))
                    bound.bind(("::", port))
        except OSError:
            continue
        return first
    raise AssertionError("no ports")


def test_a_fixed_port_takes_its_neighbour(held: ExitStack) -> None:
    """P for the inbox, P + 1 for the outbox, P + 2 for another secret: what a firewall opens."""
    first = free_ports(4)
    ports = take(held, f"tcp://*:{first}", ["aaaaaaaa", "bbbbbbbb"])
    assert (ports.inboxes, ports.outbox) == ({"aaaaaaaa": first, "bbbbbbbb": first + 2}, first + 1)
    assert ports.everywhere
    assert ports.bound_inboxes == [f"tcp://[::]:{first}", f"tcp://[::]:{first + 2}"]
    with pytest.raises(EndpointInUse, match=f"{first}-{first + 1} is in use"):
        take(held, f"tcp://*:{first}")


def test_a_range_gives_the_first_free_pair(held: ExitStack) -> None:
    """Several nodes of a host take theirs one after the other, and one port in use passes over the pair."""
    first = free_ports(8)
    assert take(held, f"tcp://*:{first}-{first + 7}").outbox == first + 1
    other = held.enter_context(socket.socket(socket.AF_INET6))
    other.bind(("::", first + 3))
    other.listen()
    third = take(held, f"tcp://*:{first}-{first + 7}")
    assert (third.inboxes[""], third.outbox) == (first + 4, first + 5)
    take(held, f"tcp://*:{first}-{first + 7}")
    with pytest.raises(EndpointInUse):
        take(held, f"tcp://*:{first}-{first + 7}")


def test_a_taken_outbox_leaves_nothing_bound(held: ExitStack) -> None:
    """Both or none: the inbox of a pair that did not come about is free again."""
    first = free_ports(2)
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::", first + 1))
        other.listen()
        with pytest.raises(EndpointInUse):
            take(held, f"tcp://*:{first}")
    take(held, f"tcp://*:{first}")


def test_a_second_secret_gets_the_next_port(held: ExitStack) -> None:
    """The one behind the outbox if it is free, else any."""
    first = free_ports(4)
    ports = take(held, f"tcp://*:{first}")
    assert ports.add("bbbbbbbb") == f"tcp://[::]:{first + 2}"
    other = held.enter_context(socket.socket(socket.AF_INET6))
    other.bind(("::", first + 3))
    other.listen()
    assert ports.add("cccccccc") != f"tcp://[::]:{first + 3}"
    assert list(ports.inboxes) == ["", "bbbbbbbb", "cccccccc"]


def test_chosen_ports_go_back_to_the_gates_that_are_left(held: ExitStack) -> None:
    """The first to the first, in their order; what is left over is for the next gate. Free ports stay as they are."""
    first = free_ports(4)
    p, p2 = f"tcp://[::]:{first}", f"tcp://[::]:{first + 2}"
    ports = take(held, f"tcp://*:{first}", ["aaaaaaaa"])
    for old, new in (("aaaaaaaa", "bbbbbbbb"), ("bbbbbbbb", "cccccccc")):
        assert ports.add(new) == p2
        assert ports.inboxes == {old: first, new: first + 2}
        assert ports.settle([new]) == {p: new}
        assert ports.inboxes == {new: first}
    ports.add("dddddddd")
    assert ports.settle(["cccccccc"]) == {}
    ports.add("eeeeeeee")
    ports.add("ffffffff")
    assert ports.settle(["eeeeeeee", "ffffffff"]) == {p: "eeeeeeee", p2: "ffffffff"}
    free = take(held, "auto", ["aaaaaaaa"])
    free.add("bbbbbbbb")
    before = dict(free.inboxes)
    assert free.settle(["bbbbbbbb"]) == {}
    assert free.inboxes == before


def test_without_ipv6(held: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose kernel has none listens on IPv4."""
    real = socket.socket

    class Old(real):  # type: ignore[valid-type, misc]
        def __init__(self, family: int = socket.AF_INET, *rest: Any, **more: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            super().__init__(family, *rest, **more)

    monkeypatch.setattr("peerfabric.nodes.io.ports.socket.socket", Old)
    assert take(held, "auto").host == "0.0.0.0"


def test_an_address_that_is_not_ours(held: ExitStack) -> None:
    """The error says so at the start."""
    with pytest.raises(ConfigError, match="use an address of this host"):
        take(held, "tcp://192.0.2.77:*")


# What is announced


def test_endpoints_of_a_node(host: list[Any], held: ExitStack) -> None:
    """Every address with the port of every secret; never the wildcard."""
    ports = take(held, "auto", ["aaaaaaaa", "bbbbbbbb"])
    a, b = ports.inboxes.values()
    announced = Announced(ports, [], [], local=False)
    inbox, outbox = announced.now()
    assert inbox[:4] == [f"tcp://10.0.0.5:{a}", f"tcp://10.0.0.5:{b}", f"tcp://[fd00::5]:{a}", f"tcp://[fd00::5]:{b}"]
    assert outbox[:2] == [f"tcp://10.0.0.5:{ports.outbox}", f"tcp://[fd00::5]:{ports.outbox}"]
    announced.gates = ("bbbbbbbb",)
    assert announced.now()[0][:2] == [f"tcp://10.0.0.5:{b}", f"tcp://[fd00::5]:{b}"]
    host[:] = [adapter("eth0", 1, *((f"10.0.{n}.1", 24) for n in range(12)))]
    announced.gates = ("aaaaaaaa", "bbbbbbbb")
    assert len(announced.now()[0]) <= 15
    host[:] = [ETH]
    assert Announced(ports, [], [], local=True).now()[0][-1] == f"tcp://127.0.0.1:{b}"


def test_advertised_endpoints_replace_all(host: list[Any], held: ExitStack) -> None:
    """A forwarded port stands for the inbox, the two behind it for outbox and second inbox, whichever are in use."""
    ports = take(held, "auto", ["aaaaaaaa", "bbbbbbbb"])
    announced = Announced(ports, [], ["203.0.113.5:9000", "203.0.113.6"], local=False)
    assert announced.fixed
    inbox, outbox = announced.now()
    a, b = ports.inboxes.values()
    assert inbox == [
        "tcp://203.0.113.5:9000",
        "tcp://203.0.113.5:9002",
        f"tcp://203.0.113.6:{a}",
        f"tcp://203.0.113.6:{b}",
    ]
    assert outbox == ["tcp://203.0.113.5:9001", f"tcp://203.0.113.6:{ports.outbox}"]
    announced.gates = ("bbbbbbbb",)
    assert announced.now()[0] == ["tcp://203.0.113.5:9002", f"tcp://203.0.113.6:{b}"]


def test_a_changed_address_is_told(host: list[Any], held: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 5 s, and at the next look after a connection was lost; an unchanged one is not told again."""
    now = [100.0]
    monkeypatch.setattr("peerfabric.nodes.io.reachability.clock", lambda: now[0])
    ports = take(held, "auto")
    announced = Announced(ports, [], [], local=False)
    inbox, outbox = announced.now()
    address = Address("a", 1, "a", "h", ["ipc:///run/a", *inbox], ["ipc:///run/b", *outbox])
    told: list[Address] = []
    reachability = Reachability("a", address, SimpleNamespace(gone=list), None, told.append, announced)  # type: ignore[arg-type]

    def look(seconds: float) -> None:
        now[0] += seconds
        reachability.look()

    look(6.0)
    assert told == []
    host[:] = [adapter("eth0", 2, ("10.0.0.6", 24))]
    look(4.0)
    assert told == []
    look(1.5)
    assert [t.inbox for t in told] == [["ipc:///run/a", f"tcp://10.0.0.6:{ports.inboxes['']}"]]
    host[:] = [adapter("eth0", 2, ("10.0.0.7", 24))]
    reachability.disconnected()
    look(0.1)
    assert told[-1].outbox == ["ipc:///run/b", f"tcp://10.0.0.7:{ports.outbox}"]
    host[:] = [LO]
    look(5.1)
    assert told[-1].inbox == ["ipc:///run/a"]


# Nodes


def address_of(node: Any) -> Address:
    node.statistics()
    return getattr(node, "_async", node)._context.engine.address  # type: ignore[no-any-return]


def test_a_node_of_this_host_only_listens_here(runtime: Path) -> None:
    """With or without TCP, nothing of it can be reached from outside."""
    for listen in ("auto", "tcp://127.0.0.1:*"):
        with Node(listen=listen) as node:
            address = address_of(node)
            assert all(e.startswith(("ipc://", "tcp://127.0.0.1:")) for e in (*address.inbox, *address.outbox))


def test_nodes_on_a_lan_in_the_clear(front: Front, runtime: Path) -> None:
    """They announce addresses of this host, and meet by one of them alone."""
    if not addresses():
        pytest.skip("this host has no address but those of loopback")
    first = free_ports(2)
    options: dict[str, Any] = {"reach": "lan", "secret": "insecure"}
    with front.node("kitchen", listen=f"tcp://*:{first}", **options) as kitchen:
        consumer = kitchen.consumer("orders", int)
        address = address_of(kitchen)
        tcp = [endpoint for endpoint in address.inbox if endpoint.startswith("tcp://")]
        assert tcp == [f"tcp://{f'[{a}]' if ':' in a else a}:{first}" for a in addresses()]
        assert all(e.endswith(f":{first + 1}") for e in address.outbox if e.startswith("tcp://"))
        with front.node("shop", peers=tcp[:1], discovery=["static"], **options) as shop:
            shop.producer("orders", int).send(1)
            with consumer.get(timeout=30) as body:
                assert body == 1


def test_a_moved_node_tells_its_peers(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of this host's addresses reaches them, with a version that grows."""
    monkeypatch.setattr("peerfabric.nodes.io.reachability.ADDRESSES_EVERY", 0.2)
    there = ["10.0.0.5"]
    monkeypatch.setattr(interfaces, "addresses", lambda chosen: list(there))
    options: dict[str, Any] = {"reach": "lan", "secret": "insecure", "discovery": ["registry"]}
    with Node("a", **options) as a, Node("b", **options) as b:
        a.consumer("orders", int)
        b.producer("orders", int)
        eventually(lambda: any(peer.state == "up" for peer in b.peers()), "the link")
        before = address_of(a)
        there[:] = ["10.0.0.6"]
        engine = b._async._context.engine

        def told() -> bool:
            known = engine.links._addresses.get(before.node_id)
            return known is not None and any("10.0.0.6" in endpoint for endpoint in known.inbox)

        eventually(told, "the news")
        assert address_of(a).version > before.version


def test_a_host_without_addresses_starts_all_the_same(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a laptop whose network comes later; the log says so."""
    monkeypatch.setattr(interfaces, "addresses", lambda chosen: [])
    with caplog.at_level(logging.WARNING, "peerfabric"), Node(reach="lan", secret="insecure") as node:
        assert all(e.startswith("ipc://") for e in address_of(node).inbox)
    assert "no address for others" in caplog.text


def test_a_range_for_several_nodes(runtime: Path) -> None:
    """Two nodes that start with the same range get a pair each."""
    first = free_ports(4)
    options: dict[str, Any] = {"reach": "lan", "secret": "insecure", "listen": f"tcp://*:{first}-{first + 3}"}
    with Node("a", **options) as a, Node("b", **options) as b:
        outboxes = {address_of(node).outbox[-1].rpartition(":")[2] for node in (a, b)}
        assert outboxes == {str(first + 1), str(first + 3)}
        with pytest.raises(EndpointInUse):
            Node("c", **options).statistics()
