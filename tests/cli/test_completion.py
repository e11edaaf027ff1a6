"""Completion of the shell: commands, and names of queues that running nodes have."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from peerfabric import ConfigError
from peerfabric.nodes.cli.host import door
from peerfabric.nodes.cli.main import cli
from peerfabric.reports import ServiceAccount
from peerfabric.status import Publishing, Subscribing
from tests.cli.conftest import DEADLINE
from tests.cli.processes import Processes, heard, node, sending, silent, taking


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


def completed(*words: str) -> list[str]:
    """What the shell proposes."""
    found = ShellComplete(cli, {}, "peerfabric", "_PEERFABRIC_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [item.value for item in found]


def test_names_of_queues(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the fabric that the command is about; nothing where nobody can be asked."""
    nodes = node("a", sends=(sending("orders"), sending("jobs"))), node("b", "other", takes=(taking("others"),))
    processes.looks = [[heard(7, *nodes)]]
    assert completed("pause", "o") == ["orders"]
    assert completed("dead", "ls", "") == ["jobs", "orders"]
    assert completed("check", "--queue", "j") == ["jobs"]
    assert completed("purge", "--fabric", "other", "o") == ["others"]
    assert completed("send", "o") == completed("take", "o") == completed("queues", "o") == ["orders"]
    assert "purge" in completed("pu")

    def refuses(*_: object, **__: object) -> None:
        raise ConfigError("no runtime folder")

    monkeypatch.setattr(door, "answers", refuses)
    assert completed("pause", "o") == []


def test_other_names(processes: Processes) -> None:
    """Topics and patterns, services, nodes and processes, each where it is asked for."""
    fields: dict[str, Any] = {
        "publishes": (Publishing(topic="prices.eur"),),
        "subscribes": (Subscribing(pattern="prices.>"),),
        "serves": (ServiceAccount(service="prices.get"),),
    }
    processes.looks = [[heard(70, node("oven", sends=(sending("orders"),), **fields)), silent(71)]]
    both = ["prices.>", "prices.eur"]
    assert completed("sub", "pr") == completed("pub", "p") == completed("tap", "p") == both
    assert completed("tap", "") == ["orders", *both]
    assert completed("call", "") == ["prices.get"]
    assert completed("ping", "o") == completed("doctor", "") == completed("call", "--server", "") == ["oven"]
    assert completed("stacks", "7") == ["70", "71"]
