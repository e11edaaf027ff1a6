"""Addresses of other nodes: where they may be reached, and when to dial them again.

An address comes from discovery or from a hello and names its node. A candidate is an endpoint alone, given by hand: who
listens there, if anybody, its hello will tell.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from math import inf
from random import Random
from typing import Final, NamedTuple

from msgspec.structs import replace

from peerfabric.wire.frames import Address

REDIAL_FIRST, REDIAL_MAX = 0.5, 5.0
"""Waits, doubled each time, before an endpoint that refused is dialled again."""
RETRY_FIRST, RETRY_MAX = 2.0, 30.0
"""The same for a node that was given up."""
RETRIES_MAX: Final = 20
"""Attempts to reach a node again after it was given up, nearly ten minutes; then only news of it count."""


class Retry(NamedTuple):
    """When to dial a node again, how long to wait after that, and how often it was tried."""

    at: float
    wait: float
    tries: int


class Addresses:
    """The addresses that one node knows of, at most `peers_max`, and its candidates."""

    def __init__(self, peers_max: int, random: Random) -> None:
        self._peers_max, self._random = peers_max, random
        self._known: dict[str, Address] = {}
        self._retry: dict[str, Retry] = {}
        self._idle: dict[str, tuple[int, int]] = {}
        """Nodes with whom we parted because nothing was in common -> epoch and version that they had."""
        self._candidates: dict[str, tuple[float, float]] = {}
        """Endpoint -> (when to dial it next, wait after that); inf while a link serves it."""
        self._served: dict[str, str] = {}
        """Endpoint -> the node that was met there."""
        self._ours: set[str] = set()
        """Candidates that lead to this node itself."""

    def __contains__(self, node_id: str) -> bool:
        return node_id in self._known

    def __iter__(self) -> Iterator[Address]:
        return iter(list(self._known.values()))

    def get(self, node_id: str) -> Address | None:
        """Where the node may be reached, if that is known."""
        return self._known.get(node_id)

    def is_stale(self, address: Address) -> bool:
        """Whether a later life, or a later address, of its node is known."""
        known = self._known.get(address.node_id)
        if known is None:
            return False
        if address.epoch == known.epoch:
            return address.version < known.version
        return not newer(address, known)

    def has_room(self, node_id: str) -> bool:
        """Whether the node is known, or may be."""
        return node_id in self._known or len(self._known) < self._peers_max

    def put(self, address: Address) -> None:
        """There is news of a node: it is to be found at `address`, and dialled as if for the first time."""
        known = self._known.get(address.node_id)
        if known is not None and _of_one_time(address, known):
            # Not every way to hear of it tells everything.
            address = replace(address, digest=_first(address.digest, known.digest), name=address.name or known.name)
        self._known[address.node_id] = address
        self._retry.pop(address.node_id, None)

    def met(self, address: Address, *, same_host: bool = False) -> bool:
        """A node said where it is; return whether that is news. What discovery says of one and the same address counts
        more, except on one host, where endpoints mean the same to both.
        """
        if not self.has_room(address.node_id) or self.is_stale(address):
            return False
        known = self._known.get(address.node_id)
        news = known is None or not _of_one_time(address, known)
        if news or same_host:
            self._known[address.node_id] = address
        elif known is not None:
            self._known[address.node_id] = replace(known, digest=address.digest, name=address.name)
        return news

    def forget(self, node_id: str) -> None:
        """Nobody says any more that the node exists."""
        self._known.pop(node_id, None)
        self._retry.pop(node_id, None)
        self._idle.pop(node_id, None)

    # Nodes

    def parted(self, node_id: str) -> None:
        """There was nothing in common with the node: its candidate is not dialled anew.

        So many are remembered; then the oldest goes, and if it has a candidate it is asked once more.
        """
        known = self._known.get(node_id)
        self._idle[node_id] = (known.epoch, known.version) if known is not None else (0, 0)
        if len(self._idle) > self._peers_max:
            del self._idle[next(iter(self._idle))]

    def is_useless(self, address: Address) -> bool:
        """Whether we parted from the node, and `address` is not of a later time."""
        return self._idle.get(address.node_id, (-1, -1)) >= (address.epoch, address.version)

    def dialled(self, node_id: str) -> None:
        """A link with the node begins."""
        self._idle.pop(node_id, None)

    def stop_retrying(self, node_id: str) -> None:
        """The node has answered, or cannot be dialled: if it is refused again, waits begin anew."""
        self._retry.pop(node_id, None)

    def unreachable(self, node_id: str, now: float) -> float:
        """Nobody listens there; when to dial again, inf if never."""
        return self._retry_later(node_id, now, REDIAL_FIRST, REDIAL_MAX)

    def given_up(self, node_id: str, now: float) -> float:
        """Nobody answers, or its process has ended; when to dial again, inf if never.

        Also after a proof of death: a firewall can refuse in the name of the living.
        """
        return self._retry_later(node_id, now, RETRY_FIRST, RETRY_MAX) if node_id in self._known else inf

    def _retry_later(self, node_id: str, now: float, first: float, most: float) -> float:
        _, wait, tries = self._retry.get(node_id, Retry(inf, first, 0))
        if tries >= RETRIES_MAX:
            self.forget(node_id)
            return inf
        at = now + self._jitter(wait)
        self._retry[node_id] = Retry(at, min(most, wait * 2), tries + 1)
        return at

    def take_due_nodes(self, now: float) -> list[str]:
        """The nodes to dial now; each once, until it is refused or given up again."""
        due = [node_id for node_id, retry in self._retry.items() if retry.at <= now]
        for node_id in due:
            self._retry[node_id] = self._retry[node_id]._replace(at=inf)
        return due

    # Candidates

    def add_candidate(self, endpoint: str, now: float) -> bool:
        """Somebody may listen at `endpoint`; whether that is new."""
        if endpoint in self._candidates:
            return False
        self._candidates[endpoint] = (now, REDIAL_FIRST)
        return True

    def candidate_unreachable(self, endpoint: str, now: float) -> float:
        """Nobody listens there; when to dial again."""
        _, wait = self._candidates.get(endpoint, (0.0, REDIAL_FIRST))
        again_at = now + self._jitter(wait)
        self._candidates[endpoint] = (again_at, min(REDIAL_MAX, wait * 2))
        return again_at

    def candidate_silent(self, endpoint: str, now: float) -> None:
        """Somebody listens there who does not answer: ask again later."""
        self._candidates[endpoint] = (now + self._jitter(RETRY_FIRST), RETRY_FIRST)

    def candidate_useless(self, endpoint: str) -> None:
        """It leads to where a link leads already."""
        self._candidates[endpoint] = (inf, REDIAL_FIRST)

    def candidate_is_ours(self, endpoint: str) -> None:
        """It leads to this node itself."""
        self.candidate_useless(endpoint)
        self._ours.add(endpoint)

    def unanswered(self, linked: Container[str]) -> Iterator[str]:
        """Candidates that lead to no node: none that is `linked`, nor one with whom nothing was in common."""
        for endpoint in self._candidates.keys() - self._ours:
            served = self._served.get(endpoint)
            if served is None or (served not in linked and served not in self._idle):
                yield endpoint

    def candidate_leads_to(self, endpoint: str, node_id: str) -> None:
        """`node_id` listens there: if it goes, somebody else may."""
        self._served[endpoint] = node_id

    def seeds(self) -> list[str]:
        """Nodes that were met at candidates."""
        return list(dict.fromkeys(self._served.values()))

    def take_due_candidates(self, now: float, linked: Container[str]) -> list[str]:
        """The endpoints to dial now, each once; also those whose node is not `linked` any more."""
        due = []
        for endpoint, (at, wait) in self._candidates.items():
            served = self._served.get(endpoint)
            if at == inf and served is not None and served not in linked and served not in self._idle:
                del self._served[endpoint]
                at, wait = now, REDIAL_FIRST
            if at <= now:
                self._candidates[endpoint] = (inf, wait)
                due.append(endpoint)
        return due

    # Time

    def deadline(self) -> float:
        """When somebody is to be dialled next; inf if nobody."""
        candidates = min((at for at, _ in self._candidates.values()), default=inf)
        return min(candidates, min((retry.at for retry in self._retry.values()), default=inf))

    def _jitter(self, wait: float) -> float:
        return wait * (0.75 + self._random.random() / 2)


def usable(address: Address, our_host: str) -> list[str]:
    """Endpoints of an inbox that can be reached from `our_host`, ipc first."""
    ipc = [e for e in address.inbox if e.startswith("ipc://")] if address.host == our_host else []
    return ipc + [e for e in address.inbox if e.startswith("tcp://")]


def elsewhere(a: Address, b: Address) -> bool:
    """Whether two addresses of one life of a node name different endpoints."""
    return set(a.inbox) != set(b.inbox) or set(a.outbox) != set(b.outbox)


def _of_one_time(a: Address, b: Address) -> bool:
    return (a.epoch, a.version) == (b.epoch, b.version)


def _first(a: bytes | None, b: bytes | None) -> bytes | None:
    return a if a is not None else b


def newer(a: Address, b: Address) -> bool:
    """Whether `a` is a later life of the node than `b`: the counter above the 20 random bits decides."""
    return a.epoch >> 20 > b.epoch >> 20
