"""Keys at the sockets, over real connections on loopback: who is let in, what the others hear, and who has spoken."""

from __future__ import annotations

import ast
import gc
import os
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
import zmq

from peerfabric.errors import ConfigError
from peerfabric.nodes.io import curve as keys
from peerfabric.nodes.io.curve import Access, Curve, Gate, curve_public
from peerfabric.nodes.io.events import Connected, Disconnected, Event, Published, Received, Refused
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.secret import NodeKey, Secret, new_secret

DEADLINE = 20.0
FABRIC = "default"
OLD, NEW, OTHER = (new_secret(bytes([n]) * 32) for n in (1, 2, 3))
LOOPBACK = "tcp://127.0.0.1:*"
ROOT = Path(__file__).parents[3]

HELLO = b"\x9b\x01" + b"hello"
"""The beginning of one, as far as the sockets look."""


def node_key(number: int) -> NodeKey:
    return NodeKey(bytes([100 + number]) * 32, curve_public)


def gate(secret: Secret) -> str:
    return secret.key_id(FABRIC)


def curve(number: int, *of: Secret, access: Access | None = None) -> Curve:
    """The keys of node `number`, with these secrets."""
    return Curve(node_key(number), [Gate(secret, FABRIC) for secret in of or (OLD,)], access)


def id_of(number: int) -> str:
    return node_key(number).node_id


