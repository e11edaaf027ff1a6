"""Topics of one node: what it publishes, what it subscribes to, and which subscriptions are confirmed.

A connection tells nobody when a subscription has reached the publisher. So the publisher sends a *marker* through its
outbox, under the very prefix of the subscription, until the subscriber says in its INTEREST that one came through.
From there on a gap is a loss; what was published before is the baseline that the marker names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import inf

from peerfabric.errors import BadFrame
from peerfabric.link.commands import Follow, Subscribe, Unfollow, Unsubscribe
from peerfabric.link.link import Belief, Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.names import filter_prefix, is_wildcard, matches
from peerfabric.topic.publisher import BEAT, OutgoingTopic
from peerfabric.topic.subscriber import IncomingTopic
from peerfabric.wire.batch import message_count
from peerfabric.wire.frames import (
    Address,
    Extra,
    Marker,
    Subscription,
    Tails,
    TopicData,
    UnknownKind,
    decode_outbox,
    encode_frame,
)

MARKER_FIRST, MARKER_MAX = 0.02, 1.0
"""Seconds until a marker is repeated; doubled each time."""


class Topics:
    """Both ends of topics at one node, and the frames of its outbox.

    Args:
        address: Who this node is.
        peers: Its links; what the SUB socket shall do is asked for through them.
    """

    def __init__(self, address: Address, peers: Links) -> None:
        self.publishers: dict[str, OutgoingTopic] = {}
        self.subscribers: dict[str, IncomingTopic] = {}
        self.wake_at = inf
        """When `expire` must be called though its last answer was later."""
        self._address, self._peers = address, peers
        self._own_holder = f"{address.node_id}:{address.epoch}"
        self._changed: set[OutgoingTopic | IncomingTopic] = set()
        self._outbox: deque[list[bytes]] = deque()
        self._followed: dict[str, str] = {}
        """Holder -> its outbox that our SUB socket is connected to."""
        self._wildcards: dict[str, IncomingTopic] = {}
        """Of the subscribers those whose pattern is not the name of one topic."""
        self._confirmed_by: dict[str, dict[OutgoingTopic, set[str]]] = {}
        """Node id -> what its INTEREST has added to `confirmed` of our publishers."""
        self._beating: dict[OutgoingTopic, None] = {}
        self._tails_at = inf
        self._serial = 0
        self._all_published = False

    # The ends that users hold

    def open_publisher(self, topic: str, codec: int, now: float) -> OutgoingTopic:
        """This node publishes on `topic` from now on."""
        address = self._address
        end = OutgoingTopic(topic, address.node_id, address.epoch, address.name, codec)
        self.publishers[topic] = end
        for link in self._peers.by_peer.values():
            if link.their_interest is not None and link.their_interest.subscribes:
                self._match_subscriptions(link, now)
        for subscriber in self._selecting(topic):
            self._count_ourselves(end, subscriber)
        return end

    def _selecting(self, topic: str) -> list[IncomingTopic]:
        """The subscribers whose pattern selects `topic`."""
        found = [end for pattern, end in self._wildcards.items() if matches(pattern, topic)]
        exact = self.subscribers.get(topic)
        return [exact, *found] if exact is not None else found

    def _selected(self, pattern: str) -> list[OutgoingTopic]:
        """The publishers whose topic `pattern` selects."""
        if is_wildcard(pattern):
            return [end for topic, end in self.publishers.items() if matches(pattern, topic)]
        exact = self.publishers.get(pattern)
        return [exact] if exact is not None else []

    def open_subscriber(self, pattern: str, buffer_bytes: int) -> IncomingTopic:
        """This node receives what `pattern` selects from now on."""
        self._serial += 1
        end = IncomingTopic(pattern, buffer_bytes, self._serial)
        selected = self._selected(pattern)
        end.baseline(self._own_holder, [publisher.tail() for publisher in selected])
        self.subscribers[pattern] = end
        if is_wildcard(pattern):
            self._wildcards[pattern] = end
        self._peers.command(Subscribe(filter_prefix(pattern)))
        for publisher in selected:
            self._count_ourselves(publisher, end)
        for link in self._peers.by_peer.values():
            self._follow_if_wanted(link)
        return end

    def close_subscriber(self, pattern: str) -> bool:
        """Nobody here wants what `pattern` selects any more; whether somebody did."""
        if self.subscribers.pop(pattern, None) is None:
            return False
        self._wildcards.pop(pattern, None)
        self._peers.command(Unsubscribe(filter_prefix(pattern)))
        for publisher in self._selected(pattern):
            publisher.confirmed.discard(f"{self._address.node_id} {pattern}")
        return True

    def _count_ourselves(self, publisher: OutgoingTopic, subscriber: IncomingTopic) -> None:
        publisher.confirmed.add(f"{self._address.node_id} {subscriber.pattern}")
        self._changed.add(publisher)

    # Publishing

    def publish(
        self, end: OutgoingTopic, bodies: list[bytes], sent_ms: int, extras: dict[int, Extra] | None = None
    ) -> None:
        """Send `bodies` to every subscriber of the topic."""
        for topic, header, body in end.publish(bodies, sent_ms, extras):
            self._outbox.append([topic, encode_frame(header), body])
            self._to_subscribers(self._own_holder, header, body)
        self._beating[end] = None
        if self._tails_at == inf:
            self._tails_at = -inf  # the next `expire` sets it from its own now
            self.wake_at = -inf

    def finish(self, now: float) -> None:
        """Nothing more is published: ask every subscriber to say when it has the last of it."""
        self._all_published = True
        for link in self._peers.by_peer.values():
            self._match_subscriptions(link, now)
        self.wake_at = now

    @property
    def flushed(self) -> bool:
        """Whether every subscriber has all that was published, as far as we know."""
        return not any(self._awaits_flush(link) for link in self._peers.by_peer.values())

    def _awaits_flush(self, link: Link) -> bool:
        """Whether the peer may still lack what was published; one whose life was just renewed will say again."""
        renewing = bool(self.publishers) and link.met and link.connected and not link.up
        return bool(link.up and link.marker_due) or (renewing and link.belief is Belief.ALIVE)

    # Receiving

    def receive(self, frames: Sequence[bytes | memoryview]) -> Link | None:
        """A topic frame, a header, and perhaps a body, arrived from a publisher's outbox.

        Returns the link to that publisher if it must be told that its marker came through.
        """
        try:
            frame = decode_outbox(bytes(frames[1]) if len(frames) > 1 else b"")
        except UnknownKind:
            self._peers.count("frames of unknown kind")
            return None
        except BadFrame:
            self._peers.count("bad frames")
            return None
        holder = f"{frame.node_id}:{frame.epoch}"
        match frame:
            case TopicData():
                body = frames[2] if len(frames) > 2 else b""
                if message_count(body, frame.codec) != frame.count:
                    self._peers.count("bad frames")
                    return None
                self._to_subscribers(holder, frame, body)
            case Tails():
                for tail in frame.tails:
                    for subscriber in self._selecting(tail.topic):
                        if subscriber.tails(holder, [tail]):
                            self._changed.add(subscriber)
            case Marker():
                return self._receive_marker(holder, frame)
        return None

    def _to_subscribers(self, holder: str, data: TopicData, body: bytes | memoryview) -> None:
        for subscriber in self._selecting(data.topic):
            if subscriber.receive(holder, data, body):
                self._changed.add(subscriber)

    def _receive_marker(self, holder: str, marker: Marker) -> Link | None:
        subscriber = self.subscribers.get(marker.pattern)
        if marker.to != self._address.node_id or subscriber is None:
            return None
        self._changed.add(subscriber)
        if marker.serial != subscriber.serial or (holder in subscriber.confirmed and not marker.last):
            return None
        subscriber.baseline(holder, marker.baseline)
        if marker.last:
            subscriber.tails(holder, marker.baseline)
            subscriber.flushed.add(holder)
        link = self._peers.by_peer.get(holder)
        return link if link is not None and link.up else None

    # What peers want

    def subscriptions(self, holder: str) -> list[Subscription]:
        """Our subscriptions, and what of each has come through from the publisher `holder`."""
        return [
            Subscription(pattern, end.serial, holder in end.confirmed, holder in end.flushed)
            for pattern, end in self.subscribers.items()
        ]

    def receive_interest(self, link: Link, now: float) -> None:
        """The peer said anew what it subscribes to and publishes."""
        self._match_subscriptions(link, now)
        self._follow_if_wanted(link)

    def _match_subscriptions(self, link: Link, now: float) -> None:
        """Count confirmed subscriptions; markers go out for the others.

        Once all is published they go out to all: a marker travels behind the data, so its echo says that all has
        arrived.
        """
        if link.wire == OURSELVES:
            return  # its subscriptions are confirmed when they open, and updates reach them without the outbox
        theirs = link.their_interest
        wanted = {s.pattern: s for s in theirs.subscribes} if theirs is not None else {}
        confirmed: dict[OutgoingTopic, set[str]] = {}
        due = {}
        for pattern, subscription in wanted.items():
            selected = self._selected(pattern)
            if subscription.confirmed:
                for publisher in selected:
                    confirmed.setdefault(publisher, set()).add(f"{link.node_id} {pattern}")
            there = subscription.flushed if self._all_published else subscription.confirmed
            if not there and selected:
                due[pattern] = link.marker_due.get(pattern) or (now, MARKER_FIRST, subscription.serial)
        self._confirm(link.node_id, confirmed)
        link.marker_due = due
        if due:
            self._peers.look(link, now)

    def _confirm(self, node_id: str, confirmed: dict[OutgoingTopic, set[str]]) -> None:
        """These are the confirmed subscriptions of that node, and no others."""
        before = self._confirmed_by.pop(node_id, {})
        if confirmed:
            self._confirmed_by[node_id] = confirmed
        for publisher in {**before, **confirmed}:
            old, new = before.get(publisher, set()), confirmed.get(publisher, set())
            if old != new:
                publisher.confirmed = publisher.confirmed - old | new
                self._changed.add(publisher)

    def _follow_if_wanted(self, link: Link) -> None:
        theirs = link.their_interest
        if theirs is None or link.address is None or link.holder in self._followed or link.wire == OURSELVES:
            return
        if any(self._selecting(topic) for topic in theirs.publishes):
            same_host = link.address.host == self._address.host
            usable = [e for e in link.address.outbox if e.startswith("tcp://") or same_host]
            usable.sort(key=lambda endpoint: not endpoint.startswith("ipc://"))
            if usable:
                self._followed[link.holder] = usable[0]
                self._peers.command(Follow(usable[0]))

    # Changes of links

    def life_ended(self) -> None:
        """A link is not up any more; a flush that waited for its peer need not."""
        self._changed.update(self.publishers.values())

    def came_up(self, link: Link) -> None:
        """A life of the link begins: if the publisher has moved since we followed it, follow it anew.

        Not before: a connection that stands goes on bringing all, whatever became of the endpoint.
        """
        if link.address is not None and self._followed.get(link.holder, "") not in ("", *link.address.outbox):
            self._unfollow(link)

    def gone(self, link: Link, *, proven: bool) -> None:
        """The peer will not answer any more; `proven`: nor will its outbox bring anything."""
        self._confirm(link.node_id, {})
        if proven:
            for subscriber in self.subscribers.values():
                subscriber.forget(link.holder)
        self._unfollow(link)

    def _unfollow(self, link: Link) -> None:
        endpoint = self._followed.pop(link.holder, None)
        if endpoint is not None and endpoint not in self._followed.values():
            self._peers.command(Unfollow(endpoint))

    # Time

    def send_markers(self, link: Link, now: float) -> float:
        """Publish what is due under the very prefix of each subscription; return when the next is due."""
        address = self._address
        soonest = inf
        for pattern, (at, wait, serial) in list(link.marker_due.items()):
            if at <= now:
                prefix = filter_prefix(pattern)
                tails = [publisher.tail() for publisher in self._selected(pattern)]
                marker = Marker(
                    address.node_id, address.epoch, link.node_id, pattern, serial, tails, self._all_published
                )
                self._outbox.append([prefix if prefix.endswith(b"\0") else prefix + b"\0", encode_frame(marker)])
                at = now + wait
                link.marker_due[pattern] = (at, min(MARKER_MAX, wait * 2), serial)
            soonest = min(soonest, at)
        return soonest

    def expire(self, now: float) -> float:
        """Repeat the tails that are due; return when the next are."""
        self.wake_at = inf
        if self._tails_at == -inf:
            self._tails_at = now + BEAT
        elif self._tails_at <= now:
            self._send_tails(now)
        return self._tails_at

    def _send_tails(self, now: float) -> None:
        due = [publisher for publisher in self._beating if publisher.beats_due]
        self._beating = dict.fromkeys(due)
        for publisher in due:
            publisher.beats_due -= 1
            tails = Tails(self._address.node_id, self._address.epoch, [publisher.tail()])
            self._outbox.append([publisher.topic.encode() + b"\0", encode_frame(tails)])
        self._tails_at = now + BEAT if due else inf

    # What the driver takes

    def take_published(self) -> Iterator[list[bytes]]:
        """Frames for the outbox."""
        while self._outbox:
            yield self._outbox.popleft()

    def take_changed(self) -> set[OutgoingTopic | IncomingTopic]:
        """The ends whose users may have something to go on with."""
        taken, self._changed = self._changed, set()
        return taken

    def check(self) -> None:
        """Assert the invariants of every subscriber."""
        for subscriber in self.subscribers.values():
            subscriber.check()
