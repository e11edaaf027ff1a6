"""Which link gets the next messages."""

from __future__ import annotations

from peerfabric.dispatch import candidates, choose
from peerfabric.link import Belief, Link
from tests.fabric.helpers import bodies, dispatch, producer


def links(*names: str, messages: int = 10, size: int = 10_000) -> dict[str, Link]:
    made = {}
    for number, name in enumerate(names, 1):
        link = made[f"{name}:1"] = Link(number, number, 0.0)
        link.up = True
        link.credit("jobs").grant(messages, size)
    return made


def test_the_least_outstanding_is_chosen() -> None:
    """And what waits is shared among those who could take it."""
    end = producer(consumers=2)
    end.accept(bodies(7), 0)
    dispatch(end, "a:1", messages=1)
    able = candidates(end, links("a", "b"))
    best, messages, size = choose(end, able)
    assert (best.link.wire, messages, size) == (2, 3, 10_000)


def test_who_is_able() -> None:
    """Credit, room in the pipe, and belief that the peer lives are all needed."""
    end = producer(consumers=5)
    end.accept(bodies(1), 0)
    table = links("a", "b", "c", "d")
    table["a:1"].credit("jobs").spend(10, 700, outstanding=0)
    table["b:1"].belief = Belief.HUNG
    table["c:1"].refused = [b"frame"]
    assert [candidate.link.wire for candidate in candidates(end, table)] == [4]


def test_without_bytes_one_message_to_the_idle() -> None:
    """The byte limit never forbids the only outstanding message."""
    end = producer(consumers=2)
    end.accept(bodies(3), 0)
    dispatch(end, "a:1", messages=1)
    able = candidates(end, links("a", "b", size=0))
    assert [(candidate.link.wire, candidate.messages) for candidate in able] == [(2, 1)]
