"""Sender: all outgoing queues of one node, what their consumers say and must be told, and dispatch.

What becomes of a message is decided in its `OutgoingQueue`; here it is found out which one a peer speaks of, and who
else must hear of it: users (`changed`), consumers that wait (a PING is due), those that have what was settled
elsewhere (RELEASE), the disk's cursors (`acks_to_settle`). What waits becomes DATA frames on the links that may take it
(dispatch.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import takewhile
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from peerfabric.health import Finding
from peerfabric.link.control import Control
from peerfabric.link.link import Link
from peerfabric.link.links import Links
from peerfabric.link.liveness import FENCE
from peerfabric.link.machine import Handler, Machine
from peerfabric.link.peer_names import PeerNames
from peerfabric.link.sending import Sent
from peerfabric.log_records import LogRecords
from peerfabric.names import queue_of
from peerfabric.queue.dispatch import Candidate, data_frames
from peerfabric.queue.numbering import LeftOff
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import DEPTH_MAX, Kind
from peerfabric.queue.summary import letters_in_memory, unsettled
from peerfabric.queue.trends import Trends
from peerfabric.ranges import Ranges, pairs
from peerfabric.wire.frames import (
    NAMES_MAX,
    NO_INTEREST,
    Ack,
    Address,
    Backlog,
    Drain,
    Extra,
    Interest,
    Release,
    StreamRanges,
)

if TYPE_CHECKING:
    from peerfabric.queue.backlog import Backlog as DurablePart
    from peerfabric.queue.durable import Recovered
    from peerfabric.queue.handon import HandOn, Watch


class Sender(Machine):
    """All producers' ends of one node, by queue.

    Args:
        address: Who this node is.
        links: Its links.
        control: Told of links that have something to say.
        records: Where it is told that messages are given up, and that the list of dead letters is full.
        random: Source of jitter.
        changed: Takes the ends whose users may have something to go on with.
    """

    def __init__(
        self,
        address: Address,
        links: Links,
        control: Control,
        records: LogRecords,
        random: Random,
        changed: set[Any],
    ) -> None:
        super().__init__()
        self.by_queue: dict[str, OutgoingQueue] = {}
        self.durable = False
        """Some of what was acked is settled only once a cursor on disk says so: see `cursors_stored`."""
        self._own_peer, self._changed = f"{address.node_id}:{address.epoch}", changed
        self._links, self._control, self._records, self._random = links, control, records, random
        self.touched: dict[OutgoingQueue, None] = {}
        """Those that may have something to send, or another deadline, since `frames` looked at them."""
        self.safe: dict[HandOn, None] = {}
        """Consumers, perhaps of other nodes, with inputs whose outputs are safe by now."""
        self.held_up: dict[str, dict[OutgoingQueue, None]] = {}
        """Peer -> those that wait for room in its pipe."""
        self._unsettled: dict[OutgoingQueue, None] = {}
        """All with unsettled messages, and some without."""
        self._consume = PeerNames()
        self._known: dict[str, dict[OutgoingQueue, None]] = {}
        """Peer -> those that it has consumed since it was met: whatever is in flight there is of one of these."""
        self._holding: dict[str, dict[OutgoingQueue, None]] = {}
        """Peer -> those of which it has messages, and some of which it had."""
        self._changes = 0
        self._changed_at: dict[OutgoingQueue, int] = {}
        """The last change of each that `frames` looked at, by number; the latest come last."""
        self.left_off = LeftOff()
        self.trends = Trends(links.by_peer)
        self._unsettled_acks: dict[Link, None] = {}
        """Links with ACKs that no cursor has yet."""
        self.for_disk: dict[OutgoingQueue, None] = {}
        """Durable queues of which something is to be stored or read, until the disk takes note of them."""
        self.disk_urgent = False
        """Somebody waits for what the disk has to do, so that it must not wait until its next cursors are due."""

    # What users do

    def open(
        self,
        queue: str,
        codec: int,
        max_attempts: int,
        dead_letter_bytes_max: int,
        now: float,
        recovered: Recovered | None = None,
    ) -> OutgoingQueue:
        """This node sends to `queue` from now on; with a spool also what is `recovered` there."""
        stream = f"{self._own_peer}:{queue}"
        chosen = (queue, stream, codec, dead_letter_bytes_max, max_attempts, self._random, self._records)
        following = self.left_off.take(queue)
        end = recovered.open(*chosen, now, following) if recovered else OutgoingQueue(*chosen, following=following)
        end.touched = self.touched
        self.by_queue[queue] = end
        self._touch(end)
        for peer in self._consume.told_by(queue):
            link = self._links.by_peer.get(peer)
            if link is not None:
                self._set_consumer(end, link, consumes=True)
        return end

    def close(self, queue: str) -> None:
        """This node sends to `queue` no more, of which nothing is unsettled. Opened again it goes on counting."""
        end = self.by_queue.pop(queue)
        assert not end.unsettled_count, "closed with unsettled messages"
        self.left_off.put(queue, end.next - end.numbering.base)
        for table in (self.touched, self._unsettled, self._changed_at, self.for_disk):
            table.pop(end, None)
        for by_peer in (self.held_up, self._known, self._holding):
            for peer, ends in by_peer.items():
                if ends.pop(end, self) is None and (link := self._links.by_peer.get(peer)) is not None:
                    link.sending.live_due = True
                    self.due[link] = None
                    self._control.note(link)
        self.deadlines.move(end, inf)
        self._changed.discard(end)
        self.trends.closed(end)
        if end.watch is not None:  # all is settled, also what comes to be waited for later
            end.watch.leave()

    def fill_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        link.sending.close(self.by_queue, link.out_number + 1)

    def _touch(self, end: OutgoingQueue) -> None:
        """Something has happened to `end`: users look, and so do we."""
        self._changed.add(end)
        self.touched[end] = None
        self._unsettled[end] = None

    def accept(
        self,
        end: OutgoingQueue,
        bodies: list[bytes],
        sent_ms: int,
        extras: dict[int, Extra] | None = None,
        *,
        volatile: bool = False,
        kind: Kind | None = None,
    ) -> None:
        """Take responsibility for `bodies`, all of `kind`; they leave with the next `frames`."""
        if not end.waiting_count:
            end.begins_to_wait = True
        end.accept(bodies, sent_ms, extras, volatile=volatile, kind=kind)
        self.touched[end] = None
        self._unsettled[end] = None

    def _tell_waiting(self, end: OutgoingQueue, but: Container[str] = ()) -> None:
        """Consumers that left us without credit learn at once that something waits."""
        for peer in end.consumers:
            link = self._links.by_peer.get(peer)
            if link is None or not link.up or peer in but:
                continue
            credit = link.sending.credit(end.queue)
            if credit.rests_until > -inf or credit.available()[0] == 0:
                link.ask()

    # What the disk reports

    def acks_to_settle(self) -> dict[Link, tuple[int, int]]:
        """What has been applied of each link's ACKs; to be given to `cursors_stored` once all cursors say so."""
        return {
            link: (link.theirs, link.sending.acks_applied)
            for link in self._unsettled_acks
            if link.sending.acks_applied > link.sending.acks_settled and link.wire in self._links.by_wire
        }

    def awaits_cursors(self, changed: Iterable[OutgoingQueue]) -> bool:
        """Whether somebody may not start a message before `cursors_stored`, of queues that are `changed` since then."""
        return any(end.awaits_cursor for end in changed)

    def cursors_stored(self, applied: dict[Link, tuple[int, int]]) -> None:
        """The cursors on disk have the results of these ACKs: consumers may forget them."""
        for link, (life, ack) in applied.items():
            if link.theirs != life:
                continue  # the peer has begun a new count, of which the cursors know nothing
            link.sending.acks_settled = max(link.sending.acks_settled, min(ack, link.sending.acks_applied))
            if link.sending.acks_settled >= link.sending.acks_applied:
                self._unsettled_acks.pop(link, None)

    def disk_moved(self, end: OutgoingQueue) -> None:
        """The disk has read or stored something for `end`: consumers and users that wait learn of it."""
        self._touch(end)
        for peer in (*end.backlog.adopted, *end.in_flight.tables) if end.backlog is not None else ():
            self._holding.setdefault(peer, {})[end] = None
        if end.waiting_count:
            self._tell_waiting(end)

    # What peers say

    def delivered(self, echoed: list[Sent]) -> None:
        """These DATA frames have reached their peer."""
        for sent in echoed:
            end = self.by_queue.get(sent.queue)
            if end is not None:
                end.delivered(sent.start, sent.stop)
                if end.watch is not None:
                    self.touched[end] = None
                self._changed.add(end)

    def handlers(self) -> Mapping[type, Handler]:
        return {Ack: self.receive_ack, Drain: self.receive_drain}

    def receive_ack(self, link: Link, ack: Ack, body: object, now: float) -> None:
        """A consumer tells what became of messages, and what more may come."""
        peer = link.peer
        resting: dict[OutgoingQueue, None] = {}
        for result in ack.results:
            end = self.by_queue.get(result.queue)
            if end is None:
                continue
            for start, stop in end.numbers(result.stream, result.ran) if result.ran else ():
                end.ran(peer, start, stop)
            for start, stop in end.numbers(result.stream, result.done) if result.done else ():
                end.acked(peer, start, stop)
            for start, stop in end.numbers(result.stream, result.returned) if result.returned else ():
                end.returned(peer, start, stop)
                resting[end] = None
            for nack in result.nacks:
                for start, stop in end.numbers(result.stream, [nack.start, nack.stop]):
                    nack.start, nack.stop = start, stop
                    end.nacked(peer, nack, now)
                    if nack.reason == NO_INTEREST:
                        self._consume.withdraw(peer, end.queue)
                        end.set_consumer(peer, link.node_id, consumes=False)
            self._touch(end)
            if end.releases:
                self._collect_releases(end)
        link.sending.acks_applied = max(link.sending.acks_applied, ack.ack)
        self._acks_applied(link)
        for grant in ack.grants:
            end = self.by_queue.get(grant.queue)
            if end is not None and not (link.sending.closed and link.sending.is_old(grant.queue, ack.echo)):
                link.sending.credit(grant.queue).grant(grant.messages, grant.bytes)
                self.touched[end] = None
                resting.pop(end, None)
        for end in resting:  # nobody takes there: what it was granted before would only send the messages round
            end.pending.look_at(link.sending.credit(end.queue).rest(now))

    def receive_late_ack(self, link: Link, ack: Ack) -> None:
        """An ACK of the last life of the link, which has ended: what was processed was, whatever came of the rest."""
        for result in ack.results:
            end = self.by_queue.get(result.queue)
            if end is not None and result.done:
                for start, stop in end.numbers(result.stream, result.done):
                    end.acked(link.peer, start, stop)
                self._touch(end)
                if end.releases:
                    self._collect_releases(end)

    def _acks_applied(self, link: Link) -> None:
        if not self.durable:
            link.sending.acks_settled = link.sending.acks_applied
        elif link.sending.acks_applied > link.sending.acks_settled:
            self._unsettled_acks[link] = None

    def handle_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        link.sending.leases = {consuming.queue: consuming.lease for consuming in interest.consumes}
        if first:
            self.reconcile(link, interest, now)
        self.receive_interest(link)

    def receive_interest(self, link: Link) -> None:
        """The peer said anew what it consumes."""
        theirs = link.their_interest
        names = (c.queue for c in theirs.consumes) if theirs is not None and not link.draining else ()
        added, removed = self._consume.tell(link.peer, names)
        for queue in added:
            if queue in self.by_queue:
                self._set_consumer(self.by_queue[queue], link, consumes=True)
        for queue in removed:
            if queue in self.by_queue:
                self._set_consumer(self.by_queue[queue], link, consumes=False)

    def _set_consumer(self, end: OutgoingQueue, link: Link, *, consumes: bool) -> None:
        if consumes == (link.peer in end.consumers):
            return
        end.set_consumer(link.peer, link.node_id, consumes=consumes)
        self._touch(end)
        if consumes:
            self._known.setdefault(link.peer, {})[end] = None
            if end.waiting_count:
                link.ask()

    def _of(self, peer: str) -> list[OutgoingQueue]:
        """The queues that `peer` consumes, or of which it may hold something."""
        return list(self._known.get(peer, ()))

    def receive_drain(self, link: Link, drain: Drain, body: object, now: float) -> None:
        """The peer takes no new messages."""
        link.drain()
        self.receive_interest(link)

    def reconcile(self, link: Link, interest: Interest, now: float) -> None:
        """The first frame of a life: settle what is done there, take back what got lost on the way."""
        peer = link.peer
        concerned = dict.fromkeys(self._of(peer))
        for item in interest.done:
            producing = self.by_queue.get(queue_of(item.stream))
            if producing is not None:
                concerned[producing] = None
                for start, stop in producing.numbers(item.stream, item.ranges):
                    producing.acked(peer, start, stop)
        held: dict[str, Ranges] = {}
        for item in interest.held:
            producing = self.by_queue.get(queue_of(item.stream))
            known = Ranges()
            if producing is not None:
                concerned[producing] = None
                known = Ranges(producing.numbers(item.stream, item.ranges))
            for start, stop in known:
                held.setdefault(queue_of(item.stream), Ranges()).add(start, stop)
            if not known and self._disowns(item.stream, producing):
                link.sending.releases[item.stream] = Ranges(pairs(item.ranges)).flat()
        for end in concerned:
            release = end.reconcile(peer, held.get(end.queue, Ranges()))
            if peer in end.in_flight or (end.backlog is not None and peer in end.backlog.adopted):
                self._known.setdefault(peer, {})[end] = None
                self._holding.setdefault(peer, {})[end] = None
            for start, stop in release:
                for stream, low, high in end.numbering.names(start, stop):
                    link.sending.releases.setdefault(stream, []).extend((low, high))
            self._touch(end)
            self._collect_releases(end)
        for sent in link.take_lost():
            producing = self.by_queue.get(sent.queue)
            if producing is not None and producing.pending.is_returned(sent.start, sent.stop):
                producing.pending.broke(sent.start, sent.stop, now)
                break
        link.sending.acks_applied = interest.ack  # the peer may have begun a new count
        link.sending.acks_settled = 0
        self._acks_applied(link)
        link.sending.live_due = True
        self.due[link] = None

    def _disowns(self, stream: str, end: OutgoingQueue | None) -> bool:
        """Whether what is held of `stream`, of which nothing is unsettled here, need not run any more.

        What an earlier life without a spool had sent is nowhere else, so it may.
        """
        return stream.startswith(f"{self._own_peer}:") or (end is not None and end.backlog is not None)

    # What peers are told

    def frames(self, now: float) -> Iterator[tuple[int, list[bytes]]]:
        """All DATA that should leave now, as (wire, frames); a wire may refuse one before the next is made."""
        links = self._links.by_peer
        for peer in list(self.held_up) if self.held_up else ():
            link = links.get(peer)
            if link is None or link.has_room():
                self.touched.update(self.held_up.pop(peer))
        while self.touched:
            end = next(iter(self.touched))
            if end.pending.count:
                end.changed = False
                able = yield from data_frames(end, links, now)
                for candidate in able:
                    self._holding.setdefault(candidate.peer, {})[end] = None
                if end.pending.count:
                    self._keep(end, able)
                if end.changed:  # something of it ended before it was sent
                    self._changed.add(end)
            end.begins_to_wait = False
            backlog = end.backlog
            if backlog is not None and (backlog.changed or backlog.load_at < end.next):
                self._tell_disk(end, backlog)
            timers = end.pending.timers
            if timers:
                self.deadlines.put(end, timers[0][0])
            if end.watch is not None:
                self._look_at_outputs(end, end.watch, now)
            self._changes += 1
            self._changed_at.pop(end, None)
            self._changed_at[end] = self._changes
            if end.unsettled_count:
                self._unsettled[end] = None
            del self.touched[end]

    def _look_at_outputs(self, end: OutgoingQueue, watch: Watch, now: float) -> None:
        """Inputs wait until messages of `end` are safe: some may be."""
        self.safe.update(watch.look(now))
        if watch.went_deep:
            watch.went_deep = False
            self._records.once(
                f"deep {end.queue}",
                "warning",
                f"queue {end.queue!r}: what is sent to it leads back to itself, {DEPTH_MAX} times by now; so what "
                f"was handled counts as processed once what was sent for it is delivered; if that may be lost, "
                f"give this node a spool=",
            )

    def _tell_disk(self, end: OutgoingQueue, backlog: DurablePart) -> None:
        """The disk may have to read something of `end`, or to store what became of it."""
        to_read = backlog.load_at < end.next and backlog.load_bytes(end.next, end.held_bytes) > 0
        if to_read or backlog.changed:
            self.for_disk[end] = None
            self.disk_urgent = self.disk_urgent or to_read or backlog.unstored.total > 0 or end.awaits_cursor

    def _keep(self, end: OutgoingQueue, able: Iterable[Candidate]) -> None:
        """Messages of `end` stay behind: look again when a link that has no room has some, or credit comes."""
        if end.begins_to_wait:  # those who were able have learned it from their DATA
            self._tell_waiting(end, but={candidate.peer for candidate in able})
        for peer in end.consumers:
            link = self._links.by_peer.get(peer)
            if link is not None and not link.has_room():
                self.held_up.setdefault(peer, {})[end] = None
        if end.dead_letters_full:
            self._records.once(
                f"dead letters {end.queue}",
                "warning",
                f"queue {end.queue!r}: the dead-letter list is full and nothing is sent until it is not; "
                f"retry or drop some of node.dead_letters({end.queue!r})",
            )

    def poll_control(self, link: Link, now: float) -> None:
        self.due.pop(link, None)
        self._control.put(link, self.take_release(link))

    def ping_contents(self, link: Link) -> tuple[int, list[Backlog], bool]:
        """What a PING tells: our highest ACK settled of the peer's, what waits for it; and whether there is more.

        Of those queues of which something has changed since the last PING of this life.
        """
        sending, backlogs = link.sending, list[Backlog]()
        changed = list(takewhile(lambda end: self._changed_at[end] > sending.told, reversed(self._changed_at)))
        for end in reversed(changed):
            if len(backlogs) >= NAMES_MAX // 2:
                return sending.acks_settled, backlogs[:NAMES_MAX], True
            if link.peer in end.consumers:
                backlogs += self._backlogs(end, link)
            sending.told = self._changed_at[end]
        return sending.acks_settled, backlogs[:NAMES_MAX], False

    @staticmethod
    def _backlogs(end: OutgoingQueue, link: Link) -> list[Backlog]:
        """What waits for the peer and what was sent to it, for each stream of a queue."""
        credit, waiting, floor = link.sending.credit(end.queue), end.waiting_for(link.peer), end.safe_floor
        return [
            Backlog(
                end.queue,
                stream,
                waiting,
                credit.sent_messages,
                credit.sent_bytes,
                end.numbering.floor(stream, floor),
            )
            for stream in end.numbering.streams
        ]

    def take_release(self, link: Link) -> Release:
        """What the peer may forget, and which of our streams go on, if that is due."""
        streams = [StreamRanges(stream, flat) for stream, flat in link.sending.releases.items()]
        live = [s for end in self.by_queue.values() for s in end.numbering.streams] if link.sending.live_due else None
        link.sending.releases.clear()
        link.sending.live_due = False
        return Release(b"", 0, 0, streams, live)

    def _collect_releases(self, end: OutgoingQueue) -> None:
        releases, end.releases = end.releases, []
        for peer, start, stop in releases:
            link = self._links.by_peer.get(peer)
            if link is not None and link.up:
                for stream, low, high in end.numbering.names(start, stop):
                    link.sending.releases.setdefault(stream, []).extend((low, high))
                self.due[link] = None
                self._control.note(link)

    # Changes of links

    def link_down(self, link: Link) -> None:
        self._changed.update(self._of(link.peer))

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        """What it held goes to somebody else."""
        peer = link.peer
        self._consume.tell(peer, ())
        self._unsettled_acks.pop(link, None)
        for end in self._of(peer):
            end.gone(peer, now, died=died)
            self._touch(end)
            self._tell_waiting(end)
        self._known.pop(peer, None)
        self._holding.pop(peer, None)

    def peer_hung(self, link: Link, now: float) -> None:
        """It keeps what it holds for its lease after the last that we heard of it."""
        for end in list(self._holding.get(link.peer, ())):
            lease = max(
                FENCE, link.sending.leases.get(end.queue, 300.0)
            )  # it may start some for as long as its fence stands
            if now - link.heard_at >= lease and end.held_by(link.peer):
                end.lapse(link.peer, "its consumer hangs", now)
                self._collect_releases(end)
                self._touch(end)
                self._tell_waiting(end)

    def needs(self, link: Link) -> bool:
        """Whether anything is in flight there."""
        holding = self._holding.get(link.peer, {})
        for end in list(holding):
            if end.held_by(link.peer) or (end.backlog is not None and link.peer in end.backlog.adopted):
                return True
            del holding[end]
        return False

    # Time

    def handle_timeout(self, now: float) -> None:
        for end in self.deadlines.take_due(now):
            before = end.waiting_count
            end.expire(now)
            self._touch(end)
            if end.waiting_count > before:
                self._tell_waiting(end)

    # Closing

    def unsettled_queues(self) -> set[str]:
        """Queues with messages that are not settled."""
        return {end.queue for end in (*self._unsettled, *self.touched) if end.unsettled_count}

    def settled(self, *, waits_for_consumers: bool) -> bool:
        """Nothing accepted is unsettled here.

        What a spool keeps is not waited for if nobody consumes it; with `waits_for_consumers` somebody may come yet.
        """
        return not any(self._awaits(end, waits_for_consumers) for end in (*self._unsettled, *self.touched))

    @staticmethod
    def _awaits(end: OutgoingQueue, waits_for_consumers: bool) -> bool:
        if not end.unsettled_count:
            return False
        return waits_for_consumers or bool(end.volatile_count) or bool(end.consumers)

    def unsettled(self) -> tuple[int, int]:
        """Messages waiting and in flight that no spool keeps, over all queues."""
        return unsettled(self.by_queue.values())

    def leave(self) -> None:
        """The node closes now: what is unsettled is counted as left."""
        for end in self.by_queue.values():
            end.leave()

    def kept_on_disk(self) -> int:
        """Messages that this life leaves to the next one."""
        return sum(end.unsettled_count - end.volatile_count for end in self.by_queue.values())

    def dead_letters_in_memory(self) -> dict[str, int]:
        """How many dead letters end with this life, of each queue that has some."""
        return letters_in_memory(self.by_queue.values())

    # Reports

    def findings(self, now: float) -> Iterator[Finding]:
        """Queues whose messages get no further."""
        return self.trends.findings(self._unsettled, now)

    def check(self) -> None:
        """Assert the invariants of every end, and that each counts only on those who are there."""
        for end in self.by_queue.values():
            end.check()
            known = {*end.consumers, *(peer for peer, _ in end.in_flight.counts()), *self._links.by_peer}
            assert not end.unsettled_count or end in self._unsettled or end in self.touched, (
                f"{end.stream} is forgotten"
            )
            assert known == self._links.by_peer.keys(), f"{end.stream} counts on somebody who is gone"
