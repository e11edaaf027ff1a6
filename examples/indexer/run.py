"""Start the processes, kill one of them on the way, and compare the result with that of a single process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from peerfabric import ConfigError, Node, TimedOut
from peerfabric.indexer.findings import Progress, Report, Totals, examine, sources
from peerfabric.nodes.cli.children import Children
from peerfabric.nodes.cli.own_fabric import own_fabric

WORKERS: Final = 4


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `alone` is the sum of a single process; durations are in seconds."""

    report: Report
    alone: Totals
    fabric_duration: float
    alone_duration: float

    @property
    def is_right(self) -> bool:
        """Whether every file counts once, whatever happened to the workers."""
        account = self.report.account
        return self.report.totals == self.alone and account.closes and account.acked == self.alone.modules


def run(folder: Path, on_progress: Callable[[Progress], None], on_event: Callable[[str], None]) -> Outcome:
    """Index `folder` with four workers, then again in this process. Nothing is left behind, however it ends.

    Args:
        on_progress: Called with each update of the topic.
        on_event: Called with a sentence about what happens.

    Raises:
        ConfigError: There is no Python file under `folder`.
        ChildFailed: A process ended that should not have.
    """
    work = sources(folder)
    if not work:
        raise ConfigError(f"{folder} has no Python files; give a folder that has")
    on_event(f"{len(work):,} files under {folder}")
    started_at = time.monotonic()
    with own_fabric("demo") as variables, Children(variables) as children, Node("demo") as node:
        report = _index(folder, node, children, on_progress, on_event)
    ended_at = time.monotonic()
    on_event("the same in a single process, to compare")
    alone = Totals()
    for source in work:
        alone.add(examine(source))
    return Outcome(
        report=report,
        alone=alone,
        fabric_duration=ended_at - started_at,
        alone_duration=time.monotonic() - ended_at,
    )


def _index(
    folder: Path,
    node: Node,
    children: Children,
    on_progress: Callable[[Progress], None],
    on_event: Callable[[str], None],
) -> Report:
    """Start everybody, kill one worker a third of the way, and return what the collector hands in."""
    updates = node.subscriber("progress", Progress)
    reports: list[Report] = []

    @node.on_message("reports")
    def take_report(report: Report) -> None:
        reports.append(report)

    def start_worker(number: int) -> None:
        children.start("peerfabric.indexer.worker", f"worker-{number}", name=f"worker-{number}")

    children.start("peerfabric.indexer.collector", name="collector")
    for number in range(1, WORKERS + 1):
        start_worker(number)
    children.start("peerfabric.indexer.producer", str(folder), name="producer")
    everybody_lives = True
    while not reports:
        children.check()
        try:
            progress = updates.get(timeout=0.2).body
        except TimedOut:
            continue  # topics are best effort: the end is the report, not the last update
        on_progress(progress)
        if everybody_lives and progress.done * 3 >= progress.of:
            everybody_lives = False
            children.kill("worker-1")
            start_worker(WORKERS + 1)
            on_event(f"worker-1 was killed (SIGKILL) after {progress.done:,} files; worker-{WORKERS + 1} joins")
    return reports[0]
