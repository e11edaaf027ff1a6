"""`peerfabric peers`: who is there, as a node that has just joined sees it."""

from __future__ import annotations

import time

import click

from peerfabric.nodes.cli.common import Settings, joins_fabric
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.output import Form, print_line, print_table, to_json
from peerfabric.reports import PeerView

COLUMNS = ("name", "state", "endpoint", "consumes", "produces", "subscribes", "publishes")


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
def peers(wait: float, settings: Settings) -> None:
    """List the other nodes of the fabric, and what each consumes, produces, subscribes to and publishes."""
    with settings.node() as node:
        node.look_at_all()
        time.sleep(wait)
        found = sorted(node.peers(), key=lambda peer: (peer.name, peer.node_id))
        fabric = node.fabric
    if settings.output is Form.JSON:
        for peer in found:
            print_line(to_json(peer))
    elif found:
        print_table("", COLUMNS, [_row(peer) for peer in found])
    if not found:
        raise Failure(
            f"nobody else is in fabric {fabric!r}; start a node, name another --fabric, or name one of its nodes "
            f"with --peer",
            Exit.NOTHING,
        )


def _row(peer: PeerView) -> list[str]:
    lists = (peer.consumes, peer.produces, peer.subscribes, peer.publishes)
    return [peer.name, peer.state, peer.endpoint, *(" ".join(names) for names in lists)]
