"""What nodes need of their process: signals while `run()` works, forks noticed, nothing forgotten at exit."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Final, Protocol

from peerfabric.errors import FabricError, NodeClosed
from peerfabric.nodes.waiting import Gate, Waiting, wait_until

ENDING: Final = (
    "this program is ending, so a node cannot start any more: what it accepts would be lost; "
    "use the node before the program ends, also if an atexit callback shall send with it"
)


class Resident(Protocol):
    """A node that runs in this process."""

    def forked(self) -> None:
        """In a child process: this node belongs to the parent."""

    def drain_at_exit(self) -> None:
        """The program is over and did not close this node."""


_running: set[Resident] = set()
"""They work, and are known to others, until they are closed, whether or not the program still holds them."""
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
    """From now on `node` hears of forks, and is drained at exit."""
    _running.add(node)


def forget(node: Resident) -> None:
    """`node` was closed."""
    _running.discard(node)


async def until_signal(waiting: Waiting, gate: Gate, is_over: Callable[[], bool], what: str) -> None:
    """Return when SIGINT or SIGTERM comes, or when `is_over` at an opening of `gate`; `what` says so to people."""
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        gate.open()

    before = _install(on_signal)
    try:
        await wait_until(
            waiting,
            gate,
            lambda: True if received or is_over() else None,
            None,
            lambda: what,
            (float("inf"), logging.INFO),
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Let `handler` hear SIGINT and SIGTERM; return those that did. Only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}


def _mark_forked() -> None:
    for node in list(_running):
        node.forked()
    _running.clear()


def _drain_forgotten() -> None:
    global _drained  # noqa: PLW0603  # a process exits as a whole
    _drained = True
    # In reverse order, each also if one before it fails: all are drained, and then all are told of. A warning may be
    # an error (`python -W error`).
    with ExitStack() as last:
        for node in list(_running):
            last.callback(_warn, f"{node!r} was not closed; use `with`, or call close()")
        for node in list(_running):
            last.callback(node.drain_at_exit)


def _warn(text: str) -> None:
    warnings.warn(text, ResourceWarning, stacklevel=1)


# Before anybody can start a node. What is registered with atexit later runs before this, with nodes that work.
os.register_at_fork(after_in_child=_mark_forked)
atexit.register(_drain_forgotten)
