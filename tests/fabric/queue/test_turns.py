"""Producers that take turns at one consumer."""

from __future__ import annotations

from peerfabric.queue.delivery import Delivery
from peerfabric.queue.sources import Source, Turns
from peerfabric.wire.frames import RAW


def source(peer: str, *costs: int) -> Source:
    """A producer of which a delivery of each of these costs is buffered."""
    made = Source(peer)
    made.fence = 10.0
    for first, cost in enumerate(costs, 1):
        made.buffer.append(
            Delivery(
                peer=peer,
                sender="",
                stream=f"{peer}:jobs",
                queue="jobs",
                first=first,
                count=1,
                attempt=1,
                body=b"",
                codec=RAW,
                sent_ms=0,
                cost=cost,
            )
        )
    return made


def taken(turns: Turns, count: int, now: float = 0.0) -> list[str | None]:
    """Whose deliveries come next."""
    found = []
    for _ in range(count):
        delivery = turns.take(now)
        turns.check()
        found.append(delivery.peer if delivery is not None else None)
    return found


def test_turns_are_counted_in_bytes() -> None:
    """One with small messages hands out several while another hands out a large one."""
    turns = Turns()
    for each in (source("p", 300_000, 300_000), source("q", *[100_000] * 4)):
        turns.join(each)
        turns.join(each)
    assert taken(turns, 7) == ["p", "q", "q", "q", "p", "q", None]
    assert len(turns) == 0


def test_who_is_behind_the_fence_is_passed_over() -> None:
    """Its messages keep their place until it has answered."""
    turns = Turns()
    late, other = source("p", 1, 1), source("q", 1)
    late.fence = 5.0
    turns.join(late)
    turns.join(other)
    assert (turns.available(6.0), taken(turns, 2, 6.0), turns.available(6.0)) == (True, ["q", None], False)
    late.fence = 9.0
    assert taken(turns, 2, 6.0) == ["p", "p"]


def test_who_has_nothing_left_takes_no_turn() -> None:
    """It was taken back before its turn came; what comes later joins again."""
    turns = Turns()
    empty = source("p", 1)
    turns.join(empty)
    delivery = empty.buffer.pop()
    assert (taken(turns, 1), empty.queued) == ([None], False)
    empty.buffer.append(delivery)
    turns.join(empty)
    assert taken(turns, 2) == ["p", None]
