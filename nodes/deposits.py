"""Messages on their way to the disk, for senders that must not touch it themselves.

Those are coroutines, whose loop must not wait for a disk, and all senders with `fsync=True`, who share one sync. They
hand over what they send and wait; the disk's thread appends it, syncs once for everybody, and lets them go on.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from peerfabric.envelope import Extra
from peerfabric.errors import SpoolError
from peerfabric.nodes.stores import Store
from peerfabric.stats import DeadLetter

if TYPE_CHECKING:
    from peerfabric.nodes.async_queues import AsyncProducer

SYNC_PATIENCE: Final = 0.7
"""Seconds after which senders learn that a sync fails; it is tried on."""


class Deposit:
    """Messages of one call, on their way to disk.

    first    sequence of the first, once they are written
    count    how many of them are written
    done     they are stored, and the node is responsible
    error    why they are not, perhaps not yet
    letter   the dead letter that is sent again by this
    """

    __slots__ = ("bodies", "codec", "count", "done", "error", "extras", "first", "letter", "written_at")

    def __init__(self, bodies: list[bytes], extras: dict[int, Extra] | None, letter: DeadLetter | None = None) -> None:
        self.bodies, self.extras, self.letter = bodies, extras, letter
        self.first = self.count = 0
        self.codec = letter.codec if letter is not None else None
        self.written_at = 0.0
        self.done = False
        self.error: SpoolError | None = None


class Deposits:
    """The deposits of one producer's handle, in order."""

    def __init__(self, handle: AsyncProducer[Any], store: Store) -> None:
        self._handle = handle
        self.kept_in = store
        self._lock = threading.Lock()
        self._coming: list[Deposit] = []
        self._written: list[Deposit] = []

    def add(self, deposit: Deposit) -> None:
        """`deposit` waits to be stored."""
        with self._lock:
            self._coming.append(deposit)

    def take_back(self, deposit: Deposit) -> bool:
        """Forget `deposit` if it was not written yet; whether it was not."""
        with self._lock:
            if deposit in self._coming:
                self._coming.remove(deposit)
                return True
            return False

    @property
    def idle(self) -> bool:
        return not self._coming and not self._written

    # Called by the disk's thread

    def store(self) -> bool:
        """Append what has come; whether something waits for its sync."""
        with self._lock:
            coming, self._coming = self._coming, []
        for deposit in coming:
            try:
                with self._handle.writing:
                    deposit.first, deposit.count = self._handle.write(deposit.bodies, deposit.extras, deposit.codec)
            except SpoolError as error:
                deposit.error = error
                if deposit.letter is not None:
                    self._handle.restore_letter(deposit.letter)
            else:
                deposit.written_at = time.monotonic()
                self._written.append(deposit)
        if coming:
            self._handle.changed()
        return bool(self._written)

    def stored(self, error: SpoolError | None) -> None:
        """What was written is synced, or not; then it stays here and is synced with what comes next."""
        if error is not None:
            for deposit in self._written:
                if time.monotonic() - deposit.written_at > SYNC_PATIENCE:
                    deposit.error = error
            self._handle.changed()
            return
        written, self._written = self._written, []
        for deposit in written:
            self._handle.deposited(deposit)
            deposit.error, deposit.done = None, True
        self._handle.changed()


__all__ = ["Deposit", "Deposits"]
