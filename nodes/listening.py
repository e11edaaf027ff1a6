"""Where a node listens: from `listen=` to the endpoints of its inbox and outbox."""

from __future__ import annotations

import re
from typing import Final

from peerfabric.discovery.host import fabric_folder, ipc_endpoint
from peerfabric.errors import ConfigError

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
        folder = fabric_folder(fabric)
        inbox, outbox = ipc_endpoint(folder, node_id, "inbox"), ipc_endpoint(folder, node_id, "outbox")
        if inbox is None or outbox is None:
            return [_ANY_TCP], [_ANY_TCP]
        return ([inbox, _ANY_TCP], [outbox, _ANY_TCP]) if tcp_too else ([inbox], [outbox])
    if listen.startswith("ipc://") and len(listen) > len("ipc://"):
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
            f"listen={listen!r} would let other machines in, which needs security that this version has not; "
            f"listen on 127.0.0.1"
        )
    if host == "localhost":
        host = "127.0.0.1"
    return [f"tcp://{host}:{found['port']}"], [f"tcp://{host}:*"]
