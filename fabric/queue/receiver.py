"""Consumer side of one node: all queues that it consumes, what their producers send and must be told.

What becomes of a message is decided in its `IncomingQueue`; here it is found out which one a peer speaks of, and who
else must hear of it: users (`changed`), producers (an ACK is due on their link), people (a lease was too short).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from peerfabric.errors import BadFrame
from peerfabric.health import NEVER_TAKEN_AFTER, NOT_TAKEN_AFTER, NOT_TAKING, SLOW_HANDLER, Finding, slow_after
from peerfabric.link.control import Control
from peerfabric.link.link import Link
from peerfabric.link.links import Links
from peerfabric.link.machine import Handler, Machine
from peerfabric.link.peer_names import NOBODY, PeerNames
from peerfabric.log_records import LogRecords
from peerfabric.names import queue_of
from peerfabric.options import Options
from peerfabric.queue.in_hand import handed_since, in_hand, overdue
from peerfabric.queue.incoming import IDLE_AFTER, UNREADABLE, IncomingQueue
from peerfabric.queue.sources import ConsumerCredit
from peerfabric.ranges import Ranges, pairs
from peerfabric.wire.bodies import message_count
from peerfabric.wire.frames import (
    NO_INTEREST,
    REFUSED,
    Consuming,
    Data,
    Grant,
    Interest,
    Nack,
    Ping,
    Release,
    Result,
    StreamRanges,
)

if TYPE_CHECKING:
    from peerfabric.queue.handon import HandOn, Watch
    from peerfabric.queue.outgoing import OutgoingQueue
    from peerfabric.status import InHand


class Receiver(Machine):
    """All consumers' ends of one node, by queue.

    Args:
        options: How much may be buffered, and how far ahead.
        links: Its links.
        control: Told of links that have something to say.
        records: Where lapsed leases and messages of another type are reported.
        changed: Takes the ends whose users may have something to go on with.
    """

    def __init__(
        self, options: Options, links: Links, control: Control, records: LogRecords, changed: set[Any]
    ) -> None:
        super().__init__()
        self.by_queue: dict[str, IncomingQueue] = {}
        self._options, self._links, self._control, self._records = options, links, control, records
        self._changed = changed
        self.arrived: dict[IncomingQueue, None] = {}
        """Those that got messages since the last `answer_arrivals`."""
        self.handed: dict[Watch, None] = {}
        """Those who have to look, as inputs wait for what was sent there."""
        self._news: dict[str, dict[IncomingQueue, None]] = {}
        """Peer -> those that have results or grants for it."""
        self._holding: dict[str, dict[IncomingQueue, None]] = {}
        """Peer -> those with messages of it, and some that had some."""
        self._reported: dict[str, dict[IncomingQueue, None]] = {}
        """Peer -> those whose results it may forget, as far as we know."""
        self._watched: dict[IncomingQueue, None] = {}
        """All that hold messages, or for which some wait at producers, and some others."""
        self._produce = PeerNames()
        self._known: dict[str, dict[IncomingQueue, None]] = {}
        """Node id -> those that may have streams of it."""
        self._known_max = 256
        self._left_off: dict[str, dict[str, ConsumerCredit]] = {}
        """Peer -> by queue that was forgotten, the totals of this life of the link, with which it would go on."""
        self.where: Callable[[Sequence[InHand]], list[str]] = lambda found: ["" for _ in found]
        """Where the code is that has each message in hand, empty: in no hand; the driver knows of threads and tasks."""

    # What users do

    def open(self, queue: str, lease: float, remembered: Mapping[str, Ranges] | None = None) -> IncomingQueue:
        """This node consumes from `queue` from now on; with a ledger it has processed what is `remembered`."""
        options = self._options
        end = IncomingQueue(queue, lease, options.consumer_bytes, options.work_horizon, remembered)
        self.by_queue[queue] = end
        for stream in remembered or ():
            self._meets(end, stream)
        for peer in self._produce.told_by(queue):
            link = self._links.by_peer.get(peer)
            if link is not None:
                self._meet(end, link)
        self.deadlines.put(end, -inf)
        return end

    def forget(self, queue: str, now: float) -> bool:
        """Remember nothing of a closed queue, which can be opened anew.

        False if something of it is here, or its producer may send something again that was finished here.
        """
        end = self.by_queue[queue]
        end.progress(now)
        recent = now - end.handed_at < IDLE_AFTER  # a second copy may be on its way
        if not end.closed or recent or not end.idle or not end.producers.settled:
            return False
        del self.by_queue[queue]
        for peer, source in end.producers.by_peer.items():
            if source.attached:
                self._left_off.setdefault(peer, {})[queue] = source.credit
        for by_peer in (self._news, self._holding, self._reported, self._known):
            for ends in by_peer.values():
                ends.pop(end, None)
        self.arrived.pop(end, None)
        self._watched.pop(end, None)
        self.deadlines.move(end, inf)
        self._changed.discard(end)
        return True

    def pause(self, queue: str, now: float) -> bool:
        """Hand out nothing more of `queue`, and grant nothing, until `resume`; what was not started goes to others.

        What is in hand goes on. Returns False if nobody here consumes it.
        """
        end = self.by_queue.get(queue)
        if end is None or end.closed:
            return False
        end.progress(now)
        end.paused = True
        for peer, source in end.producers.by_peer.items():
            if source.proven_gone:  # nobody else can get these: they wait here
                end.fence(peer, -inf)
        self._return_unstarted(end)
        self._after_progress(end, now)
        return True

    def resume(self, queue: str, now: float) -> bool:
        """Take again of `queue`; False if nobody here consumes it."""
        end = self.by_queue.get(queue)
        if end is None or end.closed:
            return False
        end.paused, end.granting.changed = False, True
        for peer, source in end.producers.by_peer.items():
            if source.proven_gone:
                end.fence(peer, inf)
        self._after_progress(end, now)
        self._changed.add(end)
        return True

    @staticmethod
    def _return_unstarted(end: IncomingQueue) -> None:
        """What has come to a paused queue goes back, except of producers that are gone."""
        for peer, source in end.producers.by_peer.items():
            if not source.proven_gone:
                end.give_back_unstarted(peer)

    def _meets(self, end: IncomingQueue, name: str) -> None:
        """`end` may have streams of the node of that peer or stream."""
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
            if (kept := {end: None for end in ends if end.producers.knows(node_id)})
        }
        self._known_max = 2 * len(self._known) + 256

    def _of(self, peer: str) -> list[IncomingQueue]:
        """The queues that may have something of that peer."""
        return list(self._known.get(peer.partition(":")[0], ()))

    def progress(self, end: IncomingQueue, now: float) -> bool:
        """Read what the handling side of `end` decided; whether something should now leave."""
        end.progress(now)
        self._after_progress(end, now)
        return bool(self._control.due)

    def _after_progress(self, end: IncomingQueue, now: float) -> None:
        if end.paused and end.turns:
            self._return_unstarted(end)
        handon = end.handon
        if handon is not None:
            if handon.told:
                self.handed.update(handon.told)
                handon.told.clear()
            if handon.unrecorded:
                self._changed.add(end)
        end.grant(now)
        self._watched[end] = None
        self.deadlines.put(end, end.deadline(now))
        for peer, urgent in end.producers.news():
            link = self._links.by_peer.get(peer)
            if link is None:
                continue
            self._news.setdefault(peer, {})[end] = None
            self.due[link] = None
            if urgent:
                self._control.note(link)
            elif link.echo_at == inf:
                # A grant that nobody waits for travels with results, or with an echo a few milliseconds later.
                self._links.echo_soon(link, now)
        if end.lapsed:
            self._tell_lapsed(end, now)
        if end.granting.misled:
            end.granting.misled = 0
            self._records.add(
                "error",
                f"queue {end.queue!r}: ten messages in a row do not fit the body type of this consumer; it gets "
                f"no more for 5 s: give producer and consumer the same type",
            )

    def _tell_lapsed(self, end: IncomingQueue, now: float) -> None:
        found = overdue(end, now)
        places = dict(zip((each.id for each in found), self.where(found), strict=True))
        for stream, sequence in end.lapsed:
            id = f"{stream}/{sequence}"
            hangs = f"; its handler is still at {places[id]}" if places.get(id) else ""
            self._records.add(
                "warning",
                f"queue {end.queue!r}: message {id} was not settled within its lease of {end.lease:g} s: that is a "
                f"failed attempt, and it is sent again, to another consumer if there is one{hangs}; raise lease= or "
                f"call message.extend()",
            )
        end.lapsed.clear()

    # Hand-on

    def tell_watches(self, by_queue: Mapping[str, OutgoingQueue], touched: dict[OutgoingQueue, None]) -> None:
        """Inputs wait for what was sent: let those look who will know that it is safe, perhaps in another node."""
        handed, self.handed = self.handed, {}
        for watch in handed:
            end = by_queue.get(watch.queue)
            if end is not None and end.watch is watch:
                touched[end] = None
            else:
                watch.tell()

    def ack_safe(self, safe: dict[HandOn, None], now: float) -> None:
        """What was sent for inputs is safe: ack those that are here, and wake who has the others."""
        while safe:
            handon, _ = safe.popitem()
            end = self.by_queue.get(handon.queue)
            if end is not None and end.handon is handon:
                self.progress(end, now)
            else:
                handon.wake()

    # What peers say

    def handlers(self) -> Mapping[type, Handler]:
        return {Data: self.receive_data, Ping: self.receive_ping, Release: self.receive_release}

    def receive_data(self, link: Link, data: Data, body: bytes | memoryview, now: float) -> None:
        """A producer sends messages; if they cannot be kept here it is told so at once.

        Raises:
            BadFrame: The header names sequences that no message can have.
        """
        stop = data.first + data.count
        if stop > 2**53:
            raise BadFrame(f"a message with the sequence {stop - 1}")
        link.data_received(now)
        if link.echo_at <= now:
            self._control.note(link)
        else:
            self._links.echoes.put(link, link.echo_at)
        end = self.by_queue.get(data.queue)
        if end is None or end.closed:
            nack = Nack(data.first, stop, data.attempt, NO_INTEREST)
        elif message_count(body, data.codec) != data.count:
            nack = Nack(data.first, stop, data.attempt, REFUSED, text=UNREADABLE)
        else:
            if not end.has_met(link.peer):
                self._meet(end, link)
            expires = now + data.ttl_ms / 1000 if data.ttl_ms else inf
            end.receive(link.peer, link.name, data, body, link.fence, expires)
            holding = self._holding.get(link.peer)
            if holding is None:
                holding = self._holding[link.peer] = {}
            holding[end] = None
            self._changed.add(end)
            self.arrived[end] = None
            return
        if end is not None:
            end.decline(link.peer, data)
        elif (left := self._left_off.get(link.peer)) is not None and data.queue in left:
            left[data.queue].decline(data)
        self._control.put_ack(link, [Result(data.stream, data.queue, nacks=[nack])], [])

    def receive_ping(self, link: Link, ping: Ping, body: object, now: float) -> None:
        """A producer tells what waits there, and what it cannot forget any more."""
        concerned: dict[IncomingQueue, None] = {}
        for backlog in ping.backlogs:
            end = self.by_queue.get(backlog.queue)
            if end is not None:
                end.backlog(link.peer, backlog)
                concerned[end] = None
        reported = self._reported.get(link.peer, {})
        for end in list(reported):
            concerned[end] = None
            if end.producers.settle(link.peer, ping.settled):
                del reported[end]
        for end in concerned:
            self._after_progress(end, now)

    def fenced(self, link: Link, now: float) -> None:
        """The producer has echoed something: what it gave us may be started for a while."""
        holding = self._holding.get(link.peer, {})
        for end in list(holding):
            if not end.holds_from(link.peer):
                del holding[end]
                continue
            end.fence(link.peer, link.fence)
            if end.turns.available(now):
                self._changed.add(end)

    def receive_release(self, link: Link, release: Release, body: object, now: float) -> None:
        """A producer tells what need not run here, and which of its streams go on."""
        for item in release.streams:
            end = self.by_queue.get(queue_of(item.stream))
            if end is not None:
                end.release(link.peer, item.stream, Ranges(pairs(item.ranges)))
                self._after_progress(end, now)
        if release.live is not None:
            live = frozenset(release.live)
            for end in self._of(link.peer):
                end.producers.live_streams(link.peer, live, now)
                self._after_progress(end, now)

    def handle_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        added, _ = self._produce.tell(link.peer, interest.produces)
        produced = self._produce.by_peer.get(link.peer, NOBODY)
        if (left := self._left_off.get(link.peer)) is not None:
            for queue in [queue for queue in left if queue not in produced]:
                del left[queue]
        for known in self._of(link.peer):
            if known.queue not in produced:  # also if it was opened and closed again since it was told last
                known.producers.left(link.peer, known.held_from(link.peer))
        for queue in added:
            end = self.by_queue.get(queue)
            if end is not None:
                self._meet(end, link)
                self._after_progress(end, now)

    def _meet(self, end: IncomingQueue, link: Link) -> None:
        self._meets(end, link.peer)
        end.meet(link.peer)
        credit = self._left_off.get(link.peer, {}).pop(end.queue, None)
        if credit is not None:
            credit.told = (0, 0)
            end.producers.by_peer[link.peer].credit = credit
        if link.fence > -inf:
            end.fence(link.peer, link.fence)

    # What peers are told

    def answer_arrivals(self, now: float) -> None:
        """Grant new messages, once for all that came since the last call."""
        while self.arrived:
            self._after_progress(self.arrived.popitem()[0], now)

    def poll_control(self, link: Link, now: float) -> None:
        """What became of the peer's messages since the last call, and what more it may send."""
        self.due.pop(link, None)
        peer, ack = link.peer, link.ack_number + 1
        results: list[Result] = []
        grants: list[Grant] = []
        for end in self._news.pop(peer, ()):
            told, grant = end.producers.take_told(peer, ack)
            if told:
                results += told
                self._reported.setdefault(peer, {})[end] = None
            if grant is not None:
                grants.append(grant)
        if results or grants:
            self._control.put_ack(link, results, grants)

    def needs(self, link: Link) -> bool:
        """Whether messages of the peer are here, or it waits for something from here."""
        return link.peer in self._news or any(end.holds_from(link.peer) for end in self._holding.get(link.peer, ()))

    # Changes of links

    def fill_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        interest.consumes = [Consuming(end.queue, end.lease) for end in self.by_queue.values() if not end.closed]
        if first:
            interest.held, interest.done = self._begin(link, now)
        interest.ack = link.ack_number

    def _begin(self, link: Link, now: float) -> tuple[list[StreamRanges], list[StreamRanges]]:
        """A life of the link begins; what is held of the peer's messages, and what is done with."""
        held, done = [], []
        self._produce.tell(link.peer, ())
        self._left_off.pop(link.peer, None)
        concerned = self._of(link.peer)
        for end in concerned:
            end.progress(now)
            end.attach(link.peer)
            if end.holds_from(link.peer):
                self._holding.setdefault(link.peer, {})[end] = None
            some_held, some_done = end.producers.possession(link.peer)
            held += some_held
            done += some_done
        ack = link.next_ack()
        for end in concerned:
            end.producers.told_all(link.peer, ack)
            self._reported.setdefault(link.peer, {})[end] = None
            self._after_progress(end, now)
        return held, done

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        """What of it is not started need not be."""
        self._produce.tell(link.peer, ())
        self.due.pop(link, None)
        for each in (self._news, self._holding, self._reported, self._left_off):
            each.pop(link.peer, None)
        for end in self._of(link.peer):
            end.progress(now)
            end.detach(link.peer, now, proven_gone=proven)
            if end.turns.available(now):
                self._changed.add(end)
            self._after_progress(end, now)

    # Time

    def handle_timeout(self, now: float) -> None:
        for end in self.deadlines.take_due(now):
            end.expire(now)
            self._after_progress(end, now)
            if end.turns.available(now):
                self._changed.add(end)  # it may have waited for something that is over now

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
            late = self._still_held(end, now)
            if not late and end.is_neglected(now):
                yield Finding(
                    f"queue {end.queue!r}: messages wait for this consumer and nobody takes them",
                    NOT_TAKEN_AFTER if end.was_taken_from else NEVER_TAKEN_AFTER,
                    "call get(), iterate over it or use on_message; or close() it if it is not needed",
                    code=NOT_TAKING,
                    queue=end.queue,
                )
            since = now - late[0][0].age if late else handed_since(end, now)
            if since < inf:
                yield Finding(
                    f"queue {end.queue!r}: a message is in the hands of its handler",
                    slow_after(end.lease, end.window.pace),
                    _over(end, late[0][1]) if late else _ends(end, since, now),
                    since,
                    SLOW_HANDLER,
                    end.queue,
                    live=partial(self._located, end, since),
                )

    def _still_held(self, end: IncomingQueue, now: float) -> list[tuple[InHand, str]]:
        """What user code has though its lease is over, the oldest first, and where that is."""
        found = overdue(end, now) if end.overdue else []
        return [(each, where) for each, where in zip(found, self.where(found), strict=True) if where]

    def _located(self, end: IncomingQueue, since: float, now: float) -> str:
        """The next step for what has been in hand since then, with its place if that is known."""
        late = self._still_held(end, now)
        if late:
            return _over(end, late[0][1])
        [where] = self.where(in_hand(end, now)[:1]) or [""]
        return f"it is at {where}; {_ends(end, since, now)}" if where else _ends(end, since, now)

    def check(self) -> None:
        """Assert the invariants of every end."""
        for end in self.by_queue.values():
            end.check()


def _ends(end: IncomingQueue, since: float, now: float) -> str:
    left = max(0.0, since + end.lease - now)
    return (
        f"lease= ends it in {left:.0f} s, and it is sent again, to another consumer if there is one: if it hangs, "
        f"`peerfabric stacks` shows why; if it needs so long, call message.extend() or raise lease="
    )


def _over(end: IncomingQueue, where: str) -> str:
    return (
        f"its lease of {end.lease:g} s is over, and it was given back, but what has it still hangs at {where}, and "
        f"takes nothing else: `peerfabric stacks` shows why; give what it waits for a timeout, and restart this "
        f"process; if it needs so long, call message.extend() or raise lease="
    )
