"""Whether code that ended with an exception has failed, or was interrupted: that depends on what runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

_judge: ContextVar[Callable[[BaseException], bool] | None] = ContextVar("peerfabric_judge", default=None)


def has_failed(error: BaseException) -> bool:
    """Whether `error` counts as a failed attempt; else the message that was worked on is only given back.

    In a program's own loop an Exception does, and Ctrl-C, exit and cancellation do not.
    """
    judge = _judge.get()
    return isinstance(error, Exception) if judge is None else judge(error)


def judge_by(judge: Callable[[BaseException], bool]) -> None:
    """In this thread or task, and in whatever gets a copy of its context, `judge` says so."""
    _judge.set(judge)
