"""Deposits: messages on their way to the disk, for senders that must not touch it themselves.

Those are coroutines, whose loop must not wait for a disk, and all senders with `fsync=True`, who share one sync. They
hand over what they send and wait; the disk's thread appends it, syncs once for everybody, and lets them go on.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from peerfabric.discovery.locks import Lock
from peerfabric.discovery.log import log as _log
from peerfabric.errors import SpoolError
from peerfabric.queue.runs import Kind
from peerfabric.reports import DeadLetter
from peerfabric.wire.frames import Extra

if TYPE_CHECKING:
    from peerfabric.nodes.storage.store import Store

SYNC_PATIENCE: Final = 0.7
"""Seconds after which senders learn that a sync fails; it is tried on."""


class Deposit:
    """Messages of one call, on their way to disk.

    first       sequence of the first, once they are written
    count       how many of them are written
    tried_at    when that was tried; 0: not yet
    done        they are stored, and the node is responsible
    error       why they are not, perhaps not yet
    letter      the dead letter that is sent again by this
    """

    __slots__ = ("bodies", "codec", "count", "done", "error", "extras", "first", "kind", "letter", "tried_at")

    def __init__(
        self,
        bodies: list[bytes],
        extras: dict[int, Extra] | None,
        letter: DeadLetter | None = None,
        kind: Kind | None = None,
    ) -> None:
        self.bodies, self.extras, self.letter, self.kind = bodies, extras, letter, kind
        self.first = self.count = 0
        self.codec = letter.codec if letter is not None else None
        self.tried_at = 0.0
        self.done = False
        self.error: Exception | None = None


class Keeping(Protocol):
    """The outbox whose messages these are."""

    queue: str
    writing: Lock

    def keep_in_memory(self, deposit: Deposit) -> bool: ...
    def write(self, deposit: Deposit) -> None: ...
    def not_retried(self, letter: DeadLetter, error: Exception) -> None: ...
    def changed(self) -> None: ...
    def deposited(self, deposit: Deposit) -> None: ...
    def hand_in(self, deposit: Deposit) -> None: ...


class Deposits:
    """The deposits of one producer's handle, in order.

    coming  ──the disk's thread begins with it──▶  in hand  ──▶  written  ──synced──▶  done
       └── taken back: never delivered                └── refused: error
    """

    def __init__(self, handle: Keeping, store: Store) -> None:
        self.kept_in = store
        self.over = False
        """The disk's thread has ended."""
        self._handle = handle
        self._lock = Lock()
        self._coming: deque[Deposit] = deque()
        self._in_hand: Deposit | None = None
        self._written: list[Deposit] = []

    def add(self, deposit: Deposit) -> None:
        """`deposit` waits to be stored."""
        with self._lock:
            self._coming.append(deposit)

    def take_back(self, deposit: Deposit) -> bool:
        """Forget `deposit` if the disk's thread has not begun with it; whether it has not."""
        with self._lock:
            if deposit in self._coming:
                self._coming.remove(deposit)
                return True
            return False

    def in_hand(self, deposit: Deposit) -> bool:
        """Whether the disk's thread has begun with `deposit` and has not said yet what became of it."""
        with self._lock:
            return not self.over and (deposit is self._in_hand or deposit in self._written)

    @property
    def idle(self) -> bool:
        """Whether everything that was deposited is handed over, refused or taken back."""
        with self._lock:
            return not self._coming and self._in_hand is None and not self._written

    # Called by the disk's thread

    def store(self) -> bool:
        """Append what has come; whether something waits for its sync."""
        for _ in range(len(self._coming)):
            with self._lock:
                if not self._coming:
                    break
                deposit = self._in_hand = self._coming.popleft()
            try:
                with self._handle.writing:
                    deposit.done = self._handle.keep_in_memory(deposit)
                    if not deposit.done:
                        self._handle.write(deposit)
            except Exception as error:
                deposit.error = error
                if deposit.letter is not None:
                    self._handle.not_retried(deposit.letter, error)
                if not isinstance(error, SpoolError):
                    # A bug of ours; its sender is told, and the others must not wait for ever.
                    _log.exception("queue %r: messages could not be stored", self._handle.queue)
            finally:
                deposit.tried_at = time.monotonic()
                with self._lock:
                    if deposit.count and not deposit.done:
                        self._written.append(deposit)
                    self._in_hand = None
                self._handle.changed()
        return bool(self._written)

    def stored(self, error: SpoolError | None) -> None:
        """What was written is synced, or not; then it stays here and is synced with what comes next."""
        written = self._written
        if error is not None:
            for deposit in written:
                if time.monotonic() - deposit.tried_at > SYNC_PATIENCE:
                    deposit.error = error
        else:
            for deposit in written:
                self._handle.deposited(deposit)
                deposit.error, deposit.done = None, True
            with self._lock:
                self._written = []  # only now: until here not all of it is handed over
        self._handle.changed()

    def give_up_sync(self) -> None:
        """The node closes, and nothing is synced any more: what is written counts all the same, as it may be found."""
        with self._lock:
            written, self._written = self._written, []
        for deposit in written:
            self._handle.hand_in(deposit)


__all__ = ["SYNC_PATIENCE", "Deposit", "Deposits"]
