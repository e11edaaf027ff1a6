"""The two sides of each measurement, each run in a process of its own: `sides.py NAME SIDE COUNT SIZE PORTS…`.

A side prints one JSON line with what it measured. Raw pyzmq is written as well as pyzmq allows for one call a
message: no polling, the socket's options at their best for throughput, zero copy for large bodies.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from statistics import median
from typing import Any

import zmq

from peerfabric import Node, Options

ROUND_TRIPS_WARM = 200
SETTLE = 120.0


def report(**values: float) -> None:
    """Print the result of this side."""
    print(json.dumps(values), flush=True)


def body_of(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + bytes(size % 256)


# Raw pyzmq


def raw_socket(kind: int, *, hwm: int) -> Any:
    socket = zmq.Context.instance().socket(kind)
    socket.set_hwm(hwm)
    return socket


def raw_push(count: int, size: int, port: int) -> None:
    push = raw_socket(zmq.PUSH, hwm=100_000 if size < 65536 else 64)
    push.connect(f"tcp://127.0.0.1:{port}")
    body, copy = body_of(size), size < 65536
    send = push.send
    for _ in range(count):
        send(body, copy=copy)
    push.close(linger=30_000)
    zmq.Context.instance().term()


def raw_pull(count: int, size: int, port: int) -> None:
    pull = raw_socket(zmq.PULL, hwm=100_000 if size < 65536 else 64)
    pull.bind(f"tcp://127.0.0.1:{port}")
    copy = size < 65536
    recv = pull.recv
    recv(copy=copy)
    started_at = time.perf_counter()
    for _ in range(count - 1):
        recv(copy=copy)
    report(rate=(count - 1) / (time.perf_counter() - started_at))


def raw_ping(count: int, size: int, there: int, back: int) -> None:
    push, pull = raw_socket(zmq.PUSH, hwm=1000), raw_socket(zmq.PULL, hwm=1000)
    pull.bind(f"tcp://127.0.0.1:{back}")
    push.connect(f"tcp://127.0.0.1:{there}")
    body = body_of(size)
    times = []
    for _ in range(count + ROUND_TRIPS_WARM):
        started_at = time.perf_counter()
        push.send(body)
        pull.recv()
        times.append(time.perf_counter() - started_at)
    report(microseconds=1e6 * median(times[ROUND_TRIPS_WARM:]))


def raw_pong(count: int, size: int, there: int, back: int) -> None:
    push, pull = raw_socket(zmq.PUSH, hwm=1000), raw_socket(zmq.PULL, hwm=1000)
    pull.bind(f"tcp://127.0.0.1:{there}")
    push.connect(f"tcp://127.0.0.1:{back}")
    for _ in range(count + ROUND_TRIPS_WARM):
        push.send(pull.recv())
    push.close(linger=1000)


def raw_pub(count: int, size: int, port: int) -> None:
    pub = raw_socket(zmq.XPUB, hwm=0)  # without a limit nothing is dropped, so that all of it is measured
    pub.bind(f"tcp://127.0.0.1:{port}")
    pub.recv()
    body = b"t\0" + body_of(size)
    send = pub.send
    for _ in range(count):
        send(body)
    pub.close(linger=30_000)
    zmq.Context.instance().term()


def raw_sub(count: int, size: int, port: int) -> None:
    sub = raw_socket(zmq.SUB, hwm=0)
    sub.connect(f"tcp://127.0.0.1:{port}")
    sub.subscribe(b"t\0")
    recv = sub.recv
    recv()
    started_at = time.perf_counter()
    for _ in range(count - 1):
        recv()
    report(rate=(count - 1) / (time.perf_counter() - started_at))


# peerfabric


def node(ours: int, theirs: int, **options: Any) -> Node:
    return Node(
        **options,
        fabric="bench",
        listen=f"tcp://127.0.0.1:{ours}",
        peers=[f"tcp://127.0.0.1:{theirs}"],
        discovery=("static",),
        options=Options(drain_timeout=30.0),
    )


def queue_send(count: int, size: int, ours: int, theirs: int) -> None:
    body = body_of(size)
    with node(ours, theirs) as us:
        producer = us.producer("work", bytes)
        producer.ready(timeout=SETTLE)
        started_at = time.perf_counter()
        send = producer.send
        for _ in range(count):
            send(body)
        producer.flush(timeout=SETTLE)
        report(rate=count / (time.perf_counter() - started_at))


def queue_spooled(count: int, size: int, ours: int, theirs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="pfb", dir=os.environ.get("BENCH_FOLDER")) as folder:
        queue_send_many(count, size, ours, theirs, spool=folder)


def queue_send_many(count: int, size: int, ours: int, theirs: int, **options: Any) -> None:
    bodies = [body_of(size)] * 10_000
    with node(ours, theirs, **options) as us:
        producer = us.producer("work", bytes)
        producer.ready(timeout=SETTLE)
        started_at = time.perf_counter()
        for _ in range(count // len(bodies)):
            producer.send_many(bodies)
        producer.flush(timeout=SETTLE)
        report(rate=count / (time.perf_counter() - started_at))


def queue_views(count: int, size: int, ours: int, theirs: int) -> None:
    queue_messages(count, size, ours, theirs, memoryview)


def queue_messages(count: int, size: int, ours: int, theirs: int, body_type: Any = bytes) -> None:
    with node(ours, theirs) as us:
        for done, message in enumerate(us.consumer("work", body_type), 1):
            with message as body:
                assert len(body) == size
            if done == count:
                break


def queue_batches(count: int, size: int, ours: int, theirs: int) -> None:
    with node(ours, theirs) as us:
        done = 0
        for batch in us.consumer("work", bytes).batches(max_size=10_000):
            with batch as bodies:
                done += len(bodies)
            if done >= count:
                break


def queue_ping(count: int, size: int, ours: int, theirs: int) -> None:
    body = body_of(size)
    with node(ours, theirs) as us:
        there, back = us.producer("there", bytes), us.consumer("back", bytes)
        there.ready(timeout=SETTLE)
        times = []
        for _ in range(count + ROUND_TRIPS_WARM):
            started_at = time.perf_counter()
            there.send(body)
            with back.get(timeout=SETTLE):
                times.append(time.perf_counter() - started_at)
        report(microseconds=1e6 * median(times[ROUND_TRIPS_WARM:]))


def queue_pong(count: int, size: int, ours: int, theirs: int) -> None:
    with node(ours, theirs) as us:
        back, there = us.producer("back", bytes), us.consumer("there", bytes)
        back.ready(timeout=SETTLE)
        for _ in range(count + ROUND_TRIPS_WARM):
            with there.get(timeout=SETTLE) as body:
                back.send(body)


def topic_publish(count: int, size: int, ours: int, theirs: int) -> None:
    bodies = [body_of(size)] * 10_000
    with node(ours, theirs) as us:
        publisher = us.publisher("prices.eur", bytes)
        publisher.ready(timeout=SETTLE)
        for _ in range(count // len(bodies)):
            publisher.publish_many(bodies)


def topic_receive(count: int, size: int, ours: int, theirs: int) -> None:
    with node(ours, theirs) as us:
        subscriber = us.subscriber("prices.eur", bytes, buffer_bytes=1 << 30)
        received, started_at = 0, 0.0
        for updates in subscriber.batches(max_size=10_000):
            if not received:
                started_at = time.perf_counter()
                first = len(updates)
            received += len(updates)
            if received + subscriber.missed >= count:
                break
        elapsed = time.perf_counter() - started_at
        report(rate=(received - first) / elapsed, missed=subscriber.missed)


if __name__ == "__main__":
    _, side, *numbers = sys.argv
    globals()[side](*map(int, numbers))
