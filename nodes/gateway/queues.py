"""Queues over HTTP: one message a request, or a batch of them."""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import suppress
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from peerfabric.arguments import DELAY_MAX
from peerfabric.errors import NodeClosed, NotConfirmed, QueueFull, Rejected, SpoolError
from peerfabric.gateway.bodies import (
    BYTES,
    JSON,
    KEY_HEADER,
    LINES,
    MESSAGE_HEADERS,
    PASSED_ON,
    Reader,
    media_type,
    message_headers,
    seconds,
)
from peerfabric.gateway.keys import KEY_LENGTH_MAX, Claim, Keys
from peerfabric.gateway.limits import read_body
from peerfabric.gateway.operations import Operation
from peerfabric.gateway.problems import Problem, problem_of
from peerfabric.gateway.shared import Shared, shared_of, token_of
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.receipt import Receipt, State

CONFIRMATIONS: Final[tuple[State, ...]] = ("stored", "delivered", "processed")
CONFIRM_TIMEOUT: Final = 5.0
"""Seconds, if the request does not say how long it waits."""
ROOM_TIMEOUT: Final = 5.0
"""Seconds that a request waits for the disk, and for room if the program's own producer of the queue is one that
waits."""
TTL_MIN: Final = 0.001
"""Seconds."""
REPLAYED: Final = "Idempotent-Replay"

_KEY: Final = re.compile(rf'"?([!#-~]{{1,{KEY_LENGTH_MAX}}})"?')
"""Bare, or the string of a structured field, as the draft has it."""

_log = logging.getLogger("peerfabric")


class Sending(msgspec.Struct, frozen=True):
    """One request to send a message, as read."""

    body: Any
    headers: dict[str, str] | None
    confirm: State | None
    timeout: float | None
    ttl: float | None
    digest: bytes
    """Of all that is asked for, so that two requests with one key can be compared."""


async def _send(request: Request) -> Response:
    shared = shared_of(request)
    shared.refuse_if_closing()
    producer = shared.producer(request.path_params["queue"])
    key = _idempotency_key(request)
    sending = await _read(request, shared, producer)
    if key is None:
        receipt = await _accept(producer, sending, sending.headers)
        return _answer(*await _outcome(request, shared, producer, receipt, sending))
    assert shared.keys is not None
    return await _send_once(request, shared, producer, sending, key, shared.keys)


async def _read(request: Request, shared: Shared, producer: AsyncProducer[Any]) -> Sending:
    confirm = request.query_params.get("confirm")
    if confirm is not None and confirm not in CONFIRMATIONS:
        detail = f"confirm={confirm!r} cannot be waited for; use one of {', '.join(CONFIRMATIONS)}"
        raise Problem(400, "Bad parameter", detail, code="bad-parameter")
    if confirm == "stored" and not producer.is_safe:
        detail = "nothing is stored, as this gateway has no spool; start it with --spool, or wait for 'delivered'"
        raise Problem(400, "Bad parameter", detail, code="bad-parameter")
    timeout = seconds(request, "timeout", CONFIRM_TIMEOUT, shared.options.wait_max)
    ttl = seconds(request, "ttl", None, DELAY_MAX, TTL_MIN)
    headers = message_headers(request)
    data = await read_body(request, producer.codec.limit, shared.options.body_timeout)
    kind = media_type(request)
    asked = hashlib.sha256(f"{request.scope['path']}\n{request.scope['query_string']!r}\n{kind}\n".encode())
    # Each attempt of a traced client has a span of its own; it is the same request all the same.
    told = sorted(each for each in (headers or {}).items() if each[0] not in PASSED_ON)
    asked.update(msgspec.msgpack.encode(told))
    asked.update(data)
    body = Reader(producer.options.body_type).read(data, kind)
    return Sending(body, headers, confirm, timeout, ttl, asked.digest())


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.get(KEY_HEADER)
    if given is None:
        return None
    found = _KEY.fullmatch(given.strip())
    if found is None:
        detail = f"Idempotency-Key has 1 to {KEY_LENGTH_MAX} printable characters; give a UUID, or the order's number"
        raise Problem(400, "Bad key", detail, code="bad-key")
    return found.group(1)


