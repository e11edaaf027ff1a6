"""The recipes of docs/recipes.md, each run as it stands there."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
PROGRAMS = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", TEXT, re.S | re.M))
UNITS = dict(re.findall(r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```$", TEXT, re.S | re.M))
DEADLINE = 60.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """The recipes' programs, in a short path, as paths of sockets have a limit."""
    with tempfile.TemporaryDirectory(prefix="pf-", dir="/tmp") as name:
        for program, text in PROGRAMS.items():
            (Path(name) / program).write_text(text)
        yield Path(name)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts commands there, in a fabric of this test's own, and ends what still runs."""
    environment = os.environ | {
        "PEERFABRIC_RUNTIME": str(folder / "run"),
        "PEERFABRIC_FABRIC": "recipes",
        "PYTHONUNBUFFERED": "1",
    }
    started: list[subprocess.Popen[str]] = []

    def begin(*command: str, **options: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True} | options
        started.append(subprocess.Popen(command, cwd=folder, env=environment, **options))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def post(port: int, body: object) -> int:
    """The status of the answer; 0: nobody answers there yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("POST", "/orders", json.dumps(body), {"content-type": "application/json"})
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def test_an_api_with_workers(start: Start) -> None:
    """Orders over HTTP, taken by a worker that is another process, also those from before it was there."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = ("-m", "uvicorn", "api:app", "--workers", "2", "--port", str(port), "--log-level", "warning")
    start(sys.executable, *command, stdout=subprocess.DEVNULL)
    end = time.monotonic() + DEADLINE
    while (status := post(port, {"number": 1, "dish": "tea"})) == 0:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert status == 202
    assert post(port, {"number": "one"}) == 422
    worker = start(sys.executable, "worker.py")
    assert line_of(worker) == "cooked 1"
    assert post(port, {"number": 2, "dish": "jam"}) == 202
    assert line_of(worker) == "cooked 2"


def test_a_pipeline(start: Start) -> None:
    """Two stages, of which one is killed."""
    sink = start(sys.executable, "sink.py")
    killed = start(sys.executable, "stage.py")
    start(sys.executable, "stage.py")
    source = start(sys.executable, "source.py")
    killed.kill()
    assert line_of(sink) == f"the sum is {sum(n * n for n in range(1000))}"
    assert source.communicate(timeout=DEADLINE)[0] == "all through\n"
    assert source.returncode == 0


def test_a_scheduled_job(start: Start) -> None:
    """It ends at once though nobody consumes; what two runs have left is delivered without them."""
    for _ in range(2):
        job = start(sys.executable, "nightly.py", stderr=subprocess.PIPE)
        _, complaints = job.communicate(timeout=DEADLINE)
        assert (job.returncode, complaints) == (0, "")
    [command] = re.findall(r"^peerfabric (spool serve nightly-spool)", TEXT, re.M)
    start(sys.executable, "-m", "peerfabric.nodes.cli.main", *command.split())
    took = start(sys.executable, "-m", "peerfabric.nodes.cli.main", "take", "reports", "-n", "2", "--timeout", "60")
    out, _ = took.communicate(timeout=DEADLINE)
    assert took.returncode == 0
    assert out.count('"day"') == 2


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare on this machine")
def test_a_container_and_its_first_process(start: Start, folder: Path) -> None:
    """As PID 1 of a namespace of its own, told to end, the worker ends well; the signal is not lost."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a namespace of processes needs root")
    (command,) = re.findall(r'^CMD \["python", "(\w+\.py)"\]$', TEXT, re.M)
    program = folder / "first.py"
    program.write_text(f"import os\nprint(os.getpid(), flush=True)\n{PROGRAMS[command]}")
    outer = start("unshare", "--pid", "--fork", "--kill-child", sys.executable, str(program))
    assert line_of(outer) == "1"
    sent = start(sys.executable, "-m", "peerfabric.nodes.cli.main", "send", "orders", '{"number": 7, "dish": "x"}')
    assert line_of(outer) == "cooked 7"
    sent.communicate(timeout=DEADLINE)
    assert sent.returncode == 0
    (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
    os.kill(int(inner), signal.SIGTERM)
    outer.communicate(timeout=DEADLINE)
    assert outer.returncode == 0


def test_a_test(start: Start) -> None:
    """It passes, and would not if the handler took stones."""
    done = start(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_cooking.py")
    assert "1 passed" in done.communicate(timeout=DEADLINE)[0]


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_it(unit: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say of it, but that the program is not installed here."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNITS[unit], flags=re.M)
    (tmp_path / unit).write_text(re.sub(r"^User=.*$", "User=root", text, flags=re.M))
    if unit.endswith(".timer"):
        (tmp_path / unit.replace(".timer", ".service")).write_text(f"[Service]\nExecStart={sys.executable}\n")
    command = [analyze, "verify", "--man=no", str(tmp_path / unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if unit.partition(".")[0] in line] == [], done.stderr
