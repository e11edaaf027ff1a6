"""A cluster of real processes with exact accounting, for runs in which some of them are killed or stopped."""

from __future__ import annotations

import json
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

WORKER = Path(__file__).with_name("worker.py")
HUNG = 600.0
"""Seconds without an end after which a run is taken to hang. No figure is judged by it."""


class Run(NamedTuple):
    """One line of a consumer's log."""

    id: str
    attempt: int
    at: float
    consumer: str


class Death(NamedTuple):
    """A process was killed after `at` and did nothing any more after `over`."""

    name: str
    at: float
    over: float


class Cluster:
    """Starts producers and consumers, kills them, and counts afterwards."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.random = random.Random(seed)
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.killed: list[Death] = []
        self._serial = 0
        print(f"\nseed {seed}")

    def start(self, kind: str, queue: str = "work", name: str = "", **options: float) -> str:
        """Start a producer or a consumer and return its name; it is up when its first line has come."""
        self._serial += 1
        name = name or f"{kind}{self._serial}"
        arguments = [f"{key}={value}" for key, value in options.items()]
        self.processes[name] = subprocess.Popen(
            [sys.executable, str(WORKER), kind, name, str(self.folder), queue, *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        return name

    def line(self, name: str) -> str:
        """The next line that a process prints."""
        out = self.processes[name].stdout
        assert out is not None
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            assert selector.select(HUNG), f"{name} says nothing for {HUNG:g} s"
        return out.readline().strip()

    def kill(self, name: str) -> None:
        """SIGKILL, now."""
        process = self.processes.pop(name)
        at = time.monotonic()
        process.kill()
        process.wait()
        self.killed.append(Death(name, at, time.monotonic()))
        if process.stdout is not None:
            process.stdout.close()

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def processed(self) -> int:
        """How many lines all consumers have written."""
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob("*.log"))

    def has_worked(self, consumer: str) -> bool:
        """Whether `consumer` has processed anything."""
        log = self.folder / f"{consumer}.log"
        return log.exists() and log.stat().st_size > 0

    def wait_for(self, condition: Callable[[], object], what: str, pause: float = 0.01) -> None:
        end = time.monotonic() + HUNG
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen within {HUNG:g} s (seed {self.seed})"
            time.sleep(pause)

    def runs(self) -> list[Run]:
        """Every processing of every message, by the consumers' logs."""
        found = []
        for path in sorted(self.folder.glob("*.log")):
            for line in path.read_text().splitlines():
                identity, attempt, at = line.split()
                found.append(Run(identity, int(attempt), float(at), path.stem))
        return found

    def account(self, producer: str) -> dict[str, Any]:
        """What a producer left about itself."""
        return json.loads((self.folder / f"{producer}.account").read_text())  # type: ignore[no-any-return]

    def resident_bytes(self, name: str) -> int:
        with open(f"/proc/{self.processes[name].pid}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))

    def end(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self.processes.clear()

    # What must hold

    def check_everything_ran(self, stream: str, count: int) -> Counter[str]:
        """Each of `count` messages of `stream` was processed; return how often each."""
        times = Counter(run.id for run in self.runs())
        wanted = {f"{stream}/{n}" for n in range(1, count + 1)}
        missing = wanted - times.keys()
        assert not missing, f"{len(missing)} messages never ran, one is {min(missing)} (seed {self.seed})"
        assert times.keys() == wanted, f"messages ran that nobody sent (seed {self.seed})"
        return times

    def takeovers(self) -> list[float]:
        """For each kill: seconds until the first message that had been with the dead one started elsewhere.

        First deliveries reach a consumer in their order, so one that starts below the highest number that the same
        consumer has started before is a redelivery.
        """
        redelivered = []
        highest: dict[str, int] = {}
        for run in sorted(self.runs(), key=lambda run: run.at):
            before = highest.get(run.consumer, 0)
            if number(run) < before:
                redelivered.append(run.at)
            highest[run.consumer] = max(before, number(run))
        found = []
        for death in self.killed:
            after = [moment - death.at for moment in redelivered if moment > death.at]
            if after:
                found.append(after[0])
        return found


def number(run: Run) -> int:
    """The sequence of a message."""
    return int(run.id.rpartition("/")[2])


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of `values` lie; NaN if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def report(what: str, value: str, passed: bool) -> None:
    """One line of figures against a threshold of the project; shown by `make soak`, not asserted."""
    print(f"{'PASS' if passed else 'FAIL'}  {what}: {value}")


@pytest.fixture
def figures() -> Callable[[str, str, bool], None]:
    return report


@pytest.fixture
def quantile() -> Callable[[list[float], float], float]:
    return percentile


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster in a runtime folder and a fabric of its own. `CHAOS_SEED` repeats a run's choices."""
    folder = Path(tempfile.mkdtemp(prefix="pfc"))
    monkeypatch.setenv("PEERFABRIC_RUNTIME", str(folder / "run"))
    monkeypatch.setenv("PEERFABRIC_FABRIC", f"c{os.urandom(4).hex()}")
    monkeypatch.delenv("PEERFABRIC_PEERS", raising=False)
    made = Cluster(folder, int(os.environ.get("CHAOS_SEED") or random.randrange(10**6)))
    yield made
    made.end()
    shutil.rmtree(folder)
