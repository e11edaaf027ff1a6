"""Outgoing queue: every accepted message of one stream, from acceptance until it is settled.

PENDING  ──dispatch──▶  IN FLIGHT  ──ack──▶  ACKED
   ▲  │                     │
   │  └── its time is over ─┼────────────────────────────────────────▶  EXPIRED
   └── nack, return, gone ──┴── attempts used up, rejected, refused ──▶  DEAD

pending (delayed included) ⊎ in flight ⊎ on disk only ⊎ settled ⊎ left at close  =  [1, next)
accepted + recovered + retried  =  acked + in flight + pending + on disk only + dead-lettered + expired + dropped
                                   + damaged + left at close

A message whose time is over ends as expired wherever it is found: before it is sent, when a consumer says that it could
not hand it out in time, or when it comes back for another reason. So it is not sent any more, and is no dead letter,
unless its handler, which had it in time, rejected it.

Messages are numbered here from 1 on, those of earlier lives first (numbering.py); without a spool these numbers are the
sequences. What waits to be sent is in pending.py, what is in flight in runs.py, what was given up in dead_letters.py,
and which are settled, and how, in settled.py; what a spool adds in durable.py. Here is what moves a message from one to
another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf
from operator import attrgetter
from random import Random
from typing import TYPE_CHECKING, Final

from peerfabric.log_records import LogRecords
from peerfabric.queue.dead_letters import DIED_WITH_IT, DeadLetters, dead_letters_of
from peerfabric.queue.numbering import Numbering
from peerfabric.queue.pending import FRAME_BYTES_AIM, Pending
from peerfabric.queue.runs import DEATHS_TO_ISOLATE, InFlight, Kind, Run
from peerfabric.queue.settled import End, Settled
from peerfabric.ranges import Ranges, pairs
from peerfabric.reports import DeadLetter, QueueAccount
from peerfabric.wire.frames import BATCH_FAILED, EXPIRED, LEASE, NO_INTEREST, REFUSED, REJECTED, Extra, Nack

if TYPE_CHECKING:
    from peerfabric.queue.backlog import Backlog
    from peerfabric.queue.handon import Watch

TTL_LEAST: Final = 0.001
"""Seconds that a message must have left to be sent: a frame tells whole milliseconds, and 0 of them mean for ever."""


class OutgoingQueue:
    """All messages of one stream of a queue, with who has them and how each ended.

    Consumers are named as peer instances, "node_id:epoch".

    Args:
        queue: The queue's name.
        stream: Text form of (node_id, epoch, queue); with a sequence it identifies a message for ever.
        codec: How bodies are encoded, as in the DATA frame.
        dead_letter_bytes_max: Memory for dead letters; when it is full, dispatch stops until some are gone.
        max_attempts: Deliveries that may fail, deaths while isolated included, before a message is a dead letter.
        random: Source of jitter.
        records: Where it is told that messages are given up.
        numbering: The names of all messages, if there are some of earlier lives.
        following: The first number, if it had a handle in this life before that was closed.
    """

    backlog: Backlog | None = None
    """The part that is on disk; only a `DurableQueue` has one."""
    watch: Watch | None = None
    """What waits for messages of it to be settled, if something ever has."""

    def __init__(
        self,
        queue: str,
        stream: str,
        codec: int,
        dead_letter_bytes_max: int,
        max_attempts: int,
        random: Random,
        records: LogRecords | None = None,
        numbering: Numbering | None = None,
        *,
        following: int = 1,
    ) -> None:
        self.queue, self.stream, self.codec = queue, stream, codec
        self.numbering = numbering or Numbering(stream)
        self._records = records or LogRecords()
        self.max_attempts = max_attempts
        self.next = self.numbering.base + following
        self.consumers: dict[str, str] = {}
        """Peer instance -> node id of everybody who is known to consume this queue."""
        self.released_cost = 0
        """Grows with every settled message; the producer's buffer holds accepted minus released."""
        self.changed = True
        """Something was settled or delivered since the driver last cleared this."""
        self.touched: dict[OutgoingQueue, None] = {}
        """Of the node's sender: where a queue registers itself that may have something to send."""
        self.begins_to_wait = False
        """Messages were accepted when none waited; what of them does not leave at once is told to consumers."""
        self.releases: list[tuple[str, int, int]] = []
        """(peer, start, stop) of copies that must not be started any more, until the sender takes them."""
        self.pending = Pending(self.numbering, random)
        self.in_flight = InFlight()
        self.settled = Settled(Ranges([(1, following)]) if following > 1 else None)
        self.dead = DeadLetters(dead_letter_bytes_max)
        self._drained = ""
        """The peer that gets nothing until it has nothing: see `_drains`."""
        self._accepted_cost = 0
        self._accepted_count = self._retried_count = self.redelivered_count = 0
        self.failed_count = 0
        """Attempts that failed and are followed by another. What came back unstarted was none."""
        self.last_error = ""
        """Why something of it was given back last, if that was a failure."""

    # Accepting

    def accept(
        self,
        bodies: list[bytes],
        sent_ms: int,
        extras: dict[int, Extra] | None = None,
        *,
        volatile: bool = False,
        kind: Kind | None = None,
    ) -> int:
        """Take responsibility for `bodies` and return the number of the first.

        `extras` maps indexes in `bodies` to what those messages have besides a body. `volatile` ones are not on disk
        though others of the queue are; nothing before them may be on disk only. All are of `kind`.
        """
        first = self.next
        if bodies:
            self.next += len(bodies)
            self._accepted_count += len(bodies)
            self._accepted_cost += self.pending.append(first, bodies, sent_ms, extras, None, kind)
        return first

    def _take_in(self, first: int, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra], codec: int) -> int:
        """Keep `bodies`, which have a codec of their own, and return what they cost in memory."""
        return self.pending.append(first, bodies, sent_ms, extras, codec)

    @property
    def held_bytes(self) -> int:
        """What the bodies in memory cost."""
        return self._accepted_cost - self.released_cost

    def accept_dropped(self, count: int) -> None:
        """`count` messages were accepted and dropped at once, by the policy their sender chose."""
        self._accepted_count += count
        self._settle("dropped", self.next, self.next + count)
        self.next += count
        self.touched[self] = None

    def open_watch(self, wake: Callable[[], None]) -> Watch:
        """What inputs can wait with for messages of this queue; made at the first call, which gives its `wake`."""
        if self.watch is None:
            from peerfabric.queue.handon import Watch  # of no use to whoever hands nothing on

            settled, node_id = self.settled, self.stream.partition(":")[0]
            self.watch = settled.watch = Watch(
                self.queue, node_id, settled.numbers, settled.arrived, self.consumers, wake
            )
        return self.watch

    def drop_oldest(self, needed: int) -> int:
        """Drop waiting messages until `needed` bytes are free; return how many were freed, perhaps too few.

        Those given back go first, then the oldest that were never sent. What is in flight or waits for the end
        of its delay is not dropped.
        """
        freed = 0
        while freed < needed and self.waiting_count:
            run = self.pending.take_oldest(needed - freed)
            freed += run.cost
            self._end("dropped", run)
        self.touched[self] = None
        return freed

    def purge(self) -> int:
        """Drop what waits, also for its time, and return how many these were. What consumers have goes on."""
        runs = self.pending.take_all()
        for run in runs:
            self._end("dropped", run)
        if runs:
            self._states_changed()
        self.touched[self] = None
        return sum(len(run.bodies) for run in runs)

    # Dispatch

    @property
    def waiting_count(self) -> int:
        """Messages that could be sent now; delayed ones are not among them."""
        return self.pending.count

    @property
    def dead_letters_full(self) -> bool:
        """Whether nothing is sent until some dead letters are gone."""
        return self.dead.bytes >= self.dead.bytes_max

    def waiting_for(self, peer: str) -> int:
        """Messages that could be sent to `peer` now: without what it has refused."""
        count = self.waiting_count
        return count - self.pending.refused_count(self.consumers.get(peer, "")) if count else 0

    def held_by(self, peer: str) -> int:
        """How many messages `peer` has, as far as we know."""
        table = self.in_flight.tables.get(peer)
        return table.count if table is not None else 0

    @property
    def awaits_cursor(self) -> bool:
        """Whether this node is given nothing of its own queue until a cursor is on disk."""
        return False

    def numbers(self, stream: str, flat: Sequence[int]) -> list[tuple[int, int]]:
        """Ranges of sequences of one of our streams, as they come on the wire, in our own numbers."""
        if stream == self.stream and not self.numbering.base:
            if len(flat) == 2:  # as mostly
                start, stop = flat
                return [(start, stop)] if 0 <= start < stop else []
            return pairs(flat)
        return [found for start, stop in pairs(flat) for found in self.numbering.numbers(stream, start, stop)]

    def pick(self, peer: str, messages: int, size: int, body_bytes_max: int, now: float = -inf) -> Run | None:
        """Remove and return what `peer` should get next: at most `messages` and `size` bytes in one frame.

        Redelivered messages come first. A message larger than `size` is returned only if `peer` has nothing
        else; None if there is nothing that it may have. The caller reports `sent`.
        """
        table = self.in_flight.tables.get(peer)
        alone = table is None or table.count == table.ran
        if self.dead.bytes >= self.dead.bytes_max or not (alone or self.in_flight.takes_more(peer)):
            return None
        aim, size_max = min(size, FRAME_BYTES_AIM, body_bytes_max), inf if alone else size
        node_id, room = self.consumers.get(peer, ""), partial(self.in_flight.room, peer)
        if not alone and self.pending.has_returned and self._drains(peer, node_id):
            return None
        while True:
            run = self.pending.pick(node_id, messages, aim, size_max, room, self.consumers.values())
            if run is not None and run.kind is not None and run.kind[0] < now + TTL_LEAST:
                self._end("expired", run)
                continue
            # Several messages in one run fit together, so only a single one can be too large.
            if run is None or len(run.bodies[0]) <= body_bytes_max:
                return run
            self._refuse(run, peer, f"too large for {peer}, which takes {body_bytes_max:,} bytes")

    def _drains(self, peer: str, node_id: str) -> bool:
        """Whether `peer` gets nothing more until it has nothing: an isolated message waits for that.

        Under a steady load no consumer would ever have nothing, so one of them is drained.
        """
        if not self.pending.has_isolated(node_id, self.consumers.values()):
            return False
        if not self.in_flight.in_hand(self._drained):
            self._drained = peer
        return peer == self._drained

    def sent(self, peer: str, run: Run) -> None:
        """The frame with `run` left for `peer`."""
        if run.attempt > 1 or run.deaths:
            self.redelivered_count += len(run.bodies)
        if run.avoids:
            run.avoids = frozenset()
        self.in_flight.add(peer, run)

    # What became of them

    def delivered(self, start: int, stop: int) -> None:
        """`[start, stop)` lies in a consumer's memory."""
        self.settled.delivered(start, stop)
        self.changed = True

    def acked(self, peer: str, start: int, stop: int) -> None:
        """`peer` processed `[start, stop)`; who else has copies is told by `releases`."""
        if stop > self.next:
            return
        left = stop - start
        for run in self.in_flight.take(peer, start, stop):
            left -= len(run.bodies)
            self._settle("acked", run.first, run.first + len(run.bodies))
            self.released_cost += run.cost
        if left:
            for low, high in self.settled.numbers.missing(start, stop):
                for run in self._take_anywhere(low, high):
                    self._end("acked", run)

    def _take_anywhere(self, start: int, stop: int) -> list[Run]:
        runs = self.pending.take(start, stop)
        for other in list(self.in_flight.tables):
            found = self.in_flight.take(other, start, stop)
            self.releases += [(other, run.first, run.stop) for run in found]
            runs += found
        return runs

    def ran(self, peer: str, start: int, stop: int) -> None:
        """`peer` has run `[start, stop)`, and holds them until what it sent for them is safe.

        So its death, or that it hangs, is nothing that they brought about, and no work of them is outstanding there.
        """
        self.in_flight.has_run(peer, start, stop)
        self.touched[self] = None

    def nacked(self, peer: str, nack: Nack, now: float) -> None:
        """`peer` gives messages back; counts only if it has them with the attempt it names."""
        for run in self.in_flight.take(peer, nack.start, nack.stop):
            run.ran = False
            if run.attempt == nack.attempt or self._learn_attempt(run, nack.attempt):
                self._nack(run, peer, nack, now)
            else:
                self.in_flight.add(peer, run)

    def _learn_attempt(self, run: Run, attempt: int) -> bool:
        """Whether a consumer may know better than we which attempt `run` is at; then it is at that one."""
        return False

    def _nack(self, run: Run, peer: str, nack: Nack, now: float) -> None:
        run.error = nack.text or run.error
        if nack.reason != NO_INTEREST:
            self.last_error = run.error
        if self._is_over(run, now, nack.reason):
            self._end("expired", run)
            return
        match nack.reason:
            case _ if nack.reason == REJECTED:
                self._give_up(run, "rejected")
            case _ if nack.reason == REFUSED:
                self._refuse(run, peer, nack.text)
            case _ if nack.reason == NO_INTEREST:
                self.pending.give_back(run)
            case _ if nack.reason == BATCH_FAILED and not run.alone:
                run.avoids = frozenset((self._node_of(peer),))
                self.pending.split(run, now)
            case _:
                run.avoids = frozenset((self._node_of(peer),))
                if run.attempt >= self.max_attempts:
                    self._give_up(run, "lease" if nack.reason == LEASE else "attempts")
                    return
                delay = nack.delay_ms / 1000 if nack.delay_ms >= 0 else self.pending.backoff(run.attempt)
                run.attempt += 1
                self.failed_count += len(run.bodies)
                self._states_changed()
                self.pending.again(run, now, delay)

    @staticmethod
    def _is_over(run: Run, now: float, reason: int = 0) -> bool:
        """Whether the time of `run`, which comes back for `reason`, is over, and nobody has rejected it.

        A consumer counts it from the arrival on, by a clock of its own, so it may find that a little earlier.
        """
        if run.kind is None or run.kind[0] == inf or reason == REJECTED:
            return False
        return reason == EXPIRED or run.kind[0] <= now

    def _node_of(self, peer: str) -> str:
        return self.consumers.get(peer, peer.partition(":")[0])

    def returned(self, peer: str, start: int, stop: int) -> None:
        """`peer` gives `[start, stop)` back; no attempt is counted."""
        for run in self.in_flight.take(peer, start, stop):
            run.ran = False
            self.pending.give_back(run)

    def reconcile(self, peer: str, held: Ranges) -> Ranges:
        """A new link with `peer` says that it holds `held`, after its finished ones were acked.

        What was in flight there and is not held goes back to waiting, with the same attempt. Returned is
        what it holds but must not run: settled meanwhile, or given to somebody else.
        """
        for run in self.in_flight.take_missing(peer, held):
            run.ran = False
            self.pending.give_back(run)
        ours = self.in_flight.ranges(peer)
        return Ranges(part for start, stop in held for part in ours.missing(start, stop))

    def gone(self, peer: str, now: float, *, died: bool) -> None:
        """`peer` will not answer any more; what it held goes to others at once.

        With `died` its process is proven dead: the messages count a death, and an isolated one a failed attempt. A link
        that was only cut, or a peer that said goodbye, counts neither. Nor does what has run there: it did not kill it.
        """
        runs, node_id = self.in_flight.take_all(peer), self._node_of(peer)
        self.consumers.pop(peer, None)
        if runs:
            self._states_changed()
        for run in runs:
            if self._is_over(run, now):
                self._end("expired", run)
                continue
            if run.ran:
                run.ran = False
            elif died:
                run.deaths += 1
                self.last_error = "a consumer died with it in hand"
                if run.deaths > DEATHS_TO_ISOLATE:
                    run.attempt += 1
                    self.failed_count += len(run.bodies)
                if self._is_fatal(run):
                    self._give_up(run, DIED_WITH_IT)
                    continue
                if run.isolated:
                    run.avoids = run.died_at = run.died_at | {node_id}
                    self.pending.prefer_others(run, now)
            self.pending.give_back(run)

    def _is_fatal(self, run: Run) -> bool:
        """Whether no consumer shall die with `run` in hand any more."""
        if run.deaths <= DEATHS_TO_ISOLATE or run.attempt <= self.max_attempts:
            return False
        run.attempt = self.max_attempts
        run.error = run.error or f"{run.deaths} times a consumer died with it in hand, at last with no other message"
        return True

    def lapse(self, peer: str, text: str, now: float) -> None:
        """`peer` hangs and its lease is over: what it has in hand counts a failed attempt, and all goes to others.

        Should it wake up, RELEASE is the first that it hears, before an echo lets it start anything.
        """
        for run in self.in_flight.take_all(peer):
            self.releases.append((peer, run.first, run.stop))
            if run.ran:
                run.ran = False
                self.pending.give_back(run)
                continue
            self._nack(run, peer, Nack(run.first, run.stop, run.attempt, LEASE, 0, text), now)

    def set_consumer(self, peer: str, node_id: str, *, consumes: bool) -> None:
        """`peer` does or does not consume this queue."""
        if consumes:
            self.consumers[peer] = node_id
            if self.watch is not None:
                self.watch.consumer_came()
        else:
            self.consumers.pop(peer, None)

    def expire(self, now: float) -> None:
        """Act on what is due: times and delays that are over, preferences that end, messages that all have refused."""
        for run in self.pending.take_expired(now):
            self._end("expired", run)
        for run in self.pending.expire(now, self.consumers.values()):
            self._give_up(run, "refused")

    def deadline(self) -> float | None:
        """When `expire` has something to do."""
        return self.pending.deadline()

    # Dead letters

    def letters(self) -> list[DeadLetter]:
        """The dead letters of this queue, in the order in which they were given up."""
        return self.dead.all()

    def take_dead_letter(self, identity: str) -> DeadLetter | None:
        """Remove and return the dead letter of that message; None if it was retried or dropped before.

        It stays counted as dead-lettered.
        """
        letter = self.dead.take(identity)
        if letter is not None:
            self.changed = True
            self.touched[self] = None
        return letter

    def restore_dead_letter(self, letter: DeadLetter) -> None:
        """Put a dead letter in its place: one that was taken, or of an earlier life, which may have stored it twice."""
        self.dead.put(letter)
        stream, _, sequence = letter.id.rpartition("/")
        for start, stop in self.numbers(stream, [int(sequence), int(sequence) + 1]):
            if start in self.settled.numbers:
                self.settled.dead_before(start, stop)
            elif start < self.next:
                # The cursor that should follow the dead letter was never written.
                self._settle("dead_lettered", start, stop)

    def retry(self, letter: DeadLetter) -> None:
        """Send a dead letter that was taken again, under a new sequence with its old id as `origin`."""
        first = self.next
        self.next += 1
        self._retried_count += 1
        extras = {0: Extra(0, letter.headers, letter.origin or letter.id)}
        self.released_cost -= self._take_in(first, [letter.data], letter.sent_ms, extras, letter.codec)
        self.changed = True
        self.touched[self] = None

    # Looking up

    def state(self, sequence: int) -> str:
        """ "waiting", "in flight", "delivered", "processed", "dead", "expired", "dropped" or "damaged"."""
        return self.settled.of(sequence) or ("in flight" if self.in_flight.have(sequence) else "waiting")

    def why_dead(self, sequence: int) -> str:
        """The reason of a dead letter, in words."""
        return self.dead.why("{}/{}".format(*self.numbering.name(sequence)))

    @property
    def unsettled_count(self) -> int:
        return self.next - 1 - self.settled.numbers.total

    @property
    def floor(self) -> int:
        """The lowest number that is not settled."""
        return self.settled.floor

    @property
    def safe_floor(self) -> int:
        """The floor that others may go by: with a spool, the one that the cursor on disk stands for."""
        return self.settled.floor

    @property
    def volatile_count(self) -> int:
        """Unsettled messages that end with this process."""
        return self.unsettled_count

    def leave(self) -> None:
        """The node closes: what is not settled is left, to a next life or to nobody, and counted."""
        self.released_cost += self.pending.clear() + self.in_flight.clear()
        self.settled.leave(self.next)
        if self.watch is not None:
            self.watch.leave()

    @property
    def oldest_ms(self) -> int | None:
        """`sent_ms` of the run with the lowest number that is not settled; None: there is none in memory."""
        fronts = self.pending.fronts() + self.in_flight.fronts()
        return min(fronts, key=attrgetter("first")).sent_ms if fronts else None

    @property
    def oldest_waiting_ms(self) -> int | None:
        """The same for what could be sent now."""
        ready = self.pending.ready() if self.waiting_count else []
        return min(run.sent_ms for run in ready) if ready else None

    def account(self) -> QueueAccount:
        """A snapshot in which the accounting closes."""
        return QueueAccount(
            queue=self.queue,
            waiting=self.pending.count + self.pending.delayed_count,
            on_disk=0,
            in_flight=self.in_flight.count,
            accepted=self._accepted_count,
            recovered=0,
            retried=self._retried_count,
            redelivered=self.redelivered_count,
            handed_on=self.in_flight.ran_count,
            left_at_close=self.settled.left.total,
            **self.settled.counts,
        )

    # How they end

    def _end(self, how: End, run: Run) -> None:
        """`run`, which is nowhere any more, ends that way."""
        self._settle(how, run.first, run.first + len(run.bodies))
        self.released_cost += run.cost

    def _settle(self, how: End, start: int, stop: int) -> None:
        self.settled.settle(how, start, stop)
        self.changed = True

    def _states_changed(self) -> None:
        """Attempts or deaths have changed, which a cursor must remember."""

    def _refuse(self, run: Run, peer: str, text: str) -> None:
        run.refused_by |= {self._node_of(peer)}
        run.error = text
        if self._nobody_else(run):
            self._give_up(run, "refused")
        else:
            self.pending.give_back(run)

    def _nobody_else(self, run: Run) -> bool:
        """Whether all who could take `run` have refused it."""
        return bool(self.consumers) and run.refused_by >= set(self.consumers.values())

    def _give_up(self, run: Run, reason: str) -> None:
        letters = list(dead_letters_of(run, reason, self.queue, self.codec, self.numbering))
        for _, letter in letters:
            self.dead.put(letter)  # an earlier life may have stored it, too
        _, first = letters[0]
        self._records.once(
            f"dead {self.queue} {reason}",
            "warning",
            f"queue {self.queue!r}: message {first.id} is a dead letter, {first.why}; see "
            f"node.dead_letters({self.queue!r}). Others for the same reason are not told",
        )
        self._dead_lettered(run, letters)

    def _dead_lettered(self, run: Run, letters: list[tuple[int, DeadLetter]]) -> None:
        self._end("dead_lettered", run)

    def _places(self) -> Iterator[tuple[str, Sequence[Run]]]:
        yield from self.pending.places()
        yield from self.in_flight.places()

    def _runs(self) -> Iterator[Run]:
        return (run for _, runs in self._places() for run in runs)

    def check(self) -> None:
        """Assert the invariants at the top of this module."""
        everything = Ranges()
        counted = 0
        for place, runs in self._places():
            for run in runs:
                assert everything.add(run.first, run.stop) == len(run.bodies), f"{run} is in two places, one is {place}"
                assert run.attempt <= self.max_attempts, f"{run} has too many attempts"
                counted += len(run.bodies)
        on_disk = 0
        for start, stop in self._only_on_disk():
            assert everything.add(start, stop) == stop - start, "a message is in memory and on disk only"
            on_disk += stop - start
        for start, stop in (*self.settled.numbers, *self.settled.left):
            assert everything.add(start, stop) == stop - start, "a settled message is still somewhere"
        assert everything == Ranges([(1, self.next)]) if self.next > 1 else not everything, "a message is nowhere"
        for part in (self.pending, self.in_flight, self.settled, self.dead):
            part.check()
        held = sum(run.cost for _, runs in self._places() for run in runs)
        assert held == self._accepted_cost - self.released_cost, "bytes held are not bytes accepted minus released"
        assert all(self.waiting_for(peer) >= 0 for peer in self.consumers), "fewer than no messages wait"
        account = self.account()
        assert account.waiting + account.in_flight == counted, "a message is counted twice, or not at all"
        assert account.on_disk == on_disk, "what is on disk only is not what is counted"
        assert account.closes, f"the accounting does not close: {account}"

    def _only_on_disk(self) -> list[tuple[int, int]]:
        return []
