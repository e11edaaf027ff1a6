"""Golden vectors of the protocol, written to vectors.json: `.venv/bin/python tests/vectors/make.py`.

vectors.json has seven lists. In each, `hex` is what travels and `value` what it means, with fields by their names, in
the order of the wire; link ids, keys, digests and messages of raw bytes are hexadecimal in values, too.

    frames    headers that encode to `hex` and decode to `value`
    accepted  headers that decode to `value`: older ones (fewer fields), newer ones (more fields), other encodings
    refused   headers that decode to `error`: BadFrame, UnknownKind or ForeignHello
    bodies    bodies of DATA and TOPIC DATA, by `codec`: `value` lists the messages that a consumer of `type` gets, or
              is DecodeError where one does not fit
    digests   digests under `key` of a node that uses what `value` says, and the `entries` that are in it
    broken    bodies that are not what a header of theirs with `count` says
    keys      what a fabric and a node derive from their secrets: of a secret its `text`, `fabric`, and the gate's two
              keys, `key_id` and `announce_key`; of a node's `key` its two pairs and its `node_id`
    records   TXT records of multicast DNS, under the secret with this `key_id` and `announce_key`, or in the clear;
              `instance` names the service, and `value` is what a node of `fabric` reads, None: nothing
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

from peerfabric.discovery.base import AnnounceKey, Announcement
from peerfabric.discovery.txt import NotARecord, instance_label, read_txt, write_txt
from peerfabric.link.digest import CLEAR_KEY, ROLES, OwnDigest, told
from peerfabric.secret import NodeKey, new_secret
from peerfabric.wire.frames import (
    ALONE,
    BUSY,
    DURABLE,
    ERROR,
    IDLE,
    LEASE,
    MAGIC,
    MSGPACK,
    NOT_ME,
    OK,
    OTHER_FABRIC,
    PART,
    RAW,
    RAW_ONE,
    STREAM,
    Ack,
    Address,
    Answer,
    Backlog,
    Bye,
    Call,
    Cancel,
    Consuming,
    Data,
    Drain,
    Extra,
    Grant,
    Hello,
    Interest,
    Load,
    Marker,
    More,
    Nack,
    Parts,
    Ping,
    Pong,
    Release,
    Reply,
    Request,
    Result,
    Serving,
    StreamRanges,
    Subscription,
    Tail,
    Tails,
    TopicData,
    encode_frame,
)

Vector = dict[str, Any]

FILE = Path(__file__).with_name("vectors.json")
LINK = bytes(range(8))
INBOX, OUTBOX = ["ipc:///run/a", "tcp://127.0.0.1:7700"], ["tcp://127.0.0.1:7701"]
SHOP = Address("shop-1", 7 << 20 | 5, "shop", "0123456789abcdef-fedcba9876543210", INBOX, OUTBOX)
SHOP_ON_LAN = Address(
    "6f1d" * 8, 7 << 20 | 5, "shop", SHOP.host, ["tcp://10.0.0.5:7700", "tcp://[fd00::1]:7700"],
    ["tcp://10.0.0.5:7701"], bytes(range(32)), 3, bytes.fromhex("0001020408102040"), True,
)  # fmt: skip
ORDERS = "shop-1:7340037:orders"

FRAMES: dict[str, msgspec.Struct] = {
    "hello": Hello(MAGIC, 1, "default", "kitchen-1", SHOP, 17, 0, False, 16_778_240, [SHOP]),
    "hello over hosts": Hello(
        MAGIC, 1, "default", "kitchen-1", SHOP_ON_LAN, 17, 0, False, 16_778_240, [SHOP_ON_LAN], True
    ),
    "hello to an endpoint": Hello(MAGIC, 1, "default", "", SHOP, 17, 0, False, 16_778_240),
    "hello that welcomes": Hello(MAGIC, 1, "default", "kitchen-1", SHOP, 18, 2**32 - 1, True, 16_778_240),
    "interest": Interest(
        LINK,
        1,
        0,
        3,
        [Consuming("orders", 300.0)],
        [Subscription("prices.*", 2, True)],
        ["receipts"],
        ["news"],
        [StreamRanges(ORDERS, [4, 9])],
        [StreamRanges(ORDERS, [1, 4])],
        6,
        [Serving("prices.get", 16)],
        ["stock.get"],
    ),
    "data": Data(LINK, 2, 1, ORDERS, "orders", 9, 2, 4, 1, RAW, 0, 1_700_000_000_000, 5, 10, 1280, 6),
    "data with headers": Data(
        LINK, 3, 1, ORDERS, "orders", 11, 1, 4, 2, RAW, ALONE, 0, 0, 11, 1400, 6, [Extra(0, {"trace": "1"}, "old/7")]
    ),
    "data at the limits": Data(
        LINK, 2**53 - 1, 2**53 - 1, ORDERS, "orders", 2**53 - 1, 16_777_216, 1, 1, RAW_ONE, DURABLE, 0, 0, 1, 1, 0
    ),
    "data that ends": Data(LINK, 4, 1, ORDERS, "orders", 12, 1, 4, 1, RAW, 0, 0, 0, 12, 1500, 6, [], 2_500, 3),
    "ack": Ack(
        LINK,
        4,
        2,
        7,
        [Result(ORDERS, "orders", [1, 9], [9, 10], [Nack(10, 11, 1, LEASE, 500, "slow")], [11, 13])],
        [Grant("orders", 64, 65_536)],
    ),
    "ack that only echoes": Ack(LINK, 5, 3, 7),
    "release": Release(LINK, 5, 2, [StreamRanges(ORDERS, [9, 11])], [ORDERS]),
    "ping": Ping(LINK, 6, 2, 12.5, 7, [Backlog("orders", ORDERS, 3, 10, 1280, 9)]),
    "pong": Pong(LINK, 7, 2, 12.5, 1_764_403_200_000),
    "more": More(LINK, 8, 2, [Parts(5, 128, 2_097_152)]),
    "request": Request(LINK, 8, 2, "prices.get", MSGPACK, [Call(4, 1_500), Call(5, 0, STREAM, 2, {"trace": "1"})]),
    "reply": Reply(
        LINK,
        8,
        2,
        MSGPACK,
        [
            Answer(3, ERROR, "no such price", "KeyError"),
            Answer(4, OK),
            Answer(5, PART, headers={"trace": "1"}),
            Answer(6, BUSY, retry_ms=250),
        ],
        [Load("prices.get", 7)],
    ),
    "cancel": Cancel(LINK, 8, 2, [4, 5]),
    "drain": Drain(LINK, 8, 2),
    "bye": Bye(LINK, 9, 2, "shop-1", IDLE),
    "bye to another node": Bye(bytes(8), 0, 0, "shop-1", NOT_ME),
    "bye that rejects": Bye(bytes(8), 0, 0, "shop-1", OTHER_FABRIC),
    "topic data": TopicData("shop-1", 7, "shop", "prices.eur", 5, 2, RAW, 0),
    "tails": Tails("shop-1", 7, [Tail("prices.eur", 6)]),
    "marker": Marker("shop-1", 7, "kitchen-1", "prices.*", 2, [Tail("prices.eur", 6)]),
}

SHORT: tuple[msgspec.Struct, ...] = (
    Hello(MAGIC, 1, "default", "", SHOP, 17, 0, False, 16_778_240),
    Interest(LINK, 1, 0, 3, [], [], [], []),
    Data(LINK, 2, 1, ORDERS, "orders", 9, 2, 4, 1, RAW, 0, 0, 5, 10, 1280, 6),
    Ack(LINK, 4, 2, 7),
    Release(LINK, 5, 2),
    Ping(LINK, 6, 2, 12.5, 7),
    Request(LINK, 8, 2, "prices.get", MSGPACK, [Call(4, 1_500)]),
    Reply(LINK, 8, 2, MSGPACK, [Answer(4, OK)]),
    TopicData("shop-1", 7, "shop", "prices.eur", 5, 2, RAW, 0),
    Marker("shop-1", 7, "kitchen-1", "prices.*", 2, []),
)
"""Frames that say nothing in those of their fields that may be absent."""

_encode = msgspec.msgpack.Encoder().encode


def vectors() -> dict[str, list[Vector]]:
    """All of vectors.json."""
    return {
        "frames": [_header(name, frame, encode_frame(frame)) for name, frame in FRAMES.items()],
        "accepted": list(_accepted()),
        "refused": list(_refused()),
        "bodies": list(_bodies()),
        "broken": list(_broken()),
        "digests": list(_digests()),
        "keys": list(_keys()),
        "records": list(_records()),
    }


def text(made: dict[str, list[Vector]]) -> str:
    """vectors.json with one vector a line, so that a change shows as such."""
    lists = []
    for name, entries in made.items():
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        lists.append(f"{json.dumps(name)}: [\n{lines}\n]")
    return "{\n" + ",\n".join(lists) + "\n}\n"


def named(part: Any) -> Any:
    """A frame, or part of one, as JSON has it: fields by name, bytes in hexadecimal."""
    match part:
        case msgspec.Struct():
            tag = part.__struct_config__.tag
            kind = {} if tag is None else {"kind": tag}
            return kind | {name: named(getattr(part, name)) for name in part.__struct_fields__}
        case list():
            return [named(inner) for inner in part]
        case bytes() | memoryview():
            return bytes(part).hex()
    return part


def _header(name: str, frame: msgspec.Struct, header: bytes) -> Vector:
    on = "outbox" if isinstance(frame, TopicData | Tails | Marker) else "inbox"
    return {"name": name, "on": on, "hex": header.hex(), "value": named(frame)}


def _elements(frame: msgspec.Struct) -> list[Any]:
    return msgspec.msgpack.decode(encode_frame(frame), type=list[Any])


def _accepted() -> Iterator[Vector]:
    for name, frame in FRAMES.items():
        yield _header(f"newer {name}", frame, _encode([*_elements(frame), "new", {"more": [1, None]}]))
    for frame in SHORT:
        elements = _elements(frame)
        required = len(elements) - len(frame.__struct_defaults__)
        yield _header(f"older {type(frame).__name__}", frame, _encode(elements[:required]))
    yield _header(
        "older parts of an ACK",
        Ack(LINK, 4, 2, 7, [Result(ORDERS, "orders", nacks=[Nack(10, 11, 1, LEASE)])]),
        _encode([4, LINK, 4, 2, 7, [[ORDERS, "orders", [], [], [[10, 11, 1, LEASE]]]]]),
    )
    yield _header(
        "older parts of an INTEREST",
        Interest(LINK, 1, 0, 3, [], [Subscription("prices.*", 2, False)], [], []),
        _encode([2, LINK, 1, 0, 3, [], [["prices.*", 2, False]], [], []]),
    )
    yield _header("integer as a stamp", Pong(LINK, 7, 2, 12.0), _encode([7, LINK, 7, 2, 12]))
    yield _header(
        "integer as a lease",
        Interest(LINK, 1, 0, 3, [Consuming("orders", 300.0)], [], [], []),
        _encode([2, LINK, 1, 0, 3, [["orders", 300]], [], [], []]),
    )
    longest = b"\xdd\0\0\0\4" + b"\x0c" + b"\xc6\0\0\0\x08" + LINK + b"\xcf\0\0\0\0\0\0\0\x08" + b"\xcf\0\0\0\0\0\0\0\2"
    yield _header("longest forms of array, binary and number", Drain(LINK, 8, 2), longest)
    yield _header("255 characters in 510 bytes", Bye(LINK, 9, 2, "ü" * 255, 2), _encode([13, LINK, 9, 2, "ü" * 255, 2]))
    yield _header("unknown reason", Bye(LINK, 9, 2, "shop-1", 99), _encode([13, LINK, 9, 2, "shop-1", 99]))


def _refused() -> Iterator[Vector]:
    def vector(name: str, header: bytes | list[Any], error: str = "BadFrame", on: str = "inbox") -> Vector:
        raw = header if isinstance(header, bytes) else _encode(header)
        return {"name": name, "on": on, "hex": raw.hex(), "error": error}

    hello, data, drain = _elements(FRAMES["hello"]), _elements(FRAMES["data"]), encode_frame(FRAMES["drain"])
    yield vector("nothing", b"")
    yield vector("no array", b"\x07")
    yield vector("array without a kind", [])
    yield vector("kind that is no integer", ["7", LINK, 7, 2, 12.5])
    yield vector("kind above 127", [128, LINK, 7, 2])
    yield vector("kind of a later version", [99, LINK, 1, 0], "UnknownKind")
    yield vector("kind of a later version on the outbox", [99], "UnknownKind", "outbox")
    yield vector("reserved kind", [17, LINK, 1, 0], "UnknownKind")
    yield vector("frame of the inbox on the outbox", drain, on="outbox")
    yield vector("frame of the outbox on the inbox", encode_frame(FRAMES["tails"]))
    yield vector("bytes behind the array", drain + b"\0")
    yield vector("cut off", drain[:-1])
    yield vector("absent field without a default", [7, LINK, 7, 2])
    yield vector("link id of 7 bytes", [12, bytes(7), 8, 2])
    yield vector("whole float as a number", [12, LINK, 8.0, 2])
    yield vector("negative number", [12, LINK, -1, 2])
    yield vector("number of 2^53", [12, LINK, 2**53, 2])
    yield vector("nil as a number", [12, LINK, None, 2])
    yield vector("name of 256 characters", [13, LINK, 9, 2, "n" * 256, IDLE])
    yield vector("binary as a name", [13, LINK, 9, 2, b"shop-1", IDLE])
    yield vector("name that is no UTF-8", _encode([13, LINK, 9, 2, "??", IDLE]).replace(b"??", b"\xff\xfe"))
    yield vector("65 nodes in a hello", [*hello[:10], [hello[5]] * 65])
    yield vector("first of 0", [*data[:6], 0, *data[7:]])
    yield vector("count of 0", [*data[:7], 0, *data[8:]])
    yield vector("count of 16,777,217", [*data[:7], 16_777_217, *data[8:]])
    yield vector("hello of another magic", [1, "otherfabric", *hello[2:]])
    yield vector("hello of version 2", [1, MAGIC, 2, *hello[3:6], "a different", "rest"], "ForeignHello")
    yield vector("hello of version 2 without an address", [1, MAGIC, 2, "default"])


def _bodies() -> Iterator[Vector]:
    def vector(name: str, codec: int, of: str, body: bytes, value: Any) -> Vector:
        return {"name": name, "codec": codec, "type": of, "hex": body.hex(), "value": value}

    raw, documents = [b"", b"a\0b"], [{"n": 1}, [2, None], "three", 4.5]
    yield vector("raw messages", RAW, "bytes", _encode(raw), named(raw))
    yield vector("16 raw messages", RAW, "bytes", _encode([b"x"] * 16), ["78"] * 16)
    yield vector("one raw message", RAW_ONE, "bytes", b"a\0b", ["610062"])
    yield vector("documents", MSGPACK, "any", _encode(documents), documents)
    yield vector("documents for a consumer of integers", MSGPACK, "int", _encode([1, 2]), [1, 2])
    yield vector("binaries under MSGPACK", MSGPACK, "bytes", _encode(raw), named(raw))
    yield vector("documents under RAW", RAW, "int", _encode([1, 2]), [1, 2])
    yield vector("codec of a later version", 9, "int", _encode([1, 2]), [1, 2])
    yield vector("string for a consumer of raw bytes", MSGPACK, "bytes", _encode(["a"]), "DecodeError")
    yield vector("binary for a consumer of integers", RAW, "int", _encode([b"a"]), "DecodeError")
    yield vector("one raw message for a consumer of integers", RAW_ONE, "int", b"\1", "DecodeError")


def _digests() -> Iterator[Vector]:
    uses: dict[str, dict[str, list[str]]] = {
        "nothing": {},
        "one queue": {"consumes": ["orders"]},
        "both ends of everything": {
            "produces": ["orders", "mail.out"], "consumes": ["orders"], "publishes": ["prices.eu.de", "beat"],
            "subscribes": ["prices.eu.de", "prices.*.de", "prices.>", "*.eu", ">"],
        },
        "a hundred queues": {"produces": [f"queue.{n}" for n in range(100)]},
        "both ends of services": {"serves": ["prices.get", "logs.tail"], "calls": ["prices.get"]},
    }  # fmt: skip
    for name, some in uses.items():
        for key in (CLEAR_KEY, bytes(range(32))):
            value = {role: some.get(role, []) for role in ROLES}
            own = OwnDigest([key])
            own.update(*value.values())
            assert own.digest is not None
            entries = sorted({entry for role, names in value.items() for each in names for entry in told(role, each)})
            how = "in the clear" if key == CLEAR_KEY else "under a key"
            yield {
                "name": f"{name}, {how}", "key": key.hex(), "entries": entries, "hex": own.digest.hex(), "value": value,
            }  # fmt: skip


def _broken() -> Iterator[Vector]:
    def vector(name: str, codec: int, count: int, body: bytes) -> Vector:
        return {"name": name, "codec": codec, "count": count, "hex": body.hex()}

    yield vector("no array", RAW, 1, _encode(b"a"))
    yield vector("nothing", RAW, 1, b"")
    yield vector("fewer messages", RAW, 3, _encode([b"a", b"b"]))
    yield vector("more messages", MSGPACK, 1, _encode([1, 2]))
    yield vector("two messages in one", RAW_ONE, 2, b"ab")
    yield vector("array header cut off", RAW, 1, b"\xdc\0")


def _keys() -> Iterator[Vector]:
    def public(secret: bytes) -> bytes:
        return z85.decode(zmq.curve_public(z85.encode(secret)))

    secrets = [("default", bytes(range(32))), ("shop.eu-1", bytes(range(32))), ("default", bytes(32))]
    for fabric, key in secrets:
        secret = new_secret(key)
        gate = secret.gate(fabric)
        yield {
            "name": f"secret {key[-1]} in {fabric}",
            "of": "secret",
            "secret": key.hex(),
            "text": secret.text(),
            "fabric": fabric,
            "gate_secret": gate.hex(),
            "gate_public": public(gate).hex(),
            "key_id": secret.key_id(fabric),
            "announce_key": secret.announce_key(fabric).hex(),
        }
    for key in (bytes(range(32, 64)), b"\xff" * 32):
        node = NodeKey(key, public)
        names = ("client_secret", "client_public", "outbox_secret", "outbox_public")
        pairs = {name: getattr(node, name).hex() for name in names}
        yield {"name": f"node {key[0]}", "of": "node", "key": key.hex(), **pairs, "node_id": node.node_id}


def _records() -> Iterator[Vector]:
    secret = new_secret(bytes(range(32)))
    key = AnnounceKey(secret.key_id("default"), secret.announce_key("default"))
    node = Announcement(
        node_id="6a088d003bc4227556e0b665675a567b",
        epoch=7340037,
        name="kitchen",
        fabric="default",
        host="0123456789abcdef-fedcba9876543210",
        inbox=("tcp://10.0.0.5:7700",),
        outbox=("tcp://10.0.0.5:7701",),
        version=3,
    )
    two = msgspec.structs.replace(node, inbox=("tcp://10.0.0.5:7700", "tcp://10.0.0.5:7702"), digest=b"\xff\xfe\x00")
    for name, announced, used, addresses in (
        ("a node", node, key, ["10.0.0.5"]),
        ("two ports, two addresses and a digest", two, key, ["10.0.0.5", "fd00::1"]),
        ("one that passes on news", msgspec.structs.replace(node, passes_on=True), key, ["10.0.0.5"]),
        ("a digest of nothing", msgspec.structs.replace(node, digest=b""), key, ["10.0.0.5"]),
        ("in the clear", node, None, ["10.0.0.5"]),
    ):
        yield _record(name, write_txt(announced, used, addresses) or b"", used)
    good = write_txt(node, key, ["10.0.0.5"]) or b""
    yield _record(
        "a mac of another secret", write_txt(node, AnnounceKey(key.key_id, bytes(32)), ["10.0.0.5"]) or b"", key
    )
    yield _record("another version", good.replace(b"n=3", b"n=4"), key)
    yield _record("an item twice", good[:4] + good, key)
    yield _record("another version of the protocol", good.replace(b"v=2", b"v=3"), key)
    yield _record("an address that is none", (write_txt(node, None, ["0.0.0.0"]) or b""), None)


def _record(name: str, data: bytes, key: AnnounceKey | None) -> Vector:
    found: Vector | None = None
    instance = ""
    try:
        record = read_txt(data, "default")
        if key is None or record.is_proven_by(key):
            found = named(record.announcement)
            instance = instance_label(record.announcement, record.key_id)
    except NotARecord:
        pass
    proof = {} if key is None else {"key_id": key.key_id, "announce_key": key.key.hex()}
    return {"name": name, "fabric": "default", **proof, "instance": instance, "hex": data.hex(), "value": found}


if __name__ == "__main__":
    FILE.write_text(text(vectors()), encoding="utf-8")
