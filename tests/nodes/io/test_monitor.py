"""What ZeroMQ's monitor events mean for one PUSH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
import zmq

from peerfabric.nodes.io.monitor import WATCHED, Connected, Connection, Disconnected, Monitor, Refused

SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
FAILED = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
RETRIED = int(zmq.EVENT_CONNECT_RETRIED)


@pytest.mark.parametrize(
    ("heard", "meaning"),
    [
        ([RETRIED], [Refused(1)]),
        ([SUCCEEDED], [Connected(1)]),
        ([SUCCEEDED, DISCONNECTED, RETRIED], [Connected(1), Disconnected(1)]),
        ([SUCCEEDED, DISCONNECTED, RETRIED, RETRIED], [Connected(1), Disconnected(1), Refused(1)]),
        ([SUCCEEDED, DISCONNECTED, RETRIED, SUCCEEDED], [Connected(1), Disconnected(1), Connected(1)]),
        ([FAILED, DISCONNECTED, RETRIED], [Refused(1)]),
        ([int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)], [Refused(1, "denied")]),
        ([int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)], [Refused(1)]),
        ([DISCONNECTED], [Refused(1)]),
        ([RETRIED, RETRIED, SUCCEEDED, DISCONNECTED], [Refused(1)]),
        ([int(zmq.EVENT_CONNECTED), int(zmq.EVENT_CONNECT_DELAYED), int(zmq.EVENT_CLOSED)], []),
    ],
)
def test_meaning(heard: list[int], meaning: list[object]) -> None:
    """A retry right after a connection is a plan; any other one, and any failed handshake, is a refusal, once."""
    connection = Connection(1)
    assert [event for event in map(connection.hear, heard) if event is not None] == meaning


AUTH, PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH), int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
MISMATCH = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)


@pytest.mark.parametrize(
    ("event", "value", "after", "gated", "why"),
    [
        (FAILED, 0, 0.001, True, "secret"),
        (DISCONNECTED, 0, 0.2, True, "secret"),
        (PROTOCOL, int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC), 0.001, True, "secret"),
        (FAILED, 0, 1.0, True, "silent"),
        (DISCONNECTED, 0, 1.0, True, "silent"),
        (AUTH, 400, 0.001, True, "denied"),
        (AUTH, 400, 2.0, True, "denied"),
        (PROTOCOL, MISMATCH, 0.001, True, "mechanism"),
        (PROTOCOL, MISMATCH, 0.001, False, "mechanism"),
        (RETRIED, 0, 0.001, True, ""),
        (FAILED, 0, 0.001, False, ""),
        (FAILED, 0, 2.0, False, ""),
    ],
)
@pytest.mark.parametrize("lost_before", [False, True])
def test_why(*, event: int, value: int, after: float, gated: bool, why: str, lost_before: bool) -> None:
    """A failure says what can be done about it, in the first attempt and in one after a connection was lost."""
    connection = Connection(1, gated=gated, now=-60.0 if lost_before else 0.0)
    if lost_before:
        connection.hear(SUCCEEDED, 0, -30.0)
        connection.hear(DISCONNECTED, 0, 0.0)
        connection.hear(RETRIED, 0, 0.0)
    assert connection.hear(event, value, after) == Refused(1, why)


def test_lost_patience() -> None:
    """Who says nothing at all is silent, if he was to shake hands under a key."""
    assert Connection(1, gated=True).give_up() == Refused(1, "silent")


def test_up_only_while_connected() -> None:
    """`up` follows the handshake and the end of the connection."""
    connection = Connection(1)
    seen = [connection.up]
    for event in (SUCCEEDED, DISCONNECTED, RETRIED, SUCCEEDED):
        connection.hear(event)
        seen.append(connection.up)
    assert seen == [False, True, False, False, True]


def test_nothing_counts_after_giving_up() -> None:
    """A handshake that ends too late changes nothing."""
    connection = Connection(1)
    assert connection.give_up() == Refused(1)
    assert connection.hear(SUCCEEDED) is None


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context of its own; ending it would hang if anything were left open."""
    own: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield own
    own.term()


def test_events_come_from_a_real_socket(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    """The monitor's descriptor becomes readable, and `read` returns the event in a form that Connection takes."""
    push = context.socket(zmq.PUSH)
    push.linger = 0
    monitor = Monitor(context, push, "test")
    assert monitor.read() == []
    push.connect(f"ipc://{tmp_path}/nobody")
    heard: list[int] = []
    deadline = monotonic() + 10
    while not heard and monotonic() < deadline:
        zmq.zmq_poll([(monitor.fd, zmq.POLLIN)], 1000)
        heard += [event for event, _ in monitor.read()]
    assert heard[0] == RETRIED
    assert heard[0] & WATCHED
    monitor.close()
    push.close()
