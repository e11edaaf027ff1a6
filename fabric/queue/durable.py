"""Durable queue: an outgoing queue whose messages are on disk, and what it goes on with after a start."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from peerfabric.log_records import LogRecords
from peerfabric.queue.backlog import Backlog
from peerfabric.queue.dead_letters import DIED_WITH_IT
from peerfabric.queue.marks import Marks, News, state_of
from peerfabric.queue.numbering import Numbering
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import DEATHS_TO_ISOLATE, Kind, Run
from peerfabric.queue.settled import End, Settled
from peerfabric.ranges import Ranges
from peerfabric.reports import DeadLetter, QueueAccount
from peerfabric.wire.frames import Extra, Nack

if TYPE_CHECKING:
    from peerfabric.queue.handon import Watch


class DurableQueue(OutgoingQueue):
    """An outgoing queue whose messages are on disk; memory has as many of them as there is room for.

    Args:
        numbering: The names of all messages, those of earlier lives included.
        backlog: What is on disk.
        others: As in `OutgoingQueue`.
    """

    backlog: Backlog

    def __init__(
        self,
        queue: str,
        stream: str,
        codec: int,
        dead_letter_bytes_max: int,
        max_attempts: int,
        random: Random,
        numbering: Numbering,
        backlog: Backlog,
        records: LogRecords | None = None,
        *,
        following: int = 1,
    ) -> None:
        given = (queue, stream, codec, dead_letter_bytes_max, max_attempts, random, records, numbering)
        super().__init__(*given, following=following)
        self.backlog = backlog
        self.settled = Settled(backlog.settled, backlog.damaged)
        if following > 1:
            self.settled.numbers.add(numbering.base + 1, self.next)
            self.settled.raise_floor()
            backlog.load_at = self.next
        backlog.floor = self.floor
        if backlog.reuniting:
            self.pending.look_at(backlog.reunion_at)
        self._ourselves = "{}:{}".format(*stream.split(":", 2))
        """The peer instance that this node itself is, if it consumes what it produces."""

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
        first = self.next
        if not bodies:
            return first
        self.next += len(bodies)
        self._accepted_count += len(bodies)
        if volatile:
            self.backlog.pass_by(first, self.next)
            self._accepted_cost += self.pending.append(first, bodies, sent_ms, extras, None, kind)
        else:
            self._accepted_cost += self._take_in(first, bodies, sent_ms, extras, None, kind)
            if self.watch is not None:
                self.watch.store(first, self.next)
        return first

    def open_watch(self, wake: Callable[[], None]) -> Watch:
        watch = super().open_watch(wake)
        if watch.stored is None:
            watch.stored = Ranges(self.backlog.volatile.missing(1, self.next))
        return watch

    def _take_in(
        self,
        first: int,
        bodies: list[bytes],
        sent_ms: int,
        extras: dict[int, Extra] | None,
        codec: int | None = None,
        kind: Kind | None = None,
    ) -> int:
        """Keep `bodies` in memory and return their cost; or on disk only, if memory is full or older ones are there."""
        bodies = self.backlog.fitting(first, bodies, self.held_bytes)
        if not bodies:
            return 0
        if extras is not None:
            extras = {at: extra for at, extra in extras.items() if at < len(bodies)} or None
        return self.pending.append(first, bodies, sent_ms, extras, codec, kind)

    def purge(self) -> int:
        backlog, dropped = self.backlog, super().purge()
        held = Ranges(part for ranges in backlog.adopted.values() for part in ranges.common(backlog.load_at, self.next))
        for start, stop in held.missing(backlog.load_at, self.next):
            dropped += sum(high - low for low, high in self._settle_missing("dropped", start, stop))
        # What consumers have is yet to be read, to be in flight there.
        backlog.load_at = held.lowest or self.next
        backlog.note_states()
        return dropped

    def adopt_options(self, codec: int, max_attempts: int, memory_bytes: int) -> None:
        """The handle of a queue that was recovered before it was asked for says what it wants."""
        self.codec, self.max_attempts = codec, max_attempts
        self.dead.bytes_max = self.backlog.memory_bytes = memory_bytes
        self.backlog.changed = True
        self.touched[self] = None
        for run in self.pending.take_returned(self._is_fatal):
            self._give_up(run, DIED_WITH_IT)

    # From disk

    def load_bytes(self) -> int:
        """How much should now be read from disk; 0 as long as memory is well filled."""
        return self.backlog.load_bytes(self.next, self.held_bytes)

    def loaded(
        self,
        stream: str,
        sequence: int,
        bodies: list[bytes],
        sent_ms: int,
        extras: dict[int, Extra],
        kind: Kind | None = None,
        now: float = -inf,
    ) -> bool:
        """The next record was read from disk, in order; `bodies` are documents of msgpack. Gaps are damage.

        Returns whether all of it was taken: what is stored and not accepted yet must be read once more.
        """
        parts, whole = self.backlog.unread(stream, sequence, bodies, sent_ms, extras, self.next)
        for part in parts:
            self.lose(part.first)
            part.kind = kind
            for run in self.backlog.runs(part.first, part.bodies, part):
                self._accepted_cost += run.cost
                if self._is_over(run, now):
                    self._end("expired", run)
                elif self._is_fatal(run):  # this node died with it
                    self._give_up(run, DIED_WITH_IT)
                else:
                    self.pending.add_loaded(run)
            for peer in list(self.backlog.adopted):
                self._adopt(peer)
        return whole

    def lose(self, stop: int) -> None:
        """What should be on disk below `stop` and was not read is damaged."""
        self._settle_missing("damaged", self.backlog.load_at, stop)
        self.backlog.load_at = max(self.backlog.load_at, stop)

    def _adopt(self, peer: str) -> None:
        """Of what `peer` held in our last life, what was read meanwhile is in flight there."""
        adopted = self.backlog.adopted[peer]
        alone = adopted.total + self.held_by(peer) == 1
        for low, high in Ranges(adopted):
            for run in self.pending.take_undelayed(low, high):
                if run.isolated and not alone:
                    # It went there among others, and was not in our hands as we died.
                    run.deaths = DEATHS_TO_ISOLATE - 1
                    self._states_changed()
                self.in_flight.add(peer, run)
                adopted.remove(run.first, run.stop)
                for start, stop in self.backlog.ran.get(peer, Ranges()).common(run.first, run.stop):
                    self.in_flight.has_run(peer, start, stop)
        if not adopted:
            del self.backlog.adopted[peer]
            self.backlog.ran.pop(peer, None)

    # To disk

    def marks(self) -> Marks:
        """What a cursor must remember besides what is settled."""
        return self.backlog.marks(self._news(), self._runs())

    def take_news(self) -> News:
        """What `marks` is made of, without attempts and deaths if these did not change since the last call.

        A pump that waits for this does not wait for what is made of it.
        """
        return self.backlog.take_news(self._news(), self._runs())

    def _news(self) -> News:
        running = next(
            (state_of(run) for run in self.in_flight.runs(self._ourselves) if run.isolated and not run.ran), None
        )
        return News(None, self._ourselves in self.consumers, running or self.backlog.isolated, self.max_attempts)

    def dead_letters_stored(self, numbers: list[int]) -> None:
        """The dead letters of these messages are on disk."""
        self.backlog.dead_letters_stored(numbers)
        self._hold_floor()
        self.settled.raise_floor()

    def _hold_floor(self) -> None:
        lowest = self.backlog.unstored.lowest
        self.settled.floor_max = inf if lowest is None else lowest

    @property
    def safe_floor(self) -> int:
        return self.backlog.floor

    # Dispatch

    @property
    def waiting_count(self) -> int:
        return 0 if self.backlog.reuniting else self.pending.count

    @property
    def awaits_cursor(self) -> bool:
        return self.backlog.awaits_cursor

    def pick(self, peer: str, messages: int, size: int, body_bytes_max: int, now: float = -inf) -> Run | None:
        if self.backlog.reuniting:
            return None
        run = super().pick(peer, messages, size, body_bytes_max, now)
        if run is None or peer != self._ourselves:
            return run
        if self.backlog.may_take(state_of(run) if run.isolated else None):
            return run
        self.pending.give_back(run)
        return None

    def sent(self, peer: str, run: Run) -> None:
        super().sent(peer, run)
        if self.backlog.isolated is not None and self.backlog.isolated == state_of(run):
            self.backlog.isolated = None
            self.backlog.changed = True

    # What became of them

    def acked(self, peer: str, start: int, stop: int) -> None:
        super().acked(peer, start, stop)
        if self.backlog.load_at < stop <= self.next:  # on disk only: somebody processed it in an earlier life
            for low, high in self._settle_missing("acked", max(start, self.backlog.load_at), stop):
                for other in self.backlog.adopted:
                    self.backlog.give_back(other, low, high)

    def ran(self, peer: str, start: int, stop: int) -> None:
        super().ran(peer, start, stop)
        for low, high in self.backlog.adopted.get(peer, Ranges()).common(start, stop):  # in flight once they are read
            self.backlog.ran.setdefault(peer, Ranges()).add(low, high)
        self._own_changed(peer)

    def nacked(self, peer: str, nack: Nack, now: float) -> None:
        self.backlog.give_back(peer, nack.start, nack.stop)
        self._own_changed(peer)
        super().nacked(peer, nack, now)

    def _learn_attempt(self, run: Run, attempt: int) -> bool:
        # The last cursor of an earlier life may not have known of these attempts yet.
        if run.attempt > attempt or run.first > self.numbering.base:
            return False
        run.attempt = min(attempt, self.max_attempts)
        self._states_changed()
        return True

    def returned(self, peer: str, start: int, stop: int) -> None:
        self.backlog.give_back(peer, start, stop)
        self._own_changed(peer)
        super().returned(peer, start, stop)

    def reconcile(self, peer: str, held: Ranges) -> Ranges:
        self.backlog.adopt(peer, held)
        if peer in self.backlog.adopted:
            self._adopt(peer)
            # What is in memory and did not wait has ended, or is elsewhere.
            self.backlog.give_back(peer, 0, self.backlog.load_at)
        self._own_changed(peer)
        release = super().reconcile(peer, held)
        for start, stop in self.backlog.adopted.get(peer, ()):
            release.remove(start, stop)
        return release

    def gone(self, peer: str, now: float, *, died: bool) -> None:
        self.backlog.adopted.pop(peer, None)
        self.backlog.ran.pop(peer, None)
        super().gone(peer, now, died=died)

    def set_consumer(self, peer: str, node_id: str, *, consumes: bool) -> None:
        super().set_consumer(peer, node_id, consumes=consumes)
        if peer == self._ourselves:
            self.backlog.takes_own(consumes)

    def _own_changed(self, peer: str) -> None:
        """`peer` may have no isolated message any more, which the cursor says of ourselves."""
        if peer == self._ourselves:
            self.backlog.changed = True

    def expire(self, now: float) -> None:
        self.backlog.reuniting = self.backlog.reuniting and now < self.backlog.reunion_at
        super().expire(now)

    # How they end

    def _settle(self, how: End, start: int, stop: int) -> None:
        super()._settle(how, start, stop)
        self.backlog.settle(start, stop)

    def _settle_missing(self, how: End, start: int, stop: int) -> list[tuple[int, int]]:
        missing = self.settled.numbers.missing(start, stop)
        for low, high in missing:
            self._settle(how, low, high)
        return missing

    def _dead_lettered(self, run: Run, letters: list[tuple[int, DeadLetter]]) -> None:
        """The disk is told that `run` is settled once it has the dead letters."""
        self.backlog.dead_lettered(letters)
        self._hold_floor()
        super()._settle("dead_lettered", run.first, run.stop)
        self.released_cost += run.cost

    def _nobody_else(self, run: Run) -> bool:
        return not self.backlog.reuniting and super()._nobody_else(run)

    def _states_changed(self) -> None:
        self.backlog.note_states()

    # Looking up

    @property
    def volatile_count(self) -> int:
        return self.backlog.volatile_count if self.backlog.kept else self.unsettled_count

    def leave(self) -> None:
        self.backlog.leave(self._news(), self._runs(), self.next)
        super().leave()

    def account(self) -> QueueAccount:
        return replace(
            super().account(), on_disk=self.backlog.only_on_disk(self.next), recovered=self.backlog.recovered
        )

    def _only_on_disk(self) -> list[tuple[int, int]]:
        return self.settled.numbers.missing(self.backlog.load_at, self.next)

    def check(self) -> None:
        super().check()
        assert self.backlog.floor <= self.floor, "others go by a floor that could fall"
        assert self.settled.floor_max == (self.backlog.unstored.lowest or inf), (
            "a floor above a dead letter to be stored"
        )


class Recovered:
    """What the spool found of one queue.

    Args:
        eras: (stream, first, stop) of what is there, oldest first, with damaged sequences in between included.
        settled: (stream, start, stop) that need not be sent again.
        damaged: (stream, start, stop) that are lost.
        marks: What the last cursor remembered.
        died: The process that wrote it died; what it held counts a death.
    """

    def __init__(
        self,
        eras: list[tuple[str, int, int]],
        settled: list[tuple[str, int, int]],
        damaged: list[tuple[str, int, int]],
        marks: Marks,
        *,
        died: bool = False,
    ) -> None:
        self.eras, self.settled, self.damaged, self.marks, self.died = eras, settled, damaged, marks, died

    def open(
        self,
        queue: str,
        stream: str,
        codec: int,
        memory_bytes: int,
        max_attempts: int,
        random: Random,
        records: LogRecords,
        now: float,
        following: int = 1,
    ) -> DurableQueue:
        """The queue that goes on with it; arguments as in `OutgoingQueue`."""
        numbering, backlog = self.begin(stream, memory_bytes, now)
        given = (queue, stream, codec, memory_bytes, max_attempts, random, numbering, backlog, records)
        return DurableQueue(*given, following=following)

    def begin(self, stream: str, memory_bytes: int, now: float) -> tuple[Numbering, Backlog]:
        """The numbering and the backlog of the life that begins with `stream`."""
        numbering = Numbering(stream, self.eras)
        damaged = Ranges()
        for name, start, stop in self.damaged:
            for low, high in numbering.numbers(name, start, stop):
                damaged.add(low, high)
        settled = Ranges(damaged)
        for name, start, stop in self.settled:
            for low, high in numbering.numbers(name, start, stop):
                settled.add(low, min(high, numbering.base + 1))
        backlog = Backlog(numbering, settled, damaged, self.marks, memory_bytes, now)
        if self.died:
            backlog.count_death(self.marks, numbering)
        return numbering, backlog
