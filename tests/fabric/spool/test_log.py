"""One log: reading while it grows and shrinks, cursors, compaction, and how much memory it takes."""

from __future__ import annotations

import sys
from random import Random

import pytest

from peerfabric.errors import SpoolError
from peerfabric.ranges import Ranges
from peerfabric.spool import Log
from peerfabric.spool.cursor import RANGES_BYTES_MAX
from tests.fabric.spool.disk import Disk, File
from tests.fabric.spool.helpers import QUEUE, append, batch, fill, messages, numbers, open_log, open_spool, records

EPOCH = 1 << 20 | 7


def segment_count(disk: Disk) -> int:
    return sum(path.endswith(".seg") for path in disk.files)


# Reading


def test_reader_follows_rolls_and_trims() -> None:
    """A reader goes on over new segments, and over the removal of old ones, and never returns a record twice."""
    for seed in range(30):
        random, disk = Random(seed), Disk()
        log, following = open_log(disk), 1
        reader, found, settled = log.reader(), list[int](), Ranges()
        for _ in range(100):
            act = random.randrange(4)
            if act == 0:
                following = fill(log, EPOCH, following, random.randrange(1, 8), random.randrange(1, 4))
            elif act == 1:
                found += [
                    s for record in reader.read(random.randrange(1, 800)) for s in range(record.first, record.stop)
                ]
            elif act == 2 and found:
                low = random.choice(found)
                log.settle(EPOCH, low, min(low + 12, found[-1] + 1))
                settled.add(low, min(low + 12, found[-1] + 1))
            else:
                log.write_cursor()
                log.compact()
            log.check()
            assert log.unsettled_count == following - 1 - settled.total
        while some := reader.read(1000):
            found += [s for record in some for s in range(record.first, record.stop)]
        assert found == list(range(1, following)), f"seed {seed}"
        reader.close()
        log.close()
        assert disk.open_count == 1, "only the lock is open"


def test_reader_begins_where_it_is_told() -> None:
    """With the record that has the message, or else with the next one, in any epoch."""
    disk = Disk()
    fill(open_log(disk), EPOCH, 1, 20, 2)
    disk.kill()
    log = open_log(disk, random_bits=8)
    later = 2 << 20 | 8
    fill(log, later, 1, 20, 2)
    firsts = [(EPOCH, n) for n in range(1, 41, 2)] + [(later, n) for n in range(1, 41, 2)]
    for at, (epoch, first) in enumerate(firsts):
        for sequence in (first, first + 1):
            record = log.reader(epoch, sequence).read(1)[0]
            assert (record.epoch, record.first) == (epoch, first)
        assert len(log.reader(epoch, first).read(1 << 20)) == len(firsts) - at
    assert log.reader(EPOCH, 41).read(1)[0].epoch == later
    assert log.reader(later, 41).read(1) == []
    append(log, later, 41)
    assert log.reader(later, 41).read(1)[0].first == 41


def test_reader_has_a_limit_in_bytes() -> None:
    """At least one record, then no more than asked for by more than one."""
    log = open_log(Disk())
    fill(log, EPOCH, 1, 10, 1, size=100)
    reader = log.reader()
    assert [len(reader.read(300)) for _ in range(6)] == [2, 2, 2, 2, 2, 0]
    assert len(log.reader().read(1)) == 1


def test_only_what_is_stored_is_read() -> None:
    """With fsync=True a record is read once it is durable."""
    log = open_log(Disk(), fsync=True)
    reader = log.reader()
    append(log, EPOCH, 1)
    assert reader.read(100) == []
    log.sync()
    append(log, EPOCH, 2)
    assert [record.first for record in reader.read(1000)] == [1]


def test_sync_covers_what_was_appended_before_it_began() -> None:
    """Appends go on while the disk is waited for, and wait for the next sync."""
    log = open_log(Disk(), fsync=True)
    fill(log, EPOCH, 1, 12, 1, size=100)
    token = log.sync_begin()
    fill(log, EPOCH, 13, 12, 1, size=100)
    log.sync_run(token)
    log.sync_end(token, None)
    assert [s for _, s in messages(log, 100)] == list(range(1, 13))
    log.check()
    log.sync()
    assert [s for _, s in messages(log, 100)] == list(range(1, 25))


