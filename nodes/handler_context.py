"""Handler context: unsettled deliveries of a thread or task that runs user code, and whether errors there count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from peerfabric.arguments import check_timeout
from peerfabric.nodes.io.waiting import clock
from peerfabric.queue.delivery import Delivery, pause, resume
from peerfabric.queue.incoming import IncomingQueue

if TYPE_CHECKING:
    from peerfabric.nodes.io.pump import Pump

HANDLER_BLOCK_MAX: Final = 30.0
"""Seconds that a send without timeout waits for room inside a handler: two queues that wait for each other end."""

_handling: ContextVar[tuple[tuple[IncomingQueue, Delivery], ...]] = ContextVar("peerfabric_handling", default=())
"""The deliveries that the current thread or task took from, newest last; some may be decided since."""
handling: Final = _handling.get
_judge: ContextVar[Callable[[BaseException], bool] | None] = ContextVar("peerfabric_judge", default=None)
in_handler: Final = _judge.get
"""Not None in the thread or task of a handler."""
IN_HAND_MAX: Final = 256


def in_hand() -> list[tuple[IncomingQueue, Delivery]]:
    """What the current thread or task took and did not settle: its leases stand still while it waits in a send."""
    held = []
    for item in handling():
        if _undecided(item[1]):
            held.append(item)
    return held


def _undecided(delivery: Delivery) -> bool:
    started = min(delivery.next, delivery.limit)
    if delivery.gone is None and not delivery.verdicts:  # all that is decided was acked in order
        return max(delivery.acked, delivery.reported) < started
    try:
        unsettled = delivery.unsettled(delivery.acked, started)
    except IndexError:  # the machine, in the I/O thread, is just settling some of it: the next look tells
        return True
    count = sum(high - low for low, high in unsettled)
    return count > sum(high - low for _, low, high, _, _ in list(delivery.verdicts))


def take_in_hand(end: IncomingQueue, delivery: Delivery) -> None:
    """The current thread or task takes from `delivery`, a delivery of `end`."""
    held = handling()
    if held and held[-1][1] is delivery:
        return
    kept: list[tuple[IncomingQueue, Delivery]] = []
    for item in held:
        if item[1] is not delivery and _undecided(item[1]):
            kept.append(item)
    _handling.set((*kept[-IN_HAND_MAX:], (end, delivery)))


def lease_paused(pump: Pump) -> AbstractContextManager[None]:
    """The lease of what this thread or task handles stands still meanwhile."""
    held = in_hand()
    return _paused(pump, held) if held else nullcontext()


@contextmanager
def _paused(pump: Pump, held: list[tuple[IncomingQueue, Delivery]]) -> Iterator[None]:
    with pump.lock:
        for _, delivery in held:
            pause(delivery, clock())
    try:
        yield
    finally:
        with pump.lock:
            for _, delivery in held:
                resume(delivery, clock())


class Patience:
    """How long one call waits in all: `timeout` seconds, and in a handler not for ever."""

    def __init__(self, timeout: float | None) -> None:
        self.limit = HANDLER_BLOCK_MAX if timeout is None and in_hand() else check_timeout(timeout)
        self._ends_at = None if self.limit is None else clock() + self.limit

    @property
    def left(self) -> float | None:
        return None if self._ends_at is None else max(0.0, self._ends_at - clock())


def has_failed(error: BaseException) -> bool:
    """Whether `error` counts as a failed attempt; else the message that was worked on is only given back.

    In a program's own loop an Exception does, and Ctrl-C, exit and cancellation do not.
    """
    judge = _judge.get()
    return isinstance(error, Exception) if judge is None else judge(error)


def judge_by(judge: Callable[[BaseException], bool]) -> None:
    """In this thread or task, and in whatever gets a copy of its context, `judge` says so."""
    _judge.set(judge)
