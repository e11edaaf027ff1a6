"""Sources: the producers of a queue as its consumer sees them, their turns, and the credit that each is granted.

Credit is what a consumer still allows each producer to send, as totals since the link began. The window follows the
handlers: enough messages for `horizon` seconds of work at the measured pace, so that slow jobs spread one by one and
fast ones travel in large batches. It starts at one message and doubles at most once per window processed (slow start,
as TCP does), and falls at once when handlers slow down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from math import inf
from typing import Final

from peerfabric.queue.delivery import Delivery
from peerfabric.queue.received import Dedup, Streams
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import Data, Grant, Nack, Result, StreamRanges

PACE_WEIGHT: Final = 0.3
"""Share of the newest sample in the pace, unless it is more than twice or less than half of what it was."""
WINDOW_MAX: Final = 4_194_304


class Window:
    """How many messages a consumer wants in hand, from the pace of its handlers.

    `size` is in messages over all links together. Times are in seconds.
    """

    __slots__ = ("_done_in_round", "_horizon", "_sample_busy", "_sample_count", "_service", "at_least", "size")

    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._service: float | None = None
        self._sample_count, self._sample_busy = 0, 0.0
        self._done_in_round = 0
        self.size = 1
        self.at_least = 1
        """One message for each thread or task that processes, or the batch that a caller of `batches` wants."""

    @property
    def pace(self) -> float:
        """Seconds that a message takes, as measured; 0 before the first."""
        return self._service or 0.0

    def want(self, at_least: int) -> None:
        """The takers together want `at_least` messages, however slow they are."""
        self.at_least = max(1, min(at_least, WINDOW_MAX))
        self.size = max(self.size, self.at_least)

    def processed(self, count: int, busy: float) -> None:
        """`count` messages were finished in `busy` seconds during which there was always work in hand."""
        if count < 1:
            return
        self._sample_count += count
        self._sample_busy += busy
        if self._service is None or self._sample_busy >= self._horizon / 4:
            self._measure(max(self._sample_busy, 1e-9) / self._sample_count)
            self._sample_count, self._sample_busy = 0, 0.0
        self._done_in_round += count
        if self._done_in_round >= self.size:
            self.size = max(self.size, min(self._target(), self.size * 2))
            self._done_in_round = 0

    def _measure(self, service: float) -> None:
        """One message took `service` seconds, over a sample long enough that a hiccup does not count."""
        before = self._service
        if before is None or not 0.5 < service / before < 2:
            self._service = service
        else:
            self._service = before + PACE_WEIGHT * (service - before)
        if self._target() < self.size:
            self.size = max(self._target(), self.size // 2)
            self._done_in_round = 0

    def _target(self) -> int:
        assert self._service is not None
        return max(self.at_least, min(WINDOW_MAX, int(self._horizon / self._service)))


class ConsumerCredit:
    """What this consumer granted to the producer at one link, and what has come of it."""

    __slots__ = (
        "freed_bytes",
        "freed_messages",
        "granted_bytes",
        "granted_messages",
        "moved_at",
        "seen_before",
        "seen_bytes",
        "seen_messages",
        "told",
        "waiting",
    )

    def __init__(self) -> None:
        self.granted_messages = self.granted_bytes = 0
        self.seen_messages = self.seen_bytes = 0
        self.freed_messages = self.freed_bytes = 0
        self.waiting = 0
        self.seen_before = 0
        self.moved_at = -inf
        """When credit was last granted, or messages came."""
        self.told = (0, 0)
        """The totals of the last grant that left in an ACK."""

    def outstanding(self) -> int:
        """Messages granted and not yet finished here, whether they have arrived or not."""
        return self.granted_messages - self.freed_messages

    def outstanding_bytes(self) -> int:
        """Bytes granted, or taken by a message that was larger than the grant, and not yet free."""
        return max(self.granted_bytes, self.seen_bytes) - self.freed_bytes

    def unused(self) -> int:
        """Messages granted that have not arrived."""
        return self.granted_messages - self.seen_messages

    def adopt(self, sent_messages: int, sent_bytes: int, waiting: int) -> None:
        """The producer's own totals replace ours, so a lost frame never shrinks the window for ever."""
        self.seen_messages = max(self.seen_messages, sent_messages)
        self.seen_bytes = max(self.seen_bytes, sent_bytes)
        self.waiting = waiting

    def decline(self, data: Data) -> None:
        """The messages of `data` came and went back at once."""
        charged = max(0, data.sent_bytes - self.seen_bytes)
        self.adopt(data.sent_messages, data.sent_bytes, data.waiting)
        self.freed_messages += data.count
        self.freed_bytes += charged


