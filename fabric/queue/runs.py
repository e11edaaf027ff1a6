"""Runs of messages, and tables of them: of one place, and of all that is in flight.

A run is what the producer keeps of consecutive messages of which the same is known: the same attempt, the
same deaths, the same place. Whole runs move between the places; a run is cut only where an ack, a nack
or a small credit falls inside it, so work is in proportion to runs, not to messages.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from operator import attrgetter
from typing import Final

from peerfabric.ranges import Ranges
from peerfabric.wire.frames import Extra

ISOLATION: Final = {1: 4096, 2: 64}
"""Messages with so many deaths that one consumer holds at most; with more deaths, one and nothing else."""
DEATHS_TO_ISOLATE: Final = 3
"""A message with so many deaths is isolated: its consumer has nothing else of the queue, and a death counts as a failed
attempt, too."""
MESSAGE_OVERHEAD: Final = 64
"""Bytes counted for a message besides its body: about what a small `bytes` object and its places cost."""

Kind = tuple[float, int]
"""What has to be the same of all messages in a frame, besides what happens to them: when they expire, as an instant of
the producer's clock (inf: never), and how many messages before them wait for them to be settled. None: never, and
none, which is most of them and costs them nothing."""
DEPTH_MAX: Final = 16
"""A message before which so many wait for each other leads back to itself: it is enough that it is delivered."""
EXPIRIES_JOIN: Final = 0.01
"""Seconds by which a message may expire early to share a run with the one before it; never late."""

JOIN_MS: Final = 100
"""Milliseconds by which the times may differ at which messages of one run were accepted: it has that of the first."""

_first = attrgetter("first")
_NOBODY: frozenset[str] = frozenset()


class Run:
    """Messages `[first, stop)` of one stream with their bodies, and what has happened to them.

    attempt     which delivery this is or will be, from 1
    deaths      consumers that died while they held it
    alone        travels one message a frame, after a batch that failed as a whole
    breaks      links that were renewed when its frame was the first to get lost
    refused_by  node ids of consumers that could not decode it
    avoids      node ids of consumers that failed it, or died with it while isolated; others are preferred for a time
    died_at     node ids of consumers that died with it while it was isolated
    ran         in flight, in nobody's hands: they are acked once what their handlers sent is safe
    codec       how these bodies are encoded; None: as the queue's
    kind        when they expire and how deep they are; None: never, and not at all
    sent_ms     Unix milliseconds at which the first was accepted; JOIN_MS at most from the times of the others
    """

    __slots__ = (
        "alone",
        "attempt",
        "avoids",
        "bodies",
        "breaks",
        "codec",
        "cost",
        "deaths",
        "died_at",
        "doomed_at",
        "error",
        "extras",
        "first",
        "kind",
        "prefer_until",
        "ran",
        "refused_by",
        "sent_ms",
    )

    def __init__(self, first: int, bodies: list[bytes], cost: int, sent_ms: int, kind: Kind | None = None) -> None:
        self.first = first
        self.bodies = bodies
        self.cost = cost
        self.sent_ms = sent_ms
        self.attempt = 1
        self.deaths = self.breaks = 0
        self.alone = self.ran = False
        self.refused_by = _NOBODY
        self.doomed_at = inf
        """Since when all who are there have refused it."""
        self.avoids = self.died_at = _NOBODY
        self.prefer_until = -inf
        """Until then it goes to others than those."""
        self.error = ""
        self.extras: dict[int, Extra] | None = None
        self.codec: int | None = None
        self.kind = kind

    @property
    def stop(self) -> int:
        return self.first + len(self.bodies)

    @property
    def isolated(self) -> bool:
        return self.deaths >= DEATHS_TO_ISOLATE

    def fresh(self) -> bool:
        """Never sent, or sent without anything having happened to it, and without extras."""
        return (
            self.attempt == 1
            and not self.deaths
            and not self.breaks
            and not self.alone
            and not self.refused_by
            and not self.avoids
            and self.extras is None
        )

    def like(self, first: int, bodies: list[bytes]) -> Run:
        """A run of `bodies`, which are part of this one's and otherwise untouched."""
        made = Run(first, bodies, cost(bodies), self.sent_ms, self.kind)
        made.codec = self.codec
        if self.extras is not None:
            made.extras = {n: e for n, e in self.extras.items() if first <= n < first + len(bodies)} or None
        return made

    def cut(self, at: int) -> Run:
        """Keep `[first, at)` and return the rest as a run of its own."""
        count = at - self.first
        rest = Run(at, self.bodies[count:], 0, self.sent_ms, self.kind)
        rest.codec = self.codec
        rest.attempt, rest.breaks = self.attempt, self.breaks
        rest.deaths, rest.died_at = self.deaths, self.died_at
        rest.alone, rest.refused_by, rest.doomed_at = self.alone, self.refused_by, self.doomed_at
        rest.ran = self.ran
        rest.avoids, rest.prefer_until, rest.error = self.avoids, self.prefer_until, self.error
        rest.cost = cost(rest.bodies) if len(rest.bodies) < count else self.cost - cost(self.bodies[:count])
        del self.bodies[count:]
        self.cost -= rest.cost
        if self.extras is not None:
            rest.extras = {n: extra for n, extra in self.extras.items() if n >= at} or None
            self.extras = {n: extra for n, extra in self.extras.items() if n < at} or None
        return rest

    def extend(self, bodies: list[bytes], added_cost: int) -> None:
        """Append fresh messages."""
        self.bodies += bodies
        self.cost += added_cost

    def __repr__(self) -> str:
        return f"<Run [{self.first}, {self.stop}) attempt {self.attempt}>"


