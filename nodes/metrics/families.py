"""Families of metrics: the name, kind and help of each.

Units, suffixes and what is a counter follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Family(NamedTuple):
    """Samples of one name. A histogram has the suffixes `_bucket`, `_sum` and `_count` behind it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str


def _families(*described: tuple[str, Literal["counter", "gauge", "histogram"], str]) -> dict[str, Family]:
    return {name: Family(f"peerfabric_{name}", kind, text) for name, kind, text in described}


FAMILIES: Final = _families(
    ("build_info", "gauge", "1; the labels say which versions run."),
    ("process_answers", "gauge", "1 if the process has answered, 0 if it is stopped or starved."),
    ("process_resident_memory_bytes", "gauge", "Memory that the process holds."),
    ("process_cpu_seconds_total", "counter", "Processor time that the process has used."),
    ("process_open_fds", "gauge", "File descriptors that the process has open."),
    ("node_uptime_seconds", "gauge", "Time since the node started."),
    ("node_late_seconds", "gauge", "Time for which the I/O thread of the node has been due and has not come."),
    ("peers", "gauge", "Other nodes that this one knows of, by state."),
    ("warnings", "gauge", "Conditions that need a person and last, by code."),
    ("messages_accepted_total", "counter", "Messages that a producer has accepted."),
    ("messages_acked_total", "counter", "Messages that a consumer has acked."),
    ("messages_redelivered_total", "counter", "Second and later deliveries of a message."),
    ("messages_dead_total", "counter", "Messages that were given up."),
    ("messages_expired_total", "counter", "Messages that nobody was handed within their ttl."),
    ("messages_dropped_total", "counter", "Messages that a person or program has deleted."),
    ("messages_damaged_total", "counter", "Messages that the disk has not given back as they were written."),
    ("queue_waiting", "gauge", "Messages that wait in memory to be sent."),
    ("queue_in_flight", "gauge", "Messages that consumers have."),
    ("queue_on_disk", "gauge", "Messages that are on disk only."),
    ("queue_oldest_seconds", "gauge", "Age of the oldest message that is not settled; an upper bound."),
    ("queue_blocked_senders", "gauge", "Calls of send that wait for room."),
    ("consumers", "gauge", "Consumers of the queue that a producer is linked with."),
    ("dead_letters", "gauge", "Messages that were given up and are kept for a person."),
    ("processed_total", "counter", "Messages that came to a consumer, by what became of them there."),
    ("consumer_running", "gauge", "Messages that handlers or programs have in hand."),
    ("consumer_longest_running_seconds", "gauge", "Time for which the oldest of them has been in hand."),
    ("consumer_paused", "gauge", "1 while the queue is paused at this consumer."),
    ("handler_seconds", "histogram", "Time from taking a message to settling it."),
    ("topic_published_total", "counter", "Updates that were published."),
    ("topic_received_total", "counter", "Updates that a subscription has received."),
    ("topic_missed_total", "counter", "Updates known to exist that a subscription has not received."),
    ("service_calls_total", "counter", "Calls that came to a service, by what became of them there."),
    ("service_running", "gauge", "Calls of the service that run."),
    ("service_waiting", "gauge", "Calls of the service that wait to run."),
    ("calls_total", "counter", "Calls that this node has made, by their end."),
    ("calls_open", "gauge", "Calls of this node that wait for their answer."),
    ("spool_used_bytes", "gauge", "Bytes of the segments of a spool."),
    ("spool_limit_bytes", "gauge", "Bytes that a spool may use, where it has a limit."),
    ("spool_disk_free_bytes", "gauge", "Bytes that are free on the disk of a spool."),
)
"""By what they are called without `peerfabric_`, in the order in which they are shown."""
