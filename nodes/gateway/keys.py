"""Idempotency keys of the gateway: what was answered to a request, so that the same one sent again is not done twice.

One SQLite file for all processes of a gateway, beside the spool. A row is written before its message is sent, and the
answer when it is accepted. In between the process may be killed; then nobody can tell whether the message is in the
spool, and it is sent again. All messages that are sent with a key have it as a header, so that whoever processes them
sees both. To close that gap, message and key would have to be in one file.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from peerfabric.discovery.locks import OwnThread
from peerfabric.errors import SpoolError
from peerfabric.gateway.problems import Problem

FILE: Final = "gateway-keys.sqlite"
"""In the folder of the spool."""
KEPT: Final = 24 * 3600.0
"""Seconds, as the draft's examples have it: clients try again for minutes, or after a night."""
KEYS_MAX: Final = 1_000_000
"""About 200 MB; the oldest go."""
KEY_LENGTH_MAX: Final = 255
TRIM_EVERY: Final = 1_000
"""Requests between two looks for keys that are too old or too many."""
TRIMMED_AT_ONCE: Final = 5_000
"""Rows, so that no other process waits for long."""
TOGETHER_MAX: Final = 500
"""Requests in one transaction."""
PATIENCE: Final = 5.0
"""Seconds to wait for other processes that write."""
VERSION: Final = 1
"""Of the tables."""

