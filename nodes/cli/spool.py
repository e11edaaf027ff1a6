"""`peerfabric spool`: look into the spool of a node that is not running, check it, take things out of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import click
import msgspec

from peerfabric.errors import NewerFormat, SpoolError, SpoolUnsafe
from peerfabric.nodes.cli.common import output_option
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.offline import (
    Shown,
    Stored,
    check_choice,
    confirmed,
    dead_letters_of,
    folder_argument,
    hint_damage,
    looked_at,
    messages,
    messages_of,
    oldest_ms,
    owned,
    parse_id,
    say_found,
    settle_on_disk,
    shown,
    unsettled,
    warn,
    when,
    yes_option,
)
from peerfabric.nodes.cli.output import Form, print_line, print_table, printable, to_json
from peerfabric.ranges import Ranges
from peerfabric.spool import Log, RealFiles, Spool
from peerfabric.spool.cursor import CURSOR_BYTES, MARKS_BYTES_MAX
from peerfabric.spool.folder import read_owner
from peerfabric.spool.format import CURSOR_MAGIC, decode_sheet


@click.group()
def spool() -> None:
    """The messages that a node has left on disk. Its node must not be running.

    FOLDER is what was given to Node(spool=). Only `drop` writes. While a command looks, no node can start with it.
    """


@spool.command()
@folder_argument
@output_option
def ls(folder: str, output: str) -> None:
    """List the queues of a spool: messages to be sent, dead letters, bytes, damage."""
    rows = []
    with looked_at(folder) as opened:
        for queue in opened.queues():
            log, dead = messages_of(opened, queue), dead_letters_of(opened, queue)
            hint_damage(queue, log, dead)
            damaged = sum(stop - start for _, start, stop in (*log.recovery.damaged, *dead.recovery.damaged))
            size = log.used_bytes + dead.used_bytes
            rows.append((queue, log.unsettled_count, dead.unsettled_count, size, damaged, oldest_ms(log)))
    if Form(output) is Form.JSON:
        for queue, count, letters, size, damaged, oldest in rows:
            seconds = oldest / 1000 if oldest is not None else None
            values = (queue, count, letters, size, damaged, seconds)
            names = ("queue", "messages", "dead", "bytes", "damaged", "oldest")
            print_line(to_json(dict(zip(names, values, strict=True))))
        return
    texts = [
        [queue, *(f"{n:,}" for n in counts), when(oldest) if oldest is not None else ""]
        for queue, *counts, oldest in rows
    ]
    print_table("", ("queue", "messages", "dead", "bytes", "damaged", "oldest (UTC)"), texts)


@spool.command()
@folder_argument
@click.argument("queue")
@click.option("-n", "--count", type=click.IntRange(min=0), default=20, show_default=True, help="How many; 0: all.")
@output_option
def show(folder: str, queue: str, count: int, output: str) -> None:
    """Show messages of QUEUE that wait to be sent, oldest first; bytes are base64."""
    rows = []
    with looked_at(folder) as opened:
        log = messages_of(opened, queue)
        hint_damage(queue, log)
        for message in islice(messages(opened, queue, log), count or None):
            body = shown(message.element, message.frame)
            if Form(output) is Form.JSON:
                print_line(_line(message, body))
            else:
                headers = printable(to_json(message.headers)) if message.headers else ""
                rows.append([message.id, when(message.sent_ms), f"{body.size:,}", headers, body.short()])
        more = log.unsettled_count - count if count else 0
    if Form(output) is Form.TABLE:
        print_table("", ("id", "sent (UTC)", "bytes", "headers", "body"), rows)
        if more > 0:
            warn(f"{more:,} more are not shown; -n 0 shows all")


def _line(message: Stored, body: Shown) -> str:
    fields = {
        "id": message.id,
        "sent_at": message.sent_ms / 1000,
        "bytes": body.size,
        "headers": message.headers,
    }
    if message.extra is not None and message.extra.origin:
        fields["origin"] = message.extra.origin
    return to_json(fields | body.fields())


@spool.command()
@folder_argument
@click.argument("queue")
def export(folder: str, queue: str) -> None:
    """Write the messages of QUEUE to standard output, one JSON object a line; nothing is removed.

    To send their bodies anew: peerfabric spool export FOLDER QUEUE | jq -c .body | peerfabric send QUEUE -
    """
    inexact = unreadable = 0
    with looked_at(folder) as opened:
        log = messages_of(opened, queue)
        hint_damage(queue, log)
        for message in messages(opened, queue, log):
            body = shown(message.element, message.frame)
            inexact += not body.exact
            unreadable += bool(body.problem)
            print_line(_line(message, body))
    if inexact:
        warn(f'{inexact:,} bodies have parts that JSON has no word for (bytes, dates, NaN): they say "exact":false')
    if unreadable:
        raise Failure(f'{unreadable:,} bodies cannot be read; they say why in "problem", and "raw" has their bytes')


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as it was written.

    found    "lost" (messages `first` to `last` of `epoch`), or "damage" or "torn" (`text` has file and offset)
    """

    queue: str
    log: str
    found: str
    text: str
    epoch: int = 0
    first: int = 0
    last: int = 0


