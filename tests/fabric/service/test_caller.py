"""Calls at their caller: who is asked, who is asked again, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from peerfabric.service.call import OpenCall, Outcome
from peerfabric.service.caller import CALLS_BYTES_MAX
from peerfabric.wire.frames import BUSY, ERROR, MSGPACK, PART, RAW, UNFIT, Answer, Reply, encode_frame
from tests.fabric.crowd import Crowd
from tests.fabric.service.helpers import answer, ask, cut, fabric, is_open, question, reply, serve, stop


def test_a_question_is_answered() -> None:
    """Two frames, and the caller has it."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    call = ask(a, 41)
    crowd.run(0.01)
    assert answer(b, served) == 1
    crowd.run(0.01)
    assert (call.outcome, reply(call), call.server_id, call.may_have_run) == (Outcome.OK, 42, b.name, True)
    assert list(a.engine.caller.news) == [call]
    crowd.check()


def test_a_node_answers_itself() -> None:
    """Over its own link, and before others if it is as free as they are."""
    crowd, (a, b) = fabric()
    ours, theirs = serve(a), serve(b)
    crowd.run(0.5)
    calls = [ask(a, 1) for _ in range(1)]
    crowd.run(0.01)
    assert (answer(a, ours), answer(b, theirs)) == (1, 0)
    crowd.run(0.01)
    assert [call.outcome for call in calls] == [Outcome.OK]
    crowd.check()


def test_many_calls_leave_in_one_frame() -> None:
    """What accumulates is one REQUEST for each server, and the answers are one REPLY."""
    crowd, (a, b) = fabric()
    served = serve(b, 1000)
    crowd.run(0.5)
    calls = [ask(a, n) for n in range(100)]
    before = a.frames
    crowd.run(0.0)
    assert a.frames - before == 1
    crowd.run(0.01)
    before = b.frames
    assert answer(b, served) == 100
    crowd.run(0.0)
    assert b.frames - before == 1
    crowd.run(0.01)
    assert [reply(call) for call in calls] == [n + 1 for n in range(100)]
    crowd.check()


def test_raw_and_other_bodies_travel_apart() -> None:
    """A frame has one codec; nothing is mixed up."""
    crowd, (a, b) = fabric()
    served = serve(b, 1000)
    crowd.run(0.5)
    caller = a.engine.caller
    calls = [OpenCall("sum", b"x" * 100, 0 if n % 3 else MSGPACK, crowd.now + 9) for n in range(10)]
    calls.append(OpenCall("sum", b"y" * 100_000, 0, crowd.now + 9))
    for call in calls:
        call.body = b"\x01" if call.codec else call.body
        caller.start(call, crowd.now)
    a.wake()
    crowd.run(0.05)
    got = list(served.started)
    assert [call.id for call in got] == [call.id for call in calls]
    assert [bytes(each.body) for each in got[:2]] == [b"\x91\x01", b"\x91\xc4\x64" + b"x" * 100]
    assert (got[-1].codec, bytes(got[-1].body)) == (2, b"y" * 100_000)


def test_calls_spread_over_servers() -> None:
    """The least full one is next, by its capacity."""
    crowd, (a, b, c) = fabric(3)
    big, small = serve(b, 30, waiting=0), serve(c, 10, waiting=0)
    crowd.run(0.5)
    for n in range(40):
        ask(a, n)
    crowd.run(0.05)
    assert (len(big.started), len(small.started)) == (30, 10)
    crowd.check()


def test_whoever_fails_fast_is_not_fed() -> None:
    """Errors in a row count as calls that are there, for a while."""
    crowd, (a, b, c) = fabric(3)
    good, bad = serve(b, 4), serve(c, 4)
    crowd.run(0.5)
    failed = 0
    for n in range(40):
        call = ask(a, n)
        crowd.run(0.01)
        while bad.started:
            failed += 1
            c.engine.responder.fail(bad.started.popleft(), crowd.now, ERROR, text="no", type="ValueError")
            c.wake()
        answer(b, good)
        crowd.run(0.01)
        assert call.outcome in (Outcome.OK, Outcome.ERROR)
    assert failed <= 2
    crowd.check()


