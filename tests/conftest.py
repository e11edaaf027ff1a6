"""Make `tests.world` importable without putting this folder, or the one above it, on `sys.path`.

There `nodes`, `discovery` and `fabric` would answer to `import nodes` and hide what a user installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType


def _make_package(name: str, folder: Path) -> None:
    package = sys.modules.get(name)
    if package is None:
        package = sys.modules[name] = ModuleType(name)
    package.__path__ = [str(folder)]


_make_package("tests", Path(__file__).parent)
