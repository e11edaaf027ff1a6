"""Listening clients: whether whoever waits for an answer is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

T = TypeVar("T")


class Gone(Exception):
    """The client has closed its connection: nobody waits for the answer."""


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed its connection. The body of the request was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def has_gone(request: Request, watch: asyncio.Future[None]) -> bool:
    """Whether the client has closed its connection by now. `watch`, an `until_gone` that was at it, ends."""
    watch.cancel()
    await asyncio.wait((watch,))
    return not watch.cancelled() or await request.is_disconnected()


async def while_listening(request: Request, call: Awaitable[T]) -> T:
    """What `call` returns; it is cancelled if the client goes meanwhile.

    Raises:
        Gone: It did.
    """
    task = asyncio.ensure_future(call)
    watch = asyncio.ensure_future(until_gone(request.receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        watch.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
