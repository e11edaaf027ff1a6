"""Samples: the numbers of processes, each with the name of its family and its labels."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Self

from peerfabric.health import CODES
from peerfabric.status import HANDLER_SECONDS, NodeStatus, Sending, Status, Taking

QUEUES_MAX: Final = 500
"""Queues of a process that are shown by their names, the deepest; of the others, the depths are summed."""
OTHER: Final = "_other"
"""The label of those. No queue is called that."""

Labels = dict[str, str]


class Sample(NamedTuple):
    """One number of `family`; `suffix` is that of a histogram's parts."""

    family: str
    labels: Labels
    value: float
    suffix: str = ""


class Answered(NamedTuple):
    """A process that was asked, and what it has answered; None: nothing, in time."""

    pid: int
    status: Status | None

    @classmethod
    def of(cls, status: Status) -> Self:
        return cls(status.process.pid, status)


def samples_of(processes: Sequence[Answered], *, by_pid: bool) -> Iterator[Sample]:
    """Return the samples of processes, in no order.

    Args:
        by_pid: Label each sample with the pid, as several processes have nodes of one name. Counters of several are
            not summed: when one ended, the sum would fall, and look like a restart of all.
    """
    seen: Counter[int] = Counter()
    for pid, status in processes:
        seen[pid] += 1  # several have the same one if they are in containers
        ours = {"pid": str(pid) if seen[pid] == 1 else f"{pid}~{seen[pid]}"} if by_pid else {}
        yield Sample("process_answers", ours, int(status is not None))
        if status is None:
            continue
        process = status.process
        yield Sample("build_info", {**ours, "version": process.version, "python": process.python}, 1)
        yield Sample("process_resident_memory_bytes", ours, process.rss)
        yield Sample("process_cpu_seconds_total", ours, process.cpu)
        yield Sample("process_open_fds", ours, process.descriptors)
        shown = _deepest(status)
        for name, node in _named(status):
            yield from _node(node, {**ours, "fabric": node.fabric, "node": name}, shown)


def _named(status: Status) -> Iterator[tuple[str, NodeStatus]]:
    """The nodes with names that are the same over restarts, and different in one process."""
    names = [_name(node, status.process.pid) for node in status.nodes]
    often = Counter(names)
    for name, node in zip(names, status.nodes, strict=True):
        yield (name if often[name] == 1 else f"{name}~{node.node_id[:8]}"), node


def _name(node: NodeStatus, pid: int) -> str:
    name = node.name.removesuffix(f"-{pid}")
    return name if node.adopted is None else f"{name}~slot{node.adopted}"


def _deepest(status: Status) -> frozenset[str]:
    """The queues of a process that are shown by name."""
    depths: Counter[str] = Counter()
    for node in status.nodes:
        for sending in node.sends:
            depths[sending.queue] += _depth(sending)
        for taking in node.takes:
            depths[taking.queue] += taking.account.buffered + taking.account.started
    if len(depths) <= QUEUES_MAX:
        return frozenset(depths)
    return frozenset(heapq.nlargest(QUEUES_MAX, depths, key=lambda queue: (depths[queue], queue)))


def _depth(sending: Sending) -> int:
    return sending.account.waiting + sending.account.in_flight + sending.account.on_disk


