"""`peerfabric topics`: one row for each topic that is published, and each pattern that is subscribed to."""

from __future__ import annotations

import click

from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.look import Looking, looks_around
from peerfabric.nodes.cli.host.queues import interval_option, two_looks
from peerfabric.nodes.cli.host.rows import TopicRow, topic_rows
from peerfabric.nodes.cli.host.text import short_bytes, short_number, short_rate
from peerfabric.nodes.cli.output import print_numbers, printable

COLUMNS = ("topic", "pubs", "published", "out/s", "subs", "received", "in/s", "missed", "late", "behind")


@click.command()
@interval_option
@looks_around
def topics(interval: float, looking: Looking) -> None:
    """List the topics that are published and the patterns that are subscribed to.

    "subs" is how many subscribers publishers know of, or subscriptions by this pattern. What follows is about these:
    updates received and missed since their start, and bytes that are "behind", which nobody has taken yet.
    """
    with looking.joined():
        before, look = two_looks(looking, interval)
    rows = topic_rows(look.places, before.places if before else None)
    print_numbers(looking.output, COLUMNS, rows, lambda row: _cells(row, several_fabrics=look.several_fabrics))
    if not rows:
        if not look.places:
            looking.nobody(look)
        look.tell()
        raise Failure("no node that answers publishes or subscribes to anything; see `peerfabric peers`", Exit.NOTHING)
    look.tell()


def _cells(row: TopicRow, *, several_fabrics: bool) -> list[str]:
    published = [str(row.publishers), short_number(row.published), short_rate(row.out_rate)]
    received = [short_number(row.received), short_rate(row.in_rate), short_number(row.missed), short_number(row.late)]
    return [
        printable(f"{row.fabric}/{row.topic}" if several_fabrics else row.topic),
        *(published if row.publishers else ("", "", "")),
        short_number(max(row.subscribers, row.subscriptions)),
        *(received if row.subscriptions else ("", "", "", "")),
        short_bytes(row.behind) if row.subscriptions else "",
    ]
