"""`peerfabric pub` and `peerfabric sub`: publish on topics, and print what is published."""

from __future__ import annotations

from typing import Any

import click

from peerfabric.errors import TimedOut, counted
from peerfabric.nodes.cli.bodies import bodies
from peerfabric.nodes.cli.common import Settings, joins_fabric, timeout_option
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.completion import topics_there
from peerfabric.nodes.cli.output import Form, print_line, to_json
from peerfabric.nodes.message import Update


@click.command()
@click.argument("topic", shell_complete=topics_there)
@click.argument("body")
@click.option(
    "--subscribers", type=click.IntRange(min=0), default=1, show_default=True, help="How many to wait for; 0: whoever."
)
@timeout_option("10", "To wait for them; 'none': for ever.")
@joins_fabric
def pub(topic: str, body: str, subscribers: int, timeout: float | None, settings: Settings) -> None:
    """Publish BODY, which is JSON, on TOPIC; '-': each line of standard input.

    A topic is best effort and keeps nothing: who subscribes later has missed it.
    """
    count = 0
    with settings.node() as node:
        publisher = node.publisher(topic, Any)
        if subscribers:
            publisher.ready(subscribers, timeout)
        for item in bodies(body):
            publisher.publish(item)
            count += 1
    if settings.output is Form.JSON:
        print_line(to_json({"topic": topic, "published": count}))
    else:
        print_line(f"{counted(count, 'message')} published")


@click.command()
@click.argument("pattern", shell_complete=topics_there)
@click.option(
    "-n", "--count", type=click.IntRange(min=0), default=0, show_default=True, help="How many; 0: no end to it."
)
@timeout_option("none", "To wait for each; 'none': for ever.")
@joins_fabric
def sub(pattern: str, count: int, timeout: float | None, settings: Settings) -> None:
    """Print what is published on the topics that PATTERN selects: '*' is one part of a name, a final '>' the rest.

    At the end it says on standard error how many were missed, if any. With -n 0 silence is a good end.
    """
    received = 0
    with settings.node() as node:
        subscriber = node.subscriber(pattern, Any)
        try:
            while count == 0 or received < count:
                print_line(_line(subscriber.get(timeout), settings.output))
                received += 1
        except TimedOut:
            if count or not received:
                raise Failure(
                    f"pattern {pattern!r}: {counted(received, 'update')} came, and then none for {timeout:g} s; "
                    f"see `peerfabric peers`",
                    Exit.NOTHING,
                ) from None
        finally:
            if subscriber.missed:
                click.echo(f"peerfabric: {counted(subscriber.missed, 'update')} missed", err=True)


def _line(update: Update[Any], form: Form) -> str:
    if form is Form.TABLE:
        return f"{update.topic}  {to_json(update.body)}"
    return to_json(
        {
            "topic": update.topic,
            "sequence": update.sequence,
            "sender": update.sender,
            "sent_at": update.sent_at,
            "headers": update.headers,
            "body": update.body,
        }
    )
