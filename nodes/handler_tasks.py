"""Handlers that are `async def`: their tasks in the event loop of an `AsyncNode`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from peerfabric.nodes.handlers import Handler, Take
from peerfabric.nodes.judging import has_failed, judge_by
from peerfabric.nodes.life import Life
from peerfabric.nodes.message import Message
from peerfabric.nodes.waiting import in_event_loop

if TYPE_CHECKING:
    from peerfabric.nodes.inner_node import InnerNode

REPLACE_AFTER: Final = 1.0
"""Seconds after which a task that somebody cancelled is replaced."""

_EAGER: Final[dict[str, Any]] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
"""A call that never waits costs no turn of the event loop, where Python can do that."""

_log = logging.getLogger("peerfabric")


class TaskHandler(Handler):
    """One decorated `async def`, the tasks that take its messages, and one more for each call."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[Any] | None] = set()

    def is_current(self) -> bool:
        return bool(self._calls) and in_event_loop() and asyncio.current_task() in self._calls

    def _start_one(self, node: InnerNode, take: Take, number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._run_task(node, take), name=self._short)
        self._tasks.add(task)
        task.add_done_callback(partial(self._task_ended, node, take))

    def give_up(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = set()

    async def finish(self) -> None:
        """End the tasks; one that hangs is cancelled, which gives its message back."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_task(self, node: InnerNode, take: Take) -> None:
        judge_by(partial(self._task_has_failed, node, asyncio.current_task()))
        await self._run(node, take, node.waiting)

    def _task_ended(self, node: InnerNode, take: Take, task: asyncio.Task[None]) -> None:
        """A task is over: with its node, as a rule, or cancelled by somebody, and then another one takes its place."""
        if task not in self._tasks:
            return  # its start came to nothing
        self._tasks.remove(task)
        if task.cancelled() and node.life is Life.RUNNING:
            _log.error("a task of handler %s was cancelled while its node runs; another one follows", self.name)
            # If it is the whole loop that ends, it does so before this.
            task.get_loop().call_later(REPLACE_AFTER, self._replace, node, take)

    def _replace(self, node: InnerNode, take: Take) -> None:
        if node.life is Life.RUNNING:
            self._start_one(node, take, 0)

    def _call(self, item: Any) -> Coroutine[Any, Any, None]:
        """What calls the function in a task of its own: it has a context of its own, and can only cancel itself."""
        return self._call_in_task(item)

    async def _call_in_task(self, item: Any) -> None:
        loop = asyncio.get_running_loop()
        call: asyncio.Task[None] = asyncio.Task(self._await(item), loop=loop, name=f"{self._short}-call", **_EAGER)
        try:
            if not call.done():
                await call
            else:
                call.result()
        except asyncio.CancelledError:
            if isinstance(item, Message):
                item.give_back()  # it may not even have begun
            raise
        except (KeyboardInterrupt, SystemExit):
            pass  # the loop has it, and ends
        taker = asyncio.current_task()
        if taker is not None and taker.cancelling():
            raise asyncio.CancelledError  # which the function kept for itself

    async def _await(self, item: Any) -> None:
        call = asyncio.current_task()
        self._calls.add(call)
        try:
            await (self.function(item.body, item) if self.wants_message else self.function(item.body))
        except BaseException as error:
            self._failed(item, error)
            if not isinstance(error, Exception) and not has_failed(error):
                raise
        else:
            self._done(item)
        finally:
            self._calls.discard(call)

    def _task_has_failed(self, node: InnerNode, taker: asyncio.Task[Any] | None, error: BaseException) -> bool:
        """As `_has_failed`; what also comes from outside: the task that makes the calls is cancelled, the loop ends."""
        match error:
            case asyncio.CancelledError():
                return taker is None or not taker.cancelling()
            case GeneratorExit():
                return in_event_loop()  # else what was left of the loop is thrown away
            case _:
                return self._has_failed(node, error)
