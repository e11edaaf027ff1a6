"""Greeting of ZMTP: which mechanism a TCP listener wants, asked after a handshake with it has failed.

Where two peers want different mechanisms, both close as soon as they see it. With libzmq 4.3.5 the slower one, half of
the time either of them, sees only that the other has closed, and that is how another key looks, too. A listener tells
its mechanism to whoever begins a greeting, before it has to be told one: so a short call of our own settles it.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import Final

from peerfabric.nodes.io.probe import address_of, family_of

GREETING_TIMEOUT: Final = 1.0
"""Seconds after which nothing is known of the mechanism."""

_BEGINNING: Final = b"\xff" + bytes(8) + b"\x7f" + b"\x03"
"""The signature and the major version (RFC 23); libzmq answers that with the rest of its greeting."""
_MECHANISM: Final = slice(12, 32)

_UNDER_WAY: Final = (0, errno.EINPROGRESS)


class Greeting:
    """One call that asks for the mechanism of a listener: while `outcome` is None, `poll` once `fd` is ready.

    Args:
        gated: Whether the handshake that failed was under a key.
    """

    def __init__(self, endpoint: str, now: float, *, gated: bool) -> None:
        """Begin at `now`."""
        self.expires_at = now + GREETING_TIMEOUT
        self.outcome: str | None = None
        """Why the handshake failed, a reason of PeerView."""
        self.awaits = select.POLLOUT
        """What to watch `fd` for."""
        self._gated = gated
        self._told = b""
        self._socket: socket.socket | None = None
        address = address_of(endpoint)
        try:
            if address is None:
                raise OSError(errno.EADDRNOTAVAIL, "not a numeric address")
            self._socket = socket.socket(family_of(address), socket.SOCK_STREAM)
            self._socket.setblocking(False)
            if self._socket.connect_ex(address) not in _UNDER_WAY:
                self._end()
        except OSError:
            self._end()

    @property
    def fd(self) -> int:
        """The descriptor to watch; -1 once closed."""
        return self._socket.fileno() if self._socket is not None else -1

    def poll(self) -> str | None:
        """Go on, and return the outcome if there is one. Only once `fd` is ready for what is awaited."""
        if self._socket is None:
            return self.outcome
        try:
            if self.awaits == select.POLLOUT:
                self._socket.send(_BEGINNING)
                self.awaits = select.POLLIN
                return None
            read = self._socket.recv(_MECHANISM.stop - len(self._told))
        except BlockingIOError:
            return None
        except OSError:
            read = b""
        self._told += read
        if not read or len(self._told) == _MECHANISM.stop:
            self._end()
        return self.outcome

    def expire(self, now: float) -> str | None:
        """Give up if `now` has reached `expires_at`; return the outcome, if there is one."""
        if self.outcome is None and now >= self.expires_at:
            self._end()
        return self.outcome

    def close(self) -> None:
        """Close the descriptor. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _end(self) -> None:
        mechanism = self._told[_MECHANISM].rstrip(b"\0").decode("latin-1") if len(self._told) == _MECHANISM.stop else ""
        self.outcome = why(mechanism, gated=self._gated)


def why(mechanism: str, *, gated: bool) -> str:
    """Why a handshake fails with a listener that wants `mechanism` (empty: it did not say), under a key or without."""
    if mechanism and mechanism != ("CURVE" if gated else "NULL"):
        return "mechanism"
    return "secret" if gated else ""
