"""The folder: who may open it, whose it is, and its epochs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from errno import EIO
from fnmatch import fnmatch
from pathlib import Path
from random import Random

import msgspec
import pytest

from peerfabric.errors import BadName, NewerFormat, SpoolError, SpoolLocked, SpoolUnsafe
from peerfabric.spool import Spool
from peerfabric.spool.files import Place, Process
from peerfabric.spool.folder import read_owner, write_owner
from peerfabric.spool.format import VERSION
from tests.fabric.spool.disk import SHORT, Disk
from tests.fabric.spool.helpers import FOLDER, QUEUE, append, fill, messages, open_spool

HOLDER = """
import sys
from peerfabric.spool import Spool
spool = Spool.open(sys.argv[1], random_bits=1, node_id="other", unix_ms=1)
print("open", flush=True)
sys.stdin.read()
"""


def real(folder: Path, **options: object) -> Spool:
    options = {"random_bits": 7, "node_id": "node", "unix_ms": 1, **options}
    return Spool.open(str(folder), segment_bytes=4096, **options)  # type: ignore[arg-type]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Epochs and identity


def test_epochs_grow() -> None:
    """Each start has a later epoch, whatever its random bits; the node id is that of the first."""
    disk = Disk()
    epochs = []
    for number, bits in enumerate((0xFFFFF, 0, 5)):
        spool = open_spool(disk, random_bits=bits, node_id=f"node-{number}")
        assert spool.node_id == "node-0"
        assert spool.epoch & 0xFFFFF == bits
        epochs.append(spool.epoch)
        spool.close()
    assert epochs == sorted(set(epochs))
    assert open_spool(disk, counter_min=1_000).epoch >> 20 == 1_000
    disk.kill()
    assert open_spool(disk).epoch >> 20 == 1_001


@pytest.mark.parametrize("damage", ["lost", "damaged"])
def test_node_file_is_lost(damage: str) -> None:
    """Segments know whose they are and which epoch was the last; a person is told."""
    disk = Disk()
    spool = open_spool(disk, counter_min=50)
    fill(spool.queue(QUEUE, unix_ms=1), spool.epoch, 1, 3)
    spool.close()
    if damage == "lost":
        del disk.files[f"{FOLDER}/node"]
    else:
        disk.files[f"{FOLDER}/node"].content = b"PFABNODE and then nothing that is right"
    again = open_spool(disk, node_id="another")
    assert (again.node_id, again.epoch >> 20) == ("node", 51)
    assert "node is lost or damaged" in again.warnings[0]
    assert len(messages(again.queue(QUEUE, unix_ms=1))) == 6


def test_wrong_arguments() -> None:
    """They are refused before anything is made."""
    disk = Disk()
    for options in ({"random_bits": 1 << 20}, {"node_id": ""}, {"node_id": "x" * 256}):
        with pytest.raises(ValueError):
            open_spool(disk, **options)
    assert disk.operations == 0
    with pytest.raises(BadName):
        open_spool(disk).queue("../else", unix_ms=1)


@pytest.mark.parametrize("with_node", [True, False], ids=["node", "node lost"])
@pytest.mark.parametrize("newer", ["/node", "/queues/b/*.seg", "/queues/b/cursor.1", "/queues/b/dead/*.seg"])
def test_newer_formats_are_not_touched(newer: str, with_node: bool) -> None:
    """Whichever file of whichever queue is newer: it is found before anything is changed, `node` included."""
    disk = Disk()
    spool = open_spool(disk, spare=True)
    for queue in ("a", "b"):
        append(spool.queue(queue, unix_ms=1), spool.epoch, 1)
        append(spool.dead(queue, unix_ms=1), spool.epoch, 1)
    spool.close()
    path = next(path for path in disk.files if fnmatch(path, FOLDER + newer))
    disk.files[path].content = _newer(disk.files[path].content)
    if not with_node and newer != "/node":
        del disk.files[f"{FOLDER}/node"]
    before = {path: file.content for path, file in disk.files.items()}
    with pytest.raises(NewerFormat, match=f"{path}: is in format 2, written by a later version") as caught:
        open_spool(disk, spare=True)
    assert caught.value.version == VERSION + 1
    assert {path: file.content for path, file in disk.files.items()} == before
    assert disk.open_count == 0


def _newer(content: bytes) -> bytes:
    """The same sheet or header as a later version would write it."""
    from crc32c import crc32c

    length = int.from_bytes(content[10:12], "little")
    size = length + (int.from_bytes(content[24:28], "little") if content[:8] != b"PFABSEGM" else 0)
    head = content[:8] + (VERSION + 1).to_bytes(2, "little") + content[10:12]
    return head + crc32c(content[16:size], crc32c(head)).to_bytes(4, "little") + content[16:]


# Copies


def test_copy_of_a_spool_in_use_is_refused() -> None:
    """While the original's process runs on this machine, a copy of its folder is not opened."""
    disk = Disk()
    open_spool(disk).queue(QUEUE, unix_ms=1)
    copy = disk.copy()
    copy.folders[FOLDER] = copy.folders[FOLDER]._replace(inode=999)
    before = {path: file.content for path, file in copy.files.items()}
    with pytest.raises(SpoolLocked, match="copy") as caught:
        open_spool(copy)
    assert caught.value.pid == 100
    assert {path: file.content for path, file in copy.files.items()} == before
    copy.running.clear()
    spool = open_spool(copy, random_bits=8)
    assert "is a copy" in spool.warnings[0]
    copy.kill()
    assert open_spool(copy).warnings == []


