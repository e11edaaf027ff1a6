"""Orders over HTTP while workers of the gateway, and the consumers, are killed: what was accepted is processed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.gateway.commands import Command

KITCHEN = Path(__file__).with_name("kitchen.py")
HUNG = 120.0
"""Seconds without an end after which a run is taken to hang. No figure is judged by it."""


class Line(NamedTuple):
    """One order that was processed."""

    process: int
    number: int
    id: str
    key: str


class Kitchens:
    """Processes that consume orders; one that is killed is started again."""

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.killed: set[int] = set()
        path.touch()
        self._running = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(KITCHEN), str(self.path)])

    def kill(self, chance: random.Random) -> None:
        at = chance.randrange(len(self._running))
        process = self._running[at]
        process.kill()
        process.wait()
        self.killed.add(process.pid)
        self._running[at] = self._start()

    def lines(self) -> list[Line]:
        return [Line(int(p), int(n), i, k) for p, n, i, k in map(str.split, self.path.read_text().splitlines())]

    def close(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait()


class Customer:
    """Connections that send orders, each until it is accepted, with the same key."""

    def __init__(self, gate: Command) -> None:
        self._port = int(gate.said["listen"].rpartition(":")[2])
        self._token = Path(gate.said["token_file"]).read_text().strip()
        self.accepted: dict[int, str] = {}
        self.cut: set[int] = set()
        """Orders of which a request had no answer."""
        self.tries = 0

    async def order(self, count: int, connections: int) -> None:
        numbers = iter(range(count))
        await asyncio.wait_for(asyncio.gather(*(self._work(numbers) for _ in range(connections))), HUNG)

    async def _work(self, numbers: Iterator[int]) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in numbers:
            while number not in self.accepted:
                self.tries += 1
                try:
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._port)
                    status, body = await self._post(*streams, number)
                except (OSError, EOFError, ValueError):  # the worker was killed
                    self.cut.add(number)
                    if streams is not None:
                        streams[1].close()
                    streams = None
                    continue
                if status == 202:
                    self.accepted[number] = body
                else:
                    assert status in (409, 503), (status, body)
                    await asyncio.sleep(0.1)
        if streams is not None:
            streams[1].close()

    async def _post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> tuple[int, str]:
        body = str(number)
        writer.write(
            f"POST /v1/queues/orders/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self._token}\r\nidempotency-key: order-{number}\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), (await reader.readexactly(length)).decode()


def chaos(
    command: Callable[..., Command],
    folder: Path,
    *,
    count: int,
    connections: int,
    workers: int,
    kitchens: int,
    each: float,
) -> None:
    """Send `count` orders; each `each` seconds a worker is killed, and one of the kitchens if there are several."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    gate = command("--workers", str(workers), "--spool", str(folder / "spool")).ready()
    cooks = Kitchens(folder / "processed", kitchens)
    try:
        customer = Customer(gate)
        kills = 0

        async def run() -> None:
            nonlocal kills
            ordering = asyncio.ensure_future(customer.order(count, connections))
            before = 0
            while not ordering.done():
                await asyncio.wait((ordering,), timeout=each)
                living = gate.workers()
                # Not before those that were started in between have done something.
                if not ordering.done() and living and len(customer.accepted) >= before + count // 20:
                    before = len(customer.accepted)
                    os.kill(chance.choice(living), signal.SIGKILL)
                    kills += 1
                    if kitchens > 1:
                        cooks.kill(chance)
            await ordering

        began = time.monotonic()
        asyncio.run(run())
        took = time.monotonic() - began
        assert set(customer.accepted) == set(range(count))
        end = time.monotonic() + HUNG
        while {line.number for line in cooks.lines()} != set(range(count)):
            assert time.monotonic() < end, f"seed {seed}: orders that were accepted are not processed"
            time.sleep(0.1)
        lines = cooks.lines()
    finally:
        cooks.close()
    code, error = gate.end()
    assert code == 0, error

    ids: defaultdict[int, set[str]] = defaultdict(set)
    runs: defaultdict[str, list[int]] = defaultdict(list)
    for line in lines:
        assert line.key == f"order-{line.number}"
        ids[line.number].add(line.id)
        runs[line.id].append(line.process)
    # A worker was killed between storing a message and noting so: its request had no answer then.
    stored_twice = {number for number, found in ids.items() if len(found) > 1}
    assert stored_twice <= customer.cut
    # A consumer was killed between its effect and its ack, or its producer before the ack came there.
    run_twice = {identity: processes for identity, processes in runs.items() if len(processes) > 1}
    assert all(len(set(processes)) == len(processes) for processes in run_twice.values()), "twice by one consumer"
    print(
        f"seed {seed}: {count} orders in {took:.1f} s, {customer.tries} requests, {len(customer.cut)} cut, "
        f"{kills} workers and {len(cooks.killed)} consumers killed; {len(stored_twice)} stored twice, "
        f"{len(run_twice)} run twice, {sum(set(p) <= cooks.killed for p in run_twice.values())} of them by killed ones"
    )
    if kitchens == 1:
        assert not run_twice


def test_orders_while_workers_are_killed(command: Callable[..., Command], tmp_path: Path) -> None:
    """A short run, with one consumer that lives."""
    chaos(command, tmp_path, count=1500, connections=8, workers=2, kitchens=1, each=0.5)


@pytest.mark.long
def test_ten_thousand_orders(command: Callable[..., Command], tmp_path: Path) -> None:
    """At 64 connections to 4 workers, a worker and a consumer killed each second."""
    for _ in range(3):
        chaos(command, tmp_path / str(_), count=10_000, connections=64, workers=4, kitchens=3, each=1.0)
