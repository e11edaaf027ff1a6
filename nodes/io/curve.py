"""CURVE and ZAP of a node: the keys at its sockets, who is let in, and the proof that nobody else is.

A node with a secret shows every TCP connection a closed gate. The server key of all inboxes is derived from the secret,
and its public half is told to nobody: who does not know it cannot begin a handshake. The client key is the node's own,
and its hash is the node id, which ZAP (RFC 27) passes on with each frame. An outbox has a key of its own, which the
node tells its peers in HELLO.

libzmq lets everybody in where it is not told otherwise: without a handler, without a domain, and with a domain and no
handler, unless ZAP_ENFORCE_DOMAIN is set. So each socket that listens gets all of these options before each bind, over
ipc too, where the domain `ipc` asks the handler about the NULL mechanism; a frame without the handler's mark is none of
ours. And `self_test` tries at each start.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import zmq
from zmq.utils import z85

from peerfabric.errors import ConfigError
from peerfabric.nodes.io.events import Connected, Event, Received, Refused
from peerfabric.nodes.io.monitor import Connection, Monitor
from peerfabric.nodes.io.probe import is_tcp
from peerfabric.secret import KEY_BYTES, NodeKey, Secret, node_id_of

if TYPE_CHECKING:
    ZmqContext = zmq.Context[zmq.Socket[bytes]]
    ZmqSocket = zmq.Socket[bytes]

ZAP_ANSWERS: Final = 64
"""Handshakes that are answered in one turn, about 2 ms of work; the rest wait for the next one."""

NODES_MAX: Final = 4096
"""Nodes of which it is remembered under which secret they came; twice as many as there are peers by default."""

OUTBOX_DOMAIN: Final = "out"
IPC_DOMAIN: Final = "ipc"
_INBOX_DOMAIN: Final = "in:"

SELF_TEST_TIME: Final = 3.0
"""Seconds after which a self-test has failed. It takes some 10 ms; on a busy machine it shall not fail for that."""
SELF_TEST: Final = b"\xc1"
"""Begins the messages of a self-test: the one byte with which nothing in msgpack begins."""

Options = Callable[["ZmqSocket"], None]
"""Sets on a socket what the next endpoint that it binds is to have."""


def curve_public(secret: bytes) -> bytes:
    """The public key of a secret one, 32 bytes each; takes 11 us."""
    return z85.decode(zmq.curve_public(z85.encode(secret)))


class Gate:
    """The CURVE server in front of the inboxes of a fabric, as one secret makes it."""

    __slots__ = ("_secret", "key_id", "public")

    def __init__(self, secret: Secret, fabric: str) -> None:
        self.key_id = secret.key_id(fabric)
        self._secret = secret.gate(fabric)
        self.public = curve_public(self._secret)

    def __repr__(self) -> str:
        return f"<gate {self.key_id}>"

    def serve(self, socket: ZmqSocket) -> None:
        """What an inbox binds next is behind this gate."""
        _serve(socket, self._secret, _INBOX_DOMAIN + self.key_id)


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Who may come in: under which secrets, and which nodes."""

    key_ids: frozenset[str]
    """Of the secrets that count; one that is retired is still listened for, and denied."""
    allow: frozenset[str] = frozenset()
    """Node ids; empty: all that know a secret."""
    revoked: frozenset[str] = frozenset()
    """Node ids that may not, whatever they know."""

    def admits(self, key_id: str, node_id: str) -> bool:
        """Whether this node may come in under this secret."""
        return key_id in self.key_ids and self.admits_node(node_id)

    def admits_node(self, node_id: str) -> bool:
        """Whether this node may come in under any."""
        return node_id not in self.revoked and (not self.allow or node_id in self.allow)


