"""Message, batch and update: what handlers get, and what they raise."""

from __future__ import annotations

import logging
import operator
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar, overload

import msgspec

from peerfabric.arguments import DELAY_MAX, LEASE_MAX, check_seconds, described, shown, text_of
from peerfabric.errors import reduced
from peerfabric.nodes.fronts import LETTER_COPIED, MESSAGE_COPIED, PLAIN_WITH, UPDATE_COPIED, refusing
from peerfabric.nodes.handler_context import Hand, hand_here, has_failed, take_over
from peerfabric.nodes.platform import CLOCK
from peerfabric.queue.delivery import Delivery, Verdict
from peerfabric.status import HANDLER_SECONDS
from peerfabric.topic.subscriber import UpdateBatch
from peerfabric.wire.bodies import split
from peerfabric.wire.frames import MSGPACK

if TYPE_CHECKING:
    from peerfabric.nodes.storage.ledger_store import LedgerStore
    from peerfabric.nodes.storage.offload import LedgerWriter
    from peerfabric.queue.handon import Outputs, Single
    from peerfabric.queue.incoming import IncomingQueue

T_co = TypeVar("T_co", covariant=True)

_log = logging.getLogger("peerfabric")

_boottime: Final = CLOCK
_gettime: Final = time.clock_gettime
_SHORT: Final = HANDLER_SECONDS[0]


class Retry(Exception):
    """Raised by a handler: give the message to a consumer again, after `delay` seconds (None: backoff).

    `delay` and `reason` may come in either order, by name or without: `Retry(5.0)`, `Retry("the database is away")`.
    """

    delay: float | None = None

    @overload
    def __init__(self, delay: float | None = None, reason: str | BaseException = "") -> None: ...
    @overload
    def __init__(self, reason: str | BaseException, delay: float | None = None) -> None: ...
    def __init__(self, *given: object, **named: object) -> None:
        for value in given:
            name = "reason" if isinstance(value, str | BaseException) else "delay"
            if name in named:
                raise TypeError(f"Retry got two values for {name}; give Retry(delay=…, reason=…), or one of them")
            named[name] = value
        delay, reason = named.pop("delay", None), named.pop("reason", None)
        if named:
            raise TypeError(f"Retry has no argument {', '.join(named)}; give delay=, reason=, or both")
        self.delay = _delay(delay) if delay is not None else None
        super().__init__(text_of(reason or "asked for another attempt"))

    __reduce__ = reduced  # made anew by its attributes, not by its text


class Reject(Exception):
    """Raised by a handler: nobody can process this message; it becomes a dead letter.

    It takes what other exceptions take; its text is the reason.
    """


def _delay(delay: object) -> float:
    """Seconds until a message comes again; what is below 0 is none.

    Raises:
        TypeError, ValueError: It is not a finite number, or more than a year.
    """
    step = "give the seconds until it comes again, at most a year"
    return max(0.0, check_seconds("delay", delay, step, most=DELAY_MAX))


def _asked_for(error: BaseException) -> tuple[Verdict, float, str]:
    """What becomes of a message whose handler raised `error`: a verdict, a delay, a text."""
    match error:
        case Retry():
            return Verdict.NACK, _wanted(error), text_of(error)
        case Reject():
            return Verdict.REJECT, -1.0, text_of(error)
        case _ if has_failed(error):
            return Verdict.NACK, -1.0, described(error)
        case _:
            return Verdict.GIVE_BACK, -1.0, ""


def _wanted(retry: Retry) -> float:
    """The delay that `retry` asks for; below 0: backoff."""
    try:
        return -1.0 if retry.delay is None else _delay(retry.delay)
    except Exception:  # it was changed since it was made, or works its delay out and cannot
        return -1.0


class Owner(Protocol):
    """The consumer that handed a message out."""

    ledger_store: LedgerStore | None
    """Where it writes down what is processed, before that counts; None: it has no ledger."""
    alerted: bool
    """The machine reads what was decided soon anyway."""
    end: IncomingQueue
    in_tasks: bool
    """Tasks of an event loop take from it."""
    waits_for_outputs: bool
    """What was sent because of a message has to be safe before that is acked."""
    times: bool
    """It is noted here how long messages were in hand; else whoever calls a handler with them does that."""
    seconds: list[int]
    """How many messages were in hand for how long, by `HANDLER_SECONDS`."""
    seconds_sum: float

    def ledger_writer(self) -> LedgerWriter | None:
        """Who writes there for the calling code; None: itself."""

    def decided(self) -> None:
        """A decision was written into a delivery: let the machine read it."""

    def extend(self, delivery: Delivery, index: int, seconds: float) -> None:
        """Prolong the lease of one message."""


