"""Digests of interest: never a false no, hardly ever a false yes, and bytes as PROTOCOL.md has them."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from peerfabric.link.control import Control
from peerfabric.link.digest import (
    CLEAR_KEY,
    ENTRIES_MAX,
    FILTER_BYTES_MAX,
    ROLES,
    OwnDigest,
    has,
    make,
    positions,
    told,
)
from peerfabric.link.interest import Interests
from peerfabric.link.links import Links
from peerfabric.wire.frames import Address, Consuming, Interest, Serving, Subscription

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "vectors.json").read_text())["digests"]


class Uses:
    """What one node uses."""

    def __init__(self, random: Random | None = None, words: str = "abc", most: int = 3) -> None:
        self.produces, self.consumes, self.publishes, self.subscribes = (set[str]() for _ in range(4))
        self.serves, self.calls = set[str](), set[str]()
        if random is not None:
            for names in self.names():
                wild = names is self.subscribes
                names.update(_name(random, words, wild=wild) for _ in range(random.randrange(most + 1)))

    def names(self) -> tuple[set[str], ...]:
        return (self.produces, self.consumes, self.publishes, self.subscribes, self.serves, self.calls)

    def own(self) -> OwnDigest:
        own = OwnDigest()
        own.update(*self.names())
        own.check()
        return own

    def interests(self) -> Interests:
        links = Links(Address("a", 1, "", "", [], []), "f", 10**6, 100, Random(1))
        interests = Interests(links, Control(links.due), [])
        interests.produces, interests.consumes = self.produces, self.consumes
        interests.publishes, interests.subscribes = self.publishes, dict.fromkeys(self.subscribes, 1)
        interests.serves, interests.calls = dict.fromkeys(self.serves, 1), self.calls
        return interests

    def frame(self) -> Interest:
        return Interest(
            bytes(8),
            1,
            0,
            1,
            [Consuming(queue, 1.0) for queue in self.consumes],
            [Subscription(pattern, 1, False) for pattern in self.subscribes],
            list(self.produces),
            list(self.publishes),
            serves=[Serving(service, 1) for service in self.serves],
            calls=list(self.calls),
        )


def _name(random: Random, words: str, *, wild: bool) -> str:
    parts = [random.choice(words) for _ in range(random.randrange(1, 4))]
    if wild:
        parts = [random.choice((part, part, "*")) for part in parts]
        if random.random() < 0.3:
            parts = [*parts[:-1], ">"]
    return ".".join(parts)


def test_what_has_something_in_common_always_may_match() -> None:
    random = Random(16)
    matched = 0
    for _ in range(3000):
        ours, theirs = Uses(random), Uses(random)
        if ours.interests().in_common(theirs.frame()):
            matched += 1
            assert ours.own().may_match(theirs.own().digest), (vars(ours), vars(theirs))
            assert theirs.own().may_match(ours.own().digest), (vars(ours), vars(theirs))
    assert 500 < matched < 2900


def test_what_has_nothing_in_common_hardly_ever_may_match() -> None:
    random = Random(17)
    false = pairs = 0
    for n in range(300):
        most = random.choice((1, 10, 20))
        ours, theirs = Uses(), Uses()
        ours.produces, ours.consumes = ({f"{role}{n}.{i}" for i in range(most)} for role in "pc")
        theirs.produces, theirs.consumes = ({f"{role}{n}.{i}" for i in range(most)} for role in "qd")
        assert not ours.interests().in_common(theirs.frame())
        pairs += 1
        false += ours.own().may_match(theirs.own().digest)
    assert false / pairs <= 0.02


@pytest.mark.parametrize("names", [1, 8, 100, 1000])
def test_a_name_that_is_not_there_is_found_in_two_of_a_hundred_at_most(names: int) -> None:
    own = Uses()
    own.produces = {f"there.{n}" for n in range(names)}
    digest = own.own().digest
    assert digest is not None
    assert len(digest) <= FILTER_BYTES_MAX
    false = sum(has(digest, positions(f"pmissing.{n}", CLEAR_KEY)) for n in range(5000))
    assert false / 5000 <= 0.02


def test_a_node_with_more_than_fit_announces_that_it_may_match_anything() -> None:
    own = Uses()
    own.produces = {str(n) for n in range(ENTRIES_MAX)}
    assert own.own().digest is not None
    own.produces.add("more")
    assert own.own().digest is None


def test_nothing_is_in_common_with_who_uses_nothing() -> None:
    one = Uses()
    one.consumes = {"q"}
    assert Uses().own().digest == b""
    assert not one.own().may_match(b"")
    assert one.own().may_match(None)
    assert Uses().own().may_match(None)
    assert not Uses().own().may_match(one.own().digest)


def test_names_that_come_and_go_leave_the_digest_that_a_new_node_has() -> None:
    random = Random(18)
    own = OwnDigest()
    for _ in range(300):
        uses = Uses(random)
        known = own.may_match
        before = Uses(random).own().digest
        seen = known(before)
        own.update(*uses.names())
        own.check()
        assert own.digest == uses.own().digest
        if own.may_match(before) and not seen:
            assert own.may_match_fresh(before), "what was not looked for before is fresh"
    own.update(*uses.names())
    assert not own.may_match_fresh(None), "nothing is fresh when nothing is new"


def test_a_digest_says_nothing_to_who_has_another_key() -> None:
    ours, theirs = OwnDigest([b"one"]), OwnDigest([b"another"])
    ours.update(["q"], [], [], [])
    theirs.update([], ["q"], [], [])
    assert not ours.may_match(theirs.digest)
    ours.rekey([b"another"])
    ours.check()
    assert ours.may_match(theirs.digest)
    assert theirs.may_match(ours.digest)


def test_while_secrets_change_all_three_kinds_of_nodes_find_each_other() -> None:
    old, both, new = OwnDigest([b"old"]), OwnDigest([b"old", b"new"]), OwnDigest([b"new"])
    for own in (old, both, new):
        own.update(["q"], ["q"], [], [])
    assert both.digest is None
    for own in (old, new):
        assert both.may_match(own.digest)
        assert own.may_match(both.digest)


def test_tests_take_some_milliseconds() -> None:
    many, one = Uses(), Uses()
    many.produces, one.consumes = {f"m{n}" for n in range(1000)}, {"q"}
    a_thousand, single, other = many.own(), one.own(), Uses()
    other.produces = {f"o{n}" for n in range(20)}
    digest = other.own().digest
    began = time.process_time()
    a_thousand.may_match(digest)
    for _ in range(2000):
        single.may_match(digest)
    assert time.process_time() - began < 0.1


def test_what_others_may_have_is_asked_for_by_entry() -> None:
    """Whatever this node uses itself; a digest of nothing has nothing, and one that is not told may have anything."""
    one, other = Uses(), Uses()
    other.consumes = {"jobs"}
    own, digest = one.own(), other.own().digest
    assert own.may_have(digest, "cjobs")
    assert not own.may_have(digest, "cbills")
    assert not own.may_have(b"", "cjobs")
    assert own.may_have(None, "cjobs")
    assert other.own().uses("consumes", "jobs")
    assert not own.uses("consumes", "jobs")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_digests_have_the_bytes_that_the_protocol_says(vector: dict[str, Any]) -> None:
    """Computed here once more, from the text of section 16."""
    key, digest = bytes.fromhex(vector["key"]), vector["hex"]
    entries = set(vector["entries"])
    size = max(16, 2 * len(entries)) if entries else 0
    bits = [0] * (8 * size)
    for entry in entries:
        hashed = hashlib.blake2b(entry.encode(), key=key, digest_size=16).digest()
        for at in range(0, 16, 2):
            bits[(256 * hashed[at] + hashed[at + 1]) % len(bits)] = 1
    expected = bytes(sum(bit << place for place, bit in enumerate(bits[8 * n : 8 * n + 8])) for n in range(size))
    assert expected.hex() == digest
    own = OwnDigest([key])
    own.update(*(vector["value"][role] for role in ROLES))
    assert own.digest == expected
    names = [(role, name) for role in ROLES for name in vector["value"][role]]
    assert {entry for role, name in names for entry in told(role, name)} == entries
    assert make([positions(entry, key) for entry in entries], len(entries)) == expected
