"""A spool at its limit and a disk that is full, in every mode, and what a send that ends early has accepted."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peerfabric import (
    AsyncNode,
    EncodeError,
    Node,
    NodeClosed,
    NotConfirmed,
    Options,
    QueueFull,
    SpoolFull,
    Undelivered,
)
from peerfabric.nodes import handler_context as hands
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.nodes.outbox.deposits import Deposit, Deposits
from peerfabric.nodes.outbox.spooled import SpooledOutbox
from peerfabric.nodes.storage.store import Store
from peerfabric.spool.files import RealFiles
from tests.nodes.conftest import DEADLINE, Front, eventually

LIMIT = 2 * 2**20
OPTIONS = Options(spool_bytes=LIMIT, drain_timeout=0)


@pytest.fixture(params=[False, True], ids=["page-cache", "fsync"])
def fsync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class DiskSwitch:
    """Makes the real file system refuse, or wait, at its writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusing: int | None = None
        """The errno of all writes from now on."""
        self.entered = threading.Event()
        """A write of messages has come while `go_on` was cleared; cursors are written whenever there is news."""
        self.go_on = threading.Event()
        self.go_on.set()
        write = RealFiles.write

        def switched(files: RealFiles, descriptor: int, offset: int, parts: Any) -> int:
            if not self.go_on.is_set() and os.readlink(f"/proc/self/fd/{descriptor}").endswith(".seg"):
                self.entered.set()
                self.go_on.wait(DEADLINE)
            if self.refusing is not None:
                raise OSError(self.refusing, "no")
            return write(files, descriptor, offset, parts)

        monkeypatch.setattr(RealFiles, "write", switched)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[DiskSwitch]:
    switch = DiskSwitch(monkeypatch)
    yield switch
    switch.go_on.set()


def core(producer: Any) -> AsyncProducer[Any]:
    """The producer behind the one of either front."""
    found = producer.target if hasattr(producer, "target") else producer._async
    assert isinstance(found, AsyncProducer)
    return found


def fill(producer: Any) -> int:
    """Send until the spool takes no more, even of small messages; return how many it took."""
    accepted = 0
    for size in (50_000, 500, 1):
        while (taken := _sent(producer, bytes(size))) is True:
            accepted += 1
        assert taken == LIMIT
    return accepted


def _sent(producer: Any, body: bytes) -> int:
    """True, or the limit that refused it."""
    try:
        producer.send(body)
    except SpoolFull as full:
        return full.limit or 0
    return True


def drain(front: Front, queue: str, count: int) -> list[bytes]:
    """Take and ack so many messages."""
    taken = []
    with front.node("kitchen") as node:
        consumer = node.consumer(queue, bytes)
        for _ in range(count):
            with consumer.get(timeout=DEADLINE) as body:
                taken.append(body)
    return taken


