"""Handlers go on, whatever the code that they call does."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from peerfabric import AsyncNode, ConfigError, Message, Node, NodeClosed, Reject, Rejected, Retry, Update
from peerfabric.nodes import handler_threads
from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.aio.topic import AsyncSubscriber
from peerfabric.nodes.handler_threads import Handler
from peerfabric.nodes.io.waiting import Blocking
from tests.nodes.conftest import DEADLINE, Child, Front, eventually


class Own(BaseException):
    """Of a program that means something else by it."""


class Broken(Exception):
    def __str__(self) -> str:
        return self.detail  # type: ignore[attr-defined,no-any-return]  # such a bug


class NoDelay(Retry):
    def __init__(self) -> None:
        """Forgets what it should call."""


class WorksItOut(Retry):
    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)

    @property
    def delay(self) -> float:  # type: ignore[override]
        return float(os.environ["THE_HEADER_THAT_IS_NOT_THERE"])


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Unreadable(Exception, metaclass=Nameless):
    """Of a class that cannot even say what it is called."""


def changed() -> Retry:
    """A Retry whose delay was spoilt after it was made."""
    retry = Retry("later")
    retry.delay = "soon"  # type: ignore[assignment]
    return retry


FAILURES: dict[str, tuple[Callable[[], BaseException], str]] = {
    "exit": (lambda: SystemExit(3), "SystemExit: 3"),
    "keyboard": (KeyboardInterrupt, "KeyboardInterrupt: "),
    "generator": (GeneratorExit, "GeneratorExit: "),
    "cancelled": (lambda: asyncio.CancelledError("pool"), "CancelledError: pool"),
    "own": (lambda: Own("odd"), "Own: odd"),
    "group": (lambda: ExceptionGroup("many", [ValueError(1)]), "ExceptionGroup: many (1 sub-exception)"),
    "surrogate": (lambda: ValueError(os.fsdecode(b"\xff.txt")), "ValueError: \\udcff.txt"),
    "broken": (Broken, "Broken (its text cannot be made: AttributeError)"),
    "closed": (lambda: NodeClosed("another node"), "NodeClosed: another node is closed; make a new Node"),
    "retry": (lambda: Retry("later", 0), "later"),
    "no delay": (NoDelay, ""),
    "changed": (changed, "later"),
    "works it out": (lambda: WorksItOut("later"), "later"),
    "unreadable": (Unreadable, "an exception that cannot be read"),
}


class Kept(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            self.lines.append(record.getMessage())
        return False


@pytest.fixture
def errors() -> Iterator[Callable[[], list[str]]]:
    """The lines that are errors so far. Nobody else gets them: not every log can write what some exceptions say."""
    log, kept = logging.getLogger("peerfabric"), Kept()
    log.addFilter(kept)
    yield lambda: kept.lines
    log.removeFilter(kept)


@pytest.mark.parametrize("front_of", ["sync", "async"])
@pytest.mark.parametrize("inside", [False, True], ids=["plain", "with"])
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.usefixtures("runtime")
def test_whatever_is_raised_is_a_failure(
    kind: str, inside: bool, front_of: str, errors: Callable[[], list[str]]
) -> None:
    """It counts as an attempt with its text, is told as an error, and others are handled; also out of a `with`."""
    make, text = FAILURES[kind]
    seen: list[tuple[int, int]] = []

    def cook(order: int, message: Message[int]) -> None:
        seen.append((order, message.attempt))
        with message if inside else contextlib.nullcontext():
            if order == 0:
                raise make()

    async def cook_async(order: int, message: Message[int]) -> None:
        cook(order, message)

    async def story() -> None:
        async with AsyncNode() as a, AsyncNode() as b:
            b.on_message("orders")(cook if front_of == "sync" else cook_async)
            producer = a.producer("orders", int, max_attempts=2)
            await producer.send_many([0, 1, 2])
            await producer.flush(timeout=DEADLINE)
            assert sorted(seen) == [(0, 1), (0, 2), (1, 1), (2, 1)]
            [letter] = await a.dead_letters("orders")
            assert (letter.body, letter.reason, letter.error) == (0, "attempts", text)

    asyncio.run(story())
    told = [line for line in errors() if "the handler of orders failed on" in line]
    assert len(told) == (0 if isinstance(make(), Retry) else 2)
    assert len(errors()) == len(told)


def test_a_topic_handler_goes_on(front: Front, errors: Callable[[], list[str]]) -> None:
    """There is nothing to try again, so what it raised is told and the next update comes."""
    with front.node() as a, front.node() as b:
        seen: list[int] = []

        def read(news: int, update: Update[int]) -> None:
            seen.append(news)
            if news < len(FAILURES):
                raise list(FAILURES.values())[news][0]()

        b.on_topic("news")(read)
        publisher = a.publisher("news", int)
        publisher.ready(timeout=DEADLINE)
        publisher.publish_many(range(len(FAILURES) + 1))
        eventually(lambda: len(seen) > len(FAILURES), "the last update")
    assert errors() == ["the handler of topic news failed"] * len(FAILURES)


@pytest.mark.usefixtures("runtime")
def test_a_cancellation_from_inside_is_a_failure() -> None:
    """Of a task that the handler awaits, or of itself: nobody has cancelled the handler."""

    async def story() -> None:
        seen: list[tuple[int, int]] = []
        async with AsyncNode() as a, AsyncNode() as b:

            @b.on_message("orders")
            async def cook(order: int, message: Message[int]) -> None:
                seen.append((order, message.attempt))
                if order == 0:
                    inner = asyncio.ensure_future(asyncio.sleep(DEADLINE))
                    await asyncio.sleep(0)
                    inner.cancel()
                    await inner
                if order == 1:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    await asyncio.sleep(DEADLINE)

            producer = a.producer("orders", int, max_attempts=2)
            await producer.send_many([0, 1, 2])
            await producer.flush(timeout=DEADLINE)
            assert sorted(seen) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)]
            letters = {letter.body: letter.error for letter in await a.dead_letters("orders")}
            assert letters == {0: "CancelledError: ", 1: "CancelledError: "}

    asyncio.run(story())


@pytest.mark.usefixtures("runtime")
def test_tasks_that_somebody_cancels_are_replaced(errors: Callable[[], list[str]]) -> None:
    """What they had in hand goes back, without an attempt; an error says so, and another task takes."""

    async def story() -> None:
        seen: list[int] = []
        started = asyncio.Event()
        async with AsyncNode() as a, AsyncNode() as b:

            @b.on_message("orders", concurrency=2)
            async def cook(order: int, message: Message[int]) -> None:
                seen.append(message.attempt)
                if len(seen) == 1:
                    started.set()
                    await asyncio.sleep(DEADLINE)

            await a.producer("orders", int).send(1)
            await asyncio.wait_for(started.wait(), DEADLINE)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await a.producer("orders", int).flush(timeout=DEADLINE)
            assert seen == [1, 1]

    asyncio.run(story())
    assert [line.startswith("a task of handler") for line in errors()] == [True, True]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [SystemExit("killed"), ValueError("a bug")], ids=["exit", "exception"])
@pytest.mark.usefixtures("runtime")
def test_a_runner_that_ends_is_replaced(
    is_async: bool, error: BaseException, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    """A thread or task that ends of whatever comes where nothing catches it; one that only closes does not."""
    run: Any = Handler._run
    faults = iter([error])

    async def ends(handler: Handler, *args: Any) -> None:
        for fault in faults:
            if is_async and not isinstance(fault, Exception):
                raise asyncio.CancelledError("no exit, which would be that of the loop")
            raise fault
        await run(handler, *args)

    monkeypatch.setattr(Handler, "_run", ends)

    async def story() -> None:
        seen: list[int] = []

        def cook(order: int) -> None:
            seen.append(order)

        async def cook_async(order: int) -> None:
            seen.append(order)

        async with AsyncNode() as a, AsyncNode() as b:
            b.on_message("orders")(cook_async if is_async else cook)
            producer = a.producer("orders", int)
            await producer.send(1)
            await producer.flush(timeout=DEADLINE)
        assert seen == [1]

    asyncio.run(story())
    kind = "task" if is_async else "thread"
    [line] = errors()
    assert line.startswith(f"a {kind} of handler ")
    assert "ended while its node runs, and another one has taken its place: " in line


@pytest.mark.usefixtures("runtime")
def test_a_thread_that_is_ended_from_outside_is_replaced(
    monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    """While it pauses after a fault, by what debuggers and schedulers of tests throw into threads."""
    take: Any = AsyncConsumer.next_message
    faults = iter([RuntimeError("a bug")])
    paused: list[int] = []

    async def fails(handle: Any, waiting: Any, timeout: float | None = None) -> Any:
        for fault in faults:
            raise fault
        return await take(handle, waiting, timeout)

    async def pauses(*_: Any) -> None:
        paused.append(threading.get_ident())
        while True:
            time.sleep(0.001)

    monkeypatch.setattr(AsyncConsumer, "next_message", fails)
    monkeypatch.setattr(handler_threads, "wait_until", pauses)
    with Node() as a:
        done = threading.Event()

        @a.on_message("orders")
        def cook(order: int) -> None:
            done.set()

        eventually(lambda: paused, "the pause")
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(paused[0]), ctypes.py_object(SystemExit))
        a.producer("orders", int).send(1)
        assert done.wait(DEADLINE)
    assert [line.partition(" ended")[0].partition(" handler ")[0] for line in errors()[1:]] == ["a thread of"]


@pytest.mark.usefixtures("runtime")
def test_what_a_call_asks_of_its_task_is_its_own_affair(errors: Callable[[], list[str]]) -> None:
    """A cancellation of itself fails the call, come or not, and its timeouts and groups work; its task goes on."""

    async def story() -> None:
        seen: list[tuple[int, int]] = []
        tasks: set[asyncio.Task[Any] | None] = set()

        async def fail() -> None:
            raise ValueError("in a group")

        async def group_that_fails() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.sleep(DEADLINE)

        async def each(order: int) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            match order:
                case 1:
                    task.cancel()
                case 2:
                    await asyncio.sleep(0)
                    task.cancel()
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(DEADLINE)
                case 3:
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.01):
                            await asyncio.sleep(DEADLINE)
                    raise asyncio.CancelledError("after a timeout")
                case 4:
                    with pytest.raises(ExceptionGroup):
                        await group_that_fails()
                    await asyncio.wait_for(asyncio.sleep(0), DEADLINE)
                case 5:
                    await asyncio.sleep(0)
                    task.cancel()

        async with AsyncNode() as a, AsyncNode() as b:

            @b.on_message("orders")
            async def cook(order: int, message: Message[int]) -> None:
                seen.append((order, message.attempt))
                await each(order)

            producer = a.producer("orders", int, max_attempts=1)
            await producer.send_many(range(7))
            await producer.flush(timeout=DEADLINE)
            assert sorted(seen) == [(order, 1) for order in range(7)]
            letters = {letter.body: letter.error for letter in await a.dead_letters("orders")}
            unseen = "CancelledError: the handler cancelled itself and returned"
            assert letters == {1: unseen, 3: "CancelledError: after a timeout", 5: unseen}
        assert len(tasks) == 1

    asyncio.run(story())
    assert {line.partition(" failed on")[0] for line in errors()} == {"the handler of orders"}


@pytest.mark.parametrize("kind", ["message", "update"])
def test_a_take_that_fails_is_tried_again(
    kind: str, front: Front, monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    """An error says so each time, and the handler is there when it is over."""
    owner, name = (AsyncConsumer, "next_message") if kind == "message" else (AsyncSubscriber, "next_update")
    take: Any = getattr(owner, name)
    faults: Iterator[BaseException] = iter([RuntimeError("a bug"), SystemExit("worse")])

    async def fails(handle: Any, waiting: Any, timeout: float | None = None) -> Any:
        if isinstance(waiting, Blocking):
            for fault in faults:
                raise fault
        return await take(handle, waiting, timeout)

    monkeypatch.setattr(owner, name, fails)
    with front.node() as a, front.node() as b:
        seen: list[int] = []

        def cook(order: int) -> None:
            seen.append(order)

        if kind == "message":
            b.on_message("orders")(cook)
            a.producer("orders", int).send(1)
        else:
            b.on_topic("orders")(cook)
            publisher = a.publisher("orders", int)
            publisher.ready(timeout=DEADLINE)
            publisher.publish(1)
        eventually(lambda: seen == [1], "the handler")
    assert [line.partition("takes nothing, and tries again in ")[2] for line in errors()] == [
        "0.1 s: RuntimeError: a bug",
        "0.2 s: SystemExit: worse",
    ]


class Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the log is on a disk that is full")


def test_a_log_that_fails(front: Front) -> None:
    """A handler does not end of that either."""
    log, raising = logging.getLogger("peerfabric"), Raising(logging.ERROR)
    with front.node() as a, front.node() as b:
        seen: list[int] = []

        def cook(order: int) -> None:
            seen.append(order)
            raise ValueError("burnt")

        b.on_message("orders")(cook)
        producer = a.producer("orders", int, max_attempts=1)
        log.addHandler(raising)
        try:
            producer.send_many([1, 2])
            producer.flush(timeout=DEADLINE)
        finally:
            log.removeHandler(raising)
        assert seen == [1, 2]


seen_before: ContextVar[str] = ContextVar("seen_before", default="nothing")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("runtime")
def test_each_call_has_a_context_of_its_own(is_async: bool) -> None:
    """What one call sets, of a message or an update, the next does not see."""

    async def story() -> None:
        found: list[str] = []

        def cook(order: int) -> None:
            found.append(seen_before.get())
            seen_before.set(str(order))

        async def cook_async(order: int) -> None:
            cook(order)
            await asyncio.sleep(0)
            assert seen_before.get() == str(order)

        async with AsyncNode() as a, AsyncNode() as b:
            handler = cook_async if is_async else cook
            b.on_message("orders")(handler)
            b.on_topic("news")(handler)
            publisher = a.publisher("news", int)
            await publisher.ready(timeout=DEADLINE)
            await publisher.publish_many(range(3))
            await a.producer("orders", int).send_many(range(3))
            await a.producer("orders", int).flush(timeout=DEADLINE)
            while len(found) < 6:
                await asyncio.sleep(0.01)
        assert found == ["nothing"] * 6

    asyncio.run(asyncio.wait_for(story(), DEADLINE))


def test_what_fails_as_its_node_closes_is_not_its_fault(front: Front) -> None:
    """A handler that waits in a call of the node that closes under it gives its message back, also out of `with`."""
    with front.node() as a:
        b = front.node().__enter__()
        inside, closing = threading.Event(), threading.Event()

        def cook(order: int, message: Message[int]) -> None:
            inside.set()
            assert closing.wait(DEADLINE)
            with message:
                raise NodeClosed

        b.on_message("orders")(cook)
        producer = a.producer("orders", int, max_attempts=1)
        producer.send(1)
        assert inside.wait(DEADLINE)
        closer = threading.Thread(target=b.close)
        closer.start()
        eventually(lambda: "closing" in repr(b.target if front.is_async else b), "the close")
        closing.set()
        closer.join()
        with front.node() as c, c.consumer("orders", int).get(timeout=DEADLINE) as body:
            assert body == 1
        producer.flush(timeout=DEADLINE)


KEPT = """
    import asyncio, contextlib
    from peerfabric import AsyncNode, Options

    async def main():
        node = AsyncNode(options=Options(drain_timeout=0))
        inside = asyncio.Event()

        @node.on_message("orders")
        async def cook(order: int) -> None:
            inside.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

        await node.producer("orders", int).send(1)
        await inside.wait()

    asyncio.run(main())
    print("over", flush=True)
