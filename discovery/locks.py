"""Locks of everything that has threads, made so that user code may run into them.

Finalisers and signal handlers run between any two steps of a thread, also of a thread of ours, and while it holds a
lock. What they call of ours must neither wait for the very thread that they interrupt, nor find what the lock guards
half changed. So a thread never waits for a lock that it holds already, and, while it holds one, only for locks of a
higher rank. Whoever comes out of order is refused: at once, or, if another thread has the lock, after PATIENCE.
Nothing else waits in such a place for long (`refuse_inside`), nor ever in a thread of ours (`OwnThread`).

Nobody waits for anything while a lock of the last rank is held, so that all waiting ends.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import weakref
from contextlib import suppress
from enum import IntEnum
from operator import call
from types import FrameType
from typing import Final

from peerfabric.errors import WouldDeadlock

PATIENCE: Final = 0.005
"""Seconds that a thread waits before it asks whether it waits out of order. Asking takes longer the more locks there
are; as a rule they are held for less than this, and nobody asks."""


class Rank(IntEnum):
    """The order in which locks may be taken."""

    LIFE = 0
    """Starting, closing, making handles. Taken by calls that do much and must not stop in between: out of order they
    are refused before they begin."""
    WRITING = 1
    TAKING = 2
    ENGINE = 3
    LAST = 4
    """Under it nobody waits for anything but the system."""


_all: Final[dict[int, set[weakref.ref[Lock]]]] = {rank: set() for rank in Rank}


class Lock(_thread.RLock):  # type: ignore[misc]  # not final, whatever typeshed says
    """A lock that refuses whoever would wait for himself.

    `with lock:` leaves it free whatever happens, also when Ctrl-C comes in between. Where each nanosecond counts, the
    same in C, as a signal handler may raise after each call:

        if lock.is_ours():
            raise lock.refusal()
        try:
            if not lock.acquire(False):
                lock.wait()
            ...
        finally:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was not taken
    """

    __slots__ = ("_rank",)

    is_ours = _thread.RLock._is_owned  # type: ignore[attr-defined]
    """Whether this thread holds it."""

    def __new__(cls, rank: Rank = Rank.LAST) -> Lock:
        return super().__new__(cls)

    def __init__(self, rank: Rank = Rank.LAST) -> None:
        self._rank = rank
        _all[rank].add(weakref.ref(self, _all[rank].discard))

    def __enter__(self) -> bool:  # type: ignore[override]
        if self.is_ours() or (self._rank is Rank.LIFE and holds(Rank.LIFE)):
            raise self.refusal()
        try:
            if not self.acquire(False):
                self.wait()
        except BaseException:  # a signal handler's, perhaps just after the lock was taken
            try:
                self.release()
            except RuntimeError:
                pass
            raise
        return True

    def wait(self) -> None:
        """Take it from another thread.

        Raises:
            WouldDeadlock: This thread came here out of order, and the other one is not done with it soon.
        """
        # The node stands still while somebody holds its engine's lock, so that one is asked about before.
        if self._rank < Rank.ENGINE and holds(Rank.ENGINE, Rank.ENGINE):
            raise self.refusal()
        if not self.acquire(timeout=PATIENCE):
            if holds(self._rank):
                raise self.refusal()
            self.acquire()

    @staticmethod
    def refusal() -> WouldDeadlock:
        return WouldDeadlock(
            "a finaliser, a signal handler or a handler of log lines calls peerfabric in the middle of another call "
            "of its thread, which it would wait for; "
            "let it put what it has into a queue.SimpleQueue, for a thread of yours"
        )


_ours: tuple[str, ...] = ("peerfabric.",)
"""Names with which the modules begin whose code holds locks."""


_INTERRUPTING: Final = frozenset({"__del__", "_on_signal", "on_signal"})
"""Functions of ours that the interpreter calls in between."""


def _interrupts() -> bool:
    """Whether this call is made by code that interrupts, or is called by, another call of ours in this thread.

    Locks are held only during our own calls, and a thread's stack is short, where the locks of all handles are many.
    """
    frame: FrameType | None = sys._getframe(1)
    called = True
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(_ours):
            called = False
        elif not called and name != __name__:  # `OwnThread.run` is at the bottom of each
            return True
        elif frame.f_code.co_name in _INTERRUPTING:
            called = False
        frame = frame.f_back
    return False


def holds(lowest: Rank, highest: Rank = Rank.LAST) -> bool:
    """Whether this thread holds a lock of one of these ranks."""
    # Without a step of Python for each lock: there are some for each handle.
    return _interrupts() and any(
        any(map(Lock.is_ours, filter(None, map(call, list(_all[rank]))))) for rank in range(lowest, highest + 1)
    )


def refuse_inside() -> None:
    """Refuse what must not be half done, or would wait for long, to user code that interrupts a call of ours.

    Raises:
        WouldDeadlock: This thread holds a lock.
    """
    if holds(Rank.LIFE):
        raise Lock.refusal()


own_threads: Final[set[int]] = set()
"""Numbers of the threads that work for nodes."""


class OwnThread(threading.Thread):
    """A thread that works for a node, and in which user code runs only by chance."""

    def run(self) -> None:
        ident = threading.get_ident()
        own_threads.add(ident)
        try:
            super().run()
        finally:
            own_threads.discard(ident)


importing: Final = Lock()
"""Held while a thread of ours loads modules: a child that is forked in the middle of that could never load them."""
_IMPORT_TIME: Final = 2.0
"""Seconds that a fork waits for it."""


def _before_fork() -> None:
    importing.acquire(timeout=_IMPORT_TIME)


def _after_fork() -> None:
    with suppress(RuntimeError):  # it was not taken
        importing.release()


def _forked() -> None:
    """In a child process: its threads may have the numbers of threads of the parent, which hold nothing here."""
    own_threads.clear()
    for locks in _all.values():
        for ref in list(locks):
            lock = ref()
            if lock is not None:
                lock._at_fork_reinit()  # type: ignore[attr-defined]  # as those of the standard library do


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked)


def refuse_in_own_thread() -> None:
    """Refuse to keep a thread waiting for what it may have to do itself.

    Raises:
        WouldDeadlock: It is one of ours.
    """
    if threading.get_ident() in own_threads:
        raise WouldDeadlock(
            "a finaliser or a weakref callback that runs in a thread of peerfabric makes a call that has to wait; "
            "let it put what it has into a queue.SimpleQueue, for a thread of yours"
        )
