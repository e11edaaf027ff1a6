"""Services whose servers are killed and stopped, in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from peerfabric import Node, NoServer, Service

WORKER = Path(__file__).with_name("service_worker.py")
WORK = Service("work", int, int)


class Called(NamedTuple):
    """One call, as its caller saw it."""

    number: int
    asked_at: float
    took: float
    outcome: str


def start(cluster: Any, kind: str, name: str, **options: float) -> None:
    arguments = [f"{key}={value}" for key, value in options.items()]
    cluster.processes[name] = subprocess.Popen(
        [sys.executable, str(WORKER), kind, name, str(cluster.folder), *arguments], stdout=subprocess.PIPE, text=True
    )


def found(cluster: Any, name: str) -> tuple[list[Called], float]:
    """What came of the calls of `name`, and how long it was at it."""
    read = json.loads((cluster.folder / f"{name}.found").read_text())
    return [Called(*each) for each in read["calls"]], read["took"]


def ran(cluster: Any) -> Counter[int]:
    """How often each call ran, by the logs of all servers."""
    return Counter(number for number, _ in logged(cluster))


def logged(cluster: Any, name: str = "*") -> list[tuple[int, float]]:
    lines = [
        line.split() for path in cluster.folder.glob(f"{name}.calls") for line in path.read_text().splitlines() if line
    ]
    return [(int(number), float(at)) for number, at in lines]


def killed_servers(
    cluster: Any, figures: Any, quantile: Any, *, askers: int, servers: int, seconds: float, safe: int
) -> None:
    """One server is killed each second; callers go on at half of what they could."""
    for number in range(servers):
        start(cluster, "serve", f"server{number}")
    for number in range(servers):
        assert cluster.line(f"server{number}") == "ready"

    def ask(first: int, **options: float) -> list[str]:
        names = [f"caller{first}-{number}" for number in range(askers)]
        for number, name in enumerate(names):
            start(cluster, "call", name, first=first + 1_000_000 * number, servers=servers, safe=safe, **options)
        for name in names:
            assert cluster.line(name) == "ready"
        return names

    names = ask(0, seconds=min(2.0, seconds / 4))
    peak = 0.0
    for name in names:
        assert cluster.line(name) == "done"
        calls, took = found(cluster, name)
        assert {call.outcome for call in calls} == {"ok"}
        peak += len(calls) / took
    rate, timeout = peak / 2 / askers, 2.0
    names = ask(100_000_000, seconds=seconds, rate=rate, timeout=timeout)
    began_at, serial = time.monotonic(), servers
    while time.monotonic() - began_at < seconds - 0.5:
        time.sleep(1.0)
        victim = cluster.random.choice([name for name in cluster.processes if name.startswith("server")])
        cluster.kill(victim)
        start(cluster, "serve", f"server{serial}")
        assert cluster.line(f"server{serial}") == "ready"  # or a busy machine would be left without any
        serial += 1
    calls = []
    for name in names:
        while (line := cluster.line(name)) != "done":
            assert line == "ready"
        calls += found(cluster, name)[0]
    outcomes = Counter(call.outcome for call in calls)
    late = sorted(call.took - timeout for call in calls)
    figures("outcomes", f"{dict(outcomes)} at {rate * askers:,.0f}/s of {peak:,.0f}/s", True)
    figures("99.9 % end within", f"deadline + {quantile(late, 0.999):.3f} s", quantile(late, 0.999) <= 0.05)
    figures("all end within", f"deadline + {late[-1]:.3f} s", late[-1] <= 0.5)
    assert outcomes["WRONG"] == 0, outcomes
    assert outcomes["ok"] > 0.5 * len(calls), outcomes
    times = ran(cluster)
    assert all(times[call.number] >= 1 for call in calls if call.outcome == "ok")
    if safe:
        assert outcomes["ServerLost"] == 0, outcomes
    else:
        twice = [number for number, count in times.items() if count > 1]
        assert not twice, f"{len(twice)} calls ran twice (seed {cluster.seed})"
        assert not any(times[call.number] for call in calls if call.outcome.endswith("(not run)"))


def test_killed_servers(cluster: Any, figures: Any, quantile: Any) -> None:
    """Two callers, three servers, two kills: no wrong answer, nothing runs twice, each call ends."""
    killed_servers(cluster, figures, quantile, askers=2, servers=3, seconds=2.5, safe=0)


@pytest.mark.long
@pytest.mark.parametrize("safe", [0, 1], ids=["once", "idempotent"])
def test_killed_servers_for_a_minute(cluster: Any, figures: Any, quantile: Any, safe: int) -> None:
    """Eight callers, four servers, one killed each second for 60 s."""
    killed_servers(cluster, figures, quantile, askers=8, servers=4, seconds=60.0, safe=safe)


def test_a_stopped_server(cluster: Any, figures: Any) -> None:
    """Calls go to the other one once it has fallen silent; what timed out meanwhile does not start when it goes on."""
    for name in ("one", "other"):
        start(cluster, "serve", name, work_ms=1)
    for name in ("one", "other"):
        assert cluster.line(name) == "ready"
    start(cluster, "call", "caller", seconds=60, rate=50, timeout=0.5, servers=2)
    assert cluster.line("caller") == "ready"
    cluster.wait_for(lambda: len(logged(cluster, "one")) > 10 and len(logged(cluster, "other")) > 10, "calls at both")
    stopped_at = time.monotonic()
    cluster.signal("one", signal.SIGSTOP)
    time.sleep(3.0)
    continued_at = time.monotonic()
    cluster.signal("one", signal.SIGCONT)
    cluster.wait_for(lambda: any(at > continued_at + 0.2 for _, at in logged(cluster, "one")), "calls at both again")
    (cluster.folder / "caller.stop").touch()
    assert cluster.line("caller") == "done"
    calls, _ = found(cluster, "caller")
    missed = {call.number: call.asked_at - stopped_at for call in calls if call.outcome != "ok"}
    assert missed, "the stop was not noticed by any call"
    assert {call.outcome for call in calls if call.outcome != "ok"} <= {"TimedOut", "ServerLost"}
    figures("calls are lost for", f"{max(missed.values()):.2f} s after the stop", max(missed.values()) <= 2.1)
    started = [number for number, at in logged(cluster, "one") if at > continued_at and number in missed]
    assert not started, "what had timed out was started"


def test_all_of_ten(cluster: Any, figures: Any) -> None:
    """Of ten servers one is stopped and one dead: eight reply, and the others are named, at the timeout."""
    start(cluster, "serve_many", "eight", count=8)
    for name in ("stopped", "dead"):
        start(cluster, "serve_many", name, count=1)
    for name in ("eight", "stopped", "dead"):
        assert cluster.line(name) == "ready"
    with Node("asker") as node:
        node.client(WORK).ready(servers=10, timeout=60)
        cluster.signal("stopped", signal.SIGSTOP)
        cluster.kill("dead")
        asked_at = time.monotonic()
        got = node.gather(WORK, 5, timeout=1.0)
        took = time.monotonic() - asked_at
        figures("gather returns", f"after {took:.2f} s of 1 s", took <= 1.1)
        assert sorted(got.replies.values()) == [38] * 8
        missing = {got.names[node_id]: why for node_id, why in got.missing.items()}
        assert missing["stopped-0"] == "timed out"
        assert missing.get("dead-0", "lost") in ("lost", "timed out")


def test_a_name_that_nobody_serves(cluster: Any, figures: Any) -> None:
    """It is said at once, once the node is not new any more."""
    with Node("asker") as node:
        node.peers()
        time.sleep(2.0)
        asked_at = time.monotonic()
        with pytest.raises(NoServer):
            node.request("wrok", 1, reply_type=int, timeout=30)
        took = time.monotonic() - asked_at
        figures("nobody serves it", f"after {1000 * took:.1f} ms", took <= 0.02)


def both_at_once(cluster: Any, times: int) -> None:
    for number in range(times):
        start(cluster, "once", f"asker{number}")
        start(cluster, "serve", f"server{number}")
        assert cluster.line(f"asker{number}") == "ok", f"time {number}"
        cluster.kill(f"server{number}")
        cluster.kill(f"asker{number}")


def test_both_processes_started_at_once(cluster: Any) -> None:
    """A call does not fail because its server starts at the same time."""
    both_at_once(cluster, 2)


@pytest.mark.long
def test_both_processes_started_at_once_a_thousand_times(cluster: Any) -> None:
    """The full form."""
    both_at_once(cluster, 1000)


def beside_a_flood(cluster: Any, figures: Any, quantile: Any, seconds: float) -> None:
    start(cluster, "drain", "server")
    assert cluster.line("server") == "ready"
    start(cluster, "flood", "asker", seconds=seconds)
    assert cluster.line("asker") == "ready"
    assert cluster.line("asker") == "done"
    read = json.loads((cluster.folder / "asker.found").read_text())
    tail = quantile(read["latencies"], 0.99)
    rate = read["sent"] / seconds
    figures("a call beside a flood", f"p99 {1000 * tail:.1f} ms at {rate:,.0f} messages/s", tail <= 0.06)
    assert len(read["latencies"]) > 10


def test_a_call_beside_a_flood(cluster: Any, figures: Any, quantile: Any) -> None:
    """Messages at full rate to the same peer do not stop calls."""
    beside_a_flood(cluster, figures, quantile, 1.5)


@pytest.mark.long
def test_a_call_beside_a_flood_for_longer(cluster: Any, figures: Any, quantile: Any) -> None:
    """The full form."""
    beside_a_flood(cluster, figures, quantile, 20.0)
