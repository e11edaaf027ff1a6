"""Hand-on: acks of inputs that wait until what their handlers sent, the outputs, is safe.

An output is safe when it is stored, else when it is settled at the queue that it was sent to: acked, dead-lettered,
expired, dropped. An input whose handler is done and whose outputs are not all safe has **run**: nobody has it in hand,
it costs no lease and no credit, and it is held until its outputs are safe, which acks it.

    edge, any thread         consumer's machine (incoming.py)       producer's machine (outgoing.py)
    HandOn.defer  ────fresh────▶  it has run  ────Watch.fresh────▶  its outputs are waited for
                                  it is acked  ◀───HandOn.safe────  the last of them is settled

Two engines may be concerned, each under its own lock, so what goes from one to the other goes through a deque and a
call that wakes the other; nobody takes both locks. All is kept in ranges: neighbours that wait for neighbours are one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from operator import attrgetter
from typing import Final

from peerfabric.queue.delivery import Delivery
from peerfabric.queue.runs import DEPTH_MAX, Kind
from peerfabric.queue.sources import DEFERRED_MAX, Producers, Source
from peerfabric.ranges import Ranges

RANGES_MAX: Final = 4_096
"""Ranges of outputs of one input at one queue; of more, whatever lies between the first and the last is waited for."""
KINDS: Final[tuple[Kind | None, ...]] = (None, *((inf, depth) for depth in range(1, DEPTH_MAX + 1)))
"""By depth, how messages that never expire are accepted; one object for each, as runs are joined by it."""

_first = attrgetter("first")

Part = tuple[Delivery, int, int]
"""The indexes `[low, high)` of a delivery."""


Single = tuple[Delivery, int, "Watch", int]
"""One message, by its delivery and index, with one output, by its queue and number there."""


class Outputs:
    """What was sent while an input was in hand and is in memory only. Written by the thread or task that handles it.

    Once it is given to `HandOn.defer` nothing is added.

    Args:
        depth: Of the messages sent: one more than `Delivery.depth` of the input, the largest if there are several.
    """

    __slots__ = ("depth", "first", "others", "stop", "watch")

    def __init__(self, depth: int = 1) -> None:
        self.depth = depth
        self.watch: Watch | None = None
        """Of the queue that the first was sent to, by the numbers `[first, stop)`."""
        self.first = self.stop = 0
        self.others: list[tuple[Watch, int, int]] | None = None
        """What does not follow those: (queue, first, stop)."""

    def add(self, watch: Watch, first: int, stop: int) -> None:
        """The messages of numbers `[first, stop)` were accepted by the queue of `watch`.

        Numbers count as in `OutgoingQueue`: a receipt's sequence plus `numbering.base`.
        """
        if watch is self.watch:
            if first == self.stop:
                self.stop = stop
                return
        elif self.watch is None:
            self.watch, self.first, self.stop = watch, first, stop
            return
        if self.others is None:
            self.others = []
        others = self.others
        if others and others[-1][0] is watch and others[-1][2] == first:
            others[-1] = (watch, others[-1][1], stop)
            return
        others.append((watch, first, stop))
        if len(others) > RANGES_MAX:
            self._draw_together()

    def _draw_together(self) -> None:
        """There are too many ranges: of each queue, wait for all between the first and the last."""
        hulls: dict[Watch, tuple[int, int]] = {}
        for watch, first, stop in self.ranges():
            low, high = hulls.get(watch, (first, stop))
            hulls[watch] = min(low, first), max(high, stop)
        (self.watch, (self.first, self.stop)), *others = hulls.items()
        self.others = [(watch, first, stop) for watch, (first, stop) in others]

    def ranges(self) -> list[tuple[Watch, int, int]]:
        """All of them as (queue, first, stop)."""
        if self.watch is None:
            return []
        return [(self.watch, self.first, self.stop), *(self.others or ())]


class Deferred:
    """Inputs that have run and the outputs for which their ack waits.

    with `one_by_one` the input at `low + i` waits for output `first + i` alone, else all for all
    """

    __slots__ = ("delivery", "first", "high", "low", "one_by_one", "outputs", "parts", "stop")

    def __init__(self, delivery: Delivery, low: int, high: int, outputs: Outputs, parts: Sequence[Part]) -> None:
        self.delivery, self.low, self.high = delivery, low, high
        self.outputs, self.parts = outputs, parts
        self.first, self.stop = outputs.first, outputs.stop
        self.one_by_one = not parts and outputs.others is None and high - low == outputs.stop - outputs.first == 1

    def everything(self) -> Iterable[Part]:
        """The inputs, part by part."""
        return ((self.delivery, self.low, self.high), *self.parts)


class HandOn:
    """What has run at one consumer. Made by `IncomingQueue.open_handon`, for the first input that is deferred.

    Args:
        queue: The queue consumed.
        wake: Makes the machine read `safe` and `fresh` soon; called by any thread, under the lock of another engine.
        ledgered: The consumer has a ledger: an input whose outputs are safe comes to `unrecorded`, for the driver to
            write down, and is acked when that calls `recorded`.
    """

    def __init__(self, queue: str, wake: Callable[[], None], *, ledgered: bool = False) -> None:
        self.queue, self.wake, self.ledgered = queue, wake, ledgered
        self.fresh: deque[tuple[Delivery, int, int, Outputs, Sequence[Part]]] = deque()
        """What was deferred since the machine looked."""
        self.singles: deque[Single] = deque()
        """The same, of one index with one output each, which is not deep: see `defer_one`."""
        self.safe: deque[tuple[str, int, int]] = deque()
        """(stream, start, stop) of inputs whose outputs are safe, to be acked."""
        self.unrecorded: deque[tuple[str, int, int]] = deque()
        """The same, to be written into the ledger before."""
        self.written: deque[tuple[str, int, int, bool]] = deque()
        """(stream, start, stop, whether it is in the ledger), of those; also, as not, inputs whose outputs are lost."""
        self.ran: dict[str, Ranges] = {}
        """Stream -> sequences that have run, written by the machine only."""
        self.count = 0
        """How many messages have run."""
        self.told: dict[Watch, None] = {}
        """Those who have to look at what is `fresh` there, until the driver tells them."""
        self._finished = 0

    # The handling side, in any thread

    def defer(self, delivery: Delivery, low: int, high: int, outputs: Outputs, parts: Sequence[Part] = ()) -> None:
        """Indexes `[low, high)` of `delivery`, and those of `parts`, are processed, and acked once `outputs` are safe.

        It stands in place of `Delivery.ack`: for whom reads the delivery they are decided from here on, and the handler
        takes the next message. As after an ack, the caller lets the machine read it (`Owner.decided`).
        """
        self.fresh.append((delivery, low, high, outputs, parts))
        # In this order: whoever reads that they are acked finds that they are not quite: see `IncomingQueue.progress`.
        delivery.ack(low, high)
        for each, start, stop in parts:
            each.ack(start, stop)

    def defer_one(self, single: Single) -> None:
        """The same for one message with one output, whose depth is below `DEPTH_MAX`. `Message.ack` has it inline."""
        self.singles.append(single)
        delivery, index, _, _ = single
        delivery.ack(index, index + 1)

    def recorded(self, stream: str, start: int, stop: int, *, written: bool = True) -> None:
        """What was in `unrecorded` is in the ledger, or cannot be `written`, and goes to a consumer again.

        The caller lets the machine read it.
        """
        self.written.append((stream, start, stop, written))

    # The machine's side

    @property
    def has_fresh(self) -> bool:
        """Whether something was deferred since the machine looked."""
        return bool(self.singles or self.fresh)

    def take_fresh(self) -> list[Deferred]:
        """What was deferred since the last call, neighbours as one."""
        found = list[Deferred]()
        fresh = self.fresh
        while fresh:
            found.append(Deferred(*fresh.popleft()))
        # One step for each message, so as short as can be.
        singles, take = self.singles, self.singles.popleft
        last: Deferred | None = None
        high = stop = -1
        of: Delivery | None = None
        to: Watch | None = None
        for _ in range(len(singles)):
            delivery, index, watch, number = take()
            if index == high and number == stop and delivery is of and watch is to:
                high += 1
                stop += 1
                continue
            if last is not None:
                last.high, last.stop = high, stop
            of, to, high, stop = delivery, watch, index + 1, number + 1
            outputs = Outputs(delivery.depth + 1)
            outputs.add(watch, number, stop)
            last = Deferred(delivery, index, high, outputs, ())
            found.append(last)
        if last is not None:
            last.high, last.stop = high, stop
        return found

    def take_finished(self) -> int:
        """How many messages have run since the last call."""
        finished, self._finished = self._finished, 0
        return finished

    def wait_for(self, deferred: Deferred, *, durable: bool) -> None:
        """Have the outputs of `deferred` waited for; its producer keeps the inputs on disk if they are `durable`."""
        outputs, delivery, deep = deferred.outputs, deferred.delivery, deferred.outputs.depth >= DEPTH_MAX
        node_id = delivery.peer.partition(":")[0]
        if deferred.one_by_one:
            assert outputs.watch is not None
            start = delivery.first + deferred.low
            wait = Wait(
                deferred.first, deferred.stop, self, delivery.stream, start, node_id, deep=deep, durable=durable
            )
            outputs.watch.fresh.append(wait)
            self.told[outputs.watch] = None
            return
        ranges = outputs.ranges()
        inputs = [(each.stream, each.first + low, each.first + high) for each, low, high in deferred.everything()]
        together = Together(self, inputs, len(ranges))
        for watch, first, stop in ranges:
            watch.fresh.append(Wait(first, stop, self, "", 0, node_id, together, deep=deep, durable=durable))
            self.told[watch] = None

    def add(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` has run."""
        ranges = self.ran.get(stream)
        if ranges is None:
            ranges = self.ran[stream] = Ranges()
        added = ranges.add(start, stop)
        self.count += added
        self._finished += added

    def take(self, stream: str, start: int, stop: int) -> list[tuple[int, int]]:
        """Remove and return what has run of `[start, stop)`."""
        ranges = self.ran.get(stream)
        if ranges is None:
            return []
        found = ranges.common(start, stop)
        self.count -= ranges.remove(start, stop)
        if not ranges:
            del self.ran[stream]
        return found

    def finish(self, producers: Producers, account: dict[str, int]) -> list[tuple[str, int, int]]:
        """Ack what is in `safe`, with a ledger once it is in `written`; what cannot be written goes back.

        Returns:
            What has not run, but was in somebody's hands beyond its lease: it is processed all the same.
        """
        late: list[tuple[str, int, int]] = []
        while self.safe:
            stream, start, stop = self.safe.popleft()
            if self.ledgered:
                self.unrecorded.append((stream, start, stop))
            else:
                late += self._ack(producers, account, stream, start, stop)
        while self.written:
            stream, start, stop, written = self.written.popleft()
            if written:
                late += self._ack(producers, account, stream, start, stop)
            else:
                self._give_back(producers, account, stream, start, stop)
        return late

    def _ack(
        self, producers: Producers, account: dict[str, int], stream: str, start: int, stop: int
    ) -> list[tuple[str, int, int]]:
        ran, source = self.take(stream, start, stop), producers.source_of(stream)
        for low, high in ran:
            producers.streams[stream].finish(low, high)
            account["processed"] += high - low
            if source is not None:
                source.finish_run(stream, low, high)
                producers.speaking[source.peer] = source
        return [(stream, low, high) for low, high in Ranges(ran).missing(start, stop)]

    def _give_back(self, producers: Producers, account: dict[str, int], stream: str, start: int, stop: int) -> None:
        source = producers.source_of(stream)
        for low, high in self.take(stream, start, stop):
            producers.streams[stream].let_go(low, high)
            account["returned"] += high - low
            if source is not None:
                source.add_returned(stream, low, high)
                producers.speaking[source.peer] = source

    def tell_again(self, source: Source) -> None:
        """A new life of the link with a producer begins: it is told anew what has run of it."""
        source.ran = {stream: Ranges(ran) for stream, ran in self.ran.items() if stream in source.streams}

    def check(self, held: dict[str, int], beyond: int) -> int:
        """Assert that `count` is the sum, and no more than may have run; return it, and add it to `held` by stream."""
        assert self.count == sum(ranges.total for ranges in self.ran.values()), "count is not the sum"
        assert all(self.ran.values()), "a stream without messages that have run"
        assert self.count <= DEFERRED_MAX + beyond, "more has run than may wait for its outputs"
        for stream, sequences in self.ran.items():
            held[stream] = held.get(stream, 0) + sequences.total
        return self.count


