"""`peerfabric keygen`: a secret that only this user can read, and that is shown only to who asks for it."""

from __future__ import annotations

import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from peerfabric.secret import parse_secret
from tests.cli.conftest import DEADLINE, Start, ended


def test_a_new_file(start: Start, tmp_path: Path) -> None:
    """It holds a secret and is readable by its owner only, whatever the umask; only the key id is printed."""
    file = tmp_path / "fabric.key"
    before = os.umask(0)
    try:
        code, out, err = ended(start("keygen", str(file)))
    finally:
        os.umask(before)
    assert (code, err) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert parse_secret(text).key_id("cli") in out
    assert text.strip() not in out


def test_an_existing_file_is_left(start: Start, tmp_path: Path) -> None:
    """Overwriting the secret of a running fabric would part its nodes; a link is not followed either."""
    file = tmp_path / "fabric.key"
    file.write_text("precious")
    code, out, err = ended(start("keygen", str(file)))
    assert (code, out, file.read_text()) == (1, "", "precious")
    assert "choose another name" in err
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert ended(start("keygen", str(tmp_path / "link")))[0] == 1
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("file", ["/nowhere/key", "/proc/key", "."])
def test_where_no_file_can_be(start: Start, file: str) -> None:
    """One line with what to do, and exit code 1."""
    code, out, err = ended(start("keygen", file))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "choose another" in err


def test_without_a_file_the_secret_goes_to_a_program(start: Start) -> None:
    """One line that is nothing but the secret."""
    code, out, err = ended(start("keygen"))
    assert (code, err) == (0, "")
    assert re.fullmatch(r"pf1-[a-z2-7]{58}\n", out)
    parse_secret(out)


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--show"], 0)])
def test_a_terminal_sees_it_only_on_request(arguments: list[str], code: int) -> None:
    """Somebody may look over a shoulder, and terminals remember."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "peerfabric.nodes.cli.main", "keygen", *arguments],
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=DEADLINE,
        check=False,
    )
    os.close(theirs)
    try:
        shown = os.read(ours, 4096) if code == 0 else b""
    finally:
        os.close(ours)
    assert done.returncode == code
    assert (b"pf1-" in shown) == (code == 0)
    assert b"pf1-" not in done.stderr
