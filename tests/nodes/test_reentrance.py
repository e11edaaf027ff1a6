"""User code that runs in the middle of our calls, and in our own threads: finalisers, signal handlers, log handlers."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from peerfabric import AsyncNode, FabricError, Node, NodeClosed, Options, TimedOut, Undelivered, WouldDeadlock
from tests.nodes.conftest import DEADLINE, eventually

pytestmark = pytest.mark.usefixtures("runtime")

SPOOLED: list[dict[str, Any] | None] = [None, {}, {"fsync": True}]


class Intruder:
    """Calls a node whenever it is let; what it is refused, it is refused with the error that says so.

    accepted    how many of its messages were
    """

    def __init__(self, node: Node, *, consumes: bool) -> None:
        self.accepted = self.refused = 0
        self.wrong: list[BaseException] = []
        self.is_let = True
        self._inside = False
        self._node, self._consumes = node, consumes
        self._producers = [node.producer("orders", int), node.producer("others", int)]
        self._publisher, self._consumer = node.publisher("prices", int), node.consumer("orders", int)

    def __call__(self) -> None:
        if self._inside or not self.is_let:
            return
        self._inside = True
        try:
            for producer in self._producers:
                if self._try(lambda producer=producer: producer.send(0)):  # type: ignore[misc]
                    self.accepted += 1
            self._try(lambda: self._publisher.publish(0))
            self._try(self._node.statistics)
            self._try(self._node.peers)
            self._try(lambda: self._node.producer("orders", int))
            self._try(lambda: self._node.subscriber("prices", int))
            if self._consumes:
                self._try(lambda: self._consumer.get(timeout=0).ack())
        finally:
            self._inside = False

    def _try(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except WouldDeadlock:
            self.refused += 1
        except TimedOut:
            pass
        except BaseException as error:
            self.wrong.append(error)
        else:
            return True
        return False


@contextmanager
def collecting(intrude: Callable[[], None]) -> Iterator[None]:
    """Garbage is collected again and again, in whatever thread, and its finalisers call `intrude`."""
    over = threading.Event()
    lying: list[None] = []

    class Garbage:
        def __init__(self) -> None:
            self.itself = self
            lying.append(None)

        def __del__(self) -> None:
            lying.pop()
            intrude()

    def litter() -> None:
        while not over.wait(0.0005):
            if len(lying) < 2:  # else one collection might never end
                Garbage()

    thread = threading.Thread(target=litter)
    before = gc.get_threshold()
    gc.freeze()  # what other tests have left would be looked through each time
    thread.start()
    gc.set_threshold(150, 4, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        over.set()
        thread.join()


@contextmanager
def interrupted(intrude: Callable[[], None]) -> Iterator[None]:
    """The main thread is interrupted again and again by a signal whose handler calls `intrude`."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: intrude())
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0003)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def take_all(node: Node, queue: str, taken: list[int], ledger: Path | None) -> threading.Thread:
    consumer = node.consumer(queue, int, ledger=ledger)

    def take() -> None:
        for message in consumer:
            taken.append(message.body)
            message.ack()

    thread = threading.Thread(target=take)
    thread.start()
    return thread


@pytest.mark.parametrize("disturbed", [collecting, interrupted])
@pytest.mark.parametrize("spooled", SPOOLED, ids=["memory", "stored", "synced"])
def test_user_code_in_the_middle_of_everything(tmp_path: Path, disturbed: Any, spooled: dict[str, Any] | None) -> None:
    """Each of its calls works or is refused: nothing stands still, and every message that was accepted is processed."""
    node = Node(**({} if spooled is None else {"spool": tmp_path / "spool", **spooled}))
    with node:
        intruder = Intruder(node, consumes=spooled is None)
        producer = node.producer("orders", int)
        taken: list[int] = []
        threads = [take_all(node, queue, taken, None) for queue in ("orders", "others")]
        sent = 0
        with disturbed(intruder):
            while sent < 400 or (intruder.accepted + intruder.refused < 60 and not intruder.wrong):
                producer.send(1)
                sent += 1
                sent += producer.send_many([1] * 10)
            intruder.is_let = False
        producer.flush(timeout=DEADLINE)
        node.producer("others", int).flush(timeout=DEADLINE)
    for thread in threads:
        thread.join(DEADLINE)
    assert intruder.wrong == []
    accounts = node.statistics().producers
    assert all(found.closes for found in accounts)
    assert sum(found.accepted for found in accounts) == sent + intruder.accepted
    assert sum(found.acked for found in accounts) == sent + intruder.accepted


def test_acks_of_finalisers(tmp_path: Path) -> None:
    """Without a ledger they always work; with one they may be refused, and the message comes again."""
    for ledger in (None, tmp_path / "ledger"):
        with Node() as node:
            producer, consumer = node.producer("orders", int), node.consumer("orders", int, ledger=ledger)
            held: list[Any] = []
            wrong: list[BaseException] = []

            def ack(held: list[Any] = held, wrong: list[BaseException] = wrong) -> None:
                while held:
                    try:
                        held.pop().ack()
                    except WouldDeadlock:
                        pass
                    except BaseException as error:
                        wrong.append(error)

            producer.send_many(range(2000))
            processed: set[int] = set()
            with collecting(ack):
                while len(processed) < 2000:
                    try:
                        message = consumer.get(timeout=0.01)
                    except TimedOut:
                        gc.collect()
                        continue
                    processed.add(message.body)
                    held.append(message)
            ack()
            while node.statistics().producers[0].acked < 2000:
                with suppress(TimedOut), consumer.get(timeout=0.05):
                    pass
            assert wrong == []


