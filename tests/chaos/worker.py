"""A process of a chaos run, started by path: `worker.py ROLE NAME FOLDER QUEUE key=value ...`; its roles stand last.

Every processed message is one line `stream/sequence attempt instant` in the consumer's log, written with O_APPEND
in one call, so that a SIGKILL tears no line and loses none that the kernel has taken. It is written before the ack:
what is logged and not acked runs again, what is acked was logged.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from typing import Any

from peerfabric import Node, Options


def produce(name: str, folder: str, queue: str, count: int, batch: int = 500, buffer_bytes: int = 64 << 20) -> None:
    """Send `count` numbered messages, wait until all are settled, and leave the accounting in a file."""
    with Node(name, options=Options(drain_timeout=60.0)) as node:
        explain_on_signal(node)
        producer = node.producer(queue, int, buffer_bytes=buffer_bytes, max_attempts=50)
        print(producer_stream(node, queue), flush=True)
        for start in range(0, count, batch):
            producer.send_many(range(start, min(count, start + batch)))
        print("sent", flush=True)
        producer.flush()
        leave_account(node, os.path.join(folder, f"{name}.account"))
        print("settled", flush=True)


def produce_spooled(name: str, folder: str, queue: str, count: int, fsync: int = 0, seed: int = 0) -> None:
    """Send `count` messages through a spool, going on where the last life of this producer was killed.

    A body is written to the log of accepted ones once its `send` has returned; one that was stored and not logged when
    the process was killed is sent again, as another message.
    """
    path = os.path.join(folder, f"{name}.accepted")
    log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with open(path) as file:
        whole = [line for line in file if line.endswith("\n")]
    os.truncate(path, sum(map(len, whole)))  # a life that was killed may have left half a line
    sent = len(whole)
    chance = random.Random(f"{seed} {name} {sent}")
    with Node(name, spool=os.path.join(folder, "spools", name), fsync=bool(fsync)) as node:
        explain_on_signal(node)
        producer = node.producer(queue, str, max_attempts=1000)
        print("ready", flush=True)
        while sent < count:
            bodies = [f"{name}:{n}" for n in range(sent, min(count, sent + chance.choice((1, 10, 300))))]
            if len(bodies) == 1:
                producer.send(bodies[0])
            else:
                producer.send_many(bodies)
            os.write(log, "".join(f"{body}\n" for body in bodies).encode())
            sent += len(bodies)
        print("sent", flush=True)
        producer.flush()
        leave_account(node, os.path.join(folder, f"{name}.account"))
        print("settled", flush=True)


def consume_text(name: str, folder: str, queue: str, batches: int = 0, ledger: int = 0) -> None:
    """Take texts for ever; log `id instant body` before the ack, and `id instant` once it has returned.

    With `ledger` what was acked is remembered over the lives of this consumer.
    """
    log = os.open(os.path.join(folder, f"{name}.texts"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(log, b"\n")  # a life that was killed may have left half a line
    with Node(name) as node:
        explain_on_signal(node)
        options: dict[str, Any] = {"ledger": os.path.join(folder, f"{name}.ledger")} if ledger else {}
        consumer = node.consumer(queue, str, **options)
        print("ready", flush=True)
        if batches:
            for batch in consumer.batches(max_size=batches):
                ids, now = batch.ids, time.monotonic()
                with batch as bodies:
                    os.write(log, "".join(f"{i} {now:.6f} {b}.\n" for i, b in zip(ids, bodies, strict=True)).encode())
                now = time.monotonic()
                os.write(log, "".join(f"{i} {now:.6f}.\n" for i in ids).encode())
        else:
            for message in consumer:
                with message as body:
                    os.write(log, f"{message.id} {time.monotonic():.6f} {body}.\n".encode())
                os.write(log, f"{message.id} {time.monotonic():.6f}.\n".encode())


def leave_account(node: Node, path: str) -> None:
    """Write the accounting of the one producer of `node` into a file."""
    account = node.statistics().producers[0]
    fields = {field: getattr(account, field) for field in account.__struct_fields__}
    with open(path, "w") as file:
        json.dump({**fields, "closes": account.closes, "rss_max": rss_max()}, file)


def producer_stream(node: Node, queue: str) -> str:
    address = node._async._context.engine.address
    return f"{address.node_id}:{address.epoch}:{queue}"


def consume(name: str, folder: str, queue: str, work_ms: float = 0.0, batches: int = 0, lease: float = 300.0) -> None:
    """Take messages for ever, working `work_ms` on each; log each before it is acked."""
    log = os.open(os.path.join(folder, f"{name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with Node(name) as node:
        explain_on_signal(node)
        consumer = node.consumer(queue, int, lease=lease)
        print("ready", flush=True)
        if batches:
            for batch in consumer.batches(max_size=batches):
                with batch:
                    now = time.monotonic()
                    os.write(log, b"".join(f"{i} 0 {now:.6f}\n".encode() for i in batch.ids))
        else:
            for message in consumer:
                with message:
                    started_at = time.monotonic()
                    if work_ms:
                        time.sleep(work_ms / 1000)
                    os.write(log, f"{message.id} {message.attempt} {started_at:.6f}\n".encode())


def stage(name: str, folder: str, queue: str, concurrency: int = 1, returns: int = 0) -> None:
    """Send on, to the next queue, whatever comes, as anybody would write it; with `returns` acks wait for nothing."""
    node = Node(name)
    onward = node.producer(f"{queue}.on", int)

    @node.on_message(queue, concurrency=concurrency, ack_after="return" if returns else "outputs")
    def work(number: int) -> None:
        onward.send(number)

    with node:
        explain_on_signal(node)
        print("ready", flush=True)
        threading.Event().wait()


def sink(name: str, folder: str, queue: str, work_ms: float = 0.0) -> None:
    """Log what comes at the end: `number attempt instant`."""
    log = os.open(os.path.join(folder, f"{name}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with Node(name) as node:
        explain_on_signal(node)
        print("ready", flush=True)
        for batch in node.consumer(queue, int).batches():
            with batch as numbers:
                at = time.monotonic()
                if work_ms:
                    time.sleep(work_ms * len(numbers) / 1000)
                os.write(log, b"".join(b"%d 0 %.6f\n" % (number, at) for number in numbers))


def explain_on_signal(node: Node) -> None:
    """SIGUSR1 writes what the node knows to standard error, for a run that hangs."""

    def explain(*_: object) -> None:
        threading.Thread(target=lambda: print(node, node.statistics(), node.peers(), file=sys.stderr)).start()

    signal.signal(signal.SIGUSR1, explain)


def rss_max() -> int:
    """The most memory this process has had, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


if __name__ == "__main__":
    what, name, folder, queue, *options = sys.argv[1:]
    chosen = {key: float(value) if "." in value else int(value) for key, value in (o.split("=") for o in options)}
    roles = {
        "produce": produce,
        "consume": consume,
        "spooled": produce_spooled,
        "texts": consume_text,
        "stage": stage,
        "sink": sink,
    }
    roles[what](name, folder, queue, **chosen)  # type: ignore[operator]
