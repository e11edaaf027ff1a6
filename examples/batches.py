"""Batches: where there are many small messages, handing over lists of them is several times faster."""

import time

from peerfabric import Node

COUNT = 200_000

with Node("source") as source, Node("sink") as sink:
    numbers = source.producer("numbers", int)
    started_at = time.perf_counter()
    numbers.send_many(range(COUNT))

    total = count = 0
    for batch in sink.consumer("numbers", int).batches(max_size=10_000):
        with batch as bodies:  # one ack for all of them; an Exception gives all back
            total += sum(bodies)
            count += len(bodies)
        if count == COUNT:
            break
    numbers.flush(timeout=30)
    print(f"{count:,} numbers with the sum {total:,}, each acked")
    print(f"{count / (time.perf_counter() - started_at):,.0f} a second, both ends in one process")
