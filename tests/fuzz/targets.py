"""Fuzz targets: functions of any bytes that return, whatever these are, unless a reader is broken.

A target lets pass the errors that its reader documents. It fails by any other exception, by an `AssertionError` if what
was read does not survive being written, or by taking too long.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any, Final

import msgspec

from peerfabric.engine import Engine
from peerfabric.errors import BadFrame
from peerfabric.service.call import OpenCall
from peerfabric.wire.bodies import message_count, rejoin, split
from peerfabric.wire.frames import (
    MSGPACK,
    RAW,
    Cancel,
    More,
    Reply,
    Request,
    decode_frame,
    decode_outbox,
    encode_frame,
)
from tests.fabric.helpers import Pair, bodies, transmitted
from tests.fuzz import readers

VECTORS: Final = json.loads((Path(__file__).parent.parent / "vectors" / "vectors.json").read_text())
GOLDEN: Final = [bytes.fromhex(entry["hex"]) for entry in VECTORS["frames"] + VECTORS["accepted"]]
"""Good headers, of the inbox and of the outbox."""
HEADERS: Final = [*GOLDEN, *(bytes.fromhex(entry["hex"]) for entry in VECTORS["refused"])]

NASTY: Final[tuple[Any, ...]] = (
    *(0, 1, -1, 2, 7, 255, 2**31, 2**32 - 1, 2**53 - 1, 2**53, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 1e308, -1e308, 1e-320, inf, -inf, nan),
    *(
        "",
        "a",
        "jobs",
        "a" * 255,
        "a" * 256,
        "\x00",
        "\u202e",
        "tcp://127.0.0.1:1",
        "tcp://[::1%eth0]:99999",
        "ipc:///",
    ),
    *(b"", b"\x00" * 8, b"\xff" * 8, b"x" * 33, None, True, False),
    *([], [0, 1], [2**53 - 1, 0], [5, 2, 1, 9], [[]], [["jobs", 0.0]], [["jobs", nan]], [["jobs", inf]], {}, {"a": 1}),
)
"""Values that are put in the place of others."""


class Bytes:
    """Decisions read from the bytes of one input; zeros after their end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def number(self, limit: int) -> int:
        """A number from 0 to before `limit`."""
        width = 1 if limit <= 256 else 4
        return int.from_bytes(self.take(width), "big") % limit

    def take(self, count: int) -> bytes:
        """The next so many bytes, fewer at the end."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken


def header(data: bytes, decode: Callable[[bytes], msgspec.Struct] = decode_frame) -> None:
    """Frames of the inbox: a frame, or `BadFrame`; what is read can be written and read again."""
    try:
        frame = decode(data)
    except BadFrame:
        return
    written = encode_frame(frame)
    assert encode_frame(decode(written)) == written


outbox_header = partial(header, decode=decode_outbox)
"""The same for frames of the outbox."""


def body(data: bytes) -> None:
    """Bodies of frames: as many messages as they say, or `BadFrame`."""
    codec = data[0] % 4 if data else 0
    count = message_count(data[1:], codec)
    try:
        parts = split(data[1:], codec)
    except BadFrame:
        return
    assert count == len(parts), "a body that says something else than it is"
    assert split(rejoin(parts), MSGPACK) == parts


def engine(data: bytes) -> None:
    """An engine whose peer sends changed frames on a link that is up: it counts, renews, or parts, and goes on."""
    _hurt(data, _traffic())


def calls(data: bytes) -> None:
    """The same with what is said about calls, and nothing else."""
    _hurt(data, [frames for frames in _traffic() if isinstance(_kind(frames[0]), More | Request | Reply | Cancel)])


def _kind(header: bytes) -> object:
    try:
        return decode_frame(header)
    except BadFrame:
        return None


def _hurt(data: bytes, recorded: list[list[bytes]]) -> None:
    choices = Bytes(data)
    pair = _pair()
    for _ in range(8):
        if not choices.left:
            break
        frames = recorded[choices.number(len(recorded))]
        changed = [_change_header(choices, frames[0], pair), *frames[1:]]
        if len(changed) > 1 and choices.number(3) == 0:
            changed[1] = _change_bytes(choices, changed[1])
        pair.b.handle_frames(changed, pair.now, "a" if choices.number(2) else "")
        pair.b.links.check()
    _go_on(pair)


def published(data: bytes) -> None:
    """The same with frames of an outbox that it follows."""
    choices = Bytes(data)
    pair = _pair()
    recorded = _updates()
    for _ in range(8):
        if not choices.left:
            break
        frames = recorded[choices.number(len(recorded))]
        parts = [frames[0], _change(choices, frames[1]), *frames[2:]]
        at = choices.number(8)
        if at < len(parts):
            parts[at] = _change_bytes(choices, parts[at])
        pair.b.handle_published(parts[: 1 + choices.number(4)] if choices.number(8) == 0 else parts, pair.now)
        pair.b.links.check()
    _go_on(pair)


def _go_on(pair: Pair) -> None:
    """Let the victim do what follows: act on deadlines, answer, hand out."""
    for seconds in (0.0, 0.3, 5.0):
        pair.now += seconds
        pair.b.handle_timeout(pair.now)
        pair.b.links.check()
        _answer(pair.b, pair.now)
        for queue in pair.b.consumers.by_queue.values():
            delivery = queue.take(pair.now)
            if delivery is not None:
                queue.park(delivery)
            pair.b.consumers.progress(queue, pair.now)
        for subscriber in pair.b.topics.subscribers.values():
            while subscriber.take() is not None:
                pass
        for _ in range(20):
            if not transmitted(pair.b, pair.now):
                break
        else:
            raise AssertionError("the engine never stops talking")
        pair.b.poll_commands()
        pair.b.poll_events()
        pair.b.poll_timeout()
        pair.b.links.check()
    pair.b.view()
    pair.b.statistics()


def _answer(engine: Engine, now: float) -> None:
    """Handlers of services do what they may: answer, send parts, end; readers of streams read."""
    responder, caller = engine.responder, engine.caller
    for served in responder.served.values():
        while served.started:
            call = served.started.popleft()
            while call.stream and call.may_send and not call.cancelled and call.sent_parts < 200:
                responder.part(call, now, b"part", RAW)
            if not call.stream:
                responder.answer(call, now, b"answer", RAW)
            elif call.may_send or call.cancelled:
                responder.end(call, now)
        served.news.clear()
    while caller.news:
        asked = caller.news.popleft()
        while asked.take() is not None:
            pass
        if asked.stream and asked.wants_more:
            caller.more(asked, now)
    responder.check()
    caller.check()


def _serve(pair: Pair) -> None:
    pair.b.open_service("sum", 2, 4, 2**20, 3.0, pair.now)
    pair.a.open_service("back.sum", 2, 4, 2**20, 3.0, pair.now)


def _ask(pair: Pair) -> None:
    """Each asks the other what is answered at once, and what is answered in parts."""
    for engine, service in ((pair.a, "sum"), (pair.b, "back.sum")):
        for stream in (False, True, False):
            call = OpenCall(service, b"question", RAW, pair.now + 60.0, stream=stream, idempotent=not stream)
            engine.caller.start(call, pair.now)
    pair.settle()


def _pair() -> Pair:
    """Two nodes that share a queue in each direction, topics and services; their link is up, and both hold some."""
    pair = Pair()
    for producer, consumer, queue in ((pair.a, pair.b, "jobs"), (pair.b, pair.a, "back")):
        producer.open_producer(queue, RAW, 5, 2**20, pair.now)
        consumer.open_consumer(queue, 10.0, pair.now)
    pair.a.open_publisher("prices.a", RAW, pair.now)
    pair.b.open_subscriber("prices.*", 2**20, pair.now)
    _serve(pair)
    pair.meet()
    for producer, consumer, queue in ((pair.a, pair.b, "jobs"), (pair.b, pair.a, "back")):
        end = consumer.consumers.by_queue[queue]
        end.want(1, 100, pair.now)
        consumer.consumers.progress(end, pair.now)
        producer.producers.accept(producer.producers.by_queue[queue], bodies(3), 0)
    pair.settle()
    _ask(pair)
    return pair


_recorded: list[list[bytes]] = []
_recorded_updates: list[list[bytes]] = []


def _record() -> None:
    """What the peer says in a short life, from hello to goodbye."""
    pair = Pair()
    updates = pair.b.handle_published

    def keep(frames: Any, now: float) -> None:
        _recorded_updates.append([bytes(part) for part in frames])
        updates(frames, now)

    def passes(sender: Any, frames: list[bytes]) -> bool:
        if sender is pair.a:
            _recorded.append([bytes(part) for part in frames])
        return True

    pair.filter, pair.b.handle_published = passes, keep  # type: ignore[method-assign]
    for producer, consumer, queue in ((pair.a, pair.b, "jobs"), (pair.b, pair.a, "back")):
        producer.open_producer(queue, RAW, 5, 2**20, pair.now)
        consumer.open_consumer(queue, 10.0, pair.now)
    topic = pair.a.open_publisher("prices.a", RAW, pair.now)
    pair.b.open_subscriber("prices.*", 2**20, pair.now)
    _serve(pair)
    pair.meet()
    for producer, consumer, queue in ((pair.a, pair.b, "jobs"), (pair.b, pair.a, "back")):
        end = consumer.consumers.by_queue[queue]
        end.want(1, 100, pair.now)
        consumer.consumers.progress(end, pair.now)
        producer.producers.accept(producer.producers.by_queue[queue], bodies(3), 0)
    pair.a.topics.publish(topic, [b"1", b"2"], 0)
    pair.settle(1.0)
    _ask(pair)
    for _ in range(3):
        for each in (pair.a, pair.b):
            _answer(each, pair.now)
        pair.settle()
    _ask(pair)
    for call in list(pair.a.caller.open.values()):
        pair.a.caller.cancel(call, pair.now)
    pair.settle()
    pair.a.drain(pair.now)
    pair.settle(0.1)
    pair.a.topics.finish(pair.now)
    pair.a.say_bye(pair.now)
    pair.settle(0.1)
    _recorded.extend([golden] for golden in GOLDEN)


def _traffic() -> list[list[bytes]]:
    if not _recorded:
        _record()
    return _recorded


def _updates() -> list[list[bytes]]:
    _traffic()
    return _recorded_updates


def _change_header(choices: Bytes, encoded: bytes, pair: Pair) -> bytes:
    """Change a header, and mostly give it a link id and numbers under which it is accepted."""
    link = pair.b.links.by_peer.get("a:7340032")
    if link is None:
        return _change(choices, encoded)
    fits = choices.number(8) != 0

    def adapt(fields: list[Any]) -> None:
        if fits and len(fields) > 3 and fields[0] != 1:
            fields[1:4] = [link.in_id, link.in_number + 1, link.out_number]
        if fits and len(fields) > 7 and fields[0] == 1:
            fields[2] = "test"
            fields[6:8] = [link.theirs + choices.number(2), link.mine]

    return _change(choices, encoded, adapt)


def _change(choices: Bytes, encoded: bytes, adapt: Callable[[list[Any]], None] = lambda fields: None) -> bytes:
    """Put other values in the place of some fields, or other bytes in the place of some bytes."""
    try:
        fields = msgspec.msgpack.decode(encoded)
        assert isinstance(fields, list)
    except (msgspec.DecodeError, UnicodeDecodeError, AssertionError):
        return _change_bytes(choices, encoded)
    adapt(fields)
    for _ in range(choices.number(4)):
        _replace(choices, fields, 4)
    try:
        encoded = msgspec.msgpack.encode(fields)
    except (OverflowError, msgspec.MsgspecError):
        return encoded
    return _change_bytes(choices, encoded) if choices.number(8) == 0 else encoded


def _replace(choices: Bytes, fields: list[Any], depth: int) -> None:
    """Change one element of a list, or of a list in it."""
    if not fields:
        fields.append(copy.deepcopy(NASTY[choices.number(len(NASTY))]))
        return
    at = choices.number(len(fields))
    inner = fields[at]
    if isinstance(inner, list) and depth and choices.number(3):
        _replace(choices, inner, depth - 1)
    elif choices.number(8) == 0:
        del fields[at:]
    else:
        value = NASTY[choices.number(len(NASTY))]
        fields[at] = copy.deepcopy(value)


def _change_bytes(choices: Bytes, data: bytes) -> bytes:
    """Write some bytes over others, cut off or put in."""
    at = choices.number(len(data) + 1)
    new = choices.take(1 + choices.number(8))
    skip = (0, len(new), len(data))[choices.number(3)]
    return data[:at] + new + data[at + skip :]


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "header": header,
    "outbox header": outbox_header,
    "body": body,
    "engine": engine,
    "calls": calls,
    "published": published,
    "secret": readers.secret,
    "txt": readers.txt,
    "config": readers.config,
    "variables": readers.variables,
    "request": readers.request,
    "told": readers.told,
}
SEEDS: Final[dict[str, list[bytes]]] = {
    "header": HEADERS,
    "outbox header": HEADERS,
    "secret": readers.SECRET_SEEDS,
    "txt": readers.TXT_SEEDS,
    "config": readers.CONFIG_SEEDS,
    "request": readers.REQUEST_SEEDS,
    "told": readers.TOLD_SEEDS,
}
"""Inputs to begin with."""
