"""`peerfabric call`: ask a service, and print its reply."""

from __future__ import annotations

from typing import Any

import click

from peerfabric.errors import NoServer
from peerfabric.nodes.cli.bodies import body_from_argument
from peerfabric.nodes.cli.common import Settings, all_peers, joins_fabric, timeout_option
from peerfabric.nodes.cli.exits import Exit, Failure, at_the_terminal
from peerfabric.nodes.cli.host.completion import nodes_there, services_there
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.output import print_line, to_json


@click.command()
@click.argument("service", shell_complete=services_there)
@click.argument("body")
@timeout_option("10", "For the reply, or for each of its parts; 'none': as long as the server lives.")
@click.option(
    "--server",
    metavar="NODE",
    shell_complete=nodes_there,
    help="The id or the name of the node that is to answer.  [default: any]",
)
@joins_fabric
def call(service: str, body: str, timeout: float | None, server: str | None, settings: Settings) -> None:
    """Ask SERVICE with BODY, which is JSON, and print its reply as JSON; of one in parts, a line for each.

    It is asked once, and not again if the server is lost.
    """
    question = body_from_argument(body)
    with settings.node() as node:
        reply_type: Any = Any
        try:
            for part in node.stream(service, question, reply_type=reply_type, timeout=timeout, server=server):
                print_line(to_json(part))
        except NoServer as error:
            peers = all_peers(node)
            near = did_you_mean(service, (name for peer in peers for name in peer.serves))
            near = near or did_you_mean(server or "", (peer.name for peer in peers))
            if not near:
                raise
            problem, _, step = at_the_terminal(str(error)).partition("; ")
            raise Failure(f"{problem}{near}; {step}", Exit.NOTHING) from None
