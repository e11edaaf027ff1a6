"""A web application with several worker processes and one spool folder, whose workers are killed: no order is lost.

It is the one of `examples/web_app.py`, under uvicorn and under gunicorn. What was answered with 202 is processed, and
nothing twice while the consumers live.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
KITCHEN = Path(__file__).with_name("web_kitchen.py")
HUNG = 120.0
"""Seconds without an end after which a run is taken to hang. No figure is judged by it."""


class Site:
    """The application in workers under a server, clients that order without an end, and two kitchens."""

    def __init__(self, server: str, folder: Path, seed: int) -> None:
        self.server, self.folder, self.random = server, folder, random.Random(seed)
        self.spool = folder / "spool"
        self.closed = folder / "closed"
        """While it is there, nobody cooks."""
        self.kills = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.accepted: list[str] = []
        """The ids of all orders that were answered with 202."""
        self.failures = 0
        self.master: subprocess.Popen[bytes] | None = None
        self.kitchens: list[subprocess.Popen[str]] = []
        self._ordering = False
        self._clients: list[threading.Thread] = []
        self._numbers = iter(range(1 << 40))
        print(f"\nseed {seed}")

    # Processes

    def serve(self, workers: int) -> None:
        """Start the server, and return when it answers."""
        if self.server == "uvicorn":
            command = [
                "uvicorn",
                "--app-dir",
                str(EXAMPLES),
                "web_app:app",
                "--port",
                str(self.port),
                "--log-level",
                "error",
            ]
            command += ["--workers", str(workers)]
        else:
            command = [
                "gunicorn",
                "--chdir",
                str(EXAMPLES),
                "web_app:app",
                "-k",
                "asgi",
                "-b",
                f"127.0.0.1:{self.port}",
            ]
            command += ["-w", str(workers), "--log-level", "critical", "--graceful-timeout", "8"]
        with (self.folder / "server.log").open("ab") as log:
            self.master = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=os.environ | {"WEB_SPOOL": str(self.spool)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_for(lambda: self.order() is not None, "an answer of the new server")

    def workers(self) -> list[int]:
        """The pids of the workers: children of the server that have a slot of the spool."""
        assert self.master is not None
        return [pid for pid in self._holders() if pid != self.master.pid]

    def _holders(self) -> list[int]:
        found = []
        for lock in (self.spool / "lock", *self.spool.glob("slots/[0-9]*/lock")):
            text = lock.read_text().strip() if lock.exists() else ""
            if text.isdigit() and self._is_ours(int(text)):
                found.append(int(text))
        return sorted(set(found))

    def _is_ours(self, pid: int) -> bool:
        assert self.master is not None
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        return fields[0] != "Z" and int(fields[1]) == self.master.pid

    def kill_one(self) -> None:
        """SIGKILL to a worker, if there is one just now."""
        if workers := self.workers():
            os.kill(self.random.choice(workers), signal.SIGKILL)
            self.kills += 1

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server, in order or with all its workers at once."""
        assert self.master is not None
        if number == signal.SIGKILL:
            os.killpg(self.master.pid, number)
        else:
            self.master.send_signal(number)
        self.master.wait(HUNG)
        if self.server == "gunicorn" and number == signal.SIGKILL:
            self.wait_for(lambda: not self._listens(), "the end of the last worker")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def cook(self) -> None:
        log = self.folder / f"kitchen{len(self.kitchens)}.log"
        kitchen = subprocess.Popen(
            [sys.executable, str(KITCHEN), str(log), str(self.closed)], stdout=subprocess.PIPE, text=True
        )
        self.kitchens.append(kitchen)
        assert kitchen.stdout is not None
        assert kitchen.stdout.readline() == "cooks\n"

    # Clients

    def order(self) -> str | None:
        """Order once; the id if it was answered with 202."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HUNG)
        try:
            body = json.dumps({"number": next(self._numbers), "dish": "tea"})
            connection.request("POST", "/orders", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.failures += 1
            return None
        finally:
            connection.close()
        if answer.status != 202:
            self.failures += 1
            return None
        identity = str(json.loads(text)["accepted"])
        self.accepted.append(identity)
        return identity

    def begin_to_order(self, clients: int) -> None:
        self._ordering = True

        def run() -> None:
            while self._ordering:
                if self.order() is None:
                    time.sleep(0.02)  # whoever retries does not do it at once
                time.sleep(0.005)

        self._clients = [threading.Thread(target=run) for _ in range(clients)]
        for client in self._clients:
            client.start()

    def stop_to_order(self) -> None:
        self._ordering = False
        for client in self._clients:
            client.join()

    # What must hold

    def cooked(self) -> Counter[str]:
        """How often each order was processed, by its id."""
        lines = [line for path in self.folder.glob("kitchen*.log") for line in path.read_text().splitlines()]
        return Counter(line.split()[0] for line in lines)

    def is_done(self) -> bool:
        return self.cooked().keys() >= set(self.accepted)

    def check(self) -> float:
        """See that each accepted order is processed, and once; return how long that took from now on."""
        began = time.monotonic()
        self.wait_for(self.is_done, "the last order")
        took = time.monotonic() - began
        twice = [identity for identity, count in self.cooked().items() if count > 1]
        assert not twice, f"{len(twice)} orders were processed twice, one is {twice[0]}"
        return took

    @property
    def slots(self) -> int:
        return 1 + len([path for path in self.spool.glob("slots/*") if path.name.isdigit()])

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        ends_at = time.monotonic() + HUNG
        while not condition():
            log = self.folder / "server.log"
            assert time.monotonic() < ends_at, f"{what} did not come within {HUNG:g} s\n{log.read_text()[-2000:]}"
            time.sleep(0.05)

    def end(self) -> None:
        self._ordering = False
        for client in self._clients:
            client.join()
        if self.master is not None and self.master.poll() is None:
            os.killpg(self.master.pid, signal.SIGKILL)
            self.master.wait()
        for kitchen in self.kitchens:
            kitchen.kill()
            kitchen.communicate()


@pytest.fixture(params=["uvicorn", pytest.param("gunicorn", marks=pytest.mark.long)])
def site(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="pfw"))
    monkeypatch.setenv("PEERFABRIC_RUNTIME", str(folder / "run"))
    monkeypatch.setenv("PEERFABRIC_FABRIC", f"w{os.urandom(4).hex()}")
    monkeypatch.delenv("PEERFABRIC_PEERS", raising=False)
    site = Site(request.param, folder, int(os.environ.get("CHAOS_SEED") or random.randrange(10**6)))
    yield site
    site.end()
    shutil.rmtree(folder)


def run(site: Site, workers: int, kills: int, pause: float) -> None:
    """Kill random workers under load, end the server in order, start it with one worker, and wait for all orders.

    After a quarter of the kills nobody cooks, so that there is much for the one worker to adopt.
    """
    site.cook()
    site.cook()
    site.serve(workers)
    site.begin_to_order(8)
    for number in range(kills):
        time.sleep(pause)
        if number == kills // 4:
            site.closed.touch()
        site.kill_one()
    if site.server == "gunicorn":
        assert site.master is not None
        site.master.send_signal(signal.SIGHUP)  # all workers are replaced
        time.sleep(pause)
    site.stop_to_order()
    site.stop()
    site.serve(1)
    left = len(set(site.accepted) - site.cooked().keys())
    site.closed.unlink()
    took = site.check()
    print(
        f"{site.server}: {len(site.accepted):,} orders, {site.failures} failed, {site.kills} kills, {site.slots} slots"
    )
    print(f"the last {left:,} were processed within {took:.1f} s")
    assert left > 0
    assert site.slots <= 2 * workers + 1


def test_workers_are_killed(site: Site) -> None:
    """Two workers, four kills."""
    run(site, 2, 4, 0.5)


@pytest.mark.long
def test_workers_are_killed_for_a_minute(site: Site) -> None:
    """Four workers, one is killed each 0.5 s for 60 s; then one worker alone."""
    run(site, 4, 120, 0.5)


@pytest.mark.long
def test_killed_restarted_and_scaled_down(site: Site) -> None:
    """All at once with SIGKILL, again with as many, with one, with two: every order that was accepted is processed."""
    site.cook()
    for workers in (2, 2, 1, 2, 1):
        site.serve(workers)
        site.begin_to_order(4)
        time.sleep(2.0)
        site.stop_to_order()
        site.stop(signal.SIGKILL)
    site.serve(1)
    site.check()
    assert site.slots <= 5
