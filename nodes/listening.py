"""Where a node listens: from `listen=` to the endpoints of its inbox and outbox, and what may be in the way there."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from contextlib import suppress
from typing import Final

from peerfabric.discovery.host import fabric_folder, ipc_endpoint, shut_path
from peerfabric.errors import ConfigError, EndpointInUse
from peerfabric.nodes.probe import Address, Outcome, Probe, address_of, family_of

_TCP: Final = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:\[\]]+):(?P<port>\*|\d{1,5})")
_LOOPBACK: Final = re.compile(r"127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost")
_ANY_TCP: Final = "tcp://127.0.0.1:*"
_BACKLOG: Final = 1024


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


class Listener:
    """One endpoint at which the kernel listens for us; ZeroMQ is lent a copy of its descriptor to accept from.

    While it has none, as its socket is being made anew, who connects waits in the kernel's queue: he finds somebody who
    listens and does not answer, as a stopped process would, and nobody takes us for dead. To take back what was lent
    is no way to keep peers out: libzmq ends the connections of a listener that it unbinds.
    """

    def __init__(self, endpoint: str) -> None:
        """Listen at `ipc://PATH`, `tcp://HOST:PORT` or `tcp://HOST:*`, with a numeric HOST.

        Raises:
            EndpointInUse: Somebody listens there.
            ConfigError: Not such an endpoint, or one that cannot be bound here.
        """
        self._path = listening_path(endpoint)
        host, _, port = endpoint.rpartition(":")
        address = address_of(endpoint if self._path is not None else f"{host}:{0 if port == '*' else port}")
        assert address is not None
        try:
            self._socket = socket.socket(family_of(address), socket.SOCK_STREAM)
            try:
                self._listen(address)
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EndpointInUse(endpoint) from error
            raise ConfigError(
                f"cannot listen at {endpoint}: {error.strerror}; use an address of this host and an existing folder"
            ) from error
        self.endpoint = endpoint if self._path is not None else f"{host}:{self._socket.getsockname()[1]}"
        """The real one, with a port."""
        self.lent = False
        """Whether ZeroMQ's present socket accepts from it."""
        self._hidden = False

    def _listen(self, address: Address) -> None:
        if self._path is None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(address)
        if self._path is not None:
            os.chmod(self._path, 0o600)  # for our user only, before anybody can connect
        self._socket.listen(_BACKLOG)
        self._socket.setblocking(False)

    def copy(self) -> int:
        """A descriptor of the same socket, for ZeroMQ, which closes it."""
        return os.dup(self._socket.fileno())

    def hide(self, hidden: bool) -> None:
        """Let nobody find a socket file, or everybody again: libzmq ends the process if it cannot accept there.

        TCP ports stay: there it only tries again, as fast as it can.
        """
        if self._path is not None and hidden != self._hidden:
            aside = shut_path(self._path)
            with suppress(OSError):  # the folder was removed
                os.rename(*((self._path, aside) if hidden else (aside, self._path)))
            self._hidden = hidden

    def close(self) -> None:
        """Stop listening, and remove the socket file. May be called twice."""
        self._socket.close()
        if self._path is not None:
            with suppress(OSError):
                os.unlink(shut_path(self._path) if self._hidden else self._path)
            self._path = None

    def abandon(self) -> None:
        """In a forked child: it is the parent who listens."""
        self._socket.close()


def listening_path(endpoint: str) -> str | None:
    """Check an endpoint to bind and clear the way for it; return the path of its socket file, if it has one.

    A socket file is left by whoever was killed, and bind refuses what is there: so we look whose it is.
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
    if probe.outcome is not Outcome.REFUSED:
        raise EndpointInUse(endpoint)
    with suppress(FileNotFoundError):
        os.unlink(path)
    return path
