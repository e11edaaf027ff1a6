"""Services over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from peerfabric import AsyncNode, Busy, Call, Service
from tests.gateway.serving import eventually, gate

pytestmark = pytest.mark.usefixtures("runtime")


def test_a_call_is_answered() -> None:
    """With JSON, with bytes, or with what the handler raised; its headers reach it."""

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("kitchen") as kitchen:

            @kitchen.serve("add")
            async def add(numbers: list[int], call: Call) -> Any:
                if not numbers:
                    raise ValueError("nothing to add")
                return {"sum": sum(numbers), "from": call.headers.get("from")}

            @kitchen.serve("echo")
            async def echo(body: bytes) -> bytes:
                return body

            @kitchen.serve("odd")
            async def odd(body: Any) -> Any:
                return {None: 1}

            @kitchen.serve("busy")
            async def busy(body: Any) -> Any:
                raise Busy(retry=3)

            answer = await client.post("/v1/services/add?timeout=30", json=[1, 2], headers={"x-message-from": "me"})
            assert (answer.status_code, answer.json()) == (200, {"sum": 3, "from": "me"})
            data = {"content-type": "application/octet-stream"}
            answer = await client.post("/v1/services/echo", content=b"\x00\xff", headers=data)
            assert (answer.status_code, answer.content) == (200, b"\x00\xff")
            assert answer.headers["content-type"] == "application/octet-stream"
            assert (await client.post("/v1/services/odd", json=1)).json() == {"body_msgpack": "gcAB"}
            answer = await client.post("/v1/services/add", json=[])
            assert (answer.status_code, answer.json()["error"]) == (502, "ValueError")
            assert answer.json()["text"] == "nothing to add"
            answer = await client.post("/v1/services/add", json="x")
            assert (answer.status_code, answer.json()["title"]) == (422, "Wrong type")
            answer = await client.post("/v1/services/busy?timeout=0.3", json=1)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")

    asyncio.run(story())


def test_refusals() -> None:
    """Nobody serves it, it takes too long, or it is asked in a wrong way."""

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("kitchen") as kitchen:

            @kitchen.serve("slow")
            async def slow(body: Any) -> Any:
                await asyncio.sleep(60)

            answer = await client.post("/v1/services/nobody?timeout=30", json=1)
            assert (answer.status_code, answer.json()["title"]) == (503, "No server")
            answer = await client.post("/v1/services/slow?timeout=1", json=1)
            assert (answer.status_code, answer.json()["title"]) == (504, "Timed out")
            for path, status in (
                ("/v1/services/a..b", 404),
                ("/v1/services/slow?timeout=61", 400),
                ("/v1/services/slow?idempotent=yes", 400),
                ("/v1/services/slow?server=nobody&timeout=30", 503),
            ):
                assert (await client.post(path, json=1)).status_code == status, path

    asyncio.run(story())


def test_a_client_that_goes_cancels_its_call() -> None:
    """Its server is told, as that of any caller that gives up."""

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("kitchen") as kitchen:
            fate: list[str] = []

            @kitchen.serve("slow")
            async def slow(body: Any) -> Any:
                fate.append("began")
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    fate.append("cancelled")
                    raise

            call = asyncio.create_task(client.post("/v1/services/slow?timeout=60", json=1))
            await eventually(lambda: fate == ["began"])
            call.cancel()
            await eventually(lambda: fate == ["began", "cancelled"])

    asyncio.run(story())


def test_an_answer_in_parts_comes_as_lines() -> None:
    """Each as it is there; what breaks off says why in the last one; who stops reading stops the server."""

    async def story() -> None:
        async with gate() as (_, client), AsyncNode("kitchen") as kitchen:
            fate: list[str] = []
            go_on = asyncio.Event()

            @kitchen.serve(Service("count", int, Any, stream=True))
            async def count(number: int) -> AsyncIterator[Any]:
                try:
                    for each in range(number):
                        yield each if each else b"zero"
                        if number == 4:
                            await go_on.wait()
                        if number == 3 and each == 1:
                            raise ValueError("enough")
                finally:
                    fate.append(f"end of {number}")

            @kitchen.serve("one")
            async def one(body: Any) -> Any:
                return body

            lines = {"accept": "application/x-ndjson"}

            async def asked(service: str, body: Any) -> list[Any]:
                answer = await client.post(f"/v1/services/{service}?timeout=30", json=body, headers=lines)
                assert answer.status_code == 200, answer.text
                assert answer.headers["content-type"] == "application/x-ndjson"
                return [json.loads(line) for line in answer.text.splitlines()]

            zero = {"body_base64": "emVybw=="}
            assert await asked("count", 2) == [zero, {"body": 1}]
            assert await asked("count", 0) == []
            assert await asked("one", "x") == [{"body": "x"}]
            first, second, last = await asked("count", 3)
            assert (first, second) == (zero, {"body": 1})
            assert (last["problem"]["status"], last["problem"]["text"]) == (502, "enough")
            answer = await client.post("/v1/services/count?timeout=30", json="x", headers=lines)
            assert (answer.status_code, answer.json()["title"]) == (422, "Wrong type")
            answer = await client.post("/v1/services/count?timeout=30", json=1)
            assert (answer.status_code, "in parts" in answer.json()["detail"]) == (406, True)
            async with client.stream("POST", "/v1/services/count?timeout=60", json=4, headers=lines) as stream:
                assert json.loads(await anext(stream.aiter_lines())) == zero, "as soon as it is there"
            await eventually(lambda: "end of 4" in fate)

    asyncio.run(story())
