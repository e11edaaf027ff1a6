"""One link: hello, numbers, pipe, belief."""

from __future__ import annotations

import pytest

from peerfabric.link.link import HELLO_MAX, PIPE_FRAMES_MAX, Belief, Link
from peerfabric.link.sending import Sent
from peerfabric.wire.frames import MAGIC, Address, Hello

THEM = Address("them", 1, "them", "h", ["tcp://them:1"], [])


def hello(mine: int, yours: int, *, welcome: bool = False) -> Hello:
    return Hello(MAGIC, 1, "f", "us", THEM, mine, yours, welcome, 1000)


def up() -> Link:
    link = Link(1, 10, 0.0, THEM)
    link.connected = True
    assert link.receive_hello(hello(7, 10), 0.0) == (False, True, True)
    return link


def test_up_when_both_know_each_other() -> None:
    """A hello with our half in it; before that the peer only has introduced itself."""
    link = Link(1, 10, 0.0, THEM)
    assert link.receive_hello(hello(7, 0), 0.0) == (False, False, True)
    assert not link.up
    assert link.receive_hello(hello(7, 10, welcome=True), 0.1) == (False, True, False)
    assert (link.up, link.out_id, link.in_id) == (
        True,
        bytes([0, 0, 0, 10, 0, 0, 0, 7]),
        bytes([0, 0, 0, 7, 0, 0, 0, 10]),
    )
    link.check()


def test_a_larger_half_ends_the_life() -> None:
    """Numbers, credit and pipe begin anew; a smaller one is of the past."""
    link = up()
    link.sending.credit("jobs").grant(5, 5)
    link.next_number()
    assert link.receive_hello(hello(6, 10), 1.0) == (False, False, False)
    assert link.receive_hello(hello(8, 0), 1.0) == (True, False, True)
    assert (link.up, link.out_number, link.sending.credit("jobs").limit_messages, link.down_at) == (False, 0, 0, 1.0)
    link.check()


def test_restarting_draws_a_larger_half() -> None:
    """So that frames of before are strangers."""
    link = up()
    link.restart(link.mine + 1, 3.0)
    assert (link.mine, link.theirs, link.up, link.hello_at) == (11, 0, False, 3.0)


def test_hellos_slow_down() -> None:
    """100 ms, doubling to a second."""
    link = Link(1, 10, 0.0, THEM)
    waits = []
    for _ in range(6):
        link.hello_sent(0.0)
        waits.append(link.hello_at)
    assert waits == [0.1, 0.2, 0.4, 0.8, HELLO_MAX, HELLO_MAX]


@pytest.mark.parametrize(("number", "echo"), [(1, 0), (3, 0), (2, 1)])
def test_a_gap_a_repeat_and_an_impossible_echo(number: int, echo: int) -> None:
    """Each ends the life."""
    link = up()
    assert link.accept(1, 0, 10, 0.0)
    assert not link.accept(number, echo, 10, 0.0)


def test_echoes_empty_the_pipe() -> None:
    """DATA up to the echo is delivered; control frames in between do not matter."""
    link = up()
    for number in (1, 3, 4):
        link.data_sent(Sent(number, 100, "jobs", number, number + 1))
    link.out_number = 4
    assert [sent.number for sent in link.take_echo(3, 0.1)] == [1, 3]
    assert link.take_echo(2, 0.1) == []
    assert link.unechoed_bytes == 100
    link.check()


def test_the_pipe_is_limited_in_frames_and_bytes() -> None:
    """Control must never wait seconds behind data."""
    link = up()
    for number in range(PIPE_FRAMES_MAX):
        assert link.has_room()
        link.data_sent(Sent(number, 1, "jobs", number, number + 1))
    assert not link.has_room()
    other = up()
    other.data_sent(Sent(1, 300_000, "jobs", 1, 2))
    assert not other.has_room()


def test_what_is_sent_again_does_not_overtake_the_release_of_its_copy() -> None:
    """No DATA is made before it: the copy that is held there would be dropped with the one that has just come."""
    link = up()
    link.sending.releases["a:1:jobs"] = [1, 2]
    assert (link.has_room(), link.takes_calls()) == (False, True)
    link.sending.releases.clear()
    assert link.has_room()


def test_a_fast_link_has_a_longer_pipe() -> None:
    """250 ms at the measured rate."""
    link = up()
    link.out_number = 9
    for number in range(1, 9):
        link.data_sent(Sent(number, 200_000 if number == 8 else 1, "jobs", number, number + 1))
    link.take_echo(8, 0.1)
    assert link.rate == pytest.approx(2_000_070)
    link.data_sent(Sent(9, 400_000, "jobs", 9, 10))
    assert link.has_room()


def test_the_pipe_of_large_bodies_grows_within_milliseconds() -> None:
    """One at a time until the first measurement, which does not wait for more than a dozen of them."""
    link = up()
    for number in range(1, 12):
        link.out_number = number
        link.data_sent(Sent(number, 2**20, "jobs", number, number + 1))
        if link.has_room():
            break
        link.take_echo(number, number / 1000)
    assert (link.has_room(), link.unechoed_bytes) == (True, 2**20)
    link.check()


def test_belief() -> None:
    """Suspected once, alive as soon as it begins a new life."""
    link = up()
    link.suspect(5.0, 5.0)
    link.suspect(6.0, 6.0)
    assert (link.belief, link.suspect_at, link.has_room()) == (Belief.SUSPECT, 5.0, False)
    link.receive_hello(hello(7, 10), 6.5)
    assert (link.belief, link.heard_at) == (Belief.SUSPECT, 0.0)
    link.receive_hello(hello(8, 0), 7.0)
    assert (link.belief, link.heard_at) == (Belief.ALIVE, 0.0), "a hello is no evidence"
