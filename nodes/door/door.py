"""Door: the listening thread of a process's admin socket, and a thread for each connection while it lasts.

While nobody asks it is one thread that waits in `accept`, one descriptor and one file; what answers is loaded with the
first request.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peerfabric.discovery.files import remove_socket
from peerfabric.discovery.host import RuntimeFolder
from peerfabric.discovery.locks import Lock, OwnThread, importing
from peerfabric.discovery.log import log as _log
from peerfabric.discovery.remarks import remark
from peerfabric.errors import ConfigError
from peerfabric.nodes.door.place import CONNECTIONS_MAX, HEARD, is_on, own_folder, own_place, short, sweep
from peerfabric.nodes.platform import peer_uid

if TYPE_CHECKING:
    from peerfabric.nodes.door.outside import Resident

BACKLOG: Final = 64
"""Connections that wait to be accepted; a process that is stopped accepts none."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PATIENCE: Final = 0.2
"""Seconds until a connection is tried again for which there was no descriptor."""
_AGAIN: Final = 30.0
"""Seconds until a socket is made again that could not be made."""
_END_TIMEOUT: Final = 1.0
BUSY: Final = b'{"error":"busy","text":"too many ask this process at once; ask again"}\n'
FORBIDDEN: Final = b'{"error":"forbidden","text":"another user\'s process; ask as its user, or as root"}\n'


class Door:
    """Lets processes of this user, and of root, ask this one.

    Args:
        residents: The nodes that run here.
    """

    def __init__(self, residents: Callable[[], Sequence[Resident]]) -> None:
        self._residents = residents
        self._runtime = RuntimeFolder()
        self.path: Path | None = None
        """Of the socket, while it is there."""
        self._lock = Lock()  # guards the three below
        self._connections: set[socket.socket] = set()
        self._following = 0
        """How many of them follow something."""
        self._closed = False
        self._again_at = inf
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._identity: tuple[int, int] | None = None

    # Any thread

    def open(self) -> None:
        """Listen, unless that is off, or does not go here: then one line of the log says why.

        Raises:
            ConfigError: The variable that turns it off says neither that nor the contrary.
        """
        if not is_on():
            return
        self._open(logging.WARNING)

    def open_again(self, *, told: bool) -> None:
        """As `open`, where a socket was before; `told`: the log says already that there is none."""
        self._open(logging.DEBUG if told else logging.WARNING)

    def _open(self, level: int) -> None:
        try:
            self._start(self._listen(own_folder(self._runtime.where())))
        except (OSError, ConfigError, RuntimeError) as error:
            text = "no admin socket, so commands do not see this process: %s; set PEERFABRIC_ADMIN=off if that is meant"
            remark(level, text, error)
            self._again_at = time.monotonic() + _AGAIN

    def _start(self, listener: socket.socket) -> None:
        thread = OwnThread(target=self._run, args=(listener,), name="peerfabric-admin", daemon=True)
        try:
            thread.start()
        except BaseException:
            self.remove()
            listener.close()
            self._listener = None
            raise
        self._thread = thread

    def _listen(self, folder: Path) -> socket.socket:
        sweep(folder)
        place = own_place(folder)
        # Under a name that nobody connects to; where it gets its own there may be one from before an exec.
        hidden = folder / f".{place.path.name}"
        hidden.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short(hidden) as path:
                listener.bind(path)
            os.chmod(hidden, 0o600)
            listener.listen(BACKLOG)
            os.rename(hidden, place.path)
            status = os.lstat(place.path)
        except BaseException:
            listener.close()
            with suppress(OSError):
                hidden.unlink(missing_ok=True)
            raise
        self._listener, self.path, self._identity = listener, place.path, (status.st_dev, status.st_ino)
        return listener

    def is_where_others_look(self) -> bool:
        """Whether the socket is where it was made, and would be made there now; so, too, if there shall be none."""
        path = self.path
        if path is None:
            return time.monotonic() < self._again_at
        try:
            status = os.lstat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity and path.parent.parent == self._runtime.where()

    def remove(self) -> None:
        """Take the name away, so that nobody comes any more."""
        path, self.path = self.path, None
        if path is not None:
            with suppress(OSError):
                status = os.lstat(path)
                if (status.st_dev, status.st_ino) == self._identity:
                    remove_socket(path)

    def close(self, timeout: float = _END_TIMEOUT) -> None:
        """End all threads; requests that are being answered get no answer. The first is waited for."""
        self.remove()
        with self._lock:
            self._closed = True
            listener, connections = self._listener, list(self._connections)
        for each in (listener, *connections):
            if each is not None:
                with suppress(OSError):  # the other end may have gone before
                    each.shutdown(socket.SHUT_RDWR)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def forked(self) -> None:
        """In a child process: all this belongs to the parent."""
        self._closed = True
        self.path = None
        for each in (self._listener, *self._connections):
            if each is not None:
                each.close()
        self._connections.clear()

    # The thread

    def _run(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError as error:
                    if self._closed:
                        return
                    if error.errno in _EXHAUSTED:
                        time.sleep(_PATIENCE)
                    elif error.errno != errno.ECONNABORTED:
                        _log.error("the admin socket has ended: %s; commands do not see this process any more", error)
                        self.remove()
                        self._again_at = time.monotonic() + _AGAIN
                        return
                    continue
                try:
                    self._let_in(connection)
                except Exception:
                    _log.error("a connection to the admin socket has failed", exc_info=True)
                    self._let_go(connection)

    def _let_in(self, connection: socket.socket) -> None:
        uid = peer_uid(connection)
        if uid not in (None, 0, os.geteuid()):
            _refuse(connection, FORBIDDEN)
            return
        with self._lock:
            is_busy = self._closed or len(self._connections) - self._following >= CONNECTIONS_MAX
            if not is_busy:
                self._connections.add(connection)
        if is_busy:
            _refuse(connection, BUSY)
            return
        with suppress(OSError):  # it has gone, as is found when it is answered
            connection.send(HEARD)  # into an empty buffer
        # Not an `OwnThread`: what it does for who asks may wait for a node.
        thread = threading.Thread(target=self._converse, args=(connection,), name="peerfabric-admin-asked", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # at the end of the program, or of what a process may have
            self._converse(connection)

    @contextmanager
    def _may_follow(self) -> Iterator[bool]:
        """Whether one more connection may follow something, as this one does while the block lasts."""
        with self._lock:
            # In the listening thread (see `_let_in`) it would keep all others out.
            has_room = self._following < CONNECTIONS_MAX and threading.current_thread() is not self._thread
            self._following += has_room
        try:
            yield has_room
        finally:
            with self._lock:
                self._following -= has_room

    def _converse(self, connection: socket.socket) -> None:
        try:
            with importing:
                from peerfabric.nodes.door.conversation import converse  # with what only processes that are asked need

            converse(connection, self._residents, self._may_follow)
        except OSError:
            pass  # who asked has gone
        except Exception:
            _log.error("a request at the admin socket has failed", exc_info=True)
        finally:
            self._let_go(connection)

    def _let_go(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.close()


def _refuse(connection: socket.socket, answer: bytes) -> None:
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.send(answer)
        # Closed with something unread, the connection is reset, and the answer is lost with it.
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)
