"""Gateway: an ASGI application through which programs in any language take part in a fabric."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Final, Self

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from peerfabric.errors import ConfigError, FabricError
from peerfabric.gateway import acts, bodies, openapi, queues, services, static, status, takes, topics
from peerfabric.gateway.auth import READING, Origins, Tokens, authenticate, authorize
from peerfabric.gateway.keys import FILE, Keys
from peerfabric.gateway.limits import Limits
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.others import Other
from peerfabric.gateway.problems import Problem, problem_of
from peerfabric.gateway.shared import Shared
from peerfabric.nodes.aio.node import AsyncNode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Those who look whether it lives ask by any name, such as the address of a pod. It tells them nothing else."""

_log = logging.getLogger("peerfabric")


def operations() -> list[Operation]:
    """All operations of a gateway, in the order of their routes."""
    return [
        *queues.OPERATIONS,
        *takes.OPERATIONS,
        *topics.OPERATIONS,
        *services.OPERATIONS,
        *status.OPERATIONS,
        *acts.OPERATIONS,
        *openapi.OPERATIONS,
        *static.OPERATIONS,
    ]


class Gateway(Shared):
    """A fabric over HTTP.

    To be mounted, `app.mount("/fabric", Gateway(node, tokens="FILE"))`, with `async with gateway:` in the lifespan of
    that application; or run by an ASGI server itself, which then starts and closes the node.

    Args:
        node: It sends, takes and publishes. Queues that the program has a producer or consumer of, with a type, take
            only bodies of that type.
        tokens: Who may ask: a file of tokens, `Tokens`, or None: everybody who reaches it. None needs `hosts`.
        hosts: Names by which it may be asked, "NAME" or "NAME:PORT"; None: any; "*" in it: any, without tokens, too;
            "0.0.0.0" in it: any address. `/healthz` and `/readyz` answer by any name.
        cors: Origins of pages of other sites that may ask it.
        limits: Sizes and times.
        read_only: Nothing can be sent, taken or changed.
        also: Other gateways, whose hosts are shown together with this one; `others` reads them.
        keys: The file of idempotency keys. None: in the folder of the node's spool; without one, in memory.

    Raises:
        ConfigError: The file of tokens cannot be used; an origin is none; everybody could ask it through a browser.
    """

    def __init__(
        self,
        node: AsyncNode,
        *,
        tokens: Tokens | str | None,
        hosts: Sequence[str] | None = None,
        cors: Sequence[str] = (),
        limits: Limits | None = None,
        read_only: bool = False,
        also: Sequence[Other] = (),
        keys: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(node, AsyncNode):
            raise ConfigError(f"a gateway needs an AsyncNode, not a {type(node).__name__}; make one for it")
        if tokens is None and hosts is None:
            raise ConfigError(
                "without tokens any page that a browser of this machine shows could use this gateway; give tokens=, "
                "or hosts= with the names by which it is asked"
            )
        if isinstance(tokens, str):
            tokens = Tokens.read(tokens)
        super().__init__(node, tokens, limits or Limits(), operations(), also=also, read_only=read_only)
        self._origins = Origins(None if hosts is None or "*" in hosts else hosts, cors)
        self._keys_path = None if keys is None else os.fspath(keys)
        self._begun = False
        self._owns_node = False
        self._app = Starlette(
            routes=[_route(each, _Endpoint(self, each)) for each in self.operations],
            exception_handlers={HTTPException: _not_found},
        )
        self._app.router.redirect_slashes = False  # to a URL made from the header Host, which a proxy may have set
        self._app.state.gateway = self

    # Life

    async def start(self) -> None:
        """Start the node, if it does not run, and open the file of keys. A second call does nothing.

        Raises:
            FabricError: As of starting the node.
            SpoolError: The file of keys cannot be used.
        """
        if self._begun:
            return
        self._begun = True
        self._owns_node = not self.node._context.is_running
        await self.node.__aenter__()
        settings = self.node._context.settings
        path = self._keys_path
        if path is None:
            path = f"{settings.spool}/{FILE}" if settings.spool is not None else ":memory:"
        keys = Keys(path, fsync=bool(settings.fsync))
        try:
            await keys.open()
        except BaseException:
            await self._close_node()
            raise
        self.keys = keys

    async def close(self) -> None:
        """End what waits, let what was taken be settled for `Limits.drain_timeout` seconds, then give it back.

        The node is closed with it if it was started by it. A second call does nothing.
        """
        self.drain()
        await self.close_parts()
        try:
            await self._close_node()
        finally:
            keys, self.keys = self.keys, None
            if keys is not None:
                await keys.close()

    async def _close_node(self) -> None:
        if self._owns_node:
            self._owns_node = False
            await self.node.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case _:  # a WebSocket is refused by a close before it is accepted
                await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        shown_to: str | None = None

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message), shown_to)
            await send(message)

        try:
            probed = scope["path"].removeprefix(scope.get("root_path", "")) in PROBES
            shown_to = self._origins.check(headers.get("host", ""), headers.get("origin"), by_any_name=probed)
        except Problem as problem:
            await problem.response()(scope, receive, send_guarded)
            return
        if shown_to is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await _preflight(headers, shown_to)(scope, receive, send_guarded)
            return

        await self._app(scope, receive, send_guarded)

    async def answer(self, request: Request, operation: Operation) -> Response:
        """What an operation answers, if who asks may ask it."""
        try:
            if operation.scope:
                request.state.token = token = authenticate(request, self.tokens)
                authorize(token, operation, request.path_params)
            if self.read_only and operation.scope not in READING:
                raise Problem(
                    403, "Read only", "this gateway changes nothing; ask one without --read-only", code="read-only"
                )
            if operation.path.startswith("/v1/"):  # others are asked by who adds parameters of its own
                _check_query(request, operation)
            if operation.method == "POST":
                _check_content_type(request, operation)
            return await operation.handle(request)
        except Problem as problem:
            return problem.response()
        except FabricError as error:
            found = problem_of(error)
            if found.status == 500:
                _log.error("%s failed: %s", operation.name, error, exc_info=error)
            return found.response()
        except Exception as error:
            _log.error("%s failed", operation.name, exc_info=error)
            detail = "the gateway failed; its log says why, and the same request may or may not have been accepted"
            return Problem(500, "", detail, code="failed").response()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and close with the ASGI server whose only application this is."""
        await receive()
        try:
            await self.start()
        except FabricError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self.close()
        except FabricError as error:
            _log.error("%s", error)
        await send({"type": "lifespan.shutdown.complete"})


class _Endpoint:
    """One operation as Starlette calls it: by ASGI, as what is no function is taken to be."""

    def __init__(self, gateway: Gateway, operation: Operation) -> None:
        self._gateway, self._operation = gateway, operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self._gateway.answer(request, self._operation)
        await response(scope, receive, send)


def _route(operation: Operation, endpoint: _Endpoint) -> Route:
    route = Route(operation.path, endpoint, methods=[operation.method])
    kinds = [schema.get("contentMediaType") for _, schema in operation.answers.values() if schema is not None]
    if route.methods is not None and bodies.EVENTS in kinds:
        route.methods.discard("HEAD")  # which comes with GET: it would be answered by a stream without an end
    return route


def _add_headers(headers: MutableHeaders, shown_to: str | None) -> None:
    headers.setdefault("X-Content-Type-Options", "nosniff")
    # Names and bodies of others are in answers: whatever a browser takes one for, nothing in it is run.
    headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    headers.setdefault("Cache-Control", "no-store")
    if shown_to is not None:
        headers["Access-Control-Allow-Origin"] = shown_to
        headers["Access-Control-Expose-Headers"] = "Idempotent-Replay, Retry-After"
        headers.add_vary_header("Origin")


def _preflight(headers: Headers, origin: str) -> Response:
    """What a browser wants to know before it sends what a form cannot."""
    wanted = headers.get("access-control-request-headers", "")
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": wanted if wanted.isascii() and wanted.isprintable() else "",
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        },
    )


def _check_query(request: Request, operation: Operation) -> None:
    """See that every parameter is one of the operation: one that is misspelt would else mean nothing, and say so never.

    Raises:
        Problem: 400, one is not.
    """
    for name in request.query_params:
        if name not in operation.query:
            near = get_close_matches(name[:60], operation.query, 1)
            there = ", ".join(operation.query)
            step = f"did you mean {near[0]!r}?" if near else f"there are {there}" if there else "there is none here"
            raise Problem(400, "Bad parameter", f"there is no parameter {name!r}; {step}", code="bad-parameter")


def _check_content_type(request: Request, operation: Operation) -> None:
    """See that a request to act says what its body is. A form of a foreign page cannot: it has three types of its own.

    Raises:
        Problem: 415, it does not, or the operation takes nothing of that type.
    """
    taken: Iterable[str] = operation.body or (bodies.JSON,)
    if bodies.media_type(request) not in taken:
        given = request.headers.get("content-type", "")
        what = f"nothing of type {given!r} is taken here" if given else "the request does not say what its body is"
        detail = f"{what}; send the header Content-Type: {' or '.join(taken)}"
        raise Problem(415, "", detail, code="content-type", headers={"Accept-Post": ", ".join(taken)})


async def _not_found(request: Request, error: Exception) -> Response:
    """The answer to what no operation is for."""
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.scope['path']} is no operation of this gateway; see /openapi.json"
    code = {404: "no-operation", 405: "wrong-method"}.get(error.status_code, "refused")
    return Problem(error.status_code, "", detail, code=code, headers=error.headers).response()
