"""An `AsyncNode` and a disk that stands still: its event loop goes on, whatever is called."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from peerfabric import AsyncNode, NodeClosed, NotConfirmed, Options, SpoolError, SpoolLocked
from peerfabric.spool.files import RealFiles
from tests.nodes.conftest import DEADLINE, eventually

pytestmark = pytest.mark.usefixtures("runtime")

TOUCHING = ("make_folder", "check_folder", "open", "read", "write", "sync", "sync_folder", "rename", "unlink", "lock")
TURNS = 20
"""So many more turns of the loop while the disk stands still say that nothing keeps it."""


class SlowDisk:
    """The real file system, whose calls wait while `go_on` is cleared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.waiting = threading.Event()
        """A call has come meanwhile."""
        self.threads: set[int] = set()
        """Those in which anything was called."""
        self.refusing = False
        for name in TOUCHING:
            monkeypatch.setattr(RealFiles, name, self._slowed(name, getattr(RealFiles, name)))

    def _slowed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def slowed(*arguments: Any, **options: Any) -> Any:
            self.threads.add(threading.get_ident())
            if not self.go_on.is_set():
                self.waiting.set()
                self.go_on.wait(DEADLINE)
            if self.refusing and name == "write":
                raise OSError(errno.EIO, "no")
            return call(*arguments, **options)

        return slowed

    @asynccontextmanager
    async def standing_still(self) -> AsyncIterator[None]:
        """What is called inside finds the disk standing still, until the loop has made its turns."""
        self.waiting.clear()
        self.go_on.clear()
        rescue = threading.Timer(DEADLINE, self.go_on.set)  # a loop that is kept could not set it
        rescue.start()
        try:
            yield
            await asyncio.to_thread(self.waiting.wait, DEADLINE)
            assert self.waiting.is_set()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert not self.go_on.is_set(), "the loop was kept waiting"
        finally:
            rescue.cancel()
            rescue.join()
            self.go_on.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    slow = SlowDisk(monkeypatch)
    yield slow
    slow.go_on.set()


