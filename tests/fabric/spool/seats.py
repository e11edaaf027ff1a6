"""Processes that share one disk in memory, any of which may die in the middle of an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from peerfabric.spool.files import Buffer, Process
from tests.fabric.spool.disk import SHORT, Disk


class Cut(BaseException):
    """The process that asked something of the disk is no more."""


class CutDisk(Disk):
    """A disk at whose operation `cut_at` the process that asks for it dies, before it or, if it writes, halfway."""

    def __init__(self) -> None:
        super().__init__()
        self.cut_at = 0
        self.halfway = False

    def _operate(self, kind: str, path: str) -> int:
        fault = super()._operate(kind, path)
        if self.operations == self.cut_at:
            if self.halfway and kind == "write":
                return SHORT
            raise Cut
        return fault

    def write(self, descriptor: int, offset: int, parts: Sequence[Buffer]) -> int:
        done = super().write(descriptor, offset, parts)
        if self.operations == self.cut_at:
            raise Cut
        return done


class Seat:
    """An implementation of `Files`: the disk as one process has it, whose locks and descriptors end with it."""

    def __init__(self, disk: Disk, pid: int) -> None:
        self._disk = disk
        self._who = Process(pid, "boot", str(pid))
        self._open: set[int] = set()
        self.is_dead = False
        disk.running.add(self._who)

    def die(self) -> None:
        """By SIGKILL: nothing of it is written any more."""
        self.is_dead = True
        self._disk.running.discard(self._who)
        for descriptor in list(self._open):
            self._disk.close(descriptor)
        self._open.clear()

    def process(self) -> Process:
        return self._who

    def __getattr__(self, name: str) -> Callable[..., Any]:
        act = getattr(self._disk, name)

        def asked(*arguments: Any, **options: Any) -> Any:
            if self.is_dead:
                if name == "close":
                    return None  # asked by what is cleared away, which must not raise
                raise Cut
            try:
                found = act(*arguments, **options)
            except Cut:
                self.die()
                raise
            if name in ("open", "lock"):
                self._open.add(found)
            elif name in ("close", "unlock"):
                self._open.discard(arguments[0])
            return found

        return asked
