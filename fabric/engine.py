"""The engine of one node: routes between all its machines, nothing more.

A driver feeds it what arrives and what time it is, and carries out what it asks for:

    engine.receive(wire frames, now)           engine.outgoing(now) -> frames to send
    engine.connected / disconnected / ...      engine.take_commands() -> sockets to open and close
    engine.accept / take / progress            engine.take_changed() -> ends whose users may go on
    engine.expire(now)                         engine.deadline() -> when to call `expire` next

It opens nothing, reads no clock and draws no unseeded random number, so the same engine runs under real
sockets and under a simulated network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from random import Random
from typing import Final

from peerfabric.backlog import Recovered
from peerfabric.batch import join, message_count
from peerfabric.consumer_end import ConsumerEnd
from peerfabric.control import Control
from peerfabric.dispatch import candidates, choose
from peerfabric.envelope import (
    ALONE,
    DURABLE,
    IDLE,
    LEAVING,
    NAMES_MAX,
    NO_INTEREST,
    OTHER_FABRIC,
    OTHER_VERSION,
    SUSPECT,
    TOO_MANY_PEERS,
    Ack,
    Address,
    Backlog,
    Bye,
    Consuming,
    Data,
    Drain,
    Extra,
    ForeignHello,
    Grant,
    Hello,
    Interest,
    Nack,
    Ping,
    Pong,
    Release,
    Result,
    StreamRanges,
    UnknownKind,
    decode_frame,
    encode_frame,
)
from peerfabric.errors import BadFrame
from peerfabric.inflight import Run
from peerfabric.interest import Interests
from peerfabric.link import ECHO_DELAY, FENCE, PING_EVERY, PING_EVERY_HOLDING, Belief, Link, Sent
from peerfabric.notices import Notices
from peerfabric.options import Options
from peerfabric.peers import (
    BYE_REPEAT,
    IDLE_CLOSE_AFTER,
    OURSELVES,
    CameUp,
    Change,
    Command,
    Gone,
    LifeEnded,
    Outcome,
    Peers,
)
from peerfabric.producer_end import ProducerEnd
from peerfabric.publisher_end import PublisherEnd
from peerfabric.ranges import Ranges, pairs
from peerfabric.stats import PeerView, Statistics
from peerfabric.subscriber_end import SubscriberEnd
from peerfabric.topics import Topics

LATE: Final = 0.5
"""A turn that comes this much after its deadline is our own fault, and nobody is accused for it."""
BYE_LIMIT: Final = 1.0


class Engine:
    """All machines of one node.

    Args:
        address: Who this node is and where its sockets listen.
        fabric: Only nodes of the same fabric talk to each other.
        options: Limits and periods.
        random: Source of jitter and of the first link half.
        now: The driver's clock, in seconds; it must go on while the machine sleeps.
    """

    def __init__(self, address: Address, fabric: str, options: Options, random: Random, now: float) -> None:
        self.address, self.fabric, self.options = address, fabric, options
        self.frame_bytes_max = options.message_bytes_max + 1024
        self.peers = Peers(address, fabric, self.frame_bytes_max, options.peers_max, random)
        self.interests = Interests()
        self.producers: dict[str, ProducerEnd] = {}
        self.consumers: dict[str, ConsumerEnd] = {}
        self.topics = Topics(address, self.peers)
        self._random = random
        self.control = Control()
        self.notices = Notices()
        self._changed: set[ProducerEnd | ConsumerEnd] = set()
        self._arrived: dict[ConsumerEnd, None] = {}
        """Consumers that got messages since the last `outgoing`, which grants new ones once for all that came."""
        self._loop: deque[list[bytes]] = deque()
        self._met: list[tuple[Address, bool]] = []
        self._refused_wire = -1
        self._expected = now
        self._next_look = now
        self.durable = False
        """Some of what was acked is settled only once a cursor on disk says so: see `cursors_stored`."""
        self._draining = False
        self.closed_at = inf
        """When the last BYE was answered, or waiting for it ended."""

    # The ends that users hold

    def open_producer(
        self,
        queue: str,
        codec: int,
        max_attempts: int,
        letter_bytes_max: int,
        now: float,
        recovered: Recovered | None = None,
    ) -> ProducerEnd:
        """This node sends to `queue` from now on; with a spool also what is `recovered` there."""
        stream = f"{self.address.node_id}:{self.address.epoch}:{queue}"
        numbering = backlog = None
        if recovered is not None:
            numbering, backlog = recovered.begin(stream, letter_bytes_max, now)
        end = ProducerEnd(queue, stream, codec, letter_bytes_max, max_attempts, self._random, numbering, backlog)
        self.producers[queue] = end
        for holder, link in self.peers.by_holder.items():
            if link.up and link.their_interest is not None:
                self._match_consumer(end, holder, link)
        self.interests.produces.add(queue)
        self._interest_changed(now)
        return end

    def open_consumer(
        self, queue: str, lease: float, now: float, remembered: Mapping[str, Ranges] | None = None
    ) -> ConsumerEnd:
        """This node consumes from `queue` from now on; with a ledger it has processed what is `remembered`."""
        options = self.options
        end = ConsumerEnd(queue, lease, options.consumer_bytes, options.work_horizon, self.consumers, remembered)
        self.consumers[queue] = end
        for holder, link in self.peers.by_holder.items():
            if link.up:
                self._match_producer(end, holder, link)
        self.interests.consumes.add(queue)
        self._interest_changed(now)
        return end

    def close_consumer(self, queue: str, now: float) -> None:
        """Nobody here takes from `queue` any more; what was not started goes back."""
        end = self.consumers.get(queue)
        if end is not None:
            end.progress(now)
            end.close()
            self.interests.consumes.discard(queue)
            self._interest_changed(now)
            self.control.note_all(self.peers.by_holder.values())

    def reopen_consumer(self, queue: str, now: float) -> None:
        """A closed consumer takes again."""
        self.consumers[queue].closed = False
        self.interests.consumes.add(queue)
        self._interest_changed(now)

    def open_publisher(self, topic: str, codec: int, now: float) -> PublisherEnd:
        """This node publishes on `topic` from now on."""
        end = self.topics.open_publisher(topic, codec, now)
        self.interests.publishes.add(topic)
        self._interest_changed(now)
        return end

    def open_subscriber(self, pattern: str, buffer_bytes: int, now: float) -> SubscriberEnd:
        """This node receives what `pattern` selects from now on."""
        end = self.topics.open_subscriber(pattern, buffer_bytes)
        self.interests.subscribes[pattern] = end.serial
        self._interest_changed(now)
        return end

    def close_subscriber(self, pattern: str, now: float) -> None:
        """Nobody here wants what `pattern` selects any more."""
        if self.topics.close_subscriber(pattern):
            del self.interests.subscribes[pattern]
            self._interest_changed(now)

    @property
    def _own_holder(self) -> str:
        return f"{self.address.node_id}:{self.address.epoch}"

    def _interest_changed(self, now: float) -> None:
        self.interests.changed()
        if self.interests.with_ourselves:
            self.peers.ourselves(now)
        self.peers.interest_changed(now)
        self.control.note_all(self.peers.by_holder.values())
        self._next_look = now

    # What users do

    def accept(
        self,
        end: ProducerEnd,
        bodies: list[bytes],
        sent_ms: int,
        extras: dict[int, Extra] | None = None,
        *,
        volatile: bool = False,
    ) -> None:
        """Take responsibility for `bodies`; they leave with the next `outgoing`."""
        was_empty = end.waiting_count == 0
        end.accept(bodies, sent_ms, extras, volatile=volatile)
        if was_empty:
            self._tell_waiting(end)

    # What the disk reports

    def acks_to_settle(self) -> dict[Link, tuple[int, int]]:
        """What has been applied of each link's ACKs; to be given to `cursors_stored` once all cursors say so."""
        links = [link for link in self.peers.links.values() if link.acks_applied > link.acks_settled]
        return {link: (link.theirs, link.acks_applied) for link in links}

    def awaits_cursors(self) -> bool:
        """Whether somebody may not start a message before `cursors_stored`."""
        links = self.peers.links.values()
        return any(link.settled_due and link.acks_applied > link.acks_settled for link in links) or any(
            end.awaits_cursor for end in self.producers.values()
        )

    def cursors_stored(self, applied: dict[Link, tuple[int, int]]) -> None:
        """The cursors on disk have the results of these ACKs: consumers may forget them."""
        for link, (life, ack) in applied.items():
            if link.theirs != life:
                continue  # the peer has begun a new count, of which the cursors know nothing
            link.acks_settled = max(link.acks_settled, min(ack, link.acks_applied))
            if link.settled_due and link.acks_settled >= link.acks_applied:
                link.settled_due = False
                link.ping_at = -inf
                self.control.note(link)

    def disk_moved(self, end: ProducerEnd) -> None:
        """The disk has read or stored something for `end`: consumers and users that wait learn of it."""
        self._changed.add(end)
        self._tell_waiting(end)

    def _tell_waiting(self, end: ProducerEnd) -> None:
        """Consumers who left us without credit learn at once that something waits."""
        for holder in end.consumers:
            link = self.peers.by_holder.get(holder)
            if link is not None and link.up and link.credit(end.queue).available()[0] == 0:
                link.ping_at = -inf
                self.control.note(link)

    def progress(self, end: ConsumerEnd, now: float) -> bool:
        """Read what the handling side of `end` decided; whether something should now leave with `outgoing`."""
        end.progress(now)
        self._after_progress(end, now)
        return self.control.due

    def _after_progress(self, end: ConsumerEnd, now: float) -> None:
        end.grant(now)
        for holder, urgent in end.news():
            link = self.peers.by_holder.get(holder)
            if link is None:
                continue
            if urgent:
                self.control.note(link)
            elif link.echo_at == inf:
                # A grant that nobody waits for travels with results, or with an echo a few milliseconds later.
                self._echo_at(link, now + ECHO_DELAY)
        for stream, sequence in end.lapsed:
            self.notices.add(
                "warning",
                f"queue {end.queue!r}: message {stream}/{sequence} was not settled within its lease of "
                f"{end.lease:g} s and goes to another consumer; raise lease= or call message.extend()",
            )
        end.lapsed.clear()
        if end.misled:
            end.misled = 0
            self.notices.add(
                "error",
                f"queue {end.queue!r}: ten messages in a row do not fit the body type of this consumer; it gets "
                f"no more for 5 s: give producer and consumer the same type",
            )

    # What the wires bring

    def discovered(self, address: Address, now: float) -> None:
        self._apply(self.peers.discovered(address, now), now)

    def candidate(self, endpoint: str, now: float) -> None:
        self.peers.candidate(endpoint, now)

    def lost(self, node_id: str) -> None:
        self.peers.lost(node_id)

    def connected(self, wire: int, now: float) -> None:
        self.peers.connected(wire, now)

    def disconnected(self, wire: int, now: float) -> None:
        self.control.unblock(wire)
        self._apply(self.peers.disconnected(wire, now), now)

    def refused(self, wire: int, now: float) -> None:
        self._apply(self.peers.refused(wire, now), now)

    def probed(self, wire: int, outcome: Outcome, now: float) -> None:
        self._apply(self.peers.probed(wire, outcome, now), now)

    def writable(self, wire: int) -> None:
        """The socket of `wire` takes frames again."""
        self.control.unblock(wire)
        link = self.peers.links.get(wire)
        if link is not None:
            self.control.note(link)

    def receive(self, frames: Sequence[bytes | memoryview], now: float) -> None:
        """A header, and perhaps a body, arrived at the inbox. Nothing in it can hurt this node."""
        try:
            frame = decode_frame(bytes(frames[0]))
        except ForeignHello as foreign:
            self.peers.refuse(foreign.address, OTHER_VERSION, now)
            self.notices.once(
                f"version {foreign.address.node_id}",
                "warning",
                f"{foreign.address.name or foreign.address.node_id} speaks {foreign}",
            )
            return
        except UnknownKind:
            self.peers.count("frames of unknown kind")
            return
        except BadFrame:
            self.peers.count("bad frames")
            return
        if isinstance(frame, Hello):
            self._apply(self.peers.receive_hello(frame, now), now)
            return
        if isinstance(frame, Bye) and frame.link == bytes(8):
            self._apply(self.peers.refused_by(frame.node_id, now), now)
            self.notices.once(f"refused {frame.node_id}", "warning", _refusal(frame))
            return
        link = self.peers.find(frame.link, now)
        if link is None:
            return
        body = frames[1] if len(frames) > 1 else b""
        size = len(frames[0]) + memoryview(body).nbytes
        if not link.accept(frame.number, frame.echo, size, now):
            self._apply(self.peers.broken(link, now), now)
            return
        for sent in link.take_echo(frame.echo, now):
            end = self.producers.get(sent.queue)
            if end is not None:
                end.delivered(sent.start, sent.stop)
                self._changed.add(end)
        try:
            self._route(link, frame, body, now)
        except BadFrame as error:
            self.peers.count("bad frames")
            self.notices.add("warning", f"a frame of {link.name} cannot be read ({error}); link renewed")
            self._apply(self.peers.broken(link, now), now)

    def _route(self, link: Link, frame: object, body: bytes | memoryview, now: float) -> None:
        match frame:
            case Data():
                self._receive_data(link, frame, body, now)
            case Ack():
                self._receive_ack(link, frame, now)
            case Ping():
                link.pong_stamp = frame.stamp
                self.control.note(link)
                for backlog in frame.backlogs:
                    consumer = self.consumers.get(backlog.queue)
                    if consumer is not None:
                        consumer.backlog(link.holder, backlog)
                for consumer in self.consumers.values():
                    consumer.settle(link.holder, frame.settled)
                    self._after_progress(consumer, now)
                    if consumer.available(now):
                        self._changed.add(consumer)
            case Pong():
                link.fence_stamp = max(link.fence_stamp, min(frame.stamp, now))
                for consumer in self.consumers.values():
                    consumer.fence(link.holder, link.fence_stamp + FENCE)
                    if consumer.available(now):
                        self._changed.add(consumer)
            case Interest():
                self._receive_interest(link, frame, now)
            case Release():
                self._receive_release(link, frame, now)
            case Drain():
                link.draining = True
                for producer in self.producers.values():
                    producer.set_consumer(link.holder, link.node_id, consumes=False)
                    self._changed.add(producer)
            case Bye():
                self._receive_bye(link, frame, now)

    def _receive_data(self, link: Link, data: Data, body: bytes | memoryview, now: float) -> None:
        link.data_received(now)
        self._echo_at(link, link.echo_at)
        if link.echo_at <= now:
            self.control.note(link)
        if message_count(body, data.codec) != data.count or data.first + data.count > 2**53:
            raise BadFrame(f"a batch whose header says {data.count} messages")
        end = self.consumers.get(data.queue)
        if end is None or end.closed:
            if end is not None:
                end.decline(link.holder, data)
            nack = Nack(data.first, data.first + data.count, data.attempt, NO_INTEREST)
            self.control.put_ack(link, [Result(data.stream, data.queue, nacks=[nack])], [])
            return
        end.receive(link.holder, link.name, data, body, now)
        if end.available(now):
            self._changed.add(end)
        self._arrived[end] = None

    def _echo_at(self, link: Link, at: float) -> None:
        link.echo_at = at
        self.peers.wake_at(at)
        self._next_look = min(self._next_look, at)

    def _receive_ack(self, link: Link, ack: Ack, now: float) -> None:
        for result in ack.results:
            end = self.producers.get(result.queue)
            if end is None:
                continue
            if result.starting or end.runs_suspect(link.holder):
                link.settled_due = True
                link.ping_at = -inf  # it waits to hear that we know
            for start, stop in end.numbers(result.stream, result.done):
                end.acked(link.holder, start, stop)
            for start, stop in end.numbers(result.stream, result.returned):
                end.returned(link.holder, start, stop)
            for start, stop in end.numbers(result.stream, result.starting):
                end.starting(link.holder, start, stop)
            for nack in result.nacks:
                for start, stop in end.numbers(result.stream, [nack.start, nack.stop]):
                    nack.start, nack.stop = start, stop
                    end.nacked(link.holder, nack, now)
                    if nack.reason == NO_INTEREST:
                        end.set_consumer(link.holder, link.node_id, consumes=False)
            self._changed.add(end)
            self._collect_releases(end)
        link.acks_applied = max(link.acks_applied, ack.ack)
        if not self.durable:
            link.acks_settled = link.acks_applied
        for grant in ack.grants:
            if grant.queue in self.producers:
                link.credit(grant.queue).grant(grant.messages, grant.bytes)

    def _receive_release(self, link: Link, release: Release, now: float) -> None:
        for item in release.streams:
            consumer = self.consumers.get(_queue_of(item.stream))
            if consumer is not None:
                consumer.release(link.holder, item.stream, Ranges(pairs(item.ranges)))
                self._after_progress(consumer, now)
        if release.live is not None:
            for consumer in self.consumers.values():
                consumer.live_streams(link.holder, release.live, now)

    def _receive_interest(self, link: Link, interest: Interest, now: float) -> None:
        first = link.their_interest is None
        if not first and link.their_interest is not None and interest.version < link.their_interest.version:
            return
        link.their_interest = interest
        link.leases = {consuming.queue: consuming.lease for consuming in interest.consumes}
        holder = link.holder
        if first:
            self._reconcile(link, interest, now)
        for producer in self.producers.values():
            self._match_consumer(producer, holder, link)
        for consumer in self.consumers.values():
            self._match_producer(consumer, holder, link)
            self._after_progress(consumer, now)
        self.topics.receive_interest(link, now)
        self.control.note(link)

    def _reconcile(self, link: Link, interest: Interest, now: float) -> None:
        """The first frame of a life: settle what is done there, take back what got lost on the way."""
        holder = link.holder
        if any(producer.runs_suspect(holder) for producer in self.producers.values()):
            link.settled_due = True
            link.ping_at = -inf
        for item in interest.done:
            producing = self.producers.get(_queue_of(item.stream))
            if producing is not None:
                for start, stop in producing.numbers(item.stream, item.ranges):
                    producing.acked(holder, start, stop)
        held: dict[str, Ranges] = {}
        for item in interest.held:
            producing = self.producers.get(_queue_of(item.stream))
            known = Ranges(producing.numbers(item.stream, item.ranges)) if producing is not None else Ranges()
            for start, stop in known:
                held.setdefault(_queue_of(item.stream), Ranges()).add(start, stop)
            if not known and self._disowns(item.stream, producing):
                link.releases[item.stream] = Ranges(pairs(item.ranges)).flat()
        for producer in self.producers.values():
            release = producer.reconcile(holder, held.get(producer.queue, Ranges()))
            for start, stop in release:
                for stream, low, high in producer.numbering.names(start, stop):
                    link.releases.setdefault(stream, []).extend((low, high))
            self._changed.add(producer)
            self._collect_releases(producer)
        for sent in link.lost:
            producing = self.producers.get(sent.queue)
            if producing is not None and producing.is_returned(sent.start, sent.stop):
                producing.broke(sent.start, sent.stop, now)
                break
        link.lost = []
        link.acks_applied = interest.ack  # the peer may have begun a new count
        link.acks_settled = 0 if self.durable else link.acks_applied
        link.live_due = True

    def _disowns(self, stream: str, end: ProducerEnd | None) -> bool:
        """Whether what is held of `stream`, of which nothing is unsettled here, need not run any more.

        What an earlier life without a spool had sent is nowhere else, so it may.
        """
        return stream.startswith(f"{self._own_holder}:") or (end is not None and end.backlog is not None)

    def _match_consumer(self, end: ProducerEnd, holder: str, link: Link) -> None:
        theirs = link.their_interest
        consumes = theirs is not None and not link.draining and any(c.queue == end.queue for c in theirs.consumes)
        if consumes != (holder in end.consumers):
            end.set_consumer(holder, link.node_id, consumes=consumes)
            self._changed.add(end)
            if consumes and end.waiting_count:
                link.ping_at = -inf
                self.control.note(link)

    def _match_producer(self, end: ConsumerEnd, holder: str, link: Link) -> None:
        theirs = link.their_interest
        if theirs is not None and end.queue in theirs.produces:
            end.meet(holder)
            if link.fence_stamp > -inf:
                end.fence(holder, link.fence_stamp + FENCE)

    def _receive_bye(self, link: Link, bye: Bye, now: float) -> None:
        link.bye_received = True
        if not link.bye_number:
            link.bye_reason = bye.reason
            self.control.put(link, Bye(b"", 0, 0, self.address.node_id, bye.reason))
        missed = bye.reason == IDLE and self._in_common(link)
        self._apply(self.peers.said_bye(link, bye.reason, now), now)
        if missed:
            # What we have in common now was on its way when the peer found nothing.
            self.peers.redial(link.node_id, now)

    def receive_published(self, frames: Sequence[bytes | memoryview], now: float) -> None:
        """A topic frame, a header, and perhaps a body, arrived from a publisher's outbox."""
        link = self.topics.receive(frames)
        if link is not None:
            self.control.put(link, self._interest(link, [], []))

    # Changes of links

    def _apply(self, changes: list[Change], now: float) -> None:
        for change in changes:
            link = change.link
            match change:
                case LifeEnded():
                    self._life_ended(link)
                case CameUp():
                    self._came_up(link, now)
                case Gone():
                    self._gone(link, now, proven=change.proven, died=change.died)
        if changes:
            self._next_look = now

    def _life_ended(self, link: Link) -> None:
        self.control.unblock(link.wire)
        for producer in self.producers.values():
            self._changed.add(producer)
        self.topics.life_ended()

    def _came_up(self, link: Link, now: float) -> None:
        holder = link.holder
        held, done = [], []
        for consumer in self.consumers.values():
            consumer.progress(now)
            consumer.attach(holder)
            some_held, some_done = consumer.possession(holder)
            held += some_held
            done += some_done
        link.ack_number += 1
        for consumer in self.consumers.values():
            consumer.told_all(holder, link.ack_number)
        self.control.put(link, self._interest(link, held, done))
        if link.address is not None and link.wire != OURSELVES:
            self._met.append((link.address, True))
            self.notices.add("info", f"{link.name} joined")

    def _interest(self, link: Link, held: list[StreamRanges], done: list[StreamRanges]) -> Interest:
        link.told_version = self.interests.version
        return Interest(
            b"",
            0,
            0,
            self.interests.version,
            [Consuming(queue, self.consumers[queue].lease) for queue in sorted(self.interests.consumes)],
            self.topics.subscriptions(link.holder),
            sorted(self.interests.produces),
            sorted(self.interests.publishes),
            held,
            done,
            link.ack_number,
        )

    def _gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        holder = link.holder
        for producer in self.producers.values():
            producer.gone(holder, died=died)
            self._changed.add(producer)
            self._tell_waiting(producer)
        for consumer in self.consumers.values():
            consumer.progress(now)
            consumer.detach(holder, now, proven_gone=proven)
            if consumer.available(now):
                self._changed.add(consumer)
            self._after_progress(consumer, now)
        self.topics.gone(link, proven=proven)
        self.control.unblock(link.wire)
        if link.address is not None and proven:
            self._met.append((link.address, False))
        self.notices.add("info", f"{link.name} {'left' if proven and not died else 'is gone'}")

    # Time

    def expire(self, now: float) -> None:
        """Act on everything that has come due."""
        late = now - self._expected if now - self._expected > LATE else 0.0
        if now < min(self._next_look, self.topics.wake_at) and not late and self.peers.deadline() > now:
            return
        self._apply(self.peers.expire(now, late), now)
        look = now + 0.5
        for link in list(self.peers.links.values()):
            look = min(look, self._look_at(link, now))
        for producer in self.producers.values():
            before = producer.waiting_count
            producer.expire(now)
            if producer.waiting_count > before:
                self._tell_waiting(producer)
            look = min(look, producer.deadline() or inf)
            if producer.letters_full and producer.waiting_count:
                self.notices.once(
                    f"letters {producer.queue}",
                    "warning",
                    f"queue {producer.queue!r}: the dead-letter list is full and nothing is sent until it is not; "
                    f"retry or drop letters of node.dead_letters({producer.queue!r})",
                )
        for consumer in self.consumers.values():
            consumer.expire(now)
            self._after_progress(consumer, now)
            look = min(look, consumer.deadline(now) or inf)
            if consumer.available(now):
                self._changed.add(consumer)  # it may have waited for something that is over now
        look = min(look, self.topics.expire(now))
        self._next_look = self._expected = max(look, now + 0.001)

    def _look_at(self, link: Link, now: float) -> float:
        """Pings, echoes, markers, leases of the hung and idle links; return when to look again."""
        times = [now + 0.5]
        if link.belief is Belief.HUNG:
            self._end_backstops(link, now)
        if not link.up:
            return times[0]
        if link.echo_at <= now or link.ping_at <= now:
            self.control.note(link)
        times += [link.echo_at, link.ping_at]
        if link.marker_due:
            times.append(self.topics.send_markers(link, now))
        if self._in_common(link):
            link.match_at = now
        elif now - link.match_at >= IDLE_CLOSE_AFTER and not link.bye_number and not self._draining:
            self._part_idle(link, now)
        if link.bye_number and link.bye_at <= now:
            self.control.note(link)
        times.append(link.bye_at)
        return min(times)

    def _end_backstops(self, link: Link, now: float) -> None:
        """A hung peer keeps what it holds for its lease after the last that we heard of it."""
        for producer in self.producers.values():
            if now - link.heard_at >= link.leases.get(producer.queue, 300.0) and producer.held_by(link.holder):
                producer.lapse(link.holder, "its consumer hangs", now)
                self._collect_releases(producer)
                self._changed.add(producer)
                self._tell_waiting(producer)

    def _in_common(self, link: Link) -> bool:
        theirs = link.their_interest
        if theirs is None or self.interests.in_common(theirs):
            return True
        holder = link.holder
        return any(p.held_by(holder) for p in self.producers.values()) or any(
            c.holds_from(holder) or c.has_news(holder) for c in self.consumers.values()
        )

    def _part_idle(self, link: Link, now: float) -> None:
        link.bye_number = link.out_number + 1
        self.control.put(link, Bye(b"", 0, 0, self.address.node_id, IDLE))
        self._apply(self.peers.part_idle(link, now), now)

    def deadline(self) -> float | None:
        """When `expire` has something to do; None: nothing is being waited for."""
        at = min(self._next_look, self.topics.wake_at, self.peers.deadline())
        return at if at < inf else None

    # Sending

    def outgoing(self, now: float) -> Iterator[tuple[int, list[bytes]]]:
        """Everything that should be sent now, as (wire, frames).

        The driver calls `refuse` before it goes on if the socket did not take the frames.
        """
        while True:
            while self._arrived:
                self._after_progress(self._arrived.popitem()[0], now)
            # First, since somebody waits for it; again, as control may have been in its way.
            yield from self._emit(self._data(now))
            if self.control.due or self.peers.has_to_say:
                yield from self._control(now)
                yield from self._emit(self._data(now))
            if not self._loop:
                return
            while self._loop:
                self.receive(self._loop.popleft(), now)

    def refuse(self, wire: int, frames: list[bytes], now: float) -> None:
        """The socket of `wire` did not take `frames`."""
        self._refused_wire = wire
        link = self.peers.links.get(wire)
        if link is None or not link.up:
            return
        self.control.refuse(link, frames)

    def _control(self, now: float) -> Iterator[tuple[int, list[bytes]]]:
        yield from self._emit(self.peers.hello_frames(now))
        for wire, frames in self.peers.farewell_frames():
            self._refused_wire = -1
            yield wire, frames
            if self._refused_wire != wire:
                self.peers.farewell_sent(wire, now)
        for link in self.control.take_due():
            if link.wire in self.peers.links:
                yield from self._emit((link, frames) for frames in self._say(link, now))

    def _say(self, link: Link, now: float) -> Iterator[list[bytes]]:
        """What a link has to say besides DATA, most urgent last: what was kept from before goes first."""
        control = self.control
        yield from control.leaving(link)
        if control.is_blocked(link):
            control.note(link)
            return
        if not link.up:
            return
        if link.told_version != self.interests.version:
            self.control.put(link, self._interest(link, [], []))
        if link.releases or link.live_due:
            self._put_releases(link)  # before an echo, which may let the peer start what it must not
        self._put_results(link, now)
        if link.pong_stamp is not None:
            self.control.put(link, Pong(b"", 0, 0, link.pong_stamp))
            link.pong_stamp = None
        if link.drain_due:
            link.drain_due = False
            self.control.put(link, Drain(b"", 0, 0))
        if link.ping_at <= now:
            self._put_ping(link, now)
        if link.bye_at <= now and link.bye_number:
            self._put_bye(link, now)
        if link.echo_at <= now:
            self.control.put(link, Ack(b"", 0, 0, link.ack_number))
        yield from control.leaving(link)

    def _put_results(self, link: Link, now: float) -> None:
        results: list[Result] = []
        grants: list[Grant] = []
        holder = link.holder
        ack = link.ack_number + 1
        for consumer in self.consumers.values():
            if not consumer.has_news(holder):
                continue
            results += consumer.take_results(holder, ack)
            grant = consumer.take_grant(holder)
            if grant is not None:
                grants.append(grant)
        if results or grants:
            self.control.put_ack(link, results, grants)

    def _put_releases(self, link: Link) -> None:
        streams = [StreamRanges(stream, flat) for stream, flat in link.releases.items()]
        live = (
            [s for producer in self.producers.values() for s in producer.numbering.streams] if link.live_due else None
        )
        self.control.put(link, Release(b"", 0, 0, streams, live))
        link.releases.clear()
        link.live_due = False

    def _put_ping(self, link: Link, now: float) -> None:
        holder = link.holder
        backlogs = [
            Backlog(
                end.queue,
                stream,
                end.waiting_for(holder),
                link.credit(end.queue).sent_messages,
                link.credit(end.queue).sent_bytes,
                end.numbering.floor(stream, end.safe_floor),
            )
            for end in self.producers.values()
            if holder in end.consumers
            for stream in end.numbering.streams
        ][:NAMES_MAX]
        holding = any(consumer.holds_from(holder) for consumer in self.consumers.values())
        link.ping_at = now + (PING_EVERY_HOLDING if holding else PING_EVERY)
        self.control.put(link, Ping(b"", 0, 0, now, link.acks_settled, backlogs))

    def _collect_releases(self, end: ProducerEnd) -> None:
        for holder, start, stop in end.take_releases():
            link = self.peers.by_holder.get(holder)
            if link is not None and link.up:
                for stream, low, high in end.numbering.names(start, stop):
                    link.releases.setdefault(stream, []).extend((low, high))
                self.control.note(link)

    def _data(self, now: float) -> Iterator[tuple[Link, list[bytes]]]:
        for end in self.producers.values():
            if not end.waiting_count:
                continue
            able = candidates(end, self.peers.by_holder)
            while able and end.waiting_count:
                best, messages, size = choose(end, able)
                body_max = best.link.frame_bytes_max - 1024
                run = end.pick(best.link.holder, messages, size, body_max)
                if run is None:
                    able.remove(best)
                    continue
                yield best.link, self._data_frame(best.link, end, run)
                best.messages -= len(run.bodies)
                best.bytes -= run.cost
                best.outstanding += len(run.bodies)
                if best.messages < 1 or best.bytes < 1 or not best.link.has_room():
                    able.remove(best)

    def _data_frame(self, link: Link, end: ProducerEnd, run: Run) -> list[bytes]:
        credit = link.credit(end.queue)
        credit.spend(len(run.bodies), run.cost, outstanding=end.held_by(link.holder))
        end.sent(link.holder, run)
        echo = link.in_number
        number = link.next_number()
        body, codec = join(run.bodies, end.codec if run.codec is None else run.codec)
        stream, sequence = end.numbering.name(run.first)
        data = Data(
            link.out_id,
            number,
            echo,
            stream,
            end.queue,
            sequence,
            len(run.bodies),
            end.numbering.floor(stream, end.safe_floor),
            run.attempt,
            codec,
            (ALONE if run.solo else 0) | (SUSPECT if run.suspect else 0) | (DURABLE if end.backlog is not None else 0),
            run.sent_ms,
            end.waiting_for(link.holder),
            credit.sent_messages,
            credit.sent_bytes,
            link.acks_settled,
        )
        if run.extras:
            data.extras = [Extra(n - run.first, e.headers, e.origin) for n, e in sorted(run.extras.items())]
        link.data_sent(Sent(number, run.cost, end.queue, run.first, run.stop))
        return [encode_frame(data), body]

    def _emit(self, said: Iterable[tuple[Link, list[bytes]]]) -> Iterator[tuple[int, list[bytes]]]:
        """What goes out; what is said to ourselves is kept for `receive`."""
        for link, frames in said:
            if link.wire == OURSELVES:
                self._loop.append(frames)
            else:
                yield link.wire, frames

    # Closing

    def drain(self, now: float) -> None:
        """Take no new messages from anybody; return what was not started."""
        if self._draining:
            return
        self._draining = True
        for link in self.peers.by_holder.values():
            link.drain_due = link.up and link.wire != OURSELVES
            self.control.note(link)
        producing = {p.queue for p in self.producers.values() if p.unsettled_count}
        for queue, consumer in self.consumers.items():
            consumer.progress(now)
            if queue not in producing:
                consumer.close()
        self._next_look = now

    def settled(self, *, waits_for_consumers: bool = False) -> bool:
        """Nothing accepted is unsettled here, nothing that was started is undecided, and subscribers have it all.

        What a spool keeps is not waited for if nobody consumes it; with `waits_for_consumers` somebody may come yet.
        """
        return (
            not any(self._awaits(producer, waits_for_consumers) for producer in self.producers.values())
            and all(c.idle for c in self.consumers.values())
            and self.topics.flushed
        )

    @staticmethod
    def _awaits(producer: ProducerEnd, waits_for_consumers: bool) -> bool:
        if not producer.unsettled_count:
            return False
        return waits_for_consumers or bool(producer.volatile_count) or bool(producer.consumers)

    def unsettled(self) -> tuple[int, int]:
        """Messages waiting and in flight that no spool keeps, over all producers."""
        waiting = in_flight = 0
        for producer in self.producers.values():
            flying = min(producer.in_flight_count, producer.volatile_count)
            in_flight += flying
            waiting += producer.volatile_count - flying
        return waiting, in_flight

    def say_bye(self, now: float) -> None:
        """Say goodbye on every link; `finished` tells when all have answered."""
        self.peers.closing = True
        for consumer in self.consumers.values():
            consumer.progress(now)
            consumer.close()
        self.closed_at = now + BYE_LIMIT
        for link in list(self.peers.links.values()):
            if link.up and link.wire != OURSELVES:
                self._put_results(link, now)
                link.bye_reason = LEAVING
                self._put_bye(link, now)
        self._next_look = now

    def _put_bye(self, link: Link, now: float) -> None:
        self.control.put(link, Bye(b"", 0, 0, self.address.node_id, link.bye_reason))
        link.bye_number = link.out_number
        link.bye_at = now + BYE_REPEAT

    def leave(self) -> None:
        """The node closes now: what is unsettled is counted as left."""
        for producer in self.producers.values():
            producer.leave()

    def kept_on_disk(self) -> int:
        """Messages that this life leaves to the next one."""
        return sum(p.unsettled_count - p.volatile_count for p in self.producers.values())

    def finished(self, now: float) -> bool:
        """Whether every peer has answered our BYE, or waiting for that is over."""
        waiting = [k for k in self.peers.links.values() if k.up and k.wire != OURSELVES and not k.bye_received]
        return now >= self.closed_at or not waiting

    # Reports

    def take_commands(self) -> list[Command]:
        return self.peers.take_commands()

    def take_changed(self) -> set[ProducerEnd | ConsumerEnd | PublisherEnd | SubscriberEnd]:
        """The ends whose users may have something to go on with."""
        taken, self._changed = self._changed, set()
        return taken | self.topics.take_changed()

    def take_learned(self) -> list[Address]:
        """Addresses of nodes that hellos told since the last call."""
        taken, self.peers.learned = self.peers.learned, []
        return taken

    def take_met(self) -> list[tuple[Address, bool]]:
        """Peers whose link came up, or who are gone, since the last call."""
        taken, self._met = self._met, []
        return taken

    def statistics(self) -> Statistics:
        """A snapshot in which every producer's accounting closes."""
        return Statistics(
            node_id=self.address.node_id,
            name=self.address.name,
            producers=tuple(producer.account() for producer in self.producers.values()),
            consumers=tuple(consumer.account() for consumer in self.consumers.values()),
            publishers=tuple(publisher.account() for publisher in self.topics.publishers.values()),
            subscribers=tuple(subscriber.account() for subscriber in self.topics.subscribers.values()),
            peers=sum(1 for link in self.peers.links.values() if link.up and link.wire != OURSELVES),
            counters=dict(self.peers.counters),
        )

    def view(self) -> list[PeerView]:
        return self.peers.view()

    def check(self) -> None:
        """Assert the invariants of every machine, and those between them."""
        self.peers.check()
        for producer in self.producers.values():
            producer.check()
            known = {*producer.consumers, *(holder for holder, _ in producer.held()), *self.peers.by_holder}
            assert known == self.peers.by_holder.keys(), f"{producer.stream} counts on somebody who is gone"
        for consumer in self.consumers.values():
            consumer.check()
        self.topics.check()


def _queue_of(stream: str) -> str:
    return stream.split(":", 2)[-1]


def _refusal(bye: Bye) -> str:
    why = {
        OTHER_FABRIC: "it is in another fabric; give both nodes the same fabric=",
        OTHER_VERSION: "it speaks another version; install the same release on both",
        TOO_MANY_PEERS: "it has as many peers as it allows; raise Options(peers_max=) there",
    }
    return f"{bye.node_id} refused this node: {why.get(bye.reason, 'no reason given')}"


__all__ = ["Engine"]