"""


def test_a_handler_that_keeps_its_cancellation_ends_all_the_same(start: Callable[..., Child]) -> None:
    """The loop that ends cancels it, and waits for that."""
    child = start(KEPT)
    assert child.line() == "over"
    child.finish()
    assert child.code == 0


SIGNALLED = """
    import asyncio, os, signal, sys
    from peerfabric import AsyncNode, Options

    async def main():
        node = AsyncNode(options=Options(drain_timeout=0))

        @node.on_message("orders")
        async def cook(order: int) -> None:
            print("inside", flush=True)
            while True:  # never lets the loop see a signal
                pass

        async with node:
            await node.producer("orders", int).send(1)
            await asyncio.sleep(60)

    if sys.argv[1] == "SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        asyncio.run(main())
    else:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", -signal.SIGINT), ("SIGTERM", 7)])
def test_a_signal_ends_an_async_handler(start: Callable[..., Child], name: str, code: int) -> None:
    """Ctrl-C, or what a signal handler of the program raises, is no failure of the message: it ends the program."""
    child = start(SIGNALLED, name)
    assert child.line() == "inside"
    child.signal(getattr(signal, name))
    _, told = child.finish()
    assert (child.code, "failed on" in told) == (code, False)


def test_a_queue_or_pattern_has_one_taker(front: Front) -> None:
    """A handler, and another one or the program, would get some of the messages each: the second is refused."""

    def cook(order: int) -> None:
        """Cooks."""

    with front.node() as node:
        for kind, decorate, handle, what in (
            ("consumer", node.on_message, node.consumer, "orders"),
            ("subscriber", node.on_topic, node.subscriber, "news.*"),
        ):
            decorate(what)(cook)
            text = rf"{kind} '{what}' of this node is that of the handler .*cook, .*use a node of its own"
            with pytest.raises(ConfigError, match=text.replace("*'", r"\*'", 1) if "*" in what else text):
                handle(what, int)
            with pytest.raises(ConfigError, match=r"is that of the handler .*with concurrency= for more at once"):
                decorate(what)(cook)
        for decorate, handle, what in (
            (node.on_message, node.consumer, "bills"),
            (node.on_topic, node.subscriber, "prices"),
        ):
            taken = handle(what, int)
            with pytest.raises(ConfigError, match=rf"'{what}' exists in this node, .*close\(\) it before"):
                decorate(what)(cook)
            taken.close()
            decorate(what)(cook)


