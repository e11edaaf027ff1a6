"""Iterators of `for` over a consumer or subscriber."""

from __future__ import annotations

from typing import Self, TypeVar

from peerfabric.nodes.aio.iterators import Taking
from peerfabric.nodes.io.waiting import complete

R = TypeVar("R")


class Items(Taking[R]):
    """Yields items to `for`."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        item = self._again()
        if item is None:
            item = complete(self._take())
            if item is None:
                raise StopIteration
        return item
