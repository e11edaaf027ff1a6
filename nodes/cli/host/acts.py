"""`peerfabric pause`, `resume` and `purge`: what running nodes do with a queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click

from peerfabric.errors import counted
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.completion import queue_argument
from peerfabric.nodes.cli.host.door import ask_all
from peerfabric.nodes.cli.host.look import Look, Looking, looks
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.host.rows import queue_rows, sent_queues, taken_queues
from peerfabric.nodes.cli.offline import confirmed, yes_option
from peerfabric.nodes.cli.output import Form, print_line, printable, to_json


@click.command()
@queue_argument
@looks
def pause(queue: str, looking: Looking) -> None:
    """Let no consumer of QUEUE on this host get more, until `resume` or its restart.

    Messages that were not started go back to their producers, which give them to others. What runs goes on.
    """
    _at_consumers("pause", queue, looking)


@click.command()
@queue_argument
@looks
def resume(queue: str, looking: Looking) -> None:
    """Let the consumers of QUEUE on this host get messages again."""
    _at_consumers("resume", queue, looking)


def _at_consumers(do: str, queue: str, looking: Looking) -> None:
    look = looking.look()
    fabric = look.one_fabric(queue)
    asked = ask_all(look.those_with(queue, takes=True), do, queue=queue, fabric=fabric)
    nodes = [node for node in asked.items("nodes") if node.get("done")]
    asked.told()
    if not nodes:
        _nobody(look, looking, queue, "consumes", asked.problems)
    if looking.output is Form.JSON:
        for node in nodes:
            print_line(to_json({"queue": queue, "did": do, **node}))
        return
    names = ", ".join(printable(str(node.get("node"))) for node in nodes)
    state = "paused" if do == "pause" else "resumed"
    print_line(f"{queue}: {state} at {counted(len(nodes), 'consumer')}: {names}")


@click.command()
@queue_argument
@yes_option
@looks
def purge(queue: str, yes: bool, looking: Looking) -> None:
    """Drop what waits in QUEUE at all producers of this host, for ever; with a spool on disk, too.

    What consumers have goes on. Dropped messages are counted as `dropped`, and senders that wait for them are told.
    """
    look = looking.look()
    fabric = look.one_fabric(queue)
    rows = [row for row in queue_rows(look.places) if (row.fabric, row.queue) == (fabric, queue)]
    waiting = sum(row.depth for row in rows)
    confirmed(f"Drop {counted(waiting, 'message')} that {'waits' if waiting == 1 else 'wait'} in {queue}?", yes=yes)
    asked = ask_all(look.those_with(queue, takes=False), "purge", queue=queue, fabric=fabric)
    senders = {node.node_id for _, node, _ in look.places if queue in sent_queues(node)}
    nodes = [node for node in asked.items("nodes") if node.get("purged") or node.get("node_id") in senders]
    asked.told()
    if not nodes:
        _nobody(look, looking, queue, "sends to", asked.problems)
    if looking.output is Form.JSON:
        for node in nodes:
            print_line(to_json({"queue": queue, "did": "purge", **node}))
        return
    dropped = sum(int(node.get("purged", 0)) for node in nodes)
    print_line(f"{queue}: {counted(dropped, 'message')} dropped at {counted(len(nodes), 'producer')}")


def _nobody(look: Look, looking: Looking, queue: str, does: str, problems: Sequence[str]) -> NoReturn:
    if not look.places and not problems:
        looking.nobody(look)
    near = did_you_mean(queue, (name for _, node, _ in look.places for name in sent_queues(node) | taken_queues(node)))
    there = f"no node that answers on this host {does} {queue!r}{near}"
    if problems:
        who = "a process that" if len(problems) == 1 else f"{len(problems)} processes that"
        raise Failure(f"{there}; {who} did not answer may: nothing was done there", Exit.NOTHING)
    raise Failure(f"{there}; see `peerfabric queues`, or do it on the hosts that do", Exit.NOTHING)