def test_a_busy_server_is_left_alone() -> None:
    """Another one is asked, though the call may not run twice; if all are busy the caller hears of it at once."""
    crowd, (a, b, c) = fabric(3)
    tight, other = serve(b, 1, waiting=0), serve(c, 1, waiting=0)
    crowd.run(0.5)
    first = [ask(a, 1), ask(a, 2)]
    crowd.run(0.05)
    assert (len(tight.started), len(other.started)) == (1, 1)
    third = ask(a, 3)
    crowd.run(0.05)
    assert (third.outcome, third.may_have_run) == (Outcome.BUSY, False)
    assert third.retry_after > 0
    assert (tight.refused, other.refused) == (1, 1)
    assert answer(b, tight) + answer(c, other) == 2
    crowd.run(0.05)
    assert [call.outcome for call in first] == [Outcome.OK, Outcome.OK]
    crowd.check()


def test_three_servers_are_asked_at_most() -> None:
    """Each once; then the caller gets what the last one said."""
    crowd, (a, *servers) = fabric(6)
    all_served = [serve(member) for member in servers]
    crowd.run(0.5)
    call = ask(a)
    for _ in range(10):
        crowd.run(0.01)
        for member, served in zip(servers, all_served, strict=True):
            while served.started:
                found = served.started.popleft()
                member.engine.responder.fail(found, crowd.now, UNFIT, type="Query", text="no such field")
                member.wake()
    assert (call.outcome, call.type, call.text, call.may_have_run) == (Outcome.UNFIT, "Query", "no such field", False)
    assert sum(served.received for served in all_served) == 3
    crowd.check()


def test_a_lost_server_fails_what_may_not_run_twice() -> None:
    """And what may goes on at another one."""
    crowd, (a, b, c) = fabric(3)
    served = serve(b)
    crowd.run(0.5)
    once, twice = ask(a, 1), ask(a, 1, idempotent=True)
    crowd.run(0.01)
    assert len(served.started) == 2
    other = serve(c)
    crowd.run(0.3)
    crowd.kill(b)
    crowd.run(0.05)
    assert (once.outcome, once.server_id, once.may_have_run) == (Outcome.LOST, b.name, True)
    assert is_open(twice)
    crowd.run(0.05)
    assert answer(c, other) == 1
    crowd.run(0.05)
    assert (twice.outcome, reply(twice)) == (Outcome.OK, 2)
    crowd.check()


def test_a_call_with_which_two_died_is_not_tried_again() -> None:
    """A third server lives, though the call may run twice."""
    crowd, (a, *servers) = fabric(5)
    all_served = dict(zip(servers, map(serve, servers), strict=True))
    crowd.run(0.5)
    call = ask(a, "deadly", idempotent=True, timeout=30)
    for _ in range(2):
        crowd.run(0.1)
        (killed,) = [member for member, served in all_served.items() if served.started]
        crowd.kill(killed)
        del all_served[killed]
        crowd.run(0.01)
        crowd.check()
    crowd.run(1.0)
    assert call.outcome is Outcome.LOST
    assert not any(served.received for served in all_served.values())
    crowd.check()


