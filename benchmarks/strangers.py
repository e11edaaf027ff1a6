"""Measure strangers at the gate of a node: `benchmarks/strangers.py [SECONDS] [SILENT]`.

A producer sends to a consumer, both with a secret, over TCP on loopback: alone; beside a process that tries 1,000
handshakes a second under another secret; and beside one that opens SILENT connections (2,000) and says nothing. For
each the table shows the time until a message is processed, and what the consumer's process used of a processor; then
how long it takes until the descriptors of the silent ones are back.
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import zmq

from peerfabric import Node
from peerfabric.secret import new_secret

RATE = 1_000
CALLERS = 88
"""Sockets that try again after 50 to 100 ms each, which is the rate."""
PAUSE = 0.005
PATIENCE = 60.0


def consume(port: int, secret: str) -> None:
    """The node at the gate."""
    settings: dict[str, Any] = {"fabric": "bench", "discovery": ("static",), "secret": f"file:{secret}"}
    with Node("gate", listen=f"tcp://127.0.0.1:{port}", **settings) as node:

        @node.on_message("work")
        def handle(body: bytes) -> None:
            pass

        print("ready", flush=True)
        signal.pause()


def knock(port: int) -> None:
    """Try handshakes under a key that is not the gate's; print how many failed in each second."""
    context = zmq.Context[zmq.Socket[bytes]]()
    poller, callers = zmq.Poller(), []
    for _ in range(CALLERS):
        push = context.socket(zmq.PUSH)
        push.reconnect_ivl = 50
        public, push.curve_secretkey = zmq.curve_keypair()
        push.curve_publickey = public
        push.curve_serverkey = zmq.curve_keypair()[0]
        callers.append(push)
        poller.register(push.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL), zmq.POLLIN)
        push.connect(f"tcp://127.0.0.1:{port}")
    failed, since = 0, time.monotonic()
    while True:
        for monitor, _ in poller.poll(100):
            while monitor.poll(0):
                monitor.recv_multipart()
                failed += 1
        if time.monotonic() - since >= 1.0:
            print(round(failed / (time.monotonic() - since)), flush=True)
            failed, since = 0, time.monotonic()


def keep_silent(port: int, count: int) -> None:
    """Connect and say nothing; say when all are connected, and stay."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    kept = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    print(len(kept), flush=True)
    signal.pause()


def processor_time(pid: int) -> float:
    """Seconds of a processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> float:
    """MiB of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def measure(title: str, producer: Any, pid: int, seconds: float) -> None:
    """Send one by one, and print a line of the table."""
    times, began, used = [], time.perf_counter(), processor_time(pid)
    while (sent_at := time.perf_counter()) - began < seconds:
        producer.send(b"x" * 128, confirm="processed", timeout=PATIENCE)
        times.append(time.perf_counter() - sent_at)
        time.sleep(PAUSE)
    percent = 100 * (processor_time(pid) - used) / (time.perf_counter() - began)
    p99 = quantiles(times, n=100)[98]
    print(f"{title:36}  p50 {1e3 * median(times):6.2f} ms   p99 {1e3 * p99:6.2f} ms   {percent:5.1f} % of a processor")


def main(seconds: float, silent: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pf") as folder:
        os.environ["PEERFABRIC_RUNTIME"] = folder
        secret = Path(folder) / "secret"
        secret.touch(mode=0o600)
        secret.write_text(new_secret(secrets.token_bytes(32)).text())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        children = [start("consume", port, secret)]
        try:
            gate = children[0].pid
            assert said(children[0]) == "ready"
            with Node("p", fabric="bench", secret=f"file:{secret}", peers=[f"tcp://127.0.0.1:{port}"]) as node:
                producer = node.producer("work", bytes)
                producer.ready(timeout=PATIENCE)
                print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, {seconds:g} s each")
                measure("alone", producer, gate, seconds)
                children.append(start("knock", port))
                rates = [int(said(children[-1]))]
                measure(f"wrong handshakes, some {RATE}/s", producer, gate, seconds)
                children[-1].kill()
                rates += map(int, children[-1].communicate()[0].split())
                print(f"{'':36}  {median(rates):,.0f}/s were tried")
                before, memory = descriptors(gate), resident(gate)
                children.append(start("silent", port, silent))
                most = 0
                assert said(children[-1]) == str(silent)
                connected = time.monotonic()
                grown = resident(gate) - memory
                while (now := descriptors(gate)) > before + 2:
                    most = max(most, now - before)
                    assert time.monotonic() - connected < PATIENCE
                    time.sleep(0.01)
                back = time.monotonic() - connected
                title = f"{silent:,} silent connections"
                print(f"{title:36}  up to {most} open, +{grown:.1f} MiB, back after {back:.1f} s")
                measure("while they stay", producer, gate, seconds)
        finally:
            for child in children:
                child.kill()
                child.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["consume", port, secret]:
            consume(int(port), secret)
        case ["knock", port]:
            knock(int(port))
        case ["silent", port, count]:
            keep_silent(int(port), int(count))
        case given:
            seconds, silent = [*given, *["10", "2000"][len(given) :]]
            main(float(seconds), int(silent))
