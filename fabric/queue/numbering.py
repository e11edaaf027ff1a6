"""Numbering of a queue's messages: numbers of this life here, streams and sequences everywhere else.

A producer with a spool still has messages of its earlier lives, each life with a stream of its own. Its machine counts
all of them in one row, oldest first, so that order, floor and ranges are those of one queue:

    number     1 … a-1        a … b-1        b …
    stream     n:1:queue      n:2:queue      n:3:queue, the present one, which grows
    sequence   s … s+a-2      …              1 …

An era is a stretch of numbers whose stream is one and whose sequences are consecutive.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

LEFT_OFF_MAX: Final = 4096
"""Closed queues whose next number is remembered each."""


class Numbering:
    """Translates between numbers and (stream, sequence); both rows only grow.

    Args:
        stream: The stream of the present life.
        earlier: (stream, first, stop) of what earlier lives left, oldest first.
    """

    __slots__ = ("_by_stream", "_eras", "_starts", "base", "stream")

    def __init__(self, stream: str, earlier: list[tuple[str, int, int]] | None = None) -> None:
        self.stream = stream
        self._starts: list[int] = []
        self._eras: list[tuple[str, int]] = []
        self._by_stream: dict[str, list[tuple[int, int, int]]] = {}
        number = 1
        for name, first, stop in earlier or ():
            self._begin(number, name, first)
            self._by_stream.setdefault(name, []).append((number, first, stop))
            number += stop - first
        self.base = number - 1
        """Number = base + sequence, in the present stream."""
        self._begin(number, stream, 1)
        self._by_stream[stream] = [(number, 1, 2**53)]

    def _begin(self, number: int, stream: str, first: int) -> None:
        self._starts.append(number)
        self._eras.append((stream, first))

    @property
    def streams(self) -> list[str]:
        return list(self._by_stream)

    def name(self, number: int) -> tuple[str, int]:
        """The stream and sequence of `number`."""
        if number > self.base:
            return self.stream, number - self.base
        at = bisect_right(self._starts, number) - 1
        stream, first = self._eras[at]
        return stream, first + number - self._starts[at]

    def begins_era(self, number: int) -> bool:
        """Whether `number` is the first of its era; a frame never reaches over it."""
        return number == self._starts[bisect_right(self._starts, number) - 1]

    def numbers(self, stream: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where sequences `[start, stop)` of `stream` are; nothing for those that are not here."""
        for number, first, end in self._by_stream.get(stream, ()):
            low, high = max(start, first), min(stop, end)
            if low < high:
                yield number + low - first, number + high - first

    def names(self, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
        """`[start, stop)` as ranges of streams."""
        at = bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[at + 1]) if at + 1 < len(self._starts) else stop
            stream, first = self._eras[at]
            low = first + start - self._starts[at]
            yield stream, low, low + end - start
            start, at = end, at + 1

    def floor(self, stream: str, floor: int) -> int:
        """The lowest unsettled sequence of `stream` if `floor` is the lowest unsettled number."""
        for number, first, stop in self._by_stream[stream]:
            if floor < number + stop - first:
                return first + max(0, floor - number)
        return self._by_stream[stream][-1][2]


class LeftOff:
    """The sequences at which closed queues go on, should they be opened again in this life of the node.

    Of very many names the oldest are forgotten; whatever is opened then goes on above all that they had, so that no
    number comes twice.
    """

    def __init__(self) -> None:
        self._by_queue: dict[str, int] = {}
        self._others = 1

    def __len__(self) -> int:
        return len(self._by_queue)

    def put(self, queue: str, following: int) -> None:
        """`queue` is closed, and goes on at `following`."""
        if following > self._others:
            self._by_queue[queue] = following
        if len(self._by_queue) > LEFT_OFF_MAX:
            self._others = max(self._others, self._by_queue.pop(next(iter(self._by_queue))))

    def take(self, queue: str) -> int:
        """`queue` is opened: where it begins."""
        return self._by_queue.pop(queue, self._others)

    def of(self, queue: str) -> int:
        """Where `queue` will begin; remembered until it does."""
        following = self.take(queue)
        self._by_queue[queue] = following  # the newest, so that none that close meanwhile drive it out
        return following
