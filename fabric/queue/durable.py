"""Durable queue, the disk-backed part: messages that only the spool has, and what it still has to be told.

    memory      numbers below `load_at`: waiting, in flight or settled, as without a spool
    disk only   [load_at, next) without what was settled before this life: read as memory drains

A message counts as settled on disk once the cursor says so; a dead one only after its letter is stored, since until
then the message itself is all that is left of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final

from peerfabric.queue.marks import CONSUMERS_KEPT, UNTRIED, Marks, News, State, marks_from, states_of
from peerfabric.queue.numbering import Numbering
from peerfabric.queue.runs import DEATHS_TO_SUSPECT, ISOLATION, MESSAGE_OVERHEAD, Run, cost
from peerfabric.ranges import Ranges
from peerfabric.reports import DeadLetter
from peerfabric.wire.batch import cuts
from peerfabric.wire.frames import MSGPACK, Extra

REUNION: Final = 1.0
"""Seconds after a start in which recovered messages wait for consumers of the last life: some may have done them."""

ACCUSED: Final = {0: ISOLATION[1], **ISOLATION}
"""Of the messages with so many deaths, how many a node that died of its own queue may have had in hand: those that one
consumer holds at most, and of fresh ones as many as may then travel together. The lowest: they are handed out first."""


class Recovered:
    """What the spool found of one queue.

    Args:
        eras: (stream, first, stop) of what is there, oldest first, with damaged sequences in between included.
        settled: (stream, start, stop) that need not be sent again.
        damaged: (stream, start, stop) that are lost.
        marks: What the last cursor remembered.
        died: The process that wrote it died; what it held is accused.
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
            backlog.accuse(self.marks, numbering)
        return numbering, backlog


