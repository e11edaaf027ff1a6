"""`peerfabric doctor`: what keeps nodes apart, each cause with a step to take."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from peerfabric.errors import FabricError
from peerfabric.nodes.cli.checks import here, links, network, processes
from peerfabric.nodes.cli.checks.situation import Check, Finding, Level, Situation
from peerfabric.nodes.cli.checks.system import RealSystem
from peerfabric.nodes.cli.common import output_option
from peerfabric.nodes.cli.exits import Exit, at_the_terminal
from peerfabric.nodes.cli.host.completion import nodes_there
from peerfabric.nodes.cli.output import Form, print_line, printable, to_json

CHECKS: Final[tuple[Check, ...]] = (
    here.configuration,
    processes.processes,
    processes.nodes,
    processes.spools,
    here.cryptography,
    here.interfaces,
    here.ports,
    here.limits,
    network.multicast,
    network.announced,
    network.endpoints,
    links.links,
    network.strangers,
    links.round_trips,
    links.clocks,
    here.unchecked,
)
"""In this order: each uses what those before it have found."""

_MARKS: Final = {Level.OK: "ok", Level.NOTE: "note", Level.PROBLEM: "PROBLEM", Level.UNCHECKED: "NOT CHECKED"}
_STYLES: Final = {Level.OK: "green", Level.NOTE: "yellow", Level.PROBLEM: "bold red", Level.UNCHECKED: "dim"}


@click.command()
@click.argument("peer", required=False, default="", shell_complete=nodes_there)
@click.option("--fabric", metavar="NAME", help="The fabric to look at.  [default: as configured]")
@click.option("--peer", "peers", metavar="ENDPOINT", multiple=True, help="A node to look at; repeatable.")
@click.option("--config", metavar="PATH", help="A TOML file.  [default: $PEERFABRIC_CONFIG]")
@click.option("--identity", metavar="PATH", help="A key to join with, where not every node is let in.")
@output_option
def doctor(
    peer: str, fabric: str | None, peers: tuple[str, ...], config: str | None, identity: str | None, output: str
) -> None:
    """Find out what keeps nodes apart: this host's configuration and processes, its network, each node that is known.

    PEER is the one node to ask about: its name, its id, or HOST:PORT. Nothing is changed and no root is needed; a node
    joins for some seconds. Exit code 1 if there is a problem.
    """
    system = RealSystem()
    situation = Situation(
        system=system,
        arguments={"fabric": fabric, "peers": list(peers) or None},
        path=config,
        peer=peer,
        identity=identity,
    )
    problems = 0
    form = Form(output)
    logger = logging.getLogger("peerfabric")
    logger.setLevel(logging.WARNING)
    logger.addHandler(logging.NullHandler())  # else its warnings go to stderr; those that matter are findings
    try:
        for finding in examined(situation, CHECKS):
            problems += finding.level is Level.PROBLEM
            show(finding, form)
    finally:
        system.close()
    if form is Form.TABLE:
        print_line(f"\n{problems or 'no'} problem{'s' if problems != 1 else ''} found")
    raise click.exceptions.Exit(Exit.FAILED if problems else Exit.OK)


def examined(situation: Situation, checks: tuple[Check, ...]) -> Iterator[Finding]:
    """What the checks find, one after the other; one that fails is a finding itself, and does not end the others."""
    for check in checks:
        try:
            yield from check(situation)
        except (FabricError, OSError) as error:
            step = "look at the next line; if nothing there explains it, report it"
            yield Finding(check=check.__name__, level=Level.PROBLEM, text=f"cannot be checked: {error}", step=step)


def show(finding: Finding, form: Form) -> None:
    """Print one finding; what peers have sent in it is escaped."""
    if form is Form.JSON:
        print_line(to_json(finding))
        return
    mark = f"{_MARKS[finding.level]:11}"
    text = f" {printable(finding.check)}: {printable(at_the_terminal(finding.text))}"
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if console.is_terminal:
        console.print(Text(mark, _STYLES[finding.level]) + Text(text))
    else:
        print_line(mark + text)
    if finding.step:
        print_line(f"{'':11}   → {printable(at_the_terminal(finding.step))}")
