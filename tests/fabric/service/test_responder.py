"""Calls at their server: what waits, runs, rests, is cancelled, and what is answered."""

from __future__ import annotations

import pytest

from peerfabric.service.call import DEPTH_MAX, Outcome
from peerfabric.service.served import Served, ServedCall, Stage
from peerfabric.wire.frames import BUSY, ERROR, MSGPACK, RAW, UNFIT, Call, Cancel, More, Parts, Request, encode_frame
from tests.fabric.crowd import Crowd, Member
from tests.fabric.service.helpers import MiB, answer, ask, cut, fabric, is_open, serve


def pair(capacity: int = 2, waiting: int = 4) -> tuple[Crowd, Member, Member, Served]:
    crowd, (a, b) = fabric()
    served = serve(b, capacity, waiting=waiting)
    crowd.run(0.5)
    return crowd, a, b, served


def taken(served: Served) -> list[ServedCall]:
    """The calls whose handlers run from now on."""
    calls = list(served.started)
    served.started.clear()
    return calls


def test_what_waits_starts_in_its_order() -> None:
    """As many as the capacity run; the next one starts when one has ended."""
    crowd, a, b, served = pair()
    for n in range(5):
        ask(a, n)
    crowd.run(0.05)
    first = taken(served)
    assert ([call.id for call in first], len(served.waiting)) == ([1, 2], 3)
    for expected in (3, 4, 5):
        b.engine.responder.answer(first.pop(0), crowd.now, b"\x01", MSGPACK)
        assert not served.started  # before what this turn reads is known
        b.wake()
        crowd.run(0.01)
        started = taken(served)
        assert [call.id for call in started] == [expected]
        first += started
        crowd.check()


def test_room_is_bounded_in_calls_and_bytes() -> None:
    """Before anything is decoded; when to come back is told."""
    crowd, a, _b, served = pair(1, 2)
    calls = [ask(a, n) for n in range(5)]
    crowd.run(0.05)
    assert [call.outcome for call in calls] == [None, None, None, Outcome.BUSY, Outcome.BUSY]
    assert all(0 < call.retry_after < 1 for call in calls[3:])
    assert served.account().refused == 2
    served.waiting_max, served.waiting_bytes_max = 100, 100_000
    for n in range(5):
        crowd.run(0.2)
        call = ask(a, "x" * 40_000)
        crowd.run(0.05)
        assert is_open(call) == (n < 2)
    crowd.check()


def test_a_handler_that_waits_in_a_call_needs_no_slot() -> None:
    """So two services that ask each other do not stand still; one that goes on is not stopped again."""
    crowd, a, b, served = pair(1)
    for n in range(3):
        ask(a, n)
    crowd.run(0.05)
    responder = b.engine.responder
    (one,) = taken(served)
    responder.rest(one)
    b.wake()
    crowd.run(0.01)
    (two,) = taken(served)
    crowd.check()
    responder.resume(one)
    responder.answer(two, crowd.now, b"\x01", MSGPACK)
    b.wake()
    crowd.run(0.01)
    assert not served.started
    responder.answer(one, crowd.now, b"\x01", MSGPACK)
    b.wake()
    crowd.run(0.01)
    assert len(taken(served)) == 1
    crowd.check()


