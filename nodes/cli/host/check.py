"""`peerfabric check`: whether queues are as they should be, for a monitoring system."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import click
import msgspec

from peerfabric.errors import FabricError, counted
from peerfabric.nodes.cli.host.completion import queues_there
from peerfabric.nodes.cli.host.look import Look, Looking, looks_around
from peerfabric.nodes.cli.host.near import did_you_mean
from peerfabric.nodes.cli.host.rows import QueueRow, queue_rows
from peerfabric.nodes.cli.host.text import short_age
from peerfabric.nodes.cli.output import print_line, printable, to_json


class State(IntEnum):
    """The states of monitoring plugins, which are exit codes too."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_WORST = (State.CRITICAL, State.WARNING, State.UNKNOWN, State.OK)
"""What is known to be wrong comes before what is not known."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is still right; None: anything."""

    oldest: float = 60.0
    waiting: int | None = None
    dead: int = 0
    consumers: int = 1
    running: float = 300.0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be."""

    state: str
    text: str
    queue: str = ""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """How a check ended, for programs."""

    state: str
    code: int
    problems: list[Problem]
    queues: list[QueueRow]
    processes: int
    silent: int


class _Check(click.Command):
    """A command whose wrong use is UNKNOWN, not CRITICAL."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(State.UNKNOWN) from None


@click.command(cls=_Check)
@click.option(
    "--queue", "names", metavar="QUEUE", multiple=True, shell_complete=queues_there, help="Only it; repeatable."
)
@click.option(
    "--max-oldest",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For how long something may wait.",
)
@click.option("--max-waiting", type=click.IntRange(0), metavar="N", help="How many may wait.  [default: any]")
@click.option(
    "--max-dead",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many dead letters.",
)
@click.option(
    "--min-consumers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="N",
    help="Of each queue that somebody sends to.",
)
@click.option(
    "--max-running",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="For how long user code may have a message.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["nagios", "json"]),
    help="One line with figures for Nagios, Icinga and the like, or a JSON object.  [default: by -o]",
)
@looks_around
def check(
    names: tuple[str, ...],
    max_oldest: float,
    max_waiting: int | None,
    max_dead: int,
    min_consumers: int,
    max_running: float,
    form: str | None,
    looking: Looking,
) -> None:
    """Check all queues, or each QUEUE, and end with 0 OK, 1 WARNING, 2 CRITICAL or 3 UNKNOWN.

    CRITICAL: too few consumers, too old, too many that wait, in hand for too long. WARNING: dead letters, what nodes
    warn of, a process that does not answer. UNKNOWN: nobody answers, or nobody uses QUEUE.
    """
    limits = Limits(oldest=max_oldest, waiting=max_waiting, dead=max_dead, consumers=min_consumers, running=max_running)
    try:
        with looking.joined():
            look = looking.look()
    except FabricError as error:
        done = Checked(
            state="UNKNOWN", code=State.UNKNOWN, problems=[_unknown(str(error))], queues=[], processes=0, silent=0
        )
    else:
        done = checked(look, names, limits)
    if form == "json" or (form is None and looking.output == "json"):
        print_line(to_json(done))
    else:
        print_line(nagios_line(done, names, limits))
    raise click.exceptions.Exit(done.code)