def test_a_renewed_link_is_no_death() -> None:
    """A call that may run twice goes on over any number of cuts."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    call = ask(a, 1, idempotent=True, timeout=30)
    for n in range(5):
        crowd.run(0.3)
        assert len(served.started) == n + 1
        cut(crowd, a, b)
        crowd.run(0.01)
        crowd.check()
    crowd.run(0.5)
    answer(b, served)
    crowd.run(0.1)
    assert (call.outcome, reply(call)) == (Outcome.OK, 2)
    assert (served.answered, served.dropped) == (1, 5)
    crowd.check()


def test_what_no_socket_took_was_not_sent() -> None:
    """A server is killed, and its connection refuses before that is known: another one is asked."""
    crowd, (a, b, c) = fabric(3)
    served = serve(b)
    crowd.run(0.5)
    send, a._send = a._send, lambda wire, frames: False  # type: ignore[method-assign]
    call = ask(a, 1)
    crowd.run(0.01)
    assert call.at is not None
    a._send = send  # type: ignore[method-assign]
    other = serve(c)
    crowd.run(0.3)
    crowd.kill(b)
    crowd.run(0.1)
    assert (is_open(call), served.received) == (True, 0)
    assert answer(c, other) == 1
    crowd.run(0.1)
    assert call.outcome is Outcome.OK
    crowd.check()


def test_a_silent_server_gets_no_new_call() -> None:
    """What may run twice is asked of another one as well, and the first answer wins; the rest waits."""
    crowd, (a, b, c) = fabric(3)
    served = serve(b)
    crowd.run(0.5)
    twice, once = ask(a, 1, idempotent=True, timeout=20), ask(a, 2, timeout=20)
    crowd.run(0.1)
    assert len(served.started) == 2
    other = serve(c, 16)
    crowd.run(0.3)
    go_on = stop(b)
    crowd.run(3.0)
    later = [ask(a, n) for n in range(10)]
    crowd.run(0.1)
    assert answer(c, other) == 11
    crowd.run(0.1)
    assert (twice.outcome, once.outcome) == (Outcome.OK, None)
    assert [call.outcome for call in later] == 10 * [Outcome.OK]
    crowd.check()
    go_on()
    crowd.run(0.1)
    answer(b, served)
    crowd.run(0.5)
    assert once.outcome is Outcome.OK
    assert served.dropped == 1  # by CANCEL
    assert a.engine.caller.late == 0
    crowd.check()


def test_what_timed_out_does_not_start_when_a_stopped_server_goes_on() -> None:
    """The CANCEL lies behind the REQUEST in the same inbox, and the time that passed counts."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    warm = ask(a)
    crowd.run(0.05)
    answer(b, served)
    crowd.run(0.05)
    assert warm.outcome is Outcome.OK
    go_on = stop(b)
    calls = [ask(a, n, timeout=1.0) for n in range(5)]
    crowd.run(1.9)
    assert [call.outcome for call in calls] == 5 * [Outcome.TIMED_OUT]
    assert all(call.may_have_run and call.server_id == b.name for call in calls)
    go_on()
    crowd.run(0.5)
    assert not served.started
    assert served.dropped + served.refused == 5
    crowd.check()


def test_a_call_times_out_before_it_was_sent() -> None:
    """It says so."""
    crowd, (a, b) = fabric()
    serve(b)
    crowd.run(0.5)
    go_on = stop(b)
    ask(a, 0, timeout=20)
    crowd.run(3.0)
    call = ask(a, 1, timeout=1.0)
    crowd.run(1.1)
    assert (call.outcome, call.may_have_run, call.server_id) == (Outcome.TIMED_OUT, False, "")
    go_on()
    crowd.check()


def test_a_cancelled_call_does_not_run() -> None:
    """If it waits there; if it runs its handler is told. One that waits here leaves no trace."""
    crowd, (a, b) = fabric()
    served = serve(b, 1)
    crowd.run(0.5)
    runs, waits = ask(a, 1), ask(a, 2)
    crowd.run(0.05)
    (running,) = served.started
    for call in (runs, waits):
        a.engine.caller.cancel(call, crowd.now)
    a.wake()
    crowd.run(0.05)
    assert (runs.outcome, waits.outcome) == (Outcome.CANCELLED, Outcome.CANCELLED)
    assert (running.cancelled, list(served.news), served.dropped, len(served.left)) == (True, [running], 1, 1)
    crowd.check()
    b.engine.responder.answer(running, crowd.now, b"\x01", MSGPACK)
    b.wake()
    crowd.run(0.05)
    assert (served.dropped, len(served.left), a.engine.caller.late) == (2, 0, 0)
    crowd.check()


def test_nobody_serves_it() -> None:
    """A name typed wrong is told at once; before that a young node waits for those who may be there."""
    crowd, (a, b) = fabric()
    serve(b)
    crowd.run(0.5)
    call = ask(a, name="som")
    crowd.run(0.005)
    assert call.outcome is Outcome.NO_SERVER
    young = crowd.start(7, registry=True)
    waits = ask(young, name="som")
    crowd.run(0.8)
    assert is_open(waits)
    crowd.run(0.3)
    assert waits.outcome is Outcome.NO_SERVER
    crowd.check()


@pytest.mark.parametrize("seed", range(30))
def test_nodes_that_start_together_find_each_other(seed: int) -> None:
    """A first question never comes too early."""
    crowd = Crowd(seed)
    a, b = crowd.start(0, registry=True), crowd.start(1, registry=True)
    crowd.run(crowd.random.uniform(0, 0.3))
    call = ask(a)
    crowd.run(crowd.random.uniform(0, 0.3))
    served = serve(b)
    for _ in range(30):
        crowd.run(0.1)
        answer(b, served)
    assert call.outcome is Outcome.OK


