"""Options of handles: what a producer, consumer, publisher or subscriber is made with, checked on construction."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Final, Literal, Self

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from peerfabric.arguments import LEASE_MAX, option_count, option_seconds, shown
from peerfabric.errors import ConfigError
from peerfabric.names import check_name, check_pattern
from peerfabric.nodes.settings import Settings
from peerfabric.options import MiB
from peerfabric.wire.body_types import type_name

BUFFER_BYTES: Final = 64 * MiB
UPDATE_BYTES: Final = 16 * MiB
MAX_ATTEMPTS: Final = 5
LEASE: Final = 300.0
LEASE_MIN: Final = 0.001

OnFull = Literal["block", "error", "drop_oldest", "drop_newest", "spool"]
ON_FULL: Final = ("block", "error", "drop_oldest", "drop_newest", "spool")


AckAfter = Literal["outputs", "return"]


class HandleOptions(Struct, frozen=True, kw_only=True):
    """What all handles are made with: a name and a body type.

    Raises:
        ConfigError, BadName: Something in it cannot work.
    """

    kind: ClassVar[str] = ""
    name: str
    body_type: Any

    def __post_init__(self) -> None:
        if isinstance(self.body_type, str) and not isinstance(self.name, str | bytes):
            raise ConfigError(
                f"the name comes before the type; write {self.kind}({self.body_type!r}, {type_name(self.name)})"
            )
        named = "topic" if self.kind == "publisher" else "queue"
        self._put("name", check_pattern(self.name) if self.kind == "subscriber" else check_name(named, self.name))

    def _put(self, field: str, value: object) -> None:
        force_setattr(self, field, value)

    def _put_count(self, field: str, default: str) -> None:
        self._put(field, option_count(field, getattr(self, field), f"it must be positive; the default is {default}"))


class ProducerOptions(HandleOptions, frozen=True, kw_only=True):
    """As of `AsyncNode.producer`."""

    kind = "producer"
    on_full: OnFull = "block"
    buffer_bytes: int = BUFFER_BYTES
    max_attempts: int = MAX_ATTEMPTS
    spool: bool | None = None
    fsync: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, value in (("spool", self.spool), ("fsync", self.fsync)):
            if value not in (None, True, False):
                raise ConfigError(
                    f"{field}={value!r} of a producer is None, True or False; paths are given as Node(spool=PATH)"
                )
        if self.on_full not in ON_FULL:
            raise ConfigError(
                f"on_full={self.on_full!r}; use 'block', 'error', 'drop_oldest', 'drop_newest' or 'spool'"
            )
        self._put_count("buffer_bytes", "64 MiB")
        self._put_count("max_attempts", "5")

    def in_node(self, settings: Settings) -> Self:
        """The same with `spool` and `fsync` as they are in a node of these settings.

        Raises:
            ConfigError: The node's spool cannot do what is asked for.
        """
        spooled = settings.spool is not None if self.spool is None else self.spool
        synced = spooled and (settings.fsync if self.fsync is None else self.fsync)
        if spooled and settings.spool is None:
            raise ConfigError("spool=True needs the node's spool; give Node(spool=PATH)")
        if self.fsync and not spooled:
            raise ConfigError("fsync=True needs a spool to sync; give Node(spool=PATH)")
        if synced and not settings.fsync:
            raise ConfigError("fsync=True of a producer needs a spool that syncs; give Node(spool=PATH, fsync=True)")
        if spooled and settings.fsync and not synced:
            raise ConfigError("a spool syncs for all its producers or for none; give this one a node of its own")
        if self.on_full == "spool" and not spooled:
            raise ConfigError("on_full='spool' needs a spool; give Node(spool=PATH)")
        if spooled and self.on_full.startswith("drop"):
            raise ConfigError(
                f"on_full={self.on_full!r} drops what a spool shall keep; use 'block' or 'error', or spool=False"
            )
        return replace(self, spool=spooled, fsync=synced)


class ConsumerOptions(HandleOptions, frozen=True, kw_only=True):
    """As of `AsyncNode.consumer`; `ledger` becomes an absolute path."""

    kind = "consumer"
    lease: float = LEASE
    ledger: str | os.PathLike[str] | None = None
    fsync: bool | None = None
    ack_after: AckAfter = "outputs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ack_after not in ("outputs", "return"):
            raise ConfigError(
                f"ack_after={shown(self.ack_after)}; use 'outputs', to ack when what was sent because of a message is "
                f"safe, or 'return', to ack without waiting for that"
            )
        step = "give a positive number of seconds; the default is 300"
        self._put("lease", option_seconds("lease", self.lease, step, least=LEASE_MIN, most=LEASE_MAX))
        ledger = self.ledger
        if ledger is not None:
            if not (isinstance(ledger, str | os.PathLike) and os.fspath(ledger)):
                raise ConfigError(f"ledger={ledger!r} is no file; give a path, or None for no ledger")
            self._put("ledger", os.path.abspath(ledger))
        elif self.fsync:
            raise ConfigError("fsync=True needs a ledger to sync; give ledger=PATH, a file of this consumer alone")

    def in_node(self, settings: Settings) -> Self:
        """The same with `fsync` as it is in a node of these settings."""
        synced = settings.fsync if self.fsync is None else self.fsync
        return replace(self, fsync=self.ledger is not None and synced)


class PublisherOptions(HandleOptions, frozen=True, kw_only=True):
    """As of `AsyncNode.publisher`."""

    kind = "publisher"


class SubscriberOptions(HandleOptions, frozen=True, kw_only=True):
    """As of `AsyncNode.subscriber`."""

    kind = "subscriber"
    buffer_bytes: int = UPDATE_BYTES

    def __post_init__(self) -> None:
        super().__post_init__()
        self._put_count("buffer_bytes", "16 MiB")
