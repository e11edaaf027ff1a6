"""Limits of the gateway: sizes of bodies, time to send them, waits of one token."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import ClientDisconnect

from peerfabric.errors import ConfigError
from peerfabric.gateway.problems import Problem
from peerfabric.options import MiB

if TYPE_CHECKING:
    from starlette.requests import Request


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one gateway; each process has them for itself."""

    batch_bytes_max: int = 16 * MiB
    """Of the body of a batch. That of one message is limited by `Options(message_bytes_max=)` of the node."""
    batch_messages_max: int = 10_000
    waits_per_token: int = 1_000
    """Requests of one token that wait at once, each of which holds a connection."""
    wait_max: float = 60.0
    """Seconds for which a request may wait. Proxies give up after that or sooner."""
    body_timeout: float = 30.0
    """Seconds in which a body has to come: who sends a byte a minute would hold a connection for ever."""
    drain_timeout: float = 5.0
    """Seconds at the end in which what was taken may still be settled."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0 < getattr(self, name) < 1e12:
                raise ConfigError(f"{name}={getattr(self, name)!r}; give a number above 0")


class Waits:
    """Requests that wait, by token."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, token: str) -> Iterator[None]:
        """Count one more for `token` in this block.

        Raises:
            Problem: 429, it has as many as it may.
        """
        if self._open[token] >= self._limit:
            raise Problem(
                429,
                "Too many waits",
                f"{self._limit:,} requests of this token wait already; end some, or wait for fewer things at once",
                code="too-many-waits",
                retry_after=1.0,
            )
        self._open[token] += 1
        try:
            yield
        finally:
            self._open[token] -= 1
            if not self._open[token]:
                del self._open[token]


async def read_body(request: Request, limit: int, timeout: float) -> bytes:
    """The body of a request, of which no more than `limit` bytes are ever kept.

    Raises:
        Problem: 413, it is longer; 408, it did not come in `timeout` seconds; 400, the connection ended before it did.
    """
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > limit:
        raise too_large(int(said), limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large(size, limit)
                parts.append(part)
    except TimeoutError:
        detail = f"the body did not come within {timeout:g} s; send it faster, or less of it"
        raise Problem(408, "", detail, code="too-slow", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        detail = "the connection ended before the body did; send it again"
        raise Problem(400, "", detail, code="cut-off") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(size: int, limit: int) -> Problem:
    """The refusal of a body of at least `size` bytes."""
    # The rest of the body is still on its way: only a closed connection stops it.
    return Problem(
        413,
        "Message too large",
        f"a body of {size:,} bytes or more is over the limit of {limit:,}; send a reference to it, or several",
        code="too-large",
        headers={"Connection": "close"},
        size=size,
        limit=limit,
    )
