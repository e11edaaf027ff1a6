"""Names of queues for the completion of a shell: those of the running nodes."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem

from peerfabric.errors import FabricError
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.rows import places, sent_queues, taken_queues
from peerfabric.nodes.settings import FABRIC_VARIABLE

WAIT = 0.3
"""Seconds: somebody waits at a prompt."""


def queues_there(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Queues that begin like this, of the fabric that the command is about; none if nobody answers."""
    fabric = ctx.params.get("fabric") or os.environ.get(FABRIC_VARIABLE) or None
    try:
        heard = list(door.answers(WAIT))
    except (FabricError, OSError):
        return []
    nodes = places(((each.status, each.at) for each in heard if each.status is not None), fabric)
    names = {queue for _, node, _ in nodes for queue in sent_queues(node) | taken_queues(node)}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


queue_argument = click.argument("queue", shell_complete=queues_there)
