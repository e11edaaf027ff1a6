"""Topics over HTTP: publishing, and events that go on where a reader left off, or say what is missing."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from peerfabric import AsyncNode
from peerfabric.gateway import Limits, meeting
from peerfabric.gateway import topics as topics_module
from peerfabric.gateway.topics import Feeds, Ring, event
from peerfabric.link.digest import other_end, told
from tests.gateway.serving import SECRET, eventually, gate

runs = pytest.mark.usefixtures("runtime")


class Events:
    """Events of a stream, read one by one."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()
        self.last = ""

    async def next(self) -> tuple[str, Any]:
        """The next event's name and data; ("end", None) at the end of the stream."""
        found: dict[str, str] = {}
        async with asyncio.timeout(30):
            async for line in self._lines:
                if not line and "data" in found:
                    self.last = found.get("id", self.last)
                    return found.get("event", ""), json.loads(found["data"])
                name, _, value = line.partition(": ")
                if name:
                    found[name] = value
        return "end", None

    async def bodies(self, count: int) -> list[Any]:
        """The bodies of the next `count` events, which are all updates."""
        found = [await self.next() for _ in range(count)]
        assert all(kind == "" for kind, _ in found), found
        return [data["body"] for _, data in found]


@asynccontextmanager
async def reading(client: httpx.AsyncClient, pattern: str, last: str = "") -> AsyncIterator[Events]:
    headers = {"last-event-id": last} if last else {}
    async with client.stream("GET", f"/v1/topics/{pattern}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer)


def test_a_ring_keeps_the_last() -> None:
    """By count and by bytes, at least one; a reader goes on where it was, or learns how many it has missed."""
    ring = Ring("r", events_max=3, bytes_max=1000)
    assert ring.position("r-0") == (1, 0)
    for number in range(5):
        ring.add("", number)
        ring.check()
    assert (ring.first, ring.next) == (3, 6)
    assert ring.position("r-5") == (6, 0)
    assert ring.position("r-3") == (4, 0)
    assert ring.position("r-2") == (3, 0)
    assert ring.position("r-1") == (3, 1)
    assert ring.position("r-0") == (3, 2)
    for strange in ("r-6", "s-3", "r-", "r--3", "r-x", "", "3", f"r-{10**30}", "r-²"):
        assert ring.position(strange) == (6, None), strange
    assert ring.part(3, 1) == (event("", 2, "r-3"), 4)
    assert ring.part(4) == (event("", 3, "r-4") + event("", 4, "r-5"), 6)
    assert ring.part(6) == (b"", 6)
    total = sum(len(event("", n, f"r-{n + 1}")) for n in range(5))
    assert (ring.total_bytes, ring.bytes_before(6)) == (total, total)
    ring.add("", "x" * 5000)
    ring.check()
    assert (ring.first, ring.next) == (6, 7)


@runs
def test_updates_reach_readers_and_subscribers() -> None:
    """What is published over HTTP reaches Python, and the other way round; bytes, headers and patterns, too."""

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("desk") as desk:
            prices = desk.publisher("prices.eur", Any)
            heard = desk.subscriber("news", Any)
            async with reading(client, "prices.*") as events, reading(client, "prices.%3E") as others:
                await prices.ready(2, 30)
                await prices.publish({"bid": 1.5}, headers={"from": "x"})
                await prices.publish(b"\x01")
                kind, update = await events.next()
                assert (kind, update["topic"], update["body"]) == ("", "prices.eur", {"bid": 1.5})
                assert (update["headers"], update["sender"], update["sequence"]) == ({"from": "x"}, "desk", 1)
                assert (await events.next())[1]["body_base64"] == "AQ=="
                assert (await others.next())[1] == update
            publisher = gateway.part(Feeds).publisher("news")
            await publisher.ready(1, 30)
            answer = await client.post("/v1/topics/news", json={"a": 1}, headers={"x-message-kind": "k"})
            assert (answer.status_code, answer.json()) == (202, {"topic": "news"})
            data = {"content-type": "application/octet-stream"}
            assert (await client.post("/v1/topics/news", content=b"\xff", headers=data)).status_code == 202
            first, second = await heard.get(30), await heard.get(30)
            assert (first.body, first.headers, second.body) == ({"a": 1}, {"kind": "k"}, b"\xff")

    asyncio.run(story())


@runs
def test_a_reader_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last id, as long as the ring has what follows; else it learns how many are missing, if that is known."""
    monkeypatch.setattr(topics_module, "EVENTS_MAX", 10)
    monkeypatch.setattr(Ring.__init__, "__defaults__", (10, 1 << 20))

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("desk") as desk:
            numbers = desk.publisher("numbers", int)
            async with reading(client, "numbers") as events:
                await numbers.ready(1, 30)
                await numbers.publish_many(range(3))
                assert await events.bodies(2) == [0, 1]
            ring = gateway.part(Feeds)._feeds["numbers"].ring
            await eventually(lambda: ring.next == 4)
            async with reading(client, "numbers", events.last) as again:
                assert await again.bodies(1) == [2]
            await numbers.publish_many(range(3, 20))
            await eventually(lambda: ring.next == 21)
            async with reading(client, "numbers", again.last) as late:
                assert await late.next() == ("gap", {"missed": 7})
                assert await late.bodies(10) == list(range(10, 20))
            async with reading(client, "numbers", "of-another-process-3") as stranger:
                assert await stranger.next() == ("gap", {"missed": None})
                await numbers.publish(20)
                assert await stranger.bodies(1) == [20]

    asyncio.run(story())


@runs
def test_what_the_subscription_missed_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates that the node dropped, as the gateway did not keep up, are told of between those before and after."""
    monkeypatch.setattr(topics_module, "BUFFER_BYTES", 3000)

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("desk") as desk:
            texts = desk.publisher("texts", str)
            async with reading(client, "texts") as events:
                await texts.ready(1, 30)
                await texts.publish("first")
                assert await events.bodies(1) == ["first"]
                subscriber = gateway.node._lifecycle.handles.subscribers["texts"]
                slow, get = asyncio.Event(), subscriber.get

                async def get_slowly(timeout: float) -> Any:
                    await slow.wait()
                    return await get(timeout)

                monkeypatch.setattr(subscriber, "get", get_slowly)
                await texts.publish("second")
                assert await events.bodies(1) == ["second"]
                for number in range(10):
                    await texts.publish(f"{number}" * 1000)
                    await asyncio.sleep(0.01)  # in frames of their own
                await eventually(lambda: subscriber.end.missed >= 5)
                slow.set()
                kind, gap = await events.next()
                assert (kind, gap["missed"] >= 5) == ("gap", True)
                seen = [(await events.next())[1] for _ in range(10 - gap["missed"])]
                assert [update["sequence"] for update in seen] == list(range(3 + gap["missed"], 13))

    asyncio.run(story())


@runs
def test_a_slow_reader_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that reads nothing keeps neither others nor memory; its connection is closed when it is too far behind."""
    monkeypatch.setattr(topics_module, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(topics_module, "END_WITHIN", 0.05)

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("desk") as desk:
            big = desk.publisher("big", str)
            host, port = str(client.base_url.host), int(client.base_url.port or 0)
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect((host, port))
                slow.setblocking(False)
                head = f"GET /v1/topics/big/events HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {SECRET}"
                await asyncio.get_running_loop().sock_sendall(slow, f"{head}\r\n\r\n".encode())
                async with reading(client, "big") as events:
                    await big.ready(1, 30)
                    feed = gateway.part(Feeds)._feeds["big"]
                    await eventually(lambda: len(feed.clients) == 2)
                    for number in range(40):
                        await big.publish(f"{number:02}" * 200_000)
                        kind, update = await events.next()
                        assert (kind, update["body"][:2]) == ("", f"{number:02}")
                    await eventually(lambda: len(feed.clients) == 1, "the end of the slow reader")
                    feed.ring.check()
                    received = 0
                    async with asyncio.timeout(30):
                        while data := await asyncio.get_running_loop().sock_recv(slow, 1 << 20):
                            received += len(data)
                    assert received < 40 * 400_000

    asyncio.run(story())


@runs
def test_heartbeats_and_readers_that_take_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that gets nothing gets comments, and one that does not even take those is cut off."""
    monkeypatch.setattr(topics_module, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(topics_module, "HEARTBEAT", 0.02)
    monkeypatch.setattr(topics_module, "END_WITHIN", 0.02)

    async def story() -> None:
        async with gate() as (gateway, client), reading(client, "quiet") as events:
            lines = events.answer.aiter_lines()
            found = [await anext(lines) for _ in range(10)]
            assert found[0] == "retry: 2000"
            assert found.count(":") >= 3
            [stuck] = gateway.part(Feeds)._feeds["quiet"].clients
            stuck._sending_since = asyncio.get_running_loop().time() - topics_module.STUCK_AFTER
            await eventually(lambda: stuck.cut_for != "")
            async for _ in lines:
                pass

    asyncio.run(story())


@runs
def test_a_subscription_outlives_its_last_reader_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a reader that comes back misses nothing; then it ends."""
    monkeypatch.setattr(topics_module, "LOOK_EVERY", 0.02)

    async def story() -> None:
        async with gate() as (gateway, client):
            feeds = gateway.part(Feeds)
            async with reading(client, "some.>"):
                pass
            await eventually(lambda: not feeds._feeds["some.>"].clients)
            assert "some.>" in gateway.node._lifecycle.handles.subscribers
            monkeypatch.setattr(topics_module, "KEEP_FOR", 0.0)
            await eventually(lambda: not feeds._feeds)
            assert "some.>" not in gateway.node._lifecycle.handles.subscribers
            async with reading(client, "some.>"):
                assert "some.>" in gateway.node._lifecycle.handles.subscribers

    asyncio.run(story())


@runs
def test_draining_ends_readers_in_order() -> None:
    """They get what is there and the end of the stream, and nobody begins."""

    async def story() -> None:
        async with gate() as (gateway, client), reading(client, "quiet") as events:
            gateway.drain()
            assert await events.next() == ("end", None)
            assert (await client.get("/v1/topics/quiet/events")).status_code == 503
            assert (await client.post("/v1/topics/quiet", json=1)).status_code == 503

    asyncio.run(story())


@runs
def test_a_node_that_closes_ends_readers() -> None:
    """Also if the program closes it under the gateway."""

    async def story() -> None:
        async with gate() as (gateway, client), reading(client, "quiet") as events:
            await gateway.node.close()
            assert await events.next() == ("end", None)

    asyncio.run(story())


@runs
def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be published or read, and why."""
    monkeypatch.setattr(topics_module, "PATTERNS_MAX", 1)

    async def story() -> None:
        async with gate(limits=Limits(waits_per_token=1, drain_timeout=0.1)) as (gateway, client):
            for path in ("/v1/topics/a..b/events", "/v1/topics/%3E.a/events"):
                assert (await client.get(path)).status_code == 404
            assert (await client.post("/v1/topics/a.*", json=1)).status_code == 404
            assert (await client.post("/v1/topics/a", content=b"1")).status_code == 415
            gateway.node.subscriber("mine", int)
            assert (await client.get("/v1/topics/mine/events")).status_code == 400
            gateway.node.publisher("typed", int)
            assert (await client.post("/v1/topics/typed", json="x")).status_code == 422
            async with reading(client, "one"):
                answer = await client.get("/v1/topics/one/events")
                assert (answer.status_code, answer.json()["title"]) == (429, "Too many waits")
            await eventually(lambda: not gateway.waits._open)
            answer = await client.get("/v1/topics/two/events")
            assert (answer.status_code, answer.json()["title"]) == (429, "Too many patterns")
            assert not gateway.waits._open

    asyncio.run(story())


@runs
def test_a_flood_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where updates come without end, so that no wait for one ends the turn, all else goes on."""

    async def story() -> None:
        async with gate() as (gateway, client), AsyncNode("desk") as desk:
            drops = desk.publisher("drops", int)
            async with reading(client, "drops") as events:
                await drops.ready(1, 30)
                await drops.publish(0)
                assert await events.bodies(1) == [0]
                subscriber = gateway.node._lifecycle.handles.subscribers["drops"]
                ring, get = gateway.part(Feeds)._feeds["drops"].ring, subscriber.get
                updates: list[Any] = []

                async def get_at_once(timeout: float) -> Any:
                    if not updates or ring.next > 5_000:
                        updates.append(await get(timeout))
                    return updates[-1]

                monkeypatch.setattr(subscriber, "get", get_at_once)
                turns = 0
                await drops.publish_many([1, 2])  # the call of before may take one of them
                async with asyncio.timeout(30):
                    while ring.next < 5_000:
                        await asyncio.sleep(0)
                        turns += ring.next > 10
                assert turns > 50
                kind, _ = await events.next()
                assert kind == ""

    asyncio.run(story())


def knows_of_a_subscriber(node: AsyncNode, topic: str) -> bool:
    """Whether discovery has told it that somebody may subscribe that."""
    engine = node._context.engine
    entries = [other_end(entry) for entry in told("publishes", topic)]
    digests = [address.digest for address in engine.links.known()]
    return any(engine.roster.own.may_have(digest, entry) for digest in digests for entry in entries)


@runs
@pytest.mark.parametrize("pattern", ["prices.eur", "prices.*", "%3E"])
def test_the_first_update_of_a_gateway_reaches_who_is_there(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """Behind one address each worker's first publish is its own, and nobody can wait for its subscribers over HTTP."""

    async def story() -> None:
        async with gate(AsyncNode("one")) as (_, reader), gate(AsyncNode("two")) as (two, client):
            monkeypatch.setattr(meeting, "MEET_WITHIN", 20.0)  # on a machine of tests
            async with reading(reader, pattern) as events:
                await eventually(lambda: knows_of_a_subscriber(two.node, "prices.eur"))
                for body in range(3):
                    assert (await client.post("/v1/topics/prices.eur", json=body)).status_code == 202
                assert await events.bodies(3) == [0, 1, 2]

    asyncio.run(story())


@runs
def test_a_node_that_does_not_answer_delays_one_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the first on each topic."""

    async def story() -> None:
        async with gate() as (gateway, client):
            feeds = gateway.part(Feeds)
            monkeypatch.setattr(feeds.meeting, "_missing", lambda publisher: {"a stopped node"})
            monkeypatch.setattr(meeting, "MEET_WITHIN", 0.05)
            assert (await client.post("/v1/topics/one", json=1)).status_code == 202
            monkeypatch.setattr(meeting, "MEET_WITHIN", 1000.0)
            assert (await client.post("/v1/topics/one", json=2)).status_code == 202
            assert (await client.post("/v1/topics/two", json=1)).status_code == 202

    asyncio.run(story())
