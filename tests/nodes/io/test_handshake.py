"""Handshake of a throwaway client: each way in which an inbox answers, over real connections on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from peerfabric.nodes.io.curve import Access, Curve, Gate, curve_public
from peerfabric.nodes.io.events import Received
from peerfabric.nodes.io.handshake import handshake, versions
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.secret import NodeKey, new_secret

FABRIC = "default"
OURS, OTHER = (new_secret(bytes([n]) * 32) for n in (1, 2))
KEY = NodeKey(bytes([101]) * 32, curve_public)
THEIRS = NodeKey(bytes([102]) * 32, curve_public)


@contextmanager
def inbox(curve: Curve | None) -> Iterator[str]:
    """An inbox that is served by a thread; it may get no frame."""
    sockets = Sockets(frame_bytes_max=1 << 20, peers_max=16, curve=curve)
    received: list[object] = []
    over = threading.Event()
    endpoint = sockets.bind(["tcp://127.0.0.1:*"], [])[0][0]

    def serve() -> None:
        while not over.is_set():
            sockets.wait(0.01)
            received.extend(event for event in sockets.read() if isinstance(event, Received))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield endpoint
    finally:
        over.set()
        thread.join()
        sockets.close()
    assert received == []


def gate(secret: object = OURS) -> bytes:
    assert secret in (OURS, OTHER)
    return Gate(OURS if secret is OURS else OTHER, FABRIC).public


@pytest.mark.parametrize(
    ("access", "secret", "why"),
    [
        ({}, OURS, ""),
        ({}, OTHER, "secret"),
        ({"revoked": frozenset({KEY.node_id})}, OURS, "denied"),
        ({"allow": frozenset({"0" * 32})}, OURS, "denied"),
        ({"allow": frozenset({KEY.node_id})}, OURS, ""),
        ({}, None, "mechanism"),
    ],
)
def test_an_inbox_with_a_secret(access: dict[str, frozenset[str]], secret: object, why: str) -> None:
    """Under its secret, under another one, for a node that may not come in, and in the clear."""
    allowed = Access(key_ids=frozenset({OURS.key_id(FABRIC)}), **access)
    with inbox(Curve(THEIRS, [Gate(OURS, FABRIC)], allowed)) as endpoint:
        assert handshake(endpoint, KEY, gate(secret) if secret is not None else None) == why


def test_an_inbox_in_the_clear() -> None:
    """It lets in who has no secret, and nobody else."""
    with inbox(None) as endpoint:
        assert handshake(endpoint) == ""
        assert handshake(endpoint, KEY, gate()) == "mechanism"


def test_nobody_and_somebody_else() -> None:
    """A closed port refuses; a program that accepts and says nothing is silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert handshake(endpoint, KEY, gate()) == "silent"
    assert handshake(endpoint, KEY, gate()) == "refused"


def test_versions() -> None:
    """Of both libraries, with whether there is CURVE."""
    there, text = versions()
    assert there
    assert "libzmq 4." in text
