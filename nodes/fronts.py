"""What is said to who writes the statement of one front for an object of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

PLAIN_WITH: Final = (
    "messages and batches are settled with plain `with message as body:`, of Node and of AsyncNode: "
    "leave out the `async`"
)
ASYNC_WITH: Final = "an AsyncNode is used with `async with`: write `async with AsyncNode() as node:`, or use Node"
BLOCKING_WITH: Final = "a Node is used with plain `with`: write `with Node() as node:`, or use AsyncNode"
ASYNC_FOR: Final = "what AsyncNode made is awaited: write `async for` here, or use Node"
BLOCKING_FOR: Final = "what Node made blocks: write plain `for` here, or use AsyncNode"


def refusing(text: str) -> Callable[..., NoReturn]:
    """A special method that refuses. To be hidden from type checkers, which say it by themselves if it is not there."""

    def refuse(*_: Any) -> NoReturn:
        raise TypeError(text)

    return refuse
