"""Delivery: one received frame of messages and its leases, shared by the consumer's machine and the handling code.

Two threads touch a delivery without a lock, each writing its own fields:

    handling side:  next, acked, verdicts        machine's side:  until, limit, everything else

To hand out a message the handling side first raises `next` and only then looks at `until`; the machine
takes messages back by first setting `until` and only then reading `next`. Under the interpreter's lock one
of the two always sees the other, so a message that was taken back is never started.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import IntEnum
from math import inf
from typing import Any, Final

from peerfabric.errors import BadFrame
from peerfabric.ranges import Ranges
from peerfabric.wire.bodies import Buffer, rejoin, split
from peerfabric.wire.frames import RAW, RAW_ONE, Extra


class Verdict(IntEnum):
    """What the handling side decided about messages."""

    ACK = 0
    NACK = 1
    REJECT = 2
    REFUSE = 3
    GIVE_BACK = 4
    BATCH_FAILED = 5


class Delivery:
    """Messages `[first, first + count)` of one stream, as they came in one DATA frame.

    Indexes count from `first`. Handled in order:

        0 <= acked <= next <= limit <= count

    next     indexes below it have been handed to user code
    acked    indexes below it are acked; later acks come as verdicts
    limit    indexes from here on are not ours any more
    until    a message may be handed out before this instant; -inf: none, ask the machine
    expires  from this instant on none is handed out any more, whatever the machine is asked
    """

    __slots__ = (
        "acked",
        "alone",
        "attempt",
        "bodies",
        "body",
        "codec",
        "cost",
        "count",
        "depth",
        "expires",
        "extended",
        "extras",
        "first",
        "floor",
        "gone",
        "left",
        "limit",
        "next",
        "observed",
        "overdue",
        "overdue_since",
        "paused_at",
        "pauses",
        "peer",
        "queue",
        "reported",
        "sender",
        "sent_ms",
        "stream",
        "until",
        "verdicts",
    )

    def __init__(
        self,
        *,
        peer: str,
        sender: str,
        stream: str,
        queue: str,
        first: int,
        count: int,
        attempt: int,
        body: Buffer,
        codec: int,
        sent_ms: int,
        cost: int,
        alone: bool = False,
        extras: dict[int, Extra] | None = None,
        floor: int = 1,
        expires: float = inf,
        depth: int = 0,
    ) -> None:
        self.peer, self.sender = peer, sender
        self.stream, self.queue, self.first, self.count = stream, queue, first, count
        self.attempt, self.alone = attempt, alone
        self.body, self.codec, self.sent_ms, self.cost = body, codec, sent_ms, cost
        self.extras = extras
        self.expires = expires
        self.floor = floor
        """Everything of the stream below it was settled when this was sent."""
        self.depth = depth
        """How many messages before these wait for them to be settled."""
        self.bodies: list[Any] | None = None
        """The decoded bodies, once the handling side needed them."""
        self.next = 0
        self.acked = 0
        self.verdicts: deque[tuple[Verdict, int, int, float, str]] = deque()
        """(verdict, low, high, delay in seconds or below 0, text)"""
        self.until = -inf
        self.limit = count
        self.reported = 0
        self.left = count
        """Messages of it that are still ours to finish."""
        self.gone: Ranges | None = None
        """Indexes that were settled out of order or taken back, so that nothing counts twice."""
        self.observed: list[tuple[int, float]] = []
        """(index, at): everything below index had been handed out at that instant."""
        self.overdue: Ranges | None = None
        """Indexes whose lease ended while user code had them: once it acks them they are processed all the same."""
        self.overdue_since: dict[int, float] | None = None
        """Index -> when one of those was handed out."""
        self.extended: dict[int, float] = {}
        """Index -> instant before which its lease does not end."""
        self.paused_at: float | None = None
        self.pauses = 0
        """Handlers of its messages that wait inside a call of ours, since `paused_at`."""

    @property
    def stop(self) -> int:
        return self.first + self.count

    def ack(self, low: int, high: int) -> None:
        """Indexes `[low, high)` are processed. Called by the handling side."""
        if low == self.acked:
            self.acked = high
        else:
            self.verdicts.append((Verdict.ACK, low, high, -1.0, ""))

    def unsettled(self, low: int, high: int) -> list[tuple[int, int]]:
        """The parts of `[low, high)` that nothing was decided about yet, as far as the machine has read."""
        low = max(low, self.reported)
        if low >= high:
            return []
        return self.gone.missing(low, high) if self.gone is not None else [(low, high)]

    def let_go(self, count: int) -> int:
        """`count` messages of it are not ours any more; return the bytes that they took."""
        size = self.cost * count // self.left if self.left else self.cost
        self.left -= count
        self.cost -= size
        return size

    def mark_gone(self, low: int, high: int) -> None:
        """`[low, high)` is decided, out of order."""
        if self.gone is None:
            self.gone = Ranges()
        self.gone.add(low, high)

    def __repr__(self) -> str:
        return f"<Delivery {self.stream} [{self.first}, {self.stop}) next {self.next} left {self.left}>"


def slices(whole: Delivery, parts: Iterable[tuple[int, int]]) -> list[Delivery]:
    """Deliveries of their own for the index ranges `parts` of `whole`."""
    parts = list(parts)
    if not parts:
        return []
    elements = split(whole.body, whole.codec)
    if len(elements) != whole.count:
        raise BadFrame(f"a batch of {len(elements)} messages whose header says {whole.count}")
    total = sum(len(element) for element in elements) or 1
    made = []
    for low, high in parts:
        chosen = elements[low:high]
        part = Delivery(
            peer=whole.peer,
            sender=whole.sender,
            stream=whole.stream,
            queue=whole.queue,
            first=whole.first + low,
            count=high - low,
            attempt=whole.attempt,
            body=rejoin(chosen),
            codec=RAW if whole.codec == RAW_ONE else whole.codec,
            sent_ms=whole.sent_ms,
            cost=whole.cost * sum(map(len, chosen)) // total,
            alone=whole.alone,
            floor=whole.floor,
            expires=whole.expires,
            depth=whole.depth,
        )
        if whole.extras is not None:
            part.extras = {i - low: extra for i, extra in whole.extras.items() if low <= i < high} or None
        made.append(part)
    return made


def take_unstarted(delivery: Delivery, taken: Ranges) -> tuple[list[Delivery], int]:
    """Take the sequences `taken` of what `delivery` has not handed out; nothing of that remains in it.

    Returns:
        The rest, as deliveries of their own, and the bytes that are free.
    """
    low, high, first = delivery.next, delivery.limit, delivery.first
    kept = taken.missing(first + low, first + high)
    rest = slices(delivery, [(start - first, stop - first) for start, stop in kept])
    size = delivery.cost * taken.total // max(1, delivery.left)
    delivery.limit = low
    delivery.left -= high - low
    delivery.cost -= size + sum(part.cost for part in rest)
    return rest, size


class Expiring:
    """Deliveries of which messages may expire here, and when that is to be looked at."""

    def __init__(self) -> None:
        self.at = inf
        """The first of them expires then, or later."""
        self._deliveries: dict[Delivery, None] = {}

    def add(self, delivery: Delivery) -> None:
        """Something of `delivery` waits to be handed out."""
        if delivery.expires < inf:
            self._deliveries[delivery] = None
            self.at = min(self.at, delivery.expires)

    def remove(self, delivery: Delivery) -> None:
        """Nothing of `delivery` is ours any more."""
        self._deliveries.pop(delivery, None)

    def take_due(self, now: float) -> list[Delivery]:
        """Remove and return those that have expired."""
        due = [delivery for delivery in self._deliveries if delivery.expires <= now]
        for delivery in due:
            del self._deliveries[delivery]
        self.at = min((delivery.expires for delivery in self._deliveries), default=inf)
        return due

    def check(self, buffered: Iterable[Delivery]) -> None:
        """Assert that whatever waits and expires is here."""
        assert all(self.at <= delivery.expires for delivery in self._deliveries), "an expiry is looked at too late"
        assert all(each.expires == inf or each in self._deliveries for each in buffered), "what expires is not here"


OBSERVE_EVERY: Final = 1.0
"""How exactly the start of a lease is known, in seconds; it errs on the long side."""
OVERDUE_MAX: Final = 100
"""Deliveries whose handlers are waited for beyond their leases, in case that they ack after all."""


def observe(delivery: Delivery, now: float) -> None:
    """Note how much of `delivery` has been handed out by now."""
    observed = delivery.observed
    if observed and now - observed[-1][1] < OBSERVE_EVERY:
        observed[-1] = (delivery.next, now)
    else:
        observed.append((delivery.next, now))


def extend(delivery: Delivery, index: int, until: float) -> None:
    """The lease of one message does not end before `until`."""
    delivery.extended[index] = until


def pause(delivery: Delivery, now: float) -> None:
    """A handler of `delivery` waits inside a call of ours: its lease stands still."""
    delivery.pauses += 1
    if delivery.paused_at is None:
        delivery.paused_at = now


def resume(delivery: Delivery, now: float) -> None:
    """A handler goes on; the lease with the last of them."""
    delivery.pauses -= 1
    if delivery.pauses == 0 and delivery.paused_at is not None:
        waited = now - delivery.paused_at
        delivery.observed = [(index, at + waited) for index, at in delivery.observed]
        delivery.paused_at = None


def lapsed(delivery: Delivery, lease: float, now: float) -> Iterator[int]:
    """The indexes of `delivery` whose lease of so many seconds is over.

    The caller takes each from `delivery` before it asks for the next.
    """
    if delivery.paused_at is not None:
        return
    while delivery.observed and delivery.observed[0][1] + lease <= now:
        kept = False
        for low, high in delivery.unsettled(0, min(delivery.observed[0][0], delivery.limit)):
            for index in range(low, high):
                if delivery.extended.get(index, now) > now:
                    kept = True
                else:
                    yield index
        if kept:
            return
        delivery.observed.pop(0)
    # The front marks are spent once everything below them is settled.
    while len(delivery.observed) > 1 and delivery.observed[0][0] <= delivery.reported:
        delivery.observed.pop(0)


def look_at(delivery: Delivery, lease: float, now: float) -> float:
    """When `observe` or `lapsed` has something to find in `delivery`."""
    observed = delivery.observed
    if not observed or delivery.paused_at is not None or observed[-1][0] < delivery.limit:
        return now + OBSERVE_EVERY
    ends_at = observed[0][1] + lease
    return ends_at if ends_at > now else now + OBSERVE_EVERY


def in_hand_since(delivery: Delivery, now: float) -> float:
    """When the oldest was handed out of what user code has of `delivery`.

    inf: it has nothing, waits inside a call of ours, or has extended a lease, and so knows how long it takes.
    """
    if delivery.paused_at is not None or any(until > now for until in delivery.extended.values()):
        return inf
    for index, at in delivery.observed:
        if delivery.unsettled(0, min(index, delivery.limit)):
            return at
    return inf


def mark_overdue(delivery: Delivery, index: int) -> None:
    """The lease of one message has ended while user code has it."""
    if delivery.overdue is None or delivery.overdue_since is None:
        delivery.overdue, delivery.overdue_since = Ranges(), {}
    delivery.overdue.add(index, index + 1)
    delivery.overdue_since[index] = delivery.observed[0][1]


class Overdue:
    """Acks of user code for messages whose lease had ended, also for deliveries of which nothing is ours any more.

    Once acked they are processed all the same: the ledger says so, and so must we, or they would run again here.

    Args:
        bytes_max: So many bytes of deliveries are waited for, the latest.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.closed: dict[Delivery, None] = {}
        """Those of which nothing is ours any more."""
        self.late: list[tuple[Delivery, int, int]] = []

    def add(self, delivery: Delivery) -> None:
        """Nothing of `delivery` is ours any more, and user code still has messages of it."""
        self.closed[delivery] = None
        size = sum(memoryview(each.body).nbytes for each in self.closed)
        while len(self.closed) > OVERDUE_MAX or (self.closed and size > self._bytes_max):
            oldest = next(iter(self.closed))
            size -= memoryview(oldest.body).nbytes
            del self.closed[oldest]

    def acked(self, delivery: Delivery, low: int, high: int) -> None:
        """User code acked `[low, high)` of `delivery`, some of which is overdue."""
        self.late.append((delivery, low, high))

    def let_go(self, delivery: Delivery, low: int, high: int) -> None:
        """User code has `[low, high)` no more: it did not ack, or what it acked is processed once outputs are safe."""
        if delivery.overdue:
            delivery.overdue.remove(low, high)
            if not delivery.overdue:
                self.closed.pop(delivery, None)

    def read(self) -> None:
        """Take note of what user code has acked."""
        for delivery in list(self.closed):
            if delivery.acked > delivery.reported:
                self.late.append((delivery, delivery.reported, delivery.acked))
                delivery.reported = delivery.acked
            while delivery.verdicts:
                verdict, low, high, _, _ = delivery.verdicts.popleft()
                if verdict is Verdict.ACK:
                    self.late.append((delivery, low, high))
                else:
                    self.let_go(delivery, low, high)

    def take_acked(self) -> list[tuple[Delivery, int, int]]:
        """The index ranges that were acked after their leases, since the last call, as of the last `read`."""
        acked, self.late = self.late, []
        late = []
        for delivery, low, high in acked:
            if delivery.overdue:
                late += [(delivery, a, b) for a, b in delivery.overdue.common(low, high)]
                delivery.overdue.remove(low, high)
                if not delivery.overdue:
                    self.closed.pop(delivery, None)
        return late
