"""`peerfabric spool`, `dead` and `spool serve` over the slots of a shared folder, as processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from peerfabric import Message, Node
from peerfabric.nodes.cli.checks.system import RealSystem
from peerfabric.nodes.cli.main import cli
from peerfabric.nodes.settings import checked_settings
from peerfabric.nodes.storage import shared
from peerfabric.spool.files import RealFiles
from peerfabric.spool.folder import read_owner
from peerfabric.spool.slots import slot_folder
from tests.cli.conftest import DEADLINE, Start, ended

STORES = """
import os, signal, sys
from peerfabric import Node
node = Node(sys.argv[2], spool=sys.argv[1])
jobs = node.producer("jobs", dict)
for n in range(3):
    print(jobs.send({"n": n}).id, flush=True)
print("stored", flush=True)
sys.stdin.readline()
if sys.argv[3] == "closes":
    node.close(timeout=0)
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""

ORPHANS = """
import ctypes, os, sys
from peerfabric import Node
node = Node("parent", spool=sys.argv[1])
node.producer("jobs", dict).send({"n": 0})
if ctypes.CDLL(None).syscall(int(sys.argv[2])) == 0:
    while True:
        ctypes.CDLL(None).pause()
os.kill(os.getpid(), 9)
"""


class Shops:
    """Processes that have stored three messages each in a slot of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.ids: dict[str, list[str]] = {}

    def open(self, name: str, how: str = "dies", **environment: str) -> int:
        """Start one; its slot is the lowest free one. Returns its pid."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", STORES, self.folder, name, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.running[name] = process
        assert process.stdout is not None
        self.ids[name] = [line.strip() for line in iter(process.stdout.readline, "stored\n")]
        return process.pid

    def end(self, name: str) -> None:
        """Let it die, or close, as it was told to."""
        self.running.pop(name).communicate("\n", timeout=DEADLINE)

    def kill(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[Shops]:
    shops = Shops(tmp_path / "spool")
    yield shops
    shops.kill()


def look(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that joins no fabric, in this process."""
    done = CliRunner().invoke(cli, arguments)
    return done.exit_code, done.stdout, done.stderr


def lines(*arguments: str) -> list[dict[str, Any]]:
    code, out, err = look(*arguments)
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def states(shops: Shops) -> list[tuple[int, str, str, str, int | None]]:
    found = lines("spool", "ls", shops.folder, "-o", "json")
    return [(row["slot"], row["state"], row["name"], row["fabric"], row["messages"]) for row in found]


def eventually(condition: Any) -> None:
    ends_at = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.02)


def test_a_row_for_each_slot_and_queue(start: Start, shops: Shops) -> None:
    """One that runs and is asked, one that was killed, one of another fabric that was closed: each says whose it is."""
    pid = shops.open("one")
    shops.open("two")
    shops.open("three", "closes", PEERFABRIC_FABRIC="far")
    shops.end("two")
    shops.end("three")
    assert states(shops) == [
        (0, f"running {pid}", "one", "cli", 3),
        (1, "left", "two", "cli", 3),
        (2, "left", "three", "far", 3),
    ]
    code, out, _ = look("spool", "ls", shops.folder)
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["slot", "0", "1", "2"])


def test_all_free_slots_are_looked_into(start: Start, shops: Shops) -> None:
    """Without `--slot` all but those in use, which are told of; an id finds its slot; the rest stays."""
    pid = shops.open("one")
    shops.open("two")
    shops.open("three")
    shops.end("two")
    shops.end("three")
    code, out, err = look("spool", "export", shops.folder, "jobs")
    messages = [json.loads(line) for line in out.splitlines()]
    assert (code, [m["id"] for m in messages]) == (0, shops.ids["two"] + shops.ids["three"])
    assert [m["slot"] for m in messages] == [1, 1, 1, 2, 2, 2]
    assert f"slot 0 is passed over: {shops.folder}: process {pid} uses this spool" in err
    shown = lines("spool", "show", shops.folder, "jobs", "-n", "4", "-o", "json")
    assert [m["id"] for m in shown] == [m["id"] for m in messages[:4]]
    assert lines("spool", "export", shops.folder, "jobs", "--slot", "2") == messages[3:]
    code, _, err = look("spool", "verify", shops.folder, "--slot", "0")
    assert (code, str(pid) in err) == (4, True)
    code, _, err = look("spool", "verify", shops.folder, "--slot", "3")
    assert (code, "has no slot 3" in err) == (1, True)
    first, *_ = shops.ids["three"]
    assert look("spool", "drop", shops.folder, "jobs", first, "--yes") == (0, "1 message dropped\n", "")
    code, _, err = look("spool", "drop", shops.folder, "jobs", shops.ids["one"][0], "--yes")
    assert (code, str(pid) in err) == (4, True)
    code, _, err = look("spool", "drop", shops.folder, "jobs", f"ab{first}", "--yes")
    assert (code, "is of another node" in err) == (1, True)
    assert look("spool", "drop", shops.folder, "jobs", "--all", "--yes")[:2] == (0, "5 messages dropped\n")
    assert [row[1] for row in states(shops)] == [f"running {pid}", "empty", "empty"]


def test_a_slot_is_no_folder_of_its_own(start: Start, shops: Shops) -> None:
    """Commands and nodes say which folder to give."""
    shops.open("one")
    shops.open("two")
    shops.end("two")
    slot = slot_folder(shops.folder, 1)
    for command in (("spool", "ls", slot), ("dead", "ls", slot), ("spool", "serve", slot)):
        code, out, err = look(*command)
        assert (code, out, f"is a slot of {shops.folder}; give that folder" in err) == (2, "", True), command


def test_a_child_that_keeps_the_lock_is_named(start: Start, tmp_path: Path) -> None:
    """It was forked past Python, so nothing closed its descriptors; the process that had the slot is gone."""
    number = {"x86_64": 57, "i686": 2}.get(os.uname().machine)
    if number is None:
        pytest.skip("no system call fork on this machine")
    folder = str(tmp_path / "spool")
    command = [sys.executable, "-P", "-c", ORPHANS, folder, str(number)]
    process = subprocess.Popen(command)
    assert process.wait(DEADLINE) == -signal.SIGKILL
    code, out, err = look("spool", "ls", folder)
    text = rf"process {process.pid} of `lock` is gone; a child of it has the file: process (\d+) \(python"
    said = re.search(text, err)
    assert said is not None, err
    try:
        assert (code, "running" in out) == (0, True)
        settings = checked_settings("doctor", None, "auto", (), "auto", None, folder, False, False)
        assert said.group(0) in RealSystem().spool(settings)
        code, _, err = look("dead", "ls", folder)
        assert (code, f"process {said.group(1)}" in err, "end that process" in err) == (4, True, True)
    finally:
        os.kill(int(said.group(1)), signal.SIGKILL)


# Dead letters


def test_a_parked_letter_is_retried(start: Start, shops: Shops) -> None:
    """A slot that has nothing but a dead letter: queued again, a node that runs adopts and delivers it."""
    with Node("kitchen") as kitchen:
        jobs = kitchen.consumer("jobs", dict)
        with Node("first", spool=shops.folder) as first:
            first.statistics()
            with Node("second", spool=shops.folder) as second:
                made = second.producer("jobs", dict)
                identity = made.send({"n": 1}).id
                jobs.get(timeout=DEADLINE).reject("burnt")
                made.flush(timeout=DEADLINE)
            [row] = [row for row in lines("spool", "ls", shops.folder, "-o", "json") if row["slot"] == 1]
            assert (row["state"], row["dead"], row["messages"]) == ("parked", 1, 0)
            [letter] = lines("dead", "ls", shops.folder, "-o", "json")
            assert (letter["id"], letter["slot"]) == (identity, 1)
            assert look("dead", "show", shops.folder, identity)[0] == 0
            assert look("dead", "retry", shops.folder, identity) == (0, "1 dead letter queued again\n", "")
            with jobs.get(timeout=DEADLINE) as body:
                assert body == {"n": 1}
            eventually(lambda: not first.statistics().adopted)
    assert {row["state"] for row in lines("spool", "ls", shops.folder, "-o", "json")} == {"empty"}


# spool serve


def test_a_script_that_sends_and_exits(start: Start, shops: Shops, fabric: Path) -> None:
    """Nobody consumes while it runs; `spool serve` delivers when somebody does, tells systemd, and ends at SIGTERM."""
    path = fabric / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening, pytest.MonkeyPatch.context() as patch:
        listening.settimeout(DEADLINE)
        listening.bind(str(path))
        patch.setenv("NOTIFY_SOCKET", str(path))
        serving = start("spool", "serve", shops.folder, "--grace", "0.1")
        patch.delenv("NOTIFY_SOCKET")
        assert listening.recv(200) == b"READY=1"
        assert listening.recv(200) == b"STATUS=0 slots adopted, 0 messages there"
        shops.open("script", "closes")
        shops.end("script")
        with Node("kitchen") as kitchen:
            jobs = kitchen.consumer("jobs", dict)
            messages = [jobs.get(timeout=DEADLINE)]
            [row] = lines("spool", "ls", shops.folder, "-o", "json")
            assert (row["state"], row["name"]) == (f"adopted by {serving.pid}", "script")
            messages[0].ack()
            while len(messages) < 3:
                messages.append(jobs.get(timeout=DEADLINE))
                messages[-1].ack()
            assert [(m.id, m.sender) for m in messages] == [(each, "script") for each in shops.ids["script"]]
            eventually(lambda: states(shops) == [(0, "empty", "script", "cli", 0)])
        serving.terminate()
        code, out, err = ended(serving)
        assert (code, out) == (0, "")
        assert err == f"peerfabric: serving {shops.folder} (made just now), fabric cli: nothing is left in it\n"
        said = set()
        while (text := listening.recv(200)) != b"STOPPING=1":
            said.add(text)
        assert b"STATUS=1 slot adopted, 3 messages there" in said
    path.unlink()


def test_once(start: Start, shops: Shops) -> None:
    """It ends when all is delivered, and with 3 if nobody consumes; nothing is lost."""
    shops.open("one")
    shops.open("two", "closes")
    shops.end("one")
    shops.end("two")
    code, out, err = ended(start("spool", "serve", shops.folder, "--once", "--grace", "0", "--timeout", "2"))
    assert (code, out, "nobody consumes it" in err) == (3, "", True)
    with Node("kitchen") as kitchen:
        got: list[str] = []

        @kitchen.on_message("jobs")
        def cook(body: dict[str, int], message: Message) -> None:  # type: ignore[type-arg]
            got.append(message.id)

        kitchen.peers()
        code, out, err = ended(start("spool", "serve", shops.folder, "--once", "--grace", "0"))
        assert (code, out) == (0, "")
        assert err == f"peerfabric: serving {shops.folder}, fabric cli: 6 messages in 2 slots\n"
    assert sorted(got) == sorted(shops.ids["one"] + shops.ids["two"])
    assert [row[1] for row in states(shops)] == ["empty", "empty"]
    assert read_owner(RealFiles(), slot_folder(shops.folder, 1)) is not None
    code, out, err = ended(start("spool", "serve", shops.folder, "--once"))
    assert (code, out, "nothing is left in it" in err) == (0, "", True)


def test_once_needs_a_folder(tmp_path: Path) -> None:
    """One that was mistyped is refused as by `spool ls`, and not made."""
    folder = tmp_path / "nosuch"
    code, out, err = look("spool", "serve", str(folder), "--once")
    assert (code, out, err) == look("spool", "ls", str(folder))
    assert (code, out, f"{folder}: there is no such folder" in err) == (5, "", True)
    assert not folder.exists()


def test_empty_slots_look_alike(shops: Shops) -> None:
    """Those that have shrunk, and the first, which keeps its queues: nothing of each, and no blanks."""
    with Node("first", spool=shops.folder, fabric="cli") as first:
        first.producer("jobs", dict, on_full="block")
        first.statistics()
        with Node("second", spool=shops.folder, fabric="cli") as second:
            second.statistics()
    rows = lines("spool", "ls", shops.folder, "-o", "json")
    assert [(row["slot"], row["state"]) for row in rows] == [(0, "empty"), (1, "empty")]
    assert [(row["messages"], row["dead"], row["damaged"]) for row in rows] == [(0, 0, 0)] * 2


def test_two_fabrics_on_one_folder(start: Start, shops: Shops) -> None:
    """Consumers of this one get nothing of the other one, and whoever serves says which fabric to give."""
    shops.open("far", PEERFABRIC_FABRIC="far")
    shops.end("far")
    with Node("kitchen") as kitchen:
        got: list[str] = []

        @kitchen.on_message("jobs")
        def cook(body: dict[str, int], message: Message) -> None:  # type: ignore[type-arg]
            got.append(message.id)

        kitchen.peers()
        shops.open("near")  # the other slot is passed over
        shops.end("near")
        code, _, err = ended(start("spool", "serve", shops.folder, "--once", "--grace", "0"))
        assert (code, "of another fabric: give its --fabric" in err) == (3, True)
        code, _, err = ended(start("spool", "serve", shops.folder, "--once", "--grace", "0"))
        assert (code, "nothing is left in it" in err) == (3, False)
        assert "nothing of this fabric is left in it, and 1 slot with messages of another one" in err
    assert set(got) == set(shops.ids["near"])
    head, *rows = look("spool", "ls", shops.folder)[1].splitlines()
    assert "fabric" in head.split()
    assert "far" in rows[0].split()
    assert [row[:4] for row in states(shops)] == [(0, "left", "far", "far"), (1, "empty", "near", "cli")]
    with Node("kitchen", fabric="far") as kitchen:
        jobs = kitchen.consumer("jobs", dict)
        serving = start("spool", "serve", shops.folder, "--fabric", "far", "--once", "--grace", "0")
        for identity in shops.ids["far"]:
            with (message := jobs.get(timeout=DEADLINE)):
                assert message.id == identity
        assert ended(serving)[0] == 0


def test_one_serves_a_folder(start: Start, shops: Shops) -> None:
    """A second one is refused, with the first one's pid."""
    serving = start("spool", "serve", shops.folder)
    lock = Path(shops.folder, "slots", "serving")
    eventually(lambda: lock.exists() and lock.read_text().strip() == str(serving.pid))
    code, _, err = ended(start("spool", "serve", shops.folder))
    assert (code, f"process {serving.pid} uses this spool" in err) == (4, True)
    serving.send_signal(signal.SIGINT)
    assert ended(serving)[0] == 130


def test_a_network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder there is not served, and nothing is made in it."""
    monkeypatch.setattr(shared, "filesystem", lambda path: "nfs4")
    code, out, err = look("spool", "serve", str(tmp_path / "spool"))
    assert (code, out) == (5, "")
    assert "is on nfs4, where a lock of another machine is not seen in time" in err
    assert not (tmp_path / "spool").exists()
