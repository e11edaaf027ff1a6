"""Rows of queues, topics and nodes: the answers of many nodes put together; rates are from two looks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from peerfabric.status import InHand, NodeStatus, Process, Sending, Status, Taking

LATE: Final = 1.0
"""Seconds for which an I/O thread must be due and not come until that is its node's state."""


class Place(NamedTuple):
    """A node, the process that it is in, and when this was seen, by our clock."""

    process: Process
    node: NodeStatus
    at: float


class QueueRow(msgspec.Struct, kw_only=True):
    """One queue of a fabric, over all nodes that were asked.

    waiting             messages at producers that nobody was handed yet; those `on_disk` only are not among them
    oldest              age of the oldest that could be sent now; None if nothing waits, or all of it later on
    oldest_unsettled    age of the oldest that is not settled; an upper bound within one frame's size
    producers           nodes that send to it, by `producer_names`
    consumers           nodes that consume it: those that were asked, and those that producers tell of
    in_rate             messages accepted a second, and `out_rate` acked, between two looks; None: there was one look.
                        Where no producer was asked they are those that came to consumers, and were processed
    running             messages in hands of user code, at most 20 a node; `longest` is for how long the first
    dead                dead letters that are there; `redelivered` and the others count since the start of the nodes
    paused              nodes at which it is paused
    """

    fabric: str
    queue: str
    waiting: int = 0
    in_flight: int = 0
    on_disk: int = 0
    oldest: float | None = None
    oldest_unsettled: float | None = None
    producers: int = 0
    producer_names: tuple[str, ...] = ()
    consumers: int = 0
    consumer_names: tuple[str, ...] = ()
    paused: int = 0
    in_rate: float | None = None
    out_rate: float | None = None
    redelivered: int = 0
    dead: int = 0
    dead_reasons: dict[str, int] = {}
    expired: int = 0
    dropped: int = 0
    damaged: int = 0
    handed_on: int = 0
    running: int = 0
    longest: float = 0.0
    credit_free: int = 0
    blocked_senders: int = 0

    @property
    def depth(self) -> int:
        """Messages that nobody has."""
        return self.waiting + self.on_disk

    @property
    def delayed(self) -> bool:
        """Whether all that waits does so for its next attempt."""
        return bool(self.waiting) and self.oldest is None


class TopicRow(msgspec.Struct, kw_only=True):
    """One topic or pattern of a fabric.

    published       by `publishers` nodes that were asked, and `out_rate` of it a second; None: there was one look
    subscribers     that the publishers know of
    subscriptions   of nodes that were asked, by exactly this name or pattern; the rest is about these
    behind          bytes that their users have not taken yet
    """

    fabric: str
    topic: str
    publishers: int = 0
    published: int = 0
    out_rate: float | None = None
    subscribers: int = 0
    subscriptions: int = 0
    received: int = 0
    in_rate: float | None = None
    missed: int = 0
    late: int = 0
    buffered: int = 0
    behind: int = 0


class NodeRow(msgspec.Struct, kw_only=True):
    """One node, with what matters of its process.

    state   of its life, or "no answer", "busy", "late": why it does not show all, or does not run as it should
    cpu     seconds of processor time a second of its process, None: there was one look
    """

    name: str
    node_id: str
    fabric: str
    pid: int
    host: str
    state: str
    adopted: int | None
    uptime: float
    cpu: float | None
    rss: int
    peers: int
    peers_up: int
    waiting: int
    running: int
    pump_late: float
    engine: str
    warnings: int


class HandRow(msgspec.Struct, kw_only=True):
    """A message in hands of user code, and where."""

    fabric: str
    queue: str
    node: str
    pid: int
    message: InHand


def places(statuses: Iterable[tuple[Status, float]], fabric: str | None) -> list[Place]:
    """The nodes of these processes, of one fabric or all; each life of a node once, the first time that it is there.

    Args:
        statuses: Each with the time when it was seen.
    """
    found: dict[tuple[str, int], Place] = {}
    for status, at in statuses:
        for node in status.nodes:
            if fabric is None or node.fabric == fabric:
                found.setdefault((node.node_id, node.epoch), Place(status.process, node, at))
    return list(found.values())


def sent_queues(node: NodeStatus) -> set[str]:
    """The queues that a node sends to."""
    return {sending.queue for sending in node.sends}


