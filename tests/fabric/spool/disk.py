"""A disk in memory whose operations can be made to fail, and whose power can be cut.

A file has what the page cache holds, and what every state could be that a loss of power may leave: each sector of 512
bytes as it was after any of the writes that were not synced. Names in a folder are durable once the folder is synced;
until then each change may have happened or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from errno import EACCES, EEXIST, EIO, ENOENT, ENOSPC, ENOTEMPTY
from random import Random
from typing import Final

from peerfabric.errors import SpoolLocked
from peerfabric.spool.files import Buffer, Place, Process

SECTOR: Final = 512
US: Final = Process(100, "boot", "1")
SHORT: Final = -1
"""For `Disk.faults`: a write takes only half of what it was given."""


@dataclass(eq=False)
class File:
    """One file, whatever it is called."""

    content: bytes = b""
    """What a running system reads."""
    states: list[bytes] = field(default_factory=lambda: [b""])
    """The durable content, and what it was after each change since."""
    doomed: bool = False
    """A sync failed: the kernel may have dropped those pages, and a later sync proves nothing of them."""

    def change(self, content: bytes) -> None:
        self.content = content
        self.states.append(content)

    def sync(self) -> None:
        if not self.doomed:
            self.states = [self.content]

    def after_power_loss(self, random: Random) -> bytes:
        """One of the contents that it may have then."""
        states = self.states
        mode = random.randrange(4)
        if len(states) == 1 or mode == 0:
            return states[0]
        if mode == 1:
            return states[-1]
        if mode == 2:
            return random.choice(states)
        size = len(random.choice(states))
        sectors = (random.choice(states)[at : at + SECTOR] for at in range(0, size, SECTOR))
        return b"".join(sector.ljust(SECTOR, b"\0") for sector in sectors)[:size]


class Disk:
    """An implementation of `Files`. Each change of the disk is one operation, counted from 1.

    Args:
        space: Bytes that files may have together; None: any number.
    """

    def __init__(self, *, space: int | None = None, process: Process = US) -> None:
        self.space = space
        self.faults: dict[int, int] = {}
        """By number of the operation: the errno with which it fails, or `SHORT`."""
        self.broken: dict[str, int] = {}
        """By kind of operation: the errno with which all of them fail."""
        self.lookup_faults: dict[int, int] = {}
        """The same for opening a file that is there and reading from it, which are counted by themselves."""
        self.lookups = 0
        self.trace: list[tuple[str, str]] = []
        """(kind, path) of every operation."""
        self.unreadable: set[tuple[str, int]] = set()
        """(path, sector) that cannot be read."""
        self.running = {process}
        self.unsafe: dict[str, Exception] = {}
        """Folders that `check_folder` refuses, and how."""
        self.out_of_reach: set[str] = set()
        """Paths that cannot be looked at."""
        self.elsewhere: list[File] = []
        """Files that were moved to somewhere else."""
        self._process = process
        self.files: dict[str, File] = {}
        self.folders: dict[str, Place] = {"": Place(1, 1)}
        self._places: dict[str, Place] = {}
        """Of every folder that there ever was."""
        self._inodes = 1
        self._durable: dict[str, File] = {}
        self._durable_folders: dict[str, Place] = dict(self.folders)
        self._changes: list[tuple[str, str, str, File | None]] = []
        """(folder, what, path, file) that are not synced: "add" or "remove"; or "rename", with `old` in `path`."""
        self._descriptors: dict[int, tuple[str, File]] = {}
        self._locks: dict[int, bool] = {}
        """Descriptor -> whether it is shared."""
        self._next = 3

    # Faults

    @property
    def operations(self) -> int:
        return len(self.trace)

    @property
    def open_count(self) -> int:
        """How many descriptors are open."""
        return len(self._descriptors)

    def _operate(self, kind: str, path: str) -> int:
        """Count an operation; fails if it is to fail, and says if it is to stay short."""
        self.trace.append((kind, path))
        fault = self.faults.get(self.operations, self.broken.get(kind, 0))
        if fault > 0:
            raise OSError(fault, f"operation {self.operations}", path)
        return fault

    def _look(self, path: str) -> None:
        """Count what changes nothing; fails if it is to fail."""
        self.lookups += 1
        fault = self.lookup_faults.get(self.lookups, 0)
        if fault > 0:
            raise OSError(fault, f"lookup {self.lookups}", path)

    def take_away(self, path: str, *, delete: bool) -> None:
        """Somebody deletes a folder or a file and all that is in it, or moves it to somewhere else."""
        for found in [other for other in self.files if other == path or other.startswith(f"{path}/")]:
            file = self.files.pop(found)
            if not delete:
                self.elsewhere.append(file)
        for folder in [other for other in self.folders if other == path or other.startswith(f"{path}/")]:
            del self.folders[folder]

    def kill(self) -> None:
        """The process dies: descriptors and locks are gone, what was written is there."""
        self._descriptors.clear()
        self._locks.clear()

    def lose_power(self, random: Random) -> Disk:
        """Another disk, in one of the states in which this one may be found then."""
        found = Disk()
        found._inodes = self._inodes
        found.folders = dict(self._durable_folders)
        names = dict(self._durable)
        keep = random.choice((0.0, 0.5, 1.0))
        for _, what, path, file in self._changes:
            if random.random() >= keep:
                continue
            if what == "folder":
                found.folders[path] = self._places[path]
            elif what == "remove folder":
                found.folders.pop(path, None)
            elif what == "remove":
                names.pop(path, None)
            elif what == "add" and file is not None:
                names[path] = file
            elif file is not None:
                old, _, new = path.partition("\0")
                names.pop(old, None)
                names[new] = file
        for path in sorted(found.folders):  # those above come first
            if path and self._parent(path) not in found.folders:
                del found.folders[path]
        for path, file in names.items():
            if self._parent(path) in found.folders:
                content = file.after_power_loss(random)
                found.files[path] = File(content, [content])
        found._durable = dict(found.files)
        found._durable_folders = dict(found.folders)
        return found

    def copy(self) -> Disk:
        """Another disk with the same content, all of it durable."""
        other = Disk()
        other.files = {path: File(file.content, [file.content]) for path, file in self.files.items()}
        other._durable = dict(other.files)
        other.folders = dict(self.folders)
        other._durable_folders = dict(self.folders)
        other._inodes = self._inodes
        return other

    # Files

    @staticmethod
    def _parent(path: str) -> str:
        return path.rpartition("/")[0]

    def make_folder(self, path: str) -> bool:
        if path in self.folders:
            return False
        if path in self.files:
            raise OSError(EEXIST, "exists", path)
        self._operate("make_folder", path)
        if self._parent(path) not in self.folders:
            self.make_folder(self._parent(path))
        self._inodes += 1
        self.folders[path] = self._places[path] = Place(1, self._inodes)
        self._changes.append((self._parent(path), "folder", path, None))
        return True

    def check_folder(self, path: str) -> Place:
        if path in self.unsafe:
            raise self.unsafe[path]
        if path not in self.folders:
            raise OSError(ENOENT, "no such folder", path)
        return self.folders[path]

    def names(self, path: str) -> list[str]:
        found = [name for name in (*self.files, *self.folders) if name and self._parent(name) == path]
        return sorted(name.rpartition("/")[2] for name in found)

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        if create:
            if path in self.files:
                raise OSError(EEXIST, "exists", path)
            if self._parent(path) not in self.folders:
                raise OSError(ENOENT, "no such folder", path)
            self._operate("create", path)
            self.files[path] = File()
            self._changes.append((self._parent(path), "add", path, self.files[path]))
        elif path not in self.files:
            raise OSError(ENOENT, "no such file", path)
        else:
            self._look(path)
        self._next += 1
        self._descriptors[self._next] = (path, self.files[path])
        return self._next

    def close(self, descriptor: int) -> None:
        del self._descriptors[descriptor]
        self._locks.pop(descriptor, None)

    def size(self, descriptor: int) -> int:
        return len(self._descriptors[descriptor][1].content)

    def is_at(self, descriptor: int, path: str) -> bool:
        if path in self.out_of_reach:
            raise OSError(EACCES, "out of reach", path)
        return self.files.get(path) is self._descriptors[descriptor][1]

    def has_name(self, descriptor: int) -> bool:
        return any(file is self._descriptors[descriptor][1] for file in (*self.files.values(), *self.elsewhere))

    def read(self, descriptor: int, offset: int, size: int) -> bytes:
        path, file = self._descriptors[descriptor]
        self._look(path)
        for at in range(offset // SECTOR, (offset + size + SECTOR - 1) // SECTOR) if self.unreadable else ():
            if (path, at) in self.unreadable:
                raise OSError(EIO, "cannot be read", path)
        return file.content[offset : offset + size]

    def write(self, descriptor: int, offset: int, parts: Sequence[Buffer]) -> int:
        path, file = self._descriptors[descriptor]
        short = self._operate("write", path) == SHORT
        data = b"".join(parts)
        if short:
            data = data[: len(data) // 2]
        room = self._room(file)
        if room is not None and offset + len(data) > room:
            data = data[: max(0, room - offset)]
            if not data:
                raise OSError(ENOSPC, "no space", path)
        old = file.content.ljust(offset, b"\0")
        file.change(old[:offset] + data + old[offset + len(data) :])
        return len(data)

    def _room(self, file: File) -> int | None:
        """How long `file` may become."""
        if self.space is None:
            return None
        others = sum(len(other.content) for other in self.files.values() if other is not file)
        return max(len(file.content), self.space - others)

    def allocate(self, descriptor: int, size: int) -> None:
        path, file = self._descriptors[descriptor]
        self._operate("allocate", path)
        room = self._room(file)
        if room is not None and size > room:
            raise OSError(ENOSPC, "no space", path)
        file.change(file.content.ljust(size, b"\0"))

    def truncate(self, descriptor: int, size: int) -> None:
        path, file = self._descriptors[descriptor]
        self._operate("truncate", path)
        file.change(file.content[:size].ljust(size, b"\0"))

    def sync(self, descriptor: int) -> None:
        path, file = self._descriptors[descriptor]
        try:
            self._operate("sync", path)
        except OSError:
            file.doomed = True
            raise
        file.sync()

    def sync_folder(self, path: str) -> None:
        path = path.rstrip("/")
        self._operate("sync_folder", path)
        rest = []
        for change in self._changes:
            folder, what, name, file = change
            if folder != path:
                rest.append(change)
            elif what == "folder":
                self._durable_folders[name] = self._places[name]
            elif what == "remove folder":
                self._durable_folders.pop(name, None)
            elif what == "remove":
                self._durable.pop(name, None)
            elif what == "add" and file is not None:
                self._durable[name] = file
            elif file is not None:
                old, _, new = name.partition("\0")
                self._durable.pop(old, None)
                self._durable[new] = file
        self._changes = rest

    def rename(self, old: str, new: str) -> None:
        if old not in self.files:
            raise OSError(ENOENT, "no such file", old)
        self._operate("rename", new)
        file = self.files[new] = self.files.pop(old)
        # In two folders it is one change too; the older folder's sync is not modelled apart.
        self._changes.append((self._parent(new), "rename", f"{old}\0{new}", file))

    def unlink(self, path: str) -> None:
        if path not in self.files:
            raise OSError(ENOENT, "no such file", path)
        self._operate("unlink", path)
        file = self.files.pop(path)
        self._changes.append((self._parent(path), "remove", path, file))

    def remove_folder(self, path: str) -> None:
        if path not in self.folders:
            raise OSError(ENOENT, "no such folder", path)
        if self.names(path):
            raise OSError(ENOTEMPTY, "not empty", path)
        self._operate("remove_folder", path)
        del self.folders[path]
        self._changes.append((self._parent(path), "remove folder", path, None))

    def lock(self, path: str, *, shared: bool = False) -> int:
        for other, theirs in self._locks.items():
            if self._descriptors[other][1] is self.files.get(path) and not (shared and theirs):
                if theirs:
                    raise SpoolLocked(self._parent(path), 0, "another process looks into it", is_read=True)
                raise SpoolLocked(self._parent(path), int(self._descriptors[other][1].content.strip() or 0))
        if path not in self.files and shared:
            raise OSError(ENOENT, "no such file", path)
        descriptor = self.open(path, create=path not in self.files)
        self._locks[descriptor] = shared
        return descriptor

    def unlock(self, descriptor: int) -> None:
        self.close(descriptor)

    def process(self) -> Process:
        return self._process

    def alive(self, process: Process) -> bool:
        return process in self.running
