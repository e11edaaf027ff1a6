"""Roster: who is dialled, and how news of nodes gets about where nothing else shows them."""

from __future__ import annotations

import msgspec
import pytest

from peerfabric.link.links import IDLE_CLOSE_AFTER
from peerfabric.link.roster import GRAVES_MAX, MATES_MAX, ROSTER_LINKS, VERSION_MAX
from peerfabric.options import Options
from peerfabric.wire.frames import Address
from tests.fabric.crowd import Crowd, Member, endpoint_of

SEED = endpoint_of(0)


def with_one_seed(crowd: Crowd, nodes: int, spread: float = 0.1) -> list[Member]:
    """Nodes of as many hosts, all of which know the first."""
    members = []
    for number in range(nodes):
        members.append(crowd.start(number, f"h{number}", [SEED] if number else []))
        crowd.run(spread)
    return members


def everybody_knows(crowd: Crowd) -> bool:
    return all(a.knows(b) for a in crowd.members for b in crowd.members if a is not b)


def digest_of(member: Member) -> bytes | None:
    return member.engine.address.digest


# Links are for work


def test_nodes_that_share_nothing_do_not_dial() -> None:
    crowd = Crowd()
    for number in range(30):
        member = crowd.start(number, registry=True)
        member.produce(f"own.{number}")
        crowd.run(0.02)
    crowd.run(20)
    crowd.check()
    assert everybody_knows(crowd)
    assert sum(member.dials for member in crowd.members) == 0
    assert {view.state for view in crowd.members[0].engine.view()} == {"idle"}
    assert len(crowd.members[0].engine.view()) == 29


def test_who_consumes_a_queue_is_known_without_a_link() -> None:
    """By digest, or, where there is a link, exactly; the node itself counts, too."""
    crowd = Crowd()
    watcher, other, consumer = (crowd.start(number, registry=True) for number in range(3))
    other.consume("bills")
    consumer.consume("jobs")
    crowd.run(1)

    def consumers(queue: str) -> set[str]:
        return {address.node_id for address in watcher.engine.consumers_of(queue)}

    jobs = {consumer.engine.address.node_id}
    assert watcher.dials == 0
    assert (consumers("jobs"), consumers("none")) == (jobs, set())
    watcher.produce("bills")
    watcher.consume("jobs")
    crowd.run(1)
    assert watcher.is_linked(other)
    assert consumers("jobs") == jobs | {watcher.engine.address.node_id}
    assert consumers("bills") == {other.engine.address.node_id}
    crowd.check()


def test_those_who_share_something_link_and_nobody_else() -> None:
    crowd = Crowd()
    for number in range(30):
        member = crowd.start(number, registry=True)
        (member.produce if number < 3 else member.consume)("jobs" if number < 20 else f"other.{number}")
        crowd.run(0.02)
    crowd.run(2)
    consumers = crowd.members[3:20]
    assert all(producer.is_linked(consumer) for producer in crowd.members[:3] for consumer in consumers)
    crowd.run(20)
    assert [member.links for member in crowd.members] == [17] * 3 + [3] * 17 + [0] * 10
    assert sum(member.dials for member in crowd.members) == 2 * 3 * 17


def test_a_known_node_is_dialled_at_once_when_something_comes_to_be_in_common() -> None:
    crowd = Crowd()
    one, two = crowd.start(0, registry=True), crowd.start(1, registry=True)
    one.consume("jobs")
    crowd.run(5)
    assert one.dials + two.dials == 0
    two.produce("jobs")
    assert crowd.run_until(lambda: one.is_linked(two), 1) <= 0.05


def test_a_false_match_is_dialled_once() -> None:
    crowd = Crowd()
    one, two = crowd.start(0, registry=True), crowd.start(1, registry=True)
    one.consume("jobs")
    crowd.run(1)
    lie = msgspec.structs.replace(two.engine.address, version=9, digest=b"\xff" * 16)
    one.engine.handle_discovered(lie, crowd.now)
    one.wake()
    crowd.run(2)
    assert one.is_linked(two)
    crowd.run(60)
    assert (one.links, one.dials) == (0, 1)
    one.engine.handle_discovered(lie, crowd.now)
    one.consume("others")
    crowd.run(5)
    assert one.dials == 2, "another interest of ours may match"
    crowd.run(60)
    one.engine.handle_discovered(msgspec.structs.replace(lie, version=10), crowd.now)
    one.wake()
    crowd.run(5)
    assert one.dials == 3, "theirs may, too"


