"""SUB socket: which outboxes of others it follows, and under which prefixes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import zmq

from peerfabric.discovery.log import log as _log
from peerfabric.nodes.io.descriptors import PENDING, RESERVE, table
from peerfabric.nodes.io.probe import is_dialable
from peerfabric.nodes.io.transport import Intake, ZmqSocket

if TYPE_CHECKING:
    from peerfabric.nodes.io.curve import Curve


class Updates(Intake):
    """A SUB, which may be followed by another that goes on with the same."""

    def __init__(self, sub: ZmqSocket, outboxes_max: int, curve: Curve | None = None) -> None:
        self._outboxes_max = outboxes_max
        self._curve = curve
        self._keys: dict[str, bytes] = {}
        """Of the outboxes that have one."""
        self._followed: dict[str, bool] = {}
        """Whether we are to be connected there."""
        self._prefixes: dict[bytes, int] = {}
        self.complain: Callable[[str], None] = _log.warning
        """Says what a person may have to see to."""
        self.waits = False
        """For descriptors, to connect to some of the outboxes."""
        super().__init__(sub, parts_min=2, parts_max=3)

    def replace(self, socket: ZmqSocket) -> None:
        super().replace(socket)
        for prefix in self._prefixes:
            socket.subscribe(prefix)
        self._followed = dict.fromkeys(self._followed, False)
        self.waits = bool(self._followed)

    def follow(self, endpoint: str, key: bytes = b"") -> bool:
        """Follow the outbox there, now or when there are descriptors; False: not an endpoint, or too many.

        With keys, one over TCP is followed under `key` only, and not without it.
        """
        if endpoint in self._followed:
            if self._keys.get(endpoint, b"") == key:
                return True
            self.unfollow(endpoint)
        if not is_dialable(endpoint) or len(self._followed) >= self._outboxes_max:
            return False
        if self._curve is not None and not self._curve.can_follow(endpoint, key):
            return False
        if key:
            self._keys[endpoint] = key
        self._connect(endpoint)
        return endpoint in self._followed

    def follow_others(self) -> None:
        """Connect to those that wait for it, as far as there are descriptors."""
        self.waits = False
        for endpoint in [endpoint for endpoint, connected in self._followed.items() if not connected]:
            if self.waits:
                return
            self._connect(endpoint)

    def _connect(self, endpoint: str) -> None:
        if not table.has(PENDING + RESERVE):
            self._followed[endpoint] = False
            self.waits = True
            return
        try:
            if self._curve is not None:  # before each connect: options of a socket count from the next one on
                self._curve.follow(self.socket, endpoint, self._keys.get(endpoint, b""))
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.complain(f"cannot follow {endpoint}: {error}")
            self._followed.pop(endpoint, None)
            self._keys.pop(endpoint, None)
        else:
            self._followed[endpoint] = True
        self.look()

    def unfollow(self, endpoint: str) -> None:
        self._keys.pop(endpoint, None)
        if self._followed.pop(endpoint, False):
            # ENOENT: libzmq gave up on that endpoint by itself, after a protocol error.
            with suppress(zmq.ZMQError):
                self.socket.disconnect(endpoint)
            self.look()

    def subscribe(self, prefix: bytes) -> None:
        count = self._prefixes.get(prefix, 0)
        if count == 0:
            self.socket.subscribe(prefix)
            self.look()
        self._prefixes[prefix] = count + 1

    def unsubscribe(self, prefix: bytes) -> None:
        count = self._prefixes.pop(prefix, 0)
        if count > 1:
            self._prefixes[prefix] = count - 1
        elif count == 1:
            self.socket.unsubscribe(prefix)
            self.look()
