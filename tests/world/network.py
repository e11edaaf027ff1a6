"""The network: connections that carry frames in order, with delays, and break, stall and refuse."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from peerfabric.link.commands import Outcome
from tests.world.lan import TCP_MAXRT, Stranger

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.roles import Role
    from tests.world.world import World

Frames = list[bytes]

CONNECT = (0.001, 0.004)
RECONNECT = (0.05, 0.09)
GIVES_UP_AFTER = 2.0
PROBE_PATIENCE = 1.0
HEARTBEAT = 5.0
EVERY = 0.25
"""The period in which connections that have died are looked for."""


class Line:
    """One PUSH of one node: at most one connection, whose frames arrive in order."""

    def __init__(self, owner: Process, wire: int, endpoint: str, gate: str) -> None:
        self.owner, self.wire, self.endpoint, self.gate = owner, wire, endpoint, gate
        self.target: Process | Stranger | None = None
        self.source = ""
        """The address of the owner's host when the connection was made."""
        self.up = False
        self.refusing = False
        self.attempt = 0
        self.pipe: deque[tuple[float, Frames]] = deque()
        self.last_at = 0.0
        self.dead = False
        """Its host has another address now: nothing that is sent arrives, and nobody is told."""
        self.stalled_at = inf
        """Since when something was sent that nobody acknowledges."""


class Feed:
    """One SUB connection to one publisher's outbox."""

    def __init__(self, owner: Process, endpoint: str, key: bytes) -> None:
        self.owner, self.endpoint, self.key = owner, endpoint, key
        self.target: Process | Stranger | None = None
        self.prefixes: Counter[bytes] = Counter()
        """What the publisher knows of the owner's subscriptions."""
        self.closed = False
        self.last_at = 0.0
        self.life = 0
        self.dead = False


