"""The life of a node: start, close, exit, fork, loops, notebooks."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import logging
import os
import pickle
import signal
import threading
import time
from typing import Any

import pytest

from peerfabric import (
    AsyncConsumer,
    AsyncNode,
    AsyncProducer,
    AsyncPublisher,
    AsyncSubscriber,
    Consumer,
    EndpointInUse,
    Node,
    NodeClosed,
    Options,
    Producer,
    Publisher,
    Subscriber,
    TimedOut,
    Undelivered,
    WrongLoop,
)
from tests.nodes.conftest import eventually

runtime_only = pytest.mark.usefixtures("runtime")


@pytest.mark.parametrize(
    ("plain", "awaited"),
    [
        (Node, AsyncNode),
        (Producer, AsyncProducer),
        (Consumer, AsyncConsumer),
        (Publisher, AsyncPublisher),
        (Subscriber, AsyncSubscriber),
    ],
)
def test_the_fronts_have_the_same_names_and_signatures(plain: type, awaited: type) -> None:
    """What the blocking front offers the asynchronous one offers too, with the same parameters."""
    names = [name for name in vars(plain) if not name.startswith("_") and callable(getattr(plain, name))]
    assert names
    for name in names:
        ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (plain, awaited))
        assert [(p.name, p.default, p.kind) for p in ours.values()] == [
            (p.name, p.default, p.kind) for p in theirs.values()
        ], name


# Starting and closing


def test_first_use_starts_and_with_starts(front: Any) -> None:
    """Either way, once."""
    node = front.node("kitchen")
    assert "new" in repr(node.target if front.is_async else node)
    node.statistics()
    assert "running" in repr(node.target if front.is_async else node)
    with node:
        pass
    node.close()


def test_use_after_close_says_so(front: Any) -> None:
    """Every call that would need the node raises NodeClosed; nothing is accepted silently."""
    with front.node() as node:
        producer, consumer = node.producer("orders", int), node.consumer("orders", int)
        publisher, subscriber = node.publisher("prices", int), node.subscriber("prices", int)
        producer.send(1)
        with consumer.get(timeout=10):
            pass
        receipt = producer.send(2)
        with consumer.get(timeout=10):
            pass
    for call in (
        lambda: producer.send(1),
        lambda: producer.send_many([1, 2]),
        producer.flush,
        producer.ready,
        lambda: producer.wait(receipt, "processed"),
        consumer.get,
        lambda: publisher.publish(1),
        lambda: publisher.publish_many([1]),
        subscriber.get,
        lambda: node.producer("others", int),
        node.peers,
        lambda: node.dead_letters("orders"),
    ):
        with pytest.raises(NodeClosed, match="make a new Node"):
            call()
    assert list(consumer) == list(subscriber) == []
    assert node.statistics().producers[0].closes
    node.close()


def test_close_says_what_was_not_delivered(front: Any) -> None:
    """After the timeout it is closed all the same, and what is left is counted."""
    node = front.node()
    node.producer("orders", int).send_many([1, 2, 3])
    with pytest.raises(Undelivered, match="start a consumer before closing") as caught:
        node.close(timeout=0.05)
    assert (caught.value.waiting, caught.value.in_flight) == (3, 0)
    left = node.statistics().producers[0]
    assert (left.left_at_close, left.waiting, left.closes) == (3, 0, True)


def test_an_exception_on_its_way_is_not_hidden(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Leaving `with` by an exception only logs what was not delivered."""
    node = front.node(options=Options(drain_timeout=0.05))
    node.producer("orders", int).send(1)
    with pytest.raises(ZeroDivisionError), node:
        raise ZeroDivisionError
    assert "closed with 1 message waiting" in caplog.text


