"""Whole fabrics in one process, under a seed: simulated time, network, processes and user code around real engines.

    world = World(seed=7, theme="deaths")
    world.run()                      raises AssertionError with the seed and the end of the trace

The network carries frames per connection in order, with random delays. It cuts connections (what is in the
pipe is lost, or arrives after the first frames of the next one, as ZeroMQ does), stalls directions, refuses
and forgets. Processes die, vanish with their host, hang, come back as somebody else or as a later life.
User code is fast, slow, failing, hanging or deadly. Nothing else is random: the same seed replays the run.

A role with a spool is one node for ever: its disk, in memory, outlives each of its processes, and every process goes
on where the last one ended. The disk fails, fills up, is slow and loses its power, and a process may die within any
of its operations. Whoever waits there lets the world go on meanwhile, as a thread would. Consumers with ledgers have
disks, too, of roles that are another node each time.

What must hold is asserted after every turn (`check()` of the engine that had it) and at the end, after
everything was healed and became quiet; see `World.judge`.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from errno import EIO, ENOSPC
from functools import partial
from itertools import count, pairwise
from math import inf
from random import Random
from typing import Any

import msgspec

from peerfabric import inflight
from peerfabric.backlog import REUNION, Recovered, only_the_running
from peerfabric.batch import split
from peerfabric.commands import Dial, Follow, HangUp, Outcome, Probe, Subscribe, Unfollow, Unsubscribe
from peerfabric.consumer_end import ConsumerEnd
from peerfabric.delivery import Delivery, Verdict
from peerfabric.engine import Engine
from peerfabric.envelope import MSGPACK, RAW, Address, Extra, Interest, Pong, decode_frame
from peerfabric.errors import SpoolError
from peerfabric.inflight import DEATHS_TO_SUSPECT, cost
from peerfabric.link import FENCE, Belief, Link
from peerfabric.marks import Marks
from peerfabric.names import matches
from peerfabric.nodes.deposits import Deposit, Deposits
from peerfabric.nodes.disk import RETRY_AFTER, Disk
from peerfabric.nodes.keeper import Keeper
from peerfabric.nodes.stores import Store
from peerfabric.options import Options
from peerfabric.producer_end import ProducerEnd
from peerfabric.ranges import Ranges
from peerfabric.spool import Spool
from peerfabric.spool.files import Buffer, Place
from peerfabric.spool.files import Process as Owner
from peerfabric.spool.ledger import Entry, Ledger
from peerfabric.stats import DeadLetter
from tests.fabric.spool.disk import SHORT
from tests.fabric.spool.disk import Disk as Platter

Frames = list[bytes]

PROCESSED = ("ack", "kept")
"""Outcomes of runs after which a message need not run any more: an ack, or one that its consumer's ledger has alone."""
MAX_ATTEMPTS = 5
DEATHS_FORGOTTEN = 3
"""Deaths of one message that may go unnoticed with the death of its producer."""
QUIET_WITHIN = 150.0
"""Virtual seconds after healing in which everything must have become quiet."""
TURNS_MAX = 40_000
"""Turns of all nodes in one run: more means that somebody spins."""

CONNECT = (0.001, 0.004)
RECONNECT = (0.05, 0.09)
GIVES_UP_AFTER = 2.0
PROBE_PATIENCE = 1.0


@dataclass
class Run:
    """One message in the hands of user code."""

    stream: str
    sequence: int
    body: bytes
    attempt: int
    holder: str
    """The process that ran it."""
    lease: float
    start: float
    end: float = inf
    ledger: tuple[str, str] | None = None
    """The disk and the queue of the ledger in which its holder writes."""
    outcome: str = ""
    """"" while it runs; "died" if its process did; "unacked" if its ledger did not take it, or "kept" if it has it."""


@dataclass
class Theme:
    """Which troubles a world has."""

    faults: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("ok",)
    topics: bool = False
    picky: bool = False
    closes: bool = False
    """Consumers close and reopen."""
    tight: bool = False
    """Small budgets, large bodies, sockets that refuse."""
    batches: bool = True
    letters: bool = False
    loop: float = 0.0
    """How many of the nodes consume what they produce."""
    messages: int = 80
    lease: float = 8.0
    strict: bool = False
    """Nothing happens that could excuse a second run."""
    spooled: float = 0.0
    """How many of the producing nodes have a spool, the first of them included."""
    fsync: float = 0.0
    """How many of those that have a disk sync."""
    overflow: float = 0.0
    """How many of those with a spool have `on_full="spool"`."""
    ledgers: float = 0.0
    """How many of the consuming nodes have ledgers."""


THEMES = {
    "calm": Theme(strict=True, kinds=("ok", "ok", "slow"), loop=0.2),
    "cuts": Theme(faults=("cut", "cut", "cut", "flap"), strict=True, kinds=("ok", "ok", "slow")),
    "tight": Theme(faults=("cut", "late"), strict=True, tight=True, loop=0.2),
    "deaths": Theme(faults=("kill", "kill", "kill", "reborn", "usurp", "cut")),
    "silence": Theme(
        faults=("vanish", "stop", "stall", "one-way", "late", "cut"), kinds=("ok",) * 8 + ("slow",) * 4 + ("long",)
    ),
    "hung": Theme(faults=("stop", "stop", "stop", "late"), kinds=("ok",) * 30 + ("slow",), lease=3.0, messages=300),
    "firewall": Theme(faults=("refuse", "cut", "stall"), kinds=("ok", "slow")),
    "handlers": Theme(
        kinds=("ok", "ok", "slow", "fails twice", "fails", "rejected", "misfit", "let go", "hangs"),
        picky=True,
        closes=True,
        letters=True,
        loop=0.2,
    ),
    "poison": Theme(kinds=("ok",) * 20 + ("poison",), messages=40),
    "leaving": Theme(faults=("leave", "leave", "cut"), closes=True, strict=True),
    "topics": Theme(faults=("cut", "kill", "stall", "vanish"), topics=True, messages=10),
    "everything": Theme(
        faults=("kill", "reborn", "usurp", "vanish", "stop", "stall", "one-way", "refuse", "late", "cut", "leave"),
        kinds=("ok",) * 8 + ("slow", "fails twice", "fails", "rejected", "misfit", "let go", "hangs"),
        topics=True,
        closes=True,
        tight=True,
        picky=True,
        letters=True,
        loop=0.2,
    ),
    "disk": Theme(
        faults=("crash", "crash", "kill", "cut", "leave", "slow disk"),
        kinds=("ok", "ok", "slow"),
        loop=0.2,
        spooled=0.8,
        fsync=0.3,
    ),
    "power": Theme(
        faults=("power", "power", "outage", "crash", "crash", "cut", "slow disk"),
        kinds=("ok",) * 5 + ("slow", "slow", "rejected"),
        spooled=0.8,
        fsync=0.7,
    ),
    "faults": Theme(
        faults=("io", "io", "short", "full", "crash", "kill", "cut", "stall"),
        kinds=("ok",) * 8 + ("slow", "slow", "fails"),
        loop=0.2,
        spooled=0.8,
        fsync=0.5,
    ),
    "graves": Theme(
        faults=("crash", "kill", "io", "full", "no graves", "no graves", "leave", "leave"),
        kinds=("ok",) * 12 + ("slow", "fails twice", "fails", "rejected", "misfit", "poison"),
        picky=True,
        letters=True,
        spooled=0.9,
        fsync=0.3,
        messages=60,
    ),
    "relapses": Theme(
        faults=("relapse", "relapse", "cut", "slow disk"),
        kinds=("ok",) * 5 + ("slow", "slow", "long", "fails"),
        spooled=1.0,
        fsync=0.3,
    ),
    "suicides": Theme(
        faults=("cut", "slow disk", "slow disk"),
        kinds=("ok",) * 12 + ("slow", "fails twice", "poison"),
        loop=0.8,
        spooled=1.0,
        fsync=0.3,
        messages=40,
    ),
    "overflow": Theme(
        faults=("leave", "leave", "leave", "crash", "kill", "cut", "full", "power"),
        kinds=("ok",) * 8 + ("slow", "slow", "fails"),
        closes=True,
        spooled=1.0,
        fsync=0.4,
        overflow=0.9,
    ),
    "ledgers": Theme(
        faults=("unheard",) * 5
        + ("kill", "crash", "crash", "relapse", "cut", "leave", "io", "short", "full", "power", "outage"),
        kinds=("ok",) * 8 + ("slow", "slow", "fails", "rejected"),
        loop=0.2,
        spooled=0.7,
        fsync=0.5,
        ledgers=0.9,
    ),
}

DISK_THEMES = tuple(name for name, theme in THEMES.items() if theme.spooled)
VOLATILE_THEMES = tuple(name for name, theme in THEMES.items() if not theme.spooled)

SEGMENT_BYTES = 2048
LEDGER_BYTES = 600
"""A larger ledger is written anew, if half of it is forgotten."""
BOOKS = "/books"
"""The folder of the ledgers."""
OPERATIONS = ("write", "sync", "create", "allocate", "truncate", "sync_folder", "rename", "unlink")


class Killed(BaseException):
    """The process that asked something of its disk is no more."""


