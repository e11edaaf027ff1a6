"""Fuzz targets for what is read from files, variables, multicast and admin sockets.

As in targets.py: functions of any bytes that raise only on a defect.
"""

from __future__ import annotations

import tempfile
from math import inf
from pathlib import Path
from typing import Final

import msgspec

from peerfabric.admin.client import checked
from peerfabric.admin.fabric import read_answer
from peerfabric.discovery.base import AnnounceKey
from peerfabric.discovery.txt import TXT_BYTES_MAX, NotARecord, read_txt
from peerfabric.errors import ConfigError, FabricError
from peerfabric.nodes.config import VARIABLES, merged
from peerfabric.nodes.door.conversation import decode_request
from peerfabric.nodes.door.place import Place
from peerfabric.nodes.door.requests import Following, Refused, answer
from peerfabric.secret import SECRET_PREFIX, new_secret, parse_secret
from peerfabric.service.call import OpenCall, Outcome
from peerfabric.wire.frames import MSGPACK

KEY: Final = new_secret(bytes(range(32)))
ANNOUNCE: Final = AnnounceKey(KEY.key_id("default"), KEY.announce_key("default"))
SECRET_SEEDS: Final = [
    KEY.text().encode(),
    f" {KEY.text()}\n".encode(),
    KEY.text()[:-1].encode(),
    SECRET_PREFIX.encode(),
]


def _record(*items: str) -> bytes:
    return b"".join(bytes([len(item)]) + item.encode() for item in items)


TXT_SEEDS: Final = [
    _record(
        *("v=2", f"k={ANNOUNCE.key_id}", "id=" + "a1" * 16, "e=7340032", "n=1", "in=7700,7702", "out=7701"),
        *("a=10.0.0.5,fd00::1", "h=0123456789abcdef-fedcba9876543210", "d=AAAA", "mac=AAAAAAAAAAAAAAAAAAAAAA"),
    ),
    _record("v=2", "k=-", "id=b", "e=0", "n=0", "in=1", "out=", "a=10.0.0.1", "h=x", "f=abcdefgh"),
    _record("v=3"),
]
CONFIG_SEEDS: Final = [
    b"""[node]
name = "billing-1"
fabric = "shop"
reach = "lan"
listen = "tcp://*:7700"
secret = ["file:new", "file:old"]
identity = "node.key"
interfaces = ["eth0"]
advertise = ["10.0.0.5"]
peers = ["10.0.0.6:7700", "dns:workers:7700"]
discovery = ["static", "mdns"]
spool = "spool"
fsync = true
[options]
drain_timeout = 5.0
peers_max = 100
[access]
allow = [{id="0123456789abcdef0123456789abcdef", name="billing-1"}]
revoked = ["0123456789abcdef0123456789abcdef"]
""",
    b"[node]\nname = 1\n",
    b"[options]\nconsumer_bytes = -1\n",
]


def secret(data: bytes) -> None:
    """The text of a secret: the one way to write it, or `ConfigError`, which does not repeat it."""
    text = data.decode("utf-8", "surrogateescape")
    found, shown = None, ""
    try:
        found = parse_secret(text)
    except ConfigError as error:
        shown = str(error)
    if found is None:
        assert len(text.strip()) < 20 or text.strip() not in shown, "an error that shows what may be a secret"
        return
    assert found.text() == text.strip()
    assert found.text() not in repr(found)


def txt(data: bytes) -> None:
    """A TXT record: an announcement of numeric endpoints, or `NotARecord`; forged ones are proven by no key."""
    try:
        record = read_txt(data, "default")
    except NotARecord:
        return
    assert len(data) < TXT_BYTES_MAX + 256
    assert not record.is_proven_by(ANNOUNCE) or data == TXT_SEEDS[0]
    for endpoint in (*record.announcement.inbox, *record.announcement.outbox):
        assert endpoint.startswith("tcp://")
        assert endpoint.rpartition(":")[2].isdecimal()


_folder: list[tempfile.TemporaryDirectory[str]] = []


def _file() -> Path:
    if not _folder:
        _folder.append(tempfile.TemporaryDirectory(prefix="fuzz-"))
    return Path(_folder[0].name) / "node.toml"


def config(data: bytes) -> None:
    """A configuration file: what a node is to be made with, or `ConfigError`."""
    path = _file()
    path.write_bytes(data)
    try:
        found = merged({}, {}, path)
    except ConfigError:
        return
    assert found.values.keys() == found.sources.keys()


def variables(data: bytes) -> None:
    """The same from variables: each of them may have any text."""
    parts = data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
    environ = dict(zip((name for name in VARIABLES if name != "PEERFABRIC_CONFIG"), parts, strict=False))
    try:
        found = merged({}, environ)
    except ConfigError:
        return
    assert found.values.keys() == found.sources.keys()


# The admin socket, and what nodes tell of themselves

REQUEST_SEEDS: Final = [
    b'{"v":1,"do":"status","queues":200,"wait":0}',
    b'{"do":"purge","queue":"jobs","fabric":"f"}',
    b'{"do":"dead","limit":10,"whole":true,"queue":null}',
    b'{"do":"drop","ids":["a/1"]}',
    b'{"do":"settle","ack":[{"receipt":"x","delay":1.5}]}',
    b'{"do":"tap","name":"jobs"}',
]


def request(data: bytes) -> None:
    """One line at the admin socket of a process without nodes."""
    try:
        found = answer(list, decode_request(data))
    except Refused:
        return
    assert isinstance(found, Following) or msgspec.json.decode(msgspec.json.encode(found)) is not None


def told(data: bytes) -> None:
    """What a process, or a peer, says of itself to who has asked."""
    try:
        checked(Place(1, 2, Path("x")), data)
    except FabricError:
        pass
    call = OpenCall("s", b"", MSGPACK, inf)
    call.outcome, call.body = Outcome.OK, data
    read_answer(call)


TOLD_SEEDS: Final = [
    b'{"process":{"pid":1,"started":2},"nodes":[{"node_id":"a","name":"a","fabric":"f"}],"v":1}\n',
    b'{"error":"BadName","text":"queue","about":{"kind":"queue","name":"/"}}\n',
    msgspec.msgpack.encode([{"process": {"pid": 1, "started": 2}, "nodes": []}]),
]