def joins(kind: Kind | None, following: Kind | None) -> bool:
    """Whether messages of the kind `following` may share a run with those of `kind`, and then be of that kind.

    So a run never expires later than one of its messages should, and the chain of those that join it does not drift.
    """
    if kind is None or following is None:
        return kind is following
    if kind[0] == following[0]:  # as of those that never expire
        return kind[1] == following[1]
    return kind[1] == following[1] and kind[0] < following[0] <= kind[0] + EXPIRIES_JOIN


def cost(bodies: list[bytes]) -> int:
    """What `bodies` count against a producer's buffer, in bytes."""
    return sum(map(len, bodies)) + MESSAGE_OVERHEAD * len(bodies)


class Runs:
    """Runs in order of their first sequence, never overlapping."""

    __slots__ = ("cost", "count", "ran", "runs")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self.runs: list[Run] = []
        self.count = self.ran = 0
        """All messages, and those of them that have run."""
        self.cost = 0
        for run in runs:
            self.add(run)

    def add(self, run: Run) -> None:
        """Put `run` in its place."""
        if not self.runs or run.first > self.runs[-1].first:
            self.runs.append(run)
        else:
            insort(self.runs, run, key=_first)
        self.count += len(run.bodies)
        self.cost += run.cost
        if run.ran:
            self.ran += len(run.bodies)

    def take(self, start: int, stop: int) -> list[Run]:
        """Remove and return what lies in `[start, stop)`, cutting runs at its edges."""
        runs = self.runs
        low = bisect_left(runs, start, key=_first)
        if low > 0 and runs[low - 1].stop > start:
            runs.insert(low, runs[low - 1].cut(start))
        high = low
        while high < len(runs) and runs[high].first < stop:
            if runs[high].stop > stop:
                runs.insert(high + 1, runs[high].cut(stop))
            high += 1
        taken = runs[low:high]
        del runs[low:high]
        for run in taken:
            self.count -= len(run.bodies)
            self.cost -= run.cost
            if run.ran:
                self.ran -= len(run.bodies)
        return taken

    def take_all(self) -> list[Run]:
        """Remove and return everything."""
        taken, self.runs = self.runs, []
        self.count = self.cost = self.ran = 0
        return taken

    def remove(self, run: Run) -> None:
        """Remove `run` as it is."""
        at = bisect_left(self.runs, run.first, key=_first)
        assert self.runs[at] is run, "not in this table"
        del self.runs[at]
        self.count -= len(run.bodies)
        self.cost -= run.cost
        if run.ran:
            self.ran -= len(run.bodies)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def check(self) -> None:
        """Assert order, no overlap, and that count and cost are the sums."""
        edges = [edge for run in self.runs for edge in (run.first, run.stop)]
        assert edges == sorted(edges), "runs overlap or are out of order"
        assert all(run.bodies for run in self.runs), "an empty run"
        assert self.count == sum(len(run.bodies) for run in self.runs), "count is not the sum"
        assert self.ran == sum(len(run.bodies) for run in self.runs if run.ran), "the sum of those that have run"
        assert self.cost == sum(run.cost for run in self.runs) == sum(cost(r.bodies) for r in self.runs), "cost"


