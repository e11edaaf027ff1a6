"""A web application that produces, in any number of worker processes: a node in each, and one spool folder for all.

What it has answered with 202 is on its own disk, in `web-spool`. It outlives the worker that has answered: if that is
killed, another one that runs delivers its orders, and if none runs, `peerfabric spool serve web-spool` does.

Run it with `uvicorn --app-dir examples web_app:app --workers 4`, take orders with `peerfabric take orders -n 0`, and
order with `curl -H 'content-type: application/json' -d '{"number": 1, "dish": "tea"}' localhost:8000/orders`. Run as a
script it serves, orders and takes once.
"""

import asyncio
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI, Request
from pydantic import BaseModel

from peerfabric import AsyncNode, AsyncProducer


class Order(BaseModel):
    number: int
    dish: str


class State(TypedDict):
    orders: AsyncProducer[Order]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:
    async with AsyncNode("web", spool=os.environ.get("WEB_SPOOL", "web-spool")) as node:
        yield {"orders": node.producer("orders", Order)}


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=202)
async def order(body: Order, request: Request) -> dict[str, str]:
    receipt = await request.state.orders.send(body)  # stored when this returns; another order may come meanwhile
    return {"accepted": receipt.id}


def post(url: str, body: object) -> int:
    """The status of the answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)


async def try_it() -> None:
    """Serve on a free port of this machine, order over HTTP, and cook what was ordered."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/orders"
    bad = await asyncio.to_thread(post, url, {"number": "one"})
    good = await asyncio.to_thread(post, url, {"number": 1, "dish": "tea"})
    print(bad, good)
    async with AsyncNode("kitchen") as kitchen:
        with await kitchen.consumer("orders", Order).get(timeout=30) as taken:
            print("cooked", taken.dish)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WEB_SPOOL"] = folder
        asyncio.run(try_it())
