"""What nodes need of their process: forks noticed, nothing forgotten at exit."""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from typing import Protocol

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
