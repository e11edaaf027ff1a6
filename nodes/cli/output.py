"""Output of the commands: tables for people, or one JSON object a line for programs."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from peerfabric.nodes.cli.exits import pipe_closed
from peerfabric.nodes.cli.host.text import shortened

T = TypeVar("T")

INDENT: Final = "    "
TEXT_LEAST: Final = 8
"""Columns that each text of a table in a terminal has at least, if it has so many letters."""
ENTRIES_WIDTH: Final = 130
"""Columns from which an id of 60 has some text beside it."""


class Form(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


def to_json(value: Any) -> str:
    """`value` on one line; what JSON has no word for becomes text, and bytes become base64."""
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError):
        return msgspec.json.encode(repr(value)).decode()


def printable(text: str) -> str:
    """`text` without anything that a terminal would obey: it may come from another node."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_line(text: str) -> None:
    """Print one line and hand it over at once: the reader has it when this returns.

    Raises:
        SystemExit: The reader has gone.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        pipe_closed()


def print_found(form: Form, columns: Sequence[str], found: Sequence[T], row: Callable[[T], Sequence[str]]) -> None:
    """Print what was found as a table, or as a JSON line each; of nothing, nothing.

    Raises:
        SystemExit: The reader has gone.
    """
    if form is Form.JSON:
        for each in found:
            print_line(to_json(each))
    elif found:
        print_table("", columns, [row(each) for each in found])


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, as wide as it needs to be where nobody looks at a terminal.

    Raises:
        SystemExit: The reader has gone.
    """
    print_made(title, table(columns, rows))


def print_numbers(
    form: Form, columns: Sequence[str], found: Sequence[T], row: Callable[[T], Sequence[str]], texts: int = 1
) -> None:
    """As `print_found`, a table of numbers, which fits 80 columns; the first `texts` columns are texts."""
    if form is Form.JSON:
        for each in found:
            print_line(to_json(each))
    elif found:
        print_made("", number_table(columns, [row(each) for each in found], texts))


def print_entries(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is an id; in a terminal that has no room beside it each row is two lines.

    So an id is never cut, and can be copied.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal or console.width >= ENTRIES_WIDTH:
        print_table("", columns, rows)
        return
    for first, *others in rows:
        print_line(first)
        text = "  ".join(cell for cell in others if cell)
        for line in textwrap.wrap(text, console.width, initial_indent=INDENT, subsequent_indent=INDENT):
            print_line(line)


def print_wrapped(text: str) -> None:
    """Print a text; in a terminal lines after the first one are indented, and words are not split.

    Raises:
        SystemExit: The reader has gone.
    """
    console = Console()
    lines = [text] if not console.is_terminal else wrapped(text, console.width, after=INDENT)
    for line in lines:
        print_line(line)


def wrapped(text: str, width: int, first: str = "", after: str = "") -> list[str]:
    """`text` in lines of `width` columns, `first` before the first one and `after` before the others."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )


def print_made(title: str, made: Table) -> None:
    """Print a table as `print_table` does.

    Raises:
        SystemExit: The reader has gone.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        needed = Console(width=100_000).measure(made).maximum if made.columns else 0
        console = Console(highlight=False, markup=False, emoji=False, width=max(needed, 200))
    # A terminal that is narrower than the numbers wraps them itself; they are not cut.
    least = sum((column.min_width or TEXT_LEAST) + 1 for column in made.columns) - 1
    if least > console.width and any(column.min_width for column in made.columns):
        console = Console(highlight=False, markup=False, emoji=False, width=least, soft_wrap=True)
    try:
        if title:
            console.print(f"\n{title}", style="bold")
        console.print(made)
        sys.stdout.flush()
    except BrokenPipeError:
        pipe_closed()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without lines, whose texts are shown as they are."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def number_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1, *, width: int | None = None
) -> Table:
    """A table of numbers, one column apart, after `texts` columns of text, which share the space that is left.

    Numbers and their headers are never cut.

    Args:
        width: Texts that do not fit in so many columns lose their middle, so that each row is one line, and columns
            that do not fit are left out, the last ones first; None: texts are folded.
    """
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    shown = len(columns)
    if width is not None:
        least = min(TEXT_LEAST * texts, sum(widths[:texts]))
        while shown > texts + 1 and _room(widths[:shown], texts, width) < least:
            shown -= 1
        room = _room(widths[:shown], texts, width)
        rows = [[*map(shortened, row, _shares(widths[:texts], room)), *row[texts:shown]] for row in rows]
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for place, column in enumerate(columns[:shown]):
        if place < texts:
            made.add_column(column, overflow="fold", no_wrap=width is not None, vertical="bottom")
        else:
            made.add_column(column, justify="right", no_wrap=True, min_width=widths[place])
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def _room(widths: Sequence[int], texts: int, width: int) -> int:
    """Columns for all texts, beside the numbers and what is between two cells."""
    return width - sum(widths[texts:]) - len(widths) + 1


def _shares(widths: Sequence[int], room: int) -> list[int]:
    """A share of `room` for each text; what short ones do not need is for the others."""
    shares = [0] * len(widths)
    left = max(room, len(widths))
    for number, place in enumerate(sorted(range(len(widths)), key=lambda place: widths[place])):
        shares[place] = min(widths[place], left // (len(widths) - number))
        left -= shares[place]
    return shares
