"""`make test-all`: which interpreters it finds, and how it ends."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "test-all"
TOOLS = ("bash", "dirname", "sort", "mktemp", "tee", "grep", "tail", "rm")


def put(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
    (folder / name).chmod(0o755)


def run(*folders: Path) -> subprocess.CompletedProcess[str]:
    path = ":".join(map(str, folders))
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run([bash, str(SCRIPT)], env={"PATH": path}, capture_output=True, text=True, check=False)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with what the script needs, and a `make` that says what it was told."""
    folder = tmp_path / "tools"
    put(folder, "make", 'echo "$*"; echo "7 passed in 1.00s"; [ "$1" != VENV=.venv-3.13 ]')
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    return folder


def test_each_python_that_works_is_used_once(tools: Path, tmp_path: Path) -> None:
    """Shims of what is not installed are passed over, for one that works later on PATH if there is one."""
    shims, pythons = tmp_path / "shims", tmp_path / "pythons"
    for name in ("python3.12", "python3.14", "python3"):
        put(shims, name, "echo not installed >&2; exit 127")
    put(pythons, "python3.12", "echo 3.12")
    put(pythons, "python3", "echo 3.12")
    put(pythons, "python3.11", "echo 3.11")
    done = run(shims, pythons, tools)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"test-all: Python 3.11 is {pythons}/python3.11",
        f"test-all: Python 3.12 is {pythons}/python3.12",
        "test-all: Python 3.11",
        f"VENV=.venv-3.11 PYTHON={pythons}/python3.11 test",
        "7 passed in 1.00s",
        "test-all: Python 3.12",
        f"VENV=.venv-3.12 PYTHON={pythons}/python3.12 test",
        "7 passed in 1.00s",
        "test-all: Python 3.11 passed: 7 passed in 1.00s",
        "test-all: Python 3.12 passed: 7 passed in 1.00s",
    ]


def test_one_that_fails_is_said_at_the_end(tools: Path, tmp_path: Path) -> None:
    """The others are tried all the same."""
    pythons = tmp_path / "pythons"
    put(pythons, "python3.13", "echo 3.13")
    put(pythons, "python3", "echo 3.15")
    done = run(pythons, tools)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == [
        "test-all: Python 3.13 FAILED: 7 passed in 1.00s",
        "test-all: Python 3.15 passed: 7 passed in 1.00s",
    ]


def test_none_is_a_failure(tools: Path) -> None:
    """It says what is missing."""
    done = run(tools)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Python from 3.11 on is on PATH" in done.stderr
