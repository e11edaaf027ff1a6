"""The network: connections that carry frames in order, with delays, and break, stall and refuse."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from peerfabric.link.commands import Outcome

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.roles import Role
    from tests.world.world import World

Frames = list[bytes]

CONNECT = (0.001, 0.004)
RECONNECT = (0.05, 0.09)
GIVES_UP_AFTER = 2.0
PROBE_PATIENCE = 1.0


class Line:
    """One PUSH of one node: at most one connection, whose frames arrive in order."""

    def __init__(self, owner: Process, wire: int, endpoint: str) -> None:
        self.owner, self.wire, self.endpoint = owner, wire, endpoint
        self.target: Process | None = None
        self.up = False
        self.refusing = False
        self.attempt = 0
        self.pipe: deque[tuple[float, Frames]] = deque()
        self.last_at = 0.0


class Feed:
    """One SUB connection to one publisher's outbox."""

    def __init__(self, owner: Process, endpoint: str) -> None:
        self.owner, self.endpoint = owner, endpoint
        self.target: Process | None = None
        self.prefixes: Counter[bytes] = Counter()
        """What the publisher knows of the owner's subscriptions."""
        self.closed = False
        self.last_at = 0.0
        self.life = 0


class Network:
    """Who listens where, who cannot reach whom, and what is on its way."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.listeners: dict[str, Process] = {}
        self.outboxes: dict[str, Process] = {}
        self.blocked: dict[tuple[str, str], str] = {}
        """(from peer, to peer) -> "stall" or "refuse"."""
        self._endpoints = count(1)

    def _delay(self) -> float:
        r = self.random.random()
        return 0.0002 + r * 0.002 if r < 0.9 else self.random.uniform(0.002, 0.05)

    # Inboxes

    def _reach(self, a: Process, b: Process) -> str:
        """What becomes of a packet from `a` to `b`: "" if it arrives."""
        return self.blocked.get((a.peer, b.peer), "")

    def _reach_both(self, a: Process, b: Process) -> str:
        return self._reach(a, b) or self._reach(b, a)

    def dial(self, owner: Process, wire: int, endpoint: str) -> None:
        """Connect, once; the owner hears whether it is."""
        line = owner.lines[wire] = Line(owner, wire, endpoint)
        self._attempt(line, CONNECT)

    def _attempt(self, line: Line, within: tuple[float, float]) -> None:
        line.attempt += 1
        self.world.after(self.random.uniform(*within), partial(self._connect, line, line.attempt))

    def _connect(self, line: Line, attempt: int) -> None:
        owner = line.owner
        if owner.lines.get(line.wire) is not line or line.attempt != attempt or not owner.alive:
            return
        target = self.listeners.get(line.endpoint)
        if target is None:
            self._refuse(line)
            return
        trouble = self._reach_both(owner, target)
        if trouble == "refuse":
            self._refuse(line)
        elif trouble or target.silent or (target.stopped and not target.stuck):
            self.world.after(GIVES_UP_AFTER, partial(self._give_up, line, attempt))
        else:
            line.up, line.target = True, target
            owner.post(partial(_connected, owner, line))

    def _give_up(self, line: Line, attempt: int) -> None:
        if line.attempt == attempt and not line.up and line.owner.lines.get(line.wire) is line:
            self._refuse(line)

    def _refuse(self, line: Line) -> None:
        del line.owner.lines[line.wire]
        line.owner.post(lambda now: line.owner.engine.handle_unreachable(line.wire, now))

    def hang_up(self, owner: Process, wire: int) -> None:
        """Close the connection."""
        line = owner.lines.pop(wire, None)
        if line is not None:
            self._lose_pipe(line)
            line.up = False

    def _lose_pipe(self, line: Line) -> None:
        """The connection ended: a part of what it carried arrives all the same, perhaps behind newer frames."""
        survivors = self.random.randrange(len(line.pipe) + 1) if line.pipe else 0
        target = line.target
        if target is not None and not target.silent and not self._reach(line.owner, target):
            at = self.world.now + self.random.choice((0.0, 0.01, 0.3))
            for _, frames in list(line.pipe)[:survivors]:
                self.world.at(at, partial(target.receive, line.owner.peer, frames))
        line.pipe.clear()

    def _cut(self, line: Line) -> None:
        """The connection of `line` breaks; ZeroMQ tries once more by itself."""
        if not line.up:
            return
        self.world.log(f"cut {line.owner.peer} -> {line.target.peer if line.target else '?'}")
        self._lose_pipe(line)
        line.up = False
        line.owner.post(lambda now: line.owner.engine.handle_disconnected(line.wire, now))
        self._attempt(line, RECONNECT)

    def send(self, owner: Process, wire: int, frames: Frames) -> bool:
        """Put it into the pipe; whether that had room."""
        line = owner.lines.get(wire)
        if line is None or not line.up or line.refusing or line.target is None:
            if line is not None:
                line.refusing = True
            return False
        if self.world.theme.tight and self.random.random() < 0.1:
            line.refusing = True
            self.world.after(self.random.uniform(0.001, 0.1), partial(self._writable, line))
            return False
        kept = [bytes(frame) for frame in frames]
        line.last_at = max(line.last_at, self.world.now + self._delay())
        line.pipe.append((line.last_at, kept))
        self.world.at(line.last_at, partial(self._arrive, line))
        return True

    def _writable(self, line: Line) -> None:
        if line.refusing and line.up:
            line.refusing = False
            line.owner.post(lambda now: line.owner.engine.handle_writable(line.wire))

    def _arrive(self, line: Line) -> None:
        target = line.target
        if target is None or not line.up or target.silent or self._reach(line.owner, target):
            return
        while line.pipe and line.pipe[0][0] <= self.world.now:
            target.receive(line.owner.peer, line.pipe.popleft()[1])

    def probe(self, owner: Process, wire: int, endpoint: str) -> None:
        """Look who is there; the owner hears of the outcome."""
        target = self.listeners.get(endpoint)
        outcome, after = Outcome.REFUSED, 0.001
        if target is not None:
            trouble = self._reach_both(owner, target)
            if trouble == "refuse":
                outcome = Outcome.REFUSED
            elif trouble or target.silent:
                outcome, after = Outcome.SILENT, PROBE_PATIENCE
            else:
                outcome = Outcome.ACCEPTED
        self.world.after(after, lambda: owner.post(lambda now: owner.engine.handle_probed(wire, outcome, now)))

    # Outboxes

    def follow(self, owner: Process, endpoint: str) -> None:
        """Connect to an outbox, for as long as it takes and as often as it breaks."""
        feed = owner.feeds[endpoint] = Feed(owner, endpoint)
        self._connect_feed(feed)

    def _connect_feed(self, feed: Feed) -> None:
        if feed.closed or not feed.owner.alive:
            return
        target = self.outboxes.get(feed.endpoint)
        if target is None or target.silent or target.stopped or self._reach_both(feed.owner, target):
            self.world.after(0.2, partial(self._connect_feed, feed))
            return
        feed.target = target
        feed.life += 1
        self.tell_prefixes(feed.owner)

    def tell_prefixes(self, owner: Process) -> None:
        """Subscriptions reach the publishers some time later."""
        for feed in owner.feeds.values():
            self.world.after(self.random.uniform(0.001, 0.05), partial(self._know_prefixes, feed, feed.life))

    def _know_prefixes(self, feed: Feed, life: int) -> None:
        if feed.life == life and feed.target is not None:
            feed.prefixes = Counter({p: n for p, n in feed.owner.subscriptions.items() if n > 0})

    def publish(self, owner: Process, frames: Frames) -> None:
        """Carry it to those who are known to have subscribed."""
        for process in self.world.supervisor.processes:
            for feed in process.feeds.values():
                if feed.target is owner and any(frames[0].startswith(prefix) for prefix in feed.prefixes):
                    feed.last_at = max(feed.last_at, self.world.now + self._delay())
                    self.world.at(feed.last_at, partial(self._arrive_published, feed, feed.life, frames))

    def _arrive_published(self, feed: Feed, life: int, frames: Frames) -> None:
        target = feed.target
        if feed.closed or feed.life != life or target is None or target.silent or self._reach(target, feed.owner):
            return
        feed.owner.post(lambda now: feed.owner.engine.handle_published(frames, now))

    def _cut_feed(self, feed: Feed) -> None:
        """A SUB connection breaks and is made again."""
        feed.target = None
        feed.life += 1
        feed.prefixes.clear()
        self.world.after(0.1, partial(self._connect_feed, feed))

    # Hosts

    def new_endpoints(self, role: Role) -> tuple[list[str], list[str]]:
        number = next(self._endpoints)
        inbox = [f"tcp://{role.host}:{number}"]
        if self.random.random() < 0.5:
            inbox.insert(0, f"ipc:///{role.host}/{number}")
        return inbox, [f"tcp://{role.host}:out{number}"]

    def listen(self, process: Process) -> None:
        """What is sent to its endpoints is sent to this process from now on."""
        for endpoint in process.address.inbox:
            self.listeners[endpoint] = process
        for endpoint in process.address.outbox:
            self.outboxes[endpoint] = process

    def close(self, process: Process) -> None:
        """The process has ended; if its host has vanished with it, nobody learns of that."""
        if not process.silent:
            self._stop_listening(process)
        for endpoint in process.address.outbox:
            if self.outboxes.get(endpoint) is process:
                del self.outboxes[endpoint]
        for line in list(process.lines.values()):
            self._lose_pipe(line)
        process.lines.clear()
        for feed in process.feeds.values():
            feed.closed = True
        if process.silent:
            self.world.after(20.0, partial(self._host_back, process))
        else:
            self._drop_connections_to(process)

    def _host_back(self, process: Process) -> None:
        """The host answers again, and knows nothing of the connections that it had."""
        process.silent = False
        self._stop_listening(process)
        self._drop_connections_to(process)

    def _stop_listening(self, process: Process) -> None:
        for endpoint in process.address.inbox:
            if self.listeners.get(endpoint) is process:
                del self.listeners[endpoint]

    def _drop_connections_to(self, process: Process) -> None:
        for other in self.world.supervisor.living():
            for line in other.lines.values():
                if line.up and line.target is process:
                    line.pipe.clear()
                    self._cut(line)
            for feed in other.feeds.values():
                if feed.target is process:
                    self._cut_feed(feed)

    # Troubles

    def block(self, pairs: list[tuple[str, str]], how: str) -> None:
        """From now on nothing gets through from the first of each pair to the second."""
        self.blocked.update(dict.fromkeys(pairs, how))

    def cut_some(self, a: Process, b: Process, *, everything: bool = False) -> None:
        """Some of the connections between the two break, or all of them."""
        lines = [line for p, q in ((a, b), (b, a)) for line in p.lines.values() if line.target is q and line.up]
        for line in lines:
            if everything or self.random.random() < 0.7:
                self._cut(line)
        for p, q in ((a, b), (b, a)):
            for feed in p.feeds.values():
                if feed.target is q and (everything or self.random.random() < 0.5):
                    self._cut_feed(feed)

    def heal(self, pairs: list[tuple[str, str]]) -> None:
        """These are blocked no more; what was on its way anywhere goes on."""
        for pair in pairs:
            if self.blocked.pop(pair, None) is not None:
                self.world.log(f"healed {pair}")
        for process in self.world.supervisor.processes:
            for line in process.lines.values():
                if line.pipe and line.up:
                    at = self.world.now + self._delay()
                    line.pipe = deque((at, frames) for _, frames in line.pipe)
                    line.last_at = max(line.last_at, at)
                    self.world.at(at, partial(self._arrive, line))


def _connected(owner: Process, line: Line, now: float) -> None:
    if owner.lines.get(line.wire) is not line or not line.up:
        return
    owner.engine.handle_connected(line.wire, now)
    if line.refusing:
        line.refusing = False
        owner.engine.handle_writable(line.wire)
