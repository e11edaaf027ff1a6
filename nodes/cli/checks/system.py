"""System of this machine, asked for real: sockets, files under /proc, multicast, and a node that joins."""

from __future__ import annotations

import logging
import os
import re
import resource
import secrets as randomness
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import TimeoutError as TooLong
from functools import partial
from pathlib import Path
from typing import Any, Final

from peerfabric.discovery.base import Announcement, Sighting
from peerfabric.discovery.host import host_id, runtime_folder
from peerfabric.errors import ConfigError, EndpointInUse, SpoolError, SpoolLocked, TimedOut
from peerfabric.nodes import interfaces
from peerfabric.nodes.aio.ping import round_trip
from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.checks import host
from peerfabric.nodes.cli.checks.here import fixed_port
from peerfabric.nodes.cli.checks.situation import (
    Announced,
    Elsewhere,
    LeftInSlot,
    Resolved,
    Seen,
    Session,
    Situation,
    Tcp,
    port_of,
)
from peerfabric.nodes.cli.common import OURS, forget_variables
from peerfabric.nodes.cli.daemons import beside
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.door import Heard
from peerfabric.nodes.epochs import EPOCH_START
from peerfabric.nodes.interfaces import Found
from peerfabric.nodes.io.probe import address_of, family_of
from peerfabric.nodes.io.waiting import complete
from peerfabric.nodes.keys import KEY_FILE, new_node_key, read_node_key, read_secret
from peerfabric.nodes.settings import Settings
from peerfabric.options import Options
from peerfabric.secret import NodeKey, Secret

CONNECT_TIME: Final = 2.0
"""Seconds without an answer to a connect: two lost SYN are repeated within it."""
RESOLVE_TIME: Final = 6.0
"""Seconds that a name may take; the C library gives up a server after 5."""
ANSWER_TIME: Final = 1.0
AT_ONCE: Final = 64

_MDNS: Final = ("224.0.0.251", 5353)
_EPOCH_BITS: Final = 20
_WARNINGS_MAX: Final = 20


