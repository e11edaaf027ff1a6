"""What all discovery tests share: a runtime folder of their own, a recorder of reports, and a watch over leaks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerfabric.discovery.conformance import DEADLINE, Recorder, announcement_for, eventually

__all__ = ["DEADLINE", "Child", "Recorder", "announcement_for", "eventually"]


class Child:
    """A real process that runs a node of one backend; see `announcing_node.py`."""

    def __init__(self, *arguments: str) -> None:
        script = Path(__file__).with_name("announcing_node.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        """The next line that the process prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Let it close its backend, and wait for that."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(DEADLINE)

    def release(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def start_child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(*arguments: str) -> Child:
        children.append(Child(*arguments))
        return children[-1]

    yield start
    for child in children:
        child.release()


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of this test alone, and no peers from outside."""
    folder = tmp_path / "run"
    monkeypatch.setenv("PEERFABRIC_RUNTIME", str(folder))
    monkeypatch.delenv("PEERFABRIC_PEERS", raising=False)
    return folder


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fail on a thread or a descriptor that is left."""
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    yield
    eventually(lambda: set(threading.enumerate()) <= threads, "the end of all threads")
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "the end of all descriptors")
