"""Whereabouts of messages in hand: which thread or task has one, and at which line of the program that is now.

Nothing is written down for it while messages are handled: frames are looked at when somebody asks.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peerfabric.nodes.handler_context import Hand, Input, hands
from peerfabric.queue.delivery import handed_out_at

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task

    from peerfabric.nodes.handlers import Called
    from peerfabric.queue.incoming import IncomingQueue

_LIBRARIES: Final = (os.path.dirname(os.__file__) + os.sep, "<frozen ")
_PACKAGES: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_DEPTH_MAX: Final = 1000
"""Frames, or coroutines that wait for each other, that are looked through."""

Runner = Any
"""A thread, the ident of one, or a task."""


class Held(NamedTuple):
    """A message or batch in hand, and who has it.

    handler     that was called with it; empty: a loop of the program has taken it
    thread      the name of the thread, or of the task
    runner      that thread or task
    step        the outermost coroutine of the call, if a task runs it
    package     that the handler is of, whose code is the program's own wherever it is installed
    """

    taken: Input
    handler: str
    thread: str
    runner: Runner
    step: Any = None
    package: str = ""

    def line(self) -> str:
        """FILE:LINE where it is now, in the program's own code as far as there is any; empty: it has gone on."""
        if isinstance(self.runner, threading.Thread):
            frame = sys._current_frames().get(self.runner.ident or 0)
            return _line(_up(frame), self.package)
        step = self.step if self.step is not None else self.runner.get_coro()
        return _line(reversed(list(_down(step))), self.package)


def held(handlers: Iterable[Called], loop: AbstractEventLoop | None) -> list[Held]:
    """All that handlers, and loops of the program, have in hand at this moment. Any thread.

    Args:
        handlers: Of the node.
        loop: Its event loop, if it has one.
    """
    found = [each for handler in handlers for each in _of_handler(handler)]
    known = {id(each.taken) for each in found}
    runners = _runners(loop)
    for hand in hands():
        runner = runners.get(hand.taken_by)
        if runner is not None:
            found += [_of_loop(each, runner) for each in _in(hand) if id(each) not in known]
    return found


def oldest(end: IncomingQueue, everything: Iterable[Held]) -> Held | None:
    """Of what is in hand of one queue, what was handed out first; None: nobody has any."""
    at, chosen = 0.0, None
    for each in everything:
        if each.taken._owner.end is not end:
            continue
        for delivery, index in _handed_out(each.taken):
            since = handed_out_at(delivery, index)
            if since is not None and (chosen is None or since < at):
                at, chosen = since, each
    return chosen


def _of_handler(handler: Called) -> Iterator[Held]:
    running = getattr(handler, "running", None)  # services have no messages
    for runner, taken, step in running() if running is not None else ():
        name = runner.get_name() if step is not None else runner.name
        package = str(getattr(handler.function, "__module__", "")).partition(".")[0]  # type: ignore[attr-defined]
        yield Held(taken, handler.name, name, runner, step, package)


def _of_loop(taken: Input, runner: Runner) -> Held:
    name = runner.name if isinstance(runner, threading.Thread) else runner.get_name()
    return Held(taken, "", name, runner)


def _in(hand: Hand) -> list[Input]:
    """What is in a hand that its thread or task may change meanwhile."""
    newest = hand.newest
    found = dict.fromkeys(each for each in list(hand.earlier) if not each._settled)
    if newest is not None and not newest._settled:
        found[newest] = None
    return list(found)


def _handed_out(taken: Input) -> Iterator[tuple[Any, int]]:
    """The first message of each delivery of it that nothing was decided about."""
    parts = getattr(taken, "_parts", None)
    if parts is None:
        yield taken._delivery, taken._index  # type: ignore[attr-defined]
    else:
        yield from ((delivery, low) for delivery, low, _ in parts)


def _runners(loop: AbstractEventLoop | None) -> dict[int, Runner]:
    """Threads by ident, and tasks of the loop by id, as `Hand.taken_by` names them."""
    found: dict[int, Runner] = {thread.ident: thread for thread in threading.enumerate() if thread.ident is not None}
    if loop is not None:
        from asyncio import all_tasks  # it is there

        tasks: Iterable[Task[Any]] = all_tasks(loop)
        found |= {id(task): task for task in tasks}
    return found


# Frames


def _up(frame: FrameType | None) -> Iterator[tuple[CodeType, int, str]]:
    """A frame and its callers: code, line, module."""
    for _ in range(_DEPTH_MAX):
        if frame is None:
            return
        yield frame.f_code, frame.f_lineno or 0, frame.f_globals.get("__name__") or ""
        frame = frame.f_back


def _down(step: Any) -> Iterator[tuple[CodeType, int, str]]:
    """A coroutine, or generator, and those that it waits for."""
    for _ in range(_DEPTH_MAX):
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(step, f"{kind}_frame")), None)
        if kind is None:
            return
        frame = getattr(step, f"{kind}_frame")
        if frame is not None:
            yield frame.f_code, frame.f_lineno or 0, frame.f_globals.get("__name__") or ""
        step = getattr(step, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def _line(frames: Iterable[tuple[CodeType, int, str]], package: str) -> str:
    """The innermost of `frames`, which begin with it, that is the program's own; else one that is not Python's or ours."""
    innermost = installed = ""
    for code, line, module in frames:
        place = f"{code.co_filename}:{line}"
        innermost = innermost or place
        if module.startswith("peerfabric.") and not module.startswith("peerfabric.indexer"):
            continue
        if package and module.partition(".")[0] == package:
            return place
        if any(part in code.co_filename for part in _PACKAGES):
            installed = installed or place
        elif not code.co_filename.startswith(_LIBRARIES):
            return place
    return installed or innermost


def place(end: IncomingQueue, handlers: Iterable[Called], loop: AbstractEventLoop | None) -> str:
    """Where the code is now that has the oldest message of a queue, for people; empty: nobody knows."""
    found = oldest(end, held(handlers, loop))
    if found is None or not (line := found.line()):
        return ""
    return f"{line} in {found.thread}"
