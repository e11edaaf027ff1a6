"""Main of the `peerfabric` command."""

from __future__ import annotations

import logging
from typing import Any

import click

from peerfabric import __version__
from peerfabric.nodes.cli.bench import bench
from peerfabric.nodes.cli.call import call
from peerfabric.nodes.cli.common import Listed
from peerfabric.nodes.cli.dead import dead
from peerfabric.nodes.cli.demo import demo
from peerfabric.nodes.cli.doctor import doctor
from peerfabric.nodes.cli.exits import EXPLANATION, end_on_signals, explained
from peerfabric.nodes.cli.gateway import gateway
from peerfabric.nodes.cli.host.acts import pause, purge, resume
from peerfabric.nodes.cli.host.check import check
from peerfabric.nodes.cli.host.queues import queues
from peerfabric.nodes.cli.host.stacks import stacks
from peerfabric.nodes.cli.host.tap import tap
from peerfabric.nodes.cli.host.top import top
from peerfabric.nodes.cli.host.topics import topics
from peerfabric.nodes.cli.host.trace import trace
from peerfabric.nodes.cli.id import identify
from peerfabric.nodes.cli.keygen import keygen
from peerfabric.nodes.cli.peers import peers
from peerfabric.nodes.cli.ping import ping
from peerfabric.nodes.cli.send import send
from peerfabric.nodes.cli.services import services
from peerfabric.nodes.cli.spool import spool
from peerfabric.nodes.cli.take import take
from peerfabric.nodes.cli.topics import pub, sub
from peerfabric.nodes.cli.ui import ui


class Commands(Listed):
    """The commands, whose errors end in one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        with explained():
            return super().invoke(ctx)


@click.group(cls=Commands, epilog=EXPLANATION, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="peerfabric")
def cli() -> None:
    """Messages straight between processes: look, try, and measure from a terminal.

    Bodies are JSON here. `peerfabric COMMAND --help` says more about a command.
    """
    # It writes tracebacks where a socket cannot send; what that means is said by the node, or by doctor.
    logging.getLogger("zeroconf").setLevel(logging.CRITICAL)


COMMANDS = (
    (demo, keygen, identify, peers, ping, doctor),
    (send, take, pub, sub, call, services),
    (top, queues, topics, pause, resume, purge, tap, trace, check, stacks),
    (spool, dead, gateway, ui, bench),
)
for command in (command for group in COMMANDS for command in group):
    cli.add_command(command)


def main() -> None:
    """The entry point."""
    end_on_signals()
    cli(prog_name="peerfabric")


if __name__ == "__main__":
    main()
