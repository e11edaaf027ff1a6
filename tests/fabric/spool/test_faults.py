"""Every operation fails once, in every way: nothing confirmed is lost, nothing refused is there, and work goes on."""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO, ENOSPC
from typing import TypeVar

import pytest

from peerfabric.errors import FabricError, SpoolError, SpoolFull
from peerfabric.spool import Log, Spool
from tests.fabric.spool.disk import SHORT, Disk
from tests.fabric.spool.helpers import QUEUE, append, batch, fill, messages, open_log, open_spool, records

SCENARIO_SEGMENT_BYTES = 500
T = TypeVar("T")


class Story:
    """A node's life with its spool, and what it may rely on. A refused step is tried again with the same numbers."""

    def __init__(self, disk: Disk, *, fsync: bool) -> None:
        self.disk, self.fsync = disk, fsync
        self.confirmed: set[tuple[int, int]] = set()
        self.settled: set[tuple[int, int]] = set()
        self.refused = 0
        self.tries: dict[tuple[int, int], bytes] = {}
        """Which try of a record was not refused; each has other extras."""
        self.tried = 0

    def run(self) -> None:
        for life in (1, 2):
            spool = self._try(open_spool, self.disk, fsync=self.fsync, segment_bytes=SCENARIO_SEGMENT_BYTES)
            log = self._try(spool.queue, QUEUE, unix_ms=life)
            self._live(spool, log)
            try:
                spool.close()
            except SpoolError:
                self.refused += 1
            assert self.disk.open_count == 0, "a descriptor was left open"
            self.disk.kill()

    def _live(self, spool: Spool, log: Log) -> None:
        epoch, following = spool.epoch, 1
        for turn in range(6):
            waiting = []
            for _ in range(2):
                self._try(self._append, log, epoch, following)
                waiting += [(epoch, following), (epoch, following + 1)]
                following += 2
            entries = [(following + n, 1, batch(1, 1, 1)[1], batch(epoch, following + n, 1)[0], b"") for n in range(3)]
            while entries:
                stored = self._try(log.append_many, entries, epoch, unix_ms=1)
                waiting += [(epoch, entry[0]) for entry in entries[:stored]]
                following, entries = following + stored, entries[stored:]
            if self.fsync:
                self._try(log.sync)
            self.confirmed.update(waiting)
            log.check()
            if turn % 2:
                done = [sequence for _, sequence in waiting][:-1]
                self.settled.update((epoch, sequence) for sequence in done)
                log.settle(epoch, done[0], done[-1] + 1)
                self._try(log.write_cursor, b"marks")
                self._try(log.compact)
            log.check()

    def _append(self, log: Log, epoch: int, first: int) -> None:
        self.tried += 1
        extras = str(self.tried).encode() if first % 4 == 1 else b""
        append(log, epoch, first, 2, extras=extras)
        self.tries[epoch, first] = extras

    def _try(self, act: Callable[..., T], *arguments: object, **options: object) -> T:
        for _ in range(3):
            try:
                return act(*arguments, **options)
            except SpoolError:
                self.refused += 1
        raise AssertionError("refused three times")

    def check(self, disk: Disk) -> None:
        """What was confirmed and not settled is there after the story; nothing else was ever appended."""
        log = open_log(disk, random_bits=11)
        found = messages(log)
        assert (log.recovery.damaged, log.recovery.torn) == ([], [])
        for record in records(log):
            assert record.extras in (b"", self.tries.get((record.epoch, record.first), b""))
        assert len(found) == len(set(found))
        assert set(found) <= self.confirmed
        assert set(found) >= self.confirmed - self.settled
        log.check()
        disk.kill()


def operations(*, fsync: bool) -> int:
    disk = Disk()
    story = Story(disk, fsync=fsync)
    story.run()
    story.check(disk)
    assert story.refused == 0
    return disk.operations


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("fault", [EIO, ENOSPC, SHORT])
def test_every_operation_fails_once(fsync: bool, fault: int) -> None:
    """The story goes on and ends well, whichever operation fails."""
    count = operations(fsync=fsync)
    assert count > 60
    for number in range(1, count + 1):
        disk = Disk()
        disk.faults[number] = fault
        story = Story(disk, fsync=fsync)
        story.run()
        disk.faults.clear()
        story.check(disk)


@pytest.mark.parametrize("fsync", [False, True])
def test_two_operations_fail(fsync: bool) -> None:
    """A failure while another one is being dealt with is no worse."""
    count = operations(fsync=fsync)
    for number in range(1, count + 1):
        for distance in (1, 2, 3):
            disk = Disk()
            disk.faults = {number: EIO, number + distance: EIO}
            story = Story(disk, fsync=fsync)
            story.run()
            disk.faults.clear()
            story.check(disk)


def test_failed_sync_is_not_retried() -> None:
    """What was not durable goes to another segment, which is synced; the old one gets nothing more."""
    disk = Disk()
    log = open_log(disk, fsync=True)
    epoch = 1 << 20 | 7
    fill(log, epoch, 1, 2)
    log.sync()
    following = fill(log, epoch, 5, 2)
    (old,) = {path for kind, path in disk.trace if kind == "write" and path.endswith(".seg")}
    before = disk.operations
    disk.faults[before + 1] = EIO
    log.sync()
    steps = [(kind, path == old) for kind, path in disk.trace[before:]]
    assert steps == [
        ("sync", True),
        ("truncate", True),
        ("sync", True),  # of its end, or what is behind a hole in it could come back before what is written again
        ("create", False),
        ("write", False),
        ("write", False),
        ("write", False),
        ("sync", False),
        ("sync_folder", False),
    ]
    fill(log, epoch, following, 1)
    log.sync()
    assert ("write", old) not in disk.trace[before:]
    assert messages(log) == [(epoch, sequence) for sequence in range(1, 11)]
    log.check()


