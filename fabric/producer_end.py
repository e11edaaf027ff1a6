"""The producer's end of a queue: every accepted message, from acceptance to its settling.

WAITING  ──dispatch──▶  IN FLIGHT  ──ack──▶  ACKED
   ▲                        │
   └── nack, return, gone ──┴── attempts or strikes used up, rejected ──▶  DEAD

waiting ⊎ returned ⊎ delayed ⊎ in flight ⊎ on disk only ⊎ settled  =  [1, next)
accepted + recovered + retried  =  acked + in flight + waiting + on disk only + dead-lettered + dropped + damaged

Messages are numbered here from 1 on, those of earlier lives first (numbering.py); without a spool these numbers are the
sequences. What a spool has to do with it is in backlog.py.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf
from random import Random
from typing import Final

from peerfabric.backlog import Backlog, Marks, News, State, marks_from
from peerfabric.batch import cuts
from peerfabric.envelope import (
    BATCH_FAILED,
    FAILED,
    LEASE,
    MSGPACK,
    NO_INTEREST,
    REFUSED,
    REJECTED,
    Extra,
    Nack,
)
from peerfabric.inflight import DEATHS_TO_SUSPECT, ISOLATION, MESSAGE_OVERHEAD, Run, Runs, cost
from peerfabric.numbering import Numbering
from peerfabric.ranges import Ranges, pairs
from peerfabric.stats import DeadLetter, QueueAccount

FRAME_BYTES_AIM: Final = 256 * 1024
"""Large enough that a call per frame costs nothing per message, small enough that control waits little."""

PREFER_OTHERS_FOR: Final = 1.0
"""Seconds that a failed message waits for another consumer, if there is one, before the same may have it again."""
REFUSED_EVERY: Final = 5.0
"""How often messages that somebody refused are compared with who is left to take them."""

BACKOFF_BASE: Final = 0.1
BACKOFF_MAX: Final = 30.0

CONSUMERS_KEPT: Final = 64
"""Consumers whose return the next life waits for: those of this one, and those that it still waits for itself."""

REASONS: Final = {
    FAILED: "failed",
    LEASE: "lease",
    REFUSED: "refused",
    REJECTED: "rejected",
    NO_INTEREST: "no-interest",
}


class ProducerEnd:
    """All messages of one stream of a queue, with who holds them and what became of them.

    Args:
        queue: The queue's name.
        stream: Text form of (node_id, epoch, queue); with a sequence it identifies a message for ever.
        codec: How bodies are encoded, as in the DATA frame.
        letter_bytes_max: Memory for dead letters; when it is full, dispatch stops until some are gone.
        max_attempts: Deliveries that may fail, strikes included, before a message is a dead letter.
        random: Source of jitter.
        numbering: With a spool, the names of all messages, those of earlier lives included.
        backlog: With a spool, what is on disk.
    """

    def __init__(
        self,
        queue: str,
        stream: str,
        codec: int,
        letter_bytes_max: int,
        max_attempts: int,
        random: Random,
        numbering: Numbering | None = None,
        backlog: Backlog | None = None,
    ) -> None:
        self.queue, self.stream, self.codec = queue, stream, codec
        self._ourselves = stream[: -len(queue) - 1]
        """The holder that this node itself is, if it consumes what it produces."""
        self.numbering = numbering or Numbering(stream)
        self.backlog = backlog
        self.max_attempts = max_attempts
        self.letter_bytes_max = letter_bytes_max
        self.next = self.numbering.base + 1
        self.floor = 1
        self.consumers: dict[str, str] = {}
        """Holder -> node id of everybody who is known to consume this queue."""
        self.released_cost = 0
        """Grows with every settled message; the producer's buffer holds accepted minus released."""
        self.changed = True
        """Something was settled or delivered since the driver last cleared this."""
        self._accepted_cost = 0
        self._floor_checked = 1
        self._random = random
        self._waiting: deque[Run] = deque()
        self._waiting_count = 0
        self._returned = Runs()
        self._delayed = Runs()
        self._due: list[tuple[float, int, int]] = []
        self._preferred: list[tuple[float, int, int]] = []
        """(when, start, stop): until then these go to another consumer than the one that failed them."""
        self._refused_at: float | None = None
        self._in_flight: dict[str, Runs] = {}
        self._releases: list[tuple[str, int, int]] = []
        self._settled = backlog.settled if backlog is not None else Ranges()
        self._delivered = Ranges()
        self._dead = Ranges()
        self._dropped = Ranges()
        self._letters: dict[str, DeadLetter] = {}
        self._letter_bytes = 0
        self._account = dict.fromkeys(
            (
                "accepted",
                "recovered",
                "retried",
                "acked",
                "dead_lettered",
                "dropped",
                "damaged",
                "left_at_close",
                "redelivered",
            ),
            0,
        )
        self._adopted: dict[str, Ranges] = {}
        """Holder -> numbers that it held in our last life and that it still has, as far as we know."""
        self._left: News | None = None
        """What `marks` is made of, once the node has closed."""
        if backlog is not None:
            self._account["recovered"], self._account["damaged"] = backlog.recovered, backlog.damaged
            self._raise_floor()
            self._floor_checked = backlog.floor = self.floor

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
        self._account["accepted"] += len(bodies)
        if volatile and self.backlog is not None:
            self.backlog.pass_by(first, self.next)
            self._accepted_cost += self._append(first, bodies, sent_ms, extras)
        else:
            self._accepted_cost += self._take_in(first, bodies, sent_ms, extras)
        return first

    def _take_in(self, first: int, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra] | None) -> int:
        """Keep `bodies` in memory and return their cost; or on disk only, if memory is full or older ones are there."""
        backlog = self.backlog
        if backlog is not None:
            if backlog.behind(first):
                return 0
            room = backlog.memory_bytes - self.held_bytes
            if cost(bodies) > room:
                # At least one message is in memory, however large it is, or nothing would ever be sent.
                fitting = cuts(list(map(len, bodies)), max(1, room), MESSAGE_OVERHEAD)[1]
                bodies = bodies[:fitting] if room >= cost(bodies[:fitting]) or not self.held_bytes else []
            backlog.load_at = first + len(bodies)
            if not bodies:
                return 0
            if extras is not None:
                extras = {at: extra for at, extra in extras.items() if at < len(bodies)} or None
        return self._append(first, bodies, sent_ms, extras)

    @property
    def held_bytes(self) -> int:
        """What the bodies in memory cost."""
        return self._accepted_cost - self.released_cost

    # From disk

    def load_bytes(self) -> int:
        """How much should now be read from disk; 0 as long as memory is well filled."""
        backlog = self.backlog
        if backlog is None or not backlog.behind(self.next):
            return 0
        free = backlog.memory_bytes - self.held_bytes
        return max(1, free) if not self.held_bytes or 2 * free >= backlog.memory_bytes else 0

    def loaded(self, stream: str, sequence: int, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra]) -> bool:
        """The next record was read from disk, in order; `bodies` are documents of msgpack. Gaps are damage.

        Returns whether all of it was taken: what is stored and not accepted yet must be read once more.
        """
        backlog = self.backlog
        assert backlog is not None
        whole = True
        for first, end in self.numbering.numbers(stream, sequence, sequence + len(bodies)):
            whole = whole and end <= self.next
            stop = min(end, self.next)
            at = max(first, backlog.load_at)
            if at >= stop:
                continue  # read before
            self.lose(at)
            offset = self.numbering.name(at)[1] - sequence
            part = bodies[offset : offset + stop - at]
            model = Run(at, part, 0, sent_ms)
            model.codec = MSGPACK
            model.extras = {at - offset + index: extra for index, extra in extras.items()} or None
            for run in backlog.runs(at, part, model):
                self._accepted_cost += run.cost
                if self._guilty(run):  # of the death of this node
                    self._bury(run, "poison")
                elif run.fresh() or (run.attempt == 1 and not run.deaths):
                    self._waiting.append(run)
                    self._waiting_count += len(run.bodies)
                else:
                    self._returned.add(run)
            for holder in list(self._adopted):
                self._adopt(holder)
        return whole

    def lose(self, stop: int) -> None:
        """What should be on disk below `stop` and was not read is damaged."""
        backlog = self.backlog
        assert backlog is not None
        for a, b in self._settled.missing(backlog.load_at, stop):
            self._account["damaged"] += b - a
            self._settled.add(a, b)
            backlog.settle(a, b)
        backlog.load_at = max(backlog.load_at, stop)
        self._raise_floor()
        self.changed = True

    def _adopt(self, holder: str) -> None:
        """Of what `holder` held in our last life, what was read meanwhile is in flight there."""
        alone = self._adopted[holder].total + self.held_by(holder) == 1
        for low, high in self._adopted[holder]:
            for run in self._take_waiting_range(low, high) + self._returned.take(low, high):
                if run.suspect and not alone:
                    # It went there unsuspected, and was not in our hands as we died.
                    run.deaths = DEATHS_TO_SUSPECT - 1
                    self._marks_changed()
                self._in_flight.setdefault(holder, Runs()).add(run)
                self._adopted[holder].remove(run.first, run.stop)
        if not self._adopted[holder]:
            del self._adopted[holder]

    def _take_waiting_range(self, start: int, stop: int) -> list[Run]:
        table = Runs(self._waiting)
        taken = table.take(start, stop)
        self._waiting = deque(table.runs)
        self._waiting_count = table.count
        return taken

    def marks(self) -> Marks:
        """What a cursor must remember besides what is settled."""
        return marks_from(self._news(), self.numbering)

    def take_news(self) -> News:
        """What `marks` is made of, without attempts and deaths if these did not change since the last call.

        A pump that waits for this does not wait for what is made of it.
        """
        assert self.backlog is not None
        changed, self.backlog.states_changed = self.backlog.states_changed, False
        news = self._news(only_changes=not changed)
        return news if changed else news._replace(states=None)

    def cursor_stored(self, floor: int, *, taking: bool) -> None:
        """The cursor with what `take_news` and `floor` were then is on disk."""
        assert self.backlog is not None
        self.backlog.floor = floor
        self.backlog.taking_stored = taking

    def _news(self, *, only_changes: bool = False) -> News:
        backlog = self.backlog
        assert backlog is not None
        if self._left is not None:
            return self._left
        consumers = sorted({*self.consumers.values(), *backlog.awaited})[:CONSUMERS_KEPT]
        running = next((_state(run) for run in self._in_flight.get(self._ourselves, ()) if run.started), None)
        news = News([], consumers, self._ourselves in self.consumers, running, self.max_attempts)
        if only_changes:
            return news
        states = [
            _state(run) for _, table in self._places() for run in table if run.attempt > 1 or run.deaths or run.strikes
        ]
        for number, letter in backlog.letters_to_store():
            # Until the letter is stored the message is all there is, and must not begin again at 1.
            deaths = DEATHS_TO_SUSPECT if letter.strikes else 0
            states.append((number, number + 1, letter.attempts, deaths, letter.strikes))
        return news._replace(states=states + backlog.kept_states())

    def accept_dropped(self, count: int) -> None:
        """`count` messages were accepted and dropped at once, by the policy their sender chose."""
        self._account["accepted"] += count
        self._drop(self.next, self.next + count)
        self.next += count

    def drop_oldest(self, needed: int) -> int:
        """Drop waiting messages until `needed` bytes are free; return how many were freed, perhaps too few.

        Those given back go first, then the oldest that were never sent. What is in flight or waits for the end
        of its delay is not dropped.
        """
        freed = 0
        while freed < needed and self.waiting_count:
            run = self._returned.runs[0] if self._returned else self._waiting[0]
            sizes = [len(body) + MESSAGE_OVERHEAD for body in run.bodies]
            edge = run.first + cuts(sizes, max(1, needed - freed))[1]
            if self._returned:
                [run] = self._returned.take(run.first, edge)
            else:
                if edge < run.stop:
                    self._waiting[0] = run.cut(edge)
                else:
                    self._waiting.popleft()
                self._waiting_count -= len(run.bodies)
            freed += run.cost
            self._drop(run.first, run.stop)
            self.released_cost += run.cost
        return freed

    def _append(self, first: int, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra] | None) -> int:
        sizes = list(map(len, bodies))
        total = sum(sizes) + MESSAGE_OVERHEAD * len(sizes)
        self._waiting_count += len(bodies)
        if extras is not None:
            run = Run(first, bodies, total, sent_ms)
            run.extras = {first + at: extra for at, extra in extras.items()}
            self._waiting.append(run)
            return total
        last = self._waiting[-1] if self._waiting else None
        if (
            last is not None
            and last.extras is None
            and last.cost + total <= FRAME_BYTES_AIM
            and last.stop == first
            and last.codec is None
            and first > self.numbering.base + 1
        ):
            last.extend(bodies, total)
        elif total <= FRAME_BYTES_AIM:
            self._waiting.append(Run(first, bodies, total, sent_ms))
        else:
            for low, high in pairwise(cuts(sizes, FRAME_BYTES_AIM, MESSAGE_OVERHEAD)):
                part_cost = sum(sizes[low:high]) + MESSAGE_OVERHEAD * (high - low)
                self._waiting.append(Run(first + low, bodies[low:high], part_cost, sent_ms))
        return total

    # Dispatch

    @property
    def waiting_count(self) -> int:
        """Messages that could be sent now; delayed ones are not among them."""
        if self.backlog is not None and self.backlog.reuniting:
            return 0
        return self._waiting_count + self._returned.count

    def waiting_for(self, holder: str) -> int:
        """Messages that could be sent to `holder` now: without what it has refused."""
        if self._refused_at is None:
            return self.waiting_count
        node_id = self.consumers.get(holder, "")
        return self.waiting_count - sum(len(run.bodies) for run in self._returned if node_id in run.refused_by)

    @property
    def in_flight_count(self) -> int:
        return sum(table.count for table in self._in_flight.values())

    def held(self) -> list[tuple[str, int]]:
        """Who has how many messages."""
        return [(holder, table.count) for holder, table in self._in_flight.items()]

    def is_returned(self, start: int, stop: int) -> bool:
        """Whether something of `[start, stop)` waits to be sent again."""
        return any(run.first < stop and start < run.stop for run in self._returned)

    def held_by(self, holder: str) -> int:
        """How many messages `holder` has, as far as we know."""
        table = self._in_flight.get(holder)
        return table.count if table is not None else 0

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
        if self._letter_bytes >= self.letter_bytes_max or self._holds_suspect(holder):
            return None
        if self.backlog is not None and (self.backlog.reuniting or (holder == self._ourselves and self.awaits_cursor)):
            return None
        size_max = size if holder in self._in_flight else inf
        aim = min(size, FRAME_BYTES_AIM, body_bytes_max)
        while True:
            run = self._pick_returned(holder, messages, aim, size_max) or self._pick_waiting(messages, aim, size_max)
            # Several messages in one run fit together, so only a single one can be too large.
            if run is None or len(run.bodies[0]) <= body_bytes_max:
                return run
            self._refuse(run, holder, f"too large for {holder}, which takes {body_bytes_max:,} bytes")

    def _pick_waiting(self, messages: int, size: int, size_max: float) -> Run | None:
        if not self._waiting or len(self._waiting[0].bodies[0]) + MESSAGE_OVERHEAD > size_max:
            return None
        return self._take_waiting(messages, size)

    def _take_waiting(self, messages: int, size: int) -> Run:
        run = self._waiting.popleft()
        rest = _trim(run, messages, size)
        if rest is not None:
            self._waiting.appendleft(rest)
        while self._waiting and rest is None and run.fresh():
            follower = self._waiting[0]
            if not follower.fresh() or len(run.bodies) + len(follower.bodies) > messages:
                break
            if run.cost + follower.cost > size or run.stop != follower.first or run.codec != follower.codec:
                break
            if follower.first <= self.numbering.base + 1 and self.numbering.begins_era(follower.first):
                break
            run.extend(follower.bodies, follower.cost)
            self._waiting.popleft()
        self._waiting_count -= len(run.bodies)
        return run

    def _pick_returned(self, holder: str, messages: int, size: int, size_max: float) -> Run | None:
        if not self._returned:
            return None
        node_id = self.consumers.get(holder, "")
        for run in self._returned:
            if node_id in run.refused_by or (run.last_holder == node_id and len(self.consumers) > 1):
                continue
            allowed = min(messages, 1 if run.solo else messages, self._isolation_room(holder, run.deaths))
            if allowed < 1 or len(run.bodies[0]) + MESSAGE_OVERHEAD > size_max:
                continue
            self._returned.remove(run)
            rest = _trim(run, allowed, size)
            if rest is not None:
                self._returned.add(rest)
            return run
        return None

    def runs_suspect(self, holder: str) -> bool:
        """Whether `holder` was about to run a suspect, as far as we know."""
        return self._holds_suspect(holder) and self._in_flight[holder].runs[0].started

    def _holds_suspect(self, holder: str) -> bool:
        """Whether `holder` has a message with three or more deaths, which must be alone there."""
        table = self._in_flight.get(holder)
        return table is not None and table.count == 1 and table.runs[0].suspect

    @property
    def awaits_cursor(self) -> bool:
        """Whether this node consumes its own queue, and its death would yet leave no trace on disk."""
        return self.backlog is not None and not self.backlog.taking_stored and self._ourselves in self.consumers

    def _isolation_room(self, holder: str, deaths: int) -> int:
        table = self._in_flight.get(holder)
        if deaths == 0:
            return 2**53
        if deaths >= DEATHS_TO_SUSPECT:
            return 0 if table else 1
        held = sum(len(run.bodies) for run in table if run.deaths == deaths) if table is not None else 0
        return ISOLATION[deaths] - held

    def sent(self, holder: str, run: Run) -> None:
        """The frame with `run` left for `holder`."""
        if not run.fresh() and (run.attempt > 1 or run.deaths):
            self._account["redelivered"] += len(run.bodies)
        run.started = False
        run.last_holder = ""
        self._in_flight.setdefault(holder, Runs()).add(run)

    # What became of them

    def starting(self, holder: str, start: int, stop: int) -> None:
        """`holder` is about to run the suspect `[start, stop)`, and nothing else: its death would be a strike."""
        for run in self._in_flight.get(holder, ()):
            if start <= run.first and run.stop <= stop:
                run.started = True
                self._own_changed(holder)

    def delivered(self, start: int, stop: int) -> None:
        """`[start, stop)` lies in a consumer's memory."""
        self._delivered.add(start, stop)
        self.changed = True

    def acked(self, holder: str, start: int, stop: int) -> None:
        """`holder` processed `[start, stop)`; who else has copies is told by `take_releases`."""
        if stop > self.next:
            return
        runs = self._take_from(holder, start, stop)
        if sum(len(run.bodies) for run in runs) < stop - start:
            for a, b in self._settled.missing(start, stop):
                runs += self._take_anywhere(a, b, but=holder)
        for run in runs:
            self._account["acked"] += len(run.bodies)
            self._settle(run)
        if self.backlog is not None and stop > self.backlog.load_at:
            self._acked_on_disk(max(start, self.backlog.load_at), stop)

    def _acked_on_disk(self, start: int, stop: int) -> None:
        """Of what is on disk only, somebody processed `[start, stop)` in an earlier life."""
        assert self.backlog is not None
        for a, b in self._settled.missing(start, stop):
            self._account["acked"] += b - a
            self._settled.add(a, b)
            self.backlog.settle(a, b)
            for adopted in self._adopted.values():
                adopted.remove(a, b)
        self._raise_floor()
        self.changed = True

    def nacked(self, holder: str, nack: Nack, now: float) -> None:
        """`holder` gives messages back; counts only if it has them with the attempt it names."""
        if holder in self._adopted:  # not read from disk yet: they come again, as if nothing had happened
            self._adopted[holder].remove(nack.start, nack.stop)
        for run in self._take_from(holder, nack.start, nack.stop):
            if run.attempt < nack.attempt and run.first <= self.numbering.base:
                # The last cursor of an earlier life did not know of these attempts yet.
                run.attempt = min(nack.attempt, self.max_attempts)
                self._marks_changed()
            elif run.attempt != nack.attempt:
                self._in_flight.setdefault(holder, Runs()).add(run)
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
                self._returned.add(run)
            case _ if nack.reason == BATCH_FAILED and not run.solo:
                self._prefer_others(run, now)
                for single in _singles(run):
                    single.solo, single.last_holder = True, node_id
                    self._returned.add(single)
            case _:
                run.last_holder = node_id
                if run.attempt + run.strikes >= self.max_attempts:
                    self._bury(run, "lease" if nack.reason == LEASE else "attempts")
                    return
                delay = nack.delay_ms / 1000 if nack.delay_ms >= 0 else self._backoff(run.attempt)
                run.attempt += 1
                self._marks_changed()
                self._prefer_others(run, now + delay)
                if delay > 0:
                    self._delayed.add(run)
                    heapq.heappush(self._due, (now + delay, run.first, run.stop))
                else:
                    self._returned.add(run)

    def _prefer_others(self, run: Run, now: float) -> None:
        heapq.heappush(self._preferred, (now + PREFER_OTHERS_FOR, run.first, run.stop))

    def _backoff(self, attempt: int) -> float:
        full = min(BACKOFF_MAX, BACKOFF_BASE * float(2 ** min(attempt - 1, 16)))
        return full * (0.5 + self._random.random() / 2)

    def returned(self, holder: str, start: int, stop: int) -> None:
        """`holder` gives `[start, stop)` back unstarted; no attempt is counted."""
        if holder in self._adopted:
            self._adopted[holder].remove(start, stop)
        for run in self._take_from(holder, start, stop):
            self._returned.add(run)

    def reconcile(self, holder: str, held: Ranges) -> Ranges:
        """A new link with `holder` says that it holds `held`, after its finished ones were acked.

        What was in flight there and is not held goes back to waiting, with the same attempt. Returned is
        what it holds but must not run: settled meanwhile, or given to somebody else.
        """
        if self.backlog is not None:
            self._adopted.pop(holder, None)
            recovered = held.common(1, self.numbering.base + 1)
            unsettled = Ranges(r for low, high in recovered for r in self._settled.missing(low, high))
            if unsettled:
                self._adopted[holder] = unsettled
                self._adopt(holder)
                # What is in memory and did not wait has another fate by now.
                if holder in self._adopted:
                    self._adopted[holder].remove(0, self.backlog.load_at)
            self.backlog.met(self.consumers.get(holder, holder.partition(":")[0]))
        table = self._in_flight.get(holder)
        if table is not None:
            present = Ranges((run.first, run.stop) for run in table)
            self._own_changed(holder)
            for run in table:
                run.started = False  # it will be announced again
            for start, stop in present:
                for a, b in held.missing(start, stop):
                    for run in self._take_from(holder, a, b):
                        self._returned.add(run)
        release = Ranges()
        ours = Ranges((run.first, run.stop) for run in self._in_flight.get(holder, ()))
        for start, stop in held:
            for a, b in ours.missing(start, stop):
                release.add(a, b)
        for start, stop in self._adopted.get(holder, ()):
            release.remove(start, stop)
        return release

    def broke(self, start: int, stop: int, now: float) -> None:
        """The frame with `[start, stop)` was the first to get lost as a peer renewed the link, perhaps because of it.

        The second time its messages travel alone, each time later than before: the one that nobody can read must
        not keep the link from the others.
        """
        for run in self._returned.take(start, stop):
            run.breaks += 1
            parts = list(_singles(run)) if run.breaks > 1 else [run]
            for part in parts:
                part.solo = part.breaks > 1
                if part.breaks > 1:
                    self._delayed.add(part)
                    heapq.heappush(self._due, (now + self._backoff(part.breaks - 1), part.first, part.stop))
                else:
                    self._returned.add(part)

    def gone(self, holder: str, *, died: bool) -> None:
        """`holder` will not answer any more; what it held goes to others at once.

        With `died` its process is proven dead: the messages count a death, and a suspect that was started,
        alone, a strike. A link that was only cut, or a peer that said goodbye, accuses nobody.
        """
        table = self._in_flight.pop(holder, None)
        self.consumers.pop(holder, None)
        self._adopted.pop(holder, None)
        if table is None:
            return
        self._marks_changed()
        for run in table.take_all():
            if died:
                run.strikes += run.suspect and run.started
                run.deaths += 1
                if self._guilty(run):
                    self._bury(run, "poison")
                    continue
            self._returned.add(run)

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
        self.letter_bytes_max = self.backlog.memory_bytes = memory_bytes
        self.backlog.changed = True
        for run in [run for run in self._returned if self._guilty(run)]:
            self._returned.remove(run)
            self._bury(run, "poison")

    def set_consumer(self, holder: str, node_id: str, *, consumes: bool) -> None:
        """`holder` does or does not consume this queue."""
        if consumes:
            if holder == self._ourselves and holder not in self.consumers and self.backlog is not None:
                self.backlog.taking_stored = False
                self._own_changed(holder)
            if node_id not in self.consumers.values() and len(self.consumers) < CONSUMERS_KEPT:
                self._marks_changed()  # so that a next life waits for it
            self.consumers[holder] = node_id
        elif self.consumers.pop(holder, None) is not None:
            self._own_changed(holder)

    def expire(self, now: float) -> None:
        """Make delayed messages available whose time has come."""
        if self.backlog is not None:
            self.backlog.expire(now)
        while self._due and self._due[0][0] <= now:
            _, start, stop = heapq.heappop(self._due)
            for run in self._delayed.take(start, stop):
                self._returned.add(run)
        while self._preferred and self._preferred[0][0] <= now:
            _, start, stop = heapq.heappop(self._preferred)
            for run in self._returned.take(start, stop):
                run.last_holder = ""
                self._returned.add(run)
        if self._refused_at is not None and self._refused_at <= now:
            self._bury_refused(now)

    def _bury_refused(self, now: float) -> None:
        """Those who might have taken a refused message may have left since."""
        known = set(self.consumers.values())
        refused = [run for run in self._returned if run.refused_by]
        for run in refused:
            if known and run.refused_by >= known:
                self._returned.remove(run)
                self._bury(run, "refused")
        self._refused_at = now + REFUSED_EVERY if refused else None

    def deadline(self) -> float | None:
        times = [heap[0][0] for heap in (self._due, self._preferred) if heap]
        if self._refused_at is not None:
            times.append(self._refused_at)
        if self.backlog is not None and self.backlog.reuniting:
            times.append(self.backlog.deadline() or 0.0)
        return min(times, default=None)

    def take_releases(self) -> list[tuple[str, int, int]]:
        """(holder, start, stop) of copies that must not be started any more."""
        taken, self._releases = self._releases, []
        return taken

    # Dead letters

    def letters(self) -> list[DeadLetter]:
        """The dead letters of this queue, in the order in which they were given up."""
        return list(self._letters.values())

    def take_letter(self, identity: str) -> DeadLetter | None:
        """Remove and return the dead letter of that message; None if it was retried or dropped before.

        It stays counted as dead-lettered.
        """
        letter = self._letters.pop(identity, None)
        if letter is not None:
            self._letter_bytes -= cost([letter.data])
            self.changed = True
        return letter

    def restore_letter(self, letter: DeadLetter) -> None:
        """Put a letter in its place: one that was taken, or of an earlier life, which may have stored it twice."""
        self.take_letter(letter.id)
        self._letters[letter.id] = letter
        self._letter_bytes += cost([letter.data])
        stream, _, sequence = letter.id.rpartition("/")
        for start, stop in self.numbers(stream, [int(sequence), int(sequence) + 1]):
            if self.backlog is not None and start < self.next and start not in self._settled:
                # The cursor that should follow the letter was never written.
                self._settled.add(start, stop)
                self._dead.add(start, stop)
                self.backlog.settle(start, stop)
                self._account["dead_lettered"] += 1
                self._raise_floor()

    def retry(self, letter: DeadLetter) -> None:
        """Send a dead letter that was taken again, under a new sequence with its old id as `origin`."""
        first = self.next
        self.next += 1
        self._account["retried"] += 1
        extras = {0: Extra(0, letter.headers, letter.origin or letter.id)}
        self.released_cost -= self._take_in(first, [letter.data], letter.sent_ms, extras)
        if self._waiting and self._waiting[-1].first == first:
            self._waiting[-1].codec = letter.codec
        self.changed = True

    # Looking up

    def state(self, sequence: int) -> str:
        """ "waiting", "in flight", "delivered", "processed", "dead" or "dropped"."""
        if sequence in self._settled:
            return "dead" if sequence in self._dead else "dropped" if sequence in self._dropped else "processed"
        if sequence in self._delivered:
            return "delivered"
        if any(run.first <= sequence < run.stop for table in self._in_flight.values() for run in table):
            return "in flight"
        return "waiting"

    def why_dead(self, sequence: int) -> str:
        """The reason of a dead letter, in words."""
        letter = self._letters.get("{}/{}".format(*self.numbering.name(sequence)))
        return (
            f"{letter.reason}: {letter.error}"
            if letter is not None and letter.error
            else (letter.reason if letter is not None else "its dead letter was retried or dropped")
        )

    @property
    def unsettled_count(self) -> int:
        return self.next - 1 - self._settled.total

    @property
    def safe_floor(self) -> int:
        """The floor that others may go by: with a spool, the one that the cursor on disk stands for."""
        return self.floor if self.backlog is None else self.backlog.floor

    @property
    def volatile_count(self) -> int:
        """Unsettled messages that end with this process."""
        if self.backlog is None:
            return self.unsettled_count
        self.backlog.volatile.remove(0, self.floor)
        return sum(b - a for r in self.backlog.volatile for a, b in self._settled.missing(*r))

    @property
    def letters_full(self) -> bool:
        return self._letter_bytes >= self.letter_bytes_max

    def leave(self) -> None:
        """The node closes: what is not settled is left, to a next life or to nobody, and counted."""
        if self.backlog is not None:
            # From here on nothing is in our own hands.
            self._left = self._news()._replace(taking=False, running=None)
            self._marks_changed()  # so that the last cursor has just what is left
        for table in (self._returned, self._delayed, *self._in_flight.values()):
            self.released_cost += table.cost
            table.take_all()
        self.released_cost += sum(run.cost for run in self._waiting)
        self._waiting.clear()
        self._waiting_count = 0
        self._in_flight.clear()
        self._account["left_at_close"] += self.unsettled_count
        if self.backlog is not None:
            self.backlog.load_at = self.next
        for start, stop in self._settled.missing(1, self.next):
            self._settled.add(start, stop)
        self._raise_floor()

    def account(self) -> QueueAccount:
        """A snapshot in which the accounting closes."""
        return QueueAccount(
            queue=self.queue,
            waiting=self._waiting_count + self._returned.count + self._delayed.count,
            on_disk=self.backlog.only_on_disk(self.next) if self.backlog is not None else 0,
            in_flight=self.in_flight_count,
            **self._account,
        )

    # Moving runs

    def _take_from(self, holder: str, start: int, stop: int) -> list[Run]:
        table = self._in_flight.get(holder)
        if table is None:
            return []
        runs = table.take(start, stop)
        if not table:
            del self._in_flight[holder]
        if runs and runs[0].started:
            self._own_changed(holder)
        return runs

    def _take_anywhere(self, start: int, stop: int, but: str) -> list[Run]:
        runs = self._returned.take(start, stop) + self._delayed.take(start, stop)
        if start <= self.numbering.base:
            runs += self._take_waiting_range(start, stop)  # not sent in this life, but in an earlier one
        for other in list(self._in_flight):
            if other != but:
                found = self._take_from(other, start, stop)
                self._releases += [(other, run.first, run.stop) for run in found]
                runs += found
        return runs

    def _settle(self, run: Run, *, stored: bool = True) -> None:
        self._settled.add(run.first, run.stop)
        self._delivered.remove(run.first, run.stop)
        if self.backlog is not None and stored:
            self.backlog.settle(run.first, run.stop)
        self._raise_floor()
        self.released_cost += run.cost
        self.changed = True

    def _raise_floor(self) -> None:
        """The floor stays below what is dead and has no letter on disk: it would be taken for processed."""
        self.floor = self._settled.first_missing(self.floor)
        if self.backlog is not None and self.backlog.unstored.lowest is not None:
            self.floor = min(self.floor, self.backlog.unstored.lowest)

    def buried(self, numbers: list[int]) -> None:
        """The letters of these messages are on disk."""
        if self.backlog is not None:
            self.backlog.buried(numbers)
            self._raise_floor()

    def _own_changed(self, holder: str) -> None:
        """`holder` has begun or ended to take, or to run a suspect: the cursor knows that of ourselves."""
        if self.backlog is not None and holder == self._ourselves:
            self.backlog.changed = True

    def _marks_changed(self) -> None:
        if self.backlog is not None:
            self.backlog.changed = self.backlog.states_changed = True

    def _drop(self, start: int, stop: int) -> None:
        self._settled.add(start, stop)
        self._dropped.add(start, stop)
        self._account["dropped"] += stop - start
        if self.backlog is not None:
            self.backlog.settle(start, stop)
        self._raise_floor()
        self.changed = True

    def _refuse(self, run: Run, holder: str, text: str) -> None:
        run.refused_by |= {self.consumers.get(holder, holder.partition(":")[0])}
        run.error = text
        if run.refused_by >= set(self.consumers.values()):
            self._bury(run, "refused")
        else:
            self._returned.add(run)
            if self._refused_at is None:
                self._refused_at = -inf  # `expire` compares, and sets the time from its own now

    def _bury(self, run: Run, reason: str) -> None:
        for at, body in enumerate(run.bodies):
            sequence = run.first + at
            extra = run.extras.get(sequence) if run.extras else None
            identity = "{}/{}".format(*self.numbering.name(sequence))
            self.take_letter(identity)  # an earlier life may have stored it, too
            letter = self._letters[identity] = DeadLetter(
                id=identity,
                queue=self.queue,
                reason=reason,
                error=run.error,
                attempts=run.attempt,
                strikes=run.strikes,
                data=body,
                codec=self.codec if run.codec is None else run.codec,
                headers=extra.headers if extra else None,
                origin=extra.origin if extra else None,
                sent_ms=run.sent_ms,
            )
            self._letter_bytes += len(body) + MESSAGE_OVERHEAD
            if self.backlog is not None:
                self.backlog.bury(sequence, letter)
        self._dead.add(run.first, run.stop)
        self._account["dead_lettered"] += len(run.bodies)
        self._settle(run, stored=False)

    def _places(self) -> Iterator[tuple[str, Sequence[Run]]]:
        yield "waiting", list(self._waiting)
        yield "returned", self._returned.runs
        yield "delayed", self._delayed.runs
        for holder, table in self._in_flight.items():
            yield holder, table.runs

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
            for start, stop in self._settled.missing(self.backlog.load_at, self.next):
                assert everything.add(start, stop) == stop - start, "a message is in memory and on disk only"
                on_disk += stop - start
        for start, stop in self._settled:
            assert everything.add(start, stop) == stop - start, "a settled message is still somewhere"
        assert everything == Ranges([(1, self.next)]) if self.next > 1 else not everything, "a message is nowhere"
        assert self._waiting_count == sum(len(run.bodies) for run in self._waiting), "waiting count"
        for table in (self._returned, self._delayed, *self._in_flight.values()):
            table.check()
        for holder, table in self._in_flight.items():
            if any(run.suspect for run in table):
                assert table.count == 1, f"a message with three deaths is not alone at {holder}"
        lowest = self._settled.first_missing(1)
        if self.backlog is not None and self.backlog.unstored.lowest is not None:
            lowest = min(lowest, self.backlog.unstored.lowest)
        assert self.floor == lowest, "floor is not the lowest unsettled number"
        assert self.safe_floor <= self.floor, "others go by a floor that could fall"
        assert self.floor >= self._floor_checked, "the floor fell"
        self._floor_checked = self.floor
        held = sum(run.cost for _, runs in self._places() for run in runs)
        assert held == self._accepted_cost - self.released_cost, "bytes held are not bytes accepted minus released"
        assert self._letter_bytes == sum(cost([letter.data]) for letter in self._letters.values()), "letter bytes"
        a = self._account
        left = a["accepted"] + a["recovered"] + a["retried"]
        right = a["acked"] + a["dead_lettered"] + a["dropped"] + a["damaged"] + a["left_at_close"] + counted + on_disk
        assert left == right, f"the accounting does not close: {left} != {right}"


def _state(run: Run) -> State:
    return run.first, run.stop, run.attempt, run.deaths, run.strikes


def _trim(run: Run, messages: int, size: int) -> Run | None:
    """Cut `run` to at most `messages` and about `size` bytes, at least one message; return the rest."""
    if len(run.bodies) <= messages and run.cost <= size:
        return None
    kept = run.bodies[:messages]
    edge = len(kept) if cost(kept) <= size else cuts(list(map(len, kept)), max(1, size), MESSAGE_OVERHEAD)[1]
    return run.cut(run.first + edge) if edge < len(run.bodies) else None


def _singles(run: Run) -> Iterator[Run]:
    while len(run.bodies) > 1:
        rest = run.cut(run.first + 1)
        yield run
        run = rest
    yield run