def test_damage_that_comes_later_is_skipped() -> None:
    """A reader checks each record again, and goes on behind one that went bad since the start."""
    disk = Disk()
    log = open_log(disk, segment_bytes=1 << 16)
    fill(log, EPOCH, 1, 5, 1)
    path = next(path for path in disk.files if path.endswith(".seg"))
    content = bytearray(disk.files[path].content)
    content[content.find(batch(EPOCH, 3, 1)[0])] ^= 1
    disk.files[path] = File(bytes(content))
    assert [record.first for record in records(log)] == [1, 2, 4, 5]


def test_a_large_record_has_its_own_segment() -> None:
    """A record over the size of a segment is stored, and the next one goes to another."""
    disk = Disk()
    log = open_log(disk)
    append(log, EPOCH, 1)
    append(log, EPOCH, 2, size=5_000)
    append(log, EPOCH, 3)
    assert segment_count(disk) == 3
    assert [record.first for record in records(log)] == [1, 2, 3]


# Cursors


def test_what_is_settled_stays_settled() -> None:
    """Settled ranges and marks come back; segments of which nothing is wanted are removed."""
    disk = Disk()
    log = open_log(disk)
    fill(log, EPOCH, 1, 60, 1)
    count = segment_count(disk)
    log.settle(EPOCH, 3, 40)
    assert (log.cursor_due, segment_count(disk)) == (True, count)
    log.write_cursor(b"marks")
    assert not log.cursor_due
    assert segment_count(disk) < count
    disk.kill()
    log = open_log(disk)
    assert log.recovery.marks == b"marks"
    assert log.recovery.settled[EPOCH].common(1, 100) == [(3, 40)]
    assert log.recovery.damaged == []
    assert log.unsettled_count == 23
    log.settle(EPOCH, 1, 3)
    log.settle(EPOCH, 40, 61)
    log.write_cursor()
    assert (log.unsettled_count, log.used_bytes, segment_count(disk)) == (0, 0, 0)
    assert log.settled_ranges() == {EPOCH: Ranges([(1, 61)])} or log.settled_ranges() == {}


def test_drained_log_has_lost_nothing() -> None:
    """After everything was settled and removed, what comes next is not taken for the end of something lost."""
    disk = Disk()
    log = open_log(disk)
    following = fill(log, EPOCH, 1, 40, 1)
    log.settle(EPOCH, 1, following)
    log.write_cursor()
    fill(log, EPOCH, following, 2, 1)
    disk.kill()
    log = open_log(disk)
    assert (log.recovery.damaged, log.recovery.problems) == ([], [])
    assert [s for _, s in messages(log)][-2:] == [41, 42]


def test_cursor_that_is_too_long_forgets_the_highest() -> None:
    """64 KiB of ranges: what is above is sent again, and no segment is removed that nobody will know to be settled."""
    disk = Disk()
    log = open_log(disk, segment_bytes=1 << 16)
    count = 30_000
    for first in range(1, count, 1_000):
        append(log, EPOCH, first, 1_000)
    for sequence in range(1, count, 2):
        log.settle(EPOCH, sequence, sequence + 1)
    log.settle(EPOCH, count - 2_000, count + 1)
    log.write_cursor()
    before = segment_count(disk)
    disk.kill()
    log = open_log(disk, segment_bytes=1 << 16)
    kept = log.recovery.settled[EPOCH]
    assert 0 < len(kept) < count // 2
    assert list(kept) == [(n, n + 1) for n in range(1, 2 * len(kept), 2)]
    assert log.recovery.damaged == []
    assert numbers(log.recovery.extents) == {(EPOCH, n) for n in range(1, count + 1)}
    assert segment_count(disk) == before
    assert max(len(f.content) for p, f in disk.files.items() if "cursor" in p) < RANGES_BYTES_MAX + 2_000


