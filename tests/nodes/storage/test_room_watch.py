"""The room of a spool is measured by the disk's thread, and warned of in time."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peerfabric import Options
from peerfabric.health import DISK
from peerfabric.nodes.io import pump
from peerfabric.nodes.io.waiting import clock
from peerfabric.nodes.storage import room_watch
from tests.nodes.conftest import eventually

GIB = 2**30


def disk_with(monkeypatch: pytest.MonkeyPatch, free: int, size: int = 200 * GIB) -> None:
    """Let every file system have so much left."""
    system = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_blocks=size // 4096)
    monkeypatch.setattr(os, "statvfs", lambda path: system)


def context_of(node: Any) -> Any:
    return (node.target if hasattr(node, "target") else node._async)._context


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every 50 ms."""
    monkeypatch.setattr(room_watch, "MEASURE_EVERY", 0.05)
    monkeypatch.setattr(pump, "LOOK_EVERY", 0.05)


def test_a_disk_that_fills_is_told_while_there_is_room(
    front: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a node that has nothing to do; and that it is over, once there is room again."""
    disk_with(monkeypatch, GIB // 2)
    with front.node("shop", spool=str(tmp_path / "spool")) as node:
        context = context_of(node)
        health = context.engine.health
        eventually(lambda: [finding.code for finding in health.disk] == [DISK], "the measuring")
        with context.pump.lock:
            health.look_at = clock()
        context.pump.wake()
        eventually(lambda: health.warnings(clock()), "the warning")
        [warned] = health.warnings(clock())
        assert warned.code == DISK
        assert f"the disk of the spool {tmp_path / 'spool'} is nearly full" in warned.text
        assert "512.0 MiB of 200.0 GiB are free" in warned.text
        disk_with(monkeypatch, 100 * GIB)
        eventually(lambda: not health.disk, "room")


def test_the_limit_of_a_spool_is_told_before_sends_are_refused(
    front: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At four fifths of `spool_bytes`."""
    disk_with(monkeypatch, 100 * GIB)
    options = Options(spool_bytes=2**20, drain_timeout=0)
    with front.node("shop", spool=str(tmp_path / "spool"), options=options) as node:
        health = context_of(node).engine.health
        node.producer("orders", bytes).send_many([b"x" * 10_000] * 90, timeout=20)
        eventually(lambda: health.disk, "the warning")
        assert "1.0 MiB, and at that sends wait or raise SpoolFull" in health.disk[0].step


def test_a_folder_that_is_gone_is_told_by_others(front: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch only measures."""

    def refuse(path: str) -> os.statvfs_result:
        measured.append(path)
        raise FileNotFoundError(path)

    measured: list[str] = []
    monkeypatch.setattr(os, "statvfs", refuse)
    with front.node("shop", spool=str(tmp_path / "spool")) as node:
        eventually(lambda: len(measured) > 1, "two looks")
        assert not context_of(node).engine.health.disk
