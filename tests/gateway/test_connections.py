"""Connections: those whose requests do not come are ended, and no others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from peerfabric.gateway import main
from tests.gateway.conftest import SECRET, Gate
from tests.nodes.conftest import DEADLINE, eventually

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def hurried(gates: Callable[..., Gate], monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gateway that waits for requests for a moment only."""
    monkeypatch.setattr(main, "REQUEST_TIMEOUT", 0.3)
    return gates()


def connected(gate: Gate) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gate.address.port), DEADLINE)


def read_to_its_end(sock: socket.socket) -> bytes:
    parts = []
    try:
        while part := sock.recv(4096):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def drip(sock: socket.socket) -> None:
    """Send a byte now and then until the other side ends it."""

    def dripping() -> None:
        try:
            while not over.wait(0.02):
                sock.sendall(b"x")
        except OSError:
            over.set()

    over = threading.Event()
    thread = threading.Thread(target=dripping)
    thread.start()
    try:
        eventually(over.is_set, "the end of the connection")
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("begun", [b"", HEAD])
def test_a_request_that_does_not_come_is_not_waited_for(hurried: Gate, begun: bytes) -> None:
    """Neither the first of a connection nor one behind another."""
    with connected(hurried) as sock, connected(hurried) as again:
        sock.sendall(begun)
        again.sendall(HEAD + b"\r\n")
        got = b""
        while b"ok\n" not in got:
            got += again.recv(4096)
        again.sendall(begun or HEAD[:1])
        assert read_to_its_end(sock) == read_to_its_end(again) == b""


REFUSED = b"POST /v1/queues/a/take HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"


@pytest.mark.parametrize("begun", [HEAD + b"X-A: ", REFUSED])
def test_bytes_that_drip_in_prolong_nothing(hurried: Gate, begun: bytes) -> None:
    """Of a head, or of a body that is refused already."""
    with connected(hurried) as sock:
        sock.sendall(begun)
        drip(sock)


def test_who_does_not_read_is_cut_off_at_the_end(
    gates: Callable[..., Gate], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And is no error."""
    monkeypatch.setattr(main, "GRACE", 0.2)
    gate = gates()
    with connected(gate) as sock:
        sock.setblocking(False)
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def is_stuck() -> bool:
            with suppress(BlockingIOError):
                sock.send(asked * 10)
            connections: list[Any] = list(gate.server.server_state.connections)
            return any(each.flow.write_paused for each in connections)

        eventually(is_stuck, "an answer that is not read")
        gate.stop()
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


def test_what_is_answered_is_not_ended(hurried: Gate) -> None:
    """A stream goes on, whatever comes meanwhile."""
    with connected(hurried) as sock:
        sock.sendall(
            b"GET /v1/topics/prices/events HTTP/1.1\r\nHost: localhost\r\n"
            + f"Authorization: Bearer {SECRET}\r\n\r\n{'x' * 20}".encode()
        )
        assert b" 200 " in sock.recv(4096)
        late = threading.Event()
        hurried.call(lambda: hurried.loop.call_later(0.5, late.set))
        assert late.wait(DEADLINE)
        hurried.client.post("/v1/topics/prices", json=1)
        got = b""
        while b"data:" not in got:
            part = sock.recv(4096)
            assert part, got
            got += part
