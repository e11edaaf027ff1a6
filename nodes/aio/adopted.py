"""Adopted node: runs, in this process, the slot of a node that ended; see `nodes/storage/adoption.py`.

It is made of the same parts as any node and has no front: nobody sends or consumes with it, and it looks for nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from peerfabric.discovery.log import log as _log
from peerfabric.errors import EndpointInUse, IdentityInUse, Undelivered
from peerfabric.health import Finding
from peerfabric.nodes.aio.handles import Handles
from peerfabric.nodes.aio.options import ProducerOptions
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.io.waiting import clock, complete
from peerfabric.nodes.settings import Settings
from peerfabric.nodes.storage.adoption import Adoption, Progress
from peerfabric.nodes.storage.shared import SharedSpool
from peerfabric.reports import Adopted, DeadLetter
from peerfabric.spool import Spool
from peerfabric.spool.orphans import Orphans
from peerfabric.spool.slots import SlotSight
from peerfabric.wire.frames import Address

Parts = tuple[NodeContext, Handles, Callable[[float], Coroutine[Any, Any, None]]]
"""The context and the handles of a node, and what ends it."""
Make = Callable[[tuple[int, Spool], Settings], Parts]


class AdoptedNode:
    """One adopted node, as `adoption.AdoptedNode`.

    Args:
        number: Of its slot.
        make: Gives a new node in a slot, given by number and spool, with these settings.
        settings: Of its host, with the folder of the slot as `spool`.
        name: Of the node that had the slot; empty: nobody knows.
    """

    def __init__(
        self,
        number: int,
        make: Make,
        settings: Settings,
        name: str,
    ) -> None:
        self._number, self._make, self._settings = number, make, settings
        self._name = name or settings.name
        self._since = 0.0
        self._told: dict[str, Address] = {}
        """The consumers that it was told of."""
        self.node_id = ""
        self.queues: Sequence[str] = ()
        self._node: NodeContext
        self._handles: Handles
        self._end: Callable[[float], Coroutine[Any, Any, None]]

    def start(self) -> bool:
        try:
            if not self._start(near=False):
                return False
        except EndpointInUse:
            # No port is left of those that others can reach; those of this machine need none.
            text = (
                "%s: no port is free for slot %d, so only this host gets what is in it; give listen= a range of ports"
            )
            _log.warning(text, self._settings.name, self._number)
            if not self._start(near=True):
                return False
        engine = self._node.engine
        self.node_id, self.queues, self._since = engine.address.node_id, tuple(engine.producers.by_queue), time.time()
        return True

    def _start(self, *, near: bool) -> bool:
        settings = adopted_settings(self._settings, self._name, near=near)
        spool = SharedSpool(settings).adopt(self._number, self._name)
        if spool is None:
            return False
        self._node, self._handles, self._end = self._make((self._number, spool), settings)
        self._node.start()
        return True

    def progress(self) -> Progress:
        node = self._node
        with node.pump.lock:
            ends = list(node.engine.producers.by_queue.values())
            return Progress(
                sum(end.unsettled_count for end in ends),
                sum(end.settled.numbers.total for end in ends),
                any(end.consumers for end in ends if end.unsettled_count),
                node.life is not Life.RUNNING,
            )

    def offer(self, consumers: Mapping[str, Address]) -> None:
        told, engine, now = self._told, self._node.engine, clock()
        news = [address for node_id, address in consumers.items() if told.get(node_id) != address]
        lost = told.keys() - consumers.keys()
        if not news and not lost:
            return
        with self._node.pump.lock:
            for address in news:
                engine.handle_discovered(address, now)
            for node_id in lost:
                engine.handle_lost(node_id, now)
        self._node.pump.wake()
        self._told = dict(consumers)

    def letters(self, queue: str) -> list[DeadLetter]:
        with self._node.pump.lock:
            end = self._node.engine.producers.by_queue.get(queue)
            return list(end.letters()) if end is not None else []

    def retry(self, letter: DeadLetter) -> bool:
        return self._producer(letter.queue).retry_letter(letter.id)

    def drop(self, letter: DeadLetter) -> bool:
        return self._producer(letter.queue).drop_letter(letter.id)

    def _producer(self, queue: str) -> AsyncProducer[Any]:
        with self._node.pump.lock:
            attempts = self._node.engine.producers.by_queue[queue].max_attempts
        return self._handles.producer(ProducerOptions(name=queue, body_type=Any, max_attempts=attempts))

    def report(self) -> Adopted:
        with self._node.pump.lock:
            producers = self._node.engine.statistics().producers
        return Adopted(slot=self._number, node_id=self.node_id, name=self._name, since=self._since, producers=producers)

    def say_bye(self) -> None:
        node = self._node
        with node.pump.lock:
            node.engine.drain(clock())
            node.engine.say_bye(clock())
        node.pump.wake()

    def end(self, timeout: float) -> int:
        try:
            complete(self._end(timeout))
        except (IdentityInUse, Undelivered) as error:  # it is closed all the same
            _log.error("slot %d of %s: %s", self._number, self._settings.spool, error)
        return sum(account.left_at_close for account in self.report().producers)


def adoption_of(
    node: NodeContext,
    folder: str,
    limit: int,
    make: Make,
    serves_after: float | None,
) -> Adoption:
    """The adoption of orphans of `folder` by a node that runs.

    Args:
        make: As of `AdoptedNode`.
        serves_after: The node is there for nothing else, and orphans are free for so many seconds before; None: it is
            not.
    """
    settings = replace(node.settings, spool=folder)
    shared = SharedSpool(settings)

    def consumers_of(queue: str) -> list[Address]:
        with node.pump.lock:
            return node.engine.consumers_of(queue)

    told: tuple[Finding, ...] = ()

    def tell(found: tuple[Finding, ...]) -> None:
        nonlocal told
        with node.pump.lock:  # a node that only serves has an adoption for each of several folders
            others = [finding for finding in node.engine.stranded if finding not in told]
            node.engine.stranded, told = (*others, *found), found

    def adopted(sight: SlotSight) -> AdoptedNode:
        name = sight.sheet.name if sight.sheet is not None else ""
        return AdoptedNode(sight.number, make, settings, name)

    serves = serves_after is not None
    orphans = Orphans(shared.fabric, limit, clock(), grace=serves_after, run_before=0.0 if serves else None)
    return Adoption(settings.name, shared.slots, orphans, adopted, consumers_of, tell, serves=serves)


def adopted_settings(settings: Settings, name: str, *, near: bool) -> Settings:
    """The settings of a node that `settings.name` runs in the place of `name`.

    It listens beside its host; where the host has the one port that was given, or `near`, for this machine only.
    """
    listen, reach = settings.listen, settings.reach
    if reach == "lan":
        if near or _is_taken(listen, settings.advertise):
            listen, reach = "auto", "host"
    elif listen.startswith("tcp://") or "mdns" in settings.discovery:
        listen = "tcp://127.0.0.1:*"  # a container may share the network of others and not their files
    else:
        listen = "auto"
    return replace(
        settings,
        name=name,
        listen=listen,
        reach=reach,
        peers=(),
        discovery=(),
        signals=False,
        listen_source="",
        interfaces=settings.interfaces if reach == "lan" else (),
        advertise=settings.advertise if reach == "lan" else (),
    )


def _is_taken(listen: str, advertise: Sequence[str]) -> bool:
    """Whether these name one port, which the host has."""
    from peerfabric.nodes.interfaces import parse_advertised  # with what only nodes of a LAN need
    from peerfabric.nodes.io.ports import parse_listen

    asked = parse_listen(listen)
    return asked.last - asked.first == 1 or any(parse_advertised(text).port is not None for text in advertise)
