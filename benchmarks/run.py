"""Measure peerfabric beside raw pyzmq, or beside itself, in the same run: `benchmarks/run.py [NAME…] [--rounds N]`.

Raw is PUSH/PULL or PUB/SUB with one call a message and nothing acked, in processes of its own over TCP loopback, as
ours is. Raw never copies a large body; neither does a consumer of `memoryview`, while one of `bytes` must. The rounds
alternate, since the speed of a machine drifts; the table shows medians, of the ratios where there are two. Names are
parts of cases' names; without any, all run (a quarter of an hour a round). `--list` shows them.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

SIDES: Final = Path(__file__).with_name("sides.py")
LIMIT: Final = 300.0
MORE_IS_BETTER: Final = frozenset({"rate"})


class Run(NamedTuple):
    """One way to measure: functions of `sides.py`, the first of which the others talk to, and their options."""

    sides: tuple[str, ...]
    messages: int
    size: int = 128
    options: tuple[dict[str, int], ...] = ({}, {})
    """Of the first side, of the second one, …; the last ones are also those of all that follow."""
    keyed: bool = False
    """Whether ours has a secret, and raw pyzmq has CURVE."""


class Aim(NamedTuple):
    """A line of the table: what is read from the report, and the bound for it, or for its ratio to that of `beside`."""

    key: str
    bound: float | None
    title: str = ""


class Case(NamedTuple):
    title: str
    ours: Run
    beside: Run | None
    aims: tuple[Aim, ...]


class Failed(Exception):
    """A side ended with an error, or is not done after LIMIT seconds."""


def beside_raw(title: str, ours: tuple[str, str], raw: tuple[str, str], count: int, size: int, aim: float) -> Case:
    return Case(title, Run(ours, count, size), Run(raw, count, size), (Aim("rate", aim),))


def one_way(others: int) -> Run:
    sides = ("confirm_send", "confirm_take")
    return Run(sides, 1_000, options=({"others": others}, {"others": others}))


def batches(others: int = 0, links: int = 0) -> Run:
    """A busy queue, beside others and beside idle links, of which a process has 50."""
    processes = links // 50
    sides = 2 + processes
    options = (
        {"others": others, "links": links, "sides": sides},
        {"others": others, "sides": sides},
        {"nodes": 50, "sides": sides},
    )
    return Run((*MANY, *["idle_nodes"] * processes), 1_000_000, options=options)


def topic(subscribers: int, count: int) -> tuple[Run, Run]:
    return (
        Run(
            ("topic_publish", *["topic_receive"] * subscribers),
            count,
            options=({"subscribers": subscribers}, {"subscribers": subscribers}),
        ),
        Run(("raw_pub", *["raw_sub"] * subscribers), count, options=({"subscribers": subscribers}, {})),
    )


def paced(pause_ms: int, count: int) -> Run:
    return Run(("paced_send", "paced_handler"), count, options=({"pause_ms": pause_ms}, {"pause_ms": pause_ms}))


def keyed(title: str, ours: tuple[str, str], beside: tuple[str, str], count: int, size: int, *aims: Aim) -> Case:
    """Encrypted, beside the same in the clear or beside raw pyzmq with CURVE."""
    return Case(title, Run(ours, count, size, keyed=True), Run(beside, count, size, keyed=beside == RAW), aims)


def keyed_topic(subscribers: int, count: int) -> Case:
    ours, raw = (run._replace(keyed=True) for run in topic(subscribers, count))
    title = f"encrypted topic 1 → {subscribers} / raw CURVE"
    return Case(title, ours, raw, (Aim("rate", None), Aim("missed", None, "missed")))


RAW = ("raw_push", "raw_pull")
MANY = ("queue_send_many", "queue_batches")
ONE = ("queue_send", "queue_messages")
VIEWS = ("queue_send", "queue_views")
PING = ("queue_ping", "queue_pong")
CALL = ("call_ask", "call_answer")
STRUCTS = ("queue_send_structs", "queue_structs")
CASES: Final[dict[str, Case]] = {
    "calls": Case(
        "one confirmed send",
        Run(("calls",), 1),
        None,
        (
            Aim("calls", 400, "Python calls"),
            Aim("files", 28, "files"),
            Aim("spooled_calls", 560, "Python calls, spooled"),
            Aim("spooled_files", 36, "files, spooled"),
        ),
    ),
    "round-trip": Case(
        "round trip over two queues, acked",
        Run(PING, 3_000),
        Run(("raw_ping", "raw_pong"), 3_000),
        (Aim("microseconds", 4.5),),
    ),
    "call": Case(
        "call of a service, from a thread / raw ping",
        Run(CALL, 3_000),
        Run(("raw_ping", "raw_pong"), 3_000),
        (Aim("microseconds", 2.7),),
    ),
    "call-main": Case(
        "call of a service, from the main thread / raw",
        Run(CALL, 3_000, options=({"main": 1}, {})),
        Run(("raw_ping", "raw_pong"), 3_000),
        (Aim("microseconds", None),),
    ),
    "call-async": Case(
        "call of a service, AsyncNode / raw ping",
        Run(("async_call_ask", "call_answer"), 3_000),
        Run(("raw_ping", "raw_pong"), 3_000),
        (Aim("microseconds", None),),
    ),
    "call-nats": Case(
        "call of a service / request of nats-py",
        Run(CALL, 3_000),
        Run(("nats_server", "nats_request", "nats_reply"), 3_000),
        (Aim("microseconds", 1.0),),
    ),
    "call-zenoh": Case(
        "call of a service / query of zenoh",
        Run(CALL, 3_000),
        Run(("zenoh_query", "zenoh_queryable"), 3_000),
        (Aim("microseconds", None),),
    ),
    "one-way-1000": Case("one way, 1,000 other queues / 1", one_way(1_000), one_way(1), (Aim("microseconds", 1.2),)),
    "one-way-4000": Case("one way, 4,000 other queues / 1", one_way(4_000), one_way(1), (Aim("microseconds", 1.4),)),
    "beside-queues": Case("one queue, 1,000 others / alone", batches(others=1_000), batches(), (Aim("rate", 0.95),)),
    "beside-links": Case("one queue, 500 idle links / alone", batches(links=500), batches(), (Aim("rate", 0.95),)),
    "many-queues": Case("4,000 queues in one node", Run(("many_queues", "peer"), 4_000), None, (Aim("seconds", 2.0),)),
    "many-topics": Case(
        "4,000 topics in one node",
        Run(("many_topics", "peer_of_topics"), 4_000),
        None,
        (Aim("seconds", 1.0), Aim("sent_mb", 4.0, "MB sent")),
    ),
    "many-spooled": Case(
        "1,000 queues in one spool",
        Run(("many_spooled",), 1_000),
        None,
        (Aim("made", 4.0, "s to make"), Aim("started", 2.0, "s to start again"), Aim("drained", 3.0, "s to drain")),
    ),
    "send-many": beside_raw("send_many → batches / raw", MANY, RAW, 2_000_000, 128, 2.8),
    "send-many-spooled": beside_raw(
        "spooled, send_many → batches / raw", ("queue_spooled", "queue_batches"), RAW, 2_000_000, 128, 1.0
    ),
    "messages": beside_raw("send → for message / raw", ONE, RAW, 500_000, 128, 0.7),
    "messages-spooled": Case(
        "send → for message, spooled / in memory",
        Run(("queue_send_spooled", "queue_messages"), 200_000),
        Run(ONE, 200_000),
        (Aim("rate", 0.4),),
    ),
    "handler": Case(
        "on_message / for message",
        Run(("queue_send", "queue_handler"), 200_000),
        Run(ONE, 200_000),
        (Aim("rate", 0.8),),
    ),
    "handler-4": Case(
        "on_message, concurrency 4 / 1",
        Run(("queue_send", "queue_handler"), 100_000, options=({}, {"concurrency": 4})),
        Run(("queue_send", "queue_handler"), 100_000),
        (Aim("rate", 1.0),),
    ),
    "async": Case(
        "one by one, AsyncNode / Node",
        Run(("async_send", "async_messages"), 200_000),
        Run(ONE, 200_000),
        (Aim("rate", 0.8),),
    ),
    "structs": beside_raw(
        "Structs, send_many → batches / raw", STRUCTS, ("raw_structs_push", "raw_structs_pull"), 1_000_000, 128, 1.5
    ),
    "structs-bytes": Case(
        "the same / raw bytes of that size",
        Run(STRUCTS, 1_000_000),
        Run(("raw_orders_push", "raw_pull"), 1_000_000),
        (Aim("rate", None),),
    ),
    "topic": Case("topic 1 → 1 / raw", *topic(1, 2_000_000), (Aim("rate", 1.4), Aim("missed", None, "missed"))),
    "topic-32": Case("topic 1 → 32 / raw", *topic(32, 200_000), (Aim("rate", 0.9), Aim("missed", None, "missed"))),
    "large-views": beside_raw("1 MiB as memoryview / raw", VIEWS, RAW, 2_000, 1 << 20, 0.85),
    "large-bytes": beside_raw("1 MiB as bytes / raw", ONE, RAW, 2_000, 1 << 20, 0.75),
    "keys-messages": keyed("encrypted, send_many → batches / clear", MANY, MANY, 2_000_000, 128, Aim("rate", 0.7)),
    "keys-256k": keyed("encrypted, 256 KiB views / raw CURVE", VIEWS, RAW, 4_000, 1 << 18, Aim("rate", 0.85)),
    "keys-1m": keyed("encrypted, 1 MiB views / raw CURVE", VIEWS, RAW, 1_000, 1 << 20, Aim("rate", 0.85)),
    "keys-256k-clear": keyed("encrypted, 256 KiB views / clear", VIEWS, VIEWS, 4_000, 1 << 18, Aim("rate", None)),
    "keys-1m-clear": keyed("encrypted, 1 MiB views / clear", VIEWS, VIEWS, 1_000, 1 << 20, Aim("rate", None)),
    "keys-round-trip": keyed("encrypted round trip, acked / clear", PING, PING, 3_000, 128, Aim("microseconds", 1.25)),
    "keys-topic": keyed_topic(1, 1_000_000),
    "keys-topic-8": keyed_topic(8, 400_000),
    "keys-topic-32": keyed_topic(32, 100_000),
    "idle-queue": Case(
        "10 producers, 50 consumers, idle",
        Run(("idle",) * 60, 20, options=({"sides": 60}, {"sides": 60, "consumers": 1})),
        None,
        (Aim("percent", 20.0, "% of a processor"),),
    ),
    "idle-node": Case(
        "one node, idle",
        Run(("idle",), 20, options=({"sides": 1}, {})),
        None,
        (Aim("mib", 34.0, "MiB"), Aim("percent", 0.1, "% of a processor")),
    ),
    "quiet": Case(
        "to the handler, every 3 s / 10 a second", paced(3_000, 10), paced(100, 50), (Aim("microseconds", 2.5),)
    ),
}


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, nor the ones after them, where outboxes listen: probed together, so that all differ."""
    probes: list[socket.socket] = []
    found: list[int] = []
    try:
        while len(found) < count:
            first, second = socket.socket(), socket.socket()
            probes += [first, second]
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                found.append(port)
        return found
    finally:
        for probe in probes:
            probe.close()


