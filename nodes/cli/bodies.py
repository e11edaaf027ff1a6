"""Bodies on the command line and on standard input: JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import click
import msgspec

from peerfabric.nodes.cli.exits import Failure

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""The longest line read from standard input, before anything of it is decoded; four times a body's limit."""


def body_from_argument(text: str) -> Any:
    """The body that `text` stands for.

    Raises:
        UsageError: It is not JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise click.UsageError(
            f"{text[:80]!r} is not JSON ({error}); a text needs double quotes inside of single ones: '\"tea\"'"
        ) from None


def bodies(argument: str) -> Iterator[Any]:
    """The body in `argument`, or one for each line of standard input if it is `-`; a line is read when it is asked for.

    Raises:
        UsageError: The argument is not JSON.
        Failure: A line is not JSON; its number is named, and the lines before it were handed out.
    """
    if argument == "-":
        yield from _from_lines(sys.stdin.buffer)
    else:
        yield body_from_argument(argument)


def _from_lines(stream: BinaryIO) -> Iterator[Any]:
    number = 0
    while line := stream.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise Failure(f"line {number} is longer than {LINE_BYTES_MAX:,} bytes; send a reference to it")
        if line.isspace():
            continue
        try:
            yield msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Failure(
                f"line {number} is not JSON ({error}); the lines before it are sent, give the rest again from there"
            ) from None
