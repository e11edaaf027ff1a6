"""Suspects at their consumer."""

from __future__ import annotations

import msgspec
import pytest

from peerfabric.queue.delivery import Delivery
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.isolation import SETTLE_PATIENCE, SUSPECT_PATIENCE, Suspects
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import SUSPECT, Result
from tests.fabric.helpers import HUGE, STREAM, body_of, claim, consumer, data, receive, results, take


def suspect(end: IncomingQueue, first: int) -> None:
    receive(end, first, 1, flags=SUSPECT)


def started(end: IncomingQueue) -> Delivery:
    """A suspect that is handed out, once its producer knows of it."""
    suspect(end, 1)
    assert end.take(0.0) is None
    results(end, 1)
    end.settle("p:1", 1)
    return take(end)


def test_a_suspect_starts_alone_and_announced() -> None:
    """Its producer has to know before it runs, and nothing else runs until it knows the result, too."""
    end = consumer()
    receive(end, 1, 1)
    suspect(end, 2)
    other = take(end)
    claim(other)
    assert end.take(0.0) is None
    other.ack(0, 1)
    assert results(end, 1) == [Result(STREAM, "jobs", [1, 2])]
    assert end.take(0.0) is None
    assert results(end, 2) == [Result(STREAM, "jobs", starting=[2, 3])]
    end.settle("p:1", 1)
    assert end.take(0.0) is None
    end.settle("p:1", 2)
    receive(end, 3, 1)
    delivery = take(end)
    assert (delivery.first, end.take(0.0)) == (2, None)
    claim(delivery)
    delivery.ack(0, 1)
    results(end, 3)
    end.settle("p:1", 2)
    assert end.take(0.0) is None
    end.settle("p:1", 3)
    assert take(end).first == 3


@pytest.mark.parametrize("how", ["gone", "link renewed", "nothing to tell", "never settled"])
def test_a_suspect_whose_result_nobody_waits_for(how: str) -> None:
    """It keeps nobody from starting: its producer has gone, was told as the link began, took it back, or cannot say."""
    end = consumer()
    delivery = started(end)
    end.meet("o:1")
    end.fence("o:1", 1000.0)
    end._sources["o:1"].credit.granted_messages = end._sources["o:1"].credit.granted_bytes = 100
    end.receive("o:1", "other", msgspec.structs.replace(data(1, 1, 1), stream="o:1:jobs"), body_of(1, 1), 0.0)
    if how == "nothing to tell":
        end.release("p:1", STREAM, Ranges([(1, 2)]))
    else:
        claim(delivery)
        delivery.ack(0, 1)
        end.progress(0.0)
        assert end.take(0.0) is None
        if how == "gone":
            end.detach("p:1", 0.0, proven_gone=True)
        elif how == "link renewed":
            end.attach("p:1")
            end.told_all("p:1", 7)
            assert end.take(0.0) is None
            end.settle("p:1", 7)
        else:
            results(end, 2)
            assert end.take(0.0) is None
            assert take(end, SETTLE_PATIENCE).holder == "o:1"
            return
    assert take(end).holder == "o:1"


def test_a_suspect_whose_start_nobody_settles() -> None:
    """It starts after some time: its producer cannot write, and the rest of the process must go on."""
    end = consumer()
    suspect(end, 1)
    assert end.take(0.0) is None
    results(end, 1)
    assert end.take(0.0) is None
    assert take(end, SETTLE_PATIENCE).first == 1


def test_a_suspect_that_was_handed_out_too_late() -> None:
    """It was not started; it is announced again, and keeps nothing else from starting."""
    end = consumer()
    delivery = started(end)
    end.fence("p:1", 0.5)
    assert claim(delivery, now=1.0) == []
    end.park(delivery)
    end.fence("p:1", 1000.0)
    assert end.take(1.0) is None
    assert results(end, 2) == [Result(STREAM, "jobs", starting=[1, 2])]
    end.settle("p:1", 2)
    assert take(end, 1.0).first == 1


def of_one_process(*queues: str) -> list[IncomingQueue]:
    """Receiver' ends whose suspects know of each other."""
    of_process: dict[str, Suspects] = {}
    ends = [IncomingQueue(queue, 10.0, HUGE, 0.1, of_process) for queue in queues]
    for end in ends:
        end.meet("p:1")
        end.fence("p:1", 1000.0)
    return ends


def test_a_suspect_of_another_queue() -> None:
    """While it runs, and until its result is settled, nothing starts in this one."""
    jobs, more = of_one_process("jobs", "more")
    receive(more, 1, 1)
    delivery = started(jobs)
    assert more.take(0.0) is None
    claim(delivery)
    delivery.ack(0, 1)
    jobs.progress(0.0)
    assert jobs.take_results("p:1", 5) != []
    jobs.settle("p:1", 4)
    assert more.take(0.0) is None
    jobs.settle("p:1", 5)
    assert take(more).first == 1


def test_a_later_ack_is_not_waited_for() -> None:
    """The result of the suspect left in an earlier one."""
    end = consumer()
    delivery = started(end)
    claim(delivery)
    delivery.ack(0, 1)
    results(end, 2)
    receive(end, 1, 1, sent=2)  # a copy, which is acked anew
    results(end, 3)
    receive(end, 2, 1, sent=3)
    end.settle("p:1", 2)
    assert take(end).first == 2