def test_cancelled_handlers_that_run_on_hold_no_slots() -> None:
    """As many as the capacity are left behind; further ones keep theirs. Each ends once, whatever it returns."""
    crowd, a, b, served = pair(2, 100)
    calls = [ask(a, n, timeout=0.2) for n in range(4)]
    crowd.run(0.3)
    assert [call.outcome for call in calls] == 4 * [Outcome.TIMED_OUT]
    stuck = taken(served)
    assert ([call.stage for call in stuck], served.dropped) == ([Stage.LEFT, Stage.LEFT], 2)
    answered = ask(a, 7)
    crowd.run(0.05)
    (runs,) = taken(served)
    b.engine.responder.answer(runs, crowd.now, b"\x08", MSGPACK)
    b.wake()
    crowd.run(0.05)
    assert answered.outcome is Outcome.OK
    more = [ask(a, n, timeout=0.2) for n in range(4)]
    crowd.run(0.3)
    stuck += taken(served)
    assert [call.outcome for call in more] == 4 * [Outcome.TIMED_OUT]
    assert [call.stage for call in stuck] == [Stage.LEFT, Stage.LEFT, Stage.RUNNING, Stage.RUNNING]
    crowd.check()
    for call in stuck:
        b.engine.responder.answer(call, crowd.now, b"\x01", MSGPACK)
    b.wake()
    crowd.run(0.05)
    assert (served.dropped, served.answered, served.load, a.engine.caller.late) == (8, 1, 0, 0)
    crowd.check()


def test_a_handler_left_behind_is_told_of() -> None:
    """Once it has lasted."""
    crowd, a, b, _served = pair()
    ask(a, 1, timeout=0.1)
    crowd.run(1.0)
    responder = b.engine.responder
    assert list(responder.findings(crowd.now)) == []
    told = [finding.what for finding in responder.findings(crowd.now + 5.0)]
    assert told == ["service 'sum': a handler runs on whose call was cancelled"]


def test_the_end_of_a_life_cancels_what_came_in_it() -> None:
    """Nothing is answered into another one."""
    crowd, a, b, served = pair(1)
    calls = [ask(a, n) for n in range(3)]
    crowd.run(0.05)
    (running,) = taken(served)
    cut(crowd, a, b)
    crowd.run(0.2)
    assert [call.outcome for call in calls] == 3 * [Outcome.LOST]
    assert (running.cancelled, len(served.waiting), list(served.news)) == (True, 0, [running])
    b.engine.responder.answer(running, crowd.now, b"\x01", MSGPACK)
    b.wake()
    crowd.run(0.2)
    assert a.engine.caller.late == 0
    crowd.check()


def test_errors_are_texts() -> None:
    """Cut to what a frame takes."""
    crowd, a, b, served = pair()
    call = ask(a)
    crowd.run(0.05)
    (running,) = taken(served)
    b.engine.responder.fail(running, crowd.now, ERROR, text="é" * 5_000_000, type="T" * 1000)
    b.wake()
    crowd.run(0.05)
    assert (call.outcome, len(call.text), len(call.type), call.may_have_run) == (Outcome.ERROR, 1024, 255, True)
    call = ask(a)
    crowd.run(0.05)
    (running,) = taken(served)
    b.engine.responder.fail(running, crowd.now, ERROR, text="lone \udc80 surrogate", type="E")
    b.wake()
    crowd.run(0.05)
    assert (call.outcome, call.text) == (Outcome.ERROR, "lone \\udc80 surrogate")
    crowd.check()


def test_a_handler_may_say_that_it_did_nothing() -> None:
    """Then another server is asked, or the caller is told when to come back."""
    crowd, a, b, served = pair()
    call = ask(a)
    crowd.run(0.05)
    b.engine.responder.fail(taken(served)[0], crowd.now, BUSY, retry_after=3.0)
    b.wake()
    crowd.run(0.05)
    assert (call.outcome, call.retry_after, call.may_have_run) == (Outcome.BUSY, 3.0, False)
    again = ask(a)
    crowd.run(0.01)
    assert again.outcome is Outcome.BUSY
    assert 2.0 < again.retry_after < 3.0
    assert served.received == 1
    crowd.run(3.0)
    third = ask(a)
    crowd.run(0.05)
    assert (is_open(third), served.received) == (True, 2)