def test_close_waits_for_what_was_sent_just_before(front: Any) -> None:
    """Nothing is lost between a sender's hands and the engine."""
    with front.node() as b:
        consumer = b.consumer("orders", int)
        seen: list[int] = []

        def work() -> None:
            for message in consumer:
                with message as body:
                    seen.append(body)

        thread = threading.Thread(target=work)
        thread.start()
        for number in range(20):
            with front.node() as a:
                a.producer("orders", int).send_many([number] * 10)
        b.close()
        thread.join()
        assert seen == [number for number in range(20) for _ in range(10)]


def test_close_wakes_everybody_who_waits(front: Any) -> None:
    """Calls in other threads end with NodeClosed, loops end."""
    node = front.node()
    producer, consumer = node.producer("orders", int), node.consumer("others", int)
    subscriber = node.subscriber("prices", int)
    outcomes: list[Any] = []

    def run(call: Any) -> None:
        try:
            outcomes.append(call())
        except NodeClosed:
            outcomes.append("closed")

    calls = [consumer.get, lambda: list(consumer), subscriber.get, lambda: producer.ready(3)]
    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    node.statistics()
    for thread in threads:
        thread.start()
    time.sleep(0.05)  # most of them wait by now; those that do not are refused, which is the same outcome
    node.close()
    for thread in threads:
        thread.join(20)
    assert sorted(map(str, outcomes)) == ["[]", "closed", "closed", "closed"]