def test_each_change_of_interest_is_announced_under_a_larger_version() -> None:
    crowd = Crowd()
    one, two = crowd.start(0, registry=True), crowd.start(1, registry=True)
    versions = []
    for queue in ("a", "b", "c"):
        one.produce(queue)
        crowd.run(1)
        versions.append(one.engine.address.version)
        assert two.knows(one)
    assert versions == sorted(set(versions))
    one.produce("c")
    crowd.run(1)
    assert one.engine.address.version == versions[-1], "nothing is new"


def test_who_looks_at_all_sees_what_each_uses_and_parts_again() -> None:
    crowd = Crowd()
    for number in range(5):
        crowd.start(number, registry=True).consume(f"own.{number}")
    crowd.run(2)
    looker = crowd.start(9, registry=True)
    looker.engine.look_at_all(True, crowd.now)
    looker.wake()
    crowd.run(1)
    seen = {view.name: view for view in looker.engine.view()}
    assert {view.state for view in seen.values()} == {"up"}
    assert all(view.consumes for view in seen.values())
    assert digest_of(looker) is None
    crowd.run(60)
    assert looker.links == 0, "links are for work, also of who looks"
    assert looker.dials == 5
    assert {view.state: view.consumes for view in looker.engine.view() if view.name == "0002"} == {"idle": ("own.2",)}
    crowd.members[2].consume("news")
    crowd.run(2)
    [view] = [view for view in looker.engine.view() if view.name == "0002"]
    assert (view.state, view.consumes) == ("up", ("own.2", "news"))
    looker.engine.look_at_all(False, crowd.now)
    looker.wake()
    crowd.run(60)
    assert {view.consumes for view in looker.engine.view()} == {()}
    assert (looker.links, looker.engine.address.digest) == (0, b"")


# News


def test_one_seed_is_enough_for_all_to_know_all_and_to_link() -> None:
    crowd = Crowd()
    members = with_one_seed(crowd, 20)
    crowd.run(60)
    assert everybody_knows(crowd)
    assert max(member.links for member in members) <= ROSTER_LINKS + MATES_MAX
    assert sorted(member.links for member in members)[10] <= ROSTER_LINKS + 1
    one, two = members[7], members[13]
    one.produce("jobs")
    crowd.run(0.02)
    two.consume("jobs")
    assert crowd.run_until(lambda: one.is_linked(two), 10) < 3
    crowd.check()


def test_a_newcomer_hears_of_more_than_one_hello_holds() -> None:
    crowd = Crowd()
    with_one_seed(crowd, 90, 0.02)
    crowd.run(15)
    last = crowd.start(99, "h99", [SEED])
    assert crowd.run_until(lambda: len(last.engine.view()) == 90, 10) < 2
    crowd.check()


def test_the_fabric_holds_together_without_its_seed() -> None:
    crowd = Crowd()
    members = with_one_seed(crowd, 15)
    crowd.run(20)
    crowd.kill(members[0])
    crowd.run(5)
    names = {view.name for member in crowd.members for view in member.engine.view()}
    assert members[0].name not in names, "all have heard of its end"
    for number, (one, two) in enumerate(zip(crowd.members[:7], crowd.members[7:], strict=True)):
        one.produce(f"late.{number}")
        two.consume(f"late.{number}")
        assert crowd.run_until(lambda one=one, two=two: one.is_linked(two), 10) < 3  # type: ignore[misc]
    crowd.check()


def test_a_seed_that_comes_back_as_another_node_is_found() -> None:
    crowd = Crowd()
    members = with_one_seed(crowd, 12)
    crowd.run(20)
    crowd.kill(members[0])
    crowd.run(20)
    crowd.start(0, "h0")
    assert crowd.run_until(lambda: everybody_knows(crowd), 20) < 10


