"""Options of a node: limits and periods with their units, defaults and reasons."""

from __future__ import annotations

from typing import Final

import msgspec

from peerfabric.errors import ConfigError

KiB: Final = 1024
MiB: Final = 1024 * 1024


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and periods of one node. The defaults fit services on one machine or one LAN."""

    message_bytes_max: int = 16 * MiB
    """The largest body, in bytes. Above it, sending a reference is cheaper for everybody."""

    peers_max: int = 2048
    """Peers this node talks to. Each costs three ZeroMQ sockets and some 52 KiB; further ones are refused."""

    consumer_bytes: int = 64 * MiB
    """Memory for messages received and not yet processed, over all links of one consumer, in bytes."""

    work_horizon: float = 0.1
    """Seconds of work that a consumer keeps in hand. More hides latency, less spreads slow jobs better."""

    spool_bytes: int | None = None
    """How much the spool may take of its disk, in bytes; None: all that is there."""

    drain_timeout: float = 5.0
    """Seconds that an implicit close (end of `with`, exit) waits for accepted messages to be settled."""

    def __post_init__(self) -> None:
        if not 1 <= self.message_bytes_max <= 1024 * MiB:
            raise ConfigError("message_bytes_max must be between 1 byte and 1 GiB; the default is 16 MiB")
        if not 1 <= self.peers_max <= 100_000:
            raise ConfigError("peers_max must be between 1 and 100,000; the default is 2,048")
        if self.consumer_bytes < 1:
            raise ConfigError("consumer_bytes must be positive; the default is 64 MiB")
        if self.spool_bytes is not None and self.spool_bytes < MiB:
            raise ConfigError("spool_bytes must be at least 1 MiB, or None for no limit")
        if not 0.001 <= self.work_horizon <= 60:
            raise ConfigError("work_horizon must be between 1 ms and 60 s; the default is 0.1")
        if self.drain_timeout < 0:
            raise ConfigError("drain_timeout must not be negative; the default is 5.0")
