"""Fabric of a test: nobody else's, ended with the test, and what a test does to nodes in it."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from peerfabric import AsyncNode, Message, Node, NodeClosed, Service, TimedOut, Undelivered
from peerfabric.spool import Spool
from peerfabric.testing import Fabric
from tests.nodes.conftest import DEADLINE, eventually, open_descriptors

PRICE = Service("price", str, float)


@pytest.fixture(name="fabric")
def _fabric() -> Iterator[Fabric]:
    with Fabric() as fabric:
        yield fabric


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own surroundings reaches a node, and all of it is there again afterwards."""
    mine = {"PEERFABRIC_FABRIC": "mine", "PEERFABRIC_SPOOL": "/nowhere", "PEERFABRIC_ADMIN": "off"}
    for name in [name for name in os.environ if name.startswith("PEERFABRIC_")]:
        monkeypatch.delenv(name)
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    with Fabric() as fabric:
        found = {name: value for name, value in os.environ.items() if name.startswith("PEERFABRIC_")}
        root = fabric.folder.parent
        assert found.keys() == {"PEERFABRIC_FABRIC", "PEERFABRIC_RUNTIME", "PEERFABRIC_ADMIN"}
        assert (found["PEERFABRIC_FABRIC"], Node().fabric) == (fabric.name, fabric.name)
        assert Path(found["PEERFABRIC_RUNTIME"]).parent == root
        assert list(fabric.folder.iterdir()) == []
    assert {name: value for name, value in os.environ.items() if name.startswith("PEERFABRIC_")} == mine
    assert not root.exists()


def test_nothing_is_left() -> None:
    """Nodes that a test leaves open are closed, hanging ones and spools included."""
    with Fabric(), Node():  # what stays of the first node of a process
        pass
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    with Fabric() as fabric:
        shop, kitchen = Node("shop", spool=fabric.folder / "spool"), Node("kitchen")

        @kitchen.on_message("orders")
        def cook(order: str) -> None:
            pass

        orders = shop.producer("orders", str)
        kitchen.peers()
        orders.ready(timeout=DEADLINE)
        orders.send("tea")
        fabric.settled()
        fabric.hang(kitchen)
        orders.send("jam")
        fabric.kill(shop)
        fabric.restart(shop)
    gc.collect()
    eventually(lambda: set(threading.enumerate()) <= threads, f"the end of {set(threading.enumerate()) - threads}")
    eventually(lambda: len(open_descriptors()) <= len(descriptors), "the end of all descriptors")
    with pytest.raises(NodeClosed):
        orders.send("pie")


def test_sent(fabric: Fabric) -> None:
    """What was accepted is there at once, of its type and in order, whatever became of it."""
    with Node("shop", spool=fabric.folder / "spool") as shop, Node("memory") as memory:
        orders, raw = shop.producer("orders", tuple[int, str]), memory.producer("raw", bytes)
        assert fabric.sent("orders") == []
        orders.send((1, "tea"), headers={"a": "b"})
        orders.send_many([(2, "jam"), (3, "pie")], ttl=60)
        raw.send_many([b"a", b"\x00b"])
        assert fabric.sent("orders") == [(1, "tea"), (2, "jam"), (3, "pie")]
        assert fabric.sent("raw") == [b"a", b"\x00b"]
        with Node("kitchen") as kitchen:
            for _ in range(3):
                kitchen.consumer("orders", tuple[int, str]).get(timeout=DEADLINE).ack()
            for _ in range(2):
                kitchen.consumer("raw", bytes).get(timeout=DEADLINE).ack()
        orders.send((4, "bun"))
    assert fabric.sent("orders")[2:] == [(3, "pie"), (4, "bun")]
    fabric.restart(shop)
    assert len(fabric.sent("orders")) == 4, "what comes from the spool was sent before"


def test_of_two_fabrics() -> None:
    """Each has its own."""
    with Fabric() as one:
        first = Node("one")
        with Fabric() as other:
            second = Node("other")
            first.producer("orders", int).send(1)
            second.producer("orders", int).send(2)
            assert (one.sent("orders"), other.sent("orders")) == ([1], [2])
            second.consumer("orders", int).get(timeout=DEADLINE).ack()
            other.settled(DEADLINE)
            with pytest.raises(TimedOut):
                one.settled(0.05)
        first.producer("orders", int).send(3)
        assert one.sent("orders") == [1, 3]
    assert "accept_recorded" not in repr(__import__("peerfabric.queue.sender", fromlist=["Sender"]).Sender.accept)


