"""Signals: how SIGINT and SIGTERM end a node in order, of `signals=True` and while `run()` works."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from peerfabric.discovery.locks import Lock
from peerfabric.discovery.remarks import remark
from peerfabric.nodes.handler_context import in_hand
from peerfabric.nodes.io.waiting import LOOK_UP_EVERY, Gate, Waiting, in_event_loop, wait_until
from peerfabric.nodes.message import IN_HAND, Cause, holds_back

if TYPE_CHECKING:
    from asyncio import Task

    from peerfabric.queue.incoming import IncomingQueue
    from peerfabric.topic.subscriber import IncomingTopic

HEARD: Final = (signal.SIGINT, signal.SIGTERM)
CODE_BASE: Final = 128
"""A process that a signal ended has this and its number as exit code, as shells, containers and systemd know it."""


_listeners: list[Ending] = []
"""The nodes that hear the next signal."""
_before: dict[int, Any] = {}
"""Who handled the signals that we handle."""


class Ending:
    """Whether a signal has told one node to end, and what its calls do then.

    Code of the user is not interrupted. It comes to an end in its own calls of the node: iterations end as if there was
    nothing any more, and what would take, send or wait raises `SystemExit`, which ends threads and programs without a
    traceback. Two go on: handlers, until the node closes, and sends of who has a message in hand, so that the body
    that runs is run to its end.

    Args:
        name: Of the node, for the log.
        suspends: Whether its calls suspend tasks of an event loop.
        is_handler: Whether it is a handler that asks.
        wake: Wakes all calls that wait.
    """

    def __init__(self, name: str, *, suspends: bool, is_handler: Callable[[], bool], wake: Callable[[], None]) -> None:
        self.signal = 0
        """The number of the signal that has come; 0: none."""
        self.starter: Task[Any] | None = None
        """The task that started the node, if it belongs to an event loop."""
        self._name, self._suspends, self._is_handler, self._wake = name, suspends, is_handler, wake

    def listen(self) -> None:
        """The node has started: hear the first signal that comes and that the program does not handle itself."""
        name = self._name
        if not _in_main_thread():
            text = "%s hears no signals, as another thread started it; start it in the main thread"
            remark(logging.WARNING, text, name)
            return
        _listeners.append(self)
        _interrupter.open()
        for number in HEARD:
            if _is_default(number):
                _before[number] = signal.getsignal(number)
                signal.signal(number, _on_signal)
            elif signal.getsignal(number) is not _on_signal:
                name_of_signal = signal.Signals(number).name
                remark(logging.INFO, "%s leaves %s to the program, which handles it", name, name_of_signal)
        _look_up(lambda: self in _listeners)

    def stop(self) -> None:
        """Hear no more; the last one puts back who handled signals before."""
        try:
            _listeners.remove(self)
        except ValueError:
            return  # it hears nothing, or has heard
        if not _listeners:
            _put_back()

    def look(self) -> None:
        """See that a signal that came is heard soon. Called every second or so in the node's I/O thread."""
        _interrupter.look()

    def signalled(self, number: int) -> None:
        """A signal came. Called in the main thread, between any two steps of it: whatever lock it holds, it holds."""
        self.signal = number
        self._wake()

    @property
    def is_told(self) -> bool:
        """Whether a signal has come and it is no handler that asks."""
        return self.signal != 0 and not self._is_handler()

    def ends_loop(self, end: IncomingQueue | IncomingTopic) -> bool:
        """Whether a loop over what comes to `end` is over.

        Raises:
            SystemExit, CancelledError: It is, and runs in the body of a loop over another queue, which must not take
                what came so far for all of it, and ack.
        """
        if not self.is_told:
            return False
        if any(taken._owner.end is not end for taken in in_hand()):
            self.check()
        return True

    def check(self) -> None:
        """End the call that asks, which would wait, if a signal has come.

        Raises:
            SystemExit: It has.
            CancelledError: The same in a task that did not start the node. SystemExit would stop the event loop
                there, before what other tasks do has come to an end.
        """
        if not self.is_told:
            return
        if self._suspends and in_event_loop():
            import asyncio  # it is there, and other programs need not load it

            if asyncio.current_task() is not self.starter:
                raise asyncio.CancelledError(f"signal {self.signal} came")
        raise self.exit()

    def check_sending(self, cause: Cause = IN_HAND) -> None:
        """Like `check`, of a call that need not wait: it goes on if the thread or task has a message in hand.

        Also if `cause` is in hand elsewhere: its body, which waits for the threads that it has started, would not see
        that one of them has ended here, and ack.
        """
        if self.signal and not in_hand() and not holds_back(cause):
            self.check()

    def explains(self, error: BaseException | None) -> bool:
        """Whether it is a signal that ends the block which ends with `error`: with nothing, or with a cancellation."""
        cancelled = getattr(sys.modules.get("asyncio"), "CancelledError", ())
        return self.signal != 0 and (error is None or isinstance(error, cancelled))

    def exit(self) -> SystemExit:
        """What ends the program."""
        return SystemExit(CODE_BASE + self.signal)


