"""Where nodes may be reached, and when they are dialled again."""

from __future__ import annotations

from math import inf
from random import Random

import msgspec
import pytest

from peerfabric.link.addresses import REDIAL_MAX, RETRIES_MAX, RETRY_MAX, Addresses
from peerfabric.wire.frames import Address


def address(node_id: str = "n", life: int = 5) -> Address:
    return Address(node_id, life << 20, node_id, "h", [f"tcp://{node_id}:1"], [])


@pytest.fixture
def addresses() -> Addresses:
    return Addresses(3, Random(1))


def test_news_of_an_earlier_life_is_stale(addresses: Addresses) -> None:
    """The counter in the epoch decides; the same life may move."""
    addresses.put(address(life=5))
    assert addresses.is_stale(address(life=4))
    assert not addresses.is_stale(address(life=5))
    assert not addresses.is_stale(address(life=6))
    assert not addresses.is_stale(address("other", life=1))


def test_what_a_node_says_of_itself_does_not_replace_what_discovery_says(addresses: Addresses) -> None:
    """Nor is it kept if there is no room."""
    addresses.put(address(life=5))
    addresses.met(address(life=4))
    assert addresses.get("n") == address(life=5)
    for name in ("a", "b", "c"):
        addresses.met(address(name))
    assert ["n" in addresses, "a" in addresses, "b" in addresses, "c" in addresses] == [True, True, True, False]
    assert (addresses.has_room("a"), addresses.has_room("c")) == (True, False)


def test_what_a_node_of_our_host_says_of_itself_counts(addresses: Addresses) -> None:
    """Its endpoints mean the same to us, and it knows them first; but no earlier life speaks for a later one."""
    moved = msgspec.structs.replace(address(life=5), inbox=["ipc:///elsewhere"])
    addresses.put(address(life=5))
    addresses.met(moved, same_host=True)
    assert addresses.get("n") == moved
    addresses.met(address(life=4), same_host=True)
    assert addresses.get("n") == moved


@pytest.mark.parametrize("how", ["unreachable", "given_up"])
def test_waits_grow_until_nobody_believes_in_the_node(addresses: Addresses, how: str) -> None:
    """By doubling, within a quarter more or less; then only news of it count."""
    most = REDIAL_MAX if how == "unreachable" else RETRY_MAX
    addresses.put(address())
    now, waits = 100.0, []
    for _ in range(RETRIES_MAX):
        at = getattr(addresses, how)("n", now)
        assert addresses.deadline() == at
        assert addresses.take_due_nodes(at - 0.001) == []
        assert addresses.take_due_nodes(at) == ["n"]
        assert addresses.take_due_nodes(at + 1000.0) == [], "it is dialled once"
        waits.append(at - now)
        now = at
    first = waits[0]
    assert waits[1] > 1.2 * first
    assert all(0.75 * most <= wait <= 1.25 * most for wait in waits[6:])
    assert getattr(addresses, how)("n", now) == inf
    assert "n" not in addresses
    assert addresses.deadline() == inf


def test_a_node_that_answered_is_waited_for_anew(addresses: Addresses) -> None:
    """If it is lost again, the first attempt follows soon."""
    addresses.put(address())
    for now in (0.0, 10.0, 20.0, 40.0):
        addresses.given_up("n", now)
    addresses.stop_retrying("n")
    assert addresses.given_up("n", 100.0) <= 102.5


def test_who_was_never_known_is_not_retried(addresses: Addresses) -> None:
    """It came to us; we cannot go to it."""
    assert addresses.given_up("n", 0.0) == inf


def test_a_candidate_is_dialled_until_its_node_is_met(addresses: Addresses) -> None:
    """And again, at once, when that node is not linked any more, with short waits."""
    assert addresses.add_candidate("tcp://x:1", 1.0)
    assert not addresses.add_candidate("tcp://x:1", 2.0)
    assert addresses.take_due_candidates(0.5, ()) == []
    assert addresses.take_due_candidates(1.0, ()) == ["tcp://x:1"]
    assert addresses.take_due_candidates(9.0, ()) == [], "it is dialled once"
    for now in (10.0, 20.0, 30.0, 40.0):
        at = addresses.candidate_unreachable("tcp://x:1", now)
        assert (addresses.deadline(), addresses.take_due_candidates(at, ())) == (at, ["tcp://x:1"])
    addresses.candidate_leads_to("tcp://x:1", "n")
    assert addresses.take_due_candidates(60.0, {"n"}) == []
    assert addresses.take_due_candidates(60.0, ()) == ["tcp://x:1"]
    assert addresses.candidate_unreachable("tcp://x:1", 60.0) <= 60.0 + 0.5 * 1.25


def test_a_candidate_with_nothing_in_common_is_left_alone(addresses: Addresses) -> None:
    """Until a link with its node began and ended for another reason."""
    addresses.add_candidate("tcp://x:1", 0.0)
    addresses.take_due_candidates(0.0, ())
    addresses.candidate_leads_to("tcp://x:1", "n")
    addresses.parted("n")
    assert addresses.take_due_candidates(10.0, ()) == []
    addresses.dialled("n")
    assert addresses.take_due_candidates(20.0, ()) == ["tcp://x:1"]


def test_candidates_that_lead_nowhere(addresses: Addresses) -> None:
    """To ourselves: never again. To somebody who does not answer: later."""
    for endpoint in ("tcp://us:1", "tcp://silent:1"):
        addresses.add_candidate(endpoint, 0.0)
    addresses.take_due_candidates(0.0, ())
    addresses.candidate_useless("tcp://us:1")
    addresses.candidate_silent("tcp://silent:1", 5.0)
    assert 6.5 <= addresses.deadline() <= 7.5
    assert addresses.take_due_candidates(1000.0, ()) == ["tcp://silent:1"]


def test_news_of_a_node_ends_its_retries(addresses: Addresses) -> None:
    """It is dialled at once, and waits begin anew; nothing is left of one that nobody knows any more."""
    addresses.put(address())
    for now in (0.0, 10.0, 20.0):
        addresses.given_up("n", now)
    addresses.put(address(life=6))
    assert (addresses.deadline(), addresses.take_due_nodes(1000.0)) == (inf, [])
    addresses.given_up("n", 100.0)
    addresses.forget("n")
    assert (addresses.deadline(), addresses.take_due_nodes(1000.0)) == (inf, [])


def test_so_many_with_nothing_in_common_are_remembered(addresses: Addresses) -> None:
    """The oldest of more is asked once more: nodes that come and go for ever must not fill the memory."""
    for name in "abcd":
        addresses.add_candidate(f"tcp://{name}:1", 0.0)
        addresses.candidate_leads_to(f"tcp://{name}:1", name)
    addresses.take_due_candidates(0.0, "abcd")
    for name in "abcd":
        addresses.parted(name)
    assert addresses.take_due_candidates(1.0, ()) == ["tcp://a:1"]
