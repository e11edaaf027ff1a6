"""Handlers that hang: the log says where they are, long before their leases end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from peerfabric import AsyncNode, Node
from peerfabric.health import SLOW_HANDLER
from peerfabric.nodes.io.waiting import clock
from peerfabric.queue import receiver
from tests.nodes.conftest import DEADLINE, eventually


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second is long."""
    monkeypatch.setattr(receiver, "slow_after", lambda lease, usual: 0.1)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What handlers wait for, until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def context_of(node: Any) -> Any:
    return (node if isinstance(node, AsyncNode) else node._async)._context


def told(node: Any) -> list[str]:
    """What it warns of now, after a look."""
    context = context_of(node)
    with context.pump.lock:
        context.engine.health.look_at = clock()
        warned = context.engine.health.warnings(clock())
    context.pump.wake()
    return [each.text for each in warned if each.code == SLOW_HANDLER]


def line_of(function: Any, text: str) -> str:
    """FILE:LINE of the line of `function` that has `text`."""
    lines, first = inspect.getsourcelines(function)
    [at] = [at for at, line in enumerate(lines) if text in line]
    return f"{__file__}:{first + at}"


def test_a_thread_that_hangs_is_told_with_its_line(
    runtime: object, gate: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the program's own code, however deep in a library it waits."""
    caplog.set_level(logging.WARNING, "peerfabric")
    with Node("shop") as node:

        def charge(order: int) -> None:
            gate.wait(DEADLINE)  # here

        node.on_message("orders")(charge)
        node.producer("orders", int).send(1)
        eventually(lambda: told(node), "the warning")
        place = f"it is at {line_of(charge, '# here')} in peerfabric-charge-0; lease= ends it in "
        eventually(lambda: place in caplog.text, "the line in the log")
        gate.set()
        eventually(lambda: not told(node), "the end of the warning")


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "fails"])
def test_a_handler_that_hangs_beyond_its_lease_is_still_shown(
    runtime: object, gate: threading.Event, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    """With its line, in the warning, in the status and in the log, until it comes back."""
    caplog.set_level(logging.WARNING, "peerfabric")
    with Node("shop") as node:

        def charge(order: int) -> None:
            gate.wait(DEADLINE)  # here
            if fails and order == 1:
                raise RuntimeError("at last")

        node.on_message("orders", lease=1.0)(charge)
        node.producer("orders", int).send(1)
        where = f"{line_of(charge, '# here')} in peerfabric-charge-0"
        eventually(lambda: "its lease of 1 s is over" in "".join(told(node)), "the end of the lease")
        assert f"still hangs at {where}, and takes nothing else" in told(node)[0]
        assert f"its handler is still at {where}; raise lease=" in caplog.text
        look = node._async._lifecycle.outside()
        (taking,) = look.status().takes
        (running,) = taking.running
        assert (running.thread, running.line) == ("peerfabric-charge-0", where.partition(" ")[0])
        assert running.handler.endswith("charge")
        assert (running.lease_left < 0.0, taking.longest_running) == (True, running.age)
        gate.set()
        eventually(lambda: not told(node) and not look.status().takes[0].running, "the end of the warning")


def test_what_an_ended_thread_forgot_is_not_shown(runtime: object) -> None:
    """Its lease is over, and nobody has it: it is as if it had never been taken."""
    with Node("shop") as node:
        consumer = node.consumer("orders", int, lease=1.0)
        thread = threading.Thread(target=lambda: consumer.get(timeout=DEADLINE))
        thread.start()
        node.producer("orders", int).send(1)
        thread.join(DEADLINE)
        del thread
        end = context_of(node).engine.consumers.by_queue["orders"]
        eventually(lambda: end.account().nacked, "the end of the lease")
        gc.collect()
        assert node._async._lifecycle.outside().status().takes[0].running == ()
        assert told(node) == []
        with consumer.get(timeout=DEADLINE) as message:
            assert message == 1


def test_a_loop_that_hangs_is_told_with_its_line(runtime: object, gate: threading.Event) -> None:
    """A program that takes by itself."""

    def work(node: Any) -> None:
        for message in node.consumer("orders", int):
            with message:
                gate.wait(DEADLINE)  # here
            return

    with Node("shop") as node:
        thread = threading.Thread(target=work, args=(node,), name="kitchen")
        thread.start()
        node.producer("orders", int).send(1)
        eventually(lambda: told(node), "the warning")
        assert f"it is at {line_of(work, '# here')} in kitchen; " in told(node)[0]
        gate.set()
        thread.join(DEADLINE)


@pytest.mark.parametrize("blocks", [False, True], ids=["awaits", "blocks"])
def test_a_task_that_hangs_is_told_with_its_line(runtime: object, gate: threading.Event, blocks: bool) -> None:
    """Whether it awaits something, or keeps its event loop waiting: then nothing else could tell."""
    found = SimpleNamespace(texts=[], released=None)

    async def charge(order: int) -> None:
        if blocks:
            gate.wait(DEADLINE)  # blocked
        else:
            await found.released.wait()  # awaiting

    async def main() -> None:
        found.released = asyncio.Event()
        async with AsyncNode("shop") as node:
            node.on_message("orders")(charge)
            loop = asyncio.get_running_loop()

            def watch() -> None:
                eventually(lambda: told(node), "the warning")
                found.texts = told(node)
                gate.set()
                loop.call_soon_threadsafe(found.released.set)

            watching = threading.Thread(target=watch)
            watching.start()
            await node.producer("orders", int).send(1)
            await asyncio.to_thread(watching.join, DEADLINE)

    asyncio.run(main())
    text = "# blocked" if blocks else "# awaiting"
    assert f"it is at {line_of(charge, text)} in peerfabric-charge-0; " in found.texts[0]
