"""The consumer's end of a queue: messages received, handed out, and what was decided about them.

received  =  held (buffered + started + ran)  ⊎  finished  ⊎  given back
granted   =  by the pace of the handlers (sources.py), one budget over all links
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Final

from peerfabric.arguments import DELAY_MAX, sendable
from peerfabric.errors import BadFrame
from peerfabric.queue.delivery import (
    OBSERVE_EVERY,
    Delivery,
    Expiring,
    Overdue,
    Verdict,
    lapsed,
    look_at,
    mark_overdue,
    observe,
    slices,
    take_unstarted,
)
from peerfabric.queue.sources import Granting, Producers, Source, Turns
from peerfabric.ranges import Ranges
from peerfabric.reports import ConsumerAccount
from peerfabric.wire.frames import (
    ALONE,
    BATCH_FAILED,
    DURABLE,
    EXPIRED,
    FAILED,
    LEASE,
    REFUSED,
    REJECTED,
    Backlog,
    Data,
    Nack,
)

if TYPE_CHECKING:
    from peerfabric.queue.handon import HandOn

IDLE_AFTER: Final = 2.0
"""A consumer that takes nothing for this long gives back what it has not started."""
UNREADABLE: Final = "its frame has another body than its header says"

_REASONS: Final = {
    Verdict.NACK: FAILED,
    Verdict.REJECT: REJECTED,
    Verdict.REFUSE: REFUSED,
    Verdict.BATCH_FAILED: BATCH_FAILED,
}


class IncomingQueue:
    """Everything one node consumes from one queue.

    Args:
        queue: The queue's name.
        lease: Seconds that user code may keep a message before it goes to somebody else.
        budget: Bytes granted and not yet finished, over all links.
        horizon: Seconds of work to keep in hand.
        remembered: What was processed in an earlier life, by stream, as a ledger has it; None: there is no ledger.
    """

    handon: HandOn | None = None
    """What has run and waits for its outputs, if something ever has."""

    def __init__(
        self,
        queue: str,
        lease: float,
        budget: int,
        horizon: float,
        remembered: Mapping[str, Ranges] | None = None,
    ) -> None:
        self.queue, self.lease = queue, lease
        self.granting = Granting(budget, horizon)
        self.window = self.granting.window
        self.closed = False
        self.paused = False
        """Somebody wants nothing handed out here: see `Receiver.pause`."""
        self.lapsed: list[tuple[str, int]] = []
        """(stream, sequence) whose lease ended, for the driver to warn about."""
        self._overdue = Overdue(budget)
        self._expiring = Expiring()
        self._takers = 0
        self._taken_at = self.handed_at = -inf
        """When somebody was there to take, and when something was last handed out, as far as it is known."""
        self._busy_mark = 0.0
        self.turns = Turns()
        self.producers = Producers(queue, self.granting, remembered)
        self._sources, self._speaking = self.producers.by_peer, self.producers.speaking
        self._streams = self.producers.streams
        self._open: dict[Delivery, None] = {}
        """Those that are being handled."""
        counted = ("received", "processed", "nacked", "returned", "refused", "expired", "duplicates")
        self._account = dict.fromkeys(counted, 0)

    def open_handon(self, wake: Callable[[], None], *, ledgered: bool = False) -> HandOn:
        """What has run here and waits for its outputs; made at the first call, with these arguments."""
        if self.handon is None:
            from peerfabric.queue.handon import HandOn  # of no use to whoever hands nothing on

            self.handon = HandOn(self.queue, wake, ledgered=ledgered)
            self.granting.beyond = sum(source.credit.outstanding() for source in self._sources.values())
        return self.handon

    # Links

    def attach(self, peer: str) -> None:
        """A new link life with `peer`: if it is a producer of ours, totals start at 0 on both sides."""
        if peer not in self._sources and self.producers.knows(_node(peer)):
            self.meet(peer)  # taken for dead, and back: what it sent before, perhaps in another life, is remembered
        source = self._sources.get(peer)
        if source is None:
            return
        if source.proven_gone:
            source.proven_gone = False
            self.fence(peer, -inf)  # it is back, and may give them to others: only its echoes count from now on
        self.producers.attach(source, self.held_from(peer))
        if self.handon is not None:
            self.handon.tell_again(source)
            self._speaking[peer] = source

    def meet(self, peer: str) -> None:
        """`peer` produces for this queue."""
        earlier = self.producers.meet(peer)
        for delivery in self._everything() if earlier else ():
            if delivery.peer == earlier:
                delivery.peer = peer

    def held_from(self, peer: str) -> list[Delivery]:
        """What is here of `peer` and unfinished."""
        return [delivery for delivery in self._everything() if delivery.peer == peer]

    def detach(self, peer: str, now: float, *, proven_gone: bool) -> None:
        """The producer `peer` is gone, or has vanished.

        If it is proven gone its messages can reach nobody else: they are run here. If it has only vanished
        it will give them to others, so those not started are dropped.
        """
        source = self._sources.get(peer)
        if source is None:
            return
        source.attached = False
        self.granting.changed = True
        if self.handon is not None:  # what it has here runs besides what others are granted
            self.granting.beyond += sum(d.left for d in self._everything() if d.peer == peer)
        if proven_gone:
            source.proven_gone = True
            self.fence(peer, inf)
            self.producers.died(source, now)
        else:
            self.fence(peer, -inf)
            self._take_back(peer, None, report=False)
            oldest = self.producers.vanished(peer)
            if oldest and not self.holds_from(oldest):
                self.producers.forget(oldest)
        self._drop_if_empty(peer)

    def fence(self, peer: str, until: float) -> None:
        """Messages of `peer` may be handed out before `until`: it still believes in us until then."""
        source = self._sources.get(peer)
        if source is None:
            return
        source.fence = until
        for delivery in self._open:
            if delivery.peer == peer and delivery.until != -inf:
                delivery.until = until if until < delivery.expires else delivery.expires

    # Receiving

    def has_met(self, peer: str) -> bool:
        """Whether that producer is known here."""
        return peer in self._sources

    def receive(
        self, peer: str, sender: str, data: Data, body: bytes | memoryview, fence: float, expires: float = inf
    ) -> None:
        """A DATA frame arrived of a producer that was met; it may be handed out before `fence` and `expires`."""
        source = self._sources[peer]
        source.fence = fence
        charged = self._charge(source, data)
        stream, first, stop = data.stream, data.first, data.first + data.count
        dedup = source.streams[stream] = self._streams.came(stream, durable=bool(data.flags & DURABLE))
        if data.floor > dedup.floor:
            self.raise_floor(stream, data.floor)
        if dedup.first_reported <= data.settled:
            self._streams.settle(stream, data.settled)
        new, finished = dedup.receive(first, stop)
        self._account["received"] += data.count
        whole = Delivery(
            peer=peer,
            sender=sender,
            stream=stream,
            queue=data.queue,
            first=first,
            count=data.count,
            attempt=data.attempt,
            body=body,
            codec=data.codec,
            sent_ms=data.sent_ms,
            cost=charged,
            alone=bool(data.flags & ALONE),
            extras={extra.index: extra for extra in data.extras} if data.extras else None,
            floor=data.floor,
            expires=expires,
            depth=data.depth,
        )
        if new == [(first, stop)]:
            source.buffer.append(whole)
            if expires < inf:
                self._expiring.add(whole)
            if not source.queued:
                self.turns.join(source)
        else:
            self._receive_part(source, whole, new, finished)

    def _charge(self, source: Source, data: Data) -> int:
        """Adopt the totals of a frame that came; return the bytes that it took."""
        charged = max(0, data.sent_bytes - source.credit.seen_bytes)
        self.granting.largest = max(self.granting.largest, charged)
        source.credit.adopt(data.sent_messages, data.sent_bytes, data.waiting)
        self.granting.changed = True
        return charged

    def decline(self, peer: str, data: Data) -> None:
        """A DATA frame came though nobody takes any more: its credit is spent and free again."""
        source = self._sources.get(peer)
        if source is not None:
            self._freed(source, data.count, self._charge(source, data))

    def _receive_part(
        self,
        source: Source,
        whole: Delivery,
        new: list[tuple[int, int]],
        finished: list[tuple[int, int]],
    ) -> None:
        """Some of the frame was here before: ack what is finished, renew what is held, keep the new."""
        for a, b in finished:
            source.add_done(whole.stream, a, b)
        self._speaking[source.peer] = source
        fresh = sum(b - a for a, b in new)
        self._account["duplicates"] += whole.count - fresh
        if fresh + sum(b - a for a, b in finished) < whole.count:
            for delivery in self._everything():
                if delivery.stream == whole.stream and delivery.first < whole.stop and whole.first < delivery.stop:
                    delivery.attempt = max(delivery.attempt, whole.attempt)
        try:
            parts = slices(whole, [(a - whole.first, b - whole.first) for a, b in new])
        except BadFrame:
            parts = []
            for a, b in new:
                self._streams[whole.stream].let_go(a, b)
                self._nack(source, whole, a - whole.first, b - whole.first, REFUSED, -1.0, UNREADABLE)
            fresh = 0
        source.buffer.extend(parts)
        for part in parts:
            self._expiring.add(part)
        self.turns.join(source)
        self._freed(source, whole.count - fresh, whole.cost - sum(part.cost for part in parts))

    def backlog(self, peer: str, backlog: Backlog) -> None:
        """The producer says what waits for us, and the totals that it has sent."""
        source = self._sources.get(peer)
        if source is not None:
            source.credit.adopt(backlog.sent_messages, backlog.sent_bytes, backlog.waiting)
            self.granting.changed = True
        self.raise_floor(backlog.stream, backlog.floor)

    def raise_floor(self, stream: str, floor: int) -> None:
        """Everything of `stream` below `floor` is settled; unstarted copies are dropped."""
        dedup = self._streams.raise_floor(stream, floor)
        if dedup is not None and dedup.held.total and dedup.held.common(0, floor):
            self._take_back(None, {stream: Ranges([(0, floor)])}, report=False)

    def release(self, peer: str, stream: str, ranges: Ranges) -> None:
        """These messages were given to somebody else or are settled: unstarted copies are dropped."""
        self._take_back(peer, {stream: ranges}, report=False)

    # Handing out

    def want(self, takers: int, at_least: int, now: float) -> None:
        """`takers` threads or tasks wait for messages now, for `at_least` in all."""
        self._takers = takers
        self.granting.changed = True
        if takers:
            self._taken_at = now
            self.window.want(at_least)

    def available(self, now: float) -> bool:
        """Whether `take` would return something."""
        return not self.paused and self.turns.available(now)

    def take(self, now: float) -> Delivery | None:
        """Hand out the next delivery, in turn by bytes over the producers; None if nothing may be handed out."""
        if now - self._taken_at >= IDLE_AFTER:
            self.granting.changed = True
        self._taken_at = now
        if self._expiring.at <= now:
            self._drop_expired(now)
        delivery = self.turns.take(now) if not self.paused else None
        if delivery is not None:
            self.handed_at = now
            if not self._open:
                self._busy_mark = now
            self._open[delivery] = None
        return delivery

    def park(self, delivery: Delivery) -> None:
        """The handling side may not go on with `delivery` now; the unstarted rest waits to be taken again."""
        delivery.until = -inf
        delivery.next = min(delivery.next, delivery.limit)
        if delivery.next < delivery.limit:
            source = self._sources[delivery.peer]
            source.buffer.appendleft(delivery)
            self._expiring.add(delivery)
            self.turns.join(source)

    def give_back_unstarted(self, only: str | None = None) -> None:
        """Return everything that was not handed out, or what is of one peer, to be processed elsewhere."""
        self._take_back(only, None, report=True)

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
        """Take unstarted messages from the buffers, of one peer or all, in `wanted` ranges or all.

        With `report` the producer is told that they are returned; otherwise it knows.
        """
        for delivery in self._everything():
            if only is not None and delivery.peer != only:
                continue
            if wanted is not None and delivery.stream not in wanted:
                continue
            delivery.until = -inf
            source, first = self._sources[delivery.peer], delivery.first
            start, stop = first + delivery.next, first + delivery.limit
            taken = Ranges([(start, stop)] if wanted is None else wanted[delivery.stream].common(start, stop))
            at = source.buffer.index(delivery) if delivery in source.buffer else -1
            if not taken:
                if delivery in self._open and at < 0:
                    delivery.until = min(source.fence, delivery.expires)  # it is being handled, and may go on
                continue
            for a, b in taken:
                self._streams[delivery.stream].let_go(a, b)
                if report:
                    self._give_back(source, delivery.stream, a, b)
            survivors, size = take_unstarted(delivery, taken)
            self._freed(source, taken.total, size)
            if at >= 0:
                source.buffer.remove(delivery)
            for part in reversed(survivors):
                source.buffer.insert(max(0, at), part)
                self._expiring.add(part)
            self.turns.join(source)
            self._close_if_finished(delivery)

    def _drop_expired(self, now: float) -> None:
        """What was not handed out in time goes back as expired."""
        for delivery in self._expiring.take_due(now):
            delivery.until = -inf
            source, low, high = self._sources[delivery.peer], delivery.next, delivery.limit
            if delivery in source.buffer:
                source.buffer.remove(delivery)
            if low < high:
                start, stop = delivery.first + low, delivery.first + high
                self._streams[delivery.stream].let_go(start, stop)
                self._nack(source, delivery, low, high, EXPIRED, -1.0, "")
                self._freed(source, high - low, take_unstarted(delivery, Ranges([(start, stop)]))[1])
                self._close_if_finished(delivery)

    # Progress

    def progress(self, now: float) -> None:
        """Read what the handling side decided since the last call."""
        handon = self.handon
        if handon is not None:
            self._ack_safe(handon)
        finished_before = self._account["processed"]
        for delivery in list(self._open):
            acked = delivery.acked
            if acked > delivery.reported:
                if handon is not None and handon.has_fresh:  # of what is acked now, it is known by now what is deferred
                    self._run(handon)
                self._finish(delivery, delivery.reported, acked)
                delivery.reported = acked
            while delivery.verdicts:
                verdict = delivery.verdicts.popleft()
                if handon is not None and handon.has_fresh:
                    self._run(handon)
                self._apply(delivery, *verdict)
            observed = delivery.observed
            if not observed:
                observed.append((delivery.next, now))
            elif delivery.next > observed[-1][0]:
                self.handed_at = self._taken_at = max(self._taken_at, now)
                observe(delivery, now)
            if delivery.left == 0:
                self._close_if_finished(delivery)
        if self._overdue.closed or self._overdue.late:
            self._overdue.read()
            if handon is not None and handon.has_fresh:
                self._run(handon)
            for delivery, low, high in self._overdue.take_acked():
                self._finish_late(delivery.stream, delivery.first + low, delivery.first + high)
        count = self._account["processed"] - finished_before
        if handon is not None:
            if handon.has_fresh:
                self._run(handon)
            count += handon.take_finished()
        if count:
            self.granting.processed(count, now - self._busy_mark)
        if count or not self._open:
            self._busy_mark = now

    def _finish_late(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` is processed, though it was nacked meanwhile and may be here again."""
        dedup, source = self._streams.get(stream), self.producers.source_of(stream)
        if dedup is None:
            return
        self._take_back(None, {stream: Ranges([(start, stop)])}, report=False)
        for copy in self._everything():
            # What was taken back above is behind the limit of its copy.
            low, high = max(start, copy.first) - copy.first, min(stop - copy.first, copy.limit)
            if copy.stream == stream and low < high:
                self._finish(copy, low, high)
                copy.mark_gone(low, high)
                self._close_if_finished(copy)
        if self.handon is not None:
            self.handon.take(stream, start, stop)  # that it ran once more need not wait any more
        dedup.finish(start, stop)
        if source is not None:
            source.finish_run(stream, start, stop)
            self._speaking[source.peer] = source

    # Hand-on

    def _run(self, handon: HandOn) -> None:
        """Read what was deferred: it is in nobody's hands, and waits for its outputs."""
        for deferred in handon.take_fresh():
            for delivery, low, high in deferred.everything():
                self._overdue.let_go(delivery, low, high)
                self._has_run(handon, delivery, low, high)
            handon.wait_for(deferred, durable=self._streams.is_durable(deferred.delivery.stream))

    def _has_run(self, handon: HandOn, delivery: Delivery, low: int, high: int) -> None:
        for a, b in delivery.unsettled(low, high):
            source, start, stop = self._sources[delivery.peer], delivery.first + a, delivery.first + b
            handon.add(delivery.stream, start, stop)
            source.add_ran(delivery.stream, start, stop)
            self._speaking[source.peer] = source
            self._finished_here(delivery, b - a)
            delivery.mark_gone(a, b)
        if delivery.left == 0:
            self._close_if_finished(delivery)

    def _ack_safe(self, handon: HandOn) -> None:
        """Ack what has run and whose outputs are safe."""
        if handon.safe or handon.written:
            for late in handon.finish(self.producers, self._account):  # their leases were over before they had run
                self._finish_late(*late)
            self.granting.changed = True
            for peer in [peer for peer, source in self._sources.items() if source.proven_gone]:
                self._drop_if_empty(peer)

    def _apply(self, delivery: Delivery, verdict: Verdict, low: int, high: int, delay: float, text: str) -> None:
        if verdict is Verdict.ACK:
            self._finish(delivery, low, high)
            delivery.mark_gone(low, high)
            return
        if delivery.overdue:
            self._overdue.let_go(delivery, low, high)
        source, dedup = self._sources[delivery.peer], self._streams[delivery.stream]
        for a, b in delivery.unsettled(low, min(high, delivery.limit)):
            start, stop = delivery.first + a, delivery.first + b
            dedup.let_go(start, stop)
            if verdict is Verdict.GIVE_BACK:
                self._give_back(source, delivery.stream, start, stop)
            else:
                self._nack(source, delivery, a, b, _REASONS[verdict], delay, text)
            self._finished_here(delivery, b - a)
        delivery.mark_gone(low, high)

    def _nack(
        self, source: Source, delivery: Delivery, low: int, high: int, reason: int, delay: float, text: str
    ) -> None:
        delay_ms = round(min(delay, DELAY_MAX) * 1000) if delay >= 0 else -1
        nack = Nack(delivery.first + low, delivery.first + high, delivery.attempt, reason, delay_ms, sendable(text))
        source.nacks.setdefault(delivery.stream, []).append(nack)
        self._speaking[source.peer] = source
        how = "refused" if reason == REFUSED else "expired" if reason == EXPIRED else "nacked"
        self._account[how] += high - low
        if reason == REFUSED:
            self.granting.refused(high - low)

    def _finish(self, delivery: Delivery, low: int, high: int) -> None:
        if delivery.overdue:
            self._overdue.acked(delivery, low, high)
        source, dedup = self._sources[delivery.peer], self._streams[delivery.stream]
        for a, b in delivery.unsettled(low, high):
            start, stop = delivery.first + a, delivery.first + b
            dedup.finish(start, stop)
            source.add_done(delivery.stream, start, stop)
            self._account["processed"] += b - a
            source.credit.freed_messages += b - a
            source.credit.freed_bytes += delivery.let_go(b - a)
        self.granting.changed = True
        self._speaking[source.peer] = source

    def _finished_here(self, delivery: Delivery, count: int) -> None:
        self._freed(self._sources[delivery.peer], count, delivery.let_go(count))

    def _freed(self, source: Source, count: int, size: int) -> None:
        source.credit.freed_messages += count
        source.credit.freed_bytes += size
        self.granting.changed = True

    def _give_back(self, source: Source, stream: str, start: int, stop: int) -> None:
        source.add_returned(stream, start, stop)
        self._speaking[source.peer] = self.producers.resting[source.peer] = source
        self._account["returned"] += stop - start

    def _close_if_finished(self, delivery: Delivery) -> None:
        if delivery.left == 0 and delivery.expires < inf:
            self._expiring.remove(delivery)
        if delivery.left == 0 and delivery in self._open:
            del self._open[delivery]
            if delivery.overdue:
                self._overdue.add(delivery)
            if self._sources[delivery.peer].proven_gone:
                self._drop_if_empty(delivery.peer)

    def _drop_if_empty(self, peer: str) -> None:
        source = self._sources.get(peer)
        if source is not None and source.proven_gone and not self.holds_from(peer):
            self.producers.remove(peer)

    def _everything(self) -> list[Delivery]:
        """All deliveries with something unfinished: being handled first, then buffered, each once."""
        buffered = [d for source in self._sources.values() for d in source.buffer if d not in self._open]
        return [*self._open, *buffered]

    # Leases and idleness

    def expire(self, now: float) -> None:
        """End leases and times that are over, return what an idle consumer holds, forget streams of producers gone."""
        self.progress(now)
        if self._expiring.at <= now:
            self._drop_expired(now)
        for delivery in list(self._open):
            self._end_leases(delivery, now)
        if not self._takers and now - self._taken_at >= IDLE_AFTER and self._unstarted():
            self.give_back_unstarted()
        self.producers.drop_due(now)

    def _end_leases(self, delivery: Delivery, now: float) -> None:
        """Take back what user code has kept for too long."""
        source = self._sources[delivery.peer]
        for at in lapsed(delivery, self.lease, now):
            sequence = delivery.first + at
            self._streams[delivery.stream].let_go(sequence, sequence + 1)
            self._nack(source, delivery, at, at + 1, LEASE, -1.0, f"the lease of {self.lease:g} s was over")
            self._finished_here(delivery, 1)
            delivery.mark_gone(at, at + 1)
            self.lapsed.append((delivery.stream, sequence))
            mark_overdue(delivery, at)
        self._close_if_finished(delivery)

    def deadline(self, now: float) -> float:
        """The next instant at which `expire` has something to look at; inf if never."""
        at = self._streams.deadline() if self._streams.forgetting else inf
        granting = self.granting
        granted_at = granting.paused_until if granting.paused_until > now else granting.stalled_at
        if now < granted_at < at:
            at = granted_at
        if now + OBSERVE_EVERY < at and (self._open or self.turns or self.producers.starves):
            at = now + OBSERVE_EVERY
        if self._expiring.at < inf:
            at = min(at, self._expiring.at)
        for delivery in self._open:
            at = min(at, look_at(delivery, self.lease, now))
        if not self._takers and self._taken_at + IDLE_AFTER < at and self._unstarted():
            at = self._taken_at + IDLE_AFTER
        return at

    def _unstarted(self) -> int:
        open_rest = sum(d.limit - d.next for d in self._open)
        buffered = sum(d.limit - d.next for s in self._sources.values() for d in s.buffer if d not in self._open)
        return open_rest + buffered

    @property
    def in_hand(self) -> list[Delivery]:
        """Those of which user code may have something."""
        return list(self._open)

    @property
    def overdue(self) -> list[Delivery]:
        """Those of which user code may have something whose lease is over."""
        return [each for each in (*self._open, *self._overdue.closed) if each.overdue]

    @property
    def unsettled_started(self) -> int:
        """Messages in the hands of user code."""
        return sum(d.left - max(0, d.limit - d.next) for d in self._open)

    def grant(self, now: float) -> None:
        """Raise the totals as far as the window and the budget allow."""
        if self.handon is not None:
            self.granting.deferred = self.handon.count
        if not (self.closed or self.paused) and (self._takers or now - self._taken_at < IDLE_AFTER):
            if self.producers.resting:
                self.producers.wake()
            for source in self.granting.grant(self._sources, now):
                self._speaking[source.peer] = source

    def holds_from(self, peer: str) -> bool:
        """Whether unfinished messages of `peer` are here."""
        source = self._sources.get(peer)
        if source is None:
            return False
        if source.buffer or any(d.peer == peer for d in self._open):
            return True
        return self.handon is not None and not self.handon.ran.keys().isdisjoint(source.streams)

    @property
    def idle(self) -> bool:
        """Nothing is held and nothing has to be told."""
        if self._everything() or (self.handon is not None and self.handon.count):
            return False
        return not any(s.attached and s.has_results for s in self._sources.values())

    def is_neglected(self, now: float) -> bool:
        """Whether messages wait for this consumer, and nobody here has any in hand or waits for one."""
        if self.closed or self.paused or self._takers or self._open or now - self._taken_at < IDLE_AFTER:
            return False
        return any(source.buffer or (source.attached and source.credit.waiting) for source in self._sources.values())

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is here and nothing waits for this consumer, so that only a frame can change that."""
        if self._open or self._overdue.closed or (self.handon is not None and self.handon.count):
            return False
        return not any(s.buffer or s.has_results or s.credit.waiting for s in self._sources.values())

    @property
    def was_taken_from(self) -> bool:
        """Whether anything ever came, which it does only for somebody who takes."""
        return self._account["received"] > 0

    def account(self) -> ConsumerAccount:
        unstarted = self._unstarted()
        return ConsumerAccount(
            queue=self.queue,
            buffered=unstarted,
            started=sum(d.left for d in self._everything()) - unstarted,
            handed_on=self.handon.count if self.handon is not None else 0,
            window=self.window.size,
            **self._account,
        )

    def check(self) -> None:
        """Assert the invariants of this end and its parts."""
        held: dict[str, int] = {}
        for delivery in self._everything():
            assert 0 <= delivery.next <= delivery.limit <= delivery.count, f"{delivery} is out of order"
            held[delivery.stream] = held.get(delivery.stream, 0) + delivery.left
        ran = 0
        if self.handon is not None:
            ran = self.handon.check(held, self.granting.beyond + len(self._sources))
        self.producers.check()
        for stream, dedup in self._streams.items():
            below = sum(b - a for a, b in dedup.held.common(0, dedup.floor))
            assert dedup.held.total == held.get(stream, 0), f"{stream}: held is not buffered + started + ran"
            started = self.unsettled_started
            assert below <= started + ran, f"{stream}: an unstarted message lies below the floor"
        self._expiring.check(each for source in self._sources.values() for each in source.buffer)
        self.turns.check()


def _node(name: str) -> str:
    """The node id of a peer or a stream."""
    return name.partition(":")[0]