@pytest.mark.long
def test_a_thousand_times_nodes_that_start_together_find_each_other() -> None:
    """The same, often."""
    for seed in range(1000, 2000):
        test_nodes_that_start_together_find_each_other(seed)


def test_one_server_is_asked_by_its_name() -> None:
    """Or by its id, and nobody else is."""
    crowd, (a, b, c) = fabric(3)
    served = [serve(b, 8), serve(c, 8)]
    crowd.run(0.5)
    for n in range(5):
        ask(a, n, server=c.name)
    nobody = ask(a, server="0009")
    crowd.run(0.05)
    assert [len(each.started) for each in served] == [0, 5]
    assert nobody.outcome is Outcome.NO_SERVER
    assert [view.node_id for view in a.engine.caller.directory.servers("sum")] == [b.name, c.name]
    crowd.check()


def test_too_deep_and_too_large() -> None:
    """Nothing is sent."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    deep = ask(a, depth=16)
    crowd.run(0.01)
    large = OpenCall("sum", b"x" * (17 * 1024 * 1024), 0, crowd.now + 5)
    a.engine.caller.start(large, crowd.now)
    a.wake()
    crowd.run(0.01)
    assert (deep.outcome, large.outcome, large.limit) == (Outcome.TOO_DEEP, Outcome.TOO_LARGE, 16 * 1024 * 1024)
    assert served.received == 0
    crowd.check()


def test_limits_of_what_is_open() -> None:
    """Calls and their bytes; room comes back as they end."""
    crowd, (a, b) = fabric()
    serve(b)
    crowd.run(0.5)
    caller = a.engine.caller
    size = 16 * 1024 * 1024 - 64
    calls = [OpenCall("sum", bytes(size), 0, crowd.now + 5) for _ in range(4)]
    for call in calls:
        assert caller.has_room(call.size)
        caller.start(call, crowd.now)
    assert caller.open_bytes == CALLS_BYTES_MAX
    assert not caller.has_room(1)
    caller.cancel(calls[0], crowd.now)
    assert caller.has_room(1)


def test_a_draining_server_is_not_asked() -> None:
    """What waits there goes on elsewhere, what runs is answered, and then it leaves."""
    crowd, (a, b, c) = fabric(3)
    served = serve(b, 1)
    crowd.run(0.5)
    runs, waits = ask(a, 1), ask(a, 2)
    crowd.run(0.05)
    other = serve(c)
    crowd.run(0.3)
    b.engine.drain(crowd.now)
    b.wake()
    crowd.run(0.05)
    assert not b.engine.settled()
    assert answer(c, other) == 1
    assert answer(b, served) == 1
    crowd.run(0.05)
    assert b.engine.settled()
    assert (runs.outcome, waits.outcome) == (Outcome.OK, Outcome.OK)
    assert (runs.server_id, waits.server_id) == (b.name, c.name)
    last = ask(a, 3)
    crowd.run(0.05)
    assert answer(c, other) == 1
    crowd.run(0.05)
    assert last.server_id == c.name
    b.engine.say_bye(crowd.now)
    b.wake()
    crowd.run(0.3)
    assert [view.node_id for view in a.engine.caller.directory.servers("sum")] == [c.name]
    crowd.check()


def test_a_closing_caller_cancels_its_calls() -> None:
    """Its servers hear that nobody waits."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    call = ask(a)
    crowd.run(0.05)
    a.engine.drain(crowd.now)
    a.engine.say_bye(crowd.now)
    a.wake()
    crowd.run(0.05)
    assert call.outcome is Outcome.CANCELLED
    assert served.started[0].cancelled


