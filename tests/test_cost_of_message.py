"""Cost of one message in Python calls and files: what a warm `send(confirm="processed")` runs through on both sides.

Times depend on the machine; calls do not, and half of the time of a round trip is code that is no longer in a cache.
Both nodes are in one process, so each call of either is counted, those of their own threads among them. Of several
rounds the cheapest counts: a round may contain turns that are due to the clock.

Run as a program, with `spooled`, with `call` or without, this prints which functions of which files are called how
often.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import pytest

CALLS: Final = 300
FILES: Final = 33
SPOOLED_CALLS: Final = 345
SPOOLED_FILES: Final = 45
CALL_CALLS: Final = 120
CALL_FILES: Final = 25
CALL_WAKES: Final = 2.4
"""Of a call from a thread: one that answers, and the one that asks."""
WAKES: Final = 4.4
"""Of threads that sleep: on each side the pump, when it is handed something, and the thread that waits for it."""

LINES: Final = 700

ROOT = Path(__file__).parents[1]
COUNT = """
import collections, json, sys, threading
from peerfabric import Node, Service

ROUNDS, MESSAGES = 40, 20
calls, total, native, counting = collections.Counter(), collections.Counter(), 0, False

def count(frame, event, argument):
    global native
    if not counting:
        return
    if event == "call":
        if frame.f_globals.get("__name__", "").startswith("peerfabric."):
            calls[frame.f_code.co_filename, frame.f_code.co_qualname] += 1
    elif event == "c_call":
        native += 1

threading.setprofile(count)
rounds = []
ECHO = Service("echo", int, int)

def measure(one):
    global native, counting
    for _ in range(300):
        one()
    sys.setprofile(count)
    for _ in range(ROUNDS):
        calls.clear()
        native, counting = 0, True
        for _ in range(MESSAGES):
            one()
        counting = False
        files = collections.Counter()
        for (name, _), n in calls.items():
            files[name] += n
        often = sum(n >= MESSAGES / 5 for n in files.values())
        rounds.append((sum(calls.values()) / MESSAGES, often, native / MESSAGES))
        total.update(calls)
    sys.setprofile(None)

with Node("a", spool=sys.argv[1] or None) as a, Node("b") as b:
    if sys.argv[2] == "call":
        @b.serve(ECHO)
        def answer(body: int) -> int:
            return body

        a.client(ECHO).ready()
        asker = threading.Thread(target=measure, args=(lambda: a.request(ECHO, 1),))
        asker.start()
        asker.join()
    else:
        producer = a.producer("jobs", int)

        @b.on_message("jobs")
        def handle(body: int) -> None:
            pass

        measure(lambda: producer.send(1, confirm="processed"))
threading.setprofile(None)
table = [(name, function, n / MESSAGES / ROUNDS) for (name, function), n in total.items()]
print(json.dumps([[min(each) for each in zip(*rounds)], table]))
"""


class Cost(NamedTuple):
    """Calls of our own functions, files in which most messages call one, calls of functions not written in Python."""

    calls: float
    files: int
    native: float


def measured(*, spooled: bool = False, kind: str = "message") -> tuple[Cost, list[tuple[str, str, float]]]:
    """What a message or a call costs in a process of its own; and what was called: file, name, how often."""
    with tempfile.TemporaryDirectory(prefix="pf") as folder:
        environment = os.environ | {"PEERFABRIC_RUNTIME": f"{folder}/run", "PEERFABRIC_FABRIC": "cost"}
        command = [sys.executable, "-c", COUNT, f"{folder}/spool" if spooled else "", kind]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert not done.stderr
    found, table = json.loads(done.stdout)
    return Cost(*found), [(os.path.relpath(file, ROOT), name, calls) for file, name, calls in table]


def print_table(*, spooled: bool, kind: str) -> None:
    """What is called at least once in five messages, by file, most called first."""
    found, table = measured(spooled=spooled, kind=kind)
    print(f"{found.calls:.0f} calls in {found.files} files, {found.native:.0f} native calls")
    files: dict[str, list[tuple[float, str]]] = {}
    for file, name, calls in table:
        files.setdefault(file, []).append((calls, name))
    for file, functions in sorted(files.items(), key=lambda each: -sum(calls for calls, _ in each[1])):
        calls = sum(calls for calls, _ in functions)
        if calls >= 0.2:
            print(f"{calls:7.1f} {file}")
        for each, name in sorted(functions, reverse=True):
            if each >= 0.2:
                print(f"{each:15.1f} {name}")


STAGE = """
import sys, threading, time
from peerfabric import Node

