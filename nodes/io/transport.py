"""Transport: frames into and out of ZeroMQ sockets, which of them are ours, and whether their bodies are copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from peerfabric.nodes.io.monitor import Connection, Monitor

ZmqSocket = zmq.Socket[bytes]

READ_SHARED_BYTES_MIN: Final = 16 * 1024
"""From this size on a received body is a view of ZeroMQ's own memory: 2.2 us at any size, where a copy takes 3.5 us at
16 KB and 20 us at 256 KB. Smaller ones may lie in a shared 8 KiB read buffer, which a view would keep alive."""

READ_SHARED_BYTES_MAX: Final = 300 * 1024
"""Above this size, which no frame of many messages has, it is a copy again, unless user code takes views: the one that
user code would be given anyway, made while the bytes are still in the processor's cache (1 MiB costs both processes
together 920 us of processor time, not 1,050) and so that ZeroMQ's memory is free at once. Without any it is 810 us."""

LARGE_BYTES_MIN: Final = 128 * 1024
"""From this size on a body counts as large: a stream of them is read in another rhythm (`Sockets.wait`)."""

SKIPPED_PARTS_MAX: Final = 4096
"""Parts of a foreign message thrown away in one `read`, about 2 ms of work."""


_OBSERVED_KIND: Final = b"\x01"
"""The kind of frame of which it matters from where it came: HELLO."""

_SENDERS_MAX: Final = 4096
"""Marks of ZAP whose meaning is remembered; a member may come back under any number of ids."""

# As plain integers: pyzmq's enums cost as much as the calls they are passed to.
EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_DONTWAIT: Final = int(zmq.DONTWAIT)


class Intake:
    """A socket to receive from, with the rules for what is a message of ours.

    Args:
        sender_of: The node id that a frame's User-Id names, None if it may not send; without it nobody is asked.
        observes: Whether it is to be told from which address a HELLO came.
    """

    def __init__(
        self,
        socket: ZmqSocket,
        *,
        parts_min: int,
        parts_max: int,
        sender_of: Callable[[str], str | None] | None = None,
        observes: bool = False,
    ) -> None:
        self.replace(socket)
        self._sender_of = sender_of
        self._senders: dict[str, str | None] = {}
        self._observes = observes
        self.marked = sender_of is not None or observes
        """Whether `marks` says something of each message."""
        self.marks: list[tuple[str, str]] = []
        """Sender and observed address of each message that the last `take` returned."""
        self.unadmitted = 0
        """Messages that were dropped because of whom they came from."""
        self.large = False
        """A body of LARGE_BYTES_MIN has come since somebody last cleared this."""
        self.shared_bytes_max = READ_SHARED_BYTES_MAX
        self._parts_min, self._parts_max = parts_min, parts_max
        self.foreign = 0
        """Messages that were dropped."""
        self.moved = 0
        """Bytes of the last parts of those that were not."""

    def replace(self, socket: ZmqSocket) -> None:
        """Receive from this one; what the other had is lost."""
        self.socket = socket
        self.fd = int(socket.fd)
        self.readable = False
        """Whether something may be there."""
        self._skipping = False  # in the middle of a message with too many parts

    def look(self) -> None:
        """After a call that may have taken the descriptor's news: see whether there is anything to read."""
        if is_ready(_POLLIN, self.socket):
            self.readable = True

    def ask_anew(self) -> None:
        """Others may send now than before."""
        self._senders.clear()

    def take(self, limit: int) -> list[list[bytes | memoryview]]:
        """Receive up to `limit` messages; `readable` tells afterwards whether there may be more.

        After the first message EVENTS is asked (2 us) and from the second on they are received until one is refused
        (5 us for the exception): the first is cheaper for a lone message, the second for many.
        """
        taken: list[list[bytes | memoryview]] = []
        if self.marked:
            self.marks = []
        try:
            if self._skipping:
                self._skip()
            for turn in range(limit):
                if self._skipping:
                    return taken
                if turn == 1 and not int(self.socket.get(EVENTS)) & _POLLIN:
                    self.readable = False
                    return taken
                message = self._receive()
                if message is not None:
                    taken.append(message)
                    self.moved += len(message[-1])
        except zmq.Again:
            self.readable = False
        return taken

    def _receive(self) -> list[bytes | memoryview] | None:
        """Receive one message, whose parts have all arrived with its first; None if it is foreign."""
        receive: Any = self.socket.recv  # its type differs with `copy`, which by keyword takes twice as long to pass
        frame = first = receive(_DONTWAIT, False)
        parts: list[bytes | memoryview] = [frame.bytes]
        while frame.more:
            if len(parts) == self._parts_max:
                self._skipping = True
                self._skip()
                return None
            frame = receive(_DONTWAIT, False)
            size = len(frame)
            if size >= LARGE_BYTES_MIN:
                self.large = True
            shared = READ_SHARED_BYTES_MIN <= size <= self.shared_bytes_max
            parts.append(frame.buffer.toreadonly() if shared else frame.bytes)
        if len(parts) < self._parts_min or not parts[0] or not parts[self._parts_min - 1]:
            self.foreign += 1
            return None
        if self.marked and not self._mark(first):
            self.unadmitted += 1
            return None
        return parts

    def _mark(self, first: zmq.Frame) -> bool:
        """Note whose message it is, by its first frame; False: of nobody who may send."""
        sender: str | None = ""
        if self._sender_of is not None:
            senders = self._senders
            try:
                user_id = str(first.get("User-Id"))  # 0.7 us
                sender = senders[user_id]
            except zmq.ZMQError:
                return False  # it came past ZAP
            except KeyError:
                if len(senders) >= _SENDERS_MAX:
                    senders.clear()
                sender = senders[user_id] = self._sender_of(user_id)
        if sender is None:
            return False
        self.marks.append((sender, self._observed(first) if self._observes else ""))
        return True

    def _observed(self, first: zmq.Frame) -> str:
        head = first.bytes[:4]
        # An array of fewer than 16 elements has a header of one byte, of fewer than 65,536 one of three.
        if ((head[:1] == b"\xdc" and head[3:4]) or head[1:2]) != _OBSERVED_KIND:
            return ""
        try:
            address = str(first.get("Peer-Address"))
        except zmq.ZMQError:
            return ""
        # Over ipc it names a process of this host.
        return "" if address.startswith("localhost") else address.removeprefix("::ffff:")

    def _skip(self) -> None:
        """Throw away the rest of a message, as much of it as may be done in one turn.

        libzmq hands a message over only when all of it has arrived, so its memory is spent already (pitfalls: the
        MORE bomb); what can be kept small is the time.
        """
        for _ in range(SKIPPED_PARTS_MAX):
            if not self.socket.recv(_DONTWAIT, copy=False).more:
                self._skipping = False
                self.foreign += 1
                return


