"""The runtime folder, the id of the host, and names of ipc sockets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from peerfabric.discovery.host import fabric_folder, host_id, ipc_endpoint, reaches, runtime_folder
from peerfabric.errors import BadName, ConfigError


def test_host_id_is_the_same_in_two_calls() -> None:
    """It names network and files, and tells nothing else."""
    network, _, files = host_id().partition("-")
    assert host_id() == f"{network}-{files}"
    assert len(network) == len(files) == 16


@pytest.mark.parametrize(
    ("endpoint", "same", "same_network", "other"),
    [
        ("ipc:///run/a", True, False, False),
        ("tcp://127.0.0.1:1", True, True, False),
        ("tcp://[::1]:1", True, True, False),
        ("tcp://localhost:1", True, True, False),
        ("tcp://192.0.2.1:1", True, True, True),
    ],
)
def test_reaches(endpoint: str, same: bool, same_network: bool, other: bool) -> None:
    """An ipc path needs the same files, loopback the same network."""
    assert [reaches(endpoint, host, "n1-m1") for host in ("n1-m1", "n1-m2", "n2-m1")] == [same, same_network, other]


def test_runtime_folder_is_made_for_us_alone(runtime: Path) -> None:
    """It is absolute, new, and 0700; asking again gives the same."""
    assert runtime_folder() == runtime
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert runtime_folder() == runtime
    assert fabric_folder("a.b") == runtime / "a.b"


def test_runtime_folder_follows_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our variable it lies in that of the session, or else beside temporary files."""
    monkeypatch.delenv("PEERFABRIC_RUNTIME")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_folder() == tmp_path / "peerfabric"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert runtime_folder() == tmp_path / f"peerfabric-{os.geteuid()}"


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_folder_that_others_can_write_is_refused(runtime: Path, mode: int) -> None:
    """Somebody could plant announcements and sockets there."""
    runtime.mkdir()
    runtime.chmod(mode)
    with pytest.raises(ConfigError, match=r"can be written by others .*; remove it, or set PEERFABRIC_RUNTIME"):
        runtime_folder()


def test_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    """A link could have been put there by anybody who can write to the folder above."""
    (tmp_path / "real").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="symbolic link"):
        runtime_folder()


def test_file_in_the_way_is_refused(runtime: Path) -> None:
    """An error with the next step, not a traceback of the operating system."""
    runtime.write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        runtime_folder()


def test_folder_of_somebody_else_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared folder for temporary files, whoever comes first may take our name."""
    runtime.mkdir(mode=0o700)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to user"):
        runtime_folder()


def test_fabric_needs_a_name() -> None:
    """A fabric is a folder: nothing may lead out of it."""
    for name in ("..", "a/b", ""):
        with pytest.raises(BadName):
            fabric_folder(name)


def test_ipc_endpoint_is_new_each_time_and_fits() -> None:
    """Another life gets another socket; where the path is too long there is none."""
    folder = Path("/run/user/1000/peerfabric/default")
    first, second = (ipc_endpoint(folder, "a" * 26, "inbox") for _ in range(2))
    assert first is not None
    assert first != second
    assert first.startswith(f"ipc://{folder}/{'a' * 26}.")
    assert first.endswith(".inbox")
    room = 107 - len(f"/{'a' * 26}.12345678.inbox")
    assert ipc_endpoint(Path("/" + "x" * (room - 1)), "a" * 26, "inbox") is not None
    assert ipc_endpoint(Path("/" + "x" * room), "a" * 26, "inbox") is None
