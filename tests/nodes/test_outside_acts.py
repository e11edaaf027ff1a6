"""Acts on nodes from outside of their programs: pause, purge, dead letters, traces, taps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from peerfabric import BadName, Node, NodeClosed, Options
from peerfabric.nodes.aio import outside as module
from peerfabric.nodes.aio.outside import Busy
from peerfabric.nodes.taps import COPY_BYTES, PER_SECOND, Taps, shown_body
from peerfabric.wire.frames import MSGPACK, RAW
from tests.nodes.conftest import Child, Front, eventually
from tests.nodes.test_outside import left_behind, outside

# Pause


def test_pause_and_resume(front: Front) -> None:
    """Nothing is taken meanwhile, and then all of it; the status says so."""
    with front.node("a") as a, front.node("b") as b:
        out, jobs = a.producer("jobs", int), b.consumer("jobs", int)
        out.ready(timeout=60)
        look = outside("b")
        assert look.pause("jobs")
        assert not look.pause("others")
        out.send_many([1, 2, 3])
        assert look.status().takes[0].paused
        with pytest.raises(TimeoutError):
            jobs.get(timeout=0.3)
        taken: list[int] = []

        def take() -> None:
            for _ in range(3):
                with jobs.get(60) as body:
                    taken.append(body)

        taker = threading.Thread(target=take)
        taker.start()
        assert out_waits(outside("a"), 3)
        assert look.resume("jobs")
        taker.join(60)
        assert taken == [1, 2, 3]
        assert not look.status().takes[0].paused
        out.flush(60)


def out_waits(look: Any, count: int) -> bool:
    eventually(lambda: look.status().sends[0].account.waiting == count, "all of them waiting")
    return True


def test_a_handler_finishes_what_it_has(runtime: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And another consumer gets the rest; both acts are in the log."""
    caplog.set_level(logging.WARNING, "peerfabric")
    begun, over = threading.Event(), threading.Event()
    with Node("a") as a, Node("b") as b:
        done: list[tuple[str, int]] = []

        @a.on_message("jobs")
        def slow(body: int) -> None:
            begun.set()
            over.wait(60)
            done.append(("a", body))

        out = a.producer("jobs", int)
        out.send(1)
        assert begun.wait(60)
        outside("a").pause("jobs")

        @b.on_message("jobs")
        def quick(body: int) -> None:
            done.append(("b", body))

        out.ready(2, timeout=60)
        out.send_many([2, 3])
        eventually(lambda: len(done) == 2, "the others at another one")
        over.set()
        out.flush(60)
        assert sorted(done) == [("a", 1), ("b", 2), ("b", 3)]
        outside("a").resume("jobs")
    told = [record.getMessage() for record in caplog.records if "somebody" in record.getMessage()]
    assert told == [
        "a: somebody has paused queue 'jobs' here; nothing of it is taken before it is resumed, or a restart"
    ]


# Purge


def test_purge(front: Front) -> None:
    """What waits is dropped and counted, also what the pump has not taken; who waits for it learns that."""
    with front.node("a") as a:
        out = a.producer("jobs", int, buffer_bytes=300)
        out.send_many([1, 2, 3])
        receipt = out.send(4)
        look = outside("a")
        assert look.purge("jobs") == 4
        assert look.purge("others") == 0
        assert out.state(receipt) == "dropped"
        out.flush(60)
        account = look.status().sends[0].account
        assert (account.dropped, account.accepted, account.waiting, account.closes) == (4, 4, 0, True)
        out.send(5)
        with a.consumer("jobs", int).get(60) as body:
            assert body == 5
        assert look.purge("jobs") == 0


def test_purge_makes_room(runtime: Path) -> None:
    """Senders that wait for it go on."""
    with left_behind("a") as a:
        out = a.producer("jobs", int, buffer_bytes=100)
        out.send(1)
        look = outside("a")
        sender = threading.Thread(target=out.send, args=(2,))
        sender.start()
        eventually(lambda: look.status().sends[0].blocked_senders, "one that waits")
        assert look.purge("jobs") == 1
        sender.join(60)
        assert not sender.is_alive()


PURGED = """
    import os, sys, time
    from peerfabric import Node
    from peerfabric.nodes import process
    from peerfabric.nodes.storage.store import Store

    write_cursor = Store.write_cursor

    def slow(store):
        time.sleep(0.2)
        write_cursor(store)

    Store.write_cursor = slow
    node = Node("a", spool=sys.argv[1])
    out = node.producer("jobs", int, buffer_bytes=1000)
    out.send_many(range(1000))
    [resident] = process.residents()
    print(resident.outside().purge("jobs"), flush=True)
    if sys.argv[2] == "send":
        out.send(7)
    os.kill(os.getpid(), 9)
    """


