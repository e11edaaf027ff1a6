"""Wire: the PUSH of one peer, what is known of it, and how frames leave by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import zmq

from peerfabric.nodes.io.monitor import Connection, Monitor

if TYPE_CHECKING:
    ZmqSocket = zmq.Socket[bytes]

Buffer = bytes | bytearray | memoryview

SEND_SHARED_BYTES_MIN: Final = 128 * 1024
"""From this size on a body is sent without a copy. Measured over TCP, in CPU time of the sender: copying 64 KiB takes
37 us and sharing it 49 us, since ZeroMQ returns shared memory through a thread of pyzmq's; at 256 KiB copying takes
as long as sharing, and sharing moves 15 % more."""

# As plain integers: pyzmq's enums cost as much as the calls they are passed to.
_DONTWAIT: Final = int(zmq.DONTWAIT)
_DONTWAIT_MORE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)


class Wire:
    """One PUSH and what is known of it."""

    __slots__ = ("connection", "fd", "monitor", "number", "push", "refusing", "send")

    def __init__(self, number: int, push: ZmqSocket, monitor: Monitor) -> None:
        self.number = number
        self.push = push
        self.send = plain_send(push)
        self.monitor = monitor
        self.connection = Connection(number)
        self.fd = int(push.fd)
        self.refusing = False


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
