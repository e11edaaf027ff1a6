"""Who starts processes, ends them, and starts the next ones."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from peerfabric.errors import SpoolError
from peerfabric.spool import Spool
from peerfabric.wire.frames import RAW, Address
from tests.world.consumer import Consumer
from tests.world.disks import SEGMENT_BYTES, Drive, Killed
from tests.world.process import Process
from tests.world.producer import Producer
from tests.world.recovery import open_ledger, open_stores
from tests.world.roles import Role
from tests.world.services import Services

TAKEN_OVER_AFTER, TAKEN_OVER_AFAR_AFTER = 1.5, 4.5
"""Seconds until nobody leaves messages with a process that was killed, on its own host and on others: to prove a death
takes longer between hosts, where a firewall may refuse in the name of the living."""

if TYPE_CHECKING:
    from tests.world.world import World


class Supervisor:
    """All processes that ever were, and what they are there for."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.roles: list[Role] = []
        self.processes: list[Process] = []
        self._names = count(1)

    def start(self, role: Role, *, like: Process | None = None, at: Process | None = None) -> None:
        """Start a process. `like`: the next life of that one; `at`: somebody else at the same endpoints."""
        if not role.spooled and not role.ledger:
            self._begin(role, like, at, None, None)
            return
        if role.last is not None and role.last.alive:
            return
        if not role.disk:
            role.node_id = f"n{next(self._names)}" if role.spooled else ""
            self.world.disks.furnish(role)
        drive = Drive(self.world, self.world.disks.platters[role.disk])
        if self.random.random() < 0.1 and self.world.theme.faults and not self.world.troubles.healed:
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
            self.world.log(f"{role.disk} does not start: {type(error).__name__} {error}")
            drive.let_go()
            self.world.after(self.random.uniform(0.05, 0.5), partial(self.start, role))

    def new_name(self) -> str:
        """The id of a node that there never was."""
        return f"n{next(self._names)}"

    def begin_in_slot(self, role: Role, drive: Drive, spool: Spool, host: Process | None) -> Process:
        """Begin the next life of the node that a slot belongs to; `host` has adopted it."""
        self._begin(role, role.last, None, drive, spool, host)
        assert role.last is not None
        return role.last

    def _begin(
        self,
        role: Role,
        like: Process | None,
        at: Process | None,
        drive: Drive | None,
        spool: Spool | None,
        host: Process | None = None,
    ) -> None:
        if spool is not None:
            assert spool.node_id == role.node_id
            assert role.last is None or spool.epoch > role.last.address.epoch
        port = self.world.lan.free_port(role.host) if self.world.theme.lan else 0
        if like is not None:
            epoch = ((like.address.epoch >> 20) + 1 << 20) + self.random.randrange(2**20) if spool is None else 0
            address = msgspec.structs.replace(like.address, epoch=spool.epoch if spool is not None else epoch)
            if self.random.random() < 0.5 and not self.world.theme.lan:
                inbox, outbox = self.world.network.new_endpoints(role)
                address = msgspec.structs.replace(address, inbox=inbox, outbox=outbox)
        else:
            name = role.node_id or f"n{next(self._names)}"
            inbox, outbox = (
                (at.address.inbox, at.address.outbox) if at is not None else self.world.network.new_endpoints(role)
            )
            epoch = spool.epoch if spool is not None else (1000 << 20) + self.random.randrange(2**20)
            address = Address(name, epoch, name, role.host, inbox, outbox)
        if self.world.theme.lan:
            inbox, outbox = self.world.lan.endpoints(role, role.host, port, role.gates)
            key = address.node_id.encode().ljust(32, b".") if role.gates != [""] else b""
            address = msgspec.structs.replace(
                address, host=role.host, inbox=inbox, outbox=outbox, outbox_key=key, version=0
            )
        process = Process(self.world, address, role, port)
        process.host_process = host
        if like is not None and like.silent:
            # Who still waits for the last life may give this one up with it.
            self.world.record.disturb(process.peer, 5.0)
        if drive is not None:
            process.drive, drive.process_of = drive, process
            if spool is not None:
                open_stores(process, spool)
            if role.ledger:
                process.ledger_stores = {queue: open_ledger(process, drive, queue) for queue, *_ in role.consumes}
            role.last = process
        self.processes.append(process)
        self.world.network.listen(process)
        for queue, codec in role.produces:
            process.producers[queue] = Producer(process, queue, codec)
            process.producers[queue].closed = host is not None
        for queue, lease, takers, batch in role.consumes:
            process.consumers[queue] = Consumer(process, queue, lease, takers, batch)
        if self.world.theme.calls:
            process.services = Services(process, role.serves)
        for topic in role.publishes:
            process.engine.open_publisher(topic, RAW, process.clock())
        for pattern in role.subscribes:
            process.engine.open_subscriber(pattern, 2**20, process.clock())
        process.wake()
        if self.world.theme.sleepy and not self.world.troubles.healed:
            self.world.troubles.sleep(process)
        if process.disk is not None:
            process.look()
        if host is None:
            self._introduce(process)
        shown = {key: value for key, value in vars(role).items() if key not in ("last", "marks", "shared")}
        self.world.log(f"start {process.peer} {shown}")

    def _introduce(self, process: Process) -> None:
        """Discovery tells the two about each other, sooner or later, in some order."""
        for other in self.living():
            if other is not process and other.host_process is None:
                for a, b in ((process, other), (other, process)):
                    if not self._hears_of(a, b):
                        continue
                    if a.role.static and self.random.random() < 0.7:
                        endpoint = self.world.lan.at_lan(b) if self.world.theme.lan else b.address.inbox[-1]
                        find: Callable[[float], None] = partial(a.engine.handle_candidate, endpoint)
                    else:
                        find = partial(a.engine.handle_discovered, b.address)
                    self.world.after(self.random.uniform(0, 0.3), partial(a.post, find))

    def _hears_of(self, a: Process, b: Process) -> bool:
        """Whether discovery tells `a` of `b`; between hosts not always in both directions."""
        if not self.world.theme.lan or self.world.troubles.healed:
            return True
        if a.address.node_id == b.address.node_id:
            return self.random.random() < 0.3
        return not self.world.theme.sleepy or a.role.static or not b.role.static

    def copy(self, victim: Process) -> None:
        """Start the same node once more, on another host, as its next life."""
        role = copy(victim.role)
        role.host = f"{self.random.choice(('h7', 'h8'))}-a"
        self.start(role, like=victim)

    def announce(self, process: Process) -> None:
        """Discovery tells some of the others that the process is reached elsewhere, sooner or later."""
        for other in self.living():
            if other is not process and other.host_process is None and self.random.random() < 0.5:
                address = process.address
                self.world.after(
                    self.random.uniform(0.0, 2.0),
                    partial(other.post, partial(_discovered, other, address)),
                )

    def announce_all(self) -> None:
        """Discovery tells everybody of everybody."""
        for process in self.living():
            for other in self.living():
                if other is not process:
                    other.post(partial(_discovered, other, process.address))

    def living(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    def end(self, process: Process, how: str) -> None:
        """The process ends: "died" (its host lives), "vanished" (with its host) or "left" (in order)."""
        for each in [process] if how == "left" else process.group:
            self._end(each, how)

    def _end(self, process: Process, how: str) -> None:
        if not process.alive:
            return
        process.alive, process.ended_at = False, self.world.now
        record = self.world.record
        if process.drive is not None:
            if how == "vanished":
                self.world.disks.lose_power(process.role)
            if how != "left":
                record.unsure.update(key for key in record.volatile if key[0].startswith(f"{process.peer}:"))
            process.drive.let_go()
        process.left = how == "left"
        process.silent = how == "vanished"
        self.world.log(f"{process.peer} {how}")
        record.end_runs(process.peer)
        if how != "left" or process.disk is not None:
            record.excuse(how, process.peer)
        self.world.network.close(process)
        if how == "died":
            for near in (True, False):
                after = TAKEN_OVER_AFTER if near else TAKEN_OVER_AFAR_AFTER
                self.world.after(after, partial(self.world.witness.taken_over, process, self.world.now, near=near))
        if self.random.random() < 0.7 or how == "left":
            self.world.after(self.random.uniform(0.1, 5.0), partial(self._lost, process))

    def _lost(self, process: Process) -> None:
        for other in self.living():
            if not any(p.alive and p.address.node_id == process.address.node_id for p in self.processes):
                other.post(lambda now, other=other: other.engine.handle_lost(process.address.node_id, now))  # type: ignore[misc]

    def struck(self, drive: Drive) -> None:
        """A process died within an operation of its disk."""
        process = drive.process_of
        if process is None:
            drive.let_go()
            return
        self.world.log(f"{process.peer} is struck within {drive.platter.trace[-1:]}")
        self.end(process, "vanished" if drive.with_power else "died")
        self.world.after(self.random.uniform(0.05, 3.0), partial(self.again, process, "kill"))

    def again(self, victim: Process, kind: str) -> None:
        """A supervisor starts the next one."""
        if victim.role.shared is not None:
            victim.role.shared.again()
            return
        if self.world.troubles.healed and not victim.role.spooled:
            return
        if kind == "leave" and victim.alive:
            self.world.after(0.5, partial(self.again, victim, kind))
            return
        like = victim if kind == "reborn" or victim.role.spooled else None
        self.start(victim.role, like=like, at=victim if kind == "usurp" and like is None else None)

    def supervise(self) -> None:
        """Start a consumer again some time after it died, until the poison is used up."""
        if self.world.troubles.healed and self.world.now > 100:
            return
        for process in list(self.processes):
            if not process.alive and (process.role.consumes or process.role.serves) and not process.left:
                process.left = True
                self.world.after(self.random.uniform(0.05, 0.4), partial(self.start, process.role))
        self.world.after(0.1, self.supervise)


def _discovered(process: Process, address: Address, now: float) -> None:
    process.engine.handle_discovered(address, now)
