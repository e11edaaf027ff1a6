"""Producers with a spool and consumers are killed with SIGKILL at random: what `send` accepted is processed.

`CHAOS_SEED=… pytest tests/chaos/test_spool_kills.py` repeats the schedule of a run.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import combinations, pairwise
from math import inf
from typing import Any, NamedTuple

import pytest

LINE = re.compile(r"(\S+/\d+) (\d+\.\d{6})(?: (p\d:\d+)\.|\.)")


class Text(NamedTuple):
    """A message in the hands of a consumer: it ran at `at`, or with no body, its ack had returned then."""

    id: str
    at: float
    body: str
    consumer: str


Acks = dict[tuple[str, str], Text]
"""Of (id, consumer): its first ack there."""
HUNG = 5.0
"""Seconds in which every ack is heard, however busy the machine is."""
UNHEARD = "its consumer's death before its ack was heard"


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
    runs: int = sum(path.read_bytes().count(b"\n") for path in cluster.folder.glob("*.texts")) // 2
    return runs


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
    twice = [times for times in by_id.values() if len(times) > 1]
    acks = {(text.id, text.consumer): text for text in reversed(seen) if not text.body}
    pairs = [pair for times in twice for pair in pairwise(times)]
    lives = check_names(by_id)
    why = {first: explain(cluster, first, second, acks, lives) for first, second in pairs}
    check_unheard(cluster, [first for first, reason in why.items() if reason == UNHEARD], acks)
    for first, second in (pair for times in twice for pair in combinations(times, 2)):
        same_life = first.consumer == second.consumer and not died(cluster, first.consumer, first.at, second.at)
        assert not same_life, f"twice in one life of a consumer: {first} {second} (seed {cluster.seed})"
    figures("ran twice", f"{len(twice)} of {len(by_id)} messages, after {dict(Counter(why.values()))}", True)
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
    lines += [f"{death.at:.3f} {death.name} killed" for death in cluster.killed]
    return f"{text} had been acked there (seed {cluster.seed})\n" + "\n".join(sorted(lines))


def check_names(by_id: dict[str, list[Text]]) -> dict[str, int]:
    """An id is that of one body for ever, and its node that of one producer. Returns the streams of each, from 1 on.

    A body whose producer was killed before it noted that it was sent has another id, of another life.
    """
    ids_of: dict[str, list[str]] = defaultdict(list)
    streams: dict[str, set[str]] = defaultdict(set)
    for identity, times in by_id.items():
        assert len({run.body for run in times}) == 1, f"{identity} is {times}"
        ids_of[times[0].body].append(identity)
        streams[producer_of(times[0])].add(stream_of(times[0]))
    for body, ids in ids_of.items():
        lives = {identity.rpartition("/")[0] for identity in ids}
        assert len(ids) == len(lives), f"one life has stored {body} twice: {ids}"
    nodes = [{stream.partition(":")[0] for stream in found} for found in streams.values()]
    assert [len(found) for found in nodes] == [1, 1]
    assert nodes[0] != nodes[1]
    in_order = (sorted(found, key=lambda stream: int(stream.split(":")[1])) for found in streams.values())
    return {stream: number for found in in_order for number, stream in enumerate(found, 1)}


def stream_of(run: Text) -> str:
    return run.id.rpartition("/")[0]


def producer_of(run: Text) -> str:
    return run.body.partition(":")[0]


def died(cluster: Any, name: str, since: float, until: float) -> list[Any]:
    """The deaths of that process which may have happened between the two."""
    return [death for death in cluster.killed if death.name == name and since <= death.over and death.at <= until]


def explain(cluster: Any, first: Text, second: Text, acks: Acks, lives: dict[str, int]) -> str:
    """Why a message ran again: a death of who ran it first, before its ack was safe, or one of its own producer.

    A producer that died may not know of an ack, and gives the message to another consumer; the one that had it says so.
    Its copy was sent before that death, so it was accepted before, too, and a consumer that ran it later lived by then.
    """
    consumer = died(cluster, first.consumer, first.at, second.at)
    mine = [death for death in cluster.killed if death.name == producer_of(first)]
    if consumer:
        ack = acks.get((first.id, first.consumer))
        if ack is None or ack.at < first.at or ack.at > consumer[0].over:
            return "its consumer's death before its ack"
        both = any(first.at <= death.over and death.at <= second.at for death in mine)
        return "its consumer's and its producer's deaths" if both else UNHEARD
    for number, death in enumerate(mine, 1):
        # The n-th process of a producer has at most its n-th epoch: one may be killed before it began its own.
        had_it = first.at <= death.over or not died(cluster, first.consumer, death.at, first.at)
        if death.at <= second.at and lives[stream_of(first)] <= number and had_it and first.consumer != second.consumer:
            return "its producer's death"
    raise AssertionError(f"no reason: {first} {second} {cluster.killed} (seed {cluster.seed})")


def check_unheard(cluster: Any, unheard: list[Text], acks: Acks) -> None:
    """An ack leaves at once: only a death soon after it can keep it from being heard.

    Of two acks before one death the later one may be heard, as their order is not promised.
    """
    for first in unheard:
        ack = acks[first.id, first.consumer]
        death = died(cluster, first.consumer, ack.at, inf)[0]
        assert death.at - ack.at < HUNG, f"{ack} was not heard before {death} (seed {cluster.seed})"


def test_producers_and_consumers_are_killed(cluster: Any, figures: Any) -> None:
    """50,000 messages, 20 kills."""
    kill_everybody(cluster, figures, count=50_000, kills=20, batches=500)


def test_durable_consumers_are_killed(cluster: Any, figures: Any) -> None:
    """The same with ledgers, fewer messages: no consumer runs again what it had acked."""
    kill_everybody(cluster, figures, count=20_000, kills=12, batches=100, ledger=1)


@pytest.mark.long
def test_spools_that_sync(cluster: Any, figures: Any) -> None:
    """The same with fsync=True."""
    kill_everybody(cluster, figures, count=20_000, kills=8, fsync=1, batches=500)


@pytest.mark.long
def test_a_million_messages_and_two_hundred_kills(cluster: Any, figures: Any) -> None:
    """The long form."""
    kill_everybody(cluster, figures, count=1_000_000, kills=200, batches=2000, ledger=1)
