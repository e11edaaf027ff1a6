"""Nodes with `signals=True`: SIGINT and SIGTERM end what waits for them, in order. All in processes of their own."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from peerfabric import Node
from tests.nodes.scripts import BOTH, awaiting, blocking, tell

# Loops

LOOP = """
results = node.producer("results", int)
for message in node.consumer("orders", int):
    with message as order:
        print("started", order, flush=True)
        sys.stdin.readline()
        results.send(order * 2)
print("after", flush=True)
"""
BATCHES = """
results = node.producer("results", int)
for batch in node.consumer("orders", int).batches(max_size=1):
    with batch as orders:
        print("started", orders[0], flush=True)
        sys.stdin.readline()
        results.send_many([order * 2 for order in orders])
print("after", flush=True)
"""


def awaited(loop: str) -> str:
    """What `loop` is in a coroutine."""
    loop = loop.replace("\nfor ", "\nasync for ").replace("results.send", "await results.send")
    return loop.replace("sys.stdin.readline()", "await asyncio.to_thread(sys.stdin.readline)")


@BOTH
@pytest.mark.parametrize(
    "script",
    [blocking(LOOP), blocking(BATCHES), awaiting(awaited(LOOP)), awaiting(awaited(BATCHES))],
    ids=["for", "batches", "async for", "async batches"],
)
def test_a_loop_ends_after_its_body(start: Any, script: str, number: int) -> None:
    """What the body sends arrives, its message is acked, and the others go to another consumer at once."""
    with Node("shop") as shop:
        orders, results = shop.producer("orders", int), shop.consumer("results", int)
        child = start(script)
        orders.ready(timeout=20)
        orders.send_many(range(1, 11))
        first = int(child.line().removeprefix("started "))
        child.signal(number)
        tell(child)
        with results.get(timeout=20) as result:
            assert result == 2 * first
        out, err = child.finish()
        assert (out, err, child.code) == ("after\n", "", 128 + number)
        left: list[int] = []
        for message in shop.consumer("orders", int):
            with message as order:
                left.append(order)
            if len(left) == 9:
                break
        assert sorted([first, *left]) == list(range(1, 11))
        orders.flush(timeout=20)
        account = shop.statistics().producers[0]
        assert (account.accepted, account.acked, account.closes) == (10, 10, True)


def test_a_batch_that_waits_for_more_is_handed_out(start: Any) -> None:
    """What was taken for it is processed, and the loop ends then."""
    with Node("shop") as shop:
        child = start(
            blocking("""
consumer = node.consumer("orders", int)
say_when(lambda: node.statistics().consumers[0].started and waiters(node))
for batch in consumer.batches(max_size=10, max_wait=600):
    with batch as orders:
        print(list(orders), flush=True)
""")
        )
        orders = shop.producer("orders", int)
        orders.send(1)
        assert child.line() == "ready"
        child.signal(signal.SIGTERM)
        out, err = child.finish()
        assert (out, err, child.code) == ("[1]\n", "", 143)
        orders.flush(timeout=20)
        assert shop.statistics().producers[0].acked == 1


@pytest.mark.parametrize(
    "send",
    ["results.send(order * 2, cause=message)", "results.send_many([order * 2], cause=message)"],
    ids=["send", "send_many"],
)
@pytest.mark.parametrize("spool", [False, True], ids=["memory", "spool"])
def test_what_threads_of_a_body_send_is_accepted(start: Any, tmp_path: Path, send: str, *, spool: bool) -> None:
    """Their `cause` is in hand: ended by the signal, they would leave their message to be acked without its outputs."""
    with Node("shop") as shop:
        orders, results = shop.producer("orders", int), shop.consumer("results", int)
        script = """
import threading
results = node.producer("results", int)
for message in node.consumer("orders", int):
    with message as order:
        print("started", flush=True)
        sys.stdin.readline()
        thread = threading.Thread(target=lambda: SEND)
        thread.start()
        thread.join()
