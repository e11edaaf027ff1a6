"""The engine of one node: a list of machines over its links, and nothing more.

A driver tells it what happens, and takes what it asks for:

    handle_frames, handle_published, ...      what the sockets brought
    open_producer, producers.accept, ...      what users want
    handle_timeout(now)                       once `poll_timeout()` has come
    transmit(send, now)                       the driver's `send` takes frames, or says that a socket is full
    poll_commands() -> sockets to open and close, before and after the frames
    poll_events() -> what is for users, discovery and the log
    poll_timeout() -> when there is something to do though nothing happens, last

It opens nothing, reads no clock and draws no unseeded random number, so the same engine runs under real
sockets and under a simulated network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from operator import attrgetter
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from peerfabric.errors import BadFrame
from peerfabric.health import Finding, Health
from peerfabric.link.commands import Command, Outcome
from peerfabric.link.control import Control
from peerfabric.link.endpoints import host_of
from peerfabric.link.interest import Interests
from peerfabric.link.link import Belief, CameUp, Change, Gone, LifeEnded, Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.lookalikes import Lookalikes
from peerfabric.link.machine import Handler, Machine
from peerfabric.link.parting import Parting, told
from peerfabric.link.pings import Pings
from peerfabric.link.roster import Roster
from peerfabric.link.round_trips import RoundTrips
from peerfabric.log_records import LogRecord, LogRecords
from peerfabric.options import Options
from peerfabric.queue.durable import Recovered
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.receiver import Receiver
from peerfabric.queue.sender import Sender
from peerfabric.ranges import Ranges
from peerfabric.reports import CallAccount, PeerView, ServiceAccount, Statistics
from peerfabric.topic.publisher import OutgoingTopic
from peerfabric.topic.subscriber import IncomingTopic
from peerfabric.topic.topics import Topics
from peerfabric.wire.frames import (
    OTHER_FABRIC,
    OTHER_VERSION,
    TOO_MANY_PEERS,
    Ack,
    Address,
    Bye,
    ForeignHello,
    Hello,
    UnknownKind,
    decode_frame,
)

if TYPE_CHECKING:
    from peerfabric.service.caller import Caller
    from peerfabric.service.responder import Responder
    from peerfabric.service.served import Served

    End = OutgoingQueue | IncomingQueue | OutgoingTopic | IncomingTopic | Caller | Served

LATE: Final = 0.5
"""A turn that comes this much after its deadline is our own fault, and nobody is accused for it."""
LOOK_AT_HUNG_EVERY: Final = 0.5

NO_HALF: Final = bytes(4)
"""Halves begin at 1, so a link id that begins so is that of no life."""
REFUSALS: Final = {
    OTHER_FABRIC: "it is in another fabric; give both nodes the same fabric=",
    OTHER_VERSION: "it speaks another version; install the same release on both",
    TOO_MANY_PEERS: "it has as many peers as it allows; raise Options(peers_max=) there",
}

Send = Callable[[int, list[bytes]], bool]
"""Takes a wire and frames; False: its socket takes none now, and it will be told when it is writable."""


class Events(NamedTuple):
    """What has come of the calls since the last `poll_events`.

    changed     ends whose users may have something to go on with
    records     lines for the log
    announced   our own address, if it has changed, for all who look for us
    superseded  where a later life of this very node is: this one must stop; empty if there is none
    """

    changed: Iterable[End]
    records: Iterable[LogRecord]
    announced: Address | None
    superseded: str = ""


NOTHING: Final = Events((), (), None)


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
        self.links = Links(address, fabric, options.message_bytes_max + 1024, options.peers_max, random)
        self.control = Control(self.links.due)
        self.records = LogRecords()
        self.health = Health(self.records, now)
        self.stranded: tuple[Finding, ...] = ()
        """What the driver has found of messages that nobody sends, for `health`."""
        self.changed: set[End] = set()
        self.machines: list[Machine] = []
        """In the order in which they hear of changes, and say what they have to say on a link."""
        self.roster = Roster(self.links)
        self.interests = Interests(
            self.links, self.control, self.machines, self._part_idle, self._tell_fabric, self.roster.keeps
        )
        self.producers = Sender(address, self.links, self.control, self.records, random, self.changed)
        self.consumers = Receiver(options, self.links, self.control, self.records, self.changed)
        self.topics = Topics(address, self.links, self.changed, self.interests.tell_again)
        self.parting = Parting(self.links, self.control, self.interests.is_useful, self._apply)
        self.round_trips = RoundTrips(self.links, self.control)
        self.lookalikes = Lookalikes(self.links, self.interests, self.roster.own)
        self.pings = Pings(self.links, self.control, self.machines, self.producers.ping_contents, random)
        self.machines += (self.interests, self.producers, self.consumers, self.topics, self.roster)
        self.machines += (self.parting, self.lookalikes, self.round_trips, self.pings)
        self._handlers: dict[type, tuple[Handler, ...]] = {}
        self._register(self.machines)
        self._responder: Responder | None = None
        self._caller: Caller | None = None
        self._random = random
        self.unread = False
        """The driver has read more frames than it has given to this engine, or may have."""
        self.joins_within = 1.0
        """Seconds after the start in which others may not have been found yet."""
        self._loop: deque[list[bytes]] = deque()
        self._expected = self._turned_at = self._began = now

    def _register(self, machines: Iterable[Machine]) -> None:
        for machine in machines:
            for kind, handler in machine.handlers().items():
                self._handlers[kind] = (*self._handlers.get(kind, ()), handler)

    # Services, which most nodes neither call nor offer: their machines are there when they are first needed

    @property
    def caller(self) -> Caller:
        """Calls of this node."""
        return self._caller or self._begin_services()[0]

    @property
    def responder(self) -> Responder:
        """Services of this node."""
        return self._responder or self._begin_services()[1]

    def _begin_services(self) -> tuple[Caller, Responder]:
        from peerfabric.service.caller import Caller
        from peerfabric.service.responder import Responder

        self._responder = Responder(self.links, self.control, self.changed, self._random)
        self._caller = Caller(self.links, self.control, self.interests, self.changed, self._began + self.joins_within)
        at = self.machines.index(self.parting)
        self.machines[at:at] = begun = (self._responder, self._caller)
        self._register(begun)
        for link in filter(attrgetter("up"), self.links.by_wire.values()):
            for machine in begun:
                machine.link_up(link, self._turned_at)
                if link.their_interest is not None:
                    machine.handle_interest(link, link.their_interest, self._turned_at, first=True)
        return self._caller, self._responder

    @property
    def address(self) -> Address:
        """Who this node is and where its sockets listen now."""
        return self.links.address

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
        self.interests.changed(now)
        return end

    def close_producer(self, queue: str, now: float) -> None:
        """This node sends to `queue` no more, of which nothing is unsettled."""
        self.producers.close(queue)
        self.interests.produces.discard(queue)
        self.interests.changed(now)

    def open_consumer(
        self, queue: str, lease: float, now: float, remembered: Mapping[str, Ranges] | None = None
    ) -> IncomingQueue:
        """This node consumes from `queue` from now on; with a ledger it has processed what is `remembered`."""
        end = self.consumers.open(queue, lease, remembered)
        self.interests.consumes.add(queue)
        self.interests.changed(now)
        return end

    def close_consumer(self, queue: str, now: float) -> None:
        """Nobody here takes from `queue` any more; what was not started goes back."""
        end = self.consumers.by_queue.get(queue)
        if end is not None:
            self.consumers.progress(end, now)
            end.close()
            self.consumers.progress(end, now)
            self.interests.consumes.discard(queue)
            self.interests.changed(now)

    def reopen_consumer(self, queue: str, now: float) -> None:
        """A closed consumer takes again."""
        self.consumers.by_queue[queue].closed = False
        self.interests.consumes.add(queue)
        self.interests.changed(now)

    def open_publisher(self, topic: str, codec: int, now: float) -> OutgoingTopic:
        """This node publishes on `topic` from now on."""
        end = self.topics.open_publisher(topic, codec, now)
        self.interests.publishes.add(topic)
        self.interests.changed(now)
        return end

    def open_subscriber(self, pattern: str, buffer_bytes: int, now: float) -> IncomingTopic:
        """This node receives what `pattern` selects from now on."""
        end = self.topics.open_subscriber(pattern, buffer_bytes)
        self.interests.subscribes[pattern] = end.serial
        self.interests.changed(now)
        return end

    def close_subscriber(self, pattern: str, now: float) -> None:
        """Nobody here wants what `pattern` selects any more."""
        if self.topics.close_subscriber(pattern):
            del self.interests.subscribes[pattern]
            self.interests.changed(now)

    def open_service(
        self, service: str, capacity: int, waiting: int, waiting_bytes: int, stall: float, now: float
    ) -> Served:
        """This node answers calls of `service` from now on; the arguments are those of `Served`."""
        served = self.responder.serve(service, capacity, waiting, waiting_bytes, stall)
        self.interests.serves[service] = capacity
        self.interests.changed(now)
        return served

    def close_service(self, served: Served, now: float) -> None:
        """No call of that service starts here any more."""
        if self.responder.unserve(served):
            del self.interests.serves[served.service]
            self.interests.changed(now)

    # What discovery and the sockets bring

    def handle_discovered(self, address: Address, now: float, *, sighted: bool = True) -> None:
        """Discovery proposes an address; `sighted`: registry or mDNS shows the node itself."""
        self.roster.discovered(address, now, sighted=sighted)

    def exchange(self, *, sights: bool) -> None:
        """Pass on what is known of other nodes, and ask them to; `sights`: registry or mDNS shows some to this node."""
        self.roster.exchanges, self.roster.sights = True, sights

    def handle_digest_keys(self, keys: Sequence[bytes], now: float) -> None:
        """Digests are made and read under these keys from now on, those of the fabric's secrets; none in the clear."""
        self.roster.rekey(keys, now)

    def look_at_all(self, on: bool, now: float) -> None:
        """Link with every node of the fabric, to see what it uses, until this is off again."""
        self.roster.look_at_all(on, now)

    def readdress(self, address: Address, now: float) -> None:
        """The sockets of this node listen elsewhere from now on, or it says something else of itself.

        Its `version` grows: `Engine.address` is what others shall be told.
        """
        before, after = ({host_of(endpoint) for endpoint in each.inbox} for each in (self.address, address))
        self._apply(self.links.readdress(address, now), now)
        self.roster.announce(now)
        if before - after - {""}:
            self.topics.follow_anew()

    def handle_gates(self, gates: Sequence[str], now: float) -> None:
        """Peers are dialled under these keys from now on, the first is the best; [""] in the clear."""
        self._apply(self.links.change_gates(list(gates), now), now)

    def handle_access(self, admits: Callable[[str], bool], now: float) -> None:
        """Only nodes that `admits` names are let in from now on; links with others end, new ones are dialled."""
        self.links.admits = admits
        for link in list(self.links.by_peer.values()):
            if link.wire != OURSELVES and not admits(link.node_id):
                self.parting.shut_out(link, now)
        self.links.let_in(now)

    def handle_candidate(self, endpoint: str, now: float) -> None:
        """Somebody may listen at `endpoint`."""
        self.links.candidate(endpoint, now)

    def handle_withdrawn(self, endpoint: str) -> None:
        """Nobody proposes the candidate any more; a link that it led to stays."""
        self.links.withdrawn(endpoint)

    def handle_lost(self, node_id: str, now: float) -> None:
        """Discovery does not see the node any more."""
        self.roster.lost(node_id, now)

    def handle_connected(self, wire: int, now: float) -> None:
        """The socket of `wire` has a connection."""
        self.links.connected(wire, now)

    def handle_disconnected(self, wire: int, now: float) -> None:
        """The socket of `wire` has lost its connection."""
        self.control.unblock(wire)
        self._apply(self.links.disconnected(wire, now), now)

    def handle_unreachable(self, wire: int, now: float, why: str = "") -> None:
        """Nobody listens where `wire` was to lead, or it was not let in there: `why` is a reason of PeerView."""
        self._apply(self.links.unreachable(wire, now, why), now)

    def handle_probed(self, wire: int, outcome: Outcome, now: float) -> None:
        """A probe of the inbox behind `wire` has found something."""
        self._apply(self.links.probed(wire, outcome, now), now)

    def handle_writable(self, wire: int) -> None:
        """The socket of `wire` takes frames again."""
        self.control.unblock(wire)
        link = self.links.by_wire.get(wire)
        if link is not None:
            self.control.note(link)

    def handle_frames(
        self, frames: Sequence[bytes | memoryview], now: float, sender: str = "", observed: str = ""
    ) -> None:
        """A header, and perhaps a body, arrived at the inbox. Nothing in it can hurt this node.

        `sender` is the node id that its key has proven; empty over ipc, and in the clear. `observed` is the numeric
        address that the frame came from; only that of a HELLO is looked at, and empty means that it is not known.
        """
        try:
            frame = decode_frame(bytes(frames[0]))
        except ForeignHello as foreign:
            self.links.reject(foreign.address, OTHER_VERSION, now)
            self.records.once(
                f"version {foreign.address.node_id}",
                "warning",
                f"{foreign.address.name or foreign.address.node_id} speaks {foreign}",
            )
            return
        except UnknownKind:
            self.links.count("frames of unknown kind")
            return
        except BadFrame:
            self.links.count("bad frames")
            return
        if isinstance(frame, Hello):
            if sender and frame.address.node_id != sender:
                self._false_name("hellos under a false name", sender, frame.address.node_id)
                return
            self._apply(self.links.receive_hello(frame, now, sender, observed), now)
            return
        if isinstance(frame, Bye) and frame.link.startswith(NO_HALF):
            if sender and frame.node_id != sender:
                self._false_name("frames under a false name", sender, frame.node_id)
                return
            self._apply(self.links.rejected_by(frame, now), now)
            if frame.reason in REFUSALS:
                text = f"{frame.node_id} refused this node: {REFUSALS[frame.reason]}"
                self.records.once(f"refused {frame.node_id}", "warning", text)
            return
        link = self.links.by_id.get(frame.link)
        if link is None:
            ended = self.links.ended.get(frame.link) if isinstance(frame, Ack) else None
            if ended is not None and isinstance(frame, Ack) and ended.sender == sender:
                self.producers.receive_late_ack(ended, frame)
            self.links.stray(frame.link, now)
            return
        if link.sender != sender:
            self._false_name("frames under a false name", sender, link.node_id)
            return
        body = frames[1] if len(frames) > 1 else b""
        if not link.accept(frame.number, frame.echo, len(frames[0]) + len(body), now):
            self._apply(self.links.broken(link, now), now)
            return
        if frame.echo > link.echoed:
            delivered = link.take_echo(frame.echo, now)
            if delivered:
                self.producers.delivered(delivered)
            if link in self.interests.due:
                self.control.note(link)
        if link.extend_fence():
            self.consumers.fenced(link, now)
        try:
            handlers = self._handlers.get(type(frame))
            if handlers is None:  # of a service
                self._begin_services()
                handlers = self._handlers[type(frame)]
            for handler in handlers:
                handler(link, frame, body, now)
        except BadFrame as error:
            self.links.count("bad frames")
            self.records.add("warning", f"a frame of {link.name} cannot be read ({error}); link renewed")
            self._apply(self.links.broken(link, now), now)

    def _false_name(self, what: str, sender: str, name: str) -> None:
        self.links.count(what)
        text = f"node {sender or 'without a key'} speaks in the name of {name}; what it says is not read"
        self.records.once(f"false name {sender}", "warning", f"{text}: find out what runs there, and revoke it")

    def is_known(self, node_id: str) -> bool:
        """Whether there is a link with the node, or it has said hello to this one lately."""
        return self.links.is_known(node_id)

    def handle_published(self, frames: Sequence[bytes | memoryview], now: float) -> None:
        """A topic frame, a header, and perhaps a body, arrived from a publisher's outbox."""
        self.topics.receive(frames, now)

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
                    self.records.add("info", f"{link.name} {told(change)}")

    def _life_ended(self, link: Link) -> None:
        self.control.unblock(link.wire)
        for machine in self.machines:
            machine.link_down(link)

    def _came_up(self, link: Link, now: float) -> None:
        for machine in self.machines:
            machine.link_up(link, now)
        if link.address is not None and link.wire != OURSELVES:
            self.records.add("info", f"{link.name} joined")

    def _gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.control.unblock(link.wire)
        for machine in self.machines:
            machine.peer_gone(link, now, proven=proven, died=died)

    def _tell_fabric(self, now: float) -> None:
        wants = self.interests
        used = (wants.produces, wants.consumes, wants.publishes, wants.subscribes, wants.serves, wants.calls)
        self.roster.interest_changed(used, now)

    def _part_idle(self, link: Link, now: float) -> None:
        self.parting.part_idle(link, now)

    # Time

    def handle_timeout(self, now: float) -> None:
        """Act on everything that has come due."""
        late = now - max(self._expected, self._turned_at)
        starting, self._turned_at = self._turned_at == self._began, now
        if late > LATE:
            self.health.excuse(late)
            if not starting:  # which may take long
                self.health.was_late(late, now)
            if self._responder is not None:
                self._responder.was_late(late, now)
            self._look_at_links(now, late)
        elif self.links.deadlines.first <= now:
            self._look_at_links(now, 0.0)
        if (responder := self._responder) is not None and responder.late and not (late > LATE or self.unread):
            responder.late = 0.0
        for machine in self.machines:
            if machine.deadlines.first <= now:
                machine.handle_timeout(now)
        if self.health.look_at <= now:
            self._look_after(now)

    def _look_at_links(self, now: float, late: float) -> None:
        self._apply(self.links.handle_timeout(now, late), now)
        for link in self.links.looked_at:
            self._look_at(link, now)

    def _look_at(self, link: Link, now: float) -> None:
        if link.belief is Belief.HUNG:
            for machine in self.machines:
                machine.peer_hung(link, now)
            self.links.look(link, now + LOOK_AT_HUNG_EVERY)
        elif link.belief is Belief.SUSPECT and self._caller is not None:
            self._caller.peer_suspect(link, now)
        if link.up:
            self.pings.look_at(link, now)

    def _look_after(self, now: float) -> None:
        """Look for what a person should know of."""
        if self.parting.draining:
            self.health.look_at = inf
            return
        found = [finding for machine in self.machines for finding in machine.findings(now)]
        found = self.lookalikes.completed(found, now)
        self.health.look([*found, *self.links.findings(), *self.stranded], now)

    def poll_timeout(self) -> float:
        """When `handle_timeout` or `transmit` has something to do; inf: nothing is being waited for."""
        at = -inf if self.links.hello_due else min(self.health.look_at, self.links.deadlines.first)
        for machine in self.machines:
            at = min(at, machine.deadlines.first)
        self._expected = at
        return at

    # Output

    def transmit(self, send: Send, now: float) -> None:
        """Send everything that there is to send now."""
        consumers, producers, links, control = self.consumers, self.producers, self.links, self.control
        while True:
            responder, caller = self._responder, self._caller
            if caller is not None and (caller.waiting or responder.ready or responder.outgoing):  # type: ignore[union-attr]
                self.transmit_calls(send, now)
            if consumers.arrived:
                consumers.answer_arrivals(now)
            if consumers.handed:
                consumers.tell_watches(producers.by_queue, producers.touched)
            if producers.touched or producers.held_up:
                self._transmit_data(send, now)  # first, since somebody waits for it
            if producers.safe:
                consumers.ack_safe(producers.safe, now)
            if links.hello_due or links.rejections.wires or links.answers:
                self._transmit_hellos(send, now)
            if control.due:
                self._transmit_control(send, now)
                self.transmit_calls(send, now)  # again, as control may have been in its way
                if producers.touched or producers.held_up:
                    self._transmit_data(send, now)
            if not self._loop:
                return
            while self._loop:
                self.handle_frames(self._loop.popleft(), now)

    def _transmit_data(self, send: Send, now: float) -> None:
        for wire, frames in self.producers.frames(now):
            if wire == OURSELVES:
                self._loop.append(frames)
            elif not send(wire, frames):
                self.control.keep(self.links.by_wire[wire], frames)

    def transmit_calls(self, send: Send, now: float) -> bool:
        """Send calls and answers, and nothing else; whether there is more to do now than that."""
        responder, caller = self._responder, self._caller
        if responder is None or caller is None:
            return False
        if responder.ready:
            responder.start(now, unread=self.unread)
        if responder.outgoing:
            responder.transmit(send, self._to_ourselves, now)
        if caller.waiting:
            caller.transmit(send, self._to_ourselves, now)
        return bool(self._loop or self.control.due)

    def _transmit_hellos(self, send: Send, now: float) -> None:
        for link, frames in self.links.hello_frames(now):
            to = self._to_ourselves if link.wire == OURSELVES else send
            if not to(link.wire, frames) and link.up:
                self.control.keep(link, frames)
        answers, self.links.answers = self.links.answers, []
        for wire, frames in answers:
            send(wire, frames)
        for wire, frames in self.links.rejections.frames():
            if send(wire, frames):
                self.links.rejection_sent(wire, now)

    def _transmit_control(self, send: Send, now: float) -> None:
        control = self.control
        for link in control.take_due():
            if link.wire not in self.links.by_wire:
                continue
            to = self._to_ourselves if link.wire == OURSELVES else send
            if link.kept is not None or link.outbound:
                control.transmit(link, to)  # kept from before
            if link.wire in control.blocked:
                control.note(link)
            elif link.up:
                if link.ping_at <= now or link.echo_at <= now:
                    self.pings.due[link] = None
                for machine in self.machines:  # `pings` last: RELEASE leaves before what lets the peer start something
                    if link in machine.due:
                        machine.poll_control(link, now)
                if link.outbound:
                    control.transmit(link, to)

    def _to_ourselves(self, wire: int, frames: list[bytes]) -> bool:
        self._loop.append(frames)
        return True

    def poll_commands(self) -> list[Command]:
        """What the driver shall do with its sockets, in order."""
        return self.links.poll_commands()

    def poll_events(self) -> Events:
        """What is for users, discovery and the log."""
        announced, self.roster.announced = self.roster.announced, None
        if not (self.changed or self.records.lines or announced or self.links.superseded):
            return NOTHING
        changed = list(self.changed)
        self.changed.clear()
        superseded, self.links.superseded = self.links.superseded, ""
        return Events(changed, self.records.take() if self.records.lines else (), announced, superseded)

    # Closing

    def drain(self, now: float) -> None:
        """Take no new messages from anybody; return what was not started."""
        if not self.parting.draining:
            self.parting.drain()
            if self._responder is not None:
                self._responder.drain()
            self.interests.serves.clear()
            self.interests.changed(now)
            self.consumers.close(now, keep=self.producers.unsettled_queues())

    def settled(self, *, waits_for_consumers: bool = False) -> bool:
        """Nothing accepted is unsettled here, nothing that was started is undecided, and subscribers have it all.

        What a spool keeps is not waited for if nobody consumes it; with `waits_for_consumers` somebody may come yet.
        """
        return (
            self.producers.settled(waits_for_consumers=waits_for_consumers)
            and self.consumers.idle
            and (self._responder is None or self._responder.idle)
            and self.topics.flushed
        )

    def say_bye(self, now: float) -> None:
        """Say goodbye on every link; `finished` tells when all have answered."""
        self.consumers.close(now)
        if self._caller is not None:
            self._caller.close(now)
        self.parting.say_bye(now)

    def finished(self, now: float) -> bool:
        """Whether every peer has answered our BYE, or waiting for that is over."""
        return self.parting.finished(now)

    # Reports

    def statistics(self) -> Statistics:
        """A snapshot in which every producer's accounting closes."""
        return Statistics(
            node_id=self.address.node_id,
            name=self.address.name,
            producers=tuple(producer.account() for producer in self.producers.by_queue.values()),
            consumers=tuple(consumer.account() for consumer in self.consumers.by_queue.values()),
            publishers=tuple(publisher.account() for publisher in self.topics.publishers.values()),
            subscribers=tuple(subscriber.account() for subscriber in self.topics.subscribers.values()),
            services=self.service_accounts(),
            calls=self.call_account(),
            peers=sum(1 for link in self.links.by_wire.values() if link.up and link.wire != OURSELVES),
            counters=dict(self.links.counters),
        )

    def service_accounts(self) -> tuple[ServiceAccount, ...]:
        return self._responder.accounts() if self._responder is not None else ()

    def call_account(self) -> CallAccount:
        return self._caller.account() if self._caller is not None else CallAccount()

    def consumers_of(self, queue: str) -> list[Address]:
        """Where nodes are that consume `queue`, or may; this one among them."""
        return self.roster.consumers_of(queue)

    def view(self) -> list[PeerView]:
        """Every node that we know of, with or without a link, and every candidate that has not answered."""
        return self.roster.view()

    def check(self) -> None:
        """Assert the invariants of every machine, and those between them."""
        self.links.check()
        for machine in self.machines:
            machine.check()


__all__ = ["Engine", "Events"]
