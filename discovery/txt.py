"""TXT record of a node in multicast DNS: its items, their proof, and the limits of what strangers may send.

    v=2 k=KEYID id=NODE_ID e=EPOCH n=VERSION in=7700,7702 out=7701 a=10.0.0.5,fd00::1 h=HOST [d=DIGEST] [p=1] mac=MAC

No name, no fabric and no queue or topic is in it: everybody on the network reads it. `mac` is BLAKE2b, keyed with the
announce key of the secret, over the items before it as they stand, joined by line feeds. In the clear `k` is `-`, `f`
stands for the fabric, and there is no `mac`. PROTOCOL.md, section 16.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from peerfabric.discovery.base import ENDPOINTS_MAX, AnnounceKey, Announcement

TXT_VERSION: Final = "2"

TXT_BYTES_MAX: Final = 400
"""All items but `d` and `p`, with their length bytes: some ten of such records go into one packet."""

DIGEST_BYTES_MAX: Final = 128
"""The largest digest in a record; a larger one is left out, which means that the node may match anything."""

ADDRESSES_MAX: Final = 8
PORTS_MAX: Final = 4
"""Ports of one socket."""

CLEAR: Final = "-"
"""In place of a key id: the node talks in the clear."""

_ITEM_BYTES_MAX: Final = 255
_MAC_BYTES: Final = 16
_RECORD_BYTES_MAX: Final = TXT_BYTES_MAX + 1 + len("d=") + (DIGEST_BYTES_MAX * 4 + 2) // 3 + 1 + len("p=1")

_KEY_ID = re.compile(r"[0-9a-f]{8}|-", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


class NotARecord(ValueError):
    """What the record of a node cannot be."""


class OtherVersion(NotARecord):
    """A record of another version of this protocol."""


class Record(NamedTuple):
    """What a TXT record says, which may be a lie: see `is_proven_by`."""

    key_id: str
    fabric_tag: str
    """In the clear `fabric_tag` of its fabric, or empty if it does not say; empty with a key."""
    announcement: Announcement
    """Without a name; its fabric is the one that the reader gave."""
    signed: bytes
    mac: bytes

    def is_proven_by(self, key: AnnounceKey) -> bool:
        """Whether a node that knows the secret wrote this."""
        return key.key_id == self.key_id and hmac.compare_digest(self.mac, _mac(key, self.signed))


def instance_label(announcement: Announcement, key_id: str) -> str:
    """The name of the service instance, and of its host: one for each life and secret, so nobody else has it."""
    text = f"{announcement.node_id} {announcement.epoch} {key_id}"
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def fabric_tag(fabric: str) -> str:
    """Tells fabrics apart in the clear, where no key does; 8 characters."""
    return hashlib.blake2b(fabric.encode(), person=b"pf1 fabric", digest_size=4).hexdigest()


def write_txt(announcement: Announcement, key: AnnounceKey | None, addresses: Iterable[str]) -> bytes | None:
    """The record of a node under one of its secrets, None: in the clear; None if it has no tcp inbox or no address.

    Addresses are left out from the end until the record fits.
    """
    inbox, outbox = tcp_ports(announcement.inbox), tcp_ports(announcement.outbox)
    hosts = list(dict.fromkeys(addresses))[:ADDRESSES_MAX]
    if not inbox or not hosts:
        return None
    digest = announcement.digest
    while hosts:
        items = [
            f"v={TXT_VERSION}",
            f"k={key.key_id if key is not None else CLEAR}",
            *([] if key is not None else [f"f={fabric_tag(announcement.fabric)}"]),
            f"id={announcement.node_id}",
            f"e={announcement.epoch}",
            f"n={announcement.version}",
            f"in={','.join(map(str, inbox))}",
            f"out={','.join(map(str, outbox))}",
            f"a={','.join(hosts)}",
            f"h={announcement.host}",
        ]
        size = sum(1 + len(item.encode()) for item in items) + (1 + len("mac=") + 22 if key is not None else 0)
        if size <= TXT_BYTES_MAX and len(items[-2].encode()) <= _ITEM_BYTES_MAX:
            break
        hosts.pop()
    else:
        return None
    if digest is not None and len(digest) <= DIGEST_BYTES_MAX:
        items.append(f"d={_encoded(digest)}")
    if announcement.passes_on:
        items.append("p=1")
    if key is not None:
        items.append(f"mac={_encoded(_mac(key, _joined(items)))}")
    return b"".join(bytes([len(item.encode())]) + item.encode() for item in items)


def read_txt(data: bytes, fabric: str) -> Record:
    """Take a record apart; nothing in it is proven yet.

    Args:
        data: The record as it came.
        fabric: Stands in the announcement, as the record names none.

    Raises:
        OtherVersion: It is of another version.
        NotARecord: It is not written as above. Items that are not known are taken as they are.
    """
    items = _split(data)
    values: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or name in values:
            raise NotARecord(f"item {item[:20]!r}")
        values[name] = value
    if values.get("v") != TXT_VERSION:
        raise OtherVersion(f"version {values.get('v', '')[:20]!r}")
    key_id = _need(values, "k")
    if _KEY_ID.fullmatch(key_id) is None:
        raise NotARecord("k")
    mac = b""
    if key_id != CLEAR:
        if not items[-1].startswith("mac="):
            raise NotARecord("its last item is not its mac")
        mac = _decoded("mac", items.pop()[len("mac=") :], _MAC_BYTES)
        if len(mac) != _MAC_BYTES:
            raise NotARecord("mac")
    hosts = _addresses(_need(values, "a"))
    try:
        announcement = msgspec.convert(
            {
                "node_id": _need(values, "id"),
                "epoch": _number(values, "e"),
                "name": "",
                "fabric": fabric,
                "host": _need(values, "h"),
                "inbox": _endpoints(hosts, _ports(values, "in", least=1)),
                "outbox": _endpoints(hosts, _ports(values, "out", least=0)),
                "version": _number(values, "n"),
                "passes_on": values.get("p") == "1",
            },
            Announcement,
        )
    except msgspec.ValidationError as error:
        raise NotARecord(str(error)) from None
    if "d" in values:
        announcement = msgspec.structs.replace(announcement, digest=_decoded("d", values["d"], DIGEST_BYTES_MAX))
    tag = values.get("f", "") if key_id == CLEAR else ""
    return Record(key_id, tag, announcement, _joined(items), mac)


def tcp_ports(endpoints: Iterable[str]) -> list[int]:
    """The tcp ports of some endpoints, each once."""
    ports = dict.fromkeys(int(one.rpartition(":")[2]) for one in endpoints if one.startswith("tcp://"))
    return list(ports)[:PORTS_MAX]


def tcp_addresses(endpoints: Iterable[str]) -> list[str]:
    """The numeric addresses of some tcp endpoints, each once, without scope."""
    found: dict[str, None] = {}
    for endpoint in endpoints:
        if endpoint.startswith("tcp://"):
            host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]").partition("%")[0]
            try:
                found[str(ipaddress.ip_address(host))] = None
            except ValueError:
                continue
    return list(found)


def _mac(key: AnnounceKey, signed: bytes) -> bytes:
    return hashlib.blake2b(signed, key=key.key, digest_size=_MAC_BYTES).digest()


def _joined(items: list[str]) -> bytes:
    return "\n".join(items).encode()


def _split(data: bytes) -> list[str]:
    if not 0 < len(data) <= _RECORD_BYTES_MAX:
        raise NotARecord(f"{len(data)} bytes")
    items, at = [], 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data) or end == at + 1:
            raise NotARecord("an item is empty or cut")
        try:
            items.append(data[at + 1 : end].decode())
        except UnicodeDecodeError:
            raise NotARecord("an item is not UTF-8") from None
        if "\n" in items[-1]:
            raise NotARecord("an item has two lines")  # two records could be one to the mac
        at = end
    return items


def _need(values: dict[str, str], name: str) -> str:
    try:
        return values[name]
    except KeyError:
        raise NotARecord(f"no {name}") from None


def _number(values: dict[str, str], name: str) -> int:
    text = _need(values, name)
    if _NUMBER.fullmatch(text) is None:
        raise NotARecord(name)
    return int(text)


def _ports(values: dict[str, str], name: str, *, least: int) -> list[int]:
    text = _need(values, name)
    texts = text.split(",") if text else []
    if not least <= len(texts) <= PORTS_MAX:
        raise NotARecord(name)
    if not all(_PORT.fullmatch(port) and int(port) <= 65535 for port in texts):
        raise NotARecord(name)
    return [int(port) for port in texts]


def _addresses(text: str) -> list[str]:
    texts = text.split(",")
    if len(texts) > ADDRESSES_MAX:
        raise NotARecord("a")
    found = []
    for each in texts:
        try:
            address = ipaddress.ip_address(each.partition("%")[0])  # a scope is the sender's own
        except ValueError:
            raise NotARecord("a") from None
        if address.version == 6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.is_unspecified or address.is_multicast:
            raise NotARecord("a")
        found.append(f"[{address}]" if address.version == 6 else str(address))
    return found


def _endpoints(hosts: list[str], ports: list[int]) -> tuple[str, ...]:
    return tuple(f"tcp://{host}:{port}" for host in hosts for port in ports)[:ENDPOINTS_MAX]


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(name: str, text: str, bytes_max: int) -> bytes:
    if len(text) > (bytes_max * 4 + 2) // 3:
        raise NotARecord(name)
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise NotARecord(name) from None
    if _encoded(data) != text:  # one way to write each value
        raise NotARecord(name)
    return data