def test_a_port_in_use_is_an_error_with_a_way_out(front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found at the start; the node stays new, so that a later start may work."""
    with front.node(listen="tcp://127.0.0.1:*") as first:
        inner = first.target if front.is_async else first._async
        endpoint = inner._context.engine.address.inbox[0]
        second = front.node(listen=endpoint)
        with pytest.raises(EndpointInUse, match=r"tcp://127.0.0.1:\*"):
            second.statistics()
        assert issubclass(EndpointInUse, OSError)
        monkeypatch.setenv("PEERFABRIC_LISTEN", endpoint)
        with pytest.raises(EndpointInUse, match=r"given by PEERFABRIC_LISTEN; choose .*'tcp://\*:7700-7719'"):
            front.node().statistics()


def test_nodes_cannot_be_pickled_or_copied(front: Any) -> None:
    """The error says what to do in another process."""
    node = front.node()
    inner = node.target if front.is_async else node
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="make one in each process"):
            attempt(inner)


@pytest.mark.parametrize(
    "listen", ["tcp://0.0.0.0:7700", "tcp://192.168.1.5:*", "udp://127.0.0.1:1", "tcp://127.0.0.1", "nonsense"]
)
def test_only_this_machine_is_listened_to(front: Any, listen: str) -> None:
    """Anything else is refused when the node is made."""
    with pytest.raises(ValueError, match=r"127\.0\.0\.1"):
        front.node(listen=listen)


def test_wrong_discovery_and_peers(front: Any) -> None:
    """Refused when the node is made."""
    for options, text in (
        ({"discovery": "carrier-pigeon"}, "use 'auto' or some of"),
        ({"peers": "tcp://127.0.0.1:7700"}, "give a list"),
        ({"peers": ["tcp://127.0.0.1:7700"], "discovery": ("registry",)}, "add 'static'"),
        ({"name": "a b"}, "use letters"),
        ({"fabric": "a/b"}, "use letters"),
    ):
        with pytest.raises(ValueError, match=text):
            front.node(**options)


# Loops


@runtime_only
def test_an_async_node_belongs_to_its_loop() -> None:
    """On a second loop it says so, and closes on the first."""
    first = asyncio.new_event_loop()
    node = AsyncNode()
    try:
        first.run_until_complete(node.__aenter__())
        with pytest.raises(WrongLoop, match="one AsyncNode per loop"):
            asyncio.run(node.producer("orders", int).send(1))
        first.run_until_complete(node.close())
    finally:
        first.close()
    with pytest.raises(WrongLoop, match="use it in a coroutine"):
        AsyncNode().peers()


@runtime_only
def test_node_works_inside_a_running_loop() -> None:
    """It blocks the loop, as in a notebook, and works."""

    async def cell() -> int:
        with Node() as node:
            node.producer("orders", int).send(5)
            with node.consumer("orders", int).get(timeout=10) as body:
                return body

    assert asyncio.run(cell()) == 5


@runtime_only
def test_a_notebook_cell_run_twice() -> None:
    """The first run's node is still there when the second makes its own; both work, and closing is clean."""
    cell = "node = Node('notebook'); orders = node.producer('orders', int); jobs = node.consumer('orders', int)"
    space: dict[str, Any] = {"Node": Node}
    exec(cell, space)
    space["orders"].send(1)
    with space["jobs"].get(timeout=10) as body:
        assert body == 1
    first = space["node"]
    exec(cell, space)
    space["orders"].send(2)
    taken: list[int] = []
    while not taken:
        for jobs in (space["jobs"], first.consumer("orders", int)):
            try:
                with jobs.get(timeout=0.2) as body:
                    taken.append(body)
                    break
            except TimedOut:
                pass
    assert taken == [2]
    space["orders"].flush(timeout=10)
    first.close()
    space["node"].close()


@runtime_only
def test_cancelled_calls_have_taken_nothing() -> None:
    """2,000 gets cancelled while messages arrive: each message is still taken exactly once."""

    async def story() -> None:
        async with AsyncNode() as node:
            producer, consumer = node.producer("orders", int), node.consumer("orders", int)
            taken: list[int] = []
            cancelled = 0
            for n in range(2000):
                task = asyncio.create_task(consumer.get())
                if n % 3:
                    await asyncio.sleep(0)
                await producer.send(n)
                for _ in range(n % 5):
                    await asyncio.sleep(0)
                if n % 7 == 0:
                    await asyncio.sleep(0.0005)
                task.cancel()
                try:
                    message = await task
                except asyncio.CancelledError:
                    cancelled += 1
                else:
                    taken.append(message.body)
                    message.ack()
            while len(taken) < 2000:
                message = await consumer.get(timeout=10)
                taken.append(message.body)
                message.ack()
            assert sorted(taken) == list(range(2000))
            assert 0 < cancelled <= 2000
            await producer.flush(timeout=10)

    asyncio.run(story())


@runtime_only
def test_cancelled_sends_have_accepted_nothing() -> None:
    """A send cancelled while it waits for room is not accepted, and one that returned is."""

    async def story() -> None:
        async with AsyncNode() as node:
            producer, consumer = node.producer("orders", int, buffer_bytes=10), node.consumer("orders", int)
            accepted: list[int] = []
            taken: list[int] = []

            async def send(n: int) -> None:
                await producer.send(n)
                accepted.append(n)

            async def take() -> None:
                async for message in consumer:
                    with message as body:
                        taken.append(body)

            taker = asyncio.create_task(take())
            for n in range(2000):
                task = asyncio.create_task(send(n))
                for _ in range(n % 4):
                    await asyncio.sleep(0)
                if n % 5 == 0:
                    await asyncio.sleep(0.0005)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await producer.flush(timeout=20)
            assert taken == accepted
            assert len(accepted) > 0
            taker.cancel()
            await asyncio.gather(taker, return_exceptions=True)
            assert node.statistics().producers[0].accepted == len(accepted)

    asyncio.run(story())


@runtime_only
def test_timeouts_of_asyncio_lose_nothing() -> None:
    """`asyncio.timeout` around a get is a cancellation like any other."""

    async def story() -> None:
        async with AsyncNode() as a, AsyncNode() as b:
            producer, consumer = a.producer("orders", int), b.consumer("orders", int)

            async def feed() -> None:
                for n in range(100):
                    await producer.send(n)
                    await asyncio.sleep(0.002)

            feeder = asyncio.create_task(feed())
            taken: list[int] = []
            while len(taken) < 100:
                try:
                    async with asyncio.timeout(0.003):
                        message = await consumer.get()
                except TimeoutError:
                    continue
                with message as body:
                    taken.append(body)
            await feeder
            assert taken == list(range(100))

    asyncio.run(story())


# Waiting


@runtime_only
def test_a_wait_for_ever_says_once_what_for(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, with the next step."""
    monkeypatch.setattr("peerfabric.nodes.io.waiting.EXPLAIN_AFTER", 0.05)
    from peerfabric.nodes.io import waiting

    gate = waiting.Gate()
    with pytest.raises(TimedOut):
        waiting.complete(
            waiting.wait_until(
                waiting.Blocking(), gate, lambda: None, 0.3, lambda: "tea; boil water", (0.05, logging.WARNING)
            )
        )
    assert caplog.text.count("tea; boil water") == 1
    assert len(gate) == 0


@pytest.mark.parametrize("moves", [True, False])
def test_who_gets_on_is_not_said_to_wait(caplog: pytest.LogCaptureFixture, moves: bool) -> None:
    """Only what has stood still for so long is told."""
    from peerfabric.nodes.io import waiting

    ticks, explain = iter(range(1000)), (0.05, logging.WARNING)
    with pytest.raises(TimedOut):
        waiting.complete(
            waiting.wait_until(
                waiting.Blocking(),
                waiting.Gate(),
                lambda: None,
                0.3,
                lambda: "tea",
                explain,
                moved=lambda: next(ticks) if moves else 0,
            )
        )
    assert caplog.text.count("tea") == (0 if moves else 1)


@runtime_only
def test_lines_of_several_nodes_say_whose_they_are(caplog: pytest.LogCaptureFixture) -> None:
    """Of one alone they need not."""
    caplog.set_level(logging.INFO, "peerfabric")
    with Node("shop") as shop:
        shop._async._context.engine.records.add("info", "alone")
        shop._async._context.pump.wake()
        eventually(lambda: "alone" in caplog.messages, "the line")
        with Node("kitchen"):
            shop._async._context.engine.records.add("info", "together")
            shop._async._context.pump.wake()
            eventually(lambda: "shop: together" in caplog.messages, "the line with its node")


def test_a_forgotten_with_message_is_explained(front: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A consumer that waits and has unsettled messages says after a second how to settle them."""
    with front.node() as a, front.node() as b:
        a.producer("orders", int).send(1)
        consumer = b.consumer("orders", int)
        message = consumer.get(timeout=10)
        with pytest.raises(TimedOut, match="use `with message as body:`"):
            consumer.get(timeout=1.3)
        assert "still waiting after 1 s" in caplog.text
        message.ack()


# Processes

PRELUDE = """
import os, signal, sys, threading, time
from peerfabric import *
"""


def test_run_drains_on_a_signal(start: Any) -> None:
    """SIGTERM or SIGINT: running handlers finish, what they send is delivered, exit code 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with Node() as shop:
            results = shop.consumer("results", int)
            child = start(
                PRELUDE
                + """
node = Node("kitchen")
out = node.producer("results", int)

@node.on_message("orders")
def cook(order: int) -> None:
    print("started", flush=True)
    time.sleep(0.3)
    out.send(order * 2)

node.run()
print("clean")
"""
            )
            orders = shop.producer("orders", int)
            orders.send(21)
            assert child.line() == "started"
            child.signal(number)
            with results.get(timeout=20) as body:
                assert body == 42
            out, err = child.finish()
            assert (out.split(), child.code) == (["clean"], 0), err
            orders.flush(timeout=10)


def test_async_run_drains_on_a_signal(start: Any) -> None:
    """The same under asyncio."""
    child = start(
        PRELUDE
        + """
import asyncio
async def main():
    node = AsyncNode("kitchen")

    @node.on_message("orders")
    async def cook(order: int) -> None:
        print("started", flush=True)
        await asyncio.sleep(0.3)
        print("done", flush=True)

    await node.run()
asyncio.run(main())
print("clean")
"""
    )
    with Node() as shop:
        orders = shop.producer("orders", int)
        orders.send(21)
        assert child.line() == "started"
        child.signal(signal.SIGTERM)
        out, err = child.finish()
        assert (out.split(), child.code) == (["done", "clean"], 0), err
        orders.flush(timeout=10)


def test_a_second_ctrl_c_ends_the_drain(start: Any) -> None:
    """The first drains; with nobody to take the messages the second stops waiting."""
    child = start(
        PRELUDE
        + """
node = Node("shop", options=Options(drain_timeout=600))
node.producer("orders", int).send(1)
threading.Timer(0.2, lambda: print("ready", flush=True)).start()
try:
    node.run()
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert child.line() == "ready"
    child.signal(signal.SIGINT)
    time.sleep(0.5)
    assert child.code is None
    child.signal(signal.SIGINT)
    out, err = child.finish()
    assert out.split() == ["interrupted"], err


@pytest.mark.parametrize(
    "call",
    [
        "consumer.get()",
        "list(consumer)",
        "next(iter(consumer.batches()))",
        "subscriber.get()",
        "producer.flush()",
        "producer.ready(5)",
        "producer.send(2, confirm='processed')",
        "full.send('x' * 100)",
        "publisher.ready(5)",
    ],
)
def test_ctrl_c_ends_every_blocking_call(start: Any, call: str) -> None:
    """Each ends at once, and the node closes within its timeout."""
    child = start(
        PRELUDE
        + f"""
node = Node(options=Options(drain_timeout=0.2)).__enter__()
producer, consumer = node.producer("orders", int), node.consumer("others", int)
publisher, subscriber = node.publisher("a", int), node.subscriber("b", int)
full = node.producer("full", str, buffer_bytes=10)
full.send("x")
producer.send(1)
threading.Timer(0.3, lambda: print("ready", flush=True)).start()
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
try:
    node.close(0.1)
except Undelivered:
    print("closed", flush=True)
"""
    )
    assert child.line() == "ready"
    child.signal(signal.SIGINT)
    out, err = child.finish()
    assert out.split() == ["interrupted", "closed"], err


def test_exit_without_close_is_drained_with_a_warning(start: Any) -> None:
    """What was accepted is delivered, and a ResourceWarning names `close()`."""
    for body in (
        'Node("shop").producer("orders", int).send_many(range(1000))',
        """
import asyncio
async def main():
    await AsyncNode("shop").producer("orders", int).send_many(range(1000))
asyncio.run(main())
""",
    ):
        with Node() as kitchen:
            consumer = kitchen.consumer("orders", int)
            child = start(PRELUDE + body, PYTHONWARNINGS="always")
            seen = []
            for message in consumer:
                with message as number:
                    seen.append(number)
                if len(seen) == 1000:
                    break
            _, err = child.finish()
            assert seen == list(range(1000))
            assert (child.code, err.count("Node shop in")) == (0, 1), err
            assert "<Node shop" in err or "<AsyncNode shop" in err
            assert "call close()" in err


@pytest.mark.parametrize(
    "body",
    [
        'Node("shop").__enter__()',
        """
import asyncio
async def main():
    await AsyncNode("shop").__aenter__()
asyncio.run(main())
""",
    ],
    ids=["blocking", "async"],
)
def test_a_node_that_was_dropped_and_not_closed(start: Any, body: str) -> None:
    """It works until the program ends, as nobody said otherwise, and the warning comes whatever was collected."""
    child = start(PRELUDE + body + "\nimport gc; gc.collect()", PYTHONWARNINGS="always")
    _, err = child.finish()
    assert (child.code, err.count("ResourceWarning: <")) == (0, 1), err


def test_no_consumer_at_exit_says_what_is_gone(start: Any) -> None:
    """The last line of a producer without a consumer is an error that says what to do."""
    child = start(
        PRELUDE
        + """
with Node("shop", options=Options(drain_timeout=0.2)) as node:
    node.producer("orders", int).send(1)
"""
    )
    _, err = child.finish()
    assert child.code == 1
    assert "Undelivered: closed with 1 message waiting" in err
    assert "start a consumer before closing" in err.splitlines()[-1]


def test_a_started_node_is_refused_after_a_fork(start: Any) -> None:
    """In the child each call raises ForkedNode; in the parent all goes on; nothing is accepted silently."""
    child = start(
        PRELUDE
        + """
node = Node("shop").__enter__()
producer, consumer = node.producer("orders", int), node.consumer("orders", int)
publisher, subscriber = node.publisher("prices", int), node.subscriber("prices", int)
producer.send_many(range(10))
first = consumer.get(timeout=10)
pid = os.fork()
if pid == 0:
    for call in (lambda: producer.send(1), lambda: producer.send_many([1]), lambda: consumer.get(timeout=1),
                 lambda: next(iter(consumer)), lambda: publisher.publish(1), lambda: subscriber.get(timeout=1),
                 lambda: node.producer("x", int), lambda: node.peers(), lambda: producer.flush(timeout=1)):
        try:
            print("wrong", call())
        except ForkedNode as error:
            print("forked", "in the child" in str(error))
    node.close()
    sys.exit(0)
os.waitpid(pid, 0)
first.ack()
for n in range(9):
    with consumer.get(timeout=10):
        pass
producer.flush(timeout=10)
node.close()
print("parent fine")
"""
    )
    out, err = child.finish()
    assert out.splitlines() == ["forked True"] * 9 + ["parent fine"], out + err


def test_threads_of_a_forked_child_are_none_of_its_parents(start: Any) -> None:
    """The system gives them the numbers of threads that worked for a node of the parent; theirs wait as any other."""
    child = start(
        PRELUDE
        + """
import threading
parent = Node("parent").__enter__()
parent.consumer("orders", int)
pid = os.fork()
if pid == 0:
    def work():
        with Node("child", fabric="another") as node:
            node.producer("jobs", int).send(1)
            with node.consumer("jobs", int).get(timeout=20) as body:
                print(f"child {body}\\n", end="", flush=True)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    os._exit(0)
os.waitpid(pid, 0)
parent.close()
"""
    )
    out, err = child.finish()
    assert out.splitlines() == ["child 1"] * 4, out + err


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_node_built_at_import_works_in_each_child(start: Any, method: str) -> None:
    """As under a prefork server: it starts in each child by itself."""
    with Node() as kitchen:
        consumer = kitchen.consumer("orders", int)
        child = start(
            PRELUDE
            + f"""
import multiprocessing
node = Node("shop")
producer = node.producer("orders", int)

def work(number):
    with node:
        producer.send(number, confirm="processed", timeout=20)

if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    children = [context.Process(target=work, args=(n,)) for n in range(3)]
    for c in children: c.start()
    for c in children: c.join()
    print([c.exitcode for c in children])
"""
        )
        seen = []
        for message in consumer:
            with message as number:
                seen.append(number)
            if len(seen) == 3:
                break
        out, err = child.finish()
        assert sorted(seen) == [0, 1, 2]
        assert out.split("\n")[0] == "[0, 0, 0]", err


def test_no_other_signal_handler_is_installed(front: Any) -> None:
    """A node that only works leaves the process's handlers alone."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with front.node() as node:
        node.statistics()
        assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


def test_a_node_leaves_nothing_behind(front: Any) -> None:
    """Ten nodes one after the other: the fixture counts threads, descriptors and files."""
    for _ in range(10):
        with front.node() as node:
            node.producer("orders", int).send(1)
            with node.consumer("orders", int).get(timeout=10):
                pass
    gc.collect()
    assert os.environ["PEERFABRIC_RUNTIME"]