class Message(msgspec.Struct, Generic[T_co], eq=False):  # a Struct is made in half the time of a class
    """One message of a queue, to be settled once: `with message as body`, or `ack`, `nack`, `reject`.

    Leaving the `with` acks it; an Exception nacks it and goes on; Ctrl-C, exit and cancellation give it back
    without counting an attempt. Settling a second time does nothing.
    """

    _owner: Owner
    _delivery: Delivery
    _index: int
    body: T_co
    _taken_at: float = 0.0
    """When, by the clock of this node."""
    _settled: bool = False
    _outputs: Any = None
    """What was sent because of it and is not stored, an `Outputs` or a `Single`; None: nothing."""

    if not TYPE_CHECKING:
        __reduce__ = __copy__ = __replace__ = refusing(MESSAGE_COPIED)

    def ack(self) -> None:
        """It is processed: it will not be delivered again.

        If something was sent because of it that is not in a spool, it is acked when all of that is settled, and
        delivered again if this process dies before.

        With a ledger it is acked when it is written there. In the event loop of an `AsyncNode` that is soon after this
        has returned, and what should be raised is logged instead.

        Raises:
            SpoolFull, SpoolError: The consumer's ledger cannot be written. It is not acked, but nacked.
            NodeClosed: The same, as the node, and the ledger with it, is closed.
        """
        if self._settled:
            return
        self._settled = True
        owner = self._owner
        delivery, index, outputs = self._delivery, self._index, self._outputs
        if owner.times:  # as `_note`, which would be a call more for each message
            took = _gettime(_boottime) - self._taken_at
            if took <= _SHORT:  # nearly always, where it matters
                owner.seconds[0] += 1
            else:
                owner.seconds[bisect_left(HANDLER_SECONDS, took)] += 1
            owner.seconds_sum += took
        if outputs is not None:
            handon = owner.end.handon
            assert handon is not None
            if not isinstance(outputs, tuple):
                handon.defer(delivery, index, index + 1, outputs)
                owner.decided()
                return
            handon.singles.append(outputs)  # and then the ack, in this order: see `HandOn.defer`
        elif owner.ledger_store is not None and not _record(
            self, owner.ledger_store, [(delivery, index, index + 1)], self._acked
        ):
            return
        if index == delivery.acked:
            delivery.acked = index + 1
        else:
            delivery.ack(index, index + 1)
        if not owner.alerted:
            owner.decided()

    def _acked(self) -> None:
        self._delivery.ack(self._index, self._index + 1)
        self._owner.decided()

    def nack(self, delay: float = 0.0) -> None:
        """It failed: it goes to a consumer again after `delay` seconds, another one if there is one.

        Raises:
            TypeError, ValueError: `delay` is not a finite number, or more than a year. It is nacked all the same, with
                the usual backoff, as nobody would settle it otherwise.
        """
        seconds = -1.0
        try:
            seconds = _delay(delay)
        finally:
            self._settle(Verdict.NACK, seconds, "nack")

    def reject(self, reason: str | BaseException | None = "") -> None:
        """Nobody can process it: it becomes a dead letter at its producer, with `reason`, cut to 1,000 bytes.

        Raises:
            TypeError: `reason` is neither text nor an exception. It is rejected all the same.
        """
        self._settle(Verdict.REJECT, -1.0, text_of(reason) if reason is not None else "")
        if not isinstance(reason, str | BaseException | None):
            raise TypeError(f"reason={shown(reason)} is not text; give a str, or the exception that says why")

    def give_back(self) -> None:
        """It was not processed, and that is not its fault: another consumer gets it at once."""
        self._settle(Verdict.GIVE_BACK, -1.0, "")

    def extend(self, seconds: float) -> None:
        """Its lease ends no sooner than `seconds` from now.

        Raises:
            TypeError, ValueError: `seconds` is not a finite number, or more than a lease may have. Nothing has changed.
        """
        seconds = check_seconds("seconds", seconds, "give the seconds that it still needs", most=LEASE_MAX)
        if not self._settled:
            self._owner.extend(self._delivery, self._index, seconds)

    def _return(self) -> int:
        # Not settled: who acks it all the same is told that this does not count.
        self._delivery.verdicts.append((Verdict.GIVE_BACK, self._index, self._index + 1, -1.0, ""))
        self._owner.decided()
        return 1

    def failed(self, error: BaseException) -> None:
        """Settle it as the exception that its handler raised asks for."""
        try:
            asked = _asked_for(error)
        except BaseException:  # not even that can be read of it, and yet the message has to be settled
            asked = Verdict.NACK, -1.0, "an exception that cannot be read"
        self._settle(*asked)

    def _settle(self, verdict: Verdict, delay: float, text: str) -> None:
        if not self._settled:
            self._settled = True
            _note(self._owner, self._taken_at, 1)
            self._delivery.verdicts.append((verdict, self._index, self._index + 1, delay, text))
            self._owner.decided()

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = refusing(PLAIN_WITH)

    def __enter__(self) -> T_co:
        hand = hand_here()
        if hand is None or hand.newest is not self or self._owner.in_tasks:
            take_over(self)
        return self.body

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.failed(error)
        else:
            self.ack()

    @property
    def id(self) -> str:
        """Stable over redelivery: the idempotency key of a handler."""
        return f"{self._delivery.stream}/{self._delivery.first + self._index}"

    @property
    def _deliveries(self) -> tuple[Delivery, ...]:
        return (self._delivery,)

    @property
    def raw(self) -> bytes:
        """The body as it travelled, not decoded."""
        element = split(self._delivery.body, self._delivery.codec)[self._index]
        return element if self._delivery.codec == MSGPACK else msgspec.msgpack.decode(element, type=bytes)

    @property
    def queue(self) -> str:
        return self._delivery.queue

    @property
    def headers(self) -> dict[str, str]:
        extra = self._delivery.extras.get(self._index) if self._delivery.extras else None
        return dict(extra.headers) if extra is not None and extra.headers else {}

    @property
    def origin(self) -> str | None:
        """The id that it had before it was a dead letter, if it was one."""
        extra = self._delivery.extras.get(self._index) if self._delivery.extras else None
        return extra.origin if extra is not None else None

    @property
    def attempt(self) -> int:
        """Which delivery this is, from 1; those that were only given back do not count."""
        return self._delivery.attempt

    @property
    def sender(self) -> str:
        """The name of the node that produced it."""
        return self._delivery.sender

    @property
    def sent_at(self) -> float:
        """When it was accepted, in seconds of Unix time by the producer's clock, to within 0.1 s.

        Messages that travel together have the time of the first of them, and were accepted at most 0.1 s from it.
        A dead letter that was sent again keeps its time.
        """
        return self._delivery.sent_ms / 1000

    def __repr__(self) -> str:
        return f"<Message {self.id} attempt {self.attempt}>"


