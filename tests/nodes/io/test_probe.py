"""One plain connect, read by its errno."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from pathlib import Path

import pytest

from peerfabric.nodes.io.probe import PROBE_TIMEOUT, Outcome, Probe, address_of, is_dialable, outcome_of


def answer(endpoint: str, *, patience: float = 10.0) -> Outcome | None:
    """Probe `endpoint` and wait for the outcome; None if there was none within `patience` seconds."""
    probe = Probe(endpoint, now=0.0)
    try:
        if probe.outcome is None:
            poll = select.poll()
            poll.register(probe.fd, select.POLLOUT)
            if poll.poll(patience * 1000):
                probe.poll()
        return probe.outcome
    finally:
        probe.close()


@pytest.mark.parametrize(
    ("code", "local", "meaning"),
    [
        (0, False, Outcome.ACCEPTED),
        (errno.EISCONN, False, Outcome.ACCEPTED),
        (errno.ECONNREFUSED, False, Outcome.REFUSED),
        (errno.ECONNREFUSED, True, Outcome.REFUSED),
        (errno.ENOENT, True, Outcome.SILENT),
        (errno.ENOENT, False, Outcome.SILENT),
        (errno.EAGAIN, True, Outcome.ACCEPTED),
        (errno.EAGAIN, False, Outcome.SILENT),
        (errno.EINPROGRESS, False, None),
        (errno.EALREADY, False, None),
        (errno.EHOSTUNREACH, False, Outcome.SILENT),
        (errno.ENETUNREACH, False, Outcome.SILENT),
        (errno.ETIMEDOUT, False, Outcome.SILENT),
        (errno.EACCES, True, Outcome.SILENT),
    ],
)
def test_errno_is_read(code: int, local: bool, meaning: Outcome | None) -> None:
    """Only a refusal proves that a process has gone, and only an acceptance that one is there."""
    assert outcome_of(code, local=local) is meaning


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp://127.0.0.1:80", ("127.0.0.1", 80)),
        ("tcp://[::1]:80", ("::1", 80, 0, 0)),
        ("ipc:///run/a.sock", "/run/a.sock"),
        ("ipc://@name", b"\0name"),
        ("ipc://" + "x" * 108, None),
        ("ipc://", None),
        ("ipc://a\0b", None),
        ("tcp://example.org:80", None),
        ("tcp://127.0.0.1:65536", None),
        ("tcp://127.0.0.1:*", None),
        ("tcp://127.0.0.1", None),
        ("udp://127.0.0.1:80", None),
        ("", None),
    ],
)
def test_address_of_an_endpoint(endpoint: str, address: object) -> None:
    """Numeric addresses and socket paths have one; everything else has none, and no resolver is asked."""
    assert address_of(endpoint) == address


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("tcp://127.0.0.1:80", True),
        ("tcp://example.org:80", False),
        ("tcp://localhost:80", False),
        ("tcp://[fe80::1%lo]:80", True),
        ("tcp://[::1]:80", True),
        ("ipc:///run/a:0", True),
        ("ipc:///run/a.sock", True),
        ("tcp://eth0;127.0.0.1:80", False),
        ("tcp://*:80", False),
        ("tcp://127.0.0.1:0", False),
        ("tcp://127.0.0.1:80\0", False),
        ("tcp://127.0.0.1:80\n", False),
        ("inproc://monitor-1", False),
        ("pgm://eth0;239.0.0.1:80", False),
    ],
)
def test_only_plain_endpoints_are_dialled(endpoint: str, allowed: bool) -> None:
    """A peer cannot make us connect to anything but a host's port or a socket file."""
    assert is_dialable(endpoint) is allowed


def test_listener_accepts_though_nobody_calls_accept(tmp_path: Path) -> None:
    """The kernel accepts for a process that hangs."""
    path = str(tmp_path / "s")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as ipc:
        ipc.bind(path)
        ipc.listen()
        assert answer(f"tcp://127.0.0.1:{tcp.getsockname()[1]}") is Outcome.ACCEPTED
        assert answer(f"ipc://{path}") is Outcome.ACCEPTED


def test_nobody_listens(tmp_path: Path) -> None:
    """A port or a socket file without a process refuses; a file that has gone says nothing."""
    path = str(tmp_path / "s")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as ipc:
        tcp.bind(("127.0.0.1", 0))  # holds the port, so that nobody else gets it meanwhile
        ipc.bind(path)
        assert answer(f"tcp://127.0.0.1:{tcp.getsockname()[1]}") is Outcome.REFUSED
        assert answer(f"ipc://{path}") is Outcome.REFUSED
    os.unlink(path)
    assert answer(f"ipc://{path}") is Outcome.SILENT


def test_missing_socket_file_is_judged_by_the_lock_of_the_announcement(tmp_path: Path) -> None:
    """Somebody may have removed it under a living node, whose lock is held; a dead one's is free, or gone."""
    endpoint, announcement = f"ipc://{tmp_path}/s", tmp_path / "node.7.json"
    assert Probe(endpoint, 0.0, ("node", 7)).outcome is Outcome.SILENT
    with announcement.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert Probe(endpoint, 0.0, ("node", 7)).outcome is Outcome.SILENT
    assert Probe(endpoint, 0.0, ("node", 7)).outcome is Outcome.REFUSED
    assert Probe(endpoint, 0.0, ("node", 8)).outcome is Outcome.SILENT
    assert Probe(endpoint, 0.0).outcome is Outcome.SILENT
    assert Probe(f"ipc://{tmp_path}/missing/s", 0.0, ("node", 7)).outcome is Outcome.SILENT


def test_full_backlog_of_a_socket_file_accepts(tmp_path: Path) -> None:
    """A stopped process fills its backlog; that is EAGAIN, and means that it is there."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as ipc:
        ipc.bind(path)
        ipc.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(16)]
        for one in waiting:
            one.setblocking(False)
        assert errno.EAGAIN in [one.connect_ex(path) for one in waiting]
        assert answer(f"ipc://{path}") is Outcome.ACCEPTED
        for one in waiting:
            one.close()


def test_no_answer_is_silent_at_its_deadline() -> None:
    """A host that does not answer leaves the probe waiting, until it is told that its time is over."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # A full TCP backlog drops what comes next without a word, like a host that has vanished.
        callers = [socket.socket() for _ in range(16)]
        for one in callers:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        probe = Probe(f"tcp://127.0.0.1:{full.getsockname()[1]}", now=100.0)
        assert probe.outcome is None
        assert probe.expire(100.0 + PROBE_TIMEOUT / 2) is None
        assert probe.expire(100.0 + PROBE_TIMEOUT) is Outcome.SILENT
        probe.close()
        assert probe.fd == -1
        for one in callers:
            one.close()


def test_host_names_are_not_resolved() -> None:
    """A resolver could block the pump, so a name is silent at once."""
    assert Probe("tcp://example.org:80", now=0.0).outcome is Outcome.SILENT


def test_connecting_with_oneself_is_a_refusal() -> None:
    """On loopback a socket can meet itself on a port where nobody listens."""
    with socket.socket() as lonely:
        lonely.bind(("127.0.0.1", 0))
        lonely.connect(lonely.getsockname())  # TCP's simultaneous open, here on purpose
        probe = Probe("tcp://example.org:80", now=0.0)
        assert probe._judge(lonely, 0) is Outcome.REFUSED
