"""Spool of one node: its folder, its epoch, and a log for each queue."""

from __future__ import annotations

from collections.abc import Callable
from errno import EEXIST, ENOENT, ENOTEMPTY
from functools import partial
from typing import Final, TypeVar

import msgspec

from peerfabric.errors import SpoolError, SpoolFull
from peerfabric.names import check_name, is_name
from peerfabric.spool.budget import Budget
from peerfabric.spool.files import FULL, Files, Place, RealFiles, refusal
from peerfabric.spool.folder import (
    EPOCH_RANDOM_BITS,
    Claim,
    Hold,
    Owner,
    check_fabric,
    check_ours,
    find_logs,
    find_owner,
    guess_owner,
    make_folder,
    make_spool_folder,
    missing,
    next_owner,
    put_owner,
    read_owner,
    remove,
    sign,
    unmake,
)
from peerfabric.spool.format import DEAD, MESSAGES
from peerfabric.spool.log import Log
from peerfabric.spool.segment import Found, Identity

SEGMENT_BYTES: Final = 16 * 1024 * 1024
_NODE_ID_BYTES_MAX: Final = 255


T = TypeVar("T")


class Spool:
    """A node's logs on disk. Made by `open` or `inspect`.

    It has no lock for threads: calls of one spool and its logs are made one at a time, `Log.sync_run` excepted.
    """

    def __init__(
        self,
        files: Files,
        folder: str,
        lock: int,
        place: Place,
        owner: Owner,
        budget: Budget,
        *,
        fsync: bool,
        segment_bytes: int,
        repair: bool,
        warnings: list[str],
        found: dict[str, Found],
        claim: Claim | None = None,
        shrinks: bool = False,
    ) -> None:
        self.folder = folder
        self.node_id = owner.node_id
        self.epoch = owner.epoch
        self.fsync = fsync
        self.warnings = warnings
        """What a person should know of the folder: that it is a copy, or that `node` was damaged."""
        self.died = owner.died
        """A process that had it ended without closing it. Set to False when that has been taken note of."""
        self._files = files
        self._lock = lock
        self.hold = Hold(files, folder, place, lock)
        self._claim = claim
        self._owner = owner
        self._budget = budget
        self._segment_bytes = segment_bytes
        self._repair = repair
        self._logs: dict[tuple[str, int], Log] = {}
        self._unopened = found
        self._unopened_share = budget.share()
        self._unopened_share.bytes = sum(log.segments_bytes for log in found.values())
        self._has_queues = False
        """The folder of the queues is there."""
        self._shrinks = shrinks

    @classmethod
    def open(
        cls,
        folder: str,
        *,
        files: Files | None = None,
        fsync: bool = False,
        counter_min: int = 0,
        random_bits: int,
        node_id: str | Callable[[], str],
        segment_bytes: int = SEGMENT_BYTES,
        limit_bytes: int | None = None,
        spare: bool = True,
        claims: str | None = None,
        fabric: bytes = b"",
        name: str = "",
        any_fabric: bool = True,
        shrinks: bool = False,
        adopted: bool = False,
        unix_ms: int,
    ) -> Spool:
        """Lock the folder, made if there is none, and begin a new epoch, which is durable when this returns.

        Args:
            fsync: Whether what is synced must survive the loss of power; without, it survives that of the process.
            counter_min: The new epoch's counter is at least that.
            random_bits: 20 of them, which keep the epochs of copies of a folder apart.
            node_id: Used only if the folder has none yet. A function is called with the lock held, and may write a file
                `node.key` there first.
            segment_bytes: Size from which on a segment is followed by another.
            limit_bytes: Of all segments of all queues; None: what the disk has.
            spare: Keep one preallocated segment, so that dead letters can be written on a full disk.
            claims: A folder of this machine, in which the node id is locked: of copies of one spool one is open at a
                time. None: a copy is only noticed while the process runs that had the original when it was made.
            fabric: Whose messages it will have, as `fabric_mark` says it; empty: that of those it has.
            name: Of the node, for people; empty: as it was.
            any_fabric: Whether it may have messages of another fabric.
            shrinks: An end in order with nothing unsettled and no dead letters gives back its space: only `node` and
                `lock` stay.
            adopted: Another process had it, for which this one goes on; for people.
            unix_ms: Now; for people.

        Raises:
            SpoolLocked: Another process uses it, or the folder of which this is a copy. Nothing was changed.
            OtherFabric: It has messages of another fabric. Nothing was changed.
            SpoolUnsafe: Others can write to it, it is a link, or holds what is no spool. Nothing was changed.
            NewerFormat: A later version wrote it. Nothing was changed.
            SpoolFull: There is no space for a new spool; nothing is left behind. One that is there opens all the same.
            SpoolError: The disk refused.
        """
        if not 0 <= random_bits < 1 << EPOCH_RANDOM_BITS:
            raise ValueError(f"random_bits {random_bits} are not {EPOCH_RANDOM_BITS} bits")
        if isinstance(node_id, str):
            _check_node_id(node_id)
        files = files or RealFiles()
        lock = -1
        claim: Claim | None = None
        made: list[str] = []
        before: Owner | None = None
        warnings: list[str] = []
        try:
            made = missing(files, folder)
            place = make_spool_folder(files, folder)
            check_ours(files, folder)
            lock = files.lock(f"{folder}/lock")
            before = find_owner(files, folder, place, warnings)
            if before is not None and not any_fabric:
                check_fabric(files, folder, before, fabric)
            found = find_logs(files, folder)
            first = before
            if first is None:
                first = Owner(node_id=node_id if isinstance(node_id, str) else node_id())
                _check_node_id(first.node_id)
            owner = next_owner(files, first, place, counter_min, random_bits, fabric, name, adopted=adopted)
            if claims is not None:
                claim = Claim(files, claims, owner.node_id, folder)
                claim.sign(owner.pid)
                owner = msgspec.structs.replace(owner, claim=claim.path if claim.lock >= 0 else "")
            sign(files, lock, owner.pid)
            budget = Budget(files, folder, limit_bytes, segment_bytes, segment_bytes if spare else 0)
            budget.spare.find()
            put_owner(files, folder, owner, budget)
            budget.spare.fill()
            return cls(
                files,
                folder,
                lock,
                place,
                owner,
                budget,
                fsync=fsync,
                segment_bytes=segment_bytes,
                repair=True,
                warnings=warnings,
                found=found,
                claim=claim,
                shrinks=shrinks,
            )
        except BaseException as error:
            if lock >= 0 and before is None:
                unmake(files, folder, keys=bool(made))
            if claim is not None:
                claim.release()
            if lock >= 0:
                files.close(lock)
            remove(files, made)
            if isinstance(error, OSError) and error.errno in FULL:
                raise SpoolFull(folder, errno=error.errno, step="free some space there, then start again") from error
            if isinstance(error, OSError) and not isinstance(error, SpoolError):
                raise refusal(error, folder) from error
            raise

    @classmethod
    def inspect(cls, folder: str, *, files: Files | None = None) -> Spool:
        """Open a spool for reading: nothing is changed or repaired, and no epoch begins.

        Raises:
            SpoolLocked: A node runs with it.
            SpoolUnsafe: It is a link, or not ours alone.
            NewerFormat: A later version wrote it.
            SpoolError: There is no spool.
        """
        files = files or RealFiles()
        lock = -1
        warnings: list[str] = []
        try:
            place = files.check_folder(folder)
            lock = files.lock(f"{folder}/lock", shared=True)
            owner = read_owner(files, folder) or guess_owner(files, folder) or Owner(node_id="?")
            budget = Budget(files, folder, None, SEGMENT_BYTES, 0)
            return cls(
                files,
                folder,
                lock,
                place,
                owner,
                budget,
                fsync=False,
                segment_bytes=SEGMENT_BYTES,
                repair=False,
                warnings=warnings,
                found=find_logs(files, folder),
            )
        except BaseException as error:
            if lock >= 0:
                files.close(lock)
            if isinstance(error, OSError) and not isinstance(error, SpoolError):
                raise refusal(error, folder) from error
            raise

    @property
    def used_bytes(self) -> int:
        """Bytes of all segments of all queues."""
        return self._budget.used_bytes

    @property
    def limit_bytes(self) -> int | None:
        """How many they may have; None: what the disk has."""
        return self._budget.limit_bytes

    @property
    def spare_ok(self) -> bool:
        """Whether what must be noted can be on a full disk: nothing of the spare was given away."""
        return self._budget.spare.is_full

    def with_spare(self, act: Callable[[], T]) -> T:
        """Do something small on a full disk with the space of the spare, which is made anew when there is space again.

        Raises:
            SpoolFull: There is not enough of it.
        """
        return self._budget.with_spare(act)

    def queues(self) -> list[str]:
        """The queues that have a log on disk."""
        return [name for name in self._files.names(f"{self.folder}/queues") if is_name(name)]

    def queue(self, name: str, *, unix_ms: int) -> Log:
        """The log of a queue, opened and recovered at its first use, made if there is none.

        Raises:
            BadName: No queue can be called that.
            SpoolError: The disk refused.
        """
        return self._log(check_name("queue", name), MESSAGES)

    def dead(self, name: str, *, unix_ms: int) -> Log:
        """The log of the dead letters of a queue, as `queue`. Its sequences need not be in order or without holes."""
        return self._log(check_name("queue", name), DEAD)

    def remove(self, name: str) -> None:
        """Remove the logs of a queue of which nothing is wanted, as their cursors on disk say. It may be made anew.

        Raises:
            SpoolError, OSError: Some of it is still there, and the next start finds it settled.
        """
        for kind in (DEAD, MESSAGES):  # dead letters first, whose folder lies in that of their queue
            log = self._logs.pop((name, kind), None)
            if log is not None:
                log.close()
                log.clear()
                self._budget.release(log.share)

    def has_dead(self, name: str) -> bool:
        """Whether the queue has a log of dead letters."""
        return (name, DEAD) in self._logs or f"{self.folder}/queues/{name}/dead" in self._unopened

    def _log(self, name: str, kind: int) -> Log:
        log = self._logs.get((name, kind))
        if log is None:
            queue = f"{self.folder}/queues/{name}"
            folder = f"{queue}/dead" if kind == DEAD else queue
            try:
                made = self._make(name, kind)
                unopened = self._unopened.get(folder)
                if unopened is not None and unopened.whole:
                    unopened.whole = False  # should this fail, the next call looks anew
                    found = unopened
                else:
                    found = Found(self._files, folder, fresh=made)
                identity = Identity(self.node_id, name, kind)
                log = Log(
                    self._files,
                    folder,
                    identity,
                    self._budget,
                    self.hold,
                    epoch=self.epoch,
                    fsync=self.fsync,
                    segment_bytes=self._segment_bytes,
                    repair=self._repair,
                    outer=[queue, f"{self.folder}/queues"][kind != DEAD :],
                    found=found,
                )
            except SpoolError:
                raise
            except OSError as error:
                raise refusal(error, folder) from error
            if unopened is not None:
                # Not so of a new log, which the disk's thread may make while another one opens some other log.
                self._unopened_share.bytes -= unopened.segments_bytes
                del self._unopened[folder]
            self._logs[name, kind] = log
        return log

    def _make(self, name: str, kind: int) -> bool:
        """Have the folders of a log; whether the innermost is new."""
        if self._lock < 0:
            raise SpoolError(self.folder, "is closed", step="open it again")
        if self._repair:
            self.hold.check()
        outer, made = f"{self.folder}/queues", False
        if self._repair and not self._has_queues:
            self._budget.with_spare(partial(make_folder, self._files, outer, self.folder))
            self._has_queues = True
        for inner in [name, "dead"][: 2 if kind == DEAD else 1]:
            path = outer = f"{outer}/{inner}"
            if self._repair:
                made = self._budget.with_spare(partial(self._files.make_folder, path))
            try:
                self._files.check_folder(path)
            except FileNotFoundError:
                if self._repair:
                    raise
        return made

    def close(self) -> None:
        """Write cursors, let go of all descriptors and of the lock.

        Raises:
            SpoolError: The first thing that failed; it is closed all the same.
        """
        if self._lock < 0:
            return
        failures: list[OSError] = []
        for log in self._logs.values():
            try:
                log.close()
            except OSError as error:
                failures.append(error)
        if self._repair:
            try:
                self.hold.check()
                left, letters = (self._left(kind, failed=bool(failures)) for kind in (MESSAGES, DEAD))
                owner = msgspec.structs.replace(self._owner, pid=0, died=self.died, left=left, letters=letters)
                put_owner(self._files, self.folder, owner, self._budget)
                if self._shrinks and not (left or letters):
                    self._shrink()
                else:
                    self._budget.spare.fill()
            except OSError as error:
                failures.append(error)
        if self._claim is not None:
            self._claim.release()
        self.abandon()
        if failures:
            raise _not_closed(failures[0], self.folder) from failures[0]

    def _left(self, kind: int, *, failed: bool) -> int:
        """How many messages, or dead letters, a later life will find unsettled; at least 1 if nobody can be sure."""
        logs = [log for (_, its_kind), log in self._logs.items() if its_kind == kind]
        count = sum(log.unsettled_count for log in logs)
        unsure = failed or not all(log.cursor_complete for log in logs)
        for folder, found in self._unopened.items():
            of_dead = folder.removeprefix(f"{self.folder}/queues/").endswith("/dead")
            unsure = unsure or (found.segments_bytes > 0 and of_dead == (kind == DEAD))
        return max(count, 1) if unsure else count

    def _shrink(self) -> None:
        """Give back the space. If it does not come to its end, all that is there is settled, and the next end tries."""
        if any(found.names for found in self._unopened.values()):
            return
        for _, log in sorted(self._logs.items(), key=lambda item: item[0][1], reverse=True):
            log.clear()  # dead letters first, whose folder lies in that of their queue
        try:
            self._files.remove_folder(f"{self.folder}/queues")
        except OSError as error:
            if error.errno not in (ENOENT, ENOTEMPTY, EEXIST):
                raise
        self._budget.spare.remove()

    def abandon(self) -> None:
        """Let go of all descriptors and do nothing else: for a forked child, whose parent keeps the lock."""
        for log in self._logs.values():
            log.abandon()
        if self._claim is not None:
            self._claim.abandon()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            self._files.close(lock)


def _not_closed(error: OSError, folder: str) -> SpoolError:
    if error.errno in FULL:
        step = "what is stored is safe, but some of it may be sent again: free some space before the next start"
        return SpoolFull(folder, errno=error.errno, step=step)
    return refusal(error, folder)


def _check_node_id(node_id: str) -> None:
    size = len(node_id.encode())
    if not 0 < size <= _NODE_ID_BYTES_MAX:
        raise ValueError(f"node_id of {size} bytes; it must have 1 to {_NODE_ID_BYTES_MAX}")
