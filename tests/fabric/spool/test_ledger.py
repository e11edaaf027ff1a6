"""What a consumer processed, on a disk that fails in every way a disk can."""

from __future__ import annotations

import os
import subprocess
import sys
from errno import EIO, ENOENT, ENOSPC
from pathlib import Path
from random import Random

import pytest
from crc32c import crc32c

from peerfabric.errors import (
    ConfigError,
    Corrupt,
    NewerFormat,
    SpoolError,
    SpoolFull,
    SpoolLocked,
    SpoolUnsafe,
)
from peerfabric.ranges import Ranges
from peerfabric.spool import ledger as module
from peerfabric.spool.files import RealFiles
from peerfabric.spool.ledger import Entry, Ledger
from tests.fabric.spool.disk import SHORT, Disk

FOLDER = "/data"
PATH = f"{FOLDER}/jobs.ledger"
A, B = "a:1:jobs", "b:2:jobs"


def disk_of(content: bytes | None = None, **options: int) -> Disk:
    """A disk with the folder, and perhaps with a file that is there already."""
    disk = Disk(**options)  # type: ignore[arg-type]
    disk.make_folder(FOLDER)
    if content is not None:
        descriptor = disk.open(PATH, create=True)
        disk.write(descriptor, 0, [content])
        disk.sync(descriptor)
        disk.close(descriptor)
    disk.sync_folder(FOLDER)
    disk.sync_folder("")
    return disk


def content(disk: Disk) -> bytes:
    return disk.files[PATH].content


def remembered(ledger: Ledger) -> dict[str, list[tuple[int, int]]]:
    ledger.check()
    return {stream: list(ranges) for stream, ranges in ledger.entries().items()}


def read(disk: Disk) -> dict[str, list[tuple[int, int]]]:
    """What the next life finds."""
    ledger = Ledger(disk, PATH, "jobs")
    found = remembered(ledger)
    ledger.close()
    return found


def some_bytes() -> bytes:
    """A file with four records."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    for stream, start, stop in ((A, 1, 2), (B, 7, 9), (A, 5, 6), (A, 2, 3)):
        ledger.add(stream, start, stop)
    ledger.close()
    return content(disk)


HEADER_BYTES = 16 + 1 + len("jobs")
RECORD_BYTES = 26 + len(A)


def test_what_is_added_is_there_in_the_next_life() -> None:
    """Whether it was closed in order or the process was killed."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    assert (remembered(ledger), ledger.problems) == ({}, [])
    ledger.add(A, 1, 2)
    ledger.add_all([Entry(A, 2, 10), Entry(B, 5, 6)])
    disk.kill()
    ledger = Ledger(disk, PATH, "jobs")
    assert (remembered(ledger), ledger.problems) == ({A: [(1, 10)], B: [(5, 6)]}, [])
    ledger.add(A, 10, 11)
    ledger.close()
    ledger.close()
    assert read(disk) == {A: [(1, 11)], B: [(5, 6)]}
    assert disk.open_count == 0


def test_the_bytes() -> None:
    """They are those of FORMAT.md."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    ledger.add(A, 1, 3)
    head = b"PFABLEDG" + b"\x01\x00" + b"\x15\x00"
    rest = b"\x04jobs"
    header = head + crc32c(rest, crc32c(head)).to_bytes(4, "little") + rest
    fields = (1).to_bytes(8, "little") + (3).to_bytes(8, "little") + b"\x08\x00" + b"a:1:jobs"
    record = b"\xe7PFL" + crc32c(fields).to_bytes(4, "little") + fields
    assert content(disk) == header + record
    assert disk.files[f"{PATH}.lock"].content == b"100\n"


def test_one_add_is_one_write() -> None:
    """And no sync, unless it is asked for."""
    disk = disk_of(some_bytes())
    ledger = Ledger(disk, PATH, "jobs")
    before = disk.operations
    ledger.add_all([Entry(A, 1, 2), Entry(B, 1, 2)])
    assert disk.trace[before:] == [("write", PATH)]
    ledger.close()
    synced = Ledger(disk, PATH, "jobs", fsync=True)
    before = disk.operations
    synced.add(A, 2, 3)
    assert disk.trace[before:] == [("write", PATH), ("sync", PATH)]


def test_forgetting_changes_the_memory_only() -> None:
    """The file has it until it is compacted; nothing that was not forgotten is ever missing."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    ledger.add(A, 1, 10)
    ledger.add(B, 1, 10)
    ledger.forget(A, 3, 5)
    ledger.forget(B, 0, 20)
    ledger.forget("c:1:jobs", 1, 2)
    assert remembered(ledger) == {A: [(1, 3), (5, 10)]}
    ledger.close()
    assert read(disk) == {A: [(1, 10)], B: [(1, 10)]}