def test_cursor_names_only_what_was_durable() -> None:
    """What nobody was told of is not reported as lost."""
    disk = Disk()
    log = open_log(disk, fsync=True)
    append(log, EPOCH, 1)
    log.sync()
    append(log, EPOCH, 2)
    log.write_cursor()
    disk.sync_folder(log.folder)
    for seed in range(20):
        log = open_log(disk.lose_power(Random(seed)), random_bits=9)
        assert log.recovery.damaged == []


def test_settling_what_is_not_synced() -> None:
    """A segment stays while something in it is not durable, even if all of it is settled."""
    disk = Disk()
    log = open_log(disk, fsync=True)
    fill(log, EPOCH, 1, 30, 1)
    log.settle(EPOCH, 1, 31)
    log.write_cursor()
    disk.broken["sync"] = 5
    with pytest.raises(SpoolError):
        log.sync()
    log.check()
    disk.broken.clear()
    log.sync()
    log.check()
    log.write_cursor()
    assert log.unsettled_count == 0


def test_dead_letters_may_come_in_any_order() -> None:
    """Their log has holes and old epochs, which are no damage."""
    disk = Disk()
    spool = open_spool(disk)
    dead = spool.dead(QUEUE, unix_ms=1)
    wanted = [(EPOCH, 9), (EPOCH, 4), (3, 77), (EPOCH, 200), (3, 5)]
    for epoch, sequence in wanted:
        append(dead, epoch, sequence)
    dead.settle(EPOCH, 9, 10)
    dead.write_cursor()
    append(dead, 3, 1)
    disk.kill()
    spool = open_spool(disk, random_bits=8)
    dead = spool.dead(QUEUE, unix_ms=1)
    assert (dead.recovery.damaged, dead.recovery.problems, dead.recovery.torn) == ([], [], [])
    assert messages(dead) == [*wanted, (3, 1)]
    assert dead.unsettled_count == 5
    dead.check()


# Compaction


def sparse(disk: Disk, *, extras: bytes = b"") -> tuple[Log, list[tuple[int, int]]]:
    """A log of which one message in forty is left, in every segment."""
    log = open_log(disk, segment_bytes=4096, fsync=True)
    for first in range(1, 1600, 8):
        append(log, EPOCH, first, 8, extras=extras)
    log.sync()
    left = [(EPOCH, sequence) for sequence in range(20, 1601, 40)]
    for sequence in range(1, 1601):
        if (EPOCH, sequence) not in left:
            log.settle(EPOCH, sequence, sequence + 1)
    log.write_cursor()
    return log, left


def test_compaction_keeps_order_and_numbers() -> None:
    """What is left of neighbours goes to one segment; it is read in the old order, before what came later."""
    disk = Disk()
    log, left = sparse(disk)
    before, used = segment_count(disk), log.used_bytes
    assert log.compact() > used // 2
    assert segment_count(disk) < before // 2
    log.check()
    found = messages(log)
    assert [m for m in found if m in left] == left
    assert len(found) < 200
    disk.kill()
    log = open_log(disk, segment_bytes=4096)
    assert messages(log) == found
    assert (log.recovery.damaged, log.recovery.problems) == ([], [])
    assert log.unsettled_count == len(left)


def test_compaction_does_not_cut_what_has_extras() -> None:
    """Their meaning is unknown, so such a record stays whole."""
    log, left = sparse(Disk(), extras=b"per message")
    log.compact()
    assert all(record.count == 8 and record.extras == b"per message" for record in records(log))
    assert log.unsettled_count == len(left)


def test_compaction_waits() -> None:
    """For the cursor, and for readers that are in those segments."""
    disk = Disk()
    log, _ = sparse(disk)
    reader = log.reader()
    first = reader.read(1)
    log.settle(EPOCH, 20, 21)
    assert log.compact() == 0
    log.write_cursor()
    log.compact()
    found = first + [record for some in iter(lambda: reader.read(500), []) for record in some]
    sequences = [record.first for record in found]
    assert sequences == sorted(set(sequences))
    assert {s for r in found for s in range(r.first, r.stop)} >= set(range(60, 1601, 40))


