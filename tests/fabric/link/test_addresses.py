"""Where nodes may be reached, and when they are dialled again."""

from __future__ import annotations

from math import inf
from random import Random

import msgspec
import pytest

from peerfabric.link.addresses import MET_LATELY, REDIAL_MAX, RETRIES_MAX, Addresses
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


def test_what_a_node_says_of_itself_comes_first(addresses: Addresses) -> None:
    """What discovery says is tried besides; but no earlier life, and no earlier news of one life, counts."""
    addresses.put(address(life=5))
    addresses.met(address(life=4), 0.0)
    assert addresses.get("n") == address(life=5)
    moved = msgspec.structs.replace(address(life=5), inbox=["ipc:///elsewhere"], version=3)
    addresses.met(moved, 0.0)
    both = msgspec.structs.replace(moved, inbox=["ipc:///elsewhere", "tcp://n:1"])
    assert addresses.get("n") == both
    addresses.met(address(life=5), 0.0)
    assert addresses.get("n") == both
    assert addresses.is_stale(msgspec.structs.replace(moved, version=2))
    assert not addresses.is_stale(msgspec.structs.replace(moved, version=4))
    addresses.put(msgspec.structs.replace(moved, version=4, inbox=["tcp://n:9"]))
    later = addresses.get("n")
    assert later is not None
    assert later.inbox == ["tcp://n:9", "ipc:///elsewhere"], "later news of it come first"


def test_where_an_earlier_life_was_seen_means_nothing_to_the_next(addresses: Addresses) -> None:
    """Another process, on another host perhaps."""
    addresses.met(address(life=5), 0.0, "10.0.0.1")
    addresses.met(address(life=5), 1.0)
    assert addresses.observed("n", 5 << 20) == "10.0.0.1"
    addresses.met(address(life=6), 2.0)
    assert addresses.observed("n", 6 << 20) == ""


def test_a_table_that_is_full_takes_no_more(addresses: Addresses) -> None:
    """Those that are known may still say more."""
    for name in ("a", "b", "c", "d"):
        addresses.met(address(name), 0.0)
    assert ["a" in addresses, "c" in addresses, "d" in addresses] == [True, True, False]
    assert (addresses.has_room("a"), addresses.has_room("d")) == (True, False)


def test_a_node_of_another_host_that_was_met_lately_is_not_forgotten(addresses: Addresses) -> None:
    """A forged goodbye of mDNS, or its cache, proves nothing."""
    addresses.put(address())
    addresses.met(address(), 100.0)
    addresses.lost("n", 100.0 + MET_LATELY - 1.0, patient=True)
    assert "n" in addresses
    addresses.lost("n", 100.0 + MET_LATELY + 1.0, patient=True)
    assert "n" not in addresses
    addresses.put(address())
    addresses.met(address(), 1000.0)
    addresses.lost("n", 1000.0, patient=False)
    assert "n" not in addresses


def test_who_vanished_is_sought_often_for_ten_minutes(addresses: Addresses) -> None:
    """Then ever more seldom; for ever, as long as discovery names it."""
    addresses.put(address())
    waits: list[float] = []
    now = 0.0
    while now < 3000.0:
        at = addresses.given_up("n", now) if not waits else addresses.unreachable("n", now)
        waits.append(at - now)
        now = at
        assert addresses.take_due_nodes(now) == ["n"]
    often = [wait for wait in waits if wait <= 2.5]
    assert 240 <= len(often) <= 400
    assert all(22.5 <= wait <= 37.5 for wait in waits[-20:])
    assert sum(1 for wait in waits if wait > 2.5) > RETRIES_MAX


def test_who_does_not_let_us_in_is_asked_seldom(addresses: Addresses) -> None:
    """Somebody may change that."""
    addresses.put(address())
    assert 22.5 <= addresses.unwelcome("n", 0.0) <= 37.5


def test_waits_grow_until_nobody_believes_in_the_node(addresses: Addresses) -> None:
    """By doubling, within a quarter more or less; then only news of it count, unless discovery names it."""
    addresses.met(address(), 0.0)
    now, waits = 100.0, []
    for _ in range(RETRIES_MAX):
        at = addresses.unreachable("n", now)
        assert addresses.deadline() == at
        assert addresses.take_due_nodes(at - 0.001) == []
        assert addresses.take_due_nodes(at) == ["n"]
        assert addresses.take_due_nodes(at + 1000.0) == [], "it is dialled once"
        waits.append(at - now)
        now = at
    first = waits[0]
    assert waits[1] > 1.2 * first
    assert all(0.75 * REDIAL_MAX <= wait <= 1.25 * REDIAL_MAX for wait in waits[6:])
    assert addresses.unreachable("n", now) == inf
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


def test_a_candidate_that_nobody_proposes_any_more(addresses: Addresses) -> None:
    """It is not dialled again, whatever is still heard of it, and may be proposed anew."""
    addresses.add_candidate("tcp://x:1", 0.0)
    addresses.take_due_candidates(0.0, ())
    addresses.candidate_leads_to("tcp://x:1", "n")
    addresses.withdraw_candidate("tcp://x:1")
    addresses.withdraw_candidate("tcp://y:1")
    assert addresses.candidate_unreachable("tcp://x:1", 1.0) == inf
    addresses.candidate_silent("tcp://x:1", 1.0)
    addresses.candidate_leads_to("tcp://x:1", "n")
    assert addresses.take_due_candidates(60.0, ()) == []
    assert list(addresses.unanswered(())) == []
    assert addresses.add_candidate("tcp://x:1", 60.0)
    assert addresses.take_due_candidates(60.0, ()) == ["tcp://x:1"]


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
