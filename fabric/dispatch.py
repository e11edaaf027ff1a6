"""Which link gets the next messages of a queue."""

from __future__ import annotations

from collections.abc import Mapping

from peerfabric.link import Link
from peerfabric.producer_end import ProducerEnd


class Candidate:
    """A link that could take messages of one queue now."""

    __slots__ = ("bytes", "link", "messages", "outstanding")

    def __init__(self, link: Link, messages: int, size: int, outstanding: int) -> None:
        self.link, self.messages, self.bytes, self.outstanding = link, messages, size, outstanding


def candidates(end: ProducerEnd, links: Mapping[str, Link]) -> list[Candidate]:
    """The links with credit for this queue and room in their pipe."""
    found = []
    for holder in end.consumers:
        link = links.get(holder)
        if link is None or not link.has_room():
            continue
        messages, size = link.credit(end.queue).available()
        outstanding = end.held_by(holder)
        if messages < 1 or (size < 1 and outstanding):
            continue  # the byte limit never forbids the only outstanding message
        found.append(Candidate(link, messages if size >= 1 else 1, max(1, size), outstanding))  # see `pick`
    return found


def choose(end: ProducerEnd, able: list[Candidate]) -> tuple[Candidate, int, int]:
    """The link with the least outstanding work, and how many messages and bytes it should get in one frame.

    What waits is shared evenly among those who could take it: so a handful of slow jobs spreads one by one,
    while a backlog of fast ones leaves in frames of full size.
    """
    best = min(able, key=lambda candidate: candidate.outstanding)
    share = -(-end.waiting_count // len(able))
    return best, min(best.messages, share), best.bytes
