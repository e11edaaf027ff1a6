"""Consumers that remember over their own restart what they processed, each story told to both fronts."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peerfabric import (
    ConfigError,
    Corrupt,
    NodeClosed,
    Options,
    Reject,
    SpoolError,
    SpoolFull,
    SpoolLocked,
    SpoolUnsafe,
    TimedOut,
    Undelivered,
)
from peerfabric.nodes.storage import ledger_store
from peerfabric.ranges import Ranges
from peerfabric.spool import ledger
from peerfabric.spool.files import RealFiles
from peerfabric.spool.ledger import Ledger
from tests.nodes.conftest import eventually

KILLED_AT_ACK = {
    "blocking": """
        import os, signal, sys
        from peerfabric import Node
        from peerfabric.nodes.storage.ledger_store import LedgerStore

        record, when = LedgerStore.record, sys.argv[2]

        def record_and_die(self, parts):
            if when == "after":
                record(self, parts)
            os.kill(os.getpid(), signal.SIGKILL)

        LedgerStore.record = record_and_die
        with Node("victim") as node:
            for message in node.consumer("jobs", int, ledger=sys.argv[1]):
                with message as body:
                    print(body)
        """,
    "async": """
        import asyncio, os, signal, sys
        from peerfabric import AsyncNode
        from peerfabric.nodes.storage.ledger_store import LedgerStore

        record, when = LedgerStore.record_entries, sys.argv[2]

        def record_and_die(self, entries):
            if when == "after":
                record(self, entries)
            os.kill(os.getpid(), signal.SIGKILL)

        LedgerStore.record_entries = record_and_die

        async def main():
            async with AsyncNode("victim") as node:
                async for batch in node.consumer("jobs", int, ledger=sys.argv[1]).batches(max_size=1):
                    with batch as bodies:
                        print(*bodies)

        asyncio.run(main())
        """,
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the ledger is."""
    tmp_path.chmod(0o700)
    return str(tmp_path / "jobs.ledger")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether the disk is full."""
    write = RealFiles.write

    def fill(full: bool) -> None:
        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr(RealFiles, "write", refuse if full else write)

    return fill


def read(path: str) -> dict[str, Ranges]:
    """What is in a ledger that nobody uses."""
    found = Ledger(RealFiles(), path)
    found.close()
    return found.entries()


def write(path: str, stream: str, start: int, stop: int) -> None:
    """What an earlier life of a consumer has left."""
    made = Ledger(RealFiles(), path, "jobs")
    made.add(stream, start, stop)
    made.close()


def take(consumer: Any) -> Any:
    with consumer.get(timeout=20) as body:
        return body


# Killed


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_the_ack_and_its_leaving(front: Any, start: Any, path: str, when: str) -> None:
    """What is in the ledger is not run again, and its producer learns of it; what is not yet there is not lost."""
    with front.node("shop") as shop:
        producer = shop.producer("jobs", int)
        producer.send(1)
        victim = start(KILLED_AT_ACK[front.colour], path, when)
        assert victim.line() == "1"
        victim.finish()
        assert victim.code == -signal.SIGKILL
        producer.send_many([2, 3])
        with front.node("kitchen") as kitchen:
            consumer = kitchen.consumer("jobs", int, ledger=path)
            bodies = [take(consumer) for _ in range(2 if when == "after" else 3)]
            assert sorted(bodies) == ([2, 3] if when == "after" else [1, 2, 3])
            producer.flush(timeout=20)
        accounts = shop.statistics().producers
        assert [(account.acked, account.closes) for account in accounts] == [(3, True)]


@pytest.mark.parametrize("first", ["shop", "kitchen"])
def test_both_ends_are_killed(front: Any, start: Any, path: str, tmp_path: Path, first: str) -> None:
    """The spool has the message, the ledger that it was processed; whoever comes back first, it does not run again."""
    spool = str(tmp_path / "spool")
    dead = start(
        """
        import sys
        from peerfabric import Node
        with Node("shop", spool=sys.argv[1]) as node:
            node.producer("jobs", int).send_many([1, 2, 3])
            print("sent")
            sys.stdin.readline()
        """,
        spool,
    )
    assert dead.line() == "sent"
    victim = start(KILLED_AT_ACK[front.colour], path, "after")
    assert victim.line() == "1"
    victim.finish()
    dead.signal(signal.SIGKILL)
    dead.finish()
    shop, kitchen = front.node("shop", spool=spool), front.node("kitchen")
    consumer = kitchen.consumer("jobs", int, ledger=path)
    with shop if first == "shop" else kitchen, kitchen if first == "shop" else shop:
        assert [take(consumer), take(consumer)] == [2, 3]
        shop.producer("jobs", int).flush(timeout=20)
        assert [(a.recovered, a.acked, a.closes) for a in shop.statistics().producers] == [(3, 3, True)]
        assert kitchen.statistics().consumers[0].processed == 2


def test_a_message_that_was_there_at_three_deaths(front: Any, start: Any, path: str, tmp_path: Path) -> None:
    """Its consumer announces it and waits until the spool's producer has noted that, though nothing else is stored."""
    with front.node("shop", spool=tmp_path / "spool") as shop:
        producer = shop.producer("jobs", int)
        producer.send(1)
        for _ in range(3):
            victim = start(KILLED_AT_ACK[front.colour], path, "before")
            assert victim.line() == "1"
            victim.finish()
        with front.node("kitchen") as kitchen:
            assert take(kitchen.consumer("jobs", int, ledger=path)) == 1
            producer.flush(timeout=20)


