"""Gateway: queues, topics and services of a fabric over HTTP, for programs that are not Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peerfabric.errors import ConfigError

if TYPE_CHECKING:
    from peerfabric.gateway.app import Gateway as Gateway
    from peerfabric.gateway.auth import Tokens as Tokens
    from peerfabric.gateway.limits import Limits as Limits

__all__ = ["Gateway", "Limits", "Tokens"]

_HOMES = {"Gateway": "app", "Limits": "limits", "Tokens": "auth"}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: commands look at this package without the extra `web`."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f"peerfabric.gateway.{home}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(
            f"the gateway needs {error.name}, which is not installed; pip install 'peerfabric[web]'"
        ) from error
