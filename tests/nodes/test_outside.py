"""Nodes as others than their programs see them, with threads and event loops, spools and slots."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import msgspec
import pytest

from peerfabric import Node, Options, Undelivered, status
from peerfabric.nodes import process
from peerfabric.nodes.aio.outside import Outside
from tests.nodes.conftest import Front, eventually


def outside(name: str) -> Outside:
    """The node of that name in this process."""
    [found] = [each for each in process.residents() if each.outside().status().name == name]
    return cast("Outside", found.outside())


@contextmanager
def left_behind(name: str) -> Iterator[Node]:
    """A node that is closed with what nobody consumes."""
    node = Node(name)
    try:
        yield node
    finally:
        with suppress(Undelivered):
            node.close(0)


def line_of(text: str) -> str:
    """Where this file says that."""
    lines = Path(__file__).read_text().splitlines()
    [number] = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {text}")]
    return f"{__file__}:{number}"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What handlers wait for; open at the end of the test, whatever comes of it."""
    made = threading.Event()
    yield made
    made.set()


def test_a_queue_and_its_handler(front: Front, gate: threading.Event) -> None:
    """What waits, what is in hand, in which handler, and where that is; and when it is over, how long it took."""
    a, b = front.node("a"), front.node("b")
    held = threading.Event()

    def wait() -> None:
        held.set()
        gate.wait(60)  # in a thread

    async def work(body: int) -> None:
        wait()

    def work_in_thread(body: int) -> None:
        wait()

    b.on_message("jobs")(work if front.is_async else work_in_thread)

    with a:
        out = a.producer("jobs", int)
        # The loop of an async front will be held by the handler.
        starter = threading.Thread(target=b.__enter__)
        starter.start()
        starter.join(60)
        out.send_many([1, 2, 3])
        assert held.wait(60)
        looked = outside("b")
        eventually(lambda: looked.status().takes[0].running, "something in hand")
        time.sleep(0.05)
        taking = looked.status().takes[0]
        [running] = taking.running[:1]
        assert running.line == line_of("in a thread")
        assert running.handler.endswith("work" if front.is_async else "work_in_thread")
        assert running.thread
        assert 0.0 <= running.age < 60
        assert 200 < running.lease_left <= 300
        assert (taking.producers, taking.lease, taking.takers) == (("a",), 300.0, 1)
        sending = outside("a").status().sends[0]
        assert sending.account.accepted == 3
        assert sending.consumers == ("b",)
        assert sending.oldest_unsettled is not None
        gate.set()
        out.flush(60)
        eventually(lambda: sum(looked.status().takes[0].seconds) == 3, "all three counted")
        taking = looked.status().takes[0]
        assert (taking.running, taking.account.processed) == ((), 3)
        assert sum(taking.seconds[:3]) < 3, "one of them took its time"
        assert taking.seconds_sum >= 0.05
        assert taking.last_taken is not None


def test_a_task_that_waits(front: Front) -> None:
    """The line at which a suspended handler is, among the coroutines that it awaits."""
    if not front.is_async:
        pytest.skip("of tasks")
    import asyncio

    a = front.node("a")
    over = asyncio.Event()

    async def inner() -> None:
        await over.wait()  # in a task

    async def work(body: int) -> None:
        await inner()

    a.on_message("jobs", concurrency=2)(work)
    with a:
        a.producer("jobs", int).send(1)
        eventually(lambda: outside("a").status().takes[0].running, "a call")
        [running] = outside("a").status().takes[0].running
        assert running.line == line_of("in a task")
        assert "work" in running.thread
        front.loop.call_soon_threadsafe(over.set)  # type: ignore[union-attr]


def test_a_loop_of_the_program(runtime: Path) -> None:
    """A message that no handler has; and batches."""
    with Node("a") as a:
        out = a.producer("jobs", int)
        out.send_many([1, 2, 3])
        jobs = a.consumer("jobs", int)
        with jobs.get(timeout=60):
            eventually(lambda: outside("a").status().takes[0].running, "something in hand")
            [running] = outside("a").status().takes[0].running
            assert (running.handler, running.thread) == ("", threading.current_thread().name)
            assert running.line.startswith(f"{__file__}:")
        batch = next(iter(jobs.batches(max_wait=60, max_size=2)))
        batch.ack()
        assert sum(outside("a").status().takes[0].seconds) == 3


def test_each_way_to_settle_is_in_the_histogram(front: Front) -> None:
    """Acked, nacked, rejected, given back: they were all in hand."""
    with front.node("a") as a:
        out = a.producer("jobs", int, max_attempts=1)
        jobs = a.consumer("jobs", int)
        out.send_many([1, 2, 3, 4])
        for settle in ("ack", "nack", "reject", "give_back"):
            message = jobs.get(60)
            getattr(message, settle)()
            getattr(message, settle)()  # no matter
        jobs.get(60).ack()
        assert sum(outside("a").status().takes[0].seconds) == 5