@pytest.mark.parametrize("entry", [(A, 0, 1), (A, 2, 2), (A, 1, 2**53 + 1), ("", 1, 2), ("x" * 2049, 1, 2)])
def test_what_is_no_range_is_not_written(entry: tuple[str, int, int]) -> None:
    """It would not be read again."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    before = content(disk)
    with pytest.raises(ValueError, match="is not a range"):
        ledger.add_all([Entry(A, 1, 2), Entry(*entry)])
    assert (content(disk), remembered(ledger)) == (before, {})


# Damage


def test_torn_at_every_byte() -> None:
    """Whole records before the cut are there, nothing else is, and the next one goes behind them."""
    whole = some_bytes()
    entries = [(A, 1), (B, 7), (B, 8), (A, 5), (A, 2)]
    for size in range(len(whole)):
        disk = disk_of(whole[:size])
        ledger = Ledger(disk, PATH, "jobs")
        records = max(0, size - HEADER_BYTES) // RECORD_BYTES
        kept = entries[: records + (records >= 2)]
        found = {(s, n) for s, ranges in remembered(ledger).items() for a, b in ranges for n in range(a, b)}
        assert found == set(kept), size
        clean = size == 0 or (size >= HEADER_BYTES and (size - HEADER_BYTES) % RECORD_BYTES == 0)
        assert bool(ledger.problems) == (not clean), size
        ledger.add(A, 100, 101)
        disk.kill()
        ledger = Ledger(disk, PATH, "jobs")
        assert ledger.problems == []
        assert 100 in ledger.entries()[A]
        ledger.close()


def test_every_bit_flipped() -> None:
    """At most one record is lost, none is made up, and it is reported; or the file is refused and left as it is."""
    whole = some_bytes()
    truth = {(A, 1), (A, 2), (A, 5), (B, 7), (B, 8)}
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        disk = disk_of(bytes(flipped))
        if bit < 64:
            with pytest.raises(Corrupt, match=r"this is no ledger.*set it aside"):
                Ledger(disk, PATH, "jobs")
            assert content(disk) == bytes(flipped)
            continue
        ledger = Ledger(disk, PATH, "jobs")
        found = {(s, n) for s, ranges in remembered(ledger).items() for a, b in ranges for n in range(a, b)}
        assert found <= truth, bit
        assert len(truth - found) <= (0 if bit < HEADER_BYTES * 8 else 2), bit
        assert len(ledger.problems) == 1, bit
        assert "may run once more" in ledger.problems[0]
        ledger.close()
        ledger = Ledger(disk, PATH, "jobs")
        assert ledger.problems == []  # it was written anew, so nobody is told twice
        ledger.close()


def test_garbage_between_records_is_passed_over() -> None:
    """However long it is, and whatever of ours it looks like."""
    whole = some_bytes()
    edge = HEADER_BYTES + RECORD_BYTES
    for garbage in (
        b"\xe7PF",
        b"\xe7PFL" * 3,
        b"\0" * 5000,
        Random(1).randbytes(600_000),
        whole[HEADER_BYTES:edge][:-1],
    ):
        disk = disk_of(whole[:edge] + garbage + whole[edge:])
        ledger = Ledger(disk, PATH, "jobs")
        assert remembered(ledger) == {A: [(1, 3), (5, 6)], B: [(7, 9)]}
        assert len(ledger.problems) == 1
        ledger.close()


def test_a_file_larger_than_what_is_read_at_once() -> None:
    """Records lie over the edges of what is read."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    ledger.add_all(Entry(A, n, n + 1) for n in range(1, 40_000, 2))
    ledger.close()
    assert len(content(disk)) > 2 * module._CHUNK
    ledger = Ledger(disk, PATH, "jobs")
    assert ledger.entries() == {A: Ranges((n, n + 1) for n in range(1, 40_000, 2))}
    assert ledger.problems == []


