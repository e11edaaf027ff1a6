"""Remembered peers: what is written when, and when it is proposed."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from peerfabric.discovery.base import AnnounceKey, Candidate, Linked, Sighting, Withdrawn
from peerfabric.discovery.remembered import ALONE_AFTER, REMEMBERED_MAX, WRITE_EVERY, RememberedBackend
from tests.discovery.conftest import Recorder, eventually


class Node:
    """A backend that is turned by hand, with clocks, links and reports of its own."""

    def __init__(self, folder: Path, *key_ids: str, unix: int = 1_000_000) -> None:
        self.now, self.unix = 0.0, unix
        self.links: list[str] = []
        self.recorder = Recorder()
        self.backend = RememberedBackend(folder, key_ids, clock=lambda: self.now, unix=lambda: self.unix)
        self.backend.linked = lambda: [Linked(endpoint, ()) for endpoint in self.links]
        self.backend._report = self.recorder
        self.backend._read()

    def look(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.unix += int(seconds)
        self.backend._look()

    def proposed(self) -> list[str]:
        return [
            e.seen.endpoint for e in self.recorder.events if isinstance(e, Sighting) and isinstance(e.seen, Candidate)
        ]


def content(file: Path) -> dict[str, int]:
    return {peer["endpoint"]: peer["used_unix_s"] for peer in json.loads(file.read_text())["peers"]}


def test_who_answered_is_written_down(tmp_path: Path) -> None:
    """For each secret, for us alone, by replacing the file; endpoints of this machine are the registry's business."""
    node = Node(tmp_path, "a1b2c3d4", "ffffffff")
    node.links = ["tcp://10.0.0.1:1", "ipc:///a", "tcp://127.0.0.1:1", "tcp://[fd00::1]:2"]
    node.look()
    for name in ("peers-a1b2c3d4.json", "peers-ffffffff.json"):
        assert content(tmp_path / name) == {"tcp://10.0.0.1:1": 1_000_000, "tcp://[fd00::1]:2": 1_000_000}
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["peers-a1b2c3d4.json", "peers-ffffffff.json"]


def test_not_written_for_every_use(tmp_path: Path) -> None:
    """A change is written at most every 30 s, and the use of a known endpoint once in an hour."""
    node = Node(tmp_path)
    node.links = ["tcp://10.0.0.1:1"]
    node.look()
    file = tmp_path / "peers-clear.json"
    first = file.stat().st_ino
    node.look(WRITE_EVERY)
    assert file.stat().st_ino == first
    node.links.append("tcp://10.0.0.2:1")
    node.look()
    assert len(content(file)) == 2
    node.links.append("tcp://10.0.0.3:1")
    node.look(1.0)
    assert len(content(file)) == 2
    node.look(WRITE_EVERY)
    assert len(content(file)) == 3
    node.look(3600.0)
    assert set(content(file).values()) == {node.unix}


def test_proposed_to_who_is_alone(tmp_path: Path) -> None:
    """After 2 s without a peer, the last used first; withdrawn when there is one, and proposed again later."""
    before = Node(tmp_path)
    for endpoint in ("tcp://10.0.0.1:1", "tcp://10.0.0.2:1"):
        before.links = [endpoint]
        before.look(WRITE_EVERY)
    node = Node(tmp_path)
    node.look()
    node.look(ALONE_AFTER - 0.1)
    assert node.proposed() == []
    node.look(0.1)
    node.look(5.0)
    assert node.proposed() == ["tcp://10.0.0.2:1", "tcp://10.0.0.1:1"]
    node.links = ["tcp://10.0.0.2:1"]
    node.look(1.0)
    assert node.recorder.events[2:] == [
        Withdrawn(endpoint=endpoint, source="remembered") for endpoint in ("tcp://10.0.0.2:1", "tcp://10.0.0.1:1")
    ]
    node.links = []
    node.look(1.0)
    node.look(ALONE_AFTER)
    assert len(node.proposed()) == 4


def test_the_last_used_stay(tmp_path: Path) -> None:
    """There is room for so many."""
    node = Node(tmp_path)
    node.links = [f"tcp://10.0.0.{n}:1" for n in range(REMEMBERED_MAX + 3)]
    node.look()
    kept = content(tmp_path / "peers-clear.json")
    assert list(kept) == [f"tcp://10.0.0.{n}:1" for n in range(3, REMEMBERED_MAX + 3)]


def test_a_secret_is_taken_away(tmp_path: Path) -> None:
    """What was learned under both is known under the one that is left; the later use counts."""
    node = Node(tmp_path, "aaaaaaaa", "bbbbbbbb")
    node.links = ["tcp://10.0.0.1:1"]
    node.look()
    assert list(Node(tmp_path, "bbbbbbbb").backend._known) == ["tcp://10.0.0.1:1"]
    assert list(Node(tmp_path, "cccccccc").backend._known) == []


def test_a_secret_is_added(tmp_path: Path) -> None:
    """All that is known is written for it, too."""
    node = Node(tmp_path, "aaaaaaaa")
    node.links = ["tcp://10.0.0.1:1"]
    node.look()
    node.backend.rekey([AnnounceKey("bbbbbbbb", b""), AnnounceKey("aaaaaaaa", b"")])
    node.look(WRITE_EVERY)
    assert list(content(tmp_path / "peers-bbbbbbbb.json")) == ["tcp://10.0.0.1:1"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 1, "peers": [{"endpoint": "", "used_unix_s": 1}]}', '{"version": 1, "peers": 7}'],
)
def test_a_file_that_is_not_ours(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Is one warning, and is replaced when there is something to write."""
    file = tmp_path / "peers-clear.json"
    file.write_text(text)
    with caplog.at_level(logging.WARNING, "peerfabric"):
        node = Node(tmp_path)
    assert len(caplog.messages) == 1
    assert "is not what we wrote" in caplog.messages[0]
    node.links = ["tcp://10.0.0.1:1"]
    node.look()
    assert content(file) == {"tcp://10.0.0.1:1": 1_000_000}


def test_other_endpoints_in_the_file(tmp_path: Path) -> None:
    """Only tcp is dialled, and a later version is not ours to read."""
    peers = [{"endpoint": e, "used_unix_s": 1} for e in ("ipc:///a", "inproc://x", "tcp://10.0.0.1:1")]
    file = tmp_path / "peers-clear.json"
    file.write_text(json.dumps({"version": 1, "peers": peers}))
    assert list(Node(tmp_path).backend._known) == ["tcp://10.0.0.1:1"]
    file.write_text(json.dumps({"version": 2, "peers": peers}))
    assert list(Node(tmp_path).backend._known) == []


def test_a_folder_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is a warning; the node goes on."""
    node = Node(tmp_path / "none")
    node.links = ["tcp://10.0.0.1:1"]
    with caplog.at_level(logging.WARNING, "peerfabric"):
        node.look()
    assert "cannot be written: No such file or directory" in caplog.messages[0]


def test_files_belong_to_a_thread_of_its_own(tmp_path: Path) -> None:
    """A disk that takes its time keeps nobody waiting; what is new at the end is written."""
    backend, threads = RememberedBackend(tmp_path), set()

    def linked() -> list[Linked]:
        threads.add(threading.current_thread().name)
        return [Linked("tcp://10.0.0.1:1", ())]

    backend.linked = linked
    backend.watch(Recorder())
    eventually(lambda: threads, "a look")
    backend.close()
    assert threads == {"peerfabric-remembered"}
    assert list(content(tmp_path / "peers-clear.json")) == ["tcp://10.0.0.1:1"]