def is_ready(state: int, socket: ZmqSocket) -> bool:
    """Let `socket` take in its news and say whether it is `_POLLIN` or `_POLLOUT`; its descriptor is quiet after."""
    return bool(int(socket.get(EVENTS)) & state)


Buffer = bytes | bytearray | memoryview

SEND_SHARED_BYTES_MIN: Final = 128 * 1024
"""From this size on a body is sent without a copy. Measured over TCP, in CPU time of the sender: copying 64 KiB takes
37 us and sharing it 49 us, since ZeroMQ returns shared memory through a thread of pyzmq's; at 256 KiB copying takes
as long as sharing, and sharing moves 15 % more."""

_DONTWAIT_MORE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)


class Wire:
    """One PUSH and what is known of it; `gated` if it is dialled under a key, at `now`."""

    __slots__ = ("connection", "endpoint", "fd", "monitor", "number", "push", "refusing", "send")

    def __init__(
        self, number: int, endpoint: str, push: ZmqSocket, monitor: Monitor, *, gated: bool, now: float
    ) -> None:
        self.number = number
        self.endpoint = endpoint
        self.push = push
        self.send = plain_send(push)
        self.monitor = monitor
        self.connection = Connection(number, gated=gated, now=now)
        self.fd = int(push.fd)
        self.refusing = False


def open_socket(
    context: zmq.Context[ZmqSocket], kind: int, frame_bytes_max: int, listening_patience: float
) -> ZmqSocket:
    """Make a socket with all its options but keys, which ZeroMQ wants before bind and connect.

    One that listens gives who connects `listening_patience` seconds to shake hands.
    """
    socket = context.socket(kind)
    socket.linger = 0
    socket.immediate = 1
    socket.sndhwm = socket.rcvhwm = 4096  # a fuse above the 64 frames of PROTOCOL.md, section 5
    socket.maxmsgsize = frame_bytes_max + 64
    socket.handshake_ivl = int(1000 * listening_patience) if kind in (zmq.PULL, zmq.PUB) else 2000
    socket.heartbeat_ivl = 5000  # heartbeats only reap connections; whether a peer lives, our PING judges
    socket.heartbeat_timeout = socket.heartbeat_ttl = 30000
    socket.reconnect_ivl = 50
    if kind == zmq.SUB:
        socket.reconnect_ivl_max = 2000  # nobody redials an outbox, so its attempts must slow down by themselves
    socket.connect_timeout = 2000
    socket.tcp_maxrt = 8000
    socket.backlog = 1024
    socket.ipv6 = 1
    return socket


def plain_send(socket: ZmqSocket) -> Callable[..., Any]:
    """Return the compiled `send` below pyzmq's friendlier one: 0.3 us instead of 0.6 us a call."""
    send: Callable[..., Any] = super(zmq.Socket, socket).send
    return send


def send_frames(send: Callable[..., Any], frames: Sequence[Buffer]) -> None:
    """Send `frames` as one message; raise zmq.Again if the socket would not take it.

    Large frames are wrapped before the first is sent: were it to fail in between, the next message would be taken
    for the rest of this one.
    """
    last = frames[-1]
    # Only bytes never change while ZeroMQ still reads them.
    if len(last) >= SEND_SHARED_BYTES_MIN and type(last) is bytes:
        wrapped: Any = zmq.Frame(last, copy=False)
    else:
        wrapped = last
    for frame in frames[:-1]:
        send(frame, _DONTWAIT_MORE)
    send(wrapped, _DONTWAIT)