class RealSystem:
    """This machine. `close` ends what it has started."""

    def __init__(self) -> None:
        self.environ: Mapping[str, str] = dict(os.environ)
        self.host = host_id()
        self._session: _Session | None = None

    def close(self) -> None:
        """Leave the fabric."""
        if self._session is not None:
            self._session.close()

    def at_once(self, calls: Iterable[Callable[[], Any]]) -> list[Any]:
        found: list[Any] = []
        waiting = list(calls)
        while waiting:
            started = [beside(call) for call in waiting[:AT_ONCE]]
            found += [future.result() for future in started]
            del waiting[:AT_ONCE]
        return found

    # Keys and files

    def secret(self, source: str) -> Secret:
        return read_secret(source, self.environ)

    def node_key(self, settings: Settings) -> tuple[str, NodeKey | None]:
        place = settings.identity or (f"{settings.spool}/{KEY_FILE}" if settings.spool else "")
        if not place:
            return "", None
        from peerfabric.nodes.io.curve import curve_public

        return place, read_node_key(place, curve_public)

    def spool(self, settings: Settings) -> str:
        from peerfabric.nodes.cli.offline import left_to_a_child, looked_at
        from peerfabric.nodes.cli.slots import slots_in

        assert settings.spool is not None
        users = []
        try:
            for number, path in slots_in(settings.spool):
                try:
                    with looked_at(path):
                        pass
                except SpoolLocked as error:
                    who = f"process {error.pid}" if error.pid else "another process"
                    child = left_to_a_child(path)
                    users.append(f"{who} (slot {number}{f', which {child}' if child else ''})")
                except SpoolError:
                    pass  # not there yet, or said by the start
        except (ConfigError, SpoolError):
            pass  # the same
        return ", ".join(users)

    # Processes of this host

    def runtime_folder(self) -> str:
        return str(runtime_folder())

    def heard(self) -> list[Heard]:
        return list(door.answers())

    def elsewhere(self) -> Sequence[Elsewhere]:
        return host.elsewhere()

    def clock_jump(self, pid: int, started_ms: int) -> float:
        return host.clock_jump(pid, started_ms)

    def disk(self, folder: str) -> tuple[int, int]:
        return host.disk(folder)

    def network_disk(self, folder: str) -> str:
        return host.network_disk(folder)

    def left_in(self, folder: str) -> list[LeftInSlot]:
        return host.left_in(folder)

    # Cryptography

    def gate(self, secret: Secret, fabric: str) -> bytes:
        from peerfabric.nodes.io.curve import Gate

        return Gate(secret, fabric).public

    def crypto(self) -> tuple[bool, str]:
        from peerfabric.nodes.io.handshake import versions

        return versions()

    # The machine

    def interfaces(self, names: Sequence[str]) -> list[Found]:
        return interfaces.survey(names)

    def container(self) -> str:
        if os.path.exists("/.dockerenv"):
            return "/.dockerenv is there"
        try:
            group = Path("/proc/1/cgroup").read_text(errors="replace")
        except OSError:
            group = ""
        found = re.search(r"docker|kubepods|containerd|libpod|lxc", group)
        return f"{found[0]} in /proc/1/cgroup" if found is not None else ""

    def limits(self) -> tuple[int, int, int]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
        except (OSError, ValueError):
            backlog = 0
        return soft, hard, backlog

    # The network

    def connect(self, endpoint: str) -> Tcp:
        address = address_of(endpoint)
        if address is None:
            return Tcp("unreachable", "that is no numeric address")
        try:
            with socket.socket(family_of(address), socket.SOCK_STREAM) as connecting:
                connecting.settimeout(CONNECT_TIME)
                connecting.connect(address)
                if connecting.getsockname() == connecting.getpeername():
                    return Tcp("refused", "it met itself")
        except ConnectionRefusedError as error:
            return Tcp("refused", error.strerror or "")
        except TimeoutError:
            return Tcp("silent", f"within {CONNECT_TIME:g} s")
        except OSError as error:
            return Tcp("unreachable", error.strerror or str(error))
        return Tcp("accepted")

    def resolve(self, host: str) -> Resolved:
        started_at = time.monotonic()
        try:
            found = beside(partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)).result(RESOLVE_TIME)
        except TooLong:
            return Resolved((), time.monotonic() - started_at, "no answer")
        except (OSError, UnicodeError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return Resolved((), time.monotonic() - started_at, text)
        addresses = dict.fromkeys(str(address[0]) for *_, address in found)
        return Resolved(tuple(addresses), time.monotonic() - started_at)

    def handshake(self, endpoint: str, key: NodeKey | None, gate: bytes | None) -> str:
        from peerfabric.nodes.io.curve import curve_public
        from peerfabric.nodes.io.handshake import handshake

        if gate is not None and key is None:
            key = new_node_key(curve_public)
        return handshake(endpoint, key, gate)

    def multicast(self, address: str) -> str:
        """Send a question that nobody answers to the group of mDNS, and hear it come back."""
        token = randomness.token_bytes(8).hex()
        label = f"pf-{token}".encode()
        name = bytes([len(label)]) + label + b"\x0b_peerfabric\x04_tcp\x05local\x00"
        question = struct.pack("!6H", 0, 0, 1, 0, 0, 0) + name + struct.pack("!2H", 16, 1)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
                heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                heard.bind(_MDNS)
                here = socket.inet_aton(address)
                heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(_MDNS[0]) + here)
                heard.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
                heard.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
                heard.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
                for _ in range(3):
                    heard.sendto(question, _MDNS)
                    until = time.monotonic() + ANSWER_TIME
                    while (left := until - time.monotonic()) > 0:
                        heard.settimeout(left)
                        try:
                            if label in heard.recv(9000):
                                return ""
                        except TimeoutError:
                            break
        except OSError as error:
            return error.strerror or str(error)
        return f"nothing within {3 * ANSWER_TIME:g} s"

    def announced(self, settings: Settings, secrets: Sequence[Secret], seconds: float) -> Announced:
        from peerfabric.discovery.base import AnnounceKey
        from peerfabric.discovery.mdns import MdnsBackend

        keys = [AnnounceKey(s.key_id(settings.fabric), s.announce_key(settings.fabric)) for s in secrets]
        found: dict[str, Announcement] = {}

        def report(event: object) -> None:
            if isinstance(event, Sighting) and isinstance(event.seen, Announcement):
                found[event.seen.node_id] = event.seen

        names = settings.interfaces
        backend = MdnsBackend(
            settings.fabric, reach=settings.reach, keys=keys, interfaces=lambda: interfaces.addresses(names)
        )
        try:
            backend.watch(report)
            time.sleep(seconds)
            strangers = backend.strangers()
        finally:
            backend.close()
        nodes = tuple(
            Seen(
                node_id=each.node_id,
                name=each.name,
                host=each.host,
                inbox=each.inbox,
                outbox=each.outbox,
                started_unix=_started(each.epoch),
            )
            for each in found.values()
        )
        return Announced(nodes=nodes, keys=strangers.keys, versions=strangers.versions, forged=strangers.forged)

    def session(self, situation: Situation) -> Session:
        assert situation.configuration is not None
        values = situation.configuration.values
        arguments = {key: value for key, value in values.items() if key in OURS}
        arguments["options"] = Options(drain_timeout=0.0)
        arguments["identity"] = situation.identity
        peers = [*arguments.get("peers", ()), *situation.endpoints]
        arguments["peers"] = list(dict.fromkeys(peers))
        forget_variables()  # read already; the rest of them is of the node that runs here
        settings = situation.settings
        if settings is not None and settings.reach == "lan" and fixed_port(situation):
            try:
                self._session = _Session({**arguments, "listen": settings.listen})
                return self._session
            except EndpointInUse:
                pass  # the node of this host runs
        self._session = _Session({**arguments, "listen": "auto"})
        return self._session


