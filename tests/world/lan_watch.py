"""Promises between hosts: how long work is held, who may be given up, what may run twice, when links are up."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from peerfabric.link.link import Belief, Link
from peerfabric.link.liveness import FENCE

if TYPE_CHECKING:
    from peerfabric.engine import Engine
    from tests.world.process import Process
    from tests.world.record import Run
    from tests.world.world import World

EVERY: Final = 0.25
HELD_MAX: Final = 5.0
"""So long after the way to a peer was cut its work is with others, unless it accepts and is taken for hung."""
HUNG_MAX: Final = 30.0
"""So long a peer on another host is taken for hung."""
HEARD_WITHIN: Final = 2.6
"""Who was heard within this time is not dead, whatever refuses in its name."""
SLACK: Final = 0.6
"""Turns, timers and the period of the watch."""
ACK_UNDERWAY: Final = 0.6
"""The ack of what ended so long before a cut may have been lost in it."""
COPIES_MAX: Final = 6.0
"""So long both copies of one node may run: until they meet, and two seconds."""
REDIALLED_AFTER: Final = 1.0
"""So long after a key was taken from us all connections under it are made anew."""
REVOKED_AFTER: Final = 1.0
"""So long after a node was revoked nobody has a link with it."""


class LanWatch:
    """Looks at a world with several hosts every now and then."""

    def __init__(self, world: World) -> None:
        self.world, self.record, self.lan = world, world.record, world.lan
        self._cut_at: dict[tuple[str, str], float] = {}
        """(producer, consumer) -> since when messages held there, or results of them, do not get through."""
        self._hung_at: dict[tuple[str, str], float] = {}
        self._copied_at: dict[str, float] = {}

    def look(self) -> None:
        """Assert what must hold now, and look again soon."""
        for ours in self.world.supervisor.living():
            for theirs in self.world.supervisor.processes:
                if theirs is not ours:
                    self._look_at(ours, theirs)
            self._look_at_gates(ours)
        self._look_at_copies()
        self.world.after(EVERY, self.look)

    def _look_at(self, ours: Process, theirs: Process) -> None:
        pair, now = (ours.peer, theirs.peer), self.world.now
        held = sum(producer.end.held_by(theirs.peer) for producer in ours.producers.values())
        if ours.stopped or not held or self._in_touch(ours, theirs):
            self._cut_at[pair] = now
        cut_at = self._cut_at.setdefault(pair, now)
        link = ours.engine.links.by_peer.get(theirs.peer)
        hung = link is not None and link.belief is Belief.HUNG
        if not hung or ours.stopped:
            self._hung_at.pop(pair, None)
        elif ours.network != theirs.network:
            since = now - self._hung_at.setdefault(pair, now)
            assert since < HUNG_MAX + SLACK, f"{ours.peer} takes {theirs.peer} for hung for {since:.1f} s"
        # What was heard was answered, perhaps, and may have let it start something.
        heard_at = ours.heard.get(theirs.peer, -inf) - ours.offset
        if now > max(cut_at + HELD_MAX, heard_at + FENCE) + SLACK and not hung and not ours.leaving:
            raise AssertionError(f"{ours.peer} leaves {held} with {theirs.peer}, cut off for {now - cut_at:.1f} s")
        revoked_at = self.lan.revoked.get(theirs.address.node_id, now)
        if now - revoked_at > REVOKED_AFTER + EVERY and ours.address.node_id not in self.lan.revoked:
            assert link is None or not link.up or ours.stopped, f"{ours.peer} talks to {theirs.peer}, which is revoked"

    def _in_touch(self, a: Process, b: Process) -> bool:
        """Whether frames get through between the two in both directions, as far as the network is concerned."""
        if not b.alive or b.silent or b.stopped:
            return False
        if self.lan.between(a, b) or self.lan.between(b, a):
            return False
        return not (self.lan.on_wire(a, b) or self.lan.on_wire(b, a))

    def _look_at_gates(self, ours: Process) -> None:
        """No connection stays under a key that was taken from us."""
        if self.world.now - ours.gates_at > REDIALLED_AFTER and not ours.stopped and not ours.leaving:
            under = {line.gate for line in ours.lines.values() if line.up} - {*ours.gates, ""}
            assert not under, f"{ours.peer} still has connections under {under}"

    def _look_at_copies(self) -> None:
        living: dict[str, list[Process]] = {}
        for process in self.world.supervisor.living():
            living.setdefault(process.address.node_id, []).append(process)
        for node_id, processes in living.items():
            if len(processes) < 2 or any(not self._in_touch(processes[0], process) for process in processes[1:]):
                self._copied_at.pop(node_id, None)
                continue
            since = self.world.now - self._copied_at.setdefault(node_id, self.world.now)
            assert since < COPIES_MAX, f"{node_id} runs twice, as {[p.peer for p in processes]}"

    def gave_up(self, engine: Engine, link: Link, process: Process) -> None:
        """An engine takes a process for dead that lives."""
        ours = next(p for p in self.world.supervisor.processes if p.engine is engine)
        if process.network == ours.network:
            return
        if any(
            p.address.node_id == process.address.node_id and p is not process for p in self.world.supervisor.living()
        ):
            return  # a later copy of it has said hello
        silence = ours.clock() - ours.heard.get(process.peer, -1e9)
        assert silence >= HEARD_WITHIN - 1e-6, (
            f"{ours.peer} takes {process.peer} for dead, which lives and was heard {silence:.2f} s ago"
        )

    def check_linked(self) -> None:
        """Assert that all who have something in common have found each other."""
        assert not self.world.judge.half_up(), f"not in time: {self.world.judge.half_up()}"

    def judge_second(self, key: tuple[str, int], first: Run, second: Run) -> None:
        """A second run that is due to a cut: the first was running then, or started before its fence fell."""
        producer = key[0].rpartition(":")[0]
        if any(what == "copied" and who in (first.peer, producer) for _, what, who in self.record.excuses):
            return  # the hello of its later copy says that it is gone, though it may run until it hears of that
        for peer in (first.peer, producer):
            for began_at, over_at in self.record.disturbances.get(peer, ()):
                if first.end >= began_at - ACK_UNDERWAY and first.start <= began_at + HEARD_WITHIN and over_at:
                    return
        raise AssertionError(f"{key} runs twice without a cut that is to blame: {first} {second}")