class Curve:
    """All that the sockets of one node need of keys.

    Belongs to the thread of the sockets; when `access` was replaced, `Sockets.admit_anew` is to follow.
    """

    def __init__(self, key: NodeKey, gates: Iterable[Gate], access: Access | None = None) -> None:
        """Take the node's key, and the gates, the preferred one first; without `access`, all who know one may come.

        Raises:
            ConfigError: This libzmq has no CURVE.
        """
        if not zmq.has("curve"):
            raise ConfigError(
                f"libzmq {zmq.zmq_version()} was built without CURVE, so no secret can be used; "
                f"install pyzmq from its wheel: pip install --force-reinstall --only-binary :all: pyzmq"
            )
        self.key = key
        self.gates = {gate.key_id: gate for gate in gates}
        self.access = access if access is not None else Access(key_ids=frozenset(self.gates))
        self.denied = 0
        """Handshakes of others than strangers that were turned away."""
        self._came_by: dict[str, str] = {}
        """The key id under which each node was let in last."""
        self._followers: set[str] = set()
        """Nodes that were let in at the outbox since `forget_followers`."""
        self._too_many = False
        """Some of them are forgotten."""

    def __repr__(self) -> str:
        return f"<keys of node {self.key.node_id} with {list(self.gates.values())}>"

    def add(self, gate: Gate) -> None:
        """Have another secret beside those there are; `Sockets.bind` may then listen under it."""
        self.gates[gate.key_id] = gate

    def remove(self, gate: Gate) -> None:
        """Do without it: nothing listens behind it."""
        del self.gates[gate.key_id]

    # Options

    def inbox_options(self, endpoints: Sequence[str], key_ids: Sequence[str] = ()) -> list[Options]:
        """For each endpoint to be bound: its TCP endpoints are one for each gate of `key_ids` (all), in that order."""
        gates = iter([self.gates[key_id] for key_id in key_ids] or self.gates.values())
        try:
            return [next(gates).serve if is_tcp(endpoint) else serve_ipc for endpoint in endpoints]
        except StopIteration:
            raise ConfigError("an inbox has more TCP endpoints than secrets; listen at one for each secret") from None

    def outbox_options(self, endpoints: Sequence[str]) -> list[Options]:
        """The same for an outbox, which has one key."""
        return [self._serve_outbox if is_tcp(endpoint) else serve_ipc for endpoint in endpoints]

    def _serve_outbox(self, socket: ZmqSocket) -> None:
        _serve(socket, self.key.outbox_secret, OUTBOX_DOMAIN)

    def can_dial(self, endpoint: str, key_id: str) -> bool:
        """Whether an inbox can be dialled so: over TCP only under a gate, and never in the clear."""
        return key_id in self.gates if is_tcp(endpoint) else True

    def dial(self, push: ZmqSocket, endpoint: str, key_id: str) -> None:
        """What this socket connects to next is an inbox; over TCP, behind that gate."""
        if is_tcp(endpoint):
            self.call(push, self.gates[key_id].public)

    def can_follow(self, endpoint: str, key: bytes) -> bool:
        """Whether an outbox can be followed so: over TCP only with its key."""
        return len(key) == KEY_BYTES if is_tcp(endpoint) else True

    def follow(self, sub: ZmqSocket, endpoint: str, key: bytes) -> None:
        """What this socket connects to next is an outbox; over TCP, with that key."""
        if is_tcp(endpoint):
            self.call(sub, key)
        else:
            sub.set(zmq.CURVE_SERVER, 0)  # back to the NULL mechanism, as no other option of pyzmq does

    def call(self, socket: ZmqSocket, server: bytes) -> None:
        """What this socket connects to next is whoever has the secret half of that key."""
        socket.set(zmq.CURVE_PUBLICKEY, self.key.client_public)
        socket.set(zmq.CURVE_SECRETKEY, self.key.client_secret)
        socket.set(zmq.CURVE_SERVERKEY, server)

    # What belongs to a context

    def handler(self, context: ZmqContext) -> Handler:
        """Answer handshakes of this context from now on."""
        return Handler(context, self)

    def self_test(
        self,
        context: ZmqContext,
        inboxes: Iterable[tuple[str, str]],
        outboxes: Iterable[str],
        turn: Callable[[], Iterable[Event]],
    ) -> list[Event]:
        """See that strangers are kept out: `self_test` below."""
        return self_test(self, context, inboxes, outboxes, turn)

    # Access

    def admits(self, key_id: str, node_id: str) -> bool:
        """Whether frames of this node under this secret count; our own always do."""
        return self.access.admits(key_id, node_id) or node_id == self.key.node_id

    def admits_node(self, node_id: str) -> bool:
        """Whether this node may have a link with us; we ourselves always may."""
        return self.access.admits_node(node_id) or node_id == self.key.node_id

    def sender_of(self, user_id: str) -> str | None:
        """The node id in the User-Id of a frame: empty over ipc; None: it is, or has become, nobody who may send."""
        if not user_id:
            return ""
        key_id, _, node_id = user_id.partition("/")
        return node_id if self.admits(key_id, node_id) else None

    def answer(self, request: Sequence[bytes], is_known: Callable[[str], bool]) -> list[bytes]:
        """Answer a request of ZAP: frames in, frames out, and only a note of who came.

        An inbox turns away with 400, which says so at once, and our peer redials. An outbox does with 300, after
        which a SUB tries again by itself; after a 400 it never would (libzmq 4.3.5). `is_known` says whether a node
        has a link with us or said hello, before which nobody has anything to look for at our outbox.
        """
        if len(request) < 6:
            return self._answered(request, b"400", b"not a request of ZAP 1.0")
        domain, mechanism = bytes(request[2]).decode("utf-8", "replace"), bytes(request[5])
        if domain == IPC_DOMAIN:
            if mechanism == b"NULL":
                return self._answered(request, b"200", b"OK")
        elif mechanism == b"CURVE" and len(request) == 7 and len(request[6]) == KEY_BYTES:
            node_id = node_id_of(bytes(request[6]))
            if domain == OUTBOX_DOMAIN:
                if self._may_follow(node_id) and is_known(node_id):
                    self._note_follower(node_id)
                    return self._answered(request, b"200", b"OK", node_id)
                return self._answered(request, b"300", b"say hello first")
            key_id = domain.removeprefix(_INBOX_DOMAIN)
            if key_id != domain and self.admits(key_id, node_id):
                self._came_by.pop(node_id, None)
                self._came_by[node_id] = key_id
                if len(self._came_by) > NODES_MAX:
                    del self._came_by[next(iter(self._came_by))]  # who has not come for longest
                return self._answered(request, b"200", b"OK", f"{key_id}/{node_id}")
        return self._answered(request, b"400", b"not admitted")

    def _may_follow(self, node_id: str) -> bool:
        """Whether the outbox is open to this node: the secret under which it came, if any, must count, too."""
        key_id = self._came_by.get(node_id)
        return self.admits_node(node_id) if key_id is None else self.admits(key_id, node_id)

    def _note_follower(self, node_id: str) -> None:
        if len(self._followers) >= NODES_MAX:
            self._followers.clear()
            self._too_many = True
        self._followers.add(node_id)

    @property
    def is_overheard(self) -> bool:
        """Whether somebody may still be connected to the outbox who would not be let in any more."""
        return self._too_many or not all(map(self._may_follow, self._followers))

    def forget_followers(self) -> None:
        """The outbox is another one, to which nobody is connected."""
        self._followers.clear()
        self._too_many = False

    def _answered(self, request: Sequence[bytes], status: bytes, text: bytes, user_id: str = "") -> list[bytes]:
        self.denied += status != b"200"
        number = bytes(request[1]) if len(request) > 1 else b""
        return [b"1.0", number, status, text, user_id.encode(), b""]