class _Session:
    """A node that looks, and takes part in nothing."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._log = _Log()
        self._ahead: dict[str, float] = {}
        logger = logging.getLogger("peerfabric")
        self._node = Node("doctor", **arguments)
        logger.addHandler(self._log)
        self._before, logger.propagate = logger.propagate, False
        try:
            self._node.look_at_all()  # starts it
        except BaseException:
            self._quiet()
            raise
        self._engine = self._node._async._context.engine
        self._pump = self._node._async._context.pump
        self.node_id = self._engine.address.node_id
        self.port = next((port_of(each) for each in self._engine.address.inbox if each.startswith("tcp://")), 0)

    def peers(self) -> list[Seen]:
        with self._pump.lock:
            views = self._engine.view()
            links = {link.node_id: link for link in self._engine.links.by_peer.values() if link.address is not None}
        found = []
        for view in views:
            link = links.get(view.node_id)
            address = link.address if link is not None else None
            found.append(
                Seen(
                    node_id=view.node_id,
                    name=view.name,
                    state=view.state,
                    reason=view.reason,
                    endpoint=view.endpoint,
                    host=address.host if address is not None else "",
                    inbox=tuple(address.inbox) if address is not None else (),
                    outbox=tuple(address.outbox) if address is not None else (),
                    started_unix=_started(address.epoch) if address is not None else 0.0,
                    ahead=self._ahead.get(view.node_id),
                )
            )
        return found

    def warnings(self) -> list[str]:
        return list(self._log.lines)

    def round_trips(self, node_id: str, count: int) -> list[float]:
        trips: list[float] = []
        for _ in range(count):
            try:
                trip = complete(round_trip(self._node._async._context, node_id, ANSWER_TIME))
            except TimedOut:
                if not trips:
                    break  # nobody is there, and the others would take as long
                continue
            seconds = trip.seconds or 0.0
            trips.append(seconds)
            if trip.their_unix_ms:
                self._ahead[node_id] = trip.their_unix_ms / 1e3 - (time.time() - seconds / 2)
        return trips

    def close(self) -> None:
        self._node.close(0.0)
        self._quiet()

    def _quiet(self) -> None:
        logger = logging.getLogger("peerfabric")
        logger.removeHandler(self._log)
        logger.propagate = self._before


class _Log(logging.Handler):
    """The warnings of a node, kept instead of written."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.lines) < _WARNINGS_MAX:
            self.lines[record.getMessage()] = None


def _started(epoch: int) -> float:
    """When a life began, by the clock of its host; 0 if its number does not say."""
    seconds = epoch >> _EPOCH_BITS
    return float(EPOCH_START + seconds) if seconds > 1 else 0.0
