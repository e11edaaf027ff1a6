"""The handles of a node, seen by its other rooms while threads make more of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from peerfabric import Undelivered
from peerfabric.nodes.async_consumer import AsyncConsumer
from peerfabric.nodes.async_producer import AsyncProducer
from tests.nodes.conftest import eventually


def inner(front: Any, node: Any) -> Any:
    """What the handles and the rooms of `node` share."""
    return (node.target if front.is_async else node._async)._inner


class Adding:
    """In the place of a handle: with each question to it, another handle comes, as another thread might make it."""

    def __init__(self, handles: dict[str, Any]) -> None:
        self._handles = handles

    def __getattr__(self, name: str) -> Any:
        self._handles[f"more.{len(self._handles)}"] = self._handles["real"]
        return None if name == "keeper" else (lambda: None) if name in ("disk_ended", "close_ledger") else False


@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        ("consumer", lambda node: node.handles.have_ledger()),
        ("consumer", lambda node: node.closing._recorded()),
        ("consumer", lambda node: node.closing._let_go()),
        ("producer", lambda node: node.closing._handed_over()),
        ("producer", lambda node: node.closing._end_disk()),
    ],
)
def test_handles_that_come_while_others_are_asked(front: Any, kind: str, ask: Callable[[Any], object]) -> None:
    """The question is answered for those that were there."""
    with front.node() as node:
        getattr(node, kind)("real", int)
        found = inner(front, node)
        handles = getattr(found.handles, f"{kind}s")
        handles["adding"] = Adding(handles)
        try:
            ask(found)
        finally:
            for name in set(handles) - {"real"}:
                del handles[name]


def test_a_handler_that_makes_handles_while_its_node_closes(front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlives the drain, and the node closes all the same."""
    for kind, name in ((AsyncConsumer, "recording"), (AsyncProducer, "storing")):

        def switching(_: Any) -> bool:
            time.sleep(0.001)  # long enough for the handler to make another one
            return False

        monkeypatch.setattr(kind, name, property(switching))
    working, closed = threading.Event(), threading.Event()
    node = front.node()
    own = node.target if front.is_async else node  # without the detour through the event loop

    @node.on_message("orders")
    def make(_: int) -> None:
        working.set()
        for n in range(100_000):
            if closed.is_set():
                return
            own.producer(f"more.{n}", int) if n % 2 else own.consumer(f"more.{n}", int)
            time.sleep(0)

    for n in range(5):
        node.producer(f"orders.{n}", int)
    node.producer("orders", int).send(1)
    eventually(working.is_set)
    try:
        with pytest.raises(Undelivered):
            node.close(0.1)
    finally:
        closed.set()
