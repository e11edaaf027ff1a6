"""Reports of a node about itself: frozen snapshots of counters and depths."""

from __future__ import annotations

from typing import Any

import msgspec


class QueueAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The messages of one producer: accepted + recovered + retried = acked + in flight + waiting + on disk only
    + dead-lettered + expired + dropped + damaged + left at close.

    `recovered` were found in the spool at the start; `damaged` of them, or of what was read back later, were not as
    they had been written. `redelivered` counts second deliveries, whatever came of them. Of those in flight `handed_on`
    have run, and wait until what their handlers sent is safe.
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
    expired: int = 0
    dropped: int = 0
    damaged: int = 0
    left_at_close: int = 0
    redelivered: int = 0
    handed_on: int = 0

    @property
    def closes(self) -> bool:
        """Whether every message is accounted for; False would be a bug of ours."""
        settled = self.acked + self.dead_lettered + self.expired + self.dropped + self.damaged
        unsettled = self.in_flight + self.waiting + self.on_disk + self.left_at_close
        return self.accepted + self.recovered + self.retried == settled + unsettled


class ConsumerAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The messages that came to one consumer: received = processed + given back + buffered + started + handed on.

    Given back are those nacked, returned, refused (they did not fit), or expired (not handed out in time). Handed on
    are those that have run and wait until what their handlers sent is safe.
    """

    queue: str
    received: int = 0
    processed: int = 0
    nacked: int = 0
    returned: int = 0
    refused: int = 0
    expired: int = 0
    duplicates: int = 0
    buffered: int = 0
    started: int = 0
    handed_on: int = 0
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


class ServiceAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of one service of this node: received = refused + dropped + answered + waiting + running + left.

    `refused` did not start; `dropped` were cancelled, or their callers were lost; of these `left` still run.
    """

    service: str
    received: int = 0
    refused: int = 0
    dropped: int = 0
    answered: int = 0
    waiting: int = 0
    running: int = 0
    left: int = 0
    capacity: int = 0


class CallAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The calls of this node: started = open + all that have ended, by what came of them.

    `late` counts answers that nobody waited for any more.
    """

    started: int = 0
    open: int = 0
    late: int = 0
    ended: dict[str, int] = {}


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """One node that serves something, as seen from here: how many calls it runs at once, and has by what it told last.

    `ready`: it may be asked now.
    """

    node_id: str
    name: str
    capacity: int = 0
    load: int = 0
    ready: bool = False


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """One service as seen from here: who serves it, how many calls may run at once there, and how many run and wait."""

    name: str
    servers: tuple[ServerView, ...] = ()
    capacity: int = 0
    load: int = 0


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
    serves: tuple[str, ...] = ()
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


class SpoolAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The spool of one node.

    folder       the shared one, and `slot` the node's own in it
    used_bytes   of all its segments
    letters      dead letters in it
    parked       dead letters in slots that nobody has, when the node last looked
    """

    folder: str
    slot: int
    used_bytes: int = 0
    letters: int = 0
    parked: int = 0


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start and depths of this moment, of one node."""

    node_id: str
    name: str
    producers: tuple[QueueAccount, ...] = ()
    consumers: tuple[ConsumerAccount, ...] = ()
    publishers: tuple[PublisherAccount, ...] = ()
    subscribers: tuple[SubscriberAccount, ...] = ()
    services: tuple[ServiceAccount, ...] = ()
    calls: CallAccount = CallAccount()
    peers: int = 0
    counters: dict[str, int] = {}
    spool: SpoolAccount | None = None
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
