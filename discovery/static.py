"""Static peers: endpoints that the user lists, in `peers=` or in the environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from typing import Final

from peerfabric.discovery.base import ENDPOINT_BYTES_MAX, Announcement, Candidate, Report, Sighting
from peerfabric.discovery.host import IPC_PATH_BYTES_MAX, LOOPBACK
from peerfabric.discovery.remarks import remark
from peerfabric.errors import ConfigError

PEERS_VARIABLE: Final = "PEERFABRIC_PEERS"

STATIC_PEERS_MAX: Final = 1024
"""Endpoints in one list. One that answers is enough to learn the others; a longer list is a mistake."""

_FORMS: Final = "write 'tcp://127.0.0.1:7700' or 'ipc:///path'"


# A host name, an IPv4 address, or an IPv6 address in brackets (with its scope); then the port.
_HOST_AND_PORT = re.compile(
    r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]*)|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]):(?P<port>[0-9]{1,5})"
)


def parse_peers(peers: str | Iterable[str]) -> tuple[str, ...]:
    """Return the endpoints that `peers` names, each once, in order.

    Args:
        peers: `tcp://host:port` or `ipc:///path`; one text may hold several, separated by commas or spaces.

    Raises:
        ConfigError: One of them cannot be connected to, or there are too many.
    """
    texts = [peers] if isinstance(peers, str) else peers
    words = [word for text in texts for word in _words(text)]
    endpoints = tuple(dict.fromkeys(parse_peer(word) for word in words))
    if len(endpoints) > STATIC_PEERS_MAX:
        raise ConfigError(
            f"{len(endpoints):,} peers are over the limit of {STATIC_PEERS_MAX:,}; list a few, they tell of the others"
        )
    return endpoints


def _words(text: object) -> list[str]:
    if not isinstance(text, str):
        raise ConfigError(f"peer {text!r} is {type(text).__name__}, not str; {_FORMS}")
    return [word for word in re.split(r"[,\s]+", text) if word]


def parse_peer(peer: str) -> str:
    """Return the endpoint that `peer` names.

    Raises:
        ConfigError: It cannot be connected to; the text says why.
    """
    try:
        size = len(peer.encode())
    except UnicodeEncodeError:  # a path that is not UTF-8, which no frame could tell others
        raise _not_a_peer(peer, "is not Unicode") from None
    if size > ENDPOINT_BYTES_MAX:
        raise _not_a_peer(peer[:40] + "…", f"is longer than {ENDPOINT_BYTES_MAX} bytes")
    if peer.startswith("dns:"):
        raise _not_a_peer(peer, "looking peers up in DNS is not available yet")
    if peer.startswith("ipc://"):
        return _checked_ipc(peer)
    return _checked_tcp(peer)


def _checked_ipc(peer: str) -> str:
    path = peer.removeprefix("ipc://")
    if not path.startswith("/"):
        raise _not_a_peer(peer, "the path is not absolute")
    if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX:
        raise _not_a_peer(peer, f"the path is longer than {IPC_PATH_BYTES_MAX} bytes")
    return peer


def _checked_tcp(peer: str) -> str:
    match = _HOST_AND_PORT.fullmatch(peer.removeprefix("tcp://"))
    if match is None:
        raise _not_a_peer(peer, "is not an endpoint")
    if not peer.startswith("tcp://"):
        raise _not_a_peer(peer, "does not say how to reach it")
    host, port = match["host"], int(match["port"])
    if not 1 <= port <= 65535:
        raise _not_a_peer(peer, "the port is not between 1 and 65535")
    if host in ("0.0.0.0", "[::]"):
        raise _not_a_peer(peer, "is an address to listen on, not to connect to")
    return f"tcp://{host}:{port}"


def _not_a_peer(peer: str, problem: str) -> ConfigError:
    return ConfigError(f"peer {peer!r}: {problem}; {_FORMS}")


def peers_from_environment() -> tuple[str, ...]:
    """Return the endpoints listed in `$PEERFABRIC_PEERS`, none if it is not set.

    Raises:
        ConfigError: As `parse_peers`.
    """
    try:
        return parse_peers(os.environ.get(PEERS_VARIABLE, ""))
    except ConfigError as error:
        raise ConfigError(f"${PEERS_VARIABLE}: {error}") from None


class StaticBackend:
    """Reports each listed endpoint once. Nobody learns of us in this way, so announcing does nothing."""

    name: Final = "static"

    def __init__(self, peers: str | Iterable[str]) -> None:
        self.endpoints = parse_peers(peers)
        self._closed = False

    def announce(self, announcement: Announcement) -> None:
        pass

    def watch(self, report: Report) -> None:
        away = [endpoint for endpoint in self.endpoints if not endpoint.startswith(("ipc://", *LOOPBACK))]
        if away:  # a name that leads to this machine all the same works
            remark(
                logging.WARNING,
                "peers on other machines cannot be reached by this version: %s; if they are on this one, "
                "write tcp://127.0.0.1:PORT",
                ", ".join(away),
            )
        for endpoint in self.endpoints:
            if self._closed:
                return
            report(Sighting(seen=Candidate(endpoint), source=self.name))

    def close(self) -> None:
        self._closed = True
