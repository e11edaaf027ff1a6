"""What must hold at every moment: who may run what, and who may give whom up."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Any

from peerfabric.engine import Engine
from peerfabric.link.link import Belief, Link
from peerfabric.link.liveness import FENCE
from peerfabric.link.machine import Machine
from peerfabric.names import queue_of
from peerfabric.queue import runs as inflight
from peerfabric.queue.backlog import REUNION
from peerfabric.queue.delivery import Delivery
from peerfabric.queue.outgoing import OutgoingQueue
from peerfabric.queue.runs import DEATHS_TO_ISOLATE
from peerfabric.topic.subscriber import UpdateBatch
from peerfabric.wire.frames import Interest
from tests.world.producer import MAX_ATTEMPTS

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.record import Run
    from tests.world.world import World

EARLY = 0.015
"""Seconds that a message may expire early: it shares a run with others, and is told in milliseconds."""
DEATHS_FORGOTTEN = 3
"""Deaths of one message that may go unnoticed with the death of its producer."""
BOUNCES_MAX = 3
"""How often one message is sent to a consumer while that is paused: before it is known, with a grant that crossed it,
and once more as nothing was heard for RESTS_FOR."""

CLOSED_OUT = ("refused", "copied", "revoked")
"""Excuses to take somebody who lives for dead."""


class Witness:
    """Is told what engines and user code do, and asserts that they may."""

    def __init__(self, world: World) -> None:
        self.world, self.record = world, world.record
        self.deaths: Counter[tuple[str, int]] = Counter()
        self.own_deaths: Counter[tuple[str, int]] = Counter()
        self.suicides: list[Process] = []
        """Those that died of a message that they had sent themselves."""

    def started(self, process: Process, run: Run, delivery: Delivery) -> None:
        """A message is handed to user code; the fence must allow it."""
        key = (run.stream, run.sequence)
        accepted = self.record.accepted.get(key)
        assert accepted == run.body, f"{key} is {run.body!r}, accepted was {accepted!r}"
        if self.world.theme.strict:
            assert key not in self.record.purged, f"{process.peer} starts {key}, which was dropped"
        producer = delivery.peer
        if producer != process.peer and any(p.peer == producer for p in self.world.supervisor.living()):
            age = process.clock() - process.echoes.get(producer, -inf)
            gone = delivery.until == inf and any(
                what == "refused" and peer in (producer, process.peer) for _, what, peer in self.record.excuses
            )
            assert age < FENCE + 1e-6 or gone, f"{process.peer} starts {key} {age:.2f} s after the last echo"
        if key in self.record.expires:
            # Its producer's clock says when, but for the way of the frame.
            came_at = process.came_at[key]
            left_at = max(when for when, whom, _ in self.record.sends[key] if whom == process.peer and when <= came_at)
            late = self.world.now - self.record.expires[key] - (came_at - left_at)
            assert late < 1e-6, f"{process.peer} starts {key} {late:.3f} s after it expired"
        earlier = self.record.runs.setdefault(key, [])
        for other in earlier:
            self._excuse_second(key, other, run, process)
        if not any(other.peer == run.peer for other in earlier):
            self.record.starts.setdefault((run.stream, run.peer), []).append(run.sequence)
        earlier.append(run)
        self.world.log(f"{process.peer} runs {key} attempt {run.attempt}")

    def waited_for_echo(self, process: Process, peer: str, waited: float) -> None:
        """Messages were held back by the fence for so long, though somebody wanted them."""
        calm = min(self.record.calm_for(process.peer), self.record.calm_for(peer))
        living = any(p.peer == peer and p.alive and not p.leaving for p in self.world.supervisor.processes)
        assert waited < 0.5 or calm < 12.0 or not living, f"{process.peer} waits {waited:.2f} s for {peer}"

    def updated(self, process: Process, batch: UpdateBatch) -> None:
        """Updates are handed to user code: each once, in the order of their publisher."""
        last, count = process.updated.get(batch.track, (batch.track.baseline, 0))
        text = f"{process.peer} is given {batch.topic} {batch.first} of {batch.sender} after {last}"
        assert batch.first > last, text
        process.updated[batch.track] = (batch.first + batch.count - 1, count + batch.count)

    def _excuse_second(self, key: tuple[str, int], first: Run, second: Run, process: Process) -> None:
        """A second run is allowed only for a reason, one at the same time only for a good one."""
        peer = first.peer
        since = [(what, who) for when, what, who in self.record.excuses if when >= first.start - 30.0]
        lapsed = second.start - first.start >= first.lease and first.end - first.start >= first.lease
        verdicts = {(what, who) for what, who in since}
        apart = ("given up", peer) in verdicts or ("backstop", peer) in verdicts
        concerned = (peer, key[0].rpartition(":")[0])
        refused = any(what in CLOSED_OUT and who in concerned for what, who in verdicts)
        if first.ledger is not None and first.ledger == second.ledger and not lapsed:
            self._judge_remembered(key, first, second)
        if self._producer_died(key, first, second):
            return
        if first.end > second.start:
            assert lapsed or first.peer != second.peer, f"{key} runs twice in one process: {first} {second}"
            assert lapsed or apart or refused, f"{key} runs twice at one time: {first} {second}"
            if self.world.theme.lan and not lapsed:
                self.world.lan_watch.judge_second(key, first, second)
            return
        if first.peer == second.peer and first.outcome == "ack":
            assert lapsed, f"{key} runs again where it was done: {first} {second}"
        gave = first.outcome in ("nack", "reject", "refuse", "give_back", "batch_failed", "unacked", "kept")
        ended = any((what, peer) in verdicts for what in ("died", "vanished", "left unsettled"))
        ended = ended or ("left without an answer", peer) in verdicts
        assert gave or lapsed or apart or refused or ended, f"{key} runs again without a reason: {first} {second}"
        if self.world.theme.lan and not (gave or lapsed or ended):
            self.world.lan_watch.judge_second(key, first, second)

    def _judge_remembered(self, key: tuple[str, int], first: Run, second: Run) -> None:
        """What is in a ledger runs at its consumer no more, unless the ledger or the producer lost what was not synced.

        An ack that failed is in it perhaps, but not before the next start, and only if no later write has cut it off.
        """
        assert first.ledger is not None
        disk, producer = first.ledger[0], key[0].partition(":")[0]
        outages, powerless = self.world.disks.outages, self.world.disks.powerless
        kept = first.outcome == "kept" and first.peer != second.peer and first.start > outages.get(disk, -inf)
        kept = kept and self.world.disks.in_ledger(first)
        forgot = first.start <= max(powerless.get(disk, -inf), powerless.get(producer, -inf))
        remembered = kept or (first.outcome == "ack" and not forgot)
        assert not remembered, f"{key} runs again though the ledger has it: {first} {second}"

    def _producer_died(self, key: tuple[str, int], first: Run, second: Run) -> bool:
        """Whether the producer may not have learned of the first run, since it died.

        Its next process asks those who consumed before it gives recovered messages to others.
        """
        node_id = key[0].partition(":")[0]
        if first.start <= self.world.disks.powerless.get(node_id, -inf):
            return True  # the disk may have forgotten what consumers may have forgotten since it did not
        older, newer = sorted((first, second), key=lambda run: self._sender(key, run).began_at)
        sender = self._sender(key, newer)
        if self._sender(key, older) is sender or first.peer == second.peer:
            return False
        met_at = sender.met.get(older.peer, inf)
        sends = self.record.sends[key]
        given = [(when, whom) for when, whom, by in sends if by == sender.peer and whom != older.peer]
        sent_at = min(when for when, whom in given if whom == newer.peer)
        # Once it is given to somebody, who returns later only lets go of what it has not started: a run there goes on,
        # also beside those that follow if the new peer gives it back.
        return met_at > sent_at or (met_at > min(given)[0] and older.end > sent_at)

    def _sender(self, key: tuple[str, int], run: Run) -> Process:
        """Which life of the producer sent the copy that was run."""
        sent = [by for when, whom, by in self.record.sends[key] if whom == run.peer and when <= run.start]
        return next(process for process in self.world.supervisor.processes if process.peer == sent[-1])

    def count_death(self, process: Process, run: Run) -> None:
        """A message that kills does so for some time: no longer than it takes to be sure, unless its producer dies."""
        key = (run.stream, run.sequence)
        self.deaths[key] += 1
        node_id = run.stream.partition(":")[0]
        lives = sum(1 for life in self.world.supervisor.processes if life.address.node_id == node_id)
        # What the last cursor did not know of, and what happened while nobody was there, is not counted.
        most = DEATHS_TO_ISOLATE + MAX_ATTEMPTS + DEATHS_FORGOTTEN * (lives - 1)
        assert self.deaths[key] <= most, f"{key} has killed {self.deaths[key]} consumers"
        if process.role.spooled and process.address.node_id == node_id:
            # Each of these is counted, whenever it comes: the next life knows what this one may have had in hand.
            self.suicides.append(process)
            own = self.own_deaths[key] = self.own_deaths[key] + 1
            ends = lives - sum(1 for life in self.suicides if life.address.node_id == node_id)
            most = DEATHS_TO_ISOLATE + MAX_ATTEMPTS + DEATHS_FORGOTTEN * ends
            assert own <= most, f"{key} has killed its own node {own} times"

    def gave_up(self, engine: Engine, link: Link, *, proven: bool, died: bool) -> None:
        """An engine decided that a peer is gone."""
        peer = link.peer
        self.world.log(f"{engine.address.node_id} takes {peer} for gone, proven {proven}, died {died}")
        if not proven and not engine.parting.is_parting(link):
            self.record.excuse("given up", peer)
        living = any(p.peer == peer and p.alive for p in self.world.supervisor.processes)
        ours = f"{engine.address.node_id}:{engine.address.epoch}"
        parted = engine.parting.is_parting(link)
        if living and not proven and not parted:
            calm = min(self.record.calm_for(peer), self.record.calm_for(ours))
            assert calm < 12.0, f"{ours} gives {peer} up without a reason"
        if living and proven and died:
            refused = any(w in CLOSED_OUT and h in (peer, ours) for _, w, h in self.record.excuses)
            assert refused, f"{engine.address.node_id} takes {peer} for dead, which lives"
            if self.world.theme.lan:
                process = next(p for p in self.world.supervisor.processes if p.peer == peer)
                self.world.lan_watch.gave_up(engine, link, process)

    def sent(self, engine: Engine, stream: str, sequences: range, attempt: int, peer: str) -> None:
        """A DATA frame was made."""
        self.world.log(f"{stream} sends {sequences} attempt {attempt} to {peer}")
        by = f"{engine.address.node_id}:{engine.address.epoch}"
        if by != stream.rpartition(":")[0]:
            sender = next(process for process in self.world.supervisor.processes if process.peer == by)
            assert self.world.now >= sender.began_at + REUNION - 1e-6, f"{by} waits for nobody"
        paused = self.record.paused.get((peer, queue_of(stream)), Counter())  # nobody looks at that of another
        for sequence in sequences:
            paused[stream, sequence] += 1
            assert paused[stream, sequence] <= BOUNCES_MAX, f"{stream}/{sequence} goes to {peer} again and again"
        for sequence in sequences:
            assert (stream, sequence) not in self.record.unsure or by != stream.rpartition(":")[0], (
                f"{stream}/{sequence} is sent before it is stored"
            )
            assert self.world.now < self.record.expires.get((stream, sequence), inf), f"{stream}/{sequence} has expired"
            self.record.sends.setdefault((stream, sequence), []).append((self.world.now, peer, by))

    def ended(self, stream: str, sequences: range, how: str) -> None:
        """Messages ended at their producer, other than by an ack."""
        for sequence in sequences:
            expires = self.record.expires.get((stream, sequence), inf)
            if how == "expired":
                left = expires - self.world.now
                assert left < EARLY, f"{stream}/{sequence} expires {left:.3f} s early"
                self.record.expired.add((stream, sequence))
            else:
                assert how == "rejected" or self.world.now < expires, f"{stream}/{sequence} is a dead letter, {how}"

    def taken_over(self, dead: Process, since: float, *, near: bool) -> None:
        """What a process held goes to others within a second or so after its death, or a few between hosts."""
        for process in self.world.supervisor.living():
            if (process.network == dead.network) is not near:
                continue
            if self.record.calm_for(process.peer) > self.world.now - since + 0.5 and not process.leaving:
                for producer in process.producers.values():
                    held = producer.end.held_by(dead.peer)
                    assert not held, f"{process.peer} leaves {held} messages with {dead.peer}, which is dead"

    def met(self, engine: Engine, peer: str) -> None:
        """`peer` told this engine what it has."""
        ours = f"{engine.address.node_id}:{engine.address.epoch}"
        for process in self.world.supervisor.processes:
            if process.peer == ours:
                process.met.setdefault(peer, self.world.now)


class Listening(Machine):
    """Hears of each first INTEREST."""

    def __init__(self, engine: WatchedEngine) -> None:
        super().__init__()
        self._engine = engine

    def handle_interest(self, link: Link, interest: Interest, now: float, *, first: bool) -> None:
        if first:
            self._engine.world.witness.met(self._engine, link.peer)


class WatchedEngine(Engine):
    """The engine, with its verdicts reported to the world."""

    def __init__(self, world: World, *args: Any) -> None:
        self.world = world
        super().__init__(*args)
        self.machines.append(Listening(self))

    def _gone(self, link: Link, now: float, *, proven: bool, died: bool) -> None:
        self.world.witness.gave_up(self, link, proven=proven, died=died)
        super()._gone(link, now, proven=proven, died=died)

    def open_producer(self, *args: Any) -> OutgoingQueue:
        end: OutgoingQueue = super().open_producer(*args)
        put_in_flight = end.sent

        def sent(peer: str, run: inflight.Run) -> None:
            for stream, first, stop in end.numbering.names(run.first, run.stop):
                self.world.witness.sent(self, stream, range(first, stop), run.attempt, peer)
            put_in_flight(peer, run)

        finish, give_up = end._end, end._give_up

        def ended(how: str, run: inflight.Run) -> None:
            if how == "expired":
                for stream, first, stop in end.numbering.names(run.first, run.stop):
                    self.world.witness.ended(stream, range(first, stop), how)
            finish(how, run)  # type: ignore[arg-type]

        def given_up(run: inflight.Run, reason: str) -> None:
            for stream, first, stop in end.numbering.names(run.first, run.stop):
                self.world.witness.ended(stream, range(first, stop), reason)
            give_up(run, reason)

        end.sent = sent  # type: ignore[method-assign]
        if self.world.theme.pipeline:
            self.world.pipeline_watch.listen(end)
        if self.world.theme.expiring:
            end._end, end._give_up = ended, given_up  # type: ignore[method-assign]
        return end

    def _look_at(self, link: Link, now: float) -> None:
        hung = link.belief is Belief.HUNG
        before = self._held_by(link.peer)
        super()._look_at(link, now)
        if hung and self._held_by(link.peer) < before:
            self.world.record.excuse("backstop", link.peer)

    def _held_by(self, peer: str) -> int:
        return sum(end.held_by(peer) for end in self.producers.by_queue.values())
