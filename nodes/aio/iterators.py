"""Iterators of `async for` over a consumer or subscriber."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from peerfabric.nodes.fronts import HANDLE_COPIED, refusing

R = TypeVar("R")


def _nothing() -> None:
    return None


class AsyncItems(Generic[R]):
    """Yields what `take` returns, until the handle or its node is closed and that is None. Dropped, it calls `rest`.

    `again`, if it returns something, saves a call of `take`.
    """

    if not TYPE_CHECKING:
        __reduce__ = refusing(HANDLE_COPIED)

    def __init__(
        self,
        take: Callable[[], Coroutine[Any, Any, R | None]],
        rest: Callable[[], None] = _nothing,
        again: Callable[[], R | None] = _nothing,
    ) -> None:
        self._take, self._rest, self._again = take, rest, again

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        item = self._again()
        if item is None:
            item = await self._take()
            if item is None:
                raise StopAsyncIteration
        return item

    def __del__(self) -> None:
        self._rest()
