"""Deferred log lines: those that come up while a lock is held, and are written when it is not.

A handler of log lines is user code: it may call peerfabric, or wait for somebody who does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from peerfabric.discovery.log import log as _log


class _Held(threading.local):
    lines: list[tuple[int, str, tuple[object, ...]]] | None = None


_held = _Held()


def remark(level: int, text: str, *values: object) -> None:
    """Write a line into the log, or, where `later` says so, soon."""
    if _held.lines is None:
        _log.log(level, text, *values)
    else:
        _held.lines.append((level, text, values))


@contextmanager
def later() -> Iterator[None]:
    """What is remarked in this block, in which the calling thread takes a lock, is written after it."""
    if _held.lines is not None:
        yield
        return
    lines = _held.lines = []
    try:
        yield
    finally:
        _held.lines = None
        for level, text, values in lines:
            _log.log(level, text, *values)
