"""Whole fabrics under many seeds; see tests/world.py. `WORLD_SEED=7 pytest tests/test_world.py` replays one."""

from __future__ import annotations

import os

import pytest

from tests.world import World

SEEDS = range(330)
LONG = range(1000, 6000)


def _seeds(default: range) -> list[int]:
    chosen = os.environ.get("WORLD_SEED")
    return [int(chosen)] if chosen else list(default)


@pytest.mark.parametrize("seed", _seeds(SEEDS))
def test_world(seed: int) -> None:
    """Whatever happens, nothing accepted is lost, nothing runs twice without a reason, and all becomes quiet."""
    World(seed).run()


@pytest.mark.long
@pytest.mark.parametrize("seed", _seeds(LONG))
def test_world_for_long(seed: int) -> None:
    """The same under thousands of seeds."""
    World(seed).run()
