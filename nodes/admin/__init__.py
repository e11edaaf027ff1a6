"""Admin: ask the processes of this user on this host what their nodes are doing, and act on them.

    from peerfabric.admin import ask, processes

    for process in processes():
        if process.status is None:
            print(process.pid, process.problem)
    ask(process, "pause", queue="orders")

Nothing here starts a node. All calls block; in a coroutine, use a thread.
"""

from __future__ import annotations

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

__all__ = ["Answer", "Following", "NotAnswered", "answers", "ask", "follow", "here", "processes", "register"]
