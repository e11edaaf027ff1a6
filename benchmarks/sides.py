"""The sides of each measurement, processes of their own: `sides.py NAME COUNT SIZE OURS THEIRS [OPTION=NUMBER…]`.

OURS and THEIRS are ports: a side listens at the one, and the other is the first side's. A side prints JSON lines with
what it measured; `run.py` adds up those of one name. Raw pyzmq is written as well as pyzmq allows for one call a
message: no polling, the socket's options at their best for throughput, zero copy for large bodies.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import runpy
import socket as sockets
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

from peerfabric import AsyncNode, Node, Options

ROUND_TRIPS_WARM = 200
SETTLE = 120.0
SECRET = os.environ.get("BENCH_SECRET")
"""A file with the secret of all nodes; without it all is in the clear."""


class Order(msgspec.Struct):
    """A body of four fields."""

    number: int
    item: str
    price: float
    urgent: bool


ORDER = Order(number=1_234_567, item="a small thing of some kind", price=19.99, urgent=False)


def report(**values: float) -> None:
    """Print what this side measured."""
    print(json.dumps(values), flush=True)


def body_of(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + bytes(size % 256)


def meet(sides: int, name: str = "up") -> None:
    """Wait until so many sides have come here."""
    folder = Path(os.environ["BENCH_MEET"])
    (folder / f"{name}-{os.getpid()}").touch()
    while len(list(folder.glob(f"{name}-*"))) < sides:
        time.sleep(0.02)


# Raw pyzmq


def raw_socket(kind: int, *, hwm: int) -> Any:
    socket = zmq.Context.instance().socket(kind)
    socket.set_hwm(hwm)
    if SECRET is not None:  # CURVE with fixed keys, which cost the same, and no ZAP
        server, client = z85.encode(bytes(range(32))), z85.encode(bytes(range(32, 64)))
        if kind in (zmq.PULL, zmq.XPUB):
            socket.curve_secretkey = server
            socket.curve_server = True
        else:
            socket.curve_secretkey, socket.curve_publickey = client, zmq.curve_public(client)
            socket.curve_serverkey = zmq.curve_public(server)
    return socket


def raw_push(count: int, size: int, ours: int, theirs: int) -> None:
    push = raw_socket(zmq.PUSH, hwm=100_000 if size < 65536 else 64)
    push.connect(f"tcp://127.0.0.1:{theirs}")
    body, copy = body_of(size), size < 65536
    send = push.send
    for _ in range(count):
        send(body, copy=copy)
    push.close(linger=30_000)
    zmq.Context.instance().term()


def raw_pull(count: int, size: int, ours: int, theirs: int) -> None:
    pull = raw_socket(zmq.PULL, hwm=100_000 if size < 65536 else 64)
    pull.bind(f"tcp://127.0.0.1:{ours}")
    copy = size < 65536
    recv = pull.recv
    recv(copy=copy)
    started_at = time.perf_counter()
    for _ in range(count - 1):
        recv(copy=copy)
    report(rate=(count - 1) / (time.perf_counter() - started_at))


def raw_ping(count: int, size: int, ours: int, theirs: int) -> None:
    push, pull = raw_socket(zmq.PUSH, hwm=1000), raw_socket(zmq.PULL, hwm=1000)
    pull.bind(f"tcp://127.0.0.1:{ours}")
    push.connect(f"tcp://127.0.0.1:{theirs}")
    body = body_of(size)
    times = []
    for _ in range(count + ROUND_TRIPS_WARM):
        started_at = time.perf_counter()
        push.send(body)
        pull.recv()
        times.append(time.perf_counter() - started_at)
    report(microseconds=1e6 * median(times[ROUND_TRIPS_WARM:]))


def raw_pong(count: int, size: int, ours: int, theirs: int) -> None:
    push, pull = raw_socket(zmq.PUSH, hwm=1000), raw_socket(zmq.PULL, hwm=1000)
    pull.bind(f"tcp://127.0.0.1:{ours}")
    push.connect(f"tcp://127.0.0.1:{theirs}")
    for _ in range(count + ROUND_TRIPS_WARM):
        push.send(pull.recv())
    push.close(linger=1000)


def raw_structs_push(count: int, size: int, ours: int, theirs: int) -> None:
    """One encode and one send a Struct."""
    push = raw_socket(zmq.PUSH, hwm=100_000)
    push.connect(f"tcp://127.0.0.1:{theirs}")
    send, encode = push.send, msgspec.msgpack.Encoder().encode
    for _ in range(count):
        send(encode(ORDER))
    push.close(linger=30_000)
    zmq.Context.instance().term()


def raw_structs_pull(count: int, size: int, ours: int, theirs: int) -> None:
    """One receive and one decode a Struct."""
    pull = raw_socket(zmq.PULL, hwm=100_000)
    pull.bind(f"tcp://127.0.0.1:{ours}")
    recv, decode = pull.recv, msgspec.msgpack.Decoder(Order).decode
    decode(recv())
    started_at = time.perf_counter()
    for _ in range(count - 1):
        decode(recv())
    report(rate=(count - 1) / (time.perf_counter() - started_at))


def raw_orders_push(count: int, size: int, ours: int, theirs: int) -> None:
    """As many bytes as the Struct has, ready made."""
    raw_push(count, len(msgspec.msgpack.encode(ORDER)), ours, theirs)


def raw_pub(count: int, size: int, ours: int, theirs: int, subscribers: int = 1) -> None:
    pub = raw_socket(zmq.XPUB, hwm=0)  # without a limit nothing is dropped, so that all of it is measured
    pub.xpub_verbose = True
    pub.bind(f"tcp://127.0.0.1:{ours}")
    for _ in range(subscribers):
        pub.recv()
    body = b"t\0" + body_of(size)
    send = pub.send
    for _ in range(count):
        send(body)
    pub.close(linger=30_000)
    zmq.Context.instance().term()


def raw_sub(count: int, size: int, ours: int, theirs: int) -> None:
    sub = raw_socket(zmq.SUB, hwm=0)
    sub.connect(f"tcp://127.0.0.1:{theirs}")
    sub.subscribe(b"t\0")
    recv = sub.recv
    recv()
    started_at = time.perf_counter()
    for _ in range(count - 1):
        recv()
    report(received=count - 1, began=started_at, ended=time.perf_counter())


# peerfabric


def settings(ours: int, theirs: int, **options: Any) -> dict[str, Any]:
    return {
        "fabric": "bench",
        "listen": f"tcp://127.0.0.1:{ours}" if ours else "tcp://127.0.0.1:*",
        "peers": [f"tcp://127.0.0.1:{theirs}"] if theirs != ours else [],
        "discovery": ("static",),
        "options": Options(drain_timeout=30.0),
        **({"secret": f"file:{SECRET}"} if SECRET is not None else {}),
    } | options


def node(ours: int, theirs: int, **options: Any) -> Node:
    return Node(**settings(ours, theirs, **options))


@contextmanager
def spool() -> Iterator[str]:
    """A folder on the disk to be measured: BENCH_FOLDER, or where temporary files are."""
    with tempfile.TemporaryDirectory(prefix="pfb", dir=os.environ.get("BENCH_FOLDER")) as folder:
        yield f"{folder}/spool"


def queue_send_spooled(count: int, size: int, ours: int, theirs: int) -> None:
    with spool() as folder:
        queue_send(count, size, ours, theirs, spool=folder)


def queue_send(count: int, size: int, ours: int, theirs: int, **options: Any) -> None:
    body = body_of(size)
    with node(ours, theirs, **options) as us:
        producer = us.producer("work", bytes)
        producer.ready(timeout=SETTLE)
        started_at = time.perf_counter()
        send = producer.send
        for _ in range(count):
            send(body)
        producer.flush(timeout=SETTLE)
        report(rate=count / (time.perf_counter() - started_at))


def queue_spooled(count: int, size: int, ours: int, theirs: int) -> None:
    with spool() as folder:
        queue_send_many(count, size, ours, theirs, spool=folder)


def queue_send_structs(count: int, size: int, ours: int, theirs: int) -> None:
    _send_many([ORDER] * 10_000, Order, count, ours, theirs)


def queue_send_many(count: int, size: int, ours: int, theirs: int, **options: Any) -> None:
    _send_many([body_of(size)] * 10_000, bytes, count, ours, theirs, **options)


def _send_many(
    bodies: list[Any],
    body_type: Any,
    count: int,
    ours: int,
    theirs: int,
    *,
    others: int = 0,
    links: int = 0,
    sides: int = 2,
    **options: Any,
) -> None:
    with node(ours, theirs, **options) as us:
        idle = [us.producer(f"other.{number}", bytes) for number in range(others)]
        producer = us.producer("work", body_type)
        producer.ready(timeout=SETTLE)
        for each in idle:
            each.ready(timeout=SETTLE)
        if links:
            us.producer("link", bytes).ready(links, timeout=SETTLE)
        meet(sides)
        started_at = time.perf_counter()
        for _ in range(count // len(bodies)):
            producer.send_many(bodies)
        producer.flush(timeout=SETTLE)
        report(rate=count / (time.perf_counter() - started_at))
        meet(sides, "done")


def queue_views(count: int, size: int, ours: int, theirs: int) -> None:
    queue_messages(count, size, ours, theirs, memoryview)


def queue_messages(count: int, size: int, ours: int, theirs: int, body_type: Any = bytes) -> None:
    with node(ours, theirs) as us:
        for done, message in enumerate(us.consumer("work", body_type), 1):
            with message as body:
                assert len(body) == size
            if done == count:
                break


def queue_batches(
    count: int, size: int, ours: int, theirs: int, others: int = 0, sides: int = 2, body_type: Any = bytes
) -> None:
    with node(ours, theirs) as us:
        done = 0
        for number in range(others):
            us.consumer(f"other.{number}", bytes)
        batches = us.consumer("work", body_type).batches(max_size=10_000)
        meet(sides)
        for batch in batches:
            with batch as bodies:
                done += len(bodies)
            if done >= count:
                break
        meet(sides, "done")


def queue_structs(count: int, size: int, ours: int, theirs: int) -> None:
    queue_batches(count, size, ours, theirs, body_type=Order)


def idle_nodes(count: int, size: int, ours: int, theirs: int, nodes: int, sides: int) -> None:
    """Nodes that are linked to the first side, and do nothing."""
    made = [node(0, theirs) for _ in range(nodes)]
    for each in made:
        each.peers()  # starts it
        each.consumer("link", bytes)
    meet(sides)
    meet(sides, "done")
    for each in made:
        each.close(0)


def eventually(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def queue_handler(count: int, size: int, ours: int, theirs: int, concurrency: int = 1) -> None:
    handled, done = itertools.count(1), threading.Event()
    with node(ours, theirs) as us:

        @us.on_message("work", concurrency=concurrency)
        def handle(body: bytes) -> None:
            if next(handled) == count:
                done.set()

        done.wait()


def async_send(count: int, size: int, ours: int, theirs: int) -> None:
    async def send_all() -> None:
        body = body_of(size)
        async with AsyncNode(**settings(ours, theirs)) as us:
            producer = us.producer("work", bytes)
            await producer.ready(timeout=SETTLE)
            started_at = time.perf_counter()
            send = producer.send
            for _ in range(count):
                await send(body)
            await producer.flush(timeout=SETTLE)
            report(rate=count / (time.perf_counter() - started_at))

    asyncio.run(send_all())


def async_messages(count: int, size: int, ours: int, theirs: int) -> None:
    async def take_all() -> None:
        async with AsyncNode(**settings(ours, theirs)) as us:
            left = count
            async for message in us.consumer("work", bytes):
                with message as body:
                    assert len(body) == size
                left -= 1
                if not left:
                    break

    asyncio.run(take_all())


def confirm_send(count: int, size: int, ours: int, theirs: int, others: int = 0) -> None:
    """Microseconds until a message is processed, sent one by one."""
    body = body_of(size)
    with node(ours, theirs) as us:
        idle = [us.producer(f"other.{number}", bytes) for number in range(others)]
        producer = us.producer("work", bytes)
        for each in (producer, *idle):
            each.ready(timeout=SETTLE)
        meet(2)
        times = []
        for _ in range(count + ROUND_TRIPS_WARM):
            started_at = time.perf_counter()
            producer.send(body, confirm="processed", timeout=SETTLE)
            times.append(time.perf_counter() - started_at)
        report(microseconds=1e6 * median(times[ROUND_TRIPS_WARM:]))
        meet(2, "done")


def confirm_take(count: int, size: int, ours: int, theirs: int, others: int = 0) -> None:
    with node(ours, theirs) as us:
        for number in range(others):
            us.consumer(f"other.{number}", bytes)
        consumer = us.consumer("work", bytes)
        meet(2)
        for _ in range(count + ROUND_TRIPS_WARM):
            with consumer.get(timeout=SETTLE):
                pass
        meet(2, "done")


def many_queues(count: int, size: int, ours: int, theirs: int) -> None:
    """Seconds until so many queues are made, and one message of each is sent and taken by this node, beside a peer."""
    with node(ours, theirs) as us:
        us.producer("link", bytes).ready(timeout=SETTLE)
        started_at = time.perf_counter()
        producers = [us.producer(f"work.{number}", int) for number in range(count)]
        consumers = [us.consumer(f"work.{number}", int) for number in range(count)]
        for number, producer in enumerate(producers):
            producer.send(number)
        for number, consumer in enumerate(consumers):
            with consumer.get(timeout=SETTLE) as body:
                assert body == number
        report(seconds=time.perf_counter() - started_at)
        meet(2, "done")


def many_topics(count: int, size: int, ours: int, theirs: int) -> None:
    """Seconds until so many topics are published and subscribed to, and a peer's update of the last one is here."""
    with node(ours, theirs) as us:
        us.producer("link", bytes).ready(timeout=SETTLE)
        started_at, before = time.perf_counter(), tcp_bytes_sent()
        publishers = [us.publisher(f"prices.{number}", int) for number in range(count)]
        subscribers = [us.subscriber(f"prices.{number}", int) for number in range(count)]
        for publisher in publishers:
            publisher.publish(1)
        meet(2, "made")
        assert subscribers[-1].get(timeout=SETTLE).body in (1, 2)
        while subscribers[-1].get(timeout=SETTLE).body != 2:
            pass
        report(seconds=time.perf_counter() - started_at, sent_mb=(tcp_bytes_sent() - before) / 1e6)
        meet(2, "done")


