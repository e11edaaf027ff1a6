"""What a consumer remembers of one stream."""

from __future__ import annotations

from peerfabric.queue.received import Dedup


def test_a_copy_of_held_is_neither_new_nor_finished() -> None:
    """It only renews what is here."""
    dedup = Dedup()
    assert dedup.receive(1, 4) == ([(1, 4)], [])
    assert dedup.receive(2, 6) == ([(4, 6)], [])


def test_a_copy_of_done_is_acked_again() -> None:
    """What was processed is not run again."""
    dedup = Dedup()
    dedup.receive(1, 4)
    dedup.finish(2, 3)
    assert dedup.receive(1, 4) == ([], [(2, 3)])
    dedup.check()


def test_below_the_floor_everything_is_finished() -> None:
    """The producer has settled it, whoever processed it."""
    dedup = Dedup()
    dedup.raise_floor(10)
    assert dedup.receive(8, 12) == ([(10, 12)], [(8, 10)])
    assert dedup.receive(3, 5) == ([], [(3, 5)])


def test_memory_ends_with_the_settled_ack() -> None:
    """An entry of done is kept until the producer cannot forget its ACK."""
    dedup = Dedup()
    dedup.receive(1, 5)
    dedup.finish(1, 3)
    dedup.reported(7)
    dedup.finish(3, 5)
    dedup.settle(6)
    assert list(dedup.done) == [(1, 5)]
    dedup.settle(7)
    assert list(dedup.done) == [(3, 5)]
    dedup.reported(8)
    dedup.settle(8)
    assert dedup.idle
    dedup.check()


def test_a_new_link_begins_a_new_count() -> None:
    """ACK numbers start again with what INTEREST tells; old high numbers settle nothing."""
    dedup = Dedup()
    dedup.receive(1, 3)
    dedup.finish(1, 2)
    dedup.reported(57)
    dedup.reported_again(1)
    dedup.finish(2, 3)
    dedup.reported(2)
    dedup.settle(1)
    assert list(dedup.done) == [(2, 3)]


def test_let_go_is_new_when_it_returns() -> None:
    """What was given back unprocessed may come again."""
    dedup = Dedup()
    dedup.receive(1, 3)
    dedup.let_go(1, 3)
    assert dedup.receive(1, 3) == ([(1, 3)], [])
