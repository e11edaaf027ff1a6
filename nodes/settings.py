"""Settings of a node, given at construction and checked.

A secret is never among them: they name the files and variables in which it is.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from peerfabric.discovery.backends import check_choice
from peerfabric.errors import ConfigError
from peerfabric.names import check_name
from peerfabric.nodes.io.listening import endpoints
from peerfabric.options import Options

FABRIC_VARIABLE: Final = "PEERFABRIC_FABRIC"

Reach: TypeAlias = Literal["host", "lan"]
REACHES: Final = ("host", "lan")

INSECURE: Final = "insecure"
"""What stands for no secret where others can reach a node."""

SECRETS_MAX: Final = 2
"""A fabric that changes its secret has two for a while."""

_SOURCE: Final = re.compile(r"file:.+|env:[A-Za-z_][A-Za-z0-9_]*", re.DOTALL)
_NODE_ID: Final = re.compile(r"[0-9a-f]{32}")
_SECRET_STEP: Final = (
    "give secret='file:PATH' with a file that `peerfabric keygen PATH` makes, or 'env:NAME', or up to two of these; "
    "or secret='insecure' where everybody on the network may read and write"
)


class Hidden:
    """An argument that may be a secret by mistake: nothing that shows this object shows it."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<hidden>"

    def __reduce__(self) -> Any:
        raise TypeError("a secret cannot be pickled; give its source to a node of each process")


class Settings(Struct, frozen=True, kw_only=True):
    """The arguments of `Node` and `AsyncNode`, with what stands for None; `spool` and `identity` are absolute paths."""

    name: str
    fabric: str
    listen: str
    peers: tuple[str, ...]
    discovery: str | Sequence[str]
    options: Options
    spool: str | None
    fsync: bool
    signals: bool
    listen_source: str = ""
    """The variable or file that gives `listen`; empty: the argument."""
    reach: Reach = "host"
    secrets: tuple[str, ...] = ()
    """Where its secrets are, as `file:PATH` or `env:NAME`; none in the clear."""
    identity: str | None = None
    allow: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    advertise: tuple[str, ...] = ()
    config: str | None = None

    @property
    def folder(self) -> Path | None:
        """Where the node keeps what it is to know after the next start; None: nowhere."""
        if self.spool is not None:
            return Path(self.spool)
        return Path(self.identity).parent if self.identity is not None else None


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
    *,
    reach: str = "host",
    secret: object = None,
    identity: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    revoked: Sequence[str] = (),
    interfaces: Sequence[str] = (),
    advertise: Sequence[str] = (),
    config: str | os.PathLike[str] | None = None,
) -> Settings:
    """The settings of a node that was given this.

    Args:
        secret: Comes as `Hidden`, so that no traceback shows it, or as what that has.

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
            "fsync=True needs a spool to sync; give spool=PATH, a folder of this user alone, "
            "or fsync=True to the consumer whose ledger shall be synced"
        )
    if spool is not None and not os.fspath(spool):
        raise ConfigError("spool='' is no folder; give a path, or None for no spool")
    if reach not in REACHES:
        raise ConfigError(f"reach={reach!r} is not known; give 'host' for this machine only, or 'lan'")
    check_choice(discovery, peers, reach)
    sources = _sources(secret if isinstance(secret, Hidden) else Hidden(secret), reach)
    interfaces = _texts("interfaces", interfaces, "the names of interfaces, such as ['eth0']")
    advertise = _texts("advertise", advertise, "addresses such as ['10.0.0.5']")
    allow, revoked = _node_ids("allow", allow), _node_ids("revoked", revoked)
    if (allow or revoked) and not sources:
        raise ConfigError(f"allow= and revoked= need a secret, as nobody can prove who he is without; {_SECRET_STEP}")
    if reach == "lan":
        from peerfabric.nodes.interfaces import parse_advertised  # with what only nodes of a LAN need
        from peerfabric.nodes.io.ports import parse_listen

        parse_listen(listen)
        for each in advertise:
            parse_advertised(each)
    elif interfaces or advertise:
        raise ConfigError("interfaces= and advertise= are for the LAN; give reach='lan', or leave them out")
    elif listen != "auto":
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
        reach=reach,  # type: ignore[arg-type]  # checked above
        secrets=sources,
        identity=_path("identity", identity, "a file for the node's key"),
        allow=allow,
        revoked=revoked,
        interfaces=interfaces,
        advertise=advertise,
        config=_path("config", config, "a TOML file"),
    )


def _sources(secret: Hidden, reach: str) -> tuple[str, ...]:
    """Where the secrets are; none for a node in the clear. What is given is in no error and in no frame of one."""
    problem = _problem(secret.value, reach)
    if problem:
        raise ConfigError(problem)
    if secret.value is None or secret.value == INSECURE:
        return ()
    given: Any = (secret.value,) if isinstance(secret.value, str) else secret.value
    return tuple(map(_absolute, given))


def _problem(value: object, reach: str) -> str:
    """What is wrong with `secret=`, without saying what it is; empty: nothing."""
    if value is None:
        return f"reach='lan' lets other machines in and needs a secret; {_SECRET_STEP}" if reach == "lan" else ""
    if isinstance(value, str):
        if value == INSECURE:
            return ""
        value = (value,)
    if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        return f"secret= takes one text or a list of two; {_SECRET_STEP}"
    if not 0 < len(value) <= SECRETS_MAX:
        return f"secret= takes one source or two, and {len(value)} are given; {_SECRET_STEP}"
    if INSECURE in value:
        return "secret='insecure' stands alone, as with a secret nothing is in the clear; leave it out"
    if not all(_SOURCE.fullmatch(each) for each in value):
        return (
            f"secret= says where the secret is, and is not the secret itself, which would be read in tracebacks and "
            f"in the list of processes; {_SECRET_STEP}"
        )
    return (
        "secret= names the same source twice; give each once" if len(set(map(_absolute, value))) != len(value) else ""
    )


def _absolute(source: str) -> str:
    return f"file:{os.path.abspath(source.removeprefix('file:'))}" if source.startswith("file:") else source


def _node_ids(name: str, value: object) -> tuple[str, ...]:
    found = _texts(name, value, "node ids, as `peerfabric id` and peers() show them")
    for each in found:
        if not _NODE_ID.fullmatch(each):
            raise ConfigError(f"{name}={each!r} is no node id, which has 32 digits and letters a to f; see peers()")
    return found


def _texts(name: str, value: object, right: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigError(f"{name}={value!r} is one string; give a list of {right}")
    found = _listed(name, value, f"a list of {right}")
    for each in found:
        if not isinstance(each, str) or not each:
            raise ConfigError(f"{name} has {each!r}, which is no text; give a list of {right}")
    return found


def _path(name: str, value: object, right: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigError(f"{name}={value!r} is no path; give {right}, or None")
    return os.path.abspath(os.fspath(value))


def _listed(name: str, value: object, right: str) -> tuple[Any, ...]:
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise ConfigError(f"{name}={value!r} is no list; give {right}")
    return tuple(value)


def _default_name() -> str:
    program = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(sys.argv[0] if sys.argv else "").removesuffix(".py"))
    return f"{program.strip('-')[:200] or 'node'}-{os.getpid()}"
