"""AsyncFabric: the same for tests that are coroutines, with nodes of both fronts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from peerfabric import AsyncNode, Node, NodeClosed, Service, TimedOut, WouldDeadlock
from peerfabric.testing import AsyncFabric, Fabric
from tests.nodes.conftest import DEADLINE

PRICE = Service("price", str, float)
module = AsyncNode("module")
orders = module.producer("orders", str)
ask = module.client(PRICE)
cooked: list[str] = []


@module.on_message("orders")
async def cook(order: str) -> None:
    cooked.append(order)


@module.serve(PRICE)
async def tell(dish: str) -> float:
    return float(len(dish))


@pytest.mark.parametrize("number", range(2))
def test_node_of_a_module(number: int) -> None:
    """It runs in one event loop after the other."""

    async def main() -> None:
        cooked.clear()
        async with AsyncFabric() as fabric:
            await fabric.restart(module)
            for life in range(2):
                await orders.send(f"tea {life}")
                await fabric.settled(DEADLINE)
                assert cooked == ["tea 0", "tea 1"][: life + 1] == fabric.sent("orders")
                assert await ask("jam", timeout=DEADLINE) == 3.0
                if life:
                    await fabric.kill(module)
                    with pytest.raises(NodeClosed):
                        await orders.send("lost")
                await fabric.restart(module)

    asyncio.run(main())


def test_left_open() -> None:
    """What a test leaves open is closed in its loop, and with it the tasks of its handlers."""
    cancelled: list[str] = []

    async def main() -> None:
        async with AsyncFabric() as fabric:
            shop = AsyncNode("shop", spool=fabric.folder / "spool")
            kitchen, blocking = AsyncNode("kitchen"), Node("old")

            @kitchen.on_message("orders")
            async def hang(order: str) -> None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(order)
                    raise

            await kitchen._context.started()
            await shop.producer("orders", str).send("tea")
            await asyncio.to_thread(blocking.peers)
            with pytest.raises(TimedOut, match="'orders' has 1 message of shop"):
                await fabric.settled(0.1)
            fabric.hang(kitchen)
            fabric.resume(kitchen)
            await fabric.kill(shop)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(main())
    assert cancelled == ["tea"]


def test_of_a_loop_that_has_ended() -> None:
    """A node of it is closed all the same, by the thread that leaves the fabric."""

    async def main() -> None:
        await AsyncNode("shop").producer("orders", int).send(1)

    threads = set(threading.enumerate())
    with Fabric() as fabric:
        asyncio.run(main())
        assert fabric.sent("orders") == [1]
    assert set(threading.enumerate()) <= threads


def test_of_a_loop_in_another_thread() -> None:
    """A plain test may have asyncio nodes there, and does to them what it does to others."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with Fabric() as fabric:
            node = AsyncNode("shop", spool=fabric.folder / "spool")
            producer = node.producer("orders", int)
            for number in (1, 2):
                asyncio.run_coroutine_threadsafe(producer.send(number), loop).result(DEADLINE)
                fabric.kill(node) if number == 1 else fabric.hang(node)
                fabric.restart(node)
            with Node("kitchen") as kitchen:
                asyncio.run_coroutine_threadsafe(producer.send(3), loop).result(DEADLINE)
                for number in (1, 2, 3):
                    with kitchen.consumer("orders", int).get(timeout=DEADLINE) as body:
                        assert body == number
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_refused_in_a_loop() -> None:
    """What would keep the loop from running says what to use there."""

    async def main() -> None:
        async with AsyncFabric() as fabric, AsyncNode("shop") as shop:
            plain = fabric._fabric
            calls: list[Callable[[], None]] = [plain.settled, lambda: plain.restart(shop), lambda: plain.kill(shop)]
            for call in calls:
                with pytest.raises(WouldDeadlock, match="async_fabric"):
                    call()

    asyncio.run(main())
