"""Conversation at the admin socket: one JSON line in, one line or a stream of them out, and the end.

    {"v":1,"do":"status","queues":200}

What is asked is read as plain values, two levels deep and no deeper, and then as the arguments of what is to be done.
What cannot be done is answered by `{"error": CODE, "text": …}`; of an error of peerfabric, CODE is its class.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, TypeAlias

import msgspec

from peerfabric.discovery.log import log as _log
from peerfabric.errors import FabricError
from peerfabric.nodes.door.place import CONNECTIONS_MAX, REQUEST_BYTES_MAX
from peerfabric.nodes.door.requests import Following, Refused, Residents, answer, encoded
from peerfabric.nodes.platform import bell

TIME_MAX: Final = 5.0
"""Seconds that a request may take to come, and as many that its answer, or a line of a stream, may take to be read."""
LINES_MAX: Final = 1000
"""Of a stream, which wait for a reader that is slow; others are left out, and it is told how many."""
_HEARTBEAT: Final = 15.0
"""Seconds after which a stream with nothing to tell sends an empty line."""

Plain: TypeAlias = str | int | float | bool | None
Inner: TypeAlias = Plain | list[Plain] | dict[str, Plain]
Value: TypeAlias = Plain | list[Inner] | dict[str, Inner]

_decoder: Final = msgspec.json.Decoder(dict[str, Value])
_encode: Final = msgspec.json.Encoder(enc_hook=repr).encode


def converse(
    connection: socket.socket, residents: Residents, may_follow: Callable[[], AbstractContextManager[bool]]
) -> None:
    """Read a request, answer it, and return when the answer, or the last line of a stream, is written.

    Args:
        may_follow: Whether there is room for one more stream, for as long as the block lasts.

    Raises:
        OSError: Who asked has gone, or does not read.
    """
    try:
        request = _request(connection)
        if request is None:
            return
        found = answer(residents, request)
    except Exception as error:
        found = _problem(error)
    connection.settimeout(TIME_MAX)
    if isinstance(found, Following):
        with may_follow() as has_room:
            if has_room:
                _follow(connection, found)
                return
        text = f"{CONNECTIONS_MAX} follow something here; end one of them"
        connection.sendall(_line({"error": "busy", "text": text}))
    else:
        connection.sendall(_line(found))


def _request(connection: socket.socket) -> dict[str, Any] | None:
    """What is asked; None if nothing is.

    Raises:
        Refused: It cannot be read.
    """
    ends_at = time.monotonic() + TIME_MAX
    line = bytearray()
    while b"\n" not in line and len(line) <= REQUEST_BYTES_MAX:
        connection.settimeout(max(0.001, ends_at - time.monotonic()))
        try:
            data = connection.recv(REQUEST_BYTES_MAX)
        except TimeoutError:
            raise Refused("timeout", f"no whole line came within {TIME_MAX:g} s; send one JSON object") from None
        if not data:
            break
        line += data
    content = bytes(line).partition(b"\n")[0]
    if not content:
        return None
    if len(content) > REQUEST_BYTES_MAX:
        raise Refused("too large", f"a request has at most {REQUEST_BYTES_MAX:,} bytes; ask for less at a time")
    return decode_request(content)


def decode_request(content: bytes) -> dict[str, Any]:
    """The values that were sent, whatever they are.

    Raises:
        Refused: They are none.
    """
    try:
        return _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Refused("request", f'{error}; send one JSON object such as {{"v":1,"do":"status"}}') from None


def _problem(error: Exception) -> dict[str, Any]:
    if isinstance(error, Refused):
        return {"error": error.code, "text": str(error), **error.more}
    if isinstance(error, FabricError):
        plain = {name: value for name, value in vars(error).items() if isinstance(value, Plain)}
        # Errors of ours that are no public names are known elsewhere by what they are kinds of.
        kind = next(each for each in type(error).__mro__ if each.__module__ == FabricError.__module__)
        return {"error": kind.__name__, "text": str(error), "about": plain}
    _log.error("a request at the admin socket has failed", exc_info=error)
    return {"error": "failed", "text": f"{type(error).__name__}: {error}; its process has logged where"}


def _line(found: Mapping[str, Any]) -> bytes:
    try:
        return encoded(_encode, found) + b"\n"
    except Exception as error:  # a handler of somebody else has made it
        return _encode(_problem(error)) + b"\n"


class Lines:
    """Lines that wait for the reader of a stream; `put` may be called in any thread, and in the middle of anything.

    Its descriptors are closed with the last reference to it: who still puts when the stream has ended would else write
    to what has got their numbers by then, which may be a file.
    """

    def __init__(self) -> None:
        self._lines: deque[Mapping[str, Any]] = deque()
        self._skipped = 0
        self._ends: tuple[int, ...] = ()
        self.bell, self._ring = self._ends = bell()

    def put(self, line: Mapping[str, Any]) -> None:
        if len(self._lines) >= LINES_MAX:
            self._skipped += 1
            return
        self._lines.append(line)
        with suppress(BlockingIOError):  # full, it is readable already
            os.write(self._ring, (1).to_bytes(8, "little"))

    def take(self) -> Iterable[Mapping[str, Any]]:
        with suppress(BlockingIOError):
            os.read(self.bell, 4096)
        while self._lines:
            yield self._lines.popleft()
        skipped, self._skipped = self._skipped, 0
        if skipped:
            yield {"skipped": skipped}

    def __del__(self) -> None:
        for descriptor in set(self._ends):
            os.close(descriptor)


def _follow(connection: socket.socket, following: Following) -> None:
    lines = Lines()
    end: Callable[[], None] | None = None
    try:
        end = following.begin(lines.put)
        connection.sendall(_line({"following": following.what}))
        _write(connection, lines)
    except FabricError as error:
        connection.sendall(_line(_problem(error)))
    finally:
        if end is not None:
            end()


def _write(connection: socket.socket, lines: Lines) -> None:
    """Write what comes until the reader goes, or does not read."""
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    waiting.register(lines.bell, select.POLLIN)
    while True:
        ready = dict(waiting.poll(1000 * _HEARTBEAT))
        if connection.fileno() in ready and not connection.recv(4096):
            return
        written = False
        for line in lines.take():
            connection.sendall(_line(line))
            written = True
        if not ready and not written:
            connection.sendall(b"\n")