Make = Callable[..., Sockets]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make Sockets with the keys of a node, or in the clear for None; they are closed after the test."""
    zmq.Frame(b"x", copy=False, copy_threshold=0)  # starts pyzmq's thread for memory sent without a copy, which stays
    before = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    made: list[Sockets] = []

    def one(with_keys: Curve | None, **options: Any) -> Sockets:
        made.append(Sockets(frame_bytes_max=1 << 20, peers_max=16, curve=with_keys, **options))
        return made[-1]

    yield one
    for sockets in made:
        sockets.close()
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), set(threading.enumerate())) == before


def turn(*others: Sockets) -> list[list[Event]]:
    """Give each a turn, and return what each has found."""
    found = []
    for each in others:
        each.wait(0.005)
        found.append(each.read())
    return found


def gather(
    sockets: Sockets, enough: Callable[[list[Event]], bool], *others: Sockets, within: float = DEADLINE
) -> list[Event]:
    """Run all until the events of the first are `enough`; the others must not receive anything."""
    events: list[Event] = []
    deadline = monotonic() + within
    while not enough(events):
        assert monotonic() < deadline, events
        mine, *theirs = turn(sockets, *others)
        events += mine
        assert not any(isinstance(event, Received) for found in theirs for event in found)
    return events


def outcome(sockets: Sockets, *others: Sockets, wire: int = 1) -> Event:
    """What becomes of the attempt on `wire`."""
    events = gather(sockets, lambda events: any(isinstance(event, Connected | Refused) for event in events), *others)
    return next(event for event in events if isinstance(event, Connected | Refused) and event.wire == wire)


def inbox(sockets: Sockets, endpoint: str = LOOPBACK) -> str:
    return sockets.bind([endpoint], [])[0][0]


def dropped(sockets: Sockets) -> int:
    return sockets.counters.get("messages of nodes not admitted", 0)


# Who is let in


def test_a_member_is_let_in_and_known(make: Make) -> None:
    """Each of its messages comes with its node id, in whatever parts, and none is lost or mixed up."""
    a, b = make(curve(1)), make(curve(2))
    a.dial(1, inbox(b), gate(OLD))
    assert outcome(a, b) == Connected(1)
    sent = [[HELLO], [b"header", b"x" * 200_000], [b"header", b""], *([b"n%d" % n] for n in range(200))]
    for frames in sent:
        while not a.send(1, frames):
            turn(a, b)
    events = gather(b, lambda events: len(events) == len(sent))
    assert [event.sender for event in events if isinstance(event, Received)] == [id_of(1)] * len(sent)
    assert [[bytes(f) for f in event.frames] for event in events if isinstance(event, Received)] == sent


def strangers() -> dict[str, tuple[Curve | None, Curve | None, str]]:
    """Who dials, whom, and why it is in vain."""
    only_3 = Access(key_ids=frozenset({gate(OLD)}), allow=frozenset({id_of(3)}))
    without_1 = Access(key_ids=frozenset({gate(OLD)}), revoked=frozenset({id_of(1)}))
    retired = Access(key_ids=frozenset({gate(NEW)}))
    return {
        "another secret": (curve(1, OTHER), curve(2), "secret"),
        "the same secret of another fabric": (
            Curve(node_key(1), [Gate(OLD, "another")]),
            curve(2),
            "secret",
        ),
        "in the clear": (None, curve(2), "mechanism"),
        "to one in the clear": (curve(1), None, "mechanism"),
        "a secret that was removed": (curve(1), curve(2, OLD, access=retired), "denied"),
        "revoked": (curve(1), curve(2, access=without_1), "denied"),
        "not in the list": (curve(1), curve(2, access=only_3), "denied"),
    }


@pytest.mark.parametrize("case", strangers())
def test_nobody_else_is(make: Make, case: str) -> None:
    """No frame of theirs comes in, they learn why, and the wire is hung up."""
    dials, listens, why = strangers()[case]
    a, b = make(dials), make(listens)
    a.dial(1, inbox(b), next(iter(dials.gates)) if dials is not None else "")
    assert outcome(a, b) == Refused(1, why)
    assert not a.send(1, [HELLO])
    assert not any(turn(a, b, a, b))
    if why == "denied":
        assert b.counters == {"handshakes denied": 1}


def test_never_in_the_clear_over_tcp(make: Make) -> None:
    """A node with keys dials no TCP endpoint without a gate, and follows none without a key."""
    a, b = make(curve(1)), make(None)
    a.dial(1, inbox(b), "")
    assert turn(a, b)[0] == [Refused(1, "secret")]
    assert not a.follow("tcp://127.0.0.1:7701")
    assert not a.follow("tcp://127.0.0.1:7701", b"short")


def test_over_ipc_in_the_clear(make: Make, tmp_path: Path) -> None:
    """Over a socket file one needs no key: it is our own user. Such a message has no sender."""
    a, b = make(curve(1)), make(curve(2))
    a.dial(1, inbox(b, f"ipc://{tmp_path}/inbox"))
    assert outcome(a, b) == Connected(1)
    a.send(1, [HELLO])
    assert gather(b, bool) == [Received([HELLO])]


def test_one_that_says_nothing(make: Make) -> None:
    """Somebody accepts and shakes no hands: silence, after our own HANDSHAKE_IVL."""
    a = make(curve(1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        a.dial(1, f"tcp://127.0.0.1:{server.getsockname()[1]}", gate(OLD))
        assert outcome(a) == Refused(1, "silent")


def test_nobody_listens(make: Make) -> None:
    """That is no question of keys."""
    a = make(curve(1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    a.dial(1, f"tcp://127.0.0.1:{port}", gate(OLD))
    assert outcome(a) == Refused(1)


def test_let_in_again(make: Make) -> None:
    """Whoever is taken from the list of the revoked is connected within 2 s, without a start."""
    keys_2 = curve(2, access=Access(key_ids=frozenset({gate(OLD)}), revoked=frozenset({id_of(1)})))
    a, b = make(curve(1)), make(keys_2)
    endpoint = inbox(b)
    a.dial(1, endpoint, gate(OLD))
    assert outcome(a, b) == Refused(1, "denied")
    keys_2.access = Access(key_ids=frozenset({gate(OLD)}))
    b.admit_anew()
    began = monotonic()
    a.dial(1, endpoint, gate(OLD))
    assert outcome(a, b) == Connected(1)
    assert monotonic() - began < 2.0


def test_frames_of_the_revoked_are_dropped(make: Make) -> None:
    """Over a connection that was let in before: what comes after the change is counted, and nobody hears of it."""
    keys_2 = curve(2)
    a, b, c = make(curve(1)), make(keys_2), make(curve(3))
    endpoint = inbox(b)
    for each in (a, c):
        each.dial(1, endpoint, gate(OLD))
        assert outcome(each, b) == Connected(1)
    a.send(1, [b"before"])
    assert gather(b, bool) == [Received([b"before"], id_of(1))]
    keys_2.access = Access(key_ids=frozenset({gate(OLD)}), revoked=frozenset({id_of(1)}))
    b.admit_anew()
    a.send(1, [b"after", b"body"])
    gather_until(lambda: dropped(b) == 1, b)
    c.send(1, [b"of another"])
    assert gather(b, bool) == [Received([b"of another"], id_of(3))]
    # Under a secret that was removed it is the same.
    keys_2.access = Access(key_ids=frozenset())
    b.admit_anew()
    c.send(1, [b"after"])
    gather_until(lambda: dropped(b) == 2, b)


def gather_until(condition: Callable[[], bool], *those: Sockets) -> None:
    deadline = monotonic() + DEADLINE
    while not condition():
        assert monotonic() < deadline
        assert not any(isinstance(event, Received) for found in turn(*those) for event in found)


def test_a_member_cannot_speak_as_another(make: Make) -> None:
    """Its id is the hash of the key it shook hands with, so it is its own, whatever its frames say."""
    a, b = make(curve(1)), make(curve(2))
    thief = curve(1)
    thief.key.client_secret = node_key(3).client_secret  # with the public half of another
    m = make(thief)
    endpoint = inbox(b)
    m.dial(1, endpoint, gate(OLD))
    refused = outcome(m, b)
    assert isinstance(refused, Refused)  # the two halves do not fit
    a.dial(1, endpoint, gate(OLD))
    assert outcome(a, b) == Connected(1)
    a.send(1, [HELLO + id_of(3).encode()])
    assert gather(b, bool) == [Received([HELLO + id_of(3).encode()], id_of(1))]


def test_own_id_is_always_admitted() -> None:
    """A list of others says nothing of ourselves."""
    mine = curve(1, access=Access(key_ids=frozenset({gate(OLD)}), allow=frozenset({id_of(2)})))
    assert [mine.admits_node(id_of(n)) for n in (1, 2, 3)] == [True, True, False]


# Two secrets


def test_two_gates(make: Make) -> None:
    """One PULL, a listener for each gate; each admits its own, and says under which one it was."""
    b = make(curve(2, NEW, OLD))
    (new, old), _ = b.bind([LOOPBACK, LOOPBACK], [])
    for number, (secret, endpoint) in enumerate([(NEW, new), (OLD, old)], start=3):
        a = make(curve(number, secret))
        a.dial(1, endpoint, gate(secret))
        assert outcome(a, b) == Connected(1)
        a.send(1, [b"x"])
        assert gather(b, bool) == [Received([b"x"], id_of(number))]
    for secret, endpoint in [(NEW, old), (OLD, new)]:
        a = make(curve(5, secret))
        a.dial(1, endpoint, gate(secret))
        assert outcome(a, b) == Refused(1, "secret")


def test_rotation(make: Make) -> None:
    """old, old and new, new: each neighbouring pair can connect both ways, and what is connected stays."""
    keys_b = curve(2, OLD)
    a, b = make(curve(1, OLD)), make(keys_b)
    old = inbox(b)
    a.dial(1, old, gate(OLD))
    assert outcome(a, b) == Connected(1)
    # The second secret comes in at run time, on a port of its own.
    keys_b.add(Gate(NEW, FABRIC))
    (new,), _ = b.bind([LOOPBACK], [], gates=[gate(NEW)])
    keys_b.access = Access(key_ids=frozenset({gate(OLD), gate(NEW)}))
    b.admit_anew()
    c = make(curve(3, NEW))
    c.dial(1, new, gate(NEW))
    assert outcome(c, b) == Connected(1)
    # Then the first one goes.
    keys_b.access = Access(key_ids=frozenset({gate(NEW)}))
    b.admit_anew()
    d = make(curve(4, OLD))
    d.dial(1, old, gate(OLD))
    assert outcome(d, b) == Refused(1, "denied")
    a.send(1, [b"late"])
    gather_until(lambda: dropped(b) == 1, b)
    c.send(1, [b"goes on"])
    assert gather(b, bool) == [Received([b"goes on"], id_of(3))]
    # Its port stays bound and denies, so a probe finds the node alive.
    with socket.create_connection(("127.0.0.1", int(old.rpartition(":")[2]))):
        pass


def test_a_gate_for_each_endpoint(make: Make) -> None:
    """More TCP endpoints than secrets would leave one without a key."""
    b = make(curve(2))
    with pytest.raises(ConfigError, match="more TCP endpoints than secrets"):
        b.bind([LOOPBACK, LOOPBACK], [])


# Outboxes


def followed(make: Make, number: int, b: Sockets, endpoint: str, key: bytes) -> Sockets:
    a = make(curve(number))
    a.subscribe(b"")
    assert a.follow(endpoint, key)
    return a


def published(b: Sockets, *subscribers: Sockets, within: float) -> list[bool]:
    """Who of them hears of what is published within so many seconds."""
    heard = [False] * len(subscribers)
    until = monotonic() + within
    while monotonic() < until and not all(heard):
        b.publish([b"t\0", b"header"])
        turn(b)
        for at, events in enumerate(turn(*subscribers)):
            heard[at] = heard[at] or any(isinstance(event, Published) for event in events)
    return heard


def test_outbox(make: Make) -> None:
    """Only to those who said hello; the others hear when they have, by themselves, and nobody else ever."""
    keys_2 = curve(2)
    b = make(keys_2)
    known = {id_of(1)}
    b.is_known = known.__contains__
    _, (outbox,) = b.bind([], [LOOPBACK])
    own = keys_2.key.outbox_public
    first, second = followed(make, 1, b, outbox, own), followed(make, 3, b, outbox, own)
    wrong = followed(make, 4, b, outbox, node_key(9).outbox_public)
    clear = make(None)
    clear.subscribe(b"")
    clear.follow(outbox)
    assert published(b, first, within=DEADLINE) == [True]
    assert published(b, second, wrong, clear, within=0.3) == [False] * 3
    known |= {id_of(3), id_of(4)}
    assert published(b, second, within=4.0) == [True]  # after HANDSHAKE_IVL it tries again
    assert published(b, wrong, clear, within=0.3) == [False] * 2


def followers_of(make: Make, b: Sockets, keys_b: Curve, *callers: tuple[int, Secret]) -> list[Sockets]:
    """Nodes that came in under a secret each and follow the outbox."""
    b.is_known = lambda node_id: True
    inboxes, (outbox,) = b.bind([LOOPBACK] * len(keys_b.gates), [LOOPBACK])
    behind = dict(zip(keys_b.gates, inboxes, strict=True))
    made = []
    for number, secret in callers:
        a = make(curve(number, secret))
        a.dial(1, behind[gate(secret)], gate(secret))
        assert outcome(a, b) == Connected(1)
        a.subscribe(b"")
        a.follow(outbox, keys_b.key.outbox_public)
        made.append(a)
    assert published(b, *made, within=DEADLINE) == [True] * len(made)
    return made


def test_the_revoked_hear_nothing_more(make: Make) -> None:
    """Not of topics either, to which they are connected; the others are cut off for a moment, and come back."""
    keys_b = curve(2)
    b = make(keys_b)
    stays, goes = followers_of(make, b, keys_b, (1, OLD), (3, OLD))
    keys_b.access = Access(key_ids=frozenset({gate(OLD)}), revoked=frozenset({id_of(3)}))
    b.admit_anew()
    for each in (stays, goes):  # what was on its way
        gather_all(each)
    assert published(b, stays, within=4.0) == [True]
    assert published(b, goes, within=1.5) == [False]
    # A change that concerns nobody who is connected cuts nobody off.
    outbox = b._outbox
    keys_b.access = Access(key_ids=frozenset({gate(OLD)}), revoked=frozenset({id_of(3), id_of(5)}))
    b.admit_anew()
    assert b._outbox is outbox


def gather_all(sockets: Sockets) -> None:
    """Take what is there."""
    for _ in range(20):
        turn(sockets)


def test_who_knows_only_a_removed_secret_hears_nothing_more(make: Make) -> None:
    """The outbox has one key for all; who may follow depends on the secret under which one came."""
    keys_b = curve(2, NEW, OLD)
    b = make(keys_b)
    stays, goes = followers_of(make, b, keys_b, (1, NEW), (3, OLD))
    keys_b.access = Access(key_ids=frozenset({gate(NEW)}))
    b.admit_anew()
    for each in (stays, goes):
        gather_all(each)
    assert published(b, stays, within=4.0) == [True]
    assert published(b, goes, within=1.5) == [False]


def test_many_nodes_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that a change of access cuts all followers off, as one of them may be unwelcome."""
    monkeypatch.setattr(keys, "NODES_MAX", 4)
    mine = curve(9)
    for number in range(10):
        public = node_key(number).client_public
        for domain in (f"in:{gate(OLD)}", "out"):
            assert mine.answer(request(domain, public), lambda node_id: True)[2] == b"200"
    assert len(mine._came_by) == 4
    assert len(mine._followers) <= 4
    assert mine.is_overheard
    mine.forget_followers()
    assert not mine.is_overheard


