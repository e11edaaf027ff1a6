"""Process of the nodes: their threads, forks noticed, nothing forgotten at exit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Protocol
from weakref import WeakSet

from peerfabric.discovery.locks import Lock
from peerfabric.errors import ConfigError, FabricError, NodeClosed
from peerfabric.nodes import signals
from peerfabric.nodes.door.door import Door
from peerfabric.nodes.door.outside import Outside

ENDING: Final = (
    "this program is ending, so a node cannot start any more: what it accepts would be lost; "
    "use the node before the program ends, also if an atexit callback shall send with it"
)


class Resident(Protocol):
    """A node that runs in this process."""

    node: Any
    """Its context."""
    is_adopted: bool
    """Another one of this process closes it with itself."""

    def forked(self) -> None:
        """In a child process: this node belongs to the parent."""

    def drain_at_exit(self) -> None:
        """The program is over and did not close this node."""

    def outside(self) -> Outside:
        """The node as others than its program see it."""


class Opening(Protocol):
    """The files of a node that is only starting."""

    def forked(self) -> None:
        """In a child process: they belong to the parent."""


_running: set[Resident] = set()
"""They work, and are known to others, until they are closed, whether or not the program still holds them."""
_opening: WeakSet[Opening] = WeakSet()
"""What has files open for nodes that are not remembered yet."""
_door: Door | None = None
"""Where others ask this process, while a node runs in it."""
_door_lock = Lock()
_drained = False
"""The program has ended as far as we are concerned: nobody would drain a node that starts now."""


@contextmanager
def starting() -> Iterator[None]:
    """A node starts in this block, if that is not too late.

    Raises:
        NodeClosed: It is: nobody would drain it, or its threads cannot be started any more.
    """
    main = threading.main_thread()
    # In the main thread that counts as ended, callbacks of atexit run, ours among them or not any more.
    if _drained or (not main.is_alive() and main.ident == threading.get_ident()):
        raise NodeClosed(text=ENDING)
    try:
        yield
    except RuntimeError as error:
        if main.is_alive() or isinstance(error, FabricError):
            raise
        raise NodeClosed(text=ENDING) from error  # Python 3.12 and later start no threads then


def remember(node: Resident) -> None:
    """From now on `node` hears of forks, is drained at exit, and is shown to whoever asks the process.

    Raises:
        ConfigError: The variable that turns the admin socket off has no meaning.
    """
    global _door  # noqa: PLW0603  # one for all nodes of the process
    _running.add(node)
    with _door_lock:
        if _door is not None:
            return
        door = _door = Door(residents)
    door.open()


def forget(node: Resident) -> None:
    """`node` was closed."""
    global _door
    _running.discard(node)
    with _door_lock:
        if _running or _door is None:
            return
        door, _door = _door, None
        door.remove()  # before another one listens there
    door.close()


def look_after_door() -> None:
    """Listen anew if the admin socket is not where others look for it: folders of sessions go and come back.

    Waits for nothing.
    """
    global _door  # noqa: PLW0603
    door = _door
    if door is None or door.is_where_others_look():
        return
    with _door_lock:
        if _door is not door:
            return
        told = door.path is None
        _door = following = Door(residents)
        door.remove()
    door.close(timeout=0.0)
    following.open_again(told=told)


def residents() -> list[Resident]:
    """The nodes that run in this process now, adopted ones last."""
    return sorted(_running.copy(), key=lambda node: node.is_adopted)


def opens(files: Opening) -> None:
    """From now on `files` hears of forks, for as long as somebody holds it."""
    _opening.add(files)


def refuse_foreign_threads() -> None:
    """Raise if the threads of this process are not those of an interpreter with one lock for all.

    Without that lock nothing is proven of what leans on it: how the two sides of a delivery meet
    (`fabric/queue/delivery.py`), gates (`nodes/io/waiting.py`), the notes of the pump (`nodes/io/pump.py`), lists and
    dicts that one thread reads while another one adds to them.

    Raises:
        ConfigError: They are not; what may be done is said.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ConfigError(
            "this Python runs without its global lock, and peerfabric is not proven there; "
            "start it with PYTHON_GIL=1 or -X gil=1, or use a build that is not free-threaded"
        )
    _refuse_green_threads()


def _refuse_green_threads() -> None:
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
    signals.after_fork()
    for files in list(_opening):
        files.forked()  # or the child would keep the locks of a node whose start it has seen
    for node in list(_running):
        node.forked()
    _running.clear()
    global _door  # noqa: PLW0603
    if _door is not None:
        _door.forked()
        _door = None


def _drain_forgotten() -> None:
    global _drained  # noqa: PLW0603  # a process exits as a whole
    _drained = True
    # In reverse order, each also if one before it fails: all are drained, and then all are told of. A warning may be
    # an error (`python -W error`).
    forgotten = [node for node in _running if not node.is_adopted]
    with ExitStack() as last:
        for node in forgotten:
            last.callback(_warn, f"{node!r} was not closed; use `with`, or call close()")
        for node in forgotten:
            last.callback(node.drain_at_exit)


def _warn(text: str) -> None:
    warnings.warn(text, ResourceWarning, stacklevel=1)


# Before anybody can start a node. What is registered with atexit later runs before this, with nodes that work.
os.register_at_fork(after_in_child=_mark_forked)
atexit.register(_drain_forgotten)
