"""Process status: what a process knows of itself, besides its nodes."""

from __future__ import annotations

import os
import pwd
import resource
import sys
import threading
import time
from functools import cache
from pathlib import Path

from peerfabric import __version__
from peerfabric.nodes.door.place import own_place
from peerfabric.nodes.platform import DESCRIPTORS
from peerfabric.status import Process

_PAGE = os.sysconf("SC_PAGE_SIZE")


def process_status() -> Process:
    """This process, now."""
    place = own_place(Path())
    try:
        descriptors = len(os.listdir(DESCRIPTORS)) - 1  # without the one that lists them
    except OSError:
        descriptors = 0
    return Process(
        pid=place.pid,
        started=place.started,
        user=_user(os.geteuid()),
        argv0=sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c") else sys.executable,
        version=__version__,
        python=sys.version.partition(" ")[0],
        rss=_rss(),
        cpu=time.process_time(),
        threads=_threads(),
        descriptors=descriptors,
        descriptors_max=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


@cache  # a directory service may be asked
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _rss() -> int:
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
