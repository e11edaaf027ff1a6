"""A peer written from PROTOCOL.md alone, with pyzmq and msgpack, talks to a node of ours in both roles."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from peerfabric import Node

PATIENCE = 20.0
"""Seconds after which something that should have happened has not."""

encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode
HELLO, INTEREST, DATA, ACK, PING, PONG, BYE = 1, 2, 3, 4, 6, 7, 13


def network() -> str:
    """The first part of the host id, as section 1 has it: without it nobody dials our loopback address."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return hashlib.blake2b(f"{boot} {os.readlink('/proc/self/ns/net')}".encode(), digest_size=8).hexdigest()


class Second:
    """A node with one link, to one endpoint, on one queue."""

    def __init__(self, endpoint: str, *, produces: list[str], consumes: list[str]) -> None:
        self._produces, self._consumes = produces, consumes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.linger = 0
        self._inbox = self._context.socket(zmq.PULL)
        port = self._inbox.bind_to_random_port("tcp://127.0.0.1")
        self._address = ["second", 5 << 20, "second", f"{network()}-other", [f"tcp://127.0.0.1:{port}"], []]
        self.stream = f"second:{5 << 20}:orders"
        self._push = self._context.socket(zmq.PUSH)
        self._push.immediate = True
        self._push.connect(endpoint)
        self._mine, self._theirs, self._up = 100, 0, False
        self._number = self._received = 0
        self._sent_messages = self._sent_bytes = 0
        self.results: list[list[Any]] = []
        self.granted = [0, 0]
        self.came: list[tuple[list[Any], Any]] = []
        self.ponged = False
        self.bye: int | None = None

    def close(self) -> None:
        self._context.destroy()

    def run(self, until: Callable[[], bool]) -> None:
        """Take part until something has happened."""
        deadline, hello_at = time.monotonic() + PATIENCE, 0.0
        while not until():
            assert time.monotonic() < deadline
            if not self._up and time.monotonic() >= hello_at:
                hello_at = time.monotonic() + 0.2
                self._hello()
            if self._inbox.poll(20):
                header, *body = self._inbox.recv_multipart()
                self._handle(decode(header), body)

    def send_data(self, first: int, bodies: list[Any], count: int | None = None) -> None:
        """Messages from `first` on, `count` as the header says; and that more of them are waiting."""
        count = len(bodies) if count is None else count
        self._sent_messages += count
        self._sent_bytes += sum(len(encode(body)) + 64 for body in bodies)
        totals = [self._sent_messages, self._sent_bytes]
        self._send(DATA, self.stream, "orders", first, count, 1, 1, 1, 0, 0, 9, *totals, 0, body=encode(bodies))

    def ack(self, number: int, data: list[Any]) -> None:
        """All messages of a DATA frame are processed."""
        stream, queue, first, count = data[4:8]
        self._send(ACK, number, [[stream, queue, [first, first + count]]])

    def _hello(self) -> None:
        halves = [self._mine, self._theirs, self._up]
        self._push.send(encode([HELLO, "peerfabric", 1, "default", "", self._address, *halves, 16_778_240]))

    def _send(self, kind: int, *fields: Any, body: bytes | None = None) -> None:
        self._number += 1
        link = self._mine.to_bytes(4, "big") + self._theirs.to_bytes(4, "big")
        header = encode([kind, link, self._number, self._received, *fields])
        self._push.send_multipart([header] if body is None else [header, body])

    def _handle(self, frame: list[Any], body: list[bytes]) -> None:
        if frame[0] == HELLO:
            self._receive_hello(frame[6], frame[7], welcome=frame[8])
            return
        assert frame[1] == self._theirs.to_bytes(4, "big") + self._mine.to_bytes(4, "big")
        assert frame[2] == self._received + 1
        self._received += 1
        match frame:
            case [3, *_]:
                self.came.append((frame, decode(body[0])))
            case [4, _, _, _, _, results, grants, *_]:
                self.results += results
                for queue, messages, size in grants:
                    assert queue == "orders"
                    self.granted = [messages, size]
            case [6, _, _, _, stamp, *_]:
                self._send(PONG, stamp)
            case [7, *_]:
                self.ponged = True
            case [13, _, _, _, _, reason, *_]:
                self._send(BYE, "second", reason)
                self.bye = reason

    def _receive_hello(self, mine: int, yours: int, *, welcome: bool) -> None:
        assert mine >= self._theirs, "only one life is expected here"
        self._theirs = mine
        if yours == self._mine and not self._up:
            self._up = True
            self._hello()  # it leaves before INTEREST
            consumes = [[queue, 300] for queue in self._consumes]  # an integer where a float is expected
            self._send(INTEREST, 1, consumes, [], self._produces, [], [], [], 4)
            if consumes:
                self._send(ACK, 5, [], [[queue, 100, 100_000] for queue in self._consumes])  # `ack` + 1
            self._send(PING, 1, 0)
        elif not welcome:
            self._hello()


@pytest.fixture
def endpoint() -> str:
    """Where nobody listens yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERFABRIC_RUNTIME", str(tmp_path))
    monkeypatch.delenv("PEERFABRIC_FABRIC", raising=False)


@pytest.mark.usefixtures("runtime")
def test_it_produces(endpoint: str) -> None:
    """What it sends is processed, or nacked for its type, or for a header that says something else than the body."""
    with Node("kitchen", listen=endpoint, discovery=[]) as node:
        cooked: list[int] = []
        node.on_message("orders")(_cook(cooked))
        second = Second(endpoint, produces=["orders"], consumes=[])
        try:
            second.run(lambda: second.granted[0] >= 1 and second.ponged)
            second.send_data(1, [1])
            second.run(lambda: second.granted[0] >= 3)
            second.send_data(2, [2, 3])
            second.run(lambda: sum(stop - start for r in second.results for start, stop in [r[2]]) == 3)
            assert cooked == [1, 2, 3]
            assert {(stream, queue) for stream, queue, *_ in second.results} == {(second.stream, "orders")}
            second.results.clear()
            second.run(lambda: second.granted[0] >= 4)
            second.send_data(4, ["text"])
            second.run(lambda: bool(second.results))
            assert [nack[:4] for nack in second.results.pop()[4]] == [[4, 5, 1, 3]]
            second.run(lambda: second.granted[0] >= 6)
            second.send_data(5, [5], count=2)
            second.run(lambda: bool(second.results))
            assert [nack[:4] for nack in second.results.pop()[4]] == [[5, 7, 1, 3]]
        finally:
            second.close()


def _cook(cooked: list[int]) -> Callable[[int], None]:
    def cook(order: int) -> None:
        cooked.append(order)

    return cook


@pytest.mark.usefixtures("runtime")
def test_it_consumes(endpoint: str) -> None:
    """It gets what was sent, what it acks is settled, and the node parts from it by BYE."""
    node = Node("shop", listen=endpoint, discovery=[])
    second = Second(endpoint, produces=[], consumes=["orders"])
    try:
        producer = node.producer("orders", dict[str, int])
        producer.send({"n": 7})
        second.run(lambda: bool(second.came))
        data, bodies = second.came[0]
        assert (data[5:8], bodies) == (["orders", 1, 1], [{"n": 7}])
        second.ack(6, data)
        closing = threading.Thread(target=node.close)
        closing.start()
        second.run(lambda: second.bye is not None)
        closing.join(PATIENCE)
        assert (second.bye, closing.is_alive()) == (1, False)
        assert node.statistics().producers[0].acked == 1
    finally:
        second.close()
        node.close(timeout=0)
