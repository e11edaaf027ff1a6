"""What a node counts when it closes: every message that was accepted, once, whoever is late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peerfabric import AsyncNode, FabricError, Node, NodeClosed, Options, Undelivered
from peerfabric.nodes.outbox.deposits import Deposits
from peerfabric.nodes.outbox.outbox import Outbox
from tests.nodes.conftest import DEADLINE, eventually

ROUNDS = 4


@contextmanager
def busy() -> Iterator[None]:
    """Threads that compute, and let the I/O thread have the interpreter as seldom as they must."""
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(2000))

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def account(node: Any) -> Any:
    [found] = node.statistics().producers
    assert found.closes
    return found


def close(node: Any, timeout: float | None) -> int:
    """How many messages the close says are gone."""
    try:
        node.close(timeout)
    except Undelivered as undelivered:
        return undelivered.waiting + undelivered.in_flight
    return 0


@pytest.mark.parametrize("timeout", [0, 0.003])
@pytest.mark.parametrize("on_full", ["block", "drop_oldest", "drop_newest"])
def test_a_close_counts_what_the_pump_has_not_taken_yet(front: Any, timeout: float, on_full: str) -> None:
    """However late the I/O thread is, every send that returned is accepted, and `Undelivered` says all that is left."""
    with busy():
        for _ in range(ROUNDS):
            node = front.node()
            producer = node.producer("orders", int, on_full=on_full)
            for number in range(10):
                producer.send(number)
            producer.send_many(range(50))
            said = close(node, timeout)
            found = account(node)
            assert (found.accepted, found.left_at_close, said) == (60, 60, 60)


def racing_sends(node: Any, options: dict[str, Any]) -> tuple[list[threading.Thread], list[int]]:
    """Threads that send one by one and in batches until the node is closed, and how many messages were accepted."""
    producer = node.producer("orders", int, **options)
    accepted: list[int] = []

    def send() -> None:
        count = 0
        try:
            while True:
                producer.send(count)
                count += 1
                try:
                    count += producer.send_many([1, 2, 3])
                except FabricError as error:
                    count += error.accepted  # type: ignore[attr-defined]
                    raise
        except NodeClosed:
            accepted.append(count)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: any(found.accepted > 10 for found in node.statistics().producers))
    return threads, accepted


@pytest.mark.parametrize("timeout", [0, 0.01])
@pytest.mark.parametrize(
    ("spooled", "options"),
    [
        (None, {}),
        (None, {"on_full": "drop_newest", "buffer_bytes": 10_000}),
        (None, {"on_full": "drop_oldest", "buffer_bytes": 10_000}),
        ({}, {}),
        ({}, {"on_full": "spool"}),
        ({"fsync": True}, {}),
    ],
    ids=["memory", "drop_newest", "drop_oldest", "stored", "spool", "synced"],
)
def test_sends_that_race_a_close_are_counted_or_refused(
    front: Any, tmp_path: Path, timeout: float, spooled: dict[str, Any] | None, options: dict[str, Any]
) -> None:
    """The receipts given are as many as the node says it accepted, and what is not settled is left, or kept on disk."""
    for number in range(3):
        kept = spooled if spooled is None else {"spool": tmp_path / str(number), **spooled}
        node = front.node(**(kept or {}))
        threads, accepted = racing_sends(node, options)
        said = close(node, timeout)
        for thread in threads:
            thread.join(DEADLINE)
        found = account(node)
        assert sum(accepted) == found.accepted
        assert len(accepted) == 3
        assert found.acked == found.in_flight == found.waiting == found.on_disk == 0
        if spooled is None:
            assert said == found.left_at_close
        elif options.get("on_full") != "spool":
            assert said == 0
            again = front.node(**(kept or {}))
            again.producer("orders", int).send(1)
            assert (close(again, 0), account(again).recovered) == (0, found.left_at_close)


@pytest.mark.usefixtures("runtime")
def test_acks_that_come_while_the_node_parts_count() -> None:
    """The count is taken last: `Undelivered` and the last statistics speak of the same instant."""
    for timeout in (0, 0.002, 0.004, 0.008):
        with Node() as kitchen:
            consumer = kitchen.consumer("orders", int)

            def work(consumer: Any = consumer) -> None:
                for message in consumer:
                    message.ack()

            worker = threading.Thread(target=work)
            worker.start()
            shop = Node()
            producer = shop.producer("orders", int)
            producer.ready(timeout=DEADLINE)
            producer.send_many(range(20_000))
            said = close(shop, timeout)
            found = account(shop)
            assert (found.accepted, said) == (20_000, found.left_at_close)
            kitchen.close()
            worker.join(DEADLINE)


def test_a_dead_letter_is_not_retried_into_a_closed_node(front: Any) -> None:
    """Between the look at the node and the hand-over it closed: the retry is refused, and the letter stays."""
    node = front.node()
    producer, consumer = node.producer("orders", int), node.consumer("orders", int)
    producer.send(1)
    consumer.get(timeout=DEADLINE).reject("no")
    eventually(lambda: node.dead_letters("orders"))
    [letter] = node.dead_letters("orders")
    handle = (producer.target if front.is_async else producer._async)._outbox
    handle.close()
    with pytest.raises(NodeClosed):
        letter.retry()
    assert len(node.dead_letters("orders")) == 1
    node.close(0)
    assert account(node).retried == 0


def test_what_the_pump_failed_to_hand_over_is_counted(front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that fails in the middle of it loses nothing: the next one, or the close, takes it again."""
    node = front.node()
    producer = node.producer("orders", int)
    node.statistics()
    failed: list[None] = []

    def failing(self: Outbox, engine: Any, now: float, real: Callable[..., None] = Outbox.hand_over) -> None:
        if failed:
            real(self, engine, now)
            return
        with monkeypatch.context() as patch:
            patch.setattr(engine.producers, "accept", lambda *_, **__: 1 / 0)
            failed.append(None)
            real(self, engine, now)

    monkeypatch.setattr(Outbox, "hand_over", failing)
    for number in range(10):
        producer.send(number)
    eventually(lambda: failed)
    assert close(node, 0) == 10
    assert account(node).left_at_close == 10


