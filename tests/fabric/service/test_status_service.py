"""The reserved service of every node: nobody hears of it, who is linked may ask, and it costs nothing until then."""

from __future__ import annotations

import msgspec

from peerfabric.names import STATUS_SERVICE, is_name
from peerfabric.service.call import OpenCall, Outcome
from peerfabric.service.responder import STATUS_WAITING
from peerfabric.wire.frames import MSGPACK
from tests.fabric.crowd import Crowd, Member
from tests.fabric.service.helpers import answer, is_open, reply, serve, stop
from tests.fabric.service.helpers import ask as call_service


def linked(nodes: int = 3) -> tuple[Crowd, list[Member]]:
    """So many nodes, the first of which is linked with all others."""
    crowd = Crowd()
    members = [crowd.start(number, registry=True) for number in range(nodes)]
    members[0].produce("jobs")
    for other in members[1:]:
        other.consume("jobs")
    crowd.run(3.0)
    return crowd, members


def ask(member: Member, *, timeout: float = 5.0) -> list[OpenCall]:
    """Ask all that it is linked with."""
    caller, now = member.engine.caller, member.crowd.now
    body = msgspec.msgpack.encode({"queues": 1})
    calls = [
        OpenCall(STATUS_SERVICE, body, MSGPACK, now + timeout, server=node_id)
        for node_id in caller.reserve(STATUS_SERVICE)
    ]
    for call in calls:
        caller.start(call, now)
    member.wake()
    return calls


def tell(member: Member) -> int:
    status = member.engine.responder.status
    return answer(member, status, lambda body: {"name": member.name, **body}) if status is not None else 0


def test_every_linked_node_answers() -> None:
    """Once each, though none of them has ever served or called anything."""
    crowd, (a, b, c) = linked()
    assert b.engine._responder is None
    calls = ask(a)
    crowd.run(0.05)
    assert [tell(each) for each in (b, c)] == [1, 1]
    crowd.run(0.05)
    assert sorted(reply(call)["name"] for call in calls) == ["0001", "0002"]
    assert all(call.outcome is Outcome.OK for call in calls)
    crowd.check()


def test_nobody_is_told_of_it() -> None:
    """It is in no INTEREST, is no service of reports, and makes nobody link who has nothing in common."""
    assert not is_name(STATUS_SERVICE)
    crowd, (a, b, c) = linked()
    stranger = crowd.start(7, registry=True)
    crowd.run(12.0)
    calls = ask(a)
    crowd.run(0.05)
    tell(b)
    tell(c)
    crowd.run(1.0)
    assert len(calls) == 2
    for member in (a, b, c, stranger):
        engine = member.engine
        assert STATUS_SERVICE not in engine.interests.calls
        assert STATUS_SERVICE not in engine.caller.directory.names()
        assert engine.statistics().services == ()
    assert stranger.engine.responder.status is None
    crowd.check()


def test_at_most_one_runs_and_some_wait() -> None:
    """Others are told to come back: to look costs time."""
    crowd, (a, b) = linked(2)
    calls = [call for _ in range(STATUS_WAITING + 3) for call in ask(a)]
    crowd.run(0.05)
    status = b.engine.responder.status
    assert status is not None
    assert (len(status.started), len(status.waiting)) == (1, STATUS_WAITING)
    assert [call.outcome for call in calls if not is_open(call)] == [Outcome.BUSY] * 2
    while tell(b):
        crowd.run(0.01)
    assert sum(call.outcome is Outcome.OK for call in calls) == STATUS_WAITING + 1
    crowd.check()


def test_who_is_lost_or_stopped_is_left_out() -> None:
    """Its call ends with the link, or with its own time; another one asks anew."""
    crowd, (a, b, c) = linked()
    calls = ask(a, timeout=1.0)
    crowd.run(0.05)
    crowd.kill(b)
    go_on = stop(c)
    crowd.run(3.0)
    assert not any(is_open(call) for call in calls)
    go_on()
    crowd.run(10.0)
    assert [call.server for call in ask(a)] == [c.name]
    crowd.run(0.1)
    crowd.check()


def test_it_does_not_keep_a_node_from_closing() -> None:
    """Nobody waits for whoever was asked, and who closes answers no more."""
    crowd, (a, b) = linked(2)
    first = ask(a)
    crowd.run(0.05)
    b.engine.drain(crowd.now)
    b.wake()
    assert b.engine.responder.idle
    second = ask(a)
    crowd.run(0.5)
    assert is_open(first[0]) or first[0].outcome is not Outcome.OK
    assert [call.outcome for call in second] == [Outcome.NO_SERVER]
    crowd.check()


def test_other_services_go_on() -> None:
    """A node that serves something answers both."""
    crowd, (a, b) = linked(2)
    served = serve(b)
    crowd.run(0.5)
    asked, called = ask(a), call_service(a, 1)
    crowd.run(0.5)
    answer(b, served)
    tell(b)
    crowd.run(0.5)
    assert (asked[0].outcome, reply(called)) == (Outcome.OK, 2)
    assert a.engine.caller.directory.names() == ["sum"]
    crowd.check()
