"""Log records of the core: machines note them, their driver writes them."""

from __future__ import annotations

from typing import Final, NamedTuple

ONCE_MAX: Final = 4096
"""Things told once only, over the life of a node: strangers can bring new ones for ever."""


def one_line(text: str) -> str:
    """The same as one line: what peers say may break lines, or steer a terminal, and is written as Python writes it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class LogRecord(NamedTuple):
    """One line for the log."""

    level: str
    text: str


class LogRecords:
    """Lines that were not taken yet, oldest first."""

    def __init__(self) -> None:
        self.lines: list[LogRecord] = []
        self._told: set[str] = set()

    def add(self, level: str, text: str) -> None:
        """Tell `text`, each time."""
        self.lines.append(LogRecord(level, one_line(text)))

    def once(self, key: str, level: str, text: str) -> None:
        """Tell `text` unless something was told under `key` before."""
        if key not in self._told and len(self._told) < ONCE_MAX:
            self._told.add(key)
            self.add(level, text)

    def take(self) -> list[LogRecord]:
        """The lines since the last call."""
        taken, self.lines = self.lines, []
        return taken