class Drive:
    """The disk of a node as one of its processes has it: an implementation of `Files` in which the process may die."""

    def __init__(self, world: World, platter: Platter) -> None:
        self.world, self.platter = world, platter
        self.process_of: Process | None = None
        self.over = False
        """The process is dead, whatever still runs of it here."""
        self.steps_left = 0
        """Operations until the process dies in the middle of one; 0: it lives on."""
        self.with_power = False
        """Then the power fails, too."""
        self.no_graves_until = 0.0
        """Until then dead letters, and nothing else, cannot be written."""

    def _step(self, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        if self.over:
            raise Killed
        if self.steps_left:
            self.steps_left -= 1
            if not self.steps_left:
                how = self.world.random.randrange(3)
                try:
                    if how == 1:
                        act()
                    elif how == 2 and half is not None:
                        half()
                except OSError:
                    pass
                self.world.struck(self)
                raise Killed
        return act()

    def make_folder(self, path: str) -> bool:
        made: bool = self._step(partial(self.platter.make_folder, path))
        return made

    def check_folder(self, path: str) -> Place:
        return self.platter.check_folder(path)

    def names(self, path: str) -> list[str]:
        return self.platter.names(path)

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        descriptor: int = self._step(partial(self.platter.open, path, create=create, write=write))
        return descriptor

    def close(self, descriptor: int) -> None:
        if not self.over:
            self.platter.close(descriptor)

    def size(self, descriptor: int) -> int:
        return self.platter.size(descriptor)

    def read(self, descriptor: int, offset: int, size: int) -> bytes:
        return self.platter.read(descriptor, offset, size)

    def write(self, descriptor: int, offset: int, parts: Sequence[Buffer]) -> int:
        whole = b"".join(parts)
        some = whole[: self.world.random.randrange(len(whole) + 1)] if self.steps_left == 1 else b""
        path, _ = self.platter._descriptors.get(descriptor, ("", None))
        if self.world.now < self.no_graves_until and "/dead/" in path:
            raise OSError(EIO, "refused", path)
        half = partial(self.platter.write, descriptor, offset, [some])
        done: int = self._step(partial(self.platter.write, descriptor, offset, parts), half)
        return done

    def allocate(self, descriptor: int, size: int) -> None:
        self._step(partial(self.platter.allocate, descriptor, size))

    def truncate(self, descriptor: int, size: int) -> None:
        self._step(partial(self.platter.truncate, descriptor, size))

    def sync(self, descriptor: int) -> None:
        process = self.process_of
        path, _ = self.platter._descriptors.get(descriptor, ("", None))
        busy = path.startswith(BOOKS) or (process and any(store.lock.locked() for store in process.stores.values()))
        if process is not None and not busy:
            process.pass_time()  # others write meanwhile
        self._step(partial(self.platter.sync, descriptor))

    def sync_folder(self, path: str) -> None:
        self._step(partial(self.platter.sync_folder, path))

    def rename(self, old: str, new: str) -> None:
        self._step(partial(self.platter.rename, old, new))

    def unlink(self, path: str) -> None:
        self._step(partial(self.platter.unlink, path))

    def remove_folder(self, path: str) -> None:
        self._step(partial(self.platter.remove_folder, path))

    def lock(self, path: str, *, shared: bool = False) -> int:
        descriptor: int = self._step(partial(self.platter.lock, path, shared=shared))
        return descriptor

    def process(self) -> Owner:
        return self.platter.process()

    def alive(self, process: Owner) -> bool:
        return self.platter.alive(process)


class Book(Ledger):
    """A ledger that is written anew while it is small."""

    def _is_due(self) -> bool:
        return self._end > LEDGER_BYTES and self._end > 2 * self._remembered

    def add_all(self, entries: Iterable[Entry]) -> None:
        super().add_all(entries)
        try:
            self.compact()
        except SpoolError:
            pass  # what is in the old file is as good


class Turnstile:
    """What the disk's thread needs of the pump; whoever waits for its lock lets time pass."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @property
    def lock(self) -> Turnstile:
        return self

    def __enter__(self) -> None:
        self.process.pass_time()

    def __exit__(self, *_: object) -> None:
        pass

    def wake(self) -> None:
        self.process.wake()


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


class Process:
    """One node: an engine, its sockets, and the user code around it."""

    def __init__(self, world: World, address: Address, role: Role) -> None:
        self.world, self.address, self.role = world, address, role
        self.offset = world.random.uniform(0, 1000)
        self.options = role.options
        self.engine: Engine = world.engine_class(
            address, "world", self.options, Random(world.random.random()), self.clock()
        )
        self.holder = f"{address.node_id}:{address.epoch}"
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
        self.received: dict[str, list[tuple[str, int]]] = {}
        self.echoes: dict[str, float] = {}
        """Holder of a producer -> newest of our PINGs that it echoed, by our clock."""
        self.leaving = ""
        self.clean = False
        """It leaves with nothing unsettled but what is on disk."""
        self.began_at, self.ended_at = world.now, inf
        self.drive: Drive | None = None
        self.disk: Disk | None = None
        self.keepers: dict[str, Keeper] = {}
        self.remembered: dict[str, set[str]] = {}
        """Queue -> node ids of the last life's consumers, which recovered messages wait for."""
        self.met: dict[str, float] = {}
        """Holder -> when it first told this process what it has."""
        self.met_nodes: set[str] = set()
        self.missed_nodes: set[str] = set()
        """Those that it gave up once, whether or not they came back."""
        """Who these are."""
        self.slow_until = 0.0
        self.look_at = inf
        self.looking = False

    def clock(self) -> float:
        return self.world.now + self.offset

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
            self.world.log(f"{self.holder} {error}")
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
            store._log.check()
            store._dead.check()

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
        inbox, self.inbox = self.inbox, []
        for event in inbox:
            event(now)
        engine.expire(now)
        for consumer in self.consumers.values():
            consumer.turn(now)
        if self.leaving:
            self._leave(now)
        self.flush(now)
        engine.check()
        for notice in engine.notices.take():
            world.log(f"{self.holder} {notice.level}: {notice.text}")
        if not self.alive:
            return
        for end in engine.take_changed():
            if isinstance(end, ConsumerEnd) and self.consumers[end.queue].wants():
                self.wake(0.0005)
        for subscriber in engine.topics.subscribers.values():
            while (batch := subscriber.take()) is not None:
                seen = self.received.setdefault(batch.topic, [])
                seen += [(batch.sender, batch.first + at) for at in range(batch.count)]
        deadline = engine.deadline()
        if deadline is not None:
            self.wake(max(0.0005, deadline - now))
        if self.disk is not None and self.disk.news():
            self.look()

    def flush(self, now: float) -> None:
        """Carry out what the engine asks for."""
        engine, world = self.engine, self.world
        for wire, frames in engine.outgoing(now):
            if not world.send(self, wire, frames):
                engine.refuse(wire, frames, now)
        for frames in engine.topics.take_published():
            world.publish(self, frames)
        for command in engine.take_commands():
            match command:
                case Dial(wire, endpoint):
                    world.hang_up(self, wire)
                    world.dial(self, wire, endpoint)
                case HangUp(wire):
                    world.hang_up(self, wire)
                case Probe(wire, endpoint):
                    world.probe(self, wire, endpoint)
                case Follow(endpoint):
                    world.follow(self, endpoint)
                case Unfollow(endpoint):
                    feed = self.feeds.pop(endpoint, None)
                    if feed is not None:
                        feed.closed = True
                case Subscribe(prefix):
                    self.subscriptions[prefix] += 1
                    world.tell_prefixes(self)
                case Unsubscribe(prefix):
                    self.subscriptions[prefix] -= 1
                    world.tell_prefixes(self)

    def receive(self, sender: str, frames: Frames) -> None:
        """A frame came to the inbox."""

        def read(now: float) -> None:
            if frames[0][1] == 7:
                frame = decode_frame(frames[0])
                assert isinstance(frame, Pong)
                self.echoes[sender] = max(self.echoes.get(sender, -inf), frame.stamp)
            self.engine.receive(frames, now)

        self.post(read)

    # Leaving in order

    def leave(self) -> None:
        """The program ends: drain, say goodbye, close."""
        if self.alive and not self.leaving:
            self.leaving = "draining"
            self.leave_by = self.world.now + 8.0
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
                    self.world.log(f"{self.holder} leaves with unsettled {self.engine.producers.unsettled()}")
                    self.world.excuse("left unsettled", self.holder)
                self.leaving = "bye"
                self.engine.say_bye(now)
            else:
                self.wake(0.05)
        elif self.engine.finished(now):
            self.flush(now)
            if self.engine.closed_at <= now:
                self.world.excuse("left without an answer", self.holder)
            if self.disk is None or self._shut(now):
                self.world.end(self, "left")
        else:
            self.wake(0.02)

    def _shut(self, now: float) -> bool:
        """Leave everything on disk; whether that could be tried, or the disk's thread has yet to come back."""
        if self.looking:
            self.wake(0.02)
            return False
        disk, role = self.disk, self.role
        assert disk is not None
        marks = {queue: end.marks() for queue, end in self.engine.producers.by_queue.items()}
        lost = [key for producer in self.producers.values() for key in producer.volatile_unsettled()]
        assert len(lost) == sum(self.engine.producers.unsettled()), (
            f"{self.holder} loses {lost}, more or less than it says"
        )
        assert not (lost and self.clean), f"{self.holder} takes {lost} for settled"
        self.world.unsure.update(lost)
        self.engine.producers.leave()
        try:
            disk.last_round(now)
            disk.spool.close()
            role.marks = marks
        except SpoolError as error:
            self.world.log(f"{self.holder} closes: {error}")
        except Killed:
            return False
        return True


class Role:
    """What a process does, so that a supervisor can start another one like it."""

    def __init__(self) -> None:
        self.consumes: list[tuple[str, float, int, int]] = []
        """(queue, lease, takers, batch size)"""
        self.produces: list[tuple[str, int]] = []
        self.publishes: list[str] = []
        self.subscribes: list[str] = []
        self.picky = False
        self.static = False
        """Knows peers by their endpoints only."""
        self.host = "h1"
        self.options = Options()
        self.spooled = self.fsync = self.overflow = self.ledger = False
        self.memory_bytes = 2**20
        self.node_id = ""
        """With a spool: the one node that all its processes are."""
        self.disk = ""
        """The name of its disk, if it has one."""
        self.last: Process | None = None
        """With a disk: its newest process."""
        self.marks: dict[str, Marks] = {}
        """What an orderly end has left in the cursors."""


class Producer:
    """User code that sends to one queue."""

    def __init__(self, process: Process, queue: str, codec: int) -> None:
        self.process, self.queue, self.codec = process, queue, codec
        store = process.stores.get(queue)
        if store is not None and store.end is not None:
            self.end: ProducerEnd = store.end
        else:
            self.end = process.engine.open_producer(queue, codec, MAX_ATTEMPTS, 2**20, process.clock())
        self.store = store
        self.writing = nullcontext()
        """Deposits are written under it; here there is one thread."""
        self.deposits = Deposits(self, store) if store is not None and store.fsync else None  # type: ignore[arg-type]
        self.waiting: list[Deposit] = []
        """Deposits of which nothing is known yet."""
        self.overflow = process.role.overflow and store is not None
        self.volatile = False
        """With `overflow`: what is being handed over stays in memory."""
        self.closed = False
        self.stored_count = 0
        self.storing = False
        """A thread of user code is between storing and handing over."""
        self.handed: list[tuple[list[bytes], bool] | DeadLetter] = []
        """With a spool: what is stored, or shall stay in memory only, and is not yet the engine's."""

    def burst(self, kinds: list[str]) -> None:
        """Send a message of each of these kinds."""
        if self.store is None:
            self.process.post(partial(self._send, kinds))
        else:
            self._send_stored(kinds)

    def _bodies(self, kinds: list[str]) -> list[bytes]:
        world = self.process.world
        bodies = []
        for kind in kinds:
            text = f"{next(world.serial)}|{kind}|".encode()
            if world.theme.tight and world.random.random() < 0.1:
                text += b"x" * min(world.random.choice((3000, 70_000)), self.process.options.message_bytes_max - 100)
            bodies.append(text if self.codec == RAW else msgspec.msgpack.encode(text))
        return bodies

    def _send(self, kinds: list[str], now: float) -> None:
        if self.closed:
            return
        world = self.process.world
        bodies = self._bodies(kinds)
        first = self.end.next
        self.process.engine.producers.accept(self.end, bodies, 0)
        for at, text in enumerate(bodies):
            plain = text if self.codec == RAW else msgspec.msgpack.decode(text)
            world.accepted[(self.end.stream, first + at)] = plain
        if world.theme.tight and world.random.random() < 0.1:
            self.end.drop_oldest(world.random.randrange(1, 2000))

    # With a spool

    def _send_stored(self, kinds: list[str]) -> None:
        """In a thread of user code: store the messages, or have them stored, and hand them over."""
        world = self.process.world
        bodies = self._bodies(kinds)
        if self.deposits is not None:
            if self.overflow and not self.storing and not self.closed and self._fits_in_memory(bodies):
                self._keep(bodies)
                self._hand((bodies, True), 0.0)
            else:
                self._deposit(Deposit(bodies, None))
        elif world.random.random() < 0.5:
            self._store(bodies)
        else:  # one by one
            later = 0.0
            for body in bodies:
                world.at(world.now + later, partial(self._store, [body]))
                later += world.random.choice((0.0, 0.0, 0.001, 0.02))

    def _store(self, bodies: list[bytes]) -> None:
        """Between storing and handing over other threads may run, and the process may die; no other send, though."""
        world = self.process.world
        if self.storing and self.process.alive:
            world.at(world.now + 0.001, partial(self._store, bodies))
            return
        if self.closed or not self.process.alive:
            return
        volatile = self.overflow and self._fits_in_memory(bodies)
        try:
            count = self._keep(bodies) if volatile else self._append(bodies, None)[1]
        except (SpoolError, Killed) as error:
            world.log(f"{self.process.holder} does not accept: {error}")
            return
        self.storing = True
        after = world.random.choice((0.0, 0.0, 0.0005, 0.003, 0.03))
        world.at(world.now + after, partial(self._hand, (bodies[:count], volatile), after))

    def _fits_in_memory(self, bodies: list[bytes]) -> bool:
        """As a send with `on_full="spool"` decides."""
        end, backlog = self.end, self.end.backlog
        assert backlog is not None
        pending = sum(cost(what[0]) for what in self.handed if isinstance(what, tuple))
        fits = bool(end.consumers) and end.held_bytes + pending + cost(bodies) <= backlog.memory_bytes
        if fits and not self.volatile:
            fits = end.next - 1 == end.numbering.base + self.stored_count and not backlog.behind(end.next)
        self.volatile = fits
        return fits

    def _keep(self, bodies: list[bytes]) -> int:
        """Accept messages that stay in memory; return how many."""
        world, stream = self.process.world, self.end.stream
        for at, body in enumerate(bodies, self.stored_count + 1):
            world.accepted[stream, at] = body if self.codec == RAW else msgspec.msgpack.decode(body)
            world.volatile.add((stream, at))
        self.stored_count += len(bodies)
        return len(bodies)

    def volatile_unsettled(self) -> list[tuple[str, int]]:
        """What ends with this process."""
        base, stream = self.end.numbering.base, self.end.stream
        kept = [key for key in self.process.world.volatile if key[0] == stream]
        return [key for key in sorted(kept) if self.end.state(base + key[1]) in ("waiting", "in flight", "delivered")]

    def _hand(self, what: tuple[list[bytes], bool] | DeadLetter, delay: float) -> None:
        self.storing = False
        self.handed.append(what)
        self.process.wake(delay)

    def _deposit(self, deposit: Deposit) -> None:
        assert self.deposits is not None
        assert self.process.disk is not None
        self.waiting.append(deposit)
        self.deposits.add(deposit)
        self.process.disk.store(self.deposits)
        self.process.look()

    def _append(
        self, bodies: list[bytes], extras: dict[int, Extra] | None, codec: int | None = None
    ) -> tuple[int, int]:
        """Append messages; return the sequence of the first and how many are stored."""
        world, stream = self.process.world, self.end.stream
        assert self.store is not None
        self.volatile = False
        first = self.stored_count + 1
        for at, body in enumerate(bodies, first):
            # Should this process die in the middle of it, they may turn up, or not.
            plain = body if (self.codec if codec is None else codec) == RAW else msgspec.msgpack.decode(body)
            world.accepted[stream, at] = plain
            world.unsure.add((stream, at))
        count = 0
        try:
            count = self.store.append(first, bodies, extras, self.codec if codec is None else codec, 0)
        except Killed:
            count = len(bodies)
            raise
        finally:
            for at in range(first + count, first + len(bodies)):
                del world.accepted[stream, at]
                world.unsure.discard((stream, at))
        self.stored_count += count
        if self.deposits is None:
            world.unsure.difference_update((stream, at) for at in range(first, first + count))
        self.process.check_disk()
        return first, count

    # What deposits ask of their handle, in the disk's thread

    def keep_in_memory(self, deposit: Deposit) -> bool:
        """Accept it without the disk, if that is wanted and there is room."""
        if not self.overflow or deposit.letter is not None or not self._fits_in_memory(deposit.bodies):
            return False
        deposit.first, deposit.count = self.stored_count + 1, self._keep(deposit.bodies)
        self._hand((deposit.bodies, True), 0.0)
        return True

    def write(self, deposit: Deposit) -> None:
        """Append it."""
        deposit.first, deposit.count = self._append(deposit.bodies, deposit.extras, deposit.codec)

    def not_retried(self, letter: DeadLetter, error: Exception) -> None:
        """It could not be stored."""
        self.end.restore_letter(letter)

    def changed(self) -> None:
        """Whoever waits for the disk looks what became of it; only the disk may have refused it."""
        for deposit in self.waiting:
            if deposit.error is not None and not isinstance(deposit.error, SpoolError):
                raise deposit.error
        self.waiting = [deposit for deposit in self.waiting if not deposit.done and deposit.error is None]

    def deposited(self, deposit: Deposit) -> None:
        """It is stored and synced."""
        self.process.world.unsure.difference_update(
            (self.end.stream, at) for at in range(deposit.first, deposit.first + deposit.count)
        )
        self.handed.append(deposit.letter if deposit.letter is not None else (deposit.bodies[: deposit.count], False))
        self.process.wake(self.process.world.random.choice((0.0, 0.002)))
        if deposit.letter is not None:
            self._unbury(deposit.letter.id)

    def _unbury(self, identity: str) -> None:
        """If that fails the letter comes back at a restart."""
        assert self.store is not None
        try:
            self.store.unbury(identity)
        except SpoolError as error:
            self.process.world.log(f"the dead letter {identity} stays on disk: {error}")

    @property
    def all_stored(self) -> bool:
        """Nothing is on its way to the disk, or from there to the engine."""
        return not self.handed and not self.storing and (self.deposits is None or self.deposits.idle)

    def hand_over(self) -> None:
        """The engine takes what is stored. In the I/O thread."""
        handed, self.handed = self.handed, []
        for what in handed:
            if isinstance(what, DeadLetter):
                self.end.retry(what)
            else:
                self.process.engine.producers.accept(self.end, what[0], 0, volatile=what[1])

    def _tend_stored(self) -> None:
        """As `tend_letters`, with letters that are on disk."""
        world = self.process.world
        for letter in self.end.letters():
            if b"poison" in letter.data or world.random.random() < 0.5 or self.storing:
                continue
            stream, _, sequence = letter.id.rpartition("/")
            assert self.end.take_letter(letter.id) == letter
            world.tended.add((stream, int(sequence)))
            try:
                if world.random.random() < 0.5:
                    self._retry_stored(letter)
                else:
                    self._unbury(letter.id)
            except (SpoolError, Killed) as error:
                world.log(f"{letter.id} is neither retried nor dropped: {error}")
                return

    def _retry_stored(self, letter: DeadLetter) -> None:
        extras = {0: Extra(0, letter.headers, letter.origin or letter.id)}
        assert self.store is not None
        if self.deposits is not None:
            self._deposit(Deposit([letter.data], extras, letter))
            return
        try:
            self._append([letter.data], extras, letter.codec)
        except SpoolError:
            self.end.restore_letter(letter)
            raise
        self._hand(letter, 0.001)
        self._unbury(letter.id)

    def tend_letters(self, now: float) -> None:
        """A person looks at the dead letters: retries some, drops some."""
        world = self.process.world
        if self.store is not None:
            self._tend_stored()
            return
        for letter in self.end.letters():
            sequence = int(letter.id.rpartition("/")[2])
            if b"poison" in letter.data or world.random.random() < 0.5:
                continue
            first = self.end.next
            assert self.end.take_letter(letter.id) == letter
            assert self.end.take_letter(letter.id) is None
            if world.random.random() < 0.5:
                body = world.accepted[(self.end.stream, sequence)]
                self.end.retry(letter)
                world.accepted[(self.end.stream, first)] = body


class Taker:
    """One thread of user code that takes messages."""

    def __init__(self) -> None:
        self.busy = False


class Consumer:
    """User code that takes from one queue: several takers over one machine, with the real claim protocol."""

    def __init__(self, process: Process, queue: str, lease: float, takers: int, batch: int) -> None:
        self.process, self.queue, self.lease, self.batch = process, queue, lease, batch
        self.keeper = process.keepers.get(queue)
        remembered = self.keeper.remembered if self.keeper is not None else None
        self.end: ConsumerEnd = process.engine.open_consumer(queue, lease, process.clock(), remembered)
        self.takers = [Taker() for _ in range(takers)]
        self.current: Delivery | None = None
        self.parked: list[Delivery] = []
        self.claiming = False
        self.closed = False

    def wants(self) -> bool:
        return not self.closed and any(not taker.busy for taker in self.takers)

    def close(self) -> None:
        """Stop taking; what is being handled is finished."""
        self.closed = True
        self.process.post(partial(self._close))

    def _close(self, now: float) -> None:
        self.closed = True
        self._park_current()
        self.process.engine.close_consumer(self.queue, now)

    def reopen(self) -> None:
        self.process.post(self._reopen)

    def _reopen(self, now: float) -> None:
        if self.closed and not self.process.leaving:
            self.closed = False
            self.process.engine.reopen_consumer(self.queue, now)

    def _park_current(self) -> None:
        if self.current is not None and not self.claiming:
            self.parked.append(self.current)
            self.current = None
        for delivery in self.parked:
            self.end.park(delivery)
        self.parked.clear()

    def turn(self, now: float) -> None:
        """The machine's side: park what may not go on, hand out, read what was decided."""
        for delivery in self.parked:
            self.end.park(delivery)
        self.parked.clear()
        idle = [taker for taker in self.takers if not taker.busy]
        if self.closed:
            idle = []
        self.end.want(len(idle), len(self.takers) * self.batch, now)
        if idle and self.current is None and not self.claiming:
            self.current = self.end.take(now)
        if idle and self.current is not None:
            for _ in idle:
                self._later(self._claim)
        self.process.engine.consumers.progress(self.end, now)
        if self.keeper is not None:
            self.keeper.forget(self.end.take_forgotten())

    def _later(self, step: Callable[..., None], *args: Any, least: float = 0.0, most: float = 0.002) -> None:
        self.process.world.at(
            self.process.world.now + self.process.world.random.uniform(least, most),
            partial(self._if_alive, step, *args),
        )

    def _if_alive(self, step: Callable[..., None], *args: Any) -> None:
        # A stopped process stops its handlers too; they go on when it does.
        if self.process.stopped and not self.process.stuck:
            self.process.world.at(self.process.world.now + 0.05, partial(self._if_alive, step, *args))
        elif self.process.alive:
            step(*args)

    # The handling side

    def _claim(self) -> None:
        """First raise `next`; looking at `until` comes later, and the machine may run in between."""
        taker = next((t for t in self.takers if not t.busy), None)
        delivery = self.current
        if taker is None or delivery is None or self.claiming or self.closed:
            return
        low = delivery.next
        high = min(low + self.batch, delivery.limit)
        if low >= high:
            self.current = None
            self.process.wake()
            return
        delivery.next = high
        self.claiming = True
        taker.busy = True
        if self.process.world.random.random() < 0.3:
            self._later(self._look, taker, delivery, low, high)
        else:
            self._look(taker, delivery, low, high)

    def _look(self, taker: Taker, delivery: Delivery, low: int, high: int) -> None:
        self.claiming = False
        if self.process.clock() >= delivery.until:
            delivery.next = low
            taker.busy = False
            self.parked.append(delivery)
            if self.current is delivery:
                self.current = None
            self.process.wake()
            return
        self._start(taker, delivery, low, high)
        self._later(self._claim)

    def _start(self, taker: Taker, delivery: Delivery, low: int, high: int) -> None:
        world, process = self.process.world, self.process
        if delivery.bodies is None:
            delivery.bodies = [msgspec.msgpack.decode(element) for element in split(delivery.body, delivery.codec)]
            assert len(delivery.bodies) == delivery.count
        runs = []
        for at in range(low, high):
            body = delivery.bodies[at]
            run = Run(
                delivery.stream,
                delivery.first + at,
                body,
                delivery.attempt,
                process.holder,
                self.lease,
                world.now,
                ledger=(process.role.disk, self.queue) if self.keeper is not None else None,
            )
            world.started(process, run, delivery)
            runs.append(run)
        kinds = [run.body.split(b"|")[1].decode() for run in runs]
        if "poison" in kinds and world.poison_left > 0:
            world.poison_left -= 1
            world.count_death(process, runs[kinds.index("poison")])
            world.log(f"{process.holder} dies of {runs[kinds.index('poison')].sequence}")
            world.end(process, "died")
            return
        slow = sum(world.random.uniform(0.2, 0.8) for kind in kinds if kind == "slow")
        quick = sum(world.random.choice((0.0, 0.0005, 0.004)) for _ in kinds)
        slow += sum(world.random.uniform(3.0, 6.0) for kind in kinds if kind == "long")
        if "hangs" in kinds and delivery.attempt == 1:
            slow = self.lease + world.random.uniform(1.5, 3.0)
        self._later(self._finish, taker, delivery, low, high, runs, kinds, least=slow + quick, most=slow + quick)

    def _finish(self, taker: Taker, delivery: Delivery, low: int, high: int, runs: list[Run], kinds: list[str]) -> None:
        world = self.process.world
        taker.busy = False
        for run in runs:
            run.end = world.now
        fails = {"fails": True, "fails twice": delivery.attempt <= 2}
        if len(runs) > 1 and any(fails.get(kind) for kind in kinds):
            self._decide(delivery, Verdict.BATCH_FAILED, low, high, runs)
        else:
            acked_from = low
            for at, kind in enumerate(kinds, low):
                verdict = self._verdict(kind, bool(fails.get(kind)))
                if verdict is not Verdict.ACK:
                    self._decide(delivery, Verdict.ACK, acked_from, at, runs[acked_from - low : at - low])
                    self._decide(delivery, verdict, at, at + 1, [runs[at - low]])
                    acked_from = at + 1
            self._decide(delivery, Verdict.ACK, acked_from, high, runs[acked_from - low :])
        if self.process.alive:  # it may have died as it wrote an ack
            self.process.wake(world.random.choice((0.0, 0.0, 0.002)))
            self._claim()

    def _verdict(self, kind: str, fails: bool) -> Verdict:
        if fails:
            return Verdict.NACK
        if kind == "rejected":
            return Verdict.REJECT
        if kind == "misfit" and self.process.role.picky:
            return Verdict.REFUSE
        if kind == "let go" and self.process.world.random.random() < 0.5:
            return Verdict.GIVE_BACK
        return Verdict.ACK

    def _decide(self, delivery: Delivery, verdict: Verdict, low: int, high: int, runs: list[Run]) -> None:
        if low >= high:
            return
        if not self.process.alive:  # it died as it wrote an ack before this
            verdict, outcome = Verdict.GIVE_BACK, "died"
        else:
            outcome = verdict.name.lower()
        if verdict is Verdict.ACK and self.keeper is not None:
            verdict, outcome = self._record(delivery, low, high)
        for run in runs:
            kept = outcome in ("died", "unacked") and self.process.world.in_ledger(run)
            run.outcome = "kept" if kept else outcome
        if verdict is Verdict.ACK:
            delivery.ack(low, high)
        else:
            delay = 0.0 if self.process.world.random.random() < 0.3 else -1.0
            delivery.verdicts.append((verdict, low, high, delay, verdict.name))

    def _record(self, delivery: Delivery, low: int, high: int) -> tuple[Verdict, str]:
        """Write an ack into the ledger; what becomes of the messages, and how that is called."""
        assert self.keeper is not None
        try:
            self.keeper.record([(delivery, low, high)])
        except SpoolError as error:
            self.process.world.log(f"{self.process.holder} does not ack {delivery.first + low}: {error}")
            return Verdict.NACK if high - low == 1 else Verdict.BATCH_FAILED, "unacked"
        except Killed:
            return Verdict.GIVE_BACK, "died"
        return Verdict.ACK, "ack"


class World:
    """A fabric, its network, its troubles, and the record of all that happened."""

    engine_class: type[Engine] = Engine

    def __init__(self, seed: int, theme: str | None = None, engine_class: type[Engine] | None = None) -> None:
        self.seed = seed
        self.random = Random(f"world {seed}")
        self.theme_name = theme or VOLATILE_THEMES[seed % len(VOLATILE_THEMES)]
        self.theme = THEMES[self.theme_name]
        base = engine_class or self.engine_class
        self.engine_class = _watched(base, self)
        self.now = 0.0
        self.turns = 0
        self.serial = count(1)
        self.accepted: dict[tuple[str, int], bytes] = {}
        self.runs: dict[tuple[str, int], list[Run]] = {}
        self.unsure: set[tuple[str, int]] = set()
        """Accepted by nobody, but perhaps on a disk: they may run or not."""
        self.volatile: set[tuple[str, int]] = set()
        """Accepted in memory only, by a producer with a spool."""
        self.tended: set[tuple[str, int]] = set()
        """Their dead letters were retried or dropped."""
        self.disks: dict[str, Platter] = {}
        """Its name, the node id of who has a spool on it -> the disk."""
        self.powerless: dict[str, float] = {}
        """Disk -> when it last lost what was not synced."""
        self.outages: dict[str, float] = {}
        """Disk -> when it last lost its power, whether all was synced or not."""
        self.roles: list[Role] = []
        self.sends: dict[tuple[str, int], list[tuple[float, str, str]]] = {}
        """(when, to whom, by which process)"""
        self.starts: dict[tuple[str, str], list[int]] = {}
        """(stream, holder) -> sequences in the order in which their first run began there."""
        self.excuses: list[tuple[float, str, str]] = []
        """(when, what, holder): troubles that may excuse a second run of what the holder had."""
        self.disturbed: dict[str, float] = {}
        """Holder -> until when it was stopped, late, or cut off from somebody."""
        self.trace: deque[str] = deque(maxlen=4000)
        self.processes: list[Process] = []
        self.listeners: dict[str, Process] = {}
        self.outboxes: dict[str, Process] = {}
        self.blocked: dict[tuple[str, str], str] = {}
        """(from holder, to holder) -> "stall" or "refuse"."""
        self.poison_left = 60
        self.suicides: list[Process] = []
        """Those that died of a message that they had sent themselves."""
        self.deaths: Counter[tuple[str, int]] = Counter()
        self.own_deaths: Counter[tuple[str, int]] = Counter()
        self.healed = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._names = count(1)
        self._endpoints = count(1)

    # Time

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def log(self, text: str) -> None:
        self.trace.append(f"{self.now:9.4f} {text}")

    def disturb(self, holder: str, duration: float) -> None:
        self.disturbed[holder] = max(self.disturbed.get(holder, 0.0), self.now + duration)

    def calm_for(self, holder: str) -> float:
        """Seconds since the last disturbance of this process."""
        return self.now - self.disturbed.get(holder, -inf)

    def excuse(self, what: str, holder: str) -> None:
        self.excuses.append((self.now, what, holder))
        self.log(f"excuse: {what} ({holder})")

    def advance(self, until: float) -> None:
        """Let everything happen that is due before `until`."""
        while self._events and self._events[0][0] <= until:
            when, _, event = heapq.heappop(self._events)
            self.now = max(self.now, when)
            event()
        self.now = max(self.now, until)  # an event that waits for the disk may have lasted longer

    # Sockets

    def _delay(self) -> float:
        r = self.random.random()
        return 0.0002 + r * 0.002 if r < 0.9 else self.random.uniform(0.002, 0.05)

    def reach(self, a: Process, b: Process) -> str:
        """What becomes of a packet from `a` to `b`: "" if it arrives."""
        return self.blocked.get((a.holder, b.holder), "")

    def _reach_both(self, a: Process, b: Process) -> str:
        return self.reach(a, b) or self.reach(b, a)

    def dial(self, owner: Process, wire: int, endpoint: str) -> None:
        line = owner.lines[wire] = Line(owner, wire, endpoint)
        self._attempt(line, CONNECT)

    def _attempt(self, line: Line, within: tuple[float, float]) -> None:
        line.attempt += 1
        self.at(self.now + self.random.uniform(*within), partial(self._connect, line, line.attempt))

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
            self.at(self.now + GIVES_UP_AFTER, partial(self._give_up, line, attempt))
        else:
            line.up, line.target = True, target
            owner.post(partial(_connected, owner, line))

    def _give_up(self, line: Line, attempt: int) -> None:
        if line.attempt == attempt and not line.up and line.owner.lines.get(line.wire) is line:
            self._refuse(line)

    def _refuse(self, line: Line) -> None:
        del line.owner.lines[line.wire]
        line.owner.post(lambda now: line.owner.engine.refused(line.wire, now))

    def hang_up(self, owner: Process, wire: int) -> None:
        line = owner.lines.pop(wire, None)
        if line is not None:
            self._lose_pipe(line)
            line.up = False

    def _lose_pipe(self, line: Line) -> None:
        """The connection ended: a part of what it carried arrives all the same, perhaps behind newer frames."""
        survivors = self.random.randrange(len(line.pipe) + 1) if line.pipe else 0
        target = line.target
        if target is not None and not target.silent and not self.reach(line.owner, target):
            at = self.now + self.random.choice((0.0, 0.01, 0.3))
            for _, frames in list(line.pipe)[:survivors]:
                self.at(at, partial(target.receive, line.owner.holder, frames))
        line.pipe.clear()

    def cut(self, line: Line) -> None:
        """The connection of `line` breaks; ZeroMQ tries once more by itself."""
        if not line.up:
            return
        self.log(f"cut {line.owner.holder} -> {line.target.holder if line.target else '?'}")
        self._lose_pipe(line)
        line.up = False
        line.owner.post(lambda now: line.owner.engine.disconnected(line.wire, now))
        self._attempt(line, RECONNECT)

    def send(self, owner: Process, wire: int, frames: Frames) -> bool:
        line = owner.lines.get(wire)
        if line is None or not line.up or line.refusing or line.target is None:
            if line is not None:
                line.refusing = True
            return False
        if self.theme.tight and self.random.random() < 0.1:
            line.refusing = True
            self.at(self.now + self.random.uniform(0.001, 0.1), partial(self._writable, line))
            return False
        kept = [bytes(frame) for frame in frames]
        line.last_at = max(line.last_at, self.now + self._delay())
        line.pipe.append((line.last_at, kept))
        self.at(line.last_at, partial(self._arrive, line))
        return True

    def _writable(self, line: Line) -> None:
        if line.refusing and line.up:
            line.refusing = False
            line.owner.post(lambda now: line.owner.engine.writable(line.wire))

    def _arrive(self, line: Line) -> None:
        target = line.target
        if target is None or not line.up or target.silent or self.reach(line.owner, target):
            return
        while line.pipe and line.pipe[0][0] <= self.now:
            target.receive(line.owner.holder, line.pipe.popleft()[1])

    def sent(self, engine: Engine, stream: str, sequences: range, attempt: int, holder: str) -> None:
        """A DATA frame was made."""
        self.log(f"{stream} sends {sequences} attempt {attempt} to {holder}")
        by = f"{engine.address.node_id}:{engine.address.epoch}"
        if by != stream.rpartition(":")[0]:
            self._judge_reunion(by, stream.split(":", 2)[2])
        for sequence in sequences:
            assert (stream, sequence) not in self.unsure or by != stream.rpartition(":")[0], (
                f"{stream}/{sequence} is sent before it is stored"
            )
            self.sends.setdefault((stream, sequence), []).append((self.now, holder, by))

    def _judge_reunion(self, by: str, queue: str) -> None:
        """What is recovered is sent once those have returned who may know of it, or have had the time to."""
        sender = next(process for process in self.processes if process.holder == by)
        missing = sender.remembered.get(queue, set()) - sender.met_nodes
        assert not missing or self.now >= sender.began_at + REUNION - 1e-6, f"{by} does not wait for {missing}"

    def probe(self, owner: Process, wire: int, endpoint: str) -> None:
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
        self.at(self.now + after, lambda: owner.post(lambda now: owner.engine.probed(wire, outcome, now)))

    # Outboxes

    def follow(self, owner: Process, endpoint: str) -> None:
        feed = owner.feeds[endpoint] = Feed(owner, endpoint)
        self._connect_feed(feed)

    def _connect_feed(self, feed: Feed) -> None:
        if feed.closed or not feed.owner.alive:
            return
        target = self.outboxes.get(feed.endpoint)
        if target is None or target.silent or target.stopped or self._reach_both(feed.owner, target):
            self.at(self.now + 0.2, partial(self._connect_feed, feed))
            return
        feed.target = target
        feed.life += 1
        self.tell_prefixes(feed.owner)

    def tell_prefixes(self, owner: Process) -> None:
        """Subscriptions reach the publishers some time later."""
        for feed in owner.feeds.values():
            self.at(self.now + self.random.uniform(0.001, 0.05), partial(self._know_prefixes, feed, feed.life))

    def _know_prefixes(self, feed: Feed, life: int) -> None:
        if feed.life == life and feed.target is not None:
            feed.prefixes = Counter({p: n for p, n in feed.owner.subscriptions.items() if n > 0})

    def publish(self, owner: Process, frames: Frames) -> None:
        for process in self.processes:
            for feed in process.feeds.values():
                if feed.target is owner and any(frames[0].startswith(prefix) for prefix in feed.prefixes):
                    feed.last_at = max(feed.last_at, self.now + self._delay())
                    self.at(feed.last_at, partial(self._arrive_published, feed, feed.life, frames))

    def _arrive_published(self, feed: Feed, life: int, frames: Frames) -> None:
        target = feed.target
        if feed.closed or feed.life != life or target is None or target.silent or self.reach(target, feed.owner):
            return
        feed.owner.post(lambda now: feed.owner.engine.receive_published(frames, now))

    def cut_feed(self, feed: Feed) -> None:
        """A SUB connection breaks and is made again."""
        feed.target = None
        feed.life += 1
        feed.prefixes.clear()
        self.at(self.now + 0.1, partial(self._connect_feed, feed))

    # Processes

    def start(self, role: Role, *, like: Process | None = None, at: Process | None = None) -> None:
        """Start a process. `like`: the next life of that one; `at`: somebody else at the same endpoints."""
        if not role.spooled and not role.ledger:
            self._begin(role, like, at, None, None)
            return
        if role.last is not None and role.last.alive:
            return
        if not role.disk:
            role.node_id = f"n{next(self._names)}" if role.spooled else ""
            role.disk = role.node_id or f"disk {len(self.disks)}"
            platter = self.disks[role.disk] = Platter()
            if role.ledger:
                platter.make_folder(BOOKS)
                platter.sync_folder("/")
        drive = Drive(self, self.disks[role.disk])
        if self.random.random() < 0.1 and self.theme.faults and not self.healed:
            drive.steps_left = self.random.randrange(1, 12)
        try:
            if role.spooled:
                spool = Spool.open(
                    "/spool",
                    files=drive,
                    fsync=role.fsync,
                    random_bits=self.random.randrange(2**20),
                    node_id=role.node_id,
                    segment_bytes=SEGMENT_BYTES,
                    unix_ms=0,
                )
                self._begin(role, role.last, None, drive, spool)
            else:
                self._begin(role, like, at, drive, None)
        except (SpoolError, Killed) as error:
            self.log(f"{role.disk} does not start: {type(error).__name__} {error}")
            self._let_go(drive)
            self.at(self.now + self.random.uniform(0.05, 0.5), partial(self.start, role))

    def _let_go(self, drive: Drive) -> None:
        """The process that has `drive` is no more."""
        if not drive.over:
            drive.over = True
            drive.platter.kill()

    def _begin(
        self, role: Role, like: Process | None, at: Process | None, drive: Drive | None, spool: Spool | None
    ) -> None:
        if spool is not None:
            assert spool.node_id == role.node_id
            assert role.last is None or spool.epoch > role.last.address.epoch
        if like is not None:
            epoch = ((like.address.epoch >> 20) + 1 << 20) + self.random.randrange(2**20) if spool is None else 0
            address = msgspec.structs.replace(like.address, epoch=spool.epoch if spool is not None else epoch)
            if self.random.random() < 0.5:
                inbox, outbox = self._new_endpoints(role)
                address = msgspec.structs.replace(address, inbox=inbox, outbox=outbox)
        else:
            name = role.node_id or f"n{next(self._names)}"
            inbox, outbox = (at.address.inbox, at.address.outbox) if at is not None else self._new_endpoints(role)
            epoch = spool.epoch if spool is not None else (1000 << 20) + self.random.randrange(2**20)
            address = Address(name, epoch, name, role.host, inbox, outbox)
        process = Process(self, address, role)
        if like is not None and like.silent:
            self.disturb(process.holder, 5.0)  # who still waits for the last life may give this one up with it
        if drive is not None:
            process.drive, drive.process_of = drive, process
            if spool is not None:
                self._open_stores(process, spool)
            if role.ledger:
                process.keepers = {queue: self._open_ledger(process, drive, queue) for queue, *_ in role.consumes}
            role.last = process
        self.processes.append(process)
        for endpoint in address.inbox:
            self.listeners[endpoint] = process
        for endpoint in address.outbox:
            self.outboxes[endpoint] = process
        for queue, codec in role.produces:
            process.producers[queue] = Producer(process, queue, codec)
        for queue, lease, takers, batch in role.consumes:
            process.consumers[queue] = Consumer(process, queue, lease, takers, batch)
        for topic in role.publishes:
            process.engine.open_publisher(topic, RAW, process.clock())
        for pattern in role.subscribes:
            process.engine.open_subscriber(pattern, 2**20, process.clock())
        process.wake()
        if process.disk is not None:
            process.look()
        self._introduce(process)
        shown = {key: value for key, value in vars(role).items() if key not in ("last", "marks")}
        self.log(f"start {process.holder} {shown}")

    def _open_ledger(self, process: Process, drive: Drive, queue: str) -> Keeper:
        """What this consumer has processed, and nothing else, is in its ledger."""
        keeper = Keeper(f"{BOOKS}/{queue}", queue, fsync=process.role.fsync)
        keeper._ledger = Book(drive, keeper.path, queue, fsync=keeper.fsync)
        ours = process.role.disk, queue
        for stream, ranges in keeper.remembered.items():
            for key in ((stream, sequence) for start, stop in ranges for sequence in range(start, stop)):
                processed = any(run.ledger == ours for run in self.runs.get(key, ()) if run.outcome in PROCESSED)
                assert processed, f"{process.holder} remembers {key}, which it never processed"
        return keeper

    def in_ledger(self, run: Run) -> bool:
        """Whether the ledger of who ran it would remember it if everything ended now."""
        if run.ledger is None:
            return False
        disk, queue = run.ledger
        found = Ledger(self.disks[disk].copy(), f"{BOOKS}/{queue}", queue).entries().get(run.stream, Ranges())
        return run.sequence in found

    def _open_stores(self, process: Process, spool: Spool) -> None:
        """Go on with what the spool has, as a node does."""
        role, engine, now = process.role, process.engine, process.clock()
        disk = Disk(spool, engine.producers, process.holder)
        disk.pump = Turnstile(process)  # type: ignore[assignment]
        for queue in dict.fromkeys([*spool.queues(), *(queue for queue, _ in role.produces)]):
            disk.stores[queue] = Store(spool, queue, role.fsync, 0)
        everything = {queue: store.recovered() for queue, store in disk.stores.items()}
        only_the_running(everything.values())
        for queue, store in disk.stores.items():
            recovered, letters = everything[queue], store.letters()
            codec = dict(role.produces)[queue]
            self._judge_recovered(process, queue, recovered, letters)
            store.end = engine.open_producer(queue, codec, MAX_ATTEMPTS, 2**20, now, recovered)
            assert store.end.backlog is not None
            store.end.backlog.memory_bytes = role.memory_bytes
            for letter in letters:
                store.end.restore_letter(letter)
            process.remembered[queue] = {*recovered.marks.consumers, *self._still_awaited(role, queue)}
        engine.producers.durable = bool(disk.stores)
        process.disk = disk
        process.check_disk()

    def _still_awaited(self, role: Role, queue: str) -> set[str]:
        """Whom the last process of this role waited for, with no time to give them up: the next one waits, too."""
        last = role.last
        store = last.stores.get(queue) if last is not None else None
        if last is None or store is None or store.end is None or role.node_id in self.powerless:
            return set()
        backlog = store.end.backlog
        assert backlog is not None
        if last.ended_at >= last.began_at + REUNION or backlog.recovered == backlog.damaged:
            return set()
        left = last.met_nodes - set(store.end.consumers.values())
        return last.remembered[queue] - left - last.missed_nodes

    def _judge_recovered(self, process: Process, queue: str, recovered: Recovered, letters: list[DeadLetter]) -> None:
        """What was promised and is neither processed nor a dead letter must be there."""
        node_id = process.address.node_id
        buried = {letter.id for letter in letters}
        assert len(buried) == len(letters), f"{process.holder} has a dead letter twice"
        eras: dict[str, Ranges] = {}
        for stream, first, stop in recovered.eras:
            assert stream != f"{process.holder}:{queue}", f"{stream} is used again"
            assert eras.setdefault(stream, Ranges()).add(first, stop) == stop - first, f"{stream} is there twice"
        gone: dict[str, Ranges] = {}
        for stream, first, stop in recovered.settled:
            gone.setdefault(stream, Ranges()).add(first, stop)
        for stream, first, stop in recovered.damaged:
            gone.setdefault(stream, Ranges()).add(first, stop)
        for key, body in self.accepted.items():
            stream, sequence = key
            if stream.split(":")[0] != node_id or stream.split(":")[2] != queue or key in self.unsure:
                continue
            if sequence in eras.get(stream, ()) and sequence not in gone.get(stream, ()):
                continue
            done = any(run.outcome in PROCESSED for run in self.runs.get(key, ()))
            fine = done or f"{stream}/{sequence}" in buried or key in self.tended
            assert fine, f"{stream}/{sequence} {body!r} is lost at the start of {process.holder}"
        wanted = process.role.marks.pop(queue, None)
        if wanted is not None:
            now, then = ({(m.stream, m.start): m for m in marks.marks} for marks in (recovered.marks, wanted))
            assert now == then, f"{process.holder} forgot what happened to its messages"

    def _new_endpoints(self, role: Role) -> tuple[list[str], list[str]]:
        number = next(self._endpoints)
        inbox = [f"tcp://{role.host}:{number}"]
        if self.random.random() < 0.5:
            inbox.insert(0, f"ipc:///{role.host}/{number}")
        return inbox, [f"tcp://{role.host}:out{number}"]

    def _introduce(self, process: Process) -> None:
        """Discovery tells the two about each other, sooner or later, in some order."""
        for other in self.living():
            if other is not process:
                for a, b in ((process, other), (other, process)):
                    if a.role.static and self.random.random() < 0.7:
                        find: Callable[[float], None] = partial(a.engine.candidate, b.address.inbox[-1])
                    else:
                        find = partial(a.engine.discovered, b.address)
                    self.at(self.now + self.random.uniform(0, 0.3), partial(a.post, find))

    def living(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def end(self, process: Process, how: str) -> None:
        """The process ends: "died" (its host lives), "vanished" (with its host) or "left" (in order)."""
        if not process.alive:
            return
        process.alive, process.ended_at = False, self.now
        if process.drive is not None:
            if how == "vanished":
                self._lose_power(process.role)
            if how != "left":
                self.unsure.update(key for key in self.volatile if key[0].startswith(f"{process.holder}:"))
            self._let_go(process.drive)
        process.left = how == "left"
        process.silent = how == "vanished"
        self.log(f"{process.holder} {how}")
        for runs in self.runs.values():
            for run in runs:
                if run.holder == process.holder and run.end == inf:
                    run.end, run.outcome = self.now, "died"
        if how != "left" or process.disk is not None:
            self.excuse(how, process.holder)
        for endpoint in process.address.inbox:
            if self.listeners.get(endpoint) is process and not process.silent:
                del self.listeners[endpoint]
        for endpoint in process.address.outbox:
            if self.outboxes.get(endpoint) is process:
                del self.outboxes[endpoint]
        for line in list(process.lines.values()):
            self._lose_pipe(line)
        process.lines.clear()
        for feed in process.feeds.values():
            feed.closed = True
        if process.silent:
            self.at(self.now + 20.0, partial(self._host_back, process))
        else:
            self._drop_connections_to(process)
            if how == "died":
                self.at(self.now + 1.5, partial(self._taken_over, process, self.now))
        if self.random.random() < 0.7 or how == "left":
            self.at(self.now + self.random.uniform(0.1, 5.0), partial(self._lost, process))

    def _taken_over(self, dead: Process, since: float) -> None:
        """What a process held goes to others within a second or so after its death."""
        for process in self.living():
            if self.calm_for(process.holder) > self.now - since + 0.5 and not process.leaving:
                for producer in process.producers.values():
                    held = producer.end.held_by(dead.holder)
                    assert not held, f"{process.holder} leaves {held} messages with {dead.holder}, which is dead"

    def _drop_connections_to(self, process: Process) -> None:
        for other in self.living():
            for line in other.lines.values():
                if line.up and line.target is process:
                    line.pipe.clear()
                    self.cut(line)
            for feed in other.feeds.values():
                if feed.target is process:
                    self.cut_feed(feed)

    def _host_back(self, process: Process) -> None:
        """The host answers again, and knows nothing of the connections that it had."""
        process.silent = False
        for endpoint in process.address.inbox:
            if self.listeners.get(endpoint) is process:
                del self.listeners[endpoint]
        self._drop_connections_to(process)

    def _lost(self, process: Process) -> None:
        for other in self.living():
            if not any(p.alive and p.address.node_id == process.address.node_id for p in self.processes):
                other.post(lambda now, other=other: other.engine.lost(process.address.node_id))  # type: ignore[misc]

    def _lose_power(self, role: Role) -> None:
        """What was not synced is lost, or a part of it; only who has synced may rely on anything."""
        self.disks[role.disk] = self.disks[role.disk].lose_power(self.random)
        self.outages[role.disk] = self.now
        if not role.fsync:
            self.powerless[role.disk] = self.now
            self.unsure.update(key for key in self.accepted if key[0].partition(":")[0] == role.disk)

    def struck(self, drive: Drive) -> None:
        """A process died within an operation of its disk."""
        process = drive.process_of
        if process is None:
            self._let_go(drive)
            return
        self.log(f"{process.holder} is struck within {drive.platter.trace[-1:]}")
        self.end(process, "vanished" if drive.with_power else "died")
        self.at(self.now + self.random.uniform(0.05, 3.0), partial(self._again, process, "kill"))

    def met(self, engine: Engine, holder: str) -> None:
        """`holder` told this engine what it has."""
        ours = f"{engine.address.node_id}:{engine.address.epoch}"
        for process in self.processes:
            if process.holder == ours:
                process.met.setdefault(holder, self.now)
                process.met_nodes.add(holder.partition(":")[0])

    # Troubles

    def trouble(self, kind: str) -> None:
        """Let one trouble happen now."""
        if self.healed:
            return
        living = [p for p in self.living() if not p.leaving]
        if len(living) < 2:
            return
        victim, other = self.random.sample(living, 2)
        self.log(f"trouble: {kind} {victim.holder} {other.holder}")
        spooled = [process for process in living if process.drive is not None]
        match kind:
            case "relapse":
                if spooled:
                    self._relapse(self.random.choice(spooled).role, self.random.choice((1, 2, 3)))
            case "unheard":
                if keeping := [process for process in living if process.keepers]:
                    self._unheard(self.random.choice(keeping))
            case "crash" | "outage" | "power" | "io" | "short" | "full" | "no graves" | "slow disk":
                if spooled:
                    self._trouble_disk(kind, self.random.choice(spooled))
            case "cut":
                self._cut_some(victim, other)
            case "flap":
                for after in (0.0, 0.02, 0.1, 0.4):
                    self.at(self.now + after, partial(self._cut_some, victim, other))
            case "kill" | "vanish" | "reborn" | "usurp":
                self.end(victim, "vanished" if kind == "vanish" else "died")
                self.at(self.now + self.random.uniform(0.05, 3.0), partial(self._again, victim, kind))
            case "leave":
                if len(living) > 2:
                    victim.leave()
                    self.at(self.now + self.random.uniform(0.05, 3.0), partial(self._again, victim, kind))
            case "stop":
                self._stop(victim, self.random.choice((0.3, 1.0, 3.0, 9.0)))
            case "late":
                self._stop(victim, self.random.uniform(0.5, 1.8), stuck=True)
            case "stall" | "refuse" | "one-way":
                pairs = [(victim.holder, other.holder)]
                if kind != "one-way":
                    pairs.append((other.holder, victim.holder))
                for pair in pairs:
                    self.blocked[pair] = "refuse" if kind == "refuse" else "stall"
                if kind == "refuse":
                    self.excuse("refused", victim.holder)
                    self.excuse("refused", other.holder)
                    self._cut_some(victim, other, everything=True)
                duration = self.random.choice((0.2, 1.0, 3.0, 8.0))
                self.disturb(victim.holder, duration)
                self.disturb(other.holder, duration)
                self.at(self.now + duration, partial(self.heal, pairs))

    def _trouble_disk(self, kind: str, victim: Process) -> None:
        drive, random = victim.drive, self.random
        assert drive is not None
        platter = drive.platter
        duration = random.choice((0.1, 0.5, 2.0))
        match kind:
            case "crash" | "outage":
                drive.steps_left = random.choice((1, 2, 3, 5, 8, 13, 30))
                drive.with_power = kind == "outage"
            case "power":
                self.end(victim, "vanished")
                self.at(self.now + random.uniform(0.05, 3.0), partial(self._again, victim, "kill"))
            case "io":
                for operation in random.sample(OPERATIONS, random.choice((1, 1, 2, len(OPERATIONS)))):
                    platter.broken[operation] = random.choice((EIO, EIO, ENOSPC))
                self.at(self.now + duration, partial(self._repair, platter))
            case "short":
                for after in random.sample(range(1, 20), random.randrange(1, 6)):
                    platter.faults[platter.operations + after] = random.choice((SHORT, EIO, ENOSPC))
            case "full":
                used = sum(len(file.content) for file in platter.files.values())
                platter.space = used + random.choice((0, 0, 100, 1000))
                self.at(self.now + duration, partial(self._repair, platter))
            case "no graves":
                drive.no_graves_until = self.now + duration
                if random.random() < 0.5:
                    self.at(self.now + duration * random.random(), partial(self._strike_soon, victim))
            case "slow disk":
                victim.slow_until = self.now + duration

    def _relapse(self, role: Role, more: int) -> None:
        """A process dies, and the next ones soon after they began."""
        if role.last is not None and not role.last.leaving and not self.healed:
            self.end(role.last, "died")
            again = self.now + self.random.uniform(0.05, 0.3)
            self.at(again, partial(self._again, role.last, "kill"))
            if more:
                self.at(again + self.random.choice((0.2, 0.4, 1.2)), partial(self._relapse, role, more - 1))

    def _unheard(self, victim: Process) -> None:
        """What it says reaches nobody any more, and then it dies."""
        pairs = [(victim.holder, other.holder) for other in self.living() if other is not victim]
        self.blocked.update(dict.fromkeys(pairs, "stall"))
        duration = self.random.uniform(0.05, 1.0)
        for holder in (victim.holder, *(other for _, other in pairs)):
            self.disturb(holder, duration)
        self.at(self.now + duration, partial(self._relapse, victim.role, 0))
        self.at(self.now + duration, partial(self.heal, pairs))

    def _strike_soon(self, process: Process) -> None:
        if process.drive is not None and process.alive and not self.healed:
            process.drive.steps_left = self.random.randrange(1, 10)

    @staticmethod
    def _repair(platter: Platter) -> None:
        platter.broken.clear()
        platter.faults.clear()
        platter.space = None

    def _cut_some(self, a: Process, b: Process, *, everything: bool = False) -> None:
        lines = [line for p, q in ((a, b), (b, a)) for line in p.lines.values() if line.target is q and line.up]
        for line in lines:
            if everything or self.random.random() < 0.7:
                self.cut(line)
        for p, q in ((a, b), (b, a)):
            for feed in p.feeds.values():
                if feed.target is q and (everything or self.random.random() < 0.5):
                    self.cut_feed(feed)

    def _again(self, victim: Process, kind: str) -> None:
        """A supervisor starts the next one."""
        if self.healed and not victim.role.spooled:
            return
        if kind == "leave" and victim.alive:
            self.at(self.now + 0.5, partial(self._again, victim, kind))
            return
        like = victim if kind == "reborn" or victim.role.spooled else None
        self.start(victim.role, like=like, at=victim if kind == "usurp" and like is None else None)

    def _stop(self, process: Process, duration: float, *, stuck: bool | None = None) -> None:
        if not process.stopped:
            self.disturb(process.holder, duration)
            process.stopped = True
            process.stuck = self.random.random() < 0.5 if stuck is None else stuck
            self.at(self.now + duration, partial(self._continue, process))

    def _continue(self, process: Process) -> None:
        if process.stopped:
            process.stopped = False
            process.turn_at = inf
            process.wake()

    def heal(self, pairs: list[tuple[str, str]]) -> None:
        for pair in pairs:
            if self.blocked.pop(pair, None) is not None:
                self.log(f"healed {pair}")
        for process in self.processes:
            for line in process.lines.values():
                if line.pipe and line.up:
                    at = self.now + self._delay()
                    line.pipe = deque((at, frames) for _, frames in line.pipe)
                    line.last_at = max(line.last_at, at)
                    self.at(at, partial(self._arrive, line))

    # What is recorded

    def started(self, process: Process, run: Run, delivery: Delivery) -> None:
        """A message is handed to user code; the fence must allow it."""
        key = (run.stream, run.sequence)
        assert self.accepted.get(key) == run.body, f"{key} is {run.body!r}, accepted was {self.accepted.get(key)!r}"
        producer = delivery.holder
        if producer != process.holder and any(p.holder == producer and p.alive for p in self.processes):
            age = process.clock() - process.echoes.get(producer, -inf)
            gone = delivery.until == inf and any(
                what == "refused" and holder in (producer, process.holder) for _, what, holder in self.excuses
            )
            assert age < FENCE + 1e-6 or gone, f"{process.holder} starts {key} {age:.2f} s after the last echo"
        earlier = self.runs.setdefault(key, [])
        for other in earlier:
            self._excuse_second(key, other, run, process)
        if not any(other.holder == run.holder for other in earlier):
            self.starts.setdefault((run.stream, run.holder), []).append(run.sequence)
        earlier.append(run)
        self.log(f"{process.holder} runs {key} attempt {run.attempt}")

    def _excuse_second(self, key: tuple[str, int], first: Run, second: Run, process: Process) -> None:
        """A second run is allowed only for a reason, one at the same time only for a good one."""
        holder = first.holder
        since = [(what, who) for when, what, who in self.excuses if when >= first.start - 30.0]
        lapsed = second.start - first.start >= first.lease and first.end - first.start >= first.lease
        verdicts = {(what, who) for what, who in since}
        apart = ("given up", holder) in verdicts or ("backstop", holder) in verdicts
        refused = any(what == "refused" and who in (holder, key[0].rpartition(":")[0]) for what, who in verdicts)
        if first.ledger is not None and first.ledger == second.ledger and not lapsed:
            self._judge_remembered(key, first, second)
        if self._producer_died(key, first, second):
            return
        if first.end > second.start:
            assert lapsed or first.holder != second.holder, f"{key} runs twice in one process: {first} {second}"
            assert lapsed or apart or refused, f"{key} runs twice at one time: {first} {second}"
            return
        if first.holder == second.holder and first.outcome == "ack":
            assert lapsed, f"{key} runs again where it was done: {first} {second}"
        gave = first.outcome in ("nack", "reject", "refuse", "give_back", "batch_failed", "unacked", "kept")
        ended = any((what, holder) in verdicts for what in ("died", "vanished", "left unsettled"))
        ended = ended or ("left without an answer", holder) in verdicts
        assert gave or lapsed or apart or refused or ended, f"{key} runs again without a reason: {first} {second}"

    def _judge_remembered(self, key: tuple[str, int], first: Run, second: Run) -> None:
        """What is in a ledger runs at its consumer no more, unless the ledger or the producer lost what was not synced.

        An ack that failed is in it perhaps, but not before the next start.
        """
        assert first.ledger is not None
        disk, producer = first.ledger[0], key[0].partition(":")[0]
        kept = first.outcome == "kept" and first.holder != second.holder and first.start > self.outages.get(disk, -inf)
        forgot = first.start <= max(self.powerless.get(disk, -inf), self.powerless.get(producer, -inf))
        remembered = kept or (first.outcome == "ack" and not forgot)
        assert not remembered, f"{key} runs again though the ledger has it: {first} {second}"

    def _producer_died(self, key: tuple[str, int], first: Run, second: Run) -> bool:
        """Whether the producer may not have learned of the first run, since it died.

        Its next process asks those who consumed before it gives recovered messages to others.
        """
        node_id = key[0].partition(":")[0]
        if first.start <= self.powerless.get(node_id, -inf):
            return True  # the disk may have forgotten what consumers may have forgotten since it did not
        older, newer = sorted((first, second), key=lambda run: self._sender(key, run).began_at)
        sender = self._sender(key, newer)
        if self._sender(key, older) is sender or first.holder == second.holder:
            return False
        met_at = sender.met.get(older.holder, inf)
        given = [(when, whom) for when, whom, by in self.sends[key] if by == sender.holder and whom != older.holder]
        sent_at = min(when for when, whom in given if whom == newer.holder)
        # Once it is given to somebody, who returns later only lets go of what it has not started: a run there goes on,
        # also beside those that follow if the new holder gives it back.
        return met_at > sent_at or (met_at > min(given)[0] and older.end > sent_at)

    def _sender(self, key: tuple[str, int], run: Run) -> Process:
        """Which life of the producer sent the copy that was run."""
        sent = [by for when, whom, by in self.sends[key] if whom == run.holder and when <= run.start]
        return next(process for process in self.processes if process.holder == sent[-1])

    def count_death(self, process: Process, run: Run) -> None:
        """A message that kills does so for some time: no longer than it takes to be sure, unless its producer dies."""
        key = (run.stream, run.sequence)
        self.deaths[key] += 1
        node_id = run.stream.partition(":")[0]
        lives = sum(1 for life in self.processes if life.address.node_id == node_id)
        # What the last cursor did not know of, and what happened while nobody was there, is not counted.
        most = DEATHS_TO_SUSPECT + MAX_ATTEMPTS + DEATHS_FORGOTTEN * (lives - 1)
        assert self.deaths[key] <= most, f"{key} has killed {self.deaths[key]} consumers"
        if process.role.spooled and process.address.node_id == node_id:
            # Each of these is counted, whenever it comes: the next life knows what this one may have had in hand.
            self.suicides.append(process)
            own = self.own_deaths[key] = self.own_deaths[key] + 1
            ends = lives - sum(1 for life in self.suicides if life.address.node_id == node_id)
            most = DEATHS_TO_SUSPECT + MAX_ATTEMPTS + DEATHS_FORGOTTEN * ends
            assert own <= most, f"{key} has killed its own node {own} times"

    def gave_up(self, engine: Engine, link: Link, *, proven: bool, died: bool) -> None:
        """An engine decided that a peer is gone."""
        holder = link.holder
        self.log(f"{engine.address.node_id} takes {holder} for gone, proven {proven}, died {died}")
        if not proven and not link.bye_number and not link.bye_received:
            self.excuse("given up", holder)
        living = any(p.holder == holder and p.alive for p in self.processes)
        ours = f"{engine.address.node_id}:{engine.address.epoch}"
        for process in self.living():
            if process.holder == ours:
                process.missed_nodes.add(holder.partition(":")[0])
        parted = link.bye_number or link.bye_received
        if living and not proven and not parted:
            calm = min(self.calm_for(holder), self.calm_for(ours))
            assert calm < 8.0, f"{ours} gives {holder} up without a reason"
        if living and proven and died:
            refused = any(w == "refused" and h in (holder, ours) for _, w, h in self.excuses)
            assert refused, f"{engine.address.node_id} takes {holder} for dead, which lives"

    # A whole run

    def run(self) -> None:
        """Play the seed from start to end.

        Raises:
            AssertionError: Something that must hold did not; the text has the seed and the end of the trace.
        """
        try:
            self._play()
            self.judge()
        except Exception as error:
            tail = "\n".join(list(self.trace)[-int(os.environ.get("WORLD_TRACE", "60")) :])
            raise AssertionError(
                f"{tail}\nWORLD_SEED={self.seed} theme {self.theme_name!r}: {type(error).__name__}: {error}"
            ) from error

    def _play(self) -> None:
        random, theme = self.random, self.theme
        queues = [f"q{n}" for n in range(random.choice((1, 1, 2)))]
        roles = self.roles = self._roles(queues)
        for role in roles:
            self.at(random.uniform(0, 0.5), partial(self.start, role))
        length = random.choice((2.0, 5.0, 10.0))
        left = theme.messages
        while left > 0:
            size = min(left, random.choice((1, 1, 3, 10, 40)))
            kinds = random.choices(theme.kinds, k=size)
            self.at(random.uniform(0.1, length), partial(self._burst, kinds))
            left -= size
        for _ in range(random.randrange(1, 7) if theme.faults else 0):
            self.at(random.uniform(0.2, length), partial(self.trouble, random.choice(theme.faults)))
        for _ in range(3 if theme.closes else 0):
            self.at(random.uniform(0.2, length), self._close_some)
        for _ in range(2 if theme.letters else 0):
            self.at(random.uniform(0.2, length), self._tend_letters)
        for _ in range(30 if theme.topics else 0):
            self.at(random.uniform(0.1, length), self._publish_some)
        if theme.topics:
            for _ in range(3):
                self.at(random.uniform(0.1, length), self._subscribe_some)
        if theme.kinds.count("poison"):
            self.at(0.0, self._supervise)
        self.advance(length)
        self._heal_all()
        end = self.now + QUIET_WITHIN
        while self.now < end:
            self.advance(self.now + 0.5)
            if not self.restless():
                break
        self.advance(self.now + 3.0)
        for _ in range(10):
            if self.restless():  # such as an idle link that closes just now
                self.advance(self.now + 0.5)

    def _roles(self, queues: list[str]) -> list[Role]:
        random, theme = self.random, self.theme
        roles = []
        for number in range(random.randrange(2, 6)):
            role = Role()
            role.host = random.choice(("h1", "h1", "h2"))
            role.static = random.random() < 0.3
            if theme.tight:
                budget = random.choice((20_000, 200_000))
                largest = 100_000 if theme.strict else random.choice((100_000, 20_000))
                role.options = Options(consumer_bytes=budget, message_bytes_max=largest)
            for queue in queues:
                both = theme.loop > 0 and random.random() < theme.loop
                if number == 0 or (random.random() < 0.3 and number != 1) or both:
                    role.produces.append((queue, random.choice((RAW, MSGPACK))))
                if number == 1 or both or (not role.produces and random.random() < 0.8):
                    batch = random.choice((1, 1, 10)) if theme.batches else 1
                    lease = 4.0 if "hangs" in theme.kinds else 60.0 if theme.strict else theme.lease
                    role.consumes.append((queue, lease, random.choice((1, 1, 3)), batch))
            if theme.spooled and role.produces and (not number or random.random() < theme.spooled):
                role.spooled = True
                role.fsync = random.random() < theme.fsync
                role.memory_bytes = random.choice((300, 2000, 2**20))
            if theme.overflow and role.spooled:
                role.overflow = random.random() < theme.overflow
            if theme.ledgers and role.consumes:
                role.ledger = random.random() < theme.ledgers
                role.fsync = role.fsync or (role.ledger and not role.spooled and random.random() < theme.fsync)
            role.picky = theme.picky and random.random() < 0.4
            if theme.topics:
                if random.random() < 0.6:
                    role.publishes = random.sample(["a.x", "a.y", "b"], random.randrange(1, 3))
                if random.random() < 0.7:
                    role.subscribes = random.sample(["a.*", "a.x", ">", "b"], random.randrange(1, 3))
            roles.append(role)
        return roles

    def _burst(self, kinds: list[str]) -> None:
        producers = [p for process in self.living() for p in process.producers.values() if not p.closed]
        if producers:
            self.random.choice(producers).burst(kinds)

    def _close_some(self) -> None:
        consumers = [c for process in self.living() for c in process.consumers.values()]
        if consumers and not self.healed:
            consumer = self.random.choice(consumers)
            consumer.close()
            self.at(self.now + self.random.choice((0.01, 0.5, 3.0)), consumer.reopen)

    def _tend_letters(self) -> None:
        for process in self.living():
            for producer in process.producers.values():
                if not producer.closed:
                    process.post(producer.tend_letters)

    def _publish_some(self) -> None:
        publishers = [(p, end) for p in self.living() for end in p.engine.topics.publishers.values() if not p.leaving]
        if publishers:
            process, end = self.random.choice(publishers)
            bodies = [b"update"] * self.random.choice((1, 1, 5))
            process.post(lambda now: process.engine.topics.publish(end, bodies, 0))

    def _subscribe_some(self) -> None:
        """A subscriber comes or goes."""
        living = [p for p in self.living() if not p.leaving]
        if not living or self.healed:
            return
        process = self.random.choice(living)
        pattern = self.random.choice(["a.*", "a.x", ">", "b"])

        def change(now: float) -> None:
            if pattern in process.engine.topics.subscribers:
                process.engine.close_subscriber(pattern, now)
            else:
                process.engine.open_subscriber(pattern, 2**20, now)

        process.post(change)

    def _supervise(self) -> None:
        """Start a consumer again some time after it died, until the poison is used up."""
        if self.healed and self.now > 100:
            return
        for process in list(self.processes):
            if not process.alive and process.role.consumes and not process.left:
                process.left = True
                self.at(self.now + self.random.uniform(0.05, 0.4), partial(self.start, process.role))
        self.at(self.now + 0.1, self._supervise)

    def _heal_all(self) -> None:
        """The troubles are over: every queue has somebody to consume it, everybody can reach everybody."""
        self.log("healing")
        self.heal(list(self.blocked))
        self.healed = True
        for platter in self.disks.values():
            self._repair(platter)
        for process in self.living():
            if process.drive is not None:
                process.drive.steps_left, process.drive.no_graves_until = 0, 0.0
        for role in self.roles:
            if role.disk:
                self.start(role)
        for process in self.living():
            self._continue(process)
            for consumer in process.consumers.values():
                consumer.reopen()
        for queue in sorted({q for process in self.living() for q in process.producers}):
            if not any(queue in p.consumers and not p.leaving for p in self.living()):
                role = Role()
                role.consumes = [(queue, 8.0, 1, 1)]
                self.start(role)
        if self.theme.topics:
            # A last update, so that a tail lost in the troubles is noticed.
            for after in (8.0, 30.0, 60.0):
                self.at(self.now + after, self._publish_everywhere)

    def _publish_everywhere(self) -> None:
        for process in self.living():
            for end in process.engine.topics.publishers.values():
                process.post(lambda now, process=process, end=end: process.engine.topics.publish(end, [b"last"], 0))  # type: ignore[misc]

    def restless(self) -> str:
        """What is not yet as it will be in the end; "" if all is quiet."""
        for role in self.roles:
            if role.spooled and (role.last is None or not role.last.alive):
                return f"{role.node_id} is not there"
        for process in self.living():
            if process.leaving:
                return f"{process.holder} is leaving"
            if process.disk is not None and (process.looking or process.disk.news()):
                return f"the disk of {process.holder} has work"
            for producer in process.producers.values():
                if not producer.all_stored:
                    return f"{producer.end.stream} is being stored"
                if producer.end.unsettled_count:
                    return f"{producer.end.stream} has {producer.end.account()}"
            for consumer in process.consumers.values():
                if not consumer.end.idle or any(taker.busy for taker in consumer.takers):
                    return f"{consumer.queue} at {process.holder} holds {consumer.end.account()}"
        if self.theme.topics and self.now < 100:
            return "updates are to come"
        return self._half_up()

    def _half_up(self) -> str:
        for a in self.living():
            for b in self.living():
                if a is b:
                    continue
                ours, theirs = a.engine.peers.by_holder.get(b.holder), b.engine.peers.by_holder.get(a.holder)
                a_up, b_up = ours is not None and ours.up, theirs is not None and theirs.up
                if a_up != b_up:
                    return f"the link {a.holder} {b.holder} is half up"
                common = a.engine.interests
                if not a_up and (
                    common.consumes & b.engine.interests.produces or common.produces & b.engine.interests.consumes
                ):
                    return f"{a.holder} and {b.holder} have no link"
                if a_up and ours is not None and theirs is not None and ours.out_id != theirs.in_id:
                    return f"{a.holder} and {b.holder} are on different lives of their link"
        return ""

    def judge(self) -> None:
        """What must hold at the end, after healing and quiet."""
        restless = self.restless()
        assert not restless, f"not quiet: {restless}"
        living = self.living()
        for process in living:
            process.engine.check()
            for producer in process.producers.values():
                self._judge_producer(producer)
            for consumer in process.consumers.values():
                self._judge_consumer(process, consumer)
        for role in self.roles:
            if role.spooled and role.last is not None:
                self._judge_disk(role, role.last)
        if self.theme.strict:
            again = {key: runs for key, runs in self.runs.items() if len(runs) > 1}
            assert not again, f"ran twice without any reason: {again}"
        self._judge_order()
        if self.theme.topics:
            self._judge_topics()

    def _judge_producer(self, producer: Producer) -> None:
        end = producer.end
        account = end.account()
        assert account.closes, f"the accounting of {end.stream} does not close: {account}"
        assert account.waiting == account.in_flight == 0, f"{end.stream} is not settled: {account}"
        if producer.store is not None:
            self._judge_promises(producer)
            return
        letters = {int(letter.id.rpartition("/")[2]): letter for letter in end.letters()}
        for (stream, sequence), body in self.accepted.items():
            if stream != end.stream:
                continue
            state = end.state(sequence)
            runs = self.runs.get((stream, sequence), [])
            kind = body.split(b"|")[1].decode()
            if state == "processed":
                assert any(run.outcome in PROCESSED for run in runs), f"{stream}/{sequence} is acked and never ran"
            elif state == "dead":
                letter = letters.get(sequence)
                if not (letter and letter.reason == "refused" and len(body) > 19_000):
                    self._judge_letter(kind, letter.reason if letter else "", runs, f"{stream}/{sequence}")
            else:
                assert state == "dropped", f"{stream}/{sequence} is {state}"
                assert self.theme.tight, f"{stream}/{sequence} was dropped by nobody"

    def _judge_promises(self, producer: Producer) -> None:
        """Every message that was ever stored here was processed, or is a dead letter, whoever died since."""
        end = producer.end
        node_id = producer.process.address.node_id
        letters = {letter.id: letter for letter in end.letters()}
        assert end.account().on_disk == 0, f"{end.stream} has something on disk only"
        for (stream, sequence), body in self.accepted.items():
            if stream.split(":")[0] != node_id or stream.split(":", 2)[2] != producer.queue:
                continue
            name = f"{stream}/{sequence}"
            runs = self.runs.get((stream, sequence), [])
            if name in letters:
                self._judge_letter(body.split(b"|")[1].decode(), letters[name].reason, runs, name)
            elif (stream, sequence) not in self.unsure and (stream, sequence) not in self.tended:
                assert any(run.outcome in PROCESSED for run in runs), f"{name} is lost: {runs}"

    def _judge_disk(self, role: Role, process: Process) -> None:
        """Should it all end now, the disk knows that all is settled."""
        before = self.disks[role.node_id]
        # Of a cursor whose sync failed once the platter believes nothing any more, though it is written anew each time.
        doubtful = any(file.doomed and "/cursor." in path for path, file in before.files.items())
        after = before.lose_power(Random(self.seed)) if role.fsync and not doubtful else before.copy()
        spool = Spool.open("/spool", files=after, random_bits=0, node_id="?", segment_bytes=SEGMENT_BYTES, unix_ms=0)
        for queue, store in process.stores.items():
            kept = [segment for segment in store._log._contents.segments if segment.messages]
            assert len(kept) <= 1, f"segments of {queue} at {process.holder} are not trimmed"
            assert store.end is not None
            found = Store(spool, queue, role.fsync, 0)
            recovered = found.recovered()
            _, backlog = recovered.begin("?:1:?", 2**20, 0.0)
            # How many records a torn copy held that a failed sync has left is not known, and the number after the last
            # known one is reported for them. That is none that was given out.
            damaged = {(stream, n) for stream, a, b in recovered.damaged for n in range(a, b)}
            unsettled = backlog.recovered != backlog.damaged or damaged & self.accepted.keys() - self.unsure
            assert not unsettled, f"the disk of {process.holder} does not know that {queue} is settled"
            on_disk, in_memory = found.letters(), store.end.letters()
            ids = {letter.id for letter in on_disk if self._key(letter) not in self.tended}
            assert ids == {letter.id for letter in in_memory if self._key(letter) not in self.tended}, "letters differ"
            assert len(on_disk) == len({letter.id for letter in on_disk}), "a dead letter is on disk twice"
        spool.abandon()

    @staticmethod
    def _key(letter: DeadLetter) -> tuple[str, int]:
        stream, _, sequence = letter.id.rpartition("/")
        return stream, int(sequence)

    def _judge_letter(self, kind: str, reason: str, runs: list[Run], name: str) -> None:
        failures = sum(1 for run in runs if run.outcome in ("nack", "batch_failed") or run.end - run.start >= run.lease)
        troubled = any(what in ("backstop",) for _, what, _ in self.excuses)
        legal = {
            "poison": ("poison",),
            "rejected": ("rejected",),
            "misfit": ("refused",),
            "fails": ("attempts", "lease", "poison") if "kill" in self.theme.faults else ("attempts", "lease"),
            "fails twice": ("lease",) if troubled else (),
            "hangs": ("lease",) if troubled else (),
        }
        unacked = reason == "attempts" and any(run.outcome in ("unacked", "kept") for run in runs)
        retried = not reason or unacked
        assert retried or reason in legal.get(kind, ()) or (troubled and failures), f"{name}, which {kind}: {reason}"

    def _judge_consumer(self, process: Process, consumer: Consumer) -> None:
        end = consumer.end
        account = end.account()
        assert account.buffered == account.started == 0, f"{consumer.queue} at {process.holder} holds: {account}"
        for holder, source in end._sources.items():
            credit = source.credit
            if source.attached and not source.proven_gone:
                assert credit.outstanding() == credit.unused(), f"credit of {holder} at {process.holder} is not back"

    def _judge_order(self) -> None:
        """First deliveries are in order: of what was sent once, each consumer started a lower sequence first."""
        for (stream, holder), sequences in self.starts.items():
            # What is too large for one consumer is put aside for another, and comes later.
            sent_once = [n for n in sequences if len(self.sends.get((stream, n), ())) == 1]
            once = [n for n in sent_once if len(self.accepted[stream, n]) < 19_000]
            assert once == sorted(once), f"{holder} did not run {stream} in order: {once}"

    def _judge_topics(self) -> None:
        """Whoever confirmed a subscription knows of every update since: delivered, or counted as missed."""
        for process in self.living():
            for subscriber in process.engine.topics.subscribers.values():
                for holder, tracks in subscriber._tracks.items():
                    publisher = next((p for p in self.living() if p.holder == holder), None)
                    if publisher is None:
                        continue
                    for topic, track in tracks.items():
                        last = publisher.engine.topics.publishers[topic].last
                        assert track.seen == last, f"{process.holder} saw {topic} up to {track.seen} of {last}"
            for seen in process.received.values():
                for a, b in pairwise(sorted(set(seen))):
                    assert a != b
        for publisher in self.living():
            for end in publisher.engine.topics.publishers.values():
                wanted = {
                    f"{process.address.node_id} {pattern}"
                    for process in self.living()
                    for pattern in process.engine.topics.subscribers
                    if matches(pattern, end.topic)
                }
                assert end.confirmed == wanted, f"{publisher.holder} {end.topic}: {end.confirmed} instead of {wanted}"


def _connected(owner: Process, line: Line, now: float) -> None:
    if owner.lines.get(line.wire) is not line or not line.up:
        return
    owner.engine.connected(line.wire, now)
    if line.refusing:
        line.refusing = False
        owner.engine.writable(line.wire)


def _watched(base: type[Engine], world: World) -> type[Engine]:
    """The engine, with its verdicts reported to the world."""

    class Watched(base):  # type: ignore[valid-type, misc]
        def _gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
            world.gave_up(self, link, proven=proven, died=died)
            super()._gone(link, now, proven=proven, died=died)

        def open_producer(self, *args: Any) -> ProducerEnd:
            end: ProducerEnd = super().open_producer(*args)
            put_in_flight = end.sent

            def sent(holder: str, run: inflight.Run) -> None:
                for stream, first, stop in end.numbering.names(run.first, run.stop):
                    world.sent(self, stream, range(first, stop), run.attempt, holder)
                put_in_flight(holder, run)

            end.sent = sent  # type: ignore[method-assign]
            return end

        def _receive_interest(self, link: Link, interest: Interest, now: float) -> None:
            if link.their_interest is None:
                world.met(self, link.holder)
            super()._receive_interest(link, interest, now)

        def _look_at(self, link: Link, now: float) -> float:
            hung = link.belief is Belief.HUNG
            before = self._held_by(link.holder)
            look: float = super()._look_at(link, now)
            if hung and self._held_by(link.holder) < before:
                world.excuse("backstop", link.holder)
            return look

        def _held_by(self, holder: str) -> int:
            return sum(end.held_by(holder) for end in self.producers.by_queue.values())

    return Watched


__all__ = ["DISK_THEMES", "THEMES", "World"]