@pytest.mark.parametrize("running", [False, True])
def test_what_is_remembered_is_acked_and_not_run(front: Any, path: str, running: bool) -> None:
    """By a node that starts, and by one that runs and is connected already."""
    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        other, producer = shop.producer("other", int), shop.producer("jobs", int)
        other.send(0)
        assert take(kitchen.consumer("other", int)) == 0
        receipts = [producer.send(n) for n in range(3)]
        with front.node("before") as before:
            before.consumer("jobs", int).get(timeout=20).give_back()
        write(path, receipts[0].stream, 1, 2)  # as if it had been acked, and the ACK had never left
        node = kitchen if running else front.node("after")
        consumer = node.consumer("jobs", int, ledger=path)
        assert [take(consumer), take(consumer)] == [1, 2]
        producer.flush(timeout=20)
        assert [producer.state(receipt) for receipt in receipts] == ["processed"] * 3
        assert next(c.processed for c in node.statistics().consumers if c.queue == "jobs") == 2
        assert all(account.closes for account in shop.statistics().producers)


def test_a_restart_in_order_goes_on(front: Any, path: str) -> None:
    """Closing gives the ledger up, and the next life takes it over."""
    with front.node("shop") as shop:
        producer = shop.producer("jobs", int)
        for life in range(3):
            producer.send(life)
            with front.node("kitchen") as kitchen:
                assert take(kitchen.consumer("jobs", int, ledger=path)) == life
                producer.flush(timeout=20)
        stream = producer.send(9).stream
        assert read(path)[stream] == Ranges([(1, 4)])
        with front.node("kitchen") as kitchen:
            assert take(kitchen.consumer("jobs", int, ledger=path)) == 9
            producer.flush(timeout=20)


# What is written, and when


def test_only_what_is_processed_is_written(front: Any, path: str) -> None:
    """Not what is nacked, rejected, given back or taken and left alone."""
    with front.node("shop") as shop:
        producer = shop.producer("jobs", int)
        producer.send_many(range(1, 5))
        with front.node("kitchen") as kitchen:
            consumer = kitchen.consumer("jobs", int, ledger=path)
            consumer.get(timeout=20).nack(delay=60)
            consumer.get(timeout=20).reject("never")
            third = consumer.get(timeout=20)
            third.ack()
            third.ack()
            with pytest.raises(KeyboardInterrupt), consumer.get(timeout=20):
                raise KeyboardInterrupt
            eventually(lambda: shop.statistics().producers[0].acked == 1, "the ack")
            assert third.body == 3
        stream = third.id.rpartition("/")[0]
        assert read(path) == {stream: Ranges([(3, 4)])}
        with pytest.raises(Undelivered):
            shop.close(0)


