"""The folder of a spool: made, signed, and unmade if a first start fails. FORMAT.md, section 1."""

from __future__ import annotations

from peerfabric.errors import SpoolLocked, SpoolUnsafe
from peerfabric.spool.budget import Budget
from peerfabric.spool.files import FULL, Files, Place
from peerfabric.spool.identity import BEGUN, Owner, overwrite_owner, write_owner


def make_folder(files: Files, path: str, outer: str) -> Place:
    """Have a folder, whose name in `outer` is durable before anything is in it.

    So one that is empty may have been made by a process that died before it could sync.
    """
    made = files.make_folder(path)
    place = files.check_folder(path)
    if made or not files.names(path):
        files.sync_folder(outer)
    return place


def outer_of(folder: str) -> str:
    return folder.rpartition("/")[0] or ("/" if folder.startswith("/") else ".")


def missing(files: Files, folder: str) -> list[str]:
    """The folders that have to be made for it, innermost first."""
    found: list[str] = []
    while folder != outer_of(folder):
        try:
            files.check_folder(folder)
        except FileNotFoundError:
            found.append(folder)
            folder = outer_of(folder)
        except SpoolUnsafe:
            break  # it is there; whether it will do is looked at later
        else:
            break
    return found


def remove(files: Files, folders: list[str]) -> None:
    """Remove folders that were made in vain."""
    for folder in folders:
        try:
            files.remove_folder(folder)
        except OSError:
            return  # it was not made after all, or somebody else begins there


def unmake(files: Files, folder: str) -> None:
    """Remove what a first start has made that did not come as far as the file `node`. Called with the lock."""
    try:
        found = files.names(folder)
        if set(found) <= BEGUN:
            for name in found:
                files.unlink(f"{folder}/{name}")
    except OSError:
        pass  # the next start takes what is left for its own


class Claim:
    """The lock of a node id on this machine, so that no copy of the folder runs beside it.

    Raises:
        SpoolLocked: Somebody has it.
        OSError: `claims` cannot be used.
    """

    def __init__(self, files: Files, claims: str, node_id: str, folder: str) -> None:
        self._files, self.path = files, f"{claims}/{node_id.encode().hex()}.lock"
        self.lock = -1
        """-1: there is no space for it, which keeps no spool from starting."""
        try:
            self.lock = files.lock(self.path)
        except SpoolLocked as error:
            who = f"process {error.pid}" if error.pid else "another process"
            raise SpoolLocked(folder, error.pid, f"is a copy of the spool that {who} uses") from None
        except OSError as error:
            if error.errno not in FULL:
                raise

    def sign(self, pid: int) -> None:
        """Say who has it."""
        if self.lock >= 0:
            sign(self._files, self.lock, pid)

    def release(self) -> None:
        """Give the id up, and leave nothing behind."""
        if self.lock >= 0:
            try:
                if self._files.is_at(self.lock, self.path):  # else it was cleared away, and is perhaps somebody else's
                    self._files.unlink(self.path)
            except OSError:
                pass  # a file of this name that nobody has locked is in nobody's way
        self.abandon()

    def abandon(self) -> None:
        """Let go of the descriptor only, as in a forked child."""
        lock, self.lock = self.lock, -1
        if lock >= 0:
            self._files.close(lock)


def sign(files: Files, lock: int, pid: int) -> None:
    """Say in the lock who has it: for people, so a disk without space for that is none of our business."""
    text = b"%d\n" % pid
    try:
        if files.write(lock, 0, [text]) == len(text):
            files.truncate(lock, len(text))
            return
    except OSError as error:
        if error.errno not in FULL:
            raise
    files.truncate(lock, 0)


def put_owner(files: Files, folder: str, owner: Owner, budget: Budget) -> None:
    """Replace `node`, on a full disk with space of the spare; if nothing is left of that, where it is.

    Raises:
        OSError: The disk refused; or there is no space, and no `node` yet.
    """
    try:
        budget.with_spare(lambda: write_owner(files, folder, owner))
    except OSError as error:
        if error.errno not in FULL:
            raise
        try:
            overwrite_owner(files, folder, owner)
        except FileNotFoundError:
            raise error from None
