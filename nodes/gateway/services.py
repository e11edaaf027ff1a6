"""Services over HTTP: a request is a call, its answer the reply."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from peerfabric.gateway.bodies import BYTES, JSON, Reader, media_type, message_headers, seconds
from peerfabric.gateway.limits import read_body
from peerfabric.gateway.listening import Gone, while_listening
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.problems import Problem
from peerfabric.gateway.shared import shared_of
from peerfabric.gateway.shown import shown
from peerfabric.names import check_name

TIMEOUT: Final = 10.0
"""Seconds, if the request does not say how long it waits."""
GONE: Final = 499
"""As nginx has it: the client is gone. Nobody sees it but a log."""

_reader: Final = Reader(Any)


async def _call(request: Request) -> Response:
    shared = shared_of(request)
    shared.refuse_if_closing()
    service = check_name("service", request.path_params["service"])
    timeout = seconds(request, "timeout", TIMEOUT, shared.options.wait_max)
    idempotent = _flag(request, "idempotent")
    server = request.query_params.get("server")
    headers = message_headers(request)
    limit = shared.node._lifecycle.node.settings.options.message_bytes_max
    data = await read_body(request, limit, shared.options.body_timeout)
    body = _reader.read(data, media_type(request))
    reply_type: Any = Any
    call = shared.node.request(
        service, body, reply_type=reply_type, timeout=timeout, idempotent=idempotent, server=server, headers=headers
    )
    try:
        async with shared.waiting(request):
            reply = await while_listening(request, call)
    except Gone:
        return Response(status_code=GONE)
    finally:
        call.close()  # of one that was not begun
    return _answer(reply)


def _answer(reply: Any) -> Response:
    """JSON, or for a reply of bytes these. What JSON has no word for is told as messages and updates are."""
    if isinstance(reply, bytes | bytearray | memoryview):
        return Response(bytes(reply), media_type=BYTES)
    said = shown(reply)
    return Response(msgspec.json.encode(said.get("body", said)), media_type=JSON)


def _flag(request: Request, name: str) -> bool | None:
    given = request.query_params.get(name)
    if given is None:
        return None
    if given not in ("true", "false"):
        raise Problem(400, "Bad parameter", f"{name}={given!r} is neither true nor false; give one of them")
    return given == "true"


OPERATIONS: Final = [
    Operation(
        method="POST",
        path="/v1/services/{service}",
        name="callService",
        scope="call",
        subject="service",
        handle=_call,
        summary="Ask one server of a service, and answer its reply; if the client goes, the server is told",
        answers={
            200: (
                "the reply; of bytes as application/octet-stream. A problem with 503 says that the call has not run, "
                "one with 502 or 504 that it may have: the handler failed, its server was lost, or there was no reply",
                {},
            ),
        },
        body={JSON: {}, BYTES: {"type": "string", "format": "binary"}},
        query={
            "timeout": {"type": "number", "minimum": 0, "maximum": 60, "default": TIMEOUT},
            "idempotent": {"type": "boolean", "description": "It may run twice, so another server may be asked, too."},
            "server": {"type": "string", "description": "Id or name of the node that is to answer."},
        },
        limited=True,
    ),
]