def write_secret(path: Path) -> None:
    from peerfabric.secret import new_secret  # a tool that compares other checkouts need not have it

    path.touch(mode=0o600)
    path.write_text(new_secret(os.urandom(32)).text())


def measure(run: Run, python: str = sys.executable) -> dict[str, float]:
    """Run all sides with an interpreter that has peerfabric, and return what they reported together."""
    ports = free_ports(max(2, len(run.sides)))
    reports: list[dict[str, float]] = []
    end = time.monotonic() + LIMIT
    with tempfile.TemporaryDirectory(prefix="pf") as folder:
        meeting = Path(folder) / "meet"
        meeting.mkdir()
        environment = os.environ | {"PEERFABRIC_RUNTIME": folder, "BENCH_MEET": str(meeting)}
        if run.keyed:
            environment["BENCH_SECRET"] = f"{folder}/secret"
            write_secret(Path(folder) / "secret")
        children = []
        try:
            for index, side in reversed(list(enumerate(run.sides))):
                theirs = ports[0] if index else ports[1]
                options = [f"{name}={value}" for name, value in run.options[min(index, len(run.options) - 1)].items()]
                numbers = map(str, (run.messages, run.size, ports[index], theirs))
                command = [python, str(SIDES), side, *numbers, *options]
                children.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True))
            for child in children:
                out, _ = child.communicate(timeout=max(0.0, end - time.monotonic()))
                if child.returncode:
                    raise Failed(f"{run.sides}: exit {child.returncode}")
                reports += map(json.loads, out.splitlines())
        except subprocess.TimeoutExpired:
            raise Failed(f"{run.sides[0]}: over {LIMIT:g} s") from None
        finally:
            for child in children:
                child.kill()
                child.wait()
    return merged(reports)


