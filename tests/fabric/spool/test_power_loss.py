"""The power goes at any moment, and the disk keeps any legal part of what was not synced."""

from __future__ import annotations

from contextlib import suppress
from errno import EIO
from random import Random

import pytest

from peerfabric.errors import SpoolError
from peerfabric.spool import Log, Spool
from tests.fabric.spool.disk import Disk
from tests.fabric.spool.helpers import QUEUE, append, batch, messages, numbers, open_spool, records


class Life:
    """Lives of one node, each ended by a loss of power, and what was promised in them."""

    def __init__(self, random: Random, *, fsync: bool) -> None:
        self.random, self.fsync = random, fsync
        self.disk = Disk()
        self.stored: set[tuple[int, int]] = set()
        self.settled: set[tuple[int, int]] = set()
        self.appended: set[tuple[int, int]] = set()
        self.bytes_of: dict[tuple[int, int], int] = {}
        self.epochs: set[int] = set()

    def live(self, steps: int) -> None:
        random = self.random
        spool = open_spool(
            self.disk, fsync=self.fsync, spare=True, random_bits=random.randrange(1 << 20), segment_bytes=900
        )
        assert spool.epoch not in self.epochs, "an epoch came again"
        assert spool.epoch > max(self.epochs, default=0)
        self.epochs.add(spool.epoch)
        log = spool.queue(QUEUE, unix_ms=1)
        self.check(log)
        following, unsynced = 1, set[tuple[int, int]]()
        for _ in range(steps):
            act = random.randrange(10)
            if act < 5:
                count, size = random.randrange(1, 4), random.choice((0, 0, 300))
                try:
                    append(log, spool.epoch, following, count, size)
                except SpoolError:
                    continue
                added = {(spool.epoch, s) for s in range(following, following + count)}
                self.bytes_of.update(dict.fromkeys(added, size))
                self.appended |= added
                unsynced |= added
                following += count
            elif act < 7:
                self._sync(spool, log, unsynced)
            elif act < 9:
                self._settle(log)
            else:
                try:
                    log.write_cursor(b"m")
                    log.compact()
                except SpoolError:
                    continue
            log.check()
        self.disk = self.disk.lose_power(random)

    def _sync(self, spool: Spool, log: Log, unsynced: set[tuple[int, int]]) -> None:
        if self.random.random() < 0.1:
            self.disk.faults[self.disk.operations + self.random.randrange(1, 4)] = 5
        try:
            log.sync()
        except SpoolError:
            return
        self.stored |= unsynced
        unsynced.clear()

    def _settle(self, log: Log) -> None:
        known = [record for record in records(log) if self.random.random() < 0.4]
        for record in known:
            high = self.random.randrange(record.first, record.stop) + 1
            log.settle(record.epoch, record.first, high)
            self.settled |= numbers([(record.epoch, record.first, high)])

    def check(self, log: Log) -> None:
        """After a start: what was stored and not settled is there if it was synced, and nothing is wrong."""
        found = []
        for record in records(log):
            size = self.bytes_of[record.epoch, record.first]
            assert record.body == batch(record.epoch, record.first, record.count, size)[0]
            found += [(record.epoch, sequence) for sequence in range(record.first, record.stop)]
        assert len(found) == len(set(found)), "a message came twice"
        assert found == sorted(found), "messages are out of order"
        assert set(found) <= self.appended
        lost = numbers(log.recovery.damaged)
        forgotten = numbers([(e, a, b) for e, r in log.recovery.settled.items() for a, b in r])
        assert forgotten & self.appended <= self.settled, "the cursor says too much"
        if self.fsync:
            assert set(found) >= self.stored - self.settled
            assert not lost & (self.stored - self.settled)
        # What was lost once is lost: a later life must not find it again.
        self.appended &= set(found)
        self.stored &= set(found)
        log.check()


def lives(seed: int, *, fsync: bool) -> None:
    life = Life(Random(seed), fsync=fsync)
    for _ in range(4):
        life.live(life.random.randrange(1, 25))


@pytest.mark.parametrize("fsync", [True, False])
@pytest.mark.parametrize("block", range(5))
def test_power_loss(block: int, fsync: bool) -> None:
    """1,000 crash states: synced means there, no number comes back with other content, nothing wrong is read."""
    for seed in range(block * 25, block * 25 + 25):
        lives(seed, fsync=fsync)


@pytest.mark.long
@pytest.mark.parametrize("fsync", [True, False])
def test_power_loss_long(fsync: bool) -> None:
    """10,000 crash states."""
    for seed in range(1_000, 2_250):
        lives(seed, fsync=fsync)


def test_synced_messages_are_there() -> None:
    """The plain case: three synced, two not; at least the three are there."""
    for seed in range(20):
        disk = Disk()
        spool = open_spool(disk, fsync=True)
        log = spool.queue(QUEUE, unix_ms=1)
        append(log, spool.epoch, 1, 3)
        log.sync()
        append(log, spool.epoch, 4, 2)
        log = open_spool(disk.lose_power(Random(seed)), random_bits=8).queue(QUEUE, unix_ms=1)
        assert [sequence for _, sequence in messages(log)] in ([1, 2, 3], [1, 2, 3, 4, 5])


@pytest.mark.parametrize("operation", range(1, 16))
def test_a_start_that_was_killed_leaves_no_folder_that_may_vanish(operation: int) -> None:
    """What the first start had made and not synced the second one syncs, before it is told that anything is stored."""
    for seed in range(10):
        disk = Disk()
        disk.faults = dict.fromkeys(range(operation, operation + 100), EIO)
        with suppress(OSError):
            open_spool(disk, folder="/spool", fsync=True).queue(QUEUE, unix_ms=1)
        disk.kill()
        disk.faults.clear()
        spool = open_spool(disk, folder="/spool", fsync=True)
        log = spool.queue(QUEUE, unix_ms=1)
        append(log, spool.epoch, 1, 3)
        log.sync()
        after = open_spool(disk.lose_power(Random(seed)), folder="/spool", random_bits=8)
        assert after.epoch > spool.epoch
        found = [sequence for epoch, sequence in messages(after.queue(QUEUE, unix_ms=1)) if epoch == spool.epoch]
        assert found == [1, 2, 3]


def test_what_a_killed_process_did_not_sync_is_synced_at_the_next_start() -> None:
    """What that start reads it may rely on: it is told of it as of what was stored."""
    for seed in range(20):
        disk = Disk()
        spool = open_spool(disk, fsync=True)
        append(spool.queue(QUEUE, unix_ms=1), spool.epoch, 1, 3)
        disk.kill()
        read = messages(open_spool(disk, fsync=True).queue(QUEUE, unix_ms=1))
        log = open_spool(disk.lose_power(Random(seed)), random_bits=8).queue(QUEUE, unix_ms=1)
        assert messages(log) == read == [(spool.epoch, 1), (spool.epoch, 2), (spool.epoch, 3)]