def test_what_was_written_and_not_synced_is_counted(
    front: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender is told that it is not safe yet and may be processed; the last account has it, like the next start."""
    node = front.node(spool=tmp_path / "spool", fsync=True)
    producer = node.producer("orders", int)
    producer.send(1)
    with monkeypatch.context() as patch:
        patch.setattr(Deposits, "stored", lambda self, error: None)  # as if the sync took for ever
        with pytest.raises(FabricError, match="do not send it again"):
            producer.send(2, timeout=0.05)
        node.close(0)
    found = account(node)
    assert (found.accepted, found.left_at_close) == (2, 2)


@pytest.mark.usefixtures("runtime")
def test_updates_that_were_handed_over_are_published_before_the_end() -> None:
    """A publisher's last updates are part of what its subscribers are told of, however late the I/O thread is."""
    with busy():
        for _ in range(ROUNDS):
            node = Node()
            publisher = node.publisher("prices", int)
            for number in range(50):
                publisher.publish(number)
            node.close(0)
            [found] = node.statistics().publishers
            assert found.published == 50


@pytest.mark.usefixtures("runtime")
def test_an_async_with_that_ends_by_an_exception_counts_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """The exception goes its way, and the log says how much is gone."""

    node = AsyncNode(options=Options(drain_timeout=0))

    async def story() -> None:
        async with node:
            producer = node.producer("orders", int)
            for number in range(100):
                await producer.send(number)
            raise ZeroDivisionError

    with busy(), pytest.raises(ZeroDivisionError):
        asyncio.run(story())
    assert account(node).left_at_close == 100
    assert "closed with 100 messages waiting" in caplog.text
