"""What docs/command-line.md says of the commands, compared with the commands."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click

from peerfabric.nodes.cli.exits import Exit
from peerfabric.nodes.cli.main import cli

TEXT = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def is_shown(param: click.Parameter) -> bool:
    """Whether it is an option that people may give."""
    return isinstance(param, click.Option) and not param.hidden


def rows(first: str) -> list[list[str]]:
    """The cells of the table whose first column is called that."""
    table = re.search(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.group(1).splitlines()]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_option_is_documented() -> None:
    """And every documented one is there, of the commands that are named, with all its names."""
    documented: dict[str, set[str]] = defaultdict(set)
    for names, owners, *_ in rows("option"):
        for owner in code(owners):
            documented[owner] |= {name.split()[0] for name in code(names)}
    there = {
        name: {option for param in command.params if is_shown(param) for option in param.opts}
        for name, command in commands(cli)
    }
    assert documented == {name: options for name, options in there.items() if options}


def test_every_command_is_documented() -> None:
    """With its arguments; a flag that stands there, or anywhere else in the text, is one of the table."""
    lines = [row[0].strip("`").split() for row in rows("command")]
    found = {tuple(words[1:]) for words in lines}
    for name, command in commands(cli):
        arguments = [param for param in command.params if isinstance(param, click.Argument)]
        (line,) = [words for words in found if words[: len(name.split())] == tuple(name.split())]
        named = [word for word in line[len(name.split()) :] if "-n" not in word and word != "N]"]
        assert len(named) == len(arguments), name
    options = {option for _, command in commands(cli) for param in command.params for option in param.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) <= options | {"--help"}


def test_every_exit_code_is_documented() -> None:
    """Each number once."""
    assert [int(row[0]) for row in rows("code")] == sorted(Exit)
