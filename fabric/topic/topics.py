"""Topics of one node: what it publishes, what it subscribes to, and which subscriptions are confirmed.

A connection tells nobody when a subscription has reached the publisher. So the publisher sends a *marker* through its
outbox, under the very prefix of the subscription, until the subscriber says in its INTEREST that one came through.
From there on a gap is a loss; what was published before is the baseline that the marker names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any

from peerfabric.errors import BadFrame
from peerfabric.health import DIALLED_AFTER, DIALLED_IN_VAIN, Finding
from peerfabric.link.commands import Follow, Subscribe, Unfollow, Unsubscribe
from peerfabric.link.endpoints import host_of, with_host
from peerfabric.link.link import Belief, Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.machine import Machine
from peerfabric.link.peer_names import PeerNames
from peerfabric.names import filter_prefix, is_wildcard, matches
from peerfabric.topic.publisher import BEAT, OutgoingTopic
from peerfabric.topic.subscriber import IncomingTopic
from peerfabric.wire.bodies import message_count
from peerfabric.wire.frames import (
    Address,
    Extra,
    Interest,
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


class _Repeat:
    """When a marker is sent next, the seconds after which it is repeated then, and the serial of its subscription."""

    __slots__ = ("at", "serial", "wait")

    def __init__(self, at: float, wait: float, serial: int) -> None:
        self.at, self.wait, self.serial = at, wait, serial


class Topics(Machine):
    """Both ends of topics at one node, and the frames of its outbox.

    Args:
        address: Who this node is.
        links: Its links; what the SUB socket shall do is asked for through them.
        changed: Takes the ends whose users may have something to go on with.
        tell_again: Called with the link to a publisher that must be told that its marker came through, and now.
    """

    def __init__(
        self, address: Address, links: Links, changed: set[Any], tell_again: Callable[[Link, float], None]
    ) -> None:
        super().__init__()
        self.publishers: dict[str, OutgoingTopic] = {}
        self.subscribers: dict[str, IncomingTopic] = {}
        self.outbox: deque[list[bytes]] = deque()
        """Frames for the outbox, which the driver takes."""
        self._address, self._links, self._changed, self._tell_again = address, links, changed, tell_again
        self._own_peer = f"{address.node_id}:{address.epoch}"
        self._followed: dict[str, str] = {}
        """Peer -> its outbox that our SUB socket is connected to."""
        self._wildcards: dict[str, IncomingTopic] = {}
        """Of the subscribers those whose pattern is not the name of one topic."""
        self._subscribe, self._publish = PeerNames(), PeerNames()
        """Which peers subscribe to which patterns, and publish which topics."""
        self._wanted: dict[str, None] = {}
        """Of the patterns of peers those that are not the name of one topic."""
        self._subscriptions: dict[Link, dict[str, Subscription]] = {}
        """By pattern, as the peer of each link told them last."""
        self._markers: dict[Link, dict[str, _Repeat]] = {}
        """Link -> the subscriptions of its peer that lack a marker."""
        self._confirmed_by: dict[str, dict[OutgoingTopic, set[str]]] = {}
        """Node id -> what its INTEREST has added to `confirmed` of our publishers."""
        self._heard: dict[str, dict[IncomingTopic, None]] = {}
        """Peer -> the subscribers that have something of it."""
        self._beating: dict[OutgoingTopic, None] = {}
        self._beats_at = inf
        self._serial = 0
        self._all_published = False

    # The ends that users hold

    def open_publisher(self, topic: str, codec: int, now: float) -> OutgoingTopic:
        """This node publishes on `topic` from now on."""
        address = self._address
        end = OutgoingTopic(topic, address.node_id, address.epoch, address.name, codec)
        self.publishers[topic] = end
        wild = [pattern for pattern in self._wanted if matches(pattern, topic)]
        for pattern in (topic, *wild):
            for peer in self._subscribe.told_by(pattern):
                link = self._links.by_peer.get(peer)
                if link is not None:
                    self._match(link, self._subscriptions[link][pattern], [end], now)
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
        end.baseline(self._own_peer, [publisher.tail() for publisher in selected])
        self.subscribers[pattern] = end
        if is_wildcard(pattern):
            self._wildcards[pattern] = end
        self._links.commands.append(Subscribe(filter_prefix(pattern)))
        for publisher in selected:
            self._count_ourselves(publisher, end)
        for topic in self._publish.names() if is_wildcard(pattern) else (pattern,):
            if matches(pattern, topic):
                for peer in self._publish.told_by(topic):
                    self._follow(peer)
        return end

    def close_subscriber(self, pattern: str) -> bool:
        """Nobody here wants what `pattern` selects any more; whether somebody did."""
        if self.subscribers.pop(pattern, None) is None:
            return False
        self._wildcards.pop(pattern, None)
        self._links.commands.append(Unsubscribe(filter_prefix(pattern)))
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
            self.outbox.append([topic, encode_frame(header), body])
            self._to_subscribers(self._own_peer, header, body)
        if not self._beating:
            self.deadlines.put(None, -inf)  # `handle_timeout` plans the first beat from its own now
        self._beating[end] = None

    def finish(self, now: float) -> None:
        """Nothing more is published: ask every subscriber to say when it has the last of it."""
        self._all_published = True
        for link in self._links.by_peer.values():
            self._match_subscriptions(link, now)

    @property
    def flushed(self) -> bool:
        """Whether every subscriber has all that was published, as far as we know."""
        return not any(self._awaits_flush(link) for link in self._links.by_peer.values())

    def _awaits_flush(self, link: Link) -> bool:
        """Whether the peer may still lack what was published; one whose life was just renewed will say again."""
        renewing = bool(self.publishers) and link.met and link.connected and not link.up
        return (link.up and bool(self._markers.get(link))) or (renewing and link.belief is Belief.ALIVE)

    # Receiving

    def receive(self, frames: Sequence[bytes | memoryview], now: float) -> None:
        """A topic frame, a header, and perhaps a body, arrived from a publisher's outbox."""
        try:
            frame = decode_outbox(bytes(frames[1]) if len(frames) > 1 else b"")
        except UnknownKind:
            self._links.count("frames of unknown kind")
            return
        except BadFrame:
            self._links.count("bad frames")
            return
        peer = f"{frame.node_id}:{frame.epoch}"
        match frame:
            case TopicData():
                body = frames[2] if len(frames) > 2 else b""
                if message_count(body, frame.codec) != frame.count:
                    self._links.count("bad frames")
                    return
                self._to_subscribers(peer, frame, body)
            case Tails():
                for tail in frame.tails:
                    for subscriber in self._selecting(tail.topic):
                        if subscriber.tails(peer, [tail]):
                            self._changed.add(subscriber)
            case Marker():
                self._receive_marker(peer, frame, now)

    def _to_subscribers(self, peer: str, data: TopicData, body: bytes | memoryview) -> None:
        heard = self._heard.get(peer)
        if heard is None:
            heard = self._heard[peer] = {}
        for subscriber in self._selecting(data.topic):
            heard[subscriber] = None
            if subscriber.receive(peer, data, body):
                self._changed.add(subscriber)

    def _receive_marker(self, peer: str, marker: Marker, now: float) -> None:
        subscriber = self.subscribers.get(marker.pattern)
        if marker.to != self._address.node_id or subscriber is None:
            return
        self._changed.add(subscriber)
        if marker.serial != subscriber.serial or (peer in subscriber.confirmed and not marker.last):
            return
        self._heard.setdefault(peer, {})[subscriber] = None
        subscriber.baseline(peer, marker.baseline)
        if marker.last:
            subscriber.tails(peer, marker.baseline)
            subscriber.flushed.add(peer)
        link = self._links.by_peer.get(peer)
        if link is not None:
            self._tell_again(link, now)

    # What peers want

    def fill_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        """Our subscriptions, and what of each has come through from the peer as a publisher."""
        peer = link.peer
        interest.subscribes = [
            Subscription(pattern, end.serial, peer in end.confirmed, peer in end.flushed)
            for pattern, end in self.subscribers.items()
        ]

    def handle_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        if link.wire == OURSELVES:
            return  # its subscriptions are confirmed when they open, and updates reach them without the outbox
        self._told_subscriptions(link, interest.subscribes)
        self._match_subscriptions(link, now)
        for topic in self._publish.tell(link.peer, interest.publishes)[0]:
            if link.peer in self._followed:
                break
            if self._selecting(topic):
                self._follow(link.peer)

    def _told_subscriptions(self, link: Link, subscriptions: Iterable[Subscription]) -> None:
        self._subscriptions[link] = wanted = {each.pattern: each for each in subscriptions}
        added, removed = self._subscribe.tell(link.peer, wanted)
        self._wanted.update(dict.fromkeys(filter(is_wildcard, added)))
        for pattern in removed:
            if not self._subscribe.told_by(pattern):
                self._wanted.pop(pattern, None)

    def _match_subscriptions(self, link: Link, now: float) -> None:
        """Count confirmed subscriptions; markers go out for the others.

        Once all is published they go out to all: a marker travels behind the data, so its echo says that all has
        arrived.
        """
        before = self._markers.pop(link, {})
        confirmed = self._confirmed_by.pop(link.node_id, {})
        for subscription in self._subscriptions.get(link, {}).values():
            self._match(link, subscription, self._selected(subscription.pattern), now, before)
        self._unconfirm(link.node_id, confirmed)

    def _match(
        self,
        link: Link,
        subscription: Subscription,
        selected: list[OutgoingTopic],
        now: float,
        before: Mapping[str, _Repeat] = MappingProxyType({}),
    ) -> None:
        """`selected` are publishers that a subscription of the peer selects; `before`: markers that were due."""
        pattern = subscription.pattern
        if subscription.confirmed:
            confirmed = self._confirmed_by.setdefault(link.node_id, {})
            for publisher in selected:
                confirmed.setdefault(publisher, set()).add(f"{link.node_id} {pattern}")
                if f"{link.node_id} {pattern}" not in publisher.confirmed:
                    publisher.confirmed.add(f"{link.node_id} {pattern}")
                    self._changed.add(publisher)
        there = subscription.flushed if self._all_published else subscription.confirmed
        markers = self._markers.setdefault(link, {})
        if not there and selected and pattern not in markers:
            repeat = before.get(pattern)
            same = repeat is not None and repeat.serial == subscription.serial
            markers[pattern] = (
                repeat if repeat is not None and same else _Repeat(now, MARKER_FIRST, subscription.serial)
            )
            self.deadlines.put(link, now)

    def _unconfirm(self, node_id: str, before: dict[OutgoingTopic, set[str]]) -> None:
        """Of what that node had confirmed only what it still does counts."""
        after = self._confirmed_by.get(node_id, {})
        for publisher, patterns in before.items():
            gone = patterns - after.get(publisher, set())
            if gone:
                publisher.confirmed -= gone
                self._changed.add(publisher)

    def _follow(self, peer: str) -> None:
        """Connect to the outbox of that peer, if it can be reached."""
        link = self._links.by_peer.get(peer)
        if link is None or link.address is None or peer in self._followed or link.wire == OURSELVES:
            return
        where = self._outbox_of(link)
        if where:
            self._followed[peer] = where
            self._links.commands.append(Follow(where, link.address.outbox_key))

    def _outbox_of(self, link: Link) -> str:
        """Where to follow the peer: over ipc, or else at the host at which it was met; empty if nowhere."""
        address = link.address
        if address is None:
            return ""
        here = [e for e in address.outbox if e.startswith("ipc://")] if address.host == self._address.host else []
        tcp = [e for e in address.outbox if e.startswith("tcp://")]
        host = host_of(link.endpoint)
        if host:
            tcp = [e for e in tcp if host_of(e) == host] or [with_host(e, host) for e in tcp[:1]]
        return next(iter([*here, *tcp]), "")

    # Changes of links

    def link_up(self, link: Link, now: float) -> None:
        # If the publisher has moved since we followed it, or was met at another host, follow it anew. Not before: a
        # connection that stands goes on bringing all, whatever became of the endpoint.
        followed = self._followed.get(link.peer, "")
        if followed and followed != self._outbox_of(link):
            self._unfollow(link)
        self._publish.tell(link.peer, ())

    def link_down(self, link: Link) -> None:
        # A flush that waited for this peer need not.
        self._changed.update(self._confirmed_by.get(link.node_id, ()))
        for pattern in self._markers.pop(link, ()):
            self._changed.update(self._selected(pattern))

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.link_down(link)
        self._unconfirm(link.node_id, self._confirmed_by.pop(link.node_id, {}))
        self._told_subscriptions(link, ())
        del self._subscriptions[link]
        self._publish.tell(link.peer, ())
        if proven:  # else its outbox may still bring something
            for subscriber in self._heard.pop(link.peer, ()):
                subscriber.forget(link.peer)
        self._unfollow(link)

    def _unfollow(self, link: Link) -> None:
        endpoint = self._followed.pop(link.peer, None)
        if endpoint is not None and endpoint not in self._followed.values():
            self._links.commands.append(Unfollow(endpoint))

    def follow_anew(self) -> None:
        """An address of this node is gone, and with it connections that were made from there, though nothing tells."""
        links = self._links
        for peer, endpoint in self._followed.items():
            link = links.by_peer.get(peer)
            if link is not None and link.address is not None and endpoint.startswith("tcp://"):
                links.commands += [Unfollow(endpoint), Follow(endpoint, link.address.outbox_key)]

    # Time

    def handle_timeout(self, now: float) -> None:
        """Repeat the markers and tails that are due."""
        for link in self.deadlines.take_due(now):
            if link is not None:
                self._send_markers(link, now)
            elif self._beats_at == inf:
                self._beats_at = now + BEAT
                self.deadlines.put(None, self._beats_at)
            else:
                self._send_tails(now)

    def _send_markers(self, link: Link, now: float) -> None:
        """Publish what is due under the very prefix of each subscription."""
        if link not in self._markers or not link.up:
            return
        address = self._address
        soonest = inf
        for pattern, repeat in self._markers[link].items():
            if repeat.at <= now:
                prefix = filter_prefix(pattern)
                tails = [publisher.tail() for publisher in self._selected(pattern)]
                marker = Marker(
                    address.node_id, address.epoch, link.node_id, pattern, repeat.serial, tails, self._all_published
                )
                self.outbox.append([prefix if prefix.endswith(b"\0") else prefix + b"\0", encode_frame(marker)])
                repeat.at, repeat.wait = now + repeat.wait, min(MARKER_MAX, repeat.wait * 2)
            soonest = min(soonest, repeat.at)
        self.deadlines.put(link, soonest)

    def _send_tails(self, now: float) -> None:
        due = [publisher for publisher in self._beating if publisher.beats_due]
        self._beating = dict.fromkeys(due)
        for publisher in due:
            publisher.beats_due -= 1
            tails = Tails(self._address.node_id, self._address.epoch, [publisher.tail()])
            self.outbox.append([publisher.topic.encode() + b"\0", encode_frame(tails)])
        self._beats_at = now + BEAT if due else inf
        self.deadlines.put(None, self._beats_at)

    def findings(self, now: float) -> Iterator[Finding]:
        """Outboxes that bring nothing, not even the markers that answer a subscription."""
        for peer, endpoint in self._followed.items():
            link = self._links.by_peer.get(peer)
            if self.subscribers and link is not None and link.up and peer not in self._heard:
                yield Finding(
                    f"the outbox {endpoint} of {link.name} does not answer, so its topics do not come",
                    DIALLED_AFTER,
                    "open that port there, as that of its inbox is, or set advertise= if another address leads to it",
                    code=DIALLED_IN_VAIN,
                )

    def check(self) -> None:
        """Assert the invariants of every subscriber."""
        for subscriber in self.subscribers.values():
            subscriber.check()