def test_an_outbox_with_another_key(make: Make) -> None:
    """At the same endpoint there is another node by now: it is followed anew, under its key."""
    first, second = curve(2), curve(3)
    b = make(first)
    b.is_known = lambda node_id: True
    _, (outbox,) = b.bind([], [LOOPBACK])
    a = followed(make, 1, b, outbox, first.key.outbox_public)
    assert published(b, a, within=DEADLINE) == [True]
    b.close()
    c = make(second)
    c.is_known = lambda node_id: True
    c.bind([], [outbox])
    assert published(c, a, within=0.5) == [False]
    assert a.follow(outbox, second.key.outbox_public)
    assert published(c, a, within=DEADLINE) == [True]


def test_another_gate_at_a_port(make: Make, tmp_path: Path) -> None:
    """The inbox is made anew, with the gates that its ports shall have now; nobody finds one of them closed."""
    keys_b = curve(2, OLD, NEW)
    b = make(keys_b)
    (ipc, first, second), _ = b.bind([f"ipc://{tmp_path}/b", LOOPBACK, LOOPBACK], [])
    a = make(curve(1, NEW))

    def lets_in(endpoint: str, secret: Secret) -> bool:
        c = make(curve(3, secret))
        c.dial(1, endpoint, "" if endpoint == ipc else gate(secret))
        found = outcome(c, a, b)
        assert found in (Connected(1), Refused(1, "secret"))
        return found == Connected(1)

    a.dial(1, second, gate(NEW))
    assert outcome(a, b) == Connected(1)
    b.regate({first: gate(NEW)})
    for endpoint in (first, second):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        socket.create_connection((host, int(port))).close()
    assert gather(a, lambda events: Connected(1) in events, b) == [Disconnected(1), Connected(1)]
    a.send(1, [b"again"])
    assert gather(b, bool) == [Received([b"again"], id_of(1))]
    assert [lets_in(first, secret) for secret in (OLD, NEW)] == [False, True]
    assert [lets_in(second, secret) for secret in (OLD, NEW)] == [False, True]
    keys_b.gates[gate(OTHER)] = Gate(OTHER, FABRIC)
    keys_b.access = Access(key_ids=frozenset({gate(NEW), gate(OTHER)}))
    b.regate({second: gate(OTHER)})
    assert [lets_in(first, secret) for secret in (NEW, OTHER)] == [True, False]
    assert [lets_in(second, secret) for secret in (NEW, OTHER)] == [False, True]
    assert lets_in(ipc, NEW)


