"""What the spool has of a queue, seen from the producer's end: what is only there, and what it still has to be told.

    memory      numbers below `load_at`: waiting, in flight or settled, as without a spool
    disk only   [load_at, next) without what was settled before this life: read as memory drains

A message counts as settled on disk once the cursor says so; a dead one only after its letter is stored, since until
then the message itself is all that is left of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import inf
from typing import Final, NamedTuple

import msgspec

from peerfabric.inflight import ISOLATION, Run
from peerfabric.numbering import Numbering
from peerfabric.ranges import Ranges
from peerfabric.stats import DeadLetter

REUNION: Final = 1.0
"""Seconds after a start in which recovered messages wait for consumers of the last life: some may have done them."""

ACCUSED: Final = {0: ISOLATION[1], **ISOLATION}
"""Of the messages with so many deaths, how many a node that died of its own queue may have had in hand: those that one
consumer holds at most, and of fresh ones as many as may then travel together. The lowest: they are handed out first."""

MARKS_BYTES_MAX: Final = 1024 * 1024
"""Of the marks in a cursor, which is written many times a second. Beyond that those that say least are left out."""

State = tuple[int, int, int, int, int]
"""Messages `[start, stop)` by their numbers, and their attempt, deaths and strikes."""

UNTRIED: Final = (1, 0, 0)
"""Attempt, deaths and strikes of what nothing is known of."""

_encode = msgspec.msgpack.Encoder().encode


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """What happened to `[start, stop)` of one stream, kept so that a queue's killer does not start again at 1."""

    stream: str
    start: int
    stop: int
    attempt: int
    deaths: int
    strikes: int


class Marks(msgspec.Struct, array_like=True):
    """What a cursor remembers besides settled ranges."""

    marks: list[Mark] = []
    consumers: list[str] = []
    """Node ids of those who consumed the queue; they may know what became of its messages."""
    taking: bool = False
    """This node consumed its own queue: should it die, its messages were held at that death."""
    running: Mark | None = None
    """The suspect that this node was about to run, alone: should it die, it was the one."""
    max_attempts: int = 0
    """What the queue's producer had asked for; 0 if that is not known."""


class News(NamedTuple):
    """What an end has for the next cursor besides what is settled.

    states    None: as the last time
    the rest  as in `Marks`, `running` by its number
    """

    states: list[State] | None
    consumers: list[str]
    taking: bool = False
    running: State | None = None
    max_attempts: int = 0


def marks_of(states: Iterable[State], numbering: Numbering) -> list[Mark]:
    """Marks for `states`, one for neighbours of which the same is known. `numbering` is read, and nothing else."""
    merged: list[State] = []
    for state in sorted(states):
        if merged and merged[-1][1] == state[0] and merged[-1][2:] == state[2:]:
            merged[-1] = (merged[-1][0], *state[1:])
        else:
            merged.append(state)
    return [
        Mark(stream, low, high, attempt, deaths, strikes)
        for start, stop, attempt, deaths, strikes in merged
        for stream, low, high in numbering.names(start, stop)
    ]


def marks_from(news: News, numbering: Numbering) -> Marks:
    """`news` with the names of its messages. `numbering` is read, and nothing else."""
    running = marks_of([news.running], numbering)[0] if news.running is not None else None
    return Marks(marks_of(news.states or [], numbering), news.consumers, news.taking, running, news.max_attempts)


