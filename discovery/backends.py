"""Discovery backends of one node, as it chose them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from peerfabric.discovery.base import Backend
from peerfabric.discovery.exchange import ExchangeBackend
from peerfabric.discovery.registry import RegistryBackend
from peerfabric.discovery.static import StaticBackend, parse_peers, peers_from_environment
from peerfabric.errors import ConfigError

BACKEND_NAMES: Final = ("registry", "static", "mdns", "exchange")


def build_backends(
    *,
    fabric: str,
    discovery: str | Iterable[str] = "auto",
    peers: str | Iterable[str] = (),
) -> tuple[Backend, ...]:
    """Return the backends that `discovery` names, in its order; none has announced or watched yet.

    Args:
        fabric: Name of the fabric; nodes of others are not found.
        discovery: "auto", or names out of `BACKEND_NAMES`. "auto" is the registry, the static peers if there are any,
            and the exchange. mDNS is not in it, as a node listens on its own machine only.
        peers: Static peers, see `parse_peers`; those of the environment are added.

    Raises:
        ConfigError: A name or a peer is wrong, peers are given and not used, or the runtime folder cannot be trusted.
    """
    check_choice(discovery, peers)
    endpoints = tuple(dict.fromkeys((*parse_peers(peers), *peers_from_environment())))
    names = _chosen(discovery, static=bool(endpoints))
    backends: dict[str, Backend] = {}
    for name in names:
        match name:
            case "registry":
                backends[name] = RegistryBackend(fabric)
            case "static":
                backends[name] = StaticBackend(endpoints)
            case "mdns":
                from peerfabric.discovery.mdns import MdnsBackend  # loads asyncio, which others need not pay for

                backends[name] = MdnsBackend(fabric)
            case _:
                backends[name] = ExchangeBackend()
    return tuple(backends.values())


def check_choice(discovery: str | Iterable[str], peers: str | Iterable[str]) -> None:
    """Raise what `build_backends` would raise for these two, and open nothing.

    Raises:
        ConfigError: A name or a peer is wrong, or peers are given and not used.
    """
    given, more = parse_peers(peers), peers_from_environment()
    names = _chosen(discovery, static=bool(given or more))
    if given and "static" not in names:
        raise ConfigError(f"peers= is not used by discovery={names!r}; add 'static' to it")


def _chosen(discovery: str | Iterable[str], *, static: bool) -> tuple[str, ...]:
    if discovery == "auto":
        return ("registry", "static", "exchange") if static else ("registry", "exchange")
    names = (discovery,) if isinstance(discovery, str) else tuple(dict.fromkeys(discovery))
    for name in names:
        if name not in BACKEND_NAMES:
            raise ConfigError(f"discovery {name!r} is not known; use 'auto' or some of {', '.join(BACKEND_NAMES)}")
    return names
