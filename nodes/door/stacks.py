"""Stacks of a process: where each thread is, and each task of the event loops that its nodes belong to."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from peerfabric.nodes.door.outside import Resident
from peerfabric.status import Stack

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

CALLS_MAX: Final = 64
"""Calls of one stack that are shown, the innermost ones."""
TASKS_MAX: Final = 1000


def stacks(residents: Sequence[Resident] = ()) -> tuple[Stack, ...]:
    """Where all threads are now, and the tasks of the event loops of `residents`."""
    found: list[Stack] = []
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.pop(thread.ident or 0, None)
        if frame is not None and thread is not threading.current_thread():
            lines = _lines(_outwards(frame))
            found.append(Stack(name=thread.name, native=thread.native_id, daemon=thread.daemon, lines=lines))
    frames.pop(threading.get_ident(), None)
    found += [Stack(name=f"thread {ident}", lines=_lines(_outwards(frame))) for ident, frame in frames.items()]
    for loop in {id(loop): loop for loop in map(_loop_of, residents) if loop is not None}.values():
        found += _tasks(loop)
    return tuple(found)


def _loop_of(resident: Any) -> AbstractEventLoop | None:
    return getattr(getattr(resident, "node", None), "loop", None)


def _outwards(frame: FrameType | None) -> Iterable[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _lines(calls: Iterable[tuple[FrameType, int]]) -> tuple[str, ...]:
    """From the innermost call outwards, in the order of a traceback."""
    found: list[str] = []
    for frame, number in calls:
        if len(found) >= CALLS_MAX:
            break
        code = frame.f_code
        source = linecache.getline(code.co_filename, number, frame.f_globals).strip()
        found.append(f"{code.co_filename}:{number} {code.co_qualname}" + (f": {source}" if source else ""))
    return tuple(reversed(found))


def _tasks(loop: AbstractEventLoop) -> list[Stack]:
    from asyncio import all_tasks  # there, where there is a loop

    found: list[Stack] = []
    try:
        tasks = list(all_tasks(loop))
    except RuntimeError:  # they change too fast to be looked at from another thread
        return []
    for task in tasks[:TASKS_MAX]:
        frames = task.get_stack(limit=CALLS_MAX)
        lines = _lines((frame, frame.f_lineno) for frame in reversed(frames))
        found.append(Stack(name=task.get_name(), kind="task", lines=lines))
    return found
