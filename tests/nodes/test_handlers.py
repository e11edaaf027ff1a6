"""Handlers: functions that a node calls with each message, on both fronts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from peerfabric import (
    AsyncNode,
    ConfigError,
    Message,
    Node,
    Reject,
    Retry,
    Undelivered,
    Update,
    WouldDeadlock,
)
from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.handler_context import in_hand
from tests.nodes.conftest import eventually


def account(node: Any, queue: str = "orders") -> Any:
    return next(a for a in node.statistics().producers if a.queue == queue)


def test_returning_acks(front: Any) -> None:
    """Each body goes to the function, which stays callable as itself."""
    with front.node() as a, front.node() as b:
        seen: list[int] = []

        def cook(order: int) -> str:
            seen.append(order)
            return f"cooked {order}"

        decorated = b.on_message("orders")(cook)
        assert decorated is cook
        assert cook(0) == "cooked 0"
        producer = a.producer("orders", int)
        producer.send_many(range(1, 100))
        producer.flush(timeout=20)
        assert seen == list(range(100))
        assert account(a).acked == 99


def test_handlers_may_be_registered_before_the_start(front: Any) -> None:
    """They work from the start, with no `run()`."""
    kitchen = front.node()
    done = threading.Event()

    def cook(order: int) -> None:
        done.set()

    kitchen.on_message("orders")(cook)
    with kitchen, front.node() as shop:
        shop.producer("orders", int).send(1, confirm="processed", timeout=20)
    assert done.is_set()


def test_what_a_handler_raises_decides(front: Any) -> None:
    """Retry asks for another attempt, Reject gives up, another exception nacks; all are counted."""
    with front.node() as a, front.node() as b:
        attempts: dict[str, list[int]] = {}

        def cook(order: str, message: Message[str]) -> None:
            attempts.setdefault(order, []).append(message.attempt)
            if order == "reject":
                raise Reject("no such dish")
            if order == "retry" and message.attempt < 3:
                raise Retry(delay=0.05)
            if order == "fail":
                raise ValueError("burnt")

        b.on_message("orders")(cook)
        producer = a.producer("orders", str, max_attempts=3)
        producer.send_many(["fine", "reject", "retry", "fail"])
        producer.flush(timeout=30)
        assert attempts == {"fine": [1], "reject": [1], "retry": [1, 2, 3], "fail": [1, 2, 3]}
        letters = {letter.body: (letter.reason, letter.error) for letter in a.dead_letters("orders")}
        assert letters == {"reject": ("rejected", "no such dish"), "fail": ("attempts", "ValueError: burnt")}
        assert (account(a).acked, account(a).dead_lettered, account(a).closes) == (2, 2, True)


def test_concurrency_is_kept(front: Any) -> None:
    """So many calls run at once, never more."""
    with front.node() as a, front.node() as b:
        running, most = 0, 0
        lock = threading.Lock()

        def cook(order: int) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1

        b.on_message("orders", concurrency=4)(cook)
        producer = a.producer("orders", int)
        producer.send_many(range(100))
        producer.flush(timeout=20)
        assert most == 4


def test_close_waits_for_running_handlers(front: Any) -> None:
    """What was started is finished and acked; what was not goes back."""
    with front.node() as a:
        b = front.node().__enter__()
        started, finished = threading.Event(), []

        def cook(order: int) -> None:
            started.set()
            time.sleep(0.3)
            finished.append(order)

        b.on_message("orders")(cook)
        producer = a.producer("orders", int)
        producer.send_many(range(10))
        assert started.wait(20)
        b.close()
        assert 1 <= len(finished) < 10
        with front.node() as c:
            consumer = c.consumer("orders", int)
            rest: list[int] = []
            while len(rest) + len(finished) < 10:
                with consumer.get(timeout=10) as body:
                    rest.append(body)
            assert sorted(rest + finished) == list(range(10))
            producer.flush(timeout=10)
        assert account(a).acked == 10


@pytest.mark.usefixtures("runtime")
def test_close_inside_a_blocking_handler_would_deadlock() -> None:
    """The error says where to call it instead, and the node goes on."""
    with Node() as node:
        caught: list[BaseException] = []

        @node.on_message("orders")
        def cook(order: int) -> None:
            try:
                node.close()
            except WouldDeadlock as error:
                caught.append(error)

        node.producer("orders", int).send(1, confirm="processed", timeout=20)
        assert "call it from another thread" in str(caught[0])


@pytest.mark.usefixtures("runtime")
def test_async_handlers_run_as_tasks() -> None:
    """An `async def` runs on the node's loop, `concurrency` of them; closing inside one is refused."""

    async def story() -> None:
        running, most = 0, 0
        caught: list[BaseException] = []
        async with AsyncNode() as a, AsyncNode() as b:

            @b.on_message("orders", concurrency=3)
            async def cook(order: int) -> None:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.01)
                running -= 1

            @b.on_message("last")
            async def last(order: int) -> None:
                try:
                    await b.close()
                except WouldDeadlock as error:
                    caught.append(error)

            producer = a.producer("orders", int)
            await producer.send_many(range(60))
            await producer.flush(timeout=20)
            await a.producer("last", int).send(1, confirm="processed", timeout=20)
        assert (most, len(caught)) == (3, 1)

    asyncio.run(story())


