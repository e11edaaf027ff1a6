"""The end of a program whose nodes were not closed, or are used when it is too late."""

from __future__ import annotations

from typing import Any

import pytest

from peerfabric import Node
from tests.nodes.conftest import DEADLINE

BLOCKING = """
from peerfabric import *
for name in ("first", "second"):
    Node(name).producer("orders", int).send_many(range(1000))
"""
AWAITED = """
import asyncio
from peerfabric import *
async def main():
    for name in ("first", "second"):
        await AsyncNode(name).producer("orders", int).send_many(range(1000))
asyncio.run(main())
"""


@pytest.mark.parametrize("body", [BLOCKING, AWAITED], ids=["blocking", "async"])
def test_nodes_are_drained_before_a_warning_becomes_an_error(start: Any, body: str) -> None:
    """With `python -W error` the warning of one node takes nothing from it, nor from the others."""
    with Node() as kitchen:
        consumer = kitchen.consumer("orders", int)
        child = start(body, PYTHONWARNINGS="error")
        seen: list[int] = []
        while len(seen) < 2000:
            with consumer.get(timeout=DEADLINE) as number:
                seen.append(number)
        _, err = child.finish()
        assert sorted(seen) == sorted([*range(1000), *range(1000)])
        assert "ResourceWarning: <" in err
        assert "was not closed" in err


FIRST_USE = """
import asyncio, atexit, sys, tempfile
{before}

def late():
    from peerfabric import AsyncNode, Node, NodeClosed
    async def awaited(node):
        await node.producer("orders", int).send(1)
    for options in ({{}}, {{"spool": tempfile.mkdtemp()}}):
        try:
            {use}
        except NodeClosed as error:
            print(error)

atexit.register(late)
{after}
"""


@pytest.mark.parametrize(
    "use",
    [
        'print("accepted", Node(**options).producer("orders", int).send(1))',
        'print("accepted", asyncio.run(awaited(AsyncNode(**options))))',
    ],
    ids=["blocking", "async"],
)
@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("from peerfabric import Node", ""), ("", "from peerfabric import Node")],
    ids=["imported there", "imported before", "imported after"],
)
def test_a_node_that_is_first_used_at_exit_is_refused(start: Any, use: str, before: str, after: str) -> None:
    """Nobody would drain it, or not on each version of Python: it does not start, and the error says what to do."""
    child = start(FIRST_USE.format(use=use, before=before, after=after))
    out, err = child.finish()
    assert out.count("use the node before the program ends") == 2, out + err
    assert "accepted" not in out
    assert (child.code, err) == (0, "")


def test_a_node_that_runs_is_used_at_exit(start: Any) -> None:
    """A callback that was registered later than peerfabric was imported comes before the drain, and may send."""
    with Node() as kitchen:
        consumer = kitchen.consumer("orders", int)
        child = start(
            """
            import atexit
            from peerfabric import Node
            orders = Node("shop").producer("orders", int)
            atexit.register(lambda: orders.send(2))
            orders.send(1)
            """
        )
        for expected in (1, 2):
            with consumer.get(timeout=DEADLINE) as body:
                assert body == expected
        _, err = child.finish()
        assert (child.code, err) == (0, "")


def test_a_thread_that_outlives_the_main_thread_may_use_a_node(start: Any) -> None:
    """It is waited for, and its node is drained after it; where Python starts no threads then, the error says so."""
    child = start(
        """
        import threading
        from peerfabric import Node, NodeClosed

        def work():
            threading.main_thread().join()
            try:
                node = Node("shop")
                orders, consumer = node.producer("orders", int), node.consumer("orders", int)
                orders.send(1)
                with consumer.get(timeout=30) as body:
                    print("worked", body)
                node.close()
            except NodeClosed as error:
                print("refused", error)

        threading.Thread(target=work).start()
        """
    )
    out, err = child.finish()
    assert out.startswith(("worked 1", "refused this program is ending")), out + err
    assert err == ""
