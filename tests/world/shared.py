"""A shared spool folder: processes that take slots in it, and adopt those of processes that are gone.

What takes and looks is `Slots`, what adopts is `Adoption`, a round of it each second; an adopted node is one more
engine with a drive of its own, which lives and dies with its host. Each life of a slot is one of the same node, whoever
lives it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from peerfabric.errors import SpoolError
from peerfabric.health import Finding
from peerfabric.nodes.storage.adoption import Adoption, Progress
from peerfabric.reports import Adopted, DeadLetter
from peerfabric.spool import Spool
from peerfabric.spool.folder import read_owner
from peerfabric.spool.orphans import Orphans
from peerfabric.spool.slots import Slots, SlotSight, fabric_mark, slot_folder
from tests.fabric.spool.disk import Disk as Platter
from tests.world.disks import SEGMENT_BYTES, Drive, Killed
from tests.world.roles import Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peerfabric.wire.frames import Address
    from tests.world.process import Process
    from tests.world.world import World

FOLDER = "/spool"
MARK = fabric_mark("world")
WORKERS_MAX = 4
LOOK_EVERY = 1.0
STRANDED_MAX = 40.0
"""Seconds for which, when all is healed, a slot may be free that has something, and nobody be told of it: some node has
run for a while by then, has looked, and has had the places for it."""


class Shared:
    """The folder, and all that was ever done with it."""

    def __init__(self, world: World, role: Role) -> None:
        self.world, self.random, self._plan = world, world.random, role
        role.fsync = self.random.random() < world.theme.fsync
        self.platter = world.disks.platters["shared"] = Platter()
        self.queues = {queue for queue, _ in role.produces}
        self.slots: dict[int, Role] = {}
        """Number -> the node that it is; its `last` is the newest process, which may be an adopted one."""
        self.adoptions: dict[Process, Adoption] = {}
        """Of each process that has taken a slot for itself."""
        self.told: dict[Process, tuple[Finding, ...]] = {}
        self.adopted_count = 0
        self._free_since: dict[int, float] = {}

    # Processes

    def workers(self) -> list[Process]:
        """Those that live and do not end, adopted nodes not included."""
        return [process for process in self.adoptions if process.alive and not process.leaving]

    def start(self) -> None:
        """Start a process that takes the lowest free slot."""
        world = self.world
        if len(self.workers()) >= (1 if world.troubles.healed else WORKERS_MAX):
            return
        drive = Drive(world, self.platter)
        if self.random.random() < 0.1 and not world.troubles.healed:
            drive.steps_left = self.random.randrange(1, 25)
        slots = Slots(drive, FOLDER, remark=lambda level, text: world.log(f"slots: {text}"))
        try:
            number, spool = slots.take(partial(self._open, drive), lambda seconds: (None,))
            process = self._begin(number, spool, drive, None)
        except (SpoolError, Killed) as error:
            world.log(f"a worker does not start: {type(error).__name__} {error}")
            drive.let_go()
            world.after(self.random.uniform(0.05, 0.5), self.start)
            return
        limit = self.random.choice((1, 2, 4))
        orphans = Orphans(MARK, limit, process.clock(), run_before=self.random.choice((0.0, 5.0)))
        self.adoptions[process] = Adoption(
            process.peer,
            slots,
            orphans,
            partial(Guest, self, process),
            process.engine.consumers_of,
            partial(self.told.__setitem__, process),
        )
        world.after(self.random.uniform(0.0, LOOK_EVERY), partial(self._look, process))

    def _open(self, drive: Drive, number: int, folder: str) -> Spool:
        return Spool.open(
            folder,
            files=drive,
            fsync=self._plan.fsync,
            random_bits=self.random.randrange(2**20),
            node_id=self.world.supervisor.new_name,
            segment_bytes=SEGMENT_BYTES,
            fabric=MARK,
            name="shop",
            any_fabric=False,
            shrinks=number > 0,
            unix_ms=0,
        )

    def _begin(self, number: int, spool: Spool, drive: Drive, host: Process | None) -> Process:
        role = self.slots.get(number)
        if role is None:
            role = self.slots[number] = Role()
            role.host, role.static, role.produces = self._plan.host, self._plan.static, self._plan.produces
            role.spooled, role.fsync, role.memory_bytes = True, self._plan.fsync, self._plan.memory_bytes
            role.disk, role.node_id, role.shared = "shared", spool.node_id, self
        assert role.last is None or not role.last.alive, f"slot {number} of {role.last.peer} is taken twice"
        process = self.world.supervisor.begin_in_slot(role, drive, spool, host)
        others = [p for p in self.world.supervisor.living() if p is not process]
        assert all(p.address.node_id != process.address.node_id for p in others), f"two are {process.address.node_id}"
        if host is not None:
            self.adopted_count += 1
            host.guests.append(process)
        return process

    def adopt(self, host: Process, number: int) -> Process | None:
        """Open a slot for its next life beside `host`; None if somebody else has it.

        Raises:
            Killed: The whole process has died of it.
        """
        drive = Drive(self.world, self.platter)
        if self.random.random() < 0.05 and not self.world.troubles.healed:
            drive.steps_left = self.random.randrange(1, 25)
        try:
            spool = Slots(drive, FOLDER).open(number, partial(self._open, drive))
            if spool is None:
                drive.let_go()
                return None
            return self._begin(number, spool, drive, host)
        except Killed:
            self.world.supervisor.end(host, "died")
            self.again()
            raise
        except SpoolError:
            drive.let_go()
            raise

    def again(self) -> None:
        """Somebody starts another one, sooner or later: perhaps in time to take the slot that has become free."""
        self.world.after(self.random.choice((0.05, 0.5, 3.0, 20.0)), self.start)

    def _look(self, host: Process) -> None:
        world = self.world
        if not host.alive or host.leaving:
            return
        if any(each.looking for each in host.group):  # what waits for its disk goes on only when this has returned
            world.after(0.01, partial(self._look, host))
            return
        try:
            if not host.stopped:
                self.adoptions[host].round(host.clock())
        except SpoolError as error:
            world.log(f"{host.peer} looks at no slots: {error}")
        except Killed:
            return
        self.adoptions[host].orphans.check()
        world.after(LOOK_EVERY, partial(self._look, host))

    # What must hold

    def heal(self) -> None:
        """The troubles are over: one process is there, or is to start; the others are no more, half of the time."""
        workers = self.workers()
        if self.random.random() < 0.5:
            for worker in workers[1:]:
                if self.random.random() < 0.5:
                    worker.leave()
                else:
                    self.world.supervisor.end(worker, "died")
        self.start()
        self._free_since.clear()
        self.world.after(LOOK_EVERY, self._watch)

    def _left_behind(self) -> list[int]:
        """The slots that nobody has, and that may have something."""
        found = []
        for number, role in self.slots.items():
            sheet = read_owner(self.platter, slot_folder(FOLDER, number))
            has_some = sheet is not None and (sheet.pid or sheet.left) and self._names(number)
            if has_some and (role.last is None or not role.last.alive):
                found.append(number)
        return found

    def _watch(self) -> None:
        """Every message that is not settled is in a slot that somebody has, will have soon, or is told of."""
        world = self.world
        self._free_since = {n: self._free_since.get(n, world.now) for n in self._left_behind()}
        ready = self.workers()
        for number, since in self._free_since.items():
            listed = any(f"slot {number} of" in found.what for worker in ready for found in self.told.get(worker, ()))
            free = world.now - since
            assert listed or free < STRANDED_MAX, f"slot {number} is free for {free:.0f} s with messages"
        world.after(LOOK_EVERY, self._watch)

    def restless(self) -> str:
        """What is not as it will be in the end; "" if nothing."""
        if not self.workers():
            return "no worker is there"
        for worker in self.workers():
            if any(guest.alive for guest in worker.guests):
                return f"{worker.peer} has adopted nodes"
        for number in self._left_behind():
            return f"slot {number} has something"
        return ""

    def _names(self, number: int) -> list[str]:
        return self.platter.names(f"{slot_folder(FOLDER, number)}/queues")

    def folder_of(self, role: Role) -> str:
        return slot_folder(FOLDER, next(number for number, other in self.slots.items() if other is role))

    def check(self) -> None:
        """At the end every slot says of itself that nothing is left, and there are no more than were ever needed."""
        for number in self.slots:
            sheet = read_owner(self.platter, slot_folder(FOLDER, number))
            assert sheet is not None
            held = self.slots[number].last
            assert held is not None
            assert held.alive or (sheet.pid == 0 and sheet.left == 0) or not held.role.produces, (
                f"slot {number}: {sheet}"
            )


class Guest:
    """An adopted node, as its host's adoption has it."""

    def __init__(self, shared: Shared, host: Process, sight: SlotSight) -> None:
        self._shared, self._host, self._number = shared, host, sight.number
        self._process: Process
        self._told: dict[str, Address] = {}
        self.node_id = ""
        self.queues: Sequence[str] = ()

    def start(self) -> bool:
        process = self._shared.adopt(self._host, self._number)
        if process is None:
            return False
        self._process, self.node_id = process, process.address.node_id
        self.queues = list(process.engine.producers.by_queue)
        return True

    def progress(self) -> Progress:
        ends = list(self._process.engine.producers.by_queue.values())
        return Progress(
            sum(end.unsettled_count for end in ends),
            sum(end.settled.numbers.total for end in ends),
            any(end.consumers for end in ends if end.unsettled_count),
            not self._process.alive,
        )

    def offer(self, consumers: Mapping[str, Address]) -> None:
        engine = self._process.engine
        for node_id, address in consumers.items():
            if self._told.get(node_id) != address:
                self._process.post(partial(_discovered, self._process, address))
        for node_id in self._told.keys() - consumers.keys():
            self._process.post(lambda now, node_id=node_id: engine.handle_lost(node_id, now))  # type: ignore[misc]
        self._told = dict(consumers)

    def letters(self, queue: str) -> list[DeadLetter]:
        return []

    def retry(self, letter: DeadLetter) -> bool:
        return False

    def drop(self, letter: DeadLetter) -> bool:
        return False

    def report(self) -> Adopted:
        return Adopted(slot=self._number, node_id=self.node_id, name="shop", since=0.0)

    def say_bye(self) -> None:
        self._process.leave()

    def end(self, timeout: float) -> int:
        """The thread of the adoption waits for this, and the others go on."""
        world, process = self._process.world, self._process
        process.leave()
        process.leave_by = world.now + timeout
        while process.alive:
            world.advance(world.now + 0.02)
        if not self._host.alive:
            raise Killed
        return sum(end.unsettled_count for end in process.engine.producers.by_queue.values())


def _discovered(process: Process, address: Address, now: float) -> None:
    process.engine.handle_discovered(address, now)
