"""A disk filled to the last byte: nothing is lost, spools open, drain and close on it, and new ones leave nothing."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from errno import EDQUOT, EIO, ENOSPC

import pytest

from peerfabric.errors import SpoolError, SpoolFull
from peerfabric.spool import Log, budget
from tests.fabric.spool.disk import Disk, File
from tests.fabric.spool.helpers import FOLDER, QUEUE, append, messages, open_spool

SEGMENT = 40_000
SPACE = 500_000
SPARE = f"{FOLDER}/spare"


def stuff(disk: Disk) -> None:
    """Somebody takes every byte that is left."""
    assert disk.space is not None
    others = sum(len(file.content) for path, file in disk.files.items() if path != "/ballast")
    content = bytes(disk.space - others)
    disk.files["/ballast"] = File(content, [content])


def filled(disk: Disk, *, fsync: bool, dead: int = 0) -> int:
    """A first life fills the disk with messages and is killed; the next sequence."""
    spool = open_spool(disk, spare=True, segment_bytes=SEGMENT, fsync=fsync)
    log, letters = spool.queue(QUEUE, unix_ms=1), spool.dead(QUEUE, unix_ms=1)
    following = until_full(log, spool.epoch, 1)
    for sequence in range(1, dead + 1):
        append(letters, spool.epoch, sequence, size=1000)
    if fsync:
        log.sync()
    disk.kill()
    stuff(disk)
    return following


def until_full(log: Log, epoch: int, first: int) -> int:
    while True:
        try:
            append(log, epoch, first, size=1000)
        except SpoolFull:
            return first
        first += 1


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("dead", [0, 3], ids=["spare", "spare-is-used"])
def test_a_backlog_is_drained(fsync: bool, dead: int) -> None:
    """On the full disk lives begin, find all of it and end in order, until acks bring the space back."""
    disk = Disk(space=SPACE)
    following = filled(disk, fsync=fsync, dead=dead)
    assert (SPARE in disk.files) == (not dead)
    for life in (8, 9):
        spool = open_spool(disk, spare=True, random_bits=life, segment_bytes=SEGMENT, fsync=fsync)
        log = spool.queue(QUEUE, unix_ms=1)
        assert log.recovery.problems == []
        assert [sequence for _, sequence in messages(log, 1000)] == list(range(1, following))
        assert len(messages(spool.dead(QUEUE, unix_ms=1), 1000)) == dead
        stuff(disk)  # the rest of a spare that became a segment of dead letters was cut off
        with pytest.raises(SpoolFull):
            append(log, spool.epoch, 1, size=SEGMENT // 2)
        log.settle(1 << 20 | 7, 1, life)
        log.write_cursor(b"m" * 2000)
        log.check()
        spool.close()
        stuff(disk)
    spool = open_spool(disk, spare=True, random_bits=10, segment_bytes=SEGMENT, fsync=fsync)
    log = spool.queue(QUEUE, unix_ms=1)
    assert log.unsettled_count == following - 9
    log.settle(1 << 20 | 7, 1, following)
    log.write_cursor()
    append(log, spool.epoch, 1, size=1000)
    spool.close()
    assert len(disk.files[SPARE].content) == SEGMENT
    assert disk.open_count == 0
    assert open_spool(disk, random_bits=11).queue(QUEUE, unix_ms=1).unsettled_count == 1


def test_a_start_without_a_spare_and_without_space() -> None:
    """The file `node` is written where it is; the counter of epochs goes on."""
    disk = Disk(space=SPACE)
    filled(disk, fsync=True, dead=1)
    stuff(disk)
    counters = []
    for life in (8, 9):
        spool = open_spool(disk, random_bits=life, segment_bytes=SEGMENT)
        counters.append(spool.epoch >> 20)
        assert spool.warnings == []
        spool.close()
        assert f"{FOLDER}/node.tmp" not in disk.files
    assert counters == [2, 3]


def test_a_queue_that_is_new_on_a_full_disk() -> None:
    """Its folders, and a cursor that can be written later, cost a part of the spare; what is sent is refused."""
    disk = Disk(space=1_000_000)
    spool = open_spool(disk, spare=True, segment_bytes=400_000)
    stuff(disk)
    log = spool.queue("new", unix_ms=1)
    assert log.recovery.problems == []
    stuff(disk)
    with pytest.raises(SpoolFull):
        append(log, spool.epoch, 1)
    log.settle(spool.epoch, 1, 2)
    log.write_cursor(b"m" * 1000)
    assert 0 < len(disk.files[SPARE].content) < 400_000


def test_a_cursor_that_found_no_space_has_some_at_a_later_start() -> None:
    """Cursors that could not be made as large as they should be are made so when there is space again."""
    disk = Disk()
    spool = open_spool(disk)
    disk.broken["allocate"] = ENOSPC
    assert len(spool.queue(QUEUE, unix_ms=1).recovery.problems) == 1
    disk.broken.clear()
    spool.close()
    assert open_spool(disk).queue(QUEUE, unix_ms=1).recovery.problems == []
    assert {len(disk.files[f"{FOLDER}/queues/{QUEUE}/cursor.{slot}"].content) for slot in (0, 1)} == {66_592}


def test_a_compaction_without_space_is_none() -> None:
    """It is for space, so it does not fail for lack of it; with the spare it works."""
    for spare, freed in ((False, False), (True, True)):
        disk = Disk(space=SPACE)
        spool = open_spool(disk, spare=spare, segment_bytes=SEGMENT)
        log = spool.queue(QUEUE, unix_ms=1)
        following = until_full(log, spool.epoch, 1)
        kept = range(1, following, following // 5)
        for first, stop in zip(kept, [*kept[1:], following], strict=True):
            log.settle(spool.epoch, first + 1, stop)
        stuff(disk)
        log.write_cursor()
        stuff(disk)
        assert (log.compact() > 0) is freed
        log.check()
        assert [sequence for _, sequence in messages(log, 1000) if sequence in kept] == list(kept)


@pytest.mark.parametrize("kind", ["make_folder", "create", "write"])
@pytest.mark.parametrize("number", [ENOSPC, EDQUOT, EIO])
@pytest.mark.parametrize("there", [False, True])
def test_a_new_spool_that_cannot_be_made_leaves_nothing(kind: str, number: int, there: bool) -> None:
    """Neither files nor folders, those above it included; what was there before stays."""
    disk = Disk()
    folder = "/var/deep/spool"
    if there:
        disk.make_folder(folder)
    before = dict(disk.folders)
    disk.broken[kind] = number
    if there and kind == "make_folder":
        return
    with pytest.raises(SpoolError) as refused:
        open_spool(disk, folder=folder)
    if number != EIO:
        assert isinstance(refused.value, SpoolFull)
        assert str(refused.value).endswith("free some space there, then start again")
    assert (disk.files, disk.folders, disk.open_count) == ({}, before, 0)
    disk.broken.clear()
    open_spool(disk, folder=folder).close()


def test_a_reader_keeps_no_space() -> None:
    """One that has come to the end of a segment has it open no longer than that is there."""
    disk = Disk()
    spool = open_spool(disk)
    log = spool.queue(QUEUE, unix_ms=1)
    append(log, spool.epoch, 1)
    reader = log.reader()
    assert [record.first for record in reader.read(1 << 20)] == [1]
    log.settle(spool.epoch, 1, 2)
    log.write_cursor()
    log._writer.seal()
    log.write_cursor()
    assert disk.open_count == 1  # the lock
    append(log, spool.epoch, 2)
    assert [record.first for record in reader.read(1 << 20)] == [2]


def test_what_a_full_disk_says() -> None:
    """A spool that cannot be closed in order says what that means."""
    disk = Disk()
    spool = open_spool(disk)
    log = spool.queue(QUEUE, unix_ms=1)
    append(log, spool.epoch, 1)
    log.settle(spool.epoch, 1, 2)
    disk.broken["write"] = ENOSPC
    with pytest.raises(SpoolFull, match=r"what is stored is safe.*free some space before the next start$"):
        spool.close()
    assert disk.open_count == 0


def test_the_limit_is_looked_at_closely_only_near_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from it an append does not ask what all the other logs have; it holds to the byte all the same."""
    asked = 0

    def counted(sizes: Iterable[int]) -> int:
        nonlocal asked
        asked += 1
        return sum(sizes)

    spool = open_spool(Disk(), limit_bytes=100_000)
    log = spool.queue(QUEUE, unix_ms=1)
    monkeypatch.setattr(budget, "sum", counted, raising=False)
    for following in range(1, 400):
        append(log, spool.epoch, following, 1, 80)
    assert asked < 5
    with suppress(SpoolFull):
        for following in range(400, 1_000):
            append(log, spool.epoch, following, 1, 80)
    assert 100_000 - 200 < spool.used_bytes <= 100_000
