"""Make `tests.world` importable without putting this folder, or the one above it, on `sys.path`.

There `nodes`, `discovery` and `fabric` would answer to `import nodes` and hide what a user installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest


def _make_package(name: str, folder: Path) -> None:
    package = sys.modules.get(name)
    if package is None:
        package = sys.modules[name] = ModuleType(name)
    package.__path__ = [str(folder)]


_make_package("tests", Path(__file__).parent)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless `-m` asks for it."""
    if config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]
