"""Nodes whose process runs out of descriptors, or whose memory somebody fills."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peerfabric import ConfigError, Node, SpoolError
from peerfabric.discovery.reminder import Reminders
from peerfabric.nodes.io import descriptors, growth
from peerfabric.nodes.io.descriptors import FILES_RESERVE, RESERVE, Table
from tests.nodes.conftest import DEADLINE, eventually, open_descriptors

MiB = 1024 * 1024

PEER = """
from peerfabric import Node
with Node("late") as node, node.consumer("q", int).get(timeout=60) as body:
    print("late got", body, flush=True)
"""

STARVED = """
import os, resource, sys, time
from peerfabric import Node, ConfigError

def child():
    pid = os.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
    return pid

resource.setrlimit(resource.RLIMIT_NOFILE, (720, 720))
with Node("shop") as shop:
    shop.producer("q", int).send(5)
    early = Node("early", fabric="other")
    hogs = []
    try:
        while True:
            hogs.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    pid = child()
    time.sleep(2)
    try:
        early.__enter__()
    except ConfigError as error:
        print("refused", "ulimit -n" in str(error), flush=True)
    for hog in hogs:
        os.close(hog)
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
with early:
    print("works again", flush=True)
"""

MANY = """
import resource
from peerfabric import Node, ConfigError
resource.setrlimit(resource.RLIMIT_NOFILE, (704, 704))
nodes = []
try:
    while True:
        nodes.append(Node())
        nodes[-1].__enter__()
except ConfigError as error:
    print("704" in str(error) and "ulimit -n" in str(error), len(nodes) > 5, flush=True)
nodes.pop()
for node in nodes:
    node.close()
with Node():
    print("works again", flush=True)
