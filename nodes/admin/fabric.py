"""Status of a fabric: what all nodes that one node is linked with tell of themselves, on whichever hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from peerfabric.arguments import check_timeout
from peerfabric.names import STATUS_SERVICE
from peerfabric.nodes.io.waiting import ThreadWaiter, clock
from peerfabric.service.call import OpenCall, Outcome
from peerfabric.status import Status
from peerfabric.wire.frames import MSGPACK

if TYPE_CHECKING:
    from peerfabric import AsyncNode, Node

LOCAL_SHARE: Final = 0.5
"""Of the time, how much `node` may wait for its own machines, while others answer."""


def fabric_status(node: Node | AsyncNode, timeout: float = 1.0, *, queues: int = 200) -> list[Status]:
    """Ask every node that `node` is linked with what it is doing, and `node` itself; each is in one answer only.

    It returns after `timeout` seconds, or as soon as all have answered; who does not, and who is of a version that
    tells nothing, is left out. A node links with those it has something in common with; `node.look_at_all(True)` links
    it with all. Nothing that a peer is asked in this way changes anything, and no bodies are among what it tells.
    It blocks; in a coroutine, use a thread.

    Args:
        queues: Of each kind and node at most so many are told of, the deepest.

    Raises:
        NodeClosed, ForkedNode: As they say. A new node starts.
    """
    timeout = check_timeout(timeout) or 0.0
    front: Any = getattr(node, "_async", node)
    lifecycle = front._lifecycle
    context = lifecycle.node
    context.ensure()
    calls = lifecycle.open_calls()
    calls.attach()
    waiter, now = ThreadWaiter(), clock()
    ends_at = now + timeout
    body = msgspec.msgpack.encode({"queues": queues})
    with context.pump.lock:
        caller = context.engine.caller
        asked = [
            OpenCall(STATUS_SERVICE, body, MSGPACK, ends_at, server=node_id, owner=waiter)
            for node_id in caller.reserve(STATUS_SERVICE)
        ]
        for call in asked:
            caller.start(call, now)
    context.pump.wake()
    own = _own(lifecycle, queues, LOCAL_SHARE * timeout)
    try:
        while any(call.outcome is None for call in asked) and context.is_running and (left := ends_at - clock()) > 0:
            waiter.wait(left)
    finally:
        with context.pump.lock:
            for call in asked:
                caller.cancel(call, clock())
        context.pump.wake()
    return _each_once([own, *(answer for call in asked if (answer := read_answer(call)) is not None)])


def _own(lifecycle: Any, queues: int, wait: float) -> Status:
    from peerfabric.nodes.door.requests import status

    return status(lifecycle.told_of(), queues, wait)


def read_answer(call: OpenCall) -> Status | None:
    if call.outcome is not Outcome.OK:
        return None
    try:
        [found] = msgspec.msgpack.decode(call.body, type=list[Status])
    except (msgspec.MsgspecError, ValueError):
        return None  # of a version that we cannot read
    return found


def _each_once(answers: list[Status]) -> list[Status]:
    """The same, with each life of a node in the first answer only that tells of it."""
    seen: set[tuple[str, int]] = set()
    found = []
    for answer in answers:
        nodes = tuple(node for node in answer.nodes if (node.node_id, node.epoch) not in seen)
        seen |= {(node.node_id, node.epoch) for node in nodes}
        if nodes:
            found.append(msgspec.structs.replace(answer, nodes=nodes))
    return found
