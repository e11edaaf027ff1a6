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
"""The same for a node that was given up; they grow only after RETRY_FOR."""
RETRY_FOR: Final = 600.0
RETRIES_MAX: Final = 20
"""Attempts with growing waits to reach a node; then only news of it count, if discovery does not name it."""
MET_LATELY: Final = 600.0
"""A node of another host that was met within so long is not forgotten because discovery does not see it."""


INBOX_MAX: Final = 16
"""Endpoints of one node."""


class Retry(NamedTuple):
    """When to dial a node again, how long to wait after that, and how often it was tried.

    `most` is the longest wait; until `steady_until` waits do not grow, and tries do not count.
    """

    at: float
    wait: float
    tries: int
    most: float
    steady_until: float = -inf


class Addresses:
    """The addresses that one node knows of, at most `peers_max`, and its candidates.

    What a node has said of itself counts more than what discovery says of it, which is tried besides.
    """

    def __init__(self, peers_max: int, random: Random) -> None:
        self._peers_max, self._random = peers_max, random
        self._known: dict[str, Address] = {}
        """As discovery has it; of who was never discovered, as its hello had it."""
        self._told: dict[str, Address] = {}
        """As the hello of the node had it."""
        self._named: dict[str, None] = {}
        """Nodes that discovery sees now."""
        self._met_at: dict[str, float] = {}
        self._observed: dict[str, str] = {}
        """Node -> the address under which its newest hello came."""
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

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Address]:
        return iter([address for node_id in list(self._known) if (address := self.get(node_id)) is not None])

    def get(self, node_id: str) -> Address | None:
        """Where the node may be reached, if that is known: where it says first, unless there is later news."""
        known, told = self._known.get(node_id), self._told.get(node_id)
        if known is None or told is None:
            return known or told
        if known.epoch != told.epoch:
            return known if newer(known, told) else told
        first, second = (known, told) if known.version > told.version else (told, known)
        inbox = [*first.inbox, *(endpoint for endpoint in second.inbox if endpoint not in first.inbox)]
        return first if inbox == first.inbox else replace(first, inbox=inbox[:INBOX_MAX])

    def observed(self, node_id: str, epoch: int) -> str:
        """The address under which the newest hello of this life of the node came; empty if that is not known."""
        told = self._told.get(node_id)
        return self._observed.get(node_id, "") if told is None or told.epoch == epoch else ""

    def was_met(self, node_id: str) -> bool:
        """Whether the node has said hello to this one."""
        return node_id in self._met_at

    def is_stale(self, address: Address) -> bool:
        """Whether a later life of its node is known, or later news of the same."""
        return any(
            known is not None and later(known, address)
            for known in (self._told.get(address.node_id), self._known.get(address.node_id))
        )

    def has_room(self, node_id: str) -> bool:
        """Whether the node is known, or may be."""
        return node_id in self._known or len(self._known) < self._peers_max

    def put(self, address: Address) -> None:
        """There is news of a node: it is to be found at `address`, and dialled as if for the first time."""
        known = self._known.get(address.node_id)
        if known is not None and not later(address, known):
            # Not every way to hear of one and the same address tells everything.
            digest = address.digest if address.digest is not None else known.digest
            address = replace(address, digest=digest, name=address.name or known.name)
        self._known[address.node_id] = address
        self._named[address.node_id] = None
        self._retry.pop(address.node_id, None)

    def met(self, address: Address, now: float, observed: str = "") -> None:
        """A node said where it is, in a hello that came from `observed`."""
        node_id = address.node_id
        self._met_at.pop(node_id, None)
        self._met_at[node_id] = now
        if len(self._met_at) > 2 * self._peers_max:
            del self._met_at[next(iter(self._met_at))]
        if not self.has_room(node_id):
            return
        told = self._told.get(node_id)
        if told is not None and told.epoch != address.epoch:
            self._observed.pop(node_id, None)
        if told is None or newer(address, told) or (address.epoch == told.epoch and address.version >= told.version):
            self._told[node_id] = address
            known = self._known.get(node_id)
            if told is not None and known is not None and told.epoch == address.epoch:
                left = set(told.inbox) - set(address.inbox)
                self._known[node_id] = replace(known, inbox=[e for e in known.inbox if e not in left])
        self._known.setdefault(node_id, address)
        if observed:
            self._observed[node_id] = observed

    def lost(self, node_id: str, now: float, *, patient: bool) -> None:
        """Discovery does not see the node any more. With `patient` that proves little of one that was met lately."""
        self._named.pop(node_id, None)
        if not patient or now - self._met_at.get(node_id, -inf) > MET_LATELY:
            self.forget(node_id)

    def forget(self, node_id: str) -> None:
        """Nobody says any more that the node exists."""
        for each in (self._known, self._told, self._named, self._observed, self._retry, self._idle):
            each.pop(node_id, None)

    # Nodes

    def parted(self, node_id: str) -> None:
        """There was nothing in common with the node: its candidate is not dialled anew.

        So many are remembered; then the oldest goes, and if it has a candidate it is asked once more.
        """
        known = self.get(node_id)
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
        return self._retry_later(node_id, self._retry.get(node_id) or Retry(inf, REDIAL_FIRST, 0, REDIAL_MAX), now)

    def given_up(self, node_id: str, now: float) -> float:
        """Nobody answers, or its process has ended; when to dial again, inf if never.

        Also after a proof of death: a firewall can refuse in the name of the living.
        """
        retry = self._retry.get(node_id)
        if retry is None or retry.most < RETRY_MAX:
            retry = Retry(inf, RETRY_FIRST, 0, RETRY_MAX, now + RETRY_FOR)
        return self._retry_later(node_id, retry, now) if node_id in self._known else inf

    def unwelcome(self, node_id: str, now: float) -> float:
        """The node does not let us in; when to ask again, inf if never."""
        return self._retry_later(node_id, Retry(inf, RETRY_MAX, 0, RETRY_MAX), now) if node_id in self._known else inf

    def _retry_later(self, node_id: str, retry: Retry, now: float) -> float:
        at = now + self._jitter(retry.wait)
        if now < retry.steady_until:
            self._retry[node_id] = retry._replace(at=at)
            return at
        if retry.tries >= RETRIES_MAX:
            if node_id not in self._named:
                self.forget(node_id)
                return inf
            retry = retry._replace(wait=RETRY_MAX, most=RETRY_MAX)
            at = now + self._jitter(RETRY_MAX)
        self._retry[node_id] = retry._replace(at=at, wait=min(retry.most, retry.wait * 2), tries=retry.tries + 1)
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

    def withdraw_candidate(self, endpoint: str) -> None:
        """Nobody proposes the endpoint any more: it is not dialled again. A link that it led to stays."""
        self._candidates.pop(endpoint, None)
        self._served.pop(endpoint, None)
        self._ours.discard(endpoint)

    def candidate_unreachable(self, endpoint: str, now: float) -> float:
        """Nobody listens there; when to dial again."""
        if endpoint not in self._candidates:
            return inf  # it was withdrawn, or asked once, since somebody may have moved there
        _, wait = self._candidates[endpoint]
        again_at = now + self._jitter(wait)
        self._candidates[endpoint] = (again_at, min(REDIAL_MAX, wait * 2))
        return again_at

    def candidate_silent(self, endpoint: str, now: float) -> None:
        """Somebody listens there who does not answer: ask again later."""
        if endpoint in self._candidates:
            self._candidates[endpoint] = (now + self._jitter(RETRY_FIRST), RETRY_FIRST)

    def candidate_useless(self, endpoint: str) -> None:
        """It leads to where a link leads already."""
        if endpoint in self._candidates:
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
        if endpoint in self._candidates:
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


def elsewhere(a: Address, b: Address) -> bool:
    """Whether two addresses of one life of a node name different endpoints."""
    return set(a.inbox) != set(b.inbox) or set(a.outbox) != set(b.outbox)


def later(a: Address, b: Address) -> bool:
    """Whether `a` says something later of its node than `b`: in a later life, or under a larger version."""
    return (a.epoch, a.version) > (b.epoch, b.version)


def newer(a: Address, b: Address) -> bool:
    """Whether `a` is a later life of the node than `b`: the counter decides, and of equal ones the 20 bits below it."""
    return a.epoch > b.epoch
