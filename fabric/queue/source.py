"""Producer as its consumer sees it: what came from there, what it is to be told, and its credit."""

from __future__ import annotations

from collections import deque
from math import inf

from peerfabric.link.credit import ConsumerCredit
from peerfabric.queue.dedup import Dedup
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
        "holder",
        "nacks",
        "proven_gone",
        "queued",
        "returned",
        "sends",
        "streams",
    )

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.attached = True
        self.credit = ConsumerCredit()
        self.buffer: deque[Delivery] = deque()
        """What was not handed out, in order."""
        self.queued = False
        """It has its place among those that take turns."""
        self.sends = False
        """It has messages for us and may send them, as of the last grant."""
        self.deficit = 0
        """Bytes that it may still hand out in its turn; below 0 if its last turn took more."""
        self.fence = -inf
        """Its messages may be handed out before this instant."""
        self.proven_gone = False
        self.streams: dict[str, Dedup] = {}
        self.done: dict[str, Ranges] = {}
        self.returned: dict[str, Ranges] = {}
        self.nacks: dict[str, list[Nack]] = {}

    @property
    def has_results(self) -> bool:
        """Whether `take_results` would return something."""
        return bool(self.done) or bool(self.returned) or bool(self.nacks)

    @property
    def granted_more(self) -> bool:
        """Whether it has more credit than it was told."""
        credit = self.credit
        return (credit.granted_messages, credit.granted_bytes) != credit.told

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
        results = []
        for stream in {**self.done, **self.returned, **self.nacks}:
            done, returned = self.done.get(stream), self.returned.get(stream)
            results.append(
                Result(
                    stream,
                    queue,
                    done.flat() if done is not None else [],
                    returned.flat() if returned is not None else [],
                    self.nacks.get(stream, []),
                )
            )
        self.nothing_to_tell()
        return results

    def nothing_to_tell(self) -> None:
        """What was to be told has been, or a new life of the link tells it in another way."""
        self.done.clear()
        self.returned.clear()
        self.nacks.clear()

    def forget(self, stream: str) -> None:
        """Nobody can send anything of `stream` again, nor wants to hear what became of it."""
        self.streams.pop(stream, None)
        for told in (self.done, self.returned, self.nacks):
            told.pop(stream, None)
