"""Code of docs/gateway.md, run as it stands there; only the port is another one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.nodes.conftest import DEADLINE, eventually

PAGE = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()
HERE = f"tests/gateway/{Path(__file__).name}"


def blocks(language: str) -> list[str]:
    """Those of which the page says that they are run here."""
    marked = rf"^<!-- run elsewhere: {HERE} -->\n"
    return re.findall(rf"{marked}```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def bash(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start what a person would type, in the folder of this test."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    running: list[subprocess.Popen[str]] = []

    def start(text: str) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                ["bash", "-ec", text], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=DEADLINE)
    for path in runtime.rglob("*"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def test_the_first_order(bash: Any, runtime: Path, tmp_path: Path, port: int) -> None:
    start, send, batch = (block.replace("7780", str(port)) for block in blocks("sh"))
    (tmp_path / "kitchen.py").write_text(blocks("python")[0])
    gate = bash(f"exec {start.strip()} --listen 127.0.0.1:{port}")
    assert gate.stdout.readline() == f"listening at http://127.0.0.1:{port}\n"

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/openapi.json").status_code == 200
        except httpx.TransportError:
            return False

    eventually(answers, "the gateway's start")
    said, _ = bash(f"{send}\necho\n{batch}").communicate(timeout=DEADLINE)
    one, several = map(json.loads, said.splitlines())
    assert one["state"] == "stored"
    assert several["accepted"] == 2
    kitchen = bash("exec python kitchen.py")
    assert sorted(kitchen.stdout.readline() for _ in range(3)) == ["cooking cake\n", "cooking tea\n", "cooking tea\n"]


def test_the_site(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of the page with secrets of full length; a queue that takes orders, and nothing else."""
    [lines] = re.findall(r"^```text\n(# name:scope.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    tokens = tmp_path / "tokens"
    tokens.write_text(lines.replace("…", "0123456789"))
    tokens.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "site_of_the_page"}
    monkeypatch.setitem(sys.modules, "site_of_the_page", type(sys)("site_of_the_page"))
    code = blocks("python")[1]
    exec(compile(code, "site.py", "exec", dont_inherit=True), names)

    async def ask() -> list[int]:
        app = names["app"]
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client,
        ):
            headers = {"authorization": "Bearer 3q2-7wAB0123456789"}
            url = "/fabric/v1/queues/{}/messages"
            return [
                (await client.post(url.format(queue), json=body, headers=headers)).status_code
                for queue, body in (("orders", 1), ("orders.eu", 1))
            ]

    assert asyncio.run(ask()) == [403, 202]
