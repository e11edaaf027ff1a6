"""What every implementation of `Files` does alike: the machine's own, and the disk of the tests."""

from __future__ import annotations

import fcntl
import os
from errno import EEXIST, ENOENT
from pathlib import Path

import pytest

from peerfabric.errors import SpoolError, SpoolFull, SpoolLocked
from peerfabric.spool.files import Files, Process, RealFiles, refusal
from tests.fabric.spool.disk import Disk


@pytest.fixture(params=["real", "portable", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Files, str]:
    """A file system, and a folder in it that is there."""
    if request.param == "portable":
        monkeypatch.setattr("peerfabric.spool.files.PORTABLE", True)
        for name in ("pwritev", "posix_fallocate", "fdatasync"):
            monkeypatch.delattr(os, name)
    if request.param != "disk":
        return RealFiles(), str(tmp_path)
    disk = Disk()
    disk.make_folder("/tmp")
    return disk, "/tmp"


def test_folders(place: tuple[Files, str]) -> None:
    """They are made with those above, once, and know where they are."""
    files, root = place
    assert files.make_folder(f"{root}/a/b") is True
    assert files.make_folder(f"{root}/a/b") is False
    assert files.names(f"{root}/a") == ["b"]
    assert files.names(f"{root}/nowhere") == []
    assert files.check_folder(f"{root}/a") == files.check_folder(f"{root}/a")
    assert files.check_folder(f"{root}/a") != files.check_folder(f"{root}/a/b")
    with pytest.raises(FileNotFoundError):
        files.check_folder(f"{root}/nowhere")


def test_bytes(place: tuple[Files, str]) -> None:
    """What is written is read, at any offset; files grow with zeros and are cut."""
    files, root = place
    descriptor = files.open(f"{root}/file", create=True)
    assert files.write(descriptor, 0, [b"ab", bytearray(b"cd"), memoryview(b"ef")]) == 6
    assert files.write(descriptor, 8, [b"x"]) == 1
    assert files.read(descriptor, 0, 100) == b"abcdef\0\0x"
    assert files.read(descriptor, 4, 3) == b"ef\0"
    assert files.read(descriptor, 50, 3) == b""
    files.truncate(descriptor, 2)
    assert (files.size(descriptor), files.read(descriptor, 0, 9)) == (2, b"ab")
    files.allocate(descriptor, 5)
    files.sync(descriptor)
    assert files.read(descriptor, 0, 9) == b"ab\0\0\0"
    files.close(descriptor)


def test_names(place: tuple[Files, str]) -> None:
    """A file is created once, renamed over another one, and stays readable for who has it open."""
    files, root = place
    old, new = f"{root}/old", f"{root}/new"
    for path, data in ((old, b"old"), (new, b"new")):
        descriptor = files.open(path, create=True)
        files.write(descriptor, 0, [data])
        files.close(descriptor)
    with pytest.raises(FileExistsError) as exists:
        files.open(old, create=True)
    reading = files.open(new, write=False)
    files.rename(old, new)
    files.sync_folder(root)
    assert files.names(root) == ["new"]
    assert files.read(reading, 0, 9) == b"new"
    files.close(reading)
    files.unlink(new)
    with pytest.raises(FileNotFoundError) as missing:
        files.open(new)
    assert (exists.value.errno, missing.value.errno) == (EEXIST, ENOENT)


def test_locks(place: tuple[Files, str]) -> None:
    """One writer, or many readers; the holder is named; closing lets go."""
    files, root = place
    path = f"{root}/lock"
    with pytest.raises(FileNotFoundError):
        files.lock(path, shared=True)
    writer = files.lock(path)
    files.write(writer, 0, [b"77\n"])
    for shared in (False, True):
        with pytest.raises(SpoolLocked) as caught:
            files.lock(path, shared=shared)
        assert caught.value.pid == 77
    files.close(writer)
    readers = [files.lock(path, shared=True) for _ in range(2)]
    with pytest.raises(SpoolLocked, match="looks into it") as caught:
        files.lock(path)  # its text still names the writer, who has gone
    assert caught.value.pid == 0
    for descriptor in readers:
        files.close(descriptor)
    files.close(files.lock(path))


def test_processes(place: tuple[Files, str]) -> None:
    """We are alive; another life of our pid, or our pid in another boot, is not."""
    files, _ = place
    us = files.process()
    assert files.alive(us)
    assert not files.alive(us._replace(started="0"))
    assert not files.alive(us._replace(boot="another"))
    assert not files.alive(Process(2**22 + 1, us.boot, us.started))


def test_descriptors_are_not_inherited(tmp_path: Path) -> None:
    """Neither files nor the lock stay open in a program that is started."""
    files = RealFiles()
    for descriptor in (files.open(f"{tmp_path}/file", create=True), files.lock(f"{tmp_path}/lock")):
        assert not os.get_inheritable(descriptor)
        assert os.fstat(descriptor).st_mode & 0o777 == 0o600
        files.close(descriptor)


def test_refusals() -> None:
    """A full disk or quota is told from other errors, and the text ends with what to do."""
    for number in (28, 122):
        full = refusal(OSError(number, "No space"), "path")
        assert isinstance(full, SpoolFull)
        assert full.errno == number
        assert "start consumers" in str(full)
    other = refusal(OSError(5, "Input/output error"), "path")
    assert type(other) is SpoolError
    assert str(other) == "path: Input/output error; look at the disk, then try again"
    assert refusal(other, "elsewhere") is other


def test_folders_are_removed_when_nothing_is_in_them(place: tuple[Files, str]) -> None:
    """One with a file in it stays."""
    files, root = place
    files.make_folder(f"{root}/a")
    files.close(files.open(f"{root}/a/file", create=True))
    with pytest.raises(OSError):
        files.remove_folder(f"{root}/a")
    files.unlink(f"{root}/a/file")
    files.remove_folder(f"{root}/a")
    assert files.names(root) == []


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that failed removes its lock file while another one waits for it: that one does not own the folder."""
    path, flock = str(tmp_path / "lock"), fcntl.flock

    def removed_first(descriptor: int, how: int) -> None:
        os.unlink(path)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with pytest.raises(SpoolLocked):
        RealFiles().lock(path)


def test_a_lock_that_nobody_shall_keep(tmp_path: Path) -> None:
    """It is given up for all copies of its descriptor, such as that of a child which was forked meanwhile."""
    files, path = RealFiles(), str(tmp_path / "taking")
    lock = files.lock(path)
    copy = os.dup(lock)
    files.unlock(lock)
    files.unlock(files.lock(path))
    lock = files.lock(path)
    kept = os.dup(lock)
    files.close(lock)
    with pytest.raises(SpoolLocked):
        files.lock(path)
    for descriptor in (copy, kept):
        os.close(descriptor)
