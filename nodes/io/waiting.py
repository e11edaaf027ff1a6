"""Waiting of calls, which is the one difference between the blocking and the asynchronous front, and of the I/O thread.

The classes in `aio/` hold the logic once, as coroutines. Each of their waits goes through a `Waiting`: under asyncio it
suspends the task, under the blocking front it blocks the thread, so that a blocking call runs its coroutine to the end
in one step (`complete`). The I/O thread sleeps until a `Doorbell` rings.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from peerfabric.arguments import check_timeout
from peerfabric.discovery.locks import Lock, Rank, holds, own_threads, refuse_in_own_thread, refuse_inside
from peerfabric.errors import TimedOut, WouldDeadlock
from peerfabric.nodes.platform import CLOCK, bell

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

R = TypeVar("R")

_ONE: Final = (1).to_bytes(8, sys.byteorder)

EXPLAIN_AFTER: Final = 5.0
"""A call that waits for ever says once, after this long, what it waits for."""

IDLE: Final = (5.0, logging.INFO)
"""When and how a call that takes says that nothing comes."""

LOOK_UP_EVERY: Final = 1.0
"""Seconds after which the main thread looks up from a wait. A signal that comes just before it begins to wait, or to
another thread, does not interrupt the system's wait, and its handler runs only when the main thread runs again."""

UNASKED: Final = 0.05
"""Seconds that a thread is blocked before it is asked whether it may be, as asking takes time and most waits are short.
A node may stand still for as long if user code that interrupts one of its calls waits."""

LOCK_WAIT_MAX: Final = 1e6
"""Seconds that one wait for a lock takes at most. Python allows some 292 years, in a C integer of nanoseconds."""

_log = logging.getLogger("peerfabric")


clock: Final = partial(time.clock_gettime, CLOCK)  # not a def: it is called some twenty times a message
"""Seconds since the machine started, sleep included: a peer's silence while we slept is ours, not its."""


class Waiter(Protocol):
    """One call that waits at a gate."""

    def wake(self) -> None:
        """Let it go on. Called from any thread, perhaps more than once."""


class Waiting(Protocol):
    """How the calls of one front wait."""

    def waiter(self) -> Waiter:
        """A waiter for the calling thread or task."""

    async def park(self, waiter: Any, timeout: float | None) -> None:
        """Return when `waiter` was woken, or after `timeout` seconds; perhaps without a reason."""


class Answering(Protocol):
    """A call of a service whose handler the current thread or task runs."""

    ends_at: float
    """When its caller gives up, by `clock`."""
    depth: int
    """How many calls led to it."""

    def check(self) -> None:
        """Refuse to begin, or to go on with, what waits.

        Raises:
            Cancelled: Its caller has given up.
        """

    def rest(self, waiter: Waiter) -> None:
        """The handler waits by `waiter`, which is to be woken when the caller gives up; meanwhile another may run."""

    def resume(self, waiter: Waiter) -> None:
        """That wait is over."""


answering: Final[ContextVar[Answering | None]] = ContextVar("peerfabric_answering", default=None)
"""Of the current thread or task; None: it runs no handler of a service."""


class ThreadWaiter:
    """A thread that waits on a lock of its own."""

    __slots__ = ("asked", "lock")

    def __init__(self) -> None:
        self.asked = False
        """It was asked whether it may be blocked."""
        self.lock = threading.Lock()
        self.lock.acquire()

    def wake(self) -> None:
        try:
            self.lock.release()
        except RuntimeError:
            pass  # woken before, and not yet gone on

    def wait(self, timeout: float | None) -> bool:
        """Return when woken since the last call, or after `timeout` seconds; whether it was woken."""
        return self.lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), LOCK_WAIT_MAX))


class Blocking:
    """Calls block their thread. One of ours, or one that is in the middle of another call of ours, is not blocked."""

    waiter = ThreadWaiter

    async def park(self, waiter: ThreadWaiter, timeout: float | None) -> None:
        if get_ident() in own_threads:
            refuse_in_own_thread()
        left = LOCK_WAIT_MAX if timeout is None else max(0.0, min(timeout, LOCK_WAIT_MAX))
        if threading.current_thread() is threading.main_thread():
            left = min(left, LOOK_UP_EVERY)
        if not waiter.asked and left > UNASKED:
            if waiter.lock.acquire(timeout=UNASKED):
                return
            left -= UNASKED
            refuse_inside()
            waiter.asked = True
        waiter.lock.acquire(timeout=left)


