"""Situation of a node, as checks find it: what it was told, what this system says, and what was found so far.

A check is a function of a `Situation` that yields `Finding`s and fills in what later ones need. Whatever touches the
system or the network is a method of `System`, so that a test can say what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import msgspec

from peerfabric.nodes.cli.host.door import Heard
from peerfabric.nodes.cli.host.rows import Place
from peerfabric.nodes.config import Configuration
from peerfabric.nodes.interfaces import Found
from peerfabric.nodes.settings import Settings
from peerfabric.secret import NodeKey, Secret


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    """Nothing is broken by it, as far as is known."""
    PROBLEM = "problem"
    UNCHECKED = "not checked"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check has found, and what to do about it.

    `step` is empty where nothing is to be done. Texts may repeat what peers have sent: whoever prints them escapes it.
    """

    check: str
    level: Level
    text: str
    step: str = ""


class Tcp(NamedTuple):
    """How a connect ended: "accepted", "refused", "silent" or "unreachable"; and in the system's words."""

    outcome: str
    text: str = ""


class Resolved(NamedTuple):
    """The addresses of a name; `text` says what went wrong, `seconds` how long that took."""

    addresses: tuple[str, ...]
    seconds: float
    text: str = ""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A node that was announced, or with which there is a link, with what it says of itself."""

    node_id: str
    name: str
    host: str = ""
    inbox: tuple[str, ...] = ()
    outbox: tuple[str, ...] = ()
    started_unix: float = 0.0
    """When, by its own clock; 0: not known."""
    state: str = ""
    """As in PeerView; empty: only announced."""
    reason: str = ""
    endpoint: str = ""
    ahead: float | None = None
    """Seconds that its clock is ahead of ours; None: not known."""


class Announced(msgspec.Struct, frozen=True, kw_only=True):
    """What came by multicast: nodes of our fabric, and instances that are none."""

    nodes: tuple[Seen, ...] = ()
    keys: dict[str, int] = {}
    """Key id -> instances that have another secret or fabric; "-" in the clear."""
    versions: int = 0
    forged: int = 0


class Session(Protocol):
    """A node of this fabric for as long as the doctor looks: under an id of its own, and with no interest."""

    node_id: str
    port: int
    """Of its inbox; 0: it listens to no TCP."""

    def peers(self) -> list[Seen]: ...
    def warnings(self) -> list[str]:
        """What it has logged."""

    def round_trips(self, node_id: str, count: int) -> list[float]:
        """Seconds that PINGs took there and back; fewer if some were not answered."""


class Elsewhere(NamedTuple):
    """Another runtime folder, the processes of this user that meet there, and the fabrics of those that answer."""

    folder: str
    pids: tuple[int, ...]
    fabrics: frozenset[str] = frozenset()


class LeftInSlot(NamedTuple):
    """A slot of a spool that no process has, with what is left in it; or whose lock a `child` has, and how."""

    number: int
    messages: int = 0
    letters: int = 0
    child: str = ""


class System(Protocol):
    """This machine and its network, as a check may ask for them."""

    environ: Mapping[str, str]
    host: str
    """The id of this host: `network-files`."""

    def secret(self, source: str) -> Secret: ...
    def node_key(self, settings: Settings) -> tuple[str, NodeKey | None]:
        """Where the node's key is or will be, empty if nowhere, and the key if it is there."""

    def spool(self, settings: Settings) -> str:
        """The processes that use slots of the spool now; empty: nobody."""

    def runtime_folder(self) -> str:
        """Where processes of this user meet.

        Raises:
            ConfigError: It cannot be used.
        """

    def heard(self) -> list[Heard]:
        """The processes of this user that have an admin socket there, and what they answer.

        Raises:
            ConfigError: The runtime folder cannot be used.
        """

    def elsewhere(self) -> Sequence[Elsewhere]:
        """Other runtime folders in which processes of this user meet."""

    def clock_jump(self, pid: int, started_ms: int) -> float:
        """Seconds by which the clock was set since a process wrote down when it began."""

    def disk(self, folder: str) -> tuple[int, int]:
        """Free and all bytes of the disk that a folder is on; zeros: not known."""

    def network_disk(self, folder: str) -> str:
        """The kind of disk that a folder is on, if other machines use it too; empty: a local one."""

    def left_in(self, folder: str) -> list[LeftInSlot]:
        """The slots of a spool that somebody should look after."""

    def gate(self, secret: Secret, fabric: str) -> bytes: ...
    def crypto(self) -> tuple[bool, str]:
        """Whether libzmq has CURVE, and the versions."""

    def interfaces(self, names: Sequence[str]) -> list[Found]: ...
    def container(self) -> str:
        """Why this is believed to be a container; empty: it is not."""

    def limits(self) -> tuple[int, int, int]:
        """Soft and hard limit of open files, and of connections that wait to be accepted; 0: not known."""

    def connect(self, endpoint: str) -> Tcp: ...
    def resolve(self, host: str) -> Resolved: ...
    def handshake(self, endpoint: str, key: NodeKey | None, gate: bytes | None) -> str:
        """As `peerfabric.nodes.io.handshake.handshake`."""

    def multicast(self, address: str) -> str:
        """What keeps multicast that leaves by this address from coming back; empty: nothing."""

    def announced(self, settings: Settings, secrets: Sequence[Secret], seconds: float) -> Announced: ...
    def session(self, situation: Situation) -> Session:
        """Join the fabric.

        Raises:
            FabricError: That does not work.
        """

    def at_once(self, calls: Iterable[Callable[[], Any]]) -> list[Any]:
        """The results of calls that wait for the network, made beside each other."""


