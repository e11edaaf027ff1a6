"""Starts that fail half way, in both fronts: the node is as it was, and nothing of the start is left."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from peerfabric import AsyncNode, ConfigError, Node, SpoolError
from peerfabric.nodes import process
from peerfabric.nodes.context import Life
from peerfabric.nodes.io.pump import Pump
from peerfabric.nodes.membership import Membership
from peerfabric.spool.files import RealFiles
from tests.nodes.conftest import DEADLINE, eventually, open_descriptors
from tests.nodes.test_handles import lifecycle


def peerfabric_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("peerfabric")}


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The system has no thread for one of that name."""
    start = threading.Thread.start

    def start_if_possible(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_possible)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("peerfabric-shop", False),
        ("peerfabric-shop", True),
        ("peerfabric-registry", False),
        ("peerfabric-registry", True),
        ("peerfabric-handle-1", False),
        ("peerfabric-handle-1", True),
        ("peerfabric-shop-disk", True),
    ],
)
def test_a_thread_that_cannot_be_started(
    front: Any, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: bool
) -> None:
    """Each in turn: nothing is open, announced or running, and the next start is as good as a first one."""
    tmp_path.chmod(0o700)
    node = front.node("shop", spool=tmp_path / "spool" if kept else None)
    producer = node.producer("orders", int)
    handled: list[int] = []

    on_message: Callable[..., Callable[[Callable[[int], None]], Any]] = node.on_message

    @on_message("orders", concurrency=2, ledger=tmp_path / "ledger" if kept else None)
    def handle(body: int) -> None:
        handled.append(body)

    descriptors = open_descriptors()
    for _ in range(2):
        with monkeypatch.context() as patch:
            refuse(patch, name)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                node.__enter__()
        found = lifecycle(front, node)
        assert (found.node.life, found.node.disk, found in process._running) == (Life.NEW, None, False)
        eventually(lambda: not peerfabric_threads(), "the end of all threads")
        eventually(lambda: len(open_descriptors()) <= len(descriptors), "the end of all descriptors")
        assert [path for path in runtime.rglob("*") if not path.is_dir()] == []
    with node:
        producer.send_many([1, 2, 3])
        producer.flush(timeout=DEADLINE)
        assert sum(name.startswith("peerfabric-handle") for name in peerfabric_threads()) == 2
    assert sorted(handled) == [1, 2, 3]