def serve_ipc(socket: ZmqSocket) -> None:
    """What this socket binds next is in the clear, for our own user."""
    socket.set(zmq.CURVE_SERVER, 0)
    socket.set(zmq.ZAP_DOMAIN, IPC_DOMAIN.encode())
    socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)


def _serve(socket: ZmqSocket, secret: bytes, domain: str) -> None:
    socket.set(zmq.CURVE_SECRETKEY, secret)
    socket.set(zmq.CURVE_SERVER, 1)
    socket.set(zmq.ZAP_DOMAIN, domain.encode())
    socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)


class Handler:
    """The ZAP handler of a context: one REP, which is there before anything is bound. Belongs to the sockets' thread.

    Watch `fd` for reading and call `answer`.
    """

    def __init__(self, context: ZmqContext, curve: Curve) -> None:
        self._curve = curve
        self._rep = context.socket(zmq.REP)
        self._rep.linger = 0
        self._rep.bind("inproc://zeromq.zap.01")
        self.fd = int(self._rep.fd)

    def answer(self, is_known: Callable[[str], bool]) -> bool:
        """Answer those who wait, as many as one turn may take; whether more may be waiting."""
        for _ in range(ZAP_ANSWERS):
            try:
                request = self._rep.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return False
            self._rep.send_multipart(self._curve.answer(request, is_known), zmq.DONTWAIT)
        return True

    def close(self) -> None:
        """Answer nobody any more: who connects now is not let in."""
        self._rep.close()


# Self-test


