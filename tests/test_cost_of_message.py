"""Cost of one message in Python calls and files: what a warm `send(confirm="processed")` runs through on both sides.

Times depend on the machine; calls do not, and half of the time of a round trip is code that is no longer in a cache.
Both nodes are in one process, so each call of either is counted, those of their own threads among them. Of several
rounds the cheapest counts: a round may contain turns that are due to the clock.
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

CALLS: Final = 720
FILES: Final = 52
SPOOLED_CALLS: Final = 740
SPOOLED_FILES: Final = 66

LINES: Final = 700
TOO_LONG: Final = {"fabric/link/links.py", "fabric/queue/incoming.py"}
"""Nothing is added here; what has become short enough is taken out."""

ROOT = Path(__file__).parents[1]
COUNT = """
import collections, json, sys, threading
from peerfabric import Node

ROUNDS, MESSAGES = 40, 20
calls, native, counting = collections.Counter(), 0, False

def count(frame, event, argument):
    global native
    if not counting:
        return
    if event == "call":
        if frame.f_globals.get("__name__", "").startswith("peerfabric."):
            calls[frame.f_code.co_filename] += 1
    elif event == "c_call":
        native += 1

threading.setprofile(count)
rounds = []
with Node("a", spool=sys.argv[1] or None) as a, Node("b") as b:
    producer = a.producer("jobs", int)

    @b.on_message("jobs")
    def handle(body: int) -> None:
        pass

    for _ in range(300):
        producer.send(1, confirm="processed")
    sys.setprofile(count)
    for _ in range(ROUNDS):
        calls.clear()
        native, counting = 0, True
        for _ in range(MESSAGES):
            producer.send(1, confirm="processed")
        counting = False
        files = sum(n >= MESSAGES / 5 for n in calls.values())
        rounds.append((sum(calls.values()) / MESSAGES, files, native / MESSAGES))
    sys.setprofile(None)
threading.setprofile(None)
print(json.dumps([min(each) for each in zip(*rounds)]))
"""


class Cost(NamedTuple):
    """Calls of our own functions, files in which most messages call one, calls of functions not written in Python."""

    calls: float
    files: int
    native: float


def cost(*, spooled: bool) -> Cost:
    """What a message costs in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="pf") as folder:
        environment = os.environ | {"PEERFABRIC_RUNTIME": f"{folder}/run", "PEERFABRIC_FABRIC": "cost"}
        command = [sys.executable, "-c", COUNT, f"{folder}/spool" if spooled else ""]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert not done.stderr
    return Cost(*json.loads(done.stdout))


@pytest.mark.parametrize(
    ("spooled", "calls", "files"),
    [(False, CALLS, FILES), (True, SPOOLED_CALLS, SPOOLED_FILES)],
    ids=["in memory", "spooled"],
)
def test_confirmed_send(*, spooled: bool, calls: int, files: int) -> None:
    """A message that is sent, handled and confirmed costs no more calls, and leads through no more files."""
    found = cost(spooled=spooled)
    print(f"{found.calls:.0f} calls in {found.files} files, {found.native:.0f} native calls")
    assert (found.calls <= calls, found.files <= files) == (True, True), found


def test_no_file_is_too_long() -> None:
    """No file of ours has more lines than one can keep in mind."""
    paths = [path for folder in ("fabric", "nodes", "discovery") for path in (ROOT / folder).rglob("*.py")]
    assert paths
    long = {str(path.relative_to(ROOT)) for path in paths if path.read_text().count("\n") > LINES}
    assert long <= TOO_LONG, f"over {LINES} lines: {long - TOO_LONG}"
