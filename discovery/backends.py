"""Discovery backends of one node, as it chose them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from peerfabric.discovery.base import AnnounceKey, Backend, BackendSettings
from peerfabric.discovery.exchange import ExchangeBackend
from peerfabric.discovery.registry import RegistryBackend
from peerfabric.discovery.resolving import Resolver
from peerfabric.discovery.static import DNS, StaticBackend, parse_peers, peers_from_environment
from peerfabric.errors import ConfigError

BACKEND_NAMES: Final = ("registry", "static", "dns", "remembered", "mdns", "exchange")


def build_backends(
    *,
    fabric: str,
    discovery: str | Iterable[str] = "auto",
    peers: str | Iterable[str] = (),
    reach: str = "host",
    keys: Sequence[AnnounceKey] = (),
    folder: Path | None = None,
    interfaces: Callable[[], Sequence[str]] | None = None,
) -> tuple[Backend, ...]:
    """Return the backends that `discovery` names, in its order; none has announced or watched yet.

    Args:
        fabric: Name of the fabric; nodes of others are not found.
        discovery: "auto", or names out of `BACKEND_NAMES` and of other packages. "auto" is the registry, the static
            peers if there are any, and the exchange; with `reach="lan"` also the names to look up in DNS if there are
            any, the remembered peers if there is a folder for them, and mDNS.
        peers: Static peers, see `parse_peers`; those of the environment are added.
        reach: "host", or "lan" for nodes that listen to other hosts.
        keys: Prove announcements, one for each secret, the preferred one first; none in the clear.
        folder: Where peers are remembered; None: nowhere.
        interfaces: For mDNS: gives the addresses of the interfaces to use; None means those that the node announces.

    Raises:
        ConfigError: A name or a peer is wrong, peers are given and not used, a package has no usable backend, or the
            runtime folder cannot be trusted.
    """
    check_choice(discovery, peers, reach)
    endpoints = _endpoints(peers, reach)
    key_ids = tuple(key.key_id for key in keys)
    resolver = Resolver()
    backends: dict[str, Backend] = {}
    for name in _chosen(discovery, endpoints, reach, remember=folder is not None):
        match name:
            case "registry":
                backends[name] = _registry(fabric, keys)
            case "static":
                backends[name] = StaticBackend((e for e in endpoints if not e.startswith(DNS)), reach, resolver)
            case "dns":
                backends[name] = StaticBackend((e for e in endpoints if e.startswith(DNS)), reach, resolver, name)
            case "remembered":
                if folder is None:
                    raise ConfigError(
                        "discovery 'remembered' needs a folder to remember peers in; give spool=PATH or identity=PATH"
                    )
                from peerfabric.discovery.remembered import RememberedBackend

                backends[name] = RememberedBackend(folder, key_ids)
            case "mdns":
                from peerfabric.discovery.mdns import MdnsBackend  # loads asyncio, which others need not pay for

                backends[name] = MdnsBackend(fabric, reach=reach, keys=keys, interfaces=interfaces)
            case "exchange":
                backends[name] = ExchangeBackend()
            case _:
                from peerfabric.discovery.packages import load_backend

                backends[name] = load_backend(name, BackendSettings(fabric=fabric, reach=reach, key_ids=key_ids))
    return tuple(backends.values())


def _registry(fabric: str, keys: Sequence[AnnounceKey]) -> Backend:
    if not keys:
        return RegistryBackend(fabric)
    from peerfabric.discovery.keyed_registry import KeyedRegistry

    return KeyedRegistry(fabric, [key.key_id for key in keys])


def check_choice(discovery: str | Iterable[str], peers: str | Iterable[str], reach: str = "host") -> None:
    """Raise what `build_backends` would raise for these three, and open and load nothing.

    Raises:
        ConfigError: A name or a peer is wrong, or peers are given and not used.
    """
    given = parse_peers(peers, reach)
    names = _chosen(discovery, _endpoints(given, reach), reach, remember=False)
    for needed, used in (("dns", True), ("static", False)):
        if needed not in names and any(endpoint.startswith(DNS) is used for endpoint in given):
            raise ConfigError(f"peers= is not used by discovery={names!r}; add {needed!r} to it")


def _endpoints(peers: str | Iterable[str], reach: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*parse_peers(peers, reach), *peers_from_environment(reach))))


def _chosen(discovery: str | Iterable[str], endpoints: Sequence[str], reach: str, *, remember: bool) -> tuple[str, ...]:
    if discovery == "auto":
        static = ("static",) if any(not endpoint.startswith(DNS) for endpoint in endpoints) else ()
        if reach == "host":
            return ("registry", *static, "exchange")
        dns = ("dns",) if any(endpoint.startswith(DNS) for endpoint in endpoints) else ()
        remembered = ("remembered",) if remember else ()
        return ("registry", *static, *dns, *remembered, "mdns", "exchange")
    names = (discovery,) if isinstance(discovery, str) else tuple(dict.fromkeys(discovery))
    for name in names:
        if name not in BACKEND_NAMES and not _is_packaged(name):
            raise ConfigError(
                f"discovery {name!r} is not known; use 'auto' or some of {', '.join(BACKEND_NAMES)}, "
                f"or install the package that has it"
            )
    return names


def _is_packaged(name: object) -> bool:
    from peerfabric.discovery.packages import find_entry_point

    return isinstance(name, str) and find_entry_point(name) is not None
