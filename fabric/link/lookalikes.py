"""Lookalikes: names that others use, and that a name which nobody answers to may have been meant to be.

A producer of `order` and a consumer of `orders` have nothing in common, so they need not even have a link, and each is
lonely. Once messages wait, their node looks at some of those with which it has no link: it dials them once, sees what
they use, and parts from them as from everybody with whom nothing is in common. What a peer uses is remembered then, as
long as nothing is heard that changes it. A hint is given only of a name that is as lonely as the one it is for, as far
as links and digests tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from functools import partial
from typing import Final

from msgspec.structs import replace

from peerfabric.health import NO_CONSUMER, NO_CONSUMER_AFTER, NO_SERVER, Finding
from peerfabric.link.digest import OwnDigest
from peerfabric.link.interest import Interests
from peerfabric.link.link import Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.machine import Machine
from peerfabric.similar import are_similar
from peerfabric.wire.frames import Interest

DIALLED_MAX: Final = 32
"""Nodes without a link that are dialled when a name turns out to be lonely."""
REMEMBERED_MAX: Final = 256
"""Nodes whose names are remembered after they were parted from."""
COMPARED_MAX: Final = 4096
"""Pairs of names that are compared at one look for ends that wait for somebody to begin."""
HINTS_MAX: Final = 65_536
"""The same for hints that are asked for at one look, some 30 ms: all consumers of a node's queues may end at once."""
NAMED_MAX: Final = 3
"""Nodes that a hint names."""

_OTHER: Final = {"produces": "consumes", "consumes": "produces", "calls": "serves", "serves": "calls"}
_ENTRY: Final = {"produces": "p", "consumes": "c", "calls": "a", "serves": "v"}
"""The letter of each role in a digest."""
_BY: Final = {"produces": "sent to", "consumes": "consumed", "calls": "called", "serves": "served"}
_ABSENT: Final = {
    "consumes": ("queue {!r}: nobody sends to it", "consumes it"),
    "serves": ("service {!r}: nobody calls it", "serves it"),
}
_ROLES: Final = {NO_CONSUMER: "produces", NO_SERVER: "calls"}


