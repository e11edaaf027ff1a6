"""Memory growth of the process that may come from a message without end, and whether it was that.

libzmq gathers all frames of a message before it hands over the first, however many there are: a peer that says MORE for
ever fills the memory of a node, in which no message arrives. Nothing tells how much libzmq holds. So we look at the
memory of the whole process, and at the time that ZeroMQ's threads have worked: what grew without them is the program's
own, and so is what may be whole messages that came or left, up to a second limit: a message without end may hide behind
others. For the rest, those who can do so close the connections, and what happens to the memory then says whether it was
there.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Final

from peerfabric.discovery.log import log as _log
from peerfabric.discovery.reminder import Reminders

GROWTH: Final = 256 * 1024 * 1024
"""Bytes that may come in before somebody looks: a quarter of a second's worth of the fastest peers in pipes, and the
received messages of some consumers (64 MiB each)."""

GROSS: Final = 1024 * 1024 * 1024
"""Bytes that may come in, whole messages or not, before somebody looks. Who sends without end beside others, up to
`_KEPT` times as fast as they, stays below GROWTH for ever. Four times as much, as a program may well keep what it gets;
one that does is connected anew at this size, at twice this size, and so on, which costs no message of a queue."""

_FASTEST: Final = 4 * 1024**3
"""Bytes in a second that one thread cannot receive into new memory: 1.6 GiB were measured."""

LOOK_EVERY_IDLE: Final = 0.5
LOOK_EVERY: Final = 0.05
"""Seconds between two looks while ZeroMQ's threads do next to nothing, and while they work."""

_KEPT: Final = 8
"""Times of the size of a message that may be there of it: as objects of the program, and in pipes."""

_WORK_MIN: Final = 0.004
"""Seconds of work before the size of the process is read again: they bring 16 MiB at most, and reading costs 60 us."""

LOOKS: Final = 4
"""Looks without a change until memory that connections held is taken to have gone."""
_STEP: Final = 1024 * 1024

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Growth:
    """Judges the growth of a process from what it is shown every now and then. Opens nothing."""

    def __init__(self) -> None:
        self.bytes = 0
        """By how much the process has grown, as far as ZeroMQ's threads worked enough for that."""
        self.limit = GROWTH
        self.gross = 0
        """The same, with what may be whole messages."""
        self.gross_limit = GROSS
        self._size: int | None = None
        self._work, self._moved = 0.0, 0

    def work_since(self, work: float) -> float:
        """Seconds worked since `look` was called."""
        return work - self._work

    def look(self, size: int, work: float, moved: int) -> bool:
        """Take in the size of the process, the seconds worked and the bytes of whole messages since it began.

        Returns whether it grew beyond the limit by what cannot be messages that came or left, or beyond the gross one.
        """
        if self._size is not None:
            grown = min(size - self._size, int((work - self._work) * _FASTEST))
            self.gross = max(0, self.gross + grown)
            if grown > 0:
                grown = max(0, grown - _KEPT * (moved - self._moved))
            self.bytes = max(0, self.bytes + grown)
        self._size, self._work, self._moved = size, work, moved
        return self.bytes > self.limit or self.gross > self.gross_limit

    def is_found(self, before: int, after: int) -> bool:
        """Connections were closed and the process went from `before` to `after`: whether that is where it grew.

        Half of what cannot be messages is enough, or a quarter of all, as the program may keep what it got meanwhile.
        """
        freed = before - after
        found = (self.bytes > self.limit and 2 * freed >= self.bytes) or (
            self.gross > self.gross_limit and 4 * freed >= self.gross
        )
        if found:
            self.bytes, self.limit = 0, GROWTH
            self.gross, self.gross_limit = 0, GROSS
        return found

    def not_found(self) -> None:
        """It has grown by itself: it is to grow to twice as much before anybody is suspected again."""
        if self.bytes > self.limit:
            self.limit = 2 * self.bytes
        if self.gross > self.gross_limit:
            self.gross_limit = 2 * self.gross