class Call:
    """A call in a thread of its own, and how it ended."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.result = call()
        except BaseException as error:
            self.error = error

    def end(self) -> Call:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        return self


def waits(producer: Any) -> bool:
    """Whether a call of it waits for space on disk."""
    inner = core(producer)
    return any(getattr(waiter, "wake", None) == inner._gate.open for waiter in inner._node.pump.turned)


SENDS: dict[str, Callable[..., Any]] = {
    "send": lambda producer, body, timeout=None: producer.send(body, timeout=timeout),
    "send_many": lambda producer, body, timeout=None: producer.send_many([body], timeout=timeout),
}

# At the limit in bytes, and on a disk without space: "wait", or "raise" SpoolFull.
TABLE = [
    ("block", "limit", "wait"),
    ("error", "limit", "raise"),
    ("spool", "limit", "raise"),
    ("block", "disk", "raise"),
    ("error", "disk", "raise"),
    ("spool", "disk", "raise"),
]


@pytest.mark.parametrize("how", SENDS)
@pytest.mark.parametrize(("on_full", "cause", "outcome"), TABLE)
def test_what_a_send_does_when_nothing_fits(
    front: Front, tmp_path: Path, fsync: bool, disk: DiskSwitch, on_full: str, cause: str, outcome: str, how: str
) -> None:
    """Both fronts, synced or not, do the same: they wait for consumers, also of other queues, or say why not."""
    send = SENDS[how]
    with front.node("shop", spool=tmp_path / "spool", fsync=fsync, options=OPTIONS) as node:
        filler = node.producer("filler", bytes, on_full="error")
        producer = node.producer("jobs", bytes, on_full=on_full)
        count = fill(filler) if cause == "limit" else 0
        if cause == "disk":
            disk.refusing = errno.ENOSPC
        # With a timeout, or in a mode that does not wait: nothing is accepted, and the error says why.
        with pytest.raises(SpoolFull) as full:
            send(producer, b"early", 0.05 if outcome == "wait" else None)
        assert full.value.limit == (LIMIT if cause == "limit" else None)
        assert full.value.accepted == 0
        body = bytes(50_000)
        if outcome == "wait":
            call = Call(lambda: send(producer, body))
            eventually(lambda: waits(producer), "the wait for space")
            assert len(drain(front, "filler", count)) == count
            assert call.end().error is None
        else:
            disk.refusing = None
            if count:
                assert len(drain(front, "filler", count)) == count
                filler.flush(timeout=DEADLINE)
                storage = core(filler)._node.disk
                assert storage is not None
                storage.look()
                eventually(lambda: storage.spool.used_bytes < LIMIT // 2, "the space")
            send(producer, body)
        assert drain(front, "jobs", 1) == [body]
        producer.flush(timeout=DEADLINE)
        assert all(account.closes for account in node.statistics().producers)


def test_a_message_over_the_limit_waits_for_nothing(front: Front, tmp_path: Path, fsync: bool) -> None:
    """It can never fit."""
    with front.node("shop", spool=tmp_path / "spool", fsync=fsync, options=OPTIONS) as node:
        producer = node.producer("jobs", bytes)
        with pytest.raises(SpoolFull, match="limit"):
            producer.send(bytes(LIMIT))
        with pytest.raises(SpoolFull, match="limit") as full:
            producer.send_many([b"x", bytes(LIMIT), b"y"])
        assert full.value.accepted == 1
        assert drain(front, "jobs", 1) == [b"x"]


def test_memory_first_needs_no_space_on_disk(front: Front, tmp_path: Path, fsync: bool) -> None:
    """With `on_full="spool"` and a consumer there, a spool at its limit refuses nothing."""
    with front.node("shop", spool=tmp_path / "spool", fsync=fsync, options=OPTIONS) as node:
        fill(node.producer("filler", bytes, on_full="error"))
        producer = node.producer("jobs", bytes, on_full="spool")
        with front.node("kitchen") as other:
            consumer = other.consumer("jobs", bytes)
            producer.ready(timeout=DEADLINE)
            for n in range(50):
                producer.send(bytes([n]))
            assert producer.send_many([bytes([n]) for n in range(50, 100)]) == 50
            for n in range(100):
                with consumer.get(timeout=DEADLINE) as body:
                    assert body == bytes([n])
            producer.flush(timeout=DEADLINE)


def test_room_that_comes_while_a_send_looks(front: Front) -> None:
    """A hand-over that was full a moment ago is no full buffer, and refuses nothing."""
    producer = front.node("shop").producer("jobs", bytes, on_full="error")
    producer.send_many([b""])
    inner = core(producer)
    eventually(lambda: inner.end.next == 2, "the hand-over")
    with inner._node.pump.lock:
        while inner.try_send(bytes(100_000), None, None) is not None:
            pass
    eventually(lambda: inner._outbox._pending_cost == 0, "the hand-over")
    assert inner._outbox.overflow(100_000) is None


# What send_many says to have accepted


def delivered(front: Front, producer: Any) -> list[Any]:
    """Everything that was accepted, in order, taken until the producer has nothing left."""
    taken = []
    with front.node("kitchen") as node:
        consumer = node.consumer("jobs", producer_type(producer))
        done = Call(lambda: producer.flush(timeout=DEADLINE))
        while done._thread.is_alive():
            try:
                with consumer.get(timeout=0.02) as body:
                    taken.append(body)
            except TimeoutError:
                pass
        assert done.end().error is None
    return taken


def producer_type(producer: Any) -> Any:
    return core(producer).codec.body_type


@pytest.fixture(params=["memory", "page-cache", "fsync"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where a node keeps its messages."""
    if request.param == "memory":
        return {}
    return {"spool": tmp_path / "spool", "fsync": request.param == "fsync"}


