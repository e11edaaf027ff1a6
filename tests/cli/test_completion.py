"""Completion of the shell: commands, and names of queues that running nodes have."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from peerfabric import ConfigError
from tests.cli.conftest import DEADLINE
from tests.cli.processes import Processes, heard, node, sending, taking


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    """By the variable that the docs name."""
    if shell == "bash" and subprocess.run(["bash", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no bash here, which says of itself whether it is new enough")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "peerfabric.nodes.cli.main"],
        env=os.environ | {"_PEERFABRIC_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert f"_PEERFABRIC_COMPLETE={shell}_complete" in done.stdout


def test_names_of_queues(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the fabric that the command is about; nothing where nobody can be asked."""
    from click.shell_completion import ShellComplete

    from peerfabric.nodes.cli.host import door
    from peerfabric.nodes.cli.main import cli

    def completed(*words: str) -> list[str]:
        found = ShellComplete(cli, {}, "peerfabric", "_PEERFABRIC_COMPLETE").get_completions(
            list(words[:-1]), words[-1]
        )
        return [item.value for item in found]

    nodes = node("a", sends=(sending("orders"), sending("jobs"))), node("b", "other", takes=(taking("others"),))
    processes.looks = [[heard(7, *nodes)]]
    assert completed("pause", "o") == ["orders"]
    assert completed("dead", "ls", "") == ["jobs", "orders"]
    assert completed("check", "--queue", "j") == ["jobs"]
    assert completed("purge", "--fabric", "other", "o") == ["others"]
    assert "purge" in completed("pu")

    def refuses(*_: object, **__: object) -> None:
        raise ConfigError("no runtime folder")

    monkeypatch.setattr(door, "answers", refuses)
    assert completed("pause", "o") == []
