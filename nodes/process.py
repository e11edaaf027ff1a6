"""What nodes need of their process: threads, forks noticed, nothing forgotten at exit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from typing import Protocol

from peerfabric.errors import ConfigError
from peerfabric.nodes import signals


class Resident(Protocol):
    """A node that runs in this process."""

    def forked(self) -> None:
        """In a child process: this node belongs to the parent."""

    def drain_at_exit(self) -> None:
        """The program is over and did not close this node."""


_running: set[Resident] = set()
"""They work, and are known to others, until they are closed, whether or not the program still holds them."""
_hooks = threading.Lock()
_hooked = False


def remember(node: Resident) -> None:
    """From now on `node` hears of forks, and is drained at exit."""
    global _hooked  # noqa: PLW0603  # a process forks and exits as a whole
    with _hooks:
        if not _hooked:
            _hooked = True
            os.register_at_fork(after_in_child=_mark_forked)
            atexit.register(_drain_forgotten)
    _running.add(node)


def forget(node: Resident) -> None:
    """`node` was closed."""
    _running.discard(node)


def refuse_green_threads() -> None:
    """Raise if gevent or eventlet has put its own threads, or its own `select`, in the place of the system's.

    Such a thread gives way to others only where their library waits. The I/O thread waits in epoll, and all would stop.

    Raises:
        ConfigError: It has; what may be patched is said.
    """
    for library, module, is_patched, parts in (
        ("gevent", "gevent.monkey", "is_module_patched", ("threading", "select")),
        ("eventlet", "eventlet.patcher", "is_monkey_patched", ("thread", "select")),
    ):
        patched = getattr(sys.modules.get(module), is_patched, None)
        if patched is not None and any(patched(part) for part in parts):
            raise ConfigError(
                f"{library} has replaced the threads of this process, and a node's own thread would stop all of them; "
                f"use a node in a process without it, or patch with thread=False, select=False, where our calls block"
            )


def _mark_forked() -> None:
    global _hooks  # noqa: PLW0603  # a thread of the parent may hold it for ever
    _hooks = threading.Lock()
    signals.after_fork()
    for node in list(_running):
        node.forked()
    _running.clear()


def _drain_forgotten() -> None:
    for node in list(_running):
        warnings.warn(f"{node!r} was not closed; use `with`, or call close()", ResourceWarning, stacklevel=1)
        node.drain_at_exit()
