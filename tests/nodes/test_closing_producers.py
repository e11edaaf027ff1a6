"""Closing a producer, over both fronts: what it accepted is seen to, its name is free, and no number comes twice."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Node, NodeClosed, TimedOut
from peerfabric.spool import Spool
from peerfabric.wire.frames import NAMES_MAX
from tests.nodes.conftest import DEADLINE, Front, eventually


def core(handle: Any) -> Any:
    """The asynchronous handle below one of either front."""
    target = getattr(handle, "target", handle)
    return getattr(target, "_async", target)


def produces(node: Any, name: str) -> tuple[str, ...]:
    """What the peer of that name produces, as seen from `node`."""
    return next((peer.produces for peer in node.peers() if peer.name == name), ())


def take(consumer: Any, count: int) -> list[tuple[int, Any]]:
    """(sequence, body) of the next messages, acked."""
    got = []
    for _ in range(count):
        message = consumer.get(timeout=DEADLINE)
        got.append((int(message.id.rpartition("/")[2]), message.body))
        message.ack()
    return got


@pytest.fixture(params=[False, True], ids=["memory", "spool"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Options of a node that keeps its messages there."""
    return {"spool": tmp_path / "spool"} if request.param else {}


def test_a_closed_producer_takes_nothing_and_its_name_is_free(front: Front, spool: dict[str, Any]) -> None:
    """Another one of that name, which may be of another type, goes on counting; consumers had forgotten the stream."""
    with front.node("shop", **spool) as shop, front.node("kitchen") as kitchen:
        consumer, end = kitchen.consumer("jobs", Any), None
        numbers = []
        for life, body_type in enumerate((int, str, int)):
            jobs = shop.producer("jobs", body_type)
            end = core(consumer).end
            numbers += [jobs.send(body_type(life)).sequence, jobs.send(body_type(life)).sequence]
            eventually(lambda: produces(kitchen, "shop") == ("jobs",))
            assert [body for _, body in take(consumer, 2)] == [body_type(life)] * 2
            jobs.close(timeout=DEADLINE)
            body = body_type(1)
            for call, given in ((jobs.send, [body]), (jobs.send_many, [[body]]), (jobs.flush, []), (jobs.ready, [])):
                with pytest.raises(NodeClosed, match=r"this producer is closed; node.producer\('jobs', …\) opens"):
                    call(*given)
            jobs.close()
            eventually(lambda: produces(kitchen, "shop") == ())
            eventually(lambda: not list(end.producers.streams), "forgetting the stream")  # noqa: B023
            assert shop.statistics().producers == ()
        assert numbers == [1, 2, 3, 4, 5, 6]


def test_closing_waits_for_what_is_not_settled(front: Front) -> None:
    """In vain, it keeps its name and takes nothing; asked for again it goes on as if nothing had happened."""
    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        jobs = shop.producer("jobs", int)
        jobs.send(1)
        with pytest.raises(TimedOut, match="1 message is not settled and 0 consumers are known"):
            jobs.close(timeout=0.05)
        with pytest.raises(NodeClosed):
            jobs.send(2)
        assert core(shop.producer("jobs", int)) is core(jobs)
        assert jobs.send(2).sequence == 2
        with pytest.raises(TimedOut):
            jobs.close(timeout=0.05)
        assert take(kitchen.consumer("jobs", int), 2) == [(1, 1), (2, 2)]
        jobs.close(timeout=DEADLINE)
        assert core(shop.producer("jobs", int)) is not core(jobs)


def test_a_call_that_closes_ends_if_the_producer_is_asked_for_again(tmp_path: Path) -> None:
    """By another thread, which then sends."""
    with Node("shop") as shop:
        jobs = shop.producer("jobs", int)
        jobs.send(1)
        closing = threading.Thread(target=jobs.close)
        closing.start()
        eventually(lambda: core(jobs).closing)
        assert shop.producer("jobs", int).send(2).sequence == 2
        closing.join(DEADLINE)
        assert not closing.is_alive()
        with Node("kitchen") as kitchen:
            take(kitchen.consumer("jobs", int), 2)
            jobs.flush(timeout=DEADLINE)


def test_it_is_asked_for_and_closed_again_before_a_call_that_closes_ends() -> None:
    """What was sent in between counts: that call waits for it, too."""
    with Node("shop") as shop, Node("kitchen") as kitchen:
        jobs, consumer = shop.producer("jobs", int), None
        handle = core(jobs)
        leave = handle._leave

        async def slowly(handle: Any, gate: Any) -> Any:
            nonlocal consumer
            if consumer is None:
                shop.producer("jobs", int).send(1)
                handle._outbox.retire()
                consumer = kitchen.consumer("jobs", int)
                settling.start()
            return await leave(handle, gate)

        settling = threading.Thread(target=lambda: consumer and take(consumer, 1))
        handle._leave = slowly
        jobs.close(timeout=DEADLINE)
        settling.join(DEADLINE)
        assert core(shop.producer("jobs", int)) is not handle


