"""Listeners: the endpoints that a ZeroMQ socket is bound to, and their socket files.

A socket file can be removed under a node: by a cleaner of temporary files, or with the folder of a session that ends.
Whoever is connected stays so, and nobody new gets in, until it is bound at the same path again. To unbind first would
cut off everybody whom that endpoint has let in (libzmq 4.3.5 lets it own their connections; tried over ipc and TCP). So
what was bound before stays bound beside its successor. libzmq tells them apart by their text, hence the path is spelled
with another number of slashes each time. OLD_MAX of them are kept, for a descriptor each; then the oldest is unbound,
and those whom it let in connect again.

It is we who have the kernel listen, and ZeroMQ is lent a copy of each descriptor (ZMQ_USE_FD). So a socket of ZeroMQ
can be closed, with all its connections, and be followed by another, while nobody is refused: who connects in between
waits in the kernel's queue, as with a stopped process, and does not take us for dead.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

import zmq

from peerfabric.discovery.host import IPC_PATH_BYTES_MAX
from peerfabric.discovery.log import log as _log
from peerfabric.errors import ConfigError, EndpointInUse
from peerfabric.nodes.io.listening import listening_path
from peerfabric.nodes.io.probe import address_of, family_of, is_tcp

if TYPE_CHECKING:
    ZmqSocket = zmq.Socket[bytes]
    from peerfabric.nodes.io.curve import Curve, Options

Kernel: TypeAlias = socket.socket
"""What the kernel listens with."""

OLD_MAX: Final = 3
"""Endpoints without a file that stay bound for those whom they let in."""
_BACKLOG: Final = 1024


class _File:
    """The socket file of an endpoint."""

    __slots__ = ("bound", "identity", "path")

    def __init__(self, path: str, bound: str) -> None:
        self.path = path
        """Absolute, since a process may change its folder."""
        self.bound = bound
        """What libzmq was told."""
        self.identity = _identity(path)
        """Device and inode. A number is not used again while its socket is open."""


class Listener:
    """Binds a socket of ZeroMQ, and knows whether the files that lead to it are there. Belongs to its thread."""

    def __init__(self, ours: ZmqSocket) -> None:
        self._socket = ours
        self._options: dict[str, Options] = {}
        """What sets the options of an endpoint, by what libzmq was told. They count for the next bind, so they are set
        before each one."""
        self._files: dict[str, _File] = {}
        self._kernel: dict[str, socket.socket] = {}
        """What the kernel listens with, by what libzmq was told. Not for old ones, which never move."""
        self._lent: set[str] = set()
        """Those of which the socket has a copy."""
        self._old: list[str] = []
        self.leaves_files = False
        """Whether closing leaves the files."""

    def __contains__(self, endpoint: str) -> bool:
        """Whether it has a file."""
        return endpoint in self._files

    def bind(self, endpoint: str, options: Options | None = None, kernel: Kernel | None = None) -> str:
        """Listen at `endpoint` and return the real one, with its port.

        Args:
            options: Sets on the socket what this endpoint needs, now and whenever it is bound again; if one endpoint
                has some, all need them.
            kernel: Listens there already, at its real port, and is ours from here on.

        Raises:
            EndpointInUse: Somebody listens there.
            ConfigError: Not an endpoint, or one that cannot be bound here.
        """
        if kernel is not None:
            return self._take_over(endpoint, options, kernel)
        path = listening_path(endpoint)
        real = self._bind(endpoint, options)
        if path is not None:
            self._files[real] = _File(os.path.abspath(path), endpoint)
        return real

    def gone(self) -> list[str]:
        """Return the endpoints whose file is not there, or is not ours any more.

        Raises:
            OSError: They cannot be looked at, which says nothing about them.
        """
        return [e for e, file in self._files.items() if not file.identity or _identity(file.path) != file.identity]

    def bind_again(self, endpoint: str) -> None:
        """Listen at the path of one that is gone; whoever is connected stays, but see above.

        Raises:
            EndpointInUse, ConfigError: As `bind`.
        """
        file = self._files[endpoint]
        listening_path(f"ipc://{file.path}")
        spelled = self._spell(file)
        self._bind(spelled, self._options.get(file.bound))
        self._retire(file.bound)
        self._files[endpoint] = _File(file.path, spelled)

    def leave(self, endpoint: str) -> None:
        """Be found at `endpoint` no more: remove its file, which once unbound would refuse, as those of the dead do."""
        file = self._files.pop(endpoint)
        _remove(file)
        self._retire(file.bound)

    def remove_files(self) -> None:
        """Remove the files of all endpoints, except what somebody else has put there."""
        for file in self._files.values():
            _remove(file)

    @property
    def endpoints(self) -> list[str]:
        """Where it listens."""
        tcp = [told for told in self._kernel if not told.startswith("ipc://")]
        return [*self._files, *tcp]

    def move(self, to: ZmqSocket) -> None:
        """The socket was closed; let `to` accept in its place, also those who have connected meanwhile.

        Raises:
            OSError: There are no descriptors; `to` does not accept everywhere. Called again, it goes on from there.
        """
        if to is not self._socket:
            self._socket = to
            self._old.clear()
            self._lent.clear()
        for told, kernel in self._kernel.items():
            if told not in self._lent:
                self._lend(told, kernel)

    def change(self, endpoint: str, options: Options) -> None:
        """Use these options for a TCP endpoint, from the next `move` to another socket on."""
        self._options[endpoint] = options

    def close(self) -> None:
        """Listen no more, and remove the files. The socket is closed already. May be called twice."""
        self.abandon()
        if not self.leaves_files:
            self.remove_files()

    def abandon(self) -> None:
        """In a forked child: it is the parent who listens."""
        for kernel in self._kernel.values():
            kernel.close()

    def _bind(self, endpoint: str, options: Options | None) -> str:
        """Listen at `endpoint`; return the real one, which is also what libzmq is told."""
        host, _, port = endpoint.rpartition(":")
        local = endpoint.startswith("ipc://")
        address = address_of(endpoint if local else f"{host}:{0 if port == '*' else port}")
        assert address is not None
        try:
            kernel = socket.socket(family_of(address), socket.SOCK_STREAM)
            try:
                if not local:
                    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if host == "tcp://[::]":
                    kernel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # for IPv4, too
                kernel.bind(address)
                if local:
                    with suppress(FileNotFoundError):  # removed already
                        os.chmod(endpoint.removeprefix("ipc://"), 0o600)
                kernel.listen(_BACKLOG)
                kernel.setblocking(False)
                real = endpoint if local else f"{host}:{kernel.getsockname()[1]}"
                if options is not None:
                    self._options[real] = options
                self._lend(real, kernel)
            except BaseException:
                kernel.close()
                raise
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EndpointInUse(endpoint) from error
            raise ConfigError(
                f"cannot listen at {endpoint}: {error.strerror}; use an address of this host and an existing folder"
            ) from error
        self._kernel[real] = kernel
        return real

    def _take_over(self, endpoint: str, options: Options | None, kernel: Kernel) -> str:
        if options is not None:
            self._options[endpoint] = options
        try:
            self._lend(endpoint, kernel)
        except OSError as error:
            kernel.close()
            raise ConfigError(f"cannot listen at {endpoint}: {error.strerror}; use another port") from error
        self._kernel[endpoint] = kernel
        return endpoint

    def _lend(self, told: str, kernel: socket.socket) -> None:
        """Let ZeroMQ accept, from a copy that it will close.

        Raises:
            OSError: It does not.
        """
        copy = os.dup(kernel.fileno())
        options = self._options.get(told)
        try:
            if options is not None:
                options(self._socket)
            self._socket.set(zmq.USE_FD, copy)
            self._socket.bind(told)
        except zmq.ZMQError as error:
            os.close(copy)  # libzmq takes it over in a bind that cannot fail any more
            raise OSError(error.errno, error.strerror) from error
        self._lent.add(told)

    def _spell(self, file: _File) -> str:
        """Return a text for the path that is not bound now. If it has no room for another slash, unbind old ones."""
        folder, name = os.path.split(file.path)
        room = IPC_PATH_BYTES_MAX - len(os.fsencode(file.path))
        while True:
            for more in range(min(room, OLD_MAX + 1) + 1):
                spelled = f"ipc://{folder.rstrip('/')}/{'/' * more}{name}"
                if spelled != file.bound and spelled not in self._old:
                    return spelled
            self._retire(file.bound)
            file.bound = ""
            self._unbind(self._old.pop(0))

    def _retire(self, bound: str) -> None:
        if bound:
            self._old.append(bound)
            self._kernel.pop(bound).close()
            self._lent.discard(bound)
            self._options.pop(bound, None)
        if len(self._old) > OLD_MAX:
            self._unbind(self._old.pop(0))

    def _unbind(self, endpoint: str) -> None:
        with suppress(zmq.ZMQError):
            self._socket.unbind(endpoint)


class Listeners:
    """What the inbox and the outbox of one node are bound to. Belongs to the thread of the sockets.

    With `curve` each TCP endpoint of the inbox is behind a gate, and the outbox has a key of its own.
    """

    def __init__(self, inbox: ZmqSocket, outbox: ZmqSocket, curve: Curve | None) -> None:
        self._inbox, self._outbox = self._both = Listener(inbox), Listener(outbox)
        self._curve = curve
        self._moved: dict[Listener, ZmqSocket] = {}  # that were made anew, and do not accept everywhere yet
        self._told = False
        self.inbox_gates: dict[str, str] = {}
        """The key id of the gate, by TCP endpoint of the inbox."""

    def bind(
        self, inbox: Sequence[str], outbox: Sequence[str], held: dict[str, Kernel], gates: Sequence[str] = ()
    ) -> tuple[list[str], list[str]]:
        """Listen at all of them, as `Sockets.bind` has it; `gates` are key ids, all gates by default.

        Raises:
            EndpointInUse, ConfigError: As `Listener.bind`; those before it stay bound.
        """
        curve = self._curve
        inbox_options: Sequence[Options | None] = [None] * len(inbox)
        outbox_options: Sequence[Options | None] = [None] * len(outbox)
        if curve is not None:
            inbox_options, outbox_options = curve.inbox_options(inbox, gates), curve.outbox_options(outbox)
        inboxes, outboxes = (
            [listener.bind(each, options, held.pop(each, None)) for each, options in zip(these, theirs, strict=True)]
            for listener, these, theirs in (
                (self._inbox, inbox, inbox_options),
                (self._outbox, outbox, outbox_options),
            )
        )
        if curve is not None:
            self.inbox_gates.update(zip(filter(is_tcp, inboxes), gates or curve.gates, strict=False))
        return inboxes, outboxes

    def regate(self, gates: dict[str, str]) -> None:
        """Have other gates before TCP endpoints of the inbox, from its next `move` on: key ids, by endpoint."""
        assert self._curve is not None
        for endpoint, key_id in gates.items():
            self._inbox.change(endpoint, self._curve.gates[key_id].serve)
        self.inbox_gates.update(gates)

    @property
    def endpoints(self) -> list[str]:
        """Where they listen."""
        return [*self._inbox.endpoints, *self._outbox.endpoints]

    @property
    def outboxes(self) -> list[str]:
        """The TCP endpoints of the outbox."""
        return [*filter(is_tcp, self._outbox.endpoints)]

    def gone(self) -> list[str]:
        """As `Listener.gone`, of both."""
        return [*self._inbox.gone(), *self._outbox.gone()]

    def bind_again(self, endpoint: str) -> None:
        """As `Listener.bind_again`, if it has a file."""
        for listener in self._both:
            if endpoint in listener:
                listener.bind_again(endpoint)

    def leave(self, endpoint: str) -> None:
        """As `Listener.leave`, if it has a file."""
        for listener in self._both:
            if endpoint in listener:
                listener.leave(endpoint)

    def remove_files(self) -> None:
        """As `Listener.remove_files`, of both."""
        for listener in self._both:
            listener.remove_files()

    def move(self, *, inbox: ZmqSocket | None = None, outbox: ZmqSocket | None = None) -> None:
        """That socket was closed and this one is to stand in its place: `follow_move` lets it accept."""
        for listener, new in zip(self._both, (inbox, outbox), strict=True):
            if new is not None:
                self._moved[listener] = new

    @property
    def have_moved(self) -> bool:
        """Whether a socket does not accept everywhere yet."""
        return bool(self._moved)

    def follow_move(self) -> bool:
        """Let the sockets that were made anew accept; False: one does not everywhere, and is to be tried again."""
        for listener, new in list(self._moved.items()):
            try:
                listener.move(new)
            except OSError as error:
                if not self._told:
                    self._told = True
                    where = " or ".join(listener.endpoints)
                    _log.error("nobody new can connect to %s until that can be bound: %s", where, error.strerror)
            else:
                del self._moved[listener]
        self._told = self._told and bool(self._moved)
        return not self._moved

    def leave_files(self) -> None:
        """Let closing leave the files, which refuse from then on, as those of a process do that was killed."""
        for listener in self._both:
            listener.leaves_files = True

    def close(self) -> None:
        """Listen no more; the sockets are closed already."""
        for listener in self._both:
            listener.close()

    def abandon(self) -> None:
        """In a forked child: it is the parent who listens."""
        for listener in self._both:
            listener.abandon()


def _identity(path: str) -> tuple[int, int] | None:
    """What tells the file at `path` from others; None if there is none."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _remove(file: _File) -> None:
    with suppress(OSError):
        if file.identity and _identity(file.path) == file.identity:
            os.unlink(file.path)