class Backlog:
    """The disk's share of one producer's end.

    Args:
        numbering: Names of all messages, with those of earlier lives.
        settled: Numbers that need not be sent again: acked before, or damaged.
        damaged: Those of them that are damaged.
        marks: What is known of the others.
        memory_bytes: How much of the queue is kept in memory at the most.
        now: When the recovered messages may begin to wait for consumers of the last life.
    """

    def __init__(
        self, numbering: Numbering, settled: Ranges, damaged: Ranges, marks: Marks, memory_bytes: int, now: float
    ) -> None:
        self.memory_bytes = memory_bytes
        self.load_at = 1
        self.floor = 1
        """The lowest unsettled number as the cursor on disk has it. Consumers forget what lies below the floor that
        they are told, so a floor that a crash could lower would let a restarted one run it again."""
        self.recovered = numbering.base - settled.total + damaged.total
        self.damaged = damaged
        self.settled = settled
        self.changed = False
        """Marks or settled numbers have changed since they were last taken."""
        self.states_changed = True
        """Attempts, deaths or strikes have changed since they were last taken."""
        self.named: set[str] = set()
        """Node ids of consumers that the cursor on disk names, this node only if it is one. Before, they are given
        nothing: should this process die then, the next would not wait for what they have, nor know what it died of."""
        self.isolated: State | None = None
        """The isolated message that this node, alone, is about to be given of its own queue."""
        self._stored_isolated: State | None = None
        self.awaits_isolation = False
        """Whether this node is given nothing of its own queue until a cursor is stored: see `may_take`."""
        self._due = Ranges()
        self._letters: list[tuple[int, DeadLetter]] = []
        self._known = self._numbered(numbering, marks)
        self._reunion_at = now + REUNION if marks.consumers and self.recovered > damaged.total else -inf
        self._missing = set(marks.consumers)
        self._numbering = numbering
        self._ourselves = numbering.stream.partition(":")[0]
        self._left: News | None = None
        """What the next cursors say, once the node has closed."""
        self.adopted: dict[str, Ranges] = {}
        """Holder -> numbers that it held in our last life and that it still has, as far as we know."""
        self.volatile = Ranges()
        """Messages that are in memory only, since memory had room and somebody consumed them; or somebody has removed
        them from the disk."""
        self.kept = True
        """A next life will find what is on disk: not if the spool was deleted."""
        self.unstored = Ranges()
        """Dead messages whose letters are not on disk yet."""

    @staticmethod
    def _numbered(numbering: Numbering, marks: Marks) -> list[State]:
        return sorted(
            (low, high, mark.attempt, mark.deaths, mark.strikes)
            for mark in marks.marks
            for low, high in numbering.numbers(mark.stream, mark.start, mark.stop)
        )

    # Who was there before

    def accuse(self, marks: Marks, numbering: Numbering) -> None:
        """This node died: what it may have had in hand of its own queue counts a death.

        That is the suspect that ran, as nothing else did; or else what is unsettled and was handed out first.
        """
        self.changed = True
        if marks.running is not None:
            self._strike(self._numbered(numbering, Marks([marks.running])))
            return
        room = dict(ACCUSED) if marks.taking else {}
        states: list[State] = []
        for low, high in self.settled.missing(1, numbering.base + 1):
            for start, end, attempt, deaths, strikes in self._cut(low, high):
                edge = min(end, start + room.get(deaths, 0))
                if start < edge:
                    room[deaths] -= edge - start
                    states.append((start, edge, attempt, deaths + 1, strikes))
                if edge < end and (attempt, deaths, strikes) != UNTRIED:
                    states.append((edge, end, attempt, deaths, strikes))
        self._known = states

    def _strike(self, running: list[State]) -> None:
        for first, stop, attempt, deaths, strikes in running:
            suspect = Ranges([(first, stop)])
            others = [(a, b, *state[2:]) for state in self._known for a, b in suspect.missing(state[0], state[1])]
            self._known = sorted([*others, (first, stop, attempt, deaths + 1, strikes + 1)])

    @property
    def reuniting(self) -> bool:
        """Whether recovered messages wait for consumers of the last life."""
        return self._reunion_at > -inf

    @property
    def awaited(self) -> set[str]:
        """Node ids of those who have yet to return; should this life end first, the next one waits for them."""
        return self._missing if self.reuniting else set()

    def met(self, node_id: str) -> None:
        """A consumer has said what it holds and what it has done."""
        self._missing.discard(node_id)
        if not self._missing:
            self._reunion_at = -inf

    def expire(self, now: float) -> None:
        if self._reunion_at <= now:
            self._reunion_at = -inf

    def deadline(self) -> float | None:
        return self._reunion_at if self.reuniting else None

    def adopt(self, holder: str, held: Ranges) -> None:
        """`holder` holds `held`; what is of earlier lives is in flight there as soon as it is read."""
        self.adopted.pop(holder, None)
        recovered = held.common(1, self._numbering.base + 1)
        unsettled = Ranges(r for low, high in recovered for r in self.settled.missing(low, high))
        if unsettled:
            self.adopted[holder] = unsettled

    def give_back(self, holder: str, start: int, stop: int) -> None:
        """`holder` does not hold `[start, stop)` any more: when it is read it waits, as if nothing had happened."""
        if holder in self.adopted:
            self.adopted[holder].remove(start, stop)

    # From disk

    def fitting(self, first: int, bodies: list[bytes], held_bytes: int) -> list[bytes]:
        """What of `bodies`, numbered from `first` on, is kept in memory, where `held_bytes` are already.

        The rest is on disk only, and so is everything if memory is full or older ones are on disk only.
        """
        if self.behind(first):
            return []
        room = self.memory_bytes - held_bytes
        if cost(bodies) > room:
            # At least one message is in memory, however large it is, or nothing would ever be sent.
            count = cuts(list(map(len, bodies)), max(1, room), MESSAGE_OVERHEAD)[1]
            bodies = bodies[:count] if room >= cost(bodies[:count]) or not held_bytes else []
        self.load_at = first + len(bodies)
        return bodies

    def load_bytes(self, following: int, held_bytes: int) -> int:
        """How much should now be read of what is below `following`; 0 as long as memory is well filled."""
        if not self.behind(following):
            return 0
        free = self.memory_bytes - held_bytes
        return max(1, free) if not held_bytes or 2 * free >= self.memory_bytes else 0

    def behind(self, following: int) -> bool:
        """Whether something below number `following` is only on disk."""
        return self.load_at < following

    def only_on_disk(self, following: int) -> int:
        """How many unsettled messages below `following` are not in memory."""
        return following - self.load_at - sum(b - a for a, b in self.settled.common(self.load_at, following))

    def unread(
        self, stream: str, sequence: int, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra], following: int
    ) -> tuple[list[Run], bool]:
        """What of a record, `bodies` from `sequence` of `stream` on, was not read before, as models for `runs`.

        And whether that is all of it: what is not below `following` is not accepted yet.
        """
        parts = []
        whole = True
        for first, end in self._numbering.numbers(stream, sequence, sequence + len(bodies)):
            whole = whole and end <= following
            at, stop = max(first, self.load_at), min(end, following)
            if at < stop:
                offset = self._numbering.name(at)[1] - sequence
                part = Run(at, bodies[offset : offset + stop - at], 0, sent_ms)
                part.codec = MSGPACK
                part.extras = {at - offset + index: extra for index, extra in extras.items()} or None
                parts.append(part)
        return parts, whole

    def runs(self, first: int, bodies: list[bytes], run: Run) -> list[Run]:
        """A record that was read, `bodies` from number `first` on, as runs of what is not settled; `run` is a model.

        What it says of attempts and deaths is applied.
        """
        stop = first + len(bodies)
        self.load_at = max(self.load_at, stop)
        found = []
        for low, high in self.settled.missing(first, stop):
            for start, end, *tried in self._cut(low, high):
                made = run.like(start, bodies[start - first : end - first])
                made.attempt, made.deaths, made.strikes = tried
                found.append(made)
        return found

    def _cut(self, low: int, high: int) -> list[State]:
        """`[low, high)` in parts of which the same is known. What is known of numbers below is forgotten."""
        parts: list[State] = []
        while self._known and self._known[0][1] <= low:
            self._known.pop(0)
        for start, stop, attempt, deaths, strikes in self._known:
            if start >= high:
                break
            a, b = max(low, start), min(high, stop)
            if low < a:
                parts.append((low, a, *UNTRIED))
            if a < b:
                parts.append((a, b, attempt, deaths, strikes))
                low = b
        if low < high:
            parts.append((low, high, *UNTRIED))
        return parts

    # To disk

    def pass_by(self, start: int, stop: int) -> None:
        """`[start, stop)` stays in memory only: the disk is told not to look for it."""
        assert not self.behind(start), "what is on disk goes first"
        self.load_at = stop
        self.volatile.add(start, stop)
        self.settle(start, stop)

    @property
    def volatile_count(self) -> int:
        """How many unsettled messages are in memory only."""
        self.volatile.remove(0, self.settled.first_missing(1))
        return sum(b - a for r in self.volatile for a, b in self.settled.missing(*r))

    def settle(self, start: int, stop: int) -> None:
        """`[start, stop)` need not be sent again."""
        self._due.add(start, stop)
        self.changed = True

    def bury(self, number: int, letter: DeadLetter) -> None:
        """Message `number` is given up; it is settled once `letter` is stored."""
        self.unstored.add(number, number + 1)
        self._letters.append((number, letter))
        self.changed = self.states_changed = True

    def take_letters(self) -> list[tuple[int, DeadLetter]]:
        """Dead letters to store, with the numbers to report to `buried` then."""
        taken, self._letters = self._letters, []
        return taken

    def put_back(self, letters: list[tuple[int, DeadLetter]]) -> None:
        """The disk did not take these letters; they will be asked for again."""
        self._letters = letters + self._letters
        self.changed = True

    def buried(self, numbers: list[int]) -> None:
        """The letters of these messages are stored."""
        for number in numbers:
            self.unstored.remove(number, number + 1)
            self._due.add(number, number + 1)
        self.changed = self.changed or bool(numbers)

    def take_settled(self) -> list[tuple[int, int]]:
        """Numbers that the cursor may take for settled, since the last call."""
        taken, self._due = list(self._due), Ranges()
        self.changed = False
        return taken

    def note_states(self) -> None:
        """Something of what is known of messages, or of who consumes them, has changed."""
        self.changed = self.states_changed = True

    def marks(self, news: News, runs: Iterable[Run]) -> Marks:
        """What a cursor must remember besides what is settled: `news`, and what is known of `runs` and on disk."""
        return marks_from(self._left or self._with_states(news, runs), self._numbering)

    def take_news(self, news: News, runs: Iterable[Run]) -> News:
        """What `marks` is made of, without attempts and deaths if these did not change since the last call."""
        changed, self.states_changed = self.states_changed, False
        if not changed:
            return (self._left or news)._replace(states=None)
        return self._left or self._with_states(news, runs)

    def leave(self, news: News, runs: Iterable[Run], following: int) -> None:
        """The node closes: `runs`, and all else below `following`, are left to a next life."""
        # From here on nothing is in our own hands.
        self._left = self._with_states(news, runs)._replace(taking=False, running=None)
        self.load_at = following
        self.note_states()  # so that the last cursor has just what is left

    def cursor_stored(self, floor: int, news: News) -> None:
        """The cursor with `news` is on disk; the end's floor was this when they were taken."""
        self.floor = floor
        self._stored_isolated, self.awaits_isolation = news.running, False
        self.named = {*news.consumers} - {self._ourselves}
        if news.taking:
            self.named.add(self._ourselves)

    def names(self, node_id: str) -> bool:
        """Whether the cursor on disk names that consumer, or so many that it has no room for another."""
        return node_id in self.named or (len(self.named) >= CONSUMERS_KEPT and node_id != self._ourselves)

    def may_take(self, isolated: State | None) -> bool:
        """This node should get of its own queue an isolated message, or others (None); whether it may.

        It may once the cursor on disk says so. Else a node that dies again and again would not know of which message.
        """
        if self._stored_isolated == isolated:
            return True
        self.isolated = isolated
        self.awaits_isolation = self.changed = True
        return False

    def _with_states(self, news: News, runs: Iterable[Run]) -> News:
        return news._replace(states=states_of(runs) + self.kept_states())

    def kept_states(self) -> list[State]:
        """What is known of that which is not in memory: not read from disk yet, or only a letter that is not stored.

        Until the letter is stored the message is all there is, and must not begin again at 1.
        """
        dead = [
            (number, number + 1, letter.attempts, DEATHS_TO_SUSPECT if letter.strikes else 0, letter.strikes)
            for number, letter in self._letters
        ]
        return dead + [(max(state[0], self.load_at), *state[1:]) for state in self._known if state[1] > self.load_at]
