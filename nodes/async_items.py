"""What `async for` over a consumer or subscriber iterates with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, TypeVar

R = TypeVar("R")


def _nothing() -> None:
    return None


class AsyncItems(Generic[R]):
    """Yields what `take` returns, until the handle or its node is closed and that is None. Dropped, it calls `rest`."""

    def __init__(self, take: Callable[[], Coroutine[Any, Any, R | None]], rest: Callable[[], None] = _nothing) -> None:
        self._take, self._rest = take, rest

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        item = await self._take()
        if item is None:
            raise StopAsyncIteration
        return item

    def __del__(self) -> None:
        self._rest()
