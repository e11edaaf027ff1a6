"""Dead letters in the slots of a spool that no node runs with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec

from peerfabric.errors import SpoolError, counted
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.offline import (
    dead_letters_of,
    element_of,
    hint_damage,
    letters,
    messages_of,
    now_ms,
    say_found,
    settle_on_disk,
    shown,
    unsettled,
    warn,
)
from peerfabric.nodes.cli.output import to_json
from peerfabric.nodes.cli.slots import Id, Place, free_slots, parse_ids, slots_of, slots_with
from peerfabric.ranges import Ranges
from peerfabric.reports import DeadLetter
from peerfabric.spool import Log, Record, Spool
from peerfabric.wire.frames import Extra

Chosen = dict[str, dict[int, Ranges]]
"""Dead letters by queue and epoch."""

LISTER: Final = "`peerfabric dead ls`"
"""The command that shows ids."""
CHUNK: Final = 1000
"""Dead letters retried with one sync. A crash within them may send them twice."""
CHUNK_BYTES: Final = 4 * 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode


def found_in(
    folder: str, queue: str | None, slot: int | None, skip: Collection[int]
) -> Iterator[tuple[str, DeadLetter]]:
    """The dead letters of free slots, of one queue or all: each as a JSON line, and as it is.

    Args:
        skip: Slots that somebody else tells of.

    Raises:
        SpoolError: None can be looked into.
        Failure: None has this queue.
    """
    with_queue = free_slots(folder, slot, skip) if queue is None else slots_with(folder, queue, slot, skip)
    for number, opened in with_queue:
        for name in opened.queues() if queue is None else [queue]:
            log = dead_letters_of(opened, name)
            hint_damage(name, log)
            unreadable = log.unsettled_count
            for record, letter in letters(log):
                unreadable -= 1
                yield json_line(number, record, letter), letter
            if unreadable:
                warn(f"queue {name!r}: {unreadable:,} more cannot be read by this version")


def one_in(folder: str, identity: str, slot: int | None) -> str:
    """One dead letter of a free slot, as a JSON line.

    Raises:
        SpoolLocked: Its slot is in use.
        Failure: There is none with this id.
    """
    found = ""
    for number, opened, [wanted] in slots_of(folder, parse_ids([identity], LISTER), slot):
        if wanted.queue in opened.queues():
            for record, letter in letters(dead_letters_of(opened, wanted.queue)):
                if (record.epoch, record.first) == (wanted.epoch, wanted.sequence):
                    found = json_line(number, record, letter)
    if not found:
        raise missing(identity)
    return found


def json_line(slot: int, record: Record, letter: DeadLetter) -> str:
    names = ("id", "queue", "reason", "error", "attempts", "deaths", "origin")
    fields: dict[str, Any] = {name: getattr(letter, name) for name in names}
    times = {"sent_at": letter.sent_ms / 1000, "dead_at": record.unix_ms / 1000}
    body = shown(element_of(record), bytes(record.body)).fields()
    return to_json({"slot": slot} | fields | times | {"headers": letter.headers or {}} | body)


def missing(identity: str) -> Failure:
    return Failure(f"no dead letter {identity}; see `peerfabric dead ls`")


def retry_on_disk(places: dict[Place, Chosen]) -> int:
    """Queue dead letters again; return how many were. What cannot be read is told of.

    Raises:
        SpoolError: A slot cannot be opened, or the disk refused; what was not retried is still a dead letter.
    """
    retried = 0
    for place, chosen in places.items():
        with place.owned() as ours:
            for queue, wanted in chosen.items():
                retried += _Retries(ours, queue, wanted).run()
    if left := count_in(places) - retried:
        warn(f"{counted(left, 'dead letter')} cannot be read by this version: left there")
    return retried


def drop_on_disk(places: dict[Place, Chosen]) -> int:
    """Delete dead letters; return how many were.

    Raises:
        SpoolError: A slot cannot be opened, or the disk refused.
    """
    dropped = 0
    for place, chosen in places.items():
        with place.owned() as ours:
            for queue, wanted in chosen.items():
                log, alive = _open(ours, queue)
                before = log.unsettled_count
                _settle(log, wanted, alive)
                dropped += before - log.unsettled_count
    return dropped


def places_of(
    folder: str, ids: Sequence[str], queues: Collection[str], slot: int | None, skip: Collection[int]
) -> dict[Place, Chosen]:
    """The dead letters of free slots with these ids, or if there are none of these queues, or all, by their slots.

    Raises:
        Failure: There is none with one of the ids.
    """
    if ids:
        each = slots_of(folder, parse_ids(ids, LISTER), slot)
    else:
        each = ((number, opened, []) for number, opened in free_slots(folder, slot, skip))
    found = {Place.of(number, opened): _chosen(opened, wanted, queues) for number, opened, wanted in each}
    return {place: chosen for place, chosen in found.items() if chosen}


def _chosen(opened: Spool, ids: list[Id], queues: Collection[str]) -> Chosen:
    there = {queue: unsettled(dead_letters_of(opened, queue)) for queue in opened.queues()}
    if not ids:
        return {queue: found for queue, found in there.items() if found and (not queues or queue in queues)}
    chosen: Chosen = {}
    for text, _, queue, epoch, sequence in ids:
        if sequence not in there.get(queue, {}).get(epoch, ()):
            raise missing(text)
        chosen.setdefault(queue, {}).setdefault(epoch, Ranges()).add(sequence, sequence + 1)
    return chosen


def count_in(places: dict[Place, Chosen]) -> int:
    return sum(ranges.total for chosen in places.values() for found in chosen.values() for ranges in found.values())


def _open(ours: Spool, queue: str) -> tuple[Log, dict[int, Ranges]]:
    """The letters of a queue, and which of its messages are not settled."""
    log, dead_log = messages_of(ours, queue), dead_letters_of(ours, queue)
    say_found(queue, log)
    say_found(queue, dead_log)
    return dead_log, unsettled(log)


class _Retries:
    """The retries of one queue.

    The new messages are on disk before their letters are settled: in between they are both.
    """

    def __init__(self, ours: Spool, queue: str, wanted: dict[int, Ranges]) -> None:
        self._spool = ours
        self._letters, self._alive = _open(ours, queue)
        self._log = messages_of(ours, queue)
        self._wanted = wanted
        self._next = 1

    def run(self) -> int:
        """Retry what is wanted; return how many were.

        Raises:
            SpoolError: The disk refused; what was not retried is still a letter.
        """
        found = (pair for pair in letters(self._letters) if pair[0].first in self._wanted.get(pair[0].epoch, ()))
        while chunk := _chunk(found):
            self._retry(chunk)
        return self._next - 1

    def _retry(self, chunk: list[tuple[Record, DeadLetter]]) -> None:
        done: dict[int, Ranges] = {}
        refused: SpoolError | None = None
        for record, letter in chunk:
            extras = _encode([Extra(0, letter.headers, letter.origin or letter.id)])
            # The body of a letter is that of a record with one message, so it is taken as it is.
            entry = (self._spool.epoch, self._next, 1, record.codec, record.body, extras)
            try:
                self._spool.with_spare(partial(self._log.append, *entry, unix_ms=now_ms()))
            except SpoolError as error:
                refused = error
                break
            self._next += 1
            done.setdefault(record.epoch, Ranges()).add(record.first, record.stop)
        if done:
            self._log.sync()
            _settle(self._letters, done, self._alive)
        if refused is not None:
            raise refused


def _chunk(found: Iterator[tuple[Record, DeadLetter]]) -> list[tuple[Record, DeadLetter]]:
    chunk: list[tuple[Record, DeadLetter]] = []
    room = CHUNK_BYTES
    for pair in islice(found, CHUNK):
        chunk.append(pair)
        room -= len(pair[0].body)
        if room <= 0:
            break
    return chunk


def _settle(log: Log, done: dict[int, Ranges], alive: dict[int, Ranges]) -> None:
    """Settle letters, on disk too.

    Dead letters are scattered over the numbers of their queue, and a cursor has no room for thousands of gaps. A gap is
    closed where it has neither a letter nor a message that is `alive`: nothing of it can become a letter any more.
    """
    for epoch, ranges in done.items():
        for start, stop in ranges:
            log.settle(epoch, start, stop)
    there = unsettled(log)
    for epoch, ranges in done.items():
        taken = Ranges([*alive.get(epoch, ()), *there.get(epoch, ())])
        parts = list(ranges)
        for start, stop in taken.missing(parts[0][0], parts[-1][1]):
            log.settle(epoch, start, stop)
    settle_on_disk(log)