def test_accepted_before_one_that_cannot_be_encoded(front: Front, kept: dict[str, Any]) -> None:
    """The ones before it."""
    with front.node("shop", **kept) as node:
        producer = node.producer("jobs", int)
        with pytest.raises(EncodeError) as caught:
            producer.send_many([0, 1, 2, "three", 4])
        assert caught.value.accepted == 3
        assert delivered(front, producer) == [0, 1, 2]


def test_accepted_before_a_list_of_bodies_ends_in_an_error(front: Front, kept: dict[str, Any]) -> None:
    """None: they are all made before the first is sent."""

    def bodies() -> Iterator[int]:
        yield 0
        raise LookupError("no more")

    with front.node("shop", **kept) as node:
        producer = node.producer("jobs", int)
        with pytest.raises(LookupError) as caught:
            producer.send_many(bodies())
        assert caught.value.accepted == 0  # type: ignore[attr-defined]
        assert delivered(front, producer) == []


@pytest.mark.parametrize("on_full", ["block", "error"])
def test_accepted_before_the_limit(front: Front, tmp_path: Path, fsync: bool, on_full: str) -> None:
    """What fitted, over several calls to the disk; the wait before a timeout changes nothing about it."""
    bodies = [n.to_bytes(4, "big") * 250 for n in range(4000)]
    with front.node("shop", spool=tmp_path / "spool", fsync=fsync, options=OPTIONS) as node:
        producer = node.producer("jobs", bytes, on_full=on_full)
        with pytest.raises(SpoolFull) as caught:
            producer.send_many(bodies, timeout=0.2 if on_full == "block" else None)
        accepted = caught.value.accepted
        assert LIMIT // 2 < accepted * 1000 < LIMIT
        assert node.statistics().producers[0].accepted == accepted
        assert delivered(front, producer) == bodies[:accepted]


@pytest.mark.parametrize("on_full", ["block", "error"])
def test_accepted_before_the_buffer_is_full(front: Front, on_full: str) -> None:
    """The same, of memory; `timeout` is one for the call as a whole."""
    with front.node("shop") as node:
        producer = node.producer("jobs", bytes, on_full=on_full, buffer_bytes=64 * 1024)
        bodies = [n.to_bytes(4, "big") * 250 for n in range(200)]
        with pytest.raises(QueueFull) as caught:
            producer.send_many(bodies, timeout=0.2 if on_full == "block" else None)
        accepted = caught.value.accepted
        assert 0 < accepted < 65
        assert delivered(front, producer) == bodies[:accepted]


def test_accepted_when_the_node_closes(front: Front, tmp_path: Path, fsync: bool) -> None:
    """A call that waits for space ends with NodeClosed, and what it had accepted is sent by the next life."""
    bodies = [n.to_bytes(4, "big") * 250 for n in range(4000)]
    node = front.node("shop", spool=tmp_path / "spool", fsync=fsync, options=OPTIONS)
    producer = node.producer("jobs", bytes)
    producer.send_many([])
    call = Call(lambda: producer.send_many(bodies))
    eventually(lambda: waits(producer), "the wait for space")
    node.close(0)
    error = call.end().error
    assert isinstance(error, NodeClosed)
    accepted = error.accepted  # type: ignore[attr-defined]
    assert node.statistics().producers[0].accepted == accepted > 0
    with front.node("shop", spool=tmp_path / "spool", fsync=fsync) as node:
        assert delivered(front, node.producer("jobs", bytes)) == bodies[:accepted]


