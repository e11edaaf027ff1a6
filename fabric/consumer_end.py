"""The consumer's end of a queue: messages received, handed out, and what was decided about them.

received  =  held (buffered + started)  ⊎  finished  ⊎  given back
granted   =  by the pace of the handlers (credit.py), one budget over all links
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Final

from peerfabric.batch import rejoin, split
from peerfabric.credit import ConsumerCredit, Window
from peerfabric.dedup import Dedup
from peerfabric.delivery import Delivery, Verdict
from peerfabric.envelope import (
    ALONE,
    BATCH_FAILED,
    DURABLE,
    FAILED,
    LEASE,
    RAW,
    RAW_ONE,
    REFUSED,
    REJECTED,
    SUSPECT,
    Backlog,
    Data,
    Grant,
    Nack,
    Result,
    StreamRanges,
)
from peerfabric.errors import BadFrame
from peerfabric.ranges import Ranges
from peerfabric.stats import ConsumerAccount

IDLE_AFTER: Final = 2.0
"""A consumer that takes nothing for this long gives back what it has not started."""
FORGET_AFTER: Final = 60.0
"""How long the numbers of a producer that is gone are remembered after its last message was finished."""
REFUSALS_MAX: Final = 10
REFUSAL_PAUSE: Final = 5.0
DONE_RANGES_MAX: Final = 100_000
DETACHED_MAX: Final = 4096
"""Producers that vanished whose numbers are remembered, in case that they return; then the oldest is forgotten."""
DURABLE_MAX: Final = 100_000
LAPSED_MAX: Final = 100
"""Deliveries whose handlers are waited for beyond their leases, in case that they ack after all."""
SUSPECT_PATIENCE: Final = 1.0
"""A message that kills runs when nothing else does; after this long nothing else is started until it has run."""
SETTLE_PATIENCE: Final = 10.0
"""How long a producer is waited for that cannot settle a suspect's start or result, perhaps because its disk fails.
Then things go on: should that producer die as well, it may miss a death, or accuse the wrong message of one."""
OBSERVE_EVERY: Final = 1.0
"""How exactly the start of a lease is known, in seconds; it errs on the long side."""
QUANTUM: Final = 256 * 1024
"""Bytes that each producer may hand out in its turn."""
_EVERYTHING: Final = 2**53

_REASONS: Final = {
    Verdict.NACK: FAILED,
    Verdict.REJECT: REJECTED,
    Verdict.REFUSE: REFUSED,
    Verdict.BATCH_FAILED: BATCH_FAILED,
}


class _Source:
    """What this consumer keeps for the producer at one link."""

    __slots__ = (
        "attached",
        "buffer",
        "credit",
        "deficit",
        "done",
        "fence",
        "nacks",
        "proven_gone",
        "returned",
        "starting",
        "streams",
    )

    def __init__(self) -> None:
        self.attached = True
        self.credit = ConsumerCredit()
        self.buffer: deque[Delivery] = deque()
        self.deficit = 0
        self.fence = -inf
        self.proven_gone = False
        self.streams: dict[str, None] = {}
        self.done: dict[str, Ranges] = {}
        self.returned: dict[str, Ranges] = {}
        self.starting: dict[str, Ranges] = {}
        self.nacks: dict[str, list[Nack]] = {}

    def forget(self, stream: str) -> None:
        """Nobody can send anything of `stream` again, nor wants to hear what became of it."""
        for told in (self.streams, self.done, self.returned, self.starting, self.nacks):
            told.pop(stream, None)

    @property
    def has_results(self) -> bool:
        return bool(self.done or self.returned or self.nacks or self.starting)


class ConsumerEnd:
    """Everything one node consumes from one queue.

    Args:
        queue: The queue's name.
        lease: Seconds that user code may keep a message before it goes to somebody else.
        budget: Bytes granted and not yet finished, over all links.
        horizon: Seconds of work to keep in hand.
        neighbours: All consumers of this process by queue, this one included: a message that killed three
            processes runs while no other does, or the innocent would be accused with it.
        remembered: What was processed in an earlier life, by stream, as a ledger has it; None: there is no ledger.
    """

    def __init__(
        self,
        queue: str,
        lease: float,
        budget: int,
        horizon: float,
        neighbours: Mapping[str, ConsumerEnd] | None = None,
        remembered: Mapping[str, Ranges] | None = None,
    ) -> None:
        self.queue, self.lease, self.budget = queue, lease, budget
        self._neighbours = neighbours if neighbours is not None else {queue: self}
        self._suspect_since = inf
        self._suspect: Delivery | None = None
        """The one that was handed out last, until its producer has told that it knows the result."""
        self._patience_until = inf
        """Until then a producer is waited for that was told of a suspect's start or result; inf if none is."""
        self._largest = 0
        """Bytes of the largest frame that came: one message of each link may go over the budget."""
        self.window = Window(horizon)
        self.closed = False
        self.lapsed: list[tuple[str, int]] = []
        """(stream, sequence) whose lease ended, for the driver to warn about."""
        self._outlived: dict[Delivery, Ranges] = {}
        """Indexes whose lease ended while user code had them. Once it acks them they are processed all the same: the
        ledger says so, and so must we, or they would run again here."""
        self._late: list[tuple[Delivery, int, int]] = []
        self.misled = 0
        """How often ten refusals in a row stopped the credit, for the driver to report."""
        self._takers = 0
        self._taken_at = -inf
        self._busy_mark = 0.0
        self._sources: dict[str, _Source] = {}
        self._turn: deque[str] = deque()
        self._open: dict[Delivery, None] = {}
        self._dedup: dict[str, Dedup] = {}
        self._forget_at: dict[str, float] = {}
        self._durable: dict[str, None] = {}
        """Streams whose producers keep them on disk and may return, oldest first."""
        self._forgotten: dict[str, Ranges] | None = None if remembered is None else {}
        """What cannot come again, since the ledger was told."""
        for stream, ranges in remembered.items() if remembered is not None else ():
            self._durable[stream] = None  # whether its producer is there, or returns, we do not know
            dedup = self._dedup[stream] = Dedup()
            for start, stop in ranges:
                dedup.finish(start, stop)
        self._refusals = 0
        self._no_credit_until = -inf
        self._account = dict.fromkeys(("received", "processed", "nacked", "returned", "refused", "duplicates"), 0)

    # Links

    def attach(self, holder: str) -> None:
        """A new link life with `holder`: if it is a producer of ours, totals start at 0 on both sides."""
        if holder not in self._sources and any(_node(n) == _node(holder) for n in (*self._dedup, *self._sources)):
            self.meet(holder)  # taken for dead, and back: what it sent before, perhaps in another life, is remembered
        source = self._sources.get(holder)
        if source is None:
            return
        source.attached = True
        source.credit = ConsumerCredit()
        if source.proven_gone:
            source.proven_gone = False
            self.fence(holder, -inf)  # it is back, and may give them to others: only its echoes count from now on
        for stream in source.streams:
            self._forget_at.pop(stream, None)
        source.returned.clear()
        source.nacks.clear()
        source.done.clear()
        source.starting.clear()
        for delivery in source.buffer:
            delivery.announced = None
        held = [d for d in self._everything() if d.holder == holder]
        # What we still hold was granted in the last life; it is charged to this one from the start.
        source.credit.freed_messages = -sum(d.left for d in held)
        source.credit.freed_bytes = -sum(d.cost for d in held)

    def meet(self, holder: str) -> None:
        """`holder` produces for this queue."""
        source = self._sources.get(holder)
        if source is None:
            source = self._inherited(holder) or _Source()
            self._sources[holder] = source
            source.streams = {stream: None for stream in self._dedup if _node(stream) == _node(holder)}
            for stream in source.streams:
                if self._dedup[stream].done:  # if no INTEREST of ours says so, the next ACK does
                    source.done[stream] = Ranges(self._dedup[stream].done)
            self._turn.append(holder)
        source.attached = True

    def _inherited(self, holder: str) -> _Source | None:
        """What an earlier life of this node has left here; the present one knows its messages, or lets them run."""
        for earlier in self._sources:
            if _node(earlier) == _node(holder) and not self._sources[earlier].attached:
                for delivery in self._everything():
                    if delivery.holder == earlier:
                        delivery.holder = holder
                self._turn.remove(earlier)
                return self._sources.pop(earlier)
        return None

    def told_all(self, holder: str, ack: int) -> None:
        """INTEREST carried everything that is done; it counts as ACK number `ack`, from which numbers go on."""
        source = self._sources.get(holder)
        for stream in source.streams if source is not None else ():
            self._dedup[stream].reported_again(ack)
        if self._suspect is not None and self._suspect.holder == holder and self._suspect not in self._open:
            self._suspect.announced = ack

    def possession(self, holder: str) -> tuple[list[StreamRanges], list[StreamRanges]]:
        """What is held and what is done of this producer's streams, for INTEREST."""
        source = self._sources.get(holder)
        held, done = [], []
        for stream in source.streams if source is not None else ():
            dedup = self._dedup[stream]
            if dedup.held:
                held.append(StreamRanges(stream, dedup.held.flat()))
            if dedup.done:
                done.append(StreamRanges(stream, dedup.done.flat()))
        return held, done

    def detach(self, holder: str, now: float, *, proven_gone: bool) -> None:
        """The producer `holder` is gone, or has vanished.

        If it is proven gone its messages can reach nobody else: they are run here. If it has only vanished
        it will give them to others, so those not started are dropped.
        """
        source = self._sources.get(holder)
        if source is None:
            return
        source.attached = False
        if proven_gone:
            source.proven_gone = True
            self.fence(holder, inf)
            for stream in source.streams:
                if stream not in self._durable:
                    self._forget_at[stream] = now + FORGET_AFTER
            self._forget_durable()
        else:
            self.fence(holder, -inf)
            self._take_back(holder, None, report=False)
            self._sources[holder] = self._sources.pop(holder)  # the newest of those that left
            self._forget_the_oldest()
        self._drop_if_empty(holder)

    def _forget_the_oldest(self) -> None:
        if len(self._sources) <= DETACHED_MAX:
            return
        detached = [holder for holder, source in self._sources.items() if not source.attached]
        if len(detached) > DETACHED_MAX and not self.holds_from(detached[0]):
            self._turn.remove(detached[0])
            for stream in self._sources.pop(detached[0]).streams:
                del self._dedup[stream]
                for delivery in [d for d in self._outlived if d.stream == stream]:
                    del self._outlived[delivery]
                self._forget_at.pop(stream, None)
                self._durable.pop(stream, None)
                self._forget(stream, 0, _EVERYTHING)

    def _forget_durable(self) -> None:
        """Of streams that outlive their producers, so many are remembered; then the oldest go that nobody needs."""
        for stream in list(self._durable)[: max(0, len(self._durable) - DURABLE_MAX)]:
            dedup = self._dedup.get(stream)
            if dedup is None or not (
                dedup.held or any(stream in s.streams for s in self._sources.values() if s.attached)
            ):
                self._durable.pop(stream)
                if dedup is not None:
                    self._forget_at[stream] = -inf

    def live_streams(self, holder: str, live: Iterable[str], now: float) -> None:
        """The producer names its live streams; others of it can be forgotten once they are idle."""
        source = self._sources.get(holder)
        if source is not None:
            for stream in source.streams.keys() - set(live):
                self._forget_at.setdefault(stream, now)

    def fence(self, holder: str, until: float) -> None:
        """Messages of `holder` may be handed out before `until`: it still believes in us until then."""
        source = self._sources.get(holder)
        if source is None:
            return
        source.fence = until
        for delivery in self._open:
            if delivery.holder == holder and delivery.until != -inf:
                delivery.until = until

    # Receiving

    def receive(self, holder: str, sender: str, data: Data, body: bytes | memoryview, now: float) -> None:
        """A DATA frame arrived.

        Raises:
            BadFrame: The body is not the array that the header speaks of.
        """
        source = self._sources.get(holder)
        if source is None:
            self.meet(holder)
            source = self._sources[holder]
        charged = max(0, data.sent_bytes - source.credit.seen_bytes)
        self._largest = max(self._largest, charged)
        source.credit.adopt(data.sent_messages, data.sent_bytes, data.waiting)
        dedup = self._dedup.get(data.stream)
        if dedup is None:
            dedup = self._dedup[data.stream] = Dedup()
        source.streams[data.stream] = None
        self._forget_at.pop(data.stream, None)
        if data.flags & DURABLE:
            self._durable[data.stream] = None
        elif self._forgotten is not None:
            self._durable.pop(data.stream, None)
        stop = data.first + data.count
        self.raise_floor(data.stream, data.floor)
        for a, b in dedup.settle(data.settled):
            self._forget(data.stream, a, b)
        new, finished = dedup.receive(data.first, stop)
        self._account["received"] += data.count
        extras = {extra.index: extra for extra in data.extras} or None
        whole = Delivery(
            holder=holder,
            sender=sender,
            stream=data.stream,
            queue=data.queue,
            first=data.first,
            count=data.count,
            attempt=data.attempt,
            body=body,
            codec=data.codec,
            sent_ms=data.sent_ms,
            cost=charged,
            alone=bool(data.flags & ALONE),
            suspect=bool(data.flags & SUSPECT),
            extras=extras,
            floor=data.floor,
        )
        if new == [(data.first, stop)]:
            source.buffer.append(whole)
        else:
            self._receive_part(source, whole, new, finished)

    def decline(self, holder: str, data: Data) -> None:
        """A DATA frame came though nobody takes any more: its credit is spent and free again."""
        source = self._sources.get(holder)
        if source is not None:
            charged = max(0, data.sent_bytes - source.credit.seen_bytes)
            source.credit.adopt(data.sent_messages, data.sent_bytes, data.waiting)
            self._freed(source, data.count, charged)

    def _receive_part(
        self,
        source: _Source,
        whole: Delivery,
        new: list[tuple[int, int]],
        finished: list[tuple[int, int]],
    ) -> None:
        """Some of the frame was here before: ack what is finished, renew what is held, keep the new."""
        for a, b in finished:
            source.done.setdefault(whole.stream, Ranges()).add(a, b)
        fresh = sum(b - a for a, b in new)
        self._account["duplicates"] += whole.count - fresh
        if fresh + sum(b - a for a, b in finished) < whole.count:
            for delivery in self._everything():
                if delivery.stream == whole.stream and delivery.first < whole.stop and whole.first < delivery.stop:
                    delivery.attempt = max(delivery.attempt, whole.attempt)
        parts = slices(whole, [(a - whole.first, b - whole.first) for a, b in new])
        source.buffer.extend(parts)
        self._freed(source, whole.count - fresh, whole.cost - sum(part.cost for part in parts))

    def backlog(self, holder: str, backlog: Backlog) -> None:
        """The producer says what waits for us, and the totals that it has sent."""
        source = self._sources.get(holder)
        if source is not None:
            source.credit.adopt(backlog.sent_messages, backlog.sent_bytes, backlog.waiting)
        self.raise_floor(backlog.stream, backlog.floor)

    def raise_floor(self, stream: str, floor: int) -> None:
        """Everything of `stream` below `floor` is settled; unstarted copies are dropped."""
        dedup = self._dedup.get(stream)
        if dedup is None or floor <= dedup.floor:
            return
        dedup.raise_floor(floor)
        self._forget(stream, 0, floor)
        for delivery in [d for d in self._outlived if d.stream == stream and d.stop <= floor]:
            del self._outlived[delivery]
        if dedup.held.common(0, floor):
            self._take_back(None, {stream: Ranges([(0, floor)])}, report=False)

    def settle(self, holder: str, ack: int) -> None:
        """The producer cannot forget the results of our ACKs up to `ack`."""
        source = self._sources.get(holder)
        for stream in source.streams if source is not None else ():
            for start, stop in self._dedup[stream].settle(ack):
                self._forget(stream, start, stop)
        if source is not None and source.buffer and source.buffer[0].announced is not None:
            source.buffer[0].announced = 0 if source.buffer[0].announced <= ack else source.buffer[0].announced
        suspect = self._suspect
        if suspect is not None and suspect.holder == holder and (suspect.announced or 0) <= ack:
            self._suspect = None

    def _forget(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` cannot come again, or is not recognised any more if it does."""
        if self._forgotten is not None:
            ranges = self._forgotten.get(stream)
            if ranges is None:
                ranges = self._forgotten[stream] = Ranges()
            ranges.add(start, stop)

    def take_forgotten(self) -> dict[str, Ranges]:
        """What the ledger may forget, since the last call."""
        if not self._forgotten:
            return {}
        forgotten, self._forgotten = self._forgotten, {}
        return forgotten

    def release(self, holder: str, stream: str, ranges: Ranges) -> None:
        """These messages were given to somebody else or are settled: unstarted copies are dropped."""
        self._take_back(holder, {stream: ranges}, report=False)

    # Handing out

    def want(self, takers: int, at_least: int, now: float) -> None:
        """`takers` threads or tasks wait for messages now, for `at_least` in all."""
        self._takers = takers
        if takers:
            self._taken_at = now
            self.window.want(at_least)

    def available(self, now: float) -> bool:
        """Whether `take` would return something."""
        return any(source.buffer and source.fence > now for source in self._sources.values())

    def take(self, now: float) -> Delivery | None:
        """Hand out the next delivery, in turn by bytes over the producers; None if nothing may be handed out."""
        self._taken_at = now
        if self._solitude(now):
            return None
        alone = self._announced(now) is None
        for _ in range(2 * len(self._turn)):
            source = self._sources[self._turn[0]]
            head = source.buffer[0] if source.buffer else None
            if head is None or source.fence <= now or not (self._may_start(source, now) if head.suspect else alone):
                source.deficit = 0
                self._turn.rotate(-1)
                continue
            if source.deficit <= 0:
                source.deficit += max(QUANTUM, source.buffer[0].cost)
                if len(self._turn) > 1 and source.deficit <= 0:
                    self._turn.rotate(-1)
                    continue
            delivery = source.buffer.popleft()
            source.deficit -= max(1, delivery.cost)
            if source.deficit <= 0:
                self._turn.rotate(-1)
            if not self._open:
                self._busy_mark = now
            if delivery.suspect:
                self._suspect_since = inf
                self._suspect, delivery.announced, self._patience_until = delivery, inf, inf
            delivery.until = source.fence
            self._open[delivery] = None
            return delivery
        return None

    def _solitude(self, now: float) -> bool:
        """Whether nothing may be started here: a suspect runs, is about to, or has waited for it long enough."""
        ends = self._neighbours.values()
        if any(end._suspected(now) for end in ends):
            return True
        if self._announced(now) is not None:
            return False  # it is our turn, however long others have waited for theirs
        return any(
            (end is not self and end._announced(now) is not None)
            or (now - end._suspect_since >= SUSPECT_PATIENCE and not (end is self and self._may_be_alone(now)))
            for end in ends
        )

    def _suspected(self, now: float) -> bool:
        """Whether a death would now be taken for the fault of a suspect: it runs, or its result may get lost."""
        suspect = self._suspect
        if suspect is None:
            return False
        source = self._sources.get(suspect.holder)
        if suspect not in self._open and (
            source is None or not source.attached or (suspect.announced == inf and not source.has_results)
        ):
            self._suspect = None  # nobody is left to be told, or nothing to tell
            return False
        return suspect in self._open or (source is not None and source.fence > now and self._is_patient(now))

    def _is_patient(self, now: float) -> bool:
        """Whether to wait on: a producer that cannot write its cursor must not stop a whole process."""
        if self._patience_until == inf:
            self._patience_until = now + SETTLE_PATIENCE
        return now < self._patience_until

    def _announced(self, now: float) -> Delivery | None:
        """The suspect whose start was announced, if its producer still counts on us."""
        for source in self._sources.values():
            head = source.buffer[0] if source.buffer else None
            if head is not None and head.announced is not None:
                if source.attached and source.fence > now:
                    return head
                head.announced = None
        return None

    def _may_start(self, source: _Source, now: float) -> bool:
        """Whether the suspect at the head of `source` may be handed out; its producer must know of it before."""
        head = source.buffer[0]
        if not self._may_be_alone(now) or self._announced(now) not in (None, head):
            return False
        if head.announced is None and not source.proven_gone:
            head.announced, self._patience_until = inf, inf
            source.starting.setdefault(head.stream, Ranges()).add(head.first + head.next, head.first + head.limit)
            return False
        return source.proven_gone or head.announced == 0 or not self._is_patient(now)

    def _may_be_alone(self, now: float) -> bool:
        """Whether a suspect may start: nothing is in the hands of user code, and every result has left."""
        if all(end._settled for end in self._neighbours.values()):
            return True
        self._suspect_since = min(self._suspect_since, now)
        return False

    @property
    def _settled(self) -> bool:
        return not self._open and not any(s.attached and (s.done or s.nacks) for s in self._sources.values())

    def park(self, delivery: Delivery) -> None:
        """The handling side may not go on with `delivery` now; the unstarted rest waits to be taken again."""
        delivery.until = -inf
        delivery.next = min(delivery.next, delivery.limit)
        if delivery is self._suspect and delivery.next < delivery.limit:
            del self._open[delivery]  # it was not started, and is to be announced again
            self._suspect, delivery.announced = None, None
        if delivery.next < delivery.limit:
            self._sources[delivery.holder].buffer.appendleft(delivery)

    def give_back_unstarted(self) -> None:
        """Return everything that was not handed out, to be processed elsewhere."""
        self._take_back(None, None, report=True)

    def give_back_started(self, delivery: Delivery) -> int:
        """Return what was handed out of `delivery` and not decided; return how many messages that were."""
        ranges = delivery.unsettled(delivery.acked, min(delivery.next, delivery.limit))
        decided = Ranges((low, high) for _, low, high, _, _ in delivery.verdicts)
        count = 0
        for low, high in ranges:
            for a, b in decided.missing(low, high):
                delivery.verdicts.append((Verdict.GIVE_BACK, a, b, -1.0, ""))
                count += b - a
        return count

    def rest(self) -> None:
        """Whoever took from here has stopped: return the unstarted at once, grant nothing until the next take."""
        self._taken_at = -inf
        self.give_back_unstarted()

    def close(self) -> None:
        """Nobody here takes from this queue any more: return the unstarted, accept nothing new."""
        self.closed = True
        self._takers = 0
        self.give_back_unstarted()

    def _take_back(self, only: str | None, wanted: dict[str, Ranges] | None, *, report: bool) -> None:
        """Take unstarted messages from the buffers, of one holder or all, in `wanted` ranges or all.

        With `report` the producer is told that they are returned; otherwise it knows.
        """
        for delivery in self._everything():
            if only is not None and delivery.holder != only:
                continue
            if wanted is not None and delivery.stream not in wanted:
                continue
            delivery.until = -inf
            low, high = delivery.next, delivery.limit
            if low >= high:
                self._unfence(delivery)
                continue
            source = self._sources[delivery.holder]
            first = delivery.first
            parts = [(low, high)]
            if wanted is not None:
                parts = [(a - first, b - first) for a, b in wanted[delivery.stream].common(first + low, first + high)]
            if not parts:
                self._unfence(delivery)
                continue
            taken = Ranges(parts)
            kept = taken.missing(low, high)
            in_buffer = delivery in source.buffer
            survivors = slices(delivery, kept)
            delivery.limit = low
            dedup = self._dedup[delivery.stream]
            for a, b in parts:
                dedup.let_go(first + a, first + b)
                if report:
                    self._give_back(source, delivery.stream, first + a, first + b)
            moved_cost = sum(part.cost for part in survivors)
            lost_cost = delivery.cost * taken.total // max(1, delivery.left)
            self._freed(source, taken.total, lost_cost)
            delivery.left -= high - low
            delivery.cost -= moved_cost + lost_cost
            if in_buffer:
                at = source.buffer.index(delivery)
                source.buffer.remove(delivery)
                for part in reversed(survivors):
                    source.buffer.insert(at, part)
            else:
                source.buffer.extendleft(reversed(survivors))
            self._close_if_finished(delivery)

    def _unfence(self, delivery: Delivery) -> None:
        """Nothing was taken from `delivery` after all; if it is being handled it may go on."""
        if delivery in self._open and delivery not in self._sources[delivery.holder].buffer:
            delivery.until = self._sources[delivery.holder].fence

    # Progress

    def progress(self, now: float) -> None:
        """Read what the handling side decided since the last call."""
        finished_before = self._account["processed"]
        for delivery in list(self._open):
            acked = delivery.acked
            if acked > delivery.reported:
                self._finish(delivery, delivery.reported, acked)
                delivery.reported = acked
            while delivery.verdicts:
                self._apply(delivery, *delivery.verdicts.popleft())
            if not delivery.observed or delivery.next > delivery.observed[-1][0]:
                self._taken_at = max(self._taken_at, now) if delivery.observed else self._taken_at
                self._observe(delivery, now)
            self._close_if_finished(delivery)
        if self._outlived:
            self._read_late()
        count = self._account["processed"] - finished_before
        if count:
            self.window.processed(count, now - self._busy_mark)
            self._refusals = 0
        if count or not self._open:
            self._busy_mark = now

    def _read_late(self) -> None:
        """Take note of what was acked after its lease."""
        for delivery in self._outlived:
            if delivery in self._open:
                continue  # read with the others
            if delivery.acked > delivery.reported:
                self._late.append((delivery, delivery.reported, delivery.acked))
                delivery.reported = delivery.acked
            while delivery.verdicts:
                verdict, low, high, _, _ = delivery.verdicts.popleft()
                if verdict is Verdict.ACK:
                    self._late.append((delivery, low, high))
        late, self._late = self._late, []
        for delivery, low, high in late:
            ranges = self._outlived.get(delivery, Ranges())
            for a, b in ranges.common(low, high):
                self._finish_late(delivery, delivery.first + a, delivery.first + b)
            ranges.remove(low, high)
            if not ranges:
                self._outlived.pop(delivery, None)

    def _finish_late(self, delivery: Delivery, start: int, stop: int) -> None:
        """`[start, stop)` is processed, though it was nacked meanwhile and may be here again."""
        dedup, source = self._dedup.get(delivery.stream), self._sources.get(delivery.holder)
        if dedup is None:
            return
        self._take_back(None, {delivery.stream: Ranges([(start, stop)])}, report=False)
        for copy in self._everything():
            # What was taken back above is behind the limit of its copy.
            low, high = max(start, copy.first) - copy.first, min(stop - copy.first, copy.limit)
            if copy.stream == delivery.stream and low < high:
                self._finish(copy, low, high)
                self._mark_gone(copy, low, high)
                self._close_if_finished(copy)
        dedup.finish(start, stop)
        if source is not None:
            source.done.setdefault(delivery.stream, Ranges()).add(start, stop)

    def _apply(self, delivery: Delivery, verdict: Verdict, low: int, high: int, delay: float, text: str) -> None:
        if verdict is Verdict.ACK:
            self._finish(delivery, low, high)
            self._mark_gone(delivery, low, high)
            return
        source = self._sources[delivery.holder]
        dedup = self._dedup[delivery.stream]
        for a, b in delivery.unsettled(low, min(high, delivery.limit)):
            start, stop = delivery.first + a, delivery.first + b
            dedup.let_go(start, stop)
            if verdict is Verdict.GIVE_BACK:
                self._give_back(source, delivery.stream, start, stop)
            else:
                self._nack(source, delivery, a, b, _REASONS[verdict], delay, text)
            self._finished_here(delivery, b - a)
        self._mark_gone(delivery, low, high)

    def _nack(
        self, source: _Source, delivery: Delivery, low: int, high: int, reason: int, delay: float, text: str
    ) -> None:
        delay_ms = round(delay * 1000) if delay >= 0 else -1
        nack = Nack(delivery.first + low, delivery.first + high, delivery.attempt, reason, delay_ms, text[:1000])
        source.nacks.setdefault(delivery.stream, []).append(nack)
        self._account["refused" if reason == REFUSED else "nacked"] += high - low
        if reason == REFUSED:
            self._refusals += high - low
            if self._refusals >= REFUSALS_MAX:
                self._refusals = 0
                self.misled += 1
                self._no_credit_until = inf  # `grant` puts the pause from its own now

    def _finish(self, delivery: Delivery, low: int, high: int) -> None:
        if delivery in self._outlived:
            self._late.append((delivery, low, high))
        source = self._sources[delivery.holder]
        dedup = self._dedup[delivery.stream]
        for a, b in delivery.unsettled(low, high):
            start, stop = delivery.first + a, delivery.first + b
            dedup.finish(start, stop)
            done = source.done.get(delivery.stream)
            if done is None:
                done = source.done[delivery.stream] = Ranges()
            done.add(start, stop)
            self._account["processed"] += b - a
            self._finished_here(delivery, b - a)

    def _finished_here(self, delivery: Delivery, count: int) -> None:
        size = delivery.cost * count // delivery.left if delivery.left else delivery.cost
        delivery.left -= count
        delivery.cost -= size
        self._freed(self._sources[delivery.holder], count, size)

    def _mark_gone(self, delivery: Delivery, low: int, high: int) -> None:
        if delivery.gone is None:
            delivery.gone = Ranges()
        delivery.gone.add(low, high)

    def _freed(self, source: _Source, count: int, size: int) -> None:
        source.credit.freed_messages += count
        source.credit.freed_bytes += size

    def _give_back(self, source: _Source, stream: str, start: int, stop: int) -> None:
        source.returned.setdefault(stream, Ranges()).add(start, stop)
        self._account["returned"] += stop - start

    def _close_if_finished(self, delivery: Delivery) -> None:
        if delivery.left == 0 and delivery in self._open:
            del self._open[delivery]
            self._drop_if_empty(delivery.holder)

    def _drop_if_empty(self, holder: str) -> None:
        source = self._sources.get(holder)
        if source is not None and source.proven_gone and not any(d.holder == holder for d in self._everything()):
            del self._sources[holder]
            self._turn.remove(holder)

    def _everything(self) -> list[Delivery]:
        """All deliveries with something unfinished: being handled first, then buffered, each once."""
        buffered = [d for source in self._sources.values() for d in source.buffer if d not in self._open]
        return [*self._open, *buffered]

    # Leases and idleness

    def _observe(self, delivery: Delivery, now: float) -> None:
        if delivery.observed and now - delivery.observed[-1][1] < OBSERVE_EVERY:
            delivery.observed[-1] = (delivery.next, now)
        else:
            delivery.observed.append((delivery.next, now))

    def extend(self, delivery: Delivery, index: int, until: float) -> None:
        """The lease of one message does not end before `until`."""
        delivery.extended[index] = until

    def pause(self, delivery: Delivery, now: float) -> None:
        """A handler of `delivery` waits inside a call of ours: its lease stands still."""
        delivery.pauses += 1
        if delivery.paused_at is None:
            delivery.paused_at = now

    def resume(self, delivery: Delivery, now: float) -> None:
        """A handler goes on; the lease with the last of them."""
        delivery.pauses -= 1
        if delivery.pauses == 0 and delivery.paused_at is not None:
            waited = now - delivery.paused_at
            delivery.observed = [(index, at + waited) for index, at in delivery.observed]
            delivery.paused_at = None

    def expire(self, now: float) -> None:
        """End leases that have passed, return what an idle consumer holds, forget streams of producers gone."""
        self.progress(now)
        for delivery in list(self._open):
            if delivery.paused_at is None:
                self._end_leases(delivery, now)
        if not self._takers and now - self._taken_at >= IDLE_AFTER and self._unstarted():
            self.give_back_unstarted()
        for stream in [s for s, at in self._forget_at.items() if at <= now and self._dedup[s].held.total == 0]:
            del self._forget_at[stream], self._dedup[stream]
            self._durable.pop(stream, None)
            self._forget(stream, 0, _EVERYTHING)
            for source in self._sources.values():
                source.forget(stream)

    def _end_leases(self, delivery: Delivery, now: float) -> None:
        while delivery.observed and delivery.observed[0][1] + self.lease <= now:
            index, _ = delivery.observed[0]
            if not self._end_lease_below(delivery, index, now):
                return
            delivery.observed.pop(0)
        # The front marks are spent once everything below them is settled.
        while len(delivery.observed) > 1 and delivery.observed[0][0] <= delivery.reported:
            delivery.observed.pop(0)

    def _end_lease_below(self, delivery: Delivery, index: int, now: float) -> bool:
        """Take back what is unsettled below `index`, except what was extended; True if nothing is left there."""
        all_gone = True
        source = self._sources[delivery.holder]
        for a, b in delivery.unsettled(0, min(index, delivery.limit)):
            for at in range(a, b):
                if delivery.extended.get(at, now) > now:
                    all_gone = False
                    continue
                self._dedup[delivery.stream].let_go(delivery.first + at, delivery.first + at + 1)
                self._nack(source, delivery, at, at + 1, LEASE, -1.0, f"the lease of {self.lease:g} s was over")
                self._finished_here(delivery, 1)
                self._mark_gone(delivery, at, at + 1)
                self.lapsed.append((delivery.stream, delivery.first + at))
                self._outlived.setdefault(delivery, Ranges()).add(at, at + 1)
        while len(self._outlived) > LAPSED_MAX or sum(d.cost for d in self._outlived) > self.budget:
            del self._outlived[next(iter(self._outlived))]
        self._close_if_finished(delivery)
        return all_gone

    def deadline(self, now: float) -> float | None:
        """The next instant at which `expire` has something to look at."""
        times = list(self._forget_at.values())
        if self._open:
            times.append(now + OBSERVE_EVERY)
        if not self._takers and self._unstarted():
            times.append(self._taken_at + IDLE_AFTER)
        if now < self._patience_until < inf:
            times.append(self._patience_until)
        if now < self._no_credit_until < inf:
            times.append(self._no_credit_until)
        return min(times, default=None)

    def _unstarted(self) -> int:
        open_rest = sum(d.limit - d.next for d in self._open)
        buffered = sum(d.limit - d.next for s in self._sources.values() for d in s.buffer if d not in self._open)
        return open_rest + buffered

    @property
    def unsettled_started(self) -> int:
        """Messages in the hands of user code."""
        return sum(d.left - max(0, d.limit - d.next) for d in self._open)

    # Telling the producers

    def grant(self, now: float) -> None:
        """Raise the totals as far as the window and the budget allow."""
        if self._no_credit_until == inf:
            self._no_credit_until = now + REFUSAL_PAUSE
        active = not self.closed and (self._takers > 0 or now - self._taken_at < IDLE_AFTER)
        if not active or now < self._no_credit_until or not self._sources:
            return
        self._turn.rotate(-1)
        free, free_bytes = self.window.size, self.budget
        sources, waiting = [], []
        for holder in self._turn:
            source = self._sources[holder]
            if source.attached:
                credit = source.credit
                free -= credit.used(now)
                free_bytes -= credit.outstanding_bytes()
                sources.append((holder, source))
                if credit.sends(now):
                    waiting.append(holder)
        for holder, source in sources:
            credit = source.credit
            if free <= 0:
                break
            if holder not in waiting and credit.unused():
                continue
            if sum(len(self._dedup[s].done) for s in source.streams) >= DONE_RANGES_MAX:
                continue
            if holder in waiting:
                share = max(1, free // len(waiting))
                waiting.remove(holder)
                free -= share
            else:
                share = 1
            credit.granted_messages += share
            credit.moved_at = now
        self._grant_bytes([source.credit for _, source in sources], free_bytes)

    def _grant_bytes(self, credits: list[ConsumerCredit], free: int) -> None:
        """Bytes for the messages that are granted, at the sizes seen so far.

        Also if the window has no room for more messages: a producer that has those and no bytes would send one
        message a round trip, which looks like slow handlers and keeps the window small. And at most for a window,
        as more would lie unused with those who have less to do.
        """
        share = self.budget // max(1, len(credits))
        for credit in credits:
            if not credit.unused():
                continue
            size = credit.seen_bytes // credit.seen_messages if credit.seen_messages else 0
            enough = min(share, QUANTUM + 2 * size * min(credit.outstanding(), self.window.size))
            room = min(enough - credit.outstanding_bytes(), free)
            if room > 0:
                credit.granted_bytes += room
                free -= room

    def take_grant(self, holder: str) -> Grant | None:
        """The totals for `holder` if they changed since they were last told."""
        source = self._sources.get(holder)
        if source is None:
            return None
        totals = (source.credit.granted_messages, source.credit.granted_bytes)
        if totals == source.credit.told:
            return None
        source.credit.told = totals
        return Grant(self.queue, *totals)

    def take_results(self, holder: str, ack: int) -> list[Result]:
        """What was decided since the last call, to leave in ACK number `ack`."""
        source = self._sources.get(holder)
        if source is None or not source.has_results:
            return []
        results = []
        for stream in {**source.done, **source.returned, **source.nacks, **source.starting}:
            done, returned = source.done.get(stream), source.returned.get(stream)
            starting = source.starting.get(stream)
            results.append(
                Result(
                    stream,
                    self.queue,
                    done.flat() if done is not None else [],
                    returned.flat() if returned is not None else [],
                    source.nacks.get(stream, []),
                    starting.flat() if starting is not None else [],
                )
            )
            if starting is not None and source.buffer and source.buffer[0].announced is not None:
                source.buffer[0].announced = ack
            if done is not None:
                self._dedup[stream].reported(ack)
        if self._suspect is not None and self._suspect.holder == holder and self._suspect not in self._open:
            self._suspect.announced = min(self._suspect.announced or inf, ack)
        source.done.clear()
        source.returned.clear()
        source.nacks.clear()
        source.starting.clear()
        return results

    def news(self) -> Iterator[tuple[str, bool]]:
        """The holders that have something to be told, and whether they may be waiting for it."""
        for holder, source in self._sources.items():
            if not source.attached:
                continue
            if source.has_results:
                yield holder, True
            elif (source.credit.granted_messages, source.credit.granted_bytes) != source.credit.told:
                yield holder, source.credit.waiting > 0

    @property
    def starves(self) -> bool:
        """Whether a producer waits for credit, of which it has none left as far as it was told."""
        return any(source.attached and source.credit.starves for source in self._sources.values())

    def has_news(self, holder: str) -> bool:
        """Whether `take_results` or `take_grant` would return something."""
        source = self._sources.get(holder)
        if source is None or not source.attached:
            return False
        credit = source.credit
        granted = (credit.granted_messages, credit.granted_bytes) != credit.told
        return granted or source.has_results

    def holds_from(self, holder: str) -> bool:
        """Whether unfinished messages of `holder` are here."""
        source = self._sources.get(holder)
        return source is not None and (bool(source.buffer) or any(d.holder == holder for d in self._open))

    @property
    def idle(self) -> bool:
        """Nothing is held and nothing has to be told."""
        return not self._everything() and not any(s.attached and s.has_results for s in self._sources.values())

    def account(self) -> ConsumerAccount:
        unstarted = self._unstarted()
        return ConsumerAccount(
            queue=self.queue,
            buffered=unstarted,
            started=sum(d.left for d in self._everything()) - unstarted,
            window=self.window.size,
            **self._account,
        )

    def check(self) -> None:
        """Assert the invariants of this end and its parts."""
        held: dict[str, int] = {}
        for delivery in self._everything():
            assert 0 <= delivery.next <= delivery.limit <= delivery.count, f"{delivery} is out of order"
            held[delivery.stream] = held.get(delivery.stream, 0) + delivery.left
        for stream, dedup in self._dedup.items():
            dedup.check()
            below = sum(b - a for a, b in dedup.held.common(0, dedup.floor))
            assert dedup.held.total == held.get(stream, 0), f"{stream}: held is not buffered + started"
            started = self.unsettled_started
            assert below <= started, f"{stream}: an unstarted message lies below the floor"
        for source in self._sources.values():
            credit = source.credit
            assert credit.seen_messages <= credit.granted_messages or source.proven_gone, "more came than was granted"
            assert credit.freed_messages <= credit.seen_messages, "more was finished than came"
        attached = [source.credit for source in self._sources.values() if source.attached]
        granted = sum(credit.outstanding_bytes() for credit in attached)
        assert granted <= self.budget + self._largest * len(self._sources), "granted more bytes than the budget"
        assert sorted(self._turn) == sorted(self._sources), "turn and sources differ"


def _node(name: str) -> str:
    """The node id of a holder or a stream."""
    return name.partition(":")[0]


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
            holder=whole.holder,
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
            suspect=whole.suspect,
            floor=whole.floor,
        )
        if whole.extras is not None:
            part.extras = {i - low: extra for i, extra in whole.extras.items() if low <= i < high} or None
        made.append(part)
    return made


__all__ = ["ConsumerEnd", "Delivery", "Verdict", "slices"]
