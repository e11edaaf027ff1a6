"""Measure what many nodes of one machine cost each other: `benchmarks/fabric.py [CASE…] [--nodes N]`.

    nothing  N processes with a node each that share nothing: until all are calm, what that took beyond their starts,
             and how much of a core each takes then; the same after all were killed and started at once
    pool     N nodes, a tenth of which produce what all others consume: until all are linked
    spread   2 N nodes in N / 5 processes, and N / 2 queues that four of them use each: until all are linked, and how
             many descriptors that takes

Processor times are those of the kernel's scheduler. Calm is less than 0.25 % of a core for each process in 5 s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

CALM: Final = 0.0025
CALM_FOR: Final = 5.0
IDLE_FOR: Final = 20.0
PATIENCE: Final = 180.0

CHILD: Final = """
import json, os, sys, time
from peerfabric import Node
nodes = []
for name, produces, consumes in json.loads(sys.argv[1]):
    node = Node(name)
    nodes.append((node, [node.producer(q, int) for q in produces], [node.consumer(q, int) for q in consumes]))
    node.peers()
print(json.dumps({"cpu": time.process_time()}), flush=True)
for line in sys.stdin:
    peers = [[p.state for p in node.peers()] for node, _, _ in nodes]
    print(json.dumps({"up": [states.count("up") for states in peers], "known": [len(states) for states in peers],
                      "fds": len(os.listdir("/proc/self/fd"))}), flush=True)
"""

Uses = tuple[str, list[str], list[str]]
"""Name, queues produced, queues consumed."""


class Process:
    """A process with some nodes."""

    def __init__(self, nodes: list[Uses]) -> None:
        self.nodes = nodes
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start_cpu = 0.0

    def opened(self) -> None:
        """Wait until all of its nodes are open."""
        self.start_cpu = self._read()["cpu"]

    def ask(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    @property
    def cpu(self) -> float:
        """Seconds of a core that it has taken."""
        tasks = f"/proc/{self._process.pid}/task"
        total = 0
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/schedstat") as file:
                total += int(file.read().split()[0])
        return total / 1e9

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def running(groups: list[list[Uses]]) -> Iterator[list[Process]]:
    """Start all at once, and return when all nodes are open."""
    processes: list[Process] = []
    try:
        processes += [Process(nodes) for nodes in groups]
        for process in processes:
            process.opened()
        yield processes
    finally:
        for process in processes:
            process.kill()


def until(condition: Callable[[], bool], every: float = 0.25) -> float:
    """Wait, and return for how long."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > PATIENCE:
            raise SystemExit("it takes too long")
        time.sleep(every)
    return time.monotonic() - began


def until_calm(processes: list[Process]) -> float:
    """Wait for the end of the first CALM_FOR seconds in which all are calm, and return when those began."""
    began = time.monotonic()
    window = [(began, [process.cpu for process in processes])]
    while True:
        time.sleep(0.5)
        now, spent = time.monotonic(), [process.cpu for process in processes]
        window.append((now, spent))
        then, before = next((at, cpu) for at, cpu in reversed(window) if now - at >= CALM_FOR or at == began)
        busiest = max(b - a for a, b in zip(before, spent, strict=True)) / (now - then)
        if now - then >= CALM_FOR and busiest < CALM:
            return then - began
        if now - began > PATIENCE:
            raise SystemExit(f"not calm: the busiest takes {busiest:.2%}")


def idle(processes: list[Process]) -> list[float]:
    """How much of a core each takes, sorted."""
    before = [process.cpu for process in processes]
    time.sleep(IDLE_FOR)
    return sorted((process.cpu - cpu) / IDLE_FOR for process, cpu in zip(processes, before, strict=True))


def nothing(nodes: int) -> None:
    groups: list[list[Uses]] = [[(f"n{n}", [f"own.{n}"], [])] for n in range(nodes)]
    for how in ("started at once", "killed and started at once"):
        with running(groups) as processes:
            calm = until_calm(processes)
            beyond = sum(process.cpu - process.start_cpu for process in processes)
            rates = idle(processes)
            found = [process.ask() for process in processes]
        up, known = max(max(each["up"]) for each in found), min(min(each["known"]) for each in found)
        print(
            f"nothing in common, {nodes} processes {how}: calm {calm:.1f} s after the last was open, "
            f"{beyond:.1f} s of processor beyond the starts; then each {rates[len(rates) // 2]:.3%}, the busiest "
            f"{rates[-1]:.3%}; at most {up} links a node, which know {known} others at least",
            flush=True,
        )


def pool(nodes: int) -> None:
    producers = nodes // 10
    groups: list[list[Uses]] = [
        [(f"n{n}", ["jobs"] if n < producers else [], [] if n < producers else ["jobs"])] for n in range(nodes)
    ]
    with running(groups) as processes:
        wanted = [nodes - producers] * producers + [producers] * (nodes - producers)

        def linked() -> bool:
            return all(process.ask()["up"][0] >= links for process, links in zip(processes, wanted, strict=True))

        took = until(linked)
        rates = idle(processes)
        fds = [process.ask()["fds"] for process in processes]
    print(
        f"{producers} producers for {nodes - producers} consumers: all linked {took:.1f} s after the last was open; "
        f"idle, each takes {rates[len(rates) // 2]:.3%}, the busiest {rates[-1]:.3%}; "
        f"{fds[0]} descriptors at a producer, {fds[-1]} at a consumer",
        flush=True,
    )


def spread(nodes: int) -> None:
    nodes, processes_n, queues = 2 * nodes, max(1, nodes // 5), nodes // 2
    uses: list[Uses] = []
    for n in range(nodes):
        queue = [f"queue.{n % queues}"]
        uses.append((f"n{n}", queue if n // queues % 2 else [], [] if n // queues % 2 else queue))
    groups = [uses[n::processes_n] for n in range(processes_n)]
    began = time.monotonic()
    with running(groups) as processes:
        opened = time.monotonic() - began

        def linked() -> bool:
            return all(links >= 2 for process in processes for links in process.ask()["up"])

        until(linked)
        took = time.monotonic() - began
        cpu = sum(process.cpu for process in processes)
        found = [process.ask() for process in processes]
    links, fds = sum(sum(each["up"]) for each in found), sum(each["fds"] for each in found)
    print(
        f"{nodes} nodes in {processes_n} processes, {queues} queues: open after {opened:.1f} s, all linked after "
        f"{took:.1f} s and {cpu:.1f} s of processor; {links / nodes:.1f} links and "
        f"{fds / nodes:.1f} descriptors a node",
        flush=True,
    )


CASES: Final = {"nothing": nothing, "pool": pool, "spread": spread}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--nodes", type=int, default=100)
    chosen = parser.parse_args()
    for case in chosen.cases or CASES:
        with tempfile.TemporaryDirectory(prefix="pf-") as folder:
            os.environ["PEERFABRIC_RUNTIME"] = folder
            CASES[case](chosen.nodes)


if __name__ == "__main__":
    main()
