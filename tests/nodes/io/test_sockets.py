"""The ZeroMQ edge over real sockets, on loopback and in temporary folders."""

from __future__ import annotations

import errno
import gc
import logging
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
import zmq

from peerfabric.errors import ConfigError, EndpointInUse
from peerfabric.nodes.io import sockets as edge
from peerfabric.nodes.io import transport
from peerfabric.nodes.io.descriptors import table
from peerfabric.nodes.io.events import (
    Connected,
    Disconnected,
    Event,
    Probed,
    Published,
    Received,
    Refused,
    Writable,
)
from peerfabric.nodes.io.probe import Outcome
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.nodes.io.waiting import Doorbell

DEADLINE = 20.0  # seconds; far beyond what anything here takes
FRAME_BYTES_MAX = 1024 * 1024

LISTENER = """
import sys, zmq
pull = zmq.Context().socket(zmq.PULL)
pull.bind(sys.argv[1])
print(pull.last_endpoint.decode(), flush=True)
while True:
    pull.recv()
"""


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Compare descriptors and threads before and after."""
    zmq.Frame(b"x", copy=False, copy_threshold=0)  # starts pyzmq's thread for memory sent without a copy, which stays
    before = descriptors(), set(threading.enumerate())
    yield
    gc.collect()
    assert (descriptors(), set(threading.enumerate())) == before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def make() -> Iterator[Callable[..., Sockets]]:
    """Make Sockets that are closed after the test."""
    made: list[Sockets] = []

    def one(*, frame_bytes_max: int = FRAME_BYTES_MAX, peers_max: int = 16) -> Sockets:
        made.append(Sockets(frame_bytes_max=frame_bytes_max, peers_max=peers_max))
        return made[-1]

    yield one
    for sockets in made:
        sockets.close()


@pytest.fixture(params=["tcp", "ipc"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An endpoint to bind, of either transport."""
    return "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/inbox"


