"""Files of living and dead nodes."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from peerfabric.discovery import registry
from peerfabric.discovery.base import Announcement
from peerfabric.discovery.files import is_proven_dead
from peerfabric.discovery.host import fabric_folder, host_id
from peerfabric.discovery.registry import ANNOUNCEMENT_BYTES_MAX, RegistryBackend
from peerfabric.errors import ConfigError
from tests.discovery.conftest import Child, Recorder, announcement_for, eventually

StartChild = Callable[..., Child]


@pytest.fixture
def watched() -> object:
    """A watching backend and what it reports."""
    backend, recorder = RegistryBackend("tests"), Recorder()
    backend.watch(recorder)
    yield recorder
    backend.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def plant(folder: Path, announcement: Announcement) -> Path:
    """A file that nobody locks: what a killed node leaves."""
    path = folder / f"{announcement.node_id}.{announcement.epoch}.json"
    path.write_bytes(msgspec.json.encode(announcement))
    return path


def test_killed_process_is_lost_and_cleaned_up(start_child: StartChild, watched: Recorder) -> None:
    """Nobody withdraws after SIGKILL: who watches records, and removes the file.

    The socket stays a while: it refuses, which is proof for whoever had a link.
    """
    node_id = uuid.uuid4().hex
    child = start_child("registry", "tests", node_id)
    assert child.line() == "ready"
    eventually(lambda: node_id in {one.node_id for one in watched.announcements()}, "the sighting")
    assert names(fabric_folder("tests")) == [f"{node_id}.0.inbox", f"{node_id}.{7 << 20}.json"]
    child.kill()
    eventually(lambda: watched.lost(node_id), "the loss")
    assert names(fabric_folder("tests")) == [f"{node_id}.0.inbox"]


def test_newcomer_never_sees_the_dead(start_child: StartChild) -> None:
    """The first scan already tells the living from the dead."""
    dead, living = uuid.uuid4().hex, uuid.uuid4().hex
    children = [start_child("registry", "tests", node_id) for node_id in (dead, living)]
    assert [child.line() for child in children] == ["ready", "ready"]
    children[0].kill()
    backend, recorder = RegistryBackend("tests"), Recorder()
    backend.watch(recorder)
    backend.close()
    assert [one.node_id for one in recorder.announcements()] == [living]
    assert names(fabric_folder("tests")) == sorted([f"{dead}.0.inbox", f"{living}.0.inbox", f"{living}.{7 << 20}.json"])


def test_files_of_another_host_stay(watched: Recorder) -> None:
    """On a folder that hosts share, a lock that is free here may be held there; after an hour it is not believed."""
    there = announcement_for(host="another-host")
    path = plant(fabric_folder("tests"), there)
    eventually(lambda: there.node_id in {one.node_id for one in watched.announcements()}, "the sighting")
    assert path.exists()
    os.utime(path, (time.time() - 7200,) * 2)
    eventually(lambda: watched.lost(there.node_id), "the loss")
    assert not path.exists()


@pytest.mark.parametrize("part", ["network", "files"])
def test_the_dead_of_another_container_of_this_machine_are_found(watched: Recorder, part: str) -> None:
    """Who shares our network or our files shares our kernel, which tells of locks."""
    network, _, files = host_id().partition("-")
    there = announcement_for(host=f"{network}-elsewhere" if part == "network" else f"elsewhere-{files}")
    path = plant(fabric_folder("tests"), there)
    eventually(lambda: not path.exists(), "the end of its file")


class CountingBell(threading.Event):
    """Counts how often it was waited for."""

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return super().wait(timeout)


def test_an_idle_watch_wakes_up_once_a_period(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The looks at the folder, which slow down after a start, and those at locks and our own file share it."""
    monkeypatch.setattr(registry, "_PERIOD", 0.02)
    backend, bell = RegistryBackend("tests"), CountingBell()
    backend._woken = bell
    looks, look = [], backend._probe_some

    def probe_some() -> None:
        looks.append(bell.waits)
        look()

    monkeypatch.setattr(backend, "_probe_some", probe_some)
    backend.watch(Recorder())
    eventually(lambda: len(looks) >= 60, "sixty periods")
    backend.close()
    assert looks[59] - looks[19] <= 42, "forty periods, and one or two that a busy machine cut in two"


def test_lock_dies_with_the_node_although_its_fork_lives(start_child: StartChild, watched: Recorder) -> None:
    """A forked child shares the open file: it must neither keep the lock nor end it."""
    node_id = uuid.uuid4().hex
    child = start_child("registry", "tests", node_id, str(7 << 20), "fork")
    assert child.line() == "ready"
    forked = int(child.line())
    eventually(lambda: node_id in {one.node_id for one in watched.announcements()}, "the sighting")
    late, recorder = RegistryBackend("tests"), Recorder()
    late.watch(recorder)
    late.close()
    assert [one.node_id for one in recorder.announcements()] == [node_id], "the fork ended its parent's lock"
    child.kill()
    eventually(lambda: watched.lost(node_id), "the loss")
    os.kill(forked, 0)  # it is still there


