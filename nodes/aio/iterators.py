"""Iterators of `async for` over a consumer or subscriber, and what those of `for` share with them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from peerfabric.nodes.fronts import HANDLE_COPIED, refusing

R = TypeVar("R")


def _nothing() -> None:
    return None


class Taking(Generic[R]):
    """Takes what `take` returns, until the handle or its node is closed and that is None. Dropped, it calls `rest`.

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

    def __del__(self) -> None:
        self._rest()


class AsyncItems(Taking[R]):
    """Yields items to `async for`."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        item = self._again()
        if item is None:
            item = await self._take()
            if item is None:
                raise StopAsyncIteration
        return item
