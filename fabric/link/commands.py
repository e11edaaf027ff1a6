"""Commands to the sockets of a node, and the outcomes of probes."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Dial(NamedTuple):
    """Connect a private PUSH to `endpoint`, replacing what `wire` was."""

    wire: int
    endpoint: str
    gate: str = ""
    """Id of the key under which the peer is expected to let us in; empty in the clear."""


class HangUp(NamedTuple):
    wire: int


class Probe(NamedTuple):
    """Find out whether a life of a node still listens at `endpoint`; the answer comes as `probed(wire, outcome)`."""

    wire: int
    endpoint: str
    node_id: str
    epoch: int


class Follow(NamedTuple):
    """Connect the SUB socket to a publisher's outbox, which has this key; empty in the clear."""

    endpoint: str
    key: bytes = b""


class Unfollow(NamedTuple):
    endpoint: str


class Subscribe(NamedTuple):
    prefix: bytes


class Unsubscribe(NamedTuple):
    prefix: bytes


Command = Dial | HangUp | Probe | Follow | Unfollow | Subscribe | Unsubscribe


class Outcome(Enum):
    """What a probe of an inbox found."""

    REFUSED = "refused"
    ACCEPTED = "accepted"
    SILENT = "silent"
