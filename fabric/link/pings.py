"""Pings: when each link is asked whether its peer lives, what it answers, and when what arrived is echoed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from random import Random

from peerfabric.link.control import Control
from peerfabric.link.link import Link
from peerfabric.link.links import OURSELVES, Links
from peerfabric.link.liveness import PING_BUSY, PING_UNTIL
from peerfabric.link.machine import Handler, Machine
from peerfabric.wire.frames import Ack, Backlog, Ping, Pong


class Pings(Machine):
    """PING, PONG and echoes of all links.

    Args:
        links: Its links.
        control: Takes the frames.
        machines: All of the engine's: a link is busy for as long as one of them needs it.
        contents: What a PING for a link carries besides its stamp: the highest ACK settled, what waits, and
            whether there is more to tell.
        random: Source of jitter.
    """

    def __init__(
        self,
        links: Links,
        control: Control,
        machines: Iterable[Machine],
        contents: Callable[[Link], tuple[int, list[Backlog], bool]],
        random: Random,
    ) -> None:
        super().__init__()
        self.deadlines = links.echoes
        self._links, self._control, self._machines = links, control, machines
        self._contents, self._random = contents, random
        self.unix_ms: Callable[[], int] = _no_clock
        """Wall-clock time, which a driver hands in: for people who compare two hosts, and for no rule of ours."""
        self._stamps: dict[Link, float] = {}
        """Of PINGs that are not answered yet."""

    def handlers(self) -> Mapping[type, Handler]:
        return {Ping: self._handle_ping, Pong: self._handle_pong}

    def _handle_ping(self, link: Link, ping: Ping, body: object, now: float) -> None:
        self._stamps[link] = ping.stamp
        self.due[link] = None
        self._control.note(link)
        if not link.busy and link.ping_at > now:
            self._plan(link, now)
            self._links.look_anew(link, now)

    def _handle_pong(self, link: Link, pong: Pong, body: object, now: float) -> None:
        self._links.look_anew(link, now)  # what its echo says is known by now

    def look_at(self, link: Link, now: float) -> None:
        """Note whether a PING is due on an up link, and look again when one is."""
        if self._is_due(link, now):
            self._control.note(link)
        if link.ping_at > now:
            self._links.look(link, link.ping_at)  # what is due leaves, or waits for its socket

    def handle_timeout(self, now: float) -> None:
        for link in self.deadlines.take_due(now):
            if link.echo_at <= now:
                self._control.note(link)
                continue
            for machine in self._machines:
                if link in machine.due:
                    self._control.note(link)  # with what was to travel with the echo, which DATA has taken along
                    break
            else:
                self.deadlines.put(link, link.echo_at)

    def _is_due(self, link: Link, now: float) -> bool:
        """Whether a PING is to leave; if what has come since it was planned has put it off, plan anew."""
        if link.ping_at > now:
            return False
        if link.ping_at == -inf:
            return True
        if self._plan(link, now) > now:
            return False
        if link.busy and not any(machine.needs(link) for machine in self._machines):
            link.rest()
            return self._plan(link, now) <= now
        if link.asked_at + PING_UNTIL <= now:
            self._links.look(link, link.plan_ping(now + PING_BUSY))
            return False
        return True

    def _plan(self, link: Link, now: float) -> float:
        at = link.plan_ping(inf if link.wire == OURSELVES and not link.busy else None)
        if at > now:
            self._links.look(link, at)
        return at

    def poll_control(self, link: Link, now: float) -> None:
        """Queue a PONG, a PING and an echo, if they are due."""
        self.due.pop(link, None)
        if link in self._stamps:
            self._control.put(link, Pong(b"", 0, 0, self._stamps.pop(link), self.unix_ms()))
        if link.ping_at <= now and self._is_due(link, now):
            settled, backlogs, more = self._contents(link)
            self._control.put(link, Ping(b"", 0, 0, now, settled, backlogs))
            link.pinged(now, self._random.random())
            self._plan(link, now)
            if more:
                link.ask()
            self._links.look(link, link.silent_at)
        if link.echo_at <= now:
            self._control.put(link, Ack(b"", 0, 0, link.ack_number))

    def link_down(self, link: Link) -> None:
        self._stamps.pop(link, None)
        self.due.pop(link, None)

    def peer_gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.link_down(link)


def _no_clock() -> int:
    """0: not told."""
    return 0


__all__ = ["Pings"]
