"""Topics over HTTP: publishing, and updates as Server-Sent Events.

Of each pattern one subscription feeds a ring of the last events, from which every reader is served, at its own pace. A
reader that comes back with the id of the last event it got goes on from there, as long as the ring has it; where
something is missing, or may be, an event `gap` says so.

kept in a ring <= EVENTS_MAX events and BYTES_MAX bytes;  a reader's position <= the ring's next
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from contextvars import Context
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from peerfabric.errors import FabricError, NodeClosed, TimedOut
from peerfabric.gateway.bodies import BYTES, EVENTS, JSON, MESSAGE_HEADERS, Reader, media_type, message_headers
from peerfabric.gateway.limits import read_body
from peerfabric.gateway.listening import until_gone
from peerfabric.gateway.meeting import Meeting
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.problems import Problem, closing
from peerfabric.gateway.shared import Shared, shared_of, token_of
from peerfabric.gateway.shown import MEMBERS, shown
from peerfabric.names import check_name, check_pattern
from peerfabric.options import KiB, MiB

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from peerfabric.nodes.aio.node import AsyncNode
    from peerfabric.nodes.aio.topic import AsyncPublisher, AsyncSubscriber
    from peerfabric.nodes.message import Update

EVENTS_MAX: Final = 1_000
BYTES_MAX: Final = 4 * MiB
"""What a ring keeps, and how far a reader may be behind: further, it is cut off, and may come back to a gap."""
KEEP_FOR: Final = 60.0
"""Seconds after its last reader for which a ring, and with it the subscription, goes on."""
HEARTBEAT: Final = 15.0
"""Seconds after which a reader that gets nothing gets a comment: proxies take silence for death."""
STUCK_AFTER: Final = 60.0
"""Seconds for which a reader may read nothing of what it was sent."""
PART_BYTES: Final = 64 * KiB
"""Of events that are sent at once."""
BUFFER_BYTES: Final = 16 * MiB - 1
"""Of the node's handle. No program has one with it by chance: a pattern that it subscribes itself is refused here, as
each update goes to one taker."""
END_WITHIN: Final = 1.0
"""Seconds in which a reader that is cut off may still take an orderly end."""
LOOK_EVERY: Final = 5.0
TURN: Final = 64
"""Events after which others get on."""
PATTERNS_MAX: Final = 256
"""Patterns that are read at one gateway process: each may keep `BYTES_MAX`."""
RETRY: Final = b"retry: 2000\n\n"
"""Milliseconds after which a browser comes back."""

_log = logging.getLogger("peerfabric")


def event(kind: str, data: Any, id: str = "") -> bytes:
    """One Server-Sent Event; `data` has no line breaks in JSON."""
    head = f"id: {id}\n" if id else ""
    name = f"event: {kind}\n" if kind else ""
    return b"%b%bdata: %b\n\n" % (head.encode(), name.encode(), msgspec.json.encode(data))


class Ring:
    """The last events of one subscription, numbered from 1.

    Args:
        name: Of this ring alone; it is in the ids of its events.
    """

    def __init__(self, name: str, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.name = name
        self._events_max, self._bytes_max = events_max, bytes_max
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._dropped_bytes = 0
        self.next = 1
        """The number of the next event."""

    @property
    def first(self) -> int:
        """The number of the oldest that is kept; `next` if there is none."""
        return self.next - len(self._events)

    @property
    def total_bytes(self) -> int:
        """Bytes of all events that there have been."""
        return self._dropped_bytes + self._bytes

    def add(self, kind: str, data: Any) -> None:
        """Append an event, and forget the oldest beyond the limits."""
        made = event(kind, data, f"{self.name}-{self.next}")
        self.next += 1
        self._events.append(made)
        self._bytes += len(made)
        while len(self._events) > self._events_max or (self._bytes > self._bytes_max and len(self._events) > 1):
            size = len(self._events.popleft())
            self._bytes -= size
            self._dropped_bytes += size

    def position(self, last: str) -> tuple[int, int | None]:
        """Where a reader goes on whose last event had the id `last`, and how many it has missed; None: nobody knows."""
        name, _, number = last.rpartition("-")
        if name != self.name or not (number.isascii() and number.isdigit() and len(number) < 16):
            return self.next, None
        after = int(number) + 1
        if not 1 <= after <= self.next:
            return self.next, None
        return max(after, self.first), max(0, self.first - after)

    def part(self, position: int, bytes_max: int = PART_BYTES) -> tuple[bytes, int]:
        """The events from `position` on, at least one and about `bytes_max` bytes, and the position after them."""
        size, parts = 0, list[bytes]()
        for each in islice(self._events, position - self.first, None):
            parts.append(each)
            size += len(each)
            if size >= bytes_max:
                break
        return b"".join(parts), position + len(parts)

    def bytes_before(self, position: int) -> int:
        """Bytes of the events before `position`, as far as they are kept; all that are forgotten, if it is one."""
        return self._dropped_bytes + sum(map(len, islice(self._events, max(0, position - self.first))))

    def check(self) -> None:
        """Assert the limits, and that the sizes add up."""
        assert len(self._events) <= self._events_max, "too many events"
        assert self._bytes <= self._bytes_max or len(self._events) == 1, "too many bytes"
        assert self._bytes == sum(map(len, self._events)), "bytes"
        assert 1 <= self.first <= self.next, "numbers"


class _Client:
    """One client that reads the events of a pattern."""

    def __init__(self, ring: Ring, position: int, greeting: bytes) -> None:
        self._ring, self.position = ring, position
        self._greeting = greeting
        self.behind = 0
        """Bytes of the events that there have been when it had got all before `position`."""
        self._mark()
        self.news = asyncio.Event()
        self.is_over = False
        """It gets an orderly end as soon as it has got what is there."""
        self.cut_for = ""
        self.sending: asyncio.Task[None] | None = None
        self._sending_since: float | None = None
        self._sent_at = 0.0
        self._beats = False

    def look(self, now: float) -> None:
        """Cut it off if it does not read, and let it get a heartbeat if it got nothing for a while."""
        if self._sending_since is not None and now - self._sending_since >= STUCK_AFTER:
            self._cut(f"has read nothing for {STUCK_AFTER:g} s")
        elif self._is_too_far_behind:
            self._cut(f"is more than {BYTES_MAX // MiB} MiB behind")
        elif self._sending_since is None and now - self._sent_at >= HEARTBEAT:
            self._beats = True
            self.news.set()

    @property
    def _is_too_far_behind(self) -> bool:
        ring = self._ring
        return self.position < ring.first and ring.total_bytes - self.behind > BYTES_MAX

    def _cut(self, why: str) -> None:
        self.cut_for = why
        if self.sending is not None:
            self.sending.cancel()

    async def run(self, send: Send) -> None:
        """Send it what it has not got, until it is over or cut off."""
        data = self._greeting
        while True:
            loop = asyncio.get_running_loop()
            self._sending_since = loop.time()
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._sending_since, self._sent_at = None, loop.time()
            while not (data := self._next()):
                if self.is_over or self.cut_for:
                    return
                self.news.clear()
                await self.news.wait()

    def _next(self) -> bytes:
        """What it gets next; empty: nothing for now."""
        ring = self._ring
        if self._is_too_far_behind:
            self._cut(f"is more than {BYTES_MAX // MiB} MiB behind")
            return b""
        beats, self._beats = self._beats, False
        if self.position == ring.next:
            return b":\n\n" if beats and not self.is_over else b""
        gap = b""
        if self.position < ring.first:
            gap = event("gap", {"missed": ring.first - self.position})
            self.position = ring.first
            self._mark()
        data, self.position = ring.part(self.position)
        self.behind += len(data)
        return gap + data

    def _mark(self) -> None:
        self.behind = self._ring.bytes_before(self.position)


class _Feed:
    """One pattern: its subscription, the ring that it fills, and who reads from that."""

    def __init__(self, pattern: str, node: AsyncNode, over: Callable[[str], None]) -> None:
        self.pattern = pattern
        self.ring = Ring(os.urandom(6).hex())
        self.clients: set[_Client] = set()
        self._over = over
        self._subscriber: AsyncSubscriber[Any] = node.subscriber(pattern, Any, buffer_bytes=BUFFER_BYTES)
        self._loop = asyncio.get_running_loop()
        self._unused_since = self._loop.time()
        # In a context of its own: it outlives the request in which it happens to begin.
        self._task = self._loop.create_task(self._fill(), context=Context())
        self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    def join(self, last: str | None) -> _Client:
        """Somebody reads from now on, or from behind the event with the id `last` on."""
        greeting, position = RETRY, self.ring.next
        if last:
            position, missed = self.ring.position(last)
            if missed != 0:
                greeting += event("gap", {"missed": missed})
        client = _Client(self.ring, position, greeting)
        self.clients.add(client)
        return client

    def leave(self, client: _Client) -> None:
        """Somebody reads no more."""
        self.clients.discard(client)
        self._unused_since = self._loop.time()
        if client.cut_for:
            _log.warning("a reader of the events of %r %s, and is cut off", self.pattern, client.cut_for)

    def close(self) -> None:
        """End the subscription; who reads gets what is there, and an orderly end."""
        self._timer.cancel()
        self._task.cancel()
        self._end()

    def _end(self) -> None:
        self._subscriber.close()
        for client in self.clients:
            client.is_over = True
            client.news.set()
        self._over(self.pattern)

    def _look(self) -> None:
        now = self._loop.time()
        if not self.clients and now - self._unused_since >= KEEP_FOR:
            self.close()
            return
        for client in list(self.clients):
            client.look(now)
        self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    async def _fill(self) -> None:
        """Put what comes into the ring, and where something is missing that."""
        missed = count = 0
        try:
            while True:
                try:
                    update: Update[Any] | None = await self._subscriber.get(HEARTBEAT)
                except TimedOut:
                    update = None
                if (so_far := self._subscriber.missed) > missed:
                    self.ring.add("gap", {"missed": so_far - missed})
                    missed = so_far
                elif update is None:
                    continue
                if update is not None:
                    self.ring.add("", _shown(update))
                for client in self.clients:
                    client.news.set()
                count += 1
                if count % TURN == 0:  # where much comes a wait ends at once, and nobody else would get on
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._timer.cancel()
            self._end()
            raise
        except FabricError as error:
            if not isinstance(error, NodeClosed):
                _log.error("events of %r end: %s", self.pattern, error)
            self._timer.cancel()
            self._end()


def _shown(update: Update[Any]) -> dict[str, Any]:
    return {
        "topic": update.topic,
        "sequence": update.sequence,
        "sender": update.sender,
        "sent_at": update.sent_at,
        "headers": update.headers,
        **shown(update.body),
    }


class Feeds:
    """What one gateway publishes, and the patterns that its clients read."""

    def __init__(self, shared: Shared) -> None:
        self._node = shared.node
        self._feeds: dict[str, _Feed] = {}
        self._publishers: dict[str, AsyncPublisher[Any]] = {}
        self.meeting = Meeting(self._node)
        self._is_closing = False

    def publisher(self, topic: str) -> AsyncPublisher[Any]:
        """The node's publisher of `topic`: the program's, if it has one, with its type; else one that takes all.

        Raises:
            BadName: No topic can be called so.
            ConfigError: The node has 4,096 of them.
        """
        found = self._publishers.get(topic)
        if found is None:
            declared = self._node._lifecycle.handles.publishers.get(check_name("topic", topic))
            found = declared or self._node.publisher(topic, Any)
            if declared is None:
                self.meeting.begin(found)
            self._publishers[topic] = found
        return found

    def join(self, pattern: str, last: str | None) -> tuple[_Feed, _Client]:
        """Somebody reads what is published on what `pattern` selects.

        Raises:
            BadName: It is no pattern.
            ConfigError: The program subscribes it itself.
            Problem: 429, too many are read; 503, the gateway ends.
        """
        feed = self._feeds.get(pattern)
        if feed is None:
            check_pattern(pattern)
            if self._is_closing:
                raise closing()
            if len(self._feeds) >= PATTERNS_MAX:
                detail = f"{PATTERNS_MAX} patterns are read here, the most there may be; share some, or ask another one"
                raise Problem(429, "Too many patterns", detail, code="too-many-patterns", retry_after=KEEP_FOR)
            feed = self._feeds[pattern] = _Feed(pattern, self._node, self._forget)
        return feed, feed.join(last)

    def drain(self) -> None:
        """End all readers in order."""
        self._is_closing = True
        for feed in list(self._feeds.values()):
            feed.close()

    async def close(self) -> None:
        """End all."""
        self.drain()

    def _forget(self, pattern: str) -> None:
        self._feeds.pop(pattern, None)


# Requests


class _Stream(Response):
    """Events for one client, until it goes, is cut off, or the gateway ends."""

    def __init__(self, feed: _Feed, client: _Client, ended: Callable[[], None]) -> None:
        self._feed, self._client, self._ended = feed, client, ended
        super().__init__(media_type=EVENTS, headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]  # there is none

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._client
        client.sending = sending = asyncio.create_task(self._send(client, send))
        gone = asyncio.create_task(until_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if not gone.done() and (sending.cancelled() or sending.exception() is None):
                # Who does not read does not take this either; returning closes the connection all the same.
                with suppress(TimeoutError):
                    async with asyncio.timeout(END_WITHIN):
                        await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._feed.leave(client)
            self._ended()
            sending.cancel()
            gone.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, client: _Client, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await client.run(send)


async def _publish(request: Request) -> Response:
    shared = shared_of(request)
    shared.refuse_if_closing()
    topic = request.path_params["topic"]
    publisher = shared.part(Feeds).publisher(topic)
    headers = message_headers(request)
    data = await read_body(request, publisher.codec.limit, shared.options.body_timeout)
    body = Reader(publisher.options.body_type).read(data, media_type(request))
    await shared.part(Feeds).meeting.wait(publisher)
    await publisher.publish(body, headers=headers)
    return Response(msgspec.json.encode({"topic": topic}), 202, media_type=JSON)


async def _read(request: Request) -> Response:
    shared = shared_of(request)
    shared.refuse_if_closing()
    with ExitStack() as waits:
        waits.enter_context(shared.waits.one(token_of(request).name))
        feed, client = shared.part(Feeds).join(request.path_params["pattern"], request.headers.get("last-event-id"))
        return _Stream(feed, client, waits.pop_all().close)


_EVENTS: Final = {
    "type": "string",
    "contentMediaType": EVENTS,
    "description": (
        "Server-Sent Events. The data of one without a name is an update; that of one named gap is "
        '{"missed": how many}, null if nobody knows.'
    ),
    "x-events": {
        "message": {
            "type": "object",
            "required": ["topic", "sequence", "sender", "sent_at", "headers"],
            "properties": {
                "topic": {"type": "string"},
                "sequence": {"type": "integer", "description": "Its number on its topic at its publisher, from 1."},
                "sender": {"type": "string"},
                "sent_at": {"type": "number", "description": "Unix time, by the clock of its publisher."},
                "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                **MEMBERS,
            },
        },
        "gap": {
            "type": "object",
            "required": ["missed"],
            "properties": {"missed": {"type": ["integer", "null"], "minimum": 1}},
        },
    },
}

OPERATIONS: Final = [
    Operation(
        method="POST",
        path="/v1/topics/{topic}",
        name="publish",
        scope="publish",
        subject="topic",
        handle=_publish,
        summary="Publish to all who subscribe the topic at this moment; best effort",
        answers={
            202: ("sent to all who subscribe", {"type": "object", "properties": {"topic": {"type": "string"}}}),
        },
        body={JSON: {}, BYTES: {"type": "string", "format": "binary"}},
        headers=MESSAGE_HEADERS,
    ),
    Operation(
        method="GET",
        path="/v1/topics/{pattern}/events",
        name="readTopics",
        scope="subscribe",
        subject="pattern",
        handle=_read,
        summary="Read what is published on the topics of a pattern (* is one part of a name, > the rest), as events",
        answers={200: ("events, until one of both ends it; Last-Event-ID goes on behind that event", _EVENTS)},
        headers={
            "Last-Event-ID": {"type": "string", "description": "the id of the last event that came; go on behind it"}
        },
    ),
]
