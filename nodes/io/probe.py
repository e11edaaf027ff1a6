"""Probe of an endpoint, whether anybody listens there: one plain connect, read by its errno.

A process that died refuses a connect at once; one that is stopped or hung still has the kernel accept for it, or a
backlog that is full; a host that vanished says nothing. PROTOCOL.md, section 11, draws its conclusions from that.

A socket file that is not there proves nothing by itself, as somebody may have removed it under a living node, which
will soon be found there again. The lock on the node's announcement tells: it ends with the process.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path
from typing import Final, cast

from peerfabric.discovery.files import is_proven_dead
from peerfabric.link.commands import Outcome

__all__ = [
    "PROBE_TIMEOUT",
    "Address",
    "Outcome",
    "Probe",
    "address_of",
    "family_of",
    "is_dialable",
    "is_tcp",
    "outcome_of",
]

PROBE_TIMEOUT: Final = 1.0
"""Seconds without an answer after which a probe is SILENT. A local refusal takes less than a millisecond and one
lost SYN is repeated by the kernel after a second, so waiting longer would only wait for that repetition."""

_TCP: Final = re.compile(r"tcp://(\[[^\[\]\s;]+\]|[^\[\]:/\s;*]+):([0-9]{1,5})", re.ASCII)
_IPC_PATH_BYTES_MAX: Final = 107  # sizeof(sockaddr_un.sun_path) - 1 on Linux

Address = str | bytes | tuple[str | int, ...]


def outcome_of(code: int, *, local: bool) -> Outcome | None:
    """Say what the errno `code` of a non-blocking connect means; None while it is still under way.

    `local` is True for a Unix-domain socket, whose EAGAIN is a full backlog: somebody listens and does not accept, a
    stopped process.
    """
    if code in (0, errno.EISCONN):
        return Outcome.ACCEPTED
    if code == errno.ECONNREFUSED:
        return Outcome.REFUSED
    if code == errno.EAGAIN:
        # On TCP it means that we ran out of ports, which says nothing about the peer.
        return Outcome.ACCEPTED if local else Outcome.SILENT
    if code in (errno.EINPROGRESS, errno.EALREADY):
        return None
    return Outcome.SILENT


class Probe:
    """One connect on its way: while `outcome` is None, `poll` once `fd` is writable, and `close` when done.

    Host names are not resolved, since a resolver may block for seconds: they are SILENT at once. The endpoints that
    peers tell each other are numeric.
    """

    def __init__(self, endpoint: str, now: float, life: tuple[str, int] | None = None) -> None:
        """Begin; `life` is the node that should listen at `endpoint`, and its epoch."""
        self._endpoint, self._life = endpoint, life
        self.expires_at = now + PROBE_TIMEOUT
        self.outcome: Outcome | None = None
        self._socket: socket.socket | None = None
        self._local = endpoint.startswith("ipc://")
        address = address_of(endpoint)
        if address is None:
            self.outcome = Outcome.SILENT
            return
        try:
            # Python's descriptors are close-on-exec by themselves.
            self._socket = socket.socket(family_of(address), socket.SOCK_STREAM)
        except OSError:
            # Out of descriptors, or no such address family here.
            self.outcome = Outcome.SILENT
            return
        self._socket.setblocking(False)
        self.outcome = self._judge(self._socket, self._socket.connect_ex(address))
        if self.outcome is not None:
            self.close()

    @property
    def fd(self) -> int:
        """The descriptor to watch for writing; -1 once closed, as it is when the outcome was known at once."""
        return self._socket.fileno() if self._socket is not None else -1

    def poll(self) -> Outcome | None:
        """Return the outcome; None while the kernel waits for an answer. Only to be asked once `fd` is writable:
        before that the kernel has no error to report either, which would look like success.
        """
        if self._socket is not None:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self.outcome = self._judge(self._socket, code)
        return self.outcome

    def expire(self, now: float) -> Outcome | None:
        """Give up as SILENT if `now` has reached `expires_at`; return the outcome, if there is one."""
        if self.outcome is None and now >= self.expires_at:
            self.outcome = Outcome.SILENT
        return self.outcome

    def close(self) -> None:
        """Close the descriptor. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _judge(self, connecting: socket.socket, code: int) -> Outcome | None:
        outcome = outcome_of(code, local=self._local)
        if code == errno.ENOENT and self._local and self._life is not None:
            folder = Path(self._endpoint.removeprefix("ipc://")).parent
            return Outcome.REFUSED if is_proven_dead(folder, *self._life) else outcome
        if outcome is Outcome.ACCEPTED and not self._local and _met_itself(connecting):
            return Outcome.REFUSED
        return outcome


def _met_itself(connected: socket.socket) -> bool:
    """Say whether this connection has both its ends here.

    On loopback the kernel may pick the very port that is asked for as our own; TCP's simultaneous open then
    connects the socket with itself, and nobody listens there at all.
    """
    try:
        return bool(connected.getsockname() == connected.getpeername())
    except OSError:
        # Connected and already reset by the other end: that was somebody else.
        return False


def address_of(endpoint: str) -> Address | None:
    """Return the socket address of an endpoint, or None if it is not `ipc://PATH` or `tcp://NUMERIC:PORT`.

    A tuple is an address for AF_INET (2 items) or AF_INET6 (4 items); anything else one for AF_UNIX.
    """
    if endpoint.startswith("ipc://"):
        path = endpoint.removeprefix("ipc://")
        if not path or "\0" in path or len(os.fsencode(path)) > _IPC_PATH_BYTES_MAX:
            return None
        # ZeroMQ writes Linux's abstract namespace with an @ in place of the leading NUL.
        return b"\0" + os.fsencode(path[1:]) if path.startswith("@") else path
    match = _TCP.fullmatch(endpoint)
    if match is None or int(match[2]) > 65535:
        return None
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        found = socket.getaddrinfo(match[1].strip("[]"), int(match[2]), type=socket.SOCK_STREAM, flags=flags)
    except (OSError, OverflowError, UnicodeError):
        return None
    family, *_, address = found[0]
    return cast(Address, address) if family in (socket.AF_INET, socket.AF_INET6) else None


def is_dialable(endpoint: str) -> bool:
    """Say whether ZeroMQ may be given `endpoint` to connect to: a path, or a numeric address and a port.

    Peers tell us endpoints, and ZeroMQ understands much more than we want to follow: other transports, source
    addresses (`tcp://eth0;host:1`), a NUL that ends the text early, and names of hosts, which it would look up in its
    one I/O thread, where a slow name server keeps all connections waiting. Discovery looks names up.
    """
    address = address_of(endpoint)
    return address is not None and (not isinstance(address, tuple) or address[1] != 0)


def is_tcp(endpoint: str) -> bool:
    """Whether whoever reaches this endpoint needs keys; else its file keeps all but our own user away."""
    return not endpoint.startswith("ipc://")


def family_of(address: Address) -> socket.AddressFamily:
    """The family of an address that `address_of` gave."""
    if not isinstance(address, tuple):
        return socket.AF_UNIX
    return socket.AF_INET6 if len(address) == 4 else socket.AF_INET