def pack_marks(marks: list[Mark], bytes_max: int = MARKS_BYTES_MAX) -> bytes:
    """`marks` for a cursor, in at most `bytes_max` bytes.

    What is left out begins again at attempt 1 should this process die; no message is lost or settled by that. Marks
    with most strikes stay longest, then those with most deaths, then those with most attempts, the oldest first.
    """
    packed = _encode(marks)
    if len(packed) <= bytes_max:
        return packed
    room = bytes_max - 5  # the array's own header
    kept = []
    for mark in sorted(marks, key=lambda mark: (-mark.strikes, -mark.deaths, -mark.attempt)):
        room -= len(_encode(mark))
        if room < 0:
            break
        kept.append(mark)
    return _encode(kept)


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
        settled = Ranges()
        damaged = 0
        for name, start, stop in self.damaged:  # first, as the log settles what it has told of
            for low, high in numbering.numbers(name, start, stop):
                damaged += settled.add(low, high)
        for name, start, stop in self.settled:
            for low, high in numbering.numbers(name, start, stop):
                settled.add(low, min(high, numbering.base + 1))
        backlog = Backlog(numbering, settled, damaged, self.marks, memory_bytes, now)
        if self.died:
            backlog.accuse(self.marks, numbering)
        return numbering, backlog


def only_the_running(recovered: Collection[Recovered]) -> None:
    """Of all queues of a node that died: if a suspect ran in one, nothing else was in hand, and only it is accused."""
    if any(found.marks.running is not None for found in recovered):
        for found in recovered:
            found.died = found.died and found.marks.running is not None


class Backlog:
    """The disk's share of one producer's end.

    Args:
        numbering: Names of all messages, with those of earlier lives.
        settled: Numbers that need not be sent again: acked before, or damaged.
        damaged: How many of them are damaged.
        marks: What is known of the others.
        memory_bytes: How much of the queue is kept in memory at the most.
        now: When the recovered messages may begin to wait for consumers of the last life.
    """

    def __init__(
        self, numbering: Numbering, settled: Ranges, damaged: int, marks: Marks, memory_bytes: int, now: float
    ) -> None:
        self.memory_bytes = memory_bytes
        self.load_at = 1
        self.floor = 1
        """The lowest unsettled number as the cursor on disk has it. Consumers forget what lies below the floor that
        they are told, so a floor that a crash could lower would let a restarted one run it again."""
        self.recovered = numbering.base - settled.total + damaged
        self.damaged = damaged
        self.settled = settled
        self.changed = False
        """Marks or settled numbers have changed since they were last taken."""
        self.states_changed = True
        """Attempts, deaths or strikes have changed since they were last taken."""
        self.taking_stored = False
        """The cursor on disk says that this node consumes its own queue. Before, it is given nothing of it: a process
        that dies of its first message would leave no trace."""
        self._due = Ranges()
        self._letters: list[tuple[int, DeadLetter]] = []
        self._known = self._numbered(numbering, marks)
        self._reunion_at = now + REUNION if marks.consumers and self.recovered > damaged else -inf
        self._missing = set(marks.consumers)
        self.volatile = Ranges()
        """Messages that are in memory only, since memory had room and somebody consumed them."""
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

    # From disk

    def behind(self, following: int) -> bool:
        """Whether something below number `following` is only on disk."""
        return self.load_at < following

    def only_on_disk(self, following: int) -> int:
        """How many unsettled messages below `following` are not in memory."""
        return following - self.load_at - sum(b - a for a, b in self.settled.common(self.load_at, following))

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

    def settle(self, start: int, stop: int) -> None:
        """`[start, stop)` need not be sent again."""
        self._due.add(start, stop)
        self.changed = True

    def bury(self, number: int, letter: DeadLetter) -> None:
        """Message `number` is given up; it is settled once `letter` is stored."""
        self.unstored.add(number, number + 1)
        self._letters.append((number, letter))
        self.changed = self.states_changed = True

    def letters_to_store(self) -> list[tuple[int, DeadLetter]]:
        """What `take_letters` would return."""
        return self._letters

    def take_letters(self) -> list[tuple[int, DeadLetter]]:
        """Letters to store, with the numbers to report to `buried` then."""
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

    def kept_states(self) -> list[State]:
        """What is known of that which was not read from disk yet."""
        return [(max(state[0], self.load_at), *state[1:]) for state in self._known if state[1] > self.load_at]
