"""Tasks of one served `async def`, in the event loop of an `AsyncNode`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from peerfabric.errors import Cancelled, DecodeError
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.handler_context import judge_by
from peerfabric.nodes.io.waiting import TaskWaiter, answering, in_event_loop, running_loop
from peerfabric.nodes.service import serving
from peerfabric.nodes.service.answers import CANCELLED, ENDED, Answer, Answers, comes_from_outside
from peerfabric.nodes.service.call import Call
from peerfabric.nodes.service.running import Running
from peerfabric.wire.frames import OK

if TYPE_CHECKING:
    from peerfabric.service.served import ServedCall


class ServiceTasks:
    """The calls of one function, each in a task, which is cancelled when its caller gives up."""

    runs_in = "task"
    handle = None
    """It takes from no consumer or subscriber, as other handlers do."""

    def __init__(self, node: NodeContext, answers: Answers, concurrency: int, waiting: int, stall: float) -> None:
        self.node, self._answers = node, answers
        self.name, self.service = answers.name, answers.service.name
        self._options = concurrency, waiting, stall
        self.alerted = False
        self.responder: Any = None
        self.end: Any = None
        """The `Served`, from the start of the node on."""
        self._tasks: dict[asyncio.Task[None], Running] = {}
        self._loop: asyncio.AbstractEventLoop
        self._called = False
        """The loop is to look, and has not yet."""

    # As a handler of the node

    def renewed(self, node: NodeContext) -> ServiceTasks:
        """The same for another life of the node, whose context that is."""
        return type(self)(node, self._answers, *self._options)

    @property
    def busy(self) -> int:
        """Handlers that run for somebody."""
        return len([each for each in list(self._tasks.values()) if not each.call.cancelled])

    def is_current(self) -> bool:
        """Whether one of its calls asks."""
        return bool(self._tasks) and in_event_loop() and asyncio.current_task() in self._tasks

    def start(self, node: NodeContext) -> None:
        """Serve from now on. The caller holds the life lock, and nothing runs before it lets go."""
        assert node.loop is not None
        self._loop = node.loop
        serving.serve(self, self.service, *self._options)

    def give_up(self) -> None:
        """The start came to nothing."""

    def join(self, timeout: float) -> None:
        """It has no threads."""

    async def finish(self) -> None:
        """End the tasks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # As a handle of the pump

    def changed(self) -> None:
        """Calls are to be run, or what runs has to know something. Any thread."""
        if not self._called:
            self._called = True
            try:
                self._loop.call_soon_threadsafe(self._look)
            except RuntimeError:
                pass  # the loop is closed, and with it whoever would answer

    def _look(self) -> None:
        self._called = False
        serving.tell(self.end)
        started = self.end.started
        while started:
            call = started.popleft()
            running = call.owner = Running(self, call)
            task = self._loop.create_task(self._run(running), name=f"peerfabric-{self.service}")
            self._tasks[task] = running

    # Tasks

    async def _run(self, running: Running) -> None:
        """Run the handler and answer. The context is the task's own."""
        answering.set(running)
        judge_by(partial(serving.has_failed, self.node))
        task = asyncio.current_task()
        assert task is not None
        running.stop = task.cancel  # not before, as a task that is cancelled before it begins never does
        try:
            answer = await self._handled(running)
        finally:
            running.over, running.ends_at = True, inf
            self._tasks.pop(task, None)
        serving.end_with(self, running.call, answer)
        if self.end.started:
            self.changed()
        if self.node.life is not Life.RUNNING:
            self.node.pump.turned.open()  # whoever closes the node waits there for running calls

    async def _handled(self, running: Running) -> Answer:
        answers, call = self._answers, running.call
        if (refusal := answers.refusal(call)) is not None:
            return refusal
        if answers.yields and not call.stream:
            return answers.in_parts()
        function = answers.function
        try:
            request = answers.decode(call.body, call.codec)[0]
        except DecodeError as error:
            return answers.unfit(error)
        try:
            returned: Any = function(request, Call(call)) if answers.wants_call else function(request)
            if not answers.yields:
                return Answer(OK, answers.encode(await returned), answers.codec)
            await self._send_parts(running, returned)
            return ENDED
        except BaseException as error:
            if isinstance(error, GeneratorExit) and running_loop() is not self._loop:
                raise  # what was left of the loop is thrown away
            if self.node.is_closed:
                return CANCELLED
            answer = answers.failed(call, error)
            if comes_from_outside(error):
                serving.end_with(self, call, answer)
                raise
            return answer

    async def _send_parts(self, running: Running, parts: AsyncIterator[Any]) -> None:
        """Send what the handler yields, as far as the caller allows it; it rests at its `yield` meanwhile."""
        answers, call = self._answers, running.call
        waiter = TaskWaiter(self._loop)
        try:
            async for part in parts:
                body = answers.encode(part)
                running.waiters.append(waiter)
                try:
                    while not call.may_send and not call.cancelled:
                        await self.node.waiting.park(waiter, None)
                finally:
                    running.waiters.remove(waiter)
                if call.cancelled or not serving.send_part(self, call, body, answers.codec):
                    raise Cancelled
        finally:
            close = getattr(parts, "aclose", None)
            if close is not None:
                await close()  # its `finally` runs now, and not when somebody collects it

    # What handlers ask

    def rest(self, call: ServedCall) -> None:
        """The handler of `call` waits: another one may run meanwhile."""
        serving.rest(self, call)
        if self.end.started:
            self.changed()

    def resume(self, call: ServedCall) -> None:
        """It goes on."""
        serving.resume(self, call)
