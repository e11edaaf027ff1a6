"""Options of a node: limits and periods with their units, defaults and reasons."""

from __future__ import annotations

from typing import Final

import msgspec

from peerfabric.errors import ConfigError

KiB: Final = 1024
MiB: Final = 1024 * 1024


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and periods of one node. The defaults fit services on one machine or one LAN.

    Args:
        message_bytes_max: The largest body, in bytes (16 MiB). Above it, sending a reference is cheaper for everybody.
        peers_max: Peers this node talks to (2,048). Each costs three ZeroMQ sockets and some 52 KiB; further ones are
            refused.
        consumer_bytes: Memory for messages received and not yet processed, over all links of one consumer, in bytes
            (64 MiB).
        work_horizon: Seconds of work that a consumer keeps in hand (0.1). More hides latency, less spreads slow jobs
            better.
        spool_bytes: How much the spool may take of its disk, in bytes; None: all that is there.
        drain_timeout: Seconds that an implicit close (end of `with`, exit) waits for accepted messages to be settled
            (5.0).

    Raises:
        ConfigError: One of these cannot be.
    """

    message_bytes_max: int = 16 * MiB
    peers_max: int = 2048
    consumer_bytes: int = 64 * MiB
    work_horizon: float = 0.1
    spool_bytes: int | None = None
    drain_timeout: float = 5.0

    def __post_init__(self) -> None:
        if not (is_whole(self.message_bytes_max) and 1 <= self.message_bytes_max <= 1024 * MiB):
            raise ConfigError("message_bytes_max must be between 1 byte and 1 GiB; the default is 16 MiB")
        if not (is_whole(self.peers_max) and 1 <= self.peers_max <= 100_000):
            raise ConfigError("peers_max must be between 1 and 100,000; the default is 2,048")
        if not (is_whole(self.consumer_bytes) and self.consumer_bytes >= 1):
            raise ConfigError("consumer_bytes must be a positive number of bytes; the default is 64 MiB")
        if self.spool_bytes is not None and not (is_whole(self.spool_bytes) and self.spool_bytes >= MiB):
            raise ConfigError("spool_bytes must be at least 1 MiB, or None for no limit")
        if not (is_number(self.work_horizon) and 0.001 <= self.work_horizon <= 60):
            raise ConfigError("work_horizon must be between 1 ms and 60 s; the default is 0.1")
        if not (is_number(self.drain_timeout) and 0 <= self.drain_timeout < 2**31):
            raise ConfigError("drain_timeout must be between 0 and 2^31 seconds; the default is 5.0")


def is_whole(value: object) -> bool:
    """Whether it counts something. `True` does not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether it measures something."""
    return isinstance(value, int | float) and not isinstance(value, bool)
