"""Unstarted nodes of this process that have handlers: nothing of theirs is handled, and no other node knows of them."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from typing import Any, Final, Protocol
from weakref import ref

from peerfabric.nodes.context import Life, NodeContext


class Made(Protocol):
    """The handlers of one node."""

    node: NodeContext

    def __iter__(self) -> Iterator[Any]: ...


_made: Final[set[ref[Made]]] = set()
"""The handlers of nodes that were new when they got one."""

START: Final = "use its run() or `with`, or make any call of it, as ready() of a producer"

_is_parent = False
"""This process has forked."""

_log = logging.getLogger("peerfabric")


def remember(handlers: Made) -> None:
    """Its node is new, and has a handler."""
    _made.add(ref(handlers, _made.discard))


def forget(handlers: Made) -> None:
    """Another life of its node is begun in the place of this one."""
    _made.discard(ref(handlers))


def found() -> list[Made]:
    """Those whose nodes have not been started, nor closed."""
    living = (each() for each in _made.copy())
    return [handlers for handlers in living if handlers is not None and handlers.node.life is Life.NEW]


def hint(node: NodeContext, *, queue: str = "", service: str = "") -> str:
    """What to add to the error of a node that finds nobody who consumes `queue`, or serves `service`; else empty."""
    fabric = node.settings.fabric
    for handlers in found():
        if handlers.node.settings.fabric == fabric and any(
            (queue and getattr(each.handle, "queue", None) == queue) or (service and each.service == service)
            for each in handlers
        ):
            return f"; node {handlers.node.settings.name!r} was made here and not started: {START}"
    return ""


def _tell() -> None:
    """The program is over. A parent of others made its nodes for them to start: a server that forks its workers."""
    if _is_parent:
        return
    for handlers in found():
        names = ", ".join(sorted({each.name for each in handlers}))
        text = "node %s was never started, and so its handlers were never called (%s): %s"
        _log.warning(text, handlers.node.settings.name, names, START)


def _has_forked() -> None:
    global _is_parent  # noqa: PLW0603  # so is a process as a whole
    _is_parent = True


os.register_at_fork(after_in_parent=_has_forked)
atexit.register(_tell)
