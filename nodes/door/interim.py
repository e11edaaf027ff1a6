"""Interim outside of a node, made from its statistics, until it has one of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from peerfabric.nodes.context import NodeContext
from peerfabric.nodes.io.waiting import clock
from peerfabric.status import NodeStatus, Peer, Publishing, Sending, Subscribing, Taking


class Interim:
    """As `Outside`, of a `Lifecycle`; it acts on nothing."""

    def __init__(self, lifecycle: Any) -> None:
        self._node: NodeContext = lifecycle.node
        self._slot = lifecycle._slot
        self.name, self.fabric = self._node.settings.name, self._node.settings.fabric
        self.node_id = self._node.engine.address.node_id
        self.loop = self._node.loop

    def status(self, queues: int = 200, wait: float = 1.0) -> NodeStatus:
        node, began = self._node, time.monotonic()
        if not node.pump.lock.acquire(timeout=wait):
            busy = f"busy {time.monotonic() - began:.1f} s"
            return NodeStatus(node_id=self.node_id, name=self.name, fabric=self.fabric, engine=busy)
        try:
            found, address, views = node.engine.statistics(), node.engine.address, node.engine.view()
        finally:
            node.pump.lock.release()
        sends = sorted(found.producers, key=lambda account: -account.waiting)
        return NodeStatus(
            node_id=self.node_id,
            name=self.name,
            fabric=self.fabric,
            epoch=address.epoch,
            host=address.host,
            state=node.life.value,
            adopted=self._slot[0] if self._slot is not None else None,
            uptime=clock() - node.started_at,
            endpoints=tuple(address.inbox),
            peers=tuple(
                Peer(node_id=v.node_id, name=v.name, state=v.state, reason=v.reason, endpoint=v.endpoint) for v in views
            ),
            counters=dict(found.counters),
            sends=tuple(Sending(queue=account.queue, account=account) for account in sends[:queues]),
            takes=tuple(Taking(queue=account.queue, account=account) for account in found.consumers[:queues]),
            publishes=tuple(Publishing(topic=each.topic, published=each.published) for each in found.publishers),
            subscribes=tuple(Subscribing(pattern=each.pattern, received=each.received) for each in found.subscribers),
            more=max(0, len(sends) - queues) + max(0, len(found.consumers) - queues),
        )

    def pause(self, queue: str) -> bool:
        return False

    def resume(self, queue: str) -> bool:
        return False

    def purge(self, queue: str) -> int:
        return 0

    def dead(self, queue: str | None, limit: int) -> list[dict[str, Any]]:
        return []

    def retry(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        return []

    def drop(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        return []

    def trace(self, id: str) -> list[dict[str, Any]]:
        return []

    def tap(self, name: str, put: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        return lambda: None
