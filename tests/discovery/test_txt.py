"""TXT records: what is written is read, what is proven, and that any bytes give a record or a documented error."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerfabric.discovery.base import AnnounceKey, Announcement
from peerfabric.discovery.txt import (
    DIGEST_BYTES_MAX,
    TXT_BYTES_MAX,
    NotARecord,
    OtherVersion,
    fabric_tag,
    instance_label,
    read_txt,
    tcp_addresses,
    write_txt,
)
from tests.discovery.conftest import announcement_for
from tests.vectors.make import FILE

KEY = AnnounceKey("a1b2c3d4", bytes(range(32)))
OTHER = AnnounceKey("a1b2c3d4", bytes(32))


def items_of(data: bytes) -> list[str]:
    items = []
    while data:
        items.append(data[1 : 1 + data[0]].decode())
        data = data[1 + data[0] :]
    return items


def packed(items: list[str]) -> bytes:
    return b"".join(bytes([len(item.encode())]) + item.encode() for item in items)


def written(announcement: Announcement, key: AnnounceKey | None = KEY, addresses: Any = ("10.0.0.5",)) -> bytes:
    data = write_txt(announcement, key, addresses)
    assert data is not None
    return data


def example(**changes: Any) -> Announcement:
    fields = {
        "node_id": "0123456789abcdef0123456789abcdef",
        "epoch": 7 << 20,
        "name": "kitchen",
        "host": "n-m",
        "inbox": ("ipc:///a", "tcp://10.0.0.5:7700", "tcp://[fd00::1]:7700", "tcp://10.0.0.5:7702"),
        "outbox": ("tcp://10.0.0.5:7701", "tcp://[fd00::1]:7701"),
        "version": 3,
    }
    return announcement_for(**{**fields, **changes})


def test_a_record_byte_for_byte() -> None:
    """Items in this order, and a proof over all before it; the protocol's text has the same."""
    items = items_of(written(example(digest=b"\xff\xfe"), addresses=["10.0.0.5", "fd00::1"]))
    assert items[:-1] == [
        "v=2", "k=a1b2c3d4", "id=0123456789abcdef0123456789abcdef", "e=7340032", "n=3", "in=7700,7702", "out=7701",
        "a=10.0.0.5,fd00::1", "h=n-m", "d=__4",
    ]  # fmt: skip
    mac = hashlib.blake2b("\n".join(items[:-1]).encode(), key=KEY.key, digest_size=16).digest()
    assert items[-1] == "mac=" + base64.urlsafe_b64encode(mac).decode().rstrip("=")
    assert len(items[-1]) == 4 + 22


def test_what_is_written_is_read() -> None:
    """Every port at every address, no name, and only with the right key a proof."""
    record = read_txt(written(example(digest=b""), addresses=["10.0.0.5", "fd00::1"]), "tests")
    assert record.announcement == example(
        name="",
        inbox=("tcp://10.0.0.5:7700", "tcp://10.0.0.5:7702", "tcp://[fd00::1]:7700", "tcp://[fd00::1]:7702"),
        digest=b"",
    )
    assert record.is_proven_by(KEY)
    assert not record.is_proven_by(OTHER)
    assert not record.is_proven_by(AnnounceKey("ffffffff", KEY.key))


def test_in_the_clear() -> None:
    """Without a proof; a hash tells the fabric from others."""
    items = items_of(written(example(), None))
    assert items[:3] == ["v=2", "k=-", f"f={fabric_tag('tests')}"]
    assert not any(item.startswith("mac=") for item in items)
    assert read_txt(packed(items), "tests").fabric_tag == fabric_tag("tests") != fabric_tag("others")
    assert read_txt(packed(items[:2] + items[3:]), "tests").fabric_tag == ""


def test_nothing_is_told_that_people_read() -> None:
    """Neither the name, nor the fabric, nor more of a secret than its key id."""
    for key in (KEY, None):
        text = written(example(name="payroll", fabric="salaries", digest=b"d"), key)
        assert b"payroll" not in text
        assert b"salaries" not in text
        assert KEY.key not in text
    assert repr(KEY) == "<announce key a1b2c3d4>"


