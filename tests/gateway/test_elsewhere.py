"""Receipts at another worker than the one that handed them out."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from peerfabric import AsyncNode
from peerfabric.gateway import elsewhere
from peerfabric.gateway.receipts import Act, Outcome
from peerfabric.gateway.takes import Takes
from tests.gateway.serving import gate
from tests.gateway.test_takes import account, settle, take

pytestmark = pytest.mark.usefixtures("runtime")

WORKER = """
import asyncio, httpx
from peerfabric import AsyncNode
from peerfabric.gateway import Gateway, Tokens

async def main():
    async with Gateway(AsyncNode("worker"), tokens=Tokens.of("a-secret-of-this-test")) as gateway:
        headers = {"authorization": "Bearer a-secret-of-this-test"}
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gate", headers=headers) as client:
            found = []
            while len(found) < 4:
                answer = await client.post("/v1/queues/orders/take", json={"wait": 30, "lease": 600})
                found += answer.json() if answer.status_code == 200 else []
            print(*(each["receipt"] for each in found), flush=True)
            await asyncio.sleep(600)

asyncio.run(main())
"""


def test_workers_settle_for_each_other() -> None:
    """Acks, nacks and extensions at a worker that never took anything; what another start made up is invalid."""

    async def story() -> None:
        async with AsyncExitStack() as stack:
            shop = await stack.enter_async_context(AsyncNode("shop"))
            (first, taker), (_, other) = [
                await stack.enter_async_context(gate(AsyncNode(name))) for name in ("one", "two")
            ]
            orders = shop.producer("orders", int)
            await orders.send_many(range(40))
            found: list[Any] = []
            while len(found) < 40:
                found += await take(taker, wait=30, max=40)
            receipts = [each["receipt"] for each in found]
            answer = await other.post("/v1/receipts:extend", json={"receipts": receipts[:2], "lease": 600})
            assert [each["lease_until"] > found[0]["lease_until"] for each in answer.json()["results"]] == [True] * 2
            # Each by itself and all at once: they go on together.
            acked = await asyncio.gather(*(settle(other, ack=[receipt]) for receipt in receipts[:30]))
            assert list(chain(*acked)) == ["ok"] * 30
            reason = "ä" * 1000
            rejected = [{"receipt": receipt, "reason": reason} for receipt in receipts[30:]]
            forged = f"{receipts[0][:-3]}abc"
            results = await settle(other, ack=[receipts[0], forged, "nonsense"], reject=rejected)
            assert results == ["ok", "invalid", "invalid"] + ["ok"] * 10
            assert first.part(Takes).in_hand == 0
            await orders.flush(30)
            assert (account(shop).acked, account(shop).dead_lettered) == (30, 10)

    asyncio.run(story())


def test_processes_that_are_stopped_or_gone(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is stopped nothing is known, and it is asked again; of one that is gone the messages went on."""

    async def story() -> None:
        async with AsyncNode("shop") as shop, gate() as (_, client):
            orders = shop.producer("orders", int)
            await orders.send_many(range(4))
            worker = subprocess.Popen([sys.executable, "-P", "-c", WORKER], stdout=subprocess.PIPE, text=True)
            try:
                assert worker.stdout is not None
                a, b, c, d = (await asyncio.to_thread(worker.stdout.readline)).split()
                assert await settle(client, ack=[a]) == ["ok"]
                worker.send_signal(signal.SIGSTOP)
                with monkeypatch.context() as short:
                    short.setattr(elsewhere, "ASK_WITHIN", 0.3)
                    short.setattr(elsewhere, "LOOK_WITHIN", 0.3)
                    assert await settle(client, ack=[b]) == ["unreachable"]
                worker.send_signal(signal.SIGCONT)
                assert await settle(client, ack=[b]) == ["ok"]
                worker.kill()
                worker.wait()
                assert await settle(client, ack=[c], nack=[d]) == ["gone", "gone"]
                found: list[Any] = []
                while len(found) < 2:
                    found += await take(client, wait=30)
                assert await settle(client, ack=[each["receipt"] for each in found]) == ["ok", "ok"]
            finally:
                worker.kill()
                worker.wait()
                assert worker.stdout is not None
                worker.stdout.close()
            await orders.flush(30)

    asyncio.run(story())
    # Of the one that was killed; its announcement was there until somebody looked.
    for left in (*runtime.rglob("*.inbox"), *runtime.rglob("*.outbox"), *runtime.rglob("*.json")):
        left.unlink()


def test_made_up_processes_cost_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred receipts of nodes that never were are one look at who is there, or two."""
    looks: list[float] = []

    def processes(*given: Any, **named: Any) -> list[Any]:
        looks.append(0.0)
        return []

    monkeypatch.setattr("peerfabric.admin.processes", processes)

    async def story() -> None:
        async with gate() as (_, client):
            made_up = [f"{number:016x}.start.1.mac" for number in range(100)]
            answers = await asyncio.gather(*(settle(client, ack=made_up[at::10]) for at in range(10)))
            assert list(chain(*answers)) == ["gone"] * 100
            assert len(looks) <= 2

    asyncio.run(story())


def test_what_another_version_says_is_not_believed() -> None:
    """An answer about other receipts, or with outcomes that we do not know, settles nothing."""
    acts = [Act("ack", "a"), Act("ack", "b")]
    unreachable = [Outcome.UNREACHABLE, Outcome.UNREACHABLE]
    for answer in (
        {},
        {"settled": None},
        {"settled": [["a", "ok", None]]},
        {"settled": [["b", "ok", None], ["a", "ok", None]]},
        {"settled": [["a", "ok", None], ["b", "perhaps", None]]},
    ):
        assert [each.result for each in elsewhere._read(answer, acts)] == unreachable
    answer = {"settled": [["a", "ok", None], ["b", "gone", None]]}
    assert [each.result for each in elsewhere._read(answer, acts)] == [Outcome.OK, Outcome.GONE]


def test_requests_fit_into_what_a_socket_takes() -> None:
    """However long reasons are, and whatever JSON makes of them."""
    acts = [Act("reject", f"receipt-{number}", reason="\0" * 1000) for number in range(100)]
    count = elsewhere._fitting(acts)
    assert 1 <= count < 10
    assert elsewhere._fitting(acts[:1]) == 1
    assert elsewhere._fitting([Act("ack", f"receipt-{number}") for number in range(1000)]) >= 500
