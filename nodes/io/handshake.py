"""Handshake of a throwaway client: whether an inbox would let a node in, and if not, why.

It sends no frame, so nobody learns of it but by a line of ZAP. Waits in the thread that asks; for tools, not for nodes.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

import zmq

from peerfabric.nodes.io.curve import Curve
from peerfabric.nodes.io.events import Connected, Refused
from peerfabric.nodes.io.greeting import Greeting
from peerfabric.nodes.io.monitor import Connection, Monitor
from peerfabric.secret import NodeKey

HANDSHAKE_TIME: Final = 2.5
"""Seconds without an outcome after which it is "silent". An outbox that is not to be used yet says nothing for 1 s."""
_STEP_MS: Final = 50


def handshake(endpoint: str, key: NodeKey | None = None, gate: bytes | None = None) -> str:
    """Shake hands at a numeric TCP endpoint; "" if that works, else a reason of PeerView, or "refused".

    Args:
        key: Of the node that would call.
        gate: The public key of the inboxes of its fabric; None: in the clear.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    push = context.socket(zmq.PUSH)
    try:
        push.linger = 0
        push.ipv6 = 1
        monitor = Monitor(context, push, f"handshake-{os.urandom(8).hex()}")
        try:
            if gate is not None:
                assert key is not None
                Curve(key, ()).call(push, gate)
            connection = Connection(0, gated=gate is not None, now=time.monotonic())
            push.connect(endpoint)
            why = _outcome(monitor, connection)
        finally:
            monitor.close()
    finally:
        push.close()
        context.term()
    if connection.in_doubt:
        return _asked(Greeting(endpoint, time.monotonic(), gated=gate is not None)) or why
    return why


def _outcome(monitor: Monitor, connection: Connection) -> str:
    poll = select.poll()
    poll.register(monitor.fd, select.POLLIN)
    until = time.monotonic() + HANDSHAKE_TIME
    while time.monotonic() < until:
        poll.poll(_STEP_MS)
        for event, value in monitor.read():
            heard = connection.hear(event, value, time.monotonic())
            if isinstance(heard, Connected):
                return ""
            if isinstance(heard, Refused):
                return heard.why or "refused"
    return "silent"


def _asked(greeting: Greeting) -> str:
    """What a listener says of its mechanism after a handshake has failed."""
    try:
        while greeting.outcome is None:
            poll = select.poll()
            poll.register(greeting.fd, greeting.awaits)
            if poll.poll(_STEP_MS):
                greeting.poll()
            greeting.expire(time.monotonic())
        return greeting.outcome
    finally:
        greeting.close()


def versions() -> tuple[bool, str]:
    """Whether libzmq has CURVE, and which versions there are."""
    return zmq.has("curve"), f"pyzmq {zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}"
