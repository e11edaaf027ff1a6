"""What the store of a queue does with dead letters when the disk fails in between."""

from __future__ import annotations

import threading
from errno import EIO

import msgspec
import pytest

from peerfabric.errors import SpoolError, SpoolFull
from peerfabric.nodes.storage.store import Loaded, Store
from peerfabric.options import MiB
from peerfabric.reports import DeadLetter
from peerfabric.spool import Spool
from peerfabric.spool import log as log_module
from peerfabric.wire.frames import MSGPACK, RAW, Extra
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
        deaths=0,
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
    spool.dead(QUEUE, unix_ms=1)  # it is there
    disk.faults[disk.operations + 4] = EIO  # a new file, its header, the first letter, and this
    assert store.store_dead_letters(letters, 1) == [1]
    assert store.store_dead_letters(letters[1:], 1) == [2, 3]
    store.check()
    assert sequences(disk) == [1, 2, 3]


def test_a_queue_without_dead_letters_has_no_log_of_them() -> None:
    """It is made with the first one, and found by the next life."""
    disk = Disk()
    spool, store = opened(disk)
    assert not any("dead" in path for path in (*disk.files, *disk.folders))
    store.drop_dead_letters(letter(store, spool.epoch, 2)[1].id)  # dropped before it was stored
    store.store_dead_letters([letter(store, spool.epoch, sequence) for sequence in (1, 2)], 1)
    assert sequences(disk) == [1]


def test_the_first_dead_letter_on_a_full_disk() -> None:
    """Its log is made with space of the spare, which is its segment then."""
    disk = Disk(space=3 * MiB)
    spool = open_spool(disk, spare=True, segment_bytes=MiB)
    store = Store(spool, QUEUE, False, 1)
    store.append(1, [b"x" * 100], None, RAW, 1)
    disk.space = sum(len(file.content) for file in disk.files.values())
    with pytest.raises(SpoolFull):
        store.append(2, [b"x" * 100], None, RAW, 1)
    assert store.store_dead_letters([letter(store, spool.epoch, sequence) for sequence in (1, 2)], 1) == [1, 2]
    store.drop_dead_letters(letter(store, spool.epoch, 1)[1].id)
    store.check()
    disk.space = None
    assert sequences(disk) == [2]


def test_letters_that_this_version_cannot_read(caplog: pytest.LogCaptureFixture) -> None:
    """They are told of, and the others are there."""
    disk = Disk()
    spool, store = opened(disk)
    spool.dead(QUEUE, unix_ms=1).append(spool.epoch, 1, 1, MSGPACK, b"\x91\xa1x", b"of a later version", unix_ms=1)
    store.store_dead_letters([letter(store, spool.epoch, 2)], 1)
    disk.kill()
    assert sequences(disk) == [2]
    assert "1 dead letter cannot be read by this version: left there" in caplog.text


def test_letters_whose_sync_failed() -> None:
    """They are asked for again, and not written again."""
    disk = Disk()
    spool, store = opened(disk, fsync=True)
    letters = [letter(store, spool.epoch, sequence) for sequence in (1, 2)]
    disk.broken["sync"] = EIO
    for _ in range(3):
        with pytest.raises(SpoolError):
            store.store_dead_letters(letters, 1)
        store.check()
    disk.broken.clear()
    assert store.store_dead_letters(letters, 1) == [1, 2]
    store.check()
    assert sequences(disk) == [1, 2]


def test_a_letter_that_is_dropped_before_it_is_stored() -> None:
    """It is not stored any more; its message is settled all the same."""
    disk = Disk()
    spool, store = opened(disk)
    letters = [letter(store, spool.epoch, sequence) for sequence in (1, 2)]
    store.drop_dead_letters(letters[0][1].id)
    assert store.store_dead_letters(letters, 1) == [1, 2]
    assert sequences(disk) == [2]


