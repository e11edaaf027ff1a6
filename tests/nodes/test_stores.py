"""What the store of a queue does with dead letters when the disk fails in between."""

from __future__ import annotations

from errno import EIO

import pytest

from peerfabric.envelope import MSGPACK
from peerfabric.errors import SpoolError
from peerfabric.nodes.stores import Store
from peerfabric.spool import Spool
from peerfabric.stats import DeadLetter
from tests.fabric.spool.disk import Disk
from tests.fabric.spool.helpers import QUEUE, open_spool


def opened(disk: Disk, *, fsync: bool = False) -> tuple[Spool, Store]:
    spool = open_spool(disk, fsync=fsync)
    return spool, Store(spool, QUEUE, fsync, 1)


def letter(store: Store, epoch: int, sequence: int) -> tuple[int, DeadLetter]:
    return sequence, DeadLetter(
        id=f"{store.stream(epoch)}/{sequence}",
        queue=QUEUE,
        reason="rejected",
        error="",
        attempts=1,
        strikes=0,
        data=b"\xa1x",
        codec=MSGPACK,
        sent_ms=0,
    )


def sequences(disk: Disk) -> list[int]:
    """What the next start finds."""
    disk.kill()
    return [int(found.id.rpartition("/")[2]) for found in opened(disk)[1].letters()]


def test_letters_of_which_only_some_were_stored() -> None:
    """Those are reported; the others come again, and none is there twice."""
    disk = Disk()
    spool, store = opened(disk)
    letters = [letter(store, spool.epoch, sequence) for sequence in (1, 2, 3)]
    disk.faults[disk.operations + 4] = EIO  # a new file, its header, the first letter, and this
    assert store.bury(letters, 1) == [1]
    assert store.bury(letters[1:], 1) == [2, 3]
    store._dead.check()
    assert sequences(disk) == [1, 2, 3]


def test_letters_whose_sync_failed() -> None:
    """They are asked for again, and not written again."""
    disk = Disk()
    spool, store = opened(disk, fsync=True)
    letters = [letter(store, spool.epoch, sequence) for sequence in (1, 2)]
    disk.broken["sync"] = EIO
    for _ in range(3):
        with pytest.raises(SpoolError):
            store.bury(letters, 1)
        store._dead.check()
    disk.broken.clear()
    assert store.bury(letters, 1) == [1, 2]
    store._dead.check()
    assert sequences(disk) == [1, 2]


def test_a_letter_that_is_dropped_before_it_is_stored() -> None:
    """It is not stored any more; its message is settled all the same."""
    disk = Disk()
    spool, store = opened(disk)
    letters = [letter(store, spool.epoch, sequence) for sequence in (1, 2)]
    store.unbury(letters[0][1].id)
    assert store.bury(letters, 1) == [1, 2]
    assert sequences(disk) == [2]
