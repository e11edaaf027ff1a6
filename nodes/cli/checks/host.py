"""Host of a real system: other runtime folders, clocks, disks and slots of spools."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from peerfabric.discovery.host import RUNTIME_VARIABLE, runtime_folder
from peerfabric.errors import ConfigError, SpoolError, SpoolLocked
from peerfabric.nodes.cli.checks.situation import Elsewhere, LeftInSlot
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.offline import dead_letters_of, left_to_a_child, looked_at, messages_of
from peerfabric.nodes.cli.slots import slots_in
from peerfabric.nodes.platform import CLOCK
from peerfabric.nodes.storage.shared import OVER_NETWORK
from peerfabric.spool.files import filesystem

ASK_TIMEOUT: Final = 0.5
_ADMIN: Final = "~admin"


def elsewhere() -> list[Elsewhere]:
    """Other runtime folders than ours in which processes of this user have an admin socket.

    Where they have it is told by the environment that they were started with, seen from their own file system.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for pid, folder, seen in _processes_elsewhere():
        found.setdefault(folder, []).append((pid, seen))
    return [
        Elsewhere(folder, tuple(pid for pid, _ in there), _fabrics_in(there[0][1])) for folder, there in found.items()
    ]


def _fabrics_in(folder: str) -> frozenset[str]:
    """The fabrics of nodes that answer in a runtime folder."""
    with suppress(ConfigError, OSError):
        heard = door.answers(ASK_TIMEOUT, queues=1, folder=folder)
        return frozenset(node.fabric for each in heard if each.status is not None for node in each.status.nodes)
    return frozenset()


def _processes_elsewhere() -> Iterator[tuple[int, str, str]]:
    """Their pids, with their runtime folder, by its own name and as it is seen from here."""
    ours = _identity(str(runtime_folder()))
    namespace = _link("/proc/self/ns/mnt")
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid != os.geteuid():
                continue
            with open(f"/proc/{name}/environ", "rb") as file:
                pairs = (item.partition(b"=") for item in file.read().split(b"\0"))
                environ = {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}
            folder = _runtime_folder_of(environ)
            seen = folder if _link(f"/proc/{name}/ns/mnt") == namespace else f"/proc/{name}/root{folder}"
            sockets = os.listdir(f"{seen}/{_ADMIN}")
            if any(each.startswith(f"{name}-") for each in sockets) and _identity(seen) != ours:
                own = folder if seen == folder else f"{folder} of its own file system (PrivateTmp=?)"
                yield int(name), own, seen


def _runtime_folder_of(environ: Mapping[str, str]) -> str:
    """As `discovery.host` finds it."""
    if chosen := environ.get(RUNTIME_VARIABLE):
        return chosen
    session = environ.get("XDG_RUNTIME_DIR")
    if session and os.path.isdir(session) and os.stat(session).st_uid == os.geteuid():
        return f"{session}/peerfabric"
    return f"{environ.get('TMPDIR') or tempfile.gettempdir()}/peerfabric-{os.geteuid()}"


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def clock_jump(pid: int, started_ms: int) -> float:
    """Seconds by which the clock was set forwards since a process wrote down when it began; 0: not known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        began = time.time() - (time.clock_gettime(CLOCK) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return began - started_ms / 1000


def disk(folder: str) -> tuple[int, int]:
    """Free and all bytes of the disk that a folder is on; zeros if that cannot be seen."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return 0, 0
    return usage.free, usage.total


def network_disk(folder: str) -> str:
    """The kind of disk, if other machines use it too."""
    try:
        kind = filesystem(folder)
    except OSError:
        return ""
    return kind if kind.startswith(OVER_NETWORK) else ""


def left_in(folder: str) -> list[LeftInSlot]:
    """The slots that no process has and that have something, and those whose process has left its lock to a child."""
    found = []
    try:
        slots = slots_in(folder)
    except (ConfigError, SpoolError):
        return []
    for number, path in slots:
        try:
            with looked_at(path) as opened:
                queues = opened.queues()
                messages = sum(messages_of(opened, queue).unsettled_count for queue in queues)
                letters = sum(dead_letters_of(opened, queue).unsettled_count for queue in queues)
        except SpoolLocked:
            if child := left_to_a_child(path):
                found.append(LeftInSlot(number, child=child))
        except SpoolError:
            pass  # not there yet, or said by `spool ls`
        else:
            if messages or letters:
                found.append(LeftInSlot(number, messages, letters))
    return found
