"""Messages taken over HTTP: handed to who listens, and settled by receipts."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from peerfabric import AsyncNode
from peerfabric.gateway import Gateway, Limits, Tokens
from peerfabric.gateway import takes as takes_module
from peerfabric.gateway.takes import Takes
from tests.gateway.serving import SECRET, client_of, eventually, gate, served

pytestmark = pytest.mark.usefixtures("runtime")


async def take(client: httpx.AsyncClient, queue: str = "orders", **asked: Any) -> Any:
    answer = await client.post(f"/v1/queues/{queue}/take", json=asked)
    assert answer.status_code in (200, 204), answer.text
    return answer.json() if answer.status_code == 200 else []


async def settle(client: httpx.AsyncClient, **asked: Any) -> list[str]:
    answer = await client.post("/v1/receipts:settle", json=asked)
    assert answer.status_code == 200, answer.text
    return [each["result"] for each in answer.json()["results"]]


def account(node: AsyncNode) -> Any:
    [found] = node.statistics().producers
    return found


def test_a_message_is_taken_and_acked() -> None:
    """A take that waits gets what comes; its receipt acks it, and a second time, too."""

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", dict[str, int])
            waiting = asyncio.create_task(take(client, wait=30, lease=30))
            receipt = await orders.send({"table": 7}, headers={"kind": "dinner"})
            [message] = await waiting
            assert message["body"] == {"table": 7}
            assert (message["id"], message["headers"]) == (receipt.id, {"kind": "dinner"})
            assert (message["attempt"], message["sender"]) == (1, "shop")
            assert 0 < message["lease_until"] - message["sent_at"] < 60
            for _ in range(2):
                assert await settle(client, ack=[message["receipt"]]) == ["ok"]
            await orders.flush(30)
            assert account(shop).acked == 1

    asyncio.run(story())


def test_bodies_that_json_has_no_word_for() -> None:
    """Bytes are base64, and what JSON cannot have is MessagePack."""

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("shop") as shop:
            things = shop.producer("things", Any)
            for body in (b"\x00\xff", {1: 2, None: 3}, None):
                await things.send(body)
            found: list[Any] = []
            while len(found) < 3:
                found += await take(client, "things", wait=30)
            assert found[0]["body_base64"] == "AP8="
            assert found[1]["body_msgpack"] == "ggECwAM="
            assert found[2]["body"] is None
            assert await settle(client, ack=[each["receipt"] for each in found]) == ["ok"] * 3

    asyncio.run(story())


def test_nack_and_reject() -> None:
    """A nacked message comes again as the next attempt; a rejected one is a dead letter with its reason."""

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            await orders.send(1)
            [first] = await take(client, wait=30)
            assert await settle(client, nack=[{"receipt": first["receipt"], "delay": 0}]) == ["ok"]
            [second] = await take(client, wait=30)
            assert (second["id"], second["attempt"]) == (first["id"], 2)
            assert await settle(client, ack=[first["receipt"]]) == ["gone"]
            reject = {"receipt": second["receipt"], "reason": "no such table"}
            assert await settle(client, reject=[reject]) == ["ok"]
            await eventually(lambda: account(shop).dead_lettered == 1)
            [letter] = await shop.dead_letters("orders")
            assert (letter.reason, letter.error) == ("rejected", "no such table")

    asyncio.run(story())


def test_many_clients_have_messages_in_hand_at_once() -> None:
    """What one client has not settled keeps nobody else from taking."""

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            await orders.send_many(range(300))
            found: list[Any] = []
            for _ in range(5):
                found += await take(client, wait=30)
            while len(found) < 300:
                more = await asyncio.gather(*(take(client, wait=30, max=20) for _ in range(3)))
                assert all(more)
                found += chain(*more)
            assert sorted(each["body"] for each in found) == list(range(300))
            assert gateway.part(Takes).in_hand == 300
            await settle(client, ack=[each["receipt"] for each in found])
            await orders.flush(30)
            assert account(shop).redelivered == 0

    asyncio.run(story())


def test_a_lease_ends_and_can_be_extended() -> None:
    """An extended one lasts; the other's message goes to others as a failed attempt, and its receipt is gone."""

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            await orders.send_many([1, 2])
            found: list[Any] = []
            while len(found) < 2:
                found += await take(client, wait=30, lease=1)
            kept, lost = found
            answer = await client.post("/v1/receipts:extend", json={"receipts": [kept["receipt"], "x"], "lease": 60})
            [extended, invalid] = answer.json()["results"]
            assert extended["lease_until"] > kept["lease_until"] + 30
            assert (extended["result"], invalid["result"]) == ("ok", "invalid")
            [again] = await take(client, wait=30)
            assert (again["id"], again["attempt"]) == (lost["id"], 2)
            assert await settle(client, ack=[lost["receipt"], kept["receipt"], again["receipt"]]) == [
                "gone",
                "ok",
                "ok",
            ]
            await orders.flush(30)

    asyncio.run(story())


