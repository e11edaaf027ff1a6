"""Plugin of pytest, as a project sees it that has peerfabric installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import peerfabric.testing

TESTS = """
import os
from peerfabric import Node
from peerfabric.testing import Fabric, AsyncFabric

names = []

def test_one(fabric):
    assert isinstance(fabric, Fabric)
    Node("left-open").peers()
    names.append(os.environ["PEERFABRIC_FABRIC"])

def test_two(async_fabric, fabric):
    assert isinstance(async_fabric, AsyncFabric)
    assert async_fabric.name == fabric.name == os.environ["PEERFABRIC_FABRIC"]
    assert async_fabric.folder == fabric.folder
    names.append(fabric.name)

def test_three():
    assert len(set(names)) == 2
    assert "PEERFABRIC_FABRIC" not in os.environ
"""
LIGHT = """
import sys

def test_nothing_is_loaded():
    ours = sorted(name for name in sys.modules if name.startswith("peerfabric"))
    assert ours == ["peerfabric", "peerfabric.errors", "peerfabric.testing", "peerfabric.testing.plugin"]
    assert not {"zmq", "msgspec"} & sys.modules.keys()
"""


@pytest.mark.parametrize("text", [TESTS, LIGHT], ids=["fixtures", "light"])
def test_in_a_project(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixtures are there without any line for them, and cost nothing where nobody asks for them."""
    (tmp_path / "test_it.py").write_text(text)
    monkeypatch.delenv("PEERFABRIC_FABRIC", raising=False)
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-W", "error"]
    command = [sys.executable, "-m", "pytest", *quiet]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_names() -> None:
    """Each public name loads, has a text for `help()`, and is the same for type checkers."""
    assert sorted(peerfabric.testing.__all__) == dir(peerfabric.testing)
    for name in peerfabric.testing.__all__:
        assert getattr(peerfabric.testing, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Mock'"):
        peerfabric.testing.Mock  # noqa: B018