print("after", flush=True)
"""
        settings = f", spool={str(tmp_path / 'spool')!r}" if spool else ""
        child = start(blocking(script.replace("SEND", send), settings))
        orders.send(21)
        assert child.line() == "started"
        child.signal(signal.SIGTERM)
        tell(child)
        with results.get(timeout=20) as result:
            assert result == 42
        out, err = child.finish()
        assert (out, err, child.code) == ("after\n", "", 143)
        orders.flush(timeout=20)
        assert shop.statistics().producers[0].acked == 1


def test_what_a_body_sends_is_accepted_while_there_is_room(start: Any) -> None:
    """Also much of it, for which the node needs turns; a send that would wait for acks gives the message back."""
    with Node("shop") as shop:
        orders, results = shop.producer("orders", int), shop.consumer("results", bytes)
        script = """
results = node.producer("results", bytes, buffer_bytes=ROOM)
for message in node.consumer("orders", int):
    with message as order:
        print("started", flush=True)
        sys.stdin.readline()
        for n in range(64):
            results.send(bytes(100_000))
        results.send_many([bytes(100_000)] * 64)
print("after", flush=True)
"""
        child = start(blocking(script.replace("ROOM", "100_000_000")))
        orders.send(1)
        assert child.line() == "started"
        child.signal(signal.SIGTERM)
        tell(child)
        count = 0
        for batch in results.batches():
            with batch as bodies:
                count += len(bodies)
            if count == 128:
                break
        out, err = child.finish()
        assert (out, err, child.code) == ("after\n", "", 143)
        orders.flush(timeout=20)
        results.close()

        child = start(blocking(script.replace("ROOM", "1_000_000"), ", options=Options(drain_timeout=0.1)"))
        orders.send(2)
        assert child.line() == "started"
        child.signal(signal.SIGTERM)
        tell(child)
        out, err = child.finish()
        assert (out, child.code, "Traceback" in err) == ("", 143, False), err
        with shop.consumer("orders", int).get(timeout=20) as order:
            assert order == 2
        orders.flush(timeout=20)


@pytest.mark.parametrize("script", [blocking, awaiting])
@pytest.mark.parametrize(
    "inner", ["consumer('replies', int)", "consumer('replies', int).batches()", "subscriber('r', int)"]
)
def test_a_loop_in_the_body_of_another(start: Any, script: Any, inner: str) -> None:
    """It has not seen all that was to come, and must not let the body ack: SystemExit gives the message back."""
    how = "async " if script is awaiting else ""
    body = f"""
say_when(lambda: waiters(node) and node.statistics().consumers[0].started)
{how}for message in node.consumer("orders", int):
    with message as order:
        {how}for reply in node.{inner}:
            pass
        print("never here", flush=True)
"""
    with Node("shop") as shop:
        orders = shop.producer("orders", int)
        orders.send(1)
        child = start(script(body))
        assert child.line() == "ready"
        child.signal(signal.SIGTERM)
        out, err = child.finish()
        assert (out, err, child.code) == ("", "", 143)
        with shop.consumer("orders", int).get(timeout=20) as order:
            assert order == 1
        orders.flush(timeout=20)


@pytest.mark.parametrize("script", [blocking, awaiting])
@pytest.mark.parametrize("loop", ["consumer", "consumer.batches()", "subscriber", "subscriber.batches()"])
def test_a_loop_that_begins_after_the_signal(start: Any, script: Any, loop: str) -> None:
    """It raises SystemExit: a program that begins its loop again and again would never end."""
    how = "async " if script is awaiting else ""
    body = f"""
consumer, subscriber = node.consumer("orders", int), node.subscriber("prices", int)
signal.raise_signal(signal.SIGTERM)
while True:
    {how}for item in {loop}:
        pass