@pytest.mark.usefixtures("runtime")
def test_a_cancelled_async_handler_gives_its_message_back() -> None:
    """Closing with a short timeout cancels what hangs; its message is processed elsewhere, attempt not counted."""

    async def story() -> None:
        async with AsyncNode() as a:
            b = AsyncNode()
            started = asyncio.Event()

            @b.on_message("orders")
            async def hang(order: int) -> None:
                started.set()
                await asyncio.sleep(3600)

            b.peers()
            await a.producer("orders", int).send(1)
            await asyncio.wait_for(started.wait(), 20)
            await b.close(timeout=0.1)
            async with AsyncNode() as c:
                message = await c.consumer("orders", int).get(timeout=20)
                assert (message.body, message.attempt) == (1, 1)
                message.ack()
                await a.producer("orders", int).flush(timeout=10)

    asyncio.run(story())


def test_functions_that_cannot_be_handlers(front: Any) -> None:
    """Each is a TypeError at decoration that says what is missing."""
    node = front.node()

    def no_annotation(order):  # type: ignore[no-untyped-def]
        """Says nothing about its body."""

    def no_parameter() -> None:
        """Takes nothing."""

    def wrong_second(order: int, update: Update[int]) -> None:
        """Asks for an update of a queue."""

    def unknown(order: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Names a type that does not exist."""

    cases: list[tuple[Callable[..., Any], str]] = [
        (no_annotation, "annotate its first parameter"),
        (no_parameter, "annotate its first parameter"),
        (wrong_second, "second parameter must be annotated Message"),
        (unknown, "import it"),
    ]
    for function, text in cases:
        with pytest.raises(TypeError, match=text):
            node.on_message("orders")(function)
    with pytest.raises(ConfigError, match="between 1 and"):
        node.on_message("orders", concurrency=0)(lambda order: None)


@pytest.mark.usefixtures("runtime")
def test_async_handlers_need_an_event_loop() -> None:
    """On Node an `async def` is a TypeError that names both ways out."""

    async def cook(order: int) -> None:
        """Would never run."""

    with pytest.raises(TypeError, match="use AsyncNode, or a def"):
        Node().on_message("orders")(cook)


@pytest.mark.usefixtures("runtime")
def test_annotations_may_name_local_types() -> None:
    """A body type defined beside the handler, in a function, is found."""

    class Dish(msgspec.Struct):
        name: str

    with Node() as node:
        seen: list[Dish] = []

        @node.on_message("dishes")
        def cook(dish: Dish) -> None:
            seen.append(dish)

        node.producer("dishes", Dish).send(Dish("tea"), confirm="processed", timeout=20)
        assert seen == [Dish("tea")]


def test_handlers_may_send_and_look(front: Any) -> None:
    """A `def` handler, in a thread of its own on both fronts, uses what is plain on its node."""
    with front.node() as a, front.node() as b:
        seen: list[Any] = []

        def cook(order: int) -> None:
            target = b.target if front.is_async else b
            seen.append((len(target.peers()) > 0, target.statistics().name == target.name))

        b.on_message("orders")(cook)
        a.producer("orders", int).send(1, confirm="processed", timeout=20)
        assert seen == [(True, True)]


@pytest.mark.parametrize("at_once", [True, False])
def test_all_calls_run_at_once(front: Any, at_once: bool) -> None:
    """Messages that came while all waited, in one frame or one by one, go to as many calls, one waking the next."""
    together = threading.Barrier(4)
    with front.node() as node:

        def cook(order: int) -> None:
            together.wait(20)

        node.on_message("orders", concurrency=4)(cook)
        producer = node.producer("orders", int)
        for _ in range(3):
            if at_once:
                producer.send_many(range(4))
            else:
                for order in range(4):
                    producer.send(order)
            producer.flush(timeout=20)
        assert account(node).acked == 12


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("at_once", [True, False])
def test_a_message_does_not_wait_behind_a_long_call_where_calls_were_short(at_once: bool) -> None:
    """One thread makes short calls; while it is at a long one, others take what waits, until all are busy."""
    together = threading.Barrier(4)
    node = Node()

    @node.on_message("orders", concurrency=4)
    def cook(order: int) -> None:
        together.wait(20)

    with node:
        consumer = node._async._lifecycle.handles.consumers["orders"]
        producer = node.producer("orders", int)
        for _ in range(3):
            consumer._at_once = 1
            if at_once:
                producer.send_many(range(4))
            else:
                for order in range(4):
                    producer.send(order)
            producer.flush(timeout=20)
        assert account(node).acked == 12
        assert consumer._at_once == 4


@pytest.mark.usefixtures("runtime")
def test_one_thread_makes_short_calls() -> None:
    """How many take at one time follows from what was taken while messages waited."""
    node = Node()

    @node.on_message("orders", concurrency=4)
    def cook(order: int) -> None: ...

    with node:
        consumer: Any = node._async._lifecycle.handles.consumers["orders"]
        eventually(lambda: len(consumer._waits) == 4, "a wait of each thread")
        at = 100.0
        consumer._current = waiting = SimpleNamespace(next=0, limit=1)

        def look(taken: int, seconds: float) -> int:
            nonlocal at
            at += seconds
            consumer._taken += taken
            with consumer._node.pump.lock:
                taker = consumer._waits.pop()
                consumer._look_at_calls(at)
                consumer._waits.add(taker)
            return int(consumer._at_once)

        assert look(0, 1.0) == 4  # a first look has nothing to compare with
        assert look(1000, 0.002) == 1
        assert look(30, 0.002) == 2
        assert look(0, 0.0001) == look(1, 0.00001) == 2  # too soon to say
        assert look(0, 0.002) == 4
        assert look(0, 0.002) == 4
        assert look(1000, 0.002) == 1
        consumer._current = None
        assert look(0, 0.002) == 1
        assert look(0, 1.0) == 1  # nothing waited meanwhile
        consumer._current = waiting
        assert look(0, 1.0) == 1
        assert look(0, 0.002) == 2
        consumer._current = None


@pytest.mark.usefixtures("runtime")
def test_who_waits_while_messages_are_here_has_calls_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that may not take leaves messages to one that may be at a long call."""
    node = Node()

    @node.on_message("orders", concurrency=2)
    def cook(order: int) -> None: ...

    with node:
        consumer: Any = node._async._lifecycle.handles.consumers["orders"]
        eventually(lambda: len(consumer._waits) == 2, "a wait of each thread")
        noted: list[Any] = []
        monkeypatch.setattr(consumer._node.pump, "wake_soon", noted.append)
        consumer._want(1)
        assert noted == []
        consumer._at_once, consumer._current = 0, SimpleNamespace(next=0, limit=1)
        consumer._want(1)
        consumer._current = None
        assert noted == [consumer]


@pytest.mark.usefixtures("runtime")
def test_a_handler_that_is_at_a_call_has_not_forgotten_an_ack() -> None:
    """What another of its threads waits for is the next message."""
    node = Node()
    started, go_on = threading.Event(), threading.Event()

    @node.on_message("orders", concurrency=2)
    def cook(order: int) -> None:
        started.set()
        go_on.wait(20)

    with node:
        node.producer("orders", int).send(1)
        assert started.wait(20)
        consumer = node._async._lifecycle.handles.consumers["orders"]
        assert consumer._last is not None
        assert "no message is here" in consumer._what()
        go_on.set()


@pytest.mark.usefixtures("runtime")
def test_tasks_hand_on_when_they_are_suspended_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that never wait are made by one task, one after the other; one that waits lets the next task take."""
    monkeypatch.setattr(AsyncConsumer, "_look_at_calls", lambda self, now: None)  # a loop that stands still is its case

    async def story() -> None:
        async with AsyncNode() as node:
            tasks: set[Any] = set()
            together = asyncio.Barrier(4)

            @node.on_message("short", concurrency=4)
            async def short(order: int) -> None:
                tasks.add(asyncio.current_task())

            @node.on_message("long", concurrency=4)
            async def long(order: int) -> None:
                await together.wait()

            for _ in range(3):
                await node.producer("short", int).send_many(range(1000))
                await node.producer("long", int).send_many(range(4))
                await node.producer("short", int).flush(timeout=20)
                await node.producer("long", int).flush(timeout=20)
            assert len(tasks) == 1

    asyncio.run(story())


@pytest.mark.usefixtures("runtime")
def test_who_goes_on_with_what_another_thread_fetched_has_it_in_hand() -> None:
    """A message that a thread takes in passing is as much its own as one that it waited for."""
    held: list[int] = []
    node = Node()
    node.producer("orders", int).send_many(range(1000))
    orders = iter(node.consumer("orders", int))
    first = next(orders)
    while first._delivery.next == first._delivery.limit:  # the first come alone
        first.ack()
        first = next(orders)

    def other() -> None:
        second = next(orders)
        held.append(len(in_hand()))
        second.ack()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert held == [1]
    with pytest.raises(Undelivered):
        node.close(0)
