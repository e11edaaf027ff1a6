"""Each example, and each Python block of the README, runs as a user runs it: as a script, by its path."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerfabric.spool import Spool

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DEADLINE = 60.0

ALONE = {
    "handlers.py": {
        "paid 100 to alice at attempt 1",
        "given up: alice -5, rejected, nothing to pay",
        "given up: bob 200, attempts, bob has no account yet",
        "paid 200 to bob at attempt 1",
    },
    "confirm.py": {"queued", "not yet, and still ours: True", "took 1", "processed", "took 5", "5 acked"},
    "batches.py": {"200,000 numbers with the sum 19,999,900,000, each acked"},
    "pipeline.py": {"2,000 squares with the sum 2,664,667,000, and one stage of two was killed"},
    "asyncio_nodes.py": {"the sum is 9900"},
    "web_app.py": {"422 202", "cooked tea"},
    "static_peers.py": {"hello over tcp://127.0.0.1:7719"},
    "notebook.py": {"0", "1", "4", "9", "16"},
    "exact_sums.py": {"exact"},
}
PAIRS = {
    ("kitchen.py", "shop.py"): ["cooked tea", "cooked jam"],
    ("prices_subscriber.py", "prices_publisher.py"): ["prices.eur 1.08"],
    ("price_service.py", "price_asker.py"): ["asked for eur"],
}
SAYS = {"examples/price_asker.py": "1.08\nprices raised KeyError 'dem'\n", "README/price_asker.py": "1.08\n"}
"""What the second of a pair prints, if anything."""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Variables for a fabric of this test's own; short, since socket paths have a limit."""
    with tempfile.TemporaryDirectory(prefix="pf-", dir="/tmp") as folder:
        yield os.environ | {
            "PEERFABRIC_RUNTIME": folder,
            "PEERFABRIC_FABRIC": "examples",
            "PYTHONUNBUFFERED": "1",
        }


def run(path: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(path)], env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def run_pair(waiting: Path, ending: Path, environment: dict[str, str], expected: list[str], says: str = "") -> None:
    """Start `waiting`, run `ending` to its end, which prints `says`, and read from the first what it has to say."""
    first = subprocess.Popen([sys.executable, str(waiting)], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        second = run(ending, environment)
        assert (second.returncode, second.stdout, second.stderr) == (0, says, "")
        assert first.stdout is not None
        assert [first.stdout.readline().rstrip("\n") for _ in expected] == expected
    finally:
        first.kill()
        first.communicate()


def readme_scripts(document: str = "README.md") -> dict[str, str]:
    """The Python blocks of the README, or of another document, by the file name in their first line."""
    blocks = re.findall(r"^```python\n# (\w+\.py)\b.*?\n(.*?)^```$", (ROOT / document).read_text(), re.S | re.M)
    return dict(blocks)


@pytest.mark.parametrize("name", ALONE)
def test_example(name: str, environment: dict[str, str]) -> None:
    """It ends by itself, says what it should, and complains of nothing."""
    done = run(EXAMPLES / name, environment)
    assert (done.returncode, ALONE[name] - set(done.stdout.splitlines())) == (0, set()), done.stdout + done.stderr
    if name not in ("handlers.py", "exact_sums.py"):
        assert done.stderr == ""


@pytest.mark.long
def test_exact_sums_after_a_hundred_kills(environment: dict[str, str]) -> None:
    """Producer and consumers die all the time, and no cent is lost or booked twice."""
    command = [sys.executable, str(EXAMPLES / "exact_sums.py"), "100"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, "exact" in done.stdout.splitlines()) == (0, True), done.stdout + done.stderr
    assert done.stdout.startswith("2000 bookings after 100 kills")


@pytest.mark.parametrize("pair", PAIRS)
def test_two_terminals(pair: tuple[str, str], environment: dict[str, str]) -> None:
    """One process waits, the other sends; they need nothing but each other."""
    run_pair(EXAMPLES / pair[0], EXAMPLES / pair[1], environment, PAIRS[pair], SAYS.get(f"examples/{pair[1]}", ""))


@pytest.mark.parametrize("pair", PAIRS)
def test_readme(pair: tuple[str, str], environment: dict[str, str], tmp_path: Path) -> None:
    """What the README tells to type works as it stands there."""
    scripts = readme_scripts()
    for name in pair:
        (tmp_path / name).write_text(scripts[name])
    run_pair(tmp_path / pair[0], tmp_path / pair[1], environment, PAIRS[pair], SAYS.get(f"README/{pair[1]}", ""))


def test_services_document(environment: dict[str, str], tmp_path: Path) -> None:
    """What docs/services.md begins with works as it stands there."""
    scripts = readme_scripts("docs/services.md")
    assert set(scripts) == {"prices.py", "price_server.py", "price_caller.py"}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    run_pair(tmp_path / "price_server.py", tmp_path / "price_caller.py", environment, [], "1.08\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", [name for pair in PAIRS for name in pair])
@pytest.mark.parametrize("source", ["README", "examples"])
def test_one_terminal_is_ended(
    source: str, name: str, number: int, environment: dict[str, str], tmp_path: Path
) -> None:
    """Alone, each of the pairs waits; Ctrl-C and `kill` end it without a traceback, and the exit code says which.

    `node.run()` returns, and then the script has come to its end.
    """
    path = EXAMPLES / name
    if source == "README":
        path = tmp_path / name
        path.write_text(readme_scripts()[name])
    waiting = subprocess.Popen([sys.executable, str(path)], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        ends_at = time.monotonic() + DEADLINE
        while not catches(waiting.pid, signal.SIGTERM):
            assert waiting.poll() is None
            assert time.monotonic() < ends_at
            time.sleep(0.01)
        waiting.send_signal(number)
        _, complaints = waiting.communicate(timeout=DEADLINE)
    finally:
        waiting.kill()
        waiting.wait()
    code = 0 if name == "price_service.py" else 128 + number
    assert (waiting.returncode, "Traceback" in complaints) == (code, False), complaints


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    [caught] = re.findall(r"^SigCgt:\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_every_example_is_run() -> None:
    """No file lies here that no test runs."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ALONE) | {name for pair in PAIRS for name in pair}


def test_readme_has_no_other_scripts() -> None:
    """Each Python block of the README is one that runs above, or a test that the README itself runs."""
    text = (ROOT / "README.md").read_text()
    run_here = {"order_desk.py", *(name for pair in PAIRS for name in pair)}
    assert set(readme_scripts()) == run_here | {"test_kitchen.py"}
    assert text.count("```python") == len(run_here) + 1


def test_readme_producer_that_survives(environment: dict[str, str], tmp_path: Path) -> None:
    """Nobody consumes, and what it sent is in the folder when it has ended."""
    script = tmp_path / "order_desk.py"
    script.write_text(readme_scripts()["order_desk.py"])
    for count in (1, 2):
        command = [sys.executable, str(script)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        spool = Spool.inspect(str(tmp_path / "desk-spool"))
        assert spool.queue("orders", unix_ms=0).unsettled_count == count
        spool.close()


def test_spool_alone(environment: dict[str, str], tmp_path: Path) -> None:
    """What docs/spool.md shows of the log works as it stands there."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "spool.md").read_text(), re.S | re.M)
    [alone] = [block for block in blocks if "peerfabric.spool" in block]
    script = tmp_path / "alone.py"
    script.write_text(alone)
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 2 b'\\x92\\xa3tea\\xa3jam'\n", "")
