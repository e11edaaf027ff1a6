"""Digest of interest: a keyed Bloom filter over what a node uses, small enough to be told to everybody.

A node announces the digest of its own interest and tests what it uses itself against those of others. Where the test
says no, the two have nothing in common for certain; where it says yes, they have, or in a few of a hundred cases they
find by a link that they have not. Without the key a digest tells nothing but about how many names are in it.

    role            is in the digest as             looks for
    produces q      "p" q                           "c" q
    consumes q      "c" q                           "p" q
    publishes t     "t" t, "w" and each prefix      "s" t, "x" and each prefix
    subscribes t    "s" t                           "t" t
    subscribes *    "x" and its prefix              "w" and its prefix
    serves s        "v" s                           "a" s
    calls s         "a" s                           "v" s

The prefixes of a topic are its leading parts, each with its dot: none of a.b.c, "a." and "a.b."; that of a pattern is
what stands before its first wildcard.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from peerfabric.names import is_wildcard

CLEAR_KEY: Final = b"peerfabric digest"
"""The key of a fabric without a secret: anybody can test names against its digests."""
BITS_OF_NAME: Final = 8
"""Bits that each entry sets."""
BYTES_OF_NAME: Final = 2
FILTER_BYTES_MIN: Final = 16
"""For few names the filter is larger than they need, as more of the tests are about them."""
FILTER_BYTES_MAX: Final = 2048
ENTRIES_MAX: Final = FILTER_BYTES_MAX // BYTES_OF_NAME
"""A node with more of them announces no digest."""

ROLES: Final = ("produces", "consumes", "publishes", "subscribes", "serves", "calls")

Entry = str
"""A letter for the role, and a name or a prefix."""
Positions = tuple[int, ...]

_unpack: Final = struct.Struct(f">{BITS_OF_NAME}H").unpack


def positions(entry: Entry, key: bytes) -> Positions:
    """The numbers that, modulo the bits of a digest, name the bits of `entry`."""
    return _unpack(hashlib.blake2b(entry.encode(), key=key, digest_size=2 * BITS_OF_NAME).digest())


def make(hashed: Iterable[Positions], count: int) -> bytes | None:
    """The digest of `count` entries; None if they are too many to tell apart from anything."""
    if count > ENTRIES_MAX:
        return None
    if not count:
        return b""
    digest = bytearray(max(FILTER_BYTES_MIN, BYTES_OF_NAME * count))
    bits = 8 * len(digest)
    for each in hashed:
        for position in each:
            at = position % bits
            digest[at >> 3] |= 1 << (at & 7)
    return bytes(digest)


def has(digest: bytes, hashed: Positions) -> bool:
    """Whether the entry may be in `digest`."""
    bits = 8 * len(digest)
    for position in hashed:
        at = position % bits
        if not digest[at >> 3] >> (at & 7) & 1:
            return False
    return bool(digest)


def _prefixes(topic: str) -> list[str]:
    parts = topic.split(".")
    return ["".join(f"{part}." for part in parts[:at]) for at in range(len(parts))]


def _fixed(pattern: str) -> str:
    """What stands before the first wildcard of `pattern`."""
    return pattern[: min(at for at in (pattern.find("*"), pattern.find(">")) if at >= 0)]


def told(role: str, name: str) -> list[Entry]:
    """What a name is in the digest of its node. `role` is one of ROLES."""
    match role:
        case "produces":
            return ["p" + name]
        case "consumes":
            return ["c" + name]
        case "serves":
            return ["v" + name]
        case "calls":
            return ["a" + name]
        case "publishes":
            return ["t" + name, *("w" + prefix for prefix in _prefixes(name))]
        case _:
            return ["x" + _fixed(name)] if is_wildcard(name) else ["s" + name]


_OTHER_END: Final = str.maketrans("pctwsxva", "cpsxtwav")


def other_end(entry: Entry) -> Entry:
    """What is looked for in the digests of others by a node that has `entry` in its own."""
    return entry[0].translate(_OTHER_END) + entry[1:]


class OwnDigest:
    """What this node uses: its digest, and the test against those of others. Hashes of names are kept.

    With several keys, while secrets are changed, others may know any one of them: then there is no digest that all can
    read, and those of others are read under each key.

    Args:
        keys: Of the fabric's secrets, up to 64 bytes each; none stands for CLEAR_KEY.
    """

    # the entries are those of all names, and each is counted once for every name that gives it

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._keys = tuple(keys) or (CLEAR_KEY,)
        self._names: set[tuple[str, str]] = set()
        self._counts: Counter[Entry] = Counter()
        self._told: dict[Entry, Positions] = {}
        self._sought: dict[Entry, list[Positions]] = {}
        self._fresh: dict[Entry, list[Positions]] = {}
        self.digest: bytes | None = b""

    def rekey(self, keys: Sequence[bytes]) -> None:
        """Hash everything anew. Digests that were made under another key match by chance only."""
        names, self._keys = self._names, tuple(keys) or (CLEAR_KEY,)
        self._names = set()
        for each in (self._counts, self._told, self._sought):
            each.clear()
        self._take(names)

    def update(self, *names: Iterable[str]) -> None:
        """The node uses these from now on, in the order of ROLES; what is absent, not at all."""
        self._take({(role, name) for role, each in zip(ROLES, names, strict=False) for name in each})

    def _take(self, names: set[tuple[str, str]]) -> None:
        come, gone = names - self._names, self._names - names
        self._names, self._fresh = names, {}
        for role, name in gone:
            for entry in told(role, name):
                self._counts[entry] -= 1
                if not self._counts[entry]:
                    del self._counts[entry], self._told[entry], self._sought[other_end(entry)]
        for role, name in come:
            for entry in told(role, name):
                self._counts[entry] += 1
                if entry not in self._told:
                    self._add(entry)
        several = len(self._keys) > 1 and self._told
        self.digest = None if several else make(self._told.values(), len(self._told))

    def _add(self, entry: Entry) -> None:
        search = other_end(entry)
        self._told[entry] = positions(entry, self._keys[0])
        self._sought[search] = self._fresh[search] = [positions(search, key) for key in self._keys]

    def may_match(self, digest: bytes | None) -> bool:
        """Whether a node with `digest` may have something in common with this one."""
        return digest is None or _any_in(digest, self._sought)

    def may_match_fresh(self, digest: bytes | None) -> bool:
        """The same, for what was not looked for before the last `update`."""
        return _any_in(digest, self._fresh) if digest is not None else bool(self._fresh)

    def uses(self, role: str, name: str) -> bool:
        """Whether this node uses `name` so."""
        return (role, name) in self._names

    def may_have(self, digest: bytes | None, entry: Entry) -> bool:
        """Whether a node with `digest` may have `entry` in it, whatever this one uses."""
        return digest is None or (bool(digest) and any(has(digest, positions(entry, key)) for key in self._keys))

    def check(self) -> None:
        """Assert the invariants."""
        entries = {entry for role, name in self._names for entry in told(role, name)}
        assert self._counts.keys() == self._told.keys() == entries
        assert self._sought.keys() == {other_end(entry) for entry in entries}
        assert self._fresh.keys() <= self._sought.keys()


def _any_in(digest: bytes, entries: dict[Entry, list[Positions]]) -> bool:
    return bool(digest) and any(has(digest, each) for under_keys in entries.values() for each in under_keys)


__all__ = ["OwnDigest", "has", "make", "other_end", "positions", "told"]