def test_problems_are_limited() -> None:
    """A file full of damage is no reason for a list without an end."""
    record = some_bytes()[HEADER_BYTES : HEADER_BYTES + RECORD_BYTES]
    disk = disk_of(some_bytes()[:HEADER_BYTES] + (b"?" + record) * 1000)
    ledger = Ledger(disk, PATH, "jobs")
    assert len(ledger.problems) == module.PROBLEMS_MAX
    assert remembered(ledger) == {A: [(1, 2)]}


def test_something_else_is_left_alone() -> None:
    """A wrong path costs nobody their file."""
    disk = disk_of(b"SQLite format 3\0" + bytes(4096))
    with pytest.raises(Corrupt, match="this is no ledger"):
        Ledger(disk, PATH, "jobs")
    assert content(disk) == b"SQLite format 3\0" + bytes(4096)
    assert disk.open_count == 0


def test_a_later_version_is_left_alone() -> None:
    """Whatever it may hold."""
    head = b"PFABLEDG" + b"\x02\x00" + b"\x18\x00"
    rest = b"12345678"
    newer = head + crc32c(rest, crc32c(head)).to_bytes(4, "little") + rest + b"more"
    disk = disk_of(newer)
    disk.open(f"{PATH}.tmp", create=True)  # that version is making it anew, or did not come to the end of that
    there = set(disk.files)
    with pytest.raises(NewerFormat, match="upgrade peerfabric") as raised:
        Ledger(disk, PATH, "jobs")
    assert (raised.value.version, content(disk), disk.open_count) == (2, newer, 1)
    assert set(disk.files) == {*there, f"{PATH}.lock"}


def test_each_queue_has_its_own() -> None:
    """What one consumer processed says nothing about another."""
    disk = disk_of(some_bytes())
    with pytest.raises(ConfigError, match=r"the ledger of queue 'jobs', not of 'mail'; give each queue"):
        Ledger(disk, PATH, "mail")
    whoever = Ledger(disk, PATH)
    assert whoever.queue == "jobs"


# Owners


def test_two_owners() -> None:
    """The second is told who has it; nothing is changed, and after the first it may."""
    disk = disk_of()
    first = Ledger(disk, PATH, "jobs")
    first.add(A, 1, 2)
    with pytest.raises(SpoolLocked, match=r"process 100 uses this ledger; stop it, or give each consumer") as raised:
        Ledger(disk, PATH, "jobs")
    assert (raised.value.pid, raised.value.path) == (100, PATH)
    first.add(A, 2, 3)
    first.close()
    assert read(disk) == {A: [(1, 3)]}


def test_a_closed_ledger_takes_nothing() -> None:
    """It may belong to somebody else by now."""
    ledger = Ledger(disk_of(), PATH, "jobs")
    ledger.close()
    with pytest.raises(SpoolError, match="closed"):
        ledger.add(A, 1, 2)
    assert not ledger.compact()


