"""Nodes with handlers that nobody has started: others of the process say so, and so does the end of the program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from peerfabric import Node, NotConfirmed, Options, Service, TimedOut
from peerfabric.nodes import unstarted
from peerfabric.testing import Fabric
from tests.nodes.conftest import DEADLINE

HINT = "; node 'mid' was made here and not started: use its run() or `with`"
PRICES = Service("prices", int, int)


def mid() -> Node:
    """A node with handlers."""
    node = Node("mid")

    @node.on_message("orders")
    def take(order: int) -> None:
        pass

    @node.serve(PRICES)
    def price(article: int) -> int:
        return article

    return node


def flush(node: Node) -> None:
    orders = node.producer("orders", int)
    orders.send(1)
    orders.flush(timeout=0.1)


CALLS: dict[str, tuple[type[Exception], Callable[[Node], Any]]] = {
    "ready": (TimedOut, lambda node: node.producer("orders", int).ready(timeout=0.1)),
    "flush": (TimedOut, flush),
    "confirm": (NotConfirmed, lambda node: node.producer("orders", int).send(1, confirm="processed", timeout=0.1)),
    "request": (TimedOut, lambda node: node.request(PRICES, 1, timeout=0.1)),
}


def test_another_fabric_is_no_hint(runtime: object) -> None:
    """A node of it would not be found, were it started."""
    made = mid()
    with Node("front", fabric="another") as node:
        assert unstarted.hint(node._async._context, queue="orders") == ""
        assert unstarted.hint(made._async._context, queue="orders").startswith(HINT)
        assert unstarted.hint(made._async._context, queue="others") == ""


@pytest.mark.parametrize("call", CALLS)
def test_errors_of_others_hint_at_it(runtime: object, call: str) -> None:
    """Where nobody consumes, or serves, and a node of the process would, were it started; not once it is."""
    kind, ask = CALLS[call]
    made = mid()
    with Node("front", options=Options(drain_timeout=0.0)) as node:
        with pytest.raises(kind) as failed:
            ask(node)
        assert HINT in str(failed.value)
        with made:
            node.producer("orders", int).ready(timeout=DEADLINE)
            assert unstarted.hint(node._async._context, queue="orders") == ""
            node.producer("orders", int).flush(timeout=DEADLINE)


def test_a_lonely_confirmation_says_that_it_is(runtime: object) -> None:
    """Also where nothing of this process would help; not if somebody consumes."""
    with Node("front", options=Options(drain_timeout=0.0)) as node:
        orders = node.producer("orders", int)
        text = r"not processed within 0\.1 s: no consumer of queue 'orders' is known; start one; the mess"
        with pytest.raises(NotConfirmed, match=text):
            orders.send(1, confirm="processed", timeout=0.1)
        consumer = node.consumer("orders", int)
        with consumer.get(timeout=DEADLINE), pytest.raises(NotConfirmed, match=r"within 0\.1 s; the message is acc"):
            orders.send(2, confirm="processed", timeout=0.1)
        with consumer.get(timeout=DEADLINE) as order:
            assert order == 2


def test_settled_in_a_test_hints_at_it() -> None:
    with Fabric() as fabric:
        made = mid()
        with Node("front", options=Options(drain_timeout=0.0)) as node:
            node.producer("orders", int).send(1)
            with pytest.raises(TimedOut) as failed:
                fabric.settled(timeout=0.1)
            assert f"1 message of front, 0 consumers{HINT}" in str(failed.value)
            fabric.restart(made)
            fabric.settled(timeout=DEADLINE)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("pass", True),
        ("node.peers(); node.close()", False),
        ("node.close()", False),
        ("import os; child = os.fork(); child or os._exit(0); os.waitpid(child, 0)", False),
        ("import subprocess; subprocess.run(['true'])", True),
    ],
)
def test_the_end_of_the_program_tells(use: str, told: bool) -> None:
    """Of a node with handlers that was never started, unless it was closed on purpose, or made for forked workers."""
    program = f"""
from peerfabric import Node
node, quiet = Node("mid"), Node("quiet")
@node.on_message("orders")
def take(order: int) -> None: pass
{use}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=True)
    text = "node mid was never started, and so its handlers were never called (take): use its run() or `with`"
    assert (text in done.stderr, "quiet" in done.stderr) == (told, False)