def test_a_reply_that_is_too_large() -> None:
    """An error that says what to do, as a part is; the service goes on."""
    crowd, a, b, served = pair()
    calls = [ask(a), ask(a, stream=True)]
    crowd.run(0.05)
    whole, stream = taken(served)
    b.engine.responder.answer(whole, crowd.now, bytes(17 * MiB), RAW)
    assert not b.engine.responder.part(stream, crowd.now, bytes(17 * MiB), RAW)
    assert stream.cancelled
    b.wake()
    crowd.run(0.05)
    assert [call.outcome for call in calls] == [Outcome.ERROR, Outcome.ERROR]
    assert calls[0].text == "a reply of 17,825,792 bytes; the caller takes 16,777,216: answer by a stream"
    b.engine.responder.end(stream, crowd.now)
    assert served.load == 0
    crowd.check()


def test_a_service_is_served_once() -> None:
    """And may come back after it was closed; what waits is answered, what runs goes on."""
    crowd, a, b, served = pair(1)
    with pytest.raises(ValueError, match="served already"):
        serve(b)
    calls = [ask(a, n) for n in range(3)]
    crowd.run(0.05)
    (running,) = taken(served)
    b.engine.close_service(served, crowd.now)
    b.engine.close_service(served, crowd.now)
    b.wake()
    crowd.run(0.05)
    assert [call.outcome for call in calls] == [None, Outcome.NO_SERVER, Outcome.NO_SERVER]
    assert not b.engine.responder.idle
    again = serve(b)
    crowd.run(0.3)
    b.engine.responder.answer(running, crowd.now, b"\x01", MSGPACK)
    b.wake()
    call = ask(a, 1)
    crowd.run(0.05)
    assert answer(b, again) == 1
    crowd.run(0.05)
    assert (calls[0].outcome, call.outcome, b.engine.responder.idle) == (Outcome.OK, Outcome.OK, True)
    crowd.check()


def request(b: Member, a: Member, calls: list[Call], body: bytes, service: str = "sum", codec: int = MSGPACK) -> None:
    """`a` sends it to `b`, whatever it may be."""
    link = a.engine.links.by_peer[f"{b.name}:{b.engine.address.epoch}"]
    header = encode_frame(Request(link.out_id, link.next_number(), link.in_number, service, codec, calls))
    b.engine.handle_frames([header, body], b.crowd.now)
    b.engine.check()


@pytest.mark.parametrize("body", [b"", b"\x01", b"\x90", b"\x92\x01\x02", b"\xdd\xff\xff\xff\xff", b"\xc1"])
def test_a_body_that_is_not_what_its_header_says(body: bytes) -> None:
    """The call does not fit; the link lives."""
    _crowd, a, b, served = pair()
    request(b, a, [Call(1, 1000)], body)
    assert (served.received, served.refused, b.engine.links.counters) == (1, 1, {})
    (unsent,) = next(iter(b.engine.responder.outgoing.values()))
    assert unsent.status == UNFIT


def test_calls_that_make_no_sense() -> None:
    """Too deep ones and those of nobody's service are answered; one that comes twice ends the life."""
    crowd, a, b, served = pair()
    request(b, a, [Call(1, 0, depth=DEPTH_MAX), Call(2, 0, depth=2**53 - 1)], b"\x92\x01\x01")
    request(b, a, [Call(3, 0)], b"\x91\x01", service="other")
    assert (served.received, served.refused) == (2, 2)
    request(b, a, [Call(4, 2**53 - 1), Call(4, 5)], b"\x92\x01\x01")
    assert b.engine.links.counters["links renewed"] == 1
    crowd.run(0.5)
    assert ask(a).outcome is None
    crowd.run(0.05)
    assert answer(b, served) == 1
    crowd.check()


