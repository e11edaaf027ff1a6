"""Settled messages of one queue: which they are and how each ended, and the floor below which all are.

settled = acked ⊎ dead-lettered ⊎ dropped ⊎ damaged

A node that closes leaves the rest as it is. That counts as left at close, and is not settled: nobody who waits for a
message may take it for done.
"""

from __future__ import annotations

from typing import Final, Literal

from peerfabric.queue.durable import Backlog
from peerfabric.ranges import Ranges

Fate = Literal["acked", "dead_lettered", "dropped", "damaged"]
_WORDS: Final[dict[Fate, str]] = {"dead_lettered": "dead", "dropped": "dropped", "damaged": "damaged"}


class Settled:
    """The settled_messages of messages by their numbers.

    Args:
        backlog: With a spool, what is on disk; it is told what need not be sent again.
    """

    def __init__(self, backlog: Backlog | None) -> None:
        self.floor = 1
        """The lowest number that is not settled. It stays below what is dead and has no letter on disk: that would be
        taken for processed."""
        self.counts: dict[Fate, int] = {
            "acked": 0,
            "dead_lettered": 0,
            "dropped": 0,
            "damaged": backlog.damaged.total if backlog is not None else 0,
        }
        self.left = Ranges()
        """What was not settled when the node closed."""
        self.settled = backlog.settled if backlog is not None else Ranges()
        self._backlog = backlog
        self._delivered = Ranges()
        self._unprocessed: dict[Fate, Ranges] = {fate: Ranges() for fate in _WORDS}
        """Those settled that nobody has processed, by their fate."""
        if backlog is not None:
            self._unprocessed["damaged"] = Ranges(backlog.damaged)
        self.raise_floor()
        self._floor_checked = self.floor

    def settle(self, fate: Fate, start: int, stop: int, *, stored: bool = True) -> None:
        """`[start, stop)` has this fate; the disk is told unless it shall keep the messages, `stored=False`."""
        self.counts[fate] += stop - start
        self.settled.add(start, stop)
        self._delivered.remove(start, stop)
        if fate != "acked":
            self._unprocessed[fate].add(start, stop)
        if stored and self._backlog is not None:
            self._backlog.settle(start, stop)
        self.raise_floor()

    def settle_missing(self, fate: Fate, start: int, stop: int) -> list[tuple[int, int]]:
        """What is not settled of `[start, stop)` has this fate; return what that was."""
        missing = self.settled.missing(start, stop)
        for low, high in missing:
            self.settle(fate, low, high)
        return missing

    def dead_before(self, start: int, stop: int) -> None:
        """`[start, stop)` died in an earlier life, which settled it."""
        self._unprocessed["dead_lettered"].add(start, stop)

    def leave(self, stop: int) -> None:
        """The node closes; what of `[1, stop)` is not settled stays so."""
        self.left = Ranges(self.settled.missing(1, stop))

    def delivered(self, start: int, stop: int) -> None:
        """What is not settled of `[start, stop)` lies in a consumer's memory."""
        for low, high in self.settled.missing(start, stop):
            self._delivered.add(low, high)

    def raise_floor(self) -> None:
        """Something may have been settled, or a letter stored."""
        self.floor = self.settled.first_missing(self.floor)
        if self._backlog is not None and self._backlog.unstored.lowest is not None:
            self.floor = min(self.floor, self._backlog.unstored.lowest)

    def of(self, number: int) -> str:
        """ "delivered", "processed", "dead", "dropped" or "damaged"; "" if nothing became of it yet."""
        if number in self.settled:
            words = (_WORDS[fate] for fate, numbers in self._unprocessed.items() if number in numbers)
            return next(words, "processed")
        return "delivered" if number in self._delivered else ""

    def check(self) -> None:
        """Assert that the floor is where it should be, and never fell."""
        lowest = self.settled.first_missing(1)
        if self._backlog is not None and self._backlog.unstored.lowest is not None:
            lowest = min(lowest, self._backlog.unstored.lowest)
        assert self.floor == lowest, "floor is not the lowest unsettled number"
        assert self._backlog is None or self._backlog.floor <= self.floor, "others go by a floor that could fall"
        assert self.floor >= self._floor_checked, "the floor fell"
        for numbers in (self._delivered, self.left):
            assert not any(self.settled.common(*r) for r in numbers), "settled, and yet to be settled"
        for fate, numbers in self._unprocessed.items():
            assert not any(self.settled.missing(*r) for r in numbers), f"{fate}, and not settled"
        self._floor_checked = self.floor
