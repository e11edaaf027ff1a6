"""Files and sockets of the registry: whose they are, and whether their locks are held."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LEFTOVER_AGE: Final = 60.0
"""Seconds after which a hidden file or a socket that nobody claims is taken for a leftover. Making one takes
milliseconds; the rest is for machines that were suspended."""


_NODE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def announcement_name(node_id: str, epoch: int) -> str:
    """Return the name of the file by which a life of a node is announced, and which it holds locked."""
    return f"{node_id}.{epoch}.json"


def is_proven_dead(folder: Path, node_id: str, epoch: int) -> bool:
    """Whether a life of a node is announced in `folder` and holds its file no longer.

    False says nothing: without an announcement it may have closed, have been removed, or never been announced there.
    """
    if not _NODE_ID.fullmatch(node_id):  # peers tell us ids, and this one becomes part of a path
        return False
    path = folder / announcement_name(node_id, epoch)
    with opened(path) as descriptor:
        return descriptor is not None and lockable(descriptor) and is_at(descriptor, path)


@contextmanager
def opened(path: Path) -> Iterator[int | None]:
    """Open for reading; None if it is not there, not readable, or a link."""
    try:
        # Without O_NONBLOCK, opening a FIFO that somebody put here would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lockable(descriptor: int) -> bool:
    """Whether nobody holds the file; if so, we share its lock until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def is_old(path: Path, age: float | None = None) -> bool:
    """Whether the file is there and was not touched for `age` seconds, by default for too long to be in the making."""
    try:
        return time.time() - path.lstat().st_mtime > (LEFTOVER_AGE if age is None else age)
    except FileNotFoundError:
        return False


def mark_dead(path: Path) -> None:
    """Leave the socket of a dead node for now: whoever had a link with it finds by being refused that it is dead.

    From here on `is_old` counts.
    """
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            os.utime(path)
    except FileNotFoundError:
        pass


def remove_socket_if_deaf(path: Path) -> None:
    """Remove the socket if nobody listens on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            remove_socket(path)
        except OSError:
            pass  # a full backlog, for one, is somebody who is busy


def remove_socket(path: Path) -> None:
    """Remove the socket; a file of any other kind stays, and a missing one is fine."""
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
    except FileNotFoundError:
        pass
