"""Producer as its consumer sees it: what came from there, what it is to be told, and its credit."""

from __future__ import annotations

from collections import deque
from math import inf

from peerfabric.link.credit import ConsumerCredit
from peerfabric.queue.delivery import Delivery
from peerfabric.ranges import Ranges
from peerfabric.wire.frames import Nack, Result


class Source:
    """One producer, as its consumer sees it. What is to be told is kept by stream until an ACK takes it along."""

    __slots__ = (
        "attached",
        "buffer",
        "credit",
        "deficit",
        "done",
        "fence",
        "nacks",
        "proven_gone",
        "returned",
        "streams",
    )

    def __init__(self) -> None:
        self.attached = True
        self.credit = ConsumerCredit()
        self.buffer: deque[Delivery] = deque()
        """What was not handed out, in order."""
        self.deficit = 0
        """Bytes that it may still hand out in its turn; below 0 if its last turn took more."""
        self.fence = -inf
        """Its messages may be handed out before this instant."""
        self.proven_gone = False
        self.streams: dict[str, None] = {}
        self.done: dict[str, Ranges] = {}
        self.returned: dict[str, Ranges] = {}
        self.nacks: dict[str, list[Nack]] = {}

    @property
    def has_results(self) -> bool:
        """Whether `take_results` would return something."""
        return bool(self.done or self.returned or self.nacks)

    @property
    def granted_more(self) -> bool:
        """Whether it has more credit than it was told."""
        return (self.credit.granted_messages, self.credit.granted_bytes) != self.credit.told

    def add_done(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` is processed."""
        ranges = self.done.get(stream)
        if ranges is None:
            ranges = self.done[stream] = Ranges()
        ranges.add(start, stop)

    def add_returned(self, stream: str, start: int, stop: int) -> None:
        """`[start, stop)` was not processed and is free for others."""
        self.returned.setdefault(stream, Ranges()).add(start, stop)

    def take_results(self, queue: str) -> list[Result]:
        """What is to be told, a result for each stream; it is told once."""
        results = [
            Result(
                stream,
                queue,
                _flat(self.done.get(stream)),
                _flat(self.returned.get(stream)),
                self.nacks.get(stream, []),
            )
            for stream in {**self.done, **self.returned, **self.nacks}
        ]
        self.nothing_to_tell()
        return results

    def nothing_to_tell(self) -> None:
        """What was to be told has been, or a new life of the link tells it in another way."""
        self.done.clear()
        self.returned.clear()
        self.nacks.clear()

    def forget(self, stream: str) -> None:
        """Nobody can send anything of `stream` again, nor wants to hear what became of it."""
        for told in (self.streams, self.done, self.returned, self.nacks):
            told.pop(stream, None)


def _flat(ranges: Ranges | None) -> list[int]:
    return ranges.flat() if ranges is not None else []