def test_keys_outlast_new_sockets(make: Make, tmp_path: Path) -> None:
    """A socket that is made anew has the same gates, in the clear over ipc, and follows under the same keys."""
    keys_b, keys_a = curve(2, OLD, NEW), curve(1)
    a, b = make(keys_a), make(keys_b)
    b.is_known = a.is_known = lambda node_id: True
    (ipc, old, new), (outbox,) = b.bind([f"ipc://{tmp_path}/b", LOOPBACK, LOOPBACK], [LOOPBACK])
    a.subscribe(b"")
    a.follow(outbox, keys_b.key.outbox_public)
    assert published(b, a, within=DEADLINE) == [True]
    b._renew_inbox()
    b._renew_outbox()
    a._renew_updates()
    for each in (a, b):
        each._look_at = 0.0
    for endpoint, secret, expected in [
        (ipc, None, Connected(1)),
        (old, OLD, Connected(1)),
        (new, OLD, Refused(1, "secret")),
        (new, OTHER, Refused(1, "secret")),
    ]:
        c = make(curve(3, secret or OLD))
        c.dial(1, endpoint, gate(secret) if secret else "")
        event = outcome(c, b)
        while event == Refused(1):  # a handshake that took too long on a busy machine
            c.dial(1, endpoint, gate(secret) if secret else "")
            event = outcome(c, b)
        assert event == expected
        if secret is OTHER:
            continue
        clear = make(None)
        clear.dial(1, endpoint)
        assert outcome(clear, b) == (Connected(1) if secret is None else Refused(1, "mechanism"))
    assert published(b, a, within=DEADLINE) == [True]