def checked(look: Look, names: Sequence[str], limits: Limits) -> Checked:
    """What is wrong with these queues, or with all."""
    rows = [row for row in queue_rows(look.places) if not names or row.queue in names]
    problems = [problem for row in rows for problem in _problems(row, limits)]
    problems += [_warning(f"{each.title}: {each.problem}") for each in look.silent]
    for _, node, _ in look.places:
        if node.engine:
            problems.append(_warning(f"node {node.name}: engine is {node.engine}"))
    for name, warned in look.warnings():
        if not names or warned.queue in (*names, ""):
            problems.append(Problem(state="WARNING", queue=warned.queue, text=f"{name}: {warned.text}"))
    if not look.places:
        text = "no node answers" + (f" in fabric {look.fabric!r}" if look.fabric else " on this host")
        problems.append(_unknown(f"{text}: are they running, for this user, with this runtime folder?"))
    else:
        there = {row.queue for row in rows}
        for name in names:
            if name not in there:
                near = did_you_mean(name, (row.queue for row in queue_rows(look.places)))
                text = f"{name}: no node that answers uses it{near}"
                problems.append(Problem(state="UNKNOWN", queue=name, text=text))
    order = [state.name for state in _WORST]
    problems.sort(key=lambda problem: order.index(problem.state))
    state = State[problems[0].state] if problems else State.OK
    return Checked(
        state=state.name,
        code=state,
        problems=problems,
        queues=rows,
        processes=len(look.heard),
        silent=len(look.silent),
    )


def _warning(text: str) -> Problem:
    return Problem(state="WARNING", text=text)


def _unknown(text: str) -> Problem:
    return Problem(state="UNKNOWN", text=text)


def _problems(row: QueueRow, limits: Limits) -> list[Problem]:
    found = []

    def add(state: State, text: str) -> None:
        found.append(Problem(state=state.name, queue=row.queue, text=f"{row.queue}: {text}"))

    if row.producers and row.consumers < limits.consumers:
        add(State.CRITICAL, f"{counted(row.consumers, 'consumer')} (least {limits.consumers})")
    if row.oldest is not None and row.oldest > limits.oldest:
        add(State.CRITICAL, f"oldest waits {short_age(row.oldest)} (most {short_age(limits.oldest)})")
    if limits.waiting is not None and row.depth > limits.waiting:
        add(State.CRITICAL, f"{row.depth:,} wait (most {limits.waiting:,})")
    if row.longest > limits.running:
        add(State.CRITICAL, f"in hand for {short_age(row.longest)} (most {short_age(limits.running)})")
    if row.dead > limits.dead:
        add(State.WARNING, f"{counted(row.dead, 'dead letter')} (most {limits.dead:,})")
    return found


def nagios_line(done: Checked, names: Sequence[str], limits: Limits) -> str:
    """The one line of a plugin: state, what is wrong, and figures, of each queue that was named, or of all together."""
    if done.problems:
        texts = [printable(problem.text.replace("|", "/")) for problem in done.problems]
        what = "; ".join(texts[:5]) + (f"; and {len(texts) - 5} more" if len(texts) > 5 else "")
    else:
        what = (
            f"{counted(len(done.queues), 'queue')}, {counted(sum(row.depth for row in done.queues), 'message')} waiting"
        )
    figures = []
    if names:
        for row in done.queues:
            figures += _figures(f"{row.queue}.", [row], limits)
    elif done.queues:
        figures = _figures("", done.queues, limits)
    line = f"PEERFABRIC {done.state} - {what}"
    return f"{line} | {' '.join(figures)}" if figures else line


def _figures(prefix: str, rows: Sequence[QueueRow], limits: Limits) -> list[str]:
    """`name=value;warning;critical;least`, a range where less is worse."""
    most = "" if limits.waiting is None else limits.waiting
    oldest = max((row.oldest or 0.0 for row in rows), default=0.0)
    fed = [row.consumers for row in rows if row.producers] or [row.consumers for row in rows]
    return [
        f"{prefix}waiting={sum(row.depth for row in rows)};;{most};0",
        f"{prefix}in_flight={sum(row.in_flight for row in rows)};;;0",
        f"{prefix}oldest={oldest:.1f}s;;{limits.oldest:g};0",
        f"{prefix}running={max(row.longest for row in rows):.1f}s;;{limits.running:g};0",
        f"{prefix}consumers={min(fed)};;{limits.consumers}:;0",
        f"{prefix}dead={sum(row.dead for row in rows)};{limits.dead};;0",
    ]
