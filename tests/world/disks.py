"""The disks of a world, in memory, and how a process has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EIO
from functools import partial
from typing import TYPE_CHECKING, Any

from peerfabric.ranges import Ranges
from peerfabric.spool.files import Buffer, Place
from peerfabric.spool.files import Process as Owner
from peerfabric.spool.ledger import Ledger
from tests.fabric.spool.disk import Disk as Platter

if TYPE_CHECKING:
    from tests.world.process import Process
    from tests.world.record import Run
    from tests.world.roles import Role
    from tests.world.world import World

SEGMENT_BYTES = 2048
BOOKS = "/books"
"""The folder of the ledgers."""


class Killed(BaseException):
    """The process that asked something of its disk is no more."""


class Drive:
    """The disk of a node as one of its processes has it: an implementation of `Files` in which the process may die."""

    def __init__(self, world: World, platter: Platter) -> None:
        self.world, self.platter = world, platter
        self.process_of: Process | None = None
        self._open: set[int] = set()
        self.over = False
        """The process is dead, whatever still runs of it here."""
        self.steps_left = 0
        """Operations until the process dies in the middle of one; 0: it lives on."""
        self.with_power = False
        """Then the power fails, too."""
        self.no_graves_until = 0.0
        """Until then dead letters, and nothing else, cannot be written."""

    def _step(self, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        if self.over:
            raise Killed
        if self.steps_left:
            self.steps_left -= 1
            if not self.steps_left:
                how = self.world.random.randrange(3)
                try:
                    if how == 1:
                        act()
                    elif how == 2 and half is not None:
                        half()
                except OSError:
                    pass
                self.world.supervisor.struck(self)
                raise Killed
        return act()

    def let_go(self) -> None:
        """The process that has it is no more."""
        if not self.over:
            self.over = True
            for descriptor in self._open:
                self.platter.close(descriptor)

    def make_folder(self, path: str) -> bool:
        made: bool = self._step(partial(self.platter.make_folder, path))
        return made

    def check_folder(self, path: str) -> Place:
        return self.platter.check_folder(path)

    def names(self, path: str) -> list[str]:
        return self.platter.names(path)

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        descriptor: int = self._step(lambda: self._opened(self.platter.open(path, create=create, write=write)))
        return descriptor

    def _opened(self, descriptor: int) -> int:
        """It ends with the process, also if that dies just now."""
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        if not self.over:
            self._open.discard(descriptor)
            self.platter.close(descriptor)

    def size(self, descriptor: int) -> int:
        return self.platter.size(descriptor)

    def is_at(self, descriptor: int, path: str) -> bool:
        return self.platter.is_at(descriptor, path)

    def has_name(self, descriptor: int) -> bool:
        return self.platter.has_name(descriptor)

    def read(self, descriptor: int, offset: int, size: int) -> bytes:
        return self.platter.read(descriptor, offset, size)

    def write(self, descriptor: int, offset: int, parts: Sequence[Buffer]) -> int:
        whole = b"".join(parts)
        some = whole[: self.world.random.randrange(len(whole) + 1)] if self.steps_left == 1 else b""
        path, _ = self.platter._descriptors.get(descriptor, ("", None))
        if self.world.now < self.no_graves_until and "/dead/" in path:
            raise OSError(EIO, "refused", path)
        half = partial(self.platter.write, descriptor, offset, [some])
        done: int = self._step(partial(self.platter.write, descriptor, offset, parts), half)
        return done

    def allocate(self, descriptor: int, size: int) -> None:
        self._step(partial(self.platter.allocate, descriptor, size))

    def truncate(self, descriptor: int, size: int) -> None:
        self._step(partial(self.platter.truncate, descriptor, size))

    def sync(self, descriptor: int) -> None:
        process = self.process_of
        path, _ = self.platter._descriptors.get(descriptor, ("", None))
        busy = path.startswith(BOOKS) or (process and any(store.lock.is_ours() for store in process.stores.values()))
        if process is not None and not busy:
            process.pass_time()  # others write meanwhile
        self._step(partial(self.platter.sync, descriptor))

    def sync_folder(self, path: str) -> None:
        self._step(partial(self.platter.sync_folder, path))

    def rename(self, old: str, new: str) -> None:
        self._step(partial(self.platter.rename, old, new))

    def unlink(self, path: str) -> None:
        self._step(partial(self.platter.unlink, path))

    def remove_folder(self, path: str) -> None:
        self._step(partial(self.platter.remove_folder, path))

    def lock(self, path: str, *, shared: bool = False) -> int:
        descriptor: int = self._step(lambda: self._opened(self.platter.lock(path, shared=shared)))
        return descriptor

    def unlock(self, descriptor: int) -> None:
        self.close(descriptor)

    def process(self) -> Owner:
        return self.platter.process()

    def alive(self, process: Owner) -> bool:
        return self.platter.alive(process)


class Disks:
    """Every disk by its name, which is the node id of who has a spool on it, and when it lost its power."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.platters: dict[str, Platter] = {}
        self.powerless: dict[str, float] = {}
        """Disk -> when it last lost what was not synced."""
        self.outages: dict[str, float] = {}
        """Disk -> when it last lost its power, whether all was synced or not."""

    def furnish(self, role: Role) -> None:
        """Give this role the disk that outlives each of its processes."""
        role.disk = role.node_id or f"disk {len(self.platters)}"
        platter = self.platters[role.disk] = Platter()
        if role.ledger:
            platter.make_folder(BOOKS)
            platter.sync_folder("/")

    def in_ledger(self, run: Run) -> bool:
        """Whether the ledger of who ran it would remember it if everything ended now."""
        if run.ledger is None:
            return False
        disk, queue = run.ledger
        found = Ledger(self.platters[disk].copy(), f"{BOOKS}/{queue}", queue).entries().get(run.stream, Ranges())
        return run.sequence in found

    def lose_power(self, role: Role) -> None:
        """What was not synced is lost, or a part of it; only who has synced may rely on anything."""
        self.platters[role.disk] = self.platters[role.disk].lose_power(self.world.random)
        self.outages[role.disk] = self.world.now
        if not role.fsync:
            self.powerless[role.disk] = self.world.now
            record = self.world.record
            record.unsure.update(key for key in record.accepted if key[0].partition(":")[0] == role.disk)


def repair(platter: Platter) -> None:
    """This disk fails no more, and has room."""
    platter.broken.clear()
    platter.faults.clear()
    platter.space = None