def test_many_scattered_letters_are_dropped() -> None:
    """However many gaps there are between them, none comes back; one call writes one cursor."""
    disk = Disk()
    spool, store = opened(disk)
    letters = [letter(store, spool.epoch, sequence) for sequence in range(1, 12_001)]
    assert len(store.store_dead_letters(letters, 1)) == 12_000
    before = disk.operations
    store.drop_dead_letters(*(found.id for _, found in letters[::2]))
    written = [path for kind, path in disk.trace[before:] if kind == "write"]
    assert [path.rpartition("/")[2][:-1] for path in written if "/dead/cursor" in path] == ["cursor."]
    assert sequences(disk) == list(range(2, 12_001, 2))


def test_dead_letters_that_are_dropped_in_one_round() -> None:
    """Whoever gathers writes one cursor for all of them; other threads do not wait for that."""
    disk = Disk()
    spool, store = opened(disk)
    letters = [letter(store, spool.epoch, sequence) for sequence in range(1, 10)]
    store.store_dead_letters(letters, 1)
    before = disk.operations
    with store.gather():
        for _, found in letters[:3]:
            store.drop_dead_letters(found.id)
        assert disk.operations == before
        other = threading.Thread(target=store.drop_dead_letters, args=(letters[5][1].id,))
        other.start()
        other.join()
        between = disk.operations
        assert between > before
    store.drop_dead_letters(letters[6][1].id)
    assert sequences(disk) == [4, 5, 8, 9]


def test_more_gaps_than_any_cursor_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever drops them is told that they may come back."""
    monkeypatch.setattr(log_module, "LETTER_RANGES_BYTES_MAX", 9 * 10)
    disk = Disk()
    spool, store = opened(disk)
    letters = [letter(store, spool.epoch, sequence) for sequence in range(1, 40)]
    store.store_dead_letters(letters, 1)
    with pytest.raises(SpoolError, match="too many dead letters"):
        store.drop_dead_letters(*(found.id for _, found in letters[::3]))


# Messages that expire


def test_the_extras_of_a_record_whose_messages_expire() -> None:
    """Golden bytes: the first entry says when, after its headers and what it was; others have what they had."""
    disk = Disk()
    spool, store = opened(disk)
    headers = {0: Extra(0, {"k": "v"}), 1: Extra(1, {"k": "w"})}
    store.append(1, [b"a", b"b"], None, RAW, 1000, 60_000)
    store.append(3, [b"a", b"b"], headers, RAW, 1000, 60_000)
    store.append(5, [b"a"], {0: headers[0]}, RAW, 1000)
    store.append_one(6, b"a", headers[0], RAW, 1000, 60_000)
    records = spool.queue(QUEUE, unix_ms=1).reader().read(MiB)
    assert [record.extras for record in records] == [
        bytes.fromhex("91 94 00 c0 c0 cd ea 60"),
        bytes.fromhex("92 94 00 81 a1 6b a1 76 c0 cd ea 60 93 01 81 a1 6b a1 77 c0"),
        bytes.fromhex("91 93 00 81 a1 6b a1 76 c0"),
        bytes.fromhex("91 94 00 81 a1 6b a1 76 c0 cd ea 60"),
    ]
    loaded = [store._loaded(record) for record in records]
    assert [(item.extras, item.expires_ms) for item in loaded] == [
        ({}, 60_000),
        (headers, 60_000),
        ({0: headers[0]}, 0),
        ({0: headers[0]}, 60_000),
    ]
    # A reader that knows of no expiry skips it.
    assert msgspec.msgpack.decode(records[0].extras, type=list[Extra]) == [Extra(0)]


@pytest.mark.parametrize(
    ("expires_ms", "unix_ms", "expires"),
    [(0, 5_000, None), (9_000, 5_000, 104.0), (9_000, 9_500, 99.5), (9_000, 0, 108.0), (9_000, 5_000.75, 103.99925)],
)
def test_when_what_was_read_expires(expires_ms: int, unix_ms: float, expires: float | None) -> None:
    """What the wall clock says, and at most the time that it had when it was sent: a clock may be set back."""
    item = Loaded("s", 1, 1, [], 1_000, {}, expires_ms)
    assert item.expires_at(100.0, unix_ms) == expires
