"""Producers with a spool and consumers are killed with SIGKILL at random: what `send` accepted is processed.

`CHAOS_SEED=… pytest tests/chaos/test_spool_kills.py` repeats the schedule of a run.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

LINE = re.compile(r"(\S+/\d+) (\d+\.\d{6})(?: (p\d:\d+)\.|\.)")


class Text(NamedTuple):
    """A message in the hands of a consumer: it ran at `at`, or with no body, its ack had returned then."""

    id: str
    at: float
    body: str
    consumer: str


def texts(cluster: Any) -> list[Text]:
    found = []
    for path in sorted(cluster.folder.glob("*.texts")):
        for line in path.read_text().splitlines():
            whole = LINE.fullmatch(line)
            if whole is not None:  # else its process was killed as it wrote
                identity, at, body = whole.groups(default="")
                found.append(Text(identity, float(at), body, path.stem))
    return sorted(found, key=lambda text: text.at)


def ran(cluster: Any) -> int:
    return sum(path.read_bytes().count(b"\n") for path in cluster.folder.glob("*.texts")) // 2


def kill_everybody(
    cluster: Any, figures: Any, *, count: int, kills: int, fsync: int = 0, ledger: int = 0, batches: int = 0
) -> None:
    """Two producers of `count` messages together and four consumers; `kills` of them at random moments."""
    each = count // 2
    kinds = {f"p{n}": ("spooled", {"count": each, "fsync": fsync, "seed": cluster.seed}) for n in (1, 2)}
    consuming = {"batches": batches, "ledger": ledger}
    kinds |= {f"c{n}": ("texts", {**consuming, "batches": batches if n % 2 else 0}) for n in range(1, 5)}
    for name, (kind, options) in kinds.items():
        cluster.start(kind, name=name, **options)
    moments = sorted(cluster.random.uniform(0.02, 0.95) for _ in range(kills))
    victims = [cluster.random.choice(sorted(kinds)) for _ in moments]
    for moment, victim in zip(moments, victims, strict=True):
        cluster.wait_for(lambda moment=moment: ran(cluster) >= moment * count, "progress")
        cluster.kill(victim)
        kind, options = kinds[victim]
        cluster.start(kind, name=victim, **options)
    for producer in ("p1", "p2"):
        while cluster.line(producer) != "settled":
            pass
        account = cluster.account(producer)
        assert account["closes"], account
        assert (account["dead_lettered"], account["damaged"]) == (0, 0)
    check(cluster, figures, count, ledger=bool(ledger))


def check(cluster: Any, figures: Any, count: int, *, ledger: bool) -> None:
    accepted = {line for n in (1, 2) for line in (cluster.folder / f"p{n}.accepted").read_text().splitlines()}
    assert len(accepted) == count
    seen = texts(cluster)
    runs = [text for text in seen if text.body]
    lost = accepted - {run.body for run in runs}
    assert not lost, f"{len(lost)} accepted messages never ran, one is {min(lost)} (seed {cluster.seed})"
    by_id: dict[str, list[Text]] = defaultdict(list)
    for run in runs:
        by_id[run.id].append(run)
    twice = {identity: times for identity, times in by_id.items() if len(times) > 1}
    why = Counter(explain(cluster, first, second) for times in twice.values() for first, second in pairwise(times))
    figures("ran twice", f"{len(twice)} of {len(by_id)} messages, after {dict(why)}", True)
    if ledger:
        acked: Counter[tuple[str, str]] = Counter()
        for text in seen:
            if text.body:
                assert not acked[text.id, text.consumer], told_again(cluster, text, seen)
            else:
                acked[text.id, text.consumer] += 1
        figures("run again where they had been acked", "0", True)


def told_again(cluster: Any, text: Text, seen: list[Text]) -> str:
    """The story of a message that ran where it had been acked."""
    lines = [f"{t.at:.3f} {t.consumer} {'ran' if t.body else 'acked'}" for t in seen if t.id == text.id]
    lines += [f"{at:.3f} {name} killed" for name, at in cluster.killed]
    return f"{text} had been acked there (seed {cluster.seed})\n" + "\n".join(sorted(lines))


def explain(cluster: Any, first: Text, second: Text) -> str:
    """A second run needs a death: of who ran it first, before its ack was safe, or of the producer."""
    between = [name for name, at in cluster.killed if first.at - 0.001 <= at <= second.at]
    if first.consumer in between:
        return "its consumer's death"
    assert any(n.startswith("p") for n in between), f"no reason: {first} {second} (seed {cluster.seed})"
    return "its producer's death"


def test_producers_and_consumers_are_killed(cluster: Any, figures: Any) -> None:
    """50,000 messages, 20 kills."""
    kill_everybody(cluster, figures, count=50_000, kills=20, batches=500)


def test_durable_consumers_are_killed(cluster: Any, figures: Any) -> None:
    """The same with ledgers, fewer messages: no consumer runs again what it had acked."""
    kill_everybody(cluster, figures, count=20_000, kills=12, batches=100, ledger=1)


def test_spools_that_sync(cluster: Any, figures: Any) -> None:
    """The same with fsync=True."""
    kill_everybody(cluster, figures, count=20_000, kills=8, fsync=1, batches=500)


@pytest.mark.long
def test_a_million_messages_and_two_hundred_kills(cluster: Any, figures: Any) -> None:
    """The long form."""
    kill_everybody(cluster, figures, count=1_000_000, kills=200, batches=2000, ledger=1)
