"""Takes: messages handed out over HTTP to clients that listen, and settled by receipts at whichever worker is asked.

A take that waits is the only demand there is. Of each queue one task takes for all of them, in the order in which they
came, so a thousand that wait cost no more than one; and when the last has gone nobody is a consumer for long.

handed out by the node = in the clients' hands (receipts.py) + on the way to a client + given back
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta
from starlette.responses import Response

from peerfabric.arguments import DELAY_MAX
from peerfabric.errors import TimedOut, counted
from peerfabric.gateway.bodies import JSON, not_json
from peerfabric.gateway.elsewhere import Elsewhere
from peerfabric.gateway.limits import read_body
from peerfabric.gateway.listening import has_gone, until_gone
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.problems import Problem
from peerfabric.gateway.receipts import HELD_MAX, SLACK, Act, Outcome, Receipts, Settled, parsed
from peerfabric.gateway.shared import Shared, shared_of
from peerfabric.gateway.shown import MEMBERS, shown
from peerfabric.names import check_name
from peerfabric.options import MiB

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from peerfabric.nodes.aio.consumer import AsyncConsumer
    from peerfabric.nodes.aio.node import AsyncNode
    from peerfabric.nodes.message import Message

TAKE_MAX: Final = 100
LEASE_MAX: Final = 3600.0
NODE_LEASE: Final = LEASE_MAX + SLACK
"""Of the node's handle. No program has one with it by chance: a queue that it takes from itself is refused here, as
each message goes to one taker."""
TAKE_BYTES_MAX: Final = 4 * MiB
"""A take that has so much gets no further message, whatever its `max`."""
WANTED_MAX: Final = 1_000
"""Messages that are asked for at a time for takes that wait. Others want some, too."""
CLOSE_AFTER: Final = 60.0
"""Seconds after the last take in which its queue still has a consumer here."""
QUEUES_MAX: Final = 1_000
"""Queues that a gateway consumes for its clients, of the 4,096 of a node. What nobody uses is closed beyond that."""
WAIT_MIN: Final = 0.1
"""Seconds for which a take waits that does not want to: a producer has to hear of it first."""
TELL_EVERY: Final = 60.0
"""Seconds between two log lines about leases of one queue."""
REQUEST_BYTES_MAX: Final = 1 * MiB
SETTLE_MAX: Final = 1_000

T = TypeVar("T")

_log = logging.getLogger("peerfabric")


class _Entry:
    """A message on its way to a client, and what the client is shown of it."""

    __slots__ = ("message", "text")

    def __init__(self, message: Message[Any]) -> None:
        self.message = message
        self.text = msgspec.json.encode(
            {
                "id": message.id,
                "attempt": message.attempt,
                "sent_at": message.sent_at,
                "sender": message.sender,
                "headers": message.headers,
                **shown(message.body),
            }
        )


class _Wait:
    """A take that waits for at most `most` messages."""

    __slots__ = ("found", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: asyncio.Future[list[_Entry]] = asyncio.get_running_loop().create_future()


class _Queue:
    """The takes of one queue: those that wait, in order, and the task that takes for them from the node."""

    def __init__(self, name: str, node: AsyncNode, over: Callable[[str], None]) -> None:
        self.name = name
        self.in_hand = 0
        """Messages that the node has handed out and nobody has settled or given back."""
        self._node, self._over = node, over
        self._waits: deque[_Wait] = deque()
        self._wanted = 0
        """By those that wait, together."""
        self._consumer: AsyncConsumer[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Takes that wait."""
        return len(self._waits)

    def join(self, most: int) -> _Wait:
        """A take waits from now on.

        Raises:
            Problem: The program takes from this queue itself, or the node consumes too many.
        """
        if self._consumer is None:
            options: Any = {"lease": NODE_LEASE, "ack_after": "return"}
            self._consumer = self._node.consumer(self.name, Any, **options)
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        wait = _Wait(most)
        self._waits.append(wait)
        self._wanted += most
        self._want()
        if self._task is None:
            # In a context of its own: what it has in hand is not the request's in which it happens to begin.
            self._task = asyncio.get_running_loop().create_task(self._serve(self._consumer), context=Context())
        return wait

    def leave(self, wait: _Wait) -> None:
        """A take does not wait any more."""
        with suppress(ValueError):
            self._waits.remove(wait)
            self._wanted -= wait.most
        if not self._waits:
            self._rest()
        else:
            self._want()

    def end_waits(self, error: BaseException | None = None) -> None:
        """Let all that wait return, with nothing, or with what went wrong."""
        waits, self._waits, self._wanted = self._waits, deque(), 0
        for wait in waits:
            if not wait.found.done():
                if error is None:
                    wait.found.set_result([])
                else:
                    wait.found.set_exception(error)
        self._rest()

    def released(self, count: int = 1) -> None:
        """So many messages are in nobody's hand any more."""
        self.in_hand -= count
        if self._consumer is not None:
            self._want()
        elif not self.in_hand:
            self._over(self.name)

    @property
    def is_used(self) -> bool:
        """Whether something of it is here."""
        return self._consumer is not None or self.in_hand > 0

    def close(self) -> None:
        """Be no consumer of the queue any more. What is in hand can still be settled."""
        self.end_waits()
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._consumer is not None:
            self._consumer.want_besides(0)
            self._consumer.close()
            self._consumer = None
        if not self.in_hand:
            self._over(self.name)

    def _rest(self) -> None:
        """Nobody waits: what is here beyond that goes back by itself in two seconds, and then the consumer closes."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self._closing is None and self._consumer is not None:
            self._closing = asyncio.get_running_loop().call_later(CLOSE_AFTER, self.close)

    def _want(self) -> None:
        if self._consumer is not None:
            # One for the call of `_serve` that waits comes on top.
            self._consumer.want_besides(max(0, self.in_hand + min(self._wanted, WANTED_MAX) - 1))

    async def _serve(self, consumer: AsyncConsumer[Any]) -> None:
        """Take for those that wait, the first first, as long as there are some."""
        me = asyncio.current_task()
        try:
            while self._waits:
                await self._hand_over(consumer, await consumer.get())
                await asyncio.sleep(0)  # where much is here a wait ends at once, and nobody else would get on
        except asyncio.CancelledError:
            if self._task is me:  # the node ends by a signal; else `_rest` has done it
                self.end_waits()
            raise
        except Exception as error:
            if self._task is me:
                self.end_waits(error)
        finally:
            if self._task is me:
                self._task = None

    async def _hand_over(self, consumer: AsyncConsumer[Any], first: Message[Any]) -> None:
        """Give the first that waits `first`, and what else is here, up to what it wants."""
        taken, entries, size = [first], list[_Entry](), 0
        try:
            wait = self._next()
            while wait is not None:
                entries.append(_Entry(taken[-1]))
                size += len(entries[-1].text)
                if len(entries) >= wait.most or size >= TAKE_BYTES_MAX:
                    break
                try:
                    taken.append(await consumer.get(0))
                except TimedOut:
                    break
            if wait is not None and not wait.found.done():
                self._waits.remove(wait)
                self._wanted -= wait.most
                self.in_hand += len(entries)
                wait.found.set_result(entries)
                taken = []
                self._want()
        finally:
            for message in taken:
                message.give_back()
        if not self._waits:
            self._rest()

    def _next(self) -> _Wait | None:
        """The first that still waits."""
        while self._waits and self._waits[0].found.done():
            self._wanted -= self._waits.popleft().most
        return self._waits[0] if self._waits else None


class Takes:
    """What one gateway has handed out, and who waits for more."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._queues: dict[str, _Queue] = {}
        self._receipts: Receipts | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settled_all: asyncio.Event | None = None
        self._lapsed: Counter[str] = Counter()
        """By queue, messages whose leases have ended and of which the log does not say so yet."""
        self._tell_at: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()
        self.elsewhere = Elsewhere()
        self._end_answering = self.elsewhere.answer(self._asked_for)

    @property
    def in_hand(self) -> int:
        """Messages that clients may still settle."""
        return len(self._receipts) if self._receipts is not None else 0

    @property
    def waiting(self) -> int:
        """Takes that wait."""
        return sum(queue.waiting for queue in self._queues.values())

    # Taking

    async def take(self, queue: str, most: int, wait: float, request: Request) -> list[_Entry]:
        """Up to `most` messages as soon as there is one; none after `wait` seconds, or if the client has gone.

        Until they are held or given back they are on the way. Cancelled, nothing is taken.
        """
        line = self._queues.get(queue)
        if line is None:
            if len(self._queues) >= QUEUES_MAX:
                self._close_one()
            line = self._queues[queue] = _Queue(queue, self._shared.node, self._forget)
        try:
            waiting = line.join(most)
        except BaseException:
            self._forget_unused(line)
            raise
        gone = asyncio.ensure_future(until_gone(request.receive))
        try:
            await asyncio.wait((waiting.found, gone), timeout=max(wait, WAIT_MIN), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.found.done():
                return []
            entries = waiting.found.result()
            if entries and (gone.done() or await has_gone(request, gone)):
                return []
            waiting = None  # type: ignore[assignment]  # they are the caller's
            return entries
        finally:
            gone.cancel()
            if waiting is not None:
                self._give_up(line, waiting)

    def _close_one(self) -> None:
        """Make room for another queue.

        Raises:
            Problem: 429, clients wait for, or have in hand, messages of all.
        """
        for line in self._queues.values():
            if not (line.waiting or line.in_hand):
                line.close()
                return
        detail = f"messages of {QUEUES_MAX:,} queues are waited for or in hand here, the most there may be; settle some"
        raise Problem(429, "Too many queues", detail, code="too-many-queues", retry_after=1.0)

    def _give_up(self, line: _Queue, waiting: _Wait) -> None:
        """Nobody waits there any more, or wants what was found."""
        if not waiting.found.done():
            waiting.found.cancel()
            line.leave(waiting)
        elif not waiting.found.cancelled() and waiting.found.exception() is None:
            self.give_back(line.name, waiting.found.result())

    def give_back(self, queue: str, entries: Sequence[_Entry]) -> None:
        """They were on the way to a client and did not get there: they go to others, without an attempt."""
        for entry in entries:
            entry.message.give_back()
        self._released(queue, len(entries))

    def hold(self, entries: Sequence[_Entry], lease: float) -> tuple[list[str], bytes]:
        """The client gets them now; return the receipts and the answer."""
        receipts = self._receipts
        if receipts is None:  # made when the node runs, as only then it has its id
            node_id = self._shared.node.statistics().node_id
            receipts = self._receipts = Receipts(node_id, self._shared.key, self._released)
        now = self._loop.time()
        until = msgspec.json.encode(round(time.time() + lease, 3))
        names = [receipts.hold(entry.message, lease, now) for entry in entries]
        self._schedule()
        texts = (
            b'{"receipt":"%b","lease_until":%b,%b' % (name.encode(), until, entry.text[1:])
            for name, entry in zip(names, entries, strict=True)
        )
        return names, b"[" + b",".join(texts) + b"]"

    def withdraw(self, receipts: Sequence[str]) -> None:
        """The answer with these receipts was not sent: their messages go to others, without an attempt."""
        if self._receipts is not None:
            for receipt in receipts:
                self._receipts.withdraw(receipt)

    def refuse_if_full(self) -> None:
        """Refuse a take where too much is in hand.

        Raises:
            Problem: 429.
        """
        if self.in_hand + TAKE_MAX > HELD_MAX:
            raise Problem(
                429,
                "Too much in hand",
                f"{counted(self.in_hand, 'message')} taken over HTTP are not settled; ack, nack or reject some first",
                code="too-much-in-hand",
                retry_after=1.0,
            )

    # Settling

    async def settle(self, acts: Sequence[Act]) -> list[Settled]:
        """What came of each, in order; those of other processes are asked there."""
        found: list[Settled | None] = [None] * len(acts)
        receipts = self._receipts
        others: dict[tuple[str, str], list[int]] = {}
        for at, act in enumerate(acts):
            receipt = parsed(act.receipt)
            if receipt is None:
                found[at] = Settled(act.receipt, Outcome.INVALID)
            elif receipts is not None and receipts.is_ours(receipt):
                found[at] = self._settle(receipts, act)
            else:
                others.setdefault((receipt.node, receipt.start), []).append(at)
        if others:
            asked = [self.elsewhere.settle(*where, [acts[at] for at in places]) for where, places in others.items()]
            for places, results in zip(others.values(), await asyncio.gather(*asked), strict=True):
                for at, result in zip(places, results, strict=True):
                    found[at] = result
        return [each for each in found if each is not None]

    def _settle(self, receipts: Receipts, act: Act) -> Settled:
        settled = receipts.settle(act, self._loop.time(), time.time())
        self._schedule()
        return settled

    def _asked_for(self, node: str, start: str, acts: Sequence[Act]) -> list[Settled] | None:
        """Another process settles for a client of its own. Called in a thread of the admin socket."""
        receipts = self._receipts
        if receipts is None or (node, start) != (receipts.node, receipts.start):
            return None

        async def settle() -> list[Settled]:
            return [self._settle(receipts, act) for act in acts]

        coroutine = settle()
        try:
            asked = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed, and what was held has gone back
            coroutine.close()
            return [Settled(act.receipt, Outcome.GONE) for act in acts]
        try:
            return asked.result(self.elsewhere.answer_within)
        except TimeoutError:
            asked.cancel()
            return [Settled(act.receipt, Outcome.UNREACHABLE) for act in acts]

    # Leases

    def _schedule(self) -> None:
        at = self._receipts.poll_timeout() if self._receipts is not None else None
        if at is not None and (self._timer is None or at < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._end_leases)

    def _end_leases(self) -> None:
        self._timer, now = None, self._loop.time()
        ended = self._receipts.handle_timeout(now) if self._receipts is not None else {}
        for queue, count in ended.items():
            self._lapsed[queue] += count
            if now >= self._tell_at.get(queue, 0.0):
                text = "queue %r: the leases of %s that HTTP clients had are over; give a longer lease, or extend it"
                _log.warning(text, queue, counted(self._lapsed.pop(queue), "message"))
                self._tell_at[queue] = now + TELL_EVERY
        self._schedule()

    # Ending

    def drain(self) -> None:
        """End what waits. What was handed out may still be settled."""
        for queue in list(self._queues.values()):
            queue.close()

    async def close(self) -> None:
        """Wait until what clients have is settled, at most `Limits.drain_timeout`; the rest goes back, no attempt."""
        self.drain()
        self._settled_all = asyncio.Event()
        if self.in_hand:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._shared.options.drain_timeout):
                    await self._settled_all.wait()
        self._end_answering()
        await self.elsewhere.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._receipts is not None:
            count = self._receipts.give_back()
            if count:
                _log.warning("%s that HTTP clients had not settled go to other consumers", counted(count, "message"))

    def _released(self, queue: str, count: int = 1) -> None:
        line = self._queues.get(queue)
        if line is not None:
            line.released(count)
        if self._settled_all is not None and not self.in_hand:
            self._settled_all.set()

    def _forget(self, queue: str) -> None:
        for known in (self._queues, self._lapsed, self._tell_at):
            known.pop(queue, None)

    def _forget_unused(self, line: _Queue) -> None:
        if not line.is_used:
            self._forget(line.name)


