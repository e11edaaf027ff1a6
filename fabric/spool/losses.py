"""Which messages are lost, and which settled, by what is known of them. FORMAT.md, section 6."""

from __future__ import annotations

from dataclasses import dataclass, field

from peerfabric.ranges import Ranges
from peerfabric.spool.cursor import Cursor

Range = tuple[int, int, int]
"""(epoch, first, stop)"""


@dataclass
class Known:
    """What a scan has found of the messages of one log."""

    intact: dict[int, Ranges] = field(default_factory=dict)
    highest: dict[int, int] = field(default_factory=dict)
    """By epoch, the stop of the highest intact message."""
    damaged: dict[int, Ranges] = field(default_factory=dict)
    """Named by headers whose bodies are wrong."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """(epoch, next expected sequence) where bytes began that are no record."""

    def take(self, epoch: int, first: int, stop: int) -> None:
        """These messages are intact."""
        self.intact.setdefault(epoch, Ranges()).add(first, stop)
        self.highest[epoch] = max(self.highest.get(epoch, 0), stop)

    def has_all(self, epoch: int, first: int, stop: int) -> bool:
        """Whether all of `[first, stop)` is known to be intact."""
        return not self.intact[epoch].missing(first, stop) if epoch in self.intact else False


def settled(known: Known, cursor: Cursor, *, dense: bool) -> dict[int, Ranges]:
    """What the cursor says of epochs that are still there.

    In a `dense` log sequences come in order, so what it says in few words holds too: below its oldest, and of epochs
    without a line, everything is settled.
    """
    found = {}
    for epoch in known.intact:
        ranges = found[epoch] = Ranges(cursor.settled.get(epoch, ()))
        if dense:
            oldest = known.highest[epoch] if cursor.forgotten(epoch) else cursor.spans.get(epoch, (1, 1))[0]
            ranges.add(1, oldest)
    return {epoch: ranges for epoch, ranges in found.items() if ranges}


def lost(known: Known, cursor: Cursor | None, *, dense: bool) -> list[Range]:
    """What was stored once, is neither intact nor settled, and what is at the end of an epoch: one for all of that."""
    found: list[Range] = []
    spans = cursor.spans if cursor is not None and dense else {}
    for epoch in sorted({*known.intact, *known.damaged, *spans}):
        intact, done = known.intact.get(epoch, Ranges()), Ranges(cursor.settled.get(epoch, ()) if cursor else ())
        suspects = _span(epoch, known, cursor) if dense else list(known.damaged.get(epoch, ()))
        gone = [gap for low, high in suspects for gap in intact.missing(low, high)]
        found += [(epoch, *part) for low, high in gone for part in done.missing(low, high)]
        tops = [following for of, following in known.ends if of == epoch and following >= _top(epoch, known, spans)]
        if dense and tops and tops[0] not in done:
            found.append((epoch, tops[0], tops[0] + 1))
    return found


def _span(epoch: int, known: Known, cursor: Cursor | None) -> list[tuple[int, int]]:
    """The range in which every number was stored once."""
    spans = cursor.spans if cursor is not None else {}
    if epoch in spans:
        low = spans[epoch][0]
    elif cursor is not None:
        # A cursor names what is left of each epoch, so nothing was removed of one that it does not name, or all.
        if cursor.forgotten(epoch):
            return []
        low = 1
    else:
        low = min(r.lowest or 1 for r in (known.intact.get(epoch), known.damaged.get(epoch)) if r)
    return [(low, _top(epoch, known, spans))]


def _top(epoch: int, known: Known, spans: dict[int, tuple[int, int]]) -> int:
    """The number after the highest that is known of."""
    damaged = max((stop for _, stop in known.damaged.get(epoch, ())), default=1)
    return max(known.highest.get(epoch, 1), damaged, spans.get(epoch, (1, 1))[1])