def test_the_longest_fits() -> None:
    """Addresses are left out from the end."""
    v6 = [f"fd00:1234:5678:9abc:def0:1234:5678:{n:04x}" for n in range(0x1000, 0x1009)]
    longest = example(
        node_id="a" * 64, epoch=2**53 - 1, version=2**53 - 1, host="h" * 64, outbox=("tcp://a:65535",) * 9
    )
    for key in (KEY, None):
        data = written(longest, key, v6)
        assert len(data) <= TXT_BYTES_MAX
        assert 1 <= len(tcp_addresses(read_txt(data, "tests").announcement.inbox)) < 8
    record = read_txt(written(msgspec.structs.replace(longest, digest=b"d" * DIGEST_BYTES_MAX), KEY, v6), "tests")
    assert record.announcement.digest == b"d" * DIGEST_BYTES_MAX
    large = read_txt(written(example(digest=b"d" * (DIGEST_BYTES_MAX + 1))), "tests")
    assert large.announcement.digest is None


def test_nothing_to_announce() -> None:
    """Without a tcp inbox, or an address."""
    assert write_txt(example(inbox=("ipc:///a",)), KEY, ["10.0.0.5"]) is None
    assert write_txt(example(), KEY, []) is None


def test_an_instance_for_each_life_and_secret() -> None:
    """So nothing has to be probed for."""
    labels = {
        instance_label(example(epoch=epoch), key_id) for epoch in (1, 2) for key_id in ("a1b2c3d4", "ffffffff", "-")
    }
    assert len(labels) == 6
    text = b"0123456789abcdef0123456789abcdef 1 a1b2c3d4"
    assert instance_label(example(epoch=1), "a1b2c3d4") == hashlib.blake2b(text, digest_size=10).hexdigest()


def test_items_that_are_not_known() -> None:
    """Later versions may append some; they are proven with the rest."""
    items = [*items_of(written(example()))[:-1], "z=1"]
    mac = hashlib.blake2b("\n".join(items).encode(), key=KEY.key, digest_size=16).digest()
    record = read_txt(packed([*items, "mac=" + base64.urlsafe_b64encode(mac).decode().rstrip("=")]), "tests")
    assert record.is_proven_by(KEY)


def test_addresses_are_written_as_endpoints() -> None:
    """Scopes are the sender's own, and an IPv4 address is one however it is written."""
    items = items_of(written(example(), None))
    at = next(at for at, item in enumerate(items) if item.startswith("a="))
    items[at] = "a=fe80::1%eth0,::ffff:10.0.0.9"
    inbox = read_txt(packed(items), "tests").announcement.inbox
    assert inbox[::2] == ("tcp://[fe80::1]:7700", "tcp://10.0.0.9:7700")


@pytest.mark.parametrize(
    "change",
    [
        {"k": None}, {"k": "A1B2C3D4"}, {"k": "a1b2c3"}, {"id": None}, {"id": ""}, {"id": "../a"}, {"id": "a" * 65},
        {"e": "x"}, {"e": "-1"}, {"e": "01"}, {"e": str(2**53)}, {"e": "٣"}, {"n": None}, {"n": "1e3"},
        {"in": ""}, {"in": "0"}, {"in": "65536"}, {"in": "1,2,3,4,5"}, {"in": "a"}, {"in": "1,,2"}, {"out": "0"},
        {"a": ""}, {"a": "example.org"}, {"a": "0.0.0.0"}, {"a": "::"}, {"a": "224.0.0.251"}, {"a": "10.0.0.1;x"},
        {"a": ",".join(["10.0.0.1"] * 9)}, {"h": None}, {"h": "h" * 65}, {"d": "*"}, {"d": "_" * 172}, {"d": "__5"},
        {"mac": None}, {"mac": "short"}, {"mac": "A" * 23}, {"h": "two\nlines"},
    ],
)  # fmt: skip
def test_what_is_no_record(change: dict[str, str | None]) -> None:
    """Anybody on the network may send it."""
    values: dict[str, str | None] = dict.fromkeys(["v", "k"])
    values |= {name: value for name, _, value in (item.partition("=") for item in items_of(written(example())))}
    mac = values.pop("mac")
    values |= {"d": "__4", "mac": mac} | change
    with pytest.raises(NotARecord):
        read_txt(packed([f"{name}={value}" for name, value in values.items() if value is not None]), "tests")


@pytest.mark.parametrize("version", ["1", "3", ""])
def test_other_versions(version: str) -> None:
    """They are told from what cannot be read."""
    items = items_of(written(example()))
    with pytest.raises(OtherVersion):
        read_txt(packed([f"v={version}", *items[1:]]), "tests")
    with pytest.raises(OtherVersion):
        read_txt(packed(items[1:]), "tests")


