"""ZeroMQ sockets of a node: frames in and out, events of connections, and nothing of the protocol.

All sockets belong to one thread, which alternates `wait` and `read`; only `wake` may be called by others. Waiting is
one `epoll` over the descriptors that ZeroMQ gives for its sockets. For a round trip of 128 bytes between two processes
this was as fast as `zmq_poll` and `poll` (all within the noise), and unlike them it costs the same with a thousand
peers.

Those descriptors say "there is something to look at" and fall silent once a call has looked, whatever that call was
for. So a socket counts as readable here from the moment its descriptor said so, or another call on it may have
looked, until a `recv` found it empty; `wait` does not sleep before that.
"""

from __future__ import annotations

import itertools
import math
import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import zmq

from peerfabric.discovery.locks import Lock
from peerfabric.discovery.log import log as _log
from peerfabric.errors import ConfigError, FabricError
from peerfabric.nodes.io.descriptors import (
    ENOUGH,
    NODE,
    PENDING,
    PER_WIRE,
    RESERVE,
    ROOMY,
    raise_descriptor_limit,
    table,
    too_few,
)
from peerfabric.nodes.io.events import (
    Connected,
    Disconnected,
    Event,
    Published,
    Received,
    Refused,
    Writable,
)
from peerfabric.nodes.io.growth import Watch, keep_freed_memory, threads
from peerfabric.nodes.io.listener import Kernel, Listeners
from peerfabric.nodes.io.monitor import Monitor
from peerfabric.nodes.io.probe import is_dialable, is_tcp
from peerfabric.nodes.io.probes import Probes
from peerfabric.nodes.io.transport import EVENTS, Buffer, Intake, Wire, is_ready, open_socket, plain_send, send_frames
from peerfabric.nodes.io.updates import Updates
from peerfabric.nodes.io.waiting import Doorbell
from peerfabric.nodes.platform import poller

if TYPE_CHECKING:
    ZmqContext = zmq.Context[zmq.Socket[bytes]]
    ZmqSocket = zmq.Socket[bytes]

    from peerfabric.nodes.io.curve import Curve

DIAL_PATIENCE: Final = 5.0
"""Seconds until an attempt that libzmq calls neither connected nor failed is refused. Its own limits, 2 s for the
connect and 2 s for the handshake, come first; this one is for peers that it takes for ZMTP 1.0."""

STREAM_GAP: Final = 0.002
REST: Final = 0.001
"""Large bodies that come less than STREAM_GAP seconds apart are a stream. After a `read` that brought some of it `wait`
first rests for REST seconds, or until `wake`, while ZeroMQ's own thread gathers what follows. Otherwise each would wake
us, then user code, then its producer with an ack, on processors that are busy copying: 1 MiB cost both processes
together 640 us of processor time, and costs 560 us so. A large body that comes alone is not held up."""

LOOK_EVERY: Final = 0.1
"""Seconds between two looks at the descriptors while fewer than `ROOMY` are free, or somebody waits for some."""

_SOCKETS_MAX: Final = 65535  # ZMQ_SOCKET_LIMIT

# As plain integers: pyzmq's enums cost as much as the calls they are passed to.
_POLLOUT: Final = int(zmq.POLLOUT)


