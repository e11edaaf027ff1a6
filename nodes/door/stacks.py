"""Stacks of a process: where each thread is, and each task of the event loops that its nodes belong to."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from peerfabric.nodes.door.outside import Resident
from peerfabric.status import Stack

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

CALLS_MAX: Final = 64
"""Calls of one stack that are shown, the innermost ones."""
_FRAMES: Final = ("cr_frame", "gi_frame", "ag_frame")
_AWAITS: Final = ("cr_await", "gi_yieldfrom", "ag_await")
TASKS_MAX: Final = 1000
AWAITS_MAX: Final = 1000
"""Coroutines that wait for each other, which are looked through for the innermost ones."""


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
        calls = [(frame, frame.f_lineno) for frame in islice(_awaiting(task.get_coro()), AWAITS_MAX)]
        found.append(Stack(name=task.get_name(), kind="task", lines=_lines(reversed(calls))))
    return found


def _awaiting(waits: Any) -> Iterator[FrameType]:
    """Where a coroutine is, then where the one is for which it waits, and so on; `Task.get_stack` has but the first."""
    while waits is not None:
        frame = next((each for name in _FRAMES if (each := getattr(waits, name, None)) is not None), None)
        if frame is not None:
            yield frame
        waits = next((each for name in _AWAITS if (each := getattr(waits, name, None)) is not None), None)
