"""PROTOCOL.md against the code: frames and their fields, numbers, socket options, keys, answers, announcements."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest
import zmq
from msgspec import inspect
from zeroconf import ServiceInfo

from peerfabric.discovery.base import AnnounceKey, Announcement
from peerfabric.discovery.txt import write_txt
from peerfabric.nodes.io.curve import Access, Curve, Gate, curve_public
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.queue.runs import ISOLATION
from peerfabric.secret import NodeKey, new_secret
from peerfabric.wire import frames
from tests.vectors.make import FILE

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "PROTOCOL.md").read_text(encoding="utf-8")
ROOMS = {
    "fabric/*.py": "peerfabric",
    "fabric/wire/*.py": "peerfabric.wire",
    "fabric/link/*.py": "peerfabric.link",
    "fabric/queue/*.py": "peerfabric.queue",
    "fabric/topic/*.py": "peerfabric.topic",
    "fabric/service/*.py": "peerfabric.service",
    "discovery/*.py": "peerfabric.discovery",
    "nodes/io/sockets.py": "peerfabric.nodes.io",
    "nodes/io/curve.py": "peerfabric.nodes.io",
    "nodes/io/greeting.py": "peerfabric.nodes.io",
    "nodes/io/monitor.py": "peerfabric.nodes.io",
}
"""Where the protocol is, and its numbers are."""

FRAMES: dict[int, type[msgspec.Struct]] = {
    kind.__struct_config__.tag: kind  # type: ignore[misc]  # ours are numbers
    for kind in vars(frames).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and not kind.__name__.startswith("_")
    if kind.__struct_config__.tag is not None
}
PARTS = {
    name: kind
    for name, kind in vars(frames).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.tag is None
    if kind is not msgspec.Struct
}
COMMON = ["link", "number", "echo"]


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables in `text`: rows of cells, the head first."""
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        line = line.strip()
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            yield [rows[0], *rows[2:]]
            rows = []


def table(head: str, within: str = TEXT) -> list[list[str]]:
    """The rows below the first table that begins with the cells `head`, without it."""
    found = (rows for rows in tables(within) if " | ".join(rows[0]).startswith(head))
    return next(found)[1:]


