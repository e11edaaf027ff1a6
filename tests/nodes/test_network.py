"""Nodes on a network that cuts, with strangers in it, and with busy neighbours."""

from __future__ import annotations

import importlib.util
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from peerfabric import Node
from peerfabric.discovery import resolving
from peerfabric.nodes.io.sockets import Sockets
from peerfabric.wire.frames import Address, Hello, encode_frame

_spec = importlib.util.spec_from_file_location("cut_proxy", Path(__file__).with_name("proxy.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
CutProxy = _module.CutProxy

pytestmark = pytest.mark.usefixtures("runtime")
DEADLINE = 30.0


def eventually(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {DEADLINE:g} s"
        time.sleep(0.005)


# Cuts


@pytest.fixture
def inboxes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Proxies before the inboxes of the nodes that start in this test, in that order."""
    proxies: list[Any] = []
    bind = Sockets.bind

    def bind_behind_proxy(self: Sockets, inbox: list[str], outbox: list[str]) -> tuple[list[str], list[str]]:
        real, published = bind(self, inbox, outbox)
        proxies.append(CutProxy(int(real[0].rpartition(":")[2])))
        return [f"tcp://127.0.0.1:{proxies[-1].port}"], published

    monkeypatch.setattr(Sockets, "bind", bind_behind_proxy)
    yield proxies
    for proxy in proxies:
        proxy.close()


@pytest.mark.parametrize("direction", ["both", "forward", "reverse"])
def test_a_cut_under_load_loses_nothing(inboxes: list[Any], direction: str) -> None:
    """The TCP connections are reset again and again: nothing lost, nothing twice, the same order."""
    count = 40_000
    with Node("b", listen="tcp://127.0.0.1:*") as b, Node("a", listen="tcp://127.0.0.1:*") as a:
        consumer, producer = b.consumer("orders", int), a.producer("orders", int, buffer_bytes=200_000)
        chosen = {"both": inboxes, "forward": inboxes[:1], "reverse": inboxes[1:]}[direction]
        seen: list[int] = []

        def send() -> None:
            for start in range(0, count, 100):
                producer.send_many(range(start, start + 100), timeout=DEADLINE)

        def cut() -> None:
            for share in (0.1, 0.4, 0.7):
                eventually(lambda share=share: len(seen) >= share * count, "progress")  # type: ignore[misc]
                for proxy in chosen:
                    proxy.cut()
                time.sleep(random.uniform(0.0, 0.3))
                for proxy in chosen:
                    proxy.heal()

        threads = [threading.Thread(target=send), threading.Thread(target=cut)]
        for thread in threads:
            thread.start()
        while len(seen) < count:
            with consumer.get(timeout=DEADLINE) as body:
                seen.append(body)
        for thread in threads:
            thread.join()
        producer.flush(timeout=DEADLINE)
        account = a.statistics().producers[0]
        assert seen == list(range(count))
        assert (account.acked, account.redelivered, account.closes) == (count, 0, True)


def test_a_topic_counts_what_a_cut_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Best effort: what got lost is missed by number, and what comes after the cut arrives."""
    proxies: list[Any] = []
    bind = Sockets.bind

    def bind_behind_proxy(self: Sockets, inbox: list[str], outbox: list[str]) -> tuple[list[str], list[str]]:
        real, published = bind(self, inbox, outbox)
        proxies.append(CutProxy(int(published[0].rpartition(":")[2])))
        return real, [f"tcp://127.0.0.1:{proxies[-1].port}"]

    monkeypatch.setattr(Sockets, "bind", bind_behind_proxy)
    with Node("a", listen="tcp://127.0.0.1:*") as a, Node("b", listen="tcp://127.0.0.1:*") as b:
        publisher, subscriber = a.publisher("prices", int), b.subscriber("prices", int)
        publisher.ready(timeout=DEADLINE)
        publisher.publish_many(range(100))
        assert [subscriber.get(timeout=DEADLINE).body for _ in range(100)] == list(range(100))
        proxies[0].cut()
        time.sleep(0.05)
        publisher.publish_many(range(100, 200))
        time.sleep(0.05)
        proxies[0].heal()
        seen: list[int] = []
        number = 200
        while not seen or seen[-1] < 200:
            publisher.publish(number)
            number += 1
            try:
                seen.append(subscriber.get(timeout=0.1).body)
            except TimeoutError:
                pass
        eventually(lambda: len(seen) + subscriber.missed >= seen[-1] - 99, "the count of the gap")
        assert seen == sorted(set(seen))
    for proxy in proxies:
        proxy.close()


# Strangers


def test_strangers_are_counted_and_the_node_lives() -> None:
    """Random bytes, a cut hello, one of another version, too many parts: dropped, and work goes on."""
    with Node("kitchen", listen="tcp://127.0.0.1:*") as kitchen, Node("shop") as shop:
        consumer, producer = kitchen.consumer("orders", int), shop.producer("orders", int)
        endpoint = kitchen._async._context.engine.address.inbox[0]
        hello = encode_frame(
            Hello(
                "peerfabric",
                1,
                "default",
                "",
                Address("stranger", 1, "x", "", ["tcp://127.0.0.1:1"], []),
                1234,
                0,
                False,
                1,
            )
        )
        foreign = encode_frame(
            Hello(
                "peerfabric",
                99,
                "default",
                "",
                Address("future", 1, "x", "", ["tcp://127.0.0.1:1"], []),
                1234,
                0,
                False,
                1,
            )
        )
        rng = random.Random(7)
        context = zmq.Context()
        with context.socket(zmq.PUSH) as push:
            push.linger = 5000
            push.connect(endpoint)
            for _ in range(300):
                push.send(rng.randbytes(rng.randrange(1, 200)))
                push.send_multipart([rng.randbytes(20), rng.randbytes(100)])
            for size in range(1, len(hello)):
                push.send(hello[:size])
            push.send(foreign)
            push.send(hello)
            push.send(b"")
            push.send_multipart([b"a"] * 50)
            for kind in range(40):
                push.send(msgspec.msgpack.encode([kind, b"12345678", 1, 1, {}, [], "x"]))
            counters: Callable[[], dict[str, int]] = lambda: kitchen.statistics().counters  # noqa: E731
            eventually(lambda: counters().get("foreign messages", 0) == 2, "the count of foreign messages")
        context.term()
        assert counters()["bad frames"] > 300
        for n in range(100):
            producer.send(n)
        seen: list[int] = []
        while len(seen) < 100:
            with consumer.get(timeout=DEADLINE) as body:
                seen.append(body)
        assert seen == list(range(100))
        assert shop.statistics().producers[0].closes


# Finding each other


@pytest.mark.parametrize("how", ["registry", "mdns", "peers"])
def test_first_message_by_each_discovery(how: str) -> None:
    """With one backend alone two nodes find each other."""
    first: dict[str, Any] = {"discovery": (how,)} if how != "peers" else {"discovery": ("static",)}
    listen = "auto" if how == "registry" else "tcp://127.0.0.1:*"
    with Node("kitchen", listen=listen, **first) as kitchen:
        consumer = kitchen.consumer("orders", int)
        second = dict(first, peers=kitchen._async._context.engine.address.inbox) if how == "peers" else first
        started_at = time.monotonic()
        with Node("shop", listen=listen, **second) as shop:
            shop.producer("orders", int).send(1)
            with consumer.get(timeout=DEADLINE) as body:
                assert body == 1
            print(f"first message by {how}: {(time.monotonic() - started_at) * 1000:.0f} ms")
            shop.producer("orders", int).flush(timeout=DEADLINE)


def test_a_name_leads_to_one_node_and_then_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but numeric endpoints is dialled; what a name no longer leads to is left alone."""
    answers = ["127.0.0.1"]
    monkeypatch.setattr(resolving, "addresses_of", lambda host, port: {"kitchen.test": list(answers)}[host])
    monkeypatch.setattr(resolving, "RESOLVE_EVERY", 0.05)
    monkeypatch.setattr(resolving, "RESOLVE_UNANSWERED", 0.05)
    options: dict[str, Any] = {"discovery": ("static",)}
    with Node("one", listen="tcp://127.0.0.1:*", **options) as one:
        one.statistics()
        (inbox,) = one._async._context.engine.address.inbox
        port = inbox.rpartition(":")[2]
        with (
            Node("two", listen=f"tcp://127.0.0.2:{port}", **options) as two,
            Node("shop", listen="tcp://127.0.0.1:*", peers=[f"tcp://kitchen.test:{port}"], **options) as shop,
        ):
            two.statistics()
            eventually(lambda: [peer.name for peer in shop.peers()] == ["one"], "the peer that the name leads to")
            answers[:] = ["127.0.0.2"]
            eventually(lambda: "two" in {peer.name for peer in shop.peers()}, "the other one")
            addresses = shop._async._context.engine.links._addresses
            assert list(addresses._candidates) == [f"tcp://127.0.0.2:{port}"]


def test_an_introduction_is_enough() -> None:
    """Two nodes that know only a third one find each other through it."""
    options: dict[str, Any] = {"listen": "tcp://127.0.0.1:*", "discovery": ("static", "exchange")}
    with Node("seed", **options) as seed:
        seed.statistics()
        known = seed._async._context.engine.address.inbox
        with Node("kitchen", peers=known, **options) as kitchen, Node("shop", peers=known, **options) as shop:
            consumer = kitchen.consumer("orders", int)
            shop.producer("orders", int).send(1)
            with consumer.get(timeout=DEADLINE) as body:
                assert body == 1
            shop.producer("orders", int).flush(timeout=DEADLINE)


def test_other_fabrics_are_not_met() -> None:
    """Same machine, same folder, another fabric: they never see each other."""
    with Node(fabric="one") as one, Node(fabric="two") as two, Node(fabric="one") as third:
        one.producer("orders", int)
        two.consumer("orders", int)
        third.consumer("orders", int)
        eventually(lambda: any(p.name == third.name and p.state == "up" for p in one.peers()), "the meeting")
        assert len(one.peers()) == 1
        assert two.peers() == []


def test_a_wrong_fabric_by_address_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which option to change."""
    with Node(fabric="one", listen="tcp://127.0.0.1:*") as one:
        one.consumer("orders", int)
        one.statistics()
        with Node(fabric="two", listen="tcp://127.0.0.1:*", peers=one._async._context.engine.address.inbox) as two:
            two.producer("orders", int)
            eventually(lambda: "give both nodes the same fabric=" in caplog.text, "the refusal")


# Busy neighbours

BUSY = """
import asyncio, sys, time
from peerfabric import AsyncNode, Node

def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))

def blocking():
    with Node("busy") as node:
        seen = []
        for message in node.consumer("orders", int):
            with message as body:
                seen.append((body, message.attempt))
                if len(seen) == 1:
                    print("computing", flush=True)
                    compute(5)
            if len(seen) == 2000:
                break
        print(seen == [(n, 1) for n in range(2000)], flush=True)
        sys.stdin.read()

async def suspending():
    async with AsyncNode("busy") as node:
        seen = []
        async for message in node.consumer("orders", int):
            with message as body:
                seen.append((body, message.attempt))
                if len(seen) == 1:
                    print("computing", flush=True)
                    compute(5)
            if len(seen) == 2000:
                break
        print(seen == [(n, 1) for n in range(2000)], flush=True)
        sys.stdin.read()

blocking() if sys.argv[1] == "blocking" else asyncio.run(suspending())
"""


@pytest.mark.parametrize("colour", ["blocking", "async"])
def test_five_seconds_of_pure_python_cost_nothing(start: Callable[..., Any], colour: str) -> None:
    """A blocked event loop or main thread: its peers go on believing in it, and nothing is sent again."""
    child = start(BUSY, colour)
    with Node("shop") as shop:
        producer = shop.producer("orders", int)
        producer.send(0)
        assert child.line() == "computing"
        producer.send_many(range(1, 2000))
        beliefs = set()
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.append(child.line()))
        reader.start()
        while reader.is_alive():
            beliefs |= {peer.state for peer in shop.peers()}
            time.sleep(0.02)
        assert lines == ["True"]
        assert beliefs == {"up"}
        producer.flush(timeout=DEADLINE)
        account = shop.statistics().producers[0]
        assert (account.acked, account.redelivered, account.closes) == (2000, 0, True)
        child.process.stdin.close()
        child.process.wait(DEADLINE)
    assert os.environ["PEERFABRIC_FABRIC"]
