"""`peerfabric queues`: one row for each queue, over all nodes."""

from __future__ import annotations

import time

import click

from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.look import Look, Looking, looks_around
from peerfabric.nodes.cli.host.rows import QueueRow, queue_rows
from peerfabric.nodes.cli.host.text import short_age, short_number, short_rate
from peerfabric.nodes.cli.output import print_numbers, printable

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
@click.argument("queue", required=False)
@interval_option
@looks_around
def queues(queue: str | None, interval: float, looking: Looking) -> None:
    """List queues over all nodes, or only QUEUE: what waits and how long, what is in flight, rates, dead letters.

    "flight" is with consumers, "disk" only in spools; "oldest" is the age of the oldest that waits, "longest" for how
    long user code has had a message. "redel" counts second deliveries since the start of the nodes. Nothing is taken.
    """
    with looking.joined():
        before, look = two_looks(looking, interval)
    rows = queue_rows(look.places, before.places if before else None)
    if queue is not None:
        rows = [row for row in rows if row.queue == queue]
    print_numbers(looking.output, COLUMNS, rows, lambda row: queue_cells(row, several_fabrics=look.several_fabrics))
    if not rows:
        if not look.places:
            looking.nobody(look)
        look.tell()
        there = f"queue {queue!r}" if queue is not None else "a queue"
        raise Failure(f"no node that answers has {there}; `peerfabric peers` shows what nodes use", Exit.NOTHING)
    look.tell()


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
        short_age(row.oldest),
        short_age(row.longest or None),
        short_number(row.consumers),
        short_rate(row.in_rate),
        short_rate(row.out_rate),
        short_number(row.redelivered),
        short_number(row.dead),
    ]
