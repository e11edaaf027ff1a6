"""Client of admin sockets: asks all processes of this user at once, or one of them."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from peerfabric import errors
from peerfabric.arguments import check_timeout
from peerfabric.discovery.host import runtime_folder
from peerfabric.errors import ConfigError, FabricError
from peerfabric.nodes.door.place import (
    REQUEST_BYTES_MAX,
    SUFFIX,
    Place,
    lives,
    places,
    readable_folder,
    remove_left_over,
    short,
)
from peerfabric.nodes.door.registered import Handler
from peerfabric.nodes.door.registered import register as _register
from peerfabric.status import Status

VERSION: Final = 1
AT_ONCE: Final = 256
"""Processes asked at one time; each costs a descriptor."""
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
SHARE: Final = 0.5
"""Of the time that a process is given, how much it may wait for its machines: what is late itself tells nothing."""
HEARD_TIME: Final = 5.0
"""Seconds that a process is given at least which has said that it has heard: the first look loads what answers."""
_AGAIN: Final = 0.01
"""Seconds after which somebody is asked again who was busy, or had no room."""


class Answer(NamedTuple):
    """One process: its `status`, or the `problem` for which there is none."""

    pid: int
    started: int
    path: Path
    status: Status | None
    problem: str


Process: TypeAlias = Answer | int | str | os.PathLike[str]
"""A process to ask: one of `processes`, its pid, or the path of its socket."""


class NotAnswered(FabricError):
    """A process that is gone, stopped or starved, or answers nothing that can be read; `pid` is 0 if it is not known.

    What it was asked to do it may have done, unless it is gone.
    """

    def __init__(self, pid: int, text: str) -> None:
        self.pid = pid
        super().__init__(text)


def processes(
    timeout: float = 1.0,
    *,
    queues: int = 200,
    fabric: str = "",
    folder: str | os.PathLike[str] | None = None,
) -> list[Answer]:
    """Ask all processes of this user on this host at once what their nodes are doing; by pid.

    It returns as soon as all have answered. Who does not has no status, and a problem. Sockets that were left over are
    removed.

    Args:
        timeout: Seconds after which a process that has said nothing is called silent. One that has heard, and says so
            before it loads what answers, is waited for as long as 5 seconds in all, or `timeout` if that is longer.
        queues: Of each kind and node at most so many are told of, the deepest.
        fabric: Only nodes of this one; empty: of all. A process without any of them is among the answers, too.
        folder: The runtime folder; None: that of this process. Root may give those of others.

    Raises:
        ConfigError: The folder cannot be trusted.
        TypeError, ValueError: `timeout` is no finite number.
    """
    found = answers(timeout, queues=queues, fabric=fabric, folder=folder)
    return sorted(found, key=lambda answer: (answer.pid, answer.started))


def answers(
    timeout: float = 1.0,
    *,
    queues: int = 200,
    fabric: str = "",
    folder: str | os.PathLike[str] | None = None,
) -> Iterator[Answer]:
    """As `processes`, each as it answers; those that say nothing come after `timeout` seconds."""
    timeout = check_timeout(timeout) or 0.0
    ends_at = time.monotonic() + timeout
    request: dict[str, Any] = {"v": VERSION, "do": "status", "queues": queues, "wait": min(5.0, SHARE * timeout)}
    if fabric:
        request["fabric"] = fabric
    line = _encoded(request)
    asked = [_Asked(place, line, timeout) for place in places(_folder(folder))]
    return _answers(asked, ends_at, ends_at - timeout + max(timeout, HEARD_TIME))


def here(queues: int = 200, *, wait: float = 1.0) -> Status:
    """The status of this process, without its socket: also where that is off.

    Args:
        queues: Of each kind and node at most so many are told of, the deepest.
        wait: Seconds after which a node is left without its machines, if they are busy.
    """
    from peerfabric.nodes.door.requests import status  # as in a process that is asked
    from peerfabric.nodes.process import residents

    return status(residents(), queues, wait)


def ask(process: Process, do: str, *, timeout: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """Ask one process to do something, and return its answer.

    Args:
        process: An `Answer`, a pid of the runtime folder of this process, or the path of a socket.
        do: "status", "stacks", "dead", "retry", "drop", "pause", "resume", "purge", "trace", or what the process has
            registered.
        arguments: Of that; docs/operations.md has a table.

    Raises:
        NotAnswered: It is gone, did not answer in time, or does not know what it was asked.
        FabricError: What it was asked to do raised that there.
        ConfigError: The arguments are none of what was asked for.
    """
    place = _place(process)
    with _connected(place, do, timeout) as connection:
        ends_at = time.monotonic() + timeout
        with suppress(BrokenPipeError):  # refused: the answer says why
            connection.sendall(_encoded({"v": VERSION, "do": do, **arguments}))
        line = _first(connection, ends_at)
        if line is None:
            raise _late(place, do, timeout)
        if len(line) > ANSWER_BYTES_MAX:
            raise NotAnswered(place.pid, f"the answer of process {place.pid} is too long; ask for less")
        if b"\n" not in line:
            raise _cut_off(place, do)
    return checked(place, bytes(line))


def _first(connection: socket.socket, ends_at: float) -> bytearray | None:
    """The first line, with what has come after it, or without its end if no more comes; None: it is late."""
    found = bytearray()
    data = b""
    while b"\n" not in data and len(found) <= ANSWER_BYTES_MAX:
        connection.settimeout(max(0.001, ends_at - time.monotonic()))
        try:
            data = connection.recv(1 << 20)
        except TimeoutError:
            return None
        except OSError:
            data = b""
        if not data:
            break
        found += data
    return found


class Following:
    """A stream of one process: iterate over it; `close`, from any thread, or the end of the process ends that."""

    def __init__(self, place: Place, connection: socket.socket, begun: bytearray) -> None:
        self.pid = place.pid
        self._place, self._connection = place, connection
        self._rest = begun
        self._reads = False
        checked(place, self._line() or b"")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        while (line := self._line()) is not None:
            if line.strip():
                return checked(self._place, line)
        self._connection.close()
        raise StopIteration

    def _line(self) -> bytes | None:
        while b"\n" not in self._rest:
            self._reads = True
            try:
                data = self._connection.recv(1 << 16)
            except OSError:
                data = b""
            finally:
                self._reads = False
            if not data:
                return None
            self._rest += data
        line, _, rest = self._rest.partition(b"\n")
        self._rest = rest
        return bytes(line)

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End it: whoever iterates comes to the end. May be called twice."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if not self._reads:  # else whoever reads closes it: its number may be another one's before he looks
            self._connection.close()


def follow(process: Process, do: str, **arguments: Any) -> Following:
    """Have one process tell what happens, "tap" a queue or topics, until the stream is closed or the process ends.

    Returns when it has begun. A line `{"skipped": n}` says that so many were left out, as they came too fast.

    Raises:
        NotAnswered: It is gone, did not begin within 5 seconds, or does not know what it was asked.
        FabricError: What it was asked to do raised that there.
    """
    place, timeout = _place(process), 5.0
    connection = _connected(place, do, timeout)
    try:
        connection.settimeout(timeout)
        with suppress(BrokenPipeError):
            connection.sendall(_encoded({"v": VERSION, "do": do, **arguments}))
        try:
            # The first line says that it has begun, or why not.
            line = _first(connection, time.monotonic() + timeout)
            if line is None:
                raise _late(place, do, timeout)
            begun = Following(place, connection, line)
        finally:
            connection.settimeout(None)
        return begun
    except BaseException:
        connection.close()
        raise


def register(do: str, handler: Handler) -> Callable[[], None]:
    """Have this process answer `do` at its admin socket with what `handler` makes of the arguments.

    It is called in a thread of its own, which may wait, and returns something that JSON can hold; None: the request
    concerns another handler of the same name. What it raises is the answer. Return what ends that.
    """
    return _register(do, handler)


# One of many


class _Asked:
    """A process that is asked, while its answer comes."""

    def __init__(self, place: Place, request: bytes, timeout: float) -> None:
        self.place, self._request, self._timeout = place, request, timeout
        self.connection: socket.socket | None = None
        self._line = bytearray()
        self.heard = False
        """Whether it has said anything, so that it lives."""
        self._left_over = False
        self._problem = ""
        self.is_over = False
        self.again_at = 0.0

    def begin(self) -> bool:
        """Connect and ask; whether an answer is to come on `connection`."""
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            self._problem, self.is_over = f"this process cannot ask it: {error.strerror}; see `ulimit -n`", True
            return False
        try:
            connection.setblocking(False)
            with short(self.place.path) as path:
                connection.connect(path)
            with suppress(BrokenPipeError):
                connection.send(self._request)  # into an empty buffer, which is larger
        except BlockingIOError:  # many ask it, and it accepts nobody
            self.again_at = time.monotonic() + _AGAIN
        except ConnectionRefusedError:
            self._left_over = self.is_over = True
        except FileNotFoundError:
            self._left_over = self.is_over = True  # it ended just now
        except OSError as error:
            self._problem, self.is_over = f"its socket cannot be used: {error.strerror}", True
        else:
            self.connection = connection
            return True
        connection.close()
        return False

    def read(self) -> None:
        """Take what has come."""
        assert self.connection is not None
        try:
            data = self.connection.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._line += data
        self.heard = self.heard or bool(data)
        if data and not data.endswith(b"\n") and len(self._line) <= ANSWER_BYTES_MAX:
            return
        self.close()
        if self._line.lstrip().startswith(b'{"error":"busy"'):
            self._line.clear()
            self.again_at = time.monotonic() + _AGAIN
        else:
            self.is_over = True

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def answer(self) -> Answer | None:
        """What came of it; None: there is no such process."""
        place, status, problem = self.place, None, self._problem
        if self._left_over:
            if remove_left_over(place) or not place.path.exists():
                return None
            problem = "its socket is left over: the process is another program now"
        elif self._problem:
            pass
        elif not self.is_over and self.heard:
            problem = f"no answer in {max(self._timeout, HEARD_TIME):g} s, though it has heard: it is starved, or hangs"
        elif not self.is_over:
            problem = f"no answer in {self._timeout:g} s: {_why(place)}"
        else:
            try:
                status = msgspec.json.decode(self._line, type=Status)
            except msgspec.ValidationError:
                problem = _told(bytes(self._line))
            except msgspec.DecodeError:
                if not self._line.strip() and not (lives(place.pid, place.started) and place.path.exists()):
                    return None  # it has ended meanwhile, or closed its last node
                problem = "no whole answer"
        return Answer(place.pid, place.started, place.path, status, problem)


def _answers(waiting: list[_Asked], silent_at: float, ends_at: float) -> Iterator[Answer]:
    """Ask all, some of them at a time, until all is over; at `silent_at` it is for those that have said nothing."""
    reading: dict[int, _Asked] = {}
    poller = select.poll()
    try:
        while waiting or reading:
            now = time.monotonic()
            over = []
            for each in waiting.copy():
                if len(reading) < AT_ONCE and each.again_at <= now:
                    if each.begin() and each.connection is not None:
                        reading[each.connection.fileno()] = each
                        poller.register(each.connection, select.POLLIN)
                        waiting.remove(each)
                    elif each.is_over:
                        waiting.remove(each)
                        over.append(each)
            now = time.monotonic()
            pause = (silent_at if now < silent_at else ends_at) - now
            if waiting or over:
                pause = min(pause, _AGAIN)
            for descriptor, _ in poller.poll(max(0.0, 1000 * pause)) if reading or waiting else ():
                each = reading[descriptor]
                each.read()
                if each.connection is None:
                    poller.unregister(descriptor)
                    del reading[descriptor]
                    (over if each.is_over else waiting).append(each)
            if now >= silent_at:
                late = [each for each in (*reading.values(), *waiting) if now >= ends_at or not each.heard]
                for descriptor in [descriptor for descriptor, each in reading.items() if each in late]:
                    poller.unregister(descriptor)
                    reading.pop(descriptor).close()
                waiting = [each for each in waiting if each not in late]
                over += late
            yield from filter(None, [each.answer() for each in over])
    finally:
        for each in reading.values():
            each.close()


def _why(place: Place) -> str:
    if lives(place.pid, place.started):
        return "stopped, or starved"
    return "it has ended and a child of it has its socket open, or it is stopped in a container"


def _told(line: bytes) -> str:
    try:
        found = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return "its answer cannot be read"
    return str(found.get("text") or "its answer cannot be read: it is of another version")


# One


def _folder(folder: str | os.PathLike[str] | None) -> Path:
    return readable_folder(runtime_folder() if folder is None else Path(folder))


def _place(process: Process) -> Place:
    if isinstance(process, Answer):
        return Place(process.pid, process.started, process.path)
    if isinstance(process, int):
        for place in reversed(places(_folder(None))):
            if place.pid == process:
                return place
        raise NotAnswered(process, f"process {process} has no admin socket here; `peerfabric top` lists those that do")
    path = Path(process)
    pid, _, started = path.name.removesuffix(SUFFIX).partition("-")
    return Place(int(pid) if pid.isdigit() else 0, int(started) if started.isdigit() else 0, path)


def _connected(place: Place, do: str, timeout: float) -> socket.socket:
    """A connection to a process.

    Raises:
        NotAnswered: It is gone, or lets nobody in.
    """
    ends_at = time.monotonic() + timeout
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        while True:
            try:
                with short(place.path) as path:
                    connection.connect(path)
                return connection
            except BlockingIOError:
                if time.monotonic() > ends_at:
                    raise _late(place, do, timeout) from None
                time.sleep(_AGAIN)
    except TimeoutError:
        connection.close()
        raise _late(place, do, timeout) from None
    except OSError as error:
        connection.close()
        if isinstance(error, ConnectionRefusedError):
            remove_left_over(place)
        text = f"process {place.pid} cannot be asked: {error.strerror or error}; it has ended, or closed its last node"
        raise NotAnswered(place.pid, text) from None
    except BaseException:
        connection.close()
        raise


def _late(place: Place, do: str, timeout: float) -> NotAnswered:
    text = f"process {place.pid} did not answer {do!r} in {timeout:g} s: {_why(place)}; look at it with a debugger"
    return NotAnswered(place.pid, text)


def _cut_off(place: Place, do: str) -> NotAnswered:
    return NotAnswered(place.pid, f"process {place.pid} went away while it answered {do!r}; see whether it still runs")


def _encoded(request: Mapping[str, Any]) -> bytes:
    try:
        line = msgspec.json.encode(request) + b"\n"
    except (TypeError, UnicodeEncodeError) as error:
        raise ConfigError(f"these arguments cannot be written as JSON: {error}; give plain values") from None
    if len(line) > REQUEST_BYTES_MAX:
        raise ConfigError(f"a request has at most {REQUEST_BYTES_MAX:,} bytes; ask for less at a time")
    return line


def checked(place: Place, line: bytes) -> dict[str, Any]:
    """The answer that a line is.

    Raises:
        NotAnswered: It is none.
        FabricError, ConfigError: It says that.
    """
    try:
        found = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise NotAnswered(
            place.pid, f"the answer of process {place.pid} cannot be read; is it of our version?"
        ) from None
    code = found.get("error")
    if not isinstance(code, str) or "text" not in found:
        return found
    text = str(found["text"])
    kind = getattr(errors, code, None) if code in errors.__all__ else None
    if kind is not None:
        raise _made(kind, text, found.get("about"))
    if code == "request":
        raise ConfigError(text)
    raise NotAnswered(place.pid, f"process {place.pid}: {text}")


def _made(kind: type[FabricError], text: str, about: object) -> FabricError:
    """The error that was raised there, with the attributes that could be written."""
    base: type[Exception] = OSError if issubclass(kind, OSError) else Exception
    error = base.__new__(kind)
    assert isinstance(error, FabricError)
    error.args = (text,)
    if isinstance(about, dict):
        vars(error).update(about)
    return error