def test_rejections_are_no_errors(front: Front, errors: Callable[[], list[str]]) -> None:
    """A handler that says what shall become of its message has not failed."""
    with front.node() as a, front.node() as b:

        def cook(order: int, message: Message[int]) -> None:
            if order == 0:
                raise Reject(ValueError("no such dish"))
            if message.attempt == 1:
                raise Retry(0)

        b.on_message("orders")(cook)
        producer = a.producer("orders", int)
        producer.send_many([0, 1])
        producer.flush(timeout=DEADLINE)
        assert [(letter.body, letter.error) for letter in a.dead_letters("orders")] == [(0, "no such dish")]
    assert errors() == []


@pytest.mark.usefixtures("runtime")
def test_a_handler_of_a_node_in_a_loop_of_another_thread() -> None:
    """A blocking node's handler fails in its thread as anywhere."""
    with Node() as a:
        done = threading.Event()

        @a.on_message("orders")
        def cook(order: int) -> None:
            if order == 0:
                asyncio.run(asyncio.wait_for(asyncio.sleep(DEADLINE), 0.01))
            done.set()

        producer = a.producer("orders", int, max_attempts=1)
        producer.send_many([0, 1])
        producer.flush(timeout=DEADLINE)
        assert done.is_set()
        assert [letter.error for letter in a.dead_letters("orders")] == ["TimeoutError: "]


