"""Options of a node: limits and periods with their units, defaults and reasons."""

from __future__ import annotations

from math import inf
from typing import Final

import msgspec
from msgspec.structs import force_setattr

from peerfabric.arguments import LEASE_MAX, option_count, option_seconds
from peerfabric.errors import ConfigError

KiB: Final = 1024
MiB: Final = 1024 * 1024


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and periods of one node. The defaults fit services on one machine or one LAN.

    Args:
        message_bytes_max: The largest body, in bytes (16 MiB). Above it, sending a reference is cheaper for everybody.
        peers_max: Links this node talks to (2,048). Each costs three ZeroMQ sockets and some 52 KiB; further ones are
            refused.
        consumer_bytes: Memory for messages received and not yet processed, over all links of one consumer, in bytes
            (64 MiB).
        work_horizon: Seconds of work that a consumer keeps in hand (0.1). More hides latency, less spreads slow jobs
            better.
        spool_bytes: How much the spool of one process may take of its disk, in bytes; None: all that is there.
        spool_slots: Processes that may share the spool's folder, each with a slot of its own (64). 1: one process at a
            time, and a second one is refused.
        spool_adopt: Slots of processes that ended with messages left whose sending this one goes on with, at a time; 0
            to 16. None: 4, or 0 with one slot.
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
    spool_slots: int = 64
    spool_adopt: int | None = None
    drain_timeout: float = 5.0

    def __post_init__(self) -> None:
        step = "it must be between 1 byte and 1 GiB; the default is 16 MiB"
        self._count("message_bytes_max", step, most=1024 * MiB)
        self._count("peers_max", "it must be between 1 and 100,000; the default is 2,048", most=100_000)
        self._count("consumer_bytes", "it must be positive; the default is 64 MiB")
        if self.spool_bytes is not None:
            self._count("spool_bytes", "it must be at least 1 MiB, or None for no limit", least=MiB)
        self._count("spool_slots", "it must be between 1 and 256; the default is 64", most=256)
        if self.spool_adopt is not None:
            self._count("spool_adopt", "it must be between 0 and 16, or None for 4", least=0, most=16)
            if self.spool_slots == 1 and self.spool_adopt:
                raise ConfigError(
                    f"spool_adopt={self.spool_adopt}: it must be 0 with spool_slots=1, whose folder has one slot; "
                    f"leave it out"
                )
        self._seconds("work_horizon", "it must be between 1 ms and 60 s; the default is 0.1", least=0.001, most=60)
        self._seconds("drain_timeout", "it must be between 0 and 2^31; the default is 5.0", most=LEASE_MAX)

    @property
    def adopted_max(self) -> int:
        """What `spool_adopt` comes to."""
        if self.spool_adopt is not None:
            return self.spool_adopt
        return 4 if self.spool_slots > 1 else 0

    def _count(self, name: str, step: str, *, least: int = 1, most: float = inf) -> None:
        force_setattr(self, name, option_count(name, getattr(self, name), step, least=least, most=most))

    def _seconds(self, name: str, step: str, *, least: float = 0.0, most: float = inf) -> None:
        force_setattr(self, name, option_seconds(name, getattr(self, name), step, least=least, most=most))
