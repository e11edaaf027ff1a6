"""Consumers are killed with SIGKILL under load and replaced: nothing is lost, little runs twice."""

from __future__ import annotations

from typing import Any

import pytest


def kill_and_replace(
    cluster: Any, figures: Any, quantile: Any, *, count: int, consumers: int, kills: int, work_ms: float
) -> None:
    """`count` messages, some `consumers`, `kills` of them killed at random moments of the work and replaced."""
    names = [cluster.start("consume", work_ms=work_ms) for _ in range(consumers)]
    for name in names:
        assert cluster.line(name) == "ready"
    producer = cluster.start("produce", count=count)
    stream = cluster.line(producer)
    moments = sorted(cluster.random.uniform(0.05, 0.85) for _ in range(kills))
    for moment in moments:
        cluster.wait_for(lambda moment=moment: cluster.processed() >= moment * count, "progress")
        # One that has only just been started holds nothing yet that could be taken over.
        cluster.wait_for(lambda: any(map(cluster.has_worked, names)), "work of a consumer")
        victim = cluster.random.choice([name for name in names if cluster.has_worked(name)])
        cluster.kill(victim)
        names[names.index(victim)] = cluster.start("consume", work_ms=work_ms)
    assert cluster.line(producer) == "sent"
    assert cluster.line(producer) == "settled"
    times = cluster.check_everything_ran(stream, count)
    account = cluster.account(producer)
    assert (account["closes"], account["acked"]) == (True, count)
    duplicates = sum(times.values()) - count
    takeovers = cluster.takeovers()
    figures(
        "duplicates", f"{duplicates} with {account['redelivered']} redelivered", duplicates <= account["redelivered"]
    )
    worst = quantile(takeovers, 0.99)
    figures("takeover p50 / p99", f"{quantile(takeovers, 0.5) * 1000:.0f} / {worst * 1000:.0f} ms", worst <= 1.0)
    # Acked ones are in flight too until their ack has arrived; the producer counts all that were with the dead.
    assert duplicates <= account["redelivered"]


def test_three_of_four_consumers_are_killed(cluster: Any, figures: Any, quantile: Any) -> None:
    """10,000 messages, 4 consumers, 3 kills."""
    kill_and_replace(cluster, figures, quantile, count=10_000, consumers=4, kills=3, work_ms=0.2)


@pytest.mark.long
def test_ten_consumers_are_killed(cluster: Any, figures: Any, quantile: Any) -> None:
    """200,000 messages, 4 consumers, 10 kills."""
    kill_and_replace(cluster, figures, quantile, count=200_000, consumers=4, kills=10, work_ms=0.2)


@pytest.mark.long
def test_ten_fast_consumers_are_killed(cluster: Any, figures: Any, quantile: Any) -> None:
    """The same with handlers that do nothing but log, so that large batches are in flight."""
    kill_and_replace(cluster, figures, quantile, count=200_000, consumers=4, kills=10, work_ms=0)
