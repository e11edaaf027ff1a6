"""Measure what a small program waits for before its first message, and what memory it takes: part of `make bench`.

Imports are measured with compiled files at hand, as a second start finds them. A first message goes from one fresh
process to another that has loaded peerfabric as well: the time from `with Node` to its receipt, which is to say from
`send(confirm="processed")`, or `get` at a consumer that comes after it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from statistics import median
from typing import IO, Final

from rich.console import Console
from rich.table import Table

ROUNDS: Final = int(os.environ.get("ROUNDS", "3")) * 5

IMPORT: Final = """
import time
began = time.perf_counter()
from peerfabric import {name}
print((time.perf_counter() - began) * 1e3)
"""

MEMORY: Final = """
import sys
from peerfabric import Node
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
nodes = [Node(f"n{n}") for n in range(int(sys.argv[1]))]
for node in nodes:
    node.peers()
print((peak() - before) / 1024)
for node in nodes:
    node.close()
"""

BLOCKING: Final = """
import sys, time
from peerfabric import Node
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
with Node(sys.argv[1]) as node:
    if sys.argv[1] == "producer":
        producer = node.producer("jobs", int)
        print("up", flush=True)
        producer.send(1, confirm="processed")
    else:
        consumer = node.consumer("jobs", int)
        print("up", flush=True)
        with consumer.get():
            pass
    took = time.perf_counter() - began
print(took * 1e3)
"""

ASYNC: Final = """
import asyncio, sys, time
from peerfabric import AsyncNode
async def main():
    began = time.perf_counter()
    async with AsyncNode(sys.argv[1]) as node:
        if sys.argv[1] == "producer":
            producer = node.producer("jobs", int)
            print("up", flush=True)
            await producer.send(1, confirm="processed")
        else:
            consumer = node.consumer("jobs", int)
            print("up", flush=True)
            with await consumer.get():
                pass
        print((time.perf_counter() - began) * 1e3)
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


def run(script: str, *arguments: str) -> float:
    """What a script prints."""
    with tempfile.TemporaryDirectory(prefix="pf") as folder:
        environment = os.environ | {"PEERFABRIC_RUNTIME": folder, "PYTHONDONTWRITEBYTECODE": ""}
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    return float(done.stdout)


def first_message(script: str, *, late: str) -> float:
    """Milliseconds until `late`, "producer" or "consumer", has its receipt of the other one, which is there already."""
    with tempfile.TemporaryDirectory(prefix="pf") as folder:
        environment = os.environ | {"PEERFABRIC_RUNTIME": folder}
        sides = [
            subprocess.Popen(
                [sys.executable, "-c", script, side],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for side in sorted(("producer", "consumer"), key=lambda side: side == late)
        ]
        for side in sides:
            _line(side.stdout)
        for side in sides:
            assert side.stdin is not None
            side.stdin.write("\n")
            side.stdin.flush()
            _line(side.stdout)
        took = [float(side.communicate(timeout=60)[0].split()[0]) for side in sides]
    return took[1]


def _line(pipe: IO[str] | None) -> str:
    assert pipe is not None
    return pipe.readline()


def main() -> None:
    table = Table(title=f"a start, median of {ROUNDS} rounds, {os.cpu_count()} cores")
    for heading in ("measurement", "found", "aim", ""):
        table.add_column(heading, justify="left" if heading == "measurement" else "right")

    def add(title: str, values: list[float], unit: str, aim: float) -> None:
        found = median(values)
        table.add_row(title, f"{found:,.1f} {unit}", f"≤ {aim:g}", "met" if found <= aim else "MISSED")

    for name in ("Node", "AsyncNode"):
        run(IMPORT.format(name=name))  # compiles
        add(f"from peerfabric import {name}", [run(IMPORT.format(name=name)) for _ in range(ROUNDS)], "ms", 100)
    for front, script in (("Node", BLOCKING), ("AsyncNode", ASYNC)):
        for late in ("producer", "consumer"):
            title = f"{front}: the first message, the {late} comes last"
            add(title, [first_message(script, late=late) for _ in range(ROUNDS)], "ms", 60)
    for count in (1, 2):
        title = f"peak of memory with {count} node{'s' if count > 1 else ''}, above the import"
        add(title, [run(MEMORY, str(count)) for _ in range(3)], "MiB", 8)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