def merged(reports: list[dict[str, float]]) -> dict[str, float]:
    """The sum of each value; the rate of what was received by all in the time from the first to the last."""
    combine: dict[str, Callable[[list[float]], float]] = {"began": min, "ended": max}
    names = {name for report in reports for name in report}
    values = {name: combine.get(name, sum)([report[name] for report in reports if name in report]) for name in names}
    if "received" in values:
        values["rate"] = values["received"] / (values["ended"] - values["began"])
    return values


def shown(key: str, value: float) -> str:
    if key == "rate":
        return f"{value:,.0f}/s"
    if key == "microseconds":
        return f"{value:,.0f} µs"
    return f"{value:,.2f} s" if key in ("seconds", "made", "started", "drained") else f"{value:,.4g}"


def verdict(key: str, found: float, bound: float | None) -> str:
    if bound is None:
        return ""
    if key in MORE_IS_BETTER:
        return f"≥ {bound:g} {'met' if found >= bound else 'MISSED'}"
    return f"≤ {bound:g} {'met' if found <= bound else 'MISSED'}"


def chosen(names: list[str]) -> list[str]:
    """The cases that are called so, or else those whose names have such a part; all of them if none is given."""
    found = [name for name in CASES if not names or name in names or any(n not in CASES and n in name for n in names)]
    if not found:
        raise SystemExit(f"no case is called so; there are {', '.join(CASES)}")
    return found


