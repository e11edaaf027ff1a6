"""`peerfabric spool`: look into the slots of a spool that no node runs with, check them, take things out of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import click
import msgspec
from msgspec.structs import replace

from peerfabric.discovery.host import runtime_folder
from peerfabric.errors import ConfigError, NewerFormat, SpoolError, SpoolLocked, SpoolUnsafe, counted
from peerfabric.nodes.cli.common import Listed, output_option
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.host.rows import Place as RunningPlace
from peerfabric.nodes.cli.host.rows import places
from peerfabric.nodes.cli.host.spools import slots_answered
from peerfabric.nodes.cli.host.text import short_age, short_bytes, short_number
from peerfabric.nodes.cli.offline import (
    Shown,
    Stored,
    check_choice,
    confirmed,
    dead_letters_of,
    folder_argument,
    hint_damage,
    left_to_a_child,
    looked_at,
    messages,
    messages_of,
    oldest_ms,
    say_found,
    settle_on_disk,
    shown,
    unsettled,
    warn,
    when,
    yes_option,
)
from peerfabric.nodes.cli.output import Form, number_table, print_entries, print_line, print_made, printable, to_json
from peerfabric.nodes.cli.serve import serve
from peerfabric.nodes.cli.slots import (
    Id,
    Place,
    free_slots,
    parse_ids,
    sheet_of,
    sizes_in,
    slot_option,
    slots_in,
    slots_of,
    slots_with,
)
from peerfabric.nodes.settings import FABRIC_VARIABLE
from peerfabric.ranges import Ranges
from peerfabric.spool import Log, RealFiles, Spool
from peerfabric.spool.cursor import CURSOR_BYTES, MARKS_BYTES_MAX
from peerfabric.spool.folder import Owner, read_owner
from peerfabric.spool.format import CURSOR_MAGIC, decode_sheet
from peerfabric.spool.slots import fabric_mark


@click.group(cls=Listed)
def spool() -> None:
    """The messages that nodes have left on disk.

    FOLDER is what was given to Node(spool=). Each process that runs with it has a slot of its own in there, and only
    `ls` can say anything of that; the other commands go through the slots that nobody uses. Only `drop` and `serve`
    write. While a command looks into a slot, no node can start with it: it takes another one.
    """


class Row(msgspec.Struct):
    """One line of `spool ls`: a queue of a slot, or a slot without any.

    state      "running PID", "adopted by PID" (that process goes on for the one that had it), "left" (somebody has to
               deliver what is in it), "parked" (nothing but dead letters) or "empty"
    messages   and `dead`, `oldest`: None while the slot is in use by a process that does not answer, and for a queue
               that it has not opened yet; `damaged`: while it is in use
    oldest     when the oldest message was stored, in seconds of Unix time
    problem    why nobody can look into it
    """

    slot: int
    state: str
    name: str
    fabric: str
    queue: str = ""
    messages: int | None = None
    dead: int | None = None
    bytes: int = 0
    damaged: int | None = None
    oldest: float | None = None
    problem: str = ""


@spool.command()
@folder_argument
@output_option
def ls(folder: str, output: str) -> None:
    """List the slots of a spool and the queues in each: messages to be sent, dead letters, bytes, damage.

    Only the process that has a slot knows how many messages are in it; it is asked.
    """
    names = _known_fabrics()
    found = slots_in(folder)
    answered = _answered(folder) if os.path.isdir(folder) else {}
    rows = [row for number, path in found for row in _rows(number, path, names, answered.get(number))]
    if Form(output) is Form.JSON:
        for row in rows:
            print_line(to_json(row))
    elif rows:
        ours = os.environ.get(FABRIC_VARIABLE) or "default"
        several = bool({row.fabric for row in rows if row.fabric} - {ours})
        columns = ("slot", "state", "name", *(("fabric",) if several else ()), "queue")
        numbers = ("messages", "dead", "bytes", "damaged", "oldest")
        table = number_table((*columns, *numbers), [_cells(row, several=several) for row in rows], len(columns))
        print_made("", table)
    for row in rows:
        if row.problem:
            warn(f"slot {row.slot}: {row.problem}")
    if rows and all(row.state == "unreadable" for row in rows):
        raise SystemExit(Exit.NO_SPOOL)


def _answered(folder: str) -> dict[int, RunningPlace]:
    """What running nodes say of their slots."""
    try:
        heard = list(door.answers())
    except ConfigError:
        return {}  # the runtime folder cannot be used, and this one perhaps can
    return slots_answered(places(((each.status, each.at) for each in heard if each.status is not None), None), folder)


def _rows(number: int, path: str, names: dict[bytes, str], answered: RunningPlace | None) -> Iterator[Row]:
    """The rows of one slot.

    Raises:
        SpoolError: It is the first one and no spool, or not ours alone.
    """
    try:
        with looked_at(path) as opened:
            sheet = sheet_of(path)
            row = Row(number, "empty", *_of_sheet(sheet, names), messages=0, dead=0, damaged=0)
            found = [_queue_row(row, opened, queue) for queue in opened.queues()]
        if any(each.messages for each in found):
            state = "left"
        else:
            state = "parked" if any(each.dead for each in found) else "empty"
        for each in found or [row]:
            each.state = state
            yield each
    except SpoolLocked as error:
        sheet = sheet_of(path)
        pid = error.pid or (sheet.pid if sheet is not None else 0)
        state = f"adopted by {pid}" if sheet is not None and sheet.adopted else f"running {pid or ''}".strip()
        problem = left_to_a_child(path)
        row = Row(number, state, *_of_sheet(sheet, names), problem=problem)
        sizes = sizes_in(path)
        for queue, size in sizes.items():
            first = problem if queue == min(sizes) else ""
            yield _of_running(replace(row, queue=queue, bytes=size, problem=first), answered)
        if not sizes:
            yield row
    except SpoolError as error:
        if number == 0:
            raise
        yield Row(number, "unreadable", "", "", problem=str(error))


def _of_running(row: Row, answered: RunningPlace | None) -> Row:
    """The row of a queue with what its node says of it."""
    if answered is not None:
        for sending in answered.node.sends:
            if sending.queue == row.queue:
                account, age = sending.account, sending.oldest_unsettled
                messages = account.waiting + account.in_flight + account.on_disk
                oldest = time.time() - age if age is not None else None
                return replace(row, messages=messages, dead=sending.letters.count, oldest=oldest)
    return row


def _queue_row(row: Row, opened: Spool, queue: str) -> Row:
    log, dead = messages_of(opened, queue), dead_letters_of(opened, queue)
    hint_damage(queue, log, dead)
    oldest = oldest_ms(log)
    return replace(
        row,
        queue=queue,
        messages=log.unsettled_count,
        dead=dead.unsettled_count,
        bytes=log.used_bytes + dead.used_bytes,
        damaged=sum(stop - start for _, start, stop in (*log.recovery.damaged, *dead.recovery.damaged)),
        oldest=oldest / 1000 if oldest is not None else None,
    )


def _of_sheet(sheet: Owner | None, names: dict[bytes, str]) -> tuple[str, str]:
    """The name of the node and its fabric; of one that is not known here, the mark."""
    if sheet is None:
        return "", ""
    return sheet.name, names.get(sheet.fabric, sheet.fabric.hex())


def _known_fabrics() -> dict[bytes, str]:
    """The names of fabrics that a slot may be of: a sheet has only their marks."""
    names = {"default", os.environ.get("PEERFABRIC_FABRIC") or "default"}
    with suppress(OSError, ConfigError):
        names.update(os.listdir(runtime_folder()))
    return {fabric_mark(name): name for name in names}


def _cells(row: Row, *, several: bool) -> list[str]:
    counts = [short_number(count) if count is not None else "" for count in (row.messages, row.dead)]
    texts = [str(row.slot), row.state, printable(row.name), *((printable(row.fabric),) if several else ()), row.queue]
    damaged = short_number(row.damaged) if row.damaged is not None else ""
    oldest = short_age(time.time() - row.oldest) if row.oldest is not None else ""
    return [*texts, *counts, short_bytes(row.bytes), damaged, oldest]


@spool.command()
@folder_argument
@click.argument("queue")
@click.option("-n", "--count", type=click.IntRange(min=0), default=20, show_default=True, help="How many; 0: all.")
@slot_option
@output_option
def show(folder: str, queue: str, count: int, slot: int | None, output: str) -> None:
    """Show messages of QUEUE that wait to be sent, oldest first in each slot; bytes are base64."""
    rows = []
    more, room = 0, count
    for number, opened in slots_with(folder, queue, slot):
        log = messages_of(opened, queue)
        hint_damage(queue, log)
        there = log.unsettled_count
        if not count or room:
            for message in islice(messages(opened, queue, log), room or None):
                body = shown(message.element, message.frame)
                if Form(output) is Form.JSON:
                    print_line(_line(number, message, body))
                else:
                    headers = printable(to_json(message.headers)) if message.headers else ""
                    rows.append([message.id, when(message.sent_ms), f"{body.size:,}", headers, body.short()])
        if count:
            more += max(there - room, 0)
            room = max(room - there, 0)
    if Form(output) is Form.TABLE:
        print_entries(("id", "sent (UTC)", "bytes", "headers", "body"), rows)
        if more > 0:
            warn(f"{more:,} more are not shown; -n 0 shows all")


def _line(slot: int, message: Stored, body: Shown) -> str:
    fields = {
        "slot": slot,
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
@slot_option
def export(folder: str, queue: str, slot: int | None) -> None:
    """Write the messages of QUEUE to standard output, one JSON object a line; nothing is removed.

    To send their bodies anew: peerfabric spool export FOLDER QUEUE | jq -c .body | peerfabric send QUEUE -
    """
    inexact = unreadable = 0
    for number, opened in slots_with(folder, queue, slot):
        log = messages_of(opened, queue)
        hint_damage(queue, log)
        for message in messages(opened, queue, log):
            body = shown(message.element, message.frame)
            inexact += not body.exact
            unreadable += bool(body.problem)
            print_line(_line(number, message, body))
    if inexact:
        has = counted(inexact, "body has", "bodies have")
        warn(f'{has} parts that JSON has no word for (bytes, dates, NaN); marked with "exact":false')
    if unreadable:
        bodies = counted(unreadable, "body", "bodies")
        raise Failure(f'{bodies} cannot be read; "problem" says why, and "raw" has the bytes')


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
@slot_option
@output_option
def verify(folder: str, slot: int | None, output: str) -> None:
    """Read every byte of a spool and say what is damaged, by number; exit code 1 if anything is.

    Where the end of what an earlier start wrote is damaged, one number stands for all that were there.
    """
    found = queues = used = 0
    for _, opened in free_slots(folder, slot):
        for finding in _findings(opened):
            found += 1
            print_line(to_json(finding) if Form(output) is Form.JSON else printable(finding.text))
        queues += len(opened.queues())
        used += opened.used_bytes
    if not found and Form(output) is Form.TABLE:
        print_line(f"{counted(queues, 'queue')}, {counted(used, 'byte')}, no damage")
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
@slot_option
@yes_option
def drop(folder: str, queue: str, ids: tuple[str, ...], everything: bool, slot: int | None, yes: bool) -> None:
    """Take messages out of QUEUE for ever, by their ids or all.

    A consumer that had one in hand when its producer ended may still process it.
    """
    check_choice(ids, everything=everything)
    chosen: dict[Place, dict[int, Ranges]] = {}
    if everything:
        for number, opened in slots_with(folder, queue, slot):
            chosen[Place.of(number, opened)] = unsettled(messages_of(opened, queue))
    else:
        wanted = parse_ids(ids, f"`peerfabric spool show FOLDER {queue}`")
        for each in wanted:
            if each.queue != queue:
                raise click.UsageError(f"{each.text} is of another queue than {queue!r}; drop it there")
        for number, opened, ours in slots_of(folder, wanted, slot):
            chosen[Place.of(number, opened)] = _chosen(unsettled(messages_of(opened, queue)), ours)
    count = sum(ranges.total for found in chosen.values() for ranges in found.values())
    dropped = 0
    if count:
        confirmed(f"Drop {counted(count, 'message')} of {queue} for ever?", yes=yes)
        for place, found in chosen.items():
            if found:
                dropped += _drop(place, queue, found)
    print_line(f"{counted(dropped, 'message')} dropped")


def _drop(place: Place, queue: str, chosen: dict[int, Ranges]) -> int:
    with place.owned() as ours:
        log = messages_of(ours, queue)
        say_found(queue, log)
        before = log.unsettled_count
        for epoch, ranges in chosen.items():
            for start, stop in ranges:
                log.settle(epoch, start, stop)
        dropped = before - log.unsettled_count
        settle_on_disk(log)
    return dropped


def _chosen(there: dict[int, Ranges], ids: list[Id]) -> dict[int, Ranges]:
    found: dict[int, Ranges] = {}
    for each in ids:
        if each.sequence not in there.get(each.epoch, ()):
            raise Failure(f"{each.text} is not in the queue; see `peerfabric spool show`")
        found.setdefault(each.epoch, Ranges()).add(each.sequence, each.sequence + 1)
    return found


spool.add_command(serve)