def _node(node: NodeStatus, ours: Labels, shown: frozenset[str]) -> Iterator[Sample]:
    yield Sample("node_uptime_seconds", ours, node.uptime)
    yield Sample("node_late_seconds", ours, node.pump_late)
    for state, count in Counter(peer.state for peer in node.peers).items():
        yield Sample("peers", {**ours, "state": state}, count)
    codes = Counter(warned.code for warned in node.warnings)
    for code in sorted({*CODES, *codes}):  # also those that are not there: an alert needs a series to go by
        yield Sample("warnings", {**ours, "code": code}, codes[code])
    others: Counter[str] = Counter()
    for sending in node.sends:
        if sending.queue in shown:
            yield from _sending(sending, {**ours, "queue": sending.queue})
        else:
            # Depths only: which queues these are changes, and a sum of their counters would fall.
            others.update(_depths(sending))
    for family, depth in others.items():
        yield Sample(family, {**ours, "queue": OTHER}, depth)
    for taking in node.takes:
        if taking.queue in shown:
            yield from _taking(taking, {**ours, "queue": taking.queue})
    yield from _topics(node, ours)
    yield from _calls(node, ours)
    if node.spool is not None:
        spool = {**ours, "folder": node.spool.folder, "slot": str(node.spool.slot)}
        yield Sample("spool_used_bytes", spool, node.spool.used)
        if node.spool.limit:  # else there is none, and a part of it would be infinite
            yield Sample("spool_limit_bytes", spool, node.spool.limit)
        yield Sample("spool_disk_free_bytes", spool, node.spool.disk_free)


def _depths(sending: Sending) -> dict[str, int]:
    account = sending.account
    return {
        "queue_waiting": account.waiting,
        "queue_in_flight": account.in_flight,
        "queue_on_disk": account.on_disk,
        "queue_blocked_senders": sending.blocked_senders,
        "dead_letters": sending.letters.count,
    }


def _sending(sending: Sending, ours: Labels) -> Iterator[Sample]:
    account = sending.account
    yield Sample("messages_accepted_total", ours, account.accepted)
    yield Sample("messages_acked_total", ours, account.acked)
    yield Sample("messages_redelivered_total", ours, account.redelivered)
    yield Sample("messages_dead_total", ours, account.dead_lettered)
    yield Sample("messages_expired_total", ours, account.expired)
    yield Sample("messages_dropped_total", ours, account.dropped)
    yield Sample("messages_damaged_total", ours, account.damaged)
    for family, depth in _depths(sending).items():
        yield Sample(family, ours, depth)
    yield Sample("queue_oldest_seconds", ours, sending.oldest_unsettled or 0.0)
    yield Sample("consumers", ours, len(sending.consumers))


def _taking(taking: Taking, ours: Labels) -> Iterator[Sample]:
    account = taking.account
    for result in ("processed", "nacked", "returned", "refused", "expired"):
        yield Sample("processed_total", {**ours, "result": result}, getattr(account, result))
    yield Sample("consumer_running", ours, account.started)
    yield Sample("consumer_longest_running_seconds", ours, taking.longest_running)
    yield Sample("consumer_paused", ours, int(taking.paused))
    if taking.seconds:
        ends = (*(f"{bound:g}" for bound in HANDLER_SECONDS), "+Inf")
        sums = list(accumulate(taking.seconds))
        for end, count in zip(ends, sums, strict=True):
            yield Sample("handler_seconds", {**ours, "le": end}, count, "_bucket")
        yield Sample("handler_seconds", ours, taking.seconds_sum, "_sum")
        yield Sample("handler_seconds", ours, sums[-1], "_count")


def _topics(node: NodeStatus, ours: Labels) -> Iterator[Sample]:
    for publishing in node.publishes:
        yield Sample("topic_published_total", {**ours, "topic": publishing.topic}, publishing.published)
    for subscribing in node.subscribes:
        pattern = {**ours, "pattern": subscribing.pattern}
        yield Sample("topic_received_total", pattern, subscribing.received)
        yield Sample("topic_missed_total", pattern, subscribing.missed)


def _calls(node: NodeStatus, ours: Labels) -> Iterator[Sample]:
    for served in node.serves:
        service = {**ours, "service": served.service}
        for result in ("answered", "refused", "dropped"):
            yield Sample("service_calls_total", {**service, "result": result}, getattr(served, result))
        yield Sample("service_running", service, served.running)
        yield Sample("service_waiting", service, served.waiting)
    if node.calls.started:
        for result, count in node.calls.ended.items():
            yield Sample("calls_total", {**ours, "result": result}, count)
        yield Sample("calls_open", ours, node.calls.open)
