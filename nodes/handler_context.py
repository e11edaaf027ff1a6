"""Handler context: what a thread or task that runs user code has in hand, and whether errors there count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import ref

from peerfabric.arguments import check_timeout
from peerfabric.nodes.io.waiting import clock, running_loop
from peerfabric.queue.delivery import Delivery, pause, resume
from peerfabric.queue.incoming import IncomingQueue

if TYPE_CHECKING:
    from peerfabric.nodes.io.pump import Pump
    from peerfabric.queue.handon import Outputs, Single

HANDLER_BLOCK_MAX: Final = 30.0
"""Seconds that a send without timeout waits for room inside a handler: two queues that wait for each other end."""
EARLIER_MAX: Final = 4096
"""Inputs that one hand has besides the newest. Of more, which nobody settles, the oldest are forgotten."""


class Taker(Protocol):
    """The consumer that handed an input out."""

    queue: str
    end: IncomingQueue
    in_tasks: bool
    """Tasks of an event loop take from it: one that was started with an input in hand shares its starter's hand."""
    waits_for_outputs: bool
    """An input is acked when what was sent because of it is safe."""

    def open_handon(self) -> None:
        """Inputs have outputs from now on."""


class Input(Protocol):
    """A message or batch that was taken. What is sent while it is in hand, and not stored, is an output of it."""

    _owner: Any
    """The `Taker`."""
    _settled: bool
    _outputs: Outputs | Single | None

    @property
    def _deliveries(self) -> Iterable[Delivery]: ...
    def _return(self) -> int:
        """Its node closes: others get what nobody settled of it; how many messages that are."""


hands: Final[set[ref[Hand]]] = set()
"""Of all threads and tasks of this process that have taken something, for who looks what they do."""


class Hand:
    """What one thread or task has in hand.

    Whoever takes writes the newest into its hand, with no call between looking at what was there and that: a thread
    that was given a copy of another one's context shares the hand, and the interpreter changes threads at calls only.

    newest      what was taken last; settled by now, or None, if it is not in hand any more
    earlier     what was not settled when something else was taken, and that, too; empty mostly
    taken_by    which thread or task it is
    """

    __slots__ = ("__weakref__", "earlier", "newest", "taken_by")

    def __init__(self, newest: Input | None, taken_by: int = 0) -> None:
        self.newest = newest
        self.earlier: dict[Input, None] = {}
        self.taken_by = taken_by
        if taken_by:
            hands.add(ref(self, hands.discard))

    def add(self, taken: Input) -> None:
        """`taken` comes to what is in hand already."""
        earlier, newest = self.earlier, self.newest
        if newest is not None:
            earlier[newest] = None
        earlier[taken] = None
        self.newest = taken
        count = len(earlier)
        if count & (count - 1) == 0:  # seldom, so that each of many costs no more than one of few
            self._forget_settled()
        if count > EARLIER_MAX:
            with suppress(StopIteration, KeyError):  # another thread has done it
                del earlier[next(iter(earlier))]

    def unsettled(self) -> list[Input]:
        """What is in hand, the oldest first."""
        if self.earlier:
            self._forget_settled()
        newest = self.newest
        found = list(self.earlier)
        if newest is not None and not newest._settled and newest not in self.earlier:
            found.append(newest)
        return found

    def drop(self, given: Input) -> None:
        """`given` is not in hand any more."""
        self.earlier.pop(given, None)
        if self.newest is given:
            self.newest = None

    def _forget_settled(self) -> None:
        for each in list(self.earlier):
            if each._settled:
                self.earlier.pop(each, None)


_hand: ContextVar[Hand | None] = ContextVar("peerfabric_hand", default=None)
hand_here: Final = _hand.get
"""The hand of the current thread or task; None: it has taken nothing."""
_judge: ContextVar[Callable[[BaseException], bool] | None] = ContextVar("peerfabric_judge", default=None)
in_handler: Final = _judge.get
"""Not None in the thread or task of a handler."""


def take_in_hand(taken: Input) -> None:
    """The current thread or task has `taken`, besides what it has."""
    hand = _hand.get()
    if hand is None:
        _hand.set(Hand(taken, _me()))
    elif taken._owner.in_tasks and hand.taken_by != _me():
        # Of the task that started this one, and this one is part of what that does.
        own = Hand(taken, _me())
        own.earlier.update(dict.fromkeys(hand.unsettled()))
        if own.earlier:
            own.earlier[taken] = None
        _hand.set(own)
    elif hand.newest is None or hand.newest._settled:
        hand.newest = taken
        if hand.earlier:
            hand.add(taken)
    else:
        hand.add(taken)


def take_over(entered: Input) -> None:
    """The current thread or task enters the `with` of what it, or another one, has taken."""
    hand, me = _hand.get(), _me()
    if hand is None or hand.taken_by != me:
        # It was handed to this one, which has nothing to do with what the other one has in hand besides.
        _hand.set(Hand(entered, me))
    elif hand.newest is not entered and entered not in hand.earlier:
        take_in_hand(entered)


def begin_call(message: Input) -> None:
    """A handler's call begins, in a context of its own: so do tasks that it starts, which may outlive it."""
    _hand.set(Hand(message, _me()))


def _me() -> int:
    """Which thread or task it is that asks."""
    if running_loop() is not None:
        import asyncio  # it is there

        return id(asyncio.current_task())
    return get_ident()


def in_hand() -> list[Input]:
    """What the current thread or task took and did not settle: its leases stand still while it waits in a send."""
    hand = _hand.get()
    return hand.unsettled() if hand is not None else []


def return_in_hand(takers: Container[Taker]) -> Counter[str]:
    """Return what the current thread or task took from these, which nobody will settle any more: how much of what."""
    returned: Counter[str] = Counter()
    for each in in_hand():
        if each._owner in takers:
            returned[each._owner.queue] += each._return()
            hand_here().drop(each)  # type: ignore[union-attr]  # it is in that
    return returned


# Outputs


def inputs_in(hand: Hand) -> Sequence[Input]:
    """What is acked only when that is safe which is sent with this in hand."""
    if hand.earlier:
        return [each for each in hand.unsettled() if each._owner.waits_for_outputs]
    newest = hand.newest
    return (newest,) if newest is not None and not newest._settled and newest._owner.waits_for_outputs else ()


# Waiting inside of handlers


def lease_paused(pump: Pump) -> AbstractContextManager[None]:
    """The lease of what this thread or task handles stands still meanwhile."""
    held = in_hand()
    return _paused(pump, held) if held else nullcontext()


@contextmanager
def _paused(pump: Pump, held: list[Input]) -> Iterator[None]:
    deliveries = list(dict.fromkeys(delivery for each in held for delivery in each._deliveries))
    with pump.lock:
        for delivery in deliveries:
            pause(delivery, clock())
    try:
        yield
    finally:
        with pump.lock:
            for delivery in deliveries:
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
