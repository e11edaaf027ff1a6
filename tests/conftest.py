"""Make `tests.world` importable without putting this folder, or the one above it, on `sys.path`.

There `nodes`, `discovery` and `fabric` would answer to `import nodes` and hide what a user installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _make_package(name: str, folder: Path) -> None:
    package = sys.modules.get(name)
    if package is None:
        package = sys.modules[name] = ModuleType(name)
    package.__path__ = [str(folder)]


_make_package("tests", Path(__file__).parent)


def pytest_configure() -> None:
    """Let Ctrl-C reach child processes also where a shell runs the suite in its background, and ignores it there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless `-m` asks for it."""
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=0700", "tmpfs", str(folder)], check=False)
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _take_all(path: Path) -> None:
    with open(path, "ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def stuff(folder: Path) -> None:
    """Take every byte that is left on the disk of `folder`, for a file `ballast`."""
    with pytest.raises(OSError, match="No space"):
        _take_all(folder / "ballast")
    assert os.statvfs(folder).f_bavail == 0


def remount(disk: Path, how: str) -> None:
    """Make a small disk read-only ("ro"), or writable again ("rw")."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
