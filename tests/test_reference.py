"""The reference that `make docs` makes of docstrings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import peerfabric

MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text()


def test_every_public_name_is_in_it(tmp_path: Path) -> None:
    """Each name has an entry and says something; packages that are imported by themselves have a page each."""
    beside = re.search(r"^BESIDE := \$\(addprefix nodes/,([a-z ]+)\)$", MAKEFILE, re.M)
    assert beside is not None
    pages = [f"peerfabric.{name}" for name in beside[1].split()]
    command = [sys.executable, "-W", "ignore", "-m", "pdoc", "peerfabric", "!peerfabric.nodes", "!peerfabric.discovery"]
    command += [*pages, "--docformat", "google", "--no-show-source", "--output-directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "peerfabric.html").read_text()
    entries = set(re.findall(r'<section id="(\w+)">', text))
    assert set(peerfabric.__all__) - {"__version__"} <= entries
    undocumented = [
        name
        for name in peerfabric.__all__
        if name != "__version__" and not (getattr(peerfabric, name).__doc__ or "").strip()
    ]
    assert undocumented == []
    for page in pages:
        assert (tmp_path / f"{page.replace('.', '/')}.html").exists()
