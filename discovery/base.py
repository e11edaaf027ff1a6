"""Discovery backend: the interface, with what it announces and reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, NamedTuple, Protocol, TypeAlias

import msgspec

ENDPOINT_BYTES_MAX: Final = 255
"""The longest endpoint. A host name has at most 253 bytes in DNS, an ipc path at most 107 in Linux."""

ENDPOINTS_MAX: Final = 16
"""Endpoints of one socket: one for each network interface of a well connected machine, and ipc."""

NodeId: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"\A[A-Za-z0-9_-]+\Z")]
"""Letters, digits, '_' and '-' only: the id is part of file names and of mDNS records."""

Label: TypeAlias = Annotated[str, msgspec.Meta(max_length=255)]
Endpoint: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=ENDPOINT_BYTES_MAX)]
Endpoints: TypeAlias = Annotated[tuple[Endpoint, ...], msgspec.Meta(max_length=ENDPOINTS_MAX)]


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says about itself. The lengths are checked when it is decoded, not when it is made."""

    node_id: NodeId

    epoch: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    """The life of the node. Epochs order by `epoch >> 20`, the counter; the bits below it are random."""

    name: Label
    """A label for people; it need not be unique."""

    fabric: Label

    host: Annotated[str, msgspec.Meta(max_length=64)]
    """The `host_id()` of the node: which endpoints can be reached from here depends on it."""

    inbox: Endpoints
    outbox: Endpoints

    outbox_key: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    """CURVE key of the outbox; empty in the clear."""

    version: Annotated[int, msgspec.Meta(ge=0, lt=2**53)] = 0
    """Grows with each change in one epoch: of two announcements of a life the larger counts."""

    digest: Annotated[bytes, msgspec.Meta(max_length=2048)] | None = None
    """Of what it uses, see `peerfabric.link.digest`; None: it may match anything."""

    passes_on: bool = False
    """It knows nodes that others may not find by themselves, and passes on news of them."""


class Candidate(msgspec.Struct, frozen=True):
    """The inbox of somebody whose node id is not known yet; a hello there will tell."""

    endpoint: str


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """`source`, a backend's name, says that somebody is there. It is a hint: links decide who is alive."""

    seen: Announcement | Candidate
    source: str


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """`source` no longer sees the node, in any of its lives."""

    node_id: str
    source: str


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True):
    """`source` no longer proposes the candidate: its name leads elsewhere now, for one."""

    endpoint: str
    source: str


Event: TypeAlias = Sighting | Lost | Withdrawn
Report: TypeAlias = Callable[[Event], None]


class Linked(NamedTuple):
    """A peer whose link is up: the endpoint that its hello has confirmed, and those that it says it listens at."""

    endpoint: str
    inbox: tuple[str, ...]


class AnnounceKey(NamedTuple):
    """Proves announcements to those who know the same secret."""

    key_id: str
    """Public: 8 hexadecimal characters."""
    key: bytes

    def __repr__(self) -> str:
        return f"<announce key {self.key_id}>"


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the factory of a backend from another package is told; see `peerfabric.discovery.packages`."""

    fabric: str
    reach: str
    """"host" or "lan": who else there may be."""

    key_ids: tuple[str, ...]
    """Public ids of the fabric's secrets, the preferred one first; none in the clear. Nodes without a common one cannot
    talk to each other."""


class Backend(Protocol):
    """One way for nodes to find each other.

    What the environment refuses (no multicast, a full disk) is one warning of the logger `peerfabric` and never an
    error: a node that finds nobody in this way may still be found in another.
    """

    @property
    def name(self) -> str:
        """The word under which users choose it, and the `source` of its reports."""
        ...

    def announce(self, announcement: Announcement) -> None:
        """Make the node known, or replace what was announced before. Returns without waiting for the network."""
        ...

    def watch(self, report: Report) -> None:
        """Report everybody who is there and, from now on, every change. Endpoints are numeric: no names of hosts.

        `report` is called from any thread, one call at a time, and should return soon. Called once at most.
        """
        ...

    def close(self) -> None:
        """Withdraw the announcement and stop. Afterwards nothing is reported and no thread is left.

        Takes a few seconds at most; calling it again does nothing.
        """
        ...