class InFlight:
    """Runs in flight by peer instance, one table each; a peer without messages has none.

    The more deaths a message has, the fewer of its kind one consumer holds, until it is isolated: then it is alone.
    """

    def __init__(self) -> None:
        self.tables: dict[str, Runs] = {}
        self.isolated: dict[str, int] = {}
        """Peer -> the isolated message that it was given last."""

    def __contains__(self, peer: str) -> bool:
        return peer in self.tables

    @property
    def count(self) -> int:
        """Messages in flight."""
        return sum(table.count for table in self.tables.values())

    def counts(self) -> list[tuple[str, int]]:
        """Who has how many messages."""
        return [(peer, table.count) for peer, table in self.tables.items()]

    def runs(self, peer: str) -> Sequence[Run]:
        """What `peer` has, in order."""
        table = self.tables.get(peer)
        return table.runs if table is not None else ()

    def have(self, number: int) -> bool:
        """Whether message `number` is in flight."""
        return any(run.first <= number < run.stop for table in self.tables.values() for run in table)

    def room(self, peer: str, deaths: int) -> int:
        """How many more messages with so many deaths `peer` may have."""
        table = self.tables.get(peer)
        if deaths == 0:
            return 2**53
        if deaths >= DEATHS_TO_ISOLATE:
            return 1 if table is None or table.count == table.ran else 0
        held = 0
        for run in table or ():
            held += len(run.bodies) if run.deaths == deaths and not run.ran else 0
        return ISOLATION[deaths] - held

    @property
    def ran_count(self) -> int:
        """Those of them that have run."""
        return sum(table.ran for table in self.tables.values())

    def in_hand(self, peer: str) -> int:
        """How many `peer` has that have not run."""
        table = self.tables.get(peer)
        return table.count - table.ran if table is not None else 0

    def takes_more(self, peer: str) -> bool:
        """Whether `peer` may have others besides what it has in hand: no isolated message is there."""
        number = self.isolated.get(peer)
        if number is None:
            return True
        for run in self.runs(peer):
            if run.first == number and run.isolated and not run.ran:
                return False
        del self.isolated[peer]
        return True

    # Moving runs

    def has_run(self, peer: str, start: int, stop: int) -> None:
        """What `peer` has of `[start, stop)` has run there."""
        for run in self.take(peer, start, stop):
            run.ran = True
            self.add(peer, run)

    def add(self, peer: str, run: Run) -> None:
        """`run` is in flight at `peer`."""
        if run.deaths >= DEATHS_TO_ISOLATE:
            self.isolated[peer] = run.first
        table = self.tables.get(peer)
        if table is not None:
            table.add(run)
            return
        table = self.tables[peer] = Runs()
        table.runs.append(run)
        table.count, table.cost = len(run.bodies), run.cost
        if run.ran:
            table.ran = table.count

    def take(self, peer: str, start: int, stop: int) -> list[Run]:
        """Remove and return what `peer` has of `[start, stop)`."""
        table = self.tables.get(peer)
        if table is None:
            return []
        runs = table.runs
        if len(runs) == 1 and start <= runs[0].first and runs[0].first + len(runs[0].bodies) <= stop:
            del self.tables[peer]  # all that it has, as mostly in a dialogue
            return runs
        runs = table.take(start, stop)
        if not table.runs:
            del self.tables[peer]
        return runs

    def take_all(self, peer: str) -> list[Run]:
        """Remove and return what `peer` has."""
        self.isolated.pop(peer, None)
        table = self.tables.pop(peer, None)
        return table.take_all() if table is not None else []

    def clear(self) -> int:
        """Nothing is in flight any more; return what it cost."""
        released = sum(table.cost for table in self.tables.values())
        self.tables.clear()
        return released

    def take_missing(self, peer: str, held: Ranges) -> list[Run]:
        """`peer` says that it holds `held`: remove and return what it should have besides."""
        return [
            run
            for start, stop in self.ranges(peer)
            for low, high in held.missing(start, stop)
            for run in self.take(peer, low, high)
        ]

    def ranges(self, peer: str) -> Ranges:
        """The numbers that `peer` has."""
        return Ranges((run.first, run.stop) for run in self.runs(peer))

    def fronts(self) -> list[Run]:
        """Of each peer the run with the lowest number."""
        return [table.runs[0] for table in self.tables.values() if table.runs]

    def places(self) -> Iterator[tuple[str, Sequence[Run]]]:
        """Each peer with its runs."""
        for peer, table in self.tables.items():
            yield peer, table.runs

    def check(self) -> None:
        """Assert that tables are in order, and isolated messages alone."""
        for peer, table in self.tables.items():
            assert table, f"{peer} has an empty table"
            table.check()
            if any(run.isolated and not run.ran for run in table):
                assert table.count - table.ran == 1, f"a message with three deaths is not alone at {peer}"
