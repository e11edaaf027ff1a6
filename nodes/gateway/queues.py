"""Queues over HTTP: one message a request, or a batch of them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from peerfabric.arguments import DELAY_MAX
from peerfabric.errors import NotConfirmed, Rejected
from peerfabric.gateway.bodies import BYTES, JSON, Reader, media_type, message_headers, seconds
from peerfabric.gateway.limits import read_body
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.problems import Problem
from peerfabric.gateway.shared import shared_of
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.receipt import Receipt

CONFIRMATIONS: Final = ("stored", "delivered", "processed")
CONFIRM_TIMEOUT: Final = 5.0
"""Seconds, if the request does not say how long it waits."""
ROOM_TIMEOUT: Final = 1.0
"""Seconds that a request waits for room, if the program's own producer of the queue is one that waits."""

ACCEPTED: Final = {
    "type": "object",
    "required": ["id", "state"],
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["queued", "stored", "delivered", "processed", "dead", "expired", "dropped", "damaged"]},
    },
}


def _reader(producer: AsyncProducer[Any]) -> Reader:
    return Reader(producer.options.body_type)


async def _send(request: Request) -> Response:
    shared = shared_of(request)
    shared.refuse_if_closing()
    producer = shared.producer(request.path_params["queue"])
    confirm = request.query_params.get("confirm")
    if confirm is not None and confirm not in CONFIRMATIONS:
        detail = f"confirm={confirm!r} cannot be waited for; use one of {', '.join(CONFIRMATIONS)}"
        raise Problem(400, "Bad parameter", detail)
    if confirm == "stored" and not producer.is_safe:
        detail = "nothing is stored, as this gateway has no spool; start it with --spool, or wait for 'delivered'"
        raise Problem(400, "Bad parameter", detail)
    timeout = seconds(request, "timeout", CONFIRM_TIMEOUT, shared.options.wait_max)
    ttl = seconds(request, "ttl", None, DELAY_MAX)
    headers = message_headers(request)
    limit = producer.codec.limit
    data = await read_body(request, limit, shared.options.body_timeout)
    body = _reader(producer).read(data, media_type(request))
    receipt = await producer.send(body, headers=headers, ttl=ttl, timeout=ROOM_TIMEOUT, cause=None)
    if confirm is not None:
        async with shared.waiting(request):
            await _confirmed(producer, receipt, confirm, timeout)
    return _accepted(producer, receipt)


async def _confirmed(producer: AsyncProducer[Any], receipt: Receipt, confirm: Any, timeout: float | None) -> None:
    """Wait until a message is in the state `confirm`, or will not be. It is accepted in any case."""
    try:
        await producer.wait(receipt, confirm, timeout)
    except (NotConfirmed, Rejected):
        pass  # its state says it


def _accepted(producer: AsyncProducer[Any], receipt: Receipt) -> Response:
    state = producer.state(receipt)
    content = msgspec.json.encode({"id": receipt.id, "state": state})
    return Response(content, 200 if state == "processed" else 202, media_type=JSON)


OPERATIONS: Final = [
    Operation(
        method="POST",
        path="/v1/queues/{queue}/messages",
        name="sendMessage",
        scope="send",
        subject="queue",
        handle=_send,
        summary="Send one message; 202 says that it will be processed, whatever happens to the gateway",
        answers={
            202: ("accepted: in the spool, if the gateway has one", ACCEPTED),
            200: ("processed, if that was waited for", ACCEPTED),
        },
        body={
            JSON: {},
            BYTES: {"type": "string", "format": "binary"},
        },
        query={
            "confirm": {"enum": list(CONFIRMATIONS), "description": "also wait until it is in that state"},
            "timeout": {"type": "number", "minimum": 0, "maximum": 60, "default": CONFIRM_TIMEOUT},
            "ttl": {"type": "number", "description": "seconds after which it is not handed out any more"},
        },
        limited=True,
    ),
]
