"""Endpoints of a peer: which can be reached from here, in the order in which they are tried, and under which gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from peerfabric.wire.frames import Address

LOOPBACK: Final = ("tcp://127.", "tcp://[::1]", "tcp://localhost")
"""How endpoints begin that lead to this machine, or rather to this network namespace."""
OTHER_GATE: Final = ("secret", "denied", "mechanism")
"""Why an endpoint did not let us in under one gate, and may do so under another."""


class Door(NamedTuple):
    """An endpoint, and the gate under which to dial it; no gate in the clear, and over ipc."""

    endpoint: str
    gate: str = ""


def network_of(host: str) -> str:
    """The part of a host id that names its network: what it means by a loopback address, and who refuses a connect."""
    return host.partition("-")[0]


def host_of(endpoint: str) -> str:
    """The host of a TCP endpoint, without brackets; empty for others."""
    return endpoint[6:].rpartition(":")[0].strip("[]") if endpoint.startswith("tcp://") else ""


def with_host(endpoint: str, host: str) -> str:
    """The port of a TCP endpoint at another host."""
    return f"tcp://{f'[{host}]' if ':' in host else host}:{endpoint.rpartition(':')[2]}"


def observed_at(inbox: Iterable[str], observed: str) -> list[str]:
    """The announced ports at the address under which a hello came. A loopback counts only where it was announced."""
    ip = observed.removeprefix("::ffff:")
    listed = [endpoint for endpoint in inbox if endpoint.startswith("tcp://")]
    found = dict.fromkeys(with_host(endpoint, ip) for endpoint in listed) if ip else ()
    return [endpoint for endpoint in found if endpoint in listed or not endpoint.startswith(LOOPBACK)]


def doors(
    address: Address, our_host: str, gates: Sequence[str], near: Callable[[str], bool], observed: str = ""
) -> list[Door]:
    """Where to dial a node, best first: ipc, the address that it was seen at, loopback, our subnets, the rest.

    ipc and loopback only from where they mean the same. Each TCP endpoint comes once for each gate, in their order.
    """
    same_network = network_of(address.host) == network_of(our_host)
    ipc = [e for e in address.inbox if e.startswith("ipc://")] if address.host == our_host else []
    seen = observed_at(address.inbox, observed)
    tcp = [e for e in address.inbox if e.startswith("tcp://") and (same_network or not e.startswith(LOOPBACK))]
    tcp.sort(key=lambda e: 0 if e.startswith(LOOPBACK) else 1 if near(host_of(e)) else 2)
    ordered = dict.fromkeys([*(e for e in seen if same_network or not e.startswith(LOOPBACK)), *tcp])
    return [Door(e) for e in ipc] + [Door(e, gate) for e in ordered for gate in gates]


def after(tried: Sequence[Door], door: Door, why: str) -> Door | None:
    """The door to try after `door`, which did not let us in; None if it was the last.

    The same endpoint under another gate only if that may make the difference.
    """
    if door not in tried:
        return tried[0] if tried else None
    later = tried[tried.index(door) + 1 :]
    return next((each for each in later if each.endpoint != door.endpoint or why in OTHER_GATE), None)