class Batch(Sequence[T_co]):
    """Messages taken together: a sequence of bodies, settled together unless one is nacked.

    Leaving `with batch as bodies` acks all. An Exception gives all back without counting an attempt; they then
    come one by one, so that the one that fails is found.
    """

    __slots__ = ("_bodies", "_nacked", "_outputs", "_owner", "_parts", "_settled", "_taken_at")

    if not TYPE_CHECKING:
        __reduce__ = refusing(MESSAGE_COPIED)

    def __init__(self, owner: Owner, parts: list[tuple[Delivery, int, int]], bodies: list[T_co]) -> None:
        self._owner = owner
        self._parts = parts
        self._bodies = bodies
        self._nacked: set[int] = set()
        self._taken_at = _gettime(_boottime)
        self._settled = False
        self._outputs: Outputs | Single | None = None

    def ack(self) -> None:
        """All are processed, except those nacked before; errors as of `Message.ack`, after which none is acked.

        As of `Message.ack`, they are acked when what was sent because of them is settled, or stored.
        """
        if self._settled:
            return
        self._settled = True
        _note(self._owner, self._taken_at, len(self._bodies))
        parts = self._parts if not self._nacked else self._not_nacked()
        if self._outputs is not None:
            handon = self._owner.end.handon
            assert handon is not None
            if parts:
                assert not isinstance(self._outputs, tuple)  # which is of messages that are sent for one by one
                handon.defer(*parts[0], self._outputs, parts[1:])
                self._owner.decided()
            return
        ledger_store = self._owner.ledger_store
        if ledger_store is None or _record(self, ledger_store, parts, lambda: self._acked(parts)):
            self._acked(parts)

    def _acked(self, parts: list[tuple[Delivery, int, int]]) -> None:
        for delivery, low, high in parts:
            delivery.ack(low, high)
        self._owner.decided()

    def _not_nacked(self) -> list[tuple[Delivery, int, int]]:
        parts = []
        at = 0
        for delivery, low, high in self._parts:
            start = low
            for index in range(low, high):
                if at + index - low in self._nacked:
                    if start < index:
                        parts.append((delivery, start, index))
                    start = index + 1
            if start < high:
                parts.append((delivery, start, high))
            at += high - low
        return parts

    def nack(self, index: int, delay: float = 0.0) -> None:
        """The message at `index` failed and goes to a consumer again; the others are not affected.

        Raises:
            IndexError: The batch has no such message.
            TypeError, ValueError: As of `Message.nack`; it is nacked all the same.
        """
        index = operator.index(index)
        if self._settled or index in self._nacked:
            return
        delivery, at = self._locate(index)
        seconds = -1.0
        try:
            seconds = _delay(delay)
        finally:
            self._nacked.add(index)
            delivery.verdicts.append((Verdict.NACK, at, at + 1, seconds, "nack"))
            self._owner.decided()

    def failed(self, error: BaseException) -> None:
        """Settle all as the exception that ended their processing asks for."""
        if self._settled:
            return
        if len(self._bodies) == 1:
            self._settled = True
            [(delivery, low, _)] = self._parts
            Message(self._owner, delivery, low, self._bodies[0], self._taken_at).failed(error)
        elif has_failed(error):
            self._settle(Verdict.BATCH_FAILED, described(error))
        else:
            self.give_back()

    def give_back(self) -> None:
        """They were not processed, and that is not their fault: another consumer gets them at once."""
        self._settle(Verdict.GIVE_BACK, "")

    def _return(self) -> int:
        parts = self._not_nacked()
        for delivery, low, high in parts:
            delivery.verdicts.append((Verdict.GIVE_BACK, low, high, -1.0, ""))
        self._owner.decided()
        return sum(high - low for _, low, high in parts)

    def _settle(self, verdict: Verdict, text: str) -> None:
        if not self._settled:
            self._settled = True
            _note(self._owner, self._taken_at, len(self._bodies))
            for delivery, low, high in self._parts:
                delivery.verdicts.append((verdict, low, high, -1.0, text))
            self._owner.decided()

    def joined(self, more: Batch[T_co]) -> Batch[T_co]:
        """This batch and `more`, taken by the same consumer, as one."""
        return Batch(self._owner, self._parts + more._parts, [*self._bodies, *more._bodies])

    @property
    def _deliveries(self) -> list[Delivery]:
        return [delivery for delivery, _, _ in self._parts]

    @property
    def ids(self) -> list[str]:
        """The ids of the messages, in the order of the bodies."""
        return [f"{d.stream}/{d.first + index}" for d, low, high in self._parts for index in range(low, high)]

    def _locate(self, index: int) -> tuple[Delivery, int]:
        if not 0 <= index < len(self._bodies):
            raise IndexError(f"index {index} in a batch of {len(self._bodies)}")
        for delivery, low, high in self._parts:
            if index < high - low:
                return delivery, low + index
            index -= high - low
        raise AssertionError("parts and bodies differ")

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        return self._bodies[index]

    def __iter__(self) -> Iterator[T_co]:
        return iter(self._bodies)

    def __len__(self) -> int:
        return len(self._bodies)

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = refusing(PLAIN_WITH)

    def __enter__(self) -> Sequence[T_co]:
        hand = hand_here()
        if hand is None or hand.newest is not self or self._owner.in_tasks:
            take_over(self)
        return self._bodies

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.ack()
        else:
            self.failed(error)


