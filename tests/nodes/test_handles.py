"""The handles of a node, seen by its other rooms while threads make more of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peerfabric import AsyncNode, ConfigError, Node, NodeClosed, Undelivered
from peerfabric.errors import BadFrame
from peerfabric.nodes.aio.consumer import AsyncConsumer
from peerfabric.nodes.aio.producer import AsyncProducer
from peerfabric.nodes.context import Life
from peerfabric.nodes.storage.ledger_store import LedgerStore
from peerfabric.wire.frames import NAMES_MAX, Interest, decode_frame, encode_frame
from tests.nodes.conftest import DEADLINE, eventually


def lifecycle(front: Any, node: Any) -> Any:
    """All that `node` is made of."""
    return (node.target if front.is_async else node._async)._lifecycle


class Adding:
    """In the place of a handle: with each question to it, another handle comes, as another thread might make it."""

    def __init__(self, handles: dict[str, Any]) -> None:
        self._handles = handles

    def __getattr__(self, name: str) -> Any:
        self._handles[f"more.{len(self._handles)}"] = self._handles["real"]
        if name in ("ledger_store", "end"):
            return None
        return (lambda: None) if name in ("disk_ended", "close_ledger", "seal") else False


@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        ("consumer", lambda node: node.handles.have_ledger()),
        ("consumer", lambda node: node._recorded()),
        ("consumer", lambda node: node._let_go()),
        ("producer", lambda node: node._handed_over()),
        ("producer", lambda node: node._end_disk()),
    ],
)
def test_handles_that_come_while_others_are_asked(front: Any, kind: str, ask: Callable[[Any], object]) -> None:
    """The question is answered for those that were there."""
    with front.node() as node:
        getattr(node, kind)("real", int)
        found = lifecycle(front, node)
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
    node: Any = front.node()
    own = node.target if front.is_async else node  # without the detour through the event loop

    on_message: Callable[..., Callable[[Callable[[int], None]], Any]] = node.on_message

    @on_message("orders")
    def make(_: int) -> None:
        working.set()
        for n in range(4_000):
            if closed.is_set():
                return
            own.producer(f"more.{n}", int) if n % 2 else own.consumer(f"more.{n}", int)
            time.sleep(0)
        closed.wait(DEADLINE)

    for n in range(5):
        node.producer(f"orders.{n}", int)
    node.producer("orders", int).send(1)
    eventually(working.is_set)
    try:
        with pytest.raises(Undelivered):
            node.close(0.1)
    finally:
        closed.set()


@pytest.mark.usefixtures("runtime")
def test_a_ledger_that_is_opened_while_its_node_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a handler that outlives the drain: close waits for it, and gives the ledger up."""
    working, opening, go_on = threading.Event(), threading.Event(), threading.Event()
    open_keeper = LedgerStore.open

    def slow(ledger_store: LedgerStore) -> None:
        opening.set()
        assert go_on.wait(DEADLINE)
        open_keeper(ledger_store)

    node = Node("shop")

    on_message: Callable[..., Callable[[Callable[[int], None]], Any]] = node.on_message

    @on_message("orders")
    def make(_: int) -> None:
        working.set()
        eventually(lambda: node._async._context.life is Life.CLOSING)
        node.consumer("late", int, ledger=tmp_path / "ledger")

    def close() -> None:
        with suppress(Undelivered):  # the handler may end in time for its ack to count
            node.close(0.2)

    with monkeypatch.context() as patch:
        patch.setattr(LedgerStore, "open", slow)
        node.producer("orders", int).send(1)
        assert working.wait(DEADLINE)
        closing = threading.Thread(target=close)
        closing.start()
        assert opening.wait(DEADLINE)
        closing.join(1.0)
        go_on.set()
        closing.join(DEADLINE)
    with Node("other") as other:
        other.consumer("late", int, ledger=tmp_path / "ledger")


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("kind", ["producer", "consumer"])
def test_a_thread_of_an_async_node_makes_a_handle_with_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It is opened by the first call that is awaited; the loop never waits for the thread."""
    tmp_path.chmod(0o700)
    entered, go_on = threading.Event(), threading.Event()
    for owner, name in (
        ("peerfabric.nodes.aio.handles", "open_store"),
        ("peerfabric.nodes.storage.ledger_store", "Ledger"),
    ):
        module = __import__(owner, fromlist=[name])
        call = getattr(module, name)

        def slow(*arguments: Any, call: Callable[..., Any] = call, **options: Any) -> Any:
            entered.set()
            assert go_on.wait(DEADLINE)
            return call(*arguments, **options)

        monkeypatch.setattr(module, name, slow)

    async def story() -> None:
        go_on.set()
        async with AsyncNode("shop", spool=tmp_path / "spool") as node:
            go_on.clear()
            entered.clear()
            made: list[Any] = []

            @node.on_message("orders")
            def make(_: int) -> None:
                if kind == "producer":
                    made.append(node.producer("late", int))
                else:
                    made.append(node.consumer("late", int, ledger=tmp_path / "ledger"))

            await node.producer("orders", int, spool=False).send(1)
            rescue = threading.Timer(DEADLINE, go_on.set)  # a loop that is kept could not set it
            rescue.start()
            while not made:
                assert not entered.is_set(), "it is opened under the life lock"
                await asyncio.sleep(0.001)
            late = asyncio.create_task(made[0].send(1) if kind == "producer" else made[0].get())
            await asyncio.to_thread(entered.wait, DEADLINE)
            node.consumer("another", int)
            assert not go_on.is_set(), "the loop was kept waiting"
            rescue.cancel()
            rescue.join()
            go_on.set()
            if kind == "consumer":
                await node.producer("late", int, spool=False).send(1)
            result = await late
            if kind == "consumer":
                result.ack()
                await node.producer("late", int, spool=False).flush(timeout=DEADLINE)
            else:
                (await node.consumer("late", int).get(timeout=DEADLINE)).ack()
                await made[0].flush(timeout=DEADLINE)

    asyncio.run(story())


def test_names_have_a_limit(front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind; those that are there go on, and one that was closed makes room."""
    monkeypatch.setattr("peerfabric.nodes.aio.handles.NAMES_MAX", 3)
    with front.node() as node:
        for kind in ("producer", "consumer", "publisher", "subscriber"):
            make = getattr(node, kind)
            for n in range(3):
                make(f"name.{n}", int)
            with pytest.raises(ConfigError, match=f"has 3 {kind}s, the most .* or use another node"):
                make("name.3", int)
            make("name.2", int)
        publisher, subscriber = node.publisher("name.0", int), node.subscriber("name.1", int)
        publisher.publish(1, topic="name.1")
        with pytest.raises(ConfigError, match="has 3 publishers"):
            publisher.publish(1, topic="name.3")
        assert subscriber.get(timeout=DEADLINE).body == 1
        subscriber.close()
        node.subscriber("name.3", int)