class Network:
    """Who listens where, who cannot reach whom, and what is on its way."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.listeners: dict[str, Process] = {}
        self.outboxes: dict[str, Process] = {}
        self.blocked: dict[tuple[str, str], str] = {}
        """(from peer, to peer) -> "stall" or "refuse"."""
        self.cut_at = -inf
        """When some connections between two who live were cut last."""
        self._endpoints = count(1)

    def _delay(self) -> float:
        r = self.random.random()
        return 0.0002 + r * 0.002 if r < 0.9 else self.random.uniform(0.002, 0.05)

    # Inboxes

    def _reach(self, a: Process, b: Process) -> str:
        """What becomes of a packet from `a` to `b`: "" if it arrives."""
        return self.blocked.get((a.peer, b.peer), "") or self.world.lan.between(a, b)

    def _reach_both(self, a: Process, b: Process) -> str:
        return self._reach(a, b) or self._reach(b, a)

    def find(self, owner: Process, endpoint: str) -> tuple[Process | Stranger | None, str]:
        """Who listens at an inbox as `owner` sees it; if nobody, what becomes of those who dial."""
        if self.world.theme.lan:
            return self.world.lan.find(owner, endpoint)
        return self.listeners.get(endpoint), "refuse"

    def _in_the_way(self, owner: Process, target: Process | Stranger) -> str:
        """What becomes of an attempt of `owner` to connect to the inbox of `target`."""
        if isinstance(target, Stranger):
            return ""
        return self.world.lan.on_wire(owner, target) or self._reach_both(owner, target)

    def _arrives(self, line: Line) -> bool:
        """Whether what is sent on a connection gets through now."""
        target = line.target
        if target is None or isinstance(target, Stranger) or target.silent or line.dead:
            return False
        return not (self.world.lan.on_wire(line.owner, target) or self._reach(line.owner, target))

    def dial(self, owner: Process, wire: int, endpoint: str, gate: str = "") -> None:
        """Connect, once; the owner hears whether it is."""
        line = owner.lines[wire] = Line(owner, wire, endpoint, gate)
        if self.world.theme.lan:
            self.world.log(f"{owner.peer} dials {endpoint} {gate}")
        self._attempt(line, CONNECT)

    def _attempt(self, line: Line, within: tuple[float, float]) -> None:
        line.attempt += 1
        self.world.after(self.random.uniform(*within), partial(self._connect, line, line.attempt))

    def _connect(self, line: Line, attempt: int) -> None:
        owner = line.owner
        if owner.lines.get(line.wire) is not line or line.attempt != attempt or not owner.alive:
            return
        target, trouble = self.find(owner, line.endpoint)
        if target is not None:
            trouble = self._in_the_way(owner, target)
        if trouble == "refuse":
            self._refuse(line)
            return
        if target is None or trouble or target.silent or (target.stopped and not target.stuck):
            self.world.after(GIVES_UP_AFTER, partial(self._give_up, line, attempt))
            return
        why = ""
        if isinstance(target, Stranger):
            if line.gate:  # it cannot shake hands
                self.world.after(GIVES_UP_AFTER, partial(self._give_up, line, attempt, "silent"))
                return
        elif self.world.theme.lan:
            why = self.world.lan.lets_in(owner, target, line.endpoint, line.gate)
        if why:
            self._refuse(line, why)
        else:
            line.up, line.target, line.dead, line.stalled_at = True, target, False, inf
            if self.world.theme.lan:
                line.source = self.world.lan.address_of(owner.network)
                self.world.log(f"{owner.peer} is connected to {target.peer} at {line.endpoint} {line.gate}")
            owner.post(partial(_connected, owner, line))

    def _give_up(self, line: Line, attempt: int, why: str = "") -> None:
        if line.attempt == attempt and not line.up and line.owner.lines.get(line.wire) is line:
            self._refuse(line, why)

    def _refuse(self, line: Line, why: str = "") -> None:
        if self.world.theme.lan:
            self.world.log(f"{line.owner.peer} is not let in at {line.endpoint} {line.gate} {why}")
        del line.owner.lines[line.wire]
        line.owner.post(lambda now: line.owner.engine.handle_unreachable(line.wire, now, why))

    def hang_up(self, owner: Process, wire: int) -> None:
        """Close the connection."""
        line = owner.lines.pop(wire, None)
        if line is not None:
            self._lose_pipe(line)
            line.up = False

    def _lose_pipe(self, line: Line) -> None:
        """The connection ended: a part of what it carried arrives all the same, perhaps behind newer frames."""
        survivors = self.random.randrange(len(line.pipe) + 1) if line.pipe else 0
        if self._arrives(line):
            at = self.world.now + self.random.choice((0.0, 0.01, 0.3))
            for _, frames in list(line.pipe)[:survivors]:
                self.world.at(at, partial(self._deliver, line, line.target, frames))
        line.pipe.clear()

    def _deliver(self, line: Line, target: Process | Stranger | None, frames: Frames) -> None:
        if target is not None and not isinstance(target, Stranger) and self.world.lan.takes_from(line, target):
            key = line.owner.address.node_id if line.gate else ""
            observed = self.world.lan.seen_at(line, target) if self.world.theme.lan else ""
            target.receive(line.owner.peer, frames, key, observed)

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
        line.stalled_at = min(line.stalled_at, self.world.now)
        line.pipe.append((line.last_at, kept))
        self.world.at(line.last_at, partial(self._arrive, line))
        return True

    def _writable(self, line: Line) -> None:
        if line.refusing and line.up:
            line.refusing = False
            line.owner.post(lambda now: line.owner.engine.handle_writable(line.wire))

    def _arrive(self, line: Line) -> None:
        if not line.up or not self._arrives(line):
            return
        while line.pipe and line.pipe[0][0] <= self.world.now:
            self._deliver(line, line.target, line.pipe.popleft()[1])

    def probe(self, owner: Process, wire: int, endpoint: str) -> None:
        """Look who is there; the owner hears of the outcome."""
        target, trouble = self.find(owner, endpoint)
        if target is not None:
            trouble = self._in_the_way(owner, target) or ("stall" if target.silent else "")
        outcome, after = Outcome.ACCEPTED, 0.001
        if trouble == "refuse":
            outcome = Outcome.REFUSED
        elif trouble:
            outcome, after = Outcome.SILENT, PROBE_PATIENCE
        self.world.after(after, lambda: owner.post(lambda now: owner.engine.handle_probed(wire, outcome, now)))

    # Outboxes

    def follow(self, owner: Process, endpoint: str, key: bytes = b"") -> None:
        """Connect to an outbox, for as long as it takes and as often as it breaks."""
        feed = owner.feeds[endpoint] = Feed(owner, endpoint, key)
        self._connect_feed(feed)

    def _connect_feed(self, feed: Feed) -> None:
        if feed.closed or not feed.owner.alive:
            return
        if self.world.theme.lan:
            target, _ = self.world.lan.find(feed.owner, feed.endpoint)
        else:
            target = self.outboxes.get(feed.endpoint)
        there = target is not None and (isinstance(target, Stranger) or not self._feed_fails(feed, target))
        if not there:
            self.world.after(0.2, partial(self._connect_feed, feed))
            return
        feed.target, feed.dead = target, False
        feed.life += 1
        self.tell_prefixes(feed.owner)

    def _feed_fails(self, feed: Feed, target: Process) -> bool:
        """Whether the publisher cannot be reached, has another key, or does not know who asks."""
        if target.silent or target.stopped or self._reach_both(feed.owner, target):
            return True
        if feed.key != target.address.outbox_key:
            return True
        known = not target.secret or target.engine.is_known(feed.owner.address.node_id)
        return not known

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
        if feed.closed or feed.life != life or feed.dead or target is None or isinstance(target, Stranger):
            return
        if target.silent or self._reach(target, feed.owner):
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
        address = f"10.1.0.{role.host.removeprefix('h')}"
        inbox = [f"tcp://{address}:{number}"]
        if self.random.random() < 0.5:
            inbox.insert(0, f"ipc:///{role.host}/{number}")
        return inbox, [f"tcp://{address}:{10_000 + number}"]

    def listen(self, process: Process) -> None:
        """What is sent to its endpoints is sent to this process from now on."""
        if self.world.theme.lan:
            self.world.lan.listen(process)
            return
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
        self.world.lan.leave(process)
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

    def watch(self) -> None:
        """Break connections on which nothing was acknowledged for too long."""
        for process in self.world.supervisor.living():
            for line in list(process.lines.values()):
                target = line.target
                if not line.up or target is None or isinstance(target, Stranger):
                    continue
                stalls = line.dead or target.silent or self._in_the_way(process, target) == "stall"
                if not stalls:
                    line.stalled_at = inf
                elif self.world.now - line.stalled_at > TCP_MAXRT:
                    self._cut(line)
            for feed in process.feeds.values():
                # Nobody sends anything on it but heartbeats.
                if feed.dead and self.random.random() < EVERY / (HEARTBEAT + TCP_MAXRT):
                    self._cut_feed(feed)
        self.world.after(EVERY, self.watch)

    def reset(self, owner: Process, target: Process) -> None:
        """The connection of `owner` to the inbox of `target` is refused in the middle."""
        for line in list(owner.lines.values()):
            if line.up and line.target is target:
                self._cut(line)

    def cut_some(self, a: Process, b: Process, *, everything: bool = False) -> None:
        """Some of the connections between the two break, or all of them."""
        self.cut_at = self.world.now
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
