"""`peerfabric demo` on a small folder, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerfabric.indexer.findings import Module, Source, examine
from tests.cli.conftest import DEADLINE, Start, ended

FILES = 240


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that take a worker a few milliseconds each."""
    body = "".join(f"class C{n}:\n    def f(self):\n        return {n}\n" for n in range(300))
    for number in range(FILES):
        (tmp_path / f"m{number}.py").write_text(f"import os, sys\nfrom json import load\n{body}")
    (tmp_path / "broken.py").write_text("def (:\n")
    return tmp_path


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the demo makes its runtime folder."""
    with tempfile.TemporaryDirectory(prefix="pf-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def children_of(pid: int) -> list[int]:
    """The direct children of a process, as the kernel lists them."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_demo_is_right_with_a_killed_worker(start: Start, folder: Path, temporary: Path) -> None:
    """One of four workers is killed on the way; every file counts once, as in a single process."""
    code, out, err = ended(start("demo", "--folder", str(folder), "-o", "json"))
    assert code == 0, err
    outcome = json.loads(out)
    assert outcome["equal"]
    assert outcome["report"]["totals"] == outcome["alone"]
    assert outcome["alone"]["imports"] == {"json": FILES, "os": FILES, "sys": FILES}
    assert outcome["alone"]["errors"] == 1
    assert sum(outcome["report"]["by_worker"].values()) == FILES + 1
    # Whether the fresh worker still gets a file depends on how busy this machine is: only that it joins is certain.
    assert "worker-1 was killed (SIGKILL)" in err
    assert "worker-5 joins" in err
    assert not re.search(r" for \d+ s; ", err), "it warns of something that lasts"
    account = outcome["report"]["account"]
    assert (account["accepted"], account["acked"]) == (FILES + 1, FILES + 1)
    assert list(temporary.iterdir()) == []


def test_demo_prints_a_report(start: Start, folder: Path) -> None:
    """Without a terminal it is plain text, with no colour in it."""
    code, out, err = ended(start("demo", "--folder", str(folder)))
    assert code == 0, err
    assert "\x1b" not in out + err
    for text in ("The most imported modules", "Files per worker", "redelivered", "four workers"):
        assert text in out
    assert out.endswith("equal\n")


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL]
)
def test_nothing_is_left_of_an_interrupted_demo(
    start: Start, folder: Path, temporary: Path, number: signal.Signals
) -> None:
    """Whatever ends it, its children end too; what it can clean up, it has cleaned up."""
    demo = start("demo", "--folder", str(folder))
    assert demo.stderr is not None
    for line in demo.stderr:
        if "killed" in line:
            break
    children = [os.pidfd_open(pid) for pid in children_of(demo.pid)]
    assert len(children) >= 5
    demo.send_signal(number)
    assert demo.wait(DEADLINE) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    for child in children:
        wait_for_end(child)
        os.close(child)
    if number != signal.SIGKILL:
        assert list(temporary.iterdir()) == []


def wait_for_end(pidfd: int) -> None:
    """Wait until the process behind a pidfd has ended."""
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(DEADLINE * 1000), "a child goes on"


def test_an_empty_folder_is_refused(start: Start, tmp_path: Path) -> None:
    """Nothing to do is a wrong argument."""
    code, out, err = ended(start("demo", "--folder", str(tmp_path)))
    assert (code, out) == (2, "")
    assert "no Python files" in err


def test_examine_counts(tmp_path: Path) -> None:
    """Functions at any depth, each import once by its first part, none of its own package."""
    path = tmp_path / "a.py"
    path.write_text(
        "import os.path, os\nfrom . import b\nfrom json.decoder import x\nasync def f():\n    def g(): ...\n"
    )
    assert examine(Source("a", str(path), 1)) == Module(
        module="a", of=1, lines=5, functions=2, classes=0, imports=["json", "os"]
    )
