"""Log records that say which message they are about."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from peerfabric import AsyncNode, Message, MessageFilter, Node

Seen = tuple[str, str, str, int]


class Collecting(logging.Handler):
    """Keeps the text and the fields of what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(MessageFilter())
        self.seen: list[Seen] = []

    def emit(self, record: Any) -> None:
        self.seen.append((record.getMessage(), record.message_id, record.queue, record.attempt))


@pytest.fixture
def log() -> Any:
    log, handler = logging.getLogger("a users own"), Collecting()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield log, handler.seen
    log.removeHandler(handler)


def test_a_message_and_a_batch(log: Any) -> None:
    """While they are in hand, and not before or after."""
    own, seen = log
    with Node("a") as node:
        jobs, consumer = node.producer("jobs", int), node.consumer("jobs", int)
        receipt = jobs.send(1)
        own.info("before")
        with consumer.get(timeout=20):
            own.info("with")
        own.info("after")
        again = jobs.send(2)
        for batch in consumer.batches(1):
            with batch:
                own.info("batch")
            break
    assert seen == [
        ("before", "", "", 0),
        ("with", receipt.id, "jobs", 1),
        ("after", "", "", 0),
        ("batch", again.id, "jobs", 1),
    ]


def test_a_handler_and_its_attempts(log: Any) -> None:
    """A thread has its own message, others have none."""
    own, seen = log
    with Node("a") as node:

        @node.on_message("jobs")
        def work(job: int, message: Message[int]) -> None:
            own.info("work")
            thread = threading.Thread(target=own.info, args=("beside",))
            thread.start()
            thread.join()
            if message.attempt == 1:
                raise ValueError

        receipt = node.producer("jobs", int).send(1, confirm="processed", timeout=20)
    work_lines = [line for line in seen if line[0] == "work"]
    assert work_lines == [("work", receipt.id, "jobs", 1), ("work", receipt.id, "jobs", 2)]
    assert [line for line in seen if line[0] == "beside"] == [("beside", "", "", 0)] * 2


def test_tasks_do_not_mix(log: Any) -> None:
    """Two calls that take turns in one event loop log each their own message."""
    own, seen = log

    async def main() -> dict[str, str]:
        async with AsyncNode("a") as node:
            both = asyncio.Barrier(2)

            @node.on_message("jobs", concurrency=2)
            async def work(job: int) -> None:
                await both.wait()
                own.info("%d", job)

            jobs = node.producer("jobs", int)
            sent = {str(job): (await jobs.send(job)).id for job in (1, 2)}
            await jobs.flush(timeout=20)
            return sent

    sent = asyncio.run(main())
    assert {text: message_id for text, message_id, _, _ in seen} == sent


def test_what_a_record_has_stays(log: Any) -> None:
    """Of who logs, and of another filter in the thread that had the message."""
    own, seen = log
    with Node("a") as node:
        consumer = node.consumer("jobs", int)
        receipt = node.producer("jobs", int).send(1)
        record = logging.LogRecord("a users own", logging.INFO, __file__, 1, "later", None, None)
        with consumer.get(timeout=20):
            own.info("own", extra={"queue": "of the printer"})
            assert MessageFilter().filter(record)
        own.handle(record)
    assert seen == [("own", receipt.id, "of the printer", 1), ("later", receipt.id, "jobs", 1)]
