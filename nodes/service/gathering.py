"""Gathering: one call to each server of a service, and what came of all of them."""

from __future__ import annotations

from math import inf
from typing import Any, Final

from peerfabric.arguments import option_count
from peerfabric.errors import DecodeError, Incomplete, RemoteError, TimedOut
from peerfabric.nodes.context import Life
from peerfabric.nodes.handler_context import lease_paused
from peerfabric.nodes.io.waiting import clock, wait_until
from peerfabric.nodes.service.calls import Calls, Prepared, checked_timeout
from peerfabric.nodes.service.gathered import Gathered
from peerfabric.nodes.service.service import Service
from peerfabric.service.call import OpenCall, Outcome

JOINING_MAX: Final = 0.2
"""Seconds for which servers that are about to join are waited for, but no more than a quarter of the time."""
REASONS: Final = {
    Outcome.BUSY: "busy",
    Outcome.LOST: "lost",
    Outcome.NO_SERVER: "lost",
    Outcome.TOO_LARGE: "too large",
    Outcome.UNFIT: "unfit",
}


async def gather(
    calls: Calls,
    service: Service[Any, Any] | str,
    body: Any,
    reply_type: Any,
    timeout: float | None,
    require: int,
    headers: dict[str, str] | None,
) -> Gathered[Any]:
    """Ask every server of the moment. As `AsyncNode.gather`."""
    prepared = calls.prepared(service, body, reply_type)
    timeout = checked_timeout(timeout)
    require = option_count("require", require, "give how many servers shall answer at least", least=0)
    data = prepared.encode(body)
    ends_at = inf if timeout is None else clock() + timeout
    await calls.node.started()
    names = await _servers(calls, prepared, ends_at)
    asked: dict[str, OpenCall] = {}
    try:
        for node_id in names:
            call = asked[node_id] = calls.made(prepared, data, ends_at, False, node_id, headers)
            if not calls.start(call):
                await calls.start_when_room(call, None if timeout is None else max(0.0, ends_at - clock()))
        with lease_paused(calls.node.pump):
            for call in asked.values():
                await calls.until(call, call.ends_at, timeout)
    except TimedOut:
        pass  # there was no room for more
    finally:
        for call in asked.values():
            calls.forget(call)
    gathered: Gathered[Any] = Gathered(replies={}, errors={}, missing={}, names=names)
    for node_id, call in asked.items():
        _sort(calls, prepared, gathered, node_id, call)
    gathered.missing.update((node_id, "not sent") for node_id in names if node_id not in asked)
    if len(gathered.replies) < require:
        raise Incomplete(prepared.service.name, require, gathered)
    return gathered


async def _servers(calls: Calls, prepared: Prepared, ends_at: float) -> dict[str, str]:
    """Node ids and names of those that serve it, when nobody is about to join any more."""
    name, node = prepared.service.name, calls.node
    pump = node.pump
    calls.attach()
    with pump.lock:
        calls.end.use(name, clock())
    pump.wake()

    def attempt() -> bool | None:
        node.ensure()
        node.ending.check()
        with pump.lock:
            return None if calls.end.directory.may_come(clock()) else True

    try:
        left = min(JOINING_MAX, max(0.0, ends_at - clock()) / 4)
        await wait_until(node.waiting, pump.turned, attempt, left, lambda: "servers that join")
    except TimedOut:
        pass
    finally:
        with pump.lock:
            calls.end.unuse(name)
    with pump.lock:
        return {server.node_id: server.name for server in calls.servers(name)}


def _sort(calls: Calls, prepared: Prepared, gathered: Gathered[Any], node_id: str, call: OpenCall) -> None:
    if call.outcome is Outcome.OK:
        try:
            gathered.replies[node_id] = prepared.decode(call.body, call.codec)[0]
        except DecodeError:
            gathered.missing[node_id] = "unfit"
    elif call.outcome is Outcome.ERROR:
        gathered.errors[node_id] = RemoteError(call.type, call.text, call.server_name or node_id)
    elif call.outcome is Outcome.CANCELLED and calls.node.life is not Life.RUNNING:
        raise calls.error(call, prepared, None)
    else:
        unknown = "timed out" if call.id else "not sent"
        gathered.missing[node_id] = REASONS.get(call.outcome, unknown) if call.outcome else unknown
