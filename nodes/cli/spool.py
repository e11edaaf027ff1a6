"""`peerfabric spool`: look into the spool of a node that is not running, check it, take things out of it."""

from __future__ import annotations

from itertools import islice

import click

from peerfabric.nodes.cli.common import output_option
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.offline import confirmed, folder_argument, kept, log_of, looked_at, name_of, owned, when
from peerfabric.nodes.cli.output import Form, print_line, print_table, to_json
from peerfabric.spool import Log


@click.group()
def spool() -> None:
    """The messages that a node has left on disk. Its node must not be running."""


@spool.command()
@folder_argument
@output_option
def ls(folder: str, output: str) -> None:
    """List the queues of a spool: messages to be sent, dead letters, bytes, damage."""
    rows = []
    with looked_at(folder) as opened:
        for queue in opened.queues():
            log, dead = opened.queue(queue, unix_ms=0), opened.dead(queue, unix_ms=0)
            oldest = next((message.sent_at for message in kept(opened, queue)), None)
            damaged = sum(stop - start for _, start, stop in (*log.recovery.damaged, *dead.recovery.damaged))
            size = log.used_bytes + dead.used_bytes
            rows.append((queue, log.unsettled_count, dead.unsettled_count, size, damaged, oldest))
    columns = ("queue", "messages", "dead", "bytes", "damaged", "oldest")
    if Form(output) is Form.JSON:
        for row in rows:
            print_line(to_json(dict(zip(columns, row, strict=True))))
        return
    texts = [[queue, *(f"{n:,}" for n in counts), when(oldest) if oldest else ""] for queue, *counts, oldest in rows]
    print_table("", columns, texts)


@spool.command()
@folder_argument
@click.argument("queue")
@click.option("-n", "--count", type=click.IntRange(min=0), default=20, show_default=True, help="How many; 0: all.")
@output_option
def show(folder: str, queue: str, count: int, output: str) -> None:
    """Show messages of QUEUE that wait to be sent, oldest first."""
    with looked_at(folder) as opened:
        messages = islice(kept(opened, queue), count or None)
        if Form(output) is Form.JSON:
            for message in messages:
                print_line(to_json(message))
        else:
            rows = [[m.id, when(m.sent_at), f"{m.bytes:,}", to_json(m.body)[:200]] for m in messages]
            print_table("", ("id", "sent (UTC)", "bytes", "body"), rows)


@spool.command()
@folder_argument
def verify(folder: str) -> None:
    """Read every byte of a spool and say what is damaged, by number; exit code 1 if anything is."""
    found = 0
    with looked_at(folder) as opened:
        for queue in opened.queues():
            for kind, log in (
                ("", opened.queue(queue, unix_ms=0)),
                ("dead letters of ", opened.dead(queue, unix_ms=0)),
            ):
                for line in _findings(log):
                    print_line(f"{kind}{queue}: {line}")
                    found += 1
        if not found:
            print_line(f"{len(opened.queues())} queues, {opened.used_bytes:,} bytes, no damage")
    if found:
        raise Failure("what is intact is delivered all the same; keep a copy of the folder if the rest matters")


def _findings(log: Log) -> list[str]:
    recovery = log.recovery
    lost = [f"lost: sequences {start}-{stop - 1} of epoch {epoch}" for epoch, start, stop in recovery.damaged]
    return [*recovery.torn, *recovery.problems, *lost]


@spool.command()
@folder_argument
@click.argument("queue")
def export(folder: str, queue: str) -> None:
    """Write the messages of QUEUE to standard output, one JSON object a line; nothing is removed."""
    with looked_at(folder) as opened:
        for message in kept(opened, queue):
            print_line(to_json(message))


@spool.command()
@folder_argument
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All messages of the queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(folder: str, queue: str, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Take messages out of QUEUE for ever, by their ids or all."""
    if everything == bool(ids):
        raise click.UsageError("name the ids to drop, or give --all")
    wanted = {name_of(identity) for identity in ids}
    if any(of != queue for of, _, _ in wanted):
        raise click.UsageError(f"an id of another queue than {queue!r}; drop it there")
    with looked_at(folder) as opened:
        present = [name_of(message.id) for message in kept(opened, queue)]
    chosen = [name for name in present if everything or name in wanted]
    if len(chosen) < len(wanted):
        raise Failure(f"{len(wanted) - len(chosen)} of these ids are not in the queue; see `peerfabric spool show`")
    confirmed(f"Drop {len(chosen):,} messages of {queue} for ever?", yes=yes)
    with owned(folder) as opened:
        log = log_of(opened, queue)
        for _, epoch, sequence in chosen:
            log.settle(epoch, sequence, sequence + 1)
        log.write_cursor(log.recovery.marks)
    print_line(f"{len(chosen):,} messages dropped")