class Together:
    """Inputs that wait for several ranges of outputs, perhaps of several queues."""

    __slots__ = ("_others", "handon", "inputs")

    def __init__(self, handon: HandOn, inputs: list[tuple[str, int, int]], count: int) -> None:
        self.handon, self.inputs = handon, inputs
        self._others: list[None] = [None] * (count - 1)

    def one_is_safe(self) -> bool:
        """One range is; whether that was the last. Several engines may say so at once."""
        try:
            self._others.pop()
        except IndexError:
            return True
        return False


class Wait:
    """Outputs `[first, stop)` of one queue for which inputs wait.

    Input `start + i` of `stream` waits for output `first + i`; with `together` its inputs wait for all of them.
    """

    __slots__ = ("deep", "durable", "first", "handon", "node_id", "start", "stop", "stream", "together")

    def __init__(
        self,
        first: int,
        stop: int,
        handon: HandOn,
        stream: str,
        start: int,
        node_id: str,
        together: Together | None = None,
        *,
        deep: bool = False,
        durable: bool = False,
    ) -> None:
        self.first, self.stop = first, stop
        self.handon, self.stream, self.start, self.together = handon, stream, start, together
        self.node_id = node_id
        """Of the producer of the inputs."""
        self.deep = deep
        """They have as many inputs before them as may wait for each other."""
        self.durable = durable
        """The producer of the inputs keeps them on disk."""

    def part(self, first: int, stop: int) -> Wait:
        """What is left of it: outputs `[first, stop)`."""
        return Wait(
            first,
            stop,
            self.handon,
            self.stream,
            self.start + first - self.first,
            self.node_id,
            deep=self.deep,
            durable=self.durable,
        )

    def continues(self, other: Wait) -> bool:
        """Whether the two are one, `other` being the first."""
        return (
            self.first == other.stop
            and self.together is None is other.together
            and self.handon is other.handon
            and self.stream == other.stream
            and self.start == other.start + other.stop - other.first
            and self.deep == other.deep
            and self.durable == other.durable
        )