@pytest.mark.parametrize("after", ["", "send"])
def test_purged_messages_do_not_come_back(start: Callable[..., Child], tmp_path: Path, after: str) -> None:
    """Those on disk are settled there when the call returns, whatever happens to the process then."""
    child = start(PURGED, str(tmp_path / "spool"), after)
    assert child.line() == "1000"
    child.finish()
    with Node("a", spool=tmp_path / "spool") as a:
        if after:
            with a.consumer("jobs", int).get(60) as body:
                assert body == 7
        account = outside("a").status().sends[0].account
        assert (account.recovered, account.waiting, account.on_disk) == (bool(after), 0, 0)


# Dead letters


def rejected(node: Any, queue: str, count: int, **options: Any) -> None:
    """Leave dead letters of `queue` at a node."""
    out, jobs = node.producer(queue, int, **options), node.consumer(queue, int)
    out.send_many(range(count))
    for _ in range(count):
        jobs.get(60).reject("no")
    jobs.close()
    eventually(lambda: len(node.dead_letters(queue)) == count, "the letters")


def test_letters(front: Front) -> None:
    """Of one queue or all, as many as were asked for; retried and dropped by id, once."""
    with front.node("a") as a:
        rejected(a, "jobs", 2)
        rejected(a, "more", 1)
        look = outside("a")
        eventually(lambda: len(look.dead(None, 10)) == 3, "three letters")
        assert [each["queue"] for each in look.dead(None, 10)] == ["jobs", "jobs", "more"]
        assert len(look.dead(None, 2)) == 2
        assert look.dead("none", 10) == []
        first, second = look.dead("jobs", 10)
        expected = {"queue": "jobs", "reason": "rejected", "error": "no", "attempts": 1, "deaths": 0, "headers": {}}
        assert {name: first[name] for name in expected} == expected
        assert (first["body"], second["body"], first["slot"], first["origin"]) == (0, 1, None, None)
        assert abs(first["sent_at"] - time.time()) < 60
        strange = ["x", "x/y", f"{first['id']}0/1", "p:1:jobs/1"]
        outcomes = look.retry([first["id"], first["id"], *strange])
        assert outcomes == [{"id": first["id"], "done": True, "problem": ""}]
        with a.consumer("jobs", int).get(60) as body:
            assert body == 0
        again = look.retry([first["id"]])
        assert again == [{"id": first["id"], "done": False, "problem": "it is no dead letter any more"}]
        assert look.drop([second["id"]])[0]["done"]
        assert look.dead("jobs", 10) == []
        assert outside("a").status().sends[0].account.closes


def test_letters_of_an_earlier_life(runtime: Path, tmp_path: Path) -> None:
    """The program has not asked for their queue, and may later, with whatever type; nothing gets a number twice."""
    with Node("a", spool=tmp_path) as a:
        rejected(a, "jobs", 3)
    with Node("a", spool=tmp_path) as a:
        a.statistics()
        look = outside("a")
        letters = look.dead("jobs", 10)
        assert [each["slot"] for each in letters] == [0, 0, 0]
        assert look.retry([letters[0]["id"]])[0]["done"]
        assert look.drop([letters[1]["id"]])[0]["done"]
        out = a.producer("jobs", int)
        out.send(7)
        jobs = a.consumer("jobs", int)
        taken = [jobs.get(60) for _ in range(1)]
        taken[0].ack()
        taken.append(jobs.get(60))
        taken[1].ack()
        assert [each.body for each in taken] == [0, 7]
        assert taken[0].origin == letters[0]["id"]
        out.flush(60)
        assert look.status().sends[0].account.closes
    with Node("a", spool=tmp_path) as a:
        a.statistics()
        assert [each["id"] for each in outside("a").dead(None, 10)] == [letters[2]["id"]]


def test_letters_of_a_slot_that_nobody_has(runtime: Path, tmp_path: Path) -> None:
    """They are shown by who has the folder, and sent again by who adopts the slot for it."""
    with Node("first", spool=tmp_path) as first, Node("second", spool=tmp_path) as second:
        first.statistics()
        rejected(second, "jobs", 2)
    with Node("third", spool=tmp_path) as third:
        jobs = third.consumer("jobs", int)
        look = outside("third")
        letters = look.dead("jobs", 10)
        assert [(each["slot"], each["body"]) for each in letters] == [(1, 0), (1, 1)]
        assert look.drop([letters[0]["id"]]) == [{"id": letters[0]["id"], "done": True, "problem": ""}]
        eventually(lambda: len(look.dead("jobs", 10)) == 1, "the end of the adopted node, with what is left")
        assert look.retry([letters[1]["id"]])[0]["done"]
        with jobs.get(60) as body:
            assert body == 1