def test_next_life_of_a_killed_node_is_kept(start_child: StartChild, watched: Recorder) -> None:
    """Cleaning up after the old life leaves the file of the new one alone."""
    node_id = uuid.uuid4().hex
    first = start_child("registry", "tests", node_id, str(7 << 20))
    assert first.line() == "ready"
    first.kill()
    with RegistryNode(announcement_for(node_id=node_id, epoch=8 << 20)) as second:
        eventually(lambda: watched.saw(second.announcement), "the sighting")
        left = [f"{node_id}.0.inbox", f"{node_id}.{8 << 20}.json"]
        eventually(lambda: names(fabric_folder("tests")) == left, "the removal")


def test_sockets_of_the_dead_outlive_a_sweep(start_child: StartChild, watched: Recorder) -> None:
    """However old they are, they count from the death: who just lost a link shall still be refused there."""
    node_id = uuid.uuid4().hex[:8]  # the path of a socket is short
    child = start_child("registry", "tests", node_id)
    assert child.line() == "ready"
    path = fabric_folder("tests") / f"{node_id}.0.inbox"
    os.utime(path, (time.time() - 3600,) * 2)
    eventually(lambda: node_id in {one.node_id for one in watched.announcements()}, "the sighting")
    child.kill()
    eventually(lambda: watched.lost(node_id), "the loss")
    newcomer = RegistryBackend("tests")
    newcomer.watch(Recorder())
    newcomer.close()
    assert path.exists()


