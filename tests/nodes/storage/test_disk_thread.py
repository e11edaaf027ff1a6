"""Rounds of the disk's thread, over a disk that fails: what is read back, and what is said of what cannot be."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from contextlib import suppress
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from peerfabric.engine import Engine
from peerfabric.errors import SpoolError
from peerfabric.nodes.storage.disk_thread import RETRY_AFTER
from peerfabric.nodes.storage.disk_thread import Disk as DiskThread
from peerfabric.nodes.storage.store import Store
from peerfabric.options import Options
from peerfabric.queue.durable import DurableQueue
from peerfabric.queue.marks import Marks, News, State
from peerfabric.spool.cursor import Cursor, CursorFiles
from peerfabric.wire.frames import MSGPACK, RAW, Address
from tests.fabric.spool.disk import Disk
from tests.fabric.spool.helpers import QUEUE, open_log, open_spool
from tests.nodes.offline import Offline

if TYPE_CHECKING:
    from peerfabric.nodes.io.pump import Pump


def left_behind(count: int) -> Disk:
    """A disk on which a node has left messages 1 to `count`."""
    disk = Disk()
    node = Offline(disk)
    node.send(*(b"%d" % n for n in range(1, count + 1)))
    node.round()
    node.die()
    return disk


def segment(disk: Disk) -> str:
    return next(path for path in disk.files if path.endswith(".seg"))


def test_a_backlog_that_cannot_be_read_now(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of it counts as damaged; that is told once, tried again later, and then everything is there."""
    disk = left_behind(20)
    node = Offline(disk)
    disk.unreadable.add((segment(disk), 0))
    for _ in range(3):
        assert node.round() == RETRY_AFTER
        assert node.take() == {}
    assert node.round(0.0) is not None, "it is asked again before its time"
    account = node.end.account()
    assert (account.damaged, account.on_disk, account.closes) == (0, 20, True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "cannot be read at offset" in caplog.text
    disk.unreadable.clear()
    node.round()
    assert list(node.take().values()) == [b"%d" % n for n in range(1, 21)]
    assert node.end.account().damaged == 0


def test_what_is_damaged_while_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted, and told by number; what lies around it is sent."""
    disk = Disk()
    node = Offline(disk, memory_bytes=1)
    for n in range(1, 6):
        node.send(b"body %d" % n)
    node.round()
    [path] = [path for path in disk.files if path.endswith(".seg")]
    disk.files[path].content = disk.files[path].content.replace(b"body 3", b"bodi 3").replace(b"body 5", b"bodi 5")
    found: dict[tuple[str, int], bytes] = {}
    for _ in range(10):
        node.round()
        found |= node.take()
        node.ack()
    assert list(found.values()) == [b"body 1", b"body 2", b"body 4"]
    account = node.end.account()
    assert (account.damaged, account.acked, account.closes) == (2, 3, True)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    stream = node.end.stream
    assert [line.partition(": ")[2] for line in told] == [
        f"1 message on disk is damaged and lost: {stream}/{n}" for n in (3, 5)
    ]


def test_records_that_no_version_of_ours_can_decode(caplog: pytest.LogCaptureFixture) -> None:
    """They are damaged, and only they: what is stored behind them is not taken for the end."""
    disk = Disk()
    log = open_log(disk)
    epoch = 1 << 20 | 7
    wrong = msgspec.msgpack.encode({"not": "a batch"})
    log.append(epoch, 1, 1, MSGPACK, wrong, unix_ms=1)
    log.append(epoch, 2, 2, MSGPACK, wrong, unix_ms=1)
    log.append(epoch, 4, 1, MSGPACK, msgspec.msgpack.encode([b"good"]), unix_ms=1)
    log.append(epoch, 5, 1, MSGPACK, wrong, unix_ms=1)
    disk.kill()
    node = Offline(disk, memory_bytes=1)
    found: dict[tuple[str, int], bytes] = {}
    for _ in range(10):
        node.round()
        found |= node.take()
        node.ack()
    assert list(found.values()) == [b"good"]
    account = node.end.account()
    assert (account.damaged, account.acked, account.on_disk, account.closes) == (4, 1, 0, True)
    assert caplog.text.count("cannot be decoded") == 3
    assert node.round() is None


def scattered(count: int) -> list[State]:
    """More than a cursor has room for, and none of them a neighbour of another."""
    return [(2 * n, 2 * n + 1, 2, 0) for n in range(1, count)]


def test_more_marks_than_a_cursor_has_room_for() -> None:
    """What is settled is written all the same, and most of the marks."""
    disk = Disk()
    node = Offline(disk)
    node.send(b"1", b"2")
    node.round()
    node.take()
    node.ack()
    node.backlog.states_changed = False
    node.store.remember(News(scattered(600_000)))
    node.round()
    node.die()
    found = Offline(disk)
    assert found.backlog.recovered == 0
    assert found.store.recovered().settled == []
    marks = found.store.recovered().marks
    assert 10_000 < len(marks.marks) < 100_000


def test_marks_on_a_full_disk() -> None:
    """The cursor is written with some of them, makes room, and the next one has all."""
    disk = Disk()
    node = Offline(disk)
    body = b"x" * 500
    node.send(*[body] * 200)
    node.round()
    node.take()
    disk.space = sum(len(file.content) for file in disk.files.values()) + 50
    node.ack()
    node.backlog.states_changed = False
    node.store.remember(News(scattered(4_000), max_attempts=5))
    node.round()
    marks = msgspec.msgpack.decode(cursor(disk, node).marks, type=Marks)
    assert 1_000 < len(marks.marks) < 3_999
    assert marks.max_attempts == 5
    assert (node.store.forgetful, node.backlog.changed) == (True, True), "nobody would write the next one"
    node.round()
    assert not node.store.forgetful
    node.die()
    assert len(Offline(disk).store.recovered().marks.marks) == 3_999


def cursor(disk: Disk, node: Offline) -> Cursor:
    found = CursorFiles(disk, node.store._log.folder).read()
    assert found is not None
    return found


def test_nobody_is_told_of_what_a_cursor_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not by the cursor of another round, that has nothing of it to write."""
    node = Offline(Disk(), memory_bytes=2**23)
    told: list[object] = []
    monkeypatch.setattr(node.engine.producers, "acks_to_settle", lambda: {"a link": (1, 1)})
    monkeypatch.setattr(node.engine.producers, "cursors_stored", told.append)
    node.send(*[b"%d" % n for n in range(40_000)])
    node.round()
    node.take()
    node.ack([(node.end.stream, n) for n in range(1, 40_000, 2)])
    for _ in range(3):
        told.clear()
        node.round()
        assert not told
    node.ack()
    node.round()
    assert told


def test_a_cursor_that_cannot_be_written_is_not_tried_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a start waits for it; and is written as soon as that is asked for if all is well."""
    node = Offline(Disk())
    node.end.set_consumer(f"{node.spool.node_id}:{node.spool.epoch}", "n", consumes=True)
    awaited = node.end.awaits_cursor
    node.round(0.0)
    assert (awaited, node.end.awaits_cursor) == (True, False)
    node.backlog.note_states()
    node.round(0.0)
    assert node.backlog.changed, "it was not time yet, and nobody waits"
    node.end.set_consumer(node.end.stream.rpartition(":")[0], "n", consumes=False)
    node.end.set_consumer(node.end.stream.rpartition(":")[0], "n", consumes=True)
    tries = []

    def refuse() -> None:
        tries.append(node.now)
        raise SpoolError("/spool", "refused")

    monkeypatch.setattr(node.store, "write_cursor", refuse)
    for _ in range(5):
        with suppress(SpoolError):
            node.round(0.001)
    assert len(tries) == 1
    monkeypatch.undo()
    node.round()
    assert not node.end.awaits_cursor


def test_a_store_that_comes_while_cursors_are_written(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that makes a producer adds its store whenever it likes."""
    node = Offline(Disk())
    node.send(b"1", b"2")
    node.round()
    node.take()
    node.ack()

    def complete(_: Store) -> bool:
        node.disk.stores[f"more.{len(node.disk.stores)}"] = node.store
        return True

    monkeypatch.setattr(Store, "complete", property(complete, lambda *_: None), raising=False)
    node.round()
    assert caplog.text == ""


def losses(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_a_spool_that_is_deleted(caplog: pytest.LogCaptureFixture) -> None:
    """What memory has is delivered, to new consumers too; what only the disk had is damaged; dead letters stay here."""
    disk = Disk()
    node = Offline(disk, memory_bytes=400)
    for n in range(1, 11):
        node.send(b"%d" % n)
        node.round()
    in_memory = node.end.account().waiting
    assert 0 < in_memory < 10
    disk.take_away("/spool", delete=True)
    node.end.set_consumer("b:1", "b", consumes=True)
    refused = node.send(b"refused")
    node.round()
    assert isinstance(refused.error, SpoolError)
    assert "deleted while in use" in str(refused.error)
    [dead, *rest] = node.take()
    node.reject(dead)
    node.ack(rest)
    for _ in range(3):
        node.round()
    account = node.end.account()
    assert (account.acked, account.dead_lettered, account.damaged) == (in_memory - 1, 1, 10 - in_memory)
    assert account.closes
    assert [letter.id for letter in node.end.letters()] == [f"{dead[0]}/{dead[1]}"]
    assert node.engine.producers.dead_letters_in_memory() == {QUEUE: 1}
    assert node.backlog.floor == node.end.floor == 11, "consumers are not told what they may forget"
    deleted, removed, lost = losses(caplog)
    assert "this spool was deleted while in use" in deleted
    assert "removed from the spool while in use" in removed
    assert f"{10 - in_memory} messages on disk are damaged and lost" in lost
    with pytest.raises(SpoolError, match="deleted while in use"):
        node.close()
    assert not disk.files
    assert disk.open_count == 0


@pytest.mark.parametrize("delete", [True, False], ids=["deleted", "moved"])
def test_a_spool_that_is_gone_when_its_node_closes(delete: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It keeps nothing: all that is not settled counts as waiting or in flight, as without a spool."""
    disk = Disk()
    node = Offline(disk, memory_bytes=400)
    for n in range(1, 11):
        node.send(b"%d" % n)
        node.round()
    taken = node.take()
    producers = node.engine.producers
    assert (producers.unsettled(), producers.kept_on_disk()) == ((0, 0), 10)
    disk.take_away("/spool", delete=delete)
    node.disk.take_stock()
    assert (producers.unsettled(), producers.kept_on_disk()) == ((10 - len(taken), len(taken)), 0)
    [said] = losses(caplog)
    assert "while in use" in said
    node.spool.abandon()


def test_files_that_are_removed_from_a_spool(caplog: pytest.LogCaptureFixture) -> None:
    """What was in them and not in memory is damaged, and what memory has of it no spool keeps; the others are sent."""
    disk = Disk()
    node = Offline(disk, memory_bytes=400)
    for n in range(1, 41):
        node.send(b"%d" % n * 30)
        node.round()
    segments = [path for path in disk.files if path.endswith(".seg")]
    assert len(segments) > 3
    for path in (segments[0], segments[2]):
        disk.take_away(path, delete=True)
    found: dict[tuple[str, int], bytes] = {}
    for _ in range(60):
        node.round()
        found |= node.take()
        node.ack()
    account = node.end.account()
    assert account.closes
    assert account.damaged > 0
    assert account.acked == len(found) == 40 - account.damaged
    assert set(found.values()) < {b"%d" % n * 30 for n in range(1, 41)}
    assert any("removed from the spool" in line for line in losses(caplog))
    assert sum("damaged and lost" in line for line in losses(caplog)) >= 1
    node.close()


def test_a_spool_that_is_moved_and_put_back(caplog: pytest.LogCaptureFixture) -> None:
    """Meanwhile nothing is stored, read, or given up; then all of it goes on."""
    disk = Disk()
    node = Offline(disk, memory_bytes=400)
    for n in range(1, 11):
        node.send(b"%d" % n)
        node.round()
    away = dict(disk.files), dict(disk.folders)
    disk.take_away("/spool", delete=False)
    node.ack(list(node.take())[:1])
    refused = node.send(b"refused")
    for _ in range(3):
        with pytest.raises(SpoolError, match="moved or replaced while in use"):
            node.round()
    assert isinstance(refused.error, SpoolError)
    disk.files.update(away[0])
    disk.folders.update(away[1])
    disk.elsewhere.clear()
    sent = node.send(b"11")
    for _ in range(10):
        node.round()
        node.take()
        node.ack()
    assert sent.done
    account = node.end.account()
    assert (account.acked, account.damaged, account.closes) == (11, 0, True)
    assert losses(caplog) == []
    node.close()


class Many:
    """A node with `count` queues in its spool, of which one is at work."""

    def __init__(self, count: int) -> None:
        self.files = Disk()
        self.spool = open_spool(self.files)
        address = Address(self.spool.node_id, self.spool.epoch, "node", "host", [], [])
        self.engine = Engine(address, "tests", Options(), Random(1), 0.0)
        self.disk = DiskThread(self.spool, self.engine.producers, "tests")
        self.disk.pump = cast("Pump", SimpleNamespace(lock=threading.RLock(), wake=lambda: None))
        for number in range(count):
            store = self.disk.stores[f"q{number}"] = Store(self.spool, f"q{number}", False, 1)
            end = self.engine.open_producer(f"q{number}", RAW, 5, 2**20, 0.0, store.recovered())
            assert isinstance(end, DurableQueue)
            store.end = end
        self.engine.producers.by_queue["q0"].set_consumer("a:1", "a", consumes=True)
        self._work(10.0)

    def _round(self, now: float) -> None:
        list(self.engine.producers.frames(now))
        assert self.disk.news()
        assert self.disk.round(now) is None
        list(self.engine.producers.frames(now))
        assert not self.disk.news()

    def _work(self, now: float) -> None:
        """A message is stored, sent, acked and settled on disk, and the disk's thread has nothing to do then."""
        end, store = self.engine.producers.by_queue["q0"], self.disk.stores["q0"]
        store.append(end.next, [b"x"], None, RAW, 1)
        self.engine.producers.accept(end, [b"x"], 1)
        run = end.pick("a:1", 1, 100, 100)
        assert run is not None
        end.sent("a:1", run)
        end.acked("a:1", run.first, run.stop)
        self._round(now)
        assert end.safe_floor == end.next

    def calls(self) -> int:
        """The calls of Python and C that one message costs."""
        found = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal found
            found += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            self._work(20.0)
        finally:
            sys.setprofile(None)
        return found


def test_idle_queues_cost_nothing() -> None:
    """A message of one queue makes as many calls at the disk's side beside 99 others as beside one."""
    assert Many(100).calls() == Many(2).calls()


def test_few_operations_make_a_queue_and_find_it_again() -> None:
    """No sync without `fsync`, and nothing that a queue without dead letters could do without."""
    node = Many(2)
    before = node.files.operations
    Store(node.spool, "another", False, 1)
    made = Counter(kind for kind, _ in node.files.trace[before:])
    assert made == {"make_folder": 1, "create": 2, "allocate": 2, "write": 1}, "two files, of which one is written"
    node.files.kill()
    again = open_spool(node.files, random_bits=8)
    before = node.files.operations
    Store(again, "another", False, 1)
    assert [kind for kind, _ in node.files.trace[before:]] == ["write"]
