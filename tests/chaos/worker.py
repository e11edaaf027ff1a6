"""A process of a chaos run: `worker.py produce|consume NAME FOLDER QUEUE key=value ...`, started by path.

Every processed message is one line `stream/sequence attempt instant` in the consumer's log, written with O_APPEND
in one call, so that a SIGKILL tears no line and loses none that the kernel has taken. It is written before the ack:
what is logged and not acked runs again, what is acked was logged.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

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
        account = node.statistics().producers[0]
        fields = {field: getattr(account, field) for field in account.__struct_fields__}
        with open(os.path.join(folder, f"{name}.account"), "w") as file:
            json.dump({**fields, "closes": account.closes, "rss_max": rss_max()}, file)
        print("settled", flush=True)


def producer_stream(node: Node, queue: str) -> str:
    address = node._async.engine.address
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
    {"produce": produce, "consume": consume}[what](name, folder, queue, **chosen)  # type: ignore[operator]