def test_ipc_stays_clear_after_its_file_was_lost(make: Make, tmp_path: Path) -> None:
    """It is bound again after TCP, whose options it must not inherit."""
    b = make(curve(2))
    (ipc, tcp), _ = b.bind([f"ipc://{tmp_path}/b", LOOPBACK], [])
    os.unlink(tmp_path / "b")
    assert b.gone() == [ipc]
    b.bind_again(ipc)
    clear = make(None)
    clear.dial(1, ipc)
    assert outcome(clear, b) == Connected(1)
    clear.dial(1, tcp)
    assert outcome(clear, b) == Refused(1, "mechanism")
    clear.dial(1, ipc)
    assert outcome(clear, b) == Connected(1)
    clear.send(1, [HELLO])
    assert gather(b, bool) == [Received([HELLO])]


# ZAP


def request(domain: str, key: bytes, mechanism: bytes = b"CURVE") -> list[bytes]:
    return [b"1.0", b"7", domain.encode(), b"10.0.0.9", b"", mechanism, key]


@pytest.mark.parametrize(
    ("asked", "status", "user"),
    [
        (request(f"in:{gate(OLD)}", node_key(1).client_public), b"200", f"{gate(OLD)}/{id_of(1)}"),
        (request(f"in:{gate(OLD)}", node_key(5).client_public), b"400", ""),  # revoked
        (request(f"in:{gate(OLD)}", node_key(6).client_public), b"400", ""),  # not in the list
        (request(f"in:{gate(NEW)}", node_key(1).client_public), b"400", ""),  # a secret that was removed
        (request("out", node_key(1).client_public), b"200", id_of(1)),
        (request("out", node_key(2).client_public), b"300", ""),  # not met
        (request("out", node_key(5).client_public), b"300", ""),
        (request("in:", node_key(1).client_public), b"400", ""),
        (request("", node_key(1).client_public), b"400", ""),
        (request(gate(OLD), node_key(1).client_public), b"400", ""),
        (request("ipc", node_key(1).client_public), b"400", ""),
        (request(f"in:{gate(OLD)}", b"short"), b"400", ""),
        (request(f"in:{gate(OLD)}", node_key(1).client_public, b"NULL"), b"400", ""),
        (request(f"in:{gate(OLD)}", node_key(1).client_public, b"PLAIN"), b"400", ""),
        (request(f"in:{gate(OLD)}", b"", b"NULL")[:6], b"400", ""),
        (request("ipc", b"", b"NULL")[:6], b"200", ""),
        (request("out", b"", b"NULL")[:6], b"400", ""),
        (request(f"in:{gate(OLD)}", node_key(1).client_public)[:5], b"400", ""),
    ],
)
def test_answers(asked: list[bytes], status: bytes, user: str) -> None:
    """What ZAP says to whom; an answer names its question."""
    access = Access(
        key_ids=frozenset({gate(OLD)}),
        allow=frozenset({id_of(1), id_of(2), id_of(5)}),
        revoked=frozenset({id_of(5)}),
    )
    mine = curve(9, OLD, NEW, access=access)
    answer = mine.answer(asked, lambda node_id: node_id != id_of(2))
    assert answer[:3] == [b"1.0", b"7", status]
    assert answer[4:] == [user.encode(), b""]
    assert mine.denied == (status != b"200")


