"""Exit codes, and how errors become one line and one of them."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Final, NoReturn

import click

from peerfabric.errors import (
    ConfigError,
    FabricError,
    IdentityInUse,
    NoServer,
    QueueFull,
    RemoteError,
    SpoolError,
    SpoolLocked,
    TimedOut,
)


class Exit(IntEnum):
    """Why the command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOTHING = 3
    IN_USE = 4
    NO_SPOOL = 5
    COPY = 78
    HUNG_UP = 129
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


EXPLANATION = """\b
Exit codes:
  0    done
  1    failed: not processed, given up, damaged, or wrong
  2    the command line is wrong, or a body on it is not JSON
  3    nothing happened within --timeout: nobody there, or no message
  4    the spool is in use: its node runs
  5    the spool cannot be used: not there, not ours alone, of a later version, or the disk refused
  78   another copy of this node runs, under the same key; starting it again does not help
  130  Ctrl-C; 129 and 143: hung up or told to end
  141  whoever read the output has gone
"""


class Failure(FabricError):
    """The command did not reach its aim; `code` says in which way."""

    def __init__(self, text: str, code: Exit = Exit.FAILED) -> None:
        self.code = code
        super().__init__(text)


def exit_code(error: FabricError) -> Exit:
    match error:
        case Failure(code=code):
            return code
        case TimedOut() | QueueFull() | NoServer():
            return Exit.NOTHING
        case IdentityInUse():
            return Exit.COPY
        case ConfigError():
            return Exit.USAGE
        case SpoolLocked():
            return Exit.IN_USE
        case SpoolError():
            return Exit.NO_SPOOL
        case _:
            return Exit.FAILED


@contextmanager
def explained() -> Iterator[None]:
    """End the process with one line and a code where `peerfabric` raised an error, and silently on Ctrl-C."""
    try:
        yield
    except FabricError as error:
        click.echo(f"peerfabric: {_at_the_terminal(error)}", err=True)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


def _at_the_terminal(error: FabricError) -> str:
    """The text of `error` as it is for a terminal."""
    if isinstance(error, RemoteError | Failure):
        return str(error)  # it quotes others, or is of a command
    return at_the_terminal(str(error))


_METHODS: Final = (
    (re.compile(r"\bnode\.dead_letters\((?:queue|QUEUE|\s*)\)"), r"`peerfabric dead ls`"),
    (re.compile(r"\bnode\.dead_letters\(['\"]([\w.-]+)['\"]\)"), r"`peerfabric dead ls \1`"),
    (re.compile(r"\bnode\.statistics\(\)"), "`peerfabric queues`"),
    (re.compile(r"(?<![\w.`])(?:node\.)?(peers|services)\(\)"), r"`peerfabric \1`"),
)


def at_the_terminal(text: str) -> str:
    """`text` of the library, with commands where it tells programs of methods that do the same."""
    if "()" in text or "dead_letters" in text:
        for method, command in _METHODS:
            text = method.sub(command, text)
    return text


class TerminalFormatter(logging.Formatter):
    """Lines of the library's log as a command prints them."""

    def format(self, record: logging.LogRecord) -> str:
        return at_the_terminal(super().format(record))


def log_to_stderr(*, verbose: bool) -> None:
    """Print warnings of the library, and with `verbose` who joins and leaves."""
    handler = logging.StreamHandler()
    handler.setFormatter(TerminalFormatter("peerfabric: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO if verbose else logging.WARNING)


def end_on_signals() -> None:
    """Leave by the same way as Ctrl-C when the terminal closes or somebody says SIGTERM, so that all is closed."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(Exit.TERMINATED if number == signal.SIGTERM else Exit.HUNG_UP)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores one of them
            signal.signal(number, end)


def pipe_closed() -> NoReturn:
    """End because nobody reads our output. What is in hand goes back, as on every exit in `with message`."""
    # The interpreter flushes standard output at its end and would complain once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(Exit.PIPE_CLOSED)
