"""A fabric of its own for each test, and the command as a real process in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerfabric import Node
from tests.cli.processes import Processes

Start = Callable[..., "subprocess.Popen[str]"]
DEADLINE = 60.0


@pytest.fixture(autouse=True)
def fabric(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The runtime folder of this test's fabric; short, since socket paths have a limit."""
    with tempfile.TemporaryDirectory(prefix="pf-", dir="/tmp") as folder:
        monkeypatch.setenv("PEERFABRIC_RUNTIME", folder)
        monkeypatch.setenv("PEERFABRIC_FABRIC", "cli")
        monkeypatch.setenv("PYTHONUNBUFFERED", "1")
        yield Path(folder)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `peerfabric` with arguments; what still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "peerfabric.nodes.cli.main", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ.copy(),
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def node() -> Iterator[Node]:
    with Node("test") as node:
        yield node


def ended(process: subprocess.Popen[str], given: str | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors of a process, once it has ended."""
    out, err = process.communicate(given, timeout=DEADLINE)
    return process.returncode, out, err


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """Processes of this host, as the test says."""
    processes = Processes()
    processes.put_in_place(monkeypatch)
    return processes