def test_accepted_when_the_sync_fails(front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written and not confirmed counts as accepted: it is sent as soon as it is safe."""
    broken = threading.Event()
    sync = RealFiles.sync

    def switched(files: RealFiles, descriptor: int) -> None:
        if broken.is_set():
            raise OSError(errno.EIO, "no")
        sync(files, descriptor)

    monkeypatch.setattr(RealFiles, "sync", switched)
    with front.node("shop", spool=tmp_path / "spool", fsync=True) as node:
        producer = node.producer("jobs", int)
        producer.send(0)
        broken.set()
        with pytest.raises(NotConfirmed) as caught:
            producer.send_many([1, 2, 3])
        broken.clear()
        assert caught.value.accepted == 3  # type: ignore[attr-defined]
        assert delivered(front, producer) == [0, 1, 2, 3]


def test_ctrl_c_between_storing_and_handing_over(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk is accepted, under its own number; nothing after it is taken for another message."""
    interrupted = threading.Event()

    def interrupting(append: Callable[..., int | None]) -> Callable[..., int | None]:
        def append_and_interrupt(*arguments: Any) -> int | None:
            count = append(*arguments)
            if interrupted.is_set():
                interrupted.clear()
                raise KeyboardInterrupt
            return count

        return append_and_interrupt

    monkeypatch.setattr(Store, "append", interrupting(Store.append))
    monkeypatch.setattr(Store, "append_one", interrupting(Store.append_one))
    with Node("shop", spool=tmp_path / "spool") as node:
        producer = node.producer("jobs", str)
        producer.send("a")
        interrupted.set()
        with pytest.raises(KeyboardInterrupt):
            producer.send("b", headers={"k": "v"})
        producer.send("c")
        interrupted.set()
        with pytest.raises(KeyboardInterrupt) as caught:
            producer.send_many(["d", "e"])
        assert caught.value.accepted == 2  # type: ignore[attr-defined]
        last = producer.send("f")
        assert last.sequence == 6
        with Node("kitchen") as other:
            consumer = other.consumer("jobs", str)
            got = []
            for _ in range(6):
                message = consumer.get(timeout=DEADLINE)
                got.append((message.body, message.headers, int(message.id.rpartition("/")[2])))
                message.ack()
        headers: list[dict[str, str]] = [{}, {"k": "v"}, {}, {}, {}, {}]
        assert got == list(zip("abcdef", headers, range(1, 7), strict=True))
        producer.flush(timeout=DEADLINE)
        assert node.statistics().producers[0].closes


# Cancelled while the disk is slow


@pytest.mark.usefixtures("runtime")
def test_a_cancelled_send_is_accepted_or_it_is_not(tmp_path: Path, disk: DiskSwitch) -> None:
    """What the disk has in hand is delivered; what still waits for it never is."""

    async def story() -> None:
        async with AsyncNode("shop", spool=tmp_path / "spool") as node:
            first, second = node.producer("first", int), node.producer("second", int)
            await first.send(0)
            await second.send(0)
            disk.go_on.clear()
            in_hand = asyncio.create_task(first.send(1))
            await asyncio.to_thread(disk.entered.wait, DEADLINE)
            coming = asyncio.create_task(second.send(1))
            several = asyncio.create_task(second.send_many([2, 3]))
            more = asyncio.create_task(first.send_many([4, 5]))
            while len(second._gate) < 2:
                await asyncio.sleep(0)
            tasks: tuple[asyncio.Task[Any], ...] = (in_hand, coming, several, more)
            for task in tasks:
                task.cancel()
            for task in tasks[:2]:
                with pytest.raises(asyncio.CancelledError):
                    await task
            for task in tasks[2:]:
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                assert caught.value.accepted == 0  # type: ignore[attr-defined]
            disk.go_on.set()
            await first.send(9)
            await second.send(9)
            taken: dict[str, list[int]] = {"first": [], "second": []}
            async with AsyncNode("kitchen") as other:
                for queue, count in (("first", 3), ("second", 2)):
                    consumer = other.consumer(queue, int)
                    for _ in range(count):
                        message = await consumer.get(timeout=DEADLINE)
                        with message as body:
                            taken[queue].append(body)
                await first.flush(timeout=DEADLINE)
                await second.flush(timeout=DEADLINE)
            assert taken == {"first": [0, 1, 9], "second": [0, 9]}

    asyncio.run(story())


@pytest.mark.usefixtures("runtime")
def test_a_cancelled_send_many_counts_what_the_disk_has_in_hand(tmp_path: Path, disk: DiskSwitch) -> None:
    """It ends when that is known."""

    async def story() -> None:
        async with AsyncNode("shop", spool=tmp_path / "spool", options=Options(drain_timeout=0)) as node:
            producer = node.producer("jobs", int)
            await producer.send(0)
            disk.go_on.clear()
            task = asyncio.create_task(producer.send_many([1, 2]))
            await asyncio.to_thread(disk.entered.wait, DEADLINE)
            task.cancel()
            while not task.cancelling():
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not task.done()
            disk.go_on.set()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert caught.value.accepted == 2  # type: ignore[attr-defined]
            assert producer.last == 3

    asyncio.run(story())


@pytest.mark.usefixtures("runtime")
def test_the_lease_stands_still_while_a_send_waits_for_the_disk(
    tmp_path: Path, disk: DiskSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that sends is not to blame for a slow disk; but without a timeout it does not wait for ever."""

    async def story() -> None:
        async with AsyncNode("shop", spool=tmp_path / "spool", options=Options(drain_timeout=0)) as node:
            producer, other, consumer = node.producer("a", int), node.producer("b", int), node.consumer("a", int)
            await producer.send(0)
            await other.send(0)
            message = await consumer.get(timeout=DEADLINE)
            disk.go_on.clear()
            task = asyncio.create_task(producer.send(1))  # has what this task has in hand
            await asyncio.to_thread(disk.entered.wait, DEADLINE)
            assert message._delivery.pauses == 1
            monkeypatch.setattr(hands, "HANDLER_BLOCK_MAX", 0.05)
            with pytest.raises(QueueFull):
                await other.send(1)
            assert message._delivery.pauses == 1
            disk.go_on.set()
            await task
            assert message._delivery.pauses == 0
            message.ack()

    asyncio.run(story())


def test_deposits_are_not_idle_before_they_are_handed_over(tmp_path: Path) -> None:
    """A node that closes asks this to know whether the engine will hear of all that is stored."""
    seen: list[tuple[str, bool]] = []

    class Handle:
        queue = "jobs"
        writing = threading.Lock()

        def keep_in_memory(self, deposit: Deposit) -> bool:
            return False

        def write(self, deposit: Deposit) -> None:
            deposit.first, deposit.count = 1, 1
            seen.append(("write", deposits.idle))

        def changed(self) -> None:
            pass

        def deposited(self, deposit: Deposit) -> None:
            seen.append(("hand over", deposits.idle))

    deposits = Deposits(Handle(), None)  # type: ignore[arg-type]
    assert deposits.idle
    deposits.add(Deposit([b"x"], None))
    assert (deposits.store(), deposits.idle) == (True, False)
    deposits.stored(None)
    assert deposits.idle
    assert seen == [("write", False), ("hand over", False)]


# A node that closes, or a task that is cancelled, in each wait with the spool


def test_closing_in_each_wait(front: Front, tmp_path: Path, fsync: bool) -> None:
    """Every call ends with NodeClosed; what was accepted is there at the next start, and nothing else."""
    node = front.node("shop", spool=tmp_path / "spool", fsync=fsync, options=OPTIONS)
    producer, full = node.producer("jobs", bytes), node.producer("full", bytes)
    receipt = producer.send(b"first")
    filled = fill(node.producer("filler", bytes, on_full="error"))
    calls = {
        "confirm": Call(lambda: producer.wait(receipt, "processed")),
        "flush": Call(producer.flush),
        "ready": Call(producer.ready),
        "space": Call(lambda: full.send(bytes(50_000))),
    }
    eventually(lambda: len(core(producer)._gate) == 3 and waits(full), "the waits")
    node.close(0)
    assert {name: type(call.end().error) for name, call in calls.items()} == dict.fromkeys(calls, NodeClosed)
    with front.node("shop", spool=tmp_path / "spool", fsync=fsync, options=OPTIONS) as node:
        recovered = {account.queue: account.recovered for account in node.statistics().producers}
        assert recovered == {"jobs": 1, "full": 0, "filler": filled}


def test_closing_while_a_send_waits_for_its_turn_at_the_disk(front: Front, tmp_path: Path, disk: DiskSwitch) -> None:
    """What the disk has not begun with when the node is closed is refused, and never there; the other is stored."""
    node = front.node("shop", spool=tmp_path / "spool", fsync=True, options=OPTIONS)
    producer, other = node.producer("jobs", int), node.producer("other", int)
    producer.send(0)
    other.send(0)
    disk.go_on.clear()
    in_hand = Call(lambda: producer.send(1))
    outbox = core(producer)._outbox
    assert isinstance(outbox, SpooledOutbox)
    deposits = outbox.deposits
    assert deposits is not None
    eventually(lambda: deposits._in_hand is not None, "the write")
    coming = Call(lambda: other.send(1))
    eventually(lambda: len(core(other)._gate) == 1, "the wait for the disk")
    closing = Call(lambda: node.close(0))
    assert isinstance(coming.end().error, NodeClosed)
    disk.go_on.set()
    assert closing.end().error is None or isinstance(closing.error, Undelivered)
    assert in_hand.end().error is None
    with front.node("shop", spool=tmp_path / "spool", fsync=True) as node:
        recovered = {account.queue: account.recovered for account in node.statistics().producers}
        assert recovered == {"jobs": 2, "other": 1}


@pytest.mark.usefixtures("runtime")
def test_a_send_that_is_cancelled_while_it_waits_for_space(tmp_path: Path, fsync: bool) -> None:
    """It is not accepted, and the next one is."""

    async def story() -> None:
        async with AsyncNode("shop", spool=tmp_path / "spool", fsync=fsync, options=OPTIONS) as node:
            filler, producer = node.producer("filler", bytes, on_full="error"), node.producer("jobs", bytes)
            count = 0
            for size in (50_000, 500, 1):
                try:
                    while True:
                        await filler.send(bytes(size))
                        count += 1
                except SpoolFull:
                    pass
            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(producer.send(bytes(50_000))),
                asyncio.create_task(producer.send_many([bytes(50_000)] * 2)),
            ]
            while sum(getattr(w, "wake", None) == producer._gate.open for w in node._context.pump.turned) < 2:
                await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            async with AsyncNode("kitchen") as other:
                consumer = other.consumer("filler", bytes)
                for _ in range(count):
                    (await consumer.get(timeout=DEADLINE)).ack()
                await filler.flush(timeout=DEADLINE)
                await producer.send(b"next", timeout=DEADLINE)
                message = await other.consumer("jobs", bytes).get(timeout=DEADLINE)
                with message as body:
                    assert body == b"next"
                await producer.flush(timeout=DEADLINE)
            assert [a.accepted for a in node.statistics().producers if a.queue == "jobs"] == [1]

    asyncio.run(story())
