"""Handler threads: the calls of one decorated function, and the threads that make them."""

from __future__ import annotations

import inspect
import logging
import threading
import typing
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from peerfabric.arguments import described, option_count
from peerfabric.errors import FabricError, NodeClosed, TimedOut
from peerfabric.nodes import signals
from peerfabric.nodes.context import Life, NodeContext
from peerfabric.nodes.handler_context import has_failed, judge_by
from peerfabric.nodes.io.waiting import Blocking, ThreadWaiter, Waiting, clock, complete, wait_until
from peerfabric.nodes.message import Message, Reject, Retry
from peerfabric.status import HANDLER_SECONDS

Take = Callable[[Waiting], Coroutine[Any, Any, Any]]
"""Waits, as its argument says, for what a handler is called with next; None: there is nothing any more."""

Again = Callable[[], Any]
"""What a handler is called with next, if that is here; None: `Take` says."""

CONCURRENCY_MAX: Final = 1024
PAUSE_FIRST, PAUSE_MAX = 0.1, 10.0
"""Seconds after which a handler that could not take tries again; doubled each time."""
SHORT: Final = HANDLER_SECONDS[0]
REPLACE_AFTER: Final = 1.0
"""Seconds after which a thread or task that ended is replaced."""

_log = logging.getLogger("peerfabric")


class Handler:
    """One decorated `def` and the threads that run it.

    Args:
        function: Takes the body, and the `Message` or `Update` if it has a second parameter.
        concurrency: How many messages it handles at once.
        names: What its annotations may name besides its module's globals: the locals of where it was decorated.

    Raises:
        TypeError: Its parameters say no body type.
    """

    runs_in = "thread"
    service: str | None = None
    """The name of the service that it answers; None: it takes messages or updates."""

    def __init__(
        self, function: Callable[..., Any], concurrency: int, *, kind: type, names: Mapping[str, Any] | None = None
    ) -> None:
        self.function = function
        self.settles = kind is Message
        self.name = getattr(function, "__qualname__", None) or repr(function)
        self._short = f"peerfabric-{getattr(function, '__name__', 'handler')}"
        step = f"give how many calls may run at once, between 1 and {CONCURRENCY_MAX}"
        self.concurrency = option_count("concurrency", concurrency, step, most=CONCURRENCY_MAX)
        self.at_once = self.concurrency
        """How many of its threads or tasks may be at their calls to begin with, apart from tasks that are suspended."""
        self.body_type, self.wants_message = _signature(function, kind, names)
        self.handle: Any = None
        """The consumer or subscriber from which it takes, by the next two."""
        self.take: Take
        self.again: Again
        self.source: Callable[[Handler], tuple[Any, Take, Again]]
        """Where it gets these three."""
        self._runners: dict[Any, bool] = {}
        """Its threads or tasks, and whether a call runs in each, which only itself writes down."""

    def draw_from(self, source: Callable[[Handler], tuple[Any, Take, Again]]) -> None:
        """Take from the consumer or subscriber that `source` gives. It has no threads or tasks yet, or no more."""
        self.source = source
        self._runners = {}
        self.handle, self.take, self.again = source(self)

    def renewed(self, node: NodeContext) -> Handler:
        """The same for another life of the node, whose context that is."""
        self.draw_from(self.source)
        return self

    @property
    def busy(self) -> int:
        """Calls that are running now."""
        return sum(list(self._runners.values()))

    def is_current(self) -> bool:
        """Whether one of its calls asks."""
        return threading.current_thread() in self._runners

    def start(self, node: NodeContext) -> None:
        """Run the function for each message that comes, until there is nothing any more.

        The caller holds the life lock, and nothing is called before it lets go. If a thread cannot be started, none is.
        """
        try:
            for number in range(self.concurrency):
                self._start_one(node, number)
        except BaseException:
            self.give_up()
            raise

    def _start_one(self, node: NodeContext, number: int) -> None:
        name = f"{self._short}-{number}"
        thread = threading.Thread(target=self._run_thread, args=(node, number), name=name, daemon=True)
        thread.start()
        self._runners[thread] = False

    def give_up(self) -> None:
        """The start came to nothing. The caller has held the life lock since."""
        self._runners.clear()

    def join(self, timeout: float) -> None:
        """Wait for the threads, which end with their node; a call that hangs is left behind."""
        for thread in list(self._runners):
            if thread is not threading.current_thread():
                thread.join(timeout)

    async def finish(self) -> None:
        """End what runs in the event loop, which ends with its node."""

    def _run_thread(self, node: NodeContext, number: int) -> None:
        me = threading.current_thread()
        why: BaseException | None = None
        try:
            with node.life_lock:
                if me not in self._runners:
                    return  # the start came to nothing
            waiting = node.waiting if isinstance(node.waiting, Blocking) else Blocking()
            judge_by(partial(self._has_failed, node))
            complete(self._run(me, node, waiting, self._call))
        except BaseException as error:
            why = error
        while me in self._runners and node.life is Life.RUNNING:
            _pause_thread(node)
            with suppress(RuntimeError, MemoryError):  # no thread can be started now
                self._replace(me, node, number, why)

    def _replace(self, me: Any, node: NodeContext, number: int, why: BaseException | None) -> None:
        """Start another thread or task in place of `me`, which has ended, if the node still runs."""
        with node.life_lock:
            if me not in self._runners or node.life is not Life.RUNNING:
                return
            self._start_one(node, number)
            del self._runners[me]
        with suppress(Exception):  # it may be the log that fails
            reason = "with no reason" if why is None else described(why)
            text = "a %s of handler %s ended while its node runs, and another one has taken its place: %s"
            _log.error(text, self.runs_in, self.name, reason, exc_info=why)

    async def _run(
        self, me: Any, node: NodeContext, waiting: Waiting, call: Callable[[Any], Awaitable[None] | None]
    ) -> None:
        """Until the node is closed, take and call, whatever is raised."""
        runners, take, again = self._runners, self.take, self.again
        consumer: Any = self.handle if self.settles else None
        began = 0.0
        pause = PAUSE_FIRST
        while True:
            try:
                while True:
                    item = again()
                    if began:
                        # One message was in hand until the next is, or until there is none. A call would cost each, and
                        # no lock is needed, as threads change at calls only.
                        took = (item._taken_at if item is not None else clock()) - began
                        if took < SHORT:
                            consumer.seconds[0] += 1
                        else:
                            at = bisect_left(HANDLER_SECONDS, took)
                            consumer.seconds[at] += 1
                        consumer.seconds_sum += took
                        began = 0.0
                    if item is None and (item := await take(waiting)) is None:
                        return
                    if consumer is not None:
                        began = item._taken_at
                    # No lock: each thread and task writes down its own.
                    runners[me] = True
                    try:
                        running = call(item)
                        if running is not None:
                            await running
                    finally:
                        runners[me] = False
                        if node.life is not Life.RUNNING:
                            node.pump.turned.open()  # whoever closes the node waits there for running calls
                    item = None  # whoever waits keeps no body
                    pause = PAUSE_FIRST
            except BaseException as error:
                began = 0.0
                if not has_failed(error) and not isinstance(error, Exception):
                    raise  # cancelled, or the loop is over
                if node.life is not Life.RUNNING:
                    return
                with suppress(Exception):  # it may be the log that fails
                    trace = None if isinstance(error, FabricError) else error
                    text = "handler %s takes nothing, and tries again in %.1f s: %s"
                    _log.error(text, self.name, pause, described(error), exc_info=trace)
            with suppress(TimedOut):
                await wait_until(waiting, node.closed, lambda: node.is_closed or None, pause, lambda: self.name)
            pause = min(2 * pause, PAUSE_MAX)

    def _call(self, item: Any) -> None:
        """Call the function, in a context of its own.

        It is a copy of the thread's, so that the next call does not see what this one sets.
        """
        try:
            if self.wants_message:
                returned = copy_context().run(self.function, item.body, item)
            else:
                returned = copy_context().run(self.function, item.body)
            if returned is not None:
                _refuse_unrun(returned, self.name)
        except BaseException as error:
            self._failed(item, error)
            return
        if self.settles:
            try:
                item.ack()
            except FabricError as error:
                self._not_acked(item, error)

    def _not_acked(self, message: Message[Any], error: FabricError) -> None:
        _log.error("%s was handled by %s and not acked: %s", message.id, message.queue, error)

    def _failed(self, item: Any, error: BaseException) -> None:
        if isinstance(item, Message):
            item.failed(error)
            if has_failed(error) and not isinstance(error, Retry | Reject):
                text = "the handler of %s failed on %s, attempt %d"
                _log.error(text, item.queue, item.id, item.attempt, exc_info=error)
        elif has_failed(error):
            _log.error("the handler of topic %s failed", item.topic, exc_info=error)

    def _has_failed(self, node: NodeContext, error: BaseException) -> bool:
        """Whether a call that ended with `error` has failed.

        Whatever code raises does, except what comes from outside: the node closes, a signal came.
        """
        match error:
            case NodeClosed():
                return node.life is Life.RUNNING  # else it failed because this node ends, which is not its fault
            case KeyboardInterrupt() | SystemExit():
                return not signals.raised_by_signal(error)
            case _:
                return True


