"""Measure the spool beside SQLite in the same run: `make bench`, or `python benchmarks/spool.py [--backlog]`.

Each figure is a rate of messages of 128 bytes on this machine's disk; the rounds alternate, and the table shows
medians. `--backlog` adds the long one: ten million messages stored with no consumer, then drained by two.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import persistqueue
from rich.console import Console
from rich.table import Table

from peerfabric import Node, Options
from peerfabric.spool import Spool

SIZE = 128
BODY = bytes(SIZE)
BATCH = 1000
BACKLOG = 10_000_000


def ours(folder: str, count: int, *, fsync: bool, batch: int) -> float:
    """Messages a second that a node stores."""
    with Node(fabric="bench-spool", spool=f"{folder}/ours", fsync=fsync, discovery=("static",)) as node:
        producer = node.producer("work", bytes)
        bodies = [BODY] * batch
        started_at = time.perf_counter()
        for _ in range(count // batch):
            if batch > 1:
                producer.send_many(bodies)
            else:
                producer.send(BODY)
        return count / (time.perf_counter() - started_at)


def many_threads(folder: str, count: int, threads: int) -> float:
    """Messages a second of threads that send one by one and share their syncs."""
    with Node(fabric="bench-spool", spool=f"{folder}/ours", fsync=True, discovery=("static",)) as node:
        producer = node.producer("work", bytes)

        def work() -> None:
            for _ in range(count // threads):
                producer.send(BODY)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        started_at = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return count / (time.perf_counter() - started_at)


def sqlite(folder: str, count: int, *, fsync: bool, batch: int) -> float:
    """The same with plain SQLite, written as well as it allows: a prepared statement, one transaction a batch, WAL."""
    database = sqlite3.connect(f"{folder}/plain.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(f"PRAGMA synchronous={'FULL' if fsync else 'OFF'}")
    database.execute("CREATE TABLE IF NOT EXISTS messages (sequence INTEGER PRIMARY KEY, body BLOB)")
    rows = [(BODY,)] * batch
    started_at = time.perf_counter()
    for _ in range(count // batch):
        database.execute("BEGIN")
        database.executemany("INSERT INTO messages (body) VALUES (?)", rows)
        database.execute("COMMIT")
    rate = count / (time.perf_counter() - started_at)
    database.close()
    return rate


def persist_queue(folder: str, count: int) -> float:
    """The same with persist-queue's SQLite queue, a message a call."""
    queue = persistqueue.SQLiteQueue(f"{folder}/persist", auto_commit=True)
    started_at = time.perf_counter()
    for _ in range(count):
        queue.put(BODY)
    rate = count / (time.perf_counter() - started_at)
    queue.close()
    return rate


def recovery(folder: str, count: int) -> float:
    """Bytes a second at which a spool of batches is scanned at the start."""
    ours(folder, count, fsync=False, batch=BATCH)
    started_at = time.perf_counter()
    spool = Spool.inspect(f"{folder}/ours")
    log = spool.queue("work", unix_ms=0)
    elapsed = time.perf_counter() - started_at
    size = log.used_bytes
    spool.close()
    return size / elapsed


def measured(run: Callable[..., float], *arguments: Any, **options: Any) -> float:
    with tempfile.TemporaryDirectory(prefix="pfb", dir=os.environ.get("BENCH_FOLDER")) as folder:
        return run(folder, *arguments, **options)


CONSUMER = """
import sys, time
from peerfabric import Node
with Node(fabric="bench-backlog") as node:
    done = 0
    print("ready", flush=True)
    for batch in node.consumer("work", bytes).batches(max_size=10_000):
        with batch as bodies:
            done += len(bodies)
"""


