"""Publisher side of one topic: numbers every message and remembers what was last."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from peerfabric.queue.runs import MESSAGE_OVERHEAD
from peerfabric.reports import PublisherAccount
from peerfabric.wire.bodies import cuts, join
from peerfabric.wire.frames import Extra, Tail, TopicData

FRAME_BYTES_AIM: Final = 256 * 1024
BEAT: Final = 0.5
"""Tails are repeated this often, for two beats after the last message."""


class OutgoingTopic:
    """One topic of one publisher in one epoch; sequences count from 1."""

    def __init__(self, topic: str, node_id: str, epoch: int, name: str, codec: int) -> None:
        self.topic = topic
        self.codec = codec
        self.last = 0
        self.beats_due = 0
        self.confirmed: set[str] = set()
        """Subscribers (node id and pattern) that have confirmed a subscription to this topic."""
        self._node_id, self._epoch, self._name = node_id, epoch, name
        self._topic_frame = topic.encode() + b"\0"

    def publish(
        self, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra] | None = None
    ) -> list[tuple[bytes, TopicData, bytes]]:
        """Number `bodies` and return the frames that carry them: topic frame, header, body."""
        frames = []
        sizes = list(map(len, bodies))
        for at, extra in (extras or {}).items():  # a header has its limits, too
            sizes[at] += sum(len(name) + len(value) for name, value in (extra.headers or {}).items())
        edges = cuts(sizes, FRAME_BYTES_AIM, MESSAGE_OVERHEAD)
        for low, high in pairwise(edges):
            body, codec = join(bodies[low:high], self.codec)
            header = TopicData(
                self._node_id, self._epoch, self._name, self.topic, self.last + 1, high - low, codec, sent_ms
            )
            if extras:
                header.extras = [
                    Extra(at - low, extra.headers) for at, extra in sorted(extras.items()) if low <= at < high
                ]
            self.last += high - low
            frames.append((self._topic_frame, header, body))
        self.beats_due = 2
        return frames

    def tail(self) -> Tail:
        """What was last published, for subscribers to compare with what they have."""
        return Tail(self.topic, self.last)

    def account(self) -> PublisherAccount:
        return PublisherAccount(topic=self.topic, published=self.last, subscribers=len(self.confirmed))
