"""Events of the sockets of a node: connections, frames and probes, as `Sockets.read` returns them."""

from __future__ import annotations

import msgspec

from peerfabric.link.commands import Outcome


class Connected(msgspec.Struct, frozen=True):
    """The PUSH of `wire` has shaken hands with its peer; frames can be sent."""

    wire: int


class Disconnected(msgspec.Struct, frozen=True):
    """The connection of `wire` ended, and what was in its pipe is gone; ZeroMQ tries again once by itself."""

    wire: int


class Refused(msgspec.Struct, frozen=True):
    """An attempt to connect `wire` failed, or lasted too long. The wire is hung up. `why` is a reason of PeerView."""

    wire: int
    why: str = ""


class Probed(msgspec.Struct, frozen=True):
    """What was found where `probe(wire, …)` asked."""

    wire: int
    outcome: Outcome


class Received(msgspec.Struct, frozen=True):
    """`[header]` or `[header, body]` from the inbox; large bodies are views, which keep their memory alive."""

    frames: list[bytes | memoryview]
    sender: str = ""
    """The node id that its key has proven; empty over ipc, and in the clear."""
    observed: str = ""
    """Of a HELLO over TCP, the numeric address from which it came, where strangers may come from; else empty."""


class Published(msgspec.Struct, frozen=True):
    """`[topic, header]` or `[topic, header, body]` from an outbox that we follow."""

    frames: list[bytes | memoryview]


class Writable(msgspec.Struct, frozen=True):
    """`wire` refused a frame at its high-water mark and would take one now."""

    wire: int


Event = Connected | Disconnected | Refused | Probed | Received | Published | Writable
