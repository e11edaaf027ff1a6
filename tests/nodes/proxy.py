"""A TCP proxy that a test can cut and heal, each direction by itself."""

from __future__ import annotations

import select
import socket
import threading


class CutProxy:
    """Passes connections on to a port of this machine, until they are cut.

    A cut closes what is open, as a network does that drops packets until the ends give up, and refuses to pass
    anything on until it is healed.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._is_cut = False
        self._ended = False
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self.passed = 0
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    def cut(self) -> None:
        """Close every connection, and those that come until `heal`; what is under way in them is lost."""
        with self._lock:
            self._is_cut = True
        self._wake.send(b"x")

    def heal(self) -> None:
        """Pass on what comes from now on."""
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        self._ended = True
        self._wake.send(b"x")
        self._thread.join()
        for open_socket in (self._listener, self._wake, self._woken):
            open_socket.close()

    def _run(self) -> None:
        while not self._ended:
            readable, _, _ = select.select([self._listener, self._woken, *self._pairs], [], [])
            with self._lock:
                is_cut = self._is_cut
            if self._woken in readable:
                self._woken.recv(100)
            if is_cut:
                self._drop_all()
            for source in readable:
                if source is self._listener:
                    self._accept(is_cut)
                elif source in self._pairs:
                    self._pass_on(source)
        self._drop_all()

    def _accept(self, is_cut: bool) -> None:
        arrived, _ = self._listener.accept()
        if is_cut:
            arrived.close()
            return
        try:
            onward = socket.create_connection(("127.0.0.1", self._target))
        except ConnectionRefusedError:
            arrived.close()  # its node has closed
            return
        self._pairs[arrived], self._pairs[onward] = onward, arrived

    def _pass_on(self, source: socket.socket) -> None:
        try:
            data = source.recv(65536)
            self._pairs[source].sendall(data)
        except OSError:
            data = b""
        self.passed += len(data)
        if not data:
            other = self._pairs.pop(source)
            self._pairs.pop(other, None)
            source.close()
            other.close()

    def _drop_all(self) -> None:
        for open_socket in self._pairs:
            # Reset rather than finish: what lies in buffers is lost, as with a cable.
            open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            open_socket.close()
        self._pairs.clear()
