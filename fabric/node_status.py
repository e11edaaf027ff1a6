"""Status of one node, as its engine knows it.

The driver holds the engine for each call, so each takes a bounded time, whatever the node has.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from peerfabric.engine import Engine
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.queue_status import sending, taking
from peerfabric.reports import PeerView
from peerfabric.status import NodeStatus, Peer, Publishing, Sending, Subscribing, Taking
from peerfabric.topic.subscriber import IncomingTopic

AT_ONCE: Final = 500
"""Queues that are looked at in one go: some 10 ms."""


class Chosen(NamedTuple):
    """The queues that are shown, the deepest first, and how many of all lists are not."""

    sends: list[str]
    takes: list[str]
    more: int


def choose(engine: Engine, queues: int) -> Chosen:
    """The deepest `queues` queues on each side, of equal ones in the order of their names."""
    sends = [(-end.unsettled_count, queue) for queue, end in engine.producers.by_queue.items()]
    takes = [(-_depth(end), queue) for queue, end in engine.consumers.by_queue.items() if not end.closed]
    topics = (len(engine.topics.publishers), len(engine.topics.subscribers))
    more = sum(max(0, count - queues) for count in (len(sends), len(takes), *topics))
    return Chosen(_first(sends, queues), _first(takes, queues), more)


def _depth(end: IncomingQueue) -> int:
    buffers = (source.buffer for source in end.producers.by_peer.values())
    return sum(delivery.left for part in (end.in_hand, *buffers) for delivery in part)


def _first(depths: list[tuple[int, str]], count: int) -> list[str]:
    return [queue for _, queue in heapq.nsmallest(count, depths)]


def sends_of(engine: Engine, queues: Iterable[str], unix_ms: int) -> list[Sending]:
    """The producer's side of those of `queues`, at most `AT_ONCE`, that are still there."""
    ends, links = engine.producers.by_queue, engine.links.by_peer
    return [sending(ends[queue], links, unix_ms) for queue in queues if queue in ends]


def takes_of(engine: Engine, queues: Iterable[str], now: float) -> list[Taking]:
    """The consumer's side of those of `queues`, at most `AT_ONCE`, that are still there."""
    ends, links = engine.consumers.by_queue, engine.links.by_peer
    return [taking(ends[queue], links, now) for queue in queues if queue in ends]


def overview(engine: Engine, queues: int, now: float) -> NodeStatus:
    """All of a node but its queues; of topics, and of the names that one peer uses, at most `queues`."""
    address, topics = engine.address, engine.topics
    published = [end.account() for end in islice(topics.publishers.values(), queues)]
    trips = {link.node_id: seconds for link, seconds in engine.round_trips.last.items()}
    return NodeStatus(
        node_id=address.node_id,
        name=address.name,
        fabric=engine.links.fabric,
        epoch=address.epoch,
        host=address.host,
        endpoints=(*address.inbox, *address.outbox),
        peers=tuple(_peer(view, trips.get(view.node_id), queues) for view in engine.view()),
        counters=dict(engine.links.counters),
        warnings=engine.health.warnings(now),
        publishes=tuple(
            Publishing(topic=each.topic, published=each.published, subscribers=each.subscribers) for each in published
        ),
        subscribes=tuple(_subscribing(end) for end in islice(topics.subscribers.values(), queues)),
        serves=engine.service_accounts(),
        calls=engine.call_account(),
    )


def _peer(view: PeerView, rtt: float | None, names: int) -> Peer:
    return Peer(
        node_id=view.node_id,
        name=view.name,
        state=view.state,
        reason=view.reason,
        endpoint=view.endpoint,
        rtt=rtt,
        consumes=view.consumes[:names],
        produces=view.produces[:names],
    )


def _subscribing(end: IncomingTopic) -> Subscribing:
    account = end.account()
    return Subscribing(
        pattern=account.pattern,
        received=account.received,
        missed=account.missed,
        late=account.late,
        buffered=account.buffered,
        behind=end.buffered_bytes,
    )
