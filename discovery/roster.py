"""Roster: nodes and endpoints, merged from all that the backends report."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from peerfabric.discovery.base import ENDPOINTS_MAX, Announcement, Candidate, Event, Lost, Sighting, Withdrawn
from peerfabric.discovery.host import reaches
from peerfabric.discovery.locks import Lock
from peerfabric.discovery.remarks import later, remark

CANDIDATES_MAX: Final = 4096
"""Endpoints without a node id that are remembered; further ones are counted as refused."""

EPOCH_RANDOM_BITS: Final = 20

logger = logging.getLogger("peerfabric")


class Peer(msgspec.Struct, frozen=True):
    """A node in the roster: what all its sources together say, and which they are."""

    announcement: Announcement
    sources: tuple[str, ...]


class RosterStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Depths now, and counts since the start."""

    peers: int
    candidates: int
    refused: int
    """Sightings not taken because the roster was full."""
    foreign: int
    """Sightings of nodes of other fabrics."""
    stale: int
    """Sightings of earlier lives."""


class Roster:
    """Merges sightings into one entry for each node. Has no thread: it works in those of the backends.

    - The life with the highest epoch counter wins, and the announcements of earlier ones are dropped.
    - Within a life the highest version wins. What several sources say in that version is joined, ipc endpoints before
      tcp before others; those that mean nothing on this host are left out. A version never goes back.
    - A node is lost when none of its sources sees it any more. Whether it is forgotten, its links decide.
    - A candidate is withdrawn when no source proposes it any more.

    Each change is passed to one of the `on_…`: outside of the lock, in the order in which things happened, one at a
    time, in the thread of whoever reported.
    """

    # len(peers) <= peers_max; each peer has at least one source, and all its announcements have the same counter

    def __init__(
        self,
        *,
        node_id: str,
        epoch: int,
        fabric: str,
        host: str,
        on_peer: Callable[[Announcement], None],
        on_candidate: Callable[[str], None],
        on_lost: Callable[[str], None],
        on_withdrawn: Callable[[str], None] = lambda endpoint: None,
        peers_max: int = 2048,
    ) -> None:
        """The first four are our own. At `peers_max` further nodes are refused and counted, with one warning; a refused
        node is taken when it is sighted again and there is room."""
        self._node_id, self._epoch, self._fabric, self._host = node_id, epoch, fabric, host
        self._on_peer, self._on_candidate, self._on_lost = on_peer, on_candidate, on_lost
        self._on_withdrawn = on_withdrawn
        self._peers_max = peers_max
        self._lock = Lock()
        self._seen: dict[str, dict[str, Announcement]] = {}  # node id -> source -> what it says
        self._merged: dict[str, Announcement] = {}
        self._candidates: dict[str, set[str]] = {}  # endpoint -> sources
        self._refused = self._foreign = self._stale = 0
        self._changes: deque[Callable[[], None]] = deque()
        self._delivering = False

    def report(self, event: Event) -> None:
        """Take what a backend reports; this is what its `watch` is given."""
        with later(), self._lock:
            match event:
                case Sighting(seen=Candidate(endpoint=endpoint), source=source):
                    self._add_candidate_locked(endpoint, source)
                case Sighting(seen=Announcement() as announcement, source=source):
                    self._add_locked(announcement, source)
                case Lost(node_id=node_id, source=source):
                    self._remove_locked(node_id, source)
                case Withdrawn(endpoint=endpoint, source=source):
                    self._withdraw_locked(endpoint, source)
        self._deliver()

    def forget(self, node_id: str) -> None:
        """Drop a node without `on_lost`, for instance one long proven dead that mDNS still has in its caches.

        It returns when it is sighted again.
        """
        with self._lock:
            self._seen.pop(node_id, None)
            self._merged.pop(node_id, None)

    def view(self) -> list[Peer]:
        """Return everybody, in the order of first sighting."""
        with self._lock:
            return [Peer(merged, tuple(self._seen[node_id])) for node_id, merged in self._merged.items()]

    def known_only_to(self, source: str) -> int:
        """How many nodes nobody but `source` tells of."""
        with self._lock:
            return sum(1 for sources in self._seen.values() if sources.keys() == {source})

    def statistics(self) -> RosterStatistics:
        with self._lock:
            return RosterStatistics(
                peers=len(self._merged),
                candidates=len(self._candidates),
                refused=self._refused,
                foreign=self._foreign,
                stale=self._stale,
            )

    def check(self) -> None:
        """Assert the invariants; called by tests."""
        with self._lock:
            assert self._seen.keys() == self._merged.keys()
            assert len(self._seen) <= self._peers_max
            for sources in self._seen.values():
                assert len({_counter(announcement) for announcement in sources.values()}) == 1

    def _add_candidate_locked(self, endpoint: str, source: str) -> None:
        sources = self._candidates.get(endpoint)
        if sources is not None:
            sources.add(source)
            return
        if len(self._candidates) >= CANDIDATES_MAX:
            self._refused += 1
            return
        self._candidates[endpoint] = {source}
        self._changes.append(lambda: self._on_candidate(endpoint))

    def _withdraw_locked(self, endpoint: str, source: str) -> None:
        sources = self._candidates.get(endpoint, set())
        if source not in sources:
            return
        sources.remove(source)
        if not sources:
            del self._candidates[endpoint]
            self._changes.append(lambda: self._on_withdrawn(endpoint))

    def _add_locked(self, announcement: Announcement, source: str) -> None:
        node_id = announcement.node_id
        if node_id == self._node_id:
            if announcement.epoch != self._epoch and announcement.fabric == self._fabric:
                # Another life of ours, perhaps a copy that runs: links find out.
                self._changes.append(lambda: self._on_peer(announcement))
            return
        if announcement.fabric != self._fabric:
            self._foreign += 1
            return
        sources = self._seen.get(node_id)
        if sources is None:
            if len(self._seen) >= self._peers_max:
                self._refuse_locked()
                return
            sources = {}
        known = next((_counter(one) for one in sources.values()), -1)
        if _counter(announcement) < known:
            self._stale += 1
            return
        if _counter(announcement) > known:
            sources = {}
        before = sources.get(source)
        if before is not None and before.epoch == announcement.epoch and announcement.version < before.version:
            self._stale += 1  # hearsay of a time before
            return
        sources[source] = announcement
        self._seen[node_id] = sources
        self._merge_locked(node_id)

    def _remove_locked(self, node_id: str, source: str) -> None:
        sources = self._seen.get(node_id)
        if sources is None or sources.pop(source, None) is None:
            return
        if sources:
            self._merge_locked(node_id)
            return
        del self._seen[node_id], self._merged[node_id]
        self._changes.append(lambda: self._on_lost(node_id))

    def _refuse_locked(self) -> None:
        self._refused += 1
        if self._refused == 1:
            remark(
                logging.WARNING,
                "roster: more than %d peers; further ones are refused: raise Options(peers_max=)",
                self._peers_max,
            )

    def _merge_locked(self, node_id: str) -> None:
        merged = merge(list(self._seen[node_id].values()), self._host)
        known = self._merged.get(node_id)
        if known is not None and known.epoch == merged.epoch and merged.version < known.version:
            return  # whoever told of it is gone, and the others are behind
        if merged != known:
            self._merged[node_id] = merged
            self._changes.append(lambda: self._on_peer(merged))

    def _deliver(self) -> None:
        """Call out for each change. One thread at a time: another that comes meanwhile leaves its changes to it."""
        while True:
            with self._lock:
                if self._delivering or not self._changes:
                    return
                change = self._changes.popleft()
                self._delivering = True
            try:
                change()
            except Exception:
                logger.exception("roster: error while a change was handled; please report it")
            finally:
                with self._lock:
                    self._delivering = False