def test_batches_and_handlers_write(front: Any, path: str) -> None:
    """Leaving a batch, without the one that was nacked; and a handler that returns, not one that rejects."""
    with front.node("shop") as shop:
        producer = shop.producer("jobs", int)
        producer.send_many(range(4))
        with front.node("kitchen") as kitchen:
            batches = iter(kitchen.consumer("jobs", int, ledger=path).batches(max_size=4, max_wait=0.5))
            acked: set[int] = set()
            while acked != {0, 2, 3}:
                batch = next(batches)
                with batch as bodies:
                    if 1 in bodies:
                        batch.nack(list(bodies).index(1), delay=0.2)
                    acked |= set(bodies) - {1}
            eventually(lambda: shop.statistics().producers[0].acked == 3, "the acks")
            del batches
        handled: list[int] = []

        def handle(body: int) -> None:
            handled.append(body)
            if body == 1:
                raise Reject

        with front.node("kitchen") as kitchen:
            kitchen.on_message("jobs", ledger=path)(handle)
            stream = producer.send(4).stream
            producer.flush(timeout=20)
        assert sorted(handled) == [1, 4]
        assert read(path) == {stream: Ranges([(1, 2), (3, 6)])}


def test_the_ledger_stays_small(front: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the producer cannot send again is forgotten, in memory and in the file."""
    monkeypatch.setattr(ledger, "COMPACT_BYTES", 4096)
    monkeypatch.setattr(ledger_store, "COMPACT_BYTES", 4096)
    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        producer = shop.producer("jobs", int)
        consumer = kitchen.consumer("jobs", int, ledger=path)
        for _ in range(10):
            producer.send_many(range(100))
            for _ in range(100):
                take(consumer)
            producer.flush(timeout=20)
        assert os.path.getsize(path) < 3 * 4096
        kept = (consumer.target if front.is_async else consumer._async).ledger_store
        assert sum(ranges.total for ranges in kept.remembered.values()) < 1000


# What cannot be


def test_a_full_disk_is_no_ack(front: Any, path: str, full_disk: Callable[[bool], None]) -> None:
    """The error comes out of the `with`, the message goes back, and is acked when there is space."""
    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        producer = shop.producer("jobs", int)
        consumer = kitchen.consumer("jobs", int, ledger=path)
        producer.send(7)
        message = consumer.get(timeout=20)
        full_disk(True)
        with pytest.raises(SpoolFull, match=r"jobs\.ledger: no space on the disk; free some space"), message:
            pass
        message.ack()  # it is settled, by the error
        full_disk(False)
        again = consumer.get(timeout=20)
        assert (again.id, again.attempt) == (message.id, 2)
        again.ack()
        producer.flush(timeout=20)

        producer.send_many([8, 9])
        batches = iter(consumer.batches(max_size=2, max_wait=2.0))
        batch = next(batches)
        full_disk(True)
        with pytest.raises(SpoolFull):
            batch.ack()
        full_disk(False)
        got = 0
        while got < 2:
            with next(batches) as bodies:
                got += len(bodies)
        producer.flush(timeout=20)
        assert shop.statistics().producers[0].acked == 3


def test_a_handler_on_a_full_disk(
    front: Any, path: str, full_disk: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the message comes again."""
    attempts: list[int] = []
    with front.node("shop") as shop, front.node("kitchen") as kitchen:

        def handle(body: int) -> None:
            attempts.append(body)
            full_disk(len(attempts) == 1)

        kitchen.on_message("jobs", ledger=path)(handle)
        producer = shop.producer("jobs", int)
        producer.send(7)
        producer.flush(timeout=20)
    assert attempts == [7, 7]
    assert "was handled by jobs and not acked" in caplog.text


def test_two_consumers_with_one_ledger(front: Any, path: str) -> None:
    """The second is refused, where it is made or where its node starts, and whoever has it is named."""
    with front.node("a") as a, front.node("running") as running:
        with pytest.raises(TimedOut):  # with asyncio, what is awaited first opens it
            a.consumer("jobs", int, ledger=path).get(timeout=0.01)
        assert a.consumer("jobs", int, ledger=Path(path)) == a.consumer("jobs", int, ledger=path)
        with pytest.raises(ConfigError, match="give each queue a ledger of its own"):
            a.consumer("mail", int, ledger=path)
        with pytest.raises(ConfigError, match="a name has one handle"):
            a.consumer("jobs", int, ledger=path + "2")
        with pytest.raises(ConfigError, match="a name has one handle"):
            a.consumer("jobs", int)
        said = "another node of this process uses this ledger; stop it, or give each consumer a ledger of its own"
        if front.is_async:  # where the disk is touched by what is awaited only
            refused = running.consumer("jobs", int, ledger=path)
            for _ in range(2):
                with pytest.raises(SpoolLocked, match=said):
                    refused.get(timeout=20)
        else:
            with pytest.raises(SpoolLocked, match=said):
                running.consumer("jobs", int, ledger=path)
        late = front.node("late")
        if front.is_async:
            with pytest.raises(SpoolLocked, match=said):
                late.consumer("jobs", int, ledger=path) and late.__enter__()
        else:
            late.consumer("jobs", int, ledger=path)
            with pytest.raises(SpoolLocked, match=said):
                late.__enter__()
        a.close()
        with late:
            late.consumer("jobs", int, ledger=path)


@pytest.mark.parametrize(
    ("prepare", "error", "text"),
    [
        (lambda p: p.parent.joinpath("no"), SpoolError, "its folder does not exist; make the folder first"),
        (lambda p: p.write_text("dear diary, today"), Corrupt, "this is no ledger.*set it aside"),
        (lambda p: p.symlink_to("elsewhere"), SpoolUnsafe, "symbolic link"),
        (lambda p: p.parent.chmod(0o777), SpoolUnsafe, "written by others.*chmod 700"),
        (lambda p: write(str(p), "a:1:jobs", 1, 2), ConfigError, "ledger of queue 'jobs', not of 'mail'"),
    ],
)
def test_a_ledger_that_cannot_be_used(
    front: Any, path: str, prepare: Callable[[Path], Any], error: type[Exception], text: str
) -> None:
    """The start says why and what to do, and the node can be started once that is done."""
    at = Path(path)
    found = prepare(at)
    if isinstance(found, Path) and found.name == "no":
        at = found / "jobs.ledger"
    node = front.node("kitchen")
    node.consumer("mail", int, ledger=at)
    with pytest.raises(error, match=text):
        node.__enter__()
    at.parent.mkdir(exist_ok=True)
    at.parent.chmod(0o700)
    at.unlink(missing_ok=True)
    with node:
        assert node.statistics().consumers[0].queue == "mail"


def test_an_ack_after_the_end(front: Any, path: str) -> None:
    """Nobody would be told of it, so it says that it does not count."""
    with front.node("shop") as shop:
        producer = shop.producer("jobs", int)
        producer.send(1)
        with front.node("kitchen", options=Options(drain_timeout=0.1)) as kitchen:
            message = kitchen.consumer("jobs", int, ledger=path).get(timeout=20)
        with pytest.raises(NodeClosed):
            message.ack()
        with front.node("next") as following:
            assert take(following.consumer("jobs", int, ledger=path)) == 1
            producer.flush(timeout=20)


def test_a_forked_child_leaves_the_ledger_alone(start: Any, path: str) -> None:
    """Its acks are refused there, and its end takes nothing from the parent: neither the file nor the lock."""
    parent = start(
        """
        import os, sys
        from peerfabric import ForkedNode, Node
        with Node("parent") as node:
            producer, consumer = node.producer("jobs", int), node.consumer("jobs", int, ledger=sys.argv[1])
            producer.send_many([1, 2])
            message = consumer.get(timeout=20)
            child = os.fork()
            if not child:
                try:
                    message.ack()
                except ForkedNode:
                    os._exit(7)
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.path.getsize(sys.argv[1]))
            sys.stdin.readline()
            message.ack()
            consumer.get(timeout=20).ack()
            producer.flush(timeout=20)
        """,
        path,
        PYTHONWARNINGS="ignore::DeprecationWarning",  # from 3.12 on Python warns of forks where threads are
    )
    code, size = parent.line().split()
    assert (code, os.path.getsize(path)) == ("7", int(size))
    with pytest.raises(SpoolLocked, match=f"process {parent.process.pid} uses this ledger"):
        Ledger(RealFiles(), path)
    assert parent.process.stdin is not None
    parent.process.stdin.write("\n")
    parent.process.stdin.flush()
    assert parent.finish() == ("", "")
    assert [list(ranges) for ranges in read(path).values()] == [[(1, 3)]]


@pytest.mark.parametrize("how", ["deleted", "moved", "unlocked", "folder"])
def test_a_ledger_that_is_taken_away_while_in_use(front: Any, tmp_path: Path, how: str) -> None:
    """The ack raises and the message goes back; another consumer has it, and nothing is made where the ledger was."""
    folder = tmp_path / "books"
    folder.mkdir(0o700)
    book = folder / "jobs.ledger"
    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        producer = shop.producer("jobs", int)
        consumer = kitchen.consumer("jobs", int, ledger=book)
        producer.send(1)
        consumer.get(timeout=20).ack()
        producer.flush(timeout=20)
        producer.send_many([7, 8])
        message = consumer.get(timeout=20)
        match how:
            case "deleted":
                book.unlink()
            case "moved":
                book.rename(folder / "aside")
            case "unlocked":
                (folder / "jobs.ledger.lock").unlink()
            case _:
                shutil.rmtree(folder)
        there = sorted(folder.glob("*"))
        said = "was removed, moved or replaced while in use; nothing is acked any more: close this node"
        with pytest.raises(SpoolError, match=said), message:
            pass
        batch = next(iter(consumer.batches(max_size=1)))
        with pytest.raises(SpoolError, match=said), batch:
            pass
        consumer.close()
        with front.node("other") as other:
            spare = other.consumer("jobs", int)
            assert {take(spare) for _ in range(2)} == {7, 8}
            producer.flush(timeout=20)
        assert sorted(folder.glob("*")) == there


def test_a_handler_whose_ledger_is_taken_away(front: Any, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """That is an ERROR for each message, which is tried again with growing pauses until it is given up."""
    runs: list[int] = []
    with front.node("shop") as shop, front.node("kitchen") as kitchen:

        def handle(body: int) -> None:
            runs.append(body)
            os.unlink(path) if os.path.exists(path) else None

        kitchen.on_message("jobs", ledger=path)(handle)
        producer = shop.producer("jobs", int, max_attempts=2)
        producer.send(7)
        producer.flush(timeout=20)
        assert [letter.reason for letter in shop.dead_letters("jobs")] == ["attempts"]
    assert runs == [7, 7]
    told = [record for record in caplog.records if "not acked" in record.message]
    assert [record.levelname for record in told] == ["ERROR", "ERROR"]
    assert "while in use" in told[0].message


@pytest.mark.parametrize("decorated", [False, True], ids=["consumer", "on_message"])
@pytest.mark.parametrize("fsync", [None, False, True])
def test_a_ledger_is_synced_without_a_spool(
    front: Any, path: str, monkeypatch: pytest.MonkeyPatch, fsync: bool | None, decorated: bool
) -> None:
    """fsync=True of a consumer syncs each of its acks; None is what the node says."""
    synced: list[str] = []
    sync = os.fdatasync

    def watched(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        producer = shop.producer("jobs", int)
        if decorated:
            kitchen.on_message("jobs", ledger=path, fsync=fsync)(nothing_to_do)
        else:
            consumer = kitchen.consumer("jobs", int, ledger=path, fsync=fsync)
            assert kitchen.consumer("jobs", int, ledger=path, fsync=bool(fsync)) == consumer
            with pytest.raises(ConfigError, match=f"exists in this node with fsync={bool(fsync)}"):
                kitchen.consumer("jobs", int, ledger=path, fsync=not fsync)
        monkeypatch.setattr(os, "fdatasync", watched)
        for n in range(3):
            producer.send(n)
            if not decorated:
                consumer.get(timeout=20).ack()
        producer.flush(timeout=20)
    assert (synced.count(path) >= 1, path in synced) == (bool(fsync), bool(fsync))


def nothing_to_do(body: int) -> None:
    """A handler that has nothing to do."""


def test_there_must_be_a_ledger_to_sync(front: Any) -> None:
    """Said at the call, with what to give."""
    node = front.node("kitchen")
    with pytest.raises(ConfigError, match="fsync=True needs a ledger to sync; give ledger=PATH"):
        node.consumer("jobs", int, fsync=True)
    with pytest.raises(ConfigError, match="fsync=True needs a ledger to sync"):
        node.on_message("jobs", fsync=True)(nothing_to_do)