@dataclass
class Situation:
    """What is known so far.

    Args:
        arguments: What the command line says, as arguments of a node.
        path: The configuration file; None: the one that the environment names, if any.
        peer: The node that is asked about, by its name, id, or HOST:PORT; empty: all.
    """

    system: System
    arguments: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    peer: str = ""
    identity: str | None = None

    configuration: Configuration | None = None
    settings: Settings | None = None
    """None: nothing can be made of the configuration."""
    secrets: list[Secret] = field(default_factory=list)
    gates: list[tuple[str, bytes]] = field(default_factory=list)
    """Key id and public key of each secret's gate."""
    key: NodeKey | None = None
    found: list[Found] = field(default_factory=list)
    """Addresses of this host."""
    multicast: bool = False
    """Multicast goes out and comes back here."""
    announced: Announced = field(default_factory=Announced)
    endpoints: dict[str, str] = field(default_factory=dict)
    """Numeric TCP endpoints to look at, and who names each."""
    working: dict[str, str] = field(default_factory=dict)
    """Of these: how the handshake with each ended."""
    tcp: dict[str, Tcp] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    """The running processes of this user."""
    places: list[Place] = field(default_factory=list)
    """Their nodes, of all fabrics."""
    session: Session | None = None
    seen: list[Seen] = field(default_factory=list)

    @property
    def own_addresses(self) -> dict[str, str]:
        """Each address of this host, with its interface."""
        return {each.address: each.interface for each in self.found}

    @property
    def joins(self) -> Settings | None:
        """The settings, if a node could start with them: without its secret it would be of another fabric."""
        settings = self.settings
        return settings if settings is not None and len(self.secrets) == len(settings.secrets) else None

    @property
    def asks_by_name(self) -> bool:
        """Whether one node is asked about, by its name or its id."""
        return bool(self.peer) and not (":" in self.peer and port_of(self.peer))

    def fails(self, endpoint: str) -> bool:
        """Whether an endpoint was tried from here, and did not let this node in."""
        return endpoint in self.tcp and self.working.get(endpoint) != ""


Check = Callable[[Situation], Iterator[Finding]]


def split(text: str) -> tuple[str, str]:
    """An error's text, which ends with what to do, as problem and step."""
    problem, _, step = text.rpartition("; ")
    return (problem, step) if problem else (step, "")


def host_of(endpoint: str) -> str:
    """The host in a TCP endpoint, without brackets."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def port_of(endpoint: str) -> int:
    """The port in a TCP endpoint; 0: it has none."""
    text = endpoint.rpartition(":")[2]
    return int(text) if text.isdecimal() else 0


def endpoint_of(address: str, port: int) -> str:
    """The TCP endpoint of a numeric address."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"