def test_in_a_thread_of_ours_nothing_waits() -> None:
    """What would wait for the thread that it keeps is refused; what need not wait works there."""
    with Node() as node:
        orders, full = node.producer("orders", int), node.producer("full", int, buffer_bytes=1)
        consumer, subscriber = node.consumer("others", int), node.subscriber("prices", int)
        full.send(1)
        outcomes: dict[str, str] = {}
        calls: dict[str, Callable[[], object]] = {
            "send": lambda: orders.send(1),
            "full": lambda: full.send(2),
            "flush": orders.flush,
            "confirm": lambda: orders.send(1, confirm="processed"),
            "ready": lambda: orders.ready(5),
            "get": consumer.get,
            "update": subscriber.get,
            "close": node.close,
            "statistics": node.statistics,
        }

        def visit(endpoint: str) -> None:
            for name, call in calls.items():
                try:
                    call()
                    outcomes[name] = "worked"
                except WouldDeadlock as error:
                    outcomes[name] = str(error)

        pump = node._async._context.pump
        pump.on_superseded = visit
        with pump.lock:
            pump.engine.links.superseded = "tcp://10.0.0.9:1"
        pump.wake()
        eventually(lambda: len(outcomes) == len(calls))
        worked = {name for name, outcome in outcomes.items() if outcome == "worked"}
        assert worked == {"send", "statistics"}
        assert all("queue.SimpleQueue" in outcomes[name] for name in calls.keys() - worked)
        for queue in ("orders", "full"):
            node.consumer(queue, int).get(timeout=DEADLINE).ack()
        orders.flush(timeout=DEADLINE)
        assert [found.accepted for found in node.statistics().producers] == [1, 1]  # what was refused was not accepted


class Sending(logging.Handler):
    """Sends each line of the log over a node, in a thread for which it waits: whatever that needs must be free."""

    def __init__(self, send: Callable[[str], object]) -> None:
        super().__init__()
        self._send = send
        self.failed: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        def send() -> None:
            try:
                self._send(record.getMessage())
            except NodeClosed:
                pass
            except BaseException as error:
                self.failed.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        thread.join(DEADLINE / 3)
        if thread.is_alive():
            self.failed.append(f"it waits for who writes {record.getMessage()!r}")


@contextmanager
def logged_by(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("peerfabric")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def test_lines_of_the_log_are_sent_with_the_node_that_writes_them(tmp_path: Path) -> None:
    """From its start to its end: no line is written where a lock of ours is held."""
    damaged = tmp_path / "ledger"
    for options in ({}, {"spool": tmp_path / "spool"}, {"spool": tmp_path / "spool"}):
        node = Node("collector", options=Options(drain_timeout=0.2), **options)  # type: ignore[arg-type]

        def send(line: str, node: Node = node) -> None:
            node.producer("lines", str).send(line)
            node.statistics()

        handler = Sending(send)
        with logged_by(handler), suppress(Undelivered), node, Node("other") as other:
            other.consumer("others", int, ledger=damaged)
            consumer = other.subscriber("prices", int)
            publisher = node.publisher("prices", str)
            publisher.ready(timeout=DEADLINE)
            publisher.publish("no number")
            eventually(lambda consumer=consumer: consumer.missed or _takes_nothing(consumer))  # type: ignore[misc]
            taking = other.consumer("lines", str)
            taking.get(timeout=DEADLINE).ack()
            with suppress(TimedOut):
                while True:
                    taking.get(timeout=0.1).ack()
        assert handler.failed == []


def _takes_nothing(subscriber: Any) -> bool:
    with suppress(TimedOut):
        subscriber.get(timeout=0.01)
    return False


def test_finalisers_in_an_event_loop() -> None:
    """What an `AsyncNode` offers without awaiting it works there, or is refused."""
    wrong: list[BaseException] = []

    async def story() -> Any:
        async with AsyncNode() as node:
            producer, consumer = node.producer("orders", int), node.consumer("orders", int)

            def intrude() -> None:
                for call in (node.statistics, node.peers, lambda: node.producer("orders", int)):
                    try:
                        call()
                    except WouldDeadlock:
                        pass
                    except FabricError as error:
                        wrong.append(error)

            with collecting(intrude):
                for number in range(2000):
                    await producer.send(number)
                    (await consumer.get(timeout=DEADLINE)).ack()
            await producer.flush(timeout=DEADLINE)
        return node.statistics().producers[0]

    account = asyncio.run(story())
    assert wrong == []
    assert (account.accepted, account.acked, account.closes) == (2000, 2000, True)
