"""Who holds a file or a socket."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

import pytest

from peerfabric.discovery.files import is_at, is_old, lockable, opened, remove_socket, remove_socket_if_deaf


def test_what_cannot_be_opened_is_none(tmp_path: Path) -> None:
    """A missing file and a link alike; a pipe opens without waiting for a writer."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    for name, there in (("missing", False), ("link", False), ("pipe", True)):
        with opened(tmp_path / name) as descriptor:
            assert (descriptor is not None) is there


def test_probing_locks_do_not_meet(tmp_path: Path) -> None:
    """Two may probe at once; an owner's lock refuses both."""
    path = tmp_path / "file"
    path.touch()
    with opened(path) as first, opened(path) as second:
        assert first is not None
        assert second is not None
        assert lockable(first)
        assert lockable(second)
        fcntl.flock(second, fcntl.LOCK_UN)
        fcntl.flock(first, fcntl.LOCK_EX)
        assert not lockable(second)


def test_file_replaced_under_its_name_is_not_there(tmp_path: Path) -> None:
    """The descriptor still shows the old one."""
    path = tmp_path / "file"
    path.touch()
    with opened(path) as descriptor:
        assert descriptor is not None
        assert is_at(descriptor, path)
        (tmp_path / "new").touch()
        (tmp_path / "new").rename(path)
        assert not is_at(descriptor, path)
        path.unlink()
        assert not is_at(descriptor, path)


def test_age_is_that_of_the_file(tmp_path: Path) -> None:
    """A missing file is not old: there is nothing to remove."""
    (tmp_path / "file").touch()
    assert not is_old(tmp_path / "file")
    os.utime(tmp_path / "file", (time.time() - 3600,) * 2)
    assert is_old(tmp_path / "file")
    assert not is_old(tmp_path / "missing")


def test_only_deaf_sockets_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that listens nor a plain file; a missing one is fine."""
    monkeypatch.chdir(tmp_path)  # the path from the root may be too long for a socket
    Path("file").touch()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        one.listen()
        for name in ("socket", "file", "missing"):
            remove_socket_if_deaf(Path(name))
        assert sorted(os.listdir()) == ["file", "socket"]
    remove_socket_if_deaf(Path("socket"))
    remove_socket(Path("file"))
    remove_socket(Path("missing"))
    assert os.listdir() == ["file"]
