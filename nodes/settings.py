"""Settings of a node, given at construction and checked."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from peerfabric.discovery.backends import check_choice
from peerfabric.errors import ConfigError
from peerfabric.names import check_name
from peerfabric.nodes.io.listening import endpoints
from peerfabric.options import Options

FABRIC_VARIABLE: Final = "PEERFABRIC_FABRIC"


class Settings(Struct, frozen=True, kw_only=True):
    """The arguments of `Node` and `AsyncNode`, with what stands for None; `spool` is an absolute path."""

    name: str
    fabric: str
    listen: str
    peers: tuple[str, ...]
    discovery: str | Sequence[str]
    options: Options
    spool: str | None
    fsync: bool
    signals: bool


def checked_settings(
    name: str | None,
    fabric: str | None,
    listen: str,
    peers: Sequence[str],
    discovery: str | Sequence[str],
    options: Options | None,
    spool: str | os.PathLike[str] | None,
    fsync: bool,
    signals: bool,
) -> Settings:
    """The settings of a node that was given this.

    Raises:
        ConfigError: One of these cannot work.
    """
    if options is not None and not isinstance(options, Options):
        raise ConfigError(
            f"options={options!r} are no Options; give Options(drain_timeout=…), or None for the defaults"
        )
    if not isinstance(listen, str):
        raise ConfigError(f"listen={listen!r} is no text; use 'auto', 'tcp://127.0.0.1:7700' or 'ipc:///path'")
    if not isinstance(fsync, bool):
        raise ConfigError(f"fsync={fsync!r} is neither True nor False; a spool's folder is given as spool=PATH")
    if spool is not None and not isinstance(spool, str | os.PathLike):
        raise ConfigError(f"spool={spool!r} is no folder; give a path, or None for no spool")
    if not isinstance(signals, bool):
        raise ConfigError(f"signals={signals!r} is no bool; give True for a node that SIGINT and SIGTERM end in order")
    if isinstance(peers, str):
        raise ConfigError(f"peers={peers!r} is one string; give a list of endpoints")
    peers = _listed("peers", peers, "a list of endpoints, such as ['tcp://127.0.0.1:7700']")
    if not isinstance(discovery, str):
        discovery = _listed("discovery", discovery, "'auto', or a list such as ['registry', 'static']")
    name = check_name("node", name) if name is not None else _default_name()
    fabric = check_name("fabric", fabric if fabric is not None else os.environ.get(FABRIC_VARIABLE) or "default")
    if fsync and spool is None:
        raise ConfigError(
            "fsync=True needs a spool to sync; give spool=PATH, a folder of this node alone, "
            "or fsync=True to the consumer whose ledger shall be synced"
        )
    if spool is not None and not os.fspath(spool):
        raise ConfigError("spool='' is no folder; give a path, or None for no spool")
    check_choice(discovery, peers)
    if listen != "auto":
        endpoints(listen, fabric, "", tcp_too=False)
    return Settings(
        name=name,
        fabric=fabric,
        listen=listen,
        peers=peers,
        discovery=discovery,
        options=options if options is not None else Options(),
        spool=os.path.abspath(spool) if spool is not None else None,
        fsync=fsync,
        signals=signals,
    )


def _listed(name: str, value: object, right: str) -> tuple[Any, ...]:
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise ConfigError(f"{name}={value!r} is no list; give {right}")
    return tuple(value)


def _default_name() -> str:
    program = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(sys.argv[0] if sys.argv else "").removesuffix(".py"))
    return f"{program.strip('-')[:200] or 'node'}-{os.getpid()}"
