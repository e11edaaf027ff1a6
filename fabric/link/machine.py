"""Machine: what each part of an engine implements that works over links."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from peerfabric.deadlines import Deadlines
from peerfabric.health import Finding
from peerfabric.link.link import Link
from peerfabric.wire.frames import Interest

Handler = Callable[[Link, Any, "bytes | memoryview", float], None]
"""Acts on a frame that arrived on a link, with its body; it may raise BadFrame, which ends the link's life."""


class Machine:
    """One part of an engine: the frames that it handles, and what changes of links and time mean to it.

    The engine holds a list of machines and knows no more of them than this. Each change is told to all, in the order
    of the list. What a machine knows of a peer it keeps in records of its own, from `link_up` to `peer_gone`.
    """

    def __init__(self) -> None:
        self.deadlines: Deadlines[Any] = Deadlines()
        """Of whatever the machine waits for: once the first has come, `handle_timeout` is called."""
        self.due: dict[Link, None] = {}
        """Links on which it has something to say besides DATA. `poll_control` is called for those that `Control` takes
        up, and takes them out."""

    def handlers(self) -> Mapping[type, Handler]:
        """The kinds of frames that this machine handles."""
        return {}

    # Links

    def fill_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        """Say in an INTEREST for `link` what this machine has to say; `first`: it begins a life of the link."""

    def handle_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        """The peer told its interest anew; `first`: for the first time in this life of the link."""

    def link_up(self, link: Link, now: float) -> None:
        """A life of the link begins."""

    def link_down(self, link: Link) -> None:
        """The link is not up any more; what was in the pipe may be lost."""

    def peer_hung(self, link: Link, now: float) -> None:
        """The peer does not answer, though its inbox accepts. Called twice a second for as long as that lasts."""

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        """The peer will not answer any more. `proven`: its process has ended; `died`: without saying goodbye."""

    def needs(self, link: Link) -> bool:
        """Whether one side has messages of the other, or owes it an answer."""
        return False

    # Output and time

    def poll_control(self, link: Link, now: float) -> None:
        """Queue what this machine has to say on `link`, which is in `due`."""

    def handle_timeout(self, now: float) -> None:
        """Act on everything that has come due."""

    def findings(self, now: float) -> Iterator[Finding]:
        """What a person should know of."""
        return iter(())

    def check(self) -> None:
        """Assert the invariants."""


__all__ = ["Handler", "Machine"]
