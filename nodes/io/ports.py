"""Ports of a node on the LAN: bound together or not at all, and announced at the addresses of this host.

A fixed port P is that of the inbox; the outbox has P + 1, and an inbox of a second secret P + 2, so that a firewall can
be opened for all of them. They are bound on all interfaces, IPv6 and IPv4 by one socket where this host has both; what
is announced are the addresses of its interfaces, which may change while it listens.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from peerfabric.errors import ConfigError, EndpointInUse
from peerfabric.nodes import interfaces as nics
from peerfabric.nodes.io.listener import Kernel
from peerfabric.nodes.io.listening import new_files
from peerfabric.nodes.io.probe import address_of, family_of

_TCP: Final = re.compile(r"tcp://(?P<host>\*|\[[^\]]+\]|[^:\[\]]+):(?P<first>\*|\d{1,5})(-(?P<last>\d{1,5}))?")
_WILDCARDS: Final = ("*", "0.0.0.0", "[::]")
_BACKLOG: Final = 1024


class Listening(NamedTuple):
    """What `listen=` asks for: a host, "*" for all interfaces, and the first and last port; 0: any."""

    host: str
    first: int
    last: int

    def sets(self, gates: int) -> Iterator[tuple[int, ...]]:
        """Ports that belong together, in the order in which they are tried: outbox second, more inboxes behind it."""
        if not self.first:
            yield (0,) * (gates + 1)
            return
        step = 2 if gates == 1 else 4  # even distances, so that a node with a second secret keeps its place
        for first in range(self.first, max(self.first, self.last - gates) + 1, step):
            yield tuple(range(first, first + gates + 1))


def parse_listen(listen: str) -> Listening:
    """Read `listen=` of a node that listens on the LAN.

    Raises:
        ConfigError: It is not one of the forms, or names a host.
    """
    if listen == "auto":
        return Listening("*", 0, 0)
    found = _TCP.fullmatch(listen)
    if found is None:
        raise _refused(listen)
    host = found["host"]
    if host in _WILDCARDS:
        host = "*"
    elif address_of(f"tcp://{host}:1") is None:
        raise _refused(listen)
    if found["first"] == "*":
        if found["last"] is not None:
            raise _refused(listen)
        return Listening(host, 0, 0)
    first = int(found["first"])
    last = int(found["last"]) if found["last"] is not None else first + 1
    if not (0 < first < last < 65536):
        raise _refused(listen)
    return Listening(host, first, last)


def _refused(listen: str) -> ConfigError:
    return ConfigError(
        f"listen={listen!r} is no place on the LAN; use 'auto', 'tcp://*:7700' (with 7701 for topics), "
        f"'tcp://*:7700-7719', or a numeric address of this host in place of '*'"
    )


class Place(NamedTuple):
    """Where a node with keys, or on a LAN, is to listen."""

    files: tuple[str, str] | None
    """Inbox and outbox over ipc, for nodes of this host and user; None if there are none."""
    ports: Listening | None
    """And over TCP."""


def place(listen: str, reach: str, folder: Path, node_id: str, *, tcp_too: bool) -> Place:
    """Where that is, by `listen=` and `reach=`, which were checked.

    Args:
        folder: Of the socket files, unless `listen` names one.
        tcp_too: Whether a port is wanted for peers of this host that are found by multicast.
    """
    if reach == "lan":
        return Place(new_files(folder, node_id), parse_listen(listen))
    if listen == "auto":
        files = new_files(folder, node_id)
        return Place(files, Listening("127.0.0.1", 0, 0) if tcp_too or files is None else None)
    if listen.startswith("ipc://"):
        return Place((listen, f"{listen}.outbox"), None)
    return Place(None, parse_listen(listen.replace("localhost", "127.0.0.1")))


class Ports:
    """The bound ports of one node.

    Args:
        inboxes: Ports of the inbox, by the key id of the gate before each; by "" in the clear.
        held: What the kernel listens with, by endpoint, until somebody takes it over.
    """

    def __init__(
        self, listening: Listening, host: str, inboxes: dict[str, int], outbox: int, held: dict[str, Kernel]
    ) -> None:
        self.host, self.inboxes, self.outbox, self.held = host, inboxes, outbox, held
        self._listening = listening
        self._order = list(inboxes.values())
        """All ports of the inbox, the preferred one first; those of no gate in `inboxes` are free for another one."""

    @property
    def bound_inboxes(self) -> list[str]:
        """What the inbox is bound to, one for each gate."""
        return [self._endpoint(port) for port in self.inboxes.values()]

    @property
    def bound_outbox(self) -> str:
        return self._endpoint(self.outbox)

    def _endpoint(self, port: int) -> str:
        return f"tcp://{self.host}:{port}"

    @property
    def everywhere(self) -> bool:
        """Whether they are bound on all interfaces."""
        return self.host in _WILDCARDS

    def add(self, gate: str) -> str:
        """Have one more port for the inbox, behind another gate, and return its endpoint.

        That is one which `settle` has left over, and which listens already; else one that is `held` from here on: the
        one behind the others if a port was chosen and it is free, else any that is.

        Raises:
            ConfigError: There is none.
        """
        left = next((port for port in self._order if port not in self.inboxes.values()), None)
        if left is not None:
            self.inboxes[gate] = left
            return self._endpoint(left)
        last = max(self.outbox, *self._order) if self._listening.first else 0
        for port in (last + 1, 0) if 0 < last < 65535 else (0,):
            try:
                held = _hold(self.host, (port,))
            except OSError as error:
                if port:
                    continue
                raise ConfigError(f"no port is free for another secret: {error.strerror}; try again") from error
            self.held.update(held)
            (endpoint,) = held
            self.inboxes[gate] = _port(endpoint)
            self._order.append(self.inboxes[gate])
            return endpoint
        raise AssertionError

    def settle(self, gates: Sequence[str]) -> dict[str, str]:
        """There are only these gates from now on: if a port was chosen, the first one gets it, and so on.

        Ports that are left over go on as they are, for those who still call there, until `add` gives them away.

        Returns:
            The gates that are to be before other endpoints than they were, by endpoint.
        """
        if not self._listening.first:
            return {}
        before, self.inboxes = self.inboxes, dict(zip(gates, self._order, strict=False))
        return {self._endpoint(port): gate for gate, port in self.inboxes.items() if before.get(gate) != port}

    def close(self) -> None:
        """Let go of what nobody took over."""
        for each in self.held.values():
            each.close()
        self.held.clear()


def hold(listening: Listening, gates: Sequence[str] = ("",)) -> Ports:
    """Listen at the first set of ports that is free as a whole.

    Args:
        gates: Key ids of the gates before the inbox; [""] in the clear.

    Raises:
        EndpointInUse: None is.
        ConfigError: The address is not one of this host.
    """
    error: OSError | None = None
    for host in _hosts(listening.host):
        for ports in listening.sets(len(gates)):
            try:
                held = _hold(host, ports)
            except OSError as raised:
                error = raised
                if raised.errno != errno.EADDRINUSE:
                    break  # no IPv6 here, or not our address
                continue
            inbox, outbox, *more = held
            inboxes = dict(zip(gates, map(_port, (inbox, *more)), strict=True))
            return Ports(listening, host, inboxes, _port(outbox), held)
        if error is not None and error.errno == errno.EADDRINUSE:
            break
    assert error is not None
    where = f"tcp://{'0.0.0.0' if listening.host == '*' else listening.host}:{_told(listening, len(gates))}"
    if error.errno == errno.EADDRINUSE:
        raise EndpointInUse(where) from error
    raise ConfigError(f"cannot listen at {where}: {error.strerror}; use an address of this host, or '*'") from error


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def _told(listening: Listening, gates: int) -> str:
    if not listening.first:
        return "*"
    return f"{listening.first}-{max(listening.last, listening.first + gates)}"


def _hosts(host: str) -> tuple[str, ...]:
    return ("[::]", "0.0.0.0") if host == "*" else (host,)


def _hold(host: str, ports: Sequence[int]) -> dict[str, Kernel]:
    """Sockets that listen at all of `ports`, by endpoint, in that order.

    Raises:
        OSError: One of them cannot; none is held.
    """
    held: dict[str, Kernel] = {}
    with ExitStack() as undo:
        for port in ports:
            address = address_of(f"tcp://{host}:{port}")
            assert address is not None
            family = family_of(address)
            kernel = socket.socket(family, socket.SOCK_STREAM)
            undo.callback(kernel.close)
            kernel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                kernel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "[::]" else 1)
            kernel.bind(address)
            kernel.listen(_BACKLOG)  # only from here on nobody else can have the port
            kernel.setblocking(False)
            held[f"tcp://{host}:{kernel.getsockname()[1]}"] = kernel
        undo.pop_all()
    return held


class Announced:
    """The endpoints under which a node is announced on the LAN, as they are now.

    Args:
        interfaces: As of `interfaces.survey`.
        advertise: Addresses that stand for all of them.
        local: Whether nodes of this host need one of its TCP endpoints, since none over ipc can be had.
    """

    def __init__(self, ports: Ports, interfaces: Sequence[str], advertise: Sequence[str], *, local: bool) -> None:
        self.ports, self._interfaces, self._local = ports, interfaces, local
        self.gates = tuple(ports.inboxes)
        """Those under which others are told to come: one that is on its way out is not among them."""
        self._advertise = [nics.parse_advertised(text) for text in advertise]

    @property
    def fixed(self) -> bool:
        """Whether they stay as they are whatever addresses this host has."""
        return bool(self._advertise) or not self.ports.everywhere

    def now(self) -> tuple[list[str], list[str]]:
        """Endpoints of the inbox and of the outbox, the best first. Asks the system, in a quarter of a millisecond."""
        ports = self.ports
        at: list[tuple[str, int | None]]
        if self._advertise:
            at = [(each.host, each.port) for each in self._advertise]
        elif not ports.everywhere:
            at = [(ports.host.strip("[]"), None)]
        else:
            at = [(address, None) for address in nics.addresses(self._interfaces)]
        if self._local and ports.everywhere:
            at.append(("127.0.0.1", None))
        inbox, outbox = [], []
        places = {gate: place for place, gate in enumerate(ports.inboxes)}
        # An address has at most 16 endpoints, one of which is for ipc.
        for host, forwarded in at[: 15 // len(self.gates)]:
            host = f"[{host}]" if ":" in host else host
            for gate in self.gates:
                port = ports.inboxes[gate]
                if forwarded is not None:
                    port = forwarded + places[gate] + (places[gate] > 0)
                inbox.append(f"tcp://{host}:{port}")
            outbox.append(f"tcp://{host}:{ports.outbox if forwarded is None else forwarded + 1}")
        return inbox, outbox

    def multicast_at(self) -> list[str]:
        """The addresses of this host's interfaces by which the node is found by multicast."""
        if not self.ports.everywhere:
            return [self.ports.host.strip("[]")]
        return nics.addresses(self._interfaces)

    def subnets(self) -> tuple[str, ...]:
        """The subnets of this host, in which others are reached best."""
        return nics.subnets(self._interfaces)
