"""Errors for misplaced use: statements of one front at the other, and copies of what belongs to a node."""

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

HANDLE_COPIED: Final = (
    "a handle belongs to a node of this process: it cannot be pickled or copied; "
    "make a Node in each process, and ask it for the handle"
)
MESSAGE_COPIED: Final = (
    "what a consumer took is settled there: it cannot be pickled or copied; pass on message.body and message.id"
)
UPDATE_COPIED: Final = "an update is part of what came with it: it cannot be pickled; pass on update.body"
LETTER_COPIED: Final = (
    "a dead letter is kept by its node: it cannot be pickled or copied; "
    "pass on its id, and ask node.dead_letters() again"
)


def refusing(text: str) -> Callable[..., NoReturn]:
    """A special method that refuses. To be hidden from type checkers, which say it by themselves if it is not there."""

    def refuse(*_: Any) -> NoReturn:
        raise TypeError(text)

    return refuse