class Lookalikes(Machine):
    """What others use, as far as it is known, and hints made of that.

    Args:
        links: Of this node.
        interests: What it uses itself.
        digest: The same, with the key by which digests of others are read.
    """

    def __init__(self, links: Links, interests: Interests, digest: OwnDigest) -> None:
        super().__init__()
        self._links, self._interests, self._digest = links, interests, digest
        self._parted: dict[str, tuple[int, bytes | None, Interest]] = {}
        """Node -> epoch and digest that it had, and what it used when it was parted from."""
        self._lonely: set[tuple[str, str]] = set()
        """Role and name of those for which others were dialled, and that are lonely still."""
        self._left = HINTS_MAX
        """Pairs of names that may still be compared at this look."""

    # What others use

    def link_up(self, link: Link, now: float) -> None:
        self._parted.pop(link.node_id, None)

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        """What it used is known for a while, unless it has ended."""
        if proven or link.their_interest is None or link.wire == OURSELVES:
            return
        known = self._links.known_address(link.node_id)
        if known is not None:
            self._parted[link.node_id] = (known.epoch, known.digest, _names_only(link.their_interest))
            if len(self._parted) > REMEMBERED_MAX:
                del self._parted[next(iter(self._parted))]

    def _others(self) -> Iterator[tuple[str, Interest]]:
        """The name of each other node of which it is known, and what it uses."""
        links = self._links
        for link in links.by_wire.values():
            if link.up and link.their_interest is not None and link.wire != OURSELVES:
                yield link.name, link.their_interest
        for node_id, (epoch, digest, interest) in list(self._parted.items()):
            known = links.known_address(node_id)
            if known is None or known.epoch != epoch or known.digest != digest:
                del self._parted[node_id]
            else:
                yield known.name or node_id, interest

    def _theirs(self, role: str) -> set[str]:
        """All names that others use so."""
        return {name for _, interest in self._others() for name in _names(interest, role)}

    def _ours(self, role: str) -> Set[str]:
        return set(getattr(self._interests, role))

    def _users(self, role: str, name: str) -> list[str]:
        """The nodes that are known to use `name` so."""
        found = [who for who, interest in self._others() if name in _names(interest, role)]
        return ["this node", *found] if name in self._ours(role) else found

    def _may_be_used(self, role: str, name: str) -> bool:
        """Whether any node may use `name` so: as it has told, or else as its digest says."""
        if self._users(role, name):
            return True
        entry = _ENTRY[role] + name
        return any(
            self._digest.may_have(address.digest, entry)
            for address in self._links.known()
            if not self._links.is_up(address.node_id) and address.node_id not in self._parted
        )

    # Hints

    def completed(self, found: Iterable[Finding], now: float) -> list[Finding]:
        """The same with hints, and with what is lonely at this node's end of a name that may have been mistyped."""
        completed, lonely = list[Finding](), set[tuple[str, str]]()
        self._left = HINTS_MAX
        for finding in found:
            role, name = _ROLES.get(finding.code), finding.queue or finding.service
            if role is not None and finding.closer is None:
                lonely.add((role, name))
                completed.append(finding._replace(closer=partial(self._hint, role, name)))
            else:
                completed.append(finding)
        completed += self._unused("consumes")
        completed += self._unused("serves")
        if not lonely <= self._lonely:
            self._dial_some(now)
        self._lonely = lonely
        return completed

    def _hint(self, role: str, name: str) -> str:
        """Another name that may have been meant; empty if there is none, or too much was compared at this look."""
        if self._left <= 0:
            return ""
        other = _OTHER[role]
        names = sorted(self._ours(other) | self._theirs(other))
        self._left -= len(names)
        for each in names:
            if are_similar(name, each) and not self._may_be_used(role, each):
                return _question(each, other, self._users(other, each))
        return ""

    def _unused(self, role: str) -> Iterator[Finding]:
        """What this node consumes, or serves, and nobody uses, beside a similar name to which nobody answers."""
        other = _OTHER[role]
        ours = self._ours(role)
        if not ours:
            return
        theirs = self._theirs(other)
        waiting = ours - self._ours(other) - theirs
        asked = theirs - ours - self._theirs(role) if waiting else waiting
        if len(waiting) * len(asked) > COMPARED_MAX:
            return
        what, does = _ABSENT[role]
        for name in sorted(waiting):
            for each in sorted(asked):
                lonely = are_similar(name, each) and not self._may_be_used(other, name)
                if lonely and not self._may_be_used(role, each):
                    step = f"{_question(each, other, self._users(other, each))}, and nobody {does}"
                    finding = Finding(what.format(name), NO_CONSUMER_AFTER, step)
                    if role == "consumes":
                        yield finding._replace(code=NO_CONSUMER, queue=name)
                    else:
                        yield finding._replace(code=NO_SERVER, service=name)
                    break

    def _dial_some(self, now: float) -> None:
        """Find out what others use with whom there seems to be nothing in common."""
        links, left = self._links, DIALLED_MAX
        for address in list(links.known()):
            if address.digest == b"" or address.node_id in self._parted or links.link_with(address.node_id) is not None:
                continue  # it uses nothing, or what it uses is known, or will be
            links.redial(address.node_id, now)
            left -= 1
            if not left:
                return

    def check(self) -> None:
        assert len(self._parted) <= REMEMBERED_MAX
        assert not any(self._links.is_up(node_id) for node_id in self._parted), "a peer with a link is remembered"


def _names(interest: Interest, role: str) -> Iterable[str]:
    """The names that a node uses so."""
    match role:
        case "produces":
            return interest.produces
        case "consumes":
            return [each.queue for each in interest.consumes]
        case "calls":
            return interest.calls
        case _:
            return [each.service for each in interest.serves]


def _names_only(interest: Interest) -> Interest:
    """The same without what belongs to one life of a link."""
    return replace(interest, subscribes=[], publishes=[], held=[], done=[])


def _question(name: str, role: str, users: list[str]) -> str:
    shown = ", ".join(users[:NAMED_MAX])
    more = f" and {len(users) - NAMED_MAX} more" if len(users) > NAMED_MAX else ""
    return f"did you mean {name!r}? it is {_BY[role]} by {shown}{more}"


__all__ = ["Lookalikes"]
