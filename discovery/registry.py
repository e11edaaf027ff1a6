"""Registry backend: nodes of one host and user find each other through files, one for each node.

The file is `NODE_ID.EPOCH.json` in the folder of the fabric, and its node holds a lock (flock) on it for as long as it
lives. Why this needs no other coordination:

- A file is written and locked under a hidden name, then renamed. Whatever carries a final name is whole, and locked
  unless its node is dead. A change is the same again: the lock on the old file is let go when the new one is in place.
- Who can lock a file, and then finds that very file still under its name, knows that the node is dead. A dead life
  never comes back, and the next life of the node has another epoch, hence another name: removing the file cannot hit a
  living node. The same holds for sockets, whose names are new in each life (`ipc_endpoint`).
- A node may also be dead although its file is gone, and alive although all of its files are: those who remove things
  cannot be told apart. Who has lost a link with it asks its sockets (PROTOCOL.md, section 11), so those of the dead
  stay for a while, and refuse.
- Locks for probing are shared ones: two nodes that look at a file do not take each other for its owner.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
import threading
import time
import traceback
import weakref
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from math import inf
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from peerfabric.discovery.base import Announcement, Lost, Report, Sighting
from peerfabric.discovery.files import (
    LEFTOVER_AGE,
    announcement_name,
    is_at,
    is_old,
    lockable,
    mark_dead,
    opened,
    remove_socket_if_deaf,
)
from peerfabric.discovery.host import FabricFolder, host_id, shares_kernel
from peerfabric.discovery.locks import Lock, OwnThread
from peerfabric.discovery.remarks import later, remark
from peerfabric.discovery.reminder import Reminders
from peerfabric.errors import ConfigError

REGISTRY: Final = "registry"

REGISTRY_FILES_MAX: Final = 8192
"""Entries of the folder that one scan looks at: four times the default of `peers_max`. Others are not seen."""

ANNOUNCEMENT_BYTES_MAX: Final = 16 * 1024
"""The largest file that is read: 32 endpoints and the names, at full length, escaped."""

_PERIOD: Final = 0.5
"""Seconds between two looks at the folder's time stamp: one system call each, far below 0.1 % of a core."""

_PERIOD_MIN: Final = 0.008
"""The first looks after a start or a change of ours, as what others do at the same time concerns us: two nodes that
open their ends at once link in some milliseconds. Later ones come after half of the time since then."""

_PERIOD_OF_FILE: Final = 0.005
"""Seconds for each file by which looks are further apart in a folder of more than a hundred: a change makes every node
look at every file. Who has changed looks soon all the same, and dials whom it concerns."""

_PROBES: Final = 2
"""Locks probed in one period, and as many again for as long as one of them is free. However many nodes there are, each
file is probed four times a second, by one or another of them."""

_OTHER_HOST_AGE: Final = 3600.0
"""Seconds for which the file of a node of another host, or of this one before it was booted, stays though its lock is
free. A node that lives puts its file back if it is removed."""

_CLOSE_TIMEOUT: Final = 5.0
"""Seconds that `close` waits for its thread, which is late only if `report` does not return."""


class _File(NamedTuple):
    """A file as last read; `announcement` is None if it was not one."""

    stamp: tuple[int, int, int]
    announcement: Announcement | None