def test_a_folder_that_is_missing_or_not_ours() -> None:
    """It is not made: a wrong path would be a ledger that remembers nothing."""
    with pytest.raises(SpoolError, match=r"/data/jobs\.ledger: its folder does not exist; make the folder") as raised:
        Ledger(Disk(), PATH, "jobs")
    assert raised.value.errno == ENOENT
    disk = disk_of()
    disk.unsafe[FOLDER] = SpoolUnsafe(FOLDER, "can be written by others (mode 777)")
    with pytest.raises(SpoolUnsafe, match="chmod 700"):
        Ledger(disk, PATH, "jobs")


# Faults


def test_full_disk() -> None:
    """An entry that does not fit is neither there nor remembered, and the next one may fit."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    ledger.add(A, 1, 2)
    used = sum(len(file.content) for file in disk.files.values())
    for room in range(RECORD_BYTES):
        disk.space = used + room
        with pytest.raises(SpoolFull, match=r"no space on the disk; free some space; what was not acked") as raised:
            ledger.add(A, 9, 10)
        assert raised.value.errno == ENOSPC
        assert remembered(ledger) == {A: [(1, 2)]}
        assert len(content(disk)) == HEADER_BYTES + RECORD_BYTES
    disk.space = None
    ledger.add(A, 3, 4)
    disk.kill()
    assert read(disk) == {A: [(1, 2), (3, 4)]}


def test_what_cannot_be_cut_off_is_written_over() -> None:
    """Half a record at the end does not keep the next one from being read."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    disk.faults = {disk.operations + 1: SHORT, disk.operations + 2: EIO, disk.operations + 3: EIO}
    with pytest.raises(SpoolError, match="look at the disk"):
        ledger.add(A, 1, 2)
    assert len(content(disk)) == HEADER_BYTES + RECORD_BYTES // 2
    ledger.add(B, 1, 2)
    disk.kill()
    assert read(disk) == {B: [(1, 2)]}


def test_a_short_write_goes_on() -> None:
    """The rest is written behind it."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs")
    disk.faults = {disk.operations + 1: SHORT}
    ledger.add(A, 1, 2)
    disk.kill()
    assert read(disk) == {A: [(1, 2)]}


def test_a_failed_sync_is_a_failed_entry() -> None:
    """It is taken out of the file again."""
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs", fsync=True)
    disk.broken["sync"] = EIO
    with pytest.raises(SpoolError):
        ledger.add(A, 1, 2)
    disk.broken.clear()
    disk.kill()
    assert read(disk) == {}


def test_opening_fails_at_every_operation() -> None:
    """Then it says so, holds nothing open, and the next try finds everything."""
    for damaged in (None, some_bytes()[:-3]):
        for at in range(1, 12):
            disk = disk_of(damaged)
            disk.faults = {disk.operations + at: EIO}
            try:
                ledger = Ledger(disk, PATH, "jobs")
            except SpoolError:
                assert disk.open_count == 0
            else:
                ledger.close()
            disk.faults = {}
            assert set(read(disk)) == (set() if damaged is None else {A, B}), at


# Power


@pytest.mark.parametrize("seed", range(200))
def test_after_a_loss_of_power(seed: int) -> None:
    """Nothing is made up; with fsync all that was added is there."""
    random = Random(seed)
    fsync = random.random() < 0.5
    disk = disk_of()
    ledger = Ledger(disk, PATH, "jobs", fsync=fsync)
    added = Ranges()
    for _ in range(random.randrange(20)):
        start = random.randrange(1, 100)
        ledger.add(A, start, start + 3)
        added.add(start, start + 3)
    found = Ranges(read(disk.lose_power(random)).get(A, []))
    assert not any(added.missing(a, b) for a, b in found)
    assert found == added or not fsync


# Compaction


def large(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger whose file is due, with one entry remembered."""
    monkeypatch.setattr(module, "COMPACT_BYTES", 1000)
    ledger = Ledger(disk, PATH, "jobs")
    for n in range(1, 100):
        ledger.add(A, n, n + 1)
    ledger.add(B, 1, 2)
    ledger.forget(A, 0, 90)
    return ledger


