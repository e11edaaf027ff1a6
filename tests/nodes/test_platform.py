"""Platform: a node on a system that has nothing of what only Linux has."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, select, sys, time
del select.epoll, os.eventfd, time.CLOCK_BOOTTIME, os.pwritev, os.posix_fallocate, os.fdatasync
from peerfabric import Node
served = []
def serve(order: int) -> None:
    served.append(order)
with Node("shop", spool=sys.argv[1]) as shop, Node("kitchen") as kitchen:
    kitchen.on_message("orders", concurrency=2)(serve)
    prices = kitchen.subscriber("prices", int)
    orders, rates = shop.producer("orders", int), shop.publisher("prices", int)
    rates.ready(timeout=30)
    rates.publish(7)
    orders.send_many(range(1000))
    orders.flush(timeout=30)
    print(sorted(served) == list(range(1000)), prices.get(timeout=30).body)
"""


@pytest.mark.usefixtures("runtime")
def test_a_node_without_what_only_linux_has(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues, handlers, topics and a spool work with the portable ways alone."""
    monkeypatch.setenv("PEERFABRIC_PORTABLE", "1")
    command = [sys.executable, "-P", "-c", SCRIPT, f"{tmp_path}/spool"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.stdout, done.stderr) == ("True 7\n", "")
