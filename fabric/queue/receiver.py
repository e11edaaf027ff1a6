"""Consumer side of one node: all queues that it consumes, what their producers send and must be told.

What becomes of a message is decided in its `IncomingQueue`; here it is found out which one a peer speaks of, and who
else must hear of it: users (`take_changed`), producers (an ACK is due on their link), people (a lease was too short).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from math import inf

from peerfabric.deadlines import Deadlines
from peerfabric.errors import BadFrame
from peerfabric.health import NEVER_TAKEN_AFTER, NOT_TAKEN_AFTER, Finding, slow_after
from peerfabric.link.control import Control
from peerfabric.link.link import ECHO_DELAY, Link
from peerfabric.link.links import Links
from peerfabric.link.peer_names import PeerNames
from peerfabric.log_records import LogRecords
from peerfabric.names import queue_of
from peerfabric.options import Options
from peerfabric.queue.incoming import UNREADABLE, IncomingQueue
from peerfabric.ranges import Ranges, pairs
from peerfabric.wire.batch import message_count
from peerfabric.wire.frames import NO_INTEREST, REFUSED, Data, Grant, Nack, Ping, Release, Result, StreamRanges


class Receiver:
    """All consumers' ends of one node, by queue.

    Args:
        options: How much may be buffered, and how far ahead.
        peers: Its links.
        control: Told of links that have something to say.
        records: Where lapsed leases and messages of another type are reported.
    """

    def __init__(self, options: Options, peers: Links, control: Control, records: LogRecords) -> None:
        self.by_queue: dict[str, IncomingQueue] = {}
        self._options, self._peers, self._control, self._records = options, peers, control, records
        self._changed: set[IncomingQueue] = set()
        self._settled: dict[str, int] = {}
        """Holder -> the last of our ACKs whose results it cannot forget, as it said last in this life of the link."""
        self._arrived: dict[IncomingQueue, None] = {}
        """Those that got messages since the last `answer_arrivals`."""
        self._news: dict[str, dict[IncomingQueue, None]] = {}
        """Holder -> those that have results or grants for it."""
        self._watched: dict[IncomingQueue, None] = {}
        """All that hold messages, or for which some wait at producers, and some others."""
        self._deadlines: Deadlines[IncomingQueue] = Deadlines()
        self._produce = PeerNames()
        self._known: dict[str, dict[IncomingQueue, None]] = {}
        """Node id -> those that may have streams of it."""
        self._known_max = 256

    # What users do

    def open(self, queue: str, lease: float, remembered: Mapping[str, Ranges] | None = None) -> IncomingQueue:
        """This node consumes from `queue` from now on; with a ledger it has processed what is `remembered`."""
        options = self._options
        end = IncomingQueue(queue, lease, options.consumer_bytes, options.work_horizon, remembered)
        self.by_queue[queue] = end
        for stream in remembered or ():
            self._meets(end, stream)
        for holder in self._produce.told_by(queue):
            link = self._peers.by_peer.get(holder)
            if link is not None:
                self._meet(end, link)
        self._deadlines.put(end, -inf)
        return end

    def _meets(self, end: IncomingQueue, name: str) -> None:
        """`end` may have streams of the node of that holder or stream."""
        node_id = name.partition(":")[0]
        known = self._known.get(node_id)
        if known is None:
            if len(self._known) >= self._known_max:
                self._forget_nodes()
            known = self._known[node_id] = {}
        known[end] = None

    def _forget_nodes(self) -> None:
        """Leave out nodes of which no stream is left; as seldom as there are many."""
        self._known = {
            node_id: kept
            for node_id, ends in self._known.items()
            if (kept := {end: None for end in ends if end.knows(node_id)})
        }
        self._known_max = 2 * len(self._known) + 256

    def _of(self, holder: str) -> list[IncomingQueue]:
        """The queues that may have something of that peer."""
        return list(self._known.get(holder.partition(":")[0], ()))

    def progress(self, end: IncomingQueue, now: float) -> bool:
        """Read what the handling side of `end` decided; whether something should now leave."""
        end.progress(now)
        self._after_progress(end, now)
        return bool(self._control.due)

    def _after_progress(self, end: IncomingQueue, now: float) -> None:
        end.grant(now)
        self._watched[end] = None
        self._deadlines.put(end, end.deadline(now))
        for holder, urgent in end.news():
            link = self._peers.by_peer.get(holder)
            if link is None:
                continue
            self._news.setdefault(holder, {})[end] = None
            if urgent:
                self._control.note(link)
            elif link.echo_at == inf:
                # A grant that nobody waits for travels with results, or with an echo a few milliseconds later.
                link.echo_at = now + ECHO_DELAY
                self._peers.look(link, link.echo_at)
        for stream, sequence in end.lapsed:
            self._records.add(
                "warning",
                f"queue {end.queue!r}: message {stream}/{sequence} was not settled within its lease of "
                f"{end.lease:g} s and goes to another consumer; raise lease= or call message.extend()",
            )
        end.lapsed.clear()
        if end.granting.misled:
            end.granting.misled = 0
            self._records.add(
                "error",
                f"queue {end.queue!r}: ten messages in a row do not fit the body type of this consumer; it gets "
                f"no more for 5 s: give producer and consumer the same type",
            )

    # What peers say

    def receive_data(self, link: Link, data: Data, body: bytes | memoryview, now: float) -> list[Result]:
        """A producer sends messages; returns what to answer at once, if they cannot be kept here.

        Raises:
            BadFrame: The header names sequences that no message can have.
        """
        stop = data.first + data.count
        if stop > 2**53:
            raise BadFrame(f"a message with the sequence {stop - 1}")
        end = self.by_queue.get(data.queue)
        if end is None or end.closed:
            nack = Nack(data.first, stop, data.attempt, NO_INTEREST)
        elif message_count(body, data.codec) != data.count:
            nack = Nack(data.first, stop, data.attempt, REFUSED, text=UNREADABLE)
        else:
            end.receive(link.holder, link.name, data, body, now)
            self._meets(end, link.holder)
            if end.available(now):
                self._changed.add(end)
            self._arrived[end] = None
            return []
        if end is not None:
            end.decline(link.holder, data)
        return [Result(data.stream, data.queue, nacks=[nack])]

    def receive_ping(self, link: Link, ping: Ping, now: float) -> None:
        """A producer tells what waits there, and what it cannot forget any more."""
        holder = link.holder
        concerned: dict[IncomingQueue, None] = {}
        for backlog in ping.backlogs:
            end = self.by_queue.get(backlog.queue)
            if end is not None:
                end.backlog(holder, backlog)
                concerned[end] = None
        if ping.settled != self._settled.get(holder):
            self._settled[holder] = ping.settled
            concerned.update((end, None) for end in self._of(holder) if end.settle(holder, ping.settled))
        for end in concerned:
            self._after_progress(end, now)
            if end.available(now):
                self._changed.add(end)

    def fenced(self, link: Link, now: float) -> None:
        """The producer has echoed something: what it gave us may be started for a while."""
        for end in self._of(link.holder):
            end.fence(link.holder, link.fence)
            if end.available(now):
                self._changed.add(end)

    def receive_release(self, link: Link, release: Release, now: float) -> None:
        """A producer tells what need not run here, and which of its streams go on."""
        for item in release.streams:
            end = self.by_queue.get(queue_of(item.stream))
            if end is not None:
                end.release(link.holder, item.stream, Ranges(pairs(item.ranges)))
                self._after_progress(end, now)
        if release.live is not None:
            live = frozenset(release.live)
            for end in self._of(link.holder):
                end.live_streams(link.holder, live, now)
                self._after_progress(end, now)

    def receive_interest(self, link: Link, now: float) -> None:
        """The peer said anew what it produces."""
        theirs = link.their_interest
        added, _ = self._produce.tell(link.holder, theirs.produces if theirs is not None else ())
        for queue in added:
            end = self.by_queue.get(queue)
            if end is not None:
                self._meet(end, link)
                self._after_progress(end, now)

    def _meet(self, end: IncomingQueue, link: Link) -> None:
        self._meets(end, link.holder)
        end.meet(link.holder)
        if link.fence > -inf:
            end.fence(link.holder, link.fence)

    # What peers are told

    def answer_arrivals(self, now: float) -> None:
        """Grant new messages, once for all that came since the last call."""
        while self._arrived:
            self._after_progress(self._arrived.popitem()[0], now)

    def take_results(self, link: Link, ack: int) -> tuple[list[Result], list[Grant]]:
        """What became of the peer's messages since the last call, and what more it may send."""
        holder = link.holder
        results: list[Result] = []
        grants: list[Grant] = []
        for end in self._news.pop(holder, ()):
            if not end.has_news(holder):
                continue
            results += end.take_results(holder, ack)
            grant = end.take_grant(holder)
            if grant is not None:
                grants.append(grant)
        return results, grants

    def holds_from(self, holder: str) -> bool:
        """Whether messages of that peer are here and not decided."""
        return any(end.holds_from(holder) for end in self._of(holder))

    def owes(self, holder: str) -> bool:
        """Whether the peer waits for anything from here."""
        return any(end.holds_from(holder) or end.has_news(holder) for end in self._of(holder))

    # Changes of links

    def came_up(self, link: Link, now: float) -> tuple[list[StreamRanges], list[StreamRanges]]:
        """A life of the link begins; what is held of the peer's messages, and what is done with."""
        held, done = [], []
        self._settled.pop(link.holder, None)
        self._produce.tell(link.holder, ())
        concerned = self._of(link.holder)
        for end in concerned:
            end.progress(now)
            end.attach(link.holder)
            some_held, some_done = end.possession(link.holder)
            held += some_held
            done += some_done
        link.ack_number += 1
        for end in concerned:
            end.told_all(link.holder, link.ack_number)
            self._after_progress(end, now)
        return held, done

    def gone(self, link: Link, now: float, *, proven: bool) -> None:
        """The peer will not answer any more: what is not started need not be."""
        self._produce.tell(link.holder, ())
        self._news.pop(link.holder, None)
        self._settled.pop(link.holder, None)
        for end in self._of(link.holder):
            end.progress(now)
            end.detach(link.holder, now, proven_gone=proven)
            if end.available(now):
                self._changed.add(end)
            self._after_progress(end, now)

    # Time

    def expire(self, now: float) -> float:
        """Act on everything that has come due; return when to look again."""
        for end in self._deadlines.take_due(now) if self._deadlines.first <= now else ():
            end.expire(now)
            self._after_progress(end, now)
            if end.available(now):
                self._changed.add(end)  # it may have waited for something that is over now
        return self._deadlines.first

    def deadline(self) -> float:
        """When `expire` has something to do; inf: nothing is waited for."""
        return self._deadlines.first

    # Closing

    def close(self, now: float, keep: Set[str] = frozenset()) -> None:
        """Read what was decided; except on the queues to `keep` nothing more is taken, and what waits goes back."""
        for queue, end in self.by_queue.items():
            end.progress(now)
            if queue not in keep:
                end.close()
            self._after_progress(end, now)

    @property
    def idle(self) -> bool:
        """Whether nothing that was started is undecided."""
        return all(end.idle for end in self._watched)

    # Reports

    def findings(self, now: float) -> Iterator[Finding]:
        """Consumers that nobody takes from, and user code that has a message for long."""
        for end in list(self._watched):
            if end.is_quiet:
                del self._watched[end]
                continue
            if end.is_neglected(now):
                yield Finding(
                    f"queue {end.queue!r}: messages wait for this consumer and nobody takes them",
                    NOT_TAKEN_AFTER if end.was_taken_from else NEVER_TAKEN_AFTER,
                    "call get(), iterate over it or use on_message; or close() it if it is not needed",
                )
            since = end.in_hand_since(now)
            if since < inf:
                yield Finding(
                    f"queue {end.queue!r}: a message is in the hands of its handler",
                    slow_after(end.lease, end.window.pace),
                    f"after {end.lease:g} s it goes to another consumer: if it hangs, look at its stack (py-spy dump); "
                    f"if it needs so long, call message.extend() or raise lease=",
                    since,
                )

    def take_changed(self) -> set[IncomingQueue]:
        """The ends whose users may have something to go on with."""
        taken, self._changed = self._changed, set()
        return taken

    def check(self) -> None:
        """Assert the invariants of every end."""
        for end in self.by_queue.values():
            end.check()
