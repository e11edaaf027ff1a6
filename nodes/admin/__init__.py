"""Admin: ask the processes of this user on this host what their nodes are doing, and act on them.

    from peerfabric.admin import ask, processes

    for process in processes():
        if process.status is None:
            print(process.pid, process.problem)
    ask(process, "pause", queue="orders")

Nothing here starts a node. All calls block; in a coroutine, use a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peerfabric.admin.client import (
    Answer,
    Following,
    NotAnswered,
    answers,
    ask,
    follow,
    here,
    processes,
    register,
)

if TYPE_CHECKING:
    from peerfabric.admin.fabric import fabric_status

__all__ = [
    "Answer",
    "Following",
    "NotAnswered",
    "answers",
    "ask",
    "fabric_status",
    "follow",
    "here",
    "processes",
    "register",
]


def __getattr__(name: str) -> Any:
    # It needs a node, and so ZeroMQ, which who only asks this host does without.
    if name == "fabric_status":
        from peerfabric.admin.fabric import fabric_status

        return fabric_status
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