def test_one_that_never_sent_and_one_of_a_node_that_never_started(front: Front, spool: dict[str, Any]) -> None:
    """They have nothing to wait for."""
    node = front.node("shop", **spool)
    producer = node.producer("jobs", int)
    producer.close()
    with node:
        again = node.producer("jobs", int)
        assert core(again) is not core(producer)
        again.close(timeout=DEADLINE)
        assert node.producer("jobs", str).send("x", ttl=0.001).sequence == 1
    again.close()  # the node is closed by now, and with it all of it


def test_dead_letters_end_with_a_producer_that_no_spool_keeps(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    """Which is said."""
    with front.node("shop") as shop, front.node("kitchen") as kitchen:
        jobs, consumer = shop.producer("jobs", int), kitchen.consumer("jobs", int)
        jobs.send(1)
        consumer.get(timeout=DEADLINE).reject("no")
        jobs.close(timeout=DEADLINE)
        assert shop.dead_letters("jobs") == []
        assert "closed with 1 dead letter, which no spool keeps" in caplog.text


def test_what_the_spool_keeps_is_sent_though_the_producer_is_closed(front: Front, tmp_path: Path) -> None:
    """Nobody waits for it; once it is settled nothing of the queue is left on disk. Dead letters stay there."""
    folder = tmp_path / "spool" / "queues" / "jobs"
    with front.node("shop", spool=tmp_path / "spool") as shop:
        jobs = shop.producer("jobs", int)
        jobs.send_many([1, 2])
        jobs.close(timeout=DEADLINE)
        with front.node("kitchen") as kitchen:
            consumer = kitchen.consumer("jobs", int)
            assert take(consumer, 2) == [(1, 1), (2, 2)]
            eventually(lambda: not folder.exists(), "removing the files")
            again = shop.producer("jobs", int)
            assert again.send(3).sequence == 3
            consumer.get(timeout=DEADLINE).reject("no")
            again.close(timeout=DEADLINE)
            eventually(lambda: [letter.reason for letter in shop.dead_letters("jobs")] == ["rejected"])
    with front.node("shop", spool=tmp_path / "spool") as shop:
        assert [letter.reason for letter in shop.dead_letters("jobs")] == ["rejected"]


def test_numbers_of_a_log_that_was_removed_are_not_missed_at_the_next_start(front: Front, tmp_path: Path) -> None:
    """What was given out before it was made anew is settled there."""
    with front.node("shop", spool=tmp_path / "spool") as shop, front.node("kitchen") as kitchen:
        consumer = kitchen.consumer("jobs", int)
        for number in range(1, 4):
            jobs = shop.producer("jobs", int)
            assert jobs.send(number).sequence == number
            take(consumer, 1)
            jobs.close(timeout=DEADLINE)
            eventually(lambda: not (tmp_path / "spool" / "queues" / "jobs").exists(), "removing the files")
        consumer.close()
        shop.producer("jobs", int).send(4)
        shutil.copytree(tmp_path / "spool", tmp_path / "killed")  # what a kill would leave now
    assert damaged(tmp_path / "killed") == damaged(tmp_path / "spool") == []
    with front.node("shop", spool=tmp_path / "spool") as shop:
        [account] = shop.statistics().producers
        assert (account.recovered, account.damaged) == (1, 0)


def damaged(folder: Path) -> list[tuple[int, int, int]]:
    """What the log of jobs would report as lost at a start."""
    spool = Spool.inspect(str(folder))
    try:
        return spool.queue("jobs", unix_ms=0).recovery.damaged
    finally:
        spool.close()


def test_only_open_producers_count(front: Front) -> None:
    """More names than a node may have, one after the other."""
    with front.node("shop") as shop:
        for number in range(NAMES_MAX + 10):
            shop.producer(f"reply-{number}", int).close(timeout=DEADLINE)
        assert shop.producer("one-more", int).queue == "one-more"
        assert len(core(shop.producer("one-more", int))._node.engine.interests.produces) == 1


def rss_mib() -> float:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError


@pytest.mark.long
@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "spool"])
def test_a_hundred_thousand_producers(tmp_path: Path, *, spooled: bool) -> None:
    """Some send a message that a consumer gets; names come again, and no number does. Memory grows by 20 MiB."""
    options: dict[str, Any] = {"spool": tmp_path / "spool"} if spooled else {}
    with Node("shop", **options) as shop, Node("kitchen") as kitchen:
        seen: set[str] = set()

        def cycle(number: int) -> None:
            jobs = shop.producer(f"reply-{number}", int)
            seen.add(jobs.send(number).id) if number % 100 == 0 else None
            if number % 100 == 0:
                with consumers[number % 1000 // 100].get(timeout=DEADLINE) as body:
                    assert body == number
            jobs.close(timeout=DEADLINE)

        names = [f"reply-{n}" for n in range(0, 1000, 100)]
        consumers = [kitchen.consumer(name, int) for name in names]
        for number in range(2_000):
            cycle(number % 1000)
        before = rss_mib()
        for number in range(100_000):
            if number % 100 == 0:
                cycle(number % 1000)
            else:
                shop.producer(f"other-{number}", int).close(timeout=DEADLINE)
        assert len(seen) == 20 + 1000
        assert rss_mib() - before <= 20
