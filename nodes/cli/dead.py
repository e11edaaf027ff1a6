"""`peerfabric dead`: dead letters, those of running nodes and those in spools that no node runs with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click

from peerfabric.errors import counted
from peerfabric.names import is_name
from peerfabric.nodes.cli.common import Listed, output_option
from peerfabric.nodes.cli.dead_on_disk import (
    LISTER,
    count_in,
    drop_on_disk,
    found_in,
    one_in,
    places_of,
    retry_on_disk,
)
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.host.completion import queues_there
from peerfabric.nodes.cli.host.dead_letters import LETTERS_MAX, RunningLetters
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.offline import check_choice, confirmed, warn, when, yes_option
from peerfabric.nodes.cli.output import Form, print_entries, print_line, printable, to_json
from peerfabric.nodes.cli.slots import Place, parse_ids, slot_option
from peerfabric.nodes.settings import FABRIC_VARIABLE
from peerfabric.ranges import Ranges

PROBLEMS_SHOWN: Final = 10
COLUMNS: Final = ("id", "sent (UTC)", "reason", "attempts", "error")

all_option = click.option("--all", "everything", is_flag=True, help="All dead letters there are.")
fabric_option = click.option(
    "--fabric", metavar="NAME", help="Of its running nodes.  [default: $PEERFABRIC_FABRIC, else of all fabrics]"
)


class Words(NamedTuple):
    """Arguments, told apart: an id has a ':' and a '/', a folder a '/' or a spool in it, and a queue neither."""

    folder: str | None
    queues: tuple[str, ...]
    ids: tuple[str, ...]


def words(given: Sequence[str]) -> Words:
    """Tell arguments apart; they may come in any order.

    Raises:
        UsageError: One is nothing of the three, or there are two folders.
    """
    folder: str | None = None
    queues: list[str] = []
    ids: list[str] = []
    for word in given:
        if _is_folder(word) and (folder is None or not is_name(word)):
            if folder is not None:
                raise click.UsageError(f"{folder} and {word} are both folders; give one")
            folder = word
        elif ":" in word and "/" in word:
            ids.append(word)
        elif is_name(word):
            queues.append(word)
        else:
            raise click.UsageError(
                f"{word[:80]!r} is no queue, no id and no folder; ids look like node:epoch:queue/sequence, as {LISTER} "
                f"shows"
            )
    parse_ids(ids, LISTER)
    return Words(folder, tuple(queues), tuple(ids))


def _is_folder(word: str) -> bool:
    """Whether a word is one: it is a path, not an id that looks like one, or the name of a spool that lies here."""
    if ":" in word and not os.path.isdir(word):
        return False
    if "/" in word or word in (".", "..", "~"):
        return True
    return any(os.path.lexists(os.path.join(word, name)) for name in ("node", "lock", "queues", "slots"))


def _of_fabric(fabric: str | None) -> str | None:
    return fabric or os.environ.get(FABRIC_VARIABLE) or None


@click.group(cls=Listed)
def dead() -> None:
    """What queues have given up, kept for a person: of running nodes, and with FOLDER of those that are gone.

    FOLDER is what was given to Node(spool=): a path, or the name of a spool that lies here. With it all that is in
    there is looked at, the slots of running nodes included, and nothing else.
    """


@dead.command()
@click.argument("given", nargs=-1, metavar="[QUEUE|FOLDER]...", shell_complete=queues_there)
@slot_option
@fabric_option
@output_option
def ls(given: tuple[str, ...], slot: int | None, fabric: str | None, output: str) -> None:
    """List dead letters, of each QUEUE or of all."""
    found = words(given)
    if found.ids:
        raise click.UsageError(f"{found.ids[0]!r} is one dead letter: see `peerfabric dead show`")
    running = RunningLetters(_of_fabric(fabric), found.folder, slot)
    rows = []
    seen: set[str] = set()
    for queue in found.queues or (None,):
        for letter in running.letters(queue):
            seen.add(str(letter["id"]))
            if Form(output) is Form.JSON:
                print_line(to_json(letter))
            else:
                sent = when(int((letter.get("sent_at") or 0.0) * 1000))
                rows.append(_row(letter["id"], sent, letter.get("reason"), letter.get("attempts"), letter.get("error")))
    if found.folder is not None:
        for queue in found.queues or (None,):
            for line, kept in found_in(found.folder, queue, slot, running.slots):
                if kept.id in seen:
                    continue
                if Form(output) is Form.JSON:
                    print_line(line)
                else:
                    rows.append(_row(kept.id, when(kept.sent_ms), kept.reason, kept.attempts, kept.error))
    if Form(output) is Form.TABLE:
        print_entries(COLUMNS, rows)


def _row(*cells: object) -> list[str]:
    return [f"{cell:,}" if isinstance(cell, int) else printable(str(cell or "")) for cell in cells]


@dead.command()
@click.argument("given", nargs=-1, required=True, metavar="[ID|FOLDER]...")
@slot_option
@fabric_option
@output_option
def show(given: tuple[str, ...], slot: int | None, fabric: str | None, output: str) -> None:
    """Show one dead letter with its headers and its whole body, as JSON in any form."""
    found = words(given)
    if len(found.ids) != 1 or found.queues:
        raise click.UsageError(
            f"give one id, as {LISTER} shows them, and the FOLDER of its spool if its process is gone"
        )
    [identity] = found.ids
    running = RunningLetters(_of_fabric(fabric), found.folder, slot)
    for letter in running.letters(_queue_of(identity), whole=True):
        if letter["id"] == identity:
            print_line(to_json(letter))
            return
    if found.folder is None or running.has(identity):
        raise _not_running(identity)
    print_line(one_in(found.folder, identity, slot))


def _queue_of(identity: str) -> str:
    return parse_ids([identity], LISTER)[0].queue


def _not_running(identity: str) -> Failure:
    return Failure(
        f"no running node has dead letter {identity}; see {LISTER}, and give the FOLDER of its spool if its process is "
        f"gone"
    )


class Chosen:
    """The dead letters that were named: of running nodes, and of slots that nobody has.

    Raises:
        Failure: One of the ids is not there.
        UsageError: They were named in no way, or in two.
    """

    def __init__(self, given: Sequence[str], slot: int | None, fabric: str | None, *, everything: bool) -> None:
        found = words(given)
        if found.ids and found.queues:
            raise click.UsageError("name ids or queues, not both")
        if not found.queues:  # all of a queue is what its name says by itself
            check_choice(found.ids, everything=everything)
        self.running = RunningLetters(_of_fabric(fabric), found.folder, slot)
        self._queues: tuple[str | None, ...] = found.queues or (None,)
        self._named = bool(found.ids)
        if found.ids:
            there = {
                str(letter["id"]): letter
                for queue in {_queue_of(identity) for identity in found.ids}
                for letter in self.running.letters(queue)
            }
            self.letters = [there[identity] for identity in found.ids if identity in there]
            left = [identity for identity in found.ids if identity not in there]
            for identity in left:
                if found.folder is None or self.running.has(identity):
                    raise _not_running(identity)
        else:
            self.letters = self._listed()
            left = []
        self.places: dict[Place, dict[str, dict[int, Ranges]]] = {}
        if found.folder is not None and (left or not found.ids):
            self.places = places_of(found.folder, left, found.queues, slot, self.running.slots)
        if found.queues and not self.letters and not self.places:
            who = "no running node has" if found.folder is None else f"{found.folder} has no"
            near = did_you_mean(found.queues[0], self.running.queues()) if len(found.queues) == 1 else ""
            raise Failure(f"{who} dead letters of queue {', '.join(found.queues)}{near}; see {LISTER}")

    def _listed(self) -> list[dict[str, Any]]:
        return [letter for queue in self._queues for letter in self.running.letters(queue)]

    @property
    def count(self) -> int:
        return len(self.letters) + count_in(self.places)

    def act(self, do: str) -> tuple[int, list[str]]:
        """Let the running nodes retry or drop theirs; how many were, and why others were not."""
        done, problems = 0, []
        tried: set[str] = set()
        letters = self.letters
        while letters:
            tried |= {str(letter["id"]) for letter in letters}
            for outcome in self.running.act(do, letters):
                done += bool(outcome.get("done"))
                if not outcome.get("done"):
                    problems.append(f"{outcome['id']}: {outcome.get('problem') or 'is not there any more'}")
            # A node tells of so many at a time.
            listed = [] if self._named or len(letters) < LETTERS_MAX else self._listed()
            letters = [letter for letter in listed if str(letter["id"]) not in tried]
        return done, problems


@dead.command()
@click.argument("given", nargs=-1, metavar="[ID|QUEUE|FOLDER]...", shell_complete=queues_there)
@all_option
@slot_option
@fabric_option
@output_option
def retry(given: tuple[str, ...], everything: bool, slot: int | None, fabric: str | None, output: str) -> None:
    """Queue dead letters again, as new messages: by their ids, those of each QUEUE, or all.

    Running nodes send theirs at once; what is in a slot that nobody has is sent by whoever has it next, or adopts it
    for that. They have new ids, with the old ones as `origin`. If this is killed some may be both; none is lost.
    """
    chosen = Chosen(given, slot, fabric, everything=everything)
    done, problems = chosen.act("retry")
    done += retry_on_disk(chosen.places)
    _report(done, problems, "retried", "queued again", output)


@dead.command()
@click.argument("given", nargs=-1, metavar="[ID|QUEUE|FOLDER]...", shell_complete=queues_there)
@all_option
@slot_option
@yes_option
@fabric_option
@output_option
def drop(
    given: tuple[str, ...], everything: bool, slot: int | None, yes: bool, fabric: str | None, output: str
) -> None:
    """Delete dead letters for ever: by their ids, those of each QUEUE, or all."""
    chosen = Chosen(given, slot, fabric, everything=everything)
    done, problems = 0, list[str]()
    if chosen.count:
        confirmed(f"Delete {counted(chosen.count, 'dead letter')} for ever?", yes=yes)
        done, problems = chosen.act("drop")
        done += drop_on_disk(chosen.places)
    _report(done, problems, "dropped", "deleted", output)


def _report(done: int, problems: list[str], name: str, text: str, output: str) -> None:
    if Form(output) is Form.JSON:
        print_line(to_json({name: done, "problems": problems}))
    else:
        print_line(f"{counted(done, 'dead letter')} {text}")
    for problem in problems[:PROBLEMS_SHOWN]:
        warn(problem)
    if problems:
        raise Failure(f"{counted(len(problems), 'dead letter was', 'dead letters were')} not {text}; see {LISTER}")