@pytest.mark.parametrize(
    "asked", [[], [b"1.0"], [b"\xff"] * 7, [b"1.0", b"1", b"\xff\xfe", b"", b"", b"CURVE", bytes(32)]]
)
def test_no_request(asked: list[bytes]) -> None:
    """Whatever comes, the answer is one of ZAP, and no."""
    answer = curve(1).answer(asked, lambda node_id: True)
    assert (len(answer), answer[2]) == (6, b"400")


def test_senders() -> None:
    """What a User-Id says, and that it counts only as long as its node and its secret do."""
    mine = curve(9, access=Access(key_ids=frozenset({gate(OLD)}), revoked=frozenset({id_of(5)})))
    said = ["", f"{gate(OLD)}/{id_of(1)}", f"{gate(NEW)}/{id_of(1)}", f"{gate(OLD)}/{id_of(5)}", id_of(1), "/", "x"]
    assert [mine.sender_of(user) for user in said] == ["", id_of(1), None, None, None, None, None]


def test_handshakes_wait_for_a_long_turn(make: Make) -> None:
    """The owner of the sockets is busy for 3 s: who connects meanwhile is dropped and let in when it redials."""
    a, b = make(curve(1)), make(curve(2))
    c = make(curve(3))
    endpoint = inbox(b)
    c.dial(1, endpoint, gate(OLD))
    assert outcome(c, b) == Connected(1)
    a.dial(1, endpoint, gate(OLD))
    until, attempts = monotonic() + 3.0, 0
    heard: list[Event] = []
    while monotonic() < until:  # b makes no turn
        mine, theirs = turn(a, c)
        heard += theirs
        for event in mine:
            assert event == Refused(1, "silent")
            attempts += 1
            a.dial(1, endpoint, gate(OLD))
    assert attempts >= 1
    assert not any(isinstance(event, Disconnected) for event in heard)  # a link that is up does not notice

    def redialled(events: list[Event]) -> bool:
        if any(isinstance(event, Refused) for event in events):
            events.clear()
            a.dial(1, endpoint, gate(OLD))
        return Connected(1) in events

    gather(a, redialled, b)


def test_many_handshakes_a_turn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one turn may answer: the rest is answered in the next ones, and nobody is forgotten."""
    monkeypatch.setattr(keys, "ZAP_ANSWERS", 2)
    b = make(curve(2))
    endpoint = inbox(b)
    callers = [make(curve(10 + n)) for n in range(7)]
    for each in callers:
        each.dial(1, endpoint, gate(OLD))
    connected: set[int] = set()
    deadline = monotonic() + DEADLINE
    while len(connected) < len(callers):
        assert monotonic() < deadline
        b.wait(None if not connected else 0.05)  # would sleep for ever, were a request forgotten
        b.read()
        for at, events in enumerate(turn(*callers)):
            if Connected(1) in events:
                connected.add(at)


# Where a HELLO came from


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:*", "tcp://[::]:*"])
@pytest.mark.parametrize("keyed", [True, False])
def test_observed_address(make: Make, endpoint: str, *, keyed: bool) -> None:
    """Of a HELLO, as IPv4 even where the listener takes both kinds; of nothing else."""
    a, b = make(curve(1) if keyed else None), make(curve(2) if keyed else None, exposed=True)
    bound = inbox(b, endpoint)
    a.dial(1, bound.replace("[::]", "127.0.0.1"), gate(OLD) if keyed else "")
    assert outcome(a, b) == Connected(1)
    long = b"\xdc\0\x10\x01"
    for frames in ([HELLO], [b"\x94\x0c"], [long], [b"\x90"], [b"\xdc"], [b"\x01"]):
        a.send(1, frames)
    events = gather(b, lambda events: len(events) == 6)
    observed = [event.observed for event in events if isinstance(event, Received)]
    assert observed == ["127.0.0.1", "", "127.0.0.1", "", "", ""]


def test_dual_stack(make: Make) -> None:
    """One port for IPv6 and IPv4, whatever the system's default is."""
    a, b = make(curve(1)), make(curve(2), exposed=True)
    port = inbox(b, "tcp://[::]:*").rpartition(":")[2]
    a.dial(1, f"tcp://[::1]:{port}", gate(OLD))
    assert outcome(a, b) == Connected(1)
    a.send(1, [HELLO])
    assert gather(b, bool) == [Received([HELLO], id_of(1), "::1")]


def test_no_observation_over_ipc(make: Make, tmp_path: Path) -> None:
    """A process of this host has no address."""
    a, b = make(curve(1)), make(curve(2), exposed=True)
    a.dial(1, inbox(b, f"ipc://{tmp_path}/b"))
    assert outcome(a, b) == Connected(1)
    a.send(1, [HELLO])
    assert gather(b, bool) == [Received([HELLO])]


# Self-test, and what libzmq would let pass


