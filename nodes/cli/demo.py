"""`peerfabric demo`: four processes index Python's standard library; one is killed on the way."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from peerfabric.indexer.findings import Progress as Done
from peerfabric.indexer.findings import library
from peerfabric.indexer.run import Outcome, run
from peerfabric.nodes.cli.common import output_option
from peerfabric.nodes.cli.exits import Failure
from peerfabric.nodes.cli.output import Form, print_line, print_table, to_json


@click.command()
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Python files to index.  [default: the standard library of this Python]",
)
@output_option
def demo(folder: Path | None, output: str) -> None:
    """Index Python's standard library with four processes, one of which is killed on the way.

    Then do the same in a single process and compare: exit code 0 if the totals are equal, 1 if not.
    """
    outcome = _run(folder or library())
    if output == Form.JSON:
        print_line(to_json({**msgspec.to_builtins(outcome), "equal": outcome.is_right}))
    else:
        _print(outcome)
    if not outcome.is_right:
        raise Failure("the totals differ from those of a single process, which must not be; please report it")


def _run(folder: Path) -> Outcome:
    """Run it with a progress bar, if somebody looks; what happens is told on standard error."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("indexing", total=None)

        def on_progress(done: Done) -> None:
            bar.update(task, completed=done.done, total=done.of)

        return run(folder, on_progress, console.print)


def _print(outcome: Outcome) -> None:
    report, account, totals = outcome.report, outcome.report.account, outcome.report.totals
    rows = [[name, f"{count:,}"] for name, count in totals.most_imported(10)]
    print_table("The most imported modules", ("module", "imported by"), rows)
    print_table("Files per worker", ("worker", "files"), [[n, f"{c:,}"] for n, c in sorted(report.by_worker.items())])
    print_table(
        "Accounting of the queue of sources",
        ("accepted", "acked", "in flight", "waiting", "dead-lettered", "dropped", "redelivered"),
        [
            [
                f"{count:,}"
                for count in (
                    account.accepted,
                    account.acked,
                    account.in_flight,
                    account.waiting,
                    account.dead_lettered,
                    account.dropped,
                    account.redelivered,
                )
            ]
        ],
    )
    print_line(
        f"{account.redelivered:,} files were given to a second worker; {report.repeated:,} of them came to the "
        f"collector twice and count once."
    )
    rows = [
        [name, f"{getattr(totals, name):,}", f"{getattr(outcome.alone, name):,}"]
        for name in ("modules", "lines", "functions", "classes", "errors")
    ]
    rows.append(["imports", f"{sum(totals.imports.values()):,}", f"{sum(outcome.alone.imports.values()):,}"])
    rows.append(["seconds", f"{outcome.fabric_duration:.1f}", f"{outcome.alone_duration:.1f}"])
    print_table("Totals", ("", "four workers", "alone"), rows)
    print_line("equal" if outcome.is_right else "NOT EQUAL")
