"""`peerfabric bench`: how fast two processes on this machine talk; benchmarks/run.py compares in depth."""

from __future__ import annotations

import statistics
import time
from typing import Final

import click
import msgspec

from peerfabric.nodes.blocking.node import Node
from peerfabric.nodes.blocking.producer import Producer
from peerfabric.nodes.cli.children import Children
from peerfabric.nodes.cli.common import output_option
from peerfabric.nodes.cli.output import Form, print_line, print_table, to_json
from peerfabric.nodes.cli.own_fabric import own_fabric

PINGS: Final = 1000
LIST: Final = 1000
START_MAX: Final = 20.0
"""Seconds for the other process to start, on a busy machine."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured; rates are acked messages and body bytes per second, times in microseconds."""

    size_bytes: int
    messages: int
    messages_per_second: float
    bytes_per_second: float
    round_trip_us_median: float
    round_trip_us_p99: float


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=3.0, show_default=True, help="How long to send.")
@click.option("--size", type=click.IntRange(0, 8 << 20), default=128, show_default=True, help="Bytes of a body.")
@output_option
def bench(seconds: float, size: int, output: str) -> None:
    """Measure this machine: send_many to batches with acks, and round trips of single messages, in two processes."""
    figures = _measure(seconds, size)
    if output == Form.JSON:
        print_line(to_json(figures))
    else:
        rows = [
            [f"send_many to batches, {size} bytes, acked", f"{figures.messages_per_second:,.0f} messages/s"],
            ["", f"{figures.bytes_per_second / 1e6:,.1f} MB/s"],
            ["round trip, median", f"{figures.round_trip_us_median:,.0f} µs"],
            ["round trip, 99th percentile", f"{figures.round_trip_us_p99:,.0f} µs"],
        ]
        print_table("", ("measured", "figure"), rows)


def _measure(seconds: float, size: int) -> Figures:
    with own_fabric("bench") as variables, Children(variables) as children, Node("bench") as node:
        children.start("peerfabric.nodes.cli.bench_peer", name="bench-peer")
        load = node.producer("load", bytes)
        load.ready(timeout=START_MAX)
        count, duration = _send(load, seconds, size)
        trips = _round_trips(node)
    return Figures(
        size_bytes=size,
        messages=count,
        messages_per_second=count / duration,
        bytes_per_second=count * size / duration,
        round_trip_us_median=statistics.median(trips) * 1e6,
        round_trip_us_p99=trips[len(trips) * 99 // 100] * 1e6,
    )


def _send(load: Producer[bytes], seconds: float, size: int) -> tuple[int, float]:
    """Send for so long, wait for the last ack, and return how many and how long that took."""
    bodies = [b"x" * size] * LIST
    count = 0
    started_at = time.perf_counter()
    while time.perf_counter() - started_at < seconds:
        count += load.send_many(bodies)
    load.flush()
    return count, time.perf_counter() - started_at


def _round_trips(node: Node) -> list[float]:
    """Seconds that single messages took there and back, shortest first."""
    pings, pongs = node.producer("pings", bytes), node.consumer("pongs", bytes)
    pings.ready(timeout=START_MAX)
    trips = []
    for _ in range(PINGS):
        started_at = time.perf_counter()
        pings.send(b"ping")
        pongs.get(START_MAX).ack()
        trips.append(time.perf_counter() - started_at)
    return sorted(trips)