"""
    child = start(script(body))
    out, err = child.finish()
    assert (out, err, child.code) == ("", "", 143)


# Calls

HANDLES = """
orders, consumer = node.producer("orders", int, spool=False), node.consumer("others", int)
publisher, subscriber = node.publisher("a", int), node.subscriber("b", int)
full = node.producer("full", str, buffer_bytes=10, spool=False)
kept = node.producer("kept", bytes)
"""
BOUNDS = ", spool=sys.argv[1], options=Options(drain_timeout=0.2, spool_bytes=4_000_000)"
LOOPS = ["consumer", "consumer.batches()", "subscriber", "subscriber.batches()"]
CALLS = [
    "consumer.get()",
    "consumer.get(timeout=600)",
    "subscriber.get()",
    "orders.flush()",
    "orders.ready(5)",
    "orders.wait(receipt, 'processed')",
    "full.send('x' * 100)",
    "full.send_many(['x' * 100] * 10)",
    "publisher.ready(5)",
]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("script", [blocking, awaiting])
def test_every_loop_ends_where_nothing_comes(start: Any, tmp_path: Path, script: Any, loop: str) -> None:
    """As if nothing came any more."""
    how = "async " if script is awaiting else ""
    body = f"say_when(lambda: waiters(node))\n{how}for item in {loop}:\n    pass\nprint('after', flush=True)\n"
    child = start(script(HANDLES + body, BOUNDS), str(tmp_path / "spool"))
    assert child.line() == "ready"
    child.signal(signal.SIGTERM)
    out, err = child.finish()
    assert (out, err, child.code) == ("after\n", "", 143)


@pytest.mark.parametrize(
    ("call", "number"), [*((call, signal.SIGTERM) for call in CALLS), (CALLS[0], signal.SIGINT)], ids=str
)
@pytest.mark.parametrize("script", [blocking, awaiting])
def test_every_call_ends_that_waits(start: Any, tmp_path: Path, script: Any, call: str, number: int) -> None:
    """It raises SystemExit, the node closes, and what is left is told; also where `asyncio.run` has Ctrl-C."""
    wait = "await " if script is awaiting else ""
    body = f"""
{wait}full.send("x")
receipt = {wait}orders.send(1)
say_when(lambda: waiters(node))
try:
    {wait}{call}
except SystemExit as error:
    print("ended", error.code, flush=True)
    raise
"""
    child = start(script(HANDLES + body, BOUNDS), str(tmp_path / "spool"))
    assert child.line() == "ready"
    child.signal(number)
    out, err = child.finish()
    assert (out, child.code) == (f"ended {128 + number}\n", 128 + number), err
    [told] = err.splitlines()  # and nothing else: neither an 'x' * 100 was accepted, nor is there a traceback
    assert told.startswith("closed with 2 messages waiting"), err


@pytest.mark.parametrize("script", [blocking, awaiting])
def test_a_send_ends_that_waits_for_a_confirmation(start: Any, script: Any) -> None:
    """Its message is accepted, which `Undelivered` tells if nobody takes it while the node closes."""
    wait = "await " if script is awaiting else ""
    body = f"""
say_when(lambda: waiters(node))
{wait}node.producer("orders", int).send(1, confirm="processed")
"""
    child = start(script(body, ", options=Options(drain_timeout=0.2)"))
    assert child.line() == "ready"
    child.signal(signal.SIGTERM)
    out, err = child.finish()
    assert (out, child.code) == ("", 143)
    [told] = err.splitlines()
    assert told.startswith("closed with 1 message waiting"), err


@pytest.mark.parametrize("script", [blocking, awaiting])
def test_a_send_ends_that_waits_for_space_on_disk(start: Any, tmp_path: Path, script: Any) -> None:
    """What was stored before is there for the next start."""
    wait = "await " if script is awaiting else ""
    body = f"""
say_when(lambda: waiters(node) and lifecycle(node).node.disk.spool.used_bytes > 3_800_000)
while True:
    {wait}kept.send(bytes(100_000))
"""
    child = start(script(HANDLES + body, BOUNDS), str(tmp_path / "spool"))
    assert child.line() == "ready"
    child.signal(signal.SIGTERM)
    out, err = child.finish()
    assert (out, err, child.code) == ("", "", 143)


@pytest.mark.parametrize(
    ("made", "call"),
    [
        ("producer('orders', int)", "send(1)"),
        ("producer('orders', int)", "send_many([1, 2])"),
        ("publisher('orders', int)", "publish(1)"),
        ("publisher('orders', int)", "publish_many([1, 2])"),
    ],
)
@pytest.mark.parametrize("script", [blocking, awaiting])
def test_sends_end_a_program_that_never_waits(start: Any, script: Any, made: str, call: str) -> None:
    """A program that only sends is not interrupted, and comes to its end at its next send."""
    wait = "await " if script is awaiting else ""
    body = f"""
