"""Endpoints whose socket files are removed under them."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from peerfabric.errors import ConfigError, EndpointInUse
from peerfabric.nodes.io.listener import OLD_MAX, Listener

DEADLINE = 20_000  # milliseconds; far beyond what anything here takes


class Bound:
    """A PULL with its listener, and those who connect to it."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.pull = self.context.socket(zmq.PULL)
        self.listener = Listener(self.pull)

    def connect(self, endpoint: str) -> zmq.Socket[bytes]:
        push = self.context.socket(zmq.PUSH)
        push.immediate = 1
        push.reconnect_ivl = 20
        push.sndtimeo = DEADLINE
        push.connect(endpoint)
        return push

    def hears(self, push: zmq.Socket[bytes]) -> bool:
        """Whether what `push` sends arrives; the first of it may be lost with a connection that is just ending."""
        for _ in range(DEADLINE // 100):
            push.send(b"hello")
            if self.pull.poll(100):
                while self.pull.poll(0):
                    self.pull.recv()
                return True
        return False


@pytest.fixture
def bound() -> Iterator[Bound]:
    one = Bound()
    yield one
    one.context.destroy(linger=0)
    one.listener.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="pf") as name:
        yield Path(name)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_removed_file_comes_back_and_nobody_is_cut_off(bound: Bound, folder: Path) -> None:
    """Whoever is connected does not record, and whoever comes finds the way."""
    path = folder / "inbox"
    endpoint = bound.listener.bind(f"ipc://{path}")
    early = bound.connect(endpoint)
    assert bound.hears(early)
    assert bound.listener.gone() == []
    path.unlink()
    assert bound.listener.gone() == [endpoint]
    bound.listener.bind_again(endpoint)
    assert bound.listener.gone() == []
    assert path.stat().st_mode & 0o777 == 0o600
    events = early.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    late = bound.connect(endpoint)
    assert bound.hears(late)
    assert bound.hears(early)
    assert not events.poll(0), "binding again cut off those who were connected"
    bound.listener.remove_files()
    assert not path.exists()


def test_removed_again_and_again(bound: Bound, folder: Path) -> None:
    """Descriptors do not add up, and whoever has to connect again finds the way."""
    path = folder / "inbox"
    endpoint = bound.listener.bind(f"ipc://{path}")
    early = bound.connect(endpoint)
    assert bound.hears(early)
    before = descriptors()
    for _ in range(5 * OLD_MAX):
        path.unlink()
        bound.listener.bind_again(endpoint)
        assert bound.listener.gone() == []
        assert bound.hears(early)
    assert descriptors() <= before + OLD_MAX
    assert bound.hears(bound.connect(endpoint))


@pytest.mark.parametrize("length", [107, 106, 104])
def test_long_path_has_no_room_for_another_spelling(bound: Bound, folder: Path, length: int) -> None:
    """Then others connect again, which is better than not being found."""
    path = folder / ("x" * (length - len(f"{folder}/")))
    endpoint = bound.listener.bind(f"ipc://{path}")
    early = bound.connect(endpoint)
    assert bound.hears(early)
    before = descriptors()
    for _ in range(2 * OLD_MAX):
        path.unlink()
        bound.listener.bind_again(endpoint)
        assert bound.hears(early)
    assert descriptors() <= before + OLD_MAX


def test_relative_path_is_that_of_the_start(
    bound: Bound, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that goes to another folder still listens in the first."""
    monkeypatch.chdir(folder)
    endpoint = bound.listener.bind("ipc://inbox")
    monkeypatch.chdir(tmp_path)
    assert bound.listener.gone() == []
    (folder / "inbox").unlink()
    bound.listener.bind_again(endpoint)
    assert (folder / "inbox").is_socket()
    bound.listener.remove_files()
    assert list(folder.iterdir()) == []


def test_path_that_somebody_else_took_is_gone_and_theirs(bound: Bound, folder: Path) -> None:
    """It is neither taken back nor removed while they listen; once they do not, it is ours again."""
    path = folder / "inbox"
    endpoint = bound.listener.bind(f"ipc://{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert bound.listener.gone() == [endpoint]
        with pytest.raises(EndpointInUse):
            bound.listener.bind_again(endpoint)
        bound.listener.remove_files()
        assert path.exists()
    bound.listener.bind_again(endpoint)
    assert bound.hears(bound.connect(endpoint))
    path.unlink()
    path.write_text("data")
    with pytest.raises(ConfigError, match="is not a socket"):
        bound.listener.bind_again(endpoint)
    assert path.read_text() == "data"


def test_folder_that_is_gone_is_an_error_and_then_found(bound: Bound, folder: Path) -> None:
    """Nothing is lost by trying."""
    (folder / "in").mkdir()
    path = folder / "in" / "inbox"
    endpoint = bound.listener.bind(f"ipc://{path}")
    early = bound.connect(endpoint)
    assert bound.hears(early)
    path.unlink()
    (folder / "in").rmdir()
    for _ in range(2 * OLD_MAX):
        assert bound.listener.gone() == [endpoint]
        with pytest.raises(ConfigError, match="cannot listen at"):
            bound.listener.bind_again(endpoint)
    (folder / "in").mkdir()
    bound.listener.bind_again(endpoint)
    assert bound.hears(early)
    assert bound.hears(bound.connect(endpoint))


def test_left_endpoint_has_no_file(bound: Bound, folder: Path) -> None:
    """Whoever came in by it stays; a file of which the listener has ended would look like one of the dead."""
    path = folder / "inbox"
    endpoint = bound.listener.bind(f"ipc://{path}")
    early = bound.connect(endpoint)
    assert bound.hears(early)
    bound.listener.leave(endpoint)
    assert endpoint not in bound.listener
    assert not path.exists()
    assert bound.listener.gone() == []
    assert bound.hears(early)


def test_move_that_fails_goes_on_where_it_stopped(bound: Bound, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was bound before stays so, and the rest follows when there are descriptors."""
    endpoints = [bound.listener.bind(f"ipc://{folder / name}") for name in ("one", "two", "three")]
    bound.pull.close()
    bound.pull = bound.context.socket(zmq.PULL)
    dup, left = os.dup, [1]

    def scarce(fd: int) -> int:
        if not left:
            raise OSError(errno.EMFILE, "Too many open files")
        left.pop()
        return dup(fd)

    monkeypatch.setattr(os, "dup", scarce)
    with pytest.raises(OSError, match="Too many open files"):
        bound.listener.move(bound.pull)
    left += [1, 1]
    bound.listener.move(bound.pull)
    assert left == []
    assert all(bound.hears(bound.connect(endpoint)) for endpoint in endpoints)


def test_socket_that_cannot_be_bound_is_an_error_of_the_system(bound: Bound, folder: Path) -> None:
    """It is one that those who try again know, and costs no descriptor."""
    endpoint = bound.listener.bind(f"ipc://{folder / 'inbox'}")
    bound.pull.close()
    (folder / "inbox").unlink()
    before = descriptors()
    with pytest.raises(ConfigError, match="cannot listen at"):
        bound.listener.bind_again(endpoint)
    closed = bound.context.socket(zmq.PULL)
    closed.close()
    for _ in range(50):
        with pytest.raises(OSError):
            bound.listener.move(closed)
    assert descriptors() < before + 25  # libzmq closes those of sockets a little later
