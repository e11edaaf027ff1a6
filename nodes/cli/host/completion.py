"""Names for the completion of a shell: of queues, topics, services, nodes and processes that run here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from peerfabric.errors import FabricError
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.rows import Place, places, sent_queues, taken_queues
from peerfabric.nodes.settings import FABRIC_VARIABLE

WAIT = 0.3
"""Seconds: somebody waits at a prompt."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def there(ctx: click.Context) -> list[Place]:
    """The nodes that answer, of the fabric that the command is about; none if nobody can be asked."""
    fabric = ctx.params.get("fabric") or os.environ.get(FABRIC_VARIABLE) or None
    try:
        heard = list(door.answers(WAIT))
    except (FabricError, OSError):
        return []
    return places(((each.status, each.at) for each in heard if each.status is not None), fabric)


def _names(*kinds: Callable[[Place], Iterable[str]]) -> Complete:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = {name for place in there(ctx) for kind in kinds for name in kind(place)}
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]

    return complete


def _queues(place: Place) -> set[str]:
    return sent_queues(place.node) | taken_queues(place.node)


def _topics(place: Place) -> list[str]:
    return [publishing.topic for publishing in place.node.publishes]


def _patterns(place: Place) -> list[str]:
    return [subscribing.pattern for subscribing in place.node.subscribes]


def used(found: Iterable[Place]) -> set[str]:
    """Queues, topics and patterns of nodes."""
    return {name for place in found for kind in (_queues, _topics, _patterns) for name in kind(place)}


queues_there = _names(_queues)
topics_there = _names(_topics, _patterns)
queues_and_topics_there = _names(_queues, _topics, _patterns)
services_there = _names(lambda place: [account.service for account in place.node.serves])
nodes_there = _names(lambda place: [place.node.name])


def pids_there(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Processes, those that are silent included, with the names of their nodes."""
    try:
        heard = list(door.answers(WAIT, queues=1))
    except (FabricError, OSError):
        return []
    return [
        CompletionItem(str(each.pid), help=each.name)
        for each in sorted(heard, key=lambda each: each.pid)
        if str(each.pid).startswith(incomplete)
    ]


queue_argument = click.argument("queue", shell_complete=queues_there)