def taken_queues(node: NodeStatus) -> set[str]:
    """The queues that a node consumes."""
    return {taking.queue for taking in node.takes}


# Queues


def queue_rows(now: Sequence[Place], before: Sequence[Place] | None = None) -> list[QueueRow]:
    """The queues of these nodes, by name; `before` is what they were earlier."""
    sends: dict[tuple[str, str], list[Sending]] = defaultdict(list)
    takes: dict[tuple[str, str], list[Taking]] = defaultdict(list)
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    senders: dict[tuple[str, str], list[str]] = defaultdict(list)
    told: dict[tuple[str, str], set[str]] = defaultdict(set)  # by consumers
    for _, node, _ in now:
        for sending in node.sends:
            sends[node.fabric, sending.queue].append(sending)
            senders[node.fabric, sending.queue].append(node.name)
        for taking in node.takes:
            takes[node.fabric, taking.queue].append(taking)
            names[node.fabric, taking.queue].append(node.name)
            told[node.fabric, taking.queue].update(taking.producers)
    rows = [
        _queue_row(*key, sends.get(key, []), takes.get(key, []), names.get(key, [])) for key in sorted({*sends, *takes})
    ]
    for row in rows:
        own = senders[row.fabric, row.queue]
        row.producer_names = tuple(sorted([*own, *(told[row.fabric, row.queue] - {*own})]))
    if before is not None:
        _fill_rates(rows, _queue_counts(now), _queue_counts(before))
    return rows


def _queue_row(fabric: str, queue: str, sends: list[Sending], takes: list[Taking], takers: list[str]) -> QueueRow:
    accounts = [sending.account for sending in sends]
    reasons: Counter[str] = Counter()
    for sending in sends:
        reasons.update(sending.letters.by_reason)
    # Names are all that a producer tells, and several nodes may have one.
    consumers = Counter(takers)
    for sending in sends:
        consumers |= Counter(sending.consumers)
    return QueueRow(
        fabric=fabric,
        queue=queue,
        waiting=sum(account.waiting for account in accounts),
        in_flight=sum(account.in_flight for account in accounts),
        on_disk=sum(account.on_disk for account in accounts),
        oldest=_oldest(sending.oldest_waiting for sending in sends),
        oldest_unsettled=_oldest(sending.oldest_unsettled for sending in sends),
        producers=len(sends),
        consumers=consumers.total(),
        consumer_names=tuple(sorted(consumers.elements())),
        paused=sum(taking.paused for taking in takes),
        redelivered=sum(account.redelivered for account in accounts),
        dead=sum(sending.letters.count for sending in sends),
        dead_reasons=dict(reasons),
        expired=sum(account.expired for account in accounts),
        dropped=sum(account.dropped for account in accounts),
        damaged=sum(account.damaged for account in accounts),
        handed_on=sum(account.handed_on for account in accounts),
        running=sum(len(taking.running) for taking in takes),
        longest=max((taking.longest_running for taking in takes), default=0.0),
        credit_free=sum(sending.credit_free for sending in sends),
        blocked_senders=sum(sending.blocked_senders for sending in sends),
    )


def _oldest(ages: Iterable[float | None]) -> float | None:
    return max((age for age in ages if age is not None), default=None)


Counts = dict[tuple[str, str], dict[tuple[str, int], tuple[int, int, float]]]
"""By fabric and name, then by node id and epoch: how many came in and went out, and when that was seen."""


def _queue_counts(nodes: Sequence[Place]) -> tuple[Counts, Counts]:
    """Those of producers, and those of consumers."""
    sent: Counts = defaultdict(dict)
    taken: Counts = defaultdict(dict)
    for _, node, at in nodes:
        life = (node.node_id, node.epoch)
        for sending in node.sends:
            account = sending.account
            sent[node.fabric, sending.queue][life] = (account.accepted + account.retried, account.acked, at)
        for taking in node.takes:
            received = taking.account
            taken[node.fabric, taking.queue][life] = (received.received, received.processed, at)
    return sent, taken


def _fill_rates(rows: list[QueueRow], now: tuple[Counts, Counts], before: tuple[Counts, Counts]) -> None:
    for row in rows:
        key = (row.fabric, row.queue)
        side = 0 if key in now[0] else 1
        row.in_rate, row.out_rate = _rates(now[side], before[side], key)


