"""Testing: what helps to test handlers, services and pipelines, with or without pytest.

The names load on first use, so that pytest, which loads the plugin of every package that is installed, loads no more.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peerfabric.testing.fabric import AsyncFabric, Fabric
    from peerfabric.testing.given import GivenMessage, message

__all__ = ["AsyncFabric", "Fabric", "GivenMessage", "message"]

_HOMES = {"AsyncFabric": "fabric", "Fabric": "fabric", "GivenMessage": "given", "message": "given"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
