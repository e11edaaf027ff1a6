"""Calls that end from outside: signals, forks, a program that is over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peerfabric import Node, ServerLost, Service
from peerfabric.nodes.io.waiting import ThreadWaiter
from tests.nodes.conftest import DEADLINE, Child
from tests.nodes.scripts import BOTH, blocking

COUNT = Service("count", int, int, stream=True, idempotent=True)

SERVER = """
begun, told = threading.Event(), threading.Event()
server = Node("server")

@server.serve("slow")
def slow(number: int, call: Call) -> int:
    if number == 0:
        return 1
    begun.set()
    while not call.cancelled:
        time.sleep(0.005)
    told.set()
    return 0

server.peers()
say_when(begun.is_set)
"""

ASKS = f"""
{SERVER}
try:
    node.client(Service("slow", int, int)).ready(timeout=30)
    node.request("slow", 1, reply_type=int, timeout=60)
finally:
    print(told.wait(30), flush=True)
    server.close()
"""

INTERRUPTED = f"""
import asyncio, os, signal, sys, threading, time
from peerfabric import *

def say_when(condition):
    def watch():
        while not condition():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=watch, daemon=True).start()

with Node("it") as node:
{chr(10).join("    " + line for line in SERVER.splitlines())}
    node.client(Service("slow", int, int)).ready(timeout=30)
    try:
        node.request("slow", 1, reply_type=int, timeout=60)
    except KeyboardInterrupt:
        print("interrupted")
    print(told.wait(30), node.request("slow", 0, reply_type=int, timeout=30), node.statistics().calls.open)
    server.close()
"""

FORKS = """
import os, sys
from peerfabric import *

with Node("it") as node:
    @node.serve("echo")
    def echo(number: int) -> int:
        return number

    assert node.request("echo", 3, reply_type=int) == 3
    child = os.fork()
    if not child:
        try:
            node.request("echo", 3, reply_type=int)
        except ForkedNode:
            os._exit(7)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), node.request("echo", 4, reply_type=int))
"""

COUNTS = """
import threading
from collections.abc import Iterator
from peerfabric import *

node = Node("first")

@node.serve(Service("count", int, int, stream=True, idempotent=True))
def count(before: int) -> Iterator[int]:
    yield from range(before)
    print("begun", flush=True)
    threading.Event().wait()
    yield 0

node.run()
"""

FORGOTTEN = """
import threading
from peerfabric import *

node = Node("it")

@node.serve("echo")
def echo(number: int) -> int:
    return number

print(node.request("echo", 3, reply_type=int))
"""


@BOTH
def test_a_signal_ends_a_call(start: Callable[..., Child], number: signal.Signals) -> None:
    """The call that waits ends as the program does, and its server hears of it."""
    child = start(blocking(ASKS))
    assert child.line() == "ready"
    child.signal(number)
    out, error = child.finish()
    assert (out.strip(), "Traceback" in error, child.code) == ("True", False, 128 + number), error


def test_an_interrupted_call(start: Callable[..., Child]) -> None:
    """Ctrl-C ends the call only: its server hears of it, and the node goes on."""
    out, error = start(INTERRUPTED).finish()
    assert (out.splitlines(), error) == (["interrupted", "True 1 0"], "")


def test_a_forked_child_does_not_ask(start: Callable[..., Child]) -> None:
    """It is told to make a node of its own; the parent goes on."""
    out, error = start(FORKS).finish()
    assert (out, error) == ("7 4\n", "")


def test_a_stream_whose_server_is_killed(start: Callable[..., Child]) -> None:
    """One that has begun is over, and says so."""
    child = start(COUNTS)
    with Node("asker") as asker:
        asker.client(COUNT).ready(timeout=DEADLINE)
        parts = asker.stream(COUNT, 2, timeout=DEADLINE)
        assert [next(parts), next(parts), child.line()] == [0, 1, "begun"]
        child.signal(signal.SIGKILL)
        with pytest.raises(ServerLost) as caught:
            next(parts)
        assert caught.value.parts == 2
        again = "a stream that has begun is not tried again: ask anew, for what is missing if the service can"
        assert str(caught.value) == f"service 'count': first was lost after 2 parts; {again}"
        assert next(parts, None) is None


def test_a_stream_whose_server_is_killed_before_its_first_part(start: Callable[..., Child]) -> None:
    """One that may run twice is asked of another server."""
    child = start(COUNTS)
    with Node("asker") as asker:
        asker.client(COUNT).ready(timeout=DEADLINE)
        seen: list[int] = []
        asking = threading.Thread(target=lambda: seen.extend(asker.stream(COUNT, 0, timeout=DEADLINE)))
        asking.start()
        assert child.line() == "begun"
        with Node("second") as second:

            @second.serve(COUNT)
            def count(before: int) -> Iterator[int]:
                yield 7

            asker.client(COUNT).ready(servers=2, timeout=DEADLINE)
            child.signal(signal.SIGKILL)
            asking.join()
        assert seen == [7]


def test_a_signal_wakes_whoever_waits_for_the_pump(runtime: Path) -> None:
    """As `ready` does: it looks at once whether it is to end, and not when the pump happens to turn."""
    with Node("it") as node:
        lifecycle = node._async._lifecycle
        pump, waiter = lifecycle.node.pump, ThreadWaiter()
        with pump.lock:  # it does not turn
            pump.turned.enter(waiter)
            lifecycle.node.ending._wake()
            assert waiter.wait(0)
        pump.turned.leave(waiter)


def test_a_node_that_was_not_closed(start: Callable[..., Child]) -> None:
    """It is closed at the end of the program, which does not wait for threads that wait for calls."""
    child = start(FORGOTTEN)
    out, _ = child.finish()
    assert (out, child.code) == ("3\n", 0)
