"""Subscriber side of one pattern: what came, in order, and exactly how much did not.

Per (publisher, epoch, topic):   delivered + missed  =  highest seen - baseline
"""

from __future__ import annotations

from collections import deque
from typing import Any

from peerfabric.names import matches
from peerfabric.reports import SubscriberAccount
from peerfabric.wire.bodies import rejoin, split
from peerfabric.wire.frames import NAMES_MAX, Extra, Tail, TopicData


class UpdateBatch:
    """Messages of one topic, as they came in one frame."""

    __slots__ = (
        "bodies",
        "body",
        "codec",
        "cost",
        "count",
        "extras",
        "first",
        "next",
        "sender",
        "sent_ms",
        "topic",
        "track",
    )

    def __init__(self, data: TopicData, body: bytes | memoryview, first: int, count: int, track: _Track) -> None:
        self.track = track
        self.topic, self.sender, self.codec, self.sent_ms = (
            data.topic,
            data.name or data.node_id,
            data.codec,
            data.sent_ms,
        )
        self.first, self.count, self.body = first, count, body
        self.next = 0
        """The handling side has taken what is below this index."""
        self.bodies: list[Any] | None = None
        self.extras: dict[int, Extra] | None = {extra.index: extra for extra in data.extras} or None
        self.cost = memoryview(body).nbytes + 64


class _Track:
    """One topic of one publisher in one epoch."""

    __slots__ = ("baseline", "delivered", "missed", "seen")

    def __init__(self, baseline: int) -> None:
        self.baseline = self.seen = baseline
        self.delivered = self.missed = 0


class IncomingTopic:
    """Everything one node receives for one pattern; at most `buffer_bytes` wait for user code."""

    def __init__(self, pattern: str, buffer_bytes: int, serial: int) -> None:
        self.pattern, self.buffer_bytes, self.serial = pattern, buffer_bytes, serial
        self.confirmed: set[str] = set()
        """Publishers (peers) whose marker came through."""
        self.flushed: set[str] = set()
        """Publishers that are closing, and whose last message has come."""
        self.missed = 0
        self._received = self._late = 0
        self._buffer: deque[UpdateBatch] = deque()
        self._buffered_bytes = 0
        self._tracks: dict[str, dict[str, _Track]] = {}

    def receive(self, peer: str, data: TopicData, body: bytes | memoryview) -> bool:
        """A frame of a topic that the pattern selects; whether something of it is new."""
        tracks = self._tracks.setdefault(peer, {})
        track = tracks.get(data.topic)
        if track is None:
            if len(tracks) >= NAMES_MAX:
                return False
            # A topic that the marker did not name has begun since: all of it is meant for us.
            track = tracks[data.topic] = _Track(0 if peer in self.confirmed else data.first - 1)
        first, count = data.first, data.count
        stop = first + count
        if stop - 1 <= track.seen:
            self._late += count
            return False
        if first > track.seen + 1:
            track.missed += first - track.seen - 1
            self.missed += first - track.seen - 1
        elif first <= track.seen:
            skip = track.seen + 1 - first
            self._late += skip
            body = rejoin(split(body, data.codec)[skip:])
            data.extras = [Extra(e.index - skip, e.headers) for e in data.extras if e.index >= skip]
            first, count = first + skip, count - skip
        track.seen = stop - 1
        track.delivered += count
        self._received += count
        self._keep(UpdateBatch(data, body, first, count, track))
        return True

    def _keep(self, batch: UpdateBatch) -> None:
        self._buffer.append(batch)
        self._buffered_bytes += batch.cost
        while self._buffered_bytes > self.buffer_bytes and len(self._buffer) > 1:
            oldest = self._buffer.popleft()
            self._buffered_bytes -= oldest.cost
            self.missed += oldest.count
            self._received -= oldest.count
            # It was delivered to this machine, not to the user: it moves from one side of the sum to the other.
            oldest.track.delivered -= oldest.count
            oldest.track.missed += oldest.count

    def baseline(self, peer: str, tails: list[Tail]) -> None:
        """The publisher's marker came through: from these sequences on nothing may be missing unnoticed."""
        tracks = self._tracks.setdefault(peer, {})
        for tail in tails[:NAMES_MAX]:
            if matches(self.pattern, tail.topic) and tail.topic not in tracks:
                tracks[tail.topic] = _Track(tail.last)
        self.confirmed.add(peer)

    def tails(self, peer: str, tails: list[Tail]) -> bool:
        """The publisher repeats its last sequences, behind the data; whether a lost tail was noticed."""
        noticed = False
        tracks = self._tracks.get(peer, {})
        for tail in tails:
            if not matches(self.pattern, tail.topic):
                continue
            track = tracks.get(tail.topic)
            if track is None:
                if peer not in self.confirmed or len(tracks) >= NAMES_MAX:
                    continue
                track = tracks[tail.topic] = _Track(0)
            if tail.last > track.seen:
                track.missed += tail.last - track.seen
                self.missed += tail.last - track.seen
                track.seen = tail.last
                noticed = True
        return noticed

    def forget(self, peer: str) -> None:
        """The publisher is gone; should it return it is another epoch."""
        self._tracks.pop(peer, None)
        self.confirmed.discard(peer)
        self.flushed.discard(peer)

    def available(self) -> bool:
        return bool(self._buffer)

    @property
    def buffered_bytes(self) -> int:
        """What waits for user code."""
        return self._buffered_bytes

    def take(self) -> UpdateBatch | None:
        """The next updates for user code, oldest first."""
        if not self._buffer:
            return None
        batch = self._buffer.popleft()
        self._buffered_bytes -= batch.cost
        return batch

    def misfit(self, count: int) -> None:
        """`count` of the updates taken last do not fit the subscriber's type: nobody will see them."""
        self.missed += count
        self._received -= count

    def account(self) -> SubscriberAccount:
        return SubscriberAccount(
            pattern=self.pattern,
            received=self._received,
            missed=self.missed,
            late=self._late,
            buffered=sum(batch.count for batch in self._buffer),
        )

    def check(self) -> None:
        """Assert that every track adds up."""
        for tracks in self._tracks.values():
            for topic, track in tracks.items():
                total = track.delivered + track.missed
                assert total == track.seen - track.baseline, f"{topic}: {total} != {track.seen} - {track.baseline}"
        assert self._buffered_bytes == sum(batch.cost for batch in self._buffer), "buffered bytes"