def test_several_letters_of_one_slot(runtime: Path, tmp_path: Path) -> None:
    """All of them in one go, though the slot is adopted for the first."""
    with Node("first", spool=tmp_path) as first, Node("second", spool=tmp_path) as second:
        first.statistics()
        rejected(second, "jobs", 3)
    with Node("third", spool=tmp_path) as third:
        jobs = third.consumer("jobs", int)
        look = outside("third")
        ids = [each["id"] for each in look.dead("jobs", 10)]
        assert [each["done"] for each in look.retry(ids)] == [True, True, True]
        for _ in range(3):
            jobs.get(60).ack()


def test_letters_of_an_adopted_slot(runtime: Path, tmp_path: Path) -> None:
    """It is a node of its own to who looks, and no letter is shown twice."""
    from peerfabric.nodes import process

    with Node("first", spool=tmp_path) as first, Node("second", spool=tmp_path) as second:
        first.statistics()
        rejected(second, "jobs", 2)
    with Node("third", spool=tmp_path) as third:
        third.statistics()
        [own] = process.residents()
        letters = own.outside().dead(None, 10)
        assert own.outside().retry([letters[0]["id"]])[0]["done"]
        looks = [each.outside() for each in process.residents()]
        assert [look.status().adopted for look in looks] == [None, 1]
        assert [[each["id"] for each in look.dead(None, 10)] for look in looks] == [[], [letters[1]["id"]]]
        assert looks[0].drop([letters[1]["id"]]) == []
        assert looks[1].drop([letters[1]["id"]])[0]["done"]
        assert looks[1].purge("jobs") == 1


def test_a_letter_that_cannot_be_sent_again(runtime: Path) -> None:
    """The outcome says why, and the others are seen to."""
    with Node("a") as a:
        rejected(a, "jobs", 1)
        look = outside("a")
        [letter] = look.dead("jobs", 10)
    [outcome] = look.retry([letter["id"]])
    assert (outcome["done"], outcome["problem"]) == (False, str(NodeClosed()))


# Traces


def test_trace(front: Front) -> None:
    """At both sides, with the place where it is in hand."""
    with front.node("a") as a, front.node("b") as b:
        out, jobs = a.producer("jobs", int), b.consumer("jobs", int)
        receipt = out.send(1)
        message = jobs.get(60)
        eventually(lambda: outside("a").trace(message.id)[0]["state"] == "delivered", "an echo")
        [sent], [received] = outside("a").trace(receipt.id), outside("b").trace(receipt.id)
        assert (sent["side"], sent["queue"], sent["consumer"], sent["attempt"]) == ("producer", "jobs", "b", 1)
        assert (received["side"], received["state"], received["producer"]) == ("consumer", "in hand", "a")
        assert received["handler"] == ""
        message.ack()
        out.flush(60)
        assert outside("a").trace(receipt.id) == [{"side": "producer", "queue": "jobs", "state": "processed"}]
        for strange in ("", "/", "x/y", "1", f"{receipt.id}9", "p:1:jobs/1", "p:1:jobs/" + "9" * 30):
            assert outside("a").trace(strange) == []


# Taps


def test_tap(front: Front) -> None:
    """Copies of what is accepted and published under that name, until it ends; nothing is taken from anybody."""
    seen: SimpleQueue[dict[str, Any]] = SimpleQueue()
    with front.node("a") as a:
        out, news = a.producer("shop.jobs", int), a.publisher("shop.news", dict)
        other = a.producer("jobs", int)
        jobs = a.consumer("shop.jobs", int)
        end = outside("a").tap("shop.*", seen.put)
        other.send(9)
        receipt = out.send(7, headers={"k": "v"})
        first = seen.get(timeout=60)
        assert abs(first.pop("sent_at") - time.time()) < 60
        assert first == {"kind": "queue", "name": "shop.jobs", "id": receipt.id, "headers": {"k": "v"}, "body": 7}
        news.publish({"a": b"x"})
        second = seen.get(timeout=60)
        assert (second["kind"], second["name"], second["sequence"]) == ("topic", "shop.news", 1)
        assert second["body"] == {"a": "eA=="}
        with jobs.get(60) as body:
            assert body == 7
        end()
        end()
        out.send(8)
        for consumer in (jobs, a.consumer("jobs", int)):
            consumer.get(60).ack()
        assert seen.empty()
        assert [each.taps for each in contexts()] == [None]


def contexts() -> list[Any]:
    from peerfabric.nodes import process

    residents: list[Any] = process.residents()
    return [each.node for each in residents]


