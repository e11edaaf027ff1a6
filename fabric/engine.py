"""The engine of one node: routes between all its machines, nothing more.

A driver feeds it what arrives and what time it is, and carries out what it asks for:

    engine.receive(wire frames, now)           engine.outgoing(now) -> frames to send
    engine.connected / disconnected / ...      engine.take_commands() -> sockets to open and close
    engine.producers.accept(bodies), ...       engine.take_changed() -> ends whose users may go on
    engine.expire(now)                         engine.deadline() -> when to call `expire` next

It opens nothing, reads no clock and draws no unseeded random number, so the same engine runs under real
sockets and under a simulated network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from random import Random
from typing import Final

from peerfabric.errors import BadFrame
from peerfabric.health import Health
from peerfabric.link.commands import Command, Outcome
from peerfabric.link.control import Control
from peerfabric.link.interest import Interests
from peerfabric.link.link import Belief, Link
from peerfabric.link.links import BYE_REPEAT, IDLE_CLOSE_AFTER, OURSELVES, CameUp, Change, Gone, LifeEnded, Links, Moved
from peerfabric.link.liveness import FENCE, FENCE_STEP, PING_BUSY, PING_UNTIL, ping_due
from peerfabric.log_records import LogRecords
from peerfabric.options import Options
from peerfabric.queue.durable import Recovered
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.receiver import Receiver
from peerfabric.queue.sender import Sender
from peerfabric.ranges import Ranges
from peerfabric.reports import PeerView, Statistics
from peerfabric.topic.publisher import OutgoingTopic
from peerfabric.topic.subscriber import IncomingTopic
from peerfabric.topic.topics import Topics
from peerfabric.wire.frames import (
    IDLE,
    LEAVING,
    OTHER_FABRIC,
    OTHER_VERSION,
    TOO_MANY_PEERS,
    Ack,
    Address,
    Bye,
    Consuming,
    Data,
    Drain,
    ForeignHello,
    Hello,
    Interest,
    Ping,
    Pong,
    Release,
    StreamRanges,
    UnknownKind,
    decode_frame,
)

LATE: Final = 0.5
"""A turn that comes this much after its deadline is our own fault, and nobody is accused for it."""
LOOK_EVERY: Final = 0.5
"""Seconds between two looks at queues while somebody holds messages or waits for credit."""
LOOK_EVERY_IDLE: Final = 5.0
"""The same while nobody does."""
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
        self.peers = Links(address, fabric, options.message_bytes_max + 1024, options.peers_max, random)
        self.interests = Interests()
        self.control = Control(self.peers.due)
        self.records = LogRecords()
        self.health = Health(self.records, now)
        self.producers = Sender(address, self.peers, self.control, self.records, random)
        self.consumers = Receiver(options, self.peers, self.control, self.records)
        self.topics = Topics(address, self.peers)
        self._loop: deque[list[bytes]] = deque()
        self._met: list[tuple[Address, bool]] = []
        self._refused_wire = -1
        self._expected = now
        self._next_look = now
        self._busy: dict[Link, None] = {}
        """Links that were busy at the last look at them."""
        self._random = random
        self._draining = False
        self.closed_at = inf
        """When the last BYE was answered, or waiting for it ended."""

    @property
    def address(self) -> Address:
        """Who this node is and where its sockets listen now."""
        return self.peers.address

    # The ends that users hold

    def open_producer(
        self,
        queue: str,
        codec: int,
        max_attempts: int,
        dead_letter_bytes_max: int,
        now: float,
        recovered: Recovered | None = None,
    ) -> OutgoingQueue:
        """This node sends to `queue` from now on; with a spool also what is `recovered` there."""
        end = self.producers.open(queue, codec, max_attempts, dead_letter_bytes_max, now, recovered)
        self.interests.produces.add(queue)
        self._interest_changed(now)
        return end

    def open_consumer(
        self, queue: str, lease: float, now: float, remembered: Mapping[str, Ranges] | None = None
    ) -> IncomingQueue:
        """This node consumes from `queue` from now on; with a ledger it has processed what is `remembered`."""
        end = self.consumers.open(queue, lease, remembered)
        self.interests.consumes.add(queue)
        self._interest_changed(now)
        return end

    def close_consumer(self, queue: str, now: float) -> None:
        """Nobody here takes from `queue` any more; what was not started goes back."""
        end = self.consumers.by_queue.get(queue)
        if end is not None:
            self.consumers.progress(end, now)
            end.close()
            self.consumers.progress(end, now)
            self.interests.consumes.discard(queue)
            self._interest_changed(now)

    def reopen_consumer(self, queue: str, now: float) -> None:
        """A closed consumer takes again."""
        self.consumers.by_queue[queue].closed = False
        self.interests.consumes.add(queue)
        self._interest_changed(now)

    def open_publisher(self, topic: str, codec: int, now: float) -> OutgoingTopic:
        """This node publishes on `topic` from now on."""
        end = self.topics.open_publisher(topic, codec, now)
        self.interests.publishes.add(topic)
        self._interest_changed(now)
        return end

    def open_subscriber(self, pattern: str, buffer_bytes: int, now: float) -> IncomingTopic:
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

    def _interest_changed(self, now: float) -> None:
        self.interests.changed(now)
        if OURSELVES not in self.peers.links and self.interests.with_ourselves:
            self.peers.ourselves(now)

    def _tell_interest(self, now: float) -> None:
        """Begin a round: every link is told what it has not been told, once the last INTEREST is echoed there."""
        changed = self.interests.told_version != self.interests.version
        self.interests.told(now)
        if changed:
            self.peers.interest_changed(now)
        for link in self.peers.by_peer.values():
            if changed or link.interest_due:
                link.told_version = 0 if link.interest_due else link.told_version
                link.interest_due = False
                self.control.note(link)

    # What the wires bring

    def discovered(self, address: Address, now: float) -> None:
        self._apply(self.peers.discovered(address, now), now)

    def moved(self, address: Address) -> None:
        """The sockets of this node listen elsewhere from now on."""
        self.peers.moved(address)

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
            self.records.once(
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
            self.records.once(f"refused {frame.node_id}", "warning", _refusal(frame))
            return
        link = self.peers.find(frame.link, now)
        if link is None:
            return
        body = frames[1] if len(frames) > 1 else b""
        size = len(frames[0]) + memoryview(body).nbytes
        if not link.accept(frame.number, frame.echo, size, now):
            self._apply(self.peers.broken(link, now), now)
            return
        echoed = link.take_echo(frame.echo, now)
        if echoed:
            self.producers.delivered(echoed)
        if link.told_version < self.interests.told_version:
            self.control.note(link)  # INTEREST may have waited for this echo
        if link.evidence + FENCE - FENCE_STEP > link.fence:
            link.fence = link.evidence + FENCE
            self.consumers.fenced(link, now)
        try:
            self._route(link, frame, body, now)
        except BadFrame as error:
            self.peers.count("bad frames")
            self.records.add("warning", f"a frame of {link.name} cannot be read ({error}); link renewed")
            self._apply(self.peers.broken(link, now), now)

    def _route(self, link: Link, frame: object, body: bytes | memoryview, now: float) -> None:
        match frame:
            case Data():
                link.data_received(now)
                self.peers.look(link, link.echo_at)
                if link.echo_at <= now:
                    self.control.note(link)
                declined = self.consumers.receive_data(link, frame, body, now)
                if declined:
                    self.control.put_ack(link, declined, [])
            case Ack():
                self.producers.receive_ack(link, frame, now)
            case Ping():
                link.pong_stamp = frame.stamp
                self.control.note(link)
                if not link.busy and link.ping_at > now:
                    self._plan_ping(link, now)
                    self.peers.look_anew(link, now)
                self.consumers.receive_ping(link, frame, now)
            case Pong():
                self.peers.look_anew(link, now)  # what its echo says is known by now
            case Interest():
                self._receive_interest(link, frame, now)
            case Release():
                self.consumers.receive_release(link, frame, now)
            case Drain():
                self.producers.receive_drain(link)
            case Bye():
                self._receive_bye(link, frame, now)

    def _receive_interest(self, link: Link, interest: Interest, now: float) -> None:
        before = link.their_interest
        if before is not None and interest.version < before.version:
            return
        link.their_interest = interest
        link.echo_soon(now)
        self.peers.look(link, link.echo_at)
        link.leases = {consuming.queue: consuming.lease for consuming in interest.consumes}
        if before is None:
            self.producers.reconcile(link, interest, now)
        self.producers.receive_interest(link)
        self.consumers.receive_interest(link, now)
        self.topics.receive_interest(link, now)
        self.control.note(link)

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
            link.interest_due = True
            self.interests.gather(now)

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
                case Moved() if link.address is not None:
                    self._met.append((link.address, True))
        if changes:
            self._next_look = now

    def _life_ended(self, link: Link) -> None:
        self.control.unblock(link.wire)
        self._busy.pop(link, None)
        self.producers.life_ended(link)
        self.topics.life_ended()

    def _came_up(self, link: Link, now: float) -> None:
        self.topics.came_up(link)
        held, done = self.consumers.came_up(link, now)
        self._put_interest(link, held, done)
        if link.address is not None and link.wire != OURSELVES:
            self._met.append((link.address, True))
            self.records.add("info", f"{link.name} joined")

    def _put_interest(self, link: Link, held: list[StreamRanges], done: list[StreamRanges]) -> None:
        link.told_version = self.interests.version
        interest = Interest(
            b"",
            0,
            0,
            self.interests.version,
            [Consuming(queue, self.consumers.by_queue[queue].lease) for queue in sorted(self.interests.consumes)],
            self.topics.subscriptions(link.holder),
            sorted(self.interests.produces),
            sorted(self.interests.publishes),
            held,
            done,
            link.ack_number,
        )
        self.control.put(link, interest)
        link.interest_number = link.out_number

    def _gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.producers.gone(link, now, died=died)
        self.consumers.gone(link, now, proven=proven)
        self.topics.gone(link, proven=proven)
        self.control.unblock(link.wire)
        self._busy.pop(link, None)
        if link.address is not None and proven:
            self._met.append((link.address, False))
        self.records.add("info", f"{link.name} {'left' if proven and not died else 'is gone'}")

    # Time

    def expire(self, now: float) -> None:
        """Act on everything that has come due."""
        if self.interests.due_at <= now:
            self._tell_interest(now)
        late = now - self._expected if now - self._expected > LATE else 0.0
        if now < self._due_at() and not late and self.peers.deadline() > now:
            return
        if late or self.peers.deadline() <= now:
            self._apply(self.peers.expire(now, late), now)
            for link in self.peers.looked_at:
                if link.up:
                    self.peers.look(link, self._look_at(link, now))
        if now < self._due_at() and not late:
            return
        look = now + (LOOK_EVERY if self._busy else LOOK_EVERY_IDLE)
        look = min(look, self.producers.expire(now), self.consumers.expire(now), self.topics.expire(now))
        if not self._draining:
            look = min(look, self._look_after(now, late))
        self._next_look = max(look, now + 0.001)

    def _look_after(self, now: float, late: float) -> float:
        """Look for what a person should know of; return when to look again."""
        health = self.health
        if late:
            health.excuse(late)
        if health.look_at <= now:
            found = (*self.producers.findings(), *self.consumers.findings(now), *self.peers.findings())
            health.look(found, now)
        return health.look_at

    def _look_at(self, link: Link, now: float) -> float:
        """Pings, echoes, markers, leases of the hung and idle links; return when to look again."""
        times = [link.echo_at]
        if link.belief is Belief.HUNG:
            self.producers.hung(link, now)
            times.append(now + LOOK_EVERY)
        if not link.up:
            return min(times)
        if link.echo_at <= now or self._is_ping_due(link, now):
            self.control.note(link)
        times.append(link.ping_at)
        if link.marker_due:
            times.append(self.topics.send_markers(link, now))
        if self._in_common(link):
            link.match_at = now
        elif now - link.match_at < IDLE_CLOSE_AFTER:
            times.append(link.match_at + IDLE_CLOSE_AFTER)
        elif not link.bye_number and not self._draining:
            self._part_idle(link, now)
        if link.bye_number and link.bye_at <= now:
            self.control.note(link)
        times.append(link.bye_at)
        return min((at for at in times if at > now), default=inf)  # what is due leaves, or waits for its socket

    def _is_ping_due(self, link: Link, now: float) -> bool:
        """Whether a PING is to leave; if what has come since it was planned has put it off, plan anew."""
        if link.ping_at > now:
            return False
        if link.ping_at == -inf:
            return True
        if self._plan_ping(link, now) > now:
            return False
        if link.busy and not self.producers.held_by(link.holder) and not self.consumers.holds_from(link.holder):
            link.busy = False
            self._busy.pop(link, None)
            return self._plan_ping(link, now) <= now
        if link.asked_at + PING_UNTIL <= now:
            link.ping_at = now + PING_BUSY
            self.peers.look(link, link.ping_at)
            return False
        return True

    def _plan_ping(self, link: Link, now: float) -> float:
        link.ping_at = ping_due(
            busy=link.busy,
            evidence=link.evidence,
            pinged_at=link.pinged_at,
            heard_at=link.heard_at,
            jitter=link.jitter,
        )
        if link.wire == OURSELVES and not link.busy:
            link.ping_at = inf
        if link.ping_at > now:
            self.peers.look(link, link.ping_at)
        return link.ping_at

    def _in_common(self, link: Link) -> bool:
        """Whether anything could ever flow between us and the peer, or one holds something of the other."""
        theirs = link.their_interest
        if theirs is None or link.matched == (self.interests.version, theirs):
            return True
        if self.interests.in_common(theirs):
            link.matched = (self.interests.version, theirs)
            return True
        return self.producers.held_by(link.holder) or self.consumers.owes(link.holder)

    def _part_idle(self, link: Link, now: float) -> None:
        link.bye_number = link.out_number + 1
        self.control.put(link, Bye(b"", 0, 0, self.address.node_id, IDLE))
        self._apply(self.peers.part_idle(link, now), now)

    def deadline(self) -> float | None:
        """When `expire` has something to do; None: nothing is being waited for."""
        at = min(self._due_at(), self.interests.due_at, self.peers.deadline())
        return at if at < inf else None

    def _due_at(self) -> float:
        return min(self._next_look, self.topics.wake_at, self.producers.deadline(), self.consumers.deadline())

    # Sending

    def outgoing(self, now: float) -> Iterator[tuple[int, list[bytes]]]:
        """Everything that should be sent now, as (wire, frames).

        The driver calls `refuse` before it goes on if the socket did not take the frames.
        """
        while True:
            self.consumers.answer_arrivals(now)
            for wire, frames in self._said(now):
                if wire == OURSELVES:
                    self._loop.append(frames)
                else:
                    yield wire, frames
            if not self._loop:
                self._expected = max(now, min(self._next_look, self.topics.wake_at, self.peers.deadline()))
                return
            while self._loop:
                self.receive(self._loop.popleft(), now)

    def _said(self, now: float) -> Iterator[tuple[int, list[bytes]]]:
        """What should be sent now, what is said to ourselves included."""
        yield from self.producers.frames()  # first, since somebody waits for it
        if self.control.due or self.peers.has_to_say:
            yield from self._control(now)
            yield from self.producers.frames()  # again, as control may have been in its way

    def refuse(self, wire: int, frames: list[bytes], now: float) -> None:
        """The socket of `wire` did not take `frames`."""
        self._refused_wire = wire
        link = self.peers.links.get(wire)
        if link is not None and link.up:
            self.control.refuse(link, frames)

    def _control(self, now: float) -> Iterator[tuple[int, list[bytes]]]:
        for link, frames in self.peers.hello_frames(now):
            yield link.wire, frames
        for wire, frames in self.peers.parting_frames():
            self._refused_wire = -1
            yield wire, frames
            if self._refused_wire != wire:
                self.peers.parting_sent(wire, now)
        control = self.control
        for link in control.take_due():
            if link.wire not in self.peers.links:
                continue
            if link.refused is not None or link.outbound:
                yield from control.leaving(link)  # kept from before
            if control.is_blocked(link):
                control.note(link)
            elif link.up:
                self._say(link, now)
                if link.outbound:
                    yield from control.leaving(link)

    def _say(self, link: Link, now: float) -> None:
        """Queue what a link has to say besides DATA, most urgent last."""
        control = self.control
        if link.told_version < self.interests.told_version and link.echoed >= link.interest_number:
            self._put_interest(link, [], [])
            self.peers.look(link, now)  # there may be nothing in common any more
        if link.releases or link.live_due:
            # Before an echo, which may let the peer start what it must not.
            control.put(link, self.producers.take_release(link))
        self._put_results(link)
        if link.pong_stamp is not None:
            control.put(link, Pong(b"", 0, 0, link.pong_stamp))
            link.pong_stamp = None
        if link.drain_due:
            link.drain_due = False
            control.put(link, Drain(b"", 0, 0))
        if self._is_ping_due(link, now):
            self._put_ping(link, now)
        if link.bye_at <= now and link.bye_number:
            self._put_bye(link, now)
        if link.echo_at <= now:
            control.put(link, Ack(b"", 0, 0, link.ack_number))

    def _put_results(self, link: Link) -> None:
        results, grants = self.consumers.take_results(link, link.ack_number + 1)
        if results or grants:
            self.control.put_ack(link, results, grants)

    def _put_ping(self, link: Link, now: float) -> None:
        self.control.put(link, Ping(b"", 0, 0, now, link.acks_settled, self.producers.backlogs(link)))
        link.pinged(now, self._random.random())
        if link.busy:
            self._busy[link] = None
            self._next_look = min(self._next_look, now + LOOK_EVERY)
        self._plan_ping(link, now)
        self.peers.look(link, link.silent_at)

    # Closing

    def drain(self, now: float) -> None:
        """Take no new messages from anybody; return what was not started."""
        if self._draining:
            return
        self._draining = True
        for link in self.peers.by_peer.values():
            link.drain_due = link.up and link.wire != OURSELVES
            self.control.note(link)
        self.consumers.close(now, keep=self.producers.unsettled_queues())
        self._next_look = now

    def settled(self, *, waits_for_consumers: bool = False) -> bool:
        """Nothing accepted is unsettled here, nothing that was started is undecided, and subscribers have it all.

        What a spool keeps is not waited for if nobody consumes it; with `waits_for_consumers` somebody may come yet.
        """
        return (
            self.producers.settled(waits_for_consumers=waits_for_consumers)
            and self.consumers.idle
            and self.topics.flushed
        )

    def say_bye(self, now: float) -> None:
        """Say goodbye on every link; `finished` tells when all have answered."""
        self.peers.closing = True
        self.consumers.close(now)
        self.closed_at = now + BYE_LIMIT
        for link in list(self.peers.links.values()):
            if link.up and link.wire != OURSELVES:
                self._put_results(link)
                link.bye_reason = LEAVING
                self._put_bye(link, now)
        self._next_look = now

    def _put_bye(self, link: Link, now: float) -> None:
        self.control.put(link, Bye(b"", 0, 0, self.address.node_id, link.bye_reason))
        link.bye_number = link.out_number
        link.bye_at = now + BYE_REPEAT
        self.peers.look(link, link.bye_at)

    def finished(self, now: float) -> bool:
        """Whether every peer has answered our BYE, or waiting for that is over."""
        waiting = [k for k in self.peers.links.values() if k.up and k.wire != OURSELVES and not k.bye_received]
        return now >= self.closed_at or not waiting

    # Reports

    def take_commands(self) -> list[Command]:
        return self.peers.take_commands()

    def take_changed(self) -> set[OutgoingQueue | IncomingQueue | OutgoingTopic | IncomingTopic]:
        """The ends whose users may have something to go on with."""
        return self.producers.take_changed() | self.consumers.take_changed() | self.topics.take_changed()

    def take_learned(self) -> list[Address]:
        """Addresses of nodes that hellos told since the last call."""
        taken, self.peers.learned = self.peers.learned, []
        return taken

    def take_met(self) -> list[tuple[Address, bool]]:
        """Links whose link came up, or who are gone, since the last call."""
        taken, self._met = self._met, []
        return taken

    def statistics(self) -> Statistics:
        """A snapshot in which every producer's accounting closes."""
        return Statistics(
            node_id=self.address.node_id,
            name=self.address.name,
            producers=tuple(producer.account() for producer in self.producers.by_queue.values()),
            consumers=tuple(consumer.account() for consumer in self.consumers.by_queue.values()),
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
        self.producers.check()
        self.consumers.check()
        self.topics.check()


def _refusal(bye: Bye) -> str:
    why = {
        OTHER_FABRIC: "it is in another fabric; give both nodes the same fabric=",
        OTHER_VERSION: "it speaks another version; install the same release on both",
        TOO_MANY_PEERS: "it has as many peers as it allows; raise Options(peers_max=) there",
    }
    return f"{bye.node_id} refused this node: {why.get(bye.reason, 'no reason given')}"


__all__ = ["Engine"]
