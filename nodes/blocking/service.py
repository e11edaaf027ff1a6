"""Client and Parts: what asks a service, and what iterates over an answer in parts, in programs that block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from peerfabric.nodes.aio.service import TIMEOUT, AsyncClient, PartsBase
from peerfabric.nodes.fronts import BLOCKING_FOR, HANDLE_COPIED, refusing
from peerfabric.nodes.io.waiting import complete

Q = TypeVar("Q")
R = TypeVar("R")


class Client(Generic[Q, R]):
    """A service as a function: called with a body, it returns the reply."""

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(self, client: AsyncClient[Q, R]) -> None:
        self._async = client
        self.service = client.service

    def __call__(
        self,
        body: Q,
        *,
        timeout: float | None = TIMEOUT,
        server: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> R:
        """Ask the service, and return its reply. As `Node.request`."""
        return complete(self._async(body, timeout=timeout, server=server, headers=headers))

    def ready(self, servers: int = 1, timeout: float | None = None) -> None:
        """Wait until at least so many servers of the service are connected.

        Raises:
            TimedOut: There are fewer.
        """
        complete(self._async.ready(servers, timeout))

    def __repr__(self) -> str:
        return repr(self._async)


class Parts(PartsBase[R]):
    """Yields the parts of an answer to `for`."""

    if not TYPE_CHECKING:
        __aiter__ = refusing(BLOCKING_FOR)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        from peerfabric.nodes.service.reading import OVER

        part: Any = complete(self._reading.take())
        if part is OVER:
            raise StopIteration
        return part  # type: ignore[no-any-return]
