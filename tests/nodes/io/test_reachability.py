"""Nodes whose socket files, or the folder of them, are taken away while they run."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peerfabric import Node, TimedOut, Undelivered
from peerfabric.discovery.host import FabricFolder, fabric_folder
from peerfabric.discovery.registry import RegistryBackend
from peerfabric.errors import ConfigError
from peerfabric.nodes.io.listener import OLD_MAX
from peerfabric.nodes.io.reachability import Reachability
from peerfabric.queue.sender import Sender
from peerfabric.wire.frames import Address
from tests.nodes.conftest import Front, eventually, open_descriptors


def folder_of(runtime: Path) -> Path:
    return runtime / os.environ["PEERFABRIC_FABRIC"]


def names(folder: Path) -> list[str]:
    """Without the hidden ones that are just being written."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def remove(folder: Path, what: str) -> None:
    if what == "folder":
        while True:
            try:
                shutil.rmtree(folder)
            except OSError as error:  # a node is just putting its file there
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                    raise
            if not folder.exists():
                return
    else:
        for path in folder.glob(what):
            path.unlink(missing_ok=True)  # a hidden file may just get its name


def speak(speaker: Any, listener: Any, way: str) -> None:
    """A message goes from one node to another, and an update, by a queue and a topic that nobody else has."""
    consumer, subscriber = listener.consumer(way, int), listener.subscriber(way, int)
    receipt = speaker.producer(way, int).send(1)
    with consumer.get(timeout=30) as body:
        assert body == 1
    speaker.producer(way, int).wait(receipt, "processed", timeout=30)
    publisher = speaker.publisher(way, int)
    publisher.ready(timeout=30)
    publisher.publish(2)
    assert subscriber.get(timeout=30).body == 2


