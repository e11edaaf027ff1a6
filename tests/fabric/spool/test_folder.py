"""Spools and ledgers that somebody removes, moves or replaces while they are open."""

from __future__ import annotations

from collections.abc import Callable
from errno import EACCES, ENOENT

import pytest

from peerfabric.errors import SpoolError
from peerfabric.spool import Log
from peerfabric.spool.ledger import Ledger
from tests.fabric.spool.disk import Disk
from tests.fabric.spool.helpers import FOLDER, QUEUE, append, fill, messages, open_spool

EPOCH = 1 << 20 | 7
DELETED = "this spool was deleted while in use; what is still in memory is delivered, all else is lost"
MOVED = "moved or replaced while in use, or its lock was removed; close this node, put back what it had"

CHANGES: list[Callable[[Log], object]] = [
    lambda log: append(log, EPOCH, 9),
    lambda log: log.append_many([(9, 1, 0, b"body", b"")], EPOCH, unix_ms=9),
    lambda log: log.write_cursor(),
    lambda log: log.close(),
]


def gone(disk: Disk) -> None:
    disk.take_away(FOLDER, delete=True)


def moved(disk: Disk) -> None:
    disk.take_away(FOLDER, delete=False)


def replaced(disk: Disk) -> None:
    """Somebody else makes a spool where ours was."""
    disk.take_away(FOLDER, delete=False)
    append(open_spool(disk, node_id="other").queue(QUEUE, unix_ms=1), EPOCH, 1)


def unlocked(disk: Disk) -> None:
    """A cleaner of files that nobody has written to for long."""
    disk.take_away(f"{FOLDER}/lock", delete=True)


@pytest.mark.parametrize("fsync", [False, True], ids=["page-cache", "fsync"])
@pytest.mark.parametrize("change", CHANGES, ids=["append", "append many", "cursor", "close"])
@pytest.mark.parametrize(
    ("how", "said"),
    [(gone, DELETED), (moved, MOVED), (replaced, MOVED), (unlocked, MOVED)],
    ids=["gone", "moved", "replaced", "unlocked"],
)
def test_a_folder_that_was_taken_away(
    how: Callable[[Disk], None], said: str, change: Callable[[Log], object], fsync: bool
) -> None:
    """Every change is refused with what happened and what to do, and what is there now is left as it is."""
    disk = Disk()
    spool = open_spool(disk, fsync=fsync, spare=True)
    log = spool.queue(QUEUE, unix_ms=1)
    fill(log, EPOCH, 1, 2)
    log.sync()
    log.settle(EPOCH, 1, 2)
    how(disk)
    before = {path: file.content for path, file in disk.files.items()}, set(disk.folders)
    acts: list[Callable[[], object]] = [lambda: change(log), lambda: spool.queue("more", unix_ms=1), spool.close]
    for act in acts:
        with pytest.raises(SpoolError) as refused:
            act()
        assert said in str(refused.value)
        assert (refused.value.path, refused.value.errno) == (FOLDER, ENOENT)
    assert ({path: file.content for path, file in disk.files.items()}, set(disk.folders)) == before


def test_a_folder_that_cannot_be_looked_at() -> None:
    """Nothing is stored meanwhile, and it goes on when that is over."""
    disk = Disk()
    spool = open_spool(disk)
    log = spool.queue(QUEUE, unix_ms=1)
    append(log, EPOCH, 1)
    disk.out_of_reach.add(f"{FOLDER}/lock")
    with pytest.raises(SpoolError, match="out of reach") as refused:
        append(log, EPOCH, 2)
    assert refused.value.errno == EACCES
    assert not spool.hold.is_deleted()
    disk.out_of_reach.clear()
    append(log, EPOCH, 3)
    assert messages(log) == [(EPOCH, 1), (EPOCH, 3)]
    spool.close()
    assert disk.open_count == 0


def test_a_segment_that_was_removed() -> None:
    """The append that would go there is refused; what was in it is told of once, and the log goes on without it."""
    disk = Disk()
    spool = open_spool(disk)
    log = spool.queue(QUEUE, unix_ms=1)
    following = fill(log, EPOCH, 1, 24, count=2, size=40)
    first, *_, last = [path for path in disk.files if path.endswith(".seg")]
    there = {sequence for _, sequence in messages(log, 40)}
    assert log.take_missing() == []
    for path in (first, last):
        disk.take_away(path, delete=True)
    with pytest.raises(SpoolError, match=f"{last}: was removed, moved or replaced while in use; what is in it is lost"):
        append(log, EPOCH, following)
    missing = {n for _, start, stop in log.take_missing() for n in range(start, stop)}
    assert log.take_missing() == []
    log.check()
    assert {sequence for _, sequence in messages(log, 40)} == there - missing
    assert missing
    assert missing < there
    append(log, EPOCH, following, size=40)
    assert messages(log, 40)[-1] == (EPOCH, following)
    spool.close()
    assert disk.open_count == 0


@pytest.mark.parametrize("delete", [True, False], ids=["deleted", "moved"])
@pytest.mark.parametrize("name", ["/books", "/books/jobs", "/books/jobs.lock"])
def test_a_ledger_that_was_taken_away(name: str, delete: bool) -> None:
    """It says so, whatever of it is missing, and is not made anew, where somebody else may have one by now."""
    disk = Disk()
    disk.make_folder("/books")
    ledger = Ledger(disk, "/books/jobs", "jobs")
    ledger.add("n:1:jobs", 1, 2)
    ledger.check_place()
    disk.take_away(name, delete=delete)
    with pytest.raises(SpoolError, match="was removed, moved or replaced while in use; nothing is acked any more"):
        ledger.check_place()
    ledger.close()
    assert name not in {*disk.files, *disk.folders}