calls, counting, name = 0, False, "peerfabric-work-0"
MESSAGES = 2000

def count(frame, event, argument):
    global calls
    if counting and event == "call" and frame.f_globals.get("__name__", "").startswith("peerfabric."):
        calls += threading.current_thread().name == name

threading.setprofile(count)
with Node("a") as a, Node("b") as b, Node("c") as c:
    source, out, handled = a.producer("jobs", int), b.producer("done", int), 0

    @b.on_message("jobs", ack_after=sys.argv[1])
    def work(body: int) -> None:
        global handled
        out.send(body)
        handled += 1

    @c.on_message("done")
    def end(body: int) -> None:
        pass

    for first in (0, MESSAGES):
        counting = first > 0
        source.send_many(range(first, first + MESSAGES))
        source.flush(timeout=100)
        out.flush(timeout=100)
print(calls / MESSAGES)
"""
STAGE_CALLS: Final = 6.2
"""A call of the handler, its send and its ack; nothing for what is handed on."""


@pytest.mark.parametrize("after", ["return", "outputs"])
def test_stage_of_a_pipeline(after: str, tmp_path: Path) -> None:
    """That an ack waits for what its handler sends costs the handler's thread no call."""
    environment = os.environ | {"PEERFABRIC_RUNTIME": f"{tmp_path}/run", "PEERFABRIC_FABRIC": "stage"}
    command = [sys.executable, "-c", STAGE, after]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) <= STAGE_CALLS, done


@pytest.mark.parametrize(
    ("spooled", "calls", "files"),
    [(False, CALLS, FILES), (True, SPOOLED_CALLS, SPOOLED_FILES)],
    ids=["in memory", "spooled"],
)
def test_confirmed_send(*, spooled: bool, calls: int, files: int) -> None:
    """A message that is sent, handled and confirmed costs no more calls, files and wake-ups."""
    found, table = measured(spooled=spooled)
    print(f"{found.calls:.0f} calls in {found.files} files, {found.native:.0f} native calls")
    assert (found.calls <= calls, found.files <= files) == (True, True), found
    wakes = sum(each for _, name, each in table if name in ("Doorbell.silence", "ThreadWaiter.wake"))
    assert wakes <= WAKES or spooled, wakes


def test_call_of_a_service() -> None:
    """A question of a thread, its handler and its answer cost no more calls, files and wake-ups."""
    found, table = measured(kind="call")
    print(f"{found.calls:.0f} calls in {found.files} files, {found.native:.0f} native calls")
    assert (found.calls <= CALL_CALLS, found.files <= CALL_FILES) == (True, True), found
    wakes = sum(each for _, name, each in table if name in ("Doorbell.silence", "ThreadWaiter.wake"))
    assert wakes <= CALL_WAKES, wakes


def test_no_file_is_too_long() -> None:
    """No file of ours has more lines than one can keep in mind."""
    paths = [path for folder in ("fabric", "nodes", "discovery") for path in (ROOT / folder).rglob("*.py")]
    assert paths
    long = {str(path.relative_to(ROOT)) for path in paths if path.read_text().count("\n") > LINES}
    assert not long, f"over {LINES} lines: {long}"


if __name__ == "__main__":
    print_table(spooled="spooled" in sys.argv[1:], kind="call" if "call" in sys.argv[1:] else "message")