async def _accept(producer: AsyncProducer[Any], sending: Sending, headers: dict[str, str] | None) -> Receipt:
    try:
        return await producer.send(sending.body, headers=headers, ttl=sending.ttl, timeout=ROOM_TIMEOUT, cause=None)
    except NotConfirmed as error:  # written, and the disk has not said in time that it is safe
        return error.receipt


async def _send_once(
    request: Request, shared: Shared, producer: AsyncProducer[Any], sending: Sending, key: str, keys: Keys
) -> Response:
    """Send a message unless one was sent with that key; answer as the first time."""
    accepting = _accept_once(producer, sending, token_of(request).name, key, keys)
    # Broken off in between, the key would be in progress for as long as this process lives.
    claim, receipt = await shared.to_the_end(accepting)
    if receipt is None:
        return Response(claim.answer, claim.status, {REPLAYED: "true"}, JSON)
    status, answer = _accepted(producer, receipt)
    if sending.confirm is None:
        return _answer(status, answer)
    later = await _outcome(request, shared, producer, receipt, sending)
    if later != (status, answer):
        await _keep(keys.note(claim, *later))
    return _answer(*later)


async def _accept_once(
    producer: AsyncProducer[Any], sending: Sending, token: str, key: str, keys: Keys
) -> tuple[Claim, Receipt | None]:
    """The claim to a key, and the message that is accepted for it; None: there is an answer already."""
    claim = await keys.claim(token, key, sending.digest)
    if claim.status:
        return claim, None
    try:
        receipt = await _accept(producer, sending, {**(sending.headers or {}), KEY_HEADER: key})
    except Exception:
        await _keep(keys.release(claim))
        raise
    await _keep(keys.note(claim, *_accepted(producer, receipt)))
    return claim, receipt


async def _keep(noting: Any) -> None:
    """Have something about a key noted. Of the message all is known already, so the request does not fail with it."""
    try:
        await noting
    except SpoolError as error:
        _log.error("%s", error)


async def _outcome(
    request: Request, shared: Shared, producer: AsyncProducer[Any], receipt: Receipt, sending: Sending
) -> tuple[int, bytes]:
    """Status and body of the answer, when a message is in the state that was asked for, or will not be in time.

    It is accepted in any case, and no refusal may say otherwise: also where too many requests wait.
    """
    if sending.confirm is not None:
        try:
            async with shared.waiting(request):
                await shared.until_ending(producer.wait(receipt, sending.confirm, sending.timeout))
        except (NotConfirmed, Rejected, NodeClosed, Problem):
            pass  # its state says it
        with suppress(NodeClosed):  # just now
            return _accepted(producer, receipt, producer.state(receipt))
    return _accepted(producer, receipt)


def _accepted(producer: AsyncProducer[Any], receipt: Receipt, state: str = "") -> tuple[int, bytes]:
    """The answer to a message that is accepted; `state` if more was waited for."""
    found = state or ("stored" if producer.is_safe else "queued")
    return 200 if state == "processed" else 202, msgspec.json.encode({"id": receipt.id, "state": found})


def _answer(status: int, content: bytes) -> Response:
    return Response(content, status, media_type=JSON)


