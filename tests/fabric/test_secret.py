"""Secrets and node keys: what is derived, what is refused, and that nothing shows them."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from peerfabric.errors import ConfigError
from peerfabric.secret import SECRET_TEXT_LENGTH, NodeKey, Secret, new_secret, node_id_of, parse_secret
from tests.vectors.make import FILE

VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["keys"]
KEY = bytes(range(32))
TEXT = new_secret(KEY).text()
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def x25519_public(secret: bytes) -> bytes:
    """RFC 7748, section 5: the point 9 times a scalar, by the Montgomery ladder."""
    p, a24 = 2**255 - 19, 121665
    scalar = int.from_bytes(secret, "little") & ~7 & (2**255 - 1) | 2**254
    x2, z2, x3, z3 = 1, 0, 9, 1
    for at in range(254, -1, -1):
        swap = scalar >> at & 1
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
        plus, minus = (x2 + z2) * (x2 + z2), (x2 - z2) * (x2 - z2)
        left, right = (x3 - z3) * (x2 + z2), (x3 + z3) * (x2 - z2)
        x3, z3 = (left + right) ** 2 % p, 9 * (left - right) ** 2 % p
        x2, z2 = plus * minus % p, (plus - minus) * (plus + a24 * (plus - minus)) % p
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def derived(person: str, data: bytes, key: bytes, size: int = 32) -> str:
    return hashlib.blake2b(data, key=key, person=person.encode(), digest_size=size).hexdigest()


def base32(data: bytes) -> str:
    bits = int.from_bytes(data, "big") << -len(data) * 8 % 5
    return "".join(ALPHABET[bits >> 5 * at & 31] for at in range((len(data) * 8 + 4) // 5 - 1, -1, -1))


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS])
def test_vectors_by_another_hand(vector: dict[str, Any]) -> None:
    """Text, keys and ids, computed here from PROTOCOL.md alone."""
    if vector["of"] == "secret":
        key, fabric = bytes.fromhex(vector["secret"]), vector["fabric"].encode()
        gate = derived("pf1 gate", fabric, key)
        expected = {
            "text": "pf1-" + base32(key + hashlib.blake2b(key, digest_size=32).digest()[:4]),
            "gate_secret": gate,
            "gate_public": x25519_public(bytes.fromhex(gate)).hex(),
            "key_id": derived("pf1 key id", fabric, key, 4),
            "announce_key": derived("pf1 announce", fabric, key),
        }
        given = {"name", "of", "secret", "fabric"}
    else:
        key = bytes.fromhex(vector["key"])
        client, outbox = derived("pf1 client", b"", key), derived("pf1 outbox", b"", key)
        public = x25519_public(bytes.fromhex(client))
        expected = {
            "client_secret": client,
            "client_public": public.hex(),
            "outbox_secret": outbox,
            "outbox_public": x25519_public(bytes.fromhex(outbox)).hex(),
            "node_id": derived("pf1 node id", public, b"", 16),
        }
        given = {"name", "of", "key"}
    assert {name: value for name, value in vector.items() if name not in given} == expected


def test_text_there_and_back() -> None:
    """What is written is read, also with the line end of a file."""
    assert len(TEXT) == SECRET_TEXT_LENGTH
    assert parse_secret(f" {TEXT}\n") == new_secret(KEY)
    assert parse_secret(TEXT).text() == TEXT


def mistyped() -> list[str]:
    """The text with one character replaced by the next one, at each place behind the prefix."""
    after = dict(zip(ALPHABET, ALPHABET[1:] + ALPHABET[:1], strict=True))
    return [TEXT[:at] + after[TEXT[at]] + TEXT[at + 1 :] for at in range(4, len(TEXT))]


REFUSED = [
    "", "pf1-", "insecure", "correct horse battery staple", "pf1-correct horse battery staple", TEXT[:-1], TEXT + "a",
    TEXT.upper(), "pf1-" + TEXT[4:].upper(), "pf2-" + TEXT[4:], TEXT[:30] + " " + TEXT[31:], TEXT[:-1] + "=",
    TEXT[:30] + "\n" + TEXT[30:], TEXT[:-1] + "1", TEXT[:-1] + "ä", TEXT[:-1] + "\0", f'"{TEXT}"', KEY.hex(),
    *mistyped(),
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused_and_not_repeated(text: str) -> None:
    """No phrase and no piece of a secret is shown, also not by what the error came from."""
    with pytest.raises(ConfigError) as caught:
        parse_secret(text)
    said = "".join(traceback.format_exception(caught.value))
    for at in range(4, len(text) - 8):
        if text[at : at + 8].strip():
            assert text[at : at + 8] not in said


def test_keys_of_another_length_are_refused() -> None:
    """So no file that is cut off becomes a weak key."""
    for size in (0, 31, 33, 64):
        with pytest.raises(ConfigError, match=f"not {size}"):
            Secret(bytes(size))
        with pytest.raises(ConfigError, match=f"not {size}"):
            NodeKey(bytes(size), x25519_public)


@pytest.mark.parametrize("make", [lambda: new_secret(KEY), lambda: NodeKey(KEY, x25519_public)], ids=["secret", "node"])
def test_no_key_leaves_its_object(make: Callable[[], Any]) -> None:
    """Not as a text, and not as a copy."""
    hidden = make()
    shown = f"{hidden} {hidden!r} {hidden!s} {[hidden]} {hidden.__class__.__doc__}"
    for told in (KEY.hex(), repr(KEY)[2:-1], TEXT, TEXT[4:20], KEY.hex()[:16]):
        assert told not in shown
    assert not hasattr(hidden, "__dict__")
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied or pickled") as caught:
            take(hidden)
        assert KEY.hex()[:16] not in str(caught.value)


def test_repr_names_the_public_part() -> None:
    """What a log may say: the key ids, once somebody asked for them, and the node id."""
    secret, node = new_secret(KEY), NodeKey(KEY, x25519_public)
    assert repr(secret) == "<secret>"
    key_id = secret.key_id("default")
    assert repr(secret) == str(secret) == f"<secret {key_id}>"
    assert repr(node) == f"<key of node {node.node_id}>"
    assert node.node_id == node_id_of(node.client_public)
    assert node.reveal() == KEY


def test_equal_secrets() -> None:
    """The same secret given twice can be told."""
    assert {new_secret(KEY), new_secret(bytes(bytearray(KEY)))} == {parse_secret(TEXT)}
    assert new_secret(KEY) != new_secret(bytes(32))
    assert new_secret(KEY) != KEY
