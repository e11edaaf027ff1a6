"""Monitor of one PUSH: whether it is connected, by ZeroMQ's events.

What libzmq 4.3.5 says, measured with RECONNECT_IVL=50 and HANDSHAKE_IVL=2000:

    nobody listens            CONNECT_RETRIED
    a listener                HANDSHAKE_SUCCEEDED
    ... that dies later       DISCONNECTED, CONNECT_RETRIED (only a plan), then some 60 ms later CONNECT_RETRIED
    ... that is stopped       after 2 s: HANDSHAKE_FAILED_NO_DETAIL, DISCONNECTED, CONNECT_RETRIED
    ... that closes at once   HANDSHAKE_FAILED_NO_DETAIL, DISCONNECTED, CONNECT_RETRIED
    ... of another type       DISCONNECTED
    ... that speaks HTTP      nothing at all: libzmq takes it for ZMTP 1.0, which has no handshake to end

And of one that it dials under a key, where the server

    has another key           HANDSHAKE_FAILED_NO_DETAIL, DISCONNECTED, CONNECT_RETRIED, all within a millisecond
    is in the clear           the same, or HANDSHAKE_FAILED_PROTOCOL, of value ZMTP_MECHANISM_MISMATCH, whoever sees it
                              first (`greeting.py` tells them apart); so it is the other way round
    answers 400 by ZAP        HANDSHAKE_FAILED_AUTH, of value 400, and it never tries again
    answers 300 by ZAP        nothing until the server's HANDSHAKE_IVL, then as with another key

So CONNECT_RETRIED is a refusal, except for the first one after a connection; and somebody has to lose patience with
the last kind, which is what `Sockets` does.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final

import zmq

from peerfabric.nodes.io.events import Connected, Disconnected, Refused

if TYPE_CHECKING:
    ZmqContext = zmq.Context[zmq.Socket[bytes]]
    ZmqSocket = zmq.Socket[bytes]

__all__ = ["WATCHED", "Connected", "Connection", "Disconnected", "Monitor", "Refused"]

_HANDSHAKE_FAILED: Final = int(
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_FAILED_AUTH: Final = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_FAILED_PROTOCOL: Final = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_MECHANISM_MISMATCH: Final = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
_HANDSHAKE_SUCCEEDED: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_DISCONNECTED: Final = int(zmq.EVENT_DISCONNECTED)
_CONNECT_RETRIED: Final = int(zmq.EVENT_CONNECT_RETRIED)

# DISCONNECTED without a handshake before it is a peer of another socket type, or one that cut us off.
_FAILED: Final = _CONNECT_RETRIED | _DISCONNECTED | _HANDSHAKE_FAILED

WATCHED: Final = _HANDSHAKE_SUCCEEDED | _FAILED
"""The events asked for. Each one unasked is a wake-up of the pump saved."""

SILENT_AFTER: Final = 0.6
"""Seconds into an attempt from which on a failure counts as silence: a listening node under a secret waits for 1 s, and
who has another key is cut off within a round trip."""

_EVENT: Final = struct.Struct("=HI")  # zmq_socket_monitor(3): event, value; the endpoint follows in a frame of its own
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


class _State(enum.Enum):
    DIALLING = enum.auto()
    UP = enum.auto()
    LOST = enum.auto()  # was up, and libzmq has not yet said that it will try again
    ENDED = enum.auto()  # refused: what libzmq goes on saying is of no interest


class Connection:
    """What the monitor's events mean, one after the other, for one PUSH. Knows no socket."""

    def __init__(self, wire: int, *, gated: bool = False, now: float = 0.0) -> None:
        """Begin at `now`; `gated`: under a key, so that it can be told why a handshake fails."""
        self.wire = wire
        self.up = False  # the peer has shaken hands
        self._state = _State.DIALLING  # up == (_state is UP)
        self.gated = gated
        self.in_doubt = False
        """The other end has just closed it in the handshake: either the keys differ, or the mechanisms do."""
        self._since = now

    def hear(self, event: int, value: int = 0, now: float = 0.0) -> Connected | Disconnected | Refused | None:
        """Take one monitor event and return what it changes, if anything."""
        if self._state is _State.UP:
            if event == _DISCONNECTED:
                self._state, self.up = _State.LOST, False
                self._since = now
                return Disconnected(self.wire)
        elif self._state is not _State.ENDED:
            if event == _HANDSHAKE_SUCCEEDED:
                self._state, self.up = _State.UP, True
                return Connected(self.wire)
            if event == _CONNECT_RETRIED and self._state is _State.LOST:
                self._state = _State.DIALLING
            elif event & _FAILED:
                return self._refused(self._why(event, value, now))
        return None

    def give_up(self) -> Refused:
        """End the attempt; nothing that is heard later counts."""
        return self._refused("silent" if self.gated else "")

    def _refused(self, why: str) -> Refused:
        self._state, self.up = _State.ENDED, False
        return Refused(self.wire, why)

    def _why(self, event: int, value: int, now: float) -> str:
        """A reason of PeerView; empty if nobody listens there, or nothing is known."""
        if event == _FAILED_AUTH:
            return "denied"
        if event == _FAILED_PROTOCOL and value == _MECHANISM_MISMATCH:
            return "mechanism"
        if event == _CONNECT_RETRIED:
            return ""
        late = now - self._since >= SILENT_AFTER
        self.in_doubt = not late and event != _FAILED_PROTOCOL
        if not self.gated:
            return ""
        return "silent" if late else "secret"


class Monitor:
    """The receiving end of one PUSH's monitor. Belongs to the thread that owns the PUSH.

    Watch `fd` for reading and call `read`, which leaves it quiet until something new happens.
    """

    def __init__(self, context: ZmqContext, push: ZmqSocket, name: str) -> None:
        """Start monitoring `push`, before it connects; `name` is unique within the context."""
        self._push = push
        push.monitor(f"inproc://{name}", WATCHED)
        self._pair = context.socket(zmq.PAIR)
        self._pair.linger = 0
        # libzmq's I/O thread blocks, and with it the whole node, while a monitor's queue is full: it may not be
        # limited. It cannot grow much either: a refused PUSH is closed, and retries come every 50 ms at most.
        self._pair.rcvhwm = 0
        self._pair.connect(f"inproc://{name}")
        self.fd = int(self._pair.fd)
        # An inproc pipe tells of its first message only to a reader that has found it empty before.
        self.read()

    def read(self) -> list[tuple[int, int]]:
        """Return the events since the last call with their values, oldest first."""
        heard: list[tuple[int, int]] = []
        while int(self._pair.get(_EVENTS)) & _POLLIN:
            heard.append(_EVENT.unpack(self._pair.recv(zmq.DONTWAIT)))
            self._pair.recv(zmq.DONTWAIT)  # the endpoint: a PUSH has only one
        return heard

    def close(self) -> None:
        """Stop monitoring; the PUSH must still be open.

        In this order, because libzmq would wait for a reader of its last words.
        """
        self._push.monitor(None, 0)
        self._pair.close()
