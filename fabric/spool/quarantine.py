"""Where damaged bytes are set aside, never deleted."""

from __future__ import annotations

from typing import Final

from peerfabric.spool.files import Files
from peerfabric.spool.inventory import open_file

QUARANTINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one log. Damage beyond that is reported and not saved: a broken disk must not fill another one."""

_PART: Final = 1024 * 1024


class Quarantine:
    """The folder `quarantine/` of one log."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = f"{folder}/quarantine"

    def save(self, path: str, start: int, stop: int) -> str:
        """Copy bytes `[start, stop)` of the segment at `path`; why not, if not."""
        name = f"{path.rpartition('/')[2].removesuffix('.seg')}-{start:x}.bad"
        try:
            if name in self._files.names(self._folder):
                return ""
            if self._used() + stop - start > QUARANTINE_BYTES_MAX:
                return f"{self._folder}: is full; {stop - start:,} damaged bytes of {path} are not saved"
            self._files.make_folder(self._folder)
            self._copy(f"{self._folder}/{name}", path, start, stop)
        except OSError as error:
            return f"{self._folder}/{name}: not saved: {error}"
        return ""

    def take(self, path: str) -> None:
        """Move a whole segment here."""
        self._files.make_folder(self._folder)
        self._files.rename(path, f"{self._folder}/{path.rpartition('/')[2]}")

    def _copy(self, path: str, source: str, start: int, stop: int) -> None:
        original = open_file(self._files, source)
        try:
            descriptor = self._files.open(path, create=True)
            try:
                for at in range(start, stop, _PART):
                    data = self._files.read(original, at, min(_PART, stop - at))
                    if self._files.write(descriptor, at - start, [data]) < len(data):
                        raise OSError("short write")
                self._files.sync(descriptor)
            except OSError:
                self._files.unlink(path)
                raise
            finally:
                self._files.close(descriptor)
        finally:
            self._files.close(original)

    def _used(self) -> int:
        used = 0
        for name in self._files.names(self._folder):
            descriptor = self._files.open(f"{self._folder}/{name}", write=False)
            used += self._files.size(descriptor)
            self._files.close(descriptor)
        return used