class Working(Blocking):
    """Calls block a thread of ours that has nothing else to do meanwhile, and for which nobody waits but who closes."""

    async def park(self, waiter: ThreadWaiter, timeout: float | None) -> None:
        waiter.wait(timeout)


def refuse_to_wait(waiting: Waiting) -> None:
    """Refuse a call that is sure to wait before it has begun, as `park` would when something of it is done.

    Raises:
        WouldDeadlock: It is made in a thread of ours, or in the middle of another call of ours.
    """
    if isinstance(waiting, Blocking):
        if get_ident() in own_threads:
            refuse_in_own_thread()
        if holds(Rank.LIFE):
            refuse_inside()


class TaskWaiter:
    """A task that waits on an event of its loop."""

    __slots__ = ("event", "loop", "parks", "woken")

    def __init__(self, loop: AbstractEventLoop) -> None:
        import asyncio  # here, as elsewhere, so that a program without an event loop does not load it: a third of us

        self.loop = loop
        self.event = asyncio.Event()
        self.parks = 1
        """The number of the present wait, or of the next one."""
        self.woken = 0
        """The newest that somebody has ended. Set afterwards, and numbers grow: none is missed (see `Doorbell`)."""

    def wake(self) -> None:
        parks = self.parks
        if self.woken == parks:
            return
        try:
            self.loop.call_soon_threadsafe(self.event.set)
        except RuntimeError:
            pass  # the loop is closed, and with it whoever waited
        self.woken = parks


class Suspending:
    """Calls suspend their asyncio task."""

    def waiter(self) -> TaskWaiter:
        loop = running_loop()
        assert loop is not None, "a task waits, and no event loop runs"
        return TaskWaiter(loop)

    async def park(self, waiter: TaskWaiter, timeout: float | None) -> None:
        timer = None if timeout is None else waiter.loop.call_later(max(0.0, timeout), waiter.event.set)
        try:
            await waiter.event.wait()
            waiter.parks += 1
            waiter.event.clear()
        finally:
            if timer is not None:
                timer.cancel()


class Gate(list[Waiter]):
    """Where calls wait until something may have changed: they. Opened by the pump, or by whoever changed it.

    Who enters is woken each time the gate opens, until he leaves, and looks at the condition after he has entered, not
    before.
    """

    # No lock, as a signal handler may open the gate that its own thread is entering: what is done with a list is done
    # in one step of the interpreter.

    enter = list.append
    leave = list.remove

    def open(self) -> None:
        """Let everybody who waits look again."""
        for waiter in list(self):
            waiter.wake()

    def open_one(self) -> None:
        """Let the last of those who wait look again; if it leaves and there is more, it calls this in its turn."""
        try:
            waiter = self[-1]
        except IndexError:
            return
        waiter.wake()


def in_event_loop() -> bool:
    """Whether an event loop runs in this thread."""
    return running_loop() is not None


def running_loop() -> AbstractEventLoop | None:
    """The event loop of this thread; None in other threads, where plain calls and `def` handlers come from."""
    # No loop runs in a program that has not loaded asyncio, which may be on its way in another thread just now.
    find = getattr(sys.modules.get("asyncio"), "get_running_loop", None)
    if find is None:
        return None
    try:
        return find()  # type: ignore[no-any-return]
    except RuntimeError:
        return None


def stalled(waiting: Waiting) -> str:
    """What to add about a call that waits so and thereby keeps an event loop from running; "" if it does not."""
    if not isinstance(waiting, Blocking) or not in_event_loop():
        return ""
    return "; meanwhile this call keeps the event loop of its thread from running: use AsyncNode there"


