"""Static peers: endpoints that the user lists, in `peers=` or in the environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from typing import Final

from peerfabric.discovery.base import (
    ENDPOINT_BYTES_MAX,
    Announcement,
    Candidate,
    Event,
    Report,
    Sighting,
    Withdrawn,
)
from peerfabric.discovery.host import IPC_PATH_BYTES_MAX, LOOPBACK
from peerfabric.discovery.remarks import remark
from peerfabric.discovery.resolving import Name, Resolver, is_numeric
from peerfabric.errors import ConfigError

PEERS_VARIABLE: Final = "PEERFABRIC_PEERS"

STATIC_PEERS_MAX: Final = 1024
"""Endpoints in one list. One that answers is enough to learn the others; a longer list is a mistake."""

DNS: Final = "dns:"
"""How a name begins behind which each address is a node."""

_FORMS: Final = "write 'tcp://127.0.0.1:7700' or 'ipc:///path'"
_LAN_FORMS: Final = "write 'tcp://HOST:7700', 'HOST:7700', 'dns:NAME:7700' or 'ipc:///path'"


# A host name, an IPv4 address, or an IPv6 address in brackets (with its scope); then the port.
_HOST_AND_PORT = re.compile(
    r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]*)|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]):(?P<port>[0-9]{1,5})"
)


_NUMBERS = re.compile(r"[0-9.]+|0[xX][0-9A-Fa-f]+")
"""What the system's resolver may take for a number in an old notation, such as 127.1."""


def parse_peers(peers: str | Iterable[str], reach: str = "host") -> tuple[str, ...]:
    """Return the endpoints that `peers` names, each once, in order.

    Args:
        peers: `tcp://host:port` or `ipc:///path`; with `reach="lan"` also `host:port`, which becomes the former, and
            `dns:name:port`. One text may hold several, separated by commas or spaces.
        reach: Of the node.

    Raises:
        ConfigError: One of them cannot be connected to, or there are too many.
    """
    texts = [peers] if isinstance(peers, str) else peers
    words = [word for text in texts for word in _words(text, reach)]
    endpoints = tuple(dict.fromkeys(parse_peer(word, reach) for word in words))
    if len(endpoints) > STATIC_PEERS_MAX:
        raise ConfigError(
            f"{len(endpoints):,} peers are over the limit of {STATIC_PEERS_MAX:,}; list a few, they tell of the others"
        )
    return endpoints


def _words(text: object, reach: str) -> list[str]:
    if not isinstance(text, str):
        raise ConfigError(f"peer {text!r} is {type(text).__name__}, not str; {_forms(reach)}")
    return [word for word in re.split(r"[,\s]+", text) if word]


def parse_peer(peer: str, reach: str = "host") -> str:
    """Return the endpoint that `peer` names.

    Raises:
        ConfigError: It cannot be connected to; the text says why.
    """
    try:
        size = len(peer.encode())
    except UnicodeEncodeError:  # a path that is not UTF-8, which no frame could tell others
        raise _not_a_peer(peer, "is not Unicode", reach) from None
    if size > ENDPOINT_BYTES_MAX:
        raise _not_a_peer(peer[:40] + "…", f"is longer than {ENDPOINT_BYTES_MAX} bytes", reach)
    if peer.startswith(DNS):
        return _checked_dns(peer, reach)
    if peer.startswith("ipc://"):
        return _checked_ipc(peer, reach)
    return _checked_tcp(peer, reach)


def _checked_dns(peer: str, reach: str) -> str:
    match = _HOST_AND_PORT.fullmatch(peer.removeprefix(DNS))
    if match is None or is_numeric(match["host"].strip("[]")):
        raise _not_a_peer(peer, "is not 'dns:', the name of a host, ':' and a port", reach)
    if reach == "host":
        raise _not_a_peer(peer, "leads to other machines, which takes reach='lan'", reach)
    return f"{DNS}{match['host']}:{_checked_port(peer, match['port'], reach)}"


def _checked_ipc(peer: str, reach: str) -> str:
    path = peer.removeprefix("ipc://")
    if not path.startswith("/"):
        raise _not_a_peer(peer, "the path is not absolute", reach)
    if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX:
        raise _not_a_peer(peer, f"the path is longer than {IPC_PATH_BYTES_MAX} bytes", reach)
    return peer


