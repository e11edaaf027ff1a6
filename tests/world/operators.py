"""People who look at queues from outside of their programs: they pause, resume and purge them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.world.consumer import Consumer
    from tests.world.process import Process
    from tests.world.producer import Producer
    from tests.world.world import World


class Operators:
    """What they do, until the troubles are over."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random

    def pause(self, process: Process) -> None:
        """Pause a queue that the process consumes, for a while."""
        if process.consumers:
            consumer = self.random.choice(list(process.consumers.values()))
            process.post(partial(self._pause, consumer))
            self.world.after(self.random.choice((0.05, 0.5, 2.0, 6.0)), partial(self.resume, consumer))

    def _pause(self, consumer: Consumer, now: float) -> None:
        if consumer.process.engine.consumers.pause(consumer.queue, now):
            self.world.log(f"{consumer.process.peer} is paused at {consumer.queue}")
            consumer.paused = True
            self.world.record.paused[consumer.process.peer, consumer.queue] = Counter()

    def resume(self, consumer: Consumer) -> None:
        """Take of the queue again."""
        consumer.process.post(partial(self._resume, consumer))

    def _resume(self, consumer: Consumer, now: float) -> None:
        if consumer.paused and consumer.process.engine.consumers.resume(consumer.queue, now):
            self.world.log(f"{consumer.process.peer} goes on with {consumer.queue}")
            consumer.paused = False
            self.world.record.paused.pop((consumer.process.peer, consumer.queue), None)

    def purge(self, process: Process) -> None:
        """Drop what waits in a queue that the process sends to."""
        if process.producers:
            process.post(partial(self._purge, self.random.choice(list(process.producers.values()))))

    def _purge(self, producer: Producer, now: float) -> None:
        end, record = producer.end, self.world.record
        if producer.closed:
            return
        parts = [(run.first, run.stop) for _, runs in end.pending.places() for run in runs] + end._only_on_disk()
        waiting = sorted(number for start, stop in parts for number in range(start, stop))
        count = end.purge()
        dropped = [number for number in waiting if end.state(number) == "dropped"]
        held = [number for number in waiting if end.state(number) != "dropped"]
        assert count == len(dropped), f"{end.stream} has dropped {len(dropped)}, and says {count}"
        backlog = end.backlog
        known = list(backlog.adopted.values()) if backlog is not None else []
        assert all(any(number in held_there for held_there in known) for number in held), f"{held} are not dropped"
        record.purged.update(end.numbering.name(number) for number in dropped)
        producer.process.engine.changed.add(end)
        self.world.log(f"{end.stream} is purged of {dropped}")