def test_sockets_of_the_dead_are_swept(
    start_child: StartChild, watched: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When they are old, by whoever removed the node: no other need start for it."""
    for module in ("files", "registry"):
        monkeypatch.setattr(f"peerfabric.discovery.{module}.LEFTOVER_AGE", 0.0)
    node_id = uuid.uuid4().hex[:8]
    child = start_child("registry", "tests", node_id)
    assert child.line() == "ready"
    eventually(lambda: node_id in {one.node_id for one in watched.announcements()}, "the sighting")
    child.kill()
    eventually(lambda: names(fabric_folder("tests")) == [], "the sweep")


def test_lock_tells_the_dead_from_the_living(start_child: StartChild) -> None:
    """A free lock is proof; one that is held, no file, another epoch, and what is no id are none."""
    folder, node_id, epoch = fabric_folder("tests"), uuid.uuid4().hex, 7 << 20
    child = start_child("registry", "tests", node_id)
    assert child.line() == "ready"
    assert not is_proven_dead(folder, node_id, epoch)
    child.kill()
    assert is_proven_dead(folder, node_id, epoch)
    assert not is_proven_dead(folder, node_id, epoch + 1)
    assert not is_proven_dead(folder / "missing", node_id, epoch)
    assert not is_proven_dead(folder / "missing", f"../{node_id}", epoch)
    (folder / "sub").mkdir()
    assert not is_proven_dead(folder / "sub", f"../{node_id}", epoch)
    (folder / f"{node_id}.{epoch}.json").unlink()
    assert not is_proven_dead(folder, node_id, epoch)


class RegistryNode:
    """Announces for the length of a `with`."""

    def __init__(self, announcement: Announcement) -> None:
        self.announcement = announcement
        self.backend = RegistryBackend(announcement.fabric)

    def __enter__(self) -> RegistryNode:
        self.backend.announce(self.announcement)
        return self

    def __exit__(self, *error: object) -> None:
        self.backend.close()


def test_rewriting_never_looks_dead(watched: Recorder) -> None:
    """Changes in quick succession, with somebody probing all the time, leave the file where it is."""
    announcement = announcement_for()
    with RegistryNode(announcement) as node:
        for number in range(300):
            node.backend.announce(msgspec.structs.replace(announcement, name=f"name{number}"))
            if number % 10 == 0:
                probing, recorder = RegistryBackend("tests"), Recorder()
                probing.watch(recorder)
                probing.close()
                assert [one.node_id for one in recorder.announcements()] == [announcement.node_id]
        eventually(lambda: watched.saw(msgspec.structs.replace(announcement, name="name299")), "the last change")
        assert not watched.lost(announcement.node_id)


def test_new_epoch_of_one_backend_replaces_the_old_file() -> None:
    """One node has one file."""
    announcement = announcement_for()
    with RegistryNode(announcement) as node:
        node.backend.announce(msgspec.structs.replace(announcement, epoch=9 << 20))
        assert names(fabric_folder("tests")) == [f"{announcement.node_id}.{9 << 20}.json"]
    assert names(fabric_folder("tests")) == []


def test_dead_file_cannot_choose_what_is_removed(watched: Recorder, tmp_path: Path) -> None:
    """Only sockets that carry the node's id, in the folder itself, are removed with it."""
    folder = fabric_folder("tests")
    (tmp_path / "precious").write_text("")
    (folder / "dead.1.inbox").write_text("not a socket")
    endpoints = (f"ipc://{tmp_path}/precious", f"ipc://{folder}/../tests/x", f"ipc://{folder}/dead.1.inbox")
    path = plant(folder, announcement_for(node_id="dead", inbox=endpoints))
    eventually(lambda: not path.exists(), "the removal")
    assert (tmp_path / "precious").exists()
    assert (folder / "dead.1.inbox").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"[]",
        b'{"node_id": 7}',
        b" " * (ANNOUNCEMENT_BYTES_MAX + 1),
        msgspec.json.encode(announcement_for(node_id="other")),
        msgspec.json.encode(announcement_for(node_id="bad", fabric="others")),
    ],
)
def test_garbage_is_skipped_with_one_warning(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It stays where it is, and hides nobody else."""
    path = fabric_folder("tests") / f"bad.{7 << 20}.json"
    path.write_bytes(content)
    backend, recorder = RegistryBackend("tests"), Recorder()
    with caplog.at_level(logging.WARNING, "peerfabric"):
        backend.watch(recorder)
        for _ in range(2):  # each newcomer makes the watcher scan again
            with RegistryNode(announcement_for()) as node:
                eventually(partial(recorder.saw, node.announcement), "the sighting")
    backend.close()
    assert path.exists()
    assert [record.getMessage().split(" is skipped")[0] for record in caplog.records] == [f"registry: {path}"]


def test_odd_entries_do_no_harm(watched: Recorder) -> None:
    """Folders, links and pipes under names of announcements are skipped."""
    folder = fabric_folder("tests")
    (folder / "a.1.json").mkdir()
    os.mkfifo(folder / "b.1.json")
    (folder / "c.1.json").symlink_to("/etc/passwd")
    (folder / "d.1.json").symlink_to("nowhere")
    with RegistryNode(announcement_for()) as node:
        eventually(lambda: watched.saw(node.announcement), "the sighting")
    assert len(watched.announcements()) == 1


def test_fabrics_are_apart(watched: Recorder) -> None:
    """Another fabric is another folder."""
    with RegistryNode(announcement_for("others")), RegistryNode(announcement_for()) as ours:
        eventually(lambda: watched.saw(ours.announcement), "the sighting")
        assert len(watched.announcements()) == 1


def test_leftovers_that_nobody_claims_are_removed() -> None:
    """Old hidden files and deaf sockets go; young ones, and those that listen, stay."""
    folder = fabric_folder("tests")
    before = os.getcwd()
    os.chdir(folder)  # the path from the root may be too long for a socket
    sockets = {name: socket.socket(socket.AF_UNIX) for name in ("deaf.1.inbox", "busy.1.inbox", "young.1.inbox")}
    for name, one in sockets.items():
        one.bind(name)
    os.chdir(before)
    sockets["busy.1.inbox"].listen()
    for name in ("deaf.1.inbox", "young.1.inbox"):
        sockets[name].close()
    for name in (".a.1.json.0", ".b.1.json.0", "notes.txt"):
        (folder / name).write_text("")
    for name in ("deaf.1.inbox", "busy.1.inbox", ".a.1.json.0", "notes.txt"):
        os.utime(folder / name, (time.time() - 3600,) * 2)
    backend = RegistryBackend("tests")
    backend.watch(Recorder())
    backend.close()
    sockets["busy.1.inbox"].close()
    assert names(folder) == [".b.1.json.0", "busy.1.inbox", "notes.txt", "young.1.inbox"]


def test_removed_file_and_folder_come_back() -> None:
    """A cleaner of temporary files does not make a living node invisible for long."""
    announcement = announcement_for()
    with RegistryNode(announcement) as node:
        node.backend.watch(Recorder())
        path = fabric_folder("tests") / f"{announcement.node_id}.{announcement.epoch}.json"
        path.unlink()
        eventually(path.exists, "the file's return")
        shutil.rmtree(path.parent)
        eventually(path.exists, "the folder's return")


def test_nodes_meet_where_new_ones_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-out takes the folder of the session away, and a log-in brings it back: old and new nodes meet."""
    session = tmp_path / "session"
    session.mkdir()
    monkeypatch.delenv("PEERFABRIC_RUNTIME")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old, recorder = RegistryNode(announcement_for()), Recorder()
    name = f"{old.announcement.node_id}.{old.announcement.epoch}.json"
    with old:
        old.backend.watch(recorder)
        for logged_in in (False, True):
            if logged_in:
                session.mkdir()
            else:
                shutil.rmtree(session)
            folder = fabric_folder("tests")
            eventually((folder / name).exists, "the move")
            with RegistryNode(announcement_for()) as new:
                eventually(partial(recorder.saw, new.announcement), "the sighting")
            eventually(partial(recorder.lost, new.announcement.node_id), "the loss")
        assert names(tmp_path / f"peerfabric-{os.geteuid()}" / "tests") == [], "it is still announced where it was"
    assert names(folder) == []


def test_environment_of_the_start_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program makes of its environment, or its folder, later is for nodes that start later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEERFABRIC_RUNTIME", "one")
    with RegistryNode(announcement_for()) as node:
        node.backend.watch(Recorder())
        monkeypatch.setenv("PEERFABRIC_RUNTIME", "two")
        monkeypatch.chdir("/")
        path = tmp_path / "one" / "tests" / f"{node.announcement.node_id}.{node.announcement.epoch}.json"
        path.unlink()
        eventually(path.exists, "the file's return")


def test_announcement_that_failed_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full at the start does not hide a node for good."""
    announcement = announcement_for()
    with monkeypatch.context() as patch:
        patch.setattr("os.write", lambda descriptor, content: len(content) // 2)
        node = RegistryNode(announcement).__enter__()
    node.backend.watch(Recorder())
    eventually((fabric_folder("tests") / f"{announcement.node_id}.{7 << 20}.json").exists, "the announcement")
    node.__exit__()


def test_folder_of_somebody_else_is_not_used(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who takes the place of a folder that was removed is told of, not trusted; and once it is ours again, used."""
    announcement = announcement_for()
    with RegistryNode(announcement) as node, caplog.at_level(logging.WARNING, "peerfabric"):
        shutil.rmtree(runtime)
        runtime.mkdir()
        runtime.chmod(0o777)
        node.backend.watch(Recorder())
        eventually(lambda: "can be written by others" in caplog.text, "the warning")
        assert list(runtime.iterdir()) == []
        runtime.chmod(0o700)
        path = runtime / "tests" / f"{announcement.node_id}.{7 << 20}.json"
        eventually(path.exists, "the announcement")
    assert len([r for r in caplog.records if "can be written by others" in r.getMessage()]) == 1


def test_what_cannot_be_decoded_is_not_announced() -> None:
    """A mistake of ours is an error here, not a warning in every other process."""
    backend = RegistryBackend("tests")
    with pytest.raises(ConfigError, match="shorten or correct it"):
        backend.announce(announcement_for(node_id="../up"))
    assert names(fabric_folder("tests")) == []
    backend.close()


def test_refused_write_is_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk leaves a node that can still be found in other ways, and no hidden file."""
    backend = RegistryBackend("tests")
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "peerfabric"):
        patch.setattr("os.write", lambda descriptor, content: len(content) // 2)
        backend.announce(announcement_for())
        backend.announce(announcement_for())
    backend.close()
    assert len(caplog.records) == 1
    assert names(fabric_folder("tests")) == []


def test_large_folder_is_scanned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 300 nodes a newcomer costs one read, not 301."""
    nodes = [RegistryNode(announcement_for()).__enter__() for _ in range(300)]
    backend, recorder = RegistryBackend("tests"), Recorder()
    backend.watch(recorder)
    assert {one.node_id for one in recorder.announcements()} == {node.announcement.node_id for node in nodes}
    reads: list[int] = []
    read = os.read

    def counted(descriptor: int, size: int) -> bytes:
        reads.append(size)
        return read(descriptor, size)

    with monkeypatch.context() as patch:
        patch.setattr("os.read", counted)
        with RegistryNode(announcement_for()) as newcomer:
            eventually(lambda: recorder.saw(newcomer.announcement), "the sighting")
    backend.close()
    for node in nodes:
        node.__exit__()
    assert len(reads) == 1


def test_dead_among_many_are_found() -> None:
    """Locks are probed a few at a time, and all in turn."""
    nodes = [RegistryNode(announcement_for()).__enter__() for _ in range(30)]
    backend, recorder = RegistryBackend("tests"), Recorder()
    backend.watch(recorder)
    victims = [node.announcement.node_id for node in nodes[::7]]
    for node in nodes[::7]:
        assert node.backend._descriptor is not None
        os.close(node.backend._descriptor)  # what the kernel does at a SIGKILL
        node.backend._descriptor = None
    eventually(lambda: all(recorder.lost(victim) for victim in victims), "the losses")
    backend.close()
    for node in nodes:
        node.__exit__()
    assert names(fabric_folder("tests")) == []
