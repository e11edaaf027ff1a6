"""Doorbell: a descriptor that wakes the I/O thread of a node."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from peerfabric.discovery.locks import Lock
from peerfabric.errors import WouldDeadlock
from peerfabric.nodes.platform import bell

_ONE: Final = (1).to_bytes(8, sys.byteorder)

T = TypeVar("T")


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
            if self._open.is_ours():  # a finaliser or signal handler rings in the middle of this
                self._write()
            else:
                try:
                    with self._open:
                        if self.fd >= 0:
                            os.write(self._end, _ONE)
                except BlockingIOError:
                    pass  # full, so it is readable
                except WouldDeadlock:
                    return  # two who ring each in the middle of what the other one does: the sleep ends by itself
            self._answered_for = sleep

    def _write(self) -> None:
        if self.fd >= 0:
            with suppress(BlockingIOError):  # full, so it is readable
                os.write(self._end, _ONE)

    def sleep(self, poll: Callable[[float, int], T], seconds: float) -> T:
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
