"""Node of a pipeline over hosts: `worker.py produce|consume NAME OPTIONS`, started by its path; options are JSON.

The producer is also the collector. It sends `burst` numbers and then `rate` a second, until a line on its standard
input says `stop`; then it waits until all are settled, and prints its account and how many results it has collected.
Workers take a number, work on it for `work` seconds, until there is a file `hurry`, and send it back. All write what
happens with monotonic instants, which are the same on every host: workers `S NUMBER ATTEMPT INSTANT` before the work
and `E NUMBER 0 INSTANT` after it, before the ack.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from typing import Any

from peerfabric import IdentityInUse, Node, Options

WORK, RESULTS = "work", "results"


class Journal:
    """A file that takes a line by one call of the system, so that SIGKILL tears none."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._file, f"{' '.join(map(str, words))} {time.monotonic():.4f}\n".encode())


def watch(node: Node, journal: Journal) -> None:
    """Write down each change of what the node believes of its peers, as `P NAME STATE:REASON INSTANT`."""
    before: dict[str, str] = {}
    while True:
        now = {peer.name: f"{peer.state}:{peer.reason}" for peer in node.peers() if peer.name}
        for name in before.keys() | now.keys():
            if before.get(name) != now.get(name):
                journal.write("P", name, now.get(name, "none:"))
        before = now
        time.sleep(0.02)


def produce(node: Node, journal: Journal, options: dict[str, Any]) -> None:
    queue = node.producer(WORK, bytes, max_attempts=1000)
    results = node.consumer(RESULTS, int)
    collected: set[int] = set()
    stopped, ended = threading.Event(), threading.Event()

    def collect() -> None:
        for message in results:
            with message as number:
                collected.add(number)
            if ended.is_set():
                return

    def listen() -> None:
        for line in sys.stdin:
            if line == "stop\n":
                stopped.set()

    for target in (collect, listen, lambda: watch(node, journal)):
        threading.Thread(target=target, daemon=True).start()
    padding = bytes(options["body_bytes"])
    sent, began_at = 0, time.monotonic()
    while not stopped.is_set():
        due = options["burst"] + int((time.monotonic() - began_at) * options["rate"])
        while sent < due:
            queue.send(sent.to_bytes(8, "big") + padding)
            sent += 1
        stopped.wait(0.01)
    print("sent", sent, flush=True)
    queue.flush()
    account = node.statistics().producers[0]
    counters = {name: count for name, count in node.statistics().counters.items() if count}
    told = {"closes": account.closes, "acked": account.acked, "redelivered": account.redelivered}
    print("settled", json.dumps(told | {"accepted": account.accepted, "counters": counters}), flush=True)
    end = time.monotonic() + options["collect_within"]
    while len(collected) < sent and time.monotonic() < end:
        time.sleep(0.01)
    print("collected", len(collected), flush=True)


def consume(node: Node, journal: Journal, options: dict[str, Any]) -> None:
    queue = node.consumer(WORK, bytes)
    results = node.producer(RESULTS, int)
    threading.Thread(target=lambda: watch(node, journal), daemon=True).start()

    for message in queue:
        with message as body:
            number = int.from_bytes(body[:8], "big")
            journal.write("S", number, message.attempt)
            if not os.path.exists(options["hurry"]):
                time.sleep(options["work"])
            results.send(number)
            journal.write("E", number, 0)


def main(role: str, name: str, options: dict[str, Any]) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", level=options.get("log", "INFO"))
    with Node(name, options=Options(**options["options"]), **options["node"]) as node:
        print("ready", flush=True)
        roles = {"produce": produce, "consume": consume}
        roles[role](node, Journal(options["journal"]), options)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
    except IdentityInUse as error:
        print(error, flush=True)
