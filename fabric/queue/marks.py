"""Marks in a cursor: attempts and deaths of messages, and what its node has of its own queue.

Without that a message that kills its consumers would begin again at attempt 1 each time its producer is started.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from peerfabric.queue.numbering import Numbering
from peerfabric.queue.runs import Run

MARKS_BYTES_MAX: Final = 1024 * 1024
"""Of the marks in a cursor, which is written many times a second. Beyond that those that say least are left out."""

State = tuple[int, int, int, int]
"""Messages `[start, stop)` by their numbers, and their attempt and deaths."""

UNTRIED: Final = (1, 0)
"""Attempt and deaths of what nothing is known of."""

_encode = msgspec.msgpack.Encoder().encode


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """What happened to `[start, stop)` of one stream, kept so that a queue's killer does not start again at 1."""

    stream: str
    start: int
    stop: int
    attempt: int
    deaths: int


class Marks(msgspec.Struct, array_like=True):
    """What a cursor remembers besides settled ranges."""

    marks: list[Mark] = []
    taking: bool = False
    """This node consumed its own queue: should it die, its messages were held at that death."""
    running: Mark | None = None
    """The isolated message that this node was about to run: should it die, that had it in hand."""
    max_attempts: int = 0
    """What the queue's producer had asked for; 0 if that is not known."""


class News(NamedTuple):
    """What an end has for the next cursor besides what is settled.

    states    None: as the last time
    the rest  as in `Marks`, `running` by its number
    """

    states: list[State] | None = None
    taking: bool = False
    running: State | None = None
    max_attempts: int = 0


def state_of(run: Run) -> State:
    """What is known of the messages of `run`."""
    return run.first, run.stop, run.attempt, run.deaths


def states_of(runs: Iterable[Run]) -> list[State]:
    """What is known of those to which something has happened."""
    return [state_of(run) for run in runs if run.attempt > 1 or run.deaths]


def marks_of(states: Iterable[State], numbering: Numbering) -> list[Mark]:
    """Marks for `states`, one for neighbours of which the same is known. `numbering` is read, and nothing else."""
    merged: list[State] = []
    for state in sorted(states):
        if merged and merged[-1][1] == state[0] and merged[-1][2:] == state[2:]:
            merged[-1] = (merged[-1][0], *state[1:])
        else:
            merged.append(state)
    return [
        Mark(stream, low, high, attempt, deaths)
        for start, stop, attempt, deaths in merged
        for stream, low, high in numbering.names(start, stop)
    ]


def marks_from(news: News, numbering: Numbering) -> Marks:
    """`news` with the names of its messages. `numbering` is read, and nothing else."""
    running = marks_of([news.running], numbering)[0] if news.running is not None else None
    return Marks(marks_of(news.states or [], numbering), news.taking, running, news.max_attempts)


def pack_marks(marks: list[Mark], bytes_max: int = MARKS_BYTES_MAX) -> bytes:
    """`marks` for a cursor, in at most `bytes_max` bytes.

    What is left out begins again at attempt 1 should this process die; no message is lost or settled by that. Marks
    with most deaths stay longest, then those with most attempts, the oldest first.
    """
    packed = _encode(marks)
    if len(packed) <= bytes_max:
        return packed
    room = bytes_max - 5  # the array's own header
    kept = []
    for mark in sorted(marks, key=lambda mark: (-mark.deaths, -mark.attempt)):
        room -= len(_encode(mark))
        if room < 0:
            break
        kept.append(mark)
    return _encode(kept)