def test_failed_sync_confirms_nothing_until_saved() -> None:
    """While no segment can be synced, nothing is confirmed or read; then all of it is, in order."""
    disk = Disk()
    log = open_log(disk, fsync=True)
    epoch = 1 << 20 | 7
    fill(log, epoch, 1, 2)
    disk.broken["sync"] = EIO
    for _ in range(3):
        with pytest.raises(SpoolError):
            log.sync()
        assert messages(log) == []
        log.check()
    with pytest.raises(SpoolError):
        append(log, epoch, 5)
    del disk.broken["sync"]
    append(log, epoch, 5)
    log.sync()
    assert messages(log) == [(epoch, sequence) for sequence in range(1, 6)]
    disk.kill()
    assert messages(open_log(disk)) == [(epoch, sequence) for sequence in range(1, 6)]


def test_sync_that_failed_without_fsync_stays_failed() -> None:
    """Nothing is kept in memory then, so it can never be said to be durable; reading and appending go on."""
    disk = Disk()
    log = open_log(disk)
    epoch = 1 << 20 | 7
    fill(log, epoch, 1, 1)
    disk.faults[disk.operations + 1] = EIO
    for _ in range(2):
        with pytest.raises(SpoolError):
            log.sync()
    fill(log, epoch, 3, 1)
    assert [sequence for _, sequence in messages(log)] == [1, 2, 3, 4]
    log.settle(epoch, 1, 3)
    log.write_cursor()
    log.sync()


def until_full(log: Log, epoch: int, first: int, *, size: int, records: int = 1_000) -> tuple[int, SpoolError]:
    """Append messages until one is refused, or `records` are in; the next sequence, and the refusal."""
    for sequence in range(first, first + records):
        try:
            append(log, epoch, sequence, size=size)
        except SpoolFull as error:
            return sequence, error
    return first + records, SpoolError("", "not full")


def test_full_disk() -> None:
    """Appends are refused, the cursor and dead letters are still written, and appends go on when space returns."""
    disk = Disk(space=400_000)
    spool = open_spool(disk, spare=True, segment_bytes=40_000)
    log, dead = spool.queue(QUEUE, unix_ms=1), spool.dead(QUEUE, unix_ms=1)
    append(dead, spool.epoch, 1)
    following, error = until_full(log, spool.epoch, 1, size=1000)
    assert error.errno == ENOSPC
    assert isinstance(error, FabricError)
    for sequence in range(2, 20):
        append(dead, spool.epoch, sequence, size=1000)
    log.settle(spool.epoch, 1, following - 10)
    log.write_cursor(b"m" * 10_000)
    log.check()
    append(log, spool.epoch, following, size=1000)
    disk.kill()
    spool = open_spool(disk, spare=True, random_bits=8, segment_bytes=40_000)
    found = spool.queue(QUEUE, unix_ms=1)
    assert found.recovery.torn == []
    assert found.recovery.extents[-1][2] == following + 1
    letters = spool.dead(QUEUE, unix_ms=1)
    assert letters.recovery.extents == [(1 << 20 | 7, 1, 20)]
    assert letters.recovery.torn == letters.recovery.problems == []


def test_limit() -> None:
    """The limit is one for all queues; dead letters have a segment more; what is settled makes room."""
    disk = Disk()
    spool = open_spool(disk, limit_bytes=10_000, segment_bytes=2_000)
    logs = [spool.queue(name, unix_ms=1) for name in ("a", "b")]
    until_full(logs[0], spool.epoch, 1, size=100, records=20)
    _, error = until_full(logs[1], spool.epoch, 1, size=100)
    assert "10,000" in str(error)
    assert 9_700 < spool.used_bytes <= 10_000
    append(spool.dead("a", unix_ms=1), spool.epoch, 1, size=100)
    for log in logs:
        log.settle(spool.epoch, 1, 100)
        log.write_cursor()
    append(logs[0], spool.epoch, 100, size=100)
    assert spool.used_bytes < 1_000
    spool.close()
    again = open_spool(disk, limit_bytes=10_000, random_bits=8)
    used = again.used_bytes
    for name in again.queues():
        again.queue(name, unix_ms=1)
        again.dead(name, unix_ms=1)
    assert again.used_bytes == used


def test_limit_within_one_segment() -> None:
    """Also a segment that is not full gives its space back when it is needed."""
    disk = Disk()
    spool = open_spool(disk, limit_bytes=2_000, segment_bytes=1 << 20)
    log = spool.queue(QUEUE, unix_ms=1)
    sequence = 1
    for _ in range(3):
        sequence, _ = until_full(log, spool.epoch, sequence, size=100)
        log.settle(spool.epoch, 1, sequence)
        log.write_cursor()
    assert 30 < sequence < 50


def test_append_many_stores_a_prefix() -> None:
    """Of batches that do not all fit, the first ones are stored, and the number says how many."""
    disk = Disk()
    spool = open_spool(disk, limit_bytes=2_000, segment_bytes=700)
    log = spool.queue(QUEUE, unix_ms=1)
    codec = batch(spool.epoch, 1, 1, 100)[1]
    entries = [(n, 1, codec, batch(spool.epoch, n, 1, 100)[0], b"") for n in range(1, 100)]
    stored = log.append_many(entries, spool.epoch, unix_ms=1)
    assert messages(log, 100) == [(spool.epoch, n) for n in range(1, stored + 1)]
    assert 8 < stored < 20
    with pytest.raises(SpoolFull):
        log.append_many(entries[stored:], spool.epoch, unix_ms=1)
    log.check()