def test_settled_waits_for_what_handlers_send(fabric: Fabric) -> None:
    """A pipeline is settled when its last stage is, however many stages it has."""
    nodes, seen, stages = [Node(f"stage-{number}") for number in range(4)], list[int](), 3
    for number, node in enumerate(nodes[1:]):
        following = node.producer(f"stage-{number + 1}", int) if number < stages - 1 else None

        @node.on_message(f"stage-{number}")
        def step(body: int, message: Message[int], following=following) -> None:  # type: ignore[no-untyped-def]
            if following is not None:
                following.send(body + 1)
            else:
                seen.append(body)

    for node in nodes:
        node.peers()
    first = nodes[0].producer("stage-0", int)
    for round_ in range(20):
        first.send_many([100 * round_, 100 * round_ + 1])
        fabric.settled(DEADLINE)
        assert sorted(seen) == [100 * round_ + 2, 100 * round_ + 3]
        seen.clear()


def test_not_settled_says_what(fabric: Fabric) -> None:
    """Of which queue and whom, and how many consume it."""
    with Node("shop") as shop, Node("kitchen") as kitchen:
        shop.producer("orders", str).send("tea")
        shop.producer("bills", int).send_many([1, 2])
        with kitchen.consumer("bills", int).get(timeout=DEADLINE), pytest.raises(TimedOut) as caught:
            fabric.settled(0)
        assert str(caught.value) == (
            "not settled after 0 s: queue 'orders' has 1 message of shop, 0 consumers; "
            "queue 'bills' has 2 messages of shop, 1 consumer; start a consumer, or see what its handler does"
        )
        kitchen.consumer("orders", str).get(timeout=DEADLINE).ack()
        kitchen.consumer("bills", int).get(timeout=DEADLINE).ack()
        fabric.settled(DEADLINE)


module = Node("module")
orders = module.producer("orders", str)
prices = module.publisher("prices", float)
answers = module.consumer("answers", str)
ask = module.client(PRICE)
cooked: list[str] = []


@module.on_message("orders")
def cook(order: str) -> None:
    cooked.append(order)


@module.on_topic("prices")
def note(price: float) -> None:
    cooked.append(f"{price:g}")


@module.serve(PRICE)
def tell(dish: str) -> float:
    return float(len(dish))


@pytest.mark.parametrize("number", range(2))
def test_node_of_a_module(fabric: Fabric, number: int) -> None:
    """It runs in one test after the other, with all that it was declared with."""
    cooked.clear()
    fabric.restart(module)
    assert module.fabric == fabric.name
    for life in range(3):
        orders.send(f"tea {life}")
        fabric.settled(DEADLINE)
        prices.ready(timeout=DEADLINE)
        prices.publish(life)
        eventually(lambda life=life: cooked == [f"tea {life}", f"{life}"], "both handlers")  # type: ignore[misc]
        assert ask("jam", timeout=DEADLINE) == 3.0
        with Node("other") as other:
            other.producer("answers", str).send("yes")
            answers.get(timeout=DEADLINE).ack()
        cooked.clear()
        if life == 1:
            fabric.kill(module)
        fabric.restart(module)


def test_what_code_under_test_consumed_is_not_consumed_for_ever(fabric: Fabric) -> None:
    """A consumer that was made after the first restart and dropped is not there after the next one."""

    def take() -> str:
        with module.consumer("late", str).get(timeout=DEADLINE) as body:
            return body

    fabric.restart(module)
    held = module.consumer("held", str)
    shop = Node("shop")
    late, kept = shop.producer("late", str), shop.producer("held", str)
    late.send("a")
    assert take() == "a"
    fabric.restart(module)
    kept.send("b")
    with held.get(timeout=DEADLINE) as body:
        assert body == "b"
    late.send("c")
    with pytest.raises(TimedOut, match="queue 'late' has 1 message of shop, 0 consumers"):
        fabric.settled(0.05)


def test_restart_that_loses_something(fabric: Fabric) -> None:
    """It is no restart: the node is closed, and says what is gone."""
    with Node("shop") as shop:
        shop.producer("orders", str).send("tea")
        with pytest.raises(Undelivered):
            fabric.restart(shop, timeout=0)
        with pytest.raises(NodeClosed):
            shop.producer("orders", str)
        fabric.restart(shop)
        shop.producer("orders", str)


