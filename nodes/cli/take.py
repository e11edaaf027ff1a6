"""`peerfabric take`: take messages from a queue, print them, ack them."""

from __future__ import annotations

from typing import Any

import click

from peerfabric.errors import TimedOut, counted
from peerfabric.nodes.cli.common import Settings, all_peers, joins_fabric, timeout_option
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.completion import queues_there
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.output import Form, print_line, to_json
from peerfabric.nodes.message import Message


@click.command()
@click.argument("queue", shell_complete=queues_there)
@click.option(
    "-n", "--count", type=click.IntRange(min=0), default=1, show_default=True, help="How many; 0: no end to it."
)
@timeout_option("none", "To wait for each; 'none': for ever.")
@joins_fabric
def take(queue: str, count: int, timeout: float | None, settings: Settings) -> None:
    """Take messages from QUEUE, print them, and ack each when it is printed.

    If whoever reads the output goes away, the message in hand goes to another consumer. With -n 0 running out of
    messages is a good end; otherwise it is exit code 3.
    """
    taken = 0
    with settings.node() as node:
        consumer = node.consumer(queue, Any)
        try:
            while count == 0 or taken < count:
                message = consumer.get(timeout)
                with message:
                    print_line(_line(message, settings.output))
                taken += 1
        except TimedOut:
            if count or not taken:
                producing = () if taken else all_peers(node)
                near = did_you_mean(queue, (name for peer in producing for name in peer.produces))
                raise Failure(
                    f"queue {queue!r}{near}: {counted(taken, 'message')} came, and then none for {timeout:g} s; "
                    f"see `peerfabric peers` for who produces",
                    Exit.NOTHING,
                ) from None


def _line(message: Message[Any], form: Form) -> str:
    if form is Form.TABLE:
        return to_json(message.body)
    return to_json(
        {
            "queue": message.queue,
            "id": message.id,
            "attempt": message.attempt,
            "sender": message.sender,
            "sent_at": message.sent_at,
            "headers": message.headers,
            "body": message.body,
        }
    )
