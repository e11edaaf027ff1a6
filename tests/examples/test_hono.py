"""The orders of examples/hono-orders, run as examples/hono-orders/README.md says; needs Node and its packages."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/hono-orders"
BLOCKS = re.findall(r"^```sh\n# (\d).*?\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.S | re.M)
COMMANDS = dict(BLOCKS)
"""What README.md says to type, by terminal."""
DEADLINE = 90.0
OFFLINE = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED|network")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A copy of the example with its packages, compiled; short, as the paths of sockets are limited."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node and npm")
    if int(subprocess.check_output(["node", "-p", "process.versions.node.split('.')[0]"], text=True)) < 20:
        pytest.skip("needs Node 20 or newer")
    with tempfile.TemporaryDirectory(prefix="pf", dir="/tmp") as name:
        copy = Path(name) / "hono"
        shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("node_modules", "dist", "orders-spool", "*.db*"))
        made = npm(copy, "ci", "--prefer-offline")
        if made.returncode and OFFLINE.search(made.stdout):
            pytest.skip("needs the packages of npm, which cannot be had here")
        assert made.returncode == 0, made.stdout
        yield copy


def npm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["npm", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def test_packages_name_no_server() -> None:
    """They come from whatever registry npm is set up with."""
    lock = json.loads((EXAMPLE / "package-lock.json").read_text())
    assert len(lock["packages"]) > 3
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]


def test_its_own_tests(folder: Path) -> None:
    """It is typed, and does what its own tests say, without a gateway."""
    done = npm(folder, "test")
    assert done.returncode == 0, done.stdout


class Terminal:
    """One command of README.md, in a session of its own."""

    def __init__(self, folder: Path, command: str, environment: dict[str, str]) -> None:
        self.said = folder / f"said-{len(list(folder.glob('said-*')))}"
        with self.said.open("w") as out:
            self.process = subprocess.Popen(
                ["bash", "-euc", command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, pattern: str) -> str:
        """What it says, once that is there."""
        end = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.said.read_text())):
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.02)
        return found[1] if found.re.groups else found[0]

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait()


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(folder: Path) -> Iterator[Open]:
    """Opens a terminal with a command of README.md, in which some words are replaced."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEERFABRIC_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PEERFABRIC_RUNTIME": str(folder.parent / "run"),
        "PEERFABRIC_FABRIC": "hono",
        "PYTHONUNBUFFERED": "1",
        "PORT": "0",
    }
    opened: list[Terminal] = []

    def begin(number: str, *replaced: tuple[str, str], **more: str) -> Terminal:
        command = COMMANDS[number]
        for old, new in replaced:
            assert old in command
            command = command.replace(old, new)
        opened.append(Terminal(folder, command, environment | more))
        return opened[-1]

    yield begin
    for each in opened:
        each.end()


def workers_of(gateway: Terminal) -> list[int]:
    """The pids of the worker processes: below the one that the terminal runs."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    ours = [gateway.process.pid]
    for pid in ours:
        ours += [child for child, parent in parents.items() if parent == pid]
    above = {parents[pid] for pid in ours[1:]}
    return [pid for pid in ours[1:] if pid not in above]


def post(url: str, body: Any) -> tuple[int, Any]:
    """Status and body of the answer."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    try:
        connection.request("POST", "/process-order", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_orders(folder: Path, terminal: Open) -> None:
    """What was answered with 202 is processed, once, though workers of the gateway and a consumer are killed."""
    gateway = terminal("1", ("peerfabric gateway", "peerfabric gateway --listen 127.0.0.1:0 -o json"))
    url = gateway.wait_for(r'"listen":"(http://[^"]+)"')
    gateway.wait_for('"ready":2')
    application = terminal("2", ("npm ci && npm run build", "test -d dist || npm run build"), FABRIC_URL=url)
    shop = application.wait_for(r"listening at (http://\S+)")
    consumer = terminal("3")

    client = terminal("4", ("http://127.0.0.1:3000", shop))
    assert client.wait_for(r'\{"order":"A-1","message":"[^"]+","state":"stored"\}')
    consumer.wait_for("processed A-1: 1 tea")

    first = post(shop, {"id": "A-1", "dish": "tea"})
    assert (first[0], first[1]["state"], first[1]["message"] in client.said.read_text()) == (202, "stored", True)
    assert post(shop, {"id": "A-1", "dish": "jam"})[0] == 409
    assert post(shop, {"id": "A-1"})[0] == 400

    accepted = set()
    for number in range(60):
        if number == 20:
            os.kill(workers_of(gateway)[0], signal.SIGKILL)
        if number == 40:
            consumer.end()
            consumer = terminal("3")
        status, answer = post(shop, {"id": f"B-{number}", "dish": "toast", "count": number + 1})
        assert status == 202, answer
        accepted.add((f"B-{number}", "toast", number + 1))
    done = sqlite3.connect(folder / "orders.db")
    end = time.monotonic() + DEADLINE
    while not accepted <= set(done.execute("SELECT id, dish, count FROM done")):
        assert time.monotonic() < end, accepted - set(done.execute("SELECT id, dish, count FROM done"))
        time.sleep(0.05)
    assert done.execute("SELECT count(*) FROM done").fetchone() == (61,)
    done.close()

    application.end(signal.SIGTERM)
    gateway.end(signal.SIGTERM)
    assert "Error" not in application.said.read_text()