def test_self_test(make: Make, tmp_path: Path) -> None:
    """It takes less than a second with all there is to test, and what came meanwhile is not lost."""
    b = make(curve(2, OLD, NEW))
    (ipc, *_), _ = b.bind([f"ipc://{tmp_path}/b", LOOPBACK, LOOPBACK], [f"ipc://{tmp_path}/o", LOOPBACK])
    a = make(curve(1))
    a.dial(1, ipc)
    assert outcome(a, b) == Connected(1)
    a.send(1, [HELLO])
    began = monotonic()
    b.self_test()
    assert monotonic() - began < 1.0
    assert gather(b, bool) == [Received([HELLO])]


def test_self_test_without_keys(make: Make) -> None:
    """There is nothing to prove."""
    make(None).self_test()


def serve(*options: tuple[int, bytes | int]) -> Callable[[zmq.Socket[bytes], bytes, str], None]:
    """A way of serving in which only these options are set, besides the key."""

    def with_them(pull: zmq.Socket[bytes], secret: bytes, domain: str) -> None:
        pull.set(zmq.CURVE_SECRETKEY, secret)
        pull.set(zmq.CURVE_SERVER, 1)
        for option, value in options:
            pull.set(option, value or domain.encode())

    return with_them


def in_the_clear(pull: zmq.Socket[bytes], secret: bytes, domain: str) -> None:
    """No key at all."""


class NoHandler:
    """Nobody answers ZAP."""

    fd = -1

    def __init__(self, context: Any, mine: Curve) -> None:
        self.fd = os.eventfd(0)

    def answer(self, is_known: Any) -> bool:
        return False

    def close(self) -> None:
        os.close(self.fd)


FAIL_OPEN: dict[str, tuple[Any, bool]] = {
    "no domain": (serve(), True),  # here only our handler says no
    "no handler and no domain": (serve(), False),
    "a domain and no handler": (serve((zmq.ZAP_DOMAIN, b"")), False),
    "enforced without a domain": (serve((zmq.ZAP_ENFORCE_DOMAIN, 1)), False),
    "in the clear": (in_the_clear, True),
}
"""How the options of a listening socket are set, and whether somebody answers ZAP: libzmq lets anybody in."""


