"""Decorating: what makes a handler of a service of the function that it decorates."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

from peerfabric.arguments import option_count, option_seconds, shown
from peerfabric.errors import ConfigError, ForkedNode
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.handlers import Handlers
from peerfabric.nodes.io.waiting import Suspending
from peerfabric.nodes.service.answers import Answers
from peerfabric.nodes.service.service import Service
from peerfabric.nodes.service.signature import signature_of
from peerfabric.nodes.service.threads import ServiceThreads
from peerfabric.wire.frames import NAMES_MAX

F = TypeVar("F", bound=Callable[..., Any])

CONCURRENCY: Final = 16
"""Threads, each of which may wait for something; and of `async def` many more, as a task costs little."""
TASKS: Final = 256
WAITING: Final = 4
"""So many times as many calls wait as run."""
CONCURRENCY_MAX: Final = 4096
WAITING_MAX: Final = 65_536
STALL_MAX: Final = 86_400.0


def decorator(
    node: NodeContext,
    handlers: Handlers,
    service: Service[Any, Any] | str,
    concurrency: int | None,
    waiting: int | None,
    stall: float,
) -> Callable[[F], F]:
    """As `AsyncNode.serve`."""
    given: Any = service
    if not isinstance(given, Service | str):
        if callable(given):
            raise TypeError("the decorator takes a service before it takes the function; write @node.serve(SERVICE)")
        raise ConfigError(f"{shown(given)} is no service; give a Service, or the name of one")
    step = f"give how many calls may run at once, between 1 and {CONCURRENCY_MAX}"
    if concurrency is not None:
        concurrency = option_count("concurrency", concurrency, step, most=CONCURRENCY_MAX)
    if waiting is not None:
        step = f"give how many calls may wait besides, at most {WAITING_MAX}"
        waiting = option_count("waiting", waiting, step, least=0, most=WAITING_MAX)
    step = "give the seconds for which a stream may wait for its reader, above 0 and at most a day"
    stall = option_seconds("stall", stall, step, least=0.001, most=STALL_MAX)

    def decorate(function: F) -> F:
        signature = signature_of(function, service, sys._getframe(1).f_locals)
        kind: Any = ServiceThreads
        if signature.is_async:
            if not isinstance(node.waiting, Suspending):
                name = getattr(function, "__qualname__", repr(function))
                raise TypeError(f"{name} is async and Node has no event loop; use AsyncNode, or a def")
            from peerfabric.nodes.service.tasks import ServiceTasks  # with asyncio, which no other program needs

            kind = ServiceTasks
        at_once = concurrency or (TASKS if signature.is_async else CONCURRENCY)
        room = WAITING * at_once if waiting is None else waiting
        pool = kind(node, Answers(function, signature, node.settings.options.message_bytes_max), at_once, room, stall)
        with node.life_lock:
            _refuse(node, handlers, signature.service.name)
            handlers.add_locked(pool)
        return function

    return decorate


def _refuse(node: NodeContext, handlers: Handlers, name: str) -> None:
    """Raise if the service cannot be served here. The caller holds the life lock.

    Raises:
        NodeClosed, ForkedNode: As they say.
        ConfigError: It has a handler here, or there are too many.
    """
    if node.life is Life.FORKED:
        raise ForkedNode
    if node.life in (Life.CLOSING, Life.CLOSED):
        raise node.refusal()
    served = {handler.service: handler.name for handler in handlers if handler.service is not None}
    if name in served:
        raise ConfigError(
            f"service {name!r} has a handler in this node, {served[name]}; "
            f"give that one more concurrency=, or serve it in another node, too"
        )
    if len(served) >= NAMES_MAX:
        raise ConfigError(f"this node serves {NAMES_MAX:,} services, the most there may be; use another node")