def test_traffic_is_linear_in_changes_and_does_not_grow_with_the_fabric() -> None:
    """Per node: 1 kB/s at most while nothing changes, however many there are; and so many bytes a change."""
    idle, changes = {}, {}
    for nodes in (20, 60):
        crowd = Crowd()
        members = with_one_seed(crowd, nodes, 0.02)
        crowd.run(40)
        before = crowd.bytes
        crowd.run(20)
        idle[nodes] = (crowd.bytes - before) / 20 / nodes
        for many in (1, 10):
            before = crowd.bytes
            for number, member in enumerate(members[5 : 5 + many]):
                member.consume(f"own.{many}.{number}")
                crowd.run(0.5)
            crowd.run(10 - 0.5 * many)
            assert everybody_knows(crowd)
            changes[nodes, many] = (crowd.bytes - before - idle[nodes] * 10 * nodes) / nodes
    assert all(rate <= 1000 for rate in idle.values())
    assert idle[60] <= 1.5 * idle[20]
    assert all(0 < spent <= many * 2500 for (_, many), spent in changes.items()), changes
    assert all(changes[nodes, 10] <= 15 * changes[nodes, 1] for nodes in idle)


def test_rumours_make_no_circles() -> None:
    """What is not later than what is known is neither taken nor passed on."""
    crowd = Crowd()
    members = with_one_seed(crowd, 6)
    crowd.run(20)
    members[3].consume("news")
    crowd.run(5)
    hellos = crowd.kinds[1]
    crowd.run(60)
    assert crowd.kinds[1] == hellos, "no hello while nothing changes"
    old = msgspec.structs.replace(members[3].engine.address, version=0, name="old")
    for member in members:
        member.engine.handle_discovered(old, crowd.now, sighted=False)
        member.wake()
    crowd.run(10)
    assert crowd.kinds[1] == hellos
    assert all(view.name != "old" for member in members for view in member.engine.view())


def test_who_is_taken_for_dead_says_that_it_lives() -> None:
    crowd = Crowd()
    members = with_one_seed(crowd, 6)
    crowd.run(20)
    wronged = members[4]
    before = wronged.engine.address.version
    grave = msgspec.structs.replace(wronged.engine.address, version=before + 5, inbox=[], outbox=[])
    members[2].engine.roster._take(grave, crowd.now, None)
    members[2].wake()
    crowd.run(5)
    assert wronged.engine.address.version > before + 5
    assert everybody_knows(crowd)
    crowd.check()


def test_the_dead_do_not_come_back_by_rumour() -> None:
    crowd = Crowd()
    members = with_one_seed(crowd, 6)
    crowd.run(20)
    dead = members[5].engine.address
    crowd.kill(members[5])
    crowd.run(10)
    members[1].engine.handle_discovered(dead, crowd.now, sighted=False)
    members[1].wake()
    crowd.run(5)
    assert all(view.node_id != dead.node_id for member in crowd.members for view in member.engine.view())
    crowd.start(5, "h5", [SEED])
    assert crowd.run_until(lambda: everybody_knows(crowd), 10) < 3, "its next life is news"


def test_graves_are_bounded() -> None:
    crowd = Crowd()
    member = crowd.start(0)
    for number in range(3 * GRAVES_MAX):
        one = Address(f"n{number}", 1 << 20, "", "h", ["tcp://h:1"], [], version=1, digest=b"")
        member.engine.handle_discovered(one, crowd.now)
        member.engine.handle_lost(one.node_id, crowd.now)
    crowd.run(1)
    crowd.check()
    assert len(member.engine.roster._graves) == GRAVES_MAX


@pytest.mark.parametrize("late", [False, True])
def test_mates_of_a_node_that_has_a_seed_on_another_host_are_found_there(late: bool) -> None:
    """Two hosts with a registry each, and one node in each that knows of the other host."""
    crowd = Crowd()
    crowd.start(0, "here", registry=True)
    for number in range(1, 8):
        crowd.start(number, "here", registry=True)
    if not late:
        crowd.start(10, "there", [SEED], registry=True)
    for number in range(11, 18):
        crowd.start(number, "there", registry=True)
    crowd.run(10)
    if late:
        crowd.start(10, "there", [SEED], registry=True)
        crowd.run(10)
    crowd.check()
    assert everybody_knows(crowd)
    passing = [member.number for member in crowd.members if member.engine.address.passes_on]
    assert {0, 10} <= set(passing)
    assert len(passing) <= 4
    assert sorted(member.links for member in crowd.members)[8] <= ROSTER_LINKS
    by_number = {member.number: member for member in crowd.members}
    one, two = by_number[3], by_number[15]
    one.produce("jobs")
    crowd.run(0.02)
    two.consume("jobs")
    assert crowd.run_until(lambda: one.is_linked(two), 10) < 3


