"""Peer exchange: every hello carries some announcements, so one seed is enough.

No sockets here. The node puts `sample()` into its hellos, gives what it finds in theirs to `learned()`, and says whom
it `met()` and who is `gone()`. Only first-hand knowledge is passed on: were rumours repeated, nodes would tell each
other of a dead one for ever.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from peerfabric.discovery.base import Announcement, Lost, Report, Sighting
from peerfabric.discovery.locks import Lock

EXCHANGE_SAMPLE_MAX: Final = 64
"""Announcements taken from one hello, and the most that `sample` gives: some 20 KiB."""


class ExchangeBackend:
    """Passes announcements on between nodes, carried by whoever drives it."""

    name: Final = "exchange"

    def __init__(self, *, rng: random.Random, met_max: int = 2048) -> None:
        """`met_max` limits whom we remember for passing on; above it further ones are not passed on."""
        self._rng = rng
        self._met_max = met_max
        self._lock = Lock()
        self._own: Announcement | None = None
        self._met: dict[str, Announcement] = {}
        self._report: Report | None = None

    def announce(self, announcement: Announcement) -> None:
        self._own = announcement

    def watch(self, report: Report) -> None:
        self._report = report

    def close(self) -> None:
        """Stop. The links of the node say goodbye to its peers."""
        self._report = self._own = None
        with self._lock:
            self._met.clear()

    def sample(self, limit: int = EXCHANGE_SAMPLE_MAX, exclude: Collection[str] = ()) -> list[Announcement]:
        """Return up to `limit` announcements for a hello: our own first, then a random choice of those we met.

        `exclude` holds node ids that need not be told, such as the receiver's. A random choice lets everybody hear of
        everybody after a few hellos, however large the fabric is.
        """
        limit = min(limit, EXCHANGE_SAMPLE_MAX)
        own = self._own
        first = [own] if own is not None and own.node_id not in exclude else []
        with self._lock:
            others = [peer for node_id, peer in self._met.items() if node_id not in exclude]
        room = max(0, limit - len(first))
        if len(others) > room:
            others = self._rng.sample(others, room)
        return [*first, *others][:limit]

    def learned(self, announcements: Iterable[Announcement]) -> None:
        """Report the announcements of one hello; what is over `EXCHANGE_SAMPLE_MAX` is left out."""
        for announcement in islice(announcements, EXCHANGE_SAMPLE_MAX):
            self._tell(Sighting(seen=announcement, source=self.name))

    def met(self, announcement: Announcement) -> None:
        """Pass on this peer from now on: it answered us itself."""
        with self._lock:
            if announcement.node_id in self._met or len(self._met) < self._met_max:
                self._met[announcement.node_id] = announcement

    def gone(self, node_id: str) -> None:
        """Stop passing on this peer, and report it as lost."""
        with self._lock:
            self._met.pop(node_id, None)
        self._tell(Lost(node_id=node_id, source=self.name))

    def _tell(self, event: Sighting | Lost) -> None:
        report = self._report
        if report is not None:
            report(event)