def section(title: str) -> str:
    """What follows the heading that begins with `title`, up to the next one of any level."""
    found = re.search(rf"^(#+ {re.escape(title)}.*?)(?=^#+ |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def number(cell: str) -> int | float | str:
    """A value as the tables have it."""
    plain = cell.strip("`").replace(",", "")
    try:
        return float(plain) if "." in plain else int(plain)
    except ValueError:
        return cell.strip("`")


# Types in the notation of section 3


def described(of: inspect.Type) -> str:
    """A type of a field."""
    match of:
        case inspect.IntType(ge=0, le=limit) if limit == 2**53 - 1:
            return "count"
        case inspect.IntType(ge=0, le=limit) if limit == 2**32 - 1:
            return "half"
        case inspect.IntType(ge=1, le=limit) if limit is not None:
            return "1 … 2⁵³\u22121" if limit == 2**53 - 1 else f"1 … {limit:,}"
        case inspect.IntType(ge=None, le=None):
            return "integer"
        case inspect.FloatType():
            return "float"
        case inspect.BoolType():
            return "boolean"
        case inspect.BytesType(min_length=8, max_length=8):
            return "link id"
        case inspect.BytesType(min_length=None, max_length=limit) if limit is not None:
            return f"binary≤{limit:,}"
        case inspect.StrType(max_length=limit):
            named = {255: "name", 512: "stream", 256: "endpoint", None: "string"}
            return named.get(limit) or f"string≤{limit:,}"
        case inspect.ListType(item_type=item, max_length=frames.LIST_MAX) if described(item) == "count":
            return "ranges"
        case inspect.ListType(item_type=item, max_length=limit):
            return f"list≤{limit:,} of {described(item)}"
        case inspect.DictType(key_type=key, value_type=value):
            return f"map of {described(key)} to {described(value)}"
        case inspect.UnionType(types=types):
            some = [described(one) for one in types if not isinstance(one, inspect.NoneType)]
            return f"{' or '.join(some)} or nil"
        case inspect.StructType(cls=cls):
            return cls.__name__
    raise AssertionError(of)


def fields(kind: type[msgspec.Struct]) -> list[tuple[str, str]]:
    """The fields of a frame or of a part of one: name, and type with its default."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    found = []
    for field in info.fields:
        default = ""
        if not field.required:
            value = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
            default = f" = {'nil' if value is None else msgspec.json.encode(value).decode()}"
        found.append((field.name, described(field.type) + default))
    return found


@pytest.mark.parametrize("tag", sorted(FRAMES))
def test_fields_of_a_frame(tag: int) -> None:
    """Names and order of fields stand in a frame's heading, names and types in its table."""
    kind = FRAMES[tag]
    heading = re.search(rf"^### [A-Z ]+ `\[{tag}(?:, (.*?))?\]`.*$", TEXT, re.MULTILINE)
    assert heading is not None
    names = heading[1].split(", ") if heading[1] else []
    expected = fields(kind)
    if names[:1] == ["…"]:
        assert [name for name, _ in expected[:3]] == COMMON
        names, expected = names[1:], expected[3:]
    assert names == [name for name, _ in expected]
    rows = table("field | type", section(heading[0].lstrip("# "))) if expected else []
    assert [(row[0], row[1]) for row in rows] == expected


def test_kinds() -> None:
    """The table of kinds has each of them, its number and its socket."""
    listed = {}
    for row in table("kind | frame"):
        for kind, name, on in (row[:3], row[4:]):
            if name.startswith("reserved"):
                continue
            for one, of in zip(kind.split(", "), name.split(", "), strict=True):
                listed[int(one)] = (of.replace(" ", ""), on)
    outbox = frames.OutboxFrame.__args__
    assert listed == {
        tag: (kind.__name__.upper(), "outbox" if kind in outbox else "inbox") for tag, kind in FRAMES.items()
    }
    assert listed.keys() == frames.KINDS


def test_common_fields() -> None:
    """So does the table of the fields with which frames of links begin."""
    rows = table("# | field")
    assert [(row[1], row[2]) for row in rows] == [("kind", "integer"), *fields(frames.Drain)]


def test_parts_of_frames() -> None:
    """The table of structures has every one of them, with its fields in order."""
    listed = dict(row[:2] for row in table("structure | fields"))
    shown = {name: "`[" + ", ".join(f"{f}: {t}" for f, t in fields(kind)) + "]`" for name, kind in PARTS.items()}
    assert listed == shown


@pytest.mark.parametrize("heading", ["2. Sockets", "DATA", "ACK", "BYE"])
def test_codecs_flags_and_reasons(heading: str) -> None:
    """Numbers with a name, each as the code has it."""
    rows = next(
        rows
        for rows in tables(section(heading))
        if rows[0][:2] in (["codec", "name"], ["flag", "name"], ["reason", "name"])
    )
    assert {row[1]: int(row[0]) for row in rows[1:]} == {row[1]: getattr(frames, row[1]) for row in rows[1:]}


# Numbers


def _bound(module: ast.Module) -> Iterator[str]:
    for statement in module.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                yield from (name.id for name in names if isinstance(name, ast.Name) and name.id.isupper())


@cache
def constants() -> dict[str, list[str]]:
    """Where each name in capitals is bound at the top of a module."""
    found: dict[str, list[str]] = {}
    for files, package in ROOMS.items():
        for path in ROOT.glob(files):
            for name in _bound(ast.parse(path.read_bytes())):
                found.setdefault(name, []).append(f"{package}.{path.stem}")
    return found


@pytest.mark.parametrize("row", table("number | value"), ids=lambda row: row[2].strip("`"))
def test_numbers(row: list[str]) -> None:
    """Each is that of the code, wherever it stands there."""
    name = row[2].strip("`")
    values = {getattr(importlib.import_module(module), name) for module in constants()[name]}
    assert values == {number(row[1])}


def test_isolation() -> None:
    """How many messages with so many deaths one consumer has at most."""
    rows = table("deaths | messages")
    assert {int(row[0]): number(row[1]) for row in rows[:-1]} == ISOLATION


# Sockets and discovery


def test_socket_options() -> None:
    """Those of a socket as it is opened, before anything is bound or connected."""
    sockets = Sockets(frame_bytes_max=8 * 1024 * 1024, peers_max=8)
    kinds = {"PULL": zmq.PULL, "PUSH": zmq.PUSH, "PUB": zmq.PUB, "SUB": zmq.SUB}
    opened = {name: sockets._open(kind) for name, kind in kinds.items()}
    try:
        for names, value, where, *_ in table("option | value"):
            for option in re.findall("[A-Z0-9_]+", names):
                for kind, socket in opened.items():
                    if where not in ("all", kind):
                        continue
                    want = 8 * 1024 * 1024 + 64 if option == "MAXMSGSIZE" else number(value)
                    assert (kind, option, socket.get(getattr(zmq, option))) == (kind, option, want)
    finally:
        for socket in opened.values():
            socket.close()
        sockets.close()


def test_derivations() -> None:
    """Each key is BLAKE2b of what its row says, as the vectors have it."""
    vectors = json.loads(FILE.read_text(encoding="utf-8"))["keys"]
    names = {"gate, secret": "gate_secret", "client, secret": "client_secret", "outbox, secret": "outbox_secret"}
    for vector in vectors:
        known = {
            "": b"",
            "`F`": vector.get("fabric", "").encode(),
            "`K`": bytes.fromhex(vector.get("secret", "")),
            "`N`": bytes.fromhex(vector.get("key", "")),
            "client, public": bytes.fromhex(vector.get("client_public", "")),
        }
        found = {}
        for name, data, key, person, size in table("name | data | key"):
            digest = hashlib.blake2b(
                known[data], key=known[key], person=person.strip("`").encode(), digest_size=int(size)
            )
            found[names.get(name, name.replace(" ", "_"))] = digest.hexdigest()
        derived = {name: vector[name] for name in found if name in vector}
        assert derived == {name: found[name] for name in derived}
        assert len(derived) == 3


def test_answers_of_zap() -> None:
    """The rows of the table, given by a handler that admits one node and knows one."""
    secret, keys = new_secret(bytes(32)), [NodeKey(bytes([n]) * 32, curve_public) for n in range(3)]
    gate, ids = Gate(secret, "default"), [key.node_id for key in keys]
    curve = Curve(keys[0], [gate], Access(key_ids=frozenset({gate.key_id}), allow=frozenset({ids[1]})))

    def answer(domain: str, mechanism: bytes, *credentials: bytes) -> list[str]:
        request = [b"1.0", b"1", domain.encode(), b"", b"", mechanism, *credentials]
        answered = curve.answer(request, lambda node_id: node_id == ids[1])
        return [answered[2].decode(), answered[4].decode()]

    given = [
        [domain, *answer(domain.replace("KEYID", gate.key_id), mechanism, *credentials)]
        for domain, mechanism, *credentials in (
            ("in:KEYID", b"CURVE", keys[1].client_public),
            ("in:KEYID", b"CURVE", keys[2].client_public),
            ("out", b"CURVE", keys[1].client_public),
            ("out", b"CURVE", keys[2].client_public),
            ("ipc", b"NULL"),
        )
    ]
    shown = {"KEYID": gate.key_id, "NODE_ID": ids[1], "empty": "", "`": ""}
    rows = []
    for domain, _, status, user in table("domain | who"):
        for name, value in shown.items():
            user = user.replace(name, value)
        rows.append([domain.strip("`"), status, user])
    assert given == rows


def test_announcements() -> None:
    """The keys of a file of the registry, and of the mDNS record."""
    announced = Announcement(
        node_id="a", epoch=1, name="n", fabric="f", host="h-h", inbox=("tcp://127.0.0.1:1",), outbox=()
    )
    discovery = section("16. Discovery")
    _, registry, record = [rows[1:] for rows in tables(discovery)]
    assert [row[0].strip("`") for row in registry] == list(msgspec.to_builtins(announced))
    written = {}
    for key in (AnnounceKey("a1b2c3d4", bytes(32)), None):
        data = write_txt(msgspec.structs.replace(announced, digest=b"d", passes_on=True), key, ["127.0.0.1"])
        assert data is not None
        info = ServiceInfo("_a._tcp.local.", "a._a._tcp.local.", properties=data)
        written[key is None] = [name.decode() for name in info.properties]
    keys = [row[0].strip("`") for row in record]
    assert written == {False: [k for k in keys if k != "f"], True: [k for k in keys if k != "mac"]}