def _note(owner: Owner, taken_at: float, count: int) -> None:
    """So many messages were in hand from then until now. Threads change at calls only, so no count is lost."""
    if not owner.times:
        return
    took = _gettime(_boottime) - taken_at
    at = bisect_left(HANDLER_SECONDS, took)
    owner.seconds[at] += count
    owner.seconds_sum += took * count


IN_HAND: Final = "in hand"
"""As `cause=` of a send: what the sending thread or task has in hand."""
Cause = Message[Any] | Batch[Any] | None | Literal["in hand"]
"""What something is sent because of."""


def hand_of(cause: Any) -> Hand | None:
    """A hand with what `cause=` of a send says: a message or a batch, None for none, or what is in hand here.

    Raises:
        TypeError: It says something else.
    """
    if isinstance(cause, Message | Batch):
        if cause._settled:
            what = cause.id if isinstance(cause, Message) else "a batch"
            text = "what is sent because of %s does not hold back its ack, as it is settled already; send before that"
            _log.warning(text, what)
        return Hand(cause)
    if cause is None:
        return None
    if isinstance(cause, str) and cause == IN_HAND:
        return hand_here()
    raise TypeError(
        f"cause={shown(cause)} was not taken from a queue; give the Message or the Batch that this is sent because of, "
        f"None if there is none, or leave it out for what this thread or task has in hand"
    )


