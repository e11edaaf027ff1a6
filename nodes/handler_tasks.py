"""Handler tasks: the calls of one decorated `async def` in the event loop of an `AsyncNode`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextvars import Context, copy_context
from functools import partial
from math import inf
from types import coroutine
from typing import Any, Final

from peerfabric.errors import FabricError
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.handler_context import begin_call, has_failed, judge_by
from peerfabric.nodes.handler_threads import REPLACE_AFTER, Handler
from peerfabric.nodes.io.waiting import in_event_loop


class TaskHandler(Handler):
    """One decorated `async def`, and the tasks that take its messages and run its calls."""

    runs_in = "task"

    def __init__(
        self, function: Callable[..., Any], concurrency: int, *, kind: type, names: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(function, concurrency, kind=kind, names=names)
        self.at_once = 1

    def is_current(self) -> bool:
        return self.busy > 0 and in_event_loop() and self._runners.get(asyncio.current_task(), False)

    def _start_one(self, node: NodeContext, number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._run_task(node), name=f"{self._short}-{number}")
        self._runners[task] = False
        task.add_done_callback(partial(self._task_ended, node, number))

    def give_up(self) -> None:
        for task in self._runners:
            task.cancel()
        super().give_up()

    def join(self, timeout: float) -> None:
        """It has no threads."""

    async def finish(self) -> None:
        """End the tasks; one that hangs is cancelled, which gives its message back."""
        tasks = list(self._runners)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_task(self, node: NodeContext) -> None:
        task = asyncio.current_task()
        assert task is not None
        calls = _Calls(task, self._await, self.handle.suspend if self.concurrency > 1 else None)
        judge_by(partial(self._task_has_failed, node, calls))
        await self._run(task, node, node.waiting, calls.run)

    def _task_ended(self, node: NodeContext, number: int, task: asyncio.Task[None]) -> None:
        """A task is over: with its node, as a rule."""
        why = asyncio.CancelledError("by somebody") if task.cancelled() else task.exception()
        if task in self._runners and node.life is Life.RUNNING:
            # If it is the whole loop that ends, it does so before this.
            task.get_loop().call_later(REPLACE_AFTER, self._replace, task, node, number, why)

    async def _await(self, item: Any, calls: _Calls) -> None:
        if self.settles:
            begin_call(item)
        try:
            await (self.function(item.body, item) if self.wants_message else self.function(item.body))
            if calls.cancels_itself:
                raise asyncio.CancelledError("the handler cancelled itself and returned")
        except BaseException as error:
            self._failed(item, error)
            if not isinstance(error, Exception) and not has_failed(error):
                raise
            return
        if self.settles:
            try:
                item.ack()
            except FabricError as error:
                self._not_acked(item, error)

    def _task_has_failed(self, node: NodeContext, calls: _Calls, error: BaseException) -> bool:
        """As `_has_failed`; what also comes from outside: the task that runs the calls is cancelled, the loop ends."""
        match error:
            case asyncio.CancelledError():
                return not calls.is_cancelled
            case GeneratorExit():
                return in_event_loop()  # else what was left of the loop is thrown away
            case _:
                return self._has_failed(node, error)


class _Calls:
    """The calls that one task runs, one after the other, each in a copy of its context.

    A task for each call would cost more than most calls. So a call can cancel the task that runs all of them, and what
    it asked for itself is told from what others ask for: by when it was asked, within a step of the call or not.

    own <= before, and own <= task.cancelling() unless the call takes it back within the present step
    """

    def __init__(
        self,
        task: asyncio.Task[Any],
        make: Callable[[Any, _Calls], Coroutine[Any, Any, None]],
        suspend: Callable[[int], None] | None,
    ) -> None:
        self._task = task
        self._make = make
        self._suspend = suspend
        """Told, with +1 and then -1, of each call that is suspended."""
        self._before: float = inf
        """How often the task was asked to cancel when the present step began; between steps everything was before."""
        self._own = 0
        """How often the present call asked in the steps before this one."""

    @property
    def cancels_itself(self) -> bool:
        """Whether the present step asked for a cancellation, which has not come by now."""
        return self._task.cancelling() > self._before

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody else has cancelled the task."""
        return min(self._before, self._task.cancelling()) > self._own

    def run(self, item: Any) -> Coroutine[Any, Any, None] | None:
        """Begin a call; None: it is over, as it never had to wait."""
        call, context = self._make(item, self), copy_context()
        self._before = self._task.cancelling()
        try:
            waits_for = context.run(call.send, None)
        except StopIteration:
            return self._settle() if self._task.cancelling() else None
        finally:
            pending = self._task.cancelling() - self._before
            if pending:
                self._own = max(0, self._own + int(pending))
            self._before = inf
        return self._finish(call, context, waits_for)

    async def _finish(self, call: Coroutine[Any, Any, None], context: Context, waits_for: Any) -> None:
        if self._suspend is not None:
            self._suspend(+1)
        try:
            await self._drive(call, context, waits_for)
        finally:
            if self._suspend is not None:
                self._suspend(-1)
        if self._task.cancelling():
            await self._settle()

    @coroutine
    def _drive(self, call: Coroutine[Any, Any, None], context: Context, waits_for: Any) -> Generator[Any, Any, None]:
        """Go on with a call that waits, as `await call` would, with each step in its context."""
        while True:
            step: Callable[[Any], Any] = call.send
            value: Any
            try:
                value = yield waits_for
            except BaseException as error:
                step, value = call.throw, error
            self._before = self._task.cancelling()
            try:
                waits_for = context.run(step, value)
            except StopIteration:
                return
            finally:
                self._own = max(0, self._own + self._task.cancelling() - int(self._before))
                self._before = inf
                del value

    async def _settle(self) -> None:
        """Undo what the call has asked for.

        Raises:
            CancelledError: Somebody else has, too, and the call has kept it for itself.
        """
        for _ in range(self._own):
            self._task.uncancel()
        if self._own:
            self._own = 0
            try:
                await asyncio.sleep(0)  # before Python 3.13 it comes all the same, if it has not come yet
            except asyncio.CancelledError:
                pass
        if self._task.cancelling():
            raise asyncio.CancelledError


drive_code: Final = _Calls._drive.__code__
"""Of the generator that stands between the task and the call that it runs, for who looks where that is."""
