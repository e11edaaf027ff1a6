"""Slots of a spool's folder, as the commands see them: who has which, and each of the others opened."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

import click

from peerfabric.errors import ConfigError, SpoolError, SpoolLocked
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.offline import looked_at, owned, split_id, warn
from peerfabric.nodes.storage.shared import slot_of
from peerfabric.spool import RealFiles, Spool
from peerfabric.spool.folder import SLOTS_MAX, Owner, read_owner
from peerfabric.spool.slots import Slots, slot_folder

slot_option = click.option(
    "--slot", type=click.IntRange(0, SLOTS_MAX - 1), metavar="N", help="Only this slot; else all that nobody uses."
)


class Id(NamedTuple):
    """The id of a message, taken apart."""

    text: str
    node_id: str
    queue: str
    epoch: int
    sequence: int


class Place(NamedTuple):
    """A slot that was looked at and is to be written to."""

    number: int
    folder: str
    node_id: str

    @classmethod
    def of(cls, number: int, opened: Spool) -> Place:
        return cls(number, opened.folder, opened.node_id)

    def owned(self) -> AbstractContextManager[Spool]:
        """As `offline.owned`."""
        return owned(self.folder, self.node_id, shrinks=self.number > 0)


def slots_in(folder: str) -> list[tuple[int, str]]:
    """Number and folder of each slot, lowest first; of a folder that is no spool the first one, which says so.

    Raises:
        ConfigError: The folder is a slot itself.
        SpoolError: It cannot be read.
    """
    path = os.path.abspath(folder)
    if outer := slot_of(path):
        raise ConfigError(f"{path} is a slot of {outer}; give that folder, and --slot {os.path.basename(path)}")
    numbers = Slots(RealFiles(), path).numbers() if os.path.isdir(path) and not os.path.islink(path) else []
    return [(number, slot_folder(path, number)) for number in numbers or [0]]


def sheet_of(folder: str) -> Owner | None:
    """What the file `node` says, as far as it can be read."""
    with suppress(SpoolError, OSError):
        return read_owner(RealFiles(), folder)
    return None


def free_slots(folder: str, slot: int | None = None, skip: Collection[int] = ()) -> Iterator[tuple[int, Spool]]:
    """The slots that nobody uses, each opened for reading until the next one is asked for, lowest first.

    Those in use, and those that cannot be opened, are told of on standard error, and passed over.

    Args:
        slot: Only this one.
        skip: None of these, about which nothing is said.

    Raises:
        SpoolError: The one slot that there is, or that was asked for, cannot be opened, or none of them can.
    """
    found = slots_in(folder)
    if slot is not None:
        found = [(number, path) for number, path in found if number == slot]
        if not found:
            raise Failure(f"{os.path.abspath(folder)} has no slot {slot}; see `peerfabric spool ls`")
    found = [(number, path) for number, path in found if number not in skip]
    refused: SpoolError | None = None
    opened_any = False
    for number, path in found:
        try:
            with looked_at(path) as opened:
                opened_any = True
                yield number, opened
        except SpoolError as error:
            if len(found) == 1:
                raise
            if refused is None or isinstance(refused, SpoolLocked):
                refused = error
            warn(f"slot {number} is passed over: {error}")
    if refused is not None and not opened_any:
        raise refused


def slots_with(
    folder: str, queue: str, slot: int | None = None, skip: Collection[int] = ()
) -> Iterator[tuple[int, Spool]]:
    """As `free_slots`, those that have this queue.

    Raises:
        Failure: None has, and none is skipped.
    """
    found = False
    others: set[str] = set()
    for number, opened in free_slots(folder, slot, skip):
        there = opened.queues()
        if queue in there:
            found = True
            yield number, opened
        others.update(there)
    if not found and not skip:
        has = ", ".join(sorted(others)) or "none"
        raise Failure(f"{os.path.abspath(folder)} has no queue {queue!r}; it has: {has}")


def parse_ids(texts: Sequence[str], lister: str) -> list[Id]:
    """Ids that were typed; `lister` is the command that shows them.

    Raises:
        UsageError: One is none.
    """
    return [Id(text, *split_id(text, lister)) for text in texts]


def slots_of(folder: str, ids: Sequence[Id], slot: int | None = None) -> Iterator[tuple[int, Spool, list[Id]]]:
    """The slots that these ids are of, as in `free_slots`, each with its ids: a node has one slot.

    Raises:
        SpoolLocked: The slot of one is in use.
        Failure: One is of another node.
    """
    ours: list[str] = []
    left = list(ids)
    for number, opened in _those_of(folder, {each.node_id for each in ids}, slot):
        ours.append(opened.node_id)
        wanted = [each for each in left if each.node_id == opened.node_id]
        left = [each for each in left if each.node_id != opened.node_id]
        if wanted:
            yield number, opened, wanted
    if left:
        begin = " or ".join(ours)
        raise Failure(f"{left[0].text} is of another node; the ids of this spool begin with {begin}")


def _those_of(folder: str, node_ids: set[str], slot: int | None) -> Iterator[tuple[int, Spool]]:
    """The slots of these nodes, where their sheets say so; if one is not among these, all free ones."""
    found = slots_in(folder)
    if slot is None and len(found) > 1:
        sheets = {number: sheet_of(path) for number, path in found}
        numbers = {sheet.node_id: number for number, sheet in sheets.items() if sheet is not None}
        if node_ids <= numbers.keys():
            for number in sorted(numbers[node_id] for node_id in node_ids):
                yield from free_slots(folder, number)
            return
    yield from free_slots(folder, slot)


# Who has one


def sizes_in(folder: str) -> dict[str, int]:
    """Bytes of the segments of each queue, without opening one."""
    files = RealFiles()
    sizes: dict[str, int] = {}
    for queue in files.names(f"{folder}/queues"):
        total = 0
        for log in (f"{folder}/queues/{queue}", f"{folder}/queues/{queue}/dead"):
            for name in files.names(log):
                if name.endswith(".seg"):
                    with suppress(OSError):  # it is removed when all in it is settled
                        total += os.stat(f"{log}/{name}").st_size
        sizes[queue] = total
    return sizes
