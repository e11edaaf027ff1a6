"""A process of a chaos run of services: `service_worker.py KIND NAME FOLDER key=value …`, by path.

A server writes each call into its log, with O_APPEND in one call, before it answers: what was answered was logged.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from peerfabric import FabricError, Node, Service

WORK = Service("work", int, int)
SAFE = Service("safe", int, int, idempotent=True)


def answer(number: int) -> int:
    """What everybody knows to be the right answer."""
    return 7 * number + 3


def serve(name: str, folder: str, work_ms: float = 0.0) -> None:
    """Answer until killed."""
    log = os.open(os.path.join(folder, f"{name}.calls"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    node = Node(name)

    def handle(number: int) -> int:
        os.write(log, f"{number} {time.monotonic()}\n".encode())
        if work_ms:
            time.sleep(work_ms / 1000)
        return answer(number)

    for service in (WORK, SAFE):
        node.serve(service)(handle)
    with node:
        print("ready", flush=True)
        threading.Event().wait()


def serve_many(name: str, folder: str, count: int = 8) -> None:
    """Several servers in one process."""
    with ExitStack() as stack:
        for number in range(int(count)):
            node = Node(f"{name}-{number}")
            node.serve(WORK)(answer)
            stack.enter_context(node)
        print("ready", flush=True)
        threading.Event().wait()


def call(
    name: str,
    folder: str,
    first: int = 0,
    rate: float = 0.0,
    seconds: float = 1.0,
    timeout: float = 2.0,
    safe: int = 0,
    servers: int = 1,
    until: float = 0.0,
) -> None:
    """Ask at `rate` a second, 0: as fast as it goes, and leave what came of each call in a file."""
    service = SAFE if safe else WORK
    found: list[tuple[int, float, float, str]] = []
    with Node(name) as node:
        client = node.client(service)
        client.ready(servers=int(servers), timeout=60)
        print("ready", flush=True)
        stop = Path(folder) / f"{name}.stop"
        began_at = time.monotonic()
        number = int(first)
        while time.monotonic() - began_at < seconds and not stop.exists():
            number += 1
            if rate:
                time.sleep(max(0.0, began_at + (number - first) / rate - time.monotonic()))
            asked_at = time.monotonic()
            try:
                outcome = "ok" if client(number, timeout=timeout) == answer(number) else "WRONG"
            except FabricError as error:
                outcome = type(error).__name__
                if "may have run" not in str(error):
                    outcome += " (not run)"
            found.append((number, asked_at, time.monotonic() - asked_at, outcome))
        took = time.monotonic() - began_at
        Path(folder, f"{name}.found").write_text(json.dumps({"took": took, "calls": found}))
        print("done", flush=True)


def flood(name: str, folder: str, seconds: float = 5.0) -> None:
    """Send as fast as it goes, and ask the same peer meanwhile."""
    latencies: list[float] = []
    with Node(name) as node:
        producer = node.producer("flood", bytes)
        producer.ready(timeout=60)
        client = node.client(WORK)
        client.ready(timeout=60)
        print("ready", flush=True)
        over = threading.Event()

        def send() -> None:
            bodies = [bytes(128)] * 10_000
            while not over.is_set():
                producer.send_many(bodies)

        sending = threading.Thread(target=send)
        sending.start()
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            asked_at = time.monotonic()
            assert client(1, timeout=30) == answer(1)
            latencies.append(time.monotonic() - asked_at)
        over.set()
        sending.join()
        sent = node.statistics().producers[0].accepted
        Path(folder, f"{name}.found").write_text(json.dumps({"sent": sent, "latencies": latencies}))
        print("done", flush=True)
        producer.flush(timeout=60)


def drain(name: str, folder: str) -> None:
    """Answer, and take what `flood` sends."""
    with Node(name) as node:
        node.serve(WORK)(answer)
        batches = node.consumer("flood", bytes).batches()
        print("ready", flush=True)
        for batch in batches:
            batch.ack()


def once(name: str, folder: str) -> None:
    """One call, as soon as the process is there."""
    with Node(name) as node:
        try:
            print("ok" if node.request(WORK, 1, timeout=20) == answer(1) else "WRONG", flush=True)
        except FabricError as error:
            print(type(error).__name__, flush=True)


def main() -> None:
    kind, name, folder, *options = sys.argv[1:]
    given: dict[str, Any] = {key: float(value) for key, value in (option.split("=") for option in options)}
    globals()[kind](name, folder, **given)


if __name__ == "__main__":
    main()