_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS keys (
        token TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, worker INTEGER NOT NULL,
        status INTEGER, answer BLOB, at REAL NOT NULL, PRIMARY KEY (token, key)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS keys_by_age ON keys (at);
    CREATE TABLE IF NOT EXISTS workers (id INTEGER PRIMARY KEY AUTOINCREMENT);
"""
_MOVE: Final = "move it away: what was sent with a key is forgotten then"
_LOCK: Final = "hhqqi4x"
"""struct flock of Linux with 64 bits: type, whence, start, length, process."""


class Claim(NamedTuple):
    """A key that a request was sent with."""

    token: str
    key: str
    status: int = 0
    """Of the first answer; 0: there is none, do it."""
    answer: bytes = b""


class Keys:
    """Keys of the last day. All of it happens in a thread of its own; requests of one moment share a transaction.

    Args:
        path: The file; it is made if it is not there. ":memory:": nothing is kept, and no other process sees it.
        fsync: Whether it survives a loss of power.
        kept: Seconds for which a key is known.
        most: How many are.
    """

    def __init__(self, path: str, *, fsync: bool = False, kept: float = KEPT, most: int = KEYS_MAX) -> None:
        self.path = path
        self._fsync, self._kept, self._most = fsync, kept, most
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: OwnThread | None = None
        self._db: sqlite3.Connection | None = None
        self._lock_file = -1
        self._worker = 0
        """Numbers the process that has begun a row. It holds a lock for as long as it lives."""
        self._claims = 0
        self._owed: dict[tuple[str, str], tuple[int, bytes] | None] = {}
        """Answers that the disk has not taken; None: the key is free. They go first the next time."""

    # For the event loop

    async def open(self) -> None:
        """Open the file.

        Raises:
            SpoolError: It cannot be used.
        """
        self._thread = OwnThread(target=self._run, name="peerfabric-gateway-keys")
        self._thread.start()
        try:
            await self._do(self._open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close it when all that was asked is done. A second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        ended = _Job(lambda: None, asyncio.get_running_loop())
        self._jobs.put(ended)
        self._jobs.put(None)
        with suppress(SpoolError):
            await ended.future
        thread.join()

    async def claim(self, token: str, key: str, digest: bytes) -> Claim:
        """Say that a request with `key` is about to be done, unless it was: then the claim has the first answer.

        Args:
            digest: Of all that the request asks for.

        Raises:
            Problem: 422, the key was sent with another request; 409, the first one is not answered yet.
            SpoolError: The disk refused.
        """
        claim: Claim = await self._do(lambda: self._claim(token, key, digest))
        return claim

    async def note(self, claim: Claim, status: int, answer: bytes) -> None:
        """What was asked is done, and this is the answer.

        Raises:
            SpoolError: The disk refused, and gets it again with the next request.
        """
        self._owed[claim.token, claim.key] = (status, answer)
        await self._do(lambda: None)

    async def release(self, claim: Claim) -> None:
        """What was asked was not done: whoever sends the same key again may do it.

        Raises:
            SpoolError: The disk refused, and is told again with the next request.
        """
        self._owed[claim.token, claim.key] = None
        await self._do(lambda: None)

    async def _do(self, step: Callable[[], Any]) -> Any:
        job = _Job(step, asyncio.get_running_loop())
        if self._thread is None:
            raise SpoolError(self.path, "is closed", step="start the gateway")
        self._jobs.put(job)
        return await job.future

    # For the thread

    def _run(self) -> None:
        try:
            while True:
                jobs = [self._jobs.get()]
                while len(jobs) < TOGETHER_MAX and jobs[-1] is not None:
                    try:
                        jobs.append(self._jobs.get_nowait())
                    except Empty:
                        break
                over = jobs[-1] is None
                self._do_together([job for job in jobs if job is not None])
                if over:
                    return
        finally:
            if self._db is not None:
                self._db.close()
            if self._lock_file >= 0:
                os.close(self._lock_file)

    def _do_together(self, jobs: Sequence[_Job]) -> None:
        """Do what several requests want in one transaction, and tell them."""
        if not jobs:
            return
        results: list[Any] = []
        try:
            if self._db is None:
                results = [job.step() for job in jobs]  # the one that opens it
            else:
                self._db.execute("BEGIN IMMEDIATE")
                owed = dict(self._owed)
                for (token, key), noted in owed.items():
                    self._note(token, key, noted)
                for job in jobs:
                    try:
                        results.append(job.step())
                    except Problem as problem:
                        results.append(problem)
                self._db.execute("COMMIT")
                for found, written in owed.items():
                    if found in self._owed and self._owed[found] == written:  # and no later answer
                        del self._owed[found]
        except (sqlite3.Error, OSError) as error:
            with suppress(sqlite3.Error):
                if self._db is not None and self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            is_full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL or error.args[:1] == (errno.ENOSPC,)
            step = "free some space" if is_full else f"look at the disk; or, if it is damaged, {_MOVE}"
            said = error.strerror if isinstance(error, OSError) else str(error)
            results = [SpoolError(self.path, f"idempotency keys cannot be kept: {said}", step=step)] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            job.tell(result)

    def _open(self) -> None:
        here = self.path != ":memory:"
        if here:
            # Before SQLite makes it, which would do so for everybody to read as far as the umask says.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        try:
            _until_free(lambda: db.execute("PRAGMA journal_mode = WAL").fetchone())
            db.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise sqlite3.DatabaseError(f"is of version {version}, which a later peerfabric has written")
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
            self._worker = int(db.execute("INSERT INTO workers DEFAULT VALUES").lastrowid or 0)
            # Their numbers are never given again.
            db.execute("DELETE FROM workers WHERE id < ?", (self._worker,))
            if here:
                # With the lock of the table: a number is never seen without the lock that says who lives.
                self._lock_file = os.open(
                    f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
                )
                lock = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, self._worker, 1, 0)
                fcntl.fcntl(self._lock_file, fcntl.F_OFD_SETLK, lock)
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        self._db = db
        self._trim()

    def _claim(self, token: str, key: str, digest: bytes) -> Claim:
        db = self._db
        assert db is not None
        now = time.time()
        self._claims += 1
        if self._claims % TRIM_EVERY == 0:
            self._trim()
        row = db.execute(
            "SELECT digest, worker, status, answer FROM keys WHERE token = ? AND key = ? AND at >= ?",
            (token, key, now - self._kept),
        ).fetchone()
        if row is not None:
            before, worker, status, answer = row
            if before != digest:
                detail = f"Idempotency-Key {key!r} was sent with another request; give each request a key of its own"
                raise Problem(422, "Key used before", detail, code="key-used-before")
            if status is not None:
                return Claim(token, key, status, bytes(answer))
            if worker == self._worker or self._is_living(worker):
                detail = f"the first request with Idempotency-Key {key!r} is not answered yet; send this one again"
                raise Problem(409, "In progress", detail, code="in-progress", retry_after=1.0)
        db.execute(
            "INSERT OR REPLACE INTO keys (token, key, digest, worker, at) VALUES (?, ?, ?, ?, ?)",
            (token, key, digest, self._worker, now),
        )
        return Claim(token, key)

    def _note(self, token: str, key: str, noted: tuple[int, bytes] | None) -> None:
        assert self._db is not None
        if noted is not None:
            change = "UPDATE keys SET status = ?, answer = ? WHERE token = ? AND key = ?"
            self._db.execute(change, (*noted, token, key))
        else:
            change = "DELETE FROM keys WHERE token = ? AND key = ? AND worker = ? AND status IS NULL"
            self._db.execute(change, (token, key, self._worker))

    def _is_living(self, worker: int) -> bool:
        """Whether the process that `worker` numbers still runs: the system frees its lock when it ends, however."""
        if self._lock_file < 0:
            return False
        asked = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, worker, 1, 0)
        kind = struct.unpack(_LOCK, fcntl.fcntl(self._lock_file, fcntl.F_OFD_GETLK, asked))[0]
        return bool(kind != fcntl.F_UNLCK)

    def _trim(self) -> None:
        """Forget keys that are too old, or the oldest if there are too many."""
        assert self._db is not None
        self._db.execute(
            "DELETE FROM keys WHERE (token, key) IN (SELECT token, key FROM keys WHERE at < ? ORDER BY at LIMIT ?)",
            (time.time() - self._kept, TRIMMED_AT_ONCE),
        )
        count = self._db.execute("SELECT count(*) FROM keys").fetchone()[0]
        if count > self._most:
            self._db.execute(
                "DELETE FROM keys WHERE (token, key) IN (SELECT token, key FROM keys ORDER BY at LIMIT ?)",
                (min(count - self._most, TRIMMED_AT_ONCE),),
            )


class _Job:
    """Something for the thread to do, and somebody who waits for that."""

    def __init__(self, step: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.step, self._loop = step, loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def tell(self, result: Any) -> None:
        """Called by the thread."""
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._tell, result)

    def _tell(self, result: Any) -> None:
        if self.future.done():  # cancelled
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


def _until_free(step: Callable[[], object]) -> None:
    """Do `step` as soon as no other process has the file to itself: SQLite does not wait by itself for that one."""
    ends_at = time.monotonic() + PATIENCE
    while True:
        try:
            step()
            return
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends_at:
                raise
        time.sleep(0.01)
