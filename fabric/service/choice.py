"""Choice of a server: whom of those who serve a name the next call is for.

    least (calls of ours there + calls of others, as last told) / capacity + errors in a row

Ties go in turn, and to this node itself first. Least outstanding alone would feed whoever fails fastest; calls of
others are told in each REPLY, as they cannot be seen from here. What was told, and errors, count for a while only: a
server that is not asked would else never be heard of again.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final

from peerfabric.link.link import Link
from peerfabric.link.links import OURSELVES

TOLD_FOR: Final = 1.0
"""Seconds for which the calls of others count that a server has told."""
ERRORS_FOR: Final = 5.0
"""Seconds after the last of them for which errors in a row count."""
ERRORS_MAX: Final = 10
BARRED_MAX: Final = 60.0
"""Seconds that a busy server is left alone at most, whatever it says."""


class Server:
    """One service at one peer, as its callers here see it."""

    __slots__ = (
        "barred_until",
        "capacity",
        "errors",
        "errors_until",
        "link",
        "others",
        "others_until",
        "outstanding",
        "peer",
    )

    def __init__(self, link: Link, capacity: int) -> None:
        self.link, self.peer = link, link.peer
        self.capacity = max(1, capacity)
        self.outstanding = 0
        """Calls of ours that are there."""
        self.others, self.others_until = 0, -inf
        self.errors, self.errors_until = 0, -inf
        self.barred_until = -inf

    def told(self, load: int, now: float) -> None:
        """So many calls ran and waited there when it answered, ours among them; only more than ours are news."""
        self.others, self.others_until = max(0, load - self.outstanding), now + TOLD_FOR

    def failed(self, now: float) -> None:
        """A handler raised something there, or could not read the question."""
        self.errors = min(ERRORS_MAX, (self.errors if now < self.errors_until else 0) + 1)
        self.errors_until = now + ERRORS_FOR

    def is_busy(self, retry: float, now: float) -> None:
        """It has no room for `retry` seconds."""
        self.barred_until = now + min(retry, BARRED_MAX)

    def weight(self, now: float) -> float:
        """How full it is, for comparison with others."""
        calls = self.outstanding + (self.others if now < self.others_until else 0)
        weight = calls / self.capacity + (self.errors if now < self.errors_until else 0)
        return weight - 1e-9 if self.link.wire == OURSELVES else weight


def able(servers: Iterable[Server], now: float) -> list[Server]:
    """Those that may get a call now, in turn."""
    found = []
    for server in servers:
        if server.barred_until <= now and server.link.takes_calls():
            found.append(server)
    return found


def least(among: list[Server], now: float) -> Server:
    """The one for the next call; the first of those that are as good."""
    best, lightest = among[0], inf
    for server in among:
        weight = server.weight(now)
        if weight < lightest:
            best, lightest = server, weight
    return best


__all__ = ["Server", "able", "least"]