async def wait_until(
    waiting: Waiting,
    gate: Gate,
    attempt: Callable[[], R | None],
    timeout: float | None,
    what: Callable[[], str],
    explain: tuple[float, int] = (EXPLAIN_AFTER, logging.WARNING),
    moved: Callable[[], Any] | None = None,
) -> R:
    """Return what `attempt` returns as soon as it is not None, trying again each time the gate opens.

    Cancelled or interrupted, nothing was taken: `attempt` runs in the calling thread or task only.

    Args:
        explain: After how many seconds it is logged that this still waits, and at which level.
        moved: Changes with what gets on, if anything does: then nothing is logged before that has stood for so long.

    Raises:
        TimedOut: `attempt` still returned None after `timeout` seconds; `what()` says for what and what to do.
        Cancelled: It is the handler of a service that waits, and nobody waits for its reply any more.
        TypeError, ValueError: `timeout` is not a finite number, nor None.
    """
    if timeout is not None:
        timeout = check_timeout(timeout)
    started_at = clock()
    ends_at = None if timeout is None else started_at + timeout
    explain_after, level = explain
    explain_at: float | None = started_at + explain_after if timeout is None or timeout > explain_after else None
    before = moved() if moved is not None else None
    waiter = waiting.waiter()
    call, rests = answering.get(), False
    gate.enter(waiter)
    try:
        while True:
            result = attempt()
            if result is not None:
                return result
            if call is not None:
                call.check()
                if not rests:
                    rests = True
                    call.rest(waiter)
            now = clock()
            if ends_at is not None and now >= ends_at:
                raise TimedOut(f"timed out after {timeout:g} s: {what()}{stalled(waiting)}")
            if explain_at is not None and now >= explain_at and moved is not None and (so_far := moved()) != before:
                before, explain_at = so_far, now + explain_after
            elif explain_at is not None and now >= explain_at:
                explain_at = None
                reason = stalled(waiting)
                level = logging.WARNING if reason else level
                _log.log(level, "still waiting after %.0f s: %s%s", now - started_at, what(), reason)
            wake_at = explain_at if ends_at is None or (explain_at is not None and explain_at < ends_at) else ends_at
            await waiting.park(waiter, None if wake_at is None else wake_at - now)
    finally:
        gate.leave(waiter)
        if rests and call is not None:
            call.resume(waiter)


def complete(call: Coroutine[Any, Any, R]) -> R:
    """Run a call whose waits block the thread: it ends in its first step."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("a blocking call suspended")


class Doorbell:
    """Wakes one sleeping thread, at the cost of a system call only if it may be asleep.

    The sleeper calls `sleep`, and only then looks at what others left for it. A ringer leaves something and then calls
    `ring`.

    Nothing is missed. The sleeper first writes `_asleep` and then reads `_rung`; a ringer first writes `_rung` and
    then reads `_asleep`. The interpreter runs these one at a time, so whichever comes second sees the first: either
    the sleeper does not sleep, or the ringer writes to `fd`. A ring between waking and the end of `sleep` may be
    forgotten by it, but what it is about was left before, and is looked at after.

    Many rings during one sleep write once: `_answered_for` is the number of the sleep for which `fd` was written. It
    is set after writing and not before, so that an exception of a signal handler in between costs one more write,
    where it would else silence the bell; and since numbers only grow, a ringer that was suspended for long can set
    it to an old number, but never silence a later sleep.
    """

    def __init__(self) -> None:
        self.fd, self._end = bell()
        self.heard = False
        """Whether somebody rang before or during the last sleep."""
        self._rung = False
        self._sleeps = 0
        self._asleep = 0  # the number of the present sleep, or 0
        self._answered_for = 0
        self._open = Lock()  # guards fd against being closed, and its number reused, under a ringer

    def ring(self) -> None:
        """End the present sleep, or keep the next one from starting. Any thread; also in signal handlers."""
        self._rung = True
        sleep = self._asleep
        if sleep and sleep != self._answered_for:
            lock = self._open
            if lock.is_ours():  # a finaliser or signal handler rings in the middle of this
                self._write()
            else:
                try:
                    if not lock.acquire(False):
                        lock.wait()
                    if self.fd >= 0:
                        os.write(self._end, _ONE)
                except BlockingIOError:
                    pass  # full, so it is readable
                except WouldDeadlock:
                    return  # two who ring each in the middle of what the other one does: the sleep ends by itself
                finally:
                    with suppress(RuntimeError):  # it was not taken
                        lock.release()
            self._answered_for = sleep

    def _write(self) -> None:
        if self.fd >= 0:
            with suppress(BlockingIOError):  # full, so it is readable
                os.write(self._end, _ONE)

    def sleep(self, poll: Callable[[float, int], R], seconds: float) -> R:
        """Call `poll(seconds, 64)`, which is to return once `fd` is readable; with 0 seconds if somebody has rung."""
        self._sleeps = self._asleep = self._sleeps + 1
        try:
            return poll(0.0 if self._rung else seconds, 64)
        finally:
            self._asleep = 0
            self.heard = self._rung
            if self.heard:  # else somebody who rings now is heard by the next sleep
                self._rung = False

    def silence(self) -> None:
        """Make `fd` unreadable again."""
        with suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        """Close `fd`; later rings do nothing."""
        with self._open:
            self.abandon()

    def abandon(self) -> None:
        """Close `fd` in a forked child, where nobody else can be ringing and the lock may never be released."""
        fd, self.fd = self.fd, -1
        self._asleep = 0
        if fd >= 0:
            os.close(fd)
            if self._end != fd:
                os.close(self._end)
