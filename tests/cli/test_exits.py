"""Texts of the library at a terminal: commands in the place of methods."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from peerfabric.nodes.cli.exits import TerminalFormatter, at_the_terminal
from peerfabric.nodes.cli.main import cli
from peerfabric.status import Warned
from tests.cli.processes import Processes, heard, node, run, sending

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("see node.dead_letters('raw')", "see `peerfabric dead ls raw`"),
        ("see node.dead_letters(queue), which", "see `peerfabric dead ls`, which"),
        ("start one; node.peers() tells who", "start one; `peerfabric peers` tells who"),
        ("look at peers() and its reasons", "look at `peerfabric peers` and its reasons"),
        ("node.statistics() and node.services()", "`peerfabric queues` and `peerfabric services`"),
        ("give close(timeout=) more", "give close(timeout=) more"),
        ("the program's my.peers()", "the program's my.peers()"),
    ],
)
def test_methods_become_commands(text: str, said: str) -> None:
    """Wherever the library names one as the next step."""
    assert at_the_terminal(text) == said
    record = logging.LogRecord("peerfabric", logging.WARNING, "x.py", 1, text, None, None)
    assert TerminalFormatter().format(record) == said


def test_no_method_is_left() -> None:
    """All that texts of the library name are known here."""
    named = re.compile(r"\bnode\.(?:peers|services|statistics|dead_letters)\([^)]*\)")
    for room in ("fabric", "nodes"):
        for path in (ROOT / room).rglob("*.py"):
            if "cli" not in path.parts:
                for text in re.findall(r"^\s+f?\"(.*)\"", path.read_text(), re.MULTILINE):
                    said = at_the_terminal(re.sub(r"\{self\.queue!r\}|\{end\.queue!r\}", "'q'", text))
                    assert not named.search(said), f"{path}: {text}"


@pytest.mark.parametrize("command", ["top", "check"])
def test_warnings_of_nodes_are_translated(processes: Processes, command: str) -> None:
    """As errors are."""
    warned = Warned(code="no-consumer", text="nobody; node.peers() tells who", queue="orders")
    processes.looks = [[heard(7, node("a", sends=(sending(),), warnings=(warned,)))]]
    _, out, err = run(command, *(("--interval", "0") if command == "top" else ("--min-consumers", "0")))
    assert "node.peers" not in out + err
    if command == "top":
        assert "`peerfabric peers` tells who" in err


@pytest.mark.parametrize("group", [[], ["spool"], ["dead"]])
def test_help_is_not_cut(group: list[str]) -> None:
    """A line of each command ends where its sentence does."""
    text = CliRunner().invoke(cli, [*group, "--help"], terminal_width=80).stdout
    assert "..." not in text.partition("Commands:")[2]
    assert max(map(len, text.splitlines())) <= 80 or not group


def test_names_that_were_meant(processes: Processes) -> None:
    """Whoever is asked about a queue that is not there proposes one that is."""
    processes.looks = [[heard(7, node("a", sends=(sending(),)))]]
    processes.does = {do: lambda process, **_: {"nodes": []} for do in ("pause", "resume", "purge")}
    for command in (
        ("pause", "ordres"),
        ("resume", "ordres"),
        ("purge", "ordres", "--yes"),
        ("queues", "ordres", "--interval", "0"),
        ("check", "--queue", "ordres"),
        ("tap", "ordres", "--timeout", "0"),
    ):
        code, out, err = run(*command)
        assert code == 3
        assert "did you mean 'orders'?" in out + err, command
