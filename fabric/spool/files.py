"""File system as the spool asks for it, and the real one behind that: no other module of the machines imports `os`.

All paths are text. Every call that fails raises `OSError` as the system gave it; `refusal` makes it one of ours.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from peerfabric.errors import SpoolError, SpoolFull, SpoolLocked, SpoolUnsafe

PORTABLE: Final = os.environ.get("PEERFABRIC_PORTABLE") == "1" or sys.platform != "linux"
"""Whether to do without the calls that only Linux has, or not every system; as in `nodes/platform.py`."""

Buffer = bytes | bytearray | memoryview

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when there is no space, on the disk or for this user."""


_ZEROS: Final = 1024 * 1024
_FOLLOW: Final = "give what it leads to"
_TRIES: Final = 3
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
"""How blanks, line ends and backslashes are written in `mountinfo`."""


class Process(NamedTuple):
    """One life of one process on one machine: a pid alone is used again, sooner or later."""

    pid: int
    boot: str
    started: str


class Place(NamedTuple):
    """Where a folder lies: two with the same place are the same folder."""

    device: int
    inode: int


class Files(Protocol):
    """What the spool asks of a file system."""

    def make_folder(self, path: str) -> bool:
        """Make a folder, 0700, with those above it, which are durable; False if it is there already."""

    def check_folder(self, path: str) -> Place:
        """Where it is. Raises `SpoolUnsafe` if it is no folder, a link, not ours, or writable by others."""

    def names(self, path: str) -> list[str]:
        """What is in a folder, sorted; nothing if there is no such folder."""

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        """A descriptor, closed on exec. With `create` the file must not exist yet. Links are not followed."""

    def close(self, descriptor: int) -> None: ...

    def size(self, descriptor: int) -> int: ...

    def is_at(self, descriptor: int, path: str) -> bool:
        """Whether the open file is the one at `path`: not if it was removed, moved or replaced meanwhile."""

    def has_name(self, descriptor: int) -> bool:
        """Whether the open file is in some folder still."""

    def read(self, descriptor: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""

    def write(self, descriptor: int, offset: int, parts: Sequence[Buffer]) -> int:
        """Write `parts` one behind the other and return how many bytes were taken, perhaps not all."""

    def allocate(self, descriptor: int, size: int) -> None:
        """Make the file `size` bytes long, with space on the disk for all of them."""

    def truncate(self, descriptor: int, size: int) -> None: ...

    def sync(self, descriptor: int) -> None:
        """Return when all that was written to the file is durable; after an error nothing is known of it."""

    def sync_folder(self, path: str) -> None:
        """Return when the names in the folder are durable."""

    def rename(self, old: str, new: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def remove_folder(self, path: str) -> None:
        """Remove a folder in which nothing is."""

    def lock(self, path: str, *, shared: bool = False) -> int:
        """A descriptor that holds the lock until it is closed.

        Raises `SpoolLocked` if somebody else has it: with the pid that its holder wrote, 0 if those only read.
        """

    def unlock(self, descriptor: int) -> None:
        """Give up a lock that nobody shall keep, not even a child that was forked meanwhile, and close it."""

    def process(self) -> Process:
        """Who we are."""

    def alive(self, process: Process) -> bool:
        """Whether that very process still runs on this machine."""


def refusal(error: OSError, path: str) -> SpoolError:
    """The error of ours for one of the system's."""
    if isinstance(error, SpoolError):
        return error
    if error.errno == errno.ELOOP:
        return SpoolUnsafe(path, "is a symbolic link", step=_FOLLOW)
    if error.errno in FULL:
        return SpoolFull(path, errno=error.errno)
    step = "raise `ulimit -n`, or close what is open" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
    return SpoolError(path, error.strerror or str(error), errno=error.errno, step=step)


def write(
    files: Files, descriptor: int, offset: int, parts: Sequence[Buffer], total: int
) -> tuple[int, OSError | None]:
    """Write all `total` bytes of `parts`; how many were written, and why not all."""
    done = 0
    try:
        done = files.write(descriptor, offset, parts)
        while done < total:
            # Short writes are rare, and mostly mean that the next one says why.
            more = files.write(descriptor, offset + done, [b"".join(parts)[done:]])
            if not more:
                raise OSError(errno.ENOSPC, "nothing more was written")
            done += more
    except OSError as error:
        return done, error
    return done, None


def discard(files: Files, path: str, descriptor: int) -> None:
    """Close and remove a file of which nothing is wanted, as far as that works."""
    try:
        files.close(descriptor)
    finally:
        try:
            files.unlink(path)
        except OSError:
            # What stays behind has no record that counts; the next start removes it.
            pass


class RealFiles:
    """The file system of the machine."""

    def make_folder(self, path: str) -> bool:
        for left in reversed(range(_TRIES)):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                return False
            except FileNotFoundError:
                if not left:
                    raise
                # Another start may make the same folders at this moment, or remove those that it has made in vain.
                above = os.path.dirname(os.path.abspath(path))
                if self.make_folder(above):
                    self.sync_folder(os.path.dirname(above))
            else:
                return True
        raise AssertionError("unreachable")

    def check_folder(self, path: str) -> Place:
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            raise SpoolUnsafe(path, "is a symbolic link", step=_FOLLOW)
        if not stat.S_ISDIR(found.st_mode):
            raise SpoolUnsafe(path, "is no folder", step="give a folder, or a path at which there is nothing yet")
        if found.st_uid != os.geteuid():
            problem = f"belongs to user {found.st_uid}, and we are {os.geteuid()}"
            raise SpoolUnsafe(path, problem, step="run as that user, choose a folder of your own, or chown it")
        if found.st_mode & 0o022:
            problem = f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
            raise SpoolUnsafe(path, problem, step="choose a folder that only this user can write to, or chmod 700 it")
        return Place(found.st_dev, found.st_ino)

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def is_at(self, descriptor: int, path: str) -> bool:
        try:
            there = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(there, os.fstat(descriptor))

    def has_name(self, descriptor: int) -> bool:
        return os.fstat(descriptor).st_nlink > 0

    def read(self, descriptor: int, offset: int, size: int) -> bytes:
        data = os.pread(descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        while data:
            size, offset = size - len(data), offset + len(data)
            data = os.pread(descriptor, size, offset) if size else b""
            parts.append(data)
        return b"".join(parts)

    def write(self, descriptor: int, offset: int, parts: Sequence[Buffer]) -> int:
        if PORTABLE:
            return os.pwrite(descriptor, b"".join(parts), offset)
        return os.pwritev(descriptor, parts, offset)

    def allocate(self, descriptor: int, size: int) -> None:
        if not PORTABLE:
            os.posix_fallocate(descriptor, 0, size)
            return
        # Zeros take space on every system, but what is a hole already keeps none.
        for at in range(self.size(descriptor), size, _ZEROS):
            zeros = bytes(min(_ZEROS, size - at))
            if os.pwrite(descriptor, zeros, at) < len(zeros):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        if PORTABLE:
            os.fsync(descriptor)
        else:
            os.fdatasync(descriptor)

    def sync_folder(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def remove_folder(self, path: str) -> None:
        os.rmdir(path)

    def lock(self, path: str, *, shared: bool = False) -> int:
        # A reader makes no file: a folder without a lock was never a spool.
        flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            only_read = False
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                # A first start that failed may have removed it meanwhile: then it is no file of the folder any more.
                held = self.has_name(descriptor)
            except BlockingIOError:
                held, only_read = False, not shared and _shares(descriptor)
            text = os.pread(descriptor, 20, 0).strip()
        except BaseException:
            os.close(descriptor)
            raise
        if held:
            return descriptor
        os.close(descriptor)
        folder = os.path.dirname(path)
        if only_read:
            # They write nothing, so the text is that of some process before them.
            raise SpoolLocked(folder, 0, "another process looks into it", is_read=True)
        pid = int(text) if text.isdigit() else 0
        raise SpoolLocked(folder, pid, ours=pid == os.getpid())

    def unlock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def process(self) -> Process:
        return Process(os.getpid(), _boot(), _started(os.getpid()))

    def alive(self, process: Process) -> bool:
        # A pid means something only within one boot; without /proc we cannot tell and say no.
        started = _started(process.pid)
        return bool(started) and started == process.started and process.boot == _boot()


def filesystem(path: str) -> str:
    """What kind of file system a path is on, whether it is there or not; empty if the system does not say."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return filesystem_of(os.path.realpath(path), file)
    except OSError:
        return ""


def filesystem_of(path: str, mountinfo: Iterable[str]) -> str:
    """The type of the file system at a real path, by the lines of `/proc/self/mountinfo`: that of the longest match.

    Not by the number of its device, which btrfs and overlays do not show there.
    """
    longest, found = -1, ""
    for line in mountinfo:
        fields, _, rest = line.partition(" - ")
        try:
            point, kind = fields.split(" ")[4], rest.split(" ")[0]
        except IndexError:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), point)
        inside = path == point or path.startswith(point if point.endswith("/") else f"{point}/")
        if inside and len(point) >= longest:  # of two at one place the later one hides the other
            longest, found = len(point), kind
    return found


def _shares(descriptor: int) -> bool:
    """Whether all who hold that lock hold it shared."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When that process started, in clock ticks since boot; empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of the program may contain anything; fields are counted from its last parenthesis on.
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""