def _pause_thread(node: NodeContext) -> None:
    """Let some time pass, or the node be closed. Not by `wait_until`, which may be what the thread ended of."""
    waiter = ThreadWaiter()
    node.closed.enter(waiter)
    try:
        if not node.is_closed:
            waiter.wait(REPLACE_AFTER)
    finally:
        node.closed.leave(waiter)


def _refuse_unrun(returned: object, name: str) -> None:
    """Raise if what a `def` returned is what should have been done, and was not.

    Raises:
        TypeError: It is a coroutine or a generator: the decorator of an `async def`, as a rule.
    """
    if inspect.iscoroutine(returned):
        returned.close()  # it would warn that it was never awaited
    elif not inspect.isawaitable(returned) and not inspect.isgenerator(returned):
        return
    raise TypeError(
        f"{name} returned a {type(returned).__name__}, which nobody runs; "
        f"use an async def of an AsyncNode, and let decorators of it be async def, too"
    )


def _signature(function: Callable[..., Any], kind: type, names: Mapping[str, Any] | None) -> tuple[Any, bool]:
    """The body type, and whether a second parameter receives the message itself.

    Raises:
        TypeError: The first parameter has no annotation, or there are others than those two.
    """
    try:
        hints = typing.get_type_hints(function, localns=dict(names) if names else None, include_extras=True)
    except NameError as error:
        raise TypeError(f"{function.__qualname__}: an annotation cannot be resolved ({error}); import it") from None
    except TypeError:
        raise TypeError(
            f"{function!r} is no function; decorate a def with the body type at its first parameter"
        ) from None
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