@pytest.mark.parametrize("case", FAIL_OPEN)
def test_self_test_finds_what_is_open(make: Make, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways in which libzmq stays open do not start a node."""
    served, answered = FAIL_OPEN[case]
    monkeypatch.setattr(keys, "_serve", served)
    monkeypatch.setattr(keys, "SELF_TEST_TIME", 1.0)
    if not answered:
        monkeypatch.setattr(keys, "Handler", NoHandler)
    b = make(curve(2))
    b.bind([LOOPBACK], [])
    with pytest.raises(ConfigError, match="self-test"):
        b.self_test()


@pytest.mark.parametrize("case", [case for case in FAIL_OPEN if case != "no domain"])
def test_what_passes_libzmq_does_not_pass_us(make: Make, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should it stay open all the same: a frame without the mark of our ZAP is dropped."""
    served, answered = FAIL_OPEN[case]
    monkeypatch.setattr(keys, "_serve", served)
    if not answered:
        monkeypatch.setattr(keys, "Handler", NoHandler)
    b = make(curve(2))
    endpoint = inbox(b)
    a = make(curve(1) if case != "in the clear" else None)
    a.dial(1, endpoint, gate(OLD) if case != "in the clear" else "")
    assert outcome(a, b) == Connected(1)  # so libzmq does let it in
    a.send(1, [HELLO, b"body"])
    gather_until(lambda: dropped(b) == 1, b)


def test_closed_without_a_handler(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our options nobody gets in when nobody answers ZAP: the one case of four in which libzmq is closed."""
    monkeypatch.setattr(keys, "Handler", NoHandler)
    a, b = make(curve(1)), make(curve(2))
    a.dial(1, inbox(b), gate(OLD))
    assert isinstance(outcome(a, b), Refused)


def test_options_of_each_bind() -> None:
    """Domain, enforcement and key are on every socket that listens over TCP; over ipc the domain that asks for NULL."""
    mine, context = curve(1, OLD, NEW), zmq.Context()
    try:
        endpoints = ["ipc:///a", "tcp://127.0.0.1:1", "ipc:///b", "tcp://127.0.0.1:2"]
        options = [*mine.inbox_options(endpoints), *mine.outbox_options(endpoints[:2])]
        found = []
        with context.socket(zmq.PULL) as pull:
            for each in options:
                each(pull)
                found.append((pull.mechanism, pull.get(zmq.ZAP_DOMAIN), pull.get(zmq.ZAP_ENFORCE_DOMAIN)))
    finally:
        context.term()
    null = (zmq.NULL, b"ipc", 1)
    old, new = (zmq.CURVE, f"in:{gate(OLD)}".encode(), 1), (zmq.CURVE, f"in:{gate(NEW)}".encode(), 1)
    assert found == [null, old, null, new, null, (zmq.CURVE, b"out", 1)]


def test_without_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libzmq that was built without it starts no node with a secret."""
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    with pytest.raises(ConfigError, match="without CURVE"):
        curve(1)


def test_tcp_is_never_unbound() -> None:
    """libzmq would leave its connections up, and nothing would arrive over them: `unbind` is for files alone."""
    calls = []
    for path in (ROOT / "nodes").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                names = [n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)]
                calls += [(path.name, function.name)] * names.count("unbind")
    assert calls == [("listener.py", "_unbind")]


def test_only_files_are_unbound(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a file is lost and TCP moves."""
    unbound: list[str] = []
    monkeypatch.setattr(zmq.Socket, "unbind", lambda self, endpoint: unbound.append(endpoint))
    b = make(curve(2))
    (ipc, _), _ = b.bind([f"ipc://{tmp_path}/b", LOOPBACK], [LOOPBACK])
    for _ in range(6):
        os.unlink(tmp_path / "b")
        b.bind_again(ipc)
    b._renew_inbox()
    b._look_at = 0.0
    turn(b)
    b.leave(ipc)
    b.close()
    assert unbound
    assert all(endpoint.startswith("ipc://") for endpoint in unbound)


# Strangers without a handshake


def test_silent_strangers_are_dropped_after_a_second(make: Make) -> None:
    """They connect and say nothing; a second later their descriptors are back."""
    b = make(curve(2), exposed=True)
    port = int(inbox(b).rpartition(":")[2])
    before = len(os.listdir("/proc/self/fd"))
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    try:
        deadline = monotonic() + DEADLINE
        while len(os.listdir("/proc/self/fd")) < before + 2 * len(silent):
            assert monotonic() < deadline
            turn(b)
        began = monotonic()
        while len(os.listdir("/proc/self/fd")) > before + len(silent):
            assert monotonic() < deadline
            turn(b)
        assert monotonic() - began < 3.0
    finally:
        for each in silent:
            each.close()


def test_handshake_patience(make: Make) -> None:
    """1 s where strangers may come, 2 s on this host in the clear; who dials waits for 2 s."""
    kinds = (zmq.PULL, zmq.PUB, zmq.PUSH, zmq.SUB)
    for sockets, listening in ((make(None), 2000), (make(None, exposed=True), 1000), (make(curve(1)), 1000)):
        opened = [sockets._open(kind) for kind in kinds]
        assert [each.handshake_ivl for each in opened] == [listening, listening, 2000, 2000]
        for each in opened:
            each.close()


def test_garbage_at_the_gate(make: Make) -> None:
    """Bytes of any kind end a stranger's connection and nothing else."""
    a, b = make(curve(1)), make(curve(2))
    endpoint = inbox(b)
    port = int(endpoint.rpartition(":")[2])
    for number in range(20):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\0" + bytes(31)
            stranger.sendall([secrets.token_bytes(1 + 40 * number), greeting + secrets.token_bytes(300)][number % 2])
        turn(b)
    a.dial(1, endpoint, gate(OLD))
    assert outcome(a, b) == Connected(1)


# Nothing shows a key


def hidden() -> list[bytes]:
    """Everything secret that the nodes of these tests have."""
    key = node_key(1)
    raw = [
        OLD.gate(FABRIC),
        OLD.announce_key(FABRIC),
        key.client_secret,
        key.outbox_secret,
        key.reveal(),
        bytes([1]) * 32,
    ]
    return [*raw, *(each.hex().encode() for each in raw), OLD.text().encode(), *map(zmq.utils.z85.encode, raw)]


def shown(text: str) -> Sequence[bytes]:
    return [each for each in hidden() if each in text.encode("utf-8", "surrogatepass") or repr(each)[2:-1] in text]


def test_canary() -> None:
    """Not in what an object says of itself, not in a traceback with all locals."""
    mine = curve(1)
    the_gate = next(iter(mine.gates.values()))
    said = f"{mine} {mine!r} {the_gate} {the_gate!r} {[the_gate]} {mine.gates} {mine.access} {OLD!r} {mine.key!r}"
    assert shown(said) == []
    assert OLD.key_id(FABRIC) in said
    assert mine.key.node_id in said
    try:
        mine.inbox_options(["tcp://1", "tcp://2"])
    except ConfigError as error:
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert shown("".join(told.format())) == []
    for each in (mine, the_gate, mine.access):
        with pytest.raises((TypeError, msgspec.ValidationError)):
            msgspec.json.encode(each if each is not mine.access else mine)


def test_time_of_a_handshake(make: Make) -> None:
    """Not a test of speed: a hundred handshakes one after the other, and none of them waits for a clock."""
    b = make(curve(2))
    endpoint = inbox(b)
    a = make(curve(1))
    began = time.monotonic()
    for _ in range(100):
        a.dial(1, endpoint, gate(OLD))
        assert outcome(a, b) == Connected(1)
    assert time.monotonic() - began < 10.0
