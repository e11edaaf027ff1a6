"""Notifications of systemd, with a socket in its place."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from peerfabric.nodes.notify import READY, notify

DEADLINE = 30.0


def test_a_service_is_ready_when_its_node_has_started_and_stops_in_order(runtime: Path) -> None:
    """Both are told by `run()`, the latter when SIGTERM has come."""
    path = runtime / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(DEADLINE)
        listening.bind(str(path))
        code = "from peerfabric import Node; Node('service').run()"
        environment = os.environ | {"NOTIFY_SOCKET": str(path)}
        with subprocess.Popen([sys.executable, "-P", "-c", code], env=environment) as service:
            assert listening.recv(100) == b"READY=1"
            service.send_signal(signal.SIGTERM)
            assert listening.recv(100) == b"STOPPING=1"
            assert service.wait(DEADLINE) == 0
    path.unlink()


def test_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """An @ stands for its NUL."""
    name = f"pf-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(DEADLINE)
        listening.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify(READY)
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("path", ["", "relative", "/nowhere/notify", "/" + "x" * 200])
def test_nobody_is_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing happens."""
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify(READY)
