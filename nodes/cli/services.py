"""`peerfabric services`: what is served in the fabric, by whom, and how busy they are."""

from __future__ import annotations

import time

import click

from peerfabric.nodes.cli.common import Settings, joins_fabric
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.output import print_found, printable
from peerfabric.reports import ServiceView

COLUMNS = ("service", "servers", "calls", "at once", "nodes")


@click.command()
@click.option(
    "--timeout",
    "--wait",
    "wait",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="How long to look around.",
)
@joins_fabric
def services(wait: float, settings: Settings) -> None:
    """List the services of the fabric: who answers them, how many calls run or wait there, how many run at once.

    Servers tell how busy they are with each reply, so that is known of those only that this node has asked.
    """
    with settings.node() as node:
        node.look_at_all()
        node.services()
        time.sleep(wait)
        found = node.services()
        fabric = node.fabric
    print_found(settings.output, COLUMNS, found, _row)
    if not found:
        raise Failure(
            f"nobody serves anything in fabric {fabric!r}; start a node that does, name another --fabric, or see who "
            f"is there with `peerfabric peers`",
            Exit.NOTHING,
        )


def _row(service: ServiceView) -> list[str]:
    names = " ".join(sorted(server.name or server.node_id for server in service.servers))
    numbers = (len(service.servers), service.load, service.capacity)
    return [printable(service.name), *map(str, numbers), printable(names)]
