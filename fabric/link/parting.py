"""Parting from peers: DRAIN and BYE, ours and theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Final

from peerfabric.link.control import Control
from peerfabric.link.link import Change, Gone, Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.machine import Handler, Machine
from peerfabric.wire.frames import IDLE, LEAVING, UNWELCOME, Bye, Drain

BYE_REPEAT: Final = 0.1
BYE_LIMIT: Final = 1.0
"""How long a node that closes waits for the BYEs of its peers."""


class Parting(Machine):
    """Who was told that we take no more, or that we leave, and who has said goodbye.

    Args:
        links: Its links.
        control: Takes the frames.
        is_useful: Whether there is still something to do on a link.
        apply: Carries out what follows for other machines when a link ends.
    """

    def __init__(
        self,
        links: Links,
        control: Control,
        is_useful: Callable[[Link], bool],
        apply: Callable[[list[Change], float], None],
    ) -> None:
        super().__init__()
        self.draining = False
        """This node takes no new messages."""
        self.closed_at = inf
        """When the last BYE was answered, or waiting for it ends."""
        self._links, self._control, self._is_useful, self._apply = links, control, is_useful, apply
        self._drain_due: dict[Link, None] = {}
        self._said: dict[Link, float] = {}
        """Those to whom we say goodbye, and when to say it again."""
        self._heard: dict[Link, None] = {}
        """Those that have said goodbye."""

    def handlers(self) -> Mapping[type, Handler]:
        return {Bye: self._handle_bye}

    def _handle_bye(self, link: Link, bye: Bye, body: object, now: float) -> None:
        self._heard[link] = None
        if link not in self._said:
            self._put_bye(link, bye.reason)
        missed = bye.reason == IDLE and self._is_useful(link)
        self._apply(self._links.said_bye(link, bye.reason, now), now)
        if missed:
            # What we have in common now was on its way when the peer found nothing.
            self._links.redial(link.node_id, now)

    def part_idle(self, link: Link, now: float) -> None:
        """There has been nothing in common for long."""
        if link not in self._said and not self.draining:
            self._said[link] = inf
            self._put_bye(link, IDLE)
            self._apply(self._links.part_idle(link, now), now)

    def shut_out(self, link: Link, now: float) -> None:
        """The peer is not let in any more."""
        if link.up:
            self._said[link] = inf
            self._put_bye(link, UNWELCOME)
        self._apply(self._links.shut_out(link, now), now)

    def drain(self) -> None:
        """Tell everybody to send no new messages."""
        self.draining = True
        for link in self._links.by_peer.values():
            if link.up and link.wire != OURSELVES:
                self._drain_due[link] = None
                self._note(link)

    def say_bye(self, now: float) -> None:
        """Say goodbye on every link, until each has answered; `finished` tells when all have."""
        self._links.closing = True
        self.closed_at = now + BYE_LIMIT
        for link in self._waited_for():
            self._said[link] = now
            self._note(link)

    def finished(self, now: float) -> bool:
        """Whether every peer has answered our BYE, or waiting for that is over."""
        return now >= self.closed_at or not self._waited_for()

    def _waited_for(self) -> list[Link]:
        links = self._links.by_wire.values()
        return [link for link in links if link.up and link.wire != OURSELVES and link not in self._heard]

    def is_parting(self, link: Link) -> bool:
        """Whether one side has said goodbye."""
        return link in self._said or link in self._heard

    def link_up(self, link: Link, now: float) -> None:
        if self.closed_at < inf:
            self._said[link] = now  # it came back while we leave
            self._note(link)

    def _note(self, link: Link) -> None:
        self.due[link] = None
        self._control.note(link)

    def poll_control(self, link: Link, now: float) -> None:
        self.due.pop(link, None)
        if link in self._drain_due:
            del self._drain_due[link]
            self._control.put(link, Drain(b"", 0, 0))
        if self._said and self._said.get(link, inf) <= now:
            self._put_bye(link, LEAVING)
            self._said[link] = now + BYE_REPEAT
            self.deadlines.put(link, now + BYE_REPEAT)

    def _put_bye(self, link: Link, reason: int) -> None:
        self._control.put(link, Bye(b"", 0, 0, self._links.address.node_id, reason))

    def handle_timeout(self, now: float) -> None:
        for link in self.deadlines.take_due(now):
            if link in self._said:
                self._note(link)

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        for each in (self.due, self._drain_due, self._said, self._heard):
            each.pop(link, None)


def told(gone: Gone) -> str:
    """How the peer is gone, for people."""
    if gone.idle:
        return "parted, nothing in common"
    return "left" if gone.proven and not gone.died else "is gone"


__all__ = ["Parting", "told"]
