"""Platform: what of the system below a node only Linux has, each with a portable way in its place.

| Linux | portable | what is lost |
|---|---|---|
| `epoll` | `poll` | a wait costs more with many descriptors |
| `eventfd` | a pipe | one descriptor more |
| `CLOCK_BOOTTIME` | `CLOCK_MONOTONIC` | sleep of the machine is not counted, so a fence falls later after it |
| `/proc/self/fd` | `/dev/fd` | descriptors are counted one by one |
| `SO_PEERCRED` | none | the modes of a socket and its folder alone say who may connect |

What a disk is asked for has its portable ways in `spool/files.py`: `pwrite` for `pwritev`, zeros for `posix_fallocate`,
`fsync` for `fdatasync`. What else is read in `/proc` may be missing: memory and threads (`io/growth.py`), the boot
(`discovery/host.py`). `PEERFABRIC_PORTABLE=1` takes the portable ways on Linux, too, for tests.
"""

from __future__ import annotations

import math
import os
import select
import socket
import struct
import sys
import time
from typing import Final, Protocol

PORTABLE: Final = os.environ.get("PEERFABRIC_PORTABLE") == "1" or sys.platform != "linux"

CLOCK: Final[int] = time.CLOCK_MONOTONIC if PORTABLE else time.CLOCK_BOOTTIME
DESCRIPTORS: Final = "/dev/fd" if PORTABLE else "/proc/self/fd"


class Poller(Protocol):
    """Waits for descriptors: what is used of `select.epoll`."""

    def register(self, fd: int, events: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class _Poll:
    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.unregister = self._poll.register, self._poll.unregister

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        return self._poll.poll(math.ceil(1000 * timeout))[:most]

    def close(self) -> None:
        return None


def poller() -> Poller:
    """What waits for descriptors here."""
    return _Poll() if PORTABLE else select.epoll()


def bell() -> tuple[int, int]:
    """A descriptor that is readable once 8 bytes are written to the other, perhaps the same one; neither blocks."""
    if not PORTABLE:
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return fd, fd
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return ends


def peer_uid(connection: socket.socket) -> int | None:
    """The user whose process is at the other end of a Unix socket; None if that is not told here."""
    if PORTABLE:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid
