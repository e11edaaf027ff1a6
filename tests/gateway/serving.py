"""A gateway behind a real HTTP server in the test's own event loop, and clients of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import uvicorn

from peerfabric import AsyncNode
from peerfabric.gateway import Gateway, Limits, Tokens

SECRET = "a-secret-of-this-test"
DEADLINE = 30.0


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Any:
        yield  # they are the test runner's


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The address of `app`, served until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Else each answer waits 40 ms for the kernel of the client: asyncio sets this for some sockets only.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app, log_level="error", lifespan="off", timeout_graceful_shutdown=2, timeout_keep_alive=75
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def gate(node: AsyncNode | None = None, **options: Any) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """A gateway with a node of its own, or that, and a client that may do everything."""
    options = {"tokens": Tokens.of(SECRET), "limits": Limits(drain_timeout=0.1), **options}
    async with (
        Gateway(node or AsyncNode("gate"), **options) as gateway,
        served(gateway) as url,
        client_of(url) as client,
    ):
        yield gateway, client


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway at `url`, with a token for everything."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=DEADLINE, limits=limits) as client:
        yield client


async def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)