class Watch:
    """Outputs of one queue for which inputs wait. Made by `OutgoingQueue.open_watch`, for the first of them.

    Args:
        queue: The queue that they were sent to.
        node_id: Of its node.
        settled: Its numbers that are settled; it changes meanwhile.
        delivered: Those that are not and lie in a consumer's memory, likewise.
        consumers: Peer instance -> node id of who consumes it, likewise.
        wake: Makes its machine read `fresh` soon; called by any thread, under the lock of another engine.
    """

    def __init__(
        self,
        queue: str,
        node_id: str,
        settled: Ranges,
        delivered: Ranges,
        consumers: Mapping[str, str],
        wake: Callable[[], None],
    ) -> None:
        self.queue, self.wake = queue, wake
        self._node_id, self._numbers, self._delivered, self._consumers = node_id, settled, delivered, consumers
        self.fresh: deque[Wait] = deque()
        """What is to be waited for since the machine looked."""
        self.stored: Ranges | None = None
        """Of a queue with a spool: the numbers of what is on disk."""
        self.left = False
        """Its node is closed: what is not settled never will be."""
        self.settled: list[tuple[int, int]] = []
        """What was settled since then."""
        self.reached: list[tuple[int, int]] = []
        """What was delivered since then."""
        self._lanes: list[list[Wait]] = []
        """In order of their numbers; those of one lane do not overlap, so nearly always there is one."""
        self.moved_at = -inf
        """When something was last safe, or waited for after nothing was."""
        self.went_deep = False
        """Outputs came that are safe when they are delivered, as there is a circle."""

    @property
    def waits(self) -> bool:
        """Whether some input waits."""
        return any(self._lanes)

    def tell(self) -> None:
        """Something is in `fresh`. Called by the machine of another node."""
        if self.left:  # in this order: what comes before that is seen by `leave`
            self.lose()
        else:
            self.wake()

    def store(self, start: int, stop: int) -> None:
        """Messages `[start, stop)` were accepted, and are on disk."""
        assert self.stored is not None
        self.stored.add(start, stop)
        self.reached.append((start, stop))

    def leave(self) -> None:
        """The node closes: inputs of other nodes whose outputs are not settled go to somebody else."""
        self.left = True
        for lane in self._lanes:
            self.fresh.extend(lane)
        self._lanes.clear()
        self.lose()

    def lose(self) -> None:
        """Whoever waits for what its node has left hears of it. Any thread."""
        while True:
            try:
                wait = self.fresh.popleft()
            except IndexError:  # looked at before, another thread might have taken it
                return
            handon, together = wait.handon, wait.together
            lost = self._unsafe(wait, wait.first, wait.stop)
            if together is not None and lost:
                handon.written.extend((*each, False) for each in together.inputs)
            elif together is not None:
                if together.one_is_safe():
                    handon.safe.extend(together.inputs)
            else:
                offset = wait.start - wait.first
                handon.written.extend((wait.stream, a + offset, b + offset, False) for a, b in lost)
                safe = Ranges(lost).missing(wait.first, wait.stop)
                handon.safe.extend((wait.stream, a + offset, b + offset) for a, b in safe)
            handon.wake()

    def consumer_came(self) -> None:
        """The producer of inputs may have come to consume here, so that delivering is enough."""
        self.reached += [(wait.first, wait.stop) for lane in self._lanes for wait in lane]

    def look(self, now: float) -> dict[HandOn, None]:
        """Find out whose outputs are safe by now; return where inputs can be acked, in `safe`."""
        found: dict[HandOn, None] = {}
        if not (self.fresh or self.settled or self.reached):
            return found
        waited = self.waits
        came, fresh = Ranges(), self.fresh
        while fresh:
            wait = fresh.popleft()
            self.went_deep = self.went_deep or wait.deep
            self._insert(wait)
            came.add(wait.first, wait.stop)
        for start, stop in (*self.settled, *self.reached):
            came.add(start, stop)
        self.settled.clear()
        self.reached.clear()
        for lane in self._lanes:
            for start, stop in came:
                self._look_at(lane, start, stop, found)
        if found or not waited:
            self.moved_at = now
        return found

    def _insert(self, wait: Wait) -> None:
        for lane in self._lanes:
            at = bisect_left(lane, wait.first, key=_first) if lane and lane[-1].stop > wait.first else len(lane)
            if (at == len(lane) or lane[at].first >= wait.stop) and (not at or lane[at - 1].stop <= wait.first):
                if at and wait.continues(lane[at - 1]):
                    lane[at - 1].stop = wait.stop
                else:
                    lane.insert(at, wait)
                return
        self._lanes.append([wait])

    def _look_at(self, lane: list[Wait], start: int, stop: int, found: dict[HandOn, None]) -> None:
        """Something became of the outputs `[start, stop)`."""
        low = bisect_right(lane, start, key=_first)
        if low and lane[low - 1].stop > start:
            low -= 1
        high = bisect_left(lane, stop, low, key=_first)
        if low < high:
            lane[low:high] = [left for wait in lane[low:high] for left in self._left_of(wait, start, stop, found)]

    def _left_of(self, wait: Wait, start: int, stop: int, found: dict[HandOn, None]) -> list[Wait]:
        """What is still waited for of `wait`, after something became of `[start, stop)`."""
        handon, together = wait.handon, wait.together
        if together is not None:
            if any(True for _ in self._unsafe(wait, wait.first, wait.stop)):
                return [wait]
            if together.one_is_safe():
                handon.safe.extend(together.inputs)
                found[handon] = None
            return []
        low, high = max(start, wait.first), min(stop, wait.stop)
        left = Ranges([(wait.first, low), (high, wait.stop)])
        for a, b in self._unsafe(wait, low, high):
            left.add(a, b)
        if left.total == wait.stop - wait.first:
            return [wait]
        for a, b in left.missing(low, high):
            handon.safe.append((wait.stream, wait.start + a - wait.first, wait.start + b - wait.first))
        found[handon] = None
        return [wait.part(a, b) for a, b in left]

    def _unsafe(self, wait: Wait, start: int, stop: int) -> list[tuple[int, int]]:
        """What of `[start, stop)` is not safe."""
        unsettled = self._numbers.missing(start, stop)
        if unsettled and self.stored is not None:
            unsettled = [part for a, b in unsettled for part in self.stored.missing(a, b)]
        if unsettled and self._need_only_be_delivered(wait):
            return [part for a, b in unsettled for part in self._delivered.missing(a, b)]
        return unsettled

    def _need_only_be_delivered(self, wait: Wait) -> bool:
        """Whether an output of `wait` is safe before it is settled, as that may wait for the input in its turn.

        So it is in a circle, and if the producer of the input consumes what is sent here: it may wait for the ack
        before it takes the output. If that is this very node, what the input has on disk would outlive the output.
        """
        if wait.deep:
            return True
        ours = wait.node_id == self._node_id
        return not (ours and wait.durable) and wait.node_id in self._consumers.values()

    def check(self) -> None:
        """Assert the order of what waits, and that it waits for something."""
        for lane in self._lanes:
            edges = [edge for wait in lane for edge in (wait.first, wait.stop)]
            assert edges == sorted(edges), "outputs overlap or are out of order"
            for wait in lane:
                unsafe = self._unsafe(wait, wait.first, wait.stop)
                count = sum(b - a for a, b in unsafe)
                assert self.settled or self.reached or count, f"nothing is awaited of [{wait.first}, {wait.stop})"
                if wait.together is None and not (self.settled or self.reached):
                    assert count == wait.stop - wait.first, "an output that is safe is waited for"