class Source:
    """One producer, as its consumer sees it. What is to be told is kept by stream until an ACK takes it along."""

    __slots__ = (
        "attached",
        "buffer",
        "credit",
        "deficit",
        "done",
        "fence",
        "nacks",
        "peer",
        "proven_gone",
        "queued",
        "ran",
        "returned",
        "sends",
        "streams",
    )

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.attached = True
        self.credit = ConsumerCredit()
        self.buffer: deque[Delivery] = deque()
        """What was not handed out, in order."""
        self.queued = False
        """It has its place among those that take turns."""
        self.sends = False
        """It has messages for us and may send them, as of the last grant."""
        self.deficit = 0
        """Bytes that it may still hand out in its turn; below 0 if its last turn took more."""
        self.fence = -inf
        """Its messages may be handed out before this instant."""
        self.proven_gone = False
        self.streams: dict[str, Dedup] = {}
        self.done: dict[str, Ranges] = {}
        self.returned: dict[str, Ranges] = {}
        self.nacks: dict[str, list[Nack]] = {}
        self.ran: dict[str, Ranges] = {}

    @property
    def has_results(self) -> bool:
        """Whether `take_results` would return something."""
        return bool(self.done or self.returned or self.nacks or self.ran)

    def add_done(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` is processed."""
        ranges = self.done.get(stream)
        if ranges is None:
            ranges = self.done[stream] = Ranges()
        ranges.add(start, stop)

    def add_returned(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` was not processed and is free for others."""
        self.returned.setdefault(stream, Ranges()).add(start, stop)

    def add_ran(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` has run, and is held until what its handlers sent is safe."""
        ranges = self.ran.get(stream)
        if ranges is None:
            ranges = self.ran[stream] = Ranges()
        ranges.add(start, stop)

    def finish_run(self, stream: str, start: int, stop: int) -> None:
        """What has run is processed: that is all that needs to be told of it."""
        self.add_done(stream, start, stop)
        ranges = self.ran.get(stream)
        if ranges is not None:
            ranges.remove(start, stop)
            if not ranges:
                del self.ran[stream]

    def take_grant(self, queue: str) -> Grant | None:
        """The totals if they changed since they were last told."""
        credit = self.credit
        granted = (credit.granted_messages, credit.granted_bytes)
        if granted == credit.told:
            return None
        credit.told = granted
        return Grant(queue, *granted)

    def take_results(self, queue: str, ack: int) -> list[Result]:
        """What is to be told in ACK number `ack`, a result for each stream; it is told once."""
        if not (self.done or self.returned or self.nacks or self.ran):
            return []
        for stream in self.done:
            self.streams[stream].reported(ack)
        results: dict[str, Result] = {stream: Result(stream, queue, done.flat()) for stream, done in self.done.items()}
        for stream, returned in self.returned.items():
            results.setdefault(stream, Result(stream, queue)).returned = returned.flat()
        for stream, nacks in self.nacks.items():
            results.setdefault(stream, Result(stream, queue)).nacks = nacks
        for stream, ran in self.ran.items():
            results.setdefault(stream, Result(stream, queue)).ran = ran.flat()
        self.nothing_to_tell()
        return list(results.values())

    def possession(self) -> tuple[list[StreamRanges], list[StreamRanges]]:
        """What is held and what is done of its streams."""
        held = [StreamRanges(stream, dedup.held.flat()) for stream, dedup in self.streams.items() if dedup.held]
        done = [StreamRanges(stream, dedup.done.flat()) for stream, dedup in self.streams.items() if dedup.done]
        return held, done

    def nothing_to_tell(self) -> None:
        """What was to be told has been, or a new life of the link tells it in another way."""
        self.done.clear()
        self.returned.clear()
        self.nacks.clear()
        self.ran.clear()

    def forget(self, stream: str) -> None:
        """Nobody can send anything of `stream` again, nor wants to hear what became of it."""
        self.streams.pop(stream, None)
        for told in (self.done, self.returned, self.nacks, self.ran):
            told.pop(stream, None)

    def check(self) -> None:
        """Assert the order of the totals, and that it has a turn if something is buffered."""
        credit = self.credit
        assert credit.seen_messages <= credit.granted_messages or self.proven_gone, "more came than was granted"
        assert credit.freed_messages <= credit.seen_messages, "more was finished than came"
        assert self.queued or not self.buffer, "no turn for messages"


QUANTUM: Final = 256 * 1024
"""Bytes that each producer may hand out in its turn, and may have on the way besides."""
DONE_RANGES_MAX: Final = 100_000
"""Ranges of results that a producer has yet to settle. Beyond that it gets no credit, as they could grow for ever."""
STALLED_AFTER: Final = 1.0
"""Granted credit that was not spent for so long, though messages wait, is lent to others: who says that it waits and
sends nothing (it hangs, or nothing that it has may come here) does not keep them from their share."""
REFUSALS_MAX: Final = 10
"""Refusals in a row after which a consumer gets no credit for a while: else the wrong one, being fastest, eats the
queue."""
REFUSAL_PAUSE: Final = 5.0
DEFERRED_MAX: Final = 65_536
"""Messages of one consumer that have run and wait for their outputs: with these and no more in hand it has enough. What
comes beyond is one message of each producer at a time; if it were none, two consumers could wait for each other."""


class Granting:
    """When a queue's producers get credit, and how much over all links.

    Args:
        budget: Bytes granted and not yet finished.
        horizon: Seconds of work to keep in hand.
    """

    def __init__(self, budget: int, horizon: float) -> None:
        self.budget = budget
        self.window = Window(horizon)
        self.largest = 0
        """Bytes of the largest frame that came: one message of each link may go over the budget."""
        self.changed = True
        """A total, a taker or the window has changed since the last grant."""
        self.misled = 0
        """How often refusals in a row stopped the credit, for the driver to report."""
        self.deferred = 0
        """Messages that have run and wait for their outputs."""
        self.beyond = 0
        """How many may have been granted besides those of which `DEFERRED_MAX` speaks."""
        self._refusals = 0
        self.paused_until = -inf
        """No credit before this instant; inf: `grant` says until when."""
        self.stalled_at = inf
        """When the credit of the next that sends nothing is lent to others."""
        self._turn = 0

    def refused(self, count: int) -> None:
        """So many messages did not fit the consumer's type."""
        self._refusals += count
        if self._refusals >= REFUSALS_MAX:
            self._refusals = 0
            self.misled += 1
            self.paused_until = inf  # `grant` puts the pause from its own now

    def processed(self, count: int, busy: float) -> None:
        """So many messages were processed in `busy` seconds during which there was always work in hand."""
        self.window.processed(count, busy)
        self._refusals = 0

    def grant(self, sources: Mapping[str, Source], now: float) -> list[Source]:
        """Raise the totals of `sources`, another one first each time; return those that were raised."""
        if self.paused_until == inf:
            self.paused_until = now + REFUSAL_PAUSE
        if now < self.paused_until or (not self.changed and now < self.stalled_at):
            return []
        self.changed, self.stalled_at = False, inf
        order, window = list(sources.values()), self.window.size
        if self.deferred and self.deferred + window > DEFERRED_MAX:
            window = DEFERRED_MAX - self.deferred
            if window <= 0:
                raised = grant_one_each(order, self.budget, now)
                self.beyond += len(raised)
                return raised
        if len(order) <= 1:
            return grant(order, window, self.budget, now)
        self._turn = (self._turn + 1) % len(order)
        raised = grant(order[self._turn :] + order[: self._turn], window, self.budget, now)
        self.stalled_at = min((s.credit.moved_at + STALLED_AFTER for s in order if s.sends), default=inf)
        return raised

    def check(self, sources: Mapping[str, Source]) -> None:
        """Assert that no more than the budget was granted."""
        granted = sum(source.credit.outstanding_bytes() for source in sources.values() if source.attached)
        assert granted <= self.budget + self.largest * len(sources), "granted more bytes than the budget"


def grant(sources: Iterable[Source], window: int, budget: int, now: float) -> list[Source]:
    """Raise the totals of `sources` as far as `window` messages and `budget` bytes over all of them allow.

    Those that wait share what is free, in the order given; the others get one message each, to begin with. What counts
    against the window is what is here, and what those that wait will send.

    Returns:
        Those whose totals were raised.
    """
    free, free_bytes = window, budget
    attached: list[Source] = []
    waiting = 0
    for source in sources:
        source.sends = False
        if not source.attached:
            continue
        attached.append(source)
        credit = source.credit
        if credit.seen_messages != credit.seen_before:
            credit.seen_before, credit.moved_at = credit.seen_messages, now
        unused = credit.granted_messages - credit.seen_messages
        source.sends = credit.waiting > 0 and (unused <= 0 or now - credit.moved_at < STALLED_AFTER)
        waiting += source.sends
        free -= (credit.granted_messages if source.sends else credit.seen_messages) - credit.freed_messages
        seen = credit.seen_bytes
        free_bytes -= (credit.granted_bytes if credit.granted_bytes > seen else seen) - credit.freed_bytes
    raised: list[Source] = []
    share_bytes = budget // len(attached) if attached else 0
    for source in attached:
        credit = source.credit
        before, seen_messages = credit.granted_messages, credit.seen_messages
        if free > 0 and (source.sends or before <= seen_messages) and not _remembers_too_much(source):
            share = 1
            if source.sends:
                share = max(1, free // waiting)
                waiting -= 1
                free -= share
            credit.granted_messages += share
            credit.moved_at = now
        size = 0
        if credit.granted_messages != credit.seen_messages:
            size = _bytes_wanted(source, window, share_bytes)
            size = min(size, free_bytes)
            if size > 0:
                credit.granted_bytes += size
                free_bytes -= size
        if size > 0 or credit.granted_messages != before:
            raised.append(source)
    return raised


def grant_one_each(sources: Iterable[Source], budget: int, now: float) -> list[Source]:
    """Raise the totals of those who have nothing granted that is not finished by one message; return them."""
    raised = []
    for source in sources:
        credit = source.credit
        if source.attached and credit.outstanding() <= 0 and not _remembers_too_much(source):
            credit.granted_messages += 1
            credit.granted_bytes += max(0, min(_bytes_wanted(source, 1, budget), budget - credit.outstanding_bytes()))
            credit.moved_at = now
            raised.append(source)
    return raised


def _remembers_too_much(source: Source) -> bool:
    messages = 0
    for dedup in source.streams.values():
        messages += dedup.done.total
    return messages >= DONE_RANGES_MAX and sum(len(d.done) for d in source.streams.values()) >= DONE_RANGES_MAX


def _bytes_wanted(source: Source, window: int, share: int) -> int:
    """What `source` lacks for the messages that it is granted, at the sizes seen so far.

    Also if the window has no room for more messages: a producer that has those and no bytes would send one message a
    round trip, which looks like slow handlers and keeps the window small. And at most for a window, as more would lie
    unused with those who have less to do.
    """
    credit = source.credit
    each = credit.seen_bytes // credit.seen_messages if credit.seen_messages else 0
    outstanding = credit.granted_messages - credit.freed_messages
    enough = QUANTUM + 2 * each * (outstanding if outstanding < window else window)
    granted, seen = credit.granted_bytes, credit.seen_bytes
    return (enough if enough < share else share) - (granted if granted > seen else seen) + credit.freed_bytes


class Turns(deque[Source]):
    """The sources with something buffered, whose turn it is first; each `queued` one is here once."""

    def join(self, source: Source) -> None:
        """Something of `source` is buffered."""
        if source.buffer and not source.queued:
            source.queued = True
            self.append(source)

    def available(self, now: float) -> bool:
        """Whether `take` would return something."""
        return any(source.buffer and source.fence > now for source in self)

    def take(self, now: float) -> Delivery | None:
        """Remove and return the next delivery; None if nothing may be handed out."""
        for _ in range(2 * len(self)):
            if not self:
                return None
            source = self[0]
            buffer = source.buffer
            if not buffer:
                self._leave(source)
                continue
            if source.fence <= now:
                source.deficit = 0
                self.rotate(-1)
                continue
            if source.deficit <= 0:
                source.deficit += max(QUANTUM, buffer[0].cost)
                if len(self) > 1 and source.deficit <= 0:
                    self.rotate(-1)
                    continue
            delivery = buffer.popleft()
            delivery.until = source.fence if source.fence < delivery.expires else delivery.expires
            source.deficit -= max(1, delivery.cost)
            if not buffer:
                self._leave(source)
            elif source.deficit <= 0:
                self.rotate(-1)
            return delivery
        return None

    def _leave(self, source: Source) -> None:
        self.popleft()
        source.queued, source.deficit = False, min(0, source.deficit)

    def check(self) -> None:
        """Assert that each is here once and knows."""
        assert all(source.queued for source in self), "a producer has a turn and does not know"
        assert len(set(map(id, self))) == len(self), "a producer has two turns"


DETACHED_MAX: Final = 4096
"""Producers that vanished whose numbers are remembered, in case that they return; then the oldest is forgotten."""


class Producers:
    """The sources of one queue by peer instance, with the streams that came from them.

    Args:
        queue: The queue's name.
        granting: Told when there is another reason to grant.
        remembered: What was processed in an earlier life, by stream, as a ledger has it; None: there is no ledger.
    """

    def __init__(self, queue: str, granting: Granting, remembered: Mapping[str, Ranges] | None) -> None:
        self.queue = queue
        self.granting = granting
        self.by_peer: dict[str, Source] = {}
        self.streams = Streams(remembered)
        self.speaking: dict[str, Source] = {}
        """Those that may have something to be told, by peer."""
        self.resting: dict[str, Source] = {}
        """Those that get something back, and so send nothing until they are told their totals once more."""

    @property
    def settled(self) -> bool:
        """Whether nothing of what came is here, or can come again."""
        return all(dedup.idle for _, dedup in self.streams.items())

    # Who is there

    def knows(self, node_id: str) -> bool:
        """Whether anything of that node is remembered."""
        return any(_node(name) == node_id for name in (*self.streams, *self.by_peer))

    def meet(self, peer: str) -> str:
        """`peer` produces for this queue.

        Returns:
            The earlier life of that node whose place it takes, with what that had sent; "": none.
        """
        source, earlier = self.by_peer.get(peer), ""
        if source is None:
            earlier = self._inherited(peer)
            source = self.by_peer.pop(earlier) if earlier else Source(peer)
            source.peer = peer
            self.by_peer[peer] = source
            source.streams = {stream: dedup for stream, dedup in self.streams.items() if _node(stream) == _node(peer)}
            for stream, dedup in source.streams.items():
                if dedup.done:  # if no INTEREST of ours says so, the next ACK does
                    source.done[stream] = Ranges(dedup.done)
        source.attached = self.granting.changed = True
        source.credit.told = (0, 0)  # it may not have known this queue when it was last told
        self.speaking[peer] = source
        return earlier

    def _inherited(self, peer: str) -> str:
        """Which earlier life of this node has left something; the present one knows its messages, or lets them run."""
        for earlier, source in self.by_peer.items():
            if _node(earlier) == _node(peer) and not source.attached:
                self.speaking.pop(earlier, None)
                return earlier
        return ""

    def attach(self, source: Source, held: list[Delivery]) -> None:
        """A new link life with a producer: totals start at 0 on both sides.

        What is still here of it, `held`, was granted in the last life; it is charged to this one from the start.
        """
        source.attached = True
        self.streams.keep(source.streams)
        source.nothing_to_tell()
        self._restart_credit(source, held)

    def left(self, peer: str, held: list[Delivery]) -> None:
        """`peer` has no producer now: should it come back, totals start at 0, too."""
        source = self.by_peer.get(peer)
        if source is not None:
            self._restart_credit(source, held)

    def _restart_credit(self, source: Source, held: list[Delivery]) -> None:
        source.credit = ConsumerCredit()
        source.credit.freed_messages = -sum(delivery.left for delivery in held)
        source.credit.freed_bytes = -sum(delivery.cost for delivery in held)
        self.granting.changed = True

    def died(self, source: Source, now: float) -> None:
        """A producer is proven gone: its streams are forgotten in a while, unless it keeps them on disk."""
        self.streams.producer_died(source.streams, now)
        self.streams.limit_durable(self._is_of_somebody)

    def vanished(self, peer: str) -> str:
        """A producer may return with what it sent. Return whom to forget, as too many are remembered; "": nobody."""
        self.by_peer[peer] = self.by_peer.pop(peer)  # the newest of those that left
        if len(self.by_peer) > DETACHED_MAX:
            detached = [each for each, source in self.by_peer.items() if not source.attached]
            if len(detached) > DETACHED_MAX:
                return detached[0]
        return ""

    def forget(self, peer: str) -> None:
        """Nothing of a producer is remembered any more."""
        self.speaking.pop(peer, None)
        for stream in self.by_peer.pop(peer).streams:
            self.streams.drop(stream)

    def source_of(self, stream: str) -> Source | None:
        """The producer of that stream, which may be of an earlier life."""
        source = self.by_peer.get(stream.rpartition(":")[0])
        if source is not None:
            return source
        return next((source for source in self.by_peer.values() if stream in source.streams), None)

    def remove(self, peer: str) -> None:
        """A producer is dead and nothing of it is here; its streams are remembered as long as they may return."""
        del self.by_peer[peer]
        self.speaking.pop(peer, None)

    def _is_of_somebody(self, stream: str) -> bool:
        """Whether its producer is there."""
        return any(stream in source.streams for source in self.by_peer.values() if source.attached)

    # What they say

    def live_streams(self, peer: str, live: Iterable[str], now: float) -> None:
        """The producer names its live streams; others of it can be forgotten once they are idle."""
        source = self.by_peer.get(peer)
        if source is not None:
            self.streams.over(source.streams.keys() - set(live), now)

    def settle(self, peer: str, ack: int) -> bool:
        """The producer cannot forget the results of our ACKs up to `ack`; whether there are no others."""
        source = self.by_peer.get(peer)
        there_are_others = False
        for stream, dedup in source.streams.items() if source is not None else ():
            if dedup.first_reported <= ack:
                self.streams.settle(stream, ack)
                self.granting.changed = True
            there_are_others = there_are_others or dedup.first_reported < inf
        return not there_are_others

    def take_forgotten(self) -> dict[str, Ranges]:
        """What the ledger may forget, since the last call."""
        return self.streams.take_forgotten()

    def drop_due(self, now: float) -> None:
        """Forget the streams whose time is over."""
        for stream in self.streams.drop_due(now):
            for source in self.by_peer.values():
                source.forget(stream)

    # What they are told

    def possession(self, peer: str) -> tuple[list[StreamRanges], list[StreamRanges]]:
        """What is held and what is done of this producer's streams, for INTEREST."""
        source = self.by_peer.get(peer)
        return source.possession() if source is not None else ([], [])

    def told_all(self, peer: str, ack: int) -> None:
        """INTEREST carried everything that is done; it counts as ACK number `ack`, from which numbers go on."""
        source = self.by_peer.get(peer)
        for dedup in source.streams.values() if source is not None else ():
            dedup.reported_again(ack)

    def take_told(self, peer: str, ack: int) -> tuple[list[Result], Grant | None]:
        """What `peer` is to be told and was not yet, to leave in ACK number `ack`."""
        source = self.by_peer.get(peer)
        if source is None or not source.attached:
            return [], None
        return source.take_results(self.queue, ack), source.take_grant(self.queue)

    def wake(self) -> None:
        """Somebody takes: those that rest are told their totals once more, also if they are the same."""
        for peer, source in self.resting.items():
            if self.by_peer.get(peer) is source:
                source.credit.told = (0, 0)
                self.speaking[peer] = source
        self.resting.clear()

    def news(self) -> list[tuple[str, bool]]:
        """The peers that have something to be told, and whether they may be waiting for it."""
        told = []
        for peer, source in list(self.speaking.items()):
            credit = source.credit
            if source.done or source.returned or source.nacks:
                if source.attached:
                    told.append((peer, True))
            elif credit.told == (credit.granted_messages, credit.granted_bytes) and not source.ran:
                del self.speaking[peer]
            elif source.attached:
                told.append((peer, credit.waiting > 0))
        return told

    @property
    def starves(self) -> bool:
        """Whether a producer waits for credit, of which it has none left as far as it was told."""
        for source in self.by_peer.values():
            credit = source.credit
            if credit.waiting > 0 and source.attached:
                messages, size = credit.told
                if credit.seen_messages >= messages or credit.seen_bytes >= size:
                    return True
        return False

    def check(self) -> None:
        """Assert the invariants of each, and of what is granted to all."""
        self.streams.check()
        for source in self.by_peer.values():
            assert all(stream in self.streams for stream in source.streams), "a stream of a producer is not there"
            source.check()
        self.granting.check(self.by_peer)


def _node(name: str) -> str:
    """The node id of a peer or a stream."""
    return name.partition(":")[0]
