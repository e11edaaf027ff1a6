"""Status over HTTP: the processes of this host as a document, a stream of looks, or metrics; and whether we live."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from peerfabric import metrics
from peerfabric.gateway.bodies import EVENTS
from peerfabric.gateway.looks import Look, Looks, scopes_of
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.problems import closing
from peerfabric.gateway.shared import shared_of, token_of

SLOW: Final = 30.0
"""Seconds after which a reader that takes nothing is cut off."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def _own(request: Request) -> bool:
    return request.query_params.get("own", "") not in ("", "0", "false")


async def _status(request: Request) -> Response:
    shared = shared_of(request)
    look = await shared.part(Looks).recent(own=_own(request))
    content = look.head(scopes_of(request, shared)) + b',"processes":[' + b",".join(look.processes) + b"]}"
    return Response(content, media_type="application/json")


async def _events(request: Request) -> Response:
    shared = shared_of(request)
    looks = shared.part(Looks)
    with ExitStack() as waits:
        waits.enter_context(shared.waits.one(token_of(request).name))
        first = await looks.after(None)
        if first is None:
            raise closing()
        return _Stream(scopes_of(request, shared), looks, first, waits.pop_all())


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


class _Stream(Response):
    """Looks as server-sent events: `begin`, a `process` each, `end`. Slow readers get fewer, and no old ones."""

    media_type = EVENTS

    def __init__(self, can: Sequence[str], looks: Looks, first: Look, waits: ExitStack) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._can, self._looks, self._first, self._waits = can, looks, first, waits

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        with self._waits:
            writing = asyncio.create_task(self._write(send))
            gone = asyncio.create_task(_until_gone(receive))
            try:
                await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (writing, gone):
                    task.cancel()
                await asyncio.gather(writing, gone, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        with suppress(OSError, TimeoutError):  # it went away, or takes nothing
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            look: Look | None = self._first
            while look is not None:
                for part in (
                    _event("begin", look.head(self._can) + b"}"),
                    *(_event("process", each) for each in look.processes),
                    _event("end", b"{}"),
                ):
                    async with asyncio.timeout(SLOW):
                        await send({"type": "http.response.body", "body": part, "more_body": True})
                look = await self._looks.after(look)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _metrics(request: Request) -> Response:
    look = await shared_of(request).part(Looks).recent(own=True)
    answered = [metrics.Answered(each.pid, each.status) for each in look.answers]
    text = await asyncio.to_thread(metrics.render, answered, by_pid=True)
    return Response(text, media_type=metrics.CONTENT_TYPE)


async def _healthy(request: Request) -> Response:
    return Response("ok\n", media_type="text/plain")


async def _ready(request: Request) -> Response:
    shared_of(request).refuse_if_closing()
    return Response("ready\n", media_type="text/plain")


_TEXT: Final = {"type": "string", "contentMediaType": "text/plain"}
_OWN: Final = {"enum": [0, 1], "description": "1: only the gateway's own host, not those of --also"}

_SOURCE: Final = {
    "type": "object",
    "required": ["name", "host", "problem"],
    "properties": {
        "name": {"type": "string", "description": "as --also has it; empty: the gateway's own host"},
        "host": {"type": "string"},
        "problem": {"type": "string", "description": "why nothing is known of it; empty: it answers"},
    },
}
_PROCESS: Final = {
    "type": "object",
    "required": ["pid", "started", "source", "problem", "status"],
    "properties": {
        "pid": {"type": "integer"},
        "started": {"type": "integer", "description": "milliseconds of Unix time"},
        "source": {"type": "string"},
        "problem": {"type": "string", "description": "why there is no status"},
        "program": {"type": "string", "description": "if there is none, and it is known"},
        "status": {
            "type": ["object", "null"],
            "required": ["v", "process", "nodes"],
            "properties": {"v": {"const": 1}, "process": {"type": "object"}, "nodes": {"type": "array"}},
        },
    },
}
STATUS: Final = {
    "type": "object",
    "required": ["at", "took", "host", "can", "sources", "processes"],
    "properties": {
        "at": {"type": "number", "description": "seconds of Unix time"},
        "took": {"type": "number", "description": "seconds"},
        "host": {"type": "string"},
        "can": {"type": "array", "items": {"type": "string"}, "description": "scopes of who asks"},
        "sources": {"type": "array", "items": _SOURCE},
        "processes": {"type": "array", "items": _PROCESS},
    },
}

OPERATIONS: Final = [
    Operation(
        method="GET",
        path="/v1/status",
        name="getStatus",
        scope="read",
        handle=_status,
        summary="What all processes of this host, and of those of --also, are doing now",
        answers={200: ("their status, as docs/operations.md describes it", STATUS)},
        query={"own": _OWN},
    ),
    Operation(
        method="GET",
        path="/v1/status/events",
        name="watchStatus",
        scope="read",
        handle=_events,
        summary="The same once a second: events `begin`, a `process` for each, and `end`",
        answers={200: ("until the reader goes", {"type": "string", "contentMediaType": EVENTS})},
    ),
    Operation(
        method="GET",
        path="/metrics",
        name="getMetrics",
        scope="read",
        handle=_metrics,
        summary="Metrics of all processes of this host, for Prometheus",
        answers={200: ("text, version 0.0.4", _TEXT)},
    ),
    Operation(
        method="GET",
        path="/healthz",
        name="getHealth",
        scope="",
        handle=_healthy,
        summary="Whether this process answers at all",
        answers={200: ("it does", _TEXT)},
    ),
    Operation(
        method="GET",
        path="/readyz",
        name="getReadiness",
        scope="",
        handle=_ready,
        summary="Whether it takes requests; 503 once it is about to end",
        answers={200: ("it does", _TEXT)},
    ),
]