def test_what_is_cut() -> None:
    """Every beginning of a record is none, and neither is one that says something twice."""
    data = written(example())
    for end in range(len(data)):
        with pytest.raises(NotARecord):
            read_txt(data[:end], "tests")
    items = items_of(data)
    with pytest.raises(NotARecord):
        read_txt(packed([*items[:-1], "n=9", items[-1]]), "tests")


@pytest.mark.parametrize(
    "vector", json.loads(FILE.read_text(encoding="utf-8"))["records"], ids=lambda each: each["name"]
)
def test_vectors_by_another_hand(vector: dict[str, Any]) -> None:
    """What they say, computed from their bytes and from the text of the protocol alone."""
    items = items_of(bytes.fromhex(vector["hex"]))
    values = dict(item.split("=", 1) for item in items)
    proven = values["k"] == "-"
    if "key_id" in vector:
        key = bytes.fromhex(vector["announce_key"])
        mac = hashlib.blake2b("\n".join(items[:-1]).encode(), key=key, digest_size=16).digest()
        proven = values["k"] == vector["key_id"] and values["mac"] == base64.urlsafe_b64encode(mac).decode()[:22]
    plain = values["v"] == "2" and len(values) == len(items) and values["a"] != "0.0.0.0"
    assert (vector["value"] is not None) is (proven and plain)
    if vector["value"] is not None:
        named = f"{values['id']} {values['e']} {values['k']}".encode()
        assert vector["instance"] == hashlib.blake2b(named, digest_size=10).hexdigest()
        hosts = [f"[{a}]" if ":" in a else a for a in values["a"].split(",")]
        ports = values["in"].split(",")
        assert vector["value"]["inbox"] == [f"tcp://{host}:{port}" for host in hosts for port in ports]
        digest = values.get("d")
        told = None if digest is None else base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
        assert vector["value"]["digest"] == told
        assert (vector["value"]["version"], vector["value"]["name"]) == (int(values["n"]), "")


numbers = st.integers(0, 2**53 - 1)
ports = st.lists(st.integers(1, 65535), min_size=1, max_size=4, unique=True)
addresses = st.lists(
    st.ip_addresses().filter(
        lambda a: not (a.is_unspecified or a.is_multicast or (a.version == 6 and a.ipv4_mapped is not None))
    ),
    min_size=1,
    max_size=8,
)
announcements = st.builds(
    lambda node_id, epoch, version, digest, host, inbox, outbox, passes_on: announcement_for(
        node_id=node_id,
        epoch=epoch,
        version=version,
        digest=digest,
        host=host,
        inbox=tuple(f"tcp://10.0.0.1:{port}" for port in inbox),
        outbox=tuple(f"tcp://10.0.0.1:{port}" for port in outbox),
        passes_on=passes_on,
    ),
    st.text("abcXYZ019-_", min_size=1, max_size=64),
    numbers,
    numbers,
    st.none() | st.binary(max_size=DIGEST_BYTES_MAX),
    st.text("0123456789abcdef-", max_size=33),
    ports,
    ports,
    st.booleans(),
)


@given(announcements, addresses, st.booleans())
def test_any_announcement_survives(announcement: Announcement, found: list[Any], in_clear: bool) -> None:
    """Whatever it is, but for its name and for addresses that did not fit."""
    data = write_txt(announcement, None if in_clear else KEY, map(str, found))
    if data is None:  # one address must fit
        assert len(str(found[0])) > 30
        return
    record = read_txt(data, "tests")
    same = {"inbox": (), "outbox": (), "name": ""}
    assert msgspec.structs.replace(record.announcement, **same) == msgspec.structs.replace(announcement, **same)
    assert in_clear or record.is_proven_by(KEY)


@settings(max_examples=500)
@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    """Give a record or `NotARecord`."""
    try:
        read_txt(data, "tests")
    except NotARecord:
        pass


@settings(max_examples=500)
@given(announcements, st.data())
def test_any_change_is_noticed(announcement: Announcement, data: st.DataObject) -> None:
    """A record with a byte changed, left out or put in is none, or is not proven."""
    good = written(announcement)
    at = data.draw(st.integers(0, len(good) - 1))
    byte = bytes([data.draw(st.integers(0, 255))])
    changed = data.draw(
        st.sampled_from([good[:at] + byte + good[at + 1 :], good[:at] + good[at + 1 :], good[:at] + byte + good[at:]])
    )
    try:
        record = read_txt(changed, "tests")
    except NotARecord:
        return
    assert changed == good or not record.is_proven_by(KEY)