class Sockets:
    """Everything of ZeroMQ that one node holds.

    Construct and `bind` anywhere, then hand over to one thread.
    """

    def __init__(
        self, *, frame_bytes_max: int, peers_max: int, curve: Curve | None = None, exposed: bool = False
    ) -> None:
        """Open a private context for `peers_max` peers, with frames of up to `frame_bytes_max` bytes.

        With `curve` nothing goes over TCP but under its keys. `exposed`: strangers may connect, as they may on a LAN.

        Raises:
            ConfigError: libzmq is too old, or the process may not open the descriptors that 64 peers need.
        """
        if zmq.zmq_version_info() < (4, 3, 4):
            raise ConfigError(f"libzmq {zmq.zmq_version()} has known holes; install pyzmq >= 27 from its wheel")
        raise_descriptor_limit(peers_max, exposed=exposed)
        keep_freed_memory()
        self._peers_max = peers_max
        self._frame_bytes_max = frame_bytes_max
        self._curve = curve
        self._exposed = exposed
        self.is_known: Callable[[str], bool] = lambda node_id: False
        """Says of a node whether it has a link with us or said hello; asked in `read`, when it calls at the outbox."""
        with table.taking(NODE, RESERVE) as there_are:
            if not there_are:
                raise too_few(NODE, "a node")
            self._context: ZmqContext = zmq.Context(io_threads=1)
            try:
                self._open_all()
            except (OSError, zmq.ZMQError) as error:  # others of this process took them meanwhile
                self._context.destroy(linger=0)
                raise too_few(NODE, "a node") from error

    def _open_all(self) -> None:
        # A closed socket keeps its place until libzmq's reaper comes round, so room for every peer being redialled.
        self._context.set(zmq.MAX_SOCKETS, min(6 * self._peers_max + 64, _SOCKETS_MAX))
        self._names = itertools.count(1)
        self._bell = Doorbell()
        self.wake: Callable[[], None] = self._bell.ring
        """Make `wait` return, now or at its next call. Any thread may call it, also from a signal handler, and
        after `close`. An attribute and not a method, which would double its cost."""

        self._wires: dict[int, Wire] = {}
        self._abandoned: dict[int, Wire] = {}  # the parent's wires, in a forked child
        self._happened: list[Event] = []  # found outside of read()
        self._ready: set[int] = set()  # descriptors that epoll named and read() has not yet looked at
        self._monitored: dict[int, Wire] = {}  # by the descriptor of the monitor
        self._refusing: dict[int, Wire] = {}  # by the descriptor of the PUSH
        self._dialling: dict[int, float] = {}  # until when, by wire; oldest first, as all have the same patience
        self._undialled: dict[int, tuple[str, str]] = {}  # endpoints and gates of wires that wait for descriptors

        self.guard = Lock()
        """Whoever sends in another thread than the one that owns all this holds it, besides the engine's lock."""
        self.resting = False
        """Whether `wait` first rests, deaf to all but `wake`: see REST. Any thread may look."""
        self._large_at = -math.inf
        self._rest = select.poll()
        self._rest.register(self._bell.fd, select.POLLIN)
        self._poller = poller()
        self._poller.register(self._bell.fd, select.POLLIN)
        self._probes = Probes(self._poller)
        others = threads()
        curve = self._curve
        self._zap = curve.handler(self._context) if curve is not None else None  # before anything can connect
        self._zap_fd = -1
        if self._zap is not None:
            self._zap_fd = self._zap.fd
            self._poller.register(self._zap_fd, select.POLLIN)
        self._inbox = Intake(
            self._open(zmq.PULL),
            parts_min=1,
            parts_max=2,
            sender_of=None if curve is None else curve.sender_of,
            observes=self._exposed,
        )
        self._updates = Updates(self._open(zmq.SUB), self._peers_max, curve)
        for intake in (self._inbox, self._updates):
            self._poller.register(intake.fd, select.POLLIN)
        self._outbox = self._open_outbox()
        self._listeners = Listeners(self._inbox.socket, self._outbox, curve)
        self._low = False  # few descriptors are left: nobody is to be let in
        self._shut = False  # and nobody new finds us over ipc
        self._look_at = 0.0
        self._moved = 0  # bytes of bodies that were sent
        self._watch = Watch(
            threads() - others,  # ZeroMQ's, which began with the first socket
            (self._renew_inbox, self._renew_outbox, self._renew_updates, self._renew_wires),
            lambda: " or ".join(self._listeners.endpoints),
        )
        self._complain: Callable[[str], None] = _log.warning
        self._closed = False

    @property
    def foreign(self) -> int:
        """Messages from the inbox and from outboxes that were dropped: too few or too many parts, or an empty one."""
        return self._inbox.foreign + self._updates.foreign

    @property
    def counters(self) -> dict[str, int]:
        """What was dropped and who was turned away, as far as there was any, by name."""
        found = {
            "foreign messages": self.foreign,
            "messages of nodes not admitted": self._inbox.unadmitted,
            "handshakes denied": self._curve.denied if self._curve is not None else 0,
        }
        return {name: count for name, count in found.items() if count}

    def admit_anew(self) -> None:
        """The access of the keys was replaced: what is received from now on is judged by it.

        Who is connected to the outbox and would not be let in any more is cut off with all others, who come back by
        themselves and miss what is published meanwhile: ZeroMQ has no way to close one connection.
        """
        self._inbox.ask_anew()
        if self._curve is not None and self._curve.is_overheard:
            self._curve.forget_followers()
            self._renew_outbox()
            self._look_at = 0.0

    def complain_by(self, complain: Callable[[str], None]) -> None:
        """From now on `complain` is called with what a person may have to see to.

        It is called by `dial` and `follow`, under whatever lock they are called, and by `wait`, which dials those that
        had to wait for descriptors, without one. So it must wait for nobody; all of them belong to one thread.
        """
        self._complain = self._updates.complain = complain

    def bind(
        self,
        inbox: Sequence[str],
        outbox: Sequence[str],
        held: dict[str, Kernel] | None = None,
        *,
        gates: Sequence[str] = (),
    ) -> tuple[list[str], list[str]]:
        """Listen at each endpoint and return the real ones, in the same order, with ports.

        An endpoint is `ipc://PATH`, `tcp://HOST:PORT` or `tcp://HOST:*`, with a numeric HOST. The socket files are
        made accessible for our user only, and are removed by `close`. TCP stays bound until then, since ZeroMQ would
        leave connections there that lead nowhere.

        Args:
            held: Sockets of the kernel that listen already, by endpoint; those that are bound here are taken out.
            gates: With keys, the key id of each TCP endpoint of the inbox; by default all gates, in their order.

        Raises:
            EndpointInUse: Somebody listens there. Endpoints before it stay bound until `close`.
            ConfigError: Not such an endpoint, or one that cannot be bound here.
        """
        bound = self._listeners.bind(inbox, outbox, {} if held is None else held, gates)
        self._look_at_bound()
        return bound

    def regate(self, gates: dict[str, str]) -> None:
        """Have other gates (key ids, by endpoint) before TCP endpoints of the inbox, which is closed, with all its
        connections, and followed by another: nobody is refused, and peers come back in new lives of their links."""
        self._listeners.regate(gates)
        self._renew_inbox()
        self._look(time.monotonic())  # lets it accept, now or when there are descriptors

    def self_test(self) -> None:
        """See that strangers are kept out of what is bound, and we are not; to be called before anybody is told.

        Raises:
            ConfigError: Somebody was let in who should not be, or we were not.
        """
        if self._curve is not None:
            inboxes, outboxes = self._listeners.inbox_gates.items(), self._listeners.outboxes
            self._happened[:0] = self._curve.self_test(self._context, inboxes, outboxes, self._short_turn)

    def _short_turn(self) -> list[Event]:
        self.wait(0.002)
        return self.read()

    def gone(self) -> list[str]:
        """Return the endpoints whose socket file is not there, or is not ours any more: nobody new can connect to them.

        Raises:
            OSError: The files cannot be looked at, which says nothing about them.
        """
        if self._shut or self._listeners.have_moved:
            return []  # we removed them, and put them back when there are descriptors; or no socket can be bound now
        return self._listeners.gone()

    def bind_again(self, endpoint: str) -> None:
        """Listen anew at an endpoint that is gone. Those who are connected stay, or connect again: see `Listener`.

        Raises:
            EndpointInUse, ConfigError: As `bind`; it is still gone.
        """
        self._listeners.bind_again(endpoint)
        self._look_at_bound()

    def leave(self, endpoint: str) -> None:
        """Be found at an ipc endpoint no more, and remove its file; others are none of it. Those connected stay."""
        self._listeners.leave(endpoint)
        self._look_at_bound()

    def dial(self, wire: int, endpoint: str, gate: str = "") -> None:
        """Connect a PUSH of its own to `endpoint`, in place of what `wire` was before.

        With keys, what is dialled over TCP is behind the gate of that key id.

        Connected or Refused follows. A peer that is lost later is Disconnected, and then Connected or Refused. After
        Refused the wire is hung up: when to dial again is for the caller to say. An endpoint that ZeroMQ may not be
        given, and a context without room, are Refused too. With few descriptors left it waits for more.
        """
        self.hang_up(wire)
        if self._closed:
            return
        if not is_dialable(endpoint):
            self._happened.append(Refused(wire))
            return
        if self._curve is not None and not self._curve.can_dial(endpoint, gate):
            self._happened.append(Refused(wire, "secret"))
            return
        try:
            with table.taking(PER_WIRE, RESERVE) as there_are:
                if self._low or not there_are:
                    self._undialled[wire] = endpoint, gate
                    self._low, self._look_at = True, 0.0
                    return
                line = self._wires[wire] = self._connect(wire, endpoint, gate)
        except zmq.ZMQError as error:
            self._complain(f"cannot connect to {endpoint}: {error}; see `ulimit -n` and Options(peers_max=)")
            self._happened.append(Refused(wire))
            return
        self._monitored[line.monitor.fd] = line
        self._poller.register(line.monitor.fd, select.POLLIN)
        self._await_handshake(wire)

    def hang_up(self, wire: int) -> None:
        """Close the PUSH of `wire`, with what its pipe still holds. An unknown wire is no error.

        Nothing is heard of it any more; events that were found before stay.
        """
        self._undialled.pop(wire, None)
        self._probes.forget(wire)
        line = self._wires.pop(wire, None)
        if line is None:
            return
        self._end_dialling(wire)
        del self._monitored[line.monitor.fd]
        self._forget(line.monitor.fd)
        with self.guard:
            self._settle(line)
            line.monitor.close()
            line.push.close()

    def send(self, wire: int, frames: Sequence[Buffer]) -> bool:
        """Give `[header]` or `[header, body]` to the PUSH of `wire`, without waiting, whole or not at all.

        False means refused, and nothing was sent. Between Connected and Disconnected that is the high-water mark, and
        Writable follows, or Disconnected; outside of them everything is refused. True means handed to ZeroMQ, from
        which it can still be lost with the connection.

        The high-water mark counts whole messages, so it never comes between header and body. If the connection
        ends there, libzmq refuses the body and takes back the header (lb.cpp; tried with a peer killed in between).
        """
        line = self._wires.get(wire)
        # libzmq still takes frames for up to a millisecond after it said that the connection ended.
        if line is None or line.refusing or not line.connection.up:
            return False
        try:
            send_frames(line.send, frames)
        except zmq.Again:
            return self._refuse(line, frames)
        self._moved += len(frames[-1])
        return True

    def writable(self, wire: int) -> bool:
        """Say whether `wire` is connected and has refused nothing since it last was Writable."""
        line = self._wires.get(wire)
        return line is not None and line.connection.up and not line.refusing

    def publish(self, frames: Sequence[Buffer]) -> None:
        """Send `[topic, header]` or `[topic, header, body]` to all subscribers; never waits.

        Subscribers at their high-water mark miss it, as ZeroMQ has it.
        """
        send_frames(self._send_update, frames)
        self._moved += len(frames[-1])

    def follow(self, endpoint: str, key: bytes = b"") -> bool:
        """Receive what the outbox at `endpoint` publishes under our prefixes, over connections that may come and go.

        With keys, that of an outbox over TCP is `key`. A second call changes nothing, but with another key it connects
        anew. False: not an endpoint, or more of them than peers.
        """
        return self._updates.follow(endpoint, key)

    def unfollow(self, endpoint: str) -> None:
        """Disconnect from an outbox. One that is not followed is no error."""
        self._updates.unfollow(endpoint)

    def subscribe(self, prefix: bytes) -> None:
        """Ask publishers for topics that begin with `prefix`, until as many `unsubscribe` calls."""
        self._updates.subscribe(prefix)

    def unsubscribe(self, prefix: bytes) -> None:
        """Take back one `subscribe`; more than there were are no error."""
        self._updates.unsubscribe(prefix)

    def probe(self, wire: int, endpoint: str, life: tuple[str, int] | None = None) -> None:
        """Ask whether anybody, and `life` in particular, listens at `endpoint`; Probed follows within PROBE_TIMEOUT.

        `wire` only comes back in the answer and need not be dialled. Each call is answered.
        """
        if (found := self._probes.ask(wire, endpoint, time.monotonic(), life)) is not None:
            self._happened.append(found)

    def share(self) -> None:
        """From now on received bodies are views of ZeroMQ's memory however large they are."""
        for intake in (self._inbox, self._updates):
            intake.shared_bytes_max = self._frame_bytes_max

    def wait(self, timeout: float | None) -> None:
        """Return when `read` may find something, after `wake`, or after `timeout` seconds (None: never).

        It may return early. Look at what other threads handed over after it, not before: a `wake` that came while
        this was running counts as heard.
        """
        bell = self._bell
        now = time.monotonic()
        if now >= self._look_at:
            self._look(now)
        poll = self._poller.poll
        if self.resting:
            bell.sleep(self._rest_for, REST)
            self.resting = False
            ready = poll(0.0, 64)
        elif self._inbox.readable or self._updates.readable or self._happened or self._ready:
            ready = bell.sleep(poll, 0.0)  # To see the others too: a busy inbox must not starve the monitors.
        else:
            until = math.inf if timeout is None else now + timeout
            if self._dialling or self._probes.asked:
                until = min(until, self._expires_at())
            ready = bell.sleep(poll, max(0.0, min(until, self._look_at) - now))
            if not ready and not bell.heard and self._look_at < until:
                ready = self._sleep(until)
        for fd, _ in ready:
            if fd == self._inbox.fd:
                self._inbox.readable = True
            elif fd == self._updates.fd:
                self._updates.readable = True
            elif fd == bell.fd:
                bell.silence()
            elif fd == self._outbox_fd:
                # Takes in the subscriptions, which PUB would otherwise leave in its pipes until it next publishes.
                self._outbox.get(EVENTS)
            else:
                self._ready.add(fd)

    def _rest_for(self, seconds: float, limit: int) -> list[tuple[int, int]]:
        return self._rest.poll(1000 * seconds)

    def _sleep(self, until: float) -> list[tuple[int, int]]:
        """Wait on for descriptors until then; an idle node only looks around meanwhile, and makes no turn for that."""
        while True:
            now = time.monotonic()
            if now >= until or now < self._look_at:
                return []
            self._look(now)
            if self._happened or self._inbox.readable or self._updates.readable or self._ready:
                return []
            ready = self._bell.sleep(self._poller.poll, max(0.0, min(until, self._look_at) - now))
            if ready or self._bell.heard:
                return ready

    def read(self, limit: int = 64) -> list[Event]:
        """Return what there is, without waiting: connections first, then at most `limit` messages of each socket.

        If more is there, the next `wait` returns at once.
        """
        events, self._happened = self._happened, []
        if self._ready:
            self._read_control(events)
        if self._dialling or self._probes.asked:
            self._expire(events)
        if self._inbox.readable:
            taken = self._inbox.take(limit)
            if self._inbox.marked:
                events += [Received(frames, *mark) for frames, mark in zip(taken, self._inbox.marks, strict=True)]
            else:
                events += map(Received, taken)
            if self._inbox.large:
                self._inbox.large = False
                now = time.monotonic()
                self.resting = now - self._large_at < STREAM_GAP and not self._inbox.readable
                self._large_at = now
        if self._updates.readable:
            events += map(Published, self._updates.take(limit))
        return events

    def close(self) -> None:
        """Close all, with what pipes still hold, and remove the socket files. May be called twice.

        Only by the thread that owns the sockets, or after it has ended. Afterwards `send` refuses.
        """
        if self._closed:
            return
        self._closed = True
        for wire in list(self._wires):
            self.hang_up(wire)
        self._probes.close()
        for socket in (self._inbox.socket, self._updates.socket, self._outbox, self._zap):
            if socket is not None:
                socket.close()
        self._listeners.close()
        # Does not hang: every socket of this context is closed by now, with linger 0.
        self._context.term()
        self._poller.close()
        self._bell.close()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's sockets without touching them.

        Closes only descriptors that are ours and not ZeroMQ's. It takes no lock, since the thread that held one
        does not exist here, and changes no epoll registration, since those are shared with the parent. ZeroMQ's
        descriptors stay open in the child until it ends or executes another program.
        """
        if self._closed:
            return
        self._closed = True
        # Refuses what is sent, and keeps pyzmq from complaining that the sockets were not closed.
        self._abandoned, self._wires = self._wires, {}
        self._probes.close()
        self._listeners.abandon()
        self._poller.close()
        self._bell.abandon()

    def _open(self, kind: int) -> ZmqSocket:
        patience = 1.0 if self._exposed or self._curve is not None else 2.0  # strangers may connect
        return open_socket(self._context, kind, self._frame_bytes_max, patience)

    def _open_outbox(self) -> ZmqSocket:
        outbox = self._open(zmq.PUB)
        self._outbox_fd = int(outbox.fd)
        self._send_update = plain_send(outbox)
        self._poller.register(self._outbox_fd, select.POLLIN)
        return outbox

    # Limits

    def _look(self, now: float) -> None:
        """See how many descriptors are left and whether somebody fills our memory, and act on it."""
        roomy = table.has(ROOMY)
        self._low = not roomy and not table.has(ENOUGH if self._low else RESERVE)
        if self._low:
            table.complain(now)
        else:
            table.is_over()
        self._look_at = now + self._watch.look(now, self._moved + self._inbox.moved + self._updates.moved)
        if not roomy or self._undialled or self._updates.waits:
            self._look_at = min(self._look_at, now + LOOK_EVERY)
        if self._low:
            # libzmq ends the process if it cannot accept over ipc; over TCP it tries again, as fast as it can.
            self._shut = True
            self._listeners.remove_files()
        if self._low or self._watch.judging:
            return
        if self._listeners.have_moved:
            if not self._listeners.follow_move():
                self._look_at = min(self._look_at, now + LOOK_EVERY)
            self._look_at_bound()
        if self._shut and not self._listeners.have_moved:
            self._open_again()
        if self._updates.waits:
            self._updates.follow_others()
        while self._undialled and not self._low:
            wire, (endpoint, gate) = next(iter(self._undialled.items()))  # the longest; `dial` takes it out
            self.dial(wire, endpoint, gate)

    def _look_at_bound(self) -> None:
        """After calls that may have taken the news of what is bound."""
        self._inbox.look()
        self._outbox.get(EVENTS)

    def _open_again(self) -> None:
        """Put back the socket files that were removed; what cannot be put back now is tried again."""
        self._shut = False
        for endpoint in self.gone():
            try:
                self.bind_again(endpoint)
            except FabricError as error:
                _log.warning("%s", error)

    def _renew(self, intake: Intake, kind: int) -> None:
        self._forget(intake.fd)
        intake.socket.close()
        intake.replace(self._open(kind))
        self._poller.register(intake.fd, select.POLLIN)

    def _renew_inbox(self) -> None:
        self._renew(self._inbox, zmq.PULL)
        self._listeners.move(inbox=self._inbox.socket)

    def _renew_updates(self) -> None:
        self._renew(self._updates, zmq.SUB)

    def _renew_outbox(self) -> None:
        self._forget(self._outbox_fd)
        self._outbox.close()
        self._outbox = self._open_outbox()
        self._listeners.move(outbox=self._outbox)

    def _renew_wires(self) -> None:
        for wire in list(self._wires):
            self.hang_up(wire)
            self._happened.append(Refused(wire))

    def _connect(self, wire: int, endpoint: str, gate: str) -> Wire:
        push = self._open(zmq.PUSH)
        try:
            monitor = Monitor(self._context, push, f"monitor-{next(self._names)}")
        except zmq.ZMQError:
            push.close()
            raise
        try:
            if self._curve is not None:
                self._curve.dial(push, endpoint, gate)
            push.connect(endpoint)
        except zmq.ZMQError:
            monitor.close()
            push.close()
            raise
        return Wire(wire, endpoint, push, monitor, gated=bool(gate), now=time.monotonic())

    def _await_handshake(self, wire: int) -> None:
        self._end_dialling(wire)
        self._dialling[wire] = time.monotonic() + DIAL_PATIENCE
        table.promise(PENDING)

    def _end_dialling(self, wire: int) -> None:
        if self._dialling.pop(wire, None) is not None:
            table.promise(-PENDING)

    def _refuse(self, line: Wire, frames: Sequence[Buffer]) -> bool:
        """Try again if the PUSH only had not heard that it can send; else wait for it to become writable.

        A send looks at news of its pipes once in a millisecond, not each time; asking for EVENTS always does. What
        comes after that makes the descriptor readable, so no news is lost between here and epoll.
        """
        if is_ready(_POLLOUT, line.push):
            with suppress(zmq.Again):
                send_frames(line.send, frames)
                return True
        line.refusing = True
        self._refusing[line.fd] = line
        self._poller.register(line.fd, select.POLLIN)
        return False

    def _settle(self, line: Wire) -> None:
        """Stop waiting for `line` to become writable."""
        if line.refusing:
            line.refusing = False
            del self._refusing[line.fd]
            self._forget(line.fd)

    def _forget(self, fd: int) -> None:
        # Before it is closed: its number may come back at once for something else.
        self._poller.unregister(fd)
        self._ready.discard(fd)

    def _read_control(self, events: list[Event]) -> None:
        for fd in list(self._ready):
            self._ready.discard(fd)
            if (line := self._monitored.get(fd)) is not None:
                self._read_monitor(line, events)
            elif (line := self._refusing.get(fd)) is not None:
                self._recheck(line, events)
            elif fd == self._zap_fd:
                if self._zap is not None and self._zap.answer(self.is_known):
                    self._ready.add(fd)  # more, in the next turn
            elif fd in self._probes and (found := self._probes.read(fd)) is not None:
                events.append(found)

    def _read_monitor(self, line: Wire, events: list[Event]) -> None:
        now = time.monotonic()
        for heard, value in line.monitor.read():
            event = line.connection.hear(heard, value, now)
            if event is None:
                continue
            events.append(event)
            match event:
                case Connected():
                    self._end_dialling(line.number)
                case Disconnected():
                    with self.guard:
                        self._settle(line)
                    self._await_handshake(line.number)
                case Refused():
                    self.hang_up(line.number)
                    if line.connection.in_doubt and is_tcp(line.endpoint):  # it is told when that is clear
                        events[-1:] = self._probes.ask_why(event, line.endpoint, now, gated=line.connection.gated)
                    return

    def _recheck(self, line: Wire, events: list[Event]) -> None:
        with self.guard:
            if line.refusing and is_ready(_POLLOUT, line.push):
                self._settle(line)
                events.append(Writable(line.number))

    def _expire(self, events: list[Event]) -> None:
        events += self._probes.expired(now := time.monotonic())
        for wire, until in list(self._dialling.items()):
            if now < until:
                break
            events.append(self._wires[wire].connection.give_up())
            self.hang_up(wire)

    def _expires_at(self) -> float:
        """When `_expire` has something to do."""
        return min((self._probes.expires_at, *itertools.islice(self._dialling.values(), 1)))
