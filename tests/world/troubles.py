"""The troubles of a world, and how they end."""

from __future__ import annotations

from errno import EIO, ENOSPC
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from tests.fabric.spool.disk import SHORT
from tests.world.disks import repair
from tests.world.lan_troubles import LanTroubles
from tests.world.operators import Operators
from tests.world.roles import Role

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.world import World

OPERATIONS = ("write", "sync", "create", "allocate", "truncate", "sync_folder", "rename", "unlink")


class Troubles:
    """What goes wrong, until it is over."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.between_hosts = LanTroubles(world)
        self.operators = Operators(world)
        self.healed = False
        """They are over."""

    def happen(self, kind: str) -> None:
        """Let one trouble happen now."""
        if self.healed:
            return
        living = [p for p in self.world.supervisor.living() if not p.leaving]
        if len(living) < 2:
            return
        victim, other = self.random.sample(living, 2)
        self.world.log(f"trouble: {kind} {victim.peer} {other.peer}")
        spooled = [process for process in living if process.drive is not None]
        match kind:
            case "relapse":
                if spooled:
                    self._relapse(self.random.choice(spooled).role, self.random.choice((1, 2, 3)))
            case "unheard":
                if keeping := [process for process in living if process.ledger_stores]:
                    self._unheard(self.random.choice(keeping))
            case "crash" | "outage" | "power" | "io" | "short" | "full" | "no graves" | "slow disk":
                if spooled:
                    self._trouble_disk(kind, self.random.choice(spooled))
            case "cut":
                self.world.network.cut_some(victim, other)
            case "flap":
                for after in (0.0, 0.02, 0.1, 0.4):
                    self.world.after(after, partial(self.world.network.cut_some, victim, other))
            case "kill" | "vanish" | "reborn" | "usurp":
                self.world.supervisor.end(victim, "vanished" if kind == "vanish" else "died")
                self.world.after(self.random.uniform(0.05, 3.0), partial(self.world.supervisor.again, victim, kind))
            case "leave":
                victim = victim.host_process or victim
                if len(living) > 2 and victim.alive:
                    victim.leave()
                    self.world.after(
                        self.random.uniform(0.05, 3.0),
                        partial(self.world.supervisor.again, victim, kind),
                    )
            case "pause":
                self.operators.pause(victim)
            case "purge":
                self.operators.purge(victim)
            case "stop":
                self._stop(victim, self.random.choice((0.3, 1.0, 3.0, 9.0)))
            case "late":
                self._stop(victim, self.random.uniform(0.5, 1.8), stuck=True)
            case "stall" | "refuse" | "one-way":
                pairs = [(victim.peer, other.peer)]
                if kind != "one-way":
                    pairs.append((other.peer, victim.peer))
                self.world.network.block(pairs, "refuse" if kind == "refuse" else "stall")
                if kind == "refuse":
                    self.world.record.excuse("refused", victim.peer)
                    self.world.record.excuse("refused", other.peer)
                    self.world.network.cut_some(victim, other, everything=True)
                duration = self.random.choice((0.2, 1.0, 3.0, 8.0))
                self.world.record.disturb(victim.peer, duration)
                self.world.record.disturb(other.peer, duration)
                self.world.after(duration, partial(self.world.network.heal, pairs))
            case _:
                self.between_hosts.happen(kind, victim, other)

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
                self.world.supervisor.end(victim, "vanished")
                self.world.after(random.uniform(0.05, 3.0), partial(self.world.supervisor.again, victim, "kill"))
            case "io":
                for operation in random.sample(OPERATIONS, random.choice((1, 1, 2, len(OPERATIONS)))):
                    platter.broken[operation] = random.choice((EIO, EIO, ENOSPC))
                self.world.after(duration, partial(repair, platter))
            case "short":
                for after in random.sample(range(1, 20), random.randrange(1, 6)):
                    platter.faults[platter.operations + after] = random.choice((SHORT, EIO, ENOSPC))
            case "full":
                used = sum(len(file.content) for file in platter.files.values())
                platter.space = used + random.choice((0, 0, 100, 1000))
                self.world.after(duration, partial(repair, platter))
            case "no graves":
                drive.no_graves_until = self.world.now + duration
                if random.random() < 0.5:
                    self.world.after(duration * random.random(), partial(self._strike_soon, victim))
            case "slow disk":
                victim.slow_until = self.world.now + duration

    def _relapse(self, role: Role, more: int) -> None:
        """A process dies, and the next ones soon after they began."""
        if role.last is not None and not role.last.leaving and not self.healed:
            self.world.supervisor.end(role.last, "died")
            again = self.world.now + self.random.uniform(0.05, 0.3)
            self.world.at(again, partial(self.world.supervisor.again, role.last, "kill"))
            if more:
                self.world.at(again + self.random.choice((0.2, 0.4, 1.2)), partial(self._relapse, role, more - 1))

    def _unheard(self, victim: Process) -> None:
        """What it says reaches nobody any more, and then it dies."""
        pairs = [(victim.peer, other.peer) for other in self.world.supervisor.living() if other is not victim]
        self.world.network.block(pairs, "stall")
        duration = self.random.uniform(0.05, 1.0)
        for peer in (victim.peer, *(other for _, other in pairs)):
            self.world.record.disturb(peer, duration)
        self.world.after(duration, partial(self._relapse, victim.role, 0))
        self.world.after(duration, partial(self.world.network.heal, pairs))

    def _strike_soon(self, process: Process) -> None:
        if process.drive is not None and process.alive and not self.healed:
            process.drive.steps_left = self.random.randrange(1, 10)

    def _stop(self, process: Process, duration: float, *, stuck: bool | None = None) -> None:
        for guest in process.group if process.role.shared is not None else []:
            if guest is not process and not guest.stopped:
                self._stop_one(guest, duration, stuck=stuck)
        self._stop_one(process, duration, stuck=stuck)

    def _stop_one(self, process: Process, duration: float, *, stuck: bool | None) -> None:
        if not process.stopped:
            self.world.record.disturb(process.peer, duration)
            process.stopped = True
            process.stuck = self.random.random() < 0.5 if stuck is None else stuck
            self.world.after(duration, partial(self._go_on, process))

    def sleep(self, process: Process) -> None:
        """It takes a moment until the process looks at its sockets for the first time."""
        if self.random.random() < 0.6:
            self._stop(process, self.random.uniform(0.1, 1.2), stuck=True)

    def _go_on(self, process: Process) -> None:
        if process.stopped:
            process.stopped = False
            process.turn_at = inf
            process.wake()

    def heal_all(self) -> None:
        """The troubles are over: every queue has somebody to consume it, everybody can reach everybody."""
        self.world.log("healing")
        self.world.lan.heal()
        self.world.network.heal(list(self.world.network.blocked))
        self.healed = True
        for platter in self.world.disks.platters.values():
            repair(platter)
        for process in self.world.supervisor.living():
            if process.drive is not None:
                process.drive.steps_left, process.drive.no_graves_until = 0, 0.0
        for role in self.world.supervisor.roles:
            if role.disk:
                self.world.supervisor.start(role)
        if self.world.shared is not None:
            self.world.shared.heal()
        for process in self.world.supervisor.living():
            self._go_on(process)
            for consumer in process.consumers.values():
                consumer.reopen()
                self.operators.resume(consumer)
        queues = {q for process in self.world.supervisor.living() for q in process.producers}
        if self.world.shared is not None:
            queues |= self.world.shared.queues
        for queue in sorted(queues):
            if not any(queue in p.consumers and not p.leaving for p in self.world.supervisor.living()):
                role = Role()
                role.consumes = [(queue, 8.0, 1, 1)]
                if self.world.theme.lan:
                    role.host = "h5-a"
                    role.gates = [self.world.lan.gate] if self.world.theme.gates[0] else [""]
                self.world.supervisor.start(role)
