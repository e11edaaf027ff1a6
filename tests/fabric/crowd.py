"""Crowd: many engines over a perfect network with delays, and a count of what they say and dial."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import count
from math import inf
from random import Random

from peerfabric.engine import Engine
from peerfabric.link.commands import Dial, HangUp, Outcome, Probe
from peerfabric.options import Options
from peerfabric.wire.frames import RAW, Address

DELAY = 0.0005
REGISTRY_DELAY = 0.5
"""Until a registry has shown a change to all, at most."""


class Member:
    """One node of a crowd, in one life."""

    def __init__(
        self, crowd: Crowd, number: int, epoch: int, host: str, seeds: Iterable[str], *, registry: bool
    ) -> None:
        self.crowd, self.number, self.host, self.registry = crowd, number, host, registry
        self.lines: deque[str] = deque(maxlen=1000)
        """Of its log, the latest."""
        self.name = f"{number:04}"
        address = Address(self.name, epoch << 20, self.name, host, [endpoint_of(number)], ["tcp://out:1"], digest=b"")
        self.engine = Engine(address, "crowd", Options(), Random(f"{crowd.seed} {number} {epoch}"), crowd.now)
        self.engine.exchange(sights=registry)
        self.wires: dict[int, Member | None] = {}
        self.turn_at = inf
        self.alive = True
        self.bytes = self.frames = self.dials = 0
        for seed in seeds:
            self.engine.handle_candidate(seed, crowd.now)
        self.wake()

    def wake(self, at: float = 0.0) -> None:
        at = max(at, self.crowd.now)
        if self.alive and at < self.turn_at:
            self.turn_at = at
            self.crowd.at(at, self._turn_if)

    def tell(self, event: Callable[[float], None], after: float = DELAY) -> None:
        """Let it happen to this node, some time later."""

        def happen() -> None:
            if self.alive:
                event(self.crowd.now)
                self.wake()

        self.crowd.at(self.crowd.now + after, happen)

    def produce(self, queue: str) -> None:
        self.engine.open_producer(queue, RAW, 5, 1000, self.crowd.now)
        self.wake()

    def consume(self, queue: str) -> None:
        self.engine.open_consumer(queue, 10.0, self.crowd.now)
        self.wake()

    def is_linked(self, other: Member) -> bool:
        return self.engine.links.is_up(other.name) and other.engine.links.is_up(self.name)

    @property
    def links(self) -> int:
        """How many wires it has."""
        return len(self.engine.links.by_wire)

    def knows(self, other: Member) -> bool:
        """Whether it knows all that the other announces."""
        known = self.engine.links.known_address(other.name)
        return known is not None and known.digest == other.engine.address.digest

    def _turn_if(self) -> None:
        if self.alive and self.turn_at <= self.crowd.now:
            self.turn_at = inf
            self._turn()

    def _turn(self) -> None:
        engine, now = self.engine, self.crowd.now
        self.crowd.turns += 1
        engine.handle_timeout(now)
        engine.transmit(self._send, now)
        for command in engine.poll_commands():
            match command:
                case Dial(wire, endpoint):
                    self.dials += 1
                    self.wires[wire] = None
                    target = self.crowd.listening.get(endpoint)
                    if target is None:
                        self.tell(lambda at, wire=wire: engine.handle_unreachable(wire, at))  # type: ignore[misc]
                    else:
                        self.wires[wire] = target
                        self.tell(lambda at, wire=wire: engine.handle_connected(wire, at))  # type: ignore[misc]
                case HangUp(wire):
                    self.wires.pop(wire, None)
                case Probe(wire, endpoint):
                    found = Outcome.ACCEPTED if endpoint in self.crowd.listening else Outcome.REFUSED
                    self.tell(lambda at, w=wire, f=found: engine.handle_probed(w, f, at))  # type: ignore[misc]
        events = engine.poll_events()
        self.lines.extend(line.text for line in events.records)
        if events.announced is not None and self.registry:
            self.crowd.show(self, events.announced)
        self.wake(max(engine.poll_timeout(), now + DELAY))

    def _send(self, wire: int, frames: list[bytes]) -> bool:
        size = sum(map(len, frames))
        self.bytes += size
        self.frames += 1
        self.crowd.kinds[frames[0][1]] += size
        target = self.wires.get(wire)
        if target is not None:
            target.tell(lambda now: target.engine.handle_frames(frames, now))
        return True


def endpoint_of(number: int) -> str:
    return f"tcp://crowd:{number + 1}"


class Crowd:
    """Nodes that come and go; `run` lets time pass."""

    def __init__(self, seed: int = 1) -> None:
        self.seed, self.random = seed, Random(seed)
        self.now = 1000.0
        self.turns = 0
        self.members: list[Member] = []
        self.listening: dict[str, Member] = {}
        self.kinds: Counter[int] = Counter()
        """Bytes by kind of frame; that of a HELLO is 1."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._epoch = count(1)

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def run_until(self, condition: Callable[[], bool], seconds: float) -> float:
        """Return how long it took."""
        began = self.now
        while not condition():
            assert self.now - began < seconds, "it takes too long"
            self.run(0.05)
        return self.now - began

    def start(self, number: int, host: str = "h", seeds: Iterable[str] = (), *, registry: bool = False) -> Member:
        member = Member(self, number, next(self._epoch), host, seeds, registry=registry)
        self.listening[endpoint_of(number)] = member
        self.members.append(member)
        if registry:
            for other in self.members:
                if other.registry and other.host == host and other is not member:
                    member.engine.handle_discovered(other.engine.address, self.now)
            self.show(member, member.engine.address)
        return member

    def kill(self, member: Member) -> None:
        """Its process ends, and all connections to it."""
        member.alive = False
        self.members.remove(member)
        del self.listening[endpoint_of(member.number)]
        for other in self.members:
            for wire, target in other.wires.items():
                if target is member:
                    other.wires[wire] = None
                    other.tell(lambda now, o=other, w=wire: o.engine.handle_disconnected(w, now))  # type: ignore[misc]
                    other.tell(lambda now, o=other, w=wire: o.engine.handle_unreachable(w, now), 0.06)  # type: ignore[misc]
            if member.registry and other.registry and other.host == member.host:
                other.tell(lambda now, o=other: o.engine.handle_lost(member.name, now), self._later())  # type: ignore[misc]

    def show(self, member: Member, address: Address) -> None:
        """The registry of its host shows the others how a node announces itself."""
        for other in self.members:
            if other is not member and other.registry and other.host == member.host:
                other.tell(lambda now, o=other: o.engine.handle_discovered(address, now), self._later())  # type: ignore[misc]

    def _later(self) -> float:
        return self.random.uniform(0.0, REGISTRY_DELAY)

    def check(self) -> None:
        for member in self.members:
            member.engine.check()

    @property
    def bytes(self) -> int:
        return sum(member.bytes for member in self.members)
