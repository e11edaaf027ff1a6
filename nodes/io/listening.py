"""Listening endpoints: from `listen=` to those of inbox and outbox, and what may be in the way there."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from peerfabric.discovery.host import fabric_folder, ipc_endpoint
from peerfabric.errors import ConfigError, EndpointInUse
from peerfabric.nodes.io.probe import Outcome, Probe, address_of

_TCP: Final = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:\[\]]+):(?P<port>\*|\d{1,5})")
_LOOPBACK: Final = re.compile(r"127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost")
_ANY_TCP: Final = "tcp://127.0.0.1:*"


def endpoints(listen: str, fabric: str, node_id: str, *, tcp_too: bool) -> tuple[list[str], list[str]]:
    """Where to bind the inbox and the outbox.

    `"auto"` is ipc in the runtime folder, which costs least on one host, or TCP where a path would be too
    long; `tcp_too` adds a TCP port for peers that are found by multicast.

    Raises:
        ConfigError: Not an endpoint, or one that others than this machine could reach.
    """
    if listen == "auto":
        inbox, outbox = new_endpoints(fabric_folder(fabric), node_id)
        if tcp_too and inbox != _ANY_TCP:
            return [inbox, _ANY_TCP], [outbox, _ANY_TCP]
        return [inbox], [outbox]
    if listen.startswith("ipc://") and len(listen) > len("ipc://"):
        try:
            listen.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"listen={listen!r} is not Unicode, so others cannot be told; use another path") from None
        return [listen], [f"{listen}.outbox"]
    found = _TCP.fullmatch(listen)
    if found is None:
        raise ConfigError(
            f"listen={listen!r} is not an endpoint; use 'auto', 'tcp://127.0.0.1:7700', 'tcp://127.0.0.1:*' "
            f"or 'ipc:///path'"
        )
    host = found["host"]
    if not _LOOPBACK.fullmatch(host):
        raise ConfigError(
            f"listen={listen!r} would let other machines in; give reach='lan' and a secret for that, "
            f"or listen on 127.0.0.1"
        )
    if host == "localhost":
        host = "127.0.0.1"
    return [f"tcp://{host}:{found['port']}"], [f"tcp://{host}:*"]


def new_endpoints(folder: Path, node_id: str) -> tuple[str, str]:
    """An inbox and an outbox in `folder`, or TCP if a path there would be too long."""
    return new_files(folder, node_id) or (_ANY_TCP, _ANY_TCP)


def new_files(folder: Path, node_id: str) -> tuple[str, str] | None:
    """An inbox and an outbox in `folder`; None if a path there would be too long."""
    inbox, outbox = ipc_endpoint(folder, node_id, "inbox"), ipc_endpoint(folder, node_id, "outbox")
    return (inbox, outbox) if inbox is not None and outbox is not None else None


def listening_path(endpoint: str) -> str | None:
    """Check an endpoint to bind and clear the way for it; return the path of its socket file, if it has one.

    libzmq takes over a path whoever listens there, and removes whatever file it finds: so we look first.
    """
    if not endpoint.startswith("ipc://"):
        host, _, port = endpoint.rpartition(":")
        if address_of(f"{host}:{0 if port == '*' else port}") is None:
            raise ConfigError(f"{endpoint!r} is not an endpoint to listen at; use tcp://127.0.0.1:* or ipc://PATH")
        return None
    path = endpoint.removeprefix("ipc://")
    if address_of(endpoint) is None or path[0] in "@*":
        raise ConfigError(f"{endpoint!r}: use ipc:// with the path of a socket file, at most 107 bytes long")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return path
    except OSError as error:
        raise ConfigError(f"cannot listen at {endpoint}: {error.strerror}; use a folder of one's own") from error
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} is not a socket; remove the file or use another path")
    probe = Probe(endpoint, 0.0)
    probe.close()
    if probe.outcome is not Outcome.REFUSED and os.path.lexists(path):
        raise EndpointInUse(endpoint)
    with suppress(FileNotFoundError):
        os.unlink(path)
    return path
