"""Shared spool folder of a node, at the edge: which of its slots is opened, and how."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from peerfabric.discovery.host import private_folder, runtime_folder
from peerfabric.discovery.remarks import remark
from peerfabric.errors import ConfigError, SpoolUnsafe
from peerfabric.nodes.epochs import epoch_counter
from peerfabric.nodes.io.sparing import SparingFiles
from peerfabric.nodes.io.waiting import clock
from peerfabric.spool import Spool
from peerfabric.spool.files import filesystem
from peerfabric.spool.folder import SLOTS, TAKING
from peerfabric.spool.slots import Slots, fabric_mark, shared_folder

if TYPE_CHECKING:
    from peerfabric.nodes.settings import Settings

PAUSE: Final = 0.002
"""Seconds between two tries of a start to get a lock that is held for milliseconds."""

OVER_NETWORK: Final = ("nfs", "cifs", "smb", "ceph", "gluster", "lustre", "afs", "9p", "fuse.gluster", "fuse.sshfs")
_PERHAPS: Final = ("virtiofs", "fuse")


class SharedSpool:
    """The folder that a node was given as `spool=`, for those who take a slot in it, or adopt one.

    Args:
        settings: With a spool.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.spool is not None
        self.folder = settings.spool
        self.fabric = fabric_mark(settings.fabric)
        self._settings = settings
        self._files = SparingFiles()
        self.slots = Slots(self._files, self.folder, settings.options.spool_slots, remark)

    def take(self, node_id: Callable[[int], str]) -> tuple[int, Spool]:
        """Open the slot of this process, which is made if need be; return its number, too.

        Args:
            node_id: The id of the node that a new slot becomes the spool of, by its number.

        Raises:
            ConfigError: The folder is a slot of another one.
            SpoolUnsafe: It is on a disk that other machines use, too, or not ours alone. Nothing was changed.
            SpoolLocked, SpoolFull, SpoolError: As `Slots.take`, or with one slot `Spool.open`, says.
        """
        alone = self._settings.options.spool_slots == 1
        self.check_place(alone=alone)
        name = self._settings.name
        if alone:
            return 0, self._open(self.folder, lambda: node_id(0), name, any_fabric=True, shrinks=False)

        def open_(number: int, folder: str) -> Spool:
            return self._open(folder, lambda: node_id(number), name, any_fabric=False, shrinks=number > 0)

        return self.slots.take(open_, moments)

    def adopt(self, number: int, name: str) -> Spool | None:
        """Open a free slot for its next life in this process; None if somebody else has it, or chooses one just now.

        Args:
            name: Of the node that had it, which stays in its sheet.

        Raises:
            OtherFabric: It has messages of another fabric. Nothing was changed.
            SpoolError: It cannot be opened. Nothing of it is lost.
        """

        def open_(number: int, folder: str) -> Spool:
            node_id = secrets.token_hex(16)
            return self._open(folder, node_id, name, any_fabric=False, shrinks=number > 0, adopted=True)

        return self.slots.open(number, open_)

    def _open(
        self,
        folder: str,
        node_id: str | Callable[[], str],
        name: str,
        *,
        any_fabric: bool,
        shrinks: bool,
        adopted: bool = False,
    ) -> Spool:
        settings = self._settings
        spool = Spool.open(
            folder,
            files=self._files,
            fsync=settings.fsync,
            counter_min=epoch_counter(),
            random_bits=secrets.randbits(20),
            node_id=node_id,
            limit_bytes=settings.options.spool_bytes,
            claims=str(private_folder(runtime_folder() / "~spools")),
            fabric=self.fabric,
            name=name,
            any_fabric=any_fabric,
            shrinks=shrinks,
            adopted=adopted,
            unix_ms=time.time_ns() // 1_000_000,
        )
        for warning in spool.warnings:
            remark(logging.WARNING, "%s", warning)
        return spool

    def check_place(self, *, alone: bool = False) -> None:
        """See that the folder can be shared, or used `alone`.

        Raises:
            ConfigError: It is a slot of another one.
            SpoolUnsafe: It is on a disk that other machines use, too.
        """
        if outer := slot_of(self.folder):
            raise ConfigError(f"spool={self.folder!r} is a slot of {outer}; give that folder")
        kind = filesystem(self.folder)
        shared = kind.startswith(OVER_NETWORK)
        if shared and not alone:
            problem = f"is on {kind}, where a lock of another machine is not seen in time"
            raise SpoolUnsafe(self.folder, problem, step="give a folder on a disk of this machine")
        if shared or kind.startswith(_PERHAPS):
            text = "%s is on %s: if other machines can use it too, two of them may send the same messages; %s"
            remark(logging.WARNING, text, self.folder, kind, "better give a folder on a disk of this machine")


def slot_of(folder: str) -> str:
    """The shared folder of which `folder` is a slot; empty: of none."""
    outer = shared_folder(folder)
    return outer if outer and (os.path.lexists(f"{outer}/node") or os.path.lexists(f"{outer}/{SLOTS}/{TAKING}")) else ""


def moments(seconds: float) -> Iterator[None]:
    """Now, and then every few milliseconds, for `seconds`."""
    ends_at = clock() + seconds
    yield
    while clock() < ends_at:
        time.sleep(PAUSE)
        yield
