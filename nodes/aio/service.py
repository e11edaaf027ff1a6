"""AsyncClient and AsyncParts: what asks a service, and what iterates over an answer in parts, in asyncio programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from peerfabric.arguments import check_count
from peerfabric.nodes.fronts import ASYNC_FOR, HANDLE_COPIED, refusing
from peerfabric.nodes.service.service import Service

if TYPE_CHECKING:
    from peerfabric.nodes.service.calls import Calls
    from peerfabric.nodes.service.reading import Reading

Q = TypeVar("Q")
R = TypeVar("R")

TIMEOUT = 10.0
"""Seconds that a call waits if nothing else is said: longer than most need, and not for ever."""


class AsyncClient(Generic[Q, R]):
    """A service as a function: called with a body, it returns the reply."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(self, calls: Calls, service: Service[Q, R]) -> None:
        self.service = service
        self._calls = calls
        calls.prepared(service, None, None, stream=isinstance(service, Service) and service.stream)

    async def __call__(
        self,
        body: Q,
        *,
        timeout: float | None = TIMEOUT,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> R:
        """Ask the service, and return its reply. As `AsyncNode.request`."""
        found: R = await self._calls.request(self.service, body, None, timeout, None, server, headers)
        return found

    async def ready(self, servers: int = 1, timeout: float | None = None) -> None:
        """Wait until at least so many servers of the service are connected.

        Raises:
            TimedOut: There are fewer.
        """
        servers = check_count("servers", servers, "give how many there shall be", least=0)
        await self._calls.ready(self.service.name, servers, timeout)

    def __repr__(self) -> str:
        return f"<client of {self.service!r}>"


class PartsBase(Generic[R]):
    """What iterates over the parts of an answer. Dropped, or closed, it has the server stop."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def close(self) -> None:
        """Read no more: the server stops, and its handler's `finally` runs."""
        self._reading.close()

    def __del__(self) -> None:
        self._reading.close()


class AsyncParts(PartsBase[R]):
    """Yields the parts of an answer to `async for`."""

    if not TYPE_CHECKING:
        __iter__ = refusing(ASYNC_FOR)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        from peerfabric.nodes.service.reading import OVER

        part: Any = await self._reading.take()
        if part is OVER:
            raise StopAsyncIteration
        return part  # type: ignore[no-any-return]