@contextmanager
def listener(endpoint: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process with a PULL, and its endpoint."""
    with subprocess.Popen([sys.executable, "-c", LISTENER, endpoint], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


def gather(sockets: Sockets, enough: Callable[[list[Event]], bool], *others: Sockets) -> list[Event]:
    """Run `sockets` until its events so far are `enough`, and return them; `others` get their turns."""
    events: list[Event] = []
    deadline = monotonic() + DEADLINE
    while not enough(events):
        assert monotonic() < deadline, events
        sockets.wait(0.01 if others else 1.0)
        events += sockets.read()
        for other in others:
            other.wait(0.0)
            other.read()
    return events


def link(make: Callable[..., Sockets], endpoint: str = "tcp://127.0.0.1:*") -> tuple[Sockets, Sockets]:
    """Two Sockets, the first of which is connected to the inbox of the second by wire 1."""
    a, b = make(), make()
    (inbox,), _ = b.bind([endpoint], [])
    a.dial(1, inbox)
    assert gather(a, lambda events: Connected(1) in events, b) == [Connected(1)]
    return a, b


def received(events: list[Event]) -> list[list[bytes]]:
    return [list(map(bytes, event.frames)) for event in events if isinstance(event, Received | Published)]


def test_frames_arrive(make: Callable[..., Sockets], anywhere: str) -> None:
    """A header, and a header with a body, arrive as they were sent and in order."""
    a, b = link(make, anywhere)
    assert a.writable(1)
    assert a.send(1, [b"header"])
    assert a.send(1, [bytearray(b"header"), memoryview(b"body")])
    assert a.send(1, [b"header", b""])
    events = gather(b, lambda events: len(events) == 3)
    assert events == [
        Received([b"header"]),
        Received([b"header", b"body"]),
        Received([b"header", b""]),
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_bind_tells_the_real_endpoint(make: Callable[..., Sockets], host: str) -> None:
    """A free port is chosen and told, and an IPv4 address stays one although IPv6 is on."""
    (inbox,), (outbox,) = make().bind([f"tcp://{host}:*"], [f"tcp://{host}:*"])
    assert inbox.startswith(f"tcp://{host}:")
    assert inbox != outbox
    assert int(inbox.rpartition(":")[2]) > 0


def test_several_inboxes(make: Callable[..., Sockets], tmp_path: Path) -> None:
    """One inbox may listen on several endpoints."""
    a, b = make(), make()
    inboxes, _ = b.bind(["tcp://127.0.0.1:*", f"ipc://{tmp_path}/i"], [])
    for wire, inbox in enumerate(inboxes):
        a.dial(wire, inbox)
    gather(a, lambda events: len(events) == 2, b)
    assert [a.send(wire, [b"%d" % wire]) for wire in (0, 1)] == [True, True]
    assert sorted(received(gather(b, lambda events: len(events) == 2))) == [[b"0"], [b"1"]]


def test_nobody_listening_is_refused_once(make: Callable[..., Sockets], tmp_path: Path) -> None:
    """After a refusal the wire is hung up; dialling again is up to the caller."""
    a = make()
    a.dial(1, f"ipc://{tmp_path}/nobody")
    assert not a.send(1, [b"x"])
    assert gather(a, bool) == [Refused(1)]
    assert not a.send(1, [b"x"])
    a.dial(1, f"ipc://{tmp_path}/nobody")
    assert gather(a, bool) == [Refused(1)]


@pytest.mark.parametrize("endpoint", ["inproc://monitor-1", "tcp://eth0;127.0.0.1:1", "nonsense", ""])
def test_endpoint_that_may_not_be_dialled_is_refused(make: Callable[..., Sockets], endpoint: str) -> None:
    """What a peer calls an endpoint cannot raise in the pump."""
    a = make()
    a.dial(1, endpoint)
    a.wait(None)
    assert a.read() == [Refused(1)]
    assert not a.follow(endpoint)


def test_listener_of_another_kind_is_refused(make: Callable[..., Sockets]) -> None:
    """A peer that speaks ZeroMQ but is no inbox does not count as connected."""
    a, b = make(), make()
    _, (outbox,) = b.bind([], ["tcp://127.0.0.1:*"])
    a.dial(1, outbox)
    assert gather(a, bool, b) == [Refused(1)]


def test_listener_that_never_ends_its_handshake_is_refused(
    make: Callable[..., Sockets], monkeypatch: pytest.MonkeyPatch
) -> None:
    """libzmq takes an HTTP server for an old peer and says nothing, so our own patience ends it."""
    monkeypatch.setattr(edge, "DIAL_PATIENCE", 0.2)
    a = make()
    with socket.create_server(("127.0.0.1", 0)) as server:
        a.dial(1, f"tcp://127.0.0.1:{server.getsockname()[1]}")
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100)
            assert gather(a, bool) == [Refused(1)]


def test_killed_listener(make: Callable[..., Sockets], anywhere: str) -> None:
    """After a SIGKILL the wire is Disconnected, then Refused, and a probe is refused."""
    a = make()
    with listener(anywhere) as (child, inbox):
        a.dial(1, inbox)
        assert gather(a, bool) == [Connected(1)]
        child.kill()
        assert gather(a, bool)[0] == Disconnected(1)
        assert not a.writable(1)
        assert not a.send(1, [b"x"])
        assert gather(a, lambda events: Refused(1) in events)[-1] == Refused(1)
        a.probe(7, inbox)
        assert gather(a, bool) == [Probed(7, Outcome.REFUSED)]


def test_stopped_listener_still_accepts(make: Callable[..., Sockets], anywhere: str) -> None:
    """A process under SIGSTOP stays connected, and a probe says that it is there."""
    a = make()
    with listener(anywhere) as (child, inbox):
        a.dial(1, inbox)
        assert gather(a, bool) == [Connected(1)]
        child.send_signal(signal.SIGSTOP)
        a.probe(1, inbox)
        assert gather(a, bool) == [Probed(1, Outcome.ACCEPTED)]


def test_reconnection(make: Callable[..., Sockets], tmp_path: Path) -> None:
    """A listener that is back at once is Connected again on the same wire."""
    a, b = link(make, f"ipc://{tmp_path}/i")
    b.close()
    again = make()
    again.bind([f"ipc://{tmp_path}/i"], [])
    events = gather(a, lambda events: Connected(1) in events or Refused(1) in events, again)
    assert events[0] == Disconnected(1)
    if events[-1] == Refused(1):  # it came back too late for the one attempt
        a.dial(1, f"ipc://{tmp_path}/i")
        gather(a, lambda events: Connected(1) in events, again)
    assert a.send(1, [b"x"])
    assert received(gather(again, bool)) == [[b"x"]]


def test_dialling_again_replaces(make: Callable[..., Sockets]) -> None:
    """A second dial of a wire moves it to the other endpoint; nothing is shared out between the two."""
    a, b = link(make)
    c = make()
    (inbox,), _ = c.bind(["tcp://127.0.0.1:*"], [])
    a.dial(1, inbox)
    gather(a, lambda events: Connected(1) in events, b, c)
    assert all(a.send(1, [b"%d" % n]) for n in range(10))
    assert received(gather(c, lambda events: len(events) == 10)) == [[b"%d" % n] for n in range(10)]
    b.wait(0)
    assert received(b.read()) == []


def test_hanging_up_is_silent(make: Callable[..., Sockets]) -> None:
    """A wire that we hung up says nothing more and refuses."""
    a, _ = link(make)
    a.hang_up(1)
    a.hang_up(1)
    assert not a.writable(1)
    assert not a.send(1, [b"x"])
    a.wait(0.0)
    assert a.read() == []


def test_hwm_refuses_until_the_peer_reads(make: Callable[..., Sockets]) -> None:
    """At the high-water mark a frame is refused; once the peer has read, the wire is Writable, and nothing is lost."""
    a, b = link(make)
    body = b"x" * 4096
    taken = 0
    deadline = monotonic() + DEADLINE
    while a.send(1, [b"%d" % taken, body]):
        taken += 1
        assert monotonic() < deadline
    assert not a.writable(1)

    seen: list[list[bytes]] = []
    events: list[Event] = []  # the kernel may take some more before the peer reads
    while Writable(1) not in events or len(seen) < taken:
        assert monotonic() < deadline
        b.wait(0.01)
        seen += received(b.read())
        a.wait(0.0)
        events += a.read()
    assert events == [Writable(1)]
    assert seen == [[b"%d" % n, body] for n in range(taken)]
    assert a.writable(1)
    assert a.send(1, [b"again"])


def test_nothing_is_sent_before_connected(make: Callable[..., Sockets]) -> None:
    """A wire refuses until Connected was read, and then takes frames at once."""
    a, b = make(), make()
    (inbox,), _ = b.bind(["tcp://127.0.0.1:*"], [])
    a.dial(1, inbox)
    while True:
        assert not a.writable(1)
        assert not a.send(1, [b"too early"])
        b.wait(0.0)
        a.wait(DEADLINE)
        if events := a.read():
            break
    assert events == [Connected(1)]
    assert a.send(1, [b"x"])
    assert received(gather(b, bool)) == [[b"x"]]


@pytest.mark.parametrize("size", [1, 8191, 8193, 16 * 1024, 65536, 128 * 1024, 256 * 1024, FRAME_BYTES_MAX])
def test_bodies_of_any_size_stay_whole(make: Callable[..., Sockets], anywhere: str, size: int) -> None:
    """Copied or shared, a body arrives as it was, and stays as it is while others arrive."""
    a, b = link(make, anywhere)
    bodies = [random.Random(seed).randbytes(size) for seed in range(8)]
    for body in bodies:
        assert a.send(1, [b"h", body])
    sent, bodies[:] = [hash(body) for body in bodies], []  # ZeroMQ has to keep them alive itself
    events = gather(b, lambda events: len(events) == 8)
    a.close()
    b.close()
    assert [hash(bytes(event.frames[1])) for event in events if isinstance(event, Received)] == sent


def test_mutable_body_is_copied(make: Callable[..., Sockets]) -> None:
    """A large bytearray may be reused as soon as send has returned."""
    a, b = link(make)
    body = bytearray(b"a" * 512 * 1024)
    assert a.send(1, [b"h", body])
    body[:] = bytes(len(body))
    assert received(gather(b, bool)) == [[b"h", b"a" * 512 * 1024]]


@contextmanager
def stranger(kind: int, endpoint: str, *, bind: bool = False) -> Iterator[zmq.Socket[bytes]]:
    """A ZeroMQ socket that knows no rules of ours."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    one = context.socket(kind)
    one.linger = 0
    one.sndhwm = 0
    if bind:
        one.bind(endpoint)
    else:
        one.connect(endpoint)
    yield one
    one.close()
    context.term()


def test_foreign_messages_are_dropped_and_counted(make: Callable[..., Sockets]) -> None:
    """Empty ones and those with too many parts do no harm to the next."""
    b = make()
    (inbox,), _ = b.bind(["tcp://127.0.0.1:*"], [])
    with stranger(zmq.PUSH, inbox) as push:
        push.send(b"")
        push.send_multipart([b"", b"body"])
        push.send_multipart([b"1", b"2", b"3"])
        push.send_multipart([b"header", b"body"])
        assert received(gather(b, bool)) == [[b"header", b"body"]]
    assert b.foreign == 3


def test_more_bomb_is_thrown_away_in_pieces(make: Callable[..., Sockets]) -> None:
    """A message of very many parts keeps neither memory nor the turn, and what follows it arrives."""
    b = make()
    (inbox,), _ = b.bind(["tcp://127.0.0.1:*"], [])
    parts = 3 * transport.SKIPPED_PARTS_MAX
    with stranger(zmq.PUSH, inbox) as push:
        push.send_multipart([b"x"] * parts)
        push.send(b"header")
        turns = 0
        events: list[Event] = []
        deadline = monotonic() + DEADLINE
        while not events:
            assert monotonic() < deadline
            b.wait(1.0)
            events = b.read()
            turns += 1
        assert received(events) == [[b"header"]]
        assert turns >= 3
    assert b.foreign == 1


def test_oversized_frame_cuts_only_its_peer(make: Callable[..., Sockets]) -> None:
    """A frame over the limit disconnects the one who sent it; another peer goes on."""
    bad, good, b = make(), make(), make(frame_bytes_max=1000)
    (inbox,), _ = b.bind(["tcp://127.0.0.1:*"], [])
    for a in (bad, good):
        a.dial(1, inbox)
        gather(a, lambda events: Connected(1) in events, b)
    assert good.send(1, [b"h", b"x" * 1000])
    assert bad.send(1, [b"h", b"x" * 2000])
    assert gather(bad, bool, good)[0] == Disconnected(1)
    assert good.send(1, [b"still here"])
    assert received(gather(b, lambda events: len(events) == 2)) == [[b"h", b"x" * 1000], [b"still here"]]
    good.wait(0.0)
    assert good.read() == []


def test_limit_leaves_the_rest_for_the_next_turn(make: Callable[..., Sockets]) -> None:
    """A read returns at most `limit` messages, and the next wait does not sleep while more are there."""
    a, b = link(make)
    for n in range(10):
        assert a.send(1, [b"%d" % n])
    seen: list[list[bytes]] = []
    deadline = monotonic() + DEADLINE
    while len(seen) < 10:
        assert monotonic() < deadline
        b.wait(1.0)
        some = received(b.read(limit=3))
        assert len(some) <= 3
        seen += some
    assert seen == [[b"%d" % n] for n in range(10)]


def test_control_is_not_starved(make: Callable[..., Sockets]) -> None:
    """While the inbox is never empty, a probe is still answered."""
    a, b = link(make)
    events: list[Event] = []
    b.probe(1, "tcp://127.0.0.1:1")
    deadline = monotonic() + DEADLINE
    while not any(isinstance(event, Probed) for event in events):
        assert monotonic() < deadline
        for _ in range(4):
            a.send(1, [b"x"])
        b.wait(1.0)
        events += b.read(limit=1)


def test_follow_and_unfollow(make: Callable[..., Sockets], tmp_path: Path) -> None:
    """Updates come from followed outboxes only, under our prefixes only, once however often it was asked."""
    publisher, b = make(), make()
    _, (outbox,) = publisher.bind([], [f"ipc://{tmp_path}/o"])
    b.subscribe(b"a\0")
    assert b.follow(outbox)
    assert b.follow(outbox)
    events = publish_until(publisher, b, [b"a\0", b"header", b"body"])
    assert events[0] == Published([b"a\0", b"header", b"body"])
    publisher.publish([b"ab\0", b"header"])
    publisher.publish([b"a\0", b"last"])
    assert received(gather(b, lambda events: [b"a\0", b"last"] in received(events)))[-1] == [b"a\0", b"last"]

    b.unfollow(outbox)
    b.unfollow(outbox)
    wait_for_silence(publisher, b, [b"a\0", b"header"])
    assert b.follow(outbox)
    publish_until(publisher, b, [b"a\0", b"header"])


def test_prefixes_are_counted(make: Callable[..., Sockets]) -> None:
    """A prefix that was asked for twice has to be taken back twice, and once more is no error."""
    publisher, b = make(), make()
    _, (outbox,) = publisher.bind([], ["tcp://127.0.0.1:*"])
    b.subscribe(b"a")
    b.subscribe(b"a")
    b.follow(outbox)
    publish_until(publisher, b, [b"a", b"1"])
    b.unsubscribe(b"a")
    publish_until(publisher, b, [b"a", b"2"])
    b.unsubscribe(b"a")
    b.unsubscribe(b"a")
    wait_for_silence(publisher, b, [b"a", b"3"])
    b.subscribe(b"a")
    publish_until(publisher, b, [b"a", b"4"])


def publish_until(publisher: Sockets, subscriber: Sockets, frames: list[bytes]) -> list[Event]:
    """Publish `frames` again and again until they arrive."""
    events: list[Event] = []
    deadline = monotonic() + DEADLINE
    while frames not in received(events):
        assert monotonic() < deadline
        publisher.wait(0.0)
        publisher.read()
        publisher.publish(frames)
        subscriber.wait(0.01)
        events += subscriber.read()
    return events


def wait_for_silence(publisher: Sockets, subscriber: Sockets, frames: list[bytes]) -> None:
    """Publish `frames` until twenty in a row did not arrive."""
    missed = 0
    deadline = monotonic() + DEADLINE
    while missed < 20:
        assert monotonic() < deadline
        publisher.wait(0.0)
        publisher.read()
        publisher.publish(frames)
        subscriber.wait(0.01)
        missed = 0 if subscriber.read() else missed + 1


def test_foreign_updates_are_dropped(make: Callable[..., Sockets]) -> None:
    """From an outbox only [topic, header] and [topic, header, body] are taken."""
    b = make()
    b.subscribe(b"")
    with stranger(zmq.PUB, "tcp://127.0.0.1:*", bind=True) as pub:
        endpoint = pub.last_endpoint
        assert isinstance(endpoint, bytes)
        b.follow(endpoint.decode())
        events: list[Event] = []
        deadline = monotonic() + DEADLINE
        while not events:
            assert monotonic() < deadline
            pub.send(b"topic alone")
            pub.send_multipart([b"topic", b""])
            pub.send_multipart([b"topic", b"1", b"2", b"3"])
            pub.send_multipart([b"topic", b"header"])
            b.wait(0.01)
            events += b.read()
    assert set(map(tuple, received(events))) == {(b"topic", b"header")}
    assert b.foreign >= 3


def test_endpoint_in_use(make: Callable[..., Sockets], anywhere: str) -> None:
    """Binding where somebody listens is refused, and does not take the endpoint away from him."""
    a, b = link(make, anywhere)
    (inbox,), _ = b.bind([anywhere if anywhere.startswith("tcp") else anywhere + "2"], [])
    with pytest.raises(EndpointInUse):
        make().bind([inbox], [])
    with pytest.raises(EndpointInUse):
        make().bind([], [inbox])
    a.dial(2, inbox)
    gather(a, lambda events: Connected(2) in events, b)


def test_stale_socket_file_is_replaced(make: Callable[..., Sockets], tmp_path: Path) -> None:
    """What a killed process left behind is no obstacle, the new file is ours alone, and close removes it."""
    path = tmp_path / "i"
    with listener(f"ipc://{path}") as (child, _):
        child.kill()
        child.wait()
    assert path.is_socket()
    b = make()
    assert b.bind([f"ipc://{path}"], [])[0] == [f"ipc://{path}"]
    assert path.stat().st_mode & 0o777 == 0o600
    b.close()
    assert not path.exists()


def test_ordinary_file_is_not_removed(make: Callable[..., Sockets], tmp_path: Path) -> None:
    """libzmq would remove whatever is in its way."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="is not a socket"):
        make().bind([f"ipc://{path}"], [])
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    "endpoint",
    [
        "nonsense",
        "tcp://127.0.0.1",
        "tcp://localhost:1",
        "tcp://*:*",
        "tcp://127.0.0.1:99999",
        "tcp://192.0.2.1:*",  # a documentation address, which no host has
        "inproc://x",
        "ipc://",
        "ipc://*",
        "ipc://@abstract",
        "ipc:///nowhere/at/all",
        "ipc://" + "x" * 200,
    ],
)
def test_endpoint_that_cannot_be_bound(make: Callable[..., Sockets], endpoint: str) -> None:
    """Anything that is not ipc or numeric tcp, or does not exist here, is a ConfigError."""
    with pytest.raises(ConfigError) as raised:
        make().bind([endpoint], [])
    assert not isinstance(raised.value, EndpointInUse)


def test_200_dials(make: Callable[..., Sockets]) -> None:
    """Two hundred peers fit, can be sent to, and are hung up again."""
    a, b = make(peers_max=200), make()
    (inbox,), _ = b.bind(["tcp://127.0.0.1:*"], [])
    for wire in range(200):
        a.dial(wire, inbox)
    events = gather(a, lambda events: len(events) == 200, b)
    assert set(events) == {Connected(wire) for wire in range(200)}
    assert all(a.send(wire, [b"%d" % wire]) for wire in range(200))
    arrived = received(gather(b, lambda events: len(events) == 200))
    assert sorted(arrived) == sorted([b"%d" % wire] for wire in range(200))
    for wire in range(200):
        a.hang_up(wire)


def test_context_without_room_refuses(make: Callable[..., Sockets], caplog: pytest.LogCaptureFixture) -> None:
    """More wires than fit are Refused, and raise nothing in the pump."""
    a, b = make(peers_max=1), make()
    (inbox,), _ = b.bind(["tcp://127.0.0.1:*"], [])
    for wire in range(64):
        a.dial(wire, inbox)
    events = gather(a, lambda events: len(events) == 64, b)
    kinds = {type(event) for event in events}
    assert kinds == {Connected, Refused}
    assert "cannot connect" in caplog.text


def test_wait_ends_with_a_wake_before_or_during_it(make: Callable[..., Sockets]) -> None:
    """A wake counts whether the thread sleeps already or not yet, and several before one wait count once."""
    a = make()
    a.wake()
    a.wake()
    a.wait(DEADLINE)
    started = monotonic()
    a.wait(0.05)
    assert monotonic() - started >= 0.04
    thread = threading.Thread(target=a.wake)
    thread.start()
    a.wait(DEADLINE)
    thread.join()
    assert monotonic() - started < DEADLINE


def test_large_bodies_gather_while_nobody_wakes(make: Callable[..., Sockets], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes alone is no stream. After the next one a wait is deaf to what arrives, and ends with a wake."""
    monkeypatch.setattr(edge, "STREAM_GAP", DEADLINE)
    monkeypatch.setattr(edge, "REST", DEADLINE)
    body = b"x" * transport.LARGE_BYTES_MIN
    a, b = link(make)
    for resting in (False, True):
        a.send(1, [b"header", body])
        assert received(gather(b, lambda events: bool(received(events)))) == [[b"header", body]]
        assert b.resting is resting
    a.send(1, [b"small"])
    a.send(1, [b"header", body])
    started = monotonic()
    thread = threading.Thread(target=b.wake)
    thread.start()
    b.wait(None)
    thread.join()
    assert not b.resting
    assert received(gather(b, lambda events: len(received(events)) == 2)) == [[b"small"], [b"header", body]]
    assert monotonic() - started < DEADLINE


class Interrupted(Doorbell):
    """A doorbell that does something else just before the n-th use of one of its fields."""

    countdown = -1
    meanwhile: Callable[[], object]

    def __getattribute__(self, name: str) -> object:
        if name in {"_rung", "_asleep", "_sleeps", "_answered_for"}:
            self.count()
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in {"_rung", "_asleep", "_sleeps", "_answered_for"}:
            self.count()
        super().__setattr__(name, value)

    def count(self) -> None:
        vars(self)["countdown"] = self.countdown - 1
        if self.countdown == 0:
            self.meanwhile()


def is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


@pytest.mark.parametrize("step", range(1, 10))
@pytest.mark.parametrize("earlier", ["nothing", "ring", "sleep", "sleep and ring"])
@pytest.mark.parametrize(("first", "second"), [("ring", "sleep"), ("sleep", "ring")])
def test_no_order_of_steps_loses_a_ring(step: int, earlier: str, first: str, second: str) -> None:
    """Whenever the sleeper lies down or gets up during a ring, or a ring comes while he does, he learns of it."""
    bell = Interrupted()
    seen: list[bool] = []
    interrupted: list[object] = []

    def sleep() -> None:
        bell.sleep(lambda seconds, _: seen.append(seconds == 0.0 or is_readable(bell.fd)), DEADLINE)
        seen.append(bell.heard)

    if "sleep" in earlier:
        bell.sleep(lambda *_: bell.ring() if "ring" in earlier else None, DEADLINE)
        bell.silence()
    elif earlier == "ring":
        bell.ring()
    calls = {"ring": bell.ring, "sleep": sleep}
    bell.countdown, bell.meanwhile = step, lambda: interrupted.append(calls[second]())
    calls[first]()
    if interrupted:  # else the first was over before that step
        sleep()
        assert True in seen
    bell.close()


@pytest.mark.parametrize("step", range(1, 5))  # ring() uses four fields
def test_late_ringer_silences_no_later_sleep(step: int) -> None:
    """A ringer may be suspended anywhere while the sleeper wakes and lies down again; the next ring still counts."""
    bell = Interrupted()
    asleep, over = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def sleep_twice() -> None:
        for began, ends in zip(asleep, over, strict=True):
            bell.silence()
            bell.sleep(lambda *_, began=began, ends=ends: (began.set(), ends.wait(DEADLINE)), DEADLINE)

    def sleep_again() -> None:
        over[0].set()
        assert asleep[1].wait(DEADLINE)

    sleeper = threading.Thread(target=sleep_twice)
    sleeper.start()
    assert asleep[0].wait(DEADLINE)
    bell.countdown, bell.meanwhile = step, sleep_again
    bell.ring()
    bell.ring()
    assert is_readable(bell.fd)
    for each in over:
        each.set()
    sleeper.join()
    bell.close()


def test_no_wake_is_lost() -> None:
    """100,000 rings of four threads: what was left before each of them is seen without any time limit running out."""
    bell = Doorbell()
    left = [0] * 4
    epoll = select.epoll()
    epoll.register(bell.fd, select.EPOLLIN)

    def ringer(index: int) -> None:
        for _ in range(25_000):
            left[index] += 1
            bell.ring()

    threads = [threading.Thread(target=ringer, args=(index,)) for index in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while sum(left) < 100_000:
            # Somebody still has to ring, so a sleep that nobody ends has missed it.
            ready = bell.sleep(epoll.poll, DEADLINE)
            if ready:
                bell.silence()
            assert ready or bell.heard
    finally:
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
        epoll.close()
        bell.close()


def test_each_ring_ends_a_sleep() -> None:
    """Two threads that wake each other in turn never both sleep, however often they try."""
    bells = Doorbell(), Doorbell()
    turns = [0, 0]
    stuck: list[int] = []

    def play(me: int) -> None:
        with select.epoll() as epoll:
            epoll.register(bells[me].fd, select.EPOLLIN)
            for n in range(1, 5_001):
                turns[me] = n
                bells[1 - me].ring()
                while turns[1 - me] < n and not stuck:
                    ready = bells[me].sleep(epoll.poll, DEADLINE)
                    if ready:
                        bells[me].silence()
                    elif not bells[me].heard:
                        stuck.append(me)

    other = threading.Thread(target=play, args=(1,))
    other.start()
    play(0)
    other.join()
    for bell in bells:
        bell.close()
    assert not stuck


def test_wake_in_a_signal_handler(make: Callable[..., Sockets]) -> None:
    """A handler that runs in the sleeping thread itself wakes it."""
    a = make()
    before = signal.signal(signal.SIGALRM, lambda *_: a.wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        started = monotonic()
        a.wait(DEADLINE)
        assert monotonic() - started < DEADLINE / 2
    finally:
        signal.signal(signal.SIGALRM, before)


def test_closed_sockets_refuse_quietly(make: Callable[..., Sockets]) -> None:
    """After close nothing is sent or dialled, and a late wake does no harm."""
    a, b = link(make)
    (inbox,), _ = b.bind(["tcp://127.0.0.1:*"], [])
    a.probe(1, "tcp://127.0.0.1:1")
    a.close()
    a.close()
    a.wake()
    a.dial(1, inbox)
    assert not a.send(1, [b"x"])
    assert not a.writable(1)


def test_forked_child_leaves_the_parent_alone(make: Callable[..., Sockets]) -> None:
    """A child that abandons what it inherited, and ends, changes nothing for the parent."""
    a, b = link(make)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            a.abandon()
            b.abandon()
            a.wake()
            a.close()
            status = 0 if not a.send(1, [b"from the child"]) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert a.send(1, [b"from the parent"])
    assert received(gather(b, bool)) == [[b"from the parent"]]
    a.wake()
    a.wait(DEADLINE)
    assert a.read() == []


def test_inbox_made_anew_is_bound_when_there_are_descriptors(
    make: Callable[..., Sockets], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Whatever stood in the way is told once; meanwhile no file counts as gone, and afterwards it accepts again."""
    a, b = make(), make()
    (inbox,), _ = b.bind([f"ipc://{tmp_path}/inbox"], [])
    dup, failures = os.dup, [1, 2]

    def scarce(fd: int) -> int:
        if failures:
            failures.pop()
            raise OSError(errno.EMFILE, "Too many open files")
        return dup(fd)

    monkeypatch.setattr(os, "dup", scarce)
    b._renew_inbox()
    b._look(monotonic())
    assert failures == [1]
    (tmp_path / "inbox").unlink()
    assert b.gone() == []
    deadline = monotonic() + DEADLINE
    while not b.gone():
        assert monotonic() < deadline
        b.wait(0.1)
    b.bind_again(inbox)
    a.dial(1, inbox)
    gather(a, lambda events: Connected(1) in events, b)
    assert a.send(1, [b"x"])
    assert received(gather(b, bool)) == [[b"x"]]
    assert caplog.text.count("Too many open files") == 1


def test_dials_that_wait_are_made_in_their_order(make: Callable[..., Sockets], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited longest for descriptors comes first."""
    a = make()
    has = table.has
    monkeypatch.setattr(table, "has", lambda count: False)
    for wire in (1, 2, 3):
        a.dial(wire, "tcp://127.0.0.1:9")
    monkeypatch.setattr(table, "has", has)
    a._look(monotonic())
    assert list(a._dialling) == [1, 2, 3]


def test_too_few_descriptors(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Too few for 64 peers is an error that says what to do, too few for peers_max a warning; else the limit grows."""
    limits = {"soft": 256, "hard": 512}

    def raise_soft(_: int, pair: tuple[int, int]) -> None:
        limits["soft"] = pair[0]

    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", raise_soft)
    with pytest.raises(ConfigError, match="ulimit -Hn"):
        Sockets(frame_bytes_max=1000, peers_max=2048)
    assert limits["soft"] == 256

    limits["hard"] = 4096
    with caplog.at_level(logging.WARNING, "peerfabric"):
        Sockets(frame_bytes_max=1000, peers_max=2048).close()
    assert limits["soft"] == 4096
    assert "peers_max=2048" in caplog.text

    limits.update(soft=256, hard=resource.RLIM_INFINITY)
    caplog.clear()
    Sockets(frame_bytes_max=1000, peers_max=100).close()
    assert limits["soft"] > 256 + 100 * 3
    assert not caplog.text


def test_old_libzmq_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libzmq with known holes is not used."""
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 3))
    with pytest.raises(ConfigError, match="install pyzmq"):
        Sockets(frame_bytes_max=1000, peers_max=1)
