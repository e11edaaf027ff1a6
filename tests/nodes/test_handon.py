"""Hand-on over real nodes: a message is acked when what was sent because of it is safe, however it was taken."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from peerfabric import (
    AsyncNode,
    AsyncProducer,
    Batch,
    ConfigError,
    Message,
    Node,
    NotConfirmed,
    Producer,
    Reject,
    Retry,
    Undelivered,
)
from tests.nodes.conftest import DEADLINE, eventually

PAGES = 3
WARMING = -1


@contextmanager
def running(style: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """A node of the style's front in which it runs, in a thread of its own: what it does with pages and words."""
    made: queue.Queue[Any] = queue.Queue()
    over = threading.Event()

    def block() -> None:
        with Node("stage", **options) as node:
            style(node, node.producer("words", int))
            made.put(node)
            over.wait(DEADLINE)

    async def suspend() -> None:
        async with AsyncNode("stage", **options) as node:
            await style(node, node.producer("words", int))
            made.put(node)
            await asyncio.to_thread(over.wait, DEADLINE)

    def run() -> None:
        try:
            if inspect.iscoroutinefunction(style):
                asyncio.run(suspend())
            else:
                block()
        except BaseException as error:
            made.put(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        node = made.get(timeout=DEADLINE)
        if isinstance(node, BaseException):
            raise node
        yield node
    finally:
        over.set()
        thread.join()


def handed_on(node: Any) -> int:
    """How many pages have run at `node` and are not acked."""
    [account] = [each for each in node.statistics().consumers if each.queue == "pages"]
    return int(account.handed_on)


def take_all(consumer: Any) -> None:
    for message in consumer:
        message.ack()


# Each takes all pages and sends a word for each of them


def several(node: Node) -> list[Message[int]]:
    """All pages at the same time. A consumer that is new gets one, so it first shows how fast it is."""
    consumer = node.consumer("pages", int)
    while (message := consumer.get(DEADLINE)).body == WARMING:
        message.ack()
    return [message, *(consumer.get(DEADLINE) for _ in range(1, PAGES))]


async def async_several(node: AsyncNode) -> list[Message[int]]:
    consumer = node.consumer("pages", int)
    while (message := await consumer.get(DEADLINE)).body == WARMING:
        message.ack()
    return [message, *[await consumer.get(DEADLINE) for _ in range(1, PAGES)]]


def handler(node: Node, words: Producer[int]) -> None:
    @node.on_message("pages", concurrency=2)
    def work(page: int) -> None:
        words.send(page)


def handler_of_many(node: Node, words: Producer[int]) -> None:
    @node.on_message("pages")
    def work(page: int) -> None:
        assert words.send_many([page] * 2) == 2


def handler_with_threads(node: Node, words: Producer[int]) -> None:
    @node.on_message("pages")
    def work(page: int, message: Message[int]) -> None:
        thread = threading.Thread(target=words.send, args=(page,), kwargs={"cause": message})
        thread.start()
        thread.join()


def loop(node: Node, words: Producer[int]) -> None:
    done = []
    for message in node.consumer("pages", int):
        with message as page:
            words.send(page)
        done.append(page)
        if len(done) == PAGES:
            break


def by_hand(node: Node, words: Producer[int]) -> None:
    consumer = node.consumer("pages", int)
    for _ in range(PAGES):
        message = consumer.get(DEADLINE)
        words.send(message.body)
        message.ack()


def all_at_once(node: Node, words: Producer[int]) -> None:
    messages = several(node)
    for message in messages:
        words.send(message.body)
    for message in messages:
        message.ack()


def joined(node: Node, words: Producer[int]) -> None:
    """What is sent with several in hand is an output of all, also of the one whose `with` is not the innermost."""
    first, second, third = several(node)
    with first, second:
        with third:
            words.send(0)
        words.send_many(range(PAGES))


def batches(node: Node, words: Producer[int]) -> None:
    count = 0
    for batch in node.consumer("pages", int).batches(max_size=2, max_wait=0.1):
        with batch as pages:
            words.send_many(pages)
        count += len(batch)
        if count == PAGES:
            break


def batches_by_hand(node: Node, words: Producer[int]) -> None:
    count = 0
    for batch in node.consumer("pages", int).batches():
        for page in batch:
            words.send(page)
        batch.ack()
        count += len(batch)
        if count == PAGES:
            break


def batches_with_threads(node: Node, words: Producer[int]) -> None:
    def work(batch: Batch[int]) -> None:
        for page in batch:
            words.send(page, cause=batch)

    count = 0
    for batch in node.consumer("pages", int).batches():
        thread = threading.Thread(target=work, args=(batch,))
        thread.start()
        thread.join()
        batch.ack()
        count += len(batch)
        if count == PAGES:
            break


def entered_elsewhere(node: Node, words: Producer[int]) -> None:
    """One thread takes, others work."""
    taken: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        with taken.get() as page:
            words.send(page)

    threads = [threading.Thread(target=work) for _ in range(PAGES)]
    for thread in threads:
        thread.start()
    for message in several(node):
        taken.put(message)
    for thread in threads:
        thread.join()


async def async_handler(node: AsyncNode, words: AsyncProducer[int]) -> None:
    @node.on_message("pages", concurrency=2)
    async def work(page: int) -> None:
        await asyncio.sleep(0)
        await words.send(page)


async def async_handler_of_many(node: AsyncNode, words: AsyncProducer[int]) -> None:
    @node.on_message("pages")
    async def work(page: int) -> None:
        assert await words.send_many([page] * 2) == 2


async def async_handler_with_tasks(node: AsyncNode, words: AsyncProducer[int]) -> None:
    @node.on_message("pages", concurrency=2)
    async def work(page: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(words.send(page))
            group.create_task(words.send(page))


async def async_handler_with_threads(node: AsyncNode, words: AsyncProducer[int]) -> None:
    @node.on_message("pages")
    async def work(page: int) -> None:
        await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(words.send(page), here).result(DEADLINE))

    here = asyncio.get_running_loop()


async def async_handler_in_threads(node: AsyncNode, words: AsyncProducer[int]) -> None:
    @node.on_message("pages", concurrency=2)
    def work(page: int) -> None:
        asyncio.run_coroutine_threadsafe(words.send(page), here).result(DEADLINE)

    here = asyncio.get_running_loop()


async def async_handler_with_cause(node: AsyncNode, words: AsyncProducer[int]) -> None:
    @node.on_message("pages")
    async def work(page: int, message: Message[int]) -> None:
        await asyncio.create_task(words.send(page, cause=message), context=contextvars.Context())


async def async_loop(node: AsyncNode, words: AsyncProducer[int]) -> None:
    done = []
    async for message in node.consumer("pages", int):
        with message as page:
            await words.send(page)
        done.append(page)
        if len(done) == PAGES:
            break


async def async_by_hand(node: AsyncNode, words: AsyncProducer[int]) -> None:
    consumer = node.consumer("pages", int)
    for _ in range(PAGES):
        message = await consumer.get(DEADLINE)
        await words.send(message.body)
        message.ack()


async def async_all_at_once(node: AsyncNode, words: AsyncProducer[int]) -> None:
    messages = await async_several(node)
    await words.send_many(range(PAGES))
    for message in messages:
        message.ack()


async def async_batches(node: AsyncNode, words: AsyncProducer[int]) -> None:
    count = 0
    async for batch in node.consumer("pages", int).batches(max_size=2, max_wait=0.1):
        with batch as pages:
            await words.send_many(pages)
        count += len(batch)
        if count == PAGES:
            break


async def async_task_for_each(node: AsyncNode, words: AsyncProducer[int]) -> None:
    """One task takes, others work at the same time."""
    together = asyncio.Barrier(PAGES)

    async def work(message: Any) -> None:
        with message as page:
            await together.wait()
            await words.send(page)

    async with asyncio.TaskGroup() as group:
        for message in await async_several(node):
            group.create_task(work(message))


async def async_wait_for(node: AsyncNode, words: AsyncProducer[int]) -> None:
    """A task of its own takes, in Python 3.11."""
    consumer = node.consumer("pages", int)
    for _ in range(PAGES):
        with await asyncio.wait_for(consumer.get(), DEADLINE) as page:
            await words.send(page)


SEVERAL = {"all_at_once", "joined", "entered_elsewhere", "async_all_at_once", "async_task_for_each", "async_sibling"}
"""Those that take several at the same time."""
STYLES = [
    handler,
    handler_of_many,
    handler_with_threads,
    loop,
    by_hand,
    all_at_once,
    joined,
    batches,
    batches_by_hand,
    batches_with_threads,
    entered_elsewhere,
    async_handler,
    async_handler_of_many,
    async_handler_with_tasks,
    async_handler_with_threads,
    async_handler_in_threads,
    async_handler_with_cause,
    async_loop,
    async_by_hand,
    async_all_at_once,
    async_batches,
    async_task_for_each,
    async_wait_for,
]


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_a_message_is_acked_when_its_outputs_are_settled(style: Callable[..., Any]) -> None:
    """Its code ends and does not wait; its ack waits until the last word is acked."""
    with Node("source") as source, Node("sink") as sink:
        pages = source.producer("pages", int)
        if style.__name__ in SEVERAL:
            pages.send_many([WARMING] * 1000)
        receipts = [pages.send(page) for page in range(PAGES)]
        with running(style) as stage:
            eventually(lambda: handed_on(stage) == PAGES, "the end of the stage's work")
            assert {pages.state(receipt) for receipt in receipts} <= {"queued", "delivered"}
            consumer, seen = sink.consumer("words", int), set[int]()
            while seen != set(range(PAGES)):
                with consumer.get(DEADLINE) as word:
                    seen.add(word)
            threading.Thread(target=take_all, args=(consumer,)).start()  # those that are sent twice
            pages.flush(DEADLINE)
            eventually(lambda: handed_on(stage) == 0)


# What holds nothing back


def excluded(node: Node, words: Producer[int]) -> None:
    @node.on_message("pages")
    def work(page: int) -> None:
        words.send(page, cause=None)
        words.send_many([page], cause=None)


def switched_off(node: Node, words: Producer[int]) -> None:
    @node.on_message("pages", ack_after="return")
    def work(page: int) -> None:
        words.send(page)


def switched_off_by_hand(node: Node, words: Producer[int]) -> None:
    consumer = node.consumer("pages", int, ack_after="return")
    for _ in range(PAGES):
        with consumer.get(DEADLINE) as page:
            words.send(page)


def afterwards(node: Node, words: Producer[int]) -> None:
    consumer = node.consumer("pages", int)
    for _ in range(PAGES):
        message = consumer.get(DEADLINE)
        message.ack()
        words.send(message.body)


def by_a_thread(node: Node, words: Producer[int]) -> None:
    @node.on_message("pages")
    def work(page: int) -> None:
        thread = threading.Thread(target=words.send, args=(page,))
        thread.start()
        thread.join()


def published(node: Node, words: Producer[int]) -> None:
    news = node.publisher("news", int)

    @node.on_message("pages")
    def work(page: int) -> None:
        news.publish(page)


async def async_excluded(node: AsyncNode, words: AsyncProducer[int]) -> None:
    @node.on_message("pages")
    async def work(page: int) -> None:
        await words.send(page, cause=None)
        await words.send_many([page], cause=None)


async def async_switched_off(node: AsyncNode, words: AsyncProducer[int]) -> None:
    @node.on_message("pages", ack_after="return")
    async def work(page: int) -> None:
        await words.send(page)


async def async_sibling(node: AsyncNode, words: AsyncProducer[int]) -> None:
    """A task that works on one message has nothing to do with what its neighbour sends."""
    idle, *messages = await async_several(node)

    async def work(message: Any) -> None:
        with message as page:
            await words.send(page, cause=None)

    async with asyncio.TaskGroup() as group:
        for message in messages:
            group.create_task(work(message))
    idle.ack()


FREE = [
    excluded,
    switched_off,
    switched_off_by_hand,
    afterwards,
    by_a_thread,
    published,
    async_excluded,
    async_switched_off,
    async_sibling,
]


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("style", FREE, ids=lambda style: style.__name__)
def test_what_is_no_output_holds_nothing_back(style: Callable[..., Any]) -> None:
    """Nobody takes the words, and the pages are acked."""
    with Node("source") as source:
        pages = source.producer("pages", int)
        if style.__name__ in SEVERAL:
            pages.send_many([WARMING] * 1000)
        pages.send_many(range(PAGES))
        with running(style) as stage:
            pages.flush(DEADLINE)
            assert handed_on(stage) == 0
            drop_words(stage)


def drop_words(stage: Any) -> None:
    """Take what nobody took, so that the stage closes."""
    with Node("bin") as node:
        consumer = node.consumer("words", int)
        threading.Thread(target=take_all, args=(consumer,)).start()
        end = lifecycle(stage).handles.producers["words"].end
        eventually(lambda: end is None or end.unsettled_count == 0, "the end of all words")


def lifecycle(node: Any) -> Any:
    return getattr(node, "_async", node)._lifecycle


@pytest.mark.parametrize("options", [{}, {"fsync": True}], ids=["stored", "synced"])
@pytest.mark.parametrize(
    "style",
    [handler, handler_of_many, loop, async_handler, async_handler_of_many, async_loop],
    ids=lambda style: style.__name__,
)
@pytest.mark.usefixtures("runtime")
def test_with_a_spool_nothing_is_held_back(style: Callable[..., Any], options: dict[str, Any], tmp_path: Path) -> None:
    """What is sent is stored, and so safe, when the send returns: nothing is noted, and acks wait for nothing."""
    with Node("source") as source:
        pages = source.producer("pages", int)
        pages.send_many(range(PAGES))
        with running(style, spool=tmp_path / "spool", **options) as stage:
            pages.flush(DEADLINE)
            assert lifecycle(stage).handles.consumers["pages"].end.handon is None
            assert lifecycle(stage).handles.producers["words"].end.watch is None


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("style", [handler, handler_of_many, async_handler, async_handler_of_many])
def test_of_a_spool_that_keeps_some_in_memory_those_hold_back(style: Callable[..., Any], tmp_path: Path) -> None:
    """With `on_full="spool"` what nobody consumes is on disk, and safe; what is in memory is not."""

    def volatile(node: Node, words: Producer[int]) -> Any:
        return style(node, node.producer("drafts", int, on_full="spool"))

    async def async_volatile(node: AsyncNode, words: AsyncProducer[int]) -> None:
        await style(node, node.producer("drafts", int, on_full="spool"))

    chosen = async_volatile if inspect.iscoroutinefunction(style) else volatile
    with Node("source") as source, Node("sink") as sink:
        pages = source.producer("pages", int)
        pages.send_many(range(PAGES))
        with running(chosen, spool=tmp_path / "spool") as stage:
            pages.flush(DEADLINE)
            drafts = sink.consumer("drafts", int)
            for _ in range(PAGES * (2 if "many" in style.__name__ else 1)):
                drafts.get(DEADLINE).ack()
            waiting = threading.Event()

            def take() -> None:
                waiting.set()
                for message in drafts:
                    held.put(message)

            held: queue.Queue[Any] = queue.Queue()
            threading.Thread(target=take).start()
            assert waiting.wait(DEADLINE)
            end = lifecycle(stage).handles.producers["drafts"].end
            eventually(lambda: end.unsettled_count == 0 and end.consumers, "a consumer with nothing to do")
            receipt = pages.send(PAGES)
            first = held.get(timeout=DEADLINE)
            eventually(lambda: handed_on(stage) == 1, "the end of the stage's work")
            assert pages.state(receipt) in ("queued", "delivered")
            first.ack()
            if "many" in style.__name__:
                held.get(timeout=DEADLINE).ack()
            pages.wait(receipt, "processed", DEADLINE)


@pytest.mark.usefixtures("runtime")
def test_what_was_confirmed_as_processed_is_no_output(front: Any) -> None:
    """It is settled when the send returns; what was not confirmed in time is one."""
    with Node("source") as source, Node("sink") as sink, front.node("stage") as node:
        pages, words = source.producer("pages", int), node.producer("words", int)
        receipts = [pages.send(page) for page in range(2)]
        consumer = node.consumer("pages", int)
        taken: queue.Queue[Any] = queue.Queue()

        def take() -> None:
            for message in sink.consumer("words", int):
                if message.body == 0:
                    message.ack()
                else:
                    taken.put(message)

        thread = threading.Thread(target=take)
        thread.start()
        with consumer.get(DEADLINE) as page:
            words.send(page, confirm="processed", timeout=DEADLINE)
        pages.wait(receipts[0], "processed", DEADLINE)
        with consumer.get(DEADLINE) as page, pytest.raises(NotConfirmed):
            words.send(page, confirm="processed", timeout=0.01)
        message = taken.get(timeout=DEADLINE)
        eventually(lambda: account_of(node).handed_on == 1)
        assert pages.state(receipts[1]) in ("queued", "delivered")
        message.ack()
        pages.flush(DEADLINE)
    thread.join()


def account_of(node: Any, queue: str = "pages") -> Any:
    return next(each for each in node.statistics().consumers if each.queue == queue)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("how", [ValueError("no"), Retry(delay=0), Reject("no")], ids=lambda how: type(how).__name__)
def test_a_handler_that_fails_waits_for_nothing(how: Exception) -> None:
    """Its message is nacked, or given up, at once; what it had sent stays sent."""
    with Node("source") as source, Node("stage") as node, Node("sink") as sink:
        pages, words = source.producer("pages", int, max_attempts=2), node.producer("words", int)

        @node.on_message("pages")
        def work(page: int) -> None:
            words.send(page)
            raise how

        pages.send(7)
        pages.flush(DEADLINE)
        [letter] = source.dead_letters("pages")
        assert (letter.reason, account_of(node).handed_on) == ("rejected" if isinstance(how, Reject) else "attempts", 0)
        for _ in range(letter.attempts):
            with sink.consumer("words", int).get(DEADLINE) as word:
                assert word == 7


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("end", ["rejected", "expired", "dropped", "dead"])
def test_an_output_that_ends_otherwise_is_settled(end: str) -> None:
    """Whatever becomes of it, nobody can process it any more, and its input is acked."""
    with Node("source") as source, Node("sink") as sink, Node("stage") as node:
        pages = source.producer("pages", int)
        options: dict[str, Any] = {"max_attempts": 1}
        if end == "dropped":
            options = {"on_full": "drop_oldest", "buffer_bytes": 1000}
        words = node.producer("words", int, **options)

        @node.on_message("pages")
        def work(page: int) -> None:
            words.send(page, ttl=0.05 if end == "expired" else None)

        receipt = pages.send(1)
        eventually(lambda: node.statistics().producers[0].accepted == 1)
        if end == "dropped":
            while pages.state(receipt) != "processed":
                words.send_many(range(100), cause=None)
        elif end in ("rejected", "dead"):
            message = sink.consumer("words", int).get(DEADLINE)
            if end == "rejected":
                message.reject("no")
            else:
                message.nack()
        pages.wait(receipt, "processed", DEADLINE)
        threading.Thread(target=take_all, args=(sink.consumer("words", int),)).start()  # what is left


@pytest.mark.usefixtures("runtime")
def test_a_node_beside_it_is_an_exit_as_any(front: Any) -> None:
    """The message is taken by one node and sent on by another one of the process."""
    with (
        Node("source") as source,
        Node("sink") as sink,
        front.node("taking") as taking,
        front.node("sending") as sending,
    ):
        pages, words = source.producer("pages", int), sending.producer("words", int)
        receipt = pages.send(1)
        with taking.consumer("pages", int).get(DEADLINE) as page:
            words.send(page)
        eventually(lambda: account_of(taking).handed_on == 1)
        assert pages.state(receipt) in ("queued", "delivered")
        with sink.consumer("words", int).get(DEADLINE) as word:
            assert word == 1
        pages.wait(receipt, "processed", DEADLINE)


@pytest.mark.usefixtures("runtime")
def test_a_node_beside_it_that_closes_leaves_the_input_to_others() -> None:
    """What it had sent is gone with it, so the message runs again."""
    with Node("source") as source, Node("taking") as taking, Node("sink") as sink:
        sending, pages = Node("sending"), source.producer("pages", int)
        pages.send(1)
        with taking.consumer("pages", int).get(DEADLINE) as page:
            sending.producer("words", int).send(page)
        eventually(lambda: account_of(taking).handed_on == 1)
        with pytest.raises(Undelivered):
            sending.close(0)
        with taking.consumer("pages", int).get(DEADLINE) as page:
            taking.producer("words", int).send(page)
        with sink.consumer("words", int).get(DEADLINE) as word:
            assert word == 1
        pages.flush(DEADLINE)


@pytest.mark.usefixtures("runtime")
def test_a_producer_that_was_closed_holds_nothing_back(front: Any) -> None:
    """As of a queue for each reply: it was closed before its input is acked, so all that it had is settled."""
    with Node("source") as source, Node("sink") as sink, front.node("stage") as stage:
        pages = source.producer("pages", int)
        receipt = pages.send(1)
        message = stage.consumer("pages", int).get(DEADLINE)
        words = stage.producer("words", int)
        words.send(2, cause=getattr(message, "target", message))
        with sink.consumer("words", int).get(DEADLINE) as word:
            assert word == 2
        words.close(DEADLINE)
        message.ack()
        pages.wait(receipt, "processed", DEADLINE)


@pytest.mark.usefixtures("runtime")
def test_a_close_waits_for_outputs_and_acks_then() -> None:
    """A stage that closes hands everything on before it says goodbye."""
    with Node("source") as source, Node("sink") as sink:
        pages = source.producer("pages", int)
        node = Node("stage")
        handler(node, node.producer("words", int))
        with node:
            pages.send_many(range(100))
            eventually(lambda: account_of(node).handed_on == 100)
            threading.Thread(target=take_all, args=(sink.consumer("words", int),)).start()
        [account] = [each for each in source.statistics().producers if each.queue == "pages"]
        pages.flush(DEADLINE)
        assert (account.acked, account.redelivered) == (100, 0)


@pytest.mark.usefixtures("runtime")
def test_a_close_that_cannot_wait_leaves_the_inputs_to_others(front: Any) -> None:
    """`Undelivered` counts the outputs, and their inputs run elsewhere."""
    with Node("source") as source, Node("sink") as sink:
        pages = source.producer("pages", int)
        pages.send_many(range(PAGES))
        node = front.node("stage")
        words, consumer = node.producer("words", int), node.consumer("pages", int)
        for _ in range(PAGES):
            with consumer.get(DEADLINE) as page:
                words.send(page)
        eventually(lambda: account_of(node).handed_on == PAGES)
        with pytest.raises(Undelivered) as undelivered:
            node.close(0.01)
        assert undelivered.value.waiting + undelivered.value.in_flight == PAGES
        with Node("another") as another:
            handler(another, another.producer("words", int))
            seen = set()
            for _ in range(PAGES):
                with sink.consumer("words", int).get(DEADLINE) as word:
                    seen.add(word)
            pages.flush(DEADLINE)
            assert seen == set(range(PAGES))


# Ledgers


@pytest.mark.usefixtures("runtime")
def test_a_ledger_has_a_message_when_its_outputs_are_safe(front: Any, tmp_path: Path) -> None:
    """Written before it is acked, and not before its outputs are settled; never by the pump."""
    path = tmp_path / "pages.ledger"
    with Node("source") as source, Node("sink") as sink, front.node("stage") as node:
        pages, words = source.producer("pages", int), node.producer("words", int)
        receipts = [pages.send(page) for page in range(PAGES)]
        consumer = node.consumer("pages", int, ledger=path)
        for _ in range(PAGES):
            with consumer.get(DEADLINE) as page:
                words.send(page)
        handle = lifecycle(getattr(node, "target", node)).handles.consumers["pages"]
        writers: set[str] = set()
        record = handle.ledger_store.record_entries

        def recorded(entries: Any) -> None:
            writers.add(threading.current_thread().name)
            record(entries)

        handle.ledger_store.record_entries = recorded
        eventually(lambda: account_of(node).handed_on == PAGES)
        assert not handle.ledger_store.remembered
        for _ in range(PAGES):
            sink.consumer("words", int).get(DEADLINE).ack()
        for receipt in receipts:
            pages.wait(receipt, "processed", DEADLINE)
        assert writers == {"peerfabric-pages-ledger"}
        assert sum(ranges.total for ranges in handle.ledger_store.remembered.values()) == PAGES


@pytest.mark.usefixtures("runtime")
def test_a_ledger_that_cannot_be_written_leaves_the_message_to_others(tmp_path: Path, caplog: Any) -> None:
    """As of any ack: it is logged, and the message runs again."""
    path = tmp_path / "pages.ledger"
    with Node("source") as source, Node("sink") as sink, Node("stage") as node:
        pages, words = source.producer("pages", int), node.producer("words", int)
        pages.send(1)
        consumer = node.consumer("pages", int, ledger=path)
        with consumer.get(DEADLINE) as page:
            words.send(page)
        eventually(lambda: account_of(node).handed_on == 1)
        path.unlink()
        sink.consumer("words", int).get(DEADLINE).ack()
        with Node("another") as another, another.consumer("pages", int).get(DEADLINE) as page:
            assert page == 1
        pages.flush(DEADLINE)
    assert "are not acked, as the ledger cannot be written" in caplog.text


# Arguments


def count(page: int) -> None: ...


@pytest.mark.usefixtures("runtime")
def test_wrong_causes_and_options(front: Any) -> None:
    """Each is a typed error that says what to give; nothing is sent."""
    with front.node() as node:
        words = node.producer("words", int)
        for cause in ("message", 7, words):
            for call in (partial(words.send, 1), partial(words.send_many, [1])):
                with pytest.raises(TypeError, match="was not taken from a queue; give the Message or the Batch"):
                    call(cause=cause)
        for wrong in ("output", None, True):
            with pytest.raises(ConfigError, match=r"ack_after=.*; use 'outputs', .* or 'return'"):
                node.consumer("pages", int, ack_after=wrong)
            with pytest.raises(ConfigError, match="ack_after="):
                node.on_message("pages", ack_after=wrong)(count)
        assert node.statistics().producers[0].accepted == 0
        node.consumer("pages", int, ack_after="return")
        with pytest.raises(ConfigError, match="ack_after='return', not 'outputs'"):
            node.consumer("pages", int)


@pytest.mark.usefixtures("runtime")
def test_a_cause_that_is_settled(caplog: pytest.LogCaptureFixture) -> None:
    """What is sent because of it is sent, and the log says that nothing waits for it."""
    with Node("source") as source, Node("stage") as node:
        pages, words = source.producer("pages", int), node.producer("words", int)
        pages.send(1)
        message = node.consumer("pages", int).get(DEADLINE)
        message.ack()
        words.send(1, cause=message)
        assert f"because of {message.id} does not hold back its ack, as it is settled already" in caplog.text
        pages.flush(DEADLINE)
        words.send(1, cause="in hand")
        for _ in range(2):
            node.consumer("words", int).get(DEADLINE).ack()


def test_a_fork_while_outputs_are_noted(start: Callable[..., Any]) -> None:
    """What another thread holds at that moment is free in the child."""
    child = start(
        """
        import os, threading
        from peerfabric.nodes.outputs import _adding

        held, go_on = threading.Event(), threading.Event()

        def hold():
            with _adding:
                held.set()
                go_on.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(20)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if _adding.acquire(timeout=1) else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        go_on.set()
        """
    )
    out, err = child.finish()
    assert out.split() == ["0"], out + err
