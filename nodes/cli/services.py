"""`peerfabric services`: what is served in the fabric, by whom, and how busy they are."""

from __future__ import annotations

import time
from typing import Final

import click
import msgspec

from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.cli.common import Settings, joins_fabric
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.door import QUEUES_MAX
from peerfabric.nodes.cli.output import print_found, printable
from peerfabric.reports import ServiceView

ASK_TIMEOUT: Final = 1.0
"""Seconds for servers to tell how busy they are."""
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

    Servers are asked how busy they are; "?" stands for those that do not answer in a second.
    """
    with settings.node() as node:
        node.look_at_all()
        node.services()
        time.sleep(wait)
        found = [Service.of(view, loads) for loads in [_loads(node)] for view in node.services()]
        fabric = node.fabric
    print_found(settings.output, COLUMNS, found, _row)
    if not found:
        raise Failure(
            f"nobody serves anything in fabric {fabric!r}; start a node that does, name another --fabric, or see who "
            f"is there with `peerfabric peers`",
            Exit.NOTHING,
        )


class Server(msgspec.Struct):
    """A node that serves something; `load`: calls that run or wait there, None: it has not told."""

    node_id: str
    name: str
    capacity: int
    load: int | None
    ready: bool


class Service(msgspec.Struct):
    """A service, and the calls at those of its servers that told, None if none did."""

    name: str
    servers: list[Server]
    capacity: int
    load: int | None

    @classmethod
    def of(cls, view: ServiceView, loads: dict[tuple[str, str], int]) -> Service:
        servers = [
            Server(each.node_id, each.name, each.capacity, loads.get((each.node_id, view.name)), each.ready)
            for each in view.servers
        ]
        told = [each.load for each in servers if each.load is not None]
        return cls(view.name, servers, view.capacity, sum(told) if told else None)

    @property
    def calls(self) -> str:
        """As the table has it."""
        if self.load is None:
            return "?"
        return str(self.load) + ("+?" if any(each.load is None for each in self.servers) else "")


def _loads(node: Node) -> dict[tuple[str, str], int]:
    """Calls that run or wait, by node id and service, of the nodes that answer."""
    from peerfabric import admin

    return {
        (each.node_id, account.service): account.waiting + account.running
        for status in admin.fabric_status(node, ASK_TIMEOUT, queues=QUEUES_MAX)
        for each in status.nodes
        if not each.engine
        for account in each.serves
    }


def _row(service: Service) -> list[str]:
    names = " ".join(sorted(server.name or server.node_id for server in service.servers))
    numbers = (str(len(service.servers)), service.calls, str(service.capacity))
    return [printable(service.name), *numbers, printable(names)]
