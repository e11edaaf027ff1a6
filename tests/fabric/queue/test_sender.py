"""Dispatch: which link gets the next messages, and in which frames."""

from __future__ import annotations

from math import inf

import pytest

from peerfabric.link.link import Belief, Link
from peerfabric.queue.dispatch import candidates, choose, data_frames
from peerfabric.queue.runs import cost
from peerfabric.wire.frames import Data, decode_frame
from tests.fabric.helpers import bodies, dispatch, producer


def links(*names: str, messages: int = 10, size: int = 10_000) -> dict[str, Link]:
    made = {}
    for number, name in enumerate(names, 1):
        link = made[f"{name}:1"] = Link(number, number, 0.0)
        link.up = True
        link.sending.credit("jobs").grant(messages, size)
    return made


def test_the_least_outstanding_is_chosen() -> None:
    """And what waits is shared among those who could take it."""
    end = producer(consumers=2)
    end.accept(bodies(7), 0)
    dispatch(end, "a:1", messages=1)
    able = candidates(end, links("a", "b"), 0.0)
    best, messages, size = choose(end, able)
    assert (best.link.wire, messages, size) == (2, 3, 10_000)


def test_who_is_able() -> None:
    """Credit, room in the pipe, and belief that the peer lives are all needed."""
    end = producer(consumers=5)
    end.accept(bodies(1), 0)
    table = links("a", "b", "c", "d")
    table["a:1"].sending.credit("jobs").spend(10, 700, outstanding=0)
    table["b:1"].belief = Belief.HUNG
    table["c:1"].kept = [b"frame"]
    assert [candidate.link.wire for candidate in candidates(end, table, 0.0)] == [4]


def test_without_bytes_one_message_to_the_idle() -> None:
    """The byte limit never forbids the only outstanding message."""
    end = producer(consumers=2)
    end.accept(bodies(3), 0)
    dispatch(end, "a:1", messages=1)
    able = candidates(end, links("a", "b", size=0), 0.0)
    assert [(candidate.link.wire, candidate.messages) for candidate in able] == [(2, 1)]


@pytest.mark.parametrize(("refused", "counts"), [(False, [2, 2]), (True, [2])])
def test_frames_until_the_credit_is_spent(refused: bool, counts: list[int]) -> None:
    """Or until the socket refuses one: the next is made only after that."""
    end = producer(consumers=1)
    end.accept(bodies(5), 0)
    table = links("a", messages=4)
    table["a:1"].frame_bytes_max = 1024 + cost(bodies(2))
    made = []
    for _, (header, _) in data_frames(end, table, 0.0):
        data = decode_frame(header)
        assert isinstance(data, Data)
        made.append(data.count)
        if refused:
            table["a:1"].kept = [header]
    assert (made, end.waiting_count) == (counts, 5 - sum(counts))


def test_a_frame_tells_the_time_that_is_left_and_the_depth() -> None:
    """Time in whole milliseconds, rounded down, and never 0, which means for ever."""
    end = producer(consumers=1)
    for kind in (None, (inf, 2), (3.5, 0), (3.0015, 1)):
        end.accept(bodies(1), 0, kind=kind)
    table, told = links("a"), []
    table["a:1"].frame_bytes_max = 10_000
    for _, (header, _) in data_frames(end, table, 3.0):
        data = decode_frame(header)
        assert isinstance(data, Data)
        told.append((data.first, data.ttl_ms, data.depth))
    assert told == [(1, 0, 0), (2, 0, 2), (3, 500, 0), (4, 1, 1)]
