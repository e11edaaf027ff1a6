"""`peerfabric send`: put messages into a queue and wait until they are processed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click
import msgspec

from peerfabric.errors import TimedOut, Undelivered, counted
from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.blocking.producer import Producer
from peerfabric.nodes.cli.bodies import bodies
from peerfabric.nodes.cli.common import Settings, all_peers, joins_fabric, timeout_option
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.completion import queues_there
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.output import Form, print_line, to_json
from peerfabric.reports import QueueAccount


@click.command()
@click.argument("queue", shell_complete=queues_there)
@click.argument("body", default="-")
@click.option("--ttl", metavar="SECONDS", type=float, help="Give up what nobody was handed within this time.")
@timeout_option("30", "Without any progress, until it gives up; 'none': never.")
@joins_fabric
def send(queue: str, body: str, ttl: float | None, timeout: float | None, settings: Settings) -> None:
    """Send BODY, which is JSON, to QUEUE; '-', or none: each line of standard input.

    Returns when consumers have processed everything. Until then the messages live in this command only: nothing
    keeps them when it gives up.
    """
    with settings.node() as node:
        producer = node.producer(queue, Any)
        failure: Failure | None = None
        try:
            for item in bodies(body):
                producer.send(item, ttl=ttl, timeout=timeout)
        except Failure as error:
            failure = error  # the lines before the bad one are on their way: see them through
        _settle(node, producer, timeout)
        account = _account(node)
        reasons = sorted({f"{letter.reason}: {letter.error}" for letter in node.dead_letters(queue)})
    _report(account, settings.output)
    if failure is not None:
        raise failure
    if account.expired:
        raise Failure(
            f"queue {queue!r}: {account.expired:,} of {counted(account.accepted, 'message')} expired before a consumer "
            f"was handed them; start more consumers, or give a longer --ttl"
        )
    if account.dead_lettered:
        raise Failure(
            f"queue {queue!r}: {account.dead_lettered:,} of {counted(account.accepted, 'message')} given up "
            f"({'; '.join(reasons[:3])}); look at the consumers' logs and send them again"
        )


def _settle(node: Node, producer: Producer[Any], timeout: float | None) -> None:
    """Wait until everything is settled, as long as something happens every `timeout` seconds.

    Raises:
        Failure: Nothing did; the text says how much is left and whether anybody consumes.
    """
    while True:
        before = _account(node)
        try:
            producer.flush(timeout)
            return
        except TimedOut:
            after = _account(node)
            if after.acked + after.dead_lettered + after.expired > before.acked + before.dead_lettered + before.expired:
                continue
            why = _why(node, producer.queue, after, timeout)
            with suppress(Undelivered):  # as `why` says in more detail
                node.close(timeout=0)
            raise Failure(why, Exit.NOTHING) from None


def _why(node: Node, queue: str, account: QueueAccount, timeout: float | None) -> str:
    left = account.waiting + account.in_flight
    consumers = sorted(peer.name for peer in node.peers() if queue in peer.consumes)
    if not consumers:
        near = did_you_mean(queue, (name for peer in all_peers(node) for name in peer.consumes))
        return (
            f"nobody consumes queue {queue!r} in fabric {node.fabric!r}{near}: {counted(left, 'message')} "
            f"not delivered, and gone; start a consumer (`peerfabric take {queue}`), or see `peerfabric peers` for who "
            f"is there"
        )
    return (
        f"queue {queue!r}: {counted(left, 'message')} not processed, and nothing happened for {timeout:g} s; "
        f"{account.in_flight:,} with {', '.join(consumers)}, which may still process that: "
        f"give a longer --timeout for slow work"
    )


def _account(node: Node) -> QueueAccount:
    return node.statistics().producers[0]


def _report(account: QueueAccount, form: Form) -> None:
    if form is Form.JSON:
        print_line(to_json(msgspec.structs.asdict(account)))
    else:
        print_line(f"{account.acked:,} of {counted(account.accepted, 'message')} processed")
