"""Remembered peers: endpoints at which others answered before, kept in a file for the next start.

Where neither multicast nor a list of peers helps, a node finds the fabric again by whom it knew. Endpoints that a hello
has confirmed are written down with the time of their last use, and proposed when there is no peer for a while.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, Final

import msgspec

from peerfabric.discovery.base import (
    AnnounceKey,
    Announcement,
    Candidate,
    Endpoint,
    Event,
    Linked,
    Report,
    Sighting,
    Withdrawn,
)
from peerfabric.discovery.host import LOOPBACK
from peerfabric.discovery.locks import Lock, OwnThread
from peerfabric.discovery.log import log
from peerfabric.discovery.reminder import Reminders

REMEMBERED_MAX: Final = 64
"""Endpoints in the file: one that answers is enough, and each costs a dial when we are alone."""

ALONE_AFTER: Final = 2.0
"""Seconds without a peer until the endpoints are proposed. Other ways of discovery need less."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the links."""

WRITE_EVERY: Final = 30.0
"""Seconds between two writes of changes: what is lost in a crash is no more than that."""

_USE_AGAIN: Final = 3600
"""Seconds after which the use of a known endpoint is worth a write."""

_FILE_BYTES_MAX: Final = 64 * 1024
_CLOSE_TIMEOUT: Final = 2.0


class Known(msgspec.Struct, frozen=True):
    """An endpoint, and when a peer was last linked there. The time is for people, and for choosing whom to forget."""

    endpoint: Endpoint
    used_unix_s: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _File(msgspec.Struct, frozen=True):
    version: int
    peers: Annotated[tuple[Known, ...], msgspec.Meta(max_length=REMEMBERED_MAX)]


class RememberedBackend:
    """Writes down where others answered, and proposes that to a node that has nobody."""

    name: Final = "remembered"

    def __init__(
        self,
        folder: Path,
        key_ids: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        """Keeps a file for each secret in `folder`, so that it survives when one of two is taken away."""
        self._folder = folder
        self.files = self._files_for(key_ids)
        self._clock, self._unix = clock, unix
        self.linked: Callable[[], list[Linked]] = list
        """Which peers are linked now."""
        self._process = os.getpid()
        self._lock = Lock()  # guards the three below
        self._closed = False
        self._report: Report | None = None
        self._thread: threading.Thread | None = None
        self._doorbell: SimpleQueue[None] = SimpleQueue()
        # The rest belongs to the thread.
        self._known: dict[str, int] = {}
        """Endpoint -> when it was last used; the last used at the end."""
        self._changed = False
        self._proposed: list[str] = []
        self._alone_since: float | None = None
        self._write_at = 0.0
        self._reminders = Reminders()

    def _files_for(self, key_ids: Sequence[str]) -> tuple[Path, ...]:
        return tuple(self._folder / f"peers-{key_id}.json" for key_id in (key_ids or ("clear",)))

    def rekey(self, keys: Sequence[AnnounceKey]) -> None:
        """The fabric has these secrets from now on: there is a file for each, with all that is known."""
        self.files = self._files_for([key.key_id for key in keys])
        self._changed = True
        self._doorbell.put(None)

    def announce(self, announcement: Announcement) -> None:
        """Nobody learns of us in this way."""

    def watch(self, report: Report) -> None:
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._closed:
                return
            self._report = report
            thread = OwnThread(target=self._run, name="peerfabric-remembered", daemon=True)
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """Write what is new, and stop."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            thread = self._thread
        self._doorbell.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_TIMEOUT)

    # In the thread, as a disk may take its time

    def _run(self) -> None:
        self._read()
        while not self._closed:
            self._look()
            with suppress(Empty):
                self._doorbell.get(timeout=LOOK_EVERY)
        self._write()

    def _look(self) -> None:
        """Note who is linked now; propose whom we knew if nobody is, and no longer if somebody is."""
        now = self._clock()
        linked = self.linked()
        for peer in linked:
            self._use(peer.endpoint)
        if linked:
            self._alone_since = None
            for endpoint in self._proposed:
                self._tell(Withdrawn(endpoint=endpoint, source=self.name))
            self._proposed = []
        elif self._alone_since is None:
            self._alone_since = now
        elif now >= self._alone_since + ALONE_AFTER and not self._proposed:
            self._proposed = list(reversed(self._known))
            for endpoint in self._proposed:
                self._tell(Sighting(seen=Candidate(endpoint), source=self.name))
        if self._changed and now >= self._write_at:
            self._write()

    def _use(self, endpoint: str) -> None:
        if not endpoint.startswith("tcp://") or endpoint.startswith(LOOPBACK):
            return  # the registry finds those of this machine
        now = int(self._unix())
        before = self._known.get(endpoint)
        if before is not None and before <= now < before + _USE_AGAIN:
            return
        self._known.pop(endpoint, None)
        self._known[endpoint] = now
        if len(self._known) > REMEMBERED_MAX:
            del self._known[next(iter(self._known))]
        self._changed = True

    def _tell(self, event: Event) -> None:
        with self._lock:
            report = None if self._closed else self._report
        if report is not None:
            report(event)

    # The files

    def _read(self) -> None:
        found: dict[str, int] = {}
        for file in self.files:
            for known in self._read_one(file):
                found[known.endpoint] = max(known.used_unix_s, found.get(known.endpoint, 0))
        newest = sorted(found.items(), key=lambda item: item[1])[-REMEMBERED_MAX:]
        self._known = dict(newest)

    def _read_one(self, file: Path) -> tuple[Known, ...]:
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return ()
        except OSError as error:
            self._warn(f"{file} cannot be read: {error.strerror}")
            return ()
        with os.fdopen(descriptor, "rb") as opened:
            try:
                content = msgspec.json.decode(opened.read(_FILE_BYTES_MAX + 1), type=_File)
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                self._warn(f"{file} is not what we wrote: {error}")
                return ()
        if content.version != 1:
            return ()
        return tuple(known for known in content.peers if known.endpoint.startswith("tcp://"))

    def _write(self) -> None:
        """Replace each file, if something is new: who reads one finds the old content or the new one."""
        if not self._changed:
            return
        self._changed, self._write_at = False, self._clock() + WRITE_EVERY
        content = _File(1, tuple(Known(endpoint, used) for endpoint, used in self._known.items()))
        data = msgspec.json.format(msgspec.json.encode(content)) + b"\n"
        for file in self.files:
            hidden = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
            try:
                descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as opened:
                    opened.write(data)
                os.replace(hidden, file)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(hidden)
                self._warn(f"{file} cannot be written: {error.strerror}")

    def _warn(self, problem: str) -> None:
        if self._reminders.due(problem, self._clock()):
            log.warning("remembered: %s; peers of this run are not found by it after the next start", problem)
