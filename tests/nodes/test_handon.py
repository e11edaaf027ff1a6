"""Hand-on over real nodes: a message is acked when what was sent because of it is safe, however it was taken."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from peerfabric import AsyncNode, Message, Node
from tests.nodes.conftest import DEADLINE, eventually

PAGES = 3


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


# Each takes all pages and sends a word for each of them


def handler(node: Any, words: Any) -> None:
    @node.on_message("pages", concurrency=2)
    def work(page: int) -> None:
        words.send(page)


def handler_of_many(node: Any, words: Any) -> None:
    @node.on_message("pages")
    def work(page: int) -> None:
        assert words.send_many([page] * 2) == 2


def handler_with_threads(node: Any, words: Any) -> None:
    @node.on_message("pages")
    def work(page: int, message: Message[int]) -> None:
        thread = threading.Thread(target=words.send, args=(page,), kwargs={"cause": message})
        thread.start()
        thread.join()


def loop(node: Any, words: Any) -> None:
    for message in node.consumer("pages", int):
        with message as page:
            words.send(page)
        if page == PAGES - 1:
            break


def by_hand(node: Any, words: Any) -> None:
    consumer = node.consumer("pages", int)
    for _ in range(PAGES):
        message = consumer.get(DEADLINE)
        words.send(message.body)
        message.ack()


def all_at_once(node: Any, words: Any) -> None:
    consumer = node.consumer("pages", int)
    messages = [consumer.get(DEADLINE) for _ in range(PAGES)]
    for message in messages:
        words.send(message.body)
    for message in messages:
        message.ack()


def joined(node: Any, words: Any) -> None:
    """What is sent with several in hand is an output of all, also of the one whose `with` is not the innermost."""
    consumer = node.consumer("pages", int)
    with consumer.get(DEADLINE), consumer.get(DEADLINE):
        with consumer.get(DEADLINE):
            pass
        words.send_many(range(PAGES))


def batches(node: Any, words: Any) -> None:
    count = 0
    for batch in node.consumer("pages", int).batches(max_size=2, max_wait=0.1):
        with batch as pages:
            words.send_many(pages)
        count += len(batch)
        if count == PAGES:
            break


def batches_by_hand(node: Any, words: Any) -> None:
    count = 0
    for batch in node.consumer("pages", int).batches():
        for page in batch:
            words.send(page)
        batch.ack()
        count += len(batch)
        if count == PAGES:
            break


def entered_elsewhere(node: Any, words: Any) -> None:
    """One thread takes, others work."""
    taken: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        with taken.get() as page:
            words.send(page)

    threads = [threading.Thread(target=work) for _ in range(PAGES)]
    for thread in threads:
        thread.start()
    consumer = node.consumer("pages", int)
    for _ in threads:
        taken.put(consumer.get(DEADLINE))
    for thread in threads:
        thread.join()


async def async_handler(node: Any, words: Any) -> None:
    @node.on_message("pages", concurrency=2)
    async def work(page: int) -> None:
        await asyncio.sleep(0)
        await words.send(page)


async def async_handler_of_many(node: Any, words: Any) -> None:
    @node.on_message("pages")
    async def work(page: int) -> None:
        assert await words.send_many([page] * 2) == 2


async def async_handler_with_tasks(node: Any, words: Any) -> None:
    @node.on_message("pages", concurrency=2)
    async def work(page: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(words.send(page))
            group.create_task(words.send(page))


async def async_handler_with_threads(node: Any, words: Any) -> None:
    @node.on_message("pages")
    async def work(page: int) -> None:
        await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(words.send(page), loop).result(DEADLINE))

    loop = asyncio.get_running_loop()


async def async_handler_in_threads(node: Any, words: Any) -> None:
    @node.on_message("pages", concurrency=2)
    def work(page: int) -> None:
        asyncio.run_coroutine_threadsafe(words.send(page), loop).result(DEADLINE)

    loop = asyncio.get_running_loop()


async def async_handler_with_cause(node: Any, words: Any) -> None:
    @node.on_message("pages")
    async def work(page: int, message: Message[int]) -> None:
        await asyncio.create_task(words.send(page, cause=message), context=contextvars.Context())


async def async_loop(node: Any, words: Any) -> None:
    async for message in node.consumer("pages", int):
        with message as page:
            await words.send(page)
        if page == PAGES - 1:
            break


async def async_by_hand(node: Any, words: Any) -> None:
    consumer = node.consumer("pages", int)
    for _ in range(PAGES):
        message = await consumer.get(DEADLINE)
        await words.send(message.body)
        message.ack()


async def async_all_at_once(node: Any, words: Any) -> None:
    consumer = node.consumer("pages", int)
    messages = [await consumer.get(DEADLINE) for _ in range(PAGES)]
    await words.send_many(range(PAGES))
    for message in messages:
        message.ack()


async def async_batches(node: Any, words: Any) -> None:
    count = 0
    async for batch in node.consumer("pages", int).batches(max_size=2, max_wait=0.1):
        with batch as pages:
            await words.send_many(pages)
        count += len(batch)
        if count == PAGES:
            break


async def async_task_for_each(node: Any, words: Any) -> None:
    """One task takes, others work at the same time."""
    together = asyncio.Barrier(PAGES)

    async def work(message: Any) -> None:
        with message as page:
            await together.wait()
            await words.send(page)

    consumer = node.consumer("pages", int)
    async with asyncio.TaskGroup() as group:
        for _ in range(PAGES):
            group.create_task(work(await consumer.get(DEADLINE)))


async def async_wait_for(node: Any, words: Any) -> None:
    """A task of its own takes, in Python 3.11."""
    consumer = node.consumer("pages", int)
    for _ in range(PAGES):
        with await asyncio.wait_for(consumer.get(), DEADLINE) as page:
            await words.send(page)


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
        receipts = [pages.send(page) for page in range(PAGES)]
        with running(style) as stage:
            eventually(lambda: handed_on(stage) == PAGES, "the end of the stage's work")
            assert {pages.state(receipt) for receipt in receipts} == {"delivered"}
            consumer, seen = sink.consumer("words", int), set()
            while handed_on(stage):
                with consumer.get(DEADLINE) as word:
                    seen.add(word)
                if seen == set(range(PAGES)):
                    break
            threading.Thread(target=lambda: [message.ack() for message in consumer]).start()  # those sent twice
            pages.flush(DEADLINE)
            eventually(lambda: handed_on(stage) == 0)
        assert {pages.state(receipt) for receipt in receipts} == {"processed"}
