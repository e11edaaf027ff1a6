"""What a node tells about itself: its peers, its counters, its dead letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from peerfabric.errors import ConfigError
from peerfabric.names import check_name
from peerfabric.nodes.life import Life
from peerfabric.nodes.message import DeadMessage
from peerfabric.reports import DeadLetter, PeerView, QueueAccount, Statistics
from peerfabric.wire.codec import Codec

if TYPE_CHECKING:
    from peerfabric.nodes.aio.producer import AsyncProducer
    from peerfabric.nodes.context import NodeContext

_ANYTHING: Final[Codec[Any]] = Codec(Any, 2**31)
"""For letters of an earlier life whose type nobody has named in this one."""


def peers(node: NodeContext) -> list[PeerView]:
    """Every node that this one knows of; this starts it, unless that takes a thread."""
    if node.life is Life.NEW and node.starting.needs_thread():
        return []
    node.ensure(closing=True)
    with node.pump.lock:
        return node.engine.view()


def statistics(node: NodeContext) -> Statistics:
    """Counters and depths; of a closed node, its last ones. This starts it, unless that takes a thread."""
    if node.life is Life.NEW and node.starting.needs_thread():
        return Statistics(node_id="", name=node.settings.name)
    if node.life is not Life.CLOSED or node.engine is None:
        node.ensure(closing=True)
    with node.pump.lock:
        return node.closing.statistics or snapshot(node)


def snapshot(node: NodeContext) -> Statistics:
    """Counters and depths of this moment. The caller holds the engine's lock."""
    found = node.engine.statistics()
    opened = {p.queue: p for p in list(node.handles.producers.values()) if p.opened}
    ends = node.engine.producers.by_queue
    accounts = tuple(
        with_handed_over(account, ends[account.queue].next, *opened[account.queue].so_far())
        if account.queue in opened
        else account
        for account in found.producers
    )
    counters = {**found.counters, "foreign messages": node.pump.foreign} if node.pump.foreign else found.counters
    return replace(found, producers=accounts, counters=counters)


def with_handed_over(account: QueueAccount, following: int, last: int, letters: int) -> QueueAccount:
    """Count also what is on its way to the engine, which knows of those below `following`: up to number `last`, with
    `letters` retried in all."""
    behind = last + 1 - following
    if behind <= 0:
        return account
    retried = min(behind, max(0, letters - account.retried))
    return replace(
        account,
        accepted=account.accepted + behind - retried,
        retried=account.retried + retried,
        waiting=account.waiting + behind,
    )


def dead_letters(node: NodeContext, queue: str) -> list[DeadMessage[Any]]:
    """The messages of `queue` that a running node has given up, oldest first."""
    producer = node.handles.producers.get(check_name("queue", queue))
    with node.pump.lock:
        end = node.engine.producers.by_queue.get(queue)
        letters = end.letters() if end is not None else []
    return [_dead(node, producer, letter) for letter in letters]


def _dead(node: NodeContext, producer: AsyncProducer[Any] | None, letter: DeadLetter) -> DeadMessage[Any]:
    codec = producer.codec if producer is not None else _ANYTHING

    def with_producer(call: Callable[[AsyncProducer[Any]], bool]) -> bool:
        node.ensure(closing=True)
        found = node.handles.producers.get(letter.queue)
        if found is None:
            raise ConfigError(f"this letter is of an earlier life; make node.producer({letter.queue!r}, TYPE) first")
        return call(found)

    return DeadMessage(
        id=letter.id,
        queue=letter.queue,
        reason=letter.reason,
        error=letter.error,
        attempts=letter.attempts,
        headers=letter.headers or {},
        sent_at=letter.sent_ms / 1000,
        decode=lambda: codec.decode_stored(letter.data, letter.codec),
        retry=lambda: with_producer(lambda found: found.retry_letter(letter.id)),
        drop=lambda: with_producer(lambda found: found.drop_letter(letter.id)),
    )
