"""State of a gateway that its operations share: the node, producers, tokens, limits, and whether it is about to end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from peerfabric.errors import FabricError
from peerfabric.gateway.limits import Limits, Waits
from peerfabric.gateway.problems import closing
from peerfabric.names import check_name
from peerfabric.nodes.aio.node import AsyncNode
from peerfabric.nodes.aio.producer import AsyncProducer

if TYPE_CHECKING:
    from starlette.requests import Request

    from peerfabric.gateway.auth import Token, Tokens
    from peerfabric.gateway.keys import Keys
    from peerfabric.gateway.operations import Operation
    from peerfabric.gateway.others import Other


class Part(Protocol):
    """What a group of operations keeps of one gateway. It is made with the `Shared` of that."""

    def drain(self) -> None:
        """The gateway is about to end: end what waits, begin nothing. What was handed out may still be settled."""

    async def close(self) -> None:
        """Nothing more is asked: give back what is held."""


P = TypeVar("P", bound=Part)
T = TypeVar("T")

PRODUCERS_MAX: Final = 1_000
"""Producers that a gateway keeps for its requests, of the 4,096 of a node. What is not used is closed beyond that."""
CLOSED_AT_ONCE: Final = 16
"""Of them, so that a look at all of them is seldom."""


class Shared:
    """What operations share. `request.app.state.gateway` is one; `shared_of(request)` says so to type checkers."""

    def __init__(
        self,
        node: AsyncNode,
        tokens: Tokens | None,
        limits: Limits,
        operations: Sequence[Operation] = (),
        *,
        also: Sequence[Other] = (),
        read_only: bool = False,
    ) -> None:
        self.node: Final = node
        self.tokens: Final = tokens
        """None: nobody is asked for one."""
        self.options: Final = limits
        self.operations: Final = operations
        self.also = also
        """Other gateways, whose hosts are shown together with this one."""
        self.read_only: Final = read_only
        self.keys: Keys | None = None
        """Idempotency keys, once it has started."""
        self.key: Final = os.urandom(32)
        """Of the HMAC of receipts: a new one at each start."""
        self.waits: Final = Waits(limits.waits_per_token)
        self.ending: Final = asyncio.Event()
        """Set when the gateway begins to end."""
        self._producers: dict[str, AsyncProducer[Any]] = {}
        """By queue, those of the program among them; the one that was used last is the last."""
        self._own: set[AsyncProducer[Any]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._going_on: set[asyncio.Task[Any]] = set()
        self._parts: dict[type[Part], Part] = {}

    @property
    def closing(self) -> bool:
        """Whether nothing new is accepted any more."""
        return self.ending.is_set()

    def refuse_if_closing(self) -> None:
        """Refuse what would begin something new.

        Raises:
            Problem: 503, the gateway is about to end.
        """
        if self.closing:
            raise closing()

    def producer(self, queue: str) -> AsyncProducer[Any]:
        """The node's producer of `queue`: one that the program has, or one that never makes a request wait for room.

        Of a queue that the program only consumes it has the type of that consumer. A type of Any takes all.

        Raises:
            BadName: No queue can be called so.
            ConfigError: The node has 4,096 producers.
        """
        found = self._producers.pop(queue, None)
        if found is None or found.closing:
            name = check_name("queue", queue)
            handles = self.node._lifecycle.handles
            found = handles.producers.get(name)
            if found is None or found.closing:
                consumer = handles.consumers.get(name)
                body_type = consumer.options.body_type if consumer is not None else Any
                found = self.node.producer(name, body_type, on_full="error")
                self._own.add(found)
                if len(self._own) > PRODUCERS_MAX:
                    self._close_some()
        self._producers[queue] = found
        return found

    def _close_some(self) -> None:
        """Close producers that were not used for longest: those of which nothing ends with this process."""
        idle = [each for each in self._producers.items() if each[1] in self._own and each[1].is_done()]
        for name, producer in idle[:CLOSED_AT_ONCE]:
            del self._producers[name]
            self._own.discard(producer)
            task = asyncio.ensure_future(self._close_producer(producer))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @staticmethod
    async def _close_producer(producer: AsyncProducer[Any]) -> None:
        with suppress(FabricError):  # it is used again, or the node closes
            await producer.close()

    def part(self, kind: type[P]) -> P:
        """The one object of that class which this gateway has; made with `kind(self)` when it is first asked for."""
        found = self._parts.get(kind)
        if found is None:
            found = self._parts[kind] = kind(self)  # type: ignore[call-arg]
        return cast("P", found)

    @asynccontextmanager
    async def waiting(self, request: Request) -> AsyncIterator[None]:
        """Count this request among those of its token that wait.

        Raises:
            Problem: 429, there are too many.
        """
        with self.waits.one(token_of(request).name):
            yield

    async def until_ending(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Await `waiting`, or cancel it when the gateway begins to end."""
        task, ending = asyncio.ensure_future(waiting), asyncio.ensure_future(self.ending.wait())
        try:
            await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            if not task.done():
                task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            task.result()

    async def to_the_end(self, step: Coroutine[Any, Any, T]) -> T:
        """Await `step`, which goes on even if who awaits it is cancelled; the gateway closes after it."""
        task = asyncio.ensure_future(step)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        return await asyncio.shield(task)

    def drain(self) -> None:
        """Accept nothing new, and end what waits. A second call does nothing."""
        if not self.closing:
            self.ending.set()
            for part in list(self._parts.values()):
                part.drain()

    async def close_parts(self) -> None:
        """Give back what operations hold."""
        for part in list(self._parts.values()):
            await part.close()
        self._parts.clear()
        if self._going_on:
            await asyncio.wait(set(self._going_on))
        if self._closing:
            for task in self._closing:
                task.cancel()  # the node closes what is left
            await asyncio.wait(set(self._closing))


def shared_of(request: Request) -> Shared:
    """What the gateway that answers `request` shares among its operations."""
    return cast("Shared", request.app.state.gateway)


def token_of(request: Request) -> Token:
    """Who asks."""
    return cast("Token", request.state.token)
