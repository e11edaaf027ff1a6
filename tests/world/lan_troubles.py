"""Troubles between hosts: cables, firewalls, addresses, keys and copies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tests.world.liar import Liar

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.world import World

DURATIONS = (0.1, 1.0, 3.0, 8.0, 12.0, 20.0)


class LanTroubles:
    """What goes wrong between hosts, until all is healed."""

    def __init__(self, world: World) -> None:
        self.world, self.random, self.lan = world, world.random, world.lan
        self.liar = Liar(world)
        self._moved_at = -100.0
        self._rotating = False

    def happen(self, kind: str, victim: Process, other: Process) -> None:
        """Let one of them happen now."""
        duration = self.random.choice(DURATIONS)
        network = victim.network
        match kind:
            case "cable":
                self._disturb_all(duration)
                self.lan.block_host(network, "stall", duration)
            case "deaf":
                self._disturb_all(duration)
                self.lan.block_host(network, "stall", duration, outward=False)
            case "mute":
                self._disturb_all(duration)
                self.lan.block_host(network, "stall", duration, inward=False)
            case "flapping":
                times = self.random.randrange(2, 8)
                for n in range(times):
                    self.world.after(4.0 * n, partial(self._flap, network))
            case "wire":
                self._disturb(victim, other, duration)
                self.lan.block_wires([(victim.peer, other.peer)], "stall", duration)
            case "reject wire":
                self._disturb(victim, other, duration)
                self._refuse(victim, other)
                self.lan.block_wires([(victim.peer, other.peer)], "refuse", duration)
                self.world.network.reset(victim, other)
            case "reject":
                self._reject(network, duration)
            case "move":
                if self.world.now > self._moved_at + 6.0:
                    self._moved_at = self.world.now
                    self._disturb_all(2.0)
                    self.lan.move(network)
            case "lose host":
                self._lose_host(network)
            case "rotate":
                self._rotate()
            case "revoke":
                self._revoke(victim)
            case "copy":
                self._copy(victim)
            case "rumour":
                self._rumour(victim, other)
            case "lie":
                self.liar.lie(victim, other)

    def _disturb(self, a: Process, b: Process, duration: float) -> None:
        for process in (a, b):
            self.world.record.disturb(process.peer, duration)

    def _disturb_all(self, duration: float) -> None:
        for process in self.world.supervisor.living():
            self.world.record.disturb(process.peer, duration)

    def _refuse(self, a: Process, b: Process) -> None:
        self.world.record.excuse("refused", a.peer)
        self.world.record.excuse("refused", b.peer)

    def _flap(self, network: str) -> None:
        if not self.world.troubles.healed:
            self._disturb_all(2.0)
            self.lan.block_host(network, "stall", 2.0)

    def _reject(self, network: str, duration: float) -> None:
        """The firewall of a host answers in the name of those who live behind it."""
        living = self.world.supervisor.living()
        self._disturb_all(duration)
        self.lan.block_host(network, "refuse", duration, outward=self.random.random() < 0.5)
        for a in living:
            for b in living:
                if network in (a.network, b.network) and self.lan.between(a, b):
                    self._refuse(a, b)
                    self.world.network.cut_some(a, b, everything=True)

    def _lose_host(self, network: str) -> None:
        """A host vanishes with all its processes; somebody else may get its address, or it comes back."""
        victims = [p for p in self.world.supervisor.living() if p.network == network]
        hosts = {p.network for p in self.world.supervisor.living()}
        if len(hosts) < 2:
            return
        accepts = self.random.random() < 0.5
        elsewhere = self.random.choice(sorted(hosts - {network}))
        for victim in victims:
            self.world.supervisor.end(victim, "vanished")
            if accepts:
                self.world.after(self.random.choice((0.5, 1.0, 3.0)), partial(self.lan.usurp, victim))
            victim.role.host = f"{elsewhere}-a"
            self.world.after(self.random.uniform(0.05, 5.0), partial(self.world.supervisor.again, victim, "kill"))

    def _rotate(self) -> None:
        """One secret is replaced by another on all nodes, without a restart."""
        if self._rotating or self.lan.closing_gates():
            return
        self._rotating = True
        first, last = 0.0, 0.0
        for both in (True, False):
            for process in self.world.supervisor.living():
                after = first + self.random.uniform(0.1, 2.0)
                last = max(last, after)
                self.world.after(after, partial(self._change_gates, process, both=both))
            first = last + 0.5
        for role in self.world.supervisor.roles:
            role.gates = ["k1", "k2"]
        self.world.after(first, self._rotated)

    def _rotated(self) -> None:
        self._rotating = False
        self.lan.rotated()

    def _change_gates(self, process: Process, *, both: bool) -> None:
        if process.alive and not process.leaving:
            new = "k2" if self.lan.gate == "k1" else "k1"
            process.change_gates([self.lan.gate, new] if both else [new])

    def _revoke(self, victim: Process) -> None:
        if self.lan.revoked:
            return
        self.world.record.excuse("revoked", victim.peer)
        self._disturb_all(3.0)
        self.lan.revoke(victim.address.node_id)
        self.world.after(self.random.choice((0.5, 3.0, 8.0)), self.lan.readmit)

    def _rumour(self, victim: Process, other: Process) -> None:
        """Discovery tells something false: a later life of a node, or other endpoints of this one."""
        address = other.address
        if self.random.random() < 0.5:
            address = msgspec.structs.replace(address, epoch=address.epoch + (1 << 20))
        if self.random.random() < 0.7:
            address = msgspec.structs.replace(address, inbox=["tcp://10.8.0.250:7700"], version=address.version + 1)
        self.world.log(f"discovery tells {victim.peer} of {address.node_id}:{address.epoch} at {address.inbox}")
        victim.post(lambda now: victim.engine.handle_discovered(address, now))

    def _copy(self, victim: Process) -> None:
        """The key of a node was copied to another host, and somebody starts the copy."""
        if any(p is not victim and p.address.node_id == victim.address.node_id for p in self.world.supervisor.living()):
            return
        self.world.record.excuse("copied", victim.peer)
        for after in (0.0, 1.0):  # until those who work with it have met the copy
            self.world.after(after, partial(self.world.record.disturb, victim.peer, 6.0))
        self.world.supervisor.copy(victim)
