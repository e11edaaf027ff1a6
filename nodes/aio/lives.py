"""Lives of a node: one is broken off as by a kill, or another one begun, for tests of what uses nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from peerfabric.nodes import process, unstarted
from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.aio.handles import Handles
from peerfabric.nodes.aio.lifecycle import Lifecycle
from peerfabric.nodes.aio.node import AsyncNode
from peerfabric.nodes.aio.options import ConsumerOptions, ProducerOptions
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.nodes.aio.topic import AsyncPublisher, AsyncSubscriber
from peerfabric.nodes.context import Life
from peerfabric.nodes.settings import Settings

_declared: WeakKeyDictionary[AsyncNode, list[Any]] = WeakKeyDictionary()
"""The consumers and subscribers that a node had when it was first renewed: those of its modules, as a rule."""


def break_off(lifecycle: Lifecycle) -> bool:
    """End a life as with a process that is killed; whether it was there.

    Nothing more is sent, settled or stored, no goodbye is said, and what nobody else has is lost. Calls that wait raise
    `NodeClosed`. What handlers decide that still run reaches nobody; tasks are not cancelled here.
    """
    node = lifecycle.node
    with node.life_lock:
        if node.life not in (Life.RUNNING, Life.CLOSING):
            return False
        node.enter(Life.CLOSED)
    node.pump.break_off()
    for handle in lifecycle.handles:
        handle.stop()
    if node.disk is not None:
        node.disk.break_off()
    lifecycle._end_calls(handlers=True)
    node.closed.open()
    lifecycle._wake()
    for adoption in lifecycle._adoptions:
        adoption.leave()
    if lifecycle._membership is not None:
        lifecycle._membership.leave()
    lifecycle._end_adoptions()
    for consumer in list(lifecycle.handles.consumers.values()):
        consumer.close_ledger()
    for producer in list(lifecycle.handles.producers.values()):
        producer.disk_ended()
    node.ending.stop()
    process.forget(lifecycle)
    return True


def renew(node: AsyncNode, fronts: Mapping[Any, Any]) -> None:
    """Give a node that does not run another life: settings as arguments and variables say now, not started.

    Handles, handlers and clients of services work in it as they did in the one before. Of consumers and subscribers
    that is true of those that were there when the node was first renewed, and of those that a program with a blocking
    front still holds, which `fronts` has by their handles; one that nobody reads would keep messages from others.
    """
    old = node._lifecycle
    assert old.node.life in (Life.NEW, Life.CLOSED), "it runs, or belongs to another process"
    taken = {id(handler.handle) for handler in old.handlers}
    takers: list[Any] = [*old.handles.consumers.values(), *old.handles.subscribers.values()]
    takers = [taker for taker in takers if id(taker) not in taken]
    kept = _declared.setdefault(node, takers)
    takers = [taker for taker in takers if taker in kept or taker in fronts]
    AsyncNode.__init__(node, **node._arguments)  # type: ignore[arg-type]
    new, was = node._lifecycle, old.node.settings
    for producer in old.handles.producers.values():
        _renew_producer(producer, new, was)
    for publisher in old.handles.publishers.values():
        AsyncPublisher.__init__(publisher, new.node, publisher.options, new.handles.publisher)
        new.handles.publishers[publisher.topic] = publisher
    for taker in takers:
        _renew_taker(taker, new, was)
    if old.calls is not None:
        type(old.calls).__init__(old.calls, new.node)
        new.calls = old.calls
    _renew_handlers(old, new)
    for handle, front in list(fronts.items()):
        type(front).__init__(front, handle)


def _renew_producer(producer: AsyncProducer[Any], new: Lifecycle, was: Settings) -> None:
    given = producer.options
    asked: ProducerOptions = replace(
        given,
        spool=None if given.spool == (was.spool is not None) else given.spool,
        fsync=None if given.fsync == (given.spool and was.fsync) else given.fsync,
    )
    handles = new.handles
    AsyncProducer.__init__(producer, new.node, asked.in_node(new.node.settings), handles.open_late, handles.leave)
    handles.producers[producer.queue] = producer


def _renew_taker(taker: AsyncConsumer[Any] | AsyncSubscriber[Any], new: Lifecycle, was: Settings) -> None:
    handles: Handles = new.handles
    if isinstance(taker, AsyncSubscriber):
        AsyncSubscriber.__init__(taker, new.node, taker.options, handles.forget_subscriber)
        handles.subscribers[taker.pattern] = taker
        return
    given = taker.options
    synced = given.ledger is not None and was.fsync
    asked: ConsumerOptions = replace(given, fsync=None if given.fsync == synced else given.fsync)
    options = asked.in_node(new.node.settings)
    AsyncConsumer.__init__(taker, new.node, options, handles.open_late, handles._ledger_store)
    handles.consumers[taker.queue] = taker


def _renew_handlers(old: Lifecycle, new: Lifecycle) -> None:
    unstarted.forget(old.handlers)
    for handler in old.handlers:
        renewed = handler.renewed(new.node)
        with new.node.life_lock:
            new.handlers.add_locked(renewed)
