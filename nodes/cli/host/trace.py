"""`peerfabric trace`: where one message is now, at whom, or in which slot of a spool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from peerfabric.errors import SpoolError
from peerfabric.nodes.cli.exits import Exit, Failure
from peerfabric.nodes.cli.host.door import ask_all
from peerfabric.nodes.cli.host.look import Looking, looks
from peerfabric.nodes.cli.host.spools import folders, slots_answered
from peerfabric.nodes.cli.offline import dead_letters_of, looked_at, messages_of, unsettled, warn, when
from peerfabric.nodes.cli.output import Form, print_line, printable, to_json
from peerfabric.nodes.cli.slots import Id, parse_ids, sheet_of, slots_in

LISTER: Final = "`peerfabric take -o json`, `peerfabric tap -o json` or `peerfabric dead ls`"


@click.command()
@click.argument("identity", metavar="ID")
@click.argument("folders_given", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=str))
@looks
def trace(identity: str, folders_given: tuple[str, ...], looking: Looking) -> None:
    """Show where message ID is now, as far as it is known on this host: one line for each node that knows it.

    At its producer: waiting, in flight and at whom, settled, a dead letter. At its consumer: held, running and since
    when, done. Slots of spools that nobody has are looked into as well: of the running nodes, and in each FOLDER.
    Nothing is kept of what was before; a log at DEBUG has that.
    """
    [wanted] = parse_ids([identity], LISTER)
    look = looking.look()
    asked = ask_all([each for each in look.heard if each.status is not None], "trace", id=identity)
    found = [item for item in asked.items("found") if looking.fabric in (None, item.get("fabric"))]
    found += _on_disk(wanted, [*folders(look.places), *folders_given], look.places)
    for problem in asked.problems:
        warn(problem)
    for item in found:
        print_line(to_json(item) if looking.output is Form.JSON else line(item))
    look.tell(of_queues=False)
    if not found:
        raise Failure(
            f"nobody who answers on this host knows {identity}: it was settled long ago, or is of another host, or in "
            f"a spool whose FOLDER was not given",
            Exit.NOTHING,
        )


def _on_disk(wanted: Id, places_on_disk: Sequence[str], running: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """What slots that nobody has say of a message."""
    for folder in dict.fromkeys(places_on_disk):
        answered = slots_answered(running, folder)
        try:
            slots = slots_in(folder)
        except SpoolError as error:
            warn(str(error))
            continue
        for number, path in slots:
            sheet = sheet_of(path)
            if number in answered or sheet is None or sheet.node_id != wanted.node_id:
                continue
            try:
                state = _state_in(path, wanted)
            except SpoolError as error:
                warn(f"slot {number} cannot be looked into: {error}")
                continue
            yield {"side": "disk", "node": sheet.name, "folder": folder, "slot": number, "state": state}


def _state_in(path: str, wanted: Id) -> str:
    with looked_at(path) as opened:
        if wanted.queue not in opened.queues():
            return "not there: its queue is not in this spool"
        messages, letters = messages_of(opened, wanted.queue), dead_letters_of(opened, wanted.queue)
        if wanted.sequence in unsettled(letters).get(wanted.epoch, ()):
            return "a dead letter"
        if wanted.sequence in unsettled(messages).get(wanted.epoch, ()):
            return "waiting: whoever has the slot next sends it"
        if wanted.sequence in messages.settled_ranges().get(wanted.epoch, ()):
            return "settled"
        return "not there: settled long ago, or never stored"


def line(item: dict[str, Any]) -> str:
    """One place of a message, for people: who, what, and the rest as `name=value`."""
    rest = {name: value for name, value in item.items() if name not in _FIRST and value not in (None, "", [], {})}
    pid = f" ({item['pid']})" if item.get("pid") else ""
    slot = f" slot {item['slot']} of {item.get('folder', 'its spool')}" if item.get("slot") is not None else ""
    who = f"{item.get('side') or 'at'} {item.get('node') or '?'}{pid}{slot}"
    more = "  ".join(f"{name}={_value(name, value)}" for name, value in rest.items())
    return printable(f"{who}: {item.get('state', '?')}" + (f"  {more}" if more else ""))


_FIRST: Final = {"side", "node", "pid", "state", "node_id", "fabric", "slot", "folder", "id", "queue"}


def _value(name: str, value: Any) -> str:
    if name.endswith("_at") and isinstance(value, int | float):
        return when(int(value * 1000))
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, str):
        return repr(value) if " " in value else value
    return to_json(value)