def test_a_peer_that_never_reads_fills_no_memory() -> None:
    """Its answers are bounded; then its link is renewed."""
    crowd, a, b, _served = pair(1, 0)
    link = b.engine.links.by_peer[f"{a.name}:{a.engine.address.epoch}"]
    ask(a)
    crowd.run(0.05)
    for n in range(20):
        calls = [Call(number, 0) for number in range(1000 + 4096 * n, 1000 + 4096 * (n + 1))]
        if not link.up:
            break
        request(b, a, calls, b"\xdc\x10\x00" + 4096 * b"\x01")
    assert n in (16, 17, 18)
    assert not link.up
    with pytest.raises(KeyError):
        b.engine.responder.outgoing[link]


def test_a_peer_that_does_not_read_large_answers_is_asked_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 64 MiB of answers for it nothing more of it is begun; what was is answered, and others are served."""
    crowd, a, b, served = pair(4, 100)
    link = b.engine.links.by_peer[f"{a.name}:{a.engine.address.epoch}"]
    monkeypatch.setattr(type(link), "takes_answers", lambda self: self is not link)
    calls = [ask(a, timeout=60.0) for _ in range(80)]
    crowd.run(0.05)
    for _ in range(80):
        answer(b, served, lambda body: bytes(1024 * 1024), most=1)
        crowd.run(0.01)
    assert b.engine.responder.outgoing[link].size > 64 * 1024 * 1024
    late = ask(a, timeout=60.0)
    crowd.run(0.05)
    assert not served.started
    monkeypatch.undo()
    b.wake()
    crowd.run(5.0)
    assert {call.outcome for call in calls} == {Outcome.OK}
    assert late.outcome is Outcome.BUSY
    crowd.check()


def test_cancels_and_mores_of_what_is_not_there() -> None:
    """Change nothing."""
    crowd, a, b, served = pair()
    ask(a)
    crowd.run(0.05)
    (running,) = taken(served)
    link = b.engine.links.by_peer[f"{a.name}:{a.engine.address.epoch}"]
    responder = b.engine.responder
    responder.receive_cancel(link, Cancel(b"", 0, 0, [0, 99, 2**53 - 1]), b"", crowd.now)
    responder.receive_more(link, More(b"", 0, 0, [Parts(1, 9, 9), Parts(99, 1, 1)]), b"", crowd.now)
    assert (running.cancelled, running.allowed_parts) == (False, 0)
    b.engine.check()


def test_more_never_takes_back() -> None:
    """Totals only grow."""
    crowd, a, b, served = pair()
    ask(a, stream=True)
    crowd.run(0.05)
    (running,) = taken(served)
    link = b.engine.links.by_peer[f"{a.name}:{a.engine.address.epoch}"]
    for parts in (10, 100, 50):
        b.engine.responder.receive_more(link, More(b"", 0, 0, [Parts(1, parts, parts)]), b"", crowd.now)
    assert (running.allowed_parts, running.allowed_bytes) == (100, MiB)


def test_calls_shorten_the_pipe_of_data() -> None:
    """While there are some, and for a second more."""
    crowd, a, b, served = pair()
    ask(a)
    crowd.run(0.05)
    link = a.engine.links.by_peer[f"{b.name}:{b.engine.address.epoch}"]
    link.unechoed_bytes = 100_000
    assert (link.has_room(), link.takes_calls()) == (False, True)
    link.unechoed_bytes = 0
    answer(b, served)
    crowd.run(8.0)
    link.unechoed_bytes = 100_000
    assert (link.has_room(), link.takes_calls()) == (True, True)
    link.unechoed_bytes = 0


def test_late_answers_count_nowhere() -> None:
    """They are only counted."""
    crowd, a, b, served = pair()
    call = ask(a)
    crowd.run(0.05)
    (running,) = taken(served)
    link = a.engine.links.by_peer[f"{b.name}:{b.engine.address.epoch}"]
    a.engine.caller.cancel(call, crowd.now)
    del a.engine.caller._cancels[link]
    b.engine.responder.answer(running, crowd.now, b"\x01", MSGPACK)
    b.wake()
    crowd.run(0.05)
    assert a.engine.caller.account().late == 1
    crowd.check()
