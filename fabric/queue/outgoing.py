"""The producer's end of a queue: every accepted message, from acceptance to its settling.

WAITING  ──dispatch──▶  IN FLIGHT  ──ack──▶  ACKED
   ▲                        │
   └── nack, return, gone ──┴── attempts or strikes used up, rejected ──▶  DEAD

waiting ⊎ returned ⊎ delayed ⊎ in flight ⊎ on disk only ⊎ settled ⊎ left at close  =  [1, next)
accepted + recovered + retried  =  acked + in flight + waiting + on disk only + dead-lettered + dropped + damaged
                                   + left at close

Messages are numbered here from 1 on, those of earlier lives first (numbering.py); without a spool these numbers are the
sequences. What waits is in pending.py, what is in flight in in_flight.py, what became of the others in settled.py and
dead_letters.py, what a spool has to do with it in durable.py. Here is what moves a message from one to another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import inf
from random import Random

from peerfabric.log_records import LogRecords
from peerfabric.queue.dead_letters import DeadLetters, letters_of
from peerfabric.queue.durable import Backlog
from peerfabric.queue.in_flight import InFlight
from peerfabric.queue.marks import CONSUMERS_KEPT, Marks, News, state_of
from peerfabric.queue.numbering import Numbering
from peerfabric.queue.pending import FRAME_BYTES_AIM, Pending
from peerfabric.queue.runs import DEATHS_TO_SUSPECT, Run
from peerfabric.queue.settled import Fate, Settled
from peerfabric.ranges import Ranges, pairs
from peerfabric.reports import DeadLetter, QueueAccount
from peerfabric.wire.frames import BATCH_FAILED, LEASE, NO_INTEREST, REFUSED, REJECTED, Extra, Nack


class OutgoingQueue:
    """All messages of one stream of a queue, with who holds them and what became of them.

    Args:
        queue: The queue's name.
        stream: Text form of (node_id, epoch, queue); with a sequence it identifies a message for ever.
        codec: How bodies are encoded, as in the DATA frame.
        dead_letter_bytes_max: Memory for dead letters; when it is full, dispatch stops until some are gone.
        max_attempts: Deliveries that may fail, strikes included, before a message is a dead letter.
        random: Source of jitter.
        numbering: With a spool, the names of all messages, those of earlier lives included.
        backlog: With a spool, what is on disk.
        records: Where it is told that messages are given up.
    """

    def __init__(
        self,
        queue: str,
        stream: str,
        codec: int,
        dead_letter_bytes_max: int,
        max_attempts: int,
        random: Random,
        numbering: Numbering | None = None,
        backlog: Backlog | None = None,
        records: LogRecords | None = None,
    ) -> None:
        self.queue, self.stream, self.codec = queue, stream, codec
        self._ourselves = stream[: -len(queue) - 1]
        """The holder that this node itself is, if it consumes what it produces."""
        self.numbering = numbering or Numbering(stream)
        self.backlog = backlog
        self._records = records or LogRecords()
        self.max_attempts = max_attempts
        self.next = self.numbering.base + 1
        self.consumers: dict[str, str] = {}
        """Holder -> node id of everybody who is known to consume this queue."""
        self.released_cost = 0
        """Grows with every settled message; the producer's buffer holds accepted minus released."""
        self.changed = True
        """Something was settled or delivered since the driver last cleared this."""
        self.touched: dict[OutgoingQueue, None] = {}
        """Of the node's sender: where a queue registers itself that may have something to send."""
        self._accepted_cost = 0
        self.waiting = Pending(self.numbering, random)
        self.in_flight = InFlight()
        self._fates = Settled(backlog)
        self._letters = DeadLetters(dead_letter_bytes_max)
        self._releases: list[tuple[str, int, int]] = []
        self._accepted_count = self._retried_count = self._redelivered_count = 0
        if backlog is not None:
            backlog.floor = self.floor

    # Accepting

    def accept(
        self, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra] | None = None, *, volatile: bool = False
    ) -> int:
        """Take responsibility for `bodies` and return the number of the first.

        `extras` maps indexes in `bodies` to what those messages have besides a body. `volatile` ones are not on disk
        though others of the queue are; nothing before them may be on disk only.
        """
        first = self.next
        if not bodies:
            return first
        self.next += len(bodies)
        self._accepted_count += len(bodies)
        if volatile and self.backlog is not None:
            self.backlog.pass_by(first, self.next)
            self._accepted_cost += self.waiting.append(first, bodies, sent_ms, extras)
        else:
            self._accepted_cost += self._take_in(first, bodies, sent_ms, extras)
        return first

    def _take_in(
        self, first: int, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra] | None, codec: int | None = None
    ) -> int:
        """Keep `bodies` in memory and return their cost; or on disk only, if memory is full or older ones are there."""
        if self.backlog is not None:
            bodies = self.backlog.fitting(first, bodies, self.held_bytes)
            if not bodies:
                return 0
            if extras is not None:
                extras = {at: extra for at, extra in extras.items() if at < len(bodies)} or None
        return self.waiting.append(first, bodies, sent_ms, extras, codec)

    @property
    def held_bytes(self) -> int:
        """What the bodies in memory cost."""
        return self._accepted_cost - self.released_cost

    # From disk

    def load_bytes(self) -> int:
        """How much should now be read from disk; 0 as long as memory is well filled."""
        return self.backlog.load_bytes(self.next, self.held_bytes) if self.backlog is not None else 0

    def loaded(self, stream: str, sequence: int, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra]) -> bool:
        """The next record was read from disk, in order; `bodies` are documents of msgpack. Gaps are damage.

        Returns whether all of it was taken: what is stored and not accepted yet must be read once more.
        """
        backlog = self.backlog
        assert backlog is not None
        parts, whole = backlog.unread(stream, sequence, bodies, sent_ms, extras, self.next)
        for part in parts:
            self.lose(part.first)
            for run in backlog.runs(part.first, part.bodies, part):
                self._accepted_cost += run.cost
                if self._guilty(run):  # of the death of this node
                    self._bury(run, "poison")
                else:
                    self.waiting.add_loaded(run)
            for holder in list(backlog.adopted):
                self._adopt(holder)
        return whole

    def lose(self, stop: int) -> None:
        """What should be on disk below `stop` and was not read is damaged."""
        backlog = self.backlog
        assert backlog is not None
        self._fates.settle_missing("damaged", backlog.load_at, stop)
        backlog.load_at = max(backlog.load_at, stop)
        self.changed = True

    def _adopt(self, holder: str) -> None:
        """Of what `holder` held in our last life, what was read meanwhile is in flight there."""
        assert self.backlog is not None
        adopted = self.backlog.adopted[holder]
        alone = adopted.total + self.held_by(holder) == 1
        for low, high in Ranges(adopted):
            for run in self.waiting.take_undelayed(low, high):
                if run.suspect and not alone:
                    # It went there unsuspected, and was not in our hands as we died.
                    run.deaths = DEATHS_TO_SUSPECT - 1
                    self._marks_changed()
                self.in_flight.add(holder, run)
                adopted.remove(run.first, run.stop)
        if not adopted:
            del self.backlog.adopted[holder]

    def marks(self) -> Marks:
        """What a cursor must remember besides what is settled."""
        assert self.backlog is not None
        return self.backlog.marks(self._news(), self._runs())

    def take_news(self) -> News:
        """What `marks` is made of, without attempts and deaths if these did not change since the last call.

        A pump that waits for this does not wait for what is made of it.
        """
        assert self.backlog is not None
        return self.backlog.take_news(self._news(), self._runs())

    def _news(self) -> News:
        assert self.backlog is not None
        consumers = sorted({*self.consumers.values(), *self.backlog.awaited})[:CONSUMERS_KEPT]
        running = next((state_of(run) for run in self.in_flight.runs(self._ourselves) if run.suspect), None)
        running = running or self.backlog.isolated
        return News(None, consumers, self._ourselves in self.consumers, running, self.max_attempts)

    def accept_dropped(self, count: int) -> None:
        """`count` messages were accepted and dropped at once, by the policy their sender chose."""
        self._accepted_count += count
        self._fates.settle("dropped", self.next, self.next + count)
        self.next += count
        self.changed = True

    def drop_oldest(self, needed: int) -> int:
        """Drop waiting messages until `needed` bytes are free; return how many were freed, perhaps too few.

        Those given back go first, then the oldest that were never sent. What is in flight or waits for the end
        of its delay is not dropped.
        """
        freed = 0
        while freed < needed and self.waiting_count:
            run = self.waiting.take_oldest(needed - freed)
            freed += run.cost
            self._settle("dropped", run)
        return freed

    # Dispatch

    @property
    def waiting_count(self) -> int:
        """Messages that could be sent now; delayed ones are not among them."""
        if self.backlog is not None and self.backlog.reuniting:
            return 0
        return self.waiting.count

    @property
    def dead_letters_full(self) -> bool:
        """Whether nothing is sent until some dead letters are gone."""
        return self._letters.full

    def waiting_for(self, holder: str) -> int:
        """Messages that could be sent to `holder` now: without what it has refused."""
        count = self.waiting_count
        return count - self.waiting.refused_count(self.consumers.get(holder, "")) if count else 0

    def held_by(self, holder: str) -> int:
        """How many messages `holder` has, as far as we know."""
        return self.in_flight.count_at(holder)

    @property
    def awaits_cursor(self) -> bool:
        """Whether a consumer is given nothing yet, as the cursor on disk does not name it."""
        backlog = self.backlog
        return backlog is not None and (
            backlog.awaits_isolation or not all(map(backlog.names, self.consumers.values()))
        )

    def numbers(self, stream: str, flat: Sequence[int]) -> list[tuple[int, int]]:
        """Ranges of sequences of one of our streams, as they come on the wire, in our own numbers."""
        if stream == self.stream and not self.numbering.base:
            return pairs(flat)
        return [found for start, stop in pairs(flat) for found in self.numbering.numbers(stream, start, stop)]

    def pick(self, holder: str, messages: int, size: int, body_bytes_max: int) -> Run | None:
        """Remove and return what `holder` should get next: at most `messages` and `size` bytes in one frame.

        Redelivered messages come first. A message larger than `size` is returned only if `holder` has nothing
        else; None if there is nothing that this holder may have. The caller reports `sent`.
        """
        if self._letters.full or self.in_flight.has_suspect(holder):
            return None
        node_id, others = self.consumers.get(holder, ""), len(self.consumers) > 1
        if self.backlog is not None and (self.backlog.reuniting or not self.backlog.names(node_id)):
            return None
        size_max = size if holder in self.in_flight else inf
        aim = min(size, FRAME_BYTES_AIM, body_bytes_max)
        room = partial(self.in_flight.room, holder)
        while True:
            run = self.waiting.pick(node_id, messages, aim, size_max, room, others=others)
            # Several messages in one run fit together, so only a single one can be too large.
            if run is None or len(run.bodies[0]) <= body_bytes_max:
                if run is not None and holder == self._ourselves and not self._may_take(run):
                    self.waiting.give_back(run)
                    return None
                return run
            self._refuse(run, holder, f"too large for {holder}, which takes {body_bytes_max:,} bytes")

    def _may_take(self, run: Run) -> bool:
        """Whether this node may get `run` of its own queue now."""
        return self.backlog is None or self.backlog.may_take(state_of(run) if run.suspect else None)

    def sent(self, holder: str, run: Run) -> None:
        """The frame with `run` left for `holder`."""
        if not run.fresh() and (run.attempt > 1 or run.deaths):
            self._redelivered_count += len(run.bodies)
        run.started = False
        run.last_holder = ""
        if self.backlog is not None and self.backlog.isolated == state_of(run):
            self.backlog.isolated = None
            self.backlog.changed = True
        self.in_flight.add(holder, run)

    # What became of them

    def starting(self, holder: str, start: int, stop: int) -> None:
        """`holder` is about to run the suspect `[start, stop)`, and nothing else: its death would be a strike."""
        for run in self.in_flight.runs(holder):
            if start <= run.first and run.stop <= stop:
                run.started = True
                self._own_changed(holder)

    def delivered(self, start: int, stop: int) -> None:
        """`[start, stop)` lies in a consumer's memory."""
        self._fates.delivered(start, stop)
        self.changed = True

    def acked(self, holder: str, start: int, stop: int) -> None:
        """`holder` processed `[start, stop)`; who else has copies is told by `take_releases`."""
        if stop > self.next:
            return
        runs = self._take_from(holder, start, stop)
        if sum(len(run.bodies) for run in runs) < stop - start:
            for a, b in self._fates.settled.missing(start, stop):
                runs += self._take_anywhere(a, b, but=holder)
        for run in runs:
            self._settle("acked", run)
        backlog = self.backlog
        if backlog is not None and stop > backlog.load_at:  # on disk only: somebody processed it in an earlier life
            for a, b in self._fates.settle_missing("acked", max(start, backlog.load_at), stop):
                for other in backlog.adopted:
                    backlog.give_back(other, a, b)
            self.changed = True

    def nacked(self, holder: str, nack: Nack, now: float) -> None:
        """`holder` gives messages back; counts only if it has them with the attempt it names."""
        if self.backlog is not None:
            self.backlog.give_back(holder, nack.start, nack.stop)
        for run in self._take_from(holder, nack.start, nack.stop):
            if run.attempt < nack.attempt and run.first <= self.numbering.base:
                # The last cursor of an earlier life did not know of these attempts yet.
                run.attempt = min(nack.attempt, self.max_attempts)
                self._marks_changed()
            elif run.attempt != nack.attempt:
                self.in_flight.add(holder, run)
                continue
            self._nack(run, holder, nack, now)

    def _nack(self, run: Run, holder: str, nack: Nack, now: float) -> None:
        node_id = self.consumers.get(holder, holder.partition(":")[0])
        run.error = nack.text or run.error
        match nack.reason:
            case _ if nack.reason == REJECTED:
                self._bury(run, "rejected")
            case _ if nack.reason == REFUSED:
                self._refuse(run, holder, nack.text)
            case _ if nack.reason == NO_INTEREST:
                self.waiting.give_back(run)
            case _ if nack.reason == BATCH_FAILED and not run.solo:
                self.waiting.split(run, now, node_id)
            case _:
                run.last_holder = node_id
                if run.attempt + run.strikes >= self.max_attempts:
                    self._bury(run, "lease" if nack.reason == LEASE else "attempts")
                    return
                delay = nack.delay_ms / 1000 if nack.delay_ms >= 0 else self.waiting.backoff(run.attempt)
                run.attempt += 1
                self._marks_changed()
                self.waiting.again(run, now, delay)

    def returned(self, holder: str, start: int, stop: int) -> None:
        """`holder` gives `[start, stop)` back unstarted; no attempt is counted."""
        if self.backlog is not None:
            self.backlog.give_back(holder, start, stop)
        for run in self._take_from(holder, start, stop):
            self.waiting.give_back(run)

    def reconcile(self, holder: str, held: Ranges) -> Ranges:
        """A new link with `holder` says that it holds `held`, after its finished ones were acked.

        What was in flight there and is not held goes back to waiting, with the same attempt. Returned is
        what it holds but must not run: settled meanwhile, or given to somebody else.
        """
        if self.backlog is not None:
            self.backlog.adopt(holder, held)
            if holder in self.backlog.adopted:
                self._adopt(holder)
                # What is in memory and did not wait has another fate by now.
                self.backlog.give_back(holder, 0, self.backlog.load_at)
            self.backlog.met(self.consumers.get(holder, holder.partition(":")[0]))
        if holder in self.in_flight:
            self._own_changed(holder)
            for run in self.in_flight.runs(holder):
                run.started = False  # it will be announced again
            for run in self.in_flight.take_missing(holder, held):
                self.waiting.give_back(run)
        ours = self.in_flight.ranges(holder)
        release = Ranges(part for start, stop in held for part in ours.missing(start, stop))
        if self.backlog is not None:
            for start, stop in self.backlog.adopted.get(holder, ()):
                release.remove(start, stop)
        return release

    def gone(self, holder: str, *, died: bool) -> None:
        """`holder` will not answer any more; what it held goes to others at once.

        With `died` its process is proven dead: the messages count a death, and one that was alone there after
        three of them an attempt. A link that was only cut, or a peer that said goodbye, accuses nobody.
        """
        runs = self.in_flight.take_all(holder)
        self.consumers.pop(holder, None)
        if self.backlog is not None:
            self.backlog.adopted.pop(holder, None)
        if runs:
            self._marks_changed()
        for run in runs:
            if died:
                run.strikes += run.suspect
                run.deaths += 1
                if self._guilty(run):
                    self._bury(run, "poison")
                    continue
            self.waiting.give_back(run)

    def _guilty(self, run: Run) -> bool:
        """Whether no consumer shall die of `run` any more."""
        if not run.strikes or run.attempt - 1 + run.strikes < self.max_attempts:
            return False
        run.error = run.error or f"{run.strikes} times its consumer died while it ran nothing but this message"
        return True

    def lapse(self, holder: str, text: str, now: float) -> None:
        """`holder` hangs and its lease is over: what it holds counts a failed attempt and goes to others.

        Should it wake up, RELEASE is the first that it hears, before an echo lets it start anything.
        """
        for run in self._take_from(holder, 1, self.next):
            self._releases.append((holder, run.first, run.stop))
            self._nack(run, holder, Nack(run.first, run.stop, run.attempt, LEASE, 0, text), now)

    def adopt_options(self, codec: int, max_attempts: int, memory_bytes: int) -> None:
        """The handle of a queue that was recovered before it was asked for says what it wants."""
        assert self.backlog is not None
        self.codec, self.max_attempts = codec, max_attempts
        self._letters.bytes_max = self.backlog.memory_bytes = memory_bytes
        self.backlog.changed = True
        self.touched[self] = None
        for run in self.waiting.take_returned(self._guilty):
            self._bury(run, "poison")

    def set_consumer(self, holder: str, node_id: str, *, consumes: bool) -> None:
        """`holder` does or does not consume this queue."""
        if consumes:
            if self.backlog is not None and node_id not in self.consumers.values():
                self.backlog.named.discard(node_id)  # it may have been named before, and left
                self.backlog.changed = True
            self.consumers[holder] = node_id
        elif self.consumers.pop(holder, None) is not None:
            self._own_changed(holder)

    def expire(self, now: float) -> None:
        """Make delayed messages available whose time has come."""
        if self.backlog is not None:
            self.backlog.expire(now)
        for run in self.waiting.expire(now, self.consumers.values()):
            self._bury(run, "refused")

    def deadline(self) -> float | None:
        times = [self.waiting.deadline(), self.backlog.deadline() if self.backlog is not None else None]
        return min((at for at in times if at is not None), default=None)

    def take_releases(self) -> list[tuple[str, int, int]]:
        """(holder, start, stop) of copies that must not be started any more."""
        taken, self._releases = self._releases, []
        return taken

    # Dead letters

    def letters(self) -> list[DeadLetter]:
        """The dead letters of this queue, in the order in which they were given up."""
        return self._letters.all()

    def take_letter(self, identity: str) -> DeadLetter | None:
        """Remove and return the dead letter of that message; None if it was retried or dropped before.

        It stays counted as dead-lettered.
        """
        letter = self._letters.take(identity)
        if letter is not None:
            self.changed = True
            self.touched[self] = None
        return letter

    def restore_letter(self, letter: DeadLetter) -> None:
        """Put a letter in its place: one that was taken, or of an earlier life, which may have stored it twice."""
        self._letters.put(letter)
        stream, _, sequence = letter.id.rpartition("/")
        for start, stop in self.numbers(stream, [int(sequence), int(sequence) + 1]):
            if start in self._fates.settled:
                self._fates.dead_before(start, stop)
            elif self.backlog is not None and start < self.next:
                # The cursor that should follow the letter was never written.
                self._fates.settle("dead_lettered", start, stop)

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
        """ "waiting", "in flight", "delivered", "processed", "dead", "dropped" or "damaged"."""
        return self._fates.of(sequence) or ("in flight" if self.in_flight.have(sequence) else "waiting")

    def why_dead(self, sequence: int) -> str:
        """The reason of a dead letter, in words."""
        return self._letters.why("{}/{}".format(*self.numbering.name(sequence)))

    @property
    def unsettled_count(self) -> int:
        return self.next - 1 - self._fates.settled.total

    @property
    def floor(self) -> int:
        """The lowest number that is not settled."""
        return self._fates.floor

    @property
    def safe_floor(self) -> int:
        """The floor that others may go by: with a spool, the one that the cursor on disk stands for."""
        return self.floor if self.backlog is None else self.backlog.floor

    @property
    def volatile_count(self) -> int:
        """Unsettled messages that end with this process."""
        if self.backlog is None or not self.backlog.kept:
            return self.unsettled_count
        return self.backlog.volatile_count

    def leave(self) -> None:
        """The node closes: what is not settled is left, to a next life or to nobody, and counted."""
        if self.backlog is not None:
            self.backlog.leave(self._news(), self._runs(), self.next)
        self.released_cost += self.waiting.clear() + self.in_flight.clear()
        self._fates.leave(self.next)

    def account(self) -> QueueAccount:
        """A snapshot in which the accounting closes."""
        return QueueAccount(
            queue=self.queue,
            waiting=self.waiting.count + self.waiting.delayed_count,
            on_disk=self.backlog.only_on_disk(self.next) if self.backlog is not None else 0,
            in_flight=self.in_flight.count,
            accepted=self._accepted_count,
            recovered=self.backlog.recovered if self.backlog is not None else 0,
            retried=self._retried_count,
            redelivered=self._redelivered_count,
            left_at_close=self._fates.left.total,
            **self._fates.counts,
        )

    # Moving runs

    def _take_from(self, holder: str, start: int, stop: int) -> list[Run]:
        runs = self.in_flight.take(holder, start, stop)
        if runs and runs[0].suspect:
            self._own_changed(holder)
        return runs

    def _take_anywhere(self, start: int, stop: int, but: str) -> list[Run]:
        runs = self.waiting.take(start, stop)
        for other, _ in self.in_flight.counts():
            if other != but:
                found = self._take_from(other, start, stop)
                self._releases += [(other, run.first, run.stop) for run in found]
                runs += found
        return runs

    def _settle(self, fate: Fate, run: Run, *, stored: bool = True) -> None:
        self._fates.settle(fate, run.first, run.stop, stored=stored)
        self.released_cost += run.cost
        self.changed = True

    def buried(self, numbers: list[int]) -> None:
        """The letters of these messages are on disk."""
        if self.backlog is not None:
            self.backlog.buried(numbers)
            self._fates.raise_floor()

    def _own_changed(self, holder: str) -> None:
        """`holder` has begun or ended to take, or to run a suspect: the cursor knows that of ourselves."""
        if self.backlog is not None and holder == self._ourselves:
            self.backlog.changed = True

    def _marks_changed(self) -> None:
        if self.backlog is not None:
            self.backlog.note_states()

    def _refuse(self, run: Run, holder: str, text: str) -> None:
        run.refused_by |= {self.consumers.get(holder, holder.partition(":")[0])}
        run.error = text
        awaited = self.backlog.awaited if self.backlog is not None else ()
        if self.consumers and not awaited and run.refused_by >= set(self.consumers.values()):
            self._bury(run, "refused")
        else:
            self.waiting.give_back(run)

    def _bury(self, run: Run, reason: str) -> None:
        letters = list(letters_of(run, reason, self.queue, self.codec, self.numbering))
        for number, letter in letters:
            self._letters.put(letter)  # an earlier life may have stored it, too
            if self.backlog is not None:
                self.backlog.bury(number, letter)
        _, first = letters[0]
        self._records.once(
            f"dead {self.queue} {reason}",
            "warning",
            f"queue {self.queue!r}: message {first.id} is a dead letter, {first.why}; see "
            f"node.dead_letters({self.queue!r}). Others for the same reason are not told",
        )
        self._settle("dead_lettered", run, stored=False)

    def _places(self) -> Iterator[tuple[str, Sequence[Run]]]:
        yield from self.waiting.places()
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
        if self.backlog is not None:
            for start, stop in self._fates.settled.missing(self.backlog.load_at, self.next):
                assert everything.add(start, stop) == stop - start, "a message is in memory and on disk only"
                on_disk += stop - start
        for start, stop in (*self._fates.settled, *self._fates.left):
            assert everything.add(start, stop) == stop - start, "a settled message is still somewhere"
        assert everything == Ranges([(1, self.next)]) if self.next > 1 else not everything, "a message is nowhere"
        for part in (self.waiting, self.in_flight, self._fates, self._letters):
            part.check()
        held = sum(run.cost for _, runs in self._places() for run in runs)
        assert held == self._accepted_cost - self.released_cost, "bytes held are not bytes accepted minus released"
        assert all(self.waiting_for(holder) >= 0 for holder in self.consumers), "fewer than no messages wait"
        account = self.account()
        assert account.waiting + account.in_flight == counted, "a message is counted twice, or not at all"
        assert account.on_disk == on_disk, "what is on disk only is not what is counted"
        assert account.closes, f"the accounting does not close: {account}"