def holds_back(cause: Cause) -> bool:
    """Whether it is a message or batch that is in hand somewhere, and not settled yet."""
    return isinstance(cause, Message | Batch) and not cause._settled


def _record(
    done: Message[Any] | Batch[Any],
    ledger_store: LedgerStore,
    parts: list[tuple[Delivery, int, int]],
    acked: Callable[[], None],
) -> bool:
    """Write into the ledger that `done` is processed, or have that done and then `acked` called; whether it is written.

    Raises:
        SpoolError, NodeClosed: It cannot be, and is nacked.
    """

    def give_up(error: BaseException) -> None:
        done._settled = False
        done.failed(error)

    def not_recorded(error: Exception) -> None:
        what = done.id if isinstance(done, Message) else "a batch"
        _log.error("%s was processed and is not acked, as the ledger cannot be written: %s", what, error)
        give_up(error)

    try:
        ledger_writer = done._owner.ledger_writer()
        if ledger_writer is None:
            ledger_store.record(parts)
        else:
            from peerfabric.nodes.storage.ledger_store import entries  # it is there, as there is a ledger

            ledger_writer.record(entries(parts), acked, not_recorded)
    except BaseException as error:
        give_up(error)
        raise
    return ledger_writer is None


class Update(msgspec.Struct, Generic[T_co], eq=False):  # a Struct is made in half the time of a class
    """One message of a topic. There is nothing to settle."""

    _batch: UpdateBatch
    _index: int
    body: T_co

    if not TYPE_CHECKING:
        __reduce__ = refusing(UPDATE_COPIED)

    @property
    def topic(self) -> str:
        return self._batch.topic

    @property
    def sequence(self) -> int:
        """Its number on its topic at its publisher, from 1."""
        return self._batch.first + self._index

    @property
    def headers(self) -> dict[str, str]:
        extra = self._batch.extras.get(self._index) if self._batch.extras else None
        return dict(extra.headers) if extra is not None and extra.headers else {}

    @property
    def sender(self) -> str:
        """The name of the node that published it."""
        return self._batch.sender

    @property
    def sent_at(self) -> float:
        """When it was published, in seconds of Unix time by the publisher's clock."""
        return self._batch.sent_ms / 1000

    def __repr__(self) -> str:
        return f"<Update {self.topic} {self.sequence}>"


class DeadMessage(Generic[T_co]):
    """A message that was given up, kept at its producer for a person to `retry` or `drop`.

    reason    "attempts", "lease", "rejected", "refused" or "died with it" (its consumers); `error` says more
    slot      of the spool's folder, in which it is kept; None: in memory only. Letters of slots other than the node's
              own are retried and dropped by a thread of their own; an `AsyncNode` does not wait for that
    """

    __slots__ = (
        "_decode",
        "_drop",
        "_retry",
        "attempts",
        "error",
        "headers",
        "id",
        "queue",
        "reason",
        "sent_at",
        "slot",
    )

    if not TYPE_CHECKING:
        __reduce__ = refusing(LETTER_COPIED)

    def __init__(
        self,
        *,
        id: str,
        queue: str,
        reason: str,
        error: str,
        attempts: int,
        headers: dict[str, str],
        sent_at: float,
        decode: Callable[[], T_co],
        retry: Callable[[], bool],
        drop: Callable[[], bool],
        slot: int | None = None,
    ) -> None:
        self.id, self.queue, self.reason, self.error, self.slot = id, queue, reason, error, slot
        self.attempts, self.headers, self.sent_at = attempts, headers, sent_at
        self._decode, self._retry, self._drop = decode, retry, drop

    @property
    def body(self) -> T_co:
        """Decoded as the producer's body type.

        Raises:
            DecodeError: It does not fit. It can be retried or dropped all the same.
        """
        return self._decode()

    def retry(self) -> bool:
        """Send it again, as a new message whose `origin` is this id; False if it was retried or dropped before."""
        return self._retry()

    def drop(self) -> bool:
        """Forget it; it stays counted as dead-lettered. False if it was retried or dropped before."""
        return self._drop()

    def __repr__(self) -> str:
        return f"<DeadMessage {self.id} {self.reason}: {self.error}>"
