"""Whole fabrics under many seeds; see tests/world.py. `WORLD_SEED=7 pytest tests/test_world.py` replays one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

from tests.world import World

SEEDS = range(336)


CHOSEN = os.environ.get("WORLD_SEED")


@pytest.mark.parametrize("seed", [int(CHOSEN)] if CHOSEN else SEEDS)
def test_world(seed: int) -> None:
    """Whatever happens, nothing accepted is lost, nothing runs twice without a reason, and all becomes quiet."""
    World(seed).run()


@pytest.mark.parametrize("seed", [3, 7, 11])
def test_replays_exactly(seed: int) -> None:
    """The same seed takes the same course, in this process and in any other."""
    assert _trace(seed) == _trace(seed)
    script = (
        "import runpy, sys; sys.argv = ['', sys.argv[1]]; "
        f"runpy.run_path({str(Path(__file__).parent / 'conftest.py')!r}); "
        "from tests.world import World; world = World(int(sys.argv[1])); world.run(); print(hash_of(world))"
    ).replace("hash_of(world)", "__import__('zlib').crc32('\\n'.join(world.trace).encode())")
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", script, str(seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(run.stdout) == crc32(_trace(seed).encode())


def _trace(seed: int) -> str:
    world = World(seed)
    world.run()
    return "\n".join(world.trace)


@pytest.mark.long
@pytest.mark.parametrize("start", range(1000, 11_000, 100))
def test_world_for_long(start: int) -> None:
    """The same under ten thousand seeds."""
    for seed in range(start, start + 100):
        World(seed).run()