def test_a_node_that_was_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would meet whoever is in its own fabric: the test that starts it is told."""
    monkeypatch.setenv("PEERFABRIC_FABRIC", "mine")
    stranger = Node("stranger")
    text = r"'stranger' was started by this test in fabric 'mine'.*restart\(\) first"
    with pytest.warns(UserWarning, match=text), Fabric():
        stranger.peers()
    stranger.close()


def test_kill(fabric: Fabric) -> None:
    """Others take over at once; what only the memory of the killed one had is lost, and what it had in hand is not."""
    started, go_on = threading.Event(), threading.Event()
    with Node("shop") as shop, Node("second") as second:
        first = Node("first")

        @first.on_message("orders")
        def hold(order: str) -> None:
            started.set()
            go_on.wait(DEADLINE)

        first.peers()
        orders = shop.producer("orders", str)
        orders.send("tea")
        assert started.wait(DEADLINE)
        lost = first.producer("lost", int)
        lost.send(1)
        fabric.kill(first)
        with second.consumer("orders", str).get(timeout=DEADLINE) as order:
            assert order == "tea"
        go_on.set()
        fabric.settled(DEADLINE)
        for call in (lambda: lost.send(2), lambda: fabric.kill(first), lambda: fabric.hang(first)):
            with pytest.raises(NodeClosed):
                call()


def test_kill_ends_calls_that_wait(fabric: Fabric) -> None:
    """Whoever waits in a call of the node learns it."""
    shop = Node("shop", spool=fabric.folder / "spool")
    errors: list[Exception] = []

    def wait() -> None:
        for call in (lambda: shop.consumer("nothing", int).get(), lambda: shop.request(PRICE, "x", timeout=None)):
            try:
                call()
            except Exception as error:
                errors.append(error)

    shop.peers()
    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    shop.producer("orders", int).send(1)
    fabric.kill(shop)
    for thread in threads:
        thread.join(DEADLINE)
    assert [type(error) for error in errors] == [NodeClosed] * 4


def test_kill_of_a_spool(fabric: Fabric) -> None:
    """What was accepted is delivered by the next life, and by none before."""
    shop = Node("shop", spool=fabric.folder / "spool")
    orders = shop.producer("orders", int)
    orders.send_many(range(1000))
    fabric.kill(shop)
    with Node("kitchen") as kitchen:
        consumer = kitchen.consumer("orders", int)
        with pytest.raises(TimedOut):
            consumer.get(timeout=0.2)
        fabric.restart(shop)
        orders.send(1000)
        taken = set[int]()
        while len(taken) < 1001:
            with consumer.get(timeout=DEADLINE) as number:
                taken.add(number)
        fabric.settled(DEADLINE)
    assert taken == set(range(1001))


def test_kill_leaves_what_a_killed_process_leaves(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets that refuse, by which others know that it is dead; and a spool that nobody has closed."""
    with Node("shop", spool=fabric.folder / "spool") as shop:
        shop.producer("orders", int).send(1)
        sockets = sorted(fabric.folder.parent.rglob("*.inbox"))
        assert len(sockets) == 1
        monkeypatch.setattr(Spool, "close", lambda spool: pytest.fail("it was closed in order"))
        fabric.kill(shop)
        assert sorted(fabric.folder.parent.rglob("*.inbox")) == sockets
        with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
            caller.connect(str(sockets[0]))


def test_settled_looks_twice(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted while it looked at one node after the other may be at one that it had looked at."""
    with Node("shop") as shop:
        shop.peers()
        counts = iter([1, 2, 2, 3, 3, 3, 4])
        monkeypatch.setattr("peerfabric.testing.fabric._accepted", lambda lifecycle: next(counts))
        fabric.settled(DEADLINE)
        assert list(counts) == [4]


def test_hang(fabric: Fabric) -> None:
    """Nothing gets to it, and it gets rid of nothing, until it is resumed."""
    with Node("shop") as shop, Node("kitchen") as kitchen:
        orders, consumer = shop.producer("orders", int), kitchen.consumer("orders", int)
        orders.send(1)
        consumer.get(timeout=DEADLINE).ack()
        fabric.settled(DEADLINE)
        for hung in (shop, kitchen):
            fabric.hang(hung)
            fabric.hang(hung)
            orders.send(2)
            with pytest.raises(TimedOut):
                consumer.get(timeout=0.1)
            fabric.resume(hung)
            fabric.resume(hung)
            consumer.get(timeout=DEADLINE).ack()
            fabric.settled(DEADLINE)
        fabric.hang(kitchen)
        kitchen.close(0)  # does not wait for it for ever


def test_who_is_no_node(fabric: Fabric) -> None:
    """The error says what to give."""
    with pytest.raises(TypeError, match="give a Node or an AsyncNode"):
        fabric.restart("shop")  # type: ignore[arg-type]
    with pytest.raises(NodeClosed, match="'new' does not run"):
        fabric.kill(Node("new"))
    with pytest.raises(NodeClosed, match="'new' does not run"):
        fabric.hang(AsyncNode("new"))
