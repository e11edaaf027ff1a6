"""`peerfabric queues`: one row for each queue, over all nodes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import click

from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.completion import queues_there
from peerfabric.nodes.cli.host.look import Look, Looking, looks_around
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.host.rows import QueueRow, queue_rows, sent_queues, taken_queues
from peerfabric.nodes.cli.host.text import short_age, short_number, short_rate
from peerfabric.nodes.cli.output import Form, print_numbers, print_wrapped, printable

COLUMNS = ("queue", "waiting", "flight", "disk", "oldest", "longest", "cons", "in/s", "out/s", "redel", "dead")

interval_option = click.option(
    "--interval",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Between the two looks that rates are of; 0: one look, without rates.",
)


@click.command()
@click.argument("queue", required=False, shell_complete=queues_there)
@interval_option
@looks_around
def queues(queue: str | None, interval: float, looking: Looking) -> None:
    """List queues over all nodes, or only QUEUE: what waits and how long, what is in flight, rates, dead letters.

    "flight" is with consumers, "disk" only in spools; "oldest" is the age of the oldest that waits, "longest" for how
    long user code has had a message. "redel" counts second deliveries since the start of the nodes. Nothing is taken.
    "delayed" in place of an age: all that waits does so for its next attempt. Of QUEUE, who produces and who consumes
    is named.
    """
    with looking.joined():
        before, look = two_looks(looking, interval)
    rows = queue_rows(look.places, before.places if before else None)
    near = did_you_mean(queue, (row.queue for row in rows)) if queue is not None else ""
    if queue is not None:
        rows = [row for row in rows if row.queue == queue]
    print_numbers(looking.output, COLUMNS, rows, lambda row: queue_cells(row, several_fabrics=look.several_fabrics))
    if queue is not None and looking.output is Form.TABLE:
        for row in rows:
            of = f" in {row.fabric}" if len(rows) > 1 else ""
            for what, names in (("producers", row.producer_names), ("consumers", row.consumer_names)):
                print_wrapped(f"{what}{of}: {', '.join(_with_pids(row, names, look, what)) or 'none'}")
    if not rows:
        if not look.places:
            looking.nobody(look)
        look.tell()
        there = f"queue {queue!r}{near}" if queue is not None else "a queue"
        raise Failure(f"no node that answers has {there}; `peerfabric peers` shows what nodes use", Exit.NOTHING)
    look.tell()


def _with_pids(row: QueueRow, names: Sequence[str], look: Look, what: str) -> list[str]:
    """The names of nodes, with the processes of those that have answered."""
    pids: dict[str, list[int]] = defaultdict(list)
    for process, node, _ in look.places:
        if node.fabric == row.fabric and row.queue in (
            sent_queues(node) if what == "producers" else taken_queues(node)
        ):
            pids[node.name].append(process.pid)
    return [f"{printable(name)} ({pids[name].pop(0)})" if pids[name] else printable(name) for name in names]


def two_looks(looking: Looking, interval: float) -> tuple[Look | None, Look]:
    """Two looks, that long apart; with 0 only the second one."""
    if not interval:
        return None, looking.look()
    before = looking.look()
    time.sleep(interval)
    return before, looking.look()


def queue_cells(row: QueueRow, *, several_fabrics: bool) -> list[str]:
    """A row of a table with `COLUMNS`."""
    name = f"{row.fabric}/{row.queue}" if several_fabrics else row.queue
    if row.paused:
        name += " (paused)"
    return [
        printable(name),
        short_number(row.waiting),
        short_number(row.in_flight),
        short_number(row.on_disk),
        "delayed" if row.delayed else short_age(row.oldest),
        short_age(row.longest or None),
        short_number(row.consumers),
        short_rate(row.in_rate),
        short_rate(row.out_rate),
        short_number(row.redelivered),
        short_number(row.dead),
    ]