@spool.command()
@folder_argument
@output_option
def verify(folder: str, output: str) -> None:
    """Read every byte of a spool and say what is damaged, by number; exit code 1 if anything is.

    Where the end of what an earlier start wrote is damaged, one number stands for all that were there.
    """
    found = 0
    with looked_at(folder) as opened:
        for finding in _findings(opened):
            found += 1
            print_line(to_json(finding) if Form(output) is Form.JSON else printable(finding.text))
        if not found and Form(output) is Form.TABLE:
            print_line(f"{len(opened.queues()):,} queues, {opened.used_bytes:,} bytes, no damage")
    if found:
        raise Failure("what is intact is delivered all the same; keep a copy of the folder if the rest matters")


def _findings(opened: Spool) -> Iterator[Finding]:
    if read_owner(RealFiles(), opened.folder) is None:
        text = f"{opened.folder}/node: offset 0: is lost or damaged; the next start takes the node's id from segments"
        yield Finding("", "", "damage", text)
    for queue in opened.queues():
        for name, open_log in (("messages", messages_of), ("dead letters", dead_letters_of)):
            try:
                log = open_log(opened, queue)
            except (NewerFormat, SpoolUnsafe):
                raise
            except SpoolError as error:
                yield Finding(queue, name, "damage", str(error))  # the others can still be read
            else:
                yield from _findings_in(queue, name, log)


def _findings_in(queue: str, name: str, log: Log) -> Iterator[Finding]:
    for epoch, first, stop in log.recovery.damaged:
        text = f"{queue}: lost {name}: sequences {first}-{stop - 1} of epoch {epoch}"
        yield Finding(queue, name, "lost", text, epoch, first, stop - 1)
    for text in log.recovery.problems:
        yield Finding(queue, name, "damage", text)
    for text in log.recovery.torn:
        yield Finding(queue, name, "torn", text)
    for side in (0, 1):
        path = f"{log.folder}/cursor.{side}"
        if not _cursor_is_whole(path):
            text = f"{path}: offset 0: is damaged; what was settled last may be sent again"
            yield Finding(queue, name, "damage", text)


def _cursor_is_whole(path: str) -> bool:
    """Whether a file of a cursor was never written, or is intact."""
    files = RealFiles()
    try:
        descriptor = files.open(path, write=False)
    except FileNotFoundError:
        return True
    try:
        data = files.read(descriptor, 0, min(files.size(descriptor), CURSOR_BYTES + MARKS_BYTES_MAX))
    finally:
        files.close(descriptor)
    return not data.strip(b"\0") or decode_sheet(CURSOR_MAGIC, data, path) is not None


@spool.command()
@folder_argument
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All messages of the queue.")
@yes_option
def drop(folder: str, queue: str, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Take messages out of QUEUE for ever, by their ids or all.

    A consumer that had one in hand when its producer ended may still process it.
    """
    check_choice(ids, everything=everything)
    with looked_at(folder) as opened:
        there = unsettled(messages_of(opened, queue))
        chosen = there if everything else _chosen(opened, queue, there, ids)
    count = sum(ranges.total for ranges in chosen.values())
    dropped = 0
    if count:
        confirmed(f"Drop {count:,} messages of {queue} for ever?", yes=yes)
        with owned(folder, opened.node_id) as ours:
            log = messages_of(ours, queue)
            say_found(queue, log)
            before = log.unsettled_count
            for epoch, ranges in chosen.items():
                for start, stop in ranges:
                    log.settle(epoch, start, stop)
            dropped = before - log.unsettled_count
            settle_on_disk(log)
    print_line(f"{dropped:,} messages dropped")


def _chosen(opened: Spool, queue: str, there: dict[int, Ranges], ids: tuple[str, ...]) -> dict[int, Ranges]:
    found: dict[int, Ranges] = {}
    for identity in ids:
        of, epoch, sequence = parse_id(opened, identity, f"`peerfabric spool show FOLDER {queue}`")
        if of != queue:
            raise click.UsageError(f"{identity} is of another queue than {queue!r}; drop it there")
        if sequence not in there.get(epoch, ()):
            raise Failure(f"{identity} is not in the queue; see `peerfabric spool show`")
        found.setdefault(epoch, Ranges()).add(sequence, sequence + 1)
    return found
