"""What the tests of whole nodes share: a fabric of their own, a watch over leaks, and one way to drive both fronts."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from peerfabric import AsyncNode, FabricError, Node

DEADLINE = 30.0
"""Seconds after which something that should happen has not. Wide: machines that run tests are busy."""


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {DEADLINE:g} s"
        time.sleep(0.005)


class Awaited:
    """Drives an object of the asynchronous front from a thread, so that a story is written once for both.

    Every call runs on the event loop, and a coroutine it returns is awaited there.
    """

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.target, self._loop = target, loop

    def _run(self, call: Callable[[], Any]) -> Any:
        async def step() -> Any:
            result = call()
            return await result if inspect.isawaitable(result) else result

        try:
            result = asyncio.run_coroutine_threadsafe(step(), self._loop).result()
        except StopAsyncIteration:
            raise StopIteration from None
        return self._wrapped(result)

    def _wrapped(self, result: Any) -> Any:
        module = type(result).__module__
        ours = module.startswith("peerfabric.nodes.aio.")
        return Awaited(result, self._loop) if ours else result

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if not callable(value):
            return value
        return lambda *args, **kwargs: self._run(lambda: value(*args, **kwargs))

    def __enter__(self) -> Awaited:
        self._run(self.target.__aenter__)
        return self

    def __exit__(self, *error: Any) -> None:
        self._run(lambda: self.target.__aexit__(*error))

    def __iter__(self) -> Any:
        return self._run(self.target.__aiter__)

    def __next__(self) -> Any:
        return self._run(self.target.__anext__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Awaited) and other.target is self.target

    def __hash__(self) -> int:
        return id(self.target)


class Front:
    """Makes nodes of one kind, `Node` or `AsyncNode`, and closes those that a test leaves open."""

    def __init__(self, colour: str) -> None:
        self.colour = colour
        self.is_async = colour == "async"
        self._made: list[Any] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        if self.is_async:
            self.loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self.loop.run_forever)
            self._thread.start()

    def node(self, name: str | None = None, **options: Any) -> Any:
        node: Any = AsyncNode(name, **options) if self.is_async else Node(name, **options)
        if self.loop is not None:
            node = Awaited(node, self.loop)
        self._made.append(node)
        return node

    def close(self) -> None:
        for node in self._made:
            try:
                node.close(0)
            except FabricError:
                pass
        self._made.clear()
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder and a fabric of this test alone; fails on whatever the test leaves behind.

    The folder is short, as paths of sockets may have 107 bytes and pytest's own folders are long.
    """
    zmq.Frame(b"x", copy=False, copy_threshold=0)  # starts pyzmq's thread for memory sent without a copy, which stays
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    folder = Path(tempfile.mkdtemp(prefix="pf"))
    monkeypatch.setenv("PEERFABRIC_RUNTIME", str(folder))
    monkeypatch.setenv("PEERFABRIC_FABRIC", f"t{os.urandom(4).hex()}")
    monkeypatch.delenv("PEERFABRIC_PEERS", raising=False)
    yield folder
    gc.collect()
    eventually(lambda: set(threading.enumerate()) <= threads, f"the end of {set(threading.enumerate()) - threads}")
    eventually(lambda: len(open_descriptors()) <= len(descriptors), "the end of all descriptors")
    left = [path.name for path in folder.rglob("*") if not path.is_dir()]
    shutil.rmtree(folder)
    assert not left, f"files are left in the runtime folder: {left}"


def open_descriptors() -> dict[str, str]:
    """What is open: descriptor -> what it leads to."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            pass
    return found


@pytest.fixture(params=["blocking", "async"])
def front(request: pytest.FixtureRequest, runtime: Path) -> Iterator[Front]:
    """The front under test."""
    made = Front(request.param)
    yield made
    made.close()


class Child:
    """A Python process that runs a script of the test, in the test's own fabric."""

    def __init__(self, script: Path, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def line(self) -> str:
        """The next line it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def write(self, line: str) -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def finish(self) -> tuple[str, str]:
        """Wait for its end; return the rest of what it printed and its standard error."""
        return self.process.communicate(timeout=DEADLINE * 2)

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def release(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def start(runtime: Path, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a child process from the text of a script; it is killed when the test ends."""
    children: list[Child] = []

    def launch(text: str, *arguments: str, **environment: str) -> Child:
        script = tmp_path / f"script{len(children)}.py"
        script.write_text(textwrap.dedent(text))
        children.append(Child(script, *arguments, **environment))
        return children[-1]

    yield launch
    for child in children:
        child.release()
    for path in runtime.rglob("*"):
        # A killed process leaves its files for others to sweep; here nobody comes after it.
        if not path.is_dir() and any(child.code is not None and child.code < 0 for child in children):
            path.unlink(missing_ok=True)