def test_what_comes_back_where_nobody_takes_does_not_go_round() -> None:
    """Eight leases end while nobody takes: the messages wait at their producer, and come to the next take."""

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            await orders.send_many(range(8))
            found: list[Any] = []
            while len(found) < 8:
                found += await take(client, wait=30, max=100, lease=1)

            def returned() -> int:
                [consumer] = gateway.node.statistics().consumers
                return consumer.returned

            await eventually(lambda: returned() >= 8 and account(shop).waiting == 8)
            found.clear()
            while len(found) < 8:
                found += await take(client, wait=30, max=100)
            assert {each["attempt"] for each in found} == {2}
            await settle(client, ack=[each["receipt"] for each in found])
            await orders.flush(30)
            assert (account(shop).redelivered <= 24, returned() <= 16) == (True, True), (account(shop), returned())

    asyncio.run(story())


def test_a_client_that_goes_gets_nothing() -> None:
    """A take whose client has gone while it waited takes nothing, and the message reaches the next."""

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            waiting = asyncio.create_task(take(client, wait=60))
            await eventually(lambda: gateway.part(Takes).waiting == 1)
            waiting.cancel()
            await eventually(lambda: gateway.part(Takes).waiting == 0)
            consumer = gateway.node._lifecycle.handles.consumers["orders"]
            await eventually(lambda: not consumer._waits, "an end of all demand")
            await orders.send(1)
            [message] = await take(client, wait=30)
            assert message["attempt"] == 1
            await settle(client, ack=[message["receipt"]])
            await orders.flush(30)
            assert account(shop).redelivered == 0

    asyncio.run(story())