class Watch:
    """Looks at the growth of this process, and closes what may be filled without end, one kind after the other.

    Args:
        threads: Those of ZeroMQ.
        renewals: Each closes the sockets of one kind and makes new ones that are not connected yet.
        where: Names the endpoints at which others connect.
    """

    def __init__(
        self, threads: Iterable[int], renewals: Iterable[Callable[[], None]], where: Callable[[], str]
    ) -> None:
        self.judging = False
        """Sockets were closed and nobody may connect until it is clear what that has changed."""
        self._threads = list(threads)
        self._renewals = deque(renewals)
        """The next to be suspected comes first: the one that was found last, if any was."""
        self._where = where
        self._growth = Growth()
        self._complaints = Reminders()
        self._before = self._last = self._looks = self._moved = 0
        self._is_over()  # what is there already is nobody's fault

    def look(self, now: float, moved: int) -> float:
        """To be called by the thread that owns the sockets; after how many seconds again.

        `moved` are the bytes of all whole messages that it sent or received.
        """
        self._moved = moved
        if self.judging:
            self._judge(now)
            return LOOK_EVERY
        if self._growth.work_since(worked(self._threads)) < _WORK_MIN:
            return LOOK_EVERY_IDLE
        if self._is_over():
            give_back()  # what only the allocator keeps is nobody's fault
            if self._is_over():
                self._renewals[0]()
                self.judging, self._looks, self._last = True, 0, self._before
        return LOOK_EVERY

    def _is_over(self) -> bool:
        size = resident()
        if size is None:
            return False
        self._before = size
        return self._growth.look(size, worked(self._threads), self._moved)

    def _judge(self, now: float) -> None:
        give_back()
        size = resident()
        if size is not None and size < self._last - _STEP:
            self._last, self._looks = size, 0  # ZeroMQ's threads are at it
            return
        grown = self._before - size if size is not None else 0
        if size is not None and self._growth.is_found(self._before, size):
            if self._complaints.due("found", now):
                _log.error(
                    "a peer sends a message without end, %d MiB so far: its connection was closed with all others of "
                    "that kind, which come back by themselves; look for a program that connects to %s and is no node",
                    grown >> 20,
                    self._where(),
                )
        elif self._looks < LOOKS:
            self._looks += 1
            return
        else:
            by_itself = self._growth.gross >> 20
            _log.debug("the process grew by %d MiB by itself; connections were made anew to see that", by_itself)
            self._growth.not_found()
            self._renewals.rotate(-1)
        self.judging = False
        self._is_over()


def resident() -> int | None:
    """Bytes of memory that this process has; None if that cannot be read now."""
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(file, 128).split()[1]) * _PAGE
    finally:
        os.close(file)


def threads() -> set[int]:
    """The threads of this process; none if that cannot be read."""
    with suppress(OSError):
        return {int(name) for name in os.listdir("/proc/self/task")}
    return set()


def worked(numbers: Iterable[int]) -> float:
    """Seconds of processor time that these threads have used; without any of them, as much as could be."""
    total, found = 0.0, False
    for number in numbers:
        with suppress(OSError):
            # The clock of a thread, as the kernel numbers it: pthread_getcpuclockid(3) does the same.
            total += time.clock_gettime(~number << 3 | 6)
            found = True
    return total if found else time.monotonic()


def give_back() -> None:
    """Let the allocator return to the system what is free; glibc's keeps it, however much it is."""
    import ctypes  # which nobody else needs

    with suppress(OSError, AttributeError):
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        trim(0)


@cache  # once a process: a second block would come from what is kept, and be cleared
def keep_freed_memory() -> None:
    """Let the allocator keep up to 64 MiB that was freed, so that large messages do not fault their pages in anew.

    glibc raises its thresholds for returning memory to twice the largest block of up to 32 MiB that it has mapped and
    seen freed (mallopt(3), M_MMAP_THRESHOLD). This one is never touched, so it costs no memory: `bytes` asks for memory
    that is zero already, where `bytearray` clears it. It doubles the rate of 1 MiB bodies.
    """
    bytes(32 * 1024 * 1024 - 8192)
