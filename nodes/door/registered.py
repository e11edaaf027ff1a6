"""Registered requests: what programs of this process answer at its admin socket, besides what every process does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from peerfabric.discovery.locks import Lock

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""Answers the arguments of a request; None: they concern somebody else."""

handlers: dict[str, tuple[Handler, ...]] = {}
"""By what is asked for. Replaced, never changed, as other threads read it."""
_lock = Lock()


def register(do: str, handler: Handler) -> Callable[[], None]:
    """Ask `handler` for `do`, after those that were registered before it; return what ends that."""
    with _lock:
        handlers[do] = (*handlers.get(do, ()), handler)

    def end() -> None:
        with _lock:
            left = tuple(each for each in handlers.get(do, ()) if each is not handler)
            if left:
                handlers[do] = left
            else:
                handlers.pop(do, None)

    return end