# Requests


class _Take(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a take."""

    max: Annotated[int, Meta(ge=1, le=TAKE_MAX)] = 1
    wait: Annotated[float, Meta(ge=0, le=60)] = 10.0
    lease: Annotated[float, Meta(ge=1, le=LEASE_MAX)] = 60.0


class _Nack(msgspec.Struct, forbid_unknown_fields=True):
    receipt: str
    delay: Annotated[float, Meta(ge=0, le=DELAY_MAX)] | None = None


class _Reject(msgspec.Struct, forbid_unknown_fields=True):
    receipt: str
    reason: Annotated[str, Meta(max_length=1000)] = ""


class _Settle(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a settlement."""

    ack: Annotated[list[str], Meta(max_length=SETTLE_MAX)] = []
    nack: Annotated[list[_Nack | str], Meta(max_length=SETTLE_MAX)] = []
    reject: Annotated[list[_Reject | str], Meta(max_length=SETTLE_MAX)] = []

    def acts(self) -> list[Act]:
        """What is asked for, in order."""
        nacks = [each if isinstance(each, _Nack) else _Nack(each) for each in self.nack]
        rejects = [each if isinstance(each, _Reject) else _Reject(each) for each in self.reject]
        return [
            *(Act("ack", receipt) for receipt in self.ack),
            *(Act("nack", each.receipt, delay=each.delay) for each in nacks),
            *(Act("reject", each.receipt, reason=each.reason) for each in rejects),
        ]


class _Extend(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an extension."""

    receipts: Annotated[list[str], Meta(max_length=SETTLE_MAX)]
    lease: Annotated[float, Meta(ge=1, le=LEASE_MAX)] = 60.0


_takes = msgspec.json.Decoder(_Take).decode
_settles = msgspec.json.Decoder(_Settle).decode
_extends = msgspec.json.Decoder(_Extend).decode


async def _asked(request: Request, decode: Callable[[bytes], T]) -> T:
    """What the body of a request asks for.

    Raises:
        Problem: 400 or 422, it is not that.
    """
    data = await read_body(request, REQUEST_BYTES_MAX, shared_of(request).options.body_timeout)
    try:
        return decode(data)
    except msgspec.ValidationError as error:
        detail = f"{error}; see /openapi.json for what may be asked"
        raise Problem(422, "Wrong request", detail, code="wrong-request") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(data, error) from None


class _Handed(Response):
    """Messages for a client. They go back if the answer cannot be sent."""

    def __init__(self, takes: Takes, entries: Sequence[_Entry], lease: float) -> None:
        self._takes = takes
        self._receipts, content = takes.hold(entries, lease)
        super().__init__(content, media_type=JSON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except BaseException:
            self._takes.withdraw(self._receipts)
            raise


async def _take(request: Request) -> Response:
    shared = shared_of(request)
    queue = check_name("queue", request.path_params["queue"])
    wanted = await _asked(request, _takes)
    if shared.closing:  # nothing new is handed out, and there is nothing wrong with who asks
        return Response(status_code=204)
    takes = shared.part(Takes)
    takes.refuse_if_full()
    async with shared.waiting(request):
        entries = await takes.take(queue, wanted.max, min(wanted.wait, shared.options.wait_max), request)
    return _Handed(takes, entries, wanted.lease) if entries else Response(status_code=204)


async def _settle(request: Request) -> Response:
    wanted = await _asked(request, _settles)
    return await _settled(request, wanted.acts())


async def _extend(request: Request) -> Response:
    wanted = await _asked(request, _extends)
    return await _settled(request, [Act("extend", receipt, lease=wanted.lease) for receipt in wanted.receipts])


async def _settled(request: Request, acts: Sequence[Act]) -> Response:
    if len(acts) > SETTLE_MAX:
        detail = f"{len(acts):,} receipts; send at most {SETTLE_MAX:,} in a request"
        raise Problem(413, "Too many receipts", detail, code="too-many-receipts")
    results = [
        {"receipt": each.receipt, "result": each.result}
        | ({} if each.lease_until is None else {"lease_until": round(each.lease_until, 3)})
        for each in await shared_of(request).part(Takes).settle(acts)
    ]
    return Response(msgspec.json.encode({"results": results}), media_type=JSON)


def _schema(kind: type[msgspec.Struct]) -> Mapping[str, Any]:
    """The JSON schema of a request's body, in one piece."""
    [schema], parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    found: Mapping[str, Any] = _inlined(schema, parts)
    return found


def _inlined(schema: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
        return {name: _inlined(value, parts) for name, value in schema.items() if name != "title"}
    return [_inlined(each, parts) for each in schema] if isinstance(schema, list) else schema


_TAKEN: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["receipt", "lease_until", "id", "attempt", "sent_at", "sender", "headers"],
        "properties": {
            "receipt": {"type": "string", "description": "To settle the message with, or to extend its lease."},
            "lease_until": {"type": "number", "description": "Unix time, after which it goes to others."},
            "id": {"type": "string", "description": "The same at each attempt: the idempotency key of who handles it."},
            "attempt": {"type": "integer", "minimum": 1},
            "sent_at": {"type": "number", "description": "Unix time, by the clock of its producer."},
            "sender": {"type": "string"},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
            **MEMBERS,
        },
    },
}
_SETTLED: Final = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["receipt", "result"],
                "properties": {
                    "receipt": {"type": "string"},
                    "result": {"enum": [each.value for each in Outcome]},
                    "lease_until": {"type": "number"},
                },
            },
        }
    },
}

OPERATIONS: Final = [
    Operation(
        method="POST",
        path="/v1/queues/{queue}/take",
        name="takeMessages",
        scope="take",
        subject="queue",
        handle=_take,
        summary="Take messages: as soon as there is one, what is there, up to max; each to be settled by its receipt",
        answers={200: ("messages, each for this client alone until its lease ends", _TAKEN), 204: ("none came", None)},
        body={JSON: _schema(_Take)},
    ),
    Operation(
        method="POST",
        path="/v1/receipts:settle",
        name="settleMessages",
        scope="take",
        handle=_settle,
        summary="Say of messages that they are processed, failed, or cannot be processed",
        answers={200: ("what came of each, in the order ack, nack, reject", _SETTLED)},
        body={JSON: _schema(_Settle)},
    ),
    Operation(
        method="POST",
        path="/v1/receipts:extend",
        name="extendLeases",
        scope="take",
        handle=_extend,
        summary="Keep messages for so many seconds from now; a lease that ends later stays as it is",
        answers={200: ("what came of each, in order", _SETTLED)},
        body={JSON: _schema(_Extend)},
    ),
]