def test_links_part_when_nothing_was_called_for_long() -> None:
    """A name counts for a minute after its last call, then the two have nothing in common."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    ask(a)
    crowd.run(0.05)
    answer(b, served)
    crowd.run(50.0)
    assert a.is_linked(b)
    crowd.run(100.0)
    assert not a.is_linked(b)
    call = ask(a)
    crowd.run(0.2)
    answer(b, served)
    crowd.run(0.1)
    assert call.outcome is Outcome.OK
    crowd.check()


def test_streams_are_read_at_the_pace_of_their_reader() -> None:
    """64 parts, or 1 MiB and one part, are ahead of it at most; nothing is lost or mixed up."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    call = ask(a, 0, stream=True, timeout=1000)
    crowd.run(0.05)
    (running,) = served.started
    sent = 0
    got: list[int] = []
    while len(got) < 1000:
        while running.may_send and sent < 1000:
            assert b.engine.responder.part(running, crowd.now, bytes((0xCD, sent >> 8, sent & 255)), MSGPACK)
            sent += 1
        assert sent <= len(got) + 64
        b.wake()
        crowd.run(0.01)
        for _ in range(40):
            part = call.take()
            if part is not None:
                got.append(int.from_bytes(part[0][-2:], "big"))
        if call.wants_more:
            a.engine.caller.more(call, crowd.now)
            a.wake()
        crowd.run(0.01)
        crowd.check()
    b.engine.responder.end(running, crowd.now)
    b.wake()
    crowd.run(0.01)
    assert got == list(range(1000))
    assert call.outcome is Outcome.END
    assert running in served.news


def test_a_stream_that_nobody_reads_is_closed() -> None:
    """After `stall` seconds without more; its reader learns it, and its handler."""
    crowd, (a, b) = fabric()
    served = serve(b, stall=7.0)
    crowd.run(0.5)
    call = ask(a, 0, stream=True, timeout=1000)
    crowd.run(0.05)
    running = served.started.popleft()
    while running.may_send:
        b.engine.responder.part(running, crowd.now, bytes(100_000), RAW)
    assert running.sent_parts == 11
    b.wake()
    crowd.run(6.5)
    assert is_open(call)
    crowd.run(1.0)
    assert (call.outcome, running.cancelled) == (Outcome.STALLED, True)
    b.engine.responder.end(running, crowd.now)
    crowd.check()


def test_parts_that_were_not_allowed_end_a_call() -> None:
    """A server that sends on and on fills no memory."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    call = ask(a, 0, stream=True)
    crowd.run(0.05)
    (running,) = served.started
    running.allowed_parts = running.allowed_bytes = 1000
    for _ in range(70):
        b.engine.responder.part(running, crowd.now, b"\x01", MSGPACK)
        running.sent_bytes = 0
    b.wake()
    crowd.run(0.05)
    assert (call.outcome, len(call.parts)) == (Outcome.ERROR, 64)
    assert running.cancelled


def lies(status: int, body: bytes = b"\x91\x01", codec: int = MSGPACK, **more: Any) -> OpenCall:
    """A call whose server answers so."""
    crowd, (a, b) = fabric()
    serve(b)
    crowd.run(0.5)
    call = ask(a)
    crowd.run(0.05)
    link = b.engine.links.by_peer[f"{a.name}:{a.engine.address.epoch}"]
    answer = Answer(call.id, status, **more)
    header = encode_frame(Reply(link.out_id, link.next_number(), link.in_number, codec, [answer]))
    a.engine.handle_frames([header, body], crowd.now)
    a.engine.check()
    crowd.run(1.0)
    crowd.check()
    return call


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (0, b"", Outcome.ERROR),  # without a body
        (0, b"\x92\x01\x02", Outcome.ERROR),
        (PART, b"\x91\x01", Outcome.ERROR),  # nobody asked for a stream
        (2, b"\x91\xc0", Outcome.ERROR),
        (9, b"\x91\xc0", Outcome.ERROR),  # of a later version: it may have run
        (99, b"\x91\xc0", Outcome.NO_SERVER),  # and this has not
        (BUSY, b"\x91\xc0", Outcome.BUSY),
    ],
)
def test_answers_that_make_no_sense(status: int, body: bytes, outcome: Outcome) -> None:
    """Each of them ends the call, one way or the other."""
    call = lies(status, body)
    assert call.outcome is outcome


def test_question_bodies_reach_handlers() -> None:
    """As they were encoded."""
    crowd, (a, b) = fabric()
    served = serve(b)
    crowd.run(0.5)
    ask(a, {"currency": "eur"}, headers={"trace": "1"}, depth=3)
    crowd.run(0.05)
    (got,) = served.started
    assert (question(got), got.headers, got.depth, got.caller_id) == ({"currency": "eur"}, {"trace": "1"}, 3, a.name)
    assert crowd.now < got.ends_at <= crowd.now + 5.0
