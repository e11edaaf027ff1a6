"""The page of `peerfabric ui` over real processes: what they do is seen, and what becomes of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


DOCUMENT = (Path(__file__).parents[2] / "docs/dashboard.md").read_text()
COMMANDS = re.findall(r"^```sh\n(peerfabric [\w ]+)\n```$", DOCUMENT, re.M)
"""Those of docs/dashboard.md that are run here: `ui`, and `gateway`."""


@contextmanager
def running(command: str, *further: str) -> Iterator[dict[str, Any]]:
    """What a command first says as JSON, while it runs; SIGTERM ends it well."""
    line = [sys.executable, "-m", "peerfabric.nodes.cli.main", *command.split()[1:], *further, "-o", "json"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, process.communicate(timeout=DEADLINE)
        yield json.loads(said)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def url(runtime: Path, start: Callable[..., Child]) -> Iterator[str]:
    """Where the page of `peerfabric ui` is. Of the file that leads there nothing is left.

    It ends before `start` does, which removes the files of all processes once one was killed.
    """
    with running(COMMANDS[0], "--no-browser") as said:
        [leading] = runtime.glob("~ui-*.html")
        assert leading.stat().st_mode & 0o777 == 0o600
        yield said["url"]
        assert leading.exists(), "files were removed while it ran"
    assert not leading.exists()


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


def test_real_processes_are_acted_on(browser: Any, runtime: Path, start: Callable[..., Child]) -> None:
    """From the page of `peerfabric gateway`, with the token whose file it names."""
    kitchen = start(CONSUMER)
    context = browser.new_context()
    try:
        with running(COMMANDS[1], "--listen", "127.0.0.1:0") as said:
            page = context.new_page()
            page.set_default_timeout(1000 * DEADLINE)
            page.goto(said["listen"])
            page.get_by_label("Token").fill(Path(said["token_file"]).read_text().strip())
            page.get_by_label("Token").press("Enter")
            row(page, "orders").click()
            page.get_by_role("button", name="Pause").click()
            page.locator(".head .badge", has_text="paused at 1 of 1").wait_for()
            page.get_by_role("button", name="Resume").click()
            page.locator(".head .badge").wait_for(state="detached")
            kitchen.process.kill()
            page.get_by_text("Not known here now.").wait_for()
            page.goto("about:blank")
        Path(said["token_file"]).unlink()
    finally:
        context.close()