class RegistryBackend:
    """Announces through a locked file and watches the folder, in a thread of its own.

    In a forked child the backend is closed: the child lets go of the descriptor and neither unlocks nor removes the
    file, which are its parent's. (A lock belongs to the open file, which both share: unlocking it in the child would
    declare the parent dead, keeping it would let a dead parent seem alive.)
    """

    def __init__(self, fabric: str, key_id: str = "") -> None:
        """Open the folder of `fabric`, or of the secret of that id.

        Raises:
            ConfigError: The folder cannot be trusted, or `fabric` is no name.
        """
        self.name: Final = f"{REGISTRY}~{key_id}" if key_id else REGISTRY
        self.fabric = fabric
        self._host = host_id()
        self._home = FabricFolder(fabric, key_id)
        self.folder = self._home.make()
        """Where nodes meet; another one when the folder of the session is gone, or back."""
        self._lock = Lock()  # guards the five below: announce() and the thread both put the file in place
        self._announcement: Announcement | None = None
        self._own_path: Path | None = None
        self._descriptor: int | None = None
        self._written: Announcement | None = None
        """What our file says."""
        self._closed = False
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None
        # The rest belongs to watch() until it starts the thread, and then to the thread.
        self._report: Report | None = None
        self._files: dict[str, _File] = {}
        self._stamp: tuple[int, int] | None = None
        self._changed_before = False
        self._probed = ""
        self._warned: set[str] = set()
        self._reminders = Reminders()
        self._sweep_at = inf
        self._changed_at = self._period_at = 0.0
        _all.add(self)

    def announce(self, announcement: Announcement) -> None:
        """Put our file in place; once `watch` has begun, its thread replaces it as soon as it comes to it.

        Raises:
            ConfigError: The announcement breaks a limit of `Announcement`; nothing changed.
        """
        if self._stop.is_set():  # closed; looked at before the lock, which a forked child may find held for ever
            return
        content = _encode(announcement)
        with later(), self._lock:
            if self._closed:
                return
            self._announcement = announcement
            if self._thread is None:
                self._write_locked(content)
        self._woken.set()

    def _write_locked(self, content: bytes) -> None:
        assert self._announcement is not None
        self._written = self._announcement
        try:
            self._publish_locked(self._announcement, content)
        except OSError as error:
            self._warn(
                "announce",
                "registry: cannot announce in %s: %s; other processes of this host may not find us",
                self.folder,
                error,
            )

    def watch(self, report: Report) -> None:
        """Report everybody in the folder before returning; changes follow from a thread within a second."""
        if self._closed:
            return
        assert self._thread is None, "watch() is called once"
        self._report = report
        self._turn(self._rescan, self._sweep)
        thread = OwnThread(target=self._run, name="peerfabric-registry", daemon=True)
        thread.start()  # noted when it runs, as close() waits for it
        self._thread = thread

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._woken.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_TIMEOUT)
        with self._lock:
            self._withdraw_locked()

    # Our own file

    def _publish_locked(self, announcement: Announcement, content: bytes) -> None:
        name = announcement_name(announcement.node_id, announcement.epoch)
        path = self.folder / name
        hidden = self.folder / f".{name}.{secrets.token_hex(4)}"
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(descriptor, content) != len(content):
                raise OSError("the disk is full")
            os.rename(hidden, path)
        except BaseException:
            hidden.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        if self._own_path != path:
            self._withdraw_locked()
        # Noted first: a child that is forked in between closes what is noted, and never what is closed already.
        replaced, self._descriptor, self._own_path = self._descriptor, descriptor, path
        if replaced is not None:
            os.close(replaced)  # frees the lock of the file that was just replaced, and not before

    def _withdraw_locked(self) -> None:
        if self._descriptor is None or self._own_path is None:
            return
        with suppress(OSError):  # where it cannot be reached it is not seen either
            if is_at(self._descriptor, self._own_path):
                self._own_path.unlink(missing_ok=True)
        withdrawn, self._descriptor, self._own_path = self._descriptor, None, None
        os.close(withdrawn)

    def _stay_announced(self) -> None:
        """Go where new nodes look, and announce again if our file is not there: removed, say, or the disk was full."""
        folder, own_path = self._home.where(), self._own_path
        announced = own_path is not None and own_path.parent == folder and own_path.exists()
        if folder == self.folder and (announced or self._announcement is None):
            return
        folder = self._home.make()
        with self._lock:
            if self._closed:
                return
            self.folder = folder
            if self._announcement is not None:
                self._written = self._announcement
                self._publish_locked(self._announcement, _encode(self._announcement))

    def _abandon(self) -> None:
        """Become closed in a forked child. Takes no lock: a thread that is not here may have held it."""
        self._closed = True
        self._stop = threading.Event()
        self._stop.set()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    # Everybody else's

    def _run(self) -> None:
        self._changed_at = scan_at = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            self._woken.wait(max(0.0, min(scan_at, self._period_at) - now))
            self._woken.clear()
            if self._stop.is_set():
                return
            if self._announcement is not self._written:
                self._turn(self._announce_anew)
                scan_at = min(scan_at, self._changed_at + _PERIOD_MIN)
            now = time.monotonic()
            period = now >= self._period_at
            if now >= scan_at or (period and now + _PERIOD / 2 >= scan_at):  # both in one wake-up from then on
                self._turn(self._rescan_if_changed)
                soon = max(_PERIOD_MIN, (now - self._changed_at) / 2)
                scan_at = now + min(soon, max(_PERIOD, _PERIOD_OF_FILE * len(self._files)))
            if period:
                self._period_at = now + _PERIOD
                self._turn(self._stay_announced, self._probe_some)
            if now >= self._sweep_at:
                self._turn(self._sweep)

    def _announce_anew(self) -> None:
        """Let our file say what is to be announced now."""
        self._changed_at = time.monotonic()
        with self._lock:
            if not self._closed and self._announcement is not None:
                self._write_locked(_encode(self._announcement))

    def _turn(self, *steps: Callable[[], None]) -> None:
        for step in steps:
            try:
                step()
            except (OSError, ConfigError) as error:
                if self._reminders.due(step.__name__, time.monotonic()):
                    remark(
                        logging.WARNING,
                        "registry: %s cannot be watched: %s; peers of this host may be missing",
                        self.folder,
                        error,
                    )
            except Exception:
                if step.__name__ not in self._warned:
                    self._warned.add(step.__name__)
                    fault = traceback.format_exc()
                    remark(
                        logging.ERROR, "registry: error in the watch over %s; please report it\n%s", self.folder, fault
                    )

    def _folder_stamp(self) -> tuple[int, int]:
        status = os.stat(self.folder)
        return status.st_ino, status.st_mtime_ns

    def _rescan_if_changed(self) -> None:
        # Time stamps advance with the kernel's tick (1-10 ms). What changed in the same tick after a scan would stay
        # unseen, hence one more scan in the period after each change.
        changed = self._folder_stamp() != self._stamp
        if changed or self._changed_before:
            self._rescan()
        self._changed_before = changed

    def _rescan(self) -> None:
        """Read what is new, drop what has vanished, and report the difference."""
        self._stamp = self._folder_stamp()  # before reading: what changes meanwhile is read again
        found: dict[str, _File] = {}
        own_name = self._own_path.name if self._own_path is not None else None
        with os.scandir(self.folder) as entries:
            for entry in islice(entries, REGISTRY_FILES_MAX):
                # announce() may be just putting our file in place; then we report ourselves, which rosters ignore.
                if entry.name == own_name or not entry.name.endswith(".json") or entry.name.startswith("."):
                    continue
                file = self._look_at(entry)
                if file is not None:
                    found[entry.name] = file
        self._adopt(found)

    def _look_at(self, entry: os.DirEntry[str]) -> _File | None:
        """Return the file, read anew only if it changed; None if it is gone or was left by a dead node."""
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._files.get(entry.name)
        if known is not None and known.stamp == stamp:
            return known
        with opened(self.folder / entry.name) as descriptor:
            if descriptor is None:
                return None
            announcement = self._read(descriptor, entry.name)
            if announcement is not None and self._remove_if_dead(descriptor, entry.name, announcement):
                return None
        return _File(stamp, announcement)

    def _read(self, descriptor: int, name: str) -> Announcement | None:
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError("it is not a plain file")
            content = os.read(descriptor, ANNOUNCEMENT_BYTES_MAX + 1)
            if len(content) > ANNOUNCEMENT_BYTES_MAX:
                raise ValueError(f"it is larger than {ANNOUNCEMENT_BYTES_MAX:,} bytes")
            announcement = _decoder.decode(content)
            if (
                name != announcement_name(announcement.node_id, announcement.epoch)
                or announcement.fabric != self.fabric
            ):
                raise ValueError("it does not belong under this name")
        except (OSError, ValueError) as error:
            self._warn(
                name, "registry: %s is skipped: %s; remove it if no node of yours wrote it", self.folder / name, error
            )
            return None
        return announcement

    def _adopt(self, found: dict[str, _File]) -> None:
        before, self._files = self._files, found
        if self._warned:
            self._warned &= found.keys() | {name for name in self._warned if not name.endswith(".json")}
        gone = [before[name].announcement for name in before.keys() - found.keys()]
        for name, file in found.items():
            old = before.get(name)
            if file is old:
                continue  # as nearly all
            if file.announcement is None:
                gone.append(old.announcement if old is not None else None)
            elif old is None or old.announcement != file.announcement:
                self._tell(Sighting(seen=file.announcement, source=self.name))
        were = {announcement.node_id for announcement in gone if announcement is not None}
        if were:
            there = {file.announcement.node_id for file in found.values() if file.announcement is not None}
            for node_id in sorted(were - there):
                self._tell(Lost(node_id=node_id, source=self.name))

    def _tell(self, event: Sighting | Lost) -> None:
        if self._report is not None and not self._stop.is_set():
            self._report(event)

    # The dead

    def _probe_some(self) -> None:
        """Probe the next few locks in turn; start behind our own name, so that nodes share the work."""
        names = sorted(name for name, file in self._files.items() if file.announcement is not None)
        own_name = self._own_path.name if self._own_path is not None else ""
        start = bisect_right(names, self._probed or own_name)
        turn = names[start:] + names[:start]
        removed: set[str] = set()
        for at in range(0, len(turn), _PROBES):
            some = turn[at : at + _PROBES]
            self._probed = some[-1]
            dead = [name for name in some if self._remove_if_dead_by_name(name)]
            removed.update(dead)
            if not dead:
                break
        if removed:
            self._adopt({name: file for name, file in self._files.items() if name not in removed})

    def _remove_if_dead_by_name(self, name: str) -> bool:
        announcement = self._files[name].announcement
        assert announcement is not None
        with opened(self.folder / name) as descriptor:
            return descriptor is not None and self._remove_if_dead(descriptor, name, announcement)

    def _remove_if_dead(self, descriptor: int, name: str, announcement: Announcement) -> bool:
        """Remove the file of a dead node; return whether it was dead. Its sockets go with a later sweep."""
        path = self.folder / name
        if not shares_kernel(announcement.host, self._host) and not is_old(path, _OTHER_HOST_AGE):
            return False  # on a folder that hosts share, a free lock may only mean that locks are not
        if not lockable(descriptor) or not is_at(descriptor, path):
            return False
        for endpoint in (*announcement.inbox, *announcement.outbox):
            socket_path = Path(endpoint.removeprefix("ipc://"))
            # Only what its node made here: an announcement must not choose which files we remove.
            if socket_path.parent == self.folder and socket_path.name.startswith(f"{announcement.node_id}."):
                mark_dead(socket_path)
        path.unlink(missing_ok=True)
        self._sweep_at = min(self._sweep_at, time.monotonic() + 1.5 * LEFTOVER_AGE)
        return True

    def _sweep(self) -> None:
        """Remove what the dead have left, and nodes that were killed before they announced, or never announce here."""
        self._sweep_at = inf
        announced = [file.announcement for file in self._files.values()] + [self._announcement]
        claimed = {one for each in announced if each is not None for one in (*each.inbox, *each.outbox)}
        with os.scandir(self.folder) as entries:
            for entry in islice(entries, REGISTRY_FILES_MAX):
                path = self.folder / entry.name
                if entry.name.startswith(".") and is_old(path):
                    with opened(path) as descriptor:
                        if descriptor is not None and lockable(descriptor):
                            path.unlink(missing_ok=True)
                elif entry.name.endswith((".inbox", ".outbox")) and f"ipc://{path}" not in claimed and is_old(path):
                    remove_socket_if_deaf(path)

    def _warn(self, about: str, text: str, *values: object) -> None:
        if about not in self._warned:
            self._warned.add(about)
            remark(logging.WARNING, text, *values)


def _encode(announcement: Announcement) -> bytes:
    content = msgspec.json.encode(announcement)
    try:
        _decoder.decode(content)
    except msgspec.ValidationError as error:
        raise ConfigError(f"announcement of node {announcement.node_id!r}: {error}; shorten or correct it") from error
    return content


_decoder = msgspec.json.Decoder(Announcement)


_all: weakref.WeakSet[RegistryBackend] = weakref.WeakSet()


def _abandon_all() -> None:
    for backend in list(_all):
        backend._abandon()


os.register_at_fork(after_in_child=_abandon_all)
