"""Services over HTTP: a request is a call, and its answer the reply, or the parts of it as lines."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from peerfabric.errors import FabricError
from peerfabric.gateway.bodies import BYTES, JSON, LINES, MESSAGE_HEADERS, Reader, media_type, message_headers, seconds
from peerfabric.gateway.limits import read_body
from peerfabric.gateway.listening import Gone, while_listening
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.problems import Problem, problem_of
from peerfabric.gateway.shared import shared_of, token_of
from peerfabric.gateway.shown import shown
from peerfabric.names import check_name

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from peerfabric.nodes.aio.service import AsyncParts

TIMEOUT: Final = 10.0
"""Seconds, if the request does not say how long it waits."""
TIMEOUT_MIN: Final = 0.001
GONE: Final = 499
"""As nginx has it: the client is gone. Nobody sees it but a log."""

_END: Final = object()
"""In place of a part: there are no more."""

_reader: Final = Reader(Any)


async def _call(request: Request) -> Response:
    shared = shared_of(request)
    shared.refuse_if_closing()
    service = check_name("service", request.path_params["service"])
    timeout = seconds(request, "timeout", TIMEOUT, shared.options.wait_max, TIMEOUT_MIN)
    idempotent = _flag(request, "idempotent")
    server = request.query_params.get("server") or None
    headers = message_headers(request)
    limit = shared.node._lifecycle.node.settings.options.message_bytes_max
    data = await read_body(request, limit, shared.options.body_timeout)
    body = _reader.read(data, media_type(request))
    reply_type: Any = Any
    with ExitStack() as waits:
        waits.enter_context(shared.waits.one(token_of(request).name))
        try:
            if LINES in request.headers.get("accept", ""):
                parts = shared.node.stream(
                    service, body, reply_type=reply_type, timeout=timeout, server=server, headers=headers
                )
                waits.callback(parts.close)
                first = await while_listening(request, anext(parts, _END))
                return _Lines(parts, first, waits.pop_all())
            return _answer(
                await while_listening(
                    request,
                    shared.node.request(
                        service,
                        body,
                        reply_type=reply_type,
                        timeout=timeout,
                        idempotent=idempotent,
                        server=server,
                        headers=headers,
                    ),
                )
            )
        except Gone:
            return Response(status_code=GONE)


class _Lines(Response):
    """The parts of an answer, a line each as it comes. If it breaks off the last line is a problem."""

    def __init__(self, parts: AsyncParts[Any], first: Any, waits: ExitStack) -> None:
        self._parts, self._first, self._waits = parts, first, waits
        super().__init__(media_type=LINES)
        del self.headers["content-length"]  # nobody knows it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._waits:
            try:
                await while_listening(Request(scope, receive), self._send(send))
            except Gone:
                pass

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        part = self._first
        while part is not _END:
            line = msgspec.json.encode(shown(part)) + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
            try:
                part = await anext(self._parts, _END)
            except FabricError as error:
                line = msgspec.json.encode({"problem": problem_of(error).body()}) + b"\n"
                await send({"type": "http.response.body", "body": line, "more_body": True})
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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
        detail = f"{name}={given!r} is neither true nor false; give one of them"
        raise Problem(400, "Bad parameter", detail, code="bad-parameter")
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
                "the reply; of bytes as application/octet-stream. With Accept: application/x-ndjson a line for each "
                "part of it, with the member body, body_base64 or body_msgpack, and if it breaks off one with problem. "
                "A problem with 503 says that the call has not run, one with 502 or 504 that it may have: its handler "
                "failed, its server was lost, or there was no reply in time",
                {},
            ),
        },
        body={JSON: {}, BYTES: {"type": "string", "format": "binary"}},
        query={
            "timeout": {"type": "number", "minimum": TIMEOUT_MIN, "maximum": 60, "default": TIMEOUT},
            "idempotent": {"type": "boolean", "description": "It may run twice, so another server may be asked, too."},
            "server": {"type": "string", "description": "Id or name of the node that is to answer."},
        },
        headers={
            "Accept": {"type": "string", "description": "application/x-ndjson: the parts of the answer, a line each"},
            **MESSAGE_HEADERS,
        },
    ),
]
