"""Places in the program where messages are in hand now: which thread or task has one, and at which line it is.

Loaded when somebody looks. Nothing is kept for it but who has what (`handler_context.hands`).
"""

from __future__ import annotations

import os
import site
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peerfabric.nodes.handler_context import Input, hands
from peerfabric.queue.delivery import Delivery
from peerfabric.status import InHand

if TYPE_CHECKING:
    import asyncio

AWAITS_MAX: Final = 1000
"""Coroutines that wait for each other, of which the innermost is looked for."""


def _folders(*paths: str) -> tuple[str, ...]:
    return tuple({os.path.join(os.path.realpath(path), "") for path in paths})


_STANDARD: Final = _folders(os.path.dirname(os.__file__))  # `sysconfig` takes milliseconds to load
_INSTALLED: Final = _folders(*site.getsitepackages())


class Place(NamedTuple):
    """Where something is in hand.

    thread   name of the thread, or of the task
    line     FILE:LINE of the innermost of its calls that is in the program's own code, or else in a package's
    """

    thread: str
    line: str


class Whereabouts:
    """Who has what in hand in this process, at this moment."""

    def __init__(self) -> None:
        self._inputs: list[tuple[Input, int]] = []
        for each in list(hands):
            hand = each()
            if hand is None:
                continue
            newest = hand.newest
            taken = list(hand.earlier) if newest is None or newest in hand.earlier else [*hand.earlier, newest]
            self._inputs += [(one, hand.taken_by) for one in taken if not one._settled]
        self._frames = sys._current_frames()
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        for loop in {getattr(one._owner, "loop", None) for one, _ in self._inputs}:
            if loop is None:
                continue
            self._tasks |= {id(task): task for task in _tasks_of(loop)}

    def of(self, stream: str, sequence: int) -> Place | None:
        """Where that message is; None: in no hand that is known, as it was handed on, or settled just now."""
        for taken, by in reversed(self._inputs):
            if any(_has(delivery, stream, sequence) for delivery in taken._deliveries):
                return self._place(by)
        return None

    def _place(self, taken_by: int) -> Place | None:
        task = self._tasks.get(taken_by)
        if task is not None:
            return Place(task.get_name(), _line(self._frames_of(task)))
        frame = self._frames.get(taken_by)
        if frame is None:
            return None
        thread = next((each.name for each in threading.enumerate() if each.ident == taken_by), "")
        return Place(thread, _line(_outward(frame)))

    def _frames_of(self, task: asyncio.Task[Any]) -> Iterator[FrameType]:
        """The calls of a task, the innermost first."""
        inward = list(_inward(task.get_coro()))
        for frame in self._frames.values():  # one that runs now, and keeps its event loop waiting
            outward = list(_outward(frame))
            if inward and any(each is inward[0] for each in outward):
                return iter(outward)
        return reversed(inward)


def of_all(found: Sequence[InHand]) -> list[str]:
    """Where each of these is in hand, for people; empty: in no hand that is known."""
    if not found:
        return []
    whereabouts, places = Whereabouts(), list[str]()
    for each in found:
        stream, _, sequence = each.id.rpartition("/")
        place = whereabouts.of(stream, int(sequence))
        places.append("" if place is None else f"{place.line or 'an unknown line'} in {place.thread}")
    return places


def _has(delivery: Delivery, stream: str, sequence: int) -> bool:
    return delivery.stream == stream and delivery.first <= sequence < delivery.stop


def _tasks_of(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
    import asyncio  # it is there, as there is a loop

    try:
        return asyncio.all_tasks(loop)
    except RuntimeError:  # they came and went faster than they could be listed
        return set()


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _inward(awaited: Any) -> Iterator[FrameType]:
    """The calls of a coroutine that waits, the outermost first."""
    from peerfabric.nodes.handler_tasks import drive_code

    for _ in range(AWAITS_MAX):
        frame = next((getattr(awaited, f"{kind}_frame") for kind in ("cr", "gi", "ag") if _is(awaited, kind)), None)
        if frame is None:
            return
        yield frame
        if frame.f_code is drive_code:
            awaited = frame.f_locals.get("call")
        else:
            following = {"cr": "cr_await", "gi": "gi_yieldfrom", "ag": "ag_await"}
            awaited = next((getattr(awaited, name) for kind, name in following.items() if _is(awaited, kind)), None)


def _is(awaited: Any, kind: str) -> bool:
    return hasattr(awaited, f"{kind}_frame")


def _line(frames: Iterator[FrameType]) -> str:
    """The innermost line of the program's own, or else of a package's, or else of the standard library's."""
    found = ["", "", ""]
    for frame in frames:
        name = frame.f_code.co_filename
        if name.startswith("<frozen") or frame.f_globals.get("__name__", "").startswith("peerfabric."):
            continue
        path = os.path.realpath(name)
        level = 1 if path.startswith(_INSTALLED) else 2 if path.startswith(_STANDARD) else 0  # some lie in the others
        found[level] = found[level] or f"{name}:{frame.f_lineno}"
        if level == 0:
            break
    return next(filter(None, found), "")