async def _send_batch(request: Request) -> Response:
    shared = shared_of(request)
    shared.refuse_if_closing()
    producer = shared.producer(request.path_params["queue"])
    if KEY_HEADER in request.headers:
        detail = "a batch has no Idempotency-Key, as part of it may be accepted; send its messages one by one"
        raise Problem(400, "Bad key", detail, code="bad-key")
    ttl = seconds(request, "ttl", None, DELAY_MAX, TTL_MIN)
    data = await read_body(request, shared.options.batch_bytes_max, shared.options.body_timeout)
    bodies, problem = _lines(data, Reader(producer.options.body_type), shared.options.batch_messages_max)
    ids: list[str] = []
    if bodies:
        ranges, error = await producer.accept_batch(bodies, ttl, ROOM_TIMEOUT)
        stream = producer.end.stream
        ids = [Receipt(stream, sequence).id for first, stop in ranges for sequence in range(first, stop)]
        if error is not None and not isinstance(error, NotConfirmed):  # that is of messages that are accepted
            problem = problem_of(error)
        elif len(ids) < len(bodies):
            problem = problem_of(QueueFull(producer.queue, producer.options.buffer_bytes))
    if problem is not None and not ids:
        raise problem
    answer: dict[str, Any] = {"accepted": len(ids), "ids": ids}
    if problem is not None:
        answer["problem"] = problem.body()
    return _answer(202, msgspec.json.encode(answer))


def _lines(data: bytes, reader: Reader, most: int) -> tuple[list[Any], Problem | None]:
    """The bodies of lines of JSON up to the first that cannot be sent, and why that one cannot."""
    if reader.is_raw:
        raise Problem(415, "", f"this queue takes bytes; send them one by one, as {BYTES}", code="content-type")
    bodies: list[Any] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(bodies) == most:
            detail = f"a batch has more than {most:,} messages; send the others in another one"
            return bodies, Problem(413, "Too many messages", detail, code="too-large", line=number)
        try:
            bodies.append(reader.read(line, JSON))
        except Problem as problem:
            problem.members["line"] = number
            return bodies, problem
    if not bodies:
        detail = "there is no message in it; send a line of JSON for each"
        return bodies, Problem(400, "Empty batch", detail, code="empty-batch")
    return bodies, None


ACCEPTED: Final = {
    "type": "object",
    "required": ["id", "state"],
    "properties": {
        "id": {"type": "string", "description": "of the message, as its consumer sees it"},
        "state": {"enum": ["queued", "stored", "delivered", "processed", "dead", "expired", "dropped", "damaged"]},
    },
}
BATCH: Final = {
    "type": "object",
    "required": ["accepted", "ids"],
    "properties": {
        "accepted": {"type": "integer", "description": "so many of the first lines"},
        "ids": {"type": "array", "items": {"type": "string"}},
        "problem": {"$ref": "#/components/schemas/Problem"},
    },
}
KEY: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_LENGTH_MAX,
    "description": "do this once, however often it is sent, within 24 hours",
}
TTL: Final = {"type": "number", "minimum": TTL_MIN, "description": "seconds after which nobody is handed it any more"}

OPERATIONS: Final = [
    Operation(
        method="POST",
        path="/v1/queues/{queue}/messages",
        name="sendMessage",
        scope="send",
        subject="queue",
        handle=_send,
        summary="Send one message; it is accepted with any answer below 300, and will be processed",
        answers={
            202: ("accepted; with a spool, on disk", ACCEPTED),
            200: ("processed, which was waited for", ACCEPTED),
        },
        body={JSON: {}, BYTES: {"type": "string", "format": "binary"}},
        query={
            "confirm": {"enum": list(CONFIRMATIONS), "description": "wait until it is in that state"},
            "timeout": {"type": "number", "minimum": 0, "maximum": 60, "default": CONFIRM_TIMEOUT},
            "ttl": TTL,
        },
        headers={"Idempotency-Key": KEY, **MESSAGE_HEADERS},
        told={REPLAYED: {"const": "true", "description": "this key was answered before, and so is this"}},
    ),
    Operation(
        method="POST",
        path="/v1/queues/{queue}/messages:batch",
        name="sendBatch",
        scope="send",
        subject="queue",
        handle=_send_batch,
        summary="Send lines of JSON, a message each, in order; the first ones are accepted, or all",
        answers={202: ("accepted, all or the first ones: then `problem` says why no more", BATCH)},
        body={LINES: {"type": "string", "description": "a line of JSON for each message"}},
        query={"ttl": TTL},
    ),
]
