"""Stages of a pipeline without any spool are killed with SIGKILL: what its source takes for processed is at its end."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

STAGES = ("work", "work.on", "work.on.on")
"""What each of them takes from; it sends on to the next."""


def kill_stages(cluster: Any, figures: Any, *, count: int, every: float, concurrency: int = 1) -> None:
    """`count` messages through three stages, of which one at random is killed `every` so many seconds and replaced."""
    end = cluster.start("sink", queue=f"{STAGES[-1]}.on")
    stages = {queue: cluster.start("stage", queue=queue, concurrency=concurrency) for queue in STAGES}
    for name in (end, *stages.values()):
        assert cluster.line(name) == "ready"
    source = cluster.start("produce", count=count)
    stream = cluster.line(source)
    assert cluster.line(source) == "sent"
    started_at, kills = time.monotonic(), 0
    over = cluster.folder / f"{source}.account"
    while not over.exists():
        queue = cluster.random.choice(STAGES)
        cluster.kill(stages[queue])
        kills += 1
        stages[queue] = cluster.start("stage", queue=queue, concurrency=concurrency)
        assert cluster.line(stages[queue]) == "ready"
        # Once a second, and on a machine that is busy not before the pipeline is whole for half of that.
        due = max(started_at + kills * every, time.monotonic() + every / 2)
        cluster.wait_for(lambda due=due: time.monotonic() >= due or over.exists(), "the next kill")
    assert cluster.line(source) == "settled"
    took = time.monotonic() - started_at
    times = Counter(int(run.id) for run in cluster.runs())
    lost = set(range(count)) - times.keys()
    figures("lost", f"{len(lost)} of {count:,} with {kills} kills in {took:.1f} s", not lost)
    figures("twice at the end", f"{sum(times.values()) - count:,}", True)
    assert not lost, f"{len(lost)} of {stream} are lost, one is {min(lost)} (seed {cluster.seed})"
    assert times.keys() == set(range(count))
    account = cluster.account(source)
    assert (account["closes"], account["acked"], account["dead_lettered"]) == (True, count, 0)


def test_three_stages_one_of_which_is_killed_at_a_time(cluster: Any, figures: Any) -> None:
    """5,000 messages, a kill each half second."""
    kill_stages(cluster, figures, count=5_000, every=0.5)


@pytest.mark.long
def test_three_stages_of_which_one_is_killed_each_second(cluster: Any, figures: Any) -> None:
    """100,000 messages."""
    kill_stages(cluster, figures, count=100_000, every=1.0)


@pytest.mark.long
def test_three_stages_with_many_threads(cluster: Any, figures: Any) -> None:
    """100,000 messages, four threads a stage."""
    kill_stages(cluster, figures, count=100_000, every=1.0, concurrency=4)
