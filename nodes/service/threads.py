"""Threads of one served `def`: as many as calls run, and one that waits for the next."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from peerfabric.arguments import described
from peerfabric.errors import Cancelled, DecodeError
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.handler_context import judge_by
from peerfabric.nodes.io.waiting import ThreadWaiter, answering, clock
from peerfabric.nodes.service import serving
from peerfabric.nodes.service.answers import ENDED, Answer, Answers
from peerfabric.nodes.service.call import Call
from peerfabric.nodes.service.running import Running
from peerfabric.wire.frames import OK

if TYPE_CHECKING:
    from peerfabric.service.served import ServedCall

PAUSE: Final = 0.1
"""Seconds until a thread goes on that failed outside of what it was to run."""

_log = logging.getLogger("peerfabric")


class ServiceThreads:
    """The calls of one function, each in a thread.

    One thread more than run a call is there, as a rule, and waits for the next, so that none has to be started while a
    caller waits. Calls that wait in calls of ours, and those that nobody waits for any more, have a thread too, and do
    not count: the machine says what may run (`Served.started`).

    idle > 0 or as many threads as there may be
    """

    runs_in = "thread"
    handle = None
    """It takes from no consumer or subscriber, as other handlers do."""

    def __init__(self, node: NodeContext, answers: Answers, concurrency: int, waiting: int, stall: float) -> None:
        self.node, self._answers = node, answers
        self.name, self.service = answers.name, answers.service.name
        self._short = f"peerfabric-{self.service}"
        self._options = concurrency, waiting, stall
        self._threads_max = 2 * concurrency + 64 + 1  # that run, rest and are left behind, and the next
        self._keep = concurrency + 1
        self.alerted = False
        self.responder: Any = None
        self.end: Any = None
        """The `Served`, from the start of the node on."""
        self._threads: dict[threading.Thread, Running | None] = {}
        """And what each of them runs."""
        self._idle: list[ThreadWaiter] = []
        """Those that wait, or are about to look whether they have to. The last is woken first, as its stack is warm."""
        self._count = 0

    # As a handler of the node

    def renewed(self, node: NodeContext) -> ServiceThreads:
        """The same for another life of the node, whose context that is."""
        return type(self)(node, self._answers, *self._options)

    @property
    def busy(self) -> int:
        """Handlers that run for somebody."""
        running = [each for each in list(self._threads.values()) if each is not None]
        return len([each for each in running if not each.call.cancelled])

    def is_current(self) -> bool:
        """Whether one of its calls asks."""
        return threading.current_thread() in self._threads

    def start(self, node: NodeContext) -> None:
        """Serve from now on. The caller holds the life lock, and nothing runs before it lets go."""
        serving.serve(self, self.service, *self._options)
        self._spawn()

    def give_up(self) -> None:
        """The start came to nothing. The caller has held the life lock since."""
        self._threads.clear()
        self._wake_all()

    def join(self, timeout: float) -> None:
        """Wait for the threads, which end with their node; a call that hangs is left behind."""
        ends_at = clock() + timeout
        self._wake_all()
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, ends_at - clock()))

    async def finish(self) -> None:
        """It has no tasks."""

    # As a handle of the pump

    def changed(self) -> None:
        """Calls are to be run, or what runs has to know something."""
        if self.end.news:
            serving.tell(self.end)
        self._wake(len(self.end.started))

    def _wake(self, count: int) -> None:
        idle = self._idle
        while count > 0:
            try:
                waiter = idle.pop()
            except IndexError:
                return  # who is at work now, or is started, takes it
            waiter.wake()
            count -= 1

    def _wake_all(self) -> None:
        self._wake(len(self._idle))

    # Threads

    def _spawn(self) -> None:
        """Start another thread, if there may be one and the system gives one."""
        if len(self._threads) >= self._threads_max:
            return
        self._count += 1
        thread = threading.Thread(target=self._run, name=f"{self._short}-{self._count}", daemon=True)
        self._threads[thread] = None
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            self._threads.pop(thread, None)
            if not self._threads:
                raise
            _log.warning("service %s: no thread can be started; fewer calls run at once", self.service)

    def _run(self) -> None:
        node, me = self.node, threading.current_thread()
        with node.life_lock:
            if me not in self._threads:
                return  # the start came to nothing
        judge_by(partial(serving.has_failed, node))
        waiter = ThreadWaiter()
        call: ServedCall | None = None
        try:
            while True:
                try:
                    if call is None:
                        call = self._next(waiter)
                        if call is None:
                            return
                    taken, call = call, None
                    call = self._work(me, taken)
                except BaseException as error:
                    if not node.is_running:
                        return
                    with suppress(Exception):  # it may be the log that fails
                        text = "a thread of service %s failed, and goes on: %s"
                        _log.error(text, self.service, described(error), exc_info=error)
                    waiter.wait(PAUSE)
        finally:
            self._threads.pop(me, None)

    def _next(self, waiter: ThreadWaiter) -> ServedCall | None:
        """Wait for a call; None: this thread is not needed any more."""
        started: deque[ServedCall] = self.end.started
        idle = self._idle
        while self.node.is_running:
            idle.append(waiter)  # before it looks: whoever comes after that wakes it
            try:
                call = started.popleft()
            except IndexError:
                if len(idle) > self._keep:
                    with suppress(ValueError):
                        idle.remove(waiter)
                        return None
                if self.node.is_running:  # looked at once more: who closes the node wakes all that are idle by then
                    waiter.lock.acquire()
                continue
            try:
                idle.remove(waiter)
            except ValueError:
                waiter.lock.acquire(False)  # it was woken, perhaps for a call that another one has
                self._wake(len(started))
            if not idle:
                self._spawn()
            return call
        return None

    def _work(self, me: threading.Thread, call: ServedCall) -> ServedCall | None:
        """Run the handler and answer; return the next call, if one is there."""
        running = self._threads[me] = call.owner = Running(self, call)
        try:
            answer = copy_context().run(self._handle, running)
        finally:
            running.over, running.ends_at = True, inf
            self._threads[me] = None
        serving.end_with(self, call, answer)
        if self.node.life is not Life.RUNNING:
            self.node.pump.turned.open()  # whoever closes the node waits there for running calls
        started: deque[ServedCall] = self.end.started
        if not started:
            return None
        try:
            following = started.popleft()
        except IndexError:
            return None
        if started:
            self._wake(len(started))
        return following

    def _handle(self, running: Running) -> Answer:
        """What is answered. In a context of its own, so that the next call does not see what this one sets."""
        answers, call = self._answers, running.call
        answering.set(running)
        if (call.cancelled or clock() >= call.ends_at) and (refusal := answers.refusal(call)) is not None:
            return refusal
        if answers.yields and not call.stream:
            return answers.in_parts()
        function = answers.function
        try:
            request = answers.decode(call.body, call.codec)[0]
        except DecodeError as error:
            return answers.unfit(error)
        try:
            returned = function(request, Call(call)) if answers.wants_call else function(request)
            if not answers.yields:
                return Answer(OK, answers.encode(returned), answers.codec)
            self._send_parts(running, iter(returned))
            return ENDED
        except BaseException as error:
            return answers.failed(call, error)

    def _send_parts(self, running: Running, parts: Iterator[Any]) -> None:
        """Send what the handler yields, as far as the caller allows it; it rests at its `yield` meanwhile."""
        answers, call = self._answers, running.call
        waiter = ThreadWaiter()
        try:
            for part in parts:
                body = answers.encode(part)
                while not call.may_send and not call.cancelled:
                    running.waiters.append(waiter)
                    try:
                        if not call.may_send and not call.cancelled:
                            waiter.wait(None)
                    finally:
                        running.waiters.remove(waiter)
                if call.cancelled or not serving.send_part(self, call, body, answers.codec):
                    raise Cancelled
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()  # its `finally` runs now, and not when somebody collects it

    # What handlers ask

    def rest(self, call: ServedCall) -> None:
        """The handler of `call` waits: another one may run meanwhile."""
        if not self._idle:
            self._spawn()
        serving.rest(self, call)
        self._wake(len(self.end.started))

    def resume(self, call: ServedCall) -> None:
        """It goes on."""
        serving.resume(self, call)