def test_a_handler_added_when_there_is_no_thread(front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decorator says so, none of its threads runs, and the node goes on and closes."""
    with front.node() as node:
        producer = node.producer("orders", int)

        def handle(_: int) -> None:
            raise AssertionError("it is no handler")

        with monkeypatch.context() as patch:
            refuse(patch, "peerfabric-handle-1")
            with pytest.raises(RuntimeError, match="can't start new thread"):
                node.on_message("orders", concurrency=2)(handle)
        eventually(lambda: not any("handle" in name for name in peerfabric_threads()), "the end of the other one")
        producer.send(1)
        with node.consumer("orders", int).get(timeout=DEADLINE) as body:
            assert body == 1


@pytest.mark.usefixtures("runtime")
def test_a_call_of_another_thread_while_a_node_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the end of the start, also on a topic, and for one that fails it starts anew."""
    node = Node("shop")
    publisher, consumer = node.publisher("prices", int), node.consumer("orders", int)
    inside, go_on = threading.Event(), threading.Event()
    join, tries = Membership.join, []

    def slow(membership: Membership) -> None:
        tries.append(membership)
        inside.set()
        assert go_on.wait(DEADLINE)
        if len(tries) == 1:
            raise OSError("no")
        join(membership)

    monkeypatch.setattr(Membership, "join", slow)
    outcomes: list[object] = []

    def run(call: Callable[[], object]) -> None:
        try:
            outcomes.append(call())
        except OSError:
            outcomes.append("failed")

    threads = [threading.Thread(target=run, args=(call,)) for call in (node.__enter__, lambda: publisher.ready(0))]
    threads[0].start()
    assert inside.wait(DEADLINE)
    threads[1].start()
    consumer.close()
    go_on.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert outcomes == ["failed", None]
    producer = node.producer("orders", int)
    producer.send(1)
    assert node.statistics().consumers[0].received == 0
    with node.consumer("orders", int).get(timeout=DEADLINE) as body:
        assert body == 1
    node.close()


@pytest.mark.usefixtures("runtime")
def test_a_consumer_closed_while_its_node_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed when its end is open and the node does not run yet, it takes nothing."""
    node = Node("shop")
    node.producer("orders", int)
    consumer = node.consumer("orders", int)
    attach = Pump.attach

    def close_soon(pump: Pump, handle: Any) -> None:
        attach(pump, handle)
        if handle is consumer._async:
            closing = threading.Thread(target=consumer.close)
            closing.start()
            eventually(lambda: not handle._open)
            closings.append(closing)

    closings: list[threading.Thread] = []
    monkeypatch.setattr(Pump, "attach", close_soon)
    with node:
        closings[0].join(DEADLINE)
        assert "orders" not in node._async._context.engine.interests.consumes


@pytest.mark.usefixtures("runtime")
def test_a_cancelled_start_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody learns that, and what had been opened before is closed: others can have it."""
    (tmp_path / "folder").mkdir()
    reading, go_on = threading.Event(), threading.Event()
    opened = RealFiles.open

    def slow(*arguments: Any, **options: Any) -> Any:
        reading.set()
        assert go_on.wait(DEADLINE)
        return opened(*arguments, **options)

    async def story() -> None:
        node = AsyncNode("shop")
        node.consumer("good", int, ledger=tmp_path / "good.ledger")
        node.consumer("bad", int, ledger=tmp_path / "folder")
        with monkeypatch.context() as patch:
            patch.setattr(RealFiles, "open", slow)
            entering = asyncio.create_task(node.__aenter__())
            await asyncio.to_thread(reading.wait, DEADLINE)
            task = node._lifecycle._beside._task
            assert task is not None
            task.cancel()  # as a loop does that ends
            with pytest.raises(asyncio.CancelledError):
                await entering
            go_on.set()
        while any(name.endswith("-start") for name in peerfabric_threads()):
            await asyncio.sleep(0.001)
        async with AsyncNode("other") as other:
            other.consumer("good", int, ledger=tmp_path / "good.ledger")
            await other.producer("good", int).send(1)
            (await other.consumer("good", int, ledger=tmp_path / "good.ledger").get(timeout=DEADLINE)).ack()
        with pytest.raises(SpoolError):
            await node.__aenter__()

    asyncio.run(story())


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("module", "question", "part"),
    [
        ("gevent.monkey", "is_module_patched", "threading"),
        ("gevent.monkey", "is_module_patched", "select"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ],
)
def test_threads_that_are_none(
    front: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, question: str, part: str, kept: bool
) -> None:
    """Where a library has put its own in their place the start is refused; loaded and not applied is no harm."""
    patched: set[str] = {"socket", "time"}
    library = ModuleType(module)
    setattr(library, question, lambda name: name in patched)
    monkeypatch.setitem(sys.modules, module, library)
    tmp_path.chmod(0o700)
    node = front.node("shop", spool=tmp_path / "spool" if kept else None)
    producer = node.producer("orders", int)
    patched.add(part)
    with pytest.raises(ConfigError, match=f"{module.partition('.')[0]} has replaced .*thread=False, select=False"):
        producer.send(1)
    assert not (tmp_path / "spool").exists()
    patched.remove(part)
    producer.send(2)
    with node.consumer("orders", int).get(timeout=DEADLINE) as body:
        assert body == 2
    node.close()


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("library", "patch"),
    [
        ("gevent", "import gevent.monkey; gevent.monkey.patch_all({})"),
        ("eventlet", "import eventlet; eventlet.monkey_patch({})"),
    ],
)
def test_the_libraries_themselves(library: str, patch: str) -> None:
    """If one is installed: patched wholly it is refused, and without threads and select a node works."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    story = (
        "from peerfabric import ConfigError, Node\n"
        "try:\n"
        "    with Node() as node:\n"
        "        node.producer('q', int).send(1)\n"
        "        with node.consumer('q', int).get(timeout=30) as body: print(body)\n"
        "except ConfigError: print('refused')\n"
    )
    for options, said in (("", "refused"), ("thread=False, select=False", "1")):
        code = f"{patch.format(options)}\n{story}"
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.split() == [said]


def test_a_python_without_its_global_lock(front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node says at its start what to do, opens nothing, and starts where the lock is on."""
    node = front.node("shop")
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(ConfigError, match="PYTHON_GIL=1"):
        node.__enter__()
    assert (lifecycle(front, node).node.life, peerfabric_threads()) == (Life.NEW, set())
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True)
    with node:
        assert node.name == "shop"
