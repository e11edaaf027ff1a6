"""`peerfabric dead`: the dead letters in the spool of a node that is not running."""

from __future__ import annotations

import time

import click

from peerfabric.envelope import Extra
from peerfabric.nodes.cli.common import output_option
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.offline import confirmed, folder_argument, letters, looked_at, name_of, owned, shown, when
from peerfabric.nodes.cli.output import Form, print_line, print_table, to_json
from peerfabric.nodes.stores import Store
from peerfabric.spool import Spool
from peerfabric.stats import DeadLetter


@click.group()
def dead() -> None:
    """What a node's queues have given up, kept in its spool for a person. Its node must not be running."""


@dead.command()
@folder_argument
@click.argument("queue", required=False)
@output_option
def ls(folder: str, queue: str | None, output: str) -> None:
    """List dead letters, of QUEUE or of all."""
    with looked_at(folder) as opened:
        found = list(letters(opened, queue))
    if Form(output) is Form.JSON:
        for letter in found:
            print_line(to_json(_plain(letter)))
    else:
        rows = [[x.id, when(x.sent_ms / 1000), x.reason, str(x.attempts), x.error] for x in found]
        print_table("", ("id", "sent (UTC)", "reason", "attempts", "error"), rows)


@dead.command()
@folder_argument
@click.argument("identity", metavar="ID")
def show(folder: str, identity: str) -> None:
    """Show one dead letter with its headers and body, as JSON."""
    with looked_at(folder) as opened:
        [letter] = _chosen(opened, (identity,), everything=False)
    print_line(to_json(_plain(letter)))


@dead.command()
@folder_argument
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead letters of the spool.")
def retry(folder: str, ids: tuple[str, ...], everything: bool) -> None:
    """Queue dead letters again, as new messages that the node sends at its next start."""
    _check(ids, everything)
    with looked_at(folder) as opened:
        chosen = _chosen(opened, ids, everything=everything)
    with owned(folder) as opened:
        now = time.time_ns() // 1_000_000
        stores: dict[str, Store] = {}
        sent: dict[str, int] = {}
        for letter in chosen:
            store = stores.get(letter.queue)
            if store is None:
                store = stores[letter.queue] = Store(opened, letter.queue, True, now)
            # First the new message is safe, then the letter goes: a crash in between sends it twice, and never not.
            sequence = sent[letter.queue] = sent.get(letter.queue, 0) + 1
            extra = Extra(0, letter.headers, letter.origin or letter.id)
            store.append(sequence, [letter.data], {0: extra}, letter.codec, now)
            store.sync()
            store.unbury(letter.id)
    print_line(f"{len(chosen):,} dead letters queued again")


@dead.command()
@folder_argument
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All dead letters of the spool.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(folder: str, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Delete dead letters for ever."""
    _check(ids, everything)
    with looked_at(folder) as opened:
        chosen = _chosen(opened, ids, everything=everything)
    confirmed(f"Delete {len(chosen):,} dead letters for ever?", yes=yes)
    with owned(folder) as opened:
        now = time.time_ns() // 1_000_000
        stores = {queue: Store(opened, queue, True, now) for queue in {letter.queue for letter in chosen}}
        for letter in chosen:
            stores[letter.queue].unbury(letter.id)
    print_line(f"{len(chosen):,} dead letters deleted")


def _check(ids: tuple[str, ...], everything: bool) -> None:
    if everything == bool(ids):
        raise click.UsageError("name the ids, or give --all")
    for identity in ids:
        name_of(identity)


def _chosen(opened: Spool, ids: tuple[str, ...], *, everything: bool) -> list[DeadLetter]:
    for identity in ids:
        name_of(identity)
    found = [letter for letter in letters(opened, None) if everything or letter.id in ids]
    missing = set(ids) - {letter.id for letter in found}
    if missing:
        raise Failure(f"no dead letter {min(missing)}; see `peerfabric dead ls`")
    return found


def _plain(letter: DeadLetter) -> dict[str, object]:
    body = shown(letter.data) if letter.codec else letter.data
    fields = {
        name: getattr(letter, name) for name in ("id", "queue", "reason", "error", "attempts", "strikes", "origin")
    }
    return {**fields, "sent_at": letter.sent_ms / 1000, "headers": letter.headers or {}, "body": body}
