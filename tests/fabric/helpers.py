"""Parts for tests of the machines: frames, deliveries, and a pair of engines over a perfect wire."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from peerfabric.engine import Engine
from peerfabric.link.commands import Command, Dial, HangUp
from peerfabric.options import Options
from peerfabric.queue.delivery import Delivery
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import Run, cost
from peerfabric.wire.bodies import join, split
from peerfabric.wire.frames import RAW, Address, Data, Result

STREAM = "p:1:jobs"
HUGE = 2**40


def bodies(count: int, size: int = 4) -> list[bytes]:
    return [str(n).encode().rjust(size, b"0") for n in range(1, count + 1)]


def run_of(first: int, count: int, size: int = 4) -> Run:
    made = [b"x" * size for _ in range(count)]
    return Run(first, made, cost(made), 0)


def producer(consumers: int = 1, max_attempts: int = 5) -> OutgoingQueue:
    """A producer's end with consumers "a:1", "b:1", …"""
    end = OutgoingQueue("jobs", STREAM, RAW, 2**20, max_attempts, Random(1))
    for name in "abcdef"[:consumers]:
        end.set_consumer(f"{name}:1", name, consumes=True)
    return end


def dispatch(end: OutgoingQueue, peer: str = "a:1", messages: int = 1000, size: int = HUGE) -> tuple[int, int] | None:
    """Send what `peer` should get next; return its sequences as (first, stop)."""
    run = end.pick(peer, messages, size, HUGE)
    if run is None:
        return None
    end.sent(peer, run)
    end.check()
    return run.first, run.stop


def data(
    first: int, count: int, sent: int, *, attempt: int = 1, floor: int = 1, waiting: int = 0, flags: int = 0
) -> Data:
    """The header of a frame after which the producer's totals are `sent` messages of 68 bytes."""
    totals = (waiting, sent, 68 * sent)
    return Data(bytes(8), 1, 0, STREAM, "jobs", first, count, floor, attempt, RAW, flags, 0, *totals, 0)


def body_of(first: int, count: int) -> bytes:
    return join([str(n).encode().rjust(4, b"0") for n in range(first, first + count)], RAW)[0]


def consumer(lease: float = 10.0, budget: int = HUGE) -> IncomingQueue:
    """A consumer's end that knows the producer "p:1" and may start its messages."""
    end = IncomingQueue("jobs", lease, budget, 0.1)
    end.meet("p:1")
    end.fence("p:1", 1000.0)
    return end


def receive(end: IncomingQueue, first: int, count: int, sent: int | None = None, **more: int) -> None:
    """A frame arrives that credit allowed."""
    total = sent if sent is not None else first + count - 1
    source = end._sources["p:1"]
    source.credit.granted_messages = max(source.credit.granted_messages, total)
    source.credit.granted_bytes = max(source.credit.granted_bytes, 68 * total)
    end.receive("p:1", "shop", data(first, count, total, **more), body_of(first, count), source.fence)
    end.check()


def take(end: IncomingQueue, now: float = 0.0) -> Delivery:
    delivery = end.take(now)
    assert delivery is not None
    return delivery


def results(end: IncomingQueue, ack: int = 1) -> list[Result]:
    end.progress(0.0)
    end.check()
    return end.producers.take_told("p:1", ack)[0]


def claim(delivery: Delivery, count: int = 1, now: float = 0.0) -> list[bytes]:
    """Hand out the next `count` messages, by the protocol of the handling side."""
    low, high = delivery.next, min(delivery.next + count, delivery.limit)
    delivery.next = high
    if now >= delivery.until:
        delivery.next = low
        return []
    return [msgspec.msgpack.decode(element) for element in split(delivery.body, delivery.codec)[low:high]]


def transmitted(engine: Engine, now: float, *, taken: bool = True) -> list[tuple[int, list[bytes]]]:
    """All that an engine sends now, as (wire, frames), to sockets that take it or do not."""
    sent: list[tuple[int, list[bytes]]] = []

    def send(wire: int, frames: list[bytes]) -> bool:
        sent.append((wire, frames))
        return taken

    engine.transmit(send, now)
    return sent


class Pair:
    """Two engines whose wires are always connected and carry each frame at once."""

    def __init__(self, options: Options | None = None) -> None:
        self.now = 100.0
        self.a = self._engine("a", options)
        self.b = self._engine("b", options)
        self.wires: dict[tuple[str, int], Engine] = {}
        self.commands: list[tuple[str, Command]] = []
        self.filter: Callable[[Engine, list[bytes]], bool] = lambda sender, frames: True
        """Whether a frame arrives."""

    def _engine(self, name: str, options: Options | None) -> Engine:
        address = Address(name, 7 << 20, name, "host", [f"tcp://{name}:1"], [f"tcp://{name}:2"])
        return Engine(address, "test", options or Options(), Random(name), self.now)

    def meet(self) -> None:
        """Bring the link up."""
        self.a.handle_discovered(self.b.address, self.now)
        self.settle()

    def settle(self, seconds: float = 0.0) -> None:
        """Carry frames to and fro until nobody has anything to say, then let time pass, and again."""
        for at in (self.now, self.now + seconds):
            self.now = at
            for _ in range(200):
                if not self._step(self.a) + self._step(self.b):
                    break
            else:
                raise AssertionError("the engines never stop talking")
        for engine in (self.a, self.b):
            engine.check()

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps in which nobody is late."""
        for _ in range(round(seconds / 0.1)):
            self.settle(0.1)

    def _step(self, engine: Engine) -> int:
        engine.handle_timeout(self.now)
        carried = 0
        for wire, frames in transmitted(engine, self.now):
            other = self.wires.get((engine.address.node_id, wire))
            carried += 1
            if other is not None and self.filter(engine, frames):
                other.handle_frames(frames, self.now)
        while engine.topics.outbox:
            frames = engine.topics.outbox.popleft()
            (self.b if engine is self.a else self.a).handle_published(frames, self.now)
        for command in engine.poll_commands():
            self.commands.append((engine.address.node_id, command))
            match command:
                case Dial(wire, endpoint):
                    other = next((e for e in (self.a, self.b) if endpoint in e.address.inbox), None)
                    if other is None:
                        engine.handle_unreachable(wire, self.now)
                    else:
                        self.wires[engine.address.node_id, wire] = other
                        engine.handle_connected(wire, self.now)
                    carried += 1
                case HangUp(wire):
                    self.wires.pop((engine.address.node_id, wire), None)
        return carried