def test_copy_of_a_closed_spool_is_a_backup() -> None:
    """It starts, with a warning, and with the epochs going on."""
    disk = Disk()
    first = open_spool(disk)
    first.close()
    copy = disk.copy()
    copy.folders[FOLDER] = copy.folders[FOLDER]._replace(inode=999)
    spool = open_spool(copy, random_bits=8)
    assert len(spool.warnings) == 1
    assert spool.epoch > first.epoch


def test_owner_is_written_as_read() -> None:
    """What `node` says survives, and fields of later versions are skipped."""
    disk = Disk()
    open_spool(disk).close()
    owner = read_owner(disk, FOLDER)
    assert owner is not None
    assert owner.process == Process(0, "boot", "1")
    changed = msgspec.structs.replace(owner, counter=9, pid=5)
    write_owner(disk, FOLDER, changed)
    assert read_owner(disk, FOLDER) == changed


def test_a_death_is_known_until_somebody_takes_note_of_it() -> None:
    """Whoever opens and closes the spool in between; not in a copy, not after a boot, not after an end in order."""
    disk = Disk()
    assert not open_spool(disk).died
    disk.kill()
    for _ in range(2):
        spool = open_spool(disk)
        assert spool.died
        spool.close()
    spool = open_spool(disk)
    spool.died = False
    disk.kill()
    spool = open_spool(disk)
    assert spool.died, "that was another death"
    spool.died = False
    spool.close()
    assert not open_spool(disk).died
    owner = read_owner(disk, FOLDER)
    assert owner is not None
    assert owner.has_died(owner.place, "boot")
    assert not owner.has_died(owner.place, "another boot")
    assert not owner.has_died(Place(8, 9), "boot")


# Real folders and processes


def test_real_folder(tmp_path: Path) -> None:
    """What is stored with real files is there after the process's end, and nobody else can read it."""
    folder = tmp_path / "deep" / "spool"
    spool = real(folder, fsync=True)
    log = spool.queue(QUEUE, unix_ms=1)
    fill(log, spool.epoch, 1, 300)
    log.sync()
    log.settle(spool.epoch, 1, 300)
    log.write_cursor(b"m")
    log.compact()
    spool.dead(QUEUE, unix_ms=1)
    spool.close()
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")] if path.is_dir()} == {0o700}
    spool = real(folder)
    assert spool.queues() == [QUEUE]
    log = spool.queue(QUEUE, unix_ms=1)
    assert log.unsettled_count == 301
    assert messages(log)[-1] == (log.recovery.extents[-1][0], 600)
    assert spool.queue(QUEUE, unix_ms=1) is log
    assert spool.used_bytes == log.used_bytes
    spool.close()
    spool.close()


