"""User code that takes messages from a queue: fast, slow, failing, hanging or deadly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from peerfabric.errors import SpoolError
from peerfabric.queue.delivery import Delivery, Verdict
from peerfabric.queue.incoming import IncomingQueue
from peerfabric.wire.bodies import split
from peerfabric.wire.frames import Data
from tests.world.disks import Killed
from tests.world.pipeline import Stage
from tests.world.record import Run

if TYPE_CHECKING:
    from tests.world.process import Process


class Taker:
    """One thread of user code that takes messages."""

    def __init__(self) -> None:
        self.busy = False


class Consumer:
    """User code that takes from one queue: several takers over one machine, with the real claim protocol."""

    def __init__(self, process: Process, queue: str, lease: float, takers: int, batch: int) -> None:
        self.process, self.queue, self.lease, self.batch = process, queue, lease, batch
        self.ledger_store = process.ledger_stores.get(queue)
        remembered = self.ledger_store.remembered if self.ledger_store is not None else None
        self.end: IncomingQueue = process.engine.open_consumer(queue, lease, process.clock(), remembered)
        if process.world.theme.expiring:
            self._note_arrivals()
        sends = process.role.hands_on.get(queue)
        self.stage = Stage(self, sends) if sends else None
        self.takers = [Taker() for _ in range(takers)]
        self.current: Delivery | None = None
        self.parked: list[Delivery] = []
        self.claiming = False
        self.closed = False
        self.paused = False
        """Somebody has paused the queue here."""
        self.claimed_paused = False
        """It was when messages were last claimed."""
        self.fenced: dict[str, float] = {}
        """Peer of a producer -> since when its messages wait for nothing but an echo."""

    def _note_arrivals(self) -> None:
        receive = self.end.receive

        def received(peer: str, sender: str, data: Data, *rest: Any) -> None:
            for sequence in range(data.first, data.first + data.count):
                self.process.came_at[data.stream, sequence] = self.process.world.now
            receive(peer, sender, data, *rest)

        self.end.receive = received  # type: ignore[method-assign, assignment]

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
            engine = self.process.engine
            if self.ledger_store is None and engine.consumers.forget(self.queue, now):
                self.process.world.log(f"{self.process.peer} opens {self.queue} anew, which it had forgotten")
                self.end = engine.open_consumer(self.queue, self.lease, now)
                self.parked.clear()
                self.current, self.paused = None, False
                if self.process.world.theme.expiring:
                    self._note_arrivals()
            else:
                engine.reopen_consumer(self.queue, now)

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
        self._watch_fence(now, wanted=bool(idle))
        if idle and self.current is None and not self.claiming:
            self.current = self.end.take(now)
        if idle and self.current is not None:
            for _ in idle:
                self._later(self._claim)
        self.process.engine.consumers.progress(self.end, now)
        if self.ledger_store is not None:
            self.ledger_store.forget(self.end.producers.take_forgotten())

    def _watch_fence(self, now: float, *, wanted: bool) -> None:
        """After a quiet time a message is handed out as soon as its producer has echoed one PING."""
        for peer, source in self.end._sources.items():
            since = self.fenced.pop(peer, now)
            self.process.world.witness.waited_for_echo(self.process, peer, now - since)
            if wanted and source.attached and source.buffer and source.fence <= now:
                self.fenced[peer] = since

    def _later(self, step: Callable[..., None], *args: Any, least: float = 0.0, most: float = 0.002) -> None:
        self.process.world.after(
            self.process.world.random.uniform(least, most),
            partial(self._if_alive, step, *args),
        )

    def _if_alive(self, step: Callable[..., None], *args: Any) -> None:
        # A stopped process stops its handlers too; they go on when it does.
        if self.process.stopped and not self.process.stuck:
            self.process.world.after(0.05, partial(self._if_alive, step, *args))
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
        self.claimed_paused = self.paused
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
        assert not self.claimed_paused, f"{process.peer} starts {delivery} of a queue that is paused there"
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
                process.peer,
                self.lease,
                world.now,
                ledger=(process.role.disk, self.queue) if self.ledger_store is not None else None,
            )
            world.witness.started(process, run, delivery)
            runs.append(run)
        kinds = [run.body.split(b"|")[1].decode() for run in runs]
        if "poison" in kinds and world.poison_left > 0:
            world.poison_left -= 1
            world.witness.count_death(process, runs[kinds.index("poison")])
            world.log(f"{process.peer} dies of {runs[kinds.index('poison')].sequence}")
            world.supervisor.end(process, "died")
            return
        early = self.stage is not None and world.random.random() < 0.5
        if self.stage is not None and early:
            for run in runs:
                run.sent = self.stage.send(run, delivery)
                if not process.alive:
                    return
        slow = sum(world.random.uniform(0.2, 0.8) for kind in kinds if kind == "slow")
        quick = sum(world.random.choice((0.0, 0.0005, 0.004)) for _ in kinds)
        slow += sum(world.random.uniform(3.0, 6.0) for kind in kinds if kind == "long")
        slow += 600.0 * kinds.count("lasting")
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
        if verdict is Verdict.ACK and self.stage is not None:
            for run in runs:
                if run.sent is None or (run.sent and self.process.world.random.random() < 0.5):  # some of it late
                    run.sent = self.stage.send(run, delivery)
            if not all(run.sent for run in runs):  # there was no room, or the disk refused
                verdict, outcome = Verdict.GIVE_BACK, "give_back" if self.process.alive else "died"
        if verdict is Verdict.ACK and self.ledger_store is not None:
            verdict, outcome = self._record(delivery, low, high)
        for run in runs:
            kept = outcome in ("died", "unacked") and self.process.world.disks.in_ledger(run)
            run.outcome = "kept" if kept else outcome
        if verdict is Verdict.ACK and self.stage is not None:
            self.stage.ack(delivery, low, high, runs)
        elif verdict is Verdict.ACK:
            delivery.ack(low, high)
        else:
            delay = 0.0 if self.process.world.random.random() < 0.3 else -1.0
            delivery.verdicts.append((verdict, low, high, delay, verdict.name))

    def _record(self, delivery: Delivery, low: int, high: int) -> tuple[Verdict, str]:
        """Write an ack into the ledger; what becomes of the messages, and how that is called."""
        assert self.ledger_store is not None
        try:
            self.ledger_store.record([(delivery, low, high)])
        except SpoolError as error:
            self.process.world.log(f"{self.process.peer} does not ack {delivery.first + low}: {error}")
            return Verdict.NACK if high - low == 1 else Verdict.BATCH_FAILED, "unacked"
        except Killed:
            return Verdict.GIVE_BACK, "died"
        return Verdict.ACK, "ack"
