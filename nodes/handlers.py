"""Handlers of one node: the functions that it calls with each message or update."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from peerfabric.nodes import unstarted
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.handler_threads import Again, Handler, Take
from peerfabric.nodes.io.waiting import Suspending
from peerfabric.nodes.message import Message

F = TypeVar("F", bound=Callable[..., Any])

Source = Callable[[Handler], tuple[Any, Take, Again]]


class Called(Protocol):
    """What calls one decorated function: a `Handler`, or the threads or tasks of a service."""

    name: str
    service: str | None
    handle: Any

    @property
    def busy(self) -> int:
        """How many of its calls are running."""

    def is_current(self) -> bool:
        """Whether one of them asks."""

    def start(self, node: NodeContext) -> None:
        """Begin. The caller holds the life lock."""

    def give_up(self) -> None:
        """The start came to nothing."""

    def join(self, timeout: float) -> None:
        """Wait for its threads."""

    async def finish(self) -> None:
        """End its tasks."""

    def renewed(self, node: NodeContext) -> Called:
        """The same for another life of the node, whose context that is."""


class Handlers:
    """The handlers of one node. They are there before it starts, and go when it is closed."""

    def __init__(self, node: NodeContext) -> None:
        self.node = node
        self._all: list[Called] = []

    def __iter__(self) -> Iterator[Called]:
        return iter(list(self._all))

    def of(self, handle: Any) -> str | None:
        """The name of the handler that takes from this consumer or subscriber, if one does."""
        return next((handler.name for handler in self._all if handler.handle is handle), None)

    def decorator(self, name: str, concurrency: int, kind: type, source: Source) -> Callable[[F], F]:
        """What makes a handler of the function that it decorates.

        Args:
            name: Of the queue or topics that it handles.
            concurrency: How many calls run at once.
            kind: What it may have as a second parameter.
            source: From the handler to the consumer or subscriber that its messages come from, and how it takes there.

        Raises:
            TypeError: There is no name, but the function itself: the decorator was written without its call.
        """
        if callable(name):
            call = "on_message('queue')" if kind is Message else "on_topic('pattern')"
            raise TypeError(f"the decorator takes a name before it takes the function; write @node.{call}")

        def decorate(function: F) -> F:
            names = sys._getframe(1).f_locals
            handler = self._kind_for(function)(function, concurrency, kind=kind, names=names)
            handler.draw_from(source)
            self._add(handler)
            return function

        return decorate

    def _kind_for(self, function: Callable[..., Any]) -> type[Handler]:
        name = getattr(function, "__qualname__", repr(function))
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{name} has a yield, so a call of it does nothing by itself; write a handler without")
        if not inspect.iscoroutinefunction(function):
            return Handler
        if not isinstance(self.node.waiting, Suspending):
            raise TypeError(f"{name} is async and Node has no event loop; use AsyncNode, or a def")
        from peerfabric.nodes.handler_tasks import TaskHandler  # with asyncio, which no other program needs

        return TaskHandler

    def _add(self, handler: Handler) -> None:
        with self.node.life_lock:
            self.add_locked(handler)

    def add_locked(self, handler: Called) -> None:
        """Have it called, from the start of the node on. The caller holds the life lock."""
        if self.node.life is Life.RUNNING:
            handler.start(self.node)
        elif self.node.life is Life.NEW:
            unstarted.remember(self)
        self._all.append(handler)

    def start(self) -> None:
        """The node is about to run. The caller holds the life lock."""
        for handler in self._all:
            handler.start(self.node)

    def give_up(self) -> None:
        """Its start came to nothing. The caller has held the life lock since."""
        for handler in self:
            handler.give_up()

    @property
    def busy(self) -> bool:
        """Whether a call is running."""
        return any(handler.busy for handler in self)

    def is_current(self) -> bool:
        """Whether it is a thread or task of a handler that asks."""
        return any(handler.is_current() for handler in self)

    async def finish(self) -> None:
        """The node is closed: end what runs as tasks."""
        for handler in self:
            await handler.finish()