class _Caller:
    """A client of the self-test: at which endpoint, as whom, whether it is to be let in, and how it fared."""

    def __init__(self, context: ZmqContext, kind: int, endpoint: str, who: str, prepare: Options) -> None:
        self.endpoint, self.who = endpoint, who
        self.token = SELF_TEST + secrets.token_bytes(16)
        self.outcome: Connected | Refused | None = None
        self.sender: str | None = None
        """Under which node id its message has come."""
        self._socket = context.socket(kind)
        self._socket.linger = 0
        self._socket.ipv6 = 1
        self._monitor = Monitor(context, self._socket, f"self-test-{self.token.hex()}")
        self._connection = Connection(0)
        prepare(self._socket)
        self._socket.connect(_from_here(endpoint))

    def look(self) -> None:
        """Take in what has happened; one that is let in sends its message."""
        for event, value in self._monitor.read():
            heard = self._connection.hear(event, value)
            if self.outcome is None and isinstance(heard, Connected | Refused):
                self.outcome = heard
                if isinstance(heard, Connected) and self._socket.type == zmq.PUSH:
                    self._socket.send(self.token)

    def close(self) -> None:
        self._monitor.close()
        self._socket.close()


def self_test(
    curve: Curve,
    context: ZmqContext,
    inboxes: Iterable[tuple[str, str]],
    outboxes: Iterable[str],
    turn: Callable[[], Iterable[Event]],
) -> list[Event]:
    """Call at the bound TCP endpoints under a wrong key, in the clear, and as ourselves, and see who is let in.

    Args:
        inboxes: Endpoints, each with the key id of its gate.
        outboxes: Endpoints, at which we ourselves do not call, as nobody knows us yet.
        turn: Answers handshakes, waits for a few milliseconds at most, and returns what came since.

    Returns:
        What came that was not for us.

    Raises:
        ConfigError: A stranger was let in, or we were not, or not under our own id.
    """
    stranger = Curve(NodeKey(secrets.token_bytes(KEY_BYTES), curve_public), ())

    def as_stranger(socket: ZmqSocket) -> None:
        stranger.call(socket, stranger.key.outbox_public)

    def in_the_clear(socket: ZmqSocket) -> None:
        pass

    with ExitStack() as stack:

        def call(kind: int, endpoint: str, who: str, prepare: Options) -> _Caller:
            caller = _Caller(context, kind, endpoint, who, prepare)
            stack.callback(caller.close)
            return caller

        ours, others = [], []
        for endpoint, key_id in inboxes:
            ours.append(call(zmq.PUSH, endpoint, "itself", partial(curve.call, server=curve.gates[key_id].public)))
            others.append(call(zmq.PUSH, endpoint, "a stranger", as_stranger))
            others.append(call(zmq.PUSH, endpoint, "somebody in the clear", in_the_clear))
        for endpoint in outboxes:
            others.append(call(zmq.SUB, endpoint, "a stranger", as_stranger))
            others.append(call(zmq.SUB, endpoint, "somebody in the clear", in_the_clear))
        events = _watch(ours, others, turn)
    for caller in others:
        if isinstance(caller.outcome, Connected):
            raise _failed(caller, f"lets {caller.who} in")
    for caller in ours:
        if caller.sender != curve.key.node_id:
            raise _failed(caller, "does not let the node itself in" if caller.sender is None else "mistakes who calls")
    return events


def _watch(ours: Sequence[_Caller], others: Sequence[_Caller], turn: Callable[[], Iterable[Event]]) -> list[Event]:
    """Return when all have been heard or refused, or one let in who should not be, or it takes too long."""
    tokens = {caller.token: caller for caller in ours}
    events: list[Event] = []
    until = time.monotonic() + SELF_TEST_TIME
    while time.monotonic() < until:
        for event in turn():
            caller = tokens.get(bytes(event.frames[0])) if isinstance(event, Received) else None
            if caller is None or not isinstance(event, Received):
                events.append(event)
            else:
                caller.sender = event.sender
        for caller in (*ours, *others):
            caller.look()
        if any(isinstance(caller.outcome, Connected) for caller in others):
            break
        refused = [isinstance(caller.outcome, Refused) for caller in (*ours, *others)]
        if all(refused[len(ours) :]) and all(no or caller.sender for no, caller in zip(refused, ours, strict=False)):
            break
    return events


def _from_here(endpoint: str) -> str:
    """How to reach what is bound there from this host."""
    return endpoint.replace("tcp://[::]:", "tcp://127.0.0.1:").replace("tcp://0.0.0.0:", "tcp://127.0.0.1:")


def _failed(caller: _Caller, problem: str) -> ConfigError:
    return ConfigError(
        f"the self-test of the keys failed: {caller.endpoint} {problem}; nothing was announced. Install pyzmq >= 27 "
        f"from its wheel, and see that no firewall keeps this host from its own port"
    )
