"""Iterators of `for` over a consumer or subscriber."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from peerfabric.nodes.fronts import HANDLE_COPIED, refusing
from peerfabric.nodes.io.waiting import complete

R = TypeVar("R")


def _nothing() -> None:
    return None


class Items(Generic[R]):
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

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        item = self._again()
        if item is None:
            item = complete(self._take())
            if item is None:
                raise StopIteration
        return item

    def __del__(self) -> None:
        self._rest()