def test_where_the_registry_shows_everybody_there_are_no_roster_links() -> None:
    """Not even to a seed that is given by hand, too."""
    crowd = Crowd()
    for number in range(10):
        crowd.start(number, "here", [SEED] if number else [], registry=True)
        crowd.run(0.05)
    crowd.run(SIGHTED + 2 * IDLE_CLOSE_AFTER)
    assert [member.links for member in crowd.members] == [0] * 10
    assert not any(member.engine.address.passes_on for member in crowd.members)


SIGHTED = 5.0


def test_without_exchange_nothing_is_told_and_nothing_taken() -> None:
    crowd = Crowd()
    one, two, three = (crowd.start(number, f"h{number}", [SEED] if number else []) for number in range(3))
    two.engine.roster.exchanges = False
    crowd.run(20)
    assert one.is_linked(three)
    assert not two.engine.roster._mates
    crowd.run(20)
    assert two.links == 0, "it keeps no link for news"


def test_two_seeds_of_each_other_hear_of_changes_after_a_cut() -> None:
    """Each had chosen the other: neither avoids the other for having been cut off."""
    crowd = Crowd()
    one, two = (crowd.start(number, f"h{number}", [endpoint_of(1 - number)]) for number in range(2))
    crowd.run(20)
    for member, other in ((one, two), (two, one)):
        engine = member.engine
        link = engine.links.link_with(other.name)
        assert link is not None
        engine.parting._apply(engine.links._part(link, crowd.now, proven=False, died=False), crowd.now)
        member.wake()
    crowd.run(30)
    one.consume("jobs")
    crowd.run(2)
    two.produce("jobs")
    assert crowd.run_until(lambda: one.is_linked(two), 60) <= 3.0


def test_without_exchange_a_node_tells_its_change_itself() -> None:
    """Two that had nothing in common, and that nothing shows to each other any more."""
    crowd = Crowd()
    one, two = crowd.start(0, "h0"), crowd.start(1, "h1", [SEED])
    for member in (one, two):
        member.engine.roster.exchanges = False
    one.consume("own")
    two.produce("other")
    crowd.run(20)
    assert (one.links, two.links) == (0, 0)
    one.consume("jobs")
    crowd.run(20)
    two.produce("jobs")
    assert crowd.run_until(lambda: one.is_linked(two), 60) <= 3.0


def test_rumours_of_many_nodes_take_no_more_room_than_peers() -> None:
    crowd = Crowd()
    one, two = with_one_seed(crowd, 2)
    crowd.run(5)
    link = one.engine.links.link_with(two.name)
    assert link is not None
    for number in range(5000):
        lie = Address(f"lie-{number}", 1 << 20, "", f"x{number}", ["tcp://nowhere:1"], [], digest=b"")
        one.engine.roster._take(lie, crowd.now, link)
    assert len(one.engine.roster._unsighted) <= Options().peers_max


def test_a_grave_of_the_last_version_uses_up_no_versions() -> None:
    """No frame may hold a larger one: the node could say nothing any more."""
    crowd = Crowd()
    one, two = with_one_seed(crowd, 2)
    crowd.run(5)
    link, before = one.engine.links.link_with(two.name), one.engine.address
    assert link is not None
    one.engine.roster._take(msgspec.structs.replace(before, inbox=[], version=VERSION_MAX), crowd.now, link)
    assert one.engine.address == before
    one.engine.roster._take(msgspec.structs.replace(before, inbox=[], version=before.version + 1), crowd.now, link)
    assert one.engine.address.version == before.version + 2
    liar = msgspec.structs.replace(two.engine.address, version=VERSION_MAX)
    one.engine.roster._bury(liar, crowd.now)
    assert one.engine.roster._graves[two.name].version == VERSION_MAX