def alternating(rounds: int, *runs: Callable[[], dict[str, float]]) -> list[list[dict[str, float]]]:
    """What each run reported in each round; every other round begins with the last of them."""
    results: list[list[dict[str, float]]] = [[] for _ in runs]
    for number in range(rounds):
        order = list(zip(runs, results, strict=True))
        for run, reports in order if number % 2 else reversed(order):
            reports.append(run())
    return results


def arguments(*positional: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").partition("\n")[0])
    for name in positional:
        parser.add_argument(name, type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "3")))
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


def line(*cells: str) -> None:
    widths = (18, 40, 18, 15, 15, 8)
    padded = [cell.ljust(w) if n < 3 else cell.rjust(w) for n, (cell, w) in enumerate(zip(cells, widths, strict=False))]
    print("  ".join([*padded, *cells[len(widths) :]]).rstrip(), flush=True)


def main() -> None:
    given = arguments()
    names = chosen(given.names)
    if given.list:
        print("\n".join(f"{name:18}  {CASES[name].title}" for name in names))
        return
    print(f"medians of {given.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    line("case", "measurement", "", "ours", "beside", "ratio", "aim")
    for name in names:
        case = CASES[name]
        runs = [case.ours] if case.beside is None else [case.ours, case.beside]
        try:
            results = alternating(given.rounds, *(partial(measure, run) for run in runs))
        except Failed as error:
            line(name, case.title, "", f"FAILED {error}")
            continue
        for key, bound, title in case.aims:
            ours = [report[key] for report in results[0]]
            there = [report[key] for report in results[-1] if key in report] if case.beside else []
            found = median(a / b for a, b in zip(ours, there, strict=True)) if there else median(ours)
            beside, ratio = (shown(key, median(there)), f"{found:.2f}") if there else ("", "")
            line(name, case.title, title, shown(key, median(ours)), beside, ratio, verdict(key, found, bound))


if __name__ == "__main__":
    main()
