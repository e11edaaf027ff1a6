"""Backlog: the part of a durable queue that is on disk, and what the spool has yet to be told.

    memory      numbers below `load_at`: pending, in flight or settled, as without a spool
    disk only   [load_at, next) without what was settled before this life: read as memory drains

A message counts as settled on disk once the cursor says so; a dead one only after its dead letter is stored,
since until then the message itself is all that is left of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from peerfabric.queue.dead_letters import DIED_WITH_IT
from peerfabric.queue.marks import UNTRIED, Marks, News, State, marks_from, states_of
from peerfabric.queue.numbering import Numbering
from peerfabric.queue.runs import ISOLATION, MESSAGE_OVERHEAD, Run, cost
from peerfabric.ranges import Ranges
from peerfabric.reports import DeadLetter
from peerfabric.wire.bodies import cuts
from peerfabric.wire.frames import MSGPACK, Extra

REUNION: Final = 1.0
"""Seconds after a start in which recovered messages wait for the INTEREST of consumers: some may have done them."""

IN_HAND_MAX: Final = {0: ISOLATION[1], **ISOLATION}
"""Of the messages with so many deaths, how many a node that died of its own queue may have had in hand: those that one
consumer holds at most, and of fresh ones as many as may then travel together. The lowest: they are handed out first."""


class Backlog:
    """The part of a durable queue that is on disk: what only the spool has, and what it has yet to be told.

    Args:
        numbering: Names of all messages, with those of earlier lives.
        settled: Numbers that need not be sent again: acked before, or damaged.
        damaged: Those of them that are damaged.
        marks: What is known of the others.
        memory_bytes: How much of the queue is kept in memory at the most.
        now: When the recovered messages begin to wait for consumers.
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
        """Attempts or deaths have changed since they were last taken."""
        self._stored_taking = False
        """The cursor on disk says that this node takes of its own queue. Before, it is given nothing: its next
        life would not know what had been in hand."""
        self.isolated: State | None = None
        """The isolated message that this node, alone, is about to be given of its own queue."""
        self._stored_isolated: State | None = None
        self.awaits_cursor = False
        """Whether this node is given nothing of its own queue until a cursor is stored: see `may_take`."""
        self._due = Ranges()
        self._letters: list[tuple[int, DeadLetter]] = []
        self._known = self._numbered(numbering, marks)
        self.reuniting = self.recovered > damaged.total
        """Whether recovered messages wait for consumers to say what they have and what they have done."""
        self.reunion_at = now + REUNION
        self._numbering = numbering
        self._left: News | None = None
        """What the next cursors say, once the node has closed."""
        self.adopted: dict[str, Ranges] = {}
        """Peer instance -> numbers that it held in our last life and that it still has, as far as we know."""
        self.ran: dict[str, Ranges] = {}
        """Peer instance -> what has run there, if something that it holds is not read yet."""
        self.volatile = Ranges()
        """Messages that are in memory only, since memory had room and somebody consumed them; or somebody has removed
        them from the disk."""
        self.kept = True
        """A next life will find what is on disk: not if the spool was deleted."""
        self.unstored = Ranges()
        """Messages whose dead letters are not on disk yet."""

    @staticmethod
    def _numbered(numbering: Numbering, marks: Marks) -> list[State]:
        return sorted(
            (low, high, mark.attempt, mark.deaths)
            for mark in marks.marks
            for low, high in numbering.numbers(mark.stream, mark.start, mark.stop)
        )

    # Who was there before

    def count_death(self, marks: Marks, numbering: Numbering) -> None:
        """This node died: what it may have had in hand of its own queue counts a death.

        That is the isolated message that ran, as it had no other of the queue, which counts a failed attempt, too; or
        else what is unsettled and was handed out first.
        """
        self.changed = True
        if marks.running is not None:
            for first, stop, attempt, deaths in self._numbered(numbering, Marks([marks.running])):
                ran = Ranges([(first, stop)])
                others = [(a, b, *state[2:]) for state in self._known for a, b in ran.missing(state[0], state[1])]
                self._known = sorted([*others, (first, stop, attempt + 1, deaths + 1)])
            return
        room = dict(IN_HAND_MAX) if marks.taking else {}
        states: list[State] = []
        for low, high in self.settled.missing(1, numbering.base + 1):
            for start, end, attempt, deaths in self._cut(low, high):
                edge = min(end, start + room.get(deaths, 0))
                if start < edge:
                    room[deaths] -= edge - start
                    states.append((start, edge, attempt, deaths + 1))
                if edge < end and (attempt, deaths) != UNTRIED:
                    states.append((edge, end, attempt, deaths))
        self._known = states

    def adopt(self, peer: str, held: Ranges) -> None:
        """`peer` holds `held`; what is of earlier lives is in flight there as soon as it is read."""
        self.adopted.pop(peer, None)
        self.ran.pop(peer, None)
        recovered = held.common(1, self._numbering.base + 1)
        unsettled = Ranges(r for low, high in recovered for r in self.settled.missing(low, high))
        if unsettled:
            self.adopted[peer] = unsettled

    def give_back(self, peer: str, start: int, stop: int) -> None:
        """`peer` does not hold `[start, stop)` any more: when it is read it waits, as if nothing had happened."""
        if peer in self.adopted:
            self.adopted[peer].remove(start, stop)

    # From disk

    def fitting(self, first: int, bodies: list[bytes], held_bytes: int) -> list[bytes]:
        """What of `bodies`, numbered from `first` on, is kept in memory, where `held_bytes` are already.

        The rest is on disk only, and so is everything if memory is full or older ones are on disk only.
        """
        if self.load_at < first:
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
        if self.load_at >= following:
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
                made.attempt, made.deaths = tried
                found.append(made)
        return found

    def _cut(self, low: int, high: int) -> list[State]:
        """`[low, high)` in parts of which the same is known. What is known of numbers below is forgotten."""
        parts: list[State] = []
        while self._known and self._known[0][1] <= low:
            self._known.pop(0)
        for start, stop, attempt, deaths in self._known:
            if start >= high:
                break
            a, b = max(low, start), min(high, stop)
            if low < a:
                parts.append((low, a, *UNTRIED))
            if a < b:
                parts.append((a, b, attempt, deaths))
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

    def dead_lettered(self, letters: list[tuple[int, DeadLetter]]) -> None:
        """The messages of these numbers are given up; they are settled once their dead letters are stored."""
        for number, _ in letters:
            self.unstored.add(number, number + 1)
        self._letters += letters
        self.changed = self.states_changed = True

    def take_dead_letters(self) -> list[tuple[int, DeadLetter]]:
        """Dead letters to store, with the numbers to report to `dead_letters_stored` then."""
        taken, self._letters = self._letters, []
        return taken

    def put_back(self, letters: list[tuple[int, DeadLetter]]) -> None:
        """The disk did not take these dead letters; they will be asked for again."""
        self._letters = letters + self._letters
        self.changed = True

    def dead_letters_stored(self, numbers: list[int]) -> None:
        """The dead letters of these messages are stored."""
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
        self._stored_isolated, self.awaits_cursor = news.running, False
        self._stored_taking = news.taking

    def takes_own(self, takes: bool) -> None:
        """This node begins, or ceases, to take of its own queue."""
        self._stored_taking = self._stored_taking and not takes
        self.awaits_cursor, self.changed = takes, True

    def may_take(self, isolated: State | None) -> bool:
        """This node should get of its own queue an isolated message, or others (None); whether it may.

        It may once the cursor on disk says so. Else a node that dies again and again would not know of which message.
        """
        if self._stored_taking and self._stored_isolated == isolated:
            return True
        self.isolated = isolated
        self.awaits_cursor = self.changed = True
        return False

    def _with_states(self, news: News, runs: Iterable[Run]) -> News:
        return news._replace(states=states_of(runs) + self.kept_states())

    def kept_states(self) -> list[State]:
        """What is known of messages that are not in memory: not read from disk yet, or a dead letter yet to be stored.

        Until that is stored the message is all there is, and must not begin again at 1.
        """
        dead = [
            (number, number + 1, letter.attempts + (letter.reason == DIED_WITH_IT), letter.deaths)
            for number, letter in self._letters
        ]
        return dead + [(max(state[0], self.load_at), *state[1:]) for state in self._known if state[1] > self.load_at]
