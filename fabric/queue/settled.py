"""Settled messages of one outgoing queue: their numbers, how each ended, and the floor below which all are."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, Literal

from peerfabric.ranges import Ranges

if TYPE_CHECKING:
    from peerfabric.queue.handon import Watch

End = Literal["acked", "dead_lettered", "expired", "dropped", "damaged"]
"""How a message ends."""
_WORDS: Final[dict[End, str]] = {
    "dead_lettered": "dead",
    "expired": "expired",
    "dropped": "dropped",
    "damaged": "damaged",
}


class Settled:
    """Numbers of settled messages with how each ended, and the floor below which all are.

    settled = acked ⊎ dead-lettered ⊎ expired ⊎ dropped ⊎ damaged. A node that closes leaves the rest as it is: that
    counts as left at close, and is not settled, as nobody who waits for a message may take it for done.

    Args:
        settled: What was settled by earlier lives.
        damaged: What of that is damaged.
    """

    def __init__(self, settled: Ranges | None = None, damaged: Ranges | None = None) -> None:
        self.numbers = settled if settled is not None else Ranges()
        self.counts: dict[End, int] = {"acked": 0, "dead_lettered": 0, "expired": 0, "dropped": 0, "damaged": 0}
        self.left = Ranges()
        """What was not settled when the node closed."""
        self._top = 1
        """Nothing from here on is settled."""
        self.arrived = Ranges()
        """Those not settled that lie in a consumer's memory."""
        self.watch: Watch | None = None
        """To be told what is settled and what arrives."""
        self._unprocessed: dict[End, Ranges] = {}
        """Those settled that nobody has processed, by how they ended."""
        if damaged:
            self.counts["damaged"] = damaged.total
            self._unprocessed["damaged"] = Ranges(damaged)
        self.floor_max: float = inf
        """The lowest number whose dead letter is not on disk: above the floor, or it would be taken for processed."""
        self.floor = self._floor_checked = self.numbers.first_missing(1)
        """The lowest number that is not settled, at most `floor_max`."""
        for _, stop in self.numbers:
            self._top = stop

    def settle(self, how: End, start: int, stop: int) -> None:
        """`[start, stop)` ended that way."""
        self.counts[how] += stop - start
        self.numbers.add(start, stop)
        self._top = max(self._top, stop)
        if self.arrived.total:
            self.arrived.remove(start, stop)
        if self.watch is not None:
            self.watch.settled.append((start, stop))
        if how != "acked":
            self._unprocessed.setdefault(how, Ranges()).add(start, stop)
        if start <= self.floor:
            self.raise_floor()

    def dead_before(self, start: int, stop: int) -> None:
        """`[start, stop)` died in an earlier life, which settled it."""
        self._unprocessed.setdefault("dead_lettered", Ranges()).add(start, stop)

    def leave(self, stop: int) -> None:
        """The node closes; what of `[1, stop)` is not settled stays so."""
        self.left = Ranges(self.numbers.missing(1, stop))

    def delivered(self, start: int, stop: int) -> None:
        """What is not settled of `[start, stop)` lies in a consumer's memory."""
        for low, high in self.numbers.missing(start, stop) if start < self._top else ((start, stop),):
            self.arrived.add(low, high)
        if self.watch is not None:
            self.watch.reached.append((start, stop))

    def raise_floor(self) -> None:
        """Something may have been settled, or `floor_max` be another."""
        floor = self.numbers.first_missing(self.floor)
        self.floor = floor if floor <= self.floor_max else int(self.floor_max)

    def of(self, number: int) -> str:
        """ "delivered", "processed", "dead", "expired", "dropped" or "damaged"; "" if nothing became of it yet."""
        if number in self.numbers:
            for how, numbers in self._unprocessed.items():
                if number in numbers:
                    return _WORDS[how]
            return "processed"
        return "delivered" if number in self.arrived else ""

    def check(self) -> None:
        """Assert that the floor is where it should be, and never fell."""
        assert self.floor == min(self.numbers.first_missing(1), self.floor_max), "floor is not the lowest unsettled"
        assert self.floor >= self._floor_checked, "the floor fell"
        for numbers in (self.arrived, self.left):
            assert not any(self.numbers.common(*r) for r in numbers), "settled, and yet to be settled"
        for how, numbers in self._unprocessed.items():
            assert not any(self.numbers.missing(*r) for r in numbers), f"{how}, and not settled"
        self._floor_checked = self.floor
