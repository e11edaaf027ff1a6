"""What all discovery tests share: a runtime folder of their own, a recorder of reports, and a watch over leaks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerfabric.discovery.base import Announcement, Lost, Sighting
from peerfabric.discovery.host import host_id

DEADLINE = 20.0
"""Seconds after which something that should happen has not. Wide: machines that run tests are busy."""


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {DEADLINE:g} s"
        time.sleep(0.01)


class Recorder:
    """Keeps what a backend reports. The lists grow only, so they may be read at any time."""

    def __init__(self) -> None:
        self.events: list[Sighting | Lost] = []

    def __call__(self, event: Sighting | Lost) -> None:
        self.events.append(event)

    def announcements(self) -> list[Announcement]:
        return [e.seen for e in self.events if isinstance(e, Sighting) and isinstance(e.seen, Announcement)]

    def saw(self, announcement: Announcement) -> bool:
        return announcement in self.announcements()

    def lost(self, node_id: str) -> bool:
        return any(isinstance(event, Lost) and event.node_id == node_id for event in self.events)


def announcement_for(fabric: str = "tests", **changes: object) -> Announcement:
    """An announcement of a new node; `changes` replace fields."""
    fields: dict[str, object] = {
        "node_id": uuid.uuid4().hex,
        "epoch": 7 << 20,
        "name": "kitchen",
        "fabric": fabric,
        "host": host_id(),
        "inbox": ("tcp://127.0.0.1:4000",),
        "outbox": ("tcp://127.0.0.1:4001",),
    }
    return Announcement(**{**fields, **changes})  # type: ignore[arg-type]


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
