"""Peer exchange: nodes tell each other of others in their hellos, so one seed is enough.

Chosen here and done by the links, see `peerfabric.link.roster`: there is nothing to announce, and nothing to watch.
"""

from __future__ import annotations

from typing import Final

from peerfabric.discovery.base import Announcement, Report


class ExchangeBackend:
    """Stands for the wish to tell others of nodes, and to be told."""

    name: Final = "exchange"

    def announce(self, announcement: Announcement) -> None:
        pass

    def watch(self, report: Report) -> None:
        pass

    def close(self) -> None:
        pass