def _rates(now: Counts, before: Counts, key: tuple[str, str]) -> tuple[float, float]:
    """Of the lives that are there at both looks: what a new one has counted it may have counted long ago."""
    earlier = before.get(key, {})
    came = went = 0.0
    for life, (came_now, went_now, at) in now.get(key, {}).items():
        came_then, went_then, then = earlier.get(life, (0, 0, at))
        if at > then:
            came += max(came_now - came_then, 0) / (at - then)
            went += max(went_now - went_then, 0) / (at - then)
    return came, went


# Topics


def topic_rows(now: Sequence[Place], before: Sequence[Place] | None = None) -> list[TopicRow]:
    """The topics that these nodes publish and the patterns that they subscribe to, by name."""
    rows: dict[tuple[str, str], TopicRow] = {}

    def row(fabric: str, topic: str) -> TopicRow:
        return rows.setdefault((fabric, topic), TopicRow(fabric=fabric, topic=topic))

    for _, node, _ in now:
        for publishing in node.publishes:
            found = row(node.fabric, publishing.topic)
            found.publishers += 1
            found.published += publishing.published
            found.subscribers = max(found.subscribers, publishing.subscribers)
        for subscribing in node.subscribes:
            found = row(node.fabric, subscribing.pattern)
            found.subscriptions += 1
            found.received += subscribing.received
            found.missed += subscribing.missed
            found.late += subscribing.late
            found.buffered += subscribing.buffered
            found.behind += subscribing.behind
    if before is not None:
        counts, earlier = _topic_counts(now), _topic_counts(before)
        for key, found in rows.items():
            received, published = _rates(counts, earlier, key)
            found.in_rate = received if found.subscriptions else None
            found.out_rate = published if found.publishers else None
    return [rows[key] for key in sorted(rows)]


def _topic_counts(nodes: Sequence[Place]) -> Counts:
    """How many updates were received and published."""
    counts: Counts = defaultdict(dict)
    for _, node, at in nodes:
        life = (node.node_id, node.epoch)
        published: Counter[str] = Counter()
        received: Counter[str] = Counter()
        for publishing in node.publishes:
            published[publishing.topic] += publishing.published
        for subscribing in node.subscribes:
            received[subscribing.pattern] += subscribing.received
        for topic in {*published, *received}:
            counts[node.fabric, topic][life] = (received[topic], published[topic], at)
    return counts


# Nodes


def node_rows(now: Sequence[Place], before: Sequence[Place] | None = None) -> list[NodeRow]:
    """The nodes, by name."""
    used = {(process.pid, process.started): (process.cpu, at) for process, _, at in before or ()}
    rows = []
    for process, node, at in now:
        cpu, then = used.get((process.pid, process.started), (0.0, at))
        rows.append(_node_row(process, node, max(process.cpu - cpu, 0.0) / (at - then) if at > then else None))
    return sorted(rows, key=lambda row: (row.fabric, row.name, row.pid, row.node_id))


def _node_row(process: Process, node: NodeStatus, cpu: float | None) -> NodeRow:
    state = node.state
    if node.engine:
        state = "busy"
    elif node.pump_late >= LATE:
        state = "late"
    return NodeRow(
        name=node.name,
        node_id=node.node_id,
        fabric=node.fabric,
        pid=process.pid,
        host=node.host,
        state=state,
        adopted=node.adopted,
        uptime=node.uptime,
        cpu=cpu,
        rss=process.rss,
        peers=len(node.peers),
        peers_up=sum(peer.state in ("up", "idle") for peer in node.peers),
        waiting=sum(sending.account.waiting + sending.account.on_disk for sending in node.sends),
        running=sum(len(taking.running) for taking in node.takes),
        pump_late=node.pump_late,
        engine=node.engine,
        warnings=len(node.warnings),
    )


def hand_rows(now: Sequence[Place]) -> list[HandRow]:
    """What user code has in hand, longest first."""
    rows = [
        HandRow(fabric=node.fabric, queue=taking.queue, node=node.name, pid=process.pid, message=message)
        for process, node, _ in now
        for taking in node.takes
        for message in taking.running
    ]
    return sorted(rows, key=lambda row: -row.message.age)