def test_nothing_else_is_started_once_a_suspect_has_waited() -> None:
    """A busy consumer would never let it run."""
    jobs, more = of_one_process("jobs", "more")
    receive(jobs, 1, 1)
    running = take(jobs)
    claim(running)
    suspect(more, 1)
    receive(jobs, 2, 2)
    assert more.take(0.0) is None
    second = take(jobs, 0.9)
    assert second.first == 2
    receive(jobs, 4, 1)
    assert jobs.take(SUSPECT_PATIENCE) is None
    claim(second, 2)
    for delivery in (running, second):
        delivery.ack(0, delivery.count)
    jobs.progress(1.0)
    jobs.take_results("p:1", 1)
    assert jobs.take(1.0) is None, "it is not its turn"
    assert more.take(1.0) is None
    assert more.take_results("p:1", 2) == [Result(STREAM, "more", starting=[1, 2])]
    more.settle("p:1", 2)
    suspected = take(more, 1.0)
    assert suspected.suspect
    claim(suspected)
    suspected.ack(0, 1)
    more.progress(2.0)
    assert jobs.take(2.0) is None, "its result is not settled"
    more.take_results("p:1", 3)
    more.settle("p:1", 3)
    assert take(jobs, 9.0).first == 4


def test_suspects_of_two_queues_do_not_wait_for_each_other() -> None:
    """The one that was announced goes first, however long the other has waited."""
    jobs, more = of_one_process("jobs", "more")
    suspect(jobs, 1)
    suspect(more, 1)
    assert (jobs.take(0.0), more.take(0.0)) == (None, None)
    more.suspects._waits_since = 0.0
    jobs.take_results("p:1", 1)
    jobs.settle("p:1", 1)
    delivery = take(jobs, 50.0)
    assert more.take(50.0) is None
    claim(delivery)
    delivery.ack(0, 1)
    jobs.progress(50.0)
    jobs.take_results("p:1", 2)
    assert more.take(50.0) is None
    jobs.settle("p:1", 2)
    assert more.take(50.0) is None
    more.take_results("p:1", 3)
    more.settle("p:1", 3)
    assert take(more, 50.0).first == 1


def test_a_suspect_whose_producer_is_dead_needs_no_announcement() -> None:
    """Nobody is there to write down that it starts, nor to give it to somebody else."""
    end = consumer()
    suspect(end, 1)
    end.detach("p:1", 0.0, proven_gone=True)
    delivery = take(end)
    claim(delivery)
    delivery.ack(0, 1)
    end.progress(0.0)
    assert end.idle


def from_another(end: IncomingQueue, **more: int) -> None:
    """The first message of a producer "o:1"."""
    end.meet("o:1")
    end.fence("o:1", 1000.0)
    end._sources["o:1"].credit.granted_messages = end._sources["o:1"].credit.granted_bytes = 100
    frame = msgspec.structs.replace(data(1, 1, 1, **more), stream="o:1:jobs")
    end.receive("o:1", "other", frame, body_of(1, 1), 0.0)


def test_suspects_of_two_producers_run_one_after_the_other() -> None:
    """The second is announced only once the result of the first is settled: each death has one to blame."""
    end = consumer()
    suspect(end, 1)
    from_another(end, flags=SUSPECT)
    assert end.take(0.0) is None
    assert (len(end.take_results("p:1", 1)), len(end.take_results("o:1", 1))) == (1, 0)
    end.settle("p:1", 1)
    delivery = take(end)
    assert delivery.holder == "p:1"
    claim(delivery)
    delivery.ack(0, 1)
    results(end, 2)
    assert (end.take(0.0), end.take_results("o:1", 2)) == (None, [])
    end.settle("p:1", 2)
    assert end.take(0.0) is None
    assert len(end.take_results("o:1", 2)) == 1
    end.settle("o:1", 2)
    assert take(end).holder == "o:1"


@pytest.mark.parametrize("how", ["fence", "detached"])
def test_an_announcement_ends_with_its_link(how: str) -> None:
    """Its producer does not count on us any more; nothing else is held up, and it is announced again later."""
    end = consumer()
    suspect(end, 1)
    from_another(end)
    assert take(end).holder == "o:1"
    claimed = next(iter(end._open))
    claim(claimed)
    claimed.ack(0, 1)
    end.progress(0.0)
    end.take_results("o:1", 1)
    assert end.take(0.0) is None, "it is announced"
    if how == "fence":
        end.fence("p:1", 0.0)
    else:
        end.detach("p:1", 0.0, proven_gone=False)
    end._sources["o:1"].credit.granted_messages = end._sources["o:1"].credit.granted_bytes = 1000
    frame = msgspec.structs.replace(data(2, 1, 2), stream="o:1:jobs")
    end.receive("o:1", "other", frame, body_of(2, 1), 0.0)
    assert take(end, 0.5).holder == "o:1"


def test_a_suspect_waits_until_results_have_left() -> None:
    """Else its death would take them along, and their messages would be accused with it."""
    end = consumer()
    receive(end, 1, 1)
    other = take(end)
    claim(other)
    suspect(end, 2)
    other.ack(0, 1)
    end.progress(0.0)
    assert end.take(0.0) is None
    [result] = results(end, 1)
    assert result.starting == []
