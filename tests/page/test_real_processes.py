"""The page of `peerfabric ui` over real processes: what they do is seen, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes.conftest import DEADLINE, Child
from tests.page.test_page import LATE, cell, row

PRODUCER = """
from peerfabric import Node

with Node("shop") as node:
    orders = node.producer("orders", int)
    print("up", flush=True)
    for line in iter(input, "end"):
        orders.send_many(list(range(int(line))))
"""
CONSUMER = """
from peerfabric import Node

with Node("kitchen") as node:
    with node.consumer("orders", int).get() as order:
        print("has", order, flush=True)
        input()
"""


@pytest.fixture
def url(runtime: Path) -> Iterator[str]:
    """Where the page of `peerfabric ui` is."""
    command = [sys.executable, "-m", "peerfabric.nodes.cli.main", "ui", "--no-browser", "-o", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=DEADLINE)
        [leading] = runtime.glob("~ui-*.html")
        assert leading.stat().st_mode & 0o777 == 0o600
        yield json.loads(line)["url"]
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=DEADLINE)
        assert (process.returncode, out, errors) == (0, "", "")
        assert not leading.exists()
    finally:
        process.kill()
        process.communicate()


def test_real_processes_are_seen(browser: Any, url: str, start: Callable[..., Child]) -> None:
    """A queue that grows, what a handler has, a process that is stopped, and one that is killed."""
    shop = start(PRODUCER)
    assert shop.line() == "up"
    context = browser.new_context(viewport={"width": 1360, "height": 820})
    try:
        page = context.new_page()
        page.set_default_timeout(1000 * DEADLINE)
        page.goto(url)
        row(page, "orders").wait_for()
        began = time.monotonic()
        shop.write("1234")
        page.locator('td[data-title="Waiting"]', has_text="1,234").wait_for()
        assert time.monotonic() - began < 2 + LATE
        kitchen = start(CONSUMER)
        assert kitchen.line() == "has 0"
        page.locator('td[data-title="Running"]', has_text="1").wait_for()
        assert cell(page, "orders", "Consumers") == "1"
        page.evaluate("location.hash = '#/nodes'")
        row(page, "kitchen").wait_for()
        os.kill(kitchen.process.pid, signal.SIGSTOP)
        page.locator("tr.silent", has_text="kitchen").wait_for()
        began = time.monotonic()
        kitchen.process.kill()
        row(page, "kitchen").wait_for(state="detached")
        assert time.monotonic() - began < 5 + LATE
    finally:
        context.close()
    shop.process.kill()