@pytest.mark.parametrize("kind", ["generator", "async generator", "no function"])
def test_what_would_do_nothing_is_refused_when_it_is_decorated(kind: str) -> None:
    """A call of a function with a yield runs nothing of it, so each message would be acked unseen."""

    def generator(body: int) -> Iterator[int]:
        yield body

    async def asynchronous(body: int) -> AsyncIterator[int]:
        yield body

    function: Any = {"generator": generator, "async generator": asynchronous, "no function": 5}[kind]
    for node in (Node(), AsyncNode()):
        with pytest.raises(
            TypeError, match="no function; decorate" if kind == "no function" else "write a handler without"
        ):
            node.on_message("orders")(function)


@pytest.mark.parametrize("what", ["coroutine", "generator"])
def test_work_that_is_only_returned_is_no_work(what: str) -> None:
    """The decorator of an `async def` that is none itself hands back a coroutine: a failure, and not an ack."""

    async def cook() -> None:
        """Never run."""

    with Node() as node:

        @node.on_message("orders")
        def handle(body: int) -> Any:
            return cook() if what == "coroutine" else (n for n in range(body))

        orders = node.producer("orders", int, max_attempts=1)
        with pytest.raises(Rejected, match=f"TypeError: .* returned a {what}, which nobody runs"):
            orders.send(1, confirm="processed", timeout=20)
