"""File system as nodes give it to their spools and ledgers: without its last descriptors."""

from __future__ import annotations

import errno

from peerfabric.nodes.io.descriptors import FILES_RESERVE, shortage, table
from peerfabric.spool.files import RealFiles


class SparingFiles(RealFiles):
    """Refuses to make a new file when few descriptors are left: libzmq would end the process with none."""

    def open(self, path: str, *, create: bool = False, write: bool = True) -> int:
        if create and not table.has(FILES_RESERVE):
            raise OSError(errno.EMFILE, shortage())
        return super().open(path, create=create, write=write)
