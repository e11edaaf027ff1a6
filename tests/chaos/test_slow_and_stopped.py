"""One consumer is stopped, or slow: it costs itself only."""

from __future__ import annotations

import signal
import time
from itertools import pairwise
from typing import Any

import pytest


def rate_of(runs: list[Any], consumers: list[str], since: float, until: float) -> float:
    """Messages a second that `consumers` started in `[since, until)`."""
    return sum(1 for run in runs if run.consumer in consumers and since <= run.at < until) / (until - since)


def stop_one_of_four(
    cluster: Any, figures: Any, *, count: int, stopped_for: float, lease: float, work_ms: float
) -> None:
    """SIGSTOP one of four for a while, SIGCONT, and look at everybody's rate and at what ran twice."""
    names = [cluster.start("consume", work_ms=work_ms, lease=lease) for _ in range(4)]
    for name in names:
        assert cluster.line(name) == "ready"
    producer = cluster.start("produce", count=count)
    stream = cluster.line(producer)
    cluster.wait_for(lambda: cluster.processed() >= count * 0.02, "a start")
    began_at = time.monotonic()
    time.sleep(min(5.0, stopped_for / 2))
    victim, others = names[0], names[1:]
    stopped_at = time.monotonic()
    cluster.signal(victim, signal.SIGSTOP)
    memory = []
    while time.monotonic() < stopped_at + stopped_for:
        memory.append(cluster.resident_bytes(producer))
        time.sleep(0.1)
    continued_at = time.monotonic()
    cluster.signal(victim, signal.SIGCONT)
    assert cluster.line(producer) == "sent"
    assert cluster.line(producer) == "settled"
    times = cluster.check_everything_ran(stream, count)
    account = cluster.account(producer)
    assert (account["closes"], account["acked"]) == (True, count)
    runs = cluster.runs()
    before = rate_of(runs, others, began_at, stopped_at)
    meanwhile = rate_of(runs, others, stopped_at, continued_at)
    figures(
        "rate of the others while one is stopped",
        f"{meanwhile:,.0f}/s of {before:,.0f}/s, {meanwhile / before:.0%}",
        meanwhile >= 0.9 * before,
    )
    figures("memory of the producer", f"{max(memory) / 2**20:.0f} MiB", max(memory) < memory[0] + 64 * 2**20)
    twice = {identity for identity, n in times.items() if n > 1}
    by_victim = {run.id for run in runs if run.consumer == victim}
    late = [run for run in runs if run.consumer == victim and run.at > continued_at and run.id in twice]
    figures(
        "ran twice",
        f"{len(twice)}, of which {len(twice - by_victim)} not in the stopped one's hands",
        not twice - by_victim,
    )
    figures("started by the stopped one after SIGCONT though given to others", str(len(late)), not late)
    assert not twice - by_victim
    assert not late


def test_a_stopped_consumer_costs_itself_only(cluster: Any, figures: Any) -> None:
    """One of four is stopped for 4 s; its lease is over before it goes on."""
    stop_one_of_four(cluster, figures, count=6_000, stopped_for=4.0, lease=2.0, work_ms=5.0)


@pytest.mark.long
def test_a_consumer_stopped_for_twenty_seconds(cluster: Any, figures: Any) -> None:
    """The full form: 20 s, lease 10 s."""
    stop_one_of_four(cluster, figures, count=30_000, stopped_for=20.0, lease=10.0, work_ms=5.0)


def one_slow_among_four(cluster: Any, figures: Any, *, count: int, work_ms: float) -> None:
    """Three consumers of one speed and one ten times slower: the throughput is what their speeds add up to."""
    fast = [cluster.start("consume", work_ms=work_ms) for _ in range(3)]
    slow = cluster.start("consume", work_ms=work_ms * 10)
    for name in [*fast, slow]:
        assert cluster.line(name) == "ready"
    producer = cluster.start("produce", count=count)
    stream = cluster.line(producer)
    assert cluster.line(producer) == "sent"
    assert cluster.line(producer) == "settled"
    times = cluster.check_everything_ran(stream, count)
    assert set(times.values()) == {1}
    runs = cluster.runs()
    took = max(run.at for run in runs) - min(run.at for run in runs)
    # A speed is what a consumer did while it was at work, measured by its own log, sleep's overshoot included.
    ideal = 0.0
    for name in [*fast, slow]:
        mine = sorted(run.at for run in runs if run.consumer == name)
        gaps = sorted(b - a for a, b in pairwise(mine))
        ideal += 1 / gaps[len(gaps) // 2]
    figures(
        "throughput with one slow consumer",
        f"{count / took:,.0f}/s of {ideal:,.0f}/s, {count / took / ideal:.0%}",
        count / took >= 0.9 * ideal,
    )


def test_a_slow_consumer_costs_itself_only(cluster: Any, figures: Any) -> None:
    """2,000 messages."""
    one_slow_among_four(cluster, figures, count=2_000, work_ms=3.0)


@pytest.mark.long
def test_a_slow_consumer_for_longer(cluster: Any, figures: Any) -> None:
    """20,000 messages."""
    one_slow_among_four(cluster, figures, count=20_000, work_ms=3.0)
