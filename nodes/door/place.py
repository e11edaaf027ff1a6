"""Admin sockets of this user's processes: where they are, whose they are, and which of them nobody listens at.

There is one for each process, `RUNTIME/~admin/PID-STARTED.sock`, with the instant at which the process began in
milliseconds of Unix time. It takes its name when somebody listens at it, so a socket that refuses is left over: by a
process that was killed, or by one that has become another program.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from peerfabric.discovery.files import remove_socket
from peerfabric.discovery.host import IPC_PATH_BYTES_MAX, private_folder
from peerfabric.errors import ConfigError
from peerfabric.nodes.platform import CLOCK, PORTABLE

VARIABLE: Final = "PEERFABRIC_ADMIN"
FOLDER: Final = "~admin"
"""In the runtime folder; no fabric has a `~` in its name."""
SUFFIX: Final = ".sock"
REQUEST_BYTES_MAX: Final = 64 * 1024
CONNECTIONS_MAX: Final = 8
"""To one process at one time, besides as many that follow something. Each has a thread there."""
HEARD: Final = b" "
"""Sent at once by a process that lets somebody in, before it loads what answers, and part of no answer: JSON may begin
with it. That the kernel has let somebody in tells nothing, as it does that for a process that is stopped."""
SOCKETS_MAX: Final = 4096
"""Entries of the folder that are looked at; there are as many as processes."""
_SAME: Final = 2000
"""Milliseconds by which the same start may be computed differently: clocks are set."""


class Place(NamedTuple):
    """The socket of one process."""

    pid: int
    started: int
    path: Path


def is_on() -> bool:
    """Whether this process is to be asked anything.

    Raises:
        ConfigError: The variable is neither "on" nor "off".
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen not in ("", "on", "off"):
        raise ConfigError(f"{VARIABLE}={chosen!r} is neither on nor off; unset it, or write one of these")
    return chosen != "off"


def own_folder(runtime: Path) -> Path:
    """The folder of all sockets of this user in that runtime folder, both made if needed.

    Raises:
        ConfigError: They cannot be made, or somebody else could plant files there.
    """
    return private_folder(private_folder(runtime) / FOLDER)


def own_place(folder: Path) -> Place:
    """Where this process listens."""
    pid = os.getpid()
    started = _own_start(pid)
    return Place(pid, started, folder / f"{pid}-{started}{SUFFIX}")


@cache  # it names the process, and would be another when the clock is set
def _own_start(pid: int) -> int:
    return started_ms(pid) or _LOADED


def places(folder: Path) -> list[Place]:
    """The sockets that are there, by pid; none without the folder."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, SOCKETS_MAX):
                pid, _, started = entry.name.removesuffix(SUFFIX).partition("-")
                if entry.name.endswith(SUFFIX) and _is_number(pid) and _is_number(started):
                    found.append(Place(int(pid), int(started), folder / entry.name))
    except (FileNotFoundError, NotADirectoryError):
        pass
    return sorted(found)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def remove_left_over(place: Place) -> bool:
    """Remove a socket that has refused, if its process is gone; return whether it is gone."""
    if lives(place.pid, place.started):
        return False  # it is another program now, or just about to close
    with suppress(OSError):
        remove_socket(place.path)
    return True


def sweep(folder: Path) -> None:
    """Remove what processes have left that were killed."""
    for place in places(folder):
        if lives(place.pid, place.started):
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.setblocking(False)
            try:
                with short(place.path) as path:
                    probe.connect(path)
            except ConnectionRefusedError:  # else it lives where its number means nothing here: in a container
                remove_socket(place.path)


def lives(pid: int, started: int) -> bool:
    """Whether this very process runs, as far as it can be seen from here."""
    found = started_ms(pid)
    if found is None:
        return PORTABLE and _takes_signals(pid)
    return abs(found - started) <= _SAME


def started_ms(pid: int) -> int | None:
    """When the process began, in milliseconds of Unix time; None if there is none, or nothing is known of it."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    if state in (b"Z", b"X"):
        return None
    since_boot = int(fields[18]) / os.sysconf("SC_CLK_TCK")
    return round(1000 * (time.time() - time.clock_gettime(CLOCK) + since_boot))


def _takes_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


_LOADED: Final = round(1000 * time.time())


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for `path` that fits the address of a socket, as long as the block lasts.

    Raises:
        OSError: There is none, or its folder cannot be opened.
    """
    if len(os.fsencode(path)) <= IPC_PATH_BYTES_MAX:
        yield str(path)
        return
    if PORTABLE:
        raise OSError(f"the path {path} is longer than {IPC_PATH_BYTES_MAX} bytes")
    folder = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def readable_folder(folder: Path) -> Path:
    """The folder of the sockets in a runtime folder, for whoever asks; it need not be there.

    Raises:
        ConfigError: Others could have planted sockets there.
    """
    path = folder / FOLDER
    try:
        status = path.lstat()
    except OSError:
        return path
    # Root may ask anybody's processes.
    mine = status.st_uid == os.geteuid() or os.geteuid() == 0
    if not stat.S_ISDIR(status.st_mode) or not mine or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path} could have been made by somebody else; ask as the user whose folder it is")
    return path
