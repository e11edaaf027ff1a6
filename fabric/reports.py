"""Reports of a node about itself: frozen snapshots of counters and depths."""

from __future__ import annotations

from typing import Any

import msgspec


class QueueAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The messages of one producer: accepted + recovered + retried = acked + in flight + waiting + on disk only
    + dead-lettered + dropped + damaged + left at close.

    `recovered` were found in the spool at the start; `damaged` of them, or of what was read back later, were not as
    they had been written. `redelivered` counts second deliveries, whatever came of them.
    """

    queue: str
    accepted: int = 0
    recovered: int = 0
    retried: int = 0
    acked: int = 0
    in_flight: int = 0
    waiting: int = 0
    on_disk: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    damaged: int = 0
    left_at_close: int = 0
    redelivered: int = 0

    @property
    def closes(self) -> bool:
        """Whether every message is accounted for; False would be a bug of ours."""
        settled = self.acked + self.dead_lettered + self.dropped + self.damaged
        unsettled = self.in_flight + self.waiting + self.on_disk + self.left_at_close
        return self.accepted + self.recovered + self.retried == settled + unsettled


class ConsumerAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The messages that came to one consumer: received = processed + given back + buffered + started."""

    queue: str
    received: int = 0
    processed: int = 0
    nacked: int = 0
    returned: int = 0
    refused: int = 0
    duplicates: int = 0
    buffered: int = 0
    started: int = 0
    window: int = 0


class PublisherAccount(msgspec.Struct, frozen=True, kw_only=True):
    topic: str
    published: int = 0
    subscribers: int = 0


class SubscriberAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The updates of one subscription; `missed` counts those known to exist that never came or were dropped."""

    pattern: str
    received: int = 0
    missed: int = 0
    late: int = 0
    buffered: int = 0


class PeerView(msgspec.Struct, frozen=True, kw_only=True):
    """One peer as seen from here.

    state   "connecting", "up", "one-way" (we hear it, it does not hear us), "suspect" (silent), "hung" (its inbox
            accepts, and it does not answer), "idle" (known, nothing in common)
    reason  why there is no link, if that is known: "secret", "denied", "mechanism", "one-way" or "not-me"
    """

    node_id: str
    name: str
    state: str
    endpoint: str = ""
    consumes: tuple[str, ...] = ()
    produces: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    reason: str = ""


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """A slot of the spool's folder whose process is gone, and which this node runs in its place, as another node.

    name     of the node that had it
    since    when it was adopted, in seconds of Unix time
    """

    slot: int
    node_id: str
    name: str
    since: float
    producers: tuple[QueueAccount, ...] = ()


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start and depths of this moment, of one node."""

    node_id: str
    name: str
    producers: tuple[QueueAccount, ...] = ()
    consumers: tuple[ConsumerAccount, ...] = ()
    publishers: tuple[PublisherAccount, ...] = ()
    subscribers: tuple[SubscriberAccount, ...] = ()
    peers: int = 0
    counters: dict[str, int] = {}
    adopted: tuple[Adopted, ...] = ()
    """None of their messages are among those of `producers`."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain built-in types, for JSON."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up, kept for a person.

    reason  "attempts", "lease", "rejected", "refused" or "died with it" (its consumers); `error` says more, in words
    deaths  consumers that died with it in hand
    data    the encoded body, as `codec` says
    """

    id: str
    queue: str
    reason: str
    error: str
    attempts: int
    deaths: int
    data: bytes
    codec: int
    sent_ms: int
    headers: dict[str, str] | None = None
    origin: str | None = None

    @property
    def why(self) -> str:
        """The reason in words."""
        return f"{self.reason}: {self.error}" if self.error else self.reason