def test_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit, and four times as large as what is remembered, the file is written anew."""
    disk = disk_of()
    ledger = large(disk, monkeypatch)
    size = len(content(disk))
    assert ledger.compact()
    assert len(content(disk)) == ledger.size == HEADER_BYTES + 2 * RECORD_BYTES < size
    assert not ledger.compact()
    ledger.add(B, 2, 3)
    disk.kill()
    assert read(disk) == {A: [(90, 100)], B: [(1, 3)]}
    assert sorted(disk.files) == [PATH, f"{PATH}.lock"]


def test_what_is_remembered_is_not_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would become no smaller."""
    monkeypatch.setattr(module, "COMPACT_BYTES", 1000)
    ledger = Ledger(disk_of(), PATH, "jobs")
    for n in range(1, 200, 2):
        ledger.add(A, n, n + 1)
    assert not ledger.compact()
    ledger.forget(A, 0, 160)
    assert ledger.compact()


def test_a_crash_at_every_operation_of_a_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies there, or the power does: what is remembered is always in the file."""
    for power in (False, True):
        for at in range(1, 8):
            disk = disk_of()
            ledger = large(disk, monkeypatch)
            ledger._files.sync(ledger._descriptor)
            disk.faults = {disk.operations + n: EIO for n in range(at, 50)}
            try:
                ledger.compact()
            except SpoolError:
                pass
            disk.kill()
            disk.faults = {}
            found = read(disk.lose_power(Random(at)) if power else disk)
            assert not Ranges(found[A]).missing(90, 100), at
            assert found[B] == [(1, 2)], at


def test_a_compaction_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file goes on, and nothing is left open or lying about."""
    for kind in ("create", "write", "sync", "rename"):
        disk = disk_of()
        ledger = large(disk, monkeypatch)
        open_before = disk.open_count
        disk.broken[kind] = ENOSPC
        with pytest.raises(SpoolFull):
            ledger.compact()
        disk.broken.clear()
        assert (disk.open_count, sorted(disk.files)) == (open_before, [PATH, f"{PATH}.lock"])
        ledger.add(B, 2, 3)
        assert ledger.compact()
        disk.kill()
        assert read(disk) == {A: [(90, 100)], B: [(1, 3)]}


def test_a_large_file_is_compacted_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that is killed again and again never gets to it otherwise."""
    disk = disk_of()
    large(disk, monkeypatch)
    disk.kill()
    ledger = Ledger(disk, PATH, "jobs")
    assert remembered(ledger) == {A: [(1, 100)], B: [(1, 2)]}
    assert ledger.size == HEADER_BYTES + 2 * RECORD_BYTES


# A real disk


def test_on_a_real_disk(tmp_path: Path) -> None:
    """Modes, the lock over processes, links, and that a child does not inherit it."""
    tmp_path.chmod(0o700)
    path = str(tmp_path / "jobs.ledger")
    files = RealFiles()
    ledger = Ledger(files, path, "jobs")
    ledger.add(A, 1, 5)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(ledger._descriptor)
    code = f"""
from peerfabric.errors import SpoolLocked
from peerfabric.spool.files import RealFiles
from peerfabric.spool.ledger import Ledger
try:
    Ledger(RealFiles(), {path!r}, "jobs")
except SpoolLocked as error:
    print(error.pid)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{os.getpid()}\n"
    ledger.close()
    ledger = Ledger(files, path, "jobs")
    assert ledger.entries() == {A: Ranges([(1, 5)])}
    ledger.close()

    link = tmp_path / "link.ledger"
    link.symlink_to(path)
    with pytest.raises(SpoolUnsafe, match="symbolic link"):
        Ledger(files, str(link), "jobs")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SpoolError, match=r"is a folder.*; give a file in it, such as .*/folder/jobs\.ledger$"):
        Ledger(files, str(tmp_path / "folder"), "jobs")
    tmp_path.chmod(0o777)
    with pytest.raises(SpoolUnsafe, match="written by others"):
        Ledger(files, path, "jobs")
    tmp_path.chmod(0o700)
