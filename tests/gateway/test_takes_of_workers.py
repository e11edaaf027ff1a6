"""Takes and settlements at the command with several workers, each of which is asked at random."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx

from peerfabric import Node
from tests.gateway.commands import Command
from tests.nodes.conftest import DEADLINE, eventually


def ask(client: httpx.Client, path: str, asked: Any) -> Any:
    """The answer of some worker: each request has a connection of its own, and one that dies is asked again."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            answer = client.post(path, json=asked, headers={"connection": "close"})
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.02)
            continue
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.status_code == 200 else None


def taken(client: httpx.Client, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        found += ask(client, "/v1/queues/orders/take", {"wait": 1, "lease": 600}) or []
    return found


def settled(client: httpx.Client, *receipts: str) -> list[str]:
    return [each["result"] for each in ask(client, "/v1/receipts:settle", {"ack": receipts})["results"]]


def test_any_worker_settles(command: Callable[..., Command]) -> None:
    """What one of four workers has handed out each of them settles; a killed one's messages run elsewhere."""
    gate = command("--workers", "4").ready()
    with Node("shop") as shop, gate.client() as client:
        orders = shop.producer("orders", int)
        orders.send_many(range(24))
        found = taken(client, 24)
        assert sorted(each["body"] for each in found) == list(range(24))
        assert len({each["receipt"].partition(".")[0] for each in found}) > 1, "one worker had all"
        for each in found[:12]:
            assert settled(client, each["receipt"]) == ["ok"]
        victim = gate.workers()[0]
        os.kill(victim, signal.SIGKILL)
        # Who has died is gone for some of them at once, and for all in the end.
        left = [each["receipt"] for each in found[12:]]
        eventually(lambda: "unreachable" not in settled(client, *left), "an answer about each")
        while shop.statistics().producers[0].acked < 24:
            again = ask(client, "/v1/queues/orders/take", {"wait": 1, "max": 100}) or []
            assert set(settled(client, *(each["receipt"] for each in again))) <= {"ok"}
        orders.flush(DEADLINE)
        [account] = shop.statistics().producers
        assert (account.acked, account.dead_lettered) == (24, 0)
    code, error = gate.end()
    assert code == 0, error


def test_what_is_in_hand_may_be_settled_while_workers_end(command: Callable[..., Command]) -> None:
    """Receipts are good for as long as the workers that gave them drain after SIGTERM."""
    gate = command("--workers", "2").ready()
    with Node("shop") as shop, gate.client() as client:
        orders = shop.producer("orders", int)
        orders.send_many(range(6))
        found = taken(client, 6)
        gate.process.terminate()
        for each in found:
            assert settled(client, each["receipt"]) == ["ok"]
        orders.flush(DEADLINE)
        assert gate.finish()[0] == 0