@pytest.mark.parametrize("what", ["folder", "*box", "*.inbox", "*.outbox", "*.json", "*"])
def test_old_and_new_nodes_meet_after_a_cleaner_came(
    front: Front, runtime: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it removed, the files come back at the same paths; those who were linked record nothing."""
    with front.node("worker") as worker, front.node("shop") as shop:
        numbers, consumer = shop.producer("numbers", int), worker.consumer("numbers", int)
        news, subscriber = worker.publisher("news", int), shop.subscriber("news", int)
        news.ready(timeout=30)
        before = names(folder_of(runtime))
        remove(folder_of(runtime), what)
        numbers.send(1)
        news.publish(1)
        eventually(lambda: names(folder_of(runtime)) == before, "the return of the files")
        numbers.send(2)
        news.publish(2)
        for expected in (1, 2):
            with consumer.get(timeout=30) as body:
                assert body == expected
            assert subscriber.get(timeout=30).body == expected
        assert subscriber.missed == 0
        with front.node("new") as new:
            for old, name in ((worker, "worker"), (shop, "shop")):
                speak(old, new, f"{name}.out")
                speak(new, old, f"{name}.in")
            eventually(lambda: {p.state for p in new.peers()} == {"up"}, "links with both")
        for node in (worker, shop):
            assert "links renewed" not in node.statistics().counters
    told = [r for r in caplog.records if "listens there again" in r.getMessage()]
    assert len(told) == (0 if what == "*.json" else 2)


@pytest.mark.long
def test_cleaner_that_comes_again_and_again(front: Front, runtime: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ten times: nothing is lost from queues, descriptors do not add up, and the log is not flooded."""
    with front.node("worker") as worker, front.node("shop") as shop:
        producer, consumer = shop.producer("numbers", int), worker.consumer("numbers", int)
        producer.send(0)
        with consumer.get(timeout=30) as body:
            assert body == 0
        before, descriptors = names(folder_of(runtime)), len(open_descriptors())
        for turn in range(1, 11):
            remove(folder_of(runtime), "*box" if turn % 2 else "folder")
            producer.send(turn)
            eventually(lambda: names(folder_of(runtime)) == before, "the return of the files")
            with consumer.get(timeout=30) as body:
                assert body == turn
        producer.flush(timeout=30)
        most = descriptors + 4 * OLD_MAX  # two sockets of two nodes
        eventually(lambda: len(open_descriptors()) <= most, "the end of what was replaced")
        with front.node("new") as new:
            speak(shop, new, "out")
            speak(new, worker, "in")
    assert 2 <= len([r for r in caplog.records if "listens there again" in r.getMessage()]) <= 6


def test_nodes_go_where_new_ones_look(
    front: Front, runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A log-out takes the folder of the session, and a log-in brings it back: old and new nodes meet all the time."""
    session, temporary = runtime / "session", runtime / "tmp"
    session.mkdir()
    temporary.mkdir()
    monkeypatch.delenv("PEERFABRIC_RUNTIME")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with front.node("worker") as worker, front.node("shop") as shop:
        numbers, consumer = shop.producer("numbers", int), worker.consumer("numbers", int)
        news, subscriber = worker.publisher("news", int), shop.subscriber("news", int)
        news.ready(timeout=30)
        for turn in range(6):
            if turn % 2:
                session.mkdir()
            else:
                shutil.rmtree(session)
            folder = fabric_folder(os.environ["PEERFABRIC_FABRIC"])
            eventually(lambda: len(names(folder)) == 6, "the move")  # noqa: B023  # called before it changes
            numbers.send(turn)
            with consumer.get(timeout=30) as body:
                assert body == turn
            news.ready(timeout=30)
            heard = None
            end = time.monotonic() + 30
            while heard != turn:  # an update on its way over a connection that the move cuts off is lost
                assert time.monotonic() < end, "no news after the move"
                news.publish(turn)
                with suppress(TimedOut):
                    heard = subscriber.get(timeout=2).body
            with front.node("new") as new:
                speak(shop, new, f"out{turn}")
                speak(new, worker, f"in{turn}")
            there = {p.name: p.endpoint for p in shop.peers()}
            assert there["worker"] is not None
        left = temporary / f"peerfabric-{os.geteuid()}" / os.environ["PEERFABRIC_FABRIC"]
        assert names(left) == [], "something is left where nobody looks"
    assert "where new nodes look. To stay in one place" in caplog.text


def test_path_of_the_user_comes_back_with_its_folder(front: Front, runtime: Path) -> None:
    """A node that listens at a path of its own does so again, also without the registry."""
    path = runtime / "own" / "sock"
    path.parent.mkdir()
    options: dict[str, Any] = {"listen": f"ipc://{path}", "discovery": ("static",)}
    with front.node("worker", **options) as worker:
        worker.statistics()
        shutil.rmtree(path.parent)
        eventually(path.exists, "the return of the socket")
        with front.node("new", peers=[f"ipc://{path}"], listen="tcp://127.0.0.1:*") as new:
            speak(worker, new, "out")
            speak(new, worker, "in")


def test_path_that_another_program_took_is_left_to_it(
    front: Front, runtime: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have been meant to be there. The log says so, once for now; when it is free, the node is there again."""
    path = runtime / "sock"
    options: dict[str, Any] = {"listen": f"ipc://{path}", "discovery": ("static",)}
    with front.node("worker", **options) as worker:
        worker.statistics()
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            inode = path.stat().st_ino
            eventually(lambda: "is in use" in caplog.text, "the error")
            assert path.stat().st_ino == inode
        with front.node("new", peers=[f"ipc://{path}"], listen="tcp://127.0.0.1:*") as new:
            speak(new, worker, "in")
    assert caplog.text.count("is in use") == 1


def test_closing_node_leaves_nothing_behind(front: Front, runtime: Path) -> None:
    """Whatever a cleaner removes while it closes, and whether it noticed or not."""
    for turn in range(4):
        node = front.node("shop")
        node.producer("numbers", int).send(1)
        remove(folder_of(runtime), "folder" if turn % 2 else "*box")
        with ThreadPoolExecutor() as beside:
            closing = beside.submit(node.close, 0.2)
            while not closing.done():
                remove(folder_of(runtime), "*.inbox")
        assert isinstance(closing.exception(), Undelivered)
        assert names(folder_of(runtime)) == []


KILLED = """
import sys
from peerfabric import Node
with Node("victim") as node:
    taken = [node.consumer("numbers", int).get(timeout=60)]
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("how", "verdict"),
    [("killed, taken off the list at once", True), ("files removed, killed", True), ("files removed, stopped", False)],
)
def test_messages_of_a_dead_consumer_are_taken_over(
    start: Callable[..., Any], runtime: Path, monkeypatch: pytest.MonkeyPatch, how: str, verdict: bool
) -> None:
    """A death is proven by sockets that refuse, although others removed it before we looked, or by the lock.

    One that only stopped, and whose files were removed, is silent, and not accused of a death.
    """
    died: list[bool] = []
    gone = Sender.peer_gone

    def spy(self: Sender, link: Any, now: float, *, proven: bool, died: bool, seen: list[bool] = died) -> None:
        seen.append(died)
        gone(self, link, now, proven=proven, died=died)

    monkeypatch.setattr(Sender, "peer_gone", spy)
    with Node("shop", discovery=("static", "exchange")) as shop:
        shop.producer("numbers", int).send(7)
        inner = shop._async._context
        child = start(KILLED, PEERFABRIC_PEERS=inner.engine.address.inbox[0])
        assert child.line() == "taken"
        inbox = next(p.endpoint for p in shop.peers())
        with inner.pump.lock:  # so that it looks only afterwards
            if "removed" in how:
                os.unlink(inbox.removeprefix("ipc://"))
            if "killed" in how:
                child.signal(signal.SIGKILL)
                child.finish()
            else:
                child.signal(signal.SIGSTOP)
            if "list" in how:
                other = RegistryBackend(os.environ["PEERFABRIC_FABRIC"])
                other.watch(lambda event: None)
                other.close()
                assert not list(folder_of(runtime).glob("*.json"))
        eventually(lambda: died, "the proof")
        assert died == [verdict]
        with shop.consumer("numbers", int).get(timeout=30) as body:
            assert body == 7
    child.release()
    for path in folder_of(runtime).iterdir():
        path.unlink()


# The machine alone


class FakeSockets:
    """Says that the files of `missing` are gone, until it is bound there again."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.error: Exception | None = None
        self.calls: list[Any] = []

    def gone(self) -> list[str]:
        if isinstance(self.error, OSError):
            raise self.error
        return self.missing

    def bind_again(self, endpoint: str) -> None:
        self.calls.append(endpoint)
        if self.error is not None:
            raise self.error
        self.missing = [other for other in self.missing if other != endpoint]

    def bind(self, inbox: list[str], outbox: list[str]) -> tuple[list[str], list[str]]:
        self.calls.append((inbox, outbox))
        return inbox, outbox

    def leave(self, endpoint: str) -> None:
        self.calls.append(f"left {endpoint}")


class Watched:
    """A Reachability over fake sockets, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, inbox: list[str], home: FabricFolder | None) -> None:
        self.now = 100.0
        monkeypatch.setattr("peerfabric.nodes.io.reachability.clock", lambda: self.now)
        self.sockets, self.moved = FakeSockets(), list[Address]()
        sockets: Any = self.sockets
        self.address = Address("n", 7, "shop", "h", inbox, [f"{e}.out" for e in inbox])
        self.reachability = Reachability("shop", self.address, sockets, home, self.moved.append)

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.reachability.look()


def test_what_cannot_be_looked_at_is_not_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A folder that is made unreadable for a while costs nothing but a few lines of log, ever further apart."""
    watched = Watched(monkeypatch, [f"ipc://{tmp_path}/sock"], None)
    watched.sockets.error = PermissionError(13, "Permission denied")
    watched.pass_time(600)
    assert watched.sockets.calls == []
    assert 3 <= len(caplog.records) <= 7
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert "make it accessible" in caplog.text
    watched.sockets.error = None
    watched.pass_time(40)
    assert watched.sockets.calls == []
    assert len(caplog.records) <= 7


def test_attempts_slow_down_and_never_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """What is in the way may go."""
    endpoint = f"ipc://{tmp_path}/sock"
    watched = Watched(monkeypatch, [endpoint], None)
    watched.sockets.missing, watched.sockets.error = [endpoint], ConfigError("somebody is there")
    watched.pass_time(600)
    assert 15 <= len(watched.sockets.calls) <= 30
    assert len(caplog.records) <= 7
    watched.sockets.error = None
    watched.pass_time(31)
    assert watched.sockets.missing == []
    assert watched.moved == []


def test_names_of_ours_that_somebody_took_are_given_up(monkeypatch: pytest.MonkeyPatch, runtime: Path) -> None:
    """In the folder where nodes meet nothing is at stake: new names, which everybody is told."""
    folder = fabric_folder("tests")
    endpoint = f"ipc://{folder}/n.1.inbox"
    watched = Watched(monkeypatch, [endpoint, "tcp://127.0.0.1:7"], FabricFolder("tests"))
    watched.sockets.missing, watched.sockets.error = [endpoint], ConfigError("somebody is there")
    watched.pass_time(1)
    [moved] = watched.moved
    inbox, outbox = moved.inbox[0], moved.outbox[0]
    assert inbox.startswith(f"ipc://{folder}/n.")
    assert moved == msgspec.structs.replace(
        watched.address, inbox=[inbox, "tcp://127.0.0.1:7"], outbox=[outbox, "tcp://127.0.0.1:7.out"]
    )
    assert watched.sockets.calls[:2] == [endpoint, ([inbox], [outbox])]
    assert set(watched.sockets.calls[2:]) == {f"left {e}" for e in (*watched.address.inbox, *watched.address.outbox)}


def test_folder_of_somebody_else_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, runtime: Path
) -> None:
    """Who takes the place of a removed folder gets no sockets of ours; the log says what to do."""
    folder = fabric_folder("tests")
    endpoint = f"ipc://{folder}/n.1.inbox"
    watched = Watched(monkeypatch, [endpoint], FabricFolder("tests"))
    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o777)
    watched.sockets.missing = [endpoint]
    watched.pass_time(60)
    assert watched.sockets.calls == []
    assert "can be written by others" in caplog.text
    assert "set PEERFABRIC_RUNTIME" in caplog.text
    assert len(caplog.records) <= 4
    folder.chmod(0o700)
    watched.pass_time(31)
    assert watched.sockets.calls == [endpoint]


def test_node_that_only_listens_on_tcp_has_nothing_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one whose paths would be too long."""
    watched = Watched(monkeypatch, ["tcp://127.0.0.1:7"], FabricFolder("tests"))
    watched.sockets.error = AssertionError("looked at")
    watched.pass_time(10)
    assert watched.sockets.calls == []
