"""Long polls: a thousand that wait cost next to nothing, and each gets its message."""

from __future__ import annotations

import asyncio
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerfabric import AsyncNode, Undelivered
from tests.gateway.commands import Command

COUNT = 1_000


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many as a thousand connections take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * COUNT:
        pytest.skip(f"{hard} descriptors are too few for {COUNT} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * COUNT), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def seconds_used(pid: int) -> float:
    """Of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.long
def test_a_thousand_long_polls_are_idle(command: Callable[..., Command], descriptors: None) -> None:
    """Less than 1 % of one processor while nothing comes."""
    gate = command().ready()
    host, _, port = gate.said["listen"].removeprefix("http://").partition(":")
    token = Path(gate.said["token_file"]).read_text().strip()
    body = b'{"wait": 60, "lease": 600}'
    head = (
        f"POST /v1/queues/orders/take HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    async def story() -> None:
        polls = [await asyncio.open_connection(host, int(port)) for _ in range(COUNT)]
        for _, writer in polls:
            writer.write(head.encode() + body)
        await asyncio.sleep(5)
        before = seconds_used(gate.process.pid)
        await asyncio.sleep(20)
        assert seconds_used(gate.process.pid) - before < 0.2
        async with AsyncNode("shop") as shop:
            orders = shop.producer("orders", int)
            await orders.send_many(range(COUNT))
            answers = await asyncio.gather(*(reader.readline() for reader, _ in polls))
            assert Counter(answers) == {b"HTTP/1.1 200 OK\r\n": COUNT}
            for _, writer in polls:
                writer.close()
            gate.process.kill()  # what it had handed out comes back, and is of no use here
            await shop.close(0)

    with pytest.raises(Undelivered):
        asyncio.run(story())
