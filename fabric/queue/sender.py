"""Producer side of one node: all queues that it sends to, what their consumers say and must be told.

What becomes of a message is decided in its `OutgoingQueue`; here it is found out which one a peer speaks of, and who
else must hear of it: users (`take_changed`), consumers that wait (a PING is due), holders of what was settled
elsewhere (RELEASE), the disk's cursors (`acks_to_settle`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from random import Random

from peerfabric.deadlines import Deadlines
from peerfabric.health import NO_CONSUMER_AFTER, Finding
from peerfabric.link.control import Control
from peerfabric.link.link import Link, Sent
from peerfabric.link.links import Links
from peerfabric.link.peer_names import PeerNames
from peerfabric.log_records import LogRecords
from peerfabric.names import queue_of
from peerfabric.queue.dispatch import data_frames
from peerfabric.queue.durable import Backlog as DurablePart
from peerfabric.queue.durable import Recovered
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.ranges import Ranges, pairs
from peerfabric.wire.frames import NAMES_MAX, NO_INTEREST, Ack, Address, Backlog, Extra, Interest, Release, StreamRanges


class Sender:
    """All producers' ends of one node, by queue.

    Args:
        address: Who this node is.
        peers: Its links.
        control: Told of links that have something to say.
        records: Where it is told that messages are given up, and that the list of dead letters is full.
        random: Source of jitter.
    """

    def __init__(self, address: Address, peers: Links, control: Control, records: LogRecords, random: Random) -> None:
        self.by_queue: dict[str, OutgoingQueue] = {}
        self.durable = False
        """Some of what was acked is settled only once a cursor on disk says so: see `cursors_stored`."""
        self._own_holder = f"{address.node_id}:{address.epoch}"
        self._peers, self._control, self._records, self._random = peers, control, records, random
        self._changed: set[OutgoingQueue] = set()
        self._touched: dict[OutgoingQueue, None] = {}
        """Those that may have something to send, or another deadline, since `frames` looked at them."""
        self._held_up: dict[str, dict[OutgoingQueue, None]] = {}
        """Holder -> those that wait for room in its pipe."""
        self._unsettled: dict[OutgoingQueue, None] = {}
        """All with unsettled messages, and some without."""
        self._recovered: dict[OutgoingQueue, None] = {}
        """Those with messages of earlier lives."""
        self._deadlines: Deadlines[OutgoingQueue] = Deadlines()
        self._consume = PeerNames()
        self._known: dict[str, dict[OutgoingQueue, None]] = {}
        """Holder -> those that it has consumed since it was met: whatever is in flight there is of one of these."""
        self._unsettled_acks: dict[Link, None] = {}
        """Links with ACKs that no cursor has yet."""
        self._untold: dict[str, dict[OutgoingQueue, None]] = {}
        """Holder -> those of which it may not know what waits, and what was sent to it: the next PING says so."""
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
        stream = f"{self._own_holder}:{queue}"
        numbering = backlog = None
        if recovered is not None:
            numbering, backlog = recovered.begin(stream, dead_letter_bytes_max, now)
        end = OutgoingQueue(
            queue, stream, codec, dead_letter_bytes_max, max_attempts, self._random, numbering, backlog, self._records
        )
        end.touched = self._touched
        self.by_queue[queue] = end
        if recovered is not None:
            self._recovered[end] = None
        self._touch(end)
        for holder in self._consume.told_by(queue):
            link = self._peers.by_peer.get(holder)
            if link is not None:
                self._set_consumer(end, link, consumes=True)
        return end

    def _touch(self, end: OutgoingQueue) -> None:
        """Something has happened to `end`: users look, and so do we."""
        self._changed.add(end)
        self._touched[end] = None
        self._unsettled[end] = None

    def accept(
        self,
        end: OutgoingQueue,
        bodies: list[bytes],
        sent_ms: int,
        extras: dict[int, Extra] | None = None,
        *,
        volatile: bool = False,
    ) -> None:
        """Take responsibility for `bodies`; they leave with the next `frames`."""
        was_empty = end.waiting_count == 0
        end.accept(bodies, sent_ms, extras, volatile=volatile)
        self._touched[end] = None
        self._unsettled[end] = None
        if was_empty:
            self._tell_waiting(end)

    def _tell_waiting(self, end: OutgoingQueue) -> None:
        """Consumers that left us without credit learn at once that something waits."""
        for holder in end.consumers:
            link = self._peers.by_peer.get(holder)
            if link is not None and link.up and link.credit(end.queue).available()[0] == 0:
                self._untold.setdefault(holder, {})[end] = None
                link.ping_at = -inf
                self._control.note(link)

    # What the disk reports

    def acks_to_settle(self) -> dict[Link, tuple[int, int]]:
        """What has been applied of each link's ACKs; to be given to `cursors_stored` once all cursors say so."""
        return {
            link: (link.theirs, link.acks_applied)
            for link in self._unsettled_acks
            if link.acks_applied > link.acks_settled and link.wire in self._peers.links
        }

    def awaits_cursors(self, changed: Iterable[OutgoingQueue]) -> bool:
        """Whether somebody may not start a message before `cursors_stored`, of queues that are `changed` since then."""
        return any(link.settled_due and link.acks_applied > link.acks_settled for link in self._unsettled_acks) or any(
            end.awaits_cursor for end in changed
        )

    def cursors_stored(self, applied: dict[Link, tuple[int, int]]) -> None:
        """The cursors on disk have the results of these ACKs: consumers may forget them."""
        for link, (life, ack) in applied.items():
            if link.theirs != life:
                continue  # the peer has begun a new count, of which the cursors know nothing
            link.acks_settled = max(link.acks_settled, min(ack, link.acks_applied))
            if link.acks_settled >= link.acks_applied:
                self._unsettled_acks.pop(link, None)
            if link.settled_due and link.acks_settled >= link.acks_applied:
                link.settled_due = False
                link.ping_at = -inf
                self._control.note(link)

    def disk_moved(self, end: OutgoingQueue) -> None:
        """The disk has read or stored something for `end`: consumers and users that wait learn of it."""
        self._touch(end)
        if end.waiting_count:  # a PING names all queues of its peer, so that not each of them should cause one
            self._tell_waiting(end)

    # What peers say

    def delivered(self, echoed: list[Sent]) -> None:
        """These DATA frames have reached their peer."""
        for sent in echoed:
            end = self.by_queue.get(sent.queue)
            if end is not None:
                end.delivered(sent.start, sent.stop)
                self._changed.add(end)

    def receive_ack(self, link: Link, ack: Ack, now: float) -> None:
        """A consumer tells what became of messages, and what more may come."""
        for result in ack.results:
            end = self.by_queue.get(result.queue)
            if end is None:
                continue
            if result.starting or end.in_flight.runs_suspect(link.holder):
                link.settled_due = True
                link.ping_at = -inf  # it waits to hear that we know
                self._control.note(link)
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
                        self._consume.withdraw(link.holder, end.queue)
                        end.set_consumer(link.holder, link.node_id, consumes=False)
            self._touch(end)
            self._collect_releases(end)
        link.acks_applied = max(link.acks_applied, ack.ack)
        self._acks_applied(link)
        for grant in ack.grants:
            end = self.by_queue.get(grant.queue)
            if end is not None:
                link.credit(grant.queue).grant(grant.messages, grant.bytes)
                self._touched[end] = None

    def _acks_applied(self, link: Link) -> None:
        if not self.durable:
            link.acks_settled = link.acks_applied
        elif link.acks_applied > link.acks_settled:
            self._unsettled_acks[link] = None

    def receive_interest(self, link: Link) -> None:
        """The peer said anew what it consumes."""
        theirs = link.their_interest
        names = (c.queue for c in theirs.consumes) if theirs is not None and not link.draining else ()
        added, removed = self._consume.tell(link.holder, names)
        for queue in added:
            if queue in self.by_queue:
                self._set_consumer(self.by_queue[queue], link, consumes=True)
        for queue in removed:
            if queue in self.by_queue:
                self._set_consumer(self.by_queue[queue], link, consumes=False)

    def _set_consumer(self, end: OutgoingQueue, link: Link, *, consumes: bool) -> None:
        if consumes == (link.holder in end.consumers):
            return
        end.set_consumer(link.holder, link.node_id, consumes=consumes)
        self._touch(end)
        if consumes:
            self._known.setdefault(link.holder, {})[end] = None
            self._untold.setdefault(link.holder, {})[end] = None
            if end.waiting_count:
                link.ping_at = -inf
                self._control.note(link)

    def _of(self, holder: str) -> list[OutgoingQueue]:
        """The queues that `holder` consumes, or of which it may hold something."""
        return list(self._known.get(holder, ()))

    def receive_drain(self, link: Link) -> None:
        """The peer takes no new messages."""
        link.draining = True
        self.receive_interest(link)

    def reconcile(self, link: Link, interest: Interest, now: float) -> None:
        """The first frame of a life: settle what is done there, take back what got lost on the way."""
        holder = link.holder
        if any(end.in_flight.runs_suspect(holder) for end in self._of(holder)):
            link.settled_due = True
            link.ping_at = -inf
        concerned = dict.fromkeys((*self._of(holder), *self._recovered))
        for item in interest.done:
            producing = self.by_queue.get(queue_of(item.stream))
            if producing is not None:
                concerned[producing] = None
                for start, stop in producing.numbers(item.stream, item.ranges):
                    producing.acked(holder, start, stop)
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
                link.releases[item.stream] = Ranges(pairs(item.ranges)).flat()
        for end in concerned:
            release = end.reconcile(holder, held.get(end.queue, Ranges()))
            if holder in end.in_flight or (end.backlog is not None and holder in end.backlog.adopted):
                self._known.setdefault(holder, {})[end] = None
            for start, stop in release:
                for stream, low, high in end.numbering.names(start, stop):
                    link.releases.setdefault(stream, []).extend((low, high))
            self._touch(end)
            self._collect_releases(end)
        for sent in link.lost:
            producing = self.by_queue.get(sent.queue)
            if producing is not None and producing.waiting.is_returned(sent.start, sent.stop):
                producing.waiting.broke(sent.start, sent.stop, now)
                break
        link.lost = []
        self._untold[holder] = dict.fromkeys(self._of(holder))
        link.acks_applied = interest.ack  # the peer may have begun a new count
        link.acks_settled = 0
        self._acks_applied(link)
        link.live_due = True

    def _disowns(self, stream: str, end: OutgoingQueue | None) -> bool:
        """Whether what is held of `stream`, of which nothing is unsettled here, need not run any more.

        What an earlier life without a spool had sent is nowhere else, so it may.
        """
        return stream.startswith(f"{self._own_holder}:") or (end is not None and end.backlog is not None)

    # What peers are told

    def frames(self) -> Iterator[tuple[int, list[bytes]]]:
        """All DATA that should leave now, as (wire, frames); a wire may refuse one before the next is made."""
        links = self._peers.by_peer
        for holder in list(self._held_up) if self._held_up else ():
            link = links.get(holder)
            if link is None or link.has_room():
                self._touched.update(self._held_up.pop(holder))
        while self._touched:
            end = next(iter(self._touched))
            if end.waiting_count:
                yield from data_frames(end, links)
                if end.waiting_count:
                    self._keep(end)
            for holder in end.consumers:
                self._untold.setdefault(holder, {})[end] = None
            if end.backlog is not None and (end.backlog.changed or end.backlog.load_at < end.next):
                self._tell_disk(end, end.backlog)
            at = end.deadline()
            if at is not None:
                self._deadlines.put(end, at)
            del self._touched[end]

    def _tell_disk(self, end: OutgoingQueue, backlog: DurablePart) -> None:
        """The disk may have to read something of `end`, or to store what became of it."""
        to_read = backlog.load_at < end.next and backlog.load_bytes(end.next, end.held_bytes) > 0
        if to_read or backlog.changed:
            self.for_disk[end] = None
            self.disk_urgent = self.disk_urgent or to_read or backlog.unstored.total > 0 or end.awaits_cursor

    def _keep(self, end: OutgoingQueue) -> None:
        """Messages of `end` stay behind: look again when a link that has no room has some."""
        for holder in end.consumers:
            link = self._peers.by_peer.get(holder)
            if link is not None and not link.has_room():
                self._held_up.setdefault(holder, {})[end] = None
        if end.dead_letters_full:
            self._records.once(
                f"letters {end.queue}",
                "warning",
                f"queue {end.queue!r}: the dead-letter list is full and nothing is sent until it is not; "
                f"retry or drop letters of node.dead_letters({end.queue!r})",
            )

    def take_release(self, link: Link) -> Release:
        """What the peer may forget, and which of our streams go on, if that is due."""
        streams = [StreamRanges(stream, flat) for stream, flat in link.releases.items()]
        live = [s for end in self.by_queue.values() for s in end.numbering.streams] if link.live_due else None
        link.releases.clear()
        link.live_due = False
        return Release(b"", 0, 0, streams, live)

    def backlogs(self, link: Link) -> list[Backlog]:
        """What waits for the peer and what was sent to it, for each stream of a queue of which it was not told yet.

        A PING that got lost ends the life of its link, and the next one begins with all.
        """
        holder = link.holder
        told, streams = 0, 0
        untold = list(self._untold.pop(holder, ()))
        for end in untold:
            streams += len(end.numbering.streams)
            if streams > NAMES_MAX:
                self._untold[holder] = dict.fromkeys(untold[told:])
                break
            told += 1
        return [
            Backlog(
                end.queue,
                stream,
                end.waiting_for(holder),
                link.credit(end.queue).sent_messages,
                link.credit(end.queue).sent_bytes,
                end.numbering.floor(stream, end.safe_floor),
            )
            for end in untold[:told]
            if holder in end.consumers
            for stream in end.numbering.streams
        ]

    def _collect_releases(self, end: OutgoingQueue) -> None:
        for holder, start, stop in end.take_releases():
            link = self._peers.by_peer.get(holder)
            if link is not None and link.up:
                for stream, low, high in end.numbering.names(start, stop):
                    link.releases.setdefault(stream, []).extend((low, high))
                self._control.note(link)

    # Changes of links

    def life_ended(self, link: Link) -> None:
        """A link is not up any more; users look again."""
        self._changed.update(self._of(link.holder))

    def gone(self, link: Link, *, died: bool) -> None:
        """The peer will not answer any more: what it held goes to somebody else."""
        holder = link.holder
        self._consume.tell(holder, ())
        self._unsettled_acks.pop(link, None)
        for end in dict.fromkeys((*self._of(holder), *self._recovered)):
            end.gone(holder, died=died)
            self._touch(end)
            self._tell_waiting(end)
        self._known.pop(holder, None)
        self._untold.pop(holder, None)

    def hung(self, link: Link, now: float) -> None:
        """A hung peer keeps what it holds for its lease after the last that we heard of it."""
        for end in self._of(link.holder):
            if now - link.heard_at >= link.leases.get(end.queue, 300.0) and end.held_by(link.holder):
                end.lapse(link.holder, "its consumer hangs", now)
                self._collect_releases(end)
                self._touch(end)
                self._tell_waiting(end)

    def held_by(self, holder: str) -> bool:
        """Whether anything is in flight there."""
        return any(end.held_by(holder) for end in self._of(holder))

    # Time

    def expire(self, now: float) -> float:
        """Act on everything that has come due; return when to look again."""
        for end in self._deadlines.take_due(now) if self._deadlines.first <= now else ():
            before = end.waiting_count
            end.expire(now)
            self._touched[end] = None
            if end.waiting_count > before:
                self._tell_waiting(end)
        return self._deadlines.first

    def deadline(self) -> float:
        """When `expire` has something to do; inf: nothing is waited for."""
        return self._deadlines.first

    # Closing

    def unsettled_queues(self) -> set[str]:
        """Queues with messages that are not settled."""
        return {end.queue for end in self._unsettled if end.unsettled_count}

    def settled(self, *, waits_for_consumers: bool) -> bool:
        """Nothing accepted is unsettled here.

        What a spool keeps is not waited for if nobody consumes it; with `waits_for_consumers` somebody may come yet.
        """
        return not any(self._awaits(end, waits_for_consumers) for end in self._unsettled)

    @staticmethod
    def _awaits(end: OutgoingQueue, waits_for_consumers: bool) -> bool:
        if not end.unsettled_count:
            return False
        return waits_for_consumers or bool(end.volatile_count) or bool(end.consumers)

    def unsettled(self) -> tuple[int, int]:
        """Messages waiting and in flight that no spool keeps, over all queues."""
        waiting = in_flight = 0
        for end in self.by_queue.values():
            flying = min(end.in_flight.count, end.volatile_count)
            in_flight += flying
            waiting += end.volatile_count - flying
        return waiting, in_flight

    def leave(self) -> None:
        """The node closes now: what is unsettled is counted as left."""
        for end in self.by_queue.values():
            end.leave()

    def kept_on_disk(self) -> int:
        """Messages that this life leaves to the next one."""
        return sum(end.unsettled_count - end.volatile_count for end in self.by_queue.values())

    def letters_in_memory(self) -> dict[str, int]:
        """How many dead letters end with this life, of each queue that has some."""
        ends = [end for end in self.by_queue.values() if end.backlog is None or not end.backlog.kept]
        counts = {end.queue: len(end.letters()) for end in ends}
        return {queue: count for queue, count in counts.items() if count}

    # Reports

    def findings(self) -> Iterator[Finding]:
        """Queues whose messages nobody consumes."""
        for end in list(self._unsettled):
            if not end.unsettled_count:
                del self._unsettled[end]
            elif not end.consumers:
                yield Finding(
                    f"queue {end.queue!r}: messages wait without a consumer",
                    NO_CONSUMER_AFTER,
                    "start one; node.peers() tells who consumes what",
                )

    def take_changed(self) -> set[OutgoingQueue]:
        """The ends whose users may have something to go on with."""
        taken, self._changed = self._changed, set()
        return taken

    def check(self) -> None:
        """Assert the invariants of every end, and that each counts only on those who are there."""
        for end in self.by_queue.values():
            end.check()
            known = {*end.consumers, *(holder for holder, _ in end.in_flight.counts()), *self._peers.by_peer}
            assert known == self._peers.by_peer.keys(), f"{end.stream} counts on somebody who is gone"