handle = node.{made}
{wait}handle.{call}
print("ready", flush=True)
sys.stdin.readline()
print("not interrupted", flush=True)
{wait}handle.{call}
print("never here", flush=True)
"""
    child = start(script(body, ", options=Options(drain_timeout=0.1)"))
    assert child.line() == "ready"
    child.signal(signal.SIGTERM)
    tell(child)
    out, err = child.finish()
    assert (out, child.code) == ("not interrupted\n", 143), err
    assert "Traceback" not in err


def test_send_many_that_is_ended_says_how_many(start: Any) -> None:
    """`accepted` is right after a signal as after any interrupt."""
    with Node("kitchen") as kitchen:
        child = start(
            blocking("""
orders = node.producer("orders", int, buffer_bytes=1000)
say_when(lambda: waiters(node))
try:
    orders.send_many(range(1000))
except SystemExit as error:
    print(error.accepted, flush=True)
""")
        )
        assert child.line() == "ready"
        child.signal(signal.SIGTERM)
        accepted = int(child.line())
        taken = []
        for message in kitchen.consumer("orders", int):
            with message as order:
                taken.append(order)
            if len(taken) == accepted:
                break
        _, err = child.finish()
        assert (taken, err, child.code) == (list(range(accepted)), "", 143)


# Handlers, threads, tasks


def test_handlers_finish(start: Any) -> None:
    """The one that runs as the signal comes sends its result and waits for it, and its message is acked."""
    with Node("shop") as shop:
        orders, results = shop.producer("orders", int), shop.consumer("results", int)
        child = start(
            blocking(
                """
results = node.producer("results", int)

@node.on_message("orders")
def cook(order: int) -> None:
    print("started", flush=True)
    sys.stdin.readline()
    results.send(order * 2, confirm="delivered", timeout=20)

try:
    node.consumer("others", int).get()
finally:
    print("ended", flush=True)
""",
                ", options=Options(drain_timeout=20)",
            )
        )
        orders.send(21)
        assert child.line() == "started"
        child.signal(signal.SIGTERM)
        assert child.line() == "ended"
        tell(child)
        with results.get(timeout=20) as result:
            assert result == 42
        out, err = child.finish()
        assert (out, err, child.code) == ("", "", 143)
        orders.flush(timeout=20)
        assert shop.statistics().producers[0].acked == 1


def test_threads_that_wait_end_too(start: Any) -> None:
    """Loops end, and calls raise SystemExit, which ends a thread in silence; the main thread need only join them."""
    child = start(
        blocking("""
consumer, subscriber, orders = node.consumer("a", int), node.subscriber("b", int), node.producer("c", int)

def loop():
    for message in consumer:
        pass
    sys.stdout.write("over ")

def call(wait):
    try:
        wait()
    finally:
        sys.stdout.write("over ")

threads = [threading.Thread(target=loop)]
threads += [threading.Thread(target=call, args=(wait,)) for wait in (subscriber.get, orders.ready)]
for thread in threads:
    thread.start()
say_when(lambda: waiters(node) == 3)
for thread in threads:
    thread.join()
print("joined", flush=True)
""")
    )
    assert child.line() == "ready"
    child.signal(signal.SIGTERM)
    out, err = child.finish()
    assert (out.split(), err, child.code) == (["over", "over", "over", "joined"], "", 143)


@BOTH
@pytest.mark.parametrize(
    "wait",
    [
        "async with asyncio.TaskGroup() as group:\n    for work in works:\n        group.create_task(work)",
        "await asyncio.gather(*works)",
        "await asyncio.wait([asyncio.create_task(work) for work in works])",
    ],
    ids=["group", "gather", "wait"],
)
def test_tasks_that_wait_end_too(start: Any, wait: str, number: int) -> None:
    """Loops in tasks end, and calls are as if their task was cancelled; the node is closed, and all of it is silent."""
    child = start(
        awaiting(
            """
consumer, subscriber, orders = node.consumer("a", int), node.subscriber("b", int), node.producer("c", int)

async def loop():
    async for message in consumer:
        pass
    sys.stdout.write("over ")

async def call(wait):
    try:
        await wait()
    finally:
        sys.stdout.write("over ")

works = [loop(), call(subscriber.get), call(orders.ready)]
say_when(lambda: waiters(node) == 3)
"""
            + wait
        )
    )
    assert child.line() == "ready"
    child.signal(number)
    out, err = child.finish()
    assert (out.split(), err, child.code) == (["over"] * 3, "", 128 + number)