def peer_of_topics(count: int, size: int, ours: int, theirs: int) -> None:
    with node(ours, theirs) as us:
        us.consumer("link", bytes)
        publisher = us.publisher(f"prices.{count - 1}", int)
        meet(2, "made")
        publisher.ready(timeout=SETTLE)
        publisher.publish(2)
        publisher.publish(2)
        meet(2, "done")


def peer(count: int, size: int, ours: int, theirs: int) -> None:
    with node(ours, theirs) as us:
        us.consumer("link", bytes)
        meet(2, "done")


def tcp_bytes_sent() -> int:
    """Bytes that the TCP sockets of this process have sent, as Linux counts them."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with sockets.socket(fileno=os.dup(int(name))) as each:
                if each.family in (sockets.AF_INET, sockets.AF_INET6) and each.type == sockets.SOCK_STREAM:
                    information = each.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
                    total += struct.unpack_from("Q", information, 200)[0]  # tcpi_bytes_sent
        except OSError:
            pass
    return total


def many_spooled(count: int, size: int, ours: int, theirs: int) -> None:
    """Seconds to make so many queues in one spool with a message each, to start again, and to drain them."""
    with spool() as folder:
        times = [time.perf_counter()]
        with node(ours, theirs, spool=folder, options=Options(drain_timeout=0.0)) as us:
            for number in range(count):
                us.producer(f"work.{number}", int).send(number)
            times.append(time.perf_counter())
        times.append(time.perf_counter())
        with node(ours, theirs, spool=folder) as us:
            us.peers()
            times.append(time.perf_counter())
            consumers = [us.consumer(f"work.{number}", int) for number in range(count)]
            for consumer in consumers:
                with consumer.get(timeout=SETTLE):
                    pass
            times.append(time.perf_counter())
        report(made=times[1] - times[0], started=times[3] - times[2], drained=times[4] - times[3])


def paced_send(count: int, size: int, ours: int, theirs: int, pause_ms: int) -> None:
    with node(ours, theirs) as us:
        producer = us.producer("work", float)
        producer.ready(timeout=SETTLE)
        for _ in range(count):
            time.sleep(pause_ms / 1e3)
            producer.send(time.perf_counter())
        producer.flush(timeout=SETTLE)


def paced_handler(count: int, size: int, ours: int, theirs: int, pause_ms: int) -> None:
    """Microseconds from `send` to the handler, of messages that come now and then."""
    times: list[float] = []
    with node(ours, theirs) as us:

        @us.on_message("work")
        def handle(sent_at: float) -> None:
            times.append(time.perf_counter() - sent_at)

        eventually(lambda: len(times) >= count)
    report(microseconds=1e6 * median(times))


def idle(count: int, size: int, ours: int, theirs: int, sides: int, consumers: int = 0) -> None:
    """Percent of a processor and MiB of a node that does nothing, for COUNT seconds from 30 s after the last start."""
    meet(sides, "begun")
    with Node(fabric="bench") as us:
        handle: Any = us.consumer("work", bytes) if consumers else us.producer("work", bytes) if sides > 1 else None
        us.peers()
        meet(sides)
        time.sleep(30)
        before, started_at = time.process_time(), time.perf_counter()
        time.sleep(count)
        percent = 100 * (time.process_time() - before) / (time.perf_counter() - started_at)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        report(percent=percent, mib=pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20))
        meet(sides, "done")
        del handle


def calls(count: int, size: int, ours: int, theirs: int) -> None:
    """Python calls of a confirmed message, and the files they lead through."""
    measured = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "test_cost_of_message.py"))["measured"]
    plain, spooled = measured()[0], measured(spooled=True)[0]
    report(calls=plain.calls, files=plain.files, spooled_calls=spooled.calls, spooled_files=spooled.files)


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


def echo_service() -> Any:
    from peerfabric import Service  # pairs.py also runs this beside commits that have none

    return Service("echo", bytes, bytes)


def call_ask(count: int, size: int, ours: int, theirs: int, main: int = 0) -> None:
    """Calls of a service, from a thread or from the main one, which leaves more to the I/O thread."""
    body, times = body_of(size), []
    with node(ours, theirs) as us:
        ask = us.client(echo_service())
        ask.ready(timeout=SETTLE)

        def run() -> None:
            for _ in range(count + ROUND_TRIPS_WARM):
                started_at = time.perf_counter()
                ask(body, timeout=SETTLE)
                times.append(time.perf_counter() - started_at)

        if main:
            run()
        else:
            asking = threading.Thread(target=run)
            asking.start()
            asking.join()
        report(microseconds=1e6 * median(times[ROUND_TRIPS_WARM:]))
        ask(b"", timeout=SETTLE)


def call_answer(count: int, size: int, ours: int, theirs: int) -> None:
    over = threading.Event()
    with node(ours, theirs) as us:

        @us.serve(echo_service())
        def echo(body: bytes) -> bytes:
            if not body:
                over.set()
            return body

        over.wait(SETTLE)


def async_call_ask(count: int, size: int, ours: int, theirs: int) -> None:
    body, times = body_of(size), []

    async def main() -> None:
        async with AsyncNode(**settings(ours, theirs)) as us:
            ask = us.client(echo_service())
            await ask.ready(timeout=SETTLE)
            for _ in range(count + ROUND_TRIPS_WARM):
                started_at = time.perf_counter()
                await ask(body, timeout=SETTLE)
                times.append(time.perf_counter() - started_at)
            await ask(b"", timeout=SETTLE)

    asyncio.run(main())
    report(microseconds=1e6 * median(times[ROUND_TRIPS_WARM:]))


# Others, where they are installed: nats-server with nats-py, and eclipse-zenoh


def nats_request(count: int, size: int, ours: int, theirs: int) -> None:
    import nats

    body, times = body_of(size), []

    async def main() -> None:
        meet(3)
        client = await nats.connect(f"nats://127.0.0.1:{theirs}")
        meet(2, "subscribed")
        for _ in range(count + ROUND_TRIPS_WARM):
            started_at = time.perf_counter()
            await client.request("echo", body, timeout=SETTLE)
            times.append(time.perf_counter() - started_at)
        await client.close()

    asyncio.run(main())
    report(microseconds=1e6 * median(times[ROUND_TRIPS_WARM:]))
    meet(3, "done")


def nats_reply(count: int, size: int, ours: int, theirs: int) -> None:
    import nats

    async def main() -> None:
        meet(3)
        client = await nats.connect(f"nats://127.0.0.1:{theirs}")

        async def answer(message: Any) -> None:
            await message.respond(message.data)

        await client.subscribe("echo", cb=answer)
        await client.flush()
        meet(2, "subscribed")
        await asyncio.to_thread(meet, 3, "done")
        await client.close()

    asyncio.run(main())


def nats_server(count: int, size: int, ours: int, theirs: int) -> None:
    server = subprocess.Popen(["nats-server", "-a", "127.0.0.1", "-p", str(ours)], stderr=subprocess.DEVNULL)
    try:
        while sockets.socket().connect_ex(("127.0.0.1", ours)):
            time.sleep(0.05)
        meet(3)
        meet(3, "done")
    finally:
        server.terminate()
        server.wait()


def zenoh_session(ours: int, theirs: int) -> Any:
    import zenoh

    config = zenoh.Config()
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("listen/endpoints", json.dumps([f"tcp/127.0.0.1:{ours}"]))
    if ours != theirs:
        config.insert_json5("connect/endpoints", json.dumps([f"tcp/127.0.0.1:{theirs}"]))
    return zenoh.open(config)


def zenoh_query(count: int, size: int, ours: int, theirs: int) -> None:
    body, times = body_of(size), []
    with zenoh_session(ours, theirs) as session:
        meet(2)
        time.sleep(1.0)
        for _ in range(count + ROUND_TRIPS_WARM):
            started_at = time.perf_counter()
            assert [bytes(reply.ok.payload) for reply in session.get("echo", payload=body)] == [body]
            times.append(time.perf_counter() - started_at)
        report(microseconds=1e6 * median(times[ROUND_TRIPS_WARM:]))
        meet(2, "done")


def zenoh_queryable(count: int, size: int, ours: int, theirs: int) -> None:
    with zenoh_session(ours, theirs) as session:
        session.declare_queryable("echo", lambda query: query.reply("echo", bytes(query.payload)))
        meet(2)
        meet(2, "done")


def topic_publish(count: int, size: int, ours: int, theirs: int, subscribers: int = 1) -> None:
    bodies = [body_of(size)] * 10_000
    with node(ours, theirs) as us:
        publisher = us.publisher("prices.eur", bytes)
        publisher.ready(subscribers, timeout=SETTLE)
        for _ in range(count // len(bodies)):
            publisher.publish_many(bodies)
        meet(1 + subscribers, "done")


def topic_receive(count: int, size: int, ours: int, theirs: int, subscribers: int = 1) -> None:
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
        ended_at = time.perf_counter()
        report(received=received - first, missed=subscriber.missed, began=started_at, ended=ended_at)
        meet(1 + subscribers, "done")


if __name__ == "__main__":
    logging.getLogger("peerfabric").setLevel(logging.ERROR)  # thousands of queues that wait for their turn
    _, side, *numbers = sys.argv
    positional = [int(number) for number in numbers if "=" not in number]
    options = dict(number.split("=") for number in numbers if "=" in number)
    globals()[side](*positional, **{name: int(value) for name, value in options.items()})
