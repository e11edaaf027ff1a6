"""Pipelines: user code that sends on what it takes, and what a source may hear of that.

A stage takes from one queue and sends to the next, in memory or through its spool. Of a few the last sends to the
first, so that messages go in circles until they have gone far enough.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import msgspec

from peerfabric.errors import SpoolError
from peerfabric.queue.delivery import Delivery
from peerfabric.queue.handon import KINDS, Outputs
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import DEPTH_MAX
from peerfabric.wire.frames import MSGPACK, RAW
from tests.world.disks import Killed
from tests.world.record import PROCESSED, Run
from tests.world.roles import Role
from tests.world.themes import Theme

if TYPE_CHECKING:
    from tests.world.consumer import Consumer
    from tests.world.world import World

TOLD_WITHIN = 1.0
"""Seconds in which a producer hears that its message has run, if nothing is wrong."""
HOPS_MAX = 20
"""A message that goes in circles is sent on so often at most: beyond the depth from which on delivering is enough."""


def draw_pipeline(theme: Theme, random: Random) -> list[Role]:
    """Draw a source, some stages, each perhaps twice, and sinks."""
    queues = [f"q{n}" for n in range(random.choice((2, 2, 3)))]
    circle = random.random() < 0.25

    def role(takes: str, sends: str) -> Role:
        made = Role()
        made.host = random.choice(("h1", "h1", "h2"))
        made.static = random.random() < 0.3
        if takes:
            lease = 4.0 if "hangs" in theme.kinds else theme.lease
            made.consumes.append((takes, lease, random.choice((1, 1, 3)), random.choice((1, 1, 1, 10))))
        if sends:
            made.produces.append((sends, random.choice((RAW, MSGPACK))))
            made.spooled = random.random() < theme.spooled
            made.memory_bytes = random.choice((300, 2000, 2**20))
        if takes and sends:
            made.hands_on[takes] = sends
        return made

    roles = [role("", queues[0])]
    for takes, sends in zip(queues, [*queues[1:], queues[0] if circle else ""], strict=True):
        roles += [role(takes, sends) for _ in range(random.choice((1, 1, 2)))]
    if random.random() < 0.2:  # the last takes what it has sent itself, too
        roles[-2].consumes += [each for each in roles[-1].consumes if each[0] not in roles[-2].hands_on]
        roles[-2].hands_on = {**roles[-1].hands_on, **roles[-2].hands_on}
        roles[-2].produces += [each for each in roles[-1].produces if each not in roles[-2].produces]
        names = [queue for queue, _ in roles[-2].produces]
        roles[-2].produces = [each for at, each in enumerate(roles[-2].produces) if each[0] not in names[:at]]
    return roles


def deaths(end: OutgoingQueue) -> dict[int, int]:
    """Deaths of all messages in memory, by number."""
    return {number: run.deaths for run in end._runs() for number in range(run.first, run.stop)}


class Stage:
    """What the user code of one consumer sends on."""

    def __init__(self, consumer: Consumer, sends: str) -> None:
        self.consumer, self.sends = consumer, sends
        self.process = consumer.process
        self.outputs: dict[int, Outputs] = {}
        """Of runs, by id, what they have sent into memory."""

    def send(self, run: Run, delivery: Delivery) -> bool:
        """Send what follows from one message; False: nothing is accepted."""
        world, producer = self.process.world, self.process.producers[self.sends]
        _, _, hops = run.body.split(b"|")[:3]
        gone = int(hops or 0) + 1
        circles = any("q0" in role.hands_on.values() for role in world.supervisor.roles)
        if circles and run.sent:
            return True
        on = gone < HOPS_MAX and world.random.random() < 0.9
        count = int(on) if circles else world.random.choice((0, 1, 1, 1, 3))
        kinds = world.random.choices([kind for kind in world.theme.kinds if kind in ("ok", "slow")], k=count)
        texts = [f"{next(world.serial)}|{kind}|{gone}".encode() for kind in kinds]
        bodies = [text if producer.codec == RAW else msgspec.msgpack.encode(text) for text in texts]
        if not bodies:
            return True
        if self.process.leaving == "bye" or producer.storing or not self.process.alive:
            return False
        if producer.store is not None:
            try:
                _, stored = producer._append(bodies, None)
            except (SpoolError, Killed) as error:
                world.log(f"{self.process.peer} does not hand on: {error}")
                return False
            producer._hand((bodies[:stored], False, None), 0.0)
            return stored == len(bodies)
        end, depth = producer.end, min(delivery.depth + 1, DEPTH_MAX)
        first = end.next
        self.process.engine.producers.accept(end, bodies, 0, kind=KINDS[depth])
        outputs = self.outputs.setdefault(id(run), Outputs(depth))
        outputs.add(end.open_watch(self.process.wake), first, first + len(bodies))
        for at, text in enumerate(texts, first):
            world.record.accepted[end.stream, at] = text
            run.outputs.append((end.stream, at, depth >= DEPTH_MAX))
        self.process.wake()
        return True

    def ack(self, delivery: Delivery, low: int, high: int, runs: list[Run]) -> None:
        """Messages that were taken together are handled: they are acked once all that was sent is safe."""
        sent = [outputs for run in runs if (outputs := self.outputs.pop(id(run), None)) is not None]
        if not sent:
            delivery.ack(low, high)
            return
        outputs = Outputs(sent[0].depth)
        for each in sent:
            for watch, first, stop in each.ranges():
                outputs.add(watch, first, stop)
        self.consumer.end.open_handon(self.process.wake).defer(delivery, low, high, outputs)


class PipelineWatch:
    """Hears what is settled: who is told that an input is acked may rely on its outputs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.settled: set[tuple[str, int]] = set()

    def listen(self, end: OutgoingQueue) -> None:
        """A node sends to a queue."""
        settle = end._settle

        def settled(how: str, start: int, stop: int) -> None:
            settle(how, start, stop)  # type: ignore[arg-type]
            for stream, low, high in end.numbering.names(start, stop):
                for sequence in range(low, high):
                    self.settled.add((stream, sequence))
                    if how == "acked":
                        self._judge_ack(stream, sequence)

        end._settle = settled  # type: ignore[method-assign]
        gone = end.gone

        def watched_gone(peer: str, now: float, *, died: bool) -> None:
            before = deaths(end)
            gone(peer, now, died=died)
            for number, count in deaths(end).items():
                if count > before.get(number, 0):
                    self._judge_death(*end.numbering.name(number), peer, end.stream.rpartition(":")[0])

        end.gone = watched_gone  # type: ignore[method-assign]

    def _judge_death(self, stream: str, sequence: int, peer: str, ours: str) -> None:
        """A message counts the death of a consumer: that had it in hand, or at least had no time to say otherwise."""
        record = self.world.record
        process = next(process for process in self.world.supervisor.processes if process.peer == peer)
        runs = [run for run in record.runs.get((stream, sequence), ()) if run.peer == peer]
        told_by = process.ended_at - TOLD_WITHIN
        handled = [run for run in runs if run.outcome in PROCESSED and run.end < told_by]
        calm = max(self.world.network.cut_at, *(record.disturbed.get(each, 0.0) for each in (peer, ours))) < told_by
        assert not (handled and calm), f"{stream}/{sequence} counts the death of {peer}, where it had run: {handled}"

    def _judge_ack(self, stream: str, sequence: int) -> None:
        runs = self.world.record.runs.get((stream, sequence), [])
        handled = [run for run in runs if run.outcome in PROCESSED]
        lost = [[each for each in run.outputs if not self._is_safe(stream, each)] for run in handled]
        assert not handled or not all(lost), f"{stream}/{sequence} is acked, and what was sent for it is not: {lost}"

    def _is_safe(self, stream: str, output: tuple[str, int, bool]) -> bool:
        out, sequence, deep = output
        if deep or (out, sequence) in self.settled:
            return True
        queue, node_id = out.rpartition(":")[2], stream.partition(":")[0]
        consumes = {
            process.address.node_id
            for process in self.world.supervisor.processes
            if any(queue == consumed for consumed, *_ in process.role.consumes)
        }
        return node_id in consumes