@pytest.fixture(params=[False, True], ids=["page-cache", "fsync"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    tmp_path.chmod(0o700)
    return {"spool": tmp_path / "spool", "fsync": request.param}


def told(disk: SlowDisk, story: Callable[[], Awaitable[None]]) -> None:
    """Run a story in an event loop, whose thread never calls the file system."""

    async def main() -> None:
        disk.threads.clear()
        await story()
        assert threading.get_ident() not in disk.threads

    asyncio.run(main())


def test_a_start(disk: SlowDisk, place: dict[str, Any], tmp_path: Path) -> None:
    """With a spool and a ledger; two calls wait for the same start, and what is made meanwhile is there."""

    async def story() -> None:
        node = AsyncNode("shop", **place)
        producer = node.producer("jobs", int)
        consumer = node.consumer("jobs", int, ledger=tmp_path / "jobs.ledger")
        async with disk.standing_still():
            assert node.peers() == []
            assert node.statistics().producers == ()
            entering = asyncio.create_task(node.__aenter__())
            sending = asyncio.create_task(producer.send(1))
            await asyncio.to_thread(disk.waiting.wait, DEADLINE)
            other = node.producer("other", int)
        await asyncio.gather(entering, sending)
        await other.send(2)
        message = await consumer.get(timeout=DEADLINE)
        message.ack()
        await producer.flush(timeout=DEADLINE)
        assert [account.queue for account in node.statistics().producers] == ["jobs", "other"]
        await node.close(0)

    told(disk, story)


def test_a_start_that_fails(disk: SlowDisk, place: dict[str, Any]) -> None:
    """Whoever waits for it is told; the next start is a new one."""

    async def story() -> None:
        alone = Options(spool_slots=1)
        async with AsyncNode("first", options=alone, **place):
            node = AsyncNode("second", options=alone, **place)
            with pytest.raises(SpoolLocked):
                await node.__aenter__()
            with pytest.raises(SpoolLocked):
                await node.producer("jobs", int).send(1)
        async with node:
            await node.producer("jobs", int).send(1)

    told(disk, story)


def test_a_start_that_is_cancelled(disk: SlowDisk, place: dict[str, Any]) -> None:
    """It leaves nothing open, so the folder is free; it goes on if another call waits for it."""

    async def story() -> None:
        node = AsyncNode("shop", **place)
        async with disk.standing_still():
            entering = asyncio.create_task(node.__aenter__())
            await asyncio.to_thread(disk.waiting.wait, DEADLINE)
            entering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await entering
        starting = node._lifecycle._beside._task
        assert starting is not None
        await asyncio.wait([starting])
        async with AsyncNode("other", **place) as other:
            await other.producer("jobs", int).send(1)
        async with disk.standing_still():
            entering = asyncio.create_task(node.__aenter__())
            sending = asyncio.create_task(node.producer("jobs", int).send(2))
            await asyncio.to_thread(disk.waiting.wait, DEADLINE)
            entering.cancel()
        await sending
        await node.close(0)

    told(disk, story)


def test_a_close_while_it_starts(disk: SlowDisk, place: dict[str, Any]) -> None:
    """The start gives up, and close returns when nothing is open any more."""

    async def story() -> None:
        node = AsyncNode("shop", **place)
        async with disk.standing_still():
            entering = asyncio.create_task(node.__aenter__())
            await asyncio.to_thread(disk.waiting.wait, DEADLINE)
            closing = asyncio.create_task(node.close())
        await closing
        with pytest.raises(NodeClosed):
            await entering
        async with AsyncNode("other", **place):
            pass

    told(disk, story)


def test_a_loop_that_ends_while_a_node_starts(disk: SlowDisk, place: dict[str, Any]) -> None:
    """What was opened is closed all the same."""

    async def story() -> None:
        node = AsyncNode("shop", **place)
        disk.go_on.clear()
        task = asyncio.create_task(node.__aenter__())
        await asyncio.to_thread(disk.waiting.wait, DEADLINE)
        assert not task.done()

    asyncio.run(story())
    disk.go_on.set()

    async def free() -> None:
        async with AsyncNode("other", options=Options(spool_slots=1), **place):
            pass

    def started() -> bool:
        try:
            asyncio.run(free())
        except SpoolLocked:
            return False
        return True

    eventually(started, "the end of the start")


def test_handles_of_a_node_that_runs(disk: SlowDisk, place: dict[str, Any], tmp_path: Path) -> None:
    """A new queue, and a consumer with a ledger, are opened by the first call that is awaited."""

    async def story() -> None:
        async with AsyncNode("shop", **place) as node:
            async with disk.standing_still():
                producer = node.producer("jobs", int)
                consumer = node.consumer("jobs", int, ledger=tmp_path / "jobs.ledger")
                calls = [asyncio.create_task(producer.send(n)) for n in range(2)]
                taking = [asyncio.create_task(consumer.get(timeout=DEADLINE)) for _ in range(2)]
            receipts = await asyncio.gather(*calls)
            for message in await asyncio.gather(*taking):
                message.ack()
            await producer.flush(timeout=DEADLINE)
            assert [producer.state(receipt) for receipt in receipts] == ["processed"] * 2
            consumer.close()

    told(disk, story)


def test_a_close_while_a_ledger_is_opened(disk: SlowDisk, tmp_path: Path) -> None:
    """Whoever wants the ledger next can have it."""
    tmp_path.chmod(0o700)

    async def story() -> None:
        node = await AsyncNode("shop").__aenter__()
        async with disk.standing_still():
            consumer = node.consumer("jobs", int, ledger=tmp_path / "jobs.ledger")
            taking = asyncio.create_task(consumer.get(timeout=DEADLINE))
            await asyncio.to_thread(disk.waiting.wait, DEADLINE)
            closing = asyncio.create_task(node.close(0.0))
            while not node._context.is_closed:
                await asyncio.sleep(0)
        await closing
        with pytest.raises(NodeClosed):
            await taking
        async with AsyncNode("shop") as again:
            other = again.consumer("jobs", int, ledger=tmp_path / "jobs.ledger")
            await again.producer("jobs", int).send(1)
            (await other.get(timeout=DEADLINE)).ack()

    told(disk, story)


def test_a_store_that_cannot_be_opened_now(disk: SlowDisk, place: dict[str, Any]) -> None:
    """Each call says so until it can."""

    async def story() -> None:
        async with AsyncNode("shop", **place) as node:
            producer = node.producer("jobs", int)
            disk.refusing = True
            with pytest.raises(SpoolError):
                await producer.send(1)
            disk.refusing = False
            await producer.send(1)
            assert node.statistics().producers[0].accepted == 1

    told(disk, story)


def test_sends_and_a_close(disk: SlowDisk, place: dict[str, Any]) -> None:
    """Closing ends the disk's thread, and waits for it beside the loop."""

    async def story() -> None:
        node = AsyncNode("shop", **place)
        producer = node.producer("jobs", int)
        await producer.send(0)
        async with disk.standing_still():
            sending = asyncio.create_task(producer.send(1))
            await asyncio.to_thread(disk.waiting.wait, DEADLINE)
            closing = asyncio.create_task(node.close(0))
            while not node._context.is_closed:
                await asyncio.sleep(0.001)
        await closing
        stored = 1
        with suppress(NodeClosed):  # the disk was busy with its cursors
            await sending
            stored = 2  # the disk had it in hand
        async with AsyncNode("shop", **place) as node:
            assert node.statistics().producers[0].recovered == stored

    told(disk, story)


def test_a_close_while_nothing_can_be_synced(disk: SlowDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written and not synced may be there at the next start, and its sender learns that."""
    tmp_path.chmod(0o700)
    refused = threading.Event()

    def refuse(descriptor: int) -> None:
        refused.set()
        raise OSError(errno.EIO, "no")

    async def story() -> None:
        node = AsyncNode("shop", spool=tmp_path / "spool", fsync=True)
        producer = node.producer("jobs", int)
        await producer.send(0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            sending = asyncio.create_task(producer.send(1))
            await asyncio.to_thread(refused.wait, DEADLINE)
            closing = asyncio.create_task(node.close(0))
            with pytest.raises(NotConfirmed):
                await sending
        with suppress(SpoolError):
            await closing

    told(disk, story)


def test_a_close_that_is_cancelled(disk: SlowDisk, place: dict[str, Any]) -> None:
    """It goes on to its end; nothing is left behind, and what was stored is there."""

    async def story() -> None:
        node = AsyncNode("shop", **place)
        await node.producer("jobs", int).send(0)
        async with disk.standing_still():
            closing = asyncio.create_task(node.close(0))
            while not node._context.is_closed:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(disk.waiting.wait, DEADLINE)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
        while True:
            try:
                async with AsyncNode("shop", options=Options(spool_slots=1), **place) as node:
                    assert node.statistics().producers[0].recovered == 1
                return
            except SpoolLocked:
                await asyncio.sleep(0.001)

    told(disk, story)


def test_dead_letters(disk: SlowDisk, place: dict[str, Any]) -> None:
    """Dropped and retried while the disk stands still; both are known on disk when the node has closed."""

    async def story() -> None:
        async with AsyncNode("shop", **place) as node:
            producer, consumer = node.producer("jobs", int), node.consumer("jobs", int)
            await producer.send_many([1, 2, 3])
            for _ in range(3):
                (await consumer.get(timeout=DEADLINE)).reject("no")
            await producer.flush(timeout=DEADLINE)
            first, second, _ = await node.dead_letters("jobs")
            async with disk.standing_still():
                assert first.drop()
                assert second.retry()
                assert not second.retry()
            with await consumer.get(timeout=DEADLINE) as body:
                assert body == 2
        async with AsyncNode("shop", **place) as node:
            assert [letter.attempts for letter in await node.dead_letters("jobs")] == [1]

    told(disk, story)


def test_acks_with_a_ledger(
    disk: SlowDisk, place: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are written beside the loop, single ones and batches, and a close waits for them; one that cannot be
    written is a nack."""
    ledger = tmp_path / "jobs.ledger"

    async def story() -> None:
        async with AsyncNode("shop") as shop:
            producer = shop.producer("jobs", int)
            await producer.send_many([1, 2, 3])
            async with AsyncNode("kitchen", fsync=place["fsync"], spool=place["spool"]) as kitchen:
                batches = kitchen.consumer("jobs", int, ledger=ledger).batches(max_size=2)
                taken = 0
                batch = await anext(batches)
                async with disk.standing_still():
                    with batch as bodies:
                        taken += len(bodies)
                while taken < 3:
                    with await anext(batches) as bodies:
                        taken += len(bodies)
            await producer.flush(timeout=DEADLINE)
            assert shop.statistics().producers[0].acked == 3
            await producer.send(4)
            async with AsyncNode("kitchen") as kitchen:
                consumer = kitchen.consumer("jobs", int, ledger=ledger)
                disk_refuses = await consumer.get(timeout=DEADLINE)
                disk.refusing = True
                with caplog.at_level(logging.ERROR, "peerfabric"):
                    disk_refuses.ack()
                    again = await consumer.get(timeout=DEADLINE)
                disk.refusing = False
                assert "is not acked" in caplog.text
                assert (again.id, again.attempt) == (disk_refuses.id, 2)
                again.ack()
                await producer.flush(timeout=DEADLINE)

    told(disk, story)


def test_handlers_with_a_ledger(disk: SlowDisk, tmp_path: Path) -> None:
    """A handler that returns while the disk stands still has its message acked before the node is closed."""
    tmp_path.chmod(0o700)

    async def story() -> None:
        async with AsyncNode("shop", options=Options(drain_timeout=DEADLINE)) as shop:
            producer = shop.producer("jobs", int)
            await producer.send_many([1, 2, 3])
            handled: list[int] = []
            async with AsyncNode("kitchen", options=Options(drain_timeout=DEADLINE)) as kitchen:

                @kitchen.on_message("jobs", ledger=tmp_path / "jobs.ledger")
                async def handle(body: int) -> None:
                    handled.append(body)

                while len(handled) < 3:
                    await asyncio.sleep(0.001)
            await producer.flush(timeout=DEADLINE)
            assert (handled, shop.statistics().producers[0].acked) == ([1, 2, 3], 3)

    told(disk, story)
