"""Every reader of foreign bytes under hypothesis: see targets.py; `make fuzz` runs the same with atheris."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS

QUICK = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)

FAILED_ONCE = [
    (
        "engine",  # a peer that sends messages again under totals that do not count them
        "51c90ff42d195dd951191f6a9d0bd35a98c0d3f095bcdf5aa1d2fa82cbac2ce94736f125c6af8afd054fcc2d041808cad887da39bd3a",
    ),
]
"""(target, input in hexadecimal) of what a fuzzer has found."""


@st.composite
def changed_seeds(draw: st.DrawFn, name: str) -> bytes:
    """A good input in which some bytes were changed, put in or cut off."""
    data = bytearray(draw(st.sampled_from(SEEDS[name])))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str) -> None:
    """Whatever comes is read or refused, by no error but ours."""

    @QUICK
    @given(st.binary(max_size=200))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@pytest.mark.parametrize("name", SEEDS)
def test_changed_seeds(name: str) -> None:
    """So is what was a good input before some of its bytes were changed."""

    @QUICK
    @given(changed_seeds(name))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@pytest.mark.parametrize(("name", "data"), FAILED_ONCE)
def test_what_failed_once(name: str, data: str) -> None:
    """What fuzzers have found is repaired."""
    TARGETS[name](bytes.fromhex(data))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is installed by `make fuzz` only")
def test_fuzzer_runs(tmp_path: Path) -> None:
    """`make fuzz` goes over every target."""
    script = Path(__file__).parent / "run.py"
    command = [sys.executable, str(script), "--inputs", "2000", "--kept", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert all(f"{name:<16}" in run.stdout for name in TARGETS)