def _checked_tcp(peer: str, reach: str) -> str:
    match = _HOST_AND_PORT.fullmatch(peer.removeprefix("tcp://"))
    if match is None:
        raise _not_a_peer(peer, "is not an endpoint", reach)
    if not peer.startswith("tcp://") and reach == "host":
        raise _not_a_peer(peer, "does not say how to reach it", reach)
    host, port = match["host"], _checked_port(peer, match["port"], reach)
    bare = host.strip("[]")
    if host.startswith("[") != (":" in bare) or (":" in bare and not is_numeric(bare)):
        raise _not_a_peer(peer, "is not an endpoint", reach)
    if bare in ("0.0.0.0", "::"):
        raise _not_a_peer(peer, "is an address to listen on, not to connect to", reach)
    if not is_numeric(bare) and _NUMBERS.fullmatch(bare):
        raise _not_a_peer(peer, "is neither an IPv4 address nor the name of a host", reach)
    return f"tcp://{host}:{port}"


def _checked_port(peer: str, port: str, reach: str) -> int:
    if not 1 <= int(port) <= 65535:
        raise _not_a_peer(peer, "the port is not between 1 and 65535", reach)
    return int(port)


def _forms(reach: str) -> str:
    return _FORMS if reach == "host" else _LAN_FORMS


def _not_a_peer(peer: str, problem: str, reach: str) -> ConfigError:
    return ConfigError(f"peer {peer!r}: {problem}; {_forms(reach)}")


def name_of(endpoint: str) -> Name | None:
    """The name of a host, and its port, in an endpoint of `parse_peers`; None if nothing need be looked up."""
    match = _HOST_AND_PORT.fullmatch(endpoint.removeprefix("tcp://").removeprefix(DNS))
    if endpoint.startswith("ipc://") or match is None or is_numeric(match["host"].strip("[]")):
        return None
    return Name(match["host"], int(match["port"]))


def peers_from_environment(reach: str = "host") -> tuple[str, ...]:
    """Return the endpoints listed in `$PEERFABRIC_PEERS`, none if it is not set.

    Raises:
        ConfigError: As `parse_peers`.
    """
    try:
        return parse_peers(os.environ.get(PEERS_VARIABLE, ""), reach)
    except ConfigError as error:
        raise ConfigError(f"${PEERS_VARIABLE}: {error}") from None


class StaticBackend:
    """Proposes each listed endpoint, and of each name all that it leads to. Nobody learns of us in this way, so
    announcing does nothing.
    """

    def __init__(
        self, endpoints: Iterable[str], reach: str = "host", resolver: Resolver | None = None, name: str = "static"
    ) -> None:
        """`endpoints` are of `parse_peers`; `resolver` may be shared with others, and this closes it."""
        self.name: Final = name
        self.endpoints = tuple(endpoints)
        self._reach = reach
        self.resolver = resolver if resolver is not None else Resolver()
        self._closed = False
        self._report: Report | None = None
        self._found: dict[Name, tuple[str, ...]] = {}

    def announce(self, announcement: Announcement) -> None:
        pass

    def watch(self, report: Report) -> None:
        away = [endpoint for endpoint in self.endpoints if not endpoint.startswith(("ipc://", *LOOPBACK))]
        if away and self._reach == "host":  # a name that leads to this machine all the same works
            remark(
                logging.WARNING,
                "peers on other machines cannot be reached with reach='host': %s; give reach='lan' and a secret, or, "
                "if they are on this one, write tcp://127.0.0.1:PORT",
                ", ".join(away),
            )
        self._report = report
        names = []
        for endpoint in self.endpoints:
            name = name_of(endpoint)
            if name is None:
                self._tell([Sighting(seen=Candidate(endpoint), source=self.name)])
            elif name.host == "localhost":  # as nodes that listen there understand it
                self._tell([Sighting(seen=Candidate(f"tcp://127.0.0.1:{name.port}"), source=self.name)])
            else:
                names.append(name)
        self.resolver.follow(names, self._leads_to)

    def close(self) -> None:
        self._closed = True
        self.resolver.close()

    def _leads_to(self, name: Name, endpoints: tuple[str, ...]) -> None:
        """In the thread of the resolver: a name leads to these, and no longer to those of before."""
        before = {endpoint for found in self._found.values() for endpoint in found}
        self._found[name] = endpoints
        now = {endpoint: None for found in self._found.values() for endpoint in found}
        self._tell([Sighting(seen=Candidate(endpoint), source=self.name) for endpoint in now if endpoint not in before])
        self._tell([Withdrawn(endpoint=endpoint, source=self.name) for endpoint in sorted(before - now.keys())])

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            if self._closed or self._report is None:
                return
            self._report(event)