def test_an_answer_that_cannot_be_sent_gives_back() -> None:
    """The message goes to others at once, without an attempt."""

    async def story() -> None:
        async with AsyncNode("gate") as node, AsyncNode("shop") as shop:
            gateway = Gateway(node, tokens=Tokens.of(SECRET), limits=Limits(drain_timeout=0.1))
            orders = shop.producer("orders", int)
            await orders.send(1)

            async def fails(message: Any) -> None:
                raise OSError("the connection is reset")

            body = [{"type": "http.request", "body": b'{"wait": 30}', "more_body": False}]

            async def receive() -> Any:
                return body.pop() if body else await asyncio.get_running_loop().create_future()

            headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json", "host": "gate"}
            scope = {
                "type": "http",
                "http_version": "1.1",
                "method": "POST",
                "path": "/v1/queues/orders/take",
                "raw_path": b"/v1/queues/orders/take",
                "query_string": b"",
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
            with pytest.raises(OSError, match="reset"):
                await gateway(scope, receive, fails)
            assert gateway.part(Takes).in_hand == 0
            async with served(gateway) as url, client_of(url) as client:
                [message] = await take(client, wait=30)
                assert message["attempt"] == 1
                await settle(client, ack=[message["receipt"]])
            await orders.flush(30)
            await gateway.close()

    asyncio.run(story())


def test_a_consumer_is_there_while_somebody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A while after the last take the producer sees no consumer any more; what is in hand can still be acked."""
    monkeypatch.setattr(takes_module, "CLOSE_AFTER", 0.05)

    def consumed(shop: AsyncNode) -> bool:
        return any("orders" in peer.consumes for peer in shop.peers())

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            await orders.send(1)
            [message] = await take(client, wait=30)
            await eventually(lambda: not consumed(shop))
            assert await settle(client, ack=[message["receipt"]]) == ["ok"]
            await orders.flush(30)
            await orders.send(2)
            [message] = await take(client, wait=30)
            assert (message["body"], consumed(shop)) == (2, True)
            await settle(client, ack=[message["receipt"]])
            await orders.flush(30)

    asyncio.run(story())


def test_any_number_of_queues_is_taken_from_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that nobody waits for and has messages of make room; where there is none that is told."""
    monkeypatch.setattr(takes_module, "QUEUES_MAX", 2)

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("shop") as shop:
            for name in "abcd":
                assert await take(client, name, wait=0) == []
            assert len(gateway.part(Takes)._queues) == 2
            held = []
            for name in "ab":
                await shop.producer(name, int).send(1)
                held += await take(client, name, wait=30)
            answer = await client.post("/v1/queues/c/take", json={"wait": 0})
            assert (answer.status_code, answer.json()["type"]) == (429, "urn:peerfabric:problem:too-many-queues")
            assert await settle(client, ack=[held[0]["receipt"]]) == ["ok"]
            assert await take(client, "c", wait=0) == []
            assert await settle(client, ack=[held[1]["receipt"]]) == ["ok"]
            assert await take(client, "a", wait=0) == []

    asyncio.run(story())


def test_draining_ends_waits_and_gives_back() -> None:
    """Waits answer 204 at once; what is in hand may be settled for a while, then it goes back without an attempt."""

    async def story() -> None:
        async with AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            await orders.send_many([1, 2])
            async with gate(limits=Limits(drain_timeout=0.2)) as (gateway, client):
                found: list[Any] = []
                while len(found) < 2:
                    found += await take(client, wait=30)
                waiting = asyncio.create_task(client.post("/v1/queues/orders/take", json={"wait": 60}))
                await eventually(lambda: gateway.part(Takes).waiting == 1)
                gateway.drain()
                assert (await waiting).status_code == 204
                assert (await client.post("/v1/queues/orders/take", json={"wait": 60})).status_code == 204
                assert await settle(client, ack=[found[0]["receipt"]]) == ["ok"]
            async with gate() as (_, client):
                [again] = await take(client, wait=30)
                assert (again["id"], again["attempt"]) == (found[1]["id"], 1)
                assert await settle(client, ack=[found[1]["receipt"], again["receipt"]]) == ["gone", "ok"]
            await orders.flush(30)

    asyncio.run(story())


def test_refusals() -> None:
    """What cannot be taken, and why."""

    async def story() -> None:
        async with gate(limits=Limits(drain_timeout=0.1, waits_per_token=1)) as (gateway, client):
            for asked, status in (
                ({"max": 101}, 422),
                ({"wait": -1}, 422),
                ({"lease": 0.5}, 422),
                ({"lesse": 5}, 422),
            ):
                assert (await client.post("/v1/queues/orders/take", json=asked)).status_code == status
            broken = await client.post(
                "/v1/queues/orders/take", content=b"{", headers={"content-type": "application/json"}
            )
            assert broken.status_code == 400
            assert (await client.post("/v1/queues/a..b/take", json={})).status_code == 404
            assert (await client.post("/v1/receipts:settle", json={"ack": ["x"] * 1001})).status_code == 422
            assert await settle(client, ack=["", "a.b.c.d", "a.b.1.c", "x" * 300]) == [
                "invalid",
                "invalid",
                "gone",
                "invalid",
            ]
            gateway.node.consumer("mine", int)
            answer = await client.post("/v1/queues/mine/take", json={})
            assert (answer.status_code, "gateway's own program" in answer.json()["detail"]) == (400, True)
            waiting = asyncio.create_task(take(client, wait=60))
            await eventually(lambda: gateway.part(Takes).waiting == 1)
            assert (await client.post("/v1/queues/orders/take", json={})).status_code == 429
            gateway.drain()
            await waiting

    asyncio.run(story())


def test_waits_cost_one_call_at_the_node() -> None:
    """However many takes of a queue wait, one task takes for them; each message wakes one of them."""

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            waiting = [asyncio.create_task(take(client, wait=60)) for _ in range(50)]
            await eventually(lambda: gateway.part(Takes).waiting == 50)
            consumer = gateway.node._lifecycle.handles.consumers["orders"]
            await eventually(lambda: len(consumer._waits) == 1)
            await orders.send_many(range(50))
            found = list(chain(*await asyncio.gather(*waiting)))
            assert sorted(each["body"] for each in found) == list(range(50))
            await settle(client, ack=[each["receipt"] for each in found])
            await orders.flush(30)

    asyncio.run(story())


def test_a_node_that_closes_ends_waits() -> None:
    """Also if the program closes it under the gateway: whoever waits learns that, and nothing is left behind."""

    async def story() -> None:
        async with gate() as (gateway, client):
            waiting = [asyncio.create_task(client.post("/v1/queues/orders/take", json={"wait": 60})) for _ in range(3)]
            await eventually(lambda: gateway.part(Takes).waiting == 3)
            await gateway.node.close()
            assert [(await each).status_code for each in waiting] == [503] * 3
            assert (await client.post("/v1/queues/orders/take", json={"wait": 60})).status_code == 503
            assert gateway.part(Takes).waiting == 0

    asyncio.run(story())


def test_many_more_are_not_fetched_than_are_wanted() -> None:
    """A gateway that has nothing in hand and one take that waits leaves the rest to other consumers."""

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            await orders.send_many(range(1000))
            [message] = await take(client, wait=30)
            [consumer] = gateway.node.statistics().consumers
            assert consumer.buffered <= 2
            await settle(client, ack=[message["receipt"]])
            other = shop.consumer("orders", int)
            for _ in range(999):
                (await other.get(30)).ack()
            await orders.flush(30)

    asyncio.run(story())


def test_a_client_that_goes_just_then_gets_nothing() -> None:
    """Its connection has ended, and nobody was told yet: what was found for it goes to others, without an attempt."""

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("shop") as shop:
            calls = 0

            async def receive() -> Any:
                nonlocal calls
                calls += 1
                if calls == 1:
                    await asyncio.get_running_loop().create_future()
                return {"type": "http.disconnect"}

            orders = shop.producer("orders", int)
            await orders.send(1)
            takes = gateway.part(Takes)
            assert await takes.take("orders", 1, 30, Request({"type": "http"}, receive)) == []
            assert calls == 2
            [message] = await take(client, wait=30)
            assert message["attempt"] == 1
            await settle(client, ack=[message["receipt"]])
            await orders.flush(30)
            assert takes._queues["orders"].in_hand == 0

    asyncio.run(story())
