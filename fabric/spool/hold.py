"""The lock of a spool or a ledger that is in use, and whether what it locks is still in its place.

People and cleaners of temporary files remove, move and replace what a process has open. It can go on to write there as
if nothing had happened, into files that have no name any more, or beside somebody else who has what is there now.
"""

from __future__ import annotations

from errno import ENOENT

from peerfabric.errors import SpoolError, SpoolUnsafe
from peerfabric.spool.files import Files, Place, refusal


class Hold:
    """Our lock on a spool's folder. Whoever is about to make or change something in there checks it first.

    Args:
        folder: Where `lock` was taken, in the file of that name.
        place: Where the folder lies.
    """

    def __init__(self, files: Files, folder: str, place: Place, lock: int) -> None:
        self._files, self._folder, self._place, self._lock = files, folder, place, lock

    def check(self) -> None:
        """See that the folder is the one that we have locked.

        Raises:
            SpoolError: It was removed, moved or replaced, or it cannot be looked at.
        """
        try:
            if self._files.is_at(self._lock, f"{self._folder}/lock"):
                return
        except OSError as error:
            raise refusal(error, self._folder) from error
        if self.is_deleted():
            step = "what is still in memory is delivered, all else is lost: close this node and start again"
            raise SpoolError(self._folder, "this spool was deleted while in use", errno=ENOENT, step=step)
        problem = "this spool was moved or replaced while in use, or its lock was removed"
        step = "close this node, put back what it had, and start again"
        raise SpoolError(self._folder, problem, errno=ENOENT, step=step)

    def is_deleted(self) -> bool:
        """Whether nothing is left of the folder, for all that we can see: no later life will find anything in it."""
        if self._files.has_name(self._lock):
            return False
        try:
            return self._files.check_folder(self._folder) != self._place
        except (FileNotFoundError, SpoolUnsafe):
            return True
        except OSError:
            return False


def check_file(files: Files, descriptor: int, path: str, step: str) -> None:
    """See that an open file is still the one at `path`.

    Raises:
        SpoolError: It was removed, moved or replaced. `step` says what to do then.
        OSError: It cannot be looked at.
    """
    if not files.is_at(descriptor, path):
        raise SpoolError(path, "was removed, moved or replaced while in use", errno=ENOENT, step=step)
