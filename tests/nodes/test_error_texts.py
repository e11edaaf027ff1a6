"""What errors say: what is wrong, by name, and at the end what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peerfabric import AsyncNode, ConfigError, Node, TimedOut
from tests.nodes.conftest import DEADLINE, Front


class Order(msgspec.Struct):
    number: int


def said(call: Any, error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


def test_a_second_handle_with_other_options(front: Front, tmp_path: Path) -> None:
    """The options that differ are named, with what they are and what was asked for; the others are not."""
    node = front.node("shop", spool=tmp_path / "spool")
    end = "; a name has one handle: ask for the same, or use a node of its own"
    node.producer("jobs", int, on_full="error", buffer_bytes=1000)
    text = said(lambda: node.producer("jobs", Order, on_full="error", max_attempts=2))
    assert text == (
        "producer 'jobs' exists in this node with body_type=int, not tests.nodes.test_error_texts.Order; "
        f"with buffer_bytes=1000, not 67108864; with max_attempts=5, not 2{end}"
    )
    text = said(lambda: node.producer("jobs", int, on_full="error", buffer_bytes=1000, spool=False))
    assert text == f"producer 'jobs' exists in this node with spool=True, not False{end}"
    node.consumer("jobs", int)
    text = said(lambda: node.consumer("jobs", int, lease=1.0, ledger="/x"))
    assert text == f"consumer 'jobs' exists in this node with lease=300.0, not 1.0; with ledger=None, not '/x'{end}"
    node.publisher("t", int)
    assert "publisher 't' exists in this node with body_type=int, not list[int]" in said(
        lambda: node.publisher("t", list[int])
    )
    node.subscriber("t", int)
    assert "with buffer_bytes=16777216, not 1;" in said(lambda: node.subscriber("t", int, buffer_bytes=1))


def test_confirm_stored_says_what_keeps_it_from_being(front: Front, tmp_path: Path) -> None:
    """No spool, not for this producer, or not for every message: each has its own way out."""
    with front.node("shop") as node:
        producer = node.producer("jobs", int)
        assert "give Node(spool=PATH)" in said(lambda: producer.send(1, confirm="stored"))
        receipt = producer.send(1)
        assert "give Node(spool=PATH)" in said(lambda: producer.wait(receipt, "stored"))
        with front.node("kitchen") as kitchen:
            kitchen.consumer("jobs", int).get(timeout=DEADLINE).ack()
            producer.flush(timeout=DEADLINE)
    with front.node("shop", spool=tmp_path / "spool") as node:
        memory, some = node.producer("news", int, spool=False), node.producer("jobs", int, on_full="spool")
        assert "leave out spool=False; or ask for" in said(lambda: memory.send(1, confirm="stored"))
        assert 'use on_full="block" or "error"; or ask for' in said(lambda: some.send(1, confirm="stored"))


def test_the_statements_of_the_other_front(runtime: Path) -> None:
    """They say which one to use, rather than that a protocol is not supported."""

    async def main() -> None:
        async with AsyncNode("shop") as shop, AsyncNode("kitchen") as kitchen:
            await shop.producer("jobs", int).send(1)
            consumer = kitchen.consumer("jobs", int)
            any_consumer: Any = consumer
            with pytest.raises(TypeError, match="write `async for` here"):
                for _ in any_consumer:
                    pass
            message: Any = await consumer.get(timeout=DEADLINE)
            with pytest.raises(TypeError, match=r"plain `with message as body:`.*leave out the `async`"):
                async with message:
                    pass
            message.ack()
        any_node: Any = AsyncNode()
        with pytest.raises(TypeError, match=r"write `async with AsyncNode\(\) as node:`"), any_node:
            pass
        blocking: Any = Node()
        with pytest.raises(TypeError, match=r"write `with Node\(\) as node:`"):
            async with blocking:
                pass
        with pytest.raises(TypeError, match="write plain `for` here"):
            async for _ in blocking.consumer("jobs", int):
                pass

    asyncio.run(main())


def test_a_blocking_node_in_an_event_loop(runtime: Path) -> None:
    """A call that has waited in vain there names the likeliest cause, which is itself."""

    async def main() -> None:
        with Node() as node, pytest.raises(TimedOut) as caught:
            node.consumer("orders", int).get(timeout=0.1)
        assert str(caught.value).endswith("event loop of its thread from running: use AsyncNode there")

    asyncio.run(main())
    with Node() as node, pytest.raises(TimedOut) as caught:
        node.consumer("orders", int).get(timeout=0.1)
    assert "event loop" not in str(caught.value)
