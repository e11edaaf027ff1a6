"""Handlers: functions that the node calls with each message, in threads or as tasks."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from peerfabric.discovery.locks import Lock
from peerfabric.errors import ConfigError, FabricError, NodeClosed, SpoolError
from peerfabric.nodes.life import Life
from peerfabric.nodes.message import Message, Reject, Retry
from peerfabric.nodes.waiting import Blocking, Suspending, complete, in_event_loop

if TYPE_CHECKING:
    from peerfabric.nodes.inner_node import InnerNode

F = TypeVar("F", bound=Callable[..., Any])

Take = Callable[..., Awaitable[Any]]
"""Waits, as its argument says, for what a handler is called with next; None: there is nothing any more."""

CONCURRENCY_MAX: Final = 1024

_log = logging.getLogger("peerfabric")


class Handler:
    """One decorated function and the threads or tasks that run it.

    Args:
        function: Takes the body, and the `Message` or `Update` if it has a second parameter.
        concurrency: How many messages it handles at once.
        names: What its annotations may name besides its module's globals: the locals of where it was decorated.

    Raises:
        TypeError: Its parameters say no body type, or it is not of a kind that this front can run.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        concurrency: int,
        *,
        may_await: bool,
        kind: type,
        names: Mapping[str, Any] | None = None,
    ) -> None:
        if not 1 <= concurrency <= CONCURRENCY_MAX:
            raise ConfigError(f"concurrency={concurrency} is not between 1 and {CONCURRENCY_MAX}")
        self.function = function
        self.concurrency = concurrency
        self.is_async = inspect.iscoroutinefunction(function)
        if self.is_async and not may_await:
            raise TypeError(f"{function.__qualname__} is async and Node has no event loop; use AsyncNode, or a def")
        self.body_type, self.wants_message = _signature(function, kind, names)
        self._threads: list[threading.Thread] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._busy = 0
        self._left: Callable[[], None] = lambda: None
        self._lock = Lock()

    @property
    def busy(self) -> int:
        """Calls that are running now."""
        return self._busy

    def is_current(self) -> bool:
        """Whether it is one of its threads or tasks that asks."""
        if threading.current_thread() in self._threads:
            return True
        return bool(self._tasks) and in_event_loop() and asyncio.current_task() in self._tasks

    def start(self, node: InnerNode, take: Take) -> None:
        """Run the function for each message that `take(waiting)` returns, until it returns None.

        The caller holds the life lock, and nothing is called before it lets go. If a thread cannot be started, none is.
        """
        self._left = node.pump.turned.open  # whoever closes the node waits there for running calls
        name = getattr(self.function, "__name__", "handler")
        try:
            for number in range(self.concurrency):
                if self.is_async:
                    task = asyncio.get_running_loop().create_task(self._run_task(node, take), name=f"peerfabric-{name}")
                    self._tasks.append(task)
                else:
                    thread = threading.Thread(
                        target=self._run_thread, args=(node, take), name=f"peerfabric-{name}-{number}", daemon=True
                    )
                    thread.start()
                    self._threads.append(thread)
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """The start came to nothing. The caller has held the life lock since."""
        for task in self._tasks:
            task.cancel()
        self._threads, self._tasks = [], []

    def join(self, timeout: float) -> None:
        """Wait for the threads, which end with their node; a call that hangs is left behind."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout)

    async def finish(self) -> None:
        """End the tasks, which end with their node; one that hangs is cancelled, which gives its message back."""
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run_thread(self, node: InnerNode, take: Callable[..., Any]) -> None:
        with node.life_lock:
            if threading.current_thread() not in self._threads:
                return  # the start came to nothing
        waiting = node.waiting if isinstance(node.waiting, Blocking) else Blocking()
        while True:
            try:
                item = complete(take(waiting))
            except FabricError as error:
                self._ends(error)
                return
            if item is None:
                return
            self._enter()
            try:
                self._call(item)
            finally:
                self._leave()
            del item

    async def _run_task(self, node: InnerNode, take: Take) -> None:
        while True:
            try:
                item = await take(node.waiting)
            except FabricError as error:
                self._ends(error)
                return
            if item is None:
                return
            self._enter()
            try:
                await self._await(item)
            finally:
                self._leave()

    def _ends(self, error: FabricError) -> None:
        """It gets nothing any more, as a rule because its node is closed."""
        if isinstance(error, SpoolError | ConfigError):
            _log.error("%s handles nothing: %s", self.function.__qualname__, error)

    def _enter(self) -> None:
        with self._lock:
            self._busy += 1

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
        self._left()

    def _call(self, item: Any) -> None:
        try:
            self.function(item.body, item) if self.wants_message else self.function(item.body)
        except BaseException as error:
            self._failed(item, error)
        else:
            self._done(item)

    async def _await(self, item: Any) -> None:
        try:
            await (self.function(item.body, item) if self.wants_message else self.function(item.body))
        except asyncio.CancelledError as cancelled:
            self._failed(item, cancelled)
            raise
        except BaseException as error:
            self._failed(item, error)
        else:
            self._done(item)

    def _done(self, item: Any) -> None:
        if isinstance(item, Message):
            try:
                item.ack()
            except FabricError as error:
                _log.error("%s was handled by %s and not acked: %s", item.id, item.queue, error)

    def _failed(self, item: Any, error: BaseException) -> None:
        if isinstance(item, Message):
            if isinstance(error, NodeClosed):
                item.give_back()  # it failed because this node ends, which is not its fault
                return
            item.failed(error)
            if isinstance(error, Exception) and not isinstance(error, Retry | Reject):
                _log.exception("the handler of %s failed on %s; it is tried again", item.queue, item.id, exc_info=error)
        elif isinstance(error, Exception):
            _log.exception("the handler of topic %s failed", item.topic, exc_info=error)


class Handlers:
    """The handlers of one node. They are there before it starts, and go when it is closed."""

    def __init__(self, node: InnerNode) -> None:
        self._node = node
        self._all: list[tuple[Handler, Take]] = []

    def __iter__(self) -> Iterator[Handler]:
        return iter([handler for handler, _ in self._all])

    def decorator(self, concurrency: int, kind: type, source: Callable[[Any], Take]) -> Callable[[F], F]:
        """What makes a handler of the function that it decorates.

        Args:
            concurrency: How many calls run at once.
            kind: What it may have as a second parameter.
            source: From the function's body type to where its messages come from.
        """

        def decorate(function: F) -> F:
            names = sys._getframe(1).f_locals
            may_await = isinstance(self._node.waiting, Suspending)
            handler = Handler(function, concurrency, may_await=may_await, kind=kind, names=names)
            self._add(handler, source(handler.body_type))
            return function

        return decorate

    def _add(self, handler: Handler, take: Take) -> None:
        with self._node.life_lock:
            if self._node.life is Life.RUNNING:
                handler.start(self._node, take)
            self._all.append((handler, take))

    def start(self) -> None:
        """The node is about to run. The caller holds the life lock."""
        for handler, take in self._all:
            handler.start(self._node, take)

    def give_up(self) -> None:
        """Its start came to nothing. The caller has held the life lock since."""
        for handler, _ in self._all:
            handler.give_up()

    @property
    def busy(self) -> bool:
        """Whether a call is running."""
        return any(handler.busy for handler, _ in self._all)

    def is_current(self) -> bool:
        """Whether it is a thread or task of a handler that asks."""
        return any(handler.is_current() for handler, _ in self._all)

    async def finish(self) -> None:
        """The node is closed: end what runs as tasks."""
        for handler, _ in self._all:
            await handler.finish()


def _signature(function: Callable[..., Any], kind: type, names: Mapping[str, Any] | None) -> tuple[Any, bool]:
    """The body type, and whether a second parameter receives the message itself.

    Raises:
        TypeError: The first parameter has no annotation, or there are others than those two.
    """
    try:
        hints = typing.get_type_hints(function, localns=dict(names) if names else None, include_extras=True)
    except NameError as error:
        raise TypeError(f"{function.__qualname__}: an annotation cannot be resolved ({error}); import it") from None
    parameters = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and (p.default is p.empty or p.name in hints)
    ]
    if not parameters or parameters[0].name not in hints:
        raise TypeError(
            f"{function.__qualname__} does not say what it handles; annotate its first parameter with the body type"
        )
    wants_message = False
    if len(parameters) > 1:
        second = hints.get(parameters[1].name)
        if second is None or (typing.get_origin(second) or second) is not kind:
            raise TypeError(f"{function.__qualname__}: its second parameter must be annotated {kind.__name__}")
        wants_message = True
    return hints[parameters[0].name], wants_message