async def until_signal(
    waiting: Waiting, gate: Gate, is_over: Callable[[], bool], what: str, heard: Callable[[], None]
) -> None:
    """Return when SIGINT or SIGTERM comes, or when `is_over` at an opening of `gate`; `what` says so to people.

    `heard` is called when signals are heard: one that comes from then on ends the wait, and not the process.
    """
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        gate.open()
        _tell(number)  # other nodes

    before = {number: signal.signal(number, on_signal) for number in HEARD} if _in_main_thread() else {}
    _look_up(lambda: not received and not is_over())
    try:
        heard()
        await wait_until(
            waiting,
            gate,
            lambda: True if received or is_over() else None,
            None,
            lambda: what,
            (float("inf"), logging.INFO),
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raised_by_signal(error: BaseException) -> bool:
    """Whether a signal raised `error` in this thread: Ctrl-C as Python hears it, or a signal handler of the program."""
    if not _in_main_thread():
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    if isinstance(error, KeyboardInterrupt) and signal.default_int_handler in handlers:
        return True
    codes = {_code_of(handler) for handler in handlers if callable(handler)}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, partial):  # as that of asyncio
        handler = handler.func
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _look_up(is_wanted: Callable[[], bool]) -> None:
    """As long as `is_wanted`, let the event loop of this thread, if there is one, look up from its wait for signals."""

    def again() -> None:
        if is_wanted():
            loop.call_later(LOOK_UP_EVERY, again)

    if in_event_loop():
        import asyncio

        loop = asyncio.get_running_loop()
        again()


def after_fork() -> None:
    """In a child process no node hears anything."""
    _listeners.clear()
    _put_back()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_default(number: int) -> bool:
    """Whether the program has no handler of its own for a signal: nobody has, or `asyncio.run` for its main task."""
    handler = signal.getsignal(number)
    if isinstance(handler, partial):
        runner = getattr(sys.modules.get("asyncio"), "Runner", None)
        return runner is not None and isinstance(getattr(handler.func, "__self__", None), runner)
    return handler is (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _on_signal(number: int, frame: FrameType | None) -> None:
    told = _tell(number)
    _put_back()
    if not told:
        signal.raise_signal(number)  # the last node was closed in another thread, which cannot put back handlers


def _tell(number: int) -> bool:
    """Let all nodes that listen hear a signal, as their first and last; whether there are any."""
    listeners = _listeners[:]
    _listeners.clear()
    for ending in listeners:
        ending.signalled(number)
    return bool(listeners)


def _put_back() -> None:
    """Let those handle signals who did before, unless somebody else does by now. Only the main thread can."""
    if not _in_main_thread():
        return
    for number, handler in list(_before.items()):
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, handler)
    _before.clear()
    _interrupter.close()


class _Interrupter:
    """Ends a wait of the main thread that a signal should have ended.

    At a signal Python only takes a note, in whatever thread the system chose. The main thread calls the handler when
    it next runs Python, to which the signal brings it by interrupting its wait. One that comes after the thread's last
    look at the notes and before the system call of the wait, or to another thread, interrupts nothing: `thread.join()`
    goes on, and the handler is not called until another signal comes. (Our own waits look up, see `LOOK_UP_EVERY`, and
    event loops are made to.)

    Python writes the number of each signal into a pipe, too (`signal.set_wakeup_fd`). An I/O thread looks there, and
    interrupts the main thread until that has run. It does so by SIGURG, as the runtime of Go does: ignored by default,
    it does no harm whenever it comes, where another SIGTERM could kill a process that just put its handlers back.
    """

    def __init__(self) -> None:
        self._lock = Lock()  # guards the pipe against being closed, and its numbers reused, under who reads
        self._pipe: tuple[int, int] | None = None
        self._is_due = False
        """A signal came, and the main thread may not have run since."""

    def open(self) -> None:
        """Begin, unless an event loop runs here, or the program uses what this needs. In the main thread."""
        if self._pipe is not None or in_event_loop() or signal.getsignal(signal.SIGURG) is not signal.SIG_DFL:
            return
        pipe = os.pipe()
        for fd in pipe:
            os.set_blocking(fd, False)
        theirs = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)  # there is no other way to ask
        if theirs != -1:
            with suppress(OSError, ValueError):  # it is closed, or full
                signal.set_wakeup_fd(theirs)
                os.write(theirs, os.read(pipe[0], 512))
        self._is_due = False
        signal.signal(signal.SIGURG, self._main_thread_runs)
        self._pipe = pipe
        if theirs != -1:
            self.close()

    def look(self) -> None:
        """Interrupt the main thread if a signal came and it has not run since. In another thread."""
        if self._pipe is None:
            return
        main = threading.main_thread().ident
        with self._lock:
            if self._pipe is None or main is None:
                return
            with suppress(BlockingIOError):
                if not set(HEARD).isdisjoint(os.read(self._pipe[0], 512)):
                    self._is_due = True
            if self._is_due:
                signal.pthread_kill(main, signal.SIGURG)

    def close(self) -> None:
        """Put all back as it was. In the main thread, perhaps in the middle of this."""
        pipe = self._pipe
        if pipe is None:
            return
        if signal.getsignal(signal.SIGURG) == self._main_thread_runs:
            # Python complains of a signal that came and has lost its handler. It is going through what came if SIGTERM
            # calls this, and looks at that again, here, only for a new one.
            signal.raise_signal(signal.SIGURG)
            signal.signal(signal.SIGURG, signal.SIG_DFL)
        theirs = signal.set_wakeup_fd(-1)
        if theirs not in (-1, pipe[1]):
            signal.set_wakeup_fd(theirs)  # they took it meanwhile
        try:
            self._lock.acquire()  # not `with`, which may refuse: who else takes it waits for nothing
            pipe, self._pipe = self._pipe, None
        finally:
            with suppress(RuntimeError):  # it was not taken
                self._lock.release()
        for fd in pipe or ():
            os.close(fd)

    def _main_thread_runs(self, number: int, frame: FrameType | None) -> None:
        self._is_due = False  # Python calls handlers by number, so that of SIGINT or SIGTERM was called before


_interrupter: Final = _Interrupter()