def merge(announcements: list[Announcement], our_host: str) -> Announcement:
    """Join what several sources say about one node, all with the same epoch counter, oldest source first.

    Two epochs with one counter are a copied folder, or a restart within one second: the higher one wins, so that all
    nodes choose alike. Of the highest version everything is joined: mDNS tells no name, and no large digest.
    """
    epoch, version = max((one.epoch, one.version) for one in announcements)
    same = [one for one in announcements if (one.epoch, one.version) == (epoch, version)]
    return Announcement(
        node_id=same[0].node_id,
        epoch=epoch,
        name=max((one.name for one in announcements), key=len),
        fabric=same[0].fabric,
        host=same[0].host,
        inbox=_joined([(endpoint, one.host) for one in same for endpoint in one.inbox], our_host),
        outbox=_joined([(endpoint, one.host) for one in same for endpoint in one.outbox], our_host),
        outbox_key=max((one.outbox_key for one in same), key=len),
        version=version,
        digest=next((one.digest for one in same if one.digest is not None), None),
        passes_on=any(one.passes_on for one in same),
    )


def _joined(endpoints: list[tuple[str, str]], our_host: str) -> tuple[str, ...]:
    usable = dict.fromkeys(endpoint for endpoint, host in endpoints if reaches(endpoint, host, our_host))
    return tuple(sorted(usable, key=_preference))[:ENDPOINTS_MAX]


def _preference(endpoint: str) -> int:
    return 0 if endpoint.startswith("ipc://") else 1 if endpoint.startswith("tcp://") else 2


def _counter(announcement: Announcement) -> int:
    return announcement.epoch >> EPOCH_RANDOM_BITS