def backlog(console: Console) -> None:
    """Ten million messages with no consumer, then two: memory of the producer, and the rate by tenth."""
    with tempfile.TemporaryDirectory(prefix="pfb", dir=os.environ.get("BENCH_FOLDER")) as folder:
        environment = os.environ | {"PEERFABRIC_RUNTIME": f"{folder}/run"}
        os.environ["PEERFABRIC_RUNTIME"] = f"{folder}/run"
        options = Options(drain_timeout=0.0)
        with Node(fabric="bench-backlog", spool=f"{folder}/spool", options=options) as node:
            producer = node.producer("work", bytes)
            bodies = [BODY] * 10_000
            started_at = time.perf_counter()
            for _ in range(BACKLOG // len(bodies)):
                producer.send_many(bodies)
            stored = BACKLOG / (time.perf_counter() - started_at)
            consumers = [
                subprocess.Popen([sys.executable, "-c", CONSUMER], env=environment, stdout=subprocess.PIPE)
                for _ in range(2)
            ]
            rates = []
            try:
                before, at = 0, time.perf_counter()
                while before < BACKLOG:
                    time.sleep(0.05)
                    acked = node.statistics().producers[0].acked
                    if acked - before >= BACKLOG // 10 or acked == BACKLOG:
                        now = time.perf_counter()
                        rates.append((acked - before) / (now - at))
                        before, at = acked, now
            finally:
                for consumer in consumers:
                    consumer.kill()
                    consumer.communicate()
        memory = int(next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x).split()[1])
    console.print(f"{BACKLOG:,} messages stored with no consumer: {stored:,.0f}/s")
    console.print("drained by two, by tenths: " + " ".join(f"{rate / 1e6:.2f}" for rate in rates) + " M/s")
    console.print(f"most memory of the producer: {memory / 1024:.0f} MiB (aim: under 200)")


def main() -> None:
    console = Console(width=110)
    if "--backlog" in sys.argv:
        backlog(console)
        return
    rounds = int(os.environ.get("ROUNDS", "3"))
    rows: list[tuple[str, Callable[[], float], Callable[[], float], str, float]] = [
        (
            "send_many of 1,000, fsync=False",
            lambda: measured(ours, 1_000_000, fsync=False, batch=BATCH),
            lambda: measured(sqlite, 200_000, fsync=False, batch=BATCH),
            "SQLite, 1,000 a transaction",
            5.0,
        ),
        (
            "send, fsync=False",
            lambda: measured(ours, 100_000, fsync=False, batch=1),
            lambda: measured(persist_queue, 2_000),
            "persist-queue",
            5.0,
        ),
        (
            "send_many of 1,000, fsync=True",
            lambda: measured(ours, 300_000, fsync=True, batch=BATCH),
            lambda: measured(sqlite, 100_000, fsync=True, batch=BATCH),
            "SQLite FULL, 1,000 a transaction",
            0.0,
        ),
        (
            "send by 16 threads, fsync=True",
            lambda: measured(many_threads, 16_000, 16),
            lambda: measured(sqlite, 1_000, fsync=True, batch=1),
            "SQLite FULL, one a transaction",
            0.0,
        ),
    ]
    table = Table(title=f"spool beside SQLite, messages a second, median of {rounds} rounds, {os.cpu_count()} cores")
    for heading in ("what", "ours", "theirs", "", "ratio", "aim"):
        table.add_column(heading, justify="left" if heading in ("what", "") else "right")
    for title, mine, theirs, who, aim in rows:
        pairs = [(mine(), theirs()) for _ in range(rounds)]
        ratio = median(a / b for a, b in pairs)
        table.add_row(
            title,
            f"{median(a for a, _ in pairs):,.0f}",
            f"{median(b for _, b in pairs):,.0f}",
            who,
            f"{ratio:.1f}",
            f"≥ {aim:g}" + (" met" if ratio >= aim else " MISSED") if aim else "",
        )
    console.print(table)
    rate = median(measured(recovery, 1_000_000) for _ in range(rounds))
    console.print(f"recovery scan: {rate / 1e6:,.0f} MB/s (aim: 200)")


if __name__ == "__main__":
    main()
