"""One process: an engine, driven as the pump and the thread of the disk drive it, from start to end."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from math import inf
from random import Random
from typing import TYPE_CHECKING

import msgspec

from peerfabric.errors import SpoolError
from peerfabric.link.commands import Dial, Follow, HangUp, Probe, Subscribe, Unfollow, Unsubscribe
from peerfabric.link.endpoints import network_of
from peerfabric.nodes.storage.disk_thread import RETRY_AFTER, Disk
from peerfabric.nodes.storage.ledger_store import LedgerStore
from peerfabric.nodes.storage.store import Store
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.wire.frames import Address, Hello, decode_frame
from tests.world.disks import Drive, Killed
from tests.world.lan import DENIES_AFTER
from tests.world.network import Frames
from tests.world.witness import WatchedEngine

if TYPE_CHECKING:
    from tests.world.consumer import Consumer
    from tests.world.network import Feed, Line
    from tests.world.producer import Producer
    from tests.world.roles import Role
    from tests.world.services import Services
    from tests.world.world import World

TURNS_MAX = 40_000
"""Turns of all nodes in one run: more means that somebody spins."""


class Process:
    """One node: an engine, its sockets, and the user code around it."""

    def __init__(self, world: World, address: Address, role: Role, port: int = 0) -> None:
        self.world, self.address, self.role, self.port = world, address, role, port
        self.host, self.network = role.host, network_of(role.host)
        self.offset = world.random.uniform(0, 1000)
        self.options = role.options
        self.engine = WatchedEngine(world, address, "world", self.options, Random(world.random.random()), self.clock())
        self.peer = f"{address.node_id}:{address.epoch}"
        self.gates = list(role.gates)
        """Ids of the keys under which it listens and dials, the first first; "" in the clear."""
        self.gates_at = world.now
        """Since when it has those."""
        self.closed_gates: dict[str, float] = {}
        """Gate that it has given up -> from when on its listener denies everybody."""
        if role.gates != [""]:
            self.engine.handle_gates(list(self.gates), self.clock())
        self.alive = True
        self.left = False
        self.silent = False
        """Its host has vanished: nobody is told."""
        self.stopped = False
        self.stuck = False
        """Stopped only above the sockets: connections are still accepted."""
        self.lines: dict[int, Line] = {}
        self.feeds: dict[str, Feed] = {}
        self.subscriptions: Counter[bytes] = Counter()
        self.inbox: list[Callable[[float], None]] = []
        self.turn_at = inf
        self.consumers: dict[str, Consumer] = {}
        self.producers: dict[str, Producer] = {}
        self.services: Services | None = None
        self.updated: dict[object, tuple[int, int]] = {}
        """Topic of a publisher in one life, as one subscriber follows it -> the last sequence that it was given, and
        how many it was given."""
        self.echoes: dict[str, float] = {}
        """Peer of a producer -> when we sent the newest frame that it echoed, by our clock."""
        self.heard: dict[str, float] = {}
        """Peer -> when a frame of it was last taken in, by our clock."""
        self.came_at: dict[tuple[str, int], float] = {}
        """(stream, sequence) of what expires -> when it came last, in the world's time."""
        self.left_at: dict[tuple[bytes, int], float] = {}
        """(link id, number) of a frame of ours -> when it left."""
        self.leaving = ""
        self.clean = False
        """It leaves with nothing unsettled but what is on disk."""
        self.began_at, self.ended_at = world.now, inf
        self.host_process: Process | None = None
        """Of an adopted node: the one that has adopted it, with which it lives and dies."""
        self.guests: list[Process] = []
        """The nodes that it has adopted, ever."""
        self.drive: Drive | None = None
        self.disk: Disk | None = None
        self.ledger_stores: dict[str, LedgerStore] = {}
        self.met: dict[str, float] = {}
        """Peer -> when it first told this process what it has."""
        self.superseded_by = ""
        """Where the later copy of this node is, if there is one."""
        self.slow_until = 0.0
        self.look_at = inf
        self.looking = False

    @property
    def group(self) -> list[Process]:
        """All that lives in the same process of the system."""
        first = self.host_process or self
        return [process for process in (first, *first.guests) if process.alive]

    def clock(self) -> float:
        return self.world.now + self.offset

    def unix_ms(self) -> float:
        """Unix time, of which all processes have the same."""
        return 1e9 + self.world.now * 1000

    def post(self, event: Callable[[float], None]) -> None:
        """Something happened to this node's sockets or in its user code; its thread reads it in its next turn."""
        if self.alive:
            self.inbox.append(event)
            self.wake(self.world.random.uniform(0, 0.001))

    def wake(self, delay: float = 0.0) -> None:
        at = self.world.now + delay
        if at < self.turn_at and self.alive:
            self.turn_at = at
            self.world.at(at, partial(self._turn_if, at))

    def _turn_if(self, at: float) -> None:
        if self.turn_at == at and self.alive and not self.stopped:
            self.turn_at = inf
            self.turn()

    # The disk's thread

    @property
    def stores(self) -> dict[str, Store]:
        return self.disk.stores if self.disk is not None else {}

    def look(self, delay: float | None = None) -> None:
        """Let the disk's thread make a round, after `delay` or soon."""
        if delay is None:
            delay = self.world.random.choice((0.0, 0.0005, 0.003, 0.02))
        at = self.world.now + delay
        if at < self.look_at and self.alive:
            self.look_at = at
            self.world.at(at, partial(self._look_if, at))

    def _look_if(self, at: float) -> None:
        if self.look_at != at or not self.alive or self.looking:
            return
        self.look_at = inf
        if self.stopped and not self.stuck:
            self.look(0.05)
            return
        assert self.disk is not None
        self.looking = True
        try:
            timeout = self.disk.round(self.clock())
        except SpoolError as error:
            self.world.log(f"{self.peer} {error}")
            timeout = RETRY_AFTER
        except Killed:
            return
        finally:
            self.looking = False
        self.check_disk()
        at, self.look_at = self.look_at, inf
        self.look(min(max(0.0, at - self.world.now), timeout if timeout is not None else inf))

    def check_disk(self) -> None:
        self.engine.check()
        for store in self.stores.values():
            store.check()

    def pass_time(self) -> None:
        """The disk's thread waits: the others go on, and this process may die meanwhile."""
        world = self.world
        if not self.looking:
            return  # the process starts or ends
        r = world.random.random()
        if world.now < self.slow_until:
            world.advance(world.now + r * 0.4)
        elif r < 0.4:
            world.advance(world.now + r * 0.01)
        while self.alive and self.stopped and not self.stuck:
            world.advance(world.now + 0.05)
        if not self.alive:
            raise Killed

    def turn(self) -> None:
        """One turn of the I/O thread, as the pump does it."""
        world, engine = self.world, self.engine
        world.turns += 1
        assert world.turns < TURNS_MAX, "the nodes spin"
        now = self.clock()
        for producer in self.producers.values():
            producer.hand_over()
        if self.services is not None:
            self.services.hand_over(now)
        inbox, self.inbox = self.inbox, []
        for event in inbox:
            event(now)
            if self.services is not None:
                self.services.meanwhile()
        if self.ended_at < inf:  # a call was deadly
            return
        engine.handle_timeout(now)
        for consumer in self.consumers.values():
            consumer.turn(now)
        if self.leaving:
            self._leave(now)
        self.flush(now)
        engine.check()
        events = engine.poll_events()
        for record in events.records:
            world.log(f"{self.peer} {record.level}: {record.text}")
            assert record.level == "info" or not world.theme.is_clean, f"{self.peer} warns: {record.text}"
        if superseded := events.superseded:
            self.superseded_by = superseded
            world.log(f"{self.peer} is another copy of the node at {superseded}")
            world.supervisor.end(self, "died")
        if not self.alive:
            return
        for end in events.changed:
            if isinstance(end, IncomingQueue) and self.consumers[end.queue].wants():
                self.wake(0.0005)
        for subscriber in engine.topics.subscribers.values():
            while (batch := subscriber.take()) is not None:
                world.witness.updated(self, batch)
        if self.services is not None:
            self.services.turned(now)
        deadline = engine.poll_timeout()
        if deadline < inf:
            self.wake(max(0.0005, deadline - now))
        if self.disk is not None and self.disk.news():
            self.look()
        if events.announced is not None and world.shared is not None and self.host_process is None:
            self.address = events.announced  # by its digest others see what it uses
            world.supervisor.announce(self)

    def send(self, wire: int, frames: list[bytes]) -> bool:
        """As the sockets do it."""
        link, number, _ = numbers(frames)
        self.left_at.setdefault((link, number), self.clock())
        return self.world.network.send(self, wire, frames)

    def send_beside(self) -> None:
        """A thread of the user's sends calls and answers itself, and leaves the rest to the next turn."""
        self.engine.transmit_calls(self.send, self.clock())
        self.engine.check()
        self.wake()

    def flush(self, now: float) -> None:
        """Carry out what the engine asks for."""
        engine, world = self.engine, self.world
        engine.transmit(self.send, now)
        published, engine.topics.outbox = engine.topics.outbox, deque()
        for frames in published:
            world.network.publish(self, frames)
        for command in engine.poll_commands():
            match command:
                case Dial(wire, endpoint, gate):
                    world.network.hang_up(self, wire)
                    world.network.dial(self, wire, endpoint, gate)
                case HangUp(wire):
                    world.network.hang_up(self, wire)
                case Probe(wire, endpoint):
                    world.network.probe(self, wire, endpoint)
                case Follow(endpoint, key):
                    world.network.follow(self, endpoint, key)
                case Unfollow(endpoint):
                    feed = self.feeds.pop(endpoint, None)
                    if feed is not None:
                        feed.closed = True
                case Subscribe(prefix):
                    self.subscriptions[prefix] += 1
                    world.network.tell_prefixes(self)
                case Unsubscribe(prefix):
                    self.subscriptions[prefix] -= 1
                    world.network.tell_prefixes(self)

    def receive(self, sender: str, frames: Frames, key: str = "", observed: str = "") -> None:
        """A frame came to the inbox from the peer `sender`, whose key has proven this node id, from this address."""

        def read(now: float) -> None:
            link, _, echo = numbers(frames)
            left_at = self.left_at.get((link[4:] + link[:4], echo), -inf)
            self.echoes[sender] = max(self.echoes.get(sender, -inf), left_at)
            known = self.engine.links.by_id.get(link)
            if known is not None and known.peer == sender:
                self.heard[sender] = now
            self.engine.handle_frames(frames, now, key, observed)

        self.post(read)

    # What changes while it runs

    @property
    def secret(self) -> bool:
        """It listens under keys."""
        return self.gates != [""]

    def readdress(self) -> None:
        """It has noticed that others reach it elsewhere, and says so."""
        inbox, outbox = self.world.lan.endpoints(self.role, self.host, self.port, self.gates)
        if not self.alive or (inbox == self.address.inbox and outbox == self.address.outbox):
            return
        address = msgspec.structs.replace(self.address, inbox=inbox, outbox=outbox, version=self.address.version + 1)
        self.address = address
        self.world.log(f"{self.peer} is at {inbox} from now on")
        self.post(lambda now: self.engine.readdress(address, now))
        self.world.supervisor.announce(self)

    def change_gates(self, gates: list[str]) -> None:
        """It has other secrets from now on; a listener whose secret is gone denies everybody after a while."""
        for gate in set(self.gates) - set(gates):
            self.closed_gates[gate] = self.world.now + DENIES_AFTER
        for gate in gates:
            self.closed_gates.pop(gate, None)
        self.gates, self.gates_at = gates, self.world.now
        self.world.log(f"{self.peer} has the gates {gates} from now on")
        self.world.lan.listen(self)
        self.post(lambda now: self.engine.handle_gates(list(gates), now))
        self.readdress()

    def admit(self, revoked: frozenset[str]) -> None:
        """It lets in everybody but these from now on."""
        self.post(lambda now: self.engine.handle_access(lambda node_id: node_id not in revoked, now))

    # Leaving in order

    def leave(self) -> None:
        """The program ends: drain, say goodbye, close."""
        if self.alive and not self.leaving:
            self.leaving = "draining"
            self.leave_by = self.world.now + 8.0
            for guest in self.guests:
                guest.leave()
                guest.leave_by = self.world.now
            for producer in self.producers.values():
                producer.closed = True
            self.post(self.engine.drain)
            self.post(self.engine.topics.finish)

    def _leave(self, now: float) -> None:
        if self.leaving == "draining":
            for queue, consumer in self.consumers.items():
                consumer.closed = consumer.closed or self.engine.consumers.by_queue[queue].closed
            # Who still sends is not interrupted between numbering a message and handing it over.
            handed = all(producer.all_stored for producer in self.producers.values() if producer.overflow)
            if handed and (self.engine.settled() or self.world.now > self.leave_by):
                self.clean = self.engine.settled()
                if not self.clean:
                    self.world.log(f"{self.peer} leaves with unsettled {self.engine.producers.unsettled()}")
                    self.world.record.excuse("left unsettled", self.peer)
                self.leaving = "bye"
                self.engine.say_bye(now)
            else:
                self.wake(0.05)
        elif self.engine.finished(now):
            self.flush(now)
            if self.engine.parting.closed_at <= now:
                self.world.record.excuse("left without an answer", self.peer)
            if self.disk is None or self._shut(now):
                self.world.supervisor.end(self, "left")
        else:
            self.wake(0.02)

    def _shut(self, now: float) -> bool:
        """Leave everything on disk; whether that could be tried, or the disk's thread has yet to come back."""
        if self.looking:
            self.wake(0.02)
            return False
        disk, role = self.disk, self.role
        assert disk is not None
        marks = {queue: store.end.marks() for queue, store in self.stores.items() if store.end is not None}
        lost = [key for producer in self.producers.values() for key in producer.volatile_unsettled()]
        assert len(lost) == sum(self.engine.producers.unsettled()), (
            f"{self.peer} loses {lost}, more or less than it says"
        )
        assert not (lost and self.clean), f"{self.peer} takes {lost} for settled"
        self.world.record.unsure.update(lost)
        self.engine.producers.leave()
        try:
            disk.last_round(now)
            disk.spool.close()
            role.marks = marks
        except SpoolError as error:
            self.world.log(f"{self.peer} closes: {error}")
        except Killed:
            return False
        return True


def numbers(frames: Frames) -> tuple[bytes, int, int]:
    """Link id, number and echo of a frame; zeros if it is a HELLO."""
    frame = decode_frame(frames[0])
    return (bytes(8), 0, 0) if isinstance(frame, Hello) else (frame.link, frame.number, frame.echo)
