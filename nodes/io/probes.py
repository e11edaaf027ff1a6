"""Probes under way of one node: whether peers still listen, and why a handshake failed, each asked for a wire."""

from __future__ import annotations

import math
import select

from peerfabric.nodes.io.descriptors import FILES_RESERVE, table
from peerfabric.nodes.io.events import Probed, Refused
from peerfabric.nodes.io.greeting import Greeting
from peerfabric.nodes.io.probe import Outcome, Probe
from peerfabric.nodes.platform import Poller


class Probes:
    """What is asked of others, by descriptor, watched by `poller`. Belongs to the thread of the sockets."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self.asked: dict[int, tuple[int, Probe | Greeting]] = {}
        """Those that have not ended."""
        self._failed: dict[int, int] = {}
        """Descriptors of greetings, by wire."""

    def __contains__(self, fd: int) -> bool:
        return fd in self.asked

    def ask(self, wire: int, endpoint: str, now: float, life: tuple[str, int] | None) -> Probed | None:
        """Begin to find out whether `life` listens there; return what is known at once."""
        if not table.has(FILES_RESERVE):
            return Probed(wire, Outcome.SILENT)
        probe = Probe(endpoint, now, life)
        if probe.outcome is not None:
            return Probed(wire, probe.outcome)
        self.asked[probe.fd] = (wire, probe)
        self._poller.register(probe.fd, select.POLLOUT)
        return None

    def ask_why(self, refused: Refused, endpoint: str, now: float, *, gated: bool) -> list[Refused]:
        """Begin to find out why a handshake there failed, under a key or not; return what is known at once."""
        if not table.has(FILES_RESERVE):
            return [refused]
        greeting = Greeting(endpoint, now, gated=gated)
        if greeting.outcome is not None:
            return [Refused(refused.wire, greeting.outcome)]
        self.asked[greeting.fd] = (refused.wire, greeting)
        self._failed[refused.wire] = greeting.fd
        self._poller.register(greeting.fd, greeting.awaits)
        return []

    def forget(self, wire: int) -> None:
        """Nobody wants to know any more why the handshake of `wire` failed. It may not have."""
        fd = self._failed.pop(wire, None)
        if fd is not None:
            self._end(fd)

    def read(self, fd: int) -> Probed | Refused | None:
        """Return what has been found by that which is asked at `fd`, which is ready."""
        _, asked = self.asked[fd]
        outcome = asked.poll()
        if outcome is None and isinstance(asked, Greeting):
            self._poller.unregister(fd)
            self._poller.register(fd, asked.awaits)
        return self._found(fd, outcome)

    def expired(self, now: float) -> list[Probed | Refused]:
        """Give up those that have waited for long enough, and return what is known of them."""
        found = [self._found(fd, asked.expire(now)) for fd, (_, asked) in list(self.asked.items())]
        return [each for each in found if each is not None]

    @property
    def expires_at(self) -> float:
        """When the next one has waited for long enough."""
        return min((asked.expires_at for _, asked in self.asked.values()), default=math.inf)

    def close(self) -> None:
        """Close all. Their registrations end with them."""
        for _, asked in self.asked.values():
            asked.close()
        self.asked.clear()
        self._failed.clear()

    def _found(self, fd: int, outcome: Outcome | str | None) -> Probed | Refused | None:
        if outcome is None:
            return None
        wire = self.asked[fd][0]
        self._end(fd)
        if isinstance(outcome, Outcome):
            return Probed(wire, outcome)
        self._failed.pop(wire, None)
        return Refused(wire, outcome)

    def _end(self, fd: int) -> None:
        _, asked = self.asked.pop(fd)
        self._poller.unregister(fd)  # before it is closed: its number may come back at once for something else
        asked.close()
