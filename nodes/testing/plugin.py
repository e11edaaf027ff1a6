"""Plugin of pytest: the fixtures `fabric` and `async_fabric`, there wherever this package is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from peerfabric.testing.fabric import AsyncFabric, Fabric


@pytest.fixture(name="fabric")
def _fabric() -> Iterator[Fabric]:
    """A fabric of this test alone: nodes that are made in it meet only each other, and are closed with it."""
    from peerfabric.testing.fabric import Fabric  # with the first test that asks for it

    with Fabric() as fabric:
        yield fabric


@pytest.fixture(name="async_fabric")
def _async_fabric(fabric: Fabric) -> AsyncFabric:
    """The same for a test that is a coroutine, and awaits."""
    from peerfabric.testing.fabric import AsyncFabric

    return AsyncFabric(fabric)
