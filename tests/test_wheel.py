"""The wheel: built, installed elsewhere, and imported beside a user's own `nodes`, `discovery` and `fabric`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("fabric", "discovery", "nodes", "examples")
BESIDE = ("admin", "gateway", "metrics", "otel", "testing")
"""Packages of nodes that are installed under names of their own."""
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
IMPORT_ALL = """
import importlib, pkgutil, sys
import nodes, discovery, fabric  # a user's own
import peerfabric
modules = [module.name for module in pkgutil.walk_packages(peerfabric.__path__, "peerfabric.")]
for name in modules:
    importlib.import_module(name)
assert nodes.MINE and discovery.MINE and fabric.MINE
assert not [name for name in sys.modules if name.startswith(("nodes.", "discovery.", "fabric."))]
print(len(modules), peerfabric.__path__[0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the source, so that building leaves nothing here. Built without an index: no network."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, copy, cwd=copy)
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that has the wheel, and borrows its dependencies from ours."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder named in a .pth is searched last, and its own .pth files are not read: our editable install stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_has_one_package(wheel: Path) -> None:
    """Everything lies in `peerfabric`; no test, example or benchmark but the demo's code comes along."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"peerfabric", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    assert "peerfabric/py.typed" in names
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in {
            "peerfabric": "fabric",
            "peerfabric/discovery": "discovery",
            "peerfabric/nodes": "nodes",
            "peerfabric/indexer": "examples/indexer",
            **{f"peerfabric/{name}": f"nodes/{name}" for name in BESIDE},
        }.items()
        for path in (ROOT / folder).rglob("*.py")
        if folder != "nodes" or path.relative_to(ROOT / folder).parts[0] not in BESIDE
    }
    assert {name for name in names if name.endswith(".py")} == expected


def test_every_module_imports_beside_a_users_own(installed: Path, tmp_path: Path) -> None:
    """A user's `nodes`, `discovery` and `fabric` stay what they are, and ours are not found under those names."""
    for name in ("nodes", "fabric"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "discovery.py").write_text("MINE = True\n")
    (tmp_path / "program.py").write_text(IMPORT_ALL)
    count, where = run(installed, tmp_path / "program.py", cwd=tmp_path).split()
    assert int(count) > 50
    assert Path(where) == next(installed.parents[1].glob("lib/python*/site-packages")) / "peerfabric"


def test_the_command_and_its_demo_are_installed(installed: Path, tmp_path: Path) -> None:
    """`peerfabric demo` runs from the wheel: its code and its processes come from there."""
    for number in range(30):
        (tmp_path / f"m{number}.py").write_text("import os\n")
    out = run(installed.parent / "peerfabric", "demo", "--folder", tmp_path, cwd=tmp_path)
    assert out.endswith("equal\n")


def test_without_extras_only_the_core_is_required(wheel: Path) -> None:
    """What an extra needs is asked for with that extra; what ships beside code is in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*(;?.*)$", archive.read(metadata).decode(), re.M)
    core = {name for name, marker in required if "extra ==" not in marker}
    assert core == {"pyzmq", "msgspec", "crc32c", "zeroconf", "ifaddr", "click", "rich"}
    web = {name for name, marker in required if re.search(r"""extra == ["']web["']""", marker)}
    assert web == {"starlette", "uvicorn"}
    assert "peerfabric/metrics/grafana.json" in names
