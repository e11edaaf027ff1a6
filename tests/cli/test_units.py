"""The units of systemd in docs/deploy.md: systemd understands them, and they start commands that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from peerfabric.nodes.cli.exits import Exit
from peerfabric.nodes.cli.serve import serve

TEXT = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
UNITS = dict(re.findall(r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```$", TEXT, re.S | re.M))
KEPT = "peerfabric-spool@.service"


def settings(unit: str) -> dict[str, list[str]]:
    """What stands in a unit, by key."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNITS[unit], re.M):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_it(unit: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say of it, but that the program is not installed here."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    path = tmp_path / unit
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNITS[unit], flags=re.M)
    path.write_text(re.sub(r"^User=.*$", "User=root", text, flags=re.M))
    named = str(path).replace("@.", "@shop.")
    if named != str(path):
        shutil.copy(path, named)
    done = subprocess.run(
        [analyze, "verify", "--man=no", named], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if unit.partition("@")[0].partition(".")[0] in line]
    assert complaints == [], done.stderr


def test_the_command_of_the_unit_is_one() -> None:
    """With its arguments; what it tells systemd, and how it ends, is what the unit expects."""
    unit = settings(KEPT)
    [started] = unit["ExecStart"]
    _, name, command, *arguments = started.split()
    assert (name, command) == ("spool", "serve")
    made = serve.make_context("serve", arguments)
    assert made.params["folders"] == ("/var/lib/%i/spool",)
    assert isinstance(serve, click.Command)
    assert (unit["Type"], unit["RestartPreventExitStatus"]) == (["notify"], [str(int(Exit.COPY))])


def test_a_producer_that_fits() -> None:
    """Its account, folders and fabric are those of the service that serves its spool, whose instance is `shop`."""
    kept, shop = (
        {key: " ".join(values).replace("%i", "shop").split() for key, values in settings(unit).items()}
        for unit in (KEPT, "shop.service")
    )
    for key in ("User", "StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "RuntimeDirectoryMode"):
        assert kept[key] == shop[key], key
    assert kept["RuntimeDirectoryPreserve"] == shop["RuntimeDirectoryPreserve"] == ["yes"]
    folder = kept["ExecStart"][-1]
    assert [*kept["Environment"], f"PEERFABRIC_SPOOL={folder}"] == shop["Environment"]
    [account] = kept["User"]
    assert f"useradd --system {account}\n" in TEXT
    assert f"systemctl enable --now {KEPT.replace('@.service', f'@{account}')}\n" in TEXT


def test_programs_are_where_they_are_installed() -> None:
    """In the virtual environment of a project: README has no other way."""
    for unit in UNITS:
        [started] = settings(unit)["ExecStart"]
        assert re.match(r"/opt/[\w%]+/\.venv/bin/(python|peerfabric) ", started), unit