def test_compaction_does_not_reach_over_a_reader() -> None:
    """Where a segment was that it has read and that is removed, what lies before and behind it stays apart."""
    disk = Disk()
    log = open_log(disk, segment_bytes=4096)
    for first in (1, 101, 201, 301):
        append(log, EPOCH, first, 20, size=160)
        append(log, EPOCH, first + 20)
    reader = log.reader()
    read: list[int] = []
    while 121 not in read:
        read += [record.first for record in reader.read(1)]
    for start, stop in ((1, 21), (101, 122), (201, 221)):
        log.settle(EPOCH, start, stop)
    log.write_cursor()
    for _ in range(3):
        log.compact()
    log.check()
    assert segment_count(disk) == 3
    assert [record.first for record in reader.read(1 << 20)] == [221, 301, 321]
    assert [record.first for record in records(log)] == [21, 221, 301, 321]


def test_what_cannot_be_cut_is_left_alone() -> None:
    """A batch with extras is not written anew each time, but goes with the first that frees something."""
    disk = Disk()
    log = open_log(disk, segment_bytes=4096)
    append(log, EPOCH, 1, 10, extras=b"per message")
    append(log, EPOCH, 11, 10, extras=b"per message")
    append(log, EPOCH, 21, size=4096)
    log.settle(EPOCH, 1, 10)
    log.settle(EPOCH, 12, 21)
    log.write_cursor()
    log.compact()
    before = disk.operations
    assert (log.compact(), disk.operations) == (0, before)
    log.settle(EPOCH, 10, 11)
    log.write_cursor()
    assert log.compact() > 0
    assert [record.first for record in records(log)] == [11, 21]


def test_what_is_compact_is_left_alone() -> None:
    """One message in a segment of its own is not written anew each time."""
    disk = Disk()
    log = open_log(disk, segment_bytes=4096)
    append(log, EPOCH, 1)
    append(log, EPOCH, 2, size=4096)
    log.write_cursor()
    before = disk.operations
    assert (log.compact(), disk.operations) == (0, before)


def test_compaction_interrupted_anywhere() -> None:
    """Killed or refused at any operation, and with power lost: every message once, in order."""
    disk = Disk()
    sparse(disk)
    start = disk.operations
    log, left = sparse(disk2 := Disk())
    log.compact()
    for number in range(start + 1, disk2.operations + 1):
        disk = Disk()
        log, left = sparse(disk)
        disk.faults[number] = 5
        try:
            log.compact()
        except SpoolError:
            pass
        disk.faults.clear()
        log.check()
        for after in (disk.lose_power(Random(number)), disk):
            after.kill()
            again = open_log(after, random_bits=9, segment_bytes=4096)
            found = messages(again)
            assert found == sorted(set(found))
            assert set(left) <= set(found)
            again.check()


# Memory


def test_memory_is_in_proportion_to_segments() -> None:
    """A million messages in records of one thousand: what is kept of them are a few extents."""
    disk = Disk()
    log = open_log(disk, segment_bytes=1 << 20)
    body, codec = batch(EPOCH, 1, 1_000)
    for first in range(1, 1_000_001, 1_000):
        log.append(EPOCH, first, 1_000, codec, body, unix_ms=1)
    for _ in range(2):
        segments = log._contents.segments
        assert 5 < len(segments) < 30
        assert len(log._contents.index) == len(segments)
        assert all(len(segment.extents) == 1 and not segment.skip for segment in segments)
        assert sum(map(sys.getsizeof, segments)) < 10_000
        assert log.unsettled_count == 1_000_000
        disk.kill()
        log = open_log(disk, segment_bytes=1 << 20, random_bits=9)
    assert log.recovery.extents == [(EPOCH, 1, 1_000_001)]


def test_wrong_calls() -> None:
    """An epoch of an earlier life is a mistake of the caller; a closed log says that it is closed."""
    disk = Disk()
    log = open_log(disk)
    with pytest.raises(ValueError, match="earlier life"):
        append(log, EPOCH - (1 << 20), 1)
    log.close()
    with pytest.raises(SpoolError, match="closed"):
        append(log, EPOCH, 1)