def test_senders_that_wait_for_room(front: Front) -> None:
    """They are counted, and no more once they are over."""
    with front.node("a") as a:
        out = a.producer("jobs", int, buffer_bytes=100)
        out.send(1)
        failed: list[BaseException] = []

        def send() -> None:
            try:
                out.send(2, timeout=60)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        look = outside("a")
        eventually(lambda: look.status().sends[0].blocked_senders == 2, "two that wait")
        assert look.status().sends[0].on_full == "block"
        for body in (1, 2, 2):
            with a.consumer("jobs", int).get(60) as got:
                assert got == body
        for thread in threads:
            thread.join()
        assert not failed
        assert look.status().sends[0].blocked_senders == 0


def test_what_the_pump_has_not_taken_is_counted(runtime: Path) -> None:
    """As in `statistics`: the accounting closes at each look."""
    with left_behind("a") as a:
        out = a.producer("jobs", int)
        out.send(0)
        look = outside("a")
        for count in range(1, 50):
            out.send(count)
            account = look.status().sends[0].account
            assert account.accepted == account.waiting == count + 1
            assert account.closes


def test_a_busy_engine(runtime: Path) -> None:
    """Within the time that was given something is told all the same, and why not more."""
    with left_behind("a") as a:
        a.producer("jobs", int).send(1)
        look = outside("a")
        [resident] = process.residents()
        lock = resident.node.pump.lock
        begun, over = threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                begun.set()
                over.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        assert begun.wait(60)
        try:
            began = time.monotonic()
            shown = look.status(wait=0.2)
            assert 0.2 <= time.monotonic() - began < 20
            assert (shown.engine, shown.name, shown.state, shown.sends) == ("busy 0.2 s", "a", "running", ())
            eventually(lambda: look.status(wait=0.0).pump_late > 0.05, "a late pump")
        finally:
            over.set()
            holder.join()
        eventually(lambda: look.status().pump_late < 0.05, "a pump that has come")
        assert look.status().sends[0].account.accepted == 1


def test_many_queues(runtime: Path) -> None:
    """The deepest are shown, in several goes; all of them if asked for; how many are not is told."""
    with left_behind("a") as a:
        for number in range(600):
            a.producer(f"q{number:03}", int)
        a.producer("q300", int).send_many([1, 2])
        look = outside("a")
        eventually(lambda: look.status(queues=1).sends[0].queue == "q300", "the deepest one first")
        assert [look.status(queues=2).more, len(look.status(queues=2).sends)] == [598, 2]
        assert (look.status(queues=2).limit, look.status().limit) == (2, 200)
        assert sorted(each.queue for each in look.status(queues=10_000).sends) == [f"q{n:03}" for n in range(600)]


def test_spool_and_slots(runtime: Path, tmp_path: Path) -> None:
    """Bytes, letters and the disk; and who has which slot of the folder."""
    folder = tmp_path / "spool"
    with Node("a", spool=folder, fsync=True, options=Options(spool_bytes=2**30)) as a, Node("b", spool=folder) as b:
        out = a.producer("jobs", int, max_attempts=1)
        b.producer("others", int)
        out.send(1)
        a.consumer("jobs", int).get(60).reject("no")
        look = outside("a")
        eventually(lambda: look.status().sends[0].letters.count == 1, "a letter")
        spool = look.status().spool
        assert spool is not None
        assert (spool.folder, spool.slot, spool.limit, spool.letters, spool.spare_ok) == (
            str(folder),
            0,
            2**30,
            1,
            True,
        )
        assert 0 < spool.used < spool.disk_free < spool.disk_size
        assert spool.last_sync is not None
        assert [(each.slot, each.state, each.name) for each in spool.slots] == [
            (0, "running", "a"),
            (1, "running", "b"),
        ]
        assert {each.pid for each in spool.slots} == {os.getpid()}
        sent = look.status().sends[0]
        assert (sent.spooled, sent.letters.by_reason) == (True, {"rejected": 1})
    with Node("c", spool=folder):
        spool = outside("c").status().spool
        assert spool is not None
        assert [(each.slot, each.state, each.letters) for each in spool.slots] == [(0, "running", 0), (1, "empty", 0)]


def test_the_document_travels(front: Front) -> None:
    """As JSON and back."""
    with front.node("a") as a:
        a.producer("jobs", int).send(1)
        message = a.consumer("jobs", int).get(60)
        found = outside("a").status()
        assert msgspec.json.decode(msgspec.json.encode(found), type=status.NodeStatus) == found
        message.ack()


def test_residents(front: Front) -> None:
    """The nodes that run, from their start to their end."""
    before = len(process.residents())
    node = front.node("a")
    assert len(process.residents()) == before
    with node:
        assert len(process.residents()) == before + 1
    assert len(process.residents()) == before
