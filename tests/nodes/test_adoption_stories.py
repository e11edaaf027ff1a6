"""Stories of orphans: what a killed process has left in a shared spool is sent on by another one, as by itself."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peerfabric import AsyncNode, Message, Node, Options
from peerfabric.nodes.aio.adopted import adopted_settings
from peerfabric.nodes.settings import Hidden, checked_settings
from peerfabric.nodes.storage import adoption
from peerfabric.secret import new_secret
from peerfabric.spool import orphans
from peerfabric.spool.files import RealFiles
from peerfabric.spool.folder import read_owner
from peerfabric.spool.slots import Slots, slot_folder
from tests.nodes.conftest import DEADLINE, Child, Front, eventually, open_descriptors

HASTE = """
    import os, signal, sys, time
    from peerfabric import *
    from peerfabric.nodes.storage import adoption
    from peerfabric.spool import orphans
    adoption.LOOK_EVERY, adoption.SHARE, orphans.RUN_BEFORE, orphans.GRACE = 0.02, 1.0, 0.0, 0.1
"""
"""Of a child that adopts sooner than people want it to."""

OWNER = """
    import os, signal, sys
    from peerfabric import *
    node = Node("shop", spool=sys.argv[1])
    jobs = node.producer("jobs", int)
    count = int(sys.argv[2])
    for n in range(count):
        print(jobs.send(n).id)
    print("stored", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""

ADOPTER = f"""{HASTE}
    node = Node("helper", spool=sys.argv[1])
    node.statistics()
    print("runs", flush=True)
    while not node.statistics().adopted:
        time.sleep(0.005)
    print("adopted", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of this process adopt sooner than people want them to."""
    monkeypatch.setattr(adoption, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(adoption, "SHARE", 1.0)
    monkeypatch.setattr(orphans, "RUN_BEFORE", 0.0)
    monkeypatch.setattr(orphans, "GRACE", 0.1)


def ids_of(owner: Child) -> list[str]:
    """The ids of what a child has stored."""
    found = []
    while (line := owner.line()) != "stored":
        assert line, owner.finish()
        found.append(line)
    return found


def kill(child: Child) -> None:
    child.signal(signal.SIGKILL)
    child.finish()


class Kitchen:
    """A consumer in a node of its own, which notes what it gets."""

    def __init__(self, **settings: Any) -> None:
        self.got: list[Message[int]] = []
        self.node = Node("kitchen", **settings)
        self.pace = threading.Event()
        self.pace.set()
        """While it is cleared, nothing is processed."""
        self.pause_at = 0
        """It is cleared after so many."""

        @self.node.on_message("jobs")
        def cook(body: int, message: Message) -> None:  # type: ignore[type-arg]
            self.pace.wait(DEADLINE)
            self.got.append(message)
            if len(self.got) == self.pause_at:
                self.pace.clear()

    def __enter__(self) -> Kitchen:
        self.node.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.pace.set()
        self.node.close()

    @property
    def ids(self) -> list[str]:
        return [message.id for message in list(self.got)]

    def wait_for(self, count: int) -> None:
        eventually(lambda: len(self.got) >= count, f"message {count} of {len(self.got)}")


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Somebody else has slot 0, so that whoever comes takes another one."""
    with Node("first", spool=folder, options=Options(spool_adopt=0)) as node:
        node.statistics()
        yield


def adopted(node: Any) -> list[int]:
    return [each.slot for each in node.statistics().adopted]


@pytest.mark.usefixtures("haste")
def test_what_a_killed_process_leaves_runs_once(front: Front, start: Callable[..., Child], tmp_path: Path) -> None:
    """Killed with thousands left, half of them given to two consumers: each runs once, under its old id and sender."""
    folder = tmp_path / "spool"
    with Kitchen() as one, Kitchen() as two, front.node("other", spool=folder) as host:
        host.producer("bills", int).send(1)  # it has nothing to do with what the other one sends
        one.pause_at = two.pause_at = 200
        owner = start(OWNER, str(folder), "3000")
        ids = ids_of(owner)
        one.wait_for(200)
        two.wait_for(200)
        kill(owner)
        eventually(lambda: adopted(host), "the adoption")
        one.pace.set()
        two.pace.set()
        eventually(lambda: len(one.got) + len(two.got) >= 3000, "the rest")
        assert Counter(one.ids + two.ids) == Counter(ids)
        for kitchen in one, two:
            assert {message.sender for message in kitchen.got} == {"shop"}
            assert {message.attempt for message in kitchen.got} == {1}
            bodies = [message.body for message in kitchen.got]
            assert bodies == sorted(bodies)
        eventually(lambda: not adopted(host), "the end of the adopted node")
        [bills] = host.statistics().producers
        assert (bills.accepted, bills.recovered, bills.closes) == (1, 0, True)
    assert sorted(os.listdir(slot_folder(str(folder), 1))) == ["lock", "node"], "an empty slot takes no space"


@pytest.mark.usefixtures("haste", "runtime")
def test_adopters_may_be_killed_too(start: Callable[..., Child], tmp_path: Path) -> None:
    """Two lives of adopters end in the middle; the third comes to the end, and nothing runs twice."""
    folder = tmp_path / "spool"
    with Kitchen() as kitchen, occupied(folder):
        kitchen.pause_at = 100
        owner = start(OWNER, str(folder), "2000")
        ids = ids_of(owner)
        kitchen.wait_for(100)
        before = owner
        for done in (600, 1100):
            helper = start(ADOPTER, str(folder))
            assert helper.line() == "runs"  # else it would take the slot for its own
            kill(before)
            assert helper.line() == "adopted"
            kitchen.pause_at = done
            kitchen.pace.set()
            kitchen.wait_for(done)
            before = helper
        with Node("last", spool=folder) as last:
            last.statistics()
            kill(before)
            eventually(lambda: adopted(last), "the adoption")
            kitchen.pace.set()
            kitchen.wait_for(2000)
            assert Counter(kitchen.ids) == Counter(ids)
            assert {message.attempt for message in kitchen.got} == {1}


@pytest.mark.usefixtures("haste", "runtime")
def test_a_stopped_process_keeps_its_slot(start: Callable[..., Child], tmp_path: Path) -> None:
    """It still has its lock, wakes up and goes on; meanwhile nobody sends in its name."""
    _stop_for(25, start, tmp_path / "spool")


@pytest.mark.long
@pytest.mark.usefixtures("runtime")
def test_a_process_that_is_stopped_for_a_minute_keeps_its_slot(start: Callable[..., Child], tmp_path: Path) -> None:
    """The same with everything as it is by itself: there is a look each second."""
    _stop_for(60, start, tmp_path / "spool")


def _stop_for(looks: int, start: Callable[..., Child], folder: Path) -> None:
    with Kitchen() as kitchen, Node("other", spool=folder) as host:
        kitchen.pace.clear()
        owner = start(OWNER, str(folder), "500")
        ids = ids_of(owner)
        owner.signal(signal.SIGSTOP)
        watch = _adoption_of(host)
        for _ in range(looks):
            _await_round(watch)
            assert not adopted(host)
        owner.signal(signal.SIGCONT)
        kitchen.pace.set()
        kitchen.wait_for(500)
        assert Counter(kitchen.ids) == Counter(ids)
        kill(owner)


def _adoption_of(node: Node) -> adoption.Adoption:
    [watch] = node._async._lifecycle._adoptions
    return watch


def _await_round(watch: adoption.Adoption) -> None:
    """Return when the adoption has looked once more."""
    looked = threading.Event()

    class Waiter:
        def wake(self) -> None:
            looked.set()

    waiter = Waiter()
    watch.looked.enter(waiter)
    try:
        assert looked.wait(DEADLINE)
    finally:
        watch.looked.leave(waiter)


@pytest.mark.usefixtures("haste")
def test_who_closes_leaves_the_rest_to_others(front: Front, start: Callable[..., Child], tmp_path: Path) -> None:
    """An adopted slot is as free as it was, and says how much is left in it; the statistics are as they were last."""
    folder = tmp_path / "spool"
    with occupied(folder), Kitchen() as kitchen:
        kitchen.pace.clear()
        host = front.node("other", spool=folder)
        with host:
            kill_owner_of(start, folder, 300)
            eventually(lambda: adopted(host), "the adoption")
            [found] = host.statistics().adopted
            assert (found.name, [p.recovered for p in found.producers]) == ("shop", [300])
            kitchen.pause_at = 50
            kitchen.pace.set()
            kitchen.wait_for(50)
            eventually(lambda: host.statistics().adopted[0].producers[0].acked >= 49, "the acks")
        assert not adopted(host)
        sheet = read_owner(RealFiles(), slot_folder(str(folder), 2))
        assert sheet is not None
        assert sheet.pid == 0
        assert 0 < sheet.left <= 251  # the last that was taken may not be acked yet
        assert sheet.name == "shop"
        kitchen.pace.set()
        with front.node("another", spool=folder), front.node("more", spool=folder):
            kitchen.wait_for(300)
        assert Counter(kitchen.ids) == Counter(set(kitchen.ids))


def kill_owner_of(start: Callable[..., Child], folder: Path, count: int) -> list[str]:
    """Let a process take a slot, send, and die; return the ids."""
    owner = start(OWNER, str(folder), str(count))
    ids = ids_of(owner)
    kill(owner)
    return ids


@pytest.mark.usefixtures("haste", "runtime")
def test_what_nobody_consumes_stays_where_it_is(start: Callable[..., Child], tmp_path: Path) -> None:
    """It costs nobody a node; when a consumer comes, or the adopting node itself consumes, it is sent."""
    folder = tmp_path / "spool"
    with Node("other", spool=folder) as host:
        host.statistics()
        kill_owner_of(start, folder, 100)
        watch = _adoption_of(host)
        for _ in range(20):
            _await_round(watch)
        assert not adopted(host)
        told = host._async._context.engine.stranded
        assert ["jobs that nobody consumes" in finding.what for finding in told] == [True]
        consumer = host.consumer("jobs", int)
        for _ in range(100):
            consumer.get(timeout=DEADLINE).ack()
        eventually(lambda: not host._async._context.engine.stranded, "the end of the complaint")


DEAD = """
    import sys, time
    from peerfabric import *
    node = Node("shop", spool=sys.argv[1])
    jobs = node.producer("jobs", int)
    print([jobs.send(n).id for n in range(int(sys.argv[2]))][0])
    print("stored", flush=True)
    while len(node.dead_letters("jobs")) < 2:
        time.sleep(0.005)
    node.close()
"""


@pytest.mark.usefixtures("haste")
def test_letters_of_a_parked_slot(front: Front, start: Callable[..., Child], tmp_path: Path) -> None:
    """A node lists, retries and drops what a process has given up that is gone, and names the slot.

    Slots that cannot be read, as somebody has put something else there, hide nothing.
    """
    folder = tmp_path / "spool"
    with front.node("other", spool=folder) as host, front.node("kitchen") as kitchen:
        host.statistics()
        consumer = kitchen.consumer("jobs", int)
        owner = start(DEAD, str(folder), "2")
        ids_of(owner)
        first = consumer.get(timeout=DEADLINE)
        first.reject("no")
        consumer.get(timeout=DEADLINE).reject("no")
        owner.finish()
        sheet = read_owner(RealFiles(), slot_folder(str(folder), 1))
        assert sheet is not None
        assert (sheet.pid, sheet.left, sheet.letters) == (0, 0, 2)
        eventually(lambda: host.statistics().spool.parked == 2, "a look at them")
        assert (host.statistics().spool.folder, host.statistics().spool.slot) == (str(folder), 0)
        (folder / "slots" / "5").symlink_to(tmp_path)
        (folder / "slots" / "6").mkdir()
        (folder / "slots" / "7").touch()
        found = host.dead_letters("jobs")
        assert [(letter.slot, letter.body, letter.reason) for letter in found] == [
            (1, 0, "rejected"),
            (1, 1, "rejected"),
        ]
        assert found[0].retry()
        again = consumer.get(timeout=DEADLINE)
        assert (again.body, again.origin, again.id.split(":")[0]) == (0, first.id, first.id.split(":")[0])
        assert again.id != first.id
        again.ack()
        assert found[1].drop()
        eventually(lambda: not host.dead_letters("jobs"), "the end of the letters")
        eventually(lambda: not adopted(host), "the end of the adopted node")
        assert host.dead_letters("bills") == []


@pytest.mark.usefixtures("haste", "runtime")
def test_what_adopted_nodes_cost(start: Callable[..., Child], tmp_path: Path) -> None:
    """Two threads each, and few descriptors, some of them for each consumer; and no end of any when they are gone."""
    folder = tmp_path / "spool"
    with Kitchen() as kitchen, Node("other", spool=folder) as host:
        host.statistics()
        kitchen.pace.clear()
        owners = [start(OWNER, str(folder), "20") for _ in range(4)]
        for owner in owners:
            ids_of(owner)
        threads, descriptors = set(threading.enumerate()), len(open_descriptors())
        for owner in owners:
            kill(owner)
        eventually(lambda: len(adopted(host)) == 4, "the adoptions")
        engine = kitchen.node._async._context.engine
        eventually(lambda: sum(link.up for link in list(engine.links.by_wire.values())) >= 4, "the links")
        assert len(set(threading.enumerate()) - threads) == 8
        # With both ends of each link in one process.
        assert len(open_descriptors()) - descriptors <= 4 * (20 + 2 * 6)
        kitchen.pace.set()
        kitchen.wait_for(80)
        eventually(lambda: not adopted(host), "the end of all")
        eventually(lambda: set(threading.enumerate()) <= threads, "the end of their threads")


@pytest.mark.usefixtures("haste", "runtime")
def test_with_keys_over_tcp(start: Callable[..., Child], tmp_path: Path) -> None:
    """The adopted node has the key of its slot and the secret of its host, and is let in as the dead one was."""
    folder, secret = tmp_path / "spool", tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(new_secret(os.urandom(32)).text())
    keyed: dict[str, Any] = {"secret": f"file:{secret}", "listen": "tcp://127.0.0.1:*"}
    owner = """
        import os, signal, sys
        from peerfabric import *
        node = Node("shop", spool=sys.argv[1], secret=f"file:{sys.argv[2]}", listen="tcp://127.0.0.1:*")
        jobs = node.producer("jobs", int)
        for n in range(300):
            print(jobs.send(n).id)
        print("stored", flush=True)
        sys.stdin.readline()
    """
    with Node("first", spool=folder, options=Options(spool_adopt=0), **keyed) as first, Kitchen(**keyed) as kitchen:
        first.statistics()
        kitchen.pace.clear()
        child = start(owner, str(folder), str(secret))
        ids = ids_of(child)
        with Node("other", spool=folder, **keyed) as host:
            kill(child)
            kitchen.pace.set()
            kitchen.wait_for(300)
            assert Counter(kitchen.ids) == Counter(ids)
            eventually(lambda: not adopted(host), "the end of the adopted node")


def test_where_an_adopted_node_listens(tmp_path: Path) -> None:
    """Beside its host; where that has the one port that was given, for this machine only."""

    def settings(listen: str, reach: str = "host", **others: Any) -> tuple[str, str]:
        secret = Hidden("insecure") if reach == "lan" else None
        made = checked_settings(
            "host", "f", listen, (), others.pop("discovery", "auto"), None, tmp_path, False, False,
            reach=reach, secret=secret, **others,
        )  # fmt: skip
        found = adopted_settings(made, "shop", near=False)
        assert (found.name, found.discovery, found.peers, found.signals) == ("shop", (), (), False)
        assert found.secrets == made.secrets
        assert adopted_settings(made, "shop", near=True).reach == "host"
        return found.listen, found.reach

    assert settings("auto") == ("auto", "host")
    assert settings("ipc:///tmp/x") == ("auto", "host")
    assert settings("tcp://127.0.0.1:7700") == ("tcp://127.0.0.1:*", "host")
    assert settings("auto", discovery=["mdns"]) == ("tcp://127.0.0.1:*", "host")
    assert settings("auto", "lan") == ("auto", "lan")
    assert settings("tcp://*:7700-7719", "lan") == ("tcp://*:7700-7719", "lan")
    assert settings("tcp://*:7700", "lan") == ("auto", "host")
    assert settings("tcp://*:7700-7719", "lan", advertise=["10.0.0.5"]) == ("tcp://*:7700-7719", "lan")
    assert settings("tcp://*:7700-7719", "lan", advertise=["10.0.0.5:80"]) == ("auto", "host")


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("options", [Options(spool_slots=1), Options(spool_adopt=0)], ids=["one slot", "adopts none"])
def test_a_node_that_adopts_nothing_looks_at_nothing(tmp_path: Path, options: Options) -> None:
    with Node("other", spool=tmp_path / "spool", options=options) as node:
        assert node.dead_letters("jobs") == []
        assert not [thread for thread in threading.enumerate() if thread.name.endswith("-adoption")]


FORGETFUL = f"""{HASTE}
    node = Node("helper", spool=sys.argv[1])
    node.statistics()
    print("runs", flush=True)
    while not node.statistics().adopted:
        time.sleep(0.005)
    print("adopted", flush=True)
"""


@pytest.mark.usefixtures("runtime")
def test_a_program_that_ends_without_closing(start: Callable[..., Child], tmp_path: Path) -> None:
    """It is warned of the node that it has made, and of no other; what it had adopted is left in order."""
    folder = tmp_path / "spool"
    with occupied(folder), Kitchen() as kitchen:
        kitchen.pace.clear()
        helper = start(FORGETFUL, str(folder), PYTHONWARNINGS="always")
        assert helper.line() == "runs"
        kill_owner_of(start, folder, 100)
        assert helper.line() == "adopted"
        out, error = helper.finish()
        assert (out, helper.code, error.count("was not closed")) == ("", 0, 1), error
        sights = {sight.number: sight for sight in Slots(RealFiles(), str(folder)).sights()}
        assert sights[2].sheet is not None
        assert (sights[2].held, sights[2].sheet.pid, sights[2].sheet.left) == (False, 0, 100)


FORKING = f"""{HASTE}
    node = Node("helper", spool=sys.argv[1])
    node.statistics()
    print("runs", flush=True)
    while not node.statistics().adopted:
        time.sleep(0.005)
    if not os.fork():
        os.close(1)
        sys.stdin.readline()
        os._exit(0)
    node.close()
    print("closed", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.usefixtures("runtime")
def test_a_child_of_a_fork_keeps_no_slot(start: Callable[..., Child], tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with occupied(folder), Kitchen() as kitchen:
        kitchen.pace.clear()
        helper = start(FORKING, str(folder))
        assert helper.line() == "runs"
        kill_owner_of(start, folder, 100)
        assert helper.line() == "closed"
        [sight] = [sight for sight in Slots(RealFiles(), str(folder)).sights() if sight.number == 2]
        assert sight.held is False
        assert helper.process.stdin is not None
        helper.process.stdin.close()
        helper.process.stdin = None


@pytest.mark.usefixtures("haste", "runtime")
def test_an_event_loop_waits_for_no_orphan(start: Callable[..., Child], tmp_path: Path) -> None:
    """All that touches the disk for orphans is done by other threads, and their letters are listed by one, too."""
    import asyncio

    folder = tmp_path / "spool"
    threads: set[int] = set()

    async def main() -> None:
        async with AsyncNode("other", spool=folder) as host:
            await asyncio.to_thread(kill_owner_of, start, folder, 100)
            threads.clear()
            while not host.statistics().adopted:
                await asyncio.sleep(0.005)
            kitchen.pace.set()
            while host.statistics().adopted:
                await asyncio.sleep(0.005)
            await host.dead_letters("jobs")
        assert threading.get_ident() not in threads

    with occupied(folder), Kitchen() as kitchen:
        kitchen.pace.clear()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("names", "open", "read", "write", "rename", "unlink", "lock", "sync", "sync_folder"):
                call = getattr(RealFiles, name)

                def noted(*given: Any, call: Any = call, **named: Any) -> Any:
                    threads.add(threading.get_ident())
                    return call(*given, **named)

                patch.setattr(RealFiles, name, noted)
            asyncio.run(main())