def test_closed_consumers_make_room(front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing of them is undecided. Who still has one of them has one that is closed; its name has another."""
    monkeypatch.setattr("peerfabric.nodes.aio.handles.NAMES_MAX", 3)
    with front.node("kitchen") as kitchen, front.node("shop") as shop:
        held, first = kitchen.consumer("held", int), kitchen.consumer("name.0", int)
        shop.producer("held", int).send(1)
        message = held.get(timeout=DEADLINE)
        held.close()
        first.close()
        for n in range(1, 10):
            kitchen.consumer(f"name.{n}", int).close()
        again, other = kitchen.consumer("name.0", int), kitchen.consumer("other", int)
        first.close()
        with pytest.raises(NodeClosed):
            first.get(timeout=0)
        for consumer in (again, other):
            producer = shop.producer(consumer.queue, int)
            producer.send(7)
            consumer.get(timeout=DEADLINE).ack()
            producer.flush(timeout=DEADLINE)
        with pytest.raises(ConfigError, match="has 3 consumers"):
            kitchen.consumer("name.3", int)
        message.ack()
        shop.producer("held", int).flush(timeout=DEADLINE)
        assert len(kitchen.statistics().consumers) == 3


def test_the_limit_is_what_peers_accept() -> None:
    """One name more, and they refuse the whole frame, in which the queues are, too."""
    names = [f"name.{n}" for n in range(NAMES_MAX + 1)]
    decode_frame(encode_frame(Interest(b"linkname", 1, 1, 1, [], [], [], names[:-1])))
    with pytest.raises(BadFrame):
        decode_frame(encode_frame(Interest(b"linkname", 1, 1, 1, [], [], [], names)))


def test_options_that_cannot_be(front: Any, tmp_path: Path) -> None:
    """Each is refused when the handle is made, before the node starts, and nothing is made."""
    plain, spooled = front.node(), front.node(spool=tmp_path / "spool")
    for node, options, text in (
        (plain, {"fsync": True}, "needs a spool to sync"),
        (spooled, {"fsync": True}, "needs a spool that syncs"),
        (plain, {"on_full": "spool"}, "needs a spool; give"),
        (plain, {"max_attempts": 0}, "must be positive"),
    ):
        with pytest.raises(ConfigError, match=text):
            node.producer("orders", int, **options)
    for lease in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="give a positive number of seconds"):
            plain.consumer("orders", int, lease=lease)
    with pytest.raises(ConfigError, match="must be positive"):
        plain.subscriber("prices", int, buffer_bytes=0)
    assert [list(lifecycle(front, node).handles) for node in (plain, spooled)] == [[], []]


class Order(msgspec.Struct):
    number: int


class Plain:
    """A class that says nothing of its fields."""


def wrong_options(node: Any) -> list[tuple[Callable[[], Any], str]]:
    """Calls that make a handle, with arguments of another type than they are annotated with."""
    return [
        (lambda: node.producer(Order, "orders"), r"the name comes before the type; write producer\('orders', Order\)"),
        (lambda: node.consumer(list[Order], "orders"), r"write consumer\('orders', list\[.*Order\]\)"),
        (lambda: node.publisher(int, "prices"), r"write publisher\('prices', int\)"),
        (lambda: node.subscriber(int, "prices.*"), r"write subscriber\('prices\.\*', int\)"),
        (lambda: node.producer(b"orders", Order), "is bytes, not str"),
        (lambda: node.producer("orders", "Order"), "'Order' is text and no body type"),
        (lambda: node.consumer("orders", Order(1)), "an object of class Order is no body type; give a class"),
        (lambda: node.publisher("prices", [int]), "an object of class list is no body type"),
        (lambda: node.subscriber("prices", Plain), "no way to encode and decode Plain"),
        (lambda: node.producer("orders", dict[str, Plain]), "no way to encode and decode Plain"),
        (lambda: node.producer("orders", int, buffer_bytes="64"), "it must be positive; the default is"),
        (lambda: node.producer("orders", int, buffer_bytes=6.4e7), "it must be positive; the default is"),
        (lambda: node.producer("orders", int, max_attempts=True), "it must be positive; the default is"),
        (lambda: node.producer("orders", int, max_attempts=None), "it must be positive; the default is"),
        (lambda: node.producer("orders", int, on_full=None), "on_full=None; use 'block'"),
        (lambda: node.producer("orders", int, on_full=["block"]), r"on_full=\['block'\]; use 'block'"),
        (lambda: node.producer("orders", int, spool="folder"), r"spool='folder' .*; paths are given as Node\(spool="),
        (lambda: node.producer("orders", int, fsync="yes"), "fsync='yes' of a producer is None, True or False"),
        (lambda: node.consumer("orders", int, lease="300"), "lease='300' is not a number of seconds; give a positive"),
        (lambda: node.consumer("orders", int, lease=timedelta(seconds=3)), "lease=.* is not a number of seconds"),
        (lambda: node.consumer("orders", int, lease=True), "lease=True is not a number of seconds"),
        (lambda: node.consumer("orders", int, ledger=True), "ledger=True is no file; give a path"),
        (lambda: node.consumer("orders", int, ledger=b"file"), "ledger=b'file' is no file; give a path"),
        (lambda: node.consumer("orders", int, ledger=""), "ledger='' is no file; give a path"),
        (lambda: node.subscriber("prices", int, buffer_bytes=None), "buffer_bytes=None is not a whole number"),
        (
            lambda: node.on_message("orders", concurrency="4")(handle),
            "concurrency='4' is not a whole number; give how many",
        ),
        (
            lambda: node.on_message("orders", concurrency=True)(handle),
            "concurrency=True is not a whole number; give how many",
        ),
        (
            lambda: node.on_message("orders", concurrency=1.5)(handle),
            "concurrency=1.5 is not a whole number; give how many",
        ),
        (lambda: node.on_message("or ders")(handle), "use letters"),
    ]


def handle(order: Order) -> None:
    """A handler like any other."""


def test_arguments_of_another_type(front: Any) -> None:
    """Each is a ConfigError that names it, when the handle is made and before the node starts; nothing is made."""
    node = front.node()
    for make, text in wrong_options(node):
        with pytest.raises(ConfigError, match=text):
            make()
    assert list(lifecycle(front, node).handles) == []


def test_decorators_without_their_call(front: Any) -> None:
    """The function would be taken for a name, and its name would then stand for something that is no function."""
    node = front.node()
    for decorator, text in ((node.on_message, "on_message"), (node.on_topic, "on_topic")):
        with pytest.raises(TypeError, match=f"write @node.{text}"):
            decorator(handle)


@pytest.mark.parametrize("body_type", [Plain, list[Plain]])
def test_a_ledger_of_a_consumer_that_cannot_be(front: Any, tmp_path: Path, body_type: Any) -> None:
    """It is not opened for a type that is refused, and the next consumer has it."""
    with front.node() as node:
        with pytest.raises(ConfigError, match="no way to encode and decode Plain"):
            node.consumer("orders", body_type, ledger=tmp_path / "ledger")
        assert not (tmp_path / "ledger").exists()
        node.producer("orders", int).send(1)
        with node.consumer("orders", int, ledger=tmp_path / "ledger").get(timeout=DEADLINE) as body:
            assert body == 1


def test_receipts_that_are_none(front: Any) -> None:
    """A handle of another queue, an id or nothing is no receipt."""
    with pytest.raises(TypeError, match="is no receipt"):
        front.node().producer("orders", int).state(None)
    with front.node() as node:
        producer = node.producer("orders", int)
        for wrong in ("node:1:orders/1", None, producer):
            with pytest.raises(TypeError, match="is no receipt; give what send"):
                producer.state(wrong)
            with pytest.raises(TypeError, match="is no receipt; give what send"):
                producer.wait(wrong, "processed", timeout=1)


def test_a_queue_that_the_spool_has_from_before(front: Any, tmp_path: Path) -> None:
    """Of a node that runs, too, it cannot be had without the spool."""
    with front.node("shop", spool=tmp_path / "spool") as node:
        node.producer("orders", int).send(1)
    with front.node("shop", spool=tmp_path / "spool") as node:
        with pytest.raises(ConfigError, match="the spool keeps queue 'orders'"):
            node.producer("orders", int, spool=False)
        with node.consumer("orders", int).get(timeout=DEADLINE) as body:
            assert body == 1


@pytest.mark.usefixtures("runtime")
def test_what_the_closing_thread_has_in_hand(caplog: pytest.LogCaptureFixture) -> None:
    """It goes back to its producer at once, and the log says how to settle it."""
    with Node() as a:
        producer = a.producer("orders", int)
        producer.send(1)
        b = Node()
        taken = b.consumer("orders", int).get(timeout=DEADLINE)
        b.close(DEADLINE)
        assert "1 message taken and not settled, given back to the producer" in caplog.text
        with a.consumer("orders", int).get(timeout=DEADLINE) as body:
            assert body == taken.body
