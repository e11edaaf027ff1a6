"""`peerfabric peers`, `bench`, and what the command says about itself."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from peerfabric import Node, __version__
from peerfabric.nodes.cli.main import cli
from tests.cli.conftest import Start, ended

DOCS = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_peers_are_listed(start: Start, node: Node) -> None:
    """Each node with its state and what it takes part in, as a table and as JSON."""
    node.consumer("orders", int)
    node.publisher("prices.eur", float)
    code, out, _ = ended(start("peers", "--timeout", "2"))
    assert code == 0
    assert out.split()[0] == "name"
    assert {"test", "orders", "prices.eur"} <= set(out.split())
    code, out, _ = ended(start("peers", "--wait", "2", "-o", "json"))
    (peer,) = map(json.loads, out.splitlines())
    assert (code, peer["name"], peer["consumes"], peer["publishes"]) == (0, "test", ["orders"], ["prices.eur"])


def test_nobody_is_there(start: Start) -> None:
    """An empty fabric is exit code 3, with what to do."""
    code, out, err = ended(start("peers", "--wait", "0"))
    assert (code, out) == (3, "")
    assert "nobody else is in fabric 'cli'" in err
    assert "`peerfabric doctor` finds out" in err


def test_bench_prints_figures(start: Start) -> None:
    """Rates and times come out as numbers above zero."""
    code, out, err = ended(start("bench", "--seconds", "0.1", "-o", "json"))
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["messages"] > 0
    assert all(value > 0 for value in figures.values())


def test_tracebacks_of_multicast_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is blocked, zeroconf writes one for each socket."""
    monkeypatch.setattr(logging.getLogger("zeroconf"), "level", logging.WARNING)
    CliRunner().invoke(cli, ["id", "/nowhere"])
    assert not logging.getLogger("zeroconf").isEnabledFor(logging.ERROR)


def test_help_and_docs_name_every_command_and_exit_code(start: Start) -> None:
    """What --help says is said in docs/command-line.md as well."""
    code, out, _ = ended(start("--help"))
    assert code == 0
    text = DOCS.read_text()
    for command in (
        "demo",
        "keygen",
        "id",
        "peers",
        "ping",
        "doctor",
        "send",
        "take",
        "pub",
        "sub",
        "top",
        "queues",
        "topics",
        "pause",
        "resume",
        "purge",
        "tap",
        "trace",
        "check",
        "stacks",
        "spool",
        "dead",
        "bench",
    ):
        assert command in out
        assert f"peerfabric {command}" in text
    for number in ("0", "1", "2", "3", "4", "5", "130", "141"):
        assert re.search(rf"^ +{number} ", out, re.MULTILINE)
        assert f"| {number} |" in text
    assert ended(start("--version"))[1] == f"peerfabric, version {__version__}\n"
