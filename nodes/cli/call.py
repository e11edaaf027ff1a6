"""`peerfabric call`: ask a service, and print its reply."""

from __future__ import annotations

from typing import Any

import click

from peerfabric.nodes.cli.bodies import body_from_argument
from peerfabric.nodes.cli.common import Settings, joins_fabric, timeout_option
from peerfabric.nodes.cli.output import print_line, to_json


@click.command()
@click.argument("service")
@click.argument("body")
@timeout_option("10", "For the reply, or for each of its parts; 'none': as long as the server lives.")
@click.option("--server", metavar="NODE", help="The id or the name of the node that is to answer.  [default: any]")
@joins_fabric
def call(service: str, body: str, timeout: float | None, server: str | None, settings: Settings) -> None:
    """Ask SERVICE with BODY, which is JSON, and print its reply as JSON; of one in parts, a line for each.

    It is asked once, and not again if the server is lost.
    """
    question = body_from_argument(body)
    with settings.node() as node:
        reply_type: Any = Any
        for part in node.stream(service, question, reply_type=reply_type, timeout=timeout, server=server):
            print_line(to_json(part))