def test_a_tap_is_given_few_of_many(runtime: Path) -> None:
    """As many as it takes in a second; of the others the number, and all of them went where they should."""
    seen: SimpleQueue[dict[str, Any]] = SimpleQueue()
    with Node("a") as a:
        out = a.producer("jobs", int)
        outside("a").tap(">", seen.put)
        out.send_many(range(1000))
        copies, skipped = 0, 0
        while copies + skipped < 1000:
            each = seen.get(timeout=60)
            skipped += each.get("skipped", 0)
            copies += "body" in each
        assert PER_SECOND <= copies < 1000
        jobs = a.consumer("jobs", int)
        batches = jobs.batches(max_size=1000)
        taken = 0
        while taken < 1000:
            batch = next(batches)
            taken += len(batch)
            batch.ack()
        out.flush(60)


def test_a_tap_is_given_fewer_that_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single one however large, and then as much in all as of small ones: the I/O thread has other things to do."""
    now = 0.0
    monkeypatch.setattr("peerfabric.nodes.taps.clock", lambda: now)
    seen: list[dict[str, Any]] = []
    taps = Taps()
    taps.add("jobs", seen.append)

    def shown(*sizes: int) -> tuple[int, int]:
        seen.clear()
        taps.accepted("queue", "jobs", [bytes(size) for size in sizes], None, RAW, 0, lambda index: {})
        taps.look()
        return sum("body" in each for each in seen), sum(each.get("skipped", 0) for each in seen)

    assert shown(3 * PER_SECOND * COPY_BYTES, 1) == (1, 1)
    now = 2.0  # not paid for yet
    assert shown(1) == (0, 1)
    now = 4.0
    assert shown(*[COPY_BYTES] * PER_SECOND) == (PER_SECOND // 2, PER_SECOND // 2)


def test_a_tap_that_fails(runtime: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It ends, the log says so once, and the node and other taps go on."""
    seen: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def fail(each: dict[str, Any]) -> None:
        raise ValueError("full")

    with Node("a") as a:
        out = a.producer("jobs", int)
        outside("a").tap("jobs", fail)
        outside("a").tap("jobs", seen.put)
        for body in (1, 2):
            out.send(body)
            assert seen.get(timeout=60)["body"] == body
            a.consumer("jobs", int).get(60).ack()
        assert [len(each.taps) for each in contexts()] == [1]
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert told == ["a tap of 'jobs' failed and gets nothing more: ValueError: full"]


def test_a_pattern_that_is_none(runtime: Path) -> None:
    """It is refused, and nothing costs anything."""
    with Node("a") as a:
        a.statistics()
        with pytest.raises(BadName):
            outside("a").tap("a b", print)
        assert [each.taps for each in contexts()] == [None]


def test_bodies_as_json_has_them() -> None:
    """What JSON has no words for is shown as bytes."""
    import msgspec

    encode = msgspec.msgpack.encode
    assert shown_body(encode({"a": [1, None, 1.5]}), MSGPACK) == {"a": [1, None, 1.5]}
    assert shown_body(encode(b"\xff\x00"), MSGPACK) == {"base64": "/wA="}
    assert shown_body(b"\xc1", MSGPACK) == {"base64": "wQ=="}
    assert shown_body(encode(msgspec.msgpack.Ext(5, b"x")), MSGPACK) == {"base64": "1AV4"}
    deep = b"\x91" * 5000 + b"\x01"
    assert "base64" in shown_body(deep, MSGPACK)


# Of all


def test_a_busy_engine_refuses_acts(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says so in time, and has done nothing."""
    monkeypatch.setattr(module, "WAIT", 0.05)
    with Node("a", options=Options()) as a:
        rejected(a, "jobs", 1)
        look = outside("a")
        [letter] = look.dead("jobs", 10)
        begun, over = threading.Event(), threading.Event()

        def hold() -> None:
            with contexts()[0].pump.lock:
                begun.set()
                over.wait(60)

        holder = threading.Thread(target=hold)
        holder.start()
        assert begun.wait(60)
        acts: list[Callable[[], object]] = [
            lambda: look.pause("jobs"),
            lambda: look.resume("jobs"),
            lambda: look.purge("jobs"),
            lambda: look.dead(None, 10),
            lambda: look.trace(letter["id"]),
            lambda: look.tap("jobs", print),
        ]
        for act in acts:
            with pytest.raises(Busy, match="busy"):
                act()
        outcome = look.drop([letter["id"]])
        over.set()
        holder.join()
        assert [each["done"] for each in outcome] == [False]
        assert "busy" in outcome[0]["problem"]
        assert len(look.dead("jobs", 10)) == 1
