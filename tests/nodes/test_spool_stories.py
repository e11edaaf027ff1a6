"""Stories of nodes with a spool, over both fronts: what was stored is there after every kind of end."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peerfabric import (
    ConfigError,
    Node,
    NodeClosed,
    Options,
    Receipt,
    Rejected,
    SpoolError,
    SpoolFull,
    SpoolLocked,
    SpoolUnsafe,
    Undelivered,
)
from peerfabric.nodes.aio.options import MAX_ATTEMPTS
from peerfabric.queue.runs import DEATHS_TO_ISOLATE
from tests.conftest import remount, stuff
from tests.nodes.conftest import DEADLINE, Child, Front, eventually


class Order(msgspec.Struct):
    number: int
    dish: str = "tea"


@pytest.fixture(params=[False, True], ids=["page-cache", "fsync"])
def fsync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def take(front: Front, count: int, body_type: Any = int) -> list[tuple[str, Any]]:
    """What a consumer that comes now gets, as (id, body), acked."""
    got = []
    node = front.node("kitchen")
    with node:
        consumer = node.consumer("jobs", body_type)
        for _ in range(count):
            message = consumer.get(timeout=DEADLINE)
            got.append((message.id, message.body))
            message.ack()
    return got


def test_what_is_left_at_close_is_there_at_the_next_start(front: Front, tmp_path: Path, fsync: bool) -> None:
    """Closing waits for nobody who is not there; the messages keep their ids and come before newer ones."""
    spool = tmp_path / "spool"
    receipts: list[Receipt] = []
    for life in range(3):
        node = front.node("shop", spool=spool, fsync=fsync)
        with node:
            producer = node.producer("jobs", int)
            receipts += [producer.send(10 * life + n, confirm="stored") for n in range(3)]
            assert producer.send_many([10 * life + 3, 10 * life + 4]) == 2
            [account] = node.statistics().producers
            assert (account.accepted, account.recovered, account.closes) == (5, 5 * life, True)
            assert producer.state(receipts[-1]) == "stored"
        [account] = node.statistics().producers
        assert (account.left_at_close, account.closes) == (5 * life + 5, True)
    node = front.node("shop", spool=spool, fsync=fsync)
    with node:
        got = take(front, 15)
        assert [body for _, body in got] == [10 * life + n for life in range(3) for n in range(5)]
        sent = {receipt.id for receipt in receipts}
        assert {identity for identity, body in got if body % 10 < 3} == sent
        eventually(lambda: node.statistics().producers[0].acked == 15, "the acks")
    with front.node("shop", spool=spool, fsync=fsync) as node:
        assert node.statistics().producers == () or node.statistics().producers[0].recovered == 0


PRODUCER = """
    import os, signal, sys
    from peerfabric import Node
    node = Node("shop", spool=sys.argv[1], fsync=sys.argv[2] == "True")
    jobs = node.producer("jobs", int)
    first = int(sys.argv[3])
    for n in range(first, first + 200):
        jobs.send(n)
    jobs.send_many(range(first + 200, first + 1000))
    print("stored", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_lost_when_the_producer_is_killed(
    runtime: Path, start: Callable[..., Child], tmp_path: Path, fsync: bool
) -> None:
    """Three lives end by SIGKILL right after their sends; the fourth delivers all of it, in order."""
    for life in range(3):
        child = start(PRODUCER, str(tmp_path / "spool"), str(fsync), str(1000 * life))
        assert child.line() == "stored"
        child.finish()
        assert child.code == -signal.SIGKILL
    with Node("shop", spool=tmp_path / "spool", fsync=fsync) as node, Node("kitchen") as other:
        consumer = other.consumer("jobs", int)
        bodies: list[int] = []
        for batch in consumer.batches():
            with batch as some:
                bodies += some
            if len(bodies) >= 3000:
                break
        assert bodies == list(range(3000))
        eventually(lambda: node.statistics().producers[0].acked == 3000, "the acks")


def test_what_the_disk_has_lost_was_not_processed(front: Front, tmp_path: Path) -> None:
    """Whoever waits for it learns so; the others are processed, and a flush does not wait for it."""
    spool = tmp_path / "spool"
    with front.node("shop", spool=spool) as node:
        producer = node.producer("jobs", str, buffer_bytes=1)
        receipts = [producer.send(f"body {n}") for n in range(4)]
        [segment] = (spool / "queues" / "jobs").glob("*.seg")
        with open(segment, "r+b") as file:
            content = file.read()
            file.seek(content.index(b"body 2"))
            file.write(b"bodi")
        bodies = [body for _, body in take(front, 3, str)]
        assert bodies == ["body 0", "body 1", "body 3"]
        producer.wait(receipts[3], "processed", timeout=DEADLINE)
        assert [producer.state(receipt) for receipt in receipts] == ["processed", "processed", "damaged", "processed"]
        with pytest.raises(Rejected, match=r"is damaged.*send it again.*spool verify"):
            producer.wait(receipts[2], "processed", timeout=DEADLINE)
        producer.flush(timeout=DEADLINE)


def test_a_start_tells_what_is_lost(front: Front, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By number, and once; what is there is counted apart."""
    spool = tmp_path / "spool"
    with front.node("shop", spool=spool) as node:
        producer = node.producer("jobs", str)
        ids = [producer.send(f"body {n}").id for n in range(4)]
    [segment] = (spool / "queues" / "jobs").glob("*.seg")
    segment.write_bytes(segment.read_bytes().replace(b"body 2", b"bodi 2"))
    caplog.set_level("INFO", "peerfabric")
    for told in (1, 0):
        caplog.clear()
        with front.node("shop", spool=spool):
            lines = [record.getMessage() for record in caplog.records]
        assert lines.count(f"queue 'jobs': 1 message on disk is damaged and lost: {ids[2]}") == told
        assert lines.count("queue 'jobs': the spool has 3 messages from before") == 1


SELF_CONSUMER = """
    import os, signal, sys
    from peerfabric import Node, TimedOut
    with Node("shop", spool=sys.argv[1], fsync=sys.argv[2] == "True") as node:
        producer = node.producer("jobs", int)
        if sys.argv[3] == "first":
            producer.send_many(range(300))
        consumer = node.consumer("jobs", int)
        while (jobs := node.statistics().producers[0]).in_flight + jobs.waiting + jobs.on_disk:
            try:
                message = consumer.get(timeout=0.05)
            except TimedOut:
                continue
            with message as body:
                if body in (0, 137):
                    os.kill(os.getpid(), signal.SIGKILL)
        for letter in node.dead_letters("jobs"):
            print(letter.reason, letter.body, letter.attempts)
"""


def test_a_node_that_dies_of_its_own_queue_counts_that(
    runtime: Path, start: Callable[..., Child], tmp_path: Path, fsync: bool
) -> None:
    """Two messages kill whoever runs them, one of them at once; a supervisor needs few lives until they are dead
    letters and the rest is done."""
    lives = 0
    while True:
        lives += 1
        child = start(SELF_CONSUMER, str(tmp_path / "spool"), str(fsync), "first" if lives == 1 else "again")
        printed, errors = child.finish()
        if child.code != -signal.SIGKILL:
            break
        assert lives <= 2 * (DEATHS_TO_ISOLATE + MAX_ATTEMPTS), "the deaths are forgotten"
    assert child.code == 0
    assert all("is a dead letter, died with it" in line for line in errors.splitlines()), errors
    assert printed.splitlines() == ["died with it 0 5", "died with it 137 5"]


def test_what_was_acked_is_not_sent_again(runtime: Path, start: Callable[..., Child], tmp_path: Path) -> None:
    """The acks are on disk soon after they came; a consumer that stays recognises the few that are not."""
    with Node("kitchen") as other:
        consumer = other.consumer("jobs", int)
        child = start(
            """
            import sys
            from peerfabric import Node
            node = Node("shop", spool=sys.argv[1])
            jobs = node.producer("jobs", int)
            jobs.send_many(range(500))
            jobs.flush(timeout=30)
            print("acked", flush=True)
            sys.stdin.readline()
            """,
            str(tmp_path / "spool"),
        )
        got = []
        for message in consumer:
            with message as body:
                got.append(body)
            if len(got) == 500:
                break
        assert child.line() == "acked"
        child.signal(signal.SIGKILL)
        child.finish()
        with Node("shop", spool=tmp_path / "spool") as node:
            producer = node.producer("jobs", int)
            producer.send(500)
            message = consumer.get(timeout=DEADLINE)
            with message as body:
                assert body == 500
            producer.flush(timeout=DEADLINE)
    assert got == list(range(500))


def test_a_backlog_larger_than_memory(front: Front, tmp_path: Path) -> None:
    """What memory has no room for is only on disk, and is read as the rest drains; nothing is refused."""
    node = front.node("shop", spool=tmp_path / "spool")
    with node:
        producer = node.producer("jobs", bytes, buffer_bytes=64 * 1024)
        for _ in range(20):
            producer.send_many([bytes([n % 256]) * 200 for n in range(500)])
        eventually(lambda: node.statistics().producers[0].on_disk > 9_000, "the hand-over")
        assert node.statistics().producers[0].closes
        got = take(front, 10_000, bytes)
        assert [body[0] for _, body in got] == [n % 256 for _ in range(20) for n in range(500)]
        producer.flush(timeout=DEADLINE)
        account = node.statistics().producers[0]
        assert (account.on_disk, account.acked, account.damaged, account.closes) == (0, 10_000, 0, True)


def test_dead_letters_stay(front: Front, tmp_path: Path, fsync: bool) -> None:
    """With reason, error and attempts, over any number of starts; retried they are sent, dropped they are gone."""
    spool = tmp_path / "spool"
    with front.node("shop", spool=spool, fsync=fsync) as node:
        producer = node.producer("jobs", Order)
        producer.send(Order(1), headers={"k": "v"})
        producer.send(Order(2))
        with front.node("kitchen") as other:
            consumer = other.consumer("jobs", Order)
            for _ in range(2):
                consumer.get(timeout=DEADLINE).reject("burnt")
            producer.flush(timeout=DEADLINE)
    for _ in range(2):
        with front.node("shop", spool=spool, fsync=fsync) as node:
            letters = node.dead_letters("jobs")
            assert [(letter.reason, letter.error, letter.attempts) for letter in letters] == [
                ("rejected", "burnt", 1)
            ] * 2
    with front.node("shop", spool=spool, fsync=fsync) as node:
        with pytest.raises(ConfigError, match=r"node\.producer"):
            node.dead_letters("jobs")[0].retry()
        producer = node.producer("jobs", Order)
        first, second = node.dead_letters("jobs")
        assert (first.body, first.headers) == (Order(1), {"k": "v"})
        assert second.drop()
        assert first.retry()
        assert not first.retry()
        with front.node("kitchen") as other:
            message = other.consumer("jobs", Order).get(timeout=DEADLINE)
            assert (message.body, message.headers) == (Order(1), {"k": "v"})
            message.ack()
            producer.flush(timeout=DEADLINE)
    with front.node("shop", spool=spool, fsync=fsync) as node:
        assert node.dead_letters("jobs") == []


def test_a_dead_letter_of_bytes(front: Front, tmp_path: Path) -> None:
    """It is the same bytes after a restart, listed and sent again."""
    with front.node("shop", spool=tmp_path / "spool") as node:
        producer = node.producer("jobs", bytes)
        producer.send(b"abc")
        with front.node("kitchen") as other:
            other.consumer("jobs", bytes).get(timeout=DEADLINE).reject("no")
            producer.flush(timeout=DEADLINE)
    with front.node("shop", spool=tmp_path / "spool") as node:
        producer = node.producer("jobs", bytes)
        [letter] = node.dead_letters("jobs")
        assert letter.body == b"abc"
        assert letter.retry()
        assert [body for _, body in take(front, 1, bytes)] == [b"abc"]
        producer.flush(timeout=DEADLINE)


def test_one_producer_without_the_spool(front: Front, tmp_path: Path) -> None:
    """`spool=False` keeps it in memory only, as ever."""
    with front.node("shop", spool=tmp_path / "spool") as node:
        producer = node.producer("news", int, spool=False)
        with pytest.raises(ConfigError, match="spool"):
            producer.send(1, confirm="stored")
        with pytest.raises(ConfigError, match="drops what a spool shall keep"):
            node.producer("jobs", int, on_full="drop_oldest")
        with pytest.raises(ConfigError, match="syncs"):
            node.producer("jobs", int, fsync=True)
    with front.node("shop") as node:
        with pytest.raises(ConfigError, match="spool=PATH"):
            node.producer("jobs", int, spool=True)
        with pytest.raises(ConfigError, match="needs a spool"):
            node.producer("jobs", int).send(1, confirm="stored")
    with pytest.raises(ConfigError, match="needs a spool"):
        front.node("shop", fsync=True)
    with pytest.raises(ConfigError, match="for all its producers or for none"):
        front.node("shop", spool=tmp_path / "other", fsync=True).producer("jobs", int, fsync=False)


def test_a_spool_of_one_slot_has_one_owner(front: Front, start: Callable[..., Child], tmp_path: Path) -> None:
    """The second node is told the process of the first; when that ends, the same node starts. Nothing else is made."""
    child = start(
        "import sys; from peerfabric import Node; node = Node(spool=sys.argv[1]); node.producer('jobs', int).send(1);"
        "print('up', flush=True); sys.stdin.readline()",
        str(tmp_path / "spool"),
    )
    assert child.line() == "up"
    node = front.node("shop", spool=tmp_path / "spool", options=Options(spool_slots=1))
    with pytest.raises(SpoolLocked, match=r"process \d+ uses this spool; stop it, or choose another folder") as refused:
        node.producer("jobs", int).send(2)
    assert refused.value.pid == child.process.pid
    child.signal(signal.SIGKILL)
    child.finish()
    with node:
        node.producer("jobs", int).send(2)
        assert [body for _, body in take(front, 2)] == [1, 2]
    with front.node("shop", spool=tmp_path / "alone", options=Options(spool_slots=1)) as node:
        node.producer("jobs", int).send(1)
    assert sorted(os.listdir(tmp_path / "alone")) == ["lock", "node", "node.key", "queues", "spare"]


def test_folders_that_are_not_ours_alone(front: Front, tmp_path: Path) -> None:
    """Refused with what to do, and nothing in them is touched."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(SpoolUnsafe, match="chmod"):
        front.node("shop", spool=folder).producer("jobs", int).send(1)
    assert list(folder.iterdir()) == []
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(SpoolError):
        front.node("shop", spool=link).producer("jobs", int).send(1)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(SpoolError):
        front.node("shop", spool=file).producer("jobs", int).send(1)
    assert file.read_text() == "mine"


def test_a_child_of_a_fork_leaves_the_spool_alone(runtime: Path, start: Callable[..., Child], tmp_path: Path) -> None:
    """It cannot send, and its end changes nothing: the parent goes on and keeps the lock."""
    child = start(
        """
        import os, sys
        from peerfabric import ForkedNode, Node
        node = Node("shop", spool=sys.argv[1])
        jobs = node.producer("jobs", int)
        jobs.send(1)
        pid = os.fork()
        if pid == 0:
            try:
                jobs.send(2)
            except ForkedNode:
                os._exit(7)
            os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        jobs.send(3)
        print("stored", flush=True)
        sys.stdin.readline()
        """,
        str(tmp_path / "spool"),
    )
    assert [child.line(), child.line()] == ["7", "stored"]
    with pytest.raises(SpoolLocked):
        Node("shop", spool=tmp_path / "spool", options=Options(spool_slots=1)).producer("jobs", int).send(4)
    os.kill(child.process.pid, signal.SIGKILL)
    child.finish()
    with Node("shop", spool=tmp_path / "spool"), Node("kitchen") as other:
        consumer = other.consumer("jobs", int)
        for body in (1, 3):
            with consumer.get(timeout=DEADLINE) as got:
                assert got == body


def fill(producer: Any) -> None:
    """Send for as long as the disk takes it."""
    for _ in range(1000):
        producer.send_many([bytes(1000)] * 100)


def test_a_limit_in_bytes(front: Front, tmp_path: Path) -> None:
    """At the limit a send waits or says so, as `on_full` has it; when consumers have drained the spool it goes on."""
    options = Options(spool_bytes=2 * 2**20)
    with front.node("shop", spool=tmp_path / "spool", options=options) as node:
        producer = node.producer("jobs", bytes, on_full="error")
        waiting = node.producer("other", bytes)
        with pytest.raises(SpoolFull, match="limit") as full:
            fill(producer)
        assert full.value.limit == 2 * 2**20
        with pytest.raises(SpoolFull):
            waiting.send(bytes(100_000), timeout=0.2)
        accepted = node.statistics().producers[0].accepted
        got = take(front, accepted, bytes)
        assert len(got) == accepted
        producer.flush(timeout=DEADLINE)
        waiting.send(bytes(100_000), timeout=DEADLINE)
        assert node.statistics().producers[1].accepted == 1


def test_a_full_disk(front: Front, small_disk: Path, fsync: bool) -> None:
    """A typed error at once and nothing lost; with space again the producer goes on by itself."""
    with front.node("shop", spool=small_disk / "spool", fsync=fsync) as node:
        producer = node.producer("jobs", bytes)
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(2**26))
        started_at = time.monotonic()
        with pytest.raises(SpoolFull) as full:
            fill(producer)
        assert (full.value.errno, time.monotonic() - started_at < DEADLINE) == (errno.ENOSPC, True)
        accepted = node.statistics().producers[0].accepted
        ballast.unlink()
        producer.send(b"again")
        bodies = [body for _, body in take(front, accepted + 1, bytes)]
        assert bodies == [bytes(1000)] * accepted + [b"again"]
        producer.flush(timeout=DEADLINE)
        assert node.statistics().producers[0].closes


def test_a_backlog_on_a_disk_filled_to_the_last_byte(front: Front, small_disk: Path, fsync: bool) -> None:
    """The node closes and starts on it; sends are refused until consumers have drained what is there."""
    with front.node("shop", spool=small_disk / "spool", fsync=fsync) as node:
        producer = node.producer("jobs", bytes)
        (small_disk / "others").write_bytes(bytes(21 * 2**20))
        with pytest.raises(SpoolFull):
            fill(producer)
        stuff(small_disk)
        accepted = node.statistics().producers[0].accepted
    stuff(small_disk)
    with front.node("shop", spool=small_disk / "spool", fsync=fsync) as node:
        producer = node.producer("jobs", bytes)
        with pytest.raises(SpoolFull):
            producer.send(bytes(100_000))
        bodies = [body for _, body in take(front, accepted, bytes)]
        assert bodies == [bytes(1000)] * accepted
        producer.flush(timeout=DEADLINE)

        def sent() -> bool:
            try:
                producer.send(bytes(100_000))
            except SpoolFull:
                return False  # the cursor that gives the space back follows the acks
            return True

        eventually(sent, "the space")
    with front.node("shop", spool=small_disk / "spool", fsync=fsync) as node:
        assert [account.recovered for account in node.statistics().producers] == [1]


def test_a_first_start_on_a_full_disk(front: Front, small_disk: Path) -> None:
    """Refused with what to do, and nothing is left of it; with space the same node starts."""
    stuff(small_disk)
    node = front.node("shop", spool=small_disk / "deep" / "spool")
    with pytest.raises(SpoolFull, match=r"free some space there, then start again$"):
        node.producer("jobs", int).send(1)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
    (small_disk / "ballast").unlink()
    with node:
        node.producer("jobs", int).send(1)


def test_a_disk_that_is_read_only(front: Front, small_disk: Path) -> None:
    """A spool there, and a new one, are refused with the system's reason; nothing is lost."""
    with front.node("shop", spool=small_disk / "spool") as node:
        node.producer("jobs", int).send(1)
    remount(small_disk, "ro")
    for folder in ("spool", "new"):
        with pytest.raises(SpoolError, match=r"[Rr]ead-only") as refused:
            front.node("shop", spool=small_disk / folder).producer("jobs", int).send(1)
        assert refused.value.errno == errno.EROFS
    remount(small_disk, "rw")
    with front.node("shop", spool=small_disk / "spool"):
        assert take(front, 1)[0][1] == 1


def test_the_disk_only_when_nobody_is_there(front: Front, tmp_path: Path) -> None:
    """With `on_full="spool"` memory comes first; without a consumer, or with memory full, messages are stored."""
    with front.node("shop", spool=tmp_path / "spool") as node:
        producer = node.producer("jobs", bytes, on_full="spool", buffer_bytes=20_000)
        assert producer.state(producer.send(b"stored")) == "stored"
        with pytest.raises(ConfigError, match="takes every message"):
            producer.send(b"", confirm="stored")
        with front.node("kitchen") as other:
            consumer = other.consumer("jobs", bytes)
            with consumer.get(timeout=DEADLINE) as body:
                assert body == b"stored"
            producer.flush(timeout=DEADLINE)
            kept = producer.send(b"in memory")
            assert producer.state(kept) in ("queued", "delivered")
            with consumer.get(timeout=DEADLINE) as body:
                assert body == b"in memory"
            receipts = [producer.send(bytes([n]) * 1000) for n in range(100)]
            states = [producer.state(receipt) for receipt in receipts]
            assert states[-1] == "stored"
            assert "stored" not in states[:10]
            for n in range(100):
                with consumer.get(timeout=DEADLINE) as body:
                    assert body == bytes([n]) * 1000
            producer.flush(timeout=DEADLINE)
            assert producer.state(producer.send(b"last")) in ("queued", "delivered")
            with consumer.get(timeout=DEADLINE) as body:
                assert body == b"last"
            producer.flush(timeout=DEADLINE)
        account = node.statistics().producers[0]
        assert (account.acked, account.damaged, account.closes) == (103, 0, True)
    with front.node("shop", spool=tmp_path / "spool") as node:
        producer = node.producer("jobs", bytes, on_full="spool")
        assert [account.recovered for account in node.statistics().producers] == [0]
        assert producer.send_many([b"x"] * 10) == 10
    with front.node("shop", spool=tmp_path / "spool") as node:
        assert [account.recovered for account in node.statistics().producers] == [10]


def test_nothing_is_accepted_into_the_memory_of_a_closed_node(front: Front, tmp_path: Path, fsync: bool) -> None:
    """With `on_full="spool"`, whose messages need no disk while somebody consumes."""
    with front.node("shop", spool=tmp_path / "spool", fsync=fsync) as node:
        producer, consumer = node.producer("jobs", bytes, on_full="spool"), node.consumer("jobs", bytes)
        producer.ready(timeout=DEADLINE)
        producer.send(b"first")
        with consumer.get(timeout=DEADLINE):
            pass
    with pytest.raises(NodeClosed):
        producer.send(b"late")
    with pytest.raises(NodeClosed):
        producer.send_many([b"late", b"later"])
    assert node.statistics().producers[0].accepted == 1


def test_of_a_spool_and_its_copy_one_runs(front: Front, tmp_path: Path) -> None:
    """Whichever comes first, also if the copy was made while nobody ran; the other is not touched."""
    with front.node("shop", spool=tmp_path / "original") as node:
        node.producer("jobs", bytes).send(b"kept")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    for first, second in (("original", "copy"), ("copy", "original")):
        with front.node("first", spool=tmp_path / first) as node:
            node.producer("jobs", bytes)
            node_id = node.statistics().node_id
            before = {path: path.read_bytes() for path in (tmp_path / second).rglob("*") if path.is_file()}
            with pytest.raises(SpoolLocked, match="is a copy of the spool that process") as caught:
                front.node("second", spool=tmp_path / second).__enter__()
            assert caught.value.pid == os.getpid()
            assert before == {path: path.read_bytes() for path in (tmp_path / second).rglob("*") if path.is_file()}
        with front.node("second", spool=tmp_path / second) as node:
            node.producer("jobs", bytes)
            assert node.statistics().node_id == node_id


@pytest.mark.parametrize("how", ["deleted", "moved", "restored"])
def test_a_copy_runs_when_the_original_is_closed(front: Front, tmp_path: Path, how: str) -> None:
    """Though its process lives on, and could not write into the copy that it has closed."""
    spool, copy = tmp_path / "spool", tmp_path / "copy"
    node = front.node("shop", spool=spool)
    node.producer("jobs", int).send(17)
    shutil.copytree(spool, copy)
    match how:
        case "deleted":
            shutil.rmtree(spool)
        case "moved":
            spool.rename(tmp_path / "aside")
    if how != "restored":
        copy.rename(spool)
        copy = spool
    with pytest.raises(SpoolLocked, match="is a copy of the spool that process"):
        front.node("shop", spool=copy).__enter__()
    with suppress(Undelivered):
        node.close(timeout=0.1)
    with front.node("shop", spool=copy) as again:
        again.producer("jobs", int)
        assert [body for _, body in take(front, 1)] == [17]
        again.producer("jobs", int).flush(timeout=DEADLINE)


def test_a_spool_that_is_deleted_while_in_use(front: Front, tmp_path: Path, fsync: bool) -> None:
    """Sends are refused once that is seen, nothing is made there, and what was sent before is delivered from memory."""
    spool, before = tmp_path / "spool", list(range(100))
    with front.node("shop", spool=spool, fsync=fsync) as node:
        producer = node.producer("jobs", int)
        receipt = producer.send(0)
        producer.send_many(range(1, 100))
        shutil.rmtree(spool)

        def send_until_it_is_missed() -> None:
            deadline = time.monotonic() + DEADLINE
            while time.monotonic() < deadline:  # it is looked for every now and then
                producer.send(100)
                before.append(100)

        with pytest.raises(SpoolError, match="this spool was deleted while in use; what is still in memory"):
            send_until_it_is_missed()
        with pytest.raises(SpoolError, match="this spool was deleted while in use; what is still in memory") as gone:
            producer.send_many([100, 101])
        assert gone.value.errno == errno.ENOENT
        assert gone.value.accepted == 0  # type: ignore[attr-defined]
        with pytest.raises(SpoolError, match="this spool was deleted while in use"):
            node.producer("more", int).send(1)
        assert [body for _, body in take(front, len(before))] == before
        producer.flush(timeout=DEADLINE)
        assert producer.state(receipt) == "processed"
        assert not spool.exists()
    assert not spool.exists()


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced", "unlocked", "emptied"])
def test_closing_a_node_whose_spool_is_not_in_its_place(
    front: Front, tmp_path: Path, fsync: bool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what the next start will not find, and leaves alone what is there now."""
    spool, aside = tmp_path / "spool", tmp_path / "aside"
    node = front.node("shop", spool=spool, fsync=fsync)
    producer = node.producer("jobs", int)
    receipt = producer.send(0)
    producer.send_many(range(1, 10))
    match how:
        case "deleted":
            shutil.rmtree(spool)
        case "moved":
            spool.rename(aside)
        case "replaced":
            spool.rename(aside)
            with front.node("other", spool=spool) as other:
                other.producer("jobs", int).send(17)
        case "unlocked":
            (spool / "lock").unlink()
        case _:
            shutil.rmtree(spool / "queues")
    there = {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()}
    with pytest.raises(Undelivered) as undelivered:
        node.close(timeout=0.1)
    assert (undelivered.value.waiting, undelivered.value.in_flight) == (10, 0)
    assert node.statistics().producers[0].left_at_close == 10
    assert "ERROR" in {record.levelname for record in caplog.records if "while in use" in record.message}
    if how != "emptied":
        assert {path: path.read_bytes() for path in spool.rglob("*") if path.is_file()} == there
    if how == "moved":
        with front.node("shop", spool=aside, fsync=fsync) as again:
            assert take(front, 10)[0] == (receipt.id, 0)
            again.producer("jobs", int).flush(timeout=DEADLINE)
    if how == "replaced":
        front.node("other", spool=spool).producer("jobs", int).send(18)
        assert [body for _, body in take(front, 2)] == [17, 18]


def test_what_stays_in_memory_needs_no_spool(front: Front, tmp_path: Path, fsync: bool) -> None:
    """With on_full="spool" the producer goes on while a consumer takes what it sends, though the spool is gone."""
    with front.node("kitchen") as kitchen, front.node("shop", spool=tmp_path / "spool", fsync=fsync) as shop:
        producer = shop.producer("jobs", int, on_full="spool")
        consumer = kitchen.consumer("jobs", int)
        producer.send(1)
        with consumer.get(timeout=DEADLINE) as body:
            assert body == 1
        producer.flush(timeout=DEADLINE)
        shutil.rmtree(tmp_path / "spool")
        producer.send(2)
        with consumer.get(timeout=DEADLINE) as body:
            assert body == 2
        producer.flush(timeout=DEADLINE)
