"""Handlers: functions that the node calls with each message, in threads or as tasks."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from peerfabric.errors import ConfigError, FabricError, NodeClosed, SpoolError
from peerfabric.nodes.message import Message, Reject, Retry
from peerfabric.nodes.waiting import Blocking, complete, in_event_loop

if TYPE_CHECKING:
    from peerfabric.nodes.async_node import AsyncNode

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
        self._lock = threading.Lock()

    @property
    def busy(self) -> int:
        """Calls that are running now."""
        return self._busy

    def is_current(self) -> bool:
        """Whether it is one of its threads or tasks that asks."""
        if threading.current_thread() in self._threads:
            return True
        return bool(self._tasks) and in_event_loop() and asyncio.current_task() in self._tasks

    def start(self, node: AsyncNode, take: Callable[..., Awaitable[Any]]) -> None:
        """Run the function for each message that `take(waiting)` returns, until it returns None."""
        self._left = node.pump.turned.open  # whoever closes the node waits there for running calls
        name = getattr(self.function, "__name__", "handler")
        for number in range(self.concurrency):
            if self.is_async:
                task = asyncio.get_running_loop().create_task(self._run_task(node, take), name=f"peerfabric-{name}")
                self._tasks.append(task)
            else:
                thread = threading.Thread(
                    target=self._run_thread, args=(node, take), name=f"peerfabric-{name}-{number}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

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

    def _run_thread(self, node: AsyncNode, take: Callable[..., Any]) -> None:
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

    async def _run_task(self, node: AsyncNode, take: Callable[..., Awaitable[Any]]) -> None:
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
