"""Every frame: its bytes, what is refused, and that nothing else ever comes out."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest

from peerfabric.errors import BadFrame
from peerfabric.wire.frames import (
    IDLE,
    LEASE,
    MAGIC,
    RAW,
    Ack,
    Address,
    Backlog,
    Bye,
    Consuming,
    Data,
    Drain,
    Extra,
    ForeignHello,
    Grant,
    Hello,
    Interest,
    Marker,
    Nack,
    Ping,
    Pong,
    Release,
    Result,
    StreamRanges,
    Subscription,
    Tail,
    Tails,
    TopicData,
    UnknownKind,
    decode_frame,
    decode_outbox,
    encode_frame,
)

VECTORS = Path(__file__).parents[2] / "vectors"
LINK = bytes(range(8))
SHOP = Address(
    "shop-1", 7 << 20 | 5, "shop", "host", ["ipc:///run/a", "tcp://127.0.0.1:7700"], ["tcp://127.0.0.1:7701"]
)
STREAM = "shop-1:7340037:orders"

INBOX: dict[str, msgspec.Struct] = {
    "hello": Hello(MAGIC, 1, "default", "kitchen-1", SHOP, 17, 0, False, 16_778_240, [SHOP]),
    "interest": Interest(
        LINK,
        1,
        0,
        3,
        [Consuming("orders", 300.0)],
        [Subscription("prices.*", 2, True)],
        ["receipts"],
        ["news"],
        [StreamRanges(STREAM, [4, 9])],
        [StreamRanges(STREAM, [1, 4])],
        6,
    ),
    "data": Data(LINK, 2, 1, STREAM, "orders", 9, 2, 4, 1, RAW, 0, 1_700_000_000_000, 5, 10, 1280, 6),
    "data-extras": Data(
        LINK, 3, 1, STREAM, "orders", 11, 1, 4, 2, RAW, 3, 0, 0, 11, 1400, 6, [Extra(0, {"trace": "1"}, "old/7")]
    ),
    "ack": Ack(
        LINK,
        4,
        2,
        7,
        [Result(STREAM, "orders", [1, 9], [9, 10], [Nack(10, 11, 1, LEASE, 500, "slow")], [11, 12])],
        [Grant("orders", 64, 65_536)],
    ),
    "release": Release(LINK, 5, 2, [StreamRanges(STREAM, [9, 11])], [STREAM]),
    "ping": Ping(LINK, 6, 2, 12.5, 7, [Backlog("orders", STREAM, 3, 10, 1280, 9)]),
    "pong": Pong(LINK, 7, 2, 12.5),
    "drain": Drain(LINK, 8, 2),
    "bye": Bye(LINK, 9, 2, "shop-1", IDLE),
}
OUTBOX: dict[str, msgspec.Struct] = {
    "topic-data": TopicData("shop-1", 7, "shop", "prices.eur", 5, 2, RAW, 0),
    "tails": Tails("shop-1", 7, [Tail("prices.eur", 6)]),
    "marker": Marker("shop-1", 7, "kitchen-1", "prices.*", 2, [Tail("prices.eur", 6)]),
}


@pytest.mark.parametrize("name", [*INBOX, *OUTBOX])
def test_golden_bytes(name: str) -> None:
    """The bytes of every kind are those that other languages and later versions know."""
    frame = {**INBOX, **OUTBOX}[name]
    path = VECTORS / f"{name}.hex"
    golden = bytes.fromhex(path.read_text())
    assert encode_frame(frame) == golden
    assert (decode_frame if name in INBOX else decode_outbox)(golden) == frame


def test_fields_of_a_later_version_are_skipped() -> None:
    """Fields are only ever appended, so what follows ours is no error."""
    pong = msgspec.msgpack.decode(encode_frame(INBOX["pong"]))
    assert decode_frame(msgspec.msgpack.encode([*pong, "new", {"more": 1}])) == INBOX["pong"]


def test_kinds_of_a_later_version() -> None:
    """They are told apart from garbage, since ignoring them is right."""
    with pytest.raises(UnknownKind):
        decode_frame(msgspec.msgpack.encode([99, LINK, 1, 0]))
    with pytest.raises(UnknownKind):
        decode_outbox(msgspec.msgpack.encode([99]))


def test_a_hello_of_another_version() -> None:
    """It still says who spoke, so that we can answer."""
    hello = msgspec.msgpack.decode(encode_frame(INBOX["hello"]))
    hello[2] = 2
    with pytest.raises(ForeignHello) as caught:
        decode_frame(msgspec.msgpack.encode([*hello[:6], "a different", "rest"]))
    assert (caught.value.version, caught.value.address) == (2, SHOP)


def test_somebody_elses_hello() -> None:
    """Another magic is not ours, whatever follows."""
    hello = msgspec.msgpack.decode(encode_frame(INBOX["hello"]))
    hello[1] = "otherfabric"
    with pytest.raises(BadFrame):
        decode_frame(msgspec.msgpack.encode(hello))


@pytest.mark.parametrize("field", [6, 7])
def test_impossible_numbers(field: int) -> None:
    """Sequences start at 1, and a batch has a message."""
    data = msgspec.msgpack.decode(encode_frame(INBOX["data"]))
    for value in (0, -1, 2**53, 1.5, "1", None):
        data[field] = value
        with pytest.raises(BadFrame):
            decode_frame(msgspec.msgpack.encode(data))


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
    frames = [encode_frame(frame) for frame in (*INBOX.values(), *OUTBOX.values())]
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
