"""Messages in flight of one queue, as runs, by peer instance.

The more deaths a message has, the fewer of its kind one consumer holds, until it is isolated: then it is alone there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peerfabric.queue.runs import DEATHS_TO_ISOLATE, ISOLATION, Run, Runs
from peerfabric.ranges import Ranges


class InFlight:
    """The tables of what is in flight. A holder without messages has none."""

    def __init__(self) -> None:
        self._tables: dict[str, Runs] = {}

    def __contains__(self, holder: str) -> bool:
        return holder in self._tables

    @property
    def count(self) -> int:
        """Messages in flight."""
        return sum(table.count for table in self._tables.values())

    def counts(self) -> list[tuple[str, int]]:
        """Who has how many messages."""
        return [(holder, table.count) for holder, table in self._tables.items()]

    def count_at(self, holder: str) -> int:
        table = self._tables.get(holder)
        return table.count if table is not None else 0

    def runs(self, holder: str) -> Sequence[Run]:
        """What `holder` has, in order."""
        table = self._tables.get(holder)
        return table.runs if table is not None else ()

    def have(self, number: int) -> bool:
        """Whether message `number` is in flight."""
        return any(run.first <= number < run.stop for table in self._tables.values() for run in table)

    # Isolation

    def has_isolated(self, holder: str) -> bool:
        """Whether `holder` has a message with three or more deaths, which must be alone there."""
        table = self._tables.get(holder)
        return table is not None and table.count == 1 and table.runs[0].isolated

    def room(self, holder: str, deaths: int) -> int:
        """How many more messages with so many deaths `holder` may have."""
        table = self._tables.get(holder)
        if deaths == 0:
            return 2**53
        if deaths >= DEATHS_TO_ISOLATE:
            return 0 if table else 1
        held = sum(len(run.bodies) for run in table if run.deaths == deaths) if table is not None else 0
        return ISOLATION[deaths] - held

    # Moving runs

    def add(self, holder: str, run: Run) -> None:
        """`run` is in flight at `holder`."""
        self._tables.setdefault(holder, Runs()).add(run)

    def take(self, holder: str, start: int, stop: int) -> list[Run]:
        """Remove and return what `holder` has of `[start, stop)`."""
        table = self._tables.get(holder)
        if table is None:
            return []
        runs = table.take(start, stop)
        if not table:
            del self._tables[holder]
        return runs

    def take_all(self, holder: str) -> list[Run]:
        """Remove and return what `holder` has."""
        table = self._tables.pop(holder, None)
        return table.take_all() if table is not None else []

    def clear(self) -> int:
        """Nothing is in flight any more; return what it cost."""
        released = sum(table.cost for table in self._tables.values())
        self._tables.clear()
        return released

    def take_missing(self, holder: str, held: Ranges) -> list[Run]:
        """`holder` says that it holds `held`: remove and return what it should have besides."""
        return [
            run
            for start, stop in self.ranges(holder)
            for low, high in held.missing(start, stop)
            for run in self.take(holder, low, high)
        ]

    def ranges(self, holder: str) -> Ranges:
        """The numbers that `holder` has."""
        return Ranges((run.first, run.stop) for run in self.runs(holder))

    def places(self) -> Iterator[tuple[str, Sequence[Run]]]:
        """Each holder with its runs."""
        for holder, table in self._tables.items():
            yield holder, table.runs

    def check(self) -> None:
        """Assert that tables are in order, and isolated messages alone."""
        for holder, table in self._tables.items():
            assert table, f"{holder} has an empty table"
            table.check()
            if any(run.isolated for run in table):
                assert table.count == 1, f"a message with three deaths is not alone at {holder}"
