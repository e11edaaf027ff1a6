"""Every frame: its bytes, what is refused, and that nothing else ever comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from peerfabric.errors import BadFrame, DecodeError
from peerfabric.wire.bodies import Codec, join, message_count, split
from peerfabric.wire.frames import (
    KINDS,
    MSGPACK,
    RAW,
    Ack,
    Address,
    Extra,
    ForeignHello,
    Hello,
    Nack,
    Result,
    TopicData,
    decode_frame,
    decode_outbox,
    encode_frame,
)
from tests.vectors.make import FILE, SHOP, named, text, vectors

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text(encoding="utf-8"))
DECODE: dict[str, Callable[[bytes], msgspec.Struct]] = {"inbox": decode_frame, "outbox": decode_outbox}
CODECS: dict[str, Codec[Any]] = {
    name: Codec(body_type, 1024) for name, body_type in {"bytes": bytes, "int": int, "any": Any}.items()
}


def each(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS[kind]])


def elements(value: Any) -> Any:
    """What stands in a header for a value of a vector, by nothing but the names and the order of its fields."""
    match value:
        case dict():
            return [
                bytes.fromhex(inner)
                if name in ("link", "outbox_key", "digest") and inner is not None
                else inner
                if name == "headers"
                else elements(inner)
                for name, inner in value.items()
            ]
        case list():
            return [elements(inner) for inner in value]
    return value


@each("frames")
def test_golden_frames(vector: dict[str, Any]) -> None:
    """The bytes of every kind are those that other languages and later versions know."""
    golden = bytes.fromhex(vector["hex"])
    frame = DECODE[vector["on"]](golden)
    assert named(frame) == vector["value"]
    assert encode_frame(frame) == golden
    assert msgspec.msgpack.encode(elements(vector["value"])) == golden


@each("accepted")
def test_other_headers_that_mean_the_same(vector: dict[str, Any]) -> None:
    """Those of earlier and later versions, and of encoders that are less thrifty."""
    assert named(DECODE[vector["on"]](bytes.fromhex(vector["hex"]))) == vector["value"]


@each("refused")
def test_bad_headers(vector: dict[str, Any]) -> None:
    """Each is refused as what it is: kinds of later versions, for one, are no garbage, since ignoring them is right."""
    with pytest.raises(BadFrame) as caught:
        DECODE[vector["on"]](bytes.fromhex(vector["hex"]))
    assert type(caught.value).__name__ == vector["error"]


@each("bodies")
def test_bodies(vector: dict[str, Any]) -> None:
    """The codec says how a body is cut, and not for consumers of which type it is."""
    body, codec, consumer = bytes.fromhex(vector["hex"]), vector["codec"], CODECS[vector["type"]]
    if vector["value"] == "DecodeError":
        with pytest.raises(DecodeError):
            consumer.decode_batch(body, codec)
        return
    assert named(consumer.decode_batch(body, codec)) == vector["value"]
    assert message_count(body, codec) == len(vector["value"])
    if codec in (RAW, MSGPACK):
        assert join(split(body, codec), MSGPACK) == (body, MSGPACK)


@each("broken")
def test_bodies_that_are_not_what_their_header_says(vector: dict[str, Any]) -> None:
    """The first bytes tell, before anything is decoded."""
    assert message_count(bytes.fromhex(vector["hex"]), vector["codec"]) != vector["count"]


def test_every_kind_has_vectors() -> None:
    """In full, and with the fields that it may have in later versions; vectors.json is what make.py writes."""
    assert {vector["value"]["kind"] for vector in VECTORS["frames"]} == KINDS
    assert FILE.read_text(encoding="utf-8") == text(vectors())


def test_a_hello_of_another_version() -> None:
    """It still says who spoke, so that we can answer."""
    foreign = next(vector for vector in VECTORS["refused"] if vector["error"] == "ForeignHello")
    with pytest.raises(ForeignHello) as caught:
        decode_frame(bytes.fromhex(foreign["hex"]))
    assert (caught.value.version, caught.value.address) == (2, SHOP)


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes(seed: int) -> None:
    """Any bytes are a frame or a documented error."""
    random = Random(seed)
    for _ in range(500):
        _read(random.randbytes(random.randrange(60)))


@pytest.mark.parametrize("seed", range(8))
def test_mutated_frames(seed: int) -> None:
    """So are ours with bytes changed, lost, doubled, and cut off anywhere."""
    random = Random(seed)
    frames = [bytes.fromhex(vector["hex"]) for vector in VECTORS["frames"]]
    for _ in range(500):
        frame = bytearray(random.choice(frames))
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(len(frame))
            match random.randrange(4):
                case 0:
                    frame[at] = random.randrange(256)
                case 1:
                    del frame[at]
                case 2:
                    frame[at:at] = frame[at : at + random.randrange(9)]
                case _:
                    del frame[at:]
            if not frame:
                break
        _read(bytes(frame))


def _read(frame: bytes) -> None:
    for decode in (decode_frame, decode_outbox):
        try:
            decode(frame)
        except BadFrame:
            pass


def test_a_text_that_is_no_unicode_is_replaced() -> None:
    """Whatever frame it is in, and wherever it stands there, the frame leaves and is read."""
    odd, told = "a\udcff", "a\\udcff"
    address = Address("n", 1, "n", odd, [odd], [])
    hello = Hello("peerfabric", 1, "f", "t", address, 1, 0, False, 1024)
    found = decode_frame(encode_frame(hello))
    assert isinstance(found, Hello)
    assert (found.address.host, found.address.inbox) == (told, [told])
    nack = Nack(1, 2, 1, 1, -1, odd)
    ack = decode_frame(encode_frame(Ack(bytes(8), 7, 6, 5, [Result(odd, "q", nacks=[nack])])))
    assert ack == Ack(bytes(8), 7, 6, 5, [Result(told, "q", nacks=[Nack(1, 2, 1, 1, -1, told)])])
    extras = [Extra(0, {odd: odd}, None)]
    topic = decode_outbox(encode_frame(TopicData("n", 1, "n", "t", 1, 1, 0, 0, extras)))
    assert topic == TopicData("n", 1, "n", "t", 1, 1, 0, 0, [Extra(0, {told: told}, None)])