"""

FLOOD = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00" + b"NULL".ljust(20, b"\\0") + bytes(32))
ready = b"\\x05READY\\x0bSocket-Type\\x00\\x00\\x00" + bytes([len(sys.argv[2])]) + sys.argv[2].encode()
connection.sendall(bytes([4, len(ready)]) + ready)
answer = b""
while b"Socket-Type" not in answer:
    answer += connection.recv(1000)
frames = (b"\\x01\\x64" + b"x" * 100) * 640
try:
    while True:
        connection.sendall(frames)
except OSError:
    print("cut off", flush=True)
"""


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend that so many descriptors are free from now on."""

    def leave(free: int) -> None:
        limit = len(os.listdir("/proc/self/fd")) - 1 + free
        monkeypatch.setattr(descriptors, "_limit", lambda: limit)

    return leave


@pytest.fixture(autouse=True)
def _fresh_complaints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors.table, "_complaints", Reminders())


def run(script: str, runtime: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script, PEER], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def until_refused(open_one: Callable[[int], object]) -> int:
    """How many could be opened until there was an error of ours that says what to do."""
    for number in range(100):
        try:
            open_one(number)
        except (ConfigError, SpoolError) as error:
            if "ulimit -n" in str(error):
                return number
            raise
    raise AssertionError("nothing was refused")


def inbox_of(node: Any) -> str:
    address = node._async._context.engine.links.address
    return str(address.inbox[0]).removeprefix("ipc://")


def outbox_of(node: Any) -> str:
    address = node._async._context.engine.links.address
    return str(address.outbox[0]).removeprefix("ipc://")


def sockets_of(node: Any) -> Any:
    return node._async._context.pump._sockets


# Descriptors


@pytest.mark.parametrize("kernel", ["new", "old"])
def test_table_knows_what_is_free(few: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """Also where the kernel does not tell how many descriptors are open, and where holes are left."""
    if kernel == "old":
        stat = os.stat
        monkeypatch.setattr(os, "stat", lambda path: stat("/dev/null") if path == "/proc/self/fd" else stat(path))
    table = Table()
    few(100)
    assert table.has(95)
    assert not table.has(105)
    table.promise(50)
    assert not table.has(60)
    table.promise(-50)
    held = [socket.socket() for _ in range(50)]
    for one in held[::2]:
        one.close()
    assert table.has(70)
    assert not table.has(80)
    for one in held:
        one.close()


def test_peer_that_comes_with_no_descriptor_left_waits(runtime: Path) -> None:
    """A process without any goes on, refuses to start another node, and serves the peer when it has some again."""
    assert sorted(run(STARVED, runtime)) == sorted(["refused True", "late got 5", "ended with 0", "works again"])


def test_nodes_up_to_the_limit(runtime: Path) -> None:
    """Opening nodes ends in an error that names the limit, and goes on when some are closed."""
    assert run(MANY, runtime) == ["True True", "works again"]


def test_shortage_and_its_end(runtime: Path, few: Callable[[int], None], caplog: pytest.LogCaptureFixture) -> None:
    """Who is connected goes on, who comes waits; it is said once, and so is the end."""
    few(5000)
    with Node("a") as a, Node("b") as b, Node("c", fabric="other"):
        sender, taker = a.producer("q", int), b.consumer("q", int)
        sender.send(1)
        with taker.get(timeout=DEADLINE) as body:
            assert body == 1
        few(RESERVE - 10)
        eventually(lambda: not os.path.exists(inbox_of(a)) and not os.path.exists(inbox_of(b)), "closed doors")
        sender.send(2)
        with taker.get(timeout=DEADLINE) as body:
            assert body == 2
        assert caplog.text.count("raise `ulimit -n`") == 1
        few(RESERVE + 10)  # not yet enough
        with pytest.raises(ConfigError, match="ulimit -n"):
            Node("d").__enter__()
        assert not os.path.exists(inbox_of(a))
        few(5000)
        with Node("e") as e:
            late = e.consumer("q", int)
            b.close()
            sender.send(3)
            with late.get(timeout=DEADLINE) as body:
                assert body == 3
        assert "free descriptors again" in caplog.text


def test_dials_wait(runtime: Path, few: Callable[[int], None]) -> None:
    """A peer that is found while descriptors are short is dialled when they are not, without news of it."""
    few(5000)
    with Node("a") as a:
        a.producer("q", int).send(5)
        few(RESERVE - 10)
        late = subprocess.Popen([sys.executable, "-c", PEER], stdout=subprocess.PIPE, text=True)
        eventually(lambda: sockets_of(a)._undialled, "a dial that waits")
        few(5000)
        assert late.communicate(timeout=DEADLINE)[0] == "late got 5\n"


def test_failed_start_gives_all_back(runtime: Path, few: Callable[[int], None], tmp_path: Path) -> None:
    """A node that has no descriptors to start leaves nothing open, and starts when there are."""
    node = Node("a", spool=str(tmp_path / "spool"))
    node.producer("q", int)
    before = open_descriptors()
    few(RESERVE)
    with pytest.raises((ConfigError, SpoolError), match="ulimit -n"):
        node.__enter__()
    assert len(open_descriptors()) <= len(before)
    few(5000)
    with node:
        pass


def test_ledgers_up_to_the_limit(runtime: Path, few: Callable[[int], None], tmp_path: Path) -> None:
    """Another ledger is refused before the reserve is touched."""
    with Node("a") as a:
        few(RESERVE + 9)
        made = until_refused(lambda number: a.consumer(f"q{number}", int, ledger=str(tmp_path / f"l{number}")))
        assert 0 < made < 10
        few(5000)
        a.consumer("more", int, ledger=str(tmp_path / "more"))


def test_queues_in_a_spool_up_to_the_limit(runtime: Path, few: Callable[[int], None], tmp_path: Path) -> None:
    """A queue for which no file can be opened refuses its messages; the others, and what is stored, stay."""
    with Node("a", spool=str(tmp_path / "spool")) as a:
        stored = a.producer("stored", int)
        stored.send(1)
        few(FILES_RESERVE + 3)
        sent = until_refused(lambda number: a.producer(f"q{number}", int).send(number))
        assert 0 < sent < 10
        stored.send(2)
        few(5000)
        a.producer(f"q{sent}", int).send(sent)
    with Node("a", spool=str(tmp_path / "spool")) as a:
        left = {one.queue: one.recovered for one in a.statistics().producers}
        assert left["stored"] == 2
        assert sum(left.values()) == 2 + sent + 1


# Memory


@pytest.fixture
def flood() -> Iterator[Callable[[str, str], subprocess.Popen[str]]]:
    """A program that sends one message without end to a socket, until it is cut off."""
    started = []

    def start(path: str, kind: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen([sys.executable, "-c", FLOOD, path, kind], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("where", ["inbox", "outbox"])
def test_message_without_end(
    runtime: Path,
    flood: Callable[[str, str], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    """Its sender is cut off and the memory is free; messages of others arrive before, meanwhile and afterwards."""
    monkeypatch.setattr(growth, "GROWTH", 64 * MiB)
    with Node("target") as target, Node("peer") as peer:
        sender, taker = peer.producer("q", int), target.consumer("q", int)
        sender.send(0)
        with taker.get(timeout=DEADLINE) as body:
            assert body == 0
        growth.give_back()
        before = growth.resident() or 0
        peak = before
        path, kind = (inbox_of(target), "PUSH") if where == "inbox" else (outbox_of(target), "SUB")
        attack = flood(path, kind)
        number = 0
        while attack.poll() is None:
            number += 1
            sender.send(number)
            with taker.get(timeout=DEADLINE) as body:
                assert body == number
            peak = max(peak, growth.resident() or 0)
        sender.send(-1)
        with taker.get(timeout=DEADLINE) as body:
            assert body == -1
        eventually(lambda: "without end" in caplog.text, "a word about it")
        assert attack.stdout is not None
        assert attack.stdout.read() == "cut off\n"
        assert peak - before < 1500 * MiB  # 64, twice that for an outbox, and what comes between two looks
        eventually(lambda: (growth.resident() or 0) - before < 64 * MiB, "free memory")
        assert inbox_of(target) in caplog.text


def test_own_growth_closes_nothing(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that fills memory itself keeps its connections, and its messages arrive."""
    monkeypatch.setattr(growth, "GROWTH", 16 * MiB)
    with Node("target") as target, Node("peer") as peer:
        sender, taker = peer.producer("q", int), target.consumer("q", int)
        inbox = sockets_of(target)._inbox.socket
        kept = []
        for number in range(20):
            kept.append(b"x" * (10 * MiB))
            sender.send(number)
            with taker.get(timeout=DEADLINE) as body:
                assert body == number
        looked = sockets_of(target)._look_at
        eventually(lambda: sockets_of(target)._look_at > looked, "another look")
        assert sockets_of(target)._inbox.socket is inbox


def test_growth_with_messages_costs_no_message(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that keeps all it receives may be connected anew; all arrives, once, and nobody is accused."""
    monkeypatch.setattr(growth, "GROSS", 32 * MiB)
    monkeypatch.setattr(growth, "_FASTEST", 1 << 50)
    monkeypatch.setattr(growth, "_KEPT", 0)
    with Node("target") as target, Node("peer") as peer:
        sender, taker = peer.producer("q", bytes), target.consumer("q", bytes)
        inbox = sockets_of(target)._inbox.socket
        kept: list[bytes] = []
        end = time.monotonic() + DEADLINE
        while sockets_of(target)._inbox.socket is inbox:
            assert time.monotonic() < end
            for _ in range(20):
                sender.send(len(kept).to_bytes(4, "big") + bytes(250_000))
                with taker.get(timeout=DEADLINE) as body:
                    kept.append(bytes(body) + b"y")
        assert [int.from_bytes(body[:4], "big") for body in kept] == list(range(len(kept)))
    assert "without end" not in caplog.text
