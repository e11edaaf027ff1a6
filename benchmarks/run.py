"""Measure peerfabric beside raw pyzmq in the same run: `make bench`.

Each figure is a ratio to raw pyzmq PUSH/PULL or PUB/SUB (one call a message, nothing acked), in two processes over
TCP loopback. Raw never copies a large body; neither does a consumer of `memoryview`, while one of `bytes` must. The
rounds alternate, since the speed of a machine drifts; the table shows the median of the ratios.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

SIDES = Path(__file__).with_name("sides.py")
LIMIT = 180.0


class Case(NamedTuple):
    """One row: our two sides, the raw ones they are compared with, and the aim for ours / raw."""

    title: str
    ours: tuple[str, str]
    raw: tuple[str, str]
    count: int
    size: int
    aim: float


CASES = [
    Case(
        "send_many → batches, acked",
        ("queue_send_many", "queue_batches"),
        ("raw_push", "raw_pull"),
        2_000_000,
        128,
        1.5,
    ),
    Case(
        "spooled, send_many → batches, acked",
        ("queue_spooled", "queue_batches"),
        ("raw_push", "raw_pull"),
        2_000_000,
        128,
        1.0,
    ),
    Case("send → for message, acked", ("queue_send", "queue_messages"), ("raw_push", "raw_pull"), 1_000_000, 128, 0.4),
    Case("round trip, acked", ("queue_ping", "queue_pong"), ("raw_ping", "raw_pong"), 3_000, 128, 2.0),
    Case("topic, best effort", ("topic_publish", "topic_receive"), ("raw_pub", "raw_sub"), 2_000_000, 128, 1.5),
    Case("1 MiB as memoryview, acked", ("queue_send", "queue_views"), ("raw_push", "raw_pull"), 2_000, 1 << 20, 0.8),
    Case("1 MiB as bytes, acked", ("queue_send", "queue_messages"), ("raw_push", "raw_pull"), 2_000, 1 << 20, 0.8),
]


def free_ports() -> list[int]:
    """Two ports that nobody uses: probed together, or the kernel may give the same one twice."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in (one, other)]


def measure(sides: tuple[str, str], count: int, size: int) -> dict[str, float]:
    """Run both sides and return what they reported."""
    raw = sides[0].startswith("raw")
    ports = free_ports()
    one_way = raw and "ping" not in sides[0]
    first = ports[:1] if one_way else ports
    second = first if raw else ports[::-1]
    with tempfile.TemporaryDirectory(prefix="pf") as folder:
        environment = os.environ | {"PEERFABRIC_RUNTIME": folder}
        children = [
            subprocess.Popen(
                [sys.executable, SIDES, side, str(count), str(size), *map(str, numbers)],
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for side, numbers in ((sides[1], second), (sides[0], first))
        ]
        values: dict[str, float] = {}
        try:
            for child in children:
                out, _ = child.communicate(timeout=LIMIT)
                if child.returncode:
                    raise SystemExit(f"{child.args} failed")
                for line in out.splitlines():
                    values |= json.loads(line)
        finally:
            for child in children:
                child.kill()
                child.wait()
    return values


def main() -> None:
    rounds = int(os.environ.get("ROUNDS", "3"))
    wanted = sys.argv[1:]
    table = Table(title=f"ours / raw pyzmq, median of {rounds} rounds, TCP loopback, {os.cpu_count()} cores")
    for heading in ("measurement", "ours", "raw", "ratio", "aim", ""):
        table.add_column(heading, justify="left" if heading == "measurement" else "right")
    for case in CASES:
        if wanted and not any(word in case.title for word in wanted):
            continue
        ours, raw = [], []
        missed = 0.0
        for _ in range(rounds):
            raw.append(measure(case.raw, case.count, case.size))
            ours.append(measure(case.ours, case.count, case.size))
            missed += ours[-1].get("missed", 0)
        unit = "rate" if "rate" in raw[0] else "microseconds"
        ratio = median(o[unit] / r[unit] for o, r in zip(ours, raw, strict=True))
        met = ratio >= case.aim if unit == "rate" else ratio <= case.aim
        mine, theirs = median(o[unit] for o in ours), median(r[unit] for r in raw)
        show = (lambda v: f"{v:,.0f}/s") if unit == "rate" else (lambda v: f"{v:,.0f} µs")
        bound = f"{'≥' if unit == 'rate' else '≤'} {case.aim:g}"
        note = ("met" if met else "MISSED") + (f", {missed:,.0f} updates missed" if missed else "")
        table.add_row(case.title, show(mine), show(theirs), f"{ratio:.2f}", bound, note)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
