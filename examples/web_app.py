"""A web application that produces: the node lives as long as the application, in its lifespan.

What it has answered with 202 is on its own disk, in `web-spool`: it survives the application, and is delivered once
somebody consumes. Each process of the application needs a folder of its own.

Run it with `uvicorn --app-dir examples web_app:app`, take orders with `peerfabric take orders -n 0`, and order with
`curl -d '{"number": 1, "dish": "tea"}' localhost:8000/orders`. Run as a script it serves, orders and takes once.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from peerfabric import AsyncNode, AsyncProducer


class Order(msgspec.Struct):
    number: int
    dish: str


class State(TypedDict):
    orders: AsyncProducer[Order]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    async with AsyncNode("web", spool=os.environ.get("WEB_SPOOL", "web-spool")) as node:
        yield {"orders": node.producer("orders", Order)}


async def order(request: Request) -> JSONResponse:
    try:
        body = msgspec.json.decode(await request.body(), type=Order)
    except msgspec.DecodeError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    receipt = await request.state.orders.send(body)  # stored when this returns; another order may come meanwhile
    return JSONResponse({"accepted": receipt.id}, status_code=202)


app = Starlette(routes=[Route("/orders", order, methods=["POST"])], lifespan=lifespan)


async def try_it() -> None:
    """Serve on a free port of this machine, order over HTTP, and cook what was ordered."""
    import httpx
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        bad = await client.post("/orders", content=b'{"number": "one"}')
        good = await client.post("/orders", json={"number": 1, "dish": "tea"})
        print(bad.status_code, good.status_code)
    async with AsyncNode("kitchen") as kitchen:
        with await kitchen.consumer("orders", Order).get(timeout=30) as taken:
            print("cooked", taken.dish)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WEB_SPOOL"] = folder
        asyncio.run(try_it())
