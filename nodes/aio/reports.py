"""Reports of a node: its statistics and its dead letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from peerfabric.errors import ConfigError
from peerfabric.names import check_name
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.nodes.context import NodeContext
from peerfabric.nodes.io.waiting import Blocking, complete, refuse_to_wait, wait_until
from peerfabric.nodes.message import DeadMessage
from peerfabric.nodes.storage.offload import beside
from peerfabric.reports import DeadLetter, QueueAccount, ServiceView, SpoolAccount, Statistics
from peerfabric.wire.bodies import Codec

if TYPE_CHECKING:
    from peerfabric.nodes.storage.adoption import Adoption

_ANYTHING: Final[Codec[Any]] = Codec(Any, 2**31)
"""For letters of an earlier life whose type nobody has named in this one."""


def snapshot(node: NodeContext, producers: Mapping[str, AsyncProducer[Any]]) -> Statistics:
    """Counters and depths of this moment. The caller holds the engine's lock."""
    found = node.engine.statistics()
    opened = {p.queue: p for p in list(producers.values()) if p.opened}
    ends = node.engine.producers.by_queue
    accounts = tuple(
        with_handed_over(account, ends[account.queue].next, *opened[account.queue].so_far())
        if account.queue in opened
        else account
        for account in found.producers
    )
    counters = {**found.counters, **node.pump.counters}
    return replace(found, producers=accounts, counters=counters, spool=_spool(node))


def _spool(node: NodeContext) -> SpoolAccount | None:
    if node.disk is None or node.slot is None:
        return None
    letters = sum(len(end.letters()) for end in node.engine.producers.by_queue.values() if end.backlog is not None)
    used = node.disk.spool.used_bytes
    return SpoolAccount(folder=str(node.settings.spool), slot=node.slot, used_bytes=used, letters=letters)


def with_others(found: Statistics, adoptions: list[Adoption]) -> Statistics:
    """Add what there is of slots that are not the node's own."""
    if not adoptions:
        return found
    adopted = tuple(each for adoption in adoptions for each in adoption.reports())
    parked = sum(adoption.parked for adoption in adoptions)
    spool = replace(found.spool, parked=parked) if found.spool is not None else None
    return replace(found, adopted=adopted, spool=spool)


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


def services(node: NodeContext) -> list[ServiceView]:
    """Those that somebody serves. The caller holds the engine's lock."""
    caller = node.engine.caller
    found = []
    for name in sorted(caller.directory.names()):
        servers = tuple(caller.directory.servers(name))
        capacity = sum(server.capacity for server in servers)
        found.append(
            ServiceView(name=name, servers=servers, capacity=capacity, load=sum(server.load for server in servers))
        )
    return found


def dead_letters(node: NodeContext, producers: Mapping[str, AsyncProducer[Any]], queue: str) -> list[DeadMessage[Any]]:
    """The messages of `queue` that a running node has given up, oldest first."""
    queue = check_name("queue", queue)
    with node.pump.lock:
        end = node.engine.producers.by_queue.get(queue)
        letters = end.letters() if end is not None else []
    return [_of_this_node(node, producers, letter) for letter in letters]


async def dead_letters_elsewhere(
    node: NodeContext, producers: Mapping[str, AsyncProducer[Any]], queue: str, adoption: Adoption
) -> list[DeadMessage[Any]]:
    """The messages of `queue` that were given up in other slots, which `adoption` looks after.

    Raises:
        SpoolError: They cannot be read.
    """

    from peerfabric.nodes.storage.adoption import Request  # with what only nodes with a spool need

    def settle(number: int, letter: DeadLetter, *, retry: bool) -> bool:
        node.ensure(closing=True)
        refuse_to_wait(node.waiting)
        request = Request(number, letter, retry=retry)
        adoption.ask(request)
        if isinstance(node.waiting, Blocking):  # an event loop must not wait for the disk, and nobody can await this
            what = f"waiting for slot {number} of the spool"
            complete(wait_until(node.waiting, request.gate, lambda: request.is_over or None, None, lambda: what))
        if request.error is not None:
            raise request.error
        return request.done or not request.is_over

    found = await beside(node.waiting, partial(adoption.letters, queue), None, f"{node.settings.name}-letters")
    return [
        _dead(
            producers,
            letter,
            number,
            partial(settle, number, letter, retry=True),
            partial(settle, number, letter, retry=False),
        )
        for number, letter in found
    ]


def _of_this_node(
    node: NodeContext, producers: Mapping[str, AsyncProducer[Any]], letter: DeadLetter
) -> DeadMessage[Any]:
    def with_producer(call: Callable[[AsyncProducer[Any]], bool]) -> bool:
        node.ensure(closing=True)
        found = producers.get(letter.queue)
        if found is None:
            raise ConfigError(f"this letter is of an earlier life; make node.producer({letter.queue!r}, TYPE) first")
        return call(found)

    return _dead(
        producers,
        letter,
        node.slot,
        lambda: with_producer(lambda found: found.retry_letter(letter.id)),
        lambda: with_producer(lambda found: found.drop_letter(letter.id)),
    )


def _dead(
    producers: Mapping[str, AsyncProducer[Any]],
    letter: DeadLetter,
    slot: int | None,
    retry: Callable[[], bool],
    drop: Callable[[], bool],
) -> DeadMessage[Any]:
    producer = producers.get(letter.queue)
    codec = producer.codec if producer is not None else _ANYTHING
    return DeadMessage(
        id=letter.id,
        queue=letter.queue,
        slot=slot,
        reason=letter.reason,
        error=letter.error,
        attempts=letter.attempts,
        headers=letter.headers or {},
        sent_at=letter.sent_ms / 1000,
        decode=lambda: codec.decode_stored(letter.data, letter.codec),
        retry=retry,
        drop=drop,
    )
