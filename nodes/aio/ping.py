"""Ping of a peer: one question over the link with it, and how long its answer took."""

from __future__ import annotations

from peerfabric.arguments import check_timeout, shown
from peerfabric.errors import ConfigError
from peerfabric.link.link import Link
from peerfabric.link.round_trips import RoundTrip
from peerfabric.nodes.context import NodeContext
from peerfabric.nodes.io.waiting import clock, wait_until


async def ping(node: NodeContext, peer: str, timeout: float | None) -> float:
    """The seconds that a PING to `peer` and its PONG took, both I/O threads included.

    Raises:
        TimedOut, ConfigError: As `round_trip`.
    """
    seconds = (await round_trip(node, peer, timeout)).seconds
    assert seconds is not None
    return seconds


async def round_trip(node: NodeContext, peer: str, timeout: float | None) -> RoundTrip:
    """An answered question to `peer`.

    Raises:
        TimedOut: There is no such peer, no link with it, or no answer.
        ConfigError: Several nodes have that name, or it is this node.
    """
    if not isinstance(peer, str) or not peer:
        raise ConfigError(f"peer={shown(peer)} is no node; give an id or a name out of peers(), or an endpoint")
    timeout = check_timeout(timeout)
    await node.started()
    asked: RoundTrip | None = None

    def attempt() -> RoundTrip | None:
        nonlocal asked
        node.ensure()
        if asked is None or asked.lost:
            with node.pump.lock:
                asked = _ask(node, peer)
            if asked is not None:
                node.pump.wake()
        elif asked.seconds is not None:
            return asked
        node.ending.check()
        return None

    def what() -> str:
        if asked is None:
            return f"no link with {peer!r}; look at peers() and its reasons, or ask `peerfabric doctor`"
        return f"{peer!r} does not answer; see whether its process is stopped or its network cut"

    try:
        return await wait_until(node.waiting, node.pump.turned, attempt, timeout, what)
    finally:
        if asked is not None:
            with node.pump.lock:
                node.engine.round_trips.forget(asked)


def _ask(node: NodeContext, peer: str) -> RoundTrip | None:
    """Ask, if there is a link to do so. The caller holds the engine's lock.

    Raises:
        ConfigError: As of `ping`.
    """
    engine, now = node.engine, clock()
    address = engine.address
    if peer in (address.node_id, address.name, *address.inbox):
        raise ConfigError(f"{peer!r} is this node itself; give another one, out of peers()")
    found = engine.round_trips.find(peer)
    if len(ids := {link.node_id for link in found}) > 1:
        raise ConfigError(f"{len(ids)} nodes are called {peer!r}; give the id of one: {', '.join(sorted(ids))}")
    up: list[Link] = [link for link in found if link.up]
    if not up:
        engine.round_trips.call_up(peer, now)
        return None
    return engine.round_trips.ask(up[0], now)