def test_two_processes(tmp_path: Path) -> None:
    """A second one is told who has it; after a SIGKILL the folder is free."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDER, str(tmp_path / "spool")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        before = snapshot(tmp_path)
        for opening in (real, lambda folder: Spool.inspect(str(folder))):
            with pytest.raises(SpoolLocked) as caught:
                opening(tmp_path / "spool")
            assert caught.value.pid == holder.pid
        shutil.copytree(tmp_path / "spool", tmp_path / "copy")
        with pytest.raises(SpoolLocked, match="copy"):
            real(tmp_path / "copy")
        assert {k: v for k, v in snapshot(tmp_path).items() if "copy" not in k} == before
        holder.kill()
        holder.wait()
    spool = real(tmp_path / "spool")
    assert spool.node_id == "other"
    spool.close()
    copy = real(tmp_path / "copy")
    assert len(copy.warnings) == 1
    copy.close()


def test_forked_child_lets_go(tmp_path: Path) -> None:
    """It closes what it inherited, and the parent still has the lock."""
    spool = real(tmp_path / "spool")
    log = spool.queue(QUEUE, unix_ms=1)
    append(log, spool.epoch, 1)
    child = os.fork()
    if not child:
        try:
            spool.abandon()
            try:
                append(log, spool.epoch, 2)
            except SpoolError:
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(SpoolLocked):
        real(tmp_path / "spool")
    append(log, spool.epoch, 2)
    assert len(messages(log)) == 2
    spool.close()


def link(folder: Path) -> None:
    (folder.parent / "target").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "target")


def writable(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def file(folder: Path) -> None:
    folder.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "step"), [(link, "give what it leads to"), (writable, "chmod 700 it"), (file, "there is nothing yet")]
)
def test_unsafe_folders(tmp_path: Path, make: object, step: str) -> None:
    """Links, folders that others can write to, and files are refused, and nothing is put there."""
    folder = tmp_path / "spool"
    make(folder)  # type: ignore[operator]
    with pytest.raises(SpoolUnsafe, match=f"{step}$") as caught:
        real(folder)
    assert isinstance(caught.value, PermissionError)
    assert snapshot(tmp_path).keys() <= {str(folder)}


FOREIGN = {
    "notes": {"notes.txt": b"mine"},
    "a lock of another program": {"lock": b"held by editor"},
    "a long lock": {"lock": b"1" * 1000},
    "another program's node": {"lock": b"1", "node": b"#!/usr/bin/env node"},
    "somebody's beginning": {"lock": b"", "node.tmp": b"#!/usr/bin/env node"},
    "queues of others": {"queues/orders/cursor.0": b"x", "queues/orders/1.seg": b"y", "queues/file": b"z"},
    "queues that are a file": {"queues": b"q"},
    "a folder called node": {"node/index.js": b"n"},
    "a tree": {"sub/deep/file": b"f"},
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_folders_of_others(tmp_path: Path, content: dict[str, bytes]) -> None:
    """What is neither empty nor a spool is refused, and nothing is made or changed in it."""
    folder = tmp_path / "spool"
    for name, data in content.items():
        (folder / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    before = snapshot(tmp_path)
    with pytest.raises(SpoolUnsafe, match=r"holds files of others .*; give a folder that is empty"):
        real(folder)
    assert snapshot(tmp_path) == before


def test_a_first_start_that_was_killed_is_gone_on_with() -> None:
    """Whatever it left, also after a loss of power, is a folder of ours."""
    count = _first_start(Disk())
    for operation in range(1, count + 1):
        for seed in range(20):
            disk = Disk()
            disk.faults = dict.fromkeys(range(operation, count + 100), EIO)
            disk.faults |= {n: SHORT for n in (operation,) if seed % 2}
            with contextlib.suppress(SpoolError):
                _first_start(disk)
            disk.faults.clear()
            disk.kill()
            open_spool(disk.lose_power(Random(seed)), spare=True)
            open_spool(disk, spare=True)


def _first_start(disk: Disk) -> int:
    open_spool(disk, spare=True)
    return disk.operations


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"lock": b""},
        {"lock": b"123\n"},
        {"lock": b"\0\0\0\0"},
        {"lock": b"123\n", "node.tmp": b""},
        {"lock": b"123\n", "node.tmp": b"PFAB"},
        {"lock": b"123\n", "node.tmp": bytes(165)},
        {"lock": b"123\n", "node.tmp": b"PFABNODE and not all of it"},
    ],
)
def test_what_a_first_start_leaves(tmp_path: Path, content: dict[str, bytes]) -> None:
    """Killed at any moment before there is the file `node`, it has made a folder in which the next one begins."""
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o700)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    real(folder).close()


def open_and_close(folder: Path) -> None:
    spool = real(folder)
    try:
        spool.queue(QUEUE, unix_ms=1)
    finally:
        spool.abandon()


def test_links_inside_are_refused(tmp_path: Path) -> None:
    """Somebody else's file is never followed to: neither the lock, nor a queue, nor a segment."""
    folder = tmp_path / "spool"
    spool = real(folder)
    fill(spool.queue(QUEUE, unix_ms=1), spool.epoch, 1, 2)
    spool.close()
    (segment,) = (folder / "queues" / QUEUE).glob("*.seg")
    for path in (segment, folder / "queues" / QUEUE, folder / "lock"):
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        with pytest.raises(SpoolUnsafe):
            open_and_close(folder)
        path.unlink()
        (tmp_path / "moved").rename(path)
    spool = real(folder)
    assert len(messages(spool.queue(QUEUE, unix_ms=1))) == 4
    spool.close()


# Reading only


def test_inspection_changes_nothing(tmp_path: Path) -> None:
    """It shows what a recovery would, damage included, and leaves every byte as it is."""
    folder = tmp_path / "spool"
    spool = real(folder)
    log = spool.queue(QUEUE, unix_ms=1)
    fill(log, spool.epoch, 1, 3)
    append(spool.dead("other", unix_ms=1), spool.epoch, 1)
    log.settle(spool.epoch, 1, 2)
    spool.close()
    (segment,) = (folder / "queues" / QUEUE).glob("*.seg")
    segment.write_bytes(segment.read_bytes()[:-3])
    before = snapshot(folder)
    seen = Spool.inspect(str(folder))
    log = seen.queue(QUEUE, unix_ms=1)
    assert seen.queues() == ["orders", "other"]
    assert len(log.recovery.torn) == 1
    assert log.unsettled_count == 3
    assert len(messages(log)) == 4
    assert len(messages(seen.dead("other", unix_ms=1))) == 1
    assert messages(seen.dead(QUEUE, unix_ms=1)) == []
    for act in (lambda: append(log, seen.epoch, 9), log.sync, log.write_cursor, log.compact):
        with pytest.raises(SpoolError, match="for reading only"):
            act()
    seen.close()
    assert snapshot(folder) == before
    with pytest.raises(SpoolError):
        Spool.inspect(str(tmp_path / "nowhere"))
