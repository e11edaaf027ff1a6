"""Serving: what threads and tasks of services share, between their handlers and the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from peerfabric.errors import NodeClosed
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.service.answers import Answer, comes_from_outside
from peerfabric.options import MiB
from peerfabric.wire.frames import BUSY, END, OK

if TYPE_CHECKING:
    from peerfabric.service.responder import Responder
    from peerfabric.service.served import Served, ServedCall

WAITING_BYTES: int = 16 * MiB
"""Of the requests of one service that wait for a handler."""


class Pool(Protocol):
    """The threads or tasks of one service, and what of their node they need."""

    node: NodeContext
    responder: Responder
    end: Any


def serve(pool: Pool, service: str, concurrency: int, waiting: int, stall: float) -> Served:
    """Let `pool` answer a service from now on. The caller holds the life lock."""
    pump, engine = pool.node.pump, pool.node.engine
    with pump.lock:
        pool.responder = engine.responder
        served = engine.open_service(service, concurrency, waiting, WAITING_BYTES, stall, clock())
        pool.end = served
        pump.attach(pool)  # type: ignore[arg-type]  # a handle that hands nothing over
    pump.wake()
    return served


def end_with(pool: Pool, call: ServedCall, answer: Answer) -> None:
    """The handler of `call` has ended, or did not begin: let its caller know, if it waits."""
    pump, responder = pool.node.pump, pool.responder
    lock = pump.lock
    try:
        if not lock.acquire(False):
            lock.wait()
        now = clock()
        status = answer.status
        if status == OK:
            responder.answer(call, now, answer.body or b"", answer.codec)
        elif status == END:
            responder.end(call, now)
        else:
            retry_after = call.served.mean_time if status == BUSY and answer.retry is None else answer.retry or 0.0
            responder.fail(call, now, status, text=answer.text, type=answer.type, retry_after=retry_after)
        pump.send_beside(now, call.served)
    finally:
        try:
            lock.release()
        except RuntimeError:
            pass  # it was not taken


def send_part(pool: Pool, call: ServedCall, body: bytes, codec: int) -> bool:
    """Send one part of a stream, which `may_send`; False: it was too large, and that has ended the call."""
    pump = pool.node.pump
    with pump.lock:
        now = clock()
        if call.cancelled:
            return False
        sent = pool.responder.part(call, now, body, codec)
        pump.send_beside(now)
    return sent


def rest(pool: Pool, call: ServedCall) -> None:
    """The handler of `call` waits, and needs no slot."""
    pump = pool.node.pump
    with pump.lock:
        pool.responder.rest(call)
        pump.send_beside(clock(), call.served)


def resume(pool: Pool, call: ServedCall) -> None:
    """It goes on."""
    with pool.node.pump.lock:
        pool.responder.resume(call)


def tell(served: Served) -> None:
    """Wake those of its handlers whose calls have news."""
    while served.news:
        owner = served.news.popleft().owner
        if owner is not None:  # else it has not begun, and looks before it does
            owner.wake()


def has_failed(node: NodeContext, error: BaseException) -> bool:
    """Whether what ended a handler is a fault of its own: it is not if the node ends, or a signal came."""
    if isinstance(error, NodeClosed):
        return node.life is Life.RUNNING
    return not comes_from_outside(error)


__all__ = ["end_with", "has_failed", "rest", "resume", "send_part", "serve", "tell"]
