"""Gateways of tests: each with a node of its own, served over a real socket by a thread with its own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from peerfabric import AsyncNode, Options, Undelivered
from peerfabric.discovery.host import runtime_folder
from peerfabric.gateway.app import Gateway
from peerfabric.gateway.auth import Tokens
from peerfabric.gateway.limits import Limits
from peerfabric.gateway.main import Address, Server, listening
from tests.gateway.commands import Command, gone
from tests.nodes.conftest import DEADLINE, runtime, start

__all__ = ["runtime", "start"]  # fixtures of other folders

SECRET = "secret-of-the-tests"
JSON = {"content-type": "application/json"}

R = TypeVar("R")


class Gate:
    """A gateway that answers at `url`. Its node and what is of it is used through `run`."""

    def __init__(self, **options: Any) -> None:
        node_options = options.pop("node", {})
        tokens = options.pop("tokens", Tokens.of(SECRET))
        sock, self.address = listening(options.pop("listen", Address("127.0.0.1", 0)))
        self.url = self.address.url
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="gate")
        self._thread.start()

        async def begin() -> None:
            # Nobody consumes most of what is sent here.
            node_options.setdefault("options", Options(drain_timeout=0.0))
            self.node = AsyncNode("gate", **node_options)
            options.setdefault("limits", Limits(drain_timeout=0.1))
            options.setdefault("hosts", self.address.names(()))
            self.gateway = Gateway(self.node, tokens=tokens, **options)
            await self.gateway.start()
            ready = asyncio.Event()
            self.server = Server(self.gateway, ready=ready.set, signals=False)
            self._serving = asyncio.ensure_future(self.server.serve([sock]))
            await ready.wait()

        try:
            self.run(begin())
        except BaseException:
            sock.close()
            self._end_loop()
            raise
        self.client = self.client_of(SECRET)

    def client_of(self, secret: str | None) -> httpx.Client:
        """A client with that token; it is closed with the gateway."""
        headers = {"authorization": f"Bearer {secret}"} if secret is not None else {}
        client = httpx.Client(base_url=self.url, headers=headers, timeout=DEADLINE)
        self._clients = [*getattr(self, "_clients", []), client]
        return client

    def run(self, awaitable: Awaitable[R]) -> R:
        """What `awaitable` returns on the loop of the node."""

        async def step() -> R:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(step(), self.loop).result(DEADLINE)

    def call(self, step: Callable[[], R]) -> R:
        """What `step` returns there."""

        async def called() -> R:
            return step()

        return self.run(called())

    def send(self, queue: str, body: Any = None, **options: Any) -> httpx.Response:
        """Send `body` as JSON."""
        return self.client.post(f"/v1/queues/{queue}/messages", json=body, **options)

    def taken(self, queue: str, body_type: Any = Any) -> Any:
        """The next message of `queue`, acked."""

        async def take() -> Any:
            message = await self.node.consumer(queue, body_type).get(timeout=DEADLINE)
            with message:
                return message

        return self.run(take())

    def stop(self) -> None:
        """End it as SIGTERM does."""

        async def end() -> None:
            self.server.stop()
            await self._serving
            await self.gateway.close()

        for client in self._clients:
            client.close()
        if self._thread.is_alive():
            try:
                self.run(end())
            except Undelivered:
                pass
            finally:
                self._end_loop()

    def _end_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def gates(runtime: object) -> Iterator[Callable[..., Gate]]:
    """Start gateways: `node=` for options of the node, the rest is for `Gateway`."""
    made: list[Gate] = []

    def make(**options: Any) -> Gate:
        made.append(Gate(**options))
        return made[-1]

    yield make
    for gate in made:
        gate.stop()


@pytest.fixture
def gate(gates: Callable[..., Gate]) -> Gate:
    """One gateway without a spool, with the token SECRET for everything."""
    return gates()


def problem(response: httpx.Response, status: int, code: str = "") -> dict[str, Any]:
    """The body of an answer that is a problem of that kind; "": of any."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith(f"urn:peerfabric:problem:{code}"), body
    assert not code or body["type"].endswith(f":{code}"), body
    assert body["detail"]
    return body


@pytest.fixture
def command(runtime: Path) -> Iterator[Callable[..., Command]]:
    """Start gateways; what is left of them is killed."""
    made: list[Command] = []

    def start(*arguments: str) -> Command:
        made.append(Command("--listen", "127.0.0.1:0", *arguments))
        return made[-1]

    yield start
    for each in made:
        workers = each.workers() if each.process.poll() is None else []
        each.process.kill()
        each.process.communicate()
        gone(workers)
    (runtime_folder() / "~gateway-token").unlink(missing_ok=True)
    for path in runtime.rglob("*"):
        if not path.is_dir():
            path.unlink(missing_ok=True)  # of killed processes, which nobody sweeps here
